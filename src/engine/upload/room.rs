//! How the transfer budget is divided, and how many uploads find room in it: what a caller may be told ahead of a refusal.

use super::admission::{charge, units, waiting_bytes};
use crate::{fair, limits};

/// What the transfer budget pays for, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Uploads that are let in, and downloads.
    pub blocks: usize,
    /// Uploads that are not let in yet.
    pub waiting: usize,
    /// Uploads that were answered early and are read on.
    pub leaving: usize,
}

/// Uploads that do not say their size. With one, a small file takes less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Open at once, of all application parameters together.
    pub open: usize,
    /// Of one, while no other has any.
    pub open_of_one: usize,
    /// Waiting beside them, of all together and of one.
    pub waiting: usize,
    pub waiting_of_one: usize,
}

impl Budget {
    pub fn of(bytes: usize) -> Budget {
        let waiting = bytes / limits::WAITING_SHARE;
        let leaving = (bytes / limits::LEAVING_SHARE).max(limits::UPLOAD_INFLATED_CHARGE_BYTES);
        Budget { blocks: bytes.saturating_sub(waiting + leaving), waiting, leaving }
    }

    /// Units that open uploads may be charged: as much as `Blocks::admit` takes before it refuses, so that who waits for them is
    /// never refused there.
    pub(super) fn charges(blocks: usize) -> usize {
        blocks / limits::BUDGET_UNIT_BYTES / 4 * 3
    }

    /// Where messages are not compressed.
    pub fn room(self, open_max: usize) -> Room {
        let (charges, each) = (Budget::charges(self.blocks), units(charge(false)) as usize);
        let (waiting, each_waiting) =
            (self.waiting / limits::BUDGET_UNIT_BYTES, units(waiting_bytes(usize::MAX)) as usize);
        Room {
            open: open_max.min(charges / each),
            open_of_one: fair::alone(open_max, 1).min(fair::alone(charges, each)),
            waiting: fair::together_leaving(waiting, each_waiting),
            waiting_of_one: fair::alone_leaving(waiting, each_waiting),
        }
    }
}
