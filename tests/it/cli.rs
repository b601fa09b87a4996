//! The command line against a running connector: what people type, what comes back, how it ends.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use dropbox_connector::emulator::script::{Action, Rule};
use serde_json::Value;

use crate::support::{self, process::BINARY, *};

/// The program as a client of the house, with its state in the house's folder.
fn program(house: &House, words: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command
        .args(words)
        .env("DROPBOX_CONNECTOR_SERVER", format!("http://{}", house.addresses.data))
        .env("DROPBOX_CONNECTOR_ADMIN_SERVER", format!("http://{}", house.addresses.admin))
        .env("DROPBOX_CONNECTOR_PARAMETER", PARAMETER)
        .env("XDG_STATE_HOME", house.folder.path().join("state"))
        .current_dir(house.folder.path())
        .stdin(Stdio::null());
    command
}

#[track_caller]
fn ends(house: &House, code: i32, words: &[&str]) -> (String, String) {
    let Output { status, stdout, stderr } = program(house, words).output().expect("it starts");
    let (out, err) = (String::from_utf8_lossy(&stdout).into_owned(), String::from_utf8_lossy(&stderr).into_owned());
    assert_eq!(status.code(), Some(code), "{words:?}:\n{out}{err}");
    (out, err)
}

fn write(folder: &Path, name: &str, bytes: &[u8]) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().expect("a parent")).expect("made");
    fs::write(path, bytes).expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_goes_up_is_listed_and_comes_back_by_commands() {
    let house = support::start().await;
    let here = house.folder.path().join("here");
    for (name, size) in [("a.txt", 11), ("sub/e\u{301}😀.bin", 2 * MIB + 1), ("sub/empty", 0), ("large", 21 * MIB + 5)]
    {
        write(&here, name, &noise(size, 3));
    }
    write(&here, ".DS_Store", b"x");
    let (_, err) = ends(&house, 0, &["put", "-r", "here", "/there"]);
    assert!(err.contains("4 files uploaded") && err.contains("skipped here/.DS_Store"), "{err}");
    let (out, _) = ends(&house, 0, &["put", "-r", "here", "/there", "--skip-identical", "--json"]);
    let skipped = out.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")["skipped"].clone());
    assert_eq!(skipped.collect::<Vec<_>>(), [true, true, true, true]);
    let (out, _) = ends(&house, 0, &["ls", "-r", "--sort", "name", "/there"]);
    assert_eq!(out, "a.txt\nlarge\nsub/\nsub/empty\nsub/e\u{301}😀.bin\n");
    ends(&house, 0, &["get", "-r", "/there", "back"]);
    for name in ["a.txt", "sub/e\u{301}😀.bin", "sub/empty", "large"] {
        let back = house.folder.path().join("back").join(name);
        assert!(fs::read(here.join(name)).expect(name) == fs::read(back).expect(name), "{name}");
    }
    let (_, err) = ends(&house, 0, &["get", "-r", "/there", "back"]);
    assert!(err.contains("0 files downloaded") && err.contains("4 here already"), "{err}");
    let (out, _) = ends(&house, 0, &["rm", "/there/**/*.bin", "--dry-run"]);
    assert_eq!(out, "/there/sub/e\u{301}😀.bin\n");
    assert!(house.control().wrong_answers().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exit_code_and_the_line_tell_why_a_command_failed() {
    let house = support::start().await;
    write(house.folder.path(), "a.txt", b"a");
    write(house.folder.path(), "b.txt", b"b");
    ends(&house, 0, &["put", "a.txt", "/a.txt"]);
    let (_, err) = ends(&house, 4, &["put", "b.txt", "/a.txt"]);
    assert!(
        err.contains("[PATH_CONFLICT]") && err.contains("--mode overwrite") && err.contains("--autorename"),
        "{err}"
    );
    let (_, err) = ends(&house, 4, &["put", "b.txt", "/a.txt", "--mode", "update", "--rev", "0123456789abcdef"]);
    assert!(err.contains("[REVISION_CONFLICT]") && err.contains("--rev"), "{err}");
    let (_, err) = ends(&house, 2, &["watch", "/", "--settle", "-3s"]);
    assert!(err.contains("--settle") && err.contains("-3s") && !err.contains("unexpected argument"), "{err}");
    let (_, err) = ends(&house, 2, &["rm", "rev:0123456789"]);
    assert!(err.contains("/rev:...") && !err.contains('?'), "{err}");
    ends(&house, 0, &["put", "b.txt", "/a.txt", "--mode", "overwrite"]);
    let (_, err) = ends(&house, 3, &["get", "/nothing"]);
    assert!(err.contains("/nothing"), "{err}");
    ends(&house, 3, &["ls", "/nothing"]);
    for words in [&["watch", "/nothing"][..], &["link", "/nothing"], &["link", "--temporary", "/nothing"]] {
        let (_, err) = ends(&house, 3, words);
        assert!(err.contains("/nothing: there is nothing at this path"), "{words:?}: {err}");
    }
    ends(&house, 3, &["put", "nothing", "/"]);
    ends(&house, 3, &["ls", "--parameter", "nobody"]);
    ends(&house, 2, &["put", "-r"]);
    ends(&house, 0, &["mkdir", "/folder"]);
    let (_, err) = ends(&house, 4, &["mkdir", "/folder"]);
    assert!(err.contains("--exist-ok") && !err.contains("overwrite"), "{err}");
    let (_, err) = ends(&house, 4, &["mkdir", "--exist-ok", "/a.txt"]);
    assert!(err.contains("a file is in the way"), "{err}");
    ends(&house, 0, &["mkdir", "--exist-ok", "/folder"]);
    ends(&house, 1, &["rm", "/folder"]);
    ends(&house, 0, &["rm", "-r", "/folder"]);
    ends(&house, 3, &["rm", "/folder"]);
    ends(&house, 0, &["rm", "-f", "/folder"]);
    let (_, err) = ends(&house, 6, &["ls", "--server", "http://127.0.0.1:1"]);
    assert!(err.contains("serve"), "{err}");
    ends(&house, 64, &["config", "check", "--append-mib", "6"]);
    write(house.folder.path(), "broken.toml", b"[[application_parameters]]\nid = \"hush");
    let (_, err) = ends(&house, 64, &["config", "check", "--emulator=true", "--parameters-file", "broken.toml"]);
    assert!(err.contains("parameters_file: ") && err.contains("line 2") && !err.contains("hush"), "{err}");
    let same = ["config", "check", "--emulator=true", "--data-listen=127.0.0.1:7001", "--admin-listen=127.0.0.1:7001"];
    let (_, err) = ends(&house, 64, &same);
    assert!(err.contains("admin_listen: is the address of data_listen, too"), "{err}");
    let taken = format!("--data-listen={}", house.addresses.data);
    let (_, err) = ends(&house, 1, &["serve", "--emulator", &taken]);
    assert!(err.contains("--data-listen chooses another address"), "{err}");
    ends(&house, 0, &["health", "--probe-addr", &house.addresses.probe.to_string()]);
    ends(&house, 6, &["health", "--probe-addr", "127.0.0.1:1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn items_are_moved_copied_linked_found_and_told_by_commands() {
    let house = support::start().await;
    write(house.folder.path(), "cat.txt", b"cat");
    ends(&house, 0, &["put", "cat.txt", "/pets/"]);
    ends(&house, 0, &["cp", "/pets/cat.txt", "/pets/tom.txt"]);
    ends(&house, 0, &["mkdir", "/old"]);
    ends(&house, 0, &["mv", "/pets/tom.txt", "/old"]);
    ends(&house, 0, &["mv", "/pets/cat.txt", "/pets/CAT.txt"]);
    let (out, _) = ends(&house, 0, &["ls", "-r", "--sort", "name"]);
    assert_eq!(out, "old/\nold/tom.txt\npets/\npets/CAT.txt\n");
    let (out, _) = ends(&house, 0, &["stat", "--json", "/old/tom.txt"]);
    let item: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((&item["kind"], &item["size"]), (&"file".into(), &3.into()));
    let (url, _) = ends(&house, 0, &["link", "/old/tom.txt"]);
    let (again, _) = ends(&house, 0, &["link", "/old/tom.txt"]);
    assert!(url.starts_with("https://") && url == again, "{url}{again}");
    let (list, _) = ends(&house, 0, &["link", "--list"]);
    assert!(list.contains(url.trim()), "{list}");
    ends(&house, 0, &["link", "--revoke", url.trim()]);
    assert_eq!(ends(&house, 0, &["link", "--list"]).0, "");
    assert_eq!(ends(&house, 0, &["search", "tom", "--names"]).0, "/old/tom.txt\n");
    assert!(ends(&house, 0, &["account"]).0.contains("dbid:"));
    let (out, _) = ends(&house, 0, &["parameters", "list"]);
    assert!(out.starts_with(&format!("{PARAMETER} ")) && out.contains("active"), "{out}");
    ends(&house, 0, &["parameters", "test", PARAMETER]);
    ends(&house, 2, &["parameters", "update", PARAMETER]);
    let change = ["--allow", "billing", "--allow", "crm*", "--permission", "read", "--group", "money", "--json"];
    let (out, _) = ends(&house, 0, &[&["parameters", "update", PARAMETER][..], &change].concat());
    let told: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(told["allowedPrincipals"], serde_json::json!(["billing", "crm*"]), "{told}");
    assert_eq!((&told["permissions"], &told["group"]), (&serde_json::json!(["READ"]), &"money".into()), "{told}");
    let (out, _) = ends(&house, 0, &["parameters", "update", PARAMETER, "--path-prefix", "/pets", "--json"]);
    let told: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((&told["pathPrefix"], &told["group"]), (&"/pets".into(), &"money".into()), "what is not named stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_stopped_by_ctrl_c_goes_on_when_the_command_is_repeated() {
    let house = support::start().await;
    let bytes = noise(40 * MIB + 3, 5);
    write(house.folder.path(), "big", &bytes);
    // Later appends never end, so some bytes are at Dropbox and the command hangs until it is interrupted.
    let stall = Rule {
        route: "files/upload_session/append_v2".into(),
        nth: None,
        every: None,
        times: None,
        action: Action::Stall,
    };
    let first = Rule { nth: Some(1), times: Some(1), action: Action::Delay { millis: 0 }, ..stall.clone() };
    house.control().script([first, stall]).expect("a script");
    let mut child = program(&house, &["put", "big", "/big"]).stderr(Stdio::null()).spawn().expect("it starts");
    let state = house.folder.path().join("state/dropbox-connector/uploads");
    let control = house.control();
    until("an append stalls and the upload is kept", async || {
        let stalled = control.standing().iter().any(|rule| rule.fired > 0 && rule.rule.nth.is_none());
        stalled && fs::read_dir(&state).is_ok_and(|mut entries| entries.next().is_some())
    })
    .await;
    interrupt(&child);
    assert_eq!(child.wait().expect("its end").code(), Some(130));
    house.control().clear_script();
    let (out, err) = ends(&house, 0, &["put", "big", "/big", "--json"]);
    let told: Value = serde_json::from_str(&out).expect("JSON");
    let resumed = told["resumedFrom"].as_u64().expect("a number") > 0;
    assert_eq!(err.contains("big: resumed at ") && err.contains(" of 40.0 MiB"), resumed, "{err}{told}");
    assert_eq!(told["skipped"], false, "{told}");
    assert!(house.control().read(None, "/big").expect("the file") == bytes);
    assert_eq!(fs::read_dir(&state).expect("the place of uploads").count(), 0, "a finished upload is kept no longer");
    // One session only: the second run made none.
    assert_eq!(house.control().counter("files/upload_session/start").calls, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_goes_on_says_where_without_a_terminal() {
    let house = support::start().await;
    let bytes = noise(3 * MIB, 8);
    write(house.folder.path(), "three", &bytes);
    ends(&house, 0, &["put", "three", "/three"]);
    let (out, _) = ends(&house, 0, &["stat", "--json", "/three"]);
    let item: Value = serde_json::from_str(&out).expect("JSON");
    let part = format!("back.{}.part", item["rev"].as_str().expect("a rev"));
    write(house.folder.path(), &part, &bytes[..MIB]);
    let (_, err) = ends(&house, 0, &["get", "/three", "back"]);
    assert!(err.contains("/three: resumed at 1.0 MiB of 3.0 MiB"), "{err}");
    assert!(fs::read(house.folder.path().join("back")).expect("back") == bytes);
    let asked = house.control().counter("files/download");
    assert!(asked.bytes_out < 3 * MIB as u64, "only the rest was sent: {asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_without_files_are_made_and_patterns_do_not_run_into_each_other() {
    let house = support::start().await;
    write(house.folder.path(), "here/a.txt", b"a");
    fs::create_dir_all(house.folder.path().join("here/empty/deep")).expect("made");
    let (out, _) = ends(&house, 0, &["put", "-r", "here", "/there", "--dry-run"]);
    assert!(out.contains("(empty folder) → /there/empty/deep"), "{out}");
    let (_, err) = ends(&house, 0, &["put", "-r", "here", "/there"]);
    assert!(err.contains("1 empty folder made") && err.contains("1 file uploaded"), "{err}");
    let (out, _) = ends(&house, 0, &["ls", "-r", "--sort", "name", "/there"]);
    assert_eq!(out, "a.txt\nempty/\nempty/deep/\n");
    let (_, err) = ends(&house, 0, &["put", "-r", "here", "/there", "--include", "*.txt"]);
    assert!(!err.contains("empty folder"), "{err}");
    let (out, err) = ends(&house, 2, &["get", "/there/*.txt", "--to", "-"]);
    assert!(out.is_empty() && err.contains("/there/*.txt is a pattern"), "{err}");
    assert_eq!(ends(&house, 0, &["get", "/there/a.txt", "--to", "-"]).0, "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_told_in_the_same_words_by_every_command() {
    let house = support::start().await;
    write(house.folder.path(), "a.txt", b"a");
    write(house.folder.path(), "b.txt", b"b");
    ends(&house, 0, &["put", "a.txt", "b.txt", "/"]);
    let told = |words: &[&str]| ends(&house, 3, words).1;
    let one = told(&["stat", "/nothing"]);
    assert!(one.starts_with("error: /nothing: there is nothing at this path [PATH_NOT_FOUND]\n  → "), "{one}");
    for words in [&["rm", "/nothing"][..], &["mv", "/nothing", "/x"], &["cp", "/nothing", "/x"], &["get", "/nothing"]] {
        assert_eq!(told(words), one, "{words:?}");
    }
    let (_, err) = ends(&house, 4, &["mv", "/a.txt", "/b.txt"]);
    assert!(err.starts_with("error: /b.txt: ") && err.contains("--replace"), "the target failed: {err}");
    ends(&house, 0, &["mv", "--replace", "/a.txt", "/b.txt"]);
    assert_eq!(house.control().read(None, "/b.txt").as_deref(), Some(&b"a"[..]));
}

fn interrupt(child: &Child) {
    let done = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(done.expect("kill starts").success());
}

#[test]
fn the_demo_ends_well_on_a_folder_of_every_kind_of_file() {
    let folder = tempfile::tempdir().expect("a folder");
    for number in 0..150 {
        let name = format!("d{}/f{number}{}", number % 7, ["", "😀", "e\u{301}", " x"][number % 4]);
        write(folder.path(), &name, &noise([0, 1, 1000, 70_000][number % 4], number as u64));
    }
    write(folder.path(), "large", &noise(34 * MIB + 1, 9));
    for skipped in ["desktop.ini", "ends in space ", "D0/F0"] {
        write(folder.path(), skipped, b"x");
    }
    // What it says goes to a file in the folder, and another one grows all the time.
    let (log, growing) = (folder.path().join("demo.log"), folder.path().join("growing"));
    let mut writer = fs::File::create(&growing).expect("made");
    let over = std::sync::atomic::AtomicBool::new(false);
    let status = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                std::io::Write::write_all(&mut writer, b"more").expect("written");
                std::thread::yield_now();
            }
        });
        let mut demo = Command::new(BINARY);
        let status = demo.arg("demo").arg(folder.path()).stdout(fs::File::create(&log).expect("made")).status();
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        status.expect("it starts")
    });
    let out = fs::read_to_string(&log).expect("what it said");
    assert!(status.success(), "{out}");
    assert!(out.contains("(152 files") && out.contains("skipped    4") && out.contains("All well: 151 files"), "{out}");
    assert!(out.contains("1 file changed while read, left out: growing"), "{out}");
    assert!(out.contains(&format!("{BINARY} connect mine")), "{out}");
}
