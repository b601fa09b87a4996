//! Files and folders over HTTP: conflicts, moves, batches, revisions, sessions in all their answers.

use dropbox_connector::emulator::{Contention, ResentBlock, SecondFinish, control::Document, control::Restriction};
use serde_json::{Value, json};

use super::{Bench, Said};

const BLOCK: usize = 4 << 20;

fn cursor(session: &Value, offset: usize) -> Value {
    json!({ "session_id": session["session_id"], "offset": offset })
}

async fn start(bench: &Bench, arg: Value, body: &'static str) -> Value {
    bench.upload("files/upload_session/start", arg, body).await.good()
}

#[tokio::test]
async fn bytes_of_a_refused_upload_are_kept_and_committed_elsewhere() {
    let bench = Bench::start().await;
    bench.file("/a", b"one").await;
    let error = bench.upload("files/upload", json!({ "path": "/A" }), "two").await.error();
    assert_eq!(error["reason"], json!({ ".tag": "conflict", "conflict": { ".tag": "file" } }));
    let arg =
        json!({ "cursor": { "session_id": error["upload_session_id"], "offset": 3 }, "commit": { "path": "/b" } });
    assert_eq!(bench.upload("files/upload_session/finish", arg, "").await.good()["size"], 3);
    assert_eq!(bench.control().read(None, "/b"), Some(b"two".to_vec()));
    bench.end();
}

#[tokio::test]
async fn a_sequential_session_tells_the_offset_it_is_at_and_closes_once() {
    let bench = Bench::start().await;
    let session = start(&bench, json!({}), "abc").await;
    let append = async |offset: usize, close: bool, body: &'static str| -> Said {
        let arg = json!({ "cursor": cursor(&session, offset), "close": close });
        bench.upload("files/upload_session/append_v2", arg, body).await
    };
    assert_eq!(append(3, false, "def").await.good(), Value::Null);
    assert_eq!(append(3, false, "def").await.error(), json!({ ".tag": "incorrect_offset", "correct_offset": 6 }));
    append(6, true, "g").await.good();
    assert_eq!(append(7, false, "h").await.error()[".tag"], "closed");
    let finish = async |offset: usize| {
        let arg = json!({ "cursor": cursor(&session, offset), "commit": { "path": "/s" } });
        bench.upload("files/upload_session/finish", arg, "").await
    };
    let lookup = finish(6).await.error()["lookup_failed"].clone();
    assert_eq!(lookup, json!({ ".tag": "incorrect_offset", "correct_offset": 7 }));
    let written = finish(7).await.good();
    assert_eq!((&written["size"], written.get(".tag")), (&json!(7), None));
    assert_eq!(bench.control().read(None, "/s"), Some(b"abcdefg".to_vec()));
    assert_eq!(finish(7).await.error()["lookup_failed"][".tag"], "not_found");
    bench.control().switch(|switches| switches.second_finish = SecondFinish::SameAnswer);
    assert_eq!(finish(7).await.good(), written);
    bench.end();
}

#[tokio::test]
async fn a_block_sent_again_gets_the_answer_that_was_chosen() {
    let bench = Bench::start().await;
    let session = start(&bench, json!({ "session_type": "concurrent" }), "").await;
    let append = async |offset: usize, close: bool, bytes: usize| -> Said {
        let arg = json!({ "cursor": cursor(&session, offset), "close": close });
        bench.upload("files/upload_session/append_v2", arg, vec![7; bytes]).await
    };
    append(BLOCK, false, BLOCK).await.good();
    append(BLOCK, false, BLOCK).await.good();
    bench.control().switch(|switches| switches.resent_block = ResentBlock::IncorrectOffset);
    assert_eq!(append(BLOCK, false, BLOCK).await.error()[".tag"], "incorrect_offset");
    append(2 * BLOCK, true, 5).await.good();
    let finish = async || {
        let arg = json!({ "cursor": cursor(&session, 2 * BLOCK + 5), "commit": { "path": "/c" } });
        bench.upload("files/upload_session/finish", arg, "").await
    };
    assert_eq!(finish().await.error()[".tag"], "concurrent_session_missing_data");
    append(0, false, BLOCK).await.good();
    let whole = finish().await.good();
    let same = bench.file("/d", &vec![7; 2 * BLOCK + 5]).await;
    assert_eq!((&whole["size"], &whole["content_hash"]), (&same["size"], &same["content_hash"]));
    bench.end();
}

#[tokio::test]
async fn sessions_go_in_batches_and_end_after_seven_days() {
    let bench = Bench::start().await;
    let arg = json!({ "session_type": "concurrent", "num_sessions": 2 });
    let ids = bench.rpc("files/upload_session/start_batch", arg).await.good()["session_ids"].clone();
    let entry = |index: usize, length: usize| json!({ "cursor": { "session_id": ids[index], "offset": 0 }, "length": length, "close": true });
    let arg = json!({ "entries": [entry(0, 3), entry(1, 9)] });
    let said = bench.upload("files/upload_session/append_batch", arg, "aaabb").await;
    assert_eq!(said.error()[".tag"], "length_mismatch");
    let arg = json!({ "entries": [entry(0, 3), entry(1, 2)] });
    bench.upload("files/upload_session/append_batch", arg, "aaabb").await.good();
    let commit = |index: usize, offset: usize| {
        let cursor = json!({ "session_id": ids[index], "offset": offset });
        json!({ "cursor": cursor, "commit": { "path": format!("/batch/{index}") } })
    };
    let arg = json!({ "entries": [commit(0, 3), commit(1, 1)] });
    let done = bench.rpc("files/upload_session/finish_batch_v2", arg).await.good();
    assert_eq!(done["entries"][0][".tag"], "success");
    assert_eq!(done["entries"][1]["failure"]["lookup_failed"]["correct_offset"], 2);
    assert_eq!(bench.control().open_sessions(), 1);
    bench.clock.advance(std::time::Duration::from_secs(7 * 24 * 3600)).await;
    let login = bench.control().issue(None, None).expect("a new token");
    let bench = Bench { login, ..bench };
    let arg = json!({ "cursor": { "session_id": ids[1], "offset": 2 }, "commit": { "path": "/late" } });
    let late = bench.upload("files/upload_session/finish", arg, "").await;
    assert_eq!(late.error()["lookup_failed"][".tag"], "not_found");
    bench.end();
}

#[tokio::test]
async fn overlapping_commits_are_refused_when_told_to() {
    let bench = Bench::start().await;
    let held = std::time::Duration::from_millis(300);
    bench.control().switch(|switches| switches.contention = Some(Contention { commit_takes: held, as_409: false }));
    let arg = |name: &str| json!({ "path": format!("/{name}") });
    let (one, two) =
        tokio::join!(bench.upload("files/upload", arg("one"), "1"), bench.rpc("files/create_folder_v2", arg("two")));
    let refused = if one.status == 200 { &two } else { &one };
    assert_eq!([one.status, two.status].iter().filter(|status| **status == 200).count(), 1);
    assert_eq!((refused.status, refused.header("Retry-After")), (429, "1"));
    assert_eq!(refused.json()["error"], json!({ "reason": { ".tag": "too_many_write_operations" } }));
    bench.control().switch(|switches| switches.contention = Some(Contention { commit_takes: held, as_409: true }));
    let (one, two) = tokio::join!(
        bench.rpc("files/create_folder_v2", arg("three")),
        bench.rpc("files/create_folder_v2", arg("four"))
    );
    let refused = if one.status == 200 { two } else { one };
    assert_eq!(refused.error()["path"], json!({ ".tag": "too_many_write_operations" }));
    bench.end();
}

#[tokio::test]
async fn moves_copies_and_deletes_say_why_not() {
    let bench = Bench::start().await;
    let file = bench.file("/A/b", b"1").await;
    let relocate =
        async |route: &str, from: &str, to: &str| bench.rpc(route, json!({ "from_path": from, "to_path": to })).await;
    let moved = relocate("files/move_v2", "/a/B", "/C/d").await.good()["metadata"].clone();
    assert_eq!((&moved["id"], &moved[".tag"]), (&file["id"], &json!("file")));
    let copied = relocate("files/copy_v2", "/C", "/E").await.good()["metadata"].clone();
    assert_eq!(copied[".tag"], "folder");
    for (route, from, to, tags) in [
        ("files/move_v2", "/none", "/x", json!({ ".tag": "from_lookup", "from_lookup": { ".tag": "not_found" } })),
        (
            "files/copy_v2",
            "/C",
            "/E",
            json!({ ".tag": "to", "to": { ".tag": "conflict", "conflict": { ".tag": "folder" } } }),
        ),
        ("files/move_v2", "/C", "/c/f", json!({ ".tag": "cant_move_folder_into_itself" })),
        (
            "files/copy_v2",
            "/C/d",
            "/E/d/x",
            json!({ ".tag": "to", "to": { ".tag": "conflict", "conflict": { ".tag": "file_ancestor" } } }),
        ),
    ] {
        assert_eq!(relocate(route, from, to).await.error(), tags, "{route} {from} {to}");
    }
    let stale = bench.rpc("files/delete_v2", json!({ "path": "/C/d", "parent_rev": "0123456789" })).await;
    assert_eq!(stale.error()["path_write"]["conflict"][".tag"], "file");
    bench.rpc("files/delete_v2", json!({ "path": "/C/d", "parent_rev": moved["rev"] })).await.good();
    let again = bench.rpc("files/delete_v2", json!({ "path": "/C/d" })).await.error();
    assert_eq!(again["path_lookup"][".tag"], "not_found");
    let gone = bench.rpc("files/get_metadata", json!({ "path": "/c/D", "include_deleted": true })).await.good();
    assert_eq!((&gone[".tag"], &gone["path_display"]), (&json!("deleted"), &json!("/C/d")));
    let refused = json!({ "path": "/E/d", "tag": "no_write_permission" });
    bench.control().restrict(&serde_json::from_value::<Restriction>(refused).expect("sound")).expect("there");
    let error = bench.rpc("files/delete_v2", json!({ "path": "/E/d" })).await.error();
    assert_eq!(error["path_write"][".tag"], "no_write_permission");
    bench.end();
}

#[tokio::test]
async fn a_job_is_in_progress_as_often_as_told_and_belongs_to_its_route() {
    let bench = Bench::start().await;
    bench.file("/a", b"1").await;
    bench.control().switch(|switches| switches.jobs_in_progress = Some(2));
    let arg = json!({ "entries": [{ "from_path": "/a", "to_path": "/b" }, { "from_path": "/x", "to_path": "/y" }] });
    let job = bench.rpc("files/move_batch_v2", arg).await.good();
    assert_eq!(job[".tag"], "async_job_id");
    let poll = json!({ "async_job_id": job["async_job_id"] });
    let other = bench.rpc("files/delete_batch/check", poll.clone()).await;
    assert_eq!(other.error()[".tag"], "invalid_async_job_id");
    for _ in 0..2 {
        assert_eq!(bench.rpc("files/move_batch/check_v2", poll.clone()).await.good()[".tag"], "in_progress");
    }
    let done = bench.rpc("files/move_batch/check_v2", poll).await.good();
    assert_eq!(done["entries"][0]["success"]["path_display"], "/b");
    assert_eq!(done["entries"][1]["failure"]["relocation_error"]["from_lookup"][".tag"], "not_found");
    bench.control().switch(|switches| switches.jobs_in_progress = None);
    let made = bench.rpc("files/create_folder_batch", json!({ "paths": ["/f/1", "/b", "/F/1"] })).await.good();
    let tags: Vec<_> = made["entries"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| entry[".tag"].as_str().unwrap_or_default())
        .collect();
    assert_eq!((made[".tag"].as_str(), tags), (Some("complete"), vec!["success", "failure", "success"]));
    bench.end();
}

#[tokio::test]
async fn entries_of_a_batch_whose_paths_meet_are_refused_and_the_others_are_not() {
    let bench = Bench::start().await;
    for path in ["/a", "/b", "/c", "/d"] {
        bench.file(path, b"1").await;
    }
    let pairs = [("/a", "/x/1"), ("/A", "/2"), ("/b", "/X"), ("/c", "/d"), ("/d", "/3")];
    let entry = |(from, to): &(&str, &str)| json!({ "from_path": from, "to_path": to });
    let arg = json!({ "entries": pairs.iter().map(entry).collect::<Vec<_>>() });
    for route in ["files/copy_batch_v2", "files/move_batch_v2"] {
        let done = bench.rpc(route, arg.clone()).await.good();
        for index in 0..pairs.len() {
            let failure = &done["entries"][index]["failure"]["relocation_error"];
            assert_eq!(failure[".tag"], "duplicated_or_nested_paths", "{route} {index}");
        }
        let free = json!({ "entries": [{ "from_path": "/a", "to_path": format!("/{route}") }] });
        assert_eq!(bench.rpc(route, free).await.good()["entries"][0][".tag"], "success");
    }
    bench.end();
}

#[tokio::test]
async fn earlier_states_are_listed_read_and_brought_back() {
    let bench = Bench::start().await;
    let mut revs = Vec::new();
    for text in ["one", "two", "three"] {
        revs.push(bench.file("/a", text.as_bytes()).await["rev"].clone());
    }
    let arg = json!({ "path": "/a", "limit": 1, "before_rev": revs[2] });
    let page = bench.rpc("files/list_revisions", arg).await.good();
    assert_eq!((&page["entries"][0]["rev"], &page["has_more"]), (&revs[1], &json!(true)));
    let path = format!("rev:{}", revs[0].as_str().expect("text"));
    assert_eq!(bench.download("files/download", json!({ "path": path })).await.body, b"one");
    bench.rpc("files/delete_v2", json!({ "path": "/a" })).await.good();
    let page = bench.rpc("files/list_revisions", json!({ "path": "/a" })).await.good();
    assert_eq!(page["is_deleted"], true);
    let back = bench.rpc("files/restore", json!({ "path": "/a", "rev": revs[0] })).await.good();
    assert!(back["rev"] != revs[0] && bench.control().read(None, "/a") == Some(b"one".to_vec()));
    let wrong = bench.rpc("files/restore", json!({ "path": "/a", "rev": "0123456789" })).await;
    assert_eq!(wrong.error()[".tag"], "invalid_revision");
    bench.end();
}

#[tokio::test]
async fn a_document_is_exported_and_cannot_be_downloaded() {
    let bench = Bench::start().await;
    let document = json!({ "path": "/n.paper", "formats": { "markdown": "# hi" }, "paper_revision": 3 });
    bench.control().seed_document(&serde_json::from_value::<Document>(document).expect("sound")).expect("written");
    let plain = bench.download("files/download", json!({ "path": "/n.paper" })).await;
    assert_eq!(plain.error()[".tag"], "unsupported_file");
    let said = bench.download("files/export", json!({ "path": "/n.paper", "export_format": "markdown" })).await;
    assert_eq!((said.status, said.body.as_slice()), (200, b"# hi".as_slice()));
    let result: Value = serde_json::from_str(said.header("Dropbox-API-Result")).expect("JSON");
    assert_eq!(result["export_metadata"]["name"], "n.md");
    assert_eq!(result["file_metadata"].get("content_hash"), None);
    let wrong = bench.download("files/export", json!({ "path": "/n.paper", "export_format": "pdf" })).await;
    assert_eq!(wrong.error()[".tag"], "invalid_export_format");
    bench.end();
}
