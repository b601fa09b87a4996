//! The tools people reach for first: grpcurl before and after reflection v1, grpc_health_probe, and the README's own lines.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::process::{Served, root, succeed, text, tool};

const S: &str = "dropboxconnector.v1.DropboxConnector";
/// The release before reflection v1, and one with it.
const GRPCURLS: [&str; 2] = ["grpcurl-1.8.6", "grpcurl"];

/// A call of the data service with one JSON message or several; the output as it is.
fn grpcurl(address: &str, flags: &[&str], method: &str, messages: &[Value]) -> Output {
    let mut command = tool("grpcurl");
    command.arg("-plaintext").args(flags).args(["-d", "@", address, &format!("{S}/{method}")]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for message in messages {
        writeln!(stdin, "{message}").unwrap();
    }
    drop(stdin);
    child.wait_with_output().unwrap()
}

/// The one answer of a call that succeeds.
#[track_caller]
fn call(address: &str, method: &str, message: Value) -> Value {
    let output = grpcurl(address, &[], method, &[message]);
    assert!(output.status.success(), "{method}: {}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{method}: {error}: {}", text(&output)))
}

#[track_caller]
fn upload(address: &str, path: &str, base64: &str) -> Value {
    let messages = [
        json!({"applicationParameterId": "demo", "spec": {"path": path, "linkKind": "LINK_KIND_PREVIEW"}}),
        json!({"chunk": {"data": base64}}),
        json!({"finish": {}}),
    ];
    let output = grpcurl(address, &[], "UploadFile", &messages);
    assert!(output.status.success(), "{}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn both_grpcurls_list_exactly_the_services_of_each_port() {
    let mut served = Served::start();
    for (port, service) in [("data", S), ("admin", "dropboxconnector.v1.DropboxAdminConnector")] {
        let wanted = BTreeSet::from([
            service,
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
        ]);
        for name in GRPCURLS {
            let list = succeed(tool(name).args(["-plaintext", &served.told(port), "list"]));
            assert_eq!(list.lines().collect::<BTreeSet<_>>(), wanted, "{name} on the {port} port");
        }
    }
}

#[test]
fn both_grpcurls_describe_the_service_with_its_comments() {
    let mut served = Served::start();
    for name in GRPCURLS {
        let text = succeed(tool(name).args(["-plaintext", &served.told("data"), "describe", S]));
        assert!(text.contains("// Uploads a file of any size"), "{name} shows no comment:\n{text}");
        assert!(text.contains("*Dropbox routes*"), "{name} shows no manual:\n{text}");
    }
}

#[test]
fn streams_are_described_on_the_side_they_are() {
    let mut served = Served::start();
    let answers = ["DownloadFile", "WalkFolder", "WatchEvents"].map(|method| (method, false, true));
    let asks = [
        ("UploadFile", true, false),
        ("UploadFileDuplex", true, true),
        ("PlanSync", true, true),
        ("GetItem", false, false),
    ];
    for (method, request, response) in answers.into_iter().chain(asks) {
        let symbol = format!("{S}.{method}");
        let text = succeed(tool("grpcurl").args(["-plaintext", &served.told("data"), "describe", &symbol]));
        let line = text.lines().find(|line| line.trim_start().starts_with("rpc ")).expect("the rpc's line");
        let (before, after) = line.split_once("returns").expect("request and response");
        assert_eq!((before.contains("stream"), after.contains("stream")), (request, response), "{line}");
    }
}

#[test]
fn a_descriptor_set_serves_where_reflection_is_off() {
    let mut served = Served::start_with(&["--reflection=false"]);
    let folder = tempfile::tempdir().unwrap();
    let set = folder.path().join("dropbox-connector.binpb");
    succeed(tool("buf").args(["build", "proto", "--output"]).arg(&set));
    let data = served.told("data");
    let listed = tool("grpcurl").args(["-plaintext", &data, "list"]).output().unwrap();
    assert!(
        !listed.status.success() && text(&listed).contains("does not support the reflection API"),
        "{}",
        text(&listed)
    );
    let output = grpcurl(&data, &["-protoset", set.to_str().unwrap()], "GetServerInfo", &[json!({})]);
    assert!(output.status.success() && text(&output).contains("version"), "{}", text(&output));
}

fn probe(address: &str, service: &str) -> i32 {
    let output = tool("grpc_health_probe").args([&format!("-addr={address}"), &format!("-service={service}")]).output();
    output.unwrap().status.code().expect("an exit code")
}

#[test]
fn the_health_prober_finds_every_name_on_the_probe_port_and_nothing_else_there() {
    let mut served = Served::start();
    let address = served.told("probe");
    for service in ["", "readiness", "liveness", S, "dropboxconnector.v1.DropboxAdminConnector"] {
        assert_eq!(probe(&address, service), 0, "{service:?}");
    }
    assert_eq!(probe(&address, "nope"), 3);
    let flags = ["-import-path", "proto", "-proto", "dropboxconnector/v1/connector.proto"];
    let output = grpcurl(&address, &flags, "GetItem", &[json!({})]);
    assert!(text(&output).contains("Unimplemented"), "{}", text(&output));
}

#[test]
fn after_sigterm_it_is_not_ready_but_alive_and_then_ends_well() {
    let mut served = Served::start_with(&["--drain-delay=12s"]);
    let address = served.told("probe");
    assert_eq!(probe(&address, "readiness"), 0);
    served.terminate();
    let deadline = Instant::now() + Duration::from_secs(10);
    while probe(&address, "readiness") != 4 {
        assert!(Instant::now() < deadline, "still ready:\n{}", served.text());
    }
    assert_eq!(probe(&address, "liveness"), 0);
    let status = served.ended();
    assert!(status.success(), "{status}:\n{}", served.text());
}

#[test]
fn three_messages_by_grpcurl_upload_a_file_and_give_its_link() {
    let mut served = Served::start();
    let data = served.told("data");
    let answer = upload(&data, "/hello.txt", "aGVsbG8gd29ybGQ=");
    assert_eq!(answer["state"], "UPLOAD_STATE_COMMITTED", "{answer}");
    assert!(answer["item"]["file"]["id"].as_str().is_some_and(|id| id.starts_with("id:")), "{answer}");
    assert!(answer["item"]["file"]["rev"].is_string(), "{answer}");
    assert!(answer["link"]["url"].as_str().is_some_and(|url| url.starts_with("https://")), "{answer}");

    // The same by the older one: header first, trailer last, no larger receive limit.
    let message = json!({"applicationParameterId": "demo", "path": "/hello.txt"}).to_string();
    let method = format!("{S}/DownloadFile");
    let stream = succeed(tool("grpcurl-1.8.6").args(["-plaintext", "-d", &message, &data, &method]));
    let messages: Vec<Value> =
        serde_json::Deserializer::from_str(&stream).into_iter::<Value>().map(|value| value.unwrap()).collect();
    assert!(messages.first().unwrap()["header"].is_object(), "{stream}");
    assert_eq!(messages[1]["chunk"]["data"], "aGVsbG8gd29ybGQ=");
    assert_eq!(messages.last().unwrap()["trailer"]["verified"], true, "{stream}");
}

#[test]
fn folders_are_made_found_moved_listed_and_deleted_by_grpcurl_alone() {
    let mut served = Served::start();
    let data = served.told("data");
    let made = call(&data, "CreateFolder", json!({"applicationParameterId": "demo", "path": "/box"}));
    assert_eq!(made["created"], true, "{made}");
    let id = made["item"]["folder"]["id"].as_str().unwrap();
    let got = call(&data, "GetItem", json!({"applicationParameterId": "demo", "path": id}));
    assert_eq!(got["item"]["pathDisplay"], "/box");
    let kinds = json!({"applicationParameterId": "demo", "query": "box", "kinds": ["ITEM_KIND_FOLDER"]});
    let found = call(&data, "SearchItems", kinds);
    assert_eq!(found["matches"][0]["item"]["name"], "box", "{found}");
    call(&data, "MoveItem", json!({"applicationParameterId": "demo", "fromPath": "/box", "toPath": "/crate"}));
    let listed = call(&data, "ListFolder", json!({"applicationParameterId": "demo", "path": ""}));
    assert!(listed["items"].as_array().unwrap().iter().any(|item| item["name"] == "crate"), "{listed}");

    let refused = grpcurl(&data, &[], "DeleteItem", &[json!({"applicationParameterId": "demo", "path": "/crate"})]);
    assert!(!refused.status.success() && text(&refused).contains("NOT_A_FILE"), "{}", text(&refused));
    call(&data, "GetItem", json!({"applicationParameterId": "demo", "path": "/crate"}));
    let kind = json!({"applicationParameterId": "demo", "path": "/crate", "kind": "ITEM_KIND_FOLDER"});
    call(&data, "DeleteItem", kind);
    let gone = grpcurl(&data, &[], "GetItem", &[json!({"applicationParameterId": "demo", "path": "/crate"})]);
    assert!(text(&gone).contains("PATH_NOT_FOUND"), "{}", text(&gone));
}

/// From now on Dropbox answers every look at an item with 429.
fn limit_requests(served: &mut Served, retry_after: u32) {
    let control = served.told("emulator").replace("http://", "");
    let action = json!({"do": "too_many_requests", "retry_after": retry_after});
    let rule = json!({"route": "files/get_metadata", "action": action}).to_string();
    let head = format!("POST /control/script HTTP/1.1\r\nHost: {control}\r\nConnection: close\r\n");
    let mut stream = TcpStream::connect(&control).unwrap();
    write!(stream, "{head}Content-Length: {}\r\n\r\n{rule}", rule.len()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn error_details_print_in_clear() {
    let mut served = Served::start();
    let message = json!({"applicationParameterId": "demo", "path": "/missing"});
    let output = grpcurl(&served.told("data"), &["-format-error"], "GetItem", &[message]);
    assert!(!output.status.success());
    let text = text(&output);
    for wanted in ["google.rpc.ErrorInfo", "PATH_NOT_FOUND", "google.rpc.RequestInfo", "requestId", "remedy"] {
        assert!(text.contains(wanted), "no {wanted} in:\n{text}");
    }
    assert!(!text.contains("google.rpc.RetryInfo"), "a missing path is no reason to try again:\n{text}");

    // One that is a reason: Dropbox wants 30 s, and the caller has 15.
    limit_requests(&mut served, 30);
    let message = json!({"applicationParameterId": "demo", "path": "/missing"});
    let output = grpcurl(&served.told("data"), &["-format-error", "-max-time=15"], "GetItem", &[message]);
    let text = self::text(&output);
    for wanted in ["RATE_LIMITED", "google.rpc.RetryInfo", "\"retryDelay\": \"30s\"", "google.rpc.QuotaFailure"] {
        assert!(text.contains(wanted), "no {wanted} in:\n{text}");
    }
}

#[test]
fn a_queue_that_is_full_is_told_by_its_name() {
    let mut served = Served::start();
    let data = served.told("data");
    limit_requests(&mut served, 50);
    // 64 are refused by Dropbox and come again when they may, 4,096 wait behind them, and that is all.
    let message = json!({"applicationParameterId": "demo", "path": "/missing"});
    let flags = ["--insecure", "--connections=5", "-c", "4400", "-n", "4400", "-t", "59s"];
    let mut flood = tool("ghz")
        .args(flags)
        .args(["--call", &format!("{S}/GetItem"), "-d", &message.to_string(), &data])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(40);
    while !served.text().contains("RESOURCE_EXHAUSTED") {
        assert!(Instant::now() < deadline, "nobody is refused");
        std::thread::yield_now();
    }
    let output = grpcurl(&data, &["-format-error", "-max-time=59"], "GetItem", &[message]);
    let text = text(&output);
    for wanted in ["CONNECTOR_BUSY", "\"limit\": \"max_waiting_calls\"", "\"retryDelay\": \"1s\""] {
        assert!(text.contains(wanted), "no {wanted} in:\n{text}");
    }
    flood.kill().unwrap();
    flood.wait().unwrap();
}

/// The shell blocks of the README that call grpcurl and need nothing filled in. Those that show a token are run by
/// `recipes.rs`, on a server that wants one.
fn readme_blocks() -> Vec<String> {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let blocks = readme.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned());
    blocks.filter(|block| block.contains("grpcurl -plaintext") && !block.contains(['…', '$'])).collect()
}

#[test]
fn the_grpcurl_lines_of_the_readme_run_as_written() {
    let mut served = Served::start();
    let blocks = readme_blocks();
    assert!(!blocks.is_empty(), "the README shows no line to run");
    for block in blocks {
        let script = block
            .replace("localhost:50051", &served.told("data"))
            .replace("localhost:50052", &served.told("admin"))
            .replace("localhost:50053", &served.told("probe"));
        let path = std::env::join_paths(
            [root().join(".tools/bin")].into_iter().chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
        );
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", &script]).env("PATH", path.unwrap()).stdin(Stdio::null());
        succeed(&mut command);
    }
}
