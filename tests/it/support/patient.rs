//! A client whose calls have a deadline that the server alone keeps. Tonic's own client keeps it too: what a server says 50 ms
//! before the end comes too late on a busy machine, and its caller then hears nothing of why.

use std::{
    net::SocketAddr,
    task::{Context, Poll},
};

use dropbox_connector::api::v1::{
    dropbox_admin_connector_client::DropboxAdminConnectorClient, dropbox_connector_client::DropboxConnectorClient,
};
use futures::{FutureExt as _, future::BoxFuture};
use http::{Request, Response, Uri};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tonic::body::Body;

use super::House;

/// One connection.
#[derive(Debug, Clone)]
pub struct Patient(http2::SendRequest<Body>);

async fn connect(address: SocketAddr) -> (Patient, Uri) {
    let socket = tokio::net::TcpStream::connect(address).await.expect("connect");
    let (sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await.expect("a connection of HTTP/2");
    tokio::spawn(connection);
    (Patient(sender), format!("http://{address}").parse().expect("uri"))
}

impl tower::Service<Request<Body>> for Patient {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.0.send_request(request).boxed()
    }
}

pub async fn client_at(data: SocketAddr) -> DropboxConnectorClient<Patient> {
    let (patient, origin) = connect(data).await;
    DropboxConnectorClient::with_origin(patient, origin)
}

impl House {
    pub async fn patient(&self) -> DropboxConnectorClient<Patient> {
        client_at(self.addresses.data).await
    }

    pub async fn patient_admin(&self) -> DropboxAdminConnectorClient<Patient> {
        let (patient, origin) = connect(self.addresses.admin).await;
        DropboxAdminConnectorClient::with_origin(patient, origin)
    }
}
