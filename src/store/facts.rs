//! What an index keeps of a file beside its place, in few bytes: an account has millions of them. Revision and content hash
//! are hexadecimal and stand as bytes; sizes and times as numbers of no more bytes than they need.

use prost::encoding::{decode_varint, encode_varint};

/// Size and times of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    pub size: u64,
    /// Seconds since 1970, as Dropbox has them.
    pub server_modified: i64,
    pub client_modified: i64,
    /// False: only an export of it can be read.
    pub is_downloadable: bool,
}

/// A file's row read back.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unpacked {
    pub rev: Option<String>,
    pub hash: Option<String>,
    pub facts: Facts,
}

const HAS_HASH: u8 = 1;
/// The revision is hexadecimal digits, two to a byte.
const REV_IN_BYTES: u8 = 2;
/// One digit of them, the first zero, is not the revision's.
const REV_IS_ODD: u8 = 4;
const IS_DOWNLOADABLE: u8 = 8;

const HASH_BYTES: usize = 32;

/// A hash that is none of Dropbox's is left out.
pub(super) fn pack(rev: Option<&str>, hash: Option<&str>, facts: &Facts) -> Vec<u8> {
    let rev = rev.unwrap_or_default();
    let hash = hash.and_then(|hash| hex::decode(hash).ok()).filter(|hash| hash.len() == HASH_BYTES);
    let (is_odd, rev_bytes) = match is_hex(rev) {
        true if rev.len() % 2 == 1 => (true, hex::decode(format!("0{rev}")).ok()),
        true => (false, hex::decode(rev).ok()),
        false => (false, None),
    };
    let mut flags = 0;
    for (holds, flag) in [
        (hash.is_some(), HAS_HASH),
        (rev_bytes.is_some(), REV_IN_BYTES),
        (is_odd, REV_IS_ODD),
        (facts.is_downloadable, IS_DOWNLOADABLE),
    ] {
        flags |= if holds { flag } else { 0 };
    }
    let mut packed = Vec::with_capacity(64);
    packed.push(flags);
    encode_varint(facts.size, &mut packed);
    encode_varint(folded(facts.server_modified), &mut packed);
    // Most files were stored soon after they were written.
    encode_varint(folded(facts.client_modified.wrapping_sub(facts.server_modified)), &mut packed);
    packed.extend(hash.unwrap_or_default());
    packed.extend(rev_bytes.as_deref().unwrap_or(rev.as_bytes()));
    packed
}

/// None: these bytes were not packed here.
pub(super) fn unpack(packed: &[u8]) -> Option<Unpacked> {
    let (flags, mut rest) = packed.split_first()?;
    let has = |flag: u8| flags & flag != 0;
    let size = decode_varint(&mut rest).ok()?;
    let server_modified = unfolded(decode_varint(&mut rest).ok()?);
    let client_modified = server_modified.wrapping_add(unfolded(decode_varint(&mut rest).ok()?));
    let hash = match has(HAS_HASH) {
        true => {
            let (hash, behind) = rest.split_at_checked(HASH_BYTES)?;
            rest = behind;
            Some(hex::encode(hash))
        }
        false => None,
    };
    let rev = match has(REV_IN_BYTES) {
        true => hex::encode(rest).split_off(usize::from(has(REV_IS_ODD))),
        false => String::from_utf8(rest.to_vec()).ok()?,
    };
    let facts = Facts { size, server_modified, client_modified, is_downloadable: has(IS_DOWNLOADABLE) };
    Some(Unpacked { rev: Some(rev).filter(|rev| !rev.is_empty()), hash, facts })
}

/// Lower case only: upper case would not come back.
fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Small numbers of either sign become small ones.
#[expect(clippy::cast_sign_loss, reason = "the bits are what is meant")]
fn folded(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

#[expect(clippy::cast_possible_wrap, reason = "the bits are what is meant")]
fn unfolded(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_comes_back_as_it_went_in_whatever_dropbox_calls_its_revision() {
        let hash = "0f".repeat(32);
        let revs =
            [None, Some("a1c10ce0dd78"), Some("0163f5a0d2e2c0000000018d2e2c0a0"), Some("0"), Some("Rev-7"), Some("AB")];
        for rev in revs {
            for hash in [None, Some(hash.as_str())] {
                for (size, server_modified, client_modified) in
                    [(0, 0, 0), (u64::MAX, i64::MAX, i64::MIN), (1234, 1_700_000_000, 1_699_999_990), (1, -5, 7)]
                {
                    for is_downloadable in [true, false] {
                        let facts = Facts { size, server_modified, client_modified, is_downloadable };
                        let back = unpack(&pack(rev, hash, &facts)).unwrap();
                        let (rev, hash) = (rev.map(str::to_owned), hash.map(str::to_owned));
                        assert_eq!(back, Unpacked { rev, hash, facts });
                    }
                }
            }
        }
    }

    #[test]
    fn an_ordinary_file_takes_sixty_bytes_and_what_is_cut_is_not_read() {
        let facts = Facts {
            size: 250_000,
            server_modified: 1_700_000_000,
            client_modified: 1_699_999_990,
            is_downloadable: true,
        };
        let packed = pack(Some("0163f5a0d2e2c0000000018d2e2c0a0"), Some(&"0f".repeat(32)), &facts);
        assert!(packed.len() <= 60, "{}", packed.len());
        for cut in 0..8 {
            assert_eq!(unpack(&packed[..cut]), None, "{cut}");
        }
    }
}
