//! What bytes cost: CPU against the bare program in alternating runs, and memory of a fresh process.

use std::{
    path::Path,
    sync::OnceLock,
    time::{Duration, Instant},
};

use bytes::Bytes;
use dropbox_connector::api::v1::{
    self as api, download_file_request::Source, download_file_response::Payload, upload_file_request::Frame,
};
use futures::{Stream, future::try_join_all, stream};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::{
    Outcome,
    bare::{self, Job, Spent, What},
    content_hash, fail,
    process::{Bench, Client, Connector, Emulator, PARAMETER, Wire},
    report::{Figure, Report, Spread},
};

pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;
pub const BLOCK_BYTES: usize = 4 << 20;
/// Of the bare uploader; the connector's default is the same.
pub const APPEND_BYTES: u64 = 8 * MIB;
/// Of the messages of an upload.
const CHUNK_BYTES: u64 = MIB;
/// Files repeat a source of this size: larger than a cache, cheap to make.
pub const SOURCE_BYTES: u64 = 64 * MIB;

/// Pairs of runs, connector and bare program in turn.
pub const PAIRS: usize = 5;
/// Fresh processes whose memory is looked at.
const FRESH: usize = 3;
const MANY: usize = 64;
/// `transfer_buffer_mib`, by default.
const BUDGET_MIB: f64 = 512.0;

/// Bytes that do not repeat within a cache (xorshift64*), made once in each process.
pub fn source() -> Bytes {
    static SOURCE: OnceLock<Bytes> = OnceLock::new();
    let make = || {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let words = (0..SOURCE_BYTES / 8).flat_map(|_| {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes()
        });
        words.collect()
    };
    SOURCE.get_or_init(make).clone()
}

/// A file: the source from `first_block` on, round and round.
#[derive(Debug, Clone)]
pub struct File {
    pub path: String,
    pub size: u64,
    pub first_block: u64,
    /// Of its messages.
    pub chunk_bytes: u64,
    /// `parallel_appends`.
    pub lanes: i32,
}

impl File {
    pub fn new(path: &str, size: u64) -> File {
        File { path: path.to_owned(), size, first_block: 0, chunk_bytes: CHUNK_BYTES, lanes: 0 }
    }

    /// So many of one size, each beginning at another block.
    pub fn several(count: usize, size: u64) -> Vec<File> {
        let file = |i: usize| File { first_block: (i % 16) as u64, ..File::new(&format!("/many/{i}"), size) };
        (0..count).map(file).collect()
    }

    /// Its content hash by the library. Its size is a multiple of a block.
    pub fn hash(&self) -> String {
        static DIGESTS: OnceLock<Vec<[u8; 32]>> = OnceLock::new();
        let digest = |block: &[u8]| Sha256::digest(block).into();
        let digests = DIGESTS.get_or_init(|| source().chunks(BLOCK_BYTES).map(digest).collect());
        let blocks = self.size / BLOCK_BYTES as u64;
        let mut outer = Sha256::new();
        (0..blocks).for_each(|i| outer.update(digests[((self.first_block + i) % digests.len() as u64) as usize]));
        hex::encode(outer.finalize())
    }

    /// `spec`, chunks, `finish`.
    pub fn frames(&self) -> impl Stream<Item = api::UploadFileRequest> + Send + use<> {
        let spec = api::UploadSpec {
            path: self.path.clone(),
            write_mode: api::WriteMode::Overwrite.into(),
            total_size: Some(self.size as i64),
            parallel_appends: self.lanes,
            ..Default::default()
        };
        let message = |frame| api::UploadFileRequest { frame: Some(frame), ..Default::default() };
        let opening =
            api::UploadFileRequest { application_parameter_id: PARAMETER.to_owned(), ..message(Frame::Spec(spec)) };
        let (source, start) = (source(), self.first_block * BLOCK_BYTES as u64);
        let chunk_bytes = self.chunk_bytes;
        let chunks = (0..self.size / chunk_bytes).map(move |i| {
            let from = ((start + i * chunk_bytes) % SOURCE_BYTES) as usize;
            let data = source.slice(from..from + chunk_bytes as usize);
            message(Frame::Chunk(api::UploadChunk { data, ..Default::default() }))
        });
        let finish = message(Frame::Finish(api::UploadFinish::default()));
        stream::iter(std::iter::once(opening).chain(chunks).chain(std::iter::once(finish)))
    }

    /// A small file of these bytes in one chunk.
    pub fn frames_of(path: &str, data: Bytes) -> impl Stream<Item = api::UploadFileRequest> + Send + use<> {
        let spec = api::UploadSpec {
            path: path.to_owned(),
            write_mode: api::WriteMode::Overwrite.into(),
            total_size: Some(data.len() as i64),
            ..Default::default()
        };
        let message = |frame| api::UploadFileRequest { frame: Some(frame), ..Default::default() };
        let opening =
            api::UploadFileRequest { application_parameter_id: PARAMETER.to_owned(), ..message(Frame::Spec(spec)) };
        let chunk = message(Frame::Chunk(api::UploadChunk { data, ..Default::default() }));
        stream::iter([opening, chunk, message(Frame::Finish(api::UploadFinish::default()))])
    }

    /// Uploads it through the connector and compares what the connector and the emulator say of it.
    pub async fn upload(&self, client: &mut Client) -> Outcome<()> {
        let answer = client.upload_file(self.frames()).await?.into_inner();
        if !answer.verified || answer.content_hash != self.hash() || answer.persisted_offset != self.size as i64 {
            return fail(format!("{}: not what was uploaded: {answer:?}", self.path));
        }
        Ok(())
    }

    /// The hash the emulator has of it.
    pub async fn check(&self, emulator: &Emulator) -> Outcome<()> {
        let argument = json!({ "path": self.path }).to_string();
        let file: serde_json::Value = serde_json::from_slice(&emulator.call("files/get_metadata", &argument).await?)?;
        match file["content_hash"] == json!(self.hash()) && file["size"] == json!(self.size) {
            true => Ok(()),
            false => fail(format!("{}: the emulator has {file}", self.path)),
        }
    }
}

/// Frames of an upload that is never to end, for whoever stalls it.
pub fn stalling(path: &str, size: u64) -> impl Stream<Item = api::UploadFileRequest> + Send + use<> {
    File::new(path, size).frames()
}

/// Reads a file through the connector, which checks its hash.
pub async fn download(client: &mut Client, path: &str, size: u64, ranges: i32) -> Outcome<()> {
    let request = api::DownloadFileRequest {
        application_parameter_id: PARAMETER.to_owned(),
        source: Some(Source::Path(path.to_owned())),
        parallel_ranges: ranges,
        ..Default::default()
    };
    let mut answers = client.download_file(request).await?.into_inner();
    let (mut got, mut trailer) = (0, None);
    while let Some(answer) = answers.message().await? {
        match answer.payload {
            Some(Payload::Chunk(chunk)) => got += chunk.data.len() as u64,
            Some(Payload::Trailer(told)) => trailer = Some(told),
            _ => {}
        }
    }
    match trailer {
        Some(trailer) if trailer.verified && got == size => Ok(()),
        other => fail(format!("{path}: {got} of {size} bytes, {other:?}")),
    }
}

/// A call that goes to Dropbox: the token is fresh behind it and the connections are warm.
pub async fn warm(client: &mut Client) -> Outcome<()> {
    let request = api::GetAccountRequest { application_parameter_id: PARAMETER.to_owned(), ..Default::default() };
    client.get_account(request).await?;
    Ok(())
}

/// The time and the CPU of one run.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    pub cpu: f64,
    pub wall: Duration,
}

pub async fn timed(connector: &Connector, work: impl Future<Output = Outcome<()>>) -> Outcome<Run> {
    let (begin, before) = (Instant::now(), connector.process.cpu_seconds()?);
    work.await?;
    Ok(Run { wall: begin.elapsed(), cpu: connector.process.cpu_seconds()? - before })
}

/// What a comparison is called and has to reach.
struct Wanted {
    names: [&'static str; 3],
    cpu: (&'static str, f64),
    /// Of the rates, where it is one of the figures.
    rate: Option<(&'static str, f64)>,
}

/// The rows of one comparison.
fn compare(report: &mut Report, wanted: Wanted, runs: &[(Run, Spent)]) {
    let of = |value: fn(&(Run, Spent)) -> f64| Spread::of(&runs.iter().map(value).collect::<Vec<_>>());
    let ratio = of(|(run, bare)| run.cpu / bare.cpu);
    report.add(Figure {
        name: wanted.names[0],
        target: wanted.cpu.0,
        measured: ratio.show(2, " ×"),
        holds: Some(ratio.median <= wanted.cpu.1),
    });
    let speed = of(|(run, bare)| bare.wall / run.wall.as_secs_f64());
    report.add(Figure {
        name: wanted.names[1],
        target: wanted.rate.map_or("–", |(target, _)| target),
        measured: speed.show(2, " ×"),
        holds: wanted.rate.map(|(_, least)| speed.median >= least),
    });
    let measured = format!(
        "{}, {}; {}, {}",
        of(|(run, _)| run.cpu).show(2, " s/GiB"),
        of(|(run, _)| 1024.0 / run.wall.as_secs_f64()).show(0, " MiB/s"),
        of(|(_, bare)| bare.cpu).show(2, " s/GiB"),
        of(|(_, bare)| 1024.0 / bare.wall).show(0, " MiB/s")
    );
    report.add(Figure { name: wanted.names[2], target: "–", measured, holds: None });
}

pub fn hash(report: &mut Report) {
    let measured = content_hash::measure();
    let ratio = Spread::of(&measured.ratios);
    report.add(Figure {
        name: "content hash rate ÷ library SHA-256 rate, one core",
        target: "≥ 1.8",
        measured: format!(
            "{}; sha2 {:.2} s/GiB, lock-step {:.2} s/GiB, CRC-32C {:.3} s/GiB",
            ratio.show(2, " ×"),
            measured.plain,
            measured.pair,
            measured.crc
        ),
        holds: Some(ratio.median >= 1.8),
    });
}

pub async fn upload_cpu(bench: &mut Bench, report: &mut Report, wire: Wire) -> Outcome<()> {
    let emulator = bench.emulator_over(wire).await?;
    let connector = bench.connector(&emulator).await?;
    let mut client = connector.client().await?;
    // Blocks are touched and connections made before the clock starts.
    File::new("/warm", 2 * SOURCE_BYTES).upload(&mut client).await?;
    let on_disk = bench.path("file");
    bare::write_file(&on_disk, GIB)?;
    let job =
        |file: Option<&Path>| Job { file: file.map(Path::to_owned), ..Job::new(What::Upload, &emulator, "/bare", GIB) };
    let (mut runs, mut readings) = (Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        emulator.reset().await?;
        warm(&mut client).await?;
        let file = File::new("/through", GIB);
        let run = timed(&connector, file.upload(&mut client)).await?;
        file.check(&emulator).await?;
        emulator.reset().await?;
        let bare = job(None).run().await?;
        runs.push((run, bare));
        if wire == Wire::Plain {
            emulator.reset().await?;
            let reading = job(Some(&on_disk)).run().await?.cpu;
            readings.push((run.cpu / reading, reading));
        }
    }
    let wanted = match wire {
        Wire::Plain => Wanted {
            names: [
                "upload, 1 GiB, one stream: CPU, connector ÷ bare uploader",
                "upload, one stream: rate, connector ÷ bare uploader",
                "upload, one stream: CPU and rate; the bare uploader's",
            ],
            cpu: ("≤ 1.15", 1.15),
            rate: Some(("≥ 0.65", 0.65)),
        },
        _ => Wanted {
            names: [
                "upload, 1 GiB, one stream, TLS upstream: CPU, connector ÷ bare uploader",
                "upload, one stream, TLS upstream: rate, connector ÷ bare uploader",
                "upload, one stream, TLS upstream: CPU and rate; the bare uploader's",
            ],
            cpu: ("≤ 1.20", 1.20),
            rate: None,
        },
    };
    compare(report, wanted, &runs);
    if !readings.is_empty() {
        let (ratios, seconds): (Vec<f64>, Vec<f64>) = readings.into_iter().unzip();
        report.add(Figure {
            name: "upload: CPU, connector ÷ bare uploader that reads the file; that one's CPU",
            target: "–",
            measured: format!("{}; {}", Spread::of(&ratios).show(2, " ×"), Spread::of(&seconds).show(2, " s/GiB")),
            holds: None,
        });
    }
    Ok(())
}

pub async fn download_cpu(bench: &mut Bench, report: &mut Report, wire: Wire) -> Outcome<()> {
    let emulator = bench.emulator_over(wire).await?;
    let seed = json!({ "files": [{ "path": "/down", "bytes": GIB }, { "path": "/warm", "bytes": SOURCE_BYTES }] });
    emulator.control("seed", Some(seed)).await?;
    let connector = bench.connector(&emulator).await?;
    let mut client = connector.client().await?;
    download(&mut client, "/warm", SOURCE_BYTES, 0).await?;
    let mut runs = Vec::new();
    for _ in 0..PAIRS {
        warm(&mut client).await?;
        let run = timed(&connector, download(&mut client, "/down", GIB, 0)).await?;
        runs.push((run, Job::new(What::Download, &emulator, "/down", GIB).run().await?));
    }
    let wanted = match wire {
        Wire::Plain => Wanted {
            names: [
                "download, 1 GiB, one stream, hash checked: CPU, connector ÷ bare downloader",
                "download, one stream: rate, connector ÷ bare downloader",
                "download, one stream: CPU and rate; the bare downloader's",
            ],
            cpu: ("≤ 1.20", 1.20),
            rate: Some(("≥ 0.65", 0.65)),
        },
        _ => Wanted {
            names: [
                "download, 1 GiB, one stream, hash checked, TLS upstream: CPU, connector ÷ bare downloader",
                "download, one stream, TLS upstream: rate, connector ÷ bare downloader",
                "download, one stream, TLS upstream: CPU and rate; the bare downloader's",
            ],
            cpu: ("≤ 1.35", 1.35),
            rate: None,
        },
    };
    compare(report, wanted, &runs);
    Ok(())
}

/// Peak of a fresh process over what it had when it was warm.
pub async fn memory(bench: &mut Bench, report: &mut Report) -> Outcome<()> {
    let emulator = bench.emulator().await?;
    let (mut up, mut down) = (Vec::new(), Vec::new());
    for _ in 0..FRESH {
        emulator.reset().await?;
        let file = File::new("/through", GIB);
        for (growths, is_upload) in [(&mut up, true), (&mut down, false)] {
            let connector = bench.connector(&emulator).await?;
            let mut client = connector.client().await?;
            warm(&mut client).await?;
            let before = connector.process.resident_mib()?;
            match is_upload {
                true => file.upload(&mut client).await?,
                // What the upload left behind.
                false => download(&mut client, &file.path, file.size, 0).await?,
            }
            growths.push(connector.process.peak_mib()? - before);
        }
    }
    let names = ["upload, 1 GiB, one stream: peak memory growth", "download, 1 GiB, one stream: peak memory growth"];
    for (name, growths) in names.into_iter().zip([up, down]) {
        let growth = Spread::of(&growths);
        report.add(Figure {
            name,
            target: "≤ 64 MiB",
            measured: growth.show(1, " MiB"),
            holds: Some(growth.high <= 64.0),
        });
    }
    Ok(())
}

/// 64 uploads at once, each on a connection of its own.
pub async fn many(bench: &mut Bench, report: &mut Report) -> Outcome<()> {
    let emulator = bench.emulator().await?;
    let connector = bench.connector(&emulator).await?;
    let files = File::several(MANY, SOURCE_BYTES);
    let mut clients = try_join_all(files.iter().map(|_| connector.client())).await?;
    for client in &mut clients {
        warm(client).await?;
    }
    let before = connector.process.resident_mib()?;
    let uploads = clients.iter_mut().zip(&files).map(|(client, file)| file.upload(client));
    let run = timed(&connector, async { try_join_all(uploads).await.map(drop) }).await?;
    let peak = connector.process.peak_mib()?;
    for file in &files {
        file.check(&emulator).await?;
    }
    let gib = (MANY as u64 * SOURCE_BYTES / GIB) as f64;
    report.add(Figure {
        name: "64 uploads of 64 MiB on 64 connections, hashes equal: peak memory",
        target: "< 576 MiB (the budget of 512 + 64)",
        measured: format!(
            "{peak:.0} MiB ({before:.0} before; {:.2} CPU s/GiB, {:.0} MiB/s in all; n=1)",
            run.cpu / gib,
            gib * 1024.0 / run.wall.as_secs_f64()
        ),
        holds: Some(peak < BUDGET_MIB + 64.0),
    });
    Ok(())
}
