//! What an application parameter is: what an administrator sets, and what the connector adds. Values only, no SQL.
//! Secrets are `Secret`; everything else may be shown.

use std::{borrow::Cow, collections::BTreeMap, fmt, sync::Arc, time::Duration, time::SystemTime};

use serde::{Deserialize, Serialize};

use super::{ProxySettings, Rare};
use crate::{
    access::{Permission, Permissions, check_pattern},
    config::check_redirect_uri,
    fault::{Fault, Reason, Result},
    secret::Secret,
};

/// `[a-z]([a-z0-9-]{0,61}[a-z0-9])?`
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParameterId(Arc<str>);

impl ParameterId {
    /// # Errors
    /// `INVALID_FIELD` naming `application_parameter_id`.
    pub fn new(text: &str) -> Result<Self> {
        let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        let bytes = text.as_bytes();
        let good = (1..=63).contains(&bytes.len())
            && bytes[0].is_ascii_lowercase()
            && bytes[bytes.len() - 1] != b'-'
            && bytes.iter().copied().all(inner);
        if good {
            return Ok(Self(text.into()));
        }
        let (reason, description) = match text {
            "" => ("REQUIRED", "name the application parameter, here or in the metadata x-application-parameter-id"),
            _ => ("MALFORMED", "1 to 63 of a-z, 0-9 and -, beginning with a letter and not ending with -"),
        };
        Err(Fault::field("application_parameter_id", reason, description))
    }

    /// As a row names it: it was checked by whoever wrote the row.
    pub(super) fn of_row(text: &str) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same text, shared.
    pub fn name(&self) -> Arc<str> {
        self.0.clone()
    }
}

impl fmt::Display for ParameterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ParameterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// One application parameter as stored.
#[derive(Debug, Clone)]
pub struct Parameters {
    pub id: ParameterId,
    /// Random, new at each creation: handles are bound to it.
    pub uid: Arc<str>,
    pub settings: Settings,
    /// None: PKCE only.
    pub app_secret: Option<Secret<String>>,
    pub proxy_password: Option<Secret<String>>,
    pub grant: Option<Grant>,
    /// Rises with each new grant.
    pub grant_number: i64,
    /// Set when Dropbox refused the grant: the cause it gave.
    pub reauthorization_cause: Option<String>,
    /// The key that sealed its secrets and is not in the ring.
    pub missing_key: Option<Box<str>>,
    /// It comes from the parameters file, and only that can be changed.
    pub of_file: bool,
    pub granted_scopes: Vec<String>,
    pub account: Option<Account>,
    pub created_at: SystemTime,
    pub updated_at: SystemTime,
    pub etag: i64,
}

impl Parameters {
    pub fn state(&self) -> State {
        if self.settings.disabled {
            State::Disabled
        } else if self.reauthorization_cause.is_some() {
            State::ReauthorizationRequired
        } else if self.grant.is_none() {
            State::Pending
        } else {
            State::Active
        }
    }

    /// Empty while no account is known.
    pub fn account_id(&self) -> &str {
        self.account.as_ref().map_or("", |account| account.account_id.as_str())
    }

    /// Who is linked: the team of a team link, whichever member it acts as, else the account; empty while nobody knows.
    pub fn linked_to(&self) -> &str {
        self.account.as_ref().map_or("", |account| account.linked_to(self.settings.account_kind))
    }

    /// What sealed handles are bound to beside `uid`: the account. Of an account that nobody knows, the grant: whether the next
    /// one is for the same account cannot be told, and what was made for one account must not open for another.
    pub fn bound_to(&self) -> Cow<'_, str> {
        match self.account_id() {
            "" => format!("grant {}", self.grant_number).into(),
            account => account.into(),
        }
    }
}

/// How an application parameter gets bearers.
#[derive(Debug, Clone)]
pub enum Grant {
    /// A refresh token.
    Refreshable(Secret<String>),
    /// An access token that nothing can renew. `expires_at` is unset for tokens of the old kind, which do not end.
    ShortLived { bearer: Secret<String>, expires_at: Option<SystemTime> },
}

/// What the fleet's last renewal gave.
#[derive(Debug, Clone)]
pub struct Renewal {
    pub bearer: Secret<String>,
    pub expires_at: Option<SystemTime>,
    pub generation: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// No Dropbox account is linked yet.
    Pending,
    Active,
    /// Dropbox refused the grant; an administrator must connect the account again.
    ReauthorizationRequired,
    Disabled,
}

impl State {
    /// The wire name: `REAUTHORIZATION_REQUIRED`.
    pub fn name(self) -> &'static str {
        match self {
            State::Pending => "PENDING",
            State::Active => "ACTIVE",
            State::ReauthorizationRequired => "REAUTHORIZATION_REQUIRED",
            State::Disabled => "DISABLED",
        }
    }
}

/// Which Dropbox account is linked, as Dropbox named it last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Account {
    /// `dbid:…`; for a team link without a member the team's id.
    pub account_id: String,
    pub display_name: String,
    pub email: String,
    pub team_id: String,
    pub root_namespace_id: String,
    pub home_namespace_id: String,
}

impl Account {
    /// Whose grant it is.
    pub fn linked_to(&self, kind: AccountKind) -> &str {
        match kind {
            AccountKind::Team if !self.team_id.is_empty() => &self.team_id,
            AccountKind::Team | AccountKind::User => &self.account_id,
        }
    }
}

/// What an administrator sets. The names are those of the proto. A row may hold more than this version knows; whoever reads
/// what a person wrote asks `unknown.rs` what was not understood.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    pub display_name: String,
    pub group: String,
    pub labels: BTreeMap<String, String>,
    pub app_source: AppSource,
    pub app_key: String,
    pub account_kind: AccountKind,
    pub access_type: AccessType,
    pub scopes: Vec<String>,
    /// Where Dropbox may send a browser back to, besides the server's own.
    pub redirect_uris: Vec<String>,
    /// The jail: absolute, no `/` at its end; empty for none.
    pub path_prefix: String,
    pub default_path_root: PathRoot,
    pub default_act_as: Option<Member>,
    pub timeouts: Rare<Timeouts>,
    pub proxy: Rare<ProxySettings>,
    pub policy: Rare<Policy>,
    pub disabled: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AppSource {
    SharedApp,
    #[default]
    OwnApp,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AccountKind {
    #[default]
    User,
    Team,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AccessType {
    #[default]
    Full,
    AppFolder,
}

/// What paths are relative to unless a request narrows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PathRoot {
    /// The account's root namespace, asked of Dropbox and asked again when it changed.
    #[default]
    Auto,
    Home,
    Namespace {
        namespace_id: String,
    },
}

/// As whom a team link acts: a team member id or an e-mail address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Member {
    SelectUser(String),
    SelectAdmin(String),
}

/// Unset means the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Timeouts {
    #[serde(with = "seconds")]
    pub connect: Option<Duration>,
    #[serde(with = "seconds")]
    pub request: Option<Duration>,
    #[serde(with = "seconds")]
    pub idle_read: Option<Duration>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// Patterns; empty admits nobody.
    pub allowed_principals: Vec<String>,
    /// Empty: READ, WRITE, DELETE, SHARE, EVENTS.
    pub permissions: Vec<Permission>,
    pub act_as: ActAsMode,
    pub act_as_members: Vec<String>,
    pub allow_path_root: bool,
    /// Routes `CallApi` may run though an RPC exists for them, or though they are denied by default.
    pub raw_allow: Vec<String>,
    /// Bytes; 0 is no limit.
    pub max_file_size: u64,
    /// Dropbox requests in flight; 0 is the server's default.
    pub max_concurrency: u32,
    /// Each way, in each process; 0 is no limit.
    pub max_bytes_per_second: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ActAsMode {
    #[default]
    None,
    Listed,
    Any,
}

impl Policy {
    pub fn granted(&self) -> Permissions {
        if self.permissions.is_empty() {
            return Permissions::default_grant();
        }
        self.permissions.iter().copied().collect()
    }
}

const TEXT_BYTES_MAX: usize = 4096;
const PATH_BYTES_MAX: usize = 2048;
const LIST_MAX: usize = 1000;
const REDIRECT_URIS_MAX: usize = 32;
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);

impl Settings {
    /// # Errors
    /// `INVALID_FIELD` with every violation; field names begin with `application_parameter.`.
    pub fn check(&self) -> Result<()> {
        let mut bad: Vec<(String, &'static str, String)> = Vec::new();
        let mut say = |field: &str, reason, text: &str| bad.push((field.to_owned(), reason, text.to_owned()));
        if self.app_source == AppSource::SharedApp {
            if !self.app_key.is_empty() {
                say(
                    "app_key",
                    "CONFLICT",
                    "the key of the shared app is in the server's configuration; leave it empty",
                );
            }
        } else if self.app_key.is_empty() {
            say("app_key", "REQUIRED", "the key of the Dropbox app");
        } else if self.app_key.len() > 64
            || !self.app_key.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_')
        {
            say("app_key", "MALFORMED", "an app key has letters and digits only");
        }
        for (field, text) in [("display_name", &self.display_name), ("group", &self.group)] {
            if text.len() > TEXT_BYTES_MAX {
                say(field, "OUT_OF_RANGE", "at most 4 KiB");
            }
            if text.contains('\0') {
                say(field, "MALFORMED", "a text without NUL characters");
            }
        }
        if self.labels.len() > 64
            || self.labels.iter().any(|(key, value)| key.is_empty() || key.len() > 256 || value.len() > 1024)
        {
            say("labels", "OUT_OF_RANGE", "at most 64, keys of 1 to 256 bytes, values up to 1 KiB");
        }
        let lists = [
            ("scopes", &self.scopes),
            ("policy.allowed_principals", &self.policy.allowed_principals),
            ("policy.act_as_members", &self.policy.act_as_members),
            ("policy.raw_allow", &self.policy.raw_allow),
        ];
        for (field, list) in lists {
            if list.len() > LIST_MAX || list.iter().any(|entry| entry.is_empty() || entry.len() > TEXT_BYTES_MAX) {
                say(field, "OUT_OF_RANGE", "at most 1000 entries of 1 byte to 4 KiB");
            }
        }
        if self.redirect_uris.len() > REDIRECT_URIS_MAX {
            say("redirect_uris", "OUT_OF_RANGE", "at most 32");
        }
        for (index, uri) in self.redirect_uris.iter().enumerate() {
            if let Err(text) = check_redirect_uri(uri) {
                say(&format!("redirect_uris[{index}]"), "MALFORMED", text);
            }
        }
        for (index, pattern) in self.policy.allowed_principals.iter().enumerate() {
            if let Err(text) = check_pattern(pattern) {
                say(&format!("policy.allowed_principals[{index}]"), "MALFORMED", text);
            }
        }
        let prefix = &self.path_prefix;
        let segments_good =
            || prefix.split('/').skip(1).all(|name| !matches!(name, "" | "." | "..") && !name.contains('\0'));
        if !prefix.is_empty() && (!prefix.starts_with('/') || prefix.len() > PATH_BYTES_MAX || !segments_good()) {
            say("path_prefix", "MALFORMED", "an absolute path of at most 2 KiB without . and .., no / at its end");
        }
        if let PathRoot::Namespace { namespace_id } = &self.default_path_root
            && (namespace_id.is_empty()
                || namespace_id.len() > 64
                || !namespace_id.bytes().all(|c| c.is_ascii_alphanumeric()))
        {
            say("default_path_root.namespace_id", "MALFORMED", "the digits of a Dropbox namespace id");
        }
        if let Some(Member::SelectUser(member) | Member::SelectAdmin(member)) = &self.default_act_as {
            if member.is_empty() || member.len() > 255 {
                say("default_act_as", "MALFORMED", "a team member id or an e-mail address");
            }
            if self.account_kind != AccountKind::Team {
                say("default_act_as", "NOT_ALLOWED", "only a team link acts as a member; set account_kind to TEAM");
            }
        }
        let Timeouts { connect, request, idle_read } = *self.timeouts;
        for (field, span) in [("connect", connect), ("request", request), ("idle_read", idle_read)] {
            if span.is_some_and(|span| span.is_zero() || span > TIMEOUT_MAX) {
                say(&format!("timeouts.{field}"), "OUT_OF_RANGE", "more than nothing and at most an hour");
            }
        }
        self.proxy.check(|field, reason, text| bad.push((field.to_owned(), reason, text.to_owned())));
        let mut bad =
            bad.into_iter().map(|(field, reason, text)| (format!("application_parameter.{field}"), reason, text));
        let Some((field, reason, text)) = bad.next() else { return Ok(()) };
        let fault = Fault::new(Reason::InvalidField, format!("{field}: {text}")).violation(field, reason, text);
        Err(bad.fold(fault, |fault, (field, reason, text)| fault.violation(field, reason, text)))
    }
}

/// Durations in a file are seconds, whole or not.
mod seconds {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    #[expect(clippy::ref_option, reason = "the signature serde asks for")]
    pub(super) fn serialize<S: Serializer>(span: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match span {
            Some(span) => serializer.serialize_some(&span.as_secs_f64()),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Option::<f64>::deserialize(deserializer)?
            .map(|seconds| Duration::try_from_secs_f64(seconds).map_err(D::Error::custom))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_one_form() {
        for good in ["a", "docs", "a-1", &"a".repeat(63)] {
            assert_eq!(ParameterId::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "A", "1a", "-a", "a-", "a_b", "ä", &"a".repeat(64)] {
            assert_eq!(ParameterId::new(bad).unwrap_err().violations()[0].field, "application_parameter_id");
        }
    }

    #[test]
    fn settings_survive_json_and_every_wrong_field_is_named_at_once() {
        let good = Settings {
            app_key: "abc123".into(),
            default_path_root: PathRoot::Namespace { namespace_id: "12".into() },
            timeouts: Timeouts { connect: Some(Duration::from_millis(1500)), ..Timeouts::default() }.into(),
            policy: Policy { permissions: vec![Permission::Raw], ..Policy::default() }.into(),
            ..Settings::default()
        };
        good.check().unwrap();
        let json = serde_json::to_string(&good).unwrap();
        assert_eq!(serde_json::from_str::<Settings>(&json).unwrap(), good);

        let wrong = Settings {
            path_prefix: "/a/../b".into(),
            default_act_as: Some(Member::SelectUser(String::new())),
            timeouts: Timeouts { request: Some(Duration::ZERO), ..Timeouts::default() }.into(),
            policy: Policy { allowed_principals: vec!["a*b".into()], ..Policy::default() }.into(),
            ..Settings::default()
        };
        let fault = wrong.check().unwrap_err();
        let fields: Vec<&str> = fault.violations().iter().map(|violation| &violation.field[22..]).collect();
        let expected = [
            "app_key",
            "policy.allowed_principals[0]",
            "path_prefix",
            "default_act_as",
            "default_act_as",
            "timeouts.request",
        ];
        assert_eq!(fields, expected);
    }
}
