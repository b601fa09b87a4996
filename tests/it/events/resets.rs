//! Dropbox drops its cursor: what differs is told, or the watch fails if that was asked for.

use dropbox_connector::emulator::script::{Action, Rule};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reset_only_true_differences_are_told() {
    let house = support::start().await;
    for name in ["keep", "edit", "drop"] {
        put(&house, &format!("/in/{name}"), "1");
    }
    let mut watch = indexed(&house, "/in").await;
    // All has happened before anybody hears that the cursor is gone.
    let down = Rule::always("files/list_folder/continue", Action::ServerError { status: 503 });
    house.control().script([down]).expect("a rule");
    put(&house, "/in/edit", "2");
    put(&house, "/in/new", "1");
    delete(&house, "/in/drop", pb::ItemKind::File).await;
    house.control().reset_cursors();
    house.control().clear_script();
    let reset = loop {
        match watch.payload().await {
            Payload::CursorReset(reset) => break reset,
            // The longpoll may have heard of the first of them before the cursor went.
            Payload::Change(_) | Payload::BatchEnd(_) | Payload::Heartbeat(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert!(reset.resync && !reset.reason.is_empty(), "{reset:?}");
    let mut changes = Vec::new();
    loop {
        match watch.payload().await {
            Payload::Ready(_) => break,
            Payload::Change(change) => {
                assert_eq!(change.basis(), pb::EventBasis::Synthetic);
                changes.push(change);
            }
            _ => {}
        }
    }
    let mut changes = told(&changes);
    changes.sort();
    assert_eq!(changes, ["CREATED /in/new", "DELETED /in/drop", "UPDATED /in/edit"]);
    put(&house, "/in/later", "1");
    assert_eq!(told(&watch.changes(1).await), ["CREATED /in/later"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_want_a_resync_is_told_that_the_token_is_spent() {
    let house = support::start().await;
    let certain = indexed(&house, "/in").await;
    let mut watch = Watch::ready(&house, |asked| {
        (asked.path, asked.on_reset) = ("/in".into(), pb::ResetPolicy::Fail.into());
    })
    .await;
    house.control().reset_cursors();
    put(&house, "/in/a", "x");
    let (_, status) = watch.end().await;
    refused(&status, Code::FailedPrecondition, "RESUME_TOKEN_EXPIRED");
    assert!(support::retry_delay(&status).is_none());
    drop(certain);
}
