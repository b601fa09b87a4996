//! The queue of each Dropbox account: how many requests are in flight, and until when none may be sent. A 429 of one
//! caller holds back all callers of the account before they send, since Dropbox counts refused requests too.

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
    fault::{Fault, Reason, Result},
    limits, telemetry,
};

/// All accounts' queues.
pub(super) struct Pace {
    clock: SharedClock,
    /// Requests in flight for one account.
    requests_max: AtomicUsize,
    lanes: Mutex<HashMap<AccountKey, Arc<Lane>>>,
}

/// One account's queue.
pub(super) struct Lane {
    clock: SharedClock,
    places: Places,
    waiting: AtomicUsize,
    paused_until: Mutex<SystemTime>,
}

/// Requests that may be in flight together. Three quarters of them at most carry bodies: small calls, and commits, which
/// hold the gate of their namespace, never wait for a download to end.
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

/// A place among the requests in flight, given back when dropped.
#[derive(Debug)]
pub(super) struct Permit {
    _account: Option<Place>,
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
            bodies: Arc::new(Semaphore::new((requests_max * 3 / 4).max(1))),
        }
    }

    /// Waits for a place in turn. Dropping the future leaves the queue.
    pub(super) async fn enter(&self, carries_body: bool) -> Place {
        let body = if carries_body { Some(acquire(&self.bodies).await) } else { None };
        Place { _body: body, _request: acquire(&self.requests).await }
    }

    /// A place that is free and for which nobody waits.
    fn try_enter(&self, carries_body: bool) -> Option<Place> {
        let body = if carries_body { Some(self.bodies.clone().try_acquire_owned().ok()?) } else { None };
        Some(Place { _body: body, _request: self.requests.clone().try_acquire_owned().ok()? })
    }
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
        if let Some(lane) = lanes.get(account) {
            return lane.clone();
        }
        if lanes.len() >= limits::IDLE_ACCOUNTS_MAX {
            let now = self.clock.now();
            lanes.retain(|_, lane| Arc::strong_count(lane) > 1 || *lock(&lane.paused_until) > now);
        }
        let requests_max = self.requests_max.load(Ordering::Relaxed);
        let lane = Arc::new(Lane {
            clock: self.clock.clone(),
            places: Places::new(requests_max),
            waiting: AtomicUsize::new(0),
            paused_until: Mutex::new(SystemTime::UNIX_EPOCH),
        });
        lanes.insert(account.clone(), lane.clone());
        lane
    }
}

impl Lane {
    /// Waits for a place among the requests in flight; `None` if a pause has begun meanwhile, which is to be waited for
    /// first. The caller bounds the wait by its deadline.
    ///
    /// # Errors
    /// `CONNECTOR_BUSY` when too many wait already.
    pub(super) async fn enter(&self, carries_body: bool) -> Result<Option<Permit>> {
        let place = self.place(carries_body).await?;
        Ok((!self.is_paused()).then_some(Permit { _account: Some(place), _own: None }))
    }

    #[cfg(test)]
    pub(super) fn free_bodies(&self) -> usize {
        self.places.bodies.available_permits()
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
    pub(super) async fn pause_over(&self, deadline: Option<Instant>) -> Result<()> {
        loop {
            let left = self.pause_left();
            if left.is_zero() {
                return Ok(());
            }
            if left > limits::REPEAT_WAIT_MAX || deadline.is_some_and(|at| Instant::now() + left > at) {
                return Err(Fault::new(Reason::RateLimited, "Dropbox limits the requests of this account for a while")
                    .retry_after(left));
            }
            let _waiting = self.wait()?;
            metrics::histogram!(telemetry::RATELIMIT_WAIT).record(left.as_secs_f64());
            self.clock.sleep(left).await;
        }
    }

    async fn place(&self, carries_body: bool) -> Result<Place> {
        if let Some(place) = self.places.try_enter(carries_body) {
            return Ok(place);
        }
        let _waiting = self.wait()?;
        Ok(self.places.enter(carries_body).await)
    }

    fn wait(&self) -> Result<Waiting<'_>> {
        let waiting = Waiting(&self.waiting);
        if self.waiting.fetch_add(1, Ordering::AcqRel) < limits::ACCOUNT_QUEUE_MAX {
            return Ok(waiting);
        }
        Err(Fault::new(Reason::ConnectorBusy, "too many calls wait for this Dropbox account")
            .fact("limit", "max_waiting_calls")
            .retry_after(limits::BUSY_RETRY))
    }
}

/// Counted among those that wait until dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pace").field("accounts", &lock(&self.lanes).len()).finish()
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane")
            .field("free", &self.places.requests.available_permits())
            .field("waiting", &self.waiting)
            .finish_non_exhaustive()
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
        for _ in 0..limits::ACCOUNT_BODIES_MAX {
            permits.push(lane.enter(true).await.expect("free"));
        }
        assert!(lane.enter(true).now_or_never().is_none());
        for _ in limits::ACCOUNT_BODIES_MAX..limits::ACCOUNT_REQUESTS_MAX {
            permits.push(lane.enter(false).await.expect("free"));
        }
        let mut late = Box::pin(lane.enter(false));
        assert!(late.as_mut().now_or_never().is_none());
        permits.pop();
        late.await.expect("a place came free");
        assert_eq!(lane.waiting.load(Ordering::Acquire), 0);
    }

    #[tokio::test]
    async fn a_pause_holds_back_every_caller_of_the_account_and_no_other() {
        let clock = ManualClock::new(SystemTime::UNIX_EPOCH);
        let pace = Pace::new(Arc::new(clock.clone()));
        let lane = pace.lane(&AccountKey::new("a"));
        lane.pause(Duration::from_secs(7));
        let same = pace.lane(&AccountKey::new("a"));
        let waiting = tokio::spawn(async move { same.pause_over(None).await });
        let other = pace.lane(&AccountKey::new("b"));
        assert!(!other.is_paused() && other.enter(false).now_or_never().is_some());
        tokio::task::yield_now().await;
        clock.advance(Duration::from_secs(6)).await;
        assert!(!waiting.is_finished());
        clock.advance(Duration::from_secs(1)).await;
        waiting.await.expect("no panic").expect("the pause is over");
    }

    #[tokio::test]
    async fn who_got_a_place_when_a_pause_had_begun_gives_it_back_and_waits() {
        let (_, lane) = lane();
        lane.pause(Duration::from_secs(7));
        assert!(lane.enter(true).await.expect("a place").is_none());
        assert_eq!(lane.free_bodies(), limits::ACCOUNT_BODIES_MAX);
    }

    #[tokio::test]
    async fn a_pause_beyond_the_deadline_is_refused_at_once_with_the_time_left() {
        let (_, lane) = lane();
        lane.pause(Duration::from_secs(7));
        let fault = lane.pause_over(Some(Instant::now() + Duration::from_secs(2))).await.expect_err("too long");
        assert_eq!((fault.reason(), fault.retry_delay()), (Reason::RateLimited, Some(Duration::from_secs(7))));
        lane.pause(limits::REPEAT_WAIT_MAX * 2);
        let fault = lane.pause_over(None).await.expect_err("longer than any call waits");
        assert_eq!(fault.reason(), Reason::RateLimited);
    }

    #[tokio::test]
    async fn a_full_queue_is_told_to_come_back() {
        let (_, lane) = lane();
        lane.waiting.store(limits::ACCOUNT_QUEUE_MAX, Ordering::Release);
        lane.pause(Duration::from_secs(1));
        let fault = lane.pause_over(None).await.expect_err("full");
        assert_eq!((fault.reason(), fault.get("limit")), (Reason::ConnectorBusy, Some("max_waiting_calls")));
        assert_eq!(lane.waiting.load(Ordering::Acquire), limits::ACCOUNT_QUEUE_MAX);
    }
}
