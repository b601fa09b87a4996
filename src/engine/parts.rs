//! Cuts the frames of an upload into parts: whole blocks of 4 MiB except at the end, hashed and within the block budget.
//! Pure but for the frames it pulls, the blocks it asks for and the clocks of idleness and pace; knows neither Dropbox nor
//! sessions.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use bytes::{Buf, Bytes};
use futures::{FutureExt, Stream, StreamExt};
use sha2::{Digest, Sha256};
use smallvec::{SmallVec, smallvec};
use tokio::task::{coop::consume_budget, yield_now};

use super::{
    blocks::{Block, Blocks, Tally, Units},
    content_hash::{BlockDigest, ContentHash, PairHasher},
    ripe::{Ripe, keep},
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
    Chunk {
        offset: Option<u64>,
        bytes: Bytes,
        crc32c: Option<u32>,
    },
    Finish {
        content_hash: Option<ContentHash>,
        size: Option<u64>,
    },
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
    /// Silence after which the stream ends, resumable.
    pub idle_max: Duration,
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
            idle_max: UPLOAD_IDLE,
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
    /// A part with all its bytes, perhaps not hashed to the end.
    ripe: Option<Ripe>,
    /// Checked bytes that found no room yet.
    pending: Bytes,
    /// Bytes hashed since the last yield.
    hashed: usize,
    seen_chunk: bool,
    stage: Stage,
    /// Reading time since the last frame.
    idle: Duration,
    pace: Pace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Reading,
    /// `finish` came; what is behind it is not known yet.
    Finishing,
    Finished,
    HalfClosed,
    Failed,
}

enum Filling {
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

/// Reading time and bytes of the present window.
#[derive(Default)]
struct Pace {
    read: Duration,
    bytes: u64,
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
            next_offset: start_offset,
            outer,
            filling: Filling::Nothing,
            ripe: None,
            pending: Bytes::new(),
            hashed: 0,
            seen_chunk: false,
            stage: Stage::Reading,
            idle: Duration::ZERO,
            pace: Pace::default(),
        })
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
        let ripe = self.ripe.as_mut()?;
        if ripe.len() % BLOCK_BYTES != 0 {
            self.ripe = None;
            return None;
        }
        while !ripe.step() {
            yield_now().await;
        }
        self.give()
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
        if self.stage == Stage::Finished && self.ripe.is_none() {
            let expected = self.rules.declared_hash;
            return Closing::Commit { hash: self.whole_hash(), size: self.next_offset, expected };
        }
        Closing::HalfClosed { given: self.part_offset }
    }

    async fn advance(&mut self) -> Result<Option<Part>> {
        loop {
            if let Some(ripe) = &mut self.ripe {
                while !ripe.step() {
                    yield_now().await;
                }
                let part = self.give();
                self.verify()?;
                return Ok(part);
            }
            match self.stage {
                Stage::Reading => self.read().await?,
                Stage::Finishing => {
                    self.expect_end().await?;
                    self.stage = Stage::Finished;
                    self.ripen_tail();
                    if self.ripe.is_none() {
                        self.verify()?;
                    }
                }
                Stage::Finished | Stage::HalfClosed | Stage::Failed => return Ok(None),
            }
        }
    }

    /// One step: room, then the bytes that wait for it, then the next frame.
    async fn read(&mut self) -> Result<()> {
        self.make_room().await;
        if !self.pending.is_empty() {
            self.store();
            if self.hashed >= HASH_STEP_BYTES {
                self.hashed = 0;
                yield_now().await;
            }
            return Ok(());
        }
        match self.pull().await? {
            Some(Frame::Chunk { offset, bytes, crc32c }) => self.accept(offset, bytes, crc32c)?,
            Some(Frame::Finish { content_hash, size }) => self.finish(content_hash, size)?,
            None => {
                self.stage = Stage::HalfClosed;
                self.ripen_whole_blocks();
            }
        }
        Ok(())
    }

    /// Nothing that is being filled is held while this waits.
    async fn make_room(&mut self) {
        match &mut self.filling {
            // Every declared byte is there: only `finish` can follow, and that needs no memory.
            Filling::Nothing
                if self.pending.is_empty()
                    && self.next_offset > 0
                    && self.rules.declared_size == Some(self.next_offset) => {}
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
                    return;
                }
                let block = match self.blocks.more(0) {
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
    }

    /// Moves pending bytes to where there is room for them; a part that is full becomes ripe.
    fn store(&mut self) {
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

    fn first_is_full(&mut self) {
        let Filling::First(block) = std::mem::replace(&mut self.filling, Filling::Nothing) else { return };
        let is_last = self.pending.is_empty() && self.rules.declared_size == Some(self.next_offset);
        let second = match self.rules.append_bytes >= 2 * BLOCK_BYTES && !is_last {
            true => self.blocks.more(self.tally.held()),
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
    fn ripen_tail(&mut self) {
        self.ripe = match std::mem::replace(&mut self.filling, Filling::Nothing) {
            Filling::Nothing => None,
            Filling::Small { len: 0, .. } => None,
            Filling::Small { frames, len, units } => Some(Ripe::alone(keep(frames, len, units))),
            Filling::First(block) if block.is_empty() => None,
            Filling::First(block) => Some(Ripe::alone(smallvec![block.freeze()])),
            Filling::Pair { lanes, second } => {
                let second = (!second.is_empty()).then(|| second.freeze());
                Some(Ripe::pair(lanes, second))
            }
        };
    }

    /// Drops what does not fill a block.
    fn ripen_whole_blocks(&mut self) {
        self.ripe = match std::mem::replace(&mut self.filling, Filling::Nothing) {
            Filling::Pair { lanes, .. } => Some(Ripe::pair(lanes, None)),
            Filling::Nothing | Filling::Small { .. } | Filling::First(_) => None,
        };
    }

    fn give(&mut self) -> Option<Part> {
        let ripe = self.ripe.take()?;
        let offset = self.part_offset;
        self.part_offset += ripe.len() as u64;
        let part = ripe.into_part(offset);
        if let Some(outer) = &mut self.outer {
            part.digests.iter().for_each(|digest| outer.update(digest.as_bytes()));
        }
        Some(part)
    }

    fn whole_hash(&self) -> Option<ContentHash> {
        self.outer.clone().map(|outer| ContentHash::from_bytes(outer.finalize().into()))
    }

    fn accept(&mut self, offset: Option<u64>, mut bytes: Bytes, crc32c: Option<u32>) -> Result<()> {
        if let Some(sent) = crc32c {
            let arrived = crc_fast::crc32_iscsi(&bytes);
            if arrived != sent {
                return Err(Fault::new(
                    Reason::ChunkCrcMismatch,
                    format!("the chunk at offset {} arrived damaged", offset.unwrap_or(self.next_offset)),
                )
                .fact("expectedCrc32c", format_args!("{sent:08x}"))
                .fact("actualCrc32c", format_args!("{arrived:08x}")));
            }
        }
        if bytes.is_empty() {
            return Ok(());
        }
        if self.rules.resumed && !self.seen_chunk && offset.is_none() {
            return Err(Fault::field(
                "chunk.write_offset",
                "REQUIRED",
                "the first chunk of a resumed stream names its offset",
            ));
        }
        self.seen_chunk = true;
        let offset = offset.unwrap_or(self.next_offset);
        if offset > self.next_offset {
            return Err(Fault::new(
                Reason::OffsetGap,
                format!("a chunk at offset {offset} came where {} was expected", self.next_offset),
            )
            .fact("writeOffset", offset)
            .fact("expectedOffset", self.next_offset));
        }
        let known = self.next_offset - offset;
        if known >= bytes.len() as u64 {
            return Ok(());
        }
        bytes.advance(known as usize);
        let reached = self.next_offset + bytes.len() as u64;
        self.rules.allow("chunk.data", reached)?;
        if self.rules.declared_size.is_some_and(|declared| reached > declared) {
            return Err(self.rules.size_mismatch(reached));
        }
        self.next_offset = reached;
        self.pace.bytes += bytes.len() as u64;
        self.pending = bytes;
        Ok(())
    }

    fn finish(&mut self, content_hash: Option<ContentHash>, size: Option<u64>) -> Result<()> {
        let rules = &mut self.rules;
        if let (Some(declared), Some(size)) = (rules.declared_size, size)
            && declared != size
        {
            let text = format!("is {size} but spec.total_size was {declared}");
            return Err(Fault::field("finish.total_size", "CONTRADICTION", text));
        }
        if let (Some(declared), Some(hash)) = (rules.declared_hash, content_hash)
            && declared != hash
        {
            return Err(Fault::field("finish.content_hash", "CONTRADICTION", "is not the content_hash of the spec"));
        }
        rules.declared_size = rules.declared_size.or(size);
        rules.declared_hash = rules.declared_hash.or(content_hash);
        if rules.declared_size.is_some_and(|declared| declared != self.next_offset) {
            return Err(rules.size_mismatch(self.next_offset));
        }
        self.stage = Stage::Finishing;
        Ok(())
    }

    async fn expect_end(&mut self) -> Result<()> {
        let behind = match self.rules.finish_ends_stream {
            true => self.pull().await?,
            false => self.frames.next().now_or_never().flatten().transpose()?,
        };
        match behind {
            None => Ok(()),
            Some(_) => Err(Fault::new(Reason::FrameOrder, "a frame came behind finish")),
        }
    }

    /// Compares the whole file's hash, once all parts are given.
    fn verify(&self) -> Result<()> {
        let (Stage::Finished, Some(expected), Some(actual)) = (self.stage, self.rules.declared_hash, self.whole_hash())
        else {
            return Ok(());
        };
        if actual == expected {
            return Ok(());
        }
        Err(Fault::new(Reason::ContentHashMismatch, "the bytes that arrived are not those that content_hash names")
            .fact("expectedContentHash", expected)
            .fact("actualContentHash", actual))
    }

    /// The next frame. The clocks of idleness and pace run here and nowhere else.
    async fn pull(&mut self) -> Result<Option<Frame>> {
        // A stream that is always ready must not keep the thread.
        consume_budget().await;
        loop {
            self.judge()?;
            if let Some(frame) = self.frames.next().now_or_never() {
                self.idle = Duration::ZERO;
                return frame.transpose();
            }
            let wait = (self.rules.idle_max - self.idle).min(PACE_WINDOW - self.pace.read);
            let alarm = self.clock.sleep(wait);
            let since = self.clock.now();
            let _waiting = Waiting { clock: &self.clock, since, clocks: [&mut self.idle, &mut self.pace.read] };
            tokio::select! {
                biased;
                frame = self.frames.next() => {
                    drop(_waiting);
                    self.idle = Duration::ZERO;
                    return frame.transpose();
                }
                () = alarm => {}
            }
        }
    }

    fn judge(&mut self) -> Result<()> {
        if self.idle >= self.rules.idle_max {
            let text = format!("nothing came for {} s", self.rules.idle_max.as_secs());
            return Err(Fault::new(Reason::UploadIdle, text).retry_after(Duration::ZERO));
        }
        if self.pace.read >= PACE_WINDOW {
            let pace = std::mem::take(&mut self.pace);
            if pace.bytes < PACE_BYTES && self.blocks.waiting() > 0 {
                return Err(Fault::new(
                    Reason::ConnectorBusy,
                    "the upload was too slow while others waited for memory; go on later",
                )
                .retry_after(PACE_RETRY));
            }
        }
        Ok(())
    }
}

/// Adds the time it lived to its clocks, also when the wait is cancelled.
struct Waiting<'a> {
    clock: &'a SharedClock,
    since: SystemTime,
    clocks: [&'a mut Duration; 2],
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let span = self.clock.now().duration_since(self.since).unwrap_or_default();
        for clock in &mut self.clocks {
            **clock += span;
        }
    }
}

impl Rules {
    /// Whether a file of `size` bytes may be; `field` is what says so.
    ///
    /// # Errors
    /// `FILE_TOO_LARGE`
    pub fn allow(&self, field: &'static str, size: u64) -> Result<()> {
        let limit = self.max_file_size.unwrap_or(u64::MAX).min(DROPBOX_FILE_BYTES_MAX);
        if size <= limit {
            return Ok(());
        }
        let text = format!("a file may have at most {limit} bytes");
        Err(Fault::new(Reason::FileTooLarge, text.clone()).fact("limitBytes", limit).violation(
            field,
            "OUT_OF_RANGE",
            text,
        ))
    }

    fn size_mismatch(&self, actual: u64) -> Fault {
        let declared = self.declared_size.unwrap_or_default();
        let text = format!("total_size is {declared} but {actual} bytes came");
        Fault::new(Reason::SizeMismatch, text.clone())
            .fact("expectedSize", declared)
            .fact("actualSize", actual)
            .violation("total_size", "MISMATCH", text)
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
#[path = "parts_tests.rs"]
mod tests;
