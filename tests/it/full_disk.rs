//! A store that finds no space to write: nothing is committed that is not written down, nothing is lost, and all goes on when
//! there is space again. The disk is made full by a limit on the size of the server's files, which needs no privilege.

use dropbox_connector::{
    api::v1::{self as pb, upload_file_request::Frame},
    emulator::script::{Action, Rule},
};
use tonic::Code;

use crate::support::{streams::*, victim::*, *};

const APPEND: &str = "files/upload_session/append_v2";
const FINISH: &str = "files/upload_session/finish";
/// Smaller than the store's files are already.
const FULL: Option<u64> = Some(4096);

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_under_the_store_loses_no_upload_and_all_goes_on_with_space() {
    let house = emptied().await;
    let control = house.control();
    let server = Process::serve(&house, 1);
    let mut client = server.client().await;
    let bytes = noise(17 * MIB, 1);
    let mut kept = Vec::new();
    for appends in [1, 3] {
        let path = format!("/full{appends}");
        control.clear_journal();
        // Full in the middle of the bytes: they go on, and the commit is not sent without its intent.
        let mut stream = OpenUpload::on(client.clone());
        assert!(stream.send(Frame::Spec(pb::UploadSpec { parallel_appends: appends, ..spec(&path) })).await);
        assert!(stream.send_range(&bytes, 0, 9 * MIB).await);
        until("the session has its row and its first bytes", || async { control.counter(APPEND).good >= 1 }).await;
        server.limit_files(FULL);
        assert!(stream.send_range(&bytes, 9 * MIB, bytes.len()).await);
        assert!(stream.send(finish()).await);
        let fault = stream.answer().await.expect_err("the store cannot be written");
        assert_eq!((fault.code(), reason(&fault).as_str()), (Code::Unavailable, "STORE_UNAVAILABLE"), "{fault:?}");
        assert!(retry_delay(&fault).is_some());
        assert_eq!(control.counter(FINISH).calls, 0, "no commit without its intent");
        let upload_id = fact(&fault, "uploadId").expect("resumable");
        // What needs a row is refused meanwhile, what needs none is served.
        let refused = client.start_upload(start_request(spec("/none"))).await.expect_err("no row");
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unavailable, "STORE_UNAVAILABLE"));
        let small = requests(frames(spec(&format!("/small{appends}")), b"in one request"));
        client.upload_file(tokio_stream::iter(small)).await.expect("it needs no row");
        server.limit_files(None);
        kept.push((path, upload_id));
    }
    for (path, upload_id) in kept {
        let ask = pb::GetUploadStatusRequest {
            application_parameter_id: PARAMETER.into(),
            upload_id: upload_id.clone(),
            ..Default::default()
        };
        let status = client.get_upload_status(ask).await.expect("status").into_inner();
        let from = match status.state() {
            pb::UploadState::Open => usize::try_from(status.persisted_offset).expect("small"),
            _ => bytes.len(),
        };
        let stream = tokio_stream::iter(requests(resume_frames(&upload_id, &bytes, from)));
        let answer = client.upload_file(stream).await.expect("there is space again").into_inner();
        assert_eq!((answer.state(), answer.verified), (pb::UploadState::Committed, true), "{path}");
        assert!(control.read(None, &path).as_deref() == Some(&bytes), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_outcome_found_no_space_is_found_at_its_path() {
    let house = emptied().await;
    let control = house.control();
    let server = Process::serve(&house, 1);
    let mut client = server.client().await;
    let bytes = noise(9 * MIB, 2);
    let upload_id = client.start_upload(start_request(spec("/full"))).await.expect("started").into_inner().upload_id;
    control.script([Rule::once(FINISH, Action::Delay { millis: 3000 })]).expect("script");
    let mut committing = client.clone();
    let stream = tokio_stream::iter(requests(resume_frames(&upload_id, &bytes, 0)));
    let committing = tokio::spawn(async move { committing.upload_file(stream).await });
    until("the commit is under way", || async { control.counter(FINISH).calls == 1 }).await;
    server.limit_files(FULL);
    // It happened: a store that cannot say so does not make it fail.
    let answer = committing.await.expect("no panic").expect("committed").into_inner();
    assert_eq!((answer.state(), answer.verified), (pb::UploadState::Committed, true));
    server.limit_files(None);
    let again = tokio_stream::iter(requests(resume_frames(&upload_id, &[], 0)));
    let again = client.upload_file(again).await.expect("found").into_inner();
    assert_eq!(file_of(again.item.as_ref()).rev, file_of(answer.item.as_ref()).rev);
    assert_eq!(control.counter(FINISH).calls, 1, "it is committed once");
}
