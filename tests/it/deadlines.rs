//! A deadline of a second against a Dropbox that takes ten: what the caller hears, and how soon Dropbox is let go.

use std::{
    cell::Cell,
    process::Stdio,
    time::{Duration, Instant},
};

use dropbox_connector::{
    api::v1 as pb,
    emulator::script::{Action, Rule},
};
use tonic::Code;

use crate::support::{self, process::tool, *};

const DEADLINE: Duration = Duration::from_secs(1);
/// A program starts and asks for reflection within it before it calls.
const PROGRAM_DEADLINE: Duration = Duration::from_secs(4);
/// After the caller's deadline, until Dropbox sees its request dropped.
const LATE_MAX: Duration = Duration::from_millis(100);
/// What else the machine does can only add to the time that is measured, never take from it: the least of some tries is
/// nearest to what the connector does, and a connector that is late is late in every one.
const TRIES: usize = 8;

/// When the emulator saw the last request of a route end.
async fn dropped(house: &House, route: &str) -> Instant {
    until("the request to Dropbox is dropped", async || house.control().counter(route).running == 0).await;
    Instant::now()
}

/// How long after the caller's deadline the request to `route` was dropped, at best.
async fn lateness(house: &House, route: &str, call: impl AsyncFn() -> Instant) -> Duration {
    let mut least = Duration::MAX;
    for _ in 0..TRIES {
        let calls = || house.control().counter(route).calls;
        let (before, over) = (calls(), Cell::new(false));
        let (deadline, at) = tokio::join!(
            async {
                let deadline = call().await;
                over.set(true);
                deadline
            },
            async {
                until("the request is at Dropbox, or its time was over before", async || {
                    calls() > before || over.get()
                })
                .await;
                match calls() > before {
                    true => Some(dropped(house, route).await),
                    false => None,
                }
            }
        );
        let Some(at) = at else { continue };
        least = least.min(at.saturating_duration_since(deadline));
        if least <= LATE_MAX {
            break;
        }
    }
    least
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_takes_too_long_is_dropped_at_dropbox_with_its_deadline() {
    let house = support::start().await;
    upload(&house, spec("/there"), b"x").await.expect("uploaded");
    house.control().script([Rule::always("files/get_metadata", Action::Delay { millis: 10_000 })]).expect("script");
    let late = lateness(&house, "files/get_metadata", async || {
        let mut request = tonic::Request::new(pb::GetItemRequest {
            application_parameter_id: PARAMETER.into(),
            path: "/there".into(),
            ..Default::default()
        });
        request.set_timeout(DEADLINE);
        let deadline = Instant::now() + DEADLINE;
        let status = house.patient().await.get_item(request).await.expect_err("late");
        assert_eq!((status.code(), reason(&status).as_str()), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
        deadline
    });
    let late = late.await;
    assert!(late <= LATE_MAX, "dropped {late:?} after the deadline");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_takes_too_long_is_dropped_at_dropbox_with_its_deadline() {
    let house = support::start().await;
    upload(&house, spec("/there"), &noise(8 * MIB, 1)).await.expect("uploaded");
    house
        .control()
        .script([Rule::always("files/download", Action::StallBody { after_bytes: 300_000 })])
        .expect("script");
    let late = lateness(&house, "files/download", async || {
        let mut request = tonic::Request::new(pb::DownloadFileRequest {
            application_parameter_id: PARAMETER.into(),
            source: Some(source("/there")),
            ..Default::default()
        });
        request.set_timeout(DEADLINE);
        let deadline = Instant::now() + DEADLINE;
        let mut stream = house.client().download_file(request).await.expect("open").into_inner();
        let status = loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a stream without trailer ended as if all were well"),
                Err(status) => break status,
            }
        };
        assert_eq!((status.code(), reason(&status).as_str()), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
        deadline
    });
    let late = late.await;
    assert!(late <= LATE_MAX, "dropped {late:?} after the deadline");
}

#[tokio::test(flavor = "multi_thread")]
async fn grpcurl_with_max_time_is_told_so_and_leaves_nothing_at_dropbox() {
    let house = support::start().await;
    upload(&house, spec("/there"), &noise(8 * MIB, 1)).await.expect("uploaded");
    for (method, route, action) in [
        ("GetItem", "files/get_metadata", Action::Delay { millis: 10_000 }),
        ("DownloadFile", "files/download", Action::StallBody { after_bytes: 300_000 }),
    ] {
        house.control().clear_script();
        house.control().script([Rule::always(route, action)]).expect("script");
        let late = lateness(&house, route, async || {
            let address = house.addresses.data.to_string();
            let message = format!("{{\"applicationParameterId\": \"{PARAMETER}\", \"path\": \"/there\"}}");
            let output = tokio::task::spawn_blocking(move || {
                let name = format!("dropboxconnector.v1.DropboxConnector/{method}");
                let flags = ["-plaintext", "-max-time", "4", "-d", &message, &address, &name];
                // Its clock begins with it and not before.
                let deadline = Instant::now() + PROGRAM_DEADLINE;
                let child = tool("grpcurl").args(flags).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
                (deadline, child.expect("it starts").wait_with_output().expect("it ends"))
            });
            let (deadline, output) = output.await.expect("no panic");
            let told = support::process::text(&output);
            assert!(!output.status.success() && told.contains("DeadlineExceeded"), "{told}");
            deadline
        });
        let late = late.await;
        assert!(late <= LATE_MAX, "{method}: dropped {late:?} after the deadline");
    }
}
