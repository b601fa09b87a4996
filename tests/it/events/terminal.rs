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
    assert_eq!((&line()["snapshotEnd"]["count"], &line()["ready"]), (&1.into(), &Value::Object(Default::default())));
    let mut line = || loop {
        let told = line();
        if told.get("changeType").is_some() {
            break told;
        }
    };
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

/// What it ended with and said on standard error.
async fn ended(command: Command) -> (Option<i32>, String) {
    let mut command = tokio::process::Command::from(command);
    command.stderr(Stdio::piped()).kill_on_drop(true);
    let output = tokio::time::timeout(support::PATIENCE, command.output()).await.expect("it ends").expect("it starts");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn items_of_a_snapshot_are_given_to_the_command_too_and_again_if_it_failed_and_a_reset_is_told_before_them() {
    let mut house = support::start().await;
    for name in ["a", "b"] {
        put(&house, &format!("/in/{name}"), "1");
    }
    let note = "sh -c 'echo $EVENT_TYPE $EVENT_KIND $EVENT_PATH >> events.txt; cat >> events.jsonl; test ! -e fail'";
    let words = ["/in", "--snapshot", "--state", "in.token", "--exec", note, "--exec-snapshot", "--count", "1"];
    let read = |name: &str| std::fs::read_to_string(house.folder.path().join(name)).unwrap_or_default();
    let file = |name: &str| house.folder.path().join(name);
    std::fs::write(file("fail"), "").expect("written");
    let (code, said) = ended(watch(&house, &words)).await;
    assert_eq!((code, read("events.txt").lines().count()), (Some(1), 1), "{said}");
    for name in ["fail", "events.txt", "events.jsonl"] {
        std::fs::remove_file(file(name)).expect("it was there");
    }
    // A failure leaves it to the next run, in which nothing happens twice.
    let events = file("events.txt");
    let running = tokio::spawn(ended(watch(&house, &words)));
    support::until("all is told", async || {
        std::fs::read_to_string(&events).is_ok_and(|told| told.contains("snapshot_end"))
    })
    .await;
    put(&house, "/in/c", "1");
    let (code, said) = running.await.expect("joined");
    // What is new may be told as updated, until the index stands.
    let told = read("events.txt");
    assert!(code == Some(0) && told.starts_with("there file /in/a\nthere file /in/b\nsnapshot_end\n"), "{told}{said}");
    assert!(told.lines().count() == 4 && told.ends_with(" file /in/c\n"), "{told}");
    let jsonl = read("events.jsonl");
    let told: Vec<Value> = jsonl.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((&told[0]["snapshot"]["path"], &told[2]["snapshotEnd"]["count"]), (&"/in/a".into(), &2.into()));
    // The server forgets what it had told, and Dropbox drops its cursor.
    forget_all(&house).await;
    std::fs::remove_file(&events).expect("it was there");
    house.restart().await;
    house.control().reset_cursors();
    let running = tokio::spawn(ended(watch(&house, &words)));
    support::until("all is told anew", async || {
        std::fs::read_to_string(&events).is_ok_and(|told| told.contains("snapshot_end"))
    })
    .await;
    put(&house, "/in/d", "1");
    let (code, said) = running.await.expect("joined");
    let told = std::fs::read_to_string(&events).expect("told");
    let anew = "reset\nthere file /in/a\nthere file /in/b\nthere file /in/c\nsnapshot_end\n";
    assert!(code == Some(0) && told.starts_with(anew), "{told}{said}");
    assert!(told.lines().count() == 6 && told.ends_with(" file /in/d\n"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_not_there_and_a_state_that_leads_nowhere_are_told_at_start_by_their_names() {
    let house = support::start().await;
    for folder in ["/in", "/other"] {
        make_folder(&house, folder);
    }
    let (code, said) = ended(watch(&house, &["/in", "--exec", "./nosuch"])).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("--exec ./nosuch: there is no such program"), "{said}");
    let state = house.folder.path().join("in.token");
    std::fs::write(&state, "one\ntwo\n").expect("written");
    let of_other = Watch::ready(&house, |asked| asked.path = "/other".into()).await.token;
    for (kept, says) in [("one\ntwo\n", "no place of a watch"), (of_other.as_str(), "another folder")] {
        std::fs::write(&state, kept).expect("written");
        let (code, said) = ended(watch(&house, &["/in", "--state", "in.token"])).await;
        assert_eq!(code, Some(2), "{said}");
        for part in ["--state in.token: ", says, "remove it", "a new one"] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(!said.contains("handle"), "{said}");
        assert_eq!(std::fs::read_to_string(&state).expect("still there"), kept, "what is refused is not lost");
    }
    let (code, said) = ended(watch(&house, &["/in", "--resume-token", &of_other])).await;
    assert!(code == Some(2) && said.contains("--resume-token: ") && said.contains("another folder"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_in_a_json_line_is_the_place_behind_that_line() {
    let house = support::start().await;
    for name in ["a", "b", "c"] {
        put(&house, &format!("/in/{name}"), "1");
    }
    let lines = async |words: &[&str], enough: &dyn Fn(&Value) -> bool| {
        let mut child = watch(&house, words).spawn().expect("it starts");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        let mut told = Vec::new();
        for line in output.lines() {
            told.push(serde_json::from_str::<Value>(&line.expect("text")).expect("JSON"));
            if told.last().is_some_and(enough) {
                break;
            }
        }
        child.kill().expect("it runs until then");
        child.wait().expect("ended");
        told
    };
    let is_ready = |told: &Value| told.get("ready").is_some();
    let told = lines(&["/in", "--snapshot", "--json"], &is_ready).await;
    let items: Vec<&Value> = told.iter().filter(|told| told.get("snapshot").is_some()).collect();
    assert_eq!(items.len(), 3, "{told:?}");
    let tokens: Vec<bool> = items.iter().map(|told| told["resumeToken"].is_string()).collect();
    assert_eq!(tokens, [false, false, true], "behind the others there are items yet to come");
    assert!(told.iter().any(|told| told["snapshotEnd"]["count"] == 3 && told["resumeToken"].is_string()), "{told:?}");
    // Whoever kept the last item's place is told the end of the snapshot, and no item twice.
    let token = items[2]["resumeToken"].as_str().expect("a token");
    let again = lines(&["/in", "--json", "--resume-token", token], &is_ready).await;
    assert!(again.iter().all(|told| told.get("snapshot").is_none()), "{again:?}");
    assert!(again.iter().any(|told| told.get("snapshotEnd").is_some()), "{again:?}");
    // A reset is told.
    let token = again.last().expect("ready")["resumeToken"].as_str().expect("a token").to_owned();
    house.control().reset_cursors();
    put(&house, "/in/d", "1");
    let reset_told = std::cell::Cell::new(false);
    let is_end = |told: &Value| {
        reset_told.set(reset_told.get() || told.get("cursorReset").is_some());
        reset_told.get() && is_ready(told)
    };
    let after = lines(&["/in", "--json", "--resume-token", &token], &is_end).await;
    let reset = after.iter().find_map(|told| told.get("cursorReset")).expect("told");
    assert!(reset["resync"].is_boolean() && reset["reason"].is_string(), "{reset}");
    assert!(after.iter().any(|told| told.to_string().contains("/in/d")), "{after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn grpcurl_watches_and_pulls() {
    let house = support::start().await;
    put(&house, "/in/a", "1");
    let call = async |seconds: &str, method: &str, data: &str| {
        let mut command = tool("grpcurl");
        command.args(["-plaintext", "-max-time", seconds, "-d", data]).arg(house.addresses.data.to_string());
        command.arg(format!("dropboxconnector.v1.DropboxConnector/{method}"));
        tokio::task::spawn_blocking(move || command.output()).await.expect("joined").expect("ended")
    };
    let ask = r#"{"applicationParameterId":"p","path":"/in","startPosition":"START_POSITION_SNAPSHOT"}"#;
    // The goodbye comes 50 ms before grpcurl's own clock ends the call: on a busy machine not in time each time.
    let mut said = String::new();
    for _ in 0..5 {
        let output = call("4", "WatchEvents", ask).await;
        said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if said.contains("\"draining\"") && said.contains("DEADLINE_EXCEEDED") {
            break;
        }
    }
    for part in ["\"snapshotEnd\"", "\"ready\"", "\"resumeToken\"", "/in/a", "\"draining\"", "DEADLINE_EXCEEDED"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let output = call("30", "GetEventToken", r#"{"applicationParameterId":"p","path":"/in"}"#).await;
    let token: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    put(&house, "/in/b", "1");
    let data = format!(r#"{{"applicationParameterId":"p","resumeToken":{}}}"#, token["resumeToken"]);
    let output = call("30", "PullEvents", &data).await;
    let pulled: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(pulled["changes"][0]["item"]["pathDisplay"], "/in/b", "{pulled}");
}
