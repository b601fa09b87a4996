//! Which process of a fleet writes to a namespace at present. A lease is courtesy, not correctness: whoever gets no answer
//! goes on without, and Dropbox refuses one of two that write at once. So nothing is synced, and nobody waits long for an
//! answer. What two processes say to each other goes with their statements (migration 11) and is heard by `wake.rs`.

use std::{sync::Arc, time::Duration};

use serde::Deserialize;
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::{
    Store,
    database::{briefly, query},
    millis_of,
};
use crate::{
    fault::Result,
    limits::{WRITE_LEASE, WRITE_LEASE_GIVEN},
};

/// What came of asking for a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteLease {
    /// Else the asker stands in line now, and its holder knows.
    pub mine: bool,
    pub number: i64,
    /// Whoever has it holds it for so long, unless it takes it again.
    pub lasts: Duration,
    /// Others wait for it.
    pub others: bool,
}

/// One process tells another one that it waits for a lease, or that it has given it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct WriteLetter {
    /// The process it is for.
    to: Arc<str>,
    pub namespace: Arc<str>,
    pub number: i64,
    /// False: its holder is asked for it.
    pub given: bool,
    /// Others wait for it.
    pub others: bool,
}

/// The letters for this process.
#[derive(Debug)]
pub struct WriteLetters {
    replica: Arc<str>,
    heard: Receiver<Arc<WriteLetter>>,
}

impl WriteLetters {
    /// Whoever misses one is told by asking again. Cancel-safe.
    pub async fn next(&mut self) -> Arc<WriteLetter> {
        loop {
            match self.heard.recv().await {
                Ok(letter) if letter.to == self.replica => return letter,
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                // The store is gone, and so is whoever asks.
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}

impl Store {
    /// Takes the lease of a namespace, or goes on holding it; where another process has it, stands in line. One round trip.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn take_write_lease(&self, namespace: &str) -> Result<WriteLease> {
        let sql = "SELECT mine, number, lasts, others FROM take_write_lease($1, $2, $3)";
        let row = query(sql).bind(namespace).bind(&*self.0.replica).bind(millis_of(WRITE_LEASE));
        let row = briefly(row.fetch_one(&self.0.pools.leases)).await?;
        Ok(WriteLease {
            mine: row.get::<i64>("mine")? == 1,
            number: row.get("number")?,
            lasts: Duration::from_millis(row.get::<i64>("lasts")?.try_into().unwrap_or(0)),
            others: row.get::<i64>("others")? > 0,
        })
    }

    /// Gives the lease to whoever waits longest, and stands in line `again` if it is to come back. Its number then; None: nobody
    /// waits, or it was not this process's.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn give_write_lease(&self, namespace: &str, again: bool) -> Result<Option<i64>> {
        let sql = "SELECT number FROM give_write_lease($1, $2, $3, $4)";
        let row = query(sql).bind(namespace).bind(&*self.0.replica);
        let row = row.bind(millis_of(WRITE_LEASE_GIVEN)).bind(i64::from(again));
        briefly(row.fetch_one(&self.0.pools.leases)).await?.get("number")
    }

    /// What other processes tell this one of leases, from now on, while somebody listens ([`Store::listen`]).
    pub fn write_letters(&self) -> WriteLetters {
        WriteLetters { replica: self.0.replica.clone(), heard: self.0.write_letters.subscribe() }
    }

    /// Leaves nothing that others would wait for.
    pub(super) async fn end_write_leases(&self) -> Result<()> {
        if !self.is_shared() {
            return Ok(());
        }
        // Whoever waits looks again soon.
        let sql = "DELETE FROM write_leases WHERE holder = $1";
        briefly(query(sql).bind(&*self.0.replica).execute(&self.0.pools.leases)).await?;
        let sql = "UPDATE write_leases SET waiting = array_remove(waiting, $1) WHERE $1 = ANY (waiting)";
        briefly(query(sql).bind(&*self.0.replica).execute(&self.0.pools.leases)).await.map(drop)
    }

    /// Those that nobody held for a while.
    pub(super) async fn sweep_write_leases(&self) -> Result<u64> {
        if !self.is_shared() {
            return Ok(0);
        }
        let sql = "DELETE FROM write_leases WHERE lease_until < store_now() - $1";
        query(sql).bind(millis_of(WRITE_LEASE)).execute(&self.0.pools.leases).await
    }
}
