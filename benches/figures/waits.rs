//! What one caller waits for: calls with a signed token, small uploads, the first byte of a download, the call after a pause.

use std::time::{Duration, Instant};

use dropbox_connector::api::v1::{self as api, download_file_request::Source, download_file_response::Payload};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::task::JoinSet;
use tonic::metadata::{Ascii, MetadataValue};

use crate::{
    Outcome,
    calls::{FILE, seed_file},
    certs::{self, AUDIENCE, ISSUER, Issuer, key_set},
    fail, postgres,
    process::{Bench, Client, Connector, Emulator, PARAMETER, Wire},
    report::{Figure, Report, Spread},
    transfers::{File, MIB, source, warm},
};

/// Batches of ours and of direct ones in turn, behind a pair that warms both.
const PAIRS: usize = 9;
const CALLS: usize = 300;
const SMALL_BYTES: usize = 100 << 10;
const SMALLS: usize = 100;
const FIRST_BYTES: u64 = 4 * MIB;
const FIRSTS: usize = 50;

const CALLERS: usize = 32;
const CALLS_EACH: usize = 1000;

const PAUSE: Duration = Duration::from_secs(10);
const PAUSES: usize = 5;
const WARM_CALLS: usize = 20;

fn microseconds(took: Duration) -> f64 {
    took.as_secs_f64() * 1e6
}

/// The medians of pairs of batches.
#[derive(Default)]
struct Pairs {
    above: Vec<f64>,
    through: Vec<f64>,
    direct: Vec<f64>,
}

impl Pairs {
    /// `calls` of ours, then as many direct ones, and so on.
    async fn measure(
        calls: usize,
        mut through: impl AsyncFnMut() -> Outcome<Duration>,
        mut direct: impl AsyncFnMut() -> Outcome<Duration>,
    ) -> Outcome<Pairs> {
        let mut pairs = Pairs::default();
        for pair in 0..=PAIRS {
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for _ in 0..calls {
                ours.push(microseconds(through().await?));
            }
            for _ in 0..calls {
                theirs.push(microseconds(direct().await?));
            }
            if pair > 0 {
                let (ours, theirs) = (Spread::of(&ours).median, Spread::of(&theirs).median);
                pairs.above.push(ours - theirs);
                pairs.through.push(ours);
                pairs.direct.push(theirs);
            }
        }
        Ok(pairs)
    }

    fn row(&self, report: &mut Report, name: &'static str, (target, most): (&'static str, f64)) {
        let above = Spread::of(&self.above);
        let measured = format!(
            "{} (p50 {}; direct {})",
            above.show(0, " µs"),
            Spread::of(&self.through).show(0, " µs"),
            Spread::of(&self.direct).show(0, " µs")
        );
        report.add(Figure { name, target, measured, holds: Some(above.median <= most) });
    }
}

/// `GetItem`, with a token if there is one.
async fn get_item(client: &mut Client, token: Option<&MetadataValue<Ascii>>) -> Outcome<Duration> {
    let mut request = tonic::Request::new(api::GetItemRequest {
        application_parameter_id: PARAMETER.to_owned(),
        path: FILE.to_owned(),
        ..Default::default()
    });
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", token.clone());
    }
    let begin = Instant::now();
    let answer = client.get_item(request).await?;
    let took = begin.elapsed();
    match answer.into_inner().item {
        Some(item) if item.name == "a file.txt" => Ok(took),
        other => fail(format!("GetItem: {other:?}")),
    }
}

/// One caller's wait, and 32 callers' cost, with a JWT, logs and metrics on.
pub async fn signed(bench: &mut Bench, report: &mut Report) -> Outcome<()> {
    let emulator = bench.emulator().await?;
    seed_file(&emulator).await?;
    let (issuer, keys) = (Issuer::es256("bench"), bench.path("jwks.json"));
    std::fs::write(&keys, key_set(&[&issuer]))?;
    let mut flags = Vec::new();
    for (flag, value) in [
        ("--auth-mode", "jwt"),
        ("--jwt-issuer", ISSUER),
        ("--jwt-audiences", AUDIENCE),
        ("--admin-principals", "boss"),
        ("--jwt-jwks-file", &keys.display().to_string()),
    ] {
        flags.extend([flag.to_owned(), value.to_owned()]);
    }
    let connector = bench.connector(&emulator).await?.again_with(&emulator, &flags)?;
    connector.wait_ready()?;
    let hour = certs::now().duration_since(std::time::UNIX_EPOCH)?.as_secs() + 3600;
    let token = issuer.token_with("caller", |claims| claims["exp"] = json!(hour));
    let token: MetadataValue<Ascii> = format!("Bearer {token}").parse()?;
    let mut client = connector.client().await?;
    if get_item(&mut client, None).await.is_ok() {
        return fail("the connector does not ask for a token".to_owned());
    }
    let argument = json!({ "path": FILE }).to_string();
    let pairs = Pairs::measure(
        CALLS,
        async || get_item(&mut client, Some(&token)).await,
        async || {
            let begin = Instant::now();
            emulator.call("files/get_metadata", &argument).await?;
            Ok(begin.elapsed())
        },
    )
    .await?;
    pairs.row(
        report,
        "a call with a JWT, logs and metrics on: p50 above the same call made directly",
        ("≤ 200 µs", 200.0),
    );
    let mut costs = Vec::new();
    let mut rates = Vec::new();
    for _ in 0..PAIRS {
        let mut callers = JoinSet::new();
        let (begin, before) = (Instant::now(), connector.process.cpu_seconds()?);
        for _ in 0..CALLERS {
            let (mut client, token) = (client.clone(), token.clone());
            callers.spawn(async move {
                for _ in 0..CALLS_EACH {
                    get_item(&mut client, Some(&token)).await?;
                }
                Outcome::Ok(())
            });
        }
        while let Some(ended) = callers.join_next().await {
            ended??;
        }
        let calls = (CALLERS * CALLS_EACH) as f64;
        costs.push((connector.process.cpu_seconds()? - before) / calls * 1e6);
        rates.push(calls / begin.elapsed().as_secs_f64());
    }
    let cost = Spread::of(&costs);
    report.add(Figure {
        name: "32 callers with a JWT, logs and metrics on: connector's CPU for each call",
        target: "≤ 60 µs",
        measured: format!("{}; {} calls/s", cost.show(0, " µs"), Spread::of(&rates).show(0, "")),
        holds: Some(cost.median <= 60.0),
    });
    Ok(())
}

/// One upload of 100 KiB after the other.
pub async fn small(bench: &mut Bench, report: &mut Report) -> Outcome<()> {
    let emulator = bench.emulator().await?;
    let connector = bench.connector(&emulator).await?;
    let name = "a lone upload of 100 KiB, SQLite: p50 above the same made directly";
    small_pairs(&emulator, &connector).await?.row(report, name, ("≤ 600 µs", 600.0));
    drop(connector);
    let server = postgres::Server::start();
    let connector = bench.connector_at(&emulator, &server.database().await).await?;
    let name = "a lone upload of 100 KiB, PostgreSQL on loopback: p50 above the same made directly";
    small_pairs(&emulator, &connector).await?.row(report, name, ("≤ 1200 µs", 1200.0));
    Ok(())
}

async fn small_pairs(emulator: &Emulator, connector: &Connector) -> Outcome<Pairs> {
    let mut client = connector.client().await?;
    warm(&mut client).await?;
    let data = source().slice(..SMALL_BYTES);
    let hash = hex::encode(Sha256::digest(Sha256::digest(&data)));
    let (mut number, hash_there) = (0, hash.clone());
    let through = async || {
        number += 1;
        let frames = File::frames_of(&format!("/small/{number}"), data.clone());
        let begin = Instant::now();
        let answer = client.upload_file(frames).await?.into_inner();
        let took = begin.elapsed();
        match answer.verified && answer.content_hash == hash_there {
            true => Ok(took),
            false => fail(format!("a small upload: {answer:?}")),
        }
    };
    let mut other = 0;
    let direct = async || {
        other += 1;
        let begin = Instant::now();
        // Hashed as the connector does.
        let hash = hex::encode(Sha256::digest(Sha256::digest(&data)));
        let argument = json!({ "path": format!("/direct/{other}"), "mode": "overwrite", "content_hash": hash });
        let url = format!("{}/2/files/upload", emulator.content);
        let request = emulator.client.post(url).bearer_auth(&emulator.access_token);
        let request = request.header("Dropbox-API-Arg", argument.to_string());
        let answer = request.header("Content-Type", "application/octet-stream").body(data.clone()).send().await?;
        let file: Value = serde_json::from_slice(&answer.bytes().await?)?;
        let took = begin.elapsed();
        match file["content_hash"] == json!(hash) {
            true => Ok(took),
            false => fail(format!("a small upload made directly: {file}")),
        }
    };
    Pairs::measure(SMALLS, through, direct).await
}

/// From asking for a file to its first bytes; the rest is read outside the clock.
pub async fn first_byte(bench: &mut Bench, report: &mut Report) -> Outcome<()> {
    let emulator = bench.emulator().await?;
    emulator.control("seed", Some(json!({ "files": [{ "path": "/first", "bytes": FIRST_BYTES }] }))).await?;
    let connector = bench.connector(&emulator).await?;
    let mut client = connector.client().await?;
    let through = async || {
        let request = api::DownloadFileRequest {
            application_parameter_id: PARAMETER.to_owned(),
            source: Some(Source::Path("/first".to_owned())),
            ..Default::default()
        };
        let begin = Instant::now();
        let mut answers = client.download_file(request).await?.into_inner();
        let (mut took, mut verified) = (None, false);
        while let Some(answer) = answers.message().await? {
            match answer.payload {
                Some(Payload::Chunk(_)) => _ = took.get_or_insert(begin.elapsed()),
                Some(Payload::Trailer(trailer)) => verified = trailer.verified,
                _ => {}
            }
        }
        match took {
            Some(took) if verified => Ok(took),
            _ => fail("a download without bytes".to_owned()),
        }
    };
    let direct = async || {
        let url = format!("{}/2/files/download", emulator.content);
        let request = emulator.client.post(url).bearer_auth(&emulator.access_token);
        let begin = Instant::now();
        let mut answer = request.header("Dropbox-API-Arg", r#"{"path":"/first"}"#).send().await?;
        let mut got = answer.chunk().await?.ok_or("no bytes")?.len() as u64;
        let took = begin.elapsed();
        while let Some(bytes) = answer.chunk().await? {
            got += bytes.len() as u64;
        }
        match got {
            FIRST_BYTES => Ok(took),
            _ => fail(format!("a download made directly gave {got} bytes")),
        }
    };
    let pairs = Pairs::measure(FIRSTS, through, direct).await?;
    pairs.row(report, "first byte of a download of 4 MiB: p50 above the same made directly", ("≤ 500 µs", 500.0));
    Ok(())
}

/// The first call after ten quiet seconds, TLS upstream, and the same made directly: a process that slept wakes slowly.
pub async fn after_a_pause(bench: &mut Bench, report: &mut Report) -> Outcome<()> {
    let emulator = bench.emulator_over(Wire::Tls).await?;
    seed_file(&emulator).await?;
    let connector = bench.connector(&emulator).await?;
    let mut client = connector.client().await?;
    let argument = json!({ "path": FILE }).to_string();
    let own = || {
        Ok([connector.seconds("rpc_server_call_duration")?, connector.seconds("dropboxconnector_upstream_duration")?])
    };
    let through = Woken::measure(async || get_item(&mut client, None).await, own).await?;
    let direct = Woken::measure(
        async || {
            let begin = Instant::now();
            emulator.call("files/get_metadata", &argument).await?;
            Ok(begin.elapsed())
        },
        || Ok([0.0; 2]),
    );
    let direct = direct.await?;
    let above = Spread::of(&through.above);
    let [inside, dropbox] =
        [0, 1].map(|at| Spread::of(&through.inside.iter().map(|spans| spans[at]).collect::<Vec<_>>()));
    let measured = format!(
        "{}; of the first call inside the connector {}, of that until the emulator has answered {}; made directly {}",
        through.show(),
        inside.show(0, " µs"),
        dropbox.show(0, " µs"),
        direct.show()
    );
    report.add(Figure {
        name: "after 10 s without a call, TLS upstream: first call above a warm one",
        target: "≤ 1 ms",
        measured,
        holds: Some(above.median <= 1000.0),
    });
    Ok(())
}

/// First calls behind a pause, in microseconds, and how much longer they took than those behind them.
struct Woken {
    above: Vec<f64>,
    firsts: Vec<f64>,
    warms: Vec<f64>,
    /// Of the first calls, as the connector counts its time: in all, and until it was answered.
    inside: Vec<[f64; 2]>,
}

impl Woken {
    /// `own`: seconds that calls have spent inside.
    async fn measure(
        mut call: impl AsyncFnMut() -> Outcome<Duration>,
        own: impl Fn() -> Outcome<[f64; 2]>,
    ) -> Outcome<Woken> {
        let mut woken = Woken { above: Vec::new(), firsts: Vec::new(), warms: Vec::new(), inside: Vec::new() };
        call().await?;
        for _ in 0..PAUSES {
            for _ in 0..WARM_CALLS {
                call().await?;
            }
            // Asked before the pause, which would not be one otherwise.
            let before = own()?;
            tokio::time::sleep(PAUSE).await;
            let first = microseconds(call().await?);
            let behind = own()?;
            woken.inside.push([0, 1].map(|at| (behind[at] - before[at]) * 1e6));
            let mut calls = Vec::new();
            for _ in 0..WARM_CALLS {
                calls.push(microseconds(call().await?));
            }
            let usual = Spread::of(&calls).median;
            woken.above.push(first - usual);
            woken.firsts.push(first);
            woken.warms.push(usual);
        }
        Ok(woken)
    }

    fn show(&self) -> String {
        let [above, first, warm] =
            [&self.above, &self.firsts, &self.warms].map(|calls| Spread::of(calls).show(0, " µs"));
        format!("{above} ({first}, a warm one {warm})")
    }
}
