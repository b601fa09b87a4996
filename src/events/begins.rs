//! Feeds that have not worked yet. Application parameters come in turn: thousands of folders of one whose account Dropbox lets
//! wait keep those of another from nothing.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use super::feed::Feed;
use crate::fair::{Fair, Held};

#[derive(Default)]
pub(super) struct Begins {
    /// Parameters that have some, each once.
    turns: VecDeque<Arc<str>>,
    /// Theirs, as they came; none is empty.
    queues: HashMap<Arc<str>, VecDeque<Arc<Feed>>>,
}

impl Begins {
    pub(super) fn push(&mut self, feed: Arc<Feed>) {
        let parameter = feed.scope.parameter.name();
        let queue = self.queues.entry(parameter.clone()).or_default();
        if queue.is_empty() {
            self.turns.push_back(parameter);
        }
        queue.push_back(feed);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// The next one, with a place. Those whose parameter has its share of them are passed over.
    pub(super) fn next(&mut self, places: &Fair) -> Option<(Arc<Feed>, Held)> {
        if places.free() == 0 {
            return None;
        }
        let mut turns = self.turns.iter().enumerate();
        let (at, place) = turns.find_map(|(at, parameter)| Some((at, places.try_take(parameter, 1)?)))?;
        let parameter = self.turns.remove(at)?;
        let queue = self.queues.get_mut(&parameter)?;
        let feed = queue.pop_front()?;
        if queue.is_empty() {
            self.queues.remove(&parameter);
        } else {
            self.turns.push_back(parameter);
        }
        Some((feed, place))
    }
}
