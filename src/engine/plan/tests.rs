//! Entries against a held folder: which steps come of them, in any order.

use sha2::{Digest as _, Sha256};

use super::{
    held::tests::{file, held},
    *,
};
use crate::api::v1::{ConflictPolicy, MissingPolicy, SyncDirection};

const POLICY: Policy =
    Policy { direction: SyncDirection::TwoWay, on_conflict: ConflictPolicy::Report, on_missing: MissingPolicy::Delete };
const ONE: &str = "0000000001";
const TWO: &str = "0000000002";

fn plan(told: &[(&str, Kind<'_>)]) -> Plan {
    Plan::new(POLICY, Listing(held(told)))
}

/// A file with the content that [`file`] gives this rev.
fn entry(path: &str, content: &str) -> Entry {
    Entry {
        lower: dbxcase::dbx_str_lowercase(path),
        path: path.to_owned(),
        bad_names: Vec::new(),
        size: 7,
        hash: Some(Sha256::digest(content).into()),
        modified: None,
        base_rev: String::new(),
        base_hash: None,
        deleted: false,
        wanted: true,
    }
}

fn synced(path: &str, content: &str, base: &str) -> Entry {
    Entry { base_rev: base.to_owned(), base_hash: Some(Sha256::digest(base).into()), ..entry(path, content) }
}

fn deleted(path: &str, base: &str) -> Entry {
    Entry { deleted: true, hash: None, size: 0, ..synced(path, "", base) }
}

fn step(plan: &mut Plan, entry: &Entry) -> Option<(Action, Why)> {
    plan.step(entry).expect("a step").map(|step| (step.action, step.why))
}

/// Steps of what only Dropbox has.
fn rest(plan: &Plan) -> Vec<(String, Action, Why)> {
    let files = plan.files().into_iter().map(|at| at as usize);
    let steps = files.filter_map(|at| plan.rest(at).map(|step| (at, step)));
    steps.map(|(at, step)| (plan.spelled(at).unwrap_or(plan.path(at)).to_owned(), step.action, step.why)).collect()
}

fn is(action: Action, why: Why) -> Option<(Action, Why)> {
    Some((action, why))
}

#[test]
fn an_accent_of_its_own_is_the_same_path() {
    let (composed, apart) = ("B\u{fc}cher/\u{c9}t\u{e9}", "Bu\u{308}cher/E\u{301}te\u{301}");
    for (there, here) in [(composed, apart), (apart, composed)] {
        let mut plan = plan(&[(there, file(ONE))]);
        assert_eq!(step(&mut plan, &synced(here, ONE, ONE)), is(Action::None, Why::Equal));
        assert_eq!(step(&mut plan, &entry(there, ONE)), is(Action::Conflict, Why::LocalCollision));
        assert_eq!(rest(&plan), []);
    }
}

#[test]
fn what_is_equal_is_left_and_what_differs_goes_where_it_is_missing() {
    let told = [("D", Kind::Folder), ("D/same", file(ONE)), ("changed", file(TWO)), ("new", file(ONE))];
    let mut plan = plan(&told);
    assert_eq!(step(&mut plan, &entry("d/SAME", ONE)), is(Action::None, Why::Equal));
    assert_eq!(step(&mut plan, &synced("changed", ONE, ONE)), is(Action::Download, Why::RemoteChanged));
    assert_eq!(step(&mut plan, &entry("here", ONE)), is(Action::Upload, Why::NewLocal));
    assert_eq!(step(&mut plan, &synced("gone", ONE, ONE)), is(Action::DeleteLocal, Why::RemoteDeleted));
    assert_eq!(rest(&plan), [("new".to_owned(), Action::Download, Why::NewRemote)]);
}

#[test]
fn another_rev_of_the_same_content_is_no_change() {
    let mut plan = plan(&[("a", file(ONE))]);
    let entry = Entry { base_rev: "0000000009".into(), ..synced("a", TWO, ONE) };
    assert_eq!(step(&mut plan, &entry), is(Action::Upload, Why::LocalChanged));
}

#[test]
fn what_is_deleted_here_is_said_at_the_end_and_not_where_another_entry_has_its_place() {
    let told = [("a.txt", file(ONE)), ("B.txt", file(ONE)), ("c.txt", file(TWO))];
    let mut plan = plan(&told);
    // Renamed in case alone, told in either order.
    assert_eq!(step(&mut plan, &deleted("a.txt", ONE)), None);
    assert_eq!(step(&mut plan, &entry("A.txt", ONE)), is(Action::None, Why::Equal));
    assert_eq!(step(&mut plan, &deleted("b.TXT", ONE)), None);
    assert_eq!(step(&mut plan, &deleted("c.txt", ONE)), None);
    assert_eq!(step(&mut plan, &deleted("d.txt", ONE)), is(Action::None, Why::BothDeleted));
    let wanted = [
        ("a.txt", Action::None, Why::Replaced),
        ("b.TXT", Action::DeleteRemote, Why::LocalDeleted),
        ("c.txt", Action::Conflict, Why::LocalDeletedRemoteChanged),
    ];
    assert_eq!(rest(&plan), wanted.map(|(path, action, why)| (path.to_owned(), action, why)));
}

#[test]
fn of_two_paths_that_differ_by_case_the_first_is_planned() {
    for told in [&[][..], &[("x", file(ONE))]] {
        let mut plan = plan(told);
        assert_ne!(step(&mut plan, &entry("x", TWO)).unwrap().1, Why::LocalCollision);
        assert_eq!(step(&mut plan, &entry("X", TWO)), is(Action::Conflict, Why::LocalCollision));
        assert_eq!(step(&mut plan, &entry("x", TWO)), is(Action::Conflict, Why::LocalCollision));
        // A file and a folder here.
        assert_eq!(step(&mut plan, &entry("f/a", TWO)), is(Action::Upload, Why::NewLocal));
        assert_eq!(step(&mut plan, &entry("F", TWO)), is(Action::Conflict, Why::LocalCollision));
        assert_eq!(step(&mut plan, &entry("g", TWO)), is(Action::Upload, Why::NewLocal));
        assert_eq!(step(&mut plan, &entry("G/a", TWO)), is(Action::Conflict, Why::LocalCollision));
        assert_eq!(rest(&plan), []);
    }
}

#[test]
fn a_file_and_a_folder_at_one_path_block_each_other_and_all_beneath() {
    let told =
        [("a", Kind::Folder), ("a/deep", Kind::Folder), ("a/deep/x", file(ONE)), ("b", file(ONE)), ("c", file(ONE))];
    let mut plan = plan(&told);
    assert_eq!(step(&mut plan, &entry("A", ONE)), is(Action::Conflict, Why::KindMismatch));
    assert_eq!(step(&mut plan, &entry("b/y", ONE)), is(Action::Conflict, Why::KindMismatch));
    assert_eq!(step(&mut plan, &entry("b/z", ONE)), is(Action::Conflict, Why::KindMismatch));
    // The file became a folder here: once it is deleted at Dropbox the next plan goes on.
    assert_eq!(step(&mut plan, &deleted("c", ONE)), None);
    assert_eq!(step(&mut plan, &entry("c/y", ONE)), is(Action::Conflict, Why::KindMismatch));
    let wanted = [
        ("a/deep/x", Action::Conflict, Why::KindMismatch),
        ("b", Action::Conflict, Why::KindMismatch),
        ("c", Action::DeleteRemote, Why::LocalDeleted),
    ];
    assert_eq!(rest(&plan), wanted.map(|(path, action, why)| (path.to_owned(), action, why)));
}

#[test]
fn names_that_dropbox_does_not_take_matter_only_where_something_new_would_have_them() {
    let told = [("bad ", Kind::Folder), ("bad /there", file(ONE)), ("bad /there ", file(ONE))];
    let mut plan = plan(&told);
    let with = |entry: Entry, bad: &[usize]| Entry { bad_names: bad.to_vec(), ..entry };
    assert_eq!(step(&mut plan, &with(entry("bad /new", ONE), &[0])), is(Action::Upload, Why::NewLocal));
    assert_eq!(step(&mut plan, &with(entry("bad /new ", ONE), &[0, 1])), is(Action::Conflict, Why::DisallowedName));
    assert_eq!(step(&mut plan, &with(synced("bad /there ", TWO, ONE), &[0, 1])), is(Action::Upload, Why::LocalChanged));
    assert_eq!(step(&mut plan, &with(entry("Bad 2 /new", ONE), &[0])), is(Action::Conflict, Why::DisallowedName));
    // It is to go: its name is nobody's trouble.
    let gone = with(synced("bad 3 ", ONE, ONE), &[0]);
    assert_eq!(step(&mut plan, &gone), is(Action::DeleteLocal, Why::RemoteDeleted));
}

#[test]
fn what_the_filter_leaves_out_on_either_side_is_left_alone() {
    let Kind::File(small) = file(ONE) else { panic!("a file") };
    let told = [
        ("unwanted", Kind::File(File { wanted: false, ..small })),
        ("alone", Kind::File(File { wanted: false, ..small })),
    ];
    let mut plan = plan(&told);
    assert_eq!(step(&mut plan, &entry("unwanted", TWO)), is(Action::None, Why::Excluded));
    let unwanted = Entry { wanted: false, ..entry("x", ONE) };
    assert_eq!(step(&mut plan, &unwanted), is(Action::None, Why::Excluded));
    assert_eq!(rest(&plan), []);
    assert_eq!(step(&mut plan, &deleted("alone", ONE)), None);
    assert_eq!(rest(&plan), [("alone".to_owned(), Action::None, Why::Excluded)]);
}

#[test]
fn what_dropbox_does_not_give_as_it_is_is_never_fetched() {
    let Kind::File(paper) = file(ONE) else { panic!("a file") };
    let paper = || Kind::File(File { downloadable: false, hash: None, ..paper });
    let mut plan = plan(&[("p", paper()), ("q", paper()), ("r", paper())]);
    assert_eq!(step(&mut plan, &entry("p", ONE)), is(Action::Conflict, Why::NotDownloadable));
    // Both are as they were.
    assert_eq!(step(&mut plan, &synced("q", ONE, ONE)), is(Action::None, Why::Equal));
    assert_eq!(rest(&plan), [("r".to_owned(), Action::None, Why::NotDownloadable)]);
}

#[test]
fn without_a_hash_size_and_seconds_decide() {
    let Kind::File(there) = file(ONE) else { panic!("a file") };
    let mut plan = plan(&[("a", file(ONE)), ("b", file(ONE)), ("c", file(ONE))]);
    let bare = |path: &str, size, modified| Entry { hash: None, size, modified, ..entry(path, "") };
    assert_eq!(step(&mut plan, &bare("a", 7, there.modified)), is(Action::None, Why::Equal));
    assert_eq!(step(&mut plan, &bare("b", 8, there.modified)), is(Action::Conflict, Why::BothNew));
    // A hash is believed more.
    let touched = Entry { modified: Some(1), ..entry("c", ONE) };
    assert_eq!(step(&mut plan, &touched), is(Action::None, Why::Equal));
}

#[test]
fn the_larger_and_the_newer_side_are_told_apart() {
    let table = [
        (ConflictPolicy::Newer, 7, 1_767_323_046, Action::Upload),
        (ConflictPolicy::Newer, 7, 1_767_323_044, Action::Download),
        (ConflictPolicy::Newer, 9, 1_767_323_045, Action::Conflict),
        (ConflictPolicy::Older, 9, 1_767_323_044, Action::Upload),
        (ConflictPolicy::Larger, 8, 1_767_323_045, Action::Upload),
        (ConflictPolicy::Larger, 7, 1, Action::Conflict),
        (ConflictPolicy::Smaller, 8, 1_767_323_045, Action::Download),
    ];
    for (on_conflict, size, modified, wanted) in table {
        let mut plan = Plan::new(Policy { on_conflict, ..POLICY }, Listing(held(&[("a", file(ONE))])));
        let entry = Entry { size, modified: Some(modified), ..entry("a", TWO) };
        assert_eq!(step(&mut plan, &entry), is(wanted, Why::BothNew), "{on_conflict:?} {size} {modified}");
    }
}

#[test]
fn a_time_that_cannot_be_read_is_neither_older_nor_equal() {
    let Kind::File(there) = file(ONE) else { panic!("a file") };
    let timeless = || Kind::File(File { modified: None, ..there });
    for on_conflict in [ConflictPolicy::Newer, ConflictPolicy::Older] {
        let mut plan =
            Plan::new(Policy { on_conflict, ..POLICY }, Listing(held(&[("a", timeless()), ("b", timeless())])));
        let newer = Entry { modified: Some(1), ..entry("a", TWO) };
        assert_eq!(step(&mut plan, &newer), is(Action::Conflict, Why::BothNew));
        let bare = Entry { hash: None, modified: None, ..entry("b", "") };
        assert_eq!(step(&mut plan, &bare), is(Action::Conflict, Why::BothNew));
    }
}

#[test]
fn more_than_a_plan_may_hold_is_refused_on_either_side() {
    let mut listing = Listing::default();
    let refused = (0..=PLAN_ITEMS_MAX).find_map(|n| {
        let path = n.to_string();
        listing.tell(&Told { lower: &path, path: &path, kind: Kind::Folder }).err().map(|fault| (n, fault))
    });
    let (n, fault) = refused.expect("a limit");
    assert_eq!((n, fault.reason()), (PLAN_ITEMS_MAX, Reason::FolderTooLarge));
    let mut plan = plan(&[("there", file(ONE))]);
    let refused =
        (0..=PLAN_ITEMS_MAX).find_map(|n| plan.step(&entry(&n.to_string(), ONE)).err().map(|fault| (n, fault)));
    let (n, fault) = refused.expect("a limit");
    assert_eq!((n, fault.reason()), (PLAN_ITEMS_MAX, Reason::FolderTooLarge));
    // What is at Dropbox is still answered.
    assert_eq!(step(&mut plan, &entry("there", ONE)), is(Action::None, Why::Equal));
    assert!(plan.bytes() / PLAN_ITEMS_MAX < 45, "{} bytes for each", plan.bytes() / PLAN_ITEMS_MAX);
}
