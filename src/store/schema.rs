//! The tables and their version: forward only, in steps that processes of the version before can live with, so that a fleet
//! is updated one process after the other. Whoever migrates holds a lock; a program that is older than the tables refuses.

use sqlx::{
    PgPool, SqlitePool,
    migrate::{MigrateError, Migrator},
    postgres::PgPoolOptions,
};

use super::{
    database::{Pool, Pools, query},
    wake,
};
use crate::fault::{Fault, Reason, Result};

static SQLITE: Migrator = sqlx::migrate!("src/store/migrations/sqlite");
static POSTGRES: Migrator = sqlx::migrate!("src/store/migrations/postgres");

/// Brings the tables of a store up to date, making a SQLite file that is not there. What was done, in words.
///
/// # Errors
/// `INVALID_FIELD` naming `store_url`; `STORE_UNAVAILABLE`, also for tables that a newer program has changed.
pub async fn migrate(url: &str) -> Result<String> {
    let pools = Pools::open(url, true).await?;
    let before = version(&pools.durable).await?;
    bring_up_to_date(&pools.durable).await?;
    let now = version(&pools.durable).await?;
    pools.close().await;
    Ok(match before == now {
        true => format!("the tables of the store are up to date (version {now})"),
        false => format!("the tables of the store were brought from version {before} to {now}"),
    })
}

/// Says whether this program can work with a store as it is, and changes nothing: its tables are up to date, and a database
/// server tells its sessions what happened (a pooler that lends connections by transaction does not).
///
/// # Errors
/// `INVALID_FIELD` naming `store_url`; `STORE_UNAVAILABLE` with what is wrong.
pub async fn check(url: &str) -> Result<String> {
    let pools = Pools::open(url, false).await?;
    wake::require_notifications(&pools.durable).await?;
    require_current(&pools.durable).await?;
    let version = version(&pools.durable).await?;
    pools.close().await;
    Ok(format!("the tables of the store are up to date (version {version})"))
}

pub(super) async fn bring_up_to_date(pool: &Pool) -> Result<()> {
    let done = match pool {
        Pool::Sqlite(pool) => on_file(pool).await,
        Pool::Postgres(pool) => on_server(pool).await,
    };
    match done {
        Ok(()) => Ok(()),
        Err(MigrateError::VersionMissing(_)) => require_current(pool).await,
        Err(error @ MigrateError::VersionMismatch(_)) => {
            Err(refused("the store's tables were made by another build of this program").source(error))
        }
        Err(error) => Err(refused("the store's tables could not be brought up to date").source(error)),
    }
}

/// One transaction that has the write lock from its start: of several processes on a new file one makes the tables, and the
/// others wait and find them.
async fn on_file(pool: &SqlitePool) -> Result<(), MigrateError> {
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    SQLITE.run(&mut *tx).await?;
    Ok(tx.commit().await?)
}

/// A session without bounds: another process may hold the migrator's lock, and a step may take as long as its tables are
/// large. As a pool, for of a connection of its own the compiler cannot tell that it may change threads.
async fn on_server(pool: &PgPool) -> Result<(), MigrateError> {
    let own = PgPoolOptions::new().max_connections(1).connect_with(pool.connect_options().as_ref().clone()).await?;
    let done = POSTGRES.run(&own).await;
    // Its lock goes with the session.
    own.close().await;
    done
}

pub(super) async fn require_current(pool: &Pool) -> Result<()> {
    let migrator = match pool {
        Pool::Sqlite(_) => &SQLITE,
        Pool::Postgres(_) => &POSTGRES,
    };
    let known = migrator.iter().map(|step| step.version).max().unwrap_or_default();
    let found = version(pool).await?;
    match found.cmp(&known) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Less => Err(refused(format!(
            "the store's tables are of version {found} and this program needs {known}; run `dropbox-connector migrate`"
        ))),
        std::cmp::Ordering::Greater => Err(refused(format!(
            "the store's tables are of version {found} and this program knows {known} only; run the newer program \
             that changed them"
        ))),
    }
}

/// 0: there are no tables yet.
async fn version(pool: &Pool) -> Result<i64> {
    let there = match pool {
        Pool::Sqlite(_) => "SELECT COUNT(*) AS found FROM sqlite_master WHERE name = '_sqlx_migrations'",
        Pool::Postgres(_) => "SELECT COUNT(to_regclass('_sqlx_migrations')) AS found",
    };
    if query(there).fetch_one(pool).await?.get::<i64>("found")? == 0 {
        return Ok(0);
    }
    let last = query("SELECT MAX(version) AS last FROM _sqlx_migrations").fetch_one(pool).await?;
    Ok(last.get::<Option<i64>>("last")?.unwrap_or(0))
}

fn refused(text: impl Into<String>) -> Fault {
    Fault::new(Reason::StoreUnavailable, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_databases_take_the_same_steps() {
        let steps = |migrator: &Migrator| {
            migrator.iter().map(|step| (step.version, step.description.to_string())).collect::<Vec<_>>()
        };
        assert_eq!(steps(&SQLITE), steps(&POSTGRES));
    }
}
