//! Blocks of a parallel upload of which nobody knows whether they arrived: the commit decides, and nothing wrong is committed.

use dropbox_connector::{
    api::v1 as pb,
    emulator::{
        ResentBlock,
        script::{Action, Rule},
    },
};
use serde_json::json;
use tonic::Code;

use crate::support::{self, streams::*, *};

const APPEND: &str = "files/upload_session/append_v2";
const FINISH: &str = "files/upload_session/finish";

#[tokio::test(flavor = "multi_thread")]
async fn three_lost_appends_of_a_parallel_upload_do_no_harm_whether_they_were_applied_or_not() {
    let house = support::start().await;
    let control = house.control();
    let bytes = noise(41 * MIB + 5, 1);
    for resent in [ResentBlock::Accepted, ResentBlock::IncorrectOffset] {
        control.switch(|switches| switches.resent_block = resent);
        for action in [Action::CutAfter, Action::CutBefore] {
            let path = format!("/{resent:?}-{action:?}");
            control.clear_script();
            control.clear_journal();
            control.script([2, 3, 5].map(|nth| Rule::nth(APPEND, nth, action.clone()))).expect("script");
            let spec = pb::UploadSpec { parallel_appends: 4, ..spec(&path) };
            let answer = upload(&house, spec, &bytes).await.unwrap_or_else(|fault| panic!("{path}: {fault:?}"));
            assert!(control.standing().iter().all(|rule| rule.fired == 1), "{path}");
            assert_eq!((answer.content_hash, answer.verified), (content_hash(&bytes), true), "{path}");
            assert!(control.read(None, &path).as_deref() == Some(&bytes), "{path}");
            assert_eq!(control.counter(FINISH).calls, 1, "{path}");
        }
    }
}

/// A parallel upload whose first append is cut, and refused both times it is sent again as if it were there. What `named` says,
/// the offset in the refusals, is not known to be about this block in a session that takes any offset.
async fn first_block_unsure(
    house: &House,
    path: &str,
    bytes: &[u8],
    first: Action,
    named: usize,
) -> (String, OpenUpload) {
    let control = house.control();
    control.clear_script();
    let spec = pb::UploadSpec { parallel_appends: 4, total_size: Some(bytes.len() as i64), ..spec(path) };
    let upload_id = start_upload(house, spec).await;
    let refused =
        || Action::Error { error: json!({ ".tag": "incorrect_offset", "correct_offset": named }), user_message: None };
    let rules = [Rule::nth(APPEND, 1, first), Rule::nth(APPEND, 2, refused()), Rule::nth(APPEND, 3, refused())];
    control.script(rules).expect("script");
    let mut stream = OpenUpload::resume(house, &upload_id).await;
    assert!(stream.send_range(bytes, 0, 8 * MIB).await);
    until("nobody knows whether the first block is there", || async {
        control.standing().iter().all(|rule| rule.fired == 1)
    })
    .await;
    (upload_id, stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_is_refused_because_it_is_there_is_committed() {
    let house = support::start().await;
    let bytes = noise(33 * MIB, 2);
    let (_, mut stream) = first_block_unsure(&house, "/there", &bytes, Action::CutAfter, 0).await;
    assert!(stream.send_range(&bytes, 8 * MIB, bytes.len()).await);
    assert!(stream.send(finish()).await);
    let answer = stream.answer().await.expect("committed");
    assert_eq!((answer.content_hash, answer.verified), (content_hash(&bytes), true));
    assert!(house.control().read(None, "/there").as_deref() == Some(&bytes));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_turns_out_missing_is_asked_for_again_and_nothing_is_committed_before() {
    let house = support::start().await;
    let bytes = noise(33 * MIB, 3);
    for named in [0, 8 * MIB, 16 * MIB] {
        missing(&house, &format!("/missing-{named}"), &bytes, named).await;
    }
}

async fn missing(house: &House, path: &str, bytes: &[u8], named: usize) {
    let control = house.control();
    let before = control.counter(APPEND).good;
    let (upload_id, mut stream) = first_block_unsure(house, path, bytes, Action::CutBefore, named).await;
    assert!(stream.send_range(bytes, 8 * MIB, bytes.len()).await);
    // What is not known to be there is not told to be.
    until("all the others are there", || async { control.counter(APPEND).good >= before + 3 }).await;
    assert_eq!(upload_status(house, &upload_id).await.expect("status").persisted_offset, 0);
    assert!(stream.send(finish()).await);
    let lacking = stream.answer().await.expect_err("the first block is missing");
    assert_eq!((lacking.code(), reason(&lacking).as_str()), (Code::Unavailable, "DROPBOX_UNAVAILABLE"), "{lacking:?}");
    assert!(retry_delay(&lacking).is_some());
    assert_eq!(fact(&lacking, "uploadId").as_ref(), Some(&upload_id));
    assert_eq!(fact(&lacking, "persistedOffset").as_deref(), Some("0"));
    assert_eq!(control.read(None, path), None);
    let status = upload_status(house, &upload_id).await.expect("status");
    assert_eq!((status.state(), status.persisted_offset), (pb::UploadState::Open, 0));
    let before = control.counter(APPEND).bytes_in;
    let answer = upload_frames(house, resume_frames(&upload_id, bytes, 0)).await.expect("resumed");
    assert_eq!((answer.content_hash, answer.verified), (content_hash(bytes), true));
    assert!(control.read(None, path).as_deref() == Some(bytes));
    let again = control.counter(APPEND).bytes_in - before;
    assert!(again <= 9 * MIB as u64 + 1, "only what was missing, and the end: {again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_a_closed_session_takes_no_more_loses_the_upload_and_says_so() {
    let house = support::start().await;
    house.control().switch(|switches| switches.early_close_allowed = false);
    let bytes = noise(33 * MIB, 4);
    let (upload_id, mut stream) = first_block_unsure(&house, "/lost", &bytes, Action::CutBefore, 0).await;
    assert!(stream.send_range(&bytes, 8 * MIB, bytes.len()).await);
    assert!(stream.send(finish()).await);
    let lacking = stream.answer().await.expect_err("the first block is missing");
    assert_eq!(reason(&lacking), "DROPBOX_UNAVAILABLE");
    let lost = upload_frames(&house, resume_frames(&upload_id, &bytes, 0)).await.expect_err("the session is closed");
    let status = upload_status(&house, &upload_id).await.expect_err("lost");
    for lost in [lost, status] {
        assert_eq!((lost.code(), reason(&lost).as_str()), (Code::NotFound, "UPLOAD_NOT_FOUND"), "{lost:?}");
        assert_eq!(fact(&lost, "cause").as_deref(), Some("pieces_lost"));
        assert!(retry_delay(&lost).is_none());
    }
    assert_eq!(house.control().read(None, "/lost"), None, "nothing wrong was committed");
}
