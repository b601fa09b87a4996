//! How often Dropbox is asked.

use std::time::{Duration, Instant};

use super::*;

const LONGPOLL: &str = "files/list_folder/longpoll";

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
