//! `plan`: what it would take to bring a folder here and one in Dropbox together. It keeps nothing of earlier times and changes
//! nothing, so what is on one side alone is new there, and what differs is a conflict unless `--on-conflict` decides.

use std::{
    collections::HashSet,
    mem,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::ValueEnum;
use serde_json::json;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at},
};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    client::ServerArgs,
    exit::{Exit, Failure, Result},
    json as shown,
    local::{self, Gathered, LocalFile, Wanted},
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
/// A message comes this often while files are hashed, also an empty one: a server ends a stream that is silent for long.
const SIGN_OF_LIFE: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Hashes the files here and says of each what is to be done, by action and reason; SyncReason in proto/ is the manual. Symbolic
links, names that Dropbox refuses and folders that cannot be read are skipped and told, and what Dropbox has in their places is
left alone.

Exit codes: 0 nothing is to do by these rules and nothing was skipped here, 1 something is or was, the others as everywhere.

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
    let unseen = Unseen::of(&args.folder, &found);
    let (messages, receiver) = mpsc::channel(READY);
    let told = async {
        let mut answers = client.data().plan_sync(ReceiverStream::new(receiver)).await?.into_inner();
        let (mut last, mut left_alone) = (None, SyncSummary::default());
        while let Some(answer) = answers.message().await? {
            match answer.payload {
                Some(Payload::Batch(batch)) => {
                    for step in &batch.steps {
                        match unseen.hides(step) {
                            true => count(&mut left_alone, step),
                            false => tell(&args, step),
                        }
                    }
                }
                Some(Payload::Summary(summary)) => last = Some(without(summary, &left_alone)),
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
        sent = send(messages, rules, &found.files, SIGN_OF_LIFE) => match sent {
            Ok(()) => told.await,
            Err(failure) => Err(failure),
        },
    };
    let summary = summary.map_err(|failure| failure.about(out::plain(&args.path)))?;
    tell_sum(&args, &summary, found.skipped.len());
    let open =
        summary.uploads + summary.downloads + summary.local_deletions + summary.remote_deletions + summary.conflicts;
    match open == 0 && found.skipped.is_empty() {
        true => Ok(()),
        false => Err(Failure::new(Exit::Failed, "")),
    }
}

/// What is here and was not sent. The server takes it for missing, so what it says of files in these places means nothing.
struct Unseen {
    skipped: HashSet<String>,
    sent: HashSet<String>,
}

impl Unseen {
    fn of(root: &Path, found: &Gathered) -> Unseen {
        let below = |path: &PathBuf| {
            let names = path.strip_prefix(root).unwrap_or(path).iter().map(|name| name.to_string_lossy());
            paths::composed_key(&names.collect::<Vec<_>>().join("/"))
        };
        let skipped: HashSet<_> = found.skipped.iter().map(|(path, _)| below(path)).collect();
        let sent = if skipped.is_empty() { &[][..] } else { &found.files };
        Unseen { sent: sent.iter().map(|file| paths::composed_key(&file.relative)).collect(), skipped }
    }

    /// Of two names that differ in case one was sent, and its step counts.
    fn hides(&self, step: &SyncStep) -> bool {
        if self.skipped.is_empty() || step.action() == SyncAction::None {
            return false;
        }
        let key = paths::composed_key(&step.path);
        let mut folders = key.match_indices('/').map(|(at, _)| &key[..at]);
        (self.skipped.contains(&key) || folders.any(|folder| self.skipped.contains(folder)))
            && !self.sent.contains(&key)
    }
}

/// Steps of files that were not sent: those that only Dropbox's side can be the reason for.
fn count(sum: &mut SyncSummary, step: &SyncStep) {
    match step.action() {
        SyncAction::Download => {
            sum.downloads += 1;
            sum.download_bytes += step.remote.as_ref().map_or(0, |remote| remote.size);
        }
        SyncAction::DeleteRemote => sum.remote_deletions += 1,
        SyncAction::Conflict => sum.conflicts += 1,
        _ => {}
    }
}

fn without(mut sum: SyncSummary, left_alone: &SyncSummary) -> SyncSummary {
    let files = left_alone.downloads + left_alone.remote_deletions + left_alone.conflicts;
    if files > 0 {
        out::note(format_args!("{files} files at Dropbox are left alone: what is in their places here was skipped"));
    }
    sum.downloads -= left_alone.downloads;
    sum.download_bytes -= left_alone.download_bytes;
    sum.remote_deletions -= left_alone.remote_deletions;
    sum.conflicts -= left_alone.conflicts;
    sum
}

/// Hashes and sends. Who does not listen any more says why.
async fn send(
    messages: mpsc::Sender<PlanSyncRequest>,
    rules: SyncRules,
    files: &[LocalFile],
    sign_of_life: Duration,
) -> Result<()> {
    let request = |frame: Frame| PlanSyncRequest { frame: Some(frame), ..Default::default() };
    let batch = |entries: &mut Vec<LocalEntry>| request(Frame::Entries(LocalEntries { entries: mem::take(entries) }));
    let put = async |message: PlanSyncRequest| {
        // Whose stream has ended is told by its answer.
        let _ = messages.send(message).await;
    };
    put(request(Frame::Rules(rules))).await;
    let mut due = interval_at(Instant::now() + sign_of_life, sign_of_life);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut entries = Vec::new();
    for file in files {
        let mut hashed = std::pin::pin!(hash_file(&file.path, file.size));
        let content_hash = loop {
            tokio::select! {
                hashed = &mut hashed => break hashed?,
                // Where messages lie ready the server has not been waiting.
                _ = due.tick() => if let Ok(room) = messages.try_reserve() {
                    room.send(batch(&mut entries));
                },
            }
        };
        entries.push(LocalEntry {
            path: file.relative.clone(),
            size: i64::try_from(file.size).unwrap_or(i64::MAX),
            content_hash,
            client_modified: file.modified.map(Into::into),
            ..Default::default()
        });
        if entries.len() == ENTRIES {
            put(batch(&mut entries)).await;
            due.reset();
        }
    }
    put(batch(&mut entries)).await;
    put(request(Frame::Finish(SyncFinish {}))).await;
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

fn tell_sum(args: &PlanArgs, sum: &SyncSummary, skipped: usize) {
    if args.json {
        return out::line(json!({ "summary": {
            "uploads": sum.uploads,
            "downloads": sum.downloads,
            "localDeletions": sum.local_deletions,
            "remoteDeletions": sum.remote_deletions,
            "conflicts": sum.conflicts,
            "unchanged": sum.unchanged,
            "skipped": skipped,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_in_the_place_of_what_was_skipped_is_left_alone() {
        let root = Path::new("here");
        let file = |relative: &str| LocalFile {
            path: root.join(relative),
            relative: relative.into(),
            size: 0,
            modified: None,
        };
        let skipped = ["Link", "sub/closed", "a.txt"].map(|name| (root.join(name), String::new())).to_vec();
        let found = Gathered { files: vec![file("A.TXT")], skipped, ..Default::default() };
        let unseen = Unseen::of(root, &found);
        let hides = |path: &str, action: SyncAction| {
            unseen.hides(&SyncStep { path: path.into(), action: action.into(), ..Default::default() })
        };
        for path in ["link", "LINK/deep/x", "sub/closed/x", "Sub/Closed/x"] {
            assert!(hides(path, SyncAction::DeleteRemote), "{path}");
            assert!(!hides(path, SyncAction::None), "{path}");
        }
        for path in ["A.TXT", "a.txt", "linked", "sub/x", "x"] {
            assert!(!hides(path, SyncAction::DeleteRemote), "{path}");
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_file_that_takes_long_to_hash_does_not_silence_the_stream() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, quick) = (folder.path().join("slow"), folder.path().join("quick"));
        std::fs::write(&quick, "1").expect("written");
        // Who opens it waits for a writer.
        assert!(std::process::Command::new("mkfifo").arg(&path).status().expect("it runs").success());
        let file = |path: &Path| LocalFile { path: path.into(), relative: "x".into(), size: 1, modified: None };
        let files = [file(&quick), file(&path)];
        let (messages, mut receiver) = mpsc::channel(READY);
        let sending = send(messages, SyncRules::default(), &files, Duration::from_millis(20));
        let reading = async {
            let mut next = async || receiver.recv().await.and_then(|message| message.frame);
            assert!(matches!(next().await, Some(Frame::Rules(_))));
            let mut sizes = Vec::new();
            while let Some(Frame::Entries(entries)) = next().await {
                sizes.push(entries.entries.len());
                if sizes.len() == 5 {
                    let path = path.clone();
                    let writing = tokio::task::spawn_blocking(move || std::fs::write(path, "2"));
                    writing.await.expect("it ran").expect("written");
                }
            }
            assert!(sizes.len() > 5 && sizes.iter().sum::<usize>() == 2, "{sizes:?}");
        };
        let (sent, ()) = tokio::join!(sending, reading);
        sent.expect("sent");
    }
}
