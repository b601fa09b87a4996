//! The OAuth token endpoint: form in, JSON out, its own shape of errors. Used for refreshes and code exchanges.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{StatusCode, header::CONTENT_TYPE};
use serde::Deserialize;
use url::Url;

use super::{
    Host, Repeat,
    attempt::{self, Trouble, Unread},
    body::{Pieces, Progress},
    egress,
    retry::{self, Failure},
    transport::{Transport, join},
};
use crate::{
    fault::{Fault, Reason, Result},
    limits,
    secret::Secret,
    telemetry,
};

/// What the token endpoint gives.
#[derive(Clone)]
pub struct TokenAnswer {
    pub access_token: Secret<String>,
    pub expires_in: Option<Duration>,
    /// Only for a code, and only with offline access.
    pub refresh_token: Option<Secret<String>>,
    pub scopes: Vec<String>,
    pub account_id: Option<String>,
    pub team_id: Option<String>,
}

impl fmt::Debug for TokenAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TokenAnswer { access_token: _, refresh_token, expires_in, scopes, account_id, team_id } = self;
        f.debug_struct("TokenAnswer")
            .field("expires_in", expires_in)
            .field("refresh_token", &refresh_token.is_some())
            .field("scopes", scopes)
            .field("account_id", account_id)
            .field("team_id", team_id)
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    expires_in: Option<u64>,
    refresh_token: Option<String>,
    #[serde(default)]
    scope: String,
    account_id: Option<String>,
    team_id: Option<String>,
}

#[derive(Deserialize)]
struct Denied {
    error: String,
}

impl Transport {
    /// The page where an account's owner grants access.
    ///
    /// # Errors
    /// `CONNECTOR_BUG`.
    pub fn authorize_endpoint(&self) -> Result<Url> {
        join(&self.endpoints.oauth, "oauth2/authorize")
    }

    /// Posts to `oauth2/token`. A refresh is repeated when Dropbox fails; a code works once and is not.
    ///
    /// # Errors
    /// `REAUTHORIZATION_REQUIRED` (`cause` `invalid_grant`), `CREDENTIALS_REJECTED` (`cause` `invalid_client`: app key
    /// and secret do not fit), `RATE_LIMITED`, `DROPBOX_UNAVAILABLE`, `UPSTREAM_TIMEOUT`, `OUTCOME_UNKNOWN` for a code,
    /// `DROPBOX_BAD_REQUEST`, `DROPBOX_PROTOCOL`.
    pub async fn token(&self, form: &[(&str, &str)]) -> Result<TokenAnswer> {
        let repeat = if form.contains(&("grant_type", "refresh_token")) { Repeat::Safe } else { Repeat::Never };
        let all = async {
            let mut attempt = 0;
            loop {
                let (failure, fault) = match self.token_once(form, repeat).await {
                    Ok(answer) => return Ok(answer),
                    Err(failed) => failed,
                };
                let Some(wait) = retry::wait(failure, repeat, attempt, None, rand::random()) else {
                    return Err(fault);
                };
                attempt += 1;
                self.clock.sleep(wait).await;
            }
        };
        let outcome = tokio::time::timeout(limits::TOKEN_TIMEOUT, all)
            .await
            .unwrap_or_else(|_| {
                Err(Fault::new(Reason::UpstreamTimeout, "the token endpoint did not answer in time")
                    .fact("phase", "token")
                    .retry_after(Duration::from_secs(1)))
            })
            .map_err(|fault| fault.fact("dropboxRoute", "oauth2/token"));
        let told = outcome.as_ref().map_or_else(|fault| fault.reason().name(), |_| "OK");
        metrics::counter!(telemetry::OAUTH_REFRESH, "outcome" => told).increment(1);
        outcome
    }

    async fn token_once(&self, form: &[(&str, &str)], repeat: Repeat) -> Result<TokenAnswer, (Failure, Fault)> {
        let stop = |fault| (Failure::Final, fault);
        let url = join(&self.endpoints.api, "oauth2/token").map_err(stop)?;
        let client = self.client(Host::Api).map_err(stop)?;
        let progress = Arc::new(Progress::default());
        let text = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let body = reqwest::Body::wrap(Pieces::new(&[Bytes::from(text)], progress.clone()));
        let request = client.post(url.clone()).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(body);
        let lost = |sent: bool| sent && repeat == Repeat::Never;
        let failure = |sent: bool| if sent { Failure::Unclear } else { Failure::NotSent };
        let broken = |error: reqwest::Error, sent: bool| {
            if egress::is_untrusted(&error) {
                return (Failure::Final, egress::untrusted(error.without_url()));
            }
            let fault = if lost(sent) {
                Fault::new(Reason::OutcomeUnknown, "the connection to the token endpoint broke")
                    .source(error.without_url())
            } else {
                Fault::new(Reason::DropboxUnavailable, "the connection to the token endpoint failed")
                    .retry_after(Duration::from_secs(1))
                    .source(error.without_url())
            };
            (failure(sent), fault)
        };
        let late = |phase: &'static str| {
            let sent = phase != "connect";
            let fault = if lost(sent) {
                Fault::new(Reason::OutcomeUnknown, "the token endpoint did not answer in time")
            } else {
                Fault::new(Reason::UpstreamTimeout, "the token endpoint did not answer in time")
                    .retry_after(Duration::from_secs(1))
            };
            (failure(sent), fault.fact("phase", phase))
        };
        let started = Instant::now();
        let response = match attempt::timed(request.send(), &progress, true, self.timeouts).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                let sent = !error.is_connect() && progress.begun();
                let blamed = self.blame(&url, &error).await;
                return Err(match blamed {
                    Some(fault) => proxied(fault),
                    None => broken(error, sent),
                });
            }
            Err(phase) => return Err(late(phase)),
        };
        let status = response.status();
        let request_id = attempt::text(response.headers(), "x-dropbox-request-id");
        let retry_after = attempt::retry_after(response.headers());
        if let Some(fault) = self.challenged(&url, status, response.headers()) {
            return Err(proxied(fault));
        }
        let body = match attempt::read(response, limits::REFUSAL_BYTES_MAX, self.timeouts, started).await {
            Ok(body) | Err(Unread::TooLong(body)) => body,
            Err(Unread::Trouble(Trouble::Broken { error, .. })) => return Err(broken(error, true)),
            Err(Unread::Trouble(_)) => return Err(late("idle_read")),
        };
        if status.is_success() {
            return granted(&body).map_err(|fault| (Failure::Final, named(fault, request_id.as_deref(), status)));
        }
        let (failure, fault) = denied(status, retry_after, &body, repeat);
        Err((failure, named(fault, request_id.as_deref(), status)))
    }
}

/// A proxy that is away may be back in a moment; one that wants other credentials will not.
fn proxied(fault: Fault) -> (Failure, Fault) {
    (if fault.retry_delay().is_some() { Failure::NotSent } else { Failure::Final }, fault)
}

fn granted(body: &[u8]) -> Result<TokenAnswer> {
    // The decoder's own words could quote the token, so they are not kept.
    let granted: Granted = serde_json::from_slice(body)
        .map_err(|_| Fault::new(Reason::DropboxProtocol, "the token endpoint's answer cannot be read"))?;
    Ok(TokenAnswer {
        access_token: granted.access_token.into(),
        expires_in: granted.expires_in.map(Duration::from_secs),
        refresh_token: granted.refresh_token.map(Secret::from),
        scopes: granted.scope.split_ascii_whitespace().map(str::to_owned).collect(),
        account_id: granted.account_id,
        team_id: granted.team_id,
    })
}

fn denied(status: StatusCode, retry_after: Option<Duration>, body: &[u8], repeat: Repeat) -> (Failure, Fault) {
    match status.as_u16() {
        429 => {
            let span = retry_after.unwrap_or(limits::RATE_LIMIT_WAIT);
            let fault = Fault::new(Reason::RateLimited, "Dropbox limits token requests").retry_after(span);
            (Failure::Refused { retry_after: Some(span) }, fault)
        }
        500..=599 if repeat == Repeat::Never => {
            (Failure::Final, Fault::new(Reason::OutcomeUnknown, "the token endpoint failed; the code may be used up"))
        }
        500..=599 => {
            let fault = Fault::new(Reason::DropboxUnavailable, "the token endpoint failed");
            (Failure::Unclear, fault.retry_after(Duration::from_secs(1)))
        }
        _ => {
            let error = serde_json::from_slice::<Denied>(body).map(|denied| denied.error).unwrap_or_default();
            let fault = match error.as_str() {
                "invalid_grant" => {
                    Fault::new(Reason::ReauthorizationRequired, "Dropbox does not know the grant any more")
                        .fact("cause", "invalid_grant")
                }
                "invalid_client" | "unauthorized_client" => {
                    Fault::new(Reason::CredentialsRejected, "Dropbox does not accept the app's key and secret")
                        .fact("cause", "invalid_client")
                }
                _ => Fault::new(Reason::DropboxBadRequest, "the token endpoint refused the request"),
            };
            (Failure::Final, fault)
        }
    }
}

fn named(fault: Fault, request_id: Option<&str>, status: StatusCode) -> Fault {
    let fault = fault.fact("httpStatus", status.as_u16());
    match request_id {
        Some(id) => fault.fact("dropboxRequestId", id),
        None => fault,
    }
}
