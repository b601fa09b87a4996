//! Dropbox's content hash, by a library: SHA-256 of the SHA-256s of blocks of 4 MiB. The client computes it apart from
//! the server's, so that their agreement proves something.

use sha2::{Digest as _, Sha256};

const BLOCK_BYTES: usize = 4 * 1024 * 1024;

/// A running content hash.
#[derive(Debug, Clone, Default)]
pub struct ContentHash {
    whole: Sha256,
    block: Sha256,
    /// Bytes in `block`, below `BLOCK_BYTES`.
    filled: usize,
}

impl ContentHash {
    pub fn update(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let (now, later) = data.split_at(data.len().min(BLOCK_BYTES - self.filled));
            self.block.update(now);
            self.filled += now.len();
            if self.filled == BLOCK_BYTES {
                self.close_block();
            }
            data = later;
        }
    }

    /// 64 lower-case hexadecimal digits.
    pub fn finish(mut self) -> String {
        if self.filled > 0 {
            self.close_block();
        }
        hex::encode(self.whole.finalize())
    }

    fn close_block(&mut self) {
        let block = std::mem::take(&mut self.block).finalize();
        self.whole.update(block);
        self.filled = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pieces: &[&[u8]]) -> String {
        let mut hash = ContentHash::default();
        pieces.iter().for_each(|piece| hash.update(piece));
        hash.finish()
    }

    #[test]
    fn nothing_hashes_to_the_hash_of_nothing() {
        assert_eq!(of(&[]), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    #[test]
    fn the_pieces_do_not_matter_but_the_blocks_do() {
        let data: Vec<u8> = (0..BLOCK_BYTES + 5).map(|at| (at % 251) as u8).collect();
        let mut whole = Sha256::new();
        whole.update(Sha256::digest(&data[..BLOCK_BYTES]));
        whole.update(Sha256::digest(&data[BLOCK_BYTES..]));
        let expected = hex::encode(whole.finalize());
        assert_eq!(of(&[&data]), expected);
        assert_eq!(of(&[&data[..3], &data[3..BLOCK_BYTES - 1], &data[BLOCK_BYTES - 1..]]), expected);
    }
}
