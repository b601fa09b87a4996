//! All that a folder held which one entry of the log moves or deletes, told one by one to those who want that. It is read
//! from the index as it was before the entry, in portions, by whoever comes to the entry and when they do: the log holds the
//! one entry, whatever lay in the folder, and everybody reads the same of it for as long as the log has it.
//!
//! The order is that of the tree: names by their bytes, what a folder holds behind it. So the number of the row that was told
//! last is a place to go on from: what is above it says where in each folder.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

use dropbox_sdk::types::files::{self, Metadata};

use super::{
    change::{Before, Change, ChangeKind, Entry, ItemKind, Told},
    feed::Feed,
    scope::ResumePoint,
    seen::{FILE, FOLDER, how_shared, paths},
};
use crate::{
    apart::{Apart, apart},
    clock::{dropbox_time, from_unix_seconds},
    fault::{Fault, Result},
    limits::{EXPAND_PORTION, INDEX_DEPTH_MAX},
    store::IndexRow,
};

/// In unit tests so few that small trees come in several portions.
const PORTION: usize = if cfg!(test) { 3 } else { EXPAND_PORTION };

/// Portions of a scope that some watcher is at: others who come by share them.
pub(super) type Portions = tokio::sync::Mutex<Vec<Weak<Portion>>>;

/// Some of what a folder held.
#[derive(Debug)]
pub(super) struct Portion {
    epoch: i64,
    sequence: i64,
    /// The row it begins behind; None: with the entry itself.
    after: Option<i64>,
    entries: Vec<Arc<Entry>>,
    /// The row it ends with; 0: none was told yet.
    last: i64,
    is_last: bool,
    /// Where the next one begins.
    stack: Vec<Level>,
}

/// A folder on the way down.
#[derive(Debug)]
struct Level {
    folder: i64,
    /// The name that was visited last.
    after: String,
    /// From the folder that was moved or deleted to this one, with a `/` before each name.
    lower: String,
    display: String,
    rows: VecDeque<IndexRow>,
    /// Behind `rows` there is nothing.
    is_whole: bool,
}

impl Level {
    fn new(folder: i64, lower: String, display: String) -> Level {
        Level { folder, after: String::new(), lower, display, rows: VecDeque::new(), is_whole: false }
    }

    fn beneath(&self, row: &IndexRow) -> (String, String) {
        let name = row.display.as_deref().unwrap_or(&row.name);
        (format!("{}/{}", self.lower, row.name), format!("{}/{name}", self.display))
    }

    /// Without the rows that were read ahead.
    fn bare(&self) -> Level {
        Level { after: self.after.clone(), ..Level::new(self.folder, self.lower.clone(), self.display.clone()) }
    }
}

/// One watcher's way through what a folder held.
#[derive(Debug)]
pub(super) struct Expanding {
    entry: Arc<Entry>,
    after: Option<i64>,
    portion: Option<Arc<Portion>>,
    told: usize,
    /// Being read.
    reading: Option<Apart<Option<Arc<Portion>>>>,
}

impl Expanding {
    /// `after`: the row that was told last, 0 for the entry itself; None: nothing was told.
    pub(super) fn behind(entry: Arc<Entry>, after: Option<i64>) -> Expanding {
        Expanding { entry, after, portion: None, told: 0, reading: None }
    }

    /// The number of the entry.
    pub(super) fn sequence(&self) -> i64 {
        self.entry.point.sequence
    }

    /// The next to tell, as far as it was read.
    pub(super) fn next(&mut self) -> Option<Arc<Entry>> {
        let next = self.portion.as_ref()?.entries.get(self.told)?.clone();
        self.told += 1;
        Some(next)
    }

    /// Everything was told.
    pub(super) fn is_over(&self) -> bool {
        self.portion.as_ref().is_some_and(|portion| portion.is_last && self.told >= portion.entries.len())
    }

    /// Reads on; false: the log has swept the entry. Cancel-safe.
    pub(super) async fn read(&mut self, feed: &Arc<Feed>) -> Result<bool> {
        let (feed, entry, after, before) = (feed.clone(), self.entry.clone(), self.after, self.portion.clone());
        let reading = || apart(async move { feed.portion(&entry, after, before.as_deref()).await });
        let Some(portion) = Apart::once(&mut self.reading, reading).await? else { return Ok(false) };
        self.after = Some(portion.last);
        (self.portion, self.told) = (Some(portion), 0);
        Ok(true)
    }
}

impl Feed {
    /// What comes behind a row of a folder's entry, which `before` ends with if it is given; None: the log has swept it.
    async fn portion(
        &self,
        entry: &Arc<Entry>,
        after: Option<i64>,
        before: Option<&Portion>,
    ) -> Result<Option<Arc<Portion>>> {
        let Some(folder) = entry.folder() else { return Err(Fault::bug("an entry that is no folder's was expanded")) };
        let ResumePoint { epoch, sequence, .. } = entry.point;
        // One reads, the others find what it read.
        let mut portions = self.portions.lock().await;
        portions.retain(|portion| portion.strong_count() > 0);
        let asked = (epoch, sequence, after);
        let mut found = portions.iter().filter_map(Weak::upgrade);
        if let Some(found) = found.find(|portion| (portion.epoch, portion.sequence, portion.after) == asked) {
            return Ok(Some(found));
        }
        let stack = match (before, after) {
            (Some(before), _) => Some(before.stack.iter().map(Level::bare).collect()),
            (None, Some(row @ 1..)) => self.down_to(folder, row, sequence - 1).await?,
            (None, _) => Some(vec![Level::new(folder, String::new(), String::new())]),
        };
        let Some(mut stack) = stack else { return Ok(None) };
        let mut entries = Vec::new();
        if after.is_none() {
            let point = ResumePoint { within: Some(0), ..entry.point.clone() };
            entries.push(Arc::new(Entry::new(point, entry.observed, entry.told.clone(), true)));
        }
        let mut last = after.unwrap_or(0);
        while entries.len() < PORTION
            && let Some(level) = stack.last_mut()
        {
            if level.rows.is_empty() && !level.is_whole {
                let rows =
                    self.store.index_children_then(self.id()?, level.folder, sequence - 1, &level.after, PORTION);
                level.rows = rows.await?.into();
                level.is_whole = level.rows.len() < PORTION;
            }
            let Some(row) = level.rows.pop_front() else {
                stack.pop();
                continue;
            };
            level.after.clone_from(&row.name);
            let (lower, display) = level.beneath(&row);
            // A folder that Dropbox never named was never told.
            if row.id.is_some() {
                last = row.n;
                entries.push(Arc::new(child(entry, &row, &lower, &display)));
            }
            if row.kind == FOLDER {
                if stack.len() >= INDEX_DEPTH_MAX {
                    return Err(Fault::bug("an index is deeper than any path"));
                }
                stack.push(Level::new(row.n, lower, display));
            }
        }
        // Looked at after the rows: what is swept is marked as such before it goes.
        let there = self.store.log_head(self.id()?).await?;
        if !there.is_some_and(|(head, _)| head.epoch == epoch && head.swept < sequence) {
            return Ok(None);
        }
        let is_last = stack.is_empty();
        let stack = stack.iter().map(Level::bare).collect();
        let portion = Arc::new(Portion { epoch, sequence, after, entries, last, is_last, stack });
        portions.push(Arc::downgrade(&portion));
        Ok(Some(portion))
    }

    /// The way from a folder down to a row in it, as it was then; None: there was none, so what is asked for was swept.
    async fn down_to(&self, folder: i64, row: i64, then: i64) -> Result<Option<Vec<Level>>> {
        let mut way = Vec::new();
        let mut at = row;
        while at != folder {
            let found = self.store.index_row_then(self.id()?, at, then).await?;
            let Some(found) = found.filter(|_| way.len() < INDEX_DEPTH_MAX) else { return Ok(None) };
            at = found.parent;
            way.push(found);
        }
        let mut stack = vec![Level::new(folder, String::new(), String::new())];
        for row in way.into_iter().rev() {
            let Some(above) = stack.last_mut() else { break };
            above.after.clone_from(&row.name);
            let (lower, display) = above.beneath(&row);
            // The last one is a file perhaps: then there is nothing in it, and the next is its neighbour.
            if row.kind == FOLDER {
                stack.push(Level::new(row.n, lower, display));
            }
        }
        Ok(Some(stack))
    }
}

/// What the entry of a folder means for an item in it, which lay and lies at these places beneath it.
fn child(entry: &Entry, row: &IndexRow, lower: &str, display: &str) -> Entry {
    let point = ResumePoint { within: Some(row.n), ..entry.point.clone() };
    let told = entry.change().map(|folder| Told::Change(Box::new(change(folder, row, lower, display))));
    Entry::new(point, entry.observed, told.unwrap_or(Told::BatchEnd), true)
}

fn change(folder: &Change, row: &IndexRow, lower: &str, display: &str) -> Change {
    let (folder_lower, folder_display) = paths(&folder.item);
    let lower = format!("{}{lower}", folder_lower.unwrap_or_default());
    let previous_path = folder.previous_path.as_ref().map(|path| format!("{path}{display}"));
    let display = format!("{}{display}", folder_display.unwrap_or_default());
    // A file may have got another one by the move, and that is the one which is known.
    let rev = row.rev.clone().filter(|_| row.kind == FILE && folder.kind == ChangeKind::Deleted);
    Change {
        kind: folder.kind,
        basis: folder.basis,
        item_kind: if row.kind == FOLDER { ItemKind::Folder } else { ItemKind::File },
        item: item(folder.kind, row, lower, display),
        id: row.id.as_ref().map(|id| format!("id:{id}")),
        previous_path,
        previous_rev: rev,
        before: Before::of(row),
        folder: None,
    }
}

/// The item as far as the index knows it.
fn item(kind: ChangeKind, row: &IndexRow, lower: String, display: String) -> Metadata {
    let name = row.display.clone().unwrap_or_else(|| row.name.clone());
    if kind == ChangeKind::Deleted {
        let deleted = files::DeletedMetadata::new(name);
        return Metadata::Deleted(deleted.with_path_lower(lower).with_path_display(display));
    }
    let id = format!("id:{}", row.id.as_deref().unwrap_or_default());
    let Some(facts) = &row.facts else {
        let mut folder = files::FolderMetadata::new(name, id).with_path_lower(lower).with_path_display(display);
        folder.sharing_info = row.rev.as_deref().map(how_shared);
        return Metadata::Folder(folder);
    };
    let time = |seconds: i64| dropbox_time(from_unix_seconds(seconds));
    let (client, server) = (time(facts.client_modified), time(facts.server_modified));
    let rev = row.rev.clone().unwrap_or_default();
    let mut file = files::FileMetadata::new(name, id, client, server, rev, facts.size)
        .with_path_lower(lower)
        .with_path_display(display)
        .with_is_downloadable(facts.is_downloadable);
    file.content_hash.clone_from(&row.hash);
    Metadata::File(file)
}
