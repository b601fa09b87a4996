//! What each item of a call is told.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_cannot_be_committed_fails_alone_and_says_why() {
    let house = support::start().await;
    house.make_parameter("other", |_| {}).await;
    let bytes = noise(3000, 1);
    let good = ready(&house, deferred("/good"), &bytes).await;
    let wrong = ready(&house, deferred("/wrong"), &bytes).await;
    let right = ready(&house, deferred("/right"), &bytes).await;
    let twice = ready(&house, deferred("/twice"), &bytes).await;
    let foreign = {
        let request = pb::StartUploadRequest {
            application_parameter_id: "other".into(),
            spec: Some(spec("/foreign")),
            ..Default::default()
        };
        house.client().start_upload(request).await.expect("started").into_inner().upload_id
    };
    let open = start_upload(&house, sized(spec("/open"), &bytes)).await;
    let mut stream = OpenUpload::resume(&house, &open).await;
    assert!(stream.send_range(&bytes, 0, 1000).await);
    let hash = |id: &str, hash: String| pb::UploadToCommit { content_hash: hash, ..item(id) };
    let results = commit(
        &house,
        vec![
            item(&good),
            hash(&wrong, content_hash(b"something else")),
            hash(&right, content_hash(&bytes).to_uppercase()),
            item(&foreign),
            item(&open),
            item(&format!("{}AAAA", &good[..good.len() - 4])),
            item(&twice),
            item(&twice),
            elsewhere(&twice, "/thrice"),
        ],
    )
    .await;
    is_file(&results[0], "/good", &bytes);
    let mismatch = is_refused(&results[1], Code::DataLoss, "CONTENT_HASH_MISMATCH");
    assert_eq!(mismatch.facts["computedContentHash"], content_hash(&bytes));
    assert_eq!(mismatch.facts["expectedContentHash"], content_hash(b"something else"));
    is_file(&results[2], "/right", &bytes);
    is_refused(&results[3], Code::PermissionDenied, "HANDLE_NOT_YOURS");
    let still_open = is_refused(&results[4], Code::FailedPrecondition, "UPLOAD_OPEN");
    assert_eq!(still_open.facts["persistedOffset"], "0");
    is_refused(&results[5], Code::InvalidArgument, "HANDLE_MALFORMED");
    is_file(&results[6], "/twice", &bytes);
    assert_eq!(results[6], results[7]);
    let again = is_refused(&results[8], Code::InvalidArgument, "INVALID_FIELD");
    assert!(again.message.contains("items[8]") && again.message.contains("items[6]"), "{again:?}");
    assert_eq!(house.control().read(None, "/wrong"), None);
    assert_eq!(house.control().read(None, "/thrice"), None);
    // Who still sends was not disturbed.
    assert!(stream.send(chunk_at(1000, &bytes[1000..])).await && stream.send(finish()).await);
    let answer = stream.answer().await.expect("it goes on");
    assert_eq!(answer.state(), pb::UploadState::Committed);
    // The wrong hash spoilt nothing.
    is_file(&commit(&house, vec![item(&wrong)]).await[0], "/wrong", &bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_wrong_commits_nothing_and_names_every_field() {
    let house = support::start().await;
    let id = ready(&house, deferred("/a"), b"x").await;
    let bad = pb::CommitTerms { path: "/b/../c".into(), ..Default::default() };
    let items = vec![item(&id), pb::UploadToCommit { commit: Some(bad), ..item(&id) }];
    let refused = house.client().commit_uploads(asked(items)).await.expect_err("malformed");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "MALFORMED_PATH"));
    assert!(refused.message().contains("items[1].commit.path"), "{refused:?}");
    for items in [Vec::new(), vec![item(&id); 501]] {
        let refused = house.client().commit_uploads(asked(items)).await.expect_err("1 to 500");
        assert_eq!(reason(&refused), "INVALID_FIELD");
    }
    let linked = pb::UploadSpec { link_kind: pb::LinkKind::Preview.into(), ..deferred("/linked") };
    assert_eq!(reason(&upload(&house, linked, b"x").await.expect_err("no link")), "INVALID_FIELD");
    assert_eq!(state(&house, &id).await, pb::UploadState::Ready);
}

#[tokio::test(flavor = "multi_thread")]
async fn items_whose_paths_meet_keep_their_order_and_others_go_together() {
    let house = support::start().await;
    let files: Vec<Vec<u8>> = (0..5).map(|n| noise(2000 + n, n as u64)).collect();
    let paths = ["/same", "/same", "/other", "/same/below", "/SAME"];
    let mut items = Vec::new();
    for (path, bytes) in paths.iter().zip(&files) {
        let spec = pb::UploadSpec { write_mode: pb::WriteMode::Overwrite.into(), ..deferred(path) };
        items.push(item(&ready(&house, spec, bytes).await));
    }
    let results = commit(&house, items).await;
    is_file(&results[0], "/same", &files[0]);
    is_file(&results[1], "/same", &files[1]);
    is_file(&results[2], "/other", &files[2]);
    let below = is_refused(&results[3], Code::AlreadyExists, "PATH_CONFLICT");
    assert_eq!(below.facts["conflictKind"], "file_ancestor");
    assert_eq!(file_of(results[4].as_ref().ok()).content_hash, content_hash(&files[4]));
    holds(&house, "/same", &files[4]);
    assert_eq!(house.control().counter(FINISH_BATCH).calls, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_the_parameter_is_kept_in_holds_for_commits_too() {
    let house = support::start().await;
    house.make_parameter("jailed", |parameter| parameter.path_prefix = "/jail".into()).await;
    let bytes = noise(1000, 1);
    let asked_by = |frame: Frame, first: bool| pb::UploadFileRequest {
        application_parameter_id: if first { "jailed".into() } else { String::new() },
        frame: Some(frame),
        ..Default::default()
    };
    let frames = frames(sized(deferred("/in"), &bytes), &bytes).into_iter().enumerate();
    let frames: Vec<_> = frames.map(|(n, frame)| asked_by(frame, n == 0)).collect();
    let answer = house.client().upload_file(tokio_stream::iter(frames)).await.map(tonic::Response::into_inner);
    let id = is_ready(answer, &bytes);
    let request = |item| pb::CommitUploadsRequest {
        application_parameter_id: "jailed".into(),
        items: vec![item],
        ..Default::default()
    };
    let out = house.client().commit_uploads(request(elsewhere(&id, "ns:1/x"))).await.expect("answered").into_inner();
    let Some(Outcome::Failure(failure)) = &out.results[0].outcome else { panic!("out of the jail") };
    assert_eq!(failure.reason, "OUTSIDE_JAIL");
    let done = house.client().commit_uploads(request(elsewhere(&id, "/deep/er"))).await.expect("answered").into_inner();
    let Some(Outcome::Item(item)) = &done.results[0].outcome else { panic!("{done:?}") };
    assert_eq!(item.path_display, "/deep/er");
    holds(&house, "/jail/deep/er", &bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_committed_in_the_context_it_was_made_in_and_in_no_other() {
    let house = support::start().await;
    house
        .make_parameter("rooted", |parameter| {
            parameter.policy = Some(pb::ParameterPolicy { allow_path_root: true, ..Default::default() });
        })
        .await;
    let bytes = noise(1000, 1);
    let home = || {
        let path_root = Some(pb::request_context::PathRoot::Home(true));
        Some(pb::RequestContext { path_root, ..Default::default() })
    };
    let mut ids = Vec::new();
    for (path, context) in [("/plain", None), ("/home", home())] {
        let mut messages = requests(frames(sized(deferred(path), &bytes), &bytes));
        messages[0].application_parameter_id = "rooted".into();
        messages[0].context = context;
        let answer = house.client().upload_file(tokio_stream::iter(messages)).await.map(tonic::Response::into_inner);
        ids.push(is_ready(answer, &bytes));
    }
    let request = |context| pb::CommitUploadsRequest {
        application_parameter_id: "rooted".into(),
        context,
        items: ids.iter().map(|id| item(id)).collect(),
    };
    let results = house.client().commit_uploads(request(home())).await.expect("answered").into_inner().results;
    let Some(Outcome::Failure(failure)) = &results[0].outcome else { panic!("another context: {results:?}") };
    assert!(failure.reason == "INVALID_FIELD" && failure.message.contains("context"), "{failure:?}");
    assert!(matches!(results[1].outcome, Some(Outcome::Item(_))), "{results:?}");
    let results = house.client().commit_uploads(request(None)).await.expect("answered").into_inner().results;
    assert!(results.iter().all(|result| matches!(result.outcome, Some(Outcome::Item(_)))), "{results:?}");
}
