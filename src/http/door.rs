//! Who may use the connect page, and what every answer of it carries. The host must be one of ours, so that no other site's
//! name leads here; the caller an administrator, by the rules of the admin service; a form one that this page gave to this
//! browser. One cookie names the browser: forms and authorizations are bound to it.

use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use maud::Markup;
use rand::RngCore as _;
use sha2::{Digest as _, Sha256};
use url::Url;

use crate::{
    access::{Authenticator, Certificate, Principal},
    credentials::CALLBACK_PATH,
    fault::{Fault, Reason, Result},
};

/// Over https the browser itself holds the cookie to this host, so no other is taken there: whoever sits between the browser
/// and any http page of the same name could give it one.
const COOKIE: &str = "dropbox-connector-browser";
const COOKIE_SECURE: &str = "__Host-dropbox-connector-browser";
const BROWSER_BYTES: usize = 32;
const CHALLENGE: &str =
    "Basic realm=\"Dropbox connector: an administrator's token as the password\", charset=\"UTF-8\"";

/// A name under which browsers reach the page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Site {
    /// `https://connect.example.com`, `http://localhost:9464`.
    origin: String,
}

/// The browser, by the cookie we gave it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Browser(String);

impl Site {
    /// The site that the request names; None if it is none of ours.
    pub(super) fn of(headers: &HeaderMap, port: u16, callbacks: impl Iterator<Item = Url>) -> Option<Site> {
        let host = headers.get(header::HOST)?.to_str().ok()?;
        let loopback = ["localhost", "127.0.0.1", "[::1]"].iter().any(|name| {
            let with_port = host.strip_prefix(name).and_then(|rest| rest.strip_prefix(':'));
            with_port == Some(&port.to_string()) || (port == 80 && host == *name)
        });
        let listed = Site::listed(headers, callbacks);
        listed.or_else(|| loopback.then(|| Site { origin: format!("http://{host}") }))
    }

    /// The same among those of the configuration alone.
    pub(super) fn listed(headers: &HeaderMap, callbacks: impl Iterator<Item = Url>) -> Option<Site> {
        let host = headers.get(header::HOST)?.to_str().ok()?;
        callbacks
            .map(|url| url.origin().ascii_serialization())
            .find(|origin| origin.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host)))
            .map(|origin| Site { origin })
    }

    /// Where Dropbox is to send the browser back to.
    pub(super) fn callback(&self) -> String {
        format!("{}{CALLBACK_PATH}", self.origin)
    }

    pub(super) fn is_secure(&self) -> bool {
        self.origin.starts_with("https:")
    }
}

impl Browser {
    /// The one that sends these headers, if we know it; `secure`: over https, as the site's address says.
    pub(super) fn of(headers: &HeaderMap, secure: bool) -> Option<Browser> {
        let wanted = if secure { COOKIE_SECURE } else { COOKIE };
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs = cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let (_, value) = pairs.find(|(name, _)| *name == wanted)?;
        let good = URL_SAFE_NO_PAD.decode(value).is_ok_and(|bytes| bytes.len() == BROWSER_BYTES);
        good.then(|| Browser(value.to_owned()))
    }

    pub(super) fn new() -> Browser {
        let mut bytes = [0; BROWSER_BYTES];
        rand::rng().fill_bytes(&mut bytes);
        Browser(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// What stands for the cookie where it may be seen; another one for each purpose.
    pub(super) fn digest(&self, purpose: &str) -> String {
        hex::encode(Sha256::digest(format!("{purpose}:{}", self.0)))
    }

    /// `Lax`: Dropbox sends the browser back by a link of its own, and the cookie must come along.
    pub(super) fn cookie(&self, site: &Site) -> Option<HeaderValue> {
        let value = match site.is_secure() {
            true => format!("{COOKIE_SECURE}={}; Path=/; HttpOnly; SameSite=Lax; Secure", self.0),
            false => format!("{COOKIE}={}; Path=/; HttpOnly; SameSite=Lax", self.0),
        };
        HeaderValue::from_str(&value).ok()
    }
}

/// The administrator who asks. A browser sends the token as the password of its own dialogue; a proxy may send a bearer.
///
/// # Errors
/// `CALLER_UNAUTHENTICATED`, `CALLER_NOT_ALLOWED`, and what keeps tokens from being checked.
pub(super) async fn administrator(authenticator: &Authenticator, headers: &HeaderMap) -> Result<Principal> {
    let sent = headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap_or_default());
    let bearer = sent.map(|value| match value.split_once(' ') {
        Some((scheme, pair)) if scheme.eq_ignore_ascii_case("basic") => {
            let pair = STANDARD.decode(pair.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let password = pair.as_deref().and_then(|pair| pair.split_once(':')).map_or("", |(_, password)| password);
            format!("Bearer {password}")
        }
        _ => value.to_owned(),
    });
    let principal = authenticator.authenticate(bearer.as_deref(), &Certificate::None).await?;
    principal.require_admin()?;
    Ok(principal)
}

/// Was this form given to this browser by this page?
///
/// # Errors
/// `CALLER_NOT_ALLOWED`.
pub(super) fn check_form(headers: &HeaderMap, site: &Site, browser: Option<&Browser>, token: &str) -> Result<()> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let from_here = text("origin").is_none_or(|origin| origin == site.origin)
        && text("sec-fetch-site").is_none_or(|site| site == "same-origin");
    let expected = browser.map(|browser| browser.digest("form"));
    // Digests of a secret: what a comparison's time tells of them is nothing to build on.
    if from_here && expected.is_some_and(|expected| expected == token) {
        return Ok(());
    }
    Err(Fault::new(Reason::CallerNotAllowed, "this form was not given to this browser by this page")
        .fact("permission", "FORM"))
}

/// An answer with a page.
pub(super) fn page(status: StatusCode, markup: Markup, form_target: Option<&Url>) -> Response {
    let mut response = (status, markup.into_string()).into_response();
    harden(&mut response, form_target);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    response
}

pub(super) fn plain(status: StatusCode, text: &'static str) -> Response {
    let mut response = (status, text).into_response();
    harden(&mut response, None);
    response
}

/// An answer to who is not let in; a browser asks its user for the token.
pub(super) fn refused(fault: &Fault, markup: Markup) -> Response {
    let status = match fault.reason() {
        Reason::CallerUnauthenticated => StatusCode::UNAUTHORIZED,
        Reason::CallerNotAllowed => StatusCode::FORBIDDEN,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut response = page(status, markup, None);
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE));
    }
    response
}

/// What every answer carries: no script, no frame, nothing from elsewhere, kept by nobody. Forms lead here, and from here
/// to Dropbox's page (browsers hold redirects of a form to the same rule).
pub(super) fn harden(response: &mut Response, form_target: Option<&Url>) {
    let target = form_target.map(|url| format!(" {}", url.origin().ascii_serialization())).unwrap_or_default();
    let policy = format!(
        "default-src 'none'; style-src 'self'; form-action 'self'{target}; frame-ancestors 'none'; base-uri 'none'"
    );
    let headers = response.headers_mut();
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        // The address of a callback holds a code; a form of ours must still say where it is from.
        (header::REFERRER_POLICY, "same-origin"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn site(host: &str) -> Option<String> {
        let callbacks = ["https://connect.example.com/oauth/callback", "https://x.example:8443/oauth/callback"];
        let callbacks = callbacks.iter().map(|url| Url::parse(url).unwrap());
        Site::of(&headers(&[("host", host)]), 9464, callbacks).map(|site| site.callback())
    }

    #[test]
    fn only_our_own_names_lead_here() {
        assert_eq!(site("localhost:9464").unwrap(), "http://localhost:9464/oauth/callback");
        assert_eq!(site("[::1]:9464").unwrap(), "http://[::1]:9464/oauth/callback");
        assert_eq!(site("connect.example.com").unwrap(), "https://connect.example.com/oauth/callback");
        assert_eq!(site("x.example:8443").unwrap(), "https://x.example:8443/oauth/callback");
        for strange in
            ["localhost", "localhost:9465", "evil.example:9464", "localhost.evil.example:9464", "x.example", ""]
        {
            assert_eq!(site(strange), None, "{strange}");
        }
    }

    #[test]
    fn a_form_is_taken_from_the_browser_and_the_page_it_was_given_to() {
        let site = Site { origin: "http://localhost:1".into() };
        let (mine, other) = (Browser::new(), Browser::new());
        let token = mine.digest("form");
        let check = |pairs: &[(&'static str, &str)], browser: Option<&Browser>, token: &str| {
            check_form(&headers(pairs), &site, browser, token).is_ok()
        };
        assert!(check(&[], Some(&mine), &token));
        assert!(check(&[("origin", "http://localhost:1"), ("sec-fetch-site", "same-origin")], Some(&mine), &token));
        assert!(!check(&[], None, &token));
        assert!(!check(&[], Some(&other), &token));
        assert!(!check(&[], Some(&mine), ""));
        assert!(!check(&[], Some(&mine), &mine.digest("state")));
        assert!(!check(&[("origin", "http://evil.example")], Some(&mine), &token));
        assert!(!check(&[("origin", "null")], Some(&mine), &token));
        assert!(!check(&[("sec-fetch-site", "cross-site")], Some(&mine), &token));
    }

    #[test]
    fn a_browser_is_known_by_a_cookie_of_ours_alone() {
        let site = Site { origin: "https://a.example".into() };
        let browser = Browser::new();
        let set = browser.cookie(&site).unwrap();
        let set = set.to_str().unwrap();
        assert!(set.starts_with("__Host-") && set.contains("HttpOnly") && set.contains("SameSite=Lax"), "{set}");
        let sent = set.split(';').next().unwrap();
        let known = |cookie: &str, secure| Browser::of(&headers(&[("cookie", cookie)]), secure);
        assert!(known(&format!("a=b; {sent}"), true) == Some(browser.clone()));
        let bare = sent.strip_prefix("__Host-").unwrap();
        assert!(known(bare, true).is_none(), "anybody on the way may have set it");
        assert!(known(&format!("{bare}; {sent}"), true) == Some(browser.clone()), "whichever comes first");
        assert!(known(bare, false) == Some(browser) && known(sent, false).is_none());
        assert!(known("dropbox-connector-browser=short", false).is_none() && known("other=x", false).is_none());
    }
}
