//! The index of a large watched folder: how fast it is built, what it holds in memory and in the store, what the move of half
//! of it takes, and what one change costs beside one in a small folder.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use dropbox_connector::api::{
    Encoded,
    plain::watch_events_response::Payload,
    v1::{self as api, EventBasis, EventType},
};
use serde_json::json;
use tonic::Streaming;

use crate::{
    Outcome, fail,
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

impl Scope {
    /// Seeds both collections; nothing is watched yet.
    async fn seeded(bench: &mut Bench, each: u64) -> Outcome<(Emulator, Connector)> {
        let emulator = bench.emulator().await?;
        for folder in [FIRST, SECOND] {
            let generate = json!({ "folder": folder, "files": each, "bytes": 8, "per_folder": PER_FOLDER });
            emulator.control("seed", Some(json!({ "generate": generate }))).await?;
        }
        let connector = bench.connector(&emulator).await?;
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
}

pub async fn index(bench: &mut Bench, report: &mut Report) -> Outcome<()> {
    let (emulator, connector) = Scope::seeded(bench, SMALL).await?;
    let mut small = Scope::watched(emulator, connector).await?;
    small.indexed().await?;
    let small_cost = small.cost().await?;
    drop(small);

    let (emulator, connector) = Scope::seeded(bench, LARGE).await?;
    let before = connector.process.resident_mib()?;
    let mut large = Scope::watched(emulator, connector).await?;
    let seconds = large.indexed().await?;
    let items = 2 * LARGE + 2 * LARGE / PER_FOLDER + 2;
    let rate = items as f64 / seconds;
    let growth = large.connector.process.peak_mib()? - before;
    report.add(Figure {
        name: "a watched folder of 1,000,000 files, mean path 61: first indexing",
        target: "≥ 40,000 items/s",
        measured: format!("{rate:.0} items/s ({seconds:.1} s, SQLite, emulator on the same cores; n=1)"),
        holds: Some(rate >= 40_000.0),
    });
    report.add(Figure {
        name: "the same: peak memory growth",
        target: "≤ 64 MiB",
        measured: format!("{growth:.1} MiB ({before:.0} MiB before; n=1)"),
        holds: Some(growth <= 64.0),
    });
    let large_cost = large.cost().await?;
    report.add(Figure {
        name: "a change there: CPU, ÷ a change in a folder of 100 files",
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
    let argument = json!({ "from_path": FIRST, "to_path": MOVED });
    large.emulator.call("files/move_v2", &argument.to_string()).await?;
    let event = large.event().await?;
    if event.change_type() != EventType::Moved {
        return fail(format!("the move was told as {event:?}"));
    }
    let seconds = begin.elapsed().as_secs_f64();
    large.change().await?;
    let growth = large.connector.process.peak_mib()? - before;
    report.add(Figure {
        name: "a move of 500,000 of them: peak memory growth",
        target: "≤ 64 MiB",
        measured: format!("{growth:.1} MiB; told after {seconds:.1} s as one event (n=1)"),
        holds: Some(growth <= 64.0),
    });

    let store = large.connector.house.store.clone();
    let id = large.connector.process.id();
    // Its own end folds the log of the database into the file.
    Command::new("kill").args(["-TERM", &id.to_string()]).status()?;
    let until = Instant::now() + PATIENCE;
    while fs::exists(store.with_extension("db-wal"))? && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let bytes = fs::metadata(&store)?.len() as f64 / items as f64;
    report.add(Figure {
        name: "the same: bytes of the store's file for each item",
        target: "≤ 200",
        measured: format!("{bytes:.0} (SQLite)"),
        holds: Some(bytes <= 200.0),
    });
    Ok(())
}
