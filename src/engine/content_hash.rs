//! Dropbox's content hash: SHA-256 over the SHA-256 digests of each block of 4 MiB, the last one shorter. No block, no
//! digest: the hash of nothing is SHA-256 of nothing. Pure; the caller sees to it that no more than 256 KiB are hashed
//! without a yield.

use std::{fmt, str::FromStr};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::sha_lanes::{Lane, STEP_BYTES, update_pair};
use crate::limits::BLOCK_BYTES;

/// The hash of a whole file, or of the bytes of one part; written as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentHash([u8; 32]);

/// SHA-256 of one block.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockDigest([u8; 32]);

/// What was parsed is not 64 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a content hash is 64 hex digits")]
pub struct NotAContentHash;

impl ContentHash {
    /// The hash of content whose blocks have these digests, in order.
    pub fn of_digests<'a>(digests: impl IntoIterator<Item = &'a BlockDigest>) -> Self {
        let mut outer = Sha256::new();
        for digest in digests {
            outer.update(digest.0);
        }
        Self(outer.finalize().into())
    }

    /// The hash of bytes that are all in memory.
    pub fn of(bytes: &[u8]) -> Self {
        Self::of_digests(&bytes.chunks(BLOCK_BYTES).map(BlockDigest::of).collect::<Vec<_>>())
    }

    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl BlockDigest {
    /// `block`: at most 4 MiB.
    pub fn of(block: &[u8]) -> Self {
        Self(Sha256::digest(block).into())
    }

    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for ContentHash {
    type Err = NotAContentHash;

    /// Takes upper case too; some tools print it.
    fn from_str(text: &str) -> Result<Self, NotAContentHash> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| NotAContentHash)?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentHash({self})")
    }
}

impl fmt::Debug for BlockDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockDigest({})", hex::encode(self.0))
    }
}

/// One lane, in any pieces: for downloads, and wherever no block is kept.
#[derive(Clone, Debug)]
pub struct ContentHasher {
    done: Vec<BlockDigest>,
    block: Lane,
    filled: usize,
}

impl Default for ContentHasher {
    fn default() -> Self {
        Self::new()
    }
}

impl ContentHasher {
    pub fn new() -> Self {
        Self::resume(Vec::new())
    }

    /// Goes on behind whole blocks whose digests are known.
    pub fn resume(digests: Vec<BlockDigest>) -> Self {
        Self { done: digests, block: Lane::new(), filled: 0 }
    }

    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(BLOCK_BYTES - self.filled));
            self.block.update(now);
            self.filled += now.len();
            if self.filled == BLOCK_BYTES {
                self.close_block();
            }
            bytes = rest;
        }
    }

    fn close_block(&mut self) {
        let lane = std::mem::replace(&mut self.block, Lane::new());
        self.done.push(BlockDigest(lane.finish()));
        self.filled = 0;
    }

    /// The digests of the whole blocks so far, those it was resumed with included.
    pub fn digests(&self) -> &[BlockDigest] {
        &self.done
    }

    /// The digests of all blocks, the last and shorter one included.
    pub fn into_digests(mut self) -> Vec<BlockDigest> {
        if self.filled > 0 {
            self.close_block();
        }
        self.done
    }

    pub fn finish(self) -> ContentHash {
        ContentHash::of_digests(&self.into_digests())
    }
}

/// Whether two lanes in lock-step cost less on this CPU than one after the other.
pub(super) fn pairs_are_cheaper() -> bool {
    #[cfg(target_arch = "x86_64")]
    return super::sha_lanes::lock_step_available();
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// Two lanes: a block that is kept, and the one behind it as it arrives. Each piece of the second takes as much of the
/// first along, so both digests are ready when the second block is full, at about half the price.
#[derive(Debug)]
pub struct PairHasher {
    kept: Bytes,
    hashed: usize,
    first: Lane,
    second: Lane,
}

impl PairHasher {
    pub fn begin(first_block: Bytes) -> Self {
        Self { kept: first_block, hashed: 0, first: Lane::new(), second: Lane::new() }
    }

    /// Advances both lanes by about as much; hand it at most 256 KiB at a time.
    pub fn update_second(&mut self, bytes: &[u8]) {
        self.hashed += update_pair(&mut self.first, &self.kept[self.hashed..], &mut self.second, bytes);
    }

    /// Hashes up to `bytes_max` of what is left of the first block, alone. True: so little is left that `finish` hashes
    /// no more than `bytes_max`.
    pub fn catch_up(&mut self, bytes_max: usize) -> bool {
        // Whole steps only, so that lane A stays where `update_second` can take it along.
        let most = bytes_max.max(STEP_BYTES) / STEP_BYTES * STEP_BYTES;
        if self.kept.len() - self.hashed > most {
            self.first.update(&self.kept[self.hashed..self.hashed + most]);
            self.hashed += most;
        }
        self.kept.len() - self.hashed <= most
    }

    /// The first block, to be sent; a clone shares its memory.
    pub fn first_block(&self) -> &Bytes {
        &self.kept
    }

    /// Hashes what is left of the first block.
    pub fn finish(mut self) -> (BlockDigest, BlockDigest) {
        self.first.update(&self.kept[self.hashed..]);
        (BlockDigest(self.first.finish()), BlockDigest(self.second.finish()))
    }

    /// The first digest and the second block's lane, to go on alone; `filled` bytes of that block have come.
    pub(super) fn part(mut self, filled: usize) -> (BlockDigest, ContentHasher) {
        self.first.update(&self.kept[self.hashed..]);
        let alone = ContentHasher { done: Vec::new(), block: self.second, filled };
        (BlockDigest(self.first.finish()), alone)
    }

    /// When nothing of a second block came, or it is dropped.
    pub fn finish_first(self) -> BlockDigest {
        self.finish().0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{counted_tests::counted, limits::HASH_STEP_BYTES};

    fn pattern(len: usize, modulus: usize) -> Vec<u8> {
        (0..len).map(|i| (i % modulus) as u8).collect()
    }

    #[test]
    fn the_hash_of_a_block_of_1_mib_is_counted() {
        let bytes = pattern(1 << 20, 251);
        let digest = counted(|| BlockDigest::of(&bytes));
        let mut hasher = ContentHasher::new();
        bytes.chunks(999).for_each(|piece| hasher.update(piece));
        assert_eq!(hasher.into_digests(), [digest]);
    }

    #[test]
    fn the_hash_of_two_blocks_of_1_mib_in_lock_step_is_counted() {
        let [first, second] = [251, 241].map(|modulus| Bytes::from(pattern(1 << 20, modulus)));
        let digests = counted(|| {
            let mut lanes = PairHasher::begin(first.clone());
            second.chunks(HASH_STEP_BYTES).for_each(|step| lanes.update_second(step));
            lanes.finish()
        });
        assert_eq!(digests, (BlockDigest::of(&first), BlockDigest::of(&second)));
    }

    #[test]
    fn the_recorded_vectors_come_out() {
        let mib4 = 4 * 1024 * 1024;
        let cases: [(&str, Vec<u8>, &str); 11] = [
            ("empty", vec![], "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            ("one zero", vec![0], "1406e05881e299367766d313e26c05564ec91bf721d31726bd6e46e60689539a"),
            ("a", b"a".to_vec(), "bf5d3affb73efd2ec6c36ad3112dd933efed63c4e1cbffcfa88e2759c144f2d8"),
            (
                "hello world",
                b"hello world".to_vec(),
                "bc62d4b80d9e36da29c16c5d4d9f11731f36052c72401a76c23c0fb5a9b74423",
            ),
            ("4 MiB - 1", vec![0; mib4 - 1], "839e2d868a885f260431d186466f0f3c189ee0eee5cc444b54e717740ad7f1c3"),
            ("4 MiB", vec![0; mib4], "c7e946d101855255d919ef0c70718633adf77d3dfb3adeeecf5d0cb4e951be58"),
            ("4 MiB + 1", vec![0; mib4 + 1], "14a4d47f23a30177885d9820122f17d2d3a55fe63f7f5c27b95f689e0b2accd6"),
            ("8 MiB", vec![0; 2 * mib4], "03ae066c707c588592d9e27aa2444ca98423e0999024f1ceaa11a153790b37de"),
            ("mod 256", pattern(10 << 20, 256), "7e714a7698696fbd2bddcf581af3a88241a2deff2efdf6ce083709e07985bdff"),
            ("mod 251", pattern(10 << 20, 251), "9b168152f37a1b2c33d9b26ca4a679d5f99f84f8c070fd3a4491d52cbfe96af4"),
            ("A", vec![b'A'; 4_194_305], "8f553da8d00d0bf509d8470e242888be33019c20c0544811f5b2b89e98360b92"),
        ];
        for (name, bytes, expected) in cases {
            assert_eq!(ContentHash::of(&bytes).to_string(), expected, "{name}");
            let mut hasher = ContentHasher::new();
            bytes.chunks(999_983).for_each(|piece| hasher.update(piece));
            assert_eq!(hasher.finish().to_string(), expected, "{name}, in pieces");
        }
    }

    #[test]
    fn a_hash_goes_to_text_and_back_and_nothing_else_parses() {
        let hash = ContentHash::of(b"hello world");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert_eq!(hash.to_string().to_uppercase().parse(), Ok(hash));
        for text in ["", "e3", &hash.to_string()[1..], &format!("{hash}0"), &"g".repeat(64)] {
            assert_eq!(text.parse::<ContentHash>(), Err(NotAContentHash), "{text}");
        }
    }

    #[test]
    fn a_hasher_resumed_at_a_block_edge_goes_on_as_if_it_had_seen_all() {
        let bytes = pattern(9 << 20, 251);
        let mut before = ContentHasher::new();
        before.update(&bytes[..8 << 20]);
        assert_eq!(before.digests().len(), 2);
        let mut after = ContentHasher::resume(before.digests().to_vec());
        after.update(&bytes[8 << 20..]);
        assert_eq!(after.finish(), ContentHash::of(&bytes));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_pair_gives_both_digests_however_the_second_arrives(
            first in 0usize..20_000, second in 0usize..20_000, pieces in prop::collection::vec(1usize..3000, 1..6),
            ahead in 0usize..5000,
        ) {
            let (first, second) = (pattern(first, 251), pattern(second, 241));
            let mut pair = PairHasher::begin(Bytes::from(first.clone()));
            let mut rest = second.as_slice();
            for len in pieces.iter().cycle() {
                if rest.is_empty() { break; }
                let (piece, left) = rest.split_at((*len).min(rest.len()));
                pair.update_second(piece);
                pair.catch_up(ahead);
                rest = left;
            }
            prop_assert_eq!(pair.finish(), (BlockDigest::of(&first), BlockDigest::of(&second)));
        }

        #[test]
        fn a_pair_that_parts_goes_on_alone(first in 0usize..20_000, before in 0usize..9000, after in 0usize..9000) {
            let (first, second) = (pattern(first, 251), pattern(before + after, 241));
            let mut pair = PairHasher::begin(Bytes::from(first.clone()));
            pair.update_second(&second[..before]);
            let (digest, mut alone) = pair.part(before);
            alone.update(&second[before..]);
            prop_assert_eq!((digest, alone.finish()), (BlockDigest::of(&first), ContentHash::of(&second)));
        }
    }
}
