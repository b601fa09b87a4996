//! Downloads whose callers stop reading: what they hold meanwhile, whom they keep out, and how they go on.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use dropbox_connector::{
    api::v1::{self as pb, download_file_response::Payload, dropbox_connector_client::DropboxConnectorClient},
    clock::{Clock as _, ManualClock, SystemClock},
    emulator::{
        Emulator, Options,
        control::{Document, Seed, SeedFile},
        script::{Action, Rule},
    },
};
use tokio::time::{Instant, timeout};
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint},
};

use crate::support::{self, process::Served, streams::*, *};

const DOWNLOAD: &str = "files/download";
/// More than windows, buffers and sockets on the way take up by themselves.
const LARGE: usize = 32 * MIB;

fn of(path: &str) -> pb::DownloadFileRequest {
    pb::DownloadFileRequest {
        application_parameter_id: PARAMETER.into(),
        source: Some(source(path)),
        // On a busy machine more of them might be worth it.
        parallel_ranges: 1,
        ..Default::default()
    }
}

/// A download on a connection of its own, read up to its header and no further.
async fn stalled(house: &House, request: pb::DownloadFileRequest) -> Streaming<pb::DownloadFileResponse> {
    stalled_at(house.other_client().await, request).await
}

async fn stalled_at(
    mut client: DropboxConnectorClient<Channel>,
    request: pb::DownloadFileRequest,
) -> Streaming<pb::DownloadFileResponse> {
    let open = async {
        let mut stream = client.download_file(request).await.expect("open").into_inner();
        let header = stream.message().await.expect("a message").and_then(|message| message.payload);
        assert!(matches!(header, Some(Payload::Header(_))));
        stream
    };
    timeout(PATIENCE, open).await.expect("it is let in")
}

async fn read_on(mut stream: Streaming<pb::DownloadFileResponse>) -> Result<(Vec<u8>, pb::DownloadTrailer), Status> {
    let mut bytes = Vec::new();
    loop {
        match stream.message().await?.expect("a stream ends with its trailer").payload.expect("a payload") {
            Payload::Chunk(chunk) => {
                assert_eq!(chunk.offset, bytes.len() as i64, "in order and nothing twice");
                bytes.extend_from_slice(&chunk.data);
            }
            Payload::Trailer(trailer) => return Ok((bytes, trailer)),
            Payload::Header(_) => panic!("a second header"),
        }
    }
}

async fn let_go(house: &House, route: &str) {
    until("every request to Dropbox is let go", async || house.control().counter(route).running == 0).await;
}

fn get(path: &str) -> pb::GetItemRequest {
    pb::GetItemRequest { application_parameter_id: PARAMETER.into(), path: path.into(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_stalled_downloads_than_places_keep_nobody_out_and_go_on_as_if_nothing_had_been() {
    let house = support::start_with(|config| {
        config.max_requests_per_account = 8;
        config.download_idle = Duration::from_millis(400);
    })
    .await;
    let bytes = noise(LARGE, 1);
    let put = upload(&house, spec("/large"), &bytes).await.expect("uploaded");
    upload(&house, spec("/small"), b"small").await.expect("uploaded");
    // Six of eight places are for bodies; the others get theirs as the first ones lose them.
    let mut streams = Vec::new();
    for n in 0..14 {
        let ranges = if n % 3 == 0 { 3 } else { 1 };
        streams.push(stalled(&house, pb::DownloadFileRequest { parallel_ranges: ranges, ..of("/large") }).await);
    }
    house.client().get_item(get("/small")).await.expect("a small call");
    let small = timeout(PATIENCE, download(&house, "/small")).await.expect("in time").expect("downloaded");
    assert_eq!(small.bytes, b"small");
    let_go(&house, DOWNLOAD).await;
    house.control().clear_journal();
    for stream in streams.drain(..4) {
        let (got, trailer) = read_on(stream).await.unwrap_or_else(|fault| panic!("{fault:?}"));
        assert!(got == bytes && trailer.verified, "the proof goes on, too");
    }
    let pinned = format!("rev:{}", file_of(put.item.as_ref()).rev);
    let asked: Vec<_> = house.control().journal().into_iter().filter(|entry| entry.route == DOWNLOAD).collect();
    assert!(!asked.is_empty());
    assert!(asked.iter().all(|entry| entry.arg["path"] == pinned.as_str() && entry.headers.contains_key("range")));
}

#[tokio::test(flavor = "multi_thread")]
async fn small_calls_and_commits_do_not_queue_behind_bodies() {
    let house = support::start_with(|config| {
        config.max_requests_per_account = 8;
        config.download_idle = Duration::from_secs(600);
    })
    .await;
    let bytes = noise(LARGE, 2);
    upload(&house, spec("/large"), &bytes).await.expect("uploaded");
    house.control().clear_journal();
    let mut open = OpenUpload::begin(&house, spec("/sent")).await;
    assert!(open.send_range(&bytes, 0, 16 * MIB).await);
    until("both parts are at Dropbox", async || {
        house.control().counter("files/upload_session/append_v2").bytes_in >= 16 * MIB as u64
            && house.control().counter("files/upload_session/append_v2").running == 0
    })
    .await;
    let mut streams = Vec::new();
    for _ in 0..6 {
        streams.push(stalled(&house, of("/large")).await);
    }
    // Within a bound each, so that one that waits is named.
    let get_item = timeout(PATIENCE, async { house.client().get_item(get("/large")).await });
    get_item.await.expect("a read does not wait").expect("found");
    let commits = async {
        let folder = pb::CreateFolderRequest {
            application_parameter_id: PARAMETER.into(),
            path: "/made".into(),
            ..Default::default()
        };
        house.client().create_folder(folder).await.expect("a commit");
        upload(&house, spec("/one-request"), b"a commit with its content").await.expect("uploaded");
    };
    timeout(PATIENCE, commits).await.expect("commits do not wait, with content or without");
    let end = async {
        assert!(open.send(finish()).await);
        open.answer().await.expect("committed")
    };
    let committed = timeout(PATIENCE, end).await.expect("the last append and the commit of a session carry nothing");
    assert_eq!(committed.content_hash, content_hash(&bytes[..16 * MIB]));
    assert_eq!(house.control().counter(DOWNLOAD).running, 6, "they were at it all the time");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_a_parameter_leaves_room_for_small_calls_too() {
    let house = support::start_with(|config| config.download_idle = Duration::from_secs(600)).await;
    upload(&house, spec("/large"), &noise(LARGE, 3)).await.expect("uploaded");
    let policy = pb::ParameterPolicy {
        permissions: vec![pb::Permission::Read.into()],
        max_concurrency: 2,
        ..Default::default()
    };
    house.make_parameter("narrow", |parameter| parameter.policy = Some(policy)).await;
    let narrow = || pb::DownloadFileRequest { application_parameter_id: "narrow".into(), ..of("/large") };
    let _one = stalled(&house, narrow()).await;
    let request = pb::GetItemRequest { application_parameter_id: "narrow".into(), ..get("/large") };
    let mut client = house.client();
    timeout(PATIENCE, client.get_item(request))
        .await
        .expect("it does not wait for the download")
        .expect("found")
        .into_inner();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_waits_for_dropbox_is_not_taken_for_one_that_stopped_reading() {
    let house = support::start_with(|config| config.download_idle = Duration::from_millis(200)).await;
    upload(&house, spec("/large"), &noise(LARGE, 4)).await.expect("uploaded");
    house.control().clear_journal();
    house.control().script([Rule::once(DOWNLOAD, Action::StallBody { after_bytes: 50_000 })]).expect("script");
    let mut stream = stalled(&house, of("/large")).await;
    let reading = tokio::spawn(async move { while let Ok(Some(_)) = stream.message().await {} });
    let begun = Instant::now();
    until("five times its patience is over", async || begun.elapsed() > Duration::from_secs(1)).await;
    let counter = house.control().counter(DOWNLOAD);
    assert_eq!((counter.calls, counter.running), (1, 1), "the silence is Dropbox's, and idle_read ends it");
    reading.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_nobody_read_is_made_again_and_goes_on_only_if_it_is_the_same() {
    let house = support::start_with(|config| config.download_idle = Duration::from_millis(300)).await;
    let text = |n: usize| (0..LARGE / 8).map(|line| format!("{:07}\n", (line * n) % 9_999_991)).collect::<String>();
    let seed = |text: String| {
        let formats = BTreeMap::from([("markdown".to_owned(), text)]);
        let document = Document { path: "/notes.paper".into(), formats, ..Document::default() };
        house.control().seed_document(&document).expect("a document");
    };
    seed(text(1));
    let export = || pb::DownloadFileRequest { export_format: "markdown".into(), ..of("/notes.paper") };
    let (same, other) = (stalled(&house, export()).await, stalled(&house, export()).await);
    let_go(&house, "files/export").await;
    let (got, trailer) = read_on(same).await.unwrap_or_else(|fault| panic!("{fault:?}"));
    assert!(got == text(1).as_bytes() && trailer.verified);
    let_go(&house, "files/export").await;
    seed(text(3));
    let changed = read_on(other).await.expect_err("it is another text now");
    assert_eq!((changed.code(), reason(&changed).as_str()), (Code::Unavailable, "DROPBOX_UNAVAILABLE"));
    assert!(retry_delay(&changed).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_downloads_give_their_places_in_the_process_to_others_and_go_on_while_there_are_any() {
    let house = support::start_with(|config| {
        config.max_downloads = 2;
        config.download_idle = Duration::from_millis(300);
    })
    .await;
    let bytes = noise(LARGE, 5);
    upload(&house, spec("/large"), &bytes).await.expect("uploaded");
    let (one, other) = (stalled(&house, of("/large")).await, stalled(&house, of("/large")).await);
    // Two that wait for Dropbox, and not Dropbox for them, keep theirs.
    house.control().script([Rule::times(DOWNLOAD, 2, Action::StallBody { after_bytes: 50_000 })]).expect("script");
    let mut readers = Vec::new();
    let begun = Instant::now();
    while readers.len() < 2 {
        assert!(begun.elapsed() < PATIENCE, "the stalled ones keep their places");
        match house.other_client().await.download_file(of("/large")).await {
            Ok(stream) => {
                let mut stream = stream.into_inner();
                readers.push(tokio::spawn(async move { while let Ok(Some(_)) = stream.message().await {} }));
            }
            Err(busy) => {
                assert_eq!((busy.code(), reason(&busy).as_str()), (Code::ResourceExhausted, "CONNECTOR_BUSY"));
                assert_eq!(fact(&busy, "limit").as_deref(), Some("max_downloads"));
                assert!(retry_delay(&busy).is_some());
            }
        }
    }
    let ended = read_on(one).await.expect_err("others have its place");
    assert_eq!((ended.code(), reason(&ended).as_str()), (Code::ResourceExhausted, "CONNECTOR_BUSY"), "{ended:?}");
    assert!(retry_delay(&ended).is_some(), "it may go on where it was");
    for reader in readers {
        reader.abort();
    }
    let_go(&house, DOWNLOAD).await;
    let (got, trailer) = read_on(other).await.unwrap_or_else(|fault| panic!("{fault:?}"));
    assert!(got == bytes && trailer.verified, "as if nothing had been");
}

/// A client that lets the server send no more than HTTP/2's smallest window ahead.
async fn narrow_client(address: &str) -> DropboxConnectorClient<Channel> {
    client_with(address, 65_535).await
}

async fn client_with(address: &str, window: u32) -> DropboxConnectorClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("uri");
    let endpoint = endpoint.initial_stream_window_size(window).initial_connection_window_size(window);
    DropboxConnectorClient::new(endpoint.connect().await.expect("connect"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_is_held_back_by_its_policy_is_not_taken_for_one_that_stopped_reading() {
    let house = support::start_with(|config| config.download_idle = Duration::from_millis(300)).await;
    let text: String = (0..12 * 1024).map(|line| format!("{line:07}\n")).collect();
    upload(&house, spec("/file"), text.as_bytes()).await.expect("uploaded");
    let formats = BTreeMap::from([("markdown".to_owned(), text.clone())]);
    let document = Document { path: "/notes.paper".into(), formats, ..Document::default() };
    house.control().seed_document(&document).expect("a document");
    let policy = pb::ParameterPolicy { max_bytes_per_second: 64 * 1024, ..Default::default() };
    house.make_parameter("slow", |parameter| parameter.policy = Some(policy)).await;
    house.control().clear_journal();
    // 384 KiB in all, of which 64 are saved up: of four streams each waits longer for a chunk than a caller may be silent.
    let slow = |path: &str| pb::DownloadFileRequest { application_parameter_id: "slow".into(), ..of(path) };
    let exported = pb::DownloadFileRequest { export_format: "markdown".into(), ..slow("/notes.paper") };
    // Its window takes all of it: a busy machine may leave the reader asleep for longer than it may be silent.
    #[expect(clippy::async_yields_async, reason = "a task that reads on while others do something else")]
    let wide = async |request| {
        let client = client_with(&house.addresses.data.to_string(), 4 * MIB as u32).await;
        read_on(stalled_at(client, request).await)
    };
    let mut streams = vec![wide(exported).await];
    for _ in 0..3 {
        streams.push(wide(slow("/file")).await);
    }
    for outcome in futures::future::join_all(streams).await {
        let (got, trailer) = outcome.unwrap_or_else(|fault| panic!("{fault:?}"));
        assert!(got == text.as_bytes() && trailer.verified);
    }
    // An export asked of `files/download` first tells that it is none.
    let asked = |route: &str| house.control().journal().iter().filter(|entry| entry.route == route).count();
    assert_eq!((asked("files/export"), asked(DOWNLOAD)), (1, 4), "nothing is asked for twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_sets_the_time_of_day_lets_go_of_no_download() {
    let clock = ManualClock::new(SystemClock.now());
    let house = support::start_in(Options::default(), Arc::new(clock.clone()), |_| {}).await;
    house.make_parameter(PARAMETER, |_| {}).await;
    upload(&house, spec("/large"), &noise(LARGE, 7)).await.expect("uploaded");
    let _unread = stalled(&house, of("/large")).await;
    clock.set(clock.now() + Duration::from_secs(600));
    // Looked at some times, and not gone for 30 s.
    for _ in 0..28 {
        clock.advance(Duration::from_secs(1)).await;
        tokio::task::yield_now().await;
        assert_eq!(house.control().counter(DOWNLOAD).running, 1);
    }
    until("it is let go when its time is over", async || {
        clock.advance(Duration::from_secs(1)).await;
        house.control().counter(DOWNLOAD).running == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_been_given_all_bytes_gets_its_proof_though_others_have_its_place() {
    let house = support::start_with(|config| {
        config.max_downloads = 1;
        config.download_idle = Duration::from_secs(2);
    })
    .await;
    // Its last chunk is larger than what its caller takes without reading.
    let bytes = noise(4 * MIB + 100_000, 6);
    upload(&house, spec("/file"), &bytes).await.expect("uploaded");
    let request = pb::DownloadFileRequest { parallel_ranges: 2, ..of("/file") };
    let mut client = narrow_client(&house.addresses.data.to_string()).await;
    let mut first = client.download_file(request).await.expect("open").into_inner();
    let mut got = Vec::new();
    while got.len() < 4 * MIB {
        let message = first.message().await.expect("a message").and_then(|message| message.payload);
        if let Some(Payload::Chunk(chunk)) = message {
            got.extend_from_slice(&chunk.data);
        }
    }
    house.control().script([Rule::always(DOWNLOAD, Action::StallBody { after_bytes: 50_000 })]).expect("script");
    let other = async {
        loop {
            match house.other_client().await.download_file(of("/file")).await {
                Ok(stream) => break stream,
                Err(busy) => assert_eq!(reason(&busy), "CONNECTOR_BUSY"),
            }
        }
    };
    let _other = timeout(PATIENCE, other).await.expect("the place is given to others");
    let trailer = loop {
        match first.message().await.expect("it ends well").and_then(|message| message.payload).expect("a trailer") {
            Payload::Chunk(chunk) => got.extend_from_slice(&chunk.data),
            Payload::Trailer(trailer) => break trailer,
            Payload::Header(_) => panic!("a second header"),
        }
    };
    assert!(got == bytes && trailer.verified);
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_do_not_read_or_read_slowly_cost_less_than_4_mib_each_and_leave_within_a_second() {
    // As many as one parameter has places for bodies at Dropbox.
    const CALLERS: usize = 42;
    let emulator = Emulator::start(Options::default()).await.expect("emulator");
    let seed = Seed { files: vec![SeedFile::bytes("/large", LARGE as u64)], ..Seed::default() };
    emulator.control().seed(&seed).expect("a seed");
    let mut served = Served::before(&emulator, &[]);
    let admin = format!("http://{}", served.told("admin"));
    let mut admin =
        pb::dropbox_admin_connector_client::DropboxAdminConnectorClient::connect(admin).await.expect("admin");
    make_parameter(&mut admin, &emulator.account(), PARAMETER, |_| {}).await;
    let address = served.told("data");
    let running = || emulator.control().counter(DOWNLOAD).running;
    // What the first download of a process costs is not the next one's.
    let mut first = narrow_client(&address).await.download_file(of("/large")).await.expect("open").into_inner();
    assert!(first.message().await.expect("a header").is_some());
    let (got, _) = read_on(first).await.expect("whole");
    assert_eq!(got.len(), LARGE);
    let before = served.resident();
    let mut streams = Vec::new();
    for _ in 0..CALLERS {
        let mut stream = narrow_client(&address).await.download_file(of("/large")).await.expect("open").into_inner();
        assert!(stream.message().await.expect("a header").is_some());
        streams.push(stream);
    }
    assert_eq!(running(), CALLERS as u64);
    let most = before + CALLERS * 4 * MIB;
    let growth = |now: usize| now.saturating_sub(before) / 1024 / CALLERS;
    let unread = served.resident();
    assert!(unread < most, "{} KiB each, unread", growth(unread));
    // A chunk a second, for some seconds: it is the rate and not the length that could make them costly.
    let begun = Instant::now();
    for second in 1..=5 {
        for stream in &mut streams {
            assert!(stream.message().await.expect("a chunk").is_some());
        }
        let read = served.resident();
        assert!(read < most, "{} KiB each after {second} chunks", growth(read));
        tokio::time::sleep_until(begun + Duration::from_secs(second)).await;
    }
    // What else the machine does can only add to a time: the least of some is nearest to what the connector takes.
    let mut least = Duration::MAX;
    while let Some(stream) = streams.pop() {
        let before = running();
        drop(stream);
        let left = Instant::now();
        until("its request to Dropbox has ended", async || running() < before).await;
        least = least.min(left.elapsed());
        if least < Duration::from_secs(1) {
            break;
        }
    }
    assert!(least < Duration::from_secs(1), "{least:?}");
    drop(streams);
    until("every request to Dropbox has ended", async || running() == 0).await;
}
