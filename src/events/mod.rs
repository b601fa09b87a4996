//! The watch hub: what changed in Dropbox, as it happens. A [`Scope`] is one folder of one account seen through one
//! application parameter; it has one feed, which polls Dropbox and saves index, cursor and log together, and any number of
//! watchers, which only read. Nothing here knows gRPC: filters, heartbeats and wire bytes are the service's.
//!
//! Delivery is at least once and in order per scope. A watcher's place is a [`ResumePoint`]; whoever comes back with it
//! goes on behind it: in the log if the log still holds it, else from Dropbox's cursor inside it, else by a resync.

mod change;
mod driver;
mod ending;
mod expand;
mod feed;
mod index;
mod loading;
mod poller;
mod scope;
mod seen;
mod shelf;
mod upstream;
mod watcher;

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use change::{Basis, Before, Change, ChangeKind, Entry, ItemKind, Told};
use feed::Feed;
pub use scope::{CheckpointName, ResumePoint, Scope};
pub use upstream::{Dropbox, News, Page, Upstream};
pub use watcher::{Happening, Resync, Watcher};

use crate::{
    fault::Result,
    limits::{FEEDS_AT_WORK_MAX, LONGPOLLS_MAX},
    store::Store,
};

/// All scopes of the process. Clones share it.
#[derive(Clone, Debug)]
pub struct Hub(Arc<Inside>);

struct Inside {
    parts: Parts,
    feeds: Mutex<Feeds>,
    watchers: AtomicU64,
    /// Feeds that ask or write at once.
    at_work: Semaphore,
    longpolls: Semaphore,
    tails_bytes: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Feeds {
    /// By its name in the store: two spellings of a path are one folder.
    by_key: HashMap<Arc<str>, Arc<Feed>>,
    by_account: HashMap<Arc<str>, HashSet<Arc<str>>>,
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
    /// What a folder held that was moved or deleted is told behind it, one by one.
    pub expand: bool,
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
        Hub(Arc::new(Inside {
            parts,
            feeds: Mutex::default(),
            watchers: AtomicU64::new(0),
            at_work: Semaphore::new(FEEDS_AT_WORK_MAX),
            longpolls: Semaphore::new(LONGPOLLS_MAX),
            tails_bytes: Arc::default(),
        }))
    }

    /// Begins to watch. The scope must be one that [`Scope::of`] made from an opened parameter, its path a plain one.
    ///
    /// # Errors
    /// What the first call to Dropbox says (`PATH_NOT_FOUND`, `NOT_A_FOLDER`, `SCOPE_MISSING`, …), `STORE_UNAVAILABLE`,
    /// `RESUME_TOKEN_MISMATCH` for a checkpoint of another folder.
    pub async fn watch(&self, scope: Scope, start: Start, options: Options) -> Result<Watcher> {
        let number = self.0.watchers.fetch_add(1, Ordering::Relaxed);
        let feed = self.feed(scope).await?;
        Watcher::begin(feed, number, start, options).await
    }

    /// The place of "now".
    ///
    /// # Errors
    /// As [`Hub::watch`].
    pub async fn latest(&self, scope: &Scope) -> Result<ResumePoint> {
        let running = self.0.running(&scope.key());
        match running {
            Some(feed) => watcher::now(&feed).await,
            // Nobody watches: a place needs no feed.
            None => {
                let cursor = self.0.parts.upstream.latest(scope).await?;
                Ok(ResumePoint::at(cursor))
            }
        }
    }

    /// Keeps a place under a name; `None` forgets the name.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn acknowledge(&self, scope: &Scope, name: &CheckpointName, at: Option<&ResumePoint>) -> Result<()> {
        let store = &self.0.parts.store;
        let token = at.map(|point| point.seal(store.keys(), scope)).transpose()?;
        store.acknowledge(&scope.uid, name.as_str(), token.as_deref()).await
    }

    /// From a webhook: these accounts (`dbid:` of users, `dbmid:` of team members) have news. Coalesces; never waits.
    pub fn wake(&self, accounts: &[String]) {
        let feeds = self.0.held();
        for key in accounts.iter().filter_map(|account| feeds.by_account.get(account.as_str())).flatten() {
            if let Some(feed) = feeds.by_key.get(key) {
                feed.bell.notify_one();
            }
        }
    }

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

    /// The feed of a scope, begun for the first who watches it.
    async fn feed(&self, scope: Scope) -> Result<Arc<Feed>> {
        let key: Arc<str> = scope.key().into();
        if let Some(feed) = self.0.running(&key) {
            return Ok(feed);
        }
        let Parts { store, upstream, tasks, .. } = &self.0.parts;
        let account = scope.account.clone();
        let feed = Feed::new(scope, store.clone(), upstream.clone(), self.0.tails_bytes.clone());
        feed.row().await?;
        let mut feeds = self.0.held();
        if let Some(running) = feeds.by_key.get(&key).filter(|feed| feed.state().ended.is_none()) {
            return Ok(running.clone());
        }
        feeds.by_account.entry(account).or_default().insert(key.clone());
        feeds.by_key.insert(key, feed.clone());
        drop(feeds);
        tasks.spawn(driver::run(self.0.clone(), feed.clone()));
        Ok(feed)
    }
}

impl Inside {
    fn held(&self) -> std::sync::MutexGuard<'_, Feeds> {
        self.feeds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self, key: &str) -> Option<Arc<Feed>> {
        self.held().by_key.get(key).filter(|feed| feed.state().ended.is_none()).cloned()
    }

    fn feeds(&self) -> usize {
        self.held().by_key.len()
    }

    /// A feed is over. One that somebody found in the meantime is ended for them, too: they come back and begin a new one.
    fn leave(&self, feed: &Arc<Feed>) {
        let key = feed.scope.key();
        let mut feeds = self.held();
        let Feeds { by_key, by_account } = &mut *feeds;
        if by_key.get(&*key).is_some_and(|there| Arc::ptr_eq(there, feed)) {
            by_key.remove(&*key);
            if let Some(keys) = by_account.get_mut(&feed.scope.account) {
                keys.remove(&*key);
                if keys.is_empty() {
                    by_account.remove(&feed.scope.account);
                }
            }
        }
        drop(feeds);
        feed.close();
    }
}

impl fmt::Debug for Inside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inside").field("feeds", &self.feeds()).finish_non_exhaustive()
    }
}
