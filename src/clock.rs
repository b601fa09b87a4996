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

    /// Since some moment that stays the same: spans of idleness and the like. It goes on evenly when somebody sets the time of
    /// day.
    fn elapsed(&self) -> Duration;

    /// Ends when `now()` has reached `at`. Cancel-safe.
    fn sleep_until(&self, at: SystemTime) -> BoxFuture<'static, ()>;

    /// Ends after `span`. Cancel-safe.
    fn sleep(&self, span: Duration) -> BoxFuture<'static, ()> {
        self.sleep_until(self.now() + span)
    }
}

pub type SharedClock = Arc<dyn Clock>;

/// The machine's clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

#[expect(clippy::disallowed_methods, reason = "the one place that asks the machine")]
impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn elapsed(&self) -> Duration {
        static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
        BEGUN.elapsed()
    }

    fn sleep_until(&self, at: SystemTime) -> BoxFuture<'static, ()> {
        // A wall clock set back must not stretch a short wait: the span is fixed when the sleep begins.
        let span = at.duration_since(SystemTime::now()).unwrap_or_default();
        Box::pin(tokio::time::sleep(span))
    }
}

/// A clock that moves only when told, one sleeper at a time.
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<Mutex<Hands>>);

#[derive(Debug)]
struct Hands {
    now: SystemTime,
    /// How far it was moved, and not set.
    elapsed: Duration,
    next: u64,
    sleepers: BTreeMap<(SystemTime, u64), oneshot::Sender<()>>,
}

impl ManualClock {
    pub fn new(now: SystemTime) -> Self {
        Self(Arc::new(Mutex::new(Hands { now, elapsed: Duration::ZERO, next: 0, sleepers: BTreeMap::new() })))
    }

    fn hands(&self) -> std::sync::MutexGuard<'_, Hands> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Sets the time of day forward, as an administrator does: no time passes, and who sleeps sleeps as long as before.
    pub fn set_forward(&self, span: Duration) {
        let mut hands = self.hands();
        hands.now += span;
        let sleepers = std::mem::take(&mut hands.sleepers);
        hands.sleepers = sleepers.into_iter().map(|((at, number), wake)| ((at + span, number), wake)).collect();
    }

    /// Moves on by `span`, stopping at every sleeper on the way so that what it wakes sees its own time.
    /// Sleepers that register while it moves are honoured too.
    pub async fn advance(&self, span: Duration) {
        let end = self.hands().now + span;
        loop {
            let woken = {
                let mut hands = self.hands();
                match hands.sleepers.first_key_value() {
                    Some((&(at, _), _)) if at <= end => {
                        hands.pass_until(at);
                        hands.sleepers.pop_first().map(|(_, wake)| wake)
                    }
                    _ => {
                        hands.pass_until(end);
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

impl Hands {
    fn pass_until(&mut self, at: SystemTime) {
        self.elapsed += at.duration_since(self.now).unwrap_or_default();
        self.now = self.now.max(at);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> SystemTime {
        self.hands().now
    }

    fn elapsed(&self) -> Duration {
        self.hands().elapsed
    }

    fn sleep_until(&self, at: SystemTime) -> BoxFuture<'static, ()> {
        let mut hands = self.hands();
        if at <= hands.now {
            return Box::pin(std::future::ready(()));
        }
        let (wake, woken) = oneshot::channel();
        let key = (at, hands.next);
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
    async fn who_sets_the_time_of_day_makes_no_time_pass() {
        let clock = ManualClock::new(SystemTime::UNIX_EPOCH);
        let sleep = tokio::spawn(clock.sleep(Duration::from_secs(2)));
        clock.set_forward(Duration::from_secs(3600));
        clock.advance(Duration::from_secs(1)).await;
        let hour_and_second = SystemTime::UNIX_EPOCH + Duration::from_secs(3601);
        assert_eq!((clock.now(), clock.elapsed()), (hour_and_second, Duration::from_secs(1)));
        assert!(!sleep.is_finished());
        clock.advance(Duration::from_secs(1)).await;
        sleep.await.expect("over");
        let system = SystemClock;
        let before = system.elapsed();
        assert!(system.elapsed() >= before);
    }
}
