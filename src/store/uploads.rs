use super::*;
use std::time::SystemTime;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadState { Open, Ready, Committing, Committed, Cancelled }
#[derive(Debug, Clone)]
pub struct NewUpload<'a> { pub owner_uid: &'a str, pub session: Option<&'a str>, /* "ordered" | "parallel", the engine's word */ pub lane: &'a str, /* sealed into the row */ pub spec: &'a [u8], pub expires_at: SystemTime }
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload { pub id: String, pub owner_uid: String, pub writer: i64, pub released: bool, pub state: UploadState, pub session: Option<String>, pub lane: String, pub spec: Vec<u8>, pub size: Option<u64>, pub outcome: Option<String>, pub claimed_at: SystemTime, pub expires_at: SystemTime }
/// `upload.writer` is the new one; the former writer is still at it unless `released`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim { pub upload: Upload, pub released: bool, pub former_claimed_at: SystemTime }
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece { pub offset: u64, pub length: u64, pub digests: Vec<[u8; 32]> }
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept { pub uploads: u64, pub requests: u64, pub changes: u64 }

impl Store {
    /// Row with writer 1, not released, state open; the id is random.
    pub async fn create_upload(&self, new: NewUpload<'_>) -> Result<Upload> { todo!() }
    pub async fn upload(&self, id: &str) -> Result<Option<Upload>> { todo!() }
    /// Raises the writer (open, ready, committing). UPLOAD_NOT_FOUND. A committed row is returned unchanged.
    pub async fn claim_upload(&self, id: &str) -> Result<Claim> { todo!() }
    pub async fn set_upload_session(&self, id: &str, writer: i64, session: &str, lane: &str) -> Result<()> { todo!() }
    /// One transaction without fsync. UPLOAD_TAKEN_OVER if `writer` is stale.
    pub async fn record_pieces(&self, id: &str, writer: i64, pieces: &[Piece]) -> Result<()> { todo!() }
    /// Unsure pieces leave the map.
    pub async fn forget_pieces(&self, id: &str, writer: i64, offsets: &[u64]) -> Result<()> { todo!() }
    /// In order of offset.
    pub async fn pieces(&self, id: &str) -> Result<Vec<Piece>> { todo!() }
    /// All bytes are at Dropbox, nothing is committed (deferred commit). UPLOAD_TAKEN_OVER.
    pub async fn set_upload_ready(&self, id: &str, writer: i64, size: u64) -> Result<()> { todo!() }
    /// Durable, once per fleet: open|ready → committing. UPLOAD_TAKEN_OVER; UPLOAD_CLOSED if it is committing or committed.
    pub async fn intend_commit(&self, id: &str, writer: i64, size: u64) -> Result<()> { todo!() }
    /// Dropbox refused the commit and nothing happened: committing → ready.
    pub async fn commit_refused(&self, id: &str, writer: i64) -> Result<()> { todo!() }
    /// committing → committed with its outcome (JSON); drops the pieces.
    pub async fn upload_committed(&self, id: &str, outcome: &str) -> Result<()> { todo!() }
    /// The writer has stopped; another may start at once.
    pub async fn release_upload(&self, id: &str, writer: i64) -> Result<()> { todo!() }
}
