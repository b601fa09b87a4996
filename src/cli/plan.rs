//! `plan`: what it would take to bring a folder here and one in Dropbox together. It keeps nothing of earlier times and changes
//! nothing, so what is on one side alone is new there, and what differs is a conflict unless `--on-conflict` decides.

use std::path::PathBuf;

use clap::ValueEnum;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{
    client::ServerArgs,
    exit::{Exit, Failure, Result},
    json as shown,
    local::{self, LocalFile, Wanted},
    out, paths,
    upload::hash_file,
};
use crate::api::v1::{
    ConflictPolicy, LocalEntries, LocalEntry, MissingPolicy, PlanSyncRequest, SyncAction, SyncDirection, SyncFinish,
    SyncRules, SyncStep, SyncSummary, plan_sync_request::Frame, plan_sync_response::Payload,
};

/// Entries of a message, and how many messages lie ready: the server reads them one by one.
const ENTRIES: usize = 500;
const READY: usize = 2;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Hashes the files here and says of each what is to be done, by action and reason; SyncReason in proto/ is the manual. Symbolic
links and names that Dropbox refuses are skipped and told.

Exit codes: 0 nothing is to do, 1 something is, the others as everywhere.

Examples:
  dropbox-connector plan ./photos /photos
  dropbox-connector plan ./photos /photos --direction up --on-conflict local --on-missing delete
  dropbox-connector plan ./photos /photos --json | jq 'select(.action == \"SYNC_ACTION_CONFLICT\")'")]
pub struct PlanArgs {
    /// The folder here.
    folder: PathBuf,
    /// The folder in Dropbox.
    path: String,
    /// Whose changes go where.
    #[arg(long, value_enum, default_value = "two-way")]
    direction: Direction,
    /// Who wins where both sides have another file.
    #[arg(long, value_enum, default_value = "report", value_name = "POLICY")]
    on_conflict: OnConflict,
    /// One way: what becomes of what the target alone has.
    #[arg(long, value_enum, default_value = "report", value_name = "POLICY")]
    on_missing: OnMissing,
    /// Also tell files with which nothing is to be done.
    #[arg(long)]
    all: bool,
    /// One JSON object a file, then one for the sum.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Direction {
    TwoWay,
    Up,
    Down,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OnConflict {
    Report,
    Local,
    Remote,
    Newer,
    Older,
    Larger,
    Smaller,
    Skip,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OnMissing {
    Report,
    Delete,
    Restore,
    Ignore,
}

impl PlanArgs {
    fn rules(&self) -> SyncRules {
        let direction = match self.direction {
            Direction::TwoWay => SyncDirection::TwoWay,
            Direction::Up => SyncDirection::Up,
            Direction::Down => SyncDirection::Down,
        };
        let on_conflict = match self.on_conflict {
            OnConflict::Report => ConflictPolicy::Report,
            OnConflict::Local => ConflictPolicy::Local,
            OnConflict::Remote => ConflictPolicy::Remote,
            OnConflict::Newer => ConflictPolicy::Newer,
            OnConflict::Older => ConflictPolicy::Older,
            OnConflict::Larger => ConflictPolicy::Larger,
            OnConflict::Smaller => ConflictPolicy::Smaller,
            OnConflict::Skip => ConflictPolicy::Skip,
        };
        let on_missing = match self.on_missing {
            OnMissing::Report => MissingPolicy::Report,
            OnMissing::Delete => MissingPolicy::Delete,
            OnMissing::Restore => MissingPolicy::Restore,
            OnMissing::Ignore => MissingPolicy::Ignore,
        };
        SyncRules {
            path: paths::remote(&self.path),
            direction: direction.into(),
            on_conflict: on_conflict.into(),
            on_missing: on_missing.into(),
            actions_only: !self.all,
            ..Default::default()
        }
    }
}

pub async fn run(args: PlanArgs) -> Result<()> {
    let client = args.server.client().await?;
    let found = local::gather(&args.folder, &Wanted::everything(), &|_, _| false)?;
    for (path, why) in &found.skipped {
        out::note(format_args!("{}: skipped: {why}", path.display()));
    }
    let (messages, receiver) = mpsc::channel(READY);
    let told = async {
        let mut answers = client.data().plan_sync(ReceiverStream::new(receiver)).await?.into_inner();
        let mut last = None;
        while let Some(answer) = answers.message().await? {
            match answer.payload {
                Some(Payload::Batch(batch)) => batch.steps.iter().for_each(|step| tell(&args, step)),
                Some(Payload::Summary(summary)) => last = Some(summary),
                Some(Payload::Listed(_)) | None => {}
            }
        }
        last.ok_or_else(|| Failure::new(Exit::Unavailable, "the plan ended early"))
    };
    let rules = args.rules();
    tokio::pin!(told);
    let summary = tokio::select! {
        // It ends first only when it fails.
        told = &mut told => told,
        sent = send(messages, rules, &found.files) => match sent {
            Ok(()) => told.await,
            Err(failure) => Err(failure),
        },
    };
    let summary = summary.map_err(|failure| failure.about(out::plain(&args.path)))?;
    tell_sum(&args, &summary);
    let open =
        summary.uploads + summary.downloads + summary.local_deletions + summary.remote_deletions + summary.conflicts;
    match open == 0 && found.skipped.is_empty() {
        true => Ok(()),
        false => Err(Failure::new(Exit::Failed, "")),
    }
}

/// Hashes and sends. Who does not listen any more says why.
async fn send(messages: mpsc::Sender<PlanSyncRequest>, rules: SyncRules, files: &[LocalFile]) -> Result<()> {
    let put = async |frame: Frame| {
        // Whose stream has ended is told by its answer.
        let _ = messages.send(PlanSyncRequest { frame: Some(frame), ..Default::default() }).await;
    };
    put(Frame::Rules(rules)).await;
    for files in files.chunks(ENTRIES) {
        let mut entries = Vec::with_capacity(files.len());
        for file in files {
            entries.push(LocalEntry {
                path: file.relative.clone(),
                size: i64::try_from(file.size).unwrap_or(i64::MAX),
                content_hash: hash_file(&file.path, file.size).await?,
                client_modified: file.modified.map(Into::into),
                ..Default::default()
            });
        }
        put(Frame::Entries(LocalEntries { entries })).await;
    }
    put(Frame::Finish(SyncFinish {})).await;
    Ok(())
}

fn tell(args: &PlanArgs, step: &SyncStep) {
    if args.json {
        let remote = step.remote.as_ref().map(|remote| {
            json!({
                "rev": remote.rev,
                "size": remote.size,
                "contentHash": remote.content_hash,
                "clientModified": remote.client_modified.as_ref().map(shown::time),
                "path": remote.path,
            })
        });
        let (action, reason) = (step.action().as_str_name(), step.reason().as_str_name());
        return out::line(json!({ "path": step.path, "action": action, "reason": reason, "remote": remote }));
    }
    let word = |name: &str, prefix: &str| name.trim_start_matches(prefix).to_lowercase().replace('_', " ");
    let action = match step.action() {
        SyncAction::DeleteLocal => "delete here".to_owned(),
        SyncAction::DeleteRemote => "delete there".to_owned(),
        other => word(other.as_str_name(), "SYNC_ACTION_"),
    };
    let reason = word(step.reason().as_str_name(), "SYNC_REASON_");
    out::line(format_args!("{action:<13} {:<40} {reason}", out::plain(&step.path)));
}

fn tell_sum(args: &PlanArgs, sum: &SyncSummary) {
    if args.json {
        return out::line(json!({ "summary": {
            "uploads": sum.uploads,
            "downloads": sum.downloads,
            "localDeletions": sum.local_deletions,
            "remoteDeletions": sum.remote_deletions,
            "conflicts": sum.conflicts,
            "unchanged": sum.unchanged,
            "uploadBytes": sum.upload_bytes,
            "downloadBytes": sum.download_bytes,
            "resumeToken": sum.resume_token,
        } }));
    }
    let size = |bytes: i64| out::size(u64::try_from(bytes).unwrap_or(0));
    let (up, down) = (size(sum.upload_bytes), size(sum.download_bytes));
    out::note(format_args!(
        "{} to upload ({up}), {} to download ({down}), {} to delete here, {} to delete there, {} in conflict, {} unchanged",
        sum.uploads, sum.downloads, sum.local_deletions, sum.remote_deletions, sum.conflicts, sum.unchanged
    ));
}
