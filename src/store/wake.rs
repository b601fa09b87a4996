//! How a process hears at once that another one changed application parameters, or has something to say of watched folders
//! or of a lease: PostgreSQL's LISTEN and NOTIFY, on one connection of its own. It only makes a look come sooner; nothing depends on it.

use std::{convert::Infallible, sync::Arc};

use sqlx::{
    AssertSqlSafe, Executor as _, PgPool,
    postgres::{PgListener, PgPoolOptions},
};

use tokio::sync::broadcast;

use super::{
    Store,
    database::{Pool, answered, query, unavailable},
};
use crate::{
    fault::{Fault, Reason, Result},
    limits::{STORE_CONNECT_TIMEOUT, STORE_LISTEN_AGAIN, STORE_NOTIFY_MAX},
};

/// The migrations name it too.
const CHANNEL: &str = "dropbox_connector_parameter_changes";

/// What processes tell each other of watched folders.
const LETTERS: &str = "dropbox_connector_events";

/// What they tell each other of leases of namespaces. The migrations name it too.
const WRITE_LETTERS: &str = "dropbox_connector_write_leases";

impl Store {
    /// Calls `wake` whenever a process, this one included, has changed an application parameter, and passes letters on to
    /// [`Store::letters`] and [`Store::write_letters`]. SQLite does none of it. Never ends; drop it to stop.
    pub async fn listen(&self, wake: impl Fn() + Send + Sync) -> Infallible {
        let Pool::Postgres(pool) = &self.0.pools.durable else { return std::future::pending().await };
        loop {
            if let Err(error) = self.hear(pool, &wake).await {
                tracing::warn!(%error, "changes are not told at once any more; they are still looked for");
            }
            tokio::time::sleep(STORE_LISTEN_AGAIN).await;
        }
    }

    /// Until the connection is lost.
    async fn hear(&self, pool: &PgPool, wake: &(impl Fn() + Sync)) -> sqlx::Result<()> {
        let mut listener = listener(pool, CHANNEL).await?;
        answered(listener.listen_all([LETTERS, WRITE_LETTERS])).await?;
        // What was told before it listened is looked for now.
        wake();
        let _ = self.0.letters.send(None);
        while let Some(told) = listener.try_recv().await? {
            match told.channel() {
                LETTERS => _ = self.0.letters.send(Some(told.payload().into())),
                WRITE_LETTERS => self.hear_of_lease(told.payload()),
                _ => wake(),
            }
        }
        Ok(())
    }

    fn hear_of_lease(&self, letter: &str) {
        match serde_json::from_str(letter) {
            Ok(letter) => _ = self.0.write_letters.send(Arc::new(letter)),
            Err(error) => tracing::debug!(%error, "a letter of another version was not understood"),
        }
    }

    /// What processes, this one included, tell each other of watched folders, from now on, while somebody listens. None:
    /// something may have been missed.
    pub fn letters(&self) -> broadcast::Receiver<Option<Arc<str>>> {
        self.0.letters.subscribe()
    }

    /// Tells every process. Where there is only one, nobody.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn send_letter(&self, letter: &str) -> Result<()> {
        if !self.is_shared() {
            return Ok(());
        }
        let sql = "SELECT pg_notify($1, $2)";
        query(sql).bind(LETTERS).bind(letter).execute(&self.0.pools.durable).await.map(drop)
    }
}

async fn listener(pool: &PgPool, channel: &str) -> sqlx::Result<PgListener> {
    let own = PgPoolOptions::new().max_connections(1).acquire_timeout(STORE_CONNECT_TIMEOUT).max_lifetime(None);
    let own = own.connect_lazy_with((*pool.connect_options()).clone());
    let mut listener = PgListener::connect_with(&own).await?;
    listener.eager_reconnect(false);
    answered(listener.listen(channel)).await?;
    Ok(listener)
}

/// Whether one session hears what another one tells.
pub(super) async fn require_notifications(pool: &Pool) -> Result<()> {
    let Pool::Postgres(pool) = pool else { return Ok(()) };
    let channel = format!("dropbox_connector_check_{}", uuid::Uuid::new_v4().simple());
    let mut listener = listener(pool, &channel).await.map_err(unavailable)?;
    // Not prepared: a pooler may have lost what was prepared before.
    match pool.execute(AssertSqlSafe(format!("NOTIFY {channel}"))).await {
        // The session that listened was lent to this one, which did not ask to be told.
        Err(sqlx::Error::Protocol(_)) => return Err(pooled()),
        told => told.map_err(unavailable)?,
    };
    match tokio::time::timeout(STORE_NOTIFY_MAX, listener.recv()).await {
        Ok(heard) => heard.map(drop).map_err(unavailable),
        Err(_) => Err(pooled()),
    }
}

fn pooled() -> Fault {
    Fault::new(
        Reason::StoreUnavailable,
        "LISTEN hears no NOTIFY: the URL leads through a pooler that lends connections by transaction \
         (pgbouncer's pool_mode = transaction); give the address of the server itself, or pool by session",
    )
}
