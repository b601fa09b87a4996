//! One test per row of API-DESIGN (b), and what holds for all of them.

use std::borrow::Cow;

use serde_json::json;

use super::super::{
    Effect, Facts, Repeat,
    route::{Host, Style},
};
use super::*;

fn facts(path: &str, effect: Effect) -> Facts {
    let facts = Facts::new("", Host::Api, Style::Rpc, Repeat::Never, effect);
    Facts { path: Cow::Owned(path.to_owned()), ..facts }
}

fn read(facts: &Facts, status: u16, body: &[u8], arg: &str) -> Fault {
    let resumable = facts.effect == Effect::Read;
    fault(&Refusal { facts, status, body, retry_after: None, arg, resumable })
}

fn judge(path: &str, effect: Effect, status: u16, error: Value) -> Fault {
    read(&facts(path, effect), status, json!({"error_summary": "x/..", "error": error}).to_string().as_bytes(), "{}")
}

/// `a/b` becomes `{".tag": "a", "a": {".tag": "b"}}`.
fn nest(path: &str) -> Value {
    match path.split_once('/') {
        Some((tag, rest)) => json!({".tag": tag, tag: nest(rest)}),
        None => json!({".tag": path}),
    }
}

macro_rules! rows {
    ($($test:ident: $status:literal $route:literal $effect:ident $($tags:literal)+ => $reason:ident;)*) => {
        $(#[test]
        fn $test() {
            for tags in [$($tags),+] {
                let fault = judge($route, Effect::$effect, $status, nest(tags));
                assert_eq!(fault.reason(), Reason::$reason, "{tags}");
                assert_eq!(fault.get("dropboxTag"), Some(tags));
                assert_eq!(fault.get("httpStatus"), Some(stringify!($status)));
            }
        })*
    };
}

rows! {
    a_rejected_bearer: 401 "files/x" Read "invalid_access_token" "expired_access_token" => ReauthorizationRequired;
    a_suspended_user: 401 "files/x" Read "user_suspended" => AccountSuspended;
    a_member_that_is_none: 401 "files/x" Read "invalid_select_user" "invalid_select_admin" => ActAsInvalid;
    a_route_the_app_may_not_call: 401 "files/x" Read "route_access_denied" => RouteNotAvailable;
    an_upload_over_the_data_transport_limit: 403 "files/upload" Write "invalid_account_type/feature" => DataTransportLimit;
    a_session_over_the_data_transport_limit: 403 "files/upload_session/append_v2" Write "invalid_account_type/feature" => DataTransportLimit;
    an_account_type_that_lacks_it: 403 "files/x" Read "invalid_account_type/endpoint" "invalid_account_type/feature" => AccountType;
    paper_that_is_off: 403 "files/x" Read "paper_access_denied/paper_disabled" "paper_access_denied/not_paper_user" => PaperDisabled;
    a_denied_team: 403 "files/x" Read "team_access_denied" "no_permission" => DropboxAccessDenied;
    a_lost_path_root_permission: 422 "files/x" Read "no_permission" => PathRootAccess;
    a_path_out_of_shape: 409 "files/x" Read "path/malformed_path" "from_lookup/malformed_path" "path_lookup/malformed_path" => MalformedPath;
    a_path_that_leads_nowhere: 409 "files/x" Read "path/not_found" "path_lookup/not_found" "from_lookup/not_found" => PathNotFound;
    not_a_file: 409 "files/x" Read "path/not_file" => NotAFile;
    not_a_folder: 409 "files/x" Read "path/not_folder" => NotAFolder;
    restricted_content: 409 "files/x" Read "path/restricted_content" => RestrictedContent;
    what_cannot_be_downloaded: 409 "files/x" Read "path/unsupported_content_type" "unsupported_file" "non_exportable" => NotDownloadable;
    what_has_no_picture: 409 "files/get_thumbnail_v2" Read "unsupported_extension" "unsupported_image" "conversion_error" "encrypted_content" => NotDownloadable;
    an_export_format_the_item_lacks: 409 "files/export" Read "invalid_export_format" => ExportFormat;
    content_that_is_being_made: 409 "files/export" Read "retry_error" "in_progress" => ContentNotReady;
    a_locked_item: 409 "files/x" Write "path/locked" "lock_conflict" => ItemLocked;
    a_taken_path: 409 "files/x" Write "path/conflict/folder" "path/conflict/file_ancestor" "to/conflict/file" => PathConflict;
    a_forbidden_write: 409 "files/x" Write "path/no_write_permission" "path/access_restricted" "path_write/operation_suppressed" "from_write/team_folder" => NoWritePermission;
    a_full_account: 409 "files/x" Write "path/insufficient_space" "insufficient_quota" => InsufficientSpace;
    a_disallowed_name: 409 "files/x" Write "path/disallowed_name" => DisallowedName;
    a_held_namespace_lock: 409 "files/x" Write "path/too_many_write_operations" "too_many_write_operations" => WriteContention;
    too_many_files: 409 "files/x" Write "too_many_files" "too_many_shared_folder_targets" => TooManyFiles;
    an_unknown_upload: 409 "files/upload_session/append_v2" Write "not_found" "lookup_failed/not_found" => UploadNotFound;
    a_closed_upload: 409 "files/upload_session/append_v2" Write "closed" "lookup_failed/closed" => UploadClosed;
    a_session_we_misused: 409 "files/upload_session/finish" Write "lookup_failed/not_closed" "concurrent_session_missing_data" "payload_too_large" "length_mismatch" => ConnectorBug;
    a_file_beyond_any_limit: 409 "files/upload_session/append_v2" Write "too_large" => FileTooLarge;
    damaged_content: 409 "files/upload" Write "content_hash_mismatch" => ContentHashMismatch;
    an_encrypted_folder: 409 "files/upload" Write "encryption_not_supported" => EncryptedFolder;
    wrong_properties: 409 "files/x" Write "properties_error/template_not_found" "template_error/restricted_content" => Properties;
    wrong_sync_settings: 409 "team/x" Team "sync_settings_error/unsupported_combination" "sync_settings_error/unsupported_configuration" => SyncSettings;
    what_cannot_be_locked: 409 "files/lock_file_batch" Write "cannot_be_locked" "file_not_shared" => LockNotPossible;
    a_forbidden_relocation: 409 "files/x" Write "cant_copy_shared_folder" "cant_nest_shared_folder" "cant_move_shared_folder" "cant_move_into_vault/is_shared_folder" "cant_move_into_family/is_shared_folder" "cant_move_folder_into_itself" => RelocationNotAllowed;
    a_transfer_of_ownership: 409 "files/x" Write "cant_transfer_ownership" => OwnershipTransfer;
    paths_that_nest: 409 "files/x" Write "duplicated_or_nested_paths" => DuplicatePaths;
    a_failed_read_inside_dropbox: 409 "files/search_v2" Read "internal_error" => DropboxInternal;
    a_failed_write_inside_dropbox: 409 "files/move_v2" Write "internal_error" => OutcomeUnknown;
    a_cursor_that_was_reset: 409 "files/list_folder/continue" Read "reset" => CursorReset;
    a_cursor_that_is_none: 409 "sharing/list_folders/continue" Read "invalid_cursor" => PageTokenExpired;
    a_job_that_is_none: 409 "files/copy_batch/check_v2" Read "invalid_async_job_id" => JobNotFound;
    a_revision_that_is_none: 409 "files/x" Read "invalid_before_rev" "before_rev_not_supported" "invalid_revision" => InvalidRevision;
    a_query_out_of_shape: 409 "files/search_v2" Read "invalid_argument" => SearchArgument;
    a_namespace_argument: 409 "team/namespaces/list" Read "invalid_arg" => InvalidField;
    a_url_dropbox_cannot_fetch: 409 "files/save_url" Write "download_failed" => UrlFetchFailed;
    a_url_that_is_none: 409 "files/save_url" Write "invalid_url" "shared_link_malformed" => InvalidUrl;
    a_copy_reference_that_is_none: 409 "files/copy_reference/save" Write "invalid_copy_reference" "no_permission" => TransferNotPossible;
    too_many_tags: 409 "files/tags/add" Write "too_many_tags" => TagLimit;
    an_unverified_address: 409 "files/x" Read "email_not_verified" "email_unverified" => EmailUnverified;
    wrong_link_settings: 409 "sharing/x" Share "settings_error/invalid_settings" => LinkSettings;
    link_settings_beyond_the_plan: 409 "sharing/x" Share "settings_error/not_authorized" => LinkSettingsNotAllowed;
    links_that_are_forbidden: 409 "sharing/x" Share "access_denied" "banned_member" "not_allowed" => LinksNotAllowed;
    a_link_that_is_none: 409 "sharing/x" Read "shared_link_not_found" => SharedLinkNotFound;
    a_link_that_is_not_ours: 409 "sharing/x" Read "shared_link_access_denied" => SharedLinkAccess;
    a_link_to_a_folder: 409 "sharing/x" Read "shared_link_is_directory" => NotAFile;
    a_link_of_another_kind: 409 "sharing/x" Read "unsupported_link_type" => LinkType;
    a_link_parameter_of_no_use: 409 "sharing/x" Read "unsupported_parameter_field" => InvalidField;
    a_shared_folder: 409 "sharing/share_folder" Share "bad_path/already_shared" => AlreadyShared;
    what_cannot_be_shared: 409 "sharing/share_folder" Share "bad_path/is_file" "bad_path/inside_osx_package" "contains_team_folder" "inside_shared_folder" "is_family" => CannotShare;
    a_sharing_policy: 409 "sharing/x" Share "team_policy_disallows_member_policy" "disallowed_shared_link_policy" "cant_share_outside_team" "insufficient_plan" "too_many_shared_folders" "not_on_team" => SharingPolicy;
    a_mounted_folder: 409 "sharing/mount_folder" Share "already_mounted" => AlreadyMounted;
    what_cannot_be_mounted: 409 "sharing/mount_folder" Share "inside_shared_folder" "not_mountable" "must_automount" => CannotMount;
    what_cannot_be_unmounted: 409 "sharing/unmount_folder" Share "not_unmountable" => CannotMount;
    a_shared_folder_that_is_none: 409 "sharing/x" Read "access_error/invalid_id" "invalid_shared_folder" "access_error/unmounted" => SharedFolderNotFound;
    a_shared_folder_that_is_not_ours: 409 "sharing/x" Read "access_error/not_a_member" "no_permission" => SharedFolderAccess;
    a_member_out_of_shape: 409 "sharing/x" Share "bad_member/invalid_email" "bad_member/group_deleted" "access_error/invalid_member" "member_error/invalid_member" => BadMember;
    a_member_s_role: 409 "sharing/x" Share "member_error/group_access" "folder_owner" "no_explicit_access" "team_folder" => MemberRole;
    too_many_invitations: 409 "sharing/x" Share "rate_limit" "too_many_members" "too_many_pending_invites" "too_many_invitees" => InviteLimit;
    a_file_request_that_is_none: 409 "file_requests/get" Read "not_found" => FileRequestNotFound;
    a_file_request_for_a_file: 409 "file_requests/create" Write "not_a_folder" => NotAFolder;
    a_file_request_that_is_not_ours: 409 "file_requests/get" Read "app_lacks_access" "no_permission" => FileRequestAccess;
    a_file_request_out_of_shape: 409 "file_requests/create" Write "validation_error" => InvalidField;
    a_file_request_in_the_wrong_place: 409 "file_requests/create" Write "invalid_location" => InvalidLocation;
    file_requests_that_are_off: 409 "file_requests/create" Write "disabled_for_team" => FileRequestsDisabled;
    too_many_file_requests: 409 "file_requests/create" Write "rate_limit" => FileRequestLimit;
    an_open_file_request: 409 "file_requests/delete" Delete "file_request_open" => FileRequestOpen;
    a_paper_document_that_is_not_ours: 409 "files/paper/update" Write "insufficient_permissions" => NoWritePermission;
    paper_out_of_shape: 409 "files/paper/create" Write "content_malformed" => PaperContent;
    paper_that_is_too_large: 409 "files/paper/create" Write "doc_length_exceeded" "image_size_exceeded" => PaperTooLarge;
    a_paper_path_out_of_shape: 409 "files/paper/create" Write "invalid_path" "invalid_file_extension" => MalformedPath;
    paper_that_is_disabled: 409 "files/paper/create" Write "paper_disabled" => PaperDisabled;
    paper_that_changed: 409 "files/paper/update" Write "revision_mismatch" => PaperRevisionConflict;
    paper_that_is_archived: 409 "files/paper/update" Write "doc_archived" "doc_deleted" => PaperState;
    a_team_folder_that_is_none: 409 "team/team_folder/archive" Team "access_error/invalid_team_folder_id" => TeamFolderNotFound;
    a_team_folder_that_is_not_ours: 409 "team/team_folder/archive" Team "access_error/no_access" => DropboxAccessDenied;
    a_team_folder_in_another_state: 409 "team/team_folder/archive" Team "status_error/archived" "team_shared_dropbox_error/disallowed" => TeamFolderState;
    a_taken_team_folder_name: 409 "team/team_folder/create" Team "folder_name_already_used" => PathConflict;
    a_wrong_team_folder_name: 409 "team/team_folder/create" Team "invalid_folder_name" "folder_name_reserved" => DisallowedName;
    too_many_team_folders: 409 "team/team_folder/create" Team "folder_count_limit_exceeded" => TeamFolderLimit;
    a_range_beyond_the_end: 409 "files/download" Read "range/invalid" => ReadOffsetBeyondEnd;
    a_tag_nobody_knows_yet: 409 "files/x" Read "path/quantum_locked" "other" "brand_new" => DropboxError;
    a_404_with_json_is_read_by_its_tag: 404 "files/x" Read "path/not_file" => NotAFile;
}

#[test]
fn no_row_is_hidden_by_one_above_it() {
    for row in ROWS {
        for tag in row.tags {
            let path = format!("{}x", row.routes.first().unwrap_or(&"any/"));
            let fault = judge(&path, Effect::Read, row.status, nest(&tag.replace('*', "x")));
            assert_eq!(fault.reason(), row.reason, "{tag} on {path}");
        }
    }
}

#[test]
fn a_missing_scope_is_named() {
    let fault =
        judge("files/x", Effect::Read, 401, json!({".tag": "missing_scope", "required_scope": "files.content.read"}));
    assert_eq!((fault.reason(), fault.get("requiredScope")), (Reason::ScopeMissing, Some("files.content.read")));
}

#[test]
fn a_path_root_that_moved_names_the_new_one() {
    let error = json!({".tag": "invalid_root", "invalid_root": {".tag": "team", "root_namespace_id": "7", "home_namespace_id": "5"}});
    let fault = judge("files/x", Effect::Read, 422, error);
    assert_eq!((fault.reason(), fault.get("rootNamespaceId")), (Reason::PathRootChanged, Some("7")));
}

#[test]
fn the_flat_error_of_an_upload_is_read_like_any_other() {
    let error = json!({".tag": "path", "reason": {".tag": "conflict", "conflict": {".tag": "file"}}, "upload_session_id": "pid_1"});
    let fault = judge("files/upload", Effect::Write, 409, error);
    assert_eq!(fault.reason(), Reason::PathConflict);
    assert_eq!(fault.get("dropboxTag"), Some("path/conflict/file"));
    assert_eq!(fault.get("conflictKind"), Some("file"));
    assert_eq!(fault.get("uploadSessionId"), Some("pid_1"));
}

#[test]
fn a_file_in_the_way_of_an_asked_revision_is_a_revision_conflict() {
    let conflict =
        |kind| json!({"error": {".tag": "path", "path": {".tag": "conflict", "conflict": {".tag": kind}}}}).to_string();
    let facts = facts("files/upload_session/finish", Effect::Write);
    for (arg, kind, reason) in [
        (r#"{"mode":{".tag":"update","update":"a1"}}"#, "file", Reason::RevisionConflict),
        (r#"{"commit":{"mode":{".tag":"update","update":"a1"}}}"#, "file", Reason::RevisionConflict),
        (r#"{"path":"/a","parent_rev":"a1"}"#, "file", Reason::RevisionConflict),
        (r#"{"path":"/a","parent_rev":null,"mode":{".tag":"add"}}"#, "file", Reason::PathConflict),
        (r#"{"mode":{".tag":"update","update":"a1"}}"#, "folder", Reason::PathConflict),
    ] {
        assert_eq!(read(&facts, 409, conflict(kind).as_bytes(), arg).reason(), reason, "{arg} {kind}");
    }
}

#[test]
fn a_wrong_offset_tells_the_right_one() {
    for error in [
        json!({".tag": "incorrect_offset", "correct_offset": 4194304}),
        json!({".tag": "lookup_failed", "lookup_failed": {".tag": "incorrect_offset", "correct_offset": 4194304}}),
    ] {
        let fault = judge("files/upload_session/finish", Effect::Write, 409, error);
        assert_eq!(fault.reason(), Reason::UploadConcurrentWriter);
        assert_eq!(fault.get("correctOffset"), Some("4194304"));
    }
}

#[test]
fn an_existing_link_is_given_and_its_absence_is_no_failure() {
    let error = json!({".tag": "shared_link_already_exists", "shared_link_already_exists":
        {".tag": "metadata", "metadata": {".tag": "file", "url": "https://www.dropbox.com/s/1"}}});
    let fault = judge("sharing/x", Effect::Share, 409, error);
    assert_eq!((fault.reason(), fault.get("url")), (Reason::SharedLinkExists, Some("https://www.dropbox.com/s/1")));
    let fault = judge("sharing/x", Effect::Share, 409, nest("shared_link_already_exists"));
    assert_eq!((fault.reason(), fault.get("url")), (Reason::SharedLinkExists, None));
}

#[test]
fn a_shared_folder_in_the_way_is_named() {
    let error = json!({".tag": "bad_path", "bad_path": {".tag": "already_shared", "shared_folder_id": "84528192421"}});
    let fault = judge("sharing/share_folder", Effect::Share, 409, error);
    assert_eq!((fault.reason(), fault.get("sharedFolderId")), (Reason::AlreadyShared, Some("84528192421")));
}

#[test]
fn a_rule_is_the_innermost_tag_and_a_wrapper_names_the_field() {
    let fault = judge("files/move_v2", Effect::Write, 409, nest("cant_move_into_vault/is_shared_folder"));
    assert_eq!(fault.get("rule"), Some("is_shared_folder"));
    for (tags, field) in [
        ("from_lookup/malformed_path", "from_path"),
        ("to/disallowed_name", "to_path"),
        ("path/malformed_path", "path"),
    ] {
        assert_eq!(judge("files/move_v2", Effect::Write, 409, nest(tags)).violations()[0].field, field);
    }
}

#[test]
fn the_holder_of_a_lock_is_named() {
    let error = json!({".tag": "lock_conflict", "lock": {"content": {".tag": "single_user", "lock_holder_account_id": "dbid:1"}}});
    assert_eq!(judge("files/x", Effect::Write, 409, error).get("lockHolder"), Some("dbid:1"));
}

#[test]
fn a_429_says_when_to_come_back() {
    let facts = facts("files/x", Effect::Write);
    let seconds = |n| Some(Duration::from_secs(n));
    let limited = |body: &str, retry_after| {
        let refusal =
            Refusal { facts: &facts, status: 429, body: body.as_bytes(), retry_after, arg: "", resumable: false };
        fault(&refusal)
    };
    let json =
        r#"{"error_summary":"too_many_requests/..","error":{"reason":{".tag":"too_many_requests"},"retry_after":15}}"#;
    let busy =
        r#"{"error_summary":"too_many_write_operations/.","error":{"reason":{".tag":"too_many_write_operations"}}}"#;
    assert_eq!(limited(json, seconds(7)).retry_delay(), seconds(7));
    assert_eq!(limited(json, None).retry_delay(), seconds(15));
    assert_eq!(limited("slow down", None).retry_delay(), seconds(5));
    assert_eq!(limited("slow down", None).reason(), Reason::RateLimited);
    assert_eq!(
        (limited(busy, seconds(1)).reason(), limited(busy, seconds(1)).retry_delay()),
        (Reason::WriteContention, seconds(1))
    );
    assert!(limited(busy, None).retry_delay() >= seconds(1));
    assert_eq!(failure(&facts, 429, None, json.as_bytes()), Failure::Refused { retry_after: seconds(15) });
    assert_eq!(failure(&facts, 429, None, b"slow down"), Failure::Refused { retry_after: seconds(5) });
    assert_eq!(failure(&facts, 429, None, busy.as_bytes()), Failure::Refused { retry_after: None });
    assert!(is_contention(busy.as_bytes()) && !is_contention(json.as_bytes()) && !is_contention(b"slow down"));
}

#[test]
fn a_5xx_leaves_a_read_unavailable_and_a_write_unknown() {
    for status in [500, 502, 503, 504] {
        let read_of = |effect| read(&facts("files/x", effect), status, b"<html>oops</html>", "");
        assert_eq!(read_of(Effect::Read).reason(), Reason::DropboxUnavailable);
        assert!(read_of(Effect::Read).retry_delay().is_some());
        assert_eq!(read_of(Effect::Write).reason(), Reason::OutcomeUnknown);
        assert_eq!(read_of(Effect::Write).retry_delay(), None);
    }
}

#[test]
fn statuses_without_json_have_their_own_rows() {
    let facts = facts("files/x", Effect::Read);
    for (status, reason) in [
        (401, Reason::ReauthorizationRequired),
        (404, Reason::PathNotFound),
        (407, Reason::ProxyAuthRequired),
        (409, Reason::DropboxError),
        (410, Reason::LinkExpired),
        (302, Reason::DropboxProtocol),
        (413, Reason::DropboxBadRequest),
    ] {
        assert_eq!(read(&facts, status, b"<html>", "").reason(), reason, "{status}");
    }
}

const TEAM: &str = "Error in call to API function \"files/list_folder\": This API function operates on a single Dropbox account, but the OAuth 2 access token you provided is for an entire Dropbox Business team.";

#[test]
fn a_400_is_told_apart_by_the_argument_it_names() {
    let call = facts("files/x", Effect::Read);
    let read_text = |text: &str| read(&call, 400, text.as_bytes(), "");
    assert_eq!(read_text(TEAM).reason(), Reason::MemberRequired);
    assert_eq!(read_text("The given OAuth 2 access token is malformed.").reason(), Reason::ReauthorizationRequired);
    let fault = read_text(
        "Error in call to API function \"files/get_metadata\": request body: path: '/se\u{e9}cret/x' did not match pattern '(/(.|[\\r\\n])*)?'",
    );
    assert_eq!(fault.reason(), Reason::RejectedByDropbox);
    assert_eq!(fault.violations()[0].field, "path");
    assert!(
        !fault.message().contains("cret") && fault.message().is_ascii() && fault.message().contains("did not match")
    );
    let fault = read_text(
        "Error in call to API function \"files/upload\": HTTP header \"Dropbox-API-Arg\": commit.path: too long",
    );
    assert_eq!(fault.violations()[0].field, "path");
    let ours = "Error in call to API function \"files/upload_session/append:2\": HTTP header \"Dropbox-API-Arg\": cursor: missing required field 'session_id'";
    assert_eq!(read_text(ours).reason(), Reason::DropboxBadRequest);
    assert_eq!(read_text("only characters of the Basic Multilingual Plane").reason(), Reason::RejectedByDropbox);
    let raw = Facts { raw: true, ..facts("files/x", Effect::Read) };
    assert_eq!(read(&raw, 400, ours.as_bytes(), "").reason(), Reason::RawJson);
}

#[test]
fn a_huge_body_makes_a_small_fault() {
    let facts = facts("files/x", Effect::Read);
    let long = "x".repeat(100 * 1024);
    for (status, body) in [
        (400, format!("Error in call to API function \"files/x\": request body: path: {long}")),
        (409, json!({"error": nest(&format!("path/{long}"))}).to_string()),
        (409, json!({"error": {".tag": "missing", "required_scope": long}}).to_string()),
        (500, long.clone()),
    ] {
        let fault = read(&facts, status, body.as_bytes(), "");
        assert!(fault.message().len() <= 512 && fault.message().is_ascii(), "{status}");
        assert!(fault.facts().values().all(|value| value.len() <= 1024), "{status}");
        assert!(fault.violations().iter().all(|violation| violation.description.len() <= 256));
    }
}

#[test]
fn an_endless_nest_of_tags_is_not_followed() {
    let deep = nest(&"path/".repeat(60));
    let fault = judge("files/x", Effect::Read, 409, deep);
    assert_eq!(fault.reason(), Reason::DropboxError);
}

#[test]
fn an_entry_of_a_batch_is_read_like_a_refusal() {
    let facts = facts("files/delete_batch", Effect::Delete);
    let fault = entry_fault(&facts, r#"{"path":"/a"}"#, &nest("failure/path_lookup/not_found"));
    assert_eq!(
        (fault.reason(), fault.get("dropboxTag")),
        (Reason::PathNotFound, Some("failure/path_lookup/not_found"))
    );
}

#[test]
fn contention_is_repeated_and_other_refusals_are_not() {
    let body = |tags: &str| json!({"error": nest(tags)}).to_string();
    let of = |effect, tags| failure(&facts("files/x", effect), 409, None, body(tags).as_bytes());
    assert_eq!(of(Effect::Write, "path/too_many_write_operations"), Failure::Refused { retry_after: None });
    assert_eq!(of(Effect::Write, "path/not_found"), Failure::Final);
    assert_eq!(of(Effect::Read, "internal_error"), Failure::Unclear);
    assert_eq!(of(Effect::Write, "internal_error"), Failure::Final);
    assert_eq!(failure(&facts("files/x", Effect::Write), 503, None, b""), Failure::Unclear);
}
