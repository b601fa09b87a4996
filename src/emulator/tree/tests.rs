//! What the tree promises, without HTTP.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::*;
use crate::clock::ManualClock;

fn tree() -> (Tree, NamespaceId) {
    let clock = ManualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
    let tree = Tree::new(Arc::new(clock), 7);
    let home = tree.default_account().home;
    (tree, home)
}

fn write(tree: &mut Tree, root: NamespaceId, path: &str, text: &str, terms: &Terms) -> Result<String, WriteProblem> {
    let place = tree.locate(root, path).expect("a sound path");
    let (namespace, key) = tree.write_file(&place, Content::from_bytes(text.to_owned()), terms)?;
    Ok(tree.node(namespace, &key).expect("just written").display.clone())
}

fn put(tree: &mut Tree, root: NamespaceId, path: &str, text: &str) -> Node {
    write(tree, root, path, text, &Terms::overwrite()).expect("written");
    let place = tree.locate(root, path).expect("there");
    tree.node(place.namespace, &place.key).expect("there").clone()
}

fn rev(node: &Node) -> String {
    node.file().expect("a file").rev.clone()
}

fn listed(tree: &Tree, root: NamespaceId, folder: &str, reach: Reach) -> Vec<String> {
    let place = tree.locate(root, folder).expect("a sound path");
    let mut seen = Vec::new();
    tree.walk(place.namespace, &place.key, None, reach, &mut |visit| {
        let (namespace, display) = match visit {
            Visit::Live { namespace, node, .. } => (namespace, node.display.clone()),
            Visit::Deleted { namespace, deleted, .. } => (namespace, format!("-{}", deleted.display)),
        };
        seen.push(format!("{}{display}", tree.prefix(root, namespace).expect("reachable")));
        true
    });
    seen
}

const ALL: Reach = Reach { recursive: true, deleted: false, mounted: true };
const FLAT: Reach = Reach { recursive: false, deleted: false, mounted: true };

#[test]
fn paths_fold_case_and_the_first_spelling_stays() {
    let (mut tree, home) = tree();
    put(&mut tree, home, "/Ärger/Doc.txt", "a");
    let second = put(&mut tree, home, "/äRGER/dOC.TXT", "b");
    assert_eq!(second.display, "/Ärger/Doc.txt");
    put(&mut tree, home, "/ärger/new", "c");
    assert_eq!(listed(&tree, home, "", ALL), ["/Ärger", "/Ärger/Doc.txt", "/Ärger/new"]);
}

#[test]
fn an_id_outlives_content_and_moves_but_not_deletion() {
    let (mut tree, home) = tree();
    let first = put(&mut tree, home, "/a", "1");
    let second = put(&mut tree, home, "/a", "2");
    assert_eq!(first.id, second.id);
    assert!(rev(&first) < rev(&second));
    let (from, to) = (tree.locate(home, "/a").expect("a"), tree.locate(home, "/x/b").expect("b"));
    tree.relocate(&from, &to, false).expect("moved");
    let place = tree.locate(home, &first.id).expect("by id");
    assert_eq!(place.display, "/x/b");
    assert!(tree.delete(home, &place.key));
    assert_eq!(tree.locate(home, &first.id), Err(Lost::NotFound));
    assert_ne!(put(&mut tree, home, "/x/b", "2").id, first.id);
}

#[test]
fn modes_decide_conflicts_and_identical_bytes_write_nothing() {
    let (mut tree, home) = tree();
    let first = put(&mut tree, home, "/a", "1");
    let add = Terms::default();
    assert_eq!(write(&mut tree, home, "/a", "1", &add).as_deref(), Ok("/a"));
    assert_eq!(rev(&put(&mut tree, home, "/a", "1")), rev(&first), "nothing was written");
    assert_eq!(write(&mut tree, home, "/a", "2", &add), Err(WriteProblem::Conflict("file")));
    let strict = Terms { strict_conflict: true, ..Terms::default() };
    assert_eq!(write(&mut tree, home, "/a", "1", &strict), Err(WriteProblem::Conflict("file")));
    let update = Terms { mode: Mode::Update(rev(&first)), ..Terms::default() };
    assert_eq!(write(&mut tree, home, "/a", "2", &update).as_deref(), Ok("/a"));
    assert_eq!(write(&mut tree, home, "/a", "3", &update), Err(WriteProblem::Conflict("file")));
    let strict_update = Terms { strict_conflict: true, ..update.clone() };
    assert_eq!(write(&mut tree, home, "/gone", "3", &strict_update), Err(WriteProblem::Conflict("file")));
    assert_eq!(write(&mut tree, home, "/gone", "3", &update).as_deref(), Ok("/gone"));
    assert_eq!(write(&mut tree, home, "/a/b", "3", &add), Err(WriteProblem::Conflict("file_ancestor")));
    assert_eq!(write(&mut tree, home, "/.DS_Store", "3", &add), Err(WriteProblem::DisallowedName));
    let narrow = Terms { space: Some(3), ..Terms::overwrite() };
    assert_eq!(write(&mut tree, home, "/big", "1234", &narrow), Err(WriteProblem::InsufficientSpace));
}

#[test]
fn a_new_name_is_the_first_that_is_free() {
    let (mut tree, home) = tree();
    put(&mut tree, home, "/d.tar.gz", "1");
    let add = Terms { autorename: true, ..Terms::default() };
    assert_eq!(write(&mut tree, home, "/D.tar.gz", "2", &add).as_deref(), Ok("/D.tar (1).gz"));
    assert_eq!(write(&mut tree, home, "/d.tar.gz", "3", &add).as_deref(), Ok("/d.tar (2).gz"));
    let update = Terms { mode: Mode::Update("0123456789".into()), autorename: true, ..Terms::default() };
    assert_eq!(write(&mut tree, home, "/d.tar.gz", "4", &update).as_deref(), Ok("/d.tar (conflicted copy).gz"));
    let place = tree.locate(home, "/f").expect("sound");
    tree.make_folder(&place, false).expect("made");
    assert_eq!(tree.make_folder(&place, false), Err(WriteProblem::Conflict("folder")));
    assert_eq!(tree.make_folder(&place, true), Ok((home, "\0f (1)".to_owned())));
}

#[test]
fn what_no_call_may_move_at_once_somebody_with_dropboxs_programs_may() {
    let (mut tree, home) = tree();
    for number in 0..10_001 {
        put(&mut tree, home, &format!("/many/{number}"), "");
    }
    let at = |tree: &Tree, path: &str| tree.locate(home, path).expect("sound");
    let (from, to) = (at(&tree, "/many"), at(&tree, "/elsewhere"));
    assert_eq!(tree.relocate(&from, &to, false), Err(WriteProblem::TooManyFiles));
    assert_eq!(tree.copy(&from, &to, false, u64::MAX), Err(WriteProblem::TooManyFiles));
    tree.relocate_any(&from, &to, false).expect("moved");
    assert!(tree.node(home, &at(&tree, "/elsewhere/10000").key).is_some());
}

#[test]
fn a_folder_moves_copies_and_goes_with_all_that_is_under_it() {
    let (mut tree, home) = tree();
    let inner = put(&mut tree, home, "/A/B/c", "1");
    put(&mut tree, home, "/Ab", "not inside");
    let at = |tree: &Tree, path: &str| tree.locate(home, path).expect("sound");
    let (from, into) = (at(&tree, "/a"), at(&tree, "/A/B/x"));
    assert_eq!(tree.relocate(&from, &into, false), Err(WriteProblem::IntoItself));
    let to = at(&tree, "/New/Z");
    tree.copy(&from, &to, false, u64::MAX).expect("copied");
    assert_eq!(tree.copy(&from, &to, false, u64::MAX), Err(WriteProblem::Conflict("folder")));
    let to = at(&tree, "/M");
    tree.relocate(&from, &to, false).expect("moved");
    let whole = ["/Ab", "/M", "/M/B", "/M/B/c", "/New", "/New/Z", "/New/Z/B", "/New/Z/B/c"];
    assert_eq!(listed(&tree, home, "", ALL), whole);
    assert_eq!(tree.locate(home, &inner.id).expect("moved").display, "/M/B/c");
    assert_eq!(tree.used(&tree.default_account().id.clone()), 12);
    assert!(tree.delete(home, "\0m"));
    assert_eq!(listed(&tree, home, "", FLAT), ["/Ab", "/New"]);
    let with_deleted = Reach { deleted: true, ..FLAT };
    assert_eq!(listed(&tree, home, "", with_deleted), ["-/A", "/Ab", "-/M", "/New"]);
    assert_eq!(tree.used(&tree.default_account().id.clone()), 11);
}

#[test]
fn a_walk_stops_anywhere_and_goes_on_without_loss_or_repetition() {
    let (mut tree, home) = tree();
    let shared = tree.add_namespace("S");
    tree.mount(home, "/a/S", shared);
    for path in ["/a/S/1", "/a/S/2/x", "/a/S/3", "/a/T", "/b", "/a!", "/a/S!/y"] {
        put(&mut tree, home, path, path);
    }
    assert_eq!(tree.node(shared, "\x002\0x").map(|node| node.display.as_str()), Some("/2/x"));
    for (folder, reach) in [("", ALL), ("", FLAT), ("/a", ALL), ("/a/s", FLAT), ("/A/S", ALL)] {
        let whole = listed(&tree, home, folder, reach);
        let place = tree.locate(home, folder).expect("sound");
        let (mut seen, mut after) = (Vec::new(), None::<String>);
        loop {
            let mut next = None;
            let done = tree.walk(place.namespace, &place.key, after.as_deref(), reach, &mut |visit| {
                let Visit::Live { namespace, at, node } = visit else { panic!("nothing is deleted") };
                if next.is_some() {
                    return false;
                }
                seen.push(format!("{}{}", tree.prefix(home, namespace).expect("reachable"), node.display));
                next = Some(at);
                true
            });
            after = next.or(after);
            if done {
                break;
            }
        }
        assert_eq!(seen, whole, "{folder:?} {reach:?}");
        assert!(whole.len() > 2, "{whole:?}");
    }
}

#[test]
fn a_mount_is_reached_by_path_id_and_namespace_from_a_root_that_shows_it() {
    let (mut tree, home) = tree();
    let account = tree.default_account().id.clone();
    let root = tree.give_team_space(&account, "Team").expect("known");
    let file = put(&mut tree, home, "/x/y", "1");
    for path in ["/Ann/X/y", &file.id, &format!("ns:{home}/x/Y")] {
        let place = tree.locate(root, path).expect("reachable");
        assert_eq!((place.namespace, place.key.as_str()), (home, "\0x\0y"), "{path}");
    }
    assert_eq!(tree.locate(home, &format!("ns:{root}/x")), Err(Lost::NotFound));
    let shown = tree.metadata(&Shown::tagged(root), home, "\0x\0y").expect("there");
    assert_eq!(shown["path_display"], "/Ann/x/y");
    assert_eq!(tree.metadata(&Shown::tagged(home), home, "\0x\0y").expect("there")["path_lower"], "/x/y");
    let foreign = tree.add_namespace("elsewhere");
    assert_eq!(tree.metadata(&Shown::tagged(foreign), home, "\0x\0y").expect("there").get("path_lower"), None);
}

#[test]
fn changes_are_told_from_any_sequence_and_lost_ones_are_known() {
    let (mut tree, home) = tree();
    put(&mut tree, home, "/a", "1");
    let before = tree.sequence;
    assert_eq!(tree.changes_since(before).expect("known").count(), 0);
    put(&mut tree, home, "/d/b", "2");
    tree.delete(home, "\0a");
    let keys: Vec<&str> = tree.changes_since(before).expect("known").map(|change| change.key.as_str()).collect();
    assert_eq!(keys, ["\0d", "\0d\0b", "\0a"]);
    assert!(tree.changes_since(tree.sequence + 1).is_none());
    tree.clear();
    assert!(tree.changes_since(before).is_none(), "a cursor of before the reset is stale");
    assert_eq!(tree.changes_since(tree.sequence).expect("known").count(), 0);
}

#[test]
fn revisions_stay_after_deletion_until_they_are_forgotten() {
    let (mut tree, home) = tree();
    let first = put(&mut tree, home, "/a", "1");
    put(&mut tree, home, "/a", "2");
    tree.delete(home, "\0a");
    let place = tree.locate(home, &format!("rev:{}", rev(&first))).expect("kept");
    assert_eq!((place.key.as_str(), place.rev.clone()), ("\0a", Some(rev(&first))));
    assert_eq!(tree.namespace(home).expect("home").history["\0a"].len(), 2);
    put(&mut tree, home, "/a", "3");
    assert!(tree.forget(home, "\0a"));
    assert_eq!(tree.locate(home, &format!("rev:{}", rev(&first))), Err(Lost::NotFound));
    assert!(tree.namespace(home).expect("home").history.is_empty());
}
