//! SQLite and PostgreSQL behind one face. A statement is written once, with `$1` binds and in the SQL both speak, holds
//! integers, texts and bytes, and runs on a pool or in a transaction; what goes wrong comes out as a fault. Whatever the two
//! do not share stands here, in `schema.rs`, in `wake.rs` or in their migrations.
//!
//! SQLite: WAL, every transaction `BEGIN IMMEDIATE`, so that a writer waits for a writer and sees what it left.
//! PostgreSQL: `READ COMMITTED`; a transaction that decides by what it read takes the row's lock by reading it with an
//! `UPDATE … RETURNING` that changes nothing.

use std::{
    str::FromStr as _,
    time::{Duration, Instant},
};

use sqlx::{
    AssertSqlSafe, Connection as _, Database, Decode, Encode, Executor as _, IntoArguments, PgConnection, PgPool,
    Postgres, Row as _, Sqlite, SqliteConnection, SqlitePool, Transaction, Type,
    pool::PoolOptions,
    postgres::{PgConnectOptions, PgRow},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteRow, SqliteSynchronous},
};

#[cfg(test)]
use super::kill;
use super::place;
use crate::{
    fault::{Fault, Reason, Result},
    limits::{
        STORE_ACQUIRE_TIMEOUT, STORE_ANSWER_MAX, STORE_BRIEF_MAX, STORE_BUSY_TIMEOUT, STORE_CONNECT_TIMEOUT,
        STORE_IDLE_TRUST, STORE_LEASE_CONNECTIONS, STORE_LOCK_RETRY, STORE_QUICK_CONNECTIONS, STORE_READER_CACHE,
        STORE_READERS, STORE_SERVER_CONNECTIONS, STORE_TRANSACTION_IDLE_MAX,
    },
};

/// Where a store may be.
const URLS: &str = "write sqlite://path, sqlite::memory: or postgres://user@host/database";

/// Connections by what a write may lose.
#[derive(Clone)]
pub(super) struct Pools {
    /// Writes that must survive a power cut.
    pub(super) durable: Pool,
    /// Writes that can be made again: upload pieces.
    pub(super) quick: Pool,
    pub(super) readers: Pool,
    /// Of a server: what is answered at once or not needed any more. Nothing else is at it, and no connection is tried first.
    pub(super) leases: Pool,
}

#[derive(Clone)]
pub(super) enum Pool {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

pub(super) enum Tx {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
}

/// What a statement runs on: a pool for itself, or a transaction.
pub(super) enum On<'a> {
    Pool(&'a Pool),
    Tx(&'a mut Tx),
}

pub(super) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

/// A statement with what is bound to it.
pub(super) struct Query {
    sql: &'static str,
    values: Vec<Value>,
}

/// The three kinds of column both databases have alike; `None` is NULL.
pub(super) enum Value {
    Number(Option<i64>),
    Text(Option<String>),
    Bytes(Option<Vec<u8>>),
}

/// `i64`, `String`, `Vec<u8>` and options of them.
pub(super) trait Column:
    for<'r> Decode<'r, Sqlite> + Type<Sqlite> + for<'r> Decode<'r, Postgres> + Type<Postgres>
{
}

impl<T> Column for T where T: for<'r> Decode<'r, Sqlite> + Type<Sqlite> + for<'r> Decode<'r, Postgres> + Type<Postgres> {}

/// `SELECT … WHERE id = $1`, then `.bind(…)` for each `$n` in order, then how it runs.
pub(super) fn query(sql: &'static str) -> Query {
    Query { sql, values: Vec::new() }
}

impl Query {
    pub(super) fn bind(mut self, value: impl Into<Value>) -> Query {
        self.values.push(value.into());
        self
    }

    /// Gives the number of rows it touched.
    pub(super) async fn execute(self, on: impl Into<On<'_>>) -> Result<u64> {
        let on = on.into();
        #[cfg(test)]
        let place = kill::before(self.sql, &on)?;
        let done = match on {
            On::Pool(Pool::Sqlite(pool)) => self.bound().execute(pool).await.map(|done| done.rows_affected()),
            On::Tx(Tx::Sqlite(tx)) => self.bound().execute(&mut **tx).await.map(|done| done.rows_affected()),
            On::Pool(Pool::Postgres(pool)) => {
                answered(self.bound().execute(pool)).await.map(|done| done.rows_affected())
            }
            On::Tx(Tx::Postgres(tx)) => {
                answered(self.bound().execute(&mut **tx)).await.map(|done| done.rows_affected())
            }
        };
        let done = done.map_err(unavailable)?;
        #[cfg(test)]
        place.behind()?;
        Ok(done)
    }

    pub(super) async fn fetch_all(self, on: impl Into<On<'_>>) -> Result<Vec<Row>> {
        let on = on.into();
        #[cfg(test)]
        let place = kill::before(self.sql, &on)?;
        let sqlite = |rows: Vec<SqliteRow>| rows.into_iter().map(Row::Sqlite).collect();
        let postgres = |rows: Vec<PgRow>| rows.into_iter().map(Row::Postgres).collect();
        let rows = match on {
            On::Pool(Pool::Sqlite(pool)) => self.bound().fetch_all(pool).await.map(sqlite),
            On::Tx(Tx::Sqlite(tx)) => self.bound().fetch_all(&mut **tx).await.map(sqlite),
            On::Pool(Pool::Postgres(pool)) => answered(self.bound().fetch_all(pool)).await.map(postgres),
            On::Tx(Tx::Postgres(tx)) => answered(self.bound().fetch_all(&mut **tx)).await.map(postgres),
        };
        let rows = rows.map_err(unavailable)?;
        #[cfg(test)]
        place.behind()?;
        Ok(rows)
    }

    /// For statements that give one row or none.
    pub(super) async fn fetch_optional(self, on: impl Into<On<'_>>) -> Result<Option<Row>> {
        Ok(self.fetch_all(on).await?.into_iter().next())
    }

    pub(super) async fn fetch_one(self, on: impl Into<On<'_>>) -> Result<Row> {
        self.fetch_optional(on).await?.ok_or_else(|| unavailable(sqlx::Error::RowNotFound))
    }

    fn bound<DB>(self) -> sqlx::query::Query<'static, DB, DB::Arguments>
    where
        DB: Database,
        DB::Arguments: IntoArguments<DB>,
        Option<i64>: Encode<'static, DB> + Type<DB>,
        Option<String>: Encode<'static, DB> + Type<DB>,
        Option<Vec<u8>>: Encode<'static, DB> + Type<DB>,
    {
        self.values.into_iter().fold(sqlx::query(self.sql), |query, value| match value {
            Value::Number(number) => query.bind(number),
            Value::Text(text) => query.bind(text),
            Value::Bytes(bytes) => query.bind(bytes),
        })
    }
}

impl Row {
    pub(super) fn get<T: Column>(&self, column: &str) -> Result<T> {
        match self {
            Row::Sqlite(row) => row.try_get(column),
            Row::Postgres(row) => row.try_get(column),
        }
        .map_err(unavailable)
    }
}

impl Pool {
    pub(super) async fn begin(&self) -> Result<Tx> {
        #[cfg(test)]
        kill::begins()?;
        match self {
            // Taking the write lock at once is what lets busy_timeout work: a reader that becomes a writer is refused instead.
            Pool::Sqlite(pool) => pool.begin_with("BEGIN IMMEDIATE").await.map(Tx::Sqlite),
            Pool::Postgres(pool) => answered(pool.begin()).await.map(Tx::Postgres),
        }
        .map_err(unavailable)
    }

    async fn close(&self) {
        match self {
            Pool::Sqlite(pool) => pool.close().await,
            Pool::Postgres(pool) => pool.close().await,
        }
    }
}

impl Tx {
    pub(super) async fn commit(self) -> Result<()> {
        #[cfg(test)]
        let place = kill::before_commit()?;
        match self {
            Tx::Sqlite(tx) => tx.commit().await,
            Tx::Postgres(tx) => answered(tx.commit()).await,
        }
        .map_err(unavailable)?;
        #[cfg(test)]
        place.behind()?;
        Ok(())
    }

    pub(super) async fn rollback(self) -> Result<()> {
        match self {
            Tx::Sqlite(tx) => tx.rollback().await,
            Tx::Postgres(tx) => answered(tx.rollback()).await,
        }
        .map_err(unavailable)
    }
}

impl Pools {
    /// Connects, and makes a SQLite file that is not there if `may_make` and its URL does not say otherwise.
    pub(super) async fn open(url: &str, may_make: bool) -> Result<Pools> {
        let bad_url = |error| Fault::field("store_url", "MALFORMED", URLS).source(error);
        if is_postgres(url) {
            return Pools::postgres(PgConnectOptions::from_str(url).map_err(bad_url)?).await.map_err(unavailable);
        }
        if !url.starts_with("sqlite:") {
            return Err(Fault::field("store_url", "MALFORMED", URLS));
        }
        let options = SqliteConnectOptions::from_str(url).map_err(bad_url)?;
        let options = if url.contains("mode=") { options } else { options.create_if_missing(may_make) };
        let memory = url.contains(":memory:") || url.contains("mode=memory");
        if may_make && !memory && (!url.contains("mode=") || url.contains("mode=rwc")) {
            place::make_private(options.get_filename())?;
        }
        // SQLite waits for a lock, but not for the one that turns a new file into a WAL: two processes may start on it at once.
        let give_up = Instant::now() + STORE_BUSY_TIMEOUT;
        loop {
            match Pools::sqlite(options.clone(), memory).await {
                Err(error) if is_locked(&error) && Instant::now() < give_up => {
                    tokio::time::sleep(STORE_LOCK_RETRY).await
                }
                done => return done.map_err(unavailable),
            }
        }
    }

    async fn sqlite(options: SqliteConnectOptions, memory: bool) -> sqlx::Result<Pools> {
        let options = options.busy_timeout(STORE_BUSY_TIMEOUT).foreign_keys(false);
        let options = if memory { options } else { options.journal_mode(SqliteJournalMode::Wal) };
        let pool = |connections| {
            let pool = PoolOptions::new()
                .max_connections(connections)
                .min_connections(1)
                .acquire_timeout(STORE_ACQUIRE_TIMEOUT)
                .test_before_acquire(false)
                .idle_timeout(None)
                .max_lifetime(None);
            if memory {
                // A database in memory is its connection, and fills no disk.
                return pool;
            }
            // A commit that fails on a full disk is rolled back by SQLite itself; the driver then fails to do it again, believes
            // it is still in the transaction and would refuse every other one.
            pool.before_acquire(|connection: &mut SqliteConnection, _| {
                let sound = !connection.is_in_transaction();
                Box::pin(async move { Ok(sound) })
            })
        };
        let durable = pool(1).connect_with(options.clone().synchronous(SqliteSynchronous::Full)).await?;
        // A database in memory is its connection.
        let (quick, readers) = if memory {
            (durable.clone(), durable.clone())
        } else {
            let options = options.synchronous(SqliteSynchronous::Normal);
            let quick = pool(1).connect_with(options.clone()).await?;
            let readers = options.pragma("query_only", "on").pragma("cache_size", STORE_READER_CACHE);
            (quick, pool(STORE_READERS).connect_with(readers).await?)
        };
        let leases = Pool::Sqlite(quick.clone());
        Ok(Pools { durable: Pool::Sqlite(durable), quick: Pool::Sqlite(quick), readers: Pool::Sqlite(readers), leases })
    }

    async fn postgres(options: PgConnectOptions) -> sqlx::Result<Pools> {
        let options = options.application_name("dropbox-connector");
        // The pool would try for some time and then only say that it did.
        answered(PgConnection::connect_with(&options)).await?.close().await?;
        // A session that its process has left in a transaction gives its locks back.
        // Every statement finds its rows by an index. Left alone the server plans by counts that are minutes old, and keeps the
        // plan that it made while a table was empty: of one that has just grown it would go on reading the whole. A plan that
        // cannot do without what is off here (scopes are read one after the other) looks dear enough to be compiled: no.
        let bounds = format!(
            "SET statement_timeout = {}; SET idle_in_transaction_session_timeout = {}; \
             SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; \
             SET enable_material = off; SET plan_cache_mode = force_custom_plan; SET jit = off",
            STORE_ANSWER_MAX.as_millis(),
            STORE_TRANSACTION_IDLE_MAX.as_millis()
        );
        let unsynced = format!("{bounds}; SET synchronous_commit = off");
        let durable = served(STORE_SERVER_CONNECTIONS, bounds).connect_with(options.clone()).await?;
        let brief = format!("{unsynced}; SET statement_timeout = {}", STORE_BRIEF_MAX.as_millis());
        let quick = served(STORE_QUICK_CONNECTIONS, unsynced).connect_lazy_with(options.clone());
        // One is open before it is needed, and a round trip is not spent on asking whether it still is.
        let leases = served(STORE_LEASE_CONNECTIONS, brief)
            .min_connections(1)
            .idle_timeout(None)
            .before_acquire(|_, _| Box::pin(async { Ok(true) }))
            .connect_lazy_with(options);
        let (durable, leases) = (Pool::Postgres(durable), Pool::Postgres(leases));
        Ok(Pools { readers: durable.clone(), durable, quick: Pool::Postgres(quick), leases })
    }

    /// Ends every connection, after what they are at.
    pub(super) async fn close(&self) {
        for pool in [&self.readers, &self.leases, &self.quick, &self.durable] {
            pool.close().await;
        }
    }
}

pub(super) fn is_postgres(url: &str) -> bool {
    url.starts_with("postgres:") || url.starts_with("postgresql:")
}

/// Connections to a server that may go away and come back: none is trusted that has been idle, and none waits for ever.
fn served(connections: u32, settings: String) -> PoolOptions<Postgres> {
    PoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(STORE_CONNECT_TIMEOUT)
        .test_before_acquire(false)
        .before_acquire(|connection: &mut PgConnection, facts| {
            Box::pin(async move { Ok(facts.idle_for < STORE_IDLE_TRUST || answered(connection.ping()).await.is_ok()) })
        })
        // The pool's own look at a connection given back has no end when the network swallows it.
        .after_release(|connection: &mut PgConnection, _| {
            Box::pin(async move { answered(connection.ping()).await.map(|()| true) })
        })
        .after_connect(move |connection: &mut PgConnection, _| {
            let settings = AssertSqlSafe(settings.clone());
            Box::pin(async move { connection.execute(settings).await.map(drop) })
        })
}

/// Within the time a server may take; else it counts as gone.
pub(super) async fn answered<T>(asking: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    let late = || sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "the database does not answer"));
    tokio::time::timeout(STORE_ANSWER_MAX, asking).await.unwrap_or_else(|_| Err(late()))
}

/// Within the time that an answer is of use to somebody.
pub(super) async fn briefly<T>(asking: impl Future<Output = Result<T>>) -> Result<T> {
    let late = || sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "the database takes too long"));
    tokio::time::timeout(STORE_BRIEF_MAX, asking).await.unwrap_or_else(|_| Err(unavailable(late())))
}

/// `SQLITE_BUSY` in any of its forms: another process is at it.
fn is_locked(error: &sqlx::Error) -> bool {
    const BUSY: i32 = 5;
    let code = error.as_database_error().and_then(|error| error.code()?.parse::<i32>().ok());
    code.is_some_and(|code| code & 0xff == BUSY)
}

/// What went wrong in the database, as a fault that tells callers nothing of SQL.
pub(super) fn unavailable(error: sqlx::Error) -> Fault {
    use sqlx::Error::{ColumnDecode, ColumnNotFound, Decode, Encode, RowNotFound, TypeNotFound};
    if let ColumnDecode { .. } | ColumnNotFound(_) | Decode(_) | Encode(_) | RowNotFound | TypeNotFound { .. } = error {
        return Fault::bug("a row of the store could not be read").source(error);
    }
    Fault::new(Reason::StoreUnavailable, "the connector's store does not answer; call again after the delay")
        .retry_after(Duration::from_secs(1))
        .source(error)
}

impl<'a> From<&'a Pool> for On<'a> {
    fn from(pool: &'a Pool) -> Self {
        On::Pool(pool)
    }
}

impl<'a> From<&'a mut Tx> for On<'a> {
    fn from(tx: &'a mut Tx) -> Self {
        On::Tx(tx)
    }
}

macro_rules! values {
    ($($kind:ident($from:ty) = $own:expr;)*) => {
        $(impl From<$from> for Value {
            fn from(value: $from) -> Self {
                Value::$kind(Some($own(value)))
            }
        }
        impl From<Option<$from>> for Value {
            fn from(value: Option<$from>) -> Self {
                Value::$kind(value.map($own))
            }
        })*
    };
}

values! {
    Number(i64) = i64::from;
    Text(&str) = str::to_owned;
    Text(&String) = String::clone;
    Text(String) = String::from;
    Bytes(&[u8]) = <[u8]>::to_vec;
    Bytes(&Vec<u8>) = Vec::clone;
    Bytes(Vec<u8>) = Vec::from;
}
