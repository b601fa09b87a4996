//! What one more of a thing costs in memory: many of them at once in a fresh process, all of them standing still.

use std::time::Duration;

use bytes::Bytes;
use dropbox_connector::api::v1::{
    self as api, download_file_request::Source, download_file_response::Payload, upload_file_request::Frame,
};
use futures::{StreamExt as _, stream};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::{
    Outcome, fail,
    process::{Bench, Client, Connector, Emulator, PARAMETER},
    report::{Figure, Report},
    transfers::warm,
};

const MIB: usize = 1 << 20;
/// As many as one application parameter may have open that say no size.
const STREAMS: usize = 48;
const CONNECTIONS: usize = 200;
const LARGE: usize = 256 * MIB;
/// For so long it must be the same before it counts as standing still.
const STILL: Duration = Duration::from_millis(400);
/// By then ranges that nobody drains are let go (4 s), and their blocks are the system's again (30 s unused, then the next look).
const LATER: Duration = Duration::from_secs(45);

/// Everything that is kept open while memory is looked at.
#[derive(Default)]
struct Held {
    tasks: Vec<JoinHandle<()>>,
    clients: Vec<Client>,
    answers: Vec<tonic::Streaming<api::DownloadFileResponse>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// An upload that sends `bytes` of its `size` and then nothing.
fn upload(client: &Client, path: String, size: Option<usize>, bytes: usize) -> JoinHandle<()> {
    let mut client = client.clone();
    let spec = api::UploadSpec {
        path,
        write_mode: api::WriteMode::Overwrite.into(),
        total_size: size.map(|size| size as i64),
        ..Default::default()
    };
    let message = |frame| api::UploadFileRequest { frame: Some(frame), ..Default::default() };
    let opening =
        api::UploadFileRequest { application_parameter_id: PARAMETER.to_owned(), ..message(Frame::Spec(spec)) };
    let chunk = Bytes::from(vec![7; MIB.min(bytes)]);
    let chunks = (0..bytes.div_ceil(MIB))
        .map(move |_| message(Frame::Chunk(api::UploadChunk { data: chunk.clone(), ..Default::default() })));
    let frames = stream::iter(std::iter::once(opening).chain(chunks)).chain(stream::pending());
    tokio::spawn(async move {
        let _ = client.upload_file(frames).await;
    })
}

async fn download(held: &mut Held, client: &mut Client, path: &str, ranges: i32) -> Outcome<()> {
    let request = api::DownloadFileRequest {
        application_parameter_id: PARAMETER.to_owned(),
        source: Some(Source::Path(path.to_owned())),
        parallel_ranges: ranges,
        ..Default::default()
    };
    let mut answers = client.download_file(request).await?.into_inner();
    match answers.message().await?.and_then(|answer| answer.payload) {
        Some(Payload::Header(_)) => held.answers.push(answers),
        other => return fail(format!("{path}: {other:?}")),
    }
    Ok(())
}

/// One row: what `open` opens, in a fresh process.
async fn row(
    bench: &mut Bench,
    report: &mut Report,
    emulator: &Emulator,
    name: &'static str,
    count: usize,
    // What it is called when it is looked at once more.
    later: Option<&'static str>,
    open: impl AsyncFnOnce(&Connector, &mut Client, &mut Held) -> Outcome<()>,
) -> Outcome<()> {
    let connector = bench.connector(emulator).await?;
    let mut client = connector.client().await?;
    warm(&mut client).await?;
    let before = connector.process.still_mib(STILL).await?;
    let mut held = Held::default();
    open(&connector, &mut client, &mut held).await?;
    let mut told = |name, after: f64| {
        let each = (after - before) / count as f64 * 1024.0;
        let measured = format!("{each:.0} KiB ({count} at once, {before:.0} MiB before)");
        report.add(Figure { name, target: "–", measured, holds: None });
    };
    told(name, connector.process.still_mib(STILL).await?);
    if let Some(name) = later {
        tokio::time::sleep(LATER).await;
        told(name, connector.process.still_mib(STILL).await?);
    }
    match held.tasks.iter().position(JoinHandle::is_finished) {
        Some(ended) => fail(format!("{name}: number {ended} has ended")),
        None => Ok(()),
    }
}

pub async fn footprint(bench: &mut Bench, report: &mut Report) -> Outcome<()> {
    let emulator = bench.emulator().await?;
    let seed = json!({ "files": [{ "path": "/large", "bytes": LARGE }, { "path": "/small", "bytes": 100 * 1024 }] });
    emulator.control("seed", Some(seed)).await?;
    let stalls = json!({ "route": "files/upload_session/append_v2", "action": { "do": "stall" } });
    row(bench, report, &emulator, "memory of a connection", CONNECTIONS, None, async |connector, _, held| {
        for _ in 0..CONNECTIONS {
            let mut client = connector.client().await?;
            warm(&mut client).await?;
            held.clients.push(client);
        }
        Ok(())
    })
    .await?;
    let uploads = [
        ("memory of an upload that has said what it is and sent nothing", None, 0),
        ("memory of an upload of 100 KiB that has sent 64 of them", Some(100 * 1024), 64 * 1024),
    ];
    for (name, size, bytes) in uploads {
        row(bench, report, &emulator, name, STREAMS, None, async |_, client, held| {
            for n in 0..STREAMS {
                held.tasks.push(upload(client, format!("/idle/{n}"), size, bytes));
            }
            Ok(())
        })
        .await?;
    }
    emulator.control("script", Some(stalls)).await?;
    for (name, count) in [
        ("memory of an upload of 256 MiB that Dropbox takes nothing of, alone", 1),
        ("memory of an upload of 256 MiB that Dropbox takes nothing of, among 48", STREAMS),
    ] {
        row(bench, report, &emulator, name, count, None, async |_, client, held| {
            for n in 0..count {
                held.tasks.push(upload(client, format!("/large/{n}"), Some(LARGE), LARGE));
            }
            Ok(())
        })
        .await?;
    }
    for (name, path, ranges) in [
        ("memory of a download of 100 KiB that nobody reads", "/small", 1),
        ("memory of a download of 256 MiB that nobody reads", "/large", 1),
        ("memory of a download of 256 MiB in 8 ranges that nobody reads", "/large", 8),
    ] {
        // Of large ones a parameter has 42 at Dropbox.
        let count = if path == "/small" { STREAMS } else { 32 };
        let later = (ranges > 1).then_some("the same 45 s later");
        row(bench, report, &emulator, name, count, later, async |connector, _, held| {
            for _ in 0..count {
                // Each on a connection of its own, as a caller that stops reading stops its connection.
                let mut client = connector.client().await?;
                download(held, &mut client, path, ranges).await?;
                held.clients.push(client);
            }
            Ok(())
        })
        .await?;
    }
    Ok(())
}
