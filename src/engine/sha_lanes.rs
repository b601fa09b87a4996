//! SHA-256 compression of two independent messages in lock-step: the SHA instructions have room for two chains per core.
//! How much that gains is the CPU's affair: an early prototype had 1.9 times on Zen 4; this code has 1.1 on an Intel Xeon
//! of model 207, whose SHA unit two chains already fill (`cargo bench --bench content_hash`).
//! Only this file holds `unsafe`. Without those instructions `sha2` compresses one lane after the other.

use sha2::block_api::compress256;

/// Bytes of one SHA-256 compression.
pub(super) const STEP_BYTES: usize = 64;

const START: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// One SHA-256 in progress.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    state: [u32; 8],
    tail: [u8; STEP_BYTES],
    tail_len: usize,
    total: u64,
}

impl Lane {
    pub(super) fn new() -> Self {
        Self { state: START, tail: [0; STEP_BYTES], tail_len: 0, total: 0 }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        let bytes = match self.fill_tail(bytes) {
            Some(rest) => rest,
            None => return,
        };
        let (steps, rest) = bytes.as_chunks::<STEP_BYTES>();
        compress256(&mut self.state, steps);
        self.keep(rest);
    }

    /// Takes bytes into a tail that is not empty. `None`: all of them went there and the tail is still short.
    fn fill_tail<'a>(&mut self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        self.total += bytes.len() as u64;
        if self.tail_len == 0 {
            return Some(bytes);
        }
        let taken = bytes.len().min(STEP_BYTES - self.tail_len);
        self.tail[self.tail_len..self.tail_len + taken].copy_from_slice(&bytes[..taken]);
        self.tail_len += taken;
        if self.tail_len < STEP_BYTES {
            return None;
        }
        self.tail_len = 0;
        compress256(&mut self.state, &[self.tail]);
        Some(&bytes[taken..])
    }

    fn keep(&mut self, rest: &[u8]) {
        self.tail[..rest.len()].copy_from_slice(rest);
        self.tail_len = rest.len();
    }

    pub(super) fn finish(mut self) -> [u8; 32] {
        let bits = self.total * 8;
        let mut end = [0u8; 2 * STEP_BYTES];
        end[..self.tail_len].copy_from_slice(&self.tail[..self.tail_len]);
        end[self.tail_len] = 0x80;
        let len = if self.tail_len < STEP_BYTES - 8 { STEP_BYTES } else { 2 * STEP_BYTES };
        end[len - 8..len].copy_from_slice(&bits.to_be_bytes());
        compress256(&mut self.state, end[..len].as_chunks::<STEP_BYTES>().0);
        let mut digest = [0; 32];
        for (bytes, word) in digest.chunks_exact_mut(4).zip(self.state) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
        digest
    }
}

/// Feeds lane `a` from the front of `ahead`, which is all there already, and lane `b` with all of `arriving`, in
/// lock-step as far as both reach. Returns how many bytes of `ahead` were taken.
/// Lane `a` must stand on a step, which it does as long as it is fed only by this function.
pub(super) fn update_pair(a: &mut Lane, ahead: &[u8], b: &mut Lane, arriving: &[u8]) -> usize {
    debug_assert_eq!(a.tail_len, 0, "lane a stands on a step");
    let Some(arriving) = b.fill_tail(arriving) else { return 0 };
    let (steps_a, _) = ahead.as_chunks::<STEP_BYTES>();
    let (steps_b, rest) = arriving.as_chunks::<STEP_BYTES>();
    let both = steps_a.len().min(steps_b.len());
    compress_pair(&mut a.state, &steps_a[..both], &mut b.state, &steps_b[..both]);
    compress256(&mut b.state, &steps_b[both..]);
    b.keep(rest);
    a.total += (both * STEP_BYTES) as u64;
    both * STEP_BYTES
}

fn compress_pair(a: &mut [u32; 8], steps_a: &[[u8; STEP_BYTES]], b: &mut [u32; 8], steps_b: &[[u8; STEP_BYTES]]) {
    #[cfg(target_arch = "x86_64")]
    if lock_step_available() {
        #[expect(unsafe_code, reason = "the CPU was asked for these features in the line above")]
        // SAFETY: `sha`, `sse4.1` and `ssse3` are there.
        unsafe {
            x86::compress_pair(a, steps_a, b, steps_b);
        }
        return;
    }
    compress256(a, steps_a);
    compress256(b, steps_b);
}

/// Whether this CPU hashes two lanes at the price of one.
#[cfg(target_arch = "x86_64")]
pub(super) fn lock_step_available() -> bool {
    is_x86_feature_detected!("sha") && is_x86_feature_detected!("sse4.1") && is_x86_feature_detected!("ssse3")
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::STEP_BYTES;

    #[repr(align(16))]
    struct Constants([u32; 64]);

    #[rustfmt::skip]
    static K: Constants = Constants([
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
        0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
        0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
        0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
        0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
    ]);

    /// Four rounds of both lanes; `$w` are the message words of the group.
    macro_rules! rounds {
        ($group:literal, $a0:ident $a1:ident $wa:expr, $b0:ident $b1:ident $wb:expr) => {
            let k = load(&K.0[4 * $group..4 * $group + 4]);
            let (ka, kb) = (_mm_add_epi32($wa, k), _mm_add_epi32($wb, k));
            $a1 = _mm_sha256rnds2_epu32($a1, $a0, ka);
            $b1 = _mm_sha256rnds2_epu32($b1, $b0, kb);
            $a0 = _mm_sha256rnds2_epu32($a0, $a1, _mm_shuffle_epi32(ka, 0x0e));
            $b0 = _mm_sha256rnds2_epu32($b0, $b1, _mm_shuffle_epi32(kb, 0x0e));
        };
    }

    /// The four message words that follow `$w0 $w1 $w2 $w3`.
    macro_rules! following {
        ($w0:ident $w1:ident $w2:ident $w3:ident) => {
            _mm_sha256msg2_epu32(_mm_add_epi32(_mm_sha256msg1_epu32($w0, $w1), _mm_alignr_epi8($w3, $w2, 4)), $w3)
        };
    }

    #[inline]
    #[target_feature(enable = "sha,sse4.1,ssse3")]
    fn load(words: &[u32]) -> __m128i {
        assert!(words.len() == 4);
        #[expect(unsafe_code, reason = "an unaligned load has no safe form")]
        // SAFETY: 16 bytes are there, as asserted, and the load needs no alignment.
        unsafe {
            _mm_loadu_si128(words.as_ptr().cast())
        }
    }

    #[inline]
    #[target_feature(enable = "sha,sse4.1,ssse3")]
    fn message(step: &[u8; STEP_BYTES], at: usize, swap: __m128i) -> __m128i {
        let bytes: &[u8; 16] = &step.as_chunks().0[at];
        #[expect(unsafe_code, reason = "an unaligned load has no safe form")]
        // SAFETY: `bytes` is 16 bytes long and the load needs no alignment.
        let words = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
        _mm_shuffle_epi8(words, swap)
    }

    /// The order in which the instructions want the state: `ABEF` and `CDGH`.
    #[inline]
    #[target_feature(enable = "sha,sse4.1,ssse3")]
    fn open(state: &[u32; 8]) -> (__m128i, __m128i) {
        let abcd = _mm_shuffle_epi32(load(&state[..4]), 0xb1);
        let efgh = _mm_shuffle_epi32(load(&state[4..]), 0x1b);
        (_mm_alignr_epi8(abcd, efgh, 8), _mm_blend_epi16(efgh, abcd, 0xf0))
    }

    #[inline]
    #[target_feature(enable = "sha,sse4.1,ssse3")]
    fn close(state: &mut [u32; 8], abef: __m128i, cdgh: __m128i) {
        let feba = _mm_shuffle_epi32(abef, 0x1b);
        let dchg = _mm_shuffle_epi32(cdgh, 0xb1);
        let (low, high) = (_mm_blend_epi16(feba, dchg, 0xf0), _mm_alignr_epi8(dchg, feba, 8));
        let (first, last) = state.split_at_mut(4);
        #[expect(unsafe_code, reason = "an unaligned store has no safe form")]
        // SAFETY: each half of the state is 16 bytes long and the store needs no alignment.
        unsafe {
            _mm_storeu_si128(first.as_mut_ptr().cast(), low);
            _mm_storeu_si128(last.as_mut_ptr().cast(), high);
        }
    }

    #[target_feature(enable = "sha,sse4.1,ssse3")]
    pub(super) fn compress_pair(
        a: &mut [u32; 8],
        steps_a: &[[u8; STEP_BYTES]],
        b: &mut [u32; 8],
        steps_b: &[[u8; STEP_BYTES]],
    ) {
        let swap = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
        let ((mut a0, mut a1), (mut b0, mut b1)) = (open(a), open(b));
        for (step_a, step_b) in steps_a.iter().zip(steps_b) {
            let (a0_before, a1_before, b0_before, b1_before) = (a0, a1, b0, b1);
            let (mut p0, mut q0) = (message(step_a, 0, swap), message(step_b, 0, swap));
            rounds!(0, a0 a1 p0, b0 b1 q0);
            let (mut p1, mut q1) = (message(step_a, 1, swap), message(step_b, 1, swap));
            rounds!(1, a0 a1 p1, b0 b1 q1);
            let (mut p2, mut q2) = (message(step_a, 2, swap), message(step_b, 2, swap));
            rounds!(2, a0 a1 p2, b0 b1 q2);
            let (mut p3, mut q3) = (message(step_a, 3, swap), message(step_b, 3, swap));
            rounds!(3, a0 a1 p3, b0 b1 q3);
            macro_rules! sixteen {
                ($g0:literal $g1:literal $g2:literal $g3:literal) => {
                    (p0, q0) = (following!(p0 p1 p2 p3), following!(q0 q1 q2 q3));
                    rounds!($g0, a0 a1 p0, b0 b1 q0);
                    (p1, q1) = (following!(p1 p2 p3 p0), following!(q1 q2 q3 q0));
                    rounds!($g1, a0 a1 p1, b0 b1 q1);
                    (p2, q2) = (following!(p2 p3 p0 p1), following!(q2 q3 q0 q1));
                    rounds!($g2, a0 a1 p2, b0 b1 q2);
                    (p3, q3) = (following!(p3 p0 p1 p2), following!(q3 q0 q1 q2));
                    rounds!($g3, a0 a1 p3, b0 b1 q3);
                };
            }
            sixteen!(4 5 6 7);
            sixteen!(8 9 10 11);
            sixteen!(12 13 14 15);
            (a0, a1) = (_mm_add_epi32(a0, a0_before), _mm_add_epi32(a1, a1_before));
            (b0, b1) = (_mm_add_epi32(b0, b0_before), _mm_add_epi32(b1, b1_before));
        }
        close(a, a0, a1);
        close(b, b0, b1);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    use super::*;

    fn bytes(len: usize, seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        (0..len)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect()
    }

    /// Both digests, the second message fed in pieces of the given lengths, over and over.
    fn pair(first: &[u8], second: &[u8], pieces: &[usize]) -> ([u8; 32], [u8; 32]) {
        let (mut a, mut b) = (Lane::new(), Lane::new());
        let (mut at, mut rest) = (0, second);
        for len in pieces.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, left) = rest.split_at((*len).min(rest.len()));
            at += update_pair(&mut a, &first[at..], &mut b, piece);
            rest = left;
        }
        a.update(&first[at..]);
        (a.finish(), b.finish())
    }

    #[test]
    fn every_length_around_a_step_pads_as_sha2_does() {
        for len in 0..=300 {
            let bytes = bytes(len, 7);
            let mut lane = Lane::new();
            lane.update(&bytes);
            assert_eq!(lane.finish(), <[u8; 32]>::from(Sha256::digest(&bytes)), "length {len}");
        }
    }

    proptest! {
        #[test]
        fn two_lanes_give_what_sha2_gives_for_each(
            first in 0usize..5000, second in 0usize..5000, seed: u64, pieces in prop::collection::vec(1usize..700, 1..8),
        ) {
            let (first, second) = (bytes(first, seed), bytes(second, !seed));
            let (a, b) = pair(&first, &second, &pieces);
            prop_assert_eq!(a, <[u8; 32]>::from(Sha256::digest(&first)));
            prop_assert_eq!(b, <[u8; 32]>::from(Sha256::digest(&second)));
        }

        #[test]
        fn the_lock_step_equals_one_lane_after_the_other(steps in 0usize..20, seed: u64) {
            let (first, second) = (bytes(steps * STEP_BYTES, seed), bytes(steps * STEP_BYTES, !seed));
            let (mut a, mut b) = (START, START);
            compress_pair(&mut a, first.as_chunks().0, &mut b, second.as_chunks().0);
            let (mut plain_a, mut plain_b) = (START, START);
            compress256(&mut plain_a, first.as_chunks().0);
            compress256(&mut plain_b, second.as_chunks().0);
            prop_assert_eq!((a, b), (plain_a, plain_b));
        }
    }
}
