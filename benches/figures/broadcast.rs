//! The floor of watches: a bare gRPC server, tonic and a broadcast channel, that gives all its streams the same bytes and knows
//! nothing of tokens, filters or callers. This binary starts itself as that server, in a process of its own.

use std::{
    convert::Infallible,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
    task::{Context, Poll},
};

use dropbox_connector::api::{
    Codec, Encoded,
    plain::{WatchEventsResponse, watch_events_response::Payload},
    v1 as api,
};
use futures::{
    FutureExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use prost::Message as _;
use tokio::{net::TcpListener, sync::broadcast};
use tokio_stream::wrappers::{BroadcastStream, TcpListenerStream};
use tonic::{
    Request, Response, Status,
    body::Body,
    server::{Grpc, NamedService, ServerStreamingService},
    transport::Server,
};

use crate::{
    Outcome, fail,
    process::{Client, connected, cpu_seconds},
    watches::FOLDER,
};

/// The first argument of a run as the server; the second is the size of its messages.
pub const FLAG: &str = "--bare-watches";
/// Messages that a stream may be behind.
const BEHIND: usize = 64;
/// As many as the connector takes.
const STREAMS_MAX: u32 = 1024;

/// The server, seen from the one who measures it.
pub struct Broadcast {
    child: Child,
    input: ChildStdin,
    address: String,
}

impl Broadcast {
    /// Its messages are this long.
    pub fn start(bytes: usize) -> Outcome<Broadcast> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([FLAG, &bytes.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (input, output) = (child.stdin.take().expect("piped above"), child.stdout.take().expect("piped above"));
        let mut server = Broadcast { child, input, address: String::new() };
        BufReader::new(output).read_line(&mut server.address)?;
        match server.address.trim().is_empty() {
            true => fail("the bare server did not start".to_owned()),
            false => Ok(server),
        }
    }

    pub async fn client(&self) -> Outcome<Client> {
        connected(self.address.trim()).await
    }

    /// Tells all streams a message.
    pub fn tell(&mut self) -> Outcome<()> {
        Ok(self.input.write_all(b"\n")?)
    }

    pub fn cpu_seconds(&self) -> Outcome<f64> {
        cpu_seconds(&self.child.id().to_string())
    }
}

impl Drop for Broadcast {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The inside of that process: tells its address, then its streams a message for each line that it reads.
pub fn inside(bytes: &str) -> Outcome<()> {
    let message = message(bytes.parse()?);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (tell, _) = broadcast::channel(BEHIND);
    let watches = Watches { tell: tell.clone() };
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    println!("{}", listener.local_addr()?);
    std::io::stdout().flush()?;
    let incoming = TcpListenerStream::new(listener).inspect(|stream| {
        let _ = stream.as_ref().map(|stream| stream.set_nodelay(true));
    });
    runtime.spawn(
        Server::builder().max_concurrent_streams(STREAMS_MAX).add_service(watches).serve_with_incoming(incoming),
    );
    for line in std::io::stdin().lines() {
        line?;
        let _ = tell.send(message.clone());
    }
    Ok(())
}

/// A change with an item like the connector's, whose message has this many bytes by its token.
fn message(bytes: usize) -> Encoded {
    let now = prost_types::Timestamp::from(std::time::SystemTime::now());
    let path = format!("{FOLDER}/invoice of a customer with a long name 001000.pdf");
    let file = api::FileItem {
        id: "id:AAAAAAAAAAAAAAAAAAAAAA".to_owned(),
        rev: "0123456789abcdef01234".to_owned(),
        size: 1,
        content_hash: "0".repeat(64),
        client_modified: Some(now),
        server_modified: Some(now),
        is_downloadable: true,
        ..api::FileItem::default()
    };
    let item = api::Item {
        kind: Some(api::item::Kind::File(file)),
        name: path.rsplit('/').next().unwrap_or_default().to_owned(),
        path_lower: path.clone(),
        path_display: path,
        ..api::Item::default()
    };
    let of = |token: usize| WatchEventsResponse {
        resume_token: "t".repeat(token),
        payload: Some(Payload::Change(api::ChangeEvent { item: Some(item.clone()), ..api::ChangeEvent::default() })),
    };
    let mut token = 0;
    while of(token).encoded_len() < bytes {
        token += 1;
    }
    Encoded::from(&of(token))
}

#[derive(Clone)]
struct Watches {
    tell: broadcast::Sender<Encoded>,
}

impl NamedService for Watches {
    const NAME: &'static str = "dropboxconnector.v1.DropboxConnector";
}

impl tower::Service<http::Request<Body>> for Watches {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let watches = self.clone();
        async move { Ok(Grpc::new(Codec::default()).server_streaming(watches, request).await) }.boxed()
    }
}

impl ServerStreamingService<api::WatchEventsRequest> for Watches {
    type Response = Encoded;
    type ResponseStream = BoxStream<'static, Result<Encoded, Status>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, _: Request<api::WatchEventsRequest>) -> Self::Future {
        let told = BroadcastStream::new(self.tell.subscribe());
        let told = told.map(|told| told.map_err(|behind| Status::data_loss(behind.to_string())));
        let ready =
            WatchEventsResponse { payload: Some(Payload::Ready(api::WatchReady {})), ..WatchEventsResponse::default() };
        let ready = stream::iter([Ok(Encoded::from(&ready))]);
        std::future::ready(Ok(Response::new(ready.chain(told).boxed()))).boxed()
    }
}
