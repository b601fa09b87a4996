//! `UploadFileDuplex`: the same upload with answers on the way.

use std::time::Instant;

use dropbox_connector::api::v1::{self as pb, upload_file_duplex_response::Payload, upload_file_request::Frame};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::support::{self, streams::*, *};

async fn rest(mut answers: Streaming<pb::UploadFileDuplexResponse>) -> Result<Vec<Payload>, Status> {
    let mut all = Vec::new();
    while let Some(answer) = answers.message().await? {
        all.push(answer.payload.expect("a payload"));
    }
    Ok(all)
}

async fn duplex(house: &House, frames: Vec<Frame>) -> Result<Vec<Payload>, Status> {
    let requests = tokio_stream::iter(duplex_requests(frames));
    rest(house.client().upload_file_duplex(requests).await?.into_inner()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn accepted_comes_first_then_progress_that_never_goes_back_then_the_result() {
    let house = support::start().await;
    let bytes = noise(64 * MIB, 1);
    let answers = duplex(&house, frames(spec("/duplex"), &bytes)).await.expect("uploaded");
    let Some((Payload::Accepted(accepted), behind)) = answers.split_first() else { panic!("accepted comes first") };
    assert_eq!(accepted.persisted_offset, 0);
    let Some((Payload::Result(result), progress)) = behind.split_last() else { panic!("the result comes last") };
    assert_eq!((result.state(), result.content_hash.clone()), (pb::UploadState::Committed, content_hash(&bytes)));
    let mut last = (0, 0);
    assert!(!progress.is_empty());
    for payload in progress {
        let Payload::Progress(now) = payload else { panic!("{payload:?} in the middle") };
        assert!(now.received_offset >= last.0 && now.persisted_offset >= last.1, "{now:?} behind {last:?}");
        assert!(now.persisted_offset <= now.received_offset);
        last = (now.received_offset, now.persisted_offset);
    }
    assert!(progress.iter().any(|p| matches!(p, Payload::Progress(p) if !p.upload_id.is_empty())));
    assert!(house.control().read(None, "/duplex").as_deref() == Some(&bytes));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_received_moves_with_the_chunks_and_is_told_no_more_often_than_every_quarter_of_a_second() {
    const STEP: usize = 64 * 1024;
    let house = support::start().await;
    let bytes = noise(6 * MIB, 6);
    let (frames_in, receiver) = mpsc::channel(4);
    let mut answers =
        house.client().upload_file_duplex(ReceiverStream::new(receiver)).await.expect("open").into_inner();
    frames_in.send(duplex_request(true, Frame::Spec(spec("/follow")))).await.expect("room");
    let first = answers.message().await.expect("an answer").and_then(|answer| answer.payload);
    assert!(matches!(first, Some(Payload::Accepted(_))), "{first:?}");

    // Each is told before the next is sent: long before there is enough for an append.
    for (n, data) in bytes.chunks(STEP).take(4).enumerate() {
        frames_in.send(duplex_request(false, chunk(data))).await.expect("room");
        let answer = tokio::time::timeout(PATIENCE, answers.message()).await.expect("told in time").expect("no end");
        let Some(Payload::Progress(now)) = answer.and_then(|answer| answer.payload) else { panic!("progress") };
        assert_eq!((now.received_offset, now.persisted_offset), (((n + 1) * STEP) as i64, 0));
    }
    assert_eq!(house.control().counter("files/upload_session/append_v2").calls, 0);

    let begun = Instant::now();
    for data in bytes[4 * STEP..].chunks(1024) {
        frames_in.send(duplex_request(false, chunk(data))).await.expect("room");
    }
    frames_in.send(duplex_request(false, finish())).await.expect("room");
    drop(frames_in);
    let answers = rest(answers).await.expect("uploaded");
    let most = begun.elapsed().as_millis() / 250 + 2;
    assert!(answers.len() as u128 <= most + 1, "{} messages, at most {most} and the result", answers.len());
    assert!(matches!(answers.last(), Some(Payload::Result(result)) if result.content_hash == content_hash(&bytes)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_reads_nothing_until_it_has_sent_everything_does_not_deadlock() {
    let house = support::start().await;
    let bytes = noise(64 * MIB, 2);
    let (frames_in, receiver) = mpsc::channel(1);
    let answers = house.client().upload_file_duplex(ReceiverStream::new(receiver)).await.expect("open").into_inner();
    let sending = async {
        for (n, frame) in frames(spec("/unread"), &bytes).into_iter().enumerate() {
            frames_in.send(duplex_request(n == 0, frame)).await.expect("the server reads on");
        }
        drop(frames_in);
    };
    tokio::time::timeout(PATIENCE, sending).await.expect("all was sent though nothing was read");
    let answers = rest(answers).await.expect("uploaded");
    assert!(matches!(answers.last(), Some(Payload::Result(result)) if result.verified));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_may_wait_for_accepted_before_it_sends_and_for_the_result_before_it_closes() {
    let house = support::start().await;
    let (frames_in, receiver) = mpsc::channel(4);
    let client = house.client();
    frames_in.send(duplex_request(true, Frame::Spec(spec("/polite")))).await.expect("room");
    let mut answers =
        client.clone().upload_file_duplex(ReceiverStream::new(receiver)).await.expect("open").into_inner();
    let first = answers.message().await.expect("an answer").and_then(|answer| answer.payload);
    assert!(matches!(first, Some(Payload::Accepted(_))), "{first:?}");
    frames_in.send(duplex_request(false, chunk(b"after you"))).await.expect("room");
    frames_in.send(duplex_request(false, finish())).await.expect("room");
    // Not half-closed: the result comes all the same.
    let answers = rest(answers).await.expect("the end");
    assert!(matches!(answers.last(), Some(Payload::Result(result)) if result.state() == pb::UploadState::Committed));
    assert_eq!(house.control().read(None, "/polite").as_deref(), Some(&b"after you"[..]));
    drop(frames_in);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_duplex_is_told_where_to_go_on() {
    let house = support::start().await;
    let bytes = noise(13 * MIB, 3);
    let mut half = frames(spec("/again"), &bytes[..9 * MIB]);
    half.pop();
    let answers = duplex(&house, half).await.expect("half-closed");
    let Some(Payload::Result(open)) = answers.last() else { panic!("a result") };
    assert_eq!((open.state(), open.persisted_offset), (pb::UploadState::Open, 8 * MIB as i64));
    let answers = duplex(&house, resume_frames(&open.upload_id, &bytes, 8 * MIB)).await.expect("resumed");
    let Some(Payload::Accepted(accepted)) = answers.first() else { panic!("accepted comes first") };
    assert_eq!((accepted.persisted_offset, &accepted.upload_id), (8 * MIB as i64, &open.upload_id));
    assert!(house.control().read(None, "/again").as_deref() == Some(&bytes));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duplex_on_a_committed_upload_is_accepted_before_it_is_told_the_result() {
    let house = support::start().await;
    let bytes = noise(9 * MIB, 4);
    let answer = upload(&house, spec("/done"), &bytes).await.expect("uploaded");
    assert!(!answer.upload_id.is_empty());
    let answers = duplex(&house, resume_frames(&answer.upload_id, &[], 0)).await.expect("committed before");
    let [Payload::Accepted(accepted), .., Payload::Result(result)] = &answers[..] else { panic!("{answers:?}") };
    assert_eq!((accepted.persisted_offset, &accepted.upload_id), (bytes.len() as i64, &answer.upload_id));
    assert_eq!(result.state(), pb::UploadState::Committed);
}

/// Check 25 of the design at its full size.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make test-long"]
async fn five_hundred_mebibytes_go_up_though_nothing_is_read_until_all_is_sent() {
    let options = dropbox_connector::emulator::Options { contents_on_disk: true, ..Default::default() };
    let house = support::start_bare(options, |_| {}).await;
    house.make_parameter(PARAMETER, |_| {}).await;
    let piece = noise(5 * MIB, 5);
    let expected = content_hash(&piece.repeat(100));
    let (frames_in, receiver) = mpsc::channel(1);
    let answers = house.client().upload_file_duplex(ReceiverStream::new(receiver)).await.expect("open").into_inner();
    let sending = async {
        frames_in.send(duplex_request(true, Frame::Spec(spec("/large")))).await.expect("the server reads on");
        for data in (0..100).flat_map(|_| piece.chunks(MIB)) {
            frames_in.send(duplex_request(false, chunk(data))).await.expect("the server reads on");
        }
        frames_in.send(duplex_request(false, finish())).await.expect("the server reads on");
        drop(frames_in);
    };
    tokio::time::timeout(10 * PATIENCE, sending).await.expect("all was sent though nothing was read");
    let answers = rest(answers).await.expect("uploaded");
    let Some(Payload::Result(result)) = answers.last() else { panic!("a result") };
    assert_eq!((result.verified, &result.content_hash), (true, &expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duplex_keeps_the_same_rules() {
    let house = support::start().await;
    for (frames, code, expected) in [
        (vec![], Code::InvalidArgument, "FRAME_ORDER"),
        (vec![chunk(b"a")], Code::InvalidArgument, "FRAME_ORDER"),
        (vec![Frame::Spec(spec("/r")), Frame::Spec(spec("/r"))], Code::InvalidArgument, "FRAME_ORDER"),
        (vec![Frame::Spec(spec("/r")), chunk(b"a"), chunk_at(5, b"b")], Code::OutOfRange, "OFFSET_GAP"),
        (vec![Frame::Spec(spec("/a/../b"))], Code::InvalidArgument, "MALFORMED_PATH"),
        (vec![Frame::Spec(spec("/r")), chunk(&noise(5 * MIB, 1))], Code::InvalidArgument, "CHUNK_TOO_LARGE"),
    ] {
        let refused = duplex(&house, frames).await.expect_err(expected);
        assert_eq!((refused.code(), reason(&refused).as_str()), (code, expected));
    }
    assert_eq!(house.control().counter("files/upload").calls, 0);
    let skipping = pb::UploadSpec { skip_if_identical: true, content_hash: content_hash(b"x"), ..spec("/s") };
    upload(&house, spec("/s"), b"x").await.expect("there");
    let answers = duplex(&house, vec![Frame::Spec(skipping)]).await.expect("skipped");
    let [Payload::Accepted(_), Payload::Result(result)] = &answers[..] else { panic!("{answers:?}") };
    assert_eq!(result.skipped(), pb::Skipped::Identical);
}
