//! What every listener has beside its service: health, reflection, deadlines, request ids.

use dropbox_connector::api::v1 as pb;
use tonic::{Code, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::support::{PARAMETER, start, start_with};

async fn services(address: std::net::SocketAddr) -> Result<Vec<String>, tonic::Status> {
    let channel = Channel::from_shared(format!("http://{address}")).expect("uri").connect().await.expect("connect");
    let request = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let mut client = ServerReflectionClient::new(channel);
    let mut stream = client.server_reflection_info(tokio_stream::iter([request])).await?.into_inner();
    let answer = stream.message().await?.expect("an answer").message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else { panic!("a list") };
    let mut names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    names.sort();
    Ok(names)
}

#[tokio::test]
async fn each_listener_lists_its_own_services_and_health_answers_on_all() {
    let house = start().await;
    let reflection = ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"];
    let data = services(house.addresses.data).await.expect("reflection");
    let admin = services(house.addresses.admin).await.expect("reflection");
    for name in reflection {
        assert!(data.contains(&name.to_owned()) && admin.contains(&name.to_owned()), "{data:?} {admin:?}");
    }
    let is_ours = |name: &&String| name.starts_with("dropboxconnector.");
    assert_eq!(data.iter().filter(is_ours).collect::<Vec<_>>(), ["dropboxconnector.v1.DropboxConnector"]);
    assert_eq!(admin.iter().filter(is_ours).collect::<Vec<_>>(), ["dropboxconnector.v1.DropboxAdminConnector"]);
    for address in [house.addresses.data, house.addresses.admin, house.addresses.probe] {
        let channel = Channel::from_shared(format!("http://{address}")).expect("uri").connect().await.expect("connect");
        let mut health = HealthClient::new(channel);
        for service in ["", "readiness", "liveness", "dropboxconnector.v1.DropboxAdminConnector"] {
            let answer = health.check(HealthCheckRequest { service: service.into() }).await.expect("known");
            assert_eq!(answer.get_ref().status(), ServingStatus::Serving, "{service}");
        }
        let unknown = health.check(HealthCheckRequest { service: "nope".into() }).await.expect_err("unknown");
        assert_eq!(unknown.code(), Code::NotFound);
    }
    let probe = services(house.addresses.probe).await.expect_err("health alone");
    assert_eq!(probe.code(), Code::Unimplemented);
}

#[tokio::test]
async fn reflection_can_be_switched_off() {
    let house = start_with(|config| config.reflection = false).await;
    assert_eq!(services(house.addresses.data).await.expect_err("off").code(), Code::Unimplemented);
}

#[tokio::test]
async fn a_request_id_comes_back() {
    let house = start().await;
    let message =
        pb::GetItemRequest { application_parameter_id: PARAMETER.into(), path: "/".into(), ..Default::default() };
    let mut request = tonic::Request::new(message.clone());
    request.metadata_mut().insert("x-request-id", "mine".parse().expect("ascii"));
    let answer = house.client().get_item(request).await.expect("root");
    assert_eq!(answer.metadata().get("x-request-id").expect("an id"), "mine");
}
