//! Trouble that is no plain refusal: limits, outages, cuts, silence, answers that cannot be read, and deadlines.

use std::time::{Duration, Instant};

use dropbox_connector::{
    api::v1 as pb,
    emulator::script::{Action, Rule},
};
use serde_json::json;
use tonic::{Code, Request, Status};

use super::{
    Says::{self, Tags},
    Via, check, check_shape, details, furnished, row,
};
use crate::support::{House, PARAMETER, fact, reason, retry_delay, until};

#[track_caller]
fn is(status: &Status, code: Code, wanted: &str) {
    assert_eq!((status.code(), reason(status).as_str()), (code, wanted), "{status:?}");
    if let Err(text) = check_shape(status) {
        panic!("{text}: {status:?}");
    }
}

/// What comes of a call while the emulator does this to its route.
async fn under(house: &House, via: Via, action: Action) -> Status {
    house.control().clear_script();
    house.control().script([Rule::always(via.route(), action)]).expect("a sound rule");
    let status = via.run(house).await.expect_err("it cannot succeed");
    house.control().clear_script();
    status
}

#[tokio::test]
async fn a_limit_tells_when_to_come_again_to_the_second() {
    let house = furnished().await;
    let status = under(&house, Via::GetItem, Action::TooManyRequests { retry_after: Some(7) }).await;
    is(&status, Code::ResourceExhausted, "RATE_LIMITED");
    assert_eq!(retry_delay(&status), Some(Duration::from_secs(7)));
    assert_eq!(status.metadata().get("grpc-retry-pushback-ms").expect("a trailer"), "7000");
    assert!(details(&status).contains("QuotaFailure"));
    assert_eq!(house.control().counter("files/get_metadata").calls, 1, "nobody knocks before the time is over");
}

#[tokio::test]
async fn a_limit_without_a_time_is_five_seconds_be_it_json_or_text() {
    for action in [Action::TooManyRequests { retry_after: None }, Action::TooManyRequestsText { retry_after: None }] {
        let house = furnished().await;
        let status = under(&house, Via::GetItem, action).await;
        is(&status, Code::ResourceExhausted, "RATE_LIMITED");
        assert_eq!(retry_delay(&status), Some(Duration::from_secs(5)));
    }
}

#[tokio::test]
async fn a_limited_account_holds_back_its_other_callers_instead_of_knocking() {
    let house = furnished().await;
    under(&house, Via::GetItem, Action::TooManyRequests { retry_after: Some(30) }).await;
    let before = house.control().counter("files/list_folder").calls;
    let status = Via::List.run(&house).await.expect_err("the account is paused");
    assert!(matches!(status.code(), Code::ResourceExhausted | Code::DeadlineExceeded), "{status:?}");
    check_shape(&status).expect("a refusal like the others");
    assert_eq!(house.control().counter("files/list_folder").calls, before, "no request was made");
}

#[tokio::test]
async fn contention_that_lasts_is_told_as_such_and_may_be_tried_again() {
    let house = furnished().await;
    for via in [Via::Create, Via::Delete, Via::Move] {
        let status = under(&house, via, Action::TooManyWriteOperations { retry_after: Some(9) }).await;
        is(&status, Code::Aborted, "WRITE_CONTENTION");
        assert_eq!(retry_delay(&status), Some(Duration::from_secs(9)), "{via:?}");
        let status = under(&house, via, Says::Tags("too_many_write_operations").action()).await;
        is(&status, Code::Aborted, "WRITE_CONTENTION");
        let delay = retry_delay(&status).expect("a delay");
        assert!((1.0..=2.0).contains(&delay.as_secs_f64()), "one second and something: {delay:?}");
    }
}

#[tokio::test]
async fn passing_trouble_is_not_noticed() {
    for action in [
        Action::ServerError { status: 503 },
        Action::Html { status: 502 },
        Action::CutBefore,
        Action::TooManyRequests { retry_after: Some(0) },
        Action::TooManyWriteOperations { retry_after: None },
    ] {
        let house = furnished().await;
        house.control().script([Rule::once("files/get_metadata", action.clone())]).expect("a rule");
        Via::GetItem.run(&house).await.unwrap_or_else(|status| panic!("{action:?}: {status:?}"));
        house.control().script([Rule::once("files/delete_v2", action.clone())]).expect("a rule");
        Via::Delete.run(&house).await.unwrap_or_else(|status| panic!("{action:?}: {status:?}"));
    }
}

#[tokio::test]
async fn outages_are_unavailable_for_reads_and_unknown_for_writes_that_cannot_be_looked_up() {
    let house = furnished().await;
    for action in
        [Action::ServerError { status: 500 }, Action::ServerError { status: 503 }, Action::Html { status: 502 }]
    {
        let status = under(&house, Via::GetItem, action).await;
        is(&status, Code::Unavailable, "DROPBOX_UNAVAILABLE");
        assert!(retry_delay(&status).is_some());
    }
    for action in [Action::CutBefore, Action::CutAfter] {
        let status = under(&house, Via::List, action).await;
        is(&status, Code::Unavailable, "DROPBOX_UNAVAILABLE");
    }
    // Made raw, nothing is known of what a write does.
    for action in [Action::ServerError { status: 500 }, Action::CutAfter] {
        let status = under(&house, Via::Raw("files/create_folder_v2"), action).await;
        is(&status, Code::Unknown, "OUTCOME_UNKNOWN");
        assert_eq!(retry_delay(&status), None);
    }
    let before = house.control().counter("files/create_folder_v2").calls;
    under(&house, Via::Raw("files/create_folder_v2"), Action::ServerError { status: 500 }).await;
    assert_eq!(house.control().counter("files/create_folder_v2").calls, before + 1, "it is not sent again");
}

#[tokio::test]
async fn an_internal_error_of_dropbox_is_unavailable_on_reads_and_unknown_on_writes() {
    let house = furnished().await;
    let status = under(&house, Via::Search, Tags("internal_error").action()).await;
    is(&status, Code::Unavailable, "DROPBOX_INTERNAL");
    assert!(retry_delay(&status).is_some());
    let status = under(&house, Via::Raw("files/copy_v2"), Tags("internal_error").action()).await;
    is(&status, Code::Unknown, "OUTCOME_UNKNOWN");
}

#[tokio::test]
async fn a_dropbox_that_is_not_there_is_unavailable_for_reads_and_for_writes_not_sent() {
    let house = crate::support::start_with(|config| {
        // The discard port of loopback: nobody listens.
        config.dropbox_content_url = "http://127.0.0.1:9".parse().expect("url");
    })
    .await;
    let mut request = Request::new(pb::DownloadFileRequest {
        application_parameter_id: PARAMETER.into(),
        source: Some(crate::support::source("/a.txt")),
        ..Default::default()
    });
    request.set_timeout(Duration::from_secs(2));
    let mut stream = match house.patient().await.download_file(request).await {
        Ok(stream) => stream.into_inner(),
        Err(status) => return is(&status, Code::Unavailable, "DROPBOX_UNAVAILABLE"),
    };
    let status = stream.message().await.expect_err("nobody answers");
    is(&status, Code::Unavailable, "DROPBOX_UNAVAILABLE");
}

#[tokio::test]
async fn answers_that_cannot_be_read_are_a_protocol_error() {
    let house = furnished().await;
    let answer = |content_type: &str, body: &str| Action::Answer {
        status: 200,
        content_type: content_type.into(),
        body: body.into(),
        headers: Vec::new(),
        executed: false,
        unread: false,
    };
    for action in [
        answer("application/json", "{\"half\":"),
        answer("text/html", "<html>welcome to the hotel</html>"),
        answer("application/json", "{}"),
        answer("application/json", ""),
    ] {
        let status = under(&house, Via::GetItem, action.clone()).await;
        is(&status, Code::Internal, "DROPBOX_PROTOCOL");
        assert!(!format!("{status:?}").contains("hotel"), "{action:?}");
    }
    let status = under(&house, Via::Download, answer("application/octet-stream", "no result header")).await;
    is(&status, Code::Internal, "DROPBOX_PROTOCOL");
}

#[tokio::test]
async fn an_error_body_of_a_hundred_kilobytes_stays_outside() {
    let house = furnished().await;
    let long = "x".repeat(100 * 1024);
    let body = |body: String, status: u16, content_type: &str| Action::Answer {
        status,
        content_type: content_type.into(),
        body,
        headers: Vec::new(),
        executed: false,
        unread: false,
    };
    let json = json!({ "error_summary": long, "error": { ".tag": "path", "path": { ".tag": long } } }).to_string();
    for (action, via) in [
        (body(json.clone(), 409, "application/json"), Via::GetItem),
        (body(json.clone(), 401, "application/json"), Via::List),
        (body(json, 403, "application/json"), Via::Raw("files/tags/add")),
        (body(format!("Error in call: path: {long}"), 400, "text/plain"), Via::GetItem),
        (body(format!("Error in call: path: {long}"), 400, "text/plain"), Via::Raw("files/tags/add")),
        (body(long.clone(), 500, "text/html"), Via::GetItem),
        (body(long.clone(), 418, "text/html"), Via::GetItem),
    ] {
        let status = under(&house, via, action).await;
        check_shape(&status).unwrap_or_else(|text| panic!("{via:?}: {text}"));
        assert!(status.details().len() <= 4096, "{via:?}: {}", status.details().len());
        let metadata: usize = status.metadata().iter().map(|pair| format!("{pair:?}").len()).sum();
        assert!(metadata <= 8192, "{via:?}: trailers of {metadata} bytes");
    }
}

#[tokio::test]
async fn a_rejected_token_is_renewed_once_and_then_the_account_must_be_connected_again() {
    let house = furnished().await;
    let malformed = Says::Text(400, "Error in call to API function: The given OAuth 2 access token is malformed.");
    for action in [Action::ExpiredToken, Action::InvalidToken, malformed.action()] {
        // Once: nobody notices.
        house.control().script([Rule::once("files/get_metadata", action.clone())]).expect("a rule");
        let before = house.control().counter("oauth2/token").calls;
        Via::GetItem.run(&house).await.unwrap_or_else(|status| panic!("{action:?}: {status:?}"));
        assert_eq!(house.control().counter("oauth2/token").calls, before + 1, "{action:?}: renewed once");
        // Always: it is told, and what else the grant is good for goes on.
        let status = under(&house, Via::GetItem, action.clone()).await;
        is(&status, Code::FailedPrecondition, "REAUTHORIZATION_REQUIRED");
        assert!(details(&status).contains("PreconditionFailure"), "{action:?}");
        Via::List.run(&house).await.unwrap_or_else(|status| panic!("{action:?}: {status:?}"));
    }
}

#[tokio::test]
async fn a_lost_answer_stays_unknown_when_the_token_cannot_be_renewed_for_the_repeat() {
    let house = furnished().await;
    let route = "sharing/create_shared_link_with_settings";
    let gone = Action::Answer {
        status: 400,
        content_type: "application/json".into(),
        body: json!({ "error": "invalid_grant", "error_description": "refresh token is invalid or revoked" })
            .to_string(),
        headers: Vec::new(),
        executed: false,
        unread: false,
    };
    let rules = [
        Rule::nth(route, 1, Action::CutAfter),
        Rule::nth(route, 2, Action::ExpiredToken),
        Rule::always("oauth2/token", gone),
    ];
    house.control().script(rules).expect("sound rules");
    let create = pb::CreateSharedLinkRequest {
        application_parameter_id: PARAMETER.into(),
        path: "/a.txt".into(),
        ..Default::default()
    };
    let status = house.client().create_shared_link(create).await.expect_err("nobody knows");
    is(&status, Code::Unknown, "OUTCOME_UNKNOWN");
    assert_eq!(retry_delay(&status), None, "the same must not be sent again unseen");
    assert_eq!(fact(&status, "dropboxRoute").as_deref(), Some(route));
    assert!(status.message().contains("authorized again"), "what happened: {}", status.message());
    assert_eq!(house.control().counter(route).calls, 2);
}

#[tokio::test]
async fn the_callers_deadline_ends_the_call_and_drops_the_request_to_dropbox() {
    let house = furnished().await;
    let routes = [(Via::GetItem, None), (Via::Create, Some("true"))];
    for (via, sent) in routes {
        house.control().script([Rule::always(via.route(), Action::Stall)]).expect("a rule");
        let begun = Instant::now();
        let status = via.run(&house).await.expect_err("it stalls");
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        is(&status, Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
        assert_eq!(fact(&status, "sent").as_deref(), sent, "{via:?}");
        assert_eq!(retry_delay(&status), None, "{via:?}");
        let counter = || house.control().counter(via.route()).running;
        until("the request to Dropbox is dropped", async || counter() == 0).await;
        house.control().clear_script();
    }
}

#[tokio::test]
async fn a_deadline_inside_a_download_ends_stream_and_request() {
    let house = furnished().await;
    house.control().script([Rule::always("files/download", Action::StallBody { after_bytes: 3 })]).expect("a rule");
    let status = Via::Download.run(&house).await.expect_err("it stalls");
    is(&status, Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    until("the request to Dropbox is dropped", async || house.control().counter("files/download").running == 0).await;
}

#[tokio::test]
async fn a_caller_who_leaves_takes_the_request_to_dropbox_along() {
    let house = furnished().await;
    house.control().script([Rule::always("files/get_metadata", Action::Stall)]).expect("a rule");
    let running = || house.control().counter("files/get_metadata").running;
    let mut client = house.other_client().await;
    let request =
        pb::GetItemRequest { application_parameter_id: PARAMETER.into(), path: "/a.txt".into(), ..Default::default() };
    let call = tokio::spawn(async move { client.get_item(request).await.map(drop) });
    until("the request has arrived", async || running() == 1).await;
    call.abort();
    until("the request is dropped", async || running() == 0).await;
}

#[tokio::test]
async fn the_parameters_own_timeout_ends_what_dropbox_does_not_answer() {
    let house = furnished().await;
    let short = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    for id in ["hasty", "hasty-raw"] {
        house
            .make_parameter(id, |parameter| {
                parameter.timeouts = Some(pb::Timeouts { request: short, idle_read: short, ..Default::default() });
                if id == "hasty-raw" {
                    let permissions = [pb::Permission::Raw, pb::Permission::Write].map(Into::into).to_vec();
                    parameter.policy = Some(pb::ParameterPolicy { permissions, ..Default::default() });
                }
            })
            .await;
    }
    house.control().script([Rule::always("files/get_metadata", Action::Stall)]).expect("a rule");
    house.control().script([Rule::always("files/create_folder_v2", Action::Stall)]).expect("a rule");
    let get =
        pb::GetItemRequest { application_parameter_id: "hasty".into(), path: "/a.txt".into(), ..Default::default() };
    let status = house.client().get_item(get).await.expect_err("it stalls");
    is(&status, Code::DeadlineExceeded, "UPSTREAM_TIMEOUT");
    assert!(fact(&status, "phase").is_some() && retry_delay(&status).is_some(), "{status:?}");
    let raw = pb::CallApiRequest {
        application_parameter_id: "hasty-raw".into(),
        route: "files/create_folder_v2".into(),
        allow_mutation: true,
        ..Default::default()
    };
    let status = house.client().call_api(raw).await.expect_err("it stalls");
    is(&status, Code::Unknown, "OUTCOME_UNKNOWN");
    assert!(fact(&status, "phase").is_some() && retry_delay(&status).is_none(), "{status:?}");
}

#[tokio::test]
async fn the_same_tag_means_another_thing_on_another_route() {
    let house = furnished().await;
    check(
        &house,
        &[
            row(Via::Raw("file_requests/get"), Tags("not_found"), Code::NotFound, "FILE_REQUEST_NOT_FOUND"),
            row(Via::Raw("files/list_revisions"), Tags("path/not_found"), Code::NotFound, "PATH_NOT_FOUND")
                .details(&["ResourceInfo"]),
            row(
                Via::Raw("sharing/get_folder_metadata"),
                Tags("no_permission"),
                Code::PermissionDenied,
                "SHARED_FOLDER_ACCESS",
            )
            .details(&["ResourceInfo"]),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_document_that_only_exports_names_its_formats() {
    let house = furnished().await;
    let status = match crate::support::download(&house, "/doc.paper").await {
        Err(status) => status,
        Ok(_) => panic!("it has no bytes of its own"),
    };
    is(&status, Code::FailedPrecondition, "NOT_DOWNLOADABLE");
    assert_eq!(fact(&status, "exportFormats").as_deref(), Some("markdown"), "{status:?}");
}
