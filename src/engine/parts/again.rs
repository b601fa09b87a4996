//! What a resumed stream sends again of what is held: nothing of it is kept, but the digests of its blocks are, and a block
//! that comes again from its first byte to its last is compared.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::track::changed;
use crate::{engine::content_hash::BlockDigest, fault::Result, limits::BLOCK_BYTES};

/// The blocks that were sent before this stream.
#[derive(Debug, Default)]
pub struct Again {
    digests: Vec<BlockDigest>,
    /// Bytes that they are of.
    held: u64,
    /// The block that comes again, as far as `at`.
    block: Option<Sha256>,
    at: u64,
}

impl Again {
    /// `digests`: of the first `held` bytes. `None`: nothing is known to compare with.
    pub fn new(digests: Option<&[BlockDigest]>, held: u64) -> Option<Box<Again>> {
        let digests = digests?.to_vec();
        (!digests.is_empty()).then(|| Box::new(Again { digests, held, ..Again::default() }))
    }

    /// Bytes at `offset`, all of them sent before. How many of them were hashed.
    ///
    /// # Errors
    /// `CONTENT_HASH_MISMATCH` where they are not the same.
    pub fn compare(&mut self, offset: u64, mut bytes: Bytes) -> Result<usize> {
        let (block, mut hashed) = (BLOCK_BYTES as u64, 0);
        if offset != self.at {
            (self.block, self.at) = (None, offset);
        }
        while !bytes.is_empty() {
            let within = self.at % block;
            let piece = bytes.split_to(bytes.len().min((block - within) as usize));
            let known = usize::try_from(self.at / block).ok().and_then(|n| self.digests.get(n));
            if within == 0 {
                self.block = known.is_some().then(Sha256::new);
            }
            self.at += piece.len() as u64;
            let Some(hasher) = &mut self.block else { continue };
            hasher.update(&piece);
            hashed += piece.len();
            if self.at.is_multiple_of(block) || self.at == self.held {
                let digest = self.block.take().map(|hasher| BlockDigest::from_bytes(hasher.finalize().into()));
                if digest.as_ref() != known {
                    return Err(changed((self.at - 1) / block * block));
                }
            }
        }
        Ok(hashed)
    }
}
