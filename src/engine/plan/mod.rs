//! A plan of what is to be done to bring two folders together: Dropbox's is held, the caller's passes by entry by entry. It
//! asks nobody and writes nothing. What it holds of a caller's files is a flag at what Dropbox has at their paths, and a key of
//! those that Dropbox does not have.

mod decide;
mod held;

use std::collections::HashMap;

pub use self::{
    decide::Policy,
    held::{File, Kind, Told, composed},
};
use self::{
    decide::{Base, Changed, Facts, Local, Side, decide},
    held::{DELETED_HERE, FILE_HERE, FOLDER_HERE, Held, Key, SAME_AS_BASE, above, key},
};
use crate::{
    api::v1::{SyncAction as Action, SyncReason as Why},
    fault::{Fault, Reason, Result},
    limits::PLAN_ITEMS_MAX,
};

/// A file that the caller has, or had.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Below the folder, without a leading `/`: in Dropbox's lower case and as it is written.
    pub lower: String,
    pub path: String,
    /// Which names of the path Dropbox does not take.
    pub bad_names: Vec<usize>,
    pub size: u64,
    pub hash: Option<[u8; 32]>,
    /// Unix seconds.
    pub modified: Option<i64>,
    /// Empty: it never was in sync.
    pub base_rev: String,
    pub base_hash: Option<[u8; 32]>,
    pub deleted: bool,
    /// The filter lets it pass.
    pub wanted: bool,
}

/// What is to be done with one file. What Dropbox has is asked for by its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    pub action: Action,
    pub why: Why,
    pub remote: Option<usize>,
}

/// What Dropbox has, while it is listed.
#[derive(Debug, Default)]
pub struct Listing(Held);

impl Listing {
    /// # Errors
    /// `FOLDER_TOO_LARGE`.
    pub fn tell(&mut self, told: &Told<'_>) -> Result<()> {
        if self.0.len() >= PLAN_ITEMS_MAX {
            return Err(too_large("this folder holds"));
        }
        self.0.tell(told)
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// All is told. Takes some 20 ms of a thread for 100,000 items.
    #[must_use]
    pub fn close(mut self) -> Listing {
        self.0.close();
        self
    }

    /// Files it holds.
    pub fn files(&self) -> usize {
        self.0.files()
    }
}

#[derive(Debug)]
pub struct Plan {
    policy: Policy,
    held: Held,
    /// What the caller has where Dropbox has nothing. True: a folder.
    here: HashMap<Key, bool>,
    /// Deleted entries that are written otherwise than at Dropbox, as they were sent.
    spelled: HashMap<usize, Box<str>>,
    spelled_bytes: usize,
    /// A file of the caller's lies where Dropbox has a folder.
    over_folders: bool,
    /// What the last entry's folders came to: most entries lie in the same as the one before.
    last: Option<(String, Folders)>,
}

/// What the folders of a path are.
#[derive(Debug, Clone, Copy)]
struct Folders {
    blocked: Option<Why>,
    /// So many of them are at Dropbox.
    known: usize,
}

impl Plan {
    pub fn new(policy: Policy, listing: Listing) -> Plan {
        Plan {
            policy,
            held: listing.0,
            here: HashMap::new(),
            spelled: HashMap::new(),
            spelled_bytes: 0,
            over_folders: false,
            last: None,
        }
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        // A table has eight places for seven, each with a byte of its own.
        let of_place = size_of::<(Key, bool)>() + 1;
        let here = self.here.capacity() * 8 / 7 * of_place;
        let spelled = self.spelled.capacity() * 8 / 7 * (size_of::<(usize, Box<str>)>() + 1);
        self.held.bytes() + here + spelled + self.spelled_bytes
    }

    /// What is to be done with a file of the caller's; `None`: that is for the end to say, when it is known whether another entry
    /// has its place.
    ///
    /// # Errors
    /// `FOLDER_TOO_LARGE`.
    pub fn step(&mut self, entry: &Entry) -> Result<Option<Step>> {
        let key = key(&entry.lower);
        let found = self.held.find(&key);
        let file = found.filter(|at| !self.held.is_folder(*at));
        if !entry.deleted {
            return self.there(entry, key, found).map(Some);
        }
        let settled = |why: Why| Ok(Some(Step { action: Action::None, why, remote: None }));
        if !entry.wanted {
            return settled(Why::Excluded);
        }
        let Some(at) = file else { return settled(Why::BothDeleted) };
        let same = if base(entry, Some(&self.held.file(at))) == Base::Same { SAME_AS_BASE } else { 0 };
        self.held.raise(at, DELETED_HERE | same);
        if entry.path != self.held.path(at) {
            self.spelled_bytes += entry.path.len();
            let before = self.spelled.insert(at, entry.path.as_str().into());
            self.spelled_bytes -= before.map_or(0, |before| before.len());
        }
        Ok(None)
    }

    fn there(&mut self, entry: &Entry, key: Key, found: Option<usize>) -> Result<Step> {
        let folders = self.folders(&entry.lower)?;
        let taken = self.claim(key, found, false)?;
        let remote = found.filter(|at| !self.held.is_folder(*at));
        let over_folder = found.is_some() && remote.is_none();
        self.over_folders |= over_folder;
        let step = |action: Action, why: Why| Ok(Step { action, why, remote });
        let file = remote.map(|at| self.held.file(at));
        if !entry.wanted || file.is_some_and(|file| !file.wanted) {
            return step(Action::None, Why::Excluded);
        }
        if taken.is_some() {
            return step(Action::Conflict, Why::LocalCollision);
        }
        if let Some(why) = folders.blocked.or(over_folder.then_some(Why::KindMismatch)) {
            return step(Action::Conflict, why);
        }
        let (action, why) = decide(&facts(entry, file.as_ref()), self.policy);
        let is_new = |name: &usize| *name >= folders.known;
        if action == Action::Upload && file.is_none() && entry.bad_names.iter().any(is_new) {
            return step(Action::Conflict, Why::DisallowedName);
        }
        step(action, why)
    }

    /// The folders that a file of the caller's lies in are folders here.
    fn folders(&mut self, lower: &str) -> Result<Folders> {
        let Some((parent, _)) = lower.rsplit_once('/') else { return Ok(Folders { blocked: None, known: 0 }) };
        if let Some((last, folders)) = &self.last
            && last == parent
        {
            return Ok(*folders);
        }
        let mut folders = Folders { blocked: None, known: 0 };
        for folder in above(lower) {
            let key = key(folder);
            let found = self.held.find(&key);
            if let Some(false) = self.claim(key, found, true)? {
                folders.blocked.get_or_insert(Why::LocalCollision);
            }
            match found {
                Some(at) if self.held.is_folder(at) => folders.known += 1,
                Some(_) => {
                    folders.blocked.get_or_insert(Why::KindMismatch);
                }
                None => {}
            }
        }
        self.last = Some((parent.to_owned(), folders));
        Ok(folders)
    }

    /// The caller has a file or a folder there. Answers what it had there before: a folder, or not.
    fn claim(&mut self, key: Key, found: Option<usize>, folder: bool) -> Result<Option<bool>> {
        let Some(at) = found else {
            if self.here.len() >= PLAN_ITEMS_MAX && !self.here.contains_key(&key) {
                return Err(too_large("you have, beside what is at Dropbox,"));
            }
            let before = self.here.get(&key).copied();
            self.here.entry(key).or_insert(folder);
            return Ok(before);
        };
        let flags = self.held.flags(at);
        let before = match (flags & FILE_HERE > 0, flags & FOLDER_HERE > 0) {
            (true, _) => Some(false),
            (false, folder) => folder.then_some(true),
        };
        if before.is_none() {
            self.held.raise(at, if folder { FOLDER_HERE } else { FILE_HERE });
        }
        Ok(before)
    }

    /// Files at Dropbox, in the order of the listing, for [`Plan::rest`] when every entry has passed by.
    pub fn files(&self) -> Vec<u32> {
        self.held.files_as_told()
    }

    /// What is to be done with a file that no entry spoke of, or a deleted one; `None`: an entry was answered for it, or the
    /// filter does not let it pass.
    pub fn rest(&self, at: usize) -> Option<Step> {
        let (file, flags) = (self.held.file(at), self.held.flags(at));
        let step = |action: Action, why: Why| Some(Step { action, why, remote: Some(at) });
        let deleted = flags & DELETED_HERE > 0;
        match (deleted, flags & FILE_HERE > 0) {
            (true, true) => return step(Action::None, Why::Replaced),
            (false, true) => return None,
            (true, false) if !file.wanted => return step(Action::None, Why::Excluded),
            (false, false) if !file.wanted => return None,
            _ => {}
        }
        if !deleted && (flags & FOLDER_HERE > 0 || self.lies_in_a_file(at)) {
            return step(Action::Conflict, Why::KindMismatch);
        }
        let facts = Facts {
            local: if deleted { Local::Deleted } else { Local::Absent },
            remote: true,
            equal: false,
            base: match (deleted, flags & SAME_AS_BASE > 0) {
                (false, _) => Base::None,
                (true, same) => {
                    if same {
                        Base::Same
                    } else {
                        Base::Other
                    }
                }
            },
            changed: Changed::Unknown,
            newer: None,
            larger: None,
            downloadable: file.downloadable,
        };
        let (action, why) = decide(&facts, self.policy);
        // It would be made where a file is.
        if action == Action::Download && deleted && (flags & FOLDER_HERE > 0 || self.lies_in_a_file(at)) {
            return step(Action::Conflict, Why::KindMismatch);
        }
        step(action, why)
    }

    /// The caller has a file where Dropbox has a folder above this one.
    fn lies_in_a_file(&self, at: usize) -> bool {
        if !self.over_folders {
            return false;
        }
        let lower = dbxcase::dbx_str_lowercase(self.held.path(at));
        above(&lower).any(|folder| self.held.find(&key(folder)).is_some_and(|at| self.held.flags(at) & FILE_HERE > 0))
    }

    pub fn file(&self, at: usize) -> File<'_> {
        self.held.file(at)
    }

    /// As Dropbox writes it.
    pub fn path(&self, at: usize) -> &str {
        self.held.path(at)
    }

    /// As the deleted entry was written, if that is otherwise.
    pub fn spelled(&self, at: usize) -> Option<&str> {
        self.spelled.get(&at).map(|spelled| &**spelled)
    }
}

fn too_large(whose: &str) -> Fault {
    let text = format!("{whose} more files and folders than one plan may: {PLAN_ITEMS_MAX}; plan folder by folder");
    Fault::new(Reason::FolderTooLarge, text)
        .fact("limit", "max_plan_items")
        .fact("limitItems", PLAN_ITEMS_MAX)
        .with_remedy("plan folder by folder, or with a filter whose globs leave files out")
}

fn facts(entry: &Entry, file: Option<&File<'_>>) -> Facts {
    let base = base(entry, file);
    let changed = match (entry.base_hash, entry.hash) {
        (Some(base), Some(now)) if base == now => Changed::No,
        (Some(_), Some(_)) => Changed::Yes,
        _ => Changed::Unknown,
    };
    let equal = file.is_some_and(|file| match (entry.hash, file.hash) {
        (Some(here), Some(there)) => here == there,
        // Dropbox gives no hash of some: they are equal as long as neither has changed.
        (Some(_), None) => entry.base_rev == file.rev && changed == Changed::No,
        (None, _) => entry.size == file.size && file.modified.is_some() && entry.modified == file.modified,
    });
    let more = |here: i128, there: i128| match here.cmp(&there) {
        std::cmp::Ordering::Greater => Some(Side::Local),
        std::cmp::Ordering::Less => Some(Side::Remote),
        std::cmp::Ordering::Equal => None,
    };
    Facts {
        local: Local::There,
        remote: file.is_some(),
        equal,
        base,
        changed,
        newer: entry
            .modified
            .zip(file.and_then(|file| file.modified))
            .and_then(|(here, there)| more(here.into(), there.into())),
        larger: file.and_then(|file| more(entry.size.into(), file.size.into())),
        downloadable: file.is_none_or(|file| file.downloadable),
    }
}

/// What Dropbox has, against what it had when this entry was last in sync.
fn base(entry: &Entry, file: Option<&File<'_>>) -> Base {
    let same = file
        .is_some_and(|file| entry.base_rev == file.rev || (entry.base_hash.is_some() && entry.base_hash == file.hash));
    match (entry.base_rev.is_empty(), same) {
        (true, _) => Base::None,
        (false, true) => Base::Same,
        (false, false) => Base::Other,
    }
}

#[cfg(test)]
mod tests;
