//! Items through the whole house: looked at, listed, walked, searched, made, moved, copied, deleted.

use dropbox_connector::api::v1::{self as pb, item::Kind, walk_folder_response::Payload};
use tonic::{Code, Status};

use crate::support::{PARAMETER, fact, reason, spec, start, start_bare, upload};

fn id() -> String {
    PARAMETER.to_owned()
}

async fn put(house: &crate::support::House, path: &str) -> pb::Item {
    upload(house, spec(path), path.as_bytes()).await.expect("upload").item.expect("an item")
}

async fn folder(house: &crate::support::House, path: &str) -> Result<pb::CreateFolderResponse, Status> {
    let request = pb::CreateFolderRequest { application_parameter_id: id(), path: path.into(), ..Default::default() };
    house.client().create_folder(request).await.map(tonic::Response::into_inner)
}

async fn get(house: &crate::support::House, path: &str) -> Result<pb::Item, Status> {
    let request = pb::GetItemRequest { application_parameter_id: id(), path: path.into(), ..Default::default() };
    Ok(house.client().get_item(request).await?.into_inner().item.expect("an item"))
}

fn file(item: &pb::Item) -> &pb::FileItem {
    match &item.kind {
        Some(Kind::File(file)) => file,
        other => panic!("not a file: {other:?}"),
    }
}

#[tokio::test]
async fn an_item_is_found_by_path_id_and_rev_and_the_root_is_made_up() {
    let house = start().await;
    let made = put(&house, "/In/Grüße 🎉.txt").await;
    let (id, rev) = (file(&made).id.clone(), file(&made).rev.clone());
    for path in ["\\in\\grüße 🎉.TXT", "in//Grüße 🎉.txt/", &id, &format!("rev:{rev}")] {
        let found = get(&house, path).await.unwrap_or_else(|status| panic!("{path}: {status:?}"));
        assert_eq!(file(&found).id, id, "{path}");
        assert_eq!(found.name, "Grüße 🎉.txt");
    }
    let root = get(&house, "/").await.expect("root");
    assert!(matches!(root.kind, Some(Kind::Folder(_))) && root.name.is_empty());
    let missing = get(&house, "/nowhere").await.expect_err("nothing there");
    assert_eq!((missing.code(), reason(&missing).as_str()), (Code::NotFound, "PATH_NOT_FOUND"));
    let malformed = get(&house, "/a/../b").await.expect_err("malformed");
    assert_eq!(reason(&malformed), "MALFORMED_PATH");
}

#[tokio::test]
async fn pages_of_two_over_seven_items_yield_seven_and_a_token_knows_its_arguments() {
    let house = start().await;
    for n in 0..7 {
        put(&house, &format!("/pages/{n}.txt")).await;
    }
    let mut request = pb::ListFolderRequest {
        application_parameter_id: id(),
        path: "/pages".into(),
        page_size: 2,
        ..Default::default()
    };
    let mut names = Vec::new();
    let mut token = String::new();
    loop {
        let page = house.client().list_folder(request.clone()).await.expect("page").into_inner();
        names.extend(page.items.into_iter().map(|item| item.name));
        if page.next_page_token.is_empty() {
            break;
        }
        token = page.next_page_token.clone();
        request.page_token = page.next_page_token;
    }
    names.sort();
    assert_eq!(names, (0..7).map(|n| format!("{n}.txt")).collect::<Vec<_>>());
    let other = pb::ListFolderRequest { path: "/".into(), page_token: token, ..request.clone() };
    let refused = house.client().list_folder(other).await.expect_err("other arguments");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "PAGE_TOKEN_MISMATCH"));
    let broken = pb::ListFolderRequest { page_token: "nonsense".into(), ..request };
    assert_eq!(reason(&house.client().list_folder(broken).await.expect_err("broken")), "HANDLE_MALFORMED");
}

#[tokio::test]
async fn a_walk_filters_sorts_and_goes_on_behind_a_batch() {
    let house = start().await;
    for n in 0..12 {
        upload(&house, spec(&format!("/walk/d{}/{n:02}.txt", n % 3)), &vec![0; n]).await.expect("upload");
    }
    let request = |change: fn(&mut pb::WalkFolderRequest)| {
        let mut request = pb::WalkFolderRequest {
            application_parameter_id: id(),
            path: "/walk".into(),
            recursive: true,
            ..Default::default()
        };
        change(&mut request);
        request
    };
    let walk = async |request| {
        let mut stream = house.client().walk_folder(request).await.expect("walk").into_inner();
        let (mut items, mut summary, mut tokens) = (Vec::new(), None, Vec::new());
        while let Some(message) = stream.message().await.expect("a message") {
            match message.payload.expect("a payload") {
                Payload::Batch(batch) => {
                    items.extend(batch.items);
                    tokens.push(batch.continue_token);
                }
                Payload::Summary(last) => summary = Some(last),
            }
        }
        (items, summary.expect("a summary"), tokens)
    };
    let (all, summary, tokens) = walk(request(|_| {})).await;
    assert_eq!((all.len(), summary.count, summary.bytes), (15 + usize::from(all.len() == 16), all.len() as i32, 66));
    let mut rest = request(|_| {});
    rest.continue_token = tokens.last().expect("a batch").clone();
    assert_eq!(walk(rest).await.0.len(), 0);
    let (texts, ..) = walk(request(|request| {
        request.filter = Some(pb::ItemFilter { include_globs: vec!["d1/*.txt".into()], ..Default::default() });
    }))
    .await;
    assert_eq!(texts.len(), 4);
    let (largest, ..) = walk(request(|request| {
        request.order_by = pb::ItemOrderBy::Size.into();
        request.descending = true;
        request.max_items = 3;
    }))
    .await;
    assert_eq!(largest.iter().map(|item| file(item).size).collect::<Vec<_>>(), [11, 10, 9]);
}

#[tokio::test]
async fn folders_are_made_once_and_deleted_only_when_folders_are_meant() {
    let house = start().await;
    assert!(folder(&house, "/f").await.expect("made").created);
    let taken = folder(&house, "/f").await.expect_err("taken");
    assert_eq!((taken.code(), reason(&taken).as_str()), (Code::AlreadyExists, "PATH_CONFLICT"));
    let again = pb::CreateFolderRequest {
        application_parameter_id: id(),
        path: "/F".into(),
        return_existing: true,
        ..Default::default()
    };
    assert!(!house.client().create_folder(again).await.expect("there").into_inner().created);
    let delete = |kind: pb::ItemKind| pb::DeleteItemRequest {
        application_parameter_id: id(),
        path: "/f".into(),
        kind: kind.into(),
        ..Default::default()
    };
    let refused = house.client().delete_item(delete(pb::ItemKind::Unspecified)).await.expect_err("a folder");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::FailedPrecondition, "NOT_A_FILE"));
    get(&house, "/f").await.expect("still there");
    let gone = house.client().delete_item(delete(pb::ItemKind::Folder)).await.expect("deleted").into_inner();
    assert_eq!(gone.item.expect("as it was").name, "f");
    let missing = house.client().delete_item(delete(pb::ItemKind::Folder)).await.expect_err("gone");
    assert_eq!(reason(&missing), "PATH_NOT_FOUND");
    let allowed = pb::DeleteItemRequest { allow_missing: true, ..delete(pb::ItemKind::Folder) };
    assert!(house.client().delete_item(allowed).await.expect("fine").into_inner().item.is_none());
}

#[tokio::test]
async fn items_move_keep_their_ids_and_change_only_their_case() {
    let house = start().await;
    let made = put(&house, "/m/a.txt").await;
    let request = |from: &str, to: &str| pb::MoveItemRequest {
        application_parameter_id: id(),
        from_path: from.into(),
        to_path: to.into(),
        ..Default::default()
    };
    let moved = house.client().move_item(request("/m/a.txt", "/m/b.txt")).await.expect("moved").into_inner();
    let moved = moved.item.expect("an item");
    assert_eq!((file(&moved).id.as_str(), moved.name.as_str()), (file(&made).id.as_str(), "b.txt"));
    let cased = house.client().move_item(request("/m/b.txt", "/m/B.TXT")).await.expect("renamed").into_inner();
    assert_eq!(cased.item.expect("an item").name, "B.TXT");
    let stale = pb::MoveItemRequest { expected_rev: "0123456789abc".into(), ..request("/m/b.txt", "/m/c.txt") };
    let refused = house.client().move_item(stale).await.expect_err("stale");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Aborted, "REVISION_CONFLICT"));
    let copy = pb::CopyItemRequest {
        application_parameter_id: id(),
        from_path: "/m/b.txt".into(),
        to_path: "/m/copy.txt".into(),
        request_id: "3b241101-e2bb-4255-8caf-4136c566a962".into(),
        ..Default::default()
    };
    let first = house.client().copy_item(copy.clone()).await.expect("copied").into_inner();
    assert_eq!(house.client().copy_item(copy.clone()).await.expect("the first answer").into_inner(), first);
    let other = pb::CopyItemRequest { to_path: "/m/other.txt".into(), ..copy };
    assert_eq!(reason(&house.client().copy_item(other).await.expect_err("reused")), "REQUEST_ID_REUSED");
}

#[tokio::test]
async fn a_jailed_parameter_sees_its_folder_as_the_root_and_nothing_else() {
    let house = start().await;
    let outside = put(&house, "/outside.txt").await;
    house.make_parameter("jailed", |parameter| parameter.path_prefix = "/Apps/Acme".into()).await;
    let get = async |path: &str| {
        let request =
            pb::GetItemRequest { application_parameter_id: "jailed".into(), path: path.into(), ..Default::default() };
        house.client().get_item(request).await.map(|answer| answer.into_inner().item.expect("an item"))
    };
    let inside = put(&house, "/apps/acme/in.txt").await;
    let found = get("/IN.txt").await.expect("inside");
    assert_eq!((found.path_lower.as_str(), file(&found).id.as_str()), ("/in.txt", file(&inside).id.as_str()));
    assert_eq!(get(&file(&inside).id).await.expect("by id").path_lower, "/in.txt");
    assert!(get("/").await.expect("root").name.is_empty());
    for path in ["/outside.txt", &file(&outside).id, &format!("rev:{}", file(&outside).rev)] {
        let refused = get(path).await.expect_err("outside");
        assert_eq!(reason(&refused), "PATH_NOT_FOUND", "{path}");
        assert!(!format!("{refused:?}").to_lowercase().contains("acme"), "{refused:?}");
    }
    assert_eq!(reason(&get("ns:1234/outside.txt").await.expect_err("outside")), "OUTSIDE_JAIL");
    let request =
        pb::ListFolderRequest { application_parameter_id: "jailed".into(), path: "/".into(), ..Default::default() };
    let listed = house.client().list_folder(request).await.expect("listed").into_inner();
    assert_eq!(listed.items.iter().map(|item| item.path_display.as_str()).collect::<Vec<_>>(), ["/in.txt"]);
}

#[tokio::test]
async fn a_search_finds_folders_alone_and_the_account_is_told() {
    let house = start().await;
    folder(&house, "/reports 2026").await.expect("made");
    put(&house, "/reports.txt").await;
    let request = pb::SearchItemsRequest {
        application_parameter_id: id(),
        query: "reports".into(),
        kinds: vec![pb::ItemKind::Folder.into()],
        ..Default::default()
    };
    let found = house.client().search_items(request).await.expect("found").into_inner();
    let names: Vec<_> = found.matches.iter().filter_map(|found| Some(found.item.as_ref()?.name.as_str())).collect();
    assert_eq!(names, ["reports 2026"]);
    let account = pb::GetAccountRequest { application_parameter_id: id(), ..Default::default() };
    let account = house.client().get_account(account).await.expect("account").into_inner();
    assert!(account.account_id.starts_with("dbid:") && account.space_allocated > 0, "{account:?}");
}

#[tokio::test]
async fn the_server_tells_its_limits_and_what_one_parameter_may_take_of_them() {
    let house = start().await;
    let info = house.client().get_server_info(pb::GetServerInfoRequest {}).await.expect("info").into_inner();
    let limits = info.limits.expect("limits");
    assert_eq!(limits.max_chunk_bytes, 4 * 1024 * 1024);
    assert_eq!((limits.max_uploads, limits.max_parameter_uploads), (512, 448), "one leaves an eighth to others");
    assert_eq!((limits.max_downloads, limits.max_parameter_downloads), (512, 448));
    assert_eq!((limits.max_dropbox_requests, limits.max_parameter_dropbox_requests), (64, 56));
    assert_eq!((limits.max_waiting_calls, limits.max_parameter_waiting_calls), (4096, 3584));
    assert_eq!((limits.max_unsized_uploads, limits.max_parameter_unsized_uploads), (61, 54));
    assert_eq!((limits.max_waiting_unsized_uploads, limits.max_parameter_waiting_unsized_uploads), (48, 42));
}

#[tokio::test]
async fn the_parameter_s_id_may_stand_in_the_metadata_but_not_contradict_the_field() {
    let house = start().await;
    let request = |field: &str, metadata: &str| {
        let message =
            pb::GetItemRequest { application_parameter_id: field.into(), path: "/".into(), ..Default::default() };
        let mut request = tonic::Request::new(message);
        request.metadata_mut().insert("x-application-parameter-id", metadata.parse().expect("ascii"));
        request
    };
    house.client().get_item(request("", PARAMETER)).await.expect("by metadata");
    let refused = house.client().get_item(request("other", PARAMETER)).await.expect_err("both");
    assert_eq!(reason(&refused), "APPLICATION_PARAMETER_MISMATCH");
    let none = house.client().get_item(pb::GetItemRequest::default()).await.expect_err("none");
    assert_eq!(reason(&none), "INVALID_FIELD");
    assert!(fact(&none, "remedy").is_some());
}

#[tokio::test]
async fn a_parameter_that_does_not_exist_is_told_to_administrators() {
    let house = start_bare(Default::default(), |_| {}).await;
    let status = get(&house, "/").await.expect_err("no parameter");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "APPLICATION_PARAMETER_NOT_FOUND"));
}
