//! The figures the connector has to reach, measured on the release binary in processes of its own, against the emulator.
//! `cargo bench --bench figures` (all, about half an hour) or `cargo bench --bench figures -- upload download` (some of
//! them; nothing is written then). `benches/README.md` says what is inside each figure.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a bench prints its figures")]
#![allow(clippy::disallowed_methods, reason = "a bench waits and dates its figures by the machine's clock")]

mod accounts;
mod bare;
mod calls;
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

use std::{process::ExitCode, time::SystemTime};

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

/// Names of the parts, as they may be given on the command line.
const PARTS: [&str; 27] = [
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
    "held",
    "memory",
    "many",
    "footprint",
    "stalled",
    "unary",
    "signed",
    "small",
    "first",
    "pause",
    "walk",
    "watchers",
    "events",
    "index",
    "index-postgres",
    "accounts",
    "start",
];

/// Those against other programs, in namespaces of their own.
const PEERS: [&str; 3] = ["peers", "peers-small", "peers-far"];

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
            other => return fail(format!("no part '{other}'")),
        }
    }
    Ok(())
}

async fn measure(arguments: &[String]) -> Outcome<()> {
    let started = SystemTime::now();
    // cargo adds `--bench`.
    let asked: Vec<&str> = arguments.iter().map(String::as_str).filter(|word| !word.starts_with("--")).collect();
    if let Some(unknown) = asked.iter().find(|word| !PARTS.contains(word) && !PEERS.contains(word)) {
        return fail(format!("no part '{unknown}'; there are {}, {}", PARTS.join(", "), PEERS.join(", ")));
    }
    let wanted = |part| asked.is_empty() || asked.contains(&part);
    let mut report = Report::default();
    let mut bench = process::Bench::new()?;
    if wanted("hash") {
        transfers::hash(&mut report);
    }
    if wanted("upload") {
        transfers::upload_cpu(&mut bench, &mut report, Wire::Plain).await?;
    }
    if wanted("upload-tls") {
        transfers::upload_cpu(&mut bench, &mut report, Wire::Tls).await?;
    }
    if wanted("download") {
        transfers::download_cpu(&mut bench, &mut report, Wire::Plain).await?;
    }
    if wanted("download-tls") {
        transfers::download_cpu(&mut bench, &mut report, Wire::Tls).await?;
    }
    if wanted("eight") {
        streams::eight(&mut bench, &mut report, Wire::Plain).await?;
    }
    if wanted("eight-tls") {
        streams::eight(&mut bench, &mut report, Wire::Tls).await?;
    }
    if wanted("streams") {
        streams::cpu(&mut bench, &mut report).await?;
    }
    if wanted("lanes") {
        lanes::up(&mut bench, &mut report).await?;
    }
    if wanted("ranges") {
        lanes::down(&mut bench, &mut report).await?;
    }
    if wanted("held") {
        streams::held(&mut bench, &mut report).await?;
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
    if wanted("signed") {
        waits::signed(&mut bench, &mut report).await?;
    }
    if wanted("small") {
        waits::small(&mut bench, &mut report).await?;
    }
    if wanted("first") {
        waits::first_byte(&mut bench, &mut report).await?;
    }
    if wanted("pause") {
        waits::after_a_pause(&mut bench, &mut report).await?;
    }
    for part in PEERS.into_iter().filter(|part| wanted(part)) {
        peers::apart(&mut report, part)?;
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
