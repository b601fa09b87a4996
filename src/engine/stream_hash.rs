//! The content hash of bytes that pass by and are not kept: a download. Two blocks are hashed in lock-step where the CPU
//! gains by it and memory is plentiful: the first of a pair is copied aside while it passes and hashed along with the
//! second. Else each block is hashed alone as it passes.

use bytes::Bytes;
use tokio::task::yield_now;

use super::{
    blocks::{Block, Blocks},
    content_hash::{BlockDigest, ContentHash, ContentHasher, PairHasher, pairs_are_cheaper},
};
use crate::limits::{BLOCK_BYTES, HASH_STEP_BYTES};

/// Takes a stream of known size in any pieces.
#[derive(Debug)]
pub struct StreamHasher {
    blocks: Blocks,
    /// Bytes still to come, as far as is known; decides only whether a pair is worth its memory.
    left: u64,
    done: Vec<BlockDigest>,
    now: Now,
}

/// What the present block goes to.
#[derive(Debug)]
enum Now {
    Between,
    /// The first of a pair, not hashed yet.
    Aside(Block),
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
        Self { blocks, left: size, done: Vec::new(), now: Now::Between }
    }

    /// Gives the thread up after every 256 KiB of a lane.
    pub async fn update(&mut self, mut bytes: &[u8]) {
        self.left = self.left.saturating_sub(bytes.len() as u64);
        let mut hashed = 0;
        while !bytes.is_empty() {
            if hashed >= HASH_STEP_BYTES {
                hashed = 0;
                yield_now().await;
            }
            let taken = match &mut self.now {
                Now::Between => {
                    self.now = self.choose(bytes.len() as u64);
                    0
                }
                Now::Aside(block) => block.extend_from_slice(bytes),
                Now::Pair { lanes, filled } => {
                    let step = bytes.len().min(HASH_STEP_BYTES - hashed).min(BLOCK_BYTES - *filled);
                    lanes.update_second(&bytes[..step]);
                    *filled += step;
                    hashed += step;
                    step
                }
                Now::Alone { lane, filled } => {
                    let step = bytes.len().min(HASH_STEP_BYTES - hashed).min(BLOCK_BYTES - *filled);
                    lane.update(&bytes[..step]);
                    *filled += step;
                    hashed += step;
                    step
                }
            };
            bytes = &bytes[taken..];
            self.turn();
        }
    }

    /// `here`: bytes of the block that begins, which are not among those left any more.
    fn choose(&self, here: u64) -> Now {
        let is_pair = self.left + here >= 2 * BLOCK_BYTES as u64 && pairs_are_cheaper();
        match is_pair.then(|| self.blocks.spare()).flatten() {
            Some(block) => Now::Aside(block),
            None => Now::Alone { lane: Box::new(ContentHasher::new()), filled: 0 },
        }
    }

    /// Goes on to the next block where the present one is full.
    fn turn(&mut self) {
        self.now = match std::mem::replace(&mut self.now, Now::Between) {
            Now::Aside(block) if block.is_full() => {
                Now::Pair { lanes: Box::new(PairHasher::begin(block.freeze())), filled: 0 }
            }
            Now::Pair { lanes, filled: BLOCK_BYTES } => {
                let (first, second) = lanes.finish();
                self.done.extend([first, second]);
                Now::Between
            }
            Now::Alone { lane, filled: BLOCK_BYTES } => {
                self.done.extend(lane.into_digests());
                Now::Between
            }
            now => now,
        };
    }

    /// The hash of all that was given.
    pub async fn finish(mut self) -> ContentHash {
        match std::mem::replace(&mut self.now, Now::Between) {
            Now::Between => {}
            // Ends before its size: what was put aside is hashed now.
            Now::Aside(block) => {
                let (bytes, mut lane): (Bytes, _) = (block.freeze(), ContentHasher::new());
                for step in bytes.chunks(HASH_STEP_BYTES) {
                    lane.update(step);
                    yield_now().await;
                }
                self.done.extend(lane.into_digests());
            }
            Now::Pair { mut lanes, filled } => {
                while !lanes.catch_up(HASH_STEP_BYTES) {
                    yield_now().await;
                }
                if filled > 0 {
                    let (first, second) = lanes.finish();
                    self.done.extend([first, second]);
                } else {
                    self.done.push(lanes.finish_first());
                }
            }
            Now::Alone { lane, .. } => self.done.extend(lane.into_digests()),
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

    async fn hashed(blocks: &Blocks, told: u64, whole: &[u8], piece: usize) -> ContentHash {
        let mut hasher = StreamHasher::new(blocks.clone(), told);
        for piece in whole.chunks(piece) {
            hasher.update(piece).await;
        }
        hasher.finish().await
    }

    #[tokio::test]
    async fn any_length_in_any_pieces_gives_the_hash_of_the_whole() {
        let blocks = blocks(8);
        for len in [0, 1, BLOCK_BYTES, 2 * BLOCK_BYTES, 3 * BLOCK_BYTES - 1, 4 * BLOCK_BYTES + 7] {
            let whole = bytes(len);
            for piece in [100_003, 3 * BLOCK_BYTES] {
                let found = hashed(&blocks, len as u64, &whole, piece).await;
                assert_eq!(found, ContentHash::of(&whole), "{len} bytes in pieces of {piece}");
            }
        }
        assert_eq!(blocks.used_bytes(), 0);
    }

    #[tokio::test]
    async fn a_stream_shorter_or_longer_than_told_is_hashed_as_it_came() {
        let blocks = blocks(8);
        for (len, told) in [(BLOCK_BYTES / 2, 9 * BLOCK_BYTES), (BLOCK_BYTES, 9 * BLOCK_BYTES), (BLOCK_BYTES + 5, 1)] {
            let whole = bytes(len);
            assert_eq!(hashed(&blocks, told as u64, &whole, 300_000).await, ContentHash::of(&whole), "{len}");
        }
    }

    #[tokio::test]
    async fn no_block_is_taken_when_half_the_budget_is_in_use() {
        let blocks = blocks(8);
        let held: Vec<_> = std::iter::from_fn(|| blocks.spare()).collect();
        assert_eq!(held.len(), 4);
        let used = blocks.used_bytes();
        let whole = bytes(2 * BLOCK_BYTES);
        let mut hasher = StreamHasher::new(blocks.clone(), whole.len() as u64);
        hasher.update(&whole[..BLOCK_BYTES / 2]).await;
        assert_eq!(blocks.used_bytes(), used);
        hasher.update(&whole[BLOCK_BYTES / 2..]).await;
        assert_eq!(hasher.finish().await, ContentHash::of(&whole));
    }
}
