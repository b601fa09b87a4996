//! The bounds of watches: of what callers may ask, and of what the process holds for them.

use std::time::Duration;

// ---- events towards callers (API-DESIGN a.10) ----

/// Name of a checkpoint.
pub const CHECKPOINT_NAME_BYTES_MAX: usize = 64;
/// Time without a message after which a heartbeat is sent, unless asked otherwise.
pub const HEARTBEAT_DEFAULT: Duration = Duration::from_secs(30);
pub const HEARTBEAT_MIN: Duration = Duration::from_secs(5);
pub const HEARTBEAT_MAX: Duration = Duration::from_secs(300);
/// Each watch has its own part of this beside its interval, so that heartbeats of thousands do not come at once.
pub const HEARTBEAT_SPREAD: f64 = 0.15;
/// Between two looks with `POLL_MODE_INTERVAL`.
pub const POLL_INTERVAL_DEFAULT: Duration = Duration::from_secs(30);
pub const POLL_INTERVAL_MIN: Duration = Duration::from_secs(5);
pub const POLL_INTERVAL_MAX: Duration = Duration::from_secs(3600);
/// Changes of one `PullEvents`.
pub const PULL_EVENTS_DEFAULT: usize = 100;
pub const PULL_EVENTS_MAX: usize = 1000;
/// Below the 60 s that service configs and proxies allow a unary call.
pub const PULL_WAIT_MAX: Duration = Duration::from_secs(50);
/// A pull that need not wait for events waits this long for Dropbox's word that there are none.
pub const PULL_LOOK_MAX: Duration = Duration::from_secs(20);
/// Bytes of a watched folder's path: it is in every token, as Dropbox's cursor is, which may hold it again, and what waits to settle.
pub const WATCH_PATH_MAX: usize = 800;
/// Between two looks at whether a pull has caught up.
pub const PULL_LOOK_EVERY: Duration = Duration::from_millis(20);
/// Longest time for which events of a path are gathered.
pub const SETTLE_MAX: Duration = Duration::from_secs(60);
/// Paths with gathered events of one watch: about 2 MiB. The oldest is told before its time when there are more.
pub const SETTLE_PATHS_MAX: usize = 1024;
/// Runs of numbers that a token names as not told yet, five bytes each at most. The oldest event is told before its time when
/// there are more.
pub const SETTLE_RUNS_MAX: usize = 128;
/// A path that goes on changing is told after so many times the span that is asked for.
pub const SETTLE_SPANS_MAX: u32 = 10;
/// One message of a snapshot.
pub const SNAPSHOT_BYTES_MAX: usize = 1024 * 1024;
/// Ages of watches differ by this part either way, so that they do not all come again at once.
pub const STREAM_AGE_SPREAD: f64 = 0.2;
/// Buffer of one watch: as good as none, for it is kept as long as the watch lives. Each message makes one of its own size.
pub const WATCH_BUFFER_BYTES: usize = 64;
/// Watches of a process that are being opened at once, shared by their parameters: each takes some 10 KiB more until it is
/// open, and ten thousand come back together when a process has ended. Whoever waits holds its request alone.
pub const WATCHES_OPENING_MAX: usize = 128;
/// Events that are ready together are sent together up to this, as tonic does by default.
pub const WATCH_YIELD_BYTES: usize = 32 * 1024;
/// The HTTP/2 library gathers frames of less than 1 KiB and writes them by the dozen, those of all watches of a connection
/// together; each larger one is a write of its own.
pub const FRAME_GATHERED_BYTES: usize = 1023;
/// An event and the end of its batch, or a few of them, are cut into such frames; what is more than this is worth a write.
pub const FRAMES_GATHERED_BYTES_MAX: usize = 4 * 1024;
/// What a connection holds to write it at once: two buffers of the HTTP/2 library, each of 16 KiB.
pub const WRITE_HELD_BYTES: usize = 32 * 1024;
/// A watch that has a deadline ends so long before it, so that its last message arrives.
pub const WATCH_END_AHEAD: Duration = Duration::from_secs(1);

// ---- events (API-DESIGN a.10, HOUSE 5.2) ----

/// Entries a scope's log keeps in the store, and how long: some 100 MiB of the busiest folder.
pub const EVENT_LOG_ROWS: i64 = 100_000;
pub const EVENT_LOG_AGE: Duration = Duration::from_secs(24 * 3600);
/// Entries of a scope kept in memory: what the watchers that keep up read.
pub const EVENT_TAIL_ENTRIES: usize = 256;
pub const EVENT_TAIL_BYTES: usize = 1024 * 1024;
/// Of all scopes of the process together, with the chunks and pages that were read for those who do not keep up.
pub const EVENT_TAILS_BYTES: usize = 64 * 1024 * 1024;
/// Entries read from the store at once, for those who do not keep up.
pub const EVENT_CHUNK: usize = 256;
/// Chunks of a scope remembered: a thousand slow watchers at few places cost few reads.
pub const EVENT_CHUNKS_KEPT: usize = 4;
/// What was read for one watcher is kept this long for the others: they come within moments or not at all.
pub const EVENT_SHELF_AGE: Duration = Duration::from_secs(30);
/// A process that polls a scope holds it this long without renewing: what a fleet loses when a process dies.
pub const EVENT_LEASE: Duration = Duration::from_secs(10);
/// Renewed this often: three times within its life.
pub const EVENT_LEASE_RENEW: Duration = Duration::from_secs(3);
/// A stream that holds a checkpoint's name looks this often whether another took it over, and one that reads Dropbox by
/// itself whether it has met the log.
pub const EVENT_FOLLOW: Duration = Duration::from_secs(1);
/// Where Dropbox was asked so short a time ago the end of the log is where it is now: many who begin to watch a folder one after
/// the other are one question a second.
pub const EVENT_NOW_AGE: Duration = Duration::from_secs(1);
/// A webhook call that reached a process which does not poll the folder is left to the one that does for so long; then that
/// one is taken to be dead. Far above what a notification takes, below the second within which a change is to be told.
pub const EVENT_RING_GRACE: Duration = Duration::from_millis(500);
/// Folders that one drain moved are remembered by their paths, so many: it is looked whether anything leaves one of them in the
/// same drain. Behind more of them whatever leaves any place counts.
pub const DRAIN_MOVES_MAX: usize = 32;
/// Between two letters to the other processes: what happens meanwhile goes out as one.
pub const EVENT_LETTERS_EVERY: Duration = Duration::from_millis(50);
/// PostgreSQL takes fewer than 8,000 bytes in a notification.
pub const EVENT_LETTER_BYTES_MAX: usize = 7_800;
/// Letters of others that wait to be read; whoever misses one looks at every folder it follows.
pub const EVENT_LETTERS_MAX: usize = 256;
/// Accounts named by webhook calls of one such interval; with more, everybody looks.
pub const EVENT_RUNG_MAX: usize = 10_000;
/// Dropbox's names of accounts have 40; what is longer names none.
pub const EVENT_RUNG_NAME_BYTES_MAX: usize = 128;
/// A scope nobody watches keeps its index and cursor this long.
pub const SCOPE_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Of a scope that was swept it is known this long which of its tokens must not be led on by their cursor: some 100 bytes each.
pub const SCOPE_PAST_KEPT: Duration = Duration::from_secs(365 * 24 * 3600);
/// A checkpoint nobody uses is kept this long.
pub const CHECKPOINT_KEPT: Duration = Duration::from_secs(90 * 24 * 3600);
/// Items of one snapshot message (API-DESIGN a.10).
pub const SNAPSHOT_ITEMS_MAX: u32 = 500;
/// Entries of one transaction at the end of a drain.
pub const EVENT_SLICE: usize = 2000;
/// Items of a folder that was moved or deleted, read and made into entries at once: some 512 KiB, held while a watcher is at
/// them.
pub const EXPAND_PORTION: usize = 500;
/// Folders in each other: a path has at most some 4,096 characters, a name one at least.
pub const INDEX_DEPTH_MAX: usize = 4096;
/// Drains of a new index between whose pages the log is looked at; the next one is left alone until it is over, else it might
/// never get past the log.
pub const INDEX_ROUNDS_MAX: u32 = 8;
/// While an index is built, what changed meanwhile is looked at this often: watchers do not wait for the index.
pub const INDEX_LOOK_EVERY: Duration = Duration::from_secs(1);
/// Of one page without an index, files whose revisions are asked for to tell new from changed; one call each.
pub const INFERRED_LOOKS_MAX: usize = 20;
/// How long Dropbox is asked to wait for news; 30 to 480 s. With what Dropbox adds it stays below what proxies allow.
pub const LONGPOLL_WAIT: Duration = Duration::from_secs(120);
/// Dropbox adds up to so much to it, so that not all come back at once (API-FACTS 5.3).
pub const LONGPOLL_JITTER_MAX: Duration = Duration::from_secs(90);
/// And its answer takes its way.
pub const LONGPOLL_MARGIN: Duration = Duration::from_secs(15);
/// Longpolls of one process at once; each holds a connection. Further scopes are asked in turn.
pub const LONGPOLLS_MAX: usize = 1000;
/// Between two looks at a scope that has no longpoll.
pub const POLL_TURN: Duration = Duration::from_secs(30);
/// Scopes of one process that ask Dropbox or write at once; those of one application parameter leave an eighth to others.
pub const FEEDS_AT_WORK_MAX: usize = 256;
/// With webhooks a scope is asked by itself only this often, give or take a fifth: the net under lost notifications.
pub const SAFETY_POLL: Duration = Duration::from_secs(10 * 60);
/// An index is built on for so long after its last watcher left, for whoever pulls comes back. What there is of it by then is
/// kept, and goes on with the next pull: a folder that nobody comes back to costs no more than that.
pub const INDEX_UNWATCHED: Duration = Duration::from_secs(10 * 60);
/// So many of one process at once: half of the feeds that may begin at once are left to those that somebody waits for.
pub const INDEXES_UNWATCHED_MAX: usize = 32;
/// A feed whose last watcher left stays this long: most come back.
pub const FEED_LINGER: Duration = Duration::from_secs(30);
/// Begins of feeds are spread: behind the first ones there is one in this time, 5 minutes for 10,000.
pub const FEED_SPREAD: Duration = Duration::from_millis(30);
/// While a page of a large index is written down Dropbox makes the next one: so many wait in the process, of 2,000 items each.
pub const INDEX_PAGES_AHEAD: usize = 8;
/// So many begin without waiting, and so many are beginning at once; of these, too, one application parameter leaves an eighth.
pub const FEEDS_AT_ONCE: usize = 64;
/// A call that was followed by nothing new makes the next one wait so long. Where calls come oftener than that, it is doubled
/// with each more up to the second, for each watched folder of the account, and to the third at most: a thousand calls a second
/// about other folders are a few questions, and yet an account's only watched folder is told of within a tenth of a second.
pub const RING_GAP: Duration = Duration::from_millis(50);
pub const RING_GAP_MAX: Duration = Duration::from_millis(80);
pub const RING_GAP_CROWD_MAX: Duration = Duration::from_millis(500);
/// Between two attempts after a failure that passes, doubled up to the second.
pub const FEED_RETRY: Duration = Duration::from_secs(1);
pub const FEED_RETRY_MAX: Duration = Duration::from_secs(60);
/// Watched folders whose lag is a series of its own: the worst ones say what is wrong, and a scrape stays small.
pub const WATCH_LAGGARDS_MAX: usize = 100;
/// A folder that is behind by less is at work, or waits a moment for its turn.
pub const WATCH_LAG_TOLD: Duration = Duration::from_secs(5);
