//! Many small files, and files of every lane.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_deferred_uploads_are_one_commit_and_one_that_is_refused_goes_elsewhere_without_its_bytes() {
    const BAD: usize = 77;
    let house = support::start().await;
    let control = house.control();
    let file = |n: usize| noise(1000 + n * 997 % 100_000, n as u64);
    folder_at(&house, "/many");
    folder_at(&house, &format!("/many/{BAD}.bin"));
    // Whoever is on the way when the first are answered goes with the next.
    control.switch(|switches| switches.answer_takes = std::time::Duration::from_millis(300));
    let uploads = (0..200).map(async |n| ready(&house, deferred(&format!("/many/{n}.bin")), &file(n)).await);
    let ids = futures::future::join_all(uploads).await;
    assert_eq!(control.read(None, "/many/3.bin"), None, "nothing is committed yet");
    assert_eq!(state(&house, &ids[3]).await, pb::UploadState::Ready);
    let requests = control.counter(START).calls + control.counter(APPEND_BATCH).calls + control.counter(UPLOAD).calls;
    assert!(requests <= 20, "{requests} requests carried their bytes: {:?}", control.counters());
    control.switch(|switches| switches.answer_takes = std::time::Duration::ZERO);
    control.clear_journal();
    let items: Vec<_> = ids.iter().map(|id| item(id)).collect();
    let results = commit(&house, items.clone()).await;
    assert_eq!((control.counter(FINISH_BATCH).calls, control.counter(FINISH).calls), (1, 0));
    assert_eq!(data(&house), 0, "nothing is sent again");
    for (n, result) in results.iter().enumerate() {
        let path = format!("/many/{n}.bin");
        if n == BAD {
            let refused = is_refused(result, Code::AlreadyExists, "PATH_CONFLICT");
            assert_eq!(refused.facts["conflictKind"], "folder");
            assert_eq!(refused.facts["persistedOffset"], file(n).len().to_string());
            assert!(!refused.facts["uploadId"].is_empty() && refused.retry_delay.is_none());
        } else {
            is_file(result, &path, &file(n));
            holds(&house, &path, &file(n));
        }
    }
    assert_eq!(state(&house, &ids[BAD]).await, pb::UploadState::Ready, "it keeps its bytes");
    assert_eq!(state(&house, &ids[0]).await, pb::UploadState::Committed);
    let before = calls(&house);
    let mut again = items;
    again[BAD] = elsewhere(&ids[BAD], "/elsewhere/77.bin");
    let repeated = commit(&house, again).await;
    assert_eq!(calls(&house), before + 1, "what is committed is asked nothing");
    assert_eq!(data(&house), 0, "its bytes are not sent again");
    is_file(&repeated[BAD], "/elsewhere/77.bin", &file(BAD));
    holds(&house, "/elsewhere/77.bin", &file(BAD));
    for (n, (one, other)) in results.iter().zip(&repeated).enumerate().filter(|(n, _)| *n != BAD) {
        assert_eq!(one, other, "{n}");
    }
    assert!(control.wrong_answers().is_empty(), "{:?}", control.wrong_answers());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_every_lane_are_committed_together() {
    let house = support::start().await;
    let control = house.control();
    let lanes: [(&str, usize, i32, bool); 7] = [
        ("/empty", 0, 0, true),
        ("/tiny", 1, 0, true),
        ("/one-request", 8 * MIB, 0, true),
        ("/unsized", 3 * MIB, 0, false),
        ("/ordered", 9 * MIB + 1, 1, true),
        ("/blocks", 12 * MIB, 1, true),
        ("/parallel", 33 * MIB + 5, 4, true),
    ];
    let mut items = Vec::new();
    for (n, (path, size, appends, says_size)) in lanes.into_iter().enumerate() {
        let bytes = noise(size, n as u64);
        let spec = pb::UploadSpec { parallel_appends: appends, ..deferred(path) };
        let spec = if says_size { sized(spec, &bytes) } else { spec };
        let upload_id = is_ready(upload(&house, spec, &bytes).await, &bytes);
        let status = upload_status(&house, &upload_id).await.expect("status");
        assert_eq!((status.state(), status.persisted_offset), (pb::UploadState::Ready, size as i64), "{path}");
        assert_eq!(control.read(None, path), None, "{path}");
        items.push(item(&upload_id));
    }
    let results = commit(&house, items).await;
    for (n, ((path, size, ..), result)) in lanes.into_iter().zip(&results).enumerate() {
        let bytes = noise(size, n as u64);
        is_file(result, path, &bytes);
        holds(&house, path, &bytes);
    }
    assert_eq!((control.counter(FINISH_BATCH).calls, control.counter(FINISH).calls), (1, 0));
    assert_eq!(control.counter(UPLOAD).calls, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_started_upload_may_be_deferred_and_its_first_handle_commits_it() {
    let house = support::start().await;
    let bytes = noise(33 * MIB, 3);
    for (path, appends) in [("/started-ordered", 1), ("/started-parallel", 2)] {
        let spec = sized(pb::UploadSpec { parallel_appends: appends, ..deferred(path) }, &bytes);
        let upload_id = start_upload(&house, spec).await;
        let answer = upload_frames(&house, resume_frames(&upload_id, &bytes, 0)).await;
        let superseding = is_ready(answer, &bytes);
        assert_ne!(superseding, upload_id);
        // A stream that finishes it once more leaves it as it is.
        let again = upload_frames(&house, vec![Frame::ResumeUploadId(superseding.clone()), finish()]).await;
        is_ready(again, &bytes);
        let both = commit(&house, vec![item(&upload_id), item(&superseding)]).await;
        both.iter().for_each(|result| is_file(result, path, &bytes));
    }
    let control = house.control();
    assert_eq!(control.counter(FINISH_BATCH).calls + control.counter(FINISH).calls, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_upload_of_any_lane_is_committed_on_other_terms_without_its_bytes() {
    let house = Arc::new(support::start().await);
    let control = house.control();
    let lanes: [(&str, usize, i32); 3] =
        [("/single", 5000, 0), ("/ordered", 9 * MIB + 3, 1), ("/parallel", 9 * MIB + 4, 3)];
    let mut ids = Vec::new();
    for (n, (path, size, appends)) in lanes.into_iter().enumerate() {
        let bytes = noise(size, n as u64);
        folder_at(&house, path);
        // Unknown to be small, so that more than one append makes it a parallel one.
        let spec = pb::UploadSpec { parallel_appends: appends, ..spec(path) };
        let spec = if appends == 0 { sized(spec, &bytes) } else { spec };
        let refused = upload(&house, spec, &bytes).await.expect_err("a folder is there");
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::AlreadyExists, "PATH_CONFLICT"), "{path}");
        assert_eq!(fact(&refused, "persistedOffset"), Some(size.to_string()), "{path}");
        let upload_id = fact(&refused, "uploadId").expect("it can be committed");
        let status = upload_status(&house, &upload_id).await.expect("status");
        assert_eq!((status.state(), status.persisted_offset), (pb::UploadState::Ready, size as i64), "{path}");
        ids.push(upload_id);
    }
    let renamed = |id: &str| {
        let terms = pb::CommitTerms { autorename: true, ..Default::default() };
        pb::UploadToCommit { commit: Some(terms), ..item(id) }
    };
    let items = vec![elsewhere(&ids[0], "/free/single"), renamed(&ids[1]), renamed(&ids[2])];
    control.clear_journal();
    let results = commit(&house, items.clone()).await;
    is_file(&results[0], "/free/single", &noise(5000, 0));
    is_file(&results[1], "/ordered (1)", &noise(9 * MIB + 3, 1));
    is_file(&results[2], "/parallel (1)", &noise(9 * MIB + 4, 2));
    assert_eq!(data(&house), 0, "nothing is sent again");
    // What Dropbox made of a refused `files/upload` is not known to be closed.
    assert_eq!((control.counter(FINISH).calls, control.counter(FINISH_BATCH).calls), (1, 1));
    // Also with `autorename`: it is known what they gave.
    assert_eq!(commit(&house, items).await, results);
    assert_eq!(control.read(None, "/ordered (2)"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_without_space_keeps_the_bytes_until_there_is_some() {
    let house = support::start().await;
    let control = house.control();
    let space = control.switches().space;
    control.switch(|switches| switches.space = 0);
    let bytes = noise(4000, 1);
    let refused = upload(&house, sized(spec("/full"), &bytes), &bytes).await.expect_err("no space");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::ResourceExhausted, "INSUFFICIENT_SPACE"));
    let upload_id = fact(&refused, "uploadId").expect("kept");
    let later = ready(&house, deferred("/full-too"), &bytes).await;
    let items = vec![item(&upload_id), item(&later)];
    for result in commit(&house, items.clone()).await {
        is_refused(&result, Code::ResourceExhausted, "INSUFFICIENT_SPACE");
    }
    control.switch(|switches| switches.space = space);
    let results = commit(&house, items).await;
    is_file(&results[0], "/full", &bytes);
    is_file(&results[1], "/full-too", &bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_that_took_longer_than_a_turn_go_in_smaller_ones_the_next_time() {
    const FIRST: usize = 110;
    let house = support::start().await;
    let control = house.control();
    let bytes = noise(1000, 1);
    let uploads = (0..2 * FIRST).map(async |n| ready(&house, deferred(&format!("/turns/{n}")), &bytes).await);
    let ids = futures::future::join_all(uploads).await;
    let items: Vec<_> = ids.iter().map(|id| item(id)).collect();
    control.script([Rule::once(FINISH_BATCH, Action::DelayAnswer { millis: 1500 })]).expect("script");
    for (items, batches, largest) in [(&items[..FIRST], 1, FIRST), (&items[FIRST..], 2, 100)] {
        control.clear_journal();
        for result in commit(&house, items.to_vec()).await {
            assert!(result.is_ok(), "{result:?}");
        }
        let counter = control.counter(FINISH_BATCH);
        assert_eq!((counter.calls, counter.entries_max), (batches, largest as u64));
    }
}
