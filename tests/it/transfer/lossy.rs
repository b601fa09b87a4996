//! A line that loses something: what was sent late or cut off in the middle arrives whole all the same.

use dropbox_connector::{
    api::v1 as pb,
    emulator::{
        Loss,
        control::{Seed, SeedFile},
    },
    limits,
};

use crate::support::{self, streams::*, *};

const DOWNLOAD: &str = "files/download";
const BYTES: usize = 40 * MIB;
/// 4,096 segments, of which some 20 end their connection. Where depends on the order of connections, which is not the same
/// each time. Fewer than six, or six with less than a MiB between each and the next, is less than one run in 10,000 each.
const FAR: usize = 256 * MIB;

#[tokio::test(flavor = "multi_thread")]
async fn a_download_comes_whole_over_a_line_that_stalls_and_is_reset_again_and_again() {
    let house = support::start().await;
    let seed = Seed { files: vec![SeedFile::bytes("/far", FAR as u64)], ..Seed::default() };
    house.control().seed(&seed).expect("seed");
    let loss = Loss { stalls: 0.01, stall_millis: 20, resets: 0.005, seed: 11, ..Loss::default() };
    house.control().switch(|switches| {
        switches.loss = Some(loss);
        // A reset takes with it what was not read by then: on a line as fast as memory that is megabytes.
        switches.connection_bytes_per_second = Some(64 * MIB as u64);
    });
    for ranges in [1, 4] {
        house.control().clear_journal();
        let request =
            pb::DownloadFileRequest { source: Some(source("/far")), parallel_ranges: ranges, ..Default::default() };
        let got = download_with(&house, request).await.unwrap_or_else(|fault| panic!("{ranges}: {fault:?}"));
        assert!(got.bytes.len() == FAR && got.trailer.verified, "{ranges}");
        let asked = house.control().counter(DOWNLOAD).calls;
        // One range each: the first, and one for every break, more than may follow each other with nothing between them.
        let least =
            if ranges == 1 { 1 + u64::from(limits::DOWNLOAD_RESUMES_MAX) } else { (FAR / limits::BLOCK_BYTES) as u64 };
        assert!(asked > least, "{ranges}: the line was not reset often: asked {asked} times");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_arrives_whole_over_a_line_that_stalls_and_may_be_reset() {
    let house = support::start().await;
    let bytes = noise(BYTES + 7, 5);
    // An append of 8 MiB is 128 segments: one in sixteen has to be sent again.
    let loss = Loss { stalls: 0.05, stall_millis: 20, resets: 0.0005, seed: 11, ..Loss::default() };
    house.control().switch(|switches| switches.loss = Some(loss));
    for lanes in [0, 1] {
        let spec = pb::UploadSpec { parallel_appends: lanes, ..spec(&format!("/far/{lanes}")) };
        let put = upload(&house, spec, &bytes).await.unwrap_or_else(|fault| panic!("{lanes}: {fault:?}"));
        assert!(put.verified && put.content_hash == content_hash(&bytes), "{put:?}");
    }
}
