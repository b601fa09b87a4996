//! An upload whose bytes are all there: a stream can only finish it.

use std::{sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _};

use super::{
    Account, Outcome, Shared, Writing, at,
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
    engine::parts::{Frame, Track},
    fault::{Fault, Reason, Result},
};

impl Shared {
    /// Waits for `finish`, then commits; a deferred upload stays as it is.
    #[expect(clippy::too_many_arguments, reason = "one call site; a struct of them would only be taken apart again")]
    pub(super) async fn only_finish<S>(
        self: &Arc<Self>,
        caller: &Caller,
        account: &Account<'_>,
        mut record: Record,
        whole: Whole,
        doubt: Doubt,
        writing: &Writing,
        frames: S,
    ) -> Result<Outcome>
    where
        S: Stream<Item = Result<Frame>> + Send + Unpin,
    {
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
        let outcome = match self.finish_frame(caller, whole, writing, frames).await {
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

    /// What `finish` asks to be committed; `None`: the stream ended without it.
    async fn finish_frame<S>(
        &self,
        caller: &Caller,
        mut whole: Whole,
        writing: &Writing,
        mut frames: S,
    ) -> Result<Option<Whole>>
    where
        S: Stream<Item = Result<Frame>> + Send + Unpin,
    {
        let (mut held_back, mut track) = (Duration::ZERO, Track::default());
        loop {
            let frame = tokio::select! {
                biased;
                () = writing.taken_over() => return Err(taken_over_fault()),
                frame = frames.next() => frame,
                () = at(caller.deadline()) => return Err(overdue(false)),
                () = self.clock.sleep(held_back + self.settings.idle) => return Err(silent(self.settings.idle)),
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
