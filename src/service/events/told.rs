//! A change as one caller is told it: whether they want it, and how the proto says it.

use std::sync::Arc;

use dropbox_sdk::types::files;

use crate::{
    api::v1 as api,
    clock::from_unix_seconds,
    convert::{
        events::{Terms, Types},
        items::{self, paths},
        path::Jail,
        size, timestamp,
    },
    engine::filter::Kind,
    events::{Basis, Before, Change, ChangeKind, Entry, ItemKind},
    service::filter::{self, Filter, Measures, Place},
};

/// Which changes a caller wants.
#[derive(Clone)]
pub(super) struct Taste {
    pub filter: Filter,
    pub types: Types,
    /// What globs count from.
    pub base: Arc<str>,
}

/// Which of what an item was before a change and what it is behind it a filter lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sides {
    pub was: bool,
    pub is: bool,
}

impl Sides {
    pub fn any(self) -> bool {
        self.was || self.is
    }
}

impl Taste {
    /// Whether what a folder held is to be told one by one: it was asked for, or the folder's event may be hidden.
    pub fn expands(&self, terms: Terms) -> bool {
        let told = self.types.holds(api::EventType::Moved) || self.types.holds(api::EventType::Deleted);
        told && !terms.raw && (terms.expand_folders || !self.filter.is_open())
    }

    /// A change is wanted for what the item is and for what it was: whoever hears only of some items hears when one of them
    /// leaves.
    pub fn wants(&self, change: &Change) -> bool {
        let sides = || self.sides(change);
        self.types.holds(change_type(change.kind)) && (self.filter.is_open() || sides().any())
    }

    /// Whether the filter lets it through, whatever types are wanted.
    pub fn sides(&self, change: &Change) -> Sides {
        let is_deleted = change.kind == ChangeKind::Deleted;
        // What is called new by a guess may have been there.
        let is_new = change.kind == ChangeKind::Created && change.basis != Basis::Inferred;
        if self.filter.is_open() {
            return Sides { was: !is_new, is: !is_deleted };
        }
        let (now, name) = (path(&change.item), filter::name(&change.item));
        let kinds: &[Kind] = match (change.item_kind, is_deleted) {
            (ItemKind::File, true) => &[Kind::File, Kind::Deleted],
            (ItemKind::Folder, true) => &[Kind::Folder, Kind::Deleted],
            (ItemKind::File, false) => &[Kind::File],
            (ItemKind::Folder, false) => &[Kind::Folder],
            // Nobody knows what it was, nor what it held: it stands for whatever a filter may have let through.
            (ItemKind::Unknown, _) => {
                let reaches = self.filter.reaches(now, name, &self.base);
                return Sides { was: reaches, is: reaches && !is_deleted };
            }
        };
        let at = |path: &str, measures: Measures| {
            let places = kinds.iter().map(|kind| Place { path, kind: *kind, measures });
            places.into_iter().any(|place| self.filter.wants_at(&place, name, &self.base))
        };
        let is = Measures::of(&change.item);
        let was = change.before.as_ref().map_or(is, measures);
        let then = change.previous_path.as_deref().unwrap_or(now);
        Sides { was: !is_new && at(then, was), is: !is_deleted && at(now, is) }
    }

    pub fn wants_item(&self, item: &files::Metadata) -> bool {
        self.filter.wants(item, &self.base)
    }
}

fn measures(before: &Before) -> Measures {
    Measures {
        size: Some(before.size),
        server_modified: Some(from_unix_seconds(before.server_modified)),
        client_modified: Some(from_unix_seconds(before.client_modified)),
    }
}

fn path(item: &files::Metadata) -> &str {
    let (lower, display) = paths(item);
    display.or(lower).unwrap_or_default()
}

pub(super) fn change_type(kind: ChangeKind) -> api::EventType {
    match kind {
        ChangeKind::Created => api::EventType::Created,
        ChangeKind::Updated => api::EventType::Updated,
        ChangeKind::MetadataChanged => api::EventType::MetadataChanged,
        ChangeKind::Deleted => api::EventType::Deleted,
        ChangeKind::Moved => api::EventType::Moved,
        ChangeKind::Upserted => api::EventType::Upserted,
    }
}

/// A change as a caller of this jail may see it; `None` if it lies outside.
pub(super) fn change_event(entry: &Entry, change: &Change, jail: &Jail) -> Option<api::ChangeEvent> {
    let mut item = items::item(change.item.clone(), jail)?;
    let item_kind = match change.item_kind {
        ItemKind::File => api::ItemKind::File,
        ItemKind::Folder => api::ItemKind::Folder,
        ItemKind::Unknown => api::ItemKind::Unspecified,
    };
    if let Some(api::item::Kind::Deleted(deleted)) = &mut item.kind {
        deleted.last_kind = item_kind.into();
        deleted.last_id = change.id.clone().unwrap_or_default();
        deleted.last_rev = change.previous_rev.clone().unwrap_or_default();
        if let Some(before) = &change.before {
            deleted.last_size = Some(size(before.size));
            deleted.last_content_hash = before.hash.clone().unwrap_or_default();
        }
    }
    let previous_path = change.previous_path.as_deref().and_then(|path| jail.relative(path));
    let basis = match change.basis {
        Basis::Index => api::EventBasis::Index,
        Basis::Inferred => api::EventBasis::Inferred,
        Basis::Synthetic => api::EventBasis::Synthetic,
    };
    Some(api::ChangeEvent {
        event_id: entry.event_id(),
        change_type: change_type(change.kind).into(),
        item_kind: item_kind.into(),
        item: Some(item),
        previous_path: previous_path.unwrap_or_default().to_owned(),
        previous_rev: change.previous_rev.clone().unwrap_or_default(),
        observed_time: Some(timestamp(entry.observed)),
        basis: basis.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::filter;

    fn change(kind: ChangeKind, item_kind: ItemKind, path: &str, previous: Option<&str>) -> Change {
        let (name, lower) = (path.rsplit('/').next().unwrap().to_owned(), path.to_lowercase());
        let item = match (kind, item_kind) {
            (ChangeKind::Deleted, _) => {
                let mut deleted = files::DeletedMetadata::new(name);
                (deleted.path_lower, deleted.path_display) = (Some(lower), Some(path.into()));
                files::Metadata::Deleted(deleted)
            }
            _ => {
                let mut folder = files::FolderMetadata::new(name, "id:a".into());
                (folder.path_lower, folder.path_display) = (Some(lower), Some(path.into()));
                files::Metadata::Folder(folder)
            }
        };
        Change {
            kind,
            basis: Basis::Index,
            item_kind,
            item,
            id: Some("id:a".into()),
            previous_path: previous.map(str::to_owned),
            previous_rev: None,
            before: None,
            folder: None,
        }
    }

    fn taste(edit: fn(&mut api::ItemFilter), types: &[i32]) -> Taste {
        let mut asked = api::ItemFilter::default();
        edit(&mut asked);
        let request = api::WatchEventsRequest { event_types: types.to_vec(), ..Default::default() };
        let plan = crate::convert::events::watch_events(&request).unwrap();
        Taste { filter: filter::compile(Some(&asked)).unwrap(), types: plan.terms.types, base: "/In".into() }
    }

    #[test]
    fn a_change_is_wanted_by_type_and_by_where_it_is_or_was() {
        let pdfs = taste(|asked| asked.include_globs = vec!["*.pdf".into()], &[]);
        assert!(pdfs.wants(&change(ChangeKind::Created, ItemKind::Folder, "/In/a.PDF", None)));
        assert!(!pdfs.wants(&change(ChangeKind::Created, ItemKind::Folder, "/In/a.txt", None)));
        assert!(pdfs.wants(&change(ChangeKind::Moved, ItemKind::Folder, "/In/a.txt", Some("/In/a.pdf"))));
        let deletions = taste(|_| (), &[api::EventType::Deleted as i32]);
        assert!(deletions.wants(&change(ChangeKind::Deleted, ItemKind::File, "/in/x", None)));
        assert!(!deletions.wants(&change(ChangeKind::Updated, ItemKind::Folder, "/in/x", None)));
        for (kinds, item_kind, wanted) in [
            (api::ItemKind::File, ItemKind::File, true),
            (api::ItemKind::Folder, ItemKind::File, false),
            (api::ItemKind::Deleted, ItemKind::File, true),
            (api::ItemKind::File, ItemKind::Unknown, true),
        ] {
            let asked = api::ItemFilter { kinds: vec![kinds.into()], ..Default::default() };
            let taste = Taste { filter: filter::compile(Some(&asked)).unwrap(), ..taste(|_| (), &[]) };
            assert_eq!(taste.wants(&change(ChangeKind::Deleted, item_kind, "/in/x", None)), wanted, "{kinds:?}");
        }
    }

    #[test]
    fn a_change_is_wanted_for_what_the_item_is_and_for_what_it_was() {
        let large = taste(|asked| asked.min_size = Some(100), &[]);
        let was = |size| Before { size, hash: None, server_modified: 1_700_000_000, client_modified: 1_700_000_000 };
        let file = |kind, size, before: Option<Before>| {
            let time = "2026-01-01T00:00:00Z".to_owned();
            let mut file =
                files::FileMetadata::new("a".into(), "id:a".into(), time.clone(), time, "012345678".into(), size);
            (file.path_lower, file.path_display) = (Some("/in/a".into()), Some("/In/a".into()));
            let deleted = files::DeletedMetadata::new("a".into()).with_path_display("/In/a".to_owned());
            let item = match kind {
                ChangeKind::Deleted => files::Metadata::Deleted(deleted),
                _ => files::Metadata::File(file),
            };
            Change { item, before, ..change(kind, ItemKind::File, "/In/a", None) }
        };
        for (kind, size, before, wanted) in [
            (ChangeKind::Created, 100, None, true),
            (ChangeKind::Created, 99, None, false),
            (ChangeKind::Updated, 99, Some(was(100)), true),
            (ChangeKind::Updated, 100, Some(was(99)), true),
            (ChangeKind::Updated, 99, Some(was(99)), false),
            (ChangeKind::Updated, 99, None, false),
            (ChangeKind::Deleted, 0, Some(was(100)), true),
            (ChangeKind::Deleted, 0, Some(was(99)), false),
            (ChangeKind::Deleted, 0, None, false),
        ] {
            assert_eq!(large.wants(&file(kind, size, before.clone())), wanted, "{kind:?} {size} {before:?}");
        }
        // Of what nobody knows only the depth is known.
        let unknown = |path: &str| change(ChangeKind::Deleted, ItemKind::Unknown, path, None);
        let shallow = taste(|asked| (asked.max_depth, asked.include_globs) = (1, vec!["*.pdf".into()]), &[]);
        assert!(large.wants(&unknown("/In/a/b")) && shallow.wants(&unknown("/In/a")));
        assert!(!shallow.wants(&unknown("/In/a/b")));
        let terms = |expand_folders, raw| Terms { types: large.types, raw, expand_folders, fails_on_reset: false };
        assert!(large.expands(terms(false, false)) && !large.expands(terms(true, true)));
        let all = taste(|_| (), &[]);
        assert!(all.expands(terms(true, false)) && !all.expands(terms(false, false)));
        let created = taste(|_| (), &[api::EventType::Created as i32]);
        assert!(!created.expands(terms(true, false)));
    }
}
