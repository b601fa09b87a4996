//! Bytes per second of one application parameter in one direction, all its streams together. Whoever has moved bytes waits
//! until they are paid for, in the order in which they were moved; a second's worth is ahead. The rate may change while
//! streams run: what is owed is then paid at the new one.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::limits::RATE_LOOK;

/// What a policy allows each way. Clones are the same.
#[derive(Debug, Clone)]
pub struct Rates {
    pub up: Arc<Rate>,
    pub down: Arc<Rate>,
}

/// What a policy allows one way; by the machine's clock, for it bounds what passes in real time.
#[derive(Debug)]
pub struct Rate {
    /// Most have no limit, and are not to share a lock.
    limited: AtomicBool,
    account: Mutex<Account>,
}

#[derive(Debug)]
struct Account {
    /// 0 is no limit.
    bytes_per_second: u64,
    /// All that was moved under a limit.
    moved: u64,
    /// Bytes of them that are not paid for; below nothing what was saved.
    owed: f64,
    /// When `owed` was so much.
    at: Instant,
}

/// Bytes that were moved and not paid for.
#[derive(Debug)]
pub struct Due {
    rate: Arc<Rate>,
    /// Of all that was moved, up to the last of them.
    mark: u64,
}

impl Rates {
    /// 0 is no limit.
    pub fn new(bytes_per_second: u64) -> Rates {
        let rate = || Arc::new(Rate::new(bytes_per_second, Instant::now()));
        Rates { up: rate(), down: rate() }
    }

    /// Holds for streams that run, too: within [`RATE_LOOK`] for one that waits.
    pub fn set(&self, bytes_per_second: u64) {
        let now = Instant::now();
        self.up.set_at(bytes_per_second, now);
        self.down.set_at(bytes_per_second, now);
    }
}

impl Rate {
    fn new(bytes_per_second: u64, now: Instant) -> Rate {
        let account = Account { bytes_per_second, moved: 0, owed: 0.0, at: now };
        Rate { limited: AtomicBool::new(bytes_per_second > 0), account: Mutex::new(account) }
    }

    fn set_at(&self, bytes_per_second: u64, now: Instant) {
        let mut account = self.lock();
        account.pay(now);
        account.bytes_per_second = bytes_per_second;
        // What was saved is a second's worth of the lower rate; without a limit nothing is owed nor saved.
        account.owed = if bytes_per_second == 0 { 0.0 } else { account.owed.max(-(bytes_per_second as f64)) };
        self.limited.store(bytes_per_second > 0, Ordering::Relaxed);
    }

    /// So many bytes were moved; None: more may be at once.
    pub fn moved(self: &Arc<Self>, bytes: usize) -> Option<Due> {
        if !self.limited.load(Ordering::Relaxed) {
            return None;
        }
        let (due, now) = (self.moved_at(bytes, Instant::now()), Instant::now());
        (!due.left_at(now).is_zero()).then_some(due)
    }

    fn moved_at(self: &Arc<Self>, bytes: usize, now: Instant) -> Due {
        let mut account = self.lock();
        account.pay(now);
        account.moved += bytes as u64;
        if account.bytes_per_second > 0 {
            account.owed += bytes as f64;
        }
        Due { rate: self.clone(), mark: account.moved }
    }

    fn lock(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Due {
    /// How long to wait before looking again; nothing once they are paid for.
    pub fn left(&self) -> Duration {
        self.left_at(Instant::now()).min(RATE_LOOK)
    }

    fn left_at(&self, now: Instant) -> Duration {
        let mut account = self.rate.lock();
        account.pay(now);
        let rate = account.bytes_per_second;
        // What was moved after these is paid for after these.
        let owed = account.owed - (account.moved - self.mark) as f64;
        if rate == 0 || owed <= 0.0 {
            return Duration::ZERO;
        }
        // Rounded up, or a rest too small to be waited for would be looked at again and again.
        Duration::from_secs_f64(owed / rate as f64) + Duration::from_nanos(1)
    }
}

impl Account {
    fn pay(&mut self, now: Instant) {
        let (span, rate) = (now.saturating_duration_since(self.at), self.bytes_per_second as f64);
        self.owed = (self.owed - span.as_secs_f64() * rate).max(-rate);
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench {
        rate: Arc<Rate>,
        begun: Instant,
    }

    impl Bench {
        /// Made a second ago, so that a whole second is saved.
        fn new(bytes_per_second: u64) -> Bench {
            let made = Instant::now();
            Bench { rate: Arc::new(Rate::new(bytes_per_second, made)), begun: made + Duration::from_secs(1) }
        }

        fn at(&self, millis: u64) -> Instant {
            self.begun + Duration::from_millis(millis)
        }

        fn moved(&self, bytes: usize, millis: u64) -> Due {
            self.rate.moved_at(bytes, self.at(millis))
        }

        fn wait(&self, due: &Due, millis: u64) -> u128 {
            (due.left_at(self.at(millis)).as_micros() + 500) / 1000
        }
    }

    #[test]
    fn a_second_s_worth_is_free_and_everything_behind_it_takes_its_time() {
        let bench = Bench::new(1000);
        let wait = |bytes, after: u64| bench.wait(&bench.moved(bytes, after), after);
        assert_eq!(wait(600, 0), 0);
        assert_eq!(wait(400, 0), 0);
        assert_eq!(wait(500, 0), 500);
        assert_eq!(wait(500, 0), 1000, "one stream waits for what the other moved");
        assert_eq!(wait(500, 1000), 500);
        // What was saved up is a second's, however long nothing moved.
        assert_eq!(wait(1500, 1_000_000), 500);
    }

    #[test]
    fn who_waits_does_not_wait_for_what_others_moved_later() {
        let bench = Bench::new(1000);
        let first = bench.moved(1500, 0);
        let second = bench.moved(1000, 0);
        assert_eq!((bench.wait(&first, 0), bench.wait(&second, 0)), (500, 1500));
        assert_eq!((bench.wait(&first, 500), bench.wait(&second, 600)), (0, 900));
        assert!(first.left_at(bench.at(501)).is_zero() && second.left_at(bench.at(1501)).is_zero());
    }

    #[test]
    fn a_change_holds_for_who_waits_already() {
        let bench = Bench::new(1000);
        let due = bench.moved(11_000, 0);
        assert_eq!(bench.wait(&due, 0), 10_000);
        bench.rate.set_at(10_000, bench.at(0));
        assert_eq!(bench.wait(&due, 0), 1000, "ten times as fast");
        bench.rate.set_at(100, bench.at(500));
        assert_eq!(bench.wait(&due, 500), 50_000, "what is left takes longer");
        bench.rate.set_at(0, bench.at(600));
        assert_eq!(bench.wait(&due, 600), 0, "no limit");
        assert!(bench.rate.moved(1 << 40).is_none());
        bench.rate.set_at(1000, bench.at(700));
        assert_eq!(bench.wait(&bench.moved(500, 700), 700), 500, "nothing was saved meanwhile");
        assert!(due.left_at(bench.at(700)).is_zero(), "what was let go is not owed again");
    }

    #[test]
    fn nobody_waits_longer_than_for_a_look() {
        let rate = Arc::new(Rate::new(1, Instant::now()));
        let due = rate.moved(1 << 30).expect("a debt");
        assert_eq!(due.left(), RATE_LOOK);
    }
}
