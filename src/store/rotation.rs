//! Key rotation: every sealed column under the present sealing key, row by row, by compare-and-set, beside running
//! processes. Order for an operator: add the new key for opening everywhere, make it the first line everywhere, rotate, and
//! keep the old key for opening at least 30 days, for handles.

use super::{
    ParameterId, ROWS_MAX, Store,
    database::{Row, query},
    millis_of,
    parameters::{APP_SECRET, BEARER, GRANT, row_name},
};
use crate::{
    fault::{Fault, Result},
    limits::REPLICA_SILENCE_MAX,
    seal::KeyRing,
};

/// What a rotation found and did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
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
}

impl Store {
    /// Seals with the present sealing key whatever an older one sealed, row by row, by compare-and-set.
    ///
    /// # Errors
    /// `INVALID_FIELD` naming `sealing_key_file` while a live process cannot open the new key; `READ_ONLY_STORE`;
    /// `STORE_UNAVAILABLE`.
    pub async fn rotate_parameters(&self) -> Result<Rotation> {
        self.require_writable()?;
        let sealing = self.0.keys.sealing_key_id();
        let alive_since = self.fleet_now(&self.0.pools.readers).await? - millis_of(REPLICA_SILENCE_MAX);
        let replicas = query("SELECT id, key_ids FROM replicas WHERE heartbeat_at > $1")
            .bind(alive_since)
            .fetch_all(&self.0.pools.readers)
            .await?;
        for row in replicas {
            let (replica, keys): (String, String) = (row.get("id")?, row.get("key_ids")?);
            if keys.split(' ').all(|id| id != sealing) {
                let text = format!("process {replica} cannot open key {sealing} yet; give it the key first");
                return Err(Fault::field("sealing_key_file", "NOT_EVERYWHERE", text));
            }
        }
        let mut rotation = Rotation::default();
        let mut after = String::new();
        loop {
            let rows = query(
                "SELECT id, uid, app_secret_sealed, grant_sealed, bearer_sealed FROM application_parameters
                 WHERE id > $1 ORDER BY id LIMIT $2",
            )
            .bind(&after)
            .bind(ROWS_MAX)
            .fetch_all(&self.0.pools.readers)
            .await?;
            let Some(last) = rows.last() else { return Ok(rotation) };
            after = last.get("id")?;
            for row in &rows {
                rotation.parameters += 1;
                self.reseal(row, &sealing, &mut rotation).await?;
            }
        }
    }

    async fn reseal(&self, row: &Row, sealing: &str, rotation: &mut Rotation) -> Result<()> {
        const CAS: [(&str, &str); 3] = [
            (
                APP_SECRET,
                "UPDATE application_parameters SET app_secret_sealed = $3 WHERE uid = $1 AND app_secret_sealed = $2",
            ),
            (GRANT, "UPDATE application_parameters SET grant_sealed = $3 WHERE uid = $1 AND grant_sealed = $2"),
            (BEARER, "UPDATE application_parameters SET bearer_sealed = $3 WHERE uid = $1 AND bearer_sealed = $2"),
        ];
        let uid: String = row.get("uid")?;
        let name = row_name(&ParameterId::new(&row.get::<String>("id")?)?, &uid);
        for (column, sql) in CAS {
            let bound_to = if column == BEARER { &uid } else { &name };
            let Some(old) = row.get::<Option<Vec<u8>>>(column)? else { continue };
            if KeyRing::key_id_of(&old) == Some(sealing) {
                rotation.current += 1;
                continue;
            }
            let Ok(plain) = self.open_column(bound_to, column, &old) else {
                rotation.lost += 1;
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
