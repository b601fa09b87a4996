//! What runs on a parameter ends when it may not be used any more, with the reason, and an upload can be taken up again.

use dropbox_connector::emulator::{
    control::{Seed, SeedFile},
    script::{Action, Rule},
};

use pb::dropbox_connector_client::DropboxConnectorClient;
use tonic::{Streaming, transport::Channel};

use super::*;
use crate::support::{BLOCK, MIB, fact, finish, noise, source, spec, streams::OpenUpload, until, upload};

#[derive(Clone, Copy, Debug)]
enum End {
    Disable,
    Revoke,
    Delete,
}

impl End {
    async fn come(self, house: &House) {
        let (id, mut admin) = (PARAMETER.to_owned(), house.admin().await);
        match self {
            End::Disable => set_state(house, pb::ParameterState::Disabled).await,
            End::Revoke => {
                let revoke = pb::RevokeAuthorizationRequest { application_parameter_id: id };
                admin.revoke_authorization(revoke).await.map(drop).expect("revoked");
            }
            End::Delete => {
                let delete =
                    pb::DeleteApplicationParameterRequest { application_parameter_id: id, ..Default::default() };
                admin.delete_application_parameter(delete).await.map(drop).expect("deleted");
            }
        }
    }

    fn reason(self) -> &'static str {
        match self {
            End::Disable => "PARAMETER_DISABLED",
            End::Revoke => "REAUTHORIZATION_REQUIRED",
            End::Delete => "APPLICATION_PARAMETER_NOT_FOUND",
        }
    }
}

async fn set_state(house: &House, state: pb::ParameterState) {
    let update = pb::UpdateApplicationParameterRequest {
        application_parameter: Some(pb::ApplicationParameter {
            application_parameter_id: PARAMETER.into(),
            state: state.into(),
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["state".into()] }),
        ..Default::default()
    };
    house.admin().await.update_application_parameter(update).await.expect("updated");
}

/// A download that Dropbox stops in the middle: its stream is open for as long as it takes.
async fn stalled_download(
    house: &House,
    mut client: DropboxConnectorClient<Channel>,
) -> Streaming<pb::DownloadFileResponse> {
    upload(house, spec("/large"), &noise(2 * MIB, 1)).await.expect("uploaded");
    let stall = Rule::always("files/download", Action::StallBody { after_bytes: 1_000_000 });
    house.control().script([stall]).expect("a rule");
    let request = pb::DownloadFileRequest {
        application_parameter_id: PARAMETER.into(),
        source: Some(source("/large")),
        ..Default::default()
    };
    let mut stream = client.download_file(request).await.expect("opened").into_inner();
    stream.message().await.expect("well").expect("a header");
    stream
}

/// What a stream fails with that must not end well.
async fn end_of<M>(mut stream: Streaming<M>) -> Status {
    loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended well"),
            Err(status) => return status,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_ends_when_its_parameter_may_not_be_used_any_more() {
    for end in [End::Disable, End::Revoke, End::Delete] {
        let house = pending().await;
        connect(&house).await;
        let stream = stalled_download(&house, house.client()).await;
        end.come(&house).await;
        let status = end_of(stream).await;
        assert_eq!(reason(&status), end.reason(), "{end:?}: {status:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_ends_when_its_parameter_is_disabled_and_is_taken_up_again_when_it_is_enabled() {
    let house = pending().await;
    connect(&house).await;
    let bytes = noise(3 * BLOCK + 5, 2);
    let mut open = OpenUpload::begin(&house, spec("/taken-up")).await;
    assert!(open.send_range(&bytes, 0, 2 * BLOCK + MIB).await);
    has_begun(&house).await;
    set_state(&house, pb::ParameterState::Disabled).await;
    until("the server has answered", async || open.is_answered()).await;
    let status = open.answer().await.expect_err("disabled");
    assert_eq!(reason(&status), "PARAMETER_DISABLED", "{status:?}");
    let upload_id = fact(&status, "uploadId").expect("it can be taken up again");
    let persisted: usize = fact(&status, "persistedOffset").expect("where").parse().expect("a number");
    assert_eq!(persisted % BLOCK, 0);
    set_state(&house, pb::ParameterState::Active).await;
    let mut open = OpenUpload::resume(&house, &upload_id).await;
    assert!(open.send_range(&bytes, persisted, bytes.len()).await);
    assert!(open.send(finish()).await);
    open.answer().await.expect("committed");
    assert!(house.control().read(None, "/taken-up").expect("the file") == bytes);
}

/// The upload is at Dropbox: before that there is nothing to take up again.
async fn has_begun(house: &House) {
    until("it has begun", async || house.control().counter("files/upload_session/append_v2").good > 0).await;
}

/// Connects the account of somebody else, and gives its id.
async fn connect_another(house: &House) -> String {
    let other = house.control().add_account("other@example.com", "Olga", "Other", None);
    house.control().sign_in(Some(&other)).expect("an account");
    let begun =
        begin(house, pb::BeginAuthorizationRequest { allow_account_change: true, ..wish(PARAMETER, BACK) }).await;
    let back = consent(&begun.authorize_url).await;
    let done = complete(house, &begun.state, Answer::RedirectUrl(back)).await.expect("connected");
    assert_eq!(done.account.expect("an account").account_id, other);
    other
}

/// Routes called with the tokens of an account.
fn called(house: &House, account: &str) -> Vec<String> {
    let journal = house.control().journal().into_iter();
    journal.filter(|entry| entry.account_id.as_deref() == Some(account)).map(|entry| entry.route).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_begun_for_one_account_ends_when_another_is_connected_and_no_byte_goes_there() {
    let house = pending().await;
    connect(&house).await;
    let bytes = noise(4 * BLOCK, 4);
    let mut open = OpenUpload::begin(&house, spec("/for-the-first")).await;
    assert!(open.send_range(&bytes, 0, 2 * BLOCK + MIB).await);
    let other = connect_another(&house).await;
    // Whatever it sends next needs a new bearer: there is none for it.
    house.control().expire_access_tokens();
    until("the server has answered", async || open.is_answered()).await;
    let status = open.answer().await.expect_err("another account");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "ACCOUNT_MISMATCH"), "{status:?}");
    assert!(status.message().contains("connected to another Dropbox account"), "{status:?}");
    // Nor is it taken up again for the other.
    if let Some(upload_id) = fact(&status, "uploadId") {
        let resumed = OpenUpload::resume(&house, &upload_id).await.answer().await.expect_err("not its upload");
        assert_eq!(reason(&resumed), "HANDLE_NOT_YOURS");
    }
    list(&house).await.expect("the other works");
    let called = called(&house, &other);
    assert!(called.iter().all(|route| !route.contains("upload") && !route.contains("delete")), "{called:?}");
    assert!(called.iter().any(|route| route == "files/list_folder"), "{called:?}");
    assert!(house.control().read(Some(&other), "/for-the-first").is_none());
    assert!(house.control().read(None, "/for-the-first").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_begun_for_one_account_ends_when_another_is_connected_on_another_replica() {
    let house = pending().await;
    let (replica, channel) = house.replica().await;
    connect(&house).await;
    let stream = stalled_download(&house, DropboxConnectorClient::new(channel)).await;
    let other = connect_another(&house).await;
    let status = end_of(stream).await;
    assert_eq!(reason(&status), "ACCOUNT_MISMATCH", "{status:?}");
    assert!(!called(&house, &other).iter().any(|route| route.contains("download")));
    replica.stop().await.expect("stopped");
}

/// Brings a token of the house's account that may not say whose it is.
async fn import_nameless(house: &House) {
    let scopes = ["files.metadata.read", "files.metadata.write", "files.content.read", "files.content.write"];
    let login = house.control().issue(None, Some(&scopes.map(str::to_owned))).expect("tokens");
    let import = pb::ImportCredentialsRequest {
        application_parameter_id: PARAMETER.into(),
        credential: Some(pb::import_credentials_request::Credential::RefreshToken(login.refresh_token)),
    };
    house.admin().await.import_credentials(import).await.expect("imported");
    assert_eq!(parameter(house).await.account.map(|account| account.account_id).unwrap_or_default(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_account_that_nobody_knows_nothing_goes_on_once_it_is_connected_again() {
    let home = pb::PathRoot { kind: pb::PathRootKind::Home.into(), ..Default::default() };
    let house = pending_with(|parameter| parameter.default_path_root = Some(home)).await;
    import_nameless(&house).await;
    let files = (0..30).map(|n| SeedFile::text(&format!("/many/{n}.txt"), "x")).collect();
    house.control().seed(&Seed { files, ..Default::default() }).expect("seeded");
    let page = |page_token: String| pb::ListFolderRequest {
        application_parameter_id: PARAMETER.into(),
        path: "/many".into(),
        page_size: 10,
        page_token,
        ..Default::default()
    };
    let first =
        async || house.client().list_folder(page(String::new())).await.expect("a page").into_inner().next_page_token;
    let token = first().await;
    house.client().list_folder(page(token.clone())).await.expect("the page behind it");
    let bytes = noise(2 * BLOCK + MIB, 6);
    let mut open = OpenUpload::begin(&house, spec("/begun")).await;
    assert!(open.send_range(&bytes, 0, bytes.len()).await);
    has_begun(&house).await;
    let download = stalled_download(&house, house.client()).await;
    // Another token whose account nobody knows either, and at last one that says it.
    import_nameless(&house).await;
    let told = "whether to the same Dropbox account cannot be told";
    let status = end_of(download).await;
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "ACCOUNT_MISMATCH"), "{status:?}");
    assert!(status.message().contains(told) && status.message().contains("account_info.read"), "{status:?}");
    let status = open.answer().await.expect_err("ended");
    assert_eq!(reason(&status), "ACCOUNT_MISMATCH", "{status:?}");
    let upload_id = fact(&status, "uploadId").expect("it was begun");
    let resumed = OpenUpload::resume(&house, &upload_id).await.answer().await.expect_err("not its upload");
    assert_eq!(reason(&resumed), "HANDLE_NOT_YOURS", "{resumed:?}");
    let refused = house.client().list_folder(page(token)).await.expect_err("a page of the one before");
    assert_eq!(reason(&refused), "HANDLE_NOT_YOURS", "{refused:?}");
    let token = first().await;
    connect(&house).await;
    let refused = house.client().list_folder(page(token)).await.expect_err("it cannot be told");
    assert_eq!(reason(&refused), "HANDLE_NOT_YOURS", "{refused:?}");
    // From here on the account is known, and what begins now lasts.
    let token = first().await;
    connect(&house).await;
    house.client().list_folder(page(token)).await.expect("the same account");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_ends_when_its_parameter_is_disabled() {
    let house = pending().await;
    connect(&house).await;
    let files = (0..2100).map(|n| SeedFile::text(&format!("/many/{n:04}.txt"), "x")).collect();
    house.control().seed(&Seed { files, ..Default::default() }).expect("seeded");
    // The pages behind the first never come.
    house.control().script([Rule::always("files/list_folder/continue", Action::Stall)]).expect("a rule");
    let request = pb::WalkFolderRequest {
        application_parameter_id: PARAMETER.into(),
        path: "/many".into(),
        ..Default::default()
    };
    let mut stream = house.client().walk_folder(request).await.expect("opened").into_inner();
    stream.message().await.expect("well").expect("a first batch");
    set_state(&house, pb::ParameterState::Disabled).await;
    let status = end_of(stream).await;
    assert_eq!(reason(&status), "PARAMETER_DISABLED", "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_ends_when_its_parameter_may_not_be_used_any_more() {
    for end in [End::Disable, End::Revoke, End::Delete] {
        let house = pending().await;
        connect(&house).await;
        let request = pb::WatchEventsRequest {
            application_parameter_id: PARAMETER.into(),
            start: Some(pb::watch_events_request::Start::StartPosition(pb::StartPosition::Snapshot.into())),
            ..Default::default()
        };
        let mut stream = house.client().watch_events(request).await.expect("opened").into_inner();
        stream.message().await.expect("well").expect("where it begins");
        end.come(&house).await;
        let status = end_of(stream).await;
        assert_eq!(reason(&status), end.reason(), "{end:?}: {status:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_nothing_about_the_right_to_go_on_ends_nothing() {
    let house = pending().await;
    connect(&house).await;
    let bytes = noise(2 * BLOCK, 3);
    let mut open = OpenUpload::begin(&house, spec("/goes-on")).await;
    assert!(open.send_range(&bytes, 0, MIB).await);
    let update = pb::UpdateApplicationParameterRequest {
        application_parameter: Some(pb::ApplicationParameter {
            application_parameter_id: PARAMETER.into(),
            display_name: "Another name".into(),
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["display_name".into()] }),
        ..Default::default()
    };
    house.admin().await.update_application_parameter(update).await.expect("updated");
    // Connected again, by the same account: the old stream is as good as before.
    connect(&house).await;
    // The change feed has passed when a change behind it is seen to hold.
    create(&house, "later", |_| {}).await;
    assert!(open.send_range(&bytes, MIB, bytes.len()).await);
    assert!(open.send(finish()).await);
    open.answer().await.expect("committed");
}
