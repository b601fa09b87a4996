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

    let delete = pb::DeleteApplicationParameterRequest { application_parameter_id: PARAMETER.into() };
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
