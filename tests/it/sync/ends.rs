//! Callers that leave, that do not read, that send everything first; parameters that go.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use dropbox_connector::emulator::script::{Action, Rule};
use tonic::{Code, Status};

use super::*;
use crate::support::{PATIENCE, reason, retry_delay, start, start_with, until};

fn many(from: usize, to: usize) -> Vec<pb::LocalEntry> {
    (from..to).map(|n| entry(&format!("a folder/file {n:06}.txt"), "x")).collect()
}

/// The same with paths of 420 bytes, so that no window of either side takes the answers.
fn long(from: usize, to: usize) -> Vec<pb::LocalEntry> {
    let folder = vec!["d".repeat(200); 2].join("/");
    (from..to).map(|n| entry(&format!("{folder}/file {n:06}.txt"), "x")).collect()
}

#[tokio::test]
async fn a_caller_may_send_five_thousand_entries_before_it_reads_and_before_the_folder_is_listed() {
    let house = start().await;
    put(&house, "/in/a", "1");
    house.control().script([Rule::once("files/list_folder", Action::Stall)]).expect("a rule");
    let open = Open::begin(&house, rules(|_| {})).await;
    let sending = async {
        for n in 0..5 {
            open.send(many(n * 1000, (n + 1) * 1000)).await;
        }
        open.finish().await
    };
    let answers = tokio::time::timeout(PATIENCE, sending).await.expect("all was sent though nothing was read");
    // What was sent may have arrived before the question to Dropbox has.
    until("Dropbox is asked", async || house.control().counter("files/list_folder").running == 1).await;
    drop(answers);
    until("the question to Dropbox is dropped", async || house.control().counter("files/list_folder").running == 0)
        .await;

    // The same with a Dropbox that answers: nothing is read until all is sent.
    let open = Open::begin(&house, rules(|_| {})).await;
    for n in 0..5 {
        open.send(many(n * 1000, (n + 1) * 1000)).await;
    }
    let told = told(open.finish().await).await.expect("a plan");
    assert_eq!((told.summary.uploads, told.summary.downloads), (5000, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_does_not_read_is_not_read_from_and_goes_on_when_it_does() {
    const MESSAGES: usize = 60;
    let house = start().await;
    put(&house, "/in/a", "1");
    let Open { frames, answers } = Open::begin(&house, rules(|_| {})).await;
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    let sending = tokio::spawn(async move {
        for n in 0..MESSAGES {
            let entries = Frame::Entries(pb::LocalEntries { entries: long(n * 1000, (n + 1) * 1000) });
            frames.send(request(entries)).await.expect("the server reads on");
            counted.store(n + 1, Ordering::Relaxed);
        }
        frames.send(request(Frame::Finish(pb::SyncFinish {}))).await.expect("the server reads on");
    });
    // Where it comes to a stand is seen by waiting; a slow machine only makes it look so sooner.
    let mut before = usize::MAX;
    while before != sent.load(Ordering::Relaxed) {
        before = sent.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(before < MESSAGES, "all of {MESSAGES} messages were taken though no answer was");
    let told = tokio::time::timeout(2 * PATIENCE, told(answers)).await.expect("in time").expect("a plan");
    assert_eq!((told.summary.uploads, told.summary.downloads), (60_000, 1));
    sending.await.expect("sent");
}

#[tokio::test]
async fn a_caller_that_vanishes_in_the_midst_leaves_nothing_behind() {
    let mut house = start().await;
    put(&house, "/in/a", "1");
    let mut open = Open::listed(&house, rules(|_| {})).await;
    open.send(many(0, 1000)).await;
    assert!(matches!(open.next().await, Ok(Some(Payload::Batch(_)))));
    drop(open);
    // And one while Dropbox is being asked.
    house.control().script([Rule::once("files/list_folder", Action::Stall)]).expect("a rule");
    let open = Open::begin(&house, rules(|_| {})).await;
    let running = || house.control().counter("files/list_folder").running;
    until("Dropbox is asked", async || running() == 1).await;
    drop(open);
    until("the question is dropped", async || running() == 0).await;
    // A drain waits for every task: it would be cut, and say so, if one were left.
    let stopping = tokio::time::timeout(PATIENCE, house.take_app().stop()).await;
    stopping.expect("in time").expect("nothing had to be cut");
}

#[tokio::test]
async fn a_plan_ends_when_its_parameter_may_not_be_used_any_more() {
    let house = start().await;
    put(&house, "/in/a", "1");
    let mut open = Open::listed(&house, rules(|_| {})).await;
    let delete =
        pb::DeleteApplicationParameterRequest { application_parameter_id: PARAMETER.into(), ..Default::default() };
    house.admin().await.delete_application_parameter(delete).await.expect("deleted");
    let status = open.next().await.expect_err("it is gone");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "APPLICATION_PARAMETER_NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_whose_caller_neither_sends_nor_reads_ends_and_may_be_begun_again() {
    let house = start_with(|config| config.plan_idle = Duration::from_secs(2)).await;
    put(&house, "/in/a", "1");
    let idle = |status: &Status| {
        assert_eq!((status.code(), reason(status).as_str()), (Code::DeadlineExceeded, "UPLOAD_IDLE"), "{status:?}");
        assert!(retry_delay(status).is_some());
    };
    let mut silent = Open::listed(&house, rules(|_| {})).await;
    idle(&silent.next().await.expect_err("nothing is sent"));
    let Open { frames, answers } = Open::begin(&house, rules(|_| {})).await;
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    let sending = tokio::spawn(async move {
        for n in 0.. {
            let entries = Frame::Entries(pb::LocalEntries { entries: long(n * 1000, (n + 1) * 1000) });
            if frames.send(request(entries)).await.is_err() {
                return;
            }
            counted.store(n + 1, Ordering::Relaxed);
        }
    });
    // It stands still for longer than it may. That it has ended comes behind the answers, so nothing tells before they are read.
    let mut before = usize::MAX;
    while before != sent.load(Ordering::Relaxed) {
        before = sent.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(4)).await;
    }
    idle(&told(answers).await.map(drop).expect_err("behind what was answered"));
    tokio::time::timeout(PATIENCE, sending).await.expect("nobody takes more").expect("no panic");
    // Whoever sends and reads now and then has more time than that.
    let mut open = Open::listed(&house, rules(|_| {})).await;
    for n in 0..4 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        open.send(many(n * 1000, (n + 1) * 1000)).await;
        assert!(matches!(open.next().await, Ok(Some(Payload::Batch(_)))));
    }
    let (mut answers, mut last) = (open.finish().await, None);
    while let Some(answer) = answers.message().await.expect("a plan") {
        last = answer.payload;
    }
    assert!(matches!(last, Some(Payload::Summary(summary)) if summary.downloads == 1));
}
