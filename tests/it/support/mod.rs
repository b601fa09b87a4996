//! The real server and the emulator on free ports of loopback, a store in a temporary folder, typed clients.
//! Everything a test starts ends with it. Nothing here sleeps: what is waited for is a condition, under a bound.

pub mod certs;
pub mod manual;
pub mod patient;
pub mod postgres;
pub mod process;
pub mod proxies;
pub mod streams;
pub mod tap;
pub mod victim;

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use dropbox_connector::{
    api::v1::{
        self as pb, dropbox_admin_connector_client::DropboxAdminConnectorClient,
        dropbox_connector_client::DropboxConnectorClient, upload_file_request::Frame,
    },
    app::{Addresses, App},
    clock::{SharedClock, SystemClock},
    config::{Config, Overrides},
    emulator::{Emulator, Options, control::Control, oauth::Login},
};
use tempfile::TempDir;
use tonic::{Status, transport::Channel};
use tonic_types::StatusExt;

pub const PARAMETER: &str = "p";
/// Longer than any condition takes on a busy machine with two cores.
pub const PATIENCE: Duration = Duration::from_secs(30);
pub const MIB: usize = 1024 * 1024;
pub const BLOCK: usize = 4 * MIB;

/// A connector and the Dropbox behind it.
pub struct House {
    app: Option<App>,
    pub emulator: Emulator,
    pub addresses: Addresses,
    pub channel: Channel,
    config: Config,
    pub folder: TempDir,
}

/// A house with an application parameter `p` that works.
pub async fn start() -> House {
    start_with(|_| {}).await
}

/// The same with other settings.
pub async fn start_with(edit: impl FnOnce(&mut Config)) -> House {
    let house = start_bare(Options::default(), edit).await;
    house.make_parameter(PARAMETER, |_| {}).await;
    house
}

/// No parameter yet.
pub async fn start_bare(options: Options, edit: impl FnOnce(&mut Config)) -> House {
    Box::pin(start_in(options, Arc::new(SystemClock), edit)).await
}

/// The same by a clock that the test moves; the emulator keeps its own.
pub async fn start_bare_by(clock: SharedClock, edit: impl FnOnce(&mut Config)) -> House {
    Box::pin(start_in(Options::default(), clock, edit)).await
}

pub async fn start_in(options: Options, clock: SharedClock, edit: impl FnOnce(&mut Config)) -> House {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let emulator = Emulator::start(options).await.expect("emulator");
    let folder = tempfile::tempdir().expect("temporary folder");
    let config = config_for(&emulator, &folder, edit);
    let app = Box::pin(App::start_with(config.clone(), clock)).await.expect("connector");
    let addresses = app.addresses();
    // Over TLS a test connects by itself, as the client it is about.
    let channel = match config.tls_files() {
        None => connect(&addresses).await,
        Some(_) => Channel::from_static("http://nobody.invalid").connect_lazy(),
    };
    House { app: Some(app), emulator, addresses, channel, config, folder }
}

pub fn config_for(emulator: &Emulator, folder: &TempDir, edit: impl FnOnce(&mut Config)) -> Config {
    let mut config = Config::load(&Overrides::default()).expect("defaults");
    let free = "127.0.0.1:0".parse().expect("address");
    config.data_listen = free;
    config.admin_listen = free;
    config.probe_listen = free;
    config.http_listen = free;
    config.store_url = format!("sqlite://{}", folder.path().join("store.db").display());
    config.sealing_key_file = folder.path().join("keys");
    dropbox_connector::seal::KeyRing::from_file_or_new(&config.sealing_key_file).expect("key file");
    let addresses = emulator.addresses();
    config.dropbox_api_url = addresses.api.parse().expect("url");
    config.dropbox_content_url = addresses.content.parse().expect("url");
    config.dropbox_notify_url = addresses.notify.parse().expect("url");
    config.dropbox_oauth_url = addresses.www.parse().expect("url");
    config.allow_insecure_upstream = true;
    config.drain_delay = Duration::ZERO;
    edit(&mut config);
    config
}

async fn connect(addresses: &Addresses) -> Channel {
    Channel::from_shared(format!("http://{}", addresses.data)).expect("uri").connect().await.expect("connect")
}

impl House {
    pub fn client(&self) -> DropboxConnectorClient<Channel> {
        DropboxConnectorClient::new(self.channel.clone())
    }

    /// On a connection of its own.
    pub async fn other_client(&self) -> DropboxConnectorClient<Channel> {
        DropboxConnectorClient::new(connect(&self.addresses).await)
    }

    pub async fn admin(&self) -> DropboxAdminConnectorClient<Channel> {
        let uri = format!("http://{}", self.addresses.admin);
        DropboxAdminConnectorClient::connect(uri).await.expect("admin")
    }

    pub fn control(&self) -> Control {
        self.emulator.control()
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Creates an application parameter of the emulator's default account and gives it its refresh token, as an
    /// administrator would.
    pub async fn make_parameter(&self, id: &str, edit: impl FnOnce(&mut pb::ApplicationParameter)) {
        make_parameter(&mut self.admin().await, &self.emulator.account(), id, edit).await;
    }

    /// As SIGHUP does.
    pub fn reread(&self) {
        self.app.as_ref().expect("it runs").reread().notify_one();
    }

    pub fn is_ready(&self) -> bool {
        self.app.as_ref().expect("it runs").ready().is_ready()
    }

    /// Stops the connector and starts it anew on the same store, as a deployment does.
    pub async fn restart(&mut self) {
        if let Some(app) = self.app.take() {
            app.stop().await.expect("stop");
        }
        let app = Box::pin(App::start(self.config.clone())).await.expect("connector");
        self.addresses = app.addresses();
        self.app = Some(app);
        self.channel = connect(&self.addresses).await;
    }

    pub fn app(&self) -> &App {
        self.app.as_ref().expect("it runs")
    }

    /// Another connector on the same store, as in a fleet.
    pub async fn replica(&self) -> (App, Channel) {
        let app = Box::pin(App::start(self.config.clone())).await.expect("a second connector");
        let channel = connect(&app.addresses()).await;
        (app, channel)
    }

    /// The app itself, to be drained by a test.
    pub fn take_app(&mut self) -> App {
        self.app.take().expect("taken once")
    }
}

/// Creates an application parameter and connects it.
pub async fn make_parameter(
    admin: &mut DropboxAdminConnectorClient<Channel>,
    login: &Login,
    id: &str,
    edit: impl FnOnce(&mut pb::ApplicationParameter),
) {
    let mut parameter = pb::ApplicationParameter {
        application_parameter_id: id.into(),
        display_name: "Test".into(),
        app_key: login.app_key.clone(),
        app_secret: login.app_secret.clone(),
        ..Default::default()
    };
    edit(&mut parameter);
    let create = pb::CreateApplicationParameterRequest { application_parameter: Some(parameter), ..Default::default() };
    admin.create_application_parameter(create).await.expect("create");
    let credential = pb::import_credentials_request::Credential::RefreshToken(login.refresh_token.clone());
    let import = pb::ImportCredentialsRequest { application_parameter_id: id.into(), credential: Some(credential) };
    admin.import_credentials(import).await.expect("import");
}

/// An upload of `bytes` in one stream of 1 MiB chunks.
pub async fn upload(house: &House, spec: pb::UploadSpec, bytes: &[u8]) -> Result<pb::UploadFileResponse, Status> {
    upload_frames(house, frames(spec, bytes)).await
}

pub async fn upload_frames(house: &House, frames: Vec<Frame>) -> Result<pb::UploadFileResponse, Status> {
    let answer = house.client().upload_file(tokio_stream::iter(requests(frames))).await;
    answer.map(tonic::Response::into_inner)
}

/// The messages of a stream: the parameter's id goes with the first.
pub fn requests(frames: Vec<Frame>) -> Vec<pb::UploadFileRequest> {
    frames.into_iter().enumerate().map(|(n, frame)| request(n == 0, frame)).collect()
}

pub fn request(first: bool, frame: Frame) -> pb::UploadFileRequest {
    pb::UploadFileRequest {
        application_parameter_id: if first { PARAMETER.into() } else { String::new() },
        context: None,
        frame: Some(frame),
    }
}

pub fn frames(spec: pb::UploadSpec, bytes: &[u8]) -> Vec<Frame> {
    let chunks = bytes.chunks(MIB).map(chunk);
    [Frame::Spec(spec)].into_iter().chain(chunks).chain([finish()]).collect()
}

pub fn chunk(data: &[u8]) -> Frame {
    Frame::Chunk(pb::UploadChunk { write_offset: None, data: Bytes::copy_from_slice(data), crc32c: None })
}

pub fn chunk_at(offset: usize, data: &[u8]) -> Frame {
    let write_offset = Some(i64::try_from(offset).expect("small"));
    Frame::Chunk(pb::UploadChunk { write_offset, data: Bytes::copy_from_slice(data), crc32c: None })
}

pub fn finish() -> Frame {
    Frame::Finish(pb::UploadFinish::default())
}

pub fn spec(path: &str) -> pb::UploadSpec {
    pb::UploadSpec { path: path.into(), ..Default::default() }
}

/// What a download gave: header, bytes, trailer.
pub struct Downloaded {
    pub header: pb::DownloadHeader,
    pub bytes: Vec<u8>,
    pub trailer: pb::DownloadTrailer,
}

pub async fn download(house: &House, path: &str) -> Result<Downloaded, Status> {
    download_with(house, pb::DownloadFileRequest { source: Some(source(path)), ..Default::default() }).await
}

pub fn source(path: &str) -> pb::download_file_request::Source {
    pb::download_file_request::Source::Path(path.into())
}

/// Reads a download to its end and checks its shape: header first, chunks in order, trailer last.
pub async fn download_with(house: &House, mut request: pb::DownloadFileRequest) -> Result<Downloaded, Status> {
    use pb::download_file_response::Payload;
    if request.application_parameter_id.is_empty() {
        request.application_parameter_id = PARAMETER.into();
    }
    let mut stream = house.client().download_file(request).await?.into_inner();
    let Some(Payload::Header(header)) = stream.message().await?.and_then(|message| message.payload) else {
        panic!("a download begins with its header");
    };
    let mut bytes = Vec::new();
    let mut trailer = None;
    while let Some(message) = stream.message().await? {
        match message.payload.expect("a payload") {
            Payload::Header(_) => panic!("a second header"),
            Payload::Chunk(chunk) => {
                assert!(trailer.is_none(), "the trailer is last");
                assert_eq!(chunk.offset, header.range_start + i64::try_from(bytes.len()).expect("small"), "in order");
                assert_eq!(chunk.crc32c, crc32c(&chunk.data));
                bytes.extend_from_slice(&chunk.data);
            }
            Payload::Trailer(last) => trailer = Some(last),
        }
    }
    let trailer = trailer.expect("a stream that ends well has a trailer");
    Ok(Downloaded { header, bytes, trailer })
}

pub fn crc32c(bytes: &[u8]) -> u32 {
    u32::try_from(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes)).expect("32 bits")
}

/// `ErrorInfo.reason` and its metadata.
#[track_caller]
pub fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo: {status:?}"));
    assert_eq!(info.domain, "dropboxconnector");
    assert!(details.request_info().is_some(), "every status carries RequestInfo");
    let value = format!("ERROR_REASON_{}", info.reason);
    assert!(pb::ErrorReason::from_str_name(&value).is_some(), "{value} is not in the proto");
    manual::compare(&info.reason, &info.metadata).unwrap_or_else(|wrong| panic!("{wrong}"));
    info.reason.clone()
}

/// One fact of `ErrorInfo.metadata`.
#[track_caller]
pub fn fact(status: &Status, key: &str) -> Option<String> {
    status.get_error_details().error_info().and_then(|info| info.metadata.get(key).cloned())
}

pub fn retry_delay(status: &Status) -> Option<Duration> {
    status.get_error_details().retry_info().and_then(|info| info.retry_delay)
}

/// Waits until `condition` holds.
pub async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let waiting = async {
        while !condition().await {
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "waited in vain for: {what}");
}

/// Bytes that no block of 4 MiB repeats.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
