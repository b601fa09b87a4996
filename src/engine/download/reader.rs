//! The bytes of one range, in order, whatever happens to the connection or to the caller's patience.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin as Pinned,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::{
    chunks::Chunks,
    drain::Drain,
    range::{self, Pin, Ranged},
};
use crate::{
    clock::SharedClock,
    dropbox::Caller,
    engine::{
        blocks::{Block, Blocks, Tally},
        together::back_off,
    },
    fault::{Fault, Reason, Result},
    limits,
};

/// What is to be read, and how.
#[derive(Debug)]
pub(super) struct Plan {
    pub start: u64,
    /// Exclusive.
    pub end: u64,
    pub drain: Drain,
    pub chunks: Chunks,
}

#[derive(Debug)]
pub(super) struct Reader {
    caller: Caller,
    pin: Arc<Pin>,
    plan: Plan,
    /// Of the next byte of the head.
    next: u64,
    head: Head,
    /// Where the head ends; further ranges follow.
    head_end: u64,
    ahead: VecDeque<Ahead>,
    /// Read and not handed on.
    rest: Bytes,
    resumes_left: u32,
    /// Where the body broke last.
    broke_at: u64,
    blocks: Blocks,
    tally: Tally,
    clock: SharedClock,
    /// When the caller last came for bytes, or may come again, as the clock elapses.
    touched: Duration,
    /// The caller came and there was nothing for it yet.
    waiting: Option<Waker>,
    /// Let go, and not asked for again since.
    is_let_go: bool,
}

/// The range that is being read.
#[derive(Debug)]
enum Head {
    None,
    /// A task of its own, so that its place in the account's queue can be given up while nobody waits for its answer.
    Opening(AbortOnDropHandle<Result<Ranged>>),
    Open(Box<Ranged>),
}

/// A range ahead of it.
#[derive(Debug)]
struct Ahead {
    start: u64,
    end: u64,
    /// It is its turn to be the head.
    turn: Arc<Notify>,
    filling: AbortOnDropHandle<Result<Filled>>,
}

/// What of a range has come ahead of its turn, and the body that goes on behind that.
type Filled = (Bytes, Option<Ranged>);

impl Reader {
    /// `head` is the body the download began with, and where it ends.
    pub(super) fn new(
        caller: Caller,
        pin: Pin,
        plan: Plan,
        head: Option<(Ranged, u64)>,
        blocks: Blocks,
        tally: Tally,
        clock: SharedClock,
    ) -> Reader {
        let (head, head_end) = head.map_or((Head::None, plan.start), |(body, end)| (Head::Open(Box::new(body)), end));
        Reader {
            caller,
            pin: Arc::new(pin),
            next: plan.start,
            broke_at: plan.start,
            plan,
            head,
            head_end,
            ahead: VecDeque::new(),
            rest: Bytes::new(),
            resumes_left: limits::DOWNLOAD_RESUMES_MAX,
            blocks,
            tally,
            touched: clock.steady(),
            clock,
            waiting: None,
            is_let_go: false,
        }
    }

    /// The next bytes of the range, `None` at its end. A break is mended here, out of the caller's sight.
    pub(super) fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        let now = self.clock.steady();
        let span = now.saturating_sub(self.touched);
        match self.waiting {
            Some(_) => self.plan.drain.waited(span),
            None => self.plan.drain.took(span),
        }
        self.touched = now;
        self.plan.chunks.taken(self.touched);
        if self.rest.is_empty() {
            self.waiting = None;
            match self.poll_bytes(context) {
                Poll::Ready(Ok(Some(bytes))) => self.rest = bytes,
                Poll::Ready(end) => return Poll::Ready(end),
                Poll::Pending => {
                    self.waiting = Some(context.waker().clone());
                    return Poll::Pending;
                }
            }
        }
        let chunk = self.rest.split_to(self.plan.chunks.next(self.rest.len()));
        self.plan.chunks.give(chunk.len(), self.touched);
        self.plan.drain.gave(chunk.len() as u64, self.plan.end.saturating_sub(self.next));
        Poll::Ready(Ok(Some(chunk)))
    }

    /// All bytes were handed on.
    pub(super) fn is_at_end(&self) -> bool {
        self.rest.is_empty() && self.next >= self.plan.end
    }

    /// Bytes handed on last.
    pub(super) fn given(&self) -> usize {
        self.plan.chunks.given()
    }

    /// The caller's silence begins when this span is over.
    pub(super) fn hold_back(&mut self, span: Duration) {
        self.touched = self.clock.steady() + span;
    }

    /// When the caller last came for bytes.
    pub(super) fn touched(&self) -> Duration {
        self.touched
    }

    fn poll_bytes(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        loop {
            if self.next >= self.plan.end {
                return Poll::Ready(Ok(None));
            }
            self.reach_ahead();
            match &mut self.head {
                Head::None => match self.ahead.front_mut() {
                    Some(segment) if segment.start == self.next => {
                        segment.turn.notify_one();
                        let filled = ready!(Pinned::new(&mut segment.filling).poll(context));
                        let end = segment.end;
                        self.ahead.pop_front();
                        match filled {
                            Ok(Ok((bytes, body))) => {
                                self.next += bytes.len() as u64;
                                self.head_end = end;
                                self.head = body.map_or(Head::None, |body| Head::Open(Box::new(body)));
                                if !bytes.is_empty() {
                                    // Its place is another's while these are handed on, and the head's is not empty.
                                    let is_last = self.ahead.is_empty() && matches!(self.head, Head::None);
                                    if is_last && self.next < self.plan.end && self.plan.drain.ranges() > 1 {
                                        self.open_head(self.end_of_head());
                                    }
                                    self.reach_ahead();
                                    return Poll::Ready(Ok(Some(bytes)));
                                }
                            }
                            // The part that did not come is read again as the head, with the head's patience.
                            Ok(Err(fault)) if fault.retry_delay().is_none() => return Poll::Ready(Err(fault)),
                            _ => self.open_head(end),
                        }
                    }
                    _ => self.open_head(self.end_of_head()),
                },
                Head::Opening(opening) => {
                    let opened = ready!(Pinned::new(opening).poll(context));
                    self.head = Head::None;
                    match opened {
                        Ok(Ok(body)) => self.head = Head::Open(Box::new(body)),
                        Ok(Err(fault)) => return Poll::Ready(Err(fault)),
                        Err(error) => {
                            let fault = Fault::bug("the request for a range broke down").source(error);
                            return Poll::Ready(Err(fault));
                        }
                    }
                }
                Head::Open(body) => match ready!(body.poll_next(context)) {
                    Some(Ok(bytes)) if bytes.is_empty() => {}
                    Some(Ok(mut bytes)) => {
                        // A 200 where a part was asked for goes on beyond it; the rest is not ours.
                        bytes.truncate(usize::try_from(self.head_end - self.next).unwrap_or(usize::MAX));
                        self.next += bytes.len() as u64;
                        if self.next >= self.head_end {
                            self.head = Head::None;
                        }
                        return Poll::Ready(Ok(Some(bytes)));
                    }
                    Some(Err(fault)) => self.mend(fault)?,
                    None => self.mend(Fault::new(Reason::DropboxUnavailable, "the body ended before its length"))?,
                },
            }
        }
    }

    /// Drops the broken body, so that the next turn opens it again; gives up after a number of breaks with next to nothing between
    /// them. A long file over a line that breaks now and then has many, and comes along all the same.
    fn mend(&mut self, fault: Fault) -> Result<()> {
        self.head = Head::None;
        if self.next.saturating_sub(self.broke_at) >= limits::DOWNLOAD_RESUME_BYTES {
            self.resumes_left = limits::DOWNLOAD_RESUMES_MAX;
        }
        self.broke_at = self.next;
        if self.resumes_left == 0 || !matches!(*self.pin, Pin::Rev(_) | Pin::Link { .. }) {
            return Err(fault.with_reason(Reason::DropboxUnavailable).retry_after(limits::BUSY_RETRY));
        }
        self.resumes_left -= 1;
        resumed();
        Ok(())
    }

    fn end_of_head(&self) -> u64 {
        let until = if self.plan.drain.ranges() > 1 { self.next + limits::BLOCK_BYTES as u64 } else { self.plan.end };
        self.ahead.front().map_or(until, |ahead| ahead.start).min(self.plan.end)
    }

    fn open_head(&mut self, end: u64) {
        if std::mem::take(&mut self.is_let_go) {
            resumed();
        }
        let open = range::open(self.caller.clone(), self.pin.clone(), self.next, end);
        let breaks = limits::DOWNLOAD_RESUMES_MAX - self.resumes_left;
        let clock = self.clock.clone();
        let opening = async move {
            // Breaks with next to nothing between them have a pause.
            if breaks > 1 {
                clock.sleep(back_off(breaks - 1)).await;
            }
            open.await
        };
        let opening = opening.in_current_span();
        self.head = Head::Opening(AbortOnDropHandle::new(tokio::spawn(opening)));
        self.head_end = end;
    }

    /// Starts ranges ahead of the head while blocks are to be had without waiting.
    fn reach_ahead(&mut self) {
        while self.ahead.len() + 1 < self.plan.drain.ranges() {
            let is_idle = matches!(self.head, Head::None);
            if is_idle && self.ahead.is_empty() {
                return;
            }
            // A head that was to be the only range ends early: what Dropbox sends beyond is dropped with its connection, once.
            let head_end = self.head_end.min(self.next + limits::BLOCK_BYTES as u64);
            let start = self.ahead.back().map_or(if is_idle { self.next } else { head_end }, |ahead| ahead.end);
            if start >= self.plan.end {
                return;
            }
            // Downloads side by side keep their ranges: all of them together never keep uploads from their blocks.
            if self.tally.held() >= self.blocks.budget_bytes() / limits::BLOCK_BYTES / limits::AHEAD_SHARE {
                return;
            }
            let Some(block) = self.blocks.more(self.caller.parameter(), self.ahead.len()) else { return };
            let block = block.counted(&self.tally);
            if self.ahead.is_empty() {
                self.head_end = head_end;
            }
            let end = self.plan.end.min(start + limits::BLOCK_BYTES as u64);
            let turn = Arc::new(Notify::new());
            let filling = fill(self.caller.clone(), self.pin.clone(), (start, end), block, turn.clone());
            let filling = AbortOnDropHandle::new(tokio::spawn(filling.in_current_span()));
            self.ahead.push_back(Ahead { start, end, turn, filling });
        }
    }

    /// The caller drains too little for what lies ahead of it to be kept, if this says so: it is read again when it comes to that.
    pub(super) fn let_go_ahead(&mut self, now: Duration) -> bool {
        let is_late = self.waiting.is_none() && self.plan.drain.is_late(now.saturating_sub(self.touched));
        if is_late {
            self.ahead.clear();
        }
        is_late
    }

    /// Whether the caller has left bytes waiting for at least so long. If so, nothing is held at Dropbox or of the budget
    /// any more: what was not handed on is read again when the caller comes back.
    pub(super) fn let_go(&mut self, now: Duration, idle: Duration) -> bool {
        if now.saturating_sub(self.touched) < idle || self.is_waited_for() {
            return false;
        }
        if !matches!(self.head, Head::None) || !self.ahead.is_empty() {
            tracing::debug!(at = self.next, "a download that nobody reads gives its place to others");
            self.is_let_go = true;
        }
        self.head = Head::None;
        self.ahead.clear();
        self.next -= self.rest.len() as u64;
        self.rest = Bytes::new();
        // It came once and has not come again although there was something: should it have been on its way, it finds out.
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
        true
    }

    /// The caller waits for Dropbox, and not the other way round.
    fn is_waited_for(&mut self) -> bool {
        let Some(waiting) = self.waiting.clone() else { return false };
        match &mut self.head {
            Head::Opening(opening) => !opening.is_finished(),
            // Asked on the caller's behalf: the next piece wakes it as before. A piece that was there is dropped with
            // its body.
            Head::Open(body) => body.poll_next(&mut Context::from_waker(&waiting)).is_pending(),
            Head::None => self.ahead.front().is_some_and(|segment| !segment.filling.is_finished()),
        }
    }
}

fn resumed() {
    metrics::counter!(crate::telemetry::TRANSFER_RESUMED, "direction" => "download").increment(1);
}

/// Reads a range until it is whole, or its turn has come: from there on it is read as any head.
async fn fill(
    caller: Caller,
    pin: Arc<Pin>,
    (start, end): (u64, u64),
    mut block: Block,
    turn: Arc<Notify>,
) -> Result<Filled> {
    let mut body = range::open(caller, pin, start, end).await?;
    let wanted = usize::try_from(end - start).unwrap_or(limits::BLOCK_BYTES);
    while block.len() < wanted {
        let bytes = tokio::select! {
            biased;
            () = turn.notified() => {
                let came = if block.is_empty() { Bytes::new() } else { block.freeze() };
                return Ok((came, Some(body)));
            }
            bytes = std::future::poll_fn(|context| body.poll_next(context)) => bytes,
        };
        let cut = || {
            Fault::new(Reason::DropboxUnavailable, "the body ended before its length").retry_after(limits::BUSY_RETRY)
        };
        let bytes = bytes.ok_or_else(cut)??;
        block.extend_from_slice(&bytes[..bytes.len().min(wanted - block.len())]);
    }
    Ok((block.freeze(), None))
}
