//! Folders, deletions, moves and copies that meet at the gate go together, as one job, and nobody but Dropbox notices.

mod jobs;
mod leaving;
mod lost;
mod outcomes;

use std::time::Duration;

use dropbox_connector::emulator::Contention;
use serde_json::Value;

use super::*;
use crate::support;

const LOOK: &str = "files/get_metadata";

/// What all four come to: the item, or why not.
type Changed = Result<pb::Item, Status>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Create,
    Delete,
    Move,
    Copy,
}

const ALL: [What; 4] = [What::Create, What::Delete, What::Move, What::Copy];

impl What {
    fn single(self) -> &'static str {
        match self {
            What::Create => FOLDER,
            What::Delete => "files/delete_v2",
            What::Move => "files/move_v2",
            What::Copy => "files/copy_v2",
        }
    }

    fn launch(self) -> &'static str {
        match self {
            What::Create => "files/create_folder_batch",
            What::Delete => "files/delete_batch",
            What::Move => "files/move_batch_v2",
            What::Copy => "files/copy_batch_v2",
        }
    }

    fn check(self) -> &'static str {
        match self {
            What::Create => "files/create_folder_batch/check",
            What::Delete => "files/delete_batch/check",
            What::Move => "files/move_batch/check_v2",
            What::Copy => "files/copy_batch/check_v2",
        }
    }

    /// Of the file `/folder/n`; folders are made beside it.
    async fn run(self, house: &House, folder: &str, n: usize) -> Changed {
        let path = format!("/{folder}/{n}");
        match self {
            What::Create => create(house, &self.result(folder, n)).await,
            What::Delete => delete(house, &path).await,
            What::Move => relocate(house, movement(&path, &self.result(folder, n))).await,
            What::Copy => duplicate(house, copy(&path, &self.result(folder, n))).await,
        }
    }

    /// Where the outcome is to be seen.
    fn result(self, folder: &str, n: usize) -> String {
        match self {
            What::Delete => format!("/{folder}/{n}"),
            _ => format!("/{folder}/{self:?}-{n}"),
        }
    }

    /// Whether it has happened.
    async fn is_done(self, house: &House, folder: &str, n: usize) -> bool {
        exists(house, &self.result(folder, n)).await != (self == What::Delete)
    }
}

async fn create(house: &House, path: &str) -> Changed {
    create_as(house, pb::CreateFolderRequest { path: path.into(), ..Default::default() }).await
}

async fn create_as(house: &House, request: pb::CreateFolderRequest) -> Changed {
    let request = pb::CreateFolderRequest { application_parameter_id: PARAMETER.into(), ..request };
    Ok(house.client().create_folder(request).await?.into_inner().item.expect("an item"))
}

async fn delete(house: &House, path: &str) -> Changed {
    delete_as(house, pb::DeleteItemRequest { path: path.into(), ..Default::default() }).await
}

async fn delete_as(house: &House, request: pb::DeleteItemRequest) -> Changed {
    let request = pb::DeleteItemRequest { application_parameter_id: PARAMETER.into(), ..request };
    // Where it was not there there is no item, and that is allowed.
    Ok(house.client().delete_item(request).await?.into_inner().item.unwrap_or_default())
}

fn movement(from: &str, to: &str) -> pb::MoveItemRequest {
    let application_parameter_id = PARAMETER.into();
    pb::MoveItemRequest { application_parameter_id, from_path: from.into(), to_path: to.into(), ..Default::default() }
}

async fn relocate(house: &House, request: pb::MoveItemRequest) -> Changed {
    Ok(house.client().move_item(request).await?.into_inner().item.expect("an item"))
}

fn copy(from: &str, to: &str) -> pb::CopyItemRequest {
    let application_parameter_id = PARAMETER.into();
    pb::CopyItemRequest { application_parameter_id, from_path: from.into(), to_path: to.into(), ..Default::default() }
}

async fn duplicate(house: &House, request: pb::CopyItemRequest) -> Changed {
    Ok(house.client().copy_item(request).await?.into_inner().item.expect("an item"))
}

/// So many files, `/folder/0` and on.
fn furnish(house: &House, folder: &str, files: usize) {
    let files: Vec<Value> = (0..files)
        .map(|n| serde_json::json!({ "path": format!("/{folder}/{n}"), "text": format!("file {n}") }))
        .collect();
    let seed = serde_json::json!({ "folders": [format!("/{folder}")], "files": files });
    house.control().seed(&serde_json::from_value(seed).expect("a seed")).expect("seeded");
}

/// Changes that wait at a gate which is held, in this order.
async fn waiting(
    house: &Arc<House>,
    what: What,
    folder: &str,
    range: std::ops::Range<usize>,
) -> Vec<JoinHandle<Changed>> {
    let control = house.control();
    let before = control.counter(LOOK).good;
    // Folders are made without a look.
    let looks = if what == What::Create { 0 } else { range.len() as u64 };
    let changes = range.map(|n| {
        let (house, folder) = (house.clone(), folder.to_owned());
        tokio::spawn(async move { what.run(&house, &folder, n).await })
    });
    let changes = changes.collect();
    until("their items were looked at", async || control.counter(LOOK).good >= before + looks).await;
    // Of folders nothing shows before they are let in.
    for _ in 0..if what == What::Create { 4 } else { 1 } {
        settle(house).await;
    }
    changes
}

async fn ends<T>(calls: Vec<JoinHandle<T>>) -> Vec<T> {
    let answers = tokio::time::timeout(PATIENCE, futures::future::join_all(calls)).await.expect("answered in time");
    answers.into_iter().map(|answer| answer.expect("no panic")).collect()
}

#[track_caller]
fn are_done(answers: &[Changed]) {
    for answer in answers {
        assert!(answer.is_ok(), "{answer:?}");
    }
}

/// Requests that change something.
fn writes(house: &House) -> u64 {
    let control = house.control();
    ALL.iter().map(|what| control.counter(what.single()).calls + control.counter(what.launch()).calls).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_changes_at_once_are_a_handful_of_requests_and_none_is_refused() {
    let house = Arc::new(support::start().await);
    let control = house.control();
    control.switch(|switches| {
        switches.contention = Some(Contention { commit_takes: Duration::from_millis(2), as_409: false });
        switches.jobs_in_progress = Some(1);
    });
    for what in ALL {
        let folder = format!("{what:?}");
        furnish(&house, &folder, 100);
        control.clear_script();
        control.script([Rule::always(what.single(), Action::DelayAnswer { millis: 500 })]).expect("script");
        control.clear_journal();
        let calls = (0..100).map(|n| {
            let (house, folder) = (house.clone(), folder.clone());
            tokio::spawn(async move { what.run(&house, &folder, n).await })
        });
        are_done(&ends(calls.collect()).await);
        nobody_met_contention(&house);
        let requests = writes(&house);
        assert!(requests <= 8, "{what:?}: {requests} requests, {:?}", control.counters());
        assert!(control.counter(what.launch()).calls >= 1 && control.counter(what.check()).calls >= 2, "{what:?}");
        for n in [0, 42, 99] {
            assert!(what.is_done(&house, &folder, n).await, "{what:?} {n}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_alone_is_one_request_and_fewer_than_four_that_wait_go_one_by_one() {
    let house = Arc::new(support::start().await);
    let control = house.control();
    for what in ALL {
        let folder = format!("{what:?}");
        furnish(&house, &folder, 20);
        control.clear_journal();
        are_done(&[what.run(&house, &folder, 10).await]);
        assert_eq!((control.counter(what.single()).calls, writes(&house)), (1, 1), "{what:?}");
        let held = Held::by(&house).await;
        control.clear_journal();
        let three = waiting(&house, what, &folder, 0..3).await;
        held.let_go().await;
        are_done(&ends(three).await);
        assert_eq!((control.counter(what.single()).calls, writes(&house)), (3, 3), "{what:?}");
        let held = Held::by(&house).await;
        control.clear_journal();
        let five = waiting(&house, what, &folder, 3..8).await;
        held.let_go().await;
        are_done(&ends(five).await);
        assert_eq!((control.counter(what.launch()).calls, writes(&house)), (1, 1), "{what:?}");
        // Behind a crowd, too, one alone does not wait.
        are_done(&[what.run(&house, &folder, 11).await]);
        assert_eq!((control.counter(what.single()).calls, writes(&house)), (1, 2), "{what:?}");
    }
    nobody_met_contention(&house);
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_that_meet_never_share_a_batch_and_keep_their_order() {
    let house = Arc::new(support::start().await);
    let control = house.control();
    furnish(&house, "m", 8);
    let held = Held::by(&house).await;
    let mut calls = waiting(&house, What::Move, "m", 0..4).await;
    // Each goes from where the one before it has put the file.
    for (from, to) in [("/m/5", "/m/first"), ("/m/6", "/m/FIRST/below")] {
        let (own, request) = (house.clone(), movement(from, to));
        calls.push(tokio::spawn(async move { relocate(&own, request).await }));
        settle(&house).await;
    }
    held.let_go().await;
    let answers = ends(calls).await;
    are_done(&answers[..5]);
    // The first has made a file of the second's parent.
    let below = answers[5].as_ref().expect_err("a file is above it");
    assert_eq!(
        (reason(below).as_str(), fact(below, "conflictKind").as_deref()),
        ("PATH_CONFLICT", Some("file_ancestor"))
    );
    assert_eq!((control.counter("files/move_batch_v2").calls, control.counter("files/move_v2").calls), (1, 1));

    let held = Held::by(&house).await;
    control.clear_journal();
    let mut calls = waiting(&house, What::Create, "c", 0..4).await;
    for path in ["/c/same", "/C/Same", "/c/same/below"] {
        let own = house.clone();
        calls.push(tokio::spawn(async move { create(&own, path).await }));
        settle(&house).await;
    }
    held.let_go().await;
    let answers = ends(calls).await;
    are_done(&answers[..5]);
    assert_eq!(reason(answers[5].as_ref().expect_err("the first has made it")), "PATH_CONFLICT");
    are_done(&answers[6..]);
    assert_eq!((control.counter("files/create_folder_batch").calls, control.counter(FOLDER).calls), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_do_not_share_a_batch_and_take_turns() {
    const OTHER: &str = "other";
    let house = Arc::new(support::start().await);
    house.make_parameter(OTHER, |_| {}).await;
    let control = house.control();
    let held = Held::by(&house).await;
    let mut calls = waiting(&house, What::Create, "mine", 0..20).await;
    let other = |n: usize| {
        let mut client = house.client();
        let request = pb::CreateFolderRequest {
            application_parameter_id: OTHER.into(),
            path: format!("/other/{n}"),
            ..Default::default()
        };
        tokio::spawn(async move { Ok(client.create_folder(request).await?.into_inner().item.expect("an item")) })
    };
    calls.extend((0..5).map(other));
    // Nothing of what they do shows before they are let in.
    for _ in 0..4 {
        settle(&house).await;
    }
    control.clear_journal();
    held.let_go().await;
    are_done(&ends(calls).await);
    let launches: Vec<usize> = control
        .journal()
        .into_iter()
        .filter(|entry| entry.route == "files/create_folder_batch")
        .map(|entry| entry.arg["paths"].as_array().map_or(0, Vec::len))
        .collect();
    assert_eq!(launches, [5, 20], "whoever had the turn last goes behind the other");
    assert_eq!(control.counter(FOLDER).calls, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_differs_in_what_is_one_for_a_batch_goes_in_batches_of_its_own() {
    let house = Arc::new(support::start().await);
    let control = house.control();
    furnish(&house, "k", 16);
    let held = Held::by(&house).await;
    let mut calls = waiting(&house, What::Copy, "k", 0..4).await;
    for n in 4..8 {
        let house = house.clone();
        calls.push(tokio::spawn(async move {
            let request = copy(&format!("/k/{n}"), &format!("/k/Copy-{n}"));
            duplicate(&house, pb::CopyItemRequest { autorename: true, ..request }).await
        }));
    }
    settle(&house).await;
    control.clear_journal();
    held.let_go().await;
    are_done(&ends(calls).await);
    let launches: Vec<_> = control
        .journal()
        .into_iter()
        .filter(|entry| entry.route == What::Copy.launch())
        .map(|entry| (entry.arg["autorename"] == true, entry.arg["entries"].as_array().map_or(0, Vec::len)))
        .collect();
    assert_eq!(launches.len(), 2);
    assert!(launches.contains(&(true, 4)) && launches.contains(&(false, 4)), "{launches:?}");
    assert_eq!(control.counter(What::Copy.single()).calls, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_in_a_batch_goes_by_itself() {
    let house = Arc::new(support::start().await);
    let control = house.control();
    furnish(&house, "alone", 16);
    let mut folders = Vec::new();
    for n in 0..4 {
        folders.push(create(&house, &format!("/alone/folder-{n}")).await.expect("made"));
    }
    let mut ids = Vec::new();
    for n in 0..4 {
        let request = pb::GetItemRequest {
            application_parameter_id: PARAMETER.into(),
            path: format!("/alone/{n}"),
            ..Default::default()
        };
        let item = house.client().get_item(request).await.expect("there").into_inner().item;
        ids.push(file_of(item.as_ref()).id.clone());
    }
    let held = Held::by(&house).await;
    control.clear_journal();
    let mut calls = Vec::new();
    for (n, id) in ids.into_iter().enumerate() {
        let (one, other, third) = (house.clone(), house.clone(), house.clone());
        calls.push(tokio::spawn(async move { delete(&one, &id).await }));
        let kind = pb::ItemKind::Folder.into();
        let folder = pb::DeleteItemRequest { path: format!("/alone/folder-{n}"), kind, ..Default::default() };
        calls.push(tokio::spawn(async move { delete_as(&other, folder).await }));
        let path = format!("/alone/{}", n + 4);
        let for_ever = pb::DeleteItemRequest { path, permanent: true, ..Default::default() };
        calls.push(tokio::spawn(async move { delete_as(&third, for_ever).await }));
    }
    settle(&house).await;
    held.let_go().await;
    are_done(&ends(calls).await);
    assert_eq!(control.counter(What::Delete.launch()).calls, 0);
    assert_eq!(control.counter(What::Delete.single()).calls, 8);
    assert_eq!(control.counter("files/permanently_delete").calls, 4);
}
