//! What a stream may hold before its upload is let in, and what it is charged once it is. All of it is paid for ahead: who
//! cannot be paid for is told to come back, and nobody holds memory in a queue without end.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    engine::blocks::{self, Blocks},
    fault::{Fault, Reason, Result},
    limits,
};

/// The way in, for all uploads of the process.
pub(super) struct Entrance {
    /// What streams may hold that are not let in yet, in units of the budget.
    waiting: Arc<Semaphore>,
    waiting_units: usize,
    /// Uploads open, and the share of the budget that they may be charged.
    slots: Arc<Semaphore>,
    charges: Arc<Semaphore>,
    blocks: Blocks,
}

/// A stream that has arrived. It pays for what it may hold until it is let in; dropping it gives that back.
#[derive(Debug)]
pub struct Arrival {
    paid: OwnedSemaphorePermit,
    waiting: Arc<Semaphore>,
    /// What an open upload of its size is charged.
    charge: usize,
}

/// What an open upload holds beside its blocks.
pub(super) struct Admitted {
    _slot: OwnedSemaphorePermit,
    _share: OwnedSemaphorePermit,
    _admission: blocks::Admission,
}

fn busy() -> Fault {
    Fault::new(Reason::ConnectorBusy, "too many uploads wait to be let in").retry_after(limits::BUSY_RETRY)
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(limits::BUDGET_UNIT_BYTES)).unwrap_or(u32::MAX)
}

impl Entrance {
    pub(super) fn new(blocks: Blocks, open_max: usize, waiting_bytes: usize) -> Entrance {
        let waiting_units = waiting_bytes / limits::BUDGET_UNIT_BYTES;
        // As much as `Blocks::admit` takes before it refuses: who waits here is never refused there.
        let charges = blocks.budget_bytes() / limits::BUDGET_UNIT_BYTES / 4 * 3;
        Entrance {
            waiting: Arc::new(Semaphore::new(waiting_units)),
            waiting_units,
            slots: Arc::new(Semaphore::new(open_max)),
            charges: Arc::new(Semaphore::new(charges)),
            blocks,
        }
    }

    /// A place for a stream whose first message is not read yet.
    ///
    /// # Errors
    /// `CONNECTOR_BUSY`.
    pub(super) fn arrive(&self) -> Result<Arrival> {
        let paid = self.pay(limits::FIRST_MESSAGE_BYTES_MAX)?;
        Ok(Arrival { paid, waiting: self.waiting.clone(), charge: limits::UPLOAD_CHARGE_BYTES })
    }

    /// The memory of a stream that was answered and is read on for a moment; `None`: there is none to spare.
    pub(super) fn leave(&self) -> Option<OwnedSemaphorePermit> {
        self.pay(limits::UPLOAD_CHARGE_BYTES).ok()
    }

    /// Bytes that streams are charged which are not let in yet.
    pub(super) fn waiting_bytes(&self) -> usize {
        (self.waiting_units - self.waiting.available_permits()) * limits::BUDGET_UNIT_BYTES
    }

    /// Waits in turn for a slot and for the memory that an open stream holds outside blocks. Until then the arrival pays.
    pub(super) async fn admit(&self, parameter: &str, arrival: Arrival) -> Result<Admitted> {
        let ended = |_| Fault::bug("a semaphore of uploads was closed");
        let slot = self.slots.clone().acquire_owned().await.map_err(ended)?;
        let share = self.charges.clone().acquire_many_owned(units(arrival.charge)).await.map_err(ended)?;
        let admission = self.blocks.admit(parameter, arrival.charge).await.ok_or_else(busy)?;
        Ok(Admitted { _slot: slot, _share: share, _admission: admission })
    }

    fn pay(&self, bytes: usize) -> Result<OwnedSemaphorePermit> {
        self.waiting.clone().try_acquire_many_owned(units(bytes)).map_err(|_| busy())
    }
}

impl Arrival {
    /// The first message is read. From here on the stream may fill its window before anybody reads on, or as much as its
    /// size says.
    ///
    /// # Errors
    /// `CONNECTOR_BUSY`.
    pub fn announce(&mut self, size: Option<u64>) -> Result<()> {
        let size = size.and_then(|size| usize::try_from(size).ok()).unwrap_or(usize::MAX);
        self.charge = limits::UPLOAD_CHARGE_BYTES.min(size.saturating_mul(2)).max(1);
        let more = units(limits::UPLOAD_WAITING_BYTES.min(size));
        self.paid.merge(self.waiting.clone().try_acquire_many_owned(more).map_err(|_| busy())?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    const MIB: usize = 1024 * 1024;

    fn entrance(open_max: usize, waiting_bytes: usize) -> Entrance {
        Entrance::new(Blocks::new(64 * MIB, Arc::new(SystemClock)), open_max, waiting_bytes)
    }

    #[test]
    fn who_waits_pays_for_a_window_and_the_next_one_is_told_to_come_back() {
        let entrance = entrance(1, 4 * MIB);
        let mut waiting = Vec::new();
        let refused = loop {
            let mut arrival = entrance.arrive().expect("a first message is small");
            match arrival.announce(None) {
                Ok(()) => waiting.push(arrival),
                Err(fault) => break fault,
            }
        };
        assert_eq!((refused.reason(), refused.retry_delay()), (Reason::ConnectorBusy, Some(limits::BUSY_RETRY)));
        let each = limits::UPLOAD_WAITING_BYTES + limits::FIRST_MESSAGE_BYTES_MAX;
        assert_eq!(waiting.len(), 4 * MIB / each);
        assert_eq!(entrance.waiting_bytes(), waiting.len() * each);
        // One that says how little it brings still finds a place.
        entrance.arrive().and_then(|mut arrival| arrival.announce(Some(1000))).expect("a small one");
        drop(waiting);
        assert_eq!(entrance.waiting_bytes(), 0);
    }

    #[tokio::test]
    async fn an_arrival_pays_until_it_is_let_in() {
        let entrance = entrance(1, 4 * MIB);
        let arrive = || {
            let mut arrival = entrance.arrive().expect("room");
            arrival.announce(Some(1)).expect("room");
            arrival
        };
        let first = entrance.admit("p", arrive()).await.expect("let in");
        assert_eq!(entrance.waiting_bytes(), 0);
        let mut second = std::pin::pin!(entrance.admit("p", arrive()));
        assert!(futures::poll!(second.as_mut()).is_pending(), "one slot");
        assert_eq!(entrance.waiting_bytes(), 2 * limits::BUDGET_UNIT_BYTES);
        drop(first);
        second.await.expect("let in");
        assert_eq!(entrance.waiting_bytes(), 0);
    }
}
