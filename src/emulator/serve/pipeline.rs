//! What one request to `api`, `content` or `notify` goes through. Every check Dropbox makes stands here once, in order.

use std::{
    io,
    sync::{Arc, OnceLock},
};

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use serde_json::json;

use super::{
    answer::{Answer, Body, RESULT_HEADER, header_safe},
    commits,
    request::{self, Taken, Taking},
};
use crate::emulator::{
    Call, Cut, Host, Refusal, Reply, Who, World,
    content::Received,
    control::Ticket,
    feed, handler,
    schema::{RouteSpec, Style},
    team,
};

/// `Err` closes the connection without an answer.
pub(super) async fn run(world: &Arc<World>, host: Host, request: Request<Incoming>) -> io::Result<Response<Body>> {
    let request_id = world.random_text(32).to_ascii_lowercase();
    let path = request.uri().path().to_owned();
    let name = match (host, path.as_str()) {
        (Host::Api, "/oauth2/token") => "oauth2/token",
        (Host::Content, path) if path.starts_with("/apitl/1/") => "temporary_link",
        (Host::Content, path) if path.starts_with("/apitul/1/") => "temporary_upload_link",
        (_, path) => path.strip_prefix("/2/").unwrap_or(""),
    };
    let plan = world.script.plan(name);
    let (head, body) = request.into_parts();
    let ticket = world.ledger.begin(name, &head.headers);
    let taking = Taking { plan: &plan, ticket: &ticket, read: OnceLock::new() };
    if let Some(delay) = plan.delay {
        tokio::time::sleep(delay).await;
    }
    if let Some(canned) = &plan.instead_unread {
        let mut answer = Answer::canned(canned);
        answer.set(header::CONNECTION, "close");
        return Ok(answer.send(&request_id, &plan, ticket));
    }
    if plan.instead.is_some() || matches!(plan.cut, Some(Cut::BeforeApplying | Cut::NeverAnswer)) {
        taking.drain(body, 0).await?;
        return match &plan.instead {
            Some(canned) => Ok(Answer::canned(canned).send(&request_id, &plan, ticket)),
            None if plan.cut == Some(Cut::NeverAnswer) => std::future::pending().await,
            None => Err(io::ErrorKind::ConnectionAborted.into()),
        };
    }
    let answer = match name {
        "oauth2/token" => token(world, &taking, &head, body).await?,
        "temporary_link" => {
            taking.drain(body, 0).await?;
            temporary_link(world, &head.method, &head.headers, &path)
        }
        "temporary_upload_link" => temporary_upload(world, &taking, &head.headers, &path, body).await?,
        name => {
            let route = world.schema.route(name);
            match check_and_handle(world, host, name, &head, body, &taking).await? {
                Ok(answer) => answer,
                Err(refusal) => {
                    check_refusal(world, route, &refusal);
                    Answer::refusal(world, route, refusal)
                }
            }
        }
    };
    let answer = match &plan.after {
        Some(canned) => Answer::canned(canned),
        None => answer,
    };
    if plan.cut == Some(Cut::AfterApplying) {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    if let Some(delay) = plan.delay_answer {
        tokio::time::sleep(delay).await;
    }
    if let (takes, Some(read)) = (world.switches().answer_takes, taking.read.get())
        && !takes.is_zero()
    {
        tokio::time::sleep_until(*read + takes).await;
    }
    Ok(answer.send(&request_id, &plan, ticket))
}

/// The checks of a route and its handler. The body is always read to its end, so that the client hears the answer.
async fn check_and_handle(
    world: &Arc<World>,
    host: Host,
    name: &str,
    head: &http::request::Parts,
    body: Incoming,
    taking: &Taking<'_>,
) -> io::Result<Result<Answer, Refusal>> {
    let (route, who, root) = match admit(world, host, name, head, taking.ticket) {
        Ok(admitted) => admitted,
        Err(refusal) => {
            taking.drain(body, 0).await?;
            return Ok(Err(refusal));
        }
    };
    let query = head.uri.query();
    let mut received = None;
    let arg = match route.style {
        Style::Rpc => match taking.whole(body).await? {
            None => Err(Refusal::BadRequest("request body is too large".into())),
            Some(bytes) => request::check_content_type(route, &head.headers, bytes.is_empty())
                .and_then(|()| request::arg_in_body(route, &bytes)),
        },
        Style::Download => {
            let bytes = taking.whole(body).await?;
            let empty = bytes.is_some_and(|bytes| bytes.is_empty());
            request::check_content_type(route, &head.headers, empty)
                .and_then(|()| match empty {
                    true => Ok(()),
                    false => Err(Refusal::BadRequest("this API function takes no request body".into())),
                })
                .and_then(|()| request::arg_in_header(route, &head.headers, query))
        }
        Style::Upload => {
            let arg = request::check_content_type(route, &head.headers, false)
                .and_then(|()| request::arg_in_header(route, &head.headers, query));
            match arg.and_then(|arg| checked(world, route, arg)) {
                Err(refusal) => {
                    taking.drain(body, 0).await?;
                    return Ok(Err(refusal));
                }
                Ok(arg) => match taking.upload(world, body).await? {
                    Taken::TooLarge => return Ok(Err(too_large(route))),
                    Taken::Body(bytes) => {
                        received = Some(bytes);
                        Ok((arg, ""))
                    }
                },
            }
        }
    };
    let arg = match route.style {
        Style::Upload => arg.map(|(arg, _)| arg),
        _ => arg.and_then(|arg| checked(world, route, arg)),
    };
    Ok(match arg {
        Err(refusal) => Err(refusal),
        Ok(arg) => {
            taking.ticket.arg(&arg);
            let call =
                Call { route, arg, who, root, headers: &head.headers, body: received, entries: &taking.plan.entries };
            match world.listings.enter(&call) {
                Err(refusal) => return Ok(Err(refusal)),
                Ok(Some(listing)) => taking.ticket.keep(listing),
                Ok(None) => {}
            }
            handle(world, call).await
        }
    })
}

fn checked(
    world: &World,
    route: &RouteSpec,
    (mut arg, place): (serde_json::Value, &'static str),
) -> Result<serde_json::Value, Refusal> {
    match world.schema.check_arg(route, &mut arg) {
        Ok(()) => Ok(arg),
        Err(text) => Err(Refusal::BadRequest(format!("{place}: {text}"))),
    }
}

/// Which route, who asks, and what `/` means to them.
fn admit(
    world: &World,
    host: Host,
    name: &str,
    head: &http::request::Parts,
    ticket: &Ticket,
) -> Result<(&'static RouteSpec, Who, u64), Refusal> {
    let unknown = || Refusal::NoSuchRoute(format!("Unknown API function: \"{name}\""));
    let route = world.schema.route(name).ok_or_else(unknown)?;
    if route.host != host {
        return Err(Refusal::BadRequest(format!("This API function must be called on the {:?} host.", route.host)));
    }
    request::check_method(route, &head.method)?;
    let mut headers = std::borrow::Cow::Borrowed(&head.headers);
    if let Some(value) = request::query_value(head.uri.query(), "authorization")
        && let Ok(value) = HeaderValue::from_str(&value)
    {
        headers.to_mut().insert(header::AUTHORIZATION, value);
    }
    let who = world.authority.who(route, &headers)?;
    let who = team::seated(world, route, &head.headers, who)?;
    if let Who::User { account, .. } = &who {
        ticket.account(account);
    }
    let root = request::path_root(world, &who, &head.headers)?;
    Ok((route, who, root))
}

fn too_large(route: &RouteSpec) -> Refusal {
    match route.name.as_str() {
        "files/paper/create" | "files/paper/update" => Refusal::nested(&["doc_length_exceeded"]),
        _ => Refusal::nested(&["payload_too_large"]),
    }
}

/// Runs the handler under the write lock where one is due, and checks what it says.
async fn handle(world: &Arc<World>, call: Call<'_>) -> Result<Answer, Refusal> {
    let route = call.route;
    if route.name == "files/list_folder/longpoll" {
        let result = feed::longpoll(world, &call.arg).await?;
        return Ok(success(world, route, result));
    }
    let Some(handler) = handler(&route.name) else {
        return Err(Refusal::NoSuchRoute(format!("the emulator does not have \"{}\"", route.label)));
    };
    let headers = call.headers;
    let commit = commits::enter(world, &call).await?;
    let reply = handler(world, call);
    drop(commit);
    Ok(match reply? {
        Reply::Json(result) => success(world, route, result),
        Reply::Download { result, content, etag } => {
            if let Err(text) = world.schema.check_result(route, &result) {
                return Ok(wrong(world, route, &text));
            }
            let mut answer = Answer::download(world, Some(route), headers, content, etag.as_deref());
            if answer.status.is_success() {
                answer.set(RESULT_HEADER, &header_safe(&result));
            }
            answer
        }
    })
}

fn success(world: &World, route: &RouteSpec, result: serde_json::Value) -> Answer {
    match world.schema.check_result(route, &result) {
        Ok(()) => Answer::json(StatusCode::OK, &result),
        Err(text) => wrong(world, route, &text),
    }
}

/// An answer of ours that does not fit the published types is our bug: loud, counted, never sent.
fn wrong(world: &World, route: &RouteSpec, text: &str) -> Answer {
    tracing::error!(route = route.name, "the emulator's own answer is wrong: {text}");
    world.ledger.wrong_answer(&route.name, text);
    Answer::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "text/plain; charset=utf-8",
        format!("emulator bug: {}: {text}", route.name),
    )
}

fn check_refusal(world: &World, route: Option<&RouteSpec>, refusal: &Refusal) {
    let Some(route) = route else { return };
    let problem = match refusal {
        Refusal::Endpoint { error, .. } => world.schema.check_error(route, error),
        Refusal::Auth(error) => world.schema.check_common_error(401, error),
        Refusal::PathRoot(error) => world.schema.check_common_error(422, error),
        _ => Ok(()),
    };
    if let Err(text) = problem {
        tracing::error!(route = route.name, "the emulator's own error is wrong: {text}");
        world.ledger.wrong_answer(&route.name, &text);
    }
}

/// The JavaScript SDK puts the form's fields into the URL.
async fn token(
    world: &Arc<World>,
    taking: &Taking<'_>,
    head: &http::request::Parts,
    body: Incoming,
) -> io::Result<Answer> {
    let body = taking.whole(body).await?.unwrap_or_default();
    let query = head.uri.query().unwrap_or_default();
    Ok(Answer::canned(&world.authority.token(&head.headers, query, &body)))
}

/// The bytes behind `files/get_temporary_link`: anyone's who has the link.
fn temporary_link(world: &World, method: &Method, headers: &HeaderMap, path: &str) -> Answer {
    let key = path.rsplit('/').next().unwrap_or_default();
    if method != Method::GET && method != Method::HEAD {
        return Answer::refusal(world, None, Refusal::WrongMethod);
    }
    match world.temporary.content(world, key) {
        Some((content, rev)) => Answer::download(world, None, headers, content, Some(&format!("\"{rev}\""))),
        None => Answer::refusal(world, None, Refusal::Gone("This link has expired.".to_owned())),
    }
}

/// Bytes for `files/get_temporary_upload_link`.
async fn temporary_upload(
    world: &Arc<World>,
    taking: &Taking<'_>,
    headers: &HeaderMap,
    path: &str,
    body: Incoming,
) -> io::Result<Answer> {
    let key = path.rsplit('/').next().unwrap_or_default();
    let octets = headers.get(header::CONTENT_TYPE).is_some_and(|value| value == "application/octet-stream");
    if !octets {
        taking.drain(body, 0).await?;
        return Ok(Answer::new(StatusCode::BAD_REQUEST, "text/plain", "bad Content-Type"));
    }
    let received: Received = match taking.upload(world, body).await? {
        Taken::TooLarge => return Ok(Answer::new(StatusCode::CONFLICT, "text/plain", "the body is too large")),
        Taken::Body(received) => received,
    };
    let hash = received.hash();
    Ok(match world.temporary.commit(world, key, received) {
        None => Answer::refusal(world, None, Refusal::Gone("This link has expired or was used.".to_owned())),
        Some(Err(())) => Answer::new(StatusCode::CONFLICT, "text/plain", "the file could not be written"),
        Some(Ok(())) => Answer::json(StatusCode::OK, &json!({ "content-hash": hash })),
    })
}
