//! What may be done: permissions, which class each RPC is of, and the patterns by which principals are named.

use std::{fmt, ops::BitOr};

use serde::{Deserialize, Serialize};

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
    ("AcknowledgeEvents", Class::Needs(Permission::Events)),
    ("BeginAuthorization", Class::Admin),
    ("CallApi", Class::Needs(Permission::Raw)),
    ("CommitUploads", Class::Needs(Permission::Write)),
    ("CompleteAuthorization", Class::Admin),
    ("CopyItem", Class::Needs(Permission::Write)),
    ("CreateApplicationParameter", Class::Admin),
    ("CreateFolder", Class::Needs(Permission::Write)),
    ("CreateSharedLink", Class::Needs(Permission::Share)),
    ("DeleteApplicationParameter", Class::Admin),
    ("DeleteItem", Class::Needs(Permission::Delete)),
    ("DownloadFile", Class::Needs(Permission::Read)),
    ("GetAccount", Class::Needs(Permission::Read)),
    ("GetApplicationParameter", Class::Admin),
    ("GetEventToken", Class::Needs(Permission::Events)),
    ("GetFileLink", Class::Needs(Permission::Share)),
    ("GetItem", Class::Needs(Permission::Read)),
    ("GetServerInfo", Class::Anyone),
    ("GetUploadStatus", Class::Needs(Permission::Write)),
    ("ImportCredentials", Class::Admin),
    ("ListApplicationParameters", Class::Admin),
    ("ListFolder", Class::Needs(Permission::Read)),
    ("ListSharedLinks", Class::Needs(Permission::Share)),
    ("MoveItem", Class::Needs(Permission::Write)),
    ("PlanSync", Class::Needs(Permission::Read)),
    ("PullEvents", Class::Needs(Permission::Events)),
    ("RevokeAuthorization", Class::Admin),
    ("RevokeSharedLink", Class::Needs(Permission::Share)),
    ("SearchItems", Class::Needs(Permission::Read)),
    ("StartUpload", Class::Needs(Permission::Write)),
    ("TestApplicationParameter", Class::Admin),
    ("UpdateApplicationParameter", Class::Admin),
    ("UploadFile", Class::Needs(Permission::Write)),
    ("UploadFileDuplex", Class::Needs(Permission::Write)),
    ("WalkFolder", Class::Needs(Permission::Read)),
    ("WatchEvents", Class::Needs(Permission::Events)),
];

/// The class of an RPC; `None` for one that no table row names, which must then be refused.
pub fn class(rpc: &str) -> Option<Class> {
    CLASSES.binary_search_by(|(name, _)| name.cmp(&rpc)).ok().map(|at| CLASSES[at].1)
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

pub(super) fn matches_any(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(stem) => name.starts_with(stem),
        None => pattern == name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
