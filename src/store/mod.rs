//! Rows. Callers see values, never SQL; secrets are sealed here, bound to their row and column.
//! One SQL for SQLite and PostgreSQL, chosen by URL (`database.rs`); what cannot be made again is synced, upload pieces are
//! not. A store that is locked, full or gone answers `STORE_UNAVAILABLE`; nothing is half written.

mod authorizations;
mod commits;
mod database;
mod events;
mod facts;
mod file;
mod index;
mod index_past;
mod index_sql;
mod item_id;
#[cfg(test)]
pub(crate) mod kill;
mod parameters;
mod place;
mod proxy;
mod rare;
mod renewals;
mod requests;
mod rotation;
mod schema;
mod settings;
mod transfer;
mod unknown;
mod uploads;
mod wake;
mod write_leases;

#[cfg(test)]
pub(crate) mod tests;

use std::{
    fmt,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::sync::broadcast;

pub use authorizations::Authorization;
pub use commits::{Intent, Outcome};
use database::{On, Pool, Pools, query};
pub use events::{Checkpoint, DrainRow, EventsSwept, Followed, LogHead, LogRow, ReadRow, Save, ScopeRow};
pub use facts::Facts;
pub use index::{INDEX_ROOT, INDEX_TRASH, IndexRow, IndexWrites, PastRow, WaitingRow};
pub use parameters::{AppSecret, Change, Linked, SecretChange};
pub use proxy::{ProxyKind, ProxySettings, SecretChanges, Secrets};
pub use rare::Rare;
pub use renewals::Lease;
pub use requests::{RequestKey, RequestTurn};
pub use rotation::{KeyUse, Rotation};
pub use schema::{check, migrate};
pub use settings::{
    AccessType, Account, AccountKind, ActAsMode, AppSource, Grant, Member, ParameterId, Parameters, PathRoot, Policy,
    Renewal, Settings, State, Timeouts,
};
pub use transfer::{Imported, OnConflict};
pub use unknown::{is_unreadable, unreadable};
pub use uploads::{Claim, NewUpload, Piece, Upload, UploadState};
pub use write_leases::{WriteLease, WriteLetter, WriteLetters};

use crate::{
    clock::SharedClock,
    fault::Result,
    limits::{EVENT_LETTERS_MAX, STORE_WRITE_ROWS_MAX, WRITE_LETTERS_MAX},
    seal::KeyRing,
};

/// Changed parameters are told to processes this far behind.
const CHANGES_KEPT: Duration = Duration::from_secs(24 * 3600);

/// Whether application parameters can be read from this file.
///
/// # Errors
/// `INVALID_FIELD` naming `parameters_file`.
pub fn check_parameters_file(path: &Path, now: SystemTime) -> Result<()> {
    file::File::read(path, now).map(drop)
}

/// Everything that outlives the process. Clones share it.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    pools: Pools,
    keys: Arc<KeyRing>,
    clock: SharedClock,
    /// This process among those on the same store.
    replica: Arc<str>,
    /// Requests with an id that this process is at.
    at_requests: Arc<requests::AtRequests>,
    file: Option<Arc<file::File>>,
    letters: broadcast::Sender<Option<Arc<str>>>,
    write_letters: broadcast::Sender<Arc<WriteLetter>>,
}

/// What a sweep removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    pub uploads: u64,
    pub requests: u64,
    pub changes: u64,
    pub replicas: u64,
    pub write_leases: u64,
    pub events: EventsSwept,
}

impl Store {
    /// Opens `sqlite://path` (made if missing, unless it says `?mode=rw`), `sqlite::memory:` or
    /// `postgres://user@host/database`, and brings its tables up to date.
    ///
    /// # Errors
    /// `INVALID_FIELD` naming `store_url` for a URL that is none; `STORE_UNAVAILABLE` when it cannot be opened or written,
    /// or when a newer program has changed its tables.
    pub async fn open(url: &str, keys: Arc<KeyRing>, clock: SharedClock) -> Result<Store> {
        let pools = Pools::open(url, true).await?;
        schema::bring_up_to_date(&pools.durable).await?;
        Store::on(pools, keys, clock).await
    }

    /// The same for a store that is there: nothing is made and no table is changed.
    ///
    /// # Errors
    /// As [`Store::open`], and `STORE_UNAVAILABLE` for tables that are not up to date.
    pub async fn open_as_it_is(url: &str, keys: Arc<KeyRing>, clock: SharedClock) -> Result<Store> {
        let pools = Pools::open(url, false).await?;
        schema::require_current(&pools.durable).await?;
        Store::on(pools, keys, clock).await
    }

    async fn on(pools: Pools, keys: Arc<KeyRing>, clock: SharedClock) -> Result<Store> {
        let replica = uuid::Uuid::new_v4().simple().to_string().into();
        let store = Store(Arc::new(Inner {
            pools,
            keys,
            clock,
            replica,
            at_requests: Arc::default(),
            file: None,
            letters: broadcast::Sender::new(EVENT_LETTERS_MAX),
            write_letters: broadcast::Sender::new(WRITE_LETTERS_MAX),
        }));
        store.check().await?;
        Ok(store)
    }

    /// The same store with its application parameters from a read-only file, TOML or JSON by its ending; what changes
    /// parameters fails `READ_ONLY_STORE` from here on.
    ///
    /// # Errors
    /// `INVALID_FIELD` naming `parameters_file`.
    pub fn with_parameters_file(self, path: &Path) -> Result<Store> {
        let file = file::File::read(path, self.0.clock.now())?;
        Ok(Store(Arc::new(Inner { file: Some(Arc::new(file)), ..(*self.0).clone() })))
    }

    /// Writes this process's heartbeat. Call it every few seconds and tell `Ready` how it went.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE` when the store cannot be written.
    pub async fn check(&self) -> Result<()> {
        let now = self.fleet_now(&self.0.pools.durable).await?;
        query(
            "INSERT INTO replicas (id, key_ids, heartbeat_at) VALUES ($1, $2, $3)
             ON CONFLICT (id) DO UPDATE SET key_ids = excluded.key_ids, heartbeat_at = excluded.heartbeat_at",
        )
        .bind(&*self.0.replica)
        .bind(self.0.keys.key_ids().join(" "))
        .bind(now)
        .execute(&self.0.pools.durable)
        .await
        .map(drop)
    }

    /// The keys its sealed columns, and all handles, are made with.
    pub fn keys(&self) -> &Arc<KeyRing> {
        &self.0.keys
    }

    pub fn clock(&self) -> &SharedClock {
        &self.0.clock
    }

    /// Names this process among those that share the store.
    pub fn replica(&self) -> &str {
        &self.0.replica
    }

    /// Removes what has expired: uploads with their pieces, remembered requests, old changes, replicas that are gone, entries
    /// of logs, folders that nobody watches, leases that nobody holds.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn sweep(&self) -> Result<Swept> {
        let now = self.now_millis();
        let changes = "DELETE FROM parameter_changes WHERE changed_at <= $1";
        let events = self.sweep_events().await?;
        let requests = "DELETE FROM remembered_requests WHERE expires_at <= $1";
        let replicas = "DELETE FROM replicas WHERE heartbeat_at <= $1";
        let kept_from = now - millis_of(CHANGES_KEPT);
        Ok(Swept {
            uploads: self.sweep_uploads(now).await?,
            requests: self.delete(requests, now).await?,
            changes: self.delete(changes, kept_from).await?,
            replicas: self.delete(replicas, kept_from).await?,
            write_leases: self.sweep_write_leases().await?,
            events,
        })
    }

    /// Ends every connection, after what they are at.
    pub async fn close(&self) {
        if let Err(fault) = self.end_write_leases().await {
            tracing::debug!(%fault, "leases of namespaces were not given back; they end by themselves");
        }
        let gone = query("DELETE FROM replicas WHERE id = $1").bind(&*self.0.replica).execute(&self.0.pools.durable);
        if let Err(fault) = gone.await {
            tracing::warn!(%fault, "the store did not take the last heartbeat");
        }
        self.0.pools.close().await;
    }

    async fn delete(&self, sql: &'static str, before: i64) -> Result<u64> {
        query(sql).bind(before).execute(&self.0.pools.durable).await
    }

    /// Expired uploads in portions, so that no other writer waits long.
    async fn sweep_uploads(&self, now: i64) -> Result<u64> {
        let mut swept = 0;
        loop {
            let mut tx = self.0.pools.quick.begin().await?;
            let pieces = query(
                "DELETE FROM upload_pieces WHERE (upload_id, piece_offset) IN (SELECT p.upload_id, p.piece_offset
                 FROM upload_pieces p JOIN uploads u ON u.id = p.upload_id WHERE u.expires_at <= $1 LIMIT $2)",
            );
            let pieces = pieces.bind(now).bind(ROWS_MAX).execute(&mut tx).await?;
            let mut uploads = 0;
            if pieces < ROWS_MAX as u64 {
                let sql = "DELETE FROM uploads WHERE id IN (SELECT id FROM uploads WHERE expires_at <= $1 LIMIT $2)";
                uploads = query(sql).bind(now).bind(ROWS_MAX).execute(&mut tx).await?;
            }
            tx.commit().await?;
            swept += uploads;
            if pieces < ROWS_MAX as u64 && uploads < ROWS_MAX as u64 {
                return Ok(swept);
            }
        }
    }

    /// The time by which processes compare what they write for each other, leases and heartbeats: the database server's,
    /// for clocks of machines differ; this machine's where the store is its file.
    async fn fleet_now(&self, on: impl Into<On<'_>>) -> Result<i64> {
        match &self.0.pools.durable {
            Pool::Sqlite(_) => Ok(self.now_millis()),
            Pool::Postgres(_) => query("SELECT store_now() AS now").fetch_one(on).await?.get("now"),
        }
    }

    fn now_millis(&self) -> i64 {
        millis(self.0.clock.now())
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("replica", &self.0.replica).finish_non_exhaustive()
    }
}

const ROWS_MAX: i64 = STORE_WRITE_ROWS_MAX as i64;

fn millis(at: SystemTime) -> i64 {
    at.duration_since(UNIX_EPOCH).map_or(0, millis_of)
}

fn millis_of(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

fn time(millis: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(millis.try_into().unwrap_or(0))
}
