//! How the emulator is reached: over TLS, on addresses of its hosts' own, and as if it were far away.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use dropbox_connector::emulator::{Contention, Emulator, Error, Loss, Options, TlsFiles};
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

#[tokio::test(flavor = "multi_thread")]
async fn a_line_with_loss_is_late_and_cut_off_at_places_of_its_seed_and_the_control_port_says_which() {
    const BYTES: usize = 300_000;
    let bench = Bench::start().await;
    bench.file("/a", &vec![7; BYTES]).await;
    let url = format!("{}/control/switches", bench.emulator.addresses().control);
    let switch = async |loss: serde_json::Value| {
        let answer = bench.http.post(&url).body(json!({ "loss": loss }).to_string()).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    for (wrong, told) in [
        (json!({ "stalls": 2 }), "loss: stalls: 2 is not between 0 and 1"),
        (json!({ "segment_bytes": 0 }), "loss: segment_bytes: is 0"),
        (json!({ "lost": 1 }), "unknown field `lost`"),
    ] {
        let (status, text) = switch(wrong).await;
        assert!(status == 400 && text.contains(told), "{text}");
    }
    // How much of the file came, a connection each, until one was cut; and how long it took.
    let read = async || {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("{}/2/files/download", bench.emulator.addresses().content);
        let token = bench.control().login().access_token;
        let request = http.post(url).bearer_auth(token).header("Dropbox-API-Arg", r#"{"path":"/a"}"#);
        let (begin, mut got) = (Instant::now(), 0);
        if let Ok(mut answer) = request.send().await {
            while let Ok(Some(piece)) = answer.chunk().await {
                got += piece.len();
            }
        }
        (got, begin.elapsed())
    };
    assert_eq!(switch(json!({ "stalls": 1, "stall_millis": 50, "segment_bytes": 100_000 })).await.0, 200);
    let (got, took) = read().await;
    assert!(got == BYTES && took >= Duration::from_millis(150), "{got} bytes in {took:?}");

    let loss = Loss { resets: 0.1, segment_bytes: 10_000, seed: 3, ..Loss::default() };
    let mut runs = Vec::new();
    for _ in 0..2 {
        bench.control().switch(|switches| switches.loss = None);
        assert_eq!(read().await.0, BYTES);
        bench.control().switch(|switches| switches.loss = Some(loss));
        let mut cut = Vec::new();
        for _ in 0..12 {
            cut.push(read().await.0);
        }
        runs.push(cut);
    }
    // 31 segments: one line in thirty survives. What the kernel had taken when the line was reset may be lost with it.
    assert!(runs[0].iter().filter(|got| **got < BYTES).count() >= 6, "{runs:?}");
    let whole = |run: &Vec<usize>| run.iter().map(|got| *got == BYTES).collect::<Vec<_>>();
    assert_eq!(whole(&runs[0]), whole(&runs[1]));
    bench.end();
}
