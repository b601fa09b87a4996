//! A parameter with a `path_prefix`: every RPC, every form of naming things, and nothing outside is seen, told or touched.

use dropbox_connector::api::v1::{self as pb, download_file_request::Source, item::Kind, request_context};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::{self, House, PARAMETER, reason, requests, spec, start, upload};

const JAILED: &str = "jailed";
const OUTSIDE: [&str; 3] = ["/outside.txt", "/Apps/AcmeX/near.txt", "/Apps/top.txt"];

struct Outside {
    id: String,
    rev: String,
    folder_id: String,
    url: String,
}

/// A jail at `/Apps/Acme` with `in.txt` and `box` in it, and things outside.
async fn jail() -> (House, Outside) {
    let house = start().await;
    for path in OUTSIDE.into_iter().chain(["/Apps/Acme/in.txt", "/Apps/Acme/box/deep.txt"]) {
        upload(&house, spec(path), path.as_bytes()).await.expect("upload");
    }
    let get = async |path: &str| {
        let request =
            pb::GetItemRequest { application_parameter_id: PARAMETER.into(), path: path.into(), ..Default::default() };
        house.client().get_item(request).await.expect("found").into_inner().item.expect("an item")
    };
    let Some(Kind::File(file)) = get("/outside.txt").await.kind else { panic!("a file") };
    let Some(Kind::Folder(folder)) = get("/Apps/AcmeX").await.kind else { panic!("a folder") };
    let link = pb::CreateSharedLinkRequest {
        application_parameter_id: PARAMETER.into(),
        path: "/outside.txt".into(),
        ..Default::default()
    };
    let link = house.client().create_shared_link(link).await.expect("a link").into_inner().shared_link.expect("a link");
    house
        .make_parameter(JAILED, |parameter| {
            use pb::Permission::{Delete, Raw, Read, Share, Write};
            parameter.path_prefix = "/Apps/Acme".into();
            let permissions = [Raw, Read, Write, Delete, Share].map(Into::into).to_vec();
            parameter.policy = Some(pb::ParameterPolicy { permissions, allow_path_root: true, ..Default::default() });
        })
        .await;
    house.control().clear_journal();
    let outside = Outside { id: file.id, rev: file.rev, folder_id: folder.id, url: link.url };
    (house, outside)
}

macro_rules! ask {
    ($house:ident . $method:ident, $request:ident { $($field:ident : $value:expr),* $(,)? }) => {{
        let request = pb::$request { application_parameter_id: JAILED.into(), $($field: $value,)* ..Default::default() };
        $house.client().$method(request).await.map(|answer| format!("{:?}", answer.into_inner()))
    }};
}

async fn put(house: &House, path: &str) -> Result<String, Status> {
    let mut frames = requests(support::frames(spec(path), b"smuggled"));
    frames[0].application_parameter_id = JAILED.into();
    house.client().upload_file(tokio_stream::iter(frames)).await.map(|answer| format!("{:?}", answer.into_inner()))
}

async fn get(house: &House, source: Source, rev: &str) -> Result<String, Status> {
    let request = pb::DownloadFileRequest {
        application_parameter_id: JAILED.into(),
        source: Some(source),
        rev: rev.into(),
        ..Default::default()
    };
    let mut stream = house.client().download_file(request).await?.into_inner();
    let mut told = String::new();
    while let Some(message) = stream.message().await? {
        told.push_str(&format!("{message:?}"));
    }
    Ok(told)
}

async fn walk(house: &House, path: &str) -> Result<String, Status> {
    let request = pb::WalkFolderRequest {
        application_parameter_id: JAILED.into(),
        path: path.into(),
        recursive: true,
        ..Default::default()
    };
    let mut stream = house.client().walk_folder(request).await?.into_inner();
    let mut told = String::new();
    while let Some(message) = stream.message().await? {
        told.push_str(&format!("{message:?}"));
    }
    Ok(told)
}

async fn plan(house: &House, path: &str) -> Result<String, Status> {
    use pb::plan_sync_request::Frame;
    let rules = pb::SyncRules { path: path.into(), ..Default::default() };
    let frames = [Frame::Rules(rules), Frame::Finish(pb::SyncFinish {})];
    let requests = frames.map(|frame| pb::PlanSyncRequest {
        application_parameter_id: JAILED.into(),
        context: None,
        frame: Some(frame),
    });
    let mut stream = house.client().plan_sync(tokio_stream::iter(requests)).await?.into_inner();
    let mut told = String::new();
    while let Some(message) = stream.message().await? {
        told.push_str(&format!("{message:?}"));
    }
    Ok(told)
}

/// Every RPC that takes a path, asked for this one.
async fn everything(house: &House, path: &str) -> Vec<(&'static str, Result<String, Status>)> {
    let own = || path.to_owned();
    let kind = pb::ItemKind::Any.into();
    let temporary = pb::LinkKind::Temporary.into();
    let preview = pb::LinkKind::Preview.into();
    let spec = || Some(pb::UploadSpec { total_size: Some(64 * 1024 * 1024), ..spec(path) });
    vec![
        ("GetItem", ask!(house.get_item, GetItemRequest { path: own() })),
        ("ListFolder", ask!(house.list_folder, ListFolderRequest { path: own() })),
        ("WalkFolder", walk(house, path).await),
        ("PlanSync", plan(house, path).await),
        ("SearchItems", ask!(house.search_items, SearchItemsRequest { query: "txt".into(), path: own() })),
        ("CreateFolder", ask!(house.create_folder, CreateFolderRequest { path: own() })),
        ("CopyItem from", ask!(house.copy_item, CopyItemRequest { from_path: own(), to_path: "/stolen".into() })),
        ("CopyItem to", ask!(house.copy_item, CopyItemRequest { from_path: "/in.txt".into(), to_path: own() })),
        ("MoveItem from", ask!(house.move_item, MoveItemRequest { from_path: own(), to_path: "/stolen".into() })),
        ("MoveItem to", ask!(house.move_item, MoveItemRequest { from_path: "/in.txt".into(), to_path: own() })),
        ("DeleteItem", ask!(house.delete_item, DeleteItemRequest { path: own(), kind: kind })),
        ("GetFileLink", ask!(house.get_file_link, GetFileLinkRequest { path: own(), kind: temporary })),
        ("GetFileLink", ask!(house.get_file_link, GetFileLinkRequest { path: own(), kind: preview })),
        ("CreateSharedLink", ask!(house.create_shared_link, CreateSharedLinkRequest { path: own() })),
        ("ListSharedLinks", ask!(house.list_shared_links, ListSharedLinksRequest { path: own() })),
        ("DownloadFile", get(house, Source::Path(own()), "").await),
        ("UploadFile", put(house, path).await),
        ("StartUpload", ask!(house.start_upload, StartUploadRequest { spec: spec() })),
    ]
}

#[track_caller]
fn is_silent(what: &str, status: &Status) {
    let told = format!("{status:?} {:?}", status.get_error_details()).to_lowercase();
    for secret in ["acme", "apps/", "outside.txt", "near.txt"] {
        assert!(!told.contains(secret), "{what} tells {secret}: {told}");
    }
}

/// Nothing outside has changed.
#[track_caller]
fn is_untouched(house: &House) {
    let control = house.control();
    for path in OUTSIDE {
        assert_eq!(control.read(None, path).as_deref(), Some(path.as_bytes()), "{path}");
    }
    assert_eq!(control.read(None, "/stolen"), None);
    let changing = ["copy", "move", "delete", "create", "upload", "revoke"];
    for entry in control.journal() {
        let changes = changing.iter().any(|word| entry.route.contains(word));
        let arg = entry.arg.to_string().to_lowercase();
        assert!(!changes || arg.contains("/apps/acme"), "{} was asked with {arg}", entry.route);
    }
}

#[tokio::test]
async fn ids_and_revs_of_what_lies_outside_are_not_found_by_any_rpc() {
    let (house, outside) = jail().await;
    for name in [&outside.id, &outside.folder_id, &format!("rev:{}", outside.rev)] {
        for (rpc, outcome) in everything(&house, name).await {
            let status = match outcome {
                Err(status) => status,
                Ok(told) => panic!("{rpc} of {name} told {told}"),
            };
            let reason = reason(&status);
            assert!(["PATH_NOT_FOUND", "MALFORMED_PATH"].contains(&reason.as_str()), "{rpc} of {name}: {status:?}");
            is_silent(rpc, &status);
        }
    }
    is_untouched(&house);
}

#[tokio::test]
async fn namespaces_and_path_roots_are_refused_before_dropbox_is_asked() {
    let (house, _) = jail().await;
    let before = house.control().journal().len();
    for (rpc, outcome) in everything(&house, "ns:1234/outside.txt").await {
        let status = outcome.expect_err(rpc);
        let reason = reason(&status);
        assert!(["OUTSIDE_JAIL", "MALFORMED_PATH"].contains(&reason.as_str()), "{rpc}: {status:?}");
        is_silent(rpc, &status);
    }
    let roots = [
        request_context::PathRoot::Home(true),
        request_context::PathRoot::RootNamespaceId("1".into()),
        request_context::PathRoot::NamespaceId("1".into()),
    ];
    for root in roots {
        let context = Some(pb::RequestContext { path_root: Some(root), ..Default::default() });
        let status = ask!(house.get_item, GetItemRequest { path: "/in.txt".into(), context: context });
        let status = status.expect_err("a root");
        assert_eq!((status.code(), reason(&status).as_str()), (Code::PermissionDenied, "OUTSIDE_JAIL"));
    }
    let asked: Vec<String> = house.control().journal().into_iter().skip(before).map(|entry| entry.route).collect();
    // A move or copy may look at what lies inside; nothing else is asked.
    assert!(
        asked.iter().all(|route| ["files/get_metadata", "users/get_current_account"].contains(&route.as_str())),
        "{asked:?}"
    );
    is_untouched(&house);
}

#[tokio::test]
async fn dots_do_not_climb_out_and_absolute_paths_begin_at_the_jail() {
    let (house, _) = jail().await;
    for path in ["/../outside.txt", "..\\outside.txt", "/box/../../outside.txt", "/./in.txt"] {
        for (rpc, outcome) in everything(&house, path).await {
            assert_eq!(reason(&outcome.expect_err(rpc)), "MALFORMED_PATH", "{rpc} of {path}");
        }
    }
    // The outside's own absolute names mean something inside, where nothing is.
    for path in ["/outside.txt", "/Apps/Acme/in.txt"] {
        let status = ask!(house.get_item, GetItemRequest { path: path.into() }).expect_err("not inside");
        assert_eq!(reason(&status), "PATH_NOT_FOUND", "{path}");
    }
    is_untouched(&house);
}

#[tokio::test]
async fn links_and_raw_calls_do_not_reach_out() {
    let (house, outside) = jail().await;
    let url = || outside.url.clone();
    let revoked = ask!(house.revoke_shared_link, RevokeSharedLinkRequest { url: url() }).expect_err("outside");
    assert_eq!(reason(&revoked), "SHARED_LINK_NOT_FOUND");
    is_silent("RevokeSharedLink", &revoked);
    let listed = ask!(house.list_shared_links, ListSharedLinksRequest {}).expect("a list");
    assert!(!listed.contains("https://"), "{listed}");
    let link = || pb::SharedLinkSource { url: url(), ..Default::default() };
    let read = get(&house, Source::SharedLink(link()), "").await.expect_err("outside");
    assert_eq!(reason(&read), "OUTSIDE_JAIL");
    let listed = ask!(house.list_folder, ListFolderRequest { shared_link: Some(link()) }).expect_err("outside");
    assert_eq!(reason(&listed), "OUTSIDE_JAIL");
    for route in ["users/get_current_account", "files/list_folder"] {
        let raw = ask!(house.call_api, CallApiRequest { route: route.into() }).expect_err("raw");
        assert_eq!((raw.code(), reason(&raw).as_str()), (Code::PermissionDenied, "OUTSIDE_JAIL"));
    }
    // The link is still there.
    let request = pb::ListSharedLinksRequest { application_parameter_id: PARAMETER.into(), ..Default::default() };
    let links = house.client().list_shared_links(request).await.expect("links").into_inner().shared_links;
    assert_eq!(links.len(), 1);
    is_untouched(&house);
}

#[tokio::test]
async fn what_lies_inside_is_told_as_if_there_were_nothing_else() {
    let (house, _) = jail().await;
    let mut answers = vec![
        ("GetItem", ask!(house.get_item, GetItemRequest { path: "/IN.txt".into() })),
        ("GetItem", ask!(house.get_item, GetItemRequest { path: "/".into() })),
        ("ListFolder", ask!(house.list_folder, ListFolderRequest { recursive: true })),
        ("WalkFolder", walk(&house, "").await),
        ("PlanSync", plan(&house, "").await),
        ("SearchItems", ask!(house.search_items, SearchItemsRequest { query: "txt".into() })),
        ("CreateFolder", ask!(house.create_folder, CreateFolderRequest { path: "/made".into() })),
        (
            "CopyItem",
            ask!(house.copy_item, CopyItemRequest { from_path: "/in.txt".into(), to_path: "/copy.txt".into() }),
        ),
        (
            "MoveItem",
            ask!(house.move_item, MoveItemRequest { from_path: "/copy.txt".into(), to_path: "/made/moved.txt".into() }),
        ),
        ("UploadFile", put(&house, "/made/up.txt").await),
        ("DownloadFile", get(&house, Source::Path("/made/up.txt".into()), "").await),
        ("CreateSharedLink", ask!(house.create_shared_link, CreateSharedLinkRequest { path: "/in.txt".into() })),
        ("ListSharedLinks", ask!(house.list_shared_links, ListSharedLinksRequest {})),
        ("DeleteItem", ask!(house.delete_item, DeleteItemRequest { path: "/made/up.txt".into() })),
    ];
    for (rpc, answer) in answers.drain(..) {
        let told = answer.unwrap_or_else(|status| panic!("{rpc}: {status:?}")).to_lowercase();
        for secret in ["acme", "/apps", "outside.txt", "near.txt", "top.txt"] {
            assert!(!told.contains(secret), "{rpc} tells {secret}: {told}");
        }
    }
    let taken = ask!(house.create_folder, CreateFolderRequest { path: "/box".into() }).expect_err("taken");
    assert_eq!(reason(&taken), "PATH_CONFLICT");
    is_silent("CreateFolder", &taken);
    assert!(house.control().read(None, "/Apps/Acme/made/moved.txt").is_some(), "it was done inside");
    is_untouched(&house);
}

#[tokio::test]
async fn the_jail_itself_is_never_moved_or_deleted() {
    let (house, _) = jail().await;
    let request = pb::GetItemRequest {
        application_parameter_id: PARAMETER.into(),
        path: "/Apps/Acme".into(),
        ..Default::default()
    };
    let item = house.client().get_item(request).await.expect("found").into_inner().item.expect("an item");
    let Some(Kind::Folder(folder)) = item.kind else { panic!("a folder") };
    let kind = pb::ItemKind::Folder.into();
    for path in ["/", "", "\\", &folder.id] {
        let deleted = ask!(house.delete_item, DeleteItemRequest { path: path.into(), kind: kind });
        let deleted = deleted.expect_err("the root stays");
        assert!(["MALFORMED_PATH", "OUTSIDE_JAIL"].contains(&reason(&deleted).as_str()), "{path}: {deleted:?}");
        let moved = ask!(house.move_item, MoveItemRequest { from_path: path.into(), to_path: "/x".into() });
        assert!(moved.is_err(), "{path}: {moved:?}");
    }
    assert!(house.control().read(None, "/Apps/Acme/in.txt").is_some());
}

#[tokio::test]
async fn a_handle_is_held_against_todays_jail() {
    let (house, _) = jail().await;
    let first = pb::ListFolderRequest { application_parameter_id: JAILED.into(), page_size: 1, ..Default::default() };
    let page = house.client().list_folder(first.clone()).await.expect("a page").into_inner();
    assert!(!page.next_page_token.is_empty());
    let update = pb::UpdateApplicationParameterRequest {
        application_parameter: Some(pb::ApplicationParameter {
            application_parameter_id: JAILED.into(),
            path_prefix: "/Apps/AcmeX".into(),
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["path_prefix".into()] }),
        ..Default::default()
    };
    house.admin().await.update_application_parameter(update).await.expect("narrowed elsewhere");
    let next = pb::ListFolderRequest { page_token: page.next_page_token, ..first };
    let status = house.client().list_folder(next).await.expect_err("outside today's jail");
    assert_eq!(reason(&status), "PATH_NOT_FOUND");
    is_silent("ListFolder", &status);
}
