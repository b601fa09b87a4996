//! Each of those that go together is told what it would have been told alone.

use std::time::Duration;

use dropbox_connector::emulator::control::Seed;
use serde_json::json;
use tonic::Code;
use tonic_types::StatusExt;

use super::*;
use crate::support;

/// What a caller can tell one refusal from another by.
fn told(answer: &Uploaded) -> String {
    match answer {
        Ok(answer) => format!("{:?} {}", answer.state(), answer.item.as_ref().expect("an item").name),
        Err(status) => {
            let details = status.get_error_details();
            let mut facts = details.error_info().expect("an ErrorInfo").metadata.clone();
            for own in ["dropboxRoute", "dropboxRequestId", "uploadId", "currentRev"] {
                facts.remove(own);
            }
            let facts: std::collections::BTreeMap<_, _> = facts.into_iter().collect();
            let (resource, violations) = (details.resource_info(), details.bad_request());
            let text = format!("{:?} {} {facts:?} {resource:?} {violations:?}", status.code(), reason(status));
            text.replace("/b/", "/a/")
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_outcome_is_the_same_together_as_alone() {
    let house = Arc::new(support::start().await);
    let control = house.control();
    let bytes = noise(5000, 1);
    let cases = |folder: &str| {
        let at = |name: &str| spec(&format!("/{folder}/{name}"));
        let update = |rev: &str| pb::UploadSpec {
            write_mode: pb::WriteMode::Update.into(),
            expected_rev: rev.into(),
            ..at("stale")
        };
        vec![
            at("new"),
            at("folder"),
            at("file"),
            at("file/below"),
            pb::UploadSpec { autorename: true, ..at("renamed") },
            pb::UploadSpec { write_mode: pb::WriteMode::Overwrite.into(), ..at("replaced") },
            update("0123456789abc"),
            at("same"),
            pb::UploadSpec { strict_conflict: true, ..at("strict") },
        ]
    };
    let prepare = async |folder: &str| {
        for name in ["file", "renamed", "replaced", "stale"] {
            send(&house, spec(&format!("/{folder}/{name}")), b"something else").await.expect("seeded");
        }
        for name in ["same", "strict"] {
            send(&house, spec(&format!("/{folder}/{name}")), &bytes).await.expect("seeded");
        }
        let request = pb::CreateFolderRequest {
            application_parameter_id: PARAMETER.into(),
            path: format!("/{folder}/folder"),
            ..Default::default()
        };
        house.client().create_folder(request).await.expect("seeded");
    };
    prepare("a").await;
    prepare("b").await;
    let mut alone = Vec::new();
    for spec in cases("a") {
        alone.push(told(&send(&house, spec, &bytes).await));
    }
    control.clear_journal();
    let held = Held::by(&house).await;
    let together = queued(&house, cases("b").into_iter().map(|spec| (spec, &bytes[..])).collect()).await;
    held.let_go().await;
    let together: Vec<String> = all(together).await.iter().map(told).collect();
    for (together, alone) in together.iter().zip(&alone) {
        assert_eq!(together, alone);
    }
    assert_eq!(control.counter(UPLOAD).calls, 0);
    // Of paths that lie in each other, and of what is sent once only, each goes with others of its kind.
    assert!(control.counter(FINISH).calls <= 6, "{:?}", control.counter(FINISH));
    nobody_met_contention(&house);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_on_its_path_keeps_its_bytes_and_can_be_finished_later() {
    let house = Arc::new(support::start().await);
    let control = house.control();
    let bytes = noise(300 * 1024, 2);
    let seed: Seed = serde_json::from_value(json!({ "folders": ["/taken"] })).expect("a seed");
    control.seed(&seed).expect("seeded");
    let held = Held::by(&house).await;
    let uploads = queued(&house, vec![(spec("/taken"), &bytes), (spec("/free"), &bytes)]).await;
    held.let_go().await;
    let answers = all(uploads).await;
    is_committed(&answers[1], &bytes);
    let refused = answers[0].as_ref().expect_err("a folder is there");
    assert_eq!((refused.code(), reason(refused).as_str()), (Code::AlreadyExists, "PATH_CONFLICT"));
    assert_eq!(fact(refused, "persistedOffset").as_deref(), Some("307200"));
    let upload_id = fact(refused, "uploadId").expect("it can go on");
    assert_eq!(upload_status(&house, &upload_id).await.expect("status").state(), pb::UploadState::Ready);
    let delete = pb::DeleteItemRequest {
        application_parameter_id: PARAMETER.into(),
        path: "/taken".into(),
        kind: pb::ItemKind::Folder.into(),
        ..Default::default()
    };
    house.client().delete_item(delete).await.expect("out of the way");
    let sent = control.counters().values().map(|counter| counter.bytes_in).sum::<u64>();
    let answer = upload_frames(&house, resume_frames(&upload_id, &[], 0)).await;
    is_committed(&answer, &bytes);
    let again = control.counters().values().map(|counter| counter.bytes_in).sum::<u64>() - sent;
    assert!(again < 10_000, "its bytes are not sent again: {again}");
    assert!(control.read(None, "/taken").as_deref() == Some(&bytes));
}

#[tokio::test(flavor = "multi_thread")]
async fn contention_of_an_entry_or_of_a_whole_batch_is_nobodys_failure() {
    let house = Arc::new(support::start().await);
    let control = house.control();
    let bytes = noise(2000, 3);
    let busy = json!({ ".tag": "too_many_write_operations" });
    let under_path = json!({ ".tag": "path", "path": busy.clone() });
    for (n, action) in [
        (0, Action::RefuseEntry { at: 0, failure: busy }),
        (1, Action::RefuseEntry { at: 0, failure: under_path }),
        (2, Action::TooManyWriteOperations { retry_after: Some(0) }),
        (3, Action::TooManyRequests { retry_after: Some(1) }),
    ] {
        control.clear_script();
        control.clear_journal();
        control.script([Rule::once(FINISH, action)]).expect("script");
        let held = Held::by(&house).await;
        let paths: Vec<String> = (0..4).map(|one| format!("/contended-{n}-{one}")).collect();
        let uploads = queued(&house, paths.iter().map(|path| (spec(path), &bytes[..])).collect()).await;
        held.let_go().await;
        all(uploads).await.iter().for_each(|answer| is_committed(answer, &bytes));
        assert!(control.counter(FINISH).calls >= 2, "{n}: it was sent again");
        assert_eq!(control.counter(UPLOAD).calls, 0, "its bytes are there already");
    }
}

/// Paths of the commits of a request.
fn paths(arg: &serde_json::Value) -> Vec<&str> {
    let entries = arg["entries"].as_array().into_iter().flatten();
    entries.map(|entry| entry["commit"]["path"].as_str().expect("a path")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_met_contention_in_a_batch_is_retried_alone_and_a_batch_that_did_stays_together() {
    let house = Arc::new(support::start().await);
    let control = house.control();
    let bytes = noise(2000, 7);
    let spawned = async |folder: &str, count: usize| {
        let paths: Vec<String> = (0..count).map(|n| format!("/{folder}/{n}")).collect();
        queued(&house, paths.iter().map(|path| (spec(path), &bytes[..])).collect()).await
    };
    let failure = json!({ ".tag": "too_many_write_operations" });
    let refused = Action::RefuseEntry { at: 0, failure };
    for (folder, actions, alone) in [
        ("entry", vec![refused.clone()], true),
        // The second time it is alone, and does not go back among others for that.
        ("twice", vec![refused.clone(), refused], true),
        ("batch", vec![Action::TooManyWriteOperations { retry_after: Some(0) }], false),
    ] {
        control.clear_script();
        control.clear_journal();
        let calls = actions.len() as u64;
        control.script((1..).zip(actions).map(|(nth, action)| Rule::nth(FINISH, nth, action))).expect("script");
        let (held, before) = (Held::by(&house).await, control.counter(FINISH).calls);
        let first = spawned(folder, 4).await;
        held.let_go().await;
        until("it was refused", async || {
            let counter = control.counter(FINISH);
            counter.calls >= before + calls && counter.running == 0
        })
        .await;
        // Others wait with it when its pause is over.
        let held = Held::by(&house).await;
        let second = spawned(&format!("{folder}-others"), 3).await;
        let begun = tokio::time::Instant::now();
        until("its pause is over", async || begun.elapsed() > Duration::from_secs(1)).await;
        held.let_go().await;
        for answer in all(first.into_iter().chain(second).collect()).await {
            is_committed(&answer, &bytes);
        }
        let journal: Vec<_> = control.journal().into_iter().filter(|entry| entry.route == FINISH).collect();
        let batches: Vec<Vec<&str>> = journal.iter().map(|entry| paths(&entry.arg)).collect();
        // A request that is refused as a whole is not looked into.
        let path = batches[0].first().copied().unwrap_or("/batch/0");
        let again: Vec<usize> = batches[1..].iter().filter(|batch| batch.contains(&path)).map(Vec::len).collect();
        let ones = vec![1; again.len()];
        assert!(if alone { batches[0].len() == 4 && again == ones } else { again[0] >= 4 }, "{batches:?}");
        assert_eq!(again.len() as u64, calls, "{batches:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_the_one_that_was_sent_is_told_to_its_caller_alone() {
    let house = Arc::new(support::start().await);
    let bytes = noise(2000, 4);
    let other = content_hash(b"something else");
    let altered = Action::AlterEntry { at: 0, fields: json!({ "content_hash": other }) };
    house.control().script([Rule::once(FINISH, altered)]).expect("script");
    let held = Held::by(&house).await;
    let paths: Vec<String> = (0..3).map(|one| format!("/hash-{one}")).collect();
    let uploads = queued(&house, paths.iter().map(|path| (spec(path), &bytes[..])).collect()).await;
    held.let_go().await;
    let (wrong, good): (Vec<_>, Vec<_>) = all(uploads).await.into_iter().partition(Result::is_err);
    assert_eq!((wrong.len(), good.len()), (1, 2));
    let wrong = wrong[0].as_ref().expect_err("another file");
    assert_eq!((wrong.code(), reason(wrong).as_str()), (Code::DataLoss, "CONTENT_HASH_MISMATCH"));
    assert_eq!(fact(wrong, "committed").as_deref(), Some("true"));
    assert_eq!(fact(wrong, "computedContentHash"), Some(other));
    good.iter().for_each(|answer| is_committed(answer, &bytes));
}

#[tokio::test(flavor = "multi_thread")]
async fn those_that_went_together_are_told_what_dropbox_called_the_answer_they_share() {
    let house = Arc::new(support::start().await);
    let control = house.control();
    let bytes = noise(2000, 5);
    let held = Held::by(&house).await;
    let uploads: Vec<_> = ["/a", "/b", "/c"]
        .map(|path| {
            let (mut client, messages) = (house.client(), requests(frames(sized(spec(path), &bytes), &bytes)));
            tokio::spawn(async move { client.upload_file(tokio_stream::iter(messages)).await })
        })
        .into();
    until("their bytes are at Dropbox", async || control.counter(APPEND).bytes_in == 3 * 2000).await;
    held.let_go().await;
    for upload in uploads {
        let answer = upload.await.expect("no panic").expect("committed");
        let told = answer.metadata().get("x-dropbox-request-id").expect("one answer made it").to_str().expect("ascii");
        let finished = control.journal().into_iter().filter(|entry| entry.route == FINISH);
        assert!(finished.into_iter().any(|entry| entry.request_id == told), "{told}");
    }
}
