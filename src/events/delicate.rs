//! Which drains must not be left in their midst but for the log. A folder that moves takes along all that the index has in it;
//! what of that had been deleted or moved away before is told behind it, in the same drain. Between the two somebody who
//! applies what is told has items at places where Dropbox never had any, so no delta of Dropbox says that they are gone: the
//! log alone does. Everything else that an index tells is told at paths that a delta from before the drain names, too.

use serde::{Deserialize, Serialize};

use super::{
    change::{Basis, Change, ChangeKind, ItemKind, Told},
    seen::paths,
};
use crate::{limits::DRAIN_MOVES_MAX, store::LogHead};

/// What the drain under way has come to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Midst {
    /// Where folders went, in lower case.
    moved: Vec<String>,
    /// More than are kept.
    many: bool,
    /// Something has left such a folder.
    left: bool,
    /// The newest delicate entry before it.
    before: i64,
}

impl Midst {
    /// Another entry of the drain; `head` is the log before it.
    pub(super) fn tell(&mut self, told: &Told, head: LogHead) {
        let Told::Change(change) = told else { return };
        if change.basis == Basis::Inferred {
            return;
        }
        let from = match change.kind {
            ChangeKind::Deleted => Some(lower(change)),
            ChangeKind::Moved => change.previous_path.as_deref().map(dbxcase::dbx_str_lowercase),
            _ => return,
        };
        let is_in = |folder: &String, path: &str| path.strip_prefix(folder.as_str()).is_some_and(is_end);
        let left = from.as_deref().is_none_or(|from| self.moved.iter().any(|folder| is_in(folder, from)));
        self.left |= self.many || (left && !self.moved.is_empty());
        let to = lower(change);
        // Another spelling takes nothing along.
        if (change.kind, change.item_kind) != (ChangeKind::Moved, ItemKind::Folder) || from.as_ref() == Some(&to) {
            return;
        }
        if self.moved.is_empty() {
            self.before = head.delicate;
        }
        match self.moved.len() < DRAIN_MOVES_MAX {
            true => self.moved.push(to),
            false => self.many = true,
        }
    }

    /// The newest delicate entry of the log that ends with `head`. While a drain goes on that has moved a folder it may turn
    /// out to be delicate: it is taken for that.
    pub(super) fn judge(&mut self, head: LogHead, is_over: bool) -> i64 {
        if self.moved.is_empty() {
            return head.delicate;
        }
        if !is_over {
            return head.newest;
        }
        let drain = std::mem::take(self);
        if drain.left { head.newest } else { drain.before }
    }
}

fn is_end(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with('/')
}

fn lower(change: &Change) -> String {
    paths(&change.item).0.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::tests::truth::entry;

    const HEAD: LogHead = LogHead { epoch: 1, newest: 9, newest_mark: 0, swept: 0, delicate: 4 };

    /// `a > b/ 1`: moved; `-a`: deleted; else created.
    fn told(text: &str, basis: Basis) -> Told {
        let (previous, item) = text.split_once(" > ").map_or((None, text), |(from, item)| (Some(from), item));
        let kind = match (previous, item.starts_with('-')) {
            (Some(_), _) => ChangeKind::Moved,
            (None, true) => ChangeKind::Deleted,
            (None, false) => ChangeKind::Created,
        };
        let is_folder = item.split(' ').next().is_some_and(|path| path.ends_with('/'));
        Told::Change(Box::new(Change {
            kind,
            basis,
            item_kind: if is_folder { ItemKind::Folder } else { ItemKind::File },
            item: entry(item),
            id: None,
            previous_path: previous.map(|path| format!("/W/{path}")),
            previous_rev: None,
            before: None,
            folder: None,
        }))
    }

    /// What the log says behind a drain of these entries.
    fn judged(drain: &[&str]) -> i64 {
        let (mut midst, mut head) = (Midst::default(), HEAD);
        for (at, text) in drain.iter().enumerate() {
            midst.tell(&told(text, Basis::Index), head);
            head.newest += 1;
            head.delicate = midst.judge(head, at + 1 == drain.len());
            // It goes on in another process.
            midst = serde_json::from_str(&serde_json::to_string(&midst).unwrap()).unwrap();
        }
        assert_eq!(midst, Midst::default());
        head.delicate
    }

    #[test]
    fn a_drain_is_delicate_if_something_leaves_a_folder_that_it_moved() {
        for (drain, newest) in [
            (vec!["a > x/ 1", "-x/b"], 11),
            (vec!["a > X/ 1", "-x/b", "c 2"], 12),
            (vec!["a > x/ 1", "x/b > q 2"], 11),
            (vec!["a > x/ 1", "X/B > q/ 2", "c 3"], 12),
            (vec!["a > x/ 1", "x > y/ 1"], 11),
            (vec!["c 7", "a > x/ 1", "b > y/ 2", "-x/sub/deep"], 13),
            (vec!["a > x/ 1"], 4),
            (vec!["a > x/ 1", "-xb", "-q", "x/b 3"], 4),
            (vec!["a > x/ 1", "b > y/ 2"], 4),
            (vec!["-x/b", "a > x/ 1"], 4),
            (vec!["a > x 1", "-x"], 4),
            (vec!["a > A/ 1", "-a/b"], 4),
            (vec!["-a", "b 2"], 4),
        ] {
            assert_eq!(judged(&drain), newest, "{drain:?}");
        }
    }

    #[test]
    fn while_it_may_turn_out_to_be_delicate_a_drain_is_and_what_was_guessed_never_is() {
        let (mut midst, mut head) = (Midst::default(), HEAD);
        midst.tell(&told("a > x/ 1", Basis::Synthetic), head);
        head.delicate = midst.judge(head, false);
        assert_eq!(head.delicate, 9);
        head.newest = 10;
        assert_eq!((midst.judge(head, false), midst.clone().judge(head, true)), (10, 4));
        let mut midst = Midst::default();
        midst.tell(&told("a > x/ 1", Basis::Inferred), head);
        midst.tell(&told("-x/b", Basis::Inferred), head);
        assert_eq!(midst, Midst::default());
    }

    #[test]
    fn of_more_folders_than_are_remembered_any_may_have_been_left() {
        let mut midst = Midst::default();
        for n in 0..=DRAIN_MOVES_MAX {
            midst.tell(&told(&format!("a{n} > x{n}/ {n}"), Basis::Index), HEAD);
        }
        assert_eq!(midst.clone().judge(HEAD, true), 4, "nothing has left any place since");
        midst.tell(&told("-elsewhere", Basis::Index), HEAD);
        assert_eq!((midst.moved.len(), midst.judge(HEAD, true)), (DRAIN_MOVES_MAX, 9));
    }
}
