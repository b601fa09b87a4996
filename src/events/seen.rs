//! One entry of a delta as the index sees it: its place below the watched folder, and what of it is compared. Pure.

use std::collections::HashMap;

use dropbox_sdk::types::files::{self, Metadata};

use crate::{
    clock::{from_dropbox_time, unix_seconds},
    store::{Facts, WaitingRow},
};

pub(super) const FILE: i64 = 0;
pub(super) const FOLDER: i64 = 1;

/// Where the watched folder lies, in both cases: what is told has whole paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Base {
    pub(super) lower: String,
    /// As whoever watched it first wrote it: good until Dropbox has said how it is written.
    pub(super) display: String,
    /// Names of its path.
    depth: usize,
}

impl Base {
    pub(super) fn of(path: &str) -> Base {
        let lower = dbxcase::dbx_str_lowercase(path);
        Base { depth: lower.matches('/').count(), lower, display: path.to_owned() }
    }
}

/// In lower case, and as people wrote it.
pub(super) fn paths(item: &Metadata) -> (Option<&str>, Option<&str>) {
    let (lower, display) = match item {
        Metadata::File(file) => (&file.path_lower, &file.path_display),
        Metadata::Folder(folder) => (&folder.path_lower, &folder.path_display),
        Metadata::Deleted(deleted) => (&deleted.path_lower, &deleted.path_display),
    };
    (lower.as_deref(), display.as_deref())
}

/// One entry of a delta, as the tree sees it.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// In lower case, below the watched folder, `/` between names; empty for the folder itself.
    pub(super) path: String,
    pub(super) item: Metadata,
}

impl Seen {
    /// None for an item that is not mounted: it has no place in the tree.
    pub(super) fn of(item: Metadata, base: &Base) -> Option<Seen> {
        let lower = paths(&item).0?;
        let names: Vec<&str> = lower.split('/').skip(base.depth + 1).collect();
        Some(Seen { path: names.join("/"), item })
    }

    pub(super) fn id(&self) -> Option<&str> {
        match &self.item {
            Metadata::File(file) => Some(&file.id),
            Metadata::Folder(folder) => Some(&folder.id),
            Metadata::Deleted(_) => None,
        }
        .map(|id| id.strip_prefix("id:").unwrap_or(id))
    }

    pub(super) fn kind(&self) -> i64 {
        if matches!(self.item, Metadata::Folder(_)) { FOLDER } else { FILE }
    }

    pub(super) fn rev(&self) -> Option<String> {
        match &self.item {
            Metadata::File(file) => Some(file.rev.clone()),
            Metadata::Folder(folder) => shared(folder),
            Metadata::Deleted(_) => None,
        }
    }

    pub(super) fn hash(&self) -> Option<String> {
        let Metadata::File(file) = &self.item else { return None };
        file.content_hash.clone()
    }

    /// Size and times of a file.
    pub(super) fn facts(&self) -> Option<Facts> {
        let Metadata::File(file) = &self.item else { return None };
        let seconds = |text: &str| from_dropbox_time(text).map_or(0, unix_seconds);
        Some(Facts {
            size: file.size,
            server_modified: seconds(&file.server_modified),
            client_modified: seconds(&file.client_modified),
            is_downloadable: file.is_downloadable,
        })
    }

    /// How Dropbox writes the watched folder in this item's path; None: it is the root.
    pub(super) fn base_display(&self, base: &Base) -> Option<&str> {
        let display = paths(&self.item).1.filter(|_| base.depth > 0)?;
        let end = display.match_indices('/').nth(base.depth).map_or(display.len(), |(at, _)| at);
        let folder = &display[..end];
        (dbxcase::dbx_str_lowercase(folder) == base.lower).then_some(folder)
    }

    pub(super) fn name(&self) -> &str {
        match &self.item {
            Metadata::File(file) => &file.name,
            Metadata::Folder(folder) => &folder.name,
            Metadata::Deleted(deleted) => &deleted.name,
        }
    }

    /// Every folder above it that can be in the tree, and itself: `a`, `a/b`, `a/b/c`.
    pub(super) fn places(&self) -> impl Iterator<Item = &str> {
        let ends = self.path.match_indices('/').map(|(at, _)| at).chain([self.path.len()]);
        ends.filter(|end| *end > 0).map(|end| &self.path[..end])
    }

    pub(super) fn waiting(&self) -> WaitingRow {
        WaitingRow {
            path: self.path.clone(),
            id: self.id().map(str::to_owned),
            body: serde_json::to_string(&self.item).expect("metadata is JSON"),
        }
    }

    pub(super) fn from_waiting(row: &WaitingRow) -> Option<Seen> {
        Some(Seen { path: row.path.clone(), item: serde_json::from_str(&row.body).ok()? })
    }
}

/// An addition below another one of the page comes behind it, unless something above it is deleted in between.
pub(super) fn folders_first(entries: Vec<Seen>) -> Vec<Seen> {
    let is_gone = |seen: &Seen| matches!(seen.item, Metadata::Deleted(_));
    let here = entries.iter().enumerate().filter(|(_, seen)| !is_gone(seen));
    let added: HashMap<&str, usize> = here.map(|(at, seen)| (seen.path.as_str(), at)).collect();
    let deleted: Vec<usize> = entries.iter().enumerate().filter(|(_, seen)| is_gone(seen)).map(|(at, _)| at).collect();
    let mut order: Vec<usize> = Vec::with_capacity(entries.len());
    let mut taken = vec![false; entries.len()];
    for (at, seen) in entries.iter().enumerate() {
        if !is_gone(seen) {
            for place in seen.places() {
                let Some(above) = added.get(place).copied().filter(|above| *above > at && !taken[*above]) else {
                    continue;
                };
                let between = &deleted[deleted.partition_point(|gone| *gone < at)..];
                let mut between =
                    between.iter().take_while(|gone| **gone < above).map(|gone| entries[*gone].path.as_str());
                if !between.any(|gone| seen.places().any(|place| place == gone)) {
                    taken[above] = true;
                    order.push(above);
                }
            }
        }
        if !taken[at] {
            taken[at] = true;
            order.push(at);
        }
    }
    let mut entries: Vec<Option<Seen>> = entries.into_iter().map(Some).collect();
    order.into_iter().filter_map(|at| entries[at].take()).collect()
}

/// How a folder is shared, in one word; what a share above it does to it is left out: that is told of the folder above.
fn shared(folder: &files::FolderMetadata) -> Option<String> {
    let info = folder.sharing_info.as_ref()?;
    let id = info.shared_folder_id.as_deref().unwrap_or_default();
    let mut text = id.to_owned();
    for (set, letter) in [(info.read_only, 'r'), (info.traverse_only, 't'), (info.no_access, 'n')] {
        if set {
            text.push(letter);
        }
    }
    (!text.is_empty()).then_some(text)
}

/// The other way round: what is known of a folder by its word.
pub(super) fn how_shared(word: &str) -> files::FolderSharingInfo {
    let id = word.trim_end_matches(['r', 't', 'n']);
    let letters = &word[id.len()..];
    let mut info = files::FolderSharingInfo::new(letters.contains('r'))
        .with_traverse_only(letters.contains('t'))
        .with_no_access(letters.contains('n'));
    info.shared_folder_id = Some(id.to_owned()).filter(|id| !id.is_empty());
    info
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_folder_is_shared_is_read_back_from_its_word() {
        for (id, read_only, traverse_only, no_access) in
            [(Some("84528192421"), false, false, false), (Some("7"), true, false, true), (None, false, true, false)]
        {
            let mut info =
                files::FolderSharingInfo::new(read_only).with_traverse_only(traverse_only).with_no_access(no_access);
            info.shared_folder_id = id.map(str::to_owned);
            let folder = files::FolderMetadata::new("a".into(), "id:a".into()).with_sharing_info(info.clone());
            assert_eq!(how_shared(&shared(&folder).unwrap()), info);
        }
    }
}
