//! Application parameters through the admin listener.

use dropbox_connector::api::v1 as pb;
use tonic::Code;

use crate::support::{PARAMETER, reason, start};

#[tokio::test]
async fn a_parameter_is_created_changed_by_mask_and_etag_listed_and_deleted() {
    let house = start().await;
    let mut admin = house.admin().await;
    let get = pb::GetApplicationParameterRequest { application_parameter_id: PARAMETER.into() };
    let found = admin.get_application_parameter(get.clone()).await.expect("found").into_inner();
    let found = found.application_parameter.expect("a parameter");
    assert_eq!(found.state(), pb::ParameterState::Active);
    assert!(found.app_secret.is_empty());
    assert!(found.account.is_some_and(|account| account.account_id.starts_with("dbid:")));

    let update = |display_name: &str, etag: &str| pb::UpdateApplicationParameterRequest {
        application_parameter: Some(pb::ApplicationParameter {
            application_parameter_id: PARAMETER.into(),
            display_name: display_name.into(),
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["display_name".into()] }),
        etag: etag.into(),
    };
    let changed = admin.update_application_parameter(update("New", &found.etag)).await.expect("changed").into_inner();
    let changed = changed.application_parameter.expect("a parameter");
    assert_eq!((changed.display_name.as_str(), changed.app_key == found.app_key), ("New", true));
    assert_eq!(changed.state(), pb::ParameterState::Active);
    let stale = admin.update_application_parameter(update("Other", &found.etag)).await.expect_err("stale");
    assert_eq!((stale.code(), reason(&stale).as_str()), (Code::Aborted, "ETAG_MISMATCH"));

    for name in ["a", "b", "c"] {
        let parameter = pb::ApplicationParameter { app_key: "key".into(), group: "g".into(), ..Default::default() };
        let create = pb::CreateApplicationParameterRequest {
            application_parameter_id: name.into(),
            application_parameter: Some(parameter),
        };
        admin.create_application_parameter(create.clone()).await.expect("created");
        let twice = admin.create_application_parameter(create).await.expect_err("twice");
        assert_eq!(reason(&twice), "APPLICATION_PARAMETER_EXISTS");
    }
    let mut list = pb::ListApplicationParametersRequest { group: "g".into(), page_size: 2, ..Default::default() };
    let first = admin.list_application_parameters(list.clone()).await.expect("page").into_inner();
    list.page_token = first.next_page_token.clone();
    let second = admin.list_application_parameters(list.clone()).await.expect("page").into_inner();
    let both = first.application_parameters.iter().chain(&second.application_parameters);
    let names: Vec<_> = both.map(|parameter| parameter.application_parameter_id.as_str()).collect();
    assert_eq!((names, second.next_page_token.as_str()), (vec!["a", "b", "c"], ""));
    list.group = "other".into();
    assert_eq!(reason(&admin.list_application_parameters(list).await.expect_err("other")), "PAGE_TOKEN_MISMATCH");

    let delete =
        pb::DeleteApplicationParameterRequest { application_parameter_id: PARAMETER.into(), ..Default::default() };
    admin.delete_application_parameter(delete).await.expect("deleted");
    assert_eq!(
        reason(&admin.get_application_parameter(get).await.expect_err("gone")),
        "APPLICATION_PARAMETER_NOT_FOUND"
    );
}

#[tokio::test]
async fn a_parameter_can_be_tried_and_refused_credentials_are_not_stored() {
    let house = start().await;
    let mut admin = house.admin().await;
    let test = pb::TestApplicationParameterRequest { application_parameter_id: PARAMETER.into() };
    let report = admin.test_application_parameter(test).await.expect("works").into_inner();
    assert!(report.account.is_some() && report.latency.is_some());
    let import = pb::ImportCredentialsRequest {
        application_parameter_id: PARAMETER.into(),
        credential: Some(pb::import_credentials_request::Credential::RefreshToken("hush-hush".into())),
    };
    let refused = admin.import_credentials(import).await.expect_err("refused");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "CREDENTIALS_REJECTED"));
    assert!(!format!("{refused:?}").contains("hush-hush"));
}

fn update(paths: &[&str], edit: impl FnOnce(&mut pb::ApplicationParameter)) -> pb::UpdateApplicationParameterRequest {
    let mut parameter = pb::ApplicationParameter { application_parameter_id: PARAMETER.into(), ..Default::default() };
    edit(&mut parameter);
    pb::UpdateApplicationParameterRequest {
        application_parameter: Some(parameter),
        update_mask: Some(prost_types::FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() }),
        ..Default::default()
    }
}

async fn list(house: &crate::support::House) -> Result<(), tonic::Status> {
    let request = pb::ListFolderRequest { application_parameter_id: PARAMETER.into(), ..Default::default() };
    house.client().list_folder(request).await.map(drop)
}

#[tokio::test]
async fn a_mask_names_what_changes_and_nothing_else_does() {
    let house = start().await;
    let mut admin = house.admin().await;
    let edit = update(&["labels", "policy.max_concurrency", "timeouts.request"], |parameter| {
        parameter.display_name = "not named, so not changed".into();
        parameter.labels = [("team".to_owned(), "docs".to_owned())].into();
        parameter.policy = Some(pb::ParameterPolicy { max_concurrency: 7, max_file_size: 99, ..Default::default() });
        let request = Some(prost_types::Duration { seconds: 5, nanos: 0 });
        parameter.timeouts = Some(pb::Timeouts { request, ..Default::default() });
    });
    let changed = admin.update_application_parameter(edit).await.expect("changed").into_inner();
    let changed = changed.application_parameter.expect("a parameter");
    let policy = changed.policy.clone().expect("a policy");
    assert_eq!((changed.display_name.as_str(), changed.labels["team"].as_str()), ("Test", "docs"));
    assert_eq!((policy.max_concurrency, policy.max_file_size), (7, 0));
    assert_eq!(changed.timeouts.expect("timeouts").request.expect("set").seconds, 5);
    for paths in [&[][..], &["nonsense"], &["account"], &["etag"], &["refresh_time"], &["policy.nonsense"]] {
        let status = admin.update_application_parameter(update(paths, |_| {})).await.expect_err("refused");
        assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "INVALID_FIELD"), "{paths:?}");
    }
    let mut stale = update(&["group"], |_| {});
    stale.etag = "not an etag of ours".into();
    let status = admin.update_application_parameter(stale).await.expect_err("stale");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Aborted, "ETAG_MISMATCH"));
    let mut missing = update(&["group"], |_| {});
    missing.application_parameter.as_mut().expect("set above").application_parameter_id = "nobody".into();
    let status = admin.update_application_parameter(missing).await.expect_err("missing");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "APPLICATION_PARAMETER_NOT_FOUND"));
    list(&house).await.expect("it still works");
}

#[tokio::test]
async fn a_disabled_parameter_refuses_at_once_and_works_again_when_enabled() {
    let house = start().await;
    let mut admin = house.admin().await;
    list(&house).await.expect("works");
    let state = |state: pb::ParameterState| update(&["state"], |parameter| parameter.state = state.into());
    admin.update_application_parameter(state(pb::ParameterState::Disabled)).await.expect("disabled");
    let status = list(&house).await.expect_err("disabled");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "PARAMETER_DISABLED"));
    let status =
        admin.update_application_parameter(state(pb::ParameterState::Pending)).await.expect_err("not settable");
    assert_eq!(reason(&status), "INVALID_FIELD");
    admin.update_application_parameter(state(pb::ParameterState::Active)).await.expect("enabled");
    list(&house).await.expect("works again");
}

#[tokio::test]
async fn a_parameter_that_makes_no_sense_is_refused_with_every_wrong_field() {
    let house = start().await;
    let mut admin = house.admin().await;
    for id in ["", "Upper", "1digit", "under_score", "end-", &"x".repeat(64), "../x"] {
        let parameter = pb::ApplicationParameter { app_key: "key".into(), ..Default::default() };
        let request = pb::CreateApplicationParameterRequest {
            application_parameter_id: id.into(),
            application_parameter: Some(parameter),
        };
        let status = admin.create_application_parameter(request).await.expect_err(id);
        assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "INVALID_FIELD"), "{id:?}");
    }
    let parameter = pb::ApplicationParameter {
        app_key: "key".into(),
        path_prefix: "/a/../b".into(),
        account_kind: 99,
        timeouts: Some(pb::Timeouts {
            connect: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
            ..Default::default()
        }),
        policy: Some(pb::ParameterPolicy { max_file_size: -1, permissions: vec![0, 88], ..Default::default() }),
        ..Default::default()
    };
    let request = pb::CreateApplicationParameterRequest {
        application_parameter_id: "wrong".into(),
        application_parameter: Some(parameter),
    };
    let status = admin.create_application_parameter(request).await.expect_err("wrong");
    let details = tonic_types::StatusExt::get_error_details(&status);
    let fields: Vec<_> =
        details.bad_request().expect("fields").field_violations.iter().map(|v| v.field.clone()).collect();
    for wanted in [
        "path_prefix",
        "account_kind",
        "timeouts.connect",
        "policy.max_file_size",
        "policy.permissions[0]",
        "policy.permissions[1]",
    ] {
        assert!(fields.iter().any(|field| field.ends_with(wanted)), "no {wanted} in {fields:?}");
    }
    let get = pb::GetApplicationParameterRequest { application_parameter_id: "wrong".into() };
    assert_eq!(admin.get_application_parameter(get).await.expect_err("not made").code(), Code::NotFound);
}

#[tokio::test]
async fn credentials_are_tried_before_they_are_kept() {
    use pb::import_credentials_request::Credential;
    let house = start().await;
    let mut admin = house.admin().await;
    let token = |token: &str| pb::AccessToken { token: token.into(), expire_time: None };
    for credential in
        [Some(Credential::RefreshToken("hush-refresh".into())), Some(Credential::AccessToken(token("hush-access")))]
    {
        let import = pb::ImportCredentialsRequest { application_parameter_id: PARAMETER.into(), credential };
        let status = admin.import_credentials(import).await.expect_err("unknown to Dropbox");
        assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "CREDENTIALS_REJECTED"));
        let details = tonic_types::StatusExt::get_error_details(&status);
        assert!(details.bad_request().is_some_and(|bad| !bad.field_violations.is_empty()), "{status:?}");
        assert!(!format!("{status:?} {details:?}").contains("hush"));
        list(&house).await.expect("the old ones stay");
    }
    for credential in [None, Some(Credential::RefreshToken(String::new())), Some(Credential::AccessToken(token("")))] {
        let import = pb::ImportCredentialsRequest { application_parameter_id: PARAMETER.into(), credential };
        assert_eq!(reason(&admin.import_credentials(import).await.expect_err("nothing")), "INVALID_FIELD");
    }
    // An access token alone works until it ends; then nobody can renew it.
    let login = house.control().issue(None, None).expect("a grant");
    let credential = Some(Credential::AccessToken(token(&login.access_token)));
    let import = pb::ImportCredentialsRequest { application_parameter_id: PARAMETER.into(), credential };
    admin.import_credentials(import).await.expect("taken");
    list(&house).await.expect("works");
    house.control().expire_access_tokens();
    let status = list(&house).await.expect_err("ended");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "REAUTHORIZATION_REQUIRED"));
}

#[tokio::test]
async fn a_hundred_callers_of_an_expired_token_cause_one_renewal() {
    let house = start().await;
    list(&house).await.expect("works");
    let before = house.control().counter("oauth2/token").calls;
    house.control().expire_access_tokens();
    let calls = (0..100).map(|_| list(&house));
    let outcomes = futures::future::join_all(calls).await;
    assert!(outcomes.iter().all(Result::is_ok), "{:?}", outcomes.iter().find(|outcome| outcome.is_err()));
    assert_eq!(house.control().counter("oauth2/token").calls - before, 1);
}

#[tokio::test]
async fn a_revoked_grant_sticks_until_the_account_is_connected_again() {
    let mut house = start().await;
    list(&house).await.expect("works");
    house.control().revoke(None);
    let status = list(&house).await.expect_err("revoked");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "REAUTHORIZATION_REQUIRED"));
    assert!(crate::support::fact(&status, "cause").is_some(), "{status:?}");
    let asked = house.control().counter("oauth2/token").calls;
    for _ in 0..5 {
        assert_eq!(reason(&list(&house).await.expect_err("revoked")), "REAUTHORIZATION_REQUIRED");
    }
    house.restart().await;
    assert_eq!(reason(&list(&house).await.expect_err("also after a restart")), "REAUTHORIZATION_REQUIRED");
    assert_eq!(house.control().counter("oauth2/token").calls, asked, "Dropbox is not asked again and again");
    let get = pb::GetApplicationParameterRequest { application_parameter_id: PARAMETER.into() };
    let mut admin = house.admin().await;
    let found = admin.get_application_parameter(get.clone()).await.expect("found").into_inner();
    assert_eq!(found.application_parameter.expect("a parameter").state(), pb::ParameterState::ReauthorizationRequired);
    let login = house.control().issue(None, None).expect("a grant");
    let credential = Some(pb::import_credentials_request::Credential::RefreshToken(login.refresh_token));
    let import = pb::ImportCredentialsRequest { application_parameter_id: PARAMETER.into(), credential };
    let linked = admin.import_credentials(import).await.expect("connected").into_inner();
    assert_eq!(linked.application_parameter.expect("a parameter").state(), pb::ParameterState::Active);
    list(&house).await.expect("works again");
}

#[tokio::test]
async fn trouble_at_the_token_endpoint_is_not_taken_for_a_revoked_grant() {
    use dropbox_connector::emulator::script::{Action, Rule};
    let house = start().await;
    list(&house).await.expect("works");
    house.control().expire_access_tokens();
    house.control().script([Rule::always("oauth2/token", Action::ServerError { status: 503 })]).expect("a rule");
    let status = list(&house).await.expect_err("an outage");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(crate::support::retry_delay(&status).is_some(), "{status:?}");
    house.control().clear_script();
    list(&house).await.expect("over");
}

#[tokio::test]
async fn a_file_of_parameters_is_read_and_never_written() {
    let emulator = dropbox_connector::emulator::Emulator::start(Default::default()).await.expect("emulator");
    let login = emulator.account();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("parameters.toml");
    let text = format!(
        "[[application_parameters]]\nid = \"filed\"\napp_key = \"{}\"\napp_secret = \"{}\"\nrefresh_token = \"{}\"\n",
        login.app_key, login.app_secret, login.refresh_token
    );
    std::fs::write(&file, text).expect("written");
    let urls = emulator.addresses().clone();
    let house = crate::support::start_bare(Default::default(), |config| {
        config.parameters_file = file.clone();
        config.dropbox_api_url = urls.api.parse().expect("a url");
        config.dropbox_content_url = urls.content.parse().expect("a url");
    })
    .await;
    let request = pb::GetAccountRequest { application_parameter_id: "filed".into(), ..Default::default() };
    let account = house.client().get_account(request).await.expect("works").into_inner();
    assert_eq!(account.account_id, login.account_id);
    let mut admin = house.admin().await;
    let get = pb::GetApplicationParameterRequest { application_parameter_id: "filed".into() };
    let found = admin.get_application_parameter(get).await.expect("told").into_inner().application_parameter;
    let told = format!("{found:?}");
    assert!(!told.contains(&login.app_secret) && !told.contains(&login.refresh_token));
    let mut edit = update(&["group"], |_| {});
    edit.application_parameter.as_mut().expect("set").application_parameter_id = "filed".into();
    let delete =
        pb::DeleteApplicationParameterRequest { application_parameter_id: "filed".into(), ..Default::default() };
    let credential = Some(pb::import_credentials_request::Credential::RefreshToken(login.refresh_token.clone()));
    let import = pb::ImportCredentialsRequest { application_parameter_id: "filed".into(), credential };
    let refusals = [
        admin.update_application_parameter(edit).await.map(drop).expect_err("read-only"),
        admin.delete_application_parameter(delete).await.map(drop).expect_err("read-only"),
        admin.import_credentials(import).await.map(drop).expect_err("read-only"),
    ];
    for status in refusals {
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::FailedPrecondition, "READ_ONLY_STORE"),
            "{status:?}"
        );
    }
}

#[tokio::test]
async fn a_rotated_key_opens_secrets_and_a_removed_one_retires_its_handles() {
    let mut house = start().await;
    for n in 0..3 {
        let path = format!("/p/{n}.txt");
        crate::support::upload(&house, crate::support::spec(&path), b"x").await.expect("upload");
    }
    let first = pb::ListFolderRequest {
        application_parameter_id: PARAMETER.into(),
        path: "/p".into(),
        page_size: 1,
        ..Default::default()
    };
    let page = house.client().list_folder(first.clone()).await.expect("a page").into_inner();
    let next = pb::ListFolderRequest { page_token: page.next_page_token, ..first };
    let file = house.config().sealing_key_file.clone();
    let old = std::fs::read_to_string(&file).expect("the keys");
    let new = dropbox_connector::seal::KeyRing::new_line("anew");
    std::fs::write(&file, format!("{old}\n{}\n", new.as_str())).expect("opens everywhere first");
    house.restart().await;
    std::fs::write(&file, format!("{}\n{old}\n", new.as_str())).expect("then it seals");
    house.restart().await;
    let (told, _) = dropbox_connector::app::rotate(house.config()).await.expect("rotated beside the server");
    assert!(told.contains("1 application parameters") && !told.contains(" 0 secrets sealed anew"), "{told}");
    list(&house).await.expect("it still works");
    house.client().list_folder(next.clone()).await.expect("and so do old handles");
    std::fs::write(&file, format!("{}\n", new.as_str())).expect("the old one goes");
    house.restart().await;
    house.control().expire_access_tokens();
    list(&house).await.expect("the secrets were sealed anew");
    let status = house.client().list_folder(next).await.expect_err("the key is gone");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "HANDLE_KEY_RETIRED"));
}
