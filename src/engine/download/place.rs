//! A download's place among those of the process. Its caller may stop reading for as long as it likes: then the place goes to
//! others, and the download goes on if there is one when its caller comes back.

use std::sync::Arc;

use crate::{
    fair::{self, Fair},
    fault::{Fault, Reason, Result},
    limits,
};

/// The places of a process. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Places {
    open: Fair,
    /// What those that lie there unread may hold, in units of the budget. HTTP/2 holds a chunk of each until its caller reads or
    /// leaves, and nothing but the end of its connection frees that; so beyond this a download that nobody reads keeps its
    /// place.
    left: Fair,
}

/// A place; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    parameter: Arc<str>,
    /// What it counts as while it is open.
    size: usize,
    held: Held,
}

#[derive(Debug)]
enum Held {
    Open { _place: fair::Held },
    Left { _place: fair::Held },
}

impl Places {
    pub(super) fn new(open_max: usize, left_bytes: usize) -> Places {
        Places { open: Fair::new(open_max), left: Fair::new(left_bytes / limits::BUDGET_UNIT_BYTES) }
    }

    /// # Errors
    /// `CONNECTOR_BUSY`, also for an application parameter that has its share.
    pub(super) fn enter(&self, parameter: &str, chunk_bytes: usize) -> Result<Place> {
        let size = size(chunk_bytes);
        let open = self.open.try_take(parameter, size);
        let open = open.ok_or_else(|| busy("too many downloads are open, of this application parameter or of all"))?;
        Ok(Place { places: self.clone(), parameter: parameter.into(), size, held: Held::Open { _place: open } })
    }
}

/// Places of one with chunks of that size: one chunk may wait in HTTP/2 while the next is written. So what is held outside the
/// block budget is bounded by the number of places.
fn size(chunk_bytes: usize) -> usize {
    let more = 2 * chunk_bytes.saturating_sub(limits::DOWNLOAD_CHUNK_DEFAULT);
    1 + more.div_ceil(limits::DOWNLOAD_HELD_BYTES)
}

impl Place {
    /// Its caller does not read: the place is for others. `left`: bytes that lie there unread.
    pub(super) fn lay_down(&mut self, left: usize) {
        let units = left.div_ceil(limits::BUDGET_UNIT_BYTES).max(1);
        if matches!(self.held, Held::Open { .. })
            && let Some(left) = self.places.left.try_take(&self.parameter, units)
        {
            self.held = Held::Left { _place: left };
        }
    }

    /// Its caller is back.
    ///
    /// # Errors
    /// `CONNECTOR_BUSY` if others have all places now; the download ends with it and goes on in another call.
    pub(super) fn take_up(&mut self) -> Result<()> {
        if matches!(self.held, Held::Left { .. }) {
            let open = self.places.open.try_take(&self.parameter, self.size).ok_or_else(|| {
                busy("the download was left unread and others have its place; go on at the offset that was reached")
            })?;
            self.held = Held::Open { _place: open };
        }
        Ok(())
    }
}

fn busy(text: &'static str) -> Fault {
    Fault::new(Reason::ConnectorBusy, text).fact("limit", "max_downloads").retry_after(limits::BUSY_RETRY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_is_laid_down_is_for_others_until_it_is_taken_up_again() {
        let places = Places::new(1, limits::BUDGET_UNIT_BYTES);
        let mut first = places.enter("p", 1000).expect("free");
        first.take_up().expect("it has one");
        let full = places.enter("p", 1000).expect_err("full");
        assert_eq!((full.reason(), full.retry_delay()), (Reason::ConnectorBusy, Some(limits::BUSY_RETRY)));
        first.lay_down(1000);
        first.lay_down(1000);
        let mut second = places.enter("p", 1000).expect("given to others");
        let gone = first.take_up().expect_err("others have it");
        assert_eq!((gone.reason(), gone.retry_delay()), (Reason::ConnectorBusy, Some(limits::BUSY_RETRY)));
        // No more lie there unread than there is memory for.
        second.lay_down(1000);
        assert!(places.enter("p", 1000).is_err());
        drop(second);
        first.take_up().expect("free again");
        drop(first);
        places.enter("p", 1000).expect("free again");
    }

    #[test]
    fn who_asks_for_larger_chunks_takes_as_many_places_as_they_may_hold() {
        let sizes = [limits::DOWNLOAD_CHUNK_MIN, limits::DOWNLOAD_CHUNK_DEFAULT, 1 << 20, limits::DOWNLOAD_CHUNK_MAX];
        assert_eq!(sizes.map(size), [1, 1, 2, 3]);
        let held = |chunk: usize| limits::SEND_AHEAD_BYTES + 2 * 408 * 1024 + 2 * chunk;
        assert!(sizes.iter().all(|chunk| held(*chunk) <= size(*chunk) * limits::DOWNLOAD_HELD_BYTES));
        let places = Places::new(4, 64 * limits::BUDGET_UNIT_BYTES);
        let mut large = places.enter("p", limits::DOWNLOAD_CHUNK_MAX).expect("three of four");
        let _small = places.enter("q", 1).expect("the fourth");
        assert!(places.enter("r", 1).is_err());
        large.lay_down(1);
        let others = ["r", "s"].map(|parameter| places.enter(parameter, 1).expect("its places are for others"));
        assert!(large.take_up().is_err());
        drop(others);
        large.take_up().expect("three are free again");
        assert!(places.enter("r", 1).is_err());
    }

    #[test]
    fn what_lies_there_unread_is_bounded_by_its_bytes() {
        let left = |chunk| {
            let places = Places::new(1000, 64 * limits::BUDGET_UNIT_BYTES);
            let mut all: Vec<_> = (0..100).map(|_| places.enter("p", 1000).expect("a place")).collect();
            all.iter_mut().for_each(|place| place.lay_down(chunk));
            all.iter().filter(|place| matches!(place.held, Held::Left { .. })).count()
        };
        assert_eq!((left(1000), left(256 * 1024), left(2 * 1024 * 1024)), (56, 14, 2));
    }
}
