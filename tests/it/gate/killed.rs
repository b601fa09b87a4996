//! A process that is killed while its small files are between Dropbox and their commit.

use std::time::Duration;

use dropbox_connector::api::v1::dropbox_connector_client::DropboxConnectorClient;
use tokio::time::timeout;
use tonic::transport::Channel;

use super::*;
use crate::support::victim::{Process, emptied};

const FILES: usize = 12;

fn path(n: usize) -> String {
    format!("/cut/{n}")
}

fn bytes(n: usize) -> Vec<u8> {
    noise(20_000 + n, n as u64)
}

fn uploads(client: &DropboxConnectorClient<Channel>) -> Vec<JoinHandle<Uploaded>> {
    let one = |n: usize| {
        let (mut client, bytes) = (client.clone(), bytes(n));
        let messages = requests(frames(sized(spec(&path(n)), &bytes), &bytes));
        tokio::spawn(
            async move { client.upload_file(tokio_stream::iter(messages)).await.map(tonic::Response::into_inner) },
        )
    };
    (0..FILES).map(one).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_bytes_and_commits_writes_nothing_answers_nobody_and_the_next_process_takes_the_same_files() {
    let house = emptied().await;
    let control = house.control();
    let mut first = Process::serve(&house, 1);
    let mut client = first.client().await;
    control.script([Rule::once(FOLDER, Action::Stall)]).expect("script");
    let folder = pb::CreateFolderRequest {
        application_parameter_id: PARAMETER.into(),
        path: "/slow".into(),
        ..Default::default()
    };
    let mut holder = client.clone();
    let held = tokio::spawn(async move { holder.create_folder(folder).await });
    until("the turn is taken", async || control.counter(FOLDER).running == 1).await;
    let waiting = uploads(&client);
    let sent: u64 = (0..FILES).map(|n| bytes(n).len() as u64).sum();
    until("their bytes are at Dropbox", async || {
        let counter = control.counter(APPEND);
        counter.bytes_in == sent && counter.good == counter.calls && counter.running == 0
    })
    .await;
    assert!(waiting.iter().all(|upload| !upload.is_finished()), "none is answered before its commit");
    first.kill();
    for answer in all(waiting).await {
        let lost = answer.expect_err("nobody answered");
        assert!(lost.metadata().get("grpc-retry-pushback-ms").is_none(), "no word of the server: {lost:?}");
    }
    let _ = held.await;
    for n in 0..FILES {
        assert!(control.read(None, &path(n)).is_none(), "{}", path(n));
    }
    assert_eq!((control.counter(FINISH).calls, control.counter(UPLOAD).calls), (0, 0), "no commit was asked for");
    let second = Process::serve(&house, 2);
    client = second.client().await;
    for (n, answer) in
        timeout(Duration::from_secs(60), all(uploads(&client))).await.expect("in time").iter().enumerate()
    {
        is_committed(answer, &bytes(n));
        assert!(control.read(None, &path(n)).as_deref() == Some(&bytes(n)), "{}", path(n));
    }
}
