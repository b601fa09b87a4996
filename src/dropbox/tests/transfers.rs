//! Content both ways: exact headers and lengths, silence, breaks, ranges.

use bytes::Bytes;
use dropbox_sdk::types::files;

use super::*;

const FILE: &str = r#"{"name":"a","id":"id:1","client_modified":"2026-01-02T03:04:05Z","server_modified":"2026-01-02T03:04:05Z","rev":"a1c10ce0dd78","size":5,"path_lower":"/a","is_downloadable":true}"#;

fn upload_arg(path: &str) -> files::UploadArg {
    files::UploadArg::new(path.to_owned())
}

fn download(body: &[u8]) -> (Vec<(&'static str, String)>, Vec<u8>) {
    let headers = vec![
        ("dropbox-api-result", FILE.to_owned()),
        ("content-type", "application/octet-stream".to_owned()),
        ("x-dropbox-request-id", "r1".to_owned()),
    ];
    (headers, body.to_vec())
}

async fn all(body: &mut Body) -> Result<Vec<u8>> {
    let mut whole = Vec::new();
    while let Some(piece) = body.next().await {
        whole.extend_from_slice(&piece?);
    }
    Ok(whole)
}

#[tokio::test]
async fn an_upload_has_its_exact_length_and_an_escaped_argument() {
    let bench = Bench::new(vec![Act::json(200, FILE)]).await;
    let block = vec![7u8; 5 * 1024 * 1024 + 3];
    let pieces = [Bytes::from(block.clone()), Bytes::from_static(b"end")];
    let (turn, arg) = (Turn::granted(), upload_arg("/ü😀\u{7f}"));
    let call = bench.caller.commit_upload(&turn, &routes::UPLOAD, &arg, &pieces);
    let answer = call.await.expect("an answer");
    assert_eq!(answer.value.rev, "a1c10ce0dd78");
    let seen = &bench.server.seen()[0];
    assert_eq!(seen.header("content-length"), Some((block.len() + 3).to_string().as_str()));
    assert_eq!(seen.header("content-type"), Some("application/octet-stream"));
    assert!(seen.body == [&block[..], b"end"].concat());
    let arg = seen.header("dropbox-api-arg").expect("an argument");
    assert!(arg.contains(r"/\u00fc\ud83d\ude00\u007f") && arg.is_ascii(), "{arg}");
}

#[tokio::test]
async fn an_empty_upload_is_still_an_octet_stream() {
    let bench = Bench::new(vec![Act::json(200, FILE)]).await;
    bench.caller.commit_upload(&Turn::granted(), &routes::UPLOAD, &upload_arg("/a"), &[]).await.expect("an answer");
    let seen = &bench.server.seen()[0];
    assert_eq!(seen.header("content-length"), Some("0"));
    assert_eq!(seen.header("content-type"), Some("application/octet-stream"));
}

#[tokio::test]
async fn an_append_goes_again_with_the_same_bytes() {
    let bench = Bench::new(vec![Act::Cut, Act::Reply(503, vec![], vec![]), Act::json(200, "null")]).await;
    let arg = files::UploadSessionAppendArg::new(files::UploadSessionCursor::new("s".to_owned(), 0));
    let pieces = [Bytes::from_static(b"hello")];
    bench.run(bench.caller.upload(&routes::UPLOAD_SESSION_APPEND, &arg, &pieces)).await.expect("appended");
    assert!(bench.server.seen().iter().all(|seen| seen.body == b"hello"));
    assert_eq!(bench.server.seen().len(), 3);
}

#[tokio::test]
async fn an_append_that_keeps_failing_is_unavailable_and_not_unknown() {
    let bench = Bench::new(vec![Act::Cut; 10]).await;
    let arg = files::UploadSessionAppendArg::new(files::UploadSessionCursor::new("s".to_owned(), 0));
    let pieces = [Bytes::from_static(b"hello")];
    let fault = bench.run(bench.caller.upload(&routes::UPLOAD_SESSION_APPEND, &arg, &pieces)).await.expect_err("cut");
    assert_eq!(fault.reason(), Reason::DropboxUnavailable);
    assert!(fault.retry_delay().is_some());
}

#[tokio::test]
async fn an_upload_whose_answer_is_lost_may_go_again_or_not_as_its_argument_says() {
    let bench = Bench::new(vec![Act::Cut, Act::json(200, FILE), Act::Cut]).await;
    let (turn, arg, pieces) = (Turn::granted(), upload_arg("/a"), [Bytes::from_static(b"hello")]);
    bench.run(bench.caller.commit_upload(&turn, &routes::UPLOAD, &arg, &pieces)).await.expect("an answer");
    let once = routes::UPLOAD.repeating(Repeat::Never);
    let fault = bench.run(bench.caller.commit_upload(&turn, &once, &arg, &pieces)).await.expect_err("cut");
    assert_eq!(fault.reason(), Reason::OutcomeUnknown);
    assert_eq!(bench.server.seen().len(), 3);
}

#[tokio::test]
async fn a_download_is_asked_for_without_a_content_type() {
    let (headers, body) = download(b"hello");
    let bench = Bench::new(vec![Act::Reply(200, headers, body)]).await;
    let arg = files::DownloadArg::new("/ü".to_owned());
    let mut answer = bench.caller.download(&routes::DOWNLOAD, &arg, None).await.expect("a head");
    assert_eq!((answer.status, answer.content_length), (200, Some(5)));
    assert_eq!(answer.value.size, 5);
    assert_eq!(answer.request_id.as_deref(), Some("r1"));
    assert_eq!(all(&mut answer.body).await.expect("whole"), b"hello");
    let seen = &bench.server.seen()[0];
    assert_eq!(seen.header("content-type"), None);
    assert_eq!(seen.header("content-length"), Some("0"));
    assert_eq!(seen.header("range"), None);
    assert!(seen.body.is_empty());
    assert!(seen.header("dropbox-api-arg").expect("an argument").contains(r"\u00fc"));
}

#[tokio::test]
async fn a_range_goes_out_and_a_part_comes_back() {
    let (mut headers, body) = download(b"ell");
    headers.push(("content-range", "bytes 1-3/5".to_owned()));
    let bench = Bench::new(vec![Act::Reply(206, headers, body)]).await;
    let arg = files::DownloadArg::new("/a".to_owned());
    let range = Some(ByteRange::Between(1, 3));
    let mut answer = bench.caller.download(&routes::DOWNLOAD, &arg, range).await.expect("a head");
    assert_eq!((answer.status, answer.content_range.as_deref()), (206, Some("bytes 1-3/5")));
    assert_eq!(all(&mut answer.body).await.expect("whole"), b"ell");
    assert_eq!(bench.server.seen()[0].header("range"), Some("bytes=1-3"));
    assert_eq!([ByteRange::From(4), ByteRange::Last(2)].map(|range| range.to_string()), ["bytes=4-", "bytes=-2"]);
}

#[tokio::test]
async fn a_refused_download_is_read_from_its_body() {
    let error = r#"{"error_summary":"path/not_found/..","error":{".tag":"path","path":{".tag":"not_found"}}}"#;
    let bench = Bench::new(vec![Act::json(409, error), Act::json(200, "no header")]).await;
    let arg = files::DownloadArg::new("/a".to_owned());
    let fault = bench.caller.download(&routes::DOWNLOAD, &arg, None).await.expect_err("none");
    assert_eq!(fault.reason(), Reason::PathNotFound);
    let fault = bench.caller.download(&routes::DOWNLOAD, &arg, None).await.expect_err("no result");
    assert_eq!(fault.reason(), Reason::DropboxProtocol);
}

#[tokio::test]
async fn a_body_that_breaks_off_says_so_after_what_came() {
    let (headers, body) = download(b"hello");
    let bench = Bench::new(vec![Act::Break(200, headers, body, 2)]).await;
    let arg = files::DownloadArg::new("/a".to_owned());
    let mut answer = bench.caller.download(&routes::DOWNLOAD, &arg, None).await.expect("a head");
    assert_eq!(answer.body.next().await.expect("a piece").expect("fine").as_ref(), b"he");
    let fault = answer.body.next().await.expect("a fault").expect_err("broken");
    assert_eq!((fault.reason(), fault.get("dropboxRequestId")), (Reason::DropboxUnavailable, Some("r1")));
    assert!(answer.body.next().await.is_none());
}

#[tokio::test]
async fn a_body_that_falls_silent_is_given_up() {
    let (headers, body) = download(b"hello");
    let timeouts = Timeouts { idle_read: Duration::from_millis(100), ..Timeouts::default() };
    let bench = Bench::with(vec![Act::Halt(200, headers, body, 2)], Tokens::default(), timeouts).await;
    let arg = files::DownloadArg::new("/a".to_owned());
    let mut answer = bench.caller.download(&routes::DOWNLOAD, &arg, None).await.expect("a head");
    let fault = all(&mut answer.body).await.expect_err("silent");
    assert_eq!((fault.reason(), fault.get("phase")), (Reason::UpstreamTimeout, Some("idle_read")));
    drop(answer);
    bench.server.gone(1).await;
}

#[tokio::test]
async fn the_deadline_ends_a_download() {
    let (headers, body) = download(b"hello");
    let bench = Bench::new(vec![Act::Halt(200, headers, body, 2)]).await;
    let arg = files::DownloadArg::new("/a".to_owned());
    let caller = bench.within(Duration::from_secs(1));
    let mut answer = caller.download(&routes::DOWNLOAD, &arg, None).await.expect("a head");
    assert_eq!(all(&mut answer.body).await.expect_err("late").reason(), Reason::DeadlineExceeded);
}

#[tokio::test]
async fn a_commit_without_content_may_have_been_sent_when_its_deadline_passes() {
    let bench = Bench::new(vec![Act::Stall]).await;
    let cursor = files::UploadSessionCursor::new("s".to_owned(), 5);
    let arg = files::UploadSessionFinishArg::new(cursor, files::CommitInfo::new("/a".to_owned()));
    let caller = bench.within(Duration::from_secs(1));
    let call = caller.commit_upload(&Turn::granted(), &routes::UPLOAD_SESSION_FINISH, &arg, &[]).await;
    let fault = call.expect_err("late");
    assert_eq!((fault.reason(), fault.get("sent")), (Reason::DeadlineExceeded, Some("true")));
}

#[tokio::test]
async fn a_silent_connection_under_an_append_is_replaced_once() {
    let timeouts = Timeouts { request: Duration::from_secs(2), ..Timeouts::default() };
    let script = vec![Act::Stall, Act::json(200, "null"), Act::Stall, Act::Stall];
    let bench = Bench::with(script, Tokens::default(), timeouts).await;
    let arg = files::UploadSessionAppendArg::new(files::UploadSessionCursor::new("s".to_owned(), 0));
    let pieces = [Bytes::from_static(b"hello")];
    bench.run(bench.caller.upload(&routes::UPLOAD_SESSION_APPEND, &arg, &pieces)).await.expect("appended");
    let fault =
        bench.run(bench.caller.upload(&routes::UPLOAD_SESSION_APPEND, &arg, &pieces)).await.expect_err("silent");
    assert_eq!((fault.reason(), fault.get("phase")), (Reason::UpstreamTimeout, Some("request")));
    assert!(fault.retry_delay().is_some());
    assert_eq!(bench.server.seen().len(), 4);
}

#[tokio::test]
async fn a_download_keeps_its_place_in_the_queue_until_its_body_is_gone() {
    let (headers, body) = download(b"hello");
    let bench = Bench::new(vec![Act::Halt(200, headers, body, 2)]).await;
    let arg = files::DownloadArg::new("/a".to_owned());
    let answer = bench.caller.download(&routes::DOWNLOAD, &arg, None).await.expect("a head");
    let lane = bench.transport.pace.lane(&AccountKey::new("dbid:1"));
    let bodies = crate::limits::ACCOUNT_BODIES_MAX;
    assert_eq!(lane.free_bodies(), bodies - 1);
    drop(answer);
    assert_eq!(lane.free_bodies(), bodies);
}

#[tokio::test]
async fn a_call_that_is_dropped_gives_its_connection_no_more_of_its_content_and_closes_it() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback has ports");
    let url: Url = format!("http://{}", listener.local_addr().expect("bound")).parse().expect("a url");
    let endpoints = Endpoints { api: url.clone(), content: url.clone(), notify: url.clone(), oauth: url };
    let clock = Arc::new(ManualClock::new(SystemTime::UNIX_EPOCH));
    let transport = Transport::new(endpoints, true, clock).expect("loopback is fit");
    let account = AccountKey::new("dbid:1");
    let caller = Caller::new(transport, Arc::new(Tokens::default()), account, None, None, None, Timeouts::default());
    let underway = Arc::new(Underway::default());
    assert_eq!(underway.given(), None);
    let caller = caller.followed_by(underway.clone());
    // More than sockets take up: it is stuck in the midst of its body.
    let body = [Bytes::from(vec![7; 32 << 20])];
    let cursor = files::UploadSessionCursor::new("s".to_owned(), 0);
    let arg = files::UploadSessionAppendArg::new(cursor);
    let stuck = {
        let call = caller.upload(&routes::UPLOAD_SESSION_APPEND, &arg, &body);
        let mut call = std::pin::pin!(call);
        let stuck = tokio::select! {
            accepted = listener.accept() => accepted.expect("a connection").0,
            _ = &mut call => panic!("nobody answers"),
        };
        let mut last = 0;
        loop {
            let ended = tokio::time::timeout(Duration::from_millis(200), &mut call).await;
            assert!(ended.is_err(), "nobody answers");
            let given = underway.given().expect("it has begun to leave").bytes;
            if given == last && given > 0 {
                break stuck;
            }
            last = given;
        }
    };
    assert!(!body[0].is_unique(), "the connection has it still");
    underway.let_go(crate::limits::CLOSE_TIME).await;
    // What its buffers held, and then its end: Dropbox has no whole request.
    let mut stuck = stuck;
    let mut buffer = vec![0; 1 << 20];
    let mut seen = 0;
    loop {
        let read = tokio::io::AsyncReadExt::read(&mut stuck, &mut buffer);
        match tokio::time::timeout(Duration::from_secs(10), read).await {
            Err(_) => panic!("the connection is open"),
            Ok(Ok(0) | Err(_)) => break,
            Ok(Ok(read)) => seen += read,
        }
    }
    assert!(seen < body[0].len(), "only a part of it has left");
    underway.let_go(Duration::from_secs(10)).await;
    assert!(body[0].is_unique());
}
