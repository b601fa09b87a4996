//! The filter of a listing: from the request to the engine, and from Dropbox's entries to what the engine looks at.

use std::{sync::Arc, time::SystemTime};

use dbxcase::dbx_strip_prefix_ignore_case;
use dropbox_sdk::types::files;

use super::door::Site;
use crate::{
    api::v1 as api,
    clock::from_dropbox_time,
    convert::{Fields, items::paths},
    engine::filter::{Bounds, Candidate, FilterSpec, ItemFilter, Kind, TimeField},
    fault::{Fault, Result},
};

/// What a listing lets through; `None`: everything.
#[derive(Debug, Clone, Default)]
pub struct Filter(Option<Arc<ItemFilter>>);

/// # Errors
/// `INVALID_FIELD`.
pub fn compile(asked: Option<&api::ItemFilter>) -> Result<Filter> {
    // An empty one wants everything, too.
    let Some(asked) = asked.filter(|asked| **asked != api::ItemFilter::default()) else { return Ok(Filter(None)) };
    let mut fields = Fields::new();
    let kinds = asked.kinds.iter().enumerate().flat_map(|(index, kind)| {
        let field = format!("filter.kinds[{index}]");
        match fields.known(&field, *kind) {
            api::ItemKind::File => vec![Kind::File],
            api::ItemKind::Folder => vec![Kind::Folder],
            api::ItemKind::Deleted => vec![Kind::Deleted],
            api::ItemKind::Any => vec![Kind::File, Kind::Folder, Kind::Deleted],
            api::ItemKind::Unspecified => {
                fields.refuse(field, "REQUIRED", "name a kind");
                Vec::new()
            }
        }
    });
    let kinds = kinds.collect();
    let time_field = match fields.known("filter.time_field", asked.time_field) {
        api::TimeField::ClientModified => TimeField::ClientModified,
        api::TimeField::ServerModified | api::TimeField::Unspecified => TimeField::ServerModified,
    };
    let bounds = match fields.known("filter.bounds", asked.bounds) {
        api::Bounds::Any => Bounds::Any,
        api::Bounds::All | api::Bounds::Unspecified => Bounds::All,
    };
    let max_depth = fields.natural("filter.max_depth", i64::from(asked.max_depth));
    let spec = FilterSpec {
        include_globs: asked.include_globs.clone(),
        exclude_globs: asked.exclude_globs.clone(),
        kinds,
        min_size: asked.min_size.map(|size| fields.natural("filter.min_size", size)),
        max_size: asked.max_size.map(|size| fields.natural("filter.max_size", size)),
        modified_after: fields.time("filter.modified_after", asked.modified_after.as_ref()),
        modified_before: fields.time("filter.modified_before", asked.modified_before.as_ref()),
        time_field,
        bounds,
        case_sensitive: asked.case_sensitive,
        max_depth: u32::try_from(max_depth).unwrap_or(u32::MAX),
    };
    // The engine finds what is wrong with globs and bounds; both kinds of mistakes are told together.
    let filter = ItemFilter::new(spec);
    if let Err(fault) = &filter {
        for violation in fault.violations() {
            fields.refuse(violation.field.clone(), violation.reason, violation.description.clone());
        }
    }
    fields.accept(())?;
    let filter = filter?;
    Ok(Filter(Some(Arc::new(filter))))
}

impl Filter {
    /// The path that globs and depth are relative to: an id does not tell it.
    ///
    /// # Errors
    /// `PATH_NOT_FOUND`, common ones.
    pub async fn base(&self, site: &Site, folder: &str) -> Result<String> {
        if self.0.is_none() || !folder.starts_with("id:") {
            return Ok(folder.to_owned());
        }
        let found = site.metadata(folder).await?;
        let path = paths(&found).1.map(str::to_owned);
        path.ok_or_else(|| Fault::field("filter", "NOT_POSSIBLE", "this folder has no path to match against"))
    }

    /// Whether everything is wanted.
    pub fn is_open(&self) -> bool {
        self.0.is_none()
    }

    /// Whether an entry found under `base` is wanted.
    pub fn wants(&self, entry: &files::Metadata, base: &str) -> bool {
        let path = paths(entry).1.or(paths(entry).0).unwrap_or_default();
        let kind = match entry {
            files::Metadata::File(_) => Kind::File,
            files::Metadata::Folder(_) => Kind::Folder,
            files::Metadata::Deleted(_) => Kind::Deleted,
        };
        self.wants_at(&Place { path, kind, measures: Measures::of(entry) }, name(entry), base)
    }

    /// The same for an item that lies or lay there. Where nothing tells its path it goes by its name.
    pub fn wants_at(&self, place: &Place<'_>, name: &str, base: &str) -> bool {
        let Some(filter) = &self.0 else { return true };
        let Some((path_relative, depth)) = relative(place.path, name, base) else { return false };
        filter.matches(&Candidate {
            path_relative,
            kind: place.kind,
            size: place.measures.size,
            server_modified: place.measures.server_modified,
            client_modified: place.measures.client_modified,
            depth,
        })
    }

    /// Whether it looks as deep as this, whatever else it wants.
    pub fn reaches(&self, path: &str, name: &str, base: &str) -> bool {
        let Some(filter) = &self.0 else { return true };
        relative(path, name, base).is_some_and(|(_, depth)| filter.reaches(depth))
    }
}

/// Where an item is or was, and what it was there.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    pub path: &'a str,
    pub kind: Kind,
    pub measures: Measures,
}

/// What bounds are about; only files have it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Measures {
    pub size: Option<u64>,
    pub server_modified: Option<SystemTime>,
    pub client_modified: Option<SystemTime>,
}

impl Measures {
    pub fn of(entry: &files::Metadata) -> Measures {
        let files::Metadata::File(file) = entry else { return Measures::default() };
        Measures {
            size: Some(file.size),
            server_modified: from_dropbox_time(&file.server_modified),
            client_modified: from_dropbox_time(&file.client_modified),
        }
    }
}

/// From the base path on, and how deep; `None` for the base itself.
fn relative<'a>(path: &'a str, name: &'a str, base: &str) -> Option<(&'a str, u32)> {
    let below = dbx_strip_prefix_ignore_case(path, base).filter(|rest| rest.starts_with('/'));
    // Behind a shared link, and in namespaces that are not mounted, only the name is known.
    let relative = below.map_or(name, |rest| rest.trim_start_matches('/'));
    let depth = u32::try_from(relative.split('/').count()).unwrap_or(u32::MAX);
    (!relative.is_empty()).then_some((relative, depth))
}

pub fn name(entry: &files::Metadata) -> &str {
    match entry {
        files::Metadata::File(file) => &file.name,
        files::Metadata::Folder(folder) => &folder.name,
        files::Metadata::Deleted(deleted) => &deleted.name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(path: &str) -> files::Metadata {
        let name = path.rsplit('/').next().unwrap().to_owned();
        let mut folder = files::FolderMetadata::new(name, "id:abcd".into());
        folder.path_lower = Some(path.to_lowercase());
        folder.path_display = Some(path.into());
        files::Metadata::Folder(folder)
    }

    #[test]
    fn globs_and_depth_count_from_the_base_whatever_its_case() {
        let filter = |change: fn(&mut api::ItemFilter)| {
            let mut asked = api::ItemFilter::default();
            change(&mut asked);
            compile(Some(&asked)).unwrap()
        };
        let shallow = filter(|asked| asked.max_depth = 1);
        assert!(shallow.wants(&folder("/In/a"), "/in"));
        assert!(!shallow.wants(&folder("/In/a/b"), "/in"));
        let named = filter(|asked| asked.include_globs = vec!["a/*".into()]);
        assert!(named.wants(&folder("/In/a/b"), "/IN"));
        assert!(!named.wants(&folder("/In/b/a"), "/IN"));
        assert!(compile(None).unwrap().wants(&folder("/x"), "/in"));
    }

    #[test]
    fn mistakes_in_kinds_bounds_and_globs_are_told_together() {
        let asked = api::ItemFilter {
            kinds: vec![0, 99],
            min_size: Some(-1),
            max_depth: -1,
            include_globs: vec!["[".into()],
            ..Default::default()
        };
        let fault = compile(Some(&asked)).unwrap_err();
        let fields: Vec<_> = fault.violations().iter().map(|v| v.field.as_str()).collect();
        for field in
            ["filter.kinds[0]", "filter.kinds[1]", "filter.min_size", "filter.max_depth", "filter.include_globs[0]"]
        {
            assert!(fields.contains(&field), "{field} is missing of {fields:?}");
        }
    }
}
