//! Connections as they come in: plain TCP, or TLS by what holds when they arrive. A handshake has its own task and a bound
//! on its time, so that nobody who stalls one holds up the others. Who fails it is told to the audit log.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{Stream, StreamExt as _};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::transport::server::{Connected, TcpIncoming};

use super::audit;
use crate::{
    access::{Certificate, tls::Tls},
    limits::{HANDSHAKE_TIMEOUT, HANDSHAKES_MAX},
    telemetry::TLS_HANDSHAKES,
};

/// Who is at the other end of a connection. Every request carries it.
#[derive(Debug, Clone)]
pub struct Peer {
    pub remote: Option<SocketAddr>,
    pub certificate: Certificate,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    stream: Wire,
    peer: Peer,
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
    let opened = arrived.map(move |tcp| {
        let tls = tls.clone();
        async move {
            let tcp = match tcp {
                Ok(tcp) => tcp,
                // The server knows which of these are to be got over.
                Err(error) => return Some(Err(error)),
            };
            let peer = Peer { remote: tcp.peer_addr().ok(), certificate: Certificate::None };
            match tls {
                None => Some(Ok(Connection { stream: Wire::Plain(tcp), peer })),
                // A task of its own: handshakes cost a millisecond of a core each, and all may come at once.
                Some(tls) => tokio::spawn(shake_hands(tcp, peer, tls)).await.ok().flatten().map(Ok),
            }
        }
    });
    opened.buffer_unordered(HANDSHAKES_MAX).filter_map(std::future::ready)
}

async fn shake_hands(tcp: TcpStream, peer: Peer, tls: Arc<Tls>) -> Option<Connection> {
    let accepting = TlsAcceptor::from(tls.server_config()).accept(tcp);
    let outcome = match tokio::time::timeout(HANDSHAKE_TIMEOUT, accepting).await {
        Ok(outcome) => outcome,
        Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
    };
    let told = if outcome.is_ok() { "ok" } else { "failed" };
    metrics::counter!(TLS_HANDSHAKES, "outcome" => told).increment(1);
    match outcome {
        Ok(stream) => {
            let certificate = Certificate::of(stream.get_ref().1);
            Some(Connection { stream: Wire::Tls(Box::new(stream)), peer: Peer { certificate, ..peer } })
        }
        Err(error) => {
            audit::no_handshake(peer.remote, &error);
            None
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
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

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        on_wire!(self, poll_read(context, into))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        on_wire!(self, poll_write(context, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_wire!(self, poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_wire!(self, poll_shutdown(context))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        on_wire!(self, poll_write_vectored(context, pieces))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Wire::Plain(stream) => stream.is_write_vectored(),
            Wire::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
