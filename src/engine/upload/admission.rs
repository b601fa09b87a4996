//! What a stream may hold before its upload is let in, and what it is charged once it is. All of it is paid for ahead: who
//! cannot be paid for is told to come back, and nobody holds memory in a queue without end.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    engine::{
        blocks::{self, Blocks},
        fair::{Fair, Held},
    },
    fault::{Fault, Reason, Result},
    limits,
};

/// The way in, for all uploads of the process.
pub(super) struct Entrance {
    /// What streams may hold that are not let in yet, in units of the budget.
    waiting: Arc<Semaphore>,
    waiting_units: usize,
    /// Of what waiting streams may hold, the shares of application parameters.
    waiting_shares: Fair,
    /// Uploads open, and the share of the budget that they may be charged.
    slots: Fair,
    charges: Fair,
    blocks: Blocks,
}

/// A stream that has arrived. It pays for what it may hold, whether it is let in already or not; dropping it gives that
/// back.
#[derive(Debug)]
pub struct Arrival(Place);

#[derive(Debug)]
enum Place {
    Waiting {
        _paid: OwnedSemaphorePermit,
        /// Of the application parameter, once its name has been read.
        _share: Option<Held>,
        /// What an open upload of its size is charged.
        charge: usize,
    },
    LetIn(Admitted),
}

/// What an open upload holds beside its blocks.
#[derive(Debug)]
pub(super) struct Admitted {
    // In this order they are given back: who is woken by the slot finds the memory free already.
    _admission: blocks::Admission,
    _share: Held,
    _slot: Held,
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
            waiting_shares: Fair::new(waiting_units),
            slots: Fair::new(open_max),
            charges: Fair::new(charges),
            blocks,
        }
    }

    /// A place for a stream whose first message is not read yet.
    ///
    /// # Errors
    /// `CONNECTOR_BUSY`.
    pub(super) fn arrive(&self) -> Result<Arrival> {
        let paid = self.pay(limits::FIRST_MESSAGE_BYTES_MAX)?;
        Ok(Arrival(Place::Waiting { _paid: paid, _share: None, charge: limits::UPLOAD_CHARGE_BYTES }))
    }

    /// The first message is read: the stream is let in at once, or it waits and may fill its window before anybody reads on,
    /// or as much of it as its size says.
    ///
    /// # Errors
    /// `CONNECTOR_BUSY`.
    pub(super) fn announce(&self, parameter: &str, arrival: Arrival, size: Option<u64>) -> Result<Arrival> {
        let size = size.and_then(|size| usize::try_from(size).ok()).unwrap_or(usize::MAX);
        let charge = limits::UPLOAD_CHARGE_BYTES.min(size.saturating_mul(2)).max(1);
        if let Some(admitted) = self.admit_now(parameter, charge) {
            return Ok(Arrival(Place::LetIn(admitted)));
        }
        drop(arrival);
        let waiting = limits::FIRST_MESSAGE_BYTES_MAX + limits::UPLOAD_WAITING_BYTES.min(size);
        let share = self.waiting_shares.try_take(parameter, units(waiting) as usize).ok_or_else(busy)?;
        Ok(Arrival(Place::Waiting { _paid: self.pay(waiting)?, _share: Some(share), charge }))
    }

    /// The memory of a stream that was answered and is read on for a moment; `None`: there is none to spare.
    pub(super) fn leave(&self) -> Option<OwnedSemaphorePermit> {
        self.pay(limits::UPLOAD_CHARGE_BYTES).ok()
    }

    /// Bytes that streams are charged which are not let in yet.
    pub(super) fn waiting_bytes(&self) -> usize {
        (self.waiting_units - self.waiting.available_permits()) * limits::BUDGET_UNIT_BYTES
    }

    /// Waits in turn, parameter by parameter, for a slot and for the memory that an open stream holds outside blocks. Until then the arrival pays.
    pub(super) async fn admit(&self, parameter: &str, arrival: Arrival) -> Result<Admitted> {
        let (charge, _paid, _share) = match arrival.0 {
            Place::LetIn(admitted) => return Ok(admitted),
            Place::Waiting { charge, _paid, _share } => (charge, _paid, _share),
        };
        let slot = self.slots.take(parameter, 1).await;
        let share = self.charges.take(parameter, units(charge) as usize).await;
        let admission = self.blocks.admit(parameter, charge).await.ok_or_else(busy)?;
        Ok(Admitted { _slot: slot, _share: share, _admission: admission })
    }

    fn admit_now(&self, parameter: &str, charge: usize) -> Option<Admitted> {
        let slot = self.slots.try_take(parameter, 1)?;
        let share = self.charges.try_take(parameter, units(charge) as usize)?;
        let admission = self.blocks.admit_now(charge)?;
        Some(Admitted { _slot: slot, _share: share, _admission: admission })
    }

    fn pay(&self, bytes: usize) -> Result<OwnedSemaphorePermit> {
        self.waiting.clone().try_acquire_many_owned(units(bytes)).map_err(|_| busy())
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

    /// One of that size that is let in, and none beyond it.
    async fn full(open_max: usize, waiting_bytes: usize) -> (Entrance, Admitted) {
        let entrance = entrance(open_max, waiting_bytes);
        let arrival = entrance.arrive().and_then(|arrival| entrance.announce("p", arrival, Some(1))).expect("room");
        let admitted = entrance.admit("p", arrival).await.expect("let in");
        assert_eq!(entrance.waiting_bytes(), 0, "who is let in at once does not wait");
        (entrance, admitted)
    }

    #[tokio::test]
    async fn who_waits_pays_for_a_window_and_the_next_one_is_told_to_come_back() {
        let (entrance, _first) = full(1, 5 * MIB).await;
        let mut waiting = Vec::new();
        let refused = loop {
            let arrival = entrance.arrive().expect("a first message is small");
            match entrance.announce("p", arrival, None) {
                Ok(arrival) => waiting.push(arrival),
                Err(fault) => break fault,
            }
        };
        assert_eq!((refused.reason(), refused.retry_delay()), (Reason::ConnectorBusy, Some(limits::BUSY_RETRY)));
        let each = limits::UPLOAD_WAITING_BYTES + limits::FIRST_MESSAGE_BYTES_MAX;
        assert_eq!(waiting.len(), 5 * MIB / each);
        assert_eq!(entrance.waiting_bytes(), waiting.len() * each);
        // One that says how little it brings still finds a place.
        let small = entrance.arrive().and_then(|arrival| entrance.announce("p", arrival, Some(1000)));
        small.expect("a small one");
        drop(waiting);
        assert_eq!(entrance.waiting_bytes(), 0);
    }

    #[tokio::test]
    async fn who_waits_pays_until_it_is_let_in() {
        let (entrance, first) = full(1, 4 * MIB).await;
        let arrival = entrance.arrive().and_then(|arrival| entrance.announce("p", arrival, Some(1))).expect("room");
        let mut second = std::pin::pin!(entrance.admit("p", arrival));
        assert!(futures::poll!(second.as_mut()).is_pending(), "one slot");
        assert_eq!(entrance.waiting_bytes(), 2 * limits::BUDGET_UNIT_BYTES);
        drop(first);
        second.await.expect("let in");
        assert_eq!(entrance.waiting_bytes(), 0);
    }

    #[test]
    fn what_is_let_in_at_once_is_within_the_charges_of_the_budget() {
        let entrance = entrance(1000, 4 * MIB);
        let mut open = Vec::new();
        while let Ok(arrival) = entrance.arrive().and_then(|arrival| entrance.announce("p", arrival, None)) {
            open.push(arrival);
        }
        let let_in = open.iter().filter(|arrival| matches!(arrival.0, Place::LetIn(_))).count();
        assert_eq!(let_in, 48 * MIB / limits::UPLOAD_CHARGE_BYTES);
        assert!(entrance.blocks.used_bytes() + entrance.waiting_bytes() <= 52 * MIB);
    }
}
