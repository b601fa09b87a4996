//! How the emulator is reached: over TLS, on addresses of its hosts' own, and as if it were far away.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use dropbox_connector::emulator::{Contention, Emulator, Error, Options, TlsFiles};
use serde_json::json;

use super::Bench;
use crate::support::certs::{self, Authority};

#[tokio::test(flavor = "multi_thread")]
async fn with_a_certificate_every_host_but_the_control_port_speaks_tls_and_hosts_may_share_a_port() {
    let (authority, folder) = (Authority::new("upstream"), tempfile::tempdir().unwrap());
    let names = ["127.0.0.1", "127.0.0.2"];
    let pair = authority.server_called(&names, certs::now() + Duration::from_secs(3600));
    let files = TlsFiles { certificate: folder.path().join("crt"), key: folder.path().join("key") };
    std::fs::write(&files.certificate, &pair.certificate).unwrap();
    std::fs::write(&files.key, &pair.key).unwrap();
    let content_listen = Some(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)));
    let options = Options { tls: Some(files.clone()), content_listen, ..Options::default() };
    let mut bench = Bench::over(Emulator::start(options).await.expect("TLS"));
    let at = bench.emulator.addresses().clone();
    for (url, begins) in [
        (&at.api, "https://127.0.0.1:"),
        (&at.content, "https://127.0.0.2:"),
        (&at.notify, "https://127.0.0.1:"),
        (&at.www, "https://127.0.0.1:"),
        (&at.control, "http://127.0.0.1:"),
    ] {
        assert!(url.starts_with(begins), "{url}");
    }
    let trusted = reqwest::Certificate::from_pem(authority.pem.as_bytes()).unwrap();
    bench.http = reqwest::Client::builder().tls_certs_only([trusted]).no_proxy().build().unwrap();
    bench.file("/a", b"some bytes").await;
    assert_eq!(bench.download("files/download", json!({ "path": "/a" })).await.body, b"some bytes");
    // Who does not trust it gets nothing, and the next one is served all the same.
    let stranger = reqwest::Client::builder().tls_certs_only([]).no_proxy().build().unwrap();
    stranger.post(bench.url("users/get_current_account")).send().await.expect_err("an unknown authority");
    bench.rpc("files/get_metadata", json!({ "path": "/a" })).await.good();
    bench.end();

    std::fs::write(&files.key, "no key").unwrap();
    let refused = Emulator::start(Options { tls: Some(files.clone()), ..Options::default() }).await;
    let Err(Error::Tls { path, .. }) = &refused else { panic!("{refused:?}") };
    assert_eq!(path, &files.key);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_takes_its_time_with_the_commit_within_it_and_a_connection_its_rate() {
    const TAKES: Duration = Duration::from_millis(200);
    let bench = Bench::start().await;
    bench.file("/a", &vec![7; 300_000]).await;
    bench.control().switch(|switches| {
        switches.answer_takes = TAKES;
        switches.contention = Some(Contention { commit_takes: TAKES, as_409: false });
    });
    for is_commit in [false, true] {
        let begin = Instant::now();
        match is_commit {
            true => _ = bench.file("/b", b"x").await,
            false => _ = bench.rpc("files/get_metadata", json!({ "path": "/a" })).await.good(),
        }
        let took = begin.elapsed();
        assert!(took >= TAKES, "{took:?}");
    }
    bench.control().switch(|switches| {
        switches.answer_takes = Duration::ZERO;
        switches.contention = None;
        switches.connection_bytes_per_second = Some(1_000_000);
    });
    // Connections that are there keep their rate; this client has none yet.
    let slow = Bench { http: reqwest::Client::builder().no_proxy().build().unwrap(), ..bench };
    let begin = Instant::now();
    assert_eq!(slow.download("files/download", json!({ "path": "/a" })).await.body.len(), 300_000);
    slow.file("/c", &vec![8; 300_000]).await;
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(550), "{took:?}");
    slow.end();
}
