//! Our own door: who is let in, what they may, and what they learn of what they may not. Here with static tokens; with
//! certificates, signed tokens, and what the audit log says of it all, in the modules below.

mod audit;
mod certificates;
mod recipes;
mod signed;
mod tenants;

use dropbox_connector::{
    api::v1::{
        self as pb, dropbox_admin_connector_client::DropboxAdminConnectorClient,
        dropbox_connector_client::DropboxConnectorClient, import_credentials_request::Credential,
    },
    config::{AuthMode, StaticToken},
};
use sha2::{Digest as _, Sha256};
use tonic::{Code, Request, Status, transport::Channel};

use crate::support::{House, fact, reason, start_bare};

/// `boss` is an administrator, `billing` may use `docs`, `reader` may only read there, `stranger` nothing.
async fn guarded() -> House {
    let house = start_bare(Default::default(), |config| {
        config.auth_mode = AuthMode::Token;
        config.admin_principals = vec!["boss".into()];
        config.auth_tokens = ["boss", "billing", "stranger"]
            .map(|principal| StaticToken {
                principal: principal.into(),
                sha256: hex::encode(Sha256::digest(format!("token-of-{principal}"))),
            })
            .to_vec();
    })
    .await;
    let admin = Channel::from_shared(format!("http://{}", house.addresses.admin)).unwrap().connect_lazy();
    furnish(&house, &Who::new(&admin, Some("token-of-boss")), "billing").await;
    house
}

/// One who calls.
#[derive(Clone)]
struct Who {
    channel: Channel,
    authorization: Option<String>,
}

impl Who {
    fn new(channel: &Channel, token: Option<&str>) -> Who {
        Who { channel: channel.clone(), authorization: token.map(|token| format!("Bearer {token}")) }
    }

    fn client(&self) -> DropboxConnectorClient<Channel> {
        DropboxConnectorClient::new(self.channel.clone())
    }

    fn sends<T>(&self, message: T) -> Request<T> {
        match &self.authorization {
            Some(authorization) => bearing(authorization, message),
            None => Request::new(message),
        }
    }

    async fn gets(&self, id: &str) -> Result<(), Status> {
        self.client().get_item(self.sends(get(id))).await.map(drop)
    }

    async fn deletes(&self, id: &str) -> Result<(), Status> {
        self.client().delete_item(self.sends(delete(id))).await.map(drop)
    }
}

/// The parameters of [`guarded`], made by an administrator on a channel to the admin port.
async fn furnish(house: &House, boss: &Who, billing: &str) {
    let mut admin = DropboxAdminConnectorClient::new(boss.channel.clone());
    let login = house.emulator.account();
    use pb::Permission::{Read, Write};
    for (id, permissions) in [("docs", vec![Read, Write]), ("readable", vec![Read])] {
        let parameter = pb::ApplicationParameter {
            app_key: login.app_key.clone(),
            app_secret: login.app_secret.clone(),
            policy: Some(pb::ParameterPolicy {
                allowed_principals: vec![billing.into()],
                permissions: permissions.into_iter().map(Into::into).collect(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let create = pb::CreateApplicationParameterRequest {
            application_parameter_id: id.into(),
            application_parameter: Some(parameter),
        };
        admin.create_application_parameter(boss.sends(create)).await.expect("created");
        let credential = Some(Credential::RefreshToken(login.refresh_token.clone()));
        let import = pb::ImportCredentialsRequest { application_parameter_id: id.into(), credential };
        admin.import_credentials(boss.sends(import)).await.expect("imported");
    }
}

fn by<T>(principal: &str, message: T) -> Request<T> {
    bearing(&format!("Bearer token-of-{principal}"), message)
}

fn bearing<T>(authorization: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", authorization.parse().expect("ascii"));
    request
}

fn get(id: &str) -> pb::GetItemRequest {
    pb::GetItemRequest { application_parameter_id: id.into(), path: "/".into(), ..Default::default() }
}

fn delete(id: &str) -> pb::DeleteItemRequest {
    pb::DeleteItemRequest { application_parameter_id: id.into(), path: "/x".into(), ..Default::default() }
}

/// A status without what names the call and the parameter.
fn bare(status: &Status, id: &str) -> (Code, String, String, Option<String>) {
    (status.code(), status.message().replace(id, "ID"), reason(status), fact(status, "permission"))
}

#[tokio::test]
async fn without_a_token_or_with_a_wrong_one_nobody_is_let_in() {
    let house = guarded().await;
    for id in ["docs", "does-not-exist"] {
        let none = house.client().get_item(get(id)).await.expect_err("no token");
        assert_eq!((none.code(), reason(&none).as_str()), (Code::Unauthenticated, "CALLER_UNAUTHENTICATED"));
        for wrong in ["Bearer nearly", "Bearer token-of-boss2", "Basic token-of-boss", "token-of-boss", "Bearer ", ""] {
            let status = house.client().get_item(bearing(wrong, get(id))).await.expect_err(wrong);
            assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "CALLER_UNAUTHENTICATED"));
            assert!(!format!("{status:?}").contains("token-of"), "{status:?}");
        }
    }
    assert!(house.client().get_server_info(pb::GetServerInfoRequest {}).await.is_err());
    let list = pb::ListApplicationParametersRequest::default();
    let admin = house.admin().await.list_application_parameters(list).await.expect_err("no token");
    assert_eq!(admin.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn the_wrong_principal_and_the_missing_right_are_denied_and_learn_nothing_of_what_exists() {
    let house = guarded().await;
    let [stranger, billing, boss] =
        ["stranger", "billing", "boss"].map(|name| Who::new(&house.channel, Some(&format!("token-of-{name}"))));
    permission_comes_before_existence(&house, &stranger, &billing, &boss).await;
}

/// The second half of check 52, whatever the callers show.
async fn permission_comes_before_existence(house: &House, stranger: &Who, billing: &Who, boss: &Who) {
    billing.gets("docs").await.expect("the right principal");
    let mut told = Vec::new();
    for id in ["docs", "does-not-exist"] {
        let status = stranger.gets(id).await.expect_err("a stranger");
        told.push(bare(&status, id));
    }
    assert_eq!((told[0].0, told[0].2.as_str()), (Code::PermissionDenied, "CALLER_NOT_ALLOWED"));
    assert_eq!(told[0], told[1], "an id that does not exist is answered like one that may not be used");

    let mut told = Vec::new();
    for id in ["docs", "does-not-exist"] {
        let status = billing.deletes(id).await.expect_err("no DELETE");
        told.push(bare(&status, id));
    }
    assert_eq!((told[0].0, told[0].2.as_str()), (Code::PermissionDenied, "CALLER_NOT_ALLOWED"));
    assert_eq!(told[0].3.as_deref(), Some("DELETE"));
    assert_eq!(told[0], told[1]);
    // Administrators are told.
    let status = boss.gets("does-not-exist").await.expect_err("none");
    assert_eq!(reason(&status), "APPLICATION_PARAMETER_NOT_FOUND");
    assert_eq!(house.control().counter("files/delete_v2").calls, 0);
}

#[tokio::test]
async fn each_rpc_takes_the_right_of_its_class() {
    let house = guarded().await;
    let id = || "readable".to_owned();
    let create = pb::CreateFolderRequest { application_parameter_id: id(), path: "/x".into(), ..Default::default() };
    let link = pb::GetFileLinkRequest { application_parameter_id: id(), path: "/x".into(), ..Default::default() };
    let raw = pb::CallApiRequest {
        application_parameter_id: id(),
        route: "users/get_current_account".into(),
        ..Default::default()
    };
    let mut client = house.client();
    client
        .list_folder(by("billing", pb::ListFolderRequest { application_parameter_id: id(), ..Default::default() }))
        .await
        .expect("READ");
    let refusals = [
        ("WRITE", client.create_folder(by("billing", create)).await.map(drop).expect_err("WRITE")),
        ("SHARE", client.get_file_link(by("billing", link)).await.map(drop).expect_err("SHARE")),
        ("DELETE", client.delete_item(by("billing", delete("readable"))).await.map(drop).expect_err("DELETE")),
        ("RAW", client.call_api(by("billing", raw)).await.map(drop).expect_err("RAW")),
    ];
    for (permission, status) in refusals {
        assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
        assert_eq!(fact(&status, "permission").as_deref(), Some(permission), "{status:?}");
    }
    // An upload that asks for a link shares, too.
    let spec = pb::UploadSpec { link_kind: pb::LinkKind::Preview.into(), ..crate::support::spec("/a.txt") };
    let mut frames = crate::support::requests(crate::support::frames(spec, b"x"));
    frames[0].application_parameter_id = "docs".into();
    let status = client.upload_file(by("billing", tokio_stream::iter(frames))).await.expect_err("SHARE");
    assert_eq!(fact(&status, "permission").as_deref(), Some("SHARE"));
    assert_eq!(house.control().read(None, "/a.txt"), None);
}

#[tokio::test]
async fn only_administrators_reach_the_admin_service() {
    let house = guarded().await;
    let mut admin = house.admin().await;
    for principal in ["billing", "stranger"] {
        let list = pb::ListApplicationParametersRequest::default();
        let status = admin.list_application_parameters(by(principal, list)).await.expect_err(principal);
        assert_eq!((status.code(), reason(&status).as_str()), (Code::PermissionDenied, "CALLER_NOT_ALLOWED"));
        let delete =
            pb::DeleteApplicationParameterRequest { application_parameter_id: "docs".into(), ..Default::default() };
        let status = admin.delete_application_parameter(by(principal, delete)).await.expect_err(principal);
        assert_eq!(status.code(), Code::PermissionDenied);
    }
    let list = pb::ListApplicationParametersRequest::default();
    let found = admin.list_application_parameters(by("boss", list)).await.expect("the boss").into_inner();
    assert_eq!(found.application_parameters.len(), 2);
}
