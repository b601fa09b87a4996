//! What a feed has read for its watchers and keeps a while for the next of them: chunks of its log, pages of drains and of
//! listings. A few of each, for a short time, and counted with the tails of all scopes: a full process keeps none.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use crate::limits::{EVENT_CHUNKS_KEPT, EVENT_SHELF_AGE, EVENT_TAILS_BYTES};

#[derive(Debug)]
pub(super) struct Shelf<T> {
    kept: VecDeque<Kept<T>>,
    /// Bytes that all scopes of the process keep.
    all: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Kept<T> {
    value: T,
    bytes: usize,
    since: Instant,
}

impl<T: Clone> Shelf<T> {
    pub(super) fn new(all: Arc<AtomicUsize>) -> Shelf<T> {
        Shelf { kept: VecDeque::new(), all }
    }

    pub(super) fn find(&self, is_it: impl Fn(&T) -> bool) -> Option<T> {
        self.kept.iter().find(|kept| is_it(&kept.value)).map(|kept| kept.value.clone())
    }

    pub(super) fn put(&mut self, value: T, bytes: usize) {
        self.all.fetch_add(bytes, Ordering::Relaxed);
        self.kept.push_back(Kept { value, bytes, since: Instant::now() });
        while self.kept.len() > EVENT_CHUNKS_KEPT
            || (!self.kept.is_empty() && self.all.load(Ordering::Relaxed) > EVENT_TAILS_BYTES)
        {
            let oldest = self.kept.pop_front();
            self.let_go(oldest.map_or(0, |kept| kept.bytes));
        }
    }

    pub(super) fn retain(&mut self, stays: impl Fn(&T) -> bool) {
        self.sift(|kept| stays(&kept.value));
    }

    /// Without what nobody may ask for any more.
    pub(super) fn tidy(&mut self) {
        self.sift(|kept| kept.since.elapsed() < EVENT_SHELF_AGE);
        if self.kept.is_empty() {
            self.kept = VecDeque::new();
        }
    }

    fn sift(&mut self, stays: impl Fn(&Kept<T>) -> bool) {
        let mut freed = 0;
        self.kept.retain(|kept| {
            let stays = stays(kept);
            freed += if stays { 0 } else { kept.bytes };
            stays
        });
        self.let_go(freed);
    }
}

impl<T> Shelf<T> {
    fn let_go(&self, bytes: usize) {
        self.all.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl<T> Drop for Shelf<T> {
    fn drop(&mut self) {
        self.let_go(self.kept.iter().map(|kept| kept.bytes).sum());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shelf_is_counted_bounded_and_emptied_where_the_process_is_full() {
        let all = Arc::new(AtomicUsize::new(0));
        let (mut one, mut other) = (Shelf::new(all.clone()), Shelf::new(all.clone()));
        for number in 0..EVENT_CHUNKS_KEPT + 2 {
            one.put(number, 100);
        }
        assert_eq!(all.load(Ordering::Relaxed), EVENT_CHUNKS_KEPT * 100);
        assert_eq!((one.find(|number| *number == 0), one.find(|number| *number == 3)), (None, Some(3)));
        one.retain(|number| *number == 3);
        assert_eq!(all.load(Ordering::Relaxed), 100);
        other.put(7, EVENT_TAILS_BYTES);
        assert_eq!((other.find(|_| true), all.load(Ordering::Relaxed)), (None, 100), "there is no room for it");
        for kept in &mut one.kept {
            kept.since = Instant::now().checked_sub(EVENT_SHELF_AGE).expect("the machine is on for longer");
        }
        one.tidy();
        assert_eq!((one.find(|_| true), all.load(Ordering::Relaxed)), (None, 0));
        one.put(8, 50);
        drop(one);
        assert_eq!(all.load(Ordering::Relaxed), 0);
    }
}
