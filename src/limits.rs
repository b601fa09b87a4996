//! Every bound of the process, each with its reason and where it comes from. A bound that is not here does not exist.

use std::time::Duration;

pub const KIB: u64 = 1024;
pub const MIB: u64 = 1024 * KIB;

// ---- Dropbox's own rules (API-FACTS 6.1, 17) ----

/// Dropbox hashes content in blocks of this size, and concurrent sessions count in it.
pub const BLOCK_BYTES: usize = 4 * 1024 * 1024;
/// Largest body of one upload request.
pub const DROPBOX_BODY_BYTES_MAX: u64 = 150 * MIB;
/// Largest file through an upload session.
pub const DROPBOX_FILE_BYTES_MAX: u64 = 2_199_019_061_248;
/// An upload session lives this long from its start.
pub const UPLOAD_SESSION_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Entries of one listing page Dropbox takes as `limit`.
pub const LIST_LIMIT_MAX: u32 = 2000;

// ---- uploads (API-DESIGN a.4) ----

/// Largest `data` of one upload chunk. The natural first mistake is exactly this, so it works.
pub const CHUNK_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Decode limit of the data service: a chunk of 4 MiB and its frame.
pub const MESSAGE_BYTES_MAX: usize = CHUNK_BYTES_MAX + 64 * 1024;
/// Bytes of one append when the block budget allows two blocks.
pub const APPEND_BYTES: usize = 2 * BLOCK_BYTES;
/// A file up to this size goes out as one `files/upload`.
pub const SINGLE_UPLOAD_BYTES_MAX: u64 = APPEND_BYTES as u64;
/// From this declared size on an upload uses a concurrent session unless `parallel_appends` is 1.
pub const PARALLEL_FROM_BYTES: u64 = 32 * MIB;
/// Appends in flight of one upload by default: with the one being filled that is 12 blocks, 48 MiB.
pub const PARALLEL_APPENDS_DEFAULT: usize = 5;
/// Appends in flight a caller may ask for.
pub const PARALLEL_APPENDS_MAX: u32 = 16;
/// A stream that sends nothing while the server is reading ends after this, resumable.
pub const UPLOAD_IDLE: Duration = Duration::from_secs(60);
/// The block budget is counted in units of this size.
pub const BUDGET_UNIT_BYTES: usize = 64 * 1024;
/// A smaller block budget would not let one upload fill a part of two blocks beside its admission.
pub const BUDGET_BYTES_MIN: usize = 8 * BLOCK_BYTES;
/// A block that nobody used for this long goes back to the system.
pub const BLOCK_UNUSED: Duration = Duration::from_secs(30);
/// An upload that ends within this size keeps its frames as they came and takes no block.
pub const SMALL_UPLOAD_BYTES: usize = 256 * 1024;
/// More frames than these are joined in a block even if they are small: each costs bookkeeping of its own.
pub const SMALL_UPLOAD_FRAMES: usize = 32;
/// No task hashes more than this without a yield: 150 µs with one lane.
pub const HASH_STEP_BYTES: usize = 256 * 1024;
/// While others wait for their first block, an upload must fill at least this much in each `PACE_WINDOW` of the time in
/// which the server was reading; else a hundred dribbling callers stop the process.
pub const PACE_BYTES: u64 = 64 * KIB * 30;
pub const PACE_WINDOW: Duration = Duration::from_secs(30);
/// When an upload that was too slow for a full process may come back.
pub const PACE_RETRY: Duration = Duration::from_secs(5);
/// What is in flight when a caller vanishes is settled within this time.
pub const SETTLE_DEADLINE: Duration = Duration::from_secs(10);

// ---- downloads (API-DESIGN a.5) ----

/// Chunk size of a download unless the caller asks for another.
pub const DOWNLOAD_CHUNK_DEFAULT: usize = 256 * 1024;
pub const DOWNLOAD_CHUNK_MIN: usize = 16 * 1024;
pub const DOWNLOAD_CHUNK_MAX: usize = 2 * 1024 * 1024;
/// Times a broken body is taken up again before the caller hears of it.
pub const DOWNLOAD_RESUMES_MAX: u32 = 5;

// ---- filters (API-DESIGN a.2) ----

/// Globs of one list of an `ItemFilter`: all are tried on every item.
pub const FILTER_GLOBS_MAX: usize = 32;
pub const FILTER_GLOB_BYTES_MAX: usize = 1024;

// ---- answers ----

/// No unary answer and no stream message is larger: stock clients refuse more than 4 MiB.
pub const ANSWER_BYTES_MAX: usize = 3 * 1024 * 1024;
/// Raw results may be a little larger.
pub const RAW_RESULT_BYTES_MAX: usize = 3 * 1024 * 1024 + 512 * 1024;
/// Items of one `WalkFolder` batch.
pub const WALK_BATCH_ITEMS_MAX: usize = 500;
/// Encoded bytes of one `WalkFolder` batch.
pub const WALK_BATCH_BYTES_MAX: usize = 1024 * 1024;
