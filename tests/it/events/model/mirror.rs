//! Somebody's own tree, changed by what is told, step by step. What is told with an index is believed only if it can be.

use std::{collections::BTreeMap, iter::Sum};

use super::super::pb;

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub id: String,
    /// None: a folder.
    pub hash: Option<String>,
}

/// Id of a folder that was told of by what it holds alone.
const IMPLIED: &str = "?";

/// What plays have come across.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Met {
    pub indexed: usize,
    pub inferred: usize,
    pub synthetic: usize,
    pub repeated: usize,
    pub resumed: usize,
    pub snapshots: usize,
    pub differences: usize,
    pub moved: usize,
}

impl Met {
    pub fn is_rich(&self) -> bool {
        let Met { indexed, inferred, synthetic, repeated, resumed, snapshots, differences, moved } = self;
        [indexed, inferred, synthetic, repeated, resumed, snapshots, differences, moved].iter().all(|met| **met > 0)
    }
}

impl Sum for Met {
    fn sum<I: Iterator<Item = Met>>(all: I) -> Met {
        all.fold(Met::default(), |sum, one| Met {
            indexed: sum.indexed + one.indexed,
            inferred: sum.inferred + one.inferred,
            synthetic: sum.synthetic + one.synthetic,
            repeated: sum.repeated + one.repeated,
            resumed: sum.resumed + one.resumed,
            snapshots: sum.snapshots + one.snapshots,
            differences: sum.differences + one.differences,
            moved: sum.moved + one.moved,
        })
    }
}

#[derive(Debug, Default)]
pub(super) struct Mirror {
    /// Of the watched folder, in lower case.
    base: String,
    pub nodes: BTreeMap<String, Node>,
    /// Epoch and number of the newest event.
    newest: (String, u64),
    pub met: Met,
}

type Judged = Result<(), String>;

impl Mirror {
    pub fn new(folder: &str) -> Mirror {
        Mirror { base: folder.to_lowercase(), ..Mirror::default() }
    }

    /// Whoever had no token begins with nothing.
    pub fn begin(&mut self) {
        self.nodes.clear();
    }

    pub fn items(&mut self, items: &[pb::Item]) {
        items.iter().for_each(|item| self.put(item));
    }

    /// # Errors
    /// What cannot be.
    pub fn change(&mut self, change: &pb::ChangeEvent) -> Judged {
        let item = change.item.as_ref().ok_or("no item")?;
        let (epoch, number) = change.event_id.split_once('-').ok_or("no event id")?;
        if epoch != "i" {
            let number: u64 = number.parse().map_err(|_| "an event id without a number")?;
            // What is told twice is known by its id.
            if self.newest.0 == epoch && number <= self.newest.1 {
                self.met.repeated += 1;
                return Ok(());
            }
            self.newest = (epoch.to_owned(), number);
        }
        match change.basis() {
            pb::EventBasis::Inferred => {
                self.met.inferred += 1;
                self.put(item);
                return Ok(());
            }
            pb::EventBasis::Index => self.met.indexed += 1,
            pb::EventBasis::Synthetic => self.met.synthetic += 1,
            pb::EventBasis::Unspecified => return Err("no basis".into()),
        }
        self.judged(change, item)
    }

    fn judged(&mut self, change: &pb::ChangeEvent, item: &pb::Item) -> Judged {
        let path = item.path_lower.clone();
        let there = self.nodes.get(&path).cloned();
        if change.change_type() != pb::EventType::Deleted {
            self.make_room(&path)?;
        }
        match change.change_type() {
            pb::EventType::Created => {
                let node = node_of(item)?;
                if let Some((known, _)) = self.nodes.iter().find(|(_, known)| known.id == node.id) {
                    return Err(format!("it is no new one: it was at {known}"));
                }
                match there {
                    // It was only implied so far.
                    Some(there) if there.id == IMPLIED && node.hash.is_none() => {}
                    Some(there) => return Err(format!("something stood there: {there:?}")),
                    None => {}
                }
                self.nodes.insert(path, node);
            }
            pb::EventType::Updated | pb::EventType::MetadataChanged => {
                let (node, there) = (node_of(item)?, there.ok_or("nothing stood there")?);
                if node.id != there.id {
                    return Err(format!("another one stood there: {there:?}"));
                }
                let updated = change.change_type() == pb::EventType::Updated;
                if (node.hash != there.hash) != updated {
                    return Err(format!("wrong in kind: {there:?} stood there"));
                }
                self.nodes.insert(path, node);
            }
            pb::EventType::Deleted => {
                let there = there.ok_or("nothing stood there")?;
                let Some(pb::item::Kind::Deleted(gone)) = &item.kind else { return Err("no deletion".into()) };
                let kind = if there.hash.is_some() { pb::ItemKind::File } else { pb::ItemKind::Folder };
                if gone.last_kind() != kind || (there.id != IMPLIED && gone.last_id != there.id) {
                    return Err(format!("another one stood there: {there:?}"));
                }
                self.remove(&path);
            }
            pb::EventType::Moved => self.moved(change, item)?,
            pb::EventType::Upserted | pb::EventType::Unspecified => return Err("no such type without RAW".into()),
        }
        Ok(())
    }

    fn moved(&mut self, change: &pb::ChangeEvent, item: &pb::Item) -> Judged {
        self.met.moved += 1;
        let (from, to, node) = (dbxcase::dbx_str_lowercase(&change.previous_path), &item.path_lower, node_of(item)?);
        let there = self.nodes.get(&from).ok_or("nothing stood where it was")?;
        if there.id != node.id || there.hash.is_some() != node.hash.is_some() {
            return Err(format!("another one stood where it was: {there:?}"));
        }
        if from == *to {
            // Written otherwise, by case alone.
            return Ok(());
        }
        if let Some(there) = self.nodes.get(to) {
            return Err(format!("something stood where it is: {there:?}"));
        }
        // New content of a moved file is told right behind it.
        for (path, node) in self.remove(&from) {
            self.nodes.insert(format!("{to}{}", &path[from.len()..]), node);
        }
        Ok(())
    }

    /// What stood at a path and beneath it.
    fn remove(&mut self, path: &str) -> Vec<(String, Node)> {
        let prefix = format!("{path}/");
        let is_in = |key: &String| key == path || key.starts_with(&prefix);
        self.nodes.extract_if(.., |key, _| is_in(key)).collect()
    }

    /// It is so now, or is gone: with what Dropbox's rules make of that.
    fn put(&mut self, item: &pb::Item) {
        let path = item.path_lower.clone();
        let node = node_of(item).ok();
        let stays = |there: &Node, node: &Node| there.hash.is_none() && node.hash.is_none();
        let kept = self.nodes.get(&path).zip(node.as_ref()).is_some_and(|(there, node)| stays(there, node));
        if !kept {
            self.remove(&path);
        }
        let Some(node) = node else { return };
        for above in self.above(&path) {
            if self.nodes.get(above).is_none_or(|there| there.hash.is_some()) {
                self.nodes.insert(above.to_owned(), Node { id: IMPLIED.into(), hash: None });
            }
        }
        self.nodes.insert(path, node);
    }

    /// Folders around it, within the watched one.
    fn above<'a>(&self, path: &'a str) -> impl Iterator<Item = &'a str> + use<'a> {
        let base = self.base.len();
        path.match_indices('/').map(|(end, _)| &path[..end]).filter(move |above| above.len() > base)
    }

    /// A drain that goes on while others write may tell of an item before its folder: that is made then, as Dropbox says.
    fn make_room(&mut self, path: &str) -> Judged {
        for above in self.above(path) {
            match self.nodes.get(above) {
                Some(Node { hash: None, .. }) => {}
                Some(there) => return Err(format!("no folder to put it into: {there:?}")),
                None => _ = self.nodes.insert(above.to_owned(), Node { id: IMPLIED.into(), hash: None }),
            }
        }
        Ok(())
    }
}

fn node_of(item: &pb::Item) -> Result<Node, String> {
    match &item.kind {
        Some(pb::item::Kind::File(file)) => Ok(Node { id: file.id.clone(), hash: Some(file.content_hash.clone()) }),
        Some(pb::item::Kind::Folder(folder)) => Ok(Node { id: folder.id.clone(), hash: None }),
        other => Err(format!("neither file nor folder: {other:?}")),
    }
}
