//! Accepted connections that can be cut. From the moment of the cut reads and writes fail, which ends a connection and
//! every call on it at once, also one whose caller neither reads nor leaves.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll},
};

use futures::{Stream, TryStreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

/// The same connections, until `cut` is cancelled.
pub fn cuttable<S>(
    accepted: impl Stream<Item = io::Result<S>> + Send + 'static,
    cut: CancellationToken,
) -> impl Stream<Item = io::Result<Line<S>>> + Send + 'static
where
    S: Send + 'static,
{
    accepted.map_ok(move |stream| Line { stream, cut: cut.clone(), waiting: Box::pin(cut.clone().cancelled_owned()) })
}

/// One connection.
pub struct Line<S> {
    stream: S,
    cut: CancellationToken,
    /// Wakes a reader that waits for its caller.
    waiting: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<S> Line<S> {
    fn check(&self) -> io::Result<()> {
        if self.cut.is_cancelled() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "cut: the process ends"));
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Line<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_pending() && self.waiting.as_mut().poll(context).is_ready() {
            self.check()?;
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Line<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<S: Connected> Connected for Line<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> S::ConnectInfo {
        self.stream.connect_info()
    }
}

impl<S: fmt::Debug> fmt::Debug for Line<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("stream", &self.stream).finish_non_exhaustive()
    }
}
