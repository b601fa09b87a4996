//! Work of more than one Dropbox call: uploads, downloads, walks, plans and the write gate.
//! What only computes (hashing, cutting, filtering) stands in files of its own without I/O.

pub mod batches;
pub mod blocks;
pub mod content_hash;
pub mod download;
pub mod filter;
pub mod gate;
mod glob;
pub mod parts;
pub mod plan;
mod sha_lanes;
pub mod stream_hash;
mod together;
pub mod upload;
pub mod verify;
pub mod walk;
