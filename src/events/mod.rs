//! The watch hub: what changed in Dropbox, as it happens. A [`Scope`] is one folder of one account seen through one
//! application parameter; it has one feed, which polls Dropbox and saves index, cursor and log together, and any number of
//! watchers, which only read. Nothing here knows gRPC: filters, heartbeats and wire bytes are the service's.
//!
//! Delivery is at least once and in order per scope. A watcher's place is a [`ResumePoint`]; whoever comes back with it
//! goes on behind it: in the log if the log still holds it, else from Dropbox's cursor inside it, else by a resync.

mod change;
mod scope;
mod upstream;
mod watcher;

use std::{sync::Arc, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use change::{Basis, Change, ChangeKind, Entry, ItemKind, Told, VARIANTS};
pub use scope::{CheckpointName, ResumePoint, Scope};
pub use upstream::{Dropbox, Page, Upstream};
pub use watcher::{Happening, Resync, Watcher};

use crate::{fault::Result, store::Store};

/// All scopes of the process. Clones share it.
#[derive(Clone, Debug)]
pub struct Hub(Arc<Inside>);

#[derive(Debug)]
struct Inside {
    parts: Parts,
}

/// What a hub is made of.
#[derive(Debug, Clone)]
pub struct Parts {
    pub store: Store,
    pub upstream: Arc<dyn Upstream>,
    /// Feeds run under it.
    pub tasks: TaskTracker,
    /// Ends every feed; watchers then fail `SERVER_DRAINING`.
    pub ended: CancellationToken,
    /// Webhooks wake the feeds, so that Dropbox is asked by itself only every ten minutes.
    pub webhooks: bool,
}

/// Where a watcher begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// With what happens from now on.
    Now,
    /// With everything that is there, then what happens.
    Snapshot,
    /// Behind what was acknowledged under this name; a name never used begins now. Another stream that holds it ends
    /// `CHECKPOINT_TAKEN_OVER`.
    Checkpoint(CheckpointName),
    After(ResumePoint),
}

/// What a watcher wants of its feed. Filters and event types are not the hub's: they drop whole messages behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    pub on_reset: OnReset,
    pub poll: Poll,
    /// One change per known child behind the change of a folder.
    pub expand_folders: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnReset {
    /// What differs is told between `CursorReset` and the next `Ready`.
    #[default]
    Resync,
    /// The watcher fails `RESUME_TOKEN_EXPIRED`.
    Fail,
}

/// How Dropbox is asked. The feed longpolls if any of its watchers wants it, else it asks at the shortest interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Poll {
    #[default]
    Longpoll,
    Interval(Duration),
}

impl Hub {
    pub fn new(parts: Parts) -> Hub {
        Hub(Arc::new(Inside { parts }))
    }

    /// Begins to watch. The scope must be one that [`Scope::of`] made from an opened parameter.
    ///
    /// # Errors
    /// What the first call to Dropbox says (`PATH_NOT_FOUND`, `NOT_A_FOLDER`, `SCOPE_MISSING`, …), `STORE_UNAVAILABLE`,
    /// `RESUME_TOKEN_EXPIRED` for a token that leads nowhere with `OnReset::Fail`.
    pub async fn watch(&self, _scope: Scope, _start: Start, _options: Options) -> Result<Watcher> {
        let _ = &self.0.parts;
        todo!()
    }

    /// The place of "now".
    ///
    /// # Errors
    /// As [`Hub::watch`].
    pub async fn latest(&self, _scope: &Scope) -> Result<ResumePoint> {
        todo!()
    }

    /// Keeps a place under a name; `None` forgets the name.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn acknowledge(&self, _scope: &Scope, _name: &CheckpointName, _at: Option<&ResumePoint>) -> Result<()> {
        todo!()
    }

    /// From a webhook: these accounts (`dbid:` of users, `dbmid:` of team members) have news. Coalesces; never waits.
    pub fn wake(&self, _accounts: &[&str]) {}

    /// The sealed form of a place, as it goes out.
    ///
    /// # Errors
    /// `CONNECTOR_BUG` for a cursor that makes no handle.
    pub fn seal(&self, scope: &Scope, point: &ResumePoint) -> Result<Arc<str>> {
        point.seal(self.0.parts.store.keys(), scope)
    }

    /// Reads a token that came back.
    ///
    /// # Errors
    /// `HANDLE_MALFORMED`, `HANDLE_KEY_RETIRED`, `RESUME_TOKEN_MISMATCH`.
    pub fn unseal(&self, scope: &Scope, token: &str) -> Result<ResumePoint> {
        ResumePoint::unseal(self.0.parts.store.keys(), scope, token)
    }
}
