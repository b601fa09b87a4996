//! Moving and copying onto a file that is there: it goes to the deleted files, and neither file is ever lost.

use std::{sync::Arc, time::Duration};

use dropbox_connector::{
    api::v1::{self as pb, item::Kind},
    clock::{Clock as _, ManualClock, SystemClock},
    emulator::{
        Options,
        control::{Seed, SeedFile},
        script::{Action, Rule},
    },
};
use serde_json::json;
use tonic::Code;

use crate::support::{House, PARAMETER, fact, reason, spec, start, start_in, until, upload};

async fn furnished() -> House {
    let house = start().await;
    for path in ["/new.txt", "/old.txt", "/folder/x.txt"] {
        upload(&house, spec(path), path.as_bytes()).await.expect("upload");
    }
    house
}

fn onto(from: &str, to: &str) -> pb::MoveItemRequest {
    pb::MoveItemRequest {
        application_parameter_id: PARAMETER.into(),
        from_path: from.into(),
        to_path: to.into(),
        replace_existing: true,
        ..Default::default()
    }
}

fn copy_onto(from: &str, to: &str) -> pb::CopyItemRequest {
    pb::CopyItemRequest {
        application_parameter_id: PARAMETER.into(),
        from_path: from.into(),
        to_path: to.into(),
        replace_existing: true,
        ..Default::default()
    }
}

fn rev(item: &pb::Item) -> String {
    match &item.kind {
        Some(Kind::File(file)) => file.rev.clone(),
        other => panic!("not a file: {other:?}"),
    }
}

fn read(house: &House, path: &str) -> Option<String> {
    house.control().read(None, path).map(|bytes| String::from_utf8(bytes.to_vec()).expect("text"))
}

/// The text a deleted file had, brought back from Dropbox's deleted files under another name's nose.
async fn restored(house: &House, path: &str, rev: &str) -> String {
    let call = pb::CallApiRequest {
        application_parameter_id: "raw".into(),
        route: "files/restore".into(),
        allow_mutation: true,
        arg: Some(pb::call_api_request::Arg::ArgJson(json!({ "path": path, "rev": rev }).to_string())),
        ..Default::default()
    };
    house
        .make_parameter("raw", |parameter| {
            parameter.policy = Some(pb::ParameterPolicy {
                permissions: vec![pb::Permission::Raw.into(), pb::Permission::Write.into()],
                raw_allow: vec!["files/restore".into()],
                ..Default::default()
            });
        })
        .await;
    house.client().call_api(call).await.expect("restored");
    read(house, path).expect("there again")
}

#[tokio::test]
async fn a_file_takes_the_place_of_another_which_stays_among_the_deleted_files() {
    let house = furnished().await;
    let moved = house.client().move_item(onto("/new.txt", "/old.txt")).await.expect("moved").into_inner();
    let replaced = moved.replaced.expect("what was replaced");
    assert_eq!((moved.item.expect("an item").path_display.as_str(), replaced.name.as_str()), ("/old.txt", "old.txt"));
    assert_eq!((read(&house, "/new.txt"), read(&house, "/old.txt").as_deref()), (None, Some("/new.txt")));
    assert_eq!(restored(&house, "/old.txt", &rev(&replaced)).await, "/old.txt");

    let copied = house.client().copy_item(copy_onto("/old.txt", "/folder/x.txt")).await.expect("copied").into_inner();
    assert_eq!(copied.replaced.expect("what was replaced").name, "x.txt");
    assert_eq!(read(&house, "/folder/x.txt"), read(&house, "/old.txt"));
    let free = house.client().copy_item(copy_onto("/old.txt", "/free.txt")).await.expect("copied").into_inner();
    assert_eq!((free.replaced, read(&house, "/free.txt")), (None, read(&house, "/old.txt")));
}

#[tokio::test]
async fn folders_and_the_source_itself_are_never_deleted_to_make_room() {
    let house = furnished().await;
    let before = house.control().counter("files/delete_v2").calls;
    let onto_folder = house.client().move_item(onto("/new.txt", "/folder")).await.expect_err("a folder");
    assert_eq!((onto_folder.code(), reason(&onto_folder).as_str()), (Code::AlreadyExists, "PATH_CONFLICT"));
    assert_eq!(fact(&onto_folder, "conflictKind").as_deref(), Some("folder"));
    let a_folder = house.client().copy_item(copy_onto("/folder", "/old.txt")).await.expect_err("a folder");
    assert_eq!((a_folder.code(), reason(&a_folder).as_str()), (Code::FailedPrecondition, "NOT_A_FILE"));
    house.client().copy_item(copy_onto("/new.txt", "/NEW.txt")).await.expect_err("onto itself");
    let cased = house.client().move_item(onto("/new.txt", "/NEW.TXT")).await.expect("renamed").into_inner();
    assert_eq!((cased.item.expect("an item").name.as_str(), cased.replaced), ("NEW.TXT", None));
    let both = pb::MoveItemRequest { autorename: true, ..onto("/new.txt", "/old.txt") };
    assert_eq!(reason(&house.client().move_item(both).await.expect_err("both")), "INVALID_FIELD");
    let stale = pb::CopyItemRequest { expected_rev: "0123456789abc".into(), ..copy_onto("/new.txt", "/old.txt") };
    assert_eq!(reason(&house.client().copy_item(stale).await.expect_err("stale")), "REVISION_CONFLICT");
    assert_eq!(house.control().counter("files/delete_v2").calls, before, "nothing was deleted");
    assert_eq!(read(&house, "/old.txt").as_deref(), Some("/old.txt"));
}

#[tokio::test]
async fn what_could_not_be_moved_leaves_the_target_where_it_was() {
    let house = furnished().await;
    let refused = |under: &str| Action::Error {
        error: json!({ ".tag": under, under: { ".tag": "no_write_permission" } }),
        user_message: None,
    };
    for action in [refused("to"), Action::CutBefore] {
        house.control().clear_script();
        house.control().script([Rule::once("files/move_v2", action.clone())]).expect("a rule");
        let failed = house.client().move_item(onto("/new.txt", "/old.txt")).await.expect_err("refused");
        assert_ne!(reason(&failed), "OUTCOME_UNKNOWN", "{action:?}");
        assert_eq!(fact(&failed, "replacedRev"), None, "{action:?}: it was put back");
        let both = (read(&house, "/new.txt"), read(&house, "/old.txt"));
        assert_eq!(both, (Some("/new.txt".to_owned()), Some("/old.txt".to_owned())), "{action:?}");
    }
    // Where it cannot be put back either its rev is told, and nothing is lost.
    house.control().clear_script();
    let rules = [Rule::once("files/move_v2", refused("to")), Rule::once("files/restore", refused("path_write"))];
    house.control().script(rules).expect("rules");
    let failed = house.client().move_item(onto("/new.txt", "/old.txt")).await.expect_err("refused");
    let kept = fact(&failed, "replacedRev").expect("where the target is");
    assert_eq!((read(&house, "/new.txt").as_deref(), read(&house, "/old.txt")), (Some("/new.txt"), None));
    assert_eq!(restored(&house, "/old.txt", &kept).await, "/old.txt");
}

#[tokio::test]
async fn lost_answers_to_both_steps_are_not_noticed() {
    let house = furnished().await;
    let rules = ["files/delete_v2", "files/move_v2"].map(|route| Rule::once(route, Action::CutAfter));
    house.control().script(rules).expect("rules");
    let moved = house.client().move_item(onto("/new.txt", "/old.txt")).await.expect("moved").into_inner();
    assert!(moved.replaced.is_some());
    assert_eq!((read(&house, "/new.txt"), read(&house, "/old.txt").as_deref()), (None, Some("/new.txt")));
}

#[tokio::test]
async fn a_caller_that_leaves_between_the_steps_does_not_tear_them() {
    let house = furnished().await;
    let slow = Action::Delay { millis: 2000 };
    house.control().script([Rule::once("files/move_v2", slow)]).expect("a rule");
    let mut client = house.client();
    let leaving = tokio::spawn(async move { client.move_item(onto("/new.txt", "/old.txt")).await });
    until("the target was deleted", async || house.control().counter("files/delete_v2").good == 1).await;
    leaving.abort();
    until("the item took its place", async || read(&house, "/old.txt").as_deref() == Some("/new.txt")).await;
    assert_eq!(read(&house, "/new.txt"), None);
}

#[tokio::test]
async fn a_target_that_changes_meanwhile_survives() {
    let house = furnished().await;
    let slow = Action::Delay { millis: 3000 };
    house.control().script([Rule::once("files/delete_v2", slow)]).expect("a rule");
    let before = house.control().counter("files/get_metadata").calls;
    let mut client = house.client();
    let moving = tokio::spawn(async move { client.move_item(onto("/new.txt", "/old.txt")).await });
    until("both were looked at", async || house.control().counter("files/get_metadata").calls >= before + 2).await;
    let seed = Seed { files: vec![SeedFile::text("/old.txt", "changed")], ..Default::default() };
    house.control().seed(&seed).expect("changed");
    let refused = moving.await.expect("a task").expect_err("changed meanwhile");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Aborted, "REVISION_CONFLICT"), "{refused:?}");
    assert!(fact(&refused, "currentRev").is_some());
    let both = (read(&house, "/new.txt"), read(&house, "/old.txt"));
    assert_eq!(both, (Some("/new.txt".to_owned()), Some("changed".to_owned())));
}

#[tokio::test]
async fn deleted_items_tell_whether_they_can_be_restored() {
    let house = furnished().await;
    let delete = |path: &str, kind: pb::ItemKind| pb::DeleteItemRequest {
        application_parameter_id: PARAMETER.into(),
        path: path.into(),
        kind: kind.into(),
        ..Default::default()
    };
    house.client().delete_item(delete("/old.txt", pb::ItemKind::File)).await.expect("deleted");
    house.client().delete_item(delete("/folder", pb::ItemKind::Folder)).await.expect("deleted");
    let deleted = |item: &pb::Item| match &item.kind {
        Some(Kind::Deleted(deleted)) => deleted.is_restorable,
        other => panic!("not deleted: {other:?}"),
    };
    let list = pb::ListFolderRequest {
        application_parameter_id: PARAMETER.into(),
        include_deleted: true,
        ..Default::default()
    };
    let listed = house.client().list_folder(list).await.expect("listed").into_inner().items;
    let found = |name: &str| deleted(listed.iter().find(|item| item.name == name).expect("told"));
    assert_eq!((found("old.txt"), found("folder")), (Some(true), Some(false)));
    let get = async |path: &str| {
        let request = pb::GetItemRequest {
            application_parameter_id: PARAMETER.into(),
            path: path.into(),
            include_deleted: true,
            ..Default::default()
        };
        deleted(&house.client().get_item(request).await.expect("told").into_inner().item.expect("an item"))
    };
    assert_eq!((get("/old.txt").await, get("/folder").await), (Some(true), None));
}

#[tokio::test]
async fn a_target_comes_back_when_its_account_may_send_again_though_its_move_had_no_time_to_wait_for_that() {
    // A write under way has 60 s: three are over when Dropbox asks for a pause of 58.
    let slow = Rule::once("files/delete_v2", Action::DelayAnswer { millis: 3000 });
    comes_back_behind_a_pause(58, [slow]).await;
}

#[tokio::test]
async fn a_target_comes_back_behind_a_pause_that_no_call_waits_for() {
    comes_back_behind_a_pause(120, []).await;
}

async fn comes_back_behind_a_pause(seconds: u64, rules: impl IntoIterator<Item = Rule>) {
    let clock = ManualClock::new(SystemClock.now());
    let house = start_in(Options::default(), Arc::new(clock.clone()), |_| {}).await;
    house.make_parameter(PARAMETER, |_| {}).await;
    for path in ["/new.txt", "/old.txt"] {
        upload(&house, spec(path), path.as_bytes()).await.expect("upload");
    }
    let pause = Rule::once("files/move_v2", Action::TooManyRequests { retry_after: Some(seconds) });
    house.control().script(rules.into_iter().chain([pause])).expect("rules");
    let mut request = tonic::Request::new(onto("/new.txt", "/old.txt"));
    request.set_timeout(Duration::from_secs(20));
    let mut client = house.client();
    let moving = tokio::spawn(async move { client.move_item(request).await });
    until("the pause is asked for", async || house.control().standing().iter().all(|rule| rule.fired == 1)).await;
    assert_eq!(read(&house, "/old.txt"), None);
    until("the target is back", async || {
        clock.advance(Duration::from_secs(1)).await;
        read(&house, "/old.txt").as_deref() == Some("/old.txt")
    })
    .await;
    let limited = moving.await.expect("no panic").expect_err("not moved");
    assert_eq!((reason(&limited).as_str(), fact(&limited, "replacedRev")), ("RATE_LIMITED", None), "{limited:?}");
    assert_eq!(read(&house, "/new.txt").as_deref(), Some("/new.txt"));
}

#[tokio::test]
async fn a_case_only_rename_is_ended_behind_a_pause_that_no_call_waits_for_though_its_caller_has_left() {
    for leaves in [false, true] {
        let clock = ManualClock::new(SystemClock.now());
        let house = start_in(Options::default(), Arc::new(clock.clone()), |_| {}).await;
        house.make_parameter(PARAMETER, |_| {}).await;
        upload(&house, spec("/old.txt"), b"old").await.expect("upload");
        let pause = Rule::nth("files/move_v2", 2, Action::TooManyRequests { retry_after: Some(120) });
        house.control().script([pause]).expect("rules");
        let mut client = house.client();
        let moving = tokio::spawn(async move { client.move_item(onto("/old.txt", "/OLD.TXT")).await });
        until("the pause is asked for", async || house.control().standing().iter().all(|rule| rule.fired == 1)).await;
        assert_eq!(read(&house, "/old.txt"), None, "it is aside");
        if leaves {
            moving.abort();
        }
        until("it has its new name", async || {
            clock.advance(Duration::from_secs(1)).await;
            read(&house, "/old.txt").as_deref() == Some("old")
        })
        .await;
        if !leaves {
            let moved = moving.await.expect("no panic").expect("renamed").into_inner();
            assert_eq!(moved.item.expect("an item").name, "OLD.TXT");
        }
    }
}
