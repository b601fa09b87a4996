//! Uploads that go well: sizes, names, lanes, many at once.

use std::time::Duration;

use dropbox_connector::{
    api::v1::{self as pb, upload_file_request::Frame},
    emulator::{
        Contention,
        script::{Action, Rule},
    },
};

use crate::support::{self, streams::*, *};

const START: &str = "files/upload_session/start";
const APPEND: &str = "files/upload_session/append_v2";
const FINISH: &str = "files/upload_session/finish";

#[tokio::test(flavor = "multi_thread")]
async fn three_messages_make_a_file_with_id_rev_and_preview_link() {
    let house = support::start().await;
    let spec = pb::UploadSpec { link_kind: pb::LinkKind::Preview.into(), ..spec("/three.txt") };
    let frames = vec![Frame::Spec(spec), chunk(b"hello"), finish()];
    let answer = upload_frames(&house, frames).await.expect("uploaded");
    assert_eq!(answer.state(), pb::UploadState::Committed);
    let file = file_of(answer.item.as_ref());
    assert!(file.id.starts_with("id:") && !file.rev.is_empty());
    assert_eq!((file.size, answer.persisted_offset), (5, 5));
    let link = answer.link.expect("a link");
    assert!(link.url.starts_with("https://") && link.is_new, "{link:?}");
    assert_eq!(link.kind(), pb::LinkKind::Preview);
    assert!(answer.link_failure.is_none() && answer.upload_id.is_empty());
    assert_eq!((answer.content_hash.as_str(), answer.verified), (content_hash(b"hello").as_str(), true));
    assert_eq!(house.control().read(None, "/three.txt").as_deref(), Some(&b"hello"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_temporary_link_serves_the_file_that_was_just_committed() {
    let house = support::start().await;
    let spec = pb::UploadSpec { link_kind: pb::LinkKind::Temporary.into(), ..spec("/t.txt") };
    let link = upload(&house, spec, b"hello").await.expect("uploaded").link.expect("a link");
    assert_eq!(link.kind(), pb::LinkKind::Temporary);
    assert!(link.expire_time.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_fails_does_not_fail_the_upload() {
    let house = support::start().await;
    let refused = Action::Error { error: serde_json::json!({".tag": "access_denied"}), user_message: None };
    house.control().script([Rule::always("sharing/create_shared_link_with_settings", refused)]).expect("script");
    let spec = pb::UploadSpec { link_kind: pb::LinkKind::Preview.into(), ..spec("/nolink.txt") };
    let answer = upload(&house, spec, b"hello").await.expect("uploaded");
    assert_eq!(answer.state(), pb::UploadState::Committed);
    let failure = answer.link_failure.expect("told why");
    assert_eq!((failure.reason.as_str(), failure.code), ("LINKS_NOT_ALLOWED", tonic::Code::PermissionDenied as i32));
    assert!(answer.link.is_none());
    assert!(house.control().read(None, "/nolink.txt").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_file_is_spec_and_finish() {
    let house = support::start().await;
    for (name, size) in [("/unknown", None), ("/declared", Some(0))] {
        let frames = vec![Frame::Spec(pb::UploadSpec { total_size: size, ..spec(name) }), finish()];
        let answer = upload_frames(&house, frames).await.expect(name);
        assert_eq!(file_of(answer.item.as_ref()).size, 0);
        assert_eq!(house.control().read(None, name), Some(Vec::new()));
    }
    assert_eq!(house.control().counter(START).calls, 0, "an empty file needs no session");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_keep_their_bytes_and_a_backslash_separates() {
    let house = support::start().await;
    for (sent, there, name) in [
        ("/\u{1F9FE} Rechnung \u{1F468}\u{200D}\u{1F469}\u{200D}\u{1F467}.pdf", None, None),
        ("/cafe\u{301}.txt", None, Some("cafe\u{301}.txt")),
        ("\\Scans\\2026\\a.txt", Some("/Scans/2026/a.txt"), Some("a.txt")),
        ("no/leading//slash.txt", Some("/no/leading/slash.txt"), Some("slash.txt")),
    ] {
        let answer = upload(&house, spec(sent), sent.as_bytes()).await.expect(sent);
        let item = answer.item.expect("an item");
        let there = there.unwrap_or(sent);
        assert_eq!(item.name, name.unwrap_or(&sent[1..]));
        assert_eq!(house.control().read(None, there).as_deref(), Some(sent.as_bytes()), "{there}");
        assert_eq!(download(&house, sent).await.expect(sent).bytes, sent.as_bytes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_name_is_put_into_the_folder_that_path_names() {
    let house = support::start().await;
    for (folder, path) in [("/in/box", "/in/box/n.txt"), ("/", "/n.txt"), ("\\", "/n.txt"), ("", "/n.txt")] {
        let spec =
            pb::UploadSpec { file_name: "n.txt".into(), write_mode: pb::WriteMode::Overwrite.into(), ..spec(folder) };
        upload(&house, spec, path.as_bytes()).await.expect(folder);
        assert_eq!(house.control().read(None, path).as_deref(), Some(path.as_bytes()));
    }
    let separated = pb::UploadSpec { file_name: "a/b".into(), ..spec("/in") };
    let refused = upload(&house, separated, b"x").await.expect_err("a name holds no separator");
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_that_cannot_be_written_are_refused_before_dropbox_is_asked() {
    let house = support::start().await;
    for (path, expected) in [
        ("rev:0123456789", "MALFORMED_PATH"),
        ("/a/../b", "MALFORMED_PATH"),
        ("/a/./b", "MALFORMED_PATH"),
        ("/a\0b", "MALFORMED_PATH"),
        ("/ends in space ", "DISALLOWED_NAME"),
        ("/del\u{7f}.txt", "DISALLOWED_NAME"),
    ] {
        let refused = upload(&house, spec(path), b"x").await.expect_err(path);
        assert_eq!((refused.code(), reason(&refused).as_str()), (tonic::Code::InvalidArgument, expected), "{path}");
        assert!(retry_delay(&refused).is_none());
    }
    assert_eq!(house.control().counter("files/upload").calls, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_s_time_of_modification_is_kept_in_whole_seconds() {
    let house = support::start().await;
    let modified = prost_types::Timestamp { seconds: 1_700_000_000, nanos: 999_999_999 };
    let spec = pb::UploadSpec { client_modified: Some(modified), ..spec("/dated") };
    let answer = upload(&house, spec, b"x").await.expect("uploaded");
    let kept = file_of(answer.item.as_ref()).client_modified.expect("a time");
    assert_eq!((kept.seconds, kept.nanos), (1_700_000_000, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fits_one_request_is_one_request_and_more_is_a_session() {
    let house = support::start().await;
    let control = house.control();
    let one = noise(2 * BLOCK, 1);
    upload(&house, pb::UploadSpec { total_size: Some(one.len() as i64), ..spec("/one") }, &one).await.expect("one");
    assert_eq!((control.counter("files/upload").calls, control.counter(START).calls), (1, 0));
    let more = noise(2 * BLOCK + 1, 2);
    let answer = upload(&house, spec("/more"), &more).await.expect("more");
    assert_eq!((control.counter("files/upload").calls, control.counter(START).calls), (1, 1));
    assert!(!answer.upload_id.is_empty(), "a session has a handle");
    assert_eq!(control.counter(FINISH).calls, 1);
    assert_eq!(control.counter(FINISH).bytes_in, 0, "the commit has an empty body");
    assert!(control.read(None, "/more").as_deref() == Some(&more));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_size_nobody_told_is_counted() {
    let house = support::start().await;
    for size in [0, 1, BLOCK - 1, BLOCK, 2 * BLOCK, 3 * BLOCK, 3 * BLOCK + 5] {
        let bytes = noise(size, size as u64);
        let answer = upload(&house, spec(&format!("/u{size}")), &bytes).await.expect("uploaded");
        assert_eq!(answer.content_hash, content_hash(&bytes), "{size}");
        assert_eq!((answer.persisted_offset, answer.verified), (size as i64, true));
        assert!(house.control().read(None, &format!("/u{size}")).as_deref() == Some(&bytes));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_above_150_mib_goes_out_in_bodies_that_dropbox_takes() {
    let house = support::start().await;
    let bytes = noise(150 * MIB + 1, 3);
    let spec = pb::UploadSpec {
        total_size: Some(bytes.len() as i64),
        content_hash: content_hash(&bytes),
        ..spec("/above.bin")
    };
    let answer = upload(&house, spec, &bytes).await.expect("uploaded");
    assert!(answer.verified);
    let counters = house.control().counters();
    assert!(counters.values().all(|counter| counter.body_bytes_max <= 150 * MIB as u64));
    let sent: u64 = counters.iter().filter(|(route, _)| route.contains("upload")).map(|(_, c)| c.bytes_in).sum();
    assert_eq!(sent, bytes.len() as u64, "every byte once");
    assert!(house.control().read(None, "/above.bin").as_deref() == Some(&bytes));
    let back = download(&house, "/above.bin").await.expect("downloaded");
    assert!(back.bytes == bytes && back.trailer.verified);
}

fn sessions(house: &House) -> Vec<String> {
    let journal = house.control().journal();
    let starts = journal.iter().filter(|entry| entry.route == START);
    starts.map(|entry| entry.arg["session_type"][".tag"].as_str().unwrap_or("sequential").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_has_several_appends_in_flight_unless_one_is_asked_for() {
    let house = support::start().await;
    let control = house.control();
    control.script([Rule::always(APPEND, Action::DelayAnswer { millis: 1500 })]).expect("script");
    let bytes = noise(40 * MIB, 4);
    for (name, appends, kind) in [("/many", 0, "concurrent"), ("/four", 4, "concurrent"), ("/one", 1, "sequential")] {
        control.clear_journal();
        let spec = pb::UploadSpec { parallel_appends: appends, total_size: Some(40 * MIB as i64), ..spec(name) };
        upload(&house, spec, &bytes).await.expect(name);
        assert_eq!(sessions(&house), [kind], "{name}");
        let most = control.counter(APPEND).running_max;
        match appends {
            1 => assert_eq!(most, 1),
            4 => assert!((2..=4).contains(&most), "{most}"),
            _ => assert!(most > 1, "{most}"),
        }
        assert!(control.read(None, name).as_deref() == Some(&bytes), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_small_uploads_at_once_all_arrive() {
    let house = support::start().await;
    house.control().switch(|switches| {
        switches.contention = Some(Contention { commit_takes: Duration::from_millis(2), as_409: false });
    });
    let one = async |n: usize| {
        let bytes = noise(1000 + n, n as u64);
        let answer = upload(&house, spec(&format!("/many/{n}.bin")), &bytes).await.expect("uploaded");
        assert!(answer.verified);
        assert_eq!(house.control().read(None, &format!("/many/{n}.bin")), Some(bytes));
    };
    futures::future::join_all((0..64).map(one)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_of_one_namespace_take_turns_so_nobody_meets_contention() {
    let house = support::start().await;
    let control = house.control();
    for as_409 in [false, true] {
        control.clear_journal();
        control.switch(|switches| {
            switches.contention = Some(Contention { commit_takes: Duration::from_millis(10), as_409 });
        });
        let large = noise(9 * MIB, 5);
        let one = async |n: usize| {
            let bytes = if n.is_multiple_of(4) { &large[n..] } else { &large[..n + 1] };
            let client = house.other_client().await;
            let requests = tokio_stream::iter(requests(frames(spec(&format!("/turns/{as_409}/{n}")), bytes)));
            client.clone().upload_file(requests).await.expect("no contention");
        };
        futures::future::join_all((0..16).map(one)).await;
        let refused = control.journal().into_iter().filter(|entry| entry.status == 429 || entry.status == 409).count();
        assert_eq!(refused, 0, "no commit was sent while another one ran");
        assert_eq!(control.counter("files/upload").running_max, 1);
    }
}
