//! Who is calling and may they: static tokens, principals, patterns, permissions, and which class each RPC is of.
//! It answers for our own door only; what Dropbox thinks of a grant is never a matter of this file. No HTTP or gRPC type
//! is known here. Tokens are kept as SHA-256 and compared in constant time.

use std::{collections::BTreeMap, fmt, ops::BitOr, sync::Arc};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    config::{AuthMode, Config},
    fault::{Fault, Reason, Result},
};

/// Who called us, once the door let them in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    name: Arc<str>,
    admin: bool,
    open_door: bool,
}

/// What an application parameter's policy may grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[repr(u8)]
pub enum Permission {
    Read,
    Write,
    Delete,
    Share,
    Events,
    Team,
    Raw,
}

/// A set of permissions, as one request may need several: `Permission::Write | Permission::Share`.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Permissions(u8);

/// What it takes to call an RPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// This permission in the policy of the application parameter it names.
    Needs(Permission),
    /// `admin_principals`.
    Admin,
    /// Whoever the listener admits.
    Anyone,
}

/// The class of each RPC by its name (API-DESIGN a.12). `CallApi` needs RAW in addition to the class of its route, and an
/// upload that asks for a link needs SHARE in addition to WRITE: the service adds those.
pub const CLASSES: &[(&str, Class)] = &[
    ("CallApi", Class::Needs(Permission::Raw)),
    ("CopyItem", Class::Needs(Permission::Write)),
    ("CreateApplicationParameter", Class::Admin),
    ("CreateFolder", Class::Needs(Permission::Write)),
    ("CreateSharedLink", Class::Needs(Permission::Share)),
    ("DeleteApplicationParameter", Class::Admin),
    ("DeleteItem", Class::Needs(Permission::Delete)),
    ("DownloadFile", Class::Needs(Permission::Read)),
    ("GetAccount", Class::Needs(Permission::Read)),
    ("GetApplicationParameter", Class::Admin),
    ("GetFileLink", Class::Needs(Permission::Share)),
    ("GetItem", Class::Needs(Permission::Read)),
    ("GetServerInfo", Class::Anyone),
    ("GetUploadStatus", Class::Needs(Permission::Write)),
    ("ImportCredentials", Class::Admin),
    ("ListApplicationParameters", Class::Admin),
    ("ListFolder", Class::Needs(Permission::Read)),
    ("ListSharedLinks", Class::Needs(Permission::Share)),
    ("MoveItem", Class::Needs(Permission::Write)),
    ("RevokeSharedLink", Class::Needs(Permission::Share)),
    ("SearchItems", Class::Needs(Permission::Read)),
    ("StartUpload", Class::Needs(Permission::Write)),
    ("TestApplicationParameter", Class::Admin),
    ("UpdateApplicationParameter", Class::Admin),
    ("UploadFile", Class::Needs(Permission::Write)),
    ("UploadFileDuplex", Class::Needs(Permission::Write)),
    ("WalkFolder", Class::Needs(Permission::Read)),
];

/// The class of an RPC; `None` for one that no table row names, which must then be refused.
pub fn class(rpc: &str) -> Option<Class> {
    CLASSES.binary_search_by(|(name, _)| name.cmp(&rpc)).ok().map(|at| CLASSES[at].1)
}

/// The door: turns an `authorization` value into a principal.
#[derive(Clone)]
pub struct Authenticator {
    mode: AuthMode,
    tokens: Arc<[(Arc<str>, [u8; 32])]>,
    admins: Arc<[String]>,
}

impl Authenticator {
    /// As the configuration says.
    ///
    /// # Errors
    /// As [`Authenticator::new`].
    pub fn from_config(config: &Config) -> Result<Self> {
        let tokens = config.auth_tokens.iter().map(|token| (token.principal.clone(), token.sha256.clone())).collect();
        Self::new(config.auth_mode, &tokens, &config.admin_principals)
    }

    /// `tokens`: principal name → lowercase hex SHA-256 of its token. `admins`: patterns of the principals that may call
    /// the admin service.
    ///
    /// # Errors
    /// `INVALID_FIELD` naming the configuration key: a hash that is none, a pattern with `*` elsewhere than at its end,
    /// mode `token` without a token.
    pub fn new(mode: AuthMode, tokens: &BTreeMap<String, String>, admins: &[String]) -> Result<Self> {
        let mut hashes = Vec::with_capacity(tokens.len());
        for (name, hash) in tokens {
            let mut bytes = [0u8; 32];
            if name.is_empty() || hex::decode_to_slice(hash.trim(), &mut bytes).is_err() {
                let text = "name a principal and give the SHA-256 of its token as 64 hex digits";
                return Err(Fault::field(format!("auth_tokens.{name}"), "MALFORMED", text));
            }
            hashes.push((Arc::from(name.as_str()), bytes));
        }
        if mode == AuthMode::Token && hashes.is_empty() {
            return Err(Fault::field("auth_tokens", "REQUIRED", "mode token needs at least one token"));
        }
        for pattern in admins {
            check_pattern(pattern).map_err(|text| Fault::field("admin_principals", "MALFORMED", text))?;
        }
        Ok(Self { mode, tokens: hashes.into(), admins: admins.into() })
    }

    /// A door that asks nobody: everyone is admin.
    pub fn open_door() -> Self {
        Self { mode: AuthMode::None, tokens: Arc::new([]), admins: Arc::new([]) }
    }

    /// Who sends this `authorization` value.
    ///
    /// # Errors
    /// `CALLER_UNAUTHENTICATED`; it never says whether a token was nearly right.
    pub fn authenticate(&self, authorization: Option<&str>) -> Result<Principal> {
        if self.mode == AuthMode::None {
            return Ok(Principal { name: "anonymous".into(), admin: true, open_door: true });
        }
        let value = authorization.ok_or_else(|| unauthenticated("the call carries no authorization metadata"))?;
        let token = match value.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
            _ => return Err(unauthenticated("the authorization metadata is not `Bearer <token>`")),
        };
        let digest: [u8; 32] = Sha256::digest(token).into();
        let mut found = None;
        // Every entry is compared whole, found or not.
        for (name, hash) in &*self.tokens {
            if same(hash, &digest) {
                found = Some(name);
            }
        }
        let name = found.ok_or_else(|| unauthenticated("the token is not one this server knows"))?;
        Ok(Principal { name: name.clone(), admin: matches_any(&self.admins, name), open_door: false })
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator").field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl Principal {
    /// One that proved its name, for what acts inside the process and for tests.
    pub fn named(name: &str, admin: bool) -> Self {
        Self { name: name.into(), admin, open_door: false }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// May call the admin service, and may learn which ids exist.
    pub fn is_admin(&self) -> bool {
        self.admin
    }

    /// Is one of `allowed`. With mode `none` the list is not looked at.
    pub fn is_one_of(&self, allowed: &[String]) -> bool {
        self.open_door || matches_any(allowed, &self.name)
    }

    /// # Errors
    /// `CALLER_NOT_ALLOWED`.
    pub fn require_admin(&self) -> Result<()> {
        if self.admin {
            return Ok(());
        }
        Err(Fault::new(Reason::CallerNotAllowed, "this principal may not call the admin service")
            .fact("permission", "ADMIN"))
    }
}

impl Permission {
    pub const ALL: [Permission; 7] = [
        Permission::Read,
        Permission::Write,
        Permission::Delete,
        Permission::Share,
        Permission::Events,
        Permission::Team,
        Permission::Raw,
    ];

    /// The wire name: `READ`.
    pub fn name(self) -> &'static str {
        match self {
            Permission::Read => "READ",
            Permission::Write => "WRITE",
            Permission::Delete => "DELETE",
            Permission::Share => "SHARE",
            Permission::Events => "EVENTS",
            Permission::Team => "TEAM",
            Permission::Raw => "RAW",
        }
    }
}

impl Permissions {
    /// What a policy without permissions grants: all but TEAM and RAW.
    pub fn default_grant() -> Self {
        Permission::Read | Permission::Write | Permission::Delete | Permission::Share | Permission::Events
    }

    pub fn contains(self, permission: Permission) -> bool {
        self.0 & (1 << permission as u8) != 0
    }

    /// Those of `self` that `granted` lacks; empty if all are there.
    pub fn missing_from(self, granted: Permissions) -> Permissions {
        Permissions(self.0 & !granted.0)
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn iter(self) -> impl Iterator<Item = Permission> {
        Permission::ALL.into_iter().filter(move |permission| self.contains(*permission))
    }
}

impl From<Permission> for Permissions {
    fn from(permission: Permission) -> Self {
        Permissions(1 << permission as u8)
    }
}

impl FromIterator<Permission> for Permissions {
    fn from_iter<I: IntoIterator<Item = Permission>>(permissions: I) -> Self {
        permissions.into_iter().fold(Permissions::default(), |all, one| all | one)
    }
}

impl<P: Into<Permissions>> BitOr<P> for Permissions {
    type Output = Permissions;

    fn bitor(self, other: P) -> Permissions {
        Permissions(self.0 | other.into().0)
    }
}

impl<P: Into<Permissions>> BitOr<P> for Permission {
    type Output = Permissions;

    fn bitor(self, other: P) -> Permissions {
        Permissions::from(self) | other
    }
}

impl fmt::Debug for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(Permission::name)).finish()
    }
}

/// A pattern is an exact name, or ends in one `*`.
///
/// # Errors
/// What is wrong with it, in words.
pub fn check_pattern(pattern: &str) -> Result<(), &'static str> {
    let stem = pattern.strip_suffix('*').unwrap_or(pattern);
    if pattern.is_empty() {
        return Err("a pattern is not empty");
    }
    if stem.contains('*') {
        return Err("a pattern is an exact name, or ends in one *");
    }
    Ok(())
}

fn matches_any(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(stem) => name.starts_with(stem),
        None => pattern == name,
    })
}

/// Equality in a time that does not depend on where two hashes differ.
fn same(one: &[u8; 32], other: &[u8; 32]) -> bool {
    let difference = one.iter().zip(other).fold(0u8, |difference, (a, b)| difference | (a ^ b));
    std::hint::black_box(difference) == 0
}

fn unauthenticated(message: &str) -> Fault {
    Fault::new(Reason::CallerUnauthenticated, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(admins: &[&str]) -> Authenticator {
        let tokens = [("billing", "billing-token"), ("ops-1", "ops-token")]
            .map(|(name, token)| (name.to_owned(), hex::encode(Sha256::digest(token))));
        let admins: Vec<String> = admins.iter().map(|&admin| admin.to_owned()).collect();
        Authenticator::new(AuthMode::Token, &tokens.into(), &admins).unwrap()
    }

    #[test]
    fn a_token_names_its_principal_and_nothing_else_opens_the_door() {
        let door = door(&["ops-*"]);
        let ops = door.authenticate(Some("bearer ops-token")).unwrap();
        assert_eq!((ops.name(), ops.is_admin()), ("ops-1", true));
        let billing = door.authenticate(Some("Bearer billing-token")).unwrap();
        assert_eq!((billing.name(), billing.is_admin()), ("billing", false));
        assert_eq!(billing.require_admin().unwrap_err().reason(), Reason::CallerNotAllowed);
        for value in
            [None, Some(""), Some("Bearer"), Some("Bearer "), Some("Basic ops-token"), Some("Bearer ops-tokem")]
        {
            let fault = door.authenticate(value).unwrap_err();
            assert_eq!(fault.reason(), Reason::CallerUnauthenticated);
            assert!(!format!("{fault:?}").contains("ops-tok"), "{fault:?}");
        }
        assert!(!format!("{door:?}").contains("billing"));
    }

    #[test]
    fn a_bad_door_is_refused_by_the_name_of_its_key() {
        let key = |result: Result<Authenticator>| result.unwrap_err().violations()[0].field.clone();
        assert_eq!(key(Authenticator::new(AuthMode::Token, &BTreeMap::new(), &[])), "auth_tokens");
        let short = BTreeMap::from([("a".to_owned(), "abcd".to_owned())]);
        assert_eq!(key(Authenticator::new(AuthMode::Token, &short, &[])), "auth_tokens.a");
        assert_eq!(key(Authenticator::new(AuthMode::None, &BTreeMap::new(), &["a*b".to_owned()])), "admin_principals");
    }

    #[test]
    fn an_open_door_asks_nobody() {
        let open = Authenticator::open_door();
        assert!(open.authenticate(None).unwrap().is_admin());
        assert!(open.authenticate(None).unwrap().is_one_of(&[]));
    }

    #[test]
    fn patterns_are_exact_or_end_in_one_star() {
        let allowed = |patterns: &[&str], name: &str| {
            let patterns: Vec<String> = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
            Principal::named(name, false).is_one_of(&patterns)
        };
        assert!(allowed(&["spiffe://a/*"], "spiffe://a/b"));
        assert!(allowed(&["x", "billing"], "billing"));
        assert!(allowed(&["*"], "anyone"));
        assert!(!allowed(&["billing"], "billing-2"));
        assert!(!allowed(&["billing"], "Billing"));
        assert!(!allowed(&[], "billing"));
        assert!(check_pattern("a**").is_err() && check_pattern("").is_err() && check_pattern("*a").is_err());
        assert!(check_pattern("*").is_ok() && check_pattern("a*").is_ok());
    }

    #[test]
    fn permissions_are_a_set() {
        let need = Permission::Write | Permission::Share;
        assert!(need.missing_from(Permissions::default_grant()).is_empty());
        let missing = (need | Permission::Raw).missing_from(Permissions::default_grant());
        assert_eq!(missing.iter().collect::<Vec<_>>(), [Permission::Raw]);
        assert_eq!(format!("{need:?}"), r#"{"WRITE", "SHARE"}"#);
    }

    #[test]
    fn the_table_of_classes_is_sorted_and_knows_no_stranger() {
        assert!(CLASSES.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!(class("DeleteItem"), Some(Class::Needs(Permission::Delete)));
        assert_eq!(class("GetServerInfo"), Some(Class::Anyone));
        assert_eq!(class("ImportCredentials"), Some(Class::Admin));
        assert_eq!(class("FormatDisk"), None);
    }
}
