//! How a caller reads, and whether ranges ahead of it are worth their blocks. Only its own time is held against it: on a slow
//! line it is Dropbox that is waited for, and that is where more ranges help. Pure.

use std::time::Duration;

use crate::limits::{BLOCK_BYTES, DRAIN_PATIENCE, OUTRUN_BYTES, OUTRUN_LEFT_MIN, OUTRUN_WAIT_MIN, RANGES_BY_NEED_MAX};

/// How many ranges may be under way for one caller.
#[derive(Debug)]
pub(super) struct Drain {
    ranges: usize,
    /// Nobody asked for a number: more of them where the caller outruns one.
    by_need: bool,
    /// Handed on of the present block, and the caller's time for it.
    block: (u64, Duration),
    /// It did not drain a block in time, and has not since.
    is_slow: bool,
    /// Since the number was last thought over: handed on, the caller's time, and what was waited for Dropbox.
    stretch: (u64, Duration, Duration),
}

impl Drain {
    /// `ranges`: as asked for; 0 begins with one.
    pub(super) fn new(ranges: usize) -> Drain {
        Drain {
            ranges: ranges.max(1),
            by_need: ranges == 0,
            block: (0, Duration::ZERO),
            is_slow: false,
            stretch: (0, Duration::ZERO, Duration::ZERO),
        }
    }

    /// Ranges under way together, the head among them.
    pub(super) fn ranges(&self) -> usize {
        if self.is_slow { 1 } else { self.ranges }
    }

    /// Dropbox was waited for.
    pub(super) fn waited(&mut self, span: Duration) {
        self.stretch.2 += span;
    }

    /// The caller took this long to come again.
    pub(super) fn took(&mut self, span: Duration) {
        self.stretch.1 += span;
        self.block.1 += span;
        if self.block.1 > DRAIN_PATIENCE {
            self.is_slow = true;
            self.block = (0, Duration::ZERO);
        }
    }

    /// It takes so little, or has left bytes waiting for so long, that what lies ahead of them is not for it.
    pub(super) fn is_late(&self, silence: Duration) -> bool {
        self.is_slow || self.block.1 + silence > DRAIN_PATIENCE
    }

    /// So much was handed on; so much is left behind it.
    pub(super) fn gave(&mut self, bytes: u64, left: u64) {
        self.block.0 += bytes;
        if self.block.0 >= BLOCK_BYTES as u64 {
            // In half the time where it was slow: what is let go and read anew at every other block would be worse than none.
            self.is_slow &= self.block.1 > DRAIN_PATIENCE / 2;
            self.block = (0, Duration::ZERO);
        }
        self.stretch.0 += bytes;
        if self.stretch.0 >= OUTRUN_BYTES {
            let (_, took, waited) = self.stretch;
            if self.by_need && waited > took && waited >= OUTRUN_WAIT_MIN && left >= OUTRUN_LEFT_MIN {
                self.ranges = (self.ranges * 2).min(RANGES_BY_NEED_MAX);
            }
            self.stretch = (0, Duration::ZERO, Duration::ZERO);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLENTY: u64 = 1 << 40;

    fn millis(span: u64) -> Duration {
        Duration::from_millis(span)
    }

    /// A block in 16 pieces, for each of which Dropbox and then the caller take so long.
    fn block(drain: &mut Drain, waited: Duration, took: Duration, left: u64) {
        for _ in 0..16 {
            drain.waited(waited);
            drain.gave(BLOCK_BYTES as u64 / 16, left);
            drain.took(took);
        }
    }

    #[test]
    fn a_caller_that_outruns_its_line_gets_more_ranges_and_only_if_it_left_that_to_us() {
        let after = |asked, waited, took, left| {
            let mut drain = Drain::new(asked);
            (0..8)
                .map(|_| {
                    block(&mut drain, waited, took, left);
                    drain.ranges()
                })
                .collect::<Vec<_>>()
        };
        let (slow, quick) = (millis(20), millis(1));
        assert_eq!(after(0, slow, quick, PLENTY), [1, 2, 2, 4, 4, 4, 4, 4], "after 8 MiB each");
        assert_eq!(after(0, quick, slow, PLENTY), [1; 8], "it is the caller that is slow");
        assert_eq!(after(0, quick, Duration::ZERO, PLENTY), [1; 8], "the line is as fast as the process");
        assert_eq!(after(0, slow, quick, 1), [1; 8], "little is left");
        assert_eq!(after(1, slow, quick, PLENTY), [1; 8]);
        assert_eq!(after(8, quick, slow, PLENTY), [8; 8]);
    }

    #[test]
    fn a_caller_that_does_not_drain_a_block_in_two_seconds_gets_nothing_ahead_until_it_does() {
        let mut drain = Drain::new(8);
        block(&mut drain, millis(10_000), millis(124), PLENTY);
        assert_eq!(drain.ranges(), 8, "what Dropbox takes is not its fault");
        assert!(!drain.is_late(millis(100)) && drain.is_late(millis(3000)));
        block(&mut drain, millis(0), millis(200), PLENTY);
        assert_eq!(drain.ranges(), 1);
        assert!(drain.is_late(Duration::ZERO), "also while it comes for bytes again and again");
        block(&mut drain, millis(0), millis(90), PLENTY);
        block(&mut drain, millis(0), millis(90), PLENTY);
        assert_eq!(drain.ranges(), 1, "a block in 1.4 s: what it would be given it would soon lose again");
        block(&mut drain, millis(0), millis(60), PLENTY);
        block(&mut drain, millis(0), millis(60), PLENTY);
        assert_eq!(drain.ranges(), 8, "a block in half the time");
        assert!(!drain.is_late(millis(100)));
    }
}
