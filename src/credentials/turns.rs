//! One at a time for each application parameter, at what each of them does once in hours. A queue is there only while somebody
//! is at it: ten thousand parameters have no lock of their own.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::{Mutex as Queue, OwnedMutexGuard};

use crate::store::Parameters;

/// By parameter and grant.
type Key = (Arc<str>, i64);

#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<Key, Weak<Queue<()>>>>);

impl Turns {
    /// Waits for the others of this parameter and grant. Dropping the future leaves the queue.
    pub(super) async fn of(&self, parameters: &Parameters) -> OwnedMutexGuard<()> {
        let queue = self.queue((parameters.uid.clone(), parameters.grant_number));
        queue.lock_owned().await
    }

    fn queue(&self, key: Key) -> Arc<Queue<()>> {
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queues.get(&key).and_then(Weak::upgrade) {
            return queue;
        }
        // Before it grows, those that nobody is at go.
        if queues.len() == queues.capacity() {
            queues.retain(|_, queue| queue.strong_count() > 0);
        }
        let queue = Arc::default();
        queues.insert(key, Arc::downgrade(&queue));
        queue
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn one_at_a_time_of_one_key_and_nothing_stays_of_those_that_went() {
        let turns = Turns::default();
        let queue = |n: i64| turns.queue(("uid".into(), n));
        let held = queue(0).lock_owned().await;
        let mut second = Box::pin(queue(0).lock_owned());
        assert!(second.as_mut().now_or_never().is_none(), "one has it");
        for n in 1..10_000 {
            assert!(queue(n).try_lock().is_ok(), "another grant");
        }
        assert!(turns.0.lock().unwrap().capacity() < 32);
        drop(held);
        drop(second.await);
        assert!(queue(0).try_lock().is_ok());
    }
}
