//! Every cell of the table of write modes, in the lane of one request and in that of a session.

use dropbox_connector::{api::v1 as pb, emulator::control::Seed};
use tonic::{Code, Status};

use crate::support::{self, streams::*, *};

#[derive(Debug, Clone, Copy, PartialEq)]
enum There {
    Nothing,
    Same,
    Other,
    Folder,
    /// A file is where a parent should be.
    Ancestor,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    Add,
    Overwrite,
    Current,
    Stale,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Outcome {
    /// At the path, with a revision that was not there before.
    Written,
    /// OK, and the revision is the one that was there.
    Kept,
    /// Under another name, which holds this.
    Named(&'static str),
    /// `ALREADY_EXISTS/PATH_CONFLICT` with this `conflictKind`.
    Conflict(&'static str),
    /// `ABORTED/REVISION_CONFLICT`.
    Changed,
}

use Mode::*;
use Outcome::*;
use There::*;

const PLAIN: (bool, bool) = (false, false);
const STRICT: (bool, bool) = (true, false);
const RENAME: (bool, bool) = (false, true);

/// What is there, the mode, (strict_conflict, autorename), what comes of it.
const TABLE: [(There, Mode, (bool, bool), Outcome); 33] = [
    (Nothing, Add, PLAIN, Written),
    (Nothing, Add, STRICT, Written),
    (Nothing, Add, RENAME, Written),
    (Nothing, Overwrite, PLAIN, Written),
    (Nothing, Stale, PLAIN, Written),
    (Nothing, Stale, STRICT, Changed),
    (Same, Add, PLAIN, Kept),
    (Same, Add, STRICT, Conflict("file")),
    (Same, Add, RENAME, Kept),
    (Same, Overwrite, PLAIN, Kept),
    (Same, Overwrite, RENAME, Kept),
    (Same, Current, PLAIN, Kept),
    (Same, Stale, PLAIN, Kept),
    (Same, Stale, STRICT, Changed),
    (Same, Stale, RENAME, Kept),
    (Other, Add, PLAIN, Conflict("file")),
    (Other, Add, STRICT, Conflict("file")),
    (Other, Add, RENAME, Named("(1)")),
    (Other, Overwrite, PLAIN, Written),
    (Other, Overwrite, RENAME, Written),
    (Other, Current, PLAIN, Written),
    (Other, Current, STRICT, Written),
    (Other, Stale, PLAIN, Changed),
    (Other, Stale, STRICT, Changed),
    (Other, Stale, RENAME, Named("conflicted copy")),
    (Folder, Add, PLAIN, Conflict("folder")),
    (Folder, Add, RENAME, Named("(1)")),
    (Folder, Overwrite, PLAIN, Conflict("folder")),
    (Folder, Overwrite, RENAME, Named("(1)")),
    (Folder, Stale, PLAIN, Conflict("folder")),
    (Ancestor, Add, PLAIN, Conflict("file_ancestor")),
    (Ancestor, Overwrite, PLAIN, Conflict("file_ancestor")),
    (Ancestor, Stale, PLAIN, Conflict("file_ancestor")),
];

/// Puts things where they should be; gives the path, a stale rev and the current one.
async fn prepared(house: &House, folder: &str, there: There, bytes: &[u8]) -> (String, String, String) {
    let path = format!("{folder}/f.bin");
    let nobody_s = "0123456789abcdef".to_owned();
    match there {
        Nothing => {}
        Folder => house.control().seed(&Seed { folders: vec![path.clone()], ..Seed::default() }).expect("seed"),
        Ancestor => {
            upload(house, spec(folder), b"a file").await.expect("a file for a parent");
        }
        Same | Other => {
            let first = upload(house, spec(&path), b"first").await.expect("first");
            let second = pb::UploadSpec { write_mode: pb::WriteMode::Overwrite.into(), ..spec(&path) };
            let second = upload(house, second, if there == Same { bytes } else { b"second" }).await.expect("second");
            let rev = |answer: &pb::UploadFileResponse| file_of(answer.item.as_ref()).rev.clone();
            return (path, rev(&first), rev(&second));
        }
    }
    (path, nobody_s.clone(), nobody_s)
}

#[track_caller]
fn check_conflict(what: &str, refused: &Status, kind: &str) {
    assert_eq!((refused.code(), reason(refused).as_str()), (Code::AlreadyExists, "PATH_CONFLICT"), "{what}");
    assert_eq!(fact(refused, "conflictKind").as_deref(), Some(kind), "{what}");
    assert!(retry_delay(refused).is_none(), "{what}");
}

async fn every_cell(size: usize) {
    let house = support::start().await;
    let bytes = noise(size, 1);
    for (n, (there, mode, (strict, autorename), expected)) in TABLE.into_iter().enumerate() {
        let what = format!("{there:?} {mode:?} strict={strict} autorename={autorename}, {size} bytes");
        let (path, stale, current) = prepared(&house, &format!("/{n}"), there, &bytes).await;
        let before = house.control().read(None, &path);
        let spec = pb::UploadSpec {
            write_mode: match mode {
                Add => pb::WriteMode::Add,
                Overwrite => pb::WriteMode::Overwrite,
                Current | Stale => pb::WriteMode::Update,
            }
            .into(),
            expected_rev: match mode {
                Current => current.clone(),
                Stale => stale.clone(),
                _ => String::new(),
            },
            strict_conflict: strict,
            autorename,
            ..spec(&path)
        };
        let outcome = upload(&house, spec, &bytes).await;
        let after = house.control().read(None, &path);
        match (expected, outcome) {
            (Written, Ok(answer)) => {
                let file = file_of(answer.item.as_ref());
                assert!(file.rev != current && file.rev != stale, "{what}");
                assert_eq!(answer.item.as_ref().map(|item| item.name.as_str()), Some("f.bin"), "{what}");
                assert!(after.as_deref() == Some(&bytes), "{what}");
            }
            (Kept, Ok(answer)) => {
                assert_eq!(file_of(answer.item.as_ref()).rev, current, "{what}");
                assert!(after == before, "{what}");
            }
            (Named(part), Ok(answer)) => {
                let item = answer.item.expect("an item");
                assert!(item.name != "f.bin" && item.name.contains(part), "{what}: {}", item.name);
                let renamed = house.control().read(None, &format!("/{n}/{}", item.name));
                assert!(renamed.as_deref() == Some(&bytes) && after == before, "{what}");
            }
            (Conflict(kind), Err(refused)) => {
                check_conflict(&what, &refused, kind);
                assert!(after == before, "{what}");
            }
            (Changed, Err(refused)) => {
                assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Aborted, "REVISION_CONFLICT"), "{what}");
                assert!(retry_delay(&refused).is_none(), "{what}");
                let told = fact(&refused, "currentRev");
                assert_eq!(told, (there != Nothing).then_some(current), "{what}");
                if let Some(before) = &before {
                    assert_eq!(fact(&refused, "currentSize"), Some(before.len().to_string()), "{what}");
                    assert_eq!(fact(&refused, "currentContentHash"), Some(content_hash(before)), "{what}");
                }
                assert!(after == before, "{what}");
            }
            (expected, outcome) => panic!("{what}: {expected:?}, but {outcome:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_cell_of_the_table_holds_for_a_file_in_one_request() {
    every_cell(1000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_cell_of_the_table_holds_for_a_file_in_a_session() {
    every_cell(2 * BLOCK + 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_failed_keeps_its_bytes_and_is_tried_again_by_finish_alone() {
    let house = support::start().await;
    let bytes = noise(9 * MIB, 2);
    house.control().seed(&Seed { folders: vec!["/taken".into()], ..Seed::default() }).expect("seed");
    let refused = upload(&house, spec("/taken"), &bytes).await.expect_err("a folder is there");
    check_conflict("session", &refused, "folder");
    assert_eq!(fact(&refused, "persistedOffset"), Some(bytes.len().to_string()));
    let upload_id = fact(&refused, "uploadId").expect("the bytes are kept");
    let status = upload_status(&house, &upload_id).await.expect("status");
    assert_eq!((status.state(), status.persisted_offset), (pb::UploadState::Ready, bytes.len() as i64));
    let remove = pb::DeleteItemRequest {
        application_parameter_id: PARAMETER.into(),
        path: "/taken".into(),
        kind: pb::ItemKind::Folder.into(),
        ..Default::default()
    };
    house.client().delete_item(remove).await.expect("deleted");
    let sent = house.control().counter("files/upload_session/append_v2").bytes_in;
    let answer = upload_frames(&house, resume_frames(&upload_id, &[], 0)).await.expect("committed");
    assert_eq!((answer.state(), answer.content_hash), (pb::UploadState::Committed, content_hash(&bytes)));
    assert_eq!(house.control().counter("files/upload_session/append_v2").bytes_in, sent, "nothing is sent again");
    assert!(house.control().read(None, "/taken").as_deref() == Some(&bytes));
    let status = upload_status(&house, &upload_id).await.expect("status");
    assert_eq!(status.state(), pb::UploadState::Committed);
    assert_eq!(file_of(status.item.as_ref()).rev, file_of(answer.item.as_ref()).rev);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_account_is_told_as_quota_and_the_bytes_are_kept() {
    let house = support::start().await;
    let bytes = noise(9 * MIB, 3);
    // In one request or through a session: Dropbox keeps the bytes either way, and `finish` alone commits them later.
    for (path, bytes) in [("/small", &bytes[..2000]), ("/large", &bytes)] {
        house.control().switch(|switches| switches.space = 1000);
        let refused = upload(&house, spec(path), bytes).await.expect_err("no space");
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::ResourceExhausted, "INSUFFICIENT_SPACE"));
        assert!(retry_delay(&refused).is_none());
        assert_eq!(fact(&refused, "persistedOffset"), Some(bytes.len().to_string()), "{path}");
        let upload_id = fact(&refused, "uploadId").expect(path);
        let status = upload_status(&house, &upload_id).await.expect("status");
        assert_eq!((status.state(), status.persisted_offset), (pb::UploadState::Ready, bytes.len() as i64), "{path}");
        house.control().switch(|switches| switches.space = 1 << 40);
        let answer = upload_frames(&house, resume_frames(&upload_id, &[], 0)).await.expect("now there is space");
        assert_eq!((answer.content_hash, answer.verified), (content_hash(bytes), true), "{path}");
        assert!(house.control().read(None, path).as_deref() == Some(bytes), "{path}");
    }
}
