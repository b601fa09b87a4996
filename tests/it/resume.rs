//! Uploads that are broken off at every step and taken up again: the same bytes, and few of them twice.

use dropbox_connector::{
    api::v1::{self as pb, upload_file_request::Frame},
    emulator::{
        ResentBlock,
        script::{Action, Rule},
    },
};
use sqlx::{Connection, SqliteConnection};
use tonic::Code;

use crate::support::{self, streams::*, victim::*, *};

mod doubts;

const START: &str = "files/upload_session/start";
const APPEND: &str = "files/upload_session/append_v2";
const FINISH: &str = "files/upload_session/finish";

/// The two lanes that have a session: a spec that `StartUpload` makes an ordered or a parallel one of.
fn lanes(path: &str, size: usize) -> [(&'static str, pb::UploadSpec); 2] {
    let sized = |n| pb::UploadSpec { parallel_appends: n, total_size: Some(size as i64), ..spec(path) };
    [("ordered", sized(1)), ("parallel", sized(4))]
}

fn offset(status: &pb::GetUploadStatusResponse) -> usize {
    usize::try_from(status.persisted_offset).expect("small")
}

/// A caller that vanishes behind 20 MiB, when some of them are at Dropbox.
async fn break_off(house: &House, upload_id: &str, bytes: &[u8]) {
    let mut stream = OpenUpload::resume(house, upload_id).await;
    assert!(stream.send_range(bytes, 0, 20 * MIB).await);
    until("something is persisted", || async {
        upload_status(house, upload_id).await.expect("status").persisted_offset >= 8 * MIB as i64
    })
    .await;
    stream.abandon().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_killed_at_forty_percent_goes_on_where_dropbox_is() {
    let house = support::start().await;
    let bytes = noise(50 * MIB + 3, 1);
    for (lane, spec) in lanes("/killed", bytes.len()) {
        house.control().clear_journal();
        let spec = pb::UploadSpec { path: format!("/{lane}"), ..spec };
        let upload_id = start_upload(&house, spec).await;
        break_off(&house, &upload_id, &bytes).await;
        let status = upload_status(&house, &upload_id).await.expect("status");
        assert_eq!(status.state(), pb::UploadState::Open);
        let from = offset(&status);
        assert!(from.is_multiple_of(BLOCK) && (8 * MIB..=20 * MIB).contains(&from), "{lane}: {from}");
        let answer = upload_frames(&house, resume_frames(&upload_id, &bytes, from)).await.expect(lane);
        assert_eq!((answer.content_hash, answer.verified), (content_hash(&bytes), true));
        assert!(house.control().read(None, &format!("/{lane}")).as_deref() == Some(&bytes), "{lane}");
        let sent = house.control().counter(APPEND).bytes_in;
        let twice = sent - bytes.len() as u64;
        let most = if lane == "parallel" { 0 } else { 8 * MIB as u64 };
        assert!(twice <= most, "{lane}: {twice} bytes were sent twice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_stream_may_begin_far_below_what_dropbox_has_and_name_its_offset_once() {
    let house = support::start().await;
    let bytes = noise(30 * MIB + 3, 8);
    for (lane, sized) in [("ordered", true), ("ordered", false), ("parallel", true), ("parallel", false)] {
        let (_, spec) = lanes("", bytes.len()).into_iter().find(|(name, _)| *name == lane).expect("a lane");
        let total_size = spec.total_size.filter(|_| sized);
        let path = format!("/{lane}-{sized}");
        let upload_id = start_upload(&house, pb::UploadSpec { path: path.clone(), total_size, ..spec }).await;
        break_off(&house, &upload_id, &bytes).await;
        let mut frames = vec![Frame::ResumeUploadId(upload_id), chunk_at(MIB, &bytes[MIB..2 * MIB])];
        frames.extend(bytes[2 * MIB..].chunks(MIB).map(chunk));
        frames.push(finish());
        let answer = upload_frames(&house, frames).await.expect(&path);
        assert_eq!(file_of(answer.item.as_ref()).size, bytes.len() as i64, "{path}");
        assert_eq!(answer.content_hash, content_hash(&bytes), "{path}");
        assert!(house.control().read(None, &path).as_deref() == Some(&bytes), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_started_ahead_takes_its_bytes_in_a_stream() {
    let house = support::start().await;
    for (size, appends, kind) in [(33 * MIB, 0, "concurrent"), (33 * MIB, 1, "sequential"), (9 * MIB, 0, "sequential")]
    {
        house.control().clear_journal();
        let bytes = noise(size, 2);
        let path = format!("/{size}-{appends}");
        let spec = pb::UploadSpec {
            total_size: Some(size as i64),
            parallel_appends: appends,
            content_hash: content_hash(&bytes),
            ..spec(&path)
        };
        let upload_id = start_upload(&house, spec).await;
        assert!(upload_id.len() <= 3328, "3.25 KiB at most");
        let start = house.control().journal().into_iter().find(|entry| entry.route == START).expect("a session");
        assert_eq!(start.arg["session_type"][".tag"].as_str().unwrap_or("sequential"), kind);
        let status = upload_status(&house, &upload_id).await.expect("status");
        assert_eq!((status.state(), status.persisted_offset), (pb::UploadState::Open, 0));
        let answer = upload_frames(&house, resume_frames(&upload_id, &bytes, 0)).await.expect("uploaded");
        assert!(answer.verified);
        assert!(house.control().read(None, &path).as_deref() == Some(&bytes));
        // Asked again, the answer is the same and nothing is written.
        let finishes = house.control().counter(FINISH).calls;
        let again = upload_frames(&house, resume_frames(&upload_id, &[], 0)).await.expect("committed before");
        assert_eq!(file_of(again.item.as_ref()).rev, file_of(answer.item.as_ref()).rev);
        assert_eq!(house.control().counter(FINISH).calls, finishes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_chunk_of_a_resumed_stream_names_its_offset() {
    let house = support::start().await;
    let upload_id = start_upload(&house, spec("/unnamed")).await;
    let frames = vec![Frame::ResumeUploadId(upload_id.clone()), chunk(b"abc"), finish()];
    let refused = upload_frames(&house, frames).await.expect_err("no offset");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    let frames = vec![Frame::ResumeUploadId(upload_id.clone()), chunk_at(BLOCK, b"abc"), finish()];
    let gap = upload_frames(&house, frames).await.expect_err("a gap");
    assert_eq!((gap.code(), reason(&gap).as_str()), (Code::OutOfRange, "OFFSET_GAP"));
    assert_eq!(fact(&gap, "persistedOffset").as_deref(), Some("0"));
    upload_frames(&house, resume_frames(&upload_id, b"abc", 0)).await.expect("uploaded");
    assert_eq!(house.control().read(None, "/unnamed").as_deref(), Some(&b"abc"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_server_loses_nothing_that_is_persisted() {
    let mut house = support::start().await;
    let bytes = noise(37 * MIB + 1, 3);
    for (lane, spec) in lanes("/restarted", bytes.len()) {
        house.control().clear_journal();
        let spec = pb::UploadSpec { path: format!("/{lane}"), ..spec };
        let mut half = frames(spec, &bytes[..17 * MIB]);
        half.pop();
        let open = upload_frames(&house, half).await.expect("half-closed");
        assert_eq!((open.state(), open.persisted_offset), (pb::UploadState::Open, 16 * MIB as i64), "{lane}");
        house.restart().await;
        let status = upload_status(&house, &open.upload_id).await.expect("status");
        assert_eq!((status.state(), status.persisted_offset), (pb::UploadState::Open, 16 * MIB as i64));
        let answer = upload_frames(&house, resume_frames(&open.upload_id, &bytes, 16 * MIB)).await.expect(lane);
        assert_eq!(answer.content_hash, content_hash(&bytes), "from digests that were kept");
        assert!(house.control().read(None, &format!("/{lane}")).as_deref() == Some(&bytes));
        assert_eq!(house.control().counter(APPEND).bytes_in, bytes.len() as u64, "{lane}: nothing is sent twice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_stream_on_one_id_takes_over_and_the_file_is_intact() {
    let house = support::start().await;
    let bytes = noise(37 * MIB + 1, 4);
    for (lane, spec) in lanes("/taken", bytes.len()) {
        let spec = pb::UploadSpec { path: format!("/{lane}"), ..spec };
        let upload_id = start_upload(&house, spec).await;
        let mut first = OpenUpload::resume(&house, &upload_id).await;
        assert!(first.send_range(&bytes, 0, 17 * MIB).await);
        until("the first has persisted something", || async {
            upload_status(&house, &upload_id).await.expect("status").persisted_offset > 0
        })
        .await;
        let second = upload_frames(&house, resume_frames(&upload_id, &bytes, 0));
        let (second, first) = tokio::join!(second, first.early_answer());
        let ended = first.expect_err("taken over");
        assert_eq!((ended.code(), reason(&ended).as_str()), (Code::Aborted, "UPLOAD_TAKEN_OVER"), "{lane}");
        assert!(retry_delay(&ended).is_none());
        assert_eq!(second.expect(lane).content_hash, content_hash(&bytes));
        assert!(house.control().read(None, &format!("/{lane}")).as_deref() == Some(&bytes), "{lane}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_in_another_process_on_the_same_store_takes_over() {
    let house = emptied().await;
    let bytes = noise(49 * MIB + 1, 12);
    for (lane, spec) in lanes("/process", bytes.len()) {
        let spec = pb::UploadSpec { path: format!("/{lane}"), ..spec };
        let (one, two) = (Victim::start(house.config()).await, Victim::start(house.config()).await);
        let upload_id = started_at(&one, spec).await;
        let mut first = OpenUpload::on(one.client().await);
        assert!(first.send(Frame::ResumeUploadId(upload_id.clone())).await);
        assert!(first.send_range(&bytes, 0, 17 * MIB).await);
        until("the first has persisted something", || async {
            status_at(&one, &upload_id).await.expect("status").persisted_offset > 0
        })
        .await;
        let sending = async {
            let _ = first.send_range(&bytes, 17 * MIB, bytes.len()).await;
            first.early_answer().await.expect_err("another one writes")
        };
        let (second, ended) = tokio::join!(finish_at(&two, &upload_id, &bytes, 0), sending);
        let why = reason(&ended);
        assert_eq!(ended.code(), Code::Aborted, "{lane}: {ended:?}");
        assert!(["UPLOAD_TAKEN_OVER", "UPLOAD_CONCURRENT_WRITER"].contains(&why.as_str()), "{lane}: {why}");
        assert_eq!(second.expect(lane).content_hash, content_hash(&bytes));
        assert!(house.control().read(None, &format!("/{lane}")).as_deref() == Some(&bytes), "{lane}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_locked_in_mid_upload_is_unavailable_and_the_upload_is_not_lost() {
    let bytes = noise(17 * MIB, 13);
    let locked = async |lane: &str, appends| {
        let house = support::start().await;
        let spec = pb::UploadSpec { parallel_appends: appends, ..spec(&format!("/{lane}")) };
        let mut stream = OpenUpload::begin(&house, spec).await;
        assert!(stream.send_range(&bytes, 0, 17 * MIB).await);
        until("the session has its row and its first bytes", || async { house.control().counter(APPEND).good >= 2 })
            .await;
        let mut locker = SqliteConnection::connect(&house.config().store_url).await.expect("the store");
        sqlx::query("PRAGMA busy_timeout = 20000").execute(&mut locker).await.expect("patience");
        sqlx::query("BEGIN EXCLUSIVE").execute(&mut locker).await.expect("locked");
        assert!(stream.send(finish()).await);
        let fault = stream.answer().await.expect_err("the store does not answer");
        assert_eq!(fault.code(), Code::Unavailable, "{lane}: {fault:?}");
        assert!(retry_delay(&fault).is_some(), "{lane}");
        assert_eq!(house.control().counter(FINISH).calls, 0, "no commit without its intent");
        let upload_id = fact(&fault, "uploadId").expect("resumable");
        sqlx::query("ROLLBACK").execute(&mut locker).await.expect("unlocked");
        locker.close().await.expect("closed");
        let status = upload_status(&house, &upload_id).await.expect("status");
        let from = if status.state() == pb::UploadState::Open { offset(&status) } else { bytes.len() };
        let answer = upload_frames(&house, resume_frames(&upload_id, &bytes, from)).await.expect(lane);
        assert_eq!(answer.state(), pb::UploadState::Committed);
        assert!(house.control().read(None, &format!("/{lane}")).as_deref() == Some(&bytes), "{lane}");
    };
    tokio::join!(locked("ordered", 1), locked("parallel", 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn handles_of_others_broken_ones_and_expired_ones_are_told_apart() {
    let house = support::start().await;
    house.make_parameter("other", |_| {}).await;
    let upload_id = start_upload(&house, spec("/mine")).await;
    let asked = |id: &str, upload_id: &str| pb::GetUploadStatusRequest {
        application_parameter_id: id.into(),
        upload_id: upload_id.into(),
        ..Default::default()
    };
    let mut client = house.client();
    let stranger = client.get_upload_status(asked("other", &upload_id)).await.expect_err("not yours");
    assert_eq!((stranger.code(), reason(&stranger).as_str()), (Code::PermissionDenied, "HANDLE_NOT_YOURS"));
    for broken in ["x", &upload_id[..upload_id.len() - 4], "AAAA", &format!("{upload_id}A")] {
        let refused = client.get_upload_status(asked(PARAMETER, broken)).await.expect_err("broken");
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "HANDLE_MALFORMED"));
        let frames = vec![Frame::ResumeUploadId(broken.into()), finish()];
        let refused = upload_frames(&house, frames).await.expect_err("broken");
        assert_eq!(reason(&refused), "HANDLE_MALFORMED");
    }
    let none = client.get_upload_status(asked(PARAMETER, "")).await.expect_err("none");
    assert_eq!(reason(&none), "INVALID_FIELD");
    let bytes = noise(9 * MIB, 6);
    house.control().expire_sessions();
    let gone = upload_frames(&house, resume_frames(&upload_id, &bytes, 0)).await.expect_err("Dropbox has forgotten it");
    assert_eq!((gone.code(), reason(&gone).as_str()), (Code::NotFound, "UPLOAD_NOT_FOUND"));
    assert!(retry_delay(&gone).is_none());
}

/// Kills the server when the `nth` call of a route has gone wrong, starts another one and resumes there.
async fn killed_at(
    lane: &str,
    spec: &pb::UploadSpec,
    bytes: &[u8],
    route: &str,
    nth: u64,
    action: Action,
    resent: ResentBlock,
) {
    let what = format!("{lane} {route} {nth} {action:?} {resent:?}");
    let house = emptied().await;
    let control = house.control();
    control.switch(|switches| switches.resent_block = resent);
    let mut victim = Victim::start(house.config()).await;
    let upload_id = started_at(&victim, spec.clone()).await;
    control.script([Rule::nth(route, nth, action)]).expect("script");
    let mut client = victim.client().await;
    let stream = tokio_stream::iter(requests(resume_frames(&upload_id, bytes, 0)));
    let calling = tokio::spawn(async move { client.upload_file(stream).await });
    until(&what, || async {
        let fired = control.standing().iter().any(|rule| rule.fired > 0);
        let journal = control.journal();
        fired && journal.iter().filter(|entry| entry.route == route).nth(nth as usize - 1).is_some_and(|e| e.ended)
    })
    .await;
    victim.kill();
    let _ = calling.await.expect("no panic");
    control.clear_script();
    let next = Victim::start(house.config()).await;
    let status = status_at(&next, &upload_id).await.unwrap_or_else(|fault| panic!("{what}: {fault:?}"));
    let from = if status.state() == pb::UploadState::Open { offset(&status) } else { bytes.len() };
    assert!(status.state() != pb::UploadState::Open || from.is_multiple_of(BLOCK), "{what}: {from}");
    let answer = finish_at(&next, &upload_id, bytes, from).await.unwrap_or_else(|fault| panic!("{what}: {fault:?}"));
    assert_eq!(answer.state(), pb::UploadState::Committed, "{what}");
    assert!(control.read(None, &spec.path).as_deref() == Some(bytes), "{what}");
}

/// Side by side: a resume waits for the writer that was killed.
async fn every_point(lane: &str, spec: &pb::UploadSpec, bytes: &[u8], points: &[(&str, u64)]) {
    let kills = points.iter().flat_map(|(route, nth)| {
        [Action::CutBefore, Action::CutAfter]
            .map(|action| killed_at(lane, spec, bytes, route, *nth, action, ResentBlock::Accepted))
    });
    futures::future::join_all(kills).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_server_is_killed_while_it_makes_the_session_is_sent_again_whole() {
    let bytes = noise(18 * MIB, 14);
    let killed = async |appends: i32, action: Action| {
        let what = format!("{appends} {action:?}");
        let house = emptied().await;
        let control = house.control();
        // As a plain upload, and ahead of the bytes.
        for ahead in [false, true] {
            let path = format!("/start-{ahead}");
            let spec = pb::UploadSpec { parallel_appends: appends, ..spec(&path) };
            let mut victim = Victim::start(house.config()).await;
            control.clear_script();
            control.clear_journal();
            control.script([Rule::once(START, action.clone()), Rule::always(START, Action::Stall)]).expect("script");
            let mut client = victim.client().await;
            let (request, stream) = (start_request(spec.clone()), requests(frames(spec.clone(), &bytes)));
            let calling = tokio::spawn(async move {
                match ahead {
                    true => client.start_upload(request).await.map(drop),
                    false => client.upload_file(tokio_stream::iter(stream)).await.map(drop),
                }
            });
            until(&what, || async { control.journal().iter().any(|entry| entry.route == START && entry.ended) }).await;
            victim.kill();
            calling.await.expect("no panic").expect_err("the server is dead");
            control.clear_script();
            assert_eq!(control.read(None, &path), None, "{what}: nothing is committed");
            let next = Victim::start(house.config()).await;
            if ahead {
                let upload_id = started_at(&next, spec.clone()).await;
                finish_at(&next, &upload_id, &bytes, 0).await.expect("uploaded");
            } else {
                let stream = tokio_stream::iter(requests(frames(spec.clone(), &bytes)));
                next.client().await.upload_file(stream).await.expect("uploaded");
            }
            assert!(control.read(None, &path).as_deref() == Some(&bytes), "{what}");
        }
    };
    let kills = [(1, Action::CutBefore), (1, Action::CutAfter), (4, Action::CutBefore), (4, Action::CutAfter)];
    futures::future::join_all(kills.map(|(appends, action)| killed(appends, action))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordered_upload_survives_a_server_killed_at_any_of_its_calls() {
    let bytes = noise(18 * MIB, 7);
    let spec = pb::UploadSpec { parallel_appends: 1, ..spec("/any") };
    let points = [(APPEND, 1), (APPEND, 2), (APPEND, 3), (FINISH, 1)];
    every_point("ordered", &spec, &bytes, &points).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parallel_upload_survives_a_server_killed_at_any_of_its_calls() {
    let bytes = noise(34 * MIB, 8);
    let spec = pb::UploadSpec { parallel_appends: 3, total_size: Some(34 * MIB as i64), ..spec("/any") };
    let points = [(APPEND, 1), (APPEND, 3), (APPEND, 5), (FINISH, 1)];
    every_point("parallel", &spec, &bytes, &points).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parallel_upload_survives_a_kill_where_dropbox_refuses_blocks_it_has() {
    let bytes = noise(34 * MIB, 9);
    let spec = pb::UploadSpec { parallel_appends: 3, total_size: Some(34 * MIB as i64), ..spec("/any") };
    let kills = [1, 3]
        .map(|nth| killed_at("parallel", &spec, &bytes, APPEND, nth, Action::CutAfter, ResentBlock::IncorrectOffset));
    futures::future::join_all(kills).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_row_an_ordered_upload_is_probed_and_a_parallel_one_is_lost() {
    let house = emptied().await;
    let bytes = noise(37 * MIB, 10);
    for (lane, spec) in lanes("/rowless", bytes.len()) {
        let mut victim = Victim::start(house.config()).await;
        let mut half = frames(spec, &bytes[..17 * MIB]);
        half.pop();
        let stream = tokio_stream::iter(requests(half));
        let open = victim.client().await.upload_file(stream).await.expect("half-closed").into_inner();
        victim.kill();
        let mut store = SqliteConnection::connect(&house.config().store_url).await.expect("the store");
        sqlx::query("DELETE FROM uploads").execute(&mut store).await.expect("rows deleted");
        store.close().await.expect("closed");
        let next = Victim::start(house.config()).await;
        match lane {
            "ordered" => {
                let status = status_at(&next, &open.upload_id).await.expect("probed");
                assert_eq!(offset(&status), 16 * MIB);
                let answer = finish_at(&next, &open.upload_id, &bytes, 16 * MIB).await.expect("resumed");
                assert!(house.control().read(None, "/rowless").as_deref() == Some(&bytes));
                assert_eq!(answer.state(), pb::UploadState::Committed);
            }
            _ => {
                let status = status_at(&next, &open.upload_id).await.expect_err("lost");
                let resumed = finish_at(&next, &open.upload_id, &bytes, 16 * MIB).await.expect_err("lost");
                for lost in [status, resumed] {
                    assert_eq!((lost.code(), reason(&lost).as_str()), (Code::NotFound, "UPLOAD_NOT_FOUND"));
                    assert_eq!(fact(&lost, "cause").as_deref(), Some("pieces_lost"));
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_by_signal_half_way_the_upload_goes_on_in_a_second_process() {
    killed_by_signal(emptied().await, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_by_signal_half_way_the_upload_goes_on_in_a_replica_that_was_there() {
    let url = support::postgres::Server::shared().database().await;
    let mut house = support::start_with(|config| config.store_url = url).await;
    house.take_app().stop().await.expect("stop");
    killed_by_signal(house, true).await;
}

/// The second process runs before the first is killed, or is started then.
async fn killed_by_signal(house: House, side_by_side: bool) {
    let bytes = noise(64 * MIB + 5, 11);
    for (lane, spec) in lanes("/signal", bytes.len()) {
        house.control().clear_journal();
        let spec = pb::UploadSpec { path: format!("/{lane}"), ..spec };
        let mut first = Process::serve(&house, 1);
        let replica = side_by_side.then(|| Process::serve(&house, 2));
        if let Some(replica) = &replica {
            replica.client().await;
        }
        let mut client = first.client().await;
        let started = client.start_upload(start_request(spec)).await.expect("started").into_inner();
        let upload_id = started.upload_id;
        let mut stream = OpenUpload::on(client.clone());
        assert!(stream.send(Frame::ResumeUploadId(upload_id.clone())).await);
        assert!(stream.send_range(&bytes, 0, 32 * MIB).await);
        until("half of it is there", || async { house.control().counter(APPEND).bytes_in >= 24 * MIB as u64 }).await;
        first.kill();
        let lost = stream.early_answer().await.expect_err("the server is dead");
        assert!(tonic_types::StatusExt::get_error_details(&lost).error_info().is_none(), "nobody was left to answer");
        let second = replica.unwrap_or_else(|| Process::serve(&house, 2));
        let mut client = second.client().await;
        let ask = pb::GetUploadStatusRequest {
            application_parameter_id: PARAMETER.into(),
            upload_id: upload_id.clone(),
            ..Default::default()
        };
        let status = client.get_upload_status(ask).await.expect("status").into_inner();
        let from = offset(&status);
        assert!(from.is_multiple_of(BLOCK) && from < bytes.len(), "{from}");
        let stream = tokio_stream::iter(requests(resume_frames(&upload_id, &bytes, from)));
        let answer = client.upload_file(stream).await.expect(lane).into_inner();
        assert_eq!(answer.content_hash, content_hash(&bytes));
        assert!(house.control().read(None, &format!("/{lane}")).as_deref() == Some(&bytes));
        let twice = house.control().counter(APPEND).bytes_in - bytes.len() as u64;
        assert!(twice <= 5 * 8 * MIB as u64, "{lane}: {twice} bytes were sent twice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_that_hangs_at_the_end_does_not_keep_the_others_from_being_written_down() {
    let bytes = noise(33 * MIB, 14);
    let hanging = async |ends: &str| {
        let house = support::start().await;
        let control = house.control();
        let spec = pb::UploadSpec { parallel_appends: 4, total_size: Some(bytes.len() as i64), ..spec("/hangs") };
        let upload_id = start_upload(&house, spec).await;
        // One is acknowledged when the stream has ended already, another one never.
        let rules = [Rule::nth(APPEND, 1, Action::DelayAnswer { millis: 3000 }), Rule::nth(APPEND, 2, Action::Stall)];
        control.script(rules).expect("script");
        let mut stream = OpenUpload::resume(&house, &upload_id).await;
        assert!(stream.send_range(&bytes, 0, bytes.len()).await);
        until("four are at Dropbox", async || control.counter(APPEND).calls >= 4).await;
        let ended = match ends {
            "half-closed" => Some(tokio::spawn(stream.answer())),
            "finished" => {
                assert!(stream.send(finish()).await);
                Some(tokio::spawn(stream.answer()))
            }
            _ => {
                stream.abandon().await;
                None
            }
        };
        let left = std::time::Instant::now();
        let mut store = SqliteConnection::connect(&house.config().store_url).await.expect("the store");
        let written = loop {
            let count: i64 =
                sqlx::query_scalar("SELECT count(*) FROM upload_pieces").fetch_one(&mut store).await.expect("a number");
            if count >= 3 {
                break left.elapsed();
            }
            assert!(left.elapsed() < PATIENCE, "{ends}: the late one is not written down");
            tokio::task::yield_now().await;
        };
        match ended {
            Some(ended) => {
                assert!(!ended.is_finished(), "{ends}: one still hangs");
                ended.abort();
            }
            // What is in flight when a caller vanishes is given up after 10 s; then all is written down in any case.
            None => assert!(written < std::time::Duration::from_secs(10), "{written:?}"),
        }
    };
    tokio::join!(hanging("half-closed"), hanging("finished"), hanging("vanished"));
}
