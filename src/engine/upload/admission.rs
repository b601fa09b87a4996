//! What a stream may hold before its upload is let in, and what it is charged once it is. All of it is paid for ahead: who
//! cannot be paid for is told to come back, and nobody holds memory in a queue without end.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::room::Budget;
use crate::{
    engine::blocks::{self, Blocks},
    fair::{Fair, Held},
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
    /// What streams may hold that were answered and are read on. Apart from the waiting ones: however many are answered early,
    /// as all of a folder that is there already, nobody is refused for that.
    leaving: Arc<Semaphore>,
    blocks: Blocks,
}

/// The memory of a stream that was answered before it had ended; dropping it gives that back.
#[derive(Debug)]
pub struct Leaving {
    _paid: OwnedSemaphorePermit,
}

/// A stream that has arrived. It pays for what it may hold, whether it is let in already or not; dropping it gives that
/// back.
#[derive(Debug)]
pub struct Arrival {
    place: Place,
    /// Its messages may be compressed.
    inflates: bool,
}

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
    Fault::new(
        Reason::ConnectorBusy,
        "too many uploads wait to be let in; those that say their total_size take less room",
    )
    .fact("limit", "transfer_buffer_mib")
    .retry_after(limits::BUSY_RETRY)
}

/// What an open stream holds outside blocks.
pub(super) fn charge(inflates: bool) -> usize {
    if inflates { limits::UPLOAD_INFLATED_CHARGE_BYTES } else { limits::UPLOAD_CHARGE_BYTES }
}

/// What a stream may hold that waits to be let in, by the size that it says.
pub(super) fn waiting_bytes(size: usize) -> usize {
    limits::FIRST_MESSAGE_BYTES_MAX + limits::UPLOAD_WAITING_BYTES.min(size)
}

pub(super) fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(limits::BUDGET_UNIT_BYTES)).unwrap_or(u32::MAX)
}

impl Entrance {
    pub(super) fn new(blocks: Blocks, open_max: usize, waiting_bytes: usize, leaving_bytes: usize) -> Entrance {
        let waiting_units = waiting_bytes / limits::BUDGET_UNIT_BYTES;
        let charges = Budget::charges(blocks.budget_bytes());
        Entrance {
            waiting: Arc::new(Semaphore::new(waiting_units)),
            waiting_units,
            waiting_shares: Fair::new(waiting_units),
            slots: Fair::new(open_max),
            charges: Fair::new(charges),
            leaving: Arc::new(Semaphore::new(leaving_bytes / limits::BUDGET_UNIT_BYTES)),
            blocks,
        }
    }

    /// A place for a stream whose first message is not read yet. `inflates`: it may be compressed, and is then there twice.
    ///
    /// # Errors
    /// `CONNECTOR_BUSY`.
    pub(super) fn arrive(&self, inflates: bool) -> Result<Arrival> {
        let first = if inflates { 2 * limits::FIRST_MESSAGE_BYTES_MAX } else { limits::FIRST_MESSAGE_BYTES_MAX };
        let place = Place::Waiting { _paid: self.pay(first)?, _share: None, charge: charge(inflates) };
        Ok(Arrival { place, inflates })
    }

    /// The first message is read: the stream is let in at once, or it waits and may fill its window before anybody reads on,
    /// or as much of it as its size says.
    ///
    /// # Errors
    /// `CONNECTOR_BUSY`.
    pub(super) fn announce(&self, parameter: &str, arrival: Arrival, size: Option<u64>) -> Result<Arrival> {
        let inflates = arrival.inflates;
        let size = size.and_then(|size| usize::try_from(size).ok()).unwrap_or(usize::MAX);
        let copies = if inflates { 3 } else { 2 };
        let charge = charge(inflates).min(size.saturating_mul(copies)).max(1);
        if let Some(admitted) = self.admit_now(parameter, charge) {
            return Ok(Arrival { place: Place::LetIn(admitted), inflates });
        }
        drop(arrival);
        let waiting = waiting_bytes(size);
        let share = self.waiting_shares.try_take_leaving(parameter, units(waiting) as usize).ok_or_else(busy)?;
        let place = Place::Waiting { _paid: self.pay(waiting)?, _share: Some(share), charge };
        Ok(Arrival { place, inflates })
    }

    /// The stream is of this parameter; it was booked before that was known.
    pub(super) fn rebook(arrival: &mut Arrival, parameter: &str) {
        let shares = match &mut arrival.place {
            Place::Waiting { _share, .. } => [_share.as_mut(), None],
            Place::LetIn(admitted) => [Some(&mut admitted._share), Some(&mut admitted._slot)],
        };
        shares.into_iter().flatten().for_each(|share| share.rebook(parameter));
    }

    /// The memory of a stream that was answered and is read on for a moment; `None`: there is none to spare.
    pub(super) fn leave(&self, inflates: bool) -> Option<Leaving> {
        let paid = self.leaving.clone().try_acquire_many_owned(units(charge(inflates))).ok()?;
        Some(Leaving { _paid: paid })
    }

    /// Bytes that streams are charged which are not let in yet.
    pub(super) fn waiting_bytes(&self) -> usize {
        (self.waiting_units - self.waiting.available_permits()) * limits::BUDGET_UNIT_BYTES
    }

    /// Waits in turn, parameter by parameter, for a slot and for the memory that an open stream holds outside blocks. Until then the arrival pays.
    pub(super) async fn admit(&self, parameter: &str, arrival: Arrival) -> Result<Admitted> {
        let (charge, _paid, _share) = match arrival.place {
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
    use super::{super::room::Room, *};
    use crate::clock::SystemClock;

    const MIB: usize = 1024 * 1024;

    fn entrance(open_max: usize, waiting_bytes: usize) -> Entrance {
        Entrance::new(Blocks::new(64 * MIB, Arc::new(SystemClock)), open_max, waiting_bytes, 16 * MIB)
    }

    fn announced(entrance: &Entrance, size: Option<u64>) -> Result<Arrival> {
        entrance.announce("p", entrance.arrive(false)?, size)
    }

    /// One of that size that is let in, and none beyond it.
    async fn full(open_max: usize, waiting_bytes: usize) -> (Entrance, Admitted) {
        let entrance = entrance(open_max, waiting_bytes);
        let arrival = announced(&entrance, Some(1)).expect("room");
        let admitted = entrance.admit("p", arrival).await.expect("let in");
        assert_eq!(entrance.waiting_bytes(), 0, "who is let in at once does not wait");
        (entrance, admitted)
    }

    #[tokio::test]
    async fn who_waits_pays_for_a_window_and_the_next_one_is_told_to_come_back() {
        let (entrance, _first) = full(1, 5 * MIB).await;
        let mut waiting = Vec::new();
        let refused = loop {
            let arrival = entrance.arrive(false).expect("a first message is small");
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
        let small = announced(&entrance, Some(1000));
        small.expect("a small one");
        drop(waiting);
        assert_eq!(entrance.waiting_bytes(), 0);
    }

    #[tokio::test]
    async fn who_waits_pays_until_it_is_let_in() {
        let (entrance, first) = full(1, 4 * MIB).await;
        let arrival = announced(&entrance, Some(1)).expect("room");
        let mut second = std::pin::pin!(entrance.admit("p", arrival));
        assert!(futures::poll!(second.as_mut()).is_pending(), "one slot");
        assert_eq!(entrance.waiting_bytes(), 2 * limits::BUDGET_UNIT_BYTES);
        drop(first);
        second.await.expect("let in");
        assert_eq!(entrance.waiting_bytes(), 0);
    }

    #[test]
    fn who_was_let_in_before_its_name_was_known_counts_against_its_share() {
        let entrance = entrance(8, 4 * MIB);
        let let_in = |parameter| {
            let arrival = entrance.announce(parameter, entrance.arrive(false).expect("room"), Some(1)).expect("room");
            (matches!(arrival.place, Place::LetIn(_)), arrival)
        };
        let mut open: Vec<_> = (0..6).map(|_| let_in("")).collect();
        assert!(open.iter().all(|(is_in, _)| *is_in));
        for (_, arrival) in &mut open {
            Entrance::rebook(arrival, "p");
        }
        let seventh = let_in("p");
        assert!(seventh.0 && !let_in("p").0, "seven of eight are its share");
        assert!(let_in("").0, "and nobody else's");
        // Who waits is booked anew, too.
        let mut waiting = let_in("p").1;
        let none = entrance.waiting_shares.free();
        Entrance::rebook(&mut waiting, "q");
        assert_eq!(entrance.waiting_shares.free(), none);
        drop((waiting, seventh, open));
        assert_eq!((entrance.slots.free(), entrance.waiting_bytes()), (8, 0));
    }

    #[test]
    fn what_is_let_in_at_once_is_within_the_charges_of_the_budget() {
        let entrance = entrance(1000, 4 * MIB);
        let mut open = Vec::new();
        while let Ok(arrival) = announced(&entrance, None) {
            open.push(arrival);
        }
        let let_in = open.iter().filter(|arrival| matches!(arrival.place, Place::LetIn(_))).count();
        assert_eq!(let_in, 48 * MIB / limits::UPLOAD_CHARGE_BYTES);
        assert!(entrance.blocks.used_bytes() + entrance.waiting_bytes() <= 52 * MIB);
    }

    #[test]
    fn the_room_that_is_told_is_the_room_there_is() {
        for (mib, open_max) in [(512, 512), (64, 512), (512, 8)] {
            let budget = Budget::of(mib * MIB);
            let room = budget.room(open_max);
            let new = || {
                let blocks = Blocks::new(budget.blocks, Arc::new(SystemClock));
                Entrance::new(blocks, open_max, budget.waiting, budget.leaving)
            };
            let taken = |name: &dyn Fn(usize) -> String| {
                let (entrance, mut all) = (new(), Vec::new());
                while let Ok(arrival) =
                    entrance.arrive(false).and_then(|one| entrance.announce(&name(all.len()), one, None))
                {
                    all.push(arrival);
                }
                let open = all.iter().filter(|arrival| matches!(arrival.place, Place::LetIn(_))).count();
                (open, all.len() - open)
            };
            assert_eq!(taken(&|n| format!("p-{n}")), (room.open, room.waiting), "{mib} MiB, {open_max}: together");
            assert_eq!(taken(&|_| "p".into()), (room.open_of_one, room.waiting_of_one), "{mib} MiB, {open_max}: one");
        }
        assert_eq!(
            Budget::of(512 * MIB).room(512),
            Room { open: 61, open_of_one: 54, waiting: 48, waiting_of_one: 42 }
        );
    }

    #[tokio::test]
    async fn streams_that_were_answered_early_take_nothing_from_those_that_arrive() {
        let (entrance, _first) = full(1, 2 * MIB).await;
        let leaving: Vec<Leaving> = std::iter::from_fn(|| entrance.leave(false)).collect();
        assert_eq!(leaving.len(), 16 * MIB / limits::UPLOAD_CHARGE_BYTES);
        assert_eq!(entrance.waiting_bytes(), 0);
        announced(&entrance, None).expect("room to wait");
        drop(leaving);
        assert!(entrance.leave(true).is_some(), "their memory is there again");
    }

    #[tokio::test]
    async fn who_may_compress_pays_for_the_message_and_for_what_is_in_it() {
        let entrance = entrance(1000, 4 * MIB);
        let arrival = entrance.arrive(true).expect("room");
        assert_eq!(entrance.waiting_bytes(), 2 * limits::FIRST_MESSAGE_BYTES_MAX);
        let arrival = entrance.announce("p", arrival, None).expect("let in");
        assert_eq!(entrance.blocks.used_bytes(), limits::UPLOAD_INFLATED_CHARGE_BYTES);
        drop(arrival);
        assert_eq!((entrance.blocks.used_bytes(), entrance.waiting_bytes()), (0, 0));
    }

    /// Notes, the moment a task is woken, what it would find.
    struct Woken {
        charges: Fair,
        blocks: Blocks,
        found: std::sync::Mutex<Option<(usize, usize)>>,
    }

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            let found = (self.charges.free(), self.blocks.used_bytes());
            self.found.lock().expect("unpoisoned").get_or_insert(found);
        }
    }

    #[tokio::test]
    async fn who_is_woken_by_a_free_slot_finds_the_memory_free_already() {
        let (entrance, first) = full(1, 4 * MIB).await;
        let free = entrance.charges.free() + 1;
        let arrival = announced(&entrance, Some(1)).expect("room to wait");
        let woken = Arc::new(Woken {
            charges: entrance.charges.clone(),
            blocks: entrance.blocks.clone(),
            found: std::sync::Mutex::default(),
        });
        let waker = woken.clone().into();
        let mut context = std::task::Context::from_waker(&waker);
        let mut second = Box::pin(entrance.admit("p", arrival));
        assert!(second.as_mut().poll(&mut context).is_pending(), "one slot");
        drop(first);
        assert_eq!(*woken.found.lock().expect("unpoisoned"), Some((free, 0)));
    }
}
