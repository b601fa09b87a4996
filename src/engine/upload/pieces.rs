//! Which ranges of an upload Dropbox has acknowledged, and where a resume may start. Pure.

use std::collections::BTreeMap;

/// Acknowledged ranges; `prefix` is where a resume may start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Pieces {
    prefix: u64,
    /// start → end of ranges behind a gap.
    beyond: BTreeMap<u64, u64>,
}

impl Pieces {
    pub(super) fn new(prefix: u64) -> Self {
        Self { prefix, beyond: BTreeMap::new() }
    }

    /// Ranges arrive in any order; one told twice changes nothing.
    pub(super) fn insert(&mut self, start: u64, end: u64) {
        if start > self.prefix {
            let known = self.beyond.entry(start).or_insert(end);
            *known = end.max(*known);
        } else {
            self.prefix = self.prefix.max(end);
        }
        while let Some((&start, &end)) = self.beyond.first_key_value() {
            if start > self.prefix {
                break;
            }
            self.prefix = self.prefix.max(end);
            self.beyond.pop_first();
        }
    }

    /// Everything below this offset is acknowledged.
    pub(super) fn prefix(&self) -> u64 {
        self.prefix
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_gap_holds_the_prefix_back_until_it_is_filled() {
        let mut pieces = Pieces::new(0);
        pieces.insert(8, 16);
        pieces.insert(24, 32);
        assert_eq!(pieces.prefix(), 0);
        pieces.insert(0, 8);
        assert_eq!(pieces.prefix(), 16);
        pieces.insert(16, 24);
        assert_eq!((pieces.prefix(), pieces.beyond.len()), (32, 0));
    }

    proptest! {
        #[test]
        fn any_order_of_acknowledgements_ends_at_the_same_prefix(order in Just((0u64..12).collect::<Vec<_>>()).prop_shuffle(), again in 0u64..12) {
            let mut pieces = Pieces::default();
            let mut last = 0;
            for n in order.into_iter().chain([again]) {
                pieces.insert(n * 4, n * 4 + 4);
                prop_assert!(pieces.prefix() >= last, "the prefix never goes back");
                last = pieces.prefix();
            }
            prop_assert_eq!(pieces, Pieces::new(48));
        }
    }
}
