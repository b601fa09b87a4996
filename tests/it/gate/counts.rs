//! How many requests small files cost, alone and together.

use std::{sync::Arc, time::Duration};

use dropbox_connector::emulator::Contention;

use super::*;
use crate::support;

/// A Dropbox that takes its time and lets one write at a time into a namespace.
async fn slow_house(answer_millis: u64) -> Arc<House> {
    let house = support::start_with(|config| config.max_uploads = 1200).await;
    let control = house.control();
    control.script([Rule::always("files/*", Action::DelayAnswer { millis: answer_millis })]).expect("script");
    control.switch(|switches| {
        switches.contention = Some(Contention { commit_takes: Duration::from_millis(2), as_409: false });
    });
    Arc::new(house)
}

/// From 1 to 150 KiB.
fn file(n: usize) -> Vec<u8> {
    noise(1024 + n * 7919 % (149 * 1024), n as u64)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_files_at_once_are_twelve_requests_and_one_bad_path_among_them_fails_alone() {
    const BAD: usize = 500;
    let house = slow_house(300).await;
    let control = house.control();
    let folder = pb::CreateFolderRequest {
        application_parameter_id: PARAMETER.into(),
        path: format!("/many/{BAD}.bin"),
        ..Default::default()
    };
    house.client().create_folder(folder).await.expect("in the way");
    control.clear_journal();
    let one = async |n: usize| {
        let bytes = file(n);
        let path = format!("/many/{n}.bin");
        let answer = send(&house, spec(&path), &bytes).await;
        if n == BAD {
            let refused = answer.expect_err("a folder is there");
            assert_eq!(
                (reason(&refused).as_str(), fact(&refused, "conflictKind").as_deref()),
                ("PATH_CONFLICT", Some("folder"))
            );
            return;
        }
        is_committed(&answer, &bytes);
        assert!(control.read(None, &path).as_deref() == Some(&bytes), "{path}");
    };
    futures::future::join_all((0..1000).map(one)).await;
    nobody_met_contention(&house);
    let requests = commits_and_data(&house);
    assert!(requests <= 12, "{requests} requests: {:?}", control.counters());
    assert!(control.counter(APPEND).body_bytes_max <= 32 * MIB as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_files_of_64_callers_are_80_requests() {
    let house = slow_house(400).await;
    let one = async |caller: usize| {
        for n in (caller..1000).step_by(64) {
            let bytes = file(n);
            is_committed(&send(&house, spec(&format!("/many/{n}.bin")), &bytes).await, &bytes);
        }
    };
    futures::future::join_all((0..64).map(one)).await;
    nobody_met_contention(&house);
    let requests = commits_and_data(&house);
    assert!(requests <= 80, "{requests} requests: {:?}", house.control().counters());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_upload_is_one_request_also_behind_a_crowd() {
    let house = Arc::new(support::start().await);
    let control = house.control();
    let bytes = file(7);
    for n in 0..2 {
        control.clear_journal();
        is_committed(&send(&house, spec(&format!("/alone-{n}")), &bytes).await, &bytes);
        assert_eq!((control.counter(UPLOAD).calls, commits_and_data(&house)), (1, 1));
        assert_eq!(control.counter(START).calls, 0, "it needs no session");
        let held = Held::by(&house).await;
        let crowd: Vec<String> = (0..8).map(|one| format!("/crowd-{n}-{one}")).collect();
        let crowd = queued(&house, crowd.iter().map(|path| (spec(path), &bytes[..])).collect()).await;
        held.let_go().await;
        all(crowd).await.iter().for_each(|answer| is_committed(answer, &bytes));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_every_size_go_together_and_large_or_empty_ones_by_themselves() {
    let house = Arc::new(support::start().await);
    let control = house.control();
    let sizes = [1, 1000, 256 * 1024, 256 * 1024 + 1, MIB, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK];
    let files: Vec<_> = sizes.iter().map(|size| (format!("/size-{size}"), noise(*size, *size as u64))).collect();
    let held = Held::by(&house).await;
    let others = [("/empty", 0), ("/large", 2 * BLOCK + 1)].map(|(path, size)| (path, noise(size, 1)));
    let alone: Vec<_> = others.iter().map(|(path, bytes)| spawn(&house, spec(path), bytes)).collect();
    let together = queued(&house, files.iter().map(|(path, bytes)| (spec(path), &bytes[..])).collect()).await;
    held.let_go().await;
    for (answer, (path, bytes)) in all(together).await.iter().zip(&files) {
        is_committed(answer, bytes);
        assert!(control.read(None, path).as_deref() == Some(bytes), "{path}");
    }
    for (answer, (path, bytes)) in all(alone).await.iter().zip(&others) {
        is_committed(answer, bytes);
        assert!(control.read(None, path).as_deref() == Some(bytes), "{path}");
    }
    assert_eq!(control.counter(UPLOAD).calls, 1, "the empty one");
    assert!(control.counter(FINISH).calls <= 2);
}
