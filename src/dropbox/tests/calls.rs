//! Calls with JSON both ways: headers, repeats, renewal, pauses, deadlines, bounds.

use dropbox_sdk::types::files;

use super::*;
use crate::{counted_tests::counted, fair::Fair, limits};

const FOLDER: &str = r#"{".tag":"folder","name":"a","id":"id:1","path_lower":"/a","path_display":"/a"}"#;
const BUSY: &str =
    r#"{"error_summary":"too_many_requests/..","error":{"reason":{".tag":"too_many_requests"},"retry_after":9}}"#;

fn metadata() -> files::GetMetadataArg {
    files::GetMetadataArg::new("/a".to_owned())
}

fn expired() -> Act {
    Act::json(401, r#"{"error_summary":"expired_access_token/..","error":{".tag":"expired_access_token"}}"#)
}

/// Its outcome cannot be told and it is not repeated.
fn move_arg() -> files::RelocationArg {
    files::RelocationArg::new("/a".to_owned(), "/b".to_owned())
}

#[tokio::test]
async fn a_call_arrives_as_dropbox_wants_it() {
    let bench = Bench::new(vec![Act::json(200, FOLDER).with("X-Dropbox-Request-Id", "abc123")]).await;
    let caller = bench.acting(ActAs::User("dbmid:1".into()), Root::Namespace("7".into()));
    let answer = caller.call(&routes::GET_METADATA, &metadata()).await.expect("an answer");
    assert!(matches!(&answer.value, files::Metadata::Folder(folder) if folder.name == "a"));
    assert_eq!(answer.request_id.as_deref(), Some("abc123"));
    let seen = &bench.server.seen()[0];
    assert_eq!(seen.target, "/2/files/get_metadata");
    assert_eq!(seen.header("authorization"), Some("Bearer token-0"));
    assert_eq!(seen.header("content-type"), Some("application/json"));
    assert_eq!(seen.header("dropbox-api-select-user"), Some("dbmid:1"));
    assert_eq!(seen.header("dropbox-api-path-root"), Some(r#"{".tag":"namespace_id","namespace_id":"7"}"#));
    assert_eq!(seen.header("dropbox-api-arg"), None);
    let arg: serde_json::Value = serde_json::from_slice(&seen.body).expect("JSON");
    assert_eq!(arg["path"], "/a");
}

#[tokio::test]
async fn nothing_as_an_argument_is_null_and_null_is_nothing() {
    let bench = Bench::new(vec![Act::json(200, "null"), Act::json(200, "")]).await;
    for _ in 0..2 {
        bench.caller.call(&routes::REVOKE_TOKEN, &()).await.expect("revoked");
    }
    assert_eq!(bench.server.seen()[0].body, b"null");
}

#[tokio::test]
async fn a_call_waits_as_long_as_dropbox_says_and_goes_again() {
    let bench = Bench::new(vec![Act::json(429, BUSY).with("Retry-After", "7"), Act::json(200, FOLDER)]).await;
    let caller = bench.caller.clone();
    let call = tokio::spawn(async move { caller.call(&routes::GET_METADATA, &metadata()).await });
    bench.server.arrived(1).await;
    let paused = async {
        while !bench.transport.pace.lane(&AccountKey::new("dbid:1")).is_paused() {
            tokio::task::yield_now().await;
        }
    };
    paused.await;
    bench.clock.advance(Duration::from_secs(6)).await;
    assert_eq!(bench.server.seen().len(), 1);
    bench.run(call).await.expect("no panic").expect("an answer");
    assert_eq!(bench.server.seen().len(), 2);
    assert!(bench.clock.now() >= SystemTime::UNIX_EPOCH + Duration::from_secs(7));
}

#[tokio::test]
async fn the_body_s_time_counts_where_the_header_is_missing() {
    let bench = Bench::new(vec![Act::json(429, BUSY), Act::json(200, FOLDER)]).await;
    bench.run(bench.caller.call(&routes::GET_METADATA, &metadata())).await.expect("an answer");
    assert!(bench.clock.now() >= SystemTime::UNIX_EPOCH + Duration::from_secs(9));
}

#[tokio::test]
async fn a_wait_beyond_the_deadline_is_the_caller_s() {
    let bench =
        Bench::new(vec![Act::json(429, BUSY).with("Retry-After", "7").with("X-Dropbox-Request-Id", "r1")]).await;
    let fault = bench.within(Duration::from_secs(5)).call(&routes::GET_METADATA, &metadata()).await.expect_err("busy");
    assert_eq!((fault.reason(), fault.retry_delay()), (Reason::RateLimited, Some(Duration::from_secs(7))));
    assert_eq!(fault.get("dropboxRequestId"), Some("r1"));
    assert_eq!(fault.get("dropboxRoute"), Some("files/get_metadata"));
    assert_eq!(bench.server.seen().len(), 1);
    // The next caller of the account is told without a request.
    let fault = bench.within(Duration::from_secs(5)).call(&routes::GET_METADATA, &metadata()).await.expect_err("busy");
    assert_eq!(fault.reason(), Reason::RateLimited);
    assert_eq!(bench.server.seen().len(), 1);
}

#[tokio::test]
async fn a_429_is_repeated_even_where_nothing_else_is() {
    let bench = Bench::new(vec![Act::json(429, BUSY), Act::json(409, r#"{"error":{".tag":"too_many_files"}}"#)]).await;
    let turn = Turn::granted();
    let fault = bench.run(bench.caller.commit(&turn, &routes::MOVE, &move_arg())).await.expect_err("refused");
    assert_eq!(fault.reason(), Reason::TooManyFiles);
    assert_eq!(fault.get("earlierAttempt"), None);
    assert_eq!(bench.server.seen().len(), 2);
}

/// The namespace's gate is free for the others, also when the call looks at it again.
async fn lets_others_go(bench: &Bench, queue: &Fair, call: impl Future<Output = Result<()>>) {
    let mut call = std::pin::pin!(call);
    let bound = Instant::now() + Duration::from_secs(20);
    let others = loop {
        assert!(Instant::now() < bound, "it keeps its turn");
        assert!(futures::poll!(call.as_mut()).is_pending());
        match queue.try_take("others", 1) {
            Some(others) => break others,
            None => tokio::task::yield_now().await,
        }
    };
    let sent = bench.server.seen().len();
    bench.clock.advance(Duration::from_secs(60)).await;
    for _ in 0..16 {
        assert!(futures::poll!(call.as_mut()).is_pending(), "it stands in the queue behind the others");
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.server.seen().len(), sent);
    drop(others);
    bench.run(call).await.expect("its turn in the end");
    assert_eq!(bench.server.seen().len(), sent + 1);
    assert!(queue.try_take("others", 1).is_none(), "it has its turn until that is dropped");
}

#[tokio::test]
async fn a_commit_lays_its_turn_down_while_its_account_may_not_send_and_while_it_waits_to_go_again() {
    const DONE: &str = r#"{"metadata":{".tag":"folder","name":"a","id":"id:1"}}"#;
    let arg = files::DeleteArg::new("/a".to_owned());
    for (script, paused) in [
        (vec![Act::json(200, DONE)], true),
        (vec![Act::json(429, BUSY).with("Retry-After", "7"), Act::json(200, DONE)], false),
        (vec![Act::Cut, Act::json(200, DONE)], false),
    ] {
        let bench = Bench::new(script).await;
        let queue = Fair::new(1);
        let turn = Turn::granted().at("p", vec![Stop { queue: queue.clone(), lease: None }]);
        turn.take_up().await;
        if paused {
            bench.transport.pace.lane(&AccountKey::new("dbid:1")).pause(Duration::from_secs(30));
        }
        let call = async { bench.caller.commit(&turn, &routes::DELETE, &arg).await.map(drop) };
        lets_others_go(&bench, &queue, call).await;
    }
}

#[tokio::test]
async fn a_commit_behind_one_that_lost_its_turn_takes_it_up_again() {
    let bench = Bench::new(vec![Act::json(429, BUSY).with("Retry-After", "3600"), Act::json(200, FOLDER)]).await;
    let queue = Fair::new(1);
    let turn = Turn::granted().at("p", vec![Stop { queue: queue.clone(), lease: None }]);
    turn.take_up().await;
    let arg = files::DeleteArg::new("/a".to_owned());
    turn.lay_down();
    let _ = bench.caller.commit(&turn, &routes::DELETE, &arg).await.expect_err("limited");
    assert!(queue.try_take("others", 1).is_none(), "nothing is sent without it");
}

#[tokio::test]
async fn contention_is_repeated_and_told_when_it_lasts() {
    let busy = r#"{"error":{".tag":"path","path":{".tag":"too_many_write_operations"}}}"#;
    let bench = Bench::new(vec![Act::json(409, busy); 10]).await;
    let arg = files::CreateFolderArg::new("/a".to_owned());
    let fault = bench.run(bench.caller.commit(&Turn::granted(), &routes::CREATE_FOLDER, &arg)).await.expect_err("busy");
    assert_eq!(fault.reason(), Reason::WriteContention);
    assert!(fault.retry_delay() >= Some(Duration::from_secs(1)));
    assert_eq!(bench.server.seen().len(), 1 + limits::REPEATS_MAX as usize);
}

#[tokio::test]
async fn a_cut_read_goes_again() {
    let bench = Bench::new(vec![Act::Cut, Act::Reply(503, vec![], b"<html>".to_vec()), Act::json(200, FOLDER)]).await;
    bench.run(bench.caller.call(&routes::GET_METADATA, &metadata())).await.expect("an answer");
    assert_eq!(bench.server.seen().len(), 3);
}

#[tokio::test]
async fn a_read_that_keeps_failing_is_unavailable_and_may_go_again() {
    let bench = Bench::new(vec![Act::Cut; 10]).await;
    let fault = bench.run(bench.caller.call(&routes::GET_METADATA, &metadata())).await.expect_err("cut");
    assert_eq!(fault.reason(), Reason::DropboxUnavailable);
    assert!(fault.retry_delay().is_some());
    assert_eq!(bench.server.seen().len(), 1 + limits::REPEATS_MAX as usize);
}

#[tokio::test]
async fn a_cut_write_is_not_repeated_and_its_outcome_is_unknown() {
    for act in [Act::Cut, Act::Reply(500, vec![], b"oops".to_vec())] {
        let bench = Bench::new(vec![act]).await;
        let (turn, arg) = (Turn::granted(), move_arg());
        let fault = bench.caller.commit(&turn, &routes::MOVE, &arg).await.expect_err("cut");
        assert_eq!((fault.reason(), fault.retry_delay()), (Reason::OutcomeUnknown, None));
        assert_eq!(bench.server.seen().len(), 1);
    }
}

#[tokio::test]
async fn a_repeat_that_may_speak_of_the_first_attempt_says_so() {
    let gone = r#"{"error":{".tag":"path_lookup","path_lookup":{".tag":"not_found"}}}"#;
    let bench = Bench::new(vec![Act::Cut, Act::json(409, gone)]).await;
    let arg = files::DeleteArg::new("/a".to_owned());
    let fault = bench.run(bench.caller.commit(&Turn::granted(), &routes::DELETE, &arg)).await.expect_err("gone");
    assert_eq!((fault.reason(), fault.get("earlierAttempt")), (Reason::PathNotFound, Some("unknown")));
}

#[tokio::test]
async fn a_429_after_an_unknown_outcome_does_not_make_it_known() {
    let mut script = vec![Act::Cut];
    script.extend(vec![Act::json(429, BUSY).with("Retry-After", "3600"); 2]);
    let bench = Bench::new(script).await;
    let arg = files::DeleteArg::new("/a".to_owned());
    let fault = bench.run(bench.caller.commit(&Turn::granted(), &routes::DELETE, &arg)).await.expect_err("busy");
    assert_eq!((fault.reason(), fault.retry_delay()), (Reason::OutcomeUnknown, None));
}

#[tokio::test]
async fn a_renewal_that_fails_after_an_unknown_outcome_does_not_make_it_known() {
    let tokens = Tokens { gone: true, ..Tokens::default() };
    let bench = Bench::with(vec![Act::Cut, expired()], tokens, Timeouts::default()).await;
    let arg = files::DeleteArg::new("/a".to_owned());
    let fault = bench.run(bench.caller.commit(&Turn::granted(), &routes::DELETE, &arg)).await.expect_err("gone");
    assert_eq!((fault.reason(), fault.retry_delay()), (Reason::OutcomeUnknown, None));
    assert_eq!(fault.get("dropboxRoute"), Some("files/delete_v2"));
    assert!(fault.message().ends_with("gone"), "what happened is told: {}", fault.message());
    assert_eq!(bench.server.seen().len(), 2);
}

#[tokio::test]
async fn after_an_unknown_outcome_only_an_answer_about_the_target_is_told_as_it_is() {
    let json = |status, tag: &str| Act::json(status, &format!(r#"{{"error":{{".tag":"{tag}"}}}}"#));
    let space = r#"{"error":{".tag":"path_write","path_write":{".tag":"insufficient_space"}}}"#;
    for (answer, reason) in [
        (json(401, "missing_scope"), Reason::OutcomeUnknown),
        (json(401, "user_suspended"), Reason::OutcomeUnknown),
        (json(403, "no_permission"), Reason::OutcomeUnknown),
        (json(422, "no_permission"), Reason::OutcomeUnknown),
        (Act::Reply(400, vec![], b"bad".to_vec()), Reason::OutcomeUnknown),
        (Act::Reply(200, vec![], b"<html>".to_vec()), Reason::DropboxProtocol),
        (Act::json(409, space), Reason::InsufficientSpace),
    ] {
        let bench = Bench::new(vec![Act::Cut, answer]).await;
        let arg = files::DeleteArg::new("/a".to_owned());
        let fault = bench.run(bench.caller.commit(&Turn::granted(), &routes::DELETE, &arg)).await.expect_err("refused");
        assert_eq!((fault.reason(), fault.retry_delay()), (reason, None), "{fault}");
    }
}

#[tokio::test]
async fn what_may_go_again_stays_resumable_whatever_came_before() {
    let arg = files::UploadSessionAppendArg::new(files::UploadSessionCursor::new("s".to_owned(), 0));
    let pieces = [bytes::Bytes::from_static(b"hello")];
    let script = vec![Act::Cut, Act::json(429, BUSY).with("Retry-After", "3600"), Act::json(200, FOLDER)];
    let bench = Bench::new(script).await;
    for _ in 0..2 {
        // The second time the account's pause refuses it before it is sent.
        let call = bench.caller.upload(&routes::UPLOAD_SESSION_APPEND, &arg, &pieces);
        let fault = bench.run(call).await.expect_err("limited");
        assert_eq!(fault.reason(), Reason::RateLimited);
        assert!(fault.retry_delay().is_some());
    }
}

#[tokio::test]
async fn a_commit_and_the_end_of_a_session_do_not_wait_for_bodies() {
    let script = [r#""#; 3].map(|_| Act::Reply(200, vec![], b"{}".to_vec()));
    let bench = Bench::new(script.to_vec()).await;
    let lane = bench.transport.pace.lane(&AccountKey::new("dbid:1"));
    let mut bodies = Vec::new();
    for n in 0..limits::ACCOUNT_BODIES_MAX {
        bodies.push(lane.enter(&format!("p-{n}"), true).await.expect("free"));
    }
    let (pieces, turn) = ([bytes::Bytes::from_static(b"hello")], Turn::granted());
    let caller = bench.within(Duration::from_secs(5));
    let cursor = || files::UploadSessionCursor::new("s".to_owned(), 5);
    let upload = files::UploadArg::new("/a".to_owned());
    let finish = files::UploadSessionFinishArg::new(cursor(), files::CommitInfo::new("/a".to_owned()));
    let close = files::UploadSessionAppendArg::new(cursor()).with_close(true);
    // What they are answered is no file: that they are sent at all is what counts.
    let _ = caller.commit_upload(&turn, &routes::UPLOAD, &upload, &pieces).await;
    let _ = caller.commit_upload(&turn, &routes::UPLOAD_SESSION_FINISH, &finish, &[]).await;
    let _ = caller.upload(&routes::UPLOAD_SESSION_APPEND, &close, &[]).await;
    assert_eq!(bench.server.seen().len(), 3);
    let waiting = bench.within(Duration::from_millis(300));
    let fault = waiting.upload(&routes::UPLOAD_SESSION_APPEND, &close, &pieces).await.expect_err("no place");
    assert_eq!(fault.reason(), Reason::DeadlineExceeded);
    assert_eq!(bench.server.seen().len(), 3);
}

#[tokio::test]
async fn a_refused_connection_is_unavailable_even_for_writes() {
    let bench = Bench::new(vec![]).await;
    // The discard port of loopback: nobody listens.
    let url = url::Url::parse("http://127.0.0.1:9").expect("a url");
    let endpoints = Endpoints { api: url.clone(), content: url.clone(), notify: url.clone(), oauth: url };
    let transport = Transport::new(endpoints, true, Arc::new(bench.clock.clone())).expect("fit");
    let account = AccountKey::new("a");
    let caller = Caller::new(transport, bench.tokens.clone(), account, None, None, None, Timeouts::default());
    let fault = bench.run(caller.commit(&Turn::granted(), &routes::MOVE, &move_arg())).await.expect_err("nobody");
    assert_eq!(fault.reason(), Reason::DropboxUnavailable);
    assert!(fault.retry_delay().is_some());
}

#[tokio::test]
async fn a_rejected_bearer_is_renewed_once() {
    let bench = Bench::new(vec![expired(), Act::json(200, FOLDER)]).await;
    bench.caller.call(&routes::GET_METADATA, &metadata()).await.expect("an answer");
    let seen = bench.server.seen();
    assert_eq!(seen[0].header("authorization"), Some("Bearer token-0"));
    assert_eq!(seen[1].header("authorization"), Some("Bearer token-1"));
    assert_eq!(*bench.tokens.rejected.lock().expect("unpoisoned"), [0]);
}

#[tokio::test]
async fn a_bearer_rejected_twice_needs_a_new_authorization() {
    let malformed = Act::Reply(400, vec![], b"The given OAuth 2 access token is malformed.".to_vec());
    let bench = Bench::new(vec![malformed, expired()]).await;
    let fault = bench.caller.call(&routes::GET_METADATA, &metadata()).await.expect_err("rejected");
    assert_eq!((fault.reason(), fault.retry_delay()), (Reason::ReauthorizationRequired, None));
    assert_eq!(bench.server.seen().len(), 2);
}

#[tokio::test]
async fn a_renewal_that_fails_ends_the_call_with_its_reason() {
    let tokens = Tokens { gone: true, ..Tokens::default() };
    let bench = Bench::with(vec![expired()], tokens, Timeouts::default()).await;
    let fault = bench.caller.call(&routes::GET_METADATA, &metadata()).await.expect_err("gone");
    assert_eq!(fault.message(), "gone");
    assert_eq!(bench.server.seen().len(), 1);
}

#[tokio::test]
async fn dropping_a_call_drops_its_request() {
    let bench = Bench::new(vec![Act::Stall]).await;
    let caller = bench.caller.clone();
    let call = tokio::spawn(async move { caller.call(&routes::GET_METADATA, &metadata()).await });
    bench.server.arrived(1).await;
    call.abort();
    bench.server.gone(1).await;
}

#[tokio::test]
async fn a_deadline_during_a_write_says_whether_it_was_sent() {
    let bench = Bench::new(vec![Act::Stall]).await;
    let span = Duration::from_secs(1);
    let caller = bench.within(span);
    let fault = caller.commit(&Turn::granted(), &routes::MOVE, &move_arg()).await.expect_err("late");
    assert_eq!((fault.reason(), fault.get("sent")), (Reason::DeadlineExceeded, Some("true")));
    assert_eq!(fault.retry_delay(), None, "it may have happened");
    bench.server.gone(1).await;
    let fault = caller.commit(&Turn::granted(), &routes::MOVE, &move_arg()).await.expect_err("late");
    assert_eq!((fault.reason(), fault.get("sent")), (Reason::DeadlineExceeded, Some("false")));
    assert_eq!(fault.retry_delay(), Some(Duration::ZERO), "what was not sent may be sent as it is");
    let fault = caller.call(&routes::GET_METADATA, &metadata()).await.expect_err("late");
    assert_eq!((fault.reason(), fault.get("sent")), (Reason::DeadlineExceeded, None));
}

#[tokio::test]
async fn a_silent_dropbox_is_a_timeout_of_the_parameter() {
    let timeouts = Timeouts { request: Duration::from_millis(400), ..Timeouts::default() };
    let bench = Bench::with(vec![Act::Stall, Act::Stall], Tokens::default(), timeouts).await;
    let fault = bench.caller.call(&routes::GET_METADATA, &metadata()).await.expect_err("silent");
    assert_eq!((fault.reason(), fault.get("phase")), (Reason::UpstreamTimeout, Some("request")));
    assert!(fault.retry_delay().is_some());
    let fault = bench.caller.commit(&Turn::granted(), &routes::MOVE, &move_arg()).await.expect_err("silent");
    assert_eq!((fault.reason(), fault.get("phase")), (Reason::OutcomeUnknown, Some("request")));
    assert_eq!(fault.retry_delay(), None);
}

#[tokio::test]
async fn an_answer_that_is_not_the_route_s_is_a_protocol_fault() {
    let bench = Bench::new(vec![Act::json(200, r#"{"what":1}"#), Act::json(200, "<html>")]).await;
    for _ in 0..2 {
        let fault = bench.caller.call(&routes::GET_METADATA, &metadata()).await.expect_err("unreadable");
        assert_eq!(fault.reason(), Reason::DropboxProtocol);
    }
}

#[tokio::test]
async fn an_endless_answer_and_an_endless_refusal_are_cut() {
    let long = "x".repeat(limits::JSON_ANSWER_BYTES_MAX + 1);
    let bench = Bench::new(vec![Act::json(200, &long), Act::json(409, &long), Act::json(200, FOLDER)]).await;
    let fault = bench.caller.call(&routes::GET_METADATA, &metadata()).await.expect_err("too long");
    assert_eq!(fault.reason(), Reason::DropboxProtocol);
    let fault = bench.caller.call(&routes::GET_METADATA, &metadata()).await.expect_err("refused");
    assert_eq!(fault.reason(), Reason::DropboxError);
    bench.caller.call(&routes::GET_METADATA, &metadata()).await.expect("the next call is not harmed");
}

#[tokio::test]
async fn raw_routes_keep_numbers_and_order() {
    use serde_json::value::RawValue;
    let text = r#"{"z":18446744073709551615,"a":1.10}"#;
    let bench = Bench::new(vec![Act::json(200, text), Act::Reply(400, vec![], b"bad thing".to_vec())]).await;
    let Some(Door::Read(route)) =
        routes::raw("users/get_account").map(|row| row.door::<Box<RawValue>, Box<RawValue>>())
    else {
        panic!("a read");
    };
    let arg = RawValue::from_string(text.to_owned()).expect("JSON");
    let answer = bench.caller.call(&route, &arg).await.expect("an answer");
    assert_eq!(answer.value.get(), text);
    assert_eq!(bench.server.seen()[0].body, text.as_bytes());
    assert_eq!(bench.caller.call(&route, &arg).await.expect_err("bad").reason(), Reason::RawJson);
}

#[tokio::test]
async fn the_token_endpoint_grants_and_denies() {
    let granted =
        r#"{"access_token":"sl.x","token_type":"bearer","expires_in":14400,"scope":"a b","account_id":"dbid:1"}"#;
    let bench = Bench::new(vec![
        Act::Reply(503, vec![], b"oops".to_vec()),
        Act::Reply(200, vec![("content-type", "text/javascript".into())], granted.into()),
        Act::json(400, r#"{"error":"invalid_grant","error_description":"refresh token is invalid or revoked"}"#),
        Act::json(400, r#"{"error":"invalid_client"}"#),
        Act::json(200, r#"{"access_token":7}"#),
        Act::Reply(500, vec![], vec![]),
    ])
    .await;
    let refresh = [("grant_type", "refresh_token"), ("refresh_token", "r+1")];
    let answer = bench.run(bench.transport.token(&refresh)).await.expect("granted");
    assert_eq!(answer.access_token.reveal(), "sl.x");
    assert_eq!(answer.expires_in, Some(Duration::from_secs(14400)));
    assert_eq!(answer.scopes, ["a", "b"]);
    assert!(!format!("{answer:?}").contains("sl.x"));
    let seen = &bench.server.seen()[1];
    assert_eq!(seen.target, "/oauth2/token");
    assert_eq!(seen.header("content-type"), Some("application/x-www-form-urlencoded"));
    assert_eq!(seen.header("authorization"), None);
    assert_eq!(seen.body, b"grant_type=refresh_token&refresh_token=r%2B1");
    let fault = bench.transport.token(&refresh).await.expect_err("denied");
    assert_eq!((fault.reason(), fault.get("cause")), (Reason::ReauthorizationRequired, Some("invalid_grant")));
    assert_eq!(bench.transport.token(&refresh).await.expect_err("denied").reason(), Reason::CredentialsRejected);
    let fault = bench.transport.token(&refresh).await.expect_err("unreadable");
    assert_eq!(fault.reason(), Reason::DropboxProtocol);
    let code = [("grant_type", "authorization_code"), ("code", "c")];
    assert_eq!(bench.transport.token(&code).await.expect_err("failed").reason(), Reason::OutcomeUnknown);
}

#[test]
fn reading_a_page_of_500_files_is_counted() {
    let file = |n: u32| {
        let path = format!("/Some Team/Some Project/Reports of the year/Report {n}.pdf");
        serde_json::json!({
            ".tag": "file", "name": format!("Report {n}.pdf"), "path_lower": path.to_lowercase(), "path_display": path,
            "id": format!("id:a4ayc_80_OEAAAAA{n:06}"), "client_modified": "2026-01-01T00:00:00Z",
            "server_modified": "2026-01-01T00:00:00Z", "rev": format!("a1c10ce0{n:06}"), "size": 7212, "is_downloadable": true,
            "content_hash": format!("{n:064x}"),
        })
    };
    let entries: Vec<_> = (0..500).map(file).collect();
    let page = serde_json::json!({ "entries": entries, "cursor": "c".repeat(120), "has_more": true }).to_string();
    let read: files::ListFolderResult =
        counted(|| caller::decode(routes::LIST_FOLDER.facts(), page.as_bytes(), None)).expect("a page");
    assert!(read.entries.len() == 500 && read.has_more);
    assert!(matches!(&read.entries[499], files::Metadata::File(file) if file.name == "Report 499.pdf"));
}
