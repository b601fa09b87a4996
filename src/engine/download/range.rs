//! The same bytes asked for again: what a download is pinned to, and bodies that begin where they were asked to.

use std::{
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use dropbox_sdk::{
    files::{DownloadArg, ExportArg},
    sharing::{GetSharedLinkMetadataArg, SharedLinkMetadata},
};
use futures::StreamExt as _;

use crate::{
    dropbox::{Body, ByteRange, Caller, routes},
    fault::{Fault, Reason, Result},
    limits,
};

/// How the same bytes are asked for again.
#[derive(Debug)]
pub(super) enum Pin {
    /// `rev:…`: cannot change under us.
    Rev(String),
    /// Cannot be pinned: each answer must show this revision and size.
    Link { arg: GetSharedLinkMetadataArg, rev: String, size: u64 },
    /// Has no ranges, so a break ends it. One that its caller left waiting is made again: it must have this hash.
    Export { arg: ExportArg, hash: Option<String>, size: u64 },
    /// There is nothing to read.
    Nothing,
}

/// A body from `start`, of the pinned content, whatever status the server chose.
pub(super) async fn open(caller: Caller, pin: Arc<Pin>, start: u64, end: u64) -> Result<Ranged> {
    let range = (start > 0 || end > start).then(|| ByteRange::Between(start, end.saturating_sub(1)));
    match &*pin {
        Pin::Nothing => Err(Fault::bug("more was to be read of nothing")),
        Pin::Export { arg, hash, size } => {
            let answer = caller.download(&routes::EXPORT, arg, None).await?;
            let now = &answer.value.export_metadata;
            if hash.is_none() || now.export_hash != *hash || now.size != *size {
                let text = "the export cannot be taken up where its caller stopped reading: read it again";
                return Err(Fault::new(Reason::DropboxUnavailable, text).retry_after(limits::BUSY_RETRY));
            }
            Ok(Ranged::new(answer.body, start))
        }
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
pub(super) struct Ranged {
    body: Body,
    skip: u64,
}

impl Ranged {
    pub(super) fn new(body: Body, skip: u64) -> Ranged {
        Ranged { body, skip }
    }

    /// The next bytes, as the connection gave them; `None` at the end of the body.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        loop {
            match ready!(self.body.poll_next_unpin(context)) {
                Some(Ok(mut bytes)) if self.skip > 0 => {
                    let drop = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
                    self.skip -= drop as u64;
                    let rest = bytes.split_off(drop);
                    if !rest.is_empty() {
                        return Poll::Ready(Some(Ok(rest)));
                    }
                }
                next => return Poll::Ready(next),
            }
        }
    }
}

fn content_changed() -> Fault {
    Fault::new(Reason::ContentChanged, "the file behind the link changed while it was read")
}

pub(super) fn is_range_refusal(fault: &Fault) -> bool {
    fault.reason() == Reason::ReadOffsetBeyondEnd
}

pub(super) fn revision_gone(fault: Fault) -> Fault {
    match fault.reason() {
        Reason::PathNotFound => Fault::new(Reason::RevisionGone, "this revision of the file is gone").source(fault),
        _ => fault,
    }
}
