//! Paths as people read them. An item's own is Dropbox's word; where it was is said by the index, which keeps names as Dropbox
//! wrote them, that of the watched folder in the root's row: whoever watched it first may have written it otherwise.

use dropbox_sdk::types::files::Metadata;

use super::Tree;
use crate::{
    events::seen::Seen,
    store::{INDEX_ROOT, IndexRow},
};

impl Tree {
    /// The watched folder says itself how it is written, but is not told of where it is watched without what lies deeper: then
    /// the first item in it does.
    pub(super) fn spell_base(&mut self, entries: &[Seen]) {
        if self.rows.get(&INDEX_ROOT).is_none_or(|root| root.display.is_some()) {
            return;
        }
        let is_there = |seen: &&Seen| !matches!(seen.item, Metadata::Deleted(_));
        let mut said = entries.iter().filter(is_there).filter_map(|seen| seen.base_display(&self.base));
        if let Some(display) = said.next().map(str::to_owned) {
            self.change(INDEX_ROOT, |root| root.display = Some(display));
        }
    }

    pub(super) fn path_of(&self, n: i64) -> String {
        let base = self.rows.get(&INDEX_ROOT).and_then(|root| root.display.as_deref());
        self.joined(n, base.unwrap_or(&self.base.display), |row| row.display.as_deref().unwrap_or(&row.name))
    }

    pub(super) fn lower_of(&self, n: i64) -> String {
        self.joined(n, &self.base.lower, |row| &row.name)
    }

    fn joined<'a>(&'a self, n: i64, base: &str, name: impl Fn(&'a IndexRow) -> &'a str) -> String {
        let (mut names, mut at) = (Vec::new(), n);
        while at > INDEX_ROOT
            && let Some(row) = self.rows.get(&at)
        {
            names.push(name(row));
            at = row.parent;
        }
        names.iter().rev().fold(base.to_owned(), |path, name| format!("{path}/{name}"))
    }
}
