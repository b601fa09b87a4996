//! What one subscriber reads. It holds a number and a cursor, never events: a slow one costs what a fast one costs.

use std::{sync::Arc, time::Duration};

use dropbox_sdk::types::files;

use super::{Entry, ResumePoint};
use crate::fault::Result;

/// Reads the changes of one scope behind its own place.
#[derive(Debug)]
pub struct Watcher {
    last: ResumePoint,
}

/// What a watcher is told. Each carries the place behind it.
#[derive(Debug, Clone)]
pub enum Happening {
    /// It is there: from here on changes are told as they come. Once at the beginning and after each resync.
    Ready(ResumePoint),
    /// A page of a snapshot, 500 items at most.
    Snapshot {
        items: Vec<files::Metadata>,
        point: ResumePoint,
    },
    /// All items were told, so many.
    SnapshotEnd {
        count: u64,
        point: ResumePoint,
    },
    Event(Arc<Entry>),
    /// The last event of one drained batch was told. To be passed on if anything of the batch was.
    BatchEnd(Arc<Entry>),
    /// Dropbox forgot the cursor.
    CursorReset {
        resync: Resync,
        cause: String,
        point: ResumePoint,
    },
}

/// How a reset is made good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resync {
    /// The differences follow as events of basis SYNTHETIC, then `Ready`.
    Differences,
    /// Nothing is known of what the watcher had: a whole snapshot follows, which replaces it, then `Ready`.
    Snapshot,
}

impl Happening {
    pub fn point(&self) -> &ResumePoint {
        match self {
            Happening::Ready(point)
            | Happening::Snapshot { point, .. }
            | Happening::SnapshotEnd { point, .. }
            | Happening::CursorReset { point, .. } => point,
            Happening::Event(entry) | Happening::BatchEnd(entry) => &entry.point,
        }
    }
}

impl Watcher {
    /// The next thing to tell. Cancel-safe: what was not returned is returned by the next call.
    ///
    /// # Errors
    /// Final: `REAUTHORIZATION_REQUIRED`, `PARAMETER_DISABLED`, `APPLICATION_PARAMETER_NOT_FOUND`, `RESUME_TOKEN_EXPIRED`
    /// (`OnReset::Fail`), `CHECKPOINT_TAKEN_OVER`, `SERVER_DRAINING`, `PATH_NOT_FOUND` and what else Dropbox says that no
    /// repeat will change. What passes by itself is waited for.
    pub async fn next(&mut self) -> Result<Happening> {
        todo!()
    }

    /// Whether `next` would have to wait for something to happen.
    pub fn is_caught_up(&self) -> bool {
        todo!()
    }

    /// The place for a heartbeat: behind all that was told, and at the newest cursor where nothing is missing.
    pub fn point(&self) -> ResumePoint {
        self.last.clone()
    }

    /// How long ago what this watcher has was all there was to have.
    pub fn lag(&self) -> Duration {
        todo!()
    }
}
