//! The Rust client: one channel set up as PERFORMANCE asks, who we are in the metadata of every call, and repeats as the
//! server's RetryInfo allows. Streams with a resume of their own are in `upload` and `download`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::{
    Code, Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity as TlsIdentity},
};

use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::api::v1::{
    Item, WalkFolderRequest, WalkSummary, dropbox_admin_connector_client::DropboxAdminConnectorClient,
    dropbox_connector_client::DropboxConnectorClient, walk_folder_response::Payload,
};

use super::exit::{Exit, Failure, Result, repeat_after};

/// Frames this side takes; for downloads it is the receiver's announcement that counts (PERFORMANCE rule 6).
const FRAME_BYTES_MAX: u32 = 256 * 1024;
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// Above the windows of all parallel transfers together, so that a stalled one holds up no other (rule 7).
const CONNECTION_WINDOW_BYTES: u32 = 64 * 1024 * 1024;
/// Above the largest answer the server gives.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// Times a server that says nothing is greeted: one connection may break, two in a row tell.
const GREETINGS: usize = 2;
/// Times one call, or one stream that makes no headway, is tried again.
pub const ATTEMPTS_MAX: u32 = 8;

/// Where the server is and who calls.
#[derive(Debug, Clone, clap::Args)]
pub struct ServerArgs {
    /// Address of the connector's data service.
    #[arg(long, env = "DROPBOX_CONNECTOR_SERVER", default_value = "http://127.0.0.1:50051", value_name = "URL")]
    pub server: String,
    /// Application parameter: which Dropbox account is meant.
    #[arg(long, short, env = "DROPBOX_CONNECTOR_PARAMETER", value_name = "ID")]
    pub parameter: Option<String>,
    /// Bearer token, where the server wants one.
    #[arg(long, env = "DROPBOX_CONNECTOR_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub token: Option<String>,
    #[command(flatten)]
    pub tls: TlsArgs,
}

impl ServerArgs {
    /// # Errors
    /// No application parameter, a malformed address, nobody there.
    pub async fn client(&self) -> Result<Client> {
        let Some(parameter) = &self.parameter else {
            return Err(Failure::usage("no application parameter").remedy(
                "give --parameter or DROPBOX_CONNECTOR_PARAMETER; `parameters list` shows which there are, and `serve \
                 --emulator` makes `demo`",
            ));
        };
        Client::connect(&self.server, &self.tls, Some(parameter), self.token.as_deref()).await
    }
}

/// How an https:// server proves itself, and how we do.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct TlsArgs {
    /// Certificates an https:// server is trusted by, PEM; instead of the system's.
    #[arg(long, env = "DROPBOX_CONNECTOR_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Our own certificate chain, PEM, where the server wants one.
    #[arg(long, env = "DROPBOX_CONNECTOR_CERT_FILE", value_name = "FILE", requires = "key_file")]
    pub cert_file: Option<PathBuf>,
    /// The key of --cert-file, PEM.
    #[arg(long, env = "DROPBOX_CONNECTOR_KEY_FILE", value_name = "FILE", requires = "cert_file")]
    pub key_file: Option<PathBuf>,
}

impl TlsArgs {
    fn is_empty(&self) -> bool {
        self.ca_file.is_none() && self.cert_file.is_none()
    }

    fn config(&self) -> Result<ClientTlsConfig> {
        let mut config = match &self.ca_file {
            Some(file) => {
                let certificates = pem(file)?;
                // Without one nobody would be trusted, and the handshake alone would say so.
                if !String::from_utf8_lossy(&certificates).contains("-----BEGIN CERTIFICATE-----") {
                    return Err(Failure::usage(format!("{}: no certificate in PEM is in it", file.display())));
                }
                ClientTlsConfig::new().ca_certificate(Certificate::from_pem(certificates))
            }
            None => ClientTlsConfig::new().with_native_roots(),
        };
        if let (Some(cert), Some(key)) = (&self.cert_file, &self.key_file) {
            config = config.identity(TlsIdentity::from_pem(pem(cert)?, pem(key)?));
        }
        Ok(config)
    }
}

fn pem(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).map_err(|error| Failure::local(file, &error))
}

/// Puts token and application parameter into the metadata.
#[derive(Debug, Clone)]
pub struct Identity {
    token: Option<MetadataValue<Ascii>>,
    parameter: Option<MetadataValue<Ascii>>,
}

impl Identity {
    /// # Errors
    /// Values that do not fit into a header.
    pub fn new(parameter: Option<&str>, token: Option<&str>) -> Result<Identity> {
        let token = token.map(|token| format!("Bearer {token}").parse()).transpose();
        let parameter = parameter.map(str::parse).transpose();
        match (token, parameter) {
            (Ok(mut token), Ok(parameter)) => {
                token.iter_mut().for_each(|token: &mut MetadataValue<Ascii>| token.set_sensitive(true));
                Ok(Identity { token, parameter })
            }
            _ => Err(Failure::usage("token and parameter must be printable ASCII")),
        }
    }
}

impl Interceptor for Identity {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        if let Some(token) = &self.token {
            metadata.insert("authorization", token.clone());
        }
        if let Some(parameter) = &self.parameter {
            metadata.insert("x-application-parameter-id", parameter.clone());
        }
        Ok(request)
    }
}

pub type Data = DropboxConnectorClient<InterceptedService<Channel, Identity>>;
pub type Admin = DropboxAdminConnectorClient<InterceptedService<Channel, Identity>>;

/// Opens a channel. It reconnects by itself from then on.
///
/// # Errors
/// A malformed address; nobody there, which `flag` may put right.
pub async fn channel(server: &str, flag: &str, tls: &TlsArgs) -> Result<Channel> {
    let url = if server.contains("://") { server.to_owned() } else { format!("http://{server}") };
    let secure = url.starts_with("https://");
    if !secure && !url.starts_with("http://") {
        return Err(Failure::usage(format!("{url}: write http://host:port or https://host:port")));
    }
    if !secure && !tls.is_empty() {
        return Err(Failure::usage(format!("{url}: certificates are for https:// addresses")));
    }
    let mut endpoint = Endpoint::from_shared(url.clone())
        .and_then(|endpoint| endpoint.user_agent(concat!("dropbox-connector-cli/", env!("CARGO_PKG_VERSION"))))
        .map_err(|error| Failure::usage(format!("{url}: {error}")))?
        .connect_timeout(CONNECT_TIME_MAX)
        .tcp_nodelay(true)
        .max_frame_size(FRAME_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_INTERVAL);
    if secure {
        let config = tls.config()?;
        endpoint = endpoint.tls_config(config).map_err(|error| Failure::usage(format!("{url}: {}", causes(&error))))?;
    }
    let channel = endpoint.connect().await.map_err(|error| {
        let why = causes(&error);
        // All that TLS finds wrong with the server's own says so.
        let remedy = match secure && why.contains("certificate") {
            true => {
                format!("--ca-file trusts a certificate of your own making; {flag} has to use a name that is in it")
            }
            false => format!("start the server with `dropbox-connector serve`, or name its address with {flag}"),
        };
        Failure::new(Exit::Unavailable, format!("cannot reach {url}: {why}")).remedy(remedy)
    })?;
    greet(&channel, &url, tls).await?;
    Ok(channel)
}

/// Asks for the server's health, which needs no credential. One that closes the connection without a word, because only one
/// of both speaks TLS or because it wants a certificate, would look like one whose connection broke, and be tried on and on.
async fn greet(channel: &Channel, url: &str, tls: &TlsArgs) -> Result<()> {
    for _ in 0..GREETINGS {
        let mut health = HealthClient::new(channel.clone());
        let asked = tokio::time::timeout(CONNECT_TIME_MAX, health.check(HealthCheckRequest::default()));
        let Ok(Err(status)) = asked.await else { return Ok(()) };
        let from_transport = std::error::Error::source(&status).is_some()
            || matches!(status.code(), Code::Cancelled | Code::Unknown | Code::Internal);
        if !from_transport {
            return Ok(());
        }
    }
    if url.starts_with("https://") {
        let remedy = match tls.cert_file {
            None => "it may want a certificate of yours: --cert-file and --key-file",
            Some(_) => "it may not take the certificate of --cert-file: see which authorities it trusts",
        };
        let text = format!("{url} closed the connection behind the TLS handshake");
        return Err(Failure::new(Exit::Unavailable, text).remedy(remedy));
    }
    match speaks_tls(url).await {
        Some(true) => Err(Failure::usage(format!("{url}: the server speaks TLS")).remedy(
            "write https://; --ca-file trusts a certificate of your own making, --cert-file and --key-file show yours",
        )),
        // Whatever it is may pass.
        _ => Ok(()),
    }
}

/// Whether the answer to plaintext HTTP/2 is a TLS alert.
async fn speaks_tls(url: &str) -> Option<bool> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const ALERT: u8 = 21;
    let url = url::Url::parse(url).ok()?;
    let address = (url.host_str()?.trim_matches(['[', ']']).to_owned(), url.port_or_known_default()?);
    let looked = tokio::time::timeout(CONNECT_TIME_MAX, async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(PREFACE).await?;
        stream.read_u8().await
    });
    Some(looked.await.ok()?.ok()? == ALERT)
}

/// What an error is made of, the outermost words left out where there are others.
fn causes(error: &dyn std::error::Error) -> String {
    let mut told: Vec<String> = Vec::new();
    let mut next = error.source();
    while let Some(error) = next {
        let text = error.to_string();
        // Some layers repeat what is beneath them.
        if !told.iter().any(|told| told.contains(&text)) {
            told.push(text);
        }
        next = error.source();
    }
    if told.is_empty() { error.to_string() } else { told.join(": ") }
}

/// Sizes and offsets as messages carry them.
pub fn to_wire(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// May a call be made twice without harm?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// It reads, or does the same once more.
    Free,
    /// Only if the server says that nothing happened.
    IfTold,
}

/// Calls `call` until it is answered, as far as it may be repeated.
///
/// # Errors
/// The last answer, if it was a refusal or patience is at its end.
pub async fn repeated<R>(repeat: Repeat, mut call: impl AsyncFnMut() -> Result<Response<R>, Status>) -> Result<R> {
    let mut attempt = 0;
    loop {
        let status = match call().await {
            Ok(response) => return Ok(response.into_inner()),
            Err(status) => status,
        };
        match repeat_after(&status, repeat == Repeat::Free, attempt) {
            Some(delay) if attempt < ATTEMPTS_MAX => tokio::time::sleep(delay).await,
            _ => return Err(status.into()),
        }
        attempt += 1;
    }
}

/// The data service, as one application parameter.
#[derive(Debug, Clone)]
pub struct Client {
    data: Data,
}

impl Client {
    /// # Errors
    /// A malformed address or identity; nobody there.
    pub async fn connect(server: &str, tls: &TlsArgs, parameter: Option<&str>, token: Option<&str>) -> Result<Client> {
        let identity = Identity::new(parameter, token)?;
        let data = DropboxConnectorClient::with_interceptor(channel(server, "--server", tls).await?, identity)
            .max_decoding_message_size(ANSWER_BYTES_MAX);
        Ok(Client { data })
    }

    /// A handle to call the service with: cheap, on the same connection.
    pub fn data(&self) -> Data {
        self.data.clone()
    }

    /// Reads a listing to its end, over breaks, and gives each item once.
    ///
    /// # Errors
    /// As the RPC; and what `each` fails with.
    pub async fn walk(
        &self,
        mut request: WalkFolderRequest,
        mut each: impl FnMut(Item) -> Result<()>,
    ) -> Result<WalkSummary> {
        let mut attempt = 0;
        loop {
            let status = match self.walk_once(&mut request, &mut attempt, &mut each).await? {
                Ok(summary) => return Ok(summary),
                Err(status) => status,
            };
            match repeat_after(&status, true, attempt) {
                Some(delay) if attempt < ATTEMPTS_MAX => tokio::time::sleep(delay).await,
                _ => return Err(status.into()),
            }
            attempt += 1;
        }
    }

    /// One stream of a walk. Moves `request` behind every batch that was given on.
    async fn walk_once(
        &self,
        request: &mut WalkFolderRequest,
        attempt: &mut u32,
        each: &mut impl FnMut(Item) -> Result<()>,
    ) -> Result<Result<WalkSummary, Status>> {
        let mut stream = match self.data().walk_folder(request.clone()).await {
            Ok(response) => response.into_inner(),
            Err(status) => return Ok(Err(status)),
        };
        loop {
            match stream.message().await {
                Ok(Some(message)) => match message.payload {
                    Some(Payload::Batch(batch)) => {
                        request.continue_token = batch.continue_token;
                        *attempt = 0;
                        batch.items.into_iter().try_for_each(&mut *each)?;
                    }
                    Some(Payload::Summary(summary)) => return Ok(Ok(summary)),
                    None => {}
                },
                Ok(None) => return Ok(Err(Status::unknown("the listing ended early"))),
                Err(status) => return Ok(Err(status)),
            }
        }
    }
}
