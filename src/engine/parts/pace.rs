//! The clocks of an upload: how long its caller has been silent, and how slow it is while others wait for memory. They run
//! only while a frame is waited for, and not while the caller is held back.

use std::time::Duration;

use futures::{FutureExt as _, Stream, StreamExt as _};
use tokio::task::coop::consume_budget;

use super::{Frame, PartCutter};
use crate::{
    clock::SharedClock,
    fault::{Fault, Reason, Result},
    limits::{PACE_BYTES, PACE_RETRY, PACE_WINDOW},
};

/// Reading time and bytes of the present window.
#[derive(Default)]
pub(super) struct Pace {
    pub(super) read: Duration,
    pub(super) bytes: u64,
}

impl<S: Stream<Item = Result<Frame>> + Unpin + Send> PartCutter<S> {
    /// The next frame. The clocks of idleness and pace run here and nowhere else.
    pub(super) async fn pull(&mut self) -> Result<Option<Frame>> {
        // A stream that is always ready must not keep the thread.
        consume_budget().await;
        loop {
            self.judge()?;
            let frame = match self.frames.next().now_or_never() {
                Some(frame) => frame,
                None => {
                    let wait = (self.rules.idle_max - self.idle).min(PACE_WINDOW - self.pace.read);
                    let alarm = self.clock.sleep(self.held_back + wait);
                    let since = self.clock.steady();
                    let (held_back, clocks) = (&mut self.held_back, [&mut self.idle, &mut self.pace.read]);
                    let _waiting = Waiting { clock: &self.clock, since, held_back, clocks };
                    tokio::select! {
                        biased;
                        frame = self.frames.next() => frame,
                        () = alarm => continue,
                    }
                }
            };
            (self.idle, self.held_back) = (Duration::ZERO, Duration::ZERO);
            match frame.transpose()? {
                Some(Frame::HeldBack(span)) => self.held_back = span,
                frame => return Ok(frame),
            }
        }
    }

    pub(super) fn judge(&mut self) -> Result<()> {
        if self.idle >= self.rules.idle_max {
            let text = format!("nothing came for {} s", self.rules.idle_max.as_secs());
            return Err(Fault::new(Reason::UploadIdle, text).retry_after(Duration::ZERO));
        }
        if self.pace.read >= PACE_WINDOW {
            let pace = std::mem::take(&mut self.pace);
            if pace.bytes < PACE_BYTES && self.blocks.waiting() > 0 {
                return Err(Fault::new(
                    Reason::ConnectorBusy,
                    "the upload was too slow while others waited for memory; go on later",
                )
                .fact("limit", "transfer_buffer_mib")
                .retry_after(PACE_RETRY));
            }
        }
        Ok(())
    }
}

/// Adds the time it lived to its clocks, but for what the caller was held back; also when the wait is cancelled.
struct Waiting<'a> {
    clock: &'a SharedClock,
    since: Duration,
    held_back: &'a mut Duration,
    clocks: [&'a mut Duration; 2],
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let span = self.clock.steady().saturating_sub(self.since);
        let ours = span.min(*self.held_back);
        *self.held_back -= ours;
        for clock in &mut self.clocks {
            **clock += span - ours;
        }
    }
}
