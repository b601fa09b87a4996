//! One watch under way: it waits for whatever comes first of a happening, a heartbeat, its end and the server's, and says it.
//! Every message carries the token behind it. An event's bytes are made for the first watcher and shared by all others.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{BufMut, Bytes, BytesMut};
use dropbox_sdk::types::files;
use futures::{
    StreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use prost::Message as _;
use smallvec::{SmallVec, smallvec};
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;

use super::{
    Events, end_ahead, jail_mark,
    settle::Settling,
    spread,
    told::{self, Taste},
};
use crate::{
    api::{
        Encoded,
        plain::{WatchEventsResponse, watch_events_response::Payload},
        v1 as api,
    },
    convert::{self, events::WatchPlan},
    events::{Entry, Few, Happening, ResumePoint, Resync, Watcher},
    fault::{Fault, Reason, Result},
    limits::{DRAINING_RETRY, HEARTBEAT_SPREAD, SNAPSHOT_BYTES_MAX, STREAM_AGE_SPREAD, WATCH_YIELD_BYTES},
    service::{call::Call, door::Audience, doze::Doze, items::Answers, pages, pieces},
};

/// Items of one message of a snapshot.
const SNAPSHOT_ITEMS_MAX: usize = 500;

/// It is kept in a box: it is moved for every message.
pub struct Watch {
    events: Arc<Events>,
    call: Call,
    audience: Audience,
    watcher: Watcher,
    taste: Taste,
    jail: [u8; 8],
    /// Boxed, as what few watches have: thousands are kept.
    settling: Option<Box<Settling>>,
    /// Made, not sent yet.
    ready: Few<Encoded>,
    /// Behind everything that was made.
    place: Place,
    /// Something of the batch under way was told.
    told_of_batch: bool,
    /// Items of the snapshot that were told.
    listed: i64,
    heartbeat: Duration,
    /// This and the next ones by steady time.
    spoke_at: Duration,
    ends_at: Duration,
    /// What interrupts the wait for happenings, and when the clock does.
    interrupt: Doze<Interrupt>,
    timer_at: Duration,
    overdue: Option<Instant>,
    /// Why it ends, once what is made was sent.
    end: Option<Fault>,
    ended: bool,
    _permit: OwnedSemaphorePermit,
}

/// What a token is made of, when one is needed: most watches never need their own.
enum Place {
    Entry(Arc<Entry>),
    Point(ResumePoint),
}

#[derive(Debug, Clone, Copy)]
enum Interrupt {
    Timer,
    Overdue,
    Draining,
}

impl Watch {
    pub(super) fn new(
        events: &Arc<Events>,
        call: Call,
        audience: Audience,
        watcher: Watcher,
        taste: Taste,
        plan: &WatchPlan,
        permit: OwnedSemaphorePermit,
    ) -> Watch {
        let clock = &events.door.clock;
        let now = clock.steady();
        let heartbeat = spread(plan.heartbeat, HEARTBEAT_SPREAD);
        let ends_at = now + spread(events.stream_age, STREAM_AGE_SPREAD);
        let timer_at = ends_at.min(now + heartbeat);
        let overdue = call.deadline().map(|deadline| deadline - end_ahead(deadline));
        Watch {
            jail: jail_mark(audience.jail().prefix()),
            settling: (!plan.settle.is_zero()).then(|| Box::new(Settling::new(plan.settle))),
            ready: Few::new(),
            place: Place::Point(watcher.point()),
            told_of_batch: false,
            listed: 0,
            heartbeat,
            spoke_at: now,
            ends_at,
            interrupt: interrupt(events, timer_at, overdue),
            timer_at,
            overdue,
            end: None,
            ended: false,
            _permit: permit,
            events: events.clone(),
            call,
            audience,
            watcher,
            taste,
        }
    }

    /// As messages, for the codec.
    pub fn answers(self: Box<Watch>) -> Answers<Encoded> {
        stream::unfold(self, |mut watch| async move {
            let answer = watch.next().await?;
            Some((answer, watch))
        })
        .boxed()
    }

    /// As frames of gRPC.
    pub fn pieces(self: Box<Watch>) -> BoxStream<'static, Result<Bytes, Status>> {
        stream::unfold(self, |mut watch| async move {
            let piece = watch.next_piece().await?;
            Some((piece, watch))
        })
        .boxed()
    }

    /// The next message, and what else can be told without waiting.
    async fn next_piece(&mut self) -> Option<Result<Bytes, Status>> {
        let first = match self.next().await? {
            Ok(message) => message,
            Err(status) => return Some(Err(status)),
        };
        Some(Ok(self.piece(first)))
    }

    fn piece(&mut self, first: Encoded) -> Bytes {
        let mut bytes = first.bytes().len();
        let mut messages: SmallVec<[Encoded; 4]> = smallvec![first];
        while bytes < WATCH_YIELD_BYTES {
            if let Some(message) = self.ready.pop_front() {
                bytes += message.bytes().len();
                messages.push(message);
                continue;
            }
            if self.end.is_some() || self.ended {
                break;
            }
            let Some(made) = self.tell_at_hand() else { break };
            self.end = made.err();
        }
        pieces::joined(&messages)
    }

    async fn next(&mut self) -> Option<Result<Encoded, Status>> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                self.spoke_at = self.events.door.clock.steady();
                return Some(Ok(message));
            }
            if let Some(fault) = self.end.take() {
                self.ended = true;
                return Some(Err(self.call.refusal(&self.audience.told(fault))));
            }
            if self.ended {
                return None;
            }
            // What is at hand is said before anything is waited for.
            let made = match self.tell_at_hand() {
                Some(made) => made,
                None => self.step().await,
            };
            if let Err(fault) = made {
                self.end = Some(fault);
            }
        }
    }

    /// Makes what is to be said of what was read already; `None`: it is all said. By itself, since a future keeps whatever is
    /// looked at beside what it waits for.
    fn tell_at_hand(&mut self) -> Option<Result<()>> {
        match self.watcher.at_hand() {
            Ok(Some(happening)) => Some(self.happened(happening)),
            Ok(None) => None,
            Err(fault) => Some(Err(fault)),
        }
    }

    /// Waits for the next thing and makes what is to be said of it.
    async fn step(&mut self) -> Result<()> {
        let interrupt = tokio::select! {
            biased;
            interrupt = &mut self.interrupt => interrupt,
            happening = self.watcher.next() => return self.happened(happening?),
        };
        match interrupt {
            Interrupt::Timer => self.look_at_the_clock(),
            Interrupt::Overdue => {
                let text = "the watch ends before its deadline; call again with the last resume_token";
                self.leave(Fault::new(Reason::DeadlineExceeded, text).retry_after(DRAINING_RETRY))
            }
            Interrupt::Draining => {
                let fault = Fault::new(Reason::ServerDraining, "this server is going down; call again elsewhere");
                self.leave(fault.retry_after(DRAINING_RETRY))
            }
        }
    }

    fn happened(&mut self, happening: Happening) -> Result<()> {
        let (point, payload) = match happening {
            Happening::Event(entry) => return self.event(entry),
            Happening::BatchEnd(entry) => return self.batch_end(entry),
            Happening::Snapshot { items, point } => return self.snapshot(items, point),
            Happening::Ready(point) => (point, Payload::Ready(api::WatchReady {})),
            Happening::SnapshotEnd { point, .. } => {
                let count = std::mem::take(&mut self.listed);
                (point, Payload::SnapshotEnd(api::SnapshotEnd { count }))
            }
            Happening::CursorReset { resync, cause, point } => {
                // What happened before it is not told behind it.
                let waiting = self.settling.as_deref_mut().map(Settling::all);
                self.tell_settled(waiting.unwrap_or_default())?;
                let resync = resync == Resync::Differences;
                (point, Payload::CursorReset(api::CursorReset { reason: cause, resync }))
            }
        };
        self.place = Place::Point(point);
        let token = self.floor()?;
        self.say(&token, payload);
        Ok(())
    }

    fn event(&mut self, entry: Arc<Entry>) -> Result<()> {
        let before = std::mem::replace(&mut self.place, Place::Entry(entry.clone()));
        let Some(change) = entry.change().filter(|change| self.taste.wants(change)) else { return Ok(()) };
        if self.settling.is_some() {
            let before = self.sealed(&before)?;
            let Some(told) = told::change_event(&entry, change, self.audience.jail()) else { return Ok(()) };
            let now = self.events.door.clock.steady();
            let due = self.settling.as_mut().map(|settling| settling.take(told, before, now));
            self.tell_settled(due.unwrap_or_default())?;
            self.wake_by_next_due();
            return Ok(());
        }
        let told = || told::change_event(&entry, change, self.audience.jail()).map(Payload::Change);
        let Some(bytes) = self.shared(&entry, told)? else { return Ok(()) };
        self.told_of_batch = true;
        self.events.count(told::change_type(change.kind));
        self.ready.push_back(Encoded::ready(bytes));
        Ok(())
    }

    fn batch_end(&mut self, entry: Arc<Entry>) -> Result<()> {
        self.place = Place::Entry(entry.clone());
        if !std::mem::take(&mut self.told_of_batch) {
            return Ok(());
        }
        let payload = Payload::BatchEnd(api::BatchEnd {});
        if let Some(floor) = self.settling.as_deref().and_then(Settling::floor) {
            self.say(&floor, payload);
        } else if let Some(bytes) = self.shared(&entry, || Some(payload))? {
            self.ready.push_back(Encoded::ready(bytes));
        }
        Ok(())
    }

    /// The message of an entry, made by the first watch that needs it; `None` if there is nothing to say.
    fn shared(&self, entry: &Entry, payload: impl FnOnce() -> Option<Payload>) -> Result<Option<Bytes>> {
        let mark = self.jail.as_slice();
        if let Some(bytes) = entry.encoded.get().filter(|bytes| bytes.starts_with(mark)) {
            return Ok(Some(bytes.slice(mark.len()..)));
        }
        let Some(payload) = payload() else { return Ok(None) };
        let message = response(&entry.token(&self.events.door.keys, self.watcher.scope())?, payload);
        let mut bytes = BytesMut::with_capacity(mark.len() + message.encoded_len());
        bytes.put_slice(mark);
        bytes.put(message.encode_to_vec().as_slice());
        let bytes: Bytes = bytes.freeze();
        // Another jail's bytes may be there already: then these are this watch's alone.
        let _ = entry.encoded.set(bytes.clone());
        Ok(Some(bytes.slice(mark.len()..)))
    }

    /// A page of a snapshot, as messages of bounded size. Only the last of them has the page behind it.
    fn snapshot(&mut self, items: Vec<files::Metadata>, point: ResumePoint) -> Result<()> {
        let before = self.floor()?;
        self.place = Place::Point(point);
        let token = self.floor()?;
        let jail = self.audience.jail();
        let wanted = items.into_iter().filter(|item| self.taste.wants_item(item));
        let mut items = wanted.filter_map(|item| convert::items::item(item, jail)).peekable();
        let mut messages = Vec::new();
        while items.peek().is_some() {
            let mut answer = pages::Answer::bounded(SNAPSHOT_ITEMS_MAX, SNAPSHOT_BYTES_MAX);
            while let Some(item) = items.next_if(|item| answer.has_room(item)) {
                answer.put(item);
            }
            messages.push(answer.taken);
        }
        drop(items);
        let last = messages.len().saturating_sub(1);
        for (index, items) in messages.into_iter().enumerate() {
            self.listed += i64::try_from(items.len()).unwrap_or(i64::MAX);
            let token = if index == last { &token } else { &before };
            self.say(token, Payload::Snapshot(api::Snapshot { items }));
        }
        Ok(())
    }

    /// Says what is due by the clock, and sets the timer for what is next.
    fn look_at_the_clock(&mut self) -> Result<()> {
        let now = self.events.door.clock.steady();
        if now >= self.ends_at {
            let text = "the watch has reached its age; call again with the last resume_token";
            return self.leave(Fault::new(Reason::ServerDraining, text).retry_after(DRAINING_RETRY));
        }
        if let Some(settling) = &mut self.settling {
            let due = settling.due(now);
            self.tell_settled(due)?;
        }
        if now >= self.spoke_at + self.heartbeat && self.ready.is_empty() {
            let lag = self.watcher.lag();
            let time = self.events.door.clock.now();
            let observed_time = time.checked_sub(lag).unwrap_or(time);
            let heartbeat = api::Heartbeat {
                observed_time: Some(convert::timestamp(observed_time)),
                lag: Some(convert::duration(lag)),
            };
            if self.settling.as_deref().is_none_or(Settling::is_empty) {
                self.place = Place::Point(self.watcher.point());
            }
            let token = self.floor()?;
            self.say(&token, Payload::Heartbeat(heartbeat));
            self.spoke_at = now;
        }
        let due = self.settling.as_deref().and_then(Settling::next_due);
        let next = (self.spoke_at + self.heartbeat).min(self.ends_at);
        self.set_timer(due.map_or(next, |due| due.min(next)));
        Ok(())
    }

    fn set_timer(&mut self, at: Duration) {
        self.timer_at = at;
        self.interrupt = interrupt(&self.events, at, self.overdue);
    }

    fn wake_by_next_due(&mut self) {
        if let Some(due) = self.settling.as_deref().and_then(Settling::next_due)
            && due < self.timer_at
        {
            self.set_timer(due);
        }
    }

    /// Events whose paths have been quiet. What still waits is told again to whoever comes back with their token.
    fn tell_settled(&mut self, due: Vec<api::ChangeEvent>) -> Result<()> {
        if due.is_empty() {
            return Ok(());
        }
        let floor = self.floor()?;
        for change in due {
            self.events.count(change.change_type());
            self.told_of_batch = true;
            self.say(&floor, Payload::Change(change));
        }
        Ok(())
    }

    /// The token behind which nothing is left untold.
    fn floor(&self) -> Result<Arc<str>> {
        let waiting = self.settling.as_deref().and_then(Settling::floor);
        waiting.map_or_else(|| self.sealed(&self.place), Ok)
    }

    fn sealed(&self, place: &Place) -> Result<Arc<str>> {
        match place {
            Place::Entry(entry) => entry.token(&self.events.door.keys, self.watcher.scope()),
            Place::Point(point) => self.events.hub.seal(self.watcher.scope(), point),
        }
    }

    /// Says goodbye, then ends with this fault.
    fn leave(&mut self, fault: Fault) -> Result<()> {
        let token = self.floor()?;
        self.say(&token, Payload::Draining(api::Draining {}));
        self.end = Some(fault);
        Ok(())
    }

    fn say(&mut self, token: &str, payload: Payload) {
        self.ready.push_back(Encoded::from(&response(token, payload)));
    }
}

fn interrupt(events: &Events, timer_at: Duration, overdue: Option<Instant>) -> Doze<Interrupt> {
    let clock = &events.door.clock;
    let (draining, timer) = (events.draining.clone(), clock.sleep(timer_at.saturating_sub(clock.steady())));
    // Few watches have a deadline: the others keep no room for its timer.
    let overdue: BoxFuture<'static, ()> = match overdue {
        Some(at) => Box::pin(tokio::time::sleep_until(at.into())),
        None => Box::pin(std::future::pending()),
    };
    Doze::new(async move {
        tokio::select! {
            biased;
            () = draining.cancelled() => Interrupt::Draining,
            () = overdue => Interrupt::Overdue,
            () = timer => Interrupt::Timer,
        }
    })
}

fn response(token: &str, payload: Payload) -> WatchEventsResponse {
    WatchEventsResponse { resume_token: token.to_owned(), payload: Some(payload) }
}
