//! Shutting down with everything in flight.

use std::time::{Duration, Instant};

use dropbox_connector::{
    api::v1::{
        self as pb, download_file_response::Payload, dropbox_admin_connector_client::DropboxAdminConnectorClient,
        dropbox_connector_client::DropboxConnectorClient,
    },
    emulator::{
        Emulator, Options,
        control::{Seed, SeedFile},
        script::{Action, Rule},
    },
};
use tonic::{Code, Streaming, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::support::{self, process::Served, streams::*, *};

async fn open_download(house: &House, path: &str) -> Streaming<pb::DownloadFileResponse> {
    let request = pb::DownloadFileRequest {
        application_parameter_id: PARAMETER.into(),
        source: Some(source(path)),
        ..Default::default()
    };
    let mut stream = house.other_client().await.download_file(request).await.expect("open").into_inner();
    assert!(stream.message().await.expect("the header").is_some());
    stream
}

async fn whole(mut stream: Streaming<pb::DownloadFileResponse>) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    while let Some(message) = stream.message().await.expect("the stream ends well") {
        match message.payload {
            Some(Payload::Chunk(chunk)) => bytes.extend_from_slice(&chunk.data),
            Some(Payload::Trailer(trailer)) => return (bytes, trailer.verified),
            _ => {}
        }
    }
    panic!("no trailer");
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_end_resumable_and_downloads_end_whole_when_the_server_drains() {
    // A busy machine reads 480 MiB in more than the 25 s that are the default.
    let mut house = support::start_with(|config| config.drain_grace = 8 * PATIENCE).await;
    let big = noise(24 * MIB, 1);
    upload(&house, spec("/big"), &big).await.expect("uploaded");
    let mut uploads = Vec::new();
    for n in 0..20 {
        let bytes = noise(9 * MIB + n, n as u64);
        let client = house.other_client().await;
        let mut stream = OpenUpload::on(client);
        let spec = pb::UploadSpec { parallel_appends: if n % 2 == 0 { 1 } else { 2 }, ..spec(&format!("/up/{n}")) };
        assert!(stream.send(pb::upload_file_request::Frame::Spec(spec)).await);
        assert!(stream.send_range(&bytes, 0, 9 * MIB).await);
        uploads.push((stream, bytes));
    }
    let mut downloads = Vec::new();
    for _ in 0..20 {
        downloads.push(open_download(&house, "/big").await);
    }
    until("every upload has persisted 8 MiB", || async {
        house.control().counter("files/upload_session/append_v2").good >= 20
    })
    .await;
    let app = house.take_app();
    let draining = tokio::spawn(app.stop());
    let mut kept = Vec::new();
    for (mut stream, bytes) in uploads {
        let ended = stream.early_answer().await.expect_err("drained");
        assert_eq!((ended.code(), reason(&ended).as_str()), (Code::Unavailable, "SERVER_DRAINING"));
        assert!(retry_delay(&ended).is_some());
        assert_eq!(fact(&ended, "persistedOffset").as_deref(), Some("8388608"));
        kept.push((fact(&ended, "uploadId").expect("resumable"), bytes));
    }
    let refused = house.client().get_server_info(pb::GetServerInfoRequest::default()).await.expect_err("no new calls");
    assert_eq!(refused.code(), Code::Unavailable);
    for stream in downloads {
        let (bytes, verified) = whole(stream).await;
        assert!(verified && bytes == big);
    }
    tokio::time::timeout(PATIENCE, draining).await.expect("within the grace").expect("no panic").expect("nothing cut");
    house.restart().await;
    for (upload_id, bytes) in kept {
        let answer = upload_frames(&house, resume_frames(&upload_id, &bytes, 8 * MIB)).await.expect("resumed");
        assert_eq!(answer.content_hash, content_hash(&bytes));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_without_a_session_is_told_to_begin_again() {
    let mut house = support::start().await;
    let mut stream = OpenUpload::begin(&house, spec("/small")).await;
    assert!(stream.send(chunk(b"a few bytes")).await);
    let metadata = house.client().get_server_info(pb::GetServerInfoRequest::default()).await;
    metadata.expect("the stream before it has begun");
    let draining = tokio::spawn(house.take_app().stop());
    let ended = stream.early_answer().await.expect_err("drained");
    assert_eq!((ended.code(), reason(&ended).as_str()), (Code::Unavailable, "SERVER_DRAINING"));
    assert!(retry_delay(&ended).is_some());
    draining.await.expect("no panic").expect("nothing cut");
    assert_eq!(house.control().read(None, "/small"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_said_nothing_or_wait_to_be_let_in_do_not_hold_up_the_drain() {
    let mut house = support::start_with(|config| config.max_uploads = 1).await;
    let mut open = OpenUpload::begin(&house, spec("/open")).await;
    assert!(open.send_range(&noise(9 * MIB, 1), 0, 9 * MIB).await);
    until("it is let in", || async { house.control().counter("files/upload_session/append_v2").good > 0 }).await;
    let waiting = OpenUpload::begin(&house, spec("/waiting")).await;
    let silent = OpenUpload::new(&house);
    let served = house.client().get_server_info(pb::GetServerInfoRequest::default()).await;
    served.expect("the streams before it have begun");
    let draining = tokio::spawn(house.take_app().stop());
    for mut stream in [open, waiting, silent] {
        let ended = stream.early_answer().await.expect_err("drained");
        assert_eq!((ended.code(), reason(&ended).as_str()), (Code::Unavailable, "SERVER_DRAINING"));
        assert!(retry_delay(&ended).is_some());
    }
    draining.await.expect("no panic").expect("nothing cut");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_caller_has_left_is_finished_and_its_answer_kept() {
    let mut house = support::start().await;
    upload(&house, spec("/a.txt"), b"a").await.expect("uploaded");
    house.control().script([Rule::once("files/move_v2", Action::DelayAnswer { millis: 3000 })]).expect("script");
    let request = pb::MoveItemRequest {
        application_parameter_id: PARAMETER.into(),
        from_path: "/a.txt".into(),
        to_path: "/b.txt".into(),
        request_id: "3b241101-e2bb-4255-8caf-4136c566a970".into(),
        ..Default::default()
    };
    let (mut client, sent) = (house.other_client().await, request.clone());
    let call = tokio::spawn(async move { client.move_item(sent).await });
    until("the move is under way", async || house.control().counter("files/move_v2").calls == 1).await;
    call.abort();
    let _ = call.await;
    house.take_app().stop().await.expect("nothing cut");
    house.restart().await;
    let answer = house.client().move_item(request).await.expect("the first one's answer").into_inner();
    assert_eq!(answer.item.expect("an item").name, "b.txt");
    assert_eq!(house.control().counter("files/move_v2").calls, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_under_way_is_finished_before_the_server_ends() {
    let mut house = support::start().await;
    house.control().script([Rule::always("files/upload", Action::Delay { millis: 2000 })]).expect("script");
    let mut stream = OpenUpload::begin(&house, spec("/late")).await;
    assert!(stream.send(chunk(b"in time")).await);
    assert!(stream.send(finish()).await);
    let answer = tokio::spawn(stream.answer());
    until("the commit is under way", || async { house.control().counter("files/upload").calls == 1 }).await;
    let draining = tokio::spawn(house.take_app().stop());
    let answer = answer.await.expect("no panic").expect("committed");
    assert_eq!(answer.state(), pb::UploadState::Committed);
    draining.await.expect("no panic").expect("nothing cut");
    assert_eq!(house.control().read(None, "/late").as_deref(), Some(&b"in time"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_is_withdrawn_at_once_and_liveness_stays() {
    // Long, so that a busy machine has done all below before it is over.
    const DELAY: Duration = Duration::from_secs(8);
    let mut house = support::start_with(|config| config.drain_delay = DELAY).await;
    let probe = format!("http://{}", house.addresses.probe);
    let mut health = HealthClient::new(Channel::from_shared(probe).expect("uri").connect().await.expect("probe"));
    let named = |service: &str| HealthCheckRequest { service: service.into() };
    let mut watch = health.watch(named("readiness")).await.expect("watch").into_inner();
    let next = watch.message().await.expect("a message").expect("a state");
    assert_eq!(next.status(), ServingStatus::Serving);
    let begun = Instant::now();
    let draining = tokio::spawn(house.take_app().run_until(std::future::ready(())));
    let next = watch.message().await.expect("a message").expect("a state");
    assert_eq!(next.status(), ServingStatus::NotServing);
    assert!(begun.elapsed() < DELAY, "told before the delay is over");
    for (service, expected) in [
        ("readiness", ServingStatus::NotServing),
        ("dropboxconnector.v1.DropboxConnector", ServingStatus::NotServing),
        ("liveness", ServingStatus::Serving),
    ] {
        let status = health.check(named(service)).await.expect(service).into_inner().status();
        assert_eq!(status, expected, "{service}");
    }
    // Until the delay is over, calls that still come are served.
    upload(&house, spec("/during"), b"x").await.expect("served");
    assert!(begun.elapsed() < DELAY, "too slow a machine for this test");
    drop((watch, health));
    draining.await.expect("no panic").expect("nothing cut");
    assert!(begun.elapsed() >= DELAY);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_never_reads_is_cut_when_the_grace_ends() {
    let mut house = support::start_with(|config| config.drain_grace = Duration::from_millis(400)).await;
    upload(&house, spec("/big"), &noise(40 * MIB, 3)).await.expect("uploaded");
    let mut unread = open_download(&house, "/big").await;
    let begun = Instant::now();
    let ended = house.take_app().stop().await;
    assert!(matches!(ended, Err(dropbox_connector::app::AppError::Cut)), "{ended:?}");
    // Not the 25 s that are the default, nor for ever.
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    // The app is gone and this process goes on: nothing of it may be left.
    // Dropbox hears of it in its own time.
    until("the request to Dropbox goes with it", async || house.control().counter("files/download").running == 0).await;
    let end = async {
        while unread.message().await?.is_some() {}
        Ok::<_, tonic::Status>(())
    };
    let end = tokio::time::timeout(PATIENCE, end).await.expect("the connection is closed");
    assert!(end.is_err(), "a stream that is cut does not end well");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cut_is_named_in_the_log_and_the_exit_code_says_so() {
    let emulator = Emulator::start(Options::default()).await.expect("emulator");
    let seed = Seed { files: vec![SeedFile::bytes("/big", 40 * MIB as u64)], ..Seed::default() };
    emulator.control().seed(&seed).expect("a seed");
    let mut served = Served::before(&emulator, &["--drain-grace=300ms"]);
    let mut admin =
        DropboxAdminConnectorClient::connect(format!("http://{}", served.told("admin"))).await.expect("admin");
    make_parameter(&mut admin, &emulator.account(), PARAMETER, |_| {}).await;
    drop(admin);
    let mut client = DropboxConnectorClient::connect(format!("http://{}", served.told("data"))).await.expect("data");
    let mut request = tonic::Request::new(pb::DownloadFileRequest {
        application_parameter_id: PARAMETER.into(),
        source: Some(source("/big")),
        ..Default::default()
    });
    request.metadata_mut().insert("x-request-id", "the-one-that-stays".parse().expect("ascii"));
    let mut stream = client.download_file(request).await.expect("open").into_inner();
    assert!(stream.message().await.expect("a header").is_some());
    served.terminate();
    let status = tokio::task::block_in_place(|| served.ended());
    let text = served.text();
    assert_eq!(status.code(), Some(1), "{text}");
    let named = text.lines().find(|line| line.contains("the-one-that-stays") && line.contains("cut:"));
    let named = named.unwrap_or_else(|| panic!("it is not named in:\n{text}"));
    assert!(named.contains("DropboxConnector/DownloadFile") && named.contains(PARAMETER), "{named}");
    assert!(text.contains("drain_grace"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_begins_while_the_server_drains_is_waited_for_though_its_caller_leaves() {
    const START: &str = "files/upload_session/start";
    const APPEND: &str = "files/upload_session/append_v2";
    let mut house = support::start().await;
    let control = house.control();
    let rules =
        [Rule::once(START, Action::Delay { millis: 1000 }), Rule::once(APPEND, Action::DelayAnswer { millis: 3000 })];
    control.script(rules).expect("script");
    let mut stream = OpenUpload::on(house.other_client().await);
    assert!(stream.send(pb::upload_file_request::Frame::Spec(spec("/late"))).await);
    // Less than a part, and so much that the server has read a block: a window of 1 MiB may be behind.
    for piece in noise(15 * MIB / 2, 1).chunks(MIB / 4) {
        assert!(stream.send(chunk(piece)).await);
    }
    // Nothing is at Dropbox when it is told to stop: what is read of it gets its session then.
    assert_eq!(control.counter(START).calls, 0);
    let draining = tokio::spawn(house.take_app().stop());
    until("its append is under way", async || control.counter(APPEND).running == 1).await;
    stream.abandon().await;
    draining.await.expect("no panic").expect("nothing cut");
    let append = control.counter(APPEND);
    assert_eq!((append.good, append.running), (1, 0), "the process did not end before it");
}
