//! Many watches at once: those that wait for Dropbox, and more folders than may be longpolled.

use std::time::Duration;

use dropbox_connector::emulator::{
    Options,
    script::{Action, Rule},
};
use tokio::task::JoinSet;

use super::*;
use crate::support::until;

const LIST: &str = "files/list_folder";
const LATEST: &str = "files/list_folder/get_latest_cursor";
const LONGPOLL: &str = "files/list_folder/longpoll";
/// Of the 64 that may ask for a cursor at once so many may be of one parameter.
const CROWDED: u64 = 56;
/// Many more than may be opened at once.
const CROWD: usize = 300;
/// Of the 128 that may be opened at once so many may be of one parameter.
const SHARE: u64 = 112;
const STRANGERS: usize = 120;

#[tokio::test(flavor = "multi_thread")]
async fn watches_that_wait_for_dropbox_keep_nobody_elses_from_being_opened() {
    let house = support::start().await;
    let account = house.control().add_account("other@example.com", "Oth", "Er", None);
    let login = house.control().issue(Some(&account), None).expect("tokens of the second account");
    support::make_parameter(&mut house.admin().await, &login, "other", |_| {}).await;
    let folders = (0..CROWD).map(|number| format!("/in/{number}")).collect();
    house.control().seed(&Seed { folders, ..Seed::default() }).expect("folders");
    house.control().script([Rule::always(LATEST, Action::Stall)]).expect("a script");
    let mut crowd = JoinSet::new();
    for number in 0..CROWD {
        let (client, request) = (house.client(), ask(|asked| asked.path = format!("/in/{number}")));
        crowd.spawn(async move { Watch::by(client, request).await });
    }
    until("the crowd is at Dropbox", async || house.control().counter(LATEST).running >= CROWDED).await;
    house.control().clear_script();
    let other = Watch::by(house.client(), ask(|asked| asked.application_parameter_id = "other".into()));
    let mut other = tokio::time::timeout(PATIENCE, other).await.expect("it does not wait for them").expect("a watch");
    while !matches!(other.payload().await, Payload::Ready(_)) {}
    // And it is followed.
    let request = pb::CreateFolderRequest {
        application_parameter_id: "other".into(),
        path: "/made".into(),
        ..Default::default()
    };
    house.client().create_folder(request).await.expect("a folder");
    assert_eq!(path(&other.change().await), "/made");
    assert!(house.control().counter(LATEST).running >= CROWDED, "the crowd waits");
}

/// Whoever names a parameter that nobody has used yet stands with all such until it is read.
#[tokio::test(flavor = "multi_thread")]
async fn watches_of_parameters_that_nobody_has_used_yet_are_told_apart() {
    let house = support::start_bare(Options::default(), |_| {}).await;
    let mut admin = house.admin().await;
    // Each with an account of its own: they share nothing but this server.
    let mut crowd = JoinSet::new();
    for number in 0..=STRANGERS {
        let account = house.control().add_account(&format!("{number}@example.com"), "Some", "One", None);
        let login = house.control().issue(Some(&account), None).expect("its tokens");
        support::make_parameter(&mut admin, &login, &format!("p{number}"), |_| {}).await;
    }
    house.control().script([Rule::always(LIST, Action::Stall)]).expect("a script");
    for number in 1..=STRANGERS {
        let (client, request) = (
            house.client(),
            ask(|asked| {
                asked.application_parameter_id = format!("p{number}");
                asked.start = from(pb::StartPosition::Snapshot);
            }),
        );
        crowd.spawn(async move { Watch::by(client, request).await });
    }
    until("all that one may have are at Dropbox", async || house.control().counter(LIST).running >= SHARE).await;
    let other = Watch::by(house.client(), ask(|asked| asked.application_parameter_id = "p0".into()));
    let mut other = tokio::time::timeout(PATIENCE, other).await.expect("it does not wait for them").expect("a watch");
    assert!(matches!(other.payload().await, Payload::Ready(_)));
    assert!(house.control().counter(LIST).running >= SHARE, "the crowd waits");
}

/// Begins are spread: it takes 30 s.
#[ignore = "1,001 folders begin within 30 s"]
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_folders_are_longpolled_and_the_server_says_that_those_beyond_take_turns() {
    let house = support::start().await;
    let info = async || {
        let info = house.client().get_server_info(pb::GetServerInfoRequest {}).await.expect("what it is like");
        info.into_inner()
    };
    let most = info().await.limits.expect("limits").max_longpolls;
    assert_eq!(most, 1000);
    let folders: Vec<String> = (0..=most).map(|number| format!("/in/{number}")).collect();
    house.control().seed(&Seed { folders: folders.clone(), ..Seed::default() }).expect("folders");
    let mut client = house.other_client().await;
    let mut watches = Vec::new();
    for (number, folder) in folders.into_iter().enumerate() {
        if number % 500 == 0 {
            client = house.other_client().await;
        }
        // Without an index, and two of each folder: they share its longpoll.
        for _ in 0..2 {
            let request = ask(|asked| {
                asked.path.clone_from(&folder);
                asked.classification = pb::Classification::Raw.into();
            });
            watches.push(Watch::by(client.clone(), request).await.expect("a watch"));
        }
    }
    let longpolled = async {
        while !info().await.watches_take_turns || house.control().counter(LONGPOLL).running < 1000 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), longpolled).await.expect("every folder has begun");
    assert_eq!(house.control().counter(LONGPOLL).running_max, 1000);
    assert_eq!(watches.len(), 2002);
}
