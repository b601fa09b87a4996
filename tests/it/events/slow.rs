//! A watcher that does not read, before a server that is a process of its own: what it costs is what the process holds.

use dropbox_connector::{
    api::v1::{
        dropbox_admin_connector_client::DropboxAdminConnectorClient, dropbox_connector_client::DropboxConnectorClient,
    },
    emulator::{Emulator, Options, control::Generate},
};
use tonic::transport::Channel;

use super::*;
use crate::support::{MIB, process::Served, until};

/// What 5,000 events that one watcher does not read may add to the process. Kept for it alone they would be 1 KiB each at
/// least; the newest entries are kept for all watchers, and were before; the rest is the allocator's.
/// On a busy machine the store opens more of its reading connections meanwhile, each with 2 MiB of pages of its own.
const GROWTH_MAX: usize = 24 * MIB;

async fn connect(served: &mut Served, port: &str) -> Channel {
    let uri = format!("http://{}", served.told(port));
    Channel::from_shared(uri).expect("a uri").connect().await.expect("connect")
}

async fn open(served: &mut Served) -> Watch {
    let mut client = DropboxConnectorClient::new(connect(served, "data").await);
    let stream = client.watch_events(ask(|asked| asked.path = "/in".into())).await.expect("a watch").into_inner();
    Watch { stream, token: String::new() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_stops_reading_costs_no_memory_and_gets_everything_in_the_end() {
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
    let mut told = Vec::new();
    let mut before = 0;
    // The first round fills what is kept for everybody.
    for round in 0..3 {
        let generate = Generate { folder: format!("/in/{round}"), files: 2499, bytes: 1, per_folder: None };
        control.seed(&Seed { generate: Some(generate), ..Seed::default() }).expect("seeded");
        told.extend(quick.changes(2500).await.iter().map(|change| path(change).to_owned()));
        if round == 0 {
            before = served.resident();
        }
    }
    // What a busy machine puts off is given back; what is kept for a caller that does not read never would be.
    until("its memory is what it was", async || served.resident() <= before + GROWTH_MAX).await;
    let late: Vec<_> = slow.changes(told.len()).await.iter().map(|change| path(change).to_owned()).collect();
    assert_eq!(late, told);
}
