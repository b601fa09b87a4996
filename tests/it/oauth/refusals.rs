//! What must not connect anything: states replayed, forged, expired or swapped, codes of others, hostile redirects.

use std::{sync::Arc, time::Duration};

use dropbox_connector::{
    clock::{Clock as _, ManualClock, SystemClock},
    emulator::Options,
};
use tonic_types::StatusExt as _;

use super::*;
use crate::support::{fact, start_in};

#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: Result<T, Status>, code: Code, wanted: &str) -> Status {
    let status = outcome.expect_err(wanted);
    assert_eq!((status.code(), reason(&status).as_str()), (code, wanted), "{status:?}");
    status
}

#[tokio::test]
async fn a_state_works_once_whatever_came_of_it() {
    let house = pending().await;
    let begun = begin(&house, wish(PARAMETER, BACK)).await;
    let back = consent(&begun.authorize_url).await;
    complete(&house, &begun.state, Answer::RedirectUrl(back.clone())).await.expect("connected");
    let again = complete(&house, &begun.state, Answer::RedirectUrl(back)).await;
    refused(again, Code::FailedPrecondition, "AUTHORIZATION_STATE_EXPIRED");

    let begun = begin(&house, wish(PARAMETER, BACK)).await;
    let back = consent(&begun.authorize_url).await;
    let wrong = complete(&house, &begun.state, Answer::Code("not-the-code".into())).await;
    let status = refused(wrong, Code::InvalidArgument, "AUTHORIZATION_CODE_REJECTED");
    assert!(status.message().contains(BACK), "it names what must be registered: {}", status.message());
    assert_eq!(fact(&status, "applicationParameterId").as_deref(), Some(PARAMETER));
    let late = complete(&house, &begun.state, Answer::RedirectUrl(back)).await;
    refused(late, Code::FailedPrecondition, "AUTHORIZATION_STATE_EXPIRED");
    list(&house).await.expect("what was connected goes on");
}

#[tokio::test]
async fn a_hundred_presenters_of_one_state_connect_once() {
    let house = pending().await;
    let begun = begin(&house, wish(PARAMETER, BACK)).await;
    let back = consent(&begun.authorize_url).await;
    let calls = (0..100).map(|_| complete(&house, &begun.state, Answer::RedirectUrl(back.clone())));
    let good = futures::future::join_all(calls).await.into_iter().filter(Result::is_ok).count();
    assert_eq!((good, house.control().counter("oauth2/token").calls), (1, 1));
}

#[tokio::test]
async fn a_forged_or_swapped_state_is_refused() {
    let house = pending().await;
    create(&house, "other", |_| {}).await;
    let forged = complete(&house, &"A".repeat(43), Answer::Code("code".into())).await;
    refused(forged, Code::FailedPrecondition, "AUTHORIZATION_STATE_EXPIRED");

    // The answer for one parameter cannot be given to another: neither by its address nor by its code alone.
    let (mine, other) = (begin(&house, wish(PARAMETER, BACK)).await, begin(&house, wish("other", BACK)).await);
    let back = consent(&other.authorize_url).await;
    let swapped = complete(&house, &mine.state, Answer::RedirectUrl(back.clone())).await;
    let status = refused(swapped, Code::InvalidArgument, "INVALID_FIELD");
    assert!(!format!("{status:?}").contains(&other.state), "{status:?}");
    let code = query(&back)["code"].clone();
    let stolen = complete(&house, &mine.state, Answer::Code(code)).await;
    refused(stolen, Code::InvalidArgument, "AUTHORIZATION_CODE_REJECTED");
    assert_eq!(state(&house).await, pb::ParameterState::Pending);
}

#[tokio::test]
async fn an_answer_that_is_none_is_told_and_does_not_use_the_state_up() {
    let house = pending().await;
    let begun = begin(&house, wish(PARAMETER, BACK)).await;
    let state = &begun.state;
    for url in [
        String::new(),
        "nonsense".into(),
        format!("{BACK}?code=x"),
        format!("{BACK}?state={state}"),
        format!("{BACK}?code=x&state={state}&state=other"),
        format!("{BACK}?code=x#state={state}"),
    ] {
        let wrong = complete(&house, state, Answer::RedirectUrl(url)).await;
        refused(wrong, Code::InvalidArgument, "INVALID_FIELD");
    }
    refused(complete(&house, "", Answer::Code("x".into())).await, Code::InvalidArgument, "INVALID_FIELD");
    let request = pb::CompleteAuthorizationRequest { state: state.clone(), answer: None };
    refused(house.admin().await.complete_authorization(request).await, Code::InvalidArgument, "INVALID_FIELD");
    let back = consent(&begun.authorize_url).await;
    complete(&house, state, Answer::RedirectUrl(back)).await.expect("connected");
}

#[tokio::test]
async fn after_ten_minutes_a_state_is_worth_nothing() {
    let clock = ManualClock::new(SystemClock.now());
    let options = Options { manual_clock: Some(clock.clone()), ..Options::default() };
    let house = start_in(options, Arc::new(clock.clone()), |_| {}).await;
    house.control().set_consent(Consent::Approve);
    create(&house, PARAMETER, |_| {}).await;
    let begun = [begin(&house, wish(PARAMETER, BACK)).await, begin(&house, wish(PARAMETER, BACK)).await];
    clock.advance(Duration::from_secs(599)).await;
    let back = consent(&begun[0].authorize_url).await;
    complete(&house, &begun[0].state, Answer::RedirectUrl(back)).await.expect("just in time");
    let back = consent(&begun[1].authorize_url).await;
    clock.advance(Duration::from_secs(1)).await;
    let late = complete(&house, &begun[1].state, Answer::RedirectUrl(back)).await;
    refused(late, Code::FailedPrecondition, "AUTHORIZATION_STATE_EXPIRED");
    // A code that Dropbox let expire is told as what it is.
    let begun = begin(&house, wish(PARAMETER, BACK)).await;
    house.control().advance(Duration::ZERO).await.expect("a manual clock");
    let stale = complete(&house, &begun.state, Answer::Code("expired-long-ago".into())).await;
    refused(stale, Code::InvalidArgument, "AUTHORIZATION_CODE_REJECTED");
}

#[tokio::test]
async fn who_says_no_is_told_and_hostile_words_are_not_repeated() {
    let house = pending().await;
    house.control().set_consent(Consent::Deny);
    let begun = begin(&house, wish(PARAMETER, BACK)).await;
    let back = consent(&begun.authorize_url).await;
    assert_eq!(query(&back)["error"], "access_denied");
    let status = refused(
        complete(&house, &begun.state, Answer::RedirectUrl(back)).await,
        Code::FailedPrecondition,
        "AUTHORIZATION_DENIED",
    );
    assert_eq!(fact(&status, "cause").as_deref(), Some("access_denied"));
    for error in ["server_error", "<script>alert(1)</script>", &"x".repeat(5000)] {
        let begun = begin(&house, wish(PARAMETER, BACK)).await;
        let mut url = Url::parse(BACK).expect("an address");
        url.query_pairs_mut()
            .append_pair("error", error)
            .append_pair("error_description", "<img src=x onerror=alert(1)>")
            .append_pair("state", &begun.state);
        let outcome =
            complete(&house, &begun.state, Answer::RedirectUrl(url.as_str()[..url.as_str().len().min(4000)].into()));
        let status = outcome.await.expect_err("an error");
        assert!(!format!("{status:?} {:?}", status.get_error_details()).contains("alert"), "{status:?}");
    }
    assert_eq!(house.control().counter("oauth2/token").calls, 0);
}

#[tokio::test]
async fn only_known_redirect_uris_are_used_and_the_refusal_says_what_to_register() {
    let house = start_bare(Default::default(), |config| {
        config.oauth_redirect_uris = vec!["https://connect.example.com/oauth/callback".into()];
    })
    .await;
    create(&house, PARAMETER, |parameter| parameter.redirect_uris = vec!["https://mine.example.com/x?y=z".into()])
        .await;
    let mut admin = house.admin().await;
    for good in [
        "https://connect.example.com/oauth/callback",
        "https://mine.example.com/x?y=z",
        "http://localhost",
        "http://localhost:9999",
        "http://127.0.0.1:12345/back",
    ] {
        let begun = admin.begin_authorization(wish(PARAMETER, good)).await.expect(good).into_inner();
        assert_eq!(query(&begun.authorize_url)["redirect_uri"], good, "byte for byte");
    }
    for hostile in [
        "https://connect.example.com/oauth/callback/",
        "https://connect.example.com/oauth/callback?next=https://evil.example",
        "https://connect.example.com.evil.example/oauth/callback",
        "https://connect.example.com@evil.example/oauth/callback",
        "https://CONNECT.example.com/oauth/callback",
        "http://connect.example.com/oauth/callback",
        "http://localhost.evil.example",
        "http://localhost@evil.example",
        "http://localhost:9999#@evil.example",
        "//evil.example",
        "javascript:alert(1)",
        "data:text/html,x",
        "nonsense",
    ] {
        let outcome = admin.begin_authorization(wish(PARAMETER, hostile)).await;
        let status = refused(outcome, Code::InvalidArgument, "REDIRECT_URI_NOT_ALLOWED");
        assert_eq!(fact(&status, "redirectUri").as_deref(), Some(hostile));
    }
    let told = admin.begin_authorization(wish(PARAMETER, "https://new.example.com/cb")).await.expect_err("not listed");
    assert!(told.message().contains("https://new.example.com/cb") && told.message().contains("register"), "{told:?}");
    for bad in ["http://example.com", "https://a.example#x", "ftp://a.example", "no url"] {
        let update = pb::UpdateApplicationParameterRequest {
            application_parameter: Some(pb::ApplicationParameter {
                application_parameter_id: PARAMETER.into(),
                app_key: "key".into(),
                redirect_uris: vec![bad.into()],
                ..Default::default()
            }),
            update_mask: Some(prost_types::FieldMask { paths: vec!["redirect_uris".into()] }),
            ..Default::default()
        };
        refused(admin.update_application_parameter(update).await, Code::InvalidArgument, "INVALID_FIELD");
    }
}

#[tokio::test]
async fn what_cannot_be_asked_for_is_refused_with_its_field() {
    let house = pending().await;
    let mut admin = house.admin().await;
    type Spoil = fn(&mut pb::BeginAuthorizationRequest);
    let wrong: [(&str, Spoil); 5] = [
        ("scopes[0]", |wish| wish.scopes = vec!["two words".into()]),
        ("scopes", |wish| wish.scopes = vec!["x".into(); 65]),
        ("locale", |wish| wish.locale = "de&client_id=evil".into()),
        ("account_kind", |wish| wish.account_kind = 9),
        ("account_kind", |wish| wish.account_kind = pb::AccountKind::Team.into()),
    ];
    for (field, spoil) in wrong {
        let mut wish = wish(PARAMETER, BACK);
        spoil(&mut wish);
        let status = refused(admin.begin_authorization(wish).await, Code::InvalidArgument, "INVALID_FIELD");
        let details = status.get_error_details();
        assert_eq!(details.bad_request().expect("fields").field_violations[0].field, field);
    }
    let missing = admin.begin_authorization(wish("nobody", BACK)).await;
    refused(missing, Code::NotFound, "APPLICATION_PARAMETER_NOT_FOUND");
}

#[tokio::test]
async fn another_account_is_refused_and_its_grant_revoked_unless_it_is_wanted() {
    let house = pending().await;
    connect(&house).await;
    let other = house.control().add_account("other@example.com", "Olga", "Other", None);
    house.control().sign_in(Some(&other)).expect("an account");
    let begun = begin(&house, wish(PARAMETER, BACK)).await;
    let back = consent(&begun.authorize_url).await;
    let outcome = complete(&house, &begun.state, Answer::RedirectUrl(back)).await;
    refused(outcome, Code::FailedPrecondition, "ACCOUNT_MISMATCH");
    assert_eq!(house.control().counter("auth/token/revoke").calls, 1);
    assert_eq!(parameter(&house).await.account.expect("the first").account_id, house.emulator.account().account_id);
    list(&house).await.expect("what was connected goes on");

    let begun =
        begin(&house, pb::BeginAuthorizationRequest { allow_account_change: true, ..wish(PARAMETER, BACK) }).await;
    let back = consent(&begun.authorize_url).await;
    let done = complete(&house, &begun.state, Answer::RedirectUrl(back)).await.expect("wanted");
    assert_eq!(done.account.expect("an account").account_id, other);
    list(&house).await.expect("works");
}

#[tokio::test]
async fn a_parameter_made_again_is_not_connected_by_what_was_begun_before() {
    let house = pending().await;
    let begun = begin(&house, wish(PARAMETER, BACK)).await;
    let back = consent(&begun.authorize_url).await;
    let delete =
        pb::DeleteApplicationParameterRequest { application_parameter_id: PARAMETER.into(), ..Default::default() };
    house.admin().await.delete_application_parameter(delete).await.expect("deleted");
    create(&house, PARAMETER, |_| {}).await;
    let outcome = complete(&house, &begun.state, Answer::RedirectUrl(back)).await;
    refused(outcome, Code::NotFound, "APPLICATION_PARAMETER_NOT_FOUND");
    assert_eq!(house.control().counter("oauth2/token").calls, 0, "the code was not even tried");
}

#[tokio::test]
async fn rows_swapped_by_hand_open_nothing() {
    use sqlx::{Connection as _, Row as _, SqliteConnection};
    let house = pending().await;
    create(&house, "other", |_| {}).await;
    let begun = begin(&house, wish(PARAMETER, BACK)).await;
    let back = consent(&begun.authorize_url).await;
    begin(&house, wish("other", BACK)).await;
    let mut store = SqliteConnection::connect(&house.config().store_url).await.expect("the store");
    let rows =
        sqlx::query("SELECT state_digest, sealed FROM authorizations").fetch_all(&mut store).await.expect("rows");
    assert_eq!(rows.len(), 2);
    for (row, other) in [(&rows[0], &rows[1]), (&rows[1], &rows[0])] {
        let digest: String = row.get("state_digest");
        assert_ne!(digest, begun.state, "the state itself is not kept");
        sqlx::query("UPDATE authorizations SET sealed = $2 WHERE state_digest = $1")
            .bind(digest)
            .bind(other.get::<Vec<u8>, _>("sealed"))
            .execute(&mut store)
            .await
            .expect("swapped");
    }
    let outcome = complete(&house, &begun.state, Answer::RedirectUrl(back)).await;
    refused(outcome, Code::FailedPrecondition, "AUTHORIZATION_STATE_EXPIRED");
}

#[tokio::test]
async fn a_wrong_app_secret_is_told_as_such() {
    let house = pending_with(|parameter| parameter.app_secret = "hush-wrong-secret".into()).await;
    let begun = begin(&house, wish(PARAMETER, BACK)).await;
    let back = consent(&begun.authorize_url).await;
    let outcome = complete(&house, &begun.state, Answer::RedirectUrl(back)).await;
    let status = refused(outcome, Code::InvalidArgument, "CREDENTIALS_REJECTED");
    assert!(status.message().contains("secret") && !format!("{status:?}").contains("hush"), "{status:?}");
}
