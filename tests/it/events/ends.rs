//! How watches end, and that a good token is left behind each time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime},
};

use dropbox_connector::{
    clock::{Clock, SystemClock},
    emulator::Options,
};
use futures::future::BoxFuture;

use super::*;

/// A machine's clock that somebody sets, forward by so many seconds, or back.
#[derive(Debug, Default, Clone)]
struct Set(Arc<AtomicI64>);

impl Clock for Set {
    fn now(&self) -> SystemTime {
        let by = self.0.load(Ordering::Relaxed);
        let span = Duration::from_secs(by.unsigned_abs());
        if by < 0 { SystemClock.now() - span } else { SystemClock.now() + span }
    }

    fn steady(&self) -> Duration {
        SystemClock.steady()
    }

    fn sleep(&self, span: Duration) -> BoxFuture<'static, ()> {
        SystemClock.sleep(span)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_back_stops_neither_heartbeats_nor_the_end_of_a_watch() {
    let clock = Set::default();
    let aged = |config: &mut dropbox_connector::config::Config| config.max_stream_age = Duration::from_secs(12);
    let house = Box::pin(support::start_in(Options::default(), Arc::new(clock.clone()), aged)).await;
    house.make_parameter(PARAMETER, |_| {}).await;
    make_folder(&house, "/in");
    let mut watch = Watch::ready(&house, |asked| {
        asked.path = "/in".into();
        asked.heartbeat_interval = Some(prost_types::Duration { seconds: 5, nanos: 0 });
    })
    .await;
    clock.0.store(-3600, Ordering::Relaxed);
    while !matches!(watch.payload().await, Payload::Heartbeat(_)) {}
    refused(&watch.end().await.1, Code::Unavailable, "SERVER_DRAINING");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_by_days_costs_no_change_and_ends_no_watch() {
    const DAY: i64 = 24 * 3600;
    let clock = Set::default();
    let house = Box::pin(support::start_in(Options::default(), Arc::new(clock.clone()), |_| {})).await;
    house.make_parameter(PARAMETER, |_| {}).await;
    let mut watch = indexed(&house, "/in").await;
    let before = watch.token.clone();
    for (name, set) in [("a", 8 * DAY), ("b", 23 * DAY), ("c", -DAY), ("d", 0)] {
        clock.0.store(set, Ordering::Relaxed);
        put(&house, &format!("/in/{name}"), "x");
        assert_eq!(told(&watch.changes(1).await), [format!("CREATED /in/{name}")]);
    }
    let mut again = Watch::open(&house, |asked| (asked.path, asked.start) = ("/in".into(), behind(&before))).await;
    let told = told(&again.changes(4).await);
    assert_eq!(told, ["CREATED /in/a", "CREATED /in/b", "CREATED /in/c", "CREATED /in/d"]);
}

async fn goes_on(house: &House, token: &str) {
    put(house, "/in/after", token);
    let mut again = Watch::open(house, |asked| (asked.path, asked.start) = ("/in".into(), behind(token))).await;
    assert_eq!(path(&again.change().await), "/in/after");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_a_watch_a_little_before_and_says_so() {
    let house = support::start().await;
    make_folder(&house, "/in");
    let mut request = tonic::Request::new(ask(|asked| asked.path = "/in".into()));
    request.set_timeout(Duration::from_secs(6));
    let mut watch = Watch::try_open(&house, request).await.expect("a watch");
    let (last, status) = watch.end().await;
    assert!(matches!(last, Some(Payload::Draining(_))), "{last:?}");
    refused(&status, Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    assert!(support::retry_delay(&status).is_some());
    goes_on(&house, &watch.token).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_ends_at_its_age_to_be_taken_up_again() {
    let house = support::start_with(|config| config.max_stream_age = Duration::from_secs(5)).await;
    make_folder(&house, "/in");
    let mut watch = Watch::open(&house, |asked| asked.path = "/in".into()).await;
    let (last, status) = watch.end().await;
    assert!(matches!(last, Some(Payload::Draining(_))), "{last:?}");
    refused(&status, Code::Unavailable, "SERVER_DRAINING");
    assert!(support::retry_delay(&status).is_some());
    goes_on(&house, &watch.token).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_down_says_goodbye_to_every_watch() {
    let mut house = support::start().await;
    make_folder(&house, "/in");
    let mut watches = Vec::new();
    for _ in 0..20 {
        watches.push(Watch::ready(&house, |asked| asked.path = "/in".into()).await);
    }
    let app = house.take_app();
    let stopping = tokio::spawn(Box::pin(app.stop()));
    for watch in &mut watches {
        let (last, status) = watch.end().await;
        assert!(matches!(last, Some(Payload::Draining(_))), "{last:?}");
        refused(&status, Code::Unavailable, "SERVER_DRAINING");
    }
    stopping.await.expect("it ended").expect("inside the grace");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_ends_with_the_grant_it_lives_on() {
    let house = support::start().await;
    make_folder(&house, "/in");
    let mut here = Watch::ready(&house, |asked| asked.path = "/in".into()).await;
    let request = pb::RevokeAuthorizationRequest { application_parameter_id: PARAMETER.into() };
    house.admin().await.revoke_authorization(request).await.expect("revoked");
    refused(&here.end().await.1, Code::FailedPrecondition, "REAUTHORIZATION_REQUIRED");

    let house = support::start().await;
    make_folder(&house, "/in");
    let mut there = Watch::ready(&house, |asked| asked.path = "/in".into()).await;
    house.control().revoke(None);
    put(&house, "/in/a", "x");
    refused(&there.end().await.1, Code::FailedPrecondition, "REAUTHORIZATION_REQUIRED");
}

#[tokio::test(flavor = "multi_thread")]
async fn quiet_watches_end_as_soon_as_any_call_hears_that_the_grant_is_gone() {
    // Nobody longpolls, and Dropbox knows no address to call: by themselves they would hear of it in ten minutes.
    let house = support::start_with(|config| {
        config.public_http_listen = "127.0.0.1:0".into();
        config.webhooks = true;
    })
    .await;
    let mut watches = Vec::new();
    for folder in ["/in", "/out"] {
        make_folder(&house, folder);
        watches.push(Watch::ready(&house, |asked| asked.path = folder.into()).await);
    }
    let asked = || house.control().counter("files/list_folder/continue").calls;
    support::until("both are quiet", || async {
        let before = asked();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        before == asked()
    })
    .await;
    house.control().revoke(None);
    let request = pb::GetAccountRequest { application_parameter_id: PARAMETER.into(), ..Default::default() };
    let status = house.client().get_account(request).await.expect_err("the grant is gone");
    refused(&status, Code::FailedPrecondition, "REAUTHORIZATION_REQUIRED");
    for watch in &mut watches {
        refused(&watch.end().await.1, Code::FailedPrecondition, "REAUTHORIZATION_REQUIRED");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_watch_too_many_is_told_to_wait_and_finds_room_when_another_ends() {
    let house = support::start_with(|config| config.max_watches = 1).await;
    make_folder(&house, "/in");
    let watch = Watch::ready(&house, |asked| asked.path = "/in".into()).await;
    let status = Watch::try_open(&house, ask(|asked| asked.path = "/in".into())).await.err().expect("refused");
    refused(&status, Code::ResourceExhausted, "CONNECTOR_BUSY");
    assert_eq!(support::fact(&status, "limit").as_deref(), Some("max_watches"));
    assert!(support::retry_delay(&status).is_some());
    drop(watch);
    support::until("room", || async { Watch::try_open(&house, ask(|asked| asked.path = "/in".into())).await.is_ok() })
        .await;
    let info = house.client().get_server_info(pb::GetServerInfoRequest {}).await.expect("info").into_inner();
    assert_eq!(info.limits.expect("limits").max_watches, 1);
}
