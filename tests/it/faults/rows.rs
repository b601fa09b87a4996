//! Rows that an RPC of its own reaches.

use serde_json::json;
use tonic::Code::{
    Aborted, AlreadyExists, DataLoss, FailedPrecondition, Internal, InvalidArgument, NotFound, PermissionDenied,
    ResourceExhausted, Unavailable, Unknown,
};

use super::{
    Row,
    Says::{Error, Json, Status, Tags, Text},
    Via, check, furnished, row,
};

const ITEM: &[&str] = &["ResourceInfo"];
const KIND: &[&str] = &["PreconditionFailure", "ResourceInfo"];
const BLOCKED: &[&str] = &["PreconditionFailure"];
const FIELD: &[&str] = &["BadRequest"];
const QUOTA: &[&str] = &["QuotaFailure"];
const HELP: &[&str] = &["Help"];

fn tags(via: Via, tags: &'static str, code: tonic::Code, reason: &'static str) -> Row {
    row(via, Tags(tags), code, reason)
}

#[tokio::test]
async fn what_is_wrong_with_the_bearer_or_the_account_is_told_as_such() {
    let house = furnished().await;
    let get = Via::GetItem;
    let scope = json!({ ".tag": "missing_scope", "required_scope": "files.metadata.read" });
    check(
        &house,
        &[
            row(get, Status(401, "user_suspended"), FailedPrecondition, "ACCOUNT_SUSPENDED").details(BLOCKED),
            row(Via::Account, Status(401, "user_suspended"), FailedPrecondition, "ACCOUNT_SUSPENDED").details(BLOCKED),
            row(get, Status(401, "invalid_select_user"), InvalidArgument, "ACT_AS_INVALID")
                .details(FIELD)
                .field("context.act_as"),
            row(get, Status(401, "invalid_select_admin"), InvalidArgument, "ACT_AS_INVALID").details(FIELD),
            row(get, Json(401, scope), PermissionDenied, "SCOPE_MISSING")
                .details(HELP)
                .facts(&[("requiredScope", "files.metadata.read")]),
            row(get, Status(401, "route_access_denied"), PermissionDenied, "ROUTE_NOT_AVAILABLE"),
            row(get, Status(403, "invalid_account_type/endpoint"), FailedPrecondition, "ACCOUNT_TYPE")
                .details(BLOCKED)
                .facts(&[("rule", "endpoint")]),
            row(get, Status(403, "invalid_account_type/feature"), FailedPrecondition, "ACCOUNT_TYPE")
                .details(BLOCKED)
                .facts(&[("rule", "feature")]),
            row(get, Status(403, "paper_access_denied/paper_disabled"), FailedPrecondition, "PAPER_DISABLED")
                .details(BLOCKED),
            row(get, Status(403, "team_access_denied"), PermissionDenied, "DROPBOX_ACCESS_DENIED").details(ITEM),
            row(get, Status(403, "no_permission"), PermissionDenied, "DROPBOX_ACCESS_DENIED").details(ITEM),
            row(get, Status(422, "no_permission"), PermissionDenied, "PATH_ROOT_ACCESS"),
            row(
                get,
                Json(422, json!({ ".tag": "invalid_root", "invalid_root": { ".tag": "user", "root_namespace_id": "77" } })),
                FailedPrecondition,
                "PATH_ROOT_CHANGED",
            )
            .facts(&[("rootNamespaceId", "77")]),
            row(get, Text(407, "who are you"), FailedPrecondition, "PROXY_AUTH_REQUIRED"),
            row(get, Text(410, "gone"), FailedPrecondition, "LINK_EXPIRED"),
            row(get, Text(418, "teapot"), Internal, "DROPBOX_BAD_REQUEST"),
            row(get, Text(404, "not here"), NotFound, "PATH_NOT_FOUND").details(ITEM),
            row(get, Status(404, "path/not_found"), NotFound, "PATH_NOT_FOUND").details(ITEM),
            row(
                get,
                Text(400, "Error in call to API function \"files/get_metadata\": This API function operates on a single Dropbox account, but the OAuth 2 access token you provided is for an entire Dropbox Business team."),
                FailedPrecondition,
                "MEMBER_REQUIRED",
            )
            .details(BLOCKED),
            row(
                get,
                Text(400, "Error in call to API function \"files/get_metadata\": request body: path: 'SECRET' did not match pattern"),
                InvalidArgument,
                "REJECTED_BY_DROPBOX",
            )
            .details(FIELD)
            .field("path"),
            row(get, Text(400, "Error in call to API function \"files/get_metadata\": request body: limit: SECRET"), Internal, "DROPBOX_BAD_REQUEST"),
        ],
    )
    .await;
}

#[tokio::test]
async fn lookups_that_fail_name_the_item() {
    let house = furnished().await;
    let get = Via::GetItem;
    check(
        &house,
        &[
            tags(get, "path/malformed_path", InvalidArgument, "MALFORMED_PATH").details(FIELD).field("path"),
            tags(get, "path/not_found", NotFound, "PATH_NOT_FOUND").details(ITEM),
            tags(get, "path/not_file", FailedPrecondition, "NOT_A_FILE").details(KIND),
            tags(get, "path/not_folder", FailedPrecondition, "NOT_A_FOLDER").details(KIND),
            tags(get, "path/restricted_content", FailedPrecondition, "RESTRICTED_CONTENT").details(ITEM),
            tags(get, "path/unsupported_content_type", FailedPrecondition, "NOT_DOWNLOADABLE")
                .facts(&[("rule", "unsupported_content_type")]),
            tags(get, "path/locked", FailedPrecondition, "ITEM_LOCKED").details(KIND),
            tags(get, "path/never_heard_of", Unknown, "DROPBOX_ERROR"),
            tags(get, "other", Unknown, "DROPBOX_ERROR"),
            row(get, Error(json!({ "no": "tag" })), Unknown, "DROPBOX_ERROR").facts(&[]),
            tags(Via::List, "path/not_folder", FailedPrecondition, "NOT_A_FOLDER").details(KIND),
            tags(Via::List, "path/not_found", NotFound, "PATH_NOT_FOUND").details(ITEM),
            tags(Via::List, "template_error/template_not_found", InvalidArgument, "PROPERTIES").details(FIELD),
            tags(Via::ListMore, "reset", Aborted, "CURSOR_RESET"),
            tags(Via::Links, "reset", Aborted, "CURSOR_RESET"),
            tags(Via::Links, "path/not_found", NotFound, "PATH_NOT_FOUND").details(ITEM),
            row(
                Via::Search,
                Error(json!({ ".tag": "invalid_argument", "invalid_argument": "SECRET" })),
                InvalidArgument,
                "SEARCH_ARGUMENT",
            )
            .details(FIELD)
            .field("query"),
            tags(Via::Search, "path/not_folder", FailedPrecondition, "NOT_A_FOLDER").details(BLOCKED),
            tags(Via::Download, "path/not_found", NotFound, "PATH_NOT_FOUND").details(ITEM),
            tags(Via::Download, "path/not_file", FailedPrecondition, "NOT_A_FILE").details(KIND),
            tags(Via::Download, "path/restricted_content", FailedPrecondition, "RESTRICTED_CONTENT").details(ITEM),
            tags(Via::Download, "unsupported_file", FailedPrecondition, "NOT_DOWNLOADABLE")
                .facts(&[("rule", "unsupported_file")]),
            tags(Via::Export, "non_exportable", FailedPrecondition, "NOT_DOWNLOADABLE")
                .facts(&[("rule", "non_exportable")]),
            tags(Via::Export, "invalid_export_format", InvalidArgument, "EXPORT_FORMAT")
                .details(FIELD)
                .field("export_format"),
            tags(Via::Export, "retry_error", Unavailable, "CONTENT_NOT_READY").retry(5),
        ],
    )
    .await;
}

#[tokio::test]
async fn writes_that_are_refused_say_what_is_in_the_way() {
    let house = furnished().await;
    let create = Via::Create;
    check(
        &house,
        &[
            tags(create, "path/conflict/file", AlreadyExists, "PATH_CONFLICT")
                .details(ITEM)
                .facts(&[("conflictKind", "file")]),
            tags(create, "path/conflict/folder", AlreadyExists, "PATH_CONFLICT")
                .details(ITEM)
                .facts(&[("conflictKind", "folder")]),
            tags(create, "path/conflict/file_ancestor", AlreadyExists, "PATH_CONFLICT")
                .details(ITEM)
                .facts(&[("conflictKind", "file_ancestor")]),
            tags(create, "path/malformed_path", InvalidArgument, "MALFORMED_PATH").details(FIELD).field("path"),
            tags(create, "path/disallowed_name", InvalidArgument, "DISALLOWED_NAME").details(FIELD).field("path"),
            tags(create, "path/no_write_permission", PermissionDenied, "NO_WRITE_PERMISSION")
                .details(ITEM)
                .facts(&[("rule", "no_write_permission")]),
            tags(create, "path/access_restricted", PermissionDenied, "NO_WRITE_PERMISSION")
                .details(ITEM)
                .facts(&[("rule", "access_restricted")]),
            tags(create, "path/operation_suppressed", PermissionDenied, "NO_WRITE_PERMISSION")
                .details(ITEM)
                .facts(&[("rule", "operation_suppressed")]),
            tags(create, "path/team_folder", PermissionDenied, "NO_WRITE_PERMISSION")
                .details(ITEM)
                .facts(&[("rule", "team_folder")]),
            tags(create, "path/insufficient_space", ResourceExhausted, "INSUFFICIENT_SPACE").details(QUOTA),
            tags(Via::Delete, "path_lookup/not_found", NotFound, "PATH_NOT_FOUND").details(ITEM),
            tags(Via::Delete, "path_write/team_folder", PermissionDenied, "NO_WRITE_PERMISSION")
                .details(ITEM)
                .facts(&[("rule", "team_folder")]),
            tags(Via::Delete, "path_lookup/locked", FailedPrecondition, "ITEM_LOCKED").details(KIND),
            tags(Via::Delete, "too_many_files", FailedPrecondition, "TOO_MANY_FILES")
                .details(HELP)
                .facts(&[("limit", "10000")]),
            tags(Via::Permanently, "path_lookup/not_found", NotFound, "PATH_NOT_FOUND").details(ITEM),
        ],
    )
    .await;
}

#[tokio::test]
async fn relocations_that_are_refused_name_the_rule_and_the_side() {
    let house = furnished().await;
    let (copy, moving) = (Via::Copy, Via::Move);
    check(
        &house,
        &[
            tags(copy, "from_lookup/not_found", NotFound, "PATH_NOT_FOUND").details(ITEM),
            tags(copy, "from_lookup/malformed_path", InvalidArgument, "MALFORMED_PATH")
                .details(FIELD)
                .field("from_path"),
            tags(copy, "to/conflict/file", AlreadyExists, "PATH_CONFLICT")
                .details(ITEM)
                .facts(&[("conflictKind", "file")]),
            tags(copy, "to/malformed_path", InvalidArgument, "MALFORMED_PATH").details(FIELD).field("to_path"),
            tags(copy, "cant_copy_shared_folder", FailedPrecondition, "RELOCATION_NOT_ALLOWED")
                .details(BLOCKED)
                .facts(&[("rule", "cant_copy_shared_folder")]),
            tags(copy, "cant_nest_shared_folder", FailedPrecondition, "RELOCATION_NOT_ALLOWED")
                .details(BLOCKED)
                .facts(&[("rule", "cant_nest_shared_folder")]),
            tags(copy, "too_many_files", FailedPrecondition, "TOO_MANY_FILES")
                .details(HELP)
                .facts(&[("limit", "10000")]),
            tags(copy, "insufficient_quota", ResourceExhausted, "INSUFFICIENT_SPACE").details(QUOTA),
            tags(copy, "duplicated_or_nested_paths", InvalidArgument, "DUPLICATE_PATHS").details(FIELD),
            tags(moving, "from_write/no_write_permission", PermissionDenied, "NO_WRITE_PERMISSION")
                .details(ITEM)
                .facts(&[("rule", "no_write_permission")]),
            tags(moving, "cant_move_folder_into_itself", FailedPrecondition, "RELOCATION_NOT_ALLOWED")
                .details(BLOCKED)
                .facts(&[("rule", "cant_move_folder_into_itself")]),
            tags(moving, "cant_move_shared_folder", FailedPrecondition, "RELOCATION_NOT_ALLOWED")
                .details(BLOCKED)
                .facts(&[("rule", "cant_move_shared_folder")]),
            tags(moving, "cant_move_into_vault/is_shared_folder", FailedPrecondition, "RELOCATION_NOT_ALLOWED")
                .details(BLOCKED)
                .facts(&[("rule", "is_shared_folder")]),
            tags(moving, "cant_move_into_family/is_shared_folder", FailedPrecondition, "RELOCATION_NOT_ALLOWED")
                .details(BLOCKED)
                .facts(&[("rule", "is_shared_folder")]),
            tags(moving, "cant_transfer_ownership", FailedPrecondition, "OWNERSHIP_TRANSFER")
                .details(FIELD)
                .field("allow_ownership_transfer"),
        ],
    )
    .await;
}

#[tokio::test]
async fn links_that_are_refused_are_told_without_their_urls() {
    let house = furnished().await;
    let share = Via::Share;
    let existing = json!({
        ".tag": "shared_link_already_exists",
        "shared_link_already_exists": {
            ".tag": "metadata", "metadata": { ".tag": "file", "url": "https://www.dropbox.com/scl/fi/there" },
        },
    });
    check(
        &house,
        &[
            row(share, Error(existing), AlreadyExists, "SHARED_LINK_EXISTS")
                .details(ITEM)
                .facts(&[("url", "https://www.dropbox.com/scl/fi/there")]),
            tags(share, "email_not_verified", FailedPrecondition, "EMAIL_UNVERIFIED").details(HELP),
            tags(share, "settings_error/invalid_settings", InvalidArgument, "LINK_SETTINGS")
                .details(FIELD)
                .field("settings"),
            tags(share, "settings_error/not_authorized", PermissionDenied, "LINK_SETTINGS_NOT_ALLOWED"),
            tags(share, "access_denied", PermissionDenied, "LINKS_NOT_ALLOWED"),
            tags(share, "banned_member", PermissionDenied, "LINKS_NOT_ALLOWED"),
            tags(share, "path/not_found", NotFound, "PATH_NOT_FOUND").details(ITEM),
            tags(Via::TemporaryLink, "not_allowed", PermissionDenied, "LINKS_NOT_ALLOWED"),
            tags(Via::TemporaryLink, "email_not_verified", FailedPrecondition, "EMAIL_UNVERIFIED").details(HELP),
            tags(Via::TemporaryLink, "unsupported_file", FailedPrecondition, "NOT_DOWNLOADABLE")
                .facts(&[("rule", "unsupported_file")]),
            tags(Via::Revoke, "shared_link_not_found", NotFound, "SHARED_LINK_NOT_FOUND"),
            tags(Via::Revoke, "shared_link_access_denied", PermissionDenied, "SHARED_LINK_ACCESS"),
            tags(Via::Revoke, "shared_link_malformed", InvalidArgument, "INVALID_URL").details(FIELD).field("url"),
            tags(Via::Revoke, "unsupported_link_type", FailedPrecondition, "LINK_TYPE"),
            tags(Via::LinkFile, "shared_link_is_directory", FailedPrecondition, "NOT_A_FILE").details(BLOCKED),
            tags(Via::LinkFile, "shared_link_access_denied", PermissionDenied, "SHARED_LINK_ACCESS"),
            tags(Via::LinkFile, "unsupported_link_type", FailedPrecondition, "LINK_TYPE"),
        ],
    )
    .await;
}

#[tokio::test]
async fn uploads_that_are_refused_keep_what_can_be_kept() {
    let house = furnished().await;
    let (up, start, append, finish) = (Via::Upload, Via::Start, Via::Append, Via::Finish);
    let refused = |reason: serde_json::Value| {
        Error(json!({ ".tag": "path", "reason": reason, "upload_session_id": "SECRET-session" }))
    };
    check(
        &house,
        &[
            row(up, refused(json!({ ".tag": "insufficient_space" })), ResourceExhausted, "INSUFFICIENT_SPACE")
                .details(QUOTA)
                .facts(&[("uploadId", "*"), ("persistedOffset", "7")]),
            row(up, refused(json!({ ".tag": "no_write_permission" })), PermissionDenied, "NO_WRITE_PERMISSION")
                .details(ITEM)
                .facts(&[("rule", "no_write_permission"), ("uploadId", "*"), ("persistedOffset", "7")]),
            row(
                up,
                refused(json!({ ".tag": "conflict", "conflict": { ".tag": "folder" } })),
                AlreadyExists,
                "PATH_CONFLICT",
            )
            .details(ITEM)
            .facts(&[("conflictKind", "folder"), ("uploadId", "*"), ("persistedOffset", "7")]),
            row(up, Status(403, "invalid_account_type/feature"), ResourceExhausted, "DATA_TRANSPORT_LIMIT")
                .details(QUOTA),
            row(start, Status(403, "invalid_account_type/feature"), ResourceExhausted, "DATA_TRANSPORT_LIMIT")
                .details(QUOTA),
            tags(up, "payload_too_large", Internal, "CONNECTOR_BUG"),
            tags(up, "content_hash_mismatch", DataLoss, "CONTENT_HASH_MISMATCH"),
            tags(up, "encryption_not_supported", FailedPrecondition, "ENCRYPTED_FOLDER"),
            tags(up, "properties_error/template_not_found", InvalidArgument, "PROPERTIES").details(FIELD),
            tags(start, "concurrent_session_data_not_allowed", Internal, "CONNECTOR_BUG"),
            tags(append, "not_found", NotFound, "UPLOAD_NOT_FOUND").details(ITEM),
            tags(append, "too_large", InvalidArgument, "FILE_TOO_LARGE").details(FIELD).facts(&[
                ("limitBytes", "2199019061248"),
                ("uploadId", "*"),
                ("persistedOffset", "0"),
            ]),
            tags(finish, "path/conflict/folder", AlreadyExists, "PATH_CONFLICT").details(ITEM).facts(&[
                ("conflictKind", "folder"),
                ("uploadId", "*"),
                ("persistedOffset", "17825792"),
            ]),
            tags(finish, "path/insufficient_space", ResourceExhausted, "INSUFFICIENT_SPACE")
                .details(QUOTA)
                .facts(&[("uploadId", "*"), ("persistedOffset", "17825792")]),
            tags(finish, "lookup_failed/not_closed", Internal, "CONNECTOR_BUG"),
            tags(append, "content_hash_mismatch", DataLoss, "CONTENT_HASH_MISMATCH"),
        ],
    )
    .await;
}
