//! One stream of an upload: frames to parts to the lane, then the end. The whole control flow of an upload stands here.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::Stream;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::{
    Account, Outcome, Progress, Settled, Shared, UploadSpec, Writing,
    ahead::Kept,
    commit::{Closing as Closed, Refused, Whole},
    draining,
    group::{Coming, Sent},
    lane::{Lane, Plan},
    ready::Closed as ClosedBefore,
    record::{Begun, Record, Stage, Standing, short},
};
use crate::{
    dropbox::Caller,
    engine::{
        content_hash::{BlockDigest, ContentHash},
        parts::{Closing, Frame, Part, PartCutter, Rules},
    },
    fault::{Fault, Reason, Result},
    limits,
    store::Piece,
};

/// One stream under way.
pub(super) struct Run<'a> {
    shared: &'a Arc<Shared>,
    caller: &'a Caller,
    account: &'a Account<'a>,
    spec: UploadSpec,
    context: Vec<u8>,
    record: Option<Record>,
    lane: Option<Lane>,
    prefix: u64,
    digests: Option<Vec<BlockDigest>>,
    beyond: Vec<Piece>,
    /// The commit needs a hash of the whole.
    needs_hash: bool,
    progress: watch::Sender<Progress>,
    writing: Writing,
    /// Among the uploads that may commit together, while it has no session.
    coming: Option<Coming>,
    /// The commit.
    pub sent: Arc<Sent>,
    pub finish_ends_stream: bool,
}

pub(super) enum Resumed<'a> {
    Stream(Box<Run<'a>>),
    Closed(Box<ClosedBefore>),
    Done(Box<Settled>),
}

impl<'a> Run<'a> {
    pub(super) fn begin(
        shared: &'a Arc<Shared>,
        caller: &'a Caller,
        account: &'a Account<'a>,
        spec: UploadSpec,
        context: Vec<u8>,
        progress: watch::Sender<Progress>,
    ) -> Run<'a> {
        progress.send_modify(|progress| progress.accepted = true);
        Run {
            shared,
            caller,
            account,
            spec,
            context,
            record: None,
            lane: None,
            prefix: 0,
            digests: Some(Vec::new()),
            beyond: Vec::new(),
            needs_hash: false,
            progress,
            writing: Writing::default(),
            coming: None,
            sent: Arc::default(),
            finish_ends_stream: true,
        }
    }

    /// It may commit together with others of its namespace.
    pub(super) fn in_company(mut self) -> Run<'a> {
        self.coming = Coming::expect(self.shared, self.caller, self.account, &self.spec);
        self
    }

    pub(super) async fn resume(
        shared: &'a Arc<Shared>,
        caller: &'a Caller,
        account: &'a Account<'a>,
        upload_id: &str,
        progress: watch::Sender<Progress>,
    ) -> Result<Resumed<'a>> {
        let handle = shared.open_handle(&account.owner, upload_id)?;
        let writing = shared.take_over(&handle.id);
        let (record, mut standing) = shared.claim(handle, upload_id).await?;
        if !record.stored && record.handle.stage == Stage::Open {
            standing = shared.probe(caller, &record.handle, upload_id).await?;
        }
        let spec = record.handle.spec.clone();
        match standing {
            Standing::Committed(settled) => Ok(Resumed::Done(settled)),
            Standing::Ready(mut ready) => {
                if ready.digests.is_none() && ready.gap.is_none() {
                    ready.digests = shared.digests(&record, ready.size).await?;
                }
                let (whole, doubt) = (ready.whole(&spec), ready.doubt());
                if let Some(settled) = shared.committed_before(caller, &record, &ready, whole).await? {
                    return Ok(Resumed::Done(Box::new(settled)));
                }
                let (disputed, needs_hash) = (ready.disputed, ready.needs_hash(&record.handle));
                let digests = ready.digests;
                let closed = ClosedBefore { record, whole, doubt, digests, disputed, needs_hash, writing };
                Ok(Resumed::Closed(Box::new(closed)))
            }
            Standing::Open(Begun { prefix, digests, beyond, disputed }) => {
                progress.send_modify(|progress| {
                    *progress = Progress {
                        upload_id: Some(upload_id.into()),
                        accepted: true,
                        received: prefix,
                        persisted: prefix,
                    };
                });
                let mut run = Run::begin(shared, caller, account, spec, Vec::new(), progress);
                run.record = Some(record);
                run.prefix = prefix;
                run.digests = digests;
                run.beyond = beyond;
                run.needs_hash = disputed;
                run.writing = writing;
                run.start_lane(true);
                Ok(Resumed::Stream(Box::new(run)))
            }
        }
    }

    pub(super) async fn stream<S>(&mut self, frames: S) -> Result<Outcome>
    where
        S: Stream<Item = Result<Frame>> + Send + Unpin,
    {
        let mut cutter = PartCutter::new(
            frames,
            self.prefix,
            self.digests.as_deref(),
            self.shared.blocks.clone(),
            self.account.parameter,
            self.rules()?,
            self.shared.clock.clone(),
        )?
        .heard_by(tell_received(self.progress.clone()));
        let mut last = None;
        let failure = loop {
            match self.next_part(&mut cutter).await {
                // All that was declared is in the first part: it waits for `finish`, which needs no further block.
                Ok(Some((part, _))) if cutter.is_finished() || self.fits_one_request(&part) => last = Some(part),
                Ok(Some((part, room))) => {
                    if let Some(first) = last.take() {
                        self.push(first, None).await?;
                    }
                    self.push(part, room).await?;
                }
                Ok(None) => break None,
                Err(fault) if resumable(&fault) => break Some(fault),
                Err(fault) => {
                    if let Some(lane) = self.lane.as_ref().filter(|_| cutter.is_disputed()) {
                        lane.dispute().await;
                    }
                    return Err(fault);
                }
            }
        };
        if let Some(fault) = failure {
            // A lane that failed has settled what it could; otherwise whole blocks of what was read are kept.
            if self.lane.is_some() || self.record.is_none() {
                let first = last.filter(|_| !cutter.is_finished());
                for part in [first, cutter.salvage().await].into_iter().flatten() {
                    self.push(part, None).await?;
                }
                self.settle().await?;
            }
            return Err(fault);
        }
        match cutter.close() {
            Closing::HalfClosed { .. } => {
                if let Some(part) = last {
                    self.push(part, None).await?;
                }
                let persisted = self.settle().await?;
                if self.shared.draining.is_cancelled() {
                    // What is told is what is there: nothing that a session would keep has come yet.
                    return Err(draining());
                }
                let upload_id = self.kept().await?;
                Ok(Outcome::Open { upload_id, persisted })
            }
            Closing::Commit { hash, size, expected } => self.commit(last, Whole { size, hash, expected }).await,
        }
    }

    /// The next part, once there is room for it; or what ends the stream meanwhile.
    async fn next_part<S>(&mut self, cutter: &mut PartCutter<S>) -> Result<Option<(Part, Option<OwnedSemaphorePermit>)>>
    where
        S: Stream<Item = Result<Frame>> + Send + Unpin,
    {
        let taken_over = self.writing.taken_over();
        let next = match &mut self.lane {
            None => cutter.next().await.map(|part| part.map(|part| (part, None))),
            Some(lane) => {
                let room = lane.room(self.shared.blocks.share());
                let part = async {
                    let room = room.await;
                    Ok(cutter.next().await?.map(|part| (part, room)))
                };
                let ended = tokio::select! {
                    biased;
                    () = taken_over => Err(taken_over_fault()),
                    fault = lane.failed() => Err(fault),
                    part = part => Ok(part),
                };
                match ended {
                    Ok(part) => part,
                    // What is in flight settles in the lane's own task.
                    Err(fault) => {
                        self.lane = None;
                        Err(fault)
                    }
                }
            }
        };
        // What came in behind the last step is told with the end of a part.
        self.progress.send_modify(|progress| progress.received = cutter.next_offset());
        next
    }

    /// The handle of an upload that stays open. One that has nothing yet gets its session now, so that there is a handle: an
    /// ordered one unless its size says otherwise, for it may turn out empty.
    async fn kept(&mut self) -> Result<String> {
        if self.record.is_none() {
            let large = self.spec.total_size.is_some_and(|size| size >= limits::PARALLEL_FROM_BYTES);
            self.open(self.spec.parallel_appends != 1 && large).await?;
            if let Some(record) = &self.record {
                self.shared.release(record).await;
            }
        }
        self.upload_id().ok_or_else(|| Fault::bug("a session has no handle"))
    }

    async fn open(&mut self, parallel: bool) -> Result<()> {
        let context = std::mem::take(&mut self.context);
        self.coming = None;
        let record = self.shared.open_session(self.caller, self.account, self.spec.clone(), context, parallel).await?;
        let upload_id = record.upload_id.clone();
        self.progress.send_modify(|progress| progress.upload_id = Some(upload_id));
        self.record = Some(record);
        Ok(())
    }

    /// Hands a part to the lane. The first one decides how the upload travels.
    async fn push(&mut self, part: Part, room: Option<OwnedSemaphorePermit>) -> Result<()> {
        if self.lane.is_none() {
            let small = self.spec.total_size.is_some_and(|size| size < limits::PARALLEL_FROM_BYTES);
            self.open(self.spec.parallel_appends != 1 && !small).await?;
            if let Some(record) = &self.record {
                self.writing = self.shared.take_over(&record.handle.id);
            }
            self.start_lane(false);
        }
        let Some(lane) = &mut self.lane else { return Err(Fault::bug("an upload has no lane")) };
        let room = match room {
            Some(room) => Some(room),
            None => lane.room(self.shared.blocks.share()).await,
        };
        match room {
            Some(room) => lane.push(part, room),
            None => return Err(lane.failed().await),
        }
        Ok(())
    }

    fn start_lane(&mut self, resumed: bool) {
        let Some(record) = &self.record else { return };
        let width = match (record.handle.parallel, self.spec.parallel_appends) {
            (false, _) => 1,
            (true, 0) => limits::PARALLEL_APPENDS_DEFAULT,
            (true, asked) => asked as usize,
        };
        let plan = Plan {
            id: record.handle.id.clone(),
            writer: record.writer,
            stored: record.stored,
            session: record.handle.session.clone(),
            parallel: record.handle.parallel,
            width,
            prefix: self.prefix,
            beyond: std::mem::take(&mut self.beyond),
            resumed,
        };
        self.lane = Some(Lane::start(self.shared, self.caller, plan, &self.progress));
    }

    fn fits_one_request(&self, part: &Part) -> bool {
        let declared = self.spec.total_size == Some(part.len()) && part.len() <= limits::SINGLE_UPLOAD_BYTES_MAX;
        self.record.is_none() && part.offset == 0 && declared
    }

    async fn settle(&mut self) -> Result<u64> {
        match self.lane.take() {
            Some(lane) => lane.settle().await,
            None => Ok(0),
        }
    }

    async fn commit(&mut self, last: Option<Part>, whole: Whole) -> Result<Outcome> {
        let Some(lane) = self.lane.take() else {
            if self.spec.deferred {
                return self.keep_ahead(last, whole).await;
            }
            let digests = last.as_ref().map(|part| part.digests.clone()).unwrap_or_default();
            let (coming, sent) = (self.coming.take(), &self.sent);
            let single = self.shared.send_single(self.caller, self.account, &self.spec, last, whole, coming, sent);
            return match single.await {
                Ok(settled) => Ok(Outcome::Committed { settled: Box::new(settled), upload_id: None }),
                Err(refused) => {
                    self.sent.set(refused.fault.get("sent") == Some("true"));
                    self.keep_refused(&refused, &whole, &digests).await;
                    Err(refused.fault)
                }
            };
        };
        let (left, hold) = lane.close(last, whole.size, whole.expected.is_some()).await?;
        if left.doubt.from.is_none() {
            self.progress.send_modify(|progress| progress.persisted = whole.size);
        }
        let Some(record) = &mut self.record else { return Err(Fault::bug("a lane has no record")) };
        if left.doubt.from.is_none() {
            record.supersede(self.shared, &self.account.owner, &whole, Stage::Closed);
        }
        if self.spec.deferred {
            let proven = left.doubt.from.is_none() && whole.expected.is_some();
            self.shared.ready(record, whole.size, proven).await?;
            hold.end().await;
            let (upload_id, size) = (record.upload_id.clone(), whole.size);
            return Ok(Outcome::Ready { upload_id, size, content_hash: whole.hash });
        }
        let closed = Closed { whole, doubt: left.doubt, hold };
        let settled = self.shared.finish(self.caller, self.account, record, closed, &self.sent).await?;
        Ok(Outcome::Committed { settled: Box::new(settled), upload_id: self.upload_id() })
    }

    /// Dropbox keeps the bytes of a refused `files/upload` in a session of its own, and a group sent them in one: with its handle
    /// the commit can be tried again without them. Nothing is lost where that fails; the file is small.
    async fn keep_refused(&mut self, refused: &Refused, whole: &Whole, digests: &[BlockDigest]) {
        let Some(session) = refused.fault.get("uploadSessionId") else { return };
        let kept = Kept {
            session: session.to_owned(),
            parallel: refused.grouped,
            // One of a group is closed with its bytes.
            stage: if refused.grouped { Stage::Closed } else { Stage::Kept },
            expires_at: self.shared.clock.now() + limits::UPLOAD_SESSION_LIFE,
        };
        if let Err(fault) = self.keep(kept, whole, digests).await {
            tracing::info!(%fault, "a refused upload is not kept; it is to be sent again whole");
        }
    }

    /// A small file whose commit is left to its caller.
    async fn keep_ahead(&mut self, part: Option<Part>, whole: Whole) -> Result<Outcome> {
        let digests = part.as_ref().map(|part| part.digests.clone()).unwrap_or_default();
        let coming = self.coming.take();
        let kept = self.shared.send_ahead(self.caller, &self.spec, part, &whole, coming, &self.sent).await?;
        self.keep(kept, &whole, &digests).await?;
        let upload_id = self.upload_id().ok_or_else(|| Fault::bug("a kept upload has no handle"))?;
        Ok(Outcome::Ready { upload_id, size: whole.size, content_hash: whole.hash })
    }

    /// The handle of a small file whose bytes are in a session.
    async fn keep(&mut self, kept: Kept, whole: &Whole, digests: &[BlockDigest]) -> Result<()> {
        let context = std::mem::take(&mut self.context);
        let record = self.shared.keep_ready(self.account, kept, self.spec.clone(), context, whole, digests).await?;
        let (upload_id, size) = (record.upload_id.clone(), whole.size);
        self.record = Some(record);
        self.progress.send_modify(|progress| (progress.upload_id, progress.persisted) = (Some(upload_id), size));
        Ok(())
    }

    fn rules(&self) -> Result<Rules> {
        let declared_hash = match self.spec.content_hash.as_deref().map(str::parse::<ContentHash>) {
            Some(Ok(hash)) => Some(hash),
            None => None,
            Some(Err(_)) => return Err(Fault::bug("a content hash passed the door unread")),
        };
        Ok(Rules {
            append_bytes: self.shared.settings.append_bytes,
            max_file_size: self.account.max_file_size,
            declared_size: self.spec.total_size,
            declared_hash,
            resumed: self.record.is_some(),
            needs_hash: self.needs_hash,
            idle_max: self.shared.settings.idle,
            finish_ends_stream: self.finish_ends_stream,
            hurry_at: self.caller.deadline().map(|end| {
                let left = end.saturating_duration_since(Instant::now());
                (end - limits::UPLOAD_HURRY_AHEAD.min(left / 3)).into()
            }),
        })
    }

    fn upload_id(&self) -> Option<String> {
        self.record.as_ref().map(|record| record.upload_id.clone())
    }

    /// What the caller needs to go on: only a failure that leaves the upload whole carries it.
    pub(super) fn positioned(&self, fault: Fault) -> Fault {
        // A request that the deadline cut off is no loss unless it was the commit.
        let goes_on = fault.reason() == Reason::DeadlineExceeded && !self.sent.is_sent();
        let fault = if goes_on { fault.fact("sent", false).retry_after(Duration::ZERO) } else { fault };
        let Some(record) = &self.record else {
            // Nothing is kept yet, so the stream goes on from its beginning.
            let gap = fault.reason() == Reason::OffsetGap;
            return if gap { fault.fact("persistedOffset", 0) } else { fault };
        };
        located(fault, &record.upload_id, self.progress.borrow().persisted)
    }
}

/// Keeps what has come in where the caller can be told of it; wakes who tells it now and then.
fn tell_received(progress: watch::Sender<Progress>) -> impl Fn(u64) + Send + 'static {
    move |received| {
        progress.send_if_modified(|progress| {
            let step = limits::PROGRESS_STEP_BYTES;
            let news = received / step != progress.received / step;
            progress.received = received;
            news
        });
    }
}

const COMMIT_ANEW: &str = "the bytes are kept: call CommitUploads with the uploadId and other terms";

/// A failure that leaves an upload whole says which one it is and where it goes on.
pub(super) fn located(fault: Fault, upload_id: &str, persisted: u64) -> Fault {
    let spoilt = matches!(fault.reason(), Reason::ContentHashMismatch | Reason::UploadNotFound | Reason::ConnectorBug);
    if fault.reason() == Reason::UploadNotFound && fault.about().is_none() {
        return fault.resource("upload", short(upload_id));
    }
    if spoilt || fault.get("uploadId").is_some() {
        return fault;
    }
    // By the name that its caller knows it by.
    let fault = match fault.about().is_some_and(|about| about.kind == "upload") {
        true => fault.resource("upload", short(upload_id)),
        false => fault,
    };
    // Only a commit meets another file, so all bytes are there.
    let fault = match fault.reason() {
        Reason::RevisionConflict => {
            fault.with_remedy(format!("{COMMIT_ANEW} (the new rev, OVERWRITE or another path)"))
        }
        Reason::PathConflict if matches!(fault.get("conflictKind"), Some("folder" | "file_ancestor")) => {
            fault.with_remedy(format!("{COMMIT_ANEW} (another path: no file can replace what is there)"))
        }
        Reason::PathConflict => fault.with_remedy(format!("{COMMIT_ANEW} (another path, OVERWRITE or autorename)")),
        _ => fault,
    };
    let fault = if fault.get("persistedOffset").is_some() { fault } else { fault.fact("persistedOffset", persisted) };
    fault.fact("uploadId", upload_id)
}

/// Whether what was read of this stream should be kept: the caller is told to come back.
fn resumable(fault: &Fault) -> bool {
    fault.retry_delay().is_some()
}

pub(super) fn taken_over_fault() -> Fault {
    Fault::new(Reason::UploadTakenOver, "another stream took this upload over")
}
