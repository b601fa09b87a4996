//! Commits that others ask about while they are under way, or after nobody is left to say what came of them.

use std::time::Duration;

use dropbox_connector::{
    api::v1::{self as pb},
    emulator::script::{Action, Rule},
};
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::support::{self, streams::*, victim::*, *};

const FINISH: &str = "files/upload_session/finish";

#[track_caller]
fn rev(answer: &pb::UploadFileResponse) -> String {
    assert_eq!(answer.state(), pb::UploadState::Committed);
    file_of(answer.item.as_ref()).rev.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_resumes_while_the_commit_is_under_way_gets_its_outcome() {
    let house = support::start().await;
    let control = house.control();
    let bytes = noise(9 * MIB, 1);
    for (n, action) in [Action::Delay { millis: 1500 }, Action::DelayAnswer { millis: 1500 }].into_iter().enumerate() {
        for autorename in [false, true] {
            let path = format!("/flight-{n}-{autorename}");
            control.clear_script();
            control.clear_journal();
            control.script([Rule::once(FINISH, action.clone())]).expect("script");
            let upload_id = start_upload(&house, pb::UploadSpec { autorename, ..spec(&path) }).await;
            let first = upload_frames(&house, resume_frames(&upload_id, &bytes, 0));
            let others = async {
                until("the commit is under way", || async { control.counter(FINISH).calls == 1 }).await;
                let second = upload_frames(&house, resume_frames(&upload_id, &[], 0));
                tokio::join!(second, upload_status(&house, &upload_id))
            };
            let (first, (second, status)) = tokio::join!(first, others);
            let first = rev(&first.unwrap_or_else(|fault| panic!("{path}: {fault:?}")));
            assert_eq!(rev(&second.unwrap_or_else(|fault| panic!("{path}: {fault:?}"))), first, "{path}");
            assert_eq!(status.expect("status").state(), pb::UploadState::Committed, "{path}");
            assert_eq!(control.counter(FINISH).calls, 1, "{path}: it is committed once");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_in_another_process_gets_the_outcome_of_a_commit_under_way() {
    let house = emptied().await;
    let bytes = noise(9 * MIB, 2);
    let (one, two) = (Victim::start(house.config()).await, Victim::start(house.config()).await);
    for autorename in [false, true] {
        let path = format!("/process-{autorename}");
        house.control().clear_journal();
        house.control().script([Rule::once(FINISH, Action::Delay { millis: 1500 })]).expect("script");
        let upload_id = started_at(&one, pb::UploadSpec { autorename, ..spec(&path) }).await;
        let others = async {
            until("the commit is under way", || async { house.control().counter(FINISH).calls == 1 }).await;
            finish_at(&two, &upload_id, &[], 0).await
        };
        let (first, second) = tokio::join!(finish_at(&one, &upload_id, &bytes, 0), others);
        assert_eq!(rev(&first.expect("committed")), rev(&second.expect("its outcome")), "{path}");
        assert_eq!(house.control().counter(FINISH).calls, 1, "{path}: it is committed once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_resumes_while_the_commit_waits_for_its_turn_gets_its_outcome() {
    let house = support::start().await;
    let control = house.control();
    let bytes = noise(9 * MIB, 6);
    let upload_id = start_upload(&house, spec("/queued")).await;
    // Somebody else has the turn, until it leaves.
    control.script([Rule::once("files/create_folder_v2", Action::Stall)]).expect("script");
    let folder = pb::CreateFolderRequest {
        application_parameter_id: PARAMETER.into(),
        path: "/slow".into(),
        ..Default::default()
    };
    let mut client = house.client();
    let slow = tokio::spawn(async move { client.create_folder(folder).await.map(drop) });
    until("the turn is taken", async || control.counter("files/create_folder_v2").running == 1).await;
    let first = upload_frames(&house, resume_frames(&upload_id, &bytes, 0));
    let second = async {
        // From then on whoever asks waits for what comes of the commit.
        until("the commit waits for its turn", async || {
            control.counter("files/upload_session/append_v2").good == 2
                && timeout(Duration::from_secs(1), upload_status(&house, &upload_id)).await.is_err()
        })
        .await;
        assert_eq!(control.counter(FINISH).calls, 0);
        let leaving = async {
            // Time enough for the second stream to do what it would do if it did not wait.
            tokio::time::sleep(Duration::from_secs(1)).await;
            slow.abort();
        };
        tokio::join!(upload_frames(&house, resume_frames(&upload_id, &[], 0)), leaving).0
    };
    let (first, second) = tokio::join!(first, second);
    assert_eq!(rev(&first.expect("committed")), rev(&second.expect("its outcome")));
    assert_eq!(control.counter(FINISH).calls, 1, "it is committed once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_cannot_be_read_keeps_its_intent_and_is_not_sent_again() {
    let house = support::start().await;
    let control = house.control();
    let bytes = noise(9 * MIB, 7);
    let page = |executed| Action::Answer {
        status: 200,
        content_type: "text/html".into(),
        body: "<html>welcome to this hotel</html>".into(),
        headers: Vec::new(),
        executed,
        unread: false,
    };
    for executed in [true, false] {
        control.clear_script();
        control.clear_journal();
        control.script([Rule::once(FINISH, page(executed))]).expect("script");
        let spec = pb::UploadSpec { autorename: true, ..spec(&format!("/hotel-{executed}/f")) };
        let upload_id = start_upload(&house, spec).await;
        let mut asked = vec![upload_frames(&house, resume_frames(&upload_id, &bytes, 0)).await.map(drop)];
        asked.push(upload_frames(&house, resume_frames(&upload_id, &[], 0)).await.map(drop));
        asked.push(upload_status(&house, &upload_id).await.map(drop));
        for asked in asked {
            let unknown = asked.expect_err("nobody knows");
            assert_eq!((unknown.code(), reason(&unknown).as_str()), (Code::Unknown, "OUTCOME_UNKNOWN"), "{unknown:?}");
            assert!(retry_delay(&unknown).is_none());
        }
        assert_eq!(control.counter(FINISH).calls, 1, "a second commit could write a second file");
    }
}

/// Kills the server behind a commit whose answer was lost; the next server on the same store, and the upload's handle.
async fn torn(house: &House, spec: pb::UploadSpec, bytes: &[u8], action: Action) -> (Victim, String) {
    let control = house.control();
    let mut victim = Victim::start(house.config()).await;
    let upload_id = started_at(&victim, spec).await;
    control.clear_script();
    control.clear_journal();
    // Killed before it could try again.
    control.script([Rule::nth(FINISH, 1, action), Rule::always(FINISH, Action::Stall)]).expect("script");
    let mut client = victim.client().await;
    let stream = tokio_stream::iter(requests(resume_frames(&upload_id, bytes, 0)));
    let calling = tokio::spawn(async move { client.upload_file(stream).await });
    until("the answer is lost", || async {
        control.journal().iter().any(|entry| entry.route == FINISH && entry.ended)
    })
    .await;
    victim.kill();
    let _ = calling.await.expect("no panic");
    control.clear_script();
    (Victim::start(house.config()).await, upload_id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_commit_that_might_write_twice_is_unknown_to_whoever_asks() {
    let bytes = noise(9 * MIB, 3);
    let unknown = |asked: Result<(), Status>| {
        let status = asked.expect_err("nobody knows");
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unknown, "OUTCOME_UNKNOWN"), "{status:?}");
        assert!(retry_delay(&status).is_none());
    };
    let told = async |action: Action| {
        let house = emptied().await;
        let spec = pb::UploadSpec { autorename: true, ..spec("/torn/f") };
        let (next, upload_id) = torn(&house, spec, &bytes, action).await;
        unknown(status_at(&next, &upload_id).await.map(drop));
        unknown(finish_at(&next, &upload_id, &[], 0).await.map(drop));
        assert_eq!(house.control().counter(FINISH).calls, 1, "it is not sent again");
    };
    tokio::join!(told(Action::CutAfter), told(Action::CutBefore));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_commit_is_found_among_the_revisions_when_somebody_wrote_behind_it() {
    let bytes = noise(9 * MIB, 4);
    let stranger = noise(1000, 5);
    let replace = |path: &str| pb::UploadSpec { write_mode: pb::WriteMode::Overwrite.into(), ..spec(path) };
    let house = emptied().await;
    let (next, upload_id) = torn(&house, replace("/busy"), &bytes, Action::CutAfter).await;
    let calls = house.control().counter(FINISH).calls;
    let frames = requests(frames(replace("/busy"), &stranger));
    next.client().await.upload_file(tokio_stream::iter(frames)).await.expect("somebody else");
    let status = status_at(&next, &upload_id).await.expect("status");
    assert_eq!(status.state(), pb::UploadState::Committed);
    assert_eq!(file_of(status.item.as_ref()).content_hash, content_hash(&bytes));
    let answer = finish_at(&next, &upload_id, &[], 0).await.expect("found");
    assert_eq!((answer.content_hash.as_str(), answer.verified), (content_hash(&bytes).as_str(), true));
    assert!(house.control().read(None, "/busy").as_deref() == Some(&stranger), "what came later stays");
    assert_eq!(house.control().counter(FINISH).calls, calls, "it is not sent again");
    // What was found is written down: nobody has to look for it again, or could by now.
    let blind = Action::Error { error: serde_json::json!({ ".tag": "other" }), user_message: None };
    let rules = ["files/get_metadata", "files/list_revisions"].map(|route| Rule::always(route, blind.clone()));
    house.control().script(rules).expect("script");
    assert_eq!(status_at(&next, &upload_id).await.expect("known").state(), pb::UploadState::Committed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handle_and_its_upload_end_seven_days_after_it_was_started() {
    let house = support::start().await;
    let before = dropbox_connector::clock::Clock::now(&dropbox_connector::clock::SystemClock);
    let request = pb::StartUploadRequest {
        application_parameter_id: PARAMETER.into(),
        spec: Some(spec("/week")),
        ..Default::default()
    };
    let started = house.client().start_upload(request).await.expect("started").into_inner();
    let told = std::time::SystemTime::try_from(started.expire_time.expect("a time")).expect("a time");
    let life = told.duration_since(before).expect("later").as_secs();
    assert!((7 * 24 * 3600 - 1..7 * 24 * 3600 + 30).contains(&life), "{life} s");
    let status = upload_status(&house, &started.upload_id).await.expect("status");
    assert_eq!(status.expire_time, started.expire_time, "the same is told by all");
}
