//! Small calls and listings: beside stalled uploads, against the same call made directly, and a walk over many items.

use std::time::{Duration, Instant};

use dropbox_connector::api::v1::{self as api, walk_folder_response::Payload};
use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    Outcome, fail,
    process::{Bench, Client, Emulator, PARAMETER},
    report::{Figure, Report, Spread},
    transfers::{stalling, warm},
};

const STALLED: usize = 8;
/// Larger than what one upload may hold in memory, so that each one is read no further.
const STALLED_BYTES: u64 = 256 << 20;
const CALLS: usize = 20;

/// Batches of the two kinds of calls in turn.
const LATENCY_PAIRS: usize = 9;
const LATENCY_CALLS: usize = 300;

const ITEMS: u64 = 100_000;
const WALKS: usize = 3;

pub const FILE: &str = "/some/folder/a file.txt";

async fn get_item(client: &mut Client) -> Outcome<Duration> {
    let request = api::GetItemRequest {
        application_parameter_id: PARAMETER.to_owned(),
        path: FILE.to_owned(),
        ..Default::default()
    };
    let begin = Instant::now();
    let answer = client.get_item(request).await?;
    let took = begin.elapsed();
    match answer.into_inner().item {
        Some(item) if item.name == "a file.txt" => Ok(took),
        other => fail(format!("GetItem: {other:?}")),
    }
}

pub async fn seed_file(emulator: &Emulator) -> Outcome<()> {
    let seed = json!({ "files": [{ "path": FILE, "text": "some text" }] });
    emulator.control("seed", Some(seed)).await.map(drop)
}

/// 20 calls on the connection that carries 8 uploads whose appends Dropbox never answers.
pub async fn beside_stalled(bench: &mut Bench, report: &mut Report) -> Outcome<()> {
    let emulator = bench.emulator().await?;
    seed_file(&emulator).await?;
    let connector = bench.connector(&emulator).await?;
    let mut client = connector.client().await?;
    warm(&mut client).await?;
    get_item(&mut client).await?;
    let append = "files/upload_session/append_v2";
    let rule = json!({ "route": append, "action": { "do": "stall" } });
    emulator.control("script", Some(rule)).await?;
    let mut uploads = JoinSet::new();
    for i in 0..STALLED {
        let (mut client, frames) = (client.clone(), stalling(&format!("/stalled/{i}"), STALLED_BYTES));
        uploads.spawn(async move { client.upload_file(frames).await.map(drop) });
    }
    wait_stalled(&emulator, append, &mut uploads).await?;
    let mut millis = Vec::new();
    for _ in 0..CALLS {
        millis.push(get_item(&mut client).await?.as_secs_f64() * 1e3);
    }
    if let Some(ended) = uploads.try_join_next() {
        return fail(format!("a stalled upload ended: {ended:?}"));
    }
    uploads.shutdown().await;
    let in_time = millis.iter().filter(|took| **took <= 50.0).count();
    report.add(Figure {
        name: "calls answered within 50 ms on a connection with 8 stalled uploads",
        target: "20 of 20",
        measured: format!("{in_time} of {CALLS}; {}", Spread::of(&millis).show(2, " ms")),
        holds: Some(in_time == CALLS),
    });
    Ok(())
}

/// Until every upload has an append that hangs and no byte has moved for half a second.
async fn wait_stalled(
    emulator: &Emulator,
    append: &str,
    uploads: &mut JoinSet<Result<(), tonic::Status>>,
) -> Outcome<()> {
    let until = Instant::now() + Duration::from_secs(30);
    let (mut last, mut since) = (json!(null), Instant::now());
    while Instant::now() < until {
        if let Some(ended) = uploads.try_join_next() {
            return fail(format!("a stalled upload ended: {ended:?}"));
        }
        let now = emulator.control("counters", None).await?[append].clone();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        let running = last["running"].as_u64().unwrap_or(0);
        if running >= STALLED as u64 && since.elapsed() > Duration::from_millis(500) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    fail(format!("the uploads did not come to rest: {last}"))
}

/// `GetItem` against `files/get_metadata` asked of the emulator directly, one caller, batches in turn.
pub async fn unary(bench: &mut Bench, report: &mut Report) -> Outcome<()> {
    let emulator = bench.emulator().await?;
    seed_file(&emulator).await?;
    let connector = bench.connector(&emulator).await?;
    let mut client = connector.client().await?;
    let argument = json!({ "path": FILE }).to_string();
    let mut direct = async || {
        let begin = Instant::now();
        emulator.call("files/get_metadata", &argument).await?;
        Ok(begin.elapsed())
    };
    let (mut hops, mut throughs, mut directs, mut tails) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    // The first pair warms both.
    for pair in 0..=LATENCY_PAIRS {
        let before = connector.process.cpu_seconds()?;
        let through = batch(async || get_item(&mut client).await).await?;
        let cpu = connector.process.cpu_seconds()? - before;
        let direct = batch(&mut direct).await?;
        if pair > 0 {
            hops.push(at(&through, 0.5) - at(&direct, 0.5));
            throughs.push(at(&through, 0.5));
            directs.push(at(&direct, 0.5));
            tails.push((at(&through, 0.99), cpu / LATENCY_CALLS as f64 * 1e6));
        }
    }
    let hop = Spread::of(&hops);
    report.add(Figure {
        name: "a call through the connector: p50 above the same call made directly",
        target: "≤ 300 µs",
        measured: hop.show(0, " µs"),
        holds: Some(hop.median <= 300.0),
    });
    let p99 = Spread::of(&tails.iter().map(|(p99, _)| *p99).collect::<Vec<_>>());
    let cpu = Spread::of(&tails.iter().map(|(_, cpu)| *cpu).collect::<Vec<_>>());
    let measured = format!(
        "p50 {}, p99 {}, CPU {}; direct p50 {}",
        Spread::of(&throughs).show(0, " µs"),
        p99.show(0, " µs"),
        cpu.show(0, " µs"),
        Spread::of(&directs).show(0, " µs")
    );
    report.add(Figure {
        name: "a call through the connector: p50, p99, connector's CPU",
        target: "–",
        measured,
        holds: None,
    });
    Ok(())
}

/// Times of calls, in order, in microseconds.
async fn batch(mut call: impl AsyncFnMut() -> Outcome<Duration>) -> Outcome<Vec<f64>> {
    let mut times = Vec::with_capacity(LATENCY_CALLS);
    for _ in 0..LATENCY_CALLS {
        times.push(call().await?.as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

fn at(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}

/// A walk over 100,000 files in 100 folders, each in a fresh process.
pub async fn walk(bench: &mut Bench, report: &mut Report) -> Outcome<()> {
    let emulator = bench.emulator().await?;
    let seed = json!({ "generate": { "folder": "/walk", "files": ITEMS, "bytes": 16, "per_folder": 1000 } });
    emulator.control("seed", Some(seed)).await?;
    let (mut firsts, mut growths, mut wholes) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..WALKS {
        let connector = bench.connector(&emulator).await?;
        let mut client = connector.client().await?;
        warm(&mut client).await?;
        let before = connector.process.resident_mib()?;
        let request = api::WalkFolderRequest {
            application_parameter_id: PARAMETER.to_owned(),
            path: "/walk".to_owned(),
            recursive: true,
            ..Default::default()
        };
        let begin = Instant::now();
        let mut batches = client.walk_folder(request).await?.into_inner();
        let (mut files, mut told, mut first) = (0, None, None);
        while let Some(answer) = batches.message().await? {
            match answer.payload {
                Some(Payload::Batch(batch)) => {
                    if !batch.items.is_empty() {
                        first.get_or_insert(begin.elapsed());
                    }
                    let is_file = |item: &&api::Item| matches!(item.kind, Some(api::item::Kind::File(_)));
                    files += batch.items.iter().filter(is_file).count() as u64;
                }
                Some(Payload::Summary(summary)) => told = Some(summary),
                None => {}
            }
        }
        let (Some(first), Some(_), ITEMS) = (first, told, files) else {
            return fail(format!("the walk gave {files} files and {told:?}"));
        };
        firsts.push(first.as_secs_f64() * 1e3);
        wholes.push(begin.elapsed().as_secs_f64());
        growths.push(connector.process.peak_mib()? - before);
    }
    let first = Spread::of(&firsts);
    report.add(Figure {
        name: "WalkFolder over 100,000 items: first batch",
        target: "< 1 s",
        measured: format!("{}; all in {}", first.show(0, " ms"), Spread::of(&wholes).show(1, " s")),
        holds: Some(first.high < 1000.0),
    });
    let growth = Spread::of(&growths);
    report.add(Figure {
        name: "WalkFolder over 100,000 items: peak memory growth",
        target: "< 50 MiB",
        measured: growth.show(1, " MiB"),
        holds: Some(growth.high < 50.0),
    });
    Ok(())
}
