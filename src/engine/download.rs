//! A ranged body → pieces in order. A body that breaks is taken up again at the same revision; the whole is checked by hash.
//! Pieces are forwarded as they come from the wire: one range needs no block. Ranges ahead of it take blocks without waiting.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use dropbox_sdk::{
    files::{DownloadArg, ExportArg, FileMetadata, GetMetadataArg, Metadata},
    sharing::{FileLinkMetadata, GetSharedLinkMetadataArg, SharedLinkMetadata},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::AbortOnDropHandle;

use super::{
    blocks::{Block, Blocks, Tally},
    content_hash::ContentHash,
    stream_hash::StreamHasher,
};
use crate::{
    dropbox::{Body, ByteRange, Caller, routes},
    fault::{Fault, Reason, Result},
    limits,
};

/// What is read.
#[derive(Debug, Clone)]
pub enum Source {
    /// A path, `id:` or `ns:` path.
    Path(String),
    SharedLink {
        url: String,
        path: Option<String>,
        password: Option<String>,
    },
}

/// One download, as the caller asked for it; fields already checked for form.
#[derive(Debug, Clone)]
pub struct DownloadRequest {
    pub source: Source,
    pub rev: Option<String>,
    /// Negative: from the end.
    pub offset: i64,
    /// 0: to the end.
    pub limit: u64,
    pub chunk_bytes: usize,
    /// Used when the item cannot be downloaded as it is.
    pub export_format: Option<String>,
    /// 1: one range. More: that many, the ones ahead in blocks of the budget.
    pub parallel_ranges: usize,
}

/// What Dropbox said of the item that is being read.
#[derive(Debug, Clone)]
pub enum Subject {
    File(Box<FileMetadata>),
    Link(Box<FileLinkMetadata>),
}

impl Subject {
    pub fn rev(&self) -> &str {
        match self {
            Subject::File(file) => &file.rev,
            Subject::Link(link) => &link.rev,
        }
    }

    pub fn name(&self) -> &str {
        match self {
            Subject::File(file) => &file.name,
            Subject::Link(link) => &link.name,
        }
    }

    fn size(&self) -> u64 {
        match self {
            Subject::File(file) => file.size,
            Subject::Link(link) => link.size,
        }
    }
}

/// The first message of a download.
#[derive(Debug, Clone)]
pub struct Header {
    pub subject: Subject,
    /// Bytes of the whole file or export.
    pub total_size: u64,
    pub range_start: u64,
    /// Exclusive.
    pub range_end: u64,
    pub content_type: String,
    /// Set when this is an export; the name it would be saved under.
    pub export_name: Option<String>,
}

/// Bytes at their place in the file.
#[derive(Debug)]
pub struct Piece {
    pub offset: u64,
    pub bytes: Bytes,
}

/// The last message of a download that came through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trailer {
    pub bytes_sent: u64,
    /// Of the whole file, when it was read from 0 to its end.
    pub content_hash: Option<ContentHash>,
    /// The hash equals the one Dropbox gave for this revision.
    pub verified: bool,
}

/// Admits downloads and opens them.
#[derive(Debug, Clone)]
pub struct Downloads {
    slots: Arc<Semaphore>,
    blocks: Blocks,
    /// Blocks of ranges ahead, of all downloads.
    ahead: Tally,
}

/// A download under way. Dropping it drops the request to Dropbox.
#[derive(Debug)]
pub struct Download {
    pub header: Header,
    reader: Reader,
    hasher: Option<StreamHasher>,
    /// Once all was given.
    found: Option<ContentHash>,
    expected: Option<ContentHash>,
    chunk_bytes: usize,
    rest: Bytes,
    sent: u64,
    _slot: OwnedSemaphorePermit,
}

/// The bytes of one range, in order, whatever happens to the connection.
#[derive(Debug)]
struct Reader {
    caller: Caller,
    pin: Pin,
    next: u64,
    end: u64,
    body: Option<Ranged>,
    /// Where `body` ends; further ranges follow.
    body_end: u64,
    resumes_left: u32,
    ahead: VecDeque<Ahead>,
    parallel: usize,
    blocks: Blocks,
    tally: Tally,
}

/// A range ahead of the one being read.
#[derive(Debug)]
struct Ahead {
    start: u64,
    end: u64,
    filling: AbortOnDropHandle<Result<Bytes>>,
}

/// How the same bytes are asked for again.
#[derive(Debug, Clone)]
enum Pin {
    /// `rev:…`: cannot change under us.
    Rev(String),
    /// Cannot be pinned: each answer must show this revision and size.
    Link { arg: GetSharedLinkMetadataArg, rev: String, size: u64 },
    /// An export has no ranges: a break ends it.
    None,
}

impl Downloads {
    pub fn new(open_max: usize, blocks: Blocks) -> Downloads {
        Downloads { slots: Arc::new(Semaphore::new(open_max)), blocks, ahead: Tally::default() }
    }

    /// Asks Dropbox for the item and returns when its header is known.
    ///
    /// # Errors
    /// `PATH_NOT_FOUND`, `NOT_A_FILE`, `NOT_DOWNLOADABLE`, `RESTRICTED_CONTENT`, `READ_OFFSET_BEYOND_END`, `REVISION_GONE`,
    /// `INVALID_FIELD` (a range of an export), `CONNECTOR_BUSY`, link rows of the error table, common ones.
    pub async fn open(&self, caller: &Caller, request: DownloadRequest) -> Result<Download> {
        let slot = self.slots.clone().try_acquire_owned().map_err(|_| {
            Fault::new(Reason::ConnectorBusy, "too many downloads are open").retry_after(limits::BUSY_RETRY)
        })?;
        let begun = match &request.source {
            Source::Path(path) => match begin_file(caller, path, &request).await {
                Err(fault) if fault.reason() == Reason::NotDownloadable => match &request.export_format {
                    Some(_) => begin_export(caller, path, &request).await,
                    None => Err(with_formats(caller, path, fault).await),
                },
                begun => begun,
            },
            Source::SharedLink { url, path, password } => {
                begin_link(caller, link_arg(url, path.as_deref(), password.as_deref()), &request).await
            }
        }?;
        let Begun { header, body, body_end, pin, expected } = begun;
        let whole = header.range_start == 0 && header.range_end == header.total_size;
        let hasher = whole.then(|| StreamHasher::new(self.blocks.clone(), header.total_size));
        let parallel = if matches!(pin, Pin::Rev(_)) { request.parallel_ranges } else { 1 };
        let reader = Reader {
            caller: caller.clone(),
            pin,
            next: header.range_start,
            end: header.range_end,
            body,
            body_end,
            resumes_left: limits::DOWNLOAD_RESUMES_MAX,
            ahead: VecDeque::new(),
            parallel,
            blocks: self.blocks.clone(),
            tally: self.ahead.clone(),
        };
        Ok(Download {
            header,
            reader,
            hasher,
            found: None,
            expected,
            chunk_bytes: request.chunk_bytes,
            rest: Bytes::new(),
            sent: 0,
            _slot: slot,
        })
    }
}

impl Download {
    /// The next bytes, at most `chunk_bytes` of them; `None` when all were given and, if the whole file was read, its hash
    /// is the one Dropbox names.
    ///
    /// # Errors
    /// `CONTENT_HASH_MISMATCH`, `CONTENT_CHANGED`, `REVISION_GONE`; what broke the body, when it cannot be taken up again.
    pub async fn next(&mut self) -> Result<Option<Piece>> {
        if self.rest.is_empty() {
            match self.reader.next().await? {
                Some(bytes) => {
                    if let Some(hasher) = &mut self.hasher {
                        hasher.update(&bytes).await;
                    }
                    self.rest = bytes;
                }
                None => {
                    self.check().await?;
                    return Ok(None);
                }
            }
        }
        let bytes = self.rest.split_to(self.chunk_bytes.min(self.rest.len()));
        let offset = self.header.range_start + self.sent;
        self.sent += bytes.len() as u64;
        Ok(Some(Piece { offset, bytes }))
    }

    async fn check(&mut self) -> Result<()> {
        let Some(hasher) = self.hasher.take() else { return Ok(()) };
        let found = hasher.finish().await;
        self.found = Some(found);
        let Some(expected) = &self.expected else { return Ok(()) };
        if found == *expected {
            return Ok(());
        }
        Err(Fault::new(
            Reason::ContentHashMismatch,
            "the bytes received are not the ones Dropbox names for this revision",
        )
        .fact("expectedContentHash", expected)
        .fact("computedContentHash", found))
    }

    /// The proof, to be sent after [`Download::next`] said `None`.
    pub fn trailer(self) -> Trailer {
        // A hash that differs from the one expected has failed the download.
        let verified = self.found.is_some() && self.expected.is_some();
        Trailer { bytes_sent: self.sent, content_hash: self.found, verified }
    }
}

struct Begun {
    header: Header,
    body: Option<Ranged>,
    body_end: u64,
    pin: Pin,
    expected: Option<ContentHash>,
}

async fn begin_file(caller: &Caller, path: &str, request: &DownloadRequest) -> Result<Begun> {
    let mut pinned = request.rev.as_ref().map_or_else(|| path.to_owned(), |rev| format!("rev:{rev}"));
    let gone = |fault| if request.rev.is_some() { revision_gone(fault) } else { fault };
    // A negative offset is resolved by us: what Dropbox makes of one beyond the start is not documented.
    let start = match u64::try_from(request.offset) {
        Ok(start) => start,
        Err(_) => {
            let file = file_at(caller, &pinned).await.map_err(gone)?;
            pinned = format!("rev:{}", file.rev);
            file.size.saturating_sub(request.offset.unsigned_abs())
        }
    };
    let head_bytes = if request.parallel_ranges > 1 {
        match request.limit {
            0 => limits::BLOCK_BYTES as u64,
            limit => limit.min(limits::BLOCK_BYTES as u64),
        }
    } else {
        request.limit
    };
    let range = match (start, head_bytes) {
        (0, 0) => None,
        (start, 0) => Some(ByteRange::From(start)),
        (start, bytes) => Some(ByteRange::Between(start, start.saturating_add(bytes - 1))),
    };
    let answer = match caller.download(&routes::DOWNLOAD, &DownloadArg::new(pinned.clone()), range).await {
        Ok(answer) => answer,
        Err(fault) if range.is_some() && is_range_refusal(&fault) => {
            // Nothing to send from there: an empty file, or an offset at or beyond the end.
            let file = file_at(caller, &pinned).await.map_err(gone)?;
            let header = file_header(file, start, request.limit, None)?;
            let expected = hash_of(&header.subject);
            return Ok(Begun { body: None, body_end: header.range_start, pin: Pin::None, expected, header });
        }
        Err(fault) => return Err(gone(fault)),
    };
    let header = file_header(answer.value, start, request.limit, answer.content_type)?;
    let partial = answer.status == 206;
    let body = Ranged::new(answer.body, if partial { 0 } else { header.range_start });
    let body_end = match range {
        Some(ByteRange::Between(_, last)) if partial => header.range_end.min(last.saturating_add(1)),
        _ => header.range_end,
    };
    let pin = Pin::Rev(header.subject.rev().to_owned());
    let expected = hash_of(&header.subject);
    Ok(Begun { header, body: Some(body), body_end, pin, expected })
}

/// What could be asked for instead, if Dropbox says so.
async fn with_formats(caller: &Caller, path: &str, fault: Fault) -> Fault {
    let Ok(FileMetadata { export_info: Some(export), .. }) = file_at(caller, path).await else { return fault };
    let mut formats = export.export_options.unwrap_or_default();
    formats.extend(export.export_as.filter(|default| !formats.contains(default)));
    if formats.is_empty() { fault } else { fault.fact("exportFormats", formats.join(",")) }
}

async fn begin_export(caller: &Caller, path: &str, request: &DownloadRequest) -> Result<Begun> {
    let wrong = [
        ("read_offset", request.offset != 0),
        ("read_limit", request.limit != 0),
        ("rev", request.rev.is_some()),
        ("parallel_ranges", request.parallel_ranges > 1),
    ];
    let violations: Vec<_> = wrong.iter().filter(|(_, set)| *set).collect();
    if !violations.is_empty() {
        let fault = Fault::new(Reason::InvalidField, "an export has no ranges and no revisions");
        return Err(violations.iter().fold(fault, |fault, (field, _)| {
            fault.violation(*field, "NOT_FOR_EXPORTS", "must not be set where export_format is used")
        }));
    }
    let mut arg = ExportArg::new(path.to_owned());
    arg.export_format = request.export_format.clone().filter(|format| !format.is_empty());
    let answer = caller.download(&routes::EXPORT, &arg, None).await?;
    let export = answer.value.export_metadata;
    let expected = export.export_hash.as_deref().and_then(|hash| hash.parse().ok());
    let header = Header {
        subject: Subject::File(Box::new(answer.value.file_metadata)),
        total_size: export.size,
        range_start: 0,
        range_end: export.size,
        content_type: content_type(answer.content_type, &export.name),
        export_name: Some(export.name),
    };
    Ok(Begun { body: Some(Ranged::new(answer.body, 0)), body_end: header.range_end, pin: Pin::None, expected, header })
}

async fn begin_link(caller: &Caller, arg: GetSharedLinkMetadataArg, request: &DownloadRequest) -> Result<Begun> {
    let start = match u64::try_from(request.offset) {
        Ok(start) => start,
        Err(_) => {
            let link = caller.call(&routes::GET_SHARED_LINK_METADATA, &arg).await?.value;
            file_link(link)?.size.saturating_sub(request.offset.unsigned_abs())
        }
    };
    let range = match (start, request.limit) {
        (0, 0) => None,
        (start, 0) => Some(ByteRange::From(start)),
        (start, limit) => Some(ByteRange::Between(start, start.saturating_add(limit - 1))),
    };
    let answer = match caller.download(&routes::GET_SHARED_LINK_FILE, &arg, range).await {
        Ok(answer) => answer,
        Err(fault) if range.is_some() && is_range_refusal(&fault) => {
            let link = file_link(caller.call(&routes::GET_SHARED_LINK_METADATA, &arg).await?.value)?;
            let header = link_header(link, start, request.limit, None)?;
            return Ok(Begun { body: None, body_end: header.range_start, pin: Pin::None, expected: None, header });
        }
        Err(fault) => return Err(fault),
    };
    let header = link_header(file_link(answer.value)?, start, request.limit, answer.content_type)?;
    let body = Ranged::new(answer.body, if answer.status == 206 { 0 } else { header.range_start });
    let pin = Pin::Link { arg, rev: header.subject.rev().to_owned(), size: header.subject.size() };
    Ok(Begun { body: Some(body), body_end: header.range_end, pin, expected: None, header })
}

impl Reader {
    /// The next bytes of the range. A break is mended here, out of the caller's sight.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.next >= self.end {
                return Ok(None);
            }
            self.reach_ahead();
            if self.body.is_none() {
                match self.ahead.pop_front() {
                    Some(segment) if segment.start == self.next => match segment.filling.await {
                        Ok(Ok(bytes)) => {
                            self.next = segment.end;
                            return Ok(Some(bytes));
                        }
                        // The part that did not come is read again as the head, with the head's patience.
                        Ok(Err(fault)) if fault.retry_delay().is_none() => return Err(fault),
                        _ => self.reopen(segment.end).await?,
                    },
                    _ => self.reopen(self.end_of_head()).await?,
                }
            }
            let Some(body) = &mut self.body else { continue };
            match body.next().await {
                Some(Ok(bytes)) if bytes.is_empty() => {}
                Some(Ok(mut bytes)) => {
                    // A 200 where a part was asked for goes on beyond it; the rest is not ours.
                    bytes.truncate(usize::try_from(self.body_end - self.next).unwrap_or(usize::MAX));
                    self.next += bytes.len() as u64;
                    if self.next >= self.body_end {
                        self.body = None;
                    }
                    return Ok(Some(bytes));
                }
                Some(Err(fault)) => self.mend(fault)?,
                None => self.mend(Fault::new(Reason::DropboxUnavailable, "the body ended before its length"))?,
            }
        }
    }

    /// Drops the broken body, so that the next turn opens it again; gives up after a number of breaks.
    fn mend(&mut self, fault: Fault) -> Result<()> {
        self.body = None;
        if self.resumes_left == 0 || matches!(self.pin, Pin::None) {
            return Err(fault.with_reason(Reason::DropboxUnavailable).retry_after(limits::BUSY_RETRY));
        }
        self.resumes_left -= 1;
        metrics::counter!(crate::telemetry::TRANSFER_RESUMED, "direction" => "download").increment(1);
        Ok(())
    }

    fn end_of_head(&self) -> u64 {
        let until = if self.parallel > 1 { self.next + limits::BLOCK_BYTES as u64 } else { self.end };
        self.ahead.front().map_or(until, |ahead| ahead.start).min(self.end)
    }

    async fn reopen(&mut self, end: u64) -> Result<()> {
        self.body = Some(open_range(&self.caller, &self.pin, self.next, end).await?);
        self.body_end = end;
        Ok(())
    }

    /// Starts ranges ahead of the head while blocks are to be had without waiting.
    fn reach_ahead(&mut self) {
        while self.ahead.len() + 1 < self.parallel {
            let start = self
                .ahead
                .back()
                .map_or_else(|| if self.body.is_some() { self.body_end } else { self.next }, |ahead| ahead.end);
            if start >= self.end || (self.body.is_none() && self.ahead.is_empty()) {
                return;
            }
            // A caller who stops reading keeps its ranges: all of them together never keep uploads from their blocks.
            if self.tally.held() >= self.blocks.budget_bytes() / limits::BLOCK_BYTES / limits::AHEAD_SHARE {
                return;
            }
            let Some(block) = self.blocks.more(self.ahead.len()) else { return };
            let block = block.counted(&self.tally);
            let end = self.end.min(start + limits::BLOCK_BYTES as u64);
            let filling = tokio::spawn(fill(self.caller.clone(), self.pin.clone(), start, end, block));
            self.ahead.push_back(Ahead { start, end, filling: AbortOnDropHandle::new(filling) });
        }
    }
}

async fn fill(caller: Caller, pin: Pin, start: u64, end: u64, mut block: Block) -> Result<Bytes> {
    let mut body = open_range(&caller, &pin, start, end).await?;
    let wanted = usize::try_from(end - start).unwrap_or(limits::BLOCK_BYTES);
    while block.len() < wanted {
        let cut = || {
            Fault::new(Reason::DropboxUnavailable, "the body ended before its length").retry_after(limits::BUSY_RETRY)
        };
        let bytes = body.next().await.ok_or_else(cut)??;
        block.extend_from_slice(&bytes[..bytes.len().min(wanted - block.len())]);
    }
    Ok(block.freeze())
}

/// A body from `start`, of the pinned content, whatever status the server chose.
async fn open_range(caller: &Caller, pin: &Pin, start: u64, end: u64) -> Result<Ranged> {
    let range = (start > 0 || end > start).then(|| ByteRange::Between(start, end.saturating_sub(1)));
    match pin {
        Pin::None => Err(Fault::bug("an export was to be resumed")),
        Pin::Rev(rev) => {
            let arg = DownloadArg::new(format!("rev:{rev}"));
            let answer = caller.download(&routes::DOWNLOAD, &arg, range).await.map_err(revision_gone)?;
            Ok(Ranged::new(answer.body, if answer.status == 206 { 0 } else { start }))
        }
        Pin::Link { arg, rev, size } => {
            let answer = match caller.download(&routes::GET_SHARED_LINK_FILE, arg, range).await {
                // It was longer before.
                Err(fault) if is_range_refusal(&fault) => return Err(content_changed().source(fault)),
                answer => answer?,
            };
            let same =
                matches!(&answer.value, SharedLinkMetadata::File(link) if link.rev == *rev && link.size == *size);
            if !same || (answer.status != 206 && start > 0) {
                return Err(content_changed());
            }
            Ok(Ranged::new(answer.body, 0))
        }
    }
}

/// A body that begins where it was asked to, also when the server sent the whole file instead of a part.
#[derive(Debug)]
struct Ranged {
    body: Body,
    skip: u64,
}

impl Ranged {
    fn new(body: Body, skip: u64) -> Ranged {
        Ranged { body, skip }
    }

    async fn next(&mut self) -> Option<Result<Bytes>> {
        loop {
            match self.body.next().await {
                Some(Ok(mut bytes)) if self.skip > 0 => {
                    let drop = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
                    self.skip -= drop as u64;
                    let rest = bytes.split_off(drop);
                    if !rest.is_empty() {
                        return Some(Ok(rest));
                    }
                }
                next => return next,
            }
        }
    }
}

async fn file_at(caller: &Caller, path: &str) -> Result<FileMetadata> {
    match caller.call(&routes::GET_METADATA, &GetMetadataArg::new(path.to_owned())).await?.value {
        Metadata::File(file) => Ok(file),
        _ => Err(Fault::new(Reason::NotAFile, "the path names a folder").resource("dropbox.item", path)),
    }
}

fn file_header(file: FileMetadata, start: u64, limit: u64, upstream: Option<String>) -> Result<Header> {
    let content_type = content_type(upstream, &file.name);
    let (range_start, range_end) = bounds(file.size, start, limit)?;
    let total_size = file.size;
    Ok(Header {
        subject: Subject::File(Box::new(file)),
        total_size,
        range_start,
        range_end,
        content_type,
        export_name: None,
    })
}

fn link_header(link: FileLinkMetadata, start: u64, limit: u64, upstream: Option<String>) -> Result<Header> {
    let content_type = content_type(upstream, &link.name);
    let (range_start, range_end) = bounds(link.size, start, limit)?;
    let total_size = link.size;
    Ok(Header {
        subject: Subject::Link(Box::new(link)),
        total_size,
        range_start,
        range_end,
        content_type,
        export_name: None,
    })
}

fn bounds(size: u64, start: u64, limit: u64) -> Result<(u64, u64)> {
    if start > size {
        return Err(Fault::new(
            Reason::ReadOffsetBeyondEnd,
            format!("read_offset {start} is beyond the file's end at {size}"),
        )
        .fact("size", size)
        .violation("read_offset", "OUT_OF_RANGE", format!("must be at most {size}")));
    }
    let end = if limit == 0 { size } else { size.min(start.saturating_add(limit)) };
    Ok((start, end))
}

fn hash_of(subject: &Subject) -> Option<ContentHash> {
    match subject {
        Subject::File(file) => file.content_hash.as_deref().and_then(|hash| hash.parse().ok()),
        Subject::Link(_) => None,
    }
}

fn file_link(link: SharedLinkMetadata) -> Result<FileLinkMetadata> {
    match link {
        SharedLinkMetadata::File(link) => Ok(link),
        _ => Err(Fault::new(Reason::NotAFile, "the shared link leads to a folder: set path to a file in it")),
    }
}

fn link_arg(url: &str, path: Option<&str>, password: Option<&str>) -> GetSharedLinkMetadataArg {
    let mut arg = GetSharedLinkMetadataArg::new(url.to_owned());
    arg.path = path.map(str::to_owned);
    arg.link_password = password.map(str::to_owned);
    arg
}

fn content_changed() -> Fault {
    Fault::new(Reason::ContentChanged, "the file behind the link changed while it was read")
}

fn is_range_refusal(fault: &Fault) -> bool {
    fault.reason() == Reason::ReadOffsetBeyondEnd
}

fn revision_gone(fault: Fault) -> Fault {
    match fault.reason() {
        Reason::PathNotFound => Fault::new(Reason::RevisionGone, "this revision of the file is gone").source(fault),
        _ => fault,
    }
}

/// What Dropbox says, or what the name says where Dropbox only says "bytes".
fn content_type(upstream: Option<String>, name: &str) -> String {
    match upstream {
        Some(named) if !named.starts_with("application/octet-stream") && !named.is_empty() => named,
        _ => mime_guess::from_path(name).first_or_octet_stream().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_at_the_end_and_refused_beyond_it() {
        assert_eq!(bounds(10, 0, 0).expect("whole"), (0, 10));
        assert_eq!(bounds(10, 4, 100).expect("cut"), (4, 10));
        assert_eq!(bounds(10, 10, 0).expect("empty"), (10, 10));
        assert_eq!(bounds(0, 0, 0).expect("empty file"), (0, 0));
        assert_eq!(bounds(10, 11, 0).expect_err("beyond").reason(), Reason::ReadOffsetBeyondEnd);
    }

    #[test]
    fn the_content_type_is_guessed_only_where_dropbox_does_not_say() {
        assert_eq!(content_type(Some("text/markdown; charset=utf-8".into()), "a.pdf"), "text/markdown; charset=utf-8");
        assert_eq!(content_type(Some("application/octet-stream".into()), "a.pdf"), "application/pdf");
        assert_eq!(content_type(None, "no-extension"), "application/octet-stream");
    }
}
