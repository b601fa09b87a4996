//! Reads a file from the server and goes on after breaks, pinned to one revision. Every chunk is checked as it comes, the
//! whole at the end; a stream without a trailer counts for nothing.

use std::{
    io,
    path::{Path, PathBuf},
};

use tokio::{
    fs::File,
    io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
};
use tonic::Status;

use crate::api::v1::{
    DownloadChunk, DownloadFileRequest, DownloadHeader, DownloadTrailer, Item, download_file_request::Source,
    download_file_response::Payload, item::Kind,
};

use super::{
    client::{ATTEMPTS_MAX, Client, to_wire},
    content_hash::ContentHash,
    exit::{Exit, Failure, Result, repeat_after},
    progress::Meter,
};

/// Where the bytes go.
pub enum Sink {
    /// To be written.
    Into(Box<dyn AsyncWrite + Send + Unpin>),
    /// To be compared, byte by byte, with this local file.
    Against(File, Vec<u8>),
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Sink::Into(_) => "Into",
            Sink::Against(..) => "Against",
        })
    }
}

/// A file on its way here.
#[derive(Debug)]
pub struct Landing {
    path: PathBuf,
    sink: Sink,
    /// Bytes that have arrived.
    offset: u64,
    /// Of those bytes.
    hash: ContentHash,
}

impl Landing {
    pub fn new(path: impl Into<PathBuf>, sink: Sink) -> Landing {
        Landing { path: path.into(), sink, offset: 0, hash: ContentHash::default() }
    }

    /// A landing that has the first `offset` bytes already.
    pub fn resumed(path: impl Into<PathBuf>, sink: Sink, offset: u64, hash: ContentHash) -> Landing {
        Landing { path: path.into(), sink, offset, hash }
    }

    /// Bytes that are here already.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    async fn take(&mut self, chunk: &DownloadChunk) -> Result<()> {
        if chunk.offset != to_wire(self.offset) {
            let text = format!("the server sent offset {} where {} was next", chunk.offset, self.offset);
            return Err(Failure::new(Exit::Damaged, text));
        }
        if crc_fast::crc32_iscsi(&chunk.data) != chunk.crc32c {
            return Err(Failure::new(Exit::Damaged, format!("a chunk at offset {} arrived damaged", chunk.offset)));
        }
        let wrong = |error: io::Error| Failure::local(&self.path, &error);
        match &mut self.sink {
            Sink::Into(writer) => writer.write_all(&chunk.data).await.map_err(wrong)?,
            Sink::Against(file, own) => {
                own.resize(chunk.data.len(), 0);
                file.read_exact(own).await.map_err(wrong)?;
                if let Some(at) = own.iter().zip(&chunk.data[..]).position(|(a, b)| a != b) {
                    let at = self.offset + at as u64;
                    return Err(Failure::new(Exit::Damaged, format!("byte {at} differs from the local file")));
                }
            }
        }
        self.hash.update(&chunk.data);
        self.offset += chunk.data.len() as u64;
        Ok(())
    }

    async fn close(&mut self) -> Result<()> {
        match &mut self.sink {
            Sink::Into(writer) => writer.flush().await.map_err(|error| Failure::local(&self.path, &error)),
            Sink::Against(file, _) => match file.read_u8().await {
                Ok(_) => Err(Failure::new(Exit::Damaged, "the local file is longer than what came back")),
                Err(_) => Ok(()),
            },
        }
    }
}

/// What was read.
#[derive(Debug)]
pub struct Downloaded {
    pub bytes: u64,
    /// Content hash of all that arrived.
    pub content_hash: String,
    /// True if that is the hash Dropbox gives for the file (or its export).
    pub verified: bool,
}

impl Client {
    /// Reads `request.source` from where `landing` stands to the end, and resumes as often as it makes headway.
    ///
    /// # Errors
    /// As the RPC; a sink that fails; bytes that are not what they should be.
    pub async fn download(
        &self,
        mut request: DownloadFileRequest,
        mut landing: Landing,
        meter: &Meter,
    ) -> Result<Downloaded> {
        let mut attempt = 0;
        let mut first_header = None;
        meter.at(landing.offset);
        loop {
            request.read_offset = to_wire(landing.offset);
            let before = landing.offset;
            let outcome = self.download_once(&request, &mut landing, &mut first_header, meter).await?;
            let status = match outcome {
                Ok(trailer) => {
                    landing.close().await?;
                    let header = first_header.unwrap_or_default();
                    return proven(header, &trailer, landing);
                }
                Err(status) => status,
            };
            // Behind a shared link, and for exports, there is no revision to go on with.
            let rev = first_header.as_ref().map_or("", |header: &DownloadHeader| &header.rev);
            let pinned = !rev.is_empty() && matches!(request.source, Some(Source::Path(_)));
            if landing.offset > before {
                attempt = 0;
            }
            match repeat_after(&status, true, attempt) {
                Some(delay) if attempt < ATTEMPTS_MAX && (pinned || landing.offset == 0) => {
                    tokio::time::sleep(delay).await;
                }
                _ => return Err(status.into()),
            }
            if pinned && landing.offset > 0 {
                request.rev = rev.to_owned();
            }
            attempt += 1;
        }
    }

    /// One stream. The outer error is ours, the inner one the server's.
    async fn download_once(
        &self,
        request: &DownloadFileRequest,
        landing: &mut Landing,
        first_header: &mut Option<DownloadHeader>,
        meter: &Meter,
    ) -> Result<Result<DownloadTrailer, Status>> {
        let mut stream = match self.data().download_file(request.clone()).await {
            Ok(response) => response.into_inner(),
            Err(status) => return Ok(Err(status)),
        };
        loop {
            match stream.message().await {
                Ok(Some(message)) => match message.payload {
                    Some(Payload::Header(header)) => drop(first_header.get_or_insert(header)),
                    Some(Payload::Chunk(chunk)) => {
                        landing.take(&chunk).await?;
                        meter.at(landing.offset);
                    }
                    Some(Payload::Trailer(trailer)) => return Ok(Ok(trailer)),
                    None => {}
                },
                Ok(None) => return Ok(Err(Status::unknown("the stream ended without a trailer"))),
                Err(status) => return Ok(Err(status)),
            }
        }
    }
}

/// Holds what arrived against what Dropbox says the file is.
fn proven(header: DownloadHeader, trailer: &DownloadTrailer, landing: Landing) -> Result<Downloaded> {
    let (bytes, content_hash) = (landing.offset, landing.hash.finish());
    let expected = match (&header.item, header.export_format.is_empty()) {
        (Some(Item { kind: Some(Kind::File(file)), .. }), true) => file.content_hash.clone(),
        _ if trailer.verified => trailer.content_hash.clone(),
        _ => String::new(),
    };
    if header.total_size.is_some_and(|size| size != to_wire(bytes)) {
        let text = format!("{bytes} bytes arrived of {}", header.total_size.unwrap_or_default());
        return Err(Failure::new(Exit::Damaged, text));
    }
    if !expected.is_empty() && expected != content_hash {
        let text = format!("the bytes that arrived hash to {content_hash}, the file's hash is {expected}");
        return Err(Failure::new(Exit::Damaged, text));
    }
    Ok(Downloaded { verified: !expected.is_empty(), bytes, content_hash })
}

/// The place of a file that is not whole yet: beside its target, named by the revision, so that only the same bytes are
/// ever added to it.
pub fn part_path(target: &Path, rev: &str) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let whole = format!("{name}.{rev}.part");
    // Most file systems stop at 255 bytes.
    if whole.len() <= 255 {
        return target.with_file_name(whole);
    }
    let mut hash = ContentHash::default();
    hash.update(name.as_bytes());
    target.with_file_name(format!("{}.{rev}.part", &hash.finish()[..16]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(offset: i64, data: &'static [u8]) -> DownloadChunk {
        DownloadChunk { offset, data: data.into(), crc32c: crc_fast::crc32_iscsi(data) }
    }

    async fn against(own: &[u8], chunks: &[DownloadChunk]) -> Result<()> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(&file, own).expect("written");
        let opened = File::open(file.path()).await.expect("opened");
        let mut landing = Landing::new(file.path(), Sink::Against(opened, Vec::new()));
        for chunk in chunks {
            landing.take(chunk).await?;
        }
        landing.close().await
    }

    #[tokio::test]
    async fn a_comparison_sees_every_difference() {
        against(b"abcd", &[chunk(0, b"ab"), chunk(2, b"cd")]).await.expect("the same");
        against(b"", &[]).await.expect("nothing is nothing");
        for (own, chunks) in [
            (&b"abxd"[..], [chunk(0, b"ab"), chunk(2, b"cd")]),
            (b"abc", [chunk(0, b"ab"), chunk(2, b"cd")]),
            (b"abcde", [chunk(0, b"ab"), chunk(2, b"cd")]),
            (b"abcd", [chunk(0, b"ab"), chunk(3, b"cd")]),
            (b"abcd", [chunk(0, b"ab"), DownloadChunk { crc32c: 1, ..chunk(2, b"cd") }]),
        ] {
            assert!(against(own, &chunks).await.is_err(), "{own:?}");
        }
    }

    #[test]
    fn a_part_lies_beside_its_target_and_its_name_stays_short() {
        assert_eq!(part_path(Path::new("/a/b.txt"), "01"), Path::new("/a/b.txt.01.part"));
        let long = part_path(&Path::new("/a").join("é".repeat(127)), "0123456789abcdef01");
        assert!(long.file_name().expect("a name").len() <= 255 && long.starts_with("/a"));
    }
}
