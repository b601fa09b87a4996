//! The watch hub: what changed in Dropbox, as it happens. A [`Scope`] is one folder of one account seen through one
//! application parameter; it has one feed, which polls Dropbox and saves index, cursor and log together, and any number of
//! watchers, which only read. Nothing here knows gRPC: filters, heartbeats and wire bytes are the service's.
//!
//! Delivery is at least once and in order per scope. A watcher's place is a [`ResumePoint`]; whoever comes back with it
//! goes on behind it: in the log if the log still holds it, else from Dropbox's cursor inside it, else by a resync.

mod begins;
mod building;
mod change;
mod delicate;
mod driver;
mod ending;
mod expand;
mod feed;
mod few;
mod index;
mod inferred;
mod lag;
mod letters;
mod loading;
mod poller;
mod schedule;
mod scope;
mod seen;
mod shelf;
mod token;
mod upstream;
mod watcher;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use change::{Basis, Before, Change, ChangeKind, Entry, ItemKind, Told};
use feed::Feed;
pub use few::Few;
pub use lag::Laggard;
use schedule::{Desk, Ring};
pub use scope::{Ahead, CheckpointName, ResumePoint, Scope};
pub use upstream::{Dropbox, News, Page, Upstream};
pub use watcher::{Happening, Resync, Watcher};

use crate::{
    fair::Fair,
    fault::{Fault, Reason, Result},
    limits::{BUSY_RETRY, FEEDS_AT_WORK_MAX, INDEXES_UNWATCHED_MAX, LONGPOLLS_MAX},
    store::Store,
};

/// All scopes of the process. Clones share it.
#[derive(Clone, Debug)]
pub struct Hub(Arc<Inside>);

struct Inside {
    parts: Parts,
    feeds: Mutex<Feeds>,
    watchers: AtomicU64,
    desk: Arc<Desk>,
    /// Feeds that ask or write at once.
    at_work: Fair,
    longpolls: Semaphore,
    /// Indexes that are built while nobody watches.
    unwatched: Semaphore,
    /// Those who work.
    shifts: TaskTracker,
}

#[derive(Default)]
struct Feeds {
    /// By its name in the store: two spellings of a path are one folder.
    by_key: HashMap<Arc<str>, Arc<Feed>>,
    by_account: HashMap<Arc<str>, Vec<Arc<Feed>>>,
    /// By their number in the store.
    by_id: HashMap<i64, Arc<Feed>>,
}

/// What a hub is made of.
#[derive(Debug, Clone)]
pub struct Parts {
    pub store: Store,
    pub upstream: Arc<dyn Upstream>,
    /// What the hub does runs under it.
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
    /// Must be called inside a runtime: what hands out work runs from here on.
    pub fn new(parts: Parts) -> Hub {
        let desk = Desk::new(parts.store.clock().clone(), parts.store.is_shared(), parts.webhooks);
        let inside = Arc::new(Inside {
            feeds: Mutex::default(),
            watchers: AtomicU64::new(0),
            desk,
            at_work: Fair::new(FEEDS_AT_WORK_MAX),
            longpolls: Semaphore::new(LONGPOLLS_MAX),
            unwatched: Semaphore::new(INDEXES_UNWATCHED_MAX),
            shifts: TaskTracker::new(),
            parts,
        });
        let tasks = &inside.parts.tasks;
        tasks.spawn(schedule::run(inside.clone()));
        tasks.spawn(driver::watch_over(inside.clone()));
        if inside.parts.store.is_shared() {
            tasks.spawn(letters::run(inside.clone()));
        }
        Hub(inside)
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
            Some(feed) => feed.now().await,
            // Nobody watches: a place needs no feed.
            None => {
                let head = self.0.parts.store.log_head_of(&scope.key()).await?;
                let cursor = self.0.parts.upstream.latest(scope).await?;
                Ok(match head {
                    Some(head) => ResumePoint::beside(cursor, head),
                    None => ResumePoint::at(cursor),
                })
            }
        }
    }

    /// The place behind a listing that somebody else has read to its end ([`Scope::list_arg`]).
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn behind_listing(&self, scope: &Scope, cursor: Arc<str>) -> Result<ResumePoint> {
        let head = match self.0.running(&scope.key()) {
            Some(feed) => Some(feed.head()),
            None => self.0.parts.store.log_head_of(&scope.key()).await?,
        };
        // Whoever has read the folder was told of no step of the log: all that it has told was told to others.
        Ok(match head {
            Some(head) => ResumePoint::beside(cursor, head),
            None => ResumePoint::at(cursor),
        })
    }

    /// Keeps a place under a name; `None` forgets the name.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn acknowledge(&self, scope: &Scope, name: &CheckpointName, at: Option<&ResumePoint>) -> Result<()> {
        watcher::keep(&self.0.parts.store, scope, name, at).await
    }

    /// From a webhook: these accounts (`dbid:` of users, `dbmid:` of team members) have news. The other processes on the
    /// store hear of it, too. Coalesces; never waits.
    pub fn wake(&self, accounts: &[String]) {
        self.0.ring_accounts(accounts.iter().map(String::as_str));
        self.0.desk.outbox.rung(accounts);
    }

    /// Whether folders are asked in turn, since more are watched than may be longpolled.
    pub fn takes_turns(&self) -> bool {
        self.0.desk.takes_turns()
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
        let Parts { store, upstream, .. } = &self.0.parts;
        let scope = Arc::new(scope);
        let feed = Feed::of(scope.clone(), store.clone(), upstream.clone(), self.0.desk.clone());
        let row = feed.row().await?;
        // Where another process polls, its log goes on from what is there.
        if store.is_shared() && feed.look().await?.is_some_and(|held| !held.is_zero()) {
            feed.set_hot(None);
        }
        let has_cursor = feed.state().cursor.is_some();
        let mut feeds = self.0.held();
        if let Some(running) = feeds.by_key.get(&key).filter(|feed| feed.state().ended.is_none()) {
            return Ok(running.clone());
        }
        feeds.by_account.entry(scope.account.clone()).or_default().push(feed.clone());
        feeds.by_id.insert(row.id, feed.clone());
        feeds.by_key.insert(key, feed.clone());
        drop(feeds);
        self.0.desk.begin(&feed, has_cursor);
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

    fn ring_accounts<'a>(&self, accounts: impl Iterator<Item = &'a str>) {
        let feeds = self.held();
        for of_account in accounts.filter_map(|account| feeds.by_account.get(account)) {
            let why = Ring::Webhook { folders: of_account.len() };
            of_account.iter().for_each(|feed| self.desk.ring(feed, why));
        }
    }

    fn ring_scopes(&self, scopes: &BTreeSet<i64>, why: Ring) {
        let feeds = self.held();
        for feed in scopes.iter().filter_map(|id| feeds.by_id.get(id)) {
            self.desk.ring(feed, why);
        }
    }

    fn ring_all(&self, why: Ring) {
        self.held().by_key.values().for_each(|feed| self.desk.ring(feed, why));
    }

    /// A feed is over for this reason.
    fn end(&self, feed: &Arc<Feed>, fault: Fault) {
        tracing::info!(%fault, "a watched folder is not followed any more");
        feed.end(fault);
        self.leave(feed);
    }

    /// The process ends.
    fn end_all(&self) {
        let feeds: Vec<Arc<Feed>> = self.held().by_key.values().cloned().collect();
        for feed in feeds {
            let text = "the server is going down; another replica, or this one later, goes on with the resume token";
            feed.end(Fault::new(Reason::ServerDraining, text).retry_after(BUSY_RETRY));
            self.leave(&feed);
        }
    }

    /// A feed is over. One that somebody found in the meantime is ended for them, too: they come back and begin a new one.
    fn leave(&self, feed: &Arc<Feed>) {
        let key = feed.scope.key();
        let mut feeds = self.held();
        let Feeds { by_key, by_account, by_id } = &mut *feeds;
        if by_key.get(&*key).is_some_and(|there| Arc::ptr_eq(there, feed)) {
            by_key.remove(&*key);
        }
        if let Some(id) = feed.known_id()
            && by_id.get(&id).is_some_and(|there| Arc::ptr_eq(there, feed))
        {
            by_id.remove(&id);
        }
        if let Some(of_account) = by_account.get_mut(&feed.scope.account) {
            of_account.retain(|there| !Arc::ptr_eq(there, feed));
            if of_account.is_empty() {
                by_account.remove(&feed.scope.account);
            }
        }
        drop(feeds);
        self.desk.forget(feed);
        feed.over.cancel();
        feed.close();
    }
}

impl fmt::Debug for Inside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inside").field("feeds", &self.held().by_key.len()).finish_non_exhaustive()
    }
}
