//! A place as the bytes inside a token. They are few: every event carries a token, and thousands of watches send it. A byte
//! that says how it is written, then a message of Protocol Buffers, so that a later version may add fields. Versions before
//! this one wrote JSON, which begins with a brace: it is still read.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use prost::Message as _;

use super::scope::{Ahead, Bound, ResumePoint};

const PACKED: u8 = 1;

#[derive(Clone, PartialEq, prost::Message)]
struct Packed {
    #[prost(bytes = "vec", tag = "1")]
    binding: Vec<u8>,
    #[prost(string, tag = "2")]
    path: String,
    #[prost(bool, tag = "3")]
    recursive: bool,
    #[prost(sfixed64, tag = "4")]
    epoch: i64,
    #[prost(int64, tag = "5")]
    sequence: i64,
    #[prost(sfixed64, tag = "6")]
    mark: i64,
    /// The beginning of the cursor, which is letters of base64: three bytes for four.
    #[prost(bytes = "vec", tag = "7")]
    cursor: Vec<u8>,
    /// The rest of it.
    #[prost(string, tag = "8")]
    cursor_rest: String,
    #[prost(uint64, optional, tag = "9")]
    listed: Option<u64>,
    #[prost(bool, tag = "10")]
    whole: bool,
    #[prost(int64, optional, tag = "11")]
    within: Option<i64>,
    #[prost(bool, tag = "12")]
    unsettled: bool,
    #[prost(sfixed64, optional, tag = "13")]
    known_epoch: Option<i64>,
    #[prost(int64, optional, tag = "14")]
    known_sequence: Option<i64>,
    #[prost(uint32, optional, tag = "15")]
    page_told: Option<u32>,
    #[prost(fixed64, optional, tag = "16")]
    page_digest: Option<u64>,
    #[prost(int64, optional, tag = "17")]
    ahead_until: Option<i64>,
    /// Of each run how far it begins behind the end of the one before (at first: behind `sequence`), and its length less one.
    #[prost(uint64, repeated, tag = "18")]
    ahead_waits: Vec<u64>,
    #[prost(bool, tag = "19")]
    raw: bool,
    #[prost(int64, optional, tag = "20")]
    ahead_within: Option<i64>,
    #[prost(sfixed64, tag = "21")]
    ahead_mark: i64,
}

pub(super) fn write(bound: &Bound) -> Vec<u8> {
    let ResumePoint {
        epoch,
        sequence,
        mark,
        cursor,
        listed,
        whole,
        within,
        unsettled,
        known,
        page,
        ahead,
        of_index: _,
    } = &bound.point;
    let (packed, rest) = packed(cursor);
    let message = Packed {
        binding: bound.binding.to_vec(),
        path: bound.path.to_string(),
        recursive: bound.recursive,
        raw: bound.raw,
        epoch: *epoch,
        sequence: *sequence,
        mark: *mark,
        cursor: packed,
        cursor_rest: rest.to_owned(),
        listed: *listed,
        whole: *whole,
        within: *within,
        unsettled: *unsettled,
        known_epoch: known.map(|(epoch, _)| epoch),
        known_sequence: known.map(|(_, sequence)| sequence),
        page_told: page.as_deref().map(|(told, _)| *told),
        page_digest: page.as_deref().map(|(_, digest)| *digest),
        ahead_until: ahead.as_deref().map(|ahead| ahead.until),
        ahead_mark: ahead.as_deref().map_or(0, |ahead| ahead.mark),
        ahead_within: ahead.as_deref().and_then(|ahead| ahead.within),
        ahead_waits: ahead.as_deref().map_or_else(Vec::new, |ahead| gaps(*sequence, &ahead.waits)),
    };
    let mut bytes = Vec::with_capacity(1 + message.encoded_len());
    bytes.push(PACKED);
    bytes.extend(message.encode_to_vec());
    bytes
}

/// None: these bytes were written neither here nor by a version before.
pub(super) fn read(bytes: &[u8]) -> Option<Bound> {
    let (form, packed) = bytes.split_first()?;
    if *form == b'{' {
        return serde_json::from_slice(bytes).ok();
    }
    if *form != PACKED {
        return None;
    }
    let packed = Packed::decode(packed).ok()?;
    let cursor: Arc<str> = (URL_SAFE_NO_PAD.encode(packed.cursor) + &packed.cursor_rest).into();
    Some(Bound {
        binding: packed.binding.try_into().ok()?,
        path: packed.path.into(),
        recursive: packed.recursive,
        raw: packed.raw,
        point: ResumePoint {
            epoch: packed.epoch,
            sequence: packed.sequence,
            mark: packed.mark,
            cursor,
            listed: packed.listed,
            whole: packed.whole,
            within: packed.within,
            unsettled: packed.unsettled,
            known: packed.known_epoch.zip(packed.known_sequence),
            page: packed.page_told.zip(packed.page_digest).map(Box::new),
            ahead: match packed.ahead_until {
                Some(until) => {
                    let waits = runs(packed.sequence, &packed.ahead_waits)?;
                    Some(Box::new(Ahead { until, mark: packed.ahead_mark, within: packed.ahead_within, waits }))
                }
                None => None,
            },
            of_index: false,
        },
    })
}

fn gaps(sequence: i64, runs: &[(i64, i64)]) -> Vec<u64> {
    let mut end = sequence;
    let mut gaps = Vec::with_capacity(2 * runs.len());
    for (first, last) in runs {
        gaps.extend([first.abs_diff(end), last.abs_diff(*first)]);
        end = *last;
    }
    gaps
}

fn runs(sequence: i64, gaps: &[u64]) -> Option<Vec<(i64, i64)>> {
    let mut end = sequence;
    let run = |gap: &[u64]| {
        let [gap, length] = gap else { return None };
        let first = end.checked_add_unsigned(*gap)?;
        end = first.checked_add_unsigned(*length)?;
        Some((first, end))
    };
    gaps.chunks(2).map(run).collect()
}

/// As many groups of four letters of base64 as a cursor begins with, as bytes, and the rest. A whole group comes back as it
/// was, whatever its letters.
fn packed(cursor: &str) -> (Vec<u8>, &str) {
    let is_letter = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let letters = cursor.bytes().take_while(is_letter).count();
    let (groups, rest) = cursor.split_at(letters - letters % 4);
    URL_SAFE_NO_PAD.decode(groups).map_or((Vec::new(), cursor), |bytes| (bytes, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bound(cursor: &str) -> Bound {
        let point = ResumePoint {
            epoch: i64::MAX - 5,
            sequence: 70_000,
            mark: -9,
            listed: Some(0),
            whole: true,
            within: Some(0),
            unsettled: true,
            known: Some((i64::MIN + 3, 70_001)),
            page: Some(Box::new((0, u64::MAX))),
            ahead: Some(Box::new(Ahead {
                until: 80_000,
                mark: -7,
                within: Some(3),
                waits: vec![(70_001, 70_001), (70_300, 79_999)],
            })),
            ..ResumePoint::at(cursor.into())
        };
        Bound { binding: [7; 16], path: "/Buchhaltung/Süd".into(), recursive: true, raw: true, point }
    }

    #[test]
    fn a_token_of_a_version_before_is_read_and_one_that_was_cut_or_is_of_a_later_form_is_not() {
        let before = bound("AAH-x_1");
        assert_eq!(read(&serde_json::to_vec(&before).unwrap()), Some(before.clone()));
        let bytes = write(&before);
        assert_eq!(read(&bytes), Some(before));
        for cut in 0..bytes.len() {
            assert_ne!(read(&bytes[..cut]).map(|cut| write(&cut)), Some(bytes.clone()), "{cut}");
        }
        assert_eq!(read(&[&[2], &bytes[1..]].concat()), None);
        // A field that a later version adds is passed over.
        assert!(read(&[bytes.as_slice(), &[0xf8, 0x01, 0x05]].concat()).is_some());
    }

    #[test]
    fn a_place_with_a_cursor_of_two_hundred_letters_takes_less_than_two_hundred_and_fifty_bytes() {
        let mut bound = Bound { path: "/accounting/incoming documents".into(), ..bound(&"AAHx".repeat(50)) };
        // An entry of the log says its own number and no other, and what waits only where something does.
        (bound.point.known, bound.point.ahead, bound.raw) = (None, None, false);
        assert!(write(&bound).len() < 250, "{}", write(&bound).len());
    }

    proptest! {
        #[test]
        fn whatever_a_cursor_is_it_comes_back(cursor in "[A-Za-z0-9_-]{0,40}(\\PC{0,12})?") {
            prop_assert_eq!(read(&write(&bound(&cursor))), Some(bound(&cursor)));
        }
    }
}
