//! One range on its line, as far as it has come. A line that is about to be free is as good as free: the next range is asked for
//! while the last bytes of an earlier one come, so that the wait for its answer costs no line. Pure.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::limits::EARLY_SHARE;

/// Written where the body is read, looked at where the next range is asked for.
#[derive(Debug)]
pub(super) struct Line {
    asked_at: Duration,
    answered_at: OnceLock<Duration>,
    came: AtomicU64,
}

impl Line {
    pub(super) fn asked(at: Duration) -> Line {
        Line { asked_at: at, answered_at: OnceLock::new(), came: AtomicU64::new(0) }
    }

    pub(super) fn answered(&self, at: Duration) {
        self.answered_at.get_or_init(|| at);
    }

    pub(super) fn came(&self, bytes: usize) {
        self.came.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// How long its answer took.
    pub(super) fn answer(&self) -> Option<Duration> {
        self.answered_at.get().map(|at| at.saturating_sub(self.asked_at))
    }

    /// Of so many bytes.
    pub(super) fn left(&self, bytes: u64) -> u64 {
        bytes.saturating_sub(self.came.load(Ordering::Relaxed))
    }

    /// Whether the bytes that are left come within that span, at the rate of those that came; a quarter of them must have, for the first
    /// ones come all at once. One that is whole only waits for its turn, and counts until it is read.
    pub(super) fn is_ending(&self, left: u64, span: Duration, now: Duration) -> bool {
        let Some(answered_at) = self.answered_at.get() else { return false };
        let came = self.came.load(Ordering::Relaxed);
        let took = now.saturating_sub(*answered_at);
        left > 0 && came >= left / 3 && u128::from(left) * took.as_nanos() < u128::from(came) * span.as_nanos()
    }
}

/// How many ranges may be asked for and unread together, where so many of them are ending.
pub(super) fn asked_max(ranges: usize, ending: usize) -> usize {
    ranges + ending.min(ranges / EARLY_SHARE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: u64 = 4_000_000;

    fn millis(span: u64) -> Duration {
        Duration::from_millis(span)
    }

    #[test]
    fn a_range_ends_when_its_rest_comes_sooner_than_another_one_would_be_answered() {
        let line = Line::asked(millis(100));
        assert_eq!((line.answer(), line.is_ending(BYTES, millis(50), millis(120))), (None, false), "not answered");
        line.answered(millis(150));
        assert_eq!(line.answer(), Some(millis(50)));
        let ending = |after: u64| line.is_ending(line.left(BYTES), millis(50), millis(150 + after));
        line.came(100_000);
        assert!(!ending(0), "what came at once says nothing of the rest");
        // 20 MB/s: 200 ms in all.
        line.came(2_700_000);
        assert!(!ending(140), "another 60 ms");
        line.came(300_000);
        assert!(ending(150), "another 44 ms");
        assert!(!ending(180), "by now it is slower");
        line.came(900_000);
        assert!(!ending(200), "it is whole: it waits for its turn");
        assert!(!line.is_ending(1, Duration::ZERO, millis(350)), "answers take no time");
    }

    #[test]
    fn ranges_that_are_ending_let_others_be_asked_for_and_no_more_than_half_as_many() {
        let asked = |ranges| (0..=ranges).map(|ending| asked_max(ranges, ending)).collect::<Vec<_>>();
        assert_eq!(asked(1), [1, 1], "one range needs no block");
        assert_eq!(asked(2), [2, 3, 3]);
        assert_eq!(asked(8), [8, 9, 10, 11, 12, 12, 12, 12, 12]);
    }
}
