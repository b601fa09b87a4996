//! Rows of routes that have no RPC of their own: `CallApi` reaches them.

use serde_json::json;
use tonic::Code::{
    Aborted, AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, PermissionDenied, ResourceExhausted,
    Unavailable,
};

use super::{
    Row,
    Says::{Error, Tags, Text},
    Via, check, furnished, row,
};

const ITEM: &[&str] = &["ResourceInfo"];
const BLOCKED: &[&str] = &["PreconditionFailure"];
const FIELD: &[&str] = &["BadRequest"];
const QUOTA: &[&str] = &["QuotaFailure"];

fn raw(route: &'static str, tags: &'static str, code: tonic::Code, reason: &'static str) -> Row {
    row(Via::Raw(route), Tags(tags), code, reason)
}

#[tokio::test]
async fn file_routes_without_an_rpc_keep_their_rows() {
    let house = furnished().await;
    let held = json!({
        ".tag": "lock_conflict",
        "lock": { "content": { ".tag": "single_user", "lock_holder_account_id": "dbid:AAAA" } },
    });
    check(
        &house,
        &[
            row(Via::Raw("files/lock_file_batch"), Error(held), FailedPrecondition, "ITEM_LOCKED")
                .details(&["PreconditionFailure", "ResourceInfo"])
                .facts(&[("lockHolder", "dbid:AAAA")]),
            raw("files/lock_file_batch", "cannot_be_locked", FailedPrecondition, "LOCK_NOT_POSSIBLE")
                .details(BLOCKED)
                .facts(&[("rule", "cannot_be_locked")]),
            raw("files/lock_file_batch", "file_not_shared", FailedPrecondition, "LOCK_NOT_POSSIBLE")
                .details(BLOCKED)
                .facts(&[("rule", "file_not_shared")]),
            raw("files/tags/add", "too_many_tags", ResourceExhausted, "TAG_LIMIT").details(QUOTA),
            raw("files/copy_reference/save", "invalid_copy_reference", FailedPrecondition, "TRANSFER_NOT_POSSIBLE")
                .facts(&[("rule", "invalid_copy_reference")]),
            raw("files/copy_reference/save", "no_permission", FailedPrecondition, "TRANSFER_NOT_POSSIBLE")
                .facts(&[("rule", "no_permission")]),
            raw("files/restore", "in_progress", Unavailable, "CONTENT_NOT_READY").retry(5),
            raw("files/restore", "invalid_revision", InvalidArgument, "INVALID_REVISION").details(FIELD).field("rev"),
            raw("files/list_revisions", "invalid_before_rev", InvalidArgument, "INVALID_REVISION").details(FIELD),
            raw("files/list_revisions", "before_rev_not_supported", InvalidArgument, "INVALID_REVISION").details(FIELD),
            raw("files/save_url", "download_failed", FailedPrecondition, "URL_FETCH_FAILED"),
            raw("files/save_url", "invalid_url", InvalidArgument, "INVALID_URL").details(FIELD),
            raw("files/save_url", "not_found", NotFound, "PATH_NOT_FOUND").details(ITEM),
            raw("files/save_url/check_job_status", "invalid_async_job_id", NotFound, "JOB_NOT_FOUND"),
            raw("files/search/continue_v2", "reset", Aborted, "CURSOR_RESET"),
            raw("sharing/list_folders/continue", "invalid_cursor", InvalidArgument, "PAGE_TOKEN_EXPIRED")
                .details(FIELD)
                .field("page_token"),
            raw("file_properties/properties/add", "unsupported_folder", tonic::Code::Unknown, "DROPBOX_ERROR"),
            row(
                Via::Raw("files/get_metadata"),
                Text(400, "Error in call to API function \"files/get_metadata\": request body: path: 'SECRET' is bad"),
                InvalidArgument,
                "RAW_JSON",
            )
            .details(FIELD)
            .field("arg"),
        ],
    )
    .await;
}

#[tokio::test]
async fn sharing_routes_without_an_rpc_keep_their_rows() {
    let house = furnished().await;
    let shared = json!({
        ".tag": "bad_path",
        "bad_path": { ".tag": "already_shared", "shared_folder_id": "4711" },
    });
    let (share, mount) = ("sharing/share_folder", "sharing/mount_folder");
    let (member, folder) = ("sharing/add_folder_member", "sharing/get_folder_metadata");
    let mut rows = vec![
        row(Via::Raw(share), Error(shared), AlreadyExists, "ALREADY_SHARED")
            .details(ITEM)
            .facts(&[("sharedFolderId", "4711")]),
        raw(share, "email_unverified", FailedPrecondition, "EMAIL_UNVERIFIED").details(&["Help"]),
        raw(share, "bad_path/inside_shared_folder", FailedPrecondition, "CANNOT_SHARE")
            .details(BLOCKED)
            .facts(&[("rule", "inside_shared_folder")]),
        raw(share, "bad_path/is_app_folder", FailedPrecondition, "CANNOT_SHARE")
            .details(BLOCKED)
            .facts(&[("rule", "is_app_folder")]),
        raw(mount, "already_mounted", AlreadyExists, "ALREADY_MOUNTED"),
        raw(mount, "inside_shared_folder", FailedPrecondition, "CANNOT_MOUNT")
            .details(BLOCKED)
            .facts(&[("rule", "inside_shared_folder")]),
        raw(mount, "not_mountable", FailedPrecondition, "CANNOT_MOUNT")
            .details(BLOCKED)
            .facts(&[("rule", "not_mountable")]),
        raw(mount, "insufficient_quota", ResourceExhausted, "INSUFFICIENT_SPACE").details(QUOTA),
        raw(folder, "invalid_id", NotFound, "SHARED_FOLDER_NOT_FOUND").details(ITEM),
        raw(folder, "unmounted", NotFound, "SHARED_FOLDER_NOT_FOUND").details(ITEM),
        raw(folder, "not_a_member", PermissionDenied, "SHARED_FOLDER_ACCESS").details(ITEM),
        raw(folder, "no_permission", PermissionDenied, "SHARED_FOLDER_ACCESS").details(ITEM),
        raw(member, "access_error/invalid_id", NotFound, "SHARED_FOLDER_NOT_FOUND").details(ITEM),
        raw(member, "bad_member/invalid_email", InvalidArgument, "BAD_MEMBER")
            .details(FIELD)
            .facts(&[("rule", "invalid_email")]),
        raw(member, "rate_limit", ResourceExhausted, "INVITE_LIMIT").details(QUOTA).retry(24 * 3600),
        raw(member, "too_many_members", ResourceExhausted, "INVITE_LIMIT").details(QUOTA),
        raw(member, "too_many_pending_invites", ResourceExhausted, "INVITE_LIMIT").details(QUOTA),
        raw("sharing/remove_folder_member", "folder_owner", FailedPrecondition, "MEMBER_ROLE")
            .details(BLOCKED)
            .facts(&[("rule", "folder_owner")]),
        raw("sharing/remove_folder_member", "group_access", FailedPrecondition, "MEMBER_ROLE")
            .details(BLOCKED)
            .facts(&[("rule", "group_access")]),
    ];
    const POLICIES: [(&str, &[(&str, &str)]); 4] = [
        ("disallowed_shared_link_policy", &[("rule", "disallowed_shared_link_policy")]),
        ("team_policy_disallows_member_policy", &[("rule", "team_policy_disallows_member_policy")]),
        ("insufficient_plan", &[("rule", "insufficient_plan")]),
        ("cant_share_outside_team", &[("rule", "cant_share_outside_team")]),
    ];
    rows.extend(POLICIES.map(|(tag, facts)| {
        raw("sharing/update_folder_policy", tag, FailedPrecondition, "SHARING_POLICY").details(BLOCKED).facts(facts)
    }));
    check(&house, &rows).await;
}

#[tokio::test]
async fn file_requests_and_paper_keep_their_rows() {
    let house = furnished().await;
    let create = "file_requests/create";
    let paper = "paper/docs/archive";
    check(
        &house,
        &[
            raw("file_requests/get", "not_found", NotFound, "FILE_REQUEST_NOT_FOUND"),
            raw(create, "not_a_folder", FailedPrecondition, "NOT_A_FOLDER")
                .details(&["PreconditionFailure", "ResourceInfo"]),
            raw(create, "app_lacks_access", PermissionDenied, "FILE_REQUEST_ACCESS"),
            raw(create, "no_permission", PermissionDenied, "FILE_REQUEST_ACCESS"),
            raw(create, "validation_error", InvalidArgument, "INVALID_FIELD").details(FIELD),
            raw(create, "invalid_location", FailedPrecondition, "INVALID_LOCATION").details(BLOCKED),
            raw(create, "disabled_for_team", FailedPrecondition, "FILE_REQUESTS_DISABLED").details(BLOCKED),
            raw(create, "rate_limit", ResourceExhausted, "FILE_REQUEST_LIMIT")
                .details(QUOTA)
                .facts(&[("limit", "4000")]),
            raw(create, "email_unverified", FailedPrecondition, "EMAIL_UNVERIFIED").details(&["Help"]),
            raw("file_requests/delete", "file_request_open", FailedPrecondition, "FILE_REQUEST_OPEN").details(BLOCKED),
            raw(paper, "insufficient_permissions", PermissionDenied, "NO_WRITE_PERMISSION")
                .details(ITEM)
                .facts(&[("rule", "insufficient_permissions")]),
            raw("paper/folders/create", "content_malformed", InvalidArgument, "PAPER_CONTENT").details(FIELD),
            raw("paper/folders/create", "doc_length_exceeded", InvalidArgument, "PAPER_TOO_LARGE").details(FIELD),
            raw("paper/folders/create", "image_size_exceeded", InvalidArgument, "PAPER_TOO_LARGE").details(FIELD),
            raw("paper/folders/create", "invalid_path", InvalidArgument, "MALFORMED_PATH").details(FIELD),
            raw("paper/folders/create", "paper_disabled", FailedPrecondition, "PAPER_DISABLED").details(BLOCKED),
            raw("paper/folders/create", "revision_mismatch", Aborted, "PAPER_REVISION_CONFLICT"),
            raw(paper, "doc_archived", FailedPrecondition, "PAPER_STATE")
                .details(BLOCKED)
                .facts(&[("rule", "doc_archived")]),
            raw(paper, "doc_deleted", FailedPrecondition, "PAPER_STATE")
                .details(BLOCKED)
                .facts(&[("rule", "doc_deleted")]),
        ],
    )
    .await;
}

#[tokio::test]
async fn team_folders_keep_their_rows() {
    let house = furnished().await;
    let (archive, create) = ("team/team_folder/archive", "team/team_folder/create");
    check(
        &house,
        &[
            raw(archive, "access_error/invalid_team_folder_id", NotFound, "TEAM_FOLDER_NOT_FOUND"),
            raw(archive, "access_error/no_access", PermissionDenied, "DROPBOX_ACCESS_DENIED").details(ITEM),
            raw(archive, "status_error/archived", FailedPrecondition, "TEAM_FOLDER_STATE")
                .details(BLOCKED)
                .facts(&[("rule", "archived")]),
            raw(archive, "team_shared_dropbox_error/disallowed", FailedPrecondition, "TEAM_FOLDER_STATE")
                .details(BLOCKED)
                .facts(&[("rule", "disallowed")]),
            raw(create, "folder_name_already_used", AlreadyExists, "PATH_CONFLICT").details(ITEM),
            raw(create, "invalid_folder_name", InvalidArgument, "DISALLOWED_NAME").details(FIELD),
            raw(create, "folder_name_reserved", InvalidArgument, "DISALLOWED_NAME").details(FIELD),
            raw(create, "folder_count_limit_exceeded", ResourceExhausted, "TEAM_FOLDER_LIMIT").details(QUOTA),
            raw(create, "sync_settings_error/unsupported_combination", InvalidArgument, "SYNC_SETTINGS").details(FIELD),
            raw("team/namespaces/list", "invalid_arg", InvalidArgument, "INVALID_FIELD").details(FIELD),
            raw("team/team_folder/list/continue", "invalid_cursor", InvalidArgument, "PAGE_TOKEN_EXPIRED")
                .details(FIELD),
        ],
    )
    .await;
}
