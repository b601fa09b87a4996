//! Downloads that go well: whole files, ranges, revisions, links, exports.

use std::collections::BTreeMap;

use bytes::Bytes;
use dropbox_connector::{
    api::v1::{self as pb, download_file_response::Payload},
    emulator::{
        control::{Document, Seed, SeedFile},
        script::{Action, Rule},
    },
};
use tonic::Code;

use crate::support::{self, streams::*, *};

const DOWNLOAD: &str = "files/download";

fn of(path: &str) -> pb::DownloadFileRequest {
    pb::DownloadFileRequest { source: Some(source(path)), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_file_comes_with_its_proof_by_path_by_id_and_by_rev() {
    let house = support::start().await;
    let bytes = noise(9 * MIB + 3, 1);
    let put = upload(&house, spec("/Folder/Whole.PDF"), &bytes).await.expect("uploaded");
    let file = file_of(put.item.as_ref());
    for path in ["/Folder/Whole.PDF", "/folder/whole.pdf", &file.id, &format!("rev:{}", file.rev)] {
        let got = download(&house, path).await.expect(path);
        assert!(got.bytes == bytes, "{path}");
        assert_eq!(got.header.total_size, Some(bytes.len() as i64));
        assert_eq!((got.header.range_start, got.header.range_end), (0, Some(bytes.len() as i64)));
        assert_eq!((got.header.rev.as_str(), got.header.content_type.as_str()), (file.rev.as_str(), "application/pdf"));
        assert_eq!(got.header.item.as_ref().map(|item| item.name.as_str()), Some("Whole.PDF"));
        assert_eq!(got.trailer.bytes_sent, bytes.len() as i64);
        assert!(got.trailer.verified, "{path}");
        assert_eq!(got.trailer.content_hash, content_hash(&bytes));
    }
    let asked = house.control().journal().into_iter().filter(|entry| entry.route == DOWNLOAD);
    assert!(asked.into_iter().all(|entry| !entry.headers.contains_key("range")), "a whole file needs no Range");
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_are_read_from_the_start_from_the_end_and_at_the_edges() {
    let house = support::start().await;
    let bytes = noise(1_000_000, 2);
    upload(&house, spec("/ranges"), &bytes).await.expect("uploaded");
    let size = bytes.len() as i64;
    for (offset, limit, from, to) in [
        (0, 10, 0, 10),
        (10, 20, 10, 30),
        (999_990, 0, 999_990, size),
        (999_990, 100, 999_990, size),
        (-10, 0, 999_990, size),
        (-10, 4, 999_990, 999_994),
        (-2_000_000, 0, 0, size),
        (-2_000_000, 5, 0, 5),
        (size, 0, size, size),
        (size, 5, size, size),
        (0, size, 0, size),
    ] {
        let what = format!("offset {offset}, limit {limit}");
        let got =
            download_with(&house, pb::DownloadFileRequest { read_offset: offset, read_limit: limit, ..of("/ranges") })
                .await
                .unwrap_or_else(|fault| panic!("{what}: {fault:?}"));
        assert!(got.bytes == bytes[from as usize..to as usize], "{what}");
        assert_eq!((got.header.range_start, got.header.range_end), (from, Some(to)), "{what}");
        assert_eq!((got.header.total_size, got.trailer.bytes_sent), (Some(size), to - from), "{what}");
        let whole = from == 0 && to == size;
        assert_eq!((got.trailer.verified, !got.trailer.content_hash.is_empty()), (whole, whole), "{what}");
    }
    let beyond = pb::DownloadFileRequest { read_offset: size + 1, ..of("/ranges") };
    let Err(refused) = download_with(&house, beyond).await else { panic!("beyond the end") };
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::OutOfRange, "READ_OFFSET_BEYOND_END"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_file_is_header_and_trailer_whatever_is_asked_of_it() {
    let house = support::start().await;
    upload(&house, spec("/empty"), b"").await.expect("uploaded");
    for (offset, limit, ranges) in [(0, 0, 0), (0, 5, 0), (-5, 0, 0), (0, 0, 4)] {
        let request =
            pb::DownloadFileRequest { read_offset: offset, read_limit: limit, parallel_ranges: ranges, ..of("/empty") };
        let Ok(got) = download_with(&house, request).await else { panic!("{offset} {limit} {ranges}") };
        assert!(got.bytes.is_empty());
        assert_eq!((got.header.total_size, got.trailer.bytes_sent), (Some(0), 0));
        assert!(got.trailer.verified, "{offset} {limit} {ranges}");
    }
    let beyond = pb::DownloadFileRequest { read_offset: 1, ..of("/empty") };
    let Err(refused) = download_with(&house, beyond).await else { panic!("beyond the end") };
    assert_eq!(reason(&refused), "READ_OFFSET_BEYOND_END");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_revision_is_read_by_its_rev() {
    let house = support::start().await;
    let first = upload(&house, spec("/versions"), b"first").await.expect("uploaded");
    let over = pb::UploadSpec { write_mode: pb::WriteMode::Overwrite.into(), ..spec("/versions") };
    upload(&house, over, b"second").await.expect("uploaded");
    let rev = file_of(first.item.as_ref()).rev.clone();
    let got = download_with(&house, pb::DownloadFileRequest { rev: rev.clone(), ..of("/versions") }).await;
    let got = got.unwrap_or_else(|fault| panic!("{fault:?}"));
    assert_eq!((got.bytes.as_slice(), got.header.rev), (&b"first"[..], rev));
    assert_eq!(download(&house, "/versions").await.map(|got| got.bytes).ok(), Some(b"second".to_vec()));
    let gone = pb::DownloadFileRequest { rev: "0123456789abcdef".into(), ..of("/versions") };
    let Err(refused) = download_with(&house, gone).await else { panic!("there is no such revision") };
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::FailedPrecondition, "REVISION_GONE"));
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_are_as_large_as_asked_within_bounds() {
    let house = support::start().await;
    let bytes = noise(3 * MIB, 3);
    upload(&house, spec("/chunks"), &bytes).await.expect("uploaded");
    for size in [0, 16 * 1024, 100_000, 2 * MIB as i64] {
        let request =
            pb::DownloadFileRequest { application_parameter_id: PARAMETER.into(), chunk_size: size, ..of("/chunks") };
        let mut stream = house.client().download_file(request).await.expect("open").into_inner();
        let most = if size == 0 { 256 * 1024 } else { size as usize };
        let mut got = Vec::new();
        while let Some(message) = stream.message().await.expect("a message") {
            if let Some(Payload::Chunk(chunk)) = message.payload {
                assert!((1..=most).contains(&chunk.data.len()), "{} bytes of {most}", chunk.data.len());
                got.extend_from_slice(&chunk.data);
            }
        }
        assert!(got == bytes);
    }
    for size in [-1, 1, 16 * 1024 - 1, 2 * MIB as i64 + 1] {
        let Err(refused) = download_with(&house, pb::DownloadFileRequest { chunk_size: size, ..of("/chunks") }).await
        else {
            panic!("{size}")
        };
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "INVALID_FIELD"), "{size}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parallel_ranges_of_one_revision_come_in_order() {
    let house = support::start().await;
    let bytes = noise(33 * MIB + 7, 4);
    upload(&house, spec("/wide"), &bytes).await.expect("uploaded");
    house.control().script([Rule::always(DOWNLOAD, Action::Delay { millis: 30 })]).expect("script");
    let got = download_with(&house, pb::DownloadFileRequest { parallel_ranges: 4, ..of("/wide") }).await;
    let got = got.unwrap_or_else(|fault| panic!("{fault:?}"));
    assert!(got.bytes == bytes && got.trailer.verified);
    let counter = house.control().counter(DOWNLOAD);
    assert!((2..=7).contains(&counter.running_max), "{counter:?}");
    assert_eq!(counter.bytes_out, bytes.len() as u64, "every byte once");
    let part =
        pb::DownloadFileRequest { parallel_ranges: 4, read_offset: 5, read_limit: 20 * MIB as i64, ..of("/wide") };
    let part = download_with(&house, part).await.unwrap_or_else(|fault| panic!("{fault:?}"));
    assert!(part.bytes == bytes[5..20 * MIB + 5]);
    for (ranges, source) in [(9, of("/wide")), (-1, of("/wide"))] {
        let Err(refused) = download_with(&house, pb::DownloadFileRequest { parallel_ranges: ranges, ..source }).await
        else {
            panic!("{ranges}")
        };
        assert_eq!(reason(&refused), "INVALID_FIELD");
    }
}

/// A download in several ranges, behind its header.
async fn opened(house: &House, path: &str, ranges: i32) -> tonic::Streaming<pb::DownloadFileResponse> {
    let request =
        pb::DownloadFileRequest { application_parameter_id: PARAMETER.into(), parallel_ranges: ranges, ..of(path) };
    let mut stream = house.client().download_file(request).await.expect("open").into_inner();
    let header = stream.message().await.expect("a message").and_then(|message| message.payload);
    assert!(matches!(header, Some(Payload::Header(_))));
    stream
}

/// The bytes of the next message; `None` where it is the trailer.
async fn chunk(stream: &mut tonic::Streaming<pb::DownloadFileResponse>) -> Option<Bytes> {
    let message = tokio::time::timeout(PATIENCE, stream.message()).await.expect("in time").expect("a message");
    match message.and_then(|message| message.payload) {
        Some(Payload::Chunk(chunk)) => Some(chunk.data),
        Some(Payload::Trailer(_)) => None,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_ranges_as_were_asked_for_stay_under_way_over_a_slow_line() {
    let house = support::start().await;
    let bytes = noise(40 * MIB, 11);
    upload(&house, spec("/kept-up"), &bytes).await.expect("uploaded");
    let slow = Action::Bandwidth { bytes_per_second: 4 * MIB as u64 };
    house.control().script([Rule::always(DOWNLOAD, slow)]).expect("script");
    let mut stream = opened(&house, "/kept-up", 4).await;
    let (mut got, mut most) = (Vec::new(), 0);
    while let Some(data) = chunk(&mut stream).await {
        got.extend_from_slice(&data);
        // The first four blocks begin and end together: what counts is what is asked for behind them.
        if got.len() > 4 * BLOCK {
            most = most.max(house.control().counter(DOWNLOAD).running);
        }
    }
    assert!(got == bytes);
    assert!(most >= 4, "the one whose turn it is and three ahead of it");
    let counter = house.control().counter(DOWNLOAD);
    // Six, and one that has given its last byte and does not know it yet.
    assert!(counter.running_max <= 7, "{counter:?}");
    assert_eq!((counter.calls, counter.bytes_out), (10, bytes.len() as u64), "{counter:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_is_asked_for_while_the_last_bytes_of_another_come_so_that_no_line_waits_for_its_answer() {
    let house = support::start().await;
    let bytes = noise(48 * MIB, 13);
    upload(&house, spec("/early"), &bytes).await.expect("uploaded");
    // A block takes 500 ms, and its answer 200.
    let (slow, late) = (Action::Bandwidth { bytes_per_second: 8 * MIB as u64 }, Action::Delay { millis: 200 });
    house.control().script([Rule::always(DOWNLOAD, slow), Rule::always(DOWNLOAD, late)]).expect("script");
    let got = download_with(&house, pb::DownloadFileRequest { parallel_ranges: 4, ..of("/early") }).await;
    let got = got.unwrap_or_else(|fault| panic!("{fault:?}"));
    assert!(got.bytes == bytes && got.trailer.verified);
    let counter = house.control().counter(DOWNLOAD);
    // And one that has given its last byte and does not know it yet.
    assert!((5..=7).contains(&counter.running_max), "four lines, and two more at most that wait: {counter:?}");
    assert_eq!((counter.calls, counter.bytes_out), (12, bytes.len() as u64), "each range once: {counter:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_no_number_of_ranges_gets_more_where_it_outruns_one() {
    let house = support::start().await;
    let bytes = noise(40 * MIB, 13);
    upload(&house, spec("/outrun"), &bytes).await.expect("uploaded");
    let slow = Action::Bandwidth { bytes_per_second: 4 * MIB as u64 };
    house.control().script([Rule::always(DOWNLOAD, slow)]).expect("script");
    let mut stream = opened(&house, "/outrun", 0).await;
    let mut got = Vec::new();
    // Well before the eight at which its need is looked at: the server is a window ahead of what is read here.
    while got.len() < 3 * MIB {
        got.extend_from_slice(&chunk(&mut stream).await.expect("more is to come"));
    }
    assert_eq!(house.control().counter(DOWNLOAD).running_max, 1, "it begins with one");
    while let Some(data) = chunk(&mut stream).await {
        got.extend_from_slice(&data);
    }
    assert!(got == bytes);
    let most = house.control().counter(DOWNLOAD).running_max;
    // Four, two more while ranges end, and one that has given its last byte and does not know it yet.
    assert!((2..=7).contains(&most), "{most} at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_come_of_a_range_whose_turn_it_is_does_not_wait_for_the_rest_of_it() {
    const CAME: usize = MIB;
    let house = support::start().await;
    let bytes = noise(12 * MIB, 12);
    upload(&house, spec("/through"), &bytes).await.expect("uploaded");
    let stalls = Action::StallBody { after_bytes: CAME as u64 };
    // The first is the head's, so the second is that of the range behind it.
    house.control().script([Rule::nth(DOWNLOAD, 2, stalls)]).expect("script");
    let mut stream = opened(&house, "/through", 2).await;
    let mut got = Vec::new();
    while got.len() < BLOCK + CAME {
        got.extend_from_slice(&chunk(&mut stream).await.expect("more than that is to come"));
    }
    assert!(got == bytes[..BLOCK + CAME], "{} bytes", got.len());
    until("the range behind it is asked for", async || house.control().counter(DOWNLOAD).calls == 3).await;
}

async fn shared(house: &House, path: &str, password: &str) -> String {
    let settings = pb::SharedLinkSettings {
        require_password: Some(!password.is_empty()),
        password: password.into(),
        ..Default::default()
    };
    let request = pb::CreateSharedLinkRequest {
        application_parameter_id: PARAMETER.into(),
        path: path.into(),
        settings: (!password.is_empty()).then_some(settings),
        ..Default::default()
    };
    let made = house.client().create_shared_link(request).await.expect("a link").into_inner();
    made.shared_link.expect("a link").url
}

fn behind(url: &str, path: &str, password: &str) -> pb::DownloadFileRequest {
    let link = pb::SharedLinkSource { url: url.into(), path: path.into(), password: password.into() };
    pb::DownloadFileRequest { source: Some(pb::download_file_request::Source::SharedLink(link)), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_behind_a_shared_link_is_read_with_its_password() {
    let house = support::start().await;
    let bytes = noise(2 * MIB, 5);
    upload(&house, spec("/shared.bin"), &bytes).await.expect("uploaded");
    let url = shared(&house, "/shared.bin", "open sesame").await;
    let got = download_with(&house, behind(&url, "", "open sesame")).await.unwrap_or_else(|fault| panic!("{fault:?}"));
    assert!(got.bytes == bytes);
    assert_eq!((got.trailer.verified, got.trailer.content_hash), (false, content_hash(&bytes)));
    let item = got.header.item.expect("an item");
    assert_eq!((item.name.as_str(), item.path_lower.as_str()), ("shared.bin", ""));
    assert_eq!(got.header.total_size, Some(bytes.len() as i64));
    let part = pb::DownloadFileRequest { read_offset: -5, ..behind(&url, "", "open sesame") };
    let part = download_with(&house, part).await.unwrap_or_else(|fault| panic!("{fault:?}"));
    assert_eq!(part.bytes, bytes[bytes.len() - 5..]);
    // The owner needs none; somebody else does.
    let stranger = house.control().add_account("stranger@example.com", "Some", "Body", None);
    let login = house.control().issue(Some(&stranger), None).expect("a login");
    make_parameter(&mut house.admin().await, &login, "stranger", |_| {}).await;
    for (password, lets_in) in [("", false), ("wrong", false), ("open sesame", true)] {
        let request =
            pb::DownloadFileRequest { application_parameter_id: "stranger".into(), ..behind(&url, "", password) };
        match download_with(&house, request).await {
            Ok(got) => assert!(lets_in && got.bytes == bytes, "{password}"),
            Err(refused) => {
                assert!(!lets_in);
                assert_eq!((refused.code(), reason(&refused).as_str()), (Code::PermissionDenied, "SHARED_LINK_ACCESS"));
            }
        }
    }
    let pinned = pb::DownloadFileRequest { rev: "0123456789".into(), ..behind(&url, "", "open sesame") };
    let Err(refused) = download_with(&house, pinned).await else { panic!("a link cannot be pinned") };
    assert_eq!(reason(&refused), "INVALID_FIELD");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_inside_a_shared_folder_is_read_by_its_path() {
    let house = support::start().await;
    upload(&house, spec("/shared/inner/a.txt"), b"inside").await.expect("uploaded");
    let url = shared(&house, "/shared", "").await;
    let got = download_with(&house, behind(&url, "/inner/a.txt", "")).await.unwrap_or_else(|fault| panic!("{fault:?}"));
    assert_eq!(got.bytes, b"inside");
    let Err(refused) = download_with(&house, behind(&url, "", "")).await else { panic!("a folder is no file") };
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::FailedPrecondition, "NOT_A_FILE"));
}

#[tokio::test(flavor = "multi_thread")]
async fn urls_that_are_no_shared_links_are_refused_before_dropbox_is_asked() {
    let house = support::start().await;
    for url in [
        "",
        "http://www.dropbox.com/s/x",
        "https://example.com/s/x",
        "https://www.dropbox.com.example.com/s/x",
        "https://user:secret@www.dropbox.com/s/x",
        "not a url",
    ] {
        let Err(refused) = download_with(&house, behind(url, "", "")).await else { panic!("{url}") };
        assert_eq!(refused.code(), Code::InvalidArgument, "{url}");
        assert!(!refused.message().contains("secret"));
    }
    assert_eq!(house.control().counter("sharing/get_shared_link_file").calls, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paper_document_is_exported_in_the_format_asked_for() {
    let house = support::start().await;
    let formats = BTreeMap::from([("html".into(), "<p>hi</p>".into()), ("markdown".into(), "# hi".into())]);
    let document = Document { path: "/notes.paper".into(), formats, ..Document::default() };
    house.control().seed_document(&document).expect("seed");
    for (format, text) in [("markdown", "# hi"), ("html", "<p>hi</p>")] {
        let request = pb::DownloadFileRequest { export_format: format.into(), ..of("/notes.paper") };
        let got = download_with(&house, request).await.unwrap_or_else(|fault| panic!("{fault:?}"));
        assert_eq!(got.bytes, text.as_bytes());
        assert_eq!(got.header.export_format, format);
        assert!(got.trailer.verified, "by the export's hash");
        assert!(got.header.rev.is_empty(), "an export is not read by revision");
    }
    let Err(refused) = download(&house, "/notes.paper").await else { panic!("it has no bytes of its own") };
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::FailedPrecondition, "NOT_DOWNLOADABLE"));
    let formats = fact(&refused, "exportFormats").expect("what it can be exported to");
    assert!(formats.contains("markdown") && formats.contains("html"), "{formats}");
    for wrong in [
        pb::DownloadFileRequest { read_offset: 1, ..of("/notes.paper") },
        pb::DownloadFileRequest { read_limit: 1, ..of("/notes.paper") },
        pb::DownloadFileRequest { parallel_ranges: 2, ..of("/notes.paper") },
    ] {
        let wrong = pb::DownloadFileRequest { export_format: "html".into(), ..wrong };
        let Err(refused) = download_with(&house, wrong).await else { panic!("an export has no ranges") };
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
    }
    let unknown = pb::DownloadFileRequest { export_format: "docx".into(), ..of("/notes.paper") };
    let Err(refused) = download_with(&house, unknown).await else { panic!("no such format") };
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "EXPORT_FORMAT"));
    // A file that can be downloaded is, whatever format is asked for.
    upload(&house, spec("/plain.txt"), b"plain").await.expect("uploaded");
    let ignored = pb::DownloadFileRequest { export_format: "html".into(), ..of("/plain.txt") };
    let got = download_with(&house, ignored).await.unwrap_or_else(|fault| panic!("{fault:?}"));
    assert_eq!((got.bytes.as_slice(), got.header.export_format.as_str()), (&b"plain"[..], ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_file_or_not_there_is_told_before_a_header() {
    let house = support::start().await;
    let seed = Seed { folders: vec!["/dir".into()], files: vec![SeedFile::text("/f", "f")], ..Seed::default() };
    house.control().seed(&seed).expect("seed");
    for (path, code, expected) in [
        ("/nothing", Code::NotFound, "PATH_NOT_FOUND"),
        ("/dir", Code::FailedPrecondition, "NOT_A_FILE"),
        ("/f/../g", Code::InvalidArgument, "MALFORMED_PATH"),
    ] {
        let Err(refused) = download(&house, path).await else { panic!("{path}") };
        assert_eq!((refused.code(), reason(&refused).as_str()), (code, expected), "{path}");
    }
    let Err(refused) = download_with(&house, pb::DownloadFileRequest::default()).await else { panic!("no source") };
    assert_eq!(reason(&refused), "INVALID_FIELD");
}
