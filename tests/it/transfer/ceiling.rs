//! The memory of a server's process stays below what README says, whatever its callers do at once.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use dropbox_connector::{
    api::v1::{
        self as pb, download_file_response::Payload, dropbox_admin_connector_client::DropboxAdminConnectorClient,
        dropbox_connector_client::DropboxConnectorClient, upload_file_request::Frame,
    },
    emulator::{
        Emulator, Options,
        control::{Seed, SeedFile},
    },
    limits,
};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

use crate::support::{self, process::Served, streams::*, *};

const STREAMS: usize = 48;
const PER_CONNECTION: usize = 16;
const BYTES: usize = 16 * MIB;
const BUFFER_MIB: usize = 128;
/// A slow reader takes a chunk in this time, and leaves the end of its file alone until the uploads are done.
const CHUNK_TIME: Duration = Duration::from_millis(150);
const END_BYTES: usize = 4 * MIB;

async fn client(address: &str) -> DropboxConnectorClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("uri");
    let endpoint = endpoint.initial_stream_window_size(MIB as u32).initial_connection_window_size(16 * MIB as u32);
    DropboxConnectorClient::new(endpoint.connect().await.expect("connect"))
}

/// Whatever is refused for want of room comes again when it was told to.
async fn put(mut client: DropboxConnectorClient<Channel>, path: String, bytes: Bytes) -> pb::UploadFileResponse {
    loop {
        let spec = pb::UploadSpec { total_size: Some(BYTES as i64), ..spec(&path) };
        let chunk = |n: usize| pb::UploadChunk { data: bytes.slice(n * MIB..(n + 1) * MIB), ..Default::default() };
        let chunks = (0..BYTES / MIB).map(|n| Frame::Chunk(chunk(n)));
        let frames = [Frame::Spec(spec)].into_iter().chain(chunks).chain([finish()]).collect();
        match client.upload_file(tokio_stream::iter(requests(frames))).await {
            Ok(answer) => return answer.into_inner(),
            Err(busy) => {
                assert_eq!((busy.code(), reason(&busy).as_str()), (Code::ResourceExhausted, "CONNECTOR_BUSY"));
                tokio::time::sleep(retry_delay(&busy).expect("it says when to come back")).await;
            }
        }
    }
}

/// Reads slowly until the uploads are done, then to the end: the content hash as the caller computes it.
async fn get(mut client: DropboxConnectorClient<Channel>, path: String, mut done: watch::Receiver<bool>) -> String {
    let request = pb::DownloadFileRequest {
        application_parameter_id: PARAMETER.into(),
        source: Some(source(&path)),
        ..Default::default()
    };
    let mut stream = client.download_file(request).await.expect("open").into_inner();
    let (mut outer, mut block, mut got) = (Sha256::new(), Sha256::new(), 0);
    loop {
        match stream.message().await.expect("it goes on").and_then(|message| message.payload).expect("a trailer") {
            Payload::Header(_) => {}
            Payload::Chunk(chunk) => {
                let mut rest = &chunk.data[..];
                while !rest.is_empty() {
                    let (now, behind) = rest.split_at(rest.len().min(BLOCK - got % BLOCK));
                    block.update(now);
                    got += now.len();
                    if got.is_multiple_of(BLOCK) {
                        outer.update(block.finalize_reset());
                    }
                    rest = behind;
                }
            }
            Payload::Trailer(trailer) => {
                let hash = hex::encode(outer.finalize());
                assert_eq!((got, trailer.verified, &trailer.content_hash), (BYTES, true, &hash));
                return hash;
            }
        }
        if !*done.borrow() {
            let pause = if got + END_BYTES < BYTES { CHUNK_TIME } else { PATIENCE };
            let _ = tokio::time::timeout(pause, done.wait_for(|done| *done)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_and_slow_downloads_at_once_stay_below_the_ceiling_that_is_stated() {
    let emulator = Emulator::start(Options::default()).await.expect("emulator");
    let control = emulator.control();
    let files = (0..4).map(|n| SeedFile::bytes(&format!("/down/{n}"), BYTES as u64)).collect();
    control.seed(&Seed { files, ..Seed::default() }).expect("a seed");
    // All downloads are at Dropbox at once, and the uploads beside them.
    let buffer = format!("--transfer-buffer-mib={BUFFER_MIB}");
    let mut served = Served::before(&emulator, &[&buffer, "--max-requests-per-account=256"]);
    let mut admin =
        DropboxAdminConnectorClient::connect(format!("http://{}", served.told("admin"))).await.expect("admin");
    support::make_parameter(&mut admin, &emulator.account(), PARAMETER, |_| {}).await;
    let address = served.told("data");
    let sources: Vec<Bytes> = (0..4).map(|n| noise(BYTES, n).into()).collect();
    let (mut up, mut down) = (Vec::new(), Vec::new());
    for _ in 0..STREAMS / PER_CONNECTION {
        up.push(client(&address).await);
        down.push(client(&address).await);
    }
    let (tell, done) = watch::channel(false);
    let slow = |n: usize| tokio::spawn(get(down[n % down.len()].clone(), format!("/down/{}", n % 4), done.clone()));
    let downloads: Vec<_> = (0..STREAMS).map(slow).collect();
    until("all downloads are at it", async || control.counter("files/download").running == STREAMS as u64).await;
    let send = |n: usize| tokio::spawn(put(up[n % up.len()].clone(), format!("/up/{n}"), sources[n % 4].clone()));
    let uploads: Vec<_> = (0..STREAMS).map(send).collect();
    for (n, upload) in uploads.into_iter().enumerate() {
        let answer = upload.await.expect("uploaded");
        assert_eq!((answer.content_hash, answer.verified), (content_hash(&sources[n % 4]), true));
    }
    assert_eq!(downloads.iter().filter(|download| download.is_finished()).count(), 0, "they were at it all the time");
    tell.send(true).expect("they wait for it");
    for (n, download) in downloads.into_iter().enumerate() {
        let bytes = control.read(None, &format!("/down/{}", n % 4)).expect("seeded");
        assert_eq!(download.await.expect("read"), content_hash(&bytes));
    }
    for n in 0..STREAMS {
        assert!(control.read(None, &format!("/up/{n}")).as_deref() == Some(&sources[n % 4][..]), "{n}");
    }
    let (peak, ceiling) = (served.peak(), limits::memory_ceiling(BUFFER_MIB * MIB, STREAMS));
    assert!(peak <= ceiling, "{} MiB at most, and {} are said", peak / MIB, ceiling / MIB);
}

/// One download of a process of its own, whose places last as long as the test.
async fn one_download(ranges: i32) -> (Emulator, Served, tonic::Streaming<pb::DownloadFileResponse>) {
    let emulator = Emulator::start(Options::default()).await.expect("emulator");
    let seed = Seed { files: vec![SeedFile::bytes("/large", 4 * BYTES as u64)], ..Seed::default() };
    emulator.control().seed(&seed).expect("a seed");
    let mut served = Served::before(&emulator, &["--download-idle=10m"]);
    let mut admin =
        DropboxAdminConnectorClient::connect(format!("http://{}", served.told("admin"))).await.expect("admin");
    support::make_parameter(&mut admin, &emulator.account(), PARAMETER, |_| {}).await;
    let request = pb::DownloadFileRequest {
        application_parameter_id: PARAMETER.into(),
        source: Some(source("/large")),
        parallel_ranges: ranges,
        ..Default::default()
    };
    let mut stream = client(&served.told("data")).await.download_file(request).await.expect("open").into_inner();
    assert!(stream.message().await.expect("a header").is_some());
    (emulator, served, stream)
}

/// Bytes of the budget that are in use, as the server tells them every few seconds.
fn in_use(http: SocketAddr) -> Option<usize> {
    let metrics = tokio::task::block_in_place(|| crate::server::fetch(http, "/metrics"));
    let line = metrics.lines().find_map(|line| line.strip_prefix("dropboxconnector_buffer_bytes "))?.to_owned();
    Some(line.parse::<f64>().expect("a number") as usize)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_takes_little_keeps_nothing_ahead_of_it() {
    let (emulator, mut served, mut stream) = one_download(8).await;
    let http = served.told("http").parse().expect("address");
    let (tell, done) = watch::channel(false);
    let reading = tokio::spawn(async move {
        let (mut got, mut done) = (0, done);
        loop {
            match stream.message().await.expect("it goes on").and_then(|message| message.payload).expect("a trailer") {
                Payload::Header(_) => panic!("a second header"),
                Payload::Chunk(chunk) => got += chunk.data.len(),
                Payload::Trailer(trailer) => return (got, trailer),
            }
            // A block takes it eight seconds, and never is it silent.
            let _ = tokio::time::timeout(Duration::from_millis(500), done.wait_for(|done| *done)).await;
        }
    });
    let asked = || emulator.control().counter("files/download").calls;
    until("there are ranges ahead of it", async || asked() >= 7).await;
    let begun = tokio::time::Instant::now();
    until("they are let go, but for the block that it reads", async || {
        begun.elapsed() > 2 * limits::HOUSEKEEPING && in_use(http).is_some_and(|bytes| bytes <= BLOCK)
    })
    .await;
    assert!(!reading.is_finished());
    tell.send(true).expect("it reads on");
    let (got, trailer) = reading.await.expect("no panic");
    assert_eq!((got, trailer.verified), (4 * BYTES, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_file_that_nobody_reads_holds_no_block_for_its_hash() {
    let (_emulator, mut served, mut stream) = one_download(1).await;
    let http = served.told("http").parse().expect("address");
    let begun = tokio::time::Instant::now();
    until("it holds nothing of the budget", async || {
        begun.elapsed() > 2 * limits::HOUSEKEEPING && in_use(http) == Some(0)
    })
    .await;
    let trailer = loop {
        let message = stream.message().await.expect("it goes on");
        if let Payload::Trailer(trailer) = message.and_then(|message| message.payload).expect("a payload") {
            break trailer;
        }
    };
    assert!(trailer.verified, "its hash goes on as if nothing had been");
}
