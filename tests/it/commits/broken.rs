//! Commits that are contended, whose answers are lost, whose callers leave.

use std::time::Duration;

use dropbox_connector::emulator::SecondFinish;
use sqlx::{Connection, SqliteConnection};

use super::*;

async fn four(house: &House, folder: &str, edit: impl Fn(pb::UploadSpec) -> pb::UploadSpec) -> Vec<String> {
    let bytes = noise(3000, 1);
    let ids = (0..4).map(async |n| ready(house, edit(deferred(&format!("{folder}/{n}"))), &bytes).await);
    futures::future::join_all(ids).await
}

fn items(ids: &[String]) -> Vec<pb::UploadToCommit> {
    ids.iter().map(|id| item(id)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_contended_goes_again_and_what_is_no_batch_s_goes_by_itself() {
    let house = support::start().await;
    let control = house.control();
    let bytes = noise(3000, 1);
    let busy = json!({ ".tag": "too_many_write_operations" });
    let not_closed = json!({ ".tag": "lookup_failed", "lookup_failed": { ".tag": "not_closed" } });
    for (n, action, batches, singles) in [
        (0, Action::RefuseEntry { at: 2, failure: busy.clone() }, 2, 0),
        (1, Action::RefuseEntry { at: 2, failure: json!({ ".tag": "path", "path": busy }) }, 2, 0),
        (2, Action::TooManyWriteOperations { retry_after: Some(0) }, 2, 0),
        (3, Action::RefuseEntry { at: 2, failure: not_closed }, 1, 1),
    ] {
        let folder = format!("/again-{n}");
        let ids = four(&house, &folder, |spec| spec).await;
        control.clear_script();
        control.clear_journal();
        control.script([Rule::once(FINISH_BATCH, action)]).expect("script");
        for (one, result) in commit(&house, items(&ids)).await.iter().enumerate() {
            is_file(result, &format!("{folder}/{one}"), &bytes);
        }
        let told = (control.counter(FINISH_BATCH).calls, control.counter(FINISH).calls);
        assert_eq!(told, (batches, singles), "{n}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_settled_by_a_look_and_what_could_be_written_twice_is_told_to_be_unknown() {
    let house = support::start().await;
    let control = house.control();
    let bytes = noise(3000, 1);
    for second in [SecondFinish::NotFound, SecondFinish::Closed, SecondFinish::SameAnswer] {
        control.switch(|switches| switches.second_finish = second);
        for (n, action) in [Action::CutAfter, Action::CutBefore].into_iter().enumerate() {
            let folder = format!("/{second:?}-{n}");
            let ids = four(&house, &folder, |spec| spec).await;
            control.clear_script();
            control.script([Rule::once(FINISH_BATCH, action)]).expect("script");
            for (one, result) in commit(&house, items(&ids)).await.iter().enumerate() {
                is_file(result, &format!("{folder}/{one}"), &bytes);
            }
        }
    }
    for (n, action) in [Action::CutAfter, Action::CutBefore].into_iter().enumerate() {
        let ids = four(&house, &format!("/once-{n}"), |spec| pb::UploadSpec { autorename: true, ..spec }).await;
        control.clear_script();
        control.clear_journal();
        control.script([Rule::once(FINISH_BATCH, action)]).expect("script");
        // Nor does asking again make a second file.
        for _ in 0..2 {
            for result in commit(&house, items(&ids)).await {
                is_refused(&result, Code::Unknown, "OUTCOME_UNKNOWN");
            }
        }
        assert_eq!((control.counter(FINISH_BATCH).calls, control.counter(FINISH).calls), (1, 0));
    }
}

/// A write of the namespace that is not answered until the test says so.
async fn held(house: &House) -> tokio::task::JoinHandle<Result<(), Status>> {
    let control = house.control();
    control.script([Rule::once(FOLDER, Action::Stall)]).expect("script");
    let mut client = house.client();
    let application_parameter_id = PARAMETER.into();
    let folder = pb::CreateFolderRequest { application_parameter_id, path: "/slow".into(), ..Default::default() };
    let slow = tokio::spawn(async move { client.create_folder(folder).await.map(drop) });
    until("the turn is taken", async || control.counter(FOLDER).running == 1).await;
    slow
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_before_the_turn_commits_nothing_and_who_leaves_behind_it_everything() {
    let house = support::start().await;
    let control = house.control();
    let ids = four(&house, "/left", |spec| spec).await;
    let slow = held(&house).await;
    // Gone before it is its turn; another one waits until its deadline.
    let gone = tokio::spawn(commit_at(house.client(), items(&ids)));
    let mut request = tonic::Request::new(asked(items(&ids[..1])));
    request.set_timeout(Duration::from_secs(2));
    let late = house.client().commit_uploads(request).await;
    match late {
        Ok(answer) => match &answer.into_inner().results[0].outcome {
            Some(Outcome::Failure(failure)) => {
                assert_eq!((failure.reason.as_str(), failure.facts["sent"].as_str()), ("DEADLINE_EXCEEDED", "false"));
                assert!(failure.retry_delay.is_some());
            }
            other => panic!("{other:?}"),
        },
        Err(status) => assert_eq!(status.code(), Code::DeadlineExceeded),
    }
    gone.abort();
    let _ = gone.await;
    slow.abort();
    let _ = slow.await;
    let bytes = noise(100, 9);
    upload(&house, sized(spec("/behind"), &bytes), &bytes).await.expect("the gate is free");
    assert_eq!(control.counter(FINISH_BATCH).calls, 0);
    for id in &ids {
        assert_eq!(state(&house, id).await, pb::UploadState::Ready);
    }
    control.script([Rule::once(FINISH_BATCH, Action::DelayAnswer { millis: 700 })]).expect("script");
    let sent = tokio::spawn(commit_at(house.client(), items(&ids)));
    until("it was sent", async || control.counter(FINISH_BATCH).running == 1).await;
    sent.abort();
    let _ = sent.await;
    for (n, id) in ids.iter().enumerate() {
        until("its outcome is known", async || state(&house, id).await == pb::UploadState::Committed).await;
        holds(&house, &format!("/left/{n}"), &noise(3000, 1));
    }
    let before = calls(&house);
    for (n, result) in commit(&house, items(&ids)).await.iter().enumerate() {
        is_file(result, &format!("/left/{n}"), &noise(3000, 1));
    }
    assert_eq!(calls(&house), before, "what came of it was written down");
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_wait_over_a_restart_and_for_less_than_their_seven_days() {
    let mut house = support::start().await;
    let bytes = noise(3000, 1);
    let ids = four(&house, "/restart", |spec| spec).await;
    house.restart().await;
    for (n, result) in commit(&house, items(&ids)).await.iter().enumerate() {
        is_file(result, &format!("/restart/{n}"), &bytes);
    }
    let ids = four(&house, "/expired", |spec| spec).await;
    house.control().expire_sessions();
    for result in commit(&house, items(&ids)).await {
        is_refused(&result, Code::NotFound, "UPLOAD_NOT_FOUND");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_row_the_handle_says_what_an_upload_is() {
    let house = support::start().await;
    let large = noise(9 * MIB + 1, 2);
    let mut specs = vec![(deferred("/rowless/small"), noise(2000, 1)), (deferred("/rowless/empty"), Vec::new())];
    for (path, appends) in [("/rowless/ordered", 1), ("/rowless/parallel", 2)] {
        specs.push((pb::UploadSpec { parallel_appends: appends, ..deferred(path) }, large.clone()));
    }
    let mut ids = Vec::new();
    for (spec, bytes) in &specs {
        ids.push(is_ready(upload(&house, spec.clone(), bytes).await, bytes));
    }
    let mut store = SqliteConnection::connect(&house.config().store_url).await.expect("the store");
    sqlx::query("DELETE FROM uploads").execute(&mut store).await.expect("rows deleted");
    store.close().await.expect("closed");
    for id in &ids {
        assert_eq!(state(&house, id).await, pb::UploadState::Ready);
    }
    for _ in 0..2 {
        for ((spec, bytes), result) in specs.iter().zip(commit(&house, items(&ids)).await) {
            is_file(&result, &spec.path, bytes);
            holds(&house, &spec.path, bytes);
        }
    }
    assert_eq!(house.control().counter(FINISH).calls, 4);
}
