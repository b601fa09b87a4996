//! Answers on the wire: Dropbox's headers and error bodies, ranges, and a body that can be cut, spoilt, stalled or slowed.

use std::{io, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, stream};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use serde_json::{Value, json};

use crate::emulator::{
    Canned, Plan, Refusal, World,
    content::{Content, Pieces},
    control::Ticket,
    schema::RouteSpec,
    script,
};

pub(super) const RESULT_HEADER: &str = "dropbox-api-result";
pub(super) const REQUEST_ID: &str = "x-dropbox-request-id";

/// Granularity of a slowed body, in parts of a second.
const THROTTLE_STEPS: u64 = 20;

pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

pub(super) fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// What will be sent, before failures on demand are laid over it.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub bytes: Source,
}

#[derive(Debug)]
pub(super) enum Source {
    Whole(Bytes),
    Content { content: Content, offset: u64, length: u64 },
}

impl Source {
    fn len(&self) -> u64 {
        match self {
            Source::Whole(bytes) => bytes.len() as u64,
            Source::Content { length, .. } => *length,
        }
    }
}

impl Answer {
    pub fn new(status: StatusCode, content_type: &'static str, bytes: impl Into<Bytes>) -> Answer {
        let mut headers = HeaderMap::new();
        if !content_type.is_empty() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        Answer { status, headers, bytes: Source::Whole(bytes.into()) }
    }

    pub fn json(status: StatusCode, value: &Value) -> Answer {
        Answer::new(status, "application/json", value.to_string())
    }

    fn text(status: StatusCode, text: String) -> Answer {
        Answer::new(status, "text/plain; charset=utf-8", text)
    }

    pub fn canned(canned: &Canned) -> Answer {
        let status = StatusCode::from_u16(canned.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut answer = Answer::new(status, "", canned.body.clone());
        for (name, value) in &canned.headers {
            if let (Ok(name), Ok(value)) = (name.parse::<header::HeaderName>(), value.parse()) {
                answer.headers.append(name, value);
            }
        }
        answer
    }

    /// Any answer but success, as Dropbox words it.
    pub fn refusal(world: &World, route: Option<&RouteSpec>, refusal: Refusal) -> Answer {
        let label = route.map_or("", |route| route.label.as_str());
        let tagged = |status: StatusCode, error: Value, user_message: Option<String>| {
            let summary = format!("{}/{}", script::summary(&error), world.dots());
            let mut body = json!({ "error_summary": summary, "error": error });
            if let Some(text) = user_message {
                body["user_message"] = json!({ "locale": "en", "text": text });
            }
            Answer::json(status, &body)
        };
        match refusal {
            Refusal::Endpoint { error, user_message } => tagged(StatusCode::CONFLICT, error, user_message),
            Refusal::BadRequest(text) => {
                Answer::text(StatusCode::BAD_REQUEST, format!("Error in call to API function \"{label}\": {text}"))
            }
            Refusal::Auth(error) => tagged(StatusCode::UNAUTHORIZED, error, None),
            Refusal::NoSuchRoute(text) => Answer::text(StatusCode::NOT_FOUND, text),
            Refusal::WrongMethod => Answer::text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed".to_owned()),
            Refusal::Gone(text) => Answer::text(StatusCode::GONE, text),
            Refusal::PathRoot(error) => tagged(StatusCode::UNPROCESSABLE_ENTITY, error, None),
            Refusal::TooManyRequests => {
                let tag = "too_many_requests";
                let summary = format!("{tag}/{}", world.dots());
                let body =
                    json!({ "error_summary": summary, "error": { "reason": { ".tag": tag }, "retry_after": 1 } });
                let mut answer = Answer::json(StatusCode::TOO_MANY_REQUESTS, &body);
                answer.headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
                answer
            }
            Refusal::TooManyWrites => {
                let tag = "too_many_write_operations";
                let summary = format!("{tag}/{}", world.dots());
                let body = json!({ "error_summary": summary, "error": { "reason": { ".tag": tag } } });
                let mut answer = Answer::json(StatusCode::TOO_MANY_REQUESTS, &body);
                answer.headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
                answer
            }
            Refusal::Canned(canned) => Answer::canned(&canned),
        }
    }

    /// A file, or the part of it that `Range` asks for.
    pub fn download(
        world: &World,
        route: Option<&RouteSpec>,
        request: &HeaderMap,
        content: Content,
        etag: Option<&str>,
    ) -> Answer {
        if let Some(etag) = etag
            && request.get(header::IF_NONE_MATCH).is_some_and(|asked| asked.as_bytes() == etag.as_bytes())
        {
            let mut answer = Answer::new(StatusCode::NOT_MODIFIED, "", Bytes::new());
            answer.set(header::ETAG, etag);
            return answer;
        }
        let size = content.size();
        let (status, offset, length) = match range(request, size) {
            Asked::All => (StatusCode::OK, 0, size),
            Asked::Part(offset, length) => (StatusCode::PARTIAL_CONTENT, offset, length),
            Asked::Nothing => {
                // Unpublished: the status and the summary are what SDKs look for.
                return Answer::refusal(world, route, Refusal::nested(&["range", "not_satisfiable"]));
            }
        };
        let mut answer = Answer::new(status, "application/octet-stream", Bytes::new());
        answer.set(header::ACCEPT_RANGES, "bytes");
        if let Some(etag) = etag {
            answer.set(header::ETAG, etag);
        }
        if status == StatusCode::PARTIAL_CONTENT {
            answer.set(header::CONTENT_RANGE, &format!("bytes {offset}-{}/{size}", offset + length - 1));
        }
        answer.bytes = Source::Content { content, offset, length };
        answer
    }

    pub fn set(&mut self, name: impl header::IntoHeaderName, value: &str) {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
    }

    /// Puts the plan's failures over the answer and the ticket into its body, so that a call ends with its last byte.
    pub fn send(self, request_id: &str, plan: &Plan, ticket: Ticket) -> Response<Body> {
        ticket.answered(self.status.as_u16(), request_id);
        let length = self.bytes.len();
        let mut response = Response::new(whole(Bytes::new()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        *headers = self.headers;
        let fixed =
            [("x-content-type-options", "nosniff"), ("server", "envoy"), ("x-dropbox-response-origin", "far_remote")];
        for (name, value) in fixed {
            headers.insert(name, HeaderValue::from_static(value));
        }
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
        if let Ok(value) = HeaderValue::from_str(request_id) {
            headers.insert(REQUEST_ID, value);
        }
        if self.status != StatusCode::NOT_MODIFIED {
            headers.insert(header::CONTENT_LENGTH, length.into());
        }
        *response.body_mut() = match self.bytes {
            Source::Whole(bytes) if calm(plan) => {
                ticket.bytes_out(bytes.len() as u64);
                whole(bytes)
            }
            Source::Whole(bytes) => streamed(vec![crate::emulator::content::Piece::Memory(bytes)], plan, ticket),
            Source::Content { content, offset, length } => streamed(content.range(offset, length), plan, ticket),
        };
        response
    }
}

/// A plain answer of the www and control hosts.
pub(super) fn text(status: u16, text: &str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(text.to_owned()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}

fn calm(plan: &Plan) -> bool {
    plan.cut_body_at.is_none()
        && plan.corrupt_at.is_none()
        && plan.stall_body_at.is_none()
        && plan.bytes_per_second.is_none()
}

enum Asked {
    All,
    Part(u64, u64),
    Nothing,
}

/// One range; what is no range is not heeded, as HTTP says.
fn range(request: &HeaderMap, size: u64) -> Asked {
    let text = request.get(header::RANGE).and_then(|value| value.to_str().ok());
    let Some((from, to)) =
        text.and_then(|text| text.trim().strip_prefix("bytes=")).and_then(|range| range.split_once('-'))
    else {
        return Asked::All;
    };
    match (from.trim().parse::<u64>(), to.trim().parse::<u64>()) {
        (Ok(from), Ok(to)) if from > to => Asked::All,
        (Ok(from), _) if from >= size => Asked::Nothing,
        (Ok(from), Ok(to)) => Asked::Part(from, to.min(size - 1) - from + 1),
        (Ok(from), Err(_)) if to.trim().is_empty() => Asked::Part(from, size - from),
        (Err(_), Ok(last)) if from.trim().is_empty() => match last.min(size) {
            0 => Asked::Nothing,
            last => Asked::Part(size - last, last),
        },
        _ => Asked::All,
    }
}

struct Flow {
    pieces: Pieces,
    /// Read, not sent yet.
    held: Bytes,
    sent: u64,
    plan: Plan,
    ticket: Ticket,
}

fn streamed(pieces: Vec<crate::emulator::content::Piece>, plan: &Plan, ticket: Ticket) -> Body {
    let flow = Flow { pieces: Pieces::new(pieces), held: Bytes::new(), sent: 0, plan: plan.clone(), ticket };
    BodyExt::boxed_unsync(StreamBody::new(frames(flow)))
}

fn frames(flow: Flow) -> impl Stream<Item = io::Result<Frame<Bytes>>> + Send {
    stream::unfold(Some(flow), |flow| async {
        let mut flow = flow?;
        match flow.next().await {
            Ok(Some(bytes)) => Some((Ok(bytes), Some(flow))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    })
    .map(|bytes| bytes.map(Frame::data))
}

impl Flow {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.plan.cut_body_at.is_some_and(|at| self.sent >= at) {
            // What was sent leaves before the connection closes.
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if self.plan.stall_body_at.is_some_and(|at| self.sent >= at) {
            std::future::pending::<()>().await;
        }
        if self.held.is_empty() {
            match self.pieces.next().await? {
                Some(bytes) => self.held = bytes,
                None => return Ok(None),
            }
        }
        let mut take = self.held.len() as u64;
        for stop in [self.plan.cut_body_at, self.plan.stall_body_at].into_iter().flatten() {
            take = take.min(stop - self.sent);
        }
        if let Some(rate) = self.plan.bytes_per_second {
            take = take.min((rate / THROTTLE_STEPS).max(1));
            tokio::time::sleep(Duration::from_secs_f64(take as f64 / rate.max(1) as f64)).await;
        }
        let mut bytes = self.held.split_to(usize::try_from(take).unwrap_or(usize::MAX));
        if let Some(at) = self.plan.corrupt_at
            && (self.sent..self.sent + take).contains(&at)
        {
            let mut spoilt = BytesMut::from(&bytes[..]);
            spoilt[(at - self.sent) as usize] ^= 0x01;
            bytes = spoilt.freeze();
        }
        self.sent += take;
        self.ticket.bytes_out(take);
        Ok(Some(bytes))
    }
}

/// JSON that fits into a header: everything outside printable ASCII as `\uXXXX`, one for each UTF-16 unit.
pub(super) fn header_safe(value: &Value) -> String {
    let mut safe = String::new();
    for c in value.to_string().chars() {
        if (' '..'\u{7f}').contains(&c) {
            safe.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                safe.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_http_says_and_cut_to_the_file() {
        let asked = |text: &str, size| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, text.parse().expect("a header"));
            match range(&headers, size) {
                Asked::All => "all".to_owned(),
                Asked::Part(offset, length) => format!("{offset}+{length}"),
                Asked::Nothing => "none".to_owned(),
            }
        };
        for (text, size, expected) in [
            ("bytes=0-0", 10, "0+1"),
            ("bytes=3-", 10, "3+7"),
            ("bytes=-4", 10, "6+4"),
            ("bytes=-40", 10, "0+10"),
            ("bytes=8-99", 10, "8+2"),
            ("bytes=10-", 10, "none"),
            ("bytes=0-", 0, "none"),
            ("bytes=5-3", 10, "all"),
            ("lines=5-9", 10, "all"),
        ] {
            assert_eq!(asked(text, size), expected, "{text} of {size}");
        }
    }

    #[test]
    fn a_header_carries_each_utf16_unit_escaped() {
        let safe = header_safe(&json!({ "name": "ü\u{7f}😀" }));
        assert_eq!(safe, "{\"name\":\"\\u00fc\\u007f\\ud83d\\ude00\"}");
    }
}
