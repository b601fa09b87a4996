//! Connecting accounts by OAuth, against the emulator's consent page.

mod audited;
mod browser;
mod command;
mod fleet;
mod grants;
mod page;
mod refusals;
mod streams;
mod teams;

use std::collections::HashMap;

use dropbox_connector::{
    api::v1::{self as pb, complete_authorization_request::Answer},
    emulator::oauth::Consent,
};
use tonic::{Code, Status};
use url::Url;

use crate::support::{House, PARAMETER, reason, start_bare};

const BACK: &str = "http://localhost:9999/back";

/// A house with the parameter `p`, which no account is connected to yet. The consent page approves by itself.
async fn pending() -> House {
    pending_with(|_| {}).await
}

async fn pending_with(edit: impl FnOnce(&mut pb::ApplicationParameter)) -> House {
    let house = start_bare(Default::default(), |_| {}).await;
    house.control().set_consent(Consent::Approve);
    create(&house, PARAMETER, edit).await;
    house
}

async fn create(house: &House, id: &str, edit: impl FnOnce(&mut pb::ApplicationParameter)) {
    let login = house.emulator.account();
    let mut parameter =
        pb::ApplicationParameter { app_key: login.app_key, app_secret: login.app_secret, ..Default::default() };
    edit(&mut parameter);
    let create = pb::CreateApplicationParameterRequest {
        application_parameter_id: id.into(),
        application_parameter: Some(parameter),
    };
    house.admin().await.create_application_parameter(create).await.expect("created");
}

fn wish(id: &str, redirect_uri: &str) -> pb::BeginAuthorizationRequest {
    pb::BeginAuthorizationRequest {
        application_parameter_id: id.into(),
        redirect_uri: redirect_uri.into(),
        ..Default::default()
    }
}

async fn begin(house: &House, wish: pb::BeginAuthorizationRequest) -> pb::BeginAuthorizationResponse {
    house.admin().await.begin_authorization(wish).await.expect("begun").into_inner()
}

async fn complete(house: &House, state: &str, answer: Answer) -> Result<pb::CompleteAuthorizationResponse, Status> {
    let request = pb::CompleteAuthorizationRequest { state: state.into(), answer: Some(answer) };
    house.admin().await.complete_authorization(request).await.map(tonic::Response::into_inner)
}

fn browser() -> reqwest::Client {
    reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().expect("a client")
}

/// Opens the consent page, which decides by itself, and gives the address it leads to.
async fn consent(url: &str) -> String {
    let said = browser().get(url).send().await.expect("the page");
    assert_eq!(said.status(), 302, "{}", said.text().await.unwrap_or_default());
    said.headers()["location"].to_str().expect("ascii").to_owned()
}

fn query(url: &str) -> HashMap<String, String> {
    Url::parse(url).expect("an address").query_pairs().into_owned().collect()
}

/// The code that the consent page shows to a person.
async fn shown_code(url: &str) -> String {
    let page = browser().get(url).send().await.expect("the page").text().await.expect("a text");
    let (_, rest) = page.split_once("<code id=\"code\">").unwrap_or_else(|| panic!("no code in {page}"));
    rest.split('<').next().expect("its end").to_owned()
}

/// Connects `p`, as a program would.
async fn connect(house: &House) -> pb::CompleteAuthorizationResponse {
    let begun = begin(house, wish(PARAMETER, BACK)).await;
    let back = consent(&begun.authorize_url).await;
    complete(house, &begun.state, Answer::RedirectUrl(back)).await.expect("connected")
}

async fn list(house: &House) -> Result<(), Status> {
    let request = pb::ListFolderRequest { application_parameter_id: PARAMETER.into(), ..Default::default() };
    house.client().list_folder(request).await.map(drop)
}

async fn state(house: &House) -> pb::ParameterState {
    parameter(house).await.state()
}

async fn parameter(house: &House) -> pb::ApplicationParameter {
    let get = pb::GetApplicationParameterRequest { application_parameter_id: PARAMETER.into() };
    let found = house.admin().await.get_application_parameter(get).await.expect("found").into_inner();
    found.application_parameter.expect("a parameter")
}

#[tokio::test]
async fn an_account_is_connected_by_begin_consent_and_complete() {
    let house = pending().await;
    assert_eq!(state(&house).await, pb::ParameterState::Pending);
    assert_eq!(reason(&list(&house).await.expect_err("nobody is connected")), "REAUTHORIZATION_REQUIRED");
    let mut asked = wish(PARAMETER, BACK);
    asked.force_reapprove = true;
    asked.locale = "pt_BR".into();
    asked.account_kind = pb::AccountKind::User.into();
    let begun = begin(&house, asked).await;
    let sent = query(&begun.authorize_url);
    let pairs: Vec<_> = [
        "response_type",
        "token_access_type",
        "code_challenge_method",
        "redirect_uri",
        "force_reapprove",
        "locale",
        "state",
    ]
    .map(|name| sent.get(name).map(String::as_str))
    .into();
    let state_sent = Some(begun.state.as_str());
    assert_eq!(
        pairs,
        [Some("code"), Some("offline"), Some("S256"), Some(BACK), Some("true"), Some("pt_BR"), state_sent]
    );
    assert!(!sent.contains_key("client_secret") && !sent.contains_key("scope"), "{sent:?}");
    assert_eq!((begun.state.len(), sent["code_challenge"].len()), (43, 43), "32 bytes each, in base64url");
    let life = begun.expire_time.expect("a time").seconds
        - prost_types::Timestamp::from(dropbox_connector::clock::Clock::now(&dropbox_connector::clock::SystemClock))
            .seconds;
    assert!((595..=600).contains(&life), "{life}");

    let back = consent(&begun.authorize_url).await;
    let done = complete(&house, &begun.state, Answer::RedirectUrl(back)).await.expect("connected");
    let account = done.account.expect("an account");
    assert_eq!(account.account_id, house.emulator.account().account_id);
    assert!(!account.email.is_empty() && !account.display_name.is_empty());
    assert!(done.granted_scopes.contains(&"files.content.write".to_owned()), "{:?}", done.granted_scopes);
    assert_eq!(done.missing_scopes, [""; 0]);
    assert_eq!(done.application_parameter.expect("a parameter").state(), pb::ParameterState::Active);
    list(&house).await.expect("works");
    house.control().expire_access_tokens();
    list(&house).await.expect("and is renewed");
    assert!(house.control().wrong_answers().is_empty());
}

#[tokio::test]
async fn without_a_redirect_uri_the_user_copies_the_code() {
    let house = pending().await;
    let begun = begin(&house, wish(PARAMETER, "")).await;
    assert!(!query(&begun.authorize_url).contains_key("redirect_uri"));
    let code = shown_code(&begun.authorize_url).await;
    // As people paste it.
    complete(&house, &begun.state, Answer::Code(format!(" {code}\n"))).await.expect("connected");
    list(&house).await.expect("works");
}

#[tokio::test]
async fn a_public_client_is_connected_and_renewed_without_a_secret() {
    let house = pending_with(|parameter| parameter.app_secret = String::new()).await;
    connect(&house).await;
    house.control().expire_access_tokens();
    list(&house).await.expect("renewed");
}

#[tokio::test]
async fn scopes_that_were_asked_for_or_are_needed_and_were_not_granted_are_told() {
    let house = pending().await;
    let mut narrow = wish(PARAMETER, BACK);
    narrow.scopes = vec!["files.metadata.read".into(), "files.content.read".into()];
    let begun = begin(&house, narrow).await;
    assert_eq!(query(&begun.authorize_url)["scope"], "files.metadata.read files.content.read");
    let back = consent(&begun.authorize_url).await;
    let done = complete(&house, &begun.state, Answer::RedirectUrl(back)).await.expect("connected");
    assert_eq!(done.granted_scopes, ["account_info.read", "files.content.read", "files.metadata.read"]);
    assert_eq!(done.missing_scopes, ["files.content.write", "sharing.read", "sharing.write"]);
    assert_eq!(parameter(&house).await.granted_scopes, done.granted_scopes);
}

#[tokio::test]
async fn begin_changes_nothing_and_a_second_one_does_not_spoil_the_first() {
    let house = pending().await;
    connect(&house).await;
    let first = begin(&house, wish(PARAMETER, BACK)).await;
    let second = begin(&house, wish(PARAMETER, "http://127.0.0.1:50000/cb")).await;
    assert_ne!(first.state, second.state);
    list(&house).await.expect("what is connected goes on");
    for begun in [second, first] {
        let back = consent(&begun.authorize_url).await;
        complete(&house, &begun.state, Answer::RedirectUrl(back)).await.expect("connected");
    }
    list(&house).await.expect("works");
}

#[tokio::test]
async fn who_is_no_administrator_connects_nothing() {
    use dropbox_connector::config::{AuthMode, StaticToken};
    use sha2::{Digest as _, Sha256};
    let house = start_bare(Default::default(), |config| {
        config.auth_mode = AuthMode::Token;
        config.admin_principals = vec!["boss*".into()];
        config.auth_tokens = ["boss-1", "boss-2", "billing"]
            .map(|principal| StaticToken {
                principal: principal.into(),
                sha256: hex::encode(Sha256::digest(format!("token-of-{principal}"))),
            })
            .to_vec();
    })
    .await;
    house.control().set_consent(Consent::Approve);
    fn by<T>(principal: &str, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        let bearer = format!("Bearer token-of-{principal}").parse().expect("ascii");
        request.metadata_mut().insert("authorization", bearer);
        request
    }
    let login = house.emulator.account();
    let parameter = pb::ApplicationParameter { app_key: login.app_key, ..Default::default() };
    let create = pb::CreateApplicationParameterRequest {
        application_parameter_id: PARAMETER.into(),
        application_parameter: Some(parameter),
    };
    let mut admin = house.admin().await;
    admin.create_application_parameter(by("boss-1", create)).await.expect("created");
    let revoke = pb::RevokeAuthorizationRequest { application_parameter_id: PARAMETER.into() };
    for status in [
        admin.begin_authorization(by("billing", wish(PARAMETER, BACK))).await.map(drop).expect_err("billing"),
        admin.revoke_authorization(by("billing", revoke)).await.map(drop).expect_err("billing"),
    ] {
        assert_eq!((status.code(), reason(&status).as_str()), (Code::PermissionDenied, "CALLER_NOT_ALLOWED"));
    }
    // What one administrator began is not another's to complete.
    let begun = admin.begin_authorization(by("boss-1", wish(PARAMETER, BACK))).await.expect("begun").into_inner();
    let answer = Some(Answer::RedirectUrl(consent(&begun.authorize_url).await));
    let request = pb::CompleteAuthorizationRequest { state: begun.state, answer };
    let status = admin.complete_authorization(by("boss-2", request)).await.expect_err("another");
    assert_eq!(reason(&status), "AUTHORIZATION_STATE_EXPIRED");
}
