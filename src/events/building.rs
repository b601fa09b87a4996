//! An index that is not built yet: when it is tried again after Dropbox refused a page of it, and whether there is anything
//! left to build. Beside the log, which needs none of it.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::feed::Feed;
use crate::{
    fault::Fault,
    limits::{FEED_RETRY, FEED_RETRY_MAX},
};

/// What a feed keeps of it; a poller lives for one piece of work only.
#[derive(Debug, Default)]
pub(super) struct Building {
    stands: AtomicBool,
    pause: Mutex<Pause>,
}

/// Dropbox did not give the next page, so often in a row.
#[derive(Debug, Default)]
struct Pause {
    failures: u32,
    /// By steady time.
    until: Duration,
}

impl Building {
    pub(super) fn stands(&self, stands: bool) {
        self.stands.store(stands, Ordering::Relaxed);
    }

    fn pause(&self) -> MutexGuard<'_, Pause> {
        self.pause.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Feed {
    /// There is no index to be built: it stands, or the scope has none.
    pub(super) fn is_built(&self) -> bool {
        self.scope.raw || self.building.stands.load(Ordering::Relaxed)
    }

    /// For how long the index is still left alone.
    pub(super) fn index_rests(&self) -> Option<Duration> {
        let until = self.building.pause().until;
        Some(until.saturating_sub(self.clock.steady())).filter(|left| !left.is_zero())
    }

    pub(super) fn rest_from_index(&self, fault: &Fault) {
        let mut pause = self.building.pause();
        let wait = FEED_RETRY * 2u32.saturating_pow(pause.failures);
        let wait = wait.max(fault.retry_delay().unwrap_or_default()).min(FEED_RETRY_MAX);
        pause.failures = (pause.failures + 1).min(6);
        pause.until = self.clock.steady() + wait;
        let wait_ms = wait.as_millis();
        tracing::warn!(%fault, wait_ms, "the index of a watched folder could not be built; it is tried again");
    }

    pub(super) fn index_goes_on(&self) {
        *self.building.pause() = Pause::default();
    }
}
