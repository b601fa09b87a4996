//! Application parameters with all their secrets, out of one store and into another. What passes here is plain: it is
//! sealed to a passphrase before it is written anywhere. Bearers stay behind, the grant makes new ones.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize, Serializer};
use zeroize::{Zeroize as _, Zeroizing};

use super::{
    Account, Grant, ParameterId, Parameters, Settings, Store,
    database::{Tx, query},
    millis,
    parameters::{APP_SECRET, GRANT, GrantColumn, PROXY_PASSWORD, json, row_name},
    unknown::to_the_letter,
};
use crate::{
    fault::{Fault, Reason, Result},
    limits::PARAMETERS_PAGE_MAX,
    secret::Secret,
};

/// What is done about an id that the store has already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnConflict {
    /// Nothing at all is imported.
    Refuse,
    /// The store's own stays.
    Skip,
    /// The imported one takes its place.
    Replace,
}

/// What an import did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Imported {
    pub created: u64,
    pub replaced: u64,
    pub skipped: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    application_parameters: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: String,
    /// Kept, so that handles stay good where the sealing keys move too.
    uid: String,
    settings: serde_json::Value,
    #[serde(serialize_with = "plain", deserialize_with = "secret")]
    app_secret: Option<Secret<String>>,
    #[serde(serialize_with = "plain", deserialize_with = "secret")]
    proxy_password: Option<Secret<String>>,
    /// As its column holds it.
    #[serde(serialize_with = "plain", deserialize_with = "secret")]
    grant: Option<Secret<String>>,
    reauthorization_cause: Option<String>,
    granted_scopes: Vec<String>,
    account: Option<Account>,
    /// Milliseconds since 1970.
    created_at: i64,
}

const VERSION: u32 = 1;

const INSERT: &str = "INSERT INTO application_parameters (id, uid, etag, group_name, settings, app_secret_sealed,
    proxy_password_sealed, grant_sealed, grant_number, bearer_generation, reauthorization_cause, granted_scopes, account,
    created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)";
/// With the same values.
const REPLACE: &str = "UPDATE application_parameters SET uid = $2, etag = $3, group_name = $4, settings = $5,
    app_secret_sealed = $6, proxy_password_sealed = $7, grant_sealed = $8, grant_number = $9, bearer_generation = $10,
    reauthorization_cause = $11, granted_scopes = $12, account = $13, created_at = $14, updated_at = $15,
    bearer_sealed = NULL, bearer_expires_at = NULL, renewing_until = 0 WHERE id = $1";

impl Store {
    /// These application parameters, or all, and how many they are.
    ///
    /// # Errors
    /// `APPLICATION_PARAMETER_NOT_FOUND`; `INVALID_FIELD` for one whose secrets do not open; `STORE_UNAVAILABLE`.
    pub async fn export_parameters(&self, ids: &[ParameterId]) -> Result<(Zeroizing<Vec<u8>>, usize)> {
        let mut entries = Vec::new();
        for id in ids {
            let found = self.parameters(id).await?.ok_or_else(|| super::parameters::not_found(id))?;
            entries.push(entry(found)?);
        }
        let mut after = None;
        while ids.is_empty() {
            let after_id = after.as_ref().map_or("", ParameterId::as_str);
            // One that cannot be read would be missing at the other end without a word.
            let page = self.rows_of("", after_id, PARAMETERS_PAGE_MAX as usize, |_, fault| Err(fault)).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id.clone());
            for found in page {
                entries.push(entry(found)?);
            }
        }
        let count = entries.len();
        let document = Document { version: VERSION, application_parameters: entries };
        let plain = serde_json::to_vec(&document).map_err(|_| Fault::bug("application parameters are not JSON"))?;
        Ok((Zeroizing::new(plain), count))
    }

    /// Takes over what [`Store::export_parameters`] gave; all of it or nothing.
    ///
    /// # Errors
    /// `APPLICATION_PARAMETER_EXISTS` naming the ids; `INVALID_FIELD` naming `file`; `READ_ONLY_STORE`;
    /// `STORE_UNAVAILABLE`.
    pub async fn import_parameters(&self, plain: &[u8], on_conflict: OnConflict) -> Result<Imported> {
        self.require_writable()?;
        let entries = read(plain)?;
        let mut imported = Imported::default();
        let mut there = Vec::new();
        let mut tx = self.0.pools.durable.begin().await?;
        let mut held = self.hold_all(&mut tx, &entries).await?;
        // Changes are numbered under a lock of their own, which everybody takes last: here once every row is written.
        let mut changed = BTreeMap::new();
        for (id, entry) in &entries {
            // Of the same id, or of the same uid under another id.
            let former = held.iter().filter(|row| row.id == *id || row.uid == entry.uid);
            match (former.clone().next(), on_conflict) {
                (None, _) => imported.created += 1,
                (Some(row), OnConflict::Refuse) => {
                    there.push(row.id.to_string());
                    continue;
                }
                (Some(_), OnConflict::Skip) => {
                    imported.skipped += 1;
                    continue;
                }
                (Some(_), OnConflict::Replace) => imported.replaced += 1,
            }
            self.put(&mut tx, id, entry, former.clone()).await?;
            changed.extend(former.filter(|row| row.stands).map(|row| (row.id.clone(), row.uid.clone())));
            changed.insert(id.clone(), entry.uid.clone());
            // What was there is overwritten or has made room.
            for row in held.iter_mut().filter(|row| row.id == *id || row.uid == entry.uid) {
                row.stands = false;
            }
        }
        if !there.is_empty() {
            let text = format!(
                "there already: {}; nothing was imported. Choose between keeping these and replacing them",
                there.join(", ")
            );
            return Err(Fault::new(Reason::ApplicationParameterExists, text));
        }
        for (id, uid) in &changed {
            self.note_change(&mut tx, id, uid).await?;
        }
        tx.commit().await?;
        Ok(imported)
    }
}

/// A row that was there when the import began.
struct Held {
    /// No entry was written in its place yet. The numbers of one that does not stand any more count all the same.
    stands: bool,
    id: ParameterId,
    uid: String,
    etag: i64,
    grant_number: i64,
    bearer_generation: i64,
}

impl Store {
    /// The rows that bear the id or the uid of an entry, held until the transaction ends: in the order of ids, so that two
    /// imports wait for each other and never in a circle.
    async fn hold_all(&self, tx: &mut Tx, entries: &BTreeMap<ParameterId, Entry>) -> Result<Vec<Held>> {
        let mut ids: BTreeSet<ParameterId> = entries.keys().cloned().collect();
        for entry in entries.values() {
            let by_uid = query("SELECT id FROM application_parameters WHERE uid = $1").bind(entry.uid.as_str());
            if let Some(row) = by_uid.fetch_optional(&mut *tx).await? {
                ids.insert(ParameterId::of_row(&row.get::<String>("id")?));
            }
        }
        let mut held = Vec::new();
        for id in ids {
            let row = query(
                "UPDATE application_parameters SET etag = etag WHERE id = $1
                 RETURNING uid, etag, grant_number, bearer_generation",
            );
            if let Some(row) = row.bind(id.as_str()).fetch_optional(&mut *tx).await? {
                let (uid, etag, grant_number) = (row.get("uid")?, row.get("etag")?, row.get("grant_number")?);
                let bearer_generation = row.get("bearer_generation")?;
                held.push(Held { stands: true, id, uid, etag, grant_number, bearer_generation });
            }
        }
        Ok(held)
    }

    /// Writes one entry in the place of `former`. Its numbers go on from theirs: a verdict on a grant or a bearer of before,
    /// which another process may still be about to write, must not hit this one.
    async fn put<'a>(
        &self,
        tx: &mut Tx,
        id: &ParameterId,
        entry: &Entry,
        former: impl Iterator<Item = &'a Held> + Clone + Send,
    ) -> Result<()> {
        let highest = |number: fn(&Held) -> i64| former.clone().map(number).max().unwrap_or(0) + 1;
        let etag = former.clone().find(|row| row.id == *id).map_or(0, |row| row.etag) + 1;
        let (grant_number, generation) = (highest(|row| row.grant_number), highest(|row| row.bearer_generation));
        // The row of the same id stays: who waits for it must find it.
        for row in former.clone().filter(|row| row.stands && row.id != *id) {
            query("DELETE FROM application_parameters WHERE id = $1").bind(row.id.as_str()).execute(&mut *tx).await?;
        }
        let there = former.clone().any(|row| row.stands && row.id == *id);
        let name = row_name(id, &entry.uid);
        let seal = |column, text: &Option<Secret<String>>| {
            text.as_ref().map(|text| self.seal_column(&name, column, text.reveal().as_bytes()))
        };
        query(if there { REPLACE } else { INSERT })
            .bind(id.as_str())
            .bind(entry.uid.as_str())
            .bind(etag)
            .bind(entry.settings["group"].as_str().unwrap_or_default())
            .bind(entry.settings.to_string())
            .bind(seal(APP_SECRET, &entry.app_secret))
            .bind(seal(PROXY_PASSWORD, &entry.proxy_password))
            .bind(seal(GRANT, &entry.grant))
            .bind(grant_number)
            .bind(generation)
            .bind(entry.reauthorization_cause.clone())
            .bind(json(&entry.granted_scopes)?)
            .bind(entry.account.as_ref().map(json).transpose()?)
            .bind(entry.created_at)
            .bind(self.now_millis())
            .execute(tx)
            .await?;
        Ok(())
    }
}

fn entry(parameters: Parameters) -> Result<Entry> {
    let unopened = ["sealed_column_damaged", "sealing_key_retired"];
    if parameters.reauthorization_cause.as_deref().is_some_and(|cause| unopened.contains(&cause)) {
        let text = format!("the secrets of {} do not open: the key that sealed them is not at hand", parameters.id);
        return Err(Fault::field("application_parameter_id", "UNREADABLE", text));
    }
    let grant = parameters.grant.as_ref().map(|grant| {
        let column = match grant {
            Grant::Refreshable(token) => GrantColumn::RefreshToken(token.reveal().clone()),
            Grant::ShortLived { bearer, expires_at } => {
                GrantColumn::AccessToken { token: bearer.reveal().clone(), expires_at: expires_at.map(millis) }
            }
        };
        let text = json(&column).map(Secret::new);
        column.wipe();
        text
    });
    Ok(Entry {
        id: parameters.id.to_string(),
        uid: parameters.uid.to_string(),
        settings: settings_json(&parameters.settings)?,
        app_secret: parameters.app_secret,
        proxy_password: parameters.proxy_password,
        grant: grant.transpose()?,
        reauthorization_cause: parameters.reauthorization_cause,
        granted_scopes: parameters.granted_scopes,
        account: parameters.account,
        created_at: millis(parameters.created_at),
    })
}

/// Everything is looked at before anything is written.
fn read(plain: &[u8]) -> Result<BTreeMap<ParameterId, Entry>> {
    let malformed = |text: String| Fault::field("file", "MALFORMED", text);
    // The parser's own words may quote a secret.
    let document: Document = serde_json::from_slice(plain)
        .map_err(|_| malformed("what is sealed in it was written by another version".to_owned()))?;
    if document.version != VERSION {
        return Err(malformed("what is sealed in it was written by a newer version".to_owned()));
    }
    let mut uids = BTreeSet::new();
    let mut entries = BTreeMap::new();
    for mut entry in document.application_parameters {
        let id = ParameterId::new(&entry.id)?;
        let settings: Settings = to_the_letter(std::mem::take(&mut entry.settings))
            .map_err(|text| malformed(format!("the settings of {id}: {text}")))?;
        settings.check()?;
        settings.check_proxy_password(entry.proxy_password.as_ref())?;
        entry.settings = settings_json(&settings)?;
        let grant = entry.grant.as_ref().map(|grant| serde_json::from_str::<GrantColumn>(grant.reveal()));
        match grant.transpose() {
            Ok(grant) => grant.into_iter().for_each(GrantColumn::wipe),
            Err(_) => return Err(malformed(format!("the grant of {id} cannot be read"))),
        }
        if entry.uid.is_empty() || !uids.insert(entry.uid.clone()) || entries.contains_key(&id) {
            return Err(malformed(format!("{id} stands twice")));
        }
        entries.insert(id, entry);
    }
    Ok(entries)
}

fn settings_json(settings: &Settings) -> Result<serde_json::Value> {
    serde_json::to_value(settings).map_err(|_| Fault::bug("settings are not JSON"))
}

#[expect(clippy::ref_option, reason = "the signature serde asks for")]
fn plain<S: Serializer>(secret: &Option<Secret<String>>, serializer: S) -> Result<S::Ok, S::Error> {
    secret.as_ref().map(Secret::reveal).serialize(serializer)
}

fn secret<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Secret<String>>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(Secret::new))
}

impl GrantColumn {
    /// The copy inside is wiped like every other.
    fn wipe(self) {
        let (GrantColumn::RefreshToken(mut token) | GrantColumn::AccessToken { mut token, .. }) = self;
        token.zeroize();
    }
}
