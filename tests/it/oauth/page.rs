//! The connect page and the callback, request by request: who is let in, what is refused, what is shown. What a person sees
//! is in `browser.rs`.

use std::net::SocketAddr;

use dropbox_connector::config::{AuthMode, StaticToken};
use reqwest::{RequestBuilder, Response};
use sha2::{Digest as _, Sha256};

use super::*;

/// A browser without a screen: keeps its cookie, follows nothing.
struct Visitor {
    http: reqwest::Client,
    base: String,
    cookie: String,
}

impl Visitor {
    fn of(address: SocketAddr) -> Visitor {
        Visitor { http: browser(), base: format!("http://localhost:{}", address.port()), cookie: String::new() }
    }

    fn with_cookie(&self, request: RequestBuilder) -> RequestBuilder {
        if self.cookie.is_empty() { request } else { request.header("cookie", &self.cookie) }
    }

    async fn get(&self, path: &str) -> Response {
        self.with_cookie(self.http.get(format!("{}{path}", self.base))).send().await.expect("an answer")
    }

    fn form(&self, path: &str, pairs: &[(&str, &str)]) -> RequestBuilder {
        self.with_cookie(self.http.post(format!("{}{path}", self.base)).form(pairs))
    }

    /// Opens the list and gives the token of its forms.
    async fn enter(&mut self) -> String {
        let said = self.get("/connect").await;
        assert_eq!(said.status(), 200);
        let set = said.headers().get("set-cookie").expect("a cookie").to_str().expect("ascii").to_owned();
        assert!(set.contains("HttpOnly") && set.contains("SameSite=Lax"), "{set}");
        self.cookie = set.split(';').next().expect("a pair").to_owned();
        token_in(&said.text().await.expect("a page"))
    }

    /// Begins, consents, and gives the address that Dropbox sends the browser back to.
    async fn begun(&self, token: &str) -> String {
        let said =
            self.form(&format!("/connect/{PARAMETER}/connect"), &[("token", token)]).send().await.expect("answered");
        assert_eq!(said.status(), 303, "{}", said.text().await.unwrap_or_default());
        consent(said.headers()["location"].to_str().expect("ascii")).await
    }

    fn path_of(&self, url: &str) -> String {
        url.strip_prefix(&self.base).unwrap_or_else(|| panic!("{url} is not at {}", self.base)).to_owned()
    }
}

fn token_in(page: &str) -> String {
    let (_, rest) = page.split_once("name=\"token\" value=\"").unwrap_or_else(|| panic!("no form in {page}"));
    rest.split('"').next().expect("its end").to_owned()
}

async fn with_page() -> House {
    let house = start_bare(Default::default(), |config| config.connect_page = true).await;
    house.control().set_consent(Consent::Approve);
    create(&house, PARAMETER, |_| {}).await;
    house
}

#[tokio::test]
async fn without_being_asked_for_there_is_no_page_and_no_callback() {
    let house = start_bare(Default::default(), |_| {}).await;
    let visitor = Visitor::of(house.addresses.http);
    for path in ["/connect", "/oauth/callback?code=x&state=y", "/"] {
        assert_eq!(visitor.get(path).await.status(), 404, "{path}");
    }
    assert_eq!(visitor.get("/live").await.status(), 200);
    assert_eq!(house.addresses.public_http, None);
}

#[tokio::test]
async fn an_account_is_connected_tested_and_disconnected_by_the_page() {
    let house = with_page().await;
    let mut visitor = Visitor::of(house.addresses.http);
    let token = visitor.enter().await;
    let back = visitor.begun(&token).await;
    let said = visitor.get(&visitor.path_of(&back)).await;
    assert_eq!(said.status(), 200);
    let text = said.text().await.expect("a page");
    assert!(text.contains("Account connected") && text.contains(PARAMETER), "{text}");
    assert_eq!(state(&house).await, pb::ParameterState::Active);
    list(&house).await.expect("works");

    let again = visitor.get(&visitor.path_of(&back)).await;
    assert_eq!(again.status(), 400, "a reload connects nothing");
    assert!(again.text().await.expect("a page").contains("AUTHORIZATION_STATE_EXPIRED"));

    let page = |name: &str| format!("/connect/{PARAMETER}/{name}");
    let tested = visitor.form(&page("test"), &[("token", &token)]).send().await.expect("answered");
    assert_eq!(tested.status(), 200);
    assert!(tested.text().await.expect("a page").contains("The test went well"));
    let asked = visitor.get(&page("disconnect")).await;
    assert_eq!(asked.status(), 200);
    assert_eq!(state(&house).await, pb::ParameterState::Active, "a look disconnects nothing");
    let token = token_in(&asked.text().await.expect("a page"));
    let ended = visitor.form(&page("disconnect"), &[("token", &token)]).send().await.expect("answered");
    assert_eq!(ended.status(), 200);
    assert_eq!(state(&house).await, pb::ParameterState::Pending);
    assert_eq!(house.control().counter("auth/token/revoke").calls, 1);
    let failed = visitor.form(&page("test"), &[("token", &token)]).send().await.expect("answered");
    assert_eq!(failed.status(), 409);
    assert!(failed.text().await.expect("a page").contains("REAUTHORIZATION_REQUIRED"));
}

#[tokio::test]
async fn the_page_names_the_scopes_that_are_missing_and_what_to_do() {
    let house = with_page().await;
    let update = pb::UpdateApplicationParameterRequest {
        application_parameter: Some(pb::ApplicationParameter {
            application_parameter_id: PARAMETER.into(),
            scopes: vec!["files.metadata.read".into()],
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["scopes".into()] }),
        ..Default::default()
    };
    house.admin().await.update_application_parameter(update).await.expect("updated");
    let mut visitor = Visitor::of(house.addresses.http);
    let token = visitor.enter().await;
    let back = visitor.begun(&token).await;
    let text = visitor.get(&visitor.path_of(&back)).await.text().await.expect("a page");
    let (granted, missing) = ("<code>files.metadata.read</code>", "<code>files.content.write</code>");
    let (warned, listed) = text.split_once("Granted scopes").expect("what was granted is listed behind it");
    assert!(warned.contains("Some rights are missing") && warned.contains("App Console"), "{text}");
    assert!(warned.contains(missing) && !warned.contains(granted), "{text}");
    assert!(listed.contains(granted) && !listed.contains(missing), "{text}");
}

#[tokio::test]
async fn forms_from_elsewhere_are_refused() {
    let house = with_page().await;
    let mut visitor = Visitor::of(house.addresses.http);
    let token = visitor.enter().await;
    let mut stranger = Visitor::of(house.addresses.http);
    let strange_token = stranger.enter().await;
    assert_ne!(token, strange_token);
    for action in ["connect", "test", "disconnect"] {
        let path = format!("/connect/{PARAMETER}/{action}");
        let forged = [
            visitor.form(&path, &[]),
            visitor.form(&path, &[("token", "")]),
            visitor.form(&path, &[("token", &strange_token)]),
            visitor.form(&path, &[("token", &token)]).header("origin", "https://evil.example"),
            visitor.form(&path, &[("token", &token)]).header("origin", "null"),
            visitor.form(&path, &[("token", &token)]).header("sec-fetch-site", "cross-site"),
            visitor.http.post(format!("{}{path}", visitor.base)).form(&[("token", &token)]),
        ];
        for (number, request) in forged.into_iter().enumerate() {
            let said = request.send().await.expect("answered");
            assert_eq!(said.status(), 403, "{action} {number}");
        }
        // A look must not do it either.
        assert!([404, 405, 200].contains(&visitor.get(&path).await.status().as_u16()));
    }
    assert_eq!(state(&house).await, pb::ParameterState::Pending);
    let huge = "x".repeat(10_000);
    let said = visitor.form(&format!("/connect/{PARAMETER}/test"), &[("token", &huge)]).send().await.expect("answered");
    assert_eq!(said.status(), 413);
}

#[tokio::test]
async fn an_answer_is_taken_from_the_browser_that_began_and_from_no_other() {
    let house = with_page().await;
    let mut visitor = Visitor::of(house.addresses.http);
    let token = visitor.enter().await;
    for cookie in ["", "dropbox-connector-browser=AAAA"] {
        let back = visitor.begun(&token).await;
        let other = Visitor { cookie: cookie.into(), ..Visitor::of(house.addresses.http) };
        assert_eq!(other.get(&visitor.path_of(&back)).await.status(), 400);
        assert_eq!(visitor.get(&visitor.path_of(&back)).await.status(), 400, "and it is used up");
    }
    // Nor can it be completed past the browser.
    let back = visitor.begun(&token).await;
    let outcome = complete(&house, &query(&back)["state"], Answer::RedirectUrl(back.clone())).await;
    assert_eq!(reason(&outcome.expect_err("bound to the browser")), "AUTHORIZATION_STATE_EXPIRED");
    assert_eq!(state(&house).await, pb::ParameterState::Pending);
}

#[tokio::test]
async fn what_dropbox_says_is_shown_escaped_and_only_of_what_was_begun() {
    let house = with_page().await;
    let mut visitor = Visitor::of(house.addresses.http);
    let token = visitor.enter().await;
    let hostile = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>";
    let callback = |state: &str, description: Option<&str>| {
        let mut url = Url::parse("http://x/oauth/callback").expect("an address");
        url.query_pairs_mut().append_pair("error", "access_denied").append_pair("state", state);
        if let Some(text) = description {
            url.query_pairs_mut().append_pair("error_description", text);
        }
        format!("/oauth/callback?{}", url.query().unwrap_or_default())
    };
    for description in [None, Some(hostile)] {
        let state = query(&visitor.begun(&token).await)["state"].clone();
        let said = visitor.get(&callback(&state, description)).await;
        assert_eq!(said.status(), 400);
        let policy = said.headers()["content-security-policy"].to_str().expect("ascii").to_owned();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        let text = said.text().await.expect("a page");
        assert!(text.contains("Access was not granted") && text.contains("AUTHORIZATION_DENIED"), "{text}");
        assert!(!text.contains("<script") && !text.contains("<img"), "{text}");
        assert_eq!(text.contains("&lt;script&gt;alert(1)"), description.is_some(), "{text}");
    }
    for (path, shown) in [
        (callback("made-up", Some("call 555 and say your password")), "call 555"),
        ("/oauth/callback?error_description=call+555".into(), "call 555"),
        ("/oauth/callback?code=telltale-code&state=telltale-state".into(), "telltale"),
        ("/oauth/callback".into(), "nothing of this kind"),
    ] {
        let said = visitor.get(&path).await;
        assert_eq!(said.status(), 400, "{path}");
        assert!(!said.text().await.expect("a page").contains(shown), "{path}");
    }
    let begun = visitor.begun(&token).await;
    let head = visitor.http.head(&begun).header("cookie", &visitor.cookie).send().await.expect("answered");
    assert_eq!(head.status(), 405);
    assert_eq!(visitor.get(&visitor.path_of(&begun)).await.status(), 200, "a HEAD uses nothing up");
}

#[tokio::test]
async fn only_its_own_names_lead_to_the_page() {
    let house = start_bare(Default::default(), |config| {
        config.connect_page = true;
        config.oauth_redirect_uris = vec!["https://connect.example.com/oauth/callback".into()];
    })
    .await;
    create(&house, PARAMETER, |_| {}).await;
    let visitor = Visitor::of(house.addresses.http);
    let ask = async |path: &str, host: &str| {
        let request = visitor.http.get(format!("http://{}{path}", house.addresses.http)).header("host", host);
        request.send().await.expect("an answer")
    };
    for host in ["evil.example", "localhost", "localhost.evil.example", "connect.example.com.evil.example"] {
        for path in ["/connect", "/oauth/callback?error=x&state=y"] {
            assert_eq!(ask(path, host).await.status(), 421, "{host}{path}");
        }
    }
    let said = ask("/connect", "connect.example.com").await;
    assert_eq!(said.status(), 200);
    let cookie = said.headers()["set-cookie"].to_str().expect("ascii").to_owned();
    assert!(cookie.starts_with("__Host-") && cookie.contains("; Secure"), "{cookie}");
    let text = said.text().await.expect("a page");
    assert!(text.contains("https://connect.example.com/oauth/callback"), "it says what to register: {text}");
}

#[tokio::test]
async fn the_page_is_for_administrators() {
    let house = start_bare(Default::default(), |config| {
        config.connect_page = true;
        config.auth_mode = AuthMode::Token;
        config.admin_principals = vec!["boss".into()];
        config.auth_tokens = ["boss", "billing"]
            .map(|principal| StaticToken {
                principal: principal.into(),
                sha256: hex::encode(Sha256::digest(format!("token-of-{principal}"))),
            })
            .to_vec();
    })
    .await;
    let visitor = Visitor::of(house.addresses.http);
    let url = format!("{}/connect", visitor.base);
    let none = visitor.get("/connect").await;
    assert_eq!(none.status(), 401);
    assert!(none.headers()["www-authenticate"].to_str().expect("ascii").starts_with("Basic "));
    let wrong = visitor.http.get(&url).basic_auth("boss", Some("nearly")).send().await.expect("answered");
    assert_eq!(wrong.status(), 401);
    let other = visitor.http.get(&url).basic_auth("", Some("token-of-billing")).send().await.expect("answered");
    assert_eq!(other.status(), 403);
    assert!(!other.text().await.expect("a page").contains("token-of"));
    for request in [
        visitor.http.get(&url).basic_auth("anything", Some("token-of-boss")),
        visitor.http.get(&url).bearer_auth("token-of-boss"),
    ] {
        assert_eq!(request.send().await.expect("answered").status(), 200);
    }
    // A form needs the administrator as much as a look does.
    let post = visitor.form(&format!("/connect/{PARAMETER}/disconnect"), &[("token", "x")]);
    assert_eq!(post.send().await.expect("answered").status(), 401);
}

#[tokio::test]
async fn the_public_port_completes_what_a_program_began_and_serves_nothing_else() {
    let house = start_bare(Default::default(), |config| {
        config.public_http_listen = "127.0.0.1:0".into();
        config.oauth_redirect_uris = vec!["https://connect.example.com/oauth/callback".into()];
    })
    .await;
    house.control().set_consent(Consent::Approve);
    let callback = "https://connect.example.com/oauth/callback";
    house.control().register_redirect(callback).expect("an address");
    create(&house, PARAMETER, |_| {}).await;
    let visitor = Visitor::of(house.addresses.public_http.expect("a public port"));
    for path in ["/", "/connect", "/metrics", "/live", "/ready"] {
        assert_eq!(visitor.get(path).await.status(), 404, "{path}");
    }
    let begun = begin(&house, wish(PARAMETER, callback)).await;
    let back = consent(&begun.authorize_url).await;
    let path = back.strip_prefix("https://connect.example.com").expect("there").to_owned();
    let said = visitor.get(&path).await;
    assert_eq!(said.status(), 200);
    assert!(said.text().await.expect("a page").contains("Account connected"));
    list(&house).await.expect("works");
    assert_eq!(visitor.get(&path).await.status(), 400, "once");
    // What is to come back to a program's own address is not completed here.
    let begun = begin(&house, wish(PARAMETER, BACK)).await;
    let back = consent(&begun.authorize_url).await;
    let path = format!("/oauth/callback?{}", Url::parse(&back).expect("an address").query().expect("a query"));
    assert_eq!(visitor.get(&path).await.status(), 400);
}

#[tokio::test]
async fn the_callback_completes_what_a_program_began_only_for_addresses_of_the_server() {
    let house = start_bare(Default::default(), |config| {
        config.public_http_listen = "127.0.0.1:0".into();
        config.connect_page = true;
        config.oauth_redirect_uris = vec!["https://connect.example.com/oauth/callback".into()];
    })
    .await;
    house.control().set_consent(Consent::Approve);
    // The same path, at a name of the parameter's own and at a program on somebody's machine: their answers are theirs.
    let mine = "https://mine.example.com/oauth/callback";
    house.control().register_redirect(mine).expect("an address");
    create(&house, PARAMETER, |parameter| parameter.redirect_uris = vec![mine.into()]).await;
    let public = Visitor::of(house.addresses.public_http.expect("a public port"));
    let own = Visitor::of(house.addresses.http);
    let local = format!("http://localhost:{}/oauth/callback", house.addresses.http.port());
    for uri in [mine, "http://localhost:9999/oauth/callback", "http://127.0.0.1/oauth/callback", &local] {
        for visitor in [&public, &own] {
            let begun = begin(&house, wish(PARAMETER, uri)).await;
            let back = consent(&begun.authorize_url).await;
            let path = format!("/oauth/callback?{}", Url::parse(&back).expect("an address").query().expect("a query"));
            let said = visitor.get(&path).await;
            assert_eq!(said.status(), 400, "{uri}");
            assert!(said.text().await.expect("a page").contains("AUTHORIZATION_STATE_EXPIRED"), "{uri}");
        }
    }
    assert_eq!(state(&house).await, pb::ParameterState::Pending);
    assert_eq!(house.control().counter("oauth2/token").calls, 0, "no code was used");
}

#[tokio::test]
async fn parameters_are_shown_by_group_with_their_names_escaped() {
    let house = with_page().await;
    create(&house, "hostile", |parameter| {
        parameter.display_name = "<b onclick=alert(1)>Bold</b>".into();
        parameter.group = "a&b \"c\"".into();
    })
    .await;
    let visitor = Visitor::of(house.addresses.http);
    let text = visitor.get("/connect").await.text().await.expect("a page");
    assert!(text.contains("&lt;b onclick=alert(1)&gt;Bold") && !text.contains("<b onclick"), "{text}");
    assert!(text.contains("Not connected") && text.contains(PARAMETER), "{text}");
    let text = visitor.get("/connect?group=a%26b+%22c%22").await.text().await.expect("a page");
    assert!(text.contains("hostile") && !text.contains(&format!("/connect/{PARAMETER}/")), "{text}");
    let none = visitor.get("/connect?group=nothing").await.text().await.expect("a page");
    assert!(none.contains("Nothing here yet"), "{none}");
}
