//! The composition root and the life of the process: everything is built here, given its addresses, run and drained.
//! Ports are bound only after the configuration, the keys and the store have been found good.

mod offline;

use std::{
    fmt,
    future::Future,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{net::TcpListener, sync::Notify, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::{Server, server::TcpIncoming};

use crate::{
    access::{
        Authenticator, Permission,
        tls::{Reload, Tls},
    },
    clock::{SharedClock, SystemClock},
    config::Config,
    credentials::{App as DropboxApp, Credential, OAuth, Resolver},
    dropbox::{Endpoints, Transport, read_roots},
    emulator::{self, Emulator},
    engine::{
        blocks::Blocks,
        download::Downloads,
        gate::Gates,
        upload::{Settings, Uploads},
    },
    events::{self, Hub},
    fault::{Fault, Reason},
    http, limits,
    ready::Ready,
    seal::{KeyRing, KeySource},
    secret::Secret,
    service::{self, Doors, OpenCalls, listener},
    store::{self, ParameterId, Store},
    telemetry,
};

pub use offline::{Imported, OnConflict, export, import, key_use, rotate};

/// The application parameter that `--emulator` makes.
pub const DEMO_PARAMETER: &str = "demo";

/// A running connector.
#[derive(Debug)]
pub struct App {
    addresses: Addresses,
    emulator: Option<Emulator>,
    life: Life,
    reread: Reread,
    drain_delay: Duration,
    drain_grace: Duration,
}

/// Where it listens; port 0 in the configuration becomes the port that was free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    pub data: SocketAddr,
    pub admin: SocketAddr,
    pub probe: SocketAddr,
    pub http: SocketAddr,
    /// None: there is no public port.
    pub public_http: Option<SocketAddr>,
}

/// Why the connector did not start, or did not end well.
#[derive(Debug)]
pub enum AppError {
    /// A setting that cannot be used: its key is named.
    Config(String),
    /// An address that cannot be listened on.
    Listen { key: &'static str, address: SocketAddr, source: std::io::Error },
    /// The store or the emulator.
    Start(String),
    /// Streams that had to be cut when the grace ended.
    Cut,
}

impl fmt::Display for AppError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AppError::Config(text) | AppError::Start(text) => f.write_str(text),
            AppError::Listen { key, address, source } => write!(f, "{key}: cannot listen on {address}: {source}"),
            AppError::Cut => f.write_str("streams were still open when drain_grace ended; they were cut"),
        }
    }
}

impl std::error::Error for AppError {}

/// Wakes those who read files and commands again, as on SIGHUP, before their time.
#[derive(Debug, Clone, Default)]
pub struct Reread {
    door: Arc<Notify>,
    keys: Arc<Notify>,
}

impl Reread {
    pub fn notify_one(&self) {
        self.door.notify_one();
        self.keys.notify_one();
    }
}

/// What runs, and the switches that end it.
#[derive(Debug)]
struct Life {
    ready: Ready,
    store: Store,
    uploads: Uploads,
    /// What calls left behind them.
    tasks: TaskTracker,
    /// New calls are refused.
    refusing: CancellationToken,
    /// Listeners close; connections are told to go.
    closing: CancellationToken,
    /// Connections that would not go are closed.
    cut: CancellationToken,
    open_calls: OpenCalls,
    /// The probe and HTTP listeners close, background tasks end.
    ended: CancellationToken,
    streams: Vec<JoinHandle<()>>,
    background: TaskTracker,
}

impl App {
    /// Builds everything and opens the ports.
    ///
    /// # Errors
    /// A setting, key or store that cannot be used, before any port is bound; a port that is taken.
    pub async fn start(config: Config) -> Result<App, AppError> {
        App::start_with(config, Arc::new(SystemClock)).await
    }

    /// The same by another clock, for tests.
    ///
    /// # Errors
    /// As [`App::start`].
    pub async fn start_with(mut config: Config, clock: SharedClock) -> Result<App, AppError> {
        telemetry::install_metrics().map_err(start_fault)?;
        let authenticator = Authenticator::from_config(&config, clock.clone()).await.map_err(config_fault)?;
        let tls = Tls::from_config(&config, clock.clone()).map_err(config_fault)?;
        // A first try needs no set-up and leaves nothing behind; whoever names a store or a key gets it.
        let fleeting = config.emulator && config.has_default_store();
        let keys = match (config.emulator, config.key_source()) {
            (true, _) if fleeting => Ok(KeyRing::ephemeral()),
            (true, KeySource::File(file)) => KeyRing::from_file_or_new(&file),
            (_, source) => KeyRing::from_source(source).await,
        };
        let keys = Arc::new(keys.map_err(|fault| key_fault(&fault, &config))?);
        let store_url = if fleeting { "sqlite::memory:" } else { &config.store_url };
        let opened = if config.store_migrate {
            Store::open(store_url, keys, clock.clone()).await
        } else {
            Store::open_as_it_is(store_url, keys, clock.clone()).await
        };
        let store = opened.map_err(store_fault)?;
        let store = match config.parameters_file() {
            Some(file) => store.with_parameters_file(file).map_err(config_fault)?,
            None => store,
        };
        let bound = Bound::open(&config).await?;
        let emulator = if config.emulator { Some(start_emulator(&mut config, clock.clone()).await?) } else { None };
        let roots = match config.upstream_ca_file.as_os_str().is_empty() {
            true => Vec::new(),
            false => read_roots(&config.upstream_ca_file).map_err(config_fault)?,
        };
        let insecure = config.allow_insecure_upstream || config.emulator;
        let transport =
            Transport::trusting(roots, endpoints(&config), insecure, clock.clone()).map_err(config_fault)?;
        transport.limit_requests(config.max_requests_per_account);
        let resolver = Resolver::new(store.clone(), transport, clock.clone(), oauth(&config)?);
        if let Some(emulator) = &emulator {
            make_demo_parameter(&store, &resolver, emulator).await.map_err(start_fault)?;
        }
        let budget = usize::try_from(config.transfer_buffer_mib * limits::MIB).unwrap_or(usize::MAX);
        // One budget: what waits to be let in is paid for beside what was.
        let waiting_bytes = budget / limits::WAITING_SHARE;
        let blocks = Blocks::new(budget - waiting_bytes, clock.clone());
        let gates = Arc::new(Gates::new());
        let settings = Settings {
            append_bytes: usize::try_from(config.append_mib * limits::MIB).unwrap_or(limits::APPEND_BYTES),
            open_max: config.max_uploads,
            waiting_bytes,
            idle: config.upload_idle,
        };
        let uploads = Uploads::new(blocks.clone(), gates.clone(), store.clone(), clock.clone(), settings);
        let downloads = Downloads::new(config.max_downloads, config.download_idle, blocks.clone(), clock.clone());
        let ready = Ready::new();
        let refusing = CancellationToken::new();
        let tasks = TaskTracker::new();
        let (background, ended) = (TaskTracker::new(), CancellationToken::new());
        let hub = Hub::new(events::Parts {
            store: store.clone(),
            upstream: events::Dropbox::new(resolver.clone()),
            tasks: background.clone(),
            ended: ended.clone(),
            webhooks: config.webhooks,
        });
        let doors = Doors::new(service::Parts {
            hub: hub.clone(),
            resolver: resolver.clone(),
            store: store.clone(),
            uploads: uploads.clone(),
            downloads: downloads.clone(),
            gates,
            authenticator: authenticator.clone(),
            ready: ready.clone(),
            clock: clock.clone(),
            draining: refusing.clone(),
            tasks: tasks.clone(),
            config: config.clone(),
            started_at: clock.now(),
        });
        let mut life = Life {
            ready: ready.clone(),
            store: store.clone(),
            uploads,
            tasks,
            refusing,
            closing: CancellationToken::new(),
            cut: CancellationToken::new(),
            open_calls: doors.open_calls(),
            ended,
            streams: Vec::new(),
            background,
        };
        let addresses = bound.addresses()?;
        let face = http::Parts {
            ready: ready.clone(),
            resolver: resolver.clone(),
            store: store.clone(),
            authenticator: authenticator.clone(),
            connect_page: config.connect_page,
            webhooks: config.webhooks.then_some(hub),
        };
        life.serve(&config, bound, &doors, tls.clone(), face);
        ready.set_callers(authenticator.is_ready());
        life.keep_house(clock.clone(), resolver, blocks, downloads);
        let reread = Reread::default();
        life.keep_keys(clock.clone(), reread.keys.clone());
        life.keep_door(clock, authenticator, tls, reread.door.clone());
        ready.set_loaded();
        Ok(App { addresses, emulator, life, reread, drain_delay: config.drain_delay, drain_grace: config.drain_grace })
    }

    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    pub fn emulator(&self) -> Option<&Emulator> {
        self.emulator.as_ref()
    }

    /// Notified, the process reads certificates and the keys of tokens' issuers again, without waiting for their turn.
    pub fn reread(&self) -> Reread {
        self.reread.clone()
    }

    pub fn ready(&self) -> &Ready {
        &self.life.ready
    }

    /// Runs until `shutdown` ends, then drains: not ready → wait `drain_delay` → refuse new calls, close the listeners →
    /// streams end within `drain_grace` → side ports → store.
    ///
    /// # Errors
    /// `Cut` when streams outlived the grace.
    pub async fn run_until(mut self, shutdown: impl Future<Output = ()>) -> Result<(), AppError> {
        shutdown.await;
        tracing::info!("draining");
        self.life.ready.set_draining();
        tokio::time::sleep(self.drain_delay).await;
        let ended = self.life.drain(self.drain_grace).await;
        if let Some(emulator) = self.emulator.take()
            && let Err(error) = emulator.stop().await
        {
            tracing::warn!(%error, "the emulator's state could not be kept");
        }
        ended
    }

    /// Drains at once.
    ///
    /// # Errors
    /// As [`App::run_until`].
    pub async fn stop(mut self) -> Result<(), AppError> {
        self.drain_delay = Duration::ZERO;
        self.run_until(std::future::ready(())).await
    }
}

impl Life {
    fn serve(&mut self, config: &Config, bound: Bound, doors: &Doors, tls: Option<Arc<Tls>>, face: http::Parts) {
        let stream = |routes, listener, web: Option<_>| {
            let incoming = service::cuttable(listener::incoming(listener, tls.clone()), self.cut.clone());
            // Browsers speak HTTP/1.1 where there is no TLS.
            let serving = server(config)
                .accept_http1(web.is_some())
                .layer(tower::util::option_layer(web))
                .layer(doors.layer())
                .add_routes(routes)
                .serve_with_incoming_shutdown(incoming, self.closing.clone().cancelled_owned());
            tokio::spawn(told("gRPC listener", serving))
        };
        let web = service::web_layer(config);
        self.streams = vec![stream(doors.data(), bound.data, web), stream(doors.admin(), bound.admin, None)];
        let probe = Server::builder().add_routes(doors.probe()).serve_with_incoming_shutdown(
            TcpIncoming::from(bound.probe).with_nodelay(Some(true)),
            self.ended.clone().cancelled_owned(),
        );
        self.background.spawn(told("probe listener", probe));
        if let Some(listener) = bound.public_http {
            let webhooks = face.webhooks.clone();
            let public =
                http::serve_public(listener, face.resolver.clone(), webhooks, self.ended.clone().cancelled_owned());
            self.background.spawn(told("public HTTP listener", public));
        }
        let side = http::serve(bound.http, face, self.ended.clone().cancelled_owned());
        self.background.spawn(told("HTTP listener", side));
    }

    /// What happens beside the calls: each task ends with the process and harms nobody when it is cut.
    fn keep_house(&self, clock: SharedClock, resolver: Arc<Resolver>, blocks: Blocks, downloads: Downloads) {
        let until_end = |work: futures::future::BoxFuture<'static, ()>| {
            let ended = self.ended.clone();
            self.background.spawn(async move {
                tokio::select! {
                    () = work => {}
                    () = ended.cancelled() => {}
                }
            });
        };
        let following = resolver.clone();
        until_end(Box::pin(async move {
            following.follow_changes().await;
        }));
        until_end(Box::pin(async move {
            downloads.watch_stalled().await;
        }));
        let uploads = self.uploads.clone();
        let (store, ready) = (self.store.clone(), self.ready.clone());
        let sweeper = clock.clone();
        until_end(Box::pin(async move {
            loop {
                let followed = resolver.silence() < limits::CHANGES_UNHEARD_MAX;
                ready.set_store(store.check().await.is_ok() && followed);
                if let Some(good) = store.parameters_file_good() {
                    ready.set_parameters_file(good);
                    metrics::gauge!(telemetry::PARAMETERS_FILE_BROKEN).set(if good { 0.0 } else { 1.0 });
                }
                blocks.trim();
                let used = blocks.used_bytes() + uploads.waiting_bytes();
                metrics::gauge!(telemetry::BUFFER_BYTES).set(used as f64);
                if let Ok(lost) = store.count_reauthorizations().await {
                    metrics::gauge!(telemetry::REAUTHORIZATION_REQUIRED).set(lost as f64);
                }
                telemetry::upkeep();
                clock.sleep(limits::HOUSEKEEPING).await;
            }
        }));
        let store = self.store.clone();
        until_end(Box::pin(async move {
            loop {
                if let Err(fault) = store.sweep().await {
                    tracing::warn!(%fault, "expired rows could not be swept");
                }
                sweeper.sleep(limits::SWEEP).await;
            }
        }));
    }

    /// Keeps what tells callers apart up to date: certificates, and the keys of their tokens' issuer.
    /// The sealing keys, which may come from a command that takes its time.
    fn keep_keys(&self, clock: SharedClock, reread: Arc<Notify>) {
        let (store, ready, ended) = (self.store.clone(), self.ready.clone(), self.ended.clone());
        self.background.spawn(async move {
            let mut asked = false;
            loop {
                let changed = tokio::select! {
                    changed = follow_keys(store.keys(), &ready, asked) => changed,
                    () = ended.cancelled() => return,
                };
                if changed && let Err(fault) = store.check().await {
                    tracing::warn!(%fault, "which keys this process has was not told; it will be with the next heartbeat");
                }
                asked = tokio::select! {
                    () = clock.sleep(limits::HOUSEKEEPING) => false,
                    () = reread.notified() => true,
                    () = ended.cancelled() => return,
                };
            }
        });
    }

    fn keep_door(&self, clock: SharedClock, authenticator: Authenticator, tls: Option<Arc<Tls>>, reread: Arc<Notify>) {
        let (ready, ended) = (self.ready.clone(), self.ended.clone());
        self.background.spawn(async move {
            let mut warned_at = None;
            let mut now = false;
            loop {
                if let Some(tls) = &tls {
                    keep_certificate(tls, &clock, &mut warned_at);
                }
                // The answer of a slow issuer must not hold up a drain.
                tokio::select! {
                    () = authenticator.refresh_keys(now) => {}
                    () = ended.cancelled() => return,
                }
                ready.set_callers(authenticator.is_ready());
                if let Some(tally) = authenticator.tally() {
                    for (outcome, count) in [("same", tally.same), ("changed", tally.changed), ("failed", tally.failed)]
                    {
                        metrics::counter!(telemetry::AUTH_KEYS_READS, "outcome" => outcome).absolute(count);
                    }
                }
                tokio::select! {
                    () = clock.sleep(limits::HOUSEKEEPING) => now = false,
                    () = reread.notified() => now = true,
                    () = ended.cancelled() => return,
                }
            }
        });
    }

    async fn drain(self, grace: Duration) -> Result<(), AppError> {
        self.refusing.cancel();
        self.closing.cancel();
        let streams = async {
            tokio::join!(self.uploads.drain(), futures::future::join_all(self.streams));
            // The last of the streams may have begun a lane or a commit after nothing was to be waited for.
            self.uploads.drain().await;
            self.tasks.close();
            self.tasks.wait().await;
        };
        let mut streams = std::pin::pin!(streams);
        let ended = tokio::time::timeout(grace, streams.as_mut()).await;
        if ended.is_err() {
            self.open_calls.tell();
            self.cut.cancel();
            let _ = tokio::time::timeout(limits::CUT_GRACE, streams).await;
        }
        self.ended.cancel();
        self.background.close();
        let _ = tokio::time::timeout(limits::SIDE_PORT_GRACE, self.background.wait()).await;
        self.store.close().await;
        ended.map_err(|_| AppError::Cut)
    }
}

/// Reads the sealing keys again; true if they are others now. The log hears of a change, not of every look.
async fn follow_keys(keys: &KeyRing, ready: &Ready, asked: bool) -> bool {
    let was_good = ready.facts().keys;
    let read = keys.reload(asked).await;
    match &read {
        Ok(true) => tracing::info!(keys = keys.key_ids().join(", "), "the sealing keys changed; the first one seals"),
        Ok(false) if !was_good => tracing::info!("the sealing keys can be read again"),
        Err(fault) if was_good || asked => {
            tracing::error!(%fault, "the sealing keys cannot be read again; those in memory hold");
        }
        _ => {}
    }
    ready.set_keys(read.is_ok());
    metrics::gauge!(telemetry::KEYS_BROKEN).set(if read.is_ok() { 0.0 } else { 1.0 });
    read.unwrap_or(false)
}

/// Takes a changed certificate, and says when the one that holds runs out.
fn keep_certificate(tls: &Tls, clock: &SharedClock, warned_at: &mut Option<SystemTime>) {
    let told = match tls.reload() {
        Reload::Same | Reload::Refused { again: true, .. } => None,
        Reload::Changed => {
            tracing::info!("the certificate was changed; new connections see the new one");
            *warned_at = None;
            Some("changed")
        }
        Reload::Refused { why, again: false } => {
            tracing::error!(why, "the changed certificate, key or authorities cannot be used; the old ones still hold");
            Some("refused")
        }
    };
    if let Some(outcome) = told {
        metrics::counter!(telemetry::TLS_RELOADS, "outcome" => outcome).increment(1);
    }
    let expires_at = tls.expires_at().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    metrics::gauge!(telemetry::TLS_CERTIFICATE_EXPIRY).set(expires_at.as_secs_f64());
    let now = clock.now();
    let again = warned_at.is_none_or(|at| now.duration_since(at).unwrap_or_default() >= limits::CERTIFICATE_WARN_EVERY);
    match tls.runs_out().filter(|_| again) {
        None => return,
        Some(Duration::ZERO) => tracing::error!("the certificate has expired: clients refuse new connections"),
        Some(left) => tracing::warn!(hours = left.as_secs() / 3600, "the certificate expires soon"),
    }
    *warned_at = Some(now);
}

/// Brings the tables of the store up to date, or only says whether they are and whether the store can do all that the
/// connector needs. In words.
///
/// # Errors
/// What is wrong, with the remedy.
pub async fn migrate(config: &Config, check_only: bool) -> Result<String, AppError> {
    let done = if check_only { store::check(&config.store_url).await } else { store::migrate(&config.store_url).await };
    done.map_err(store_fault)
}

/// Listeners, bound before anything is built on them.
struct Bound {
    data: TcpListener,
    admin: TcpListener,
    probe: TcpListener,
    http: TcpListener,
    public_http: Option<TcpListener>,
}

impl Bound {
    async fn open(config: &Config) -> Result<Bound, AppError> {
        let open = async |key, address: SocketAddr| {
            TcpListener::bind(address).await.map_err(|source| AppError::Listen { key, address, source })
        };
        Ok(Bound {
            data: open("data_listen", config.data_listen).await?,
            admin: open("admin_listen", config.admin_listen).await?,
            probe: open("probe_listen", config.probe_listen).await?,
            http: open("http_listen", config.http_listen).await?,
            public_http: match config.public_http_listen() {
                Some(address) => Some(open("public_http_listen", address).await?),
                None => None,
            },
        })
    }

    fn addresses(&self) -> Result<Addresses, AppError> {
        let of = |listener: &TcpListener| listener.local_addr().map_err(|error| AppError::Start(error.to_string()));
        Ok(Addresses {
            data: of(&self.data)?,
            admin: of(&self.admin)?,
            probe: of(&self.probe)?,
            http: of(&self.http)?,
            public_http: self.public_http.as_ref().map(of).transpose()?,
        })
    }
}

/// HTTP/2 as API-DESIGN d.2 has it; every number stands in `limits` with its reason.
fn server(config: &Config) -> Server {
    Server::builder()
        .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(limits::CONCURRENT_STREAMS_MAX)
        .max_frame_size(limits::FRAME_BYTES_MAX)
        .http2_max_header_list_size(limits::HEADER_LIST_BYTES_MAX)
        .http2_keepalive_interval(Some(limits::KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(limits::KEEPALIVE_TIMEOUT))
        // Without tonic's grace: with it the GOAWAY is skipped and connections are only cut.
        .max_connection_age(config.connection_age)
}

async fn told<E: fmt::Display>(what: &'static str, serving: impl Future<Output = Result<(), E>>) {
    if let Err(error) = serving.await {
        tracing::error!(%error, "the {what} broke down");
    }
}

async fn start_emulator(config: &mut Config, clock: SharedClock) -> Result<Emulator, AppError> {
    let options = emulator::Options { clock, contents_on_disk: true, ..emulator::Options::default() };
    let emulator = Emulator::start(options).await.map_err(|error| AppError::Start(error.to_string()))?;
    let addresses = emulator.addresses();
    for (url, address) in [
        (&mut config.dropbox_api_url, &addresses.api),
        (&mut config.dropbox_content_url, &addresses.content),
        (&mut config.dropbox_notify_url, &addresses.notify),
        (&mut config.dropbox_oauth_url, &addresses.www),
    ] {
        *url = address.parse().map_err(|_| AppError::Start("the emulator's address is not a url".into()))?;
    }
    Ok(emulator)
}

/// The application parameter `demo`, linked to the emulator's account, with every permission.
async fn make_demo_parameter(store: &Store, resolver: &Resolver, emulator: &Emulator) -> Result<(), Fault> {
    let login = emulator.account();
    let id = ParameterId::new(DEMO_PARAMETER)?;
    let settings = store::Settings {
        display_name: "Demo".into(),
        app_source: store::AppSource::OwnApp,
        app_key: login.app_key,
        policy: store::Policy { permissions: Permission::ALL.to_vec(), ..store::Policy::default() },
        ..store::Settings::default()
    };
    match store.create_parameters(&id, settings, Some(Secret::new(login.app_secret))).await {
        Err(fault) if fault.reason() != Reason::ApplicationParameterExists => return Err(fault),
        // A store that was kept: the emulator is new, so its grant is given again.
        _ => resolver.import(&id, Credential::RefreshToken(Secret::new(login.refresh_token))).await?,
    };
    Ok(())
}

/// What the configuration says about connecting accounts.
fn oauth(config: &Config) -> Result<OAuth, AppError> {
    let secret = match config.app_secret_file() {
        None => None,
        Some(file) => {
            let text = std::fs::read_to_string(file).map(Secret::new).map_err(|error| {
                AppError::Config(format!("app_secret_file: cannot read {}: {error}", file.display()))
            })?;
            let secret = text.reveal().trim();
            if secret.is_empty() {
                return Err(AppError::Config(format!("app_secret_file: {} is empty", file.display())));
            }
            Some(Secret::new(secret.to_owned()))
        }
    };
    let key = (!config.app_key.is_empty()).then(|| config.app_key.clone());
    Ok(OAuth {
        shared_app: key.map(|key| DropboxApp { key, secret }),
        redirect_uris: config.oauth_redirect_uris.clone(),
    })
}

fn endpoints(config: &Config) -> Endpoints {
    Endpoints {
        api: config.dropbox_api_url.clone(),
        content: config.dropbox_content_url.clone(),
        notify: config.dropbox_notify_url.clone(),
        oauth: config.dropbox_oauth_url.clone(),
    }
}

/// The first error somebody with a real account meets says what to do.
fn key_fault(fault: &Fault, config: &Config) -> AppError {
    let remedy = match config.key_source() {
        KeySource::File(file) if !file.exists() => {
            format!("; make it with `dropbox-connector keys generate {}`", file.display())
        }
        _ => String::new(),
    };
    AppError::Config(format!("{}{remedy}", fault.message()))
}

fn config_fault(fault: Fault) -> AppError {
    AppError::Config(fault.message().to_owned())
}

/// With the cause: an operator has to know which of disk, path and permission it is.
fn store_fault(fault: Fault) -> AppError {
    let cause = std::error::Error::source(&fault).map(|cause| format!(": {cause}")).unwrap_or_default();
    match fault.reason() {
        Reason::InvalidField => AppError::Config(format!("{}{cause}", fault.message())),
        // What may pass is told to callers in words that do not help here.
        _ if fault.retry_delay().is_some() => AppError::Start(format!("store_url: the store cannot be opened{cause}")),
        _ => AppError::Start(format!("store_url: {}{cause}", fault.message())),
    }
}

fn start_fault(fault: Fault) -> AppError {
    AppError::Start(fault.to_string())
}
