//! Rows. Callers see values, never SQL; secrets are sealed here, bound to their row and column.
//! SQLite today: WAL, every write `BEGIN IMMEDIATE`, one connection that syncs for what cannot be made again, one that does
//! not for upload pieces, readers apart. SQL is written with `$1` binds and no dialect, so that a second database fits.
//! A store that is locked, full or gone answers `STORE_UNAVAILABLE`; nothing is half written.

mod file;
mod parameters;
mod proxy;
mod renewals;
mod requests;
mod rotation;
mod settings;
mod transfer;
mod uploads;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    path::Path,
    str::FromStr as _,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sqlx::{
    Sqlite, SqlitePool, Transaction,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

pub use parameters::{AppSecret, Change, Linked, SecretChange};
pub use proxy::{ProxyKind, ProxySettings, SecretChanges, Secrets};
pub use requests::{RequestKey, RequestTurn};
pub use rotation::{KeyUse, Rotation};
pub use settings::{
    AccessType, Account, AccountKind, ActAsMode, AppSource, Grant, Member, ParameterId, Parameters, PathRoot, Policy,
    Renewal, Settings, State, Timeouts,
};
pub use transfer::{Imported, OnConflict};
pub use uploads::{Claim, NewUpload, Piece, Upload, UploadState};

use crate::{
    clock::SharedClock,
    fault::{Fault, Reason, Result},
    limits::{STORE_BUSY_TIMEOUT, STORE_READERS, STORE_WRITE_ROWS_MAX},
    seal::KeyRing,
};

const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
const MIGRATE_ATTEMPTS: u32 = 5;
/// Changed parameters are told to processes this far behind.
const CHANGES_KEPT: Duration = Duration::from_secs(24 * 3600);

/// Everything that outlives the process. Clones share it.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    /// Writes that must survive a power cut.
    durable: SqlitePool,
    /// Writes that can be made again: upload pieces.
    quick: SqlitePool,
    readers: SqlitePool,
    keys: Arc<KeyRing>,
    clock: SharedClock,
    /// This process among those on the same store.
    replica: Arc<str>,
    file: Option<Arc<file::File>>,
}

/// What a sweep removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    pub uploads: u64,
    pub requests: u64,
    pub changes: u64,
    pub replicas: u64,
}

impl Store {
    /// Opens `sqlite://path` (made if missing, unless it says `?mode=rw`) or `sqlite::memory:` and brings its tables up to date.
    ///
    /// # Errors
    /// `INVALID_FIELD` naming `store_url` for a URL that is none; `STORE_UNAVAILABLE` when it cannot be opened or written.
    pub async fn open(url: &str, keys: Arc<KeyRing>, clock: SharedClock) -> Result<Store> {
        let bad_url = |error: sqlx::Error| {
            Fault::field("store_url", "MALFORMED", "write sqlite://path or sqlite::memory:").source(error)
        };
        if !url.starts_with("sqlite:") {
            return Err(Fault::field("store_url", "MALFORMED", "write sqlite://path or sqlite::memory:"));
        }
        let options =
            SqliteConnectOptions::from_str(url).map_err(bad_url)?.busy_timeout(STORE_BUSY_TIMEOUT).foreign_keys(false);
        // A store that is not there yet is made; whoever wants otherwise says mode=rw.
        let options = if url.contains("mode=") { options } else { options.create_if_missing(true) };
        let pool = |connections| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                .min_connections(1)
                .idle_timeout(None)
                .max_lifetime(None)
                .test_before_acquire(false)
                .acquire_timeout(ACQUIRE_TIMEOUT)
        };
        let memory = url.contains(":memory:") || url.contains("mode=memory");
        let options = if memory { options } else { options.journal_mode(SqliteJournalMode::Wal) };
        let durable =
            pool(1).connect_with(options.clone().synchronous(SqliteSynchronous::Full)).await.map_err(unavailable)?;
        migrate(&durable).await?;
        // A database in memory is its connection.
        let (quick, readers) = if memory {
            (durable.clone(), durable.clone())
        } else {
            let quick = pool(1)
                .connect_with(options.clone().synchronous(SqliteSynchronous::Normal))
                .await
                .map_err(unavailable)?;
            let readers = options.synchronous(SqliteSynchronous::Normal).pragma("query_only", "on");
            (quick, pool(STORE_READERS).connect_with(readers).await.map_err(unavailable)?)
        };
        let replica = uuid::Uuid::new_v4().simple().to_string().into();
        let store = Store(Arc::new(Inner { durable, quick, readers, keys, clock, replica, file: None }));
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
        sqlx::query(
            "INSERT INTO replicas (id, key_ids, heartbeat_at) VALUES ($1, $2, $3)
             ON CONFLICT (id) DO UPDATE SET key_ids = excluded.key_ids, heartbeat_at = excluded.heartbeat_at",
        )
        .bind(&*self.0.replica)
        .bind(self.0.keys.key_ids().join(" "))
        .bind(self.now_millis())
        .execute(&self.0.durable)
        .await
        .map_err(unavailable)?;
        Ok(())
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

    /// Removes what has expired: uploads with their pieces, remembered requests, old changes, replicas that are gone.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn sweep(&self) -> Result<Swept> {
        let now = self.now_millis();
        let changes = "DELETE FROM parameter_changes WHERE changed_at <= $1";
        let requests = "DELETE FROM remembered_requests WHERE expires_at <= $1";
        let replicas = "DELETE FROM replicas WHERE heartbeat_at <= $1";
        let kept_from = now - millis_of(CHANGES_KEPT);
        Ok(Swept {
            uploads: self.sweep_uploads(now).await?,
            requests: self.delete(requests, now).await?,
            changes: self.delete(changes, kept_from).await?,
            replicas: self.delete(replicas, kept_from).await?,
        })
    }

    /// Ends every connection, after what they are at.
    pub async fn close(&self) {
        let gone =
            sqlx::query("DELETE FROM replicas WHERE id = $1").bind(&*self.0.replica).execute(&self.0.durable).await;
        if let Err(error) = gone {
            tracing::warn!(%error, "the store did not take the last heartbeat");
        }
        self.0.readers.close().await;
        self.0.quick.close().await;
        self.0.durable.close().await;
    }

    async fn delete(&self, sql: &'static str, before: i64) -> Result<u64> {
        Ok(sqlx::query(sql).bind(before).execute(&self.0.durable).await.map_err(unavailable)?.rows_affected())
    }

    /// Expired uploads in portions, so that no other writer waits long.
    async fn sweep_uploads(&self, now: i64) -> Result<u64> {
        let mut swept = 0;
        loop {
            let mut tx = self.begin(&self.0.quick).await?;
            let pieces = sqlx::query(
                "DELETE FROM upload_pieces WHERE (upload_id, piece_offset) IN (SELECT p.upload_id, p.piece_offset
                 FROM upload_pieces p JOIN uploads u ON u.id = p.upload_id WHERE u.expires_at <= $1 LIMIT $2)",
            );
            let pieces = pieces.bind(now).bind(ROWS_MAX).execute(&mut *tx).await.map_err(unavailable)?.rows_affected();
            let mut uploads = 0;
            if pieces < ROWS_MAX as u64 {
                let sql = "DELETE FROM uploads WHERE id IN (SELECT id FROM uploads WHERE expires_at <= $1 LIMIT $2)";
                let deleted = sqlx::query(sql).bind(now).bind(ROWS_MAX).execute(&mut *tx).await.map_err(unavailable)?;
                uploads = deleted.rows_affected();
            }
            tx.commit().await.map_err(unavailable)?;
            swept += uploads;
            if pieces < ROWS_MAX as u64 && uploads < ROWS_MAX as u64 {
                return Ok(swept);
            }
        }
    }

    async fn begin(&self, pool: &SqlitePool) -> Result<Transaction<'static, Sqlite>> {
        // Taking the write lock at once is what lets busy_timeout work: a reader that becomes a writer is refused instead.
        pool.begin_with("BEGIN IMMEDIATE").await.map_err(unavailable)
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

async fn migrate(pool: &SqlitePool) -> Result<()> {
    static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("src/store/migrations/sqlite");
    let mut attempt = 1;
    // Two processes may start on a new file at once: the one that comes second finds the work done when it looks again.
    while let Err(error) = MIGRATIONS.run(pool).await {
        if attempt == MIGRATE_ATTEMPTS {
            return Err(Fault::new(Reason::StoreUnavailable, "the store's tables could not be brought up to date")
                .source(error));
        }
        attempt += 1;
    }
    Ok(())
}

/// What went wrong in the database, as a fault that tells callers nothing of SQL.
fn unavailable(error: sqlx::Error) -> Fault {
    use sqlx::Error::{ColumnDecode, ColumnNotFound, Decode, Encode, RowNotFound, TypeNotFound};
    if let ColumnDecode { .. } | ColumnNotFound(_) | Decode(_) | Encode(_) | RowNotFound | TypeNotFound { .. } = error {
        return Fault::bug("a row of the store could not be read").source(error);
    }
    Fault::new(Reason::StoreUnavailable, "the connector's store does not answer; call again after the delay")
        .retry_after(Duration::from_secs(1))
        .source(error)
}

fn millis(at: SystemTime) -> i64 {
    at.duration_since(UNIX_EPOCH).map_or(0, millis_of)
}

fn millis_of(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

fn time(millis: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(millis.try_into().unwrap_or(0))
}
