//! Uploads whose caller has no more time, and uploads that find no room.

use std::time::Duration;

use dropbox_connector::{
    api::v1::{self as pb, upload_file_duplex_response::Payload, upload_file_request::Frame},
    emulator::script::{Action, Rule},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};

use crate::support::{self, streams::*, *};

const APPEND: &str = "files/upload_session/append_v2";
const FINISH: &str = "files/upload_session/finish";
/// Time enough for a busy machine to read what is sent.
const TIME: Duration = Duration::from_secs(8);

/// What every upload says that its caller's deadline cut off before the commit: where to go on.
#[track_caller]
fn goes_on(ended: &Status) -> (String, usize) {
    assert_eq!((ended.code(), reason(ended).as_str()), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"), "{ended:?}");
    assert_eq!(fact(ended, "sent").as_deref(), Some("false"));
    assert_eq!(retry_delay(ended), Some(Duration::ZERO), "it may be resumed");
    let persisted = fact(ended, "persistedOffset").expect("where to go on").parse().expect("a number");
    (fact(ended, "uploadId").expect("a handle"), persisted)
}

async fn resumed(house: &House, upload_id: &str, bytes: &[u8], from: usize, path: &str) {
    let answer = upload_frames(house, resume_frames(upload_id, bytes, from)).await.expect("resumed");
    assert_eq!((answer.content_hash, answer.verified), (content_hash(bytes), true));
    assert!(house.control().read(None, path).as_deref() == Some(bytes), "{path}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_in_a_stalled_upload_tells_the_handle_and_where_to_go_on() {
    let house = support::start().await;
    let bytes = noise(17 * MIB + 3, 1);
    let stalled = async |appends: i32| {
        let path = format!("/stalled{appends}");
        let mut stream = OpenUpload::within(&house, TIME);
        let spec = pb::UploadSpec { parallel_appends: appends, ..spec(&path) };
        assert!(stream.send(Frame::Spec(spec)).await);
        assert!(stream.send_range(&bytes, 0, 9 * MIB).await);
        let ended = stream.early_answer().await.expect_err("no more time");
        let (upload_id, persisted) = goes_on(&ended);
        assert_eq!(persisted, 8 * MIB, "whole blocks");
        resumed(&house, &upload_id, &bytes, persisted, &path).await;
    };
    tokio::join!(stalled(1), stalled(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_costs_less_than_a_block_of_what_was_read() {
    let house = support::start().await;
    let bytes = noise(17 * MIB + 3, 5);
    // In the first part, before there is a session; in a later one of one lane, and of several.
    let stalled = async |appends: i32, read: usize, kept: usize| {
        let path = format!("/kept{appends}-{read}");
        let mut stream = OpenUpload::within(&house, TIME + TIME / 2);
        assert!(stream.send(Frame::Spec(pb::UploadSpec { parallel_appends: appends, ..spec(&path) })).await);
        assert!(stream.send_range(&bytes, 0, read * MIB).await);
        let (upload_id, persisted) = goes_on(&stream.early_answer().await.expect_err("no more time"));
        assert_eq!(persisted, kept * MIB, "{path}");
        let status = upload_status(&house, &upload_id).await.expect("status");
        assert_eq!(status.persisted_offset, persisted as i64, "{path}: what was told is what is there");
        resumed(&house, &upload_id, &bytes, persisted, &path).await;
    };
    tokio::join!(stalled(0, 5, 4), stalled(1, 13, 12), stalled(4, 15, 12));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_while_dropbox_stalls_tells_what_is_there_and_nothing_is_lost() {
    let house = support::start().await;
    house.control().script([Rule::nth(APPEND, 2, Action::Stall)]).expect("script");
    let bytes = noise(17 * MIB + 3, 2);
    let mut stream = OpenUpload::within(&house, TIME);
    assert!(stream.send(Frame::Spec(pb::UploadSpec { parallel_appends: 1, ..spec("/line") })).await);
    assert!(stream.send_range(&bytes, 0, bytes.len()).await);
    assert!(stream.send(finish()).await);
    let (upload_id, persisted) = goes_on(&stream.early_answer().await.expect_err("no more time"));
    assert_eq!(persisted, 8 * MIB);
    resumed(&house, &upload_id, &bytes, persisted, "/line").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_in_a_duplex_upload_tells_the_same() {
    let house = support::start().await;
    let bytes = noise(17 * MIB, 3);
    let (frames_in, receiver) = mpsc::channel(1);
    let mut request = Request::new(ReceiverStream::new(receiver));
    request.set_timeout(TIME);
    let mut answers = house.client().upload_file_duplex(request).await.expect("open").into_inner();
    for (n, frame) in frames(spec("/duplex"), &bytes[..9 * MIB]).into_iter().take(10).enumerate() {
        frames_in.send(duplex_request(n == 0, frame)).await.expect("the server reads on");
    }
    let ended = loop {
        match answers.message().await {
            Ok(Some(answer)) => assert!(!matches!(answer.payload, Some(Payload::Result(_))), "{answer:?}"),
            Ok(None) => panic!("no status"),
            Err(status) => break status,
        }
    };
    let (upload_id, persisted) = goes_on(&ended);
    assert_eq!(persisted, 8 * MIB);
    resumed(&house, &upload_id, &bytes, persisted, "/duplex").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_behind_the_commit_says_that_it_was_sent_and_its_outcome_is_found() {
    let house = support::start().await;
    house.control().script([Rule::once(FINISH, Action::DelayAnswer { millis: 9000 })]).expect("script");
    let bytes = noise(9 * MIB, 4);
    let mut stream = OpenUpload::within(&house, Duration::from_secs(8));
    // Even where a second file might be written: the first commit's own answer tells.
    assert!(stream.send(Frame::Spec(pb::UploadSpec { autorename: true, ..spec("/sent") })).await);
    assert!(stream.send_range(&bytes, 0, bytes.len()).await);
    assert!(stream.send(finish()).await);
    let ended = stream.answer().await.expect_err("no more time");
    assert_eq!((ended.code(), reason(&ended).as_str()), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"), "{ended:?}");
    assert_eq!((fact(&ended, "sent").as_deref(), retry_delay(&ended)), (Some("true"), None));
    let upload_id = fact(&ended, "uploadId").expect("a handle");
    let status = upload_status(&house, &upload_id).await.expect("status");
    assert_eq!(status.state(), pb::UploadState::Committed, "the commit went on without its caller");
    assert_eq!(house.control().counter(FINISH).calls, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_find_no_room_are_told_to_come_back_and_those_that_wait_are_let_in() {
    let house = support::start_with(|config| {
        config.max_uploads = 1;
        config.transfer_buffer_mib = 64;
    })
    .await;
    let mut open = OpenUpload::begin(&house, spec("/open")).await;
    assert!(open.send_range(&noise(9 * MIB, 1), 0, 9 * MIB).await);
    until("it is let in", || async { house.control().counter(APPEND).good > 0 }).await;
    // An eighth of the budget pays for those that wait: 8 MiB for six windows with what came along, and one application
    // parameter alone leaves some of that to others.
    let mut others = Vec::new();
    for n in 0..12 {
        others.push(OpenUpload::begin(&house, spec(&format!("/waits/{n}"))).await);
    }
    until("seven are refused", || async { others.iter().filter(|stream| stream.is_answered()).count() == 7 }).await;
    let (refused, waiting): (Vec<_>, Vec<_>) = others.into_iter().partition(OpenUpload::is_answered);
    for mut stream in refused {
        let busy = stream.early_answer().await.expect_err("no room");
        assert_eq!((busy.code(), reason(&busy).as_str()), (Code::ResourceExhausted, "CONNECTOR_BUSY"));
        assert_eq!(fact(&busy, "limit").as_deref(), Some("transfer_buffer_mib"));
        assert!(retry_delay(&busy).is_some());
    }
    // Who says that it brings little finds room.
    let small = pb::UploadSpec { total_size: Some(1), ..spec("/small") };
    let small = tokio::spawn(upload_by(house.client(), vec![Frame::Spec(small), chunk(b"x"), finish()]));
    assert!(open.send(finish()).await);
    assert_eq!(open.answer().await.expect("committed").state(), pb::UploadState::Committed);
    // In whatever turn they are let in.
    let ends = waiting.into_iter().map(|mut stream| async {
        assert!(stream.send(chunk(b"waited")).await && stream.send(finish()).await);
        stream.answer().await.expect("let in").state()
    });
    assert_eq!(futures::future::join_all(ends).await, [pb::UploadState::Committed; 5]);
    small.await.expect("no panic").expect("let in");
}

async fn upload_by(
    mut client: pb::dropbox_connector_client::DropboxConnectorClient<tonic::transport::Channel>,
    frames: Vec<Frame>,
) -> Result<pb::UploadFileResponse, Status> {
    client.upload_file(tokio_stream::iter(requests(frames))).await.map(tonic::Response::into_inner)
}
