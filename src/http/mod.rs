//! The side port: `/metrics` for Prometheus, `/live` and `/ready` for probes that speak HTTP. No gRPC, no secrets, no paths
//! of anybody's files. "Live" says only that the process runs; "ready" tells what is missing.

use std::{future::Future, net::SocketAddr};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use tokio::net::TcpListener;

use crate::{ready::Ready, telemetry};

/// Serves until `shutdown` ends; requests under way are finished.
///
/// # Errors
/// Whatever ends the listener.
pub async fn serve(
    listener: TcpListener,
    ready: Ready,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/live", get(|| async { "live\n" }))
        .route("/ready", get(is_ready))
        .with_state(ready);
    axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>())
        .with_graceful_shutdown(shutdown)
        .await
}

async fn metrics(State(ready): State<Ready>) -> impl IntoResponse {
    metrics::gauge!(telemetry::HEALTH_STATUS, "service" => "readiness").set(f64::from(u8::from(ready.is_ready())));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], telemetry::render())
}

async fn is_ready(State(ready): State<Ready>) -> impl IntoResponse {
    if ready.is_ready() {
        let notes: String = ready.facts().notes().iter().map(|note| format!("but {note}\n")).collect();
        (StatusCode::OK, format!("ready\n{notes}"))
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", ready.why().join(", ")))
    }
}
