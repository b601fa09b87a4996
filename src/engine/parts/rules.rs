//! What an upload may be: the limits it is held to and what its caller declared.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    engine::content_hash::ContentHash,
    fault::{Fault, Reason, Result},
    limits::{APPEND_BYTES, APPEND_BYTES_MAX, APPENDS_OF_A_FILE, DROPBOX_FILE_BYTES_MAX, UPLOAD_IDLE},
};

/// What one upload allows and what its caller declared.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Bytes of a full part: 8 MiB, more where the file is very large, or 4 MiB (anything less counts as that).
    pub append_bytes: usize,
    /// `max_file_size` of the application parameter.
    pub max_file_size: Option<u64>,
    /// `total_size` of the spec.
    pub declared_size: Option<u64>,
    /// `content_hash` of the spec.
    pub declared_hash: Option<ContentHash>,
    /// Nothing is committed without `declared_hash`: a stream of this upload had other bytes than are there.
    pub needs_hash: bool,
    /// A resumed stream names the offset of its first chunk.
    pub resumed: bool,
    /// The caller half-closes behind `finish` (client streaming): a frame behind it is then always found. A duplex caller
    /// may wait for the answer first, so only what has already arrived is looked at.
    pub finish_ends_stream: bool,
    /// Silence after which the stream ends, resumable.
    pub idle_max: Duration,
    /// From then on a part is one block: the caller's deadline is near, and what is in a part that is being filled is lost
    /// with it.
    pub hurry_at: Option<Instant>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            append_bytes: APPEND_BYTES,
            max_file_size: None,
            declared_size: None,
            declared_hash: None,
            needs_hash: false,
            resumed: false,
            finish_ends_stream: true,
            idle_max: UPLOAD_IDLE,
            hurry_at: None,
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

    /// Bytes of the next append, of a file that is known to be this large: it grows with the file, in pairs of blocks.
    pub(super) fn part_bytes(&self, known: u64) -> usize {
        if self.append_bytes < APPEND_BYTES || self.is_hurried() {
            return self.append_bytes.min(APPEND_BYTES);
        }
        let grown = known.max(self.declared_size.unwrap_or_default()) / APPENDS_OF_A_FILE;
        let grown = usize::try_from(grown).unwrap_or(usize::MAX).clamp(APPEND_BYTES, APPEND_BYTES_MAX);
        grown - grown % APPEND_BYTES
    }

    pub(super) fn is_hurried(&self) -> bool {
        self.hurry_at.is_some_and(|at| at <= Instant::now())
    }

    pub(super) fn size_mismatch(&self, actual: u64) -> Fault {
        let declared = self.declared_size.unwrap_or_default();
        let text = format!("total_size is {declared} but {actual} bytes came");
        Fault::new(Reason::SizeMismatch, text.clone())
            .fact("expectedSize", declared)
            .fact("actualSize", actual)
            .violation("total_size", "MISMATCH", text)
    }
}
