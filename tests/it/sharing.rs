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

#[tokio::test]
async fn two_requests_for_one_link_make_one_at_dropbox() {
    let house = start().await;
    upload(&house, spec("/a.txt"), b"a").await.expect("upload");
    let request =
        pb::GetFileLinkRequest { application_parameter_id: id(), path: "/a.txt".into(), ..Default::default() };
    let (mut one, mut other) = (house.client(), house.other_client().await);
    let (one, other) = tokio::join!(one.get_file_link(request.clone()), other.get_file_link(request.clone()));
    let (one, other) = (one.expect("a link").into_inner().link, other.expect("a link").into_inner().link);
    assert_eq!(one.expect("a link").url, other.expect("a link").url);
    house.client().get_file_link(request).await.expect("a link");
    assert_eq!(house.control().counter("sharing/create_shared_link_with_settings").good, 1);
    assert!(house.control().wrong_answers().is_empty());
}

#[tokio::test]
async fn a_link_with_a_password_is_not_handed_out_as_a_preview() {
    let house = start().await;
    upload(&house, spec("/a.txt"), b"a").await.expect("upload");
    let settings = pb::SharedLinkSettings {
        require_password: Some(true),
        password: "open sesame".into(),
        audience: pb::LinkAudience::Public.into(),
        ..Default::default()
    };
    let create = pb::CreateSharedLinkRequest {
        application_parameter_id: id(),
        path: "/a.txt".into(),
        settings: Some(settings),
        ..Default::default()
    };
    let made = house.client().create_shared_link(create).await.expect("made").into_inner();
    let link = made.shared_link.expect("a link");
    assert_eq!(link.visibility(), pb::LinkVisibility::Password);
    assert!(!format!("{link:?}").contains("sesame"), "a password never comes back");
    let request =
        pb::GetFileLinkRequest { application_parameter_id: id(), path: "/a.txt".into(), ..Default::default() };
    match house.client().get_file_link(request).await {
        Ok(answer) => assert_ne!(answer.into_inner().link.expect("a link").url, link.url),
        Err(status) => assert_eq!(reason(&status), "SHARED_LINK_EXISTS"),
    }
}

#[tokio::test]
async fn settings_come_into_force_and_those_that_contradict_are_refused_before_dropbox_is_asked() {
    let house = start().await;
    upload(&house, spec("/a.txt"), b"a").await.expect("upload");
    let create = |settings: pb::SharedLinkSettings| pb::CreateSharedLinkRequest {
        application_parameter_id: id(),
        path: "/a.txt".into(),
        settings: Some(settings),
        ..Default::default()
    };
    let refused = [
        pb::SharedLinkSettings { password: "x".into(), ..Default::default() },
        pb::SharedLinkSettings { require_password: Some(true), ..Default::default() },
        pb::SharedLinkSettings { audience: 99, ..Default::default() },
        pb::SharedLinkSettings {
            expire_time: Some(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 }),
            ..Default::default()
        },
    ];
    for settings in refused {
        let status = house.client().create_shared_link(create(settings.clone())).await.expect_err("contradicts");
        assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "INVALID_FIELD"), "{settings:?}");
    }
    assert_eq!(house.control().counter("sharing/create_shared_link_with_settings").calls, 0);
    let expires = prost_types::Timestamp { seconds: 4_102_444_800, nanos: 0 };
    let settings = pb::SharedLinkSettings {
        audience: pb::LinkAudience::Public.into(),
        allow_download: Some(true),
        expire_time: Some(expires),
        ..Default::default()
    };
    let link = house.client().create_shared_link(create(settings)).await.expect("made").into_inner().shared_link;
    let settings = link.expect("a link").settings.expect("the effective ones");
    assert_eq!((settings.expire_time, settings.audience()), (Some(expires), pb::LinkAudience::Public));
}

#[tokio::test]
async fn links_are_listed_in_pages_and_by_item() {
    let house = start().await;
    for n in 0..5 {
        let path = format!("/{n}.txt");
        upload(&house, spec(&path), b"x").await.expect("upload");
        let create = pb::CreateSharedLinkRequest { application_parameter_id: id(), path, ..Default::default() };
        house.client().create_shared_link(create).await.expect("made");
    }
    let mut list = pb::ListSharedLinksRequest { application_parameter_id: id(), page_size: 2, ..Default::default() };
    let mut names = Vec::new();
    loop {
        let page = house.client().list_shared_links(list.clone()).await.expect("a page").into_inner();
        assert!(page.shared_links.len() <= 2);
        names.extend(page.shared_links.into_iter().map(|link| link.name));
        if page.next_page_token.is_empty() {
            break;
        }
        list.page_token = page.next_page_token;
    }
    names.sort();
    assert_eq!(names, (0..5).map(|n| format!("{n}.txt")).collect::<Vec<_>>());
    let own = pb::ListSharedLinksRequest {
        application_parameter_id: id(),
        path: "/3.txt".into(),
        direct_only: true,
        ..Default::default()
    };
    let own = house.client().list_shared_links(own).await.expect("listed").into_inner().shared_links;
    assert_eq!(own.iter().map(|link| link.name.as_str()).collect::<Vec<_>>(), ["3.txt"]);
}

#[tokio::test]
async fn urls_that_are_not_dropboxs_are_refused_and_never_told() {
    let house = start().await;
    for url in [
        "",
        "http://www.dropbox.com/s/x",
        "https://evil.example/s/x",
        "https://user@www.dropbox.com/s/x",
        "https://www.dropbox.com:444/s/x",
        "nonsense-hush",
    ] {
        let revoke =
            pb::RevokeSharedLinkRequest { application_parameter_id: id(), url: url.into(), ..Default::default() };
        let status = house.client().revoke_shared_link(revoke).await.expect_err("not a link");
        assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "INVALID_URL"), "{url}");
        let told = format!("{status:?} {}", String::from_utf8_lossy(status.details()));
        assert!(url.is_empty() || !told.contains(url), "{told}");
    }
    assert_eq!(house.control().counter("sharing/revoke_shared_link").calls, 0);
}
