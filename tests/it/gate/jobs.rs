//! Deletions, folders, moves and copies that wait together go as one job; a few go one by one.

use tonic::Code;

use super::*;
use crate::support;

const FOLDERS: &str = "files/create_folder_batch";

/// A write whose caller waits in a task of its own; what it is told, shortly.
type Written = JoinHandle<Result<String, (Code, String)>>;

fn told<T>(
    answer: Result<tonic::Response<T>, Status>,
    name: impl FnOnce(T) -> Option<pb::Item>,
) -> Result<String, (Code, String)> {
    match answer {
        Ok(answer) => Ok(name(answer.into_inner()).expect("an item").name),
        Err(status) => Err((status.code(), reason(&status))),
    }
}

fn create(house: &House, path: &str) -> Written {
    let (mut client, path) = (house.client(), path.to_owned());
    tokio::spawn(async move {
        let request =
            pb::CreateFolderRequest { application_parameter_id: PARAMETER.into(), path, ..Default::default() };
        told(client.create_folder(request).await, |answer| answer.item)
    })
}

fn delete(house: &House, path: &str) -> Written {
    let (mut client, path) = (house.client(), path.to_owned());
    tokio::spawn(async move {
        let request = pb::DeleteItemRequest { application_parameter_id: PARAMETER.into(), path, ..Default::default() };
        told(client.delete_item(request).await, |answer| answer.item)
    })
}

fn relocate(house: &House, from: &str, to: &str, copies: bool) -> Written {
    let (mut client, from_path, to_path) = (house.client(), from.to_owned(), to.to_owned());
    tokio::spawn(async move {
        let application_parameter_id = PARAMETER.to_owned();
        if copies {
            let request = pb::CopyItemRequest { application_parameter_id, from_path, to_path, ..Default::default() };
            return told(client.copy_item(request).await, |answer| answer.item);
        }
        let request = pb::MoveItemRequest { application_parameter_id, from_path, to_path, ..Default::default() };
        told(client.move_item(request).await, |answer| answer.item)
    })
}

/// Writes that all wait at a gate which is held. They have looked at what they change, and nothing is under way.
async fn together(
    house: &House,
    looks: u64,
    writes: impl FnOnce() -> Vec<Written>,
) -> Vec<Result<String, (Code, String)>> {
    let control = house.control();
    let held = Held::by(house).await;
    let before = control.counter("files/get_metadata").good;
    let writes = writes();
    until("they have looked", async || control.counter("files/get_metadata").good >= before + looks).await;
    // Calls behind them on the same connection: by then they wait.
    for _ in 0..20 {
        house.client().get_server_info(pb::GetServerInfoRequest {}).await.expect("told");
    }
    held.let_go().await;
    let answers = tokio::time::timeout(PATIENCE, futures::future::join_all(writes)).await.expect("answered in time");
    answers.into_iter().map(|answer| answer.expect("no panic")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_go_as_one_job_and_each_has_its_own_outcome() {
    let house = support::start().await;
    let control = house.control();
    control.switch(|switches| switches.jobs_in_progress = Some(1));
    for n in 0..6 {
        for folder in ["gone", "moved", "copied"] {
            upload(&house, spec(&format!("/{folder}/{n}")), b"x").await.expect("seeded");
        }
    }
    upload(&house, spec("/taken"), b"y").await.expect("seeded");
    let names = |answers: &[Result<String, (Code, String)>]| -> Vec<String> {
        answers.iter().map(|answer| answer.clone().unwrap_or_else(|(_, reason)| reason)).collect()
    };
    control.clear_journal();
    let made = together(&house, 0, || {
        let paths = ["/made/a", "/made/b", "/taken", "/made/c", "/made/d"];
        paths.into_iter().map(|path| create(&house, path)).collect()
    })
    .await;
    assert_eq!(names(&made), ["a", "b", "PATH_CONFLICT", "c", "d"]);
    let gone = together(&house, 6, || (0..6).map(|n| delete(&house, &format!("/gone/{n}"))).collect()).await;
    assert_eq!(names(&gone), ["0", "1", "2", "3", "4", "5"]);
    let copied = together(&house, 6, || {
        (0..6).map(|n| relocate(&house, &format!("/copied/{n}"), &format!("/copies/{n}c"), true)).collect()
    })
    .await;
    assert_eq!(names(&copied), ["0c", "1c", "2c", "3c", "4c", "5c"]);
    let moved = together(&house, 6, || {
        let to = |n| if n == 3 { "/taken".to_owned() } else { format!("/there/{n}m") };
        (0..6).map(|n| relocate(&house, &format!("/moved/{n}"), &to(n), false)).collect()
    })
    .await;
    assert_eq!(names(&moved), ["0m", "1m", "2m", "PATH_CONFLICT", "4m", "5m"]);
    for (route, single) in [
        ("files/create_folder_batch", "files/create_folder_v2"),
        ("files/delete_batch", "files/delete_v2"),
        ("files/copy_batch_v2", "files/copy_v2"),
        ("files/move_batch_v2", "files/move_v2"),
    ] {
        assert_eq!(control.counter(route).calls, 1, "{route}");
        // Those that hold the gate are folders; a task that was late may have gone by itself.
        assert!(control.counter(single).calls <= if single == FOLDER { 5 } else { 1 }, "{single}");
    }
    assert!(control.read(None, "/gone/0").is_none() && control.read(None, "/there/5m").is_some());
    assert!(control.read(None, "/copied/1").is_some() && control.read(None, "/copies/1c").is_some());
    nobody_met_contention(&house);
}

#[tokio::test(flavor = "multi_thread")]
async fn three_go_one_by_one_and_paths_that_meet_never_share_a_job() {
    let house = support::start().await;
    let control = house.control();
    let three = together(&house, 0, || ["/x", "/y", "/z"].into_iter().map(|path| create(&house, path)).collect()).await;
    assert!(three.iter().all(Result::is_ok), "{three:?}");
    assert_eq!((control.counter(FOLDERS).calls, control.counter(FOLDER).calls), (0, 4));
    let nested = together(&house, 0, || {
        ["/n", "/n/n", "/n/n/n", "/n/n/n/n", "/n/n/n/n/n"].into_iter().map(|path| create(&house, path)).collect()
    })
    .await;
    // Which of them is first makes those above it, too.
    assert!(nested.iter().any(Result::is_ok), "{nested:?}");
    assert_eq!(control.counter(FOLDERS).calls, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_answer_is_lost_is_looked_up_entry_by_entry() {
    let house = support::start().await;
    let control = house.control();
    for (n, action) in [Action::CutAfter, Action::CutBefore].into_iter().enumerate() {
        for file in 0..5 {
            upload(&house, spec(&format!("/lost-{n}/{file}")), b"x").await.expect("seeded");
        }
        control.clear_script();
        control.script([Rule::once("files/delete_batch", action.clone())]).expect("script");
        let gone =
            together(&house, 5, || (0..5).map(|file| delete(&house, &format!("/lost-{n}/{file}"))).collect()).await;
        let mut unknown = 0;
        for (file, answer) in gone.iter().enumerate() {
            let there = control.read(None, &format!("/lost-{n}/{file}")).is_some();
            match answer {
                Ok(_) => assert!(!there, "{file}"),
                // It may be under way still, for all that anybody knows.
                Err((code, reason)) => {
                    assert_eq!((*code, reason.as_str(), there), (Code::Unknown, "OUTCOME_UNKNOWN", true), "{file}");
                    unknown += 1;
                }
            }
        }
        match action {
            Action::CutAfter => assert_eq!(unknown, 0, "a look finds them gone"),
            _ => assert!(unknown >= 4, "{unknown}"),
        }
    }
}
