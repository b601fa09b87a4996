//! Writes whose answer is lost, and writes that are sent twice: each ends as if nothing had happened, or says it does not know.

use std::time::Duration;

use dropbox_connector::{
    api::v1 as pb,
    emulator::script::{Action, Rule},
};
use serde_json::json;
use sqlx::{Connection as _, SqliteConnection};
use tonic::{Code, Status};

use crate::support::{
    House, PARAMETER, PATIENCE, fact, reason, retry_delay, spec, start, until, upload,
    victim::{Victim, emptied, upload_at},
};

/// Done, and the answer lost on the way.
fn lost() -> [Action; 2] {
    let page = Action::Answer {
        status: 502,
        content_type: "text/html".into(),
        body: "<html>bad gateway</html>".into(),
        headers: Vec::new(),
        executed: true,
        unread: false,
    };
    [Action::CutAfter, page]
}

async fn furnished() -> House {
    let house = start().await;
    for path in ["/a.txt", "/b.txt", "/folder/x.txt"] {
        upload(&house, spec(path), path.as_bytes()).await.expect("upload");
    }
    house
}

fn delete(path: &str) -> pb::DeleteItemRequest {
    pb::DeleteItemRequest {
        application_parameter_id: PARAMETER.into(),
        path: path.into(),
        kind: pb::ItemKind::Any.into(),
        ..Default::default()
    }
}

fn movement(from: &str, to: &str) -> pb::MoveItemRequest {
    pb::MoveItemRequest {
        application_parameter_id: PARAMETER.into(),
        from_path: from.into(),
        to_path: to.into(),
        ..Default::default()
    }
}

fn copy(from: &str, to: &str) -> pb::CopyItemRequest {
    pb::CopyItemRequest {
        application_parameter_id: PARAMETER.into(),
        from_path: from.into(),
        to_path: to.into(),
        ..Default::default()
    }
}

fn folder(path: &str) -> pb::CreateFolderRequest {
    pb::CreateFolderRequest { application_parameter_id: PARAMETER.into(), path: path.into(), ..Default::default() }
}

fn rules(house: &House, rules: impl IntoIterator<Item = Rule>) {
    house.control().clear_script();
    house.control().script(rules).expect("sound rules");
}

#[tokio::test]
async fn a_lost_answer_to_any_change_of_items_is_not_noticed() {
    for action in lost() {
        let house = furnished().await;
        rules(&house, [Rule::once("files/create_folder_v2", action.clone())]);
        let made = house.client().create_folder(folder("/new")).await.unwrap_or_else(|s| panic!("{action:?}: {s:?}"));
        assert_eq!(made.into_inner().item.expect("an item").name, "new");

        rules(&house, [Rule::once("files/copy_v2", action.clone())]);
        let copied = house.client().copy_item(copy("/a.txt", "/copy.txt")).await;
        let copied = copied.unwrap_or_else(|s| panic!("{action:?}: {s:?}")).into_inner();
        assert_eq!(copied.item.expect("an item").name, "copy.txt");
        assert_eq!(house.control().counter("files/copy_v2").calls, 1, "a copy is not sent twice");

        rules(&house, [Rule::once("files/move_v2", action.clone())]);
        let moved = house.client().move_item(movement("/b.txt", "/moved.txt")).await;
        let moved = moved.unwrap_or_else(|s| panic!("{action:?}: {s:?}")).into_inner();
        assert_eq!(moved.item.expect("an item").name, "moved.txt");
        assert_eq!(house.control().counter("files/move_v2").calls, 1, "a move is not sent twice");

        for path in ["/a.txt", "/folder"] {
            rules(&house, [Rule::once("files/delete_v2", action.clone())]);
            let gone = house.client().delete_item(delete(path)).await;
            let gone = gone.unwrap_or_else(|s| panic!("{action:?} {path}: {s:?}")).into_inner();
            assert_eq!(format!("/{}", gone.item.expect("as it was").name), path);
        }
        for gone in ["/a.txt", "/b.txt", "/folder/x.txt"] {
            assert_eq!(house.control().read(None, gone), None, "{gone}");
        }
        assert_eq!(house.control().read(None, "/copy.txt").as_deref(), Some(&b"/a.txt"[..]));
        assert_eq!(house.control().read(None, "/moved.txt").as_deref(), Some(&b"/b.txt"[..]));
    }
}

#[tokio::test]
async fn a_lost_answer_to_a_link_is_not_noticed() {
    for action in lost() {
        let house = furnished().await;
        rules(&house, [Rule::once("sharing/create_shared_link_with_settings", action.clone())]);
        let create = pb::CreateSharedLinkRequest {
            application_parameter_id: PARAMETER.into(),
            path: "/a.txt".into(),
            ..Default::default()
        };
        let made = house.client().create_shared_link(create).await;
        let made = made.unwrap_or_else(|s| panic!("{action:?}: {s:?}")).into_inner();
        assert!(made.created, "it was made by this call");
        let url = made.shared_link.expect("a link").url;
        rules(&house, [Rule::once("sharing/revoke_shared_link", action.clone())]);
        let revoke =
            pb::RevokeSharedLinkRequest { application_parameter_id: PARAMETER.into(), url, ..Default::default() };
        house.client().revoke_shared_link(revoke).await.unwrap_or_else(|s| panic!("{action:?}: {s:?}"));
    }
}

#[tokio::test]
async fn a_change_that_certainly_did_not_happen_may_be_sent_again() {
    let house = furnished().await;
    rules(&house, [Rule::once("files/move_v2", Action::CutBefore), Rule::once("files/copy_v2", Action::CutBefore)]);
    let moved = house.client().move_item(movement("/a.txt", "/c.txt")).await.expect_err("cut");
    let copied = house.client().copy_item(copy("/a.txt", "/c.txt")).await.expect_err("cut");
    for status in [moved, copied] {
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "DROPBOX_UNAVAILABLE"), "{status:?}");
        assert!(retry_delay(&status).is_some());
    }
    assert!(house.control().read(None, "/a.txt").is_some());
    house.client().move_item(movement("/a.txt", "/c.txt")).await.expect("the same again");
}

#[tokio::test]
async fn what_cannot_be_looked_up_is_told_as_unknown_and_not_sent_again() {
    let house = furnished().await;
    for action in lost() {
        rules(&house, [Rule::once("files/create_folder_v2", action.clone()), Rule::once("files/copy_v2", action)]);
        let before = house.control().counters();
        let calls = |route: &str| house.control().counter(route).calls - before.get(route).map_or(0, |c| c.calls);
        let renamed = pb::CreateFolderRequest { autorename: true, ..folder("/folder") };
        let created = house.client().create_folder(renamed).await.expect_err("unknown");
        let copied = pb::CopyItemRequest { autorename: true, ..copy("/a.txt", "/b.txt") };
        let copied = house.client().copy_item(copied).await.expect_err("unknown");
        for status in [created, copied] {
            assert_eq!((status.code(), reason(&status).as_str()), (Code::Unknown, "OUTCOME_UNKNOWN"), "{status:?}");
            assert_eq!(retry_delay(&status), None);
            assert!(fact(&status, "earlierAttempt").is_none());
        }
        assert_eq!((calls("files/create_folder_v2"), calls("files/copy_v2")), (1, 1));
    }
}

#[tokio::test]
async fn a_file_that_changed_meanwhile_is_not_deleted() {
    let house = furnished().await;
    let conflict =
        json!({ ".tag": "path_write", "path_write": { ".tag": "conflict", "conflict": { ".tag": "file" } } });
    rules(&house, [Rule::once("files/delete_v2", Action::Error { error: conflict, user_message: None })]);
    let status = house.client().delete_item(delete("/a.txt")).await.expect_err("changed");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Aborted, "REVISION_CONFLICT"));
    assert_eq!(retry_delay(&status), None);
    let asked =
        house.control().journal().into_iter().rfind(|entry| entry.route == "files/get_metadata").expect("looked");
    assert_eq!(asked.status, 200);
    assert!(fact(&status, "currentRev").is_some(), "{status:?}");
}

#[tokio::test]
async fn the_root_and_what_is_named_by_rev_are_never_deleted() {
    let house = furnished().await;
    for path in ["", "/", "\\", "//", "rev:0123456789abc"] {
        let status = house.client().delete_item(delete(path)).await.expect_err("never");
        assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "MALFORMED_PATH"), "{path:?}");
    }
    let stale = pb::DeleteItemRequest { expected_rev: "0123456789abc".into(), ..delete("/a.txt") };
    let status = house.client().delete_item(stale).await.expect_err("stale");
    assert_eq!(reason(&status), "REVISION_CONFLICT");
    assert!(fact(&status, "currentRev").is_some());
    assert_eq!(house.control().counter("files/delete_v2").calls, 0);
    let wrong = pb::DeleteItemRequest { kind: pb::ItemKind::Folder.into(), ..delete("/a.txt") };
    assert_eq!(reason(&house.client().delete_item(wrong).await.expect_err("a file")), "NOT_A_FOLDER");
    let odd = pb::DeleteItemRequest { kind: 77, ..delete("/a.txt") };
    assert_eq!(reason(&house.client().delete_item(odd).await.expect_err("no kind")), "INVALID_FIELD");
}

#[tokio::test]
async fn a_case_only_rename_that_fails_half_way_is_put_back_or_says_where_the_item_is() {
    let refusal = || Action::Error { error: json!({ ".tag": "too_many_files" }), user_message: None };
    let house = furnished().await;
    rules(&house, [Rule::nth("files/move_v2", 2, refusal())]);
    let status = house.client().move_item(movement("/a.txt", "/A.TXT")).await.expect_err("refused");
    assert_eq!(reason(&status), "TOO_MANY_FILES");
    let get =
        pb::GetItemRequest { application_parameter_id: PARAMETER.into(), path: "/a.txt".into(), ..Default::default() };
    let back = house.client().get_item(get).await.expect("put back").into_inner().item.expect("an item");
    assert_eq!(back.name, "a.txt");

    rules(&house, [Rule::nth("files/move_v2", 2, refusal()), Rule::nth("files/move_v2", 3, refusal())]);
    let status = house.client().move_item(movement("/a.txt", "/A.TXT")).await.expect_err("stuck");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unknown, "OUTCOME_UNKNOWN"));
    let aside = fact(&status, "currentPath").expect("where it is");
    assert!(aside.ends_with(".tmp"), "{aside}");
    assert_eq!(house.control().read(None, &aside).as_deref(), Some(&b"/a.txt"[..]));

    house.control().clear_script();
    for (from, to, name) in [("/folder", "/FOLDER", "FOLDER"), ("/b.txt", "/B.txt", "B.txt")] {
        let moved = house.client().move_item(movement(from, to)).await.expect("renamed").into_inner();
        assert_eq!(moved.item.expect("an item").name, name);
    }
}

const ID: &str = "3b241101-e2bb-4255-8caf-4136c566a962";

#[tokio::test]
async fn two_calls_with_one_request_id_are_one_change_with_one_answer() {
    let house = furnished().await;
    rules(&house, [Rule::once("files/copy_v2", Action::DelayAnswer { millis: 300 })]);
    let request = pb::CopyItemRequest { request_id: ID.into(), ..copy("/a.txt", "/c.txt") };
    let (mut one, mut other) = (house.other_client().await, house.other_client().await);
    let (one, other) = tokio::join!(one.copy_item(request.clone()), other.copy_item(request));
    assert_eq!(one.expect("copied").into_inner(), other.expect("the same").into_inner());
    assert_eq!(house.control().counter("files/copy_v2").calls, 1);
}

#[tokio::test]
async fn a_change_goes_on_when_its_caller_leaves_and_a_repeat_gets_its_answer() {
    let house = furnished().await;
    rules(&house, [Rule::once("files/move_v2", Action::Delay { millis: 2000 })]);
    let request = pb::MoveItemRequest { request_id: ID.into(), ..movement("/a.txt", "/c.txt") };
    let mut client = house.other_client().await;
    let sent = request.clone();
    let call = tokio::spawn(async move { client.move_item(sent).await });
    until("the move is under way", async || house.control().counter("files/move_v2").calls == 1).await;
    call.abort();
    let answer = house.client().move_item(request).await.expect("the first one's answer").into_inner();
    assert_eq!(answer.item.expect("an item").name, "c.txt");
    assert_eq!(house.control().counter("files/move_v2").calls, 1);
}

#[tokio::test]
async fn refusals_are_kept_under_a_request_id_and_what_may_be_tried_again_is_not() {
    let house = furnished().await;
    let request = |id: &str| pb::CopyItemRequest { request_id: id.into(), ..copy("/a.txt", "/b.txt") };
    let first = house.client().copy_item(request(ID)).await.expect_err("taken");
    assert_eq!(reason(&first), "PATH_CONFLICT");
    house.client().delete_item(delete("/b.txt")).await.expect("room is made");
    let again = house.client().copy_item(request(ID)).await.expect_err("the same answer");
    assert_eq!((again.code(), again.message(), again.details()), (first.code(), first.message(), first.details()));

    let other = "3b241101-e2bb-4255-8caf-4136c566a963";
    let limited = Action::TooManyRequests { retry_after: Some(600) };
    rules(&house, [Rule::once("files/copy_v2", Action::CutBefore)]);
    let passing = house.client().copy_item(request(other)).await.expect_err("cut");
    assert!(retry_delay(&passing).is_some(), "{passing:?}");
    house.client().copy_item(request(other)).await.expect("tried anew");
    drop(limited);

    for bad in ["1", "not-a-uuid", "3b241101-e2bb-1255-8caf-4136c566a962"] {
        let status = house.client().copy_item(request(bad)).await.expect_err("no version 4");
        assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "INVALID_FIELD"), "{bad}");
    }
}

#[tokio::test]
async fn an_unknown_outcome_is_looked_up_once_more_before_it_is_told_again() {
    let house = furnished().await;
    let other = || Action::Error { error: json!({ ".tag": "other" }), user_message: None };
    // The answer is lost, and so is the look behind it: the second one, for the first finds the source.
    let torn = |route: &str| [Rule::once(route, Action::CutAfter), Rule::nth("files/get_metadata", 2, other())];
    rules(&house, torn("files/copy_v2"));
    let request = pb::CopyItemRequest { request_id: ID.into(), ..copy("/a.txt", "/c.txt") };
    let unknown = house.client().copy_item(request.clone()).await.expect_err("nobody knows");
    assert_eq!((unknown.code(), reason(&unknown).as_str()), (Code::Unknown, "OUTCOME_UNKNOWN"));
    for _ in 0..2 {
        let answer = house.client().copy_item(request.clone()).await.expect("now it is known").into_inner();
        assert_eq!(answer.item.expect("an item").name, "c.txt");
    }
    assert_eq!(house.control().counter("files/copy_v2").calls, 1, "it is not sent again");

    rules(&house, torn("files/move_v2"));
    let request = pb::MoveItemRequest { request_id: ID.into(), ..movement("/b.txt", "/d.txt") };
    let unknown = house.client().move_item(request.clone()).await.expect_err("nobody knows");
    assert_eq!(reason(&unknown), "OUTCOME_UNKNOWN");
    let answer = house.client().move_item(request).await.expect("now it is known").into_inner();
    assert_eq!(answer.item.expect("an item").name, "d.txt");
    assert_eq!(house.control().counter("files/move_v2").calls, 1, "it is not sent again");

    // What cannot be looked up stays unknown.
    rules(&house, [Rule::once("files/copy_v2", Action::CutAfter)]);
    let id = "3b241101-e2bb-4255-8caf-4136c566a971";
    let request = pb::CopyItemRequest { request_id: id.into(), autorename: true, ..copy("/a.txt", "/c.txt") };
    let calls = house.control().counter("files/copy_v2").calls;
    for _ in 0..2 {
        let unknown = house.client().copy_item(request.clone()).await.expect_err("nobody knows");
        assert_eq!(reason(&unknown), "OUTCOME_UNKNOWN");
    }
    assert_eq!(house.control().counter("files/copy_v2").calls, calls + 1);
}

#[tokio::test]
async fn a_commit_that_waits_to_be_repeated_lets_others_of_its_namespace_go() {
    let house = furnished().await;
    let busy = || Action::TooManyWriteOperations { retry_after: Some(6) };
    rules(&house, [Rule::once("files/create_folder_v2", busy()), Rule::once("files/upload", busy())]);
    let fired = async |count| {
        until("its commit waits", async || {
            house.control().standing().iter().filter(|rule| rule.fired > 0).count() == count
        })
        .await;
    };
    let mut client = house.client();
    let first = tokio::spawn(async move { client.create_folder(folder("/waits")).await.map(drop) });
    fired(1).await;
    house.client().create_folder(folder("/goes")).await.expect("made meanwhile");
    assert!(!first.is_finished(), "it still waits");
    let uploading = upload(&house, spec("/waits.txt"), b"x");
    let others = async {
        fired(2).await;
        house.client().move_item(movement("/a.txt", "/moved.txt")).await.expect("moved meanwhile");
        assert_eq!(house.control().read(None, "/waits.txt"), None, "it still waits");
    };
    let (uploaded, ()) = tokio::join!(uploading, others);
    uploaded.expect("uploaded in the end");
    first.await.expect("no panic").expect("made in the end");
}

#[tokio::test]
async fn commits_of_one_namespace_go_one_at_a_time() {
    let house = furnished().await;
    // Time enough for all the others to come to the gate.
    rules(&house, [Rule::once("files/create_folder_v2", Action::DelayAnswer { millis: 3000 })]);
    let calls = (0..12).map(|n| {
        let mut client = house.client();
        async move { client.create_folder(folder(&format!("/many/{n}"))).await.map(drop) }
    });
    let outcomes: Vec<Result<(), Status>> = futures::future::join_all(calls).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    // The first finds an idle gate; those that wait behind it go as one job.
    let [single, batch] =
        ["files/create_folder_v2", "files/create_folder_batch"].map(|route| house.control().counter(route));
    assert_eq!((single.calls, single.running_max, batch.calls, batch.running_max), (1, 1, 1, 1));
}

#[tokio::test]
async fn a_write_with_too_little_time_left_is_not_sent() {
    let house = furnished().await;
    let mut request = tonic::Request::new(folder("/late"));
    request.set_timeout(Duration::from_millis(300));
    let status = house.client().create_folder(request).await.expect_err("too late");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert_eq!(house.control().counter("files/create_folder_v2").calls, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_while_an_abandoned_change_is_looked_up_does_not_lock_its_id() {
    let house = emptied().await;
    let control = house.control();
    let mut victim = Victim::start(house.config()).await;
    upload_at(&victim, spec("/a.txt"), b"a").await.expect("upload");
    // Killed behind the copy, before anybody knew of it.
    rules(&house, [Rule::once("files/copy_v2", Action::CutAfter), Rule::nth("files/get_metadata", 2, Action::Stall)]);
    let request = pb::CopyItemRequest { request_id: ID.into(), ..copy("/a.txt", "/c.txt") };
    let (mut client, sent) = (victim.client().await, request.clone());
    let torn = tokio::spawn(async move { client.copy_item(sent).await });
    let looking = async || control.standing().iter().all(|rule| rule.fired == 1);
    until("the copy is done and looked for", looking).await;
    victim.kill();
    let _ = torn.await.expect("no panic");
    until("its requests are gone", async || control.counter("files/get_metadata").running == 0).await;
    // As if it had been silent for long.
    let mut store = SqliteConnection::connect(&house.config().store_url).await.expect("the store");
    sqlx::query("DELETE FROM replicas").execute(&mut store).await.expect("forgotten");
    store.close().await.expect("closed");

    let next = Victim::start(house.config()).await;
    rules(&house, [Rule::once("files/get_metadata", Action::Delay { millis: 3000 })]);
    let before = control.counter("files/get_metadata").calls;
    let (mut client, sent) = (next.client().await, request.clone());
    let leaving = tokio::spawn(async move { client.copy_item(sent).await });
    until("it is looked up", async || control.counter("files/get_metadata").calls > before).await;
    leaving.abort();
    assert!(leaving.await.expect_err("it has left").is_cancelled());
    let again = async { next.client().await.copy_item(request).await };
    let answer = tokio::time::timeout(PATIENCE, again).await.expect("its id is not locked").expect("found");
    assert_eq!(answer.into_inner().item.expect("an item").name, "c.txt");
    assert_eq!(control.counter("files/copy_v2").calls, 1, "it is not sent again");
}

#[tokio::test]
async fn an_answer_that_the_store_does_not_take_at_once_is_kept_soon_after() {
    let house = furnished().await;
    rules(&house, [Rule::once("files/copy_v2", Action::DelayAnswer { millis: 3000 })]);
    let request = pb::CopyItemRequest { request_id: ID.into(), ..copy("/a.txt", "/made.txt") };
    let (mut client, sent) = (house.client(), request.clone());
    let first = tokio::spawn(async move { client.copy_item(sent).await });
    until("it is on its way", async || house.control().counter("files/copy_v2").calls == 1).await;
    let mut store = SqliteConnection::connect(&house.config().store_url).await.expect("the store");
    let mut run = async |sql| sqlx::query(sql).execute(&mut store).await.expect("renamed");
    run("ALTER TABLE remembered_requests RENAME TO gone_for_now").await;
    let answer = first.await.expect("no panic").expect("it was made, whether that can be kept or not").into_inner();
    run("ALTER TABLE gone_for_now RENAME TO remembered_requests").await;
    let again = async { house.client().copy_item(request).await };
    let told = tokio::time::timeout(PATIENCE, again).await.expect("its turn is not lost").expect("the same answer");
    assert_eq!(told.into_inner(), answer);
    assert_eq!(house.control().counter("files/copy_v2").calls, 1);
}
