//! `/webhook/{app_key}`: Dropbox's doorbell. What is not signed with the app's secret is refused before it is read as anything;
//! what is, wakes those who watch the accounts it names and is answered at once. It carries no news itself.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Extension,
    body::{Body, HttpBody as _, to_bytes},
    extract::{Path, RawQuery, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use metrics::counter;
use serde::Deserialize;

use super::lobby::Ticket;
use crate::{
    credentials::{Resolver, Signed},
    events::Hub,
    fault::Fault,
    limits::{WEBHOOK_BODY_TIME, WEBHOOK_BYTES_MAX, WEBHOOK_CHALLENGE_BYTES_MAX},
    telemetry::WEBHOOK_CALLS,
};

/// The path, with the key of the app in it.
pub(super) const PATH: &str = "/webhook/{app_key}";

const SIGNATURE: &str = "x-dropbox-signature";

/// Where calls go.
#[derive(Clone)]
pub(super) struct Bell {
    pub resolver: Arc<Resolver>,
    pub hub: Hub,
}

/// A notification, of an app that users linked or of one that teams did. `delta`, of an earlier API, is not looked at.
#[derive(Deserialize)]
struct Notification {
    #[serde(default)]
    list_folder: Named,
}

#[derive(Deserialize, Default)]
struct Named {
    #[serde(default)]
    accounts: Vec<String>,
    /// Members by team.
    #[serde(default)]
    teams: HashMap<String, Vec<String>>,
}

/// Dropbox asks whether the address is meant: its challenge comes back.
pub(super) async fn challenge(
    State(bell): State<Bell>,
    Path(app_key): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    match bell.resolver.knows_app_secret(&app_key).await {
        Ok(true) => {}
        Ok(false) => return unknown(),
        Err(fault) => return broken(&fault),
    }
    let query = query.unwrap_or_default();
    let asked = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "challenge");
    let fits = |text: &str| {
        (1..=WEBHOOK_CHALLENGE_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| (0x20..0x7f).contains(&byte))
    };
    match asked {
        Some((_, challenge)) if fits(&challenge) => told(StatusCode::OK, challenge.into_owned()),
        _ => told(StatusCode::BAD_REQUEST, "the challenge must be 1 to 1024 printable ASCII characters\n".into()),
    }
}

/// Something changed in the accounts it names.
pub(super) async fn notify(
    State(bell): State<Bell>,
    Path(app_key): Path<String>,
    Extension(ticket): Extension<Ticket>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    // Nobody waits for a body that is of no use.
    match bell.resolver.knows_app_secret(&app_key).await {
        Ok(true) => {}
        Ok(false) => {
            count("unknown_app");
            return unknown();
        }
        Err(fault) => return broken(&fault),
    }
    if body.size_hint().lower() > WEBHOOK_BYTES_MAX as u64 {
        return too_large();
    }
    let body = match tokio::time::timeout(WEBHOOK_BODY_TIME, to_bytes(body, WEBHOOK_BYTES_MAX)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return too_large(),
        Err(_) => {
            count("too_slow");
            let text = format!("the body has to come within {} s\n", WEBHOOK_BODY_TIME.as_secs());
            return told(StatusCode::REQUEST_TIMEOUT, text);
        }
    };
    ticket.heard_out();
    let signature = headers.get(SIGNATURE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match bell.resolver.check_app_signature(&app_key, &body, signature).await {
        Ok(Signed::Right) => {}
        Ok(Signed::Wrong) => {
            count("wrong_signature");
            return told(StatusCode::FORBIDDEN, "X-Dropbox-Signature is not the app's over this body\n".into());
        }
        Ok(Signed::UnknownApp) => {
            count("unknown_app");
            return unknown();
        }
        Err(fault) => return broken(&fault),
    }
    let list_folder = match serde_json::from_slice(&body) {
        Ok(Notification { list_folder }) => list_folder,
        Err(error) => {
            count("malformed");
            return told(StatusCode::BAD_REQUEST, format!("the body is not a notification: {error}\n"));
        }
    };
    count("taken");
    let members = list_folder.teams.into_values().flatten();
    let accounts: Vec<String> = list_folder.accounts.into_iter().chain(members).collect();
    bell.hub.wake(&accounts);
    told(StatusCode::OK, String::new())
}

fn count(outcome: &'static str) {
    counter!(WEBHOOK_CALLS, "outcome" => outcome).increment(1);
}

fn too_large() -> Response {
    count("too_large");
    told(StatusCode::PAYLOAD_TOO_LARGE, format!("a notification has at most {WEBHOOK_BYTES_MAX} bytes\n"))
}

/// An app whose key is not known, or whose secret is not. That it differs from a wrong signature tells which keys are known;
/// keys are public, they stand in the address of every consent page.
fn unknown() -> Response {
    told(StatusCode::NOT_FOUND, "no such webhook\n".into())
}

/// Dropbox calls again.
fn broken(fault: &Fault) -> Response {
    count("failed");
    tracing::warn!(%fault, "a webhook call could not be checked");
    told(StatusCode::SERVICE_UNAVAILABLE, "try again\n".into())
}

fn told(status: StatusCode, text: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/plain"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (status, headers, text).into_response()
}
