//! The HTTP ports. Side port: `/metrics` for Prometheus, `/live` and `/ready` for probes that speak HTTP, and the connect page
//! where it is on. Public port, off by default: `/oauth/callback` and the style of its page, and `/webhook/…` where it is on.
//! No gRPC, no secrets, no paths of anybody's files. "Live" says only that the process runs; "ready" tells what is missing.

mod audit;
mod callback;
mod connect;
mod door;
mod lobby;
mod pages;
mod webhook;

use std::{future::Future, net::SocketAddr, sync::Arc};

use axum::{
    Extension, Router,
    extract::{ConnectInfo, State},
    http::{StatusCode, header},
    middleware,
    response::IntoResponse,
    routing::get,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::net::TcpListener;

use self::lobby::Lobby;
use crate::{
    access::Authenticator,
    credentials::{CALLBACK_PATH, Resolver},
    events::Hub,
    limits::{PUBLIC_CONNECTION_LIFE, PUBLIC_CONNECTIONS_MAX, PUBLIC_HEAD_TIME},
    ready::Ready,
    store::Store,
    telemetry,
};

/// What the ports are built of.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "taken apart at once, never shown")]
pub struct Parts {
    pub ready: Ready,
    pub resolver: Arc<Resolver>,
    pub store: Store,
    pub authenticator: Authenticator,
    /// Whether `/connect` is served.
    pub connect_page: bool,
    pub hub: Hub,
    /// Whether `/webhook/…` is served on the public port, and wakes the hub.
    pub webhooks: bool,
}

/// Serves the side port until `shutdown` ends; requests under way are finished.
///
/// # Errors
/// Whatever ends the listener.
pub async fn serve(
    listener: TcpListener,
    parts: Parts,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let mut router = Router::new()
        .route("/metrics", get(metrics).with_state((parts.ready.clone(), parts.hub.clone())))
        .route("/live", get(|| async { "live\n" }))
        .route("/ready", get(is_ready))
        .with_state(parts.ready.clone());
    if parts.connect_page {
        router = router.merge(connect::router(parts, listener.local_addr()?.port()));
    }
    axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>())
        .with_graceful_shutdown(shutdown)
        .await
}

/// Serves the public port, with the doorbell of `webhooks` if there is one, until `shutdown` ends. Anybody may come here, so
/// connections are few and short, and who is slow gives way to others.
///
/// # Errors
/// None: an accept that fails is told and tried again.
pub async fn serve_public(
    listener: TcpListener,
    resolver: Arc<Resolver>,
    webhooks: Option<Hub>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let router = Router::new().route(CALLBACK_PATH, get(callback::public)).with_state(resolver.clone());
    let mut router = router.route(connect::STYLE_PATH, get(connect::style));
    if let Some(hub) = webhooks {
        let bell = webhook::Bell { resolver, hub };
        let called = get(webhook::challenge).post(webhook::notify);
        router = router.merge(Router::new().route(webhook::PATH, called).with_state(bell));
    }
    let router = router.layer(middleware::from_fn(lobby::note_whole));
    let lobby = Lobby::new(PUBLIC_CONNECTIONS_MAX);
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let entered = async {
            let (stream, remote) = listener.accept().await?;
            Ok::<_, std::io::Error>((lobby.enter(remote.ip()).await, stream, remote))
        };
        let entered = tokio::select! {
            () = &mut shutdown => return Ok(()),
            entered = entered => entered,
        };
        let (place, stream, remote) = match entered {
            Ok(entered) => entered,
            Err(error) => {
                tracing::warn!(%error, "a connection to the public port could not be accepted");
                tokio::time::sleep(PUBLIC_HEAD_TIME / 100).await;
                continue;
            }
        };
        let service = router.clone().layer(Extension(place.ticket())).layer(Extension(ConnectInfo(remote)));
        let service = TowerToHyperService::new(service);
        tokio::spawn(async move {
            let serving = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PUBLIC_HEAD_TIME)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            // A browser that went away is nothing to tell.
            tokio::select! {
                _ = tokio::time::timeout(PUBLIC_CONNECTION_LIFE, serving) => {}
                () = place.needed() => {}
            }
        });
    }
}

async fn metrics(State((ready, hub)): State<(Ready, Hub)>) -> impl IntoResponse {
    metrics::gauge!(telemetry::HEALTH_STATUS, "service" => "readiness").set(f64::from(u8::from(ready.is_ready())));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], telemetry::render() + &lags(&hub))
}

fn lags(hub: &Hub) -> String {
    let laggards = hub.laggards().into_iter();
    let series = laggards.map(|one| ([one.parameter.as_str().to_owned(), one.mark], one.lag.as_secs_f64()));
    telemetry::render_series(telemetry::WATCH_SCOPE_LAG, ["application_parameter", "scope"], series)
}

async fn is_ready(State(ready): State<Ready>) -> impl IntoResponse {
    if ready.is_ready() {
        let notes: String = ready.facts().notes().iter().map(|note| format!("but {note}\n")).collect();
        (StatusCode::OK, format!("ready\n{notes}"))
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", ready.why().join(", ")))
    }
}
