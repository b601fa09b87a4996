//! One HTTP try: headers, body, our timeouts, and what came of it. Knows nothing of repeats.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, RANGE, RETRY_AFTER},
};
use reqwest::Response;

use super::{
    ActAs, Auth, Bearer, ByteRange, Facts, Style, Timeouts, Turn,
    body::{Pieces, Progress},
    transport::Transport,
};
use crate::{
    fault::{Fault, Reason, Result},
    limits,
};

/// What stays the same in every attempt of a call.
pub(super) struct Request<'a> {
    pub facts: &'a Facts,
    /// The argument, serialized.
    pub json: &'a str,
    /// Content of an upload.
    pub content: &'a [Bytes],
    /// A commit's: the gates it holds meanwhile.
    pub turn: Option<&'a Turn>,
    pub range: Option<ByteRange>,
    pub act_as: Option<&'a ActAs>,
    pub path_root: Option<&'a HeaderValue>,
    pub timeouts: Timeouts,
}

impl Request<'_> {
    /// Whether it queues with the bodies. The end of a session carries nothing, and a commit holds its gate while it waits:
    /// both go with the small calls.
    pub(super) fn carries_body(&self) -> bool {
        let uploads = self.content.iter().any(|piece| !piece.is_empty());
        self.facts.style == Style::Download || (uploads && self.turn.is_none())
    }
}

/// An answer with a status of success.
pub(super) enum Success {
    /// JSON, whole.
    Json(Bytes),
    /// Content, from its first byte.
    Content(Response),
}

/// Why there is none.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Dropbox answered with another status. The body is cut at `REFUSAL_BYTES_MAX`.
    Refused { status: StatusCode, retry_after: Option<Duration>, body: Bytes },
    /// The connection failed. `sent`: the request may have arrived.
    Broken { sent: bool, error: reqwest::Error },
    /// The proxy on the way let nothing through.
    Proxy(Fault),
    /// One of our timeouts.
    Timeout { sent: bool, phase: &'static str },
    /// A success whose answer cannot be taken.
    Unreadable(&'static str),
}

/// What came of one attempt.
pub(super) struct Outcome {
    pub request_id: Option<String>,
    pub status: Option<StatusCode>,
    pub result: Result<Success, Trouble>,
}

static API_ARG: HeaderName = HeaderName::from_static("dropbox-api-arg");
static PATH_ROOT: HeaderName = HeaderName::from_static("dropbox-api-path-root");
static SELECT_USER: HeaderName = HeaderName::from_static("dropbox-api-select-user");
static SELECT_ADMIN: HeaderName = HeaderName::from_static("dropbox-api-select-admin");

/// Sends the request once. `progress` tells, also to whoever drops this future, whether it began to leave.
///
/// # Errors
/// Only for requests that cannot be built; everything else is the outcome.
pub(super) async fn send(
    transport: &Transport,
    request: &Request<'_>,
    bearer: &Bearer,
    progress: &Arc<Progress>,
) -> Result<Outcome> {
    let facts = request.facts;
    let body = match facts.style {
        Style::Rpc => Some(Pieces::new(&[Bytes::copy_from_slice(request.json.as_bytes())], progress.clone())),
        Style::Upload => Some(Pieces::new(request.content, progress.clone())),
        Style::Download => None,
    };
    let watched = body.as_ref().is_some_and(|body| !http_body::Body::is_end_stream(body));
    if !watched {
        progress.begin();
    }
    let url = transport.url(facts)?;
    let mut builder = transport.client(facts.host)?.post(url.clone()).headers(headers(request, bearer)?);
    if let Some(body) = body {
        builder = builder.body(reqwest::Body::wrap(body));
    }
    let started = Instant::now();
    let timeouts = request.timeouts;
    let response = match timed(builder.send(), progress, watched, timeouts).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            let sent = !error.is_connect() && progress.begun();
            let error = error.without_url();
            let blamed = transport.blame(&url, &error).await;
            let trouble = blamed.map_or(Trouble::Broken { sent, error }, Trouble::Proxy);
            return Ok(Outcome { request_id: None, status: None, result: Err(trouble) });
        }
        Err(phase) => {
            let sent = phase != "connect";
            return Ok(Outcome { request_id: None, status: None, result: Err(Trouble::Timeout { sent, phase }) });
        }
    };
    let status = response.status();
    let request_id = text(response.headers(), "x-dropbox-request-id");
    if let Some(fault) = transport.challenged(&url, status, response.headers()) {
        return Ok(Outcome { request_id: None, status: Some(status), result: Err(Trouble::Proxy(fault)) });
    }
    let result = if !status.is_success() {
        let retry_after = retry_after(response.headers());
        // What cannot be read of a refusal is not worth another failure: the status stands.
        let body = read(response, limits::REFUSAL_BYTES_MAX, timeouts, started).await;
        let body = match body {
            Ok(body) | Err(Unread::TooLong(body)) => body,
            Err(Unread::Trouble(_)) => Bytes::new(),
        };
        Err(Trouble::Refused { status, retry_after, body })
    } else if facts.style == Style::Download {
        Ok(Success::Content(response))
    } else {
        match read(response, limits::JSON_ANSWER_BYTES_MAX, timeouts, started).await {
            Ok(body) => Ok(Success::Json(body)),
            Err(Unread::TooLong(_)) => Err(Trouble::Unreadable("the answer is too long")),
            Err(Unread::Trouble(trouble)) => Err(trouble),
        }
    };
    Ok(Outcome { request_id, status: Some(status), result })
}

fn headers(request: &Request<'_>, bearer: &Bearer) -> Result<HeaderMap> {
    let facts = request.facts;
    let mut headers = HeaderMap::with_capacity(8);
    if facts.auth != Auth::None {
        let mut text = "Bearer ".to_owned();
        bearer.token.append_to(&mut text);
        let mut value = HeaderValue::try_from(text)
            .map_err(|_| Fault::new(Reason::ReauthorizationRequired, "the access token is malformed"))?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
        if let Some(act_as) = request.act_as {
            let (name, member) = match act_as {
                ActAs::User(member) => (&SELECT_USER, member),
                ActAs::Admin(member) => (&SELECT_ADMIN, member),
            };
            let value = HeaderValue::try_from(member.as_str()).map_err(|_| {
                Fault::new(Reason::ActAsInvalid, "the team member id is malformed").violation(
                    "context.act_as",
                    "MALFORMED",
                    "not a team member id",
                )
            })?;
            headers.insert(name.clone(), value);
        }
        if let Some(root) = request.path_root {
            headers.insert(PATH_ROOT.clone(), root.clone());
        }
    }
    match facts.style {
        Style::Rpc => headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json")),
        Style::Upload => headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        Style::Download => None,
    };
    if facts.style != Style::Rpc {
        headers.insert(API_ARG.clone(), super::header::header_value(request.json)?);
    }
    // HTTP wants a POST to say that it has no body; the client says it only for bodies it can see.
    if facts.style != Style::Rpc && request.content.iter().all(Bytes::is_empty) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    if let Some(range) = request.range {
        headers.insert(RANGE, HeaderValue::try_from(range.to_string()).expect("a range is digits"));
    }
    Ok(headers)
}

/// Waits for the head of the answer: `connect` until the request begins to leave, then `request` from its start, or
/// from the last piece of content that left. The error names the phase.
pub(super) async fn timed<T>(
    send: impl Future<Output = T>,
    progress: &Progress,
    watched: bool,
    timeouts: Timeouts,
) -> Result<T, &'static str> {
    let mut send = std::pin::pin!(send);
    let started = tokio::time::Instant::now();
    let request = started + timeouts.request;
    let first = if watched { request.min(started + timeouts.connect) } else { request };
    let mut until = first;
    let mut seen = 0;
    loop {
        if let Ok(answer) = tokio::time::timeout_at(until, &mut send).await {
            return Ok(answer);
        }
        if watched && !progress.begun() {
            return Err("connect");
        }
        let now = tokio::time::Instant::now();
        let bytes = progress.bytes();
        if bytes > seen {
            // Looked at once per span: a line that moves at all is given the whole span again.
            seen = bytes;
            until = (now + timeouts.request).max(request);
        } else if until < request {
            until = request;
        } else {
            return Err("request");
        }
    }
}

pub(super) enum Unread {
    TooLong(Bytes),
    Trouble(Trouble),
}

/// Reads up to `most` bytes.
pub(super) async fn read(
    mut response: Response,
    most: usize,
    timeouts: Timeouts,
    started: Instant,
) -> Result<Bytes, Unread> {
    let whole = started + timeouts.request.max(started.elapsed() + timeouts.idle_read);
    let mut first: Option<Bytes> = None;
    let mut joined = BytesMut::new();
    loop {
        let until = whole.min(Instant::now() + timeouts.idle_read);
        let piece = match tokio::time::timeout_at(until.into(), response.chunk()).await {
            Ok(Ok(Some(piece))) => piece,
            Ok(Ok(None)) => return Ok(first.unwrap_or_else(|| joined.freeze())),
            Ok(Err(error)) => return Err(Unread::Trouble(Trouble::Broken { sent: true, error: error.without_url() })),
            Err(_) => return Err(Unread::Trouble(Trouble::Timeout { sent: true, phase: "idle_read" })),
        };
        // Most answers are one piece, which is then not copied.
        if first.is_none() && joined.is_empty() && piece.len() <= most {
            first = Some(piece);
            continue;
        }
        if let Some(first) = first.take() {
            joined.extend_from_slice(&first);
        }
        joined.extend_from_slice(&piece[..piece.len().min(most - joined.len().min(most))]);
        if joined.len() >= most {
            return Err(Unread::TooLong(joined.freeze()));
        }
    }
}

pub(super) fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    (!value.is_empty() && value.len() <= 128).then(|| value.to_owned())
}

pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: f64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}
