//! The fleet's last renewal of each bearer, and the lease that keeps two processes from renewing at once. The lease is a
//! courtesy: Dropbox's refresh tokens do not change and older bearers stay good, so whoever cannot reach the store renews
//! alone. Parameters from a file have no row: their bearers live in memory only.

use std::time::SystemTime;

use super::{
    Renewal, Store,
    database::query,
    millis, millis_of,
    parameters::{BEARER, secret_text},
    time,
};
use crate::{fault::Result, limits::RENEWAL_LEASE, secret::Secret};

/// What came of asking for the right to renew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lease {
    Mine,
    /// Another process renews.
    Another,
    /// The grant is not the parameter's any more: another one took its place, or it was forgotten.
    Superseded,
}

impl Store {
    /// The bearer that some process got last by this grant. One of a later grant may be another account's.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn renewal(&self, uid: &str, grant_number: i64) -> Result<Option<Renewal>> {
        let row = query(
            "SELECT bearer_sealed, bearer_expires_at, bearer_generation FROM application_parameters
             WHERE uid = $1 AND grant_number = $2",
        )
        .bind(uid)
        .bind(grant_number)
        .fetch_optional(&self.0.pools.readers)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let Some(blob) = row.get::<Option<Vec<u8>>>("bearer_sealed")? else {
            return Ok(None);
        };
        // A bearer that does not open is no loss: the next one is made by the grant.
        let Ok(plain) = self.open_column(uid, BEARER, &blob) else { return Ok(None) };
        Ok(Some(Renewal {
            bearer: secret_text(&plain)?,
            expires_at: row.get::<Option<i64>>("bearer_expires_at")?.map(time),
            generation: row.get::<i64>("bearer_generation")?.cast_unsigned(),
        }))
    }

    /// Takes the row for 15 s.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn lease_renewal(&self, uid: &str, grant_number: i64) -> Result<Lease> {
        if self.0.file.is_some() {
            return Ok(Lease::Mine);
        }
        // One clock for the whole fleet: read before it is compared, it can only shorten the lease.
        let now = self.fleet_now(&self.0.pools.quick).await?;
        let taken = query(
            "UPDATE application_parameters SET renewing_until = $3, renewing_by = $4
             WHERE uid = $1 AND grant_number = $2 AND (renewing_until <= $5 OR renewing_by = $4)",
        )
        .bind(uid)
        .bind(grant_number)
        .bind(now + millis_of(RENEWAL_LEASE))
        .bind(&*self.0.replica)
        .bind(now)
        .execute(&self.0.pools.quick)
        .await?;
        if taken == 1 {
            return Ok(Lease::Mine);
        }
        let there = query("SELECT 1 AS there FROM application_parameters WHERE uid = $1 AND grant_number = $2")
            .bind(uid)
            .bind(grant_number)
            .fetch_optional(&self.0.pools.readers)
            .await?;
        Ok(if there.is_some() { Lease::Another } else { Lease::Superseded })
    }

    /// Shares a new bearer with the fleet and gives the lease back. Nothing happens if another grant has come meanwhile.
    /// Gives the generation of the bearer.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn finish_renewal(
        &self,
        uid: &str,
        grant_number: i64,
        bearer: &Secret<String>,
        expires_at: Option<SystemTime>,
    ) -> Result<Option<u64>> {
        if self.0.file.is_some() {
            return Ok(None);
        }
        let generation = query(
            "UPDATE application_parameters SET bearer_sealed = $3, bearer_expires_at = $4,
             bearer_generation = bearer_generation + 1, renewing_until = 0 WHERE uid = $1 AND grant_number = $2
             RETURNING bearer_generation",
        )
        .bind(uid)
        .bind(grant_number)
        .bind(self.seal_column(uid, BEARER, bearer.reveal().as_bytes()))
        .bind(expires_at.map(millis))
        .fetch_optional(&self.0.pools.durable)
        .await?;
        generation.map(|row| Ok(row.get::<i64>("bearer_generation")?.cast_unsigned())).transpose()
    }

    /// Gives the lease back without a bearer, so that another process may try.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn release_renewal(&self, uid: &str, grant_number: i64) -> Result<()> {
        if self.0.file.is_some() {
            return Ok(());
        }
        query(
            "UPDATE application_parameters SET renewing_until = 0
             WHERE uid = $1 AND grant_number = $2 AND renewing_by = $3",
        )
        .bind(uid)
        .bind(grant_number)
        .bind(&*self.0.replica)
        .execute(&self.0.pools.quick)
        .await?;
        Ok(())
    }
}
