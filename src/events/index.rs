//! What a page of Dropbox's delta means. Dropbox says "is so now" and "is gone"; a tree of what was told before makes of it
//! created, updated, moved, deleted. Pure: it works on the rows that the page touches, and says what to tell and what to
//! write.
//!
//! The tree is always what was told. So that what is told can be applied one by one to any tree of paths, nothing is ever put
//! where something stands that has not left: such an addition waits. A deletion is not told before the drain is over, for the
//! item may turn up elsewhere (moved) or where it was (a folder that was shared is deleted and made again, with all in it).
//! "Gone" is a number: the stamp at which it was said. What lies at or beneath a gone row and was seen since is there; what
//! was not is deleted when the drain ends. The same mark and sweep compares a whole listing after a reset.

mod spelling;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use dropbox_sdk::types::files::{self, Metadata};

use super::{
    change::{Basis, Before, Change, ChangeKind, ItemKind},
    seen::{Base, FILE, FOLDER, Seen, folders_first},
};
use crate::store::{INDEX_ROOT, INDEX_TRASH, IndexRow, IndexWrites, PastRow, WaitingRow};

/// The part of the tree that was loaded, and what has been done to it.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    base: Base,
    basis: Basis,
    rows: HashMap<i64, IndexRow>,
    places: HashMap<(i64, String), i64>,
    ids: HashMap<String, i64>,
    waiting: BTreeMap<String, Option<WaitingRow>>,
    /// The next number of a row, and the next stamp.
    pub(super) next: i64,
    pub(super) stamp: i64,
    dirty: BTreeSet<i64>,
    writes: IndexWrites,
    told: Vec<Change>,
    /// The last entry of the log before this step; None: what is told goes into no log.
    log: Option<i64>,
    /// Additions wait in the store, perhaps beneath what this page touches.
    waits_stored: bool,
    /// The drain is over: what was not seen by now is not there.
    closing: bool,
    /// The watched folder was deleted.
    pub(super) lost: bool,
}

impl Tree {
    /// `next` and `stamp` as the last step left them; both begin at 0, and the tree then makes its root.
    pub(super) fn new(base: Base, basis: Basis, next: i64, stamp: i64) -> Tree {
        let mut tree = Tree {
            base,
            basis,
            rows: HashMap::new(),
            places: HashMap::new(),
            ids: HashMap::new(),
            waiting: BTreeMap::new(),
            next,
            stamp,
            dirty: BTreeSet::new(),
            writes: IndexWrites::default(),
            told: Vec::new(),
            log: None,
            waits_stored: false,
            closing: false,
            lost: false,
        };
        if tree.next == 0 {
            tree.next = INDEX_ROOT + 1;
            let stamp = tree.tick();
            tree.put(IndexRow::implied(INDEX_ROOT, 0, "", stamp, 0));
        }
        tree
    }

    /// What is told goes into the log behind this entry: rows are kept as they were before.
    pub(super) fn log_behind(&mut self, newest: i64) {
        self.log = Some(newest);
    }

    /// Rows from the store, each with all above it. What was told to be deleted is left out.
    pub(super) fn load(&mut self, rows: Vec<IndexRow>) {
        let parents: HashMap<i64, i64> = rows.iter().map(|row| (row.n, row.parent)).collect();
        for row in rows {
            let (mut at, mut steps) = (row.n, 0);
            while at > INDEX_ROOT && steps <= parents.len() + self.rows.len() {
                at = parents
                    .get(&at)
                    .copied()
                    .or_else(|| self.rows.get(&at).map(|row| row.parent))
                    .unwrap_or(INDEX_TRASH);
                steps += 1;
            }
            if at == INDEX_ROOT && !self.rows.contains_key(&row.n) {
                self.link(row);
            }
        }
    }

    /// To be called if anything waits; `paths` are those of the places that the page touches.
    pub(super) fn load_waiting(&mut self, paths: Vec<String>) {
        self.waits_stored = true;
        self.waiting.extend(paths.into_iter().map(|path| (path, None)));
    }

    pub(super) fn number_at(&self, parent: i64, name: &str) -> Option<i64> {
        self.places.get(&(parent, name.to_owned())).copied()
    }

    pub(super) fn knows(&self, n: i64) -> bool {
        self.rows.contains_key(&n)
    }

    pub(super) fn number_of(&self, id: &str) -> Option<i64> {
        self.ids.get(id).copied()
    }

    /// What is to be told and written; the tree goes on from there.
    pub(super) fn done(&mut self) -> (Vec<Change>, IndexWrites) {
        let mut writes = std::mem::take(&mut self.writes);
        writes.put = std::mem::take(&mut self.dirty).iter().filter_map(|n| self.rows.get(n).cloned()).collect();
        writes.wait = self.waiting.values_mut().filter_map(Option::take).collect();
        (std::mem::take(&mut self.told), writes)
    }

    // ---- a page ----

    /// Within a page a folder is taken before what lies in it; else entries count in their order.
    pub(super) fn page(&mut self, entries: Vec<Seen>) {
        self.spell_base(&entries);
        for seen in folders_first(entries) {
            if matches!(seen.item, Metadata::Deleted(_)) {
                self.gone(&seen.path);
                continue;
            }
            self.unwait_elsewhere(&seen);
            if !self.place(&seen) {
                self.wait(&seen);
            }
        }
    }

    /// Everything may be gone: what the listing that follows does not show is.
    pub(super) fn doubt_all(&mut self) {
        let stamp = self.tick();
        let now = self.tick();
        self.change(INDEX_ROOT, |root| (root.gone, root.stamp) = (Some(stamp), now));
    }

    fn gone(&mut self, path: &str) {
        if path.is_empty() {
            self.lost = true;
            return;
        }
        self.unwait(path, true);
        if let Some(n) = self.resolve(path) {
            let stamp = self.tick();
            self.change(n, |row| row.gone = Some(stamp));
        }
    }

    /// Puts an item where it belongs and tells what that means; false if something is in its way.
    fn place(&mut self, seen: &Seen) -> bool {
        let Some(id) = seen.id() else { return true };
        if seen.path.is_empty() {
            self.root(seen);
            return true;
        }
        let (parent_path, name) = seen.path.rsplit_once('/').unwrap_or(("", &seen.path));
        if seen.places().any(|place| place != seen.path && self.waiting.contains_key(place)) {
            return false;
        }
        let there = self.resolve(&seen.path);
        let known = self.ids.get(id).copied();
        if let (Some(there), Some(known)) = (there, known)
            && there == known
        {
            // A folder above it that was deleted may be made again under another id, and this is then in that one.
            if !self.closing && !self.is_settled(self.rows[&there].parent) {
                return false;
            }
            self.unwait(&seen.path, seen.kind() == FILE);
            self.stays(there, seen);
            return true;
        }
        let Some(parent) = self.resolve(parent_path) else { return false };
        let host = &self.rows[&parent];
        if host.kind != FOLDER || !self.is_settled(parent) {
            return false;
        }
        match (there, known) {
            (None, Some(known)) if self.is_at_or_under(parent, known) => return false,
            (None, Some(known)) => self.moves(known, parent, name, seen),
            (None, None) => self.appears(parent, name, seen),
            // A folder that was only implied so far.
            (Some(there), None) if self.rows[&there].id.is_none() && seen.kind() == FOLDER => {
                self.is_named(there, seen)
            }
            (Some(there), None) if self.is_that_folder(there, seen) => self.is_renumbered(there, seen),
            // The same folder as the one that was implied: what was told to be in it stays there.
            (Some(there), Some(known)) if self.takes_implied(there, known, seen) => {
                self.deletes(known);
                self.is_named(there, seen);
            }
            (Some(_), _) => return false,
        }
        self.unwait(&seen.path, seen.kind() == FILE);
        true
    }

    /// It is told when the drain ends, after what stands there has left.
    fn wait(&mut self, seen: &Seen) {
        self.unwait(&seen.path, seen.kind() == FILE);
        if let Some(there) = self.resolve(&seen.path)
            && self.rows[&there].id.as_deref() != seen.id()
            && self.is_settled(there)
        {
            let stamp = self.tick();
            self.change(there, |row| row.gone = Some(stamp));
        }
        self.waiting.insert(seen.path.clone(), Some(seen.waiting()));
    }

    fn root(&mut self, seen: &Seen) {
        let (id, rev, stamp) = (seen.id().map(str::to_owned), seen.rev(), self.tick());
        let root = self.rows[&INDEX_ROOT].clone();
        let reshared = root.id.is_some() && root.rev != rev;
        if reshared {
            self.tell(ChangeKind::MetadataChanged, INDEX_ROOT, seen, None);
        }
        let storm = reshared && root.gone.is_none();
        let display = seen.base_display(&self.base).map(str::to_owned).or(root.display);
        self.change(INDEX_ROOT, |root| {
            (root.id, root.rev, root.display, root.stamp) = (id, rev, display, stamp);
            if storm {
                root.gone = Some(-stamp);
            }
        });
    }

    fn appears(&mut self, parent: i64, name: &str, seen: &Seen) {
        let (n, stamp) = (self.next, self.tick());
        self.next += 1;
        self.put(IndexRow {
            n,
            parent,
            name: name.to_owned(),
            display: (seen.name() != name).then(|| seen.name().to_owned()),
            id: seen.id().map(str::to_owned),
            rev: seen.rev(),
            hash: seen.hash(),
            facts: seen.facts(),
            kind: seen.kind(),
            stamp,
            gone: None,
            since: self.coming(),
        });
        self.tell(ChangeKind::Created, n, seen, None);
    }

    fn is_named(&mut self, n: i64, seen: &Seen) {
        let (stamp, id, rev, name) = (self.tick(), seen.id().map(str::to_owned), seen.rev(), seen.name().to_owned());
        if let Some(id) = &id {
            self.ids.insert(id.clone(), n);
        }
        self.keep_past(n);
        self.change(n, |row| {
            row.display = (name != row.name).then_some(name);
            (row.id, row.rev, row.stamp) = (id, rev, stamp);
        });
        self.tell(ChangeKind::Created, n, seen, None);
    }

    /// Sharing a folder, or ending that, may give it another id: it keeps what is in it unless that is said to be gone
    /// (API-FACTS 5.2). Of one that is shared as before another id is another folder.
    fn is_that_folder(&self, n: i64, seen: &Seen) -> bool {
        let row = &self.rows[&n];
        seen.kind() == FOLDER && row.kind == FOLDER && row.rev != seen.rev()
    }

    fn takes_implied(&self, there: i64, known: i64, seen: &Seen) -> bool {
        let row = &self.rows[&there];
        let is_implied = row.id.is_none() && row.kind == FOLDER && self.is_settled(there);
        is_implied && seen.kind() == FOLDER && !self.is_at_or_under(there, known)
    }

    fn is_renumbered(&mut self, n: i64, seen: &Seen) {
        self.confirm(n);
        let (row, before) = (self.rows[&n].clone(), self.path_of(n));
        self.keep_past(n);
        if let Some(old) = row.id.as_ref().filter(|old| self.ids.get(*old) == Some(&n)) {
            self.ids.remove(old);
        }
        let (id, rev, stamp) = (seen.id().map(str::to_owned), seen.rev(), self.stamp);
        if let Some(id) = &id {
            self.ids.insert(id.clone(), n);
        }
        self.tell(ChangeKind::MetadataChanged, n, seen, Some((&row, None)));
        if seen.name() != row.display.as_deref().unwrap_or(&row.name) {
            self.tell(ChangeKind::Moved, n, seen, Some((&row, Some(before))));
        }
        self.change(n, |row| {
            (row.id, row.rev) = (id, rev);
            row.display = (seen.name() != row.name).then(|| seen.name().to_owned());
            if row.gone.is_none() {
                row.gone = Some(-stamp);
            }
        });
    }

    /// A row of this id stands elsewhere. What lies beneath a folder goes with it; what of that is not seen again by the end
    /// of the drain had been deleted before.
    fn moves(&mut self, n: i64, parent: i64, name: &str, seen: &Seen) {
        let before = self.path_of(n);
        let (swept, stamp) = (self.tick(), self.tick());
        let old = self.rows[&n].clone();
        self.keep_past(n);
        self.places.remove(&(old.parent, old.name.clone()));
        self.places.insert((parent, name.to_owned()), n);
        self.change(n, |row| {
            (row.parent, row.name, row.stamp) = (parent, name.to_owned(), stamp);
            row.display = (seen.name() != name).then(|| seen.name().to_owned());
            (row.rev, row.hash, row.facts) = (seen.rev(), seen.hash(), seen.facts());
            row.gone = (row.kind == FOLDER).then_some(swept);
        });
        let updated = seen.kind() == FILE && old.hash != seen.hash();
        self.tell(ChangeKind::Moved, n, seen, Some((&old, Some(before))));
        if updated {
            self.tell(ChangeKind::Updated, n, seen, Some((&old, None)));
        }
    }

    /// The row of this id stands where it stood.
    fn stays(&mut self, n: i64, seen: &Seen) {
        let was_settled = self.is_settled(n);
        let above = self.rows[&n].parent;
        // A share above it is told once, for the folder; so is a folder that was deleted and made again with all in it.
        let folded = self.is_stirred(above) || (!was_settled && seen.kind() == FILE);
        let row = self.rows[&n].clone();
        self.confirm(n);
        let renamed = seen.name() != row.display.as_deref().unwrap_or(&row.name);
        let (rev, hash) = (seen.rev(), seen.hash());
        let before = self.path_of(n);
        let touched = row.rev != rev;
        let is_file = seen.kind() == FILE;
        let updated = is_file && if hash.is_some() || row.hash.is_some() { hash != row.hash } else { touched };
        let is_said = updated || (is_file && renamed);
        let changed = touched && !folded && !is_said;
        if renamed || updated || changed {
            self.keep_past(n);
        }
        if renamed {
            self.tell(ChangeKind::Moved, n, seen, Some((&row, Some(before))));
        }
        if updated {
            self.tell(ChangeKind::Updated, n, seen, Some((&row, None)));
        }
        if changed {
            self.tell(ChangeKind::MetadataChanged, n, seen, Some((&row, None)));
        }
        let storm = changed && !is_file;
        if !touched && !renamed && hash == row.hash {
            return;
        }
        let stamp = self.stamp;
        self.change(n, |row| {
            row.display = (seen.name() != row.name).then(|| seen.name().to_owned());
            (row.rev, row.hash, row.facts) = (rev, hash, seen.facts());
            if storm && row.gone.is_none() {
                row.gone = Some(-stamp);
            }
        });
    }

    // ---- the end of a drain ----

    /// Additions that waited and whose items are known: told as moves wherever the way is free now. False if nothing moved.
    pub(super) fn settle_moves(&mut self, waits: &[WaitingRow]) -> bool {
        self.closing = true;
        let mut left: Vec<Seen> = waits.iter().filter_map(Seen::from_waiting).collect();
        let all = left.len();
        loop {
            let before = left.len();
            left.retain(|seen| !(seen.id().is_some_and(|id| self.ids.contains_key(id)) && self.place(seen)));
            if left.len() == before {
                return left.len() < all;
            }
        }
    }

    /// The rows that must not go yet: what waits would be lost with them.
    pub(super) fn needed(&self, waits: &[WaitingRow]) -> HashSet<i64> {
        let mut needed = HashSet::new();
        for source in waits.iter().filter_map(|wait| self.ids.get(wait.id.as_deref()?)) {
            let mut at = *source;
            while at >= INDEX_ROOT && needed.insert(at) {
                at = self.rows.get(&at).map_or(0, |row| row.parent);
            }
        }
        needed
    }

    /// Settles one row that was said to be gone: tells its deletion, or looks at its children if it was seen since. False
    /// while a row above it is to be settled first.
    pub(super) fn settle_gone(&mut self, n: i64) -> bool {
        let Some(row) = self.rows.get(&n).cloned() else { return true };
        let Some(gone) = row.gone else { return true };
        if !self.is_at_or_under(n, INDEX_ROOT) {
            // It went with what was above it.
            return true;
        }
        if gone < 0 {
            self.change(n, |row| row.gone = None);
            return true;
        }
        if row.stamp > gone && self.is_settled(n) {
            self.change(n, |row| row.gone = None);
            if row.kind == FOLDER {
                self.writes.sweep.push((n, gone));
                self.sweep_loaded(n, gone);
            }
            return true;
        }
        if !self.is_settled(row.parent) {
            return false;
        }
        self.deletes(n);
        true
    }

    /// Everything that was gone is settled: what still waits is put where it belongs, whatever stands there.
    pub(super) fn settle_rest(&mut self, waits: &[WaitingRow]) {
        self.closing = true;
        for seen in waits.iter().filter_map(Seen::from_waiting) {
            if self.place(&seen) {
                continue;
            }
            self.make_way(&seen);
            if !self.place(&seen) {
                // It was to go beneath itself, or stands where it has no place: it is told as new.
                if let Some(known) = seen.id().and_then(|id| self.ids.get(id).copied()) {
                    self.deletes(known);
                }
                self.make_way(&seen);
                self.place(&seen);
            }
            self.unwait(&seen.path, false);
        }
    }

    /// Deletes what stands at its place under another id, and makes the folders above it that are missing.
    fn make_way(&mut self, seen: &Seen) {
        let places: Vec<String> = seen.places().map(str::to_owned).collect();
        let mut parent = INDEX_ROOT;
        for place in &places {
            let name = place.rsplit_once('/').map_or(place.as_str(), |(_, name)| name);
            let there = self.places.get(&(parent, name.to_owned())).copied();
            if *place == seen.path {
                if let Some(there) = there.filter(|there| self.rows[there].id.as_deref() != seen.id()) {
                    self.deletes(there);
                }
                return;
            }
            let there = there.filter(|there| {
                let folder = self.rows[there].kind == FOLDER;
                if !folder {
                    self.deletes(*there);
                }
                folder
            });
            parent = match there {
                Some(there) => {
                    self.confirm(there);
                    there
                }
                None => {
                    let (n, stamp) = (self.next, self.tick());
                    self.next += 1;
                    self.put(IndexRow::implied(n, parent, name, stamp, self.coming()));
                    n
                }
            };
        }
    }

    /// Tells a deletion; the row and all beneath it wait to be removed.
    fn deletes(&mut self, n: i64) {
        let row = self.rows[&n].clone();
        let display = self.path_of(n);
        let name = row.display.clone().unwrap_or_else(|| row.name.clone());
        let item = files::DeletedMetadata::new(name).with_path_lower(self.lower_of(n)).with_path_display(display);
        self.keep_past(n);
        self.told.push(Change {
            kind: ChangeKind::Deleted,
            basis: self.basis,
            item_kind: if row.kind == FOLDER { ItemKind::Folder } else { ItemKind::File },
            item: Metadata::Deleted(item),
            id: row.id.as_ref().map(|id| format!("id:{id}")),
            previous_path: None,
            previous_rev: row.rev.clone().filter(|_| row.kind == FILE),
            before: Before::of(&row),
            folder: (row.kind == FOLDER).then_some(n),
        });
        self.places.remove(&(row.parent, row.name));
        self.change(n, |row| (row.parent, row.gone) = (INDEX_TRASH, None));
        let lost: Vec<i64> = match row.kind {
            FOLDER => self.rows.keys().copied().filter(|at| self.is_at_or_under(*at, n)).collect(),
            _ => vec![n],
        };
        for at in lost {
            let row = &self.rows[&at];
            if let Some(id) = &row.id
                && self.ids.get(id) == Some(&at)
            {
                self.ids.remove(id);
            }
            self.places.remove(&(row.parent, row.name.clone()));
        }
    }

    /// What the store does to the children, for those that are loaded.
    fn sweep_loaded(&mut self, parent: i64, gone: i64) {
        for row in self.rows.values_mut() {
            if row.parent == parent && (row.stamp < gone || row.kind == FOLDER) {
                row.gone = Some(row.gone.unwrap_or(0).max(gone));
            }
        }
    }

    // ---- the tree ----

    /// Nothing is said to be gone and nothing waits, as far as this page can tell.
    pub(super) fn is_settled_whole(&self) -> bool {
        !self.waits_stored && self.waiting.is_empty() && self.rows.values().all(|row| row.gone.is_none())
    }

    fn tick(&mut self) -> i64 {
        self.stamp += 1;
        self.stamp
    }

    fn put(&mut self, row: IndexRow) {
        self.dirty.insert(row.n);
        self.link(row);
    }

    fn link(&mut self, row: IndexRow) {
        self.places.insert((row.parent, row.name.clone()), row.n);
        if let Some(id) = &row.id {
            self.ids.insert(id.clone(), row.n);
        }
        self.rows.insert(row.n, row);
    }

    fn change(&mut self, n: i64, change: impl FnOnce(&mut IndexRow)) {
        if let Some(row) = self.rows.get_mut(&n) {
            change(row);
            self.dirty.insert(n);
        }
    }

    fn resolve(&self, path: &str) -> Option<i64> {
        if path.is_empty() {
            return Some(INDEX_ROOT);
        }
        let step = |at: i64, name: &str| self.places.get(&(at, name.to_owned())).copied();
        path.split('/').try_fold(INDEX_ROOT, step)
    }

    /// When it, or something above it, was last said to be gone; 0: never.
    fn gone_since(&self, n: i64) -> i64 {
        let (mut at, mut since) = (n, 0);
        while let Some(row) = self.rows.get(&at) {
            since = since.max(row.gone.unwrap_or(0));
            at = row.parent;
        }
        since
    }

    fn is_settled(&self, n: i64) -> bool {
        self.rows.get(&n).is_some_and(|row| row.stamp > self.gone_since(n))
    }

    /// It or something above it was deleted, moved or shared otherwise in this drain.
    fn is_stirred(&self, n: i64) -> bool {
        let mut at = n;
        while let Some(row) = self.rows.get(&at) {
            if row.gone.is_some() {
                return true;
            }
            at = row.parent;
        }
        false
    }

    fn is_at_or_under(&self, n: i64, top: i64) -> bool {
        let mut at = n;
        while at != top {
            match self.rows.get(&at) {
                Some(row) => at = row.parent,
                None => return false,
            }
        }
        true
    }

    /// It is there, and so is all above it.
    fn confirm(&mut self, n: i64) {
        let mut at = n;
        while self.rows.contains_key(&at) && !self.is_settled(at) {
            let stamp = self.tick();
            let file = self.rows[&at].kind == FILE;
            self.change(at, |row| {
                row.stamp = stamp;
                if file {
                    row.gone = None;
                }
            });
            at = self.rows[&at].parent;
        }
    }

    fn unwait(&mut self, path: &str, with_all_under: bool) {
        if !self.waiting.is_empty() {
            self.waiting.remove(path);
        }
        if !self.waiting.is_empty() && with_all_under {
            // `0` is the byte after `/`.
            let under = self.waiting.range(format!("{path}/")..format!("{path}0"));
            let under: Vec<String> = under.map(|(waiting, _)| waiting.clone()).collect();
            for waiting in under {
                self.waiting.remove(&waiting);
            }
        }
        if self.waits_stored {
            self.writes.unwait.push((path.to_owned(), with_all_under));
        }
    }

    /// What was moved while Dropbox told of it comes twice: its last place counts.
    fn unwait_elsewhere(&mut self, seen: &Seen) {
        if let Some(id) = seen.id().filter(|_| self.waits_stored) {
            self.writes.unwait_ids.push(id.to_owned());
        }
    }

    /// `old`: the row before, and of a move its path.
    fn tell(&mut self, kind: ChangeKind, n: i64, seen: &Seen, old: Option<(&IndexRow, Option<String>)>) {
        let is_folder = seen.kind() == FOLDER;
        let (row, previous_path) = old.map_or((None, None), |(row, path)| (Some(row), path));
        let file = row.filter(|_| !is_folder);
        self.told.push(Change {
            kind,
            basis: self.basis,
            item_kind: if is_folder { ItemKind::Folder } else { ItemKind::File },
            item: seen.item.clone(),
            id: seen.id().map(|id| format!("id:{id}")),
            previous_path,
            previous_rev: file.and_then(|row| row.rev.clone()),
            before: file.and_then(Before::of),
            folder: (is_folder && kind == ChangeKind::Moved).then_some(n),
        });
    }

    /// The number of the entry that is told next.
    fn coming(&self) -> i64 {
        self.log.map_or(0, |newest| newest + i64::try_from(self.told.len()).unwrap_or(0) + 1)
    }

    /// What is told next changes this row: those who are told older entries need it as it is now.
    fn keep_past(&mut self, n: i64) {
        let coming = self.coming();
        let Some(row) = self.rows.get_mut(&n).filter(|row| row.since < coming) else { return };
        self.writes.past.push(PastRow { row: row.clone(), until: coming });
        row.since = coming;
        self.dirty.insert(n);
    }
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
