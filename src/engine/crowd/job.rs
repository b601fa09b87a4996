//! A job at Dropbox: launched with the turn, asked after until it is done, told entry by entry.

use std::time::Instant;

use dropbox_sdk::types::{dbx_async, files};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Change, Kind, Told, Waiter};
use crate::{
    clock::SharedClock,
    dropbox::{Caller, CommitRoute, Facts, Route, Turn, entry_fault, routes},
    fault::{Fault, Reason, Result},
    limits, telemetry,
};

/// How a job stands.
enum Standing {
    Begun(String),
    InProgress,
    /// Of every entry what it became, or its error.
    Done(Vec<std::result::Result<files::Metadata, Value>>),
    /// Nothing was done, by this tag.
    Failed,
}

/// Commits the changes of a crowd as one job. The gate is held until it is done, for a minute at most.
pub(super) async fn run(caller: Caller, turn: Turn, kind: Kind, crowd: Vec<Waiter>, clock: SharedClock) {
    let route = facts(kind).path.to_string();
    metrics::counter!(telemetry::BATCH_CALLS, "dropbox.route" => route.clone()).increment(1);
    metrics::counter!(telemetry::BATCH_ENTRIES, "dropbox.route" => route).increment(crowd.len() as u64);
    match entries(&caller, turn, kind, &crowd, &clock).await {
        Ok(Some(entries)) if entries.len() == crowd.len() => {
            for (waiter, entry) in crowd.into_iter().zip(entries) {
                let told = match entry {
                    Ok(done) => Told::Done(Ok(done)),
                    Err(error) => told(kind, &waiter.change, &error),
                };
                let _ = waiter.answer.send(told);
            }
        }
        Ok(None) => crowd.into_iter().for_each(|waiter| _ = waiter.answer.send(Told::Alone)),
        outcome => {
            let fault = outcome.err().unwrap_or_else(|| {
                Fault::new(Reason::DropboxProtocol, "Dropbox answered for other entries than were sent")
            });
            for waiter in crowd {
                // A look that finds nothing done says nothing of a job that is under way.
                let fault = fault.told_again().fact("mayHappenYet", true);
                let _ = waiter.answer.send(Told::Done(Err(fault)));
            }
        }
    }
}

/// What single entries say that is about the batch sends them alone.
fn told(kind: Kind, change: &Change, error: &Value) -> Told {
    let arg = match change {
        Change::Delete(arg) => serde_json::to_string(arg),
        Change::CreateFolder(arg) => serde_json::to_string(arg),
        Change::Move(arg) | Change::Copy(arg) => serde_json::to_string(arg),
    };
    let fault = entry_fault(facts(kind), &arg.unwrap_or_default(), error);
    match fault.reason() {
        Reason::WriteContention | Reason::DuplicatePaths => Told::Alone,
        _ => Told::Done(Err(fault)),
    }
}

fn facts(kind: Kind) -> &'static Facts {
    match kind {
        Kind::Delete => routes::DELETE_BATCH.facts(),
        Kind::CreateFolder { .. } => routes::CREATE_FOLDER_BATCH.facts(),
        Kind::Move { .. } => routes::MOVE_BATCH.facts(),
        Kind::Copy { .. } => routes::COPY_BATCH.facts(),
    }
}

/// `None`: nothing was done.
async fn entries(
    caller: &Caller,
    turn: Turn,
    kind: Kind,
    crowd: &[Waiter],
    clock: &SharedClock,
) -> Result<Option<Vec<std::result::Result<files::Metadata, Value>>>> {
    let begun = Instant::now();
    let launching = caller.with_deadline(Some(begun + limits::COMMIT_TIME_OWN));
    let mut standing = launch(&launching, &turn, kind, crowd).await?;
    let asking = caller.with_deadline(Some(begun + limits::DEADLINE_MAX));
    let mut turn = Some(turn);
    let mut wait = limits::JOB_POLL_FIRST;
    let mut id = String::new();
    loop {
        match standing {
            Standing::Done(entries) => return Ok(Some(entries)),
            Standing::Failed => return Ok(None),
            Standing::Begun(begun) => id = begun,
            Standing::InProgress => {}
        }
        clock.sleep(wait).await;
        wait = (wait * 2).min(limits::JOB_POLL_MAX);
        if begun.elapsed() >= limits::COMMIT_TIME_OWN {
            turn = None;
        }
        standing = match check(&asking, kind, &id).await {
            Ok(standing) => standing,
            Err(fault) => {
                drop(turn);
                let text = "the change was begun, and Dropbox does not say what became of it";
                return Err(Fault::new(Reason::OutcomeUnknown, text).source(fault));
            }
        };
    }
}

async fn launch(caller: &Caller, turn: &Turn, kind: Kind, crowd: &[Waiter]) -> Result<Standing> {
    let relocations = || {
        crowd.iter().filter_map(|waiter| match &waiter.change {
            Change::Move(arg) | Change::Copy(arg) => {
                Some(files::RelocationPath::new(arg.from_path.clone(), arg.to_path.clone()))
            }
            _ => None,
        })
    };
    Ok(match kind {
        Kind::Delete => {
            let entries = crowd.iter().filter_map(|waiter| match &waiter.change {
                Change::Delete(arg) => Some(arg.clone()),
                _ => None,
            });
            let arg = files::DeleteBatchArg::new(entries.collect());
            match commit(caller, turn, &routes::DELETE_BATCH, &arg).await? {
                files::DeleteBatchLaunch::AsyncJobId(id) => Standing::Begun(id),
                files::DeleteBatchLaunch::Complete(result) => Standing::Done(deleted(result)),
                _ => return Err(strange()),
            }
        }
        Kind::CreateFolder { autorename } => {
            let paths = crowd.iter().filter_map(|waiter| match &waiter.change {
                Change::CreateFolder(arg) => Some(arg.path.clone()),
                _ => None,
            });
            let arg = files::CreateFolderBatchArg::new(paths.collect()).with_autorename(autorename);
            match commit(caller, turn, &routes::CREATE_FOLDER_BATCH, &arg).await? {
                files::CreateFolderBatchLaunch::AsyncJobId(id) => Standing::Begun(id),
                files::CreateFolderBatchLaunch::Complete(result) => Standing::Done(made(result)),
                _ => return Err(strange()),
            }
        }
        Kind::Move { autorename, transfer } => {
            let arg = files::MoveBatchArg::new(relocations().collect())
                .with_autorename(autorename)
                .with_allow_ownership_transfer(transfer);
            launched(commit(caller, turn, &routes::MOVE_BATCH, &arg).await?)
        }
        Kind::Copy { autorename } => {
            let arg = files::CopyBatchArg::new(relocations().collect()).with_autorename(autorename);
            launched(commit(caller, turn, &routes::COPY_BATCH, &arg).await?)
        }
    })
}

async fn commit<A: Serialize, R: serde::de::DeserializeOwned>(
    caller: &Caller,
    turn: &Turn,
    route: &CommitRoute<A, R>,
    arg: &A,
) -> Result<R> {
    Ok(caller.commit(turn, route, arg).await?.value)
}

async fn check(caller: &Caller, kind: Kind, id: &str) -> Result<Standing> {
    let arg = dbx_async::PollArg::new(id.to_owned());
    Ok(match kind {
        Kind::Delete => match ask(caller, &routes::DELETE_BATCH_CHECK, &arg).await? {
            files::DeleteBatchJobStatus::InProgress => Standing::InProgress,
            files::DeleteBatchJobStatus::Complete(result) => Standing::Done(deleted(result)),
            files::DeleteBatchJobStatus::Failed(_) => Standing::Failed,
            _ => return Err(strange()),
        },
        Kind::CreateFolder { .. } => match ask(caller, &routes::CREATE_FOLDER_BATCH_CHECK, &arg).await? {
            files::CreateFolderBatchJobStatus::InProgress => Standing::InProgress,
            files::CreateFolderBatchJobStatus::Complete(result) => Standing::Done(made(result)),
            files::CreateFolderBatchJobStatus::Failed(_) => Standing::Failed,
            _ => return Err(strange()),
        },
        Kind::Move { .. } => relocated(ask(caller, &routes::MOVE_BATCH_CHECK, &arg).await?),
        Kind::Copy { .. } => relocated(ask(caller, &routes::COPY_BATCH_CHECK, &arg).await?),
    })
}

async fn ask<R: serde::de::DeserializeOwned>(
    caller: &Caller,
    route: &Route<dbx_async::PollArg, R>,
    arg: &dbx_async::PollArg,
) -> Result<R> {
    Ok(caller.call(route, arg).await?.value)
}

fn launched(launch: files::RelocationBatchV2Launch) -> Standing {
    match launch {
        files::RelocationBatchV2Launch::AsyncJobId(id) => Standing::Begun(id),
        files::RelocationBatchV2Launch::Complete(result) => Standing::Done(relocations(result)),
    }
}

fn relocated(status: files::RelocationBatchV2JobStatus) -> Standing {
    match status {
        files::RelocationBatchV2JobStatus::InProgress => Standing::InProgress,
        files::RelocationBatchV2JobStatus::Complete(result) => Standing::Done(relocations(result)),
    }
}

fn deleted(result: files::DeleteBatchResult) -> Vec<std::result::Result<files::Metadata, Value>> {
    let entry = |entry| match entry {
        files::DeleteBatchResultEntry::Success(data) => Ok(data.metadata),
        files::DeleteBatchResultEntry::Failure(error) => Err(value(&error)),
    };
    result.entries.into_iter().map(entry).collect()
}

fn made(result: files::CreateFolderBatchResult) -> Vec<std::result::Result<files::Metadata, Value>> {
    let entry = |entry| match entry {
        files::CreateFolderBatchResultEntry::Success(data) => Ok(files::Metadata::Folder(data.metadata)),
        files::CreateFolderBatchResultEntry::Failure(error) => Err(value(&error)),
    };
    result.entries.into_iter().map(entry).collect()
}

fn relocations(result: files::RelocationBatchV2Result) -> Vec<std::result::Result<files::Metadata, Value>> {
    let entry = |entry| match entry {
        files::RelocationBatchResultEntry::Success(metadata) => Ok(metadata),
        files::RelocationBatchResultEntry::Failure(error) => Err(value(&error)),
        _ => Err(json!({ ".tag": "other" })),
    };
    result.entries.into_iter().map(entry).collect()
}

/// What the types do not know yet has no name any more.
fn value(error: &impl Serialize) -> Value {
    serde_json::to_value(error).unwrap_or_else(|_| json!({ ".tag": "other" }))
}

fn strange() -> Fault {
    Fault::new(Reason::DropboxProtocol, "Dropbox says of a job what is not known here")
}
