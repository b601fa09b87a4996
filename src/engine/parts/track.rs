//! Where the chunks of a stream lie in the file: each names its offset, or lies right behind the one before. What is held may
//! reach further, for whoever goes on after a break may begin again below it.

use crate::fault::{Fault, Reason, Result};

/// How far the chunks of one stream have come, as their caller counts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Track {
    end: Option<u64>,
}

impl Track {
    /// Where a chunk begins. `None`: it is the first, and does not say.
    pub fn start(self, offset: Option<u64>) -> Option<u64> {
        offset.or(self.end)
    }

    /// A chunk ended there.
    pub fn goes_to(&mut self, end: u64) {
        self.end = Some(end);
    }

    /// The caller says that the file ends where its last chunk did; so many bytes of it are held.
    ///
    /// # Errors
    /// `SIZE_MISMATCH`: the caller's file is shorter than what was sent of it before.
    pub fn finish(self, held: u64) -> Result<()> {
        match self.end.filter(|end| *end < held) {
            Some(end) => Err(shorter(end).fact("actualSize", held)),
            None => Ok(()),
        }
    }
}

/// The caller's file ends there, and more was sent of it before.
pub fn shorter(end: u64) -> Fault {
    let text = format!("the last chunk ended at {end}, but bytes behind that were sent before");
    Fault::new(Reason::SizeMismatch, text.clone())
        .fact("expectedSize", end)
        .violation("chunk.data", "MISMATCH", text)
        .with_remedy("start a new upload: this one holds bytes that your file does not have any more")
}

/// The caller's file holds something else there than what was sent of it before.
pub fn changed(offset: u64) -> Fault {
    let text = format!("the bytes at {offset} are not the ones sent before: the source changed; start a new upload");
    Fault::new(Reason::ContentHashMismatch, text)
        .fact("offset", offset)
        .with_remedy("start a new upload: this one holds bytes that are not those of your file")
}
