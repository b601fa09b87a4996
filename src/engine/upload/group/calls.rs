//! The three requests of a group, and what each of their entries came to.

use bytes::Bytes;
use dropbox_sdk::files::{
    UploadSessionAppendBatchArg, UploadSessionAppendBatchArgEntry, UploadSessionAppendBatchEntryError,
    UploadSessionAppendBatchResultEntry, UploadSessionCursor, UploadSessionFinishArg, UploadSessionStartBatchArg,
    UploadSessionType,
};
use tokio::{
    task::yield_now,
    time::{Duration, Instant},
};

use super::{
    super::finish::{Batch, End, doubted, finish_batch},
    Entry, Told,
    batch::Closed,
};
use crate::{
    dropbox::{Caller, Turn, routes},
    engine::{
        content_hash::{ContentHash, ContentHasher},
        together::count,
    },
    fault::{Reason, Result},
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

/// Commits closed sessions with one turn.
pub(super) async fn finish(caller: &Caller, turn: Turn, batch: Vec<Closed>) -> Finished {
    let once = batch.iter().any(|closed| closed.entry.once);
    let doubts: Vec<bool> = batch.iter().map(|closed| closed.unclear).collect();
    let Batch { ends, request_id, took, unclear } =
        finish_batch(caller, turn, once, batch.iter().map(commit).collect(), &doubts).await;
    let mut finished = Finished { told: Vec::new(), contended: Vec::new(), entries: batch.len(), took };
    let done = |outcome| Told::Done { outcome, request_id: request_id.clone() };
    for (mut closed, end) in batch.into_iter().zip(ends) {
        closed.unclear |= unclear;
        match end {
            End::Done(file) => finished.told.push((closed.entry, done(Ok(file)))),
            End::Unsent(_) | End::Contended(_) if closed.entry.contentions < limits::BATCH_CONTENTIONS_MAX => {
                closed.entry.contentions += 1;
                // For good: it does not go back among others.
                closed.entry.by_itself |= matches!(end, End::Contended(_));
                closed.entry.sent.set(closed.unclear);
                finished.contended.push(closed);
            }
            End::Unsent(fault) | End::Contended(fault) => {
                let fault = if closed.unclear { doubted(fault) } else { fault };
                finished.told.push((closed.entry, done(Err(fault))));
            }
            End::Refused(fault) => finished.told.push((closed.entry, done(Err(fault)))),
            End::Alone(fault) => {
                tracing::info!(%fault, "an entry is sent again by itself");
                closed.entry.sent.set(false);
                finished.told.push((closed.entry, Told::Alone));
            }
        }
    }
    finished
}

fn commit(closed: &Closed) -> UploadSessionFinishArg {
    let cursor = UploadSessionCursor::new(closed.session.clone(), closed.entry.size);
    UploadSessionFinishArg::new(cursor, closed.entry.commit.clone())
}
