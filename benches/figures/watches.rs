//! Watches: what a quiet one holds, what a delivered event costs and how long it takes, to many and from a webhook call.

use std::time::{Duration, Instant};

use dropbox_connector::api::{plain::watch_events_response::Payload, v1 as api};
use prost::Message as _;
use serde_json::json;
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    Outcome,
    broadcast::Broadcast,
    fail,
    process::{Bench, Client, Connector, Emulator, PARAMETER},
    report::{Figure, Report, Spread},
};

/// So many watchers on so many connections.
struct Size {
    watchers: usize,
    connections: usize,
    memory: &'static str,
    memory_target: &'static str,
    memory_kib: f64,
    delivery: Option<Delivery>,
}

/// What is measured while they are told changes.
struct Delivery {
    cpu: &'static str,
    delay: &'static str,
    delay_target: &'static str,
    delay_ms: f64,
    longpolls: &'static str,
}

const SIZES: [Size; 3] = [
    Size {
        watchers: 1000,
        connections: 10,
        memory: "1,000 watchers on 10 connections: memory of each when idle",
        memory_target: "≤ 6 KiB",
        memory_kib: 6.0,
        delivery: Some(Delivery {
            cpu: "1,000 watchers: CPU per delivered event",
            delay: "1,000 watchers: delivery, from before the change is made",
            delay_target: "p99 ≤ 20 ms",
            delay_ms: 20.0,
            longpolls: "1,000 watchers of one folder: longpolls at once",
        }),
    },
    Size {
        watchers: 10_000,
        connections: 100,
        memory: "10,000 watchers on 100 connections: memory of each when idle",
        memory_target: "≤ 6 KiB",
        memory_kib: 6.0,
        delivery: Some(Delivery {
            cpu: "10,000 watchers: CPU per delivered event",
            delay: "10,000 watchers: delivery, from before the change is made",
            delay_target: "p99 ≤ 220 ms",
            delay_ms: 220.0,
            longpolls: "10,000 watchers of one folder: longpolls at once",
        }),
    },
    Size {
        watchers: 500,
        connections: 500,
        memory: "500 watchers, each alone on its connection: memory of each when idle",
        memory_target: "≤ 26 KiB",
        memory_kib: 26.0,
        delivery: None,
    },
];
/// Changes of one size, one after the other, and so many before it is the bare server's turn: CPU is told in hundredths of a second.
const CHANGES: usize = 40;
const TURN: usize = 8;
/// Changes before anything is counted: the index is built and both sides are warm.
const WARMING: usize = 5;
/// Changes told to one watcher.
const SINGLE: usize = 200;
const PATIENCE: Duration = Duration::from_secs(120);
/// Memory is that of a process at rest: the allocator keeps what is free for five seconds (`main.rs`), and what was open for a
/// moment belongs to no watch.
const REST: Duration = Duration::from_secs(6);
/// A path of usual length: with its token a message is about 1 KiB.
pub const FOLDER: &str = "/accounting/incoming documents/2026/november";

/// A change was told: when, and how large its message was.
type Told = (Instant, usize);

/// Opens watches and gives every change that any of them is told. All are ready when this returns.
async fn open<C: Future<Output = Outcome<Client>>>(
    connect: impl Fn() -> C,
    watchers: usize,
    connections: usize,
) -> Outcome<(mpsc::Receiver<Told>, JoinSet<()>)> {
    let (told, heard) = mpsc::channel(watchers);
    let (ready, mut readies) = mpsc::channel(watchers);
    let mut tasks = JoinSet::new();
    for connection in 0..connections {
        let client = connect().await?;
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
    heard: &mut mpsc::Receiver<Told>,
    watchers: usize,
) -> Outcome<(Vec<f64>, usize)> {
    let path = format!("{FOLDER}/invoice of a customer with a long name {number:06}.pdf");
    let began = Instant::now();
    emulator.control("seed", Some(json!({ "files": [{ "path": path, "text": "x" }] }))).await?;
    told(began, heard, watchers).await
}

/// Waits until each of `watchers` was told something that began then: how long each took, in milliseconds, and the bytes.
async fn told(began: Instant, heard: &mut mpsc::Receiver<Told>, watchers: usize) -> Outcome<(Vec<f64>, usize)> {
    let (mut took, mut size) = (Vec::with_capacity(watchers), 0);
    while took.len() < watchers {
        match tokio::time::timeout(PATIENCE, heard.recv()).await {
            Ok(Some((at, bytes))) => {
                took.push(at.duration_since(began).as_secs_f64() * 1e3);
                size = bytes;
            }
            _ => return fail(format!("a change was told to {} of {watchers} watchers", took.len())),
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

/// So many watches on so many connections: what each holds, what telling costs, and how long it takes.
pub async fn many(bench: &mut Bench, report: &mut Report) -> Outcome<()> {
    for size in SIZES {
        let (emulator, connector) = start(bench, false).await?;
        // One watch brings everything up that is not a watcher's.
        let (mut first, first_tasks) = open(|| connector.client(), 1, 1).await?;
        for number in 0..WARMING {
            change(&emulator, number, &mut first, 1).await?;
        }
        let before = connector.process.still_mib(REST).await?;
        drop(first_tasks);
        let (mut heard, _tasks) = open(|| connector.client(), size.watchers, size.connections).await?;
        let each_kib = (connector.process.still_mib(REST).await? - before) * 1024.0 / size.watchers as f64;
        report.add(Figure {
            name: size.memory,
            target: size.memory_target,
            measured: format!("{each_kib:.1} KiB ({before:.0} MiB before; n=1)"),
            holds: Some(each_kib <= size.memory_kib),
        });
        let Some(delivery) = &size.delivery else { continue };
        let mut bytes = 0;
        for number in WARMING..2 * WARMING {
            bytes = change(&emulator, number, &mut heard, size.watchers).await?.1;
        }
        let mut bare = Broadcast::start(bytes)?;
        let (mut bare_heard, _bare_tasks) = open(|| bare.client(), size.watchers, size.connections).await?;
        for _ in 0..WARMING {
            bare.tell()?;
            told(Instant::now(), &mut bare_heard, size.watchers).await?;
        }
        // In turn: what else the machine does falls on both.
        let (mut took, mut bare_took, mut cpu, mut bare_cpu) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let each = |seconds: f64| seconds / (TURN * size.watchers) as f64 * 1e6;
        for turn in 0..CHANGES / TURN {
            let before = connector.process.cpu_seconds()?;
            for number in 0..TURN {
                let number = 1000 + turn * TURN + number;
                let (one, of) = change(&emulator, number, &mut heard, size.watchers).await?;
                took.extend(one);
                bytes = of;
            }
            cpu.push(each(connector.process.cpu_seconds()? - before));
            let before = bare.cpu_seconds()?;
            for _ in 0..TURN {
                let began = Instant::now();
                bare.tell()?;
                bare_took.extend(told(began, &mut bare_heard, size.watchers).await?.0);
            }
            bare_cpu.push(each(bare.cpu_seconds()? - before));
        }
        // CPU is told in hundredths of a second, of which one turn has few: the figure is of all of them together.
        let mean = |turns: &[f64]| turns.iter().sum::<f64>() / turns.len() as f64;
        let (mean_cpu, bare_mean) = (mean(&cpu), mean(&bare_cpu));
        let (cpu, bare_cpu) = (Spread::of(&cpu), Spread::of(&bare_cpu));
        took.sort_by(f64::total_cmp);
        bare_took.sort_by(f64::total_cmp);
        let (p50, p99) = (at(&took, 0.5), at(&took, 0.99));
        report.add(Figure {
            name: delivery.cpu,
            target: "≤ 9 µs",
            measured: format!(
                "{mean_cpu:.1} µs ({:.1}–{:.1}, n={}); a bare gRPC server with a broadcast channel {bare_mean:.1} µs \
                 ({:.1}–{:.1}): {:.2} × (messages of {bytes} bytes, {CHANGES} changes)",
                cpu.low,
                cpu.high,
                cpu.count,
                bare_cpu.low,
                bare_cpu.high,
                mean_cpu / bare_mean,
            ),
            holds: Some(mean_cpu <= 9.0),
        });
        report.add(Figure {
            name: delivery.delay,
            target: delivery.delay_target,
            measured: format!(
                "p50 {p50:.1} ms, p99 {p99:.1} ms, last {:.1} ms; the bare server's p50 {:.1} ms, p99 {:.1} ms",
                at(&took, 1.0),
                at(&bare_took, 0.5),
                at(&bare_took, 0.99)
            ),
            holds: Some(p99 <= delivery.delay_ms),
        });
        let counters = emulator.control("counters", None).await?;
        let longpolls = counters["files/list_folder/longpoll"]["running_max"].as_u64().unwrap_or(0);
        report.add(Figure {
            name: delivery.longpolls,
            target: "1",
            measured: format!("{longpolls}, counted by the emulator"),
            holds: Some(longpolls == 1),
        });
    }
    Ok(())
}

/// How one watcher hears of one change after the other.
struct Way {
    webhooks: bool,
    /// Somebody writes elsewhere in the account all the time.
    neighbour: bool,
    name: &'static str,
    target: &'static str,
    most_ms: f64,
}

const WAYS: [Way; 3] = [
    Way {
        webhooks: false,
        neighbour: false,
        name: "change to delivery by longpoll",
        target: "p99 ≤ 50 ms above the emulator's answer",
        most_ms: 50.0,
    },
    Way {
        webhooks: true, neighbour: false, name: "webhook call to delivery", target: "p99 ≤ 100 ms", most_ms: 100.0
    },
    Way {
        webhooks: true,
        neighbour: true,
        name: "webhook call to delivery, while others write elsewhere in the account all the time",
        target: "p99 ≤ 100 ms",
        most_ms: 100.0,
    },
];

/// One watcher, one change after the other: by longpoll, and by webhook calls.
pub async fn single(bench: &mut Bench, report: &mut Report) -> Outcome<()> {
    for way in WAYS {
        let (emulator, connector) = start(bench, way.webhooks).await?;
        let (mut heard, _tasks) = open(|| connector.client(), 1, 1).await?;
        for number in 0..WARMING {
            change(&emulator, number, &mut heard, 1).await?;
        }
        let (took, asks) = tokio::select! {
            measured = told_one(&emulator, &mut heard) => measured?,
            ended = neighbour(&emulator), if way.neighbour => return ended,
        };
        let (p50, p99, own) = (at(&took, 0.5), at(&took, 0.99), at(&asks, 0.5));
        report.add(Figure {
            name: way.name,
            target: way.target,
            measured: format!(
                "p50 {p50:.1} ms, p99 {p99:.1} ms (n={SINGLE}, from before the change is made; the emulator's own answer {})",
                Spread::of(&asks).show(1, " ms")
            ),
            holds: Some(p99 - if way.webhooks { 0.0 } else { own } <= way.most_ms),
        });
    }
    Ok(())
}

/// How long one watcher's changes took, sorted, and what the emulator itself takes for the same change, in the same run.
async fn told_one(emulator: &Emulator, heard: &mut mpsc::Receiver<Told>) -> Outcome<(Vec<f64>, Vec<f64>)> {
    let (mut took, mut asks) = (Vec::new(), Vec::new());
    for number in 0..SINGLE {
        let begin = Instant::now();
        write(emulator, &format!("/elsewhere/{number}")).await?;
        asks.push(begin.elapsed().as_secs_f64() * 1e3);
        took.extend(change(emulator, 1000 + number, heard, 1).await?.0);
    }
    took.sort_by(f64::total_cmp);
    asks.sort_by(f64::total_cmp);
    Ok((took, asks))
}

/// Ends with an error alone.
async fn neighbour(emulator: &Emulator) -> Outcome<()> {
    for number in 0u64.. {
        write(emulator, &format!("/neighbour/{number}")).await?;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

async fn write(emulator: &Emulator, path: &str) -> Outcome<()> {
    emulator.control("seed", Some(json!({ "files": [{ "path": path, "text": "x" }] }))).await?;
    Ok(())
}

fn at(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}
