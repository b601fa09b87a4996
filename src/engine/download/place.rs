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
    pub(super) fn enter(&self, parameter: &str) -> Result<Place> {
        let open = self.open.try_take(parameter, 1);
        let open = open.ok_or_else(|| busy("too many downloads are open, of this application parameter or of all"))?;
        Ok(Place { places: self.clone(), parameter: parameter.into(), held: Held::Open { _place: open } })
    }
}

impl Place {
    /// Its caller does not read: the place is for others. `given`: bytes of the chunk that it left unread.
    pub(super) fn lay_down(&mut self, given: usize) {
        let units = given.div_ceil(limits::BUDGET_UNIT_BYTES).max(1);
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
            let open = self.places.open.try_take(&self.parameter, 1).ok_or_else(|| {
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
        let mut first = places.enter("p").expect("free");
        first.take_up().expect("it has one");
        let full = places.enter("p").expect_err("full");
        assert_eq!((full.reason(), full.retry_delay()), (Reason::ConnectorBusy, Some(limits::BUSY_RETRY)));
        first.lay_down(1000);
        first.lay_down(1000);
        let mut second = places.enter("p").expect("given to others");
        let gone = first.take_up().expect_err("others have it");
        assert_eq!((gone.reason(), gone.retry_delay()), (Reason::ConnectorBusy, Some(limits::BUSY_RETRY)));
        // No more lie there unread than there is memory for.
        second.lay_down(1000);
        assert!(places.enter("p").is_err());
        drop(second);
        first.take_up().expect("free again");
        drop(first);
        places.enter("p").expect("free again");
    }

    #[test]
    fn what_lies_there_unread_is_bounded_by_its_bytes() {
        let left = |chunk| {
            let places = Places::new(1000, 64 * limits::BUDGET_UNIT_BYTES);
            let mut all: Vec<_> = (0..100).map(|_| places.enter("p").expect("a place")).collect();
            all.iter_mut().for_each(|place| place.lay_down(chunk));
            all.iter().filter(|place| matches!(place.held, Held::Left { .. })).count()
        };
        assert_eq!((left(1000), left(256 * 1024), left(2 * 1024 * 1024)), (56, 14, 2));
    }
}
