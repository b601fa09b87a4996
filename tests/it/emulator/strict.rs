//! What Dropbox refuses, the emulator refuses, in the same words: a client that passes here has no luck to thank for it.

use futures::stream;
use serde_json::{Value, json};

use super::Bench;

const MIB: usize = 1 << 20;
const BLOCK: usize = 4 * MIB;

fn wrong(label: &str, text: &str) -> String {
    format!("Error in call to API function \"{label}\": {text}")
}

#[tokio::test]
async fn a_content_type_of_another_style_is_refused() {
    let bench = Bench::start().await;
    bench.file("/a.txt", b"a").await;
    let metadata =
        |kind: &'static str| bench.bare("files/get_metadata").header("Content-Type", kind).body(r#"{"path":"/a.txt"}"#);
    for kind in ["application/json", "application/json; charset=utf-8", "text/plain; charset=dropbox-cors-hack"] {
        assert_eq!(bench.send(metadata(kind)).await.status, 200, "{kind}");
    }
    for kind in ["application/x-www-form-urlencoded", "text/plain", "application/octet-stream"] {
        let said = bench.send(metadata(kind)).await;
        assert_eq!(said.status, 400, "{kind}");
        assert!(said.text().contains("Bad HTTP \"Content-Type\" header"), "{}", said.text());
    }
    let upload = || bench.bare("files/upload").header("Dropbox-API-Arg", r#"{"path":"/b.txt"}"#);
    let charset = bench.send(upload().header("Content-Type", "application/octet-stream; charset=utf8").body("b")).await;
    assert_eq!(charset.status, 400);
    assert_eq!(bench.send(upload()).await.status, 400, "an empty body needs its content type too");
    let download = || bench.bare("files/download").header("Dropbox-API-Arg", r#"{"path":"/a.txt"}"#);
    assert_eq!(bench.send(download()).await.status, 200);
    assert_eq!(bench.send(download().header("Content-Type", "")).await.status, 200);
    assert_eq!(bench.send(download().header("Content-Type", "application/json")).await.status, 400);
    assert_eq!(bench.send(download().body("x")).await.status, 400);
    bench.end();
}

#[tokio::test]
async fn an_argument_in_a_header_has_to_be_escaped() {
    let bench = Bench::start().await;
    let upload = |arg: &[u8]| {
        let arg = reqwest::header::HeaderValue::from_bytes(arg).expect("a header");
        bench
            .bare("files/upload")
            .header("Content-Type", "application/octet-stream")
            .header("Dropbox-API-Arg", arg)
            .body("x")
    };
    let raw = bench.send(upload("{\"path\":\"/ü.txt\"}".as_bytes())).await;
    let text = "HTTP header \"Dropbox-API-Arg\": could not decode input as JSON";
    assert_eq!((raw.status, raw.text()), (400, wrong("files/upload", text).as_str()));
    let escaped = bench.send(upload(br#"{"path":"/\u00fc\ud83d\ude00.txt"}"#)).await.good();
    assert_eq!(escaped["name"], "ü😀.txt");
    let missing =
        bench.send(bench.bare("files/upload").header("Content-Type", "application/octet-stream").body("x")).await;
    assert_eq!(missing.status, 400);
    assert!(missing.text().contains("Dropbox-API-Arg"), "{}", missing.text());
    bench.end();
}

#[tokio::test]
async fn an_argument_that_is_not_of_its_type_is_refused_where_it_is_wrong() {
    let bench = Bench::start().await;
    let header = |text: &str| format!("HTTP header \"Dropbox-API-Arg\": {text}");
    let body = |text: &str| format!("request body: {text}");
    for (route, label, arg, text) in [
        ("files/get_metadata", "files/get_metadata", json!({"path": "/a", "foo": 1}), body("unknown field 'foo'")),
        ("files/get_metadata", "files/get_metadata", json!({}), body("missing required field 'path'")),
        (
            "files/create_folder_v2",
            "files/create_folder:2",
            json!({"path": 1}),
            body("path: expected string, got integer"),
        ),
        (
            "files/list_folder",
            "files/list_folder",
            json!({"path": "", "limit": 2001}),
            body("limit: 2001 is not within range [1, 2000]"),
        ),
        ("files/upload", "files/upload", json!({"path": "/a", "mode": "ad"}), header("mode: unknown tag 'ad'")),
        (
            "files/upload",
            "files/upload",
            json!({"path": "/a", "mode": "update"}),
            header("mode: expected object for 'update', got symbol"),
        ),
        (
            "files/upload_session/append_v2",
            "files/upload_session/append:2",
            json!({"cursor": {"offset": 0}}),
            header("cursor: missing required field 'session_id'"),
        ),
        (
            "files/upload",
            "files/upload",
            json!({"path": "/a", "client_modified": "2026-01-02T03:04:05.5Z"}),
            header("client_modified: time data '2026-01-02T03:04:05.5Z' does not match format '%Y-%m-%dT%H:%M:%SZ'"),
        ),
        ("users/get_current_account", "users/get_current_account", json!({}), body("expected null, got object")),
    ] {
        let said = match text.starts_with("HTTP") {
            true => bench.upload(route, arg, "").await,
            false => bench.rpc(route, arg).await,
        };
        assert_eq!((said.status, said.text()), (400, wrong(label, &text).as_str()));
    }
    let pattern = bench.rpc("files/get_metadata", json!({"path": "no slash"})).await;
    let start = wrong("files/get_metadata", "request body: path: 'no slash' did not match pattern '");
    assert!(pattern.text().starts_with(&start), "{}", pattern.text());
    assert_eq!(bench.rpc("users/get_current_account", Value::Null).await.status, 200);
    assert_eq!(bench.send(bench.bare("users/get_current_account")).await.status, 200, "as the JavaScript SDK sends it");
    bench.end();
}

#[tokio::test]
async fn a_route_lives_on_one_host_and_is_posted_to() {
    let bench = Bench::start().await;
    bench.file("/a.txt", b"a").await;
    let at = bench.emulator.addresses();
    let elsewhere =
        bench.http.post(format!("{}/2/files/get_metadata", at.content)).bearer_auth(&bench.login.access_token);
    let elsewhere = bench.send(elsewhere.header("Content-Type", "application/json").body(r#"{"path":"/a.txt"}"#)).await;
    assert_eq!(elsewhere.status, 400, "{}", elsewhere.text());
    let get = bench.http.get(bench.url("files/get_metadata")).bearer_auth(&bench.login.access_token);
    assert_ne!(bench.send(get).await.status, 200);
    let get = bench.http.get(bench.url("files/download")).bearer_auth(&bench.login.access_token);
    let get = bench.send(get.header("Dropbox-API-Arg", r#"{"path":"/a.txt"}"#)).await;
    assert_eq!((get.status, get.text()), (200, "a"), "downloads may be got");
    let unknown = bench.http.post(format!("{}/2/files/nothing", at.api)).bearer_auth(&bench.login.access_token);
    assert_eq!(bench.send(unknown).await.status, 404);
    bench.end();
}

#[tokio::test]
async fn a_credential_has_to_be_of_the_emulator_and_of_the_right_kind() {
    let bench = Bench::start().await;
    let ask = |credential: Option<&str>| {
        let request = bench.http.post(bench.url("users/get_current_account"));
        credential.into_iter().fold(request, |request, value| request.header("Authorization", value))
    };
    assert_eq!(bench.send(ask(None)).await.status, 400);
    assert_eq!(bench.send(ask(Some("Bearer"))).await.status, 400);
    let strange = bench.send(ask(Some("Bearer sl.u.AFsomebodyelses"))).await;
    assert_eq!((strange.status, strange.json()["error"].clone()), (401, json!({".tag": "invalid_access_token"})));
    let longpoll = bench.bare("files/list_folder/longpoll").header("Content-Type", "application/json");
    assert_eq!(bench.send(longpoll.body(r#"{"cursor":"x"}"#)).await.status, 400, "longpoll takes no credential");
    let scopes = ["files.metadata.read".to_owned()];
    let narrow = bench.control().issue(None, Some(&scopes)).expect("a known scope");
    let upload = bench.http.post(bench.url("files/upload")).bearer_auth(&narrow.access_token);
    let upload =
        upload.header("Content-Type", "application/octet-stream").header("Dropbox-API-Arg", r#"{"path":"/a"}"#);
    let upload = bench.send(upload.body("a")).await;
    let lacks = json!({".tag": "missing_scope", "required_scope": "files.content.write"});
    assert_eq!((upload.status, upload.json()["error"].clone()), (401, lacks));
    bench.end();
}

#[tokio::test]
async fn a_body_over_150_mib_is_too_large() {
    let bench = Bench::start().await;
    let chunk = bytes::Bytes::from(vec![0u8; MIB]);
    let many = |count: usize, rest: usize| {
        let chunks = (0..count).map(|_| chunk.clone()).chain([chunk.slice(..rest)]).collect::<Vec<_>>();
        reqwest::Body::wrap_stream(stream::iter(chunks.into_iter().map(Ok::<_, std::io::Error>)))
    };
    let over = bench.upload("files/upload", json!({"path": "/large"}), many(150, 1)).await;
    assert_eq!(over.error(), json!({".tag": "payload_too_large"}));
    let full = bench.upload("files/upload", json!({"path": "/large"}), many(150, 0)).await.good();
    assert_eq!(full["size"], 150 * MIB);
    bench.end();
}

#[tokio::test]
async fn a_concurrent_session_takes_whole_blocks_and_no_early_data() {
    let bench = Bench::start().await;
    let start = |arg: Value, body: &'static str| bench.upload("files/upload_session/start", arg, body);
    let early = start(json!({"session_type": "concurrent"}), "data").await;
    assert_eq!(early.error(), json!({".tag": "concurrent_session_data_not_allowed"}));
    let closed = start(json!({"session_type": "concurrent", "close": true}), "").await;
    assert_eq!(closed.error(), json!({".tag": "concurrent_session_close_not_allowed"}));
    let id = start(json!({"session_type": "concurrent"}), "").await.good()["session_id"].clone();
    let append = |offset: usize, length: usize, close: bool| {
        let arg = json!({"cursor": {"session_id": id, "offset": offset}, "close": close});
        bench.upload("files/upload_session/append_v2", arg, vec![7u8; length])
    };
    assert_eq!(append(0, BLOCK - 1, false).await.error(), json!({".tag": "concurrent_session_invalid_data_size"}));
    assert_eq!(append(1, BLOCK, false).await.error(), json!({".tag": "concurrent_session_invalid_offset"}));
    append(BLOCK, BLOCK, false).await.good();
    let finish = |offset: usize, body: &'static str| {
        let arg = json!({"cursor": {"session_id": id, "offset": offset}, "commit": {"path": "/c.bin"}});
        bench.upload("files/upload_session/finish", arg, body)
    };
    assert_eq!(finish(2 * BLOCK, "").await.error()[".tag"], "concurrent_session_not_closed");
    append(2 * BLOCK, 5, true).await.good();
    assert_eq!(finish(2 * BLOCK + 5, "x").await.error()[".tag"], "concurrent_session_data_not_allowed");
    assert_eq!(finish(2 * BLOCK + 5, "").await.error()[".tag"], "concurrent_session_missing_data");
    bench.end();
}

#[tokio::test]
async fn a_hash_that_is_not_of_the_body_is_a_mismatch() {
    let bench = Bench::start().await;
    let hash = "bf5d3affb73efd2ec6c36ad3112dd933efed63c4e1cbffcfa88e2759c144f2d8";
    let upload = |body: &'static str| bench.upload("files/upload", json!({"path": "/h", "content_hash": hash}), body);
    assert_eq!(upload("b").await.error(), json!({".tag": "content_hash_mismatch"}));
    assert_eq!(upload("a").await.good()["content_hash"], hash);
    let short = bench.upload("files/upload", json!({"path": "/h", "content_hash": "abc"}), "a").await;
    assert_eq!(short.status, 400);
    bench.end();
}
