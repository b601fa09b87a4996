//! Whoever leaves before the batch was sent has changed nothing; whoever leaves later is told that it was sent.

use tonic::{Code, Request};

use super::*;
use crate::support;

const ID: &str = "3b241101-e2bb-4255-8caf-4136c566a962";

#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_caller_leaves_the_queue_is_not_made_and_the_others_are() {
    let house = Arc::new(support::start().await);
    for what in ALL {
        let folder = format!("{what:?}");
        furnish(&house, &folder, 6);
        let held = Held::by(&house).await;
        let mut calls = waiting(&house, what, &folder, 0..6).await;
        let gone = calls.remove(2);
        gone.abort();
        let _ = gone.await;
        // The server hears of it in its own time.
        for _ in 0..4 {
            settle(&house).await;
        }
        held.let_go().await;
        are_done(&ends(calls).await);
        for n in 0..6 {
            assert_eq!(what.is_done(&house, &folder, n).await, n != 2, "{what:?} {n}");
        }
        assert_eq!(house.control().counter(what.launch()).calls, 1, "{what:?}");
    }
}

async fn delete_within(house: &House, path: &str, time: Duration) -> Changed {
    let application_parameter_id = PARAMETER.into();
    let mut request =
        Request::new(pb::DeleteItemRequest { application_parameter_id, path: path.into(), ..Default::default() });
    request.set_timeout(time);
    Ok(house.patient().await.delete_item(request).await?.into_inner().item.expect("an item"))
}

/// What goes over a connection of its own may come later than what settles.
fn was_looked_at(house: &House, path: &str) -> bool {
    house.control().journal().into_iter().any(|entry| entry.ended && entry.route == LOOK && entry.arg["path"] == path)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_in_the_queue_tells_that_nothing_was_sent() {
    let house = Arc::new(support::start().await);
    furnish(&house, "d", 8);
    let held = Held::by(&house).await;
    let calls = waiting(&house, What::Delete, "d", 0..5).await;
    let late = delete_within(&house, "/d/6", Duration::from_secs(3)).await.expect_err("too late");
    assert_eq!((late.code(), reason(&late).as_str()), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
    assert_eq!((fact(&late, "sent").as_deref(), retry_delay(&late)), (Some("false"), Some(Duration::ZERO)));
    assert!(fact(&late, "queueWait").is_some());
    held.let_go().await;
    are_done(&ends(calls).await);
    assert!(exists(&house, "/d/6").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_behind_the_launch_tells_that_it_was_sent_and_it_happens() {
    let house = Arc::new(support::start().await);
    let control = house.control();
    furnish(&house, "s", 8);
    control.script([Rule::once(What::Delete.launch(), Action::Delay { millis: 22_000 })]).expect("script");
    let held = Held::by(&house).await;
    let calls = waiting(&house, What::Delete, "s", 0..5).await;
    let late = {
        let house = house.clone();
        tokio::spawn(async move { delete_within(&house, "/s/6", Duration::from_secs(15)).await })
    };
    until("its item was looked at", async || was_looked_at(&house, "/s/6")).await;
    settle(&house).await;
    held.let_go().await;
    let late = late.await.expect("no panic").expect_err("too late");
    assert_eq!((late.code(), reason(&late).as_str()), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
    assert_eq!((fact(&late, "sent").as_deref(), retry_delay(&late)), (Some("true"), None), "{late:?}");
    assert!(exists(&house, "/s/6").await, "Dropbox takes its time");
    are_done(&ends(calls).await);
    assert!(!exists(&house, "/s/6").await, "it was sent");
    assert_eq!(control.counter(What::Delete.launch()).calls, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_goes_on_when_its_callers_leave_and_a_repeat_with_the_request_id_gets_the_answer() {
    let house = Arc::new(support::start().await);
    let control = house.control();
    furnish(&house, "r", 8);
    control.switch(|switches| switches.jobs_in_progress = Some(1));
    control.script([Rule::once(What::Move.launch(), Action::Delay { millis: 1000 })]).expect("script");
    let held = Held::by(&house).await;
    let calls = waiting(&house, What::Move, "r", 0..5).await;
    let request = pb::MoveItemRequest { request_id: ID.into(), ..movement("/r/6", "/r/kept") };
    let kept = {
        let (house, request) = (house.clone(), request.clone());
        tokio::spawn(async move { relocate(&house, request).await })
    };
    until("its item was looked at", async || was_looked_at(&house, "/r/6")).await;
    settle(&house).await;
    held.let_go().await;
    until("it was sent", async || control.counter(What::Move.launch()).calls == 1).await;
    for call in calls {
        call.abort();
    }
    kept.abort();
    let item = relocate(&house, request.clone()).await.expect("the first one's answer");
    assert_eq!(item.name, "kept");
    assert_eq!(relocate(&house, request).await.expect("the same").name, "kept");
    for n in 0..5 {
        assert!(What::Move.is_done(&house, "r", n).await, "it was sent");
    }
    assert_eq!((control.counter(What::Move.launch()).calls, control.counter(What::Move.single()).calls), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_down_changes_what_is_queued() {
    let mut house = support::start().await;
    let control = house.control();
    control.script([Rule::once(FOLDER, Action::DelayAnswer { millis: 4000 })]).expect("script");
    let slow = slow_folder(&house);
    until("the turn is taken", async || control.counter(FOLDER).running == 1).await;
    let folder = |n: usize| {
        let mut client = house.client();
        let application_parameter_id = PARAMETER.into();
        let path = format!("/down/{n}");
        let request = pb::CreateFolderRequest { application_parameter_id, path, ..Default::default() };
        tokio::spawn(async move { client.create_folder(request).await })
    };
    let calls: Vec<_> = (0..20).map(folder).collect();
    for _ in 0..4 {
        settle(&house).await;
    }
    house.take_app().stop().await.expect("nothing is cut");
    slow.await.expect("no panic").expect("made");
    for answer in ends(calls).await {
        answer.expect("made");
    }
    assert_eq!(control.counter(What::Create.launch()).calls, 1);
}
