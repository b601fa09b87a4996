//! Several connectors on one store, a database that goes away and comes back, rows changed by hand, `migrate`.

use std::{
    process::{Command, Output},
    time::{Duration, Instant},
};

use dropbox_connector::api::v1::{self as pb, dropbox_connector_client::DropboxConnectorClient};
use sqlx::{Connection as _, Executor as _, PgConnection, SqliteConnection};
use tonic::{Code, Status, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::support::{
    House, PARAMETER, fact,
    postgres::{Pooler, Server},
    process::{BINARY, Served, place, text},
    reason, retry_delay, start, start_with, until,
};

const TOKEN: &str = "oauth2/token";

async fn on(url: String) -> House {
    start_with(|config| config.store_url = url).await
}

async fn list(channel: &Channel, id: &str) -> Result<(), Status> {
    let request = pb::ListFolderRequest { application_parameter_id: id.into(), ..Default::default() };
    DropboxConnectorClient::new(channel.clone()).list_folder(request).await.map(drop)
}

async fn disable(house: &House, id: &str, disabled: bool) {
    let state = if disabled { pb::ParameterState::Disabled } else { pb::ParameterState::Active };
    let parameter = pb::ApplicationParameter {
        application_parameter_id: id.into(),
        state: state.into(),
        ..pb::ApplicationParameter::default()
    };
    let update = pb::UpdateApplicationParameterRequest {
        application_parameter: Some(parameter),
        update_mask: Some(prost_types::FieldMask { paths: vec!["state".into()] }),
        ..Default::default()
    };
    house.admin().await.update_application_parameter(update).await.expect("updated");
}

/// By hand, past the connector.
async fn sql(url: &str, statements: &[&'static str]) {
    for statement in statements {
        if url.starts_with("postgres") {
            PgConnection::connect(url).await.expect("PostgreSQL").execute(*statement).await.expect(statement);
        } else {
            SqliteConnection::connect(url).await.expect("SQLite").execute(*statement).await.expect(statement);
        }
    }
}

async fn two_connectors_see_each_others_changes_within_a_second(house: House) {
    let (other, channel) = house.replica().await;
    list(&channel, PARAMETER).await.expect("works");
    // What else the machine does can only add to a time: the least of some is nearest to what the connectors take.
    let mut least = Duration::MAX;
    for disabled in [true, false, true, false, true] {
        disable(&house, PARAMETER, disabled).await;
        let changed = Instant::now();
        until("it holds there too", || async { list(&channel, PARAMETER).await.is_err() == disabled }).await;
        least = least.min(changed.elapsed());
    }
    assert!(least < Duration::from_secs(1), "{least:?}");
    let status = list(&channel, PARAMETER).await.expect_err("disabled");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "PARAMETER_DISABLED"));
    other.stop().await.expect("stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_connectors_on_one_file_see_each_others_changes_within_a_second() {
    Box::pin(two_connectors_see_each_others_changes_within_a_second(start().await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_connectors_on_one_server_see_each_others_changes_within_a_second() {
    Box::pin(two_connectors_see_each_others_changes_within_a_second(on(Server::shared().database().await).await)).await;
}

async fn a_hundred_callers_each_of_two_connectors_cause_one_renewal(house: House) {
    let (other, channel) = house.replica().await;
    list(&house.channel, PARAMETER).await.expect("works");
    list(&channel, PARAMETER).await.expect("works");
    for round in 0..3 {
        let before = house.control().counter(TOKEN).calls;
        house.control().expire_access_tokens();
        let calls = (0..200).map(|n| list(if n % 2 == 0 { &house.channel } else { &channel }, PARAMETER));
        let outcomes = futures::future::join_all(calls).await;
        assert!(outcomes.iter().all(Result::is_ok), "{:?}", outcomes.iter().find(|outcome| outcome.is_err()));
        assert_eq!(house.control().counter(TOKEN).calls - before, 1, "round {round}");
    }
    other.stop().await.expect("stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_callers_each_of_two_connectors_on_one_file_cause_one_renewal() {
    Box::pin(a_hundred_callers_each_of_two_connectors_cause_one_renewal(start().await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_callers_each_of_two_connectors_on_one_server_cause_one_renewal() {
    Box::pin(a_hundred_callers_each_of_two_connectors_cause_one_renewal(on(Server::shared().database().await).await))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_goes_away_and_comes_back_is_survived() {
    let server = Server::start();
    let house = on(server.database().await).await;
    house.make_parameter("unused", |_| {}).await;
    list(&house.channel, PARAMETER).await.expect("works");
    let probe = format!("http://{}", house.addresses.probe);
    let probe = Channel::from_shared(probe).expect("a uri").connect().await.expect("the probe port");
    let is = |status: ServingStatus| {
        let mut health = HealthClient::new(probe.clone());
        async move {
            let asked = HealthCheckRequest { service: "readiness".into() };
            health.check(asked).await.expect("a known name").into_inner().status() == status
        }
    };
    assert!(is(ServingStatus::Serving).await);

    server.stop();
    let mut spans = Vec::new();
    for _ in 0..20 {
        let begun = Instant::now();
        list(&house.channel, PARAMETER).await.expect("an account that is known goes on");
        spans.push(begun.elapsed());
    }
    spans.sort_unstable();
    // All of them would wait for it, and some are slow on a busy machine.
    assert!(spans[10] < Duration::from_secs(1), "and waits for no database: {spans:?}");
    let status = list(&house.channel, "unused").await.expect_err("it has to be read");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "STORE_UNAVAILABLE"));
    assert!(retry_delay(&status).is_some());
    house.control().expire_access_tokens();
    list(&house.channel, PARAMETER).await.expect("a bearer is renewed without the store, too");
    until("readiness says so", || is(ServingStatus::NotServing)).await;
    list(&house.channel, PARAMETER).await.expect("it still goes on");

    server.start_again();
    until("readiness says so", || is(ServingStatus::Serving)).await;
    list(&house.channel, "unused").await.expect("it can be read again");
    disable(&house, PARAMETER, true).await;
    until("changes are followed again", || async { list(&house.channel, PARAMETER).await.is_err() }).await;
}

async fn rows_swapped_by_hand_are_refused_and_show_nothing(mut house: House) {
    for id in ["b", "c", "d", "e"] {
        house.make_parameter(id, |_| {}).await;
    }
    sql(
        &house.config().store_url,
        &[
            // A secret put into another row.
            "UPDATE application_parameters SET grant_sealed =
             (SELECT grant_sealed FROM application_parameters WHERE id = 'b') WHERE id = 'c'",
            // Whole rows that change names.
            "UPDATE application_parameters SET id = 'x' WHERE id = 'd'",
            "UPDATE application_parameters SET id = 'd' WHERE id = 'e'",
            "UPDATE application_parameters SET id = 'e' WHERE id = 'x'",
        ],
    )
    .await;
    house.restart().await;
    let asked = house.control().journal().len();
    for id in ["c", "d", "e"] {
        let status = list(&house.channel, id).await.expect_err("swapped");
        let told = (status.code(), reason(&status), fact(&status, "cause"));
        let expected =
            (Code::FailedPrecondition, "REAUTHORIZATION_REQUIRED".into(), Some("sealed_column_damaged".into()));
        assert_eq!(told, expected);
    }
    assert_eq!(house.control().journal().len(), asked, "Dropbox hears nothing of it");
    list(&house.channel, "b").await.expect("the others go on");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_swapped_by_hand_in_a_file_are_refused_and_show_nothing() {
    Box::pin(rows_swapped_by_hand_are_refused_and_show_nothing(start().await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_swapped_by_hand_in_a_server_are_refused_and_show_nothing() {
    Box::pin(rows_swapped_by_hand_are_refused_and_show_nothing(on(Server::shared().database().await).await)).await;
}

fn migrate(url: &str, flags: &[&str]) -> Output {
    Command::new(BINARY).arg("migrate").args(flags).arg(format!("--store-url={url}")).output().expect("it runs")
}

#[track_caller]
fn told(output: &Output, code: i32, words: &str) {
    let text = text(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.contains(words), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn migrate_brings_the_tables_up_to_date_and_its_check_tells_by_its_exit_code() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = format!("sqlite://{}", folder.path().join("store.db").display());
    told(&migrate(&file, &["--check"]), 1, "store_url: the store cannot be opened");
    for url in [file, Server::shared().database().await] {
        told(&migrate(&url, &[]), 0, "from version 0 to ");
        told(&migrate(&url, &[]), 0, "up to date (version ");
        told(&migrate(&url, &["--check"]), 0, "up to date (version ");
        let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                     SELECT 9001, description, success, checksum, execution_time FROM _sqlx_migrations WHERE version = 1";
        sql(&url, &[newer]).await;
        told(&migrate(&url, &["--check"]), 1, "run the newer program");
        told(&migrate(&url, &[]), 1, "run the newer program");
    }
    told(&migrate("mysql://x", &["--check"]), 64, "store_url");
    let nobody = "postgres://tests@127.0.0.1:1/x?sslmode=disable";
    told(&migrate(nobody, &["--check"]), 1, "store_url: the store cannot be opened: ");
    let secret = Server::shared().database().await.replace("tests@", "tests:hunter2@").replace("/test_", "/none_");
    let refused = migrate(&secret, &[]);
    told(&refused, 1, "does not exist");
    assert!(!text(&refused).contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_told_not_to_migrate_waits_for_whoever_does() {
    let url = Server::shared().database().await;
    let store = format!("--store-url={url}");
    let mut served = Served::start_with(&[&store, "--store-migrate=false"]);
    assert_eq!(served.ended().code(), Some(1));
    assert!(served.text().contains("run `dropbox-connector migrate`"), "{}", served.text());
    told(&migrate(&url, &[]), 0, "from version 0");
    let mut served = Served::start_with(&[&store, "--store-migrate=false"]);
    served.told("data");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_check_finds_a_pooler_that_swallows_notifications() {
    let server = Server::shared();
    let url = server.database().await;
    told(&migrate(&url, &[]), 0, "from version 0");
    let by_session = Pooler::start(server, "session");
    told(&migrate(&by_session.url(&url), &["--check"]), 0, "up to date");
    let by_transaction = Pooler::start(server, "transaction");
    told(&migrate(&by_transaction.url(&url), &["--check"]), 1, "pool_mode = transaction");
}

/// Figures of a server with many tenants: how soon it starts, what they cost in memory, how soon the first call is answered.
async fn ten_thousand_parameters(url: &str) {
    use dropbox_connector::{
        clock::{Clock as _, SystemClock},
        emulator::{Emulator, Options},
        seal::KeyRing,
        secret::Secret,
        store::{Account, Grant, Linked, ParameterId, Settings, Store},
    };
    const COUNT: usize = 10_000;
    let folder = tempfile::tempdir().expect("a folder");
    let [_, keys] = place(folder.path());
    let file = folder.path().join("sealing.keys");
    let emulator = Emulator::start(Options::default()).await.expect("emulator");
    let login = emulator.account();
    let ring = std::sync::Arc::new(KeyRing::from_file(&file).expect("keys"));
    let store = Store::open(url, ring, std::sync::Arc::new(SystemClock)).await.expect("a store");
    let name = |n: usize| format!("tenant-{n}");
    let make = async |n: usize| {
        let id = ParameterId::new(&name(n)).expect("an id");
        let settings = Settings { app_key: login.app_key.clone(), display_name: name(n), ..Settings::default() };
        let secret = Some(Secret::new(login.app_secret.clone()));
        let made = store.create_parameters(&id, settings, secret).await.expect("created");
        let bearer = Secret::new(login.access_token.clone());
        let linked = Linked {
            grant: Grant::Refreshable(Secret::new(login.refresh_token.clone())),
            granted_scopes: vec!["files.metadata.read".into()],
            account: Some(Account { account_id: format!("dbid:{n}"), ..Account::default() }),
            bearer: Some((bearer, Some(SystemClock.now() + Duration::from_secs(14_000)))),
        };
        store.set_grant(&made, linked).await.expect("linked");
    };
    for first in (0..COUNT).step_by(50) {
        futures::future::join_all((first..first + 50).map(&make)).await;
    }
    store.close().await;

    let at = emulator.addresses();
    let flags = [
        format!("--store-url={url}"),
        keys,
        "--allow-insecure-upstream".to_owned(),
        format!("--dropbox-api-url={}", at.api),
        format!("--dropbox-content-url={}", at.content),
        format!("--dropbox-oauth-url={}", at.www),
    ];
    let begun = Instant::now();
    let mut served = Served::start_bare(&flags.each_ref().map(String::as_str));
    let data = served.told("data");
    let started = begun.elapsed();
    let channel = Channel::from_shared(format!("http://{data}")).expect("a uri").connect().await.expect("connect");
    // What the first hundred cost is the process's own.
    let mut first_calls = Vec::new();
    for n in 0..100 {
        let begun = Instant::now();
        list(&channel, &name(n)).await.expect("listed");
        first_calls.push(begun.elapsed());
    }
    first_calls.sort_unstable();
    let twenty_from = async |first: usize| {
        let calls = futures::future::join_all((first..first + 20).map(|n| {
            let (channel, id) = (&channel, name(n));
            async move { list(channel, &id).await }
        }));
        assert!(calls.await.iter().all(Result::is_ok));
    };
    // So are the connections and buffers of twenty calls at once, whomever they are for.
    for round in 0..100 {
        twenty_from(round % 5 * 20).await;
    }
    // What the allocator keeps of memory given back goes within ten seconds, while calls go on.
    let settled = async || {
        let (begun, mut least) = (Instant::now(), usize::MAX);
        while begun.elapsed() < Duration::from_secs(15) {
            twenty_from(0).await;
            least = least.min(served.resident());
        }
        least
    };
    let before = settled().await;
    for first in (100..COUNT).step_by(20) {
        twenty_from(first).await;
    }
    let grown = settled().await.saturating_sub(before);
    let figures = format!(
        "started in {started:?}; first call {:?}, 95 of 100 within {:?}; {} KiB",
        first_calls[50],
        first_calls[94],
        grown / 1024
    );
    #[expect(clippy::print_stdout, reason = "a figure is there to be read")]
    {
        println!("{figures}");
    }
    assert!(started < Duration::from_secs(2), "{figures}");
    assert!(first_calls[94] < Duration::from_millis(50), "{figures}");
    assert!(grown < 32 * 1024 * 1024, "{figures}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "makes ten thousand parameters: make test-long"]
async fn ten_thousand_parameters_on_a_server_cost_little() {
    ten_thousand_parameters(&Server::shared().database().await).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "makes ten thousand parameters: make test-long"]
async fn ten_thousand_parameters_in_a_file_cost_little() {
    let folder = tempfile::tempdir().expect("a folder");
    ten_thousand_parameters(&format!("sqlite://{}", folder.path().join("store.db").display())).await;
}
