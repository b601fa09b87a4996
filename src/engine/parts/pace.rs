//! The clocks of an upload: how long its caller has been silent, and how slow it is while others wait for memory. They run
//! only while a frame is waited for.

use std::time::{Duration, SystemTime};

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
            if let Some(frame) = self.frames.next().now_or_never() {
                self.idle = Duration::ZERO;
                return frame.transpose();
            }
            let wait = (self.rules.idle_max - self.idle).min(PACE_WINDOW - self.pace.read);
            let alarm = self.clock.sleep(wait);
            let since = self.clock.now();
            let _waiting = Waiting { clock: &self.clock, since, clocks: [&mut self.idle, &mut self.pace.read] };
            tokio::select! {
                biased;
                frame = self.frames.next() => {
                    drop(_waiting);
                    self.idle = Duration::ZERO;
                    return frame.transpose();
                }
                () = alarm => {}
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

/// Adds the time it lived to its clocks, also when the wait is cancelled.
struct Waiting<'a> {
    clock: &'a SharedClock,
    since: SystemTime,
    clocks: [&'a mut Duration; 2],
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let span = self.clock.now().duration_since(self.since).unwrap_or_default();
        for clock in &mut self.clocks {
            **clock += span;
        }
    }
}
