//! Closed sessions committed with one request, and what each of them came to.

use dropbox_sdk::files::{
    FileMetadata, UploadSessionFinishArg, UploadSessionFinishBatchArg, UploadSessionFinishBatchResultEntry,
};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};

use super::commit::outcome_unknown;
use crate::{
    dropbox::{Caller, Repeat, Turn, entry_fault, routes},
    engine::together::count,
    fault::{Fault, Reason},
    limits,
};

/// What one commit of a batch came to.
pub(super) enum End {
    Done(Box<FileMetadata>),
    /// Nothing happened to any of the batch, and it may go again as it is: others wrote in the namespace at that moment.
    Unsent(Fault),
    /// Nothing happened to this one, though to others: something was in its own way, and it may go again by itself.
    Contended(Fault),
    /// Nothing happened. Its session is not what a batch takes.
    Alone(Fault),
    /// Refused, or nobody knows.
    Refused(Fault),
}

/// What a batch of commits came to, in its order.
pub(super) struct Batch {
    pub ends: Vec<End>,
    pub request_id: Option<String>,
    pub took: Duration,
    /// Whatever this answer says, an attempt before it may have been executed: so it is from now on with all of them.
    pub unclear: bool,
}

/// Commits closed sessions with one turn. The batch goes on under a deadline of its own, whoever leaves. `once`: a second commit
/// of one of them might write a second file. `doubts`: which of them may have been committed by a batch before.
pub(super) async fn finish_batch(
    caller: &Caller,
    turn: Turn,
    once: bool,
    commits: Vec<UploadSessionFinishArg>,
    doubts: &[bool],
) -> Batch {
    let repeat = if once { Repeat::Never } else { Repeat::Verify };
    let route = routes::UPLOAD_SESSION_FINISH_BATCH.repeating(repeat);
    count(&routes::UPLOAD_SESSION_FINISH_BATCH.facts().path, commits.len());
    let arg = UploadSessionFinishBatchArg::new(commits);
    let started = Instant::now();
    let own = caller.with_deadline(Some((started + limits::COMMIT_TIME_OWN).into_std()));
    let sent = own.commit(&turn, &route, &arg).await;
    drop(turn);
    let took = started.elapsed();
    let answer = match sent {
        Ok(answer) if answer.value.entries.len() == arg.entries.len() => answer,
        sent => {
            let fault = sent.err().unwrap_or_else(|| {
                Fault::new(Reason::DropboxProtocol, "Dropbox answered for other entries than were sent")
                    .fact("dropboxRoute", &route.facts().path)
            });
            // It was not sent, or not carried out: as with single ones, there is another turn.
            let nothing_happened = fault.reason() == Reason::WriteContention || fault.get("sent") == Some("false");
            let request_id = fault.get("dropboxRequestId").map(str::to_owned);
            let end = |doubt: &bool| match (nothing_happened, fault.told_again()) {
                (true, fault) => End::Unsent(fault),
                (false, fault) => End::Refused(if *doubt { doubted(fault) } else { fault }),
            };
            return Batch { ends: doubts.iter().map(end).collect(), request_id, took, unclear: false };
        }
    };
    let ends = arg.entries.iter().zip(answer.value.entries).zip(doubts).map(|((commit, result), doubt)| {
        let error = match result {
            UploadSessionFinishBatchResultEntry::Success(file) => return End::Done(Box::new(file)),
            UploadSessionFinishBatchResultEntry::Failure(error) => error,
        };
        // What the types do not know yet has no name any more.
        let error = serde_json::to_value(&error).unwrap_or_else(|_| json!({ ".tag": "other" }));
        let fault = fault_of(commit, &error).fact_if("dropboxRequestId", answer.request_id.as_ref());
        match fault.reason() {
            Reason::WriteContention => End::Contended(fault),
            _ if *doubt || answer.after_unclear => End::Refused(doubted(fault)),
            // The session is not what it should be, and no commit used it up.
            Reason::UploadNotFound | Reason::UploadClosed | Reason::ConnectorBug | Reason::UploadConcurrentWriter => {
                End::Alone(fault)
            }
            _ => End::Refused(fault),
        }
    });
    Batch { ends: as_one(ends.collect()), request_id: answer.request_id.clone(), took, unclear: answer.after_unclear }
}

/// Where all met contention it was the namespace's, and they go together again.
fn as_one(ends: Vec<End>) -> Vec<End> {
    if !ends.iter().all(|end| matches!(end, End::Contended(_))) {
        return ends;
    }
    let unsent = |end| if let End::Contended(fault) = end { End::Unsent(fault) } else { end };
    ends.into_iter().map(unsent).collect()
}

/// A refusal after a commit that may have been executed. One of the session or the path may be the echo of it, so it is looked
/// for; any other settles nothing.
pub(super) fn doubted(fault: Fault) -> Fault {
    let of_session = matches!(fault.reason(), Reason::UploadNotFound | Reason::UploadClosed);
    let of_path = fault.reason() != Reason::WriteContention && fault.get("uploadSessionId").is_some();
    match of_session || of_path {
        true => fault.fact("earlierAttempt", "unknown"),
        false if fault.reason() == Reason::OutcomeUnknown => fault,
        false => outcome_unknown().source(fault),
    }
}

/// The fault of an entry. Where its path is refused the session keeps the bytes, as Dropbox keeps those of a `files/upload`.
fn fault_of(commit: &UploadSessionFinishArg, error: &Value) -> Fault {
    let arg = serde_json::to_string(commit).unwrap_or_default();
    let fault = entry_fault(routes::UPLOAD_SESSION_FINISH_BATCH.facts(), &arg, error);
    let kept = ["path", "too_many_write_operations"].contains(&error[".tag"].as_str().unwrap_or_default());
    if kept { fault.fact("uploadSessionId", &commit.cursor.session_id) } else { fault }
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
