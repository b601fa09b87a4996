//! A Dropbox of our own that is only told of by deltas, and somebody who applies what is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use dropbox_sdk::types::files::{self, Metadata};
use rand::{Rng as _, rngs::StdRng, seq::SliceRandom as _};

use super::super::{Change, ChangeKind};

/// `a/b.txt 7 r1 h1`: a file; `a/ 3`: a folder, `a/ 3 S` shared as S; `-a`: gone.
pub(in crate::events) fn entry(text: &str) -> Metadata {
    let words: Vec<&str> = text.split(' ').collect();
    let place = |path: &str| format!("/W/{}", path.trim_end_matches('/'));
    let name = |path: &str| place(path).rsplit('/').next().unwrap().to_owned();
    if let Some(path) = text.strip_prefix('-') {
        let deleted = files::DeletedMetadata::new(name(path));
        return Metadata::Deleted(deleted.with_path_lower(place(path).to_lowercase()).with_path_display(place(path)));
    }
    let (path, id) = (words[0], format!("id:{}", words[1]));
    if path.ends_with('/') {
        let mut folder = files::FolderMetadata::new(name(path), id)
            .with_path_lower(place(path).to_lowercase())
            .with_path_display(place(path));
        if let Some(shared) = words.get(2) {
            folder = folder
                .with_sharing_info(files::FolderSharingInfo::new(false).with_shared_folder_id((*shared).to_owned()));
        }
        return Metadata::Folder(folder);
    }
    let time = "2026-01-01T00:00:00Z".to_owned();
    let rev = format!("{:0>9}", words.get(2).unwrap_or(&"1"));
    let mut hash = String::new();
    for byte in words.get(3).unwrap_or(&"h").bytes().cycle().take(32) {
        let _ = write!(hash, "{byte:02x}");
    }
    Metadata::File(
        files::FileMetadata::new(name(path), id, time.clone(), time, rev, 1)
            .with_path_lower(place(path).to_lowercase())
            .with_path_display(place(path))
            .with_content_hash(hash),
    )
}

pub(in crate::events) fn page(text: &str) -> Vec<Metadata> {
    text.split(", ").filter(|entry| !entry.is_empty()).map(entry).collect()
}

pub(in crate::events) fn shown(item: &Metadata) -> String {
    match item {
        Metadata::File(file) => format!("{} {}", file.path_display.as_ref().unwrap(), file.id),
        Metadata::Folder(folder) => format!("{}/ {}", folder.path_display.as_ref().unwrap(), folder.id),
        Metadata::Deleted(deleted) => format!("-{}", deleted.path_display.as_ref().unwrap()),
    }
}

pub(in crate::events) fn path_of(change: &Change) -> String {
    match &change.item {
        Metadata::File(file) => file.path_display.clone(),
        Metadata::Folder(folder) => folder.path_display.clone(),
        Metadata::Deleted(deleted) => deleted.path_display.clone(),
    }
    .unwrap()
}

#[derive(Debug, Clone)]
struct Thing {
    id: String,
    /// Revision and content; none: a folder.
    content: Option<(u32, u32)>,
}

/// What stands at a path, as whoever is told of it knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::events) struct Node {
    pub id: String,
    /// None: a folder.
    pub hash: Option<String>,
}

/// Id of a folder that was told of by what it holds alone.
const IMPLIED: &str = "?";

pub(in crate::events) type Nodes = BTreeMap<String, Node>;

/// A Dropbox of its own: what is there, and which paths were touched when.
#[derive(Debug, Default)]
pub(in crate::events) struct Truth {
    nodes: BTreeMap<String, Thing>,
    touched: Vec<(u64, String)>,
    pub sequence: u64,
    ids: u32,
}

impl Truth {
    fn touch(&mut self, path: &str) {
        self.sequence += 1;
        self.touched.push((self.sequence, path.to_owned()));
    }

    fn under(&self, path: &str) -> Vec<String> {
        let prefix = format!("{path}/");
        self.nodes.keys().filter(|key| *key == path || key.starts_with(&prefix)).cloned().collect()
    }

    fn remove(&mut self, path: &str) -> Vec<(String, Thing)> {
        let paths = self.under(path);
        let removed: Vec<_> = paths.iter().map(|path| (path.clone(), self.nodes.remove(path).unwrap())).collect();
        for path in &paths {
            self.touch(path);
        }
        removed
    }

    /// One random thing somebody does.
    pub fn act(&mut self, dice: &mut StdRng) {
        let folders: Vec<String> = [String::new()]
            .into_iter()
            .chain(self.nodes.iter().filter(|(_, node)| node.content.is_none()).map(|(path, _)| path.clone()))
            .collect();
        let folder = &folders[dice.random_range(0..folders.len())];
        let name = ["a", "b", "c", "d"][dice.random_range(0..4)];
        let target = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
        let all: Vec<String> = self.nodes.keys().cloned().collect();
        let some = all.get(dice.random_range(0..all.len().max(1))).cloned();
        match dice.random_range(0..10) {
            0..=3 if !self.nodes.contains_key(&target) && target.matches('/').count() < 3 => {
                self.ids += 1;
                let content = dice.random_bool(0.6).then_some((self.ids, self.ids));
                self.nodes.insert(target.clone(), Thing { id: format!("i{}", self.ids), content });
                self.touch(&target);
            }
            4 => {
                if let Some(path) = some
                    && let Some((rev, hash)) = &mut self.nodes.get_mut(&path).unwrap().content
                {
                    self.ids += 1;
                    *rev = self.ids;
                    if dice.random_bool(0.7) {
                        *hash = self.ids;
                    }
                    self.touch(&path);
                }
            }
            5 => {
                if let Some(path) = some {
                    self.remove(&path);
                }
            }
            6..=9 => {
                let Some(path) = some else { return };
                if target == path || target.starts_with(&format!("{path}/")) || path.starts_with(&format!("{target}/"))
                {
                    return;
                }
                if self.nodes.contains_key(&target) {
                    self.remove(&target);
                }
                for (old, node) in self.remove(&path) {
                    let new = format!("{target}{}", &old[path.len()..]);
                    self.nodes.insert(new.clone(), node);
                    self.touch(&new);
                }
            }
            _ => {}
        }
    }

    /// What is there.
    pub fn nodes(&self) -> Nodes {
        self.nodes.keys().map(|path| (path.clone(), node_of(&self.show(path)))).collect()
    }

    fn show(&self, path: &str) -> Metadata {
        match self.nodes.get(path) {
            None => entry(&format!("-{path}")),
            Some(Thing { id, content: None }) => entry(&format!("{path}/ {id}")),
            Some(Thing { id, content: Some((rev, hash)) }) => entry(&format!("{path} {id} {rev} {hash:04}")),
        }
    }

    /// A page of what changed since `cursor`: each path once, as it is now, in any order. A deletion may stand for what lay
    /// beneath.
    pub fn delta(&self, cursor: u64, limit: usize, dice: &mut StdRng) -> (Vec<Metadata>, u64, bool) {
        let mut newest = BTreeMap::new();
        for (sequence, path) in self.touched.iter().filter(|(sequence, _)| *sequence > cursor) {
            newest.insert(path.as_str(), *sequence);
        }
        let mut changes: Vec<(u64, &str)> = newest.iter().map(|(path, sequence)| (*sequence, *path)).collect();
        changes.sort_unstable();
        let more = changes.len() > limit;
        changes.truncate(limit);
        let next = if more { changes.last().map_or(cursor, |(sequence, _)| *sequence) } else { self.sequence };
        if dice.random_bool(0.5) {
            let told = |path: &str| !self.nodes.contains_key(path) && newest.get(path).is_some_and(|at| *at <= next);
            let stood_for = |path: &str| path.match_indices('/').any(|(at, _)| told(&path[..at]));
            changes.retain(|(_, path)| self.nodes.contains_key(*path) || !stood_for(path));
        }
        if dice.random_bool(0.5) {
            changes.shuffle(dice);
        }
        (changes.iter().map(|(_, path)| self.show(path)).collect(), next, more)
    }
}

/// Somebody who applies what is told, step by step, to paths, and believes nothing that cannot be.
#[derive(Debug, Default)]
pub(in crate::events) struct Mirror {
    pub nodes: Nodes,
    /// Folders of this batch that were told of by what they hold alone.
    implied: BTreeSet<String>,
}

impl Mirror {
    pub fn apply(&mut self, change: &Change) {
        let path = place_of(&change.item);
        let node = || node_of(&change.item);
        if change.kind != ChangeKind::Deleted {
            // A drain that goes on while others write may tell of an item before its folder: that is made then.
            for (end, _) in path.match_indices('/') {
                let above = self.nodes.entry(path[..end].to_owned()).or_insert_with(|| {
                    self.implied.insert(path[..end].to_owned());
                    Node { id: IMPLIED.to_owned(), hash: None }
                });
                assert!(above.hash.is_none(), "no folder for {change:?}");
            }
        }
        match change.kind {
            ChangeKind::Created => {
                assert!(!self.nodes.values().any(|there| there.id == node().id), "it was known: {change:?}");
                assert!(!self.implied.contains(&path), "its own batch told what lies in it before: {change:?}");
                let there = self.nodes.insert(path, node());
                let implied = |there: Node| there.id == IMPLIED && node().hash.is_none();
                assert!(there.is_none_or(implied), "something stood there: {change:?}");
            }
            ChangeKind::Updated | ChangeKind::MetadataChanged => {
                let there = self.nodes.insert(path, node()).expect("it was there");
                // A folder may get another id by being shared.
                assert!(there.id == node().id || there.hash.is_none(), "{change:?}");
                let same = there.hash == node().hash;
                assert_eq!(same, change.kind == ChangeKind::MetadataChanged, "{change:?}");
            }
            ChangeKind::Deleted => {
                let there = self.nodes.get(&path).unwrap_or_else(|| panic!("it was not there: {change:?}"));
                assert!(there.id == IMPLIED || change.id.as_deref() == Some(there.id.as_str()), "{change:?}");
                self.remove(&path);
            }
            ChangeKind::Moved => {
                let from = below(&dbxcase::dbx_str_lowercase(change.previous_path.as_ref().unwrap()));
                assert_eq!(self.nodes.get(&from).map(|there| there.id.clone()), Some(node().id), "{change:?}");
                // A rename of case alone has one place.
                assert!(from == path || !self.nodes.contains_key(&path), "something stood there: {change:?}");
                // New content of a moved file is told right behind it.
                for (old, there) in self.remove(&from) {
                    self.nodes.insert(format!("{path}{}", &old[from.len()..]), there);
                }
            }
            ChangeKind::Upserted => panic!("not without RAW"),
        }
    }

    /// What Dropbox told at once is over: a folder of which it said nothing is told by the next.
    pub fn end_batch(&mut self) {
        self.implied.clear();
    }

    /// What stood there and beneath.
    fn remove(&mut self, path: &str) -> Vec<(String, Node)> {
        let prefix = format!("{path}/");
        self.nodes.extract_if(.., |key, _| key == path || key.starts_with(&prefix)).collect()
    }

    /// What was told without an index: it is so now, or is gone, with what Dropbox's rules make of that.
    pub fn put(&mut self, item: &Metadata) {
        let path = place_of(item);
        let folder = matches!(item, Metadata::Folder(_));
        let there = self.nodes.get(&path).map(|node| node.hash.is_none());
        if !(folder && there == Some(true)) {
            self.remove(&path);
        }
        if let Metadata::Deleted(_) = item {
            return;
        }
        let ends: Vec<usize> = path.match_indices('/').map(|(at, _)| at).collect();
        for end in ends {
            let above = path[..end].to_owned();
            if self.nodes.get(&above).is_none_or(|node| node.hash.is_some()) {
                self.nodes.insert(above, Node { id: IMPLIED.to_owned(), hash: None });
            }
        }
        self.nodes.insert(path, node_of(item));
    }
}

/// Path below the watched folder, in lower case.
pub(in crate::events) fn place_of(item: &Metadata) -> String {
    let path = match item {
        Metadata::File(file) => &file.path_lower,
        Metadata::Folder(folder) => &folder.path_lower,
        Metadata::Deleted(deleted) => &deleted.path_lower,
    };
    below(path.as_ref().unwrap())
}

pub(in crate::events) fn below(path: &str) -> String {
    path.strip_prefix("/w").unwrap().trim_start_matches('/').to_owned()
}

pub(in crate::events) fn node_of(item: &Metadata) -> Node {
    match item {
        Metadata::File(file) => Node { id: file.id.clone(), hash: file.content_hash.clone() },
        Metadata::Folder(folder) => Node { id: folder.id.clone(), hash: None },
        Metadata::Deleted(_) => panic!("{item:?}"),
    }
}
