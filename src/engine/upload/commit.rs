//! The one step that must not be repeated blindly. An intent is written down before it, an unclear answer is settled by
//! looking at the path and its latest revisions: the same content hash and size mean that it happened.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use dropbox_sdk::files::{
    CommitInfo, FileMetadata, GetMetadataArg, ListRevisionsArg, Metadata, UploadArg, UploadSessionCursor,
    UploadSessionFinishArg, WriteMode as SdkMode,
};

use super::{
    Account, Mode, Settled, Shared, UploadSpec,
    group::{Coming, Sent, Told},
    hold::Hold,
    lane::Doubt,
    record::{Record, Standing, not_found},
};
use crate::{
    clock::from_dropbox_time,
    dropbox::{Caller, Repeat, Turn, routes},
    engine::{content_hash::ContentHash, parts::Part},
    fault::{Fault, Reason, Result},
    limits,
    store::Intent,
};

/// What is known of the bytes before they are committed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whole {
    pub size: u64,
    /// The server's own hash; `None` only where the digests before the resume point are unknown.
    pub hash: Option<ContentHash>,
    /// The caller's hash, to be compared with Dropbox's where there is no own one.
    pub expected: Option<ContentHash>,
}

/// A closed session, about to be committed.
pub(super) struct Closing {
    pub whole: Whole,
    pub doubt: Doubt,
    pub hold: Arc<Hold>,
}

/// A small file that was not written.
pub(super) struct Refused {
    pub fault: Fault,
    /// The session that has its bytes is one of a group: a concurrent one.
    pub grouped: bool,
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Refused {
        Refused { fault, grouped: false }
    }
}

impl Shared {
    /// A small file: in one request if the gate is idle, else together with others that wait there. Nothing is written down:
    /// either it happened or it is sent again whole. `sent`: whether the commit has left.
    #[expect(clippy::too_many_arguments, reason = "one call site; a struct of them would only be taken apart again")]
    pub(super) async fn send_single(
        &self,
        caller: &Caller,
        account: &Account<'_>,
        spec: &UploadSpec,
        mut part: Option<Part>,
        whole: Whole,
        coming: Option<Coming>,
        sent: &Arc<Sent>,
    ) -> Result<Settled, Refused> {
        let since = self.clock.now();
        let turn = match (coming, &mut part) {
            (Some(coming), Some(part)) => match coming.alone() {
                Some(turn) => turn,
                None => match coming.together(caller, spec, part, sent).await? {
                    Told::Done { outcome, request_id } => {
                        // The request was the group's; its answer is this caller's, too.
                        caller.hears(request_id.as_deref());
                        let settled = match outcome {
                            Ok(file) => Settled::of(*file, whole).proven(),
                            Err(fault) => self.settle_fault(caller, spec, whole, since, fault).await,
                        };
                        return settled.map_err(|fault| Refused { fault, grouped: true });
                    }
                    Told::Kept(_) => return Err(Fault::bug("an upload that was to be committed was kept").into()),
                    Told::Alone => self.turn(caller, account, spec).await?,
                },
            },
            _ => self.turn(caller, account, spec).await?,
        };
        sent.set(true);
        let settled = self.send_alone(caller, spec, part, whole, since, turn).await;
        Ok(settled?)
    }

    /// A small file in one request.
    async fn send_alone(
        &self,
        caller: &Caller,
        spec: &UploadSpec,
        part: Option<Part>,
        whole: Whole,
        since: SystemTime,
        turn: Turn,
    ) -> Result<Settled> {
        let body: &[Bytes] = part.as_ref().map_or(&[], |part| &part.pieces);
        let info = spec.commit_info();
        let mut arg = UploadArg::new(info.path);
        arg.mode = info.mode;
        arg.autorename = info.autorename;
        arg.client_modified = info.client_modified;
        arg.mute = info.mute;
        arg.strict_conflict = info.strict_conflict;
        arg.content_hash = whole.hash.map(|hash| hash.to_string());
        let route = routes::UPLOAD.repeating(spec.repeat());
        let sent = match caller.commit_upload(&turn, &route, &arg, body).await {
            // Damaged on the way: once more, then it is told.
            Err(fault) if fault.reason() == Reason::ContentHashMismatch => {
                caller.commit_upload(&turn, &route, &arg, body).await
            }
            sent => sent,
        };
        drop(turn);
        match sent {
            Ok(answer) => Settled::of(answer.value, whole).proven(),
            Err(fault) => self.settle_fault(caller, spec, whole, since, fault).await,
        }
    }

    pub(super) async fn commit_once(
        &self,
        caller: &Caller,
        record: &Record,
        whole: Whole,
        doubt: Doubt,
        turn: Turn,
    ) -> Result<Settled> {
        let spec = &record.handle.spec;
        let cursor = UploadSessionCursor::new(record.handle.session.clone(), whole.size);
        let arg = UploadSessionFinishArg::new(cursor, spec.commit_info());
        if record.stored {
            let (id, writer, terms) = (&record.handle.id, record.writer, spec.encoded()?);
            // `again`: the writer that intended it is locked out. One that is still at it is found out below, or by the look after
            // a refusal.
            let intent = Intent { id, writer, size: whole.size, spec: &terms, again: record.intended };
            if let Err(fault) = self.store.intend_commit(intent).await {
                return self.committed_meanwhile(record, whole).await?.ok_or(fault);
            }
        }
        // Under a deadline of its own, for it holds the gate of its namespace.
        let now = Instant::now();
        let own = caller.deadline().map_or(now + limits::DEADLINE_MAX, |at| at.max(now + limits::COMMIT_TIME_OWN));
        let own = caller.with_deadline(Some(own));
        let sent = own.commit_upload(&turn, &routes::UPLOAD_SESSION_FINISH.repeating(spec.repeat()), &arg, &[]).await;
        drop(turn);
        let since = record.handle.begun_at();
        let settled = match sent {
            Ok(answer) => Ok(Settled::of(answer.value, whole)),
            Err(fault) if is_incomplete(&fault, &doubt) => return Err(self.incomplete(record, doubt, fault).await),
            Err(fault) if record.is_doubtful() && fault.get("earlierAttempt").is_none() => {
                self.settle_fault(&own, spec, whole, since, fault.fact("earlierAttempt", "unknown")).await
            }
            Err(fault) => self.settle_fault(&own, spec, whole, since, fault).await,
        };
        if record.stored {
            self.write_down(record, &settled).await;
        }
        settled?.proven()
    }

    /// What a former writer's commit gave, if it came through while this one waited.
    pub(super) async fn committed_meanwhile(&self, record: &Record, whole: Whole) -> Result<Option<Settled>> {
        let Some(row) = self.store.upload(&record.handle.id).await? else { return Ok(None) };
        match self.standing(&row, &record.handle).await? {
            Standing::Committed(settled) => settled.named(whole.hash.or(whole.expected)).map(Some),
            Standing::Open(_) | Standing::Ready(_) => Ok(None),
        }
    }

    /// Dropbox does not have all bytes: nothing was committed. What was only sent is sent again, if the session takes it.
    async fn incomplete(&self, record: &Record, doubt: Doubt, fault: Fault) -> Fault {
        let id = &record.handle.id;
        let (again, written) = match doubt.from.filter(|_| !doubt.closed) {
            Some(from) => (Some(from), self.store.forget_pieces(id, record.writer, &[from]).await),
            None => (None, self.store.delete_upload(id, record.writer).await),
        };
        if let Err(fault) = written {
            tracing::warn!(%fault, "what an upload lacks could not be written down; its next commit is refused as well");
        }
        match again {
            Some(from) => {
                Fault::new(Reason::DropboxUnavailable, "Dropbox lacks bytes of the upload; send them once more")
                    .retry_after(Duration::ZERO)
                    .fact("uploadId", &record.upload_id)
                    .fact("persistedOffset", from)
                    .source(fault)
            }
            None => not_found(&record.upload_id, "pieces_lost").source(fault),
        }
    }

    /// After a crash between intent and answer: did it happen? Not by a guess: with these switches the file may be
    /// elsewhere, or somebody else's. `since`: when the upload began; what was written before is not its doing.
    ///
    /// # Errors
    /// What Dropbox says: nobody knows more than before.
    pub(super) async fn look(
        &self,
        caller: &Caller,
        spec: &UploadSpec,
        whole: Whole,
        since: SystemTime,
    ) -> Result<Option<Settled>> {
        // With `strict_conflict` the same content of somebody else's would have refused ours, written a moment ago or not, so
        // that it is found proves nothing.
        if spec.may_write_twice() {
            return Ok(None);
        }
        let caller = caller.for_a_look();
        let Some(hash) = whole.hash.or(whole.expected) else { return Ok(None) };
        let hash = hash.to_string();
        let is_it = |file: &FileMetadata| file.size == whole.size && file.content_hash.as_ref() == Some(&hash);
        let settled = |file| Some(Settled { file, content_hash: Some(hash.clone()), verified: true });
        let current = caller.call(&routes::GET_METADATA, &GetMetadataArg::new(spec.path.clone())).await;
        match current.map(|answer| answer.value) {
            Ok(Metadata::File(file)) if is_it(&file) => return Ok(settled(file)),
            // Somebody may have written, or deleted, behind it.
            Ok(_) => {}
            Err(fault) if fault.reason() == Reason::PathNotFound => {}
            Err(fault) => return Err(fault),
        }
        let arg = ListRevisionsArg::new(spec.path.clone()).with_limit(limits::REVISIONS_LOOKED_AT);
        let revisions = match caller.call(&routes::LIST_REVISIONS, &arg).await {
            Ok(answer) => answer.value.entries,
            Err(fault) if fault.reason() == Reason::PathNotFound => return Ok(None),
            Err(fault) => return Err(fault),
        };
        let ours = |file: &FileMetadata| {
            is_it(file)
                && from_dropbox_time(&file.server_modified).is_some_and(|written| written >= whole_second(since))
        };
        Ok(revisions.into_iter().find(ours).and_then(settled))
    }

    async fn turn(&self, caller: &Caller, account: &Account<'_>, spec: &UploadSpec) -> Result<Turn> {
        let key = self.gates.key_for(account.owner.account, caller.root(), &spec.path);
        self.gates.turn(caller.parameter(), &[key], caller.deadline()).await
    }

    /// Tells an unclear failure from a refusal, and a refusal in full.
    pub(super) async fn settle_fault(
        &self,
        caller: &Caller,
        spec: &UploadSpec,
        whole: Whole,
        since: SystemTime,
        fault: Fault,
    ) -> Result<Settled> {
        if is_unclear(&fault) {
            return match self.look(caller, spec, whole, since).await.unwrap_or_default() {
                Some(settled) => Ok(settled),
                // The session is gone because a commit used it up, or because it ended: nobody can tell.
                None if matches!(fault.reason(), Reason::UploadNotFound | Reason::UploadClosed) => {
                    Err(outcome_unknown().source(fault))
                }
                // It says so itself, and more of it.
                None if fault.reason() == Reason::OutcomeUnknown => Err(fault),
                None if may_have_happened(&fault) => Err(outcome_unknown().source(fault)),
                None => Err(fault),
            };
        }
        if fault.reason() == Reason::RevisionConflict {
            return Err(self.with_current(caller, spec, fault).await);
        }
        Err(fault)
    }

    /// What stands at the path instead of the expected revision; absent if that cannot be read.
    async fn with_current(&self, caller: &Caller, spec: &UploadSpec, fault: Fault) -> Fault {
        match caller
            .call(&routes::GET_METADATA, &GetMetadataArg::new(spec.path.clone()))
            .await
            .map(|answer| answer.value)
        {
            Ok(Metadata::File(file)) => fault
                .fact("currentRev", &file.rev)
                .fact("currentSize", file.size)
                .fact("currentContentHash", file.content_hash.unwrap_or_default()),
            _ => fault,
        }
    }

    pub(super) async fn write_down(&self, record: &Record, settled: &Result<Settled>) {
        let written = match settled {
            Ok(settled) => match serde_json::to_string(settled) {
                Ok(outcome) => self.store.upload_committed(&record.handle.id, &outcome).await,
                Err(error) => Err(Fault::bug("an outcome could not be encoded").source(error)),
            },
            // A later look must find it, so the intent stays.
            Err(fault) if may_have_happened(fault) => Ok(()),
            // Nor does a refusal say what an earlier attempt did, of which nothing was heard.
            Err(_) if record.intended => Ok(()),
            Err(_) => self.store.commit_refused(&record.handle.id, record.writer).await,
        };
        if let Err(fault) = written {
            tracing::warn!(%fault, "the outcome of a commit could not be written down; it will be looked up");
        }
    }
}

impl Settled {
    /// What a commit gave, with what is known of the bytes that were sent.
    pub(super) fn of(file: FileMetadata, whole: Whole) -> Settled {
        let ours = whole.hash.or(whole.expected);
        let theirs = hash_of(file.content_hash.as_deref());
        let verified = ours.is_some() && ours == theirs;
        Settled { content_hash: ours.or(theirs).map(|hash| hash.to_string()), verified, file }
    }

    /// Dropbox's hash must be ours. A mismatch here is told with the revision that was written; nothing is undone.
    pub(super) fn proven(self) -> Result<Settled> {
        match hash_of(self.content_hash.as_deref()) {
            Some(ours) => self.compared(Some(ours), "the committed file is not the one that was sent"),
            None => Ok(self),
        }
    }

    /// The file is committed, and must be the one that this hash names.
    pub(super) fn named(self, hash: Option<ContentHash>) -> Result<Settled> {
        self.proven()?.compared(hash, "the upload was committed before, with other bytes than content_hash names")
    }

    fn compared(self, expected: Option<ContentHash>, text: &'static str) -> Result<Settled> {
        match (expected, hash_of(self.file.content_hash.as_deref())) {
            (Some(expected), Some(theirs)) if expected != theirs => Err(self.about(
                Fault::new(Reason::ContentHashMismatch, text)
                    .fact("expectedContentHash", expected)
                    .fact("computedContentHash", theirs),
            )),
            _ => Ok(self),
        }
    }

    /// Of whoever means something else than was committed.
    pub(super) fn about(&self, fault: Fault) -> Fault {
        fault.fact("committed", true).fact("rev", &self.file.rev)
    }
}

fn hash_of(hex: Option<&str>) -> Option<ContentHash> {
    hex.and_then(|hex| hex.parse().ok())
}

/// Whether the commit was sent and nothing that came back says what became of it.
pub(super) fn may_have_happened(fault: &Fault) -> bool {
    matches!(fault.reason(), Reason::OutcomeUnknown | Reason::DropboxProtocol) || fault.get("sent") == Some("true")
}

pub(super) fn outcome_unknown() -> Fault {
    Fault::new(Reason::OutcomeUnknown, "the commit was sent and its answer was lost")
}

/// Dropbox keeps whole seconds.
fn whole_second(at: SystemTime) -> SystemTime {
    let whole = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    SystemTime::UNIX_EPOCH + Duration::from_secs(whole)
}

/// Whether Dropbox says that bytes, or the end, are missing.
fn is_incomplete(fault: &Fault, doubt: &Doubt) -> bool {
    const TAGS: [&str; 2] = ["concurrent_session_missing_data", "concurrent_session_not_closed"];
    let tag = fault.get("dropboxTag").and_then(|tags| tags.rsplit('/').next());
    // A session whose every append was acknowledged is closed, whatever is said of it: that is our mistake, and told as such.
    tag.is_some_and(|tag| TAGS.contains(&tag) || (tag == "not_closed" && doubt.from.is_some()))
}

/// Whether the commit may have happened in spite of the fault.
fn is_unclear(fault: &Fault) -> bool {
    let gone = matches!(
        fault.reason(),
        Reason::UploadNotFound | Reason::UploadClosed | Reason::PathConflict | Reason::RevisionConflict
    );
    matches!(
        fault.reason(),
        Reason::OutcomeUnknown | Reason::DropboxUnavailable | Reason::UpstreamTimeout | Reason::DropboxProtocol
    ) || fault.get("sent") == Some("true")
        || (gone && fault.get("earlierAttempt") == Some("unknown"))
}

impl UploadSpec {
    /// As it stands in its row.
    pub(super) fn encoded(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|error| Fault::bug("a spec could not be encoded").source(error))
    }

    pub(super) fn commit_info(&self) -> CommitInfo {
        let mode = match &self.mode {
            Mode::Add => SdkMode::Add,
            Mode::Overwrite => SdkMode::Overwrite,
            Mode::Update(rev) => SdkMode::Update(rev.clone()),
        };
        let mut info = CommitInfo::new(self.path.clone())
            .with_mode(mode)
            .with_autorename(self.autorename)
            .with_mute(self.mute)
            .with_strict_conflict(self.strict_conflict);
        info.client_modified = self.client_modified.clone();
        info
    }

    /// With these switches a second commit may write a second file, so it is never sent again.
    fn repeat(&self) -> Repeat {
        if self.may_write_twice() { Repeat::Never } else { Repeat::Verify }
    }

    /// A second commit might write a second file, and a file at the path need not be this upload's.
    pub(super) fn may_write_twice(&self) -> bool {
        self.autorename || self.strict_conflict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_intent_of_a_commit_stays_while_it_may_have_happened() {
        let fault = |reason| Fault::new(reason, "x");
        for stays in [
            fault(Reason::OutcomeUnknown),
            fault(Reason::DropboxProtocol),
            fault(Reason::DeadlineExceeded).fact("sent", true),
        ] {
            assert!(may_have_happened(&stays) && is_unclear(&stays), "{stays}");
        }
        for goes in [
            fault(Reason::PathConflict),
            fault(Reason::RateLimited),
            fault(Reason::DropboxUnavailable),
            fault(Reason::DeadlineExceeded).fact("sent", false),
        ] {
            assert!(!may_have_happened(&goes), "{goes}");
        }
    }
}
