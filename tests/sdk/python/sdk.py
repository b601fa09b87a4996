"""Drives the emulator with the official Python SDK, unchanged.

Arguments: the base URLs of the emulator's api, content, notify, www and control hosts. The SDK speaks https only, so its
sessions get an adapter that sends the same requests without TLS; nothing else of it is touched.
"""

import os
import sys
from urllib.parse import parse_qs, urlsplit

API, CONTENT, NOTIFY, WWW, CONTROL = sys.argv[1:6]
# The SDK reads its hosts when it is imported.
os.environ["DROPBOX_API_HOST"] = urlsplit(API).netloc
os.environ["DROPBOX_API_CONTENT_HOST"] = urlsplit(CONTENT).netloc
os.environ["DROPBOX_API_NOTIFY_HOST"] = urlsplit(NOTIFY).netloc
os.environ["DROPBOX_WEB_HOST"] = urlsplit(WWW).netloc

import dropbox  # noqa: E402
import requests  # noqa: E402
from dropbox import DropboxOAuth2FlowNoRedirect, file_transfer, files, sharing  # noqa: E402
from dropbox.content_hash import content_hash  # noqa: E402
from dropbox.exceptions import ApiError, AuthError, PathRootError, RateLimitError  # noqa: E402
from requests.adapters import HTTPAdapter  # noqa: E402

MIB = 1024 * 1024


class WithoutTls(HTTPAdapter):
    """Sends https requests as http."""

    def send(self, request, **kwargs):
        request.url = "http://" + request.url.removeprefix("https://")
        return super().send(request, **kwargs)


def session():
    made = requests.session()
    made.trust_env = False
    made.mount("https://", WithoutTls())
    return made


def control(path, body=None, method="POST"):
    answer = session().request(method, f"{CONTROL}/control/{path}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


LOGIN = control("login", method="GET")


def client(**more):
    login = {
        "oauth2_refresh_token": LOGIN["refresh_token"],
        "app_key": LOGIN["app_key"],
        "app_secret": LOGIN["app_secret"],
    }
    return dropbox.Dropbox(session=session(), **{**login, **more})


def refused(kind, call, *args, **kwargs):
    """The error of a call that has to fail."""
    try:
        answer = call(*args, **kwargs)
    except kind as error:
        return error
    raise AssertionError(f"{call.__name__} answered {answer}")


def accounts(dbx):
    me = dbx.users_get_current_account()
    assert me.account_id == LOGIN["account_id"] and me.root_info.home_namespace_id, me
    assert dbx.users_get_account(me.account_id).email == me.email
    assert dbx.users_get_account_batch([me.account_id])[0].account_id == me.account_id
    assert dbx.users_get_space_usage().allocation.is_individual()
    assert dbx.check_user("ping").result == "ping"
    app = dropbox.Dropbox(app_key=LOGIN["app_key"], app_secret=LOGIN["app_secret"], session=session())
    assert app.check_app("pong").result == "pong"
    error = refused(ApiError, dbx.users_get_account, "dbid:" + "A" * 35)
    assert error.error.is_no_account(), error


def small_files(dbx):
    name = "/SDK/Grüne 😀.txt"
    first = dbx.files_upload(b"one", name)
    assert (first.size, first.content_hash, first.name) == (3, content_hash(b"one"), "Grüne 😀.txt"), first
    assert dbx.files_upload(b"one", name).rev == first.rev
    conflict = refused(ApiError, dbx.files_upload, b"two", name).error
    assert conflict.is_path() and conflict.get_path().reason.get_conflict().is_file(), conflict
    second = dbx.files_upload(b"two", name, mode=files.WriteMode.update(first.rev))
    assert second.rev != first.rev and second.id == first.id, second
    renamed = dbx.files_upload(b"three", name, autorename=True)
    assert renamed.name == "Grüne 😀 (1).txt", renamed
    metadata, answer = dbx.files_download(name)
    assert answer.content == b"two" and metadata.rev == second.rev, metadata
    metadata, answer = dbx.files_download("rev:" + first.rev)
    assert answer.content == b"one", metadata
    got = dbx.files_get_metadata(name.upper())
    assert isinstance(got, files.FileMetadata) and got.id == first.id, got
    missing = refused(ApiError, dbx.files_get_metadata, "/nothing").error
    assert missing.is_path() and missing.get_path().is_not_found(), missing
    wrong = refused(ApiError, dbx.files_upload, b"x", "/SDK/hash.txt", content_hash=content_hash(b"y")).error
    assert wrong.is_content_hash_mismatch(), wrong


def sessions(dbx):
    data = bytes(range(256)) * 4 * 1024
    started = dbx.files_upload_session_start(data[:1000])
    cursor = files.UploadSessionCursor(started.session_id, 1000)
    dbx.files_upload_session_append_v2(data[1000:5000], cursor)
    again = refused(ApiError, dbx.files_upload_session_append_v2, data[1000:5000], cursor).error
    assert again.is_incorrect_offset() and again.get_incorrect_offset().correct_offset == 5000, again
    cursor.offset = 5000
    commit = files.CommitInfo("/SDK/session.bin", mode=files.WriteMode.overwrite)
    done = dbx.files_upload_session_finish(data[5000:], cursor, commit)
    assert (done.size, done.content_hash) == (len(data), content_hash(data)), done
    uploader, downloader = file_transfer.Uploader(dbx), file_transfer.Downloader(dbx)
    large = os.urandom(21 * MIB + 5)
    for parallel, path in ((1, "/SDK/sequential.bin"), (4, "/SDK/parallel.bin")):
        options = file_transfer.UploadOptions(parallel_uploads=parallel)
        result = uploader.upload(file_transfer.BytesUpload(large), files.CommitInfo(path), options)
        assert result.metadata.content_hash == content_hash(large), result
        target = file_transfer.BytesTarget()
        downloader.download(path, target, file_transfer.DownloadOptions(parallel_downloads=parallel))
        assert target.bytes() == large, path
    empty = uploader.upload(file_transfer.BytesUpload(b""), files.CommitInfo("/SDK/empty.bin"))
    assert empty.metadata.content_hash == content_hash(b""), empty
    entries = []
    for number in range(3):
        started = dbx.files_upload_session_start(b"part %d" % number, close=True)
        cursor = files.UploadSessionCursor(started.session_id, 6)
        entries.append(files.UploadSessionFinishArg(cursor, files.CommitInfo(f"/SDK/batch/{number}.txt")))
    results = dbx.files_upload_session_finish_batch_v2(entries).entries
    assert [entry.get_success().name for entry in results] == ["0.txt", "1.txt", "2.txt"], results


def a_download_goes_on_after_a_cut(dbx):
    data = os.urandom(3 * MIB)
    dbx.files_upload(data, "/SDK/cut.bin")
    control("script", {"route": "files/download", "times": 2, "action": {"do": "cut_body", "after_bytes": MIB}})
    target = file_transfer.BytesTarget()
    file_transfer.Downloader(dbx).download("/SDK/cut.bin", target, file_transfer.DownloadOptions(max_attempts=5))
    assert target.bytes() == data


def folders(dbx):
    made = dbx.files_create_folder_v2("/Tree/Sub").metadata
    assert isinstance(made, files.FolderMetadata) and made.path_lower == "/tree/sub", made
    exists = refused(ApiError, dbx.files_create_folder_v2, "/tree/SUB").error
    assert exists.get_path().get_conflict().is_folder(), exists
    for number in range(7):
        dbx.files_upload(b"%d" % number, f"/Tree/Sub/{number}.txt")
    page = dbx.files_list_folder("/Tree", recursive=True, limit=3)
    entries = list(page.entries)
    while page.has_more:
        page = dbx.files_list_folder_continue(page.cursor)
        entries += page.entries
    names = sorted(entry.name for entry in entries if isinstance(entry, files.FileMetadata))
    assert names == [f"{number}.txt" for number in range(7)], names
    moved = dbx.files_move_v2("/Tree/Sub/0.txt", "/Tree/moved.txt").metadata
    copied = dbx.files_copy_v2("/Tree/moved.txt", "/Tree/copied.txt").metadata
    assert moved.content_hash == copied.content_hash and moved.id != copied.id
    deleted = dbx.files_delete_v2("/Tree/Sub").metadata
    assert isinstance(deleted, files.FolderMetadata), deleted
    gone = refused(ApiError, dbx.files_delete_v2, "/Tree/Sub").error
    assert gone.get_path_lookup().is_not_found(), gone
    changes = dbx.files_list_folder_continue(page.cursor).entries
    kinds = {type(entry).__name__ for entry in changes}
    assert {"DeletedMetadata", "FileMetadata"} <= kinds, changes
    assert dbx.files_list_folder_longpoll(page.cursor, timeout=30).changes
    revisions = dbx.files_list_revisions("/Tree/moved.txt").entries
    assert revisions[0].rev == dbx.files_get_metadata("/Tree/moved.txt").rev, revisions
    found = dbx.files_search_v2("copied").matches
    assert [match.metadata.get_metadata().name for match in found] == ["copied.txt"], found
    link = dbx.files_get_temporary_link("/Tree/moved.txt")
    assert session().get(link.link).content == b"0", link


def links(dbx):
    dbx.files_upload(b"shared", "/Shared/inner/a b.txt")
    link = dbx.sharing_create_shared_link_with_settings("/Shared/inner/a b.txt")
    assert isinstance(link, sharing.FileLinkMetadata) and link.link_permissions.resolved_visibility.is_public(), link
    exists = refused(ApiError, dbx.sharing_create_shared_link_with_settings, "/Shared/inner/a b.txt").error
    assert exists.get_shared_link_already_exists().get_metadata().url == link.url, exists
    folder_settings = sharing.SharedLinkSettings(require_password=True, link_password="open")
    folder = dbx.sharing_create_shared_link_with_settings("/Shared", folder_settings)
    urls = [found.url for found in dbx.sharing_list_shared_links(path="/Shared/inner/a b.txt").links]
    assert urls == [folder.url, link.url], urls
    direct = dbx.sharing_list_shared_links(path="/Shared/inner/a b.txt", direct_only=True).links
    assert [found.url for found in direct] == [link.url], direct
    app = dropbox.Dropbox(app_key=LOGIN["app_key"], app_secret=LOGIN["app_secret"], session=session())
    closed = refused(ApiError, app.sharing_get_shared_link_metadata, folder.url).error
    assert closed.is_shared_link_access_denied(), closed
    inner = app.sharing_get_shared_link_metadata(folder.url, path="/inner/a b.txt", link_password="open")
    assert inner.name == "a b.txt" and inner.path_lower is None, inner
    metadata, answer = app.sharing_get_shared_link_file(link.url)
    assert answer.content == b"shared" and metadata.size == 6, metadata
    directory = refused(ApiError, dbx.sharing_get_shared_link_file, folder.url).error
    assert directory.is_shared_link_is_directory(), directory
    changed = dbx.sharing_modify_shared_link_settings(link.url, sharing.SharedLinkSettings(allow_download=False))
    assert changed.link_permissions.allow_download is False, changed
    dbx.sharing_revoke_shared_link(link.url)
    revoked = refused(ApiError, dbx.sharing_revoke_shared_link, link.url).error
    assert revoked.is_shared_link_not_found(), revoked


def trouble(dbx):
    control("script", [
        {"route": "users/get_current_account", "nth": 1, "action": {"do": "too_many_requests", "retry_after": 0}},
        {"route": "users/get_current_account", "nth": 2, "action": {"do": "too_many_requests_text", "retry_after": 0}},
        {"route": "users/get_current_account", "nth": 3, "action": {"do": "server_error", "status": 500}},
        {"route": "users/get_space_usage", "action": {"do": "too_many_write_operations", "retry_after": 1}},
    ])
    assert dbx.users_get_current_account().account_id == LOGIN["account_id"]
    once = client(max_retries_on_rate_limit=0)
    limit = refused(RateLimitError, once.users_get_space_usage)
    assert limit.error.reason.is_too_many_write_operations(), limit
    control("script", method="DELETE")
    control("tokens/expire")
    assert dbx.users_get_current_account().account_id == LOGIN["account_id"]
    narrow = control("login", {"scopes": ["account_info.read"]})
    narrow = dropbox.Dropbox(narrow["access_token"], session=session())
    missing = refused(AuthError, narrow.files_list_folder, "").error
    assert missing.get_missing_scope().required_scope == "files.metadata.read", missing
    elsewhere = dbx.with_path_root(dropbox.common.PathRoot.root("1"))
    root = refused(PathRootError, elsewhere.files_list_folder, "").error
    assert root.is_invalid_root(), root


def oauth():
    control("consent", {"consent": "approve"})
    flow = DropboxOAuth2FlowNoRedirect(LOGIN["app_key"], use_pkce=True, token_access_type="offline",
                                       scope=["account_info.read", "files.metadata.read"])
    flow.requests_session = session()
    page = session().get(flow.start().replace("https://", "http://"))
    code = page.text.split('<code id="code">')[1].split("<")[0]
    granted = flow.finish(code)
    assert granted.refresh_token and set(granted.scope.split()) == {"account_info.read", "files.metadata.read"}
    dbx = dropbox.Dropbox(oauth2_refresh_token=granted.refresh_token, app_key=LOGIN["app_key"], session=session())
    assert dbx.users_get_current_account().account_id == granted.account_id
    back = {}
    flow = dropbox.DropboxOAuth2Flow(LOGIN["app_key"], "http://localhost:9/back", back, "csrf",
                                     consumer_secret=LOGIN["app_secret"], token_access_type="online")
    flow.requests_session = session()
    page = session().get(flow.start("mine").replace("https://", "http://"), allow_redirects=False)
    answer = {name: values[0] for name, values in parse_qs(urlsplit(page.headers["Location"]).query).items()}
    granted = flow.finish(answer)
    assert granted.url_state == "mine" and not granted.refresh_token, granted
    dbx.auth_token_revoke()
    dead = refused(AuthError, dbx.users_get_current_account).error
    assert dead.is_invalid_access_token(), dead


def main():
    dbx = client()
    steps = [accounts, small_files, sessions, a_download_goes_on_after_a_cut, folders, links, trouble]
    for step in steps:
        step(dbx)
        print("ok", step.__name__, flush=True)
    oauth()
    print("ok oauth", flush=True)
    wrong = control("wrong_answers", method="GET")
    assert wrong == [], wrong


main()
