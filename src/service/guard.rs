//! The layer every call passes: is it a gRPC client's, request id, drain, who calls, deadline, span, and one log line at its
//! end. Health goes through without being asked who. What is refused here never reaches a handler.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use futures::{FutureExt as _, future::BoxFuture};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Frame, SizeHint};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};
use tracing::Instrument as _;

use super::{
    audit,
    call::{Call, Facts},
    doze::Doze,
    lift::Lifting,
    listener::Peer,
    open_calls::{Entered, OpenCalls},
    opening::{Coding, Opening},
    pieces, status,
    stranger::Stranger,
    unread,
};
use crate::{
    access::{self, Authenticator, Certificate, Class, Permission, Principal},
    api,
    fault::{Fault, Reason, Result},
    limits::{DEADLINE_MAX, DRAINING_RETRY, FRAME_GATHERED_BYTES, FRAMES_GATHERED_BYTES_MAX, UNARY_DEADLINE_DEFAULT},
};

const REQUEST_ID: &str = "x-request-id";
const DROPBOX_REQUEST_ID: &str = "x-dropbox-request-id";
const PARAMETER_ID: &str = "x-application-parameter-id";
const REQUEST_ID_BYTES_MAX: usize = 128;
/// A handler stops this long before the caller's own clock runs out, so that its answer still arrives.
const DEADLINE_MARGIN: Duration = Duration::from_millis(50);
/// Streams end when they are done; only a deadline of their own bounds them.
const STREAMS: [&str; 6] = ["UploadFile", "UploadFileDuplex", "DownloadFile", "PlanSync", "WalkFolder", "WatchEvents"];
/// Answers that are streams: no single answer of Dropbox made them.
const ANSWERED_IN_STREAMS: [&str; 5] = ["UploadFileDuplex", "DownloadFile", "PlanSync", "WalkFolder", "WatchEvents"];
/// Streams whose first message is held to its size.
const UPLOADS: [&str; 2] = ["UploadFile", "UploadFileDuplex"];
/// Streams of answers that end when their application parameter may not be used any more.
const READING_STREAMS: [&str; 3] = ["DownloadFile", "WalkFolder", "WatchEvents"];
/// Answers of which thousands go out at once.
const GATHERED: &str = "WatchEvents";
/// Answers that compress well and are not file content.
const COMPRESSED: [&str; 8] = [
    "ListFolder",
    "ListSharedLinks",
    "PlanSync",
    "PullEvents",
    "SearchItems",
    "WalkFolder",
    "WatchEvents",
    "ListApplicationParameters",
];

/// Puts a [`Guard`] before a service.
#[derive(Debug, Clone)]
pub struct GuardLayer {
    pub authenticator: Authenticator,
    /// Cancelled when new calls are to be refused.
    pub draining: CancellationToken,
    pub open_calls: OpenCalls,
}

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Guard<S> {
        Guard { layer: self.clone(), inner }
    }
}

#[derive(Debug, Clone)]
pub struct Guard<S> {
    layer: GuardLayer,
    inner: S,
}

impl<S> Service<Request<Body>> for Guard<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The clone that was polled ready goes on; a fresh one takes its place.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        let begun = Instant::now();
        let rpc = request.uri().path().trim_start_matches('/').to_owned();
        if let Some(stranger) = Stranger::of(&request) {
            return Box::pin(std::future::ready(Ok(refused(stranger, &rpc, &request, begun))));
        }
        if rpc.starts_with("grpc.health.") {
            return Box::pin(async move { inner.call(request).await });
        }
        let layer = self.layer.clone();
        Box::pin(async move {
            let request_id = request_id(request.headers());
            let peer = request.extensions().get::<Peer>().cloned();
            let call = match layer.admit(&rpc, &request_id, request.headers(), peer.as_ref(), begun).await {
                Ok(call) => call,
                Err(fault) => {
                    record(&rpc, status::code(fault.reason()), begun);
                    return Ok(told(status::refusal(&fault, &request_id), &request_id));
                }
            };
            let entered = layer.open_calls.enter(&call);
            handle(request, call, inner, entered).await
        })
    }
}

/// The answer to who is no gRPC client.
fn refused(stranger: Stranger, rpc: &str, request: &Request<Body>, begun: Instant) -> Response<Body> {
    let (fault, request_id) = (stranger.fault(), request_id(request.headers()));
    let remote = request.extensions().get::<Peer>().and_then(|peer| peer.remote);
    audit::refused(rpc, &request_id, None, text(request.headers(), PARAMETER_ID), remote, &fault);
    record(rpc, status::code(fault.reason()), begun);
    stranger.answer(&fault, &request_id)
}

/// What was admitted.
async fn handle<S>(
    mut request: Request<Body>,
    call: Call,
    mut inner: S,
    entered: Entered,
) -> Result<Response<Body>, Infallible>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    // The handler's answer is the only one that says DEADLINE_EXCEEDED, and only some answers are worth compressing.
    request.headers_mut().remove("grpc-timeout");
    if !COMPRESSED.contains(&call.method()) {
        request.headers_mut().remove("grpc-accept-encoding");
    }
    if UPLOADS.contains(&call.method()) {
        let coding = call.facts().coding;
        request = request.map(|body| Opening::guard(body, coding));
        // What is compressed has to be decoded anyway.
        if coding.is_none() {
            let (head, body) = request.into_parts();
            let (body, lifted) = Lifting::before(body);
            let _ = call.facts().lifted.set(lifted);
            request = Request::from_parts(head, body);
        }
    }
    request.extensions_mut().insert(call.clone());
    let span = tracing::info_span!("rpc", rpc = call.facts().rpc, request_id = call.request_id());
    let end = End { call: call.clone(), code: OnceLock::new(), _entered: entered };
    async move {
        let response = match call.deadline() {
            None => inner.call(request).await?,
            Some(deadline) if deadline <= Instant::now() => {
                let fault = Fault::new(Reason::DeadlineExceeded, "the call's deadline had passed when it arrived");
                told(call.refusal(&fault.fact("sent", false)), call.request_id())
            }
            Some(deadline) => match tokio::time::timeout_at(deadline.into(), inner.call(request)).await {
                Ok(response) => response?,
                Err(_) => told(call.refusal(&too_late(&call)), call.request_id()),
            },
        };
        Ok(watch(response, &call, end))
    }
    .instrument(span)
    .await
}

impl GuardLayer {
    async fn admit(
        &self,
        rpc: &str,
        request_id: &str,
        headers: &HeaderMap,
        peer: Option<&Peer>,
        now: Instant,
    ) -> Result<Call> {
        if self.draining.is_cancelled() {
            return Err(Fault::new(Reason::ServerDraining, "this server is going down").retry_after(DRAINING_RETRY));
        }
        let remote = peer.and_then(|peer| peer.remote);
        let parameter_metadata = text(headers, PARAMETER_ID).map(str::to_owned);
        let told = |fault: Fault, principal: Option<&Principal>| {
            let principal = principal.map(Principal::name);
            audit::refused(rpc, request_id, principal, parameter_metadata.as_deref(), remote, &fault);
            fault
        };
        // What is sent but cannot be read is not the same as nothing: it must not fall back to a certificate.
        let authorization = headers.get(http::header::AUTHORIZATION).map(|value| value.to_str().unwrap_or_default());
        let certificate = peer.map_or(&Certificate::None, |peer| &peer.certificate);
        let principal = self.authenticator.authenticate(authorization, certificate).await;
        let principal = principal.map_err(|fault| told(fault, None))?;
        let class = class(rpc, &principal).map_err(|fault| told(fault, Some(&principal)))?;
        let method = rpc.rsplit('/').next().unwrap_or_default();
        let deadline = deadline(headers, now, STREAMS.contains(&method))?;
        Ok(Call::new(Facts {
            rpc: rpc.to_owned(),
            class,
            principal,
            request_id: request_id.to_owned(),
            remote,
            begun: now,
            deadline,
            parameter_metadata,
            coding: Coding::of(headers),
            lifted: OnceLock::new(),
            heard: Arc::default(),
            parameter: OnceLock::new(),
            ending: OnceLock::new(),
            reason: OnceLock::new(),
        }))
    }
}

/// What the RPC asks of its caller. Methods of our services without a class are refused, others are reflection's.
fn class(rpc: &str, principal: &Principal) -> Result<Class> {
    let (service, method) = rpc.split_once('/').unwrap_or((rpc, ""));
    if !service.starts_with("dropboxconnector.") {
        return Ok(Class::Anyone);
    }
    // A method that is not in the table does not exist and the router answers UNIMPLEMENTED; one that was forgotten there
    // takes a right that no policy grants by itself.
    let class = access::class(method).unwrap_or(Class::Needs(Permission::Team));
    if class == Class::Admin {
        principal.require_admin()?;
    }
    Ok(class)
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The caller's id if it is fit to be logged and sent back, else a new one.
pub(super) fn request_id(headers: &HeaderMap) -> String {
    text(headers, REQUEST_ID)
        .filter(|id| {
            !id.is_empty() && id.len() <= REQUEST_ID_BYTES_MAX && id.bytes().all(|b| (0x20..0x7f).contains(&b))
        })
        .map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned)
}

/// Until when the handler may work: a little before the caller's own clock runs out.
fn deadline(headers: &HeaderMap, now: Instant, stream: bool) -> Result<Option<Instant>> {
    let asked = match headers.get("grpc-timeout") {
        None if stream => return Ok(None),
        None => UNARY_DEADLINE_DEFAULT,
        Some(value) => value.to_str().ok().and_then(timeout).ok_or_else(|| {
            Fault::field("grpc-timeout", "MALFORMED", "at most 8 digits and one of the units H M S m u n")
        })?,
    };
    let span = if stream { asked } else { asked.min(DEADLINE_MAX) };
    Ok(now.checked_add(span - DEADLINE_MARGIN.min(span / 10)))
}

/// The value of a `grpc-timeout` header.
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

fn too_late(call: &Call) -> Fault {
    let fault = Fault::new(Reason::DeadlineExceeded, "the call's deadline has passed");
    match call.facts().class {
        Class::Needs(Permission::Read | Permission::Events) | Class::Anyone => fault,
        // What the handler was at when it was dropped is not known here.
        _ => fault.fact("sent", true),
    }
}

pub(super) fn told(status: Status, request_id: &str) -> Response<Body> {
    let mut response = status.into_http();
    name(&mut response, request_id);
    response
}

fn name(response: &mut Response<Body>, request_id: &str) {
    if let Ok(value) = HeaderValue::from_str(request_id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
}

fn watch(mut response: Response<Body>, call: &Call, end: End) -> Response<Body> {
    let ours = call.facts().rpc.starts_with("dropboxconnector.");
    if let Some(fault) = unread::refused(response.headers(), call.facts().class == Class::Admin).filter(|_| ours) {
        response = call.refusal(&fault).into_http();
    }
    name(&mut response, call.request_id());
    if let Some(code) = response.headers().get("grpc-status") {
        end.saw(code);
        return response;
    }
    let overdue = call.deadline().map(|deadline| Box::pin(tokio::time::sleep_until(deadline.into())));
    // Uploads heed it among their frames, so that what they have sent is settled and told.
    let reads = READING_STREAMS.contains(&call.method());
    let ending = call.facts().ending.get().filter(|_| reads).cloned();
    let taken_away = ending.map(|ending| Doze::new(ending.ended()));
    let gathers = call.method() == GATHERED;
    let rest = bytes::Bytes::new();
    let beside = pieces::beside(&mut response).map(Body::new);
    response.map(|inner| {
        let inner = Some(beside.unwrap_or(inner));
        Body::new(Watched { inner, overdue, taken_away, end, gathers, rest })
    })
}

/// The answer's body: ended at the deadline, its status seen for the log line.
struct Watched {
    /// `None` once it has ended: what it held is let go at once.
    inner: Option<Body>,
    overdue: Option<Pin<Box<tokio::time::Sleep>>>,
    /// The application parameter may not be used any more.
    taken_away: Option<Doze<Fault>>,
    end: End,
    /// Its frames are small, and go out with those of others (`listener.rs`).
    gathers: bool,
    /// Of a message that is too large for that and was cut.
    rest: bytes::Bytes,
}

impl Watched {
    fn piece(&mut self) -> bytes::Bytes {
        self.rest.split_to(self.rest.len().min(FRAME_GATHERED_BYTES))
    }
}

impl http_body::Body for Watched {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, Status>>> {
        let this = &mut *self;
        if !this.rest.is_empty() {
            // Before anything that may end it: half a message is none.
            return Poll::Ready(Some(Ok(Frame::data(this.piece()))));
        }
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        let late = this.overdue.as_mut().is_some_and(|overdue| overdue.as_mut().poll(context).is_ready());
        let late = late.then(|| too_late(&this.end.call));
        let stop = late.or_else(|| match this.taken_away.as_mut()?.poll_unpin(context) {
            Poll::Ready(fault) => Some(fault),
            Poll::Pending => None,
        });
        if let Some(fault) = stop {
            this.inner = None;
            let status = this.end.call.refusal(&fault);
            let mut trailers = HeaderMap::new();
            if status.add_header(&mut trailers).is_err() {
                return Poll::Ready(Some(Err(status)));
            }
            this.end.set(status.code());
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        let mut frame = ready!(Pin::new(inner).poll_frame(context));
        match &mut frame {
            Some(Ok(frame)) => {
                let cut = FRAME_GATHERED_BYTES + 1..=FRAMES_GATHERED_BYTES_MAX;
                if let Some(data) = frame.data_mut().filter(|data| this.gathers && cut.contains(&data.len())) {
                    this.rest = std::mem::take(data);
                    *data = this.rest.split_to(FRAME_GATHERED_BYTES);
                }
                if let Some(trailers) = frame.trailers_mut()
                    && let Some(code) = trailers.get("grpc-status")
                {
                    this.end.saw(code);
                    this.end.name_answer(trailers);
                }
            }
            Some(Err(status)) => this.end.set(status.code()),
            None => this.inner = None,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), http_body::Body::size_hint)
    }
}

/// Tells how the call ended, when the last of it is gone.
struct End {
    call: Call,
    code: OnceLock<Code>,
    _entered: Entered,
}

impl End {
    fn saw(&self, code: &HeaderValue) {
        self.set(Code::from_bytes(code.as_bytes()));
    }

    /// Dropbox's id of the one answer that made ours, as errors have it.
    fn name_answer(&self, trailers: &mut HeaderMap) {
        if self.code.get() == Some(&Code::Ok)
            && !ANSWERED_IN_STREAMS.contains(&self.call.method())
            && let Some(id) = self.call.heard().only()
            && let Ok(id) = HeaderValue::from_str(&id)
        {
            trailers.insert(DROPBOX_REQUEST_ID, id);
        }
    }

    fn set(&self, code: Code) {
        let _ = self.code.set(code);
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // Without a status the caller has left.
        let code = self.code.get().copied().unwrap_or(Code::Cancelled);
        let facts = self.call.facts();
        record(&facts.rpc, code, facts.begun);
        audit::ended(facts, code, name_of(code));
        let reason = facts.reason.get().map(|reason| reason.name());
        let millis = u64::try_from(facts.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        macro_rules! told {
            ($level:ident) => {
                tracing::$level!(
                    rpc = facts.rpc,
                    request_id = facts.request_id,
                    principal = facts.principal.name(),
                    parameter = facts.parameter.get().map(String::as_str),
                    code = name_of(code),
                    reason,
                    millis,
                    "call"
                )
            };
        }
        // Tools ask for the schema before every call; that is nobody's news.
        if facts.rpc.starts_with("grpc.reflection.") { told!(debug) } else { told!(info) }
    }
}

fn record(rpc: &str, code: Code, begun: Instant) {
    // Only names of our own may be labels: a caller can make up any path.
    let known = METHODS.get_or_init(methods);
    let method = known.iter().find(|known| known.as_str() == rpc).cloned().unwrap_or_else(|| "_OTHER".into());
    metrics::histogram!(
        crate::telemetry::RPC_DURATION,
        "rpc.method" => method,
        "rpc.response.status_code" => name_of(code),
    )
    .record(begun.elapsed().as_secs_f64());
}

static METHODS: OnceLock<Arc<[String]>> = OnceLock::new();

fn methods() -> Arc<[String]> {
    use prost::Message as _;
    let set = prost_types::FileDescriptorSet::decode(api::FILE_DESCRIPTOR_SET).expect("the build made it");
    set.file
        .iter()
        .flat_map(|file| file.service.iter().map(move |service| (file.package(), service)))
        .flat_map(|(package, service)| {
            service.method.iter().map(move |method| format!("{package}.{}/{}", service.name(), method.name()))
        })
        .collect()
}

fn name_of(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer() -> GuardLayer {
        GuardLayer {
            authenticator: Authenticator::open_door(),
            draining: CancellationToken::new(),
            open_calls: OpenCalls::default(),
        }
    }

    /// Answers OK at once, or never.
    #[derive(Clone)]
    struct Handler {
        answers: bool,
    }

    impl Service<Request<Body>> for Handler {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<Body>) -> Self::Future {
            let answers = self.answers;
            Box::pin(async move {
                if !answers {
                    std::future::pending::<()>().await;
                }
                let mut response = Response::new(Body::empty());
                for name in ["grpc-timeout", "grpc-accept-encoding"] {
                    assert!(request.headers().get(name).is_none());
                }
                assert!(request.extensions().get::<Call>().is_some());
                response.headers_mut().insert("grpc-status", HeaderValue::from_static("0"));
                Ok(response)
            })
        }
    }

    async fn call(layer: &GuardLayer, answers: bool, headers: &[(&'static str, &str)]) -> Response<Body> {
        let request = Request::post("/dropboxconnector.v1.DropboxConnector/GetItem");
        let mut request = request.header("content-type", "application/grpc").body(Body::empty()).unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        layer.layer(Handler { answers }).call(request).await.unwrap()
    }

    fn code(response: &Response<Body>) -> Code {
        Code::from_bytes(response.headers()["grpc-status"].as_bytes())
    }

    #[tokio::test]
    async fn a_handler_that_does_not_answer_ends_with_the_deadline() {
        let response = call(&layer(), false, &[("grpc-timeout", "30m"), ("x-request-id", "mine")]).await;
        assert_eq!(code(&response), Code::DeadlineExceeded);
        assert_eq!(response.headers()["x-request-id"], "mine");
        let response = call(&layer(), true, &[("grpc-timeout", "1x")]).await;
        assert_eq!(code(&response), Code::InvalidArgument);
    }

    #[tokio::test]
    async fn what_is_not_for_handlers_does_not_reach_them_and_ids_fit_for_logs_come_back() {
        let headers = [("grpc-timeout", "9S"), ("grpc-accept-encoding", "gzip"), ("x-request-id", "a b")];
        let response = call(&layer(), true, &headers).await;
        assert_eq!(
            (code(&response), &response.headers()["x-request-id"]),
            (Code::Ok, &HeaderValue::from_static("a b"))
        );
        let response = call(&layer(), true, &[("x-request-id", &"x".repeat(129))]).await;
        assert_eq!(response.headers()["x-request-id"].len(), 36);
    }

    #[tokio::test]
    async fn a_draining_server_refuses_new_calls_with_a_delay() {
        let layer = layer();
        layer.draining.cancel();
        let response = call(&layer, true, &[]).await;
        assert_eq!(code(&response), Code::Unavailable);
        assert_eq!(response.headers()["grpc-retry-pushback-ms"], "1000");
    }

    #[tokio::test]
    async fn a_caller_without_a_token_is_unauthenticated() {
        let (name, hash) = ("ci".to_owned(), "ab".repeat(32));
        let authenticator = Authenticator::new(crate::config::AuthMode::Token, [(&name, &hash)], &[]).unwrap();
        let layer = GuardLayer { authenticator, ..layer() };
        for headers in [&[][..], &[("authorization", "Bearer wrong")]] {
            assert_eq!(code(&call(&layer, true, headers).await), Code::Unauthenticated);
        }
    }

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        assert_eq!(timeout("1H"), Some(Duration::from_secs(3600)));
        assert_eq!(timeout("99999999n"), Some(Duration::from_nanos(99_999_999)));
        for bad in ["", "S", "123456789S", "1", "1s", "-1S", "1 S"] {
            assert_eq!(timeout(bad), None, "{bad}");
        }
        let headers = HeaderMap::new();
        let now = Instant::now();
        assert_eq!(deadline(&headers, now, true).unwrap(), None);
        assert_eq!(deadline(&headers, now, false).unwrap(), Some(now + UNARY_DEADLINE_DEFAULT - DEADLINE_MARGIN));
    }

    #[test]
    fn every_rpc_of_the_proto_has_a_class() {
        for rpc in methods().iter() {
            let method = rpc.rsplit('/').next().unwrap();
            assert!(access::class(method).is_some(), "{rpc} has no class in access::CLASSES");
        }
    }
}
