//! Bytes per second of one application parameter in one direction, all its streams together. Whoever has moved bytes waits
//! until they are paid for, in the order in which they were moved; a second's worth is ahead.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// What a policy allows; by the machine's clock, for it bounds what passes in real time.
#[derive(Debug)]
pub struct Rate {
    bytes_per_second: u64,
    /// When all that was moved is paid for.
    paid: Mutex<Instant>,
}

impl Rate {
    /// None for no limit.
    pub fn new(bytes_per_second: u64) -> Option<Rate> {
        (bytes_per_second > 0).then(|| Rate { bytes_per_second, paid: Mutex::new(Instant::now()) })
    }

    /// So many bytes were moved: how long to wait before moving more.
    pub fn moved(&self, bytes: usize) -> Duration {
        self.moved_at(bytes, Instant::now())
    }

    fn moved_at(&self, bytes: usize, now: Instant) -> Duration {
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        let begins = (*paid).max(now.checked_sub(Duration::from_secs(1)).unwrap_or(now));
        *paid = begins + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        paid.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_s_worth_is_free_and_everything_behind_it_takes_its_time() {
        assert!(Rate::new(0).is_none());
        let rate = Rate::new(1000).expect("a limit");
        // Made a second ago, so that a whole second is saved.
        let begun = Instant::now() + Duration::from_secs(1);
        let wait = |bytes, after: u64| rate.moved_at(bytes, begun + Duration::from_millis(after)).as_millis();
        assert_eq!(wait(600, 0), 0);
        assert_eq!(wait(400, 0), 0);
        assert_eq!(wait(500, 0), 500);
        assert_eq!(wait(500, 0), 1000, "one stream waits for what the other moved");
        assert_eq!(wait(500, 1000), 500);
        // What was saved up is a second's, however long nothing moved.
        assert_eq!(wait(1500, 1_000_000), 500);
    }
}
