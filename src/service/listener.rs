//! Connections as they come in: plain TCP, or TLS by what holds when they arrive, after the handshakes of `reception.rs`.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::{Stream, StreamExt as _, TryStreamExt as _};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::{Connected, TcpIncoming};

use super::reception;
use crate::{
    access::{Certificate, tls::Tls},
    limits::WRITE_HELD_BYTES,
};

/// Who is at the other end of a connection. Every request carries it.
#[derive(Debug, Clone)]
pub struct Peer {
    pub remote: Option<SocketAddr>,
    pub certificate: Certificate,
}

/// One connection. It says that it does not write several pieces at once, so that the HTTP/2 library gathers small frames in
/// its buffer; and what it writes is held until everybody else who is ready had a turn, for most of them are streams of the
/// same connection: what a thousand watches are told goes out a dozen events a write instead of one. Of large frames the
/// library writes the beginning by itself, which is held until the rest comes: both are one write, and wait for nobody.
#[derive(Debug)]
pub struct Connection {
    stream: Wire,
    peer: Peer,
    held: Vec<u8>,
    /// Others had a turn since something is held.
    waited: bool,
}

#[derive(Debug)]
enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// What a listener takes in; with `tls` after a handshake each.
pub fn incoming(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
) -> impl Stream<Item = io::Result<Connection>> + Send + 'static {
    let arrived = TcpIncoming::from(listener).with_nodelay(Some(true));
    match tls {
        Some(tls) => reception::received(arrived, tls).left_stream(),
        None => arrived.map_ok(Connection::plain).right_stream(),
    }
}

/// Runs the same on whichever stream it is.
macro_rules! on_wire {
    ($self:ident, $method:ident($($argument:expr),*)) => {
        match &mut $self.get_mut().stream {
            Wire::Plain(stream) => Pin::new(stream).$method($($argument),*),
            Wire::Tls(stream) => Pin::new(stream.as_mut()).$method($($argument),*),
        }
    };
}

impl Connection {
    fn plain(tcp: TcpStream) -> Connection {
        let peer = Peer { remote: tcp.peer_addr().ok(), certificate: Certificate::None };
        Connection { stream: Wire::Plain(tcp), peer, held: Vec::new(), waited: false }
    }

    pub(super) fn over_tls(stream: TlsStream<TcpStream>, peer: Peer) -> Connection {
        Connection { stream: Wire::Tls(Box::new(stream)), peer, held: Vec::new(), waited: false }
    }

    /// Writes what is held, alone.
    fn poll_held(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let held = std::mem::take(&mut self.held);
            let written = self.as_mut().poll_pieces(context, &[io::IoSlice::new(&held)]);
            self.held = held;
            let written = ready!(written)?;
            self.held.drain(..written);
        }
        // Most connections are quiet, and keep no room.
        (self.held, self.waited) = (Vec::new(), false);
        Poll::Ready(Ok(()))
    }

    /// At least one byte.
    fn poll_pieces(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match ready!(on_wire!(self, poll_write_vectored(context, pieces)))? {
            0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            written => Poll::Ready(Ok(written)),
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        on_wire!(self, poll_read(context, into))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.held.len() + bytes.len() <= WRITE_HELD_BYTES {
            self.held.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        while !self.held.is_empty() {
            let held = std::mem::take(&mut self.held);
            let pieces = [io::IoSlice::new(&held), io::IoSlice::new(bytes)];
            let written = self.as_mut().poll_pieces(context, &pieces);
            self.held = held;
            let written = ready!(written)?;
            let of_held = written.min(self.held.len());
            self.held.drain(..of_held);
            if written > of_held {
                self.waited = false;
                return Poll::Ready(Ok(written - of_held));
            }
        }
        on_wire!(self, poll_write(context, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.held.is_empty() && !std::mem::replace(&mut self.waited, true) {
            // A task that wakes itself comes last of those that are ready.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(self.as_mut().poll_held(context))?;
        on_wire!(self, poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_held(context))?;
        on_wire!(self, poll_shutdown(context))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn pair() -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let caller = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Connection::plain(listener.accept().await.unwrap().0), caller)
    }

    #[tokio::test]
    async fn a_small_write_goes_out_with_what_follows_or_when_it_is_to_and_none_is_lost_or_overtaken() {
        let (mut connection, mut caller) = pair().await;
        let large: Vec<u8> = (0..8_u32 << 20).map(|number| (number % 251) as u8).collect();
        let mut read = vec![0; 5];
        connection.write_all(b"first").await.unwrap();
        let nothing = caller.try_read(&mut read).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock, "it is held");
        connection.flush().await.unwrap();
        caller.read_exact(&mut read).await.unwrap();
        assert_eq!(read, b"first");
        // More than the socket takes at once, so that pieces of both are left over again and again.
        let sending = async {
            for _ in 0..3 {
                connection.write_all(b"small").await.unwrap();
                connection.write_all(b" and ").await.unwrap();
                connection.write_all(&large).await.unwrap();
            }
            connection.write_all(b"last").await.unwrap();
            connection.shutdown().await.unwrap();
        };
        let mut all = Vec::new();
        let (_, read) = tokio::join!(sending, caller.read_to_end(&mut all));
        read.unwrap();
        let expected = [b"small and ".as_slice(), &large].concat().repeat(3);
        assert!(all == [expected.as_slice(), b"last"].concat(), "{} bytes came", all.len());
    }
}
