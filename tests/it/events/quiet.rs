//! What a folder costs in which nothing happens, where webhooks tell when something does.

use super::*;
use crate::support::{make_parameter, process::Served};

/// Three hundred mebibytes for ten thousand accounts.
const BYTES_MAX: usize = (300 << 20) / 10_000;
const WARM: usize = 200;
const MORE: usize = 1000;

async fn watch_all(served: &mut Served, folders: std::ops::Range<usize>) -> Vec<Watch> {
    let data = tokio::task::block_in_place(|| served.told("data"));
    let mut watches = Vec::new();
    for number in folders {
        if number % 100 == 0 {
            watches
                .push((DropboxConnectorClient::connect(format!("http://{data}")).await.expect("connect"), Vec::new()));
        }
        let (client, here) = watches.last_mut().expect("a connection");
        let request = ask(|asked| asked.path = format!("/in/{number}"));
        here.push(Watch::by(client.clone(), request).await.expect("a watch"));
    }
    watches.into_iter().flat_map(|(_, here)| here).collect()
}

/// Begins are spread: it takes 40 s.
#[ignore = "1,200 folders begin within 40 s"]
#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_folder_and_its_watcher_take_less_than_thirty_kibibytes_and_come_up_without_a_storm() {
    let house = support::start().await;
    let folders = (0..WARM + MORE).map(|number| format!("/in/{number}")).collect();
    house.control().seed(&Seed { folders, ..Seed::default() }).expect("folders");
    let flags = ["--webhooks", "--public-http-listen=127.0.0.1:0"];
    let mut served = tokio::task::block_in_place(|| Served::before(&house.emulator, &flags));
    let admin = tokio::task::block_in_place(|| served.told("admin"));
    let uri = format!("http://{admin}");
    let mut admin = pb::dropbox_admin_connector_client::DropboxAdminConnectorClient::connect(uri).await.expect("admin");
    make_parameter(&mut admin, &house.emulator.account(), PARAMETER, |_| {}).await;
    let listed = || house.control().counter("files/list_folder").calls;
    let quiet = async |count: usize| {
        let bound = std::time::Duration::from_secs(120);
        let all = async {
            while listed() < count as u64 {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            // The index of the last of them is brought to where the log is.
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        };
        tokio::time::timeout(bound, all).await.expect("every folder has its index");
    };
    let _warm = watch_all(&mut served, 0..WARM).await;
    quiet(WARM).await;
    let before = served.resident();
    let begun = std::time::Instant::now();
    let _more = watch_all(&mut served, WARM..WARM + MORE).await;
    quiet(WARM + MORE).await;
    let took = begun.elapsed();
    let each = served.resident().saturating_sub(before) / MORE;
    eprintln!("{each} bytes for each of {MORE} quiet folders with a watcher, {before} before; begun within {took:?}");
    assert!(each <= BYTES_MAX, "{each} bytes each");
    // One begins every 30 ms, behind the 64 that may at once.
    assert!(took >= std::time::Duration::from_millis(30 * (MORE as u64 - 64)), "{took:?}");
    assert!(house.control().counter("files/list_folder").running_max <= 64);
    assert_eq!(house.control().counter("files/list_folder/longpoll").calls, 0);
}
