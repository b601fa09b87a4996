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
    ahead::{Aheads, Share},
    chunks::Chunks,
    drain::Drain,
    line::{Line, asked_max},
    range::{self, Pin, Ranged},
};
use crate::{
    clock::SharedClock,
    dropbox::Caller,
    engine::{blocks::Block, together::back_off},
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
    head_line: Arc<Line>,
    /// The shortest time an answer took. A longer one may have waited for a place of its account.
    answer: Option<Duration>,
    ahead: VecDeque<Ahead>,
    /// Read and not handed on.
    rest: Bytes,
    resumes_left: u32,
    /// Where the body broke last.
    broke_at: u64,
    aheads: Aheads,
    /// While ranges ahead are wanted.
    share: Option<Share>,
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
    line: Arc<Line>,
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
        aheads: Aheads,
        clock: SharedClock,
    ) -> Reader {
        let now = clock.steady();
        let head_line = Arc::new(Line::asked(now));
        if head.is_some() {
            // Its answer was asked for before, so how long that took is not told by it.
            head_line.answered(now);
        }
        let (head, head_end) = head.map_or((Head::None, plan.start), |(body, end)| (Head::Open(Box::new(body)), end));
        Reader {
            caller,
            pin: Arc::new(pin),
            next: plan.start,
            broke_at: plan.start,
            plan,
            head,
            head_end,
            head_line,
            answer: None,
            ahead: VecDeque::new(),
            rest: Bytes::new(),
            resumes_left: limits::DOWNLOAD_RESUMES_MAX,
            aheads,
            share: None,
            touched: now,
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
                        let (end, line) = (segment.end, segment.line.clone());
                        self.ahead.pop_front();
                        match filled {
                            Ok(Ok((bytes, body))) => {
                                self.next += bytes.len() as u64;
                                (self.head_end, self.head_line) = (end, line);
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
                        self.head_line.came(bytes.len());
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
        let (line, body) = self.ask(self.next, end);
        let breaks = limits::DOWNLOAD_RESUMES_MAX - self.resumes_left;
        let clock = self.clock.clone();
        let opening = async move {
            // Breaks with next to nothing between them have a pause.
            if breaks > 1 {
                clock.sleep(back_off(breaks - 1)).await;
            }
            body.await
        };
        let opening = opening.in_current_span();
        self.head = Head::Opening(AbortOnDropHandle::new(tokio::spawn(opening)));
        (self.head_end, self.head_line) = (end, line);
    }

    /// A range to be asked for, and its line.
    fn ask(&self, start: u64, end: u64) -> (Arc<Line>, impl Future<Output = Result<Ranged>> + use<>) {
        let line = Arc::new(Line::asked(self.clock.steady()));
        let open = range::open(self.caller.clone(), self.pin.clone(), start, end);
        let (noted, clock) = (line.clone(), self.clock.clone());
        let body = async move {
            let body = open.await?;
            noted.answered(clock.steady());
            Result::Ok(body)
        };
        (line, body)
    }

    /// Whether another range ahead of the head may be asked for.
    fn may_reach(&mut self) -> bool {
        let (ranges, asked) = (self.plan.drain.ranges(), self.ahead.len() + 1);
        if asked < ranges || asked >= asked_max(ranges, ranges) {
            return asked < ranges;
        }
        self.answer = self.ahead.iter().filter_map(|ahead| ahead.line.answer()).chain(self.answer).min();
        let Some(answer) = self.answer else { return false };
        let now = self.clock.steady();
        let head = (&self.head_line, self.head_end.saturating_sub(self.next));
        let ahead = self.ahead.iter().map(|ahead| (&ahead.line, ahead.line.left(ahead.end - ahead.start)));
        let ending = ahead.chain([head]).filter(|(line, left)| line.is_ending(*left, answer, now)).count();
        asked < asked_max(ranges, ending)
    }

    /// Starts ranges ahead of the head while blocks are to be had without waiting.
    fn reach_ahead(&mut self) {
        while self.may_reach() {
            let is_idle = matches!(self.head, Head::None);
            if is_idle && self.ahead.is_empty() {
                return;
            }
            // A head that was to be the only range ends early: what Dropbox sends beyond is dropped with its connection, once.
            let head_end = self.head_end.min(self.next + limits::BLOCK_BYTES as u64);
            let start = self.ahead.back().map_or(if is_idle { self.next } else { head_end }, |ahead| ahead.end);
            if start >= self.plan.end {
                // All is asked for.
                self.share = None;
                return;
            }
            let share = self.share.get_or_insert_with(|| self.aheads.share());
            let Some(block) = share.block(self.caller.parameter(), self.ahead.len()) else { return };
            if self.ahead.is_empty() {
                self.head_end = head_end;
            }
            let end = self.plan.end.min(start + limits::BLOCK_BYTES as u64);
            let (line, body) = self.ask(start, end);
            let turn = Arc::new(Notify::new());
            let filling = fill(body, end - start, block, line.clone(), turn.clone());
            let filling = AbortOnDropHandle::new(tokio::spawn(filling.in_current_span()));
            self.ahead.push_back(Ahead { start, end, line, turn, filling });
        }
    }

    /// The caller drains too little for what lies ahead of it to be kept, if this says so: it is read again when it comes to that.
    pub(super) fn let_go_ahead(&mut self, now: Duration) -> bool {
        let is_late = self.waiting.is_none() && self.plan.drain.is_late(now.saturating_sub(self.touched));
        if is_late {
            self.ahead.clear();
            self.share = None;
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
        self.share = None;
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
    body: impl Future<Output = Result<Ranged>>,
    bytes: u64,
    mut block: Block,
    line: Arc<Line>,
    turn: Arc<Notify>,
) -> Result<Filled> {
    let mut body = body.await?;
    let wanted = usize::try_from(bytes).unwrap_or(limits::BLOCK_BYTES);
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
        let mut bytes = bytes.ok_or_else(cut)??;
        bytes.truncate(wanted - block.len());
        line.came(bytes.len());
        block.extend_from_slice(&bytes);
    }
    Ok((block.freeze(), None))
}
