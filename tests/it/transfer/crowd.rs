//! Far more transfers than the budget has blocks, in both directions, among them some that stop in the middle: all others come
//! through, and nobody is left behind.

use std::{sync::Arc, time::Duration};

use dropbox_connector::api::v1 as pb;
use tokio::{task::JoinSet, time::timeout};
use tonic::Status;

use crate::support::{self, streams::*, *};

/// Of 64 MiB some 46 are for blocks and open streams: 11 blocks, of which most pay for open streams.
const BUDGET_MIB: u64 = 64;
const UPLOADS: usize = 30;
const DOWNLOADS: usize = 12;
/// Each longer than a part, of sizes that end everywhere in a block.
fn size(n: usize) -> usize {
    5 * MIB + n * 271_828
}

/// Comes back as often as it is told to. Who is told to without a delay, or told anything else, has failed.
async fn patiently<T, F: Future<Output = Result<T, Status>>>(call: impl Fn() -> F) -> T {
    loop {
        match call().await {
            Ok(answer) => return answer,
            Err(busy) if reason(&busy) == "CONNECTOR_BUSY" => {
                tokio::time::sleep(retry_delay(&busy).expect("when to come back").min(Duration::from_millis(300)))
                    .await;
            }
            Err(fault) => panic!("{fault:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn far_more_transfers_than_blocks_come_through_in_both_directions_beside_some_that_stopped() {
    let house = Arc::new(support::start_with(|config| config.transfer_buffer_mib = BUDGET_MIB).await);
    let source = Arc::new(noise(size(UPLOADS), 1));
    let kept = noise(33 * MIB, 2);
    upload(&house, spec("/kept"), &kept).await.expect("uploaded");
    let kept = Arc::new(kept);
    // A block each, until the rule of pace ends them; and downloads that nobody reads behind their header.
    let mut stopped = Vec::new();
    for n in 0..2 {
        let mut upload = OpenUpload::begin(&house, spec(&format!("/stopped-{n}"))).await;
        assert!(upload.send_range(&source, 0, 3 * MIB).await);
        stopped.push(upload);
    }
    let mut unread = Vec::new();
    for _ in 0..8 {
        let request = pb::DownloadFileRequest {
            application_parameter_id: PARAMETER.into(),
            source: Some(support::source("/kept")),
            parallel_ranges: 8,
            ..Default::default()
        };
        let mut client = house.other_client().await;
        let mut stream = client.download_file(request).await.expect("open").into_inner();
        assert!(stream.message().await.expect("a header").is_some());
        unread.push(stream);
    }
    let mut crowd = JoinSet::new();
    for n in 0..UPLOADS {
        let (house, source) = (house.clone(), source.clone());
        crowd.spawn(async move {
            let bytes = &source[..size(n)];
            // Half of them do not say how large they are.
            let total_size = (n % 2 == 0).then_some(bytes.len() as i64);
            let path = format!("/up-{n}");
            let answer = patiently(|| upload(&house, pb::UploadSpec { total_size, ..spec(&path) }, bytes)).await;
            assert_eq!((answer.content_hash, answer.verified), (content_hash(bytes), true), "{path}");
        });
    }
    for n in 0..DOWNLOADS {
        let (house, kept) = (house.clone(), kept.clone());
        crowd.spawn(async move {
            let got = patiently(|| {
                let source = Some(support::source("/kept"));
                let request = pb::DownloadFileRequest { source, parallel_ranges: n as i32 % 9, ..Default::default() };
                download_with(&house, request)
            });
            let got = got.await;
            assert!(got.bytes == **kept && got.trailer.verified, "{n}");
        });
    }
    let all = async {
        while let Some(ended) = crowd.join_next().await {
            ended.expect("it comes through");
        }
    };
    timeout(PATIENCE * 8, all).await.expect("nobody waits for ever");
    for mut upload in stopped {
        if upload.is_answered() {
            let ended = upload.early_answer().await.expect_err("it is not finished");
            assert_eq!(reason(&ended), "CONNECTOR_BUSY", "too slow while others waited: {ended:?}");
            assert!(retry_delay(&ended).is_some());
        }
    }
    drop(unread);
}
