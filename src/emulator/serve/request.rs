//! Reads requests as Dropbox does: where the argument stands in each style, which content types are taken, how much is read.

use std::{io, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, Method, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;

use crate::emulator::{
    Plan, Refusal, Who, World,
    content::Received,
    control::Ticket,
    schema::{RouteSpec, Style},
    tree::NamespaceId,
};

/// Longest argument of an rpc route.
pub(super) const RPC_BYTES_MAX: usize = 16 << 20;

/// Longest body of an upload route.
pub(super) const UPLOAD_BYTES_MAX: u64 = 150 << 20;

/// How much of a refused body is read, so that the client hears the answer.
const DRAINED_BYTES_MAX: u64 = 1 << 30;

pub(super) const ARG_HEADER: HeaderName = HeaderName::from_static("dropbox-api-arg");
const PATH_ROOT: HeaderName = HeaderName::from_static("dropbox-api-path-root");

/// The method a route is asked by.
pub(super) fn check_method(route: &RouteSpec, method: &Method) -> Result<(), Refusal> {
    let accepted = if route.style == Style::Download { "\"POST\" and \"GET\"" } else { "\"POST\"" };
    if method == Method::POST || (method == Method::GET && route.style == Style::Download) {
        return Ok(());
    }
    Err(Refusal::BadRequest(format!(
        "Your request's HTTP request method is \"{method}\".  This function only accepts the method {accepted}."
    )))
}

/// The `Content-Type` a style takes (API-FACTS 1.6).
pub(super) fn check_content_type(route: &RouteSpec, headers: &HeaderMap, body_is_empty: bool) -> Result<(), Refusal> {
    let given = headers.get(header::CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    const CORS: &str = "text/plain; charset=dropbox-cors-hack";
    let accepted: &[&str] = match route.style {
        Style::Rpc => &["application/json", "application/json; charset=utf-8", CORS],
        Style::Upload => &["application/octet-stream", CORS],
        Style::Download => &["", "text/plain", "text/plain; charset=utf-8", "application/octet-stream", CORS],
    };
    match given {
        None if route.style == Style::Download || (route.arg == "Void" && body_is_empty) => Ok(()),
        None => Err(Refusal::BadRequest(format!(
            "Missing HTTP \"Content-Type\" header.  Expecting one of {}.",
            quoted(accepted)
        ))),
        Some(given) if accepted.contains(&normal(&given).as_str()) => Ok(()),
        Some(given) => Err(Refusal::BadRequest(format!(
            "Bad HTTP \"Content-Type\" header: \"{given}\".  Expecting one of {}.",
            quoted(accepted)
        ))),
    }
}

/// `Application/JSON;charset=UTF-8` → `application/json; charset=utf-8`.
fn normal(content_type: &str) -> String {
    let parts: Vec<String> = content_type.split(';').map(|part| part.trim().to_ascii_lowercase()).collect();
    parts.join("; ")
}

fn quoted(values: &[&str]) -> String {
    values.iter().filter(|value| !value.is_empty()).map(|value| format!("\"{value}\"")).collect::<Vec<_>>().join(", ")
}

/// The argument of an upload or download route.
pub(super) fn arg_in_header(
    route: &RouteSpec,
    headers: &HeaderMap,
    query: Option<&str>,
) -> Result<(Value, &'static str), Refusal> {
    const HEADER: &str = "HTTP header \"Dropbox-API-Arg\"";
    const PARAMETER: &str = "URL parameter \"arg\"";
    let undecodable = |place: &str| Refusal::BadRequest(format!("{place}: could not decode input as JSON"));
    let in_query = query_value(query, "arg");
    match (headers.get(ARG_HEADER), in_query) {
        (Some(value), _) => {
            // DEL and everything above must have been escaped.
            if !value.as_bytes().iter().all(|byte| (0x20..0x7f).contains(byte)) {
                return Err(undecodable(HEADER));
            }
            Ok((serde_json::from_slice(value.as_bytes()).map_err(|_| undecodable(HEADER))?, HEADER))
        }
        (None, Some(text)) => Ok((serde_json::from_str(&text).map_err(|_| undecodable(PARAMETER))?, PARAMETER)),
        (None, None) if route.arg == "Void" => Ok((Value::Null, HEADER)),
        (None, None) => {
            Err(Refusal::BadRequest("Must provide HTTP header \"Dropbox-API-Arg\" or URL parameter \"arg\".".into()))
        }
    }
}

/// The argument of an rpc route.
pub(super) fn arg_in_body(route: &RouteSpec, body: &[u8]) -> Result<(Value, &'static str), Refusal> {
    const BODY: &str = "request body";
    if body.is_empty() && route.arg == "Void" {
        return Ok((Value::Null, BODY));
    }
    match serde_json::from_slice(body) {
        Ok(value) => Ok((value, BODY)),
        Err(_) => Err(Refusal::BadRequest(format!("{BODY}: could not decode input as JSON"))),
    }
}

/// A decoded parameter of a URL.
pub(super) fn query_value(query: Option<&str>, name: &str) -> Option<String> {
    url::form_urlencoded::parse(query?.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// The namespace that `/` means: by the Path-Root header, else the account's home.
pub(super) fn path_root(world: &World, who: &Who, headers: &HeaderMap) -> Result<NamespaceId, Refusal> {
    let tree = world.tree();
    let account = match who {
        Who::User { account, .. } => tree.account(account),
        _ => None,
    };
    let Some(account) = account else { return Ok(0) };
    let Some(value) = headers.get(PATH_ROOT) else { return Ok(account.home) };
    let bad = |text: &str| Refusal::BadRequest(format!("HTTP header \"Dropbox-API-Path-Root\": {text}"));
    let ascii = value.as_bytes().iter().all(|byte| (0x20..0x7f).contains(byte));
    let value: Value = match serde_json::from_slice(value.as_bytes()) {
        Ok(value) if ascii => value,
        _ => return Err(bad("could not decode input as JSON")),
    };
    let tag = value.as_str().or_else(|| value[".tag"].as_str()).ok_or_else(|| bad("missing '.tag' key"))?;
    let named = |field: &str| {
        let text = value[field].as_str().ok_or_else(|| bad(&format!("missing required field '{field}'")))?;
        text.parse::<NamespaceId>()
            .map_err(|_| bad(&format!("{field}: '{text}' did not match pattern '[-_0-9a-zA-Z:]+'")))
    };
    match tag {
        "home" => Ok(account.home),
        "root" => {
            if named("root")? == account.root {
                return Ok(account.root);
            }
            let mut info = serde_json::json!({ ".tag": "user",
                "root_namespace_id": account.root.to_string(), "home_namespace_id": account.home.to_string() });
            if let Some(path) = &account.home_path {
                info[".tag"] = "team".into();
                info["home_path"] = path.clone().into();
            }
            Err(Refusal::PathRoot(serde_json::json!({ ".tag": "invalid_root", "invalid_root": info })))
        }
        "namespace_id" => {
            let id = named("namespace_id")?;
            match tree.prefix(account.root, id).or_else(|| tree.prefix(account.home, id)) {
                Some(_) => Ok(id),
                None => Err(Refusal::PathRoot(serde_json::json!({ ".tag": "no_permission" }))),
            }
        }
        other => Err(bad(&format!("unknown tag '{other}'"))),
    }
}

/// `None`: it is longer than `limit`; what came is dropped.
///
/// # Errors
/// The client went away.
pub(super) async fn read_whole(mut body: Incoming, limit: usize) -> io::Result<Option<Bytes>> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(io::Error::other)?.into_data() {
            if whole.len() + data.len() > limit {
                return Ok(None);
            }
            whole.extend_from_slice(&data);
        }
    }
    Ok(Some(whole.freeze()))
}

/// What a body came to.
pub(super) enum Taken {
    Body(Received),
    TooLarge,
}

/// Counts, slows and cuts a request's body as the plan says.
pub(super) struct Taking<'a> {
    pub plan: &'a Plan,
    pub ticket: &'a Ticket,
    /// When its end was read.
    pub read: std::sync::OnceLock<tokio::time::Instant>,
}

impl Taking<'_> {
    /// The next bytes; `Err` when the client went away or the script cuts here.
    async fn next(&self, body: &mut Incoming, so_far: u64) -> io::Result<Option<Bytes>> {
        loop {
            let Some(frame) = body.frame().await else {
                self.read.get_or_init(tokio::time::Instant::now);
                return Ok(None);
            };
            let Ok(data) = frame.map_err(io::Error::other)?.into_data() else { continue };
            self.ticket.bytes_in(data.len() as u64);
            if let Some(crate::emulator::Cut::Request { after_bytes }) = self.plan.cut
                && so_far + data.len() as u64 >= after_bytes
            {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            if let Some(rate) = self.plan.bytes_per_second {
                tokio::time::sleep(Duration::from_secs_f64(data.len() as f64 / rate.max(1) as f64)).await;
            }
            return Ok(Some(data));
        }
    }

    /// All of an rpc body; `None` when it is too long.
    pub async fn whole(&self, mut body: Incoming) -> io::Result<Option<Bytes>> {
        let mut whole = BytesMut::new();
        while let Some(data) = self.next(&mut body, whole.len() as u64).await? {
            whole.extend_from_slice(&data);
            if whole.len() > RPC_BYTES_MAX {
                return Ok(None);
            }
        }
        Ok(Some(whole.freeze()))
    }

    /// The bytes of an upload, hashed and stored as they come.
    pub async fn upload(&self, world: &World, mut body: Incoming) -> io::Result<Taken> {
        let mut receiver = world.contents.receiver();
        let mut size = 0;
        while let Some(data) = self.next(&mut body, size).await? {
            size += data.len() as u64;
            if size > UPLOAD_BYTES_MAX {
                drop(receiver);
                self.drain(body, size).await?;
                return Ok(Taken::TooLarge);
            }
            receiver.push(data).await?;
        }
        Ok(Taken::Body(receiver.finish().await?))
    }

    /// Reads what is left and forgets it.
    pub async fn drain(&self, mut body: Incoming, mut so_far: u64) -> io::Result<()> {
        while let Some(data) = self.next(&mut body, so_far).await? {
            so_far += data.len() as u64;
            if so_far > DRAINED_BYTES_MAX {
                break;
            }
        }
        Ok(())
    }
}
