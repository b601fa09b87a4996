//! Policy time: token expiry, idle clocks, back-off, pacing, sweeps. The system's clock, or one that a test moves by hand.
//! I/O time (deadlines, connect and read timeouts, drain grace) is real and does not go through here.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, LazyLock, Mutex},
    time::{Duration, Instant, SystemTime},
};

use futures::future::BoxFuture;
use tokio::sync::oneshot;

/// Where policy time comes from.
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    fn now(&self) -> SystemTime;

    /// Time that only goes on, from an origin of its own, whatever the machine's clock is set to: by it waits are measured.
    fn steady(&self) -> Duration;

    /// Ends after `span` of steady time. Cancel-safe.
    fn sleep(&self, span: Duration) -> BoxFuture<'static, ()>;

    /// Ends when `now()` has reached `at`, as the clock stands when the sleep begins. Cancel-safe.
    fn sleep_until(&self, at: SystemTime) -> BoxFuture<'static, ()> {
        self.sleep(at.duration_since(self.now()).unwrap_or_default())
    }
}

pub type SharedClock = Arc<dyn Clock>;

/// Ends then, in real time, or never. Cancel-safe.
pub async fn at(then: Option<impl Into<tokio::time::Instant>>) {
    match then {
        Some(then) => tokio::time::sleep_until(then.into()).await,
        None => std::future::pending().await,
    }
}

/// The machine's clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

#[expect(clippy::disallowed_methods, reason = "the one place that asks the machine")]
impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn steady(&self) -> Duration {
        static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
        ORIGIN.elapsed()
    }

    fn sleep(&self, span: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(span))
    }
}

/// A clock that moves only when told, one sleeper at a time.
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<Mutex<Hands>>);

#[derive(Debug)]
struct Hands {
    now: SystemTime,
    steady: Duration,
    next: u64,
    sleepers: BTreeMap<(Duration, u64), oneshot::Sender<()>>,
}

impl Hands {
    fn go_to(&mut self, steady: Duration) {
        let on = steady.saturating_sub(self.steady);
        (self.steady, self.now) = (self.steady + on, self.now + on);
    }
}

impl ManualClock {
    pub fn new(now: SystemTime) -> Self {
        Self(Arc::new(Mutex::new(Hands { now, steady: Duration::ZERO, next: 0, sleepers: BTreeMap::new() })))
    }

    fn hands(&self) -> std::sync::MutexGuard<'_, Hands> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Sets it, as an administrator or a time server does: no time passes, and nobody who sleeps wakes.
    pub fn set(&self, now: SystemTime) {
        self.hands().now = now;
    }

    /// Moves on by `span`, stopping at every sleeper on the way so that what it wakes sees its own time.
    /// Sleepers that register while it moves are honoured too.
    pub async fn advance(&self, span: Duration) {
        let end = self.steady() + span;
        loop {
            let woken = {
                let mut hands = self.hands();
                match hands.sleepers.first_key_value() {
                    Some((&(at, _), _)) if at <= end => {
                        hands.go_to(at);
                        hands.sleepers.pop_first().map(|(_, wake)| wake)
                    }
                    _ => {
                        hands.go_to(end);
                        return;
                    }
                }
            };
            if let Some(wake) = woken {
                let _ = wake.send(());
                // Lets what was woken run up to its next wait before time goes on.
                for _ in 0..16 {
                    tokio::task::yield_now().await;
                }
            }
        }
    }
}

impl Clock for ManualClock {
    fn now(&self) -> SystemTime {
        self.hands().now
    }

    fn steady(&self) -> Duration {
        self.hands().steady
    }

    fn sleep(&self, span: Duration) -> BoxFuture<'static, ()> {
        let mut hands = self.hands();
        if span.is_zero() {
            return Box::pin(std::future::ready(()));
        }
        let (wake, woken) = oneshot::channel();
        let key = (hands.steady + span, hands.next);
        hands.next += 1;
        hands.sleepers.retain(|_, sleeper| !sleeper.is_closed());
        hands.sleepers.insert(key, wake);
        Box::pin(async move {
            let _ = woken.await;
        })
    }
}

/// `2026-01-02T03:04:05Z`: the only form Dropbox takes. Fractions of a second are cut.
pub fn dropbox_time(at: SystemTime) -> String {
    let stamp = jiff::Timestamp::try_from(at).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    stamp.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Whole seconds since 1970, negative before.
pub fn unix_seconds(at: SystemTime) -> i64 {
    jiff::Timestamp::try_from(at).unwrap_or(jiff::Timestamp::UNIX_EPOCH).as_second()
}

/// The other way round. What no calendar has is 1970.
pub fn from_unix_seconds(seconds: i64) -> SystemTime {
    jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH).into()
}

/// Reads `2026-01-02T03:04:05Z`; `None` for anything that is not a time.
pub fn from_dropbox_time(text: &str) -> Option<SystemTime> {
    text.parse::<jiff::Timestamp>().ok().map(SystemTime::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropbox_times_go_both_ways_in_whole_seconds() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_323_045_900);
        assert_eq!(dropbox_time(at), "2026-01-02T03:04:05Z");
        assert_eq!(from_dropbox_time("2026-01-02T03:04:05Z"), Some(at - Duration::from_millis(900)));
        assert_eq!(from_dropbox_time("yesterday"), None);
    }

    #[test]
    fn seconds_are_counted_from_1970_both_ways() {
        for seconds in [0, 1_767_323_045, -86_400] {
            assert_eq!(unix_seconds(from_unix_seconds(seconds)), seconds);
        }
        assert_eq!(from_unix_seconds(7), SystemTime::UNIX_EPOCH + Duration::from_secs(7));
        assert_eq!(from_unix_seconds(i64::MAX), SystemTime::UNIX_EPOCH);
    }

    #[tokio::test]
    async fn a_manual_clock_wakes_sleepers_in_order_and_only_when_moved() {
        let clock = ManualClock::new(SystemTime::UNIX_EPOCH);
        let seen = Arc::new(Mutex::new(Vec::new()));
        for seconds in [5u64, 1, 3] {
            let (sleep, seen, clock) = (clock.sleep(Duration::from_secs(seconds)), seen.clone(), clock.clone());
            tokio::spawn(async move {
                sleep.await;
                seen.lock().expect("unpoisoned").push(clock.now());
            });
        }
        clock.advance(Duration::from_secs(4)).await;
        let at = |s| SystemTime::UNIX_EPOCH + Duration::from_secs(s);
        assert_eq!(*seen.lock().expect("unpoisoned"), vec![at(1), at(3)]);
        clock.advance(Duration::from_secs(1)).await;
        assert_eq!(seen.lock().expect("unpoisoned").len(), 3);
    }

    #[tokio::test]
    async fn a_clock_that_is_set_wakes_nobody_and_holds_nobody_up() {
        let hour = Duration::from_secs(3600);
        for back in [true, false] {
            let clock = ManualClock::new(SystemTime::UNIX_EPOCH + hour);
            let begun = clock.steady();
            let mut asleep = tokio::spawn(clock.sleep_until(clock.now() + Duration::from_secs(5)));
            clock.set(if back { clock.now() - hour } else { clock.now() + hour });
            clock.advance(Duration::from_secs(4)).await;
            assert!(!asleep.is_finished() && clock.steady() - begun == Duration::from_secs(4));
            clock.advance(Duration::from_secs(1)).await;
            (&mut asleep).await.expect("it wakes");
        }
    }
}
