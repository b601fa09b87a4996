//! `skip_if_identical` and `overwrite_if`: uploads that need not happen.

use dropbox_connector::{
    api::v1 as pb,
    emulator::{control::Seed, control::SeedFile},
};
use tonic::Code;

use crate::support::{self, streams::*, *};

fn uploads(house: &House) -> u64 {
    let counters = house.control().counters();
    counters.iter().filter(|(route, _)| route.starts_with("files/upload")).map(|(_, c)| c.calls).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identical_file_is_skipped_before_a_byte_is_sent() {
    let house = support::start().await;
    let first = upload(&house, spec("/same"), b"content").await.expect("first");
    let before = uploads(&house);
    let skipping = |bytes: &[u8]| pb::UploadSpec {
        skip_if_identical: true,
        content_hash: content_hash(bytes),
        write_mode: pb::WriteMode::Overwrite.into(),
        ..spec("/same")
    };
    let answer = upload(&house, skipping(b"content"), b"content").await.expect("skipped");
    assert_eq!((answer.state(), answer.skipped()), (pb::UploadState::Committed, pb::Skipped::Identical));
    assert_eq!(file_of(answer.item.as_ref()).rev, file_of(first.item.as_ref()).rev);
    assert_eq!(uploads(&house), before);
    // A caller that waits for the answer before it sends anything gets it.
    let mut waiting = OpenUpload::begin(&house, skipping(b"content")).await;
    let answer = waiting.early_answer().await.expect("skipped");
    assert_eq!(answer.skipped(), pb::Skipped::Identical);
    let answer = upload(&house, skipping(b"changed"), b"changed").await.expect("written");
    assert_eq!(answer.skipped(), pb::Skipped::Unspecified);
    assert_eq!(house.control().read(None, "/same").as_deref(), Some(&b"changed"[..]));
    let elsewhere = pb::UploadSpec { path: "/new".into(), ..skipping(b"n") };
    assert_eq!(upload(&house, elsewhere, b"n").await.expect("written").skipped(), pb::Skipped::Unspecified);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_overwritten_only_on_the_condition_asked_for() {
    use pb::OverwriteIf::*;
    let house = support::start().await;
    let modified = 1_700_000_000;
    for (n, (condition, size, seconds, met)) in [
        (Newer, 5, modified + 1, true),
        (Newer, 5, modified, false),
        (Newer, 5, modified - 1, false),
        (SizeDiffers, 5, 0, false),
        (SizeDiffers, 6, 0, true),
        (Larger, 6, 0, true),
        (Larger, 5, 0, false),
        (Larger, 4, 0, false),
        (Smaller, 4, 0, true),
        (Smaller, 5, 0, false),
        (Always, 5, 0, true),
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("/{n}");
        let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let there = pb::UploadSpec { client_modified: time(modified), ..spec(&path) };
        let there = upload(&house, there, b"12345").await.expect("there");
        let bytes = noise(size, 9);
        let over = pb::UploadSpec {
            write_mode: pb::WriteMode::Overwrite.into(),
            overwrite_if: condition.into(),
            total_size: Some(size as i64),
            client_modified: (seconds > 0).then(|| time(seconds)).flatten(),
            ..spec(&path)
        };
        let before = uploads(&house);
        let answer = upload(&house, over, &bytes).await.expect("an answer");
        assert_eq!(answer.state(), pb::UploadState::Committed);
        let what = format!("{condition:?} {size} {seconds}");
        if met {
            assert_eq!(answer.skipped(), pb::Skipped::Unspecified, "{what}");
            assert!(house.control().read(None, &path).as_deref() == Some(&bytes), "{what}");
        } else {
            assert_eq!(answer.skipped(), pb::Skipped::Condition, "{what}");
            assert_eq!(uploads(&house), before, "{what}: nothing is sent");
            assert_eq!(file_of(answer.item.as_ref()).rev, file_of(there.item.as_ref()).rev);
        }
    }
    let missing = pb::UploadSpec {
        write_mode: pb::WriteMode::Overwrite.into(),
        overwrite_if: Larger.into(),
        total_size: Some(1),
        ..spec("/nothing-there")
    };
    assert_eq!(upload(&house, missing, b"x").await.expect("written").skipped(), pb::Skipped::Unspecified);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_between_look_and_commit_is_a_revision_conflict() {
    let house = support::start().await;
    upload(&house, spec("/raced"), b"12345").await.expect("there");
    let over = pb::UploadSpec {
        write_mode: pb::WriteMode::Overwrite.into(),
        overwrite_if: pb::OverwriteIf::Larger.into(),
        total_size: Some(6),
        ..spec("/raced")
    };
    let mut racing = OpenUpload::begin(&house, over).await;
    assert!(racing.send(chunk(b"123")).await);
    until("the target was looked at", || async { house.control().counter("files/get_metadata").good > 0 }).await;
    let seed = Seed { files: vec![SeedFile::text("/raced", "somebody else's")], ..Seed::default() };
    house.control().seed(&seed).expect("seed");
    assert!(racing.send(chunk(b"456")).await);
    assert!(racing.send(finish()).await);
    let refused = racing.answer().await.expect_err("it changed");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Aborted, "REVISION_CONFLICT"));
    assert_eq!(fact(&refused, "currentSize").as_deref(), Some("15"));
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_need_the_field_they_compare() {
    let house = support::start().await;
    let over = |condition: pb::OverwriteIf, change: fn(&mut pb::UploadSpec)| {
        let mut spec = pb::UploadSpec {
            write_mode: pb::WriteMode::Overwrite.into(),
            overwrite_if: condition.into(),
            ..spec("/c")
        };
        change(&mut spec);
        spec
    };
    for spec in [
        over(pb::OverwriteIf::Newer, |_| {}),
        over(pb::OverwriteIf::Larger, |_| {}),
        over(pb::OverwriteIf::Smaller, |spec| spec.client_modified = Some(prost_types::Timestamp::default())),
        over(pb::OverwriteIf::SizeDiffers, |spec| {
            spec.total_size = Some(1);
            spec.write_mode = pb::WriteMode::Add.into();
        }),
    ] {
        let refused = upload(&house, spec, b"x").await.expect_err("incomplete");
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
    }
    assert_eq!(uploads(&house), 0);
}
