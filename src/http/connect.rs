//! The connect page: which application parameters there are, and connecting, testing and disconnecting their accounts.
//! Every request is checked in the same order: host, administrator, and for what changes something the form.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::{ConnectInfo, DefaultBodyLimit, Path, RawQuery, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse as _, Redirect, Response},
    routing::{get, post},
};

use super::{
    Parts,
    audit::Act,
    callback::{self, Came},
    door::{self, Browser, Site},
    pages::{self, Listed, Told},
};
use crate::{
    access::Principal,
    credentials::{By, CALLBACK_PATH, Wish},
    fault::{Fault, Reason},
    limits::{CONNECT_FORM_BYTES_MAX, CONNECT_FORM_TIME, PARAMETERS_PAGE_MAX},
    store::{ParameterId, Parameters},
};

pub(super) const STYLE_PATH: &str = "/oauth/style.css";
const STYLE: &str = include_str!("style.css");

// The pages by the names that the audit log has for them.
const LIST: &str = "list";
const CONNECT: &str = "connect";
const TEST: &str = "test";
const ASK_DISCONNECT: &str = "ask_disconnect";
const DISCONNECT: &str = "disconnect";

#[derive(Clone)]
struct Page(Arc<Inside>);

struct Inside {
    parts: Parts,
    port: u16,
}

/// What the checks found out about a request.
#[derive(Clone)]
struct Visitor {
    site: Site,
    browser: Browser,
    /// The browser had no cookie yet.
    is_new: bool,
    principal: Principal,
    remote: Option<SocketAddr>,
}

impl Visitor {
    /// Tells the audit log what came of what they did. `id` as it stands in the path: it may be none.
    fn did<T>(&self, page: &'static str, id: &str, outcome: Result<T, Fault>) -> Result<T, Fault> {
        let parameter = ParameterId::new(id).ok();
        let parameter = parameter.as_ref().map(ParameterId::as_str);
        let act = Act { page, remote: self.remote, principal: Some(self.principal.name()), parameter };
        match &outcome {
            Ok(_) => act.done(),
            Err(fault) => act.failed(fault),
        }
        outcome
    }
}

pub(super) fn router(parts: Parts, port: u16) -> Router {
    let page = Page(Arc::new(Inside { parts, port }));
    let guarded = Router::new()
        .route("/connect", get(list))
        .route("/connect/{id}/connect", post(connect))
        .route("/connect/{id}/test", post(test))
        .route("/connect/{id}/disconnect", get(ask_disconnect).post(disconnect))
        .layer(DefaultBodyLimit::max(CONNECT_FORM_BYTES_MAX))
        .layer(middleware::from_fn_with_state(page.clone(), admit));
    Router::new()
        .route("/", get(|| async { Redirect::to("/connect") }))
        .route(STYLE_PATH, get(style))
        .route(CALLBACK_PATH, get(come_back))
        .merge(guarded)
        .with_state(page)
}

impl Page {
    fn site(&self, headers: &HeaderMap) -> Option<Site> {
        Site::of(headers, self.0.port, self.0.parts.resolver.callbacks())
    }

    /// An answer with a page whose forms may lead to Dropbox.
    fn shown(&self, status: StatusCode, visitor: &Visitor, markup: maud::Markup) -> Response {
        let target = self.0.parts.resolver.authorize_endpoint().ok();
        let mut response = door::page(status, markup, target.as_ref());
        if let Some(cookie) = visitor.browser.cookie(&visitor.site).filter(|_| visitor.is_new) {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
        response
    }

    async fn parameters(&self, id: &str) -> Result<Parameters, Fault> {
        let id = ParameterId::new(id)?;
        let missing =
            || Fault::new(Reason::ApplicationParameterNotFound, format!("there is no application parameter {id}"));
        self.0.parts.store.parameters(&id).await?.ok_or_else(missing)
    }

    fn failed(&self, visitor: &Visitor, title: &'static str, fault: &Fault) -> Response {
        let status = match fault.reason() {
            Reason::ApplicationParameterNotFound => StatusCode::NOT_FOUND,
            Reason::InvalidField | Reason::RedirectUriNotAllowed => StatusCode::BAD_REQUEST,
            Reason::CallerNotAllowed => StatusCode::FORBIDDEN,
            Reason::ConnectorBusy | Reason::StoreUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::CONFLICT,
        };
        self.shown(status, visitor, pages::failed(&Told { title, fault, description: None, has_page: true }))
    }
}

/// Host, administrator, form: whoever is not let in reaches no handler.
async fn admit(State(page): State<Page>, request: Request, next: Next) -> Response {
    let (mut head, body) = request.into_parts();
    let remote = head.extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
    let (name, parameter) = asked(head.uri.path());
    let act = Act { page: name, remote, parameter: parameter.as_ref().map(ParameterId::as_str), ..Act::default() };
    let Some(site) = page.site(&head.headers) else {
        act.misdirected();
        return door::page(StatusCode::MISDIRECTED_REQUEST, pages::misdirected(page.0.port), None);
    };
    let principal = match door::administrator(&page.0.parts.authenticator, &head.headers).await {
        Ok(principal) => principal,
        Err(fault) => {
            act.failed(&fault);
            let told = Told { title: "For administrators", fault: &fault, description: None, has_page: false };
            return door::refused(&fault, pages::failed(&told));
        }
    };
    let known = Browser::of(&head.headers, site.is_secure());
    let is_new = known.is_none();
    let visitor = Visitor { site, browser: known.clone().unwrap_or_else(Browser::new), is_new, principal, remote };
    let body = axum::body::to_bytes(body, CONNECT_FORM_BYTES_MAX);
    let body = match tokio::time::timeout(CONNECT_FORM_TIME, body).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return door::plain(StatusCode::PAYLOAD_TOO_LARGE, "the form is too large\n"),
        Err(_) => return door::plain(StatusCode::REQUEST_TIMEOUT, "the form did not come in time\n"),
    };
    if head.method == Method::POST {
        let token = field(&body, "token").unwrap_or_default();
        if let Err(fault) = door::check_form(&head.headers, &visitor.site, known.as_ref(), &token) {
            Act { principal: Some(visitor.principal.name()), ..act }.failed(&fault);
            return page.failed(&visitor, "This form is not from this page", &fault);
        }
    }
    head.extensions.insert(visitor);
    next.run(Request::from_parts(head, body.into())).await
}

/// Which page a path is, and of which parameter, as far as its id can be one.
fn asked(path: &str) -> (&'static str, Option<ParameterId>) {
    let mut parts = path.trim_start_matches('/').splitn(3, '/').skip(1);
    let parameter = parts.next().and_then(|id| ParameterId::new(id).ok());
    let name = match parts.next() {
        None => LIST,
        Some("connect") => CONNECT,
        Some("test") => TEST,
        Some("disconnect") => DISCONNECT,
        Some(_) => "unknown",
    };
    (name, parameter)
}

fn field(form: &[u8], name: &str) -> Option<String> {
    url::form_urlencoded::parse(form).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

pub(super) async fn style() -> Response {
    let mut response = ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], STYLE).into_response();
    door::harden(&mut response, None);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=3600"));
    response
}

async fn list(State(page): State<Page>, RawQuery(query): RawQuery, request: Request) -> Response {
    let Some(visitor) = request.extensions().get::<Visitor>() else { return lost() };
    let query = query.unwrap_or_default();
    let group = field(query.as_bytes(), "group").unwrap_or_default();
    let after = field(query.as_bytes(), "after").and_then(|after| ParameterId::new(&after).ok());
    let found = page.0.parts.store.list_parameters(&group, after.as_ref(), PARAMETERS_PAGE_MAX + 1).await;
    let mut found = match visitor.did(LIST, "", found) {
        Ok(found) => found,
        Err(fault) => return page.failed(visitor, "The list cannot be read", &fault),
    };
    let more = found.len() > PARAMETERS_PAGE_MAX as usize;
    found.truncate(PARAMETERS_PAGE_MAX as usize);
    let listed = Listed {
        parameters: &found,
        group: &group,
        next: found.last().filter(|_| more).map(|last| last.id.as_str()),
        token: &visitor.browser.digest("form"),
        callback: &visitor.site.callback(),
        principal: visitor.principal.name(),
        read_only: page.0.parts.store.require_writable().is_err(),
    };
    page.shown(StatusCode::OK, visitor, pages::list(&listed))
}

async fn connect(State(page): State<Page>, Path(id): Path<String>, request: Request) -> Response {
    let Some(visitor) = request.extensions().get::<Visitor>() else { return lost() };
    let wish = Wish {
        redirect_uri: Some(visitor.site.callback()),
        // Who connects anew must be able to choose another account than the one their browser is signed in with.
        force_reapprove: true,
        ..Wish::default()
    };
    let by = By::Browser { cookie: visitor.browser.digest("state"), principal: visitor.principal.name().to_owned() };
    let begun = async { page.0.parts.resolver.begin_authorization(&ParameterId::new(&id)?, wish, by).await };
    match visitor.did(CONNECT, &id, begun.await) {
        Ok(begun) => {
            let mut response = Redirect::to(begun.authorize_url.as_str()).into_response();
            door::harden(&mut response, Some(&begun.authorize_url));
            response
        }
        Err(fault) => page.failed(visitor, "The account cannot be connected", &fault),
    }
}

async fn come_back(
    State(page): State<Page>,
    ConnectInfo(remote): ConnectInfo<SocketAddr>,
    method: Method,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    let Some(site) = page.site(&headers) else {
        Act { page: "callback", remote: Some(remote), ..Act::default() }.misdirected();
        return door::page(StatusCode::MISDIRECTED_REQUEST, pages::misdirected(page.0.port), None);
    };
    let browser = Browser::of(&headers, site.is_secure());
    let came = Came { method: &method, query: query.as_deref(), browser, remote, has_page: true };
    callback::complete(&page.0.parts.resolver, came).await
}

async fn test(State(page): State<Page>, Path(id): Path<String>, request: Request) -> Response {
    let Some(visitor) = request.extensions().get::<Visitor>() else { return lost() };
    let tried = async {
        let parameters = page.parameters(&id).await?;
        let deadline = Some(std::time::Instant::now() + crate::limits::IMPORT_DEADLINE);
        Ok::<_, Fault>((page.0.parts.resolver.test(&parameters.id, deadline).await?, parameters))
    };
    match visitor.did(TEST, &id, tried.await) {
        Ok((report, parameters)) => page.shown(StatusCode::OK, visitor, pages::tested(&parameters, &report)),
        Err(fault) => page.failed(visitor, "The test failed", &fault),
    }
}

async fn ask_disconnect(State(page): State<Page>, Path(id): Path<String>, request: Request) -> Response {
    let Some(visitor) = request.extensions().get::<Visitor>() else { return lost() };
    match visitor.did(ASK_DISCONNECT, &id, page.parameters(&id).await) {
        Ok(parameters) => {
            let token = visitor.browser.digest("form");
            page.shown(StatusCode::OK, visitor, pages::ask_disconnect(&parameters, &token))
        }
        Err(fault) => page.failed(visitor, "There is nothing to disconnect", &fault),
    }
}

async fn disconnect(State(page): State<Page>, Path(id): Path<String>, request: Request) -> Response {
    let Some(visitor) = request.extensions().get::<Visitor>() else { return lost() };
    let revoked = async { page.0.parts.resolver.revoke_authorization(&ParameterId::new(&id)?, None).await };
    match visitor.did(DISCONNECT, &id, revoked.await) {
        Ok(revoked) => page.shown(StatusCode::OK, visitor, pages::disconnected(&revoked)),
        Err(fault) => page.failed(visitor, "The account was not disconnected", &fault),
    }
}

/// A handler without the check before it: answered, never served.
fn lost() -> Response {
    door::plain(StatusCode::INTERNAL_SERVER_ERROR, "the request came past the door\n")
}
