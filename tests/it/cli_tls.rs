//! The command line against a server behind TLS: whom it trusts, and how it shows who it is.

use std::{fs, path::Path, process::Command, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::support::{House, PARAMETER, process::BINARY, spec, start, upload};

struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Authority { issuer: CertifiedIssuer::self_signed(params, key).expect("signed by itself") }
    }

    fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        (params.signed_by(&key, &self.issuer).expect("signed"), key)
    }

    /// Its certificate, and one of a client with its key, as files.
    fn write(&self, folder: &Path) {
        let (certificate, key) = self.issue("a client");
        fs::write(folder.join("ca.pem"), self.issuer.pem()).expect("written");
        fs::write(folder.join("client.pem"), certificate.pem()).expect("written");
        fs::write(folder.join("client.key"), key.serialize_pem()).expect("written");
    }
}

/// A TLS door in front of the house's data port, as a proxy or the server itself would have.
async fn door(house: &House, authority: &Authority, wants_clients: bool) -> u16 {
    let (certificate, key) = authority.issue("localhost");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let builder = match wants_clients {
        false => ServerConfig::builder().with_no_client_auth(),
        true => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.issuer.der().clone()).expect("a root");
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().expect("a verifier");
            ServerConfig::builder().with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(vec![certificate.der().clone()], key).expect("a certificate");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let (acceptor, behind) = (TlsAcceptor::from(Arc::new(config)), house.addresses.data);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut outside) = acceptor.accept(stream).await else { return };
                let mut inside = TcpStream::connect(behind).await.expect("the house is there");
                // How it ends is the client's to tell.
                let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
            });
        }
    });
    port
}

fn list(folder: &Path, server: &str, flags: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(BINARY);
    command.args(["ls", "/", "--parameter", PARAMETER, "--server", server]).args(flags).current_dir(folder);
    let output = command.output().expect("it starts");
    (output.status.code(), crate::support::process::text(&output))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_trusted_by_the_ca_file_and_by_nothing_less() {
    let house = start().await;
    upload(&house, spec("/a.txt"), b"a").await.expect("upload");
    let authority = Authority::new();
    let folder = tempfile::tempdir().expect("a folder");
    authority.write(folder.path());
    let port = door(&house, &authority, false).await;
    let server = format!("https://localhost:{port}");
    assert_eq!(list(folder.path(), &server, &["--ca-file", "ca.pem"]), (Some(0), "a.txt\n".into()));
    let (code, told) = list(folder.path(), &server, &[]);
    assert!(code == Some(6) && told.contains("certificate") && told.contains("--ca-file"), "{told}");
    assert!(!told.contains("start the server"), "it runs: {told}");
    // Another name than the certificate's.
    let (code, told) = list(folder.path(), &format!("https://127.0.0.1:{port}"), &["--ca-file", "ca.pem"]);
    assert!(code == Some(6) && told.contains("certificate"), "{told}");
    let (code, told) = list(folder.path(), &server, &["--ca-file", "client.key"]);
    assert!(code == Some(2) && told.contains("client.key"), "{told}");
    let (code, told) = list(folder.path(), &format!("http://{}", house.addresses.data), &["--ca-file", "ca.pem"]);
    assert!(code == Some(2) && told.contains("https://"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_wants_a_certificate_gets_ours() {
    let house = start().await;
    let authority = Authority::new();
    let folder = tempfile::tempdir().expect("a folder");
    authority.write(folder.path());
    let server = format!("https://localhost:{}", door(&house, &authority, true).await);
    let ours = ["--ca-file", "ca.pem", "--cert-file", "client.pem", "--key-file", "client.key"];
    assert_eq!(list(folder.path(), &server, &ours), (Some(0), String::new()));
    let (code, told) = list(folder.path(), &server, &ours[..2]);
    assert_eq!(code, Some(6), "{told}");
    // At once: no repeat makes it better.
    assert!(told.contains("behind the TLS handshake") && told.contains("--cert-file and --key-file"), "{told}");
    let (code, told) = list(folder.path(), &server.replace("https://", "http://"), &[]);
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("the server speaks TLS") && told.contains("write https://"), "{told}");
}
