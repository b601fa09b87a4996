//! The newest entries of a log in memory: what most watchers wait for. All tails of a process together are bounded, too.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{
    events::change::{Change, Entry},
    limits::{EVENT_TAIL_BYTES, EVENT_TAIL_ENTRIES, EVENT_TAILS_BYTES},
};

pub(super) struct Tail {
    entries: VecDeque<(Arc<Entry>, usize)>,
    bytes: usize,
    /// Bytes of all tails of the process.
    all: Arc<AtomicUsize>,
    /// What was read last, and behind which place: most watchers are at the same one.
    read: Option<(i64, Arc<[Arc<Entry>]>)>,
}

impl Tail {
    pub fn new(all: Arc<AtomicUsize>) -> Tail {
        Tail { entries: VecDeque::new(), bytes: 0, all, read: None }
    }

    /// Entries with their lengths as JSON. Those that do not follow what is here take its place.
    pub fn keep(&mut self, entries: Vec<(Arc<Entry>, usize)>) {
        self.read = None;
        for (entry, bytes) in entries {
            let bytes = weight(bytes);
            let follows = self.entries.back().is_none_or(|(last, _)| {
                (last.point.epoch, last.point.sequence + 1) == (entry.point.epoch, entry.point.sequence)
            });
            if !follows {
                self.all.fetch_sub(std::mem::take(&mut self.bytes), Ordering::Relaxed);
                self.entries.clear();
            }
            self.bytes += bytes;
            let all = self.all.fetch_add(bytes, Ordering::Relaxed) + bytes;
            self.entries.push_back((entry, bytes));
            // A full process keeps one entry of each scope, which is what most watchers wait for.
            while self.entries.len() > 1
                && (self.entries.len() > EVENT_TAIL_ENTRIES || self.bytes > EVENT_TAIL_BYTES || all > EVENT_TAILS_BYTES)
            {
                if let Some((_, bytes)) = self.entries.pop_front() {
                    self.bytes -= bytes;
                    self.all.fetch_sub(bytes, Ordering::Relaxed);
                }
            }
        }
    }

    /// What is behind a sequence, if anything is and its first is here.
    pub fn behind(&mut self, epoch: i64, sequence: i64) -> Option<Arc<[Arc<Entry>]>> {
        let first = &self.entries.front()?.0.point;
        if first.epoch != epoch || first.sequence > sequence + 1 {
            return None;
        }
        if let Some((behind, entries)) = &self.read
            && *behind == sequence
        {
            return Some(entries.clone());
        }
        let skip = usize::try_from(sequence + 1 - first.sequence).unwrap_or(usize::MAX);
        let entries: Arc<[_]> = self.entries.iter().skip(skip).map(|(entry, _)| entry.clone()).collect();
        if entries.is_empty() {
            return None;
        }
        self.read = Some((sequence, entries.clone()));
        Some(entries)
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What an entry takes in memory: itself, and of the length it has as JSON at most its texts, its token and its wire bytes.
pub(super) fn weight(body_bytes: usize) -> usize {
    size_of::<Entry>() + size_of::<Change>() + 3 * body_bytes
}

/// Its length as JSON.
pub(super) fn written(value: &impl serde::Serialize) -> usize {
    let mut length = Length(0);
    serde_json::to_writer(&mut length, value).map_or(0, |()| length.0)
}

/// Counts what is written, and keeps none of it.
struct Length(usize);

impl std::io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
