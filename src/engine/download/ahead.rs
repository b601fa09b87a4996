//! Blocks for ranges ahead of the heads of all downloads: a part of the budget, an equal share of that for each reader that wants
//! some. Who has more than its share, because others came, gets none until it has handed on enough. Never waits.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::{
    engine::blocks::{Block, Blocks, Tally},
    limits,
};

/// All downloads' part; a clone is the same one.
#[derive(Debug, Clone)]
pub(super) struct Aheads {
    blocks: Blocks,
    held: Tally,
    readers: Arc<AtomicUsize>,
}

/// A reader that wants ranges ahead of its head.
#[derive(Debug)]
pub(super) struct Share(Aheads);

impl Aheads {
    pub(super) fn new(blocks: Blocks) -> Aheads {
        Aheads { blocks, held: Tally::default(), readers: Arc::default() }
    }

    pub(super) fn share(&self) -> Share {
        self.readers.fetch_add(1, Ordering::Relaxed);
        Share(self.clone())
    }
}

impl Share {
    /// A block for one that has `held` of them, if that leaves the others theirs.
    pub(super) fn block(&self, parameter: &str, held: usize) -> Option<Block> {
        let Aheads { blocks, held: of_all, readers } = &self.0;
        let all = blocks.budget_bytes() / limits::BLOCK_BYTES / limits::AHEAD_SHARE;
        let share = (all / readers.load(Ordering::Relaxed).max(1)).max(1);
        // Downloads side by side keep their ranges: all of them together never keep uploads from their blocks.
        if held >= share || of_all.held() >= all {
            return None;
        }
        Some(blocks.more(parameter, held)?.counted(of_all))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.0.readers.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    /// Of a budget of so many blocks.
    fn aheads(blocks: usize) -> Aheads {
        let clock = Arc::new(ManualClock::new(std::time::SystemTime::UNIX_EPOCH));
        Aheads::new(Blocks::new(blocks * limits::BLOCK_BYTES, clock))
    }

    /// As many as it gets.
    fn takes(share: &Share, parameter: &str, blocks: &mut Vec<Block>) {
        while let Some(block) = share.block(parameter, blocks.len()) {
            blocks.push(block);
        }
    }

    #[test]
    fn readers_share_what_there_is_and_who_has_more_gives_way_as_it_reads() {
        let aheads = aheads(64);
        let (first, mut first_s) = (aheads.share(), Vec::new());
        takes(&first, "p", &mut first_s);
        assert_eq!(first_s.len(), 32, "half the budget, alone");
        let (second, mut second_s) = (aheads.share(), Vec::new());
        takes(&second, "q", &mut second_s);
        assert_eq!(second_s.len(), 0, "nothing is taken away");
        while let Some(block) = first_s.pop() {
            drop(block);
            takes(&first, "p", &mut first_s);
            takes(&second, "q", &mut second_s);
            if first_s.len() == 16 {
                break;
            }
        }
        assert_eq!((first_s.len(), second_s.len()), (16, 16));
        drop((second, second_s));
        takes(&first, "p", &mut first_s);
        assert_eq!(first_s.len(), 32, "alone again");
    }

    #[test]
    fn more_readers_than_blocks_have_one_each_while_there_are_any() {
        let aheads = aheads(64);
        let shares: Vec<_> = (0..40).map(|_| aheads.share()).collect();
        let mut blocks: Vec<Block> = Vec::new();
        for share in &shares {
            let Some(block) = share.block("p", 0) else { break };
            blocks.push(block);
            assert!(share.block("p", 1).is_none(), "one is its share");
        }
        assert_eq!(blocks.len(), 32);
        blocks.pop();
        assert!(shares[39].block("p", 0).is_some(), "what one gives back, another gets");
    }
}
