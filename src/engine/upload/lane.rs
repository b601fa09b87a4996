//! How the parts of an upload with a session travel: one after another into an ordered session, several at once into a
//! parallel one. A lane is a task of its own, so that what is in flight is settled and written down even when the caller
//! has gone; the part being filled is what a vanished caller loses.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use dropbox_sdk::files::{UploadSessionAppendArg, UploadSessionCursor};
use smallvec::SmallVec;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::{JoinHandle, JoinSet},
};

use super::{Progress, Shared, pieces::Pieces};
use crate::{
    dropbox::{Caller, routes},
    engine::{
        content_hash::{BlockDigest, ContentHasher},
        parts::Part,
    },
    fault::{Fault, Reason, Result},
    limits,
    store::Piece,
};

/// The end of a lane that a stream pushes parts into. Dropping it lets the lane settle by itself.
pub(super) struct Lane {
    commands: mpsc::Sender<Command>,
    /// Bounds what is in flight and the one part being filled; so the channel always has a place.
    pub(super) room: Arc<Semaphore>,
    task: JoinHandle<Result<u64>>,
}

/// What a lane is about.
pub(super) struct Plan {
    pub id: String,
    pub writer: i64,
    /// Whether pieces are written to the store.
    pub stored: bool,
    pub session: String,
    pub parallel: bool,
    /// Appends in flight.
    pub width: usize,
    /// Where it starts; what lies behind a gap there.
    pub prefix: u64,
    pub beyond: Vec<Piece>,
    /// The session was written to before this stream.
    pub resumed: bool,
}

enum Command {
    Append(Part, OwnedSemaphorePermit),
    /// The last request of the session; its tail may be empty.
    Close {
        tail: Option<Part>,
        size: u64,
    },
    Settle,
}

impl Lane {
    /// Starts the lane's task.
    pub(super) fn start(shared: &Arc<Shared>, caller: &Caller, plan: Plan, progress: &watch::Sender<Progress>) -> Lane {
        // One for each part there is room for, and the last word.
        let (commands, orders) = mpsc::channel(plan.width + 2);
        let room = Arc::new(Semaphore::new(plan.width + 1));
        let driver = Driver {
            shared: shared.clone(),
            // The caller's deadline ends the stream, not what was already sent for it.
            caller: caller.with_deadline(None),
            pieces: Pieces::new(plan.prefix),
            covered: covered(&plan.beyond),
            dropbox_at: 0,
            unsaved: Vec::new(),
            unsaved_since: None,
            progress: progress.clone(),
            plan,
        };
        Lane { commands, room, task: shared.tasks.spawn(driver.run(orders)) }
    }

    pub(super) fn push(&self, part: Part, room: OwnedSemaphorePermit) {
        // A lane that ended tells why through `failed`.
        let _ = self.commands.try_send(Command::Append(part, room));
    }

    /// Ends only when the lane failed. Cancel-safe.
    pub(super) async fn failed(&mut self) -> Fault {
        match (&mut self.task).await {
            Ok(Err(fault)) => fault,
            Ok(Ok(_)) => Fault::bug("a lane ended before it was told to"),
            Err(error) => Fault::bug("a lane broke down").source(error),
        }
    }

    /// Waits for everything in flight; the acknowledged prefix.
    pub(super) async fn settle(self) -> Result<u64> {
        self.end(Command::Settle).await
    }

    /// Waits for everything in flight, then closes the session at `size`.
    pub(super) async fn close(self, tail: Option<Part>, size: u64) -> Result<u64> {
        self.end(Command::Close { tail, size }).await
    }

    async fn end(self, command: Command) -> Result<u64> {
        let _ = self.commands.send(command).await;
        self.task.await.map_err(|error| Fault::bug("a lane broke down").source(error))?
    }
}

/// The inside of the lane's task.
struct Driver {
    shared: Arc<Shared>,
    caller: Caller,
    plan: Plan,
    pieces: Pieces,
    /// Blocks that a former stream sent behind a gap: offset → digest.
    covered: BTreeMap<u64, BlockDigest>,
    /// How far an ordered session is known to be ahead of our rows.
    dropbox_at: u64,
    unsaved: Vec<Piece>,
    unsaved_since: Option<tokio::time::Instant>,
    progress: watch::Sender<Progress>,
}

/// One acknowledged append.
struct Sent {
    offset: u64,
    end: u64,
    digests: SmallVec<[BlockDigest; 2]>,
    /// Where Dropbox said it is, if it was ahead.
    dropbox_at: u64,
    _room: Option<OwnedSemaphorePermit>,
}

impl Driver {
    async fn run(mut self, mut orders: mpsc::Receiver<Command>) -> Result<u64> {
        let mut sending = JoinSet::new();
        let outcome = self.drive(&mut orders, &mut sending).await;
        if outcome.is_err() {
            self.abandoned(&mut sending).await;
        }
        self.save().await;
        if self.plan.stored
            && let Err(fault) = self.shared.store.release_upload(&self.plan.id, self.plan.writer).await
        {
            tracing::warn!(%fault, "an upload could not be released; a resume waits for it");
        }
        outcome
    }

    async fn drive(
        &mut self,
        orders: &mut mpsc::Receiver<Command>,
        sending: &mut JoinSet<Result<Sent>>,
    ) -> Result<u64> {
        let closing = loop {
            tokio::select! {
                Some(sent) = sending.join_next(), if !sending.is_empty() => self.settled(flat(sent)?),
                order = orders.recv(), if sending.len() < self.plan.width => match order {
                    Some(Command::Append(part, room)) => self.append(part, room, sending)?,
                    Some(Command::Close { tail, size }) => break Some((tail, size)),
                    Some(Command::Settle) => break None,
                    None => {
                        self.abandoned(sending).await;
                        return Ok(self.pieces.prefix());
                    }
                },
                () = at(self.unsaved_since), if self.unsaved_since.is_some() => self.save_or_stop().await?,
            }
        };
        while let Some(sent) = sending.join_next().await {
            self.settled(flat(sent)?);
        }
        self.save_or_stop().await?;
        if let Some((tail, size)) = closing {
            self.close(tail, size).await?;
        }
        Ok(self.pieces.prefix())
    }

    /// The caller has gone, or one append failed: what is in flight gets a little time, what fails then is not there.
    async fn abandoned(&mut self, sending: &mut JoinSet<Result<Sent>>) {
        let settle = async {
            while let Some(sent) = sending.join_next().await {
                if let Ok(sent) = flat(sent) {
                    self.settled(sent);
                }
            }
        };
        let _ = tokio::time::timeout(limits::SETTLE_DEADLINE, settle).await;
    }

    /// Sends a part, or those of its blocks that a former stream did not.
    fn append(&mut self, part: Part, room: OwnedSemaphorePermit, sending: &mut JoinSet<Result<Sent>>) -> Result<()> {
        let end = part.offset + part.len();
        if !self.plan.parallel && end <= self.dropbox_at {
            self.settled(Sent { offset: part.offset, end, digests: part.digests, dropbox_at: 0, _room: None });
            return Ok(());
        }
        let mut room = Some(room);
        for part in self.missing(part)? {
            let append = Append {
                caller: self.caller.clone(),
                session: self.plan.session.clone(),
                parallel: self.plan.parallel,
                resumed: self.plan.resumed,
                close: false,
            };
            // Blocks of one part share its room: the first to come back frees it, the others are in flight already.
            let room = room.take();
            sending.spawn(async move { append.send(part, room).await });
        }
        Ok(())
    }

    /// The part as it is, or what of it is not there yet.
    fn missing(&mut self, part: Part) -> Result<SmallVec<[Part; 2]>> {
        let block = limits::BLOCK_BYTES as u64;
        if !part.digests.iter().enumerate().any(|(n, _)| self.covered.contains_key(&(part.offset + n as u64 * block))) {
            return Ok(SmallVec::from_iter([part]));
        }
        let mut missing = SmallVec::new();
        for (n, (piece, digest)) in part.pieces.iter().zip(&part.digests).enumerate() {
            let offset = part.offset + n as u64 * block;
            match self.covered.remove(&offset) {
                Some(known) if known == *digest => self.pieces.insert(offset, offset + piece.len() as u64),
                Some(_) => {
                    return Err(Fault::new(
                        Reason::ContentHashMismatch,
                        format!(
                            "the bytes at {offset} are not the ones sent before: the source changed; start a new upload"
                        ),
                    )
                    .fact("offset", offset));
                }
                None => missing.push(Part {
                    offset,
                    pieces: SmallVec::from_iter([piece.clone()]),
                    digests: SmallVec::from_iter([*digest]),
                }),
            }
        }
        self.tell();
        Ok(missing)
    }

    fn settled(&mut self, sent: Sent) {
        self.dropbox_at = self.dropbox_at.max(sent.dropbox_at);
        self.pieces.insert(sent.offset, sent.end);
        self.unsaved.push(Piece {
            offset: sent.offset,
            length: sent.end - sent.offset,
            digests: sent.digests.iter().map(|digest| *digest.as_bytes()).collect(),
        });
        self.unsaved_since.get_or_insert_with(|| tokio::time::Instant::now() + limits::PIECES_GATHER);
        self.tell();
    }

    fn tell(&self) {
        let persisted = self.pieces.prefix();
        self.progress.send_if_modified(|progress| {
            let news = progress.persisted < persisted;
            progress.persisted = progress.persisted.max(persisted);
            news
        });
    }

    /// The last request: all others are acknowledged, so it may close.
    async fn close(&mut self, tail: Option<Part>, size: u64) -> Result<()> {
        let part = tail.unwrap_or_else(|| Part { offset: size, pieces: SmallVec::new(), digests: SmallVec::new() });
        let append = Append {
            caller: self.caller.clone(),
            session: self.plan.session.clone(),
            parallel: self.plan.parallel,
            resumed: self.plan.resumed,
            close: true,
        };
        let sent = append.send(part, None).await?;
        if sent.end > sent.offset {
            self.settled(sent);
        }
        self.save().await;
        if self.plan.stored {
            self.shared.store.set_upload_ready(&self.plan.id, self.plan.writer, size).await?;
        }
        Ok(())
    }

    /// Writes down what was acknowledged. A store that does not answer makes the upload "not resumable", not failed.
    async fn save(&mut self) {
        if let Err(fault) = self.save_or_stop().await {
            tracing::info!(%fault, "another stream took the upload over");
        }
    }

    /// # Errors
    /// `UPLOAD_TAKEN_OVER` alone: this writer must not send more.
    async fn save_or_stop(&mut self) -> Result<()> {
        self.unsaved_since = None;
        let unsaved = std::mem::take(&mut self.unsaved);
        if unsaved.is_empty() || !self.plan.stored {
            return Ok(());
        }
        match self.shared.store.record_pieces(&self.plan.id, self.plan.writer, &unsaved).await {
            Err(fault) if fault.reason() == Reason::UploadTakenOver => Err(fault),
            Err(fault) => {
                metrics::counter!(crate::telemetry::TRANSFER_UNRECORDED).increment(1);
                tracing::warn!(%fault, "acknowledged pieces could not be written down; they would be sent again after a break");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}

/// One append and what it needs.
struct Append {
    caller: Caller,
    session: String,
    parallel: bool,
    resumed: bool,
    close: bool,
}

impl Append {
    /// Sends the part and reads every answer that means "it is there". Bounded: each turn either ends or moves on.
    async fn send(self, part: Part, room: Option<OwnedSemaphorePermit>) -> Result<Sent> {
        let end = part.offset + part.len();
        let sent = |digests, dropbox_at| Sent { offset: part.offset, end, digests, dropbox_at, _room: room };
        let mut from = part.offset;
        let mut damaged = false;
        for _ in 0..limits::APPEND_TURNS {
            let body = rest_of(&part, from);
            let cursor = UploadSessionCursor::new(self.session.clone(), from);
            let arg = UploadSessionAppendArg::new(cursor)
                .with_close(self.close)
                .with_content_hash(hash_of(&part, from, &body).to_string());
            let fault = match self.caller.upload(&routes::UPLOAD_SESSION_APPEND, &arg, &body).await {
                Ok(_) => return Ok(sent(part.digests, 0)),
                Err(fault) => fault,
            };
            let correct = fault.get("correctOffset").and_then(|offset| offset.parse::<u64>().ok());
            match (fault.reason(), correct) {
                (Reason::ContentHashMismatch, _) if !damaged => damaged = true,
                // Closed by an attempt whose answer was lost, or by a stream whose pieces could not be written down: all
                // bytes are there, and the commit's hash tells whether they are these.
                (Reason::UploadClosed, _) if self.close || self.resumed => return Ok(sent(part.digests, 0)),
                _ if self.parallel && may_have_arrived(&fault) => return Ok(sent(part.digests, 0)),
                // A lost acknowledgement: the bytes are there.
                (_, Some(correct)) if correct == end && !self.close => return Ok(sent(part.digests, correct)),
                (_, Some(correct)) if correct > from && correct <= end => from = correct,
                (_, Some(correct)) if correct > end && self.resumed && !self.close => {
                    return Ok(sent(part.digests, correct));
                }
                (_, Some(correct)) => return Err(another_writer(correct)),
                _ => return Err(fault),
            }
        }
        Err(Fault::new(Reason::DropboxUnavailable, "Dropbox does not take the bytes at their offset")
            .retry_after(limits::BUSY_RETRY))
    }
}

/// A second attempt of an append into a concurrent session was refused after a first one of unknown outcome: whether a
/// block may be sent twice is not documented (API-FACTS 21). The commit's hash decides.
fn may_have_arrived(fault: &Fault) -> bool {
    fault.get("earlierAttempt") == Some("unknown")
        && matches!(fault.reason(), Reason::UploadConcurrentWriter | Reason::UploadClosed | Reason::DropboxError)
}

fn another_writer(correct: u64) -> Fault {
    Fault::new(Reason::UploadConcurrentWriter, "another writer moved the upload; stop it, then resume")
        .fact("persistedOffset", correct)
}

fn rest_of(part: &Part, from: u64) -> SmallVec<[Bytes; 2]> {
    let mut skip = usize::try_from(from - part.offset).unwrap_or(usize::MAX);
    let mut rest = SmallVec::new();
    for piece in &part.pieces {
        let here = skip.min(piece.len());
        skip -= here;
        if here < piece.len() {
            rest.push(piece.slice(here..));
        }
    }
    rest
}

fn hash_of(part: &Part, from: u64, body: &[Bytes]) -> crate::engine::content_hash::ContentHash {
    if from == part.offset {
        return part.body_hash();
    }
    let mut hasher = ContentHasher::new();
    body.iter().for_each(|piece| hasher.update(piece));
    hasher.finish()
}

fn covered(beyond: &[Piece]) -> BTreeMap<u64, BlockDigest> {
    let block = limits::BLOCK_BYTES as u64;
    beyond
        .iter()
        .flat_map(|piece| {
            let whole = piece.digests.iter().enumerate();
            whole.map(move |(n, digest)| (piece.offset + n as u64 * block, BlockDigest::from_bytes(*digest)))
        })
        .collect()
}

fn flat(sent: Result<Result<Sent>, tokio::task::JoinError>) -> Result<Sent> {
    sent.map_err(|error| Fault::bug("an append broke down").source(error))?
}

async fn at(instant: Option<tokio::time::Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// Seconds since 1970 when an upload begun now ends.
pub(super) fn expiry(now: SystemTime) -> u64 {
    let end = now + limits::UPLOAD_SESSION_LIFE - Duration::from_secs(3600);
    end.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
