//! A refusal of Dropbox read into a fault: status first, then the tags of its JSON. Never by message, except the few
//! texts of a 400 that has no JSON. Unions are open: an unknown tag is `DROPBOX_ERROR`.

use std::time::Duration;

use http::StatusCode;
use serde_json::{Map, Value};

use super::{
    Effect, Facts,
    attempt::Trouble,
    retry::Failure,
    rows::{Extra, ROWS},
};
use crate::{
    fault::{Fault, Reason},
    limits,
};

/// An answer with an error status, and what it answers.
pub(super) struct Refusal<'a> {
    pub facts: &'a Facts,
    pub status: u16,
    pub body: &'a [u8],
    /// The header's.
    pub retry_after: Option<Duration>,
    /// The argument that was sent, for whether a revision was asked for.
    pub arg: &'a str,
    /// Whether an unknown outcome is no loss: nothing changes, or the same state comes of a repeat.
    pub resumable: bool,
}

/// Tags whose value is another union: the inner tag says what is wrong, these only where.
const WRAPPERS: &[&str] = &[
    "path",
    "path_lookup",
    "path_write",
    "from_lookup",
    "from_write",
    "to",
    "relocation_error",
    "lookup_failed",
    "access_error",
    "member_error",
    "user_error",
    "reason",
    "failure",
];
/// Unions nest no deeper than this, and an answer that does is not followed.
const DEPTH_MAX: usize = 8;
/// Of a text made by Dropbox this much is passed on.
const TEXT_BYTES_MAX: usize = 200;

/// The tags of an error from the outside in: `path/conflict/file`. Empty if there are none.
pub fn tag_path(error: &Value) -> String {
    tags(error).join("/")
}

/// The fault of one entry of a batch that was refused inside an answer of success: the one that the route for single ones would
/// give. `arg`: the entry as it was sent.
pub fn entry_fault(facts: &Facts, arg: &str, error: &Value) -> Fault {
    let refusal = Refusal { facts, status: 409, body: &[], retry_after: None, arg, resumable: false };
    let fault = by_tags(&refusal, Some(error));
    let fault = match subject(arg, fault.reason(), Some(error)) {
        Some((kind, name)) => fault.resource(kind, name),
        None => fault,
    };
    fault.fact("dropboxRoute", &facts.path).fact("httpStatus", refusal.status)
}

/// The fault of an answer with an error status.
pub(super) fn fault(refusal: &Refusal<'_>) -> Fault {
    let body: Option<Value> = serde_json::from_slice(refusal.body).ok();
    let error = body.as_ref().and_then(|body| body.get("error"));
    let fault = match refusal.status {
        400 => bad_request(refusal),
        407 => Fault::new(Reason::ProxyAuthRequired, "the proxy wants a user and a password"),
        410 => Fault::new(Reason::LinkExpired, "the temporary link has expired or was used"),
        416 => Fault::new(Reason::ReadOffsetBeyondEnd, "the range begins beyond the end"),
        429 => limited(refusal, error),
        408 | 500..=599 => unavailable(refusal),
        401 if error.is_none() => rejected(),
        404 if error.is_none() => Fault::new(Reason::PathNotFound, "Dropbox found nothing"),
        401 | 403 | 404 | 409 | 422 => by_tags(refusal, error),
        status if status < 400 => Fault::new(Reason::DropboxProtocol, format!("Dropbox answered with status {status}")),
        status => Fault::new(Reason::DropboxBadRequest, format!("Dropbox refused the request with status {status}")),
    };
    let fault = match subject(refusal.arg, fault.reason(), error) {
        Some((kind, name)) => fault.resource(kind, name),
        None => fault,
    };
    fault.fact("httpStatus", refusal.status)
}

/// The object a refusal is about, as the argument that was sent names it; the outermost tag tells which of two paths.
fn subject(arg: &str, reason: Reason, error: Option<&Value>) -> Option<(&'static str, String)> {
    let (kind, keys): (_, &[&str]) = match reason {
        Reason::SharedFolderNotFound | Reason::SharedFolderAccess => ("dropbox.shared_folder", &["shared_folder_id"]),
        Reason::PathNotFound
        | Reason::PathConflict
        | Reason::NotAFile
        | Reason::NotAFolder
        | Reason::RestrictedContent
        | Reason::ItemLocked
        | Reason::NoWritePermission
        | Reason::DropboxAccessDenied
        | Reason::SharedLinkExists
        | Reason::AlreadyShared => match error.map(tags).unwrap_or_default().first() {
            Some(&("from_lookup" | "from_write")) => ("dropbox.item", &["from_path"]),
            Some(&"to") => ("dropbox.item", &["to_path"]),
            _ => ("dropbox.item", &["path"]),
        },
        _ => return None,
    };
    let arg: Value = serde_json::from_str(arg).ok()?;
    let mut places = [Some(&arg), arg.get("commit")].into_iter().flatten();
    let name = places.find_map(|place| keys.iter().find_map(|key| place.get(key)?.as_str()))?;
    Some((kind, name.to_owned()))
}

/// What an error status means for a repeat.
pub(super) fn failure(facts: &Facts, status: u16, retry_after: Option<Duration>, body: &[u8]) -> Failure {
    match status {
        429 => {
            let error = error(body);
            let told = retry_after.or_else(|| body_retry_after(error.as_ref()));
            let limited = !error.as_ref().is_some_and(contended);
            Failure::Refused { retry_after: told.or(limited.then_some(limits::RATE_LIMIT_WAIT)) }
        }
        408 | 500..=599 => Failure::Unclear,
        409 => match error(body) {
            Some(error) if contended(&error) => Failure::Refused { retry_after },
            Some(error) if facts.effect == Effect::Read && tags(&error).last() == Some(&"internal_error") => {
                Failure::Unclear
            }
            _ => Failure::Final,
        },
        _ => Failure::Final,
    }
}

/// Whether a 429 is about the lock of a namespace and not about the number of requests.
pub(super) fn is_contention(body: &[u8]) -> bool {
    error(body).as_ref().is_some_and(contended)
}

/// Whether another bearer may help.
pub(super) fn bearer_rejected(trouble: &Trouble) -> bool {
    let Trouble::Refused { status, body, .. } = trouble else { return false };
    match *status {
        StatusCode::UNAUTHORIZED => match error(body) {
            Some(error) => matches!(tags(&error)[..], ["invalid_access_token" | "expired_access_token"]),
            None => true,
        },
        StatusCode::BAD_REQUEST => is_malformed_token(&String::from_utf8_lossy(body)),
        _ => false,
    }
}

fn error(body: &[u8]) -> Option<Value> {
    let Value::Object(mut body) = serde_json::from_slice(body).ok()? else { return None };
    body.remove("error")
}

fn contended(error: &Value) -> bool {
    tags(error).last() == Some(&"too_many_write_operations")
}

/// One union: its tag, and its object unless it is a bare text.
type Level<'a> = (Option<&'a str>, Option<&'a Map<String, Value>>);

/// Every object from the outermost union to the innermost, with its tag. `files/upload` and rate limits put the next
/// union under `reason`, everything else under the tag's own name.
fn levels(error: &Value) -> Vec<Level<'_>> {
    let mut levels = Vec::new();
    let mut next = Some(error);
    while let Some(value) = next.take()
        && levels.len() < DEPTH_MAX
    {
        match value {
            Value::String(tag) => levels.push((Some(tag.as_str()), None)),
            Value::Object(object) => {
                let tag = object.get(".tag").and_then(Value::as_str);
                levels.push((tag, Some(object)));
                let union = |key: &str| object.get(key).filter(|inner| inner.get(".tag").is_some());
                next = tag.and_then(union).or_else(|| union("reason"));
            }
            _ => {}
        }
    }
    levels
}

fn tags(error: &Value) -> Vec<&str> {
    let tag = |text: &&str| text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    levels(error).into_iter().filter_map(|(text, _)| text).filter(tag).collect()
}

fn by_tags(refusal: &Refusal<'_>, error: Option<&Value>) -> Fault {
    let whole = error.map(tags).unwrap_or_default();
    let mut inner = &whole[..];
    while let [wrapper, rest @ ..] = inner
        && !rest.is_empty()
        && WRAPPERS.contains(wrapper)
    {
        inner = rest;
    }
    let tag = whole.join("/");
    let status = if refusal.status == 404 { 409 } else { refusal.status };
    let row = ROWS.iter().find(|row| {
        row.status == status
            && (row.routes.is_empty() || row.routes.iter().any(|route| refusal.facts.path.starts_with(route)))
            && row.tags.iter().any(|tag| fits(tag, inner))
    });
    let Some(row) = row else {
        let fault = Fault::new(Reason::DropboxError, format!("Dropbox refused the request: {}", or_none(&tag)));
        return facts(fault, &tag, error);
    };
    let reason = match (row.reason, inner) {
        (Reason::PathConflict, ["conflict", "file"]) if asks_for_revision(refusal.arg) => Reason::RevisionConflict,
        (Reason::DropboxInternal, _) if !refusal.resumable => Reason::OutcomeUnknown,
        (reason, _) => reason,
    };
    let mut fault = Fault::new(reason, format!("Dropbox refused the request: {}", or_none(&tag)));
    let rule = inner.last().copied().unwrap_or_default();
    match row.extra {
        Extra::Nothing => {}
        Extra::Rule => fault = fault.fact("rule", rule),
        Extra::Field(field) => fault = fault.violation(field, "REJECTED", rule),
        Extra::PathField => {
            let field = match whole.first() {
                Some(&("from_lookup" | "from_write")) => "from_path",
                Some(&"to") => "to_path",
                _ => "path",
            };
            fault = fault.violation(field, "REJECTED", rule);
        }
        Extra::Again(seconds) => {
            let span = refusal.retry_after.unwrap_or_else(|| jittered(Duration::from_secs(seconds)));
            fault = fault.retry_after(span);
        }
    }
    match (reason, inner) {
        (Reason::PathConflict | Reason::RevisionConflict, ["conflict", kind, ..]) => {
            fault = fault.fact("conflictKind", kind);
        }
        (Reason::TooManyFiles, ["too_many_files"]) => fault = fault.fact("limit", limits::DROPBOX_TREE_ITEMS_MAX),
        (Reason::FileRequestLimit, _) => fault = fault.fact("limit", limits::DROPBOX_FILE_REQUESTS_MAX),
        (Reason::FileTooLarge, _) => fault = fault.fact("limitBytes", limits::DROPBOX_FILE_BYTES_MAX),
        (Reason::DropboxInternal, _) => fault = fault.retry_after(Duration::from_secs(1)),
        _ => {}
    }
    facts(fault, &tag, error)
}

/// A wait of whole seconds names a moment Dropbox gave; one second of our own is spread.
fn jittered(span: Duration) -> Duration {
    if span > Duration::from_secs(1) { span } else { span + limits::BACKOFF_STEP.mul_f64(rand::random()) }
}

/// What the error carries beside its tags.
fn facts(mut fault: Fault, tag: &str, error: Option<&Value>) -> Fault {
    if !tag.is_empty() {
        fault = fault.fact("dropboxTag", tag);
    }
    for (_, object) in error.map(levels).unwrap_or_default() {
        let Some(object) = object else { continue };
        for (key, name) in [
            ("required_scope", "requiredScope"),
            ("correct_offset", "correctOffset"),
            ("upload_session_id", "uploadSessionId"),
            ("root_namespace_id", "rootNamespaceId"),
            ("shared_folder_id", "sharedFolderId"),
        ] {
            if let Some(text) = object.get(key).and_then(plain) {
                fault = fault.fact(name, text);
            }
        }
        let below = |keys: &[&str]| {
            let (first, rest) = keys.split_first()?;
            plain(rest.iter().try_fold(object.get(*first)?, |value, key| value.get(key))?)
        };
        if let Some(holder) = below(&["lock", "content", "lock_holder_account_id"]) {
            fault = fault.fact("lockHolder", holder);
        }
        if let Some(url) = below(&["shared_link_already_exists", "metadata", "url"]) {
            fault = fault.fact("url", url);
        }
    }
    fault
}

/// A short text or a number.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if text.len() <= 1024 && text.bytes().all(|b| b.is_ascii_graphic()) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Whether a row's tags are the beginning of the error's.
fn fits(pattern: &str, tags: &[&str]) -> bool {
    let mut tags = tags.iter();
    pattern.split('/').all(|part| match (part.strip_suffix('*'), tags.next()) {
        (Some(prefix), Some(tag)) => tag.starts_with(prefix),
        (None, Some(tag)) => *tag == part,
        (_, None) => false,
    })
}

fn or_none(tag: &str) -> &str {
    if tag.is_empty() { "it did not say why" } else { tag }
}

/// `mode` update, or `parent_rev`, in the argument or in its `commit`.
fn asks_for_revision(arg: &str) -> bool {
    let Ok(arg) = serde_json::from_str::<Value>(arg) else { return false };
    [Some(&arg), arg.get("commit")].into_iter().flatten().any(|arg| {
        arg.pointer("/mode/.tag").is_some_and(|tag| tag == "update")
            || arg.get("parent_rev").is_some_and(|rev| !rev.is_null())
    })
}

fn limited(refusal: &Refusal<'_>, error: Option<&Value>) -> Fault {
    let told = refusal.retry_after.or_else(|| body_retry_after(error));
    if error.is_some_and(contended) {
        let span = told.unwrap_or_else(|| jittered(Duration::from_secs(1)));
        return Fault::new(Reason::WriteContention, "others write in the same namespace at this moment")
            .fact("dropboxTag", "too_many_write_operations")
            .retry_after(span);
    }
    Fault::new(Reason::RateLimited, "Dropbox limits the requests of this account")
        .fact("dropboxTag", "too_many_requests")
        .retry_after(told.unwrap_or(limits::RATE_LIMIT_WAIT))
}

fn body_retry_after(error: Option<&Value>) -> Option<Duration> {
    Duration::try_from_secs_f64(error?.get("retry_after")?.as_f64()?).ok()
}

fn unavailable(refusal: &Refusal<'_>) -> Fault {
    let status = refusal.status;
    if refusal.resumable {
        let span = refusal.retry_after.unwrap_or(Duration::from_secs(1));
        return Fault::new(Reason::DropboxUnavailable, format!("Dropbox answered with status {status}"))
            .retry_after(span);
    }
    Fault::new(Reason::OutcomeUnknown, format!("Dropbox answered with status {status}; it may have been done"))
}

fn rejected() -> Fault {
    Fault::new(Reason::ReauthorizationRequired, "Dropbox rejects the access token, also after a renewal")
}

fn is_malformed_token(text: &str) -> bool {
    text.contains("access token is malformed") || text.contains("malformed access token")
}

fn bad_request(refusal: &Refusal<'_>) -> Fault {
    let text = String::from_utf8_lossy(refusal.body);
    if text.contains("operates on a single Dropbox account") {
        return Fault::new(Reason::MemberRequired, "the token is a team's and no member is chosen");
    }
    if is_malformed_token(&text) {
        return rejected();
    }
    let (field, told) = read_text(&text);
    if refusal.facts.raw {
        return Fault::new(Reason::RawJson, format!("Dropbox refused the argument: {told}"))
            .violation("arg", "REJECTED", told);
    }
    /// Arguments that are the caller's words, not ours.
    const CALLERS: &[&str] = &[
        "path",
        "from_path",
        "to_path",
        "rev",
        "parent_rev",
        "before_rev",
        "id",
        "url",
        "query",
        "settings",
        "link_password",
        "export_format",
        "property_groups",
        "client_modified",
        "update",
    ];
    let callers = field.split(['.', '[', ']']).rfind(|part| CALLERS.contains(part));
    if callers.is_some() || text.contains("Basic Multilingual Plane") {
        let field = callers.unwrap_or("path");
        return Fault::new(Reason::RejectedByDropbox, format!("Dropbox refused {field}: {told}"))
            .violation(field, "REJECTED", told);
    }
    Fault::new(Reason::DropboxBadRequest, "Dropbox refused a request the connector built")
        .source(format!("{field}: {told}"))
}

/// The argument a 400 names, and what it says of it, without the values it quotes.
fn read_text(text: &str) -> (String, String) {
    let text = text.strip_prefix("Error in call to API function ").unwrap_or(text);
    let text = text.split_once("\": ").map_or(text, |(_, rest)| rest);
    let text = text.strip_prefix("request body: ").unwrap_or(text);
    let text = text.strip_prefix("HTTP header \"Dropbox-API-Arg\": ").unwrap_or(text);
    let name = |field: &str| {
        !field.is_empty() && field.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'[' | b']'))
    };
    let (field, rest) = match text.split_once(": ") {
        Some((field, rest)) if name(field) => (field, rest),
        _ => ("", text),
    };
    let mut told = String::new();
    let mut quote = None;
    for c in rest.chars() {
        if told.len() >= TEXT_BYTES_MAX - 3 {
            break;
        }
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if matches!(c, '\'' | '"') => {
                quote = Some(c);
                told.push_str("...");
            }
            None if c.is_ascii_graphic() || c == ' ' => told.push(c),
            None => {}
        }
    }
    (field.to_owned(), told)
}

#[cfg(test)]
#[path = "problem_tests.rs"]
mod tests;
