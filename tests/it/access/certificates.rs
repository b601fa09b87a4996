//! TLS on the data and admin ports with real certificates: who is let in by theirs, and what happens when ours change or
//! expire while streams run.

use std::{sync::Arc, time::Duration};

use dropbox_connector::{
    api::v1 as pb,
    clock::{ManualClock, SharedClock},
    config::AuthMode,
    telemetry,
};
use pb::download_file_response::Payload;
use tonic::Code;

use super::{Who, furnish, permission_comes_before_existence};
use crate::support::{
    House, MIB, PARAMETER, certs,
    certs::{Authority, Mounted, Pair},
    make_parameter, noise, reason, start_bare_by, until,
};

/// What ended then has ended by the server's clock, too, which has stood still since it started.
const AGO: Duration = Duration::from_secs(600);

struct Sealed {
    house: House,
    authority: Authority,
    files: Mounted,
    _clients_file: tempfile::NamedTempFile,
}

/// A server with a certificate of `authority`, mounted as Kubernetes does. Its clock stands still: files are read again
/// when it is told to, and not by themselves.
async fn sealed(pair: impl FnOnce(&Authority) -> Pair, mode: AuthMode, clients: Option<&Authority>) -> Sealed {
    sealed_by(Arc::new(ManualClock::new(certs::now())), pair, mode, clients).await
}

async fn sealed_by(
    clock: SharedClock,
    pair: impl FnOnce(&Authority) -> Pair,
    mode: AuthMode,
    clients: Option<&Authority>,
) -> Sealed {
    let authority = Authority::new("servers");
    let pair = pair(&authority);
    let files = Mounted::new(&[("tls.crt", &pair.certificate), ("tls.key", &pair.key)]);
    let clients_file = tempfile::NamedTempFile::new().unwrap();
    if let Some(clients) = clients {
        std::fs::write(&clients_file, &clients.pem).unwrap();
    }
    let house = start_bare_by(clock, |config| {
        config.auth_mode = mode;
        config.tls_cert_file = files.path("tls.crt");
        config.tls_key_file = files.path("tls.key");
        config.admin_principals = vec!["spiffe://test/boss".into()];
        if clients.is_some() {
            config.tls_client_ca_file = clients_file.path().into();
        }
    })
    .await;
    Sealed { house, authority, files, _clients_file: clients_file }
}

impl Sealed {
    fn who(&self, pair: Option<&Pair>) -> Who {
        Who::new(&certs::channel(self.house.addresses.data, &self.authority, pair), None)
    }

    /// The parameter `p` with a file of eight megabytes.
    async fn furnish_open(&self) -> Vec<u8> {
        let admin = certs::channel(self.house.addresses.admin, &self.authority, None);
        let mut admin = pb::dropbox_admin_connector_client::DropboxAdminConnectorClient::new(admin);
        make_parameter(&mut admin, &self.house.emulator.account(), PARAMETER, |_| {}).await;
        let bytes = noise(8 * MIB, 7);
        let frames = crate::support::requests(crate::support::frames(crate::support::spec("/big.bin"), &bytes));
        self.who(None).client().upload_file(tokio_stream::iter(frames)).await.expect("uploaded over TLS");
        bytes
    }
}

/// A download of `/big.bin` under way: its header was read, and most of it waits for its reader.
struct Reading {
    stream: tonic::Streaming<pb::DownloadFileResponse>,
    bytes: Vec<u8>,
}

impl Reading {
    async fn begin(who: &Who) -> Reading {
        let request = pb::DownloadFileRequest {
            application_parameter_id: PARAMETER.into(),
            source: Some(crate::support::source("/big.bin")),
            ..Default::default()
        };
        let mut stream = who.client().download_file(request).await.expect("begun").into_inner();
        let first = stream.message().await.expect("no break").expect("a header");
        assert!(matches!(first.payload, Some(Payload::Header(_))));
        Reading { stream, bytes: Vec::new() }
    }

    async fn finish(mut self) -> Vec<u8> {
        while let Some(message) = self.stream.message().await.expect("no break") {
            match message.payload.expect("a payload") {
                Payload::Chunk(chunk) => self.bytes.extend_from_slice(&chunk.data),
                Payload::Trailer(trailer) => assert!(trailer.verified),
                Payload::Header(_) => panic!("a second header"),
            }
        }
        self.bytes
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_certificate_is_shown_to_new_connections_and_ends_no_stream() {
    let sealed = sealed(Authority::server, AuthMode::None, None).await;
    let data = sealed.house.addresses.data;
    let bytes = sealed.furnish_open().await;
    let before = certs::shown(data, &sealed.authority).await.expect("trusted");
    let reading = Reading::begin(&sealed.who(None)).await;

    let second = sealed.authority.server();
    sealed.files.swap_pair(&second);
    sealed.house.reread();
    until("the new certificate is shown", async || {
        certs::shown(data, &sealed.authority).await.is_ok_and(|shown| shown == certs::der(&second))
    })
    .await;
    assert_ne!(before, certs::der(&second));
    let admin = certs::shown(sealed.house.addresses.admin, &sealed.authority).await.expect("trusted");
    assert_eq!(admin, certs::der(&second), "one certificate for both ports");
    assert_eq!(reading.finish().await, bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_signal_the_change_is_found_as_well() {
    let clock = ManualClock::new(certs::now());
    let sealed = sealed_by(Arc::new(clock.clone()), Authority::server, AuthMode::None, None).await;
    let second = sealed.authority.server();
    sealed.files.swap_pair(&second);
    until("the new certificate is shown", async || {
        // Again and again: who begins to sleep only now would sleep for ever.
        clock.advance(dropbox_connector::limits::HOUSEKEEPING).await;
        certs::shown(sealed.house.addresses.data, &sealed.authority)
            .await
            .is_ok_and(|shown| shown == certs::der(&second))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_that_cannot_be_used_changes_nothing_until_it_is_mended() {
    let sealed = sealed(Authority::server, AuthMode::None, None).await;
    let data = sealed.house.addresses.data;
    let before = certs::shown(data, &sealed.authority).await.expect("trusted");
    let refused = || {
        let text = telemetry::render();
        let line = text.lines().find(|line| line.starts_with("dropboxconnector_tls_reloads{outcome=\"refused\"}"));
        line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
    };
    let (next, expired) = (sealed.authority.server(), sealed.authority.server_until(certs::now() - AGO));
    let half = Pair { key: sealed.authority.server().key, ..next.clone() };
    let garbage = Pair { certificate: "no certificate".into(), ..next.clone() };
    for bad in [&half, &expired, &garbage] {
        let count = refused();
        sealed.files.swap_pair(bad);
        sealed.house.reread();
        until("it is refused", async || refused() > count).await;
        assert_eq!(certs::shown(data, &sealed.authority).await.expect("trusted"), before);
        assert!(sealed.house.is_ready(), "the old one still serves");
    }
    sealed.files.swap_pair(&next);
    sealed.house.reread();
    until("the mended one is shown", async || {
        certs::shown(data, &sealed.authority).await.is_ok_and(|shown| shown == certs::der(&next))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_expires_ends_no_stream_and_new_clients_refuse_it() {
    let expires_at = certs::now() + Duration::from_secs(10);
    let sealed = sealed(|authority| authority.server_until(expires_at), AuthMode::None, None).await;
    let bytes = sealed.furnish_open().await;
    let who = sealed.who(None);
    let reading = Reading::begin(&who).await;
    until("new clients refuse it", async || {
        certs::shown(sealed.house.addresses.data, &sealed.authority).await.is_err()
    })
    .await;
    assert!(certs::now() >= expires_at);
    who.gets(PARAMETER).await.expect("the connection that is up goes on");
    assert_eq!(reading.finish().await, bytes);
    let text = telemetry::render();
    assert!(text.contains("dropboxconnector_tls_certificate_expiry"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_names_its_principal() {
    let clients = Authority::new("clients");
    let sealed = sealed(Authority::server, AuthMode::Mtls, Some(&clients)).await;
    let [stranger, billing, boss] = [
        // A URI that is no SPIFFE id names nobody; the subject's CN says "boss" in all of these.
        &["https://test/boss", "stranger.test", "boss"][..],
        &["billing.test", "spiffe://test/billing", "spiffe://test/boss"],
        &["spiffe://test/boss"],
    ]
    .map(|names| clients.client(names));
    let admin = certs::channel(sealed.house.addresses.admin, &sealed.authority, Some(&boss));
    furnish(&sealed.house, &Who::new(&admin, None), "spiffe://test/billing").await;
    let [stranger, billing, boss] = [stranger, billing, boss].map(|pair| sealed.who(Some(&pair)));
    permission_comes_before_existence(&sealed.house, &stranger, &billing, &boss).await;

    let nameless = sealed.who(Some(&clients.client(&[])));
    let status = nameless.gets("docs").await.expect_err("it names nobody");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "CALLER_UNAUTHENTICATED"));
    assert_eq!(crate::support::fact(&status, "cause").as_deref(), Some("certificate_nameless"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_certificate_of_our_authorities_no_connection_comes_up() {
    let clients = Authority::new("clients");
    let sealed = sealed(Authority::server, AuthMode::Mtls, Some(&clients)).await;
    let boss = clients.client(&["spiffe://test/boss"]);
    let admin = certs::channel(sealed.house.addresses.admin, &sealed.authority, Some(&boss));
    furnish(&sealed.house, &Who::new(&admin, None), "spiffe://test/billing").await;
    let forged = Authority::new("clients").client(&["spiffe://test/boss"]);
    let expired = clients.client_until(&["spiffe://test/boss"], certs::now() - AGO);
    // One of the server's own authority is no client's.
    let server = sealed.authority.server();
    for pair in [None, Some(&forged), Some(&expired), Some(&server)] {
        for id in ["docs", "does-not-exist"] {
            let status = sealed.who(pair).gets(id).await.expect_err("no connection");
            assert!(tonic_types::StatusExt::get_error_details(&status).error_info().is_none(), "{status:?}");
        }
    }
    sealed.who(Some(&clients.client(&["spiffe://test/billing"]))).gets("docs").await.expect("the right one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_speaks_no_tls_is_not_answered() {
    let sealed = sealed(Authority::server, AuthMode::None, None).await;
    let plain = tonic::transport::Channel::from_shared(format!("http://{}", sealed.house.addresses.data)).unwrap();
    let plain = Who::new(&plain.connect_lazy(), None);
    plain.gets("docs").await.expect_err("no TLS");
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_keep_nobody_out() {
    let sealed = sealed(Authority::server, AuthMode::None, None).await;
    for address in [sealed.house.addresses.data, sealed.house.addresses.admin] {
        let mut silent = Vec::new();
        for _ in 0..dropbox_connector::limits::HANDSHAKES_MAX + 50 {
            silent.push(tokio::net::TcpStream::connect(address).await.expect("accepted"));
        }
        let half = dropbox_connector::limits::HANDSHAKE_TIMEOUT / 2;
        let shown = tokio::time::timeout(half, certs::shown(address, &sealed.authority)).await;
        shown.expect("long before the silent are given up").expect("trusted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_a_bad_pair_is_refused_by_the_key_of_the_file() {
    let authority = Authority::new("servers");
    let (pair, other) = (authority.server(), authority.server());
    let expired = authority.server_until(certs::now() - Duration::from_secs(60));
    let not_an_authority = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let cases: [(&str, &str, &str, &str); 7] = [
        (&pair.certificate, &other.key, "", "tls_key_file: "),
        (&expired.certificate, &expired.key, "", "the certificate expired on "),
        ("", &pair.key, "", "tls_cert_file: "),
        (&pair.certificate, "", "", "tls_key_file: "),
        (&pair.certificate, encrypted, "", "is encrypted"),
        (&pair.certificate, &pair.key, not_an_authority, "tls_client_ca_file: "),
        (&pair.certificate, &pair.key, "nothing", "tls_client_ca_file: "),
    ];
    let emulator = dropbox_connector::emulator::Emulator::start(Default::default()).await.expect("emulator");
    for (certificate, key, clients, wanted) in cases {
        let folder = tempfile::tempdir().unwrap();
        let config = crate::support::config_for(&emulator, &folder, |config| {
            let write = |name: &str, text: &str| {
                let path = folder.path().join(name);
                std::fs::write(&path, text).unwrap();
                path
            };
            config.tls_cert_file = write("crt", certificate);
            config.tls_key_file = write("key", key);
            if !clients.is_empty() {
                config.tls_client_ca_file = write("ca", clients);
            }
        });
        let error = dropbox_connector::app::App::start(config).await.expect_err(wanted);
        assert!(matches!(error, dropbox_connector::app::AppError::Config(_)), "{error:?}");
        assert!(error.to_string().contains(wanted), "{wanted}: {error}");
    }
}
