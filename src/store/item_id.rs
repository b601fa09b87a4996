//! Ids of items in few bytes: an index has each of them twice, in its row and to be found by. What Dropbox gives is `id:` and
//! 22 letters of base64, which are 16 bytes: two numbers. Any other form stays the text it is.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

const LETTERS: usize = 22;

/// An id, without `id:`, as two numbers; none: it is of another form. Dropbox's seem to be a mark of the account and a number
/// of the item in it, but nobody says which half tells items apart: the second number differs whichever of them does.
pub(super) fn halves(id: &str) -> Option<(i64, i64)> {
    let mut bytes = [0; 16];
    // What does not come back the same, such as with other last letters for the same bytes, is refused by the decoder.
    if id.len() != LETTERS || URL_SAFE_NO_PAD.decode_slice(id, &mut bytes) != Ok(bytes.len()) {
        return None;
    }
    let whole = u128::from_be_bytes(bytes);
    let (high, low) = ((whole >> 64) as u64, whole as u64);
    Some((high.cast_signed(), (low ^ stirred(high)).cast_signed()))
}

/// The other way round.
pub(super) fn whole(a: i64, b: i64) -> String {
    let (high, mixed) = (a.cast_unsigned(), b.cast_unsigned());
    let whole = (u128::from(high) << 64) | u128::from(mixed ^ stirred(high));
    URL_SAFE_NO_PAD.encode(whole.to_be_bytes())
}

/// Other for every number: it is multiplied by an odd one.
fn stirred(high: u64) -> u64 {
    high.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_as_dropbox_gives_them_become_numbers_and_no_other_form_does() {
        assert!(halves("a4ayc_80_OEAAAAAAAAAXw").is_some());
        for other in ["", "x", "a4ayc_80_OEAAAAAAAAAX", "a4ayc_80_OEAAAAAAAAAXw=", "a4ayc_80_OEAAAAAAAAAXx"] {
            assert_eq!(halves(other), None, "{other}");
        }
        assert_eq!(halves("a4ayc+80/OEAAAAAAAAAXw"), None);
        assert_eq!(halves("äääääääääää"), None, "as many bytes, and no letters of base64");
    }

    #[test]
    fn whichever_half_tells_items_apart_they_are_found_by_numbers_of_their_own() {
        for shift in [0, 64] {
            let ids = (0..1000_u128).map(|number| URL_SAFE_NO_PAD.encode((number << shift).to_be_bytes()));
            let found: BTreeSet<i64> = ids.map(|id| halves(&id).unwrap().1).collect();
            assert_eq!(found.len(), 1000);
        }
    }

    proptest! {
        #[test]
        fn an_id_comes_back_as_it_went_in(bytes: [u8; 16]) {
            let id = URL_SAFE_NO_PAD.encode(bytes);
            let (a, b) = halves(&id).unwrap();
            prop_assert_eq!(whole(a, b), id);
        }

        #[test]
        fn a_text_is_packed_only_if_it_comes_back(text in "[A-Za-z0-9_-]{22}|\\PC{0,30}") {
            if let Some((a, b)) = halves(&text) {
                prop_assert_eq!(whole(a, b), text);
            }
        }
    }
}
