//! Several replicas, processes of their own, on one PostgreSQL: one polls a folder, all serve it, and when the one is killed
//! another goes on with the same log.

use std::time::{Duration, Instant};

use dropbox_connector::emulator::script::{Action, Rule};
use sqlx::{Connection as _, PgConnection};

use super::*;
use crate::support::{postgres::Server, process::Served};

const LONGPOLL: &str = "files/list_folder/longpoll";
const CONTINUE: &str = "files/list_folder/continue";
const LATEST: &str = "files/list_folder/get_latest_cursor";

/// A Dropbox, a database with one application parameter, and no replica yet.
async fn fleet() -> House {
    let url = Server::shared().database().await;
    let mut house = support::start_with(|config| config.store_url = url).await;
    house.take_app().stop().await.expect("stopped");
    make_folder(&house, "/in");
    house
}

struct Replica {
    served: Served,
    client: DropboxConnectorClient<Channel>,
    public: Option<String>,
}

impl Replica {
    async fn start(house: &House, webhooks: bool) -> Replica {
        let flags: &[&str] = if webhooks { &["--webhooks", "--public-http-listen=127.0.0.1:0"] } else { &[] };
        let (served, data, public) = tokio::task::block_in_place(|| {
            let mut served = Served::replica(house, flags);
            let data = served.told("data");
            let public = webhooks.then(|| served.told("public"));
            (served, data, public)
        });
        let client = DropboxConnectorClient::connect(format!("http://{data}")).await.expect("connect");
        Replica { served, client, public }
    }

    async fn watch(&self, edit: impl FnOnce(&mut pb::WatchEventsRequest)) -> Watch {
        let request = ask(|asked| {
            asked.path = "/in".into();
            edit(asked);
        });
        let mut watch = Watch::by(self.client.clone(), request).await.expect("a watch");
        while !matches!(watch.payload().await, Payload::Ready(_)) {}
        watch
    }

    /// Where types are certain: the index stands.
    async fn certain(&self, house: &House) -> Watch {
        let mut watch = self.watch(|_| ()).await;
        for probe in 0.. {
            put(house, "/in/probe", &probe.to_string());
            if watch.change().await.basis() == pb::EventBasis::Index {
                break;
            }
        }
        watch
    }

    /// SIGKILL.
    fn kill(self) {
        drop(self.served);
    }
}

/// Id and path of each change up to the one of this path.
async fn until_path(watch: &mut Watch, last: &str) -> Vec<(String, String)> {
    let mut seen = Vec::new();
    loop {
        let change = watch.change().await;
        seen.push((change.event_id.clone(), path(&change).to_owned()));
        if path(&change) == last {
            return seen;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_replica_polls_all_serve_and_a_killed_one_is_followed_by_another_without_gap_or_repeat() {
    let house = fleet().await;
    let longpolls = || house.control().counter(LONGPOLL);
    let (first, second) = (Replica::start(&house, false).await, Replica::start(&house, false).await);
    let mut here = first.certain(&house).await;
    let mut there = second.watch(|_| ()).await;
    support::until("the folder is longpolled", || async { longpolls().running == 1 }).await;
    for n in 0..20 {
        put(&house, &format!("/in/{n}"), "x");
    }
    let told_here = until_path(&mut here, "/in/19").await;
    let told_there = until_path(&mut there, "/in/19").await;
    // Whatever the first was told before the second came, too.
    assert_eq!(
        told_here[told_here.len() - 20..],
        told_there[told_there.len() - 20..],
        "one event has one id everywhere"
    );
    // Behind what it told it asks first whether there is more.
    support::until("it is longpolled again", || async { longpolls().running == 1 }).await;
    assert_eq!(longpolls().running_max, 1, "one of them polls");

    // Somebody writes on while the one who polls is killed.
    let control = house.control();
    let writer = tokio::spawn(async move {
        for n in 0..40 {
            let seed = Seed { files: vec![SeedFile::text(&format!("/in/later-{n:02}"), "x")], ..Seed::default() };
            control.seed(&seed).expect("a file");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let mut consumer = vec![{
        let change = here.change().await;
        (change.event_id.clone(), path(&change).to_owned())
    }];
    first.kill();
    let killed = Instant::now();
    // What was on its way when it was killed may still arrive.
    while let Ok(message) = here.next().await {
        if let Some(Payload::Change(change)) = message.payload {
            consumer.push((change.event_id.clone(), path(&change).to_owned()));
        }
    }
    writer.await.expect("written");
    put(&house, "/in/last", "x");
    let token = here.token.clone();
    let mut again = second.watch(|asked| asked.start = behind(&token)).await;
    consumer.extend(until_path(&mut again, "/in/last").await);
    let took = killed.elapsed();
    assert!(took < Duration::from_secs(20), "the lease is 10 s: {took:?}");
    let whole = until_path(&mut there, "/in/last").await;
    assert_eq!(consumer, whole, "whoever changed over was told what the other one was, once and in order");
    let paths: Vec<&str> = whole.iter().map(|(_, path)| path.as_str()).collect();
    let expected: Vec<String> = (0..40).map(|n| format!("/in/later-{n:02}")).chain(["/in/last".into()]).collect();
    assert_eq!(paths, expected);
    support::until("the other one longpolls", || async { longpolls().running == 1 }).await;
    assert_eq!(longpolls().running_max, 1, "never two");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_is_held_by_one_stream_of_all_replicas_and_goes_on_where_it_was_kept_by_another() {
    let house = fleet().await;
    let (mut first, second) = (Replica::start(&house, false).await, Replica::start(&house, false).await);
    let _certain = first.certain(&house).await;
    let named = |asked: &mut pb::WatchEventsRequest| {
        asked.start = from(pb::StartPosition::Checkpoint);
        asked.checkpoint_name = "indexer".into();
    };
    let mut here = first.watch(named).await;
    put(&house, "/in/a", "x");
    put(&house, "/in/b", "x");
    assert_eq!(path(&here.change().await), "/in/a");
    let keep = pb::AcknowledgeEventsRequest {
        application_parameter_id: PARAMETER.into(),
        checkpoint_name: "indexer".into(),
        resume_token: here.token.clone(),
        ..Default::default()
    };
    first.client.acknowledge_events(keep).await.expect("kept");
    let mut there = second.watch(named).await;
    refused(&here.end().await.1, Code::Aborted, "CHECKPOINT_TAKEN_OVER");
    assert_eq!(path(&there.change().await), "/in/b");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_goes_down_in_order_hands_the_folder_on_at_once() {
    let house = fleet().await;
    let longpolls = || house.control().counter(LONGPOLL);
    let (mut first, second) = (Replica::start(&house, false).await, Replica::start(&house, false).await);
    let _here = first.certain(&house).await;
    let mut there = second.watch(|_| ()).await;
    support::until("the folder is longpolled", || async { longpolls().running == 1 }).await;
    let before = longpolls().calls;
    first.served.terminate();
    tokio::task::block_in_place(|| first.served.ended());
    let ended = Instant::now();
    support::until("the other one longpolls", || async { longpolls().calls > before && longpolls().running == 1 })
        .await;
    // The lease would last ten seconds.
    assert!(ended.elapsed() < Duration::from_secs(5), "{:?}", ended.elapsed());
    put(&house, "/in/after", "x");
    assert_eq!(until_path(&mut there, "/in/after").await.last().expect("told").1, "/in/after");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_call_at_any_replica_wakes_the_one_that_polls_and_another_when_that_one_is_dead() {
    let house = fleet().await;
    let (first, second) = (Replica::start(&house, true).await, Replica::start(&house, true).await);
    // Dropbox knows one address; behind it a balancer chose the second.
    let app_key = house.emulator.account().app_key;
    let uri = format!("http://{}/webhook/{app_key}", second.public.as_deref().expect("a public port"));
    house.control().register_webhook(None, &uri).await.expect("the challenge comes back");
    let mut here = first.certain(&house).await;
    let mut there = second.watch(|_| ()).await;
    put(&house, "/in/begin", "x");
    until_path(&mut here, "/in/begin").await;
    until_path(&mut there, "/in/begin").await;
    let asked = || house.control().counter(CONTINUE).calls;
    let called = || house.control().webhooks()[0].calls;
    support::until("all calls are answered", || async { !house.control().webhooks()[0].running }).await;
    let before = (asked(), called());
    // What else the machine does can only add to a time, so it is looked at again and again.
    let most = (Duration::from_millis(250), Duration::from_millis(500));
    let mut least = (Duration::MAX, Duration::MAX);
    for n in 0..100 {
        let begun = Instant::now();
        put(&house, &format!("/in/{n}"), "x");
        let one = here.change().await;
        least.0 = least.0.min(begun.elapsed());
        let other = there.change().await;
        least.1 = least.1.min(begun.elapsed());
        assert_eq!((one.event_id, path(&other)), (other.event_id.clone(), format!("/in/{n}").as_str()));
        if n >= 10 && least.0 < most.0 && least.1 < most.1 {
            break;
        }
    }
    assert!(least.0 < most.0 && least.1 < most.1, "{least:?}");
    let (questions, calls) = (asked() - before.0, called() - before.1);
    // Some may have been on their way before; two who ask would be twice as many.
    assert!(2 * questions < 3 * calls, "{questions} questions for {calls} calls: one replica asks");
    assert_eq!(house.control().counter(LONGPOLL).calls, 0);

    let cursors = house.control().counter(LATEST).calls;
    first.kill();
    let begun = Instant::now();
    put(&house, "/in/after", "x");
    assert_eq!(path(&there.change().await), "/in/after");
    // Half a second, or what is left of the lease if it was killed at work; the net is ten minutes wide.
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    put(&house, "/in/more", "x");
    assert_eq!(path(&there.change().await), "/in/more");
    assert_eq!(house.control().counter(LATEST).calls, cursors, "it went on with the cursor that was saved");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_follows_knows_when_dropbox_was_asked_and_asks_where_its_watcher_wants_it_sooner() {
    let house = fleet().await;
    // Dropbox knows no address to call: it is asked every ten minutes.
    let (first, second) = (Replica::start(&house, true).await, Replica::start(&house, true).await);
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let mut here = first.watch(|asked| asked.heartbeat_interval = seconds(5)).await;
    let heard_all = async |watch: &mut Watch| loop {
        if let Payload::Heartbeat(beat) = watch.payload().await {
            let at = beat.observed_time.expect("a time");
            return at.seconds as f64 + f64::from(at.nanos) / 1e9;
        }
    };
    heard_all(&mut here).await;
    // It comes long after Dropbox was asked, and hears of that moment.
    let mut there = second.watch(|asked| asked.heartbeat_interval = seconds(5)).await;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (at_first, at_second) = (heard_all(&mut here).await, heard_all(&mut there).await);
        // The first may have asked once more meanwhile, for its index.
        if (at_first - at_second).abs() < 2.0 {
            break;
        }
        assert!(Instant::now() < deadline, "{at_first} at the one that asks, {at_second} at the one that follows");
    }
    let mut hasty = second
        .watch(|asked| {
            asked.poll_mode = pb::PollMode::Interval.into();
            asked.poll_interval = seconds(5);
        })
        .await;
    drop(there);
    put(&house, "/in/a", "x");
    assert_eq!(path(&hasty.change().await), "/in/a");
    assert_eq!(path(&here.change().await), "/in/a");
    assert_eq!(house.control().counter(LONGPOLL).calls, 0);
}

/// What the row of the one folder says: the number of its lease, and how many milliseconds it lasts.
async fn lease(store: &mut PgConnection) -> (i64, i64) {
    let row = sqlx::query_as::<_, (i64, i64)>("SELECT lease, lease_until - store_now() FROM event_scopes");
    row.fetch_one(store).await.expect("a row")
}

async fn store_of(house: &House) -> PgConnection {
    PgConnection::connect(&house.config().store_url).await.expect("the store")
}

/// Whoever follows has met the log, and nobody asks for anything.
async fn at_rest(house: &House) {
    let asked = || house.control().counter(CONTINUE);
    support::until("the folder is quiet", || async {
        let before = asked();
        tokio::time::sleep(Duration::from_millis(500)).await;
        asked() == before && before.running == 0 && house.control().counter(LONGPOLL).running == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_takes_longer_than_a_lease_is_told_by_the_one_that_asked_for_it() {
    let house = fleet().await;
    let (first, second) = (Replica::start(&house, false).await, Replica::start(&house, false).await);
    let mut here = first.certain(&house).await;
    let mut there = second.watch(|_| ()).await;
    put(&house, "/in/begin", "x");
    until_path(&mut here, "/in/begin").await;
    until_path(&mut there, "/in/begin").await;
    at_rest(&house).await;
    let mut store = store_of(&house).await;
    let (before, _) = lease(&mut store).await;
    // The lease is 10 s.
    let slow = Rule::always(CONTINUE, Action::DelayAnswer { millis: 12_000 });
    house.control().script([slow]).expect("a rule");
    put(&house, "/in/slow", "x");
    let (one, other) = tokio::join!(here.change(), there.change());
    assert_eq!((one.event_id.as_str(), path(&one)), (other.event_id.as_str(), "/in/slow"));
    assert_eq!(lease(&mut store).await.0, before, "nobody took the folder over meanwhile");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_taken_over_in_the_midst_of_a_page_is_let_go_at_once_and_that_is_logged() {
    let house = fleet().await;
    let first = Replica::start(&house, false).await;
    let mut here = first.certain(&house).await;
    at_rest(&house).await;
    let slow = Rule::once(CONTINUE, Action::DelayAnswer { millis: 14_000 });
    house.control().script([slow]).expect("a rule");
    put(&house, "/in/slow", "x");
    support::until("the page is asked for", || async { house.control().counter(CONTINUE).running == 1 }).await;
    let begun = Instant::now();
    let taken = "UPDATE event_scopes SET lease = lease + 1, lease_holder = 'another', lease_until = store_now() + 6000";
    sqlx::query(taken).execute(&mut store_of(&house).await).await.expect("taken");
    support::until("it is logged", || async { first.served.text().contains("took a watched folder over") }).await;
    let scope: String = sqlx::query_scalar("SELECT substr(scope_key, 1, 12) FROM event_scopes")
        .fetch_one(&mut store_of(&house).await)
        .await
        .expect("a row");
    let text = first.served.text();
    let line = text.lines().find(|line| line.contains("took a watched folder over")).expect("just found");
    assert!(line.contains("parameter") && line.contains(&scope), "{line}");
    assert!(begun.elapsed() < Duration::from_secs(12), "before the page came: {:?}", begun.elapsed());
    assert_eq!(path(&here.change().await), "/in/slow");
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_that_come_and_go_do_not_let_the_lease_of_a_longpolled_folder_run_down() {
    let house = fleet().await;
    let first = Replica::start(&house, false).await;
    let _stays = first.certain(&house).await;
    at_rest(&house).await;
    let mut store = store_of(&house).await;
    let (begun, mut least) = (Instant::now(), i64::MAX);
    while begun.elapsed() < Duration::from_secs(9) {
        drop(first.watch(|_| ()).await);
        least = least.min(lease(&mut store).await.1);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // It is renewed every 3 s; a machine that does other things, too, may take some more.
    assert!(least > 3000, "{least} ms were left of 10 s");
}
