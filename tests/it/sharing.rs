//! Links through the whole house.

use dropbox_connector::api::v1 as pb;
use tonic::Code;

use crate::support::{PARAMETER, reason, spec, start, upload};

fn id() -> String {
    PARAMETER.to_owned()
}

#[tokio::test]
async fn a_file_s_link_is_made_once_and_handed_out_again() {
    let house = start().await;
    upload(&house, spec("/a.txt"), b"a").await.expect("upload");
    let request =
        pb::GetFileLinkRequest { application_parameter_id: id(), path: "/a.txt".into(), ..Default::default() };
    let first = house.client().get_file_link(request.clone()).await.expect("link").into_inner().link.expect("a link");
    let second = house.client().get_file_link(request.clone()).await.expect("link").into_inner().link.expect("a link");
    assert!(first.is_new && !second.is_new && first.url == second.url);
    let temporary = pb::GetFileLinkRequest { kind: pb::LinkKind::Temporary.into(), ..request };
    let temporary = house.client().get_file_link(temporary).await.expect("link").into_inner().link.expect("a link");
    assert!(temporary.expire_time.is_some() && temporary.url != first.url);
}

#[tokio::test]
async fn a_shared_link_is_created_listed_and_revoked() {
    let house = start().await;
    upload(&house, spec("/b.txt"), b"b").await.expect("upload");
    let create =
        pb::CreateSharedLinkRequest { application_parameter_id: id(), path: "/b.txt".into(), ..Default::default() };
    let made = house.client().create_shared_link(create.clone()).await.expect("made").into_inner();
    assert!(made.created);
    let url = made.shared_link.expect("a link").url;
    let taken = house.client().create_shared_link(create.clone()).await.expect_err("taken");
    assert_eq!((taken.code(), reason(&taken).as_str()), (Code::AlreadyExists, "SHARED_LINK_EXISTS"));
    let existing = pb::CreateSharedLinkRequest { return_existing: true, ..create };
    let existing = house.client().create_shared_link(existing).await.expect("there").into_inner();
    assert!(!existing.created && existing.shared_link.expect("a link").url == url);

    let list = pb::ListSharedLinksRequest { application_parameter_id: id(), ..Default::default() };
    let listed = house.client().list_shared_links(list.clone()).await.expect("listed").into_inner();
    assert_eq!(listed.shared_links.iter().map(|link| link.url.as_str()).collect::<Vec<_>>(), [url.as_str()]);
    let revoke = pb::RevokeSharedLinkRequest { application_parameter_id: id(), url, ..Default::default() };
    house.client().revoke_shared_link(revoke.clone()).await.expect("revoked");
    let gone = house.client().revoke_shared_link(revoke.clone()).await.expect_err("gone");
    assert_eq!(reason(&gone), "SHARED_LINK_NOT_FOUND");
    let allowed = pb::RevokeSharedLinkRequest { allow_missing: true, ..revoke };
    house.client().revoke_shared_link(allowed).await.expect("fine");
    assert!(house.client().list_shared_links(list).await.expect("listed").into_inner().shared_links.is_empty());
}

#[tokio::test]
async fn an_upload_brings_its_link_and_no_link_fails_an_upload() {
    let house = start().await;
    let wanted = pb::UploadSpec { link_kind: pb::LinkKind::Preview.into(), ..spec("/c.txt") };
    let answer = upload(&house, wanted, b"c").await.expect("upload");
    assert_eq!(answer.state(), pb::UploadState::Committed);
    assert!(answer.link.is_some() && answer.link_failure.is_none());
}
