//! When feeds work. One that has nothing to do is an entry in a map, not a task: the desk wakes it when it is time, when a
//! webhook names its account, when a watcher comes or when another process has saved something, and one task per process
//! sends those that are due to work. Places for those who begin and for those at work are bounded, and shared between
//! application parameters (`fair.rs`). Times are steady ones: setting the machine's clock moves none.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicUsize},
    time::Duration,
};

use tokio::sync::{Notify, Semaphore};

use super::{
    Inside, Poll,
    begins::Begins,
    driver,
    feed::Feed,
    letters::{self, Outbox},
};
use crate::{
    clock::SharedClock,
    fair::{Fair, Held},
    limits::{
        EVENT_RING_GRACE, FEED_LINGER, FEED_SPREAD, FEEDS_AT_ONCE, INDEX_PAGES_AHEAD, INDEX_UNWATCHED, POLL_TURN,
        RING_GAP, RING_GAP_CROWD_MAX, RING_GAP_MAX,
    },
};

/// What all feeds of a process share.
pub(super) struct Desk {
    pub(super) clock: SharedClock,
    /// Other processes may be at the same store.
    shared: bool,
    webhooks: bool,
    plan: Mutex<Plan>,
    /// Something is due earlier than it was.
    changed: Notify,
    /// Feeds that have not been up to date yet and are at it.
    beginning: Fair,
    /// Feeds whose parameter is to be watched over.
    pub(super) born: Newcomers,
    pub(super) outbox: Outbox,
    /// Watchers that ask for the place of now; an account that Dropbox lets wait leaves some to the others.
    pub(super) asking: Fair,
    /// Those that ask the store for their row: nobody waits for Dropbox with such a place in hand.
    pub(super) coming: Semaphore,
    /// Pages of listings that were asked for while the page before was worked on.
    pub(super) ahead: Arc<Semaphore>,
    /// Bytes of the tails of all logs.
    pub(super) tails_bytes: Arc<AtomicUsize>,
}

#[derive(Default)]
pub(super) struct Newcomers {
    feeds: Mutex<Vec<Arc<Feed>>>,
    came: Notify,
}

#[derive(Default)]
struct Plan {
    due: BTreeMap<(Duration, u64), Arc<Feed>>,
    next: u64,
    /// Those that have not worked yet: with a cursor that was saved, and without.
    saved: Begins,
    new: Begins,
    /// When the last begin would be due if all of them kept their distance.
    begun_until: Duration,
    in_turn: usize,
}

/// Where a feed stands. The desk alone looks at it, under the lock of its plan.
#[derive(Debug, Default)]
pub(super) struct Seat {
    place: Place,
    /// When the work under way began.
    since: Duration,
    next_poll: Duration,
    /// Before that, because somebody rang.
    wake: Option<Duration>,
    /// When it is over, if nobody watches any more.
    linger_until: Option<Duration>,
    /// Not before this, whoever rings: it failed, or was rung in vain.
    not_before: Duration,
    /// Somebody rang while it worked.
    again: bool,
    /// There is reason to take the scope from a process that has parked it.
    urgent: bool,
    /// Webhooks rang while another process had the scope, from the first that may not have been heeded to the last.
    calls: Option<(Duration, Duration)>,
    /// A webhook is why it works.
    rung: bool,
    /// This process polls the scope.
    holds: bool,
    begins: Option<Held>,
    in_turn: bool,
    failures: u32,
    /// Webhook calls in vain, each before the wait behind the one before it was over.
    rung_in_vain: u32,
    /// A call came before it was.
    pressed: bool,
    /// How many watched folders the last call was for.
    rung_beside: u32,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    #[default]
    Away,
    Beginning,
    Due(Duration, u64),
    Working,
}

/// Why a feed should look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ring {
    /// A webhook call named its account, of which so many folders are watched.
    Webhook { folders: usize },
    /// A watcher of this process needs to know what is now.
    Watcher,
    /// Another process has saved something, or given the scope back.
    Saved,
}

/// What a worker begins with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Orders {
    /// This process polled the scope last.
    pub(super) holds: bool,
    pub(super) urgent: bool,
    /// Whoever has the scope should have looked since then.
    pub(super) rung_at: Option<Duration>,
    /// Somebody rang since the work began.
    pub(super) again: bool,
}

/// How a worker leaves a feed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rest {
    /// Until then nothing is to be done; `in_turn`: only because others are longpolled.
    For {
        wait: Duration,
        in_turn: bool,
    },
    /// Another process has the scope for so long.
    Elsewhere(Duration),
    Failed(Duration),
    /// Nobody watches.
    Unwatched,
}

pub(super) enum Take {
    Work(Arc<Feed>),
    Over(Arc<Feed>),
    Wait(Option<Duration>),
}

impl Desk {
    pub(super) fn new(clock: SharedClock, shared: bool, webhooks: bool) -> Arc<Desk> {
        Arc::new(Desk {
            clock,
            shared,
            webhooks,
            plan: Mutex::default(),
            changed: Notify::new(),
            beginning: Fair::new(FEEDS_AT_ONCE),
            born: Newcomers::default(),
            outbox: Outbox::new(shared),
            asking: Fair::new(FEEDS_AT_ONCE),
            coming: Semaphore::new(FEEDS_AT_ONCE),
            ahead: Arc::new(Semaphore::new(INDEX_PAGES_AHEAD)),
            tails_bytes: Arc::default(),
        })
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A feed that has not worked yet. Those with a cursor, which is one question each, come before those without.
    pub(super) fn begin(&self, feed: &Arc<Feed>, has_cursor: bool) {
        let mut plan = self.plan();
        feed.seat().place = Place::Beginning;
        let queue = if has_cursor { &mut plan.saved } else { &mut plan.new };
        queue.push(feed.clone());
        drop(plan);
        self.born.add(feed.clone());
        self.changed.notify_one();
    }

    /// It is over.
    pub(super) fn forget(&self, feed: &Arc<Feed>) {
        let mut plan = self.plan();
        let mut seat = feed.seat();
        if let Place::Due(at, number) = seat.place {
            plan.due.remove(&(at, number));
        }
        seat.place = Place::Away;
        plan.settle(&mut seat);
        drop(seat);
        drop(plan);
        self.changed.notify_one();
    }

    pub(super) fn ring(&self, feed: &Arc<Feed>, why: Ring) {
        let now = self.clock.steady();
        let mut plan = self.plan();
        let mut seat = feed.seat();
        let elsewhere = self.shared && !seat.holds;
        let at = match why {
            Ring::Webhook { folders } => {
                seat.rung = true;
                seat.pressed |= now < seat.not_before;
                seat.rung_beside = u32::try_from(folders).unwrap_or(u32::MAX);
                // The one who polls it was told, too.
                if elsewhere {
                    let (first, _) = seat.calls.unwrap_or((now, now));
                    seat.calls = Some((first, now));
                    first + EVENT_RING_GRACE
                } else {
                    now
                }
            }
            Ring::Watcher => {
                seat.urgent = true;
                now
            }
            Ring::Saved => now,
        };
        match seat.place {
            Place::Away => return,
            Place::Beginning if why == Ring::Saved => return,
            Place::Working if at == now && why != Ring::Saved => {
                seat.again = true;
                feed.bell.notify_one();
                return;
            }
            _ => {}
        }
        seat.wake = Some(seat.wake.map_or(at, |wake| wake.min(at)));
        if seat.place != Place::Working {
            plan.put(feed, &mut seat);
            drop(seat);
            drop(plan);
            self.changed.notify_one();
        }
    }

    /// A watcher came or went.
    pub(super) fn wished(&self, feed: &Arc<Feed>, poll: Option<Poll>) {
        let now = self.clock.steady();
        let mut plan = self.plan();
        let mut seat = feed.seat();
        match feed.wished() {
            None => {
                seat.linger_until.get_or_insert(now + linger(feed));
                // Others may watch it elsewhere.
                if self.shared && seat.holds {
                    seat.wake = Some(now);
                }
            }
            Some(_) => {
                seat.linger_until = None;
                match poll {
                    // It is kept up to date by webhooks, however often it is watched anew.
                    Some(Poll::Interval(interval)) if self.webhooks => {
                        seat.next_poll = seat.next_poll.min(now + interval);
                    }
                    Some(_) if !self.webhooks || !feed.is_built() => seat.wake = Some(now),
                    _ => {}
                }
            }
        }
        match seat.place {
            Place::Working => feed.wishes_changed.notify_one(),
            Place::Due(..) => plan.put(feed, &mut seat),
            Place::Away | Place::Beginning => return,
        }
        drop(seat);
        drop(plan);
        self.changed.notify_one();
    }

    /// What a worker is to know, before each of its rounds.
    pub(super) fn orders(&self, feed: &Feed) -> Orders {
        let _plan = self.plan();
        let mut seat = feed.seat();
        seat.since = self.clock.steady();
        let (again, urgent) = (std::mem::take(&mut seat.again), std::mem::take(&mut seat.urgent));
        let due = self.clock.steady().saturating_sub(EVENT_RING_GRACE);
        let rung_at = seat.calls.map(|(first, _)| first).filter(|first| *first <= due);
        Orders { holds: seat.holds, urgent, rung_at, again }
    }

    /// For how long a feed has been due, or is worked on, that is to be looked after by then.
    pub(super) fn overdue(&self, feed: &Feed) -> Duration {
        let _plan = self.plan();
        let (now, seat) = (self.clock.steady(), feed.seat());
        match seat.place {
            Place::Due(at, _) => now.saturating_sub(at),
            Place::Working => now.saturating_sub(seat.since),
            Place::Away | Place::Beginning => Duration::ZERO,
        }
    }

    /// A worker has brought the log up to date: the next feed may begin.
    pub(super) fn up_to_date(&self, feed: &Feed) {
        let _plan = self.plan();
        let mut seat = feed.seat();
        (seat.failures, seat.holds) = (0, true);
        if seat.begins.take().is_some() {
            self.changed.notify_one();
        }
    }

    /// A worker is done with it; `found`: something was told.
    pub(super) fn rest(&self, feed: &Arc<Feed>, rest: Rest, found: bool) {
        let now = self.clock.steady();
        let mut plan = self.plan();
        let mut seat = feed.seat();
        plan.settle(&mut seat);
        if seat.place != Place::Working {
            return;
        }
        seat.not_before = now;
        match rest {
            Rest::For { wait, in_turn } => {
                seat.calls = None;
                seat.next_poll = now + wait;
                seat.in_turn = in_turn;
                plan.in_turn += usize::from(in_turn);
                seat.rung_in_vain = match seat.rung && !found {
                    true if seat.pressed => seat.rung_in_vain.saturating_add(1),
                    in_vain => u32::from(in_vain),
                };
                if seat.rung_in_vain > 0 {
                    let most = RING_GAP_MAX.saturating_mul(seat.rung_beside).min(RING_GAP_CROWD_MAX);
                    seat.not_before = now + (RING_GAP * 2u32.pow((seat.rung_in_vain - 1).min(8))).min(most);
                }
            }
            Rest::Elsewhere(held) => {
                seat.holds = false;
                // Those that were heeded are forgotten. The others are looked after once more: in time, or, where that is over
                // and the one who has the scope is at work, when its lease ends.
                seat.calls = seat.calls.filter(|(_, last)| feed.is_overdue(Some(*last)));
                if let Some((first, last)) = &mut seat.calls {
                    if !feed.is_overdue(Some(*first)) {
                        *first = *last;
                    }
                    let due = *first + EVENT_RING_GRACE;
                    if due > now {
                        seat.wake = Some(seat.wake.map_or(due, |wake| wake.min(due)));
                    }
                }
                // Whoever is just about to save is not asked all the time.
                seat.next_poll = now + held.max(EVENT_RING_GRACE / 10);
            }
            Rest::Failed(wait) => {
                seat.holds = false;
                seat.next_poll = now + wait;
                seat.not_before = seat.next_poll;
            }
            Rest::Unwatched => {
                if self.shared {
                    (seat.holds, seat.next_poll) = (false, now);
                }
                if !feed.is_built() {
                    seat.next_poll = now + POLL_TURN;
                } else if seat.rung {
                    // It is for whoever comes next to look.
                    seat.next_poll = now;
                }
                // Somebody may have come at this moment.
                if feed.wished().is_none() {
                    seat.linger_until.get_or_insert(now + linger(feed));
                }
            }
        }
        // An index that was built without anybody is no reason to stay.
        seat.linger_until = seat.linger_until.map(|until| until.min(now + linger(feed)));
        (seat.rung, seat.pressed) = (false, false);
        if std::mem::take(&mut seat.again) {
            seat.wake = Some(now);
        }
        plan.put(feed, &mut seat);
        drop(seat);
        drop(plan);
        self.changed.notify_one();
    }

    /// Nobody watches, and that for so long that it is over.
    pub(super) fn has_lingered(&self, feed: &Feed) -> bool {
        let now = self.clock.steady();
        let _plan = self.plan();
        feed.seat().linger_until.is_some_and(|until| until <= now)
    }

    /// How often it failed in a row, this time included.
    pub(super) fn failed(&self, feed: &Feed) -> u32 {
        let _plan = self.plan();
        let mut seat = feed.seat();
        seat.failures = seat.failures.saturating_add(1);
        seat.failures
    }

    /// Whether folders are asked in turn because there are too many to longpoll all.
    pub(super) fn takes_turns(&self) -> bool {
        self.plan().in_turn > 0
    }

    pub(super) fn take(&self) -> Take {
        let now = self.clock.steady();
        let mut plan = self.plan();
        if plan.due.first_key_value().is_some_and(|((at, _), _)| *at <= now)
            && let Some(((due, _), feed)) = plan.due.pop_first()
        {
            let mut seat = feed.seat();
            if seat.linger_until.is_some_and(|until| until <= now) && feed.wished().is_none() {
                seat.place = Place::Away;
                drop(seat);
                return Take::Over(feed);
            }
            plan.leave_turn(&mut seat);
            // It may have to wait for a place.
            (seat.place, seat.wake, seat.since) = (Place::Working, None, due);
            drop(seat);
            return Take::Work(feed);
        }
        let burst = FEED_SPREAD * u32::try_from(FEEDS_AT_ONCE - 1).unwrap_or(u32::MAX);
        let mut begin = None;
        while self.beginning.free() > 0 && !(plan.saved.is_empty() && plan.new.is_empty()) {
            let free_at = plan.begun_until.saturating_sub(burst);
            if free_at > now {
                begin = Some(free_at);
                break;
            }
            let next = plan.saved.next(&self.beginning).or_else(|| plan.new.next(&self.beginning));
            let Some((feed, place)) = next else { break };
            let mut seat = feed.seat();
            // It may be over, or have been rung for.
            if seat.place != Place::Beginning {
                drop(seat);
                continue;
            }
            (seat.place, seat.begins, seat.wake) = (Place::Working, Some(place), None);
            seat.since = now;
            drop(seat);
            plan.begun_until = plan.begun_until.max(now) + FEED_SPREAD;
            return Take::Work(feed);
        }
        let due = plan.due.first_key_value().map(|((at, _), _)| *at);
        let next = due.into_iter().chain(begin).min();
        Take::Wait(next.map(|at| at.saturating_sub(now)))
    }
}

impl Plan {
    /// Where its times say.
    fn put(&mut self, feed: &Arc<Feed>, seat: &mut Seat) {
        if let Place::Due(at, number) = seat.place {
            self.due.remove(&(at, number));
        }
        let rung = seat.wake.unwrap_or(Duration::MAX);
        let at = match seat.linger_until {
            Some(until) if feed.is_built() => rung.min(until),
            // The index is built on.
            Some(until) => rung.min(seat.next_poll).min(until),
            None => rung.min(seat.next_poll),
        };
        let at = at.max(seat.not_before.min(seat.linger_until.unwrap_or(Duration::MAX)));
        self.next += 1;
        seat.place = Place::Due(at, self.next);
        self.due.insert((at, self.next), feed.clone());
    }

    fn settle(&mut self, seat: &mut Seat) {
        seat.begins = None;
        self.leave_turn(seat);
    }

    fn leave_turn(&mut self, seat: &mut Seat) {
        if std::mem::take(&mut seat.in_turn) {
            self.in_turn -= 1;
        }
    }
}

/// How long a feed stays after its last watcher left.
fn linger(feed: &Feed) -> Duration {
    if feed.is_built() { FEED_LINGER } else { INDEX_UNWATCHED }
}

impl Newcomers {
    fn add(&self, feed: Arc<Feed>) {
        self.feeds.lock().unwrap_or_else(PoisonError::into_inner).push(feed);
        self.came.notify_one();
    }

    pub(super) async fn next(&self) -> Vec<Arc<Feed>> {
        loop {
            let came = std::mem::take(&mut *self.feeds.lock().unwrap_or_else(PoisonError::into_inner));
            if !came.is_empty() {
                return came;
            }
            self.came.notified().await;
        }
    }
}

/// Hands out work until the process ends.
pub(super) async fn run(hub: Arc<Inside>) {
    let desk = &hub.desk;
    let work = async {
        loop {
            // Ten thousand may be due at once.
            tokio::task::consume_budget().await;
            match desk.take() {
                Take::Work(feed) => drop(hub.shifts.spawn(driver::shift(hub.clone(), feed))),
                Take::Over(feed) => hub.leave(&feed),
                Take::Wait(span) => {
                    let time = async {
                        match span {
                            Some(span) => desk.clock.sleep(span).await,
                            None => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        () = time => {}
                        () = desk.changed.notified() => {}
                    }
                }
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = hub.parts.ended.cancelled() => {}
    }
    hub.end_all();
    // Scopes are given back, and others told so.
    hub.shifts.close();
    hub.shifts.wait().await;
    letters::send_pending(&hub).await;
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}
