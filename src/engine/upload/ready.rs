//! An upload whose bytes are all there: a stream can only finish it. What it says of them all the same is compared.

use std::{sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _};

use super::{
    Account, Outcome, Settled, Shared, Writing, at,
    commit::{Closing, Whole},
    draining,
    hold::Hold,
    lane::Doubt,
    overdue,
    record::{Record, Stage},
    run::{located, taken_over_fault},
    silent,
};
use crate::{
    dropbox::Caller,
    engine::{
        content_hash::BlockDigest,
        parts::{Again, Frame, Track},
    },
    fault::{Fault, Reason, Result},
    limits,
};

/// An upload that a stream found closed.
pub(super) struct Closed {
    pub record: Record,
    pub whole: Whole,
    pub doubt: Doubt,
    /// Of all its blocks, if they are known.
    pub digests: Option<Vec<BlockDigest>>,
    pub writing: Writing,
}

impl Shared {
    /// Waits for `finish`, then commits; a deferred upload stays as it is.
    pub(super) async fn only_finish<S>(
        self: &Arc<Self>,
        caller: &Caller,
        account: &Account<'_>,
        closed: Box<Closed>,
        frames: S,
    ) -> Result<Outcome>
    where
        S: Stream<Item = Result<Frame>> + Send + Unpin,
    {
        let Closed { mut record, whole, doubt, digests, writing } = *closed;
        let hold = Hold::new(self, &record.handle.id, record.writer, record.stored);
        if record.handle.stage == Stage::Open && doubt.from.is_none() {
            // Of an ordered session it is not said who made it; a commit by itself need not know.
            let stage = if record.handle.parallel { Stage::Closed } else { Stage::Kept };
            record.supersede(self, &account.owner, &whole, stage);
        }
        let upload_id = record.upload_id.clone();
        let is_ready = |whole: Whole| Outcome::Ready {
            upload_id: upload_id.clone(),
            size: whole.size,
            content_hash: whole.hash.or(whole.expected),
        };
        let again = Again::new(digests.as_deref(), whole.size);
        let said = tokio::select! {
            biased;
            () = writing.taken_over() => Err(taken_over_fault()),
            said = self.finish_frame(caller, whole, again, self.settings.idle, frames) => said,
        };
        let outcome = match said {
            Ok(Some(whole)) if record.handle.spec.deferred => {
                hold.end().await;
                Ok(is_ready(whole))
            }
            Ok(Some(whole)) => {
                let closing = Closing { whole, doubt, hold };
                let sent = Arc::default();
                let committed = tokio::select! {
                    biased;
                    settled = self.finish(caller, account, &record, closing, &sent) => settled,
                    () = at(caller.deadline()) => Err(overdue(!sent.withdraw())),
                };
                committed.map(|settled| Outcome::Committed {
                    settled: Box::new(settled),
                    upload_id: Some(upload_id.clone()),
                })
            }
            ended => {
                hold.end().await;
                match ended {
                    Err(fault) => Err(fault),
                    Ok(_) if self.draining.is_cancelled() => Err(draining()),
                    Ok(_) => Ok(is_ready(whole)),
                }
            }
        };
        outcome.map_err(|fault| located(fault, &upload_id, whole.size))
    }

    /// It is committed, and the answer is what it gave. A caller that does not know that yet may still say what it means.
    ///
    /// # Errors
    /// `CONTENT_HASH_MISMATCH`, `SIZE_MISMATCH`, each with `committed`: it means another file. Whatever the frames bring.
    pub(super) async fn only_compare<S>(&self, caller: &Caller, settled: Settled, frames: S) -> Result<Settled>
    where
        S: Stream<Item = Result<Frame>> + Send + Unpin,
    {
        let whole = Whole { size: settled.file.size, hash: None, expected: None };
        match self.finish_frame(caller, whole, None, limits::COMMITTED_HEARD, frames).await {
            Ok(said) => settled.named(said.and_then(|whole| whole.expected)),
            Err(fault) => match fault.reason() {
                // It waits for the answer.
                Reason::UploadIdle | Reason::DeadlineExceeded => settled.named(None),
                Reason::SizeMismatch => Err(settled.about(fault)),
                Reason::UploadClosed => Err(settled.about(longer(settled.file.size))),
                _ => Err(fault),
            },
        }
    }

    /// What `finish` asks to be committed; `None`: the stream ended without it. `patience`: how long nothing may come.
    async fn finish_frame<S>(
        &self,
        caller: &Caller,
        mut whole: Whole,
        mut again: Option<Box<Again>>,
        patience: Duration,
        mut frames: S,
    ) -> Result<Option<Whole>>
    where
        S: Stream<Item = Result<Frame>> + Send + Unpin,
    {
        let (mut held_back, mut track) = (Duration::ZERO, Track::default());
        loop {
            let frame = tokio::select! {
                biased;
                frame = frames.next() => frame,
                () = at(caller.deadline()) => return Err(overdue(false)),
                () = self.clock.sleep(held_back + patience) => return Err(silent(patience)),
            };
            held_back = Duration::ZERO;
            match frame.transpose()? {
                None => return Ok(None),
                Some(Frame::HeldBack(span)) => held_back = span,
                Some(Frame::Chunk { bytes, .. }) if bytes.is_empty() => {}
                Some(Frame::Chunk { offset, bytes, .. }) => {
                    let start = track.start(offset).unwrap_or(whole.size);
                    let end = start.saturating_add(bytes.len() as u64);
                    if end > whole.size {
                        let text = format!("the upload is closed at {} bytes", whole.size);
                        return Err(Fault::new(Reason::UploadClosed, text).fact("persistedOffset", whole.size));
                    }
                    track.goes_to(end);
                    if let Some(again) = &mut again {
                        again.compare(start, bytes)?;
                        tokio::task::yield_now().await;
                    }
                }
                Some(Frame::Finish { content_hash, size }) => {
                    if size.is_some_and(|size| size != whole.size) {
                        let text = format!("total_size differs from the {} bytes of the upload", whole.size);
                        return Err(Fault::new(Reason::SizeMismatch, text).violation(
                            "finish.total_size",
                            "MISMATCH",
                            "not the bytes sent",
                        ));
                    }
                    track.finish(whole.size)?;
                    let own = whole.hash.or(whole.expected);
                    whole.expected = content_hash.or(whole.expected);
                    if let (Some(own), Some(expected)) = (own, whole.expected)
                        && own != expected
                    {
                        return Err(Fault::new(
                            Reason::ContentHashMismatch,
                            "the upload's bytes are not the ones the hash names",
                        )
                        .fact("expectedContentHash", expected)
                        .fact("computedContentHash", own));
                    }
                    return Ok(Some(whole));
                }
            }
        }
    }
}

fn longer(committed: u64) -> Fault {
    Fault::new(
        Reason::SizeMismatch,
        format!("the upload was committed before, with {committed} bytes, and more are sent now"),
    )
    .fact("actualSize", committed)
    .with_remedy("start a new upload: this one is committed, and your file has grown")
}
