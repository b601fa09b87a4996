//! The gate of two replicas, processes of their own, on one PostgreSQL: one of them writes to a namespace at a time, in turn;
//! and whatever becomes of the other one or of the database, writes go on.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use dropbox_connector::{
    api::v1::{
        call_api_request::Arg, dropbox_admin_connector_client::DropboxAdminConnectorClient,
        dropbox_connector_client::DropboxConnectorClient,
    },
    emulator::Contention,
};
use sqlx::{Connection as _, Executor as _, PgConnection};
use tonic::transport::Channel;

use super::*;
use crate::{
    server::fetch,
    support::{self, postgres::Server, process::Served},
};

const OTHER: &str = "other";
/// A machine that is busy with other things may not answer in the time that a write waits for the store; what goes without a
/// lease then is not what these tests are about, so they look again.
const ROUNDS: usize = 5;

/// A Dropbox and a database with one application parameter, before which no replica runs yet.
async fn fleet(server: &Server) -> House {
    let url = server.database().await;
    let mut house = support::start_bare(Default::default(), |config| config.store_url = url).await;
    house.make_parameter(PARAMETER, may_call).await;
    house.take_app().stop().await.expect("stopped");
    house
}

/// Raw calls are never batched: each is a turn of its own.
fn may_call(parameter: &mut pb::ApplicationParameter) {
    let permissions = [pb::Permission::Raw, pb::Permission::Read, pb::Permission::Write];
    let permissions = permissions.map(Into::into).to_vec();
    parameter.policy = Some(pb::ParameterPolicy { permissions, ..Default::default() });
}

struct Replica {
    served: Served,
    client: DropboxConnectorClient<Channel>,
    admin: String,
    http: SocketAddr,
}

impl Replica {
    /// Ready for writes of `p`, of which there has been none.
    async fn start(house: &House) -> Replica {
        let (served, data, admin, http) = tokio::task::block_in_place(|| {
            let mut served = Served::replica(house, &[]);
            let (data, admin, http) = (served.told("data"), served.told("admin"), served.told("http"));
            (served, data, admin, http.parse().expect("an address"))
        });
        let client = DropboxConnectorClient::connect(format!("http://{data}")).await.expect("connect");
        let replica = Replica { served, client, admin, http };
        replica.reads(PARAMETER).await;
        replica
    }

    async fn reads(&self, id: &str) {
        let list = pb::ListFolderRequest { application_parameter_id: id.into(), ..Default::default() };
        self.client.clone().list_folder(list).await.expect("a page");
    }

    fn upload(&self, path: &str, seed: u64) -> JoinHandle<Result<(), Status>> {
        let (mut client, bytes) = (self.client.clone(), noise(1000, seed));
        let messages = requests(frames(sized(spec(path), &bytes), &bytes));
        tokio::spawn(async move { client.upload_file(tokio_stream::iter(messages)).await.map(drop) })
    }

    fn make_folder(&self, path: &str) -> JoinHandle<Result<(), Status>> {
        let mut client = self.client.clone();
        let folder = pb::CreateFolderRequest {
            application_parameter_id: PARAMETER.into(),
            path: path.into(),
            ..Default::default()
        };
        tokio::spawn(async move { client.create_folder(folder).await.map(drop) })
    }

    /// By a raw call.
    fn turn(&self, id: &str, path: &str) -> JoinHandle<Result<(), Status>> {
        let mut client = self.client.clone();
        let call = pb::CallApiRequest {
            application_parameter_id: id.into(),
            route: FOLDER.into(),
            arg: Some(Arg::ArgJson(format!(r#"{{"path":"{path}"}}"#))),
            allow_mutation: true,
            ..Default::default()
        };
        tokio::spawn(async move { client.call_api(call).await.map(drop) })
    }

    async fn write(&self, path: &str) {
        done(self.turn(PARAMETER, path)).await;
    }

    /// The value of a metric.
    fn tells(&self, name: &str) -> f64 {
        let metrics = tokio::task::block_in_place(|| fetch(self.http, "/metrics"));
        let name = format!("dropboxconnector_gate_lease_{name} ");
        let value = metrics.lines().find_map(|line| line.strip_prefix(name.as_str()));
        value.map_or(0.0, |value| value.trim().parse().expect("a number"))
    }

    fn asked(&self) -> f64 {
        self.tells(r#"calls{call="asked"}"#)
    }

    fn given(&self) -> f64 {
        self.tells(r#"calls{call="given"}"#)
    }

    fn without(&self) -> f64 {
        self.tells("without")
    }

    /// SIGKILL.
    fn kill(self) {
        drop(self.served);
    }
}

async fn done(write: JoinHandle<Result<(), Status>>) {
    let answer = tokio::time::timeout(PATIENCE, write).await.expect("in time");
    answer.expect("no panic").expect("written");
}

/// A write of `p` that Dropbox is at until the replica is gone.
async fn stalled(house: &House, replica: &Replica) -> JoinHandle<Result<(), Status>> {
    let control = house.control();
    control.script([Rule::once(FOLDER, Action::Stall)]).expect("script");
    let write = replica.turn(PARAMETER, "/stalled");
    until("it is in flight", async || control.counter(FOLDER).running == 1).await;
    write
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_writers_at_each_of_two_replicas_never_write_at_once() {
    let house = fleet(Server::shared()).await;
    let control = house.control();
    control.switch(|switches| {
        switches.contention = Some(Contention { commit_takes: Duration::from_millis(10), as_409: false });
    });
    let replicas = [Replica::start(&house).await, Replica::start(&house).await];
    for round in 0..ROUNDS {
        let before: f64 = replicas.iter().map(Replica::without).sum();
        control.clear_journal();
        let mut writes = Vec::new();
        for n in 0..50 {
            for (at, replica) in replicas.iter().enumerate() {
                let path = format!("/{round}-{n}-{at}");
                writes.push(match n % 3 {
                    0 => replica.upload(&path, n),
                    1 => replica.make_folder(&path),
                    _ => replica.turn(PARAMETER, &path),
                });
            }
        }
        for write in writes {
            done(write).await;
        }
        assert!(replicas.iter().all(|replica| replica.given() >= 1.0), "they took turns");
        if replicas.iter().map(Replica::without).sum::<f64>() == before {
            return nobody_met_contention(&house);
        }
    }
    panic!("the database was too slow in every round");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_write_passes_a_thousand_that_are_queued_at_another_replica() {
    let house = fleet(Server::shared()).await;
    let control = house.control();
    let (busy, other) = (Replica::start(&house).await, Replica::start(&house).await);
    other.write("/warm").await;
    control.script([Rule::always(FOLDER, Action::DelayAnswer { millis: 200 })]).expect("script");
    let calls = || control.counter(FOLDER).calls;
    let begun = calls();
    let queued: Vec<_> = (0..1000).map(|n| busy.turn(PARAMETER, &format!("/many-{n}"))).collect();
    until("they are at it", async || calls() >= begun + 3).await;
    let mut turns = Vec::new();
    for round in 0..ROUNDS {
        let (before, without) = (calls(), other.without());
        other.write(&format!("/next-{round}")).await;
        turns.push((calls() - before, other.without() == without));
        // The one in flight when it asked, perhaps one that began before the letter came, its own, and the next.
        if turns[round].0 <= 4 && turns[round].1 {
            let waiting = queued.iter().filter(|write| !write.is_finished()).count();
            assert!(waiting >= 900, "{waiting} are still queued");
            assert!(busy.given() >= 1.0);
            // And they go on.
            let before = calls();
            until("they go on", async || calls() >= before + 3).await;
            return;
        }
    }
    panic!("behind how many writes it went, and whether with a lease: {turns:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_killed_in_mid_call_is_waited_for_no_longer_than_its_lease() {
    let house = fleet(Server::shared()).await;
    let control = house.control();
    for round in 0..ROUNDS {
        let (killed, other) = (Replica::start(&house).await, Replica::start(&house).await);
        let _lost = stalled(&house, &killed).await;
        let begun = control.counter(FOLDER).calls;
        let waits = other.turn(PARAMETER, &format!("/next-{round}"));
        until("it asked again", async || other.asked() >= 2.0 || other.without() > 0.0).await;
        let patient = other.without() == 0.0;
        if patient {
            assert_eq!(control.counter(FOLDER).calls, begun, "it waits");
        }
        killed.kill();
        let since = Instant::now();
        done(waits).await;
        // Three seconds, half a second until it looks, and what a busy machine adds.
        assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
        if patient && other.without() == 0.0 {
            return;
        }
    }
    panic!("the database was too slow in every round");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_ends_well_is_not_waited_for() {
    let house = fleet(Server::shared()).await;
    for round in 0..ROUNDS {
        let (mut first, second) = (Replica::start(&house).await, Replica::start(&house).await);
        first.write(&format!("/first-{round}")).await;
        tokio::task::block_in_place(|| {
            first.served.terminate();
            assert!(first.served.ended().success());
        });
        second.write(&format!("/second-{round}")).await;
        if second.without() == 0.0 {
            assert_eq!(second.asked(), 1.0, "it was free");
            return;
        }
    }
    panic!("the database was too slow in every round");
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_go_on_while_the_database_hangs_or_is_away_and_take_turns_again_when_it_is_back() {
    let server = tokio::task::block_in_place(Server::start);
    let house = fleet(&server).await;
    let mut replica = Replica::start(&house).await;
    let mut paths = (0..).map(|n| format!("/{n}"));
    let mut next = || paths.next().expect("endless");
    let mut lock = PgConnection::connect(&house.config().store_url).await.expect("the server");
    let mut spans = Vec::new();
    // 50 ms and what a busy machine adds, which may be too much once: another one has had no answer yet either.
    while spans.last().is_none_or(|waited| *waited >= 0.5) {
        assert!(spans.len() < ROUNDS, "it was waited for too long: {spans:?}");
        if !spans.is_empty() {
            replica = Replica::start(&house).await;
        }
        lock.execute("BEGIN; LOCK TABLE write_leases IN ACCESS EXCLUSIVE MODE").await.expect("locked");
        replica.write(&next()).await;
        assert_eq!(replica.without() as u32, 1);
        spans.push(replica.tells("wait_sum"));
        for _ in 0..10 {
            replica.write(&next()).await;
        }
        lock.execute("ROLLBACK").await.expect("unlocked");
    }
    assert!(spans.iter().all(|waited| *waited >= 0.05), "{spans:?}");
    let with_lease = async |path: &mut dyn FnMut() -> String| {
        let again = async {
            loop {
                let before = replica.without();
                replica.write(&path()).await;
                if replica.without() == before {
                    break;
                }
            }
        };
        tokio::time::timeout(PATIENCE, again).await.expect("leases are there again");
    };
    with_lease(&mut next).await;
    drop(lock);
    tokio::task::block_in_place(|| server.stop());
    let before = replica.without();
    let gone = async {
        while replica.without() == before {
            replica.write(&next()).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("its lease has ended");
    for _ in 0..10 {
        replica.write(&next()).await;
    }
    tokio::task::block_in_place(|| server.start_again());
    with_lease(&mut next).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_caller_asks_once_for_a_burst_of_writes() {
    let house = fleet(Server::shared()).await;
    for round in 0..ROUNDS {
        let replica = Replica::start(&house).await;
        let mut longest = Duration::ZERO;
        for n in 0..20 {
            let begun = Instant::now();
            done(replica.upload(&format!("/{round}-{n}"), n)).await;
            longest = longest.max(begun.elapsed());
        }
        // A busy machine may have made a pause of two seconds, behind which it asks again.
        if longest < Duration::from_secs(1) {
            assert_eq!((replica.asked(), replica.given()), (1.0, 0.0));
            assert!(replica.tells("wait_count") <= 1.0, "nothing but the first waited");
            assert_eq!(house.control().counter(UPLOAD).calls, 20 * (round as u64 + 1), "each by itself");
            return;
        }
    }
    panic!("one of twenty uploads took too long in every round");
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_do_not_wait_for_each_other() {
    let house = fleet(Server::shared()).await;
    let control = house.control();
    let (first, second) = (Replica::start(&house).await, Replica::start(&house).await);
    let account = control.add_account("olga@example.com", "Olga", "Other", None);
    let login = control.issue(Some(&account), None).expect("tokens");
    let mut admin = DropboxAdminConnectorClient::connect(format!("http://{}", second.admin)).await.expect("connect");
    make_parameter(&mut admin, &login, OTHER, may_call).await;
    second.reads(OTHER).await;
    let held = stalled(&house, &first).await;
    for n in 0..5 {
        done(second.turn(OTHER, &format!("/elsewhere-{n}"))).await;
    }
    assert!(!held.is_finished(), "the other one is still at it");
    assert_eq!(first.given(), 0.0);
}
