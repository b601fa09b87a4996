//! 256 uploads and 256 slow downloads at once: the memory of the process against the ceiling that README states.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use dropbox_connector::{
    api::v1::{self as api, download_file_request::Source, download_file_response::Payload},
    limits,
};
use futures::future::try_join_all;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::{sync::watch, task::JoinSet};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::{
    Outcome, fail,
    process::{Bench, Client, Connector, Emulator, PARAMETER},
    report::{Figure, Report},
    transfers::{BLOCK_BYTES, File, MIB, warm},
};

const STREAMS: usize = 256;
const STREAMS_PER_CONNECTION: usize = 16;
const BYTES: u64 = 64 * MIB;
/// Files that are read; the same ones again and again.
const SOURCES: usize = 8;
/// Of a reader in a second, while there are uploads: less than a block in two.
const SLOW: u64 = MIB / 2;
/// What a reader leaves for afterwards, so that no download ends before the uploads do.
const END: u64 = 4 * MIB;
const LOOK: Duration = Duration::from_millis(250);
/// As many bodies at Dropbox at once as there are downloads and appends.
const REQUESTS: [&str; 2] = ["--max-requests-per-account", "1024"];

/// What the memory is held against.
struct Case {
    name: &'static str,
    target: &'static str,
    /// `transfer_buffer_mib`.
    buffer_mib: usize,
}

const CASES: [Case; 2] = [
    Case {
        name: "256 uploads of 64 MiB and 256 slow downloads at once, hashes equal: peak memory",
        target: "≤ 1216 MiB (64 + 1¼ × 512 + 2 × 256)",
        buffer_mib: 512,
    },
    Case {
        name: "the same with a budget that lets all of them in",
        target: "≤ 3776 MiB (64 + 1¼ × 2560 + 2 × 256)",
        buffer_mib: 2560,
    },
];

/// From the first byte to the last.
pub async fn ceiling(bench: &mut Bench, report: &mut Report) -> Outcome<()> {
    for case in &CASES {
        measure(bench, report, case).await?;
    }
    Ok(())
}

async fn measure(bench: &mut Bench, report: &mut Report, case: &Case) -> Outcome<()> {
    let emulator = bench.emulator().await?;
    let seeds: Vec<Value> = (0..SOURCES).map(|n| json!({ "path": source(n), "bytes": BYTES })).collect();
    emulator.control("seed", Some(json!({ "files": seeds }))).await?;
    let buffer = case.buffer_mib.to_string();
    let flags = ["--transfer-buffer-mib", &buffer, REQUESTS[0], REQUESTS[1]].map(str::to_owned);
    let connector = bench.connector_with(&emulator, &flags).await?;
    connector.wait_ready()?;
    let (up, down) = (clients(&connector).await?, clients(&connector).await?);
    let before = connector.process.resident_mib()?;
    let begin = Instant::now();
    let (tell, done) = watch::channel(false);
    let mut downloads = JoinSet::new();
    for n in 0..STREAMS {
        downloads.spawn(read(down[n % down.len()].clone(), source(n % SOURCES), done.clone()));
    }
    let files = File::several(STREAMS, BYTES);
    let (refused, most) = (Cell::new(0), Cell::new(0));
    let uploads = files.iter().enumerate().map(|(n, file)| write(up[n % up.len()].clone(), file, &refused));
    // Sessions that are open at the emulator: an upload that waits to be let in has none.
    let looking = async {
        while let Ok(told) = emulator.control("sessions", None).await {
            most.set(most.get().max(told["open"].as_u64().unwrap_or(0)));
            tokio::time::sleep(LOOK).await;
        }
        fail("the emulator does not tell its sessions".to_owned())
    };
    tokio::select! {
        ended = try_join_all(uploads) => drop(ended?),
        failed = looking => failed?,
        Some(ended) = downloads.join_next() => return fail(format!("a download ended before the uploads did: {ended:?}")),
    }
    let uploaded = begin.elapsed();
    let _ = tell.send(true);
    let hashes: Vec<String> = try_join_all((0..SOURCES).map(|n| hash_of(&emulator, n))).await?;
    while let Some(read) = downloads.join_next().await {
        let (path, hash) = read??;
        if (0..SOURCES).all(|n| source(n) != path || hashes[n] != hash) {
            return fail(format!("{path}: not what the emulator has: {hash}"));
        }
    }
    let (peak, took) = (connector.process.peak_mib()?, begin.elapsed());
    for file in &files {
        file.check(&emulator).await?;
    }
    let ceiling = limits::memory_ceiling(case.buffer_mib * MIB as usize, STREAMS) as f64 / MIB as f64;
    report.add(Figure {
        name: case.name,
        target: case.target,
        measured: format!(
            "{peak:.0} MiB ({before:.0} before; {} sessions at once at most, told to come back {} times; uploads {:.0} s, all \
             {:.0} s; n=1)",
            most.get(),
            refused.get(),
            uploaded.as_secs_f64(),
            took.as_secs_f64()
        ),
        holds: Some(peak <= ceiling),
    });
    Ok(())
}

fn source(n: usize) -> String {
    format!("/down/{n}")
}

async fn clients(connector: &Connector) -> Outcome<Vec<Client>> {
    let mut clients = try_join_all((0..STREAMS / STREAMS_PER_CONNECTION).map(|_| connector.client())).await?;
    for client in &mut clients {
        warm(client).await?;
    }
    Ok(clients)
}

/// Uploads a file; where there is no room it comes again when it was told to.
async fn write(mut client: Client, file: &File, refused: &Cell<u32>) -> Outcome<()> {
    loop {
        let busy = match client.upload_file(file.frames()).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                return match answer.verified && answer.content_hash == file.hash() {
                    true => Ok(()),
                    false => fail(format!("{}: not what was uploaded: {answer:?}", file.path)),
                };
            }
            Err(status) => status,
        };
        let delay = busy.get_error_details().retry_info().and_then(|info| info.retry_delay);
        match delay.filter(|_| busy.code() == Code::ResourceExhausted) {
            Some(delay) => tokio::time::sleep(delay).await,
            None => return Err(busy.into()),
        }
        refused.set(refused.get() + 1);
    }
}

/// Reads a file slowly until the uploads are done, and then the rest: its path and its content hash, computed here.
async fn read(mut client: Client, path: String, mut done: watch::Receiver<bool>) -> Outcome<(String, String)> {
    let request = api::DownloadFileRequest {
        application_parameter_id: PARAMETER.to_owned(),
        source: Some(Source::Path(path.clone())),
        ..Default::default()
    };
    let begin = Instant::now();
    let mut answers = client.download_file(request).await?.into_inner();
    let (mut outer, mut block, mut got) = (Sha256::new(), Sha256::new(), 0);
    while let Some(answer) = answers.message().await? {
        match answer.payload {
            Some(Payload::Chunk(chunk)) => {
                let mut rest = &chunk.data[..];
                while !rest.is_empty() {
                    let (now, behind) = rest.split_at(rest.len().min(BLOCK_BYTES - got % BLOCK_BYTES));
                    block.update(now);
                    got += now.len();
                    if got.is_multiple_of(BLOCK_BYTES) {
                        outer.update(block.finalize_reset());
                    }
                    rest = behind;
                }
            }
            Some(Payload::Trailer(trailer)) => {
                let hash = hex::encode(outer.finalize());
                return match trailer.verified && trailer.content_hash == hash && got as u64 == BYTES {
                    true => Ok((path, hash)),
                    false => fail(format!("{path}: {got} bytes of {hash}, {trailer:?}")),
                };
            }
            _ => {}
        }
        let may = || (SLOW * begin.elapsed().as_secs()).min(BYTES - END);
        while !*done.borrow() && got as u64 > may() {
            let _ = tokio::time::timeout(LOOK, done.changed()).await;
        }
    }
    fail(format!("{path}: no trailer"))
}

async fn hash_of(emulator: &Emulator, n: usize) -> Outcome<String> {
    let argument = json!({ "path": source(n) }).to_string();
    let file: Value = serde_json::from_slice(&emulator.call("files/get_metadata", &argument).await?)?;
    Ok(file["content_hash"].as_str().unwrap_or_default().to_owned())
}
