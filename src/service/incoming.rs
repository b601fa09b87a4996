//! Accepted connections that can be cut. From the moment of the cut reads and writes fail, which ends a connection and
//! every call on it at once, also one whose caller neither reads nor leaves. Until then the last word of a connection reaches
//! its caller: a socket that is closed while bytes of its peer come in, be they but windows, takes back what it has not sent yet.

use std::{
    fmt, io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{Stream, TryStreamExt as _};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use crate::limits::{FAREWELL_IDLE, FAREWELL_MAX};

/// The same connections, until `cut` is cancelled.
pub fn cuttable<S>(
    accepted: impl Stream<Item = io::Result<S>> + Send + 'static,
    cut: CancellationToken,
) -> impl Stream<Item = io::Result<Line<S>>> + Send + 'static
where
    S: Send + 'static,
{
    accepted.map_ok(move |stream| Line::new(stream, cut.clone(), (FAREWELL_IDLE, FAREWELL_MAX)))
}

/// One connection.
pub struct Line<S> {
    stream: S,
    cut: CancellationToken,
    /// Wakes a reader that waits for its caller.
    waiting: Pin<Box<WaitForCancellationFutureOwned>>,
    farewell: Option<Farewell>,
    /// How long a farewell may be silent, and last.
    patience: (Duration, Duration),
}

/// Everything is said; the peer is listened to until it has heard all of it and leaves.
struct Farewell {
    silence: Pin<Box<Sleep>>,
    ends: Instant,
}

impl<S> Line<S> {
    fn new(stream: S, cut: CancellationToken, patience: (Duration, Duration)) -> Line<S> {
        let waiting = Box::pin(cut.clone().cancelled_owned());
        Line { stream, cut, waiting, farewell: None, patience }
    }

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

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Line<S> {
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

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let line = self.get_mut();
        if line.farewell.is_none() {
            ready!(Pin::new(&mut line.stream).poll_shutdown(context))?;
        }
        let (now, (silent, whole)) = (Instant::now(), line.patience);
        let farewell = line.farewell.get_or_insert_with(|| Farewell {
            silence: Box::pin(tokio::time::sleep_until(now + silent)),
            ends: now + whole,
        });
        // Looked at by itself: of a peer that never stops the timer is not asked, as reading takes all of a task's turn.
        if now >= farewell.ends || line.waiting.as_mut().poll(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let mut unwanted = [MaybeUninit::uninit(); 4096];
        loop {
            let mut unwanted = ReadBuf::uninit(&mut unwanted);
            match Pin::new(&mut line.stream).poll_read(context, &mut unwanted) {
                Poll::Ready(Ok(())) if !unwanted.filled().is_empty() => {
                    farewell.silence.as_mut().reset(farewell.ends.min(now + silent));
                }
                // Gone, one way or the other.
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => break,
            }
        }
        farewell.silence.as_mut().poll(context).map(Ok)
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

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    async fn pair(cut: &CancellationToken, patience: (Duration, Duration)) -> (Line<TcpStream>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let caller = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Line::new(listener.accept().await.unwrap().0, cut.clone(), patience), caller)
    }

    #[tokio::test]
    async fn the_last_bytes_reach_a_caller_that_reads_slowly_and_goes_on_talking() {
        let (mut line, mut caller) = pair(&CancellationToken::new(), (LONG, LONG)).await;
        // More than the sockets hold: some of it is sent when the caller has read the first of it.
        let all = vec![7; 16 << 20];
        let sent = all.clone();
        let serving = tokio::spawn(async move {
            line.write_all(&sent).await.unwrap();
            line.shutdown().await.unwrap();
        });
        let mut read = Vec::new();
        let mut piece = vec![0; 256 << 10];
        loop {
            // As HTTP/2 does for whatever is read.
            caller.write_all(b"a window").await.unwrap();
            match caller.read(&mut piece).await.unwrap() {
                0 => break,
                count => read.extend_from_slice(&piece[..count]),
            }
        }
        assert_eq!(read.len(), all.len());
        assert!(!serving.is_finished(), "it listens until the caller leaves");
        drop(caller);
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn a_farewell_ends_by_silence_in_its_time_and_with_the_cut() {
        let (cut, short) = (CancellationToken::new(), Duration::from_millis(100));
        let (mut line, _caller) = pair(&cut, (short, LONG)).await;
        let began = Instant::now();
        line.shutdown().await.unwrap();
        assert!((short..LONG).contains(&began.elapsed()), "{:?}", began.elapsed());

        let (mut line, mut caller) = pair(&cut, (LONG, 5 * short)).await;
        let talk = tokio::spawn(async move { while caller.write_all(&[7; 256 << 10]).await.is_ok() {} });
        let began = Instant::now();
        line.shutdown().await.unwrap();
        assert!((5 * short..LONG).contains(&began.elapsed()), "{:?}", began.elapsed());
        drop(line);
        talk.await.unwrap();

        let (mut line, _caller) = pair(&cut, (LONG, LONG)).await;
        let began = Instant::now();
        let cutting = async {
            tokio::time::sleep(short).await;
            cut.cancel();
        };
        let (shut, ()) = tokio::join!(line.shutdown(), cutting);
        shut.unwrap();
        assert!(began.elapsed() < LONG);
    }
}
