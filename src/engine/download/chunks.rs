//! How much a caller is given at once: as much as it takes in a fraction of the time after which it counts as gone. What a
//! caller has in hand nobody sees, so one that takes half a minute for a chunk looks as if it had stopped reading.

use std::time::Duration;

use crate::limits::{DOWNLOAD_CHUNK_DEFAULT, DOWNLOAD_CHUNK_MIN};

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

    pub(super) fn size(&self) -> usize {
        self.size
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
            self.size = (self.size * 2).min(self.max);
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
            chunks.give(chunks.size(), now);
            let span = Duration::from_secs_f64(chunks.size() as f64 / rate as f64);
            now += span;
            chunks.taken(now);
            span
        };
        for _ in 0..8 {
            assert!(taken_in(&mut chunks, 20_000) < idle / 2, "a slow one never looks as if it had gone");
        }
        assert!(chunks.size() < 160_000);
        for _ in 0..8 {
            taken_in(&mut chunks, 100_000_000);
        }
        assert_eq!(chunks.size(), MAX, "a fast one gets what it asked for");
        taken_in(&mut chunks, 1000);
        taken_in(&mut chunks, 1);
        for _ in 0..20 {
            taken_in(&mut chunks, 1);
        }
        assert_eq!(chunks.size(), DOWNLOAD_CHUNK_MIN);
        assert_eq!(Chunks::new(1000, idle).size(), 1000, "no more than was asked for");
    }
}
