//! Cuts the frames of an upload into parts: whole blocks of 4 MiB except at the end, hashed and within the block budget.
//! Pure but for the frames it pulls, the blocks it asks for and the clocks of idleness and pace; knows neither Dropbox nor
//! sessions.

use std::{pin::Pin, time::Duration};

use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt};
use sha2::{Digest, Sha256};
use smallvec::{SmallVec, smallvec};

use super::{
    blocks::{Block, Blocks, Tally, Units},
    content_hash::{BlockDigest, ContentHash, ContentHasher, PairHasher},
};
use crate::{
    clock::SharedClock,
    fault::{Fault, Reason, Result},
    limits::{
        APPEND_BYTES, BLOCK_BYTES, DROPBOX_FILE_BYTES_MAX, HASH_STEP_BYTES, PACE_BYTES, PACE_RETRY, PACE_WINDOW,
        SMALL_UPLOAD_BYTES, SMALL_UPLOAD_FRAMES, UPLOAD_IDLE,
    },
};

/// One message of an upload stream behind the opening.
#[derive(Debug, Clone)]
pub enum Frame {
    /// Empty `bytes` keep the stream alive and do nothing else.
    Chunk { offset: Option<u64>, bytes: Bytes, crc32c: Option<u32> },
    Finish { content_hash: Option<ContentHash>, size: Option<u64> },
}

/// The bytes of one append: two blocks, one when the budget is short, fewer at the end; or the frames of a small file.
#[derive(Debug, Clone)]
pub struct Part {
    /// Of the first byte in the file; a multiple of 4 MiB.
    pub offset: u64,
    pub pieces: SmallVec<[Bytes; 2]>,
    /// One per block of 4 MiB, the last block may be shorter.
    pub digests: SmallVec<[BlockDigest; 2]>,
}

impl Part {
    /// Bytes of this part; never 0.
    pub fn len(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len() as u64).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.pieces.iter().all(Bytes::is_empty)
    }

    /// What Dropbox wants in the header of the append.
    pub fn body_hash(&self) -> ContentHash {
        ContentHash::of_digests(&self.digests)
    }
}

/// What one upload allows and what its caller declared.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Bytes of a full part: 8 MiB, or 4 MiB (anything less counts as that).
    pub append_bytes: usize,
    /// `max_file_size` of the application parameter.
    pub max_file_size: Option<u64>,
    /// `total_size` of the spec.
    pub declared_size: Option<u64>,
    /// `content_hash` of the spec.
    pub declared_hash: Option<ContentHash>,
    /// A resumed stream names the offset of its first chunk.
    pub resumed: bool,
    /// The caller half-closes behind `finish` (client streaming): a frame behind it is then always found. A duplex caller
    /// may wait for the answer first, so only what has already arrived is looked at.
    pub finish_ends_stream: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            append_bytes: APPEND_BYTES,
            max_file_size: None,
            declared_size: None,
            declared_hash: None,
            resumed: false,
            finish_ends_stream: true,
        }
    }
}

/// How the stream ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closing {
    /// `finish` came and everything declared holds. `hash`: `None` only where the digests before the resume point are
    /// unknown; then `expected` is to be compared with Dropbox's own after the commit.
    Commit { hash: Option<ContentHash>, size: u64, expected: Option<ContentHash> },
    /// No `finish`, or a failure: the parts given so far reach up to `given`, a multiple of 4 MiB.
    HalfClosed { given: u64 },
}

/// Pulls frames and gives parts. A block is taken before frames are pulled, a full part goes out at once, and only then
/// is the next block asked for.
pub struct PartCutter<S> {
    frames: S,
    blocks: Blocks,
    parameter: String,
    rules: Rules,
    clock: SharedClock,
    tally: Tally,
    /// Offset of the part being filled.
    part_offset: u64,
    /// The next byte the caller has to send.
    next_offset: u64,
    /// SHA-256 over the digests of all parts given; `None`: those before the start are unknown.
    outer: Option<Sha256>,
    filling: Filling,
    /// Checked bytes that found no room yet.
    pending: Bytes,
    seen_chunk: bool,
    end: Option<End>,
    idle: Duration,
    pace: Pace,
}

enum Filling {
    Nothing,
    /// An upload that may turn out small.
    Small { frames: SmallVec<[Bytes; 2]>, len: usize, units: Units },
    /// The first block, not hashed yet: perhaps a second one lets it be hashed for free.
    First(Block),
    /// One whole block and no second one to be had: hashed alone up to `hashed`.
    Alone { block: Bytes, hasher: ContentHasher, hashed: usize },
    /// The last, short block of an upload, or small frames, hashed up to `hashed` of the joined length.
    Pair { lanes: PairHasher, second: Block },
}
