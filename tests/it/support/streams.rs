//! Upload streams that a test holds in its hand: frame by frame, half-closed, abandoned; and the duplex twin.

use std::time::Duration;

use dropbox_connector::api::v1::{
    self as pb, dropbox_connector_client::DropboxConnectorClient, upload_file_duplex_request as duplex,
    upload_file_request::Frame,
};
use sha2::{Digest, Sha256};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, transport::Channel};

use super::{BLOCK, House, MIB, PARAMETER, chunk_at, patient, request};

/// An `UploadFile` whose frames are sent one by one.
pub struct OpenUpload {
    frames: Option<mpsc::Sender<pb::UploadFileRequest>>,
    answer: JoinHandle<Result<pb::UploadFileResponse, Status>>,
    first: bool,
}

impl OpenUpload {
    pub fn on(client: DropboxConnectorClient<Channel>) -> OpenUpload {
        let (frames, receiver) = mpsc::channel(1);
        let mut client = client;
        let answer = tokio::spawn(async move {
            client.upload_file(ReceiverStream::new(receiver)).await.map(tonic::Response::into_inner)
        });
        OpenUpload { frames: Some(frames), answer, first: true }
    }

    pub fn new(house: &House) -> OpenUpload {
        OpenUpload::on(house.client())
    }

    /// With a deadline of its caller's.
    pub fn within(house: &House, time: Duration) -> OpenUpload {
        let (frames, receiver) = mpsc::channel(1);
        let data = house.addresses.data;
        let answer = tokio::spawn(async move {
            let mut client = patient::client_at(data).await;
            let mut request = tonic::Request::new(ReceiverStream::new(receiver));
            request.set_timeout(time);
            client.upload_file(request).await.map(tonic::Response::into_inner)
        });
        OpenUpload { frames: Some(frames), answer, first: true }
    }

    /// The answer has come.
    pub fn is_answered(&self) -> bool {
        self.answer.is_finished()
    }

    /// Opened with `spec`, nothing sent behind it.
    pub async fn begin(house: &House, spec: pb::UploadSpec) -> OpenUpload {
        let mut upload = OpenUpload::new(house);
        assert!(upload.send(Frame::Spec(spec)).await);
        upload
    }

    /// Opened with an `upload_id`.
    pub async fn resume(house: &House, upload_id: &str) -> OpenUpload {
        let mut upload = OpenUpload::new(house);
        assert!(upload.send(Frame::ResumeUploadId(upload_id.into())).await);
        upload
    }

    /// `false`: the server does not read any more; its answer tells why.
    pub async fn send(&mut self, frame: Frame) -> bool {
        let first = std::mem::replace(&mut self.first, false);
        self.frames.as_ref().expect("not closed yet").send(request(first, frame)).await.is_ok()
    }

    /// Sends `bytes[from..to]` in chunks of 1 MiB that name their offsets.
    pub async fn send_range(&mut self, bytes: &[u8], from: usize, to: usize) -> bool {
        for at in (from..to).step_by(MIB) {
            if !self.send(chunk_at(at, &bytes[at..to.min(at + MIB)])).await {
                return false;
            }
        }
        true
    }

    /// Half-closes and waits for the answer.
    pub async fn answer(mut self) -> Result<pb::UploadFileResponse, Status> {
        self.frames = None;
        (&mut self.answer).await.expect("the call does not panic")
    }

    /// Waits for an answer that comes although nothing is closed.
    pub async fn early_answer(&mut self) -> Result<pb::UploadFileResponse, Status> {
        (&mut self.answer).await.expect("the call does not panic")
    }

    /// Vanishes as a killed client does: the stream is reset.
    pub async fn abandon(mut self) {
        self.answer.abort();
        let _ = (&mut self.answer).await;
    }
}

/// The same frames as messages of `UploadFileDuplex`.
pub fn duplex_requests(frames: Vec<Frame>) -> Vec<pb::UploadFileDuplexRequest> {
    frames.into_iter().enumerate().map(|(n, frame)| duplex_request(n == 0, frame)).collect()
}

pub fn duplex_request(first: bool, frame: Frame) -> pb::UploadFileDuplexRequest {
    let frame = match frame {
        Frame::Spec(spec) => duplex::Frame::Spec(spec),
        Frame::ResumeUploadId(id) => duplex::Frame::ResumeUploadId(id),
        Frame::Chunk(chunk) => duplex::Frame::Chunk(chunk),
        Frame::Finish(finish) => duplex::Frame::Finish(finish),
    };
    pb::UploadFileDuplexRequest {
        application_parameter_id: if first { PARAMETER.into() } else { String::new() },
        context: None,
        frame: Some(frame),
    }
}

/// Dropbox's content hash, made here by the published recipe and not by the code under test.
pub fn content_hash(bytes: &[u8]) -> String {
    let mut outer = Sha256::new();
    for block in bytes.chunks(BLOCK) {
        outer.update(Sha256::digest(block));
    }
    hex::encode(outer.finalize())
}

/// The file an answer names.
#[track_caller]
pub fn file_of(item: Option<&pb::Item>) -> &pb::FileItem {
    match item.and_then(|item| item.kind.as_ref()) {
        Some(pb::item::Kind::File(file)) => file,
        other => panic!("no file: {other:?}"),
    }
}

pub async fn upload_status(house: &House, upload_id: &str) -> Result<pb::GetUploadStatusResponse, Status> {
    let request = pb::GetUploadStatusRequest {
        application_parameter_id: PARAMETER.into(),
        upload_id: upload_id.into(),
        ..Default::default()
    };
    house.client().get_upload_status(request).await.map(tonic::Response::into_inner)
}

pub async fn start_upload(house: &House, spec: pb::UploadSpec) -> String {
    let request =
        pb::StartUploadRequest { application_parameter_id: PARAMETER.into(), spec: Some(spec), ..Default::default() };
    let started = house.client().start_upload(request).await.expect("started").into_inner();
    assert!(started.expire_time.is_some());
    started.upload_id
}

/// Frames of a resumed stream that sends `bytes[from..]` and finishes.
pub fn resume_frames(upload_id: &str, bytes: &[u8], from: usize) -> Vec<Frame> {
    let chunks = (from..bytes.len()).step_by(MIB).map(|at| chunk_at(at, &bytes[at..bytes.len().min(at + MIB)]));
    [Frame::ResumeUploadId(upload_id.into())].into_iter().chain(chunks).chain([super::finish()]).collect()
}
