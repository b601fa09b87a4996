//! Which of the uploads that are ready commit together. Pure but for the clock it is handed.

use tokio::time::Instant;

use super::Entry;
use crate::engine::together::Paths;

/// An upload whose bytes are at Dropbox, in a closed session.
pub(super) struct Closed {
    pub entry: Entry,
    pub session: String,
    pub since: Instant,
    /// A commit of it may have been executed: the answer was lost. From then on it is not withdrawn, and never sent in another way.
    pub unclear: bool,
}

impl Closed {
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.entry.again_at.is_none_or(|at| at <= now)
    }
}

/// Takes out what goes now, in the order of arrival, `most` at most; what nobody wants any more, or comes too late, goes, too.
/// Paths that are equal or lie in each other never share a batch and keep their order. What may be sent once only does not go
/// with what is repeated after an unclear answer, and one that met contention in a batch goes alone when it is the first.
pub(super) fn choose(ready: &mut Vec<Closed>, now: Instant, most: usize) -> Vec<Closed> {
    ready.retain(|closed| closed.entry.is_wanted() && (closed.unclear || closed.entry.is_in_time(now)));
    ready.sort_by_key(|closed| closed.entry.number);
    let mut paths = Paths::default();
    let mut once = None;
    let (mut chosen, mut left) = (Vec::new(), Vec::new());
    for closed in ready.drain(..) {
        let is_free = paths.take(std::slice::from_ref(&closed.entry.path));
        let fits = once.is_none_or(|once| once == closed.entry.once);
        let is_company = |first: &Closed| !first.entry.by_itself && !closed.entry.by_itself;
        let fits = fits && chosen.first().is_none_or(is_company);
        let fits = fits && chosen.len() < most && closed.is_due(now);
        if is_free && fits && (closed.unclear || closed.entry.sent.leaves()) {
            once = Some(closed.entry.once);
            chosen.push(closed);
        } else {
            left.push(closed);
        }
    }
    *ready = left;
    chosen
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use dropbox_sdk::files::CommitInfo;
    use tokio::sync::oneshot;

    use super::*;

    /// Entries in a queue, and what keeps their callers waiting.
    #[derive(Default)]
    struct Queue {
        ready: Vec<Closed>,
        callers: Vec<oneshot::Receiver<super::super::Told>>,
    }

    impl Queue {
        fn add(&mut self, number: u64, path: &str, edit: impl FnOnce(&mut Entry)) {
            let (answer, caller) = oneshot::channel();
            self.callers.push(caller);
            let mut entry = Entry {
                number,
                commit: CommitInfo::new(path.into()),
                path: path.into(),
                once: false,
                ahead: false,
                size: 1,
                body: Default::default(),
                latest: None,
                since: Instant::now(),
                again_at: None,
                contentions: 0,
                by_itself: false,
                sent: Arc::default(),
                answer,
            };
            edit(&mut entry);
            self.ready.push(Closed { entry, session: String::new(), since: Instant::now(), unclear: false });
        }

        fn next(&mut self, most: usize) -> Vec<u64> {
            let chosen = choose(&mut self.ready, Instant::now(), most);
            assert!(chosen.iter().all(|closed| closed.entry.sent.is_sent()));
            chosen.iter().map(|closed| closed.entry.number).collect()
        }
    }

    #[tokio::test]
    async fn what_goes_is_in_order_wanted_in_time_and_of_one_kind() {
        let mut queue = Queue::default();
        let later = Instant::now() + Duration::from_secs(60);
        queue.add(7, "/g", |_| {});
        queue.add(2, "/b", |entry| entry.once = true);
        queue.add(1, "/a", |_| {});
        queue.add(3, "/c", |entry| assert!(entry.sent.withdraw()));
        queue.add(4, "/d", |entry| entry.latest = Some(Instant::now()));
        queue.add(5, "/e", |entry| entry.again_at = Some(later));
        queue.add(6, "/e", |_| {});
        queue.add(8, "/h", |entry| entry.latest = Some(later));
        queue.add(9, "/i", |_| {});
        assert_eq!(queue.next(3), [1, 7, 8]);
        assert_eq!(queue.next(3), [2], "what is sent once only goes with its like");
        assert_eq!(queue.next(3), [9]);
        assert_eq!(queue.next(3), [0; 0], "behind one of the same path that has to wait");
        assert_eq!(queue.ready.len(), 2, "those that nobody wants are gone");
        queue.ready[0].entry.again_at = None;
        assert_eq!(queue.next(3), [5]);
        assert_eq!(queue.next(3), [6]);
    }

    #[tokio::test]
    async fn what_met_contention_goes_by_itself_and_keeps_nobody_who_came_before_it() {
        let mut queue = Queue::default();
        let later = Instant::now() + Duration::from_secs(60);
        queue.add(1, "/a", |_| {});
        queue.add(2, "/b", |entry| entry.by_itself = true);
        queue.add(3, "/c", |entry| (entry.by_itself, entry.again_at) = (true, Some(later)));
        queue.add(4, "/d", |_| {});
        queue.add(5, "/b", |_| {});
        assert_eq!(queue.next(9), [1, 4]);
        assert_eq!(queue.next(9), [2]);
        assert_eq!(queue.next(9), [5], "while another one waits for its time");
        queue.ready[0].entry.again_at = None;
        queue.add(6, "/e", |_| {});
        assert_eq!(queue.next(9), [3]);
        assert_eq!(queue.next(9), [6]);
    }

    #[tokio::test]
    async fn what_may_have_been_committed_goes_again_also_when_its_time_is_over() {
        let mut queue = Queue::default();
        queue.add(1, "/a", |entry| {
            entry.sent.set(true);
            entry.latest = Some(Instant::now());
        });
        queue.ready[0].unclear = true;
        assert_eq!(queue.next(3), [1]);
    }
}
