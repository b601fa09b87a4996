//! Uploads with sessions of their own, whose commits meet at the gate.

use std::time::Duration;

use sqlx::{Connection as _, SqliteConnection};
use tonic::Code;

use super::*;
use crate::support::{self, victim::start_request};

const APPEND_ONE: &str = "files/upload_session/append_v2";
const FINISH_ONE: &str = "files/upload_session/finish";

async fn started(house: &House, spec: pb::UploadSpec) -> String {
    house.client().start_upload(start_request(spec)).await.expect("a session").into_inner().upload_id
}

/// Uploads whose bytes are all there, as the store knows them.
async fn ready(house: &House) -> i64 {
    let mut store = SqliteConnection::connect(&house.config().store_url).await.expect("the store");
    let ready = sqlx::query_scalar("SELECT COUNT(*) FROM uploads WHERE state = 'ready'");
    ready.fetch_one(&mut store).await.expect("a count")
}

/// Brings the bytes of a started upload and asks for its commit.
fn finishing(house: &Arc<House>, upload_id: &str, bytes: &[u8]) -> JoinHandle<Uploaded> {
    let (house, frames) = (house.clone(), vec![Frame::ResumeUploadId(upload_id.into()), chunk_at(0, bytes), finish()]);
    tokio::spawn(async move { upload_frames(&house, frames).await })
}

/// All of them wait at the gate with nothing but their commits missing.
async fn waiting(
    house: &Arc<House>,
    specs: Vec<pb::UploadSpec>,
    bytes: &[u8],
) -> (Vec<String>, Vec<JoinHandle<Uploaded>>) {
    let control = house.control();
    let (mut ids, mut uploads) = (Vec::new(), Vec::new());
    for spec in specs {
        ids.push(started(house, spec).await);
    }
    for id in &ids {
        uploads.push(finishing(house, id, bytes));
    }
    until("their bytes are at Dropbox", async || control.counter(APPEND_ONE).good == ids.len() as u64).await;
    // The last answers have to be written down, which takes as long as the disk does.
    until("it is known that they are", async || ready(house).await == ids.len() as i64).await;
    settle(house).await;
    (ids, uploads)
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_meet_at_the_gate_are_one_commit_and_one_that_is_refused_fails_alone() {
    let house = Arc::new(support::start().await);
    let bytes = noise(2000, 1);
    send(&house, spec("/taken"), b"another's").await.expect("there before");
    let before = (house.control().counter(FINISH_ONE).calls, house.control().counter(FINISH).calls);
    let held = Held::by(&house).await;
    let mut specs: Vec<_> = (0..11).map(|n| spec(&format!("/{n}"))).collect();
    specs.insert(5, spec("/taken"));
    let (ids, uploads) = waiting(&house, specs, &bytes).await;
    held.let_go().await;
    for (n, answer) in all(uploads).await.iter().enumerate() {
        match n {
            5 => assert_eq!(reason(answer.as_ref().expect_err("taken")), "PATH_CONFLICT"),
            _ => is_committed(answer, &bytes),
        }
    }
    let control = house.control();
    let commits = (control.counter(FINISH_ONE).calls - before.0, control.counter(FINISH).calls - before.1);
    assert_eq!(commits, (0, 1), "one request for twelve");
    nobody_met_contention(&house);
    // Each is committed for good, by whichever of them had the turn.
    let again = upload_frames(&house, vec![Frame::ResumeUploadId(ids[0].clone()), finish()]).await;
    is_committed(&again, &bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_before_the_turn_commits_nothing_and_finishes_later() {
    let house = Arc::new(support::start().await);
    let bytes = noise(2000, 2);
    let held = Held::by(&house).await;
    let (ids, mut uploads) = waiting(&house, ["/0", "/1", "/2", "/3"].map(spec).into(), &bytes).await;
    // The first stands at the gate before the others: those go without it all the same.
    for gone in [uploads.remove(0), uploads.remove(1)] {
        gone.abort();
        let _ = gone.await;
    }
    settle(&house).await;
    held.let_go().await;
    all(uploads).await.iter().for_each(|answer| is_committed(answer, &bytes));
    for (path, there) in [("/0", false), ("/1", true), ("/2", false), ("/3", true)] {
        assert_eq!(house.control().read(None, path).is_some(), there, "{path}");
    }
    for (n, path) in [(0, "/0"), (2, "/2")] {
        is_committed(&upload_frames(&house, vec![Frame::ResumeUploadId(ids[n].clone()), finish()]).await, &bytes);
        assert_eq!(house.control().read(None, path), Some(bytes.clone()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_comes_before_the_turn_is_told_as_such_and_leaves_the_upload_ready() {
    let house = Arc::new(support::start().await);
    let bytes = noise(2000, 3);
    let held = Held::by(&house).await;
    let id = started(&house, spec("/late")).await;
    let mut stream = OpenUpload::within(&house, Duration::from_secs(5));
    for frame in [Frame::ResumeUploadId(id.clone()), chunk_at(0, &bytes), finish()] {
        assert!(stream.send(frame).await);
    }
    let late = stream.answer().await.expect_err("too late");
    assert_eq!((late.code(), fact(&late, "sent").as_deref()), (Code::DeadlineExceeded, Some("false")), "{late:?}");
    held.let_go().await;
    settle(&house).await;
    assert_eq!(house.control().read(None, "/late"), None);
    is_committed(&upload_frames(&house, vec![Frame::ResumeUploadId(id), finish()]).await, &bytes);
}
