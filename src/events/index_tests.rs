//! Every rule of what a delta means as a table, and random stories against a tree that is only told of by deltas.

use std::collections::{BTreeMap, BTreeSet};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::{
    super::tests::truth::{Mirror, Truth, page, path_of, shown},
    *,
};
use crate::counted_tests::counted;

/// The store of an index, without a database.
#[derive(Debug, Default)]
struct Shelf {
    rows: BTreeMap<i64, IndexRow>,
    waits: BTreeMap<String, WaitingRow>,
    next: i64,
    stamp: i64,
    /// Whoever watches has written the folder in small letters.
    is_small: bool,
}

impl Shelf {
    fn base(&self) -> Base {
        Base::of(if self.is_small { "/w" } else { "/W" })
    }

    /// What a step may look at: here everything.
    fn tree(&self, basis: Basis) -> Tree {
        let mut tree = Tree::new(self.base(), basis, self.next, self.stamp);
        tree.load(self.rows.values().cloned().collect());
        if !self.waits.is_empty() {
            tree.load_waiting(self.waits.keys().cloned().collect());
        }
        tree
    }

    fn save(&mut self, mut tree: Tree) -> Vec<Change> {
        let (told, writes) = tree.done();
        (self.next, self.stamp) = (tree.next, tree.stamp);
        for (path, with_all_under) in writes.unwait {
            let under = format!("{path}/");
            self.waits.retain(|waiting, _| *waiting != path && !(with_all_under && waiting.starts_with(&under)));
        }
        self.waits.retain(|_, wait| !wait.id.as_ref().is_some_and(|id| writes.unwait_ids.contains(id)));
        self.rows.extend(writes.put.into_iter().map(|row| (row.n, row)));
        self.waits.extend(writes.wait.into_iter().map(|wait| (wait.path.clone(), wait)));
        for (parent, gone) in writes.sweep {
            for row in self.rows.values_mut().filter(|row| row.parent == parent) {
                if row.stamp < gone || row.kind == FOLDER {
                    row.gone = Some(row.gone.unwrap_or(0).max(gone));
                }
            }
        }
        // The trash is emptied after each step.
        loop {
            let trash: BTreeSet<i64> =
                self.rows.values().filter(|row| row.parent == INDEX_TRASH).map(|row| row.n).collect();
            if trash.is_empty() {
                return told;
            }
            for row in self.rows.values_mut().filter(|row| trash.contains(&row.parent)) {
                row.parent = INDEX_TRASH;
            }
            self.rows.retain(|n, _| !trash.contains(n));
        }
    }

    fn page(&mut self, entries: Vec<Metadata>, basis: Basis) -> Vec<Change> {
        let mut tree = self.tree(basis);
        let base = self.base();
        tree.page(entries.into_iter().filter_map(|item| Seen::of(item, &base)).collect());
        self.save(tree)
    }

    /// In steps as the feed takes them.
    fn end(&mut self, basis: Basis) -> Vec<Change> {
        let mut told = Vec::new();
        for _ in 0..10_000 {
            let mut tree = self.tree(basis);
            let waits: Vec<_> = self.waits.values().cloned().collect();
            let gone: Vec<i64> = self.rows.values().filter(|row| row.gone.is_some()).map(|row| row.n).collect();
            if waits.is_empty() && gone.is_empty() {
                return told;
            }
            super::super::ending::step(&mut tree, &waits, &gone, true, &waits);
            told.extend(self.save(tree));
        }
        panic!("the end of a drain does not end");
    }

    fn drain(&mut self, pages: Vec<Vec<Metadata>>) -> Vec<Change> {
        let mut told = Vec::new();
        for page in pages {
            told.extend(self.page(page, Basis::Index));
        }
        told.extend(self.end(Basis::Index));
        told
    }
}

fn told(changes: &[Change]) -> String {
    let short = |path: &str| path.trim_start_matches("/W/").to_owned();
    let one = |change: &Change| {
        let path = short(&path_of(change));
        match (change.kind, &change.previous_path) {
            (ChangeKind::Moved, Some(from)) => format!("moved {} to {path}", short(from)),
            (kind, _) => format!("{} {path}", format!("{kind:?}").to_lowercase()),
        }
    };
    changes.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[test]
fn a_delta_is_told_as_what_happened() {
    // What was there; the pages of one drain; what is told.
    let table: &[(&str, &[&str], &str)] = &[
        ("", &["a 1"], "created a"),
        ("", &["d/ 1, d/a 2"], "created d, created d/a"),
        ("a 1 1 x", &["a 1 2 y"], "updated a"),
        ("a 1 1 x", &["a 1 2 x"], "metadatachanged a"),
        ("a 1 1 x", &["a 1 1 x"], ""),
        ("a 1", &["-a"], "deleted a"),
        ("a 1", &["-b"], ""),
        // Moves, in either order and over pages.
        ("a 1", &["-a, b 1"], "moved a to b"),
        ("a 1", &["b 1, -a"], "moved a to b"),
        ("a 1", &["-a", "b 1"], "moved a to b"),
        ("a 1", &["b 1", "-a"], "moved a to b"),
        ("a 1 1 x", &["-a", "b 1 2 y"], "moved a to b, updated b"),
        ("a 1", &["A 1"], "moved a to A"),
        // Folders.
        ("d/ 1, d/a 2, d/b 3", &["-d, e/ 1, e/a 2, e/b 3"], "moved d to e"),
        ("d/ 1, d/a 2, d/b 3", &["e/ 1, e/a 2", "e/b 3, -d"], "moved d to e"),
        ("d/ 1, d/a 2, d/b 3", &["-d", "e/ 1", "e/a 2"], "moved d to e, deleted e/b"),
        ("d/ 1, d/a 2, d/s/ 4, d/s/b 3", &["-d"], "deleted d"),
        ("d/ 1, d/a 2", &["-d/a, -d"], "deleted d"),
        ("d/ 1, d/a 2", &["-d, a 2"], "moved d/a to a, deleted d"),
        // One path, another item.
        ("a 1", &["-a, a 2"], "deleted a, created a"),
        ("a 1", &["a 2"], "deleted a, created a"),
        ("a 1", &["a 2, b 1"], "moved a to b, created a"),
        ("a 1", &["a/ 2, a/x 3"], "deleted a, created a, created a/x"),
        ("d/ 1, d/a 2", &["d 3"], "deleted d, created d"),
        ("d/ 1, d/a 2", &["-d, d/ 3, d/b 4"], "deleted d, created d, created d/b"),
        // A file saved by writing another and renaming it.
        ("a 1, tmp 2", &["a 2, -tmp"], "deleted a, moved tmp to a"),
        ("a 1, tmp 2", &["-tmp, -a", "a 2"], "deleted a, moved tmp to a"),
        // A chain, and a ring that has to be broken somewhere.
        ("a 1, b 2", &["b 1, c 2, -a"], "moved b to c, moved a to b"),
        ("a 1, b 2", &["a 2, b 1"], "deleted a, moved b to a, created b"),
        // A share: the folder is told once, what lies in it not at all.
        ("d/ 1, d/a 2 1, d/s/ 3", &["-d, d/ 1 S, d/a 2 9, d/s/ 3"], "metadatachanged d"),
        ("d/ 1, d/a 2 1, d/s/ 3", &["d/ 1 S", "d/a 2 9, d/s/ 3"], "metadatachanged d"),
        ("d/ 1 S, d/a 2 1", &["-d", "d/ 1, d/a 2 9"], "metadatachanged d"),
        ("d/ 1, d/a 2, d/b 3", &["-d, d/ 1, d/a 2"], "deleted d/b"),
        // The same where the folder gets another id with it, is told behind what it holds, and on another page.
        ("d/ 1, d/a 2 1, d/s/ 3", &["d/ 9 S, d/a 2 9, d/s/ 3"], "metadatachanged d"),
        ("d/ 1, d/a 2 1, d/s/ 3", &["-d, d/ 9 S, d/a 2 9, d/s/ 3"], "metadatachanged d"),
        ("d/ 1 S, d/a 2 1, d/s/ 3", &["-d/a, -d/s", "d/a 2 9, d/s/ 3", "d/ 9"], "metadatachanged d"),
        ("d/ 1, d/a 2", &["d/a 2, d/ 9"], "deleted d, created d, created d/a"),
        ("d/ 1, d/a 2, d/b 3", &["-d/a, -d/b", "d/a 2", "d/ 9 S"], "metadatachanged d, deleted d/b"),
        // A folder goes where one was implied by what lies in it.
        ("b/ 1, b/x 3, c/a 2", &["c/a 2", "c/ 1, c/x 3, -b"], "deleted b, created c, created c/x"),
        // Children before their folder, and a folder that nobody mentions.
        ("", &["d/a 2, d/ 1"], "created d, created d/a"),
        ("", &["d/a 2"], "created d/a"),
        ("d/ 1, d/a 2", &["-d, d/a 2, d/ 3"], "deleted d, created d, created d/a"),
        ("", &["a 1", "-a"], "created a, deleted a"),
        ("d/ 1", &["-d, e/x 2", "-e"], "deleted d"),
    ];
    for (was, pages, expected) in table {
        let mut shelf = Shelf::default();
        shelf.drain(vec![page(was)]);
        let changes = shelf.drain(pages.iter().map(|text| page(text)).collect());
        assert_eq!(told(&changes), *expected, "{was:?} then {pages:?}");
        assert!(shelf.rows.values().all(|row| row.gone.is_none()) && shelf.waits.is_empty(), "{was:?} then {pages:?}");
    }
}

#[test]
fn a_deletion_tells_what_is_known_of_the_item() {
    let mut shelf = Shelf::default();
    shelf.drain(vec![page("Docs/ 1, Docs/A.txt 2 5 x")]);
    let changes = shelf.drain(vec![page("-docs/a.txt")]);
    let change = &changes[0];
    assert_eq!((change.id.as_deref(), change.previous_rev.as_deref()), (Some("id:2"), Some("000000005")));
    assert_eq!((change.item_kind, path_of(change).as_str()), (ItemKind::File, "/W/Docs/A.txt"));
}

#[test]
fn where_an_item_was_is_told_as_dropbox_writes_the_folder_whoever_watched_it_first() {
    let root = |written: &str| {
        let folder = files::FolderMetadata::new(written.trim_start_matches('/').into(), "id:0".into());
        Metadata::Folder(folder.with_path_lower("/w".into()).with_path_display(written.into()))
    };
    // Told by the folder itself, or by what is in it.
    for listing in [[vec![root("/W")], page("a 1")].concat(), page("a 1")] {
        let mut shelf = Shelf { is_small: true, ..Shelf::default() };
        shelf.drain(vec![listing]);
        let moved = shelf.drain(vec![page("-a, b 1")]);
        assert_eq!(moved[0].previous_path.as_deref(), Some("/W/a"));
        assert_eq!(path_of(&shelf.drain(vec![page("-b")])[0]), "/W/b");
        // It is written otherwise from then on.
        shelf.drain(vec![page("c 2")]);
        shelf.drain(vec![vec![root("/w")]]);
        assert_eq!(path_of(&shelf.drain(vec![page("-c")])[0]), "/w/c");
    }
}

#[test]
fn after_a_reset_the_differences_are_told_and_nothing_else() {
    let mut shelf = Shelf::default();
    shelf.drain(vec![page("a 1 1 x, b 2 1 x, d/ 3, d/c 4, d/e/ 5, d/e/f 6, g 7")]);
    let mut tree = shelf.tree(Basis::Synthetic);
    tree.doubt_all();
    shelf.save(tree);
    let mut changes = shelf.page(page("a 1 1 x, b 2 2 y, d/ 3, d/c 4"), Basis::Synthetic);
    changes.extend(shelf.page(page("h 7, n 8"), Basis::Synthetic));
    changes.extend(shelf.end(Basis::Synthetic));
    assert_eq!(told(&changes), "updated b, moved g to h, created n, deleted d/e");
    assert!(changes.iter().all(|change| change.basis == Basis::Synthetic));
}

#[test]
fn the_deletion_of_the_watched_folder_itself_is_noticed() {
    let shelf = Shelf::default();
    let mut tree = shelf.tree(Basis::Index);
    let root = Metadata::Deleted(files::DeletedMetadata::new("W".into()).with_path_lower("/w".into()));
    tree.page(vec![Seen::of(root, &Base::of("/W")).unwrap()]);
    assert!(tree.lost);
}

// ---- random stories ----

fn story(seed: u64) {
    // `STORY=56` shows what happens in that one.
    let trace = std::env::var("STORY").is_ok_and(|wanted| wanted == seed.to_string());
    let mut dice = StdRng::seed_from_u64(seed);
    let (mut truth, mut shelf, mut mirror, mut cursor) = (Truth::default(), Shelf::default(), Mirror::default(), 0);
    for _ in 0..dice.random_range(1..8) {
        for _ in 0..dice.random_range(0..12) {
            truth.act(&mut dice);
        }
        let mut changes = Vec::new();
        loop {
            let limit = dice.random_range(1..8);
            let (entries, next, more) = truth.delta(cursor, limit, &mut dice);
            cursor = next;
            if trace {
                eprintln!("page {}", entries.iter().map(shown).collect::<Vec<_>>().join(", "));
            }
            let new = shelf.page(entries, Basis::Index);
            if trace {
                eprintln!("  told {}", told(&new));
            }
            changes.extend(new);
            if !more {
                break;
            }
            if dice.random_bool(0.2) {
                truth.act(&mut dice);
            }
        }
        let new = shelf.end(Basis::Index);
        if trace {
            eprintln!("  end told {}", told(&new));
        }
        changes.extend(new);
        for change in &changes {
            mirror.apply(change);
        }
        mirror.end_batch();
        assert_eq!(mirror.nodes, truth.nodes(), "seed {seed}, told: {}", told(&changes));
    }
}

#[test]
fn whoever_applies_what_is_told_step_by_step_has_what_is_there() {
    let seeds = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse::<u64>().ok()).unwrap_or(100) * 10;
    for seed in 0..seeds {
        if let Err(why) = std::panic::catch_unwind(|| story(seed)) {
            eprintln!("seed {seed} fails");
            std::panic::resume_unwind(why);
        }
    }
}

#[test]
fn a_page_of_500_changes_among_2000_items_is_counted() {
    // As many folders as files; then a fifth of the files is new, one is other, one is elsewhere, one is gone, one is the same.
    let list =
        |entries: Vec<String>| entries.iter().map(|text| super::super::tests::truth::entry(text)).collect::<Vec<_>>();
    let mut shelf = Shelf::default();
    let folders = (0..20).map(|n| format!("folder {n}/").replace(' ', "_") + &format!(" f{n}"));
    let files = (0..2000).map(|n| format!("folder_{}/file_{n}.txt {n} 1 x", n % 20));
    assert_eq!(shelf.page(list(folders.chain(files).collect()), Basis::Index).len(), 2020);
    let page = (0..100).flat_map(|n| {
        let at = |n: usize| format!("folder_{}/file_{n}.txt", n % 20);
        let (other, moved, gone, same) = (n, 200 + n, 400 + n, 600 + n);
        [
            format!("folder_{}/new_{n}.txt {} 1 x", n % 20, 5000 + n),
            format!("{} {other} 2 y", at(other)),
            format!("folder_0/moved_{n}.txt {moved} 1 x"),
            format!("-{}", at(gone)),
            format!("{} {same} 1 x", at(same)),
        ]
    });
    let (page, mut tree, base) = (list(page.collect()), shelf.tree(Basis::Index), Base::of("/W"));
    let told = counted(|| {
        tree.page(page.into_iter().filter_map(|item| Seen::of(item, &base)).collect());
        tree.done()
    });
    let count = |kind| told.0.iter().filter(|change| change.kind == kind).count();
    assert_eq!([ChangeKind::Created, ChangeKind::Updated, ChangeKind::Moved].map(count), [100, 100, 100]);
}
