//! Closed sessions committed with one request, and what each of them came to. Two paths that are equal or lie in each other never
//! share a request.

use std::collections::HashSet;

use dropbox_sdk::files::{
    FileMetadata, UploadSessionFinishArg, UploadSessionFinishBatchArg, UploadSessionFinishBatchResultEntry,
};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};

use crate::{
    dropbox::{Caller, Repeat, Turn, entry_fault, routes},
    fault::{Fault, Reason},
    limits, telemetry,
};

/// What one commit of a batch came to.
pub(super) enum End {
    Done(Box<FileMetadata>),
    /// Nothing happened, and it may go again: others wrote in the namespace at that moment.
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
}

/// Commits closed sessions with one turn. The batch goes on under a deadline of its own, whoever leaves. `once`: a second commit
/// of one of them might write a second file.
pub(super) async fn finish_batch(
    caller: &Caller,
    turn: Turn,
    once: bool,
    commits: Vec<UploadSessionFinishArg>,
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
            let end = |fault| if nothing_happened { End::Contended(fault) } else { End::Refused(fault) };
            let ends = arg.entries.iter().map(|_| end(fault.told_again())).collect();
            return Batch { ends, request_id, took };
        }
    };
    let ends = arg.entries.iter().zip(answer.value.entries).map(|(commit, result)| {
        let error = match result {
            UploadSessionFinishBatchResultEntry::Success(file) => return End::Done(Box::new(file)),
            UploadSessionFinishBatchResultEntry::Failure(error) => error,
        };
        // What the types do not know yet has no name any more.
        let error = serde_json::to_value(&error).unwrap_or_else(|_| json!({ ".tag": "other" }));
        let fault = fault_of(commit, &error).fact_if("dropboxRequestId", answer.request_id.as_ref());
        let fault = if answer.after_unclear { fault.fact("earlierAttempt", "unknown") } else { fault };
        match fault.reason() {
            Reason::WriteContention => End::Contended(fault),
            // The session is not what it should be, and no commit used it up.
            Reason::UploadNotFound | Reason::UploadClosed if !answer.after_unclear => End::Alone(fault),
            Reason::ConnectorBug | Reason::UploadConcurrentWriter => End::Alone(fault),
            _ => End::Refused(fault),
        }
    });
    Batch { ends: ends.collect(), request_id: answer.request_id.clone(), took }
}

/// The fault of an entry. Where its path is refused the session keeps the bytes, as Dropbox keeps those of a `files/upload`.
fn fault_of(commit: &UploadSessionFinishArg, error: &Value) -> Fault {
    let arg = serde_json::to_string(commit).unwrap_or_default();
    let fault = entry_fault(routes::UPLOAD_SESSION_FINISH_BATCH.facts(), &arg, error);
    let kept = ["path", "too_many_write_operations"].contains(&error[".tag"].as_str().unwrap_or_default());
    if kept { fault.fact("uploadSessionId", &commit.cursor.session_id) } else { fault }
}

/// A request for several uploads.
pub(super) fn count(route: &str, entries: usize) {
    let route = route.to_owned();
    metrics::counter!(telemetry::BATCH_CALLS, "dropbox.route" => route.clone()).increment(1);
    metrics::counter!(telemetry::BATCH_ENTRIES, "dropbox.route" => route).increment(entries as u64);
}

/// Paths that are taken, with all that is above and below them.
#[derive(Default)]
pub(super) struct Paths {
    taken: HashSet<String>,
    above: HashSet<String>,
}

impl Paths {
    /// False: it meets one that was taken before. It is taken all the same, for whoever comes behind it.
    pub(super) fn take(&mut self, path: &str) -> bool {
        let above = || path.char_indices().filter(|(at, c)| *c == '/' && *at > 0).map(|(at, _)| &path[..at]);
        let meets =
            self.taken.contains(path) || self.above.contains(path) || above().any(|folder| self.taken.contains(folder));
        self.above.extend(above().map(str::to_owned));
        self.taken.insert(path.to_owned());
        !meets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_are_equal_or_lie_in_each_other_meet() {
        let mut paths = Paths::default();
        for (path, free) in [
            ("/a/b", true),
            ("/a/c", true),
            ("/a/b", false),
            ("/a", false),
            ("/a/b/c", false),
            ("/ab", true),
            ("/b", true),
            ("/b/c/d", false),
            ("/b/c", false),
            ("/c/x", true),
            ("ns:7/a", true),
            ("ns:7/a/b", false),
        ] {
            assert_eq!(paths.take(path), free, "{path}");
        }
    }
}
