//! Connectors that a test kills, and what it asks of the next one on the same store.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use dropbox_connector::{
    api::v1::{self as pb, dropbox_connector_client::DropboxConnectorClient},
    app::{Addresses, App},
    config::Config,
};
use tokio::runtime::Runtime;
use tonic::{Status, transport::Channel};

use super::{House, PARAMETER, frames, process, requests, start, streams::resume_frames, until};

/// A connector in a runtime of its own, so that it can be killed: every task of it stops where it stands.
pub struct Victim {
    runtime: Option<Runtime>,
    pub addresses: Addresses,
}

impl Victim {
    pub async fn start(config: &Config) -> Victim {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
        let (inside, config) = (runtime.handle().clone(), config.clone());
        let starting = tokio::task::spawn_blocking(move || inside.block_on(App::start(config)));
        let app = starting.await.expect("no panic").expect("connector");
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

pub async fn upload_at(victim: &Victim, spec: pb::UploadSpec, bytes: &[u8]) -> Result<pb::UploadFileResponse, Status> {
    let stream = tokio_stream::iter(requests(frames(spec, bytes)));
    victim.client().await.upload_file(stream).await.map(tonic::Response::into_inner)
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

/// The built binary in a process of its own, on the store and the emulator of a house; killed when dropped.
pub struct Process {
    child: Child,
    out: PathBuf,
}

impl Process {
    pub fn serve(house: &House, n: usize) -> Process {
        let out = house.folder.path().join(format!("out{n}"));
        let file = std::fs::File::create(&out).expect("a file");
        let addresses = house.emulator.addresses();
        // Beyond a limit of file sizes a write fails, as on a full disk; unheard, the signal would end the process.
        let child = Command::new("sh")
            .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", process::BINARY, "serve"])
            .args(process::FREE_PORTS)
            .arg(format!("--store-url={}", house.config().store_url))
            .arg(format!("--sealing-key-file={}", house.config().sealing_key_file.display()))
            .arg(format!("--dropbox-api-url={}", addresses.api))
            .arg(format!("--dropbox-content-url={}", addresses.content))
            .arg(format!("--dropbox-notify-url={}", addresses.notify))
            .arg(format!("--dropbox-oauth-url={}", addresses.api))
            .arg("--allow-insecure-upstream")
            .current_dir(house.folder.path())
            .stdout(file)
            .stderr(Stdio::null())
            .stdin(Stdio::null())
            .spawn()
            .expect("the binary starts");
        Process { child, out }
    }

    pub async fn client(&self) -> DropboxConnectorClient<Channel> {
        let told = || {
            let text = std::fs::read_to_string(&self.out).expect("what it printed");
            let whole = text.rsplit_once('\n').map_or("", |(lines, _)| lines).to_owned();
            whole.split_whitespace().find_map(|word| word.strip_prefix("data=").map(str::to_owned))
        };
        until("the process tells its address", || async { told().is_some() }).await;
        let channel = Channel::from_shared(format!("http://{}", told().expect("just seen"))).expect("uri");
        DropboxConnectorClient::new(channel.connect().await.expect("connect"))
    }

    /// From now on no file of the process grows beyond `bytes`, or any file may (`None`).
    pub fn limit_files(&self, bytes: Option<u64>) {
        let soft = bytes.map_or("unlimited".to_owned(), |bytes| bytes.to_string());
        let status = Command::new("prlimit")
            .args(["--pid", &self.child.id().to_string(), &format!("--fsize={soft}:unlimited")])
            .status()
            .expect("prlimit, of util-linux");
        assert!(status.success(), "prlimit: {status}");
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
