//! Many uploads at once: rate and CPU against the bare program with as many, and the memory that they hold.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use futures::future::try_join_all;

use crate::{
    Outcome,
    bare::{Job, What},
    fail,
    process::{Bench, Client, Connector, Emulator, Wire},
    report::{Figure, Report, Spread},
    transfers::{File, GIB, MIB, PAIRS, Run, SOURCE_BYTES, timed, warm},
};

/// Streams share connections as callers' helpers do.
const STREAMS_PER_CONNECTION: usize = 16;
/// Of all streams of a run together, where there are 64 or more.
const MANY_BYTES: u64 = 4 * GIB;

/// Of the uploads whose memory is looked at.
const HELD: usize = 256;
const HELD_BYTES: u64 = 16 * MIB;
/// Of a connection while they run: each keeps a block for a while.
const SLOW: u64 = 2_000_000;
const BUDGET: [&str; 4] = ["--transfer-buffer-mib", "1536", "--append-mib", "4"];
/// One that lets all of them in: each is charged a window and a largest message beside its block.
const BUDGET_OF_ALL: [&str; 4] = ["--transfer-buffer-mib", "2560", "--append-mib", "4"];
const REST: Duration = Duration::from_secs(60);
const IDLE_STARTS: usize = 3;

fn flags(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

async fn clients(connector: &Connector, streams: usize) -> Outcome<Vec<Client>> {
    let mut clients = try_join_all((0..streams.div_ceil(STREAMS_PER_CONNECTION)).map(|_| connector.client())).await?;
    for client in &mut clients {
        warm(client).await?;
    }
    Ok(clients)
}

/// Uploads all files at once.
async fn all(clients: &[Client], files: &[File]) -> Outcome<()> {
    let uploads = files.iter().enumerate().map(|(at, file)| {
        let mut client = clients[at % clients.len()].clone();
        async move { file.upload(&mut client).await }
    });
    try_join_all(uploads).await.map(drop)
}

/// In turn with the bare program, which has a session for each stream and runs on both cores.
async fn against_bare(
    emulator: &Emulator,
    connector: &Connector,
    streams: usize,
    size: u64,
) -> Outcome<(Vec<f64>, Vec<f64>, Run)> {
    let clients = clients(connector, streams).await?;
    let files = File::several(streams, size);
    all(&clients, &File::several(streams, 8 * MIB)).await?;
    let job = Job { streams, ..Job::new(What::Upload, emulator, "/bare", size) };
    let (mut cpu, mut rate, mut last) = (Vec::new(), Vec::new(), None);
    for _ in 0..PAIRS {
        emulator.reset().await?;
        warm(&mut clients[0].clone()).await?;
        let run = timed(connector, all(&clients, &files)).await?;
        emulator.reset().await?;
        let bare = job.run().await?;
        cpu.push(run.cpu / bare.cpu);
        rate.push(bare.wall / run.wall.as_secs_f64());
        last = Some(run);
    }
    emulator.reset().await?;
    Ok((cpu, rate, last.expect("at least one pair")))
}

/// Eight streams: how fast together.
pub async fn eight(bench: &mut Bench, report: &mut Report, wire: Wire) -> Outcome<()> {
    let emulator = bench.emulator_over(wire).await?;
    let connector = bench.connector(&emulator).await?;
    let (cpu, rate, last) = against_bare(&emulator, &connector, 8, 2 * SOURCE_BYTES).await?;
    let rate = Spread::of(&rate);
    let (name, target, least) = match wire {
        Wire::Plain => ("8 uploads of 128 MiB at once: rate, connector ÷ bare uploader", "≥ 0.65", 0.65),
        _ => ("8 uploads of 128 MiB at once, TLS upstream: rate, connector ÷ bare uploader", "≥ 0.75", 0.75),
    };
    let measured = format!(
        "{}; CPU {}; last {:.0} MiB/s",
        rate.show(2, " ×"),
        Spread::of(&cpu).show(2, " ×"),
        1024.0 / last.wall.as_secs_f64()
    );
    report.add(Figure { name, target, measured, holds: Some(rate.median >= least) });
    Ok(())
}

/// 64 and 256 streams: what they cost.
pub async fn cpu(bench: &mut Bench, report: &mut Report) -> Outcome<()> {
    let rows = [
        (64, "64 uploads of 64 MiB at once: CPU, connector ÷ bare uploader", "≤ 1.35", 1.35),
        (256, "256 uploads of 16 MiB at once: CPU, connector ÷ bare uploader", "≤ 1.60", 1.60),
    ];
    for (streams, name, target, most) in rows {
        let emulator = bench.emulator().await?;
        // Of 256, as many as find room in it are let in at once; the others follow them.
        let connector = bench.connector_with(&emulator, &flags(&BUDGET[..2])).await?;
        let (cpu, rate, last) = against_bare(&emulator, &connector, streams, MANY_BYTES / streams as u64).await?;
        let cpu = Spread::of(&cpu);
        let measured = format!(
            "{}; rate {}; last {:.2} s/GiB",
            cpu.show(2, " ×"),
            Spread::of(&rate).show(2, " ×"),
            last.cpu / (MANY_BYTES / GIB) as f64
        );
        report.add(Figure { name, target, measured, holds: Some(cpu.median <= most) });
    }
    Ok(())
}

/// What 256 uploads hold that keep a block of 4 MiB each, and what is left of it a minute later.
pub async fn held(bench: &mut Bench, report: &mut Report) -> Outcome<()> {
    let emulator = bench.emulator().await?;
    let mut idles = Vec::new();
    for _ in 0..IDLE_STARTS {
        let connector = bench.connector(&emulator).await?;
        connector.wait_ready()?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        idles.push(connector.process.resident_mib()?);
    }
    let idle = Spread::of(&idles);
    report.add(Figure {
        name: "resident memory after start, idle",
        target: "≤ 40 MiB",
        measured: idle.show(1, " MiB"),
        holds: Some(idle.median <= 40.0),
    });
    emulator.far_away(Duration::ZERO, Some(SLOW), false).await?;
    let name =
        "256 uploads of 16 MiB, messages of 256 KiB, each keeping a block of 4 MiB: memory of each that is let in";
    let connector = held_within(bench, report, &emulator, name, &BUDGET).await?;
    tokio::time::sleep(REST).await;
    let rest = connector.process.resident_mib()?;
    drop(connector);
    report.add(Figure {
        name: "resident memory 60 s after the last of 256 uploads",
        target: "≤ idle + 48 MiB",
        measured: format!("{rest:.0} MiB, idle {:.0} (n=1)", idle.median),
        holds: Some(rest <= idle.median + 48.0),
    });
    emulator.reset().await?;
    emulator.far_away(Duration::ZERO, Some(SLOW), false).await?;
    let name = "the same with a budget that lets all of them in";
    held_within(bench, report, &emulator, name, &BUDGET_OF_ALL).await.map(drop)
}

/// One row of [`held`], in a fresh process.
async fn held_within(
    bench: &mut Bench,
    report: &mut Report,
    emulator: &Emulator,
    name: &'static str,
    budget: &[&str; 4],
) -> Outcome<Connector> {
    let connector = bench.connector_with(emulator, &flags(budget)).await?;
    connector.wait_ready()?;
    let clients = clients(&connector, HELD).await?;
    let before = connector.process.resident_mib()?;
    connector.process.forget_peak()?;
    let files: Vec<File> =
        File::several(HELD, HELD_BYTES).into_iter().map(|file| File { chunk_bytes: MIB / 4, ..file }).collect();
    let begin = Instant::now();
    // Sessions that are open at the emulator: an upload that waits to be let in has none.
    let most = Cell::new(0);
    let looking = async {
        while let Ok(told) = emulator.control("sessions", None).await {
            most.set(most.get().max(told["open"].as_u64().unwrap_or(0)));
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        fail("the emulator does not tell its sessions".to_owned())
    };
    tokio::select! {
        ended = all(&clients, &files) => ended?,
        failed = looking => failed?,
    }
    let most = most.get();
    let (peak, took) = (connector.process.peak_mib()?, begin.elapsed());
    // What those hold that wait to be let in is counted to these.
    let each = (peak - before) / most.max(1) as f64;
    report.add(Figure {
        name,
        target: "≤ 6.1 MiB (1.15 × 4 + 1.5)",
        measured: format!(
            "{each:.2} MiB for each of the {most} that were let in and had a session at once ({peak:.0} at most, \
             {before:.0} before, budget of {}, {:.0} s; n=1)",
            budget[1],
            took.as_secs_f64()
        ),
        holds: Some(each <= 1.15 * 4.0 + 1.5),
    });
    Ok(connector)
}
