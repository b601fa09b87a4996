//! Watches: what a quiet one holds, what a delivered event costs and how long it takes, to many and from a webhook call.

use std::time::{Duration, Instant};

use dropbox_connector::api::{plain::watch_events_response::Payload, v1 as api};
use prost::Message as _;
use serde_json::json;
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    Outcome, fail,
    process::{Bench, Connector, Emulator, PARAMETER},
    report::{Figure, Report, Spread},
};

/// Watchers and connections of the two sizes.
const SIZES: [(usize, usize); 2] = [(1000, 10), (10_000, 100)];
/// Changes of one size, one after the other.
const CHANGES: usize = 40;
/// Changes before anything is counted: the index is built and both sides are warm.
const WARMING: usize = 5;
/// Changes told to one watcher.
const SINGLE: usize = 200;
const PATIENCE: Duration = Duration::from_secs(120);
/// A path of usual length: with its token a message is about 1 KiB.
const FOLDER: &str = "/accounting/incoming documents/2026/november";

/// A delivery: when it came and how large its message was.
type Delivery = (Instant, usize);

/// Opens watches and gives every change that any of them is told. All are ready when this returns.
async fn open(
    connector: &Connector,
    watchers: usize,
    connections: usize,
) -> Outcome<(mpsc::Receiver<Delivery>, JoinSet<()>)> {
    let (told, heard) = mpsc::channel(watchers);
    let (ready, mut readies) = mpsc::channel(watchers);
    let mut tasks = JoinSet::new();
    for connection in 0..connections {
        let client = connector.client().await?;
        for _ in 0..watchers / connections {
            let (mut client, told, ready) = (client.clone(), told.clone(), ready.clone());
            tasks.spawn(async move {
                let request = api::WatchEventsRequest {
                    application_parameter_id: PARAMETER.to_owned(),
                    path: FOLDER.to_owned(),
                    ..Default::default()
                };
                let Ok(stream) = client.watch_events(request).await else { return };
                let mut stream = stream.into_inner();
                while let Ok(Some(message)) = stream.message().await {
                    let message = message.into_plain();
                    let bytes = message.encoded_len();
                    match message.payload {
                        Some(Payload::Ready(_)) => _ = ready.send(()).await,
                        Some(Payload::Change(_)) => _ = told.send((Instant::now(), bytes)).await,
                        _ => {}
                    }
                }
            });
        }
        // The handshakes of one connection are through before the next begins.
        for _ in 0..watchers / connections {
            let one = tokio::time::timeout(PATIENCE, readies.recv()).await;
            if one.is_err() {
                return fail(format!("a watch of connection {connection} did not begin"));
            }
        }
    }
    Ok((heard, tasks))
}

/// Changes one file and waits until each of `watchers` was told: how long each took, in milliseconds, and the bytes.
async fn change(
    emulator: &Emulator,
    number: usize,
    heard: &mut mpsc::Receiver<Delivery>,
    watchers: usize,
) -> Outcome<(Vec<f64>, usize)> {
    let path = format!("{FOLDER}/invoice of a customer with a long name {number:06}.pdf");
    let began = Instant::now();
    emulator.control("seed", Some(json!({ "files": [{ "path": path, "text": "x" }] }))).await?;
    let (mut took, mut size) = (Vec::with_capacity(watchers), 0);
    while took.len() < watchers {
        match tokio::time::timeout(PATIENCE, heard.recv()).await {
            Ok(Some((at, bytes))) => {
                took.push(at.duration_since(began).as_secs_f64() * 1e3);
                size = bytes;
            }
            _ => return fail(format!("change {number} was told to {} of {watchers} watchers", took.len())),
        }
    }
    Ok((took, size))
}

async fn start(bench: &mut Bench, webhooks: bool) -> Outcome<(Emulator, Connector)> {
    let emulator = bench.emulator().await?;
    emulator.control("seed", Some(json!({ "folders": [FOLDER] }))).await?;
    let connector = match webhooks {
        false => bench.connector(&emulator).await?,
        true => bench.connector_with_webhooks(&emulator).await?,
    };
    Ok((emulator, connector))
}

pub async fn many(bench: &mut Bench, report: &mut Report) -> Outcome<()> {
    for (watchers, connections) in SIZES {
        let (emulator, connector) = start(bench, false).await?;
        // One watch brings everything up that is not a watcher's.
        let (mut first, first_tasks) = open(&connector, 1, 1).await?;
        for number in 0..WARMING {
            change(&emulator, number, &mut first, 1).await?;
        }
        drop(first_tasks);
        let before = connector.process.resident_mib()?;
        let (mut heard, _tasks) = open(&connector, watchers, connections).await?;
        let each_kib = (connector.process.resident_mib()? - before) * 1024.0 / watchers as f64;
        for number in WARMING..2 * WARMING {
            change(&emulator, number, &mut heard, watchers).await?;
        }
        let cpu = connector.process.cpu_seconds()?;
        let (mut took, mut size) = (Vec::new(), 0);
        for number in 0..CHANGES {
            let (one, bytes) = change(&emulator, 1000 + number, &mut heard, watchers).await?;
            took.extend(one);
            size = bytes;
        }
        let cpu = (connector.process.cpu_seconds()? - cpu) / (CHANGES * watchers) as f64 * 1e6;
        took.sort_by(f64::total_cmp);
        let (p50, p99) = (at(&took, 0.5), at(&took, 0.99));
        let large = watchers == 10_000;
        report.add(Figure {
            name: if large {
                "10,000 watchers on 100 connections: memory of each when idle"
            } else {
                "1,000 watchers on 10 connections: memory of each when idle"
            },
            target: "≤ 6 KiB",
            measured: format!("{each_kib:.1} KiB ({before:.0} MiB before; n=1)"),
            holds: Some(each_kib <= 6.0),
        });
        report.add(Figure {
            name: if large {
                "10,000 watchers: CPU per delivered event"
            } else {
                "1,000 watchers: CPU per delivered event"
            },
            target: "≤ 9 µs",
            measured: format!("{cpu:.1} µs (messages of {size} bytes, {CHANGES} changes)"),
            holds: Some(cpu <= 9.0),
        });
        let bound = if large { 220.0 } else { 20.0 };
        report.add(Figure {
            name: if large {
                "10,000 watchers: delivery, from before the change is made"
            } else {
                "1,000 watchers: delivery, from before the change is made"
            },
            target: if large { "p99 ≤ 220 ms" } else { "p99 ≤ 20 ms" },
            measured: format!("p50 {p50:.1} ms, p99 {p99:.1} ms, last {:.1} ms", at(&took, 1.0)),
            holds: Some(p99 <= bound),
        });
    }
    Ok(())
}

/// One watcher, one change after the other: by longpoll, and by webhook calls.
pub async fn single(bench: &mut Bench, report: &mut Report) -> Outcome<()> {
    for webhooks in [false, true] {
        let (emulator, connector) = start(bench, webhooks).await?;
        let (mut heard, _tasks) = open(&connector, 1, 1).await?;
        for number in 0..WARMING {
            change(&emulator, number, &mut heard, 1).await?;
        }
        let (mut took, mut asks) = (Vec::new(), Vec::new());
        for number in 0..SINGLE {
            // What the emulator itself takes for the same change, in the same run.
            let begin = Instant::now();
            emulator
                .control("seed", Some(json!({ "files": [{ "path": format!("/elsewhere/{number}"), "text": "x" }] })))
                .await?;
            asks.push(begin.elapsed().as_secs_f64() * 1e3);
            took.extend(change(&emulator, 1000 + number, &mut heard, 1).await?.0);
        }
        took.sort_by(f64::total_cmp);
        asks.sort_by(f64::total_cmp);
        let (p50, p99, own) = (at(&took, 0.5), at(&took, 0.99), at(&asks, 0.5));
        let bound = if webhooks { 100.0 } else { 50.0 };
        report.add(Figure {
            name: if webhooks { "webhook call to delivery" } else { "change to delivery by longpoll" },
            target: if webhooks { "p99 ≤ 100 ms" } else { "p99 ≤ 50 ms above the emulator's answer" },
            measured: format!(
                "p50 {p50:.1} ms, p99 {p99:.1} ms (n={SINGLE}, from before the change is made; the emulator's own answer {})",
                Spread::of(&asks).show(1, " ms")
            ),
            holds: Some(p99 - if webhooks { 0.0 } else { own } <= bound),
        });
    }
    Ok(())
}

fn at(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}
