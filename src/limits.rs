//! Every bound of the process, each with its reason and where it comes from. A bound that is not here does not exist.

mod events;

use std::time::Duration;

pub use events::*;

pub const KIB: u64 = 1024;
pub const MIB: u64 = 1024 * KIB;

// ---- Dropbox's own rules (API-FACTS 6.1, 17) ----

/// Dropbox hashes content in blocks of this size, and concurrent sessions count in it.
pub const BLOCK_BYTES: usize = 4 * 1024 * 1024;
/// Largest body of one upload request.
pub const DROPBOX_BODY_BYTES_MAX: u64 = 150 * MIB;
/// Largest file through an upload session.
pub const DROPBOX_FILE_BYTES_MAX: u64 = 2_199_019_061_248;
/// Items one deletion, copy or move of a folder may touch. Dropbox: `too_many_files` beyond.
pub const DROPBOX_TREE_ITEMS_MAX: u32 = 10_000;
/// File requests of one account. Dropbox: `rate_limit` beyond.
pub const DROPBOX_FILE_REQUESTS_MAX: u32 = 4000;
/// An upload session lives this long from its start.
pub const UPLOAD_SESSION_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Entries of one listing page Dropbox takes as `limit`.
pub const LIST_LIMIT_MAX: u32 = 2000;

// ---- uploads (API-DESIGN a.4) ----

/// Largest `data` of one upload chunk. The natural first mistake is exactly this, so it works.
pub const CHUNK_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Decode limit of the data service: a chunk of 4 MiB and its frame.
pub const MESSAGE_BYTES_MAX: usize = CHUNK_BYTES_MAX + 64 * 1024;
/// Elements of all repeated fields of one request: the largest that is of use has 1,000. In memory few are larger than 150 bytes.
pub const REQUEST_ELEMENTS_MAX: usize = 4096;
/// The same of a request that holds a `google.protobuf.Value`, whose keys and list items are elements: 1,000 entries of a batch have up
/// to 20 each. An object in memory is some 700 bytes, so all are 23 MiB at most.
pub const REQUEST_VALUES_MAX: usize = 32_768;
/// Bytes of one append when the block budget allows two blocks.
pub const APPEND_BYTES: usize = 2 * BLOCK_BYTES;
/// Bytes of one append of a large file, if the budget has them at hand: each is a call that business accounts are billed for, and
/// at 20 MB/s this is under two seconds.
pub const APPEND_BYTES_MAX: usize = 8 * BLOCK_BYTES;
/// A file is sent in about as many appends as this, once it is so large that they are larger than `APPEND_BYTES`: from 4 GiB on.
pub const APPENDS_OF_A_FILE: u64 = 512;
/// A file up to this size goes out as one `files/upload`.
pub const SINGLE_UPLOAD_BYTES_MAX: u64 = APPEND_BYTES as u64;
/// From this declared size on an upload uses a concurrent session unless `parallel_appends` is 1.
pub const PARALLEL_FROM_BYTES: u64 = 32 * MIB;
/// Appends in flight of one upload by default: with the one being filled that is 12 blocks, 48 MiB.
pub const PARALLEL_APPENDS_DEFAULT: usize = 5;
/// An append that comes along at less than a quarter of the median of its siblings for this long is dropped and sent again on
/// another connection.
pub const SIBLINGS_PATIENCE: Duration = Duration::from_secs(5);
/// How fast one comes along is looked at over this span: one that stands still is under a quarter of what it was after the patience,
/// and one that was slow from its beginning is known to be so when the span is over.
pub const SIBLINGS_WINDOW: Duration = Duration::from_millis(6667);
/// How often they are compared.
pub const SIBLINGS_LOOK: Duration = Duration::from_millis(500);
/// Younger ones tell nothing of how fast they are: what the socket takes at once looks like speed.
pub const SIBLINGS_TELLING: Duration = Duration::from_secs(1);
/// Appends that came through and still say how fast the line is: as many as may be in flight.
pub const SIBLINGS_REMEMBERED: usize = PARALLEL_APPENDS_MAX as usize;
/// The connection of a dropped append is given so long to close before its part goes out again. A TLS one that is stuck closes when
/// what lies in its buffers has left, or 30 s later (the HTTP client's `TCP_USER_TIMEOUT`); it is given no more of the part, so
/// what still arrives ends before its length, which Dropbox does not execute. Nothing is to be waited for where all had left.
pub const CLOSE_TIME: Duration = Duration::from_secs(1);
/// Appends in flight a caller may ask for.
pub const PARALLEL_APPENDS_MAX: u32 = 16;
/// A stream that sends nothing while the server is reading ends after this, resumable.
pub const UPLOAD_IDLE: Duration = Duration::from_secs(60);
/// A stream that resumes an upload which is committed already is answered when nothing came for so long: what its `finish` says is
/// compared first.
pub const COMMITTED_HEARD: Duration = Duration::from_secs(2);
/// The same behind a chunk: the next one may come over a slow line.
pub const COMMITTED_HEARD_ON: Duration = Duration::from_secs(10);
/// The block budget is counted in units of this size.
pub const BUDGET_UNIT_BYTES: usize = 64 * 1024;
/// A smaller block budget would not let one upload fill a part of two blocks beside its admission.
pub const BUDGET_BYTES_MIN: usize = 8 * BLOCK_BYTES;
/// A block that nobody used for this long goes back to the system.
pub const BLOCK_UNUSED: Duration = Duration::from_secs(30);
/// An upload that ends within this size keeps its frames as they came and takes no block.
pub const SMALL_UPLOAD_BYTES: usize = 256 * 1024;
/// More frames than these are joined in a block even if they are small: each costs bookkeeping of its own.
pub const SMALL_UPLOAD_FRAMES: usize = 32;
/// A download whose blocks take longer each is hashed without putting one aside: at that rate the faster hash saves nothing
/// worth 4 MiB.
pub const SLOW_BLOCK: Duration = Duration::from_secs(1);
/// No task hashes more than this without a yield: 150 µs with one lane. The task that moves the bytes hashes them: a thread for it
/// takes 5 to 7 % more CPU and helps only a lone stream on an idle machine (PERFORMANCE rule 2).
pub const HASH_STEP_BYTES: usize = 256 * 1024;
/// While others wait for their first block, an upload must fill at least this much in each `PACE_WINDOW` of the time in
/// which the server was reading; else a hundred dribbling callers stop the process.
pub const PACE_BYTES: u64 = 64 * KIB * 30;
pub const PACE_WINDOW: Duration = Duration::from_secs(30);
/// Whoever follows an upload is woken whenever what has come in passes a multiple of this, and not for every chunk: some are of
/// a few bytes.
pub const PROGRESS_STEP_BYTES: u64 = 64 * KIB;
/// When an upload that was too slow for a full process may come back.
pub const PACE_RETRY: Duration = Duration::from_secs(5);
/// What is in flight when a caller vanishes is settled within this time.
pub const SETTLE_DEADLINE: Duration = Duration::from_secs(10);

// ---- downloads (API-DESIGN a.5) ----

/// Chunk size of a download unless the caller asks for another.
pub const DOWNLOAD_CHUNK_DEFAULT: usize = 256 * 1024;
pub const DOWNLOAD_CHUNK_MIN: usize = 16 * 1024;
pub const DOWNLOAD_CHUNK_MAX: usize = 2 * 1024 * 1024;
/// Ranges read ahead take at most this part of the block budget, over all downloads: uploads find the other half.
pub const AHEAD_SHARE: usize = 2;
/// A caller that has not drained a block in this much time of its own gets no range ahead of it until it does, and loses those
/// it has: it costs what HTTP/2 holds for it and no more.
pub const DRAIN_PATIENCE: Duration = Duration::from_secs(2);
/// Where nobody said how many ranges to read at once, that is thought over after so many bytes each.
pub const OUTRUN_BYTES: u64 = 8 * MIB;
/// More of them only if the caller waited for Dropbox longer than it took itself, and for so long: a line that gives
/// `OUTRUN_BYTES` in less (80 MB/s) is not what holds it up.
pub const OUTRUN_WAIT_MIN: Duration = Duration::from_millis(100);
/// And only if so much is left that it is worth the connection that is dropped for it.
pub const OUTRUN_LEFT_MIN: u64 = 4 * BLOCK_BYTES as u64;
/// Twelve such downloads fill an account's places for bodies, or eight at the moments when all their ranges end.
pub const RANGES_BY_NEED_MAX: usize = 4;
/// Where the last bytes of ranges come, others are asked for so that none waits for its answer: this part of the ranges at most.
/// A range of 4 MiB takes 210 ms at 20 MB/s, so a quarter of them hides answers of 50 ms, and a half such of 100.
pub const EARLY_SHARE: usize = 2;
/// What an open download holds outside the block budget, at most, with chunks of up to `DOWNLOAD_CHUNK_DEFAULT`: what HTTP/2 takes
/// ahead of its caller and the chunk behind that, the next chunk as it is written, and two pieces as the connection to Dropbox
/// gave them, of up to 408 KiB each. One with larger chunks takes more places, so that each stands for no more than this.
pub const DOWNLOAD_HELD_BYTES: usize = 2 * MIB as usize;
/// What HTTP/2 takes of a stream ahead of its caller before it asks for no more: the library's bound.
pub const SEND_AHEAD_BYTES: usize = 400 * 1024;
/// What the process holds beside transfers, connections and watches: code, store, tokens, and what the allocator keeps.
pub const PROCESS_BYTES: usize = 64 * MIB as usize;

/// The process takes no more memory than this with so many places for downloads; the kernel's and that of connections and watches
/// aside. README says it for those who size a machine.
pub const fn memory_ceiling(transfer_buffer_bytes: usize, downloads: usize) -> usize {
    let left_unread = transfer_buffer_bytes / LEFT_SHARE;
    // Ranges ahead are a half of the budget at most; each has what its connection gave it beside its block of 4 MiB.
    let on_connections = transfer_buffer_bytes / 8;
    PROCESS_BYTES + transfer_buffer_bytes + left_unread + on_connections + downloads * DOWNLOAD_HELD_BYTES
}

/// What downloads that nobody reads may hold in HTTP/2, beside those that are open: this part of the block budget. Each holds a
/// chunk and what was taken ahead of it; beyond it one keeps its place.
pub const LEFT_SHARE: usize = 8;
/// A caller that leaves bytes waiting for longer loses its place among its account's bodies to others, unless it is
/// configured otherwise: some 48 of them would else shut everybody out. Long enough that a player's full buffer is no stall.
pub const DOWNLOAD_IDLE: Duration = Duration::from_secs(30);
/// Times a broken body is taken up again before the caller hears of it, and how much must have come since the last break for them to
/// be counted anew: sixteen segments of 64 KiB, which a line of any use carries.
pub const DOWNLOAD_RESUMES_MAX: u32 = 5;
pub const DOWNLOAD_RESUME_BYTES: u64 = 1024 * 1024;

// ---- filters (API-DESIGN a.2) ----

/// Globs of one list of an `ItemFilter`: all are tried on every item.
pub const FILTER_GLOBS_MAX: usize = 32;
pub const FILTER_GLOB_BYTES_MAX: usize = 1024;

// ---- answers ----

/// No unary answer and no stream message is larger: stock clients refuse more than 4 MiB.
pub const ANSWER_BYTES_MAX: usize = 3 * 1024 * 1024;
/// Raw results may be a little larger.
pub const RAW_RESULT_BYTES_MAX: usize = 3 * 1024 * 1024 + 512 * 1024;
/// Items of one `WalkFolder` batch.
pub const WALK_BATCH_ITEMS_MAX: usize = 500;
/// Encoded bytes of one `WalkFolder` batch.
pub const WALK_BATCH_BYTES_MAX: usize = 1024 * 1024;

// ---- plans (API-DESIGN a.10) ----

/// Files and folders at Dropbox of one plan, and as many of its caller's that Dropbox does not have: some 20 MiB in all.
pub const PLAN_ITEMS_MAX: usize = 100_000;
/// Entries of one message: with paths of 2 KiB they stay below `MESSAGE_BYTES_MAX`.
pub const PLAN_ENTRIES_MAX: usize = 1000;
/// Steps of one answer, and its encoded bytes.
pub const PLAN_BATCH_STEPS_MAX: usize = 500;
pub const PLAN_BATCH_BYTES_MAX: usize = 1024 * 1024;
/// What all plans of the process hold together, in units of `PLAN_UNIT_BYTES`: five of the largest.
pub const PLANS_BYTES_MAX: usize = 128 * MIB as usize;
pub const PLAN_UNIT_BYTES: usize = MIB as usize;
/// What a plan holds beside its listing: the window of its stream, a message of entries, the answer to it.
pub const PLAN_OPEN_BYTES: usize = STREAM_WINDOW_BYTES as usize + MESSAGE_BYTES_MAX + PLAN_BATCH_BYTES_MAX;

// ---- the write gate (API-DESIGN a.3) ----

/// A commit with less time than this before its deadline is not sent.
pub const COMMIT_TIME_MIN: Duration = Duration::from_millis(500);
/// Uploads of one `CommitUploads`: half of what Dropbox takes in a batch, so that the answer stays within 3 MiB with the longest
/// paths there are.
pub const COMMITS_MAX: usize = 500;
/// Rows and paths that one such call looks at side by side.
pub const COMMIT_LOOKS: usize = 8;
/// A commit that was sent goes on this long, also when its caller's deadline passes; never for ever, for it holds the gate.
pub const COMMIT_TIME_OWN: Duration = Duration::from_secs(60);
/// Entries of one batch. Dropbox: 1,000.
pub const BATCH_ENTRIES_MAX: usize = 1000;
/// Bodies of one `append_batch`: at 20 MB/s not two seconds, and a repeat of it costs no more. Dropbox: 150 MiB.
pub const BATCH_BYTES_MAX: u64 = 32 * MIB;
/// `append_batch` calls in flight for one group of uploads. The next ones gather meanwhile.
pub const BATCH_CONNECTIONS: usize = 4;
/// A batch of commits takes no longer than this, or the next one of its group is smaller: others wait for it at the gate.
pub const BATCH_TURN: Duration = Duration::from_secs(1);
/// It does not become smaller than this: what takes long then is Dropbox, and not the batch.
pub const BATCH_TURN_ENTRIES_MIN: usize = 100;
/// Uploads that go together are waited for as long as this many answers of Dropbox take, as they took last, and never longer than
/// the maximum; nobody waits where nothing is to be gained.
pub const BATCH_GATHER_ANSWERS: u32 = 4;
pub const BATCH_GATHER_MIN: Duration = Duration::from_millis(20);
pub const BATCH_GATHER_MAX: Duration = Duration::from_secs(1);
/// What an answer is taken to last before there was one.
pub const BATCH_ANSWER_DEFAULT: Duration = Duration::from_millis(150);
/// Uploads have stopped coming when none came for eight times as long as lay between them, and for this long at least: tasks of
/// one machine do not run to the millisecond.
pub const BATCH_SILENCE: u32 = 8;
pub const BATCH_SILENCE_MIN: Duration = Duration::from_millis(5);
/// Callers that were answered together are expected to come again together within an answer's time, but not beyond this.
pub const BATCH_RETURN_MAX: Duration = Duration::from_millis(500);
/// Sessions are made ahead for so many requests like the last ones, so that few of them wait for theirs.
pub const BATCH_SESSIONS_AHEAD: usize = 4;
/// Sessions made ahead for a group, at least: one call makes as many.
pub const BATCH_SESSIONS_MIN: usize = 8;
/// A group that has nothing to do keeps its sessions this long.
pub const BATCH_LINGER: Duration = Duration::from_secs(2);
/// Times an entry is sent again after contention before its caller hears of it: with the back-off that is more than a minute.
pub const BATCH_CONTENTIONS_MAX: u32 = 8;
/// Changes whose batch is a job of Dropbox's go together from so many on: a launch and a look at it, half a second apart, take as
/// long as so many that go one by one.
pub const BATCH_JOB_ENTRIES_MIN: usize = 4;
/// Paths of one batch of changes. A thousand usual ones have a tenth of that; 2,000 of the longest would be 4 MiB of JSON.
pub const BATCH_ARGUMENT_BYTES_MAX: usize = 1024 * 1024;
/// A job that takes longer makes the next one of its group smaller; while others wait at the gate, one that takes longer than
/// `BATCH_TURN`. Its looks alone are two seconds apart.
pub const BATCH_JOB_TURN: Duration = Duration::from_secs(10);
/// A job holds the gate so long; then others go on beside it.
pub const BATCH_JOB_HOLD: Duration = Duration::from_secs(60);
/// The first look at a job comes so long after its launch, each further one after twice as long, up to the second while it holds
/// the gate, up to the third after that (Dropbox advises 0.5 s, then 1, 2, 4 … up to 10–30 s).
pub const BATCH_JOB_LOOK_FIRST: Duration = Duration::from_millis(500);
pub const BATCH_JOB_LOOK_MAX: Duration = Duration::from_secs(2);
pub const BATCH_JOB_LOOK_LATE: Duration = Duration::from_secs(15);
/// No caller waits longer than this for a job.
pub const BATCH_JOB_FOLLOWED_MAX: Duration = DEADLINE_MAX;
/// Those who wait behind a job that goes on without the gate look so often whether it is over; they are told, too.
pub const BATCH_BLOCKED_LOOK: Duration = Duration::from_secs(1);
/// What a lost job may still do is looked for at once and after these pauses: most jobs take seconds.
pub const LOST_JOB_LOOKS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];
/// Idle gates are forgotten when this many are known.
pub const GATES_SWEEP_AT: usize = 4096;
/// A process of a fleet holds the lease of a namespace this long without renewing: what the others wait when it dies.
pub const WRITE_LEASE: Duration = Duration::from_secs(3);
/// Renewed this long before its end, beside what goes on.
pub const WRITE_LEASE_RENEW: Duration = Duration::from_secs(1);
/// It is kept this long behind a write: who writes now and then asks once.
pub const WRITE_LEASE_KEPT: Duration = Duration::from_secs(2);
/// Given to one that waits, it lasts this long: what is lost where that one has died.
pub const WRITE_LEASE_GIVEN: Duration = Duration::from_millis(1500);
/// Of that, what may have passed before it was heard.
pub const WRITE_LEASE_ON_ITS_WAY: Duration = Duration::from_millis(500);
/// Who waits for a lease asks again this often: it may not have heard what was told.
pub const WRITE_LEASE_LOOK: Duration = Duration::from_millis(500);
/// A write goes on without a lease when the store has not answered for this long (API-DESIGN a.3).
pub const WRITE_LEASE_PATIENCE: Duration = Duration::from_millis(50);
/// After a failure of the store it is not asked for a lease again before this.
pub const WRITE_LEASE_WITHOUT: Duration = Duration::from_secs(1);
/// A namespace whose name here is longer has no lease: PostgreSQL takes fewer than 8,000 bytes in a notification. Dropbox's ids
/// have some 40.
pub const WRITE_LEASE_NAME_BYTES_MAX: usize = 512;
/// Leases that somebody has just begun to want, of all namespaces. Beyond them writes go without.
pub const WRITE_LEASES_STARTING_MAX: usize = 1024;
/// Letters about leases that wait to be read; whoever misses one hears of it when it asks again or renews.
pub const WRITE_LETTERS_MAX: usize = 1024;
/// Mounted folders remembered, per process.
pub const MOUNTS_KNOWN_MAX: usize = 10_000;

// ---- answers to a full house ----

/// Delay told with `CONNECTOR_BUSY` and with a break that may be tried again.
pub const BUSY_RETRY: Duration = Duration::from_secs(1);

// ---- upload sessions (HOUSE 5.1) ----

/// Acknowledged pieces are gathered this long into one statement; a SIGKILL loses at most these.
pub const PIECES_GATHER: Duration = Duration::from_millis(50);
/// How often a new writer looks whether the former one has stopped.
pub const RELEASE_POLL: Duration = Duration::from_millis(100);
/// Turns of one append: a repeat after a damaged body, skips after lost acknowledgements.
pub const APPEND_TURNS: u32 = 5;
/// What admission charges an open upload outside blocks: its stream window and one largest message.
pub const UPLOAD_CHARGE_BYTES: usize = STREAM_WINDOW_BYTES as usize + MESSAGE_BYTES_MAX;
/// The same where messages may be compressed: one lies there as it came beside what is in it.
pub const UPLOAD_INFLATED_CHARGE_BYTES: usize = UPLOAD_CHARGE_BYTES + MESSAGE_BYTES_MAX;
/// What an upload may hold that is not let in yet: its stream window fills while nobody reads, and one frame of HTTP/2 may
/// have come along with the first message.
pub const UPLOAD_WAITING_BYTES: usize = STREAM_WINDOW_BYTES as usize + FRAME_BYTES_MAX as usize;
/// A chunk of at least so many bytes goes around the codec: for a smaller one the way round costs what its copy does.
pub const LIFT_BYTES_MIN: usize = 32 * 1024;
/// Pieces of it below this are joined, up to `LIFT_JOIN_BYTES`: each costs some steps of its own further on.
pub const LIFT_JOIN_BELOW: usize = 32 * 1024;
pub const LIFT_JOIN_BYTES: usize = 64 * 1024;
/// The first message of an upload holds a spec or an `upload_id` and a context: ids, paths and hashes, some 20 KiB at most.
/// A larger one is refused before it is collected, so that a stream which has said nothing yet holds no more than this.
pub const FIRST_MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// What a first message compressed with zstd may look back on: 8 MiB, as RFC 8878 asks of every decoder. The memory is
/// reserved and only touched as far as the message goes.
pub const ZSTD_WINDOW_LOG_MAX: u32 = 23;
/// This part of the transfer budget pays for uploads that are not let in yet: 64 MiB by default, which is 1,024 streams that
/// have said nothing yet, or 48 of unknown size. Further ones are told to come back.
pub const WAITING_SHARE: usize = 8;
/// This part of the transfer budget pays for uploads that were answered before they had ended and are read on for a second:
/// 32 MiB by default, which is six of them. Further ones are reset with their answer; nobody waits for this memory.
pub const LEAVING_SHARE: usize = 16;
/// An upload ends itself this long before its caller's deadline, or a tenth of what is left if that is less: its answer says
/// where to go on, and has to arrive.
pub const UPLOAD_END_AHEAD: Duration = Duration::from_millis(200);
/// This long before that end, or a third of what is left if that is less, its parts become single blocks, so that it loses
/// less than 4 MiB: time enough for some appends.
pub const UPLOAD_HURRY_AHEAD: Duration = Duration::from_secs(3);
/// Revisions looked through for a commit whose answer was lost and whose file is no longer the current one.
pub const REVISIONS_LOOKED_AT: u64 = 10;
/// A bearer is renewed in the background from this long before it ends, so that no call waits for it.
pub const BEARER_RENEW_AHEAD: Duration = Duration::from_secs(5 * 60);
/// With less than this left a bearer is not used: the request might arrive too late.
pub const BEARER_LEFT_MIN: Duration = Duration::from_secs(30);
/// How often a process looks for changed application parameters: a change holds everywhere within a second.
pub const CHANGE_FEED_INTERVAL: Duration = Duration::from_millis(500);
/// After this long without reading the change feed, cached parameters may be too old to act on.
pub const CHANGE_FEED_SILENCE_MAX: Duration = Duration::from_secs(5 * 60);
/// Largest sealed handle: it fits a metadata value and a URL.
pub const HANDLE_BYTES_MAX: usize = 4 * 1024;
/// What an import asks of Dropbox ends by then.
pub const IMPORT_DEADLINE: Duration = Duration::from_secs(30);
/// Members of a team whose e-mail address or id was looked up are remembered so long, per application parameter: an address
/// may be given to another member.
pub const MEMBER_LIFE: Duration = Duration::from_secs(10 * 60);
/// Members asked for in one call; a list of 1,000 takes ten.
pub const MEMBERS_ASKED_MAX: usize = 100;
/// Names of members remembered per application parameter; about 200 bytes each.
pub const MEMBER_NAMES_MAX: usize = 10_000;
/// Members of a team whose root namespace is remembered per application parameter.
pub const MEMBER_ROOTS_MAX: usize = 10_000;
/// Application parameters of one `ListApplicationParameters` page.
pub const PARAMETERS_PAGE_MAX: u32 = 200;
/// An authorization that was begun is to be completed within this time.
pub const AUTHORIZATION_LIFE: Duration = Duration::from_secs(10 * 60);
/// Authorizations under way in one store; each is a row of less than 1 KiB.
pub const AUTHORIZATIONS_MAX: i64 = 10_000;
/// A form of the connect page holds an id and a token.
pub const CONNECT_FORM_BYTES_MAX: usize = 4 * 1024;
/// Time for such a form to come.
pub const CONNECT_FORM_TIME: Duration = Duration::from_secs(10);
/// Connections to the public port at once; each serves one request. With one more, one that has not sent a whole request yet
/// is closed; while all have, it waits in the listener's queue.
pub const PUBLIC_CONNECTIONS_MAX: usize = 64;
/// A browser sends the head of its request within this.
pub const PUBLIC_HEAD_TIME: Duration = Duration::from_secs(10);
/// Challenge of a webhook: Dropbox's are some ten characters.
pub const WEBHOOK_CHALLENGE_BYTES_MAX: usize = 1024;
/// Body of a webhook call: 20,000 accounts.
pub const WEBHOOK_BYTES_MAX: usize = 1024 * 1024;
/// Time for that body to come: Dropbox gives up after 10 s.
pub const WEBHOOK_BODY_TIME: Duration = Duration::from_secs(5);
/// The secrets of apps are gathered again after a change or a failure, but not more often than this: it reads every parameter.
pub const WEBHOOK_SECRETS_KEPT: Duration = Duration::from_secs(1);
/// A request to the public port with all it takes: a code exchange and a look at the account, 30 s each.
pub const PUBLIC_CONNECTION_LIFE: Duration = Duration::from_secs(75);
/// Who renews a bearer holds the row this long; longer than the token endpoint's own timeout of 10 s.
pub const RENEWAL_LEASE: Duration = Duration::from_secs(15);
/// A replica that has not written its heartbeat for this long counts as gone.
pub const REPLICA_SILENCE_MAX: Duration = Duration::from_secs(30);
/// An answer is remembered under its request id this long.
pub const REQUEST_ID_LIFE: Duration = Duration::from_secs(15 * 60);
/// Between two attempts to keep an answer that the store did not take, and how many: as long as a database server takes to
/// change over. Whoever repeats the request waits meanwhile.
pub const REQUEST_END_RETRY: Duration = Duration::from_secs(1);
pub const REQUEST_END_REPEATS: usize = 60;
/// A statement waits this long for another process's write before the store counts as not answering.
pub const STORE_BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// A new SQLite file that another process is making is looked at again after this: it takes some milliseconds.
pub const STORE_LOCK_RETRY: Duration = Duration::from_millis(20);
/// Connections that read a SQLite store at once.
pub const STORE_READERS: u32 = 4;
/// Pages that each of them keeps, as SQLite counts it: 64 KiB. What is read often is kept as values, and the machine keeps
/// the file.
pub const STORE_READER_CACHE: &str = "-64";
/// Connections of one process to a PostgreSQL store; with those below and the one that listens 15, so that six processes
/// fit into a server's default of 100.
pub const STORE_SERVER_CONNECTIONS: u32 = 8;
/// More of them, for writes that need not be synced.
pub const STORE_QUICK_CONNECTIONS: u32 = 4;
/// And for leases of namespaces: their answers are waited for no longer than [`WRITE_LEASE_PATIENCE`], so nothing else may be in
/// the way.
pub const STORE_LEASE_CONNECTIONS: u32 = 2;
/// A statement about a lease takes no longer on the server, nor in all: then nobody waits for it any more.
pub const STORE_BRIEF_MAX: Duration = Duration::from_secs(1);
/// Waiting for a connection to a SQLite store takes no longer: two writes that wait for another process.
pub const STORE_ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// Getting a connection to a database server takes no longer: a caller may be waiting for a renewal that can do without.
pub const STORE_CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A database server that takes longer for a statement counts as gone. As long as a statement may take on the server.
pub const STORE_ANSWER_MAX: Duration = Duration::from_secs(10);
/// A transaction whose process has gone silent holds its locks in a database server no longer.
pub const STORE_TRANSACTION_IDLE_MAX: Duration = Duration::from_secs(30);
/// A connection to a database server that has been idle for longer is tried before it is used: the server may have restarted.
pub const STORE_IDLE_TRUST: Duration = Duration::from_secs(1);
/// Between two attempts to listen to a database server for changes.
pub const STORE_LISTEN_AGAIN: Duration = Duration::from_secs(1);
/// Told to callers of an application parameter whose row another version wrote: a replica of that version may take the next
/// call, and this one is about to be replaced.
pub const STORE_UNREADABLE_RETRY: Duration = Duration::from_secs(5);
/// `migrate --check` waits this long for a notification it sent itself.
pub const STORE_NOTIFY_MAX: Duration = Duration::from_secs(5);
/// Rows of one write transaction: other writers wait no longer than some 20 ms.
pub const STORE_WRITE_ROWS_MAX: usize = 2000;
/// Largest `upload_id`: below the general bound, since it also travels in an error's metadata.
pub const UPLOAD_ID_BYTES_MAX: usize = 3 * 1024 + 256;
// ---- dropbox (API-DESIGN d.8, a.11) ----

/// Requests in flight per Dropbox account, shared by the application parameters that use it; more wait their turn.
pub const ACCOUNT_REQUESTS_MAX: usize = 64;
/// Of them, requests that carry content: a quarter stays free for small calls.
pub const ACCOUNT_BODIES_MAX: usize = 48;
/// Places for uploads, downloads and requests are shared: an application parameter that has some gets another while it has less
/// than so many times what is free. One alone gets seven eighths of them, the next one seven eighths of the rest, and so on,
/// until the last place is given to one that has none: of 512, to the fourth.
pub const FAIR_SHARE: usize = 7;
/// A stream that waits because of its parameter's bytes per second looks this often whether they were changed.
pub const RATE_LOOK: Duration = Duration::from_secs(1);
/// A commit that has its turn waits so long for a place among the requests in flight, and one that has a place for its turn;
/// then it gives back what it has. Others wait no longer behind it, and two that each have what the other wants go on.
pub const COMMIT_HOLD: Duration = Duration::from_secs(1);
/// Calls waiting for one account before a further one is told that the connector is busy.
pub const ACCOUNT_QUEUE_MAX: usize = 4096;
/// Accounts whose queues are kept while nobody uses them: little is lost with one, and each is most of a KiB. A pause after a
/// 429 outlives this.
pub const IDLE_ACCOUNTS_MAX: usize = 256;
/// Until a request begins to leave, unless the parameter says otherwise.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// One attempt, unless the parameter says otherwise.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two pieces of an answer, unless the parameter says otherwise.
pub const IDLE_READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Repeats of one call after its first attempt.
pub const REPEATS_MAX: u32 = 5;
/// First step of the back-off that doubles; the wait is a random part of the step.
pub const BACKOFF_STEP: Duration = Duration::from_millis(500);
/// Largest step of the back-off.
pub const BACKOFF_STEP_MAX: Duration = Duration::from_secs(16);
/// A call waits no longer than this before a repeat; what takes longer is the caller's to repeat.
pub const REPEAT_WAIT_MAX: Duration = Duration::from_secs(60);
/// What Dropbox's own clients wait after a 429 that names no time.
pub const RATE_LIMIT_WAIT: Duration = Duration::from_secs(5);
/// Largest JSON answer read. A full listing page with property groups stays below it.
pub const JSON_ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Of the body of a refusal this much is read; the rest is dropped with its connection.
pub const REFUSAL_BYTES_MAX: usize = 32 * 1024;
/// Pieces in which content goes out: large enough to be cheap (each is a system call and a wake-up at the other end),
/// small enough that a line of 20 KB/s is not taken for one that stalls.
pub const SEND_PIECE_BYTES: usize = 1024 * 1024;
/// Idle connections kept per host: as many as one account may use.
pub const IDLE_CONNECTIONS_MAX: usize = 64;
/// Ways out whose HTTP clients are kept: more proxies than one installation knows, few enough to hold.
pub const EGRESS_CLIENTS_MAX: usize = 256;
/// A proxy that let no connection through is asked this long for the reason.
pub const PROXY_ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// Of a proxy's answer this much is read.
pub const PROXY_HEAD_BYTES_MAX: usize = 16 * 1024;
/// One refresh or code exchange, with its repeats.
pub const TOKEN_TIMEOUT: Duration = Duration::from_secs(30);

// ---- telemetry (HOUSE 6) ----

/// Log lines waiting for the writer thread; further ones are dropped and counted.
pub const LOG_LINES_MAX: usize = 8192;
/// A log line is cut here.
pub const LOG_LINE_BYTES_MAX: usize = 16 * 1024;
// ---- credentials and store (API-DESIGN a.2, HOUSE 5.3) ----
// ---- requests (API-DESIGN a.2) ----

/// A look at what became of a write has this long, however late it is: some attempts of one small call.
pub const LOOK_TIME: Duration = Duration::from_secs(10);
/// No call runs longer, whatever it asks for.
pub const DEADLINE_MAX: Duration = Duration::from_secs(15 * 60);
/// Delay told with `SERVER_DRAINING`: by then a balancer has taken the process out.
pub const DRAINING_RETRY: Duration = Duration::from_secs(1);
/// Bytes of a path.
pub const PATH_BYTES_MAX: usize = 2 * 1024;
/// UTF-16 code units of one name in a path (API-FACTS 4.1).
pub const SEGMENT_UNITS_MAX: usize = 255;
/// Strings of a request unless their field says otherwise.
pub const STRING_BYTES_MAX: usize = 4 * 1024;
/// Deadline of a unary call that brings none.
pub const UNARY_DEADLINE_DEFAULT: Duration = Duration::from_secs(120);

// ---- listings (API-DESIGN a.6, a.7) ----

/// Items of a `ListFolder` page unless asked otherwise.
pub const LIST_PAGE_DEFAULT: u32 = 500;
/// Links of a `ListSharedLinks` page; Dropbox chooses its own page size, so this only cuts.
pub const LINKS_PAGE_DEFAULT: u32 = 100;
pub const LINKS_PAGE_MAX: u32 = 1000;
/// Bytes of a url in a request.
pub const URL_BYTES_MAX: usize = 2 * 1024;
/// File extensions of one search.
pub const SEARCH_EXTENSIONS_MAX: usize = 32;
pub const SEARCH_PAGE_DEFAULT: u32 = 100;
/// Dropbox takes no more per page.
pub const SEARCH_PAGE_MAX: u32 = 1000;
/// Dropbox takes no longer query.
pub const SEARCH_QUERY_CHARS_MAX: usize = 1000;
/// A sorted walk keeps its items in memory: about 10 MB.
pub const SORTED_ITEMS_MAX: usize = 10_000;
/// Ranges of one download a caller may ask for.
pub const PARALLEL_RANGES_MAX: u32 = 8;
// ---- HTTP/2 towards callers (API-DESIGN d.2) ----

/// Window of one stream: rate × round trip inside a data centre.
pub const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// Streams of one connection; a thousand small uploads of one channel must reach the gate together.
pub const CONCURRENT_STREAMS_MAX: u32 = 1024;
/// Exceeds what every stalled stream of a connection can hold, or unary calls freeze behind uploads.
pub const CONNECTION_WINDOW_BYTES: u32 = (CONCURRENT_STREAMS_MAX + 16) * STREAM_WINDOW_BYTES;
/// 256 KiB frames halve the cost of receiving (PERFORMANCE rule 6).
pub const FRAME_BYTES_MAX: u32 = 256 * 1024;
pub const HEADER_LIST_BYTES_MAX: u32 = 16 * 1024;
/// Finds connections whose other end is gone.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

// ---- housekeeping ----

/// Between two looks at store, keys and buffers: readiness follows a failure within this time.
pub const HOUSEKEEPING: Duration = Duration::from_secs(5);
/// Between two looks at what a missing sealing key has sealed: they read every application parameter.
pub const MISSING_KEYS_LOOK: Duration = Duration::from_secs(60);
/// Between two sweeps of expired uploads and request ids.
pub const SWEEP: Duration = Duration::from_secs(600);
/// Calls that are named one by one in the log when they are cut at the end; of more only the number is told.
pub const CUT_CALLS_TOLD_MAX: usize = 100;
/// Who has been told all there was on a connection has so long, without a byte from it, to take it and leave: a caller that
/// reads sends windows. A drain waits for it, and drains have 25 s.
pub const FAREWELL_IDLE: Duration = Duration::from_secs(5);
/// And so long in all: what the sockets hold, some 6 MiB, at 20 KiB/s.
pub const FAREWELL_MAX: Duration = Duration::from_secs(300);
/// What connections that were cut get to fall apart, so that nothing of theirs is left at Dropbox.
pub const CUT_GRACE: Duration = Duration::from_secs(1);
/// What probes and metrics get to finish at the end.
pub const SIDE_PORT_GRACE: Duration = Duration::from_secs(1);

// ---- streams with callers ----

/// Least time between two progress messages of a duplex upload.
pub const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);
/// After an early answer the rest of the request is read and dropped, this long or this many messages.
pub const READ_ON: Duration = Duration::from_secs(1);
pub const READ_ON_MESSAGES: usize = 16;
/// A temporary link of Dropbox works this long.
pub const TEMPORARY_LINK_LIFE: Duration = Duration::from_secs(4 * 3600);

// ---- the gRPC face (API-DESIGN d) ----

/// Decode limit of the admin service.
pub const ADMIN_MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// A chunk size that serves well in every client.
pub const CHUNK_BYTES_RECOMMENDED: usize = 1024 * 1024;
/// Application parameters of a page unless asked otherwise.
pub const PARAMETERS_PAGE_DEFAULT: u32 = 50;
/// Bounds of a parameter's timeouts.
pub const TIMEOUT_MIN: Duration = Duration::from_millis(100);
pub const TIMEOUT_MAX: Duration = Duration::from_secs(15 * 60);
/// Without word of changed application parameters for this long the process is not ready: it may serve what was revoked.
pub const CHANGES_UNHEARD_MAX: Duration = Duration::from_secs(30);

// ---- keys and exports (HOUSE 5.3) ----

/// A command that gives the sealing keys is run this often: it may ask a vault, whose answer changes by hand.
pub const KEY_COMMAND_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// Text of a key ring: a thousand keys.
pub const KEY_TEXT_BYTES_MAX: usize = 64 * 1024;
/// Shorter passphrases are guessed by whoever has the file.
pub const PASSPHRASE_CHARS_MIN: usize = 12;
/// What an export may ask for before anything of it is proven: 1 GiB, 16 passes.
pub const PASSPHRASE_COST_KIB_MAX: u32 = 1024 * 1024;
pub const PASSPHRASE_PASSES_MAX: u32 = 16;
/// An export of ten thousand application parameters with long policies.
pub const EXPORT_BYTES_MAX: u64 = 256 * MIB;
// ---- who may call (API-DESIGN a.12) ----

/// A peer says its first word within this, and ends its handshake within this from then on.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes under way on one listener: some 20 KiB each, and more would only wait for a core.
pub const HANDSHAKES_MAX: usize = 256;
/// Of them, those of one address: a client that opens many connections at once is not slowed down, and it takes four hosts to
/// fill the places.
pub const HANDSHAKES_OF_ADDRESS_MAX: usize = 64;
/// Connections of one listener that have said nothing, or wait for a place: a socket each. Beyond, the address with the most
/// loses one.
pub const HANDSHAKES_WAITING_MAX: usize = 1024;
/// Connections that were closed to make room are told of together, this often.
pub const CROWDED_OUT_TOLD: Duration = Duration::from_secs(1);
/// While others wait for a place, a handshake has this long: some round trips of a bad line.
pub const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(2);
/// A file of certificates or a key is far smaller; what is larger was named by mistake.
pub const TLS_FILE_BYTES_MAX: usize = 1024 * 1024;
/// A certificate that ends sooner than this, or than a fifth of its life, is warned of.
pub const CERTIFICATE_WARN_MAX: Duration = Duration::from_secs(14 * 24 * 3600);
/// Between two warnings of one certificate.
pub const CERTIFICATE_WARN_EVERY: Duration = Duration::from_secs(3600);
/// Longest name of a principal: a SPIFFE id has at most 2 KiB, but names go into every log line.
pub const PRINCIPAL_BYTES_MAX: usize = 256;
/// Longest signed token; header lists end at 16 KiB.
pub const SIGNED_TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Signed tokens remembered as good: 1 MiB.
pub const SIGNED_TOKENS_KNOWN_MAX: usize = 10_000;
/// Largest key set.
pub const KEYS_BYTES_MAX: usize = 512 * 1024;
/// Keys of one set.
pub const KEYS_MAX: usize = 100;
/// A key that was withdrawn at the issuer's url opens nothing after this.
pub const KEYS_AGE: Duration = Duration::from_secs(5 * 60);
/// Between two readings because of a key nobody knows: anybody can make up names of keys.
pub const KEYS_REFETCH: Duration = Duration::from_secs(10);
/// Until a key set that could not be read is tried again; told to callers.
pub const KEYS_RETRY: Duration = Duration::from_secs(5);
/// One reading of a key set: callers wait for it.
pub const KEYS_TIMEOUT: Duration = Duration::from_secs(5);
