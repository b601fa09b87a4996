//! Bytes that go ahead of a commit which is left to the caller, and the handles of small files whose bytes lie in a session:
//! deferred ones, and those whose path Dropbox refused.

use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;
use dropbox_sdk::files::{UploadSessionStartArg, UploadSessionType};

use super::{
    Account, Settled, Shared, UploadSpec,
    commit::{Whole, outcome_unknown},
    group::{Coming, Sent, Told},
    record::{Handle, Ready, Record, Stage},
};
use crate::{
    dropbox::{Caller, routes},
    engine::{content_hash::BlockDigest, parts::Part},
    fault::{Reason, Result},
    limits,
    store::NewUpload,
};

/// A session that has all bytes of a small file.
pub(super) struct Kept {
    pub session: String,
    pub parallel: bool,
    pub stage: Stage,
    pub expires_at: SystemTime,
}

impl Shared {
    /// Brings a small file to Dropbox, into a session that is closed with it: together with others that come in, else in one
    /// request. It takes no turn, for nothing is committed.
    pub(super) async fn send_ahead(
        &self,
        caller: &Caller,
        spec: &UploadSpec,
        mut part: Option<Part>,
        whole: &Whole,
        coming: Option<Coming>,
        sent: &Arc<Sent>,
    ) -> Result<Kept> {
        // Before the session is made: it never ends before its handle does. One of a group is made ahead, by seconds.
        let expires_at = self.clock.now() + limits::UPLOAD_SESSION_LIFE;
        // Who goes by itself is known to be under way, so who comes meanwhile goes with others.
        let _by_itself = match (coming, &mut part) {
            (Some(coming), Some(part)) if coming.in_company() => {
                if let Told::Kept(session) = coming.together(caller, spec, part, sent).await? {
                    return Ok(Kept { session, parallel: true, stage: Stage::Closed, expires_at });
                }
                None
            }
            (coming, _) => coming,
        };
        let body: &[Bytes] = part.as_ref().map_or(&[], |part| &part.pieces);
        let mut arg = UploadSessionStartArg::default().with_close(true);
        arg.session_type = Some(UploadSessionType::Sequential);
        arg.content_hash = whole.hash.map(|hash| hash.to_string());
        let started = match caller.upload(&routes::UPLOAD_SESSION_START, &arg, body).await {
            // Damaged on the way: once more, then it is told.
            Err(fault) if fault.reason() == Reason::ContentHashMismatch => {
                caller.upload(&routes::UPLOAD_SESSION_START, &arg, body).await
            }
            started => started,
        };
        let session = started?.value.session_id;
        Ok(Kept { session, parallel: false, stage: Stage::Closed, expires_at })
    }

    /// The row and the handle of a session that has all bytes.
    pub(super) async fn keep_ready(
        &self,
        account: &Account<'_>,
        kept: Kept,
        spec: UploadSpec,
        context: Vec<u8>,
        whole: &Whole,
        digests: &[BlockDigest],
    ) -> Result<Record> {
        let Kept { session, parallel, stage, expires_at } = kept;
        let terms = spec.encoded()?;
        let lane = match stage {
            Stage::Kept => "kept",
            _ if parallel => "parallel",
            _ => "ordered",
        };
        let new = NewUpload { owner_uid: account.owner.uid, session: Some(&session), lane, spec: &terms, expires_at };
        let digests: Vec<[u8; 32]> = digests.iter().map(|digest| *digest.as_bytes()).collect();
        let row = self.store.create_ready_upload(new, whole.size, &digests).await?;
        let expires = expires_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let handle = Handle { id: row.id, session, parallel, expires, spec, context, stage: Stage::Open };
        let upload_id = handle.seal(self, &account.owner)?;
        let mut record = Record { handle, upload_id, writer: row.writer, stored: true, intended: false };
        record.supersede(self, &account.owner, whole, stage);
        Ok(record)
    }

    /// An upload whose commit is left to its caller has all its bytes. `proven`: what is there is what it said.
    pub(super) async fn ready(&self, record: &Record, size: u64, proven: bool) -> Result<()> {
        if !record.stored {
            return Ok(());
        }
        match self.store.set_upload_ready(&record.handle.id, record.writer, size, proven).await {
            // Its handle says so itself.
            Err(fault) if fault.reason() == Reason::StoreUnavailable && record.handle.stage == Stage::Closed => {
                tracing::warn!(%fault, "an upload whose bytes are all there could not be marked so");
                Ok(())
            }
            marked => marked,
        }
    }

    /// What an earlier commit of an upload gave, which may have come through without an answer.
    ///
    /// # Errors
    /// `OUTCOME_UNKNOWN`: a second commit could write a second file, and no look can tell whether there was a first. What Dropbox
    /// says to the look.
    pub(super) async fn committed_before(
        &self,
        caller: &Caller,
        record: &Record,
        ready: &Ready,
        whole: Whole,
    ) -> Result<Option<Settled>> {
        let Some(tried) = &ready.tried else { return Ok(None) };
        let settled = match self.look(caller, tried, whole, record.handle.begun_at()).await {
            Ok(settled) => settled,
            // Terms that replaced those of the first commit would hide it from every later look.
            Err(fault) => {
                self.release(record).await;
                return Err(fault);
            }
        };
        if settled.is_none() && record.intended && tried.may_write_twice() {
            self.release(record).await;
            return Err(outcome_unknown());
        }
        let settled = settled.map(Ok);
        if let Some(settled) = &settled
            && record.stored
        {
            self.write_down(record, settled).await;
        }
        settled.transpose()
    }
}
