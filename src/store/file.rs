//! Application parameters from a read-only file, as a mounted Kubernetes Secret: TOML, or JSON if its name ends so.
//!
//! ```toml
//! [[application_parameters]]
//! id = "docs"
//! app_key = "…"
//! app_secret_file = "/run/secrets/docs"     # or app_secret
//! refresh_token = "…"                       # or refresh_token_file, access_token, access_token_file
//! proxy = { proxy_kind = "HTTP", address = "proxy.example", port = 3128, username = "me" }
//! proxy_password_file = "/run/secrets/proxy" # or proxy_password
//! account_id = "dbid:…"                     # optional: keeps handles good when the token is replaced
//! policy.allowed_principals = ["billing"]   # and every other setting, by its name in the API
//! ```
//!
//! It and the files it names are looked at again with every turn of the change feed; a broken one is reported and the last
//! good one stays.

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

use super::{Account, Change, Grant, ParameterId, Parameters, unknown::to_the_letter};
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
    looks: Looks,
    parameters: BTreeMap<ParameterId, Kept>,
    /// The file as it now is cannot be used; `parameters` are those of the last one that could.
    broken: bool,
}

struct Kept {
    digest: [u8; 32],
    parameters: Parameters,
}

/// The file and those it names as they looked just before they were read, well or not. A mounted Secret is changed by
/// another folder behind a link, so time and length alone could stay the same.
type Looks = Vec<(PathBuf, Look)>;
type Look = Option<(SystemTime, u64, u64)>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    application_parameters: Vec<serde_json::Map<String, serde_json::Value>>,
}

impl File {
    pub(super) fn read(path: &Path, now: SystemTime) -> Result<Self> {
        let mut looks = Looks::new();
        let parameters = read(path, now, &mut looks)?;
        Ok(Self { path: path.to_owned(), state: Mutex::new(Loaded { looks, parameters, broken: false }) })
    }

    pub(super) fn get(&self, id: &ParameterId) -> Option<Parameters> {
        self.state().parameters.get(id).map(|kept| kept.parameters.clone())
    }

    pub(super) fn list(&self, group: &str, after: &str, limit: usize) -> Vec<Parameters> {
        let state = self.state();
        let all = state.parameters.values().map(|kept| &kept.parameters);
        let wanted = |one: &&Parameters| one.id.as_str() > after && (group.is_empty() || one.settings.group == group);
        all.filter(wanted).take(limit).cloned().collect()
    }

    pub(super) fn require_reauthorization(&self, id: &ParameterId, uid: &str, grant_number: i64, cause: &str) -> bool {
        let mut state = self.state();
        let this = |kept: &&mut Kept| *kept.parameters.uid == *uid && kept.parameters.grant_number == grant_number;
        let Some(kept) = state.parameters.get_mut(id).filter(this) else {
            return false;
        };
        kept.parameters.reauthorization_cause = Some(cause.to_owned());
        true
    }

    pub(super) fn is_good(&self) -> bool {
        !self.state().broken
    }

    pub(super) fn count_reauthorizations(&self) -> u64 {
        self.state().parameters.values().filter(|one| one.parameters.reauthorization_cause.is_some()).count() as u64
    }

    /// Reads the file again if it or a file it names changed, and names what differs. What stayed the same keeps its
    /// bearers, and what Dropbox said about its grant.
    pub(super) fn changes(&self, seq: i64, now: SystemTime) -> Vec<Change> {
        if self.state().looks.iter().all(|(path, before)| look(path) == *before) {
            return Vec::new();
        }
        let mut looks = Looks::new();
        let new = read(&self.path, now, &mut looks);
        if looks.iter().any(|(path, before)| look(path) != *before) {
            // Still being written: half of a file can look like a whole one.
            return Vec::new();
        }
        let mut state = self.state();
        state.looks = looks;
        let new = match new {
            Ok(new) => new,
            Err(fault) => {
                state.broken = true;
                tracing::error!(%fault, "the parameters file is broken; the last good one stays");
                return Vec::new();
            }
        };
        state.broken = false;
        let mut old = std::mem::take(&mut state.parameters);
        let mut changes = Vec::new();
        let mut tell = |parameters: &Parameters| {
            changes.push(Change { seq, id: parameters.id.clone(), uid: (*parameters.uid).to_owned() });
        };
        for (id, kept) in new {
            let kept = match old.remove(&id) {
                Some(same) if same.digest == kept.digest => same,
                former => {
                    // By the former's uid: that is what is remembered of it.
                    tell(&former.as_ref().unwrap_or(&kept).parameters);
                    kept
                }
            };
            state.parameters.insert(id, kept);
        }
        old.values().for_each(|gone| tell(&gone.parameters));
        tracing::info!(changed = changes.len(), "the parameters file was read again");
        changes
    }

    fn state(&self) -> MutexGuard<'_, Loaded> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn look(path: &Path) -> Look {
    let facts = std::fs::metadata(path).ok()?;
    #[cfg(unix)]
    let inode = std::os::unix::fs::MetadataExt::ino(&facts);
    #[cfg(not(unix))]
    let inode = 0;
    Some((facts.modified().ok()?, facts.len(), inode))
}

fn read(path: &Path, now: SystemTime, looks: &mut Looks) -> Result<BTreeMap<ParameterId, Kept>> {
    let text = Zeroizing::new(read_text(path, "parameters_file", looks)?);
    // Whoever writes a file anew empties it first; all parameters gone at once is hardly ever meant.
    if text.is_empty() {
        let text =
            format!("{} is empty, as one that is being written; a comment says that it is meant", path.display());
        return Err(bad("parameters_file", text));
    }
    let json = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("json"));
    // A parser's message may quote a line of the file, and with it a secret: only its place is told.
    let document: Document = if json {
        serde_json::from_str(&text).map_err(|error| {
            bad("parameters_file", format!("{} line {}: not the expected JSON", path.display(), error.line()))
        })?
    } else {
        Figment::from(Toml::string(&text)).extract().map_err(|error| {
            bad("parameters_file", format!("{}: not the expected TOML: {}", path.display(), cause(&error)))
        })?
    };
    let mut all = BTreeMap::new();
    for (index, entry) in document.application_parameters.into_iter().enumerate() {
        let parameters = parameters_of(entry, now, looks)
            .map_err(|(field, text)| bad(&format!("parameters_file.application_parameters[{index}].{field}"), text))?;
        let id = parameters.id.clone();
        let kept = Kept { digest: digest(&parameters), parameters };
        if all.insert(id.clone(), kept).is_some() {
            return Err(bad(
                &format!("parameters_file.application_parameters[{index}].id"),
                format!("{id} stands twice"),
            ));
        }
    }
    Ok(all)
}

/// What is wrong with TOML, and where: never the line itself, nor a value.
fn cause(error: &figment::Error) -> String {
    use figment::error::Kind;
    let place = if error.path.is_empty() { String::new() } else { format!("{}: ", error.path.join(".")) };
    match &error.kind {
        // "TOML parse error at line 3, column 7", the line with a mark beneath it, and the causes.
        Kind::Message(text) => {
            let is_mark = |line: &&str| line.trim_start().starts_with('|') && line.contains('^');
            let causes = text.lines().skip_while(|line| !is_mark(line)).skip(1);
            let told: Vec<String> = text.lines().take(1).chain(causes).map(without_quotes).collect();
            format!("{place}{}", told.join(": "))
        }
        Kind::InvalidType(_, wanted) | Kind::InvalidValue(_, wanted) => format!("{place}must be {wanted}"),
        Kind::UnknownField(key, _) => format!("{key} is not taken: only [[application_parameters]] stand in it"),
        _ => format!("{place}only [[application_parameters]] stand in it, with their keys"),
    }
}

/// What a parser quotes may be a secret; single characters that it wants are not.
fn without_quotes(text: &str) -> String {
    let mut told = String::new();
    for (index, part) in text.split('`').enumerate() {
        let quoted = index % 2 == 1;
        match quoted {
            true if part.chars().count() > 1 => told.push_str("(…)"),
            true => told.push_str(&format!("`{part}`")),
            false => told.push_str(part),
        }
    }
    told
}

/// Of all that the file says about one.
fn digest(parameters: &Parameters) -> [u8; 32] {
    let mut hasher = Sha256::new();
    let mut add = |part: &[u8]| {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    };
    add(format!("{:?}", parameters.settings).as_bytes());
    add(parameters.uid.as_bytes());
    for secret in [&parameters.app_secret, &parameters.proxy_password].into_iter().flatten() {
        add(secret.reveal().as_bytes());
    }
    add(&[u8::from(parameters.app_secret.is_some()), u8::from(parameters.proxy_password.is_some())]);
    match &parameters.grant {
        Some(Grant::Refreshable(token)) => add(token.reveal().as_bytes()),
        Some(Grant::ShortLived { bearer, expires_at }) => {
            add(bearer.reveal().as_bytes());
            add(format!("{expires_at:?}").as_bytes());
        }
        None => {}
    }
    hasher.finalize().into()
}

type Wrong = (String, String);

fn parameters_of(
    mut entry: serde_json::Map<String, serde_json::Value>,
    now: SystemTime,
    looks: &mut Looks,
) -> Result<Parameters, Wrong> {
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
                let text = read_text(Path::new(&path), &file_key, looks)
                    .map_err(|fault| (file_key, fault.message().to_owned()))?;
                let text = Zeroizing::new(text);
                Ok(Some(Secret::new(text.trim().to_owned())))
            }
            (None, None) => Ok(None),
        }
    };
    let (app_secret, refresh) = (take_secret("app_secret")?, take_secret("refresh_token")?);
    let (access, proxy_password) = (take_secret("access_token")?, take_secret("proxy_password")?);
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
    let settings = to_the_letter(entry.into()).map_err(|text| ("settings".to_owned(), text))?;
    settings.check().and_then(|()| settings.check_proxy_password(proxy_password.as_ref())).map_err(|fault| {
        let field = fault.violations().first().map_or("", |violation| &violation.field);
        (field.trim_start_matches("application_parameter.").to_owned(), fault.message().to_owned())
    })?;
    let uid = uid_of(&id, &settings.app_key, account_id.as_deref(), grant.as_ref());
    Ok(Parameters {
        id,
        uid,
        settings,
        app_secret,
        proxy_password,
        grant_number: grant.as_ref().map_or(0, number_of),
        grant,
        reauthorization_cause: None,
        missing_key: None,
        of_file: true,
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

/// Grants of a file are numbered by what they are: what Dropbox said of a token that was replaced does not hit the next one.
/// `account_id` may keep the uid the same.
fn number_of(grant: &Grant) -> i64 {
    let (Grant::Refreshable(token) | Grant::ShortLived { bearer: token, .. }) = grant;
    let digest = Sha256::new().chain_update("grant").chain_update(token.reveal()).finalize();
    let mut number = [0; 8];
    number.copy_from_slice(&digest[..8]);
    // The sign is of no use, and 0 is no grant.
    (i64::from_be_bytes(number) & i64::MAX).max(1)
}

fn read_text(path: &Path, key: &str, looks: &mut Looks) -> Result<String> {
    looks.push((path.to_owned(), look(path)));
    std::fs::read_to_string(path).map_err(|error| bad(key, format!("cannot read {}: {error}", path.display())))
}

fn bad(field: &str, text: String) -> Fault {
    Fault::field(field, "MALFORMED", text)
}
