//! What a frame must be to be taken: whole, in order, within what was allowed and declared.

use bytes::Bytes;
use futures::{FutureExt as _, Stream, StreamExt as _};

use super::{Frame, PartCutter, Stage};
use crate::{
    engine::content_hash::ContentHash,
    fault::{Fault, Reason, Result},
};

impl<S: Stream<Item = Result<Frame>> + Unpin + Send> PartCutter<S> {
    pub(super) fn accept(&mut self, offset: Option<u64>, mut bytes: Bytes, crc32c: Option<u32>) -> Result<()> {
        let start = self.track.start(offset);
        let offset = start.unwrap_or(self.next_offset);
        undamaged(offset, &bytes, crc32c)?;
        if bytes.is_empty() {
            return Ok(());
        }
        if self.rules.resumed && start.is_none() {
            return Err(unplaced());
        }
        if offset > self.next_offset {
            return Err(Fault::new(
                Reason::OffsetGap,
                format!("a chunk at offset {offset} came where {} was expected", self.next_offset),
            )
            .fact("writeOffset", offset)
            .fact("expectedOffset", self.next_offset));
        }
        self.track.goes_to(offset + bytes.len() as u64);
        self.pace.bytes += bytes.len() as u64;
        let known = usize::try_from(self.next_offset - offset).unwrap_or(usize::MAX).min(bytes.len());
        let sent_before = bytes.split_to(known);
        if let Some(again) = &mut self.again {
            self.hashed += again.compare(offset, sent_before).inspect_err(|_| self.disputed = true)?;
        }
        if bytes.is_empty() {
            return Ok(());
        }
        let reached = self.next_offset + bytes.len() as u64;
        self.rules.allow("chunk.data", reached)?;
        if self.rules.declared_size.is_some_and(|declared| reached > declared) {
            return Err(self.rules.size_mismatch(reached));
        }
        self.next_offset = reached;
        if let Some(listener) = &self.listener {
            listener(reached);
        }
        self.pending = bytes;
        Ok(())
    }

    pub(super) fn finish(&mut self, content_hash: Option<ContentHash>, size: Option<u64>) -> Result<()> {
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
        if rules.needs_hash && rules.declared_hash.is_none() {
            return Err(disputed("finish.content_hash"));
        }
        // Less than was held when this stream began is a source that became shorter.
        let shorter = self.track.finish(self.next_offset);
        self.disputed = shorter.is_err() || rules.declared_size.is_some_and(|declared| declared < self.began_at);
        if rules.declared_size.is_some_and(|declared| declared != self.next_offset) {
            return Err(rules.size_mismatch(self.next_offset));
        }
        shorter?;
        self.stage = Stage::Finishing;
        Ok(())
    }

    pub(super) async fn expect_end(&mut self) -> Result<()> {
        let behind = match self.rules.finish_ends_stream {
            true => self.pull().await?,
            false => self.frames.next().now_or_never().flatten().transpose()?,
        };
        match behind {
            None => Ok(()),
            Some(_) => Err(Fault::new(Reason::FrameOrder, "a frame came behind finish")),
        }
    }
}

/// The bytes of a chunk are those that its sender summed up.
///
/// # Errors
/// `CHUNK_CRC_MISMATCH`.
pub fn undamaged(offset: u64, bytes: &[u8], crc32c: Option<u32>) -> Result<()> {
    let Some(sent) = crc32c else { return Ok(()) };
    let arrived = crc_fast::crc32_iscsi(bytes);
    if arrived == sent {
        return Ok(());
    }
    Err(Fault::new(Reason::ChunkCrcMismatch, format!("the chunk at offset {offset} arrived damaged"))
        .fact("expectedCrc32c", format_args!("{sent:08x}"))
        .fact("actualCrc32c", format_args!("{arrived:08x}")))
}

/// Nobody knows where the first chunk of a resumed stream belongs.
pub fn unplaced() -> Fault {
    Fault::field("chunk.write_offset", "REQUIRED", "the first chunk of a resumed stream names its offset")
}

/// What is there may be of two sources, and only a hash tells which of them is meant. `field`: the one that has it.
pub fn disputed(field: &'static str) -> Fault {
    let text = "a stream of this upload had other bytes than are there, or than its content_hash named: a hash of the whole \
                has to say which ones are meant";
    Fault::new(Reason::ContentHashMismatch, text)
        .violation(field, "REQUIRED", text)
        .with_remedy("start a new upload; or, if what was sent first is what you mean, finish with its content_hash")
}
