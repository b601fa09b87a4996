//! Requests that cannot be served: each is told what is wrong, and nobody else notices.

use super::*;

async fn status(house: &House, edit: impl FnOnce(&mut pb::WatchEventsRequest)) -> Status {
    match Watch::try_open(house, ask(edit)).await {
        Err(status) => status,
        Ok(mut watch) => watch.end().await.1,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_lead_nowhere_are_told_apart() {
    let house = support::start().await;
    house.make_parameter("other", |_| {}).await;
    make_folder(&house, "/in");
    make_folder(&house, "/out");
    let watch = Watch::ready(&house, |asked| asked.path = "/in".into()).await;
    let token = watch.token.clone();
    let page = {
        let request =
            pb::ListFolderRequest { application_parameter_id: PARAMETER.into(), page_size: 1, ..Default::default() };
        house.client().list_folder(request).await.expect("a page").into_inner().next_page_token
    };
    for broken in ["x", &token[1..], &format!("{token}A"), &page, &"A".repeat(4000)] {
        let status = status(&house, |asked| (asked.path, asked.start) = ("/in".into(), behind(broken))).await;
        refused(&status, Code::InvalidArgument, "HANDLE_MALFORMED");
    }
    type Edit = fn(&mut pb::WatchEventsRequest);
    let others: [Edit; 4] = [
        |asked| asked.path = "/out".into(),
        |asked| asked.path = String::new(),
        |asked| (asked.path, asked.recursive) = ("/in".into(), Some(false)),
        |asked| (asked.path, asked.application_parameter_id) = ("/in".into(), "other".into()),
    ];
    for edit in others {
        let status = status(&house, |asked| {
            asked.start = behind(&token);
            edit(asked);
        })
        .await;
        refused(&status, Code::InvalidArgument, "RESUME_TOKEN_MISMATCH");
    }
    let pull = |id: &str| pb::PullEventsRequest {
        application_parameter_id: id.into(),
        resume_token: token.clone(),
        ..Default::default()
    };
    let foreign = house.client().pull_events(pull("other")).await.expect_err("refused");
    refused(&foreign, Code::InvalidArgument, "RESUME_TOKEN_MISMATCH");
    house.client().pull_events(pull(PARAMETER)).await.expect("its own");
    let acknowledge = |id: &str, token: &str| pb::AcknowledgeEventsRequest {
        application_parameter_id: id.into(),
        checkpoint_name: "job".into(),
        resume_token: token.into(),
        ..Default::default()
    };
    for (id, token, reason) in
        [("other", &token, "RESUME_TOKEN_MISMATCH"), (PARAMETER, &format!("{token}A"), "HANDLE_MALFORMED")]
    {
        let status = house.client().acknowledge_events(acknowledge(id, token)).await.expect_err("refused");
        refused(&status, Code::InvalidArgument, reason);
    }
    house.client().acknowledge_events(acknowledge(PARAMETER, &token)).await.expect("its own");
    drop(watch);
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_that_are_not_there_and_callers_without_the_right_are_refused() {
    let house = support::start().await;
    put(&house, "/file", "x");
    refused(&status(&house, |asked| asked.path = "/nowhere".into()).await, Code::NotFound, "PATH_NOT_FOUND");
    refused(&status(&house, |asked| asked.path = "/file".into()).await, Code::FailedPrecondition, "NOT_A_FOLDER");
    refused(&status(&house, |asked| asked.path = "id:abc".into()).await, Code::InvalidArgument, "MALFORMED_PATH");
    let wrong =
        status(&house, |asked| asked.filter = Some(pb::ItemFilter { max_depth: -1, ..Default::default() })).await;
    refused(&wrong, Code::InvalidArgument, "INVALID_FIELD");
    // What would never be told is not waited for.
    let wrong = status(&house, |asked| asked.event_types = vec![pb::EventType::Upserted.into()]).await;
    refused(&wrong, Code::InvalidArgument, "INVALID_FIELD");
    assert!(wrong.message().starts_with("event_types[0]: EVENT_TYPE_UPSERTED is told with"), "{}", wrong.message());
    for (id, permission) in [("reader", pb::Permission::Read), ("listener", pb::Permission::Events)] {
        house
            .make_parameter(id, |parameter| {
                let permissions = vec![permission.into()];
                parameter.policy = Some(pb::ParameterPolicy { permissions, ..Default::default() });
            })
            .await;
    }
    let status = status(&house, |asked| asked.application_parameter_id = "reader".into()).await;
    refused(&status, Code::PermissionDenied, "CALLER_NOT_ALLOWED");
    assert_eq!(support::fact(&status, "permission").as_deref(), Some("EVENTS"));
    drop(Watch::ready(&house, |asked| asked.application_parameter_id = "listener".into()).await);
    let request = pb::GetApplicationParameterRequest { application_parameter_id: "listener".into() };
    let listener = house.admin().await.get_application_parameter(request).await.expect("there").into_inner();
    let policy = listener.application_parameter.and_then(|parameter| parameter.policy).expect("a policy");
    assert_eq!(policy.permissions, [i32::from(pb::Permission::Events)]);
}
