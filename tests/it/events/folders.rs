//! A folder that moves or goes is one event; what it held is told one by one to those who want that or could miss it.

use std::collections::{BTreeMap, BTreeSet};

use dropbox_connector::{
    api::v1::{
        dropbox_admin_connector_client::DropboxAdminConnectorClient, dropbox_connector_client::DropboxConnectorClient,
    },
    emulator::{
        Emulator, Options,
        control::Generate,
        script::{Action, Rule},
    },
};

use super::*;
use crate::support::process::Served;

fn deleted(change: &pb::ChangeEvent) -> &pb::DeletedItem {
    match change.item.as_ref().and_then(|item| item.kind.as_ref()) {
        Some(pb::item::Kind::Deleted(deleted)) => deleted,
        other => panic!("{other:?}"),
    }
}

fn file(change: &pb::ChangeEvent) -> &pb::FileItem {
    match change.item.as_ref().and_then(|item| item.kind.as_ref()) {
        Some(pb::item::Kind::File(file)) => file,
        other => panic!("{other:?}"),
    }
}

fn from_to(changes: &[pb::ChangeEvent]) -> Vec<String> {
    changes.iter().map(|one| format!("{} > {}", one.previous_path, path(one))).collect()
}

/// All of the files beneath, as `ListFolder` shows them.
async fn look(house: &House, folder: &str) -> BTreeMap<String, pb::FileItem> {
    let request = pb::ListFolderRequest {
        application_parameter_id: PARAMETER.into(),
        path: folder.into(),
        recursive: true,
        ..Default::default()
    };
    let listed = house.client().list_folder(request).await.expect("listed").into_inner();
    let files = listed.items.into_iter().filter_map(|item| match item.kind {
        Some(pb::item::Kind::File(file)) => Some((item.path_display, file)),
        _ => None,
    });
    files.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_folder_held_is_told_one_by_one_to_those_who_want_that_and_the_folder_alone_to_the_others() {
    told_one_by_one(None).await;
}

/// Files that move have another rev, which may come with a later page than their folder.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_folder_held_is_told_as_it_is_when_dropbox_has_said_all_of_it() {
    told_one_by_one(Some(2)).await;
}

async fn told_one_by_one(delta_page: Option<usize>) {
    let house = support::start().await;
    house.control().switch(|switches| switches.delta_page = delta_page);
    for path in ["/in/Docs/A.txt", "/in/Docs/Deep/b.txt", "/in/Docs/Deep/c.txt", "/in/other"] {
        put(&house, path, path);
    }
    make_folder(&house, "/in/Docs/Empty");
    let mut brief = indexed(&house, "/in").await;
    let mut long = Watch::ready(&house, |asked| (asked.path, asked.expand_folders) = ("/in".into(), true)).await;
    rename(&house, "/in/Docs", "/in/Papers").await;
    assert_eq!(told(&brief.changes(1).await), ["MOVED /in/Papers"]);
    let moved = long.changes(6).await;
    assert_eq!(
        from_to(&moved),
        [
            "/in/Docs > /in/Papers",
            "/in/Docs/A.txt > /in/Papers/A.txt",
            "/in/Docs/Deep > /in/Papers/Deep",
            "/in/Docs/Deep/b.txt > /in/Papers/Deep/b.txt",
            "/in/Docs/Deep/c.txt > /in/Papers/Deep/c.txt",
            "/in/Docs/Empty > /in/Papers/Empty",
        ]
    );
    assert!(moved.iter().all(|one| one.change_type() == pb::EventType::Moved && one.basis() == pb::EventBasis::Index));
    // Each is a file as a listing shows it.
    let files = look(&house, "/in").await;
    for one in moved.iter().filter(|one| one.item_kind() == pb::ItemKind::File) {
        let there = &files[path(one)];
        let known = file(one);
        assert_eq!((known, one.previous_rev.as_str()), (there, ""));
        let lower = &one.item.as_ref().expect("an item").path_lower;
        assert_eq!(*lower, path(one).to_lowercase());
    }
    // One id for the folder, and beneath it one for each.
    let folder = &moved[0].event_id;
    for one in &moved[1..] {
        assert!(one.event_id.starts_with(&format!("{folder}.")), "{} of {folder}", one.event_id);
    }
    assert_eq!(moved.iter().map(|one| &one.event_id).collect::<BTreeSet<_>>().len(), 6);
    assert!(matches!(long.payload().await, Payload::BatchEnd(_)));
    delete(&house, "/in/Papers", pb::ItemKind::Folder).await;
    let gone_brief = brief.change().await;
    assert_eq!(told(std::slice::from_ref(&gone_brief)), ["DELETED /in/Papers"]);
    assert_eq!(deleted(&gone_brief).last_kind(), pb::ItemKind::Folder);
    let gone = long.changes(6).await;
    let expected = ["", "/A.txt", "/Deep", "/Deep/b.txt", "/Deep/c.txt", "/Empty"];
    assert_eq!(told(&gone), expected.map(|below| format!("DELETED /in/Papers{below}")));
    for (one, before) in gone.iter().zip(&moved) {
        let last = deleted(one);
        assert_eq!((one.item_kind(), last.last_kind()), (before.item_kind(), before.item_kind()));
        assert!(last.last_id.starts_with("id:"), "{last:?}");
        if one.item_kind() == pb::ItemKind::File {
            let known = file(before);
            assert_eq!((&last.last_id, last.last_size), (&known.id, Some(known.size)));
            assert_eq!((last.last_content_hash.len(), &last.last_content_hash), (64, &known.content_hash));
            assert!(!last.last_rev.is_empty() && last.last_rev == one.previous_rev, "{last:?}");
        } else {
            assert_eq!((last.last_size, last.last_content_hash.as_str(), last.last_rev.as_str()), (None, "", ""));
        }
    }
    // Of a file that goes alone, too.
    delete(&house, "/in/other", pb::ItemKind::File).await;
    let alone = brief.change().await;
    assert_eq!((deleted(&alone).last_size, deleted(&alone).last_content_hash.len()), (Some(9), 64));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_filters_hears_of_each_item_it_wants_when_its_folder_moves_or_goes() {
    let house = support::start().await;
    for path in ["/in/docs/a.pdf", "/in/docs/a.txt", "/in/docs/deep/b.pdf", "/in/docs/deep/large.txt"] {
        put(&house, path, &"x".repeat(if path.contains("large") { 500 } else { 5 }));
    }
    let certain = indexed(&house, "/in").await;
    let watch = async |edit: fn(&mut pb::ItemFilter)| {
        let mut filter = pb::ItemFilter::default();
        edit(&mut filter);
        Watch::ready(&house, |asked| (asked.path, asked.filter) = ("/in".into(), Some(filter))).await
    };
    let mut pdfs = watch(|filter| filter.include_globs = vec!["**/*.pdf".into()]).await;
    let mut files = watch(|filter| filter.kinds = vec![pb::ItemKind::File.into()]).await;
    let mut large = watch(|filter| filter.min_size = Some(100)).await;
    let mut placed = watch(|filter| filter.include_globs = vec!["docs/*.pdf".into(), "docs/**/*.pdf".into()]).await;
    let mut shallow = watch(|filter| filter.max_depth = 2).await;
    let mut emptied = watch(|_| ()).await;
    rename(&house, "/in/docs", "/in/papers").await;
    let [a_pdf, a_txt, b_pdf, large_txt] =
        ["a.pdf", "a.txt", "deep/b.pdf", "deep/large.txt"].map(|name| format!("/in/docs/{name} > /in/papers/{name}"));
    assert_eq!(from_to(&pdfs.changes(2).await), [a_pdf.clone(), b_pdf.clone()]);
    assert_eq!(from_to(&files.changes(4).await), [&a_pdf, &a_txt, &b_pdf, &large_txt].map(String::clone));
    assert_eq!(from_to(&large.changes(1).await), [large_txt]);
    // From where they are wanted to where they are not: each is told, and is not heard of again.
    assert_eq!(from_to(&placed.changes(2).await), [a_pdf, b_pdf]);
    let depths = from_to(&shallow.changes(4).await);
    assert_eq!(depths[3], "/in/docs/deep > /in/papers/deep", "{depths:?}");
    assert_eq!(from_to(&emptied.changes(1).await), ["/in/docs > /in/papers"]);
    delete(&house, "/in/papers", pb::ItemKind::Folder).await;
    assert_eq!(told(&pdfs.changes(2).await), ["DELETED /in/papers/a.pdf", "DELETED /in/papers/deep/b.pdf"]);
    assert_eq!(told(&files.changes(4).await).len(), 4);
    assert_eq!(told(&large.changes(1).await), ["DELETED /in/papers/deep/large.txt"]);
    assert_eq!(told(&emptied.changes(1).await), ["DELETED /in/papers"]);
    // A file that grows out of what was wanted, or into it, is told.
    put(&house, "/in/docs/new.pdf", "x");
    assert_eq!(told(&placed.changes(1).await), ["CREATED /in/docs/new.pdf"], "nothing of papers in between");
    for text in ["x".repeat(200), "x".to_owned()] {
        put(&house, "/in/docs/new.pdf", &text);
        let change = large.change().await;
        assert_eq!((path(&change), file(&change).size), ("/in/docs/new.pdf", i64::try_from(text.len()).unwrap()));
    }
    drop(certain);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_broke_in_the_midst_of_a_folder_goes_on_there_and_everything_is_told_as_it_was() {
    let mut house = support::start().await;
    let mut certain = indexed(&house, "/in").await;
    let generate = Generate { folder: "/in/many".into(), files: 1500, bytes: 1, per_folder: Some(130) };
    house.control().seed(&Seed { generate: Some(generate), ..Seed::default() }).expect("seeded");
    let held = 1500 + 1500_usize.div_ceil(130);
    let made = certain.changes(held + 1).await;
    let before = certain.token.clone();
    rename(&house, "/in/many", "/in/much").await;
    assert_eq!(told(&certain.changes(1).await), ["MOVED /in/much"]);
    // The index moves on: what the event says must not.
    let mut names: Vec<_> = made.iter().filter(|one| one.item_kind() == pb::ItemKind::File).map(path).collect();
    names.sort_unstable();
    let now = |name: &str| name.replace("/in/many", "/in/much");
    let (first, last, middle) = (now(names[0]), now(names[1499]), now(names[700]));
    delete(&house, &first, pb::ItemKind::File).await;
    rename(&house, &last, "/in/last").await;
    put(&house, &middle, "other content");
    put(&house, "/in/much/0new", "x");
    let later = told(&certain.changes(4).await);
    drop(certain);
    let again = |token: &str, expand: bool| {
        let token = token.to_owned();
        move |asked: &mut pb::WatchEventsRequest| {
            (asked.path, asked.start, asked.expand_folders) = ("/in".into(), behind(&token), expand);
        }
    };
    let mut watch = Watch::open(&house, again(&before, true)).await;
    let mut all = watch.changes(700).await;
    let midst = watch.token.clone();
    drop(watch);
    house.restart().await;
    let mut watch = Watch::open(&house, again(&midst, true)).await;
    all.extend(watch.changes(1 + held - 700).await);
    assert_eq!(all[0].previous_path, "/in/many");
    assert!(all.iter().all(|one| one.change_type() == pb::EventType::Moved), "{:?}", told(&all));
    let told_from: BTreeSet<_> = all.iter().map(|one| one.previous_path.as_str()).collect();
    assert_eq!(told_from, made.iter().map(path).collect(), "each item that was there then, once");
    let content: BTreeMap<_, _> = all.iter().map(|one| (path(one), one)).collect();
    assert_eq!(file(content[middle.as_str()]).size, 1, "as it was when the folder moved");
    assert_eq!(told(&watch.changes(4).await), later);
    // Every replay says the same; who does not want them gets none, in the midst of them either.
    let mut replay = Watch::open(&house, again(&before, true)).await;
    for (again, before) in replay.changes(1 + held).await.iter().zip(&all) {
        assert_eq!(again, before);
    }
    let mut brief = Watch::open(&house, again(&midst, false)).await;
    assert_eq!(told(&brief.changes(4).await), later);
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_go_through_what_a_folder_held_piece_by_piece() {
    let house = support::start().await;
    let mut certain = indexed(&house, "/in").await;
    let generate = Generate { folder: "/in/many".into(), files: 1100, bytes: 1, per_folder: None };
    house.control().seed(&Seed { generate: Some(generate), ..Seed::default() }).expect("seeded");
    let made = certain.changes(1101).await;
    let mut token = certain.token.clone();
    delete(&house, "/in/many", pb::ItemKind::Folder).await;
    assert_eq!(told(&certain.changes(1).await), ["DELETED /in/many"]);
    let (mut gone, mut pulls) = (Vec::new(), 0);
    while gone.len() < 1100 {
        let request = pb::PullEventsRequest {
            application_parameter_id: PARAMETER.into(),
            resume_token: token,
            filter: Some(pb::ItemFilter { kinds: vec![pb::ItemKind::File.into()], ..Default::default() }),
            max_events: 300,
            wait: Some(prost_types::Duration { seconds: 20, nanos: 0 }),
            ..Default::default()
        };
        let pulled = house.client().pull_events(request).await.expect("an answer").into_inner();
        assert!((1..=300).contains(&pulled.changes.len()), "{}", pulled.changes.len());
        gone.extend(pulled.changes);
        token = pulled.resume_token;
        pulls += 1;
    }
    assert_eq!((gone.len(), pulls), (1100, 4));
    let files: BTreeSet<_> = made.iter().filter(|one| one.item_kind() == pb::ItemKind::File).map(path).collect();
    assert_eq!(gone.iter().map(path).collect::<BTreeSet<_>>(), files);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_went_with_a_cursor_is_told_item_by_item_too() {
    let house = support::start().await;
    for path in ["/in/docs/a", "/in/docs/deep/b", "/in/papers/c"] {
        put(&house, path, "x");
    }
    let certain = indexed(&house, "/in").await;
    let kinds = vec![pb::ItemKind::File.into()];
    let filter = pb::ItemFilter { kinds, exclude_globs: vec!["probe".into()], ..Default::default() };
    let mut files = Watch::ready(&house, |asked| (asked.path, asked.filter) = ("/in".into(), Some(filter))).await;
    // Both have happened before anybody hears that the cursor is gone.
    let down = Rule::always("files/list_folder/continue", Action::ServerError { status: 503 });
    house.control().script([down]).expect("a rule");
    delete(&house, "/in/docs", pb::ItemKind::Folder).await;
    rename(&house, "/in/papers", "/in/old").await;
    house.control().reset_cursors();
    house.control().clear_script();
    let mut changes = files.changes(3).await;
    changes.sort_by_key(|one| path(one).to_owned());
    assert!(changes.iter().all(|one| one.basis() == pb::EventBasis::Synthetic), "{changes:?}");
    assert_eq!(told(&changes), ["DELETED /in/docs/a", "DELETED /in/docs/deep/b", "MOVED /in/old/c"]);
    assert_eq!(changes[2].previous_path, "/in/papers/c");
    drop(certain);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_of_nobody_knows_what_is_told_whatever_a_filter_hides_as_deep_as_it_looks() {
    let house = support::start().await;
    for path in ["/in/docs/a.pdf", "/in/docs/deep/b.pdf"] {
        put(&house, path, "x");
    }
    let raw = async |max_depth| {
        let filter = pb::ItemFilter { include_globs: vec!["**/*.pdf".into()], max_depth, ..Default::default() };
        Watch::ready(&house, |asked| {
            (asked.path, asked.filter) = ("/in".into(), Some(filter));
            (asked.classification, asked.expand_folders) = (pb::Classification::Raw.into(), true);
        })
        .await
    };
    let (mut deep, mut shallow) = (raw(0).await, raw(1).await);
    delete(&house, "/in/docs/deep", pb::ItemKind::Folder).await;
    delete(&house, "/in/docs", pb::ItemKind::Folder).await;
    let told_shallow = shallow.change().await;
    assert_eq!((told_shallow.item_kind(), path(&told_shallow)), (pb::ItemKind::Unspecified, "/in/docs"));
    let mut paths = BTreeSet::new();
    while !paths.contains("/in/docs") {
        let change = deep.change().await;
        assert_eq!((change.change_type(), change.item_kind()), (pb::EventType::Deleted, pb::ItemKind::Unspecified));
        assert_eq!(deleted(&change), &pb::DeletedItem::default());
        paths.insert(path(&change).to_owned());
    }
}

/// A process of its own, since the emulator keeps its files in this one. As debug build, whose figures are not the connector's
/// but for the memory.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make test-long"]
async fn a_folder_of_very_many_items_moves_and_is_told_one_by_one_in_bounded_memory() {
    // Dropbox moves ten thousand at once, and no more.
    const FOLDERS: u64 = 8;
    const FILES: u64 = 9_000;
    const ITEMS: u64 = FOLDERS * FILES;
    let emulator = Emulator::start(Options::default()).await.expect("an emulator");
    let put = |path: &str, text: &str| {
        let seed = Seed { files: vec![SeedFile::text(path, text)], ..Seed::default() };
        emulator.control().seed(&seed).expect("a file");
    };
    for n in 0..FOLDERS {
        let generate = Generate { folder: format!("/in/many{n}"), files: FILES, bytes: 0, per_folder: Some(1000) };
        emulator.control().seed(&Seed { generate: Some(generate), ..Seed::default() }).expect("seeded");
    }
    // What is let go goes back to the system at once: it is about what the server keeps.
    let allocator = [("_RJEM_MALLOC_CONF", "dirty_decay_ms:0,muzzy_decay_ms:0")];
    let mut served = tokio::task::block_in_place(|| Served::before_in(&emulator, &[], &allocator));
    let (data, admin) = tokio::task::block_in_place(|| (served.told("data"), served.told("admin")));
    let mut boss = DropboxAdminConnectorClient::connect(format!("http://{admin}")).await.expect("connect");
    support::make_parameter(&mut boss, &emulator.account(), PARAMETER, |_| {}).await;
    let mut client = DropboxConnectorClient::connect(format!("http://{data}")).await.expect("connect");
    let watch = ask(|asked| {
        let kinds = vec![pb::ItemKind::File.into()];
        (asked.path, asked.filter) = ("/in".into(), Some(pb::ItemFilter { kinds, ..Default::default() }));
        // While the server and the emulator are at the many, there is a message all the same.
        asked.heartbeat_interval = Some(prost_types::Duration { seconds: 5, nanos: 0 });
    });
    // However long it takes: a heartbeat that does not come ends the test.
    let change = async |watch: &mut Watch| loop {
        if let Payload::Change(change) = watch.payload().await {
            return change;
        }
    };
    let stream = client.watch_events(watch).await.expect("a watch").into_inner();
    let mut files = Watch { stream, token: String::new() };
    while !matches!(files.payload().await, Payload::Ready(_)) {}
    for probe in 0.. {
        put("/in/probe", &probe.to_string());
        if change(&mut files).await.basis() == pb::EventBasis::Index {
            break;
        }
    }
    let store = std::fs::metadata(served.folder().join("store.db")).map_or(0, |file| file.len());
    let before = served.resident();
    for n in 0..FOLDERS {
        let rename = pb::MoveItemRequest {
            application_parameter_id: PARAMETER.into(),
            from_path: format!("/in/many{n}"),
            to_path: format!("/in/much{n}"),
            ..Default::default()
        };
        client.move_item(rename).await.expect("moved");
    }
    let (mut peak, mut moved) = (before, 0);
    while moved < ITEMS {
        let change = change(&mut files).await;
        assert!(change.previous_path.starts_with("/in/many") && path(&change).starts_with("/in/much"), "{change:?}");
        moved += 1;
        if moved % 1000 == 0 {
            peak = peak.max(served.resident());
        }
    }
    let grown = peak - before;
    eprintln!("{grown} bytes more for {ITEMS} items that move; the store had {} bytes an item", store / ITEMS);
    // What is kept of each would be twice as much at least.
    assert!(grown <= 32 * support::MIB, "{grown}");
}
