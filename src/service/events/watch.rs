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
    settle::{Coming, Going, Settling},
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
    events::{ChangeKind, Entry, Few, Happening, ResumePoint, Resync, Watcher},
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
    /// Entries came since the last batch ended.
    in_batch: bool,
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
            settling: None,
            ready: Few::new(),
            place: Place::Point(watcher.point()),
            told_of_batch: false,
            in_batch: false,
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

    /// Its events wait for so long until their paths are quiet; also if that is no time at all, where it comes back to
    /// something that waited.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub(super) async fn settle(&mut self, span: Duration) -> Result<()> {
        if !span.is_zero() || self.watcher.is_ahead() {
            self.settling = Some(Box::new(Settling::new(span, self.watcher.told_until().await?)));
        }
        Ok(())
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
        let happening = match happening {
            Happening::Event(entry) => return self.event(entry),
            Happening::BatchEnd(entry) => return self.batch_end(entry),
            other => other,
        };
        // What happened before it is not told behind it.
        self.tell_waiting()?;
        let (point, payload) = match happening {
            Happening::Event(_) | Happening::BatchEnd(_) => return Ok(()),
            Happening::Snapshot { items, point } => return self.snapshot(items, point),
            Happening::Ready(point) => (point, Payload::Ready(api::WatchReady {})),
            Happening::Joined(point) => (point, self.heartbeat_now()),
            Happening::SnapshotEnd { point, .. } => {
                let count = std::mem::take(&mut self.listed);
                (point, Payload::SnapshotEnd(api::SnapshotEnd { count }))
            }
            Happening::CursorReset { resync, cause, point } => {
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
        self.in_batch = true;
        let Some(change) = entry.change() else { return Ok(()) };
        if let Some(settling) = self.settling.as_deref().filter(|_| entry.logged) {
            let Some(told) = told::change_event(&entry, change, self.audience.jail()) else { return Ok(()) };
            // Of what type it is and whether it is wanted is said of the sum, which what is new may begin.
            let sides = self.taste.sides(change);
            if !sides.any() && change.kind != ChangeKind::Created && !settling.has(&told) {
                return Ok(());
            }
            let before_it = match &before {
                Place::Entry(entry) => entry.point.bare(),
                Place::Point(point) => point.bare(),
            };
            if entry.is_one_by_one() {
                // What is told before it leaves it untold.
                self.place = before;
            }
            let coming = Coming {
                change: told,
                number: entry.number(),
                before: before_it,
                // A folder's rows follow its event, however many they are.
                is_urgent: entry.is_one_by_one(),
                sides,
            };
            let now = self.events.door.clock.steady();
            if let Some(settling) = &mut self.settling {
                settling.take(coming, now);
                settling.look(now);
            }
            self.tell_settled(Some(&entry))?;
            self.place = Place::Entry(entry);
            self.wake_by_next_due();
            return Ok(());
        }
        if self.settling.is_some() {
            // It has no number by which a token could name it: what waits is told before it.
            self.place = before;
            self.tell_waiting()?;
            self.place = Place::Entry(entry.clone());
        }
        if !self.taste.wants(change) {
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
        self.in_batch = false;
        if self.settling.is_some() {
            return self.settled_batch();
        }
        if std::mem::take(&mut self.told_of_batch)
            && let Some(bytes) = self.shared(&entry, || Some(Payload::BatchEnd(api::BatchEnd {})))?
        {
            self.ready.push_back(Encoded::ready(bytes));
        }
        Ok(())
    }

    /// Says that a batch is over, and all of it told, if that is so.
    fn settled_batch(&mut self) -> Result<()> {
        let waits = self.settling.as_deref().is_some_and(|settling| !settling.is_empty());
        if self.in_batch || waits || !std::mem::take(&mut self.told_of_batch) {
            return Ok(());
        }
        let token = self.floor()?;
        self.say(&token, Payload::BatchEnd(api::BatchEnd {}));
        Ok(())
    }

    /// The message of an entry, made by the first watch that needs it; `None` if there is nothing to say.
    fn shared(&self, entry: &Entry, payload: impl FnOnce() -> Option<Payload>) -> Result<Option<Bytes>> {
        let token = || entry.token(&self.events.door.keys, self.watcher.scope());
        shared(entry, self.jail.as_slice(), token, payload)
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
            settling.look(now);
            self.tell_settled(None)?;
            self.settled_batch()?;
        }
        if now >= self.spoke_at + self.heartbeat && self.ready.is_empty() {
            if self.settling.as_deref().is_none_or(Settling::is_empty) {
                self.place = Place::Point(self.watcher.point());
            }
            let token = self.floor()?;
            self.say(&token, self.heartbeat_now());
            self.spoke_at = now;
        }
        let due = self.settling.as_deref().and_then(Settling::next_due);
        let next = (self.spoke_at + self.heartbeat).min(self.ends_at);
        self.set_timer(due.map_or(next, |due| due.min(next)));
        Ok(())
    }

    fn heartbeat_now(&self) -> Payload {
        let lag = self.watcher.lag();
        let time = self.events.door.clock.now();
        let observed_time = time.checked_sub(lag).unwrap_or(time);
        Payload::Heartbeat(api::Heartbeat {
            observed_time: Some(convert::timestamp(observed_time)),
            lag: Some(convert::duration(lag)),
        })
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

    /// Events whose paths have been quiet, each with the place at which the others wait still. `here`: the entry that came just
    /// now, which is told when its turn has come.
    fn tell_settled(&mut self, here: Option<&Arc<Entry>>) -> Result<()> {
        while let Some(Going { change, is_urgent, sides }) = self.settling.as_deref_mut().and_then(Settling::next) {
            if let Some(here) = here.filter(|_| is_urgent) {
                self.place = Place::Entry(here.clone());
            }
            if !sides.any() || !self.taste.types.holds(change.change_type()) {
                continue;
            }
            let floor = self.floor()?;
            self.say_change(&floor, change);
        }
        Ok(())
    }

    /// All that waits, before its time.
    fn tell_waiting(&mut self) -> Result<()> {
        if let Some(settling) = &mut self.settling {
            settling.hurry();
        }
        self.tell_settled(None)
    }

    fn say_change(&mut self, token: &str, change: api::ChangeEvent) {
        self.events.count(change.change_type());
        self.told_of_batch = true;
        self.say(token, Payload::Change(change));
    }

    /// The token behind which nothing is left untold.
    fn floor(&self) -> Result<Arc<str>> {
        let Some(settling) = self.settling.as_deref().filter(|settling| !settling.is_empty()) else {
            return self.sealed(&self.place);
        };
        let floor = settling.floor(&self.point(&self.place));
        self.events.hub.seal(self.watcher.scope(), &floor.unwrap_or_else(|| self.point(&self.place)))
    }

    fn sealed(&self, place: &Place) -> Result<Arc<str>> {
        match place {
            Place::Entry(entry) if !self.watcher.is_ahead() => {
                entry.token(&self.events.door.keys, self.watcher.scope())
            }
            place => self.events.hub.seal(self.watcher.scope(), &self.point(place)),
        }
    }

    fn point(&self, place: &Place) -> ResumePoint {
        let point = match place {
            Place::Entry(entry) => &entry.point,
            Place::Point(point) => point,
        };
        self.watcher.with_ahead(point).unwrap_or_else(|| point.clone())
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

/// The message of an entry as watches of one jail (`mark`) share it, made by the first that needs it.
fn shared(
    entry: &Entry,
    mark: &[u8],
    token: impl FnOnce() -> Result<Arc<str>>,
    payload: impl FnOnce() -> Option<Payload>,
) -> Result<Option<Bytes>> {
    if let Some(bytes) = entry.encoded.get().filter(|bytes| bytes.starts_with(mark)) {
        return Ok(Some(bytes.slice(mark.len()..)));
    }
    let Some(payload) = payload() else { return Ok(None) };
    let message = response(&token()?, payload);
    let mut bytes = BytesMut::with_capacity(mark.len() + message.encoded_len());
    bytes.put_slice(mark);
    bytes.put(message.encode_to_vec().as_slice());
    let bytes: Bytes = bytes.freeze();
    // Another jail's bytes may be there already: then these are this watch's alone.
    let _ = entry.encoded.set(bytes.clone());
    Ok(Some(bytes.slice(mark.len()..)))
}

fn response(token: &str, payload: Payload) -> WatchEventsResponse {
    WatchEventsResponse { resume_token: token.to_owned(), payload: Some(payload) }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use serde_json::json;

    use super::*;
    use crate::{
        convert::path::Jail,
        counted_tests::counted,
        events::{Basis, Change, ItemKind, Told},
    };

    const WATCHES: usize = 100;

    fn updated() -> Entry {
        let path = "/Some Team/Some Project/Reports of the year/Report of the month.pdf";
        let item = json!({
            ".tag": "file", "name": "Report of the month.pdf", "id": "id:a4ayc_80_OEAAAAAAAAAXw", "rev": "a1c10ce0dd78",
            "client_modified": "2026-01-01T00:00:00Z", "server_modified": "2026-01-01T00:00:00Z", "size": 7212,
            "path_lower": path.to_lowercase(), "path_display": path, "is_downloadable": true, "content_hash": "0a".repeat(32),
        });
        let change = Change {
            kind: ChangeKind::Updated,
            basis: Basis::Index,
            item_kind: ItemKind::File,
            item: serde_json::from_str(&item.to_string()).expect("a file"),
            id: Some("id:a4ayc_80_OEAAAAAAAAAXw".to_owned()),
            previous_path: None,
            previous_rev: Some("a1c10ce0dd77".to_owned()),
            before: None,
            folder: None,
        };
        let point = json!({ "e": 7, "s": 11, "m": 13, "c": "c".repeat(120) });
        let point = serde_json::from_value(point).expect("a point");
        Entry::new(point, SystemTime::UNIX_EPOCH, Told::Change(Box::new(change)), true)
    }

    #[test]
    fn one_event_for_100_watches_is_counted() {
        let (entry, jail) = (updated(), Jail::new("").expect("none"));
        let (mark, token) = (jail_mark(jail.prefix()), Arc::<str>::from("t".repeat(300)));
        let change = entry.change().expect("a change");
        let sent: Vec<Bytes> = counted(|| {
            let message = |_| {
                let told = || told::change_event(&entry, change, &jail).map(Payload::Change);
                let bytes = shared(&entry, &mark, || Ok(token.clone()), told).expect("a token").expect("seen");
                pieces::joined(&[Encoded::ready(bytes)])
            };
            (0..WATCHES).map(message).collect()
        });
        assert_eq!(sent.len(), WATCHES);
        for piece in &sent {
            let message = WatchEventsResponse::decode(&piece[5..]).expect("a message");
            let Some(Payload::Change(told)) = message.payload else { panic!("no change") };
            assert_eq!((message.resume_token.as_str(), told.event_id.as_str()), (&*token, "7-11"));
            assert_eq!(told.item.expect("an item").name, "Report of the month.pdf");
        }
    }
}
