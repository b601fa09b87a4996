//! A source that is not the one it was when the upload began, and a caller that means another file than is there.

use std::time::Duration;

use serde_json::json;
use tonic::Status;
use tonic_types::StatusExt as _;

use super::*;

const FINISH_BATCH: &str = "files/upload_session/finish_batch_v2";

fn finish_with(bytes: &[u8]) -> Frame {
    Frame::Finish(pb::UploadFinish { content_hash: content_hash(bytes), total_size: None })
}

/// Frames of a resumed stream that says which bytes it means.
fn meant(upload_id: &str, bytes: &[u8], from: usize, means: &[u8]) -> Vec<Frame> {
    let mut frames = resume_frames(upload_id, bytes, from);
    *frames.last_mut().expect("finish") = finish_with(means);
    frames
}

#[track_caller]
fn is_another(refused: &Status) {
    assert_eq!((refused.code(), reason(refused).as_str()), (Code::DataLoss, "CONTENT_HASH_MISMATCH"), "{refused:?}");
    assert!(retry_delay(refused).is_none() && fact(refused, "uploadId").is_none(), "{refused:?}");
}

async fn commit_as(house: &House, upload_id: &str, bytes: Option<&[u8]>) -> pb::committed_upload::Outcome {
    let content_hash = bytes.map(content_hash).unwrap_or_default();
    let items = vec![pb::UploadToCommit { upload_id: upload_id.into(), content_hash, ..Default::default() }];
    let request = pb::CommitUploadsRequest { application_parameter_id: PARAMETER.into(), items, ..Default::default() };
    let mut results = house.client().commit_uploads(request).await.expect("an answer").into_inner().results;
    results.remove(0).outcome.expect("an outcome")
}

#[track_caller]
fn is_refused(outcome: pb::committed_upload::Outcome, committed: Option<&str>) {
    let pb::committed_upload::Outcome::Failure(failure) = outcome else { panic!("another file is meant: {outcome:?}") };
    assert_eq!((failure.code, failure.reason.as_str()), (Code::DataLoss as i32, "CONTENT_HASH_MISMATCH"));
    assert_eq!(failure.facts.get("committed").map(String::as_str), committed, "{failure:?}");
}

/// Also once all of it is there: its writer may have ended behind the caller's back.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_already_may_be_sent_again_from_anywhere_but_not_less_of_it_nor_more() {
    let house = support::start().await;
    let bytes = noise(9 * MIB + 3, 9);
    for (lane, spec) in lanes("/kept", bytes.len()) {
        let spec = pb::UploadSpec { deferred_commit: true, path: format!("/{lane}"), ..spec };
        let upload_id = start_upload(&house, spec).await;
        let send = async |from: usize, to: usize, all: &[u8]| {
            let mut frames =
                vec![Frame::ResumeUploadId(upload_id.clone()), chunk_at(from, &all[from..to.min(from + MIB)])];
            frames.push(chunk_at(0, &[]));
            frames.extend(all[to.min(from + MIB)..to].chunks(MIB).map(chunk));
            frames.push(finish());
            upload_frames(&house, frames).await
        };
        for from in [0, 5, 4 * MIB, 9 * MIB] {
            let answer = send(from, bytes.len(), &bytes).await.expect(lane);
            assert_eq!((answer.state(), answer.content_hash), (pb::UploadState::Ready, content_hash(&bytes)), "{lane}");
        }
        let shorter = send(5, 6 * MIB, &bytes).await.expect_err("it ends below what is there");
        assert_eq!(reason(&shorter), "SIZE_MISMATCH", "{shorter:?}");
        let longer = send(5, bytes.len() + 1, &[&bytes[..], b"1"].concat()).await.expect_err("it is closed");
        assert_eq!(
            (reason(&longer), fact(&longer, "persistedOffset")),
            ("UPLOAD_CLOSED".into(), Some(bytes.len().to_string()))
        );
        // A stream that ended too early put it in dispute.
        is_refused(commit_as(&house, &upload_id, None).await, None);
        commit_as(&house, &upload_id, Some(&bytes)).await;
        assert!(house.control().read(None, &format!("/{lane}")).as_deref() == Some(&bytes), "{lane}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_changed_before_it_was_resumed_is_refused_before_the_commit() {
    let house = support::start().await;
    let bytes = noise(37 * MIB, 5);
    let mut changed = bytes.clone();
    changed[MIB] ^= 1;
    changed[30 * MIB] ^= 1;
    for (lane, spec) in lanes("/changed", bytes.len()) {
        let mut half = frames(spec, &bytes[..17 * MIB]);
        half.pop();
        let open = upload_frames(&house, half).await.expect("half-closed");
        let mut rest = resume_frames(&open.upload_id, &changed, 16 * MIB);
        *rest.last_mut().expect("finish") =
            Frame::Finish(pb::UploadFinish { content_hash: content_hash(&changed), total_size: None });
        let refused = upload_frames(&house, rest).await.expect_err("another source");
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::DataLoss, "CONTENT_HASH_MISMATCH"), "{lane}");
        assert!(retry_delay(&refused).is_none());
        assert_eq!(house.control().counter(FINISH).calls, 0);
        assert_eq!(house.control().read(None, "/changed"), None);
    }
}

/// Of a parallel upload what came later may be there while what came before it is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_became_shorter_than_what_was_sent_further_on_is_refused_before_the_commit() {
    let house = support::start().await;
    let bytes = noise(41 * MIB, 10);
    let upload_id =
        start_upload(&house, pb::UploadSpec { parallel_appends: 4, total_size: None, ..spec("/shorter") }).await;
    house.control().script([Rule::once(APPEND, Action::Stall)]).expect("script");
    let mut stream = OpenUpload::resume(&house, &upload_id).await;
    assert!(stream.send_range(&bytes, 0, bytes.len()).await);
    until("all but one are there", async || house.control().counter(APPEND).good == 4).await;
    stream.abandon().await;
    let mut frames = resume_frames(&upload_id, &bytes[..MIB], 0);
    // Waits until the former writer has let go.
    let refused = upload_frames(&house, frames.clone()).await.expect_err("more was sent");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "SIZE_MISMATCH"), "{refused:?}");
    assert_eq!((house.control().counter(FINISH).calls, house.control().read(None, "/shorter")), (0, None));
    // It is in dispute now, though all of it is the first source's.
    frames = resume_frames(&upload_id, &bytes, 0);
    is_another(&upload_frames(&house, frames).await.expect_err("no hash"));
    frames = meant(&upload_id, &bytes, 0, &bytes);
    assert!(upload_frames(&house, frames).await.expect("the same source").verified);
    assert!(house.control().read(None, "/shorter").as_deref() == Some(&bytes));
}

/// Two sources met in it: without a hash nobody says which of them is meant.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_stream_had_other_bytes_is_committed_by_hash_alone() {
    let house = support::start().await;
    let bytes = noise(21 * MIB, 6);
    let mut other = bytes.clone();
    other[MIB] ^= 1;
    for (lane, spec) in lanes("", bytes.len()) {
        let path = format!("/disputed-{lane}");
        let upload_id = start_upload(&house, pb::UploadSpec { path: path.clone(), ..spec }).await;
        let mut half = resume_frames(&upload_id, &bytes[..12 * MIB], 0);
        half.pop();
        upload_frames(&house, half).await.expect("half-closed");
        // A block that is there comes again as another.
        let changed = upload_frames(&house, resume_frames(&upload_id, &other, 0)).await.expect_err("another source");
        is_another(&changed);
        assert_eq!(fact(&changed, "offset").as_deref(), Some("0"));
        // From where it stands no block tells.
        for source in [&other, &bytes] {
            let bare = upload_frames(&house, resume_frames(&upload_id, source, 12 * MIB)).await.expect_err("no hash");
            is_another(&bare);
            let details = bare.get_error_details();
            assert_eq!(details.bad_request().expect("fields").field_violations[0].field, "finish.content_hash");
        }
        is_another(&upload_frames(&house, meant(&upload_id, &other, 12 * MIB, &other)).await.expect_err("a mixture"));
        let status = upload_status(&house, &upload_id).await.expect("status");
        assert_eq!((status.state(), house.control().read(None, &path)), (pb::UploadState::Open, None), "{lane}");
        let from = offset(&status);
        let answer = upload_frames(&house, meant(&upload_id, &bytes, from, &bytes)).await.expect("what was sent first");
        assert!(answer.verified && house.control().read(None, &path).as_deref() == Some(&bytes), "{lane}");
    }
}

/// A source that became shorter is known by its size, too; and who says once by hash what is meant need not say it again.
#[tokio::test(flavor = "multi_thread")]
async fn a_dispute_is_over_when_the_whole_was_proven() {
    let house = support::start().await;
    let bytes = noise(9 * MIB, 11);
    for (lane, spec) in lanes("", bytes.len()) {
        let path = format!("/over-{lane}");
        let spec = pb::UploadSpec { path: path.clone(), total_size: None, deferred_commit: true, ..spec };
        let upload_id = start_upload(&house, spec).await;
        let mut half = resume_frames(&upload_id, &bytes[..8 * MIB], 0);
        half.pop();
        upload_frames(&house, half).await.expect("half-closed");
        let size = Some(6 * MIB as i64);
        let shorter = Frame::Finish(pb::UploadFinish { content_hash: String::new(), total_size: size });
        let refused = upload_frames(&house, vec![Frame::ResumeUploadId(upload_id.clone()), shorter]).await;
        assert_eq!(reason(&refused.expect_err("more is there")), "SIZE_MISMATCH");
        is_another(&upload_frames(&house, resume_frames(&upload_id, &bytes, 8 * MIB)).await.expect_err("no hash"));
        let ready = upload_frames(&house, meant(&upload_id, &bytes, 8 * MIB, &bytes)).await.expect("proven");
        assert_eq!(ready.state(), pb::UploadState::Ready);
        // Again, of what is ready, by either handle.
        for id in [&upload_id, &ready.upload_id] {
            is_another(&upload_frames(&house, resume_frames(id, &noise(9 * MIB, 12), 0)).await.expect_err("another"));
            is_refused(commit_as(&house, id, None).await, None);
            let proven = upload_frames(&house, meant(id, &[], 0, &bytes)).await.expect("ready still");
            assert_eq!(proven.state(), pb::UploadState::Ready, "{lane}");
        }
        for again in 0..2 {
            let outcome = commit_as(&house, if again == 0 { &upload_id } else { &ready.upload_id }, None).await;
            assert!(matches!(outcome, pb::committed_upload::Outcome::Item(_)), "{lane}: {outcome:?}");
        }
        assert!(house.control().read(None, &path).as_deref() == Some(&bytes), "{lane}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stream_says_of_an_upload_that_is_ready_or_committed_is_compared_with_what_is_there() {
    let house = support::start().await;
    let bytes = noise(9 * MIB + 3, 7);
    let last = bytes.len() - 1;
    for (lane, spec) in lanes("", bytes.len()) {
        let spec = pb::UploadSpec { path: format!("/said-{lane}"), deferred_commit: true, ..spec };
        let first = start_upload(&house, spec).await;
        upload_frames(&house, resume_frames(&first, &bytes, 0)).await.expect("ready");
        for at in [5, 5 * MIB, last] {
            let mut other = bytes.clone();
            other[at] ^= 1;
            let refused = upload_frames(&house, resume_frames(&first, &other, 0)).await.expect_err("another source");
            is_another(&refused);
            assert_eq!(fact(&refused, "offset"), Some((at / (4 * MIB) * 4 * MIB).to_string()), "{lane}");
        }
        // Nobody says any more which of them is meant.
        is_another(&upload_frames(&house, resume_frames(&first, &bytes, 0)).await.expect_err("no hash"));
        is_refused(commit_as(&house, &first, None).await, None);
        let ready = upload_frames(&house, meant(&first, &bytes, 0, &bytes)).await.expect("ready still");
        let mut other = bytes.clone();
        other[last] ^= 1;
        for id in [&first, &ready.upload_id] {
            is_another(&upload_frames(&house, meant(id, &[], 0, b"other")).await.expect_err("another hash"));
            is_another(&upload_frames(&house, resume_frames(id, &other, 0)).await.expect_err("another source"));
            let Frame::Chunk(mut damaged) = chunk_at(0, &bytes[..MIB]) else { unreachable!() };
            damaged.crc32c = Some(1);
            let damaged = vec![Frame::ResumeUploadId(id.clone()), Frame::Chunk(damaged)];
            let damaged = upload_frames(&house, damaged).await.expect_err("not what it summed up");
            assert_eq!(reason(&damaged), "CHUNK_CRC_MISMATCH", "{damaged:?}");
            let unplaced = upload_frames(&house, vec![Frame::ResumeUploadId(id.clone()), chunk(b"1")]).await;
            assert_eq!(reason(&unplaced.expect_err("it does not say where")), "INVALID_FIELD");
        }
        let committed = commit_as(&house, &first, Some(&bytes)).await;
        assert!(matches!(committed, pb::committed_upload::Outcome::Item(_)), "{committed:?}");
        let sized = |size| Frame::Finish(pb::UploadFinish { content_hash: String::new(), total_size: Some(size) });
        let size = i64::try_from(bytes.len()).expect("small");
        for id in [&first, &ready.upload_id] {
            let answer = upload_frames(&house, meant(id, &bytes, 0, &bytes)).await.expect("committed before");
            assert_eq!((answer.state(), answer.verified), (pb::UploadState::Committed, true), "{lane}");
            let told = upload_frames(&house, vec![Frame::ResumeUploadId(id.clone())]).await.expect("it says nothing");
            assert_eq!(told.state(), pb::UploadState::Committed);
            let refused = upload_frames(&house, meant(id, &[], 0, b"other")).await.expect_err("another hash");
            is_another(&refused);
            assert_eq!(fact(&refused, "committed").as_deref(), Some("true"));
            assert_eq!(fact(&refused, "computedContentHash"), Some(content_hash(&bytes)));
            let refused = upload_frames(&house, vec![Frame::ResumeUploadId(id.clone()), sized(size - 1)]).await;
            let refused = refused.expect_err("another size");
            let told = (reason(&refused), fact(&refused, "committed"));
            assert_eq!(told, ("SIZE_MISMATCH".into(), Some("true".into())), "{refused:?}");
            let longer = upload_frames(&house, vec![Frame::ResumeUploadId(id.clone()), chunk_at(last, b"12")]).await;
            assert_eq!(reason(&longer.expect_err("more than there is")), "SIZE_MISMATCH");
            assert!(matches!(commit_as(&house, id, Some(&bytes)).await, pb::committed_upload::Outcome::Item(_)));
            is_refused(commit_as(&house, id, Some(b"other")).await, Some("true"));
            let again = upload_frames(&house, resume_frames(id, &other, 0)).await.expect_err("another source");
            assert_eq!(
                (reason(&again).as_str(), fact(&again, "committed").as_deref()),
                ("CONTENT_HASH_MISMATCH", Some("true"))
            );
        }
        // Who waits for the answer gets it, and does not wait long, whatever keeps its stream alive.
        let mut stream = OpenUpload::resume(&house, &first).await;
        let begun = tokio::time::Instant::now();
        while !stream.is_answered() && begun.elapsed() < Duration::from_secs(30) {
            stream.send(chunk_at(0, &[])).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(stream.is_answered());
        assert_eq!(stream.early_answer().await.expect("committed").state(), pb::UploadState::Committed);
        // Who sends is slow, perhaps, and is heard to its end.
        let mut stream = OpenUpload::resume(&house, &first).await;
        stream.send(chunk_at(8 * MIB, &bytes[8 * MIB..])).await;
        tokio::time::sleep(Duration::from_millis(2500)).await;
        assert!(!stream.is_answered());
        stream.send(finish_with(b"other")).await;
        assert_eq!(reason(&stream.answer().await.expect_err("another hash")), "CONTENT_HASH_MISMATCH");
    }
}

/// It happened, so it is written down: whoever asks again is told the same, and nobody that its end is not known.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_gave_another_file_is_told_as_that_for_good() {
    let house = support::start().await;
    let bytes = noise(9 * MIB, 8);
    let other = content_hash(b"something else");
    for (lane, spec) in lanes("", bytes.len()) {
        let path = format!("/wrong-{lane}");
        let upload_id = start_upload(&house, pb::UploadSpec { path: path.clone(), ..spec }).await;
        let entry = Action::AlterEntry { at: 0, fields: json!({ "content_hash": other }) };
        let answer = Action::Answer {
            status: 200,
            content_type: "application/json".into(),
            body: json!({
                "name": path[1..], "id": "id:a4ayc_80_OEAAAAAAAAAXw", "rev": "a1c10ce0dd78", "size": bytes.len() - 1,
                "client_modified": "2015-05-12T15:50:38Z", "server_modified": "2015-05-12T15:50:38Z",
                "path_lower": path, "path_display": path, "content_hash": other,
            })
            .to_string(),
            headers: Vec::new(),
            executed: true,
            unread: false,
        };
        house.control().script([Rule::once(FINISH_BATCH, entry), Rule::once(FINISH, answer)]).expect("script");
        let refused = upload_frames(&house, resume_frames(&upload_id, &bytes, 0)).await.expect_err("another file");
        is_another(&refused);
        assert_eq!(fact(&refused, "committed").as_deref(), Some("true"), "{lane}");
        let rev = fact(&refused, "rev").expect("what was written");
        let status = upload_status(&house, &upload_id).await.expect_err("nobody takes it for done");
        let again = upload_frames(&house, resume_frames(&upload_id, &bytes, 0)).await.expect_err("it stays so");
        for again in [status, again] {
            assert_eq!((reason(&again), fact(&again, "rev")), ("CONTENT_HASH_MISMATCH".into(), Some(rev.clone())));
            assert_eq!(fact(&again, "computedContentHash").as_ref(), Some(&other));
        }
        is_refused(commit_as(&house, &upload_id, None).await, Some("true"));
        house.control().clear_script();
    }
    // The same of one among several.
    let mut ids = Vec::new();
    for name in ["/wrong-1", "/wrong-2"] {
        let id = start_upload(&house, pb::UploadSpec { deferred_commit: true, ..spec(name) }).await;
        upload_frames(&house, resume_frames(&id, &bytes, 0)).await.expect("ready");
        ids.push(id);
    }
    let entry = Action::AlterEntry { at: 0, fields: json!({ "content_hash": other }) };
    house.control().script([Rule::once(FINISH_BATCH, entry)]).expect("script");
    let items = ids.iter().map(|id| pb::UploadToCommit { upload_id: id.clone(), ..Default::default() }).collect();
    let request = pb::CommitUploadsRequest { application_parameter_id: PARAMETER.into(), items, ..Default::default() };
    for _ in 0..2 {
        let results = house.client().commit_uploads(request.clone()).await.expect("an answer").into_inner().results;
        let [wrong, good] = results.try_into().expect("two");
        is_refused(wrong.outcome.expect("an outcome"), Some("true"));
        assert!(matches!(good.outcome, Some(pb::committed_upload::Outcome::Item(_))), "{good:?}");
    }
    assert_eq!(reason(&upload_status(&house, &ids[0]).await.expect_err("wrong")), "CONTENT_HASH_MISMATCH");
    assert_eq!(upload_status(&house, &ids[1]).await.expect("good").state(), pb::UploadState::Committed);
    assert_eq!(house.control().counter(FINISH_BATCH).calls, 1);
}
