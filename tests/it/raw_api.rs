//! `CallApi` and its guards through the whole house.

use dropbox_connector::api::v1::{self as pb, call_api_request::Arg, call_api_response::Result as Told};
use tonic::Code;

use crate::support::{PARAMETER, reason, start};

fn request(parameter: &str, route: &str) -> pb::CallApiRequest {
    pb::CallApiRequest { application_parameter_id: parameter.into(), route: route.into(), ..Default::default() }
}

#[tokio::test]
async fn raw_calls_are_off_until_they_are_granted_and_change_nothing_unasked() {
    let house = start().await;
    let refused = house.client().call_api(request(PARAMETER, "users/get_current_account")).await.expect_err("off");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::PermissionDenied, "RAW_API_DISABLED"));

    house
        .make_parameter("raw", |parameter| {
            let permissions = [pb::Permission::Raw, pb::Permission::Read, pb::Permission::Delete];
            parameter.policy =
                Some(pb::ParameterPolicy { permissions: permissions.map(Into::into).to_vec(), ..Default::default() });
        })
        .await;
    let answer = house.client().call_api(request("raw", "/2/users/get_current_account")).await.expect("read");
    let answer = answer.into_inner();
    assert_eq!(answer.route, "users/get_current_account");
    let Some(Told::ResultValue(value)) = answer.result else { panic!("a value") };
    let Some(prost_types::value::Kind::StructValue(account)) = value.kind else { panic!("an object") };
    assert!(account.fields.contains_key("account_id"));

    let mut delete = request("raw", "files/delete_v2");
    delete.arg = Some(Arg::ArgJson(r#"{"path":"/x"}"#.into()));
    let refused = house.client().call_api(delete.clone()).await.expect_err("a change");
    assert_eq!(reason(&refused), "RAW_ROUTE_DENIED");
    delete.allow_mutation = true;
    let refused = house.client().call_api(delete).await.expect_err("nothing there");
    assert_eq!(reason(&refused), "PATH_NOT_FOUND");
    for (route, expected) in [("auth/token/revoke", "RAW_ROUTE_DENIED"), ("files/upload", "RAW_ROUTE_STYLE")] {
        let mut forbidden = request("raw", route);
        forbidden.allow_mutation = true;
        assert_eq!(reason(&house.client().call_api(forbidden).await.expect_err("never")), expected, "{route}");
    }
    let mut bad = request("raw", "users/get_current_account");
    bad.arg = Some(Arg::ArgJson("{".into()));
    assert_eq!(reason(&house.client().call_api(bad).await.expect_err("no JSON")), "RAW_JSON");
}
