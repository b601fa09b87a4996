//! The requests of a group: launches, looks at jobs, single routes; and what each entry came to.

use std::time::Duration;

use dropbox_sdk::{
    dbx_async::PollArg,
    files::{
        CopyBatchArg, CreateFolderArg, CreateFolderBatchArg, CreateFolderBatchError, CreateFolderBatchJobStatus,
        CreateFolderBatchLaunch, CreateFolderBatchResult, CreateFolderBatchResultEntry, DeleteBatchArg,
        DeleteBatchError, DeleteBatchJobStatus, DeleteBatchLaunch, DeleteBatchResult, DeleteBatchResultEntry, Metadata,
        MoveBatchArg, RelocationArg, RelocationBatchErrorEntry, RelocationBatchResultEntry, RelocationBatchV2JobStatus,
        RelocationBatchV2Launch, RelocationBatchV2Result, RelocationPath,
    },
};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Change, Entry, Group, Kind, Shared, Told, lost};
use crate::{
    dropbox::{Answer, Caller, Facts, Repeat, Turn, entry_fault, routes},
    engine::together::count,
    fault::{Fault, Reason, Result},
    limits,
};

/// By the single route.
pub(super) async fn alone(caller: &Caller, turn: &Turn, change: &Change) -> Result<Metadata> {
    match change {
        Change::Folder { path, autorename } => {
            let arg = CreateFolderArg::new(path.clone()).with_autorename(*autorename);
            let repeat = if *autorename { Repeat::Never } else { Repeat::Verify };
            let made = caller.commit(turn, &routes::CREATE_FOLDER.repeating(repeat), &arg).await?;
            Ok(Metadata::Folder(made.value.metadata))
        }
        Change::Delete(arg) => Ok(caller.commit(turn, &routes::DELETE, arg).await?.value.metadata),
        Change::Move { paths, autorename, transfer } => {
            let arg = RelocationArg::new(paths.from_path.clone(), paths.to_path.clone())
                .with_autorename(*autorename)
                .with_allow_ownership_transfer(*transfer);
            Ok(caller.commit(turn, &routes::MOVE, &arg).await?.value.metadata)
        }
        Change::Copy { paths, autorename } => {
            let arg = RelocationArg::new(paths.from_path.clone(), paths.to_path.clone()).with_autorename(*autorename);
            Ok(caller.commit(turn, &routes::COPY, &arg).await?.value.metadata)
        }
    }
}

/// What came of a batch, for those who were not told.
pub(super) struct Ended {
    /// They go again.
    pub again: Vec<Entry>,
    /// Those that others got in the way of, all at once, wait so long at least.
    pub told_to_wait: Duration,
}

/// What is known of a batch.
enum Status {
    Job(String),
    /// Entry by entry.
    Complete(Vec<One>),
    /// Others wrote in the namespace: nothing was done.
    Contended,
    /// Nothing was done, and not for what others did.
    Refused,
    /// It is over, and what it did is not known.
    Failed,
    /// Nobody hears of it any more, and it may be under way.
    Lost,
}

/// What is known of an entry.
enum One {
    Done(Box<Metadata>),
    /// With the error of the single route.
    Failed(Value),
    Unknown,
}

/// One batch with one turn, from its launch to its end. It goes on under a deadline of its own, whoever leaves.
pub(super) async fn run(shared: &Shared, group: &Group, turn: Turn, entries: Vec<Entry>) -> Ended {
    let kind = group.key.kind;
    let route = kind.launch_route();
    count(&route.path, entries.len());
    let started = shared.clock.steady();
    let own = group.caller.with_deadline(Some((Instant::now() + limits::COMMIT_TIME_OWN).into_std()));
    let launched = launch(&own, &turn, kind, &entries).await;
    // Said before the turn goes on: who has it next asks how many may go with it.
    let leave = |turn: Turn| {
        let took = shared.clock.steady().saturating_sub(started);
        group.took(entries.len(), took, turn.is_wanted_by_others());
    };
    let (status, request_id) = match launched {
        Ok(Answer { value: Status::Job(id), .. }) => {
            let followed = follow(shared, group, &id, &entries);
            tokio::pin!(followed);
            tokio::select! {
                ended = &mut followed => {
                    leave(turn);
                    ended
                }
                () = shared.clock.sleep(limits::BATCH_JOB_HOLD) => {
                    tracing::info!(route = %route.path, "a job takes long: others go on beside it");
                    leave(turn);
                    followed.await
                }
            }
        }
        // Whoever is told may come again at once: the gate is free by then.
        Ok(answer) => {
            leave(turn);
            (answer.value, answer.request_id)
        }
        Err(fault) => {
            drop(turn);
            return refused(kind, &fault, entries);
        }
    };
    let mut ended = Ended::new();
    let outcomes = match status {
        Status::Complete(outcomes) if outcomes.len() == entries.len() => outcomes,
        Status::Contended => {
            let fault = Fault::new(Reason::WriteContention, "others write in the same namespace at this moment")
                .fact("dropboxTag", "too_many_write_operations")
                .retry_after(limits::BUSY_RETRY);
            ended.contended_together(entries, &fault);
            return ended;
        }
        Status::Refused => {
            ended.each_alone(entries);
            return ended;
        }
        Status::Failed => {
            let over = Fault::new(Reason::OutcomeUnknown, "Dropbox's job failed; it may have been done")
                .fact("dropboxRoute", &route.path)
                .fact_if("dropboxRequestId", request_id.as_ref());
            entries.into_iter().for_each(|entry| ended.unclear(kind, entry, over.told_again()));
            return ended;
        }
        Status::Complete(_) | Status::Job(_) | Status::Lost => {
            tracing::info!(route = %route.path, "what a job came to is not heard any more");
            ended.lost(kind, entries, &lost().fact("dropboxRoute", &route.path));
            return ended;
        }
    };
    for (entry, outcome) in entries.into_iter().zip(outcomes) {
        ended.outcome(kind, entry, outcome, request_id.as_ref());
    }
    ended
}

/// The launch was refused, or what came of it is not known.
fn refused(kind: Kind, fault: &Fault, entries: Vec<Entry>) -> Ended {
    let mut ended = Ended::new();
    let unclear = matches!(fault.reason(), Reason::OutcomeUnknown | Reason::DropboxProtocol);
    if unclear || fault.get("sent") == Some("true") {
        let route = &kind.launch_route().path;
        tracing::info!(%fault, %route, "the answer to a launch was lost");
        // Its job may run: what a look does not find yet may come.
        ended.lost(kind, entries, &fault.told_again().fact("underWay", true));
        return ended;
    }
    // It was not sent, or not carried out: as with single ones, there is another turn.
    if fault.reason() == Reason::WriteContention || fault.get("sent") == Some("false") {
        ended.contended_together(entries, fault);
        return ended;
    }
    // Perhaps for one of them: each is told what is wrong with its own.
    let form = matches!(fault.get("httpStatus"), Some("400" | "404" | "409"));
    if form || fault.reason() == Reason::RouteNotAvailable {
        tracing::info!(%fault, "a batch was refused; its entries go one by one");
        ended.each_alone(entries);
        return ended;
    }
    for entry in entries {
        // What keeps it from being sent again says nothing of the time before.
        let told = match entry.losses {
            0 => fault.told_again(),
            _ => lost().source(fault.to_string()),
        };
        entry.tell(Told::Done(Err(told)));
    }
    ended
}

impl Ended {
    fn new() -> Ended {
        Ended { again: Vec::new(), told_to_wait: Duration::ZERO }
    }

    /// All of them were refused at once for what others did: they go together again.
    fn contended_together(&mut self, entries: Vec<Entry>, fault: &Fault) {
        self.told_to_wait = fault.retry_delay().unwrap_or_default();
        for entry in entries {
            self.contended(entry, fault.told_again(), false);
        }
    }

    fn contended(&mut self, mut entry: Entry, fault: Fault, alone: bool) {
        if entry.contentions >= limits::BATCH_CONTENTIONS_MAX {
            let fault = if entry.losses > 0 { lost().source(fault) } else { fault };
            entry.tell(Told::Done(Err(fault)));
            return;
        }
        entry.contentions += 1;
        entry.alone |= alone;
        self.waits(entry);
    }

    fn each_alone(&mut self, entries: Vec<Entry>) {
        for mut entry in entries {
            entry.alone = true;
            self.waits(entry);
        }
    }

    /// It stands in the queue again, and can be withdrawn again if nothing has happened.
    fn waits(&mut self, entry: Entry) {
        if entry.losses == 0 {
            entry.sent.set(false);
        }
        self.again.push(entry);
    }

    /// Nobody hears of the job any more, and it may be under way. What may be done twice goes again; the rest is looked for.
    fn lost(&mut self, kind: Kind, entries: Vec<Entry>, fault: &Fault) {
        for mut entry in entries {
            if !kind.is_repeatable() {
                entry.tell(Told::Done(Err(fault.told_again())));
                continue;
            }
            entry.losses += 1;
            // Two lost batches are two too many.
            entry.alone |= entry.losses > 1;
            self.waits(entry);
        }
    }

    /// The job is over, and whether it did this is not known.
    fn unclear(&mut self, kind: Kind, mut entry: Entry, fault: Fault) {
        if !kind.is_repeatable() {
            entry.tell(Told::Done(Err(fault)));
            return;
        }
        entry.losses += 1;
        entry.alone = true;
        self.waits(entry);
    }

    fn outcome(&mut self, kind: Kind, entry: Entry, outcome: One, request_id: Option<&String>) {
        let route = kind.launch_route();
        let error = match outcome {
            One::Done(metadata) => return entry.tell(Told::Done(Ok(metadata))),
            One::Unknown => {
                let fault = Fault::new(Reason::OutcomeUnknown, "Dropbox does not know what came of it")
                    .fact("dropboxRoute", &route.path)
                    .fact_if("dropboxRequestId", request_id);
                return self.unclear(kind, entry, fault);
            }
            One::Failed(error) => error,
        };
        let fault = entry_fault(route, &entry.change.arg(), &error).fact_if("dropboxRequestId", request_id);
        let fault = if entry.losses > 0 { fault.fact("earlierAttempt", "unknown") } else { fault };
        match fault.reason() {
            Reason::WriteContention => self.contended(entry, fault, true),
            // Two names of one place, which only Dropbox knows to be one.
            Reason::DuplicatePaths => self.each_alone(vec![entry]),
            Reason::OutcomeUnknown => self.unclear(kind, entry, fault),
            _ => entry.tell(Told::Done(Err(fault))),
        }
    }
}

/// Looks at a job until it is over. Once the gate is free again it does so for those who still wait only.
async fn follow(shared: &Shared, group: &Group, id: &str, entries: &[Entry]) -> (Status, Option<String>) {
    let since = shared.clock.steady();
    let mut pause = limits::BATCH_JOB_LOOK_FIRST;
    loop {
        // Not all jobs of a process at the same moment.
        shared.clock.sleep(pause.mul_f64(0.75 + 0.25 * rand::random::<f64>())).await;
        let caller = group.caller.with_deadline(Some((Instant::now() + limits::COMMIT_TIME_OWN).into_std()));
        match check(&caller, group.key.kind, id).await {
            Ok(Answer { value: Some(status), request_id, .. }) => return (status, request_id),
            Ok(_) => {}
            Err(fault) => {
                tracing::info!(%fault, "a job could not be looked at");
                match fault.reason() {
                    Reason::JobNotFound => return (Status::Lost, None),
                    // Something went wrong with it on Dropbox's side.
                    Reason::DropboxInternal => return (Status::Failed, None),
                    Reason::DropboxProtocol | Reason::DeadlineExceeded => {}
                    // It will not be told later either, and the gate is not held for that.
                    _ if fault.retry_delay().is_none() => return (Status::Lost, None),
                    _ => {}
                }
            }
        }
        let age = shared.clock.steady().saturating_sub(since);
        let wanted = entries.iter().any(Entry::is_wanted);
        if age >= limits::BATCH_JOB_FOLLOWED_MAX || (age >= limits::BATCH_JOB_HOLD && !wanted) {
            return (Status::Lost, None);
        }
        // While it holds the gate others wait for whoever looks.
        let most = if age < limits::BATCH_JOB_HOLD { limits::BATCH_JOB_LOOK_MAX } else { limits::BATCH_JOB_LOOK_LATE };
        pause = (pause * 2).min(most);
    }
}

impl Kind {
    pub(super) fn launch_route(self) -> &'static Facts {
        match self {
            Kind::Folders { .. } => routes::CREATE_FOLDER_BATCH.facts(),
            Kind::Deletions => routes::DELETE_BATCH.facts(),
            Kind::Moves { .. } => routes::MOVE_BATCH.facts(),
            Kind::Copies { .. } => routes::COPY_BATCH.facts(),
        }
    }
}

impl Change {
    /// The argument of the single route: what is wrong is told by its names.
    fn arg(&self) -> String {
        let text = match self {
            Change::Folder { path, .. } => serde_json::to_string(&CreateFolderArg::new(path.clone())),
            Change::Delete(arg) => serde_json::to_string(arg),
            Change::Move { paths, .. } | Change::Copy { paths, .. } => serde_json::to_string(paths),
        };
        text.unwrap_or_default()
    }
}

fn relocations(entries: &[Entry]) -> Vec<RelocationPath> {
    let paths = |entry: &Entry| match &entry.change {
        Change::Move { paths, .. } | Change::Copy { paths, .. } => Some(paths.clone()),
        Change::Folder { .. } | Change::Delete(_) => None,
    };
    entries.iter().filter_map(paths).collect()
}

/// Launches entries of one kind.
async fn launch(caller: &Caller, turn: &Turn, kind: Kind, entries: &[Entry]) -> Result<Answer<Status>> {
    Ok(match kind {
        Kind::Folders { autorename } => {
            let path = |entry: &Entry| match &entry.change {
                Change::Folder { path, .. } => Some(path.clone()),
                _ => None,
            };
            let arg = CreateFolderBatchArg::new(entries.iter().filter_map(path).collect()).with_autorename(autorename);
            read(caller.commit(turn, &routes::CREATE_FOLDER_BATCH, &arg).await?, |launched| match launched {
                CreateFolderBatchLaunch::AsyncJobId(id) => Status::Job(id),
                CreateFolderBatchLaunch::Complete(result) => folders(result),
                _ => Status::Lost,
            })
        }
        Kind::Deletions => {
            let arg = |entry: &Entry| match &entry.change {
                Change::Delete(arg) => Some(arg.clone()),
                _ => None,
            };
            let arg = DeleteBatchArg::new(entries.iter().filter_map(arg).collect());
            read(caller.commit(turn, &routes::DELETE_BATCH, &arg).await?, |launched| match launched {
                DeleteBatchLaunch::AsyncJobId(id) => Status::Job(id),
                DeleteBatchLaunch::Complete(result) => deletions(result),
                _ => Status::Lost,
            })
        }
        Kind::Moves { autorename, transfer } => {
            let arg = MoveBatchArg::new(relocations(entries))
                .with_autorename(autorename)
                .with_allow_ownership_transfer(transfer);
            read(caller.commit(turn, &routes::MOVE_BATCH, &arg).await?, relocating)
        }
        Kind::Copies { autorename } => {
            let arg = CopyBatchArg::new(relocations(entries)).with_autorename(autorename);
            read(caller.commit(turn, &routes::COPY_BATCH, &arg).await?, relocating)
        }
    })
}

/// How a job stands; `None`: it is in progress.
async fn check(caller: &Caller, kind: Kind, id: &str) -> Result<Answer<Option<Status>>> {
    let arg = PollArg::new(id.to_owned());
    Ok(match kind {
        Kind::Folders { .. } => {
            read(caller.call(&routes::CREATE_FOLDER_BATCH_CHECK, &arg).await?, |status| match status {
                CreateFolderBatchJobStatus::InProgress => None,
                CreateFolderBatchJobStatus::Complete(result) => Some(folders(result)),
                CreateFolderBatchJobStatus::Failed(CreateFolderBatchError::TooManyFiles) => Some(Status::Refused),
                CreateFolderBatchJobStatus::Failed(_) => Some(Status::Failed),
                _ => Some(Status::Lost),
            })
        }
        Kind::Deletions => read(caller.call(&routes::DELETE_BATCH_CHECK, &arg).await?, |status| match status {
            DeleteBatchJobStatus::InProgress => None,
            DeleteBatchJobStatus::Complete(result) => Some(deletions(result)),
            #[expect(deprecated, reason = "an old server may say it")]
            DeleteBatchJobStatus::Failed(DeleteBatchError::TooManyWriteOperations) => Some(Status::Contended),
            DeleteBatchJobStatus::Failed(_) => Some(Status::Failed),
            _ => Some(Status::Lost),
        }),
        Kind::Moves { .. } => read(caller.call(&routes::MOVE_BATCH_CHECK, &arg).await?, relocated),
        Kind::Copies { .. } => read(caller.call(&routes::COPY_BATCH_CHECK, &arg).await?, relocated),
    })
}

fn read<A, B>(answer: Answer<A>, read: impl FnOnce(A) -> B) -> Answer<B> {
    Answer { value: read(answer.value), request_id: answer.request_id, after_unclear: answer.after_unclear }
}

fn folders(result: CreateFolderBatchResult) -> Status {
    let one = |entry| match entry {
        CreateFolderBatchResultEntry::Success(made) => One::Done(Box::new(Metadata::Folder(made.metadata))),
        CreateFolderBatchResultEntry::Failure(error) => One::Failed(error_of(&error)),
    };
    Status::Complete(result.entries.into_iter().map(one).collect())
}

fn deletions(result: DeleteBatchResult) -> Status {
    let one = |entry| match entry {
        DeleteBatchResultEntry::Success(gone) => One::Done(Box::new(gone.metadata)),
        DeleteBatchResultEntry::Failure(error) => One::Failed(error_of(&error)),
    };
    Status::Complete(result.entries.into_iter().map(one).collect())
}

fn relocating(launched: RelocationBatchV2Launch) -> Status {
    match launched {
        RelocationBatchV2Launch::AsyncJobId(id) => Status::Job(id),
        RelocationBatchV2Launch::Complete(result) => relocations_done(result),
    }
}

fn relocated(status: RelocationBatchV2JobStatus) -> Option<Status> {
    match status {
        RelocationBatchV2JobStatus::InProgress => None,
        RelocationBatchV2JobStatus::Complete(result) => Some(relocations_done(result)),
    }
}

fn relocations_done(result: RelocationBatchV2Result) -> Status {
    let one = |entry| match entry {
        RelocationBatchResultEntry::Success(metadata) => One::Done(Box::new(metadata)),
        RelocationBatchResultEntry::Failure(RelocationBatchErrorEntry::RelocationError(error)) => {
            One::Failed(error_of(&error))
        }
        RelocationBatchResultEntry::Failure(RelocationBatchErrorEntry::TooManyWriteOperations) => {
            One::Failed(json!({ ".tag": "too_many_write_operations" }))
        }
        // An error that is not known may be one of a half-done thing.
        _ => One::Unknown,
    };
    Status::Complete(result.entries.into_iter().map(one).collect())
}

/// What the types do not know yet has no name any more.
fn error_of(error: &impl Serialize) -> Value {
    serde_json::to_value(error).unwrap_or_else(|_| json!({ ".tag": "other" }))
}
