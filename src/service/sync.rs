//! `PlanSync`: Dropbox's folder is read and held, then each message of entries is answered before the next one is read, in a
//! task of its own. A caller that does not read stops it, and nothing is queued but two answers. What it holds is taken from an
//! allowance that all plans share.

use std::time::Duration;

use futures::StreamExt as _;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tracing::Instrument as _;

use dbxcase::dbx_str_lowercase;
use dropbox_sdk::types::files;

use super::{
    call::Call,
    door::{Door, Site},
    events::scope_at,
    filter::{self, Filter, Measures, Place},
    items::Answers,
    pages,
    unread::Unread,
};
use crate::{
    access::Permissions,
    api::v1::{self as api, plan_sync_request::Frame, plan_sync_response::Payload},
    clock::{from_dropbox_time, from_unix_seconds, unix_seconds},
    convert::{
        items::paths,
        size,
        sync::{self as convert, Rules},
        timestamp,
    },
    engine::{
        content_hash::ContentHash,
        filter::Kind,
        plan::{self, Entry, Listing, Plan, Policy, Step, Told},
        walk::Walk,
    },
    events::{Hub, Scope},
    fair::{Fair, Held},
    fault::{Fault, Reason, Result},
    limits::{
        BUSY_RETRY, FILTER_GLOBS_MAX, LIST_LIMIT_MAX, PLAN_BATCH_BYTES_MAX, PLAN_BATCH_STEPS_MAX, PLAN_ENTRIES_MAX,
        PLAN_OPEN_BYTES, PLAN_UNIT_BYTES, PLANS_BYTES_MAX, READ_ON, READ_ON_MESSAGES,
    },
};

/// Entries and files that are decided without a yield.
const DECIDED_AT_ONCE: usize = 128;

type Answer = Result<api::PlanSyncResponse, Status>;

/// Plans, with what they may hold.
#[derive(Clone)]
pub struct Plans {
    pub door: Door,
    hub: Hub,
    allowance: Fair,
    /// How long a caller may neither send nor read.
    idle: Duration,
}

impl Plans {
    pub fn new(door: Door, hub: Hub, idle: Duration) -> Plans {
        Plans { door, hub, allowance: Fair::new(PLANS_BYTES_MAX / PLAN_UNIT_BYTES), idle }
    }

    /// The answers begin at once; what the first message does wrong is told by the stream's end.
    pub fn plan_sync(&self, call: Call, stream: Streaming<api::PlanSyncRequest>) -> Answers<api::PlanSyncResponse> {
        let (answers, receiver) = mpsc::channel(1);
        let (end, ended) = oneshot::channel();
        let (plans, tasks) = (self.clone(), self.door.tasks.clone());
        let task = async move {
            let gone = answers.clone();
            let mut frames = Frames { stream, over: false, idle: plans.idle };
            let outcome = tokio::select! {
                () = gone.closed() => return,
                outcome = plans.run(&call, &mut frames, &answers) => outcome,
            };
            if let Err(fault) = outcome {
                let _ = end.send(call.refusal(&fault));
            }
            frames.leave();
        };
        // A drain waits for it, as it does for every call.
        tasks.spawn(task.in_current_span());
        // How it failed comes behind what was answered, also where nobody reads that.
        let end = futures::stream::once(ended).filter_map(async |end| end.ok().map(Err));
        ReceiverStream::new(receiver).chain(end).boxed()
    }

    async fn run(&self, call: &Call, frames: &mut Frames, answers: &mpsc::Sender<Answer>) -> Result<()> {
        let (mut request, asked) = frames.rules().await?;
        request.frame = None;
        let rules = convert::rules(&asked)?;
        let wishes = Wishes::of(asked.filter.as_ref())?;
        let (rules, wishes) = (&rules, &wishes);
        let listed = self.door.enter(call, &request, Permissions::default(), |site| self.list(site, rules, wishes));
        let Listed { site, listing, charge, resume_token } = Box::pin(listed).await?;
        let policy =
            Policy { direction: rules.direction, on_conflict: rules.on_conflict, on_missing: rules.on_missing };
        let files = count(listing.files());
        let (batch, summary) = (batch(), api::SyncSummary::default());
        let mut told = Telling { answers, batch, summary, rules, idle: self.idle };
        told.summary.resume_token = resume_token;
        let work = async {
            told.send(Payload::Listed(api::SyncListed { files })).await?;
            let mut plan = Plan::new(policy, listing);
            entries(&mut plan, &mut told, frames, charge, wishes).await
        };
        let ended = site.ending().ended();
        tokio::select! {
            fault = ended => Err(fault),
            outcome = work => outcome,
        }
        .map_err(|fault| site.told(fault))
    }

    /// Reads the whole folder.
    async fn list(&self, site: Site, rules: &Rules, wishes: &Wishes) -> Result<Listed> {
        let mut charge = Charge::new(&self.allowance, site.parameters().id.as_str());
        charge.cover(0)?;
        let scope = scope_at(&site, &rules.path, rules.recursive).await?;
        let mut walk = Walk::begin(site.caller().clone(), scope.list_arg(LIST_LIMIT_MAX));
        let (mut listing, mut cursor) = (Listing::default(), String::new());
        while let Some(page) = walk.page().await? {
            for entry in &page.entries {
                site.learn(entry);
                tell(&mut listing, entry, &scope, wishes)?;
            }
            charge.cover(listing.bytes())?;
            cursor = page.cursor;
        }
        // Whoever sorts for milliseconds keeps others from their calls.
        let closing = tokio::task::spawn_blocking(move || listing.close()).await;
        let listing = closing.map_err(|error| Fault::bug("a listing could not be closed").source(error))?;
        let place = self.hub.behind_listing(&scope, cursor.into()).await?;
        let resume_token = self.hub.seal(&scope, &place)?.to_string();
        Ok(Listed { site, listing, charge, resume_token })
    }
}

struct Listed {
    site: Site,
    listing: Listing,
    charge: Charge,
    resume_token: String,
}

/// The filter, and as much of it as a path alone decides: what that leaves out is not held.
struct Wishes {
    all: Filter,
    names: Filter,
}

impl Wishes {
    fn of(asked: Option<&api::ItemFilter>) -> Result<Wishes> {
        // As the paths that they are held against.
        let composed = |globs: &[String]| globs.iter().map(|glob| plan::composed(glob).into_owned()).collect();
        let asked = asked.map(|asked| api::ItemFilter {
            include_globs: composed(&asked.include_globs),
            exclude_globs: composed(&asked.exclude_globs),
            ..asked.clone()
        });
        let all = filter::compile(asked.as_ref())?;
        let names = asked.map(|asked| {
            let mut names = api::ItemFilter {
                min_size: None,
                max_size: None,
                modified_after: None,
                modified_before: None,
                ..asked
            };
            // Of a path that is written in two ways each has its own answer.
            if asked.case_sensitive {
                (names.include_globs, names.exclude_globs) = (Vec::new(), Vec::new());
            }
            names
        });
        Ok(Wishes { all, names: filter::compile(names.as_ref())? })
    }
}

/// Whether a file at this path below the folder passes.
fn passes(filter: &Filter, path: &str, measures: Measures) -> bool {
    let path = plan::composed(path);
    let name = path.rsplit('/').next().unwrap_or(&path);
    filter.is_open() || filter.wants_at(&Place { path: &format!("/{path}"), kind: Kind::File, measures }, name, "")
}

/// What of a path lies below this folder; `None` of the folder itself.
///
/// # Errors
/// `DROPBOX_PROTOCOL`: it lies elsewhere. To pass it over would say that it is not there.
fn below<'a>(folder: &str, path: &'a str) -> Result<Option<&'a str>> {
    let end = path.match_indices('/').map(|(at, _)| at).nth(folder.matches('/').count()).unwrap_or(path.len());
    let (parent, rest) = path.split_at(end);
    let same = |path: &str| plan::composed(&dbx_str_lowercase(path)).into_owned();
    if parent != folder && same(parent) != same(folder) {
        return Err(Fault::new(Reason::DropboxProtocol, "Dropbox listed an item that is not in the folder"));
    }
    Ok(rest.strip_prefix('/'))
}

fn tell(listing: &mut Listing, entry: &files::Metadata, scope: &Scope, wishes: &Wishes) -> Result<()> {
    // What is not mounted has no path.
    let (Some(lower), display) = paths(entry) else { return Ok(()) };
    let Some(lower) = below(&scope.path, lower)? else { return Ok(()) };
    // Of that only the last name is surely as it is written.
    let path = display.and_then(|display| below(&scope.path, display).ok().flatten()).unwrap_or(lower);
    let kind = match entry {
        files::Metadata::Folder(_) => plan::Kind::Folder,
        files::Metadata::Deleted(_) => plan::Kind::Gone,
        files::Metadata::File(_) if !passes(&wishes.names, path, Measures::default()) => return Ok(()),
        files::Metadata::File(file) => {
            let hash: Option<ContentHash> = file.content_hash.as_deref().and_then(|hash| hash.parse().ok());
            plan::Kind::File(plan::File {
                rev: &file.rev,
                size: file.size,
                hash: hash.map(|hash| *hash.as_bytes()),
                modified: from_dropbox_time(&file.client_modified).map(unix_seconds),
                downloadable: file.is_downloadable,
                wanted: passes(&wishes.all, path, Measures::of(entry)),
            })
        }
    };
    listing.tell(&Told { lower, path, kind })
}

/// Answers entries as they come, then what only Dropbox has.
async fn entries(
    plan: &mut Plan,
    told: &mut Telling<'_>,
    frames: &mut Frames,
    mut charge: Charge,
    wishes: &Wishes,
) -> Result<()> {
    while let Some(sent) = frames.entries().await? {
        let checked = convert::entries(&sent, told.rules)?;
        for (nth, (checked, sent)) in checked.into_iter().zip(sent.entries).enumerate() {
            let entry = entry(checked, wishes);
            if let Some(step) = plan.step(&entry)? {
                let step_told = step_told(plan, step, sent.path, &entry.path);
                told.step(step_told, entry.size).await?;
            }
            if nth % DECIDED_AT_ONCE == DECIDED_AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
        }
        charge.cover(plan.bytes())?;
        told.flush().await?;
    }
    for (nth, at) in plan.files().into_iter().map(|at| at as usize).enumerate() {
        if let Some(step) = plan.rest(at) {
            let path = plan.spelled(at).unwrap_or_else(|| plan.path(at)).to_owned();
            let step_told = step_told(plan, step, path.clone(), &path);
            told.step(step_told, 0).await?;
        }
        if nth % DECIDED_AT_ONCE == DECIDED_AT_ONCE - 1 {
            tokio::task::yield_now().await;
        }
    }
    told.flush().await?;
    let summary = std::mem::take(&mut told.summary);
    told.send(Payload::Summary(summary)).await
}

fn entry(checked: convert::Entry, wishes: &Wishes) -> Entry {
    let convert::Entry { below, size, hash, modified, base_rev, base_hash, deleted } = checked;
    let measures =
        Measures { size: Some(size), client_modified: modified.map(from_unix_seconds), ..Measures::default() };
    // Of what is gone the name is known.
    let filter = if deleted { &wishes.names } else { &wishes.all };
    let wanted = passes(filter, &below.path, measures);
    let lower = dbx_str_lowercase(&below.path);
    let (path, bad_names) = (below.path, below.bad_names);
    Entry { lower, path, bad_names, size, hash, modified, base_rev, base_hash, deleted, wanted }
}

/// `path` is told; `written` is the same in one form, to be compared with Dropbox's.
fn step_told(plan: &Plan, step: Step, path: String, written: &str) -> api::SyncStep {
    let remote = step.remote.map(|at| {
        let file = plan.file(at);
        let there = plan.path(at);
        api::RemoteFile {
            rev: file.rev.to_owned(),
            size: size(file.size),
            content_hash: file.hash.map(hex::encode).unwrap_or_default(),
            client_modified: file.modified.map(|seconds| timestamp(from_unix_seconds(seconds))),
            path: if there == written { String::new() } else { there.to_owned() },
        }
    });
    api::SyncStep { path, action: step.action.into(), reason: step.why.into(), remote }
}

/// What is told to the caller.
struct Telling<'a> {
    answers: &'a mpsc::Sender<Answer>,
    batch: pages::Answer<api::SyncStep>,
    summary: api::SyncSummary,
    rules: &'a Rules,
    idle: Duration,
}

impl Telling<'_> {
    /// `bytes`: what the caller's file has.
    async fn step(&mut self, step: api::SyncStep, bytes: u64) -> Result<()> {
        let summary = &mut self.summary;
        let counted = match step.action() {
            api::SyncAction::Upload => {
                summary.upload_bytes = summary.upload_bytes.saturating_add(size(bytes));
                &mut summary.uploads
            }
            api::SyncAction::Download => {
                let bytes = step.remote.as_ref().map_or(0, |remote| remote.size);
                summary.download_bytes = summary.download_bytes.saturating_add(bytes);
                &mut summary.downloads
            }
            api::SyncAction::DeleteLocal => &mut summary.local_deletions,
            api::SyncAction::DeleteRemote => &mut summary.remote_deletions,
            api::SyncAction::Conflict => &mut summary.conflicts,
            api::SyncAction::None | api::SyncAction::Unspecified => &mut summary.unchanged,
        };
        *counted = counted.saturating_add(1);
        if self.rules.actions_only && step.action() == api::SyncAction::None {
            return Ok(());
        }
        if !self.batch.has_room(&step) {
            self.flush().await?;
        }
        self.batch.put(step);
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        let steps = std::mem::replace(&mut self.batch, batch()).taken;
        if steps.is_empty() {
            return Ok(());
        }
        self.send(Payload::Batch(api::SyncBatch { steps })).await
    }

    /// Waits until there is room: until the caller has read.
    async fn send(&mut self, payload: Payload) -> Result<()> {
        let answer = api::PlanSyncResponse { payload: Some(payload) };
        match timeout(self.idle, self.answers.send(Ok(answer))).await {
            Ok(sent) => sent.map_err(|_| Fault::new(Reason::Cancelled, "the caller has left")),
            Err(_) => Err(idle("the plan's answers were not read", self.idle)),
        }
    }
}

fn batch() -> pages::Answer<api::SyncStep> {
    pages::Answer::bounded(PLAN_BATCH_STEPS_MAX, PLAN_BATCH_BYTES_MAX)
}

fn count(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn idle(what: &str, span: Duration) -> Fault {
    let text = format!("{what} for {} s", span.as_secs());
    Fault::new(Reason::UploadIdle, text)
        .retry_after(BUSY_RETRY)
        .with_remedy("plan again, and send and read without long pauses")
}

/// What a plan holds of the allowance.
struct Charge {
    allowance: Fair,
    parameter: String,
    held: Vec<Held>,
}

impl Charge {
    fn new(allowance: &Fair, parameter: &str) -> Charge {
        Charge { allowance: allowance.clone(), parameter: parameter.to_owned(), held: Vec::new() }
    }

    /// Takes what is missing for so much beside what every plan costs.
    ///
    /// # Errors
    /// `CONNECTOR_BUSY`.
    fn cover(&mut self, bytes: usize) -> Result<()> {
        let units = (PLAN_OPEN_BYTES + bytes).div_ceil(PLAN_UNIT_BYTES);
        while self.held.len() < units {
            let Some(unit) = self.allowance.try_take(&self.parameter, 1) else {
                let text = "the plans of this server hold as much as they may";
                let fault = Fault::new(Reason::ConnectorBusy, text).fact("limit", "max_plan_bytes");
                return Err(fault.retry_after(BUSY_RETRY));
            };
            self.held.push(unit);
        }
        Ok(())
    }
}

/// The request stream: rules, entries, finish.
struct Frames {
    stream: Streaming<api::PlanSyncRequest>,
    /// It gave its last message, or failed.
    over: bool,
    idle: Duration,
}

impl Frames {
    async fn rules(&mut self) -> Result<(api::PlanSyncRequest, api::SyncRules)> {
        let first = self.message(("rules.filter", FILTER_GLOBS_MAX)).await?;
        let mut first = first.ok_or_else(|| order("the stream is empty: send rules first"))?;
        match first.frame.take() {
            Some(Frame::Rules(rules)) => Ok((first, rules)),
            _ => Err(order("the first message must hold rules")),
        }
    }

    /// The next entries; `None` behind the last.
    async fn entries(&mut self) -> Result<Option<api::LocalEntries>> {
        match self.message(("entries.entries", PLAN_ENTRIES_MAX)).await?.map(|message| message.frame) {
            Some(Some(Frame::Entries(entries))) => Ok(Some(entries)),
            Some(Some(Frame::Finish(_))) => Ok(None),
            Some(Some(Frame::Rules(_))) => Err(order("rules come once, and first")),
            Some(None) => Err(order("a message holds no frame")),
            None => Err(order("the stream ended without finish: what it did not name may be there all the same")),
        }
    }

    /// The next message, and which of its fields may hold how many.
    async fn message(&mut self, most: (&'static str, usize)) -> Result<Option<api::PlanSyncRequest>> {
        match timeout(self.idle, self.stream.message()).await {
            Ok(Ok(message)) => {
                self.over = message.is_none();
                Ok(message)
            }
            Ok(Err(status)) => {
                self.over = true;
                Err(broken(&status, most))
            }
            Err(_) => Err(idle("the stream of entries was silent", self.idle)),
        }
    }

    /// The answer is there: what the caller still sends is read for a moment and dropped, so that proxies pass the answer on.
    fn leave(mut self) {
        if self.over {
            return;
        }
        tokio::spawn(async move {
            let drop_rest = async {
                for _ in 0..READ_ON_MESSAGES {
                    if !matches!(self.stream.message().await, Ok(Some(_))) {
                        return;
                    }
                }
            };
            let _ = timeout(READ_ON, drop_rest).await;
        });
    }
}

fn broken(status: &Status, (field, most): (&'static str, usize)) -> Fault {
    match Unread::of(status) {
        Some(Unread::TooLarge) => {
            Fault::field("entries", "TOO_LARGE", "a message is larger than max_message_bytes of GetServerInfo")
        }
        Some(Unread::TooMany) => Fault::field(field, "OUT_OF_RANGE", format!("at most {most} in one message")),
        Some(Unread::Malformed) => order("a message of the stream is not a frame of a plan"),
        None => Fault::new(Reason::Cancelled, "the caller's stream broke off"),
    }
}

fn order(text: &str) -> Fault {
    Fault::new(Reason::FrameOrder, text).with_remedy("send rules once and first, then entries, then finish")
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPOSED: &str = "/B\u{fc}cher";
    const APART: &str = "/Bu\u{308}cher";

    #[test]
    fn what_lies_below_a_folder_is_found_however_its_name_is_written_and_nothing_is_passed_over() {
        for folder in [COMPOSED, APART] {
            for told in [COMPOSED, APART, "/B\u{dc}CHER", "/BU\u{308}CHER"] {
                assert_eq!(below(folder, told).expect("itself"), None);
                let (file, deep) = (format!("{told}/\u{c9}t\u{e9}"), format!("{told}/a/b"));
                assert_eq!(below(folder, &file).expect("below it"), Some("\u{c9}t\u{e9}"));
                assert_eq!(below(folder, &deep).expect("deep below it"), Some("a/b"));
            }
            for elsewhere in ["/B\u{fc}che/a", "/a", "", "/other/a/b"] {
                let refused = below(folder, elsewhere).expect_err(elsewhere);
                assert_eq!(refused.reason(), Reason::DropboxProtocol);
            }
        }
        assert_eq!(below("", "/a/b").expect("the root"), Some("a/b"));
        assert_eq!(below("/a/b", "/A/B/c").expect("deeper"), Some("c"));
        assert!(below("/a/b", "/a").is_err());
    }

    #[test]
    fn a_glob_means_both_ways_to_write_an_accent() {
        for glob in ["\u{dc}*", "U\u{308}*"] {
            let asked = api::ItemFilter { include_globs: vec![glob.to_owned()], ..Default::default() };
            let wishes = Wishes::of(Some(&asked)).expect("a filter");
            for path in ["\u{dc}bung.txt", "U\u{308}bung.txt"] {
                assert!(passes(&wishes.all, path, Measures::default()), "{glob} {path}");
                assert!(passes(&wishes.names, path, Measures::default()), "{glob} {path}");
            }
            assert!(!passes(&wishes.all, "Ubung.txt", Measures::default()), "{glob}");
        }
    }
}
