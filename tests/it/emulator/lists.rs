//! Cursors, longpolls, roots, ranges and links that end; and what a state folder keeps.

use std::time::Duration;

use dropbox_connector::emulator::{Emulator, Options};
use serde_json::{Value, json};

use super::Bench;

fn paths(page: &Value) -> Vec<String> {
    let entries = page["entries"].as_array().expect("a list").iter();
    entries
        .map(|entry| {
            format!("{} {}", entry[".tag"].as_str().unwrap_or("-"), entry["path_display"].as_str().unwrap_or("-"))
        })
        .collect()
}

#[tokio::test]
async fn pages_tell_all_there_is_and_then_only_what_changed() {
    let bench = Bench::start().await;
    for path in ["/A/1", "/A/2", "/b", "/C/D/e"] {
        bench.file(path, path.as_bytes()).await;
    }
    let mut page = bench.rpc("files/list_folder", json!({ "path": "", "recursive": true, "limit": 3 })).await.good();
    let mut seen = paths(&page);
    while page["has_more"] == true {
        page = bench.rpc("files/list_folder/continue", json!({ "cursor": page["cursor"] })).await.good();
        seen.extend(paths(&page));
    }
    let all = ["folder /A", "file /A/1", "file /A/2", "file /b", "folder /C", "folder /C/D", "file /C/D/e"];
    assert_eq!(seen, all);
    let latest = json!({ "path": "/a" });
    let inner = bench.rpc("files/list_folder/get_latest_cursor", latest).await.good()["cursor"].clone();
    bench.rpc("files/move_v2", json!({ "from_path": "/A/1", "to_path": "/Z/1" })).await.good();
    bench.file("/A/sub/x", b"new").await;
    bench.rpc("files/delete_v2", json!({ "path": "/b" })).await.good();
    let mut seen = Vec::new();
    loop {
        page = bench.rpc("files/list_folder/continue", json!({ "cursor": page["cursor"] })).await.good();
        seen.extend(paths(&page));
        if page["has_more"] == false {
            break;
        }
    }
    let changes = ["folder /Z", "deleted /A/1", "file /Z/1", "folder /A/sub", "file /A/sub/x", "deleted /b"];
    assert_eq!(seen, changes);
    let direct = bench.rpc("files/list_folder/continue", json!({ "cursor": inner })).await.good();
    assert_eq!(paths(&direct), ["deleted /A/1", "folder /A/sub"]);
    bench.control().reset_cursors();
    let reset = bench.rpc("files/list_folder/continue", json!({ "cursor": page["cursor"] })).await;
    assert_eq!(reset.error()[".tag"], "reset");
    bench.end();
}

#[tokio::test]
async fn a_longpoll_ends_at_a_change_inside_its_folder_or_at_its_time() {
    let bench = Bench::start().await;
    bench.file("/in/a", b"1").await;
    let arg = json!({ "path": "/in", "recursive": true });
    let cursor = bench.rpc("files/list_folder/get_latest_cursor", arg).await.good()["cursor"].clone();
    let url = format!("{}/2/files/list_folder/longpoll", bench.emulator.addresses().notify);
    let poll = || {
        let request = bench.http.post(&url).header("Content-Type", "application/json");
        bench.send(request.body(json!({ "cursor": cursor, "timeout": 30 }).to_string()))
    };
    let (said, ()) = tokio::join!(poll(), async {
        while bench.control().counter("files/list_folder/longpoll").running == 0 {
            tokio::task::yield_now().await;
        }
        bench.file("/elsewhere", b"1").await;
        bench.clock.advance(Duration::from_secs(29)).await;
        assert_eq!(bench.control().counter("files/list_folder/longpoll").running, 1, "nothing has changed inside");
        // Its wait may have begun only now.
        while bench.control().counter("files/list_folder/longpoll").running == 1 {
            bench.clock.advance(Duration::from_secs(2)).await;
        }
    });
    assert_eq!(said.good(), json!({ "changes": false }));
    let (said, _) = tokio::join!(poll(), bench.file("/in/b", b"1"));
    assert_eq!(said.good(), json!({ "changes": true }));
    bench.end();
}

#[tokio::test]
async fn a_root_header_chooses_the_namespace_and_a_wrong_one_is_422() {
    let bench = Bench::start().await;
    bench.control().add_account("bo@example.com", "Bo", "Example", Some("Team"));
    let accounts = bench.rpc("users/get_current_account", Value::Null).await.good();
    let home = accounts["root_info"]["home_namespace_id"].as_str().expect("text").to_owned();
    bench.file("/a", b"1").await;
    let ask = async |root: Value| {
        let request = bench.bare("files/list_folder").header("Content-Type", "application/json");
        let request = request.header("Dropbox-API-Path-Root", root.to_string());
        bench.send(request.body(json!({ "path": "" }).to_string())).await
    };
    let there = ask(json!({ ".tag": "namespace_id", "namespace_id": home })).await.good();
    assert_eq!(paths(&there), ["file /a"]);
    let wrong = ask(json!({ ".tag": "root", "root": "1" })).await;
    assert_eq!((wrong.status, &wrong.json()["error"]["invalid_root"]["home_namespace_id"]), (422, &json!(home)));
    let foreign = ask(json!({ ".tag": "namespace_id", "namespace_id": "1" })).await;
    assert_eq!((foreign.status, &foreign.json()["error"][".tag"]), (422, &json!("no_permission")));
    assert_eq!(ask(json!("elsewhere")).await.status, 400);
    bench.end();
}

#[tokio::test]
async fn ranges_tags_and_temporary_links_serve_the_same_bytes() {
    let bench = Bench::start().await;
    bench.file("/a", b"0123456789").await;
    let ask = async |name: &str, value: &str| {
        let request = bench.bare("files/download").header("Dropbox-API-Arg", "{\"path\":\"/a\"}");
        bench.send(request.header(name, value)).await
    };
    let part = ask("Range", "bytes=2-4").await;
    assert_eq!((part.status, part.body.as_slice()), (206, b"234".as_slice()));
    assert_eq!(part.header("Content-Range"), "bytes 2-4/10");
    let beyond = ask("Range", "bytes=10-").await;
    assert_eq!(beyond.status, 409);
    assert!(beyond.json()["error_summary"].as_str().expect("text").starts_with("range/not_satisfiable/"));
    assert_eq!(ask("If-None-Match", part.header("ETag")).await.status, 304);
    let link = bench.rpc("files/get_temporary_link", json!({ "path": "/a" })).await.good()["link"].clone();
    let link = link.as_str().expect("text");
    assert_eq!(bench.send(bench.http.get(link).header("Range", "bytes=-3")).await.body, b"789");
    bench.clock.advance(Duration::from_secs(4 * 3600)).await;
    assert_eq!(bench.send(bench.http.get(link)).await.status, 410);
    bench.end();
}

#[tokio::test]
async fn a_state_folder_brings_back_tree_contents_and_cursors() {
    let folder = tempfile::tempdir().expect("a folder");
    let seed = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(seed.path().join("Sub")).expect("made");
    std::fs::write(seed.path().join("Sub/seed.txt"), "from the seed").expect("written");
    let options = Options {
        state_dir: Some(folder.path().to_owned()),
        seed_folder: Some(seed.path().to_owned()),
        ..Options::default()
    };
    let start = async || Bench::over(Emulator::start(options.clone()).await.expect("started"));
    let bench = start().await;
    let file = bench.file("/Sub/mine", &vec![5; 300_000]).await;
    let listed = bench.rpc("files/list_folder", json!({ "path": "", "recursive": true })).await.good();
    assert_eq!(paths(&listed), ["folder /Sub", "file /Sub/mine", "file /Sub/seed.txt"]);
    bench.rpc("files/delete_v2", json!({ "path": "/Sub/seed.txt" })).await.good();
    bench.emulator.stop().await.expect("kept");

    let bench = start().await;
    let back = bench.download("files/download", json!({ "path": file["id"] })).await;
    assert!(back.status == 200 && back.body == vec![5; 300_000]);
    assert_eq!(bench.rpc("files/get_metadata", json!({ "path": "/sub/MINE" })).await.good()["rev"], file["rev"]);
    let changes = bench.rpc("files/list_folder", json!({ "path": "/sub", "include_deleted": true })).await.good();
    assert_eq!(paths(&changes), ["file /Sub/mine", "file /Sub/seed.txt"], "the seed folder is shown anew");
    bench.emulator.stop().await.expect("kept");

    std::fs::write(folder.path().join("tree.json"), "{").expect("spoilt");
    let error = Emulator::start(options.clone()).await.expect_err("damaged state is refused");
    assert!(error.to_string().contains("tree.json"), "{error}");
}
