//! The figures the connector has to reach, measured on the release binary in processes of its own, against the emulator.
//! `cargo bench --bench figures` (all, about fifteen minutes) or `cargo bench --bench figures -- upload download` (some of
//! them; nothing is written then). `benches/README.md` says what is inside each figure.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a bench prints its figures")]
#![allow(clippy::disallowed_methods, reason = "a bench waits and dates its figures by the machine's clock")]

mod accounts;
mod bare;
mod calls;
#[path = "../content_hash.rs"]
#[expect(dead_code, reason = "a bench of its own, with its own main")]
mod content_hash;
mod footprint;
mod indexing;
#[path = "../../tests/it/support/postgres.rs"]
#[allow(dead_code, reason = "tests use the rest")]
mod postgres;
mod process;
mod report;
mod start;
mod transfers;
mod watches;

use std::{process::ExitCode, time::SystemTime};

use report::Report;

/// What went wrong, for people.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
pub type Outcome<T> = Result<T, Error>;

pub fn fail<T>(text: String) -> Outcome<T> {
    Err(text.into())
}

pub fn say(text: &str) {
    println!("{text}");
}

/// Names of the parts, as they may be given on the command line.
const PARTS: [&str; 15] = [
    "hash",
    "upload",
    "download",
    "memory",
    "many",
    "footprint",
    "stalled",
    "unary",
    "walk",
    "watchers",
    "events",
    "index",
    "index-postgres",
    "accounts",
    "start",
];

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.split_first() {
        Some((flag, rest)) if flag == bare::FLAG => {
            runtime.block_on(bare::child(rest)).map(|seconds| println!("{seconds}"))
        }
        _ => runtime.block_on(measure(&arguments)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the figures could not be measured: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(arguments: &[String]) -> Outcome<()> {
    let started = SystemTime::now();
    // cargo adds `--bench`.
    let asked: Vec<&str> = arguments.iter().map(String::as_str).filter(|word| !word.starts_with("--")).collect();
    if let Some(unknown) = asked.iter().find(|word| !PARTS.contains(word)) {
        return fail(format!("no part '{unknown}'; there are {}", PARTS.join(", ")));
    }
    let wanted = |part| asked.is_empty() || asked.contains(&part);
    let mut report = Report::default();
    let mut bench = process::Bench::new()?;
    if wanted("hash") {
        transfers::hash(&mut report);
    }
    if wanted("upload") {
        transfers::upload_cpu(&mut bench, &mut report).await?;
    }
    if wanted("download") {
        transfers::download_cpu(&mut bench, &mut report).await?;
    }
    if wanted("memory") {
        transfers::memory(&mut bench, &mut report).await?;
    }
    if wanted("many") {
        transfers::many(&mut bench, &mut report).await?;
    }
    if wanted("footprint") {
        footprint::footprint(&mut bench, &mut report).await?;
    }
    if wanted("stalled") {
        calls::beside_stalled(&mut bench, &mut report).await?;
    }
    if wanted("unary") {
        calls::unary(&mut bench, &mut report).await?;
    }
    if wanted("walk") {
        calls::walk(&mut bench, &mut report).await?;
    }
    if wanted("watchers") {
        watches::many(&mut bench, &mut report).await?;
    }
    if wanted("events") {
        watches::single(&mut bench, &mut report).await?;
    }
    if wanted("index") {
        indexing::index(&mut bench, &mut report, None).await?;
    }
    if wanted("index-postgres") {
        let server = postgres::Server::start();
        indexing::index(&mut bench, &mut report, Some(&server)).await?;
    }
    if wanted("accounts") {
        accounts::quiet(&mut bench, &mut report).await?;
    }
    if wanted("start") {
        start::cold(&mut bench, &mut report).await?;
        start::size(&mut report)?;
    }
    if asked.is_empty() {
        report.write(started, "make bench")?;
    }
    Ok(())
}
