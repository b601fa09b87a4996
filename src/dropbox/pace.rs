//! The queue of each Dropbox account: how many requests are in flight, and until when none may be sent. A 429 of one
//! caller holds back all callers of the account before they send, since Dropbox counts refused requests too. Where several
//! application parameters use one account, none of them takes all its places, and they are served in turn.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::AccountKey;
use crate::{
    clock::SharedClock,
    fair::{self, Fair},
    fault::{Fault, Reason, Result},
    limits, telemetry,
};

/// All accounts' queues.
pub(super) struct Pace {
    clock: SharedClock,
    /// Requests in flight for one account.
    requests_max: AtomicUsize,
    lanes: Mutex<Lanes>,
}

#[derive(Default)]
struct Lanes {
    by_account: HashMap<AccountKey, Arc<Lane>>,
    /// With so many of them the idle ones go.
    sweep_at: usize,
}

/// One account's queue.
pub(super) struct Lane {
    clock: SharedClock,
    requests: Fair,
    bodies: Fair,
    waiting: Fair,
    paused_until: Mutex<SystemTime>,
}

/// Requests of one application parameter that may be in flight together. Three quarters of them at most carry bodies, here
/// and in the queue of an account: small calls never wait for a download to end.
#[derive(Debug)]
pub struct Places {
    requests: Arc<Semaphore>,
    bodies: Arc<Semaphore>,
}

/// One of the places, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    _request: OwnedSemaphorePermit,
    _body: Option<OwnedSemaphorePermit>,
}

/// One of the places of an account, given back when dropped.
#[derive(Debug)]
struct AccountPlace {
    _request: fair::Held,
    _body: Option<fair::Held>,
}

/// A place among the requests in flight, given back when dropped.
#[derive(Debug)]
pub(super) struct Permit {
    _account: Option<AccountPlace>,
    /// Of the application parameter's own limit.
    _own: Option<Place>,
}

impl Permit {
    /// For what waits at Dropbox and asks for nothing.
    pub(super) fn unlimited() -> Permit {
        Permit { _account: None, _own: None }
    }

    pub(super) fn within(mut self, own: Option<Place>) -> Permit {
        self._own = own;
        self
    }
}

impl Places {
    pub fn new(requests_max: usize) -> Places {
        Places {
            requests: Arc::new(Semaphore::new(requests_max)),
            bodies: Arc::new(Semaphore::new(bodies_max(requests_max))),
        }
    }

    /// Waits for a place in turn. Dropping the future leaves the queue.
    pub(super) async fn enter(&self, carries_body: bool) -> Place {
        let body = if carries_body { Some(acquire(&self.bodies).await) } else { None };
        Place { _body: body, _request: acquire(&self.requests).await }
    }

    /// A place that is free and for which nobody waits.
    pub(super) fn try_enter(&self, carries_body: bool) -> Option<Place> {
        let body = if carries_body { Some(self.bodies.clone().try_acquire_owned().ok()?) } else { None };
        Some(Place { _body: body, _request: self.requests.clone().try_acquire_owned().ok()? })
    }
}

/// Of so many requests in flight, those that may carry bodies.
fn bodies_max(requests_max: usize) -> usize {
    (requests_max * 3 / 4).max(1)
}

async fn acquire(semaphore: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    semaphore.clone().acquire_owned().await.expect("the semaphores of places are never closed")
}

impl Pace {
    pub(super) fn new(clock: SharedClock) -> Pace {
        Pace { clock, requests_max: AtomicUsize::new(limits::ACCOUNT_REQUESTS_MAX), lanes: Mutex::default() }
    }

    /// For accounts that are called for the first time from now on.
    pub(super) fn limit_requests(&self, max: usize) {
        self.requests_max.store(max, Ordering::Relaxed);
    }

    pub(super) fn lane(&self, account: &AccountKey) -> Arc<Lane> {
        let mut lanes = lock(&self.lanes);
        if let Some(lane) = lanes.by_account.get(account) {
            return lane.clone();
        }
        if lanes.by_account.len() >= lanes.sweep_at.max(limits::IDLE_ACCOUNTS_MAX) {
            let now = self.clock.now();
            lanes.by_account.retain(|_, lane| Arc::strong_count(lane) > 1 || *lock(&lane.paused_until) > now);
            // Where all of them are in use, not every new one looks at them.
            lanes.sweep_at = lanes.by_account.len() * 2;
        }
        let requests_max = self.requests_max.load(Ordering::Relaxed);
        let lane = Arc::new(Lane {
            clock: self.clock.clone(),
            requests: Fair::new(requests_max),
            bodies: Fair::new(bodies_max(requests_max)),
            waiting: Fair::new(limits::ACCOUNT_QUEUE_MAX),
            paused_until: Mutex::new(SystemTime::UNIX_EPOCH),
        });
        lanes.by_account.insert(account.clone(), lane.clone());
        lane
    }
}

impl Lane {
    /// Waits for a place among the requests in flight. The caller bounds the wait by its deadline.
    ///
    /// # Errors
    /// `CONNECTOR_BUSY` when too many wait already.
    pub(super) async fn enter(&self, parameter: &str, carries_body: bool) -> Result<Permit> {
        if let Some(permit) = self.try_enter(parameter, carries_body) {
            return Ok(permit);
        }
        let _waiting = self.wait(parameter)?;
        let body = if carries_body { Some(self.bodies.take(parameter, 1).await) } else { None };
        let place = AccountPlace { _body: body, _request: self.requests.take(parameter, 1).await };
        Ok(Permit { _account: Some(place), _own: None })
    }

    /// A place that is free, within the parameter's share, and for which nobody waits.
    pub(super) fn try_enter(&self, parameter: &str, carries_body: bool) -> Option<Permit> {
        let body = if carries_body { Some(self.bodies.try_take(parameter, 1)?) } else { None };
        let place = AccountPlace { _body: body, _request: self.requests.try_take(parameter, 1)? };
        Some(Permit { _account: Some(place), _own: None })
    }

    #[cfg(test)]
    pub(super) fn free_bodies(&self) -> usize {
        self.bodies.free()
    }

    /// Nobody sends for this account until the span is over.
    pub(super) fn pause(&self, span: Duration) {
        let until = self.clock.now() + span.min(Duration::from_secs(24 * 3600));
        let mut paused_until = lock(&self.paused_until);
        *paused_until = until.max(*paused_until);
    }

    fn pause_left(&self) -> Duration {
        lock(&self.paused_until).duration_since(self.clock.now()).unwrap_or_default()
    }

    pub(super) fn is_paused(&self) -> bool {
        !self.pause_left().is_zero()
    }

    /// Waits for the end of a pause. One that lasts longer than the deadline, or than any call waits, is refused at once.
    ///
    /// # Errors
    /// `CONNECTOR_BUSY` when too many wait already; `RATE_LIMITED` when the pause is too long.
    pub(super) async fn pause_over(&self, parameter: &str, deadline: Option<Instant>) -> Result<()> {
        loop {
            let left = self.pause_left();
            if left.is_zero() {
                return Ok(());
            }
            if left > limits::REPEAT_WAIT_MAX || deadline.is_some_and(|at| Instant::now() + left > at) {
                return Err(Fault::new(Reason::RateLimited, "Dropbox limits the requests of this account for a while")
                    .retry_after(left));
            }
            let _waiting = self.wait(parameter)?;
            metrics::histogram!(telemetry::RATELIMIT_WAIT).record(left.as_secs_f64());
            self.clock.sleep(left).await;
        }
    }

    fn wait(&self, parameter: &str) -> Result<fair::Held> {
        self.waiting.try_take(parameter, 1).ok_or_else(|| {
            Fault::new(Reason::ConnectorBusy, "too many calls wait for this Dropbox account")
                .fact("limit", "max_waiting_calls")
                .retry_after(limits::BUSY_RETRY)
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pace").field("accounts", &lock(&self.lanes).by_account.len()).finish()
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("requests", &self.requests).field("waiting", &self.waiting).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::clock::ManualClock;

    fn lane() -> (ManualClock, Arc<Lane>) {
        let clock = ManualClock::new(SystemTime::UNIX_EPOCH);
        let lane = Pace::new(Arc::new(clock.clone())).lane(&AccountKey::new("a"));
        (clock, lane)
    }

    #[tokio::test]
    async fn content_leaves_a_quarter_of_the_places_to_small_calls() {
        let (_, lane) = lane();
        let mut permits = Vec::new();
        // Each of another parameter, so that no share stands in the way.
        for n in 0..limits::ACCOUNT_BODIES_MAX {
            permits.push(lane.enter(&format!("p-{n}"), true).await.expect("free"));
        }
        assert!(lane.enter("p", true).now_or_never().is_none());
        for n in limits::ACCOUNT_BODIES_MAX..limits::ACCOUNT_REQUESTS_MAX {
            permits.push(lane.enter(&format!("p-{n}"), false).await.expect("free"));
        }
        let mut late = Box::pin(lane.enter("p", false));
        assert!(late.as_mut().now_or_never().is_none());
        permits.pop();
        late.await.expect("a place came free");
        assert_eq!(lane.waiting.free(), limits::ACCOUNT_QUEUE_MAX);
    }

    #[tokio::test]
    async fn of_two_parameters_on_one_account_neither_takes_all_its_places_nor_all_of_its_queue() {
        let (_, lane) = lane();
        for carries_body in [true, false] {
            let all: Vec<_> = std::iter::from_fn(|| lane.try_enter("a", carries_body)).collect();
            let total = if carries_body { limits::ACCOUNT_BODIES_MAX } else { limits::ACCOUNT_REQUESTS_MAX };
            assert_eq!(all.len(), total / 8 * 7);
            let mut more = Box::pin(lane.enter("a", carries_body));
            assert!(more.as_mut().now_or_never().is_none());
            lane.enter("b", carries_body).now_or_never().expect("there is a place for the other").expect("free");
        }
        lane.pause(Duration::from_secs(1));
        let mut waiting = Vec::new();
        while let Ok(one) = lane.wait("a") {
            waiting.push(one);
        }
        assert_eq!(waiting.len(), limits::ACCOUNT_QUEUE_MAX / 8 * 7);
        let fault = lane.pause_over("a", None).await.expect_err("full");
        assert_eq!((fault.reason(), fault.retry_delay()), (Reason::ConnectorBusy, Some(Duration::from_secs(1))));
        assert!(lane.pause_over("b", None).now_or_never().is_none(), "it may wait");
    }

    #[tokio::test]
    async fn a_pause_holds_back_every_caller_of_the_account_and_no_other() {
        let clock = ManualClock::new(SystemTime::UNIX_EPOCH);
        let pace = Pace::new(Arc::new(clock.clone()));
        let lane = pace.lane(&AccountKey::new("a"));
        lane.pause(Duration::from_secs(7));
        let same = pace.lane(&AccountKey::new("a"));
        let waiting = tokio::spawn(async move { same.pause_over("p", None).await });
        let other = pace.lane(&AccountKey::new("b"));
        assert!(!other.is_paused() && other.enter("p", false).now_or_never().is_some());
        tokio::task::yield_now().await;
        clock.advance(Duration::from_secs(6)).await;
        assert!(!waiting.is_finished());
        clock.advance(Duration::from_secs(1)).await;
        waiting.await.expect("no panic").expect("the pause is over");
    }

    #[tokio::test]
    async fn a_pause_beyond_the_deadline_is_refused_at_once_with_the_time_left() {
        let (_, lane) = lane();
        lane.pause(Duration::from_secs(7));
        let fault = lane.pause_over("p", Some(Instant::now() + Duration::from_secs(2))).await.expect_err("too long");
        assert_eq!((fault.reason(), fault.retry_delay()), (Reason::RateLimited, Some(Duration::from_secs(7))));
        lane.pause(limits::REPEAT_WAIT_MAX * 2);
        let fault = lane.pause_over("p", None).await.expect_err("longer than any call waits");
        assert_eq!(fault.reason(), Reason::RateLimited);
    }

    #[tokio::test]
    async fn a_full_queue_is_told_to_come_back() {
        let (_, lane) = lane();
        let held: Vec<_> = std::iter::from_fn(|| lane.waiting.try_take("p", 1)).collect();
        assert!(!held.is_empty());
        lane.pause(Duration::from_secs(1));
        let fault = lane.pause_over("p", None).await.expect_err("full");
        assert_eq!((fault.reason(), fault.get("limit")), (Reason::ConnectorBusy, Some("max_waiting_calls")));
    }
}
