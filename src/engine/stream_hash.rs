//! The content hash of bytes that pass by and are not kept: a download. Two blocks are hashed in lock-step where the CPU
//! gains by it and memory is plentiful: the first of a pair is copied aside while it passes and hashed along with the
//! second. Else each block is hashed alone as it passes.

use std::time::Duration;

use bytes::Bytes;

use super::{
    blocks::{Block, Blocks},
    content_hash::{BlockDigest, ContentHash, ContentHasher, PairHasher, pairs_are_cheaper},
};
use crate::limits::{BLOCK_BYTES, HASH_STEP_BYTES, SLOW_BLOCK};

/// Takes a stream of known size in any pieces. No call hashes more than 256 KiB of a lane: who calls again yields first.
#[derive(Debug)]
pub struct StreamHasher {
    blocks: Blocks,
    /// Bytes still to come, as far as is known; decides only whether a pair is worth its memory.
    left: u64,
    done: Vec<BlockDigest>,
    now: Now,
    /// When the present block began to come.
    begun: Duration,
    /// Blocks come so slowly that none is put aside.
    is_slow: bool,
}

/// What the present block goes to.
#[derive(Debug)]
enum Now {
    Between,
    /// The first of a pair, not hashed yet.
    Aside(Block),
    /// What was put aside, being hashed alone after all.
    Folding {
        aside: Bytes,
        hashed: usize,
        lane: Box<ContentHasher>,
    },
    Pair {
        lanes: Box<PairHasher>,
        filled: usize,
    },
    Alone {
        lane: Box<ContentHasher>,
        filled: usize,
    },
}

impl StreamHasher {
    pub fn new(blocks: Blocks, size: u64) -> Self {
        Self { blocks, left: size, done: Vec::new(), now: Now::Between, begun: Duration::ZERO, is_slow: false }
    }

    /// Takes the beginning of `bytes`, which came at `at` as the clock elapses, and says how much that was; all of it, or a step's worth.
    pub fn take(&mut self, bytes: &[u8], at: Duration) -> usize {
        let (mut taken, mut hashed) = (0, 0);
        let is_late = at.saturating_sub(self.begun) > SLOW_BLOCK;
        if is_late && matches!(self.now, Now::Aside(_) | Now::Pair { .. }) {
            self.is_slow = true;
            self.fold();
        }
        while taken < bytes.len() && hashed < HASH_STEP_BYTES {
            let rest = &bytes[taken..];
            let room = HASH_STEP_BYTES - hashed;
            let step = match &mut self.now {
                Now::Between => {
                    self.begun = at;
                    self.now = self.choose(rest.len() as u64);
                    0
                }
                Now::Aside(block) => block.extend_from_slice(rest),
                Now::Folding { .. } => {
                    self.fold();
                    break;
                }
                Now::Pair { lanes, filled } => {
                    let step = rest.len().min(room).min(BLOCK_BYTES - *filled);
                    lanes.update_second(&rest[..step]);
                    *filled += step;
                    hashed += step;
                    step
                }
                Now::Alone { lane, filled } => {
                    let step = rest.len().min(room).min(BLOCK_BYTES - *filled);
                    lane.update(&rest[..step]);
                    *filled += step;
                    hashed += step;
                    step
                }
            };
            taken += step;
            self.left = self.left.saturating_sub(step as u64);
            self.turn(at);
        }
        taken
    }

    /// Hashes what was put aside alone, for nothing may come for long, or ever. True: no block is held any more.
    pub fn fold(&mut self) -> bool {
        self.now = match std::mem::replace(&mut self.now, Now::Between) {
            Now::Aside(block) => {
                Now::Folding { aside: block.freeze(), hashed: 0, lane: Box::new(ContentHasher::new()) }
            }
            now => now,
        };
        self.now = match std::mem::replace(&mut self.now, Now::Between) {
            Now::Folding { aside, hashed, mut lane } => {
                let until = aside.len().min(hashed + HASH_STEP_BYTES);
                lane.update(&aside[hashed..until]);
                match until == aside.len() {
                    true => Now::Alone { lane, filled: until },
                    false => Now::Folding { aside, hashed: until, lane },
                }
            }
            Now::Pair { mut lanes, filled } => {
                if lanes.catch_up(HASH_STEP_BYTES) {
                    let (first, second) = lanes.part(filled);
                    self.done.push(first);
                    Now::Alone { lane: Box::new(second), filled }
                } else {
                    Now::Pair { lanes, filled }
                }
            }
            now => now,
        };
        matches!(self.now, Now::Between | Now::Alone { .. })
    }

    /// `here`: bytes that are at hand, should more have come than was told.
    fn choose(&self, here: u64) -> Now {
        let is_pair = !self.is_slow && self.left.max(here) >= 2 * BLOCK_BYTES as u64 && pairs_are_cheaper();
        match is_pair.then(|| self.blocks.spare()).flatten() {
            Some(block) => Now::Aside(block),
            None => Now::Alone { lane: Box::new(ContentHasher::new()), filled: 0 },
        }
    }

    /// Goes on to the next block where the present one is full.
    fn turn(&mut self, at: Duration) {
        self.now = match std::mem::replace(&mut self.now, Now::Between) {
            Now::Aside(block) if block.is_full() => {
                self.begun = at;
                Now::Pair { lanes: Box::new(PairHasher::begin(block.freeze())), filled: 0 }
            }
            Now::Pair { lanes, filled: BLOCK_BYTES } => {
                let (first, second) = lanes.finish();
                self.done.extend([first, second]);
                Now::Between
            }
            Now::Alone { lane, filled: BLOCK_BYTES } => {
                self.is_slow = at.saturating_sub(self.begun) > SLOW_BLOCK;
                self.done.extend(lane.into_digests());
                Now::Between
            }
            now => now,
        };
    }

    /// The hash of all that was given. Hashes at once whatever `fold` would have hashed in steps.
    pub fn finish(mut self) -> ContentHash {
        while !self.fold() {}
        if let Now::Alone { lane, .. } = self.now {
            self.done.extend(lane.into_digests());
        }
        ContentHash::of_digests(&self.done)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::SystemClock;

    fn blocks(count: usize) -> Blocks {
        Blocks::new(count * BLOCK_BYTES, Arc::new(SystemClock))
    }

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i % 251) as u8 ^ (i >> 20) as u8).collect()
    }

    fn hashed(blocks: &Blocks, told: u64, whole: &[u8], piece: usize) -> ContentHash {
        let mut hasher = StreamHasher::new(blocks.clone(), told);
        for piece in whole.chunks(piece) {
            feed(&mut hasher, piece);
        }
        hasher.finish()
    }

    fn feed(hasher: &mut StreamHasher, mut piece: &[u8]) {
        while !piece.is_empty() {
            piece = &piece[hasher.take(piece, Duration::ZERO)..];
        }
    }

    #[test]
    fn any_length_in_any_pieces_gives_the_hash_of_the_whole() {
        let blocks = blocks(8);
        for len in [0, 1, BLOCK_BYTES, 2 * BLOCK_BYTES, 3 * BLOCK_BYTES - 1, 4 * BLOCK_BYTES + 7] {
            let whole = bytes(len);
            for piece in [100_003, 3 * BLOCK_BYTES] {
                let found = hashed(&blocks, len as u64, &whole, piece);
                assert_eq!(found, ContentHash::of(&whole), "{len} bytes in pieces of {piece}");
            }
        }
        assert_eq!(blocks.used_bytes(), 0);
    }

    #[test]
    fn a_stream_shorter_or_longer_than_told_is_hashed_as_it_came() {
        let blocks = blocks(8);
        for (len, told) in [(BLOCK_BYTES / 2, 9 * BLOCK_BYTES), (BLOCK_BYTES, 9 * BLOCK_BYTES), (BLOCK_BYTES + 5, 1)] {
            let whole = bytes(len);
            assert_eq!(hashed(&blocks, told as u64, &whole, 300_000), ContentHash::of(&whole), "{len}");
        }
    }

    #[test]
    fn no_block_is_taken_when_half_the_budget_is_in_use() {
        let blocks = blocks(8);
        let held: Vec<_> = std::iter::from_fn(|| blocks.spare()).collect();
        assert_eq!(held.len(), 4);
        let used = blocks.used_bytes();
        let whole = bytes(2 * BLOCK_BYTES);
        let mut hasher = StreamHasher::new(blocks.clone(), whole.len() as u64);
        feed(&mut hasher, &whole[..BLOCK_BYTES / 2]);
        assert_eq!(blocks.used_bytes(), used);
        feed(&mut hasher, &whole[BLOCK_BYTES / 2..]);
        assert_eq!(hasher.finish(), ContentHash::of(&whole));
    }

    #[test]
    fn a_slow_stream_puts_nothing_aside_for_long() {
        let blocks = blocks(8);
        let whole = bytes(4 * BLOCK_BYTES);
        let mut hasher = StreamHasher::new(blocks.clone(), whole.len() as u64);
        for (second, chunk) in whole.chunks(256 * 1024).enumerate() {
            let mut rest = chunk;
            while !rest.is_empty() {
                rest = &rest[hasher.take(rest, SLOW_BLOCK * second as u32)..];
            }
            assert!(second < 2 || blocks.used_bytes() == 0, "a block is held at second {second}");
        }
        assert_eq!(hasher.finish(), ContentHash::of(&whole));
    }

    #[test]
    fn a_stream_that_pauses_anywhere_gives_its_blocks_back_and_goes_on() {
        let blocks = blocks(8);
        let whole = bytes(3 * BLOCK_BYTES + 9);
        for pause in [0, 5, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 70_000, 2 * BLOCK_BYTES, 3 * BLOCK_BYTES + 1] {
            // A caller that reads on in the middle of it, too.
            for steps in [1, 3, usize::MAX] {
                let mut hasher = StreamHasher::new(blocks.clone(), whole.len() as u64);
                feed(&mut hasher, &whole[..pause]);
                let ended = (0..steps).any(|_| hasher.fold());
                assert!(!ended || blocks.used_bytes() == 0, "{pause}");
                feed(&mut hasher, &whole[pause..]);
                assert_eq!(hasher.finish(), ContentHash::of(&whole), "{pause}, {steps}");
                assert_eq!(blocks.used_bytes(), 0);
            }
        }
    }
}
