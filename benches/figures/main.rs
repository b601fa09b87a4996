//! The figures the connector has to reach, measured on the release binary in processes of its own, against the emulator.
//! `cargo bench --bench figures` (all, about half an hour) or `cargo bench --bench figures -- upload download` (some of
//! them; nothing is written then). `benches/README.md` says what is inside each figure.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a bench prints its figures")]
#![allow(clippy::disallowed_methods, reason = "a bench waits and dates its figures by the machine's clock")]

mod accounts;
mod bare;
mod broadcast;
mod calls;
mod ceiling;
#[path = "../../tests/it/support/certs.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "tests use the rest")]
mod certs;
#[path = "../content_hash.rs"]
#[expect(dead_code, reason = "a bench of its own, with its own main")]
mod content_hash;
mod footprint;
mod indexing;
mod lanes;
mod peers;
#[path = "../../tests/it/support/postgres.rs"]
#[allow(dead_code, reason = "tests use the rest")]
mod postgres;
mod process;
mod report;
mod start;
mod streams;
mod transfers;
mod waits;
mod watches;

use std::{any::Any, panic::AssertUnwindSafe, process::ExitCode, time::SystemTime};

use futures::FutureExt as _;
use process::Wire;
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

/// Names of the parts, as they may be given on the command line, in the order in which they are measured. Those of the peers,
/// which are other programs, are in namespaces of their own.
const PARTS: [&str; 33] = [
    "hash",
    "upload",
    "upload-tls",
    "download",
    "download-tls",
    "eight",
    "eight-tls",
    "streams",
    "lanes",
    "ranges",
    "loss",
    "held",
    "memory",
    "many",
    "ceiling",
    "footprint",
    "stalled",
    "unary",
    "signed",
    "small",
    "first",
    "pause",
    "peers",
    "peers-small",
    "peers-far",
    "peers-loss",
    "walk",
    "watchers",
    "events",
    "index",
    "index-postgres",
    "accounts",
    "start",
];

fn main() -> ExitCode {
    // A second provider would be a second way to speak TLS; a failure means that one is set already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.split_first() {
        Some((flag, rest)) if flag == bare::FLAG => {
            let spent = bare::Job::inside(rest.first().map_or("", String::as_str));
            spent.and_then(|spent| {
                println!("{}", serde_json::to_string(&spent)?);
                Ok(())
            })
        }
        Some((flag, rest)) if flag == broadcast::FLAG => broadcast::inside(rest.first().map_or("", String::as_str)),
        Some((flag, rest)) if flag == peers::FLAG => runtime.block_on(inside(rest)),
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

/// The parts of a run inside the namespaces.
async fn inside(parts: &[String]) -> Outcome<()> {
    let (mut report, mut bench) = (Report::default(), process::Bench::new()?);
    peers::enter(&mut bench)?;
    for part in parts {
        match part.as_str() {
            "peers" => peers::cpu(&mut bench, &mut report).await?,
            "peers-small" => peers::small_files(&mut bench, &mut report).await?,
            "peers-far" => peers::far_file(&mut bench, &mut report).await?,
            "peers-loss" => peers::lossy_file(&mut bench, &mut report).await?,
            other => return fail(format!("no part '{other}'")),
        }
    }
    Ok(())
}

async fn measure(arguments: &[String]) -> Outcome<()> {
    let started = SystemTime::now();
    // cargo adds `--bench`.
    let asked: Vec<&str> = arguments.iter().map(String::as_str).filter(|word| !word.starts_with("--")).collect();
    if let Some(unknown) = asked.iter().find(|word| !PARTS.contains(word)) {
        return fail(format!("no part '{unknown}'; there are {}", PARTS.join(", ")));
    }
    let mut report = Report::default();
    let mut bench = process::Bench::new()?;
    let mut failed = Vec::new();
    for part in PARTS.into_iter().filter(|part| asked.is_empty() || asked.contains(part)) {
        // What one of them lacks is told in its row, and costs none of the others theirs.
        let measured = AssertUnwindSafe(one(part, &mut bench, &mut report)).catch_unwind().await;
        let error = match measured {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error.to_string(),
            Err(panic) => said(panic.as_ref()),
        };
        report.lacks(part, &error);
        failed.push(format!("{part}: {error}"));
    }
    if asked.is_empty() {
        report.write(started, "make bench")?;
    }
    if failed.is_empty() { Ok(()) } else { fail(failed.join("; ")) }
}

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it panicked").to_owned()
}

async fn one(part: &str, bench: &mut process::Bench, report: &mut Report) -> Outcome<()> {
    match part {
        "hash" => {
            transfers::hash(report);
            Ok(())
        }
        "upload" => transfers::upload_cpu(bench, report, Wire::Plain).await,
        "upload-tls" => transfers::upload_cpu(bench, report, Wire::Tls).await,
        "download" => transfers::download_cpu(bench, report, Wire::Plain).await,
        "download-tls" => transfers::download_cpu(bench, report, Wire::Tls).await,
        "eight" => streams::eight(bench, report, Wire::Plain).await,
        "eight-tls" => streams::eight(bench, report, Wire::Tls).await,
        "streams" => streams::cpu(bench, report).await,
        "lanes" => lanes::up(bench, report).await,
        "ranges" => lanes::down(bench, report).await,
        "loss" => lanes::lossy(bench, report).await,
        "held" => streams::held(bench, report).await,
        "memory" => transfers::memory(bench, report).await,
        "many" => transfers::many(bench, report).await,
        "ceiling" => ceiling::ceiling(bench, report).await,
        "footprint" => footprint::footprint(bench, report).await,
        "stalled" => calls::beside_stalled(bench, report).await,
        "unary" => calls::unary(bench, report).await,
        "signed" => waits::signed(bench, report).await,
        "small" => waits::small(bench, report).await,
        "first" => waits::first_byte(bench, report).await,
        "pause" => waits::after_a_pause(bench, report).await,
        "peers" | "peers-small" | "peers-far" | "peers-loss" => peers::apart(report, part),
        "walk" => calls::walk(bench, report).await,
        "watchers" => watches::many(bench, report).await,
        "events" => watches::single(bench, report).await,
        "index" => indexing::index(bench, report, None).await,
        "index-postgres" => indexing::index(bench, report, Some(&postgres::Server::start())).await,
        "accounts" => accounts::quiet(bench, report).await,
        "start" => {
            start::cold(bench, report).await?;
            start::size(report)
        }
        other => fail(format!("no part '{other}'")),
    }
}
