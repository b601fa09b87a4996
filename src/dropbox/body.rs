//! Bodies both ways. Out: pieces already in memory, with their exact length, sent again without a copy. In: the pieces
//! as they come from the connection, with a bound on the silence between two of them.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http_body::{Frame, SizeHint};
use tokio::{
    sync::Notify,
    time::{Instant, Sleep},
};

use super::pace::Permit;
use crate::{
    fault::{Fault, Reason, Result},
    limits,
};

/// What a request has given to its connection so far.
#[derive(Debug, Default)]
pub(super) struct Progress {
    begun: OnceLock<Instant>,
    bytes: AtomicU64,
    /// The body is dropped: sent to its end, or its connection is closed.
    gone: Notify,
}

impl Progress {
    /// Whether any of the body was taken, and with it the head.
    pub(super) fn begun(&self) -> bool {
        self.begun.get().is_some()
    }

    /// When it began to leave.
    pub(super) fn since(&self) -> Option<Instant> {
        self.begun.get().copied()
    }

    /// For a request without a body, which nobody can watch leave.
    pub(super) fn begin(&self) {
        self.begun.get_or_init(Instant::now);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    /// Until the body is dropped.
    pub(super) async fn let_go(&self) {
        self.gone.notified().await;
    }
}

/// A request body over pieces in memory.
#[derive(Debug)]
pub(super) struct Pieces {
    pieces: Vec<Bytes>,
    /// Of `pieces`; the current one shrinks as it goes.
    next: usize,
    left: u64,
    progress: Arc<Progress>,
}

impl Pieces {
    pub(super) fn new(pieces: &[Bytes], progress: Arc<Progress>) -> Pieces {
        let left = pieces.iter().map(|piece| piece.len() as u64).sum();
        Pieces { pieces: pieces.to_vec(), next: 0, left, progress }
    }
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        this.progress.begin();
        while let Some(piece) = this.pieces.get_mut(this.next) {
            if piece.is_empty() {
                this.next += 1;
                continue;
            }
            let frame = piece.split_to(piece.len().min(limits::SEND_PIECE_BYTES));
            this.left -= frame.len() as u64;
            this.progress.bytes.fetch_add(frame.len() as u64, Ordering::AcqRel);
            return Poll::Ready(Some(Ok(Frame::data(frame))));
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        self.progress.gone.notify_one();
    }
}

/// The content of a download. Dropping it drops the connection; nothing is read ahead of the reader.
pub struct Body {
    inner: reqwest::Body,
    idle_read: Duration,
    silence: Pin<Box<Sleep>>,
    /// The caller's.
    deadline: Option<Pin<Box<Sleep>>>,
    ended: bool,
    route: String,
    request_id: Option<String>,
    /// The place in the account's queue, free when the body is gone.
    _permit: Permit,
}

impl Body {
    pub(super) fn new(
        inner: reqwest::Body,
        idle_read: Duration,
        deadline: Option<std::time::Instant>,
        route: String,
        request_id: Option<String>,
        permit: Permit,
    ) -> Body {
        Body {
            inner,
            idle_read,
            silence: Box::pin(tokio::time::sleep(idle_read)),
            deadline: deadline.map(|at| Box::pin(tokio::time::sleep_until(at.into()))),
            ended: false,
            route,
            request_id,
            _permit: permit,
        }
    }

    /// The next piece, as the connection gave it; `None` at the end.
    ///
    /// # Errors
    /// `DROPBOX_UNAVAILABLE` when the body breaks off, `UPSTREAM_TIMEOUT` when it falls silent, `DEADLINE_EXCEEDED`.
    /// After an error there is nothing more.
    pub async fn next(&mut self) -> Option<Result<Bytes>> {
        StreamExt::next(self).await
    }

    fn fault(&mut self, reason: Reason, message: &str) -> Fault {
        self.ended = true;
        let fault = Fault::new(reason, message).fact("dropboxRoute", &self.route);
        match &self.request_id {
            Some(id) => fault.fact("dropboxRequestId", id),
            None => fault,
        }
    }
}

impl Stream for Body {
    type Item = Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        loop {
            match http_body::Body::poll_frame(Pin::new(&mut this.inner), context) {
                Poll::Ready(None) => {
                    this.ended = true;
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(Ok(frame))) => {
                    this.silence.as_mut().reset(Instant::now() + this.idle_read);
                    match frame.into_data() {
                        Ok(data) if data.is_empty() => continue,
                        Ok(data) => return Poll::Ready(Some(Ok(data))),
                        Err(_) => continue,
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    let fault = this
                        .fault(Reason::DropboxUnavailable, "the content broke off before its end")
                        .retry_after(limits::BACKOFF_STEP)
                        .source(error.without_url());
                    return Poll::Ready(Some(Err(fault)));
                }
                Poll::Pending => {
                    if let Some(deadline) = &mut this.deadline
                        && deadline.as_mut().poll(context).is_ready()
                    {
                        let fault = this.fault(Reason::DeadlineExceeded, "the deadline passed during the download");
                        return Poll::Ready(Some(Err(fault)));
                    }
                    ready!(this.silence.as_mut().poll(context));
                    let fault = this
                        .fault(Reason::UpstreamTimeout, "Dropbox sent nothing more for too long")
                        .fact("phase", "idle_read")
                        .retry_after(limits::BACKOFF_STEP);
                    return Poll::Ready(Some(Err(fault)));
                }
            }
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("route", &self.route).field("ended", &self.ended).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn pieces_go_out_in_order_with_their_exact_length_and_can_go_out_again() {
        let pieces = [Bytes::from(vec![1; limits::SEND_PIECE_BYTES + 1]), Bytes::new(), Bytes::from_static(b"end")];
        let whole: Vec<u8> = pieces.concat();
        for _ in 0..2 {
            let progress = Arc::new(Progress::default());
            let body = Pieces::new(&pieces, progress.clone());
            assert_eq!(http_body::Body::size_hint(&body).exact(), Some(whole.len() as u64));
            assert!(!progress.begun());
            assert_eq!(body.collect().await.expect("memory does not fail").to_bytes(), whole);
            assert!(progress.begun() && progress.bytes() == whole.len() as u64);
        }
    }

    #[test]
    fn an_empty_body_has_ended_before_it_began() {
        let body = Pieces::new(&[Bytes::new()], Arc::default());
        assert!(http_body::Body::is_end_stream(&body));
        assert_eq!(http_body::Body::size_hint(&body).exact(), Some(0));
    }
}
