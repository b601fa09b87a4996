//! Appends of a parallel upload that hang on a bad connection: dropped, and sent again on another, once.

use dropbox_connector::{
    api::v1 as pb,
    emulator::{
        ResentBlock,
        script::{Action, Rule},
    },
};
use tokio::time::timeout;

use crate::support::{self, streams::*, *};

const APPEND: &str = "files/upload_session/append_v2";

/// Offsets of the appends that came through, and how many others there were: of those that hang nobody reads what they are.
fn offsets(house: &House) -> (Vec<u64>, usize) {
    let asked: Vec<_> = house.control().journal().into_iter().filter(|entry| entry.route == APPEND).collect();
    let mut known: Vec<_> = asked.iter().filter_map(|entry| entry.arg["cursor"]["offset"].as_u64()).collect();
    known.sort_unstable();
    let others = asked.len() - known.len();
    (known, others)
}

/// Uploads 48 MiB with 4 appends in flight, of which the `nth` is one that goes wrong as `action` says.
async fn one_goes_wrong(house: &House, path: &str, nth: u64, action: Action) {
    let control = house.control();
    let bytes = noise(48 * MIB + 5, 1);
    control.clear_script();
    control.clear_journal();
    control.script([Rule::nth(APPEND, nth, action.clone())]).expect("script");
    let spec = pb::UploadSpec { parallel_appends: 4, ..spec(path) };
    let answer = timeout(PATIENCE, upload(house, spec, &bytes)).await.expect("it does not wait for the line's timeout");
    let answer = answer.unwrap_or_else(|fault| panic!("{path}: {fault:?}"));
    assert_eq!((answer.content_hash, answer.verified), (content_hash(&bytes), true), "{path}");
    assert!(control.read(None, path).as_deref() == Some(&bytes), "{path}");
    let (seen, others) = offsets(house);
    let parts: Vec<u64> = (0..=6).map(|n| n * 8 * MIB as u64).collect();
    assert_eq!((seen, others), (parts, 1), "one part was sent twice, and no other");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_that_is_never_answered_goes_again_on_another_connection() {
    let house = support::start().await;
    one_goes_wrong(&house, "/silent", 2, Action::Stall).await;
    until("its connection is closed", || async { house.control().counter(APPEND).running == 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_append_is_compared_with_those_before_it() {
    let house = support::start().await;
    // Six parts and the tail, which closes the session.
    one_goes_wrong(&house, "/tail", 7, Action::Stall).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_on_a_slow_connection_goes_again_on_another() {
    let house = support::start().await;
    one_goes_wrong(&house, "/slow", 3, Action::Bandwidth { bytes_per_second: 100_000 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_that_was_taken_and_not_answered_does_no_harm_however_dropbox_takes_the_second_one() {
    let house = support::start().await;
    for resent in [ResentBlock::Accepted, ResentBlock::IncorrectOffset] {
        house.control().switch(|switches| switches.resent_block = resent);
        let hangs = Action::DelayAnswer { millis: 3_600_000 };
        let control = house.control();
        let bytes = noise(48 * MIB + 5, 2);
        let path = format!("/{resent:?}");
        control.clear_script();
        control.script([Rule::nth(APPEND, 2, hangs)]).expect("script");
        let spec = pb::UploadSpec { parallel_appends: 4, ..spec(&path) };
        let answer = timeout(PATIENCE, upload(&house, spec, &bytes)).await.expect("in time");
        let answer = answer.unwrap_or_else(|fault| panic!("{path}: {fault:?}"));
        assert_eq!((answer.content_hash, answer.verified), (content_hash(&bytes), true), "{path}");
        assert!(control.read(None, &path).as_deref() == Some(&bytes), "{path}");
    }
}
