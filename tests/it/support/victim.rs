//! Connectors that a test kills, and what it asks of the next one on the same store.

use dropbox_connector::{
    api::v1::{self as pb, dropbox_connector_client::DropboxConnectorClient},
    app::{Addresses, App},
    config::Config,
};
use tokio::runtime::Runtime;
use tonic::{Status, transport::Channel};

use super::{House, PARAMETER, requests, start, streams::resume_frames};

/// A connector in a runtime of its own, so that it can be killed: every task of it stops where it stands.
pub struct Victim {
    runtime: Option<Runtime>,
    pub addresses: Addresses,
}

impl Victim {
    pub async fn start(config: &Config) -> Victim {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
        let app = runtime.spawn(App::start(config.clone())).await.expect("no panic").expect("connector");
        Victim { addresses: app.addresses(), runtime: Some(runtime) }
    }

    pub async fn client(&self) -> DropboxConnectorClient<Channel> {
        DropboxConnectorClient::connect(format!("http://{}", self.addresses.data)).await.expect("connect")
    }

    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A house whose own connector has stopped: `Victim`s take its place on the same store.
pub async fn emptied() -> House {
    let mut house = start().await;
    house.take_app().stop().await.expect("stop");
    house
}

pub async fn status_at(victim: &Victim, upload_id: &str) -> Result<pb::GetUploadStatusResponse, Status> {
    let request = pb::GetUploadStatusRequest {
        application_parameter_id: PARAMETER.into(),
        upload_id: upload_id.into(),
        ..Default::default()
    };
    victim.client().await.get_upload_status(request).await.map(tonic::Response::into_inner)
}

pub async fn started_at(victim: &Victim, spec: pb::UploadSpec) -> String {
    victim.client().await.start_upload(start_request(spec)).await.expect("started").into_inner().upload_id
}

pub async fn finish_at(
    victim: &Victim,
    upload_id: &str,
    bytes: &[u8],
    from: usize,
) -> Result<pb::UploadFileResponse, Status> {
    let stream = tokio_stream::iter(requests(resume_frames(upload_id, bytes, from)));
    victim.client().await.upload_file(stream).await.map(tonic::Response::into_inner)
}

pub fn start_request(spec: pb::UploadSpec) -> pb::StartUploadRequest {
    pb::StartUploadRequest { application_parameter_id: PARAMETER.into(), spec: Some(spec), ..Default::default() }
}
