//! The floor: a bare program that uploads or downloads with `reqwest` over HTTP/1.1 and hashes with the `sha2` library. This
//! binary starts itself as that program, so that its CPU time is of a process of its own.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    path::Path,
    process::Command,
};

use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    Outcome, fail,
    process::{Emulator, cpu_seconds, http_client},
    transfers::{APPEND_BYTES, BLOCK_BYTES, SOURCE_BYTES, source},
};

/// The first argument of a run as the bare program.
pub const FLAG: &str = "--bare";

/// CPU seconds of one run. `file` is read by `upload-file` alone.
pub fn run(what: &str, emulator: &Emulator, path: &str, size: u64, file: &Path) -> Outcome<f64> {
    let file = file.to_str().ok_or("a path that is not text")?;
    let arguments = [FLAG, what, &emulator.content, &emulator.access_token, path, &size.to_string(), file];
    let output = Command::new(std::env::current_exe()?).args(arguments).output()?;
    if !output.status.success() {
        return fail(format!("bare {what}: {}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

/// The inside of that process: gives its CPU seconds.
pub async fn child(arguments: &[String]) -> Outcome<f64> {
    let [what, content, token, path, size, file] = arguments else { return fail("bare: wrong arguments".to_owned()) };
    let size: u64 = size.parse()?;
    let bare = Bare { client: http_client()?, content: content.clone(), token: token.clone() };
    match what.as_str() {
        "upload" => bare.upload(path, size, None).await,
        "upload-file" => bare.upload(path, size, Some(File::open(file)?)).await,
        "download" => bare.download(path, size).await,
        other => fail(format!("bare {other}: unknown")),
    }
}

/// Writes the file that `upload-file` reads.
pub fn write_file(file: &Path, size: u64) -> Outcome<()> {
    let (source, mut file) = (source(), File::create(file)?);
    (0..size / SOURCE_BYTES).try_for_each(|_| file.write_all(&source))?;
    Ok(())
}

struct Bare {
    client: reqwest::Client,
    content: String,
    token: String,
}

impl Bare {
    async fn send(&self, route: &str, argument: Value, body: Bytes) -> Outcome<reqwest::Response> {
        let url = format!("{}/2/files/{route}", self.content);
        let mut request =
            self.client.post(url).bearer_auth(&self.token).header("Dropbox-API-Arg", argument.to_string());
        if route != "download" {
            request = request.header("Content-Type", "application/octet-stream").body(body);
        }
        let answer = request.send().await?;
        if !answer.status().is_success() {
            let status = answer.status();
            return fail(format!("{route}: {status} {}", answer.text().await?));
        }
        Ok(answer)
    }

    /// An ordered session, one append of 8 MiB after the other, each with its content hash; the file's hash is compared
    /// with the emulator's. Sent from memory, or read from `file` into one buffer.
    async fn upload(&self, path: &str, size: u64, mut file: Option<File>) -> Outcome<f64> {
        let source = source();
        // Also warms the connection.
        let started = self.send("upload_session/start", json!({ "close": false }), Bytes::new()).await?;
        let started: Value = serde_json::from_slice(&started.bytes().await?)?;
        let session = started["session_id"].clone();
        let begin = cpu_seconds("self")?;
        let mut whole = Sha256::new();
        let mut buffer = BytesMut::new();
        let mut offset = 0;
        while offset < size {
            let length = APPEND_BYTES.min(size - offset) as usize;
            let part = match &mut file {
                None => {
                    let from = (offset % SOURCE_BYTES) as usize;
                    source.slice(from..from + length)
                }
                Some(file) => {
                    buffer.resize(length, 0);
                    file.read_exact(&mut buffer)?;
                    std::mem::take(&mut buffer).freeze()
                }
            };
            let mut outer = Sha256::new();
            for block in part.chunks(BLOCK_BYTES) {
                let digest = Sha256::digest(block);
                outer.update(digest);
                whole.update(digest);
            }
            let cursor = json!({ "session_id": session, "offset": offset });
            let argument = json!({ "cursor": cursor, "content_hash": hex::encode(outer.finalize()) });
            offset += part.len() as u64;
            let sent = file.is_some().then(|| part.clone());
            self.send("upload_session/append_v2", argument, part).await?.bytes().await?;
            // The buffer is used again as soon as the request has let go of it.
            buffer = sent.and_then(|sent| sent.try_into_mut().ok()).unwrap_or_default();
        }
        let cursor = json!({ "session_id": session, "offset": size });
        let commit = json!({ "path": path, "mode": "overwrite" });
        let argument = json!({ "cursor": cursor, "commit": commit });
        let file = self.send("upload_session/finish", argument, Bytes::new()).await?;
        let file: Value = serde_json::from_slice(&file.bytes().await?)?;
        let spent = cpu_seconds("self")? - begin;
        let hash = hex::encode(whole.finalize());
        if file["content_hash"] != json!(hash) || file["size"] != json!(size) {
            return fail(format!("bare upload: {file} is not {size} bytes of {hash}"));
        }
        Ok(spent)
    }

    /// One request; the bytes are hashed as they come and compared with the file's hash.
    async fn download(&self, path: &str, size: u64) -> Outcome<f64> {
        let begin = cpu_seconds("self")?;
        let mut answer = self.send("download", json!({ "path": path }), Bytes::new()).await?;
        let file = answer.headers().get("Dropbox-API-Result").ok_or("no Dropbox-API-Result")?;
        let file: Value = serde_json::from_slice(file.as_bytes())?;
        let (mut block, mut filled, mut whole, mut got) = (Sha256::new(), 0, Sha256::new(), 0);
        while let Some(bytes) = answer.chunk().await? {
            got += bytes.len() as u64;
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let take = rest.len().min(BLOCK_BYTES - filled);
                block.update(&rest[..take]);
                filled += take;
                rest = &rest[take..];
                if filled == BLOCK_BYTES {
                    whole.update(block.finalize_reset());
                    filled = 0;
                }
            }
        }
        if filled > 0 {
            whole.update(block.finalize());
        }
        let spent = cpu_seconds("self")? - begin;
        let hash = hex::encode(whole.finalize());
        if file["content_hash"] != json!(hash) || got != size {
            return fail(format!("bare download: {got} bytes of {hash} are not {file}"));
        }
        Ok(spent)
    }
}
