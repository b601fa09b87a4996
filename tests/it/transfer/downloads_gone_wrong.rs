//! Downloads while the line to Dropbox breaks, files change and callers leave.

use std::time::{Duration, Instant};

use dropbox_connector::{
    api::v1::{self as pb, download_file_response::Payload},
    emulator::{
        control::{Seed, SeedFile},
        script::{Action, Rule},
    },
};
use tonic::{Code, Status, Streaming};

use crate::support::{self, streams::*, *};

const DOWNLOAD: &str = "files/download";

fn request(path: &str) -> pb::DownloadFileRequest {
    pb::DownloadFileRequest {
        application_parameter_id: PARAMETER.into(),
        source: Some(source(path)),
        // On a busy machine more of them might be worth it.
        parallel_ranges: 1,
        ..Default::default()
    }
}

async fn open(house: &House, path: &str) -> Streaming<pb::DownloadFileResponse> {
    let mut stream = house.client().download_file(request(path)).await.expect("open").into_inner();
    let header = stream.message().await.expect("a message").and_then(|message| message.payload);
    assert!(matches!(header, Some(Payload::Header(_))));
    stream
}

/// The bytes behind the header, and the trailer or what came instead.
async fn drained(mut stream: Streaming<pb::DownloadFileResponse>) -> (Vec<u8>, Result<pb::DownloadTrailer, Status>) {
    let mut bytes = Vec::new();
    loop {
        match stream.message().await {
            Ok(Some(message)) => match message.payload.expect("a payload") {
                Payload::Chunk(chunk) => bytes.extend_from_slice(&chunk.data),
                Payload::Trailer(trailer) => {
                    let end = stream.message().await;
                    assert!(matches!(end, Ok(None)), "nothing comes behind the trailer: {end:?}");
                    return (bytes, Ok(trailer));
                }
                Payload::Header(_) => panic!("a second header"),
            },
            Ok(None) => panic!("a stream without trailer ended as if all were well"),
            Err(status) => return (bytes, Err(status)),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_cut_five_times_is_one_clean_stream() {
    let house = support::start().await;
    let bytes = noise(12 * MIB, 1);
    let put = upload(&house, spec("/cut"), &bytes).await.expect("uploaded");
    house.control().clear_journal();
    let cut = Action::CutBody { after_bytes: 2 * MIB as u64 - 77 };
    house.control().script([Rule::times(DOWNLOAD, 5, cut)]).expect("script");
    let got = download(&house, "/cut").await.unwrap_or_else(|fault| panic!("{fault:?}"));
    assert!(got.bytes == bytes && got.trailer.verified);
    let asked: Vec<_> = house.control().journal().into_iter().filter(|entry| entry.route == DOWNLOAD).collect();
    assert_eq!(asked.len(), 6);
    let pinned = format!("rev:{}", file_of(put.item.as_ref()).rev);
    assert!(asked[1..].iter().all(|entry| entry.arg["path"] == pinned.as_str() && entry.headers.contains_key("range")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_for_ever_ends_without_a_trailer_and_may_be_resumed() {
    let house = support::start().await;
    let bytes = noise(12 * MIB, 2);
    upload(&house, spec("/broken"), &bytes).await.expect("uploaded");
    house.control().script([Rule::always(DOWNLOAD, Action::CutBody { after_bytes: 500_000 })]).expect("script");
    let (got, end) = drained(open(&house, "/broken").await).await;
    let broken = end.expect_err("no trailer");
    assert_eq!((broken.code(), reason(&broken).as_str()), (Code::Unavailable, "DROPBOX_UNAVAILABLE"));
    assert!(retry_delay(&broken).is_some());
    assert!(!got.is_empty() && got[..] == bytes[..got.len()], "what came was right");
    house.control().clear_script();
    let rest = pb::DownloadFileRequest { read_offset: got.len() as i64, ..request("/broken") };
    let rest = download_with(&house, rest).await.unwrap_or_else(|fault| panic!("{fault:?}"));
    assert!([got, rest.bytes].concat() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_replaced_in_mid_download_is_still_read_at_the_pinned_revision() {
    let house = support::start().await;
    let bytes = noise(48 * MIB, 3);
    upload(&house, spec("/replaced"), &bytes).await.expect("uploaded");
    house.control().clear_journal();
    // The break lies behind what flow control lets the server read ahead.
    house.control().script([Rule::once(DOWNLOAD, Action::CutBody { after_bytes: 40 * MIB as u64 })]).expect("script");
    let stream = open(&house, "/replaced").await;
    let seed = Seed { files: vec![SeedFile::text("/replaced", "quite another")], ..Seed::default() };
    house.control().seed(&seed).expect("seed");
    assert_eq!(house.control().counter(DOWNLOAD).calls, 1, "not broken before it was replaced");
    let (got, end) = drained(stream).await;
    assert!(got == bytes);
    assert!(end.expect("a trailer").verified);
    assert_eq!(house.control().counter(DOWNLOAD).calls, 2);
    let now = download(&house, "/replaced").await.unwrap_or_else(|fault| panic!("{fault:?}"));
    assert_eq!(now.bytes, b"quite another");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_behind_a_link_that_changes_in_mid_download_is_told() {
    let house = support::start().await;
    let bytes = noise(48 * MIB, 4);
    upload(&house, spec("/linked"), &bytes).await.expect("uploaded");
    let link = pb::CreateSharedLinkRequest {
        application_parameter_id: PARAMETER.into(),
        path: "/linked".into(),
        ..Default::default()
    };
    let url = house.client().create_shared_link(link).await.expect("a link").into_inner().shared_link.expect("it").url;
    let route = "sharing/get_shared_link_file";
    house.control().script([Rule::once(route, Action::CutBody { after_bytes: 40 * MIB as u64 })]).expect("script");
    let behind = pb::SharedLinkSource { url, ..Default::default() };
    let asked =
        pb::DownloadFileRequest { source: Some(pb::download_file_request::Source::SharedLink(behind)), ..request("") };
    let mut stream = house.client().download_file(asked).await.expect("open").into_inner();
    assert!(stream.message().await.expect("a message").is_some());
    let seed = Seed { files: vec![SeedFile::text("/linked", "quite another")], ..Seed::default() };
    house.control().seed(&seed).expect("seed");
    let (_, end) = drained(stream).await;
    let changed = end.expect_err("it changed");
    assert_eq!((changed.code(), reason(&changed).as_str()), (Code::Aborted, "CONTENT_CHANGED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_wrong_byte_is_data_loss_and_there_is_no_trailer() {
    let house = support::start().await;
    let bytes = noise(5 * MIB, 5);
    upload(&house, spec("/rotten"), &bytes).await.expect("uploaded");
    for at in [0, 4 * MIB as u64 + 1, 5 * MIB as u64 - 1] {
        house.control().clear_script();
        house.control().script([Rule::once(DOWNLOAD, Action::CorruptBody { at })]).expect("script");
        let (_, end) = drained(open(&house, "/rotten").await).await;
        let rotten = end.expect_err("no trailer");
        assert_eq!((rotten.code(), reason(&rotten).as_str()), (Code::DataLoss, "CONTENT_HASH_MISMATCH"), "{at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_break_in_one_of_several_ranges_is_mended() {
    let house = support::start().await;
    let bytes = noise(30 * MIB, 6);
    upload(&house, spec("/ranges"), &bytes).await.expect("uploaded");
    for action in [
        Action::CutBody { after_bytes: 1_000_000 },
        Action::CutBefore,
        Action::ServerError { status: 503 },
        Action::TooManyRequests { retry_after: Some(0) },
    ] {
        house.control().clear_script();
        house.control().script([Rule::every(DOWNLOAD, 3, action.clone())]).expect("script");
        let wide = pb::DownloadFileRequest { parallel_ranges: 4, ..request("/ranges") };
        let got = download_with(&house, wide).await.unwrap_or_else(|fault| panic!("{action:?}: {fault:?}"));
        assert!(got.bytes == bytes && got.trailer.verified, "{action:?}");
    }
}

/// How long Dropbox's request outlives this moment.
async fn freed(house: &House) -> Duration {
    let ended = Instant::now();
    until("the request ends", || async { house.control().counter(DOWNLOAD).running == 0 }).await;
    ended.elapsed()
}

/// What else the machine does can only add to a time: the least of some is nearest to what the connector takes.
async fn least_of_some(span: impl AsyncFn() -> Duration) -> Duration {
    let mut least = Duration::MAX;
    for _ in 0..5 {
        least = least.min(span().await);
        if least < Duration::from_secs(1) {
            break;
        }
    }
    least
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_frees_the_request_to_dropbox_within_a_second() {
    let house = support::start().await;
    let bytes = noise(8 * MIB, 7);
    upload(&house, spec("/left"), &bytes).await.expect("uploaded");
    for (rule, what) in [
        (Action::StallBody { after_bytes: 100_000 }, "while Dropbox stalls"),
        (Action::Bandwidth { bytes_per_second: 100_000 }, "while bytes come"),
    ] {
        house.control().clear_script();
        house.control().script([Rule::always(DOWNLOAD, rule)]).expect("script");
        let least = least_of_some(async || {
            let mut stream = open(&house, "/left").await;
            assert!(stream.message().await.expect("a chunk").is_some());
            assert_eq!(house.control().counter(DOWNLOAD).running, 1, "{what}");
            drop(stream);
            freed(&house).await
        });
        assert!(least.await < Duration::from_secs(1), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_inside_a_download_ends_it_and_frees_the_request_to_dropbox() {
    let house = support::start().await;
    upload(&house, spec("/late"), &noise(8 * MIB, 8)).await.expect("uploaded");
    house.control().script([Rule::always(DOWNLOAD, Action::StallBody { after_bytes: 100_000 })]).expect("script");
    let least = least_of_some(async || {
        let mut asked = tonic::Request::new(request("/late"));
        // Enough for the header on a busy machine.
        asked.set_timeout(Duration::from_secs(3));
        let begun = Instant::now();
        let mut stream = house.client().download_file(asked).await.expect("open").into_inner();
        assert!(stream.message().await.expect("the header").is_some());
        let (_, end) = drained(stream).await;
        let late = end.expect_err("no trailer");
        assert_eq!((late.code(), reason(&late).as_str()), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
        assert!(begun.elapsed() >= Duration::from_millis(2500), "not before its time");
        freed(&house).await
    });
    assert!(least.await < Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_before_the_header_frees_the_request_to_dropbox() {
    let house = support::start().await;
    upload(&house, spec("/slow"), b"x").await.expect("uploaded");
    house.control().script([Rule::always(DOWNLOAD, Action::Stall)]).expect("script");
    let least = least_of_some(async || {
        let mut asked = tonic::Request::new(request("/slow"));
        asked.set_timeout(Duration::from_millis(300));
        // The client's own timer may be first, so only what Dropbox sees tells of the server.
        house.client().download_file(asked).await.expect_err("late");
        freed(&house).await
    });
    assert!(least.await < Duration::from_secs(1));
}
