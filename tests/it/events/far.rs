//! Dropbox is far away: every answer takes its time.

use std::time::{Duration, Instant};

use dropbox_connector::emulator::script::{Action, Rule};

use super::{pulls::*, *};

const CONTINUE: &str = "files/list_folder/continue";
const LONGPOLL: &str = "files/list_folder/longpoll";

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_takes_a_few_answers_of_dropbox_whether_something_happened_or_not() {
    let house = support::start().await;
    make_folder(&house, "/in");
    house.control().switch(|switches| switches.answer_takes = Duration::from_millis(200));
    let mut place = token(&house, "/in").await;
    for round in 0..3 {
        let changed = format!("/in/{round}");
        for expected in [&[][..], &[changed.as_str()]] {
            expected.iter().for_each(|path| put(&house, path, "x"));
            house.control().clear_journal();
            let began = Instant::now();
            let pulled = pull(&house, &place, |_| {}).await;
            assert_eq!(pulled.changes.iter().map(path).collect::<Vec<_>>(), expected);
            assert!(!pulled.more && began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
            let asked = house.control().counter(CONTINUE).calls;
            assert!(asked <= 8, "{asked} questions");
            place = pulled.resume_token;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_takes_longer_than_a_heartbeat_is_asked_once_and_its_answer_is_told() {
    let house = support::start().await;
    for n in 0..510 {
        put(&house, &format!("/in/{n:03}"), "x");
    }
    let slow = Rule::always(CONTINUE, Action::DelayAnswer { millis: 7000 });
    house.control().script([slow]).expect("script");
    let mut watch = Watch::open(&house, |asked| {
        (asked.path, asked.start) = ("/in".into(), from(pb::StartPosition::Snapshot));
        asked.heartbeat_interval = Some(prost_types::Duration { seconds: 5, nanos: 0 });
    })
    .await;
    let (mut items, mut beats) = (0u64, 0);
    let count = loop {
        match watch.payload().await {
            Payload::Snapshot(page) => items += page.items.len() as u64,
            Payload::Heartbeat(_) => beats += 1,
            Payload::SnapshotEnd(end) => break end.count,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((items, count), (510, 510));
    assert!((1..=2).contains(&beats), "{beats} heartbeats while the second page was on its way");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_is_revoked_is_noticed_at_the_end_of_a_longpoll_also_where_nothing_happens() {
    let house = support::start().await;
    let control = house.control();
    make_folder(&house, "/in");
    let nothing = Action::Answer {
        status: 200,
        content_type: "application/json".into(),
        body: r#"{"changes": false}"#.into(),
        headers: Vec::new(),
        executed: false,
        unread: false,
    };
    let late = Action::Delay { millis: 3000 };
    control.script([Rule::always(LONGPOLL, late), Rule::always(LONGPOLL, nothing)]).expect("script");
    let mut watch = Watch::ready(&house, |asked| asked.path = "/in".into()).await;
    support::until("it is longpolled", || async { control.counter(LONGPOLL).running == 1 }).await;
    control.revoke(None);
    refused(&watch.end().await.1, Code::FailedPrecondition, "REAUTHORIZATION_REQUIRED");
}
