//! What is watched, and a place in its changes. A place is bound to its scope: a token of one scope opens for no other.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::token;
use crate::{
    dropbox::{ActAs, Root},
    fault::{Fault, Reason, Result},
    seal::{HandleKind, KeyRing, Owner},
    store::{LogHead, ParameterId, Parameters},
};

/// One folder as one application parameter sees it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scope {
    pub parameter: ParameterId,
    /// Never used again, unlike the id.
    pub uid: Arc<str>,
    /// The account whose changes these are: the linked one, or the member acted for.
    pub account: Arc<str>,
    /// What the parameter is linked to; it binds handles.
    pub linked: Arc<str>,
    pub act_as: Option<ActAs>,
    pub root: Option<Root>,
    /// As Dropbox takes it: empty for the root.
    pub path: Arc<str>,
    pub recursive: bool,
    /// Entries as Dropbox tells them, neither classified nor joined to moves. Such a scope has no index, and a log of its own.
    pub raw: bool,
}

impl Scope {
    /// `path` is where the folder lies at Dropbox, inside the parameter's jail already.
    pub fn of(parameters: &Parameters, act_as: Option<&ActAs>, root: Option<&Root>, path: &str) -> Scope {
        let account = match act_as {
            Some(ActAs::User(member) | ActAs::Admin(member)) => member.as_str(),
            None => parameters.account_id(),
        };
        Scope {
            parameter: parameters.id.clone(),
            uid: parameters.uid.clone(),
            account: account.into(),
            linked: parameters.bound_to().into(),
            act_as: act_as.cloned(),
            root: root.cloned(),
            path: path.into(),
            recursive: true,
            raw: false,
        }
    }

    #[must_use]
    pub fn recursive(self, recursive: bool) -> Scope {
        Scope { recursive, ..self }
    }

    #[must_use]
    pub fn raw(self, raw: bool) -> Scope {
        Scope { raw, ..self }
    }

    /// What a token is bound to. Whether entries are classified is not part of it: a token of the one kind is read by its
    /// cursor in the other.
    fn binding(&self) -> [u8; 16] {
        let folder =
            (&self.uid, self.act_name(), self.root_name(), dbxcase::dbx_str_lowercase(&self.path), self.recursive);
        let text = serde_json::to_vec(&folder).expect("strings are JSON");
        let mut tag = [0; 16];
        tag.copy_from_slice(&Sha256::digest(text)[..16]);
        tag
    }

    /// Its name in the store. With the linked account: a parameter that is linked to another one keeps its uid, and what was
    /// told of the former account is nothing to who watches the new one.
    pub(super) fn key(&self) -> String {
        // A process of an older version keeps items in other words: its index is not taken over, nor this one by it, and it is
        // swept when it is gone.
        let mode = if self.raw { "raw" } else { "full3" };
        let whole = Sha256::new_with_prefix(self.binding()).chain_update(self.linked.as_bytes()).finalize();
        format!("{}-{mode}", hex::encode(&whole[..16]))
    }

    fn act_name(&self) -> String {
        match &self.act_as {
            None => String::new(),
            Some(ActAs::User(member)) => format!("user {member}"),
            Some(ActAs::Admin(member)) => format!("admin {member}"),
        }
    }

    fn root_name(&self) -> String {
        match &self.root {
            None => String::new(),
            Some(Root::Home) => "home".to_owned(),
            Some(Root::Root(id)) => format!("root {id}"),
            Some(Root::Namespace(id)) => format!("namespace {id}"),
        }
    }

    fn owner(&self) -> Owner<'_> {
        Owner { uid: &self.uid, account: &self.linked }
    }
}

/// A place in the changes of a scope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumePoint {
    /// This life of the scope's log.
    #[serde(rename = "e")]
    pub(super) epoch: i64,
    /// The newest entry it has.
    #[serde(rename = "s")]
    pub(super) sequence: i64,
    /// Of that entry, random: a store that was put back to an earlier state may give the same numbers to other entries.
    #[serde(rename = "m")]
    pub(super) mark: i64,
    /// Where Dropbox goes on if the log does not. Of an entry the cursor before its drain, so that what was told in part is
    /// told again.
    #[serde(rename = "c")]
    pub(super) cursor: Arc<str>,
    /// Inside a snapshot: how many items were told; the cursor is the listing's.
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    pub(super) listed: Option<u64>,
    /// With `listed`: that was all, and the cursor is the one behind the listing.
    #[serde(rename = "z", default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) whole: bool,
    /// Inside what the entry's folder held: the number of the row that was told last; 0: the folder itself.
    #[serde(rename = "w", default, skip_serializing_if = "Option::is_none")]
    pub(super) within: Option<i64>,
    /// In the midst of what an index made of a drain: a state that Dropbox may never have had, so that its cursor does not
    /// lead on from it. Only the log does.
    #[serde(rename = "d", default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) unsettled: bool,
    /// Of a place that is not in the log: epoch and number of the log's newest entry when it was given. Whoever goes on from
    /// it is told nothing of the log that is older.
    #[serde(rename = "k", default, skip_serializing_if = "Option::is_none")]
    pub(super) known: Option<(i64, i64)>,
    /// Inside the page that follows the cursor, which is rare: how many of its changes were told, and a digest of those.
    #[serde(rename = "g", default, skip_serializing_if = "Option::is_none")]
    pub(super) page: Option<Box<(u32, u64)>>,
    /// In the log: some of what is behind it was told, too.
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    pub(super) ahead: Option<Box<Ahead>>,
    /// Its token was given where the index tells what happened, and is brought where Dropbox's own words are wanted.
    #[serde(skip)]
    pub(super) of_index: bool,
}

/// What was told behind a place of the log where events wait until their paths are quiet: every entry up to one, but for some.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ahead {
    #[serde(rename = "u")]
    pub until: i64,
    /// Of that entry, as in the place itself.
    #[serde(rename = "m", default)]
    pub mark: i64,
    /// Of what the folder of that last entry held: the number of the row that was told last; as in the place itself.
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub within: Option<i64>,
    /// What was not told: first and last of each run, in order.
    #[serde(rename = "w")]
    pub waits: Vec<(i64, i64)>,
}

impl Ahead {
    pub fn was_told(&self, sequence: i64) -> bool {
        sequence <= self.until && !self.waits.iter().any(|(first, last)| (*first..=*last).contains(&sequence))
    }

    /// What is left of it behind a place.
    fn behind(&self, place: &ResumePoint) -> Option<Box<Ahead>> {
        let sequence = place.sequence();
        let waits = self.waits.iter().filter(|(_, last)| *last > sequence);
        let waits = waits.map(|(first, last)| (*first.max(&(sequence + 1)), *last)).collect();
        (self.until > place.sequence).then(|| Box::new(Ahead { waits, ..*self }))
    }
}

/// A place with what it is bound to: what a token says. As JSON only in tokens of versions before (`token.rs`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bound {
    #[serde(rename = "b")]
    pub(super) binding: [u8; 16],
    /// The folder, for those who come with the token alone.
    #[serde(rename = "p")]
    pub(super) path: Arc<str>,
    #[serde(rename = "r", default)]
    pub(super) recursive: bool,
    /// What was told are Dropbox's own words.
    #[serde(rename = "o", default)]
    pub(super) raw: bool,
    #[serde(flatten)]
    pub(super) point: ResumePoint,
}

/// A new life of a log. Positive: it also stands in event ids.
pub(super) fn new_epoch() -> i64 {
    rand::random_range(1..=i64::MAX)
}

impl ResumePoint {
    /// A place that Dropbox alone knows.
    pub(super) fn at(cursor: Arc<str>) -> ResumePoint {
        ResumePoint {
            epoch: 0,
            sequence: 0,
            mark: 0,
            cursor,
            listed: None,
            whole: false,
            within: None,
            unsettled: false,
            known: None,
            page: None,
            ahead: None,
            of_index: false,
        }
    }

    /// A place that Dropbox alone knows, given while the log was there.
    pub(super) fn beside(cursor: Arc<str>, head: LogHead) -> ResumePoint {
        ResumePoint { known: Some((head.epoch, head.newest)), ..ResumePoint::at(cursor) }
    }

    /// Epoch and number of the entry behind which the log may have told something to whoever has this place.
    pub(super) fn told_to(&self) -> (i64, i64) {
        // What was told behind it was told in part: it does not count.
        self.known.unwrap_or((self.epoch, self.sequence))
    }

    /// The number of the newest entry that was told with all its rows; zero beside the log.
    fn sequence(&self) -> i64 {
        self.sequence - i64::from(self.within.is_some())
    }

    /// What was told to whoever is here, but for some that waits: first and last of each run, in order.
    pub fn told_but(&self, waits: Vec<(i64, i64)>) -> Ahead {
        let mut told = Ahead { until: self.sequence, mark: self.mark, within: self.within, waits };
        if let Some(ahead) = &self.ahead {
            if ahead.until > told.until {
                (told.until, told.mark, told.within) = (ahead.until, ahead.mark, ahead.within);
            }
            told.waits.extend(&ahead.waits);
            told.waits.sort_unstable();
        }
        told
    }

    /// The same place, whatever was told behind it.
    #[must_use]
    pub fn bare(&self) -> ResumePoint {
        ResumePoint { ahead: None, ..self.clone() }
    }

    pub fn ahead(&self) -> Option<&Ahead> {
        self.ahead.as_deref()
    }

    /// The same place, and this was told behind it.
    #[must_use]
    pub fn with_ahead(self, ahead: &Ahead) -> ResumePoint {
        ResumePoint { ahead: ahead.behind(&self), ..self }
    }

    /// # Errors
    /// `CONNECTOR_BUG` for a cursor that is too long to be kept in a handle.
    pub fn seal(&self, keys: &KeyRing, scope: &Scope) -> Result<Arc<str>> {
        let Scope { path, recursive, raw, .. } = scope;
        let (path, recursive, raw) = (path.clone(), *recursive, *raw);
        let bound = Bound { binding: scope.binding(), path, recursive, raw, point: self.clone() };
        let token = keys.seal_handle_bytes(HandleKind::Resume, &scope.owner(), &token::write(&bound));
        Ok(token
            .map_err(|fault| Fault::bug("Dropbox's cursor does not fit into a token").source(fault.to_string()))?
            .into())
    }

    /// # Errors
    /// `HANDLE_MALFORMED`, `HANDLE_KEY_RETIRED`; `RESUME_TOKEN_MISMATCH` for a token of another parameter, account or
    /// folder.
    pub fn unseal(keys: &KeyRing, scope: &Scope, token: &str) -> Result<ResumePoint> {
        let bound = Bound::open(keys, &scope.owner(), token)?;
        if bound.binding != scope.binding() {
            return Err(Bound::mismatch(
                "the resume token was given for another path, path root, act_as or value of recursive; repeat what it \
                 was given for (recursive defaults to true here, and to false in ListFolder and WalkFolder)",
            ));
        }
        Ok(ResumePoint { of_index: scope.raw && !bound.raw, ..bound.point })
    }

    /// The folder a token was given for, and whether with all beneath it. It is not looked at whose it is otherwise.
    ///
    /// # Errors
    /// As [`ResumePoint::unseal`], but for another folder.
    pub fn folder_of(keys: &KeyRing, owner: &Owner<'_>, token: &str) -> Result<(Arc<str>, bool)> {
        Bound::open(keys, owner, token).map(|bound| (bound.path, bound.recursive))
    }
}

impl Bound {
    fn open(keys: &KeyRing, owner: &Owner<'_>, token: &str) -> Result<Bound> {
        let bytes = keys.open_handle_bytes(HandleKind::Resume, owner, token).map_err(|fault| match fault.reason() {
            Reason::HandleNotYours => Bound::mismatch(
                "the resume token was given for another application parameter or another linked account",
            ),
            _ => fault,
        })?;
        token::read(&bytes).ok_or_else(|| HandleKind::Resume.malformed())
    }

    fn mismatch(text: &str) -> Fault {
        Fault::new(Reason::ResumeTokenMismatch, text).fact("handleKind", HandleKind::Resume.field())
    }
}

/// Per application parameter. What may be in it is checked where requests are (`convert/events.rs`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CheckpointName(Arc<str>);

impl CheckpointName {
    pub fn new(name: &str) -> CheckpointName {
        CheckpointName(name.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(path: &str) -> Scope {
        Scope {
            parameter: ParameterId::new("docs").unwrap(),
            uid: "u1".into(),
            account: "dbid:A".into(),
            linked: "dbid:A".into(),
            act_as: None,
            root: Some(Root::Home),
            path: path.into(),
            recursive: true,
            raw: false,
        }
    }

    #[test]
    fn a_token_opens_for_its_own_folder_in_either_mode_and_for_no_other() {
        let keys = KeyRing::ephemeral();
        let point = ResumePoint { epoch: 7, sequence: 9, mark: -3, within: Some(4), ..ResumePoint::at("AAH".into()) };
        let token = point.seal(&keys, &scope("/Docs")).unwrap();
        for same in [scope("/Docs"), scope("/docs"), scope("/Docs").raw(true)] {
            let expected = ResumePoint { of_index: same.raw, ..point.clone() };
            assert_eq!(ResumePoint::unseal(&keys, &same, &token).unwrap(), expected);
        }
        let others = [
            scope("/Docs/a"),
            scope("/Docs").recursive(false),
            Scope { uid: "u2".into(), ..scope("/Docs") },
            Scope { linked: "dbid:B".into(), ..scope("/Docs") },
            Scope { act_as: Some(ActAs::User("dbmid:1".into())), ..scope("/Docs") },
            Scope { root: None, ..scope("/Docs") },
        ];
        for other in others {
            let fault = ResumePoint::unseal(&keys, &other, &token).unwrap_err();
            assert_eq!(fault.reason(), Reason::ResumeTokenMismatch);
        }
        assert_eq!(scope("/Docs").key(), scope("/docs").key());
        // Two folders at Dropbox, which lowers letter by letter.
        assert_ne!(scope("/ΟΔΟΣ").key(), scope("/οδος").key());
        assert_eq!(scope("/ΟΔΟΣ").key(), scope("/οδοσ").key());
        for other in [scope("/Docs").raw(true), Scope { linked: "dbid:B".into(), ..scope("/Docs") }] {
            assert_ne!(other.key(), scope("/Docs").key(), "it has a log of its own");
        }
        let found = ResumePoint::folder_of(&keys, &scope("/Docs").owner(), &token).unwrap();
        assert_eq!(found, ("/Docs".into(), true));
        let damaged = ResumePoint::unseal(&keys, &scope("/Docs"), &token[1..]).unwrap_err();
        assert_eq!(damaged.reason(), Reason::HandleMalformed);
    }
}
