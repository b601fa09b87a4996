//! How far a request has come, for whoever judges it from outside and may drop it for being slow.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::body::Progress;

/// The attempt of a call that is under way.
#[derive(Debug, Default)]
pub struct Underway(Mutex<Option<Arc<Progress>>>);

/// What an attempt has given to its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Given {
    /// When it began to leave.
    pub since: Instant,
    pub bytes: u64,
}

impl Underway {
    pub(super) fn set(&self, progress: Option<&Arc<Progress>>) {
        *self.current() = progress.cloned();
    }

    /// None while no attempt has begun to leave: one that queues or waits to be repeated is not slow.
    pub fn given(&self) -> Option<Given> {
        let current = self.current();
        let progress = current.as_ref()?;
        Some(Given { since: progress.since()?, bytes: progress.bytes() })
    }

    /// Whether the attempt has begun to leave: its connection stands, or stood when last used.
    pub fn has_left(&self) -> bool {
        self.given().is_some()
    }

    /// As of an attempt that has.
    #[cfg(test)]
    pub fn leave(&self) {
        let progress = Arc::<Progress>::default();
        progress.begin();
        self.set(Some(&progress));
    }

    /// Waits, once the call was dropped, until its connection has let go of its content, and no longer than `most`: it is given no
    /// more of it, but what it had been given may be stuck in it.
    pub async fn let_go(&self, most: Duration) {
        let Some(progress) = self.current().clone() else { return };
        let _ = tokio::time::timeout(most, progress.let_go()).await;
    }

    fn current(&self) -> MutexGuard<'_, Option<Arc<Progress>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
