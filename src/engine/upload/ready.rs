//! An upload whose bytes are all there: a stream can only finish it. What it says of them all the same is compared.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use tokio::task::yield_now;

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
        content_hash::{BlockDigest, ContentHash, ContentHasher},
        parts::{Again, Frame, Track, changed, disputed, undamaged, unplaced},
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
    /// A stream before had other bytes than are there, and nobody has said yet which are meant.
    pub disputed: bool,
    pub needs_hash: bool,
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
        let Closed { mut record, whole, doubt, digests, disputed, needs_hash, writing } = *closed;
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
        let mut said = Said::new(whole, digests.as_deref(), needs_hash);
        let finish = tokio::select! {
            biased;
            () = writing.taken_over() => Err(taken_over_fault()),
            finish = said.heard(self, caller, None, frames) => finish,
        };
        if said.is_another {
            hold.dispute().await;
        }
        if let Ok(Some(whole)) = &finish
            && disputed
            && whole.hash.is_some()
            && whole.expected.is_some()
            && let Err(fault) = self.ready(&record, whole.size, true).await
        {
            tracing::debug!(%fault, "an upload that is proven stays in dispute");
        }
        let outcome = match finish {
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
        let settled = settled.proven()?;
        let committed = settled.content_hash.as_deref().and_then(|hash| hash.parse().ok());
        let whole = Whole { size: settled.file.size, hash: committed, expected: None };
        let mut said = Said::new(whole, None, false);
        let heard = said.heard(self, caller, Some(limits::COMMITTED_HEARD), frames).await;
        let heard = match heard {
            Ok(None) if self.draining.is_cancelled() && said.is_heard => return Err(draining()),
            // It waits for the answer, or says no more.
            Ok(None) => said.compare_whole(),
            Err(fault) if matches!(fault.reason(), Reason::UploadIdle | Reason::DeadlineExceeded) => {
                said.compare_whole()
            }
            heard => heard.map(drop),
        };
        match heard {
            Ok(()) => Ok(settled),
            Err(fault) => match fault.reason() {
                Reason::ContentHashMismatch | Reason::SizeMismatch => Err(settled.about(fault)),
                Reason::UploadClosed => Err(settled.about(longer(settled.file.size))),
                _ => Err(fault),
            },
        }
    }
}

/// What a stream says of an upload whose bytes are all there.
struct Said {
    whole: Whole,
    /// What comes again, block by block where these are known; else as a whole.
    again: Option<Box<Again>>,
    from_start: Option<(ContentHasher, u64)>,
    needs_hash: bool,
    /// It means another file than is there.
    is_another: bool,
    /// Bytes came.
    is_heard: bool,
}

impl Said {
    fn new(whole: Whole, digests: Option<&[BlockDigest]>, needs_hash: bool) -> Said {
        let again = Again::new(digests, whole.size);
        let from_start = again.is_none().then(|| (ContentHasher::new(), 0));
        Said { whole, again, from_start, needs_hash, is_another: false, is_heard: false }
    }

    /// What `finish` asks to be committed; `None`: the stream ended without it. `answer_after`: who says nothing for so long waits
    /// for the answer.
    async fn heard<S>(
        &mut self,
        shared: &Shared,
        caller: &Caller,
        answer_after: Option<Duration>,
        mut frames: S,
    ) -> Result<Option<Whole>>
    where
        S: Stream<Item = Result<Frame>> + Send + Unpin,
    {
        let (mut held_back, mut track) = (Duration::ZERO, Track::default());
        let idle = shared.settings.idle;
        let mut quiet = answer_after.map(|span| shared.clock.sleep(span));
        loop {
            let frame = tokio::select! {
                biased;
                frame = frames.next() => frame,
                () = at(caller.deadline()) => return Err(overdue(false)),
                () = async { if let Some(quiet) = &mut quiet { quiet.await } }, if quiet.is_some() => return Err(silent(idle)),
                () = shared.clock.sleep(held_back + idle) => return Err(silent(idle)),
            };
            held_back = Duration::ZERO;
            match frame.transpose()? {
                None => return Ok(None),
                Some(Frame::HeldBack(span)) => held_back = span,
                // It keeps the stream alive, and may wait for the answer all the same.
                Some(Frame::Chunk { bytes, .. }) if bytes.is_empty() => {}
                Some(Frame::Chunk { offset, bytes, crc32c }) => {
                    self.is_heard = true;
                    quiet = answer_after.map(|_| shared.clock.sleep(limits::COMMITTED_HEARD_ON));
                    let start = track.start(offset).ok_or_else(unplaced)?;
                    undamaged(start, &bytes, crc32c)?;
                    let end = start.saturating_add(bytes.len() as u64);
                    if end > self.whole.size {
                        let text = format!("the upload is closed at {} bytes", self.whole.size);
                        return Err(Fault::new(Reason::UploadClosed, text).fact("persistedOffset", self.whole.size));
                    }
                    track.goes_to(end);
                    self.came_again(start, bytes)?;
                    yield_now().await;
                }
                Some(Frame::Finish { content_hash, size }) => return self.finish(track, content_hash, size).map(Some),
            }
        }
    }

    fn came_again(&mut self, start: u64, bytes: Bytes) -> Result<()> {
        if let Some(again) = &mut self.again {
            return again.compare(start, bytes).map(drop).inspect_err(|_| self.is_another = true);
        }
        let Some((hasher, hashed)) = &mut self.from_start else { return Ok(()) };
        if start > *hashed {
            // It begins further on, and nothing is known of what it left out.
            self.from_start = None;
            return Ok(());
        }
        let known = usize::try_from(*hashed - start).unwrap_or(usize::MAX).min(bytes.len());
        hasher.update(&bytes[known..]);
        *hashed += (bytes.len() - known) as u64;
        Ok(())
    }

    /// What came again from the first byte to the last.
    fn compare_whole(&mut self) -> Result<()> {
        let own = self.whole.hash.or(self.whole.expected);
        let came = self.from_start.take().filter(|(_, hashed)| *hashed > 0 && *hashed == self.whole.size);
        if let (Some(own), Some((hasher, _))) = (own, came)
            && hasher.finish() != own
        {
            self.is_another = true;
            return Err(changed(0));
        }
        Ok(())
    }

    fn finish(&mut self, track: Track, content_hash: Option<ContentHash>, size: Option<u64>) -> Result<Whole> {
        let shorter = track.finish(self.whole.size);
        self.is_another |= shorter.is_err() || size.is_some_and(|size| size < self.whole.size);
        if size.is_some_and(|size| size != self.whole.size) {
            let text = format!("total_size differs from the {} bytes of the upload", self.whole.size);
            let fault = Fault::new(Reason::SizeMismatch, text);
            return Err(fault.violation("finish.total_size", "MISMATCH", "not the bytes sent"));
        }
        shorter?;
        self.compare_whole()?;
        let own = self.whole.hash.or(self.whole.expected);
        let whole = Whole { expected: content_hash.or(self.whole.expected), ..self.whole };
        if let (Some(own), Some(expected)) = (own, whole.expected)
            && own != expected
        {
            self.is_another = true;
            return Err(Fault::new(Reason::ContentHashMismatch, "the upload's bytes are not the ones the hash names")
                .fact("expectedContentHash", expected)
                .fact("computedContentHash", own));
        }
        if self.needs_hash && content_hash.is_none() {
            return Err(disputed("finish.content_hash"));
        }
        Ok(whole)
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
