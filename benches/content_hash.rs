//! What hashing an upload costs: two blocks one after the other with `sha2`, the same two in lock-step, and CRC-32C.
//! `cargo bench --bench content_hash`. Prints the median of the pairwise ratios of nine pairs (lowest, highest).
#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use bytes::Bytes;
use dropbox_connector::{
    engine::content_hash::{BlockDigest, PairHasher},
    limits::{BLOCK_BYTES, HASH_STEP_BYTES},
};

/// Pairs of blocks in one run: 512 MiB, while both blocks stay in the cache as they do in an upload.
const ROUNDS: usize = 64;

fn time(mut work: impl FnMut()) -> Duration {
    let start = Instant::now();
    (0..ROUNDS).for_each(|_| work());
    start.elapsed()
}

/// The best seconds for a GiB of each, and the pairwise ratios from the lowest to the highest.
#[derive(Debug)]
pub struct Measured {
    pub plain: f64,
    pub pair: f64,
    pub crc: f64,
    pub ratios: Vec<f64>,
}

pub fn measure() -> Measured {
    let first: Bytes = (0..BLOCK_BYTES).map(|i| (i % 251) as u8).collect();
    let second: Bytes = (0..BLOCK_BYTES).map(|i| (i % 241) as u8).collect();
    let plain = || {
        black_box((BlockDigest::of(black_box(&first)), BlockDigest::of(black_box(&second))));
    };
    let pair = || {
        let mut lanes = PairHasher::begin(first.clone());
        black_box(&second).chunks(HASH_STEP_BYTES).for_each(|step| lanes.update_second(step));
        black_box(lanes.finish());
    };
    let crc = || {
        black_box((crc_fast::crc32_iscsi(black_box(&first)), crc_fast::crc32_iscsi(black_box(&second))));
    };
    let gib = (2 * BLOCK_BYTES * ROUNDS) as f64 / (1u64 << 30) as f64;
    let mut ratios = Vec::new();
    let (mut plain_best, mut pair_best, mut crc_best) = (Duration::MAX, Duration::MAX, Duration::MAX);
    for _ in 0..9 {
        let (one, two, check) = (time(plain), time(pair), time(crc));
        ratios.push(one.as_secs_f64() / two.as_secs_f64());
        (plain_best, pair_best, crc_best) = (plain_best.min(one), pair_best.min(two), crc_best.min(check));
    }
    ratios.sort_by(f64::total_cmp);
    let per_gib = |best: Duration| best.as_secs_f64() / gib;
    Measured { plain: per_gib(plain_best), pair: per_gib(pair_best), crc: per_gib(crc_best), ratios }
}

fn main() {
    let Measured { plain, pair, crc, ratios } = measure();
    println!("sha2, one lane     {plain:.3} s/GiB");
    println!("lock-step, two     {pair:.3} s/GiB");
    println!("crc32c             {crc:.3} s/GiB");
    println!("ratio              {:.2} ({:.2}-{:.2})", ratios[ratios.len() / 2], ratios[0], ratios[ratios.len() - 1]);
}
