//! One tenant has ten thousand writes queued; the other's single write goes next.

use std::{
    cell::Cell,
    future::ready,
    time::{Duration, Instant},
};

use super::*;
use crate::support;

const SAME: &str = "same";
const OTHER: &str = "other";
const FILES: usize = 10_000;
/// Each is some hundred streams of a caller's; an HTTP/2 connection takes 1,024.
const CONNECTIONS: usize = 12;

async fn timed(house: &House, id: &str, path: &str) -> Duration {
    let begun = Instant::now();
    let bytes = noise(1000, 9);
    let mut messages = requests(frames(sized(spec(path), &bytes), &bytes));
    messages[0].application_parameter_id = id.into();
    let answer = house.client().upload_file(tokio_stream::iter(messages)).await.map(tonic::Response::into_inner);
    is_committed(&answer, &bytes);
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_ten_thousand_queued_writes_of_one_tenant_another_s_goes_next() {
    const ANSWER: Duration = Duration::from_millis(400);
    let house = support::start_with(|config| {
        config.max_uploads = 12_000;
        config.transfer_buffer_mib = 4096;
    })
    .await;
    let control = house.control();
    house.make_parameter(SAME, |_| {}).await;
    let account = control.add_account("olga@example.com", "Olga", "Other", None);
    let login = control.issue(Some(&account), None).expect("tokens");
    make_parameter(&mut house.admin().await, &login, OTHER, |_| {}).await;
    let slow = Action::DelayAnswer { millis: ANSWER.as_millis() as u64 };
    control.script([Rule::always("files/upload*", slow)]).expect("script");
    let mut idle = Duration::MAX;
    for n in 0..3 {
        for id in [SAME, OTHER] {
            idle = idle.min(timed(&house, id, &format!("/idle-{n}")).await);
        }
    }
    let held = Held::by(&house).await;
    let bytes = bytes::Bytes::from(noise(1000, 1));
    let mut uploads = Vec::new();
    for connection in 0..CONNECTIONS {
        let client = house.other_client().await;
        for n in (connection..FILES).step_by(CONNECTIONS) {
            let (mut client, bytes) = (client.clone(), bytes.clone());
            uploads.push(tokio::spawn(async move {
                let spec = pb::UploadSpec { total_size: Some(1000), ..spec(&format!("/many/{n}")) };
                let chunk = Frame::Chunk(pb::UploadChunk { write_offset: None, data: bytes, crc32c: None });
                let messages = requests(vec![Frame::Spec(spec), chunk, finish()]);
                client.upload_file(tokio_stream::iter(messages)).await.map(tonic::Response::into_inner)
            }));
        }
    }
    let arrived = async {
        while control.counter(APPEND).bytes_in < FILES as u64 * 1000 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(8 * PATIENCE, arrived).await.expect("all are queued");
    held.let_go().await;
    until("a batch is under way", async || control.counter(FINISH).running == 1).await;
    // A turn is no longer than a second; what this machine adds, the idle write has, too, or it is not added each time.
    let mut tries = Vec::new();
    loop {
        let done = control.counter(FINISH).calls;
        let (next, elsewhere) = (format!("/next-{}", tries.len()), format!("/elsewhere-{}", tries.len()));
        let (same, other) = tokio::join!(timed(&house, SAME, &next), timed(&house, OTHER, &elsewhere));
        let queued = uploads.iter().filter(|upload| !upload.is_finished()).count();
        assert!(queued >= 1000, "the first tenant still has writes queued: {queued}, {tries:?}, idle {idle:?}");
        let turns = control.counter(FINISH).calls - done;
        tries.push((same, other, turns));
        if same <= idle + 2 * Duration::from_secs(1) && turns <= 4 && other <= idle.mul_f64(1.5) {
            break;
        }
        assert!(tries.len() < 3, "of the same namespace, of another, behind so many batches: {tries:?}, idle {idle:?}");
    }
    for answer in futures::future::join_all(uploads).await {
        is_committed(&answer.expect("no panic"), &bytes);
    }
    nobody_met_contention(&house);
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_bodies_of_one_tenant_that_take_all_the_memory_it_may_another_s_small_write_goes_at_once() {
    const BODIES: usize = 80;
    /// What this machine may add to the least of some.
    const GRACE: Duration = Duration::from_millis(300);
    let house = support::start().await;
    let control = house.control();
    let account = control.add_account("olga@example.com", "Olga", "Other", None);
    let login = control.issue(Some(&account), None).expect("tokens");
    make_parameter(&mut house.admin().await, &login, OTHER, |_| {}).await;
    let mut idle = Duration::MAX;
    for n in 0..3 {
        idle = idle.min(timed(&house, OTHER, &format!("/idle-{n}")).await);
    }
    let held = Held::by(&house).await;
    let bytes = bytes::Bytes::from(noise(4_100_000, 1));
    let client = house.other_client().await;
    let uploads = (0..BODIES).map(|n| {
        let (mut client, bytes) = (client.clone(), bytes.clone());
        tokio::spawn(async move {
            let opening = Frame::Spec(sized(spec(&format!("/many/{n}")), &bytes));
            let chunks = (0..bytes.len()).step_by(MIB).map(|at| {
                let data = bytes.slice(at..bytes.len().min(at + MIB));
                Frame::Chunk(pb::UploadChunk { write_offset: None, data, crc32c: None })
            });
            let messages = requests([opening].into_iter().chain(chunks).chain([finish()]).collect());
            client.upload_file(tokio_stream::iter(messages)).await.map(tonic::Response::into_inner)
        })
    });
    let uploads: Vec<_> = uploads.collect();
    let known = Cell::new((0, Instant::now()));
    until("as many bodies are there as there is memory for", || {
        let there = control.counter(APPEND).bytes_in;
        if there != known.get().0 {
            known.set((there, Instant::now()));
        }
        ready(there > 0 && known.get().1.elapsed() > Duration::from_secs(1))
    })
    .await;
    assert!(known.get().0 < (BODIES * bytes.len()) as u64, "the others wait for memory");
    let mut least = Duration::MAX;
    for n in 0..5 {
        let other = tokio::time::timeout(PATIENCE, timed(&house, OTHER, &format!("/next-{n}"))).await;
        least = least.min(other.expect("it does not wait for the other tenant's turn"));
    }
    assert!(least <= idle.mul_f64(1.5) + GRACE, "{least:?}, idle {idle:?}");
    held.let_go().await;
    for answer in futures::future::join_all(uploads).await {
        is_committed(&answer.expect("no panic"), &bytes);
    }
}
