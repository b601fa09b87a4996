//! Crowds at the door, with real sockets from several addresses of loopback: who is silent, who stalls, and who still gets in.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket},
    sync::mpsc,
};
use tokio_rustls::{TlsConnector, client};

use super::*;
use crate::{
    clock::SystemClock,
    config::{Config, Overrides},
};

/// Far below what a silent peer may take, far above what a handshake does.
const SOON: Duration = Duration::from_secs(7);

/// A listener of which the server takes every connection, and what a client needs to trust it.
struct Hall {
    address: SocketAddr,
    connector: TlsConnector,
    entered: mpsc::Receiver<Connection>,
    _files: tempfile::TempDir,
}

async fn open(bounds: Bounds) -> Hall {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let files = tempfile::tempdir().unwrap();
    let mut config = Config::load(&Overrides::default()).unwrap();
    config.tls_cert_file = files.path().join("crt");
    config.tls_key_file = files.path().join("key");
    std::fs::write(&config.tls_cert_file, certificate.pem()).unwrap();
    std::fs::write(&config.tls_key_file, key.serialize_pem()).unwrap();
    let tls = Tls::from_config(&config, Arc::new(SystemClock)).unwrap().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (enter, entered) = mpsc::channel(1000);
    tokio::spawn(async move {
        let mut received = std::pin::pin!(Reception::new(TcpIncoming::from(listener), tls, bounds).stream());
        while let Some(Ok(connection)) = received.next().await {
            if enter.send(connection).await.is_err() {
                return;
            }
        }
    });
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let mut client = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    client.alpn_protocols = vec![b"h2".to_vec()];
    Hall { address, connector: TlsConnector::from(Arc::new(client)), entered, _files: files }
}

impl Hall {
    /// A socket from `127.0.0.HOST`.
    async fn knock(&self, host: u8) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::new(127, 0, 0, host), 0).into()).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    async fn knock_often(&self, host: u8, times: usize, says: &[u8]) -> Vec<TcpStream> {
        let mut sockets = Vec::new();
        for _ in 0..times {
            let mut socket = self.knock(host).await;
            socket.write_all(says).await.unwrap();
            sockets.push(socket);
        }
        sockets
    }

    async fn shake(&self, tcp: TcpStream) -> io::Result<client::TlsStream<TcpStream>> {
        let handshake = self.connector.connect("localhost".try_into().unwrap(), tcp);
        tokio::time::timeout(SOON, handshake).await.map_err(|_| io::ErrorKind::TimedOut)?
    }
}

/// The head of a record that never comes.
const STALLED: &[u8] = &[0x16, 0x03, 0x01, 0x02, 0x00];

#[tokio::test]
async fn the_silent_hold_no_place() {
    let bounds = Bounds { places: 2, of_address: 1, waiting: 200, patience: Duration::from_secs(3600) };
    let mut hall = open(bounds).await;
    let _silent = hall.knock_often(1, 100, b"").await;
    for _ in 0..3 {
        let tcp = hall.knock(1).await;
        let _open = hall.shake(tcp).await.expect("let in");
        hall.entered.recv().await.expect("on the server's side, too");
    }
}

#[tokio::test]
async fn who_stalls_gives_up_the_place_when_others_wait_for_it() {
    let bounds = Bounds { places: 4, of_address: 2, waiting: 200, patience: Duration::from_secs(1) };
    let hall = open(bounds).await;
    let mut stalled = Vec::new();
    for host in 2..6 {
        stalled.extend(hall.knock_often(host, 5, STALLED).await);
    }
    let tcp = hall.knock(1).await;
    hall.shake(tcp).await.expect("another address is let in");
    let tcp = hall.knock(2).await;
    hall.shake(tcp).await.expect("and theirs in its turn");
    // The first was sent away for somebody.
    assert_eq!(stalled[0].read(&mut [0; 1]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn one_address_cannot_take_all_places_however_patient_we_are() {
    let bounds = Bounds { places: 4, of_address: 2, waiting: 200, patience: Duration::from_secs(3600) };
    let hall = open(bounds).await;
    let _stalled = hall.knock_often(2, 20, STALLED).await;
    let tcp = hall.knock(1).await;
    hall.shake(tcp).await.expect("two places are left");
}

#[tokio::test]
async fn too_many_who_wait_cost_the_address_that_has_the_most() {
    let bounds = Bounds { places: 4, of_address: 2, waiting: 10, patience: Duration::from_secs(3600) };
    let hall = open(bounds).await;
    let early = hall.knock(1).await;
    let mut silent = hall.knock_often(2, 40, b"").await;
    for socket in &mut silent[..30] {
        assert_eq!(socket.read(&mut [0; 1]).await.unwrap_or(0), 0, "the oldest are sent away");
    }
    hall.shake(early).await.expect("who came first from another address is still there");
}

#[tokio::test]
async fn many_at_once_from_one_address_all_get_in() {
    let bounds = Bounds { places: 4, of_address: 2, waiting: 100, patience: SOON };
    let hall = open(bounds).await;
    let mut sockets = Vec::new();
    for _ in 0..60 {
        sockets.push(hall.knock(1).await);
    }
    let shaken = futures::future::join_all(sockets.into_iter().map(|tcp| hall.shake(tcp))).await;
    for one in shaken {
        one.expect("let in");
    }
}

#[test]
fn a_host_of_ipv6_is_its_network_and_mapped_addresses_are_those_of_ipv4() {
    let of = |text: &str| neighbourhood(Some(text.parse().unwrap()));
    assert_eq!(of("[2001:db8:1:2:3::4]:1"), of("[2001:db8:1:2:ffff::1]:2"));
    assert_ne!(of("[2001:db8:1:2::1]:1"), of("[2001:db8:1:3::1]:1"));
    assert_eq!(of("[::ffff:10.0.0.1]:1"), of("10.0.0.1:2"));
    assert_ne!(of("10.0.0.1:1"), of("10.0.0.2:1"));
}

#[tokio::test]
async fn a_flood_that_is_sent_away_is_told_of_once_a_second() {
    let mut crowded = CrowdedOut::default();
    let from = Some("10.0.0.1:1".parse().unwrap());
    (0..100).for_each(|_| crowded.add(from));
    assert_eq!((crowded.tell(), crowded.count), (None, 0), "the first are told of at once");
    crowded.telling.take().expect("beside the loop").await.expect("told");
    // However long that took.
    crowded.told_at = Some(Instant::now());
    (0..50).for_each(|_| crowded.add(from));
    let next = crowded.tell().expect("not yet");
    assert!(next > Instant::now() && crowded.count == 50, "the others together");
    // Whoever still waits for room in the log is not waited for.
    crowded.told_at = Some(Instant::now() - CROWDED_OUT_TOLD);
    let (release, held) = std::sync::mpsc::channel::<()>();
    crowded.telling = Some(tokio::task::spawn_blocking(move || _ = held.recv()));
    assert!(crowded.tell().is_some() && crowded.count == 50);
    drop(release);
    crowded.telling.take().expect("it is still there").await.expect("told");
    assert_eq!((crowded.tell(), crowded.count), (None, 0));
}
