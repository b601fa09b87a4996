//! A part that has all its bytes and is hashed to the end, in steps between which its task yields.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::{SmallVec, smallvec};

use super::Part;
use crate::{
    engine::{
        blocks::Units,
        content_hash::{BlockDigest, ContentHasher, PairHasher},
    },
    limits::HASH_STEP_BYTES,
};

/// The bytes of a part, perhaps not hashed to the end.
pub(super) struct Ripe {
    pieces: SmallVec<[Bytes; 2]>,
    work: Work,
}

enum Work {
    /// The pieces make one block: hashed up to byte `at` of `piece`.
    Alone {
        hasher: ContentHasher,
        piece: usize,
        at: usize,
    },
    Pair(Box<PairHasher>),
}

/// A frame kept as it came, and its share of the budget.
struct Kept {
    bytes: Bytes,
    _units: Arc<Units>,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Ripe {
    pub(super) fn alone(pieces: SmallVec<[Bytes; 2]>) -> Self {
        Self { pieces, work: Work::Alone { hasher: ContentHasher::new(), piece: 0, at: 0 } }
    }

    /// `pieces`: the first block of `lanes`, and the second if there is one.
    pub(super) fn pair(lanes: Box<PairHasher>, second: Option<Bytes>) -> Self {
        let mut pieces: SmallVec<[Bytes; 2]> = smallvec![lanes.first_block().clone()];
        pieces.extend(second);
        Self { pieces, work: Work::Pair(lanes) }
    }

    pub(super) fn len(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }

    /// Hashes a step. True: what is left is at most one step, to be done by `into_part`.
    pub(super) fn step(&mut self) -> bool {
        match &mut self.work {
            Work::Pair(lanes) => lanes.catch_up(HASH_STEP_BYTES),
            Work::Alone { hasher, piece, at } => {
                let mut left = HASH_STEP_BYTES;
                while let Some(bytes) = self.pieces.get(*piece) {
                    let step = left.min(bytes.len() - *at);
                    hasher.update(&bytes[*at..*at + step]);
                    left -= step;
                    *at += step;
                    if *at < bytes.len() {
                        return false;
                    }
                    (*piece, *at) = (*piece + 1, 0);
                }
                true
            }
        }
    }

    pub(super) fn into_part(self, offset: u64) -> Part {
        let digests = match self.work {
            Work::Pair(lanes) if self.pieces.len() == 1 => smallvec![lanes.finish_first()],
            Work::Pair(lanes) => <[BlockDigest; 2]>::from(lanes.finish()).into(),
            Work::Alone { hasher, .. } => hasher.into_digests().into_iter().collect(),
        };
        Part { offset, pieces: self.pieces, digests }
    }
}

/// Frames as they came, and the units that pay for them: both go when the last clone of a frame is dropped.
pub(super) fn keep(frames: SmallVec<[Bytes; 2]>, len: usize, units: Option<Units>) -> SmallVec<[Bytes; 2]> {
    let Some(mut units) = units else { return frames };
    units.shrink(len);
    let units = Arc::new(units);
    frames.into_iter().map(|bytes| Bytes::from_owner(Kept { bytes, _units: units.clone() })).collect()
}
