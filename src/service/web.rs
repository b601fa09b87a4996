//! gRPC-Web on the data listener, for pages in browsers: unary calls and server streams. A page may call if its origin is on
//! the list; a request that comes from any other is refused before routing, whether or not a browser would have shown the
//! answer. No wildcard, no credentials mode. Callers that are no browsers send no `Origin` and are not concerned.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::future::{Either, Ready, ready};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use tonic::body::Body;
use tonic_web::GrpcWebLayer;
use tower::{Layer, Service, layer::util::Stack};
use tower_http::cors::CorsLayer;

use super::{audit, guard, listener::Peer, stranger::Stranger};
use crate::config::Config;

/// Request headers a page may set. `x-user-agent` is what Google's own gRPC-Web client sends with every call.
const ALLOWED: [&str; 7] = [
    "authorization",
    "content-type",
    "grpc-timeout",
    "x-application-parameter-id",
    "x-grpc-web",
    "x-request-id",
    "x-user-agent",
];
/// Response headers a page may read.
const EXPOSED: [&str; 4] = ["grpc-status", "grpc-message", "grpc-status-details-bin", "x-request-id"];
/// Browsers ask no more often than that; most cap it at two hours anyway.
const PREFLIGHT_LIFE: Duration = Duration::from_secs(2 * 3600);

/// From the outside in: origins, CORS headers and preflight, gRPC-Web to gRPC.
pub type WebLayer = Stack<GrpcWebLayer, Stack<CorsLayer, OriginLayer>>;

/// `None` unless gRPC-Web is on.
pub fn layer(config: &Config) -> Option<WebLayer> {
    if !config.grpc_web {
        return None;
    }
    let origins: Vec<HeaderValue> =
        config.grpc_web_origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()).collect();
    let cors = CorsLayer::new()
        .allow_origin(origins.clone())
        .allow_methods([Method::POST])
        .allow_headers(ALLOWED.map(HeaderName::from_static))
        .expose_headers(EXPOSED.map(HeaderName::from_static))
        .max_age(PREFLIGHT_LIFE);
    let origins = OriginLayer { origins: origins.into() };
    Some(Stack::new(GrpcWebLayer::new(), Stack::new(cors, origins)))
}

/// On a request of a page that may call; the guard takes no other page's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Welcome;

/// Refuses requests from pages of other origins.
#[derive(Debug, Clone)]
pub struct OriginLayer {
    origins: Arc<[HeaderValue]>,
}

impl<S> Layer<S> for OriginLayer {
    type Service = OriginGate<S>;

    fn layer(&self, inner: S) -> OriginGate<S> {
        OriginGate { origins: self.origins.clone(), inner }
    }
}

#[derive(Debug, Clone)]
pub struct OriginGate<S> {
    origins: Arc<[HeaderValue]>,
    inner: S,
}

impl<S, B> Service<Request<B>> for OriginGate<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<Ready<Result<Response<Body>, S::Error>>, S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let is_stranger = |origin| !self.origins.contains(origin);
        if request.headers().get_all(header::ORIGIN).iter().any(is_stranger) {
            let fault = Stranger::Page.fault();
            let remote = request.extensions().get::<Peer>().and_then(|peer| peer.remote);
            let (rpc, request_id) =
                (request.uri().path().trim_start_matches('/'), guard::request_id(request.headers()));
            audit::refused(rpc, &request_id, None, None, remote, &fault);
            let mut refusal = Response::new(Body::new(
                "pages of this origin may not call; grpc_web_origins names those that may\n".to_owned(),
            ));
            *refusal.status_mut() = StatusCode::FORBIDDEN;
            refusal.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            return Either::Left(ready(Ok(refusal)));
        }
        request.extensions_mut().insert(Welcome);
        Either::Right(self.inner.call(request))
    }
}
