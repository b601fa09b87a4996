//! A queue that is hardly ever in use, of which ten thousand are kept: one word while it is empty.

use std::collections::VecDeque;

#[derive(Debug)]
#[expect(clippy::box_collection, reason = "three words less for each of ten thousand")]
pub struct Few<T>(Option<Box<VecDeque<T>>>);

impl<T> Few<T> {
    pub fn new() -> Few<T> {
        Few(None)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub fn push_back(&mut self, value: T) {
        self.0.get_or_insert_default().push_back(value);
    }

    pub fn pop_front(&mut self) -> Option<T> {
        let queue = self.0.as_mut()?;
        let value = queue.pop_front();
        if queue.is_empty() {
            self.0 = None;
        }
        value
    }
}

impl<T> Default for Few<T> {
    fn default() -> Few<T> {
        Few::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_first_leaves_first_and_an_empty_queue_holds_nothing() {
        let mut few = Few::default();
        for round in 0..3 {
            assert!(few.is_empty() && few.0.is_none() && few.pop_front().is_none());
            for number in 0..round {
                few.push_back(number);
            }
            for number in 0..round {
                assert!(!few.is_empty());
                assert_eq!(few.pop_front(), Some(number));
            }
        }
        assert_eq!(size_of::<Few<u64>>(), size_of::<usize>());
    }
}
