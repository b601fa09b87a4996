//! What is wrong with a plan, told by its field, and the limits of one.

use dropbox_connector::emulator::{
    control::Generate,
    script::{Action, Rule},
};
use tonic::Code;
use tonic_types::StatusExt as _;

use super::*;
use crate::support::{fact, reason, retry_delay, start, until};

#[tokio::test]
async fn frames_come_in_their_order_and_a_list_that_breaks_off_is_no_plan() {
    let house = start().await;
    put(&house, "/in/a", "1");
    let frame = |frame: Frame| request(frame);
    let rules_frame = || frame(Frame::Rules(rules(|_| {})));
    let entries = || frame(Frame::Entries(pb::LocalEntries { entries: vec![entry("a", "1")] }));
    let finish = || frame(Frame::Finish(pb::SyncFinish {}));
    let nothing = || pb::PlanSyncRequest { frame: None, ..finish() };
    let cases = [
        ("nothing at all", vec![]),
        ("entries first", vec![entries(), rules_frame(), finish()]),
        ("finish first", vec![finish()]),
        ("an empty message", vec![nothing()]),
        ("rules twice", vec![rules_frame(), rules_frame(), finish()]),
        ("an empty message in between", vec![rules_frame(), nothing(), finish()]),
        ("no finish", vec![rules_frame(), entries()]),
    ];
    for (what, messages) in cases {
        let refused = planned(&house, messages).await.expect_err(what);
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "FRAME_ORDER"), "{what}");
    }
}

#[tokio::test]
async fn what_is_wrong_is_told_by_its_field() {
    let house = start().await;
    put(&house, "/in/a", "1");
    let fields = |status: &Status| -> Vec<String> {
        let violations = status.get_error_details().bad_request().expect("BadRequest").field_violations.clone();
        violations.into_iter().map(|violation| violation.field).collect()
    };
    let bad_entries = [
        entry("a/../../b", "1"),
        pb::LocalEntry { content_hash: "abc".into(), ..entry("b", "1") },
        pb::LocalEntry { base_rev: "nope".into(), ..entry("c", "1") },
        pb::LocalEntry { size: -1, ..entry("d", "1") },
        entry("", "1"),
        pb::LocalEntry { deleted: true, path: "e".into(), ..Default::default() },
    ];
    let refused = plan(&house, rules(|_| {}), &bad_entries).await.expect_err("all of it");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
    let wanted = ["0].path", "1].content_hash", "2].base_rev", "3].size", "4].path", "5].base_rev"];
    assert_eq!(fields(&refused), wanted.map(|field| format!("entries.entries[{field}")));
    let outside = plan(&house, rules(|_| {}), &[entry("../b", "1")]).await.expect_err("outside");
    assert_eq!((outside.code(), reason(&outside).as_str()), (Code::InvalidArgument, "MALFORMED_PATH"));
    let flat = rules(|rules| rules.recursive = Some(false));
    let deep = plan(&house, flat, &[entry("b/c", "1")]).await.expect_err("deeper than asked");
    assert_eq!((reason(&deep).as_str(), fields(&deep)), ("INVALID_FIELD", vec!["entries.entries[0].path".to_owned()]));
    // The last is not even decoded: it would be some 300 MiB in memory.
    let none = pb::LocalEntry::default();
    for (many, decoded) in
        [(vec![none.clone(); 1001], true), (vec![none.clone(); 4097], false), (vec![none; 2_000_000], false)]
    {
        let many = Frame::Entries(pb::LocalEntries { entries: many });
        let frames = vec![request(Frame::Rules(rules(|_| {}))), request(many)];
        let many = planned(&house, frames).await.expect_err("too many");
        assert_eq!((many.code(), reason(&many).as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
        assert!(fields(&many).contains(&"entries.entries".to_owned()), "{many:?}");
        assert_eq!(many.message().contains("these are"), decoded, "{many:?}");
    }
    let globs = pb::ItemFilter { include_globs: vec![String::new(); 5000], ..Default::default() };
    let many = plan(&house, rules(|rules| rules.filter = Some(globs)), &[]).await.expect_err("too many globs");
    assert_eq!((reason(&many).as_str(), fields(&many)), ("INVALID_FIELD", vec!["rules.filter".to_owned()]));
    let huge = pb::LocalEntry { path: "x".repeat(5 * 1024 * 1024), ..entry("b", "1") };
    let huge = plan(&house, rules(|_| {}), &[huge]).await.expect_err("too large");
    assert_eq!((huge.code(), reason(&huge).as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
    for (what, rules, field) in [
        (
            "a filter",
            rules(|rules| rules.filter = Some(pb::ItemFilter { min_size: Some(-1), ..Default::default() })),
            "filter.min_size",
        ),
        ("a path", rules(|rules| rules.path = "id:abcdef".into()), "rules.path"),
        ("a value", rules(|rules| rules.direction = 7), "rules.direction"),
    ] {
        let refused = plan(&house, rules, &[]).await.expect_err(what);
        assert_eq!((refused.code(), fields(&refused)), (Code::InvalidArgument, vec![field.to_owned()]), "{what}");
    }
    let nowhere = plan(&house, rules(|rules| rules.path = "/nowhere".into()), &[]).await.expect_err("nothing there");
    assert_eq!((nowhere.code(), reason(&nowhere).as_str()), (Code::NotFound, "PATH_NOT_FOUND"));
    let file = plan(&house, rules(|rules| rules.path = "/in/a".into()), &[]).await.expect_err("a file");
    assert_eq!((file.code(), reason(&file).as_str()), (Code::FailedPrecondition, "NOT_A_FOLDER"));
}

#[tokio::test]
async fn a_plan_takes_the_right_to_read_and_no_other() {
    let house = start().await;
    put(&house, "/in/a", "1");
    let with = |permission: pb::Permission| {
        move |parameter: &mut pb::ApplicationParameter| {
            let permissions = vec![permission.into()];
            parameter.policy = Some(pb::ParameterPolicy { permissions, ..Default::default() });
        }
    };
    house.make_parameter("reader", with(pb::Permission::Read)).await;
    house.make_parameter("writer", with(pb::Permission::Write)).await;
    let as_one = async |id: &str| {
        let mut messages = messages(rules(|_| {}), &[]);
        messages[0].application_parameter_id = id.into();
        planned(&house, messages).await
    };
    assert_eq!(as_one("reader").await.expect("a plan").summary.downloads, 1);
    let refused = as_one("writer").await.expect_err("no right to read");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::PermissionDenied, "CALLER_NOT_ALLOWED"));
}

#[tokio::test]
async fn a_cursor_that_dropbox_resets_in_the_midst_ends_the_plan() {
    let house = start().await;
    let files = (0..30).map(|n| SeedFile::text(&format!("/in/{n}"), "x")).collect();
    house.control().seed(&Seed { files, ..Seed::default() }).expect("a sound seed");
    house.control().switch(|switches| switches.listing_page = Some(10));
    assert_eq!(plan(&house, rules(|_| {}), &[]).await.expect("three pages").files, 30);
    let reset = Action::Error { error: serde_json::json!({".tag": "reset"}), user_message: None };
    house.control().script([Rule::once("files/list_folder/continue", reset)]).expect("a rule");
    let refused = plan(&house, rules(|_| {}), &[entry("0", "x")]).await.expect_err("reset");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Aborted, "CURSOR_RESET"));
}

#[tokio::test]
async fn a_folder_beyond_the_limit_is_refused_by_the_limits_name_and_the_remedy() {
    let house = start().await;
    let generate = Generate { folder: "/in".into(), files: 100_000, bytes: 0, per_folder: Some(1000) };
    house.control().seed(&Seed { generate: Some(generate), ..Seed::default() }).expect("a sound seed");
    let refused = plan(&house, rules(|_| {}), &[]).await.expect_err("100,000 files and their folders");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::FailedPrecondition, "FOLDER_TOO_LARGE"));
    assert_eq!(fact(&refused, "limit").as_deref(), Some("max_plan_items"));
    assert_eq!(fact(&refused, "limitItems").as_deref(), Some("100000"));
    assert!(refused.message().contains("plan folder by folder"), "{}", refused.message());
    assert_eq!(retry_delay(&refused), None);
    // As it says.
    let part = plan(&house, rules(|rules| rules.path = "/in/007".into()), &[]).await.expect("a part of it");
    assert_eq!((part.files, part.summary.downloads), (1000, 1000));
    let filter = pb::ItemFilter { include_globs: vec!["00*/*".into()], ..Default::default() };
    let some = plan(&house, rules(|rules| rules.filter = Some(filter)), &[]).await.expect("some of it");
    assert_eq!(some.files, 10_000);
    let limits = house.client().get_server_info(pb::GetServerInfoRequest {}).await.expect("told").into_inner().limits;
    let limits = limits.expect("limits");
    assert_eq!((limits.max_plan_items, limits.max_plan_entries), (100_000, 1000));
    assert_eq!(limits.max_plan_bytes, 128 * 1024 * 1024);
}

#[tokio::test]
async fn plans_share_their_memory_and_one_that_vanishes_gives_it_back() {
    let house = start().await;
    put(&house, "/in/a", "1");
    let mut open = Vec::new();
    // One alone has seven eighths of 128 units, of which an open plan takes seven.
    let busy = loop {
        let mut next = Open::begin(&house, rules(|_| {})).await;
        match next.next().await {
            Ok(_) => open.push(next),
            Err(status) => break status,
        }
        assert!(open.len() < 100, "no limit");
    };
    assert_eq!(open.len(), 16);
    assert_eq!((busy.code(), reason(&busy).as_str()), (Code::ResourceExhausted, "CONNECTOR_BUSY"));
    assert_eq!(fact(&busy, "limit").as_deref(), Some("max_plan_bytes"));
    assert!(retry_delay(&busy).is_some());
    // Others find room, and those that have it go on.
    house.make_parameter("other", |_| {}).await;
    let mut messages = messages(rules(|_| {}), &[]);
    messages[0].application_parameter_id = "other".into();
    planned(&house, messages).await.expect("another's plan");
    let last = open.pop().expect("a plan").finish().await;
    assert!(last_answer(last).await.is_some_and(|payload| matches!(payload, Payload::Summary(_))));
    drop(open);
    until("all room is free again", async || {
        let mut plans = Vec::new();
        for _ in 0..16 {
            let mut next = Open::begin(&house, rules(|_| {})).await;
            match next.next().await {
                Ok(_) => plans.push(next),
                Err(_) => return false,
            }
        }
        true
    })
    .await;
}

async fn last_answer(mut answers: Streaming<pb::PlanSyncResponse>) -> Option<Payload> {
    let mut last = None;
    while let Some(answer) = answers.message().await.expect("a good end") {
        last = answer.payload;
    }
    last
}
