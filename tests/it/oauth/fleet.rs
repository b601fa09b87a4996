//! Several administrators and several replicas at once: who comes second undoes nothing, and a grant that nobody keeps is
//! revoked. Where tokens come from goes the parameter's own way out.

use dropbox_connector::emulator::script::{Action, Rule};

use super::*;
use crate::support::{
    process::Served,
    proxies::{Running, proxy},
    until,
};

const ACCOUNT: &str = "users/get_current_account";

async fn admin_of(
    app: &dropbox_connector::app::App,
) -> pb::dropbox_admin_connector_client::DropboxAdminConnectorClient<tonic::transport::Channel> {
    let uri = format!("http://{}", app.addresses().admin);
    pb::dropbox_admin_connector_client::DropboxAdminConnectorClient::connect(uri).await.expect("admin")
}

/// An authorization whose proof at Dropbox takes long enough for something else to happen.
async fn slowly(house: &House) -> tokio::task::JoinHandle<Result<pb::CompleteAuthorizationResponse, Status>> {
    let begun = begin(house, wish(PARAMETER, BACK)).await;
    let back = consent(&begun.authorize_url).await;
    let before = house.control().counter(ACCOUNT).calls;
    let slow = Rule { times: Some(1), ..Rule::always(ACCOUNT, Action::DelayAnswer { millis: 5000 }) };
    house.control().script([slow]).expect("a rule");
    let mut admin = house.admin().await;
    let request = pb::CompleteAuthorizationRequest { state: begun.state, answer: Some(Answer::RedirectUrl(back)) };
    let running =
        tokio::spawn(async move { admin.complete_authorization(request).await.map(tonic::Response::into_inner) });
    until("the grant is being proved", async || house.control().counter(ACCOUNT).calls > before).await;
    running
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_works_once_whichever_replica_it_comes_to() {
    let house = pending().await;
    let (replica, _) = house.replica().await;
    let mut other = admin_of(&replica).await;
    for round in 0..5 {
        let begun = begin(&house, wish(PARAMETER, BACK)).await;
        let answer = Some(Answer::RedirectUrl(consent(&begun.authorize_url).await));
        let request = pb::CompleteAuthorizationRequest { state: begun.state, answer };
        let mut here = house.admin().await;
        let (one, two) =
            tokio::join!(here.complete_authorization(request.clone()), other.complete_authorization(request));
        let (won, lost) = match (one, two) {
            (Ok(won), Err(lost)) | (Err(lost), Ok(won)) => (won.into_inner(), lost),
            both => panic!("round {round}: {both:?}"),
        };
        assert_eq!(won.application_parameter.expect("a parameter").state(), pb::ParameterState::Active);
        assert_eq!(reason(&lost), "AUTHORIZATION_STATE_EXPIRED");
    }
    assert_eq!(house.control().counter("auth/token/revoke").calls, 0, "the code was traded once");
    // Begun here, completed there.
    let begun = begin(&house, wish(PARAMETER, BACK)).await;
    let answer = Some(Answer::RedirectUrl(consent(&begun.authorize_url).await));
    let request = pb::CompleteAuthorizationRequest { state: begun.state, answer };
    other.complete_authorization(request).await.expect("completed");
    list(&house).await.expect("works");
    replica.stop().await.expect("stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_who_connect_at_once_the_second_undoes_nothing_and_its_grant_is_revoked() {
    let house = pending().await;
    let slow = slowly(&house).await;
    let quick = connect(&house).await;
    let status = slow.await.expect("no panic").expect_err("another was quicker");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Aborted, "ETAG_MISMATCH"), "{status:?}");
    assert_eq!(house.control().counter("auth/token/revoke").calls, 1, "nobody keeps what was not stored");
    let stored = parameter(&house).await;
    assert_eq!(stored.etag, quick.application_parameter.expect("a parameter").etag);
    house.control().expire_access_tokens();
    list(&house).await.expect("the first grant is good and was not revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_for_a_parameter_that_was_deleted_meanwhile_is_revoked() {
    let house = pending().await;
    let slow = slowly(&house).await;
    let delete =
        pb::DeleteApplicationParameterRequest { application_parameter_id: PARAMETER.into(), ..Default::default() };
    let deleted = house.admin().await.delete_application_parameter(delete).await.expect("deleted").into_inner();
    assert!(!deleted.revoked_at_dropbox, "nothing was asked for");
    let status = slow.await.expect("no panic").expect_err("it is gone");
    assert_eq!(reason(&status), "APPLICATION_PARAMETER_NOT_FOUND");
    assert_eq!(house.control().revoke(None), 1, "only the emulator's own login is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_has_not_heard_yet_revokes_what_is_connected_now() {
    let house = pending().await;
    connect(&house).await;
    let (replica, channel) = house.replica().await;
    let request = pb::ListFolderRequest { application_parameter_id: PARAMETER.into(), ..Default::default() };
    pb::dropbox_connector_client::DropboxConnectorClient::new(channel).list_folder(request).await.expect("works");
    // Connected again by one replica, disconnected at once by the other.
    connect(&house).await;
    let revoke = pb::RevokeAuthorizationRequest { application_parameter_id: PARAMETER.into() };
    let revoked = admin_of(&replica).await.revoke_authorization(revoke).await.expect("revoked").into_inner();
    assert!(revoked.revoked_at_dropbox);
    assert_eq!(state(&house).await, pb::ParameterState::Pending);
    // The emulator's login, and the first grant, which was not the parameter's any more.
    assert_eq!(house.control().revoke(None), 2);
    replica.stop().await.expect("stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_disconnects_while_another_account_is_connected_leaves_that_one() {
    let house = pending().await;
    connect(&house).await;
    let slow = Rule { times: Some(1), ..Rule::always("auth/token/revoke", Action::DelayAnswer { millis: 5000 }) };
    house.control().script([slow]).expect("a rule");
    let mut admin = house.admin().await;
    let revoke = pb::RevokeAuthorizationRequest { application_parameter_id: PARAMETER.into() };
    let running = tokio::spawn(async move { admin.revoke_authorization(revoke).await });
    until("it is being revoked", async || house.control().counter("auth/token/revoke").calls == 1).await;
    connect(&house).await;
    let status = running.await.expect("no panic").expect_err("another was connected");
    assert_eq!(reason(&status), "ETAG_MISMATCH", "{status:?}");
    assert_eq!(state(&house).await, pb::ParameterState::Active);
    house.control().expire_access_tokens();
    list(&house).await.expect("the new grant is good");
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_ends_the_grant_at_dropbox_only_if_told_to() {
    let house = pending().await;
    let delete = async |revoke| {
        let request = pb::DeleteApplicationParameterRequest { application_parameter_id: PARAMETER.into(), revoke };
        house.admin().await.delete_application_parameter(request).await.map(tonic::Response::into_inner)
    };
    connect(&house).await;
    assert!(!delete(false).await.expect("deleted").revoked_at_dropbox);
    assert_eq!(house.control().counter("auth/token/revoke").calls, 0);
    create(&house, PARAMETER, |_| {}).await;
    connect(&house).await;
    assert!(delete(true).await.expect("deleted").revoked_at_dropbox);
    assert_eq!(house.control().counter("auth/token/revoke").calls, 1);
    assert_eq!(reason(&delete(true).await.expect_err("gone")), "APPLICATION_PARAMETER_NOT_FOUND");
    // Without an account, and where Dropbox cannot be asked, it is deleted all the same and the answer says so.
    create(&house, PARAMETER, |_| {}).await;
    assert!(!delete(true).await.expect("deleted").revoked_at_dropbox);
    create(&house, PARAMETER, |_| {}).await;
    connect(&house).await;
    let refused = Rule::always("auth/token/revoke", Action::Error { error: serde_json::json!({}), user_message: None });
    house.control().script([refused]).expect("a rule");
    assert!(!delete(true).await.expect("deleted").revoked_at_dropbox);
    assert_eq!(reason(&delete(true).await.expect_err("gone")), "APPLICATION_PARAMETER_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn codes_are_traded_through_the_parameters_proxy() {
    let through = Running::tinyproxy(Some(("me", "right")));
    let house = pending_with(|parameter| {
        parameter.proxy = Some(proxy(pb::ProxyKind::Http, through.port, "me", "right"));
    })
    .await;
    connect(&house).await;
    let log = through.log();
    for wanted in ["/oauth2/token", "/2/users/get_current_account"] {
        assert!(log.contains(wanted), "no {wanted} in:\n{log}");
    }
    let revoke = pb::RevokeAuthorizationRequest { application_parameter_id: PARAMETER.into() };
    house.admin().await.revoke_authorization(revoke).await.expect("revoked");
    assert!(through.log().contains("/2/auth/token/revoke"), "{}", through.log());
    let shut = pending_with(|parameter| {
        parameter.proxy = Some(proxy(pb::ProxyKind::Http, through.port, "me", "hush-wrong"));
    })
    .await;
    let begun = begin(&shut, wish(PARAMETER, BACK)).await;
    let back = consent(&begun.authorize_url).await;
    let status = complete(&shut, &begun.state, Answer::RedirectUrl(back)).await.expect_err("no way out");
    assert_eq!(reason(&status), "PROXY_AUTH_REQUIRED", "{status:?}");
    assert!(!format!("{status:?}").contains("hush"));
    assert_eq!(shut.control().counter("oauth2/token").calls, 0, "no way round it either");
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_grants_are_counted_until_they_are_connected_again() {
    let emulator = dropbox_connector::emulator::Emulator::start(Default::default()).await.expect("emulator");
    let mut served = tokio::task::block_in_place(|| Served::before(&emulator, &[]));
    let (data, admin, http) =
        tokio::task::block_in_place(|| (served.told("data"), served.told("admin"), served.told("http")));
    let http = http.parse().expect("an address");
    let mut boss = pb::dropbox_admin_connector_client::DropboxAdminConnectorClient::connect(format!("http://{admin}"))
        .await
        .expect("connect");
    let login = emulator.account();
    crate::support::make_parameter(&mut boss, &login, PARAMETER, |_| {}).await;
    let gauge = async |count: u32| {
        let line = format!("dropboxconnector_oauth_reauthorization_required {count}\n");
        until(&line, async || crate::server::fetch(http, "/metrics").contains(&line)).await;
    };
    gauge(0).await;
    emulator.control().revoke(None);
    let mut client =
        pb::dropbox_connector_client::DropboxConnectorClient::connect(format!("http://{data}")).await.expect("connect");
    let request = pb::ListFolderRequest { application_parameter_id: PARAMETER.into(), ..Default::default() };
    let status = client.list_folder(request).await.expect_err("revoked");
    assert_eq!(reason(&status), "REAUTHORIZATION_REQUIRED");
    gauge(1).await;
    let again = emulator.control().issue(None, None).expect("tokens");
    let credential = Some(pb::import_credentials_request::Credential::RefreshToken(again.refresh_token));
    let import = pb::ImportCredentialsRequest { application_parameter_id: PARAMETER.into(), credential };
    boss.import_credentials(import).await.expect("connected");
    gauge(0).await;
}
