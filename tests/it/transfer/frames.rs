//! What a stream of frames may hold and in which order. Nothing is committed of a stream that is wrong.

use dropbox_connector::api::v1::{self as pb, upload_file_request::Frame};
use tonic::{Code, Status, codec::CompressionEncoding};

use crate::support::{self, streams::*, *};

fn uploaded_bytes(house: &House) -> u64 {
    let counters = house.control().counters();
    counters.iter().filter(|(route, _)| route.starts_with("files/upload")).map(|(_, c)| c.bytes_in).sum()
}

fn committed(house: &House) -> u64 {
    house.control().counter("files/upload").calls + house.control().counter("files/upload_session/finish").calls
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_of_exactly_four_mebibytes_is_taken_and_five_are_too_large() {
    let house = support::start().await;
    let bytes = noise(5 * MIB, 1);
    let frames = vec![Frame::Spec(spec("/four")), chunk(&bytes[..4 * MIB]), finish()];
    upload_frames(&house, frames).await.expect("4 MiB in one message");
    assert!(house.control().read(None, "/four").as_deref() == Some(&bytes[..4 * MIB]));
    let before = committed(&house);
    for size in [4 * MIB + 1, 5 * MIB] {
        let frames = vec![Frame::Spec(spec("/five")), chunk(&bytes[..size]), finish()];
        let refused = upload_frames(&house, frames).await.expect_err("too large");
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "CHUNK_TOO_LARGE"), "{size}");
        assert_eq!(fact(&refused, "maxChunkBytes").as_deref(), Some("4194304"));
    }
    assert_eq!(committed(&house), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_out_of_order_are_refused_and_nothing_is_committed() {
    let house = support::start().await;
    let spec = || Frame::Spec(spec("/order"));
    let resume = || Frame::ResumeUploadId("x".into());
    for (what, frames) in [
        ("chunk first", vec![chunk(b"a"), finish()]),
        ("a large chunk first", vec![chunk(&noise(MIB, 9)), finish()]),
        ("finish first", vec![finish()]),
        ("two specs", vec![spec(), spec(), finish()]),
        ("a resume behind a spec", vec![spec(), resume(), finish()]),
        ("a spec behind a chunk", vec![spec(), chunk(b"a"), spec(), finish()]),
        ("data behind finish", vec![spec(), chunk(b"a"), finish(), chunk(b"b")]),
        ("two finishes", vec![spec(), chunk(b"a"), finish(), finish()]),
        ("an empty resume id", vec![Frame::ResumeUploadId(String::new()), finish()]),
        ("an empty stream", vec![]),
    ] {
        let refused = upload_frames(&house, frames).await.expect_err(what);
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "FRAME_ORDER"), "{what}");
        assert!(retry_delay(&refused).is_none());
    }
    let mut empty = requests(vec![spec(), chunk(b"a"), finish()]);
    empty[1].frame = None;
    let refused = house.client().upload_file(tokio_stream::iter(empty)).await.expect_err("a message without a frame");
    assert_eq!(reason(&refused), "FRAME_ORDER");
    assert_eq!(committed(&house), 0);
    assert_eq!(house.control().read(None, "/order"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_is_told_with_the_offset_that_would_be_right() {
    let house = support::start().await;
    let frames = vec![Frame::Spec(spec("/gap")), chunk(b"abc"), chunk_at(4, b"e"), finish()];
    let refused = upload_frames(&house, frames).await.expect_err("a gap");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::OutOfRange, "OFFSET_GAP"));
    assert_eq!(fact(&refused, "persistedOffset").as_deref(), Some("0"));
    assert_eq!(committed(&house), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_sent_twice_are_skipped_unverified() {
    let house = support::start().await;
    let frames = vec![
        Frame::Spec(spec("/overlap")),
        chunk(b"abcdef"),
        chunk_at(0, b"XXX"),
        chunk_at(4, b"XXgh"),
        chunk(b""),
        chunk(b"i"),
        finish(),
    ];
    upload_frames(&house, frames).await.expect("uploaded");
    assert_eq!(house.control().read(None, "/overlap").as_deref(), Some(&b"abcdefghi"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_with_a_wrong_crc_never_reaches_dropbox() {
    let house = support::start().await;
    let with_crc = |data: &[u8], crc32c| {
        Frame::Chunk(pb::UploadChunk { write_offset: None, data: data.to_vec().into(), crc32c: Some(crc32c) })
    };
    let frames = vec![Frame::Spec(spec("/crc")), with_crc(b"abc", crc32c(b"abc")), with_crc(b"def", 1), finish()];
    let refused = upload_frames(&house, frames).await.expect_err("damaged");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::DataLoss, "CHUNK_CRC_MISMATCH"));
    assert_eq!((committed(&house), uploaded_bytes(&house)), (0, 0));
    // In the middle of a session: what came before may be there, the damaged bytes are not.
    let bytes = noise(9 * MIB, 2);
    let mut frames = frames_of(&bytes);
    frames.push(with_crc(b"damaged", 7));
    frames.push(finish());
    let refused = upload_frames(&house, frames).await.expect_err("damaged");
    assert_eq!(reason(&refused), "CHUNK_CRC_MISMATCH");
    assert_eq!(committed(&house), 0);
    assert!(uploaded_bytes(&house) <= 8 * MIB as u64);
    let good = vec![Frame::Spec(spec("/crc")), with_crc(b"abc", crc32c(b"abc")), finish()];
    upload_frames(&house, good).await.expect("a right crc is taken");
}

fn frames_of(bytes: &[u8]) -> Vec<Frame> {
    let mut all = frames(spec("/crc"), bytes);
    all.pop();
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_hash_or_size_commits_nothing_in_any_lane() {
    let house = support::start().await;
    let wrong_hash = content_hash(b"something else");
    for (size, lane) in [(10, 0), (9 * MIB, 1), (33 * MIB, 4)] {
        let bytes = noise(size, 3);
        let total = size as i64;
        let base = pb::UploadSpec { parallel_appends: lane, ..spec("/wrong") };
        let finish_with =
            |hash: &str, size| Frame::Finish(pb::UploadFinish { content_hash: hash.into(), total_size: size });
        let with = |spec: pb::UploadSpec, last: Frame| {
            let mut all = frames(spec, &bytes);
            *all.last_mut().expect("finish") = last;
            all
        };
        let hashed = pb::UploadSpec { content_hash: wrong_hash.clone(), ..base.clone() };
        let right = content_hash(&bytes);
        let sized = |n| pb::UploadSpec { total_size: Some(n), ..base.clone() };
        for (what, frames, code, expected) in [
            ("hash in spec", with(hashed, finish()), Code::DataLoss, "CONTENT_HASH_MISMATCH"),
            (
                "hash in finish",
                with(base.clone(), finish_with(&wrong_hash, None)),
                Code::DataLoss,
                "CONTENT_HASH_MISMATCH",
            ),
            ("short", with(sized(total + 1), finish()), Code::InvalidArgument, "SIZE_MISMATCH"),
            ("long", with(sized(total - 1), finish()), Code::InvalidArgument, "SIZE_MISMATCH"),
            (
                "size in finish",
                with(base.clone(), finish_with("", Some(total + 1))),
                Code::InvalidArgument,
                "SIZE_MISMATCH",
            ),
            (
                "sizes that differ",
                with(sized(total), finish_with("", Some(total + 1))),
                Code::InvalidArgument,
                "INVALID_FIELD",
            ),
            ("no hash", with(base.clone(), finish_with("xyz", None)), Code::InvalidArgument, "INVALID_FIELD"),
        ] {
            let refused = upload_frames(&house, frames).await.expect_err(what);
            assert_eq!((refused.code(), reason(&refused).as_str()), (code, expected), "{what}, {size} bytes");
            assert!(retry_delay(&refused).is_none(), "{what}");
            assert_eq!(committed(&house), 0, "{what}, {size} bytes");
        }
        let both = pb::UploadSpec { content_hash: right.to_uppercase(), ..sized(total) };
        let answer = upload_frames(&house, with(both, finish_with(&right, Some(total)))).await.expect("all is right");
        assert!(answer.verified);
        house.control().clear_journal();
        remove(&house, "/wrong").await;
    }
}

async fn remove(house: &House, path: &str) {
    let request =
        pb::DeleteItemRequest { application_parameter_id: PARAMETER.into(), path: path.into(), ..Default::default() };
    house.client().delete_item(request).await.expect("deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_close_commits_nothing_and_says_where_it_stands() {
    let house = support::start().await;
    for appends in [1, 4] {
        let bytes = noise(10 * MIB, 4);
        let mut all = frames(pb::UploadSpec { parallel_appends: appends, ..spec("/open") }, &bytes);
        all.pop();
        let answer = upload_frames(&house, all).await.expect("half-closed");
        assert_eq!(answer.state(), pb::UploadState::Open);
        assert_eq!(answer.persisted_offset, 8 * MIB as i64, "whole blocks");
        assert!(answer.item.is_none());
        assert_eq!(committed(&house), 0);
        assert_eq!(house.control().read(None, "/open"), None);
        let status = upload_status(&house, &answer.upload_id).await.expect("status");
        assert_eq!((status.state(), status.persisted_offset), (pb::UploadState::Open, 8 * MIB as i64));
        assert!(status.expire_time.is_some() && status.item.is_none());
    }
    let answer = upload_frames(&house, vec![Frame::Spec(spec("/open")), chunk(b"a")]).await.expect("half-closed");
    assert_eq!((answer.state(), answer.persisted_offset), (pb::UploadState::Open, 0));
    assert_eq!(committed(&house), 0);
    // Nothing is kept, yet there is a handle to go on with; the file may turn out empty as well.
    for (frames, content) in
        [(vec![Frame::Spec(spec("/later")), chunk(b"a")], &b"abc"[..]), (vec![Frame::Spec(spec("/none"))], b"")]
    {
        let open = upload_frames(&house, frames).await.expect("half-closed");
        assert_eq!((open.state(), open.persisted_offset), (pb::UploadState::Open, 0));
        let status = upload_status(&house, &open.upload_id).await.expect("status");
        assert_eq!((status.state(), status.persisted_offset), (pb::UploadState::Open, 0));
        let answer = upload_frames(&house, resume_frames(&open.upload_id, content, 0)).await.expect("resumed");
        assert_eq!((answer.content_hash, answer.verified), (content_hash(content), true));
    }
    assert_eq!(house.control().read(None, "/later").as_deref(), Some(&b"abc"[..]));
    assert_eq!(house.control().read(None, "/none"), Some(Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spec_that_contradicts_itself_is_refused_with_every_field_named() {
    let house = support::start().await;
    let invalid = [
        ("spec.expected_rev", pb::UploadSpec { expected_rev: "0123456789".into(), ..spec("/f") }),
        ("spec.expected_rev", pb::UploadSpec { write_mode: pb::WriteMode::Update.into(), ..spec("/f") }),
        (
            "spec.strict_conflict",
            pb::UploadSpec { write_mode: pb::WriteMode::Overwrite.into(), strict_conflict: true, ..spec("/f") },
        ),
        ("spec.content_hash", pb::UploadSpec { skip_if_identical: true, ..spec("/f") }),
        ("spec.parallel_appends", pb::UploadSpec { parallel_appends: 17, ..spec("/f") }),
        ("spec.total_size", pb::UploadSpec { total_size: Some(-1), ..spec("/f") }),
    ];
    for (field, spec) in invalid {
        let refused = upload(&house, spec, b"x").await.expect_err(field);
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "INVALID_FIELD"), "{field}");
        let details = tonic_types::StatusExt::get_error_details(&refused);
        let named = details.bad_request().expect("BadRequest").field_violations.iter().any(|v| v.field == field);
        assert!(named, "{field}: {details:?}");
    }
    assert_eq!(committed(&house), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_larger_than_the_policy_allows_is_refused_by_its_size_or_by_counting() {
    let house = support::start_bare(Default::default(), |_| {}).await;
    house
        .make_parameter(PARAMETER, |parameter| {
            let policy = parameter.policy.get_or_insert_with(Default::default);
            policy.max_file_size = 9 * MIB as i64;
        })
        .await;
    let bytes = noise(9 * MIB + 1, 5);
    let declared = pb::UploadSpec { total_size: Some(bytes.len() as i64), ..spec("/big") };
    for (what, spec) in [("declared", declared), ("counted", spec("/big"))] {
        let refused = upload(&house, spec, &bytes).await.expect_err(what);
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "FILE_TOO_LARGE"), "{what}");
        if what == "declared" {
            assert_eq!(uploaded_bytes(&house), 0, "nothing is sent of what is known to be too large");
        }
    }
    assert_eq!(committed(&house), 0);
    upload(&house, spec("/fits"), &bytes[1..]).await.expect("as large as allowed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_a_message_ends_idle_and_resumable() {
    let house = support::start_with(|config| config.upload_idle = std::time::Duration::from_secs(4)).await;
    let bytes = noise(9 * MIB, 6);
    let mut stream = OpenUpload::begin(&house, spec("/idle")).await;
    assert!(stream.send_range(&bytes, 0, 9 * MIB).await);
    let idle = stream.early_answer().await.expect_err("idle");
    assert_eq!((idle.code(), reason(&idle).as_str()), (Code::DeadlineExceeded, "UPLOAD_IDLE"));
    assert_eq!(retry_delay(&idle), Some(std::time::Duration::ZERO));
    assert_eq!(fact(&idle, "persistedOffset").as_deref(), Some("8388608"));
    let upload_id = fact(&idle, "uploadId").expect("resumable");
    let answer = upload_frames(&house, resume_frames(&upload_id, &bytes, 8 * MIB)).await.expect("resumed");
    assert_eq!(answer.content_hash, content_hash(&bytes));
}

/// An upload whose messages are compressed on the way.
async fn compressed(
    house: &House,
    coding: CompressionEncoding,
    frames: Vec<Frame>,
) -> Result<pb::UploadFileResponse, Status> {
    let mut client = house.client().send_compressed(coding);
    client.upload_file(tokio_stream::iter(requests(frames))).await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_message_is_as_large_as_what_is_in_it_however_little_comes() {
    let house = support::start().await;
    let bytes = noise(9 * MIB, 7);
    for coding in [CompressionEncoding::Gzip, CompressionEncoding::Zstd] {
        let path = format!("/{coding:?}");
        let answer = compressed(&house, coding, frames(spec(&path), &bytes)).await.expect("uploaded");
        assert_eq!((answer.content_hash, answer.verified), (content_hash(&bytes), true));
        assert!(house.control().read(None, &path).as_deref() == Some(&bytes), "{path}");
        // Some KiB on the way, and less than the largest message inside.
        let bombs = [Frame::Spec(spec(&"a".repeat(3 * MIB))), Frame::ResumeUploadId("a".repeat(65 * 1024))];
        for bomb in bombs {
            let refused = compressed(&house, coding, vec![bomb, finish()]).await.expect_err("too large inside");
            assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "FRAME_ORDER"));
            assert!(refused.message().contains("64 KiB"), "{refused:?}");
        }
        // Behind it a message is what the limit of all messages says.
        let large = vec![Frame::Spec(spec("/large")), chunk(&vec![7; 5 * MIB]), finish()];
        let refused = compressed(&house, coding, large).await.expect_err("too large inside");
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "CHUNK_TOO_LARGE"));
    }
    // A plain one beside it is held to the same.
    let refused = upload_frames(&house, vec![Frame::Spec(spec(&"a".repeat(65 * 1024)))]).await.expect_err("too large");
    assert_eq!(reason(&refused), "FRAME_ORDER");
}
