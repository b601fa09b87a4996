//! How much a caller is given at once: as much as it takes in a fraction of the time after which it counts as gone. What a
//! caller has in hand nobody sees, so one that takes half a minute for a chunk looks as if it had stopped reading.

use std::time::Duration;

use crate::limits::{DOWNLOAD_CHUNK_DEFAULT, DOWNLOAD_CHUNK_MIN};

/// So much is worth a chunk more.
const FIRST_FROM: usize = 4 * DOWNLOAD_CHUNK_MIN;
/// A chunk that takes a longer part of the patience is too large.
const LARGE: u32 = 4;
/// One that takes a shorter part may be twice as large.
const SMALL: u32 = 16;

/// The size of the next chunk.
#[derive(Debug)]
pub(super) struct Chunks {
    /// What the caller asked for.
    max: usize,
    size: usize,
    /// A caller that takes longer counts as gone.
    idle: Duration,
    given: usize,
    /// When the last one was given, until the caller comes again.
    given_at: Option<Duration>,
}

impl Chunks {
    pub(super) fn new(max: usize, idle: Duration) -> Chunks {
        Chunks { max, size: max.min(DOWNLOAD_CHUNK_DEFAULT), idle, given: 0, given_at: None }
    }

    /// Bytes of the next one, where so many are there. The first is small, for its caller waits for all of a chunk: to be
    /// hashed, sent and read.
    pub(super) fn next(&self, there: usize) -> usize {
        let is_first = self.given == 0 && there > FIRST_FROM;
        let most = if is_first { DOWNLOAD_CHUNK_MIN.min(self.max) } else { self.size };
        most.min(there)
    }

    /// Bytes of the last one.
    pub(super) fn given(&self) -> usize {
        self.given
    }

    pub(super) fn give(&mut self, bytes: usize, now: Duration) {
        (self.given, self.given_at) = (bytes, Some(now));
    }

    /// The caller has taken the last one.
    pub(super) fn taken(&mut self, now: Duration) {
        let Some(given_at) = self.given_at.take() else { return };
        let span = now.saturating_sub(given_at);
        if span > self.idle / LARGE {
            self.size = (self.given / 2).clamp(DOWNLOAD_CHUNK_MIN, self.max.max(DOWNLOAD_CHUNK_MIN));
        } else if span < self.idle / SMALL {
            self.size = (self.given * 2).max(self.size).min(self.max);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_what_its_caller_takes_in_a_quarter_of_the_patience() {
        const MAX: usize = 2 * 1024 * 1024;
        let idle = Duration::from_secs(30);
        // A caller of 20 KB/s, by what has left the process before it.
        let mut chunks = Chunks::new(MAX, idle);
        let mut now = Duration::ZERO;
        let mut taken_in = |chunks: &mut Chunks, rate: usize| {
            let size = chunks.next(usize::MAX);
            chunks.give(size, now);
            let span = Duration::from_secs_f64(size as f64 / rate as f64);
            now += span;
            chunks.taken(now);
            span
        };
        for _ in 0..8 {
            assert!(taken_in(&mut chunks, 20_000) < idle / 2, "a slow one never looks as if it had gone");
        }
        assert!(chunks.next(MAX) < 160_000);
        for _ in 0..8 {
            taken_in(&mut chunks, 100_000_000);
        }
        assert_eq!(chunks.next(MAX), MAX, "a fast one gets what it asked for");
        taken_in(&mut chunks, 1000);
        taken_in(&mut chunks, 1);
        for _ in 0..20 {
            taken_in(&mut chunks, 1);
        }
        assert_eq!(chunks.next(MAX), DOWNLOAD_CHUNK_MIN);
    }

    #[test]
    fn the_first_chunk_is_small_where_much_is_there_and_no_larger_than_was_asked_for() {
        let mut chunks = Chunks::new(DOWNLOAD_CHUNK_DEFAULT, Duration::from_secs(30));
        assert_eq!((chunks.next(1000), chunks.next(FIRST_FROM)), (1000, FIRST_FROM));
        assert_eq!(chunks.next(FIRST_FROM + 1), DOWNLOAD_CHUNK_MIN);
        assert_eq!(Chunks::new(1000, Duration::from_secs(30)).next(usize::MAX), 1000);
        chunks.give(DOWNLOAD_CHUNK_MIN, Duration::ZERO);
        assert_eq!(chunks.next(usize::MAX), DOWNLOAD_CHUNK_DEFAULT, "as if it had not been");
    }
}
