//! A watcher that does not read, before a server that is a process of its own: what was made for it and not taken.

use std::net::SocketAddr;

use dropbox_connector::{
    api::v1::{
        dropbox_admin_connector_client::DropboxAdminConnectorClient, dropbox_connector_client::DropboxConnectorClient,
    },
    emulator::{Emulator, Options, control::Generate},
};
use tonic::transport::Channel;

use super::*;
use crate::{
    server::fetch,
    support::{process::Served, until},
};

/// What a caller takes in of a stream that it does not read.
const WINDOW: u32 = 65_535;
/// Events that may have been made for it: its window full, and one piece behind it of 32 KiB; a message has 512 bytes at least.
/// Which entries are in memory because of it is counted one by one in `src/events/tests/slow.rs`.
const MADE_MAX: u64 = (WINDOW as u64 + 32 * 1024) / 512 + 1;

const ROUNDS: usize = 20;
/// What an allocator may keep of what it had; the events would be some 30 MiB.
const GROWTH_MAX_KIB: usize = 8 * 1024;

async fn connect(served: &mut Served, port: &str) -> Channel {
    let uri = format!("http://{}", served.told(port));
    let endpoint = Channel::from_shared(uri).expect("a uri").initial_stream_window_size(WINDOW);
    endpoint.connect().await.expect("connect")
}

async fn open(served: &mut Served) -> Watch {
    let mut client = DropboxConnectorClient::new(connect(served, "data").await);
    let stream = client.watch_events(ask(|asked| asked.path = "/in".into())).await.expect("a watch").into_inner();
    Watch { stream, token: String::new() }
}

/// Events that were made for all watches so far.
fn delivered(http: SocketAddr) -> u64 {
    let metrics = fetch(http, "/metrics");
    let counters = metrics.lines().filter(|line| line.starts_with("dropboxconnector_watch_delivered{"));
    counters.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_stops_reading_has_nothing_made_for_it_and_gets_everything_in_the_end() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let emulator = Emulator::start(Options::default()).await.expect("an emulator");
    let mut served = Served::before(&emulator, &[]);
    let mut admin = DropboxAdminConnectorClient::new(connect(&mut served, "admin").await);
    support::make_parameter(&mut admin, &emulator.account(), PARAMETER, |_| {}).await;
    let control = emulator.control();
    control.seed(&Seed { folders: vec!["/in".into()], ..Seed::default() }).expect("a folder");
    // Each on a connection of its own, as two consumers are.
    let (mut quick, mut slow) = (open(&mut served).await, open(&mut served).await);
    for watch in [&mut quick, &mut slow] {
        while !matches!(watch.payload().await, Payload::Ready(_)) {}
    }
    let http = served.told("http").parse().expect("an address");
    let made = |told: &[String]| delivered(http) - told.len() as u64;
    let (mut told, mut resident) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let generate = Generate { folder: format!("/in/{round}"), files: 2499, bytes: 1, per_folder: None };
        control.seed(&Seed { generate: Some(generate), ..Seed::default() }).expect("seeded");
        told.extend(quick.changes(2500).await.iter().map(|change| path(change).to_owned()));
        // What it takes in without reading is made for it, and nothing more.
        until("something is on its way to it", async || made(&told) > 0).await;
        let made = made(&told);
        assert!(made <= MADE_MAX, "round {round}: {made} events for a caller that does not read");
        resident.push(served.resident() / 1024);
    }
    // The tail of the log in memory is full after some rounds; then nothing grows with what it has not read.
    let grown = resident[ROUNDS - 1].saturating_sub(resident[ROUNDS / 2]);
    assert!(grown <= GROWTH_MAX_KIB, "{grown} KiB more for 25,000 events that it did not read: {resident:?}");
    let late: Vec<_> = slow.changes(told.len()).await.iter().map(|change| path(change).to_owned()).collect();
    assert_eq!(late, told);
    assert_eq!(made(&told), told.len() as u64);
}
