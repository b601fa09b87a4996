//! Sends a file and goes on after breaks, by the steps of `UploadFile`'s comment. The file is read once as it goes out,
//! hashed on the way, and never held whole; what was sent before a break is read again for the hash only.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{Bytes, BytesMut};
use futures::{Stream, stream};
use tokio::{
    fs::File,
    io::{AsyncRead, AsyncReadExt as _},
};
use tonic::Status;
use tonic_types::StatusExt as _;

use crate::api::v1::{
    GetUploadStatusRequest, StartUploadRequest, UploadChunk, UploadFileRequest, UploadFileResponse, UploadFinish,
    UploadSpec, UploadState, item, upload_file_request::Frame,
};

use super::{
    client::{ATTEMPTS_MAX, Client, Repeat, repeated, to_wire},
    content_hash::ContentHash,
    exit::{Exit, Failure, Result, repeat_after},
    kept::Kept,
    progress::Meter,
};

/// Bytes of one chunk: what the server recommends (PERFORMANCE rule 8).
const CHUNK_BYTES: usize = 1024 * 1024;
/// Files from this size on are started so that they can be resumed from their first byte. Smaller ones go in one
/// stream and again whole: an extra round trip would cost them more than a repeat does.
pub const RESUMABLE_FROM_BYTES: u64 = 8 * 1024 * 1024;

/// What was sent.
#[derive(Debug)]
pub struct Uploaded {
    pub response: UploadFileResponse,
    /// Content hash of the local bytes.
    pub content_hash: String,
    /// Bytes a former run had sent.
    pub resumed_from: u64,
}

/// Where an upload goes on.
enum Standing {
    From(u64),
    Committed(Box<UploadFileResponse>),
}

impl Client {
    /// Uploads the file at `path`, of `size` bytes, and resumes as often as it makes headway. `kept` carries the handle
    /// over runs.
    ///
    /// # Errors
    /// As the RPC; a file that cannot be read or changes meanwhile.
    pub async fn upload(
        &self,
        path: &Path,
        size: u64,
        spec: UploadSpec,
        mut kept: Option<Kept>,
        meter: &Meter,
    ) -> Result<Uploaded> {
        let spec = UploadSpec { total_size: Some(to_wire(size)), ..spec };
        // A plain stream may be repeated whole only if the same content is not written twice by that.
        let repeatable = !spec.autorename && !spec.strict_conflict;
        let mut handle = kept.as_ref().and_then(Kept::upload_id).map(str::to_owned);
        let mut from = 0;
        if let Some(id) = &handle {
            match self.standing(id).await {
                Ok(Standing::From(offset)) => from = offset,
                // The file may have been replaced since: what a finished run left behind says nothing about now.
                Ok(Standing::Committed(_)) => handle = None,
                Err(failure) if failure.exit == Exit::Unavailable => return Err(failure),
                Err(_) => handle = None,
            }
        }
        if handle.is_none() && size >= RESUMABLE_FROM_BYTES {
            handle = Some(self.start_upload(&spec).await?);
        }
        if let (Some(kept), Some(id)) = (&mut kept, &handle) {
            kept.keep(id);
        }
        let resumed_from = from;
        meter.resumed(&path.to_string_lossy(), from, size);
        let mut attempt = 0;
        loop {
            let opening = match &handle {
                Some(id) => Frame::ResumeUploadId(id.clone()),
                None => Frame::Spec(spec.clone()),
            };
            let source = Source::open(path, size, from, meter).await?;
            let outcome = self.upload_once(opening, source).await?;
            let status = match outcome {
                Ok((response, content_hash)) => {
                    kept.iter_mut().for_each(Kept::forget);
                    return committed(response).map(|response| Uploaded { response, content_hash, resumed_from });
                }
                Err(status) => status,
            };
            let details = status.get_error_details();
            let told = details.error_info().and_then(|told| told.metadata.get("uploadId").cloned());
            let Some(delay) = repeat_after(&status, repeatable || handle.is_some() || told.is_some(), attempt) else {
                // What the server refused for good is not tried again by the next run either.
                if details.error_info().is_some() {
                    kept.iter_mut().for_each(Kept::forget);
                }
                return Err(status.into());
            };
            if attempt >= ATTEMPTS_MAX {
                return Err(status.into());
            }
            tokio::time::sleep(delay).await;
            attempt += 1;
            handle = told.or(handle);
            if let Some(id) = &handle {
                kept.iter_mut().for_each(|kept| kept.keep(id));
                match self.standing(id).await? {
                    Standing::From(offset) if offset > from => (from, attempt) = (offset, 0),
                    Standing::From(offset) => from = offset,
                    Standing::Committed(response) => {
                        kept.iter_mut().for_each(Kept::forget);
                        let content_hash = hash_file(path, size).await?;
                        require_same(&response, &content_hash)?;
                        meter.at(size);
                        return Ok(Uploaded { response: *response, content_hash, resumed_from });
                    }
                }
            }
        }
    }

    /// Uploads what can be read only once. It cannot be resumed.
    ///
    /// # Errors
    /// As the RPC; a source that cannot be read.
    pub async fn upload_once_through(
        &self,
        reader: impl AsyncRead + Send + Unpin + 'static,
        spec: UploadSpec,
        meter: &Meter,
    ) -> Result<UploadFileResponse> {
        let source = Source {
            reader: Box::new(reader),
            path: PathBuf::from("standard input"),
            size: None,
            offset: 0,
            hash: ContentHash::default(),
            meter: meter.clone(),
        };
        match self.upload_once(Frame::Spec(spec), source).await? {
            Ok((response, _)) => committed(response),
            Err(status) => Err(status.into()),
        }
    }

    async fn start_upload(&self, spec: &UploadSpec) -> Result<String> {
        let request = StartUploadRequest {
            spec: Some(spec.clone()),
            request_id: uuid::Uuid::new_v4().to_string(),
            ..Default::default()
        };
        let started = repeated(Repeat::Free, async || self.data().start_upload(request.clone()).await).await?;
        Ok(started.upload_id)
    }

    async fn standing(&self, upload_id: &str) -> Result<Standing> {
        let request = GetUploadStatusRequest { upload_id: upload_id.to_owned(), ..Default::default() };
        let status = repeated(Repeat::Free, async || self.data().get_upload_status(request.clone()).await).await?;
        Ok(match status.state() {
            UploadState::Committed => Standing::Committed(Box::new(UploadFileResponse {
                state: UploadState::Committed.into(),
                item: status.item,
                persisted_offset: status.persisted_offset,
                ..Default::default()
            })),
            _ => Standing::From(u64::try_from(status.persisted_offset).unwrap_or(0)),
        })
    }

    /// One stream. The outer error is ours (the file), the inner one the server's.
    async fn upload_once(
        &self,
        opening: Frame,
        source: Source,
    ) -> Result<Result<(UploadFileResponse, String), Status>> {
        let end = Arc::new(Mutex::new(End::Under));
        let answer = self.data().upload_file(frames(opening, source, end.clone())).await;
        let end = std::mem::replace(&mut *end.lock().unwrap_or_else(PoisonError::into_inner), End::Under);
        match (answer, end) {
            (_, End::Broken(failure)) => Err(failure),
            (Ok(response), End::Sent(hash)) => Ok(Ok((response.into_inner(), hash))),
            // The server may answer before it has everything: the target had that content already.
            (Ok(response), End::Under) => Ok(Ok((response.into_inner(), String::new()))),
            (Err(status), _) => Ok(Err(status)),
        }
    }
}

/// How the sending side ended.
enum End {
    Under,
    Sent(String),
    Broken(Failure),
}

/// The file as it is read.
struct Source {
    reader: Box<dyn AsyncRead + Send + Unpin>,
    path: PathBuf,
    size: Option<u64>,
    offset: u64,
    hash: ContentHash,
    meter: Meter,
}

impl Source {
    /// Opens the file and hashes what lies before `from`.
    async fn open(path: &Path, size: u64, from: u64, meter: &Meter) -> Result<Source> {
        let wrong = |error: io::Error| Failure::local(path, &error);
        let mut file = File::open(path).await.map_err(wrong)?;
        let hash = hash_head(&mut file, path, from.min(size)).await?;
        meter.at(from);
        Ok(Source {
            reader: Box::new(file),
            path: path.into(),
            size: Some(size),
            offset: from,
            hash,
            meter: meter.clone(),
        })
    }

    /// The next piece; empty at the end.
    async fn read(&mut self) -> Result<Bytes> {
        let left = self.size.map_or(u64::MAX, |size| size.saturating_sub(self.offset));
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        let mut piece = BytesMut::with_capacity(wanted);
        while piece.len() < wanted {
            let room = (wanted - piece.len()) as u64;
            let got = (&mut self.reader).take(room).read_buf(&mut piece).await;
            match got {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => return Err(Failure::local(&self.path, &error)),
            }
        }
        if piece.len() < wanted && self.size.is_some() {
            return Err(self.changed());
        }
        if wanted == 0 && self.size.is_some() && self.reader.read_u8().await.is_ok() {
            return Err(self.changed());
        }
        self.hash.update(&piece);
        self.offset += piece.len() as u64;
        self.meter.at(self.offset);
        Ok(piece.freeze())
    }

    fn changed(&self) -> Failure {
        Failure::new(Exit::Conflict, format!("{} changed while it was read", self.path.display()))
            .remedy("nothing was written; run it again when the file is at rest")
    }
}

/// What comes next on the stream.
enum Step {
    Opening(Frame),
    Chunk { first: bool },
    Done,
}

/// The frames of an upload: opening, chunks, finish. A source that breaks ends the stream without `finish`, so nothing
/// is committed.
fn frames(opening: Frame, source: Source, end: Arc<Mutex<End>>) -> impl Stream<Item = UploadFileRequest> + Send {
    stream::unfold((Step::Opening(opening), source, end), async |(step, mut source, end)| {
        let set = |value: End| *end.lock().unwrap_or_else(PoisonError::into_inner) = value;
        let (frame, next) = match step {
            Step::Opening(frame) => (frame, Step::Chunk { first: true }),
            Step::Done => return None,
            Step::Chunk { first } => {
                let offset = source.offset;
                match source.read().await {
                    Err(failure) => {
                        set(End::Broken(failure));
                        return None;
                    }
                    Ok(data) if data.is_empty() => {
                        let hash = std::mem::take(&mut source.hash).finish();
                        set(End::Sent(hash.clone()));
                        let finish = UploadFinish { content_hash: hash, total_size: Some(to_wire(source.offset)) };
                        (Frame::Finish(finish), Step::Done)
                    }
                    Ok(data) => {
                        let chunk = UploadChunk {
                            write_offset: first.then(|| to_wire(offset)),
                            crc32c: Some(crc_fast::crc32_iscsi(&data)),
                            data,
                        };
                        (Frame::Chunk(chunk), Step::Chunk { first: false })
                    }
                }
            }
        };
        Some((UploadFileRequest { frame: Some(frame), ..Default::default() }, (next, source, end)))
    })
}

fn committed(response: UploadFileResponse) -> Result<UploadFileResponse> {
    match response.state() {
        UploadState::Committed => Ok(response),
        state => {
            Err(Failure::new(Exit::Failed, format!("the server answered {} to the whole file", state.as_str_name())))
        }
    }
}

/// What was committed while nobody listened is the file as it is now.
fn require_same(response: &UploadFileResponse, content_hash: &str) -> Result<()> {
    let kind = response.item.as_ref().and_then(|item| item.kind.as_ref());
    match kind {
        Some(item::Kind::File(file)) if !file.content_hash.is_empty() && file.content_hash != content_hash => {
            let text = "the file changed while it was sent: what is committed is the file as it was before";
            Err(Failure::new(Exit::Failed, text))
        }
        _ => Ok(()),
    }
}

/// Content hash of a whole local file.
///
/// # Errors
/// It cannot be read to `size`.
pub async fn hash_file(path: &Path, size: u64) -> Result<String> {
    let mut file = File::open(path).await.map_err(|error| Failure::local(path, &error))?;
    Ok(hash_head(&mut file, path, size).await?.finish())
}

/// Hash of the next `bytes` of a file, which is left behind them.
pub async fn hash_head(file: &mut File, path: &Path, bytes: u64) -> Result<ContentHash> {
    let mut hash = ContentHash::default();
    let mut piece = BytesMut::with_capacity(CHUNK_BYTES);
    let mut left = bytes;
    while left > 0 {
        piece.clear();
        let got = file.take(left.min(CHUNK_BYTES as u64)).read_buf(&mut piece).await;
        match got.map_err(|error| Failure::local(path, &error))? {
            0 => return Err(Failure::new(Exit::Conflict, format!("{} is shorter than it was", path.display()))),
            got => left -= got as u64,
        }
        hash.update(&piece);
    }
    Ok(hash)
}
