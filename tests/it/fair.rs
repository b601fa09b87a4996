//! Two tenants on one connector: whatever one of them does, the other finds places for its uploads, downloads and calls; and
//! what a policy allows in a second.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use dropbox_connector::{
    api::v1::{self as pb, download_file_response::Payload},
    emulator::script::{Action, Rule},
};
use tonic::{Code, Status, Streaming};

use crate::support::{streams::OpenUpload, *};

const OTHER: &str = "q";

/// A house with `p`, and `q` of another Dropbox account; eight places for uploads and eight for downloads.
async fn two_tenants(edit: impl FnOnce(&mut pb::ApplicationParameter)) -> House {
    let house = start_with(|config| {
        config.max_uploads = 8;
        config.max_downloads = 8;
    })
    .await;
    let account = house.control().add_account("olga@example.com", "Olga", "Other", None);
    let login = house.control().issue(Some(&account), None).expect("tokens");
    make_parameter(&mut house.admin().await, &login, OTHER, edit).await;
    house
}

async fn upload_as(house: &House, id: &str, path: &str, bytes: &[u8]) -> Result<pb::UploadFileResponse, Status> {
    let mut messages = requests(frames(spec(path), bytes));
    messages[0].application_parameter_id = id.into();
    let sent = house.client().upload_file(tokio_stream::iter(messages)).await;
    sent.map(tonic::Response::into_inner)
}

async fn open_download(house: &House, id: &str) -> Result<Streaming<pb::DownloadFileResponse>, Status> {
    let request = pb::DownloadFileRequest {
        application_parameter_id: id.into(),
        source: Some(source("/file")),
        ..Default::default()
    };
    let mut stream = house.other_client().await.download_file(request).await?.into_inner();
    let header = stream.message().await?.and_then(|message| message.payload);
    assert!(matches!(header, Some(Payload::Header(_))));
    Ok(stream)
}

async fn list(house: &House, id: &str) -> Result<(), Status> {
    let request = pb::ListFolderRequest { application_parameter_id: id.into(), ..Default::default() };
    house.client().list_folder(request).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_tenants_downloads_leave_places_to_the_other() {
    let house = two_tenants(|_| {}).await;
    for id in [PARAMETER, OTHER] {
        upload_as(&house, id, "/file", &noise(2 * MIB, 1)).await.expect("uploaded");
    }
    // No body ever comes to its end.
    house.control().script([Rule::always("files/download", Action::StallBody { after_bytes: 1000 })]).expect("a rule");
    let mut open = Vec::new();
    let refused = loop {
        match open_download(&house, PARAMETER).await {
            Ok(stream) => open.push(stream),
            Err(status) => break status,
        }
    };
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::ResourceExhausted, "CONNECTOR_BUSY"));
    assert!(retry_delay(&refused).is_some() && refused.message().contains("application parameter"), "{refused:?}");
    let info = house.client().get_server_info(pb::GetServerInfoRequest {}).await.expect("info").into_inner();
    let told = info.limits.expect("limits").max_parameter_downloads;
    assert_eq!((open.len(), told), (7, 7), "all but what is kept for others");
    let other = open_download(&house, OTHER).await.expect("there is a place for the other");
    open.truncate(4);
    // What was given back is found.
    let again = async {
        loop {
            match open_download(&house, OTHER).await {
                Ok(stream) => break stream,
                Err(status) => assert_eq!(reason(&status), "CONNECTOR_BUSY"),
            }
        }
    };
    let again = tokio::time::timeout(PATIENCE, again).await.expect("a place for one more");
    drop((other, again));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_tenants_uploads_leave_places_to_the_other_and_its_queue_keeps_nobody_waiting() {
    let house = two_tenants(|_| {}).await;
    list(&house, PARAMETER).await.expect("it is known");
    list(&house, OTHER).await.expect("it is known");
    let bytes = Arc::new(noise(3 * BLOCK + MIB, 2));
    let sent = Arc::new(Mutex::new(Vec::new()));
    let mut open = Vec::new();
    for n in 0..12 {
        let (mut upload, bytes) = (OpenUpload::begin(&house, spec(&format!("/{n}"))).await, bytes.clone());
        let sent = sent.clone();
        open.push(tokio::spawn(async move {
            // Who is not let in is not read, and never comes to its end.
            assert!(upload.send_range(&bytes, 0, bytes.len()).await);
            sent.lock().unwrap().push(n);
            upload.early_answer().await
        }));
    }
    let started = || house.control().counter("files/upload_session/start").calls;
    until("all are open that may be", async || started() == 7).await;
    for n in 0..3 {
        upload_as(&house, OTHER, &format!("/{n}"), b"small").await.expect("the other is let in at once");
        let large = noise(4 * BLOCK, 3);
        upload_as(&house, OTHER, &format!("/large-{n}"), &large).await.expect("with a large file, too");
    }
    let before = started();
    assert!(open.iter().all(|upload| !upload.is_finished()), "five still wait, and nobody was refused");
    // One that leaves makes room for the next of the same tenant.
    until("one has sent everything", async || !sent.lock().unwrap().is_empty()).await;
    let let_in: usize = sent.lock().unwrap()[0];
    open[let_in].abort();
    until("the next one is let in", async || started() > before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_whose_calls_hang_keeps_no_other_waiting() {
    let house = two_tenants(|_| {}).await;
    list(&house, PARAMETER).await.expect("it is known");
    list(&house, OTHER).await.expect("it is known");
    let places = share_of_one(&house);
    let hang = Rule { times: Some(places), ..Rule::always("files/list_folder", Action::Stall) };
    house.control().script([hang]).expect("a rule");
    let calls: Vec<_> = (0..3 * places)
        .map(|_| {
            let mut client = house.client();
            let request = pb::ListFolderRequest { application_parameter_id: PARAMETER.into(), ..Default::default() };
            tokio::spawn(async move { client.list_folder(request).await })
        })
        .collect();
    until("all its places are taken", async || house.control().counter("files/list_folder").running as u64 >= places)
        .await;
    let begun = Instant::now();
    for _ in 0..20 {
        list(&house, OTHER).await.expect("answered");
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(calls.iter().all(|call| !call.is_finished()), "the first still hangs");
    calls.iter().for_each(tokio::task::JoinHandle::abort);
}

/// Of the requests in flight of an account, what one parameter alone may have.
fn share_of_one(house: &House) -> u64 {
    u64::try_from(house.config().max_requests_per_account / 8 * 7).expect("small")
}

/// A house with `p`, and `q` of the same Dropbox account.
async fn two_on_one_account(edit: impl FnOnce(&mut pb::ApplicationParameter)) -> House {
    let house = start().await;
    house.make_parameter(OTHER, edit).await;
    list(&house, PARAMETER).await.expect("it is known");
    list(&house, OTHER).await.expect("it is known");
    house
}

fn folder(id: &str, path: String) -> pb::CreateFolderRequest {
    pb::CreateFolderRequest { application_parameter_id: id.into(), path, ..Default::default() }
}

const FOLDERS: &str = "files/create_folder_v2";

#[tokio::test(flavor = "multi_thread")]
async fn of_two_on_one_account_the_writes_of_one_do_not_wait_for_all_that_the_other_has_queued() {
    let house = two_on_one_account(|_| {}).await;
    house.control().script([Rule::always(FOLDERS, Action::Delay { millis: 100 })]).expect("a rule");
    // Folders in folders go one by one.
    let writes: Vec<_> = (1..=60)
        .map(|n| {
            let mut client = house.client();
            let deep = pb::CreateFolderRequest { return_existing: true, ..folder(PARAMETER, "/p".repeat(n)) };
            tokio::spawn(async move { client.create_folder(deep).await })
        })
        .collect();
    // They take half a second, one after the other: time for all to be in the queue.
    until("five are done", async || house.control().counter(FOLDERS).calls >= 5).await;
    for n in 0..3 {
        house.client().create_folder(folder(OTHER, format!("/q-{n}"))).await.expect("made");
    }
    let made = house.control().counter(FOLDERS).calls;
    assert!(made < 30, "it waited for those of the other: {made} calls");
    for write in writes {
        write.await.expect("no panic").expect("made in the end");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_on_one_account_the_calls_of_one_that_hang_leave_places_to_the_other() {
    let house = two_on_one_account(|_| {}).await;
    let places = share_of_one(&house);
    let hang = Rule::times("files/list_folder", places, Action::Stall);
    house.control().script([hang]).expect("a rule");
    let calls: Vec<_> = (0..3 * places)
        .map(|_| {
            let mut client = house.client();
            let request = pb::ListFolderRequest { application_parameter_id: PARAMETER.into(), ..Default::default() };
            tokio::spawn(async move { client.list_folder(request).await })
        })
        .collect();
    until("it has its share", async || house.control().counter("files/list_folder").running as u64 >= places).await;
    let other = async {
        for n in 0..20 {
            list(&house, OTHER).await.expect("answered");
            house.client().create_folder(folder(OTHER, format!("/q-{n}"))).await.expect("made");
        }
    };
    tokio::time::timeout(PATIENCE, other).await.expect("there are places for the other");
    assert!(calls.iter().all(|call| !call.is_finished()), "the first still hangs");
    calls.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_finds_no_place_for_its_parameter_keeps_the_namespace_to_nobody() {
    let house = two_on_one_account(|parameter| {
        parameter.policy = Some(pb::ParameterPolicy { max_concurrency: 1, ..Default::default() });
    })
    .await;
    upload_as(&house, PARAMETER, "/file", &noise(2 * MIB, 1)).await.expect("uploaded");
    // Its only place is taken by a body that never ends.
    house.control().script([Rule::always("files/download", Action::StallBody { after_bytes: 1000 })]).expect("a rule");
    let stalled = open_download(&house, OTHER).await.expect("opened");
    let mut client = house.client();
    let waiting = tokio::spawn(async move { client.create_folder(folder(OTHER, "/q".into())).await });
    let others = async {
        for n in 0..20 {
            house.client().create_folder(folder(PARAMETER, format!("/p-{n}"))).await.expect("made");
        }
    };
    tokio::time::timeout(PATIENCE, others).await.expect("the namespace is free for the other");
    assert!(!waiting.is_finished(), "it has no place");
    drop(stalled);
    waiting.await.expect("no panic").expect("made as soon as it has one");
}

async fn set_rate(house: &House, bytes_per_second: usize) {
    let max_bytes_per_second = i64::try_from(bytes_per_second).expect("small");
    let request = pb::UpdateApplicationParameterRequest {
        application_parameter: Some(pb::ApplicationParameter {
            application_parameter_id: PARAMETER.into(),
            policy: Some(pb::ParameterPolicy { max_bytes_per_second, ..Default::default() }),
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["policy.max_bytes_per_second".into()] }),
        ..Default::default()
    };
    house.admin().await.update_application_parameter(request).await.expect("updated");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_rate_holds_for_streams_that_run_and_they_share_it_with_those_that_come() {
    let house = start().await;
    let bytes = noise(8 * MIB, 5);
    // Without a limit when it begins; then with one, shared with an upload that begins later.
    let mut open = OpenUpload::begin(&house, spec("/first")).await;
    assert!(open.send_range(&bytes, 0, 4 * MIB).await);
    set_rate(&house, 2 * MIB).await;
    list(&house, PARAMETER).await.expect("it was read again");
    let begun = Instant::now();
    let rest = async {
        assert!(open.send_range(&bytes, 4 * MIB, 8 * MIB).await);
        assert!(open.send(finish()).await);
        open.answer().await.expect("uploaded");
    };
    let (later, ()) = tokio::join!(upload_as(&house, PARAMETER, "/second", &bytes[..4 * MIB]), rest);
    later.expect("uploaded");
    assert!(begun.elapsed() >= Duration::from_secs(3), "eight MiB take four seconds: {:?}", begun.elapsed());
    // One that has hours to wait goes on as soon as the limit is gone.
    set_rate(&house, 1000).await;
    list(&house, PARAMETER).await.expect("it was read again");
    let request = pb::DownloadFileRequest {
        application_parameter_id: PARAMETER.into(),
        source: Some(source("/first")),
        ..Default::default()
    };
    let mut download = house.client().download_file(request).await.expect("opened").into_inner();
    let mut got = 0;
    while got == 0 {
        if let Some(Payload::Chunk(chunk)) = download.message().await.expect("well").and_then(|next| next.payload) {
            got += chunk.data.len();
        }
    }
    set_rate(&house, 0).await;
    let rest = async {
        while let Some(message) = download.message().await.expect("well") {
            if let Some(Payload::Chunk(chunk)) = message.payload {
                got += chunk.data.len();
            }
        }
    };
    tokio::time::timeout(PATIENCE, rest).await.expect("it waits for nothing any more");
    assert_eq!(got, bytes.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_bounds_the_bytes_of_a_second_each_way_over_all_streams() {
    let house = two_tenants(|parameter| {
        let max_bytes_per_second = i64::try_from(2 * MIB).expect("small");
        parameter.policy = Some(pb::ParameterPolicy { max_bytes_per_second, ..Default::default() });
    })
    .await;
    let get = pb::GetApplicationParameterRequest { application_parameter_id: OTHER.into() };
    let shown = house.admin().await.get_application_parameter(get).await.expect("found").into_inner();
    let policy = shown.application_parameter.expect("a parameter").policy.expect("a policy");
    assert_eq!(policy.max_bytes_per_second, 2 * 1024 * 1024);
    list(&house, OTHER).await.expect("it is known");
    let bytes = noise(3 * MIB, 4);
    // Six MiB in two streams: two are saved up, and four take two seconds. The last chunk is paid for behind it.
    let begun = Instant::now();
    let (one, two) =
        tokio::join!(upload_as(&house, OTHER, "/file", &bytes), upload_as(&house, OTHER, "/file-2", &bytes));
    one.expect("uploaded");
    two.expect("uploaded");
    assert!(begun.elapsed() >= Duration::from_millis(1500), "{:?}", begun.elapsed());
    let download = || async {
        let request = pb::DownloadFileRequest {
            application_parameter_id: OTHER.into(),
            source: Some(source("/file")),
            ..Default::default()
        };
        assert!(download_with(&house, request).await.expect("downloaded").bytes == bytes);
    };
    let begun = Instant::now();
    tokio::join!(download(), download());
    assert!(begun.elapsed() >= Duration::from_millis(1500), "{:?}", begun.elapsed());
    let negative = pb::ApplicationParameter {
        application_parameter_id: OTHER.into(),
        policy: Some(pb::ParameterPolicy { max_bytes_per_second: -1, ..Default::default() }),
        ..Default::default()
    };
    let request = pb::UpdateApplicationParameterRequest {
        application_parameter: Some(negative),
        update_mask: Some(prost_types::FieldMask { paths: vec!["policy.max_bytes_per_second".into()] }),
        ..Default::default()
    };
    let refused = house.admin().await.update_application_parameter(request).await.expect_err("negative");
    assert_eq!(reason(&refused), "INVALID_FIELD");
}
