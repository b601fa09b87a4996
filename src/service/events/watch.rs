//! One watch under way: it waits for whatever comes first of a happening, a heartbeat, its end and the server's, and says it.
//! Every message carries the token behind it. An event's bytes are made for the first watcher and shared by all others.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{BufMut, Bytes, BytesMut};
use dropbox_sdk::types::files;
use futures::{StreamExt as _, future::BoxFuture, stream};
use prost::Message as _;
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
    events::{Entry, Happening, Resync, Scope, Watcher},
    fault::{Fault, Reason, Result},
    limits::{DRAINING_RETRY, HEARTBEAT_SPREAD, SNAPSHOT_BYTES_MAX, STREAM_AGE_SPREAD},
    service::{call::Call, door::Site, items::Answers, pages},
};

/// Items of one message of a snapshot.
const SNAPSHOT_ITEMS_MAX: usize = 500;

pub(super) struct Watch {
    events: Events,
    call: Call,
    site: Site,
    scope: Scope,
    watcher: Watcher,
    taste: Taste,
    jail: [u8; 8],
    settling: Option<Settling>,
    /// Made, not sent yet.
    ready: VecDeque<Encoded>,
    /// Behind everything that was made.
    token: Arc<str>,
    /// Something of the batch under way was told.
    told_of_batch: bool,
    /// Items of the snapshot that were told.
    listed: i64,
    heartbeat: Duration,
    /// This and the next ones by steady time.
    spoke_at: Duration,
    ends_at: Duration,
    timer: BoxFuture<'static, ()>,
    timer_at: Duration,
    overdue: Option<Pin<Box<tokio::time::Sleep>>>,
    /// Why it ends, once what is made was sent.
    end: Option<Fault>,
    ended: bool,
    _place: OwnedSemaphorePermit,
}

enum Next {
    Happening(Result<Happening>),
    Timer,
    Overdue,
    Draining,
}

impl Watch {
    #[expect(clippy::too_many_arguments, reason = "taken apart at once, made in one place")]
    pub fn new(
        events: &Events,
        call: Call,
        site: Site,
        scope: Scope,
        watcher: Watcher,
        taste: Taste,
        plan: &WatchPlan,
        place: OwnedSemaphorePermit,
    ) -> Result<Watch> {
        let clock = &events.door.clock;
        let now = clock.steady();
        let heartbeat = spread(plan.heartbeat, HEARTBEAT_SPREAD);
        let ends_at = now + spread(events.stream_age, STREAM_AGE_SPREAD);
        let timer_at = ends_at.min(now + heartbeat);
        let overdue = call.deadline().map(|deadline| deadline - end_ahead(deadline));
        let token = events.hub.seal(&scope, &watcher.point())?;
        Ok(Watch {
            jail: jail_mark(site.jail().prefix()),
            settling: (!plan.settle.is_zero()).then(|| Settling::new(plan.settle)),
            ready: VecDeque::new(),
            token,
            told_of_batch: false,
            listed: 0,
            heartbeat,
            spoke_at: now,
            ends_at,
            timer: clock.sleep(timer_at - now),
            timer_at,
            overdue: overdue.map(|at: Instant| Box::pin(tokio::time::sleep_until(at.into()))),
            end: None,
            ended: false,
            _place: place,
            events: events.clone(),
            call,
            site,
            scope,
            watcher,
            taste,
        })
    }

    pub fn answers(self) -> Answers<Encoded> {
        stream::unfold(self, |mut watch| async move {
            let answer = watch.next().await?;
            Some((answer, watch))
        })
        .boxed()
    }

    async fn next(&mut self) -> Option<Result<Encoded, Status>> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                self.spoke_at = self.events.door.clock.steady();
                return Some(Ok(message));
            }
            if let Some(fault) = self.end.take() {
                self.ended = true;
                return Some(Err(self.call.refusal(&self.site.told(fault))));
            }
            if self.ended {
                return None;
            }
            if let Err(fault) = self.step().await {
                self.end = Some(fault);
            }
        }
    }

    /// Waits for the next thing and makes what is to be said of it.
    async fn step(&mut self) -> Result<()> {
        let overdue = async {
            match &mut self.overdue {
                Some(overdue) => overdue.await,
                None => std::future::pending().await,
            }
        };
        let next = tokio::select! {
            biased;
            () = self.events.draining.cancelled() => Next::Draining,
            () = overdue => Next::Overdue,
            () = &mut self.timer => Next::Timer,
            happening = self.watcher.next() => Next::Happening(happening),
        };
        match next {
            Next::Happening(happening) => self.happened(happening?),
            Next::Timer => self.look_at_the_clock(),
            Next::Overdue => {
                let text = "the watch ends before its deadline; call again with the last resume_token";
                self.leave(Fault::new(Reason::DeadlineExceeded, text).retry_after(DRAINING_RETRY))
            }
            Next::Draining => {
                let fault = Fault::new(Reason::ServerDraining, "this server is going down; call again elsewhere");
                self.leave(fault.retry_after(DRAINING_RETRY))
            }
        }
    }

    fn happened(&mut self, happening: Happening) -> Result<()> {
        let token = self.events.token(&self.scope, &happening)?;
        match happening {
            Happening::Event(entry) => return self.event(&entry, token),
            Happening::Snapshot { items, .. } => return self.snapshot(items, token),
            Happening::BatchEnd(_) => {
                if std::mem::take(&mut self.told_of_batch) {
                    self.say(token.clone(), Payload::BatchEnd(api::BatchEnd {}));
                }
            }
            Happening::Ready(_) => self.say(token.clone(), Payload::Ready(api::WatchReady {})),
            Happening::SnapshotEnd { .. } => {
                let count = std::mem::take(&mut self.listed);
                self.say(token.clone(), Payload::SnapshotEnd(api::SnapshotEnd { count }));
            }
            Happening::CursorReset { resync, cause, .. } => {
                let resync = resync == Resync::Differences;
                self.say(token.clone(), Payload::CursorReset(api::CursorReset { reason: cause, resync }));
            }
        }
        self.token = token;
        Ok(())
    }

    fn event(&mut self, entry: &Arc<Entry>, token: Arc<str>) -> Result<()> {
        let before = std::mem::replace(&mut self.token, token.clone());
        let Some(change) = entry.change().filter(|change| self.taste.wants(change)) else { return Ok(()) };
        if let Some(settling) = &mut self.settling {
            let Some(told) = told::change_event(entry, change, self.site.jail()) else { return Ok(()) };
            let now = self.events.door.clock.steady();
            let due = settling.take(told, before, now);
            self.tell_settled(due);
            self.wake_by_next_due();
            return Ok(());
        }
        let known = entry.encoded.get().filter(|bytes| bytes.starts_with(&self.jail));
        let bytes = match known {
            Some(bytes) => bytes.clone(),
            None => {
                let Some(told) = told::change_event(entry, change, self.site.jail()) else { return Ok(()) };
                let message = response(&token, Payload::Change(told));
                let mut bytes = BytesMut::with_capacity(self.jail.len() + message.encoded_len());
                bytes.put_slice(&self.jail);
                bytes.put(message.encode_to_vec().as_slice());
                let bytes: Bytes = bytes.freeze();
                // Another jail's bytes may be there already: then these are this watcher's alone.
                let _ = entry.encoded.set(bytes.clone());
                bytes
            }
        };
        self.told_of_batch = true;
        self.events.count(told::change_type(change.kind));
        self.ready.push_back(Encoded::ready(bytes.slice(self.jail.len()..)));
        Ok(())
    }

    /// A page of a snapshot, as messages of bounded size. Only the last of them has the page behind it.
    fn snapshot(&mut self, items: Vec<files::Metadata>, token: Arc<str>) -> Result<()> {
        let before = std::mem::replace(&mut self.token, token.clone());
        let jail = self.site.jail();
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
            let token = if index == last { token.clone() } else { before.clone() };
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
            self.tell_settled(due);
        }
        if now >= self.spoke_at + self.heartbeat && self.ready.is_empty() {
            let lag = self.watcher.lag();
            let time = self.events.door.clock.now();
            let observed_time = time.checked_sub(lag).unwrap_or(time);
            let heartbeat = api::Heartbeat {
                observed_time: Some(convert::timestamp(observed_time)),
                lag: Some(convert::duration(lag)),
            };
            if self.settling.as_ref().is_none_or(Settling::is_empty) {
                self.token = self.events.hub.seal(&self.scope, &self.watcher.point())?;
            }
            self.say(self.floor(), Payload::Heartbeat(heartbeat));
            self.spoke_at = now;
        }
        let due = self.settling.as_ref().and_then(Settling::next_due);
        let next = (self.spoke_at + self.heartbeat).min(self.ends_at);
        self.set_timer(due.map_or(next, |due| due.min(next)));
        Ok(())
    }

    fn set_timer(&mut self, at: Duration) {
        let clock = &self.events.door.clock;
        self.timer_at = at;
        self.timer = clock.sleep(at.saturating_sub(clock.steady()));
    }

    fn wake_by_next_due(&mut self) {
        if let Some(due) = self.settling.as_ref().and_then(Settling::next_due)
            && due < self.timer_at
        {
            self.set_timer(due);
        }
    }

    /// Events whose paths have been quiet. What still waits is told again to whoever comes back with their token.
    fn tell_settled(&mut self, due: Vec<api::ChangeEvent>) {
        let floor = self.floor();
        for change in due {
            self.events.count(change.change_type());
            self.told_of_batch = true;
            self.say(floor.clone(), Payload::Change(change));
        }
    }

    /// The token behind which nothing is left untold.
    fn floor(&self) -> Arc<str> {
        let waiting = self.settling.as_ref().and_then(Settling::floor);
        waiting.unwrap_or_else(|| self.token.clone())
    }

    /// Says goodbye, then ends with this fault.
    fn leave(&mut self, fault: Fault) -> Result<()> {
        self.say(self.floor(), Payload::Draining(api::Draining {}));
        self.end = Some(fault);
        Ok(())
    }

    fn say(&mut self, token: Arc<str>, payload: Payload) {
        let token = self.settling.as_ref().and_then(Settling::floor).unwrap_or(token);
        self.ready.push_back(Encoded::from(&response(&token, payload)));
    }
}

fn response(token: &str, payload: Payload) -> WatchEventsResponse {
    WatchEventsResponse { resume_token: token.to_owned(), payload: Some(payload) }
}
