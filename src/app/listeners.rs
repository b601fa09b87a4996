//! The ports: bound before anything is built on them, so that a taken one is told at once.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use super::{Addresses, AppError};
use crate::config::Config;

/// Listeners, bound before anything is built on them.
pub(super) struct Bound {
    pub data: TcpListener,
    pub admin: TcpListener,
    pub probe: TcpListener,
    pub http: TcpListener,
    pub public_http: Option<TcpListener>,
}

impl Bound {
    pub(super) async fn open(config: &Config) -> Result<Bound, AppError> {
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

    pub(super) fn addresses(&self) -> Result<Addresses, AppError> {
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
