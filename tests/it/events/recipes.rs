//! The README's recipes for `watch`, run as they stand there.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Stdio},
};

use super::*;
use crate::readme::{Running, readme, shell};

/// The block of the README that has these words in it.
fn block(words: &str) -> String {
    let readme = readme();
    let mut blocks = readme.split("\n```").map(|block| block.split_once('\n').map_or("", |(_, rest)| rest));
    blocks.find(|block| block.contains(words)).expect("a recipe").to_owned()
}

/// In a folder of its own, until it is dropped.
fn run(house: &House, folder: &Path, script: &str) -> Running {
    let log = fs::OpenOptions::new().create(true).append(true).open(folder.join("said")).expect("a file");
    let mut command: Command = shell(script);
    command
        .env("DROPBOX_CONNECTOR_SERVER", format!("http://{}", house.addresses.data))
        .env("DROPBOX_CONNECTOR_PARAMETER", PARAMETER)
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(log)
        .process_group(0);
    Running(command.spawn().expect("it starts"))
}

fn lines(file: &Path) -> Vec<String> {
    fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_for_every_new_pdf_also_one_that_was_renamed_and_for_nothing_else() {
    let house = support::start().await;
    let mut seen = indexed(&house, "/in").await;
    let folder = tempfile::tempdir().expect("a folder");
    let work = "#!/bin/sh\ncat $1 >> done.txt\n";
    fs::write(folder.path().join("work"), work).expect("written");
    // A moment is enough for what nobody writes to.
    let script = format!("chmod +x work\n{}", block("cat > on-pdf").replace("--settle 10s", "--settle 200ms"));
    let _running = run(&house, folder.path(), &script);
    let state = folder.path().join("in.token");
    support::until("it watches", async || state.exists()).await;
    let done = folder.path().join("done.txt");
    put(&house, "/in/no.txt", "no\n");
    put(&house, "/in/a.PDF", "one\n");
    put(&house, "/in/b.tmp", "two\n");
    seen.changes(3).await;
    rename(&house, "/in/b.tmp", "/in/b.pdf").await;
    support::until("both are worked on", async || lines(&done).len() >= 2).await;
    // None any more.
    rename(&house, "/in/b.pdf", "/in/b.txt").await;
    // Moved, and at once other content: it is told of both.
    rename(&house, "/in/a.PDF", "/in/c.pdf").await;
    put(&house, "/in/c.pdf", "four\n");
    seen.changes(4).await;
    support::until("the other content is worked on", async || lines(&done).iter().any(|line| line == "four")).await;
    put(&house, "/in/last.pdf", "three\n");
    support::until("the last is worked on", async || lines(&done).iter().any(|line| line == "three")).await;
    let mut worked = lines(&done);
    worked.sort();
    assert_eq!(worked, ["four", "one", "three", "two"], "{:?}", lines(&folder.path().join("said")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_index_is_told_what_is_there_and_each_item_of_a_folder_that_moves_or_goes() {
    let house = support::start().await;
    let mut seen = Watch::ready(&house, |_| {}).await;
    for probe in 0.. {
        put(&house, "/probe", &probe.to_string());
        if seen.change().await.basis() == pb::EventBasis::Index {
            break;
        }
    }
    put(&house, "/docs/a.txt", "1");
    put(&house, "/docs/b.txt", "1");
    let folder = tempfile::tempdir().expect("a folder");
    let one = "#!/bin/sh\necho $EVENT_TYPE $EVENT_PREVIOUS_PATH $EVENT_PATH >> events.txt\n";
    fs::write(folder.path().join("index-one"), one).expect("written");
    let script = format!("chmod +x index-one\n{}", block("index.token"));
    let _running = run(&house, folder.path(), &script);
    let (state, events) = (folder.path().join("index.token"), folder.path().join("events.txt"));
    support::until("everything is told, and that it is", async || {
        let told = lines(&events);
        let there = ["there /probe", "there /docs", "there /docs/a.txt", "there /docs/b.txt"];
        let are_there = there.iter().all(|one| told.iter().any(|line| line == one));
        state.exists() && are_there && told.last().is_some_and(|last| last == "snapshot_end")
    })
    .await;
    let each = async |wanted: [&str; 2]| {
        support::until("each item is told", async || {
            let told = lines(&events);
            wanted.iter().all(|one| told.iter().any(|line| line == one))
        })
        .await;
    };
    rename(&house, "/docs", "/kept").await;
    each(["moved /docs/a.txt /kept/a.txt", "moved /docs/b.txt /kept/b.txt"]).await;
    delete(&house, "/kept", pb::ItemKind::Folder).await;
    each(["deleted /kept/a.txt", "deleted /kept/b.txt"]).await;
    let told = lines(&events);
    let end = told.iter().position(|line| line == "snapshot_end").expect("told");
    assert!(told[..end].iter().all(|line| line.starts_with("there ")), "{told:?}");
    assert!(told[end + 1..].iter().all(|line| !line.starts_with("there ")), "{told:?}");
}

/// Files with what is in them, and folders with nothing.
fn tree(folder: &Path) -> BTreeMap<String, Option<String>> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        // What goes meanwhile is looked for again.
        for entry in fs::read_dir(next).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = path.strip_prefix(folder).expect("below").to_str().expect("UTF-8").to_owned();
            if path.is_dir() {
                found.insert(name, None);
                open.push(path);
            } else {
                found.insert(name, fs::read_to_string(path).ok());
            }
        }
    }
    found
}

async fn becomes(folder: &Path, wanted: &[(&str, Option<&str>)]) {
    let wanted: BTreeMap<_, _> =
        wanted.iter().map(|(name, text)| ((*name).to_owned(), text.map(str::to_owned))).collect();
    let deadline = std::time::Instant::now() + 2 * PATIENCE;
    // The token is written behind the last step.
    while tree(&folder.join("copy")) != wanted || !folder.join("copy.token").exists() {
        let said = lines(&folder.join("said"));
        assert!(std::time::Instant::now() < deadline, "{:?} for {wanted:?}: {said:?}", tree(&folder.join("copy")));
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mirror_of_the_readme_is_the_same_as_dropbox_through_stops_moves_and_a_reset() {
    let mut house = support::start().await;
    put(&house, "/Docs/a.txt", "1");
    put(&house, "/Docs/Deep/b.txt", "1");
    put(&house, "/c.txt", "1");
    make_folder(&house, "/Empty");
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("mirror.py"), block("subprocess.Popen")).expect("written");
    let mirror = |house: &House| run(house, folder.path(), "exec python3 mirror.py copy");
    let running = mirror(&house);
    let begun = [
        ("Docs", None),
        ("Docs/a.txt", Some("1")),
        ("Docs/Deep", None),
        ("Docs/Deep/b.txt", Some("1")),
        ("c.txt", Some("1")),
        ("Empty", None),
    ];
    becomes(folder.path(), &begun).await;
    put(&house, "/docs/A.txt", "2");
    rename(&house, "/Docs/Deep", "/Moved").await;
    put(&house, "/Moved/new.txt", "1");
    delete(&house, "/c.txt", pb::ItemKind::File).await;
    let changed = [
        ("Docs", None),
        ("Docs/a.txt", Some("2")),
        ("Moved", None),
        ("Moved/b.txt", Some("1")),
        ("Moved/new.txt", Some("1")),
        ("Empty", None),
    ];
    becomes(folder.path(), &changed).await;
    // Killed, and begun again behind what happened meanwhile.
    drop(running);
    rename(&house, "/Moved", "/Docs/Moved").await;
    put(&house, "/Docs/later.txt", "1");
    delete(&house, "/Empty", pb::ItemKind::Folder).await;
    let running = mirror(&house);
    let later = [
        ("Docs", None),
        ("Docs/a.txt", Some("2")),
        ("Docs/later.txt", Some("1")),
        ("Docs/Moved", None),
        ("Docs/Moved/b.txt", Some("1")),
        ("Docs/Moved/new.txt", Some("1")),
    ];
    becomes(folder.path(), &later).await;
    // The server forgets all it knew, and Dropbox drops its cursor.
    drop(running);
    forget_all(&house).await;
    house.restart().await;
    house.control().reset_cursors();
    delete(&house, "/Docs/Moved", pb::ItemKind::Folder).await;
    put(&house, "/Docs/a.txt", "3");
    let _running = mirror(&house);
    let last = [("Docs", None), ("Docs/a.txt", Some("3")), ("Docs/later.txt", Some("1"))];
    becomes(folder.path(), &last).await;
    let said = lines(&folder.path().join("said"));
    assert!(said.iter().any(|line| line.contains("everything follows anew")), "{said:?}");
}
