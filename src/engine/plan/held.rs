//! What a plan holds of Dropbox's folder: a record of 72 bytes for each file and folder, and its path and rev as text in
//! chunks. With paths of 63 bytes and revs of 23 that is 159 bytes a file at 100,000 files, 181 while they are listed
//! (`what_a_plan_holds_is_measured`); a process grew by 15 MB for each further plan of 99,000 files that stood open, and shrank
//! when they ended. Entries may be told again, or be taken back, while a folder is listed: what was told last
//! holds once the listing is closed.

use std::{borrow::Cow, cmp::Ordering, collections::HashMap};

use sha2::{Digest as _, Sha256};
use unicode_normalization::{IsNormalized, UnicodeNormalization as _, is_nfc_quick};

use crate::fault::{Fault, Reason, Result};

const CHUNK_BYTES: usize = 64 * 1024;

/// Of a path below the folder, in Dropbox's lower case. 128 bits of SHA-256: nobody finds two paths of one key.
pub(super) type Key = [u8; 16];

/// A letter and its accent are one path's whether they are written as one character or as two: disks differ in that, and Dropbox may
/// give back another form than it was sent. This is the form to compare.
pub fn composed(text: &str) -> Cow<'_, str> {
    match is_nfc_quick(text.chars()) {
        IsNormalized::Yes => text.into(),
        IsNormalized::No | IsNormalized::Maybe => text.nfc().collect(),
    }
}

pub(super) fn key(lower: &str) -> Key {
    let hash = Sha256::digest(composed(lower).as_bytes());
    let mut key = Key::default();
    key.copy_from_slice(&hash[..16]);
    key
}

/// An entry of a listing.
#[derive(Debug, Clone, Copy)]
pub struct Told<'a> {
    /// Below the folder, without a leading `/`: in Dropbox's lower case and as it is written.
    pub lower: &'a str,
    pub path: &'a str,
    pub kind: Kind<'a>,
}

#[derive(Debug, Clone, Copy)]
pub enum Kind<'a> {
    File(File<'a>),
    Folder,
    /// With all it held.
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct File<'a> {
    pub rev: &'a str,
    pub size: u64,
    pub hash: Option<[u8; 32]>,
    /// Unix seconds; `None`: Dropbox told none that can be read.
    pub modified: Option<i64>,
    pub downloadable: bool,
    /// The filter lets it pass.
    pub wanted: bool,
}

/// In a record, for `None`.
const NO_TIME: i64 = i64::MIN;

#[derive(Debug, Clone, Copy)]
struct Record {
    key: Key,
    hash: [u8; 32],
    size: u64,
    modified: i64,
    /// Of what was told later it is larger.
    text: u32,
    path_bytes: u16,
    rev_bytes: u8,
    flags: u8,
}

/// What is told of a record.
const FOLDER: u8 = 1;
const HASHED: u8 = 2;
const DOWNLOADABLE: u8 = 4;
const WANTED: u8 = 8;
/// What the caller has at its path.
pub(super) const FILE_HERE: u8 = 16;
pub(super) const FOLDER_HERE: u8 = 32;
pub(super) const DELETED_HERE: u8 = 64;
/// With `DELETED_HERE`: Dropbox's file is the one that was deleted here.
pub(super) const SAME_AS_BASE: u8 = 128;

#[derive(Debug, Default)]
pub(super) struct Held {
    /// In the order of their keys once the listing is closed.
    records: Vec<Record>,
    texts: Vec<Vec<u8>>,
    /// Paths in lower case that were taken back, and when.
    gone: HashMap<String, u32>,
    files: usize,
}

impl Held {
    pub(super) fn len(&self) -> usize {
        self.records.len() + self.gone.len()
    }

    /// Files that the listing told.
    pub(super) fn files(&self) -> usize {
        self.files
    }

    pub(super) fn bytes(&self) -> usize {
        let gone: usize = self.gone.keys().map(|path| path.len() + 64).sum();
        self.records.capacity() * size_of::<Record>() + self.texts.len() * CHUNK_BYTES + gone
    }

    /// # Errors
    /// `DROPBOX_PROTOCOL` for a path of over 60 KiB.
    pub(super) fn tell(&mut self, told: &Told<'_>) -> Result<()> {
        let (rev, flags) = match &told.kind {
            Kind::Gone => {
                let at = self.write(&[])?;
                self.gone.insert(told.lower.to_owned(), at);
                return Ok(());
            }
            Kind::Folder => ("", FOLDER),
            Kind::File(file) => {
                let flag = |on: bool, flag: u8| if on { flag } else { 0 };
                let flags = flag(file.hash.is_some(), HASHED) | flag(file.downloadable, DOWNLOADABLE);
                (file.rev, flags | flag(file.wanted, WANTED))
            }
        };
        let too_long = || Fault::new(Reason::DropboxProtocol, "Dropbox told a path or rev that is too long");
        let text = self.write(&[told.path.as_bytes(), rev.as_bytes()])?;
        let mut record = Record {
            key: key(told.lower),
            hash: [0; 32],
            size: 0,
            modified: 0,
            text,
            path_bytes: u16::try_from(told.path.len()).map_err(|_| too_long())?,
            rev_bytes: u8::try_from(rev.len()).map_err(|_| too_long())?,
            flags,
        };
        if let Kind::File(file) = &told.kind {
            (record.hash, record.size) = (file.hash.unwrap_or_default(), file.size);
            record.modified = file.modified.unwrap_or(NO_TIME);
        }
        self.records.push(record);
        Ok(())
    }

    /// Puts text at the end, in one chunk; each place is behind all before it.
    fn write(&mut self, parts: &[&[u8]]) -> Result<u32> {
        // One byte more, so that no two have one place.
        let bytes = 1 + parts.iter().map(|part| part.len()).sum::<usize>();
        if bytes > CHUNK_BYTES {
            return Err(Fault::new(Reason::DropboxProtocol, "Dropbox told a path that is too long"));
        }
        if self.texts.last().is_none_or(|chunk| chunk.len() + bytes > CHUNK_BYTES) {
            self.texts.push(Vec::with_capacity(CHUNK_BYTES));
        }
        let chunks = self.texts.len();
        let Some(chunk) = self.texts.last_mut() else { return Err(Fault::bug("a chunk was made and is not there")) };
        let at = (chunks - 1) * CHUNK_BYTES + chunk.len();
        parts.iter().for_each(|part| chunk.extend_from_slice(part));
        chunk.push(0);
        u32::try_from(at).map_err(|_| Fault::bug("a plan holds more text than its limit allows"))
    }

    /// The listing is over: of what was told of one path the last holds, and nothing lies beneath what is no folder any more.
    pub(super) fn close(&mut self) {
        let by_key = |a: &Record, b: &Record| a.key.cmp(&b.key).then(a.text.cmp(&b.text));
        self.records.sort_unstable_by(by_key);
        let mut gone = std::mem::take(&mut self.gone);
        for pair in self.records.windows(2) {
            // A file where a folder was.
            if pair[0].key == pair[1].key && pair[0].flags & FOLDER > 0 && pair[1].flags & FOLDER == 0 {
                let at = gone.entry(dbxcase::dbx_str_lowercase(self.path_of(&pair[1]))).or_default();
                *at = pair[1].text.max(*at);
            }
        }
        // Of equal keys the last one: from the end it is the first.
        self.records.reverse();
        self.records.dedup_by_key(|record| record.key);
        self.records.reverse();
        if !gone.is_empty() {
            let mut records = std::mem::take(&mut self.records);
            records.retain(|record| {
                let lower = dbxcase::dbx_str_lowercase(self.path_of(record));
                !above(&lower).chain([lower.as_str()]).any(|path| gone.get(path).is_some_and(|at| *at > record.text))
            });
            self.records = records;
        }
        self.records.shrink_to_fit();
        self.files = self.records.iter().filter(|record| record.flags & FOLDER == 0).count();
    }

    pub(super) fn find(&self, key: &Key) -> Option<usize> {
        self.records.binary_search_by(|record| record.key.cmp(key)).ok()
    }

    pub(super) fn is_folder(&self, at: usize) -> bool {
        self.records[at].flags & FOLDER > 0
    }

    pub(super) fn flags(&self, at: usize) -> u8 {
        self.records[at].flags
    }

    pub(super) fn raise(&mut self, at: usize, flags: u8) {
        self.records[at].flags |= flags;
    }

    /// As Dropbox writes it.
    pub(super) fn path(&self, at: usize) -> &str {
        self.path_of(&self.records[at])
    }

    pub(super) fn file(&self, at: usize) -> File<'_> {
        let record = &self.records[at];
        let rev = usize::from(record.path_bytes)..usize::from(record.path_bytes) + usize::from(record.rev_bytes);
        File {
            rev: std::str::from_utf8(&self.text(record)[rev]).unwrap_or_default(),
            size: record.size,
            hash: (record.flags & HASHED > 0).then_some(record.hash),
            modified: (record.modified != NO_TIME).then_some(record.modified),
            downloadable: record.flags & DOWNLOADABLE > 0,
            wanted: record.flags & WANTED > 0,
        }
    }

    fn path_of(&self, record: &Record) -> &str {
        std::str::from_utf8(&self.text(record)[..usize::from(record.path_bytes)]).unwrap_or_default()
    }

    fn text(&self, record: &Record) -> &[u8] {
        let at = record.text as usize;
        &self.texts[at / CHUNK_BYTES][at % CHUNK_BYTES..]
    }

    /// Files, in the order in which they were told.
    pub(super) fn files_as_told(&self) -> Vec<u32> {
        let files = (0u32..).zip(&self.records).filter(|(_, record)| record.flags & FOLDER == 0);
        let mut files: Vec<u32> = files.map(|(at, _)| at).collect();
        let text = |at: &u32| self.records[*at as usize].text;
        files.sort_unstable_by(|a, b| -> Ordering { text(a).cmp(&text(b)) });
        files
    }
}

/// The folders above a path, the outermost first.
pub(super) fn above(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn file(rev: &str) -> Kind<'_> {
        let hash = Some(Sha256::digest(rev).into());
        Kind::File(File { rev, size: 7, hash, modified: Some(1_767_323_045), downloadable: true, wanted: true })
    }

    pub fn held(told: &[(&str, Kind<'_>)]) -> Held {
        let mut held = Held::default();
        for (path, kind) in told {
            held.tell(&Told { lower: &dbxcase::dbx_str_lowercase(path), path, kind: *kind }).unwrap();
        }
        held.close();
        held
    }

    fn listed(held: &Held) -> Vec<(&str, &str)> {
        let files = held.files_as_told().into_iter().map(|at| at as usize);
        files.map(|at| (held.path(at), held.file(at).rev)).collect()
    }

    #[test]
    fn what_was_told_is_found_by_its_path_in_lower_case() {
        let told = [("B", Kind::Folder), ("B/Ü.txt", file("0123456789a")), ("a", file("0123456789b"))];
        let held = held(&told);
        assert_eq!(listed(&held), [("B/Ü.txt", "0123456789a"), ("a", "0123456789b")]);
        let at = held.find(&key("b/ü.txt")).unwrap();
        let Kind::File(wanted) = file("0123456789a") else { panic!("a file") };
        assert_eq!((held.path(at), held.file(at), held.is_folder(at)), ("B/Ü.txt", wanted, false));
        assert!(held.is_folder(held.find(&key("b")).unwrap()));
        assert_eq!(held.find(&key("B/Ü.txt")), None);
        assert_eq!(held.files(), 2);
    }

    #[test]
    fn what_is_told_again_or_taken_back_while_the_folder_is_listed_is_as_it_was_last() {
        let told = [
            ("a", file("0000000001")),
            ("d", Kind::Folder),
            ("d/x", file("0000000002")),
            ("e", Kind::Folder),
            ("e/y", file("0000000003")),
            ("A", file("0000000004")),
            ("d", Kind::Gone),
            ("d", Kind::Folder),
            ("d/z", file("0000000005")),
            ("e", file("0000000006")),
            ("f", file("0000000007")),
            ("F", Kind::Gone),
            ("g", Kind::Folder),
            ("g", file("0000000008")),
            ("g", Kind::Gone),
        ];
        let held = held(&told);
        let wanted = [("A", "0000000004"), ("d/z", "0000000005"), ("e", "0000000006")];
        assert_eq!(listed(&held), wanted);
    }

    #[test]
    fn a_path_that_fits_nowhere_is_no_panic() {
        let long = "x".repeat(CHUNK_BYTES);
        let mut held = Held::default();
        let fault = held.tell(&Told { lower: &long, path: &long, kind: Kind::Folder }).unwrap_err();
        assert_eq!(fault.reason(), Reason::DropboxProtocol);
    }

    #[test]
    fn what_a_plan_holds_is_measured() {
        let mut held = Held::default();
        const FILES: usize = 100_000;
        for n in 0..FILES {
            let path = format!("Projects/2026/customer {:04}/drawings and plans/sheet {n:06}.pdf", n / 100);
            assert_eq!(path.len(), 63);
            let kind = file("0162f3c4d5e6a000000000b");
            held.tell(&Told { lower: &path, path: &path, kind }).unwrap();
        }
        let listing = held.bytes() / FILES;
        held.close();
        let closed = held.bytes() / FILES;
        assert_eq!((listing, closed, size_of::<Record>()), (181, 159, 72));
    }
}
