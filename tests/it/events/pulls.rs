//! Changes by asking: `GetEventToken`, `PullEvents`, `AcknowledgeEvents`.

use std::time::Duration;

use super::*;

pub(super) async fn token(house: &House, folder: &str) -> String {
    let request = pb::GetEventTokenRequest {
        application_parameter_id: PARAMETER.into(),
        path: folder.into(),
        ..Default::default()
    };
    house.client().get_event_token(request).await.expect("a token").into_inner().resume_token
}

pub(super) async fn pull(
    house: &House,
    token: &str,
    edit: impl FnOnce(&mut pb::PullEventsRequest),
) -> pb::PullEventsResponse {
    try_pull(house, token, edit).await.expect("an answer")
}

async fn try_pull(
    house: &House,
    token: &str,
    edit: impl FnOnce(&mut pb::PullEventsRequest),
) -> Result<pb::PullEventsResponse, Status> {
    let mut request = pb::PullEventsRequest {
        application_parameter_id: PARAMETER.into(),
        resume_token: token.into(),
        ..Default::default()
    };
    edit(&mut request);
    let pulled = tokio::time::timeout(support::PATIENCE, async { house.client().pull_events(request).await });
    pulled.await.expect("in time").map(tonic::Response::into_inner)
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
async fn who_takes_less_at_once_than_dropbox_gives_comes_to_the_end_all_the_same() {
    let house = support::start().await;
    make_folder(&house, "/in");
    // Nobody watches: it is Dropbox's cursor alone.
    let mut place = token(&house, "/in").await;
    for n in 0..12 {
        put(&house, &format!("/in/{n:02}"), "x");
    }
    let mut paths = Vec::new();
    for _ in 0..4 {
        let pulled = pull(&house, &place, |asked| (asked.max_events, asked.wait) = (3, seconds(20))).await;
        paths.extend(pulled.changes.iter().map(|change| path(change).to_owned()));
        place = pulled.resume_token;
    }
    assert_eq!(paths, (0..12).map(|n| format!("/in/{n:02}")).collect::<Vec<_>>());
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
async fn a_pull_whose_deadline_comes_before_its_wait_is_over_says_that_there_is_nothing_more() {
    let house = support::start().await;
    make_folder(&house, "/in");
    let mut request = tonic::Request::new(pb::PullEventsRequest {
        application_parameter_id: PARAMETER.into(),
        resume_token: token(&house, "/in").await,
        wait: seconds(30),
        ..Default::default()
    });
    request.set_timeout(Duration::from_secs(4));
    let pulled = house.client().pull_events(request).await.expect("before the deadline").into_inner();
    assert!(pulled.changes.is_empty() && !pulled.more, "{pulled:?}");
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

#[tokio::test(flavor = "multi_thread")]
async fn a_name_never_kept_begins_now_which_is_kept_at_once_and_an_older_token_replays() {
    let house = support::start().await;
    let certain = indexed(&house, "/in").await;
    let named = |asked: &mut pb::WatchEventsRequest| {
        asked.path = "/in".into();
        asked.start = from(pb::StartPosition::Checkpoint);
        asked.checkpoint_name = "indexer".into();
    };
    // It is over before anything is acknowledged.
    drop(Watch::ready(&house, named).await);
    put(&house, "/in/a", "x");
    let mut watch = Watch::ready(&house, named).await;
    let before = watch.token.clone();
    assert_eq!(told(&watch.changes(1).await), ["CREATED /in/a"]);
    put(&house, "/in/b", "x");
    assert_eq!(told(&watch.changes(1).await), ["CREATED /in/b"]);
    for (token, expected) in [(watch.token.clone(), "CREATED /in/c"), (before, "CREATED /in/a")] {
        let keep = pb::AcknowledgeEventsRequest {
            application_parameter_id: PARAMETER.into(),
            checkpoint_name: "indexer".into(),
            resume_token: token,
            ..Default::default()
        };
        house.client().acknowledge_events(keep).await.expect("kept");
        put(&house, "/in/c", "x");
        assert_eq!(told(&Watch::open(&house, named).await.changes(1).await), [expected]);
    }
    drop(certain);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_on_a_server_that_just_started_asks_dropbox_before_it_says_that_there_is_nothing() {
    let mut house = support::start().await;
    make_folder(&house, "/in");
    let start = token(&house, "/in").await;
    put(&house, "/in/a", "x");
    let pulled = pull(&house, &start, |asked| asked.wait = seconds(20)).await;
    assert_eq!(pulled.changes.iter().map(path).collect::<Vec<_>>(), ["/in/a"]);
    // Up to a place in the log.
    let place = pull(&house, &pulled.resume_token, |_| {}).await.resume_token;
    house.restart().await;
    put(&house, "/in/b", "x");
    let late = pull(&house, &place, |_| {}).await;
    assert_eq!(late.changes.iter().map(path).collect::<Vec<_>>(), ["/in/b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_only_pulls_is_told_what_the_index_knows_by_the_same_ids_each_time() {
    let mut house = support::start().await;
    make_folder(&house, "/in");
    let mut place = token(&house, "/in").await;
    // The first pull begins an index. It is finished though nobody watches, and while one change follows the other.
    for probe in 0.. {
        put(&house, "/in/probe", &probe.to_string());
        let pulled = pull(&house, &place, |asked| asked.wait = seconds(20)).await;
        place = pulled.resume_token;
        if pulled.changes.last().is_some_and(|change| change.basis() == pb::EventBasis::Index) {
            break;
        }
    }
    put(&house, "/in/a", "x");
    let made = pull(&house, &place, |asked| asked.wait = seconds(20)).await;
    rename(&house, "/in/a", "/in/b").await;
    let moved = pull(&house, &made.resume_token, |asked| asked.wait = seconds(20)).await;
    let both = [made.changes, moved.changes].concat();
    assert_eq!(told(&both), ["CREATED /in/a", "MOVED /in/b"]);
    assert!(both.iter().all(|change| change.basis() == pb::EventBasis::Index), "{both:?}");
    let again = pull(&house, &place, |_| {}).await;
    assert_eq!(again.changes, both, "with their ids");
    let listed = house.control().counter("files/list_folder").calls;
    house.restart().await;
    put(&house, "/in/c", "x");
    let late = pull(&house, &place, |_| {}).await;
    assert_eq!(late.changes[..2], both);
    assert_eq!(
        (told(&late.changes[2..]), late.changes[2].basis()),
        (vec!["CREATED /in/c".into()], pb::EventBasis::Index)
    );
    assert_eq!(house.control().counter("files/list_folder").calls, listed, "the index was kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_cannot_tell_what_differs_is_refused_and_loses_nothing_in_silence() {
    let house = support::start().await;
    make_folder(&house, "/in");
    let raw = |asked: &mut pb::PullEventsRequest| {
        (asked.wait, asked.classification) = (seconds(20), pb::Classification::Raw.into());
    };
    let start = token(&house, "/in").await;
    put(&house, "/in/a", "x");
    let pulled = pull(&house, &start, raw).await;
    assert_eq!(told(&pulled.changes), ["UPSERTED /in/a"]);
    house.control().reset_cursors();
    put(&house, "/in/b", "x");
    let refused_pull = try_pull(&house, &pulled.resume_token, raw).await.expect_err("nobody knows what differs");
    refused(&refused_pull, Code::FailedPrecondition, "RESUME_TOKEN_EXPIRED");
    assert!(refused_pull.message().contains("START_POSITION_SNAPSHOT"), "{refused_pull:?}");
    // Where an index stands the differences are told.
    let certain = indexed(&house, "/known").await;
    house.control().reset_cursors();
    put(&house, "/known/c", "x");
    let mut place = certain.token.clone();
    let mut changes = Vec::new();
    while !changes.contains(&"CREATED /known/c".to_owned()) {
        let pulled = pull(&house, &place, |asked| asked.wait = seconds(20)).await;
        place = pulled.resume_token;
        changes.extend(told(&pulled.changes));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_from_inside_a_snapshot_is_no_place_for_a_pull_and_from_its_end_is_one() {
    let house = support::start().await;
    let files = (0..600).map(|n| SeedFile::text(&format!("/in/{n:03}"), "x")).collect();
    house.control().seed(&Seed { files, ..Seed::default() }).expect("files");
    let mut watch = Watch::open(&house, |asked| {
        (asked.path, asked.start) = ("/in".into(), from(pb::StartPosition::Snapshot));
    })
    .await;
    let mut tokens = Vec::new();
    while let Payload::Snapshot(_) = watch.payload().await {
        tokens.push(watch.token.clone());
    }
    let (first, last) = (tokens.first().expect("a page"), tokens.last().expect("a page"));
    assert_ne!(first, last);
    refused(
        &try_pull(&house, first, |_| {}).await.expect_err("it lies inside"),
        Code::FailedPrecondition,
        "RESUME_TOKEN_EXPIRED",
    );
    put(&house, "/in/new", "x");
    let pulled = pull(&house, last, |asked| asked.wait = seconds(20)).await;
    assert_eq!(pulled.changes.iter().map(path).collect::<Vec<_>>(), ["/in/new"]);
    // A watch is told that the snapshot is over.
    let mut again = Watch::open(&house, |asked| (asked.path, asked.start) = ("/in".into(), behind(last))).await;
    assert!(matches!(again.payload().await, Payload::SnapshotEnd(_)));
    assert!(matches!(again.payload().await, Payload::Ready(_)));
}
