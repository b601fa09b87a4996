//! The script: what is ordered happens, on the wire, and the books tell of it. In-process and over the control port.

use std::time::Duration;

use dropbox_connector::emulator::{
    control::{Generate, Seed, SeedFile},
    script::{Action, Rule},
};
use futures::StreamExt;
use serde_json::{Value, json};

use super::{Bench, Said};

async fn control(bench: &Bench, method: &str, path: &str, body: Value) -> Said {
    let url = format!("{}/control/{path}", bench.emulator.addresses().control);
    let method = method.parse().expect("a method");
    let request = bench.http.request(method, url);
    bench.send(if body.is_null() { request } else { request.body(body.to_string()) }).await
}

#[tokio::test]
async fn ordered_refusals_come_instead_of_the_call() {
    let bench = Bench::start().await;
    let error = json!({".tag": "path", "path": {".tag": "conflict", "conflict": {".tag": "folder"}}});
    bench
        .control()
        .script([
            Rule::nth("files/create_folder_v2", 1, Action::TooManyRequests { retry_after: Some(7) }),
            Rule::nth("files/create_folder_v2", 2, Action::TooManyRequests { retry_after: None }),
            Rule::nth("files/create_folder_v2", 3, Action::TooManyRequestsText { retry_after: None }),
            Rule::nth("files/create_folder_v2", 4, Action::TooManyWriteOperations { retry_after: Some(1) }),
            Rule::nth(
                "files/create_folder_v2",
                5,
                Action::Error { error: error.clone(), user_message: Some("no".into()) },
            ),
            Rule::nth("files/create_folder_v2", 6, Action::ServerError { status: 503 }),
            Rule::nth("files/create_folder_v2", 7, Action::Html { status: 502 }),
            Rule::nth("files/create_folder_v2", 8, Action::ExpiredToken),
        ])
        .expect("sound rules");
    let mut said = Vec::new();
    for _ in 0..9 {
        said.push(bench.rpc("files/create_folder_v2", json!({"path": "/new"})).await);
    }
    let statuses: Vec<u16> = said.iter().map(|said| said.status).collect();
    assert_eq!(statuses, [429, 429, 429, 429, 409, 503, 502, 401, 200], "the ninth found nothing done by the others");
    assert_eq!((said[0].header("retry-after"), &said[0].json()["error"]["retry_after"]), ("7", &json!(7)));
    assert!(!said[1].headers.contains_key("retry-after"));
    assert!(said[2].header("content-type").starts_with("text/plain"));
    let contention = json!({"reason": {".tag": "too_many_write_operations"}});
    assert_eq!((said[3].header("retry-after"), said[3].json()["error"].clone()), ("1", contention));
    assert_eq!(said[4].json()["error"], error);
    assert!(said[4].json()["error_summary"].as_str().expect("text").starts_with("path/conflict/folder/"));
    assert_eq!(said[4].json()["user_message"]["text"], "no");
    assert!(said[6].header("content-type").starts_with("text/html"));
    assert_eq!(said[7].json()["error"][".tag"], "expired_access_token");
    bench.end();
}

#[tokio::test]
async fn a_cut_before_leaves_nothing_and_a_cut_after_leaves_all() {
    let bench = Bench::start().await;
    let rules = [
        Rule::nth("files/upload", 1, Action::CutBefore),
        Rule::nth("files/upload", 2, Action::CutAfter),
        Rule::nth("files/upload", 3, Action::CutRequest { after_bytes: 10 }),
    ];
    bench.control().script(rules).expect("sound rules");
    for (path, there) in [("/before", false), ("/after", true), ("/within", false)] {
        let request = bench.bare("files/upload").header("Content-Type", "application/octet-stream");
        let request = request.header("Dropbox-API-Arg", json!({ "path": path }).to_string()).body(vec![1u8; 100_000]);
        assert!(request.send().await.is_err(), "{path} is answered");
        assert_eq!(bench.control().read(None, path).is_some(), there, "{path}");
    }
    let counter = bench.control().counter("files/upload");
    assert_eq!((counter.calls, counter.good, counter.running), (3, 0, 0));
    bench.end();
}

#[tokio::test]
async fn a_download_is_cut_spoilt_or_stalled_where_ordered() {
    let bench = Bench::start().await;
    let bytes: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
    bench.file("/d.bin", &bytes).await;
    let begin = async |range: &str| {
        let request = bench.bare("files/download").header("Dropbox-API-Arg", r#"{"path":"/d.bin"}"#);
        request.header("Range", range).send().await.expect("a head")
    };
    let cut = [
        Rule::nth("files/download", 1, Action::CutBody { after_bytes: 1000 }),
        Rule::nth("files/download", 2, Action::CutBody { after_bytes: 500 }),
        Rule::nth("files/download", 4, Action::CorruptBody { at: 3 }),
        Rule::nth("files/download", 5, Action::StallBody { after_bytes: 100 }),
    ];
    bench.control().script(cut).expect("sound rules");
    let mut got = Vec::new();
    for (expected, status) in [(1000, 206), (1500, 206), (bytes.len(), 206)] {
        let response = begin(&format!("bytes={}-", got.len())).await;
        assert_eq!(response.status(), status);
        let mut body = response.bytes_stream();
        while let Some(Ok(piece)) = body.next().await {
            got.extend_from_slice(&piece);
        }
        assert_eq!(got.len(), expected);
    }
    assert_eq!(got, bytes);
    let spoilt = begin("bytes=0-").await.bytes().await.expect("a whole body");
    let differing: Vec<usize> = (0..bytes.len()).filter(|i| spoilt[*i] != bytes[*i]).collect();
    assert_eq!(differing, [3]);
    let mut stalled = begin("bytes=0-").await.bytes_stream();
    let mut came = 0;
    while came < 100 {
        came += stalled.next().await.expect("more").expect("bytes").len();
    }
    assert_eq!(came, 100);
    assert!(tokio::time::timeout(Duration::from_millis(200), stalled.next()).await.is_err(), "more came");
    bench.end();
}

#[tokio::test]
async fn a_call_that_is_never_answered_stays_open() {
    let bench = Bench::start().await;
    bench.control().script([Rule::once("users/get_space_usage", Action::Stall)]).expect("a sound rule");
    let call = bench.rpc("users/get_space_usage", Value::Null);
    assert!(tokio::time::timeout(Duration::from_millis(200), call).await.is_err(), "it was answered");
    assert_eq!(bench.rpc("users/get_space_usage", Value::Null).await.status, 200);
    bench.end();
}

#[tokio::test]
async fn the_books_count_calls_bytes_and_what_runs_at_once() {
    let bench = Bench::start().await;
    bench.control().script([Rule::always("files/upload", Action::Delay { millis: 50 })]).expect("a sound rule");
    let uploads = ["/1", "/2", "/3"].map(|path| bench.upload("files/upload", json!({ "path": path }), vec![0u8; 1000]));
    for said in futures::future::join_all(uploads).await {
        assert_eq!(said.status, 200);
    }
    let counter = bench.control().counter("files/upload");
    assert_eq!((counter.calls, counter.good, counter.bytes_in, counter.body_bytes_max), (3, 3, 3000, 1000));
    assert_eq!((counter.running, counter.running_max), (0, 3));
    bench.control().clear_journal();
    bench.download("files/download", json!({"path": "/1"})).await;
    let journal = bench.control().journal();
    let entry = journal.first().expect("the download");
    assert_eq!((entry.route.as_str(), entry.status, entry.bytes_out), ("files/download", 200, 1000));
    assert_eq!(entry.arg, json!({"path": "/1"}));
    assert_eq!(entry.account_id.as_deref(), Some(bench.login.account_id.as_str()));
    let kept = serde_json::to_string(&journal).expect("JSON");
    assert!(!kept.contains(&bench.login.access_token), "the journal keeps a token");
    bench.end();
}

#[tokio::test]
async fn the_control_port_has_the_same_powers() {
    let bench = Bench::start().await;
    assert_eq!(control(&bench, "GET", "login", Value::Null).await.good()["app_key"], json!(bench.login.app_key));
    let seed = json!({
        "folders": ["/empty"],
        "files": [{"path": "/t.txt", "text": "text"}, {"path": "/b.bin", "base64": "AAEC"}],
        "generate": {"folder": "/many", "files": 30, "bytes": 10, "per_folder": 20},
    });
    control(&bench, "POST", "seed", seed).await.good();
    assert_eq!(bench.control().read(None, "/b.bin"), Some(vec![0, 1, 2]));
    let list = bench.rpc("files/list_folder", json!({"path": "/many", "recursive": true})).await.good();
    let entries = list["entries"].as_array().expect("entries");
    assert_eq!(entries.iter().filter(|entry| entry[".tag"] == "file").count(), 30);
    let rule = json!({"route": "files/*", "times": 1, "action": {"do": "server_error", "status": 500}});
    control(&bench, "POST", "script", rule).await.good();
    assert_eq!(bench.rpc("files/get_metadata", json!({"path": "/t.txt"})).await.status, 500);
    let standing = control(&bench, "GET", "script", Value::Null).await.good();
    assert_eq!((&standing[0]["seen"], &standing[0]["fired"]), (&json!(1), &json!(1)));
    control(&bench, "DELETE", "script", Value::Null).await.good();
    control(&bench, "POST", "switches", json!({"list_page": 3})).await.good();
    let page = bench.rpc("files/list_folder", json!({"path": "/many/000"})).await.good();
    assert_eq!((page["entries"].as_array().map(Vec::len), &page["has_more"]), (Some(3), &json!(true)));
    control(&bench, "POST", "clock", json!({"advance_seconds": 14_400})).await.good();
    let expired = bench.rpc("users/get_current_account", Value::Null).await;
    assert_eq!((expired.status, &expired.json()["error"][".tag"]), (401, &json!("expired_access_token")));
    let fresh = control(&bench, "POST", "login", json!({"scopes": ["account_info.read"]})).await.good();
    let me = bench
        .http
        .post(bench.url("users/get_current_account"))
        .bearer_auth(fresh["access_token"].as_str().expect("text"));
    assert_eq!(bench.send(me).await.status, 200);
    control(&bench, "POST", "reset", Value::Null).await.good();
    assert_eq!(bench.control().read(None, "/t.txt"), None);
    for (method, path, body, text) in [
        ("POST", "script", json!({"route": "*", "nth": 0, "action": {"do": "stall"}}), "count from 1"),
        ("POST", "seed", json!({"files": [{"path": "/x"}]}), "give one of text, base64 and bytes"),
        ("POST", "switches", json!({"second_finish": "maybe"}), "maybe"),
        ("POST", "login", json!({"account_id": "dbid:nobody"}), "no account"),
    ] {
        let said = control(&bench, method, path, body).await;
        assert_eq!(said.status, 400, "{path}");
        assert!(said.json()["error"].as_str().expect("text").contains(text), "{}", said.text());
    }
    assert_eq!(control(&bench, "GET", "nothing", Value::Null).await.status, 404);
    bench.end();
}

#[tokio::test]
async fn a_seed_has_bounds_and_says_what_it_refuses() {
    let bench = Bench::start().await;
    let files = |file: SeedFile| Seed { files: vec![file], ..Seed::default() };
    assert!(bench.control().seed(&files(SeedFile::text("no slash", "x"))).is_err());
    let generate = Some(Generate { folder: "/g".into(), files: 2_000_000, bytes: 1, per_folder: None });
    assert!(bench.control().seed(&Seed { generate, ..Seed::default() }).is_err());
    bench.control().seed(&files(SeedFile::bytes("/made.bin", 100_001))).expect("a sound seed");
    let first = bench.control().read(None, "/made.bin").expect("it is there");
    bench.control().reset();
    bench.control().seed(&files(SeedFile::bytes("/made.bin", 100_001))).expect("a sound seed");
    assert_eq!(bench.control().read(None, "/made.bin"), Some(first), "the same path and length give the same bytes");
    bench.end();
}
