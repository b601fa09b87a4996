//! `watch`: prints what changes in a folder of Dropbox, as it happens, and can run a command for each event. It comes back by
//! itself after every break, and after a restart from its state file, which is written once an event is dealt with.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, process::Command};
use tonic::Status;

use crate::api::{
    plain::watch_events_response::Payload,
    v1::{self as api, ChangeEvent, EventType, ItemFilter, WatchEventsRequest, watch_events_request::Start},
};

use super::{
    client::ServerArgs,
    exit::{Exit, Failure, Result, repeat_after},
    json, out,
};

/// First pause after a break that names none; it doubles.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each event is a line: what happened, the path, and for a move where it was. With --state the token is kept in a file once
the event was printed and its command has ended; the next run goes on there, also on another machine. Events may come
twice after a crash, never not at all. One thing is told otherwise: if Dropbox has dropped our place and the server knows
nothing of what was told before, all that is there is printed anew, as with --snapshot, instead of what changed.

With --json each line is an object, its fields by their names in the proto's JSON. An event has the fields of ChangeEvent; its
item is flat, as ls --json shows it: kind, name, path (as displayed), pathLower and what else a file or folder has, with
numbers as numbers. Every other line has one field that says what it is: snapshot (an item that is there), snapshotEnd,
cursorReset, ready, batchEnd, draining; the manual is the proto's WatchEventsResponse. Behind cursorReset with resync false a
whole snapshot follows, which replaces all you have. resumeToken in a line is the place behind that line: whoever keeps it
once the line is dealt with goes on there with --resume-token and misses nothing. Of the items of one message of a snapshot
only the last has it. Heartbeats have no line.

With --exec a command is run for each event, one after the other, without a shell: write sh -c '…' if you want one.
It finds EVENT_TYPE (created, updated, metadata_changed, deleted, moved), EVENT_PATH, EVENT_PREVIOUS_PATH, EVENT_KIND
(file, folder), EVENT_ID, EVENT_ITEM_ID and EVENT_REV in its environment and the event as JSON on its standard input.
If it fails, watch ends, and with --state the event comes again with the next run. It is run for events alone, not for
the items of a snapshot, also not of one that Dropbox's reset made necessary: a line on standard error says so then.

Examples:
  dropbox-connector watch /in
  dropbox-connector watch /in --types created,updated --glob '*.pdf' --state in.token --exec ./work
  dropbox-connector watch / --snapshot --json > everything.jsonl")]
pub struct WatchArgs {
    /// The folder; the root if left out.
    #[arg(default_value = "/", value_name = "PATH")]
    path: String,
    /// Only the folder's own children.
    #[arg(long)]
    flat: bool,
    /// Types of events, comma-separated: created, updated, metadata_changed, deleted, moved.
    #[arg(long, value_delimiter = ',', value_name = "TYPES")]
    types: Vec<Kind>,
    /// Only what matches one of these, from PATH on.
    #[arg(long, value_name = "GLOB")]
    glob: Vec<String>,
    /// Nothing that matches one of these.
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// Of a folder that is moved or deleted also each item that it held; always so with --glob or --exclude.
    #[arg(long)]
    expand_folders: bool,
    /// First everything that is there.
    #[arg(long, alias = "from-start", conflicts_with = "checkpoint")]
    snapshot: bool,
    /// Begin behind this token, from a line of --json.
    #[arg(
        long,
        value_name = "TOKEN",
        value_parser = clap::builder::NonEmptyStringValueParser::new(),
        conflicts_with_all = ["snapshot", "state", "checkpoint"]
    )]
    resume_token: Option<String>,
    /// Keep the place in this file, and begin there if it exists.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Keep the place at the server under this name, and begin there if it is known. One watch at a time holds a name.
    #[arg(long, value_name = "NAME", conflicts_with = "state")]
    checkpoint: Option<String>,
    /// Run this for each event.
    #[arg(long, value_name = "COMMAND")]
    exec: Option<String>,
    /// Wait until a path has been quiet for this long, and tell only the last: 10s.
    #[arg(long, value_name = "SPAN", value_parser = span)]
    settle: Option<Duration>,
    /// End after so many events.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
enum Kind {
    Created,
    Updated,
    MetadataChanged,
    Deleted,
    Moved,
}

impl Kind {
    fn wire(self) -> EventType {
        match self {
            Kind::Created => EventType::Created,
            Kind::Updated => EventType::Updated,
            Kind::MetadataChanged => EventType::MetadataChanged,
            Kind::Deleted => EventType::Deleted,
            Kind::Moved => EventType::Moved,
        }
    }
}

fn span(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration =
        text.parse().map_err(|_| "write a span of time, as 500ms, 10s or 1m".to_owned())?;
    Duration::try_from(span).map_err(|_| "must not be negative".to_owned())
}

/// A watch over all its streams.
struct Watching {
    args: WatchArgs,
    client: super::client::Client,
    /// The command of --exec, cut into words.
    command: Vec<String>,
    /// Behind all that was dealt with; empty before the first message.
    token: String,
    told: u64,
    attempt: u32,
}

/// # Errors
/// A refusal that no repeat will change, a state file that cannot be read or written, a command that fails.
pub async fn run(args: WatchArgs) -> Result<()> {
    let command = match &args.exec {
        None => Vec::new(),
        Some(line) => shlex::split(line)
            .filter(|words| !words.is_empty())
            .ok_or_else(|| Failure::usage("--exec: is empty, or has a quote that does not end"))?,
    };
    let kept = args.state.as_deref().map(read_state).transpose()?;
    let token = kept.or_else(|| args.resume_token.clone()).unwrap_or_default();
    let client = args.server.client().await?;
    let mut watching = Watching { args, client, command, token, told: 0, attempt: 0 };
    loop {
        let status = match watching.stream().await? {
            None => return Ok(()),
            Some(status) => status,
        };
        let Some(pause) = watching.pause(&status) else { return Err(watching.refused(status)) };
        tracing::debug!(?pause, %status, "the watch is taken up again");
        tokio::time::sleep(pause).await;
        watching.attempt += 1;
    }
}

impl Watching {
    fn refused(&self, status: Status) -> Failure {
        let (failure, path) = (Failure::from(status), &self.args.path);
        match failure.reason.as_str() {
            "PATH_NOT_FOUND" => Failure::missing(path).remedy(format!(
                "what is watched has to be there: `dropbox-connector mkdir {}` makes it",
                out::plain(path)
            )),
            _ => failure,
        }
    }

    /// One stream, to its end. `None`: as many events were told as were asked for.
    async fn stream(&mut self) -> Result<Option<Status>> {
        let mut stream = match self.client.data().watch_events(self.request()).await {
            Ok(response) => response.into_inner(),
            Err(status) => return Ok(Some(status)),
        };
        loop {
            let message = match stream.message().await {
                Ok(Some(message)) => message.into_plain(),
                Ok(None) => return Ok(Some(Status::unavailable("the stream ended without a word"))),
                Err(status) => return Ok(Some(status)),
            };
            self.attempt = 0;
            let is_news = self.deal_with(message.payload, &message.resume_token).await?;
            self.token = message.resume_token;
            self.keep().await?;
            if is_news {
                self.told += 1;
                if self.args.count.is_some_and(|most| self.told >= most) {
                    return Ok(None);
                }
            }
        }
    }

    fn request(&self) -> WatchEventsRequest {
        let args = &self.args;
        let filter = ItemFilter {
            include_globs: args.glob.clone(),
            exclude_globs: args.exclude.clone(),
            ..ItemFilter::default()
        };
        let from = |position: api::StartPosition| Some(Start::StartPosition(position.into()));
        let start = match (&self.args.checkpoint, args.snapshot) {
            _ if !self.token.is_empty() && args.checkpoint.is_none() => Some(Start::ResumeToken(self.token.clone())),
            (Some(_), _) => from(api::StartPosition::Checkpoint),
            (None, true) => from(api::StartPosition::Snapshot),
            (None, false) => None,
        };
        let wanted = !args.glob.is_empty() || !args.exclude.is_empty();
        WatchEventsRequest {
            path: args.path.clone(),
            recursive: Some(!args.flat),
            filter: wanted.then_some(filter),
            event_types: args.types.iter().map(|kind| kind.wire().into()).collect(),
            start,
            checkpoint_name: args.checkpoint.clone().unwrap_or_default(),
            expand_folders: args.expand_folders,
            settle: args.settle.and_then(|span| prost_types::Duration::try_from(span).ok()),
            ..WatchEventsRequest::default()
        }
    }

    /// True if it was an event.
    async fn deal_with(&self, payload: Option<Payload>, token: &str) -> Result<bool> {
        match payload {
            Some(Payload::Change(change)) => {
                let told = change_json(&change, token);
                if self.args.json {
                    out::line(&told)
                } else {
                    out::line(line(&change))
                }
                self.execute(&change, &told).await?;
                return Ok(true);
            }
            Some(Payload::Snapshot(snapshot)) => {
                let last = snapshot.items.len().saturating_sub(1);
                for (n, item) in snapshot.items.iter().enumerate() {
                    match self.args.json {
                        // Behind any other item the rest of the message is still to come.
                        true if n < last => out::line(json!({ "snapshot": json::item(item) })),
                        true => self.say("snapshot", json::item(item), token),
                        false => out::line(format_args!("{:<17} {}", "there", out::plain(&item.path_display))),
                    }
                }
            }
            Some(Payload::SnapshotEnd(end)) => {
                self.say("snapshotEnd", json!({ "count": end.count }), token);
                out::note(format_args!("{}; watching", out::count(usize::try_from(end.count).unwrap_or(0), "item")));
            }
            Some(Payload::CursorReset(reset)) => {
                self.say("cursorReset", json!({ "reason": reset.reason, "resync": reset.resync }), token);
                let what = match (reset.resync, self.command.is_empty()) {
                    (true, _) => "the differences follow",
                    (false, true) => "everything follows anew",
                    (false, false) => "everything follows anew, and --exec is not run for it",
                };
                out::note(format_args!("Dropbox lost our place ({}); {what}", out::plain(&reset.reason)));
            }
            Some(Payload::Ready(_)) => self.say("ready", json!({}), token),
            Some(Payload::BatchEnd(_)) => self.say("batchEnd", json!({}), token),
            Some(Payload::Draining(_)) => self.say("draining", json!({}), token),
            _ => {}
        }
        Ok(false)
    }

    /// A line that is no event, for programs.
    fn say(&self, what: &str, of_it: Value, token: &str) {
        if self.args.json {
            out::line(json!({ what: of_it, "resumeToken": token }));
        }
    }

    /// Keeps the place behind what was dealt with.
    async fn keep(&self) -> Result<()> {
        if let Some(file) = &self.args.state {
            return write_state(file, &self.token);
        }
        let Some(name) = &self.args.checkpoint else { return Ok(()) };
        let request = api::AcknowledgeEventsRequest {
            checkpoint_name: name.clone(),
            resume_token: self.token.clone(),
            ..Default::default()
        };
        let acknowledged = super::client::repeated(super::client::Repeat::Free, async || {
            self.client.data().acknowledge_events(request.clone()).await
        });
        acknowledged.await.map(|_| ())
    }

    async fn execute(&self, change: &ChangeEvent, told: &Value) -> Result<()> {
        let Some((program, words)) = self.command.split_first() else { return Ok(()) };
        let failed = |error: std::io::Error| Failure::new(Exit::Failed, format!("--exec {program}: {error}"));
        let mut child = Command::new(program)
            .args(words)
            .envs(environment(change))
            .stdin(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        if let Some(mut input) = child.stdin.take() {
            // A command that does not read its input has ended its side: nothing is wrong with that.
            let _ = input.write_all(format!("{told}\n").as_bytes()).await;
        }
        let ended = child.wait().await.map_err(failed)?;
        match ended.success() {
            true => Ok(()),
            false => Err(Failure::new(Exit::Failed, format!("--exec {program}: {ended}"))
                .remedy("the event comes again with the next run; --state keeps the place")),
        }
    }

    /// How long to wait before the next stream; `None`: it is over.
    fn pause(&self, status: &Status) -> Option<Duration> {
        let told = repeat_after(status, true, self.attempt)?;
        let grown = PAUSE.saturating_mul(1 << self.attempt.min(6)).min(PAUSE_MAX);
        // A server that sends everybody away at once says when to come again: at the first try that is enough.
        Some(if self.attempt == 0 { told } else { told.max(grown) })
    }
}

/// `created           /in/a.pdf`
fn line(change: &ChangeEvent) -> String {
    let path = change.item.as_ref().map(|item| out::plain(&item.path_display)).unwrap_or_default();
    let folder = if change.item_kind() == api::ItemKind::Folder { "/" } else { "" };
    let from = match change.previous_path.as_str() {
        "" => String::new(),
        from => format!("  (was {})", out::plain(from)),
    };
    format!("{:<17} {path}{folder}{from}", word(change.change_type()))
}

pub fn word(event_type: EventType) -> String {
    event_type.as_str_name().trim_start_matches("EVENT_TYPE_").to_lowercase()
}

fn change_json(change: &ChangeEvent, token: &str) -> Value {
    let mut told = json!({
        "eventId": change.event_id,
        "changeType": change.change_type().as_str_name(),
        "itemKind": change.item_kind().as_str_name(),
        "item": change.item.as_ref().map(json::item),
        "basis": change.basis().as_str_name(),
        "observedTime": change.observed_time.as_ref().map(json::time),
        "resumeToken": token,
    });
    if !change.previous_path.is_empty() {
        told["previousPath"] = json!(change.previous_path);
    }
    if !change.previous_rev.is_empty() {
        told["previousRev"] = json!(change.previous_rev);
    }
    told
}

fn environment(change: &ChangeEvent) -> Vec<(&'static str, String)> {
    use api::item::Kind;
    let item = change.item.clone().unwrap_or_default();
    let (id, rev) = match item.kind {
        Some(Kind::File(file)) => (file.id, file.rev),
        Some(Kind::Folder(folder)) => (folder.id, String::new()),
        Some(Kind::Deleted(deleted)) => (deleted.last_id, deleted.last_rev),
        None => Default::default(),
    };
    let kind = match change.item_kind() {
        api::ItemKind::File => "file",
        api::ItemKind::Folder => "folder",
        _ => "",
    };
    // No environment holds NUL, and no path of Dropbox does.
    vec![
        ("EVENT_TYPE", word(change.change_type())),
        ("EVENT_PATH", item.path_display),
        ("EVENT_PREVIOUS_PATH", change.previous_path.clone()),
        ("EVENT_KIND", kind.to_owned()),
        ("EVENT_ID", change.event_id.clone()),
        ("EVENT_ITEM_ID", id),
        ("EVENT_REV", rev),
    ]
}

/// The token that a former run kept; none if there is no file yet. An empty file is no beginning: something lost the place,
/// and beginning now would leave out what happened since.
fn read_state(file: &Path) -> Result<String> {
    match fs::read_to_string(file) {
        Ok(text) if text.trim().is_empty() => {
            Err(Failure::usage(format!("--state {}: the file is empty, so the place is lost", out::plain(&file.display().to_string())))
                .remedy("put the file back, or remove it to begin with what happens from now on (with --snapshot: with all that is there)"))
        }
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(Failure::local(file, &error)),
    }
}

/// Whole or not at all: a run that is stopped here leaves the state before, and so does a machine that loses its power.
fn write_state(file: &Path, token: &str) -> Result<()> {
    let mut draft = file.as_os_str().to_owned();
    draft.push(".new");
    let draft = PathBuf::from(draft);
    let written = || {
        let mut whole = fs::File::create(&draft)?;
        whole.write_all(format!("{token}\n").as_bytes())?;
        whole.sync_all()?;
        fs::rename(&draft, file)?;
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // The new name is on the disk once its folder is; where folders cannot be opened the system sees to that itself.
        #[cfg(unix)]
        fs::File::open(folder)?.sync_all()?;
        #[cfg(not(unix))]
        let _ = folder;
        Ok(())
    };
    written().map_err(|error: std::io::Error| Failure::local(file, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved() -> ChangeEvent {
        let item = api::Item { path_display: "/in/b\u{7}".into(), ..Default::default() };
        ChangeEvent {
            change_type: EventType::Moved.into(),
            item_kind: api::ItemKind::Folder.into(),
            item: Some(item),
            previous_path: "/in/a".into(),
            event_id: "e-1".into(),
            ..Default::default()
        }
    }

    #[test]
    fn an_event_is_a_line_that_cannot_steer_the_terminal() {
        assert_eq!(line(&moved()), "moved             /in/b\\u{7}/  (was /in/a)");
        let told = change_json(&moved(), "token");
        assert_eq!((&told["previousPath"], &told["resumeToken"]), (&json!("/in/a"), &json!("token")));
        let environment = environment(&moved());
        assert!(environment.contains(&("EVENT_TYPE", "moved".into())));
        assert!(environment.contains(&("EVENT_KIND", "folder".into())));
    }

    #[test]
    fn a_state_file_is_written_whole_and_read_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("in.token");
        assert_eq!(read_state(&file).expect("no state yet"), "");
        write_state(&file, "t1").expect("written");
        write_state(&file, "t2").expect("written");
        assert_eq!(read_state(&file).expect("read"), "t2");
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
        assert!(read_state(folder.path()).is_err());
        fs::write(&file, " \n").expect("written");
        let refused = read_state(&file).expect_err("the place is lost").to_string();
        assert!(refused.contains("in.token") && refused.contains("empty"), "{refused}");
    }
}
