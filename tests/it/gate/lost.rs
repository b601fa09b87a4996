//! Batches whose answers are lost, and entries that go alone after all: every file is written once, and nobody is told a guess.

use dropbox_connector::emulator::{
    ResentBlock, SecondFinish,
    control::{Seed, SeedFile},
};
use serde_json::json;
use tonic::Code;

use super::*;
use crate::support;

async fn four(
    house: &Arc<House>,
    folder: &str,
    edit: impl Fn(pb::UploadSpec) -> pb::UploadSpec,
    bytes: &[u8],
) -> Vec<Uploaded> {
    let held = Held::by(house).await;
    let specs = (0..4).map(|n| (edit(spec(&format!("{folder}/{n}"))), bytes)).collect();
    let uploads = queued(house, specs).await;
    held.let_go().await;
    all(uploads).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_commits_whose_answer_is_lost_is_sent_again_and_each_file_is_found() {
    let house = Arc::new(support::start().await);
    let control = house.control();
    let bytes = noise(3000, 1);
    let page = || Action::Answer {
        status: 200,
        content_type: "text/html".into(),
        body: "<html>welcome to this hotel</html>".into(),
        headers: Vec::new(),
        executed: true,
        unread: false,
    };
    let lost = [Action::CutAfter, Action::CutBefore, Action::ServerError { status: 503 }, page()];
    for second in [SecondFinish::NotFound, SecondFinish::Closed, SecondFinish::SameAnswer] {
        control.switch(|switches| switches.second_finish = second);
        for (n, action) in lost.iter().enumerate() {
            control.clear_script();
            control.script([Rule::once(FINISH, action.clone())]).expect("script");
            let folder = format!("/{second:?}-{n}");
            four(&house, &folder, |spec| spec, &bytes).await.iter().for_each(|answer| is_committed(answer, &bytes));
            assert!(control.standing().iter().any(|rule| rule.rule.route == FINISH && rule.fired == 1), "{folder}");
        }
    }
}

/// The answer to the first commit is lost, and with the second one others wrote in the namespace.
fn lost_then_contended(lost: Action) -> [Rule; 2] {
    let failure = json!({ ".tag": "too_many_write_operations" });
    [Rule::nth(FINISH, 1, lost), Rule::nth(FINISH, 2, Action::RefuseEntry { at: 0, failure })]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_was_contended_after_a_lost_answer_is_found_and_its_bytes_are_never_sent_again() {
    let house = Arc::new(support::start().await);
    let control = house.control();
    let bytes = noise(3000, 5);
    for second in [SecondFinish::NotFound, SecondFinish::Closed, SecondFinish::SameAnswer] {
        control.switch(|switches| switches.second_finish = second);
        for (n, lost) in [Action::CutAfter, Action::CutBefore].into_iter().enumerate() {
            control.clear_script();
            control.clear_journal();
            control.script(lost_then_contended(lost)).expect("script");
            let folder = format!("/doubt-{second:?}-{n}");
            four(&house, &folder, |spec| spec, &bytes).await.iter().for_each(|answer| is_committed(answer, &bytes));
            assert_eq!((control.counter(FINISH).calls, control.counter(UPLOAD).calls), (3, 0), "{folder}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_writes_while_an_entry_is_in_doubt_is_not_overwritten_and_the_entry_is_still_found() {
    let house = Arc::new(support::start().await);
    let control = house.control();
    let bytes = noise(3000, 6);
    for mode in [pb::WriteMode::Overwrite, pb::WriteMode::Update] {
        control.clear_script();
        let path = |n| format!("/{mode:?}/{n}");
        let mut specs = Vec::new();
        for n in 0..4 {
            let old = send(&house, spec(&path(n)), b"old").await.expect("written");
            let expected_rev = match mode {
                pb::WriteMode::Update => file_of(old.item.as_ref()).rev.clone(),
                _ => String::new(),
            };
            specs.push((pb::UploadSpec { write_mode: mode.into(), expected_rev, ..spec(&path(n)) }, &bytes[..]));
        }
        control.clear_journal();
        let held = Held::by(&house).await;
        let uploads = queued(&house, specs).await;
        control.script(lost_then_contended(Action::CutAfter)).expect("script");
        held.let_go().await;
        until("one of them is in doubt", async || {
            let counter = control.counter(FINISH);
            counter.calls >= 2 && counter.running == 0
        })
        .await;
        // All four: which of them is the first of the batch is the server's affair.
        let files = (0..4).map(|n| SeedFile::text(&path(n), "newer")).collect();
        control.seed(&Seed { files, ..Seed::default() }).expect("a stranger's writes");
        all(uploads).await.iter().for_each(|answer| is_committed(answer, &bytes));
        for n in 0..4 {
            assert_eq!(control.read(None, &path(n)).as_deref(), Some(&b"newer"[..]), "{}", path(n));
        }
        assert_eq!(control.counter(UPLOAD).calls, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_be_written_twice_is_sent_once_and_told_to_be_unknown() {
    let house = Arc::new(support::start().await);
    let control = house.control();
    let bytes = noise(3000, 2);
    for (n, action) in [Action::CutAfter, Action::CutBefore].into_iter().enumerate() {
        control.clear_script();
        control.clear_journal();
        control.script([Rule::once(FINISH, action)]).expect("script");
        let renamed = |spec| pb::UploadSpec { autorename: true, ..spec };
        for answer in four(&house, &format!("/once-{n}"), renamed, &bytes).await {
            let unknown = answer.expect_err("nobody knows");
            assert_eq!((unknown.code(), reason(&unknown).as_str()), (Code::Unknown, "OUTCOME_UNKNOWN"), "{unknown:?}");
            assert!(retry_delay(&unknown).is_none());
        }
        assert_eq!((control.counter(FINISH).calls, control.counter(UPLOAD).calls), (1, 0), "it is not sent again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_whose_answer_is_lost_are_sent_again_whatever_dropbox_says_of_those_it_has() {
    let house = Arc::new(support::start().await);
    let control = house.control();
    let bytes = noise(3000, 3);
    for resent in [ResentBlock::Accepted, ResentBlock::IncorrectOffset] {
        control.switch(|switches| switches.resent_block = resent);
        for (n, action) in [Action::CutAfter, Action::CutBefore].into_iter().enumerate() {
            control.clear_script();
            control.clear_journal();
            control.script([Rule::once(APPEND, action)]).expect("script");
            let held = Held::by(&house).await;
            let paths: Vec<String> = (0..4).map(|one| format!("/{resent:?}-{n}-{one}")).collect();
            let uploads: Vec<_> = paths.iter().map(|path| spawn(&house, spec(path), &bytes)).collect();
            // All four: who comes later finds a gate that is free.
            until("their bytes are there", async || {
                let answered =
                    control.journal().into_iter().filter(|entry| entry.route == APPEND && entry.status == 200);
                answered.map(|entry| entry.arg["entries"].as_array().map_or(0, Vec::len)).sum::<usize>() >= 4
            })
            .await;
            settle(&house).await;
            held.let_go().await;
            all(uploads).await.iter().for_each(|answer| is_committed(answer, &bytes));
            assert_eq!(control.counter(UPLOAD).calls, 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_go_with_others_goes_alone() {
    let house = Arc::new(support::start().await);
    let control = house.control();
    let bytes = noise(3000, 4);
    let gone = json!({ ".tag": "not_found" });
    let missing = json!({ ".tag": "concurrent_session_missing_data" });
    let lookup = json!({ ".tag": "lookup_failed", "lookup_failed": { ".tag": "not_found" } });
    let refused = |tag: &str| Action::Error { error: json!({ ".tag": tag }), user_message: None };
    for (n, rule) in [
        // First, for later a group has sessions left.
        (3, Rule::always(START, refused("other"))),
        (0, Rule::always(APPEND, Action::RefuseEntry { at: 0, failure: gone })),
        (1, Rule::always(FINISH, Action::RefuseEntry { at: 0, failure: lookup })),
        (2, Rule::always(FINISH, Action::RefuseEntry { at: 0, failure: missing })),
        (4, Rule::always(APPEND, refused("payload_too_large"))),
    ] {
        control.clear_script();
        control.clear_journal();
        control.script([rule]).expect("script");
        let held = Held::by(&house).await;
        let paths: Vec<String> = (0..4).map(|one| format!("/alone-{n}-{one}")).collect();
        let uploads: Vec<_> = paths.iter().map(|path| spawn(&house, spec(path), &bytes)).collect();
        let route = if n == 3 { START } else { APPEND };
        until("it was asked", async || {
            let counter = control.counter(route);
            counter.calls > 0 && counter.running == 0 && (n >= 3 || counter.bytes_in >= 4 * 3000)
        })
        .await;
        settle(&house).await;
        held.let_go().await;
        all(uploads).await.iter().for_each(|answer| is_committed(answer, &bytes));
        let single = control.counter(UPLOAD).calls;
        assert!((1..=4).contains(&single), "{n}: {single}");
        paths.iter().for_each(|path| assert!(control.read(None, path).as_deref() == Some(&bytes), "{path}"));
    }
}
