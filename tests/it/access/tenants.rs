//! Tenants beside each other: what one application parameter is limited to, and that its load does not hold up another.

use dropbox_connector::{
    api::v1 as pb,
    emulator::script::{Action, Rule},
};
use tokio::task::JoinSet;
use tonic::Code;

use crate::support::{House, make_parameter, start_bare, until};

const ROUTE: &str = "files/get_metadata";
/// More than one account may have in flight, many times over.
const FLOOD: usize = 640;

/// Asks Dropbox for an item that is not there.
async fn asks(house: &House, id: &str) {
    let request = pb::GetItemRequest { application_parameter_id: id.into(), path: "/x".into(), ..Default::default() };
    let status = house.client().get_item(request).await.expect_err("not there");
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
}

/// Of the 64 requests in flight of an account, those of one parameter alone.
const ALONE: u64 = 56;

/// `busy` and `modest`; a call of Dropbox's takes a second.
async fn tenants(busy: impl FnOnce(&mut pb::ApplicationParameter), own_account: bool) -> House {
    let house = start_bare(Default::default(), |_| {}).await;
    let mut admin = house.admin().await;
    make_parameter(&mut admin, &house.emulator.account(), "busy", busy).await;
    let login = match own_account {
        false => house.emulator.account(),
        true => {
            let account = house.control().add_account("modest@example.com", "Mo", "Dest", None);
            house.control().issue(Some(&account), None).expect("tokens of the second account")
        }
    };
    make_parameter(&mut admin, &login, "modest", |_| {}).await;
    // Roots and tokens are asked for before anything is counted.
    asks(&house, "busy").await;
    asks(&house, "modest").await;
    house.control().script([Rule::always(ROUTE, Action::Delay { millis: 1000 })]).expect("script");
    house
}

/// Runs the flood of `busy` until as many of its calls as may be are at Dropbox.
async fn flood(house: &House, in_flight: u64) -> JoinSet<Result<(), Code>> {
    let mut calls = JoinSet::new();
    for _ in 0..FLOOD {
        let mut client = house.client();
        let request =
            pb::GetItemRequest { application_parameter_id: "busy".into(), path: "/x".into(), ..Default::default() };
        calls.spawn(async move {
            match client.get_item(request).await.map(drop) {
                Err(status) if status.code() != Code::NotFound => Err(status.code()),
                _ => Ok(()),
            }
        });
    }
    until("the flood is at Dropbox", async || house.control().counter(ROUTE).running_max >= in_flight).await;
    calls
}

/// `modest` gets its answer while most of the flood still waits, and every call of the flood its own.
async fn is_not_held_up(house: &House, mut calls: JoinSet<Result<(), Code>>) {
    asks(house, "modest").await;
    let answered = std::iter::from_fn(|| calls.try_join_next()).count();
    assert!(answered < FLOOD / 2, "{answered} of {FLOOD} calls of the other tenant went first");
    house.control().clear_script();
    while let Some(call) = calls.join_next().await {
        call.expect("no panic").expect("answered");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_on_one_account_does_not_hold_up_another() {
    let house = tenants(|_| {}, true).await;
    let calls = flood(&house, ALONE).await;
    is_not_held_up(&house, calls).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_one_parameter_does_not_hold_up_another_of_the_same_account() {
    let house = tenants(|_| {}, false).await;
    let calls = flood(&house, ALONE).await;
    is_not_held_up(&house, calls).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parameter_with_max_concurrency_leaves_its_account_to_others_and_never_has_more_in_flight() {
    let limit = |parameter: &mut pb::ApplicationParameter| {
        parameter.policy = Some(pb::ParameterPolicy { max_concurrency: 4, ..Default::default() });
    };
    let house = tenants(limit, false).await;
    let calls = flood(&house, 4).await;
    is_not_held_up(&house, calls).await;
    // Those of the other tenant went one at a time.
    assert!(house.control().counter(ROUTE).running_max <= 5, "{:?}", house.control().counter(ROUTE));
}
