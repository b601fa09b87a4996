//! Cuts the frames of an upload into parts: whole blocks of 4 MiB except at the end, hashed and within the block budget.
//! Pure but for the frames it pulls, the blocks it asks for and the clocks of idleness and pace; knows neither Dropbox nor
//! sessions.

mod again;
mod filling;
mod intake;
mod pace;
mod ripe;
mod rules;
mod track;

use std::{fmt, time::Duration};

use bytes::Bytes;
use futures::Stream;
use sha2::{Digest, Sha256};
use smallvec::SmallVec;
use tokio::task::yield_now;

pub use self::{
    again::Again,
    intake::{disputed, undamaged, unplaced},
    rules::Rules,
    track::{Track, changed, shorter},
};
use self::{filling::Filling, pace::Pace, ripe::Ripe};
use super::{
    blocks::{Blocks, Tally},
    content_hash::{BlockDigest, ContentHash},
};
use crate::{
    clock::SharedClock,
    fault::{Fault, Reason, Result},
    limits::{BLOCK_BYTES, HASH_STEP_BYTES},
};

/// One message of an upload stream behind the opening.
#[derive(Debug, Clone)]
pub enum Frame {
    /// Empty `bytes` keep the stream alive and do nothing else, whatever their offset.
    Chunk {
        offset: Option<u64>,
        bytes: Bytes,
        crc32c: Option<u32>,
    },
    Finish {
        content_hash: Option<ContentHash>,
        size: Option<u64>,
    },
    /// The next frame is not read, or this is said again, before this span is over, for the caller may send only so many bytes in a second. Its clocks
    /// stand still.
    HeldBack(Duration),
}

/// The bytes of one append: two blocks or more, one when the budget is short, fewer at the end; or the frames of a small file.
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
    /// What was held when this stream began.
    began_at: u64,
    /// The next byte the caller has to send.
    next_offset: u64,
    /// SHA-256 over the digests of all parts given; `None`: those before the start are unknown.
    outer: Option<Sha256>,
    filling: Filling,
    /// A part with all its bytes, perhaps not hashed to the end.
    ripe: Option<Ripe>,
    /// What is hashed of a part that is to be larger. It is given before a block is waited for.
    gathered: Option<Part>,
    /// Checked bytes that found no room yet.
    pending: Bytes,
    /// Bytes hashed since the last yield.
    hashed: usize,
    track: Track,
    again: Option<Box<Again>>,
    stage: Stage,
    /// The bytes are not those that are there, or not what their caller says.
    disputed: bool,
    /// Reading time since the last frame.
    idle: Duration,
    pace: Pace,
    /// Of the time to come, what is not the caller's.
    held_back: Duration,
    /// Hears `next_offset` whenever it moves.
    listener: Option<Listener>,
}

type Listener = Box<dyn Fn(u64) + Send>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Reading,
    /// `finish` came; what is behind it is not known yet.
    Finishing,
    Finished,
    HalfClosed,
    Failed,
}

impl<S: Stream<Item = Result<Frame>> + Unpin + Send> PartCutter<S> {
    /// `start_offset`: where this stream goes on, a multiple of 4 MiB. `digests_so_far`: of every block before it; `None`
    /// if they are not known, and then the whole file's hash is not either.
    ///
    /// # Errors
    /// `FILE_TOO_LARGE` if the declared size already is; `CONNECTOR_BUG` if the start is not on a block edge or does not
    /// fit the digests.
    pub fn new(
        frames: S,
        start_offset: u64,
        digests_so_far: Option<&[BlockDigest]>,
        blocks: Blocks,
        parameter: &str,
        rules: Rules,
        clock: SharedClock,
    ) -> Result<Self> {
        if let Some(size) = rules.declared_size {
            rules.allow("spec.total_size", size)?;
        }
        let block = BLOCK_BYTES as u64;
        if !start_offset.is_multiple_of(block)
            || digests_so_far.is_some_and(|known| known.len() as u64 != start_offset / block)
        {
            return Err(Fault::bug(format!("an upload cannot go on at {start_offset}")));
        }
        let outer = digests_so_far.map(|known| {
            let mut outer = Sha256::new();
            known.iter().for_each(|digest| outer.update(digest.as_bytes()));
            outer
        });
        Ok(Self {
            frames,
            blocks,
            parameter: parameter.to_owned(),
            rules,
            clock,
            tally: Tally::default(),
            part_offset: start_offset,
            began_at: start_offset,
            next_offset: start_offset,
            outer,
            filling: Filling::Nothing,
            ripe: None,
            gathered: None,
            pending: Bytes::new(),
            hashed: 0,
            track: Track::default(),
            again: Again::new(digests_so_far, start_offset),
            stage: Stage::Reading,
            disputed: false,
            idle: Duration::ZERO,
            pace: Pace::default(),
            held_back: Duration::ZERO,
            listener: None,
        })
    }

    /// `listener` is called with `next_offset` for every chunk that brings it further.
    #[must_use]
    pub fn heard_by(self, listener: impl Fn(u64) + Send + 'static) -> Self {
        Self { listener: Some(Box::new(listener)), ..self }
    }

    /// The next part; `None` when the stream has ended and every part was given. The last part comes only after what was
    /// declared has been compared, so whoever gets it may commit.
    /// Cancel-safe: what was read stays in the cutter.
    ///
    /// # Errors
    /// `CHUNK_CRC_MISMATCH`, `CONTENT_HASH_MISMATCH`, `FILE_TOO_LARGE`, `FRAME_ORDER`, `INVALID_FIELD`, `OFFSET_GAP`,
    /// `SIZE_MISMATCH`; `UPLOAD_IDLE` and `CONNECTOR_BUSY`, resumable; whatever the frames bring. After one, only
    /// `salvage` and `close` are of use.
    pub async fn next(&mut self) -> Result<Option<Part>> {
        if self.stage == Stage::Failed {
            return Err(Fault::bug("an upload stream was read on after it had failed"));
        }
        let part = self.advance().await;
        if part.is_err() {
            self.stage = Stage::Failed;
        }
        part
    }

    /// The whole blocks of what was read, for a stream that ends early but may be resumed (idle, drain, a lost caller):
    /// at most one part. The rest is dropped; frames are not read any more.
    pub async fn salvage(&mut self) -> Option<Part> {
        self.pending = Bytes::new();
        if !matches!(self.stage, Stage::HalfClosed) {
            self.stage = Stage::Failed;
        }
        if self.ripe.is_none() {
            self.ripen_whole_blocks();
        }
        self.ripe.take_if(|ripe| ripe.len() % BLOCK_BYTES != 0);
        if let Some(ripe) = &mut self.ripe {
            while !ripe.step() {
                yield_now().await;
            }
            self.gather();
        }
        self.gathered.take()
    }

    /// Whether the failure was that the bytes are not those that are there, or not what their caller says of them.
    pub fn is_disputed(&self) -> bool {
        self.disputed
    }

    /// Whether `finish` has been read and holds: the part given last was the last one.
    pub fn is_finished(&self) -> bool {
        self.stage == Stage::Finished
    }

    /// The next byte the caller has to send.
    pub fn next_offset(&self) -> u64 {
        self.next_offset
    }

    /// How the stream ended; call it when `next` has given `None`, or failed.
    pub fn close(self) -> Closing {
        if self.stage == Stage::Finished && self.ripe.is_none() && self.gathered.is_none() {
            let expected = self.rules.declared_hash;
            return Closing::Commit { hash: self.whole_hash(), size: self.next_offset, expected };
        }
        Closing::HalfClosed { given: self.gathered.as_ref().map_or(self.part_offset, |part| part.offset) }
    }

    async fn advance(&mut self) -> Result<Option<Part>> {
        loop {
            if let Some(ripe) = &mut self.ripe {
                while !ripe.step() {
                    yield_now().await;
                }
                self.gather();
                self.verify()?;
                if self.is_gathered() {
                    return Ok(self.gathered.take());
                }
            }
            match self.stage {
                Stage::Reading => {
                    // What waits for a block holds none that is being filled; what is in a hurry waits for nothing.
                    if self.gathered.is_some() && self.rules.is_hurried() || !self.make_room().await {
                        return Ok(self.gathered.take());
                    }
                    self.read().await?;
                }
                Stage::Finishing => {
                    self.expect_end().await?;
                    self.stage = Stage::Finished;
                    self.ripen_tail();
                    if self.ripe.is_none() {
                        self.verify()?;
                    }
                }
                Stage::Finished | Stage::HalfClosed | Stage::Failed => return Ok(self.gathered.take()),
            }
        }
    }

    /// Lets others run now and then.
    async fn rest(&mut self) {
        if self.hashed >= HASH_STEP_BYTES {
            self.hashed = 0;
            yield_now().await;
        }
    }

    /// One step, where there is room: the bytes that wait for it, then the next frame.
    async fn read(&mut self) -> Result<()> {
        if !self.pending.is_empty() {
            self.store();
            self.rest().await;
            return Ok(());
        }
        self.rest().await;
        let is_large = matches!(self.filling, Filling::Pair { .. }) || self.gathered.is_some();
        let hurry_at = self.rules.hurry_at.filter(|_| is_large);
        let frame = match hurry_at {
            None => self.pull().await?,
            Some(at) => match tokio::time::timeout_at(at, self.pull()).await {
                Ok(frame) => frame?,
                Err(_) => {
                    self.split_pair();
                    return Ok(());
                }
            },
        };
        match frame {
            Some(Frame::Chunk { offset, bytes, crc32c }) => self.accept(offset, bytes, crc32c)?,
            Some(Frame::Finish { content_hash, size }) => self.finish(content_hash, size)?,
            // `pull` keeps it.
            Some(Frame::HeldBack(_)) => {}
            None => {
                self.stage = Stage::HalfClosed;
                self.ripen_whole_blocks();
            }
        }
        Ok(())
    }

    /// What is ripe goes behind what was gathered before.
    fn gather(&mut self) {
        let Some(ripe) = self.ripe.take() else { return };
        let offset = self.part_offset;
        self.part_offset += ripe.len() as u64;
        let part = ripe.into_part(offset);
        if let Some(outer) = &mut self.outer {
            part.digests.iter().for_each(|digest| outer.update(digest.as_bytes()));
        }
        match &mut self.gathered {
            Some(gathered) => {
                gathered.pieces.extend(part.pieces);
                gathered.digests.extend(part.digests);
            }
            None => self.gathered = Some(part),
        }
    }

    /// Nothing is to be added to the part: it is as large as it should be, or as the budget lets it.
    fn is_gathered(&self) -> bool {
        let Some(part) = &self.gathered else { return false };
        let is_pair = part.digests.len().is_multiple_of(2) && part.len().is_multiple_of(BLOCK_BYTES as u64);
        let wanted = self.rules.part_bytes(self.part_offset) as u64;
        self.stage != Stage::Reading || !is_pair || part.len() >= wanted || self.is_all_there()
    }

    /// Every declared byte has come: only `finish` can follow.
    fn is_all_there(&self) -> bool {
        self.pending.is_empty() && self.next_offset > 0 && self.rules.declared_size == Some(self.next_offset)
    }

    fn whole_hash(&self) -> Option<ContentHash> {
        self.outer.clone().map(|outer| ContentHash::from_bytes(outer.finalize().into()))
    }

    /// Compares the whole file's hash, once all parts are given.
    fn verify(&mut self) -> Result<()> {
        let (Stage::Finished, Some(expected), Some(actual)) = (self.stage, self.rules.declared_hash, self.whole_hash())
        else {
            return Ok(());
        };
        if actual == expected {
            return Ok(());
        }
        self.disputed = true;
        Err(Fault::new(Reason::ContentHashMismatch, "the bytes that arrived are not those that content_hash names")
            .fact("expectedContentHash", expected)
            .fact("computedContentHash", actual))
    }
}

impl<S> fmt::Debug for PartCutter<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartCutter")
            .field("part_offset", &self.part_offset)
            .field("next_offset", &self.next_offset)
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
