//! How often Dropbox is asked, and as of when it was.

use std::time::{Duration, Instant};

use dropbox_connector::emulator::script::{Action, Rule};

use super::*;

const LONGPOLL: &str = "files/list_folder/longpoll";
const CONTINUE: &str = "files/list_folder/continue";

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

async fn pull(house: &House, token: &str, wait: i64) -> pb::PullEventsResponse {
    let request = pb::PullEventsRequest {
        application_parameter_id: PARAMETER.into(),
        resume_token: token.into(),
        wait: seconds(wait),
        ..Default::default()
    };
    house.client().pull_events(request).await.expect("an answer").into_inner()
}

async fn token(house: &House, folder: &str) -> String {
    let request = pb::GetEventTokenRequest {
        application_parameter_id: PARAMETER.into(),
        path: folder.into(),
        ..Default::default()
    };
    house.client().get_event_token(request).await.expect("a token").into_inner().resume_token
}

/// The index stands, and Dropbox was asked for the last time more than a second ago.
async fn long_at_rest(house: &House) {
    let asked = || (house.control().counter(CONTINUE).calls, house.control().counter("files/list_folder").calls);
    support::until("nobody asks", || async {
        let before = asked();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        before == asked() && before.1 > 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_back_off_of_dropboxs_delays_the_next_longpoll_and_nothing_else_whoever_works_then() {
    const BACK_OFF: Duration = Duration::from_secs(10);
    let house = support::start_with(|config| config.max_watches = 1).await;
    let longpolls = || house.control().counter(LONGPOLL);
    let mut watch = indexed(&house, "/in").await;
    support::until("it is longpolled", || async { longpolls().running == 1 }).await;
    house.control().switch(|switches| switches.longpoll_backoff = Some(BACK_OFF.as_secs()));
    // The longpoll that is out knows nothing of it, the next one does.
    let before = longpolls().calls;
    put(&house, "/in/begin", "x");
    assert_eq!(path(&watch.change().await), "/in/begin");
    support::until("the next one is out", || async { longpolls().calls > before && longpolls().running == 1 }).await;
    let (calls, begun) = (longpolls().calls, Instant::now());
    put(&house, "/in/a", "x");
    assert_eq!(path(&watch.change().await), "/in/a");
    // Whoever asks is answered.
    put(&house, "/in/b", "x");
    let pulled = pull(&house, &watch.token, 0).await;
    assert_eq!(pulled.changes.iter().map(path).collect::<Vec<_>>(), ["/in/b"]);
    assert_eq!(path(&watch.change().await), "/in/b");
    assert_eq!(longpolls().calls, calls, "what there was came at once, {:?}", begun.elapsed());
    // The only watcher leaves, and another comes: the folder has another worker.
    drop(watch);
    let deadline = Instant::now() + support::PATIENCE;
    let mut again = loop {
        match Watch::try_open(&house, ask(|asked| asked.path = "/in".into())).await {
            Ok(watch) => break watch,
            Err(status) => assert!(Instant::now() < deadline, "there is room: {status:?}"),
        }
    };
    assert_eq!(longpolls().calls, calls, "it came within the back-off, {:?}", begun.elapsed());
    support::until("it is longpolled again", || async { longpolls().calls > calls }).await;
    assert!(begun.elapsed() >= BACK_OFF, "{:?} after the answer that asked for {BACK_OFF:?}", begun.elapsed());
    put(&house, "/in/c", "x");
    assert_eq!(path(&again.change().await), "/in/c");
}

async fn now_is_as_of_the_call(house: &House, asked: impl Fn(&mut pb::WatchEventsRequest)) {
    make_folder(house, "/in");
    let mut seldom = Watch::ready(house, &asked).await;
    long_at_rest(house).await;
    put(house, "/in/early", "x");
    let mut watch = Watch::ready(house, &asked).await;
    long_at_rest(house).await;
    put(house, "/in/between", "x");
    let start = token(house, "/in").await;
    put(house, "/in/late", "x");
    let pulled = pull(house, &start, 20).await;
    assert_eq!(pulled.changes.iter().map(path).collect::<Vec<_>>(), ["/in/late"]);
    let told = watch.changes(2).await;
    assert_eq!(told.iter().map(path).collect::<Vec<_>>(), ["/in/between", "/in/late"]);
    let told = seldom.changes(3).await;
    assert_eq!(told.iter().map(path).collect::<Vec<_>>(), ["/in/early", "/in/between", "/in/late"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn now_is_as_of_the_call_where_dropbox_is_asked_once_a_minute() {
    let house = support::start().await;
    let seldom = |asked: &mut pb::WatchEventsRequest| {
        asked.path = "/in".into();
        (asked.poll_mode, asked.poll_interval) = (pb::PollMode::Interval.into(), seconds(60));
    };
    now_is_as_of_the_call(&house, seldom).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn now_is_as_of_the_call_where_webhook_calls_are_lost() {
    // Dropbox knows no address to call.
    let house = support::start_with(|config| {
        config.public_http_listen = "127.0.0.1:0".into();
        config.webhooks = true;
    })
    .await;
    now_is_as_of_the_call(&house, |asked| asked.path = "/in".into()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn now_is_as_of_the_call_where_a_longpoll_is_never_answered() {
    let house = support::start().await;
    house.control().script([Rule::always(LONGPOLL, Action::Stall)]).expect("a script");
    now_is_as_of_the_call(&house, |asked| asked.path = "/in".into()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn now_of_a_quiet_folder_is_one_question_and_a_place_in_the_log() {
    let house = support::start_with(|config| {
        config.public_http_listen = "127.0.0.1:0".into();
        config.webhooks = true;
    })
    .await;
    let mut watch = indexed_by_pulls(&house).await;
    long_at_rest(&house).await;
    let asked = || {
        let calls = |route: &str| house.control().counter(route).calls;
        (calls(CONTINUE), calls("files/list_folder/get_latest_cursor"))
    };
    let before = asked();
    let start = token(&house, "/in").await;
    assert_eq!(asked(), (before.0 + 1, before.1));
    rename(&house, "/in/probe", "/in/other").await;
    let pulled = pull(&house, &start, 20).await;
    assert_eq!(told(&pulled.changes), ["MOVED /in/other"]);
    assert_eq!(watch.changes(1).await, pulled.changes, "under the same id");
}

/// A watch whose types are certain from here on, though no webhook call comes.
async fn indexed_by_pulls(house: &House) -> Watch {
    make_folder(house, "/in");
    let mut watch = Watch::ready(house, |asked| asked.path = "/in".into()).await;
    for probe in 0.. {
        put(house, "/in/probe", &probe.to_string());
        pull(house, &watch.token, 20).await;
        if watch.change().await.basis() == pb::EventBasis::Index {
            break;
        }
    }
    watch
}
