//! What pages of Dropbox say by themselves, where no index tells what was there before: good guesses of changes, and the items
//! of a listing.

use dropbox_sdk::types::files::{self, Metadata};

use super::{
    Scope, Upstream,
    change::{Basis, Change, ChangeKind, ItemKind},
    seen::{Base, Seen},
};
use crate::{
    fault::{Fault, Reason, Result},
    limits::INFERRED_LOOKS_MAX,
};

/// What entries say without an index. Files are looked up, a few of a page, to tell new from changed.
///
/// # Errors
/// `CURSOR_RESET` if the watched folder itself was deleted meanwhile: what it held is not told one by one.
pub(super) async fn infer(upstream: &dyn Upstream, scope: &Scope, entries: Vec<Metadata>) -> Result<Vec<Change>> {
    let mut looks = if scope.raw { 0 } else { INFERRED_LOOKS_MAX };
    let mut changes = Vec::with_capacity(entries.len());
    let base = Base::of(&scope.path);
    for item in entries {
        let Some(seen) = Seen::of(item, &base) else { continue };
        // The watched folder itself is no item in it.
        if seen.path.is_empty() {
            if let Metadata::Deleted(_) = seen.item {
                return Err(Fault::new(Reason::CursorReset, "the watched folder was deleted"));
            }
            continue;
        }
        let id = seen.id().map(|id| format!("id:{id}"));
        let item = seen.item;
        let (kind, item_kind) = match &item {
            Metadata::Deleted(_) => (ChangeKind::Deleted, ItemKind::Unknown),
            Metadata::Folder(_) => (ChangeKind::Created, ItemKind::Folder),
            Metadata::File(file) => {
                let new = match (&file.path_lower, looks) {
                    (Some(path), 1..) => {
                        looks -= 1;
                        // It may be gone again: then it is as well called changed.
                        upstream.is_new(scope, path).await.unwrap_or(false)
                    }
                    _ => false,
                };
                (if new { ChangeKind::Created } else { ChangeKind::Updated }, ItemKind::File)
            }
        };
        let kind = if scope.raw && kind != ChangeKind::Deleted { ChangeKind::Upserted } else { kind };
        changes.push(Change {
            kind,
            basis: Basis::Inferred,
            item_kind,
            item,
            id,
            previous_path: None,
            previous_rev: None,
            before: None,
            folder: None,
        });
    }
    Ok(changes)
}

/// The items of a page of a listing, without the watched folder itself.
pub(super) fn listed(scope: &Scope, entries: Vec<files::Metadata>) -> Vec<files::Metadata> {
    let base = Base::of(&scope.path);
    let seen = entries.into_iter().filter_map(|item| Seen::of(item, &base));
    seen.filter(|seen| !seen.path.is_empty()).map(|seen| seen.item).collect()
}
