//! The index of a large watched folder: how fast it is built, what it holds in memory and in the store, what the move of half
//! of it takes, and what one change costs beside one in a small folder.

use std::time::{Duration, Instant};

use dropbox_connector::api::{
    Encoded,
    plain::watch_events_response::Payload,
    v1::{self as api, EventBasis, EventType},
};
use serde_json::json;
use sqlx::Connection as _;
use tonic::Streaming;

use crate::{
    Outcome, fail,
    postgres::Server,
    process::{Bench, Connector, Emulator, PARAMETER},
    report::{Figure, Report},
};

const SCOPE: &str = "/library";
const FIRST: &str = "/library/first collection of scanned documents";
const SECOND: &str = "/library/other collection of scanned documents";
const MOVED: &str = "/library/moved collection of scanned documents";
/// Of each collection.
const LARGE: u64 = 500_000;
const SMALL: u64 = 50;
const PER_FOLDER: u64 = 1000;
/// Changes whose cost is taken together.
const CHANGES: usize = 300;
/// How often it is asked whether the index stands.
const LOOK: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(300);

struct Scope {
    emulator: Emulator,
    connector: Connector,
    stream: Streaming<Encoded>,
    changes: usize,
}

/// What a run of either store is called, and what it has to reach.
struct Store {
    indexing: &'static str,
    rate: (&'static str, f64),
    memory: &'static str,
    bytes: (&'static str, &'static str, f64),
    change: &'static str,
    moved: &'static str,
}

const SQLITE: Store = Store {
    indexing: "a watched folder of 1,000,000 files, mean path 61: first indexing (SQLite)",
    rate: ("≥ 40,000 items/s", 40_000.0),
    memory: "the same (SQLite): peak memory growth",
    bytes: ("the same: bytes of the SQLite file for each item", "≤ 200", 200.0),
    change: "a change there (SQLite): CPU, ÷ a change in a folder of 100 files",
    moved: "a move of 500,000 of them (SQLite): peak memory growth",
};

const POSTGRES: Store = Store {
    indexing: "a watched folder of 1,000,000 files, mean path 61: first indexing (PostgreSQL)",
    rate: ("≥ 20,000 items/s", 20_000.0),
    memory: "the same (PostgreSQL): peak memory growth",
    bytes: ("the same: bytes of the PostgreSQL table with its indexes for each item", "≤ 320", 320.0),
    change: "a change there (PostgreSQL): CPU, ÷ a change in a folder of 100 files",
    moved: "a move of 500,000 of them (PostgreSQL): peak memory growth",
};

impl Scope {
    /// Seeds both collections; nothing is watched yet.
    async fn seeded(bench: &mut Bench, each: u64, server: Option<&Server>) -> Outcome<(Emulator, Connector)> {
        let emulator = bench.emulator().await?;
        for folder in [FIRST, SECOND] {
            let generate = json!({ "folder": folder, "files": each, "bytes": 8, "per_folder": PER_FOLDER });
            emulator.control("seed", Some(json!({ "generate": generate }))).await?;
        }
        let connector = match server {
            Some(server) => bench.connector_at(&emulator, &server.database().await).await?,
            None => bench.connector(&emulator).await?,
        };
        Ok((emulator, connector))
    }

    async fn watched(emulator: Emulator, connector: Connector) -> Outcome<Scope> {
        let request = api::WatchEventsRequest {
            application_parameter_id: PARAMETER.to_owned(),
            path: SCOPE.to_owned(),
            ..Default::default()
        };
        let stream = connector.client().await?.watch_events(request).await?.into_inner();
        Ok(Scope { emulator, connector, stream, changes: 0 })
    }

    /// Changes a file; its type and basis as they are told.
    async fn change(&mut self) -> Outcome<(EventType, EventBasis)> {
        self.changes += 1;
        let path = format!("{SCOPE}/changes/{}", self.changes);
        self.emulator.control("seed", Some(json!({ "files": [{ "path": path, "text": "x" }] }))).await?;
        loop {
            let event = self.event().await?;
            if event.item.as_ref().is_some_and(|item| item.path_lower == path) {
                return Ok((event.change_type(), event.basis()));
            }
        }
    }

    async fn event(&mut self) -> Outcome<api::ChangeEvent> {
        loop {
            match tokio::time::timeout(PATIENCE, self.stream.message()).await {
                Ok(Ok(Some(message))) => {
                    if let Some(Payload::Change(event)) = message.into_plain().payload {
                        return Ok(event);
                    }
                }
                other => return fail(format!("the watch ended: {other:?}")),
            }
        }
    }

    /// Seconds until changes are told from the index.
    async fn indexed(&mut self) -> Outcome<f64> {
        let begin = Instant::now();
        loop {
            if self.change().await?.1 == EventBasis::Index {
                return Ok(begin.elapsed().as_secs_f64());
            }
            if begin.elapsed() > PATIENCE {
                return fail(format!("no index after {PATIENCE:?}"));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Milliseconds of CPU of one change.
    async fn cost(&mut self) -> Outcome<f64> {
        let cpu = self.connector.process.cpu_seconds()?;
        for _ in 0..CHANGES {
            self.change().await?;
        }
        Ok((self.connector.process.cpu_seconds()? - cpu) / CHANGES as f64 * 1e3)
    }

    /// What the store takes on the disk: the whole file, or the table with its indexes.
    async fn bytes(&self, server: Option<&Server>) -> Outcome<f64> {
        let url = &self.connector.house.store;
        let bytes: i64 = match server {
            Some(_) => {
                let mut store = sqlx::PgConnection::connect(url).await?;
                sqlx::query_scalar("SELECT pg_total_relation_size('index_items')").fetch_one(&mut store).await?
            }
            None => {
                let mut store = sqlx::SqliteConnection::connect(url).await?;
                let sql = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()";
                sqlx::query_scalar(sql).fetch_one(&mut store).await?
            }
        };
        Ok(bytes as f64)
    }
}

/// With an embedded store, or with a database of this server.
pub async fn index(bench: &mut Bench, report: &mut Report, server: Option<&Server>) -> Outcome<()> {
    let names = if server.is_some() { POSTGRES } else { SQLITE };
    let (emulator, connector) = Scope::seeded(bench, SMALL, server).await?;
    let mut small = Scope::watched(emulator, connector).await?;
    small.indexed().await?;
    let small_cost = small.cost().await?;
    drop(small);

    let (emulator, connector) = Scope::seeded(bench, LARGE, server).await?;
    let before = connector.process.resident_mib()?;
    let mut large = Scope::watched(emulator, connector).await?;
    let cpu = large.connector.process.cpu_seconds()?;
    let seconds = large.indexed().await?;
    let cpu = large.connector.process.cpu_seconds()? - cpu;
    let items = (2 * LARGE + 2 * LARGE / PER_FOLDER + 2) as f64;
    let rate = items / seconds;
    let growth = large.connector.process.peak_mib()? - before;
    report.add(Figure {
        name: names.indexing,
        target: names.rate.0,
        measured: format!(
            "{rate:.0} items/s ({seconds:.1} s, the emulator on the same cores, connector's CPU {:.1} µs an item; n=1)",
            cpu / items * 1e6
        ),
        holds: Some(rate >= names.rate.1),
    });
    report.add(Figure {
        name: names.memory,
        target: "≤ 64 MiB",
        measured: format!("{growth:.1} MiB ({before:.0} MiB before; n=1)"),
        holds: Some(growth <= 64.0),
    });
    let bytes = large.bytes(server).await? / items;
    let (name, target, most) = names.bytes;
    report.add(Figure { name, target, measured: format!("{bytes:.0}"), holds: Some(bytes <= most) });
    let large_cost = large.cost().await?;
    report.add(Figure {
        name: names.change,
        target: "≤ 2",
        measured: format!(
            "{:.2} × ({large_cost:.2} ms ÷ {small_cost:.2} ms, {CHANGES} changes each)",
            large_cost / small_cost
        ),
        holds: Some(large_cost / small_cost <= 2.0),
    });

    large.connector.process.forget_peak()?;
    let before = large.connector.process.resident_mib()?;
    let begin = Instant::now();
    // Dropbox's API moves 10,000 items at once and no more; people with its own programs move what they like.
    large.emulator.control("seed", Some(json!({ "moves": [{ "from": FIRST, "to": MOVED }] }))).await?;
    let event = large.event().await?;
    if event.change_type() != EventType::Moved {
        return fail(format!("the move was told as {event:?}"));
    }
    let seconds = begin.elapsed().as_secs_f64();
    large.change().await?;
    let growth = large.connector.process.peak_mib()? - before;
    report.add(Figure {
        name: names.moved,
        target: "≤ 64 MiB",
        measured: format!("{growth:.1} MiB; told after {seconds:.1} s as one event (n=1)"),
        holds: Some(growth <= 64.0),
    });
    Ok(())
}
