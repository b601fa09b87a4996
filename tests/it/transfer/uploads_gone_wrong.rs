//! Uploads while the line to Dropbox breaks: acknowledgements and commits that are lost, damage, refusals.

use std::collections::BTreeSet;

use dropbox_connector::{
    api::v1 as pb,
    emulator::{
        ResentBlock, SecondFinish,
        script::{Action, Rule},
    },
};
use tonic::Code;

use crate::support::{self, streams::*, *};

const APPEND: &str = "files/upload_session/append_v2";
const FINISH: &str = "files/upload_session/finish";
const START: &str = "files/upload_session/start";

async fn names(house: &House, folder: &str) -> BTreeSet<String> {
    let request =
        pb::ListFolderRequest { application_parameter_id: PARAMETER.into(), path: folder.into(), ..Default::default() };
    let page = house.client().list_folder(request).await.expect("listed").into_inner();
    page.items.into_iter().map(|item| item.name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_acknowledgement_of_an_append_does_not_fail_the_upload() {
    let house = support::start().await;
    let control = house.control();
    let bytes = noise(36 * MIB + 5, 1);
    for resent in [ResentBlock::Accepted, ResentBlock::IncorrectOffset] {
        control.switch(|switches| switches.resent_block = resent);
        for (lane, appends) in [("ordered", 1), ("parallel", 4)] {
            control.clear_script();
            control.script([Rule::every(APPEND, 2, Action::CutAfter)]).expect("script");
            let path = format!("/{lane}-{resent:?}");
            let spec = pb::UploadSpec { parallel_appends: appends, ..spec(&path) };
            let answer = upload(&house, spec, &bytes).await.unwrap_or_else(|fault| panic!("{path}: {fault:?}"));
            assert!(control.standing()[0].fired > 1, "{path}");
            assert!(answer.verified && control.read(None, &path).as_deref() == Some(&bytes), "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_that_never_arrived_are_sent_again() {
    let house = support::start().await;
    let control = house.control();
    let bytes = noise(36 * MIB + 5, 2);
    for (n, action) in [
        Action::CutBefore,
        Action::CutRequest { after_bytes: 1_000_000 },
        Action::ServerError { status: 500 },
        Action::ServerError { status: 503 },
        Action::Html { status: 502 },
        Action::TooManyRequests { retry_after: Some(0) },
    ]
    .into_iter()
    .enumerate()
    {
        for appends in [1, 4] {
            control.clear_script();
            control.script([Rule::every(APPEND, 3, action.clone())]).expect("script");
            let path = format!("/{n}-{appends}");
            let spec = pb::UploadSpec { parallel_appends: appends, ..spec(&path) };
            let answer = upload(&house, spec, &bytes).await.unwrap_or_else(|fault| panic!("{action:?}: {fault:?}"));
            assert!(answer.verified && control.read(None, &path).as_deref() == Some(&bytes), "{action:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_a_commit_is_looked_up_and_no_second_file_is_made() {
    let house = support::start().await;
    let control = house.control();
    for second in [SecondFinish::NotFound, SecondFinish::Closed, SecondFinish::SameAnswer] {
        control.switch(|switches| switches.second_finish = second);
        for (size, appends, route) in [(1000, 0, "files/upload"), (9 * MIB, 1, FINISH), (33 * MIB, 4, FINISH)] {
            control.clear_script();
            control.script([Rule::once(route, Action::CutAfter)]).expect("script");
            let folder = format!("/{second:?}-{size}");
            let bytes = noise(size, 3);
            let spec = pb::UploadSpec { parallel_appends: appends, ..spec(&format!("{folder}/f")) };
            let answer = upload(&house, spec, &bytes).await.unwrap_or_else(|fault| panic!("{folder}: {fault:?}"));
            assert_eq!(answer.state(), pb::UploadState::Committed);
            assert!(answer.verified, "{folder}");
            assert_eq!(names(&house, &folder).await, BTreeSet::from(["f".to_owned()]));
            assert!(control.read(None, &format!("{folder}/f")).as_deref() == Some(&bytes));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_a_commit_that_may_write_twice_is_an_unknown_outcome() {
    let house = support::start().await;
    let control = house.control();
    for (n, size) in [1000, 9 * MIB].into_iter().enumerate() {
        control.clear_script();
        control
            .script([Rule::once("files/upload", Action::CutAfter), Rule::once(FINISH, Action::CutAfter)])
            .expect("script");
        let folder = format!("/{n}");
        let spec = pb::UploadSpec { autorename: true, ..spec(&format!("{folder}/f")) };
        let unknown = upload(&house, spec, &noise(size, 4)).await.expect_err("nobody knows");
        assert_eq!((unknown.code(), reason(&unknown).as_str()), (Code::Unknown, "OUTCOME_UNKNOWN"));
        assert!(retry_delay(&unknown).is_none(), "it must not be repeated blindly");
        assert_eq!(names(&house, &folder).await.len(), 1, "it was sent once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_whose_answer_is_lost_is_made_again() {
    let house = support::start().await;
    for (name, action) in [("/before", Action::CutBefore), ("/after", Action::CutAfter)] {
        house.control().clear_script();
        house.control().script([Rule::once(START, action)]).expect("script");
        let bytes = noise(9 * MIB, 5);
        upload(&house, spec(name), &bytes).await.expect(name);
        assert!(house.control().read(None, name).as_deref() == Some(&bytes));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_damaged_on_the_way_is_sent_once_more_and_then_told() {
    let house = support::start().await;
    let control = house.control();
    let damaged = || Action::Error { error: serde_json::json!({".tag": "content_hash_mismatch"}), user_message: None };
    for (size, route) in [(1000, "files/upload"), (9 * MIB, APPEND)] {
        let bytes = noise(size, 6);
        control.clear_script();
        control.script([Rule::once(route, damaged())]).expect("script");
        upload(&house, spec(&format!("/once{size}")), &bytes).await.expect("sent once more");
        control.clear_script();
        control.script([Rule::always(route, damaged())]).expect("script");
        let refused = upload(&house, spec(&format!("/twice{size}")), &bytes).await.expect_err("damaged twice");
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::DataLoss, "CONTENT_HASH_MISMATCH"), "{route}");
        assert_eq!(control.read(None, &format!("/twice{size}")), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_transport_limit_is_told_as_quota() {
    let house = support::start().await;
    let body = serde_json::json!({
        "error_summary": "invalid_account_type/feature/..",
        "error": {".tag": "invalid_account_type", "invalid_account_type": {".tag": "feature"}},
    });
    let refused = Action::Answer {
        status: 403,
        content_type: "application/json".into(),
        body: body.to_string(),
        headers: Vec::new(),
        executed: false,
        unread: false,
    };
    house.control().script([Rule::always("files/upload*", refused)]).expect("script");
    for size in [1000, 9 * MIB] {
        let refused = upload(&house, spec("/limit"), &noise(size, 7)).await.expect_err("limited");
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::ResourceExhausted, "DATA_TRANSPORT_LIMIT"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_that_lasts_leaves_an_upload_that_can_be_resumed() {
    let house = support::start().await;
    let control = house.control();
    let bytes = noise(41 * MIB, 8);
    for appends in [1, 4] {
        control.clear_script();
        // The first appends pass, then nothing does.
        control.script([Rule::nth(APPEND, 1, Action::Delay { millis: 1 })]).expect("script");
        let refusing = Action::Answer {
            status: 503,
            content_type: "text/plain".into(),
            body: "no".into(),
            headers: vec![("Retry-After".into(), "3600".into())],
            executed: false,
            unread: false,
        };
        let rules = (3..=20).map(|nth| Rule::nth(APPEND, nth, refusing.clone()));
        control.script(rules).expect("script");
        let path = format!("/lasting{appends}");
        let spec = pb::UploadSpec { parallel_appends: appends, ..spec(&path) };
        let fault = upload(&house, spec, &bytes).await.expect_err("Dropbox is down");
        assert_eq!((fault.code(), reason(&fault).as_str()), (Code::Unavailable, "DROPBOX_UNAVAILABLE"));
        assert!(retry_delay(&fault).is_some(), "it may be resumed");
        let upload_id = fact(&fault, "uploadId").expect("a handle");
        control.clear_script();
        let status = upload_status(&house, &upload_id).await.expect("status");
        let from = usize::try_from(status.persisted_offset).expect("small");
        assert!(from.is_multiple_of(BLOCK) && from < bytes.len());
        let answer = upload_frames(&house, resume_frames(&upload_id, &bytes, from)).await.expect("resumed");
        assert_eq!(answer.content_hash, content_hash(&bytes));
        assert!(control.read(None, &path).as_deref() == Some(&bytes));
    }
}
