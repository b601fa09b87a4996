//! Items, listings, search and accounts: Dropbox's metadata as the proto tells it.

use dropbox_sdk::types::{common, files, users, users_common};

use crate::{
    api::v1 as api,
    convert::{dropbox_timestamp, path::Jail, size},
};

/// An item as a caller of this jail may see it; `None` if it lies outside.
pub fn item(metadata: files::Metadata, jail: &Jail) -> Option<api::Item> {
    let (lower, display) = paths(&metadata);
    if !jail.holds(lower) {
        return None;
    }
    let told = |path: Option<&str>| path.and_then(|path| jail.relative(path)).unwrap_or_default().to_owned();
    let (path_lower, path_display) = (told(lower), told(display.or(lower)));
    let parent_shared_folder_id = parent_shared_folder_id(&metadata).unwrap_or_default().to_owned();
    // The jail's own folder is the root of its callers: it has no name.
    let is_root = !jail.is_open() && path_lower.is_empty();
    let (name, kind) = match metadata {
        files::Metadata::File(file) => (file.name.clone(), api::item::Kind::File(Box::new(file_item(file)).into())),
        files::Metadata::Folder(folder) => (folder.name.clone(), api::item::Kind::Folder(folder_item(folder))),
        files::Metadata::Deleted(deleted) => (deleted.name, api::item::Kind::Deleted(api::DeletedItem::default())),
    };
    let name = if is_root { String::new() } else { name };
    Some(api::Item { name, path_lower, path_display, parent_shared_folder_id, kind: Some(kind) })
}

/// An item that must be there for this caller, since it was asked for by its path.
///
/// # Errors
/// `PATH_NOT_FOUND` if it lies outside the jail: its existence is not told.
pub fn item_at(metadata: files::Metadata, jail: &Jail, asked: &str) -> crate::fault::Result<api::Item> {
    item(metadata, jail).ok_or_else(|| Jail::not_found(asked))
}

/// The root, which Dropbox has no metadata of.
pub fn root_item() -> api::Item {
    api::Item { kind: Some(api::item::Kind::Folder(api::FolderItem::default())), ..Default::default() }
}

/// `path_lower` and `path_display`; neither where the item is not mounted.
pub fn paths(metadata: &files::Metadata) -> (Option<&str>, Option<&str>) {
    match metadata {
        files::Metadata::File(file) => (file.path_lower.as_deref(), file.path_display.as_deref()),
        files::Metadata::Folder(folder) => (folder.path_lower.as_deref(), folder.path_display.as_deref()),
        files::Metadata::Deleted(deleted) => (deleted.path_lower.as_deref(), deleted.path_display.as_deref()),
    }
}

/// Dropbox still fills the deprecated field on deletions, which have no sharing info.
#[expect(deprecated, reason = "deletions carry the id nowhere else")]
pub fn parent_shared_folder_id(metadata: &files::Metadata) -> Option<&str> {
    match metadata {
        files::Metadata::File(file) => file
            .sharing_info
            .as_ref()
            .map(|info| info.parent_shared_folder_id.as_str())
            .or(file.parent_shared_folder_id.as_deref()),
        files::Metadata::Folder(folder) => folder
            .sharing_info
            .as_ref()
            .and_then(|info| info.parent_shared_folder_id.as_deref())
            .or(folder.parent_shared_folder_id.as_deref()),
        files::Metadata::Deleted(deleted) => deleted.parent_shared_folder_id.as_deref(),
    }
}

fn file_item(file: files::FileMetadata) -> api::FileItem {
    let export = file.export_info.unwrap_or_default();
    let export_default = export.export_as.unwrap_or_default();
    let mut export_formats = export.export_options.unwrap_or_default();
    if !export_default.is_empty() && !export_formats.contains(&export_default) {
        export_formats.insert(0, export_default.clone());
    }
    api::FileItem {
        id: file.id,
        rev: file.rev,
        size: size(file.size),
        content_hash: file.content_hash.unwrap_or_default(),
        client_modified: dropbox_timestamp(&file.client_modified),
        server_modified: dropbox_timestamp(&file.server_modified),
        is_downloadable: file.is_downloadable,
        export_formats,
        export_default,
        is_read_only: file.sharing_info.is_some_and(|info| info.read_only),
        lock_holder_account_id: file.file_lock_info.and_then(|lock| lock.lockholder_account_id).unwrap_or_default(),
        symlink_target: file.symlink_info.map(|info| info.target).unwrap_or_default(),
        media_info: file.media_info.map(media_info),
        has_explicit_shared_members: file.has_explicit_shared_members,
    }
}

fn folder_item(folder: files::FolderMetadata) -> api::FolderItem {
    let sharing = folder.sharing_info;
    api::FolderItem {
        id: folder.id,
        shared_folder_id: sharing.as_ref().and_then(|info| info.shared_folder_id.clone()).unwrap_or_default(),
        is_read_only: sharing.as_ref().is_some_and(|info| info.read_only),
        traverse_only: sharing.as_ref().is_some_and(|info| info.traverse_only),
        no_access: sharing.is_some_and(|info| info.no_access),
    }
}

fn media_info(info: files::MediaInfo) -> api::MediaInfo {
    let (kind, dimensions, location, taken, duration) = match info {
        files::MediaInfo::Pending => return api::MediaInfo { pending: true, ..Default::default() },
        files::MediaInfo::Metadata(files::MediaMetadata::Photo(photo)) => {
            (api::MediaKind::Photo, photo.dimensions, photo.location, photo.time_taken, None)
        }
        files::MediaInfo::Metadata(files::MediaMetadata::Video(video)) => {
            (api::MediaKind::Video, video.dimensions, video.location, video.time_taken, video.duration)
        }
    };
    let pixels = |length: u64| i32::try_from(length).unwrap_or(i32::MAX);
    api::MediaInfo {
        pending: false,
        media_kind: kind.into(),
        width: dimensions.as_ref().map_or(0, |d| pixels(d.width)),
        height: dimensions.as_ref().map_or(0, |d| pixels(d.height)),
        latitude: location.as_ref().map(|l| l.latitude),
        longitude: location.as_ref().map(|l| l.longitude),
        capture_time: taken.as_deref().and_then(dropbox_timestamp),
        duration: duration.map(|millis| crate::convert::duration(std::time::Duration::from_millis(millis))),
    }
}
