//! What is found and what is said of it, two-way and one way, inside a jail, and where the plan leaves off.

use dropbox_connector::{
    api::{plain::watch_events_response::Payload as Watched, v1::watch_events_request::Start},
    emulator::control::Document,
};

use super::*;
use crate::support::start;

/// A folder at Dropbox of which some was in sync before somebody changed it, and what the caller has.
async fn changed() -> (House, Vec<pb::LocalEntry>) {
    let house = start().await;
    let names = ["same", "up", "down", "both", "gone-there", "gone-here", "edited-gone", "gone-edited", "Sub/Deep"];
    for name in names {
        put(&house, &format!("/in/{name}"), "one");
    }
    let old = async |name: &str| rev(&house, &format!("/in/{name}")).await;
    let mut entries = vec![
        synced("same", "one", &old("same").await, "one"),
        synced("up", "two!", &old("up").await, "one"),
        synced("down", "one", &old("down").await, "one"),
        synced("both", "two", &old("both").await, "one"),
        synced("gone-there", "one", &old("gone-there").await, "one"),
        deleted("gone-here", &old("gone-here").await),
        synced("edited-gone", "two", &old("edited-gone").await, "one"),
        deleted("gone-edited", &old("gone-edited").await),
        // As another machine writes it.
        entry("\\sub\\deep", "one"),
        entry("new here/x", "12345"),
        entry("clash", "mine"),
    ];
    let unsure = synced("unsure", "two", &old("same").await, "one");
    entries.push(pb::LocalEntry { base_content_hash: String::new(), ..unsure });
    for (name, text) in [("down", "three"), ("both", "three"), ("gone-edited", "three"), ("unsure", "x")] {
        put(&house, &format!("/in/{name}"), text);
    }
    put(&house, "/in/New there", "123");
    put(&house, "/in/clash", "theirs");
    put(&house, "/outside", "not in the folder");
    for name in ["gone-there", "edited-gone"] {
        delete(&house, &format!("/in/{name}")).await;
    }
    (house, entries)
}

#[tokio::test]
async fn a_plan_says_of_each_file_what_happened_and_by_default_deletes_nothing() {
    let (house, entries) = changed().await;
    let told = plan(&house, rules(|_| {}), &entries).await.expect("a plan");
    let wanted = [
        "New there DOWNLOAD NEW_REMOTE",
        "\\sub\\deep NONE EQUAL",
        "both CONFLICT BOTH_CHANGED",
        "clash CONFLICT BOTH_NEW",
        "down DOWNLOAD REMOTE_CHANGED",
        "edited-gone CONFLICT REMOTE_DELETED_LOCAL_CHANGED",
        "gone-edited CONFLICT LOCAL_DELETED_REMOTE_CHANGED",
        "gone-here CONFLICT LOCAL_DELETED",
        "gone-there CONFLICT REMOTE_DELETED",
        "new here/x UPLOAD NEW_LOCAL",
        "same NONE EQUAL",
        "unsure CONFLICT REMOTE_CHANGED_LOCAL_UNKNOWN",
        "up UPLOAD LOCAL_CHANGED",
    ];
    assert_eq!(told.lines(), wanted);
    assert_eq!((told.files, told.summary.unchanged), (10, 2));
    assert_eq!((told.summary.upload_bytes, told.summary.download_bytes), (9, 8));
    let remote = told.remote("up");
    assert_eq!((remote.rev.clone(), remote.size), (rev(&house, "/in/up").await, 3));
    assert_eq!((remote.content_hash.clone(), remote.path.as_str()), (content_hash(b"one"), ""));
    assert!(remote.client_modified.is_some());
    assert_eq!(told.remote("\\sub\\deep").path, "Sub/Deep");
    assert_eq!(told.step("gone-there").remote, None);
    // It plans and writes nothing.
    let changing = |route: &str| ["upload", "delete", "create"].iter().any(|word| route.contains(word));
    house.control().clear_journal();
    plan(&house, rules(|_| {}), &entries).await.expect("the same again");
    let asked = house.control().journal();
    assert!(!asked.is_empty() && asked.iter().all(|entry| !changing(&entry.route)), "{asked:?}");
}

#[tokio::test]
async fn policies_say_who_wins_and_what_becomes_of_deletions() {
    let (house, entries) = changed().await;
    let undecided = ["both", "clash", "edited-gone", "gone-edited", "gone-here", "gone-there", "unsure"];
    let actions = async |edit: &dyn Fn(&mut pb::SyncRules)| {
        let told = plan(&house, rules(|rules| edit(rules)), &entries).await.expect("a plan");
        let action = |path: &&str| told.step(path).action().as_str_name().trim_start_matches("SYNC_ACTION_");
        undecided.iter().map(action).collect::<Vec<_>>().join(" ")
    };
    use pb::{ConflictPolicy as C, MissingPolicy as M, SyncDirection as D};
    let table = [
        (D::TwoWay, C::Local, M::Delete, "UPLOAD UPLOAD UPLOAD DELETE_REMOTE DELETE_REMOTE DELETE_LOCAL UPLOAD"),
        (D::TwoWay, C::Remote, M::Restore, "DOWNLOAD DOWNLOAD DELETE_LOCAL DOWNLOAD DOWNLOAD UPLOAD DOWNLOAD"),
        (D::TwoWay, C::Skip, M::Ignore, "NONE NONE NONE NONE NONE NONE NONE"),
        // By size; a file and a deletion cannot be compared.
        (D::TwoWay, C::Larger, M::Report, "DOWNLOAD DOWNLOAD CONFLICT CONFLICT CONFLICT CONFLICT UPLOAD"),
        (D::TwoWay, C::Smaller, M::Report, "UPLOAD UPLOAD CONFLICT CONFLICT CONFLICT CONFLICT DOWNLOAD"),
        (D::Up, C::Local, M::Delete, "UPLOAD UPLOAD UPLOAD DELETE_REMOTE DELETE_REMOTE UPLOAD UPLOAD"),
        (D::Up, C::Remote, M::Restore, "NONE NONE NONE NONE NONE UPLOAD NONE"),
        (D::Down, C::Remote, M::Delete, "DOWNLOAD DOWNLOAD DELETE_LOCAL DOWNLOAD DOWNLOAD DELETE_LOCAL DOWNLOAD"),
        (D::Down, C::Local, M::Restore, "NONE NONE NONE NONE DOWNLOAD NONE NONE"),
    ];
    for (direction, on_conflict, on_missing, wanted) in table {
        let edit = |rules: &mut pb::SyncRules| {
            rules.set_direction(direction);
            rules.set_on_conflict(on_conflict);
            rules.set_on_missing(on_missing);
        };
        assert_eq!(actions(&edit).await, wanted, "{direction:?} {on_conflict:?} {on_missing:?}");
    }
}

#[tokio::test]
async fn a_mirror_makes_the_target_what_the_source_is_and_never_touches_the_source() {
    use pb::{ConflictPolicy as C, MissingPolicy as M, SyncAction as A, SyncDirection as D};
    let (house, entries) = changed().await;
    for (direction, on_conflict, forbidden) in
        [(D::Up, C::Local, [A::Download, A::DeleteLocal]), (D::Down, C::Remote, [A::Upload, A::DeleteRemote])]
    {
        let edit = |rules: &mut pb::SyncRules| {
            rules.set_direction(direction);
            rules.set_on_conflict(on_conflict);
            rules.set_on_missing(M::Delete);
        };
        let told = plan(&house, rules(edit), &entries).await.expect("a plan");
        let lines = told.lines();
        assert!(told.steps.iter().all(|step| !forbidden.contains(&step.action())), "{direction:?}: {lines:?}");
        assert_eq!(told.summary.conflicts, 0, "{direction:?}: {lines:?}");
        let (new_there, new_here) = (told.step("New there").action(), told.step("new here/x").action());
        let wanted = if direction == D::Up { (A::DeleteRemote, A::Upload) } else { (A::Download, A::DeleteLocal) };
        assert_eq!((new_there, new_here), wanted);
        let told = plan(&house, rules(|rules| rules.set_direction(direction)), &entries).await.expect("a plan");
        let lines = told.lines();
        assert!(told.steps.iter().all(|step| !forbidden.contains(&step.action())), "{direction:?}: {lines:?}");
    }
}

#[tokio::test]
async fn what_no_side_can_have_is_told_by_path_and_ends_nothing() {
    let house = start().await;
    for path in ["/in/folder/inner", "/in/file", "/in/Case"] {
        put(&house, path, "one");
    }
    let formats = [("markdown".to_owned(), "# a".to_owned())].into();
    let document = |path: &str| Document { path: path.into(), formats, ..Document::default() };
    house.control().seed_document(&document("/in/notes.paper")).expect("a document");
    let entries = [
        entry("folder", "two"),
        entry("file/below", "two"),
        entry("case", "one"),
        entry("CASE", "one"),
        entry("Thumbs.db", "x"),
        entry("a /b", "x"),
        entry(&format!("{}/b", "n".repeat(256)), "x"),
        entry("fine", "x"),
    ];
    let told = plan(&house, rules(|rules| rules.set_on_conflict(pb::ConflictPolicy::Local)), &entries).await;
    let wanted = [
        "CASE CONFLICT LOCAL_COLLISION".to_owned(),
        "Thumbs.db CONFLICT DISALLOWED_NAME".to_owned(),
        "a /b CONFLICT DISALLOWED_NAME".to_owned(),
        "case NONE EQUAL".to_owned(),
        "file CONFLICT KIND_MISMATCH".to_owned(),
        "file/below CONFLICT KIND_MISMATCH".to_owned(),
        "fine UPLOAD NEW_LOCAL".to_owned(),
        "folder CONFLICT KIND_MISMATCH".to_owned(),
        "folder/inner CONFLICT KIND_MISMATCH".to_owned(),
        format!("{}/b CONFLICT DISALLOWED_NAME", "n".repeat(256)),
        "notes.paper NONE NOT_DOWNLOADABLE".to_owned(),
    ];
    assert_eq!(told.expect("a plan").lines(), wanted);
}

#[tokio::test]
async fn a_filter_is_asked_of_both_sides_and_what_is_flat_stays_flat() {
    let house = start().await;
    for (path, text) in [("a.txt", "1"), ("b.tmp", "1"), ("large.txt", "12345"), ("sub/c.txt", "1"), ("small.txt", "1")]
    {
        put(&house, &format!("/in/{path}"), text);
    }
    let filter = pb::ItemFilter { exclude_globs: vec!["**/*.tmp".into()], max_size: Some(4), ..Default::default() };
    let entries =
        [entry("here.txt", "1"), entry("here.tmp", "1"), entry("large.txt", "1"), entry("small.txt", "12345")];
    let told = plan(&house, rules(|rules| rules.filter = Some(filter)), &entries).await.expect("a plan");
    let wanted = [
        "a.txt DOWNLOAD NEW_REMOTE",
        "here.tmp NONE EXCLUDED",
        "here.txt UPLOAD NEW_LOCAL",
        "large.txt NONE EXCLUDED",
        "small.txt NONE EXCLUDED",
        "sub/c.txt DOWNLOAD NEW_REMOTE",
    ];
    assert_eq!(told.lines(), wanted);
    // Written in two ways a file passes in one of them.
    let filter = pb::ItemFilter { include_globs: vec!["*.TXT".into()], case_sensitive: true, ..Default::default() };
    let told = plan(&house, rules(|rules| rules.filter = Some(filter)), &[entry("A.TXT", "2")]).await.expect("a plan");
    assert_eq!(told.lines(), ["A.TXT NONE EXCLUDED"]);
    let flat = |rules: &mut pb::SyncRules| (rules.recursive, rules.actions_only) = (Some(false), true);
    let told = plan(&house, rules(flat), &[entry("a.txt", "1"), entry("b.tmp", "1")]).await.expect("a plan");
    assert_eq!(told.lines(), ["large.txt DOWNLOAD NEW_REMOTE", "small.txt DOWNLOAD NEW_REMOTE"]);
    assert_eq!(told.summary.unchanged, 2);
}

#[tokio::test]
async fn size_and_time_do_where_nothing_was_hashed() {
    let house = start().await;
    put(&house, "/in/a", "123");
    let remote = plan(&house, rules(|_| {}), &[]).await.expect("a plan").remote("a").clone();
    let at = remote.client_modified.expect("a time").seconds;
    let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 500_000_000 });
    let bare = |size, seconds| {
        [pb::LocalEntry { path: "a".into(), size, client_modified: time(seconds), ..Default::default() }]
    };
    let by_time = |newer: pb::ConflictPolicy| {
        rules(|rules| {
            rules.set_compare(pb::SyncCompare::SizeAndTime);
            rules.set_on_conflict(newer);
        })
    };
    use pb::ConflictPolicy::{Newer, Older};
    for (policy, size, seconds, wanted) in [
        (Newer, 3, at, "a NONE EQUAL"),
        (Newer, 4, at, "a CONFLICT BOTH_NEW"),
        (Newer, 3, at + 1, "a UPLOAD BOTH_NEW"),
        (Newer, 3, at - 1, "a DOWNLOAD BOTH_NEW"),
        (Older, 3, at - 1, "a UPLOAD BOTH_NEW"),
    ] {
        let told = plan(&house, by_time(policy), &bare(size, seconds)).await.expect("a plan");
        assert_eq!(told.lines(), [wanted]);
    }
}

#[tokio::test]
async fn what_happens_after_a_plan_is_told_by_a_watch_that_goes_on_from_it() {
    let house = start().await;
    put(&house, "/in/a", "1");
    let token = plan(&house, rules(|_| {}), &[]).await.expect("a plan").summary.resume_token;
    put(&house, "/in/b", "1");
    let request = pb::WatchEventsRequest {
        application_parameter_id: PARAMETER.into(),
        path: "/in".into(),
        start: Some(Start::ResumeToken(token.clone())),
        ..Default::default()
    };
    let mut watch = house.client().watch_events(request).await.expect("a watch").into_inner();
    let change = async {
        loop {
            let message = watch.message().await.expect("no end yet").expect("a message").into_plain();
            match message.payload.expect("a payload") {
                Watched::Change(change) => return change,
                Watched::CursorReset(reset) => panic!("{reset:?}"),
                _ => {}
            }
        }
    };
    let change = tokio::time::timeout(support::PATIENCE, change).await.expect("told in time");
    assert_eq!(change.item.expect("an item").path_display, "/in/b");
    // The same from a plan that is read while the folder is being followed, by a pull.
    let token = plan(&house, rules(|_| {}), &[]).await.expect("a plan").summary.resume_token;
    put(&house, "/in/c", "1");
    let pull = pb::PullEventsRequest {
        application_parameter_id: PARAMETER.into(),
        resume_token: token,
        wait: Some(prost_types::Duration { seconds: 20, nanos: 0 }),
        ..Default::default()
    };
    let pulled = house.client().pull_events(pull).await.expect("changes").into_inner().changes;
    let paths: Vec<_> = pulled.into_iter().map(|change| change.item.expect("an item").path_display).collect();
    assert_eq!(paths, ["/in/c"]);
}

#[tokio::test]
async fn inside_a_jail_paths_are_those_of_the_jail() {
    let house = start().await;
    put(&house, "/Apps/Acme/Docs/a", "1");
    put(&house, "/Apps/outside", "1");
    let jail = |parameter: &mut pb::ApplicationParameter| parameter.path_prefix = "/Apps/Acme".into();
    house.make_parameter("jailed", jail).await;
    for (path, wanted) in [("", "Docs/a DOWNLOAD NEW_REMOTE"), ("/docs", "a DOWNLOAD NEW_REMOTE")] {
        let mut messages = messages(pb::SyncRules { path: path.into(), ..Default::default() }, &[entry("b", "1")]);
        messages[0].application_parameter_id = "jailed".into();
        let told = planned(&house, messages).await.expect("a plan");
        assert_eq!(told.lines(), [wanted, "b UPLOAD NEW_LOCAL"]);
        let token = told.summary.resume_token.clone();
        let pull = pb::PullEventsRequest {
            application_parameter_id: "jailed".into(),
            resume_token: token,
            ..Default::default()
        };
        assert_eq!(house.client().pull_events(pull).await.expect("nothing").into_inner().changes, []);
    }
}
