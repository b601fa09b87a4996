//! Transfers under way, for the metrics: how many, and how many bytes they moved.

use metrics::{Counter, counter, gauge};

use crate::telemetry::{TRANSFER_ACTIVE, TRANSFER_BYTES, TRANSFER_RESUMED};

/// One transfer under way; dropping it is its end.
pub(super) struct Active {
    direction: &'static str,
    bytes: Counter,
}

impl Active {
    /// `direction` is `upload` or `download`.
    pub fn new(direction: &'static str) -> Active {
        gauge!(TRANSFER_ACTIVE, "direction" => direction).increment(1.0);
        Active { direction, bytes: counter!(TRANSFER_BYTES, "direction" => direction) }
    }

    /// It is the continuation of an earlier one.
    pub fn resumed(&self) {
        counter!(TRANSFER_RESUMED, "direction" => self.direction).increment(1);
    }

    pub fn moved(&self, bytes: usize) {
        self.bytes.increment(bytes as u64);
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        gauge!(TRANSFER_ACTIVE, "direction" => self.direction).decrement(1.0);
    }
}
