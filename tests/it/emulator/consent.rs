//! The consent page, the token endpoint and the life of a token.

use std::{collections::HashMap, time::Duration};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use dropbox_connector::emulator::oauth::Consent;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Bench, Said};

const BACK: &str = "http://localhost:9/back";
const VERIFIER: &str = "0123456789-0123456789-0123456789-0123456789";

/// The authorize page, asked with these besides `client_id` and `response_type`.
async fn page(bench: &Bench, pairs: &[(&str, &str)]) -> Said {
    let mut url = url::Url::parse(&bench.emulator.addresses().www).expect("an address");
    url.set_path("/oauth2/authorize");
    url.query_pairs_mut().append_pair("client_id", &bench.login.app_key).append_pair("response_type", "code");
    url.query_pairs_mut().extend_pairs(pairs);
    bench.send(bench.http.get(url)).await
}

async fn token(bench: &Bench, pairs: &[(&str, &str)]) -> Said {
    let url = format!("{}/oauth2/token", bench.emulator.addresses().api);
    bench.send(bench.http.post(url).form(pairs)).await
}

/// What stands in the query of a redirect.
fn back(said: &Said) -> HashMap<String, String> {
    assert_eq!(said.status, 302, "{}", said.text());
    let url = url::Url::parse(said.header("location")).expect("an address");
    assert!(url.as_str().starts_with(BACK), "{url}");
    url.query_pairs().into_owned().collect()
}

fn refusal(said: &Said) -> Value {
    assert_eq!(said.status, 400, "{}", said.text());
    said.json()["error"].clone()
}

#[tokio::test]
async fn a_click_on_the_page_leads_back_with_a_code_for_tokens() {
    let bench = Bench::start().await;
    let asked = [
        ("redirect_uri", BACK),
        ("state", "a<b&c"),
        ("token_access_type", "offline"),
        ("scope", "files.metadata.read"),
    ];
    let html = page(&bench, &asked).await;
    assert_eq!(html.status, 200);
    assert!(html.text().contains("<li>files.metadata.read</li>") && html.text().contains("value=\"a&lt;b&amp;c\""));
    let url = format!("{}/oauth2/authorize", bench.emulator.addresses().www);
    let click = |decision: &'static str| {
        let own = [("client_id", bench.login.app_key.as_str()), ("response_type", "code"), ("decision", decision)];
        bench.send(bench.http.post(&url).form(&[&asked[..], &own[..]].concat()))
    };
    let denied = back(&click("deny").await);
    assert_eq!((denied["error"].as_str(), denied["state"].as_str()), ("access_denied", "a<b&c"));
    let answer = back(&click("approve").await);
    assert_eq!(answer["state"], "a<b&c");
    let trade = [
        ("grant_type", "authorization_code"),
        ("code", &answer["code"]),
        ("redirect_uri", BACK),
        ("client_id", &bench.login.app_key),
        ("client_secret", &bench.login.app_secret),
    ];
    let said = token(&bench, &trade).await;
    assert_eq!(said.header("content-type"), "text/javascript");
    let granted = said.good();
    assert_eq!(granted["scope"], "account_info.read files.metadata.read");
    assert_eq!((&granted["expires_in"], &granted["token_type"]), (&json!(14_400), &json!("bearer")));
    assert!(granted["access_token"].as_str().expect("text").starts_with("sl."));
    assert_eq!(granted["account_id"], json!(bench.login.account_id));
    assert!(granted["refresh_token"].is_string() && granted["uid"].is_string());
    assert_eq!(refusal(&token(&bench, &trade).await), "invalid_grant", "a code works once");
    bench.end();
}

#[tokio::test]
async fn a_code_by_pkce_needs_its_verifier_and_no_secret() {
    let bench = Bench::start().await;
    bench.control().set_consent(Consent::Approve);
    let challenge = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(VERIFIER));
    let asked = [
        ("redirect_uri", BACK),
        ("token_access_type", "offline"),
        ("code_challenge", challenge.as_str()),
        ("code_challenge_method", "S256"),
    ];
    let trade = async |verifier: &str, redirect: &str| {
        let code = back(&page(&bench, &asked).await)["code"].clone();
        let form = [
            ("grant_type", "authorization_code"),
            ("code", &code),
            ("redirect_uri", redirect),
            ("client_id", &bench.login.app_key),
            ("code_verifier", verifier),
        ];
        token(&bench, &form).await
    };
    assert_eq!(refusal(&trade(&VERIFIER.replace('9', "8"), BACK).await), "invalid_grant");
    assert_eq!(refusal(&trade(VERIFIER, "http://localhost:9/elsewhere").await), "invalid_grant");
    let granted = trade(VERIFIER, BACK).await.good();
    let refresh = granted["refresh_token"].as_str().expect("an offline grant");
    let form = [("grant_type", "refresh_token"), ("refresh_token", refresh), ("client_id", &bench.login.app_key)];
    let fresh = token(&bench, &form).await.good();
    assert!(fresh.get("refresh_token").is_none(), "it does not rotate: {fresh}");
    bench.end();
}

#[tokio::test]
async fn refreshing_shows_the_secret_and_may_narrow_but_not_widen() {
    let bench = Bench::start().await;
    let login = &bench.login;
    let plain = [("grant_type", "refresh_token"), ("refresh_token", login.refresh_token.as_str())];
    let own = [("client_id", login.app_key.as_str()), ("client_secret", login.app_secret.as_str())];
    let form = [&plain[..], &own[..]].concat();
    let first = token(&bench, &form).await.good();
    let second = token(&bench, &form).await.good();
    assert_ne!(first["access_token"], second["access_token"]);
    for answer in [&first, &second] {
        let request = bench.http.post(bench.url("users/get_current_account"));
        let request = request.bearer_auth(answer["access_token"].as_str().expect("text"));
        assert_eq!(bench.send(request).await.status, 200, "several are valid at once");
    }
    let basic = bench.http.post(format!("{}/oauth2/token", bench.emulator.addresses().api)).form(&plain);
    assert_eq!(bench.send(basic.basic_auth(&login.app_key, Some(&login.app_secret))).await.status, 200);
    let narrow = token(&bench, &[&form[..], &[("scope", "account_info.read")]].concat()).await.good();
    assert_eq!(narrow["scope"], "account_info.read");
    assert_eq!(refusal(&token(&bench, &[&form[..], &[("scope", "team_info.read")]].concat()).await), "invalid_scope");
    assert_eq!(refusal(&token(&bench, &[&plain[..], &own[..1]].concat()).await), "invalid_client");
    let wrong = [own[0], ("client_secret", "wrong")];
    assert_eq!(refusal(&token(&bench, &[&plain[..], &wrong[..]].concat()).await), "invalid_client");
    let strange = "A".repeat(64);
    let strange = [("grant_type", "refresh_token"), ("refresh_token", strange.as_str()), own[0], own[1]];
    assert_eq!(refusal(&token(&bench, &strange).await), "invalid_grant");
    assert_eq!(refusal(&token(&bench, &[("grant_type", "password"), own[0]]).await), "unsupported_grant_type");
    assert_eq!(refusal(&token(&bench, &own).await), "invalid_request");
    bench.end();
}

#[tokio::test]
async fn a_token_lives_four_hours_and_its_grant_until_it_is_revoked() {
    let bench = Bench::start().await;
    let me = || bench.rpc("users/get_current_account", Value::Null);
    bench.clock.advance(Duration::from_secs(14_399)).await;
    assert_eq!(me().await.status, 200);
    bench.clock.advance(Duration::from_secs(1)).await;
    assert_eq!(me().await.json()["error"][".tag"], "expired_access_token");
    let fresh = bench.control().issue(None, None).expect("all scopes");
    let revoke = bench.http.post(bench.url("auth/token/revoke")).bearer_auth(&fresh.access_token);
    let revoke = revoke.header("Content-Type", "application/json").body("null");
    assert_eq!(bench.send(revoke).await.good(), Value::Null);
    let form = [
        ("grant_type", "refresh_token"),
        ("refresh_token", fresh.refresh_token.as_str()),
        ("client_id", &fresh.app_key),
        ("client_secret", &fresh.app_secret),
    ];
    let said = token(&bench, &form).await;
    assert_eq!(said.json()["error_description"], "refresh token is invalid or revoked");
    bench.end();
}

#[tokio::test]
async fn a_page_asked_wrongly_leads_nowhere() {
    let bench = Bench::start().await;
    for (pairs, text) in [
        (vec![("redirect_uri", "https://example.com/back")], "redirect_uri"),
        (vec![("token_access_type", "for_ever")], "token_access_type"),
        (vec![("scope", "files.content.read nothing.read")], "nothing.read"),
        (vec![("code_challenge", "short"), ("code_challenge_method", "S256")], "code_challenge"),
        (vec![("include_granted_scopes", "user")], "include_granted_scopes"),
    ] {
        let said = page(&bench, &pairs).await;
        assert_eq!(said.status, 400);
        assert!(said.text().contains(text), "{}", said.text());
    }
    bench.control().register_redirect("https://example.com/back").expect("an address");
    assert_eq!(page(&bench, &[("redirect_uri", "https://example.com/back")]).await.status, 200);
    assert!(bench.control().register_redirect("no address").is_err());
    bench.end();
}
