//! How the parts of an upload with a session travel: one after another into an ordered session, several at once into a
//! parallel one. A lane is a task of its own, so that what is in flight is settled and written down even when the caller
//! has gone; the part being filled is what a vanished caller loses. Of appends side by side one that lags far behind is dropped
//! and sent again.

use std::{collections::BTreeMap, future::Future, sync::Arc};

use bytes::Bytes;
use dropbox_sdk::files::{UploadSessionAppendArg, UploadSessionCursor};
use smallvec::SmallVec;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::{JoinHandle, JoinSet},
};

use super::{
    Progress, Shared,
    hold::Hold,
    pieces::Pieces,
    siblings::{Siblings, Watched},
};
use crate::{
    clock::at,
    dropbox::{Caller, routes},
    engine::{
        content_hash::{BlockDigest, ContentHasher},
        parts::{Part, changed, shorter},
    },
    fault::{Fault, Reason, Result},
    limits,
    store::Piece,
};

/// The end of a lane that a stream pushes parts into. Dropping it lets the lane settle by itself.
pub(super) struct Lane {
    commands: mpsc::Sender<Command>,
    /// Bounds what is in flight and the one part being filled; so the channel always has a place.
    room: Arc<Semaphore>,
    parts_max: usize,
    task: JoinHandle<Result<Left>>,
    hold: Arc<Hold>,
}

/// What a lane leaves behind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Left {
    /// Everything below is acknowledged.
    pub prefix: u64,
    pub doubt: Doubt,
}

/// Blocks that were sent to a concurrent session and may or may not be there: Dropbox refused to take them again after an
/// attempt of unknown outcome. Whether a block may be sent twice is not documented (API-FACTS 21), so the commit decides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Doubt {
    /// Where the first of them begins.
    pub from: Option<u64>,
    /// The session is closed and would not take them either if they turned out to be missing.
    pub closed: bool,
}

impl Doubt {
    fn note(&mut self, offset: u64, closed: bool) {
        self.from = Some(self.from.map_or(offset, |from| from.min(offset)));
        self.closed |= closed;
    }
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
        /// Its caller named the hash of the whole.
        proven: bool,
    },
    Settle,
}

impl Lane {
    /// Starts the lane's task.
    pub(super) fn start(shared: &Arc<Shared>, caller: &Caller, plan: Plan, progress: &watch::Sender<Progress>) -> Lane {
        // One for each part there is room for, and the last word.
        let (commands, orders) = mpsc::channel(plan.width + 2);
        let parts_max = plan.width + 1;
        let room = Arc::new(Semaphore::new(parts_max));
        let driver = Driver {
            shared: shared.clone(),
            // The caller's deadline ends the stream, not what was already sent for it.
            caller: caller.with_deadline(None),
            pieces: Pieces::new(plan.prefix),
            covered: covered(&plan.beyond),
            dropbox_at: 0,
            unsaved: Vec::new(),
            unsaved_since: None,
            doubt: Doubt::default(),
            is_another: false,
            siblings: Siblings::default(),
            progress: progress.clone(),
            plan,
        };
        let hold = Hold::new(shared, &driver.plan.id, driver.plan.writer, driver.plan.stored);
        Lane { commands, room, parts_max, task: shared.tasks.spawn(driver.run(orders, hold.clone())), hold }
    }

    /// Waits for room for one more part. `share`: the blocks an upload may have now. Where that is less than its parts would
    /// take, a part takes the room of several, so that fewer are in flight; one beside the part being filled always is.
    pub(super) fn room(&self, share: usize) -> impl Future<Output = Option<OwnedSemaphorePermit>> + Send + use<> {
        let parts = (share / 2).clamp(2, self.parts_max);
        let cost = u32::try_from(self.parts_max / parts).unwrap_or(1);
        let room = self.room.clone();
        async move { room.acquire_many_owned(cost).await.ok() }
    }

    /// The caller's bytes are not what it said of them, or not those that are there.
    pub(super) async fn dispute(&self) {
        self.hold.dispute().await;
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
        drop(self.hold);
        Ok(end(self.commands, self.task, Command::Settle).await?.prefix)
    }

    /// Waits for everything in flight, then closes the session at `size`. The writer has not stopped: it may commit.
    pub(super) async fn close(self, tail: Option<Part>, size: u64, proven: bool) -> Result<(Left, Arc<Hold>)> {
        Ok((end(self.commands, self.task, Command::Close { tail, size, proven }).await?, self.hold))
    }
}

async fn end(commands: mpsc::Sender<Command>, task: JoinHandle<Result<Left>>, last: Command) -> Result<Left> {
    let _ = commands.send(last).await;
    task.await.map_err(|error| Fault::bug("a lane broke down").source(error))?
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
    doubt: Doubt,
    /// What came is not what a former stream sent further on.
    is_another: bool,
    /// Of a parallel lane.
    siblings: Siblings,
    progress: watch::Sender<Progress>,
}

/// One append that came through.
struct Sent {
    offset: u64,
    end: u64,
    digests: SmallVec<[BlockDigest; 2]>,
    certainty: Certainty,
    /// Where Dropbox said it is, if it was ahead.
    dropbox_at: u64,
    _room: Option<OwnedSemaphorePermit>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Certainty {
    Acknowledged,
    /// Sent, and not known to be there.
    Unsure {
        closed: bool,
    },
}

impl Driver {
    async fn run(mut self, mut orders: mpsc::Receiver<Command>, hold: Arc<Hold>) -> Result<Left> {
        let mut sending = JoinSet::new();
        let outcome = self.drive(&mut orders, &mut sending).await;
        if self.is_another {
            hold.dispute().await;
        }
        if outcome.is_err() {
            self.abandoned(&mut sending).await;
        }
        self.save().await;
        hold.end().await;
        outcome.map(|prefix| Left { prefix, doubt: self.doubt })
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
                    Some(Command::Close { tail, size, proven }) => break Some((tail, size, proven)),
                    Some(Command::Settle) => break None,
                    None => {
                        self.abandoned(sending).await;
                        return Ok(self.pieces.prefix());
                    }
                },
                () = at(self.unsaved_since), if self.unsaved_since.is_some() => self.save_or_stop().await?,
                never = self.siblings.watch(), if !sending.is_empty() => match never {},
            }
        };
        while !sending.is_empty() {
            tokio::select! {
                Some(sent) = sending.join_next() => self.settled(flat(sent)?),
                // One that hangs must not keep what the others brought from being written down.
                () = at(self.unsaved_since), if self.unsaved_since.is_some() => self.save_or_stop().await?,
                never = self.siblings.watch() => match never {},
            }
        }
        self.save_or_stop().await?;
        if let Some((tail, size, proven)) = closing {
            self.close(tail, size, proven).await?;
        }
        Ok(self.pieces.prefix())
    }

    /// The caller has gone, or one append failed: what is in flight gets a little time, what fails then is not there.
    async fn abandoned(&mut self, sending: &mut JoinSet<Result<Sent>>) {
        let settle = async {
            while !sending.is_empty() {
                tokio::select! {
                    Some(sent) = sending.join_next() => {
                        if let Ok(sent) = flat(sent) {
                            self.settled(sent);
                        }
                    }
                    () = at(self.unsaved_since), if self.unsaved_since.is_some() => self.save().await,
                }
            }
        };
        let _ = tokio::time::timeout(limits::SETTLE_DEADLINE, settle).await;
    }

    /// Sends a part, or those of its blocks that a former stream did not.
    fn append(&mut self, part: Part, room: OwnedSemaphorePermit, sending: &mut JoinSet<Result<Sent>>) -> Result<()> {
        let end = part.offset + part.len();
        if !self.plan.parallel && end <= self.dropbox_at {
            let (offset, digests, certainty) = (part.offset, part.digests, Certainty::Acknowledged);
            self.settled(Sent { offset, end, digests, certainty, dropbox_at: 0, _room: None });
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
                watched: self.plan.parallel.then(|| self.siblings.begin(part.offset, part.len())),
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
                    self.is_another = true;
                    return Err(changed(offset));
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
        self.siblings.ended(sent.offset);
        self.dropbox_at = self.dropbox_at.max(sent.dropbox_at);
        if let Certainty::Unsure { closed } = sent.certainty {
            // Neither counted nor written down: a resume sends it once more.
            self.doubt.note(sent.offset, closed);
            return;
        }
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
    async fn close(&mut self, tail: Option<Part>, size: u64, proven: bool) -> Result<()> {
        let part = tail.unwrap_or_else(|| Part { offset: size, pieces: SmallVec::new(), digests: SmallVec::new() });
        // What a former stream sent further on is none of this file.
        if self.covered.range(size..).next().is_some() {
            self.is_another = true;
            return Err(shorter(size));
        }
        for (offset, digest) in (part.offset..).step_by(limits::BLOCK_BYTES).zip(&part.digests) {
            if self.covered.get(&offset).is_some_and(|known| known != digest) {
                self.is_another = true;
                return Err(changed(offset));
            }
        }
        let append = Append {
            caller: self.caller.clone(),
            session: self.plan.session.clone(),
            parallel: self.plan.parallel,
            resumed: self.plan.resumed,
            close: true,
            watched: self.plan.parallel.then(|| self.siblings.begin(part.offset, part.len())),
        };
        let sent = tokio::select! {
            sent = append.send(part, None) => sent?,
            never = self.siblings.watch() => match never {},
        };
        if sent.end > sent.offset || sent.certainty != Certainty::Acknowledged {
            self.settled(sent);
        }
        self.save().await;
        if !self.plan.stored || self.doubt.from.is_some() {
            return Ok(());
        }
        match self.shared.store.set_upload_ready(&self.plan.id, self.plan.writer, size, proven).await {
            Err(fault) if fault.reason() == Reason::UploadTakenOver => Err(fault),
            Err(fault) => {
                // The bytes are there all the same; the commit's intent is what must be written.
                tracing::warn!(%fault, "an upload whose bytes are all there could not be marked so");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
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
    /// In a parallel lane, by who compares it with others.
    watched: Option<Arc<Watched>>,
}

/// What an answer to an append says.
enum Reading {
    /// It is there. `dropbox_at`: where Dropbox said it is, if it was ahead.
    There {
        dropbox_at: u64,
    },
    /// Go on from here.
    From(u64),
    Unsure {
        closed: bool,
    },
    Failed(Fault),
}

impl Append {
    /// Sends the part and reads every answer that means "it is there". Bounded: each turn either ends or moves on.
    async fn send(self, part: Part, room: Option<OwnedSemaphorePermit>) -> Result<Sent> {
        let (offset, end) = (part.offset, part.offset + part.len());
        let mut from = offset;
        let (mut damaged, mut unclear, mut unsure, mut dropped) = (false, self.resumed, None, false);
        for _ in 0..limits::APPEND_TURNS {
            let body = rest_of(&part, from);
            let cursor = UploadSessionCursor::new(self.session.clone(), from);
            let arg = UploadSessionAppendArg::new(cursor)
                .with_close(self.close)
                .with_content_hash(hash_of(&part, from, &body).to_string());
            let reading = match self.attempt(&arg, &body, !dropped).await {
                // Closed first, or given no more of the part. One that had all of it may still be carried out.
                None => {
                    (dropped, unclear) = (true, true);
                    Reading::From(from)
                }
                Some(Ok(_)) => Reading::There { dropbox_at: 0 },
                Some(Err(fault)) if fault.reason() == Reason::ContentHashMismatch && !damaged => {
                    damaged = true;
                    Reading::From(from)
                }
                Some(Err(fault)) => {
                    unclear |= fault.get("earlierAttempt") == Some("unknown");
                    if self.parallel { self.parallel(unclear, fault) } else { self.ordered(from, end, fault) }
                }
            };
            let (certainty, dropbox_at) = match (reading, unsure) {
                (Reading::There { dropbox_at }, _) => (Certainty::Acknowledged, dropbox_at),
                (Reading::From(offset), _) => {
                    from = offset;
                    continue;
                }
                // Its bytes are at hand only now: once more, and what is refused again the commit decides.
                (Reading::Unsure { closed }, None) => {
                    unsure = Some(closed);
                    continue;
                }
                (Reading::Unsure { closed }, Some(before)) => (Certainty::Unsure { closed: closed || before }, 0),
                (Reading::Failed(fault), _) => return Err(fault),
            };
            return Ok(Sent { offset, end, digests: part.digests, certainty, dropbox_at, _room: room });
        }
        Err(Fault::new(Reason::DropboxUnavailable, "Dropbox does not take the bytes at their offset")
            .retry_after(limits::BUSY_RETRY))
    }

    /// One call, or `None` where it lagged behind its siblings, was dropped, and its connection has let go of the part.
    async fn attempt(
        &self,
        arg: &UploadSessionAppendArg,
        body: &[Bytes],
        may_drop: bool,
    ) -> Option<Result<crate::dropbox::Answer<()>>> {
        let route = &routes::UPLOAD_SESSION_APPEND;
        let Some(watched) = &self.watched else { return Some(self.caller.upload(route, arg, body).await) };
        let caller = self.caller.clone().followed_by(watched.underway.clone());
        tokio::select! {
            biased;
            answer = caller.upload(route, arg, body) => return Some(answer),
            () = watched.is_lost(), if may_drop => {}
        }
        watched.underway.let_go(limits::CLOSE_TIME).await;
        None
    }

    /// Dropbox itself counts the bytes of an ordered session.
    fn ordered(&self, from: u64, end: u64, fault: Fault) -> Reading {
        match (fault.reason(), correct_offset(&fault)) {
            // Closed by an attempt whose answer was lost, or by a stream whose pieces could not be written down: all
            // bytes are there, and the commit's hash tells whether they are these.
            (Reason::UploadClosed, _) if self.close || self.resumed => Reading::There { dropbox_at: 0 },
            // A lost acknowledgement: the bytes are there.
            (_, Some(correct)) if correct == end && !self.close => Reading::There { dropbox_at: correct },
            (_, Some(correct)) if correct > from && correct <= end => Reading::From(correct),
            (_, Some(correct)) if correct > end && self.resumed && !self.close => {
                Reading::There { dropbox_at: correct }
            }
            (_, Some(correct)) => Reading::Failed(another_writer(correct)),
            _ => Reading::Failed(fault),
        }
    }

    /// A concurrent session takes any offset from anybody, so a refusal that names this one may only mean that an earlier
    /// attempt of ours, or of the stream before, came through. The store tells other writers apart, Dropbox does not.
    fn parallel(&self, unclear: bool, fault: Fault) -> Reading {
        match (fault.reason(), correct_offset(&fault)) {
            (Reason::UploadClosed, _) if self.close => Reading::There { dropbox_at: 0 },
            (Reason::UploadClosed, _) if unclear => Reading::Unsure { closed: true },
            (Reason::UploadConcurrentWriter | Reason::DropboxError, _) if unclear => Reading::Unsure { closed: false },
            (_, Some(correct)) => Reading::Failed(another_writer(correct)),
            _ => Reading::Failed(fault),
        }
    }
}

fn correct_offset(fault: &Fault) -> Option<u64> {
    fault.get("correctOffset").and_then(|offset| offset.parse().ok())
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
