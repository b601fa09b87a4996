//! The write gate: small uploads that meet there go together, and nobody but Dropbox notices.

mod changes;
mod counts;
mod fleet;
mod killed;
mod lost;
mod outcomes;
mod sessions;
mod tenants;
mod withdrawn;

use std::sync::Arc;

use dropbox_connector::{
    api::v1::{self as pb, upload_file_request::Frame},
    emulator::script::{Action, Rule},
};
use tokio::task::JoinHandle;
use tonic::Status;

use crate::support::{streams::*, *};

const UPLOAD: &str = "files/upload";
const START: &str = "files/upload_session/start_batch";
const APPEND: &str = "files/upload_session/append_batch";
const FINISH: &str = "files/upload_session/finish_batch_v2";
const FOLDER: &str = "files/create_folder_v2";

type Uploaded = Result<pb::UploadFileResponse, Status>;

/// A write of the namespace that is answered when the test says so.
struct Held(JoinHandle<Result<(), Status>>);

fn slow_folder(house: &House) -> JoinHandle<Result<(), Status>> {
    let mut client = house.client();
    let application_parameter_id = PARAMETER.into();
    let folder = pb::CreateFolderRequest { application_parameter_id, path: "/slow".into(), ..Default::default() };
    tokio::spawn(async move { client.create_folder(folder).await.map(drop) })
}

impl Held {
    async fn by(house: &House) -> Held {
        let control = house.control();
        control.script([Rule::once(FOLDER, Action::Stall)]).expect("script");
        let before = control.counter(FOLDER).running;
        let slow = slow_folder(house);
        until("the turn is taken", async || control.counter(FOLDER).running == before + 1).await;
        Held(slow)
    }

    async fn let_go(self) {
        self.0.abort();
        let _ = self.0.await;
    }
}

fn sized(spec: pb::UploadSpec, bytes: &[u8]) -> pb::UploadSpec {
    pb::UploadSpec { total_size: Some(bytes.len() as i64), ..spec }
}

/// An upload that says its size, as helpers do.
async fn send(house: &House, spec: pb::UploadSpec, bytes: &[u8]) -> Uploaded {
    upload(house, sized(spec, bytes), bytes).await
}

/// The same in a task of its own.
fn spawn(house: &Arc<House>, spec: pb::UploadSpec, bytes: &[u8]) -> JoinHandle<Uploaded> {
    let (house, bytes) = (house.clone(), bytes.to_vec());
    tokio::spawn(async move { send(&house, spec, &bytes).await })
}

async fn exists(house: &House, path: &str) -> bool {
    let request =
        pb::GetItemRequest { application_parameter_id: PARAMETER.into(), path: path.into(), ..Default::default() };
    match house.client().get_item(request).await {
        Ok(_) => true,
        Err(status) if reason(&status) == "PATH_NOT_FOUND" => false,
        Err(status) => panic!("{path}: {status:?}"),
    }
}

/// Whoever called before, on the same connection, has come as far as the gate: what others call now goes to Dropbox and back
/// meanwhile, so many times.
async fn settle(house: &House) {
    for _ in 0..8 {
        assert!(!exists(house, "/nobody/has/this").await);
    }
}

/// An upload that waits at a gate which is held: its bytes are at Dropbox.
async fn queued(house: &Arc<House>, specs: Vec<(pb::UploadSpec, &[u8])>) -> Vec<JoinHandle<Uploaded>> {
    let control = house.control();
    let before = control.counter(APPEND).bytes_in;
    let bytes: u64 = specs.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    let uploads = specs.into_iter().map(|(spec, bytes)| spawn(house, spec, bytes)).collect();
    until("their bytes are at Dropbox", async || {
        let counter = control.counter(APPEND);
        counter.bytes_in == before + bytes && counter.good == counter.calls
    })
    .await;
    // The answer still comes back to whoever waits for it.
    settle(house).await;
    uploads
}

async fn all(uploads: Vec<JoinHandle<Uploaded>>) -> Vec<Uploaded> {
    let answers = futures::future::join_all(uploads);
    let answers = tokio::time::timeout(PATIENCE, answers).await.expect("answered in time");
    answers.into_iter().map(|answer| answer.expect("no panic")).collect()
}

/// Requests that commit, or carry data.
fn commits_and_data(house: &House) -> u64 {
    let counters = house.control().counters();
    let counted = |route: &str| route.starts_with(UPLOAD) && route != START;
    counters.iter().filter(|(route, _)| counted(route)).map(|(_, counter)| counter.calls).sum()
}

#[track_caller]
fn nobody_met_contention(house: &House) {
    let refused: Vec<_> = house.control().journal().into_iter().filter(|entry| entry.status == 429).collect();
    assert!(refused.is_empty(), "{refused:?}");
    assert!(house.control().wrong_answers().is_empty(), "{:?}", house.control().wrong_answers());
}

#[track_caller]
fn is_committed(answer: &Uploaded, bytes: &[u8]) {
    let answer = answer.as_ref().unwrap_or_else(|status| panic!("{status:?}"));
    assert_eq!(answer.state(), pb::UploadState::Committed);
    assert_eq!((answer.content_hash.as_str(), answer.verified), (content_hash(bytes).as_str(), true));
    assert_eq!(file_of(answer.item.as_ref()).size, bytes.len() as i64);
}
