//! What runs, and how it ends: listeners that serve what was built, and the drain, which is one function.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::{Server, server::TcpIncoming};

use super::{AppError, listeners::Bound};
use crate::{
    access::tls::Tls,
    config::Config,
    engine::upload::Uploads,
    http, limits,
    ready::Ready,
    service::{self, Doors, OpenCalls, listener},
    store::Store,
};

/// What runs, and the switches that end it.
#[derive(Debug)]
pub(super) struct Life {
    pub ready: Ready,
    pub store: Store,
    pub uploads: Uploads,
    /// What calls left behind them.
    pub tasks: TaskTracker,
    /// New calls are refused.
    pub refusing: CancellationToken,
    /// Listeners close; connections are told to go.
    pub closing: CancellationToken,
    /// Connections that would not go are closed.
    pub cut: CancellationToken,
    pub open_calls: OpenCalls,
    /// The probe and HTTP listeners close, background tasks end.
    pub ended: CancellationToken,
    pub streams: Vec<JoinHandle<()>>,
    pub background: TaskTracker,
}

impl Life {
    pub(super) fn serve(
        &mut self,
        config: &Config,
        bound: Bound,
        doors: &Doors,
        tls: Option<Arc<Tls>>,
        face: http::Parts,
    ) {
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
            let (resolver, webhooks) = (face.resolver.clone(), face.webhooks.then(|| face.hub.clone()));
            let public = http::serve_public(listener, resolver, webhooks, self.ended.clone().cancelled_owned());
            self.background.spawn(told("public HTTP listener", public));
        }
        let side = http::serve(bound.http, face, self.ended.clone().cancelled_owned());
        self.background.spawn(told("HTTP listener", side));
    }

    pub(super) async fn drain(self, grace: Duration) -> Result<(), AppError> {
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
