//! A ranged body → pieces in order. A body that breaks is taken up again at the same revision; one whose caller stops
//! reading is let go and taken up again when it reads on; the whole is checked by hash. Pieces are forwarded as they come
//! from the wire: one range needs no block. Ranges ahead of it take blocks without waiting, and only for a caller that drains
//! what is there.

mod ahead;
mod begin;
mod chunks;
mod drain;
mod flow;
mod line;
mod place;
mod range;
mod reader;
mod stalled;

use std::{
    future::poll_fn,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use dropbox_sdk::{files::FileMetadata, sharing::FileLinkMetadata};

use self::{
    ahead::Aheads,
    begin::Begun,
    chunks::Chunks,
    drain::Drain,
    flow::{Flow, lock},
    place::Places,
    range::Pin,
    reader::{Plan, Reader},
    stalled::{Listed, Stalled},
};
use super::{blocks::Blocks, content_hash::ContentHash, stream_hash::StreamHasher};
use crate::{
    clock::SharedClock,
    dropbox::Caller,
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
    /// 1: one range. More: that many, the ones ahead in blocks of the budget. 0: one, and more if its caller outruns it.
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
    places: Places,
    blocks: Blocks,
    /// Blocks of ranges ahead, of all downloads.
    aheads: Aheads,
    stalled: Arc<Stalled>,
}

/// A download under way. Dropping it drops the request to Dropbox.
#[derive(Debug)]
pub struct Download {
    pub header: Header,
    flow: Arc<Mutex<Flow>>,
    /// Once all was given.
    found: Option<ContentHash>,
    expected: Option<ContentHash>,
    sent: u64,
    _listed: Listed,
}

impl Downloads {
    /// `idle`: how long a caller may leave bytes waiting before its places, here and at Dropbox, are given to others.
    pub fn new(open_max: usize, idle: Duration, blocks: Blocks, clock: SharedClock) -> Downloads {
        let stalled = Arc::new(Stalled::new(idle, clock));
        let left_bytes = blocks.budget_bytes() / limits::LEFT_SHARE;
        Downloads { places: Places::new(open_max, left_bytes), aheads: Aheads::new(blocks.clone()), blocks, stalled }
    }

    /// Asks Dropbox for the item and returns when its header is known.
    ///
    /// # Errors
    /// `PATH_NOT_FOUND`, `NOT_A_FILE`, `NOT_DOWNLOADABLE`, `RESTRICTED_CONTENT`, `READ_OFFSET_BEYOND_END`, `REVISION_GONE`,
    /// `INVALID_FIELD` (a range of an export), `CONNECTOR_BUSY`, link rows of the error table, common ones.
    pub async fn open(&self, parameter: &str, caller: &Caller, request: DownloadRequest) -> Result<Download> {
        let place = self.places.enter(parameter, request.chunk_bytes)?;
        let Begun { header, body, body_end, pin, expected } = begin::begin(caller, &request).await?;
        let whole = header.range_start == 0 && header.range_end == header.total_size;
        let hasher = whole.then(|| StreamHasher::new(self.blocks.clone(), header.total_size));
        let plan = Plan {
            start: header.range_start,
            end: header.range_end,
            drain: Drain::new(if matches!(pin, Pin::Rev(_)) { request.parallel_ranges } else { 1 }),
            chunks: Chunks::new(request.chunk_bytes, self.stalled.idle()),
        };
        let head = body.map(|body| (body, body_end));
        let clock = self.stalled.clock();
        let reader = Reader::new(caller.clone(), pin, plan, head, self.aheads.clone(), clock);
        let flow = Arc::new(Mutex::new(Flow::new(reader, hasher, place)));
        let listed = self.stalled.list(&flow);
        Ok(Download { header, flow, found: None, expected, sent: 0, _listed: listed })
    }

    /// Lets go, again and again, of what callers left waiting for too long. Never ends; drop it to stop.
    pub async fn watch_stalled(&self) -> std::convert::Infallible {
        self.stalled.watch().await
    }
}

impl Download {
    /// The next bytes, at most `chunk_bytes` of them; `None` when all were given and, if the whole file was read, its hash
    /// is the one Dropbox names.
    ///
    /// # Errors
    /// `CONTENT_HASH_MISMATCH`, `CONTENT_CHANGED`, `REVISION_GONE`; `CONNECTOR_BUSY` for one that was left unread until others
    /// had its place; what broke the body, when it cannot be taken up again.
    pub async fn next(&mut self) -> Result<Option<Piece>> {
        match poll_fn(|context| lock(&self.flow).poll_next(context)).await? {
            Some(bytes) => {
                let offset = self.header.range_start + self.sent;
                self.sent += bytes.len() as u64;
                Ok(Some(Piece { offset, bytes }))
            }
            None => {
                self.check()?;
                Ok(None)
            }
        }
    }

    /// The caller gets no more before this span is over, for it may have only so many bytes in a second: it is not its doing.
    pub fn hold_back(&mut self, span: Duration) {
        lock(&self.flow).hold_back(span);
    }

    fn check(&mut self) -> Result<()> {
        let Some(found) = lock(&self.flow).finish() else { return Ok(()) };
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
