//! How many requests small files cost, alone and together.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use dropbox_connector::emulator::Contention;

use super::*;
use crate::support;

/// A Dropbox that takes its time and lets one write at a time into a namespace: more time where the machine is so busy that a
/// thousand files do not come while five requests are answered.
async fn slow_house(answer_millis: u64) -> Arc<House> {
    const SOME: usize = 100;
    let house = support::start_with(|config| config.max_uploads = 1200).await;
    let control = house.control();
    let begun = Instant::now();
    let some = (0..SOME).map(async |n| send(&house, spec(&format!("/before/{n}")), &file(n)).await.expect("written"));
    futures::future::join_all(some).await;
    let thousand = begun.elapsed() * 1000 / SOME as u32;
    let answer_millis = answer_millis.max(thousand.as_millis() as u64 / 5);
    control.clear_journal();
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

#[tokio::test(flavor = "multi_thread")]
async fn four_connections_carry_a_batch_of_bytes_each_and_never_two() {
    let house = Arc::new(support::start().await);
    let control = house.control();
    // While the first four are under way all others have come: six requests are more than may go at once. Less than the five
    // seconds behind which one that others overtake is sent again.
    control.script([Rule::times(APPEND, 4, Action::DelayAnswer { millis: 4000 })]).expect("script");
    let bytes = noise(BLOCK - 300_000, 1);
    let files = 6 * (32 * MIB / bytes.len());
    let files: Vec<_> = (0..files).map(|n| spawn(&house, spec(&format!("/wide/{n}")), &bytes)).collect();
    until("four requests are under way", async || control.counter(APPEND).running == 4).await;
    for answer in all(files).await {
        is_committed(&answer, &bytes);
    }
    let counter = control.counter(APPEND);
    assert!(counter.calls >= 6 && counter.running_max == 4, "{counter:?}");
    assert!(counter.body_bytes_max <= 32 * MIB as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_tiny_files_at_once_are_requests_of_a_thousand_at_most() {
    const FILES: usize = 2000;
    let house = Arc::new(support::start_with(|config| config.max_uploads = 2 * FILES).await);
    let control = house.control();
    // All of them come while the first sessions are made.
    control.script([Rule::once(START, Action::DelayAnswer { millis: 5000 })]).expect("script");
    // A connection has 1,024 streams.
    let clients = [house.other_client().await, house.other_client().await, house.other_client().await];
    let one = async |n: usize| {
        let bytes = format!("file {n}").into_bytes();
        loop {
            let messages = requests(frames(sized(spec(&format!("/tiny/{n}")), &bytes), &bytes));
            let answer = clients[n % 3].clone().upload_file(tokio_stream::iter(messages)).await;
            match answer.map(tonic::Response::into_inner) {
                // More come at once than may wait to say what they are.
                Err(busy) if reason(&busy) == "CONNECTOR_BUSY" => {
                    tokio::time::sleep(support::retry_delay(&busy).expect("when to come back")).await;
                }
                answer => return is_committed(&answer, &bytes),
            }
        }
    };
    futures::future::join_all((0..FILES).map(one)).await;
    nobody_met_contention(&house);
    for route in [APPEND, FINISH] {
        let counter = control.counter(route);
        assert!(counter.entries_max > 500 && counter.entries_max <= 1000, "{route}: {counter:?}");
        assert_eq!(counter.entries + control.counter(UPLOAD).calls, FILES as u64, "{route}: {counter:?}");
    }
}
