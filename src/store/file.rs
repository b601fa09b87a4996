//! Application parameters from a read-only file, as a mounted Kubernetes Secret: TOML, or JSON if its name ends so.
//!
//! ```toml
//! [[application_parameters]]
//! id = "docs"
//! app_key = "…"
//! app_secret_file = "/run/secrets/docs"     # or app_secret
//! refresh_token = "…"                       # or refresh_token_file, access_token, access_token_file
//! account_id = "dbid:…"                     # optional: keeps handles good when the token is replaced
//! policy.allowed_principals = ["billing"]   # and every other setting, by its name in the API
//! ```
//!
//! It is looked at again with every turn of the change feed; a broken file is reported and the last good one stays.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use figment::{
    Figment,
    providers::{Format as _, Toml},
};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{Account, Change, Grant, ParameterId, Parameters, Settings};
use crate::{
    clock::from_dropbox_time,
    fault::{Fault, Result},
    secret::Secret,
};

pub(super) struct File {
    path: PathBuf,
    state: Mutex<Loaded>,
}

#[derive(Default)]
struct Loaded {
    /// What the file looked like when it was last read, well or not.
    stamp: Stamp,
    parameters: BTreeMap<ParameterId, Parameters>,
}

type Stamp = Option<(SystemTime, u64)>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    application_parameters: Vec<serde_json::Map<String, serde_json::Value>>,
}

impl File {
    pub(super) fn read(path: &Path, now: SystemTime) -> Result<Self> {
        let stamp = stamp(path);
        let parameters = read(path, now)?;
        Ok(Self { path: path.to_owned(), state: Mutex::new(Loaded { stamp, parameters }) })
    }

    pub(super) fn get(&self, id: &ParameterId) -> Option<Parameters> {
        self.state().parameters.get(id).cloned()
    }

    pub(super) fn list(&self, group: &str, after: &str, limit: usize) -> Vec<Parameters> {
        let state = self.state();
        let wanted = |one: &&Parameters| one.id.as_str() > after && (group.is_empty() || one.settings.group == group);
        state.parameters.values().filter(wanted).take(limit).cloned().collect()
    }

    pub(super) fn require_reauthorization(&self, id: &ParameterId, uid: &str, cause: &str) -> bool {
        let mut state = self.state();
        let Some(parameters) = state.parameters.get_mut(id).filter(|parameters| *parameters.uid == *uid) else {
            return false;
        };
        parameters.reauthorization_cause = Some(cause.to_owned());
        true
    }

    pub(super) fn count_reauthorizations(&self) -> u64 {
        self.state().parameters.values().filter(|one| one.reauthorization_cause.is_some()).count() as u64
    }

    /// Reads the file again if it changed, and names what differs.
    pub(super) fn changes(&self, seq: i64, now: SystemTime) -> Vec<Change> {
        let stamp = stamp(&self.path);
        if self.state().stamp == stamp {
            return Vec::new();
        }
        let read = read(&self.path, now);
        let mut state = self.state();
        state.stamp = stamp;
        let new = match read {
            Ok(new) => new,
            Err(fault) => {
                tracing::error!(%fault, "the parameters file is broken; the last good one stays");
                return Vec::new();
            }
        };
        let old = std::mem::replace(&mut state.parameters, new);
        let ids: std::collections::BTreeSet<&ParameterId> = old.keys().chain(state.parameters.keys()).collect();
        let uid =
            |id: &ParameterId| old.get(id).or_else(|| state.parameters.get(id)).map_or("", |one| &*one.uid).to_owned();
        ids.into_iter().map(|id| Change { seq, id: id.clone(), uid: uid(id) }).collect()
    }

    fn state(&self) -> MutexGuard<'_, Loaded> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stamp(path: &Path) -> Stamp {
    let facts = std::fs::metadata(path).ok()?;
    Some((facts.modified().ok()?, facts.len()))
}

fn read(path: &Path, now: SystemTime) -> Result<BTreeMap<ParameterId, Parameters>> {
    let text = Zeroizing::new(read_text(path, "parameters_file")?);
    let json = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("json"));
    // A parser's message may quote a line of the file, and with it a secret: only its place is told.
    let document: Document = if json {
        serde_json::from_str(&text).map_err(|error| {
            bad("parameters_file", format!("{} line {}: not the expected JSON", path.display(), error.line()))
        })?
    } else {
        Figment::from(Toml::string(&text)).extract().map_err(|error| {
            let place = error.path.join(".");
            bad("parameters_file", format!("{}: not the expected TOML {place}", path.display()))
        })?
    };
    let mut all = BTreeMap::new();
    for (index, entry) in document.application_parameters.into_iter().enumerate() {
        let parameters = parameters_of(entry, now)
            .map_err(|(field, text)| bad(&format!("parameters_file.application_parameters[{index}].{field}"), text))?;
        let id = parameters.id.clone();
        if all.insert(id.clone(), parameters).is_some() {
            return Err(bad(
                &format!("parameters_file.application_parameters[{index}].id"),
                format!("{id} stands twice"),
            ));
        }
    }
    Ok(all)
}

type Wrong = (String, String);

fn parameters_of(mut entry: serde_json::Map<String, serde_json::Value>, now: SystemTime) -> Result<Parameters, Wrong> {
    let mut take = |key: &str| match entry.remove(key) {
        None => Ok(None),
        Some(serde_json::Value::String(text)) if !text.is_empty() => Ok(Some(text)),
        Some(_) => Err((key.to_owned(), "a text that is not empty".to_owned())),
    };
    let mut take_secret = |key: &str| -> Result<Option<Secret<String>>, Wrong> {
        let file_key = format!("{key}_file");
        match (take(key)?, take(&file_key)?) {
            (Some(_), Some(_)) => Err((file_key, format!("give {key} or {key}_file, not both"))),
            (Some(text), None) => Ok(Some(Secret::new(text))),
            (None, Some(path)) => {
                let text =
                    read_text(Path::new(&path), &file_key).map_err(|fault| (file_key, fault.message().to_owned()))?;
                let text = Zeroizing::new(text);
                Ok(Some(Secret::new(text.trim().to_owned())))
            }
            (None, None) => Ok(None),
        }
    };
    let (app_secret, refresh) = (take_secret("app_secret")?, take_secret("refresh_token")?);
    let access = take_secret("access_token")?;
    let id = take("id")?.ok_or_else(|| ("id".to_owned(), "required".to_owned()))?;
    let account_id = take("account_id")?;
    let ends = take("access_token_expires_at")?
        .map(|text| {
            from_dropbox_time(&text).ok_or(("access_token_expires_at".to_owned(), "2026-01-02T03:04:05Z".to_owned()))
        })
        .transpose()?;
    let id = ParameterId::new(&id).map_err(|fault| ("id".to_owned(), fault.message().to_owned()))?;
    let grant = match (refresh, access) {
        (Some(_), Some(_)) => {
            return Err(("access_token".to_owned(), "give a refresh token or an access token".to_owned()));
        }
        (Some(token), None) => Some(Grant::Refreshable(token)),
        (None, Some(bearer)) => Some(Grant::ShortLived { bearer, expires_at: ends }),
        (None, None) => None,
    };
    let settings: Settings =
        serde_json::from_value(entry.into()).map_err(|error| ("settings".to_owned(), error.to_string()))?;
    settings.check().map_err(|fault| {
        let field = fault.violations().first().map_or("", |violation| &violation.field);
        (field.trim_start_matches("application_parameter.").to_owned(), fault.message().to_owned())
    })?;
    let uid = uid_of(&id, &settings.app_key, account_id.as_deref(), grant.as_ref());
    Ok(Parameters {
        id,
        uid,
        settings,
        app_secret,
        grant,
        grant_number: 0,
        reauthorization_cause: None,
        granted_scopes: Vec::new(),
        account: account_id.map(|account_id| Account { account_id, ..Account::default() }),
        created_at: now,
        updated_at: now,
        etag: 1,
    })
}

/// The same in every process that reads the same file, and another one when another account may be behind it.
fn uid_of(id: &ParameterId, app_key: &str, account_id: Option<&str>, grant: Option<&Grant>) -> Arc<str> {
    let mut hasher = Sha256::new();
    let token = match (account_id, grant) {
        (Some(account), _) => account,
        (None, Some(Grant::Refreshable(token) | Grant::ShortLived { bearer: token, .. })) => token.reveal(),
        (None, None) => "",
    };
    for part in ["file", id.as_str(), app_key, token] {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hex::encode(&hasher.finalize()[..16]).into()
}

fn read_text(path: &Path, key: &str) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| bad(key, format!("cannot read {}: {error}", path.display())))
}

fn bad(field: &str, text: String) -> Fault {
    Fault::field(field, "MALFORMED", text)
}
