//! `CommitUploads`: uploads whose bytes are at Dropbox, committed many at a time, on their own terms or on others.

mod broken;
mod fleet;
mod items;
mod many;

use std::sync::Arc;

use dropbox_connector::{
    api::v1::{
        self as pb, committed_upload::Outcome, dropbox_connector_client::DropboxConnectorClient,
        upload_file_request::Frame,
    },
    emulator::{
        control::Seed,
        script::{Action, Rule},
    },
};
use serde_json::json;
use tonic::{Code, Status, transport::Channel};

use crate::support::{self, streams::*, victim::*, *};

const UPLOAD: &str = "files/upload";
const START: &str = "files/upload_session/start";
const APPEND: &str = "files/upload_session/append_v2";
const APPEND_BATCH: &str = "files/upload_session/append_batch";
const FINISH: &str = "files/upload_session/finish";
const FINISH_BATCH: &str = "files/upload_session/finish_batch_v2";
const FOLDER: &str = "files/create_folder_v2";

type Results = Result<Vec<Result<pb::Item, pb::ItemError>>, Status>;

fn deferred(path: &str) -> pb::UploadSpec {
    pb::UploadSpec { deferred_commit: true, ..spec(path) }
}

fn sized(spec: pb::UploadSpec, bytes: &[u8]) -> pb::UploadSpec {
    pb::UploadSpec { total_size: Some(bytes.len() as i64), ..spec }
}

/// An upload that ends with its bytes at Dropbox.
async fn ready(house: &House, spec: pb::UploadSpec, bytes: &[u8]) -> String {
    is_ready(upload(house, sized(spec, bytes), bytes).await, bytes)
}

#[track_caller]
fn is_ready(answer: Result<pb::UploadFileResponse, Status>, bytes: &[u8]) -> String {
    let answer = answer.expect("its bytes are there");
    assert_eq!(answer.state(), pb::UploadState::Ready);
    assert_eq!(answer.persisted_offset, bytes.len() as i64);
    assert_eq!(answer.content_hash, content_hash(bytes));
    assert_eq!((answer.item, answer.verified), (None, false));
    answer.upload_id
}

fn item(upload_id: &str) -> pb::UploadToCommit {
    pb::UploadToCommit { upload_id: upload_id.into(), ..Default::default() }
}

fn elsewhere(upload_id: &str, path: &str) -> pb::UploadToCommit {
    let terms = pb::CommitTerms { path: path.into(), ..Default::default() };
    pb::UploadToCommit { commit: Some(terms), ..item(upload_id) }
}

fn asked(items: Vec<pb::UploadToCommit>) -> pb::CommitUploadsRequest {
    pb::CommitUploadsRequest { application_parameter_id: PARAMETER.into(), items, ..Default::default() }
}

async fn commit_at(mut client: DropboxConnectorClient<Channel>, items: Vec<pb::UploadToCommit>) -> Results {
    let count = items.len();
    let results = client.commit_uploads(asked(items)).await?.into_inner().results;
    assert_eq!(results.len(), count);
    let mut told = Vec::with_capacity(count);
    for (n, result) in results.into_iter().enumerate() {
        assert_eq!(usize::try_from(result.index), Ok(n), "in the order of the call");
        told.push(match result.outcome.expect("an outcome") {
            Outcome::Item(item) => Ok(item),
            Outcome::Failure(failure) => Err(failure),
        });
    }
    Ok(told)
}

async fn commit(house: &House, items: Vec<pb::UploadToCommit>) -> Vec<Result<pb::Item, pb::ItemError>> {
    commit_at(house.client(), items).await.expect("the call itself does not fail")
}

#[track_caller]
fn is_file(result: &Result<pb::Item, pb::ItemError>, path: &str, bytes: &[u8]) {
    let item = result.as_ref().unwrap_or_else(|failure| panic!("{path}: {failure:?}"));
    assert_eq!(item.path_display, path);
    let file = file_of(Some(item));
    assert_eq!((file.size, file.content_hash.as_str()), (bytes.len() as i64, content_hash(bytes).as_str()));
}

#[track_caller]
fn is_refused(result: &Result<pb::Item, pb::ItemError>, code: Code, reason: &str) -> pb::ItemError {
    let failure = result.as_ref().expect_err("it fails");
    assert_eq!((failure.code, failure.reason.as_str()), (code as i32, reason), "{failure:?}");
    failure.clone()
}

fn calls(house: &House) -> u64 {
    house.control().counters().values().map(|counter| counter.calls).sum()
}

/// Bytes of uploads that were sent to Dropbox.
fn data(house: &House) -> u64 {
    [UPLOAD, START, APPEND, APPEND_BATCH].map(|route| house.control().counter(route).bytes_in).iter().sum()
}

fn folder_at(house: &House, path: &str) {
    let seed: Seed = serde_json::from_value(json!({ "folders": [path] })).expect("a seed");
    house.control().seed(&seed).expect("seeded");
}

async fn state(house: &House, upload_id: &str) -> pb::UploadState {
    upload_status(house, upload_id).await.expect("status").state()
}

#[track_caller]
fn holds(house: &House, path: &str, bytes: &[u8]) {
    assert!(house.control().read(None, path).as_deref() == Some(bytes), "{path}");
}
