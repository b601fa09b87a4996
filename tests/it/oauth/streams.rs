//! What runs on a parameter ends when it may not be used any more, with the reason, and an upload can be taken up again.

use dropbox_connector::emulator::script::{Action, Rule};

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
                let delete = pb::DeleteApplicationParameterRequest { application_parameter_id: id };
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

#[tokio::test(flavor = "multi_thread")]
async fn a_download_ends_when_its_parameter_may_not_be_used_any_more() {
    for end in [End::Disable, End::Revoke, End::Delete] {
        let house = pending().await;
        connect(&house).await;
        upload(&house, spec("/large"), &noise(2 * MIB, 1)).await.expect("uploaded");
        // Dropbox stops in the middle, so the stream is open for as long as it takes.
        house
            .control()
            .script([Rule::always("files/download", Action::StallBody { after_bytes: 1_000_000 })])
            .expect("a rule");
        let request = pb::DownloadFileRequest {
            application_parameter_id: PARAMETER.into(),
            source: Some(source("/large")),
            ..Default::default()
        };
        let mut stream = house.client().download_file(request).await.expect("opened").into_inner();
        stream.message().await.expect("well").expect("a header");
        end.come(&house).await;
        let status = loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("{end:?}: the download ended well"),
                Err(status) => break status,
            }
        };
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
