//! `CallApi` and its guards through the whole house.

use dropbox_connector::api::v1::{self as pb, call_api_request::Arg, call_api_response::Result as Told};
use tonic::Code;

use crate::support::{PARAMETER, fact, reason, start};

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

/// A parameter whose policy grants these, and calls these routes.
async fn parameter(house: &crate::support::House, id: &str, permissions: &[pb::Permission], raw_allow: &[&str]) {
    let permissions = permissions.iter().map(|permission| (*permission).into()).collect();
    let raw_allow = raw_allow.iter().map(|route| (*route).to_owned()).collect();
    let policy = pb::ParameterPolicy { permissions, raw_allow, ..Default::default() };
    house.make_parameter(id, |parameter| parameter.policy = Some(policy)).await;
}

use pb::Permission::{Delete, Raw, Read, Share, Team, Write};

#[tokio::test]
async fn a_route_takes_raw_and_the_class_of_its_effect() {
    let house = start().await;
    parameter(&house, "reader", &[Raw, Read], &[]).await;
    house.client().call_api(request("reader", "users/get_current_account")).await.expect("a read");
    for (route, permission) in [
        ("files/create_folder_v2", "WRITE"),
        ("files/delete_v2", "DELETE"),
        ("sharing/create_shared_link_with_settings", "SHARE"),
        ("team/members/remove", "TEAM"),
    ] {
        let refused = pb::CallApiRequest { allow_mutation: true, ..request("reader", route) };
        let refused = house.client().call_api(refused).await.expect_err(route);
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            (Code::PermissionDenied, "CALLER_NOT_ALLOWED"),
            "{route}"
        );
        assert_eq!(crate::support::fact(&refused, "permission").as_deref(), Some(permission), "{route}");
        assert_eq!(house.control().counter(route).calls, 0, "{route}");
    }
}

#[tokio::test]
async fn nothing_but_a_known_route_becomes_part_of_a_url() {
    let house = start().await;
    parameter(&house, "all", &[Raw, Read, Write, Delete, Share, Team], &[]).await;
    // The first call also asks for the account's root.
    house.client().call_api(request("all", "users/get_space_usage")).await.expect("a read");
    // A parameter that was just made may be read again, and its account asked for anew.
    let asked = || house.control().journal().iter().filter(|entry| entry.route != "users/get_current_account").count();
    let before = asked();
    for route in [
        "",
        "/",
        "files",
        "users/get_current_account/",
        "users/get_current_account?x=1",
        "Users/get_current_account",
        "users/../users/get_current_account",
        "//users/get_current_account",
        "/2//2/users/get_current_account",
        "https://evil.example/2/users/get_current_account",
        "users/get_current_account#",
        "auth/token/revoke",
        "oauth2/token",
        "files/list_folder/longpoll",
        "users/get_current_account\r\nx: y",
        "brand/new",
    ] {
        let refused = pb::CallApiRequest { allow_mutation: true, ..request("all", route) };
        let refused = house.client().call_api(refused).await.expect_err(route);
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            (Code::PermissionDenied, "RAW_ROUTE_DENIED"),
            "{route:?}"
        );
    }
    for route in ["files/upload", "files/download", "files/upload_session/append_v2", "files/download_zip"] {
        let refused = pb::CallApiRequest { allow_mutation: true, ..request("all", route) };
        let refused = house.client().call_api(refused).await.expect_err(route);
        let reason = reason(&refused);
        assert!(["RAW_ROUTE_STYLE", "RAW_ROUTE_DENIED"].contains(&reason.as_str()), "{route}: {refused:?}");
    }
    assert_eq!(asked(), before, "Dropbox was not asked");
}

#[tokio::test]
async fn a_list_of_routes_narrows_and_lets_in_what_the_table_lacks() {
    let house = start().await;
    let listed = ["files/get_metadata", "files/brand_new_v9", "auth/token/revoke"];
    parameter(&house, "few", &[Raw, Read, Write, Delete, Share, Team], &listed).await;
    parameter(&house, "short", &[Raw, Read], &listed).await;
    let outside = house.client().call_api(request("few", "users/get_current_account")).await.expect_err("not listed");
    assert_eq!(reason(&outside), "RAW_ROUTE_DENIED");
    let token = pb::CallApiRequest { allow_mutation: true, ..request("few", "auth/token/revoke") };
    assert_eq!(reason(&house.client().call_api(token).await.expect_err("never")), "RAW_ROUTE_DENIED");
    let new = pb::CallApiRequest { allow_mutation: true, ..request("few", "files/brand_new_v9") };
    let unmutating = pb::CallApiRequest { allow_mutation: false, ..new.clone() };
    assert_eq!(reason(&house.client().call_api(unmutating).await.expect_err("counts as a change")), "RAW_ROUTE_DENIED");
    let _ = house.client().call_api(new.clone()).await.expect_err("Dropbox does not know it either");
    assert_eq!(house.control().counter("files/brand_new_v9").calls, 1, "it was asked");
    let poor = pb::CallApiRequest { application_parameter_id: "short".into(), ..new };
    assert_eq!(reason(&house.client().call_api(poor).await.expect_err("every class")), "CALLER_NOT_ALLOWED");
}

#[tokio::test]
async fn json_text_keeps_large_numbers_and_values_keep_the_rest() {
    use dropbox_connector::emulator::script::{Action, Rule};
    let house = start().await;
    parameter(&house, "reader", &[Raw, Read], &[]).await;
    let body = r#"{"big":9007199254740993,"z":1,"a":[null,true,"ü"]}"#;
    let answer = |body: String| Action::Answer {
        status: 200,
        content_type: "application/json".into(),
        body,
        headers: Vec::new(),
        executed: false,
        unread: false,
    };
    house.control().script([Rule::always("files/get_metadata", answer(body.into()))]).expect("a rule");
    let text = pb::CallApiRequest { result_as_json: true, ..request("reader", "files/get_metadata") };
    let told = house.client().call_api(text.clone()).await.expect("a result").into_inner();
    assert_eq!(told.result, Some(Told::ResultJson(body.into())), "as Dropbox sent it");
    assert!(!told.dropbox_request_id.is_empty());
    // Beyond what an answer may hold.
    house.control().clear_script();
    let long = format!("\"{}\"", "x".repeat(4 * 1024 * 1024));
    house.control().script([Rule::always("files/get_metadata", answer(long))]).expect("a rule");
    for as_json in [true, false] {
        let request = pb::CallApiRequest { result_as_json: as_json, ..text.clone() };
        let status = house.client().call_api(request).await.expect_err("too large");
        assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "RAW_RESPONSE_TOO_LARGE"));
        assert_eq!(fact(&status, "limitBytes").as_deref(), Some("3670016"));
        assert_eq!(status.metadata().get("grpc-retry-pushback-ms").expect("a trailer"), "-1");
    }
}

#[tokio::test]
async fn both_forms_of_an_argument_reach_dropbox_and_neither_means_null() {
    use prost_types::{Struct, Value, value::Kind};
    let house = start().await;
    parameter(&house, "reader", &[Raw, Read], &[]).await;
    let value = |kind| Value { kind: Some(kind) };
    let fields = [
        ("path".to_owned(), value(Kind::StringValue(String::new()))),
        ("limit".to_owned(), value(Kind::NumberValue(7.0))),
        ("recursive".to_owned(), value(Kind::BoolValue(true))),
    ];
    let object = value(Kind::StructValue(Struct { fields: fields.into_iter().collect() }));
    let by_value = pb::CallApiRequest { arg: Some(Arg::ArgValue(object)), ..request("reader", "files/list_folder") };
    house.client().call_api(by_value).await.expect("listed");
    let asked = house.control().journal().into_iter().rfind(|entry| entry.route == "files/list_folder").expect("asked");
    assert_eq!((&asked.arg["limit"], &asked.arg["recursive"]), (&7.into(), &true.into()));
    house.client().call_api(request("reader", "users/get_space_usage")).await.expect("null is its argument");
    let odd = value(Kind::NumberValue(f64::NAN));
    let odd = pb::CallApiRequest { arg: Some(Arg::ArgValue(odd)), ..request("reader", "files/list_folder") };
    let status = house.client().call_api(odd).await.expect_err("no JSON number");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "RAW_JSON"));
}

#[tokio::test]
async fn headers_of_the_caller_never_reach_dropbox() {
    let mut tap = None;
    let house = crate::support::start_bare(Default::default(), |config| {
        let tapped = crate::support::tap::Tap::before(&config.dropbox_api_url);
        config.dropbox_api_url = tapped.url();
        tap = Some(tapped);
    })
    .await;
    let tap = tap.expect("made above");
    parameter(&house, "reader", &[Raw, Read], &[]).await;
    let mut request = tonic::Request::new(request("reader", "users/get_current_account"));
    for (name, value) in [
        ("dropbox-api-select-admin", "dbmid:smuggled"),
        ("dropbox-api-path-root", "smuggled"),
        ("x-anything", "smuggled"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("x-request-id", "of-the-caller"),
        ("cookie", "smuggled"),
    ] {
        request.metadata_mut().insert(name, value.parse().expect("ascii"));
    }
    house.client().call_api(request).await.expect("a read");
    let seen = tap.seen();
    assert!(seen.contains("/2/users/get_current_account"), "{seen}");
    for absent in ["smuggled", "select-admin", "x-anything", "0af7651916cd43dd", "of-the-caller"] {
        assert!(!seen.to_lowercase().contains(absent), "{absent} in:\n{seen}");
    }
}
