//! Plans: what is to be done on either side, each way, what they refuse, what they hold, and that carrying them out brings two
//! folders together.

mod ends;
mod refusals;
mod rounds;
mod steps;

use dropbox_connector::{
    api::v1::{self as pb, plan_sync_request::Frame, plan_sync_response::Payload},
    emulator::control::{Seed, SeedFile},
};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::support::{self, House, PARAMETER, streams::content_hash};

/// What a plan told.
#[derive(Debug)]
struct Told {
    files: i32,
    steps: Vec<pb::SyncStep>,
    summary: pb::SyncSummary,
}

impl Told {
    /// Path, action and reason of each step, without their prefixes, by path.
    fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.steps.iter().map(line).collect();
        lines.sort();
        lines
    }

    fn step(&self, path: &str) -> &pb::SyncStep {
        self.steps.iter().find(|step| step.path == path).unwrap_or_else(|| panic!("{path}: {:?}", self.lines()))
    }

    fn remote(&self, path: &str) -> &pb::RemoteFile {
        self.step(path).remote.as_ref().unwrap_or_else(|| panic!("{path} is at Dropbox"))
    }
}

fn line(step: &pb::SyncStep) -> String {
    let action = step.action().as_str_name().trim_start_matches("SYNC_ACTION_");
    format!("{} {action} {}", step.path, step.reason().as_str_name().trim_start_matches("SYNC_REASON_"))
}

fn request(frame: Frame) -> pb::PlanSyncRequest {
    pb::PlanSyncRequest { application_parameter_id: PARAMETER.into(), context: None, frame: Some(frame) }
}

fn rules(edit: impl FnOnce(&mut pb::SyncRules)) -> pb::SyncRules {
    let mut rules = pb::SyncRules { path: "/in".into(), ..Default::default() };
    edit(&mut rules);
    rules
}

/// The messages of a whole plan.
fn messages(rules: pb::SyncRules, entries: &[pb::LocalEntry]) -> Vec<pb::PlanSyncRequest> {
    let batches = entries.chunks(1000).map(|entries| Frame::Entries(pb::LocalEntries { entries: entries.to_vec() }));
    let frames = [Frame::Rules(rules)].into_iter().chain(batches).chain([Frame::Finish(pb::SyncFinish {})]);
    frames.map(request).collect()
}

async fn plan(house: &House, rules: pb::SyncRules, entries: &[pb::LocalEntry]) -> Result<Told, Status> {
    planned(house, messages(rules, entries)).await
}

async fn planned(house: &House, messages: Vec<pb::PlanSyncRequest>) -> Result<Told, Status> {
    told(house.client().plan_sync(tokio_stream::iter(messages)).await?.into_inner()).await
}

/// Reads a plan to its end and checks its shape.
async fn told(mut answers: Streaming<pb::PlanSyncResponse>) -> Result<Told, Status> {
    let (mut files, mut steps, mut summary) = (None, Vec::new(), None);
    while let Some(answer) = answers.message().await? {
        assert!(answer.encoded_len() <= 1024 * 1024, "an answer of {} bytes", answer.encoded_len());
        assert!(summary.is_none(), "the summary is last");
        match answer.payload.expect("a payload") {
            Payload::Listed(listed) => assert!(files.replace(listed.files).is_none(), "listed comes once"),
            Payload::Batch(batch) => {
                assert!(files.is_some(), "listed comes first");
                assert!((1..=500).contains(&batch.steps.len()));
                steps.extend(batch.steps);
            }
            Payload::Summary(last) => summary = Some(last),
        }
    }
    let summary: pb::SyncSummary = summary.expect("a plan that ends well has a summary");
    let count = |action: pb::SyncAction| steps.iter().filter(|step: &&pb::SyncStep| step.action() == action).count();
    let counts = [
        (pb::SyncAction::Upload, summary.uploads),
        (pb::SyncAction::Download, summary.downloads),
        (pb::SyncAction::DeleteLocal, summary.local_deletions),
        (pb::SyncAction::DeleteRemote, summary.remote_deletions),
        (pb::SyncAction::Conflict, summary.conflicts),
    ];
    for (action, counted) in counts {
        assert_eq!(count(action), counted as usize, "{action:?}");
    }
    let down = steps.iter().filter(|step| step.action() == pb::SyncAction::Download);
    assert_eq!(down.map(|step| step.remote.as_ref().expect("it is there").size).sum::<i64>(), summary.download_bytes);
    Ok(Told { files: files.expect("listed"), steps, summary })
}

/// A plan whose frames a test sends one by one.
struct Open {
    frames: mpsc::Sender<pb::PlanSyncRequest>,
    answers: Streaming<pb::PlanSyncResponse>,
}

impl Open {
    async fn begin(house: &House, rules: pb::SyncRules) -> Open {
        let (frames, receiver) = mpsc::channel(1);
        let answers = house.client().plan_sync(ReceiverStream::new(receiver)).await.expect("open").into_inner();
        frames.send(request(Frame::Rules(rules))).await.expect("room");
        Open { frames, answers }
    }

    async fn listed(house: &House, rules: pb::SyncRules) -> Open {
        let mut open = Open::begin(house, rules).await;
        let first = open.next().await.expect("no end yet");
        assert!(matches!(first, Some(Payload::Listed(_))), "{first:?}");
        open
    }

    async fn next(&mut self) -> Result<Option<Payload>, Status> {
        let next = tokio::time::timeout(support::PATIENCE, self.answers.message()).await.expect("an answer in time");
        Ok(next?.and_then(|answer| answer.payload))
    }

    async fn send(&self, entries: Vec<pb::LocalEntry>) {
        self.frames.send(request(Frame::Entries(pb::LocalEntries { entries }))).await.expect("the server reads");
    }

    async fn finish(self) -> Streaming<pb::PlanSyncResponse> {
        self.frames.send(request(Frame::Finish(pb::SyncFinish {}))).await.expect("the server reads");
        self.answers
    }
}

/// A file that never was in sync.
fn entry(path: &str, text: &str) -> pb::LocalEntry {
    pb::LocalEntry {
        path: path.into(),
        size: text.len() as i64,
        content_hash: content_hash(text.as_bytes()),
        ..Default::default()
    }
}

/// One that was, as this rev with this text.
fn synced(path: &str, text: &str, rev: &str, base: &str) -> pb::LocalEntry {
    let base_content_hash = content_hash(base.as_bytes());
    pb::LocalEntry { base_rev: rev.into(), base_content_hash, ..entry(path, text) }
}

/// One that was and is gone.
fn deleted(path: &str, rev: &str) -> pb::LocalEntry {
    pb::LocalEntry { path: path.into(), base_rev: rev.into(), deleted: true, ..Default::default() }
}

/// Somebody else writes at Dropbox.
fn put(house: &House, path: &str, text: &str) {
    let files = vec![SeedFile::text(path, text)];
    house.control().seed(&Seed { files, ..Seed::default() }).expect("a sound seed");
}

async fn delete(house: &House, path: &str) {
    let request =
        pb::DeleteItemRequest { application_parameter_id: PARAMETER.into(), path: path.into(), ..Default::default() };
    house.client().delete_item(request).await.expect("deleted");
}

async fn rev(house: &House, path: &str) -> String {
    let request =
        pb::GetItemRequest { application_parameter_id: PARAMETER.into(), path: path.into(), ..Default::default() };
    let item = house.client().get_item(request).await.expect("found").into_inner().item;
    support::streams::file_of(item.as_ref()).rev.clone()
}
