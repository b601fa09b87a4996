//! The composition root and the life of the process: everything is built here, given its addresses, run and drained.
//! Ports are bound only after the configuration, the keys and the store have been found good.

mod emulated;
mod error;
mod life;
mod listeners;
mod offline;
mod upkeep;

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    access::{Authenticator, tls::Tls},
    clock::{SharedClock, SystemClock},
    config::Config,
    credentials::{App as DropboxApp, OAuth, Resolver},
    dropbox::{Endpoints, Transport, read_roots},
    emulator::Emulator,
    engine::{
        blocks::Blocks,
        download::Downloads,
        gate::Gates,
        upload::{Budget, Settings, Uploads},
    },
    events::{self, Hub},
    http, limits,
    ready::Ready,
    seal::{KeyRing, KeySource},
    secret::Secret,
    service::{self, Doors},
    store::Store,
    telemetry,
};

use self::{
    error::{config_fault, key_fault, start_fault, store_fault},
    life::Life,
    listeners::Bound,
};
pub use emulated::DEMO_PARAMETER;
pub use error::AppError;
pub use offline::{Imported, OnConflict, check_parameters_file, export, import, key_use, migrate, rotate};

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

impl App {
    /// Builds everything and opens the ports.
    ///
    /// # Errors
    /// A setting, key or store that cannot be used, before any port is bound; a port that is taken.
    pub async fn start(config: Config) -> Result<App, AppError> {
        Box::pin(App::start_with(config, Arc::new(SystemClock))).await
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
        if let Some(mode) = config.key_source().open_to_all().filter(|_| !fleeting) {
            let file = config.sealing_key_file.display();
            tracing::warn!(%file, mode = format!("{mode:o}"), "everybody on this machine may read the sealing keys: chmod 600");
        }
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
        let emulator = if config.emulator { Some(emulated::start(&mut config, clock.clone()).await?) } else { None };
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
            emulated::make_demo_parameter(&store, &resolver, emulator).await.map_err(start_fault)?;
        }
        let budget = usize::try_from(config.transfer_buffer_mib * limits::MIB).unwrap_or(usize::MAX);
        // One budget: what waits to be let in, and what is read on behind an answer, is paid for beside what was let in.
        let budget = Budget::of(budget);
        let blocks = Blocks::new(budget.blocks, clock.clone());
        let (gates, fleet) = Gates::on(&store);
        let settings = Settings {
            append_bytes: usize::try_from(config.append_mib * limits::MIB).unwrap_or(limits::APPEND_BYTES),
            open_max: config.max_uploads,
            waiting_bytes: budget.waiting,
            leaving_bytes: budget.leaving,
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
            hub,
            webhooks: config.webhooks,
        };
        life.serve(&config, bound, &doors, tls.clone(), face);
        ready.set_callers(authenticator.is_ready());
        life.keep_house(clock.clone(), resolver, blocks, downloads);
        life.keep_leases(fleet);
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
