//! `dropbox-connector watch`, and the stock tools that watch: grpcurl, and a page by gRPC-Web.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use serde_json::Value;

use super::*;
use crate::support::process::{BINARY, tool};

fn watch(house: &House, words: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command
        .arg("watch")
        .args(words)
        .env("DROPBOX_CONNECTOR_SERVER", format!("http://{}", house.addresses.data))
        .env("DROPBOX_CONNECTOR_PARAMETER", PARAMETER)
        .current_dir(house.folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_prints_events_runs_a_program_for_each_and_goes_on_behind_its_state_file() {
    let house = support::start().await;
    put(&house, "/in/there.pdf", "1");
    let words = [
        "/in",
        "--snapshot",
        "--json",
        "--count",
        "2",
        "--glob",
        "*.pdf",
        "--state",
        "in.token",
        "--exec",
        "sh -c 'echo $EVENT_TYPE $EVENT_PATH >> events.txt; cat >> events.jsonl'",
    ];
    let mut child = watch(&house, &words).spawn().expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let mut line = || serde_json::from_str::<Value>(&lines.next().expect("a line").expect("text")).expect("JSON");
    assert_eq!(line()["snapshot"]["path"], "/in/there.pdf");
    put(&house, "/in/no.txt", "x");
    put(&house, "/in/a.pdf", "x");
    let first = line();
    assert_eq!((&first["item"]["path"], &first["itemKind"]), (&"/in/a.pdf".into(), &"ITEM_KIND_FILE".into()));
    put(&house, "/in/b.pdf", "x");
    assert_eq!(line()["item"]["path"], "/in/b.pdf");
    let status = tokio::task::spawn_blocking(move || child.wait()).await.expect("joined").expect("ended");
    assert!(status.success());
    let read = |name: &str| std::fs::read_to_string(house.folder.path().join(name)).expect("a file");
    let said = read("events.txt");
    assert!(said.lines().count() == 2 && said.ends_with("/in/b.pdf\n"), "{said}");
    assert_eq!(read("events.jsonl").lines().count(), 2);
    assert!(read("in.token").trim() != first["resumeToken"], "it is behind the second event");
    // While it was away something happened.
    put(&house, "/in/c.pdf", "x");
    let words = ["/in", "--count", "1", "--glob", "*.pdf", "--state", "in.token"];
    let mut command = watch(&house, &words);
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("joined").expect("ended");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.ends_with("/in/c.pdf\n") && text.lines().count() == 1, "{text}");
    // A command that fails leaves the event to the next run.
    put(&house, "/in/d.pdf", "x");
    for (exec, code) in [("false", 1), ("true", 0)] {
        let words = ["/in", "--count", "1", "--glob", "*.pdf", "--state", "in.token", "--exec", exec];
        let mut command = watch(&house, &words);
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("joined").expect("ended");
        assert_eq!(output.status.code(), Some(code));
        assert!(String::from_utf8_lossy(&output.stdout).ends_with("/in/d.pdf\n"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grpcurl_watches_and_pulls() {
    let house = support::start().await;
    put(&house, "/in/a", "1");
    let call = |method: &str, data: &str| {
        let mut command = tool("grpcurl");
        command.args(["-plaintext", "-max-time", "3", "-d", data]).arg(house.addresses.data.to_string());
        command.arg(format!("dropboxconnector.v1.DropboxConnector/{method}"));
        command
    };
    let ask = r#"{"applicationParameterId":"p","path":"/in","startPosition":"START_POSITION_SNAPSHOT"}"#;
    let mut watching = call("WatchEvents", ask);
    let output = tokio::task::spawn_blocking(move || watching.output()).await.expect("joined").expect("ended");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    for part in ["\"snapshotEnd\"", "\"ready\"", "\"resumeToken\"", "/in/a", "\"draining\"", "DEADLINE_EXCEEDED"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let mut asking = call("GetEventToken", r#"{"applicationParameterId":"p","path":"/in"}"#);
    let output = tokio::task::spawn_blocking(move || asking.output()).await.expect("joined").expect("ended");
    let token: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    put(&house, "/in/b", "1");
    let data = format!(r#"{{"applicationParameterId":"p","resumeToken":{}}}"#, token["resumeToken"]);
    let mut pulling = call("PullEvents", &data);
    let output = tokio::task::spawn_blocking(move || pulling.output()).await.expect("joined").expect("ended");
    let pulled: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(pulled["changes"][0]["item"]["pathDisplay"], "/in/b", "{pulled}");
}
