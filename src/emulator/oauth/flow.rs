//! The consent page and the token endpoint. Errors have OAuth's shape (`error`, `error_description`), not the API's.

use std::sync::Arc;

use bytes::Bytes;
use http::{
    HeaderMap, Method,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::*;
use crate::emulator::{Canned, World};

/// What came as query and form, first one wins.
struct Params(Vec<(String, String)>);

impl Params {
    fn read(query: &str, form: &[u8]) -> Params {
        let pairs = url::form_urlencoded::parse(query.as_bytes()).chain(url::form_urlencoded::parse(form));
        Params(pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
    }

    /// Empty is as good as absent.
    fn get(&self, name: &str) -> Option<&str> {
        let value = self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        value.filter(|value| !value.is_empty())
    }
}

/// An OAuth refusal.
struct Denied(&'static str, String);

fn denied<T>(code: &'static str, text: impl Into<String>) -> Result<T, Denied> {
    Err(Denied(code, text.into()))
}

/// What the authorize page was asked for, after all its checks.
struct Asked {
    app: String,
    redirect_uri: Option<String>,
    state: Option<String>,
    access_type: AccessType,
    scopes: BTreeSet<String>,
    challenge: Option<Challenge>,
}

/// The www host: the consent page. Shared links are beside it, in `serve`.
pub(in crate::emulator) async fn www(world: &Arc<World>, request: http::Request<Bytes>) -> http::Response<Bytes> {
    let ticket = world.ledger.begin(request.uri().path().trim_start_matches('/'), request.headers());
    let query = request.uri().query().unwrap_or_default();
    let answer = match (request.uri().path(), request.method()) {
        ("/oauth2/authorize", &Method::GET) => world.authority.authorize(request.method(), query, b""),
        ("/oauth2/authorize", &Method::POST) => world.authority.authorize(request.method(), query, request.body()),
        ("/oauth2/authorize", _) => page(405, "Wrong method", "<p>GET or POST</p>"),
        _ => page(404, "Nothing here", "<p>This host has /oauth2/authorize and shared links.</p>"),
    };
    ticket.answered(answer.status, "");
    let mut response = http::Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        response = response.header(name, value);
    }
    response.body(Bytes::from(answer.body)).expect("pages have plain headers")
}

impl Authority {
    /// `GET /oauth2/authorize` shows the page, `POST` takes its form.
    pub(in crate::emulator) fn authorize(&self, method: &Method, query: &str, form: &[u8]) -> Canned {
        let params = Params::read(query, form);
        let asked = match self.asked(&params) {
            Ok(asked) => asked,
            Err(text) => {
                return page(400, "This app has sent an invalid request", &format!("<p>{}</p>", escape(&text)));
            }
        };
        let decision = match (method == Method::POST, self.book().consent) {
            (true, _) => params.get("decision").map(str::to_owned),
            (false, Consent::Ask) => None,
            (false, Consent::Approve) => Some("approve".to_owned()),
            (false, Consent::Deny) => Some("deny".to_owned()),
        };
        match decision.as_deref() {
            Some("approve") => self.approve(asked),
            Some(_) => match &asked.redirect_uri {
                Some(uri) => back(
                    uri,
                    &[
                        ("error", Some("access_denied")),
                        (
                            "error_description",
                            Some("The user chose not to give your app access to their Dropbox account."),
                        ),
                        ("state", asked.state.as_deref()),
                    ],
                ),
                None => page(200, "Access denied", "<p>The app has no access.</p>"),
            },
            None => consent_page(&asked, &params),
        }
    }

    fn asked(&self, params: &Params) -> Result<Asked, String> {
        let key = params.get("client_id").ok_or("missing \"client_id\"")?;
        let book = self.book();
        let app = book.apps.get(key).ok_or_else(|| format!("invalid client_id: \"{key}\""))?;
        let redirect_uri = params.get("redirect_uri").map(str::to_owned);
        if let Some(uri) = &redirect_uri
            && !app.redirect_uris.contains(uri)
            && !is_loopback(uri)
        {
            return Err(format!(
                "invalid redirect_uri: \"{uri}\": it must exactly match one of the redirect URIs you've \
                pre-configured for your app (including the path)"
            ));
        }
        match params.get("response_type") {
            Some("code") => {}
            Some(other) => return Err(format!("invalid response_type: \"{other}\"")),
            None => return Err("missing \"response_type\"".to_owned()),
        }
        let state = params.get("state").map(str::to_owned);
        if state.as_ref().is_some_and(|state| state.len() > 500) {
            return Err("invalid state: must be at most 500 bytes".to_owned());
        }
        let access_type = match params.get("token_access_type") {
            Some("offline") => AccessType::Offline,
            Some("online") | None => AccessType::Online,
            Some("legacy") => AccessType::Legacy,
            Some(other) => return Err(format!("invalid token_access_type: \"{other}\"")),
        };
        let offered = app.offered(book.for_team.is_some());
        let mut scopes = match params.get("scope") {
            None => offered.clone(),
            Some(text) => text.split_whitespace().map(str::to_owned).collect(),
        };
        if let Some(scope) = scopes.iter().find(|scope| !offered.contains(*scope)) {
            return Err(format!("invalid scope: \"{scope}\" is not configured for this app"));
        }
        scopes.insert("account_info.read".to_owned());
        match (params.get("include_granted_scopes"), params.get("scope")) {
            (None, _) => {}
            (Some("user"), Some(_)) => {
                let earlier = book.grants.values().filter(|grant| grant.app == key && grant.account == self.account_id);
                scopes.extend(earlier.flat_map(|grant| grant.scopes.iter().cloned()));
            }
            (Some("user"), None) => return Err("include_granted_scopes: only together with scope".to_owned()),
            (Some(other), _) => return Err(format!("invalid include_granted_scopes: \"{other}\"")),
        }
        let challenge = match (params.get("code_challenge"), params.get("code_challenge_method")) {
            (None, None) => None,
            (Some(text), _) if !is_verifier(text) => return Err("invalid code_challenge".to_owned()),
            (Some(text), Some("S256")) => Some(Challenge::S256(text.to_owned())),
            (Some(text), Some("plain") | None) => Some(Challenge::Plain(text.to_owned())),
            _ => return Err("invalid code_challenge_method".to_owned()),
        };
        Ok(Asked { app: key.to_owned(), redirect_uri, state, access_type, scopes, challenge })
    }

    fn approve(&self, asked: Asked) -> Canned {
        let mut book = self.book();
        let now = self.clock.now();
        if book.codes.len() >= BOOK_MAX {
            book.codes.retain(|_, code| code.expires_at > now);
        }
        let text = book.text(43);
        let code = Code {
            app: asked.app,
            account: book.signed_in.clone().unwrap_or_else(|| self.account_id.clone()),
            team: book.for_team.clone(),
            scopes: asked.scopes,
            access_type: asked.access_type,
            redirect_uri: asked.redirect_uri.clone(),
            challenge: asked.challenge,
            expires_at: now + CODE_LIFE,
            used: false,
        };
        book.codes.insert(text.clone(), code);
        match &asked.redirect_uri {
            Some(uri) => back(uri, &[("code", Some(&text)), ("state", asked.state.as_deref())]),
            None => page(
                200,
                "Access code generated",
                &format!("<p>Enter this code:</p><p><code id=\"code\">{text}</code></p>"),
            ),
        }
    }

    /// `POST /oauth2/token`.
    pub(in crate::emulator) fn token(&self, headers: &HeaderMap, query: &str, body: &[u8]) -> Canned {
        let form = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let form = form.split(';').next().is_some_and(|kind| kind.trim() == "application/x-www-form-urlencoded");
        let params = Params::read(query, if form { body } else { b"" });
        let answer = match params.get("grant_type") {
            Some("authorization_code") => self.trade_code(&params, headers),
            Some("refresh_token") => self.refresh(&params, headers),
            Some(other) => denied("unsupported_grant_type", format!("grant_type \"{other}\" is not supported")),
            None => denied("invalid_request", "missing required field \"grant_type\""),
        };
        let (status, body) = match answer {
            Ok(body) => (200, body),
            Err(Denied(code, text)) => (400, json!({ "error": code, "error_description": text })),
        };
        // Recorded: a good answer comes as JavaScript.
        let kind = if status == 200 { "text/javascript" } else { "application/json" };
        let headers = [("Content-Type", kind), ("Cache-Control", "no-cache"), ("X-Content-Type-Options", "nosniff")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        Canned { status, headers, body: body.to_string().into_bytes() }
    }

    /// The app that asks, and whether it has shown its secret.
    fn client(&self, params: &Params, headers: &HeaderMap) -> Result<(String, bool), Denied> {
        let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let (key, secret) = match header {
            Some(header) => match header.strip_prefix("Basic ").and_then(decode_pair) {
                Some((key, secret)) => (key, Some(secret)),
                None => {
                    return denied(
                        "invalid_request",
                        "HTTP header \"Authorization\" is not of the form Basic key:secret",
                    );
                }
            },
            None => match params.get("client_id") {
                Some(key) => (key.to_owned(), params.get("client_secret").map(str::to_owned)),
                None => return denied("invalid_request", "missing client_id, or HTTP header \"Authorization\""),
            },
        };
        let book = self.book();
        match book.apps.get(&key) {
            Some(app) if secret.as_ref().is_none_or(|secret| *secret == app.secret) => Ok((key, secret.is_some())),
            _ => denied("invalid_client", "Invalid client_id or client_secret"),
        }
    }

    fn trade_code(&self, params: &Params, headers: &HeaderMap) -> Result<Value, Denied> {
        let (app, secret_shown) = self.client(params, headers)?;
        let Some(text) = params.get("code") else {
            return denied("invalid_request", "missing required field \"code\"");
        };
        let now = self.clock.now();
        let mut book = self.book();
        let code = match book.codes.get_mut(text) {
            Some(code) if code.app == app => code,
            _ => return denied("invalid_grant", "code doesn't exist or has expired"),
        };
        if code.used {
            return denied("invalid_grant", "code has already been used");
        }
        if code.expires_at <= now {
            return denied("invalid_grant", "code has expired (within the last hour)");
        }
        if code.redirect_uri.as_deref() != params.get("redirect_uri") {
            return denied("invalid_grant", "redirect_uri mismatch");
        }
        match (&code.challenge, params.get("code_verifier")) {
            (None, None) if !secret_shown => return denied("invalid_client", "client_secret is missing"),
            (None, None) => {}
            (None, Some(_)) => return denied("invalid_grant", "code_verifier was not expected"),
            (Some(_), None) => return denied("invalid_grant", "missing required field \"code_verifier\""),
            (Some(challenge), Some(verifier)) if !challenge.is_met_by(verifier) => {
                return denied("invalid_grant", "invalid code verifier");
            }
            (Some(_), Some(_)) => {}
        }
        code.used = true;
        let (account, scopes, team) = (code.account.clone(), code.scopes.clone(), code.team.clone());
        let (access_type, pkce) = (code.access_type, code.challenge.is_some());
        let grant = book.grant(&app, &account, scopes.clone(), access_type, pkce);
        let lasting = access_type == AccessType::Legacy;
        let access_token = book.access_token(grant, scopes.clone(), (!lasting).then(|| now + TOKEN_LIFE));
        let mut answer = json!({
            "uid": uid(&account),
            "access_token": access_token,
            "token_type": "bearer",
            "scope": joined(&scopes),
        });
        match team {
            Some(team) => {
                book.grants.get_mut(&grant).expect("made above").team = true;
                answer["team_id"] = json!(team);
            }
            None => answer["account_id"] = json!(account),
        }
        if !lasting {
            answer["expires_in"] = json!(TOKEN_LIFE.as_secs());
        }
        if let Some(token) = &book.grants[&grant].refresh_token {
            answer["refresh_token"] = json!(token);
        }
        Ok(answer)
    }

    fn refresh(&self, params: &Params, headers: &HeaderMap) -> Result<Value, Denied> {
        let (app, secret_shown) = self.client(params, headers)?;
        let Some(token) = params.get("refresh_token") else {
            return denied("invalid_request", "missing required field \"refresh_token\"");
        };
        if token.len() < 32 || !token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) {
            return denied("invalid_grant", "refresh token is malformed");
        }
        let mut book = self.book();
        let known = book.refresh.get(token).map(|id| (*id, &book.grants[id])).filter(|(_, grant)| grant.app == app);
        let Some((id, grant)) = known else {
            return denied("invalid_grant", "refresh token is invalid or revoked");
        };
        if !grant.pkce && !secret_shown {
            return denied("invalid_client", "client_secret is missing");
        }
        let scopes: BTreeSet<String> = match params.get("scope") {
            None => grant.scopes.clone(),
            Some(text) => text.split_whitespace().map(str::to_owned).collect(),
        };
        if let Some(scope) = scopes.iter().find(|scope| !grant.scopes.contains(*scope)) {
            return denied("invalid_scope", format!("scope \"{scope}\" was not granted"));
        }
        let access_token = book.access_token(id, scopes.clone(), Some(self.clock.now() + TOKEN_LIFE));
        let mut answer =
            json!({ "access_token": access_token, "token_type": "bearer", "expires_in": TOKEN_LIFE.as_secs() });
        if params.get("scope").is_some() {
            answer["scope"] = json!(joined(&scopes));
        }
        Ok(answer)
    }
}

impl Challenge {
    fn is_met_by(&self, verifier: &str) -> bool {
        let coded = || base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()));
        is_verifier(verifier)
            && match self {
                Challenge::S256(challenge) => coded() == *challenge,
                Challenge::Plain(challenge) => verifier == challenge,
            }
    }
}

fn is_verifier(text: &str) -> bool {
    (43..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
}

/// `http://localhost` and `http://127.0.0.1` need no registration.
fn is_loopback(uri: &str) -> bool {
    let host = url::Url::parse(uri).ok().filter(|url| url.scheme() == "http");
    host.is_some_and(|url| matches!(url.host_str(), Some("localhost" | "127.0.0.1")))
}

fn joined(scopes: &BTreeSet<String>) -> String {
    scopes.iter().map(String::as_str).collect::<Vec<_>>().join(" ")
}

/// The number Dropbox had for an account before `account_id`.
fn uid(account: &str) -> String {
    let sum = account.bytes().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
    sum.to_string()
}

/// A redirect with what is given added to the query.
fn back(uri: &str, pairs: &[(&str, Option<&str>)]) -> Canned {
    let mut url = url::Url::parse(uri).expect("checked when the page was asked for");
    for (name, value) in pairs.iter().filter_map(|(name, value)| value.map(|value| (name, value))) {
        url.query_pairs_mut().append_pair(name, value);
    }
    Canned { status: 302, headers: vec![("Location".to_owned(), url.into())], body: Vec::new() }
}

fn consent_page(asked: &Asked, params: &Params) -> Canned {
    let hidden = params.0.iter().filter(|(name, _)| name != "decision");
    let hidden: String = hidden
        .map(|(name, value)| format!("<input type=\"hidden\" name=\"{}\" value=\"{}\">", escape(name), escape(value)))
        .collect();
    let scopes: String = asked.scopes.iter().map(|scope| format!("<li>{}</li>", escape(scope))).collect();
    let body = format!(
        "<p>The app <b>{}</b> would like to:</p><ul>{scopes}</ul>\
         <form method=\"post\" action=\"/oauth2/authorize\">{hidden}\
         <button name=\"decision\" value=\"approve\">Approve</button> \
         <button name=\"decision\" value=\"deny\">Deny</button></form>",
        escape(&asked.app)
    );
    page(200, "Dropbox emulator: allow access?", &body)
}

pub(in crate::emulator) fn page(status: u16, title: &str, body: &str) -> Canned {
    let text =
        format!("<!doctype html><html><head><title>{title}</title></head><body><h1>{title}</h1>{body}</body></html>\n");
    let headers = vec![("Content-Type".to_owned(), "text/html; charset=utf-8".to_owned())];
    Canned { status, headers, body: text.into_bytes() }
}

pub(in crate::emulator) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_team_grants_what_the_app_is_configured_for_and_nothing_else() {
        let authority = Authority::new(Arc::new(crate::clock::SystemClock), 1, "dbid:AAH".to_owned());
        authority.sign_in("dbid:AAH", Some("dbtid:1".to_owned()));
        let consent = |scope: &str| {
            let query = format!("client_id={DEFAULT_APP_KEY}&response_type=code{scope}");
            authority.asked(&Params::read(&query, b"")).map(|asked| asked.scopes)
        };
        assert!(consent("").expect("all it has").contains("members.read"));
        assert!(consent("&scope=members.read").expect("one of them").contains("members.read"));
        authority.book().apps.get_mut(DEFAULT_APP_KEY).expect("there").team_scopes.clear();
        let all = consent("").expect("all it has");
        assert!(all.contains("files.metadata.read") && !all.contains("members.read"), "{all:?}");
        assert!(consent("&scope=members.read").expect_err("not its own").contains("not configured"));
    }
}
