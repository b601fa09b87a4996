//! What lies between a socket and HTTP: TLS where certificates are given, and a line that is only so fast and loses something.

use std::{
    io,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use super::loss::Segments;
use crate::emulator::{Error, TlsFiles};

/// How far ahead of its rate a connection may be: timers fire a millisecond late, and what was lost by that is made up for.
const AHEAD: Duration = Duration::from_millis(5);

/// Bytes that go at once, in parts of a second.
const STEPS: u64 = 100;

/// # Errors
/// A file that cannot be read, or holds no certificate or key.
pub(super) fn server_config(files: &TlsFiles) -> Result<Arc<ServerConfig>, Error> {
    let wrong = |path: &Path, text: String| Error::Tls { path: path.to_owned(), text };
    let read = |path: &Path| std::fs::read(path).map_err(|error| wrong(path, error.to_string()));
    let (certificate, key) = (&files.certificate, &files.key);
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(certificate)?).collect();
    let chain = chain.map_err(|error| wrong(certificate, error.to_string()))?;
    let private = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|error| wrong(key, error.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(certificate, error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| wrong(certificate, error.to_string()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// A connection that reads and writes no faster than so many bytes a second each way, and loses some of them. What the kernel
/// holds for either side comes on top, as on a real line.
#[derive(Debug)]
pub(super) struct Paced<S> {
    inner: S,
    reads: Direction,
    writes: Direction,
    /// What is done to the socket before it is let go of because the line reset it.
    cut: fn(&S),
    is_cut: bool,
}

impl<S> Paced<S> {
    /// `losses` of what comes and of what goes.
    pub fn new(inner: S, bytes_per_second: Option<u64>, losses: Option<[Segments; 2]>, cut: fn(&S)) -> Paced<S> {
        let [reads, writes] = losses.map_or([None, None], |both| both.map(Some));
        let direction = |losses| Direction { pace: bytes_per_second.map(Pace::new), losses };
        Paced { inner, reads: direction(reads), writes: direction(writes), cut, is_cut: false }
    }

    /// What is left of a poll of either direction: once one of them is reset, both are.
    fn allow(&mut self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(polled, Poll::Ready(Err(_))) && !self.is_cut {
            self.is_cut = true;
            (self.cut)(&self.inner);
        }
        if self.is_cut { Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())) } else { polled }
    }
}

/// One direction.
#[derive(Debug)]
struct Direction {
    pace: Option<Pace>,
    losses: Option<Segments>,
}

impl Direction {
    fn is_free(&self) -> bool {
        self.pace.is_none() && self.losses.is_none()
    }

    /// The most that may go now.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut most = usize::MAX;
        if let Some(losses) = &mut self.losses {
            most = std::task::ready!(losses.poll(context))?;
        }
        if let Some(pace) = &mut self.pace {
            most = most.min(std::task::ready!(pace.poll(context)));
        }
        Poll::Ready(Ok(most))
    }

    fn went(&mut self, bytes: usize) {
        if let Some(losses) = &mut self.losses {
            losses.went(bytes);
        }
        if let Some(pace) = &mut self.pace {
            pace.went(bytes);
        }
    }
}

/// How fast one direction is.
#[derive(Debug)]
struct Pace {
    rate: u64,
    /// When all that has gone is through.
    through: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl Pace {
    fn new(rate: u64) -> Pace {
        let now = Instant::now();
        Pace { rate: rate.max(1), through: now, sleep: Box::pin(tokio::time::sleep_until(now)) }
    }

    /// The most that may go now.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<usize> {
        let now = Instant::now();
        if self.through > now {
            self.sleep.as_mut().reset(self.through);
            std::task::ready!(self.sleep.as_mut().poll(context));
        }
        Poll::Ready(usize::try_from((self.rate / STEPS).max(1)).unwrap_or(usize::MAX))
    }

    fn went(&mut self, bytes: usize) {
        let floor = Instant::now().checked_sub(AHEAD);
        let from = floor.map_or(self.through, |floor| self.through.max(floor));
        self.through = from + Duration::from_secs_f64(bytes as f64 / self.rate as f64);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.reads.is_free() {
            return Pin::new(&mut this.inner).poll_read(context, buffer);
        }
        let polled = this.reads.poll(context);
        let most = std::task::ready!(this.allow(polled))?.min(buffer.remaining());
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(most));
        std::task::ready!(Pin::new(&mut this.inner).poll_read(context, &mut part))?;
        let read = part.filled().len();
        this.reads.went(read);
        buffer.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.writes.is_free() {
            return Pin::new(&mut this.inner).poll_write(context, bytes);
        }
        let polled = this.writes.poll(context);
        let most = std::task::ready!(this.allow(polled))?.min(bytes.len());
        let wrote = std::task::ready!(Pin::new(&mut this.inner).poll_write(context, &bytes[..most]))?;
        this.writes.went(wrote);
        Poll::Ready(Ok(wrote))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.writes.is_free() {
            return Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        }
        let first = slices.iter().find(|slice| !slice.is_empty()).map_or(&[][..], |slice| slice);
        self.poll_write(context, first)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_paced_connection_takes_the_time_its_rate_says_each_way() {
        const RATE: u64 = 1_000_000;
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut paced = Paced::new(near, Some(RATE), None, |_| ());
        let bytes = vec![7u8; 200_000];
        let begin = Instant::now();
        paced.write_all(&bytes).await.expect("room for all of it");
        // The last step is sent without waiting behind it.
        assert!(begin.elapsed() >= Duration::from_millis(180), "{:?}", begin.elapsed());
        let mut back = vec![0; bytes.len()];
        far.read_exact(&mut back).await.expect("all of it");
        assert!(back == bytes);
        far.write_all(&bytes).await.expect("room for all of it");
        let begin = Instant::now();
        paced.read_exact(&mut back).await.expect("all of it");
        assert!(begin.elapsed() >= Duration::from_millis(180), "{:?}", begin.elapsed());
        assert!(back == bytes);
    }
}
