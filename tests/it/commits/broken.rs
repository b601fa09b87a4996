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
    let refused = |at: u64, failure: &serde_json::Value| Action::RefuseEntry { at, failure: failure.clone() };
    for (n, actions, batches, singles) in [
        (0, vec![refused(2, &busy)], 2, 0),
        (1, vec![refused(2, &json!({ ".tag": "path", "path": busy }))], 2, 0),
        (2, vec![Action::TooManyWriteOperations { retry_after: Some(0) }], 2, 0),
        (3, vec![refused(2, &not_closed)], 1, 1),
        // Each alone; where all of a batch met it, together.
        (4, vec![refused(1, &busy), refused(2, &busy)], 3, 0),
        (5, (0..4).map(|at| refused(at, &busy)).collect(), 2, 0),
    ] {
        let folder = format!("/again-{n}");
        let ids = four(&house, &folder, |spec| spec).await;
        control.clear_script();
        control.clear_journal();
        control.script(actions.into_iter().map(|action| Rule::once(FINISH_BATCH, action))).expect("script");
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
    // The server hears of it in its own time.
    let store = house.config().store_url.clone();
    until("its uploads are let go", async || {
        let mut store = SqliteConnection::connect(&store).await.expect("the store");
        let held = sqlx::query_scalar::<_, i64>("SELECT COUNT(*) FROM uploads WHERE released < writer");
        held.fetch_one(&mut store).await.expect("a count") == 0
    })
    .await;
    slow.abort();
    let _ = slow.await;
    let bytes = noise(100, 9);
    upload(&house, sized(spec("/behind"), &bytes), &bytes).await.expect("the gate is free");
    assert_eq!(control.counter(FINISH_BATCH).calls, 0);
    for id in &ids {
        assert_eq!(state(&house, id).await, pb::UploadState::Ready);
    }
    control.script([Rule::once(FINISH_BATCH, Action::DelayAnswer { millis: 2000 })]).expect("script");
    let sent = tokio::spawn(commit_at(house.client(), items(&ids)));
    until("it was sent", async || control.counter(FINISH_BATCH).calls == 1).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_another_call_is_committing_keeps_no_upload_of_another_namespace_waiting() {
    let house = support::start().await;
    let control = house.control();
    let bytes = noise(3000, 1);
    control.mount_namespace(None, "/shared").expect("a namespace");
    upload(&house, sized(spec("/shared/first"), &bytes), &bytes).await.expect("its namespace is known from here on");
    let there = ready(&house, deferred("/shared/slow"), &bytes).await;
    let here = ready(&house, deferred("/here/quick"), &bytes).await;
    control.script([Rule::once(FINISH_BATCH, Action::DelayAnswer { millis: 4000 })]).expect("script");
    let slow = tokio::spawn(commit_at(house.client(), vec![item(&there)]));
    until("it was sent", async || control.counter(FINISH_BATCH).calls == 1).await;
    let both = tokio::spawn(commit_at(house.client(), vec![item(&there), item(&here)]));
    until("the other one is committed", async || state(&house, &here).await == pb::UploadState::Committed).await;
    assert_eq!(control.counter(FINISH_BATCH).running, 1, "and the first one is not, yet");
    slow.await.expect("no panic").expect("an answer").iter().for_each(|result| is_file(result, "/shared/slow", &bytes));
    let both = both.await.expect("no panic").expect("an answer");
    is_file(&both[0], "/shared/slow", &bytes);
    is_file(&both[1], "/here/quick", &bytes);
    assert_eq!(control.counter(FINISH_BATCH).calls, 2, "each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_another_call_is_committing_keeps_its_order_with_those_whose_paths_meet_its_own() {
    let house = support::start().await;
    let control = house.control();
    let files: Vec<Vec<u8>> = (0..3).map(|n| noise(3000 + n, n as u64)).collect();
    upload(&house, sized(spec("/taken"), &files[2]), &files[2]).await.expect("somebody has the path");
    let busy = ready(&house, deferred("/taken"), &files[0]).await;
    let free = ready(&house, deferred("/elsewhere"), &files[1]).await;
    control.script([Rule::once(FINISH_BATCH, Action::DelayAnswer { millis: 2000 })]).expect("script");
    let refused = tokio::spawn(commit_at(house.client(), vec![item(&busy)]));
    until("it was sent", async || control.counter(FINISH_BATCH).calls == 1).await;
    // Until that one is refused, only the second upload could go.
    let over = |upload_id: &str, path: &str| {
        let terms =
            pb::CommitTerms { path: path.into(), write_mode: pb::WriteMode::Overwrite.into(), ..Default::default() };
        pb::UploadToCommit { commit: Some(terms), ..item(upload_id) }
    };
    let both = commit(&house, vec![over(&busy, "/Goal"), over(&free, "/goal")]).await;
    let refused = refused.await.expect("no panic").expect("an answer");
    is_refused(&refused[0], Code::AlreadyExists, "PATH_CONFLICT");
    is_file(&both[0], "/Goal", &files[0]);
    assert_eq!(file_of(both[1].as_ref().ok()).content_hash, content_hash(&files[1]));
    holds(&house, "/goal", &files[1]);
}
