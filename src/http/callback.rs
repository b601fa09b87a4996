//! `/oauth/callback`: where Dropbox sends the browser back to. Completes the authorization by itself and says how it went.
//! Whoever comes without a state of ours learns and changes nothing, and is shown nothing of what they brought.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    extract::{ConnectInfo, RawQuery, State},
    http::{HeaderMap, Method, StatusCode},
    response::Response,
};

use super::{
    audit::Act,
    door::{self, Browser, Site},
    pages::{self, Told},
};
use crate::{
    credentials::{By, Incomplete, Outcome, Resolver},
    fault::{Fault, Reason},
    limits::URL_BYTES_MAX,
};

/// Of Dropbox's words about a refusal so much is shown.
const DESCRIPTION_CHARS_MAX: usize = 200;

/// What of a request to the callback counts.
pub(super) struct Came<'a> {
    pub method: &'a Method,
    pub query: Option<&'a str>,
    pub browser: Option<Browser>,
    pub remote: SocketAddr,
    /// There is a list to go back to.
    pub has_page: bool,
}

/// On the public port: no page to go back to.
pub(super) async fn public(
    State(resolver): State<Arc<Resolver>>,
    ConnectInfo(remote): ConnectInfo<SocketAddr>,
    method: Method,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    // A proxy may call us by another name; what is public is https.
    let secure = Site::listed(&headers, resolver.callbacks()).is_none_or(|site| site.is_secure());
    let browser = Browser::of(&headers, secure);
    complete(&resolver, Came { method: &method, query: query.as_deref(), browser, remote, has_page: false }).await
}

pub(super) async fn complete(resolver: &Arc<Resolver>, came: Came<'_>) -> Response {
    let Came { method, query, browser, remote, has_page } = came;
    let act = Act { page: "callback", remote: Some(remote), ..Act::default() };
    // A HEAD would use the state up, and whoever sends one shows no page to anybody.
    if method != Method::GET {
        return door::plain(StatusCode::METHOD_NOT_ALLOWED, "GET only\n");
    }
    let query = query.unwrap_or_default();
    let (state, outcome) = match Outcome::of_query(query, "query").and_then(|read| bounded(query, read)) {
        Ok(read) => read,
        Err(_) => {
            let fault =
                Fault::new(Reason::AuthorizationStateExpired, "this is not an answer of Dropbox to this connector");
            act.failed(&fault);
            return told(&fault, None, has_page);
        }
    };
    let description = match &outcome {
        Outcome::Refused(_) => described(query),
        Outcome::Code(_) => None,
    };
    let by = By::Callback(browser.map(|browser| browser.digest("state")));
    match resolver.complete_authorization(state, outcome, by).await {
        Ok(completed) => {
            let parameter = Some(completed.parameters.id.as_str());
            Act { principal: Some(&completed.begun_by), parameter, ..act }.done();
            door::page(StatusCode::OK, pages::connected(&completed, has_page), None)
        }
        Err(Incomplete { fault, begun_by }) => {
            let parameter = fault.get("applicationParameterId");
            Act { principal: begun_by.as_deref(), parameter, ..act }.failed(&fault);
            told(&fault, description.as_deref(), has_page)
        }
    }
}

fn bounded<T>(query: &str, read: T) -> Result<T, Fault> {
    // Dropbox's codes and our states are far shorter.
    if query.len() <= URL_BYTES_MAX { Ok(read) } else { Err(Fault::field("query", "OUT_OF_RANGE", "at most 2 KiB")) }
}

/// What Dropbox says about a refusal, fit to be shown. The page escapes it.
fn described(query: &str) -> Option<String> {
    let mut pairs = url::form_urlencoded::parse(query.as_bytes());
    let (_, text) = pairs.find(|(name, value)| name == "error_description" && !value.is_empty())?;
    Some(text.chars().filter(|c| !c.is_control()).take(DESCRIPTION_CHARS_MAX).collect())
}

fn told(fault: &Fault, description: Option<&str>, has_page: bool) -> Response {
    let status = match fault.reason() {
        Reason::AuthorizationStateExpired | Reason::AuthorizationDenied | Reason::AuthorizationCodeRejected => {
            StatusCode::BAD_REQUEST
        }
        Reason::AccountMismatch | Reason::AccountType => StatusCode::CONFLICT,
        Reason::ConnectorBug => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_GATEWAY,
    };
    // Only an answer to something we began is quoted: else anybody could have us say anything.
    let description = description.filter(|_| fault.reason() == Reason::AuthorizationDenied);
    let title = match fault.reason() {
        Reason::AuthorizationDenied => "Access was not granted",
        Reason::AuthorizationStateExpired => "This authorization has ended",
        Reason::AccountMismatch => "This is another Dropbox account",
        Reason::AccountType => "This is the wrong kind of account",
        _ => "The account was not connected",
    };
    door::page(status, pages::failed(&Told { title, fault, description, has_page }), None)
}
