//! Key rotation: every sealed column under the present sealing key, row by row, by compare-and-set, beside running
//! processes. Order for an operator: add the new key for opening everywhere, make it the first line everywhere, rotate, and
//! keep the old key for opening at least 30 days, for handles.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ParameterId, ROWS_MAX, Store,
    database::{Row, query},
    millis_of,
    parameters::{APP_SECRET, BEARER, GRANT, PROXY_PASSWORD, row_name},
};
use crate::{
    fault::{Fault, Result},
    limits::REPLICA_SILENCE_MAX,
    seal::KeyRing,
};

/// What a rotation found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rotation {
    pub parameters: u64,
    /// Columns sealed anew.
    pub resealed: u64,
    /// Columns that the sealing key had sealed already.
    pub current: u64,
    /// Columns that changed while they were resealed; their writer used the sealing key.
    pub changed_meanwhile: u64,
    /// Columns whose key is gone.
    pub lost: u64,
    /// Those keys.
    pub missing: BTreeSet<String>,
}

/// Who can open what: the basis of a rotation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyUse {
    /// Live processes and the keys each can open.
    pub replicas: Vec<(String, Vec<String>)>,
    /// Sealed columns by the key that sealed them.
    pub sealed: BTreeMap<String, u64>,
}

impl Store {
    /// Which process has which keys, and what is sealed with them.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn key_use(&self) -> Result<KeyUse> {
        let mut told = KeyUse { replicas: self.live_replicas().await?, ..KeyUse::default() };
        let mut after = String::new();
        loop {
            let rows = self.sealed_rows(&after).await?;
            let Some(last) = rows.last() else { return Ok(told) };
            after = last.get("id")?;
            for row in &rows {
                for column in [APP_SECRET, PROXY_PASSWORD, GRANT, BEARER] {
                    let blob = row.get::<Option<Vec<u8>>>(column)?;
                    if let Some(key) = blob.as_deref().and_then(KeyRing::key_id_of) {
                        *told.sealed.entry(key.to_owned()).or_default() += 1;
                    }
                }
            }
        }
    }

    /// Keys that sealed something and are not in the ring, each with the number of application parameters that need it.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn missing_keys(&self) -> Result<BTreeMap<String, u64>> {
        let mut missing = BTreeMap::new();
        if self.0.file.is_some() {
            return Ok(missing);
        }
        let there = self.0.keys.key_ids();
        let mut after = String::new();
        loop {
            let rows = self.sealed_rows(&after).await?;
            let Some(last) = rows.last() else { return Ok(missing) };
            after = last.get("id")?;
            for row in &rows {
                let mut lacked = BTreeSet::new();
                // A bearer is made anew from the grant.
                for column in [APP_SECRET, PROXY_PASSWORD, GRANT] {
                    let blob = row.get::<Option<Vec<u8>>>(column)?;
                    let key = blob.as_deref().and_then(KeyRing::key_id_of);
                    lacked.extend(key.filter(|key| !there.iter().any(|id| id == key)).map(str::to_owned));
                }
                lacked.into_iter().for_each(|key| *missing.entry(key).or_default() += 1);
            }
        }
    }

    async fn live_replicas(&self) -> Result<Vec<(String, Vec<String>)>> {
        let alive_since = self.fleet_now(&self.0.pools.readers).await? - millis_of(REPLICA_SILENCE_MAX);
        let rows = query("SELECT id, key_ids FROM replicas WHERE heartbeat_at > $1 ORDER BY id")
            .bind(alive_since)
            .fetch_all(&self.0.pools.readers)
            .await?;
        let words = |text: String| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
        rows.iter().map(|row| Ok((row.get("id")?, words(row.get("key_ids")?)))).collect()
    }

    async fn sealed_rows(&self, after: &str) -> Result<Vec<Row>> {
        query(
            "SELECT id, uid, app_secret_sealed, proxy_password_sealed, grant_sealed, bearer_sealed FROM
             application_parameters WHERE id > $1 ORDER BY id LIMIT $2",
        )
        .bind(after)
        .bind(ROWS_MAX)
        .fetch_all(&self.0.pools.readers)
        .await
    }

    /// Seals with the present sealing key whatever an older one sealed, row by row, by compare-and-set.
    ///
    /// # Errors
    /// `INVALID_FIELD` naming `sealing_key_file` while a live process cannot open the new key; `READ_ONLY_STORE`;
    /// `STORE_UNAVAILABLE`.
    pub async fn rotate_parameters(&self) -> Result<Rotation> {
        self.require_writable()?;
        let sealing = self.0.keys.sealing_key_id();
        // Told of all at once: an operator goes round once.
        let lacking: Vec<String> = self
            .live_replicas()
            .await?
            .into_iter()
            .filter(|(_, ids)| !ids.contains(&sealing))
            .map(|(replica, ids)| format!("{replica} (has {})", ids.join(", ")))
            .collect();
        if !lacking.is_empty() {
            let text = format!(
                "key {sealing} cannot be opened yet by {}; give it the key first (a server looks at its key file every 5 s)",
                lacking.join("; ")
            );
            return Err(Fault::field("sealing_key_file", "NOT_EVERYWHERE", text));
        }
        let mut rotation = Rotation::default();
        let mut after = String::new();
        loop {
            let rows = self.sealed_rows(&after).await?;
            let Some(last) = rows.last() else { return Ok(rotation) };
            after = last.get("id")?;
            for row in &rows {
                rotation.parameters += 1;
                self.reseal(row, &sealing, &mut rotation).await?;
            }
        }
    }

    async fn reseal(&self, row: &Row, sealing: &str, rotation: &mut Rotation) -> Result<()> {
        const CAS: [(&str, &str); 4] = [
            (
                APP_SECRET,
                "UPDATE application_parameters SET app_secret_sealed = $3 WHERE uid = $1 AND app_secret_sealed = $2",
            ),
            (
                PROXY_PASSWORD,
                "UPDATE application_parameters SET proxy_password_sealed = $3
                 WHERE uid = $1 AND proxy_password_sealed = $2",
            ),
            (GRANT, "UPDATE application_parameters SET grant_sealed = $3 WHERE uid = $1 AND grant_sealed = $2"),
            (BEARER, "UPDATE application_parameters SET bearer_sealed = $3 WHERE uid = $1 AND bearer_sealed = $2"),
        ];
        let uid: String = row.get("uid")?;
        let name = row_name(&ParameterId::of_row(&row.get::<String>("id")?), &uid);
        for (column, sql) in CAS {
            let bound_to = if column == BEARER { &uid } else { &name };
            let Some(old) = row.get::<Option<Vec<u8>>>(column)? else { continue };
            if KeyRing::key_id_of(&old) == Some(sealing) {
                rotation.current += 1;
                continue;
            }
            let Ok(plain) = self.open_column(bound_to, column, &old) else {
                rotation.lost += 1;
                rotation.missing.extend(KeyRing::key_id_of(&old).map(str::to_owned));
                continue;
            };
            let new = self.seal_column(bound_to, column, &plain);
            let swapped = query(sql).bind(&uid).bind(&old).bind(new).execute(&self.0.pools.durable).await?;
            if swapped == 1 {
                rotation.resealed += 1;
            } else {
                rotation.changed_meanwhile += 1;
            }
        }
        Ok(())
    }
}
