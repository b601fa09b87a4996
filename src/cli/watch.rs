//! `watch`: prints what changes in a folder of Dropbox, as it happens, and can run a command for each event. It comes back by
//! itself after every break, and after a restart from its state file, which is written once an event is dealt with.

mod command;
mod state;

use std::{path::PathBuf, time::Duration};

use serde_json::{Value, json};
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
Each event is a line: what happened, the path, and for a move where it was. With --state the token is kept in a file, and
the next run goes on there, also on another machine. What the file proves: with --exec, that the command ended with 0 for
all before it; without, that the lines were written to standard output. A program that reads them from a pipe may have died
with lines it had not dealt with: it keeps resumeToken of --json itself and begins with --resume-token, or is given to --exec.
The file is one watch's at a time: a second one ends with 4, told by a lock on FILE.lock, which stays, empty.
One thing is told otherwise: if Dropbox has dropped our place and the server knows nothing of what was told before, all that is
there is told anew, as with --snapshot, instead of what changed.

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
If it fails, watch ends, and with --state or --checkpoint the event comes again with the next run; after a crash an event may
come twice, never not at all. Without --exec-snapshot it is run for events alone, not for the items of a snapshot, also not
of one that Dropbox's reset made necessary: a line on standard error says so then. With it each of them is given to the command,
in one order with the events, as EVENT_TYPE there; snapshot_end follows the last. Before a snapshot that a reset made
necessary comes reset: what follows replaces all you have. Those two have no EVENT_PATH; standard input has the JSON line.

Examples:
  dropbox-connector watch /in
  dropbox-connector watch /in --types created,updated --glob '*.pdf' --state in.token --exec ./work
  dropbox-connector watch / --snapshot --state index.token --exec ./index-one --exec-snapshot
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
    /// Run it for each item of a snapshot, too.
    #[arg(long, requires = "exec")]
    exec_snapshot: bool,
    /// Wait until a path has been quiet for this long, and tell only the last: 10s.
    #[arg(long, value_name = "SPAN", value_parser = span, allow_hyphen_values = true)]
    settle: Option<Duration>,
    /// End after so many events.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

impl WatchArgs {
    pub fn keeps_its_place(&self) -> bool {
        self.state.is_some() || self.checkpoint.is_some()
    }
}

/// By whoever runs it, with no place kept.
pub fn interrupted() -> Failure {
    Failure::new(Exit::Interrupted, "interrupted")
        .remedy("run again it begins with what happens from then on: --state FILE or --checkpoint NAME keeps the place")
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
    /// Of --exec.
    command: Option<command::Command>,
    /// Behind all that was dealt with; empty before the first message.
    token: String,
    told: u64,
    attempt: u32,
}

/// # Errors
/// A refusal that no repeat will change, a state file that cannot be read or written, a command that is not there or fails.
pub async fn run(args: WatchArgs) -> Result<()> {
    let command = args.exec.as_deref().map(command::Command::new).transpose()?;
    let _held = args.state.as_deref().map(state::hold).transpose()?;
    let kept = args.state.as_deref().map(state::read).transpose()?;
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
        if let Some(text) = state::wrong(&failure.reason) {
            match (&self.args.state, &self.args.resume_token) {
                (Some(file), _) => return state::useless(file, text),
                (None, Some(_)) => return Failure::usage(format!("--resume-token: {text}")).remedy(state::ANEW),
                (None, None) => {}
            }
        }
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
                if let Some(command) = &self.command {
                    command.run(&word(change.change_type()), &change, &told).await?;
                }
                return Ok(true);
            }
            Some(Payload::Snapshot(snapshot)) => {
                let last = snapshot.items.len().saturating_sub(1);
                for (n, item) in snapshot.items.iter().enumerate() {
                    let told = match n < last {
                        // Behind any other item the rest of the message is still to come.
                        true => json!({ "snapshot": json::item(item) }),
                        false => json!({ "snapshot": json::item(item), "resumeToken": token }),
                    };
                    if self.args.json {
                        out::line(&told);
                    } else {
                        out::line(format_args!("{:<17} {}", "there", out::plain(&item.path_display)));
                    }
                    self.execute_of_snapshot("there", Some(item), &told).await?;
                }
            }
            Some(Payload::SnapshotEnd(end)) => {
                let told = self.say("snapshotEnd", json!({ "count": end.count }), token);
                self.execute_of_snapshot("snapshot_end", None, &told).await?;
                out::note(format_args!("{}; watching", out::count(usize::try_from(end.count).unwrap_or(0), "item")));
            }
            Some(Payload::CursorReset(reset)) => {
                let told = self.say("cursorReset", json!({ "reason": reset.reason, "resync": reset.resync }), token);
                let what = match (reset.resync, self.command.is_none() || self.args.exec_snapshot) {
                    (true, _) => "the differences follow",
                    (false, true) => "everything follows anew",
                    (false, false) => "everything follows anew, and --exec is not run for it (--exec-snapshot: it is)",
                };
                out::note(format_args!("Dropbox lost our place ({}); {what}", out::plain(&reset.reason)));
                if !reset.resync {
                    self.execute_of_snapshot("reset", None, &told).await?;
                }
            }
            Some(Payload::Ready(_)) => drop(self.say("ready", json!({}), token)),
            Some(Payload::BatchEnd(_)) => drop(self.say("batchEnd", json!({}), token)),
            Some(Payload::Draining(_)) => drop(self.say("draining", json!({}), token)),
            _ => {}
        }
        Ok(false)
    }

    /// A line that is no event, for programs.
    fn say(&self, what: &str, of_it: Value, token: &str) -> Value {
        let told = json!({ what: of_it, "resumeToken": token });
        if self.args.json {
            out::line(&told);
        }
        told
    }

    async fn execute_of_snapshot(&self, word: &str, item: Option<&api::Item>, told: &Value) -> Result<()> {
        let Some(command) = self.command.as_ref().filter(|_| self.args.exec_snapshot) else { return Ok(()) };
        let there = ChangeEvent { item: item.cloned(), item_kind: kind(item).into(), ..ChangeEvent::default() };
        command.run(word, &there, told).await
    }

    /// Keeps the place behind what was dealt with.
    async fn keep(&self) -> Result<()> {
        if let Some(file) = &self.args.state {
            return state::write(file, &self.token);
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

fn kind(item: Option<&api::Item>) -> api::ItemKind {
    match item.and_then(|item| item.kind.as_ref()) {
        Some(api::item::Kind::File(_)) => api::ItemKind::File,
        Some(api::item::Kind::Folder(_)) => api::ItemKind::Folder,
        Some(api::item::Kind::Deleted(_)) => api::ItemKind::Deleted,
        None => api::ItemKind::Unspecified,
    }
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
    }
}
