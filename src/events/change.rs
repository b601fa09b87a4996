//! What is told: one change of one item, and the entry of the log that carries it.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use bytes::Bytes;
use dropbox_sdk::types::files;
use serde::{Deserialize, Serialize};

use super::{ResumePoint, Scope};
use crate::{fault::Result, seal::KeyRing, store::IndexRow};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ChangeKind {
    Created,
    /// Other content.
    Updated,
    /// Same content: shared, unshared, made read-only.
    MetadataChanged,
    /// A folder's stands for everything in it.
    Deleted,
    /// A rename too, also one of case only. A folder's stands for everything in it.
    Moved,
    /// RAW: it is so now, whatever it was.
    Upserted,
}

impl ChangeKind {
    /// For metrics.
    pub(super) fn label(self) -> &'static str {
        match self {
            ChangeKind::Created => "created",
            ChangeKind::Updated => "updated",
            ChangeKind::MetadataChanged => "metadata_changed",
            ChangeKind::Deleted => "deleted",
            ChangeKind::Moved => "moved",
            ChangeKind::Upserted => "upserted",
        }
    }
}

/// What a change is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Basis {
    /// The stored index: the kind is right.
    Index,
    /// There was no index for it: the kind is a good guess.
    Inferred,
    /// It was found by comparing after a reset.
    Synthetic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ItemKind {
    File,
    Folder,
    /// Of a deletion without an index.
    Unknown,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    pub kind: ChangeKind,
    pub basis: Basis,
    pub item_kind: ItemKind,
    /// As it is now, whole, as Dropbox showed it; of a deletion `Metadata::Deleted` with its paths.
    pub item: files::Metadata,
    /// Also of a deletion, if it is known.
    pub id: Option<String>,
    /// Of a move: where it was, in its own case, from the root as `item`'s paths are.
    pub previous_path: Option<String>,
    /// Of files, if known: the revision before this change.
    pub previous_rev: Option<String>,
    /// Of files, if known: what else it was before this change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Before>,
    /// Of a folder that was moved or deleted: its row in the index, by which all it held can be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<i64>,
}

/// What a file was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    pub size: u64,
    pub hash: Option<String>,
    /// Seconds since 1970.
    pub server_modified: i64,
    pub client_modified: i64,
}

impl Before {
    /// None: the index knows nothing of it.
    pub(super) fn of(row: &IndexRow) -> Option<Before> {
        let facts = row.facts?;
        Some(Before {
            size: facts.size,
            hash: row.hash.clone(),
            server_modified: facts.server_modified,
            client_modified: facts.client_modified,
        })
    }
}

/// What an entry tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Told {
    Change(Box<Change>),
    /// The drain that the changes before it came from is over.
    BatchEnd,
    /// Dropbox forgot the cursor: what follows up to `Resynced` was found by comparing.
    CursorReset {
        cause: String,
    },
    Resynced,
    /// A newer version of this program wrote it; it is passed over.
    #[serde(skip)]
    Unknown,
}

impl Told {
    /// More belongs to it, without which it need not be a state that ever was.
    fn is_unsettled(&self) -> bool {
        match self {
            Told::Change(change) => change.basis != Basis::Inferred,
            // Whatever a newer version told: more may belong to it.
            Told::CursorReset { .. } | Told::Unknown => true,
            Told::BatchEnd | Told::Resynced => false,
        }
    }
}

/// One entry of a scope's log, the same for every watcher: it carries nothing that depends on who reads it.
pub struct Entry {
    pub point: ResumePoint,
    pub observed: SystemTime,
    pub told: Told,
    /// False: it came from a cursor older than the log, and its number says nothing.
    pub logged: bool,
    token: OnceLock<Arc<str>>,
    /// The wire form, filled by the service for the first watcher that needs it.
    pub encoded: OnceLock<Bytes>,
}

impl Entry {
    pub(crate) fn new(point: ResumePoint, observed: SystemTime, told: Told, logged: bool) -> Entry {
        let point = ResumePoint { unsettled: told.is_unsettled(), ..point };
        Entry { point, observed, told, logged, token: OnceLock::new(), encoded: OnceLock::new() }
    }

    /// `<log epoch>-<sequence>`, and `.<row>` for what a folder held: equal on every replica and in every replay of the log.
    /// What did not come from the log has an id made of what it tells.
    pub fn event_id(&self) -> String {
        if self.logged {
            let ResumePoint { epoch, sequence, within, .. } = &self.point;
            return match within {
                Some(row @ 1..) => format!("{epoch:x}-{sequence}.{row}"),
                _ => format!("{epoch:x}-{sequence}"),
            };
        }
        let told = serde_json::to_vec(&(&self.point.cursor, &self.told)).unwrap_or_default();
        format!("i-{}", hex::encode(&<sha2::Sha256 as sha2::Digest>::digest(told)[..12]))
    }

    /// Epoch and number in the log.
    pub fn number(&self) -> (i64, i64) {
        (self.point.epoch, self.point.sequence)
    }

    /// It is one of what a folder held, or the folder itself, all of which is told.
    pub fn is_one_by_one(&self) -> bool {
        self.point.within.is_some()
    }

    pub fn change(&self) -> Option<&Change> {
        match &self.told {
            Told::Change(change) => Some(change),
            _ => None,
        }
    }

    /// The row of a folder all of which it moves or deletes, if that can be told one by one.
    pub(super) fn folder(&self) -> Option<i64> {
        self.change().and_then(|change| change.folder)
    }

    /// Its place as it goes out, sealed for the first who asks.
    ///
    /// # Errors
    /// `CONNECTOR_BUG` for a cursor that makes no handle.
    pub fn token(&self, keys: &KeyRing, scope: &Scope) -> Result<Arc<str>> {
        if let Some(token) = self.token.get() {
            return Ok(token.clone());
        }
        let token = self.point.seal(keys, scope)?;
        Ok(self.token.get_or_init(|| token).clone())
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("sequence", &self.point.sequence)
            .field("told", &self.told)
            .finish_non_exhaustive()
    }
}
