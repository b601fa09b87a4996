//! The life of a grant: revoked, lost, taken up again; the app's secret changed; the server's own app.

use dropbox_connector::emulator::script::{Action, Rule};

use super::*;
use crate::support::fact;

async fn revoke(house: &House) -> pb::RevokeAuthorizationResponse {
    let request = pb::RevokeAuthorizationRequest { application_parameter_id: PARAMETER.into() };
    house.admin().await.revoke_authorization(request).await.expect("revoked").into_inner()
}

#[tokio::test]
async fn revoking_ends_the_grant_at_dropbox_and_here_and_the_account_can_be_connected_again() {
    let house = pending().await;
    connect(&house).await;
    let revoked = revoke(&house).await;
    assert!(revoked.revoked_at_dropbox);
    let parameter = revoked.application_parameter.expect("a parameter");
    assert_eq!((parameter.state(), parameter.account), (pb::ParameterState::Pending, None));
    assert!(parameter.granted_scopes.is_empty());
    // The emulator's own login is a grant of its own; the one of the parameter is gone.
    assert_eq!(house.control().counter("auth/token/revoke").calls, 1);
    let status = list(&house).await.expect_err("revoked");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "REAUTHORIZATION_REQUIRED"));
    assert!(!revoke(&house).await.revoked_at_dropbox, "a repeat finds nothing to revoke");
    // Another account may be connected now: nothing is linked any more.
    let other = house.control().add_account("other@example.com", "Olga", "Other", None);
    house.control().sign_in(Some(&other)).expect("an account");
    assert_eq!(connect(&house).await.account.expect("an account").account_id, other);
    list(&house).await.expect("works again");
}

#[tokio::test]
async fn an_expired_bearer_is_renewed_to_revoke_its_grant() {
    let house = pending().await;
    connect(&house).await;
    house.control().expire_access_tokens();
    revoke(&house).await;
    assert_eq!(house.control().revoke(None), 1, "only the emulator's own login is left");
}

#[tokio::test]
async fn a_grant_is_forgotten_here_even_if_dropbox_cannot_be_asked() {
    let house = pending().await;
    connect(&house).await;
    let rule = Rule::always("auth/token/revoke", Action::ServerError { status: 503 });
    house.control().script([rule]).expect("a rule");
    let request = pb::RevokeAuthorizationRequest { application_parameter_id: PARAMETER.into() };
    let mut request = tonic::Request::new(request);
    request.set_timeout(std::time::Duration::from_secs(4));
    let revoked = house.patient_admin().await.revoke_authorization(request).await.expect("revoked").into_inner();
    assert!(!revoked.revoked_at_dropbox);
    assert_eq!(state(&house).await, pb::ParameterState::Pending);
    assert_eq!(reason(&list(&house).await.expect_err("revoked")), "REAUTHORIZATION_REQUIRED");
}

#[tokio::test]
async fn a_grant_revoked_at_dropbox_is_remembered_counted_and_connected_again() {
    let house = pending().await;
    connect(&house).await;
    list(&house).await.expect("works");
    house.control().revoke(None);
    let status = list(&house).await.expect_err("revoked");
    assert_eq!(reason(&status), "REAUTHORIZATION_REQUIRED");
    assert_eq!(fact(&status, "cause").as_deref(), Some("invalid_grant"));
    assert_eq!(state(&house).await, pb::ParameterState::ReauthorizationRequired);
    connect(&house).await;
    list(&house).await.expect("works again");
    assert_eq!(state(&house).await, pb::ParameterState::Active);
}

#[tokio::test]
async fn the_secret_of_the_app_changes_and_the_grant_stays() {
    let house = pending().await;
    connect(&house).await;
    house.control().set_app_secret("another-secret");
    house.control().expire_access_tokens();
    let status = list(&house).await.expect_err("the old secret");
    assert_eq!(reason(&status), "REAUTHORIZATION_REQUIRED");
    assert_eq!(fact(&status, "cause").as_deref(), Some("invalid_client"));
    assert_eq!(state(&house).await, pb::ParameterState::Active, "the grant is not condemned");
    let update = pb::UpdateApplicationParameterRequest {
        application_parameter: Some(pb::ApplicationParameter {
            application_parameter_id: PARAMETER.into(),
            app_secret: "another-secret".into(),
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["app_secret".into()] }),
        ..Default::default()
    };
    house.admin().await.update_application_parameter(update).await.expect("updated");
    list(&house).await.expect("works without connecting again");
}

#[tokio::test]
async fn parameters_share_the_servers_app() {
    let secret = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(secret.path(), "emulatorsecret0\n").expect("written");
    let house = start_bare(Default::default(), |config| {
        config.app_key = "emulatorappkey0".into();
        config.app_secret_file = secret.path().into();
    })
    .await;
    house.control().set_consent(Consent::Approve);
    let shared = |parameter: &mut pb::ApplicationParameter| {
        (parameter.app_key, parameter.app_secret) = Default::default();
        parameter.app_source = pb::AppSource::SharedApp.into();
    };
    create(&house, PARAMETER, shared).await;
    connect(&house).await;
    house.control().expire_access_tokens();
    list(&house).await.expect("renewed with the server's secret");
    let shown = parameter(&house).await;
    assert_eq!((shown.app_source(), shown.app_key.as_str()), (pb::AppSource::SharedApp, ""));
    let both = pb::CreateApplicationParameterRequest {
        application_parameter_id: "both".into(),
        application_parameter: Some(pb::ApplicationParameter {
            app_source: pb::AppSource::SharedApp.into(),
            app_key: "key".into(),
            ..Default::default()
        }),
    };
    let status = house.admin().await.create_application_parameter(both).await.expect_err("one or the other");
    assert_eq!(reason(&status), "INVALID_FIELD");
}

#[tokio::test]
async fn without_an_app_of_the_server_none_is_shared() {
    let house = pending().await;
    let create = pb::CreateApplicationParameterRequest {
        application_parameter_id: "shared".into(),
        application_parameter: Some(pb::ApplicationParameter {
            app_source: pb::AppSource::SharedApp.into(),
            ..Default::default()
        }),
    };
    let status = house.admin().await.create_application_parameter(create).await.expect_err("no app");
    assert_eq!(reason(&status), "INVALID_FIELD");
    assert!(status.message().contains("app_key"), "{status:?}");
}
