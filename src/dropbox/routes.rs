//! The routes the connector calls, one typed value each. A test holds every one against Dropbox's own specification.

use dropbox_sdk::types::{check, dbx_async, files, sharing, team, users};

use super::route::{
    CommitRoute, Effect, Facts,
    Host::{Api, Content, Notify},
    Repeat, Route,
    Style::{Download, Rpc, Upload},
};

pub use super::raw::raw;

macro_rules! routes {
    ($($(#[$doc:meta])* $kind:ident $name:ident: $arg:ty => $result:ty = $path:literal, $host:ident $style:ident $repeat:ident $effect:ident;)*) => {
        $($(#[$doc])* pub static $name: $kind<$arg, $result> =
            $kind::new(Facts::new($path, $host, $style, Repeat::$repeat, Effect::$effect));)*

        /// Every route of this file: its facts, whether it takes a turn, and the names of its types.
        #[cfg(test)]
        fn all() -> Vec<(&'static Facts, bool, &'static str, &'static str)> {
            use std::any::type_name;
            vec![$(($name.facts(), stringify!($kind) == "CommitRoute", type_name::<$arg>(), type_name::<$result>()),)*]
        }
    };
}

routes! {
    // ---- account ----
    Route GET_CURRENT_ACCOUNT: () => users::FullAccount = "users/get_current_account", Api Rpc Read Read;
    Route GET_SPACE_USAGE: () => users::SpaceUsage = "users/get_space_usage", Api Rpc Read Read;
    Route CHECK_USER: check::EchoArg => check::EchoResult = "check/user", Api Rpc Read Read;
    /// Takes a team's token, and no member.
    Route GET_TEAM_MEMBERS: team::MembersGetInfoV2Arg => team::MembersGetInfoV2Result =
        "team/members/get_info_v2", Api Rpc Read Read;
    /// A second revocation is refused with 401: the token is gone, which was asked for.
    Route REVOKE_TOKEN: () => () = "auth/token/revoke", Api Rpc Verify Write;

    // ---- upload ----
    /// Safe to repeat with `mode` add, overwrite or update, unless `autorename` or `strict_conflict` is set.
    CommitRoute UPLOAD: files::UploadArg => files::FileMetadata = "files/upload", Content Upload Verify Write;
    Route UPLOAD_SESSION_START: files::UploadSessionStartArg => files::UploadSessionStartResult =
        "files/upload_session/start", Content Upload Safe Write;
    /// A repeat of an append that arrived is refused with `incorrect_offset` at the append's end: that is success.
    Route UPLOAD_SESSION_APPEND: files::UploadSessionAppendArg => () =
        "files/upload_session/append_v2", Content Upload Safe Write;
    /// Makes sessions that hold nothing: further ones harm nobody.
    Route UPLOAD_SESSION_START_BATCH: files::UploadSessionStartBatchArg => files::UploadSessionStartBatchResult =
        "files/upload_session/start_batch", Api Rpc Safe Write;
    /// A repeat of entries that arrived is refused entry by entry, with `closed` or with `incorrect_offset` at the entry's end.
    Route UPLOAD_SESSION_APPEND_BATCH: files::UploadSessionAppendBatchArg => files::UploadSessionAppendBatchResult =
        "files/upload_session/append_batch", Content Upload Safe Write;
    /// Safe to repeat unless `autorename` or `strict_conflict` of an entry is set; what was committed before is then refused with
    /// `lookup_failed/not_found` or `lookup_failed/closed`.
    CommitRoute UPLOAD_SESSION_FINISH_BATCH: files::UploadSessionFinishBatchArg => files::UploadSessionFinishBatchResult =
        "files/upload_session/finish_batch_v2", Api Rpc Verify Write;
    /// Safe to repeat unless `autorename` is set; after an unknown outcome `lookup_failed/not_found` may mean success.
    CommitRoute UPLOAD_SESSION_FINISH: files::UploadSessionFinishArg => files::FileMetadata =
        "files/upload_session/finish", Content Upload Verify Write;

    // ---- download ----
    Route DOWNLOAD: files::DownloadArg => files::FileMetadata = "files/download", Content Download Read Read;
    Route EXPORT: files::ExportArg => files::ExportResult = "files/export", Content Download Read Read;
    Route GET_SHARED_LINK_FILE: sharing::GetSharedLinkFileArg => sharing::SharedLinkMetadata =
        "sharing/get_shared_link_file", Content Download Read Read;
    Route GET_TEMPORARY_LINK: files::GetTemporaryLinkArg => files::GetTemporaryLinkResult =
        "files/get_temporary_link", Api Rpc Read Read;
    /// Makes a link, not a file: a second link harms nobody.
    Route GET_TEMPORARY_UPLOAD_LINK: files::GetTemporaryUploadLinkArg => files::GetTemporaryUploadLinkResult =
        "files/get_temporary_upload_link", Api Rpc Safe Write;

    // ---- items ----
    Route GET_METADATA: files::GetMetadataArg => files::Metadata = "files/get_metadata", Api Rpc Read Read;
    Route LIST_FOLDER: files::ListFolderArg => files::ListFolderResult = "files/list_folder", Api Rpc Read Read;
    Route LIST_FOLDER_CONTINUE: files::ListFolderContinueArg => files::ListFolderResult =
        "files/list_folder/continue", Api Rpc Read Read;
    /// Waits for news of a cursor. Takes no token, and no place among the account's requests: it asks for nothing.
    Route LIST_FOLDER_LONGPOLL: files::ListFolderLongpollArg => files::ListFolderLongpollResult =
        "files/list_folder/longpoll", Notify Rpc Read Read;
    Route LIST_FOLDER_LATEST_CURSOR: files::ListFolderArg => files::ListFolderGetLatestCursorResult =
        "files/list_folder/get_latest_cursor", Api Rpc Read Read;
    Route SEARCH: files::SearchV2Arg => files::SearchV2Result = "files/search_v2", Api Rpc Read Read;
    Route SEARCH_CONTINUE: files::SearchV2ContinueArg => files::SearchV2Result =
        "files/search/continue_v2", Api Rpc Read Read;
    Route LIST_REVISIONS: files::ListRevisionsArg => files::ListRevisionsResult =
        "files/list_revisions", Api Rpc Read Read;
    /// Safe to repeat unless `autorename` is set; after an unknown outcome `path/conflict/folder` may mean success.
    CommitRoute CREATE_FOLDER: files::CreateFolderArg => files::CreateFolderResult =
        "files/create_folder_v2", Api Rpc Verify Write;
    /// After an unknown outcome `path_lookup/not_found` means success.
    CommitRoute DELETE: files::DeleteArg => files::DeleteResult = "files/delete_v2", Api Rpc Verify Delete;
    CommitRoute PERMANENTLY_DELETE: files::DeleteArg => () = "files/permanently_delete", Api Rpc Verify Delete;
    /// Not repeated by itself: whether it happened shows in the ids of source and target.
    CommitRoute MOVE: files::RelocationArg => files::RelocationResult = "files/move_v2", Api Rpc Never Write;
    /// Not repeated by itself: whether it happened shows in the content hash of the target.
    CommitRoute COPY: files::RelocationArg => files::RelocationResult = "files/copy_v2", Api Rpc Never Write;
    /// Not repeated by itself: a restore makes a new revision each time.
    CommitRoute RESTORE: files::RestoreArg => files::FileMetadata = "files/restore", Api Rpc Never Write;

    // ---- items in batches ----
    // A launch is not repeated by itself: its job may run, and nobody knows its number. What its entries came to shows as it does
    // of single ones.
    CommitRoute CREATE_FOLDER_BATCH: files::CreateFolderBatchArg => files::CreateFolderBatchLaunch =
        "files/create_folder_batch", Api Rpc Never Write;
    Route CREATE_FOLDER_BATCH_CHECK: dbx_async::PollArg => files::CreateFolderBatchJobStatus =
        "files/create_folder_batch/check", Api Rpc Read Read;
    CommitRoute DELETE_BATCH: files::DeleteBatchArg => files::DeleteBatchLaunch =
        "files/delete_batch", Api Rpc Never Delete;
    Route DELETE_BATCH_CHECK: dbx_async::PollArg => files::DeleteBatchJobStatus =
        "files/delete_batch/check", Api Rpc Read Read;
    CommitRoute MOVE_BATCH: files::MoveBatchArg => files::RelocationBatchV2Launch =
        "files/move_batch_v2", Api Rpc Never Write;
    Route MOVE_BATCH_CHECK: dbx_async::PollArg => files::RelocationBatchV2JobStatus =
        "files/move_batch/check_v2", Api Rpc Read Read;
    CommitRoute COPY_BATCH: files::CopyBatchArg => files::RelocationBatchV2Launch =
        "files/copy_batch_v2", Api Rpc Never Write;
    Route COPY_BATCH_CHECK: dbx_async::PollArg => files::RelocationBatchV2JobStatus =
        "files/copy_batch/check_v2", Api Rpc Read Read;

    // ---- links ----
    /// After an unknown outcome `shared_link_already_exists` means success.
    Route CREATE_SHARED_LINK: sharing::CreateSharedLinkWithSettingsArg => sharing::SharedLinkMetadata =
        "sharing/create_shared_link_with_settings", Api Rpc Verify Share;
    Route GET_SHARED_LINK_METADATA: sharing::GetSharedLinkMetadataArg => sharing::SharedLinkMetadata =
        "sharing/get_shared_link_metadata", Api Rpc Read Read;
    Route LIST_SHARED_LINKS: sharing::ListSharedLinksArg => sharing::ListSharedLinksResult =
        "sharing/list_shared_links", Api Rpc Read Read;
    Route MODIFY_SHARED_LINK: sharing::ModifySharedLinkSettingsArgs => sharing::SharedLinkMetadata =
        "sharing/modify_shared_link_settings", Api Rpc Verify Share;
    /// After an unknown outcome `shared_link_not_found` means success.
    Route REVOKE_SHARED_LINK: sharing::RevokeSharedLinkArg => () =
        "sharing/revoke_shared_link", Api Rpc Verify Share;
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::{super::route::Auth, *};

    /// `dropbox_sdk::…::files::UploadArg` is the spec's `files.UploadArg`.
    fn spec_name(type_name: &str) -> String {
        match type_name.rsplit("::").collect::<Vec<_>>()[..] {
            // A word of Rust's.
            [name, "dbx_async", ..] => format!("async.{name}"),
            [name, namespace, ..] => format!("{namespace}.{name}"),
            _ => "Void".to_owned(),
        }
    }

    #[test]
    fn every_route_is_the_spec_s() {
        let spec: Value = serde_json::from_str(include_str!("../emulator/routes.json")).expect("the spec is JSON");
        // The spec names some types twice; the crate resolves the second name.
        let resolved = |name: &Value| match spec["types"][name.as_str().unwrap_or_default()]["type"].as_str() {
            Some(target) => target.to_owned(),
            None => name.as_str().unwrap_or_default().to_owned(),
        };
        let spec = spec["routes"].as_array().expect("a list");
        for (facts, _, arg, result) in all() {
            let url_path = format!("/2/{}", facts.path);
            let route = spec.iter().find(|route| route["url_path"] == url_path.as_str());
            let route = route.unwrap_or_else(|| panic!("{url_path} is not in the spec"));
            let host = match facts.host {
                Api => "api.dropboxapi.com",
                Content => "content.dropboxapi.com",
                Notify => "notify.dropboxapi.com",
            };
            let style = match facts.style {
                Rpc => "rpc",
                Upload => "upload",
                Download => "download",
            };
            assert_eq!((&route["host"], &route["style"]), (&host.into(), &style.into()), "{url_path}");
            let types = (resolved(&route["arg"]), resolved(&route["result"]));
            assert_eq!(types, (spec_name(arg), spec_name(result)), "{url_path}");
            let auth = match facts.auth {
                Auth::None => "noauth",
                _ if facts.path.starts_with("team/") => "team",
                _ => "user",
            };
            assert!(route["auth"].as_array().expect("a list").contains(&auth.into()), "{url_path}");
            assert_eq!(route["deprecated"], false, "{url_path}");
        }
    }

    #[test]
    fn effects_agree_with_the_raw_table_and_only_reads_are_repeated_as_reads() {
        for (facts, _, _, _) in all() {
            if let Some(row) = raw(&facts.path) {
                assert_eq!(row.effect(), Some(facts.effect), "{}", facts.path);
            }
            assert_eq!(facts.effect == Effect::Read, facts.repeat == Repeat::Read, "{}", facts.path);
        }
    }

    #[test]
    fn what_changes_a_namespace_takes_a_turn() {
        for (facts, takes_turn, _, _) in all() {
            let changes = facts.path.starts_with("files/")
                && facts.effect != Effect::Read
                && !["start", "start_batch", "append_v2", "append_batch", "get_temporary_upload_link"]
                    .iter()
                    .any(|end| facts.path.ends_with(end));
            assert_eq!(takes_turn, changes, "{}", facts.path);
        }
    }
}
