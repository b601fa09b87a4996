//! Uploads: open or resume, choose how the parts travel, commit once, prove it by hash.
//! A small file is one request; anything larger has a session, a row in the store and a sealed `upload_id`, so that it
//! survives its caller, its connection and its server. Nothing is committed that is not what the caller said.

mod admission;
mod ahead;
mod commit;
mod commits;
mod finish;
mod group;
mod hold;
mod lane;
mod pieces;
mod ready;
mod record;
mod room;
mod run;
mod siblings;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use dropbox_sdk::files::{
    FileMetadata, UploadSessionAppendArg, UploadSessionCursor, UploadSessionStartArg, UploadSessionType,
};
use futures::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    admission::Entrance,
    commit::{Whole, outcome_unknown},
    commits::Queues,
    group::Groups,
    hold::UnderWay,
    record::{Begun, Handle, Ready, Record, Stage, Standing, intended_spec, not_found},
    run::{Resumed, Run},
};
pub use self::{
    admission::{Arrival, Leaving},
    commits::{Commit, Terms},
    room::{Budget, Room},
};
use super::{
    blocks::Blocks,
    content_hash::{BlockDigest, ContentHash},
    gate::Gates,
    parts::Frame,
};
use crate::{
    clock::{SharedClock, at},
    dropbox::{Caller, routes},
    fault::{Fault, Reason, Result},
    limits,
    seal::Owner,
    store::{NewUpload, Store, UploadState},
};

/// Who the upload is for.
#[derive(Debug, Clone, Copy)]
pub struct Account<'a> {
    pub owner: Owner<'a>,
    /// The application parameter's id: uploads take turns by it.
    pub parameter: &'a str,
    /// `max_file_size` of the parameter's policy.
    pub max_file_size: Option<u64>,
}

/// What is to be written where, with the path as Dropbox takes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadSpec {
    pub path: String,
    pub mode: Mode,
    pub autorename: bool,
    pub strict_conflict: bool,
    pub mute: bool,
    /// As Dropbox writes times.
    pub client_modified: Option<String>,
    pub total_size: Option<u64>,
    /// Lower-case hex.
    pub content_hash: Option<String>,
    /// 0: decided here.
    pub parallel_appends: u32,
    /// The stream's end brings the bytes to Dropbox and commits nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deferred: bool,
}

/// What to do with a file that is at the path already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    Add,
    Overwrite,
    /// Only if this revision is the current one.
    Update(String),
}

/// How a stream begins.
#[derive(Debug)]
pub enum Opening {
    /// `context`: opaque to the engine, given back by [`Uploads::peek`].
    New { spec: UploadSpec, context: Vec<u8> },
    /// A sealed `upload_id`.
    Resume(String),
}

/// How a stream ended well.
#[derive(Debug)]
pub enum Outcome {
    Committed {
        settled: Box<Settled>,
        upload_id: Option<String>,
    },
    /// Half-closed without `finish`: nothing is committed.
    Open {
        upload_id: String,
        persisted: u64,
    },
    /// Every byte is there and only the commit is missing.
    Ready {
        upload_id: String,
        size: u64,
        content_hash: Option<ContentHash>,
    },
}

/// A committed file and the proof.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Settled {
    pub file: FileMetadata,
    /// The server's own hash where it saw or knows every block, else Dropbox's.
    pub content_hash: Option<String>,
    /// Both are known and equal.
    pub verified: bool,
}

/// How far a stream is; only the newest is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Set once the upload has a session.
    pub upload_id: Option<String>,
    /// The stream was admitted, and resumed where it should go on.
    pub accepted: bool,
    pub received: u64,
    /// Acknowledged by Dropbox; where a resume may start.
    pub persisted: u64,
}

/// An upload made ahead of its bytes.
#[derive(Debug)]
pub struct Started {
    pub upload_id: String,
    pub expires_at: SystemTime,
}

/// Where an upload stands.
#[derive(Debug)]
pub struct Status {
    pub state: State,
    pub persisted: u64,
    pub expires_at: SystemTime,
    pub file: Option<FileMetadata>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Open,
    /// Every byte is there, the commit is not.
    Ready,
    Committed,
}

/// What the process allows uploads.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub append_bytes: usize,
    pub open_max: usize,
    /// What streams may hold that are not let in yet, beside the budget of blocks.
    pub waiting_bytes: usize,
    /// What streams may hold that were answered early, beside both.
    pub leaving_bytes: usize,
    pub idle: Duration,
}

/// The inside of a sealed `upload_id` that the service checks anew at every use.
#[derive(Debug)]
pub struct Peek {
    pub path: String,
    pub context: Vec<u8>,
}

/// Runs uploads. A clone is the same.
#[derive(Clone)]
pub struct Uploads(Arc<Shared>);

struct Shared {
    blocks: Blocks,
    gates: Arc<Gates>,
    store: Store,
    clock: SharedClock,
    settings: Settings,
    entrance: Entrance,
    commits: UnderWay,
    groups: Groups,
    queues: Queues,
    /// Streams that write now, by row: a second one ends the first.
    active: Mutex<HashMap<String, CancellationToken>>,
    tasks: TaskTracker,
    draining: CancellationToken,
}

impl fmt::Debug for Uploads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uploads").field("settings", &self.0.settings).finish_non_exhaustive()
    }
}

impl Uploads {
    pub fn new(blocks: Blocks, gates: Arc<Gates>, store: Store, clock: SharedClock, settings: Settings) -> Uploads {
        Uploads(Arc::new(Shared {
            entrance: Entrance::new(blocks.clone(), settings.open_max, settings.waiting_bytes, settings.leaving_bytes),
            blocks,
            gates,
            store,
            clock,
            settings,
            commits: UnderWay::default(),
            groups: Groups::default(),
            queues: Queues::default(),
            active: Mutex::default(),
            tasks: TaskTracker::new(),
            draining: CancellationToken::new(),
        }))
    }

    /// Open streams flush whole blocks and end resumable. Returns when nothing is in flight any more.
    pub async fn drain(&self) {
        self.0.draining.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// A place for a stream that has said nothing yet. It pays for what it may hold until [`Uploads::run`] lets it in.
    /// `inflates`: its messages may be compressed.
    ///
    /// # Errors
    /// `CONNECTOR_BUSY`.
    pub fn arrive(&self, inflates: bool) -> Result<Arrival> {
        self.0.entrance.arrive(inflates)
    }

    /// Its first message is read: it is let in, or has a place to wait.
    ///
    /// # Errors
    /// `CONNECTOR_BUSY`.
    pub fn announce(&self, parameter: &str, arrival: Arrival, size: Option<u64>) -> Result<Arrival> {
        self.0.entrance.announce(parameter, arrival, size)
    }

    /// The stream turned out to be of this parameter.
    pub fn rebook(&self, arrival: &mut Arrival, parameter: &str) {
        Entrance::rebook(arrival, parameter);
    }

    /// The memory of a stream that was answered early and is read on for a moment; `None`: there is none to spare.
    pub fn leave(&self, inflates: bool) -> Option<Leaving> {
        self.0.entrance.leave(inflates)
    }

    /// Bytes that streams are charged which are not let in yet.
    pub fn waiting_bytes(&self) -> usize {
        self.0.entrance.waiting_bytes()
    }

    /// Ends when a stream that still says nothing is to be given up, and says why.
    pub async fn unheard(&self, deadline: Option<Instant>) -> Fault {
        tokio::select! {
            () = self.0.draining.cancelled() => draining(),
            () = at(end_ahead(deadline)) => overdue(false),
            () = self.0.clock.sleep(self.0.settings.idle) => silent(self.0.settings.idle),
        }
    }

    /// What an `upload_id` is about, before it is used.
    ///
    /// # Errors
    /// `HANDLE_MALFORMED`, `HANDLE_NOT_YOURS`, `HANDLE_KEY_RETIRED`, `UPLOAD_NOT_FOUND`.
    pub fn peek(&self, owner: &Owner<'_>, upload_id: &str) -> Result<Peek> {
        let handle = self.0.open_handle(owner, upload_id)?;
        Ok(Peek { path: handle.spec.path, context: handle.context })
    }

    /// Makes a session ahead of the bytes: a concurrent one where parallel appends will be used.
    pub async fn start(
        &self,
        caller: &Caller,
        account: &Account<'_>,
        spec: UploadSpec,
        context: Vec<u8>,
    ) -> Result<Started> {
        let parallel =
            spec.parallel_appends != 1 && spec.total_size.is_some_and(|size| size >= limits::PARALLEL_FROM_BYTES);
        let record = self.0.open_session(caller, account, spec, context, parallel).await?;
        self.0.release(&record).await;
        Ok(Started { upload_id: record.upload_id, expires_at: record.handle.expires_at() })
    }

    /// Where an upload stands, from the store or, for an ordered session without a row, from Dropbox.
    ///
    /// # Errors
    /// `UPLOAD_NOT_FOUND`, `OUTCOME_UNKNOWN` after a torn commit that no look can settle, `CONTENT_HASH_MISMATCH` after one that
    /// gave another file, handle and common reasons.
    pub async fn status(&self, caller: &Caller, account: &Account<'_>, upload_id: &str) -> Result<Status> {
        let handle = self.0.open_handle(&account.owner, upload_id)?;
        let expires_at = handle.expires_at();
        let status = |state, persisted, file| Ok(Status { state, persisted, expires_at, file });
        let standing = self.0.standing_of(caller, &handle, upload_id).await?;
        match standing {
            Standing::Committed(settled) => {
                let file = settled.proven()?.file;
                status(State::Committed, file.size, Some(file))
            }
            Standing::Open(begun) => status(State::Open, begun.prefix, None),
            Standing::Ready(ready) => {
                let looked = match &ready.tried {
                    Some(tried) => {
                        let whole = ready.whole(&handle.spec);
                        self.0.look(caller, tried, whole, handle.begun_at()).await.unwrap_or_default()
                    }
                    None => None,
                };
                match looked {
                    Some(settled) => status(State::Committed, ready.size, Some(settled.file)),
                    None => status(State::Ready, ready.size, None),
                }
            }
        }
    }

    /// One stream of an upload, from its opening to its end.
    ///
    /// Cancel-safe: the lane is a task of its own. If this future is dropped, what is in flight is settled and written down
    /// within 10 s; lost is the part being filled.
    ///
    /// # Errors
    /// The upload rows of the error table. Where the upload can be resumed the fault carries `uploadId` and
    /// `persistedOffset`.
    ///
    /// `finish_ends_stream`: the caller half-closes behind `finish`, so a frame behind it is always found.
    #[expect(clippy::too_many_arguments, reason = "one call site; a struct of them would only be taken apart again")]
    pub async fn run<S>(
        &self,
        caller: &Caller,
        account: &Account<'_>,
        opening: Opening,
        arrival: Arrival,
        frames: S,
        progress: watch::Sender<Progress>,
        finish_ends_stream: bool,
    ) -> Result<Outcome>
    where
        S: Stream<Item = Result<Frame>> + Send + Unpin,
    {
        let shared = &self.0;
        // Ahead of the caller's deadline, so that the answer, which says where to go on, still arrives.
        let end = end_ahead(caller.deadline());
        let caller = &caller.with_deadline(end);
        let _admitted = tokio::select! {
            biased;
            admitted = shared.entrance.admit(account.parameter, arrival) => admitted?,
            () = shared.draining.cancelled() => return Err(draining()),
            () = at(end) => return Err(overdue(false)),
        };
        // A drain looks like a caller that half-closes: whole blocks go out, the rest is dropped.
        let frames = frames.take_until(Box::pin(shared.draining.clone().cancelled_owned()));
        let mut run = match opening {
            Opening::New { spec, context } => Run::begin(shared, caller, account, spec, context, progress).in_company(),
            Opening::Resume(upload_id) => {
                let resumed = tokio::select! {
                    biased;
                    resumed = Run::resume(shared, caller, account, &upload_id, progress.clone()) => resumed?,
                    () = at(end) => return Err(overdue(false)),
                };
                match resumed {
                    Resumed::Stream(run) => *run,
                    Resumed::Closed(closed) => {
                        progress.send_modify(|progress| *progress = closed_at(&upload_id, closed.whole.size));
                        return shared.only_finish(caller, account, closed, frames).await;
                    }
                    Resumed::Done(settled) => {
                        progress.send_modify(|progress| *progress = closed_at(&upload_id, settled.file.size));
                        let settled = Box::new(shared.only_compare(caller, *settled, frames).await?);
                        return Ok(Outcome::Committed { settled, upload_id: Some(upload_id) });
                    }
                }
            }
        };
        run.finish_ends_stream = finish_ends_stream;
        let outcome = tokio::select! {
            biased;
            outcome = run.stream(frames) => Some(outcome),
            () = at(end) => None,
        };
        // What is in flight settles in the lane's own task, and a commit that was sent in its own.
        outcome.unwrap_or_else(|| Err(overdue(run.sent.is_sent()))).map_err(|fault| run.positioned(fault))
    }
}

/// When an upload ends itself, for a caller's deadline.
fn end_ahead(deadline: Option<Instant>) -> Option<Instant> {
    deadline.map(|deadline| {
        let left = deadline.saturating_duration_since(Instant::now());
        deadline - limits::UPLOAD_END_AHEAD.min(left / 10)
    })
}

/// `sent`: the commit was, and may happen. Otherwise the upload goes on where it stands.
fn overdue(sent: bool) -> Fault {
    let fault =
        Fault::new(Reason::DeadlineExceeded, "the deadline passed in the middle of the upload").fact("sent", sent);
    if sent { fault } else { fault.retry_after(Duration::ZERO) }
}

fn draining() -> Fault {
    Fault::new(Reason::ServerDraining, "the server is going down; resume the upload elsewhere")
        .retry_after(limits::DRAINING_RETRY)
}

fn silent(idle: Duration) -> Fault {
    Fault::new(Reason::UploadIdle, format!("nothing came for {} s", idle.as_secs())).retry_after(Duration::ZERO)
}

/// A stream's place as the writer of its upload. What is dropped is swept from the map of writers.
#[derive(Debug, Default)]
struct Writing(CancellationToken);

impl Writing {
    /// Ends when another stream takes the upload over.
    fn taken_over(&self) -> impl Future<Output = ()> + Send + 'static {
        self.0.clone().cancelled_owned()
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Shared {
    /// A session at Dropbox, its row and its handle.
    async fn open_session(
        &self,
        caller: &Caller,
        account: &Account<'_>,
        spec: UploadSpec,
        context: Vec<u8>,
        parallel: bool,
    ) -> Result<Record> {
        // Before the session is made: it never ends before its handle does.
        let expires_at = self.clock.now() + limits::UPLOAD_SESSION_LIFE;
        let mut arg = UploadSessionStartArg::default();
        arg.session_type = Some(if parallel { UploadSessionType::Concurrent } else { UploadSessionType::Sequential });
        let session = caller.upload(&routes::UPLOAD_SESSION_START, &arg, &[]).await?.value.session_id;
        self.keep_session(account, session, parallel, expires_at, spec, context).await
    }

    /// The row and the handle of a session.
    async fn keep_session(
        &self,
        account: &Account<'_>,
        session: String,
        parallel: bool,
        expires_at: SystemTime,
        spec: UploadSpec,
        context: Vec<u8>,
    ) -> Result<Record> {
        let terms = spec.encoded()?;
        let new = NewUpload {
            owner_uid: account.owner.uid,
            session: Some(&session),
            lane: if parallel { "parallel" } else { "ordered" },
            spec: &terms,
            expires_at,
        };
        // Without its row a parallel upload could not be resumed, and an ordered one not verified before its commit.
        let row = self.store.create_upload(new).await?;
        let expires = expires_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let handle = Handle { id: row.id, session, parallel, expires, spec, context, stage: Stage::Open };
        let upload_id = handle.seal(self, &account.owner)?;
        Ok(Record { handle, upload_id, writer: row.writer, stored: true, intended: false })
    }

    /// Ends the stream that writes to this upload in this process, and takes its place.
    fn take_over(&self, id: &str) -> Writing {
        let token = CancellationToken::new();
        let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        if active.len() >= self.settings.open_max * 2 {
            active.retain(|_, token| !token.is_cancelled());
        }
        if let Some(former) = active.insert(id.to_owned(), token.clone()) {
            former.cancel();
        }
        Writing(token)
    }

    async fn release(&self, record: &Record) {
        if record.stored
            && let Err(fault) = self.store.release_upload(&record.handle.id, record.writer, false).await
        {
            tracing::warn!(%fault, "an upload could not be released; a resume waits for it");
        }
    }

    /// Where an upload stands that nobody here writes to now.
    async fn standing_of(&self, caller: &Caller, handle: &Handle, upload_id: &str) -> Result<Standing> {
        self.commits.ended(&handle.id).await;
        let row = match self.store.upload(&handle.id).await? {
            Some(row) => row,
            None => match handle.ready() {
                Some(ready) => return Ok(ready),
                None if handle.parallel => return Err(not_found(upload_id, "pieces_lost")),
                None => return self.probe(caller, handle, upload_id).await,
            },
        };
        if row.state != UploadState::Committing || !intended_spec(&row)?.may_write_twice() {
            return self.standing(&row, handle).await;
        }
        // No look tells what came of this commit; only its writer may still say so.
        self.stopped(&handle.id, row.writer).await;
        match self.store.upload(&handle.id).await? {
            Some(row) if row.state != UploadState::Committing => self.standing(&row, handle).await,
            _ => Err(outcome_unknown()),
        }
    }

    /// Asks Dropbox how far an ordered session is: an empty append at 0 is refused with the offset that would be right.
    async fn probe(&self, caller: &Caller, handle: &Handle, upload_id: &str) -> Result<Standing> {
        let arg = UploadSessionAppendArg::new(UploadSessionCursor::new(handle.session.clone(), 0));
        let fault = match caller.upload(&routes::UPLOAD_SESSION_APPEND, &arg, &[]).await {
            Ok(_) => return Ok(Standing::Open(Begun::rowless(0))),
            Err(fault) => fault,
        };
        let whole_blocks = |offset: u64| offset - offset % limits::BLOCK_BYTES as u64;
        match (fault.reason(), fault.get("correctOffset").and_then(|offset| offset.parse().ok())) {
            (_, Some(offset)) => Ok(Standing::Open(Begun::rowless(whole_blocks(offset)))),
            (Reason::UploadClosed, None) => match handle.spec.total_size {
                Some(size) => {
                    let tried = Some(Box::new(handle.spec.clone()));
                    Ok(Standing::Ready(Ready { size, digests: None, gap: None, tried, disputed: false }))
                }
                None => Err(not_found(upload_id, "size_unknown")),
            },
            (Reason::UploadNotFound, _) => {
                let whole = whole_of(&handle.spec, handle.spec.total_size.unwrap_or_default(), None);
                match self.look(caller, &handle.spec, whole, handle.begun_at()).await {
                    Ok(Some(settled)) => Ok(Standing::Committed(Box::new(settled))),
                    // A later look may find it; who cannot look at all is told that the session is gone.
                    Err(fault) if fault.retry_delay().is_some() => Err(fault),
                    Ok(None) | Err(_) => Err(not_found(upload_id, "expired")),
                }
            }
            _ => Err(fault),
        }
    }
}

/// Nothing is missing but `finish`.
fn closed_at(upload_id: &str, size: u64) -> Progress {
    Progress { upload_id: Some(upload_id.to_owned()), accepted: true, received: size, persisted: size }
}

fn whole_of(spec: &UploadSpec, size: u64, digests: Option<&[BlockDigest]>) -> Whole {
    let expected = spec.content_hash.as_deref().and_then(|hash| hash.parse().ok());
    Whole { size, hash: digests.map(ContentHash::of_digests), expected }
}
