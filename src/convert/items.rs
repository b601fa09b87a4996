//! Items, listings, search and accounts: Dropbox's metadata as the proto tells it.

use dropbox_sdk::types::{common, files, users, users_common};

use crate::{
    api::v1 as api,
    convert::{
        Fields, dropbox_timestamp,
        path::{Forms, ItemPath, Jail},
        request_id, size,
    },
    fault::Result,
    limits::{
        LIST_LIMIT_MAX, LIST_PAGE_DEFAULT, SEARCH_EXTENSIONS_MAX, SEARCH_PAGE_DEFAULT, SEARCH_PAGE_MAX,
        SEARCH_QUERY_CHARS_MAX, SORTED_ITEMS_MAX,
    },
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
        files::Metadata::File(file) => (file.name.clone(), api::item::Kind::File(file_item(file))),
        files::Metadata::Folder(folder) => (folder.name.clone(), api::item::Kind::Folder(folder_item(folder))),
        files::Metadata::Deleted(deleted) => (
            deleted.name,
            api::item::Kind::Deleted(api::DeletedItem { is_restorable: deleted.is_restorable, ..Default::default() }),
        ),
    };
    let name = if is_root { String::new() } else { name };
    Some(api::Item { name, path_lower, path_display, parent_shared_folder_id, kind: Some(kind) })
}

/// An item that must be there for this caller, since it was asked for by its path.
///
/// # Errors
/// `PATH_NOT_FOUND` if it lies outside the jail: its existence is not told.
pub fn item_at(metadata: files::Metadata, jail: &Jail, asked: &str) -> Result<api::Item> {
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

/// `GetItem`, checked.
///
/// # Errors
/// `MALFORMED_PATH`, `INVALID_FIELD`.
pub fn get_item(request: &api::GetItemRequest) -> Result<ItemPath> {
    let mut fields = Fields::new();
    let path = fields.path("path", &request.path, Forms::READ);
    fields.accept(path)
}

pub fn get_item_arg(request: &api::GetItemRequest, path: String) -> files::GetMetadataArg {
    files::GetMetadataArg::new(path)
        .with_include_deleted(request.include_deleted)
        .with_include_media_info(request.include_media_info)
        .with_include_has_explicit_shared_members(request.include_has_explicit_shared_members)
}

/// The question `get_metadata` has no answer to: the newest revision at the path of a deleted file.
pub fn newest_revision_arg(path: String) -> files::ListRevisionsArg {
    files::ListRevisionsArg::new(path).with_limit(1).with_include_restorable_info(true)
}

/// Puts what the newest revision says into a deleted item.
pub fn tell_restorable(item: &mut api::Item, revisions: &files::ListRevisionsResult) {
    if let (Some(api::item::Kind::Deleted(deleted)), Some(newest)) = (&mut item.kind, revisions.entries.first()) {
        deleted.is_restorable = newest.is_restorable;
    }
}

/// What a listing is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Folder {
    Path(ItemPath),
    SharedLink(files::SharedLink, ItemPath),
}

/// The fields `ListFolder` and `WalkFolder` share.
#[derive(Debug, Clone)]
pub struct Listing {
    pub folder: Folder,
    arg: files::ListFolderArg,
}

macro_rules! listing {
    ($request:ident, $fields:ident) => {{
        let folder = match &$request.shared_link {
            None => Folder::Path($fields.path("path", &$request.path, Forms::FOLDER)),
            Some(link) => {
                $fields.check($request.path.is_empty(), "path", "CONFLICT", "not together with shared_link");
                $fields.check(!$request.recursive, "recursive", "CONFLICT", "not together with shared_link");
                let (link, path) = shared_link(&mut $fields, link);
                Folder::SharedLink(link, path)
            }
        };
        let mut arg = files::ListFolderArg::new(String::new())
            .with_recursive($request.recursive)
            .with_include_deleted($request.include_deleted)
            .with_include_restorable_info($request.include_deleted)
            .with_include_mounted_folders($request.include_mounted_folders.unwrap_or(true))
            .with_include_non_downloadable_files($request.include_non_downloadable_files.unwrap_or(true))
            .with_include_has_explicit_shared_members($request.include_has_explicit_shared_members);
        if let Folder::SharedLink(link, path) = &folder {
            arg.path = path.as_str().to_owned();
            arg.shared_link = Some(link.clone());
        }
        Listing { folder, arg }
    }};
}

/// `ListFolder`, checked, and the entries of a page.
///
/// # Errors
/// `MALFORMED_PATH`, `INVALID_URL`, `INVALID_FIELD`.
pub fn list_folder(request: &api::ListFolderRequest) -> Result<(Listing, u32)> {
    let mut fields = Fields::new();
    let listing = listing!(request, fields);
    let page_size = fields.page_size(request.page_size, LIST_PAGE_DEFAULT, LIST_LIMIT_MAX);
    fields.accept((listing, page_size))
}

/// How a walk ends and in which order it tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalkPlan {
    pub order: api::ItemOrderBy,
    pub descending: bool,
    /// `usize::MAX`: all.
    pub max_items: usize,
}

/// `WalkFolder`, checked.
///
/// # Errors
/// `MALFORMED_PATH`, `INVALID_URL`, `INVALID_FIELD`.
pub fn walk_folder(request: &api::WalkFolderRequest) -> Result<(Listing, WalkPlan)> {
    let mut fields = Fields::new();
    let listing = listing!(request, fields);
    let order: api::ItemOrderBy = fields.known("order_by", request.order_by);
    let max_items = fields.natural("max_items", i64::from(request.max_items));
    let max_items = if max_items == 0 { usize::MAX } else { usize::try_from(max_items).unwrap_or(usize::MAX) };
    if order == api::ItemOrderBy::Unspecified {
        fields.check(!request.descending, "descending", "CONFLICT", "only together with order_by");
    } else {
        let bounded = max_items <= SORTED_ITEMS_MAX;
        fields.check(bounded, "max_items", "REQUIRED", format!("1 to {SORTED_ITEMS_MAX} together with order_by"));
        fields.check(request.continue_token.is_empty(), "continue_token", "CONFLICT", "not together with order_by");
    }
    fields.accept((listing, WalkPlan { order, descending: request.descending, max_items }))
}

impl Listing {
    /// The argument, with the folder where it lies at Dropbox.
    pub fn arg(&self, path: Option<&str>, limit: u32) -> files::ListFolderArg {
        let mut arg = self.arg.clone();
        if let Some(path) = path {
            arg.path = path.to_owned();
        }
        arg.limit = Some(limit);
        arg
    }
}

/// A folder or file behind a shared link, and the path inside it.
pub fn shared_link(fields: &mut Fields, link: &api::SharedLinkSource) -> (files::SharedLink, ItemPath) {
    crate::convert::sharing::link_url(fields, "shared_link.url", &link.url);
    let path = fields.path("shared_link.path", &link.path, Forms::PLAIN);
    fields.text("shared_link.password", &link.password);
    let mut arg = files::SharedLink::new(link.url.clone());
    arg.password = Some(link.password.clone()).filter(|password| !password.is_empty());
    (arg, path)
}

/// `SearchItems`, checked.
#[derive(Debug, Clone)]
pub struct Search {
    /// `None`: everywhere.
    pub path: Option<ItemPath>,
    /// Kinds wanted.
    pub files: bool,
    pub folders: bool,
    arg: files::SearchV2Arg,
}

/// # Errors
/// `MALFORMED_PATH`, `INVALID_FIELD`.
pub fn search_items(request: &api::SearchItemsRequest) -> Result<Search> {
    let mut fields = Fields::new();
    let characters = request.query.chars().count();
    let fits = (1..=SEARCH_QUERY_CHARS_MAX).contains(&characters);
    fields.check(fits, "query", "OUT_OF_RANGE", format!("1 to {SEARCH_QUERY_CHARS_MAX} characters"));
    let path = (!request.path.is_empty()).then(|| fields.path("path", &request.path, Forms::FOLDER));
    let path = path.filter(|path| !path.is_root());
    let (mut wants_files, mut wants_folders) = (request.kinds.is_empty(), request.kinds.is_empty());
    for (index, kind) in request.kinds.iter().enumerate() {
        match fields.known(&format!("kinds[{index}]"), *kind) {
            api::ItemKind::File => wants_files = true,
            api::ItemKind::Folder => wants_folders = true,
            api::ItemKind::Any => (wants_files, wants_folders) = (true, true),
            api::ItemKind::Deleted | api::ItemKind::Unspecified => {
                fields.refuse(format!("kinds[{index}]"), "NOT_ALLOWED", "files and folders can be searched for");
            }
        }
    }
    let extensions_fit = request.extensions.len() <= SEARCH_EXTENSIONS_MAX
        && request.extensions.iter().all(|extension| !extension.is_empty() && extension.len() <= 64);
    fields.check(extensions_fit, "extensions", "OUT_OF_RANGE", "at most 32 extensions of 1 to 64 bytes");
    let mut categories: Vec<_> = request
        .categories
        .iter()
        .enumerate()
        .filter_map(|(index, category)| {
            let field = format!("categories[{index}]");
            let known = file_category(fields.known(&field, *category));
            fields.check(known.is_some(), &field, "REQUIRED", "name a category");
            known
        })
        .collect();
    if categories.is_empty() && wants_folders && !wants_files {
        categories.push(files::FileCategory::Folder);
    }
    let file_status = match fields.known("file_status", request.file_status) {
        api::FileStatus::Deleted => files::FileStatus::Deleted,
        api::FileStatus::Active | api::FileStatus::Unspecified => files::FileStatus::Active,
    };
    let order_by = match fields.known("order_by", request.order_by) {
        api::SearchOrderBy::LastModified => files::SearchOrderBy::LastModifiedTime,
        api::SearchOrderBy::Relevance | api::SearchOrderBy::Unspecified => files::SearchOrderBy::Relevance,
    };
    let page_size = fields.page_size(request.page_size, SEARCH_PAGE_DEFAULT, SEARCH_PAGE_MAX);
    let mut options = files::SearchOptions::default()
        .with_max_results(u64::from(page_size))
        .with_order_by(order_by)
        .with_file_status(file_status)
        .with_filename_only(request.file_name_only);
    let extensions: Vec<_> = request.extensions.iter().map(|e| e.trim_start_matches('.').to_owned()).collect();
    options.file_extensions = Some(extensions).filter(|list| !list.is_empty());
    options.file_categories = Some(categories).filter(|list| !list.is_empty());
    let mut arg = files::SearchV2Arg::new(request.query.clone());
    arg.options = Some(options);
    fields.accept(Search { path, files: wants_files, folders: wants_folders, arg })
}

impl Search {
    /// The argument, with the folder where it lies at Dropbox; `None` for everywhere.
    pub fn arg(&self, path: Option<String>) -> files::SearchV2Arg {
        let mut arg = self.arg.clone();
        if let Some(options) = &mut arg.options {
            options.path = path;
        }
        arg
    }
}

/// A match as a caller of this jail may see it, if it is of a wanted kind.
pub fn search_match(found: files::SearchMatchV2, search: &Search, jail: &Jail) -> Option<api::SearchMatch> {
    let files::MetadataV2::Metadata(metadata) = found.metadata else { return None };
    let wanted = match &metadata {
        files::Metadata::File(_) => search.files,
        files::Metadata::Folder(_) => search.folders,
        files::Metadata::Deleted(_) => true,
    };
    if !wanted {
        return None;
    }
    let match_type = match found.match_type {
        Some(files::SearchMatchTypeV2::Filename) => api::MatchType::FileName,
        Some(files::SearchMatchTypeV2::FileContent) => api::MatchType::FileContent,
        Some(files::SearchMatchTypeV2::FilenameAndContent) => api::MatchType::FileNameAndContent,
        Some(files::SearchMatchTypeV2::ImageContent) => api::MatchType::ImageContent,
        Some(files::SearchMatchTypeV2::Metadata) => api::MatchType::Metadata,
        _ => api::MatchType::Unspecified,
    };
    Some(api::SearchMatch { item: Some(item(metadata, jail)?), match_type: match_type.into() })
}

fn file_category(category: api::FileCategory) -> Option<files::FileCategory> {
    Some(match category {
        api::FileCategory::Unspecified => return None,
        api::FileCategory::Image => files::FileCategory::Image,
        api::FileCategory::Document => files::FileCategory::Document,
        api::FileCategory::Pdf => files::FileCategory::Pdf,
        api::FileCategory::Spreadsheet => files::FileCategory::Spreadsheet,
        api::FileCategory::Presentation => files::FileCategory::Presentation,
        api::FileCategory::Audio => files::FileCategory::Audio,
        api::FileCategory::Video => files::FileCategory::Video,
        api::FileCategory::Folder => files::FileCategory::Folder,
        api::FileCategory::Paper => files::FileCategory::Paper,
        api::FileCategory::Others => files::FileCategory::Others,
    })
}

/// # Errors
/// `MALFORMED_PATH`, `DISALLOWED_NAME`, `INVALID_FIELD`.
pub fn create_folder(request: &api::CreateFolderRequest) -> Result<ItemPath> {
    let mut fields = Fields::new();
    let path = fields.new_path("path", &request.path, Forms::WRITE);
    let conflict = request.autorename && request.return_existing;
    fields.check(!conflict, "autorename", "CONFLICT", "not together with return_existing");
    fields.accept(path)
}

/// What a copy and a move ask alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relocation {
    pub from: ItemPath,
    pub to: ItemPath,
    pub request_id: Option<String>,
    /// Empty: whatever the rev is.
    pub expected_rev: String,
    pub autorename: bool,
    pub replace_existing: bool,
}

/// # Errors
/// `MALFORMED_PATH`, `DISALLOWED_NAME`, `INVALID_FIELD`.
pub fn copy_item(request: &api::CopyItemRequest) -> Result<Relocation> {
    let api::CopyItemRequest { from_path, to_path, request_id, expected_rev, .. } = request;
    let switches = (request.autorename, request.replace_existing);
    relocation(from_path, to_path, request_id, expected_rev, switches)
}

/// # Errors
/// As [`copy_item`].
pub fn move_item(request: &api::MoveItemRequest) -> Result<Relocation> {
    let api::MoveItemRequest { from_path, to_path, request_id, expected_rev, .. } = request;
    let switches = (request.autorename, request.replace_existing);
    relocation(from_path, to_path, request_id, expected_rev, switches)
}

fn relocation(
    from_path: &str,
    to_path: &str,
    id: &str,
    expected_rev: &str,
    (autorename, replace_existing): (bool, bool),
) -> Result<Relocation> {
    let mut fields = Fields::new();
    let from = fields.path("from_path", from_path, Forms::WRITE_OR_ID);
    let to = fields.new_path("to_path", to_path, Forms::WRITE);
    let request_id = request_id(&mut fields, id);
    if !expected_rev.is_empty() {
        rev(&mut fields, "expected_rev", expected_rev);
    }
    fields.check(!(autorename && replace_existing), "replace_existing", "CONFLICT", "not together with autorename");
    fields.accept(Relocation {
        from,
        to,
        request_id,
        expected_rev: expected_rev.to_owned(),
        autorename,
        replace_existing,
    })
}

/// Dropbox's own pattern for revisions.
pub fn rev(fields: &mut Fields, field: &str, rev: &str) {
    let well_formed =
        (9..=128).contains(&rev.len()) && rev.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    fields.check(well_formed, field, "MALFORMED", "a rev has at least 9 lower-case hexadecimal digits");
}

/// `DeleteItem`, checked: the path and the kind that may be deleted.
///
/// # Errors
/// `MALFORMED_PATH`, `INVALID_FIELD`.
pub fn delete_item(request: &api::DeleteItemRequest) -> Result<(ItemPath, api::ItemKind)> {
    let mut fields = Fields::new();
    let path = fields.path("path", &request.path, Forms::WRITE_OR_ID);
    let kind = match fields.known("kind", request.kind) {
        api::ItemKind::Unspecified => api::ItemKind::File,
        api::ItemKind::Deleted => {
            fields.refuse("kind", "NOT_ALLOWED", "what is deleted cannot be deleted again");
            api::ItemKind::File
        }
        kind => kind,
    };
    if !request.expected_rev.is_empty() {
        rev(&mut fields, "expected_rev", &request.expected_rev);
        fields.check(kind != api::ItemKind::Folder, "expected_rev", "CONFLICT", "folders have no rev");
    }
    fields.accept((path, kind))
}

pub fn get_account_response(account: users::FullAccount, space: users::SpaceUsage) -> api::GetAccountResponse {
    let (root_namespace_id, home_namespace_id, home_path) = match account.root_info {
        common::RootInfo::Team(root) => (root.root_namespace_id, root.home_namespace_id, root.home_path),
        common::RootInfo::User(root) => (root.root_namespace_id, root.home_namespace_id, String::new()),
        _ => Default::default(),
    };
    let (space_used, space_allocated, space_is_shared) = match space.allocation {
        users::SpaceAllocation::Individual(own) => (space.used, own.allocated, false),
        users::SpaceAllocation::Team(team) if team.user_within_team_space_allocated > 0 => {
            (team.user_within_team_space_used_cached, team.user_within_team_space_allocated, false)
        }
        users::SpaceAllocation::Team(team) => (team.used, team.allocated, true),
        _ => (space.used, 0, false),
    };
    api::GetAccountResponse {
        account_id: account.account_id,
        display_name: account.name.display_name,
        email: account.email,
        account_type: account_type(&account.account_type).into(),
        team_id: account.team.map(|team| team.id).unwrap_or_default(),
        team_member_id: account.team_member_id.unwrap_or_default(),
        root_namespace_id,
        home_namespace_id,
        home_path,
        space_used: size(space_used),
        space_allocated: size(space_allocated),
        space_is_shared,
    }
}

fn account_type(plan: &users_common::AccountType) -> api::AccountType {
    match plan {
        users_common::AccountType::Basic => api::AccountType::Basic,
        users_common::AccountType::Pro => api::AccountType::Pro,
        users_common::AccountType::Business => api::AccountType::Business,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Reason;

    fn file(path: &str) -> files::Metadata {
        let mut file = files::FileMetadata::new(
            path.rsplit('/').next().unwrap().to_owned(),
            "id:abcd".to_owned(),
            "2026-01-02T03:04:05Z".to_owned(),
            "2026-01-02T03:04:06Z".to_owned(),
            "0123456789".to_owned(),
            7,
        );
        file.path_lower = Some(path.to_lowercase());
        file.path_display = Some(path.to_owned());
        files::Metadata::File(file)
    }

    #[test]
    fn an_item_is_told_with_the_jail_taken_off_and_not_at_all_outside() {
        let jail = Jail::new("/Apps").unwrap();
        let told = item(file("/Apps/In/A.txt"), &jail).unwrap();
        assert_eq!((told.name.as_str(), told.path_display.as_str()), ("A.txt", "/In/A.txt"));
        assert_eq!(told.path_lower, "/in/a.txt");
        let Some(api::item::Kind::File(file_item)) = told.kind else { panic!("a file") };
        assert_eq!((file_item.size, file_item.client_modified.unwrap().seconds), (7, 1_767_323_045));
        assert!(item(file("/Other/A.txt"), &jail).is_none());
        assert_eq!(item_at(file("/x"), &jail, "id:abcd").unwrap_err().reason(), Reason::PathNotFound);
    }

    #[test]
    fn a_sorted_walk_must_be_bounded_and_cannot_be_continued() {
        let mut request = api::WalkFolderRequest { path: "/".into(), ..Default::default() };
        assert_eq!(walk_folder(&request).unwrap().1.max_items, usize::MAX);
        request.order_by = api::ItemOrderBy::Size.into();
        request.continue_token = "x".into();
        let fault = walk_folder(&request).unwrap_err();
        let named: Vec<_> = fault.violations().iter().map(|v| v.field.as_str()).collect();
        assert_eq!(named, ["max_items", "continue_token"]);
    }

    #[test]
    fn a_search_for_folders_alone_asks_dropbox_for_folders() {
        let request = api::SearchItemsRequest {
            query: "x".into(),
            kinds: vec![api::ItemKind::Folder.into()],
            ..Default::default()
        };
        let search = search_items(&request).unwrap();
        let options = search.arg(None).options.unwrap();
        assert_eq!(options.file_categories, Some(vec![files::FileCategory::Folder]));
        let bad =
            api::SearchItemsRequest { query: "x".repeat(1001), kinds: vec![4], page_size: -1, ..Default::default() };
        assert_eq!(search_items(&bad).unwrap_err().violations().len(), 3);
    }

    #[test]
    fn deleting_defaults_to_files_and_never_takes_the_root() {
        let request = |path: &str| api::DeleteItemRequest { path: path.into(), ..Default::default() };
        assert_eq!(delete_item(&request("/a")).unwrap().1, api::ItemKind::File);
        for root in ["", "/", "\\", "ns:12", "rev:0123456789"] {
            assert_eq!(delete_item(&request(root)).unwrap_err().reason(), Reason::MalformedPath, "{root}");
        }
    }
}
