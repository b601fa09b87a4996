//! Uploads and downloads through the whole house: what a caller may send, what it gets, and what Dropbox saw of it.

mod ceiling;
mod commits;
mod conditions;
mod conflicts;
mod crowd;
mod deadlines;
mod download;
mod downloads_gone_wrong;
mod duplex;
mod frames;
mod lossy;
mod siblings;
mod stalled;
mod unsure;
mod upload;
mod uploads_gone_wrong;
