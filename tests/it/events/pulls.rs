//! Changes by asking: `GetEventToken`, `PullEvents`, `AcknowledgeEvents`.

use std::time::Duration;

use super::*;

async fn token(house: &House, folder: &str) -> String {
    let request = pb::GetEventTokenRequest {
        application_parameter_id: PARAMETER.into(),
        path: folder.into(),
        ..Default::default()
    };
    house.client().get_event_token(request).await.expect("a token").into_inner().resume_token
}

async fn pull(house: &House, token: &str, edit: impl FnOnce(&mut pb::PullEventsRequest)) -> pb::PullEventsResponse {
    let mut request = pb::PullEventsRequest {
        application_parameter_id: PARAMETER.into(),
        resume_token: token.into(),
        ..Default::default()
    };
    edit(&mut request);
    let pulled = tokio::time::timeout(support::PATIENCE, async { house.client().pull_events(request).await });
    pulled.await.expect("in time").expect("an answer").into_inner()
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_runs_now_and_then_gets_what_happened_since_and_no_more() {
    let house = support::start().await;
    make_folder(&house, "/in");
    let start = token(&house, "/in").await;
    let nothing = pull(&house, &start, |_| {}).await;
    assert!(nothing.changes.is_empty() && !nothing.more && !nothing.resume_token.is_empty());
    for n in 0..7 {
        put(&house, &format!("/in/{n}"), "x");
    }
    let (mut place, mut paths) = (nothing.resume_token, Vec::new());
    // Dropbox's word may still be on its way: a pull that waits hears it.
    while paths.len() < 7 {
        let pulled = pull(&house, &place, |asked| (asked.max_events, asked.wait) = (3, seconds(20))).await;
        assert!((1..=3).contains(&pulled.changes.len()), "{pulled:?}");
        paths.extend(pulled.changes.iter().map(|change| path(change).to_owned()));
        place = pulled.resume_token;
    }
    assert_eq!(paths, (0..7).map(|n| format!("/in/{n}")).collect::<Vec<_>>());
    assert!(pull(&house, &place, |_| {}).await.changes.is_empty());
    // The token is good for a watch, too.
    put(&house, "/in/last", "x");
    let mut watch = Watch::open(&house, |asked| (asked.path, asked.start) = ("/in".into(), behind(&place))).await;
    assert_eq!(path(&watch.change().await), "/in/last");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_waits_is_answered_by_the_first_change_or_at_its_time() {
    let house = support::start().await;
    make_folder(&house, "/in");
    let start = token(&house, "/in").await;
    let began = std::time::Instant::now();
    let nothing = pull(&house, &start, |asked| asked.wait = seconds(1)).await;
    assert!(nothing.changes.is_empty() && began.elapsed() >= Duration::from_secs(1));
    let (pulled, ()) = tokio::join!(pull(&house, &nothing.resume_token, |asked| asked.wait = seconds(20)), async {
        let polls = || house.control().counter("files/list_folder/longpoll").running;
        support::until("it waits", || async { polls() == 1 }).await;
        put(&house, "/in/a", "x");
    });
    assert_eq!(pulled.changes.iter().map(path).collect::<Vec<_>>(), ["/in/a"]);
    assert!(began.elapsed() < Duration::from_secs(20), "it did not wait to the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_kept_by_name_is_where_the_next_watch_begins_and_one_watch_holds_it() {
    let house = support::start().await;
    let certain = indexed(&house, "/in").await;
    let named = |asked: &mut pb::WatchEventsRequest| {
        asked.path = "/in".into();
        asked.start = from(pb::StartPosition::Checkpoint);
        asked.checkpoint_name = "indexer".into();
    };
    let keep = |token: String| pb::AcknowledgeEventsRequest {
        application_parameter_id: PARAMETER.into(),
        checkpoint_name: "indexer".into(),
        resume_token: token,
        ..Default::default()
    };
    let mut first = Watch::ready(&house, named).await;
    put(&house, "/in/a", "x");
    put(&house, "/in/b", "x");
    assert_eq!(told(&first.changes(1).await), ["CREATED /in/a"]);
    house.client().acknowledge_events(keep(first.token.clone())).await.expect("kept");
    let mut second = Watch::open(&house, named).await;
    refused(&first.end().await.1, Code::Aborted, "CHECKPOINT_TAKEN_OVER");
    assert_eq!(told(&second.changes(1).await), ["CREATED /in/b"]);
    house.client().acknowledge_events(keep(String::new())).await.expect("forgotten");
    let mut anew = Watch::ready(&house, named).await;
    put(&house, "/in/c", "x");
    assert_eq!(told(&anew.changes(1).await), ["CREATED /in/c"]);
    drop(certain);
}
