//! Application parameters with all their secrets, out of one store and into another. What passes here is plain: it is
//! sealed to a passphrase before it is written anywhere. Bearers stay behind, the grant makes new ones.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize, Serializer};
use zeroize::{Zeroize as _, Zeroizing};

use super::{
    Account, Grant, ParameterId, Parameters, Settings, Store,
    database::query,
    millis,
    parameters::{APP_SECRET, GRANT, GrantColumn, PROXY_PASSWORD, json, row_name},
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
    settings: Settings,
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
            let page = self.list_parameters("", after.as_ref(), PARAMETERS_PAGE_MAX).await?;
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
        for (id, entry) in entries {
            // Changes nothing, and on a database server holds the row until this is done.
            let row = query("UPDATE application_parameters SET etag = etag WHERE id = $1 RETURNING etag")
                .bind(id.as_str())
                .fetch_optional(&mut tx)
                .await?;
            let etag = row.map(|row| row.get::<i64>("etag")).transpose()?;
            match (etag, on_conflict) {
                (None, _) => imported.created += 1,
                (Some(_), OnConflict::Refuse) => {
                    there.push(id.to_string());
                    continue;
                }
                (Some(_), OnConflict::Skip) => {
                    imported.skipped += 1;
                    continue;
                }
                (Some(_), OnConflict::Replace) => imported.replaced += 1,
            }
            query("DELETE FROM application_parameters WHERE id = $1 OR uid = $2")
                .bind(id.as_str())
                .bind(entry.uid.as_str())
                .execute(&mut tx)
                .await?;
            let name = row_name(&id, &entry.uid);
            let seal = |column, text: &Option<Secret<String>>| {
                text.as_ref().map(|text| self.seal_column(&name, column, text.reveal().as_bytes()))
            };
            query(
                "INSERT INTO application_parameters (id, uid, etag, group_name, settings, app_secret_sealed,
                 proxy_password_sealed, grant_sealed, grant_number, reauthorization_cause, granted_scopes, account, created_at,
                 updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 1, $9, $10, $11, $12, $13)",
            )
            .bind(id.as_str())
            .bind(entry.uid.as_str())
            .bind(etag.unwrap_or(0) + 1)
            .bind(entry.settings.group.as_str())
            .bind(json(&entry.settings)?)
            .bind(seal(APP_SECRET, &entry.app_secret))
            .bind(seal(PROXY_PASSWORD, &entry.proxy_password))
            .bind(seal(GRANT, &entry.grant))
            .bind(entry.reauthorization_cause.clone())
            .bind(json(&entry.granted_scopes)?)
            .bind(entry.account.as_ref().map(json).transpose()?)
            .bind(entry.created_at)
            .bind(self.now_millis())
            .execute(&mut tx)
            .await?;
            self.note_change(&mut tx, &id, &entry.uid).await?;
        }
        if !there.is_empty() {
            let text = format!(
                "there already: {}; nothing was imported. Choose between keeping these and replacing them",
                there.join(", ")
            );
            return Err(Fault::new(Reason::ApplicationParameterExists, text));
        }
        tx.commit().await?;
        Ok(imported)
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
        settings: parameters.settings,
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
fn read(plain: &[u8]) -> Result<Vec<(ParameterId, Entry)>> {
    let malformed = |text: String| Fault::field("file", "MALFORMED", text);
    // The parser's own words may quote a secret.
    let document: Document = serde_json::from_slice(plain)
        .map_err(|_| malformed("what is sealed in it was written by another version".to_owned()))?;
    if document.version != VERSION {
        return Err(malformed("what is sealed in it was written by a newer version".to_owned()));
    }
    let (mut ids, mut uids) = (BTreeSet::new(), BTreeSet::new());
    let mut entries = Vec::new();
    for entry in document.application_parameters {
        let id = ParameterId::new(&entry.id)?;
        entry.settings.check()?;
        entry.settings.check_proxy_password(entry.proxy_password.as_ref())?;
        let grant = entry.grant.as_ref().map(|grant| serde_json::from_str::<GrantColumn>(grant.reveal()));
        match grant.transpose() {
            Ok(grant) => grant.into_iter().for_each(GrantColumn::wipe),
            Err(_) => return Err(malformed(format!("the grant of {id} cannot be read"))),
        }
        if entry.uid.is_empty() || !ids.insert(id.clone()) || !uids.insert(entry.uid.clone()) {
            return Err(malformed(format!("{id} stands twice")));
        }
        entries.push((id, entry));
    }
    Ok(entries)
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
