//! The floor: a bare program that uploads or downloads with `reqwest` over HTTP/1.1, plain or over TLS, and hashes with the
//! `sha2` library. This binary starts itself as that program, so that its CPU time is of a process of its own.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _, future::try_join_all, stream};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::process::Command;

use crate::{
    Outcome, fail,
    process::{Emulator, cpu_seconds, http_client},
    transfers::{APPEND_BYTES, BLOCK_BYTES, SOURCE_BYTES, source},
};

/// The first argument of a run as the bare program; the second is its [`Job`].
pub const FLAG: &str = "--bare";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    Upload,
    Download,
}

/// Of several lanes: how often one append or range is said again because its connection broke.
const REPEATS: u32 = 10;

/// One run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    pub what: What,
    pub content: String,
    pub token: String,
    pub ca: Option<PathBuf>,
    pub path: String,
    pub size: u64,
    /// Read instead of memory.
    pub file: Option<PathBuf>,
    /// Files at once, each with a session of its own, as `PATH/0`, `PATH/1`, … where there are several.
    pub streams: usize,
    /// Appends or ranges of one file at once.
    pub lanes: usize,
}

/// What a run took, in seconds. Wall time begins with the first request, CPU time behind it: the handshake is not in it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Spent {
    pub cpu: f64,
    pub wall: f64,
}

impl Job {
    pub fn new(what: What, emulator: &Emulator, path: &str, size: u64) -> Job {
        Job {
            what,
            content: emulator.content.clone(),
            token: emulator.access_token.clone(),
            ca: emulator.ca.clone(),
            path: path.to_owned(),
            size,
            file: None,
            streams: 1,
            lanes: 1,
        }
    }

    /// Runs it in a process of its own. Connections to the connector live on meanwhile.
    pub async fn run(&self) -> Outcome<Spent> {
        let command = [FLAG.to_owned(), serde_json::to_string(self)?];
        let output = Command::new(std::env::current_exe()?).args(command).output().await?;
        if !output.status.success() {
            return fail(format!("bare {:?}: {}", self.what, String::from_utf8_lossy(&output.stderr)));
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// The inside of that process. One stream alone runs on one thread, which is the cheapest.
    pub fn inside(text: &str) -> Outcome<Spent> {
        let job: Job = serde_json::from_str(text)?;
        let mut runtime = match job.streams * job.lanes {
            1 => tokio::runtime::Builder::new_current_thread(),
            _ => tokio::runtime::Builder::new_multi_thread(),
        };
        runtime.worker_threads(2).enable_all().build()?.block_on(job.all())
    }

    async fn all(self) -> Outcome<Spent> {
        source();
        let bare =
            Bare { client: http_client(self.ca.as_deref())?, content: self.content.clone(), token: self.token.clone() };
        let wall = Instant::now();
        let paths: Vec<String> = match self.streams {
            1 => vec![self.path.clone()],
            streams => (0..streams).map(|i| format!("{}/{i}", self.path)).collect(),
        };
        let begun = if self.what == What::Upload {
            let mut sessions = Vec::new();
            for _ in &paths {
                sessions.push(bare.begin(self.lanes > 1).await?);
            }
            sessions
        } else {
            vec![Value::Null; paths.len()]
        };
        let cpu = cpu_seconds("self")?;
        let mut works = Vec::new();
        for (at, (path, session)) in paths.into_iter().zip(begun).enumerate() {
            let (bare, job) = (bare.clone(), self.clone());
            works.push(tokio::spawn(async move {
                match (job.what, job.lanes) {
                    (What::Upload, 1) => bare.upload(&path, &session, at, job.size, job.file.as_deref()).await,
                    (What::Upload, lanes) => bare.upload_parallel(&path, &session, job.size, lanes).await,
                    (What::Download, 1) => bare.download(&path, job.size).await,
                    (What::Download, lanes) => bare.download_parallel(&path, job.size, lanes).await,
                }
            }));
        }
        for ended in try_join_all(works).await? {
            ended?;
        }
        Ok(Spent { cpu: cpu_seconds("self")? - cpu, wall: wall.elapsed().as_secs_f64() })
    }
}

/// Writes the file that an upload reads.
pub fn write_file(file: &Path, size: u64) -> Outcome<()> {
    let (source, mut file) = (source(), std::fs::File::create(file)?);
    (0..size / SOURCE_BYTES).try_for_each(|_| file.write_all(&source))?;
    Ok(())
}

/// The content hash of a part, and its blocks' digests into that of the file.
fn hash(part: &[u8], whole: &mut Sha256) -> String {
    let mut outer = Sha256::new();
    for block in part.chunks(BLOCK_BYTES) {
        let digest = Sha256::digest(block);
        outer.update(digest);
        whole.update(digest);
    }
    hex::encode(outer.finalize())
}

/// A part of the file made of the source, round and round. No part straddles its end.
fn part(offset: u64, size: u64) -> Bytes {
    let (from, length) = ((offset % SOURCE_BYTES) as usize, APPEND_BYTES.min(size - offset) as usize);
    source().slice(from..from + length)
}

#[derive(Debug, Clone)]
struct Bare {
    client: reqwest::Client,
    content: String,
    token: String,
}

impl Bare {
    fn request(&self, route: &str, argument: &Value) -> reqwest::RequestBuilder {
        let url = format!("{}/2/files/{route}", self.content);
        self.client.post(url).bearer_auth(&self.token).header("Dropbox-API-Arg", argument.to_string())
    }

    async fn answered(route: &str, request: reqwest::RequestBuilder) -> Outcome<reqwest::Response> {
        let answer = request.send().await?;
        if !answer.status().is_success() {
            let status = answer.status();
            return fail(format!("{route}: {status} {}", answer.text().await?));
        }
        Ok(answer)
    }

    async fn send(&self, route: &str, argument: Value, body: Bytes) -> Outcome<Bytes> {
        let request = self.request(route, &argument).header("Content-Type", "application/octet-stream").body(body);
        Ok(Self::answered(route, request).await?.bytes().await?)
    }

    /// A session; this also warms the connection.
    async fn begin(&self, concurrent: bool) -> Outcome<Value> {
        let kind = if concurrent { "concurrent" } else { "sequential" };
        let argument = json!({ "close": false, "session_type": kind });
        let started = self.send("upload_session/start", argument, Bytes::new()).await?;
        Ok(serde_json::from_slice::<Value>(&started)?["session_id"].clone())
    }

    async fn finish(&self, path: &str, session: &Value, size: u64, whole: Sha256) -> Outcome<()> {
        let cursor = json!({ "session_id": session, "offset": size });
        let commit = json!({ "path": path, "mode": "overwrite" });
        let argument = json!({ "cursor": cursor, "commit": commit });
        let file: Value = serde_json::from_slice(&self.send("upload_session/finish", argument, Bytes::new()).await?)?;
        let hash = hex::encode(whole.finalize());
        if file["content_hash"] != json!(hash) || file["size"] != json!(size) {
            return fail(format!("bare upload: {file} is not {size} bytes of {hash}"));
        }
        Ok(())
    }

    /// An ordered session, one append of 8 MiB after the other, each with its content hash; the file's hash is compared
    /// with the emulator's. Sent from memory, or read from `file` into one buffer. `at` makes files of one run differ.
    async fn upload(&self, path: &str, session: &Value, at: usize, size: u64, file: Option<&Path>) -> Outcome<()> {
        let mut file = file.map(std::fs::File::open).transpose()?;
        let start = at as u64 * APPEND_BYTES;
        let mut whole = Sha256::new();
        let mut buffer = BytesMut::new();
        let mut offset = 0;
        while offset < size {
            let part = match &mut file {
                None => part(start + offset, start + size),
                Some(file) => {
                    buffer.resize(APPEND_BYTES.min(size - offset) as usize, 0);
                    file.read_exact(&mut buffer)?;
                    std::mem::take(&mut buffer).freeze()
                }
            };
            let cursor = json!({ "session_id": session, "offset": offset });
            let argument = json!({ "cursor": cursor, "content_hash": hash(&part, &mut whole) });
            offset += part.len() as u64;
            let sent = file.is_some().then(|| part.clone());
            self.send("upload_session/append_v2", argument, part).await?;
            // The buffer is used again as soon as the request has let go of it.
            buffer = sent.and_then(|sent| sent.try_into_mut().ok()).unwrap_or_default();
        }
        self.finish(path, session, size, whole).await
    }

    /// A concurrent session, so many appends of 8 MiB in flight.
    async fn upload_parallel(&self, path: &str, session: &Value, size: u64, lanes: usize) -> Outcome<()> {
        let offsets = (0..size).step_by(APPEND_BYTES as usize);
        let appends = stream::iter(offsets).map(|offset| {
            let (bare, session, part) = (self.clone(), session.clone(), part(offset, size));
            async move {
                let append = async move {
                    let digests: Vec<_> = part.chunks(BLOCK_BYTES).map(Sha256::digest).collect();
                    let cursor = json!({ "session_id": session, "offset": offset });
                    let close = offset + part.len() as u64 == size;
                    let hash = hex::encode(Sha256::digest(digests.concat()));
                    let argument = json!({ "cursor": cursor, "close": close, "content_hash": hash });
                    let mut left = REPEATS;
                    loop {
                        match bare.send("upload_session/append_v2", argument.clone(), part.clone()).await {
                            Err(broken) if left > 0 && broken.is::<reqwest::Error>() => left -= 1,
                            sent => {
                                sent?;
                                break;
                            }
                        }
                    }
                    Outcome::Ok((offset, digests))
                };
                tokio::spawn(append).await?
            }
        });
        let digests: BTreeMap<_, _> = appends.buffer_unordered(lanes).try_collect().await?;
        let mut whole = Sha256::new();
        digests.values().flatten().for_each(|digest| whole.update(digest));
        self.finish(path, session, size, whole).await
    }

    /// One request; the bytes are hashed as they come and compared with the file's hash.
    async fn download(&self, path: &str, size: u64) -> Outcome<()> {
        let mut answer = Self::answered("download", self.request("download", &json!({ "path": path }))).await?;
        let file = told(&answer)?;
        let mut whole = Whole::default();
        while let Some(bytes) = answer.chunk().await? {
            whole.update(&bytes);
        }
        whole.compare(&file, size)
    }

    async fn range(&self, path: &str, from: u64, last: u64) -> Outcome<(Value, Bytes)> {
        let request = self.request("download", &json!({ "path": path }));
        let answer = Self::answered("download", request.header("Range", format!("bytes={from}-{last}"))).await?;
        Ok((told(&answer)?, answer.bytes().await?))
    }

    /// Ranges of 8 MiB, so many in flight, hashed in order.
    async fn download_parallel(&self, path: &str, size: u64, lanes: usize) -> Outcome<()> {
        let ranges = (0..size).step_by(APPEND_BYTES as usize).map(|from| (from, (from + APPEND_BYTES).min(size) - 1));
        let mut ranges = stream::iter(ranges)
            .map(|(from, last)| {
                let (bare, path) = (self.clone(), path.to_owned());
                async move {
                    let read = async move {
                        let mut left = REPEATS;
                        loop {
                            match bare.range(&path, from, last).await {
                                Err(broken) if left > 0 && broken.is::<reqwest::Error>() => left -= 1,
                                read => break read,
                            }
                        }
                    };
                    tokio::spawn(read).await?
                }
            })
            .buffered(lanes);
        let (mut whole, mut file) = (Whole::default(), Value::Null);
        while let Some((told, bytes)) = ranges.try_next().await? {
            file = told;
            whole.update(&bytes);
        }
        whole.compare(&file, size)
    }
}

/// The file that an answer holds.
fn told(answer: &reqwest::Response) -> Outcome<Value> {
    let file = answer.headers().get("Dropbox-API-Result").ok_or("no Dropbox-API-Result")?;
    Ok(serde_json::from_slice(file.as_bytes())?)
}

/// The hash of bytes that come in any pieces.
#[derive(Default)]
struct Whole {
    block: Sha256,
    filled: usize,
    outer: Sha256,
    got: u64,
}

impl Whole {
    fn update(&mut self, mut rest: &[u8]) {
        self.got += rest.len() as u64;
        while !rest.is_empty() {
            let take = rest.len().min(BLOCK_BYTES - self.filled);
            self.block.update(&rest[..take]);
            self.filled += take;
            rest = &rest[take..];
            if self.filled == BLOCK_BYTES {
                self.outer.update(self.block.finalize_reset());
                self.filled = 0;
            }
        }
    }

    fn compare(mut self, file: &Value, size: u64) -> Outcome<()> {
        if self.filled > 0 {
            self.outer.update(self.block.finalize_reset());
        }
        let (got, hash) = (self.got, hex::encode(self.outer.finalize()));
        if file["content_hash"] != json!(hash) || got != size {
            return fail(format!("bare download: {got} bytes of {hash} are not {file}"));
        }
        Ok(())
    }
}
