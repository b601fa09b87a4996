//! What is known of an upload beyond one stream: the sealed `upload_id` its caller holds and the row in the store.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::{Settled, Shared, UploadSpec, commit::Whole, lane::Doubt, whole_of};
use crate::{
    engine::content_hash::BlockDigest,
    fault::{Fault, Reason, Result},
    limits,
    seal::{HandleKind, Owner},
    store::{Claim, Piece, Upload, UploadState},
};

/// The inside of an `upload_id`: everything a replica needs to go on, beside the piece map of a parallel upload.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Handle {
    /// The row in the store.
    pub id: String,
    /// Dropbox's session.
    pub session: String,
    /// A concurrent session: Dropbox cannot tell what it has.
    pub parallel: bool,
    /// Seconds since 1970.
    pub expires: u64,
    pub spec: UploadSpec,
    /// The caller's request context when the upload was made, as the service encoded it.
    pub context: Vec<u8>,
    /// Beyond `Open` the spec has the size and the hash of what is there.
    #[serde(default, skip_serializing_if = "Stage::is_open")]
    pub stage: Stage,
}

/// What a handle says of the end of its session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Stage {
    /// Nothing: the row knows.
    #[default]
    Open,
    /// All bytes are there, in a session that Dropbox made of a `files/upload` it refused. Nobody says that it is closed.
    Kept,
    /// All bytes are there and the session is closed.
    Closed,
}

impl Stage {
    fn is_open(&self) -> bool {
        *self == Stage::Open
    }
}

/// An upload that this stream may now write to.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub handle: Handle,
    pub upload_id: String,
    /// 0: no row; Dropbox alone knows.
    pub writer: i64,
    /// Whether a lane writes its pieces to the row.
    pub stored: bool,
    /// A former writer intended the commit and did not say what came of it.
    pub intended: bool,
}

/// Where a resumed upload stands.
#[derive(Debug)]
pub(super) enum Standing {
    Open(Begun),
    /// All bytes are there, the session is closed, nothing is committed as far as we know.
    Ready(Ready),
    Committed(Box<Settled>),
}

/// What is known of an upload that bytes are still to come for.
#[derive(Debug)]
pub(super) struct Begun {
    /// Bytes up to here are there.
    pub prefix: u64,
    /// Of the blocks below `prefix`; `None` where no row tells.
    pub digests: Option<Vec<BlockDigest>>,
    pub beyond: Vec<Piece>,
    /// A stream before this one had other bytes than are there.
    pub disputed: bool,
}

/// What is known of an upload whose bytes are all there.
#[derive(Debug)]
pub(super) struct Ready {
    pub size: u64,
    pub digests: Option<Vec<BlockDigest>>,
    /// From here on it is not written down what Dropbox has.
    pub gap: Option<u64>,
    /// It may have been committed under these terms; `None`: it was not.
    pub tried: Option<Box<UploadSpec>>,
    /// A stream had other bytes than are there.
    pub disputed: bool,
}

impl Begun {
    /// What Dropbox says of an ordered session that has no row.
    pub(super) fn rowless(prefix: u64) -> Begun {
        let digests = (prefix == 0).then(Vec::new);
        Begun { prefix, digests, beyond: Vec::new(), disputed: false }
    }
}

impl Ready {
    pub(super) fn whole(&self, spec: &UploadSpec) -> Whole {
        whole_of(spec, self.size, self.digests.as_deref())
    }

    /// Nobody has said yet which bytes are meant. What its spec named was compared before all of them were there.
    pub(super) fn needs_hash(&self, handle: &Handle) -> bool {
        let named = handle.stage == Stage::Open && handle.spec.content_hash.is_some();
        self.disputed && !(named && self.gap.is_none())
    }

    pub(super) fn doubt(&self) -> Doubt {
        Doubt { from: self.gap, closed: false }
    }
}

impl Record {
    pub(super) fn rowless(handle: Handle, upload_id: &str) -> Record {
        Record { handle, upload_id: upload_id.into(), writer: 0, stored: false, intended: false }
    }

    /// Its commit may have happened without a row that says so.
    pub(super) fn is_doubtful(&self) -> bool {
        self.intended || (!self.stored && self.handle.stage != Stage::Open)
    }

    /// The handle from now on, which says itself what the upload holds. It supersedes the one before; that one is good for as
    /// long as its row is there.
    pub(super) fn supersede(&mut self, shared: &Shared, owner: &Owner<'_>, whole: &Whole, stage: Stage) {
        let Some(hash) = whole.hash else { return };
        let mut handle = self.handle.clone();
        handle.spec.total_size = Some(whole.size);
        handle.spec.content_hash = Some(hash.to_string());
        handle.stage = stage;
        match handle.seal(shared, owner) {
            Ok(upload_id) => (self.handle, self.upload_id) = (handle, upload_id),
            Err(fault) => tracing::debug!(%fault, "a handle stays as it was"),
        }
    }
}

impl Handle {
    /// Where an upload stands that has no row, if its handle says so.
    pub(super) fn ready(&self) -> Option<Standing> {
        let size = self.spec.total_size.filter(|_| self.stage != Stage::Open)?;
        let tried = Some(Box::new(self.spec.clone()));
        Some(Standing::Ready(Ready { size, digests: None, gap: None, tried, disputed: false }))
    }

    pub(super) fn expires_at(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.expires)
    }

    /// When its session was made.
    pub(super) fn begun_at(&self) -> SystemTime {
        self.expires_at() - limits::UPLOAD_SESSION_LIFE
    }

    pub(super) fn seal(&self, shared: &Shared, owner: &Owner<'_>) -> Result<String> {
        shared.store.keys().seal_handle(HandleKind::Upload, owner, self)
    }
}

impl Shared {
    /// Opens an `upload_id` and looks at its age.
    pub(super) fn open_handle(&self, owner: &Owner<'_>, upload_id: &str) -> Result<Handle> {
        let handle: Handle = self.store.keys().open_handle(HandleKind::Upload, owner, upload_id)?;
        if handle.expires_at() <= self.clock.now() {
            return Err(not_found(upload_id, "expired"));
        }
        Ok(handle)
    }

    /// Takes the upload over: raises its writer number and waits until the former writer has stopped, 10 s at most.
    /// Dropbox cannot arbitrate: a concurrent session takes any offset from anybody.
    pub(super) async fn claim(&self, handle: Handle, upload_id: &str) -> Result<(Record, Standing)> {
        // What a commit of this process does is known soon.
        self.commits.ended(&handle.id).await;
        if self.store.upload(&handle.id).await?.is_none() {
            let standing = match handle.ready() {
                Some(ready) => ready,
                None if handle.parallel => return Err(not_found(upload_id, "pieces_lost")),
                // Dropbox is asked by the caller of this function: it needs a `Caller`.
                None => Standing::Open(Begun::rowless(0)),
            };
            return Ok((Record::rowless(handle, upload_id), standing));
        }
        let claim = self.store.claim_upload(&handle.id).await?;
        self.claimed(handle, upload_id, claim).await
    }

    /// An upload that was taken over, once its former writer has stopped.
    pub(super) async fn claimed(&self, handle: Handle, upload_id: &str, claim: Claim) -> Result<(Record, Standing)> {
        let mut row = claim.upload;
        if !claim.former_released && row.state != UploadState::Committed {
            let (id, former) = (&handle.id, row.writer - 1);
            if !self.stopped(id, former).await
                && let Err(fault) = self.store.release_upload(id, former, false).await
            {
                tracing::warn!(%fault, "a former writer could not be locked out; a piece of it may be sent again");
            }
            // It may have closed or committed meanwhile.
            if let Some(now) = self.store.upload(id).await? {
                row = Upload { writer: row.writer, ..now };
            }
        }
        let standing = self.standing(&row, &handle).await?;
        let intended = row.state == UploadState::Committing;
        let record = Record { handle, upload_id: upload_id.into(), writer: row.writer, stored: true, intended };
        Ok((record, standing))
    }

    /// What the row and its pieces say. Read after the former writer stopped, so that nothing is added behind it.
    pub(super) async fn standing(&self, row: &Upload, handle: &Handle) -> Result<Standing> {
        let sealed = handle.spec.total_size.filter(|_| handle.stage != Stage::Open);
        match row.state {
            UploadState::Committed => match row.outcome.as_deref().map(serde_json::from_str) {
                Some(Ok(settled)) => Ok(Standing::Committed(Box::new(settled))),
                _ => Err(Fault::bug("a committed upload has no outcome")),
            },
            UploadState::Open if sealed.is_none() => {
                let (prefix, digests, beyond) = split(self.store.pieces(&row.id).await?);
                if is_closed_at(prefix) {
                    let disputed = row.disputed;
                    let ready = Ready { size: prefix, digests: Some(digests), gap: None, tried: None, disputed };
                    return Ok(Standing::Ready(ready));
                }
                Ok(Standing::Open(Begun { prefix, digests: Some(digests), beyond, disputed: row.disputed }))
            }
            UploadState::Open | UploadState::Ready | UploadState::Committing => {
                let tried = match row.state {
                    UploadState::Committing => Some(Box::new(intended_spec(row)?)),
                    _ => None,
                };
                let disputed = row.disputed;
                if let Some(size) = sealed {
                    return Ok(Standing::Ready(Ready { size, digests: None, gap: None, tried, disputed }));
                }
                let size = row.size.unwrap_or_default();
                let (prefix, digests, _) = split(self.store.pieces(&row.id).await?);
                let digests = (prefix == size).then_some(digests);
                let gap = (prefix < size).then_some(prefix);
                Ok(Standing::Ready(Ready { size, digests, gap, tried, disputed }))
            }
        }
    }

    /// Of all blocks of an upload that is closed at `size`, if its row has them.
    pub(super) async fn digests(&self, record: &Record, size: u64) -> Result<Option<Vec<BlockDigest>>> {
        if !record.stored {
            return Ok(None);
        }
        let (prefix, digests, _) = split(self.store.pieces(&record.handle.id).await?);
        Ok((prefix == size).then_some(digests))
    }

    /// Whether a writer has stopped, or been passed by a second one, within the time that all writers keep to.
    pub(super) async fn stopped(&self, id: &str, writer: i64) -> bool {
        let deadline = tokio::time::Instant::now() + limits::SETTLE_DEADLINE;
        while tokio::time::Instant::now() < deadline {
            match self.store.upload(id).await {
                Ok(Some(row)) if row.released >= writer || row.writer > writer + 1 => return true,
                Ok(Some(_)) => {}
                _ => return true,
            }
            self.clock.sleep(limits::RELEASE_POLL).await;
        }
        false
    }
}

/// The terms of a commit that is under way, or was.
pub(super) fn intended_spec(row: &Upload) -> Result<UploadSpec> {
    serde_json::from_slice(&row.spec).map_err(|error| Fault::bug("an upload's row has no terms").source(error))
}

/// What is known block by block: the contiguous part from 0 with its digests, and single blocks behind the first gap.
/// Pieces may overlap, for a resumed stream may cut them otherwise.
fn split(pieces: Vec<Piece>) -> (u64, Vec<BlockDigest>, Vec<Piece>) {
    let block = limits::BLOCK_BYTES as u64;
    let mut blocks = BTreeMap::new();
    for piece in pieces {
        for (n, digest) in piece.digests.iter().enumerate() {
            let start = n as u64 * block;
            let length = block.min(piece.length - start.min(piece.length));
            let known = blocks.entry(piece.offset + start).or_insert((length, *digest));
            if known.0 < length {
                *known = (length, *digest);
            }
        }
    }
    let (mut prefix, mut digests, mut beyond) = (0, Vec::new(), Vec::new());
    for (offset, (length, digest)) in blocks {
        if offset == prefix {
            prefix += length;
            digests.push(BlockDigest::from_bytes(digest));
        } else {
            beyond.push(Piece { offset, length, digests: vec![digest] });
        }
    }
    (prefix, digests, beyond)
}

/// Only the request that closes a session ends off a block's edge: its writer stopped before it could say "ready".
fn is_closed_at(prefix: u64) -> bool {
    !prefix.is_multiple_of(limits::BLOCK_BYTES as u64)
}

pub(super) fn not_found(upload_id: &str, cause: &'static str) -> Fault {
    Fault::new(Reason::UploadNotFound, format!("the upload cannot be continued: {}", cause.replace('_', " ")))
        .fact("cause", cause)
        .resource("upload", short(upload_id))
}

/// Enough of a handle to know it by.
pub(super) fn short(upload_id: &str) -> String {
    upload_id.chars().take(32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_ends_at_the_first_gap_and_keeps_its_digests() {
        const BLOCK: u64 = limits::BLOCK_BYTES as u64;
        let piece = |first: u64, count: u64| Piece {
            offset: first * BLOCK,
            length: count * BLOCK,
            digests: (first..first + count).map(|n| [u8::try_from(n).expect("small"); 32]).collect(),
        };
        let (prefix, digests, beyond) = split(vec![piece(0, 2), piece(1, 2), piece(5, 1)]);
        assert_eq!((prefix, digests.len()), (3 * BLOCK, 3));
        assert_eq!(beyond, vec![piece(5, 1)]);
        let tail = Piece { offset: 3 * BLOCK, length: 7, digests: vec![[3; 32]] };
        let closed = split(vec![piece(0, 2), piece(2, 1), tail]).0;
        assert_eq!(closed, 3 * BLOCK + 7);
        assert!(is_closed_at(closed) && !is_closed_at(prefix) && !is_closed_at(0));
        assert_eq!(split(Vec::new()).0, 0);
    }
}
