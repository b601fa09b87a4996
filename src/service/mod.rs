//! The gRPC face. A handler opens, converts, calls, converts; what takes several calls is the engine's.
//! [`Doors`] makes what each listener serves; `connector.rs` is the table of contents.

mod about;
mod active;
mod admin;
mod audit;
mod call;
mod changes;
mod commits;
mod connector;
#[cfg(test)]
mod counted_tests;
mod door;
mod download;
mod doze;
mod duplex;
mod events;
mod filter;
mod frames;
mod guard;
mod health;
mod incoming;
mod items;
mod json;
mod lift;
pub mod listener;
mod once;
mod open_calls;
mod opening;
mod pages;
mod parameters;
mod pieces;
mod raw_api;
mod reception;
mod replace;
mod sharing;
mod status;
mod stranger;
mod sync;
mod transfer;
mod unread;
mod walk;
mod web;

use std::{fmt, sync::Arc, time::SystemTime};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{codec::CompressionEncoding, service::Routes};
use tonic_health::pb::health_server::HealthServer;

use self::{
    about::About, admin::Admin, changes::Changes, connector::Connector, door::Door, events::Events, health::Health,
    items::Items, raw_api::RawApi, sharing::Sharing, sync::Plans, transfer::Transfer,
};
use crate::{
    access::Authenticator,
    api::{
        self,
        v1::{
            dropbox_admin_connector_server::DropboxAdminConnectorServer,
            dropbox_connector_server::DropboxConnectorServer,
        },
    },
    clock::SharedClock,
    config::Config,
    credentials::Resolver,
    engine::{batches::Batches, download::Downloads, gate::Gates, upload::Uploads},
    events::Hub,
    limits::{ADMIN_MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX},
    ready::Ready,
    store::Store,
};

pub use guard::{Guard, GuardLayer};
pub use incoming::{Line, cuttable};
pub use open_calls::OpenCalls;
pub use web::layer as web_layer;

const DATA: &str = "dropboxconnector.v1.DropboxConnector";
const ADMIN: &str = "dropboxconnector.v1.DropboxAdminConnector";
const HEALTH: &str = "grpc.health.v1.Health";

/// Full names of our services; health knows each, on every listener.
pub const SERVICES: [&str; 2] = [DATA, ADMIN];

/// What the services are built of.
#[expect(missing_debug_implementations, reason = "taken apart at once, never shown")]
pub struct Parts {
    pub hub: Hub,
    pub resolver: Arc<Resolver>,
    pub store: Store,
    pub uploads: Uploads,
    pub downloads: Downloads,
    pub gates: Arc<Gates>,
    pub authenticator: Authenticator,
    pub ready: Ready,
    pub clock: SharedClock,
    /// Cancelled when new calls are to be refused.
    pub draining: CancellationToken,
    /// Holds what goes on beside the calls that began it.
    pub tasks: TaskTracker,
    pub config: Config,
    pub started_at: SystemTime,
}

/// What each listener serves.
pub struct Doors {
    connector: Connector,
    admin: Admin,
    health: Health,
    layer: GuardLayer,
    reflection: bool,
}

impl Doors {
    pub fn new(parts: Parts) -> Doors {
        let Parts {
            hub,
            resolver,
            store,
            uploads,
            downloads,
            gates,
            authenticator,
            ready,
            clock,
            draining,
            tasks,
            config,
            started_at,
        } = parts;
        let batches = Batches::new(gates.clone(), clock.clone(), tasks.clone());
        let door = Door { resolver, keys: store.keys().clone(), store, gates, batches, clock, tasks };
        let connector = Connector {
            transfer: Transfer { door: door.clone(), uploads, downloads },
            items: Items { door: door.clone() },
            changes: Changes { door: door.clone() },
            sharing: Sharing { door: door.clone() },
            raw_api: RawApi { door: door.clone() },
            events: Events::new(door.clone(), hub.clone(), config.max_watches, config.max_stream_age, draining.clone())
                .into(),
            plans: Plans::new(door.clone(), hub.clone(), config.plan_idle),
            about: About::new(&config, started_at, hub),
        };
        Doors {
            connector,
            admin: Admin { door },
            health: Health { ready, draining: draining.clone() },
            layer: GuardLayer { authenticator, draining, open_calls: OpenCalls::default() },
            reflection: config.reflection,
        }
    }

    /// Goes before the routes of the data and admin listeners. The probe listener has none: probes cannot authenticate.
    pub fn layer(&self) -> GuardLayer {
        self.layer.clone()
    }

    pub fn open_calls(&self) -> OpenCalls {
        self.layer.open_calls.clone()
    }

    pub fn data(&self) -> Routes {
        // Which answers are compressed is the guard's choice: it hides the offer from all others.
        let service = DropboxConnectorServer::new(self.connector.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .accept_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Zstd)
            .send_compressed(CompressionEncoding::Gzip);
        self.reflected(Routes::new(service).add_service(self.health()), DATA)
    }

    pub fn admin(&self) -> Routes {
        let service = DropboxAdminConnectorServer::new(self.admin.clone())
            .max_decoding_message_size(ADMIN_MESSAGE_BYTES_MAX)
            .accept_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Zstd)
            .send_compressed(CompressionEncoding::Gzip);
        self.reflected(Routes::new(service).add_service(self.health()), ADMIN)
    }

    /// Health alone.
    pub fn probe(&self) -> Routes {
        Routes::new(self.health())
    }

    fn health(&self) -> HealthServer<Health> {
        HealthServer::new(self.health.clone())
    }

    /// Reflection in both versions, listing this listener's services only. Error details print in clear with it.
    fn reflected(&self, routes: Routes, service: &str) -> Routes {
        if !self.reflection {
            return routes;
        }
        let builder = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(api::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                .with_service_name(service)
                .with_service_name(HEALTH)
                .with_service_name("grpc.reflection.v1.ServerReflection")
                .with_service_name("grpc.reflection.v1alpha.ServerReflection")
        };
        let sound = "the descriptor sets are made by the build and hold these services";
        routes
            .add_service(
                builder()
                    .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
                    .register_encoded_file_descriptor_set(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET)
                    .build_v1()
                    .expect(sound),
            )
            .add_service(
                builder()
                    .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
                    .register_encoded_file_descriptor_set(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET)
                    .build_v1alpha()
                    .expect(sound),
            )
    }
}

impl fmt::Debug for Doors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doors").field("reflection", &self.reflection).finish_non_exhaustive()
    }
}
