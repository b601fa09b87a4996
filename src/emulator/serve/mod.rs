//! The listeners: one for each class of host, HTTP/1.1, and what every request goes through before and after its handler.

mod answer;
pub(in crate::emulator) mod commits;
pub(in crate::emulator) mod listings;
pub(in crate::emulator) mod loss;
mod page;
mod pipeline;
mod request;
mod wire;

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::{Addresses, Error, Host, Options, World};

/// Longest run of headers: `Dropbox-API-Arg` of a batch of 1000 entries is long.
const HEADER_BYTES_MAX: usize = 1 << 20;

/// Ports opened, not served yet.
#[derive(Debug)]
pub(in crate::emulator) struct Bound {
    listeners: Vec<(Host, TcpListener, SocketAddr)>,
    tls: Option<Arc<ServerConfig>>,
}

impl Bound {
    /// # Errors
    /// A port is in use, or there is no TLS with the files given.
    pub async fn open(options: &Options) -> Result<Bound, Error> {
        let tls = options.tls.as_ref().map(wire::server_config).transpose()?;
        let ports = &options.ports;
        let wanted = [
            (Host::Api, ports.api),
            (Host::Content, ports.content),
            (Host::Notify, ports.notify),
            (Host::Www, ports.www),
            (Host::Control, ports.control),
        ];
        let mut listeners = Vec::new();
        for (host, port) in wanted {
            let at = if host == Host::Content { options.content_listen } else { None };
            let address = SocketAddr::new(at.unwrap_or(options.listen), port);
            let failed = |source| Error::Listen { address, source };
            let listener = TcpListener::bind(address).await.map_err(failed)?;
            let address = listener.local_addr().map_err(failed)?;
            listeners.push((host, listener, address));
        }
        Ok(Bound { listeners, tls })
    }

    pub fn addresses(&self) -> Addresses {
        let url = |wanted: Host| {
            let found = self.listeners.iter().find(|(host, ..)| *host == wanted);
            let scheme = if self.tls.is_some() && wanted != Host::Control { "https" } else { "http" };
            found.map_or_else(String::new, |(_, _, address)| format!("{scheme}://{address}"))
        };
        Addresses {
            api: url(Host::Api),
            content: url(Host::Content),
            notify: url(Host::Notify),
            www: url(Host::Www),
            control: url(Host::Control),
        }
    }

    pub fn serve(self, world: Arc<World>) -> Listeners {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for (host, listener, _) in self.listeners {
            let tls = self.tls.clone().filter(|_| host != Host::Control).map(TlsAcceptor::from);
            tasks.spawn(accept(host, listener, tls, world.clone(), stopped.clone()));
        }
        Listeners { stop, tasks }
    }
}

/// Running listeners; dropping them cuts everything.
#[derive(Debug)]
pub(in crate::emulator) struct Listeners {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Listeners {
    /// Work that ends with the listeners.
    pub fn spawn(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        let mut stopped = self.stop.subscribe();
        self.tasks.spawn(async move {
            tokio::select! {
                () = work => {}
                _ = stopped.changed() => {}
            }
        });
    }

    /// Closes the ports and cuts all connections.
    pub async fn stop(mut self) {
        let _ = self.stop.send(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

async fn accept(
    host: Host,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    world: Arc<World>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    let mut losses = loss::Losses::of(host);
    loop {
        tokio::select! {
            _ = stopped.changed() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                // A failed accept (too many open files) heals when connections end.
                let Ok((stream, _)) = accepted else {
                    tokio::task::yield_now().await;
                    continue;
                };
                let _ = stream.set_nodelay(true);
                let switches = world.switches();
                let (rate, loss) = match host {
                    Host::Control => (None, None),
                    _ => (switches.connection_bytes_per_second, switches.loss),
                };
                // Without that the kernel would close it in good order.
                let cut = |stream: &TcpStream| drop(stream.set_zero_linger());
                let stream = wire::Paced::new(stream, rate, losses.next(loss), cut);
                let (world, tls) = (world.clone(), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => converse(&world, host, stream).await,
                        // Who fails the handshake does not trust the certificate, or went away.
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                converse(&world, host, stream).await;
                            }
                        }
                    }
                });
            }
        }
    }
}

/// One connection, to its end.
async fn converse(world: &Arc<World>, host: Host, stream: impl AsyncRead + AsyncWrite + Unpin) {
    let service = service_fn(|request: http::Request<Incoming>| answer_one(world, host, request));
    // An error here is a client that went away, or a cut that the script asked for.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// `Err` closes the connection without an answer.
async fn answer_one(
    world: &Arc<World>,
    host: Host,
    request: http::Request<Incoming>,
) -> Result<http::Response<answer::Body>, io::Error> {
    match host {
        Host::Control => {
            whole(world, request, async |world, request| Ok(super::control::serve(world, request).await)).await
        }
        Host::Www if request.uri().path().starts_with(page::LINKS) => Ok(page::shared_link(world, &request)),
        Host::Www => whole(world, request, async |world, request| Ok(super::oauth::www(world, request).await)).await,
        _ => Box::pin(pipeline::run(world, host, request)).await,
    }
}

/// Answers a request that is small enough to be read whole first.
async fn whole(
    world: &Arc<World>,
    request: http::Request<Incoming>,
    handle: impl AsyncFnOnce(&Arc<World>, http::Request<Bytes>) -> Result<http::Response<Bytes>, Infallible>,
) -> Result<http::Response<answer::Body>, io::Error> {
    let (head, body) = request.into_parts();
    let body = request::read_whole(body, request::RPC_BYTES_MAX).await?;
    let Ok(answer) = match body {
        Some(body) => handle(world, http::Request::from_parts(head, body)).await,
        None => Ok(answer::text(413, "the body is too large")),
    };
    Ok(answer.map(answer::whole))
}
