//! Where the bytes of the part being filled lie, and how it becomes ripe. Nothing that is being filled is held while a block is
//! waited for.

use bytes::{Buf as _, Bytes};
use futures::Stream;
use smallvec::{SmallVec, smallvec};

use super::{
    Frame, PartCutter,
    ripe::{Ripe, keep},
};
use crate::{
    engine::{
        blocks::{Block, Units},
        content_hash::PairHasher,
    },
    fault::Result,
    limits::{BLOCK_BYTES, HASH_STEP_BYTES, SMALL_UPLOAD_BYTES, SMALL_UPLOAD_FRAMES},
};

pub(super) enum Filling {
    Nothing,
    /// An upload that may turn out small. `units` is `None` once it has not, while it waits for its block.
    Small {
        frames: SmallVec<[Bytes; 2]>,
        len: usize,
        units: Option<Units>,
    },
    /// Not hashed yet: perhaps a second block lets it be hashed for free.
    First(Block),
    Pair {
        lanes: Box<PairHasher>,
        second: Block,
    },
}

impl<S: Stream<Item = Result<Frame>> + Unpin + Send> PartCutter<S> {
    /// Nothing that is being filled is held while this waits. False: what was gathered has to go first.
    pub(super) async fn make_room(&mut self) -> bool {
        let is_all_there = self.is_all_there();
        match &mut self.filling {
            // Only `finish` can follow, and that needs no memory.
            Filling::Nothing if is_all_there => {}
            Filling::Nothing if self.gathered.is_some() => {
                let Some(block) = self.blocks.more(&self.parameter, self.tally.held()) else { return false };
                self.filling = Filling::First(block.counted(&self.tally));
            }
            Filling::Nothing => {
                let size = self.rules.declared_size.unwrap_or(SMALL_UPLOAD_BYTES as u64);
                if self.part_offset == 0 && size <= SMALL_UPLOAD_BYTES as u64 {
                    let units = self.blocks.small(&self.parameter, size as usize).await;
                    self.filling = Filling::Small { frames: SmallVec::new(), len: 0, units: Some(units) };
                } else {
                    let block = self.blocks.first(&self.parameter).await;
                    self.filling = Filling::First(block.counted(&self.tally));
                }
            }
            Filling::Small { frames, len, units } => {
                if *len + self.pending.len() <= SMALL_UPLOAD_BYTES && frames.len() < SMALL_UPLOAD_FRAMES {
                    return true;
                }
                let block = match self.blocks.more(&self.parameter, 0) {
                    Some(block) => block,
                    None => {
                        // Its frames are within what the admission pays for; units are never held while waiting.
                        *units = None;
                        self.blocks.first(&self.parameter).await
                    }
                };
                let mut block = block.counted(&self.tally);
                for frame in frames.iter() {
                    block.extend_from_slice(frame);
                }
                self.filling = Filling::First(block);
            }
            Filling::First(_) | Filling::Pair { .. } => {}
        }
        true
    }

    /// Moves pending bytes to where there is room for them; a part that is full becomes ripe.
    pub(super) fn store(&mut self) {
        match &mut self.filling {
            Filling::Nothing => {}
            Filling::Small { frames, len, .. } => {
                *len += self.pending.len();
                frames.push(std::mem::take(&mut self.pending));
            }
            Filling::First(block) => {
                self.pending.advance(block.extend_from_slice(&self.pending));
                if block.is_full() {
                    self.first_is_full();
                }
            }
            Filling::Pair { lanes, second } => {
                let step = self.pending.len().min(HASH_STEP_BYTES).min(second.remaining());
                lanes.update_second(&self.pending[..step]);
                second.extend_from_slice(&self.pending[..step]);
                self.pending.advance(step);
                self.hashed += step;
                if second.is_full() {
                    self.ripen_tail();
                }
            }
        }
    }

    pub(super) fn first_is_full(&mut self) {
        let Filling::First(block) = std::mem::replace(&mut self.filling, Filling::Nothing) else { return };
        let is_last = self.pending.is_empty() && self.rules.declared_size == Some(self.next_offset);
        let takes_two = self.rules.append_bytes >= 2 * BLOCK_BYTES && !self.rules.is_hurried();
        let second = match takes_two && !is_last {
            true => self.blocks.more(&self.parameter, self.tally.held()),
            false => None,
        };
        match second {
            Some(second) => {
                let lanes = Box::new(PairHasher::begin(block.freeze()));
                self.filling = Filling::Pair { lanes, second: second.counted(&self.tally) };
            }
            None => self.ripe = Some(Ripe::alone(smallvec![block.freeze()])),
        }
    }

    /// All that is filled becomes a part, if there is anything.
    pub(super) fn ripen_tail(&mut self) {
        self.ripe = match std::mem::replace(&mut self.filling, Filling::Nothing) {
            Filling::Nothing => None,
            Filling::Small { len: 0, .. } => None,
            Filling::Small { frames, len, units } => Some(Ripe::alone(keep(frames, len, units))),
            Filling::First(block) if block.is_empty() => None,
            // A body of many frames, or the end of a long one: it is not to hold a block wherever it waits.
            Filling::First(block) if block.len() <= SMALL_UPLOAD_BYTES => {
                Some(Ripe::alone(smallvec![self.blocks.own_size(&self.parameter, smallvec![block.freeze()])]))
            }
            Filling::First(block) => Some(Ripe::alone(smallvec![block.freeze()])),
            Filling::Pair { lanes, second } => {
                let second = (!second.is_empty()).then(|| second.freeze());
                Some(Ripe::pair(lanes, second))
            }
        };
    }

    /// The first block of a pair goes alone; the second one goes on being filled.
    pub(super) fn split_pair(&mut self) {
        self.filling = match std::mem::replace(&mut self.filling, Filling::Nothing) {
            Filling::Pair { lanes, second } => {
                self.ripe = Some(Ripe::pair(lanes, None));
                // What its lane has hashed of it is hashed again: a few MiB, once in an upload.
                if second.is_empty() { Filling::Nothing } else { Filling::First(second) }
            }
            other => other,
        };
    }

    /// Drops what does not fill a block.
    pub(super) fn ripen_whole_blocks(&mut self) {
        self.ripe = match std::mem::replace(&mut self.filling, Filling::Nothing) {
            Filling::Pair { lanes, .. } => Some(Ripe::pair(lanes, None)),
            Filling::Nothing | Filling::Small { .. } | Filling::First(_) => None,
        };
    }
}
