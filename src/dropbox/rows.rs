//! What Dropbox's tags mean, as data: the table of API-DESIGN (b). Rows are read from the top, the first that fits
//! decides. Tags are written as they stand after the wrappers are peeled; a `*` ends a prefix.

use crate::fault::Reason::{self, *};

/// One meaning.
pub(super) struct Row {
    pub status: u16,
    /// Beginnings of the routes this row is for; none means every route.
    pub routes: &'static [&'static str],
    pub tags: &'static [&'static str],
    pub reason: Reason,
    pub extra: Extra,
}

/// What else the fault carries.
#[derive(Clone, Copy)]
pub(super) enum Extra {
    Nothing,
    /// The innermost tag as `rule`.
    Rule,
    /// The field of the request that is wrong.
    Field(&'static str),
    /// The path the wrapper names: `from_path`, `to_path` or `path`.
    PathField,
    /// Seconds after which the same request may be sent again.
    Again(u64),
}

use Extra::{Again, Field, Nothing, PathField, Rule};

/// A 409; a 404 with JSON and an entry of a batch are read the same.
const E: u16 = 409;
const UPLOADS: &[&str] = &["files/upload", "files/alpha/upload"];
const SESSIONS: &[&str] = &["files/upload_session/"];
const FILE_REQUESTS: &[&str] = &["file_requests/"];
const SHARING: &[&str] = &["sharing/"];
const MOUNTS: &[&str] = &["sharing/mount_folder", "sharing/unmount_folder"];
const PAPER: &[&str] = &["files/paper/", "paper/"];

const fn row(
    status: u16,
    routes: &'static [&'static str],
    tags: &'static [&'static str],
    reason: Reason,
    extra: Extra,
) -> Row {
    Row { status, routes, tags, reason, extra }
}

/// Reasons that depend on more than the tag (`conflict/file`, `internal_error`) are settled in `problem`.
pub(super) static ROWS: &[Row] = &[
    // ---- 401: the bearer ----
    row(401, &[], &["invalid_access_token", "expired_access_token"], ReauthorizationRequired, Nothing),
    row(401, &[], &["user_suspended"], AccountSuspended, Nothing),
    row(401, &[], &["invalid_select_user", "invalid_select_admin"], ActAsInvalid, Field("context.act_as")),
    row(401, &[], &["missing_scope"], ScopeMissing, Nothing),
    row(401, &[], &["route_access_denied"], RouteNotAvailable, Nothing),
    // ---- 403: the account ----
    row(403, UPLOADS, &["invalid_account_type/feature"], DataTransportLimit, Nothing),
    row(403, &[], &["invalid_account_type"], AccountType, Rule),
    row(403, &[], &["paper_access_denied"], PaperDisabled, Nothing),
    row(403, &[], &["team_access_denied", "no_permission"], DropboxAccessDenied, Nothing),
    // ---- 422: the path root ----
    row(422, &[], &["invalid_root"], PathRootChanged, Nothing),
    row(422, &[], &["no_permission"], PathRootAccess, Nothing),
    // ---- file requests ----
    row(E, FILE_REQUESTS, &["not_found"], FileRequestNotFound, Nothing),
    row(E, FILE_REQUESTS, &["not_a_folder"], NotAFolder, Nothing),
    row(E, FILE_REQUESTS, &["app_lacks_access", "no_permission"], FileRequestAccess, Nothing),
    row(E, FILE_REQUESTS, &["validation_error"], InvalidField, Field("file_request")),
    row(E, FILE_REQUESTS, &["invalid_location"], InvalidLocation, Nothing),
    row(E, FILE_REQUESTS, &["disabled_for_team"], FileRequestsDisabled, Nothing),
    row(E, FILE_REQUESTS, &["rate_limit"], FileRequestLimit, Nothing),
    row(E, FILE_REQUESTS, &["file_request_open"], FileRequestOpen, Nothing),
    // ---- Paper ----
    row(E, PAPER, &["insufficient_permissions"], NoWritePermission, Rule),
    row(E, PAPER, &["content_malformed"], PaperContent, Field("content")),
    row(E, PAPER, &["doc_length_exceeded", "image_size_exceeded"], PaperTooLarge, Field("content")),
    row(E, PAPER, &["invalid_path", "invalid_file_extension"], MalformedPath, Field("path")),
    row(E, PAPER, &["paper_disabled"], PaperDisabled, Nothing),
    row(E, PAPER, &["revision_mismatch"], PaperRevisionConflict, Nothing),
    row(E, PAPER, &["doc_archived", "doc_deleted"], PaperState, Rule),
    // ---- upload sessions ----
    row(E, SESSIONS, &["not_found"], UploadNotFound, Nothing),
    row(E, SESSIONS, &["incorrect_offset"], UploadConcurrentWriter, Nothing),
    row(E, SESSIONS, &["closed"], UploadClosed, Nothing),
    row(E, SESSIONS, &["too_large"], FileTooLarge, Field("total_size")),
    row(E, SESSIONS, &["not_closed", "concurrent_session_*", "length_mismatch"], ConnectorBug, Nothing),
    row(E, &[], &["payload_too_large"], ConnectorBug, Nothing),
    row(E, &[], &["content_hash_mismatch"], ContentHashMismatch, Nothing),
    row(E, &[], &["encryption_not_supported"], EncryptedFolder, Nothing),
    // ---- links ----
    row(E, &[], &["shared_link_already_exists"], SharedLinkExists, Nothing),
    row(E, &[], &["email_not_verified", "email_unverified"], EmailUnverified, Nothing),
    row(E, &[], &["settings_error/invalid_settings"], LinkSettings, Field("settings")),
    row(E, &[], &["settings_error/not_authorized"], LinkSettingsNotAllowed, Nothing),
    row(E, &[], &["access_denied", "banned_member", "not_allowed"], LinksNotAllowed, Nothing),
    row(E, &[], &["shared_link_not_found"], SharedLinkNotFound, Nothing),
    row(E, &[], &["shared_link_access_denied"], SharedLinkAccess, Nothing),
    row(E, &[], &["shared_link_is_directory"], NotAFile, Nothing),
    row(E, &[], &["unsupported_link_type"], LinkType, Nothing),
    row(E, &[], &["shared_link_malformed"], InvalidUrl, Field("url")),
    row(E, &[], &["unsupported_parameter_field"], InvalidField, Field("settings")),
    // ---- shared folders and their members ----
    row(E, &[], &["bad_path/already_shared"], AlreadyShared, Nothing),
    row(E, &[], &["bad_path"], CannotShare, Rule),
    row(E, MOUNTS, &["already_mounted"], AlreadyMounted, Nothing),
    row(E, MOUNTS, &["inside_shared_folder", "not_mountable", "must_automount", "not_unmountable"], CannotMount, Rule),
    row(E, SHARING, &["contains_*", "inside_*", "is_*"], CannotShare, Rule),
    row(E, SHARING, &["invalid_id", "invalid_shared_folder", "unmounted"], SharedFolderNotFound, Nothing),
    row(E, SHARING, &["not_a_member", "no_permission"], SharedFolderAccess, Nothing),
    row(E, SHARING, &["bad_member", "invalid_member"], BadMember, Rule),
    row(E, SHARING, &["folder_owner", "group_access", "no_explicit_access", "team_folder"], MemberRole, Rule),
    row(E, SHARING, &["rate_limit"], InviteLimit, Again(24 * 3600)),
    row(E, SHARING, &["too_many_members", "too_many_pending_invites", "too_many_invitees"], InviteLimit, Nothing),
    row(
        E,
        SHARING,
        &[
            "team_policy_disallows_member_policy",
            "disallowed_shared_link_policy",
            "cant_share_outside_team",
            "insufficient_plan",
            "too_many_shared_folders",
            "not_on_team",
        ],
        SharingPolicy,
        Rule,
    ),
    // ---- team folders ----
    row(E, &[], &["sync_settings_error"], SyncSettings, Field("sync_settings")),
    row(E, &[], &["invalid_team_folder_id"], TeamFolderNotFound, Nothing),
    row(E, &["team/"], &["no_access"], DropboxAccessDenied, Nothing),
    row(E, &[], &["status_error", "team_shared_dropbox_error"], TeamFolderState, Rule),
    row(E, &[], &["folder_name_already_used"], PathConflict, Nothing),
    row(E, &[], &["invalid_folder_name", "folder_name_reserved"], DisallowedName, Field("name")),
    row(E, &[], &["folder_count_limit_exceeded"], TeamFolderLimit, Nothing),
    // ---- copy references, restore, save_url, search, tags, jobs, pages ----
    row(E, &["files/copy_reference/"], &["invalid_copy_reference", "no_permission"], TransferNotPossible, Rule),
    row(E, &[], &["retry_error", "in_progress"], ContentNotReady, Again(5)),
    row(E, &[], &["download_failed"], UrlFetchFailed, Nothing),
    row(E, &[], &["invalid_url"], InvalidUrl, Field("url")),
    row(E, &["files/search"], &["invalid_argument"], SearchArgument, Field("query")),
    row(E, &[], &["invalid_arg"], InvalidField, Field("argument")),
    row(E, &[], &["too_many_tags"], TagLimit, Nothing),
    row(E, &[], &["invalid_async_job_id"], JobNotFound, Nothing),
    row(E, &[], &["invalid_cursor"], PageTokenExpired, Field("page_token")),
    row(E, &[], &["reset"], CursorReset, Nothing),
    row(E, &[], &["invalid_before_rev", "before_rev_not_supported", "invalid_revision"], InvalidRevision, Field("rev")),
    // A range that begins beyond the end; not in the spec, and the download hides it where it can.
    row(E, &[], &["range"], ReadOffsetBeyondEnd, Nothing),
    // ---- lookups ----
    row(E, &[], &["malformed_path"], MalformedPath, PathField),
    row(E, &[], &["not_found"], PathNotFound, Nothing),
    row(E, &[], &["not_file"], NotAFile, Nothing),
    row(E, &[], &["not_folder"], NotAFolder, Nothing),
    row(E, &[], &["restricted_content"], RestrictedContent, Nothing),
    row(E, &[], &["unsupported_content_type", "unsupported_file", "non_exportable"], NotDownloadable, Rule),
    row(
        E,
        &[],
        &["unsupported_extension", "unsupported_image", "conversion_error", "encrypted_content"],
        NotDownloadable,
        Rule,
    ),
    row(E, &[], &["invalid_export_format"], ExportFormat, Field("export_format")),
    row(E, &[], &["locked", "lock_conflict"], ItemLocked, Nothing),
    row(E, &[], &["cannot_be_locked", "file_not_shared"], LockNotPossible, Rule),
    // ---- writes ----
    row(E, &[], &["conflict"], PathConflict, Nothing),
    row(
        E,
        &[],
        &["no_write_permission", "access_restricted", "operation_suppressed", "team_folder"],
        NoWritePermission,
        Rule,
    ),
    row(E, &[], &["insufficient_space", "insufficient_quota"], InsufficientSpace, Nothing),
    row(E, &[], &["disallowed_name"], DisallowedName, PathField),
    row(E, &[], &["too_many_write_operations"], WriteContention, Again(1)),
    row(E, &[], &["too_many_files", "too_many_shared_folder_targets"], TooManyFiles, Nothing),
    row(E, &[], &["properties_error", "template_error"], Properties, Field("properties")),
    // ---- relocations ----
    row(
        E,
        &[],
        &[
            "cant_copy_shared_folder",
            "cant_nest_shared_folder",
            "cant_move_shared_folder",
            "cant_move_into_vault",
            "cant_move_into_family",
            "cant_move_folder_into_itself",
        ],
        RelocationNotAllowed,
        Rule,
    ),
    row(E, &[], &["cant_transfer_ownership"], OwnershipTransfer, Field("allow_ownership_transfer")),
    row(E, &[], &["duplicated_or_nested_paths"], DuplicatePaths, Field("entries")),
    row(E, &[], &["internal_error"], DropboxInternal, Nothing),
];
