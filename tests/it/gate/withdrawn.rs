//! Whoever leaves the queue before its commit was sent has written nothing; whoever leaves later is told so.

use std::time::Duration;

use tonic::Code;

use super::*;
use crate::support;

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_caller_leaves_the_queue_is_not_written_and_the_others_are() {
    let house = Arc::new(support::start_with(|config| config.max_uploads = 4).await);
    let bytes = noise(2000, 1);
    let held = Held::by(&house).await;
    let mut uploads = queued(&house, ["/0", "/1", "/2", "/3"].map(|path| (spec(path), &bytes[..])).into()).await;
    let gone = uploads.remove(1);
    gone.abort();
    let _ = gone.await;
    // There were places for four: another one finds room when the one that left has been let go.
    uploads.extend(queued(&house, vec![(spec("/4"), &bytes)]).await);
    held.let_go().await;
    all(uploads).await.iter().for_each(|answer| is_committed(answer, &bytes));
    for (path, there) in [("/0", true), ("/1", false), ("/2", true), ("/3", true), ("/4", true)] {
        assert_eq!(house.control().read(None, path).is_some(), there, "{path}");
    }
}

async fn within(house: &House, path: &str, bytes: &[u8], time: Duration) -> Uploaded {
    let mut stream = OpenUpload::within(house, time);
    for frame in frames(sized(spec(path), bytes), bytes) {
        assert!(stream.send(frame).await);
    }
    stream.answer().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_in_the_queue_tells_that_nothing_was_sent() {
    let house = Arc::new(support::start().await);
    let bytes = noise(2000, 2);
    let held = Held::by(&house).await;
    let patient = queued(&house, vec![(spec("/patient"), &bytes)]).await;
    let late = within(&house, "/late", &bytes, Duration::from_secs(3)).await.expect_err("too late");
    assert_eq!((late.code(), reason(&late).as_str()), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
    assert_eq!((fact(&late, "sent").as_deref(), retry_delay(&late)), (Some("false"), Some(Duration::ZERO)));
    held.let_go().await;
    all(patient).await.iter().for_each(|answer| is_committed(answer, &bytes));
    is_committed(&send(&house, spec("/next"), &bytes).await, &bytes);
    assert_eq!(house.control().read(None, "/late"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_behind_the_commit_tells_that_it_was_sent_and_the_others_get_theirs() {
    let house = Arc::new(support::start().await);
    let control = house.control();
    let bytes = noise(2000, 3);
    control.script([Rule::once(FINISH, Action::DelayAnswer { millis: 9000 })]).expect("script");
    let held = Held::by(&house).await;
    let patient = queued(&house, vec![(spec("/patient"), &bytes)]).await;
    let before = control.counter(APPEND).bytes_in;
    let late = {
        let (house, bytes) = (house.clone(), bytes.clone());
        tokio::spawn(async move { within(&house, "/late", &bytes, Duration::from_secs(6)).await })
    };
    until("it is queued", async || {
        let counter = control.counter(APPEND);
        counter.bytes_in > before && counter.good == counter.calls
    })
    .await;
    settle(&house).await;
    held.let_go().await;
    let late = late.await.expect("no panic").expect_err("too late");
    assert_eq!((late.code(), reason(&late).as_str()), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
    assert_eq!((fact(&late, "sent").as_deref(), retry_delay(&late)), (Some("true"), None), "{late:?}");
    all(patient).await.iter().for_each(|answer| is_committed(answer, &bytes));
    assert!(control.read(None, "/late").as_deref() == Some(&bytes), "it was sent");
    assert_eq!(control.counter(FINISH).calls, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_down_commits_what_is_queued() {
    let mut house = support::start().await;
    let control = house.control();
    let bytes = noise(2000, 4);
    control.script([Rule::once(FOLDER, Action::DelayAnswer { millis: 6000 })]).expect("script");
    let slow = slow_folder(&house);
    until("the turn is taken", async || control.counter(FOLDER).running == 1).await;
    let one = |n: usize| {
        let mut client = house.client();
        let frames = frames(sized(spec(&format!("/{n}")), &bytes), &bytes);
        tokio::spawn(async move {
            let sent = client.upload_file(tokio_stream::iter(requests(frames))).await;
            sent.map(tonic::Response::into_inner)
        })
    };
    let uploads: Vec<_> = (0..20).map(one).collect();
    until("they are queued", async || control.counter(APPEND).bytes_in == 20 * 2000).await;
    house.take_app().stop().await.expect("nothing is cut");
    slow.await.expect("no panic").expect("made");
    all(uploads).await.iter().for_each(|answer| is_committed(answer, &bytes));
    assert_eq!(control.counter(UPLOAD).calls, 0);
}
