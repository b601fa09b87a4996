//! The three requests of a group, and what each of their entries came to.

use bytes::Bytes;
use dropbox_sdk::files::{
    UploadSessionAppendBatchArg, UploadSessionAppendBatchArgEntry, UploadSessionAppendBatchEntryError,
    UploadSessionAppendBatchResultEntry, UploadSessionCursor, UploadSessionFinishArg, UploadSessionFinishBatchArg,
    UploadSessionFinishBatchResultEntry, UploadSessionStartBatchArg, UploadSessionType,
};
use serde_json::{Value, json};
use tokio::{
    task::yield_now,
    time::{Duration, Instant},
};

use super::{super::commit::outcome_unknown, Entry, Told, batch::Closed};
use crate::{
    dropbox::{Caller, Repeat, Turn, entry_fault, routes},
    engine::{
        content_hash::{ContentHash, ContentHasher},
        together::count,
    },
    fault::{Fault, Reason, Result},
    limits,
};

/// Sessions for entries to come.
pub(super) async fn sessions(caller: &Caller, count: usize) -> Result<Vec<String>> {
    let mut arg = UploadSessionStartBatchArg::new(count as u64);
    arg.session_type = Some(UploadSessionType::Concurrent);
    Ok(caller.call(&routes::UPLOAD_SESSION_START_BATCH, &arg).await?.value.session_ids)
}

/// What came of sending the bytes of some entries.
pub(super) struct Appended {
    pub there: Vec<Closed>,
    /// Their bytes did not arrive.
    pub lost: Vec<Entry>,
    /// Dropbox does not take the request as it is built.
    pub malformed: bool,
    pub took: Duration,
}

/// Sends the bytes of entries into their sessions and closes these.
pub(super) async fn append(caller: &Caller, entries: Vec<(Entry, String)>) -> Appended {
    let route = &routes::UPLOAD_SESSION_APPEND_BATCH;
    count(&route.facts().path, entries.len());
    let body: Vec<Bytes> = entries.iter().flat_map(|(entry, _)| entry.body.iter().cloned()).collect();
    let mut arg =
        UploadSessionAppendBatchArg::new(entries.iter().map(|(entry, session)| piece(entry, session)).collect());
    arg.content_hash = Some(hash(&body).await.to_string());
    let started = Instant::now();
    let sent = match caller.upload(route, &arg, &body).await {
        // Damaged on the way: once more.
        Err(fault) if fault.reason() == Reason::ContentHashMismatch => caller.upload(route, &arg, &body).await,
        sent => sent,
    };
    let took = started.elapsed();
    let mut appended = Appended { there: Vec::new(), lost: Vec::new(), malformed: false, took };
    let now = Instant::now();
    match sent {
        Ok(answer) if answer.value.entries.len() == entries.len() => {
            for ((mut entry, session), result) in entries.into_iter().zip(&answer.value.entries) {
                if is_there(result, entry.size, answer.after_unclear) {
                    // Kept at Dropbox from here on.
                    entry.body.clear();
                    appended.there.push(Closed { entry, session, since: now, unclear: false });
                } else {
                    tracing::debug!(?result, "the bytes of an entry did not arrive");
                    appended.lost.push(entry);
                }
            }
        }
        sent => {
            appended.malformed = sent
                .as_ref()
                .err()
                .is_some_and(|fault| matches!(fault.reason(), Reason::DropboxBadRequest | Reason::ConnectorBug));
            match sent {
                Ok(_) => tracing::warn!("Dropbox answered for other entries than were sent"),
                Err(fault) => tracing::debug!(%fault, "a batch of bytes did not arrive"),
            }
            appended.lost.extend(entries.into_iter().map(|(entry, _)| entry));
        }
    }
    appended
}

fn piece(entry: &Entry, session: &str) -> UploadSessionAppendBatchArgEntry {
    let cursor = UploadSessionCursor::new(session.to_owned(), 0);
    UploadSessionAppendBatchArgEntry::new(cursor, entry.size).with_close(true)
}

/// The blocks of a body straddle files, so it is hashed once more.
async fn hash(body: &[Bytes]) -> ContentHash {
    let mut hasher = ContentHasher::new();
    for piece in body {
        for step in piece.chunks(limits::HASH_STEP_BYTES) {
            hasher.update(step);
            yield_now().await;
        }
    }
    hasher.finish()
}

/// A refusal that names the end of the entry, or that it is closed, is the echo of an attempt whose answer was lost. If it is
/// not, the commit says so.
fn is_there(result: &UploadSessionAppendBatchResultEntry, size: u64, after_unclear: bool) -> bool {
    match result {
        UploadSessionAppendBatchResultEntry::Success => true,
        UploadSessionAppendBatchResultEntry::Failure(UploadSessionAppendBatchEntryError::Closed) => after_unclear,
        UploadSessionAppendBatchResultEntry::Failure(UploadSessionAppendBatchEntryError::IncorrectOffset(told)) => {
            after_unclear && told.correct_offset == size
        }
        UploadSessionAppendBatchResultEntry::Failure(_) => false,
    }
}

/// What came of a batch of commits.
pub(super) struct Finished {
    /// To be told to their callers.
    pub told: Vec<(Entry, Told)>,
    /// Others wrote in the namespace at that moment: nothing happened then.
    pub contended: Vec<Closed>,
    pub entries: usize,
    pub took: Duration,
}

/// Commits closed sessions with one turn. The batch goes on under a deadline of its own, whoever leaves.
pub(super) async fn finish(caller: &Caller, turn: Turn, batch: Vec<Closed>) -> Finished {
    let once = batch.iter().any(|closed| closed.entry.once);
    let repeat = if once { Repeat::Never } else { Repeat::Verify };
    let route = routes::UPLOAD_SESSION_FINISH_BATCH.repeating(repeat);
    count(&routes::UPLOAD_SESSION_FINISH_BATCH.facts().path, batch.len());
    let arg = UploadSessionFinishBatchArg::new(batch.iter().map(commit).collect());
    let started = Instant::now();
    let own = caller.with_deadline(Some((started + limits::COMMIT_TIME_OWN).into_std()));
    let sent = own.commit(&turn, &route, &arg).await;
    drop(turn);
    let entries = batch.len();
    let mut finished = Finished { told: Vec::new(), contended: Vec::new(), entries, took: started.elapsed() };
    let answer = match sent {
        Ok(answer) if answer.value.entries.len() == entries => answer,
        sent => {
            let fault = sent.err().unwrap_or_else(|| {
                Fault::new(Reason::DropboxProtocol, "Dropbox answered for other entries than were sent")
                    .fact("dropboxRoute", &route.facts().path)
            });
            // It was not sent, or not carried out: as with single ones, there is another turn.
            let nothing_happened = fault.reason() == Reason::WriteContention || fault.get("sent") == Some("false");
            for closed in batch {
                finished.refused(closed, fault.told_again(), nothing_happened);
            }
            return finished;
        }
    };
    for (mut closed, result) in batch.into_iter().zip(answer.value.entries) {
        closed.unclear |= answer.after_unclear;
        let error = match result {
            UploadSessionFinishBatchResultEntry::Success(file) => {
                finished.told.push((closed.entry, Told::Done(Ok(Box::new(file)))));
                continue;
            }
            UploadSessionFinishBatchResultEntry::Failure(error) => error,
        };
        // What the types do not know yet has no name any more.
        let error = serde_json::to_value(&error).unwrap_or_else(|_| json!({ ".tag": "other" }));
        let fault = fault_of(&closed, &error).fact_if("dropboxRequestId", answer.request_id.as_ref());
        match fault.reason() {
            Reason::WriteContention => finished.refused(closed, fault, true),
            // The session is not what it should be, and no commit used it up.
            Reason::UploadNotFound | Reason::UploadClosed | Reason::ConnectorBug | Reason::UploadConcurrentWriter
                if !closed.unclear =>
            {
                finished.alone(closed, &fault);
            }
            _ => finished.refused(closed, fault, false),
        }
    }
    finished
}

impl Finished {
    fn alone(&mut self, closed: Closed, fault: &Fault) {
        tracing::info!(%fault, "an entry is sent again by itself");
        closed.entry.sent.set(false);
        self.told.push((closed.entry, Told::Alone));
    }

    fn refused(&mut self, mut closed: Closed, fault: Fault, again: bool) {
        if again && closed.entry.contentions < limits::BATCH_CONTENTIONS_MAX {
            closed.entry.contentions += 1;
            closed.entry.sent.set(closed.unclear);
            self.contended.push(closed);
            return;
        }
        let fault = if closed.unclear { doubted(fault) } else { fault };
        self.told.push((closed.entry, Told::Done(Err(fault))));
    }
}

/// A refusal after a commit that may have been executed. One of the session or the path may be the echo of it, so it is looked
/// for; any other settles nothing.
fn doubted(fault: Fault) -> Fault {
    let of_session = matches!(fault.reason(), Reason::UploadNotFound | Reason::UploadClosed);
    let of_path = fault.reason() != Reason::WriteContention && fault.get("uploadSessionId").is_some();
    match of_session || of_path {
        true => fault.fact("earlierAttempt", "unknown"),
        false if fault.reason() == Reason::OutcomeUnknown => fault,
        false => outcome_unknown().source(fault),
    }
}

fn commit(closed: &Closed) -> UploadSessionFinishArg {
    let cursor = UploadSessionCursor::new(closed.session.clone(), closed.entry.size);
    UploadSessionFinishArg::new(cursor, closed.entry.commit.clone())
}

/// The fault of an entry. Where its path is refused the session keeps the bytes, as Dropbox keeps those of a `files/upload`.
fn fault_of(closed: &Closed, error: &Value) -> Fault {
    let arg = serde_json::to_string(&commit(closed)).unwrap_or_default();
    let fault = entry_fault(routes::UPLOAD_SESSION_FINISH_BATCH.facts(), &arg, error);
    let kept = ["path", "too_many_write_operations"].contains(&error[".tag"].as_str().unwrap_or_default());
    if kept { fault.fact("uploadSessionId", &closed.session) } else { fault }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_lost_answer_a_refusal_is_looked_into_or_settles_nothing() {
        let fault = |reason| Fault::new(reason, "x");
        let of_path = |reason| fault(reason).fact("uploadSessionId", "s");
        for echo in [
            fault(Reason::UploadNotFound),
            fault(Reason::UploadClosed),
            of_path(Reason::PathConflict),
            of_path(Reason::RevisionConflict),
            of_path(Reason::InsufficientSpace),
        ] {
            let reason = echo.reason();
            let told = doubted(echo);
            assert_eq!((told.reason(), told.get("earlierAttempt")), (reason, Some("unknown")));
        }
        for nothing in [
            of_path(Reason::WriteContention),
            fault(Reason::RateLimited),
            fault(Reason::ConnectorBug),
            fault(Reason::UploadConcurrentWriter),
            fault(Reason::OutcomeUnknown),
        ] {
            assert_eq!(doubted(nothing).reason(), Reason::OutcomeUnknown);
        }
    }
}
