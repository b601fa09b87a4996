//! Signed tokens against a real server: every kind of key, keys from a file and from a url, their rotation, and every way a
//! token can be wrong.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use dropbox_connector::config::{AuthMode, Config};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tonic::{Code, transport::Channel};

use super::{Who, furnish, permission_comes_before_existence};
use crate::support::{
    House,
    certs::{self, AUDIENCE, Authority, ISSUER, Issuer, Pair, key_set},
    fact, reason, retry_delay, start_bare, until,
};

fn by_token(config: &mut Config, keys: Keys<'_>) {
    config.auth_mode = AuthMode::Jwt;
    config.admin_principals = vec!["boss".into()];
    config.jwt_issuer = ISSUER.into();
    config.jwt_audiences = vec![AUDIENCE.into()];
    match keys {
        Keys::File(path) => config.jwt_jwks_file = path.into(),
        Keys::Url(url) => config.jwt_jwks_url = url.into(),
    }
}

enum Keys<'a> {
    File(&'a Path),
    Url(&'a str),
}

fn admin(house: &House) -> Channel {
    Channel::from_shared(format!("http://{}", house.addresses.admin)).unwrap().connect_lazy()
}

fn who(house: &House, token: &str) -> Who {
    Who::new(&house.channel, Some(token))
}

/// A server that takes tokens of these issuers, with the parameters of `access.rs`; the file of keys.
async fn trusting(issuers: &[&Issuer]) -> (House, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, key_set(issuers)).unwrap();
    let house = start_bare(Default::default(), |config| by_token(config, Keys::File(file.path()))).await;
    furnish(&house, &Who::new(&admin(&house), Some(&issuers[0].token("boss"))), "billing").await;
    (house, file)
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_every_kind_of_key_name_their_principal() {
    let issuers = [Issuer::es256("a"), Issuer::eddsa("b"), Issuer::rs256("c")];
    let (house, _file) = trusting(&issuers.each_ref()).await;
    for issuer in &issuers {
        let [stranger, billing, boss] =
            ["stranger", "billing", "boss"].map(|principal| who(&house, &issuer.token(principal)));
        permission_comes_before_existence(&house, &stranger, &billing, &boss).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_is_refused_with_its_reason_and_nothing_of_it_is_shown() {
    let (issuer, rsa) = (Issuer::es256("a"), Issuer::rs256("r"));
    let (house, _file) = trusting(&[&issuer, &rsa]).await;
    let past = |seconds: u64| certs::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() - seconds;
    let good = issuer.token("boss");
    let (signed, _) = good.rsplit_once('.').unwrap();
    let base64 = |text: &str| base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, text);
    let claims = signed.split_once('.').unwrap().1;
    let none = format!("{}.{claims}.", base64(r#"{"alg":"none"}"#));
    // The public key, which everybody has, as the secret of an HMAC.
    let public = rsa.jwk()["n"].as_str().unwrap().to_owned();
    let confused = format!("{}.{claims}", base64(r#"{"alg":"HS256","kid":"r"}"#));
    let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, public.as_bytes());
    let tag = ring::hmac::sign(&secret, confused.as_bytes());
    let tag = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, tag);
    let cases = [
        ("algorithm_not_allowed", none),
        ("algorithm_not_allowed", format!("{confused}.{tag}")),
        ("audience_wrong", issuer.token_with("boss", |claims| claims["aud"] = json!("another-service"))),
        ("issuer_wrong", issuer.token_with("boss", |claims| claims["iss"] = json!("https://elsewhere.example"))),
        ("key_unknown", Issuer::es256("old").token("boss")),
        ("signature_wrong", Issuer::es256("a").token("boss")),
        ("expired", issuer.token_with("boss", |claims| claims["exp"] = json!(past(60)))),
        ("not_yet_valid", issuer.token_with("boss", |claims| claims["nbf"] = json!(past(0) + 120))),
        ("malformed", "token-of-boss".to_owned()),
    ];
    for (cause, token) in &cases {
        for id in ["docs", "does-not-exist"] {
            let status = who(&house, token).gets(id).await.expect_err(cause);
            assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "CALLER_UNAUTHENTICATED"));
            assert_eq!(fact(&status, "cause").as_deref(), Some(*cause), "{status:?}");
            for piece in token.split('.').filter(|piece| piece.len() > 8) {
                assert!(!format!("{status:?}").contains(piece), "{status:?}");
            }
        }
    }
    let none = Who::new(&house.channel, None).gets("docs").await.expect_err("nothing sent");
    assert_eq!((none.code(), fact(&none, "cause").as_deref()), (Code::Unauthenticated, Some("nothing_sent")));
    // The one that is right was not made wrong by any of these.
    who(&house, &good).gets("docs").await.expect_err("the boss is not in the policy");
    who(&house, &issuer.token("billing")).gets("docs").await.expect("the right principal");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_were_taken_out_of_the_file_open_nothing_and_new_ones_do() {
    let (old, new) = (Issuer::es256("old"), Issuer::eddsa("new"));
    let (house, file) = trusting(&[&old]).await;
    let (by_old, by_new) = (who(&house, &old.token("billing")), who(&house, &new.token("billing")));
    by_old.gets("docs").await.expect("good");
    std::fs::write(&file, key_set(&[&new])).unwrap();
    house.reread();
    until("the new key is known", async || by_new.gets("docs").await.is_ok()).await;
    let status = by_old.gets("docs").await.expect_err("its key is gone, however well it was remembered");
    assert_eq!(fact(&status, "cause").as_deref(), Some("key_unknown"));
    // A file that is damaged while it is written changes nothing.
    std::fs::write(&file, "{").unwrap();
    house.reread();
    by_new.gets("docs").await.expect("still known");
}

/// A server of key sets, over TLS if it has a certificate.
struct Publisher {
    address: SocketAddr,
    body: Arc<Mutex<Option<String>>>,
    asked: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Publisher {
    async fn start(body: Option<String>, pair: Option<&Pair>) -> Publisher {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let body = Arc::new(Mutex::new(body));
        let asked = Arc::new(AtomicUsize::new(0));
        let acceptor = pair.map(|pair| {
            let chain = vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
            let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
            tokio_rustls::TlsAcceptor::from(Arc::new(config))
        });
        let (said, count) = (body.clone(), asked.clone());
        let task = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, said, count) = (acceptor.clone(), said.clone(), count.clone());
                tokio::spawn(async move {
                    match acceptor {
                        None => answer(tcp, &said, &count).await,
                        Some(acceptor) => {
                            if let Ok(tls) = acceptor.accept(tcp).await {
                                answer(tls, &said, &count).await;
                            }
                        }
                    }
                });
            }
        });
        Publisher { address, body, asked, task }
    }

    fn publish(&self, body: Option<String>) {
        *self.body.lock().unwrap() = body;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One request, one answer: the body, or 503 where there is none.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, body: &Mutex<Option<String>>, asked: &AtomicUsize) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    asked.fetch_add(1, Ordering::SeqCst);
    let (status, body) = match body.lock().unwrap().clone() {
        Some(body) => ("200 OK", body),
        None => ("503 Service Unavailable", "<html>".to_owned()),
    };
    let length = body.len();
    let text = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_come_from_a_url_that_is_asked_again_for_a_key_it_did_not_have() {
    let (old, new) = (Issuer::es256("old"), Issuer::eddsa("new"));
    let publisher = Publisher::start(Some(key_set(&[&old])), None).await;
    let url = format!("http://{}/keys", publisher.address);
    let clock = dropbox_connector::clock::ManualClock::new(certs::now());
    let house =
        crate::support::start_bare_by(Arc::new(clock.clone()), |config| by_token(config, Keys::Url(&url))).await;
    furnish(&house, &Who::new(&admin(&house), Some(&old.token("boss"))), "billing").await;
    assert_eq!(publisher.asked(), 1, "read once at start, and all these calls needed no more");

    publisher.publish(Some(key_set(&[&new])));
    let by_new = who(&house, &new.token("billing"));
    // Whoever makes up names of keys makes no requests of ours.
    for _ in 0..20 {
        let status = by_new.gets("docs").await.expect_err("read just now");
        assert_eq!(fact(&status, "cause").as_deref(), Some("key_unknown"));
    }
    assert_eq!(publisher.asked(), 1);
    clock.advance(dropbox_connector::limits::KEYS_REFETCH).await;
    let calls = (0..20).map(|_| by_new.gets("docs"));
    for answered in futures::future::join_all(calls).await {
        answered.expect("the new key was looked up");
    }
    assert_eq!(publisher.asked(), 2, "one reading for all who missed the key");
    let status = who(&house, &old.token("billing")).gets("docs").await.expect_err("its key is gone");
    assert_eq!(fact(&status, "cause").as_deref(), Some("key_unknown"));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_issuer_is_away_known_tokens_go_on_and_nobody_else_is_called_a_liar() {
    let (known, unknown) = (Issuer::es256("known"), Issuer::es256("unknown"));
    let publisher = Publisher::start(None, None).await;
    let url = format!("http://{}/keys", publisher.address);
    let house = start_bare(Default::default(), |config| by_token(config, Keys::Url(&url))).await;
    assert!(!house.is_ready(), "nobody can be told apart yet");
    let early = who(&house, &known.token("billing")).gets("docs").await.expect_err("no keys yet");
    assert_eq!((early.code(), reason(&early).as_str()), (Code::Unavailable, "CALLER_KEYS_UNAVAILABLE"));
    assert!(retry_delay(&early).is_some());

    publisher.publish(Some(key_set(&[&known])));
    house.reread();
    until("it is ready", async || house.is_ready()).await;
    furnish(&house, &Who::new(&admin(&house), Some(&known.token("boss"))), "billing").await;
    publisher.publish(None);
    let asked = publisher.asked();
    house.reread();
    until("the issuer was asked in vain", async || publisher.asked() > asked).await;
    who(&house, &known.token("billing")).gets("docs").await.expect("its key is known");
    until("the failure is known", async || {
        let status = who(&house, &unknown.token("billing")).gets("docs").await.expect_err("cannot be known");
        reason(&status) == "CALLER_KEYS_UNAVAILABLE"
    })
    .await;
    assert!(house.is_ready(), "an issuer that is away for a while unroutes nobody");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_over_tls_is_believed_by_its_authorities_only() {
    let (issuer, authority, other) = (Issuer::es256("a"), Authority::new("issuers"), Authority::new("others"));
    let publisher = Publisher::start(Some(key_set(&[&issuer])), Some(&authority.server())).await;
    let url = format!("https://localhost:{}/keys", publisher.address.port());
    for (ca, trusted) in [(&authority, true), (&other, false)] {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, &ca.pem).unwrap();
        let house = start_bare(Default::default(), |config| {
            by_token(config, Keys::Url(&url));
            config.jwt_jwks_ca_file = file.path().into();
        })
        .await;
        assert_eq!(house.is_ready(), trusted);
        let status = who(&house, &issuer.token("boss")).gets("none").await.expect_err("there is no parameter");
        let wanted = if trusted { "APPLICATION_PARAMETER_NOT_FOUND" } else { "CALLER_KEYS_UNAVAILABLE" };
        assert_eq!(reason(&status), wanted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_both_may_speak_the_token_wins_and_a_bad_one_is_not_made_good_by_a_certificate() {
    let (issuer, servers, clients) = (Issuer::es256("a"), Authority::new("servers"), Authority::new("clients"));
    let pair = servers.server();
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name)
    };
    let house = start_bare(Default::default(), |config| {
        by_token(config, Keys::File(&write("keys", &key_set(&[&issuer]))));
        config.auth_mode = AuthMode::MtlsOrJwt;
        config.tls_cert_file = write("crt", &pair.certificate);
        config.tls_key_file = write("key", &pair.key);
        config.tls_client_ca_file = write("ca", &clients.pem);
    })
    .await;
    let boss = clients.client(&["boss"]);
    let admin = certs::channel(house.addresses.admin, &servers, Some(&boss));
    furnish(&house, &Who::new(&admin, None), "billing").await;
    let channel = |pair: Option<&Pair>| certs::channel(house.addresses.data, &servers, pair);
    // By certificate alone, by token alone.
    let by_certificate = |name: &str| Who::new(&channel(Some(&clients.client(&[name]))), None);
    let [stranger, billing] = ["stranger", "billing"].map(by_certificate);
    permission_comes_before_existence(&house, &stranger, &billing, &Who::new(&channel(Some(&boss)), None)).await;
    let by_token = |name: &str| Who::new(&channel(None), Some(&issuer.token(name)));
    permission_comes_before_existence(&house, &by_token("stranger"), &by_token("billing"), &by_token("boss")).await;
    // Both.
    let billing = issuer.token("billing");
    Who::new(&channel(Some(&clients.client(&["stranger"]))), Some(&billing)).gets("docs").await.expect("the token");
    let both = Who::new(&channel(Some(&clients.client(&["billing"]))), Some("nonsense"));
    let status = both.gets("docs").await.expect_err("the token is bad");
    assert_eq!(fact(&status, "cause").as_deref(), Some("malformed"));
    let neither = Who::new(&channel(None), None).gets("docs").await.expect_err("nothing shown");
    assert_eq!((neither.code(), fact(&neither, "cause").as_deref()), (Code::Unauthenticated, Some("no_certificate")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_a_bad_file_of_keys_is_refused_by_its_key() {
    let emulator = dropbox_connector::emulator::Emulator::start(Default::default()).await.expect("emulator");
    for text in [None, Some("{}"), Some(r#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        if let Some(text) = text {
            std::fs::write(&path, text).unwrap();
        }
        let config = crate::support::config_for(&emulator, &folder, |config| by_token(config, Keys::File(&path)));
        let error = dropbox_connector::app::App::start(config).await.expect_err("refused").to_string();
        assert!(error.contains("jwt_jwks_file: "), "{error}");
    }
}
