//! Uploads and downloads: what is asked for, checked.

use std::time::SystemTime;

use crate::{
    api::v1 as api,
    convert::{
        Fields,
        items::rev,
        path::{Forms, ItemPath},
        request_id,
    },
    fault::{Fault, Reason, Result},
    limits::{
        COMMITS_MAX, DOWNLOAD_CHUNK_DEFAULT, DOWNLOAD_CHUNK_MAX, DOWNLOAD_CHUNK_MIN, DROPBOX_FILE_BYTES_MAX,
        PARALLEL_APPENDS_MAX, PARALLEL_RANGES_MAX,
    },
};

/// Where an upload goes and on which terms, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    pub path: ItemPath,
    pub mode: api::WriteMode,
    pub expected_rev: String,
    pub autorename: bool,
    pub strict_conflict: bool,
    pub mute: bool,
    pub client_modified: Option<SystemTime>,
    pub total_size: Option<u64>,
    pub content_hash: Option<String>,
    pub skip_if_identical: bool,
    pub overwrite_if: api::OverwriteIf,
    /// `Unspecified`: none.
    pub link: api::LinkKind,
    pub parallel_appends: u32,
    pub deferred: bool,
}

/// One upload that is to be committed, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    pub upload_id: String,
    pub content_hash: Option<String>,
    pub terms: Option<Terms>,
}

/// The terms of a commit, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// `None`: that of the upload.
    pub path: Option<ItemPath>,
    pub mode: api::WriteMode,
    pub expected_rev: String,
    pub autorename: bool,
    pub strict_conflict: bool,
    pub mute: bool,
    pub client_modified: Option<SystemTime>,
}

/// # Errors
/// `MALFORMED_PATH`, `DISALLOWED_NAME`, `FILE_TOO_LARGE`, `INVALID_FIELD`.
pub fn upload_spec(spec: &api::UploadSpec) -> Result<Spec> {
    let mut fields = Fields::new();
    let checked = spec_fields(&mut fields, spec);
    fields.accept(checked)
}

/// # Errors
/// As [`upload_spec`].
pub fn start_upload(request: &api::StartUploadRequest) -> Result<(Spec, Option<String>)> {
    let mut fields = Fields::new();
    let id = request_id(&mut fields, &request.request_id);
    let unset = api::UploadSpec::default();
    fields.check(request.spec.is_some(), "spec", "REQUIRED", "must be set");
    let spec = spec_fields(&mut fields, request.spec.as_ref().unwrap_or(&unset));
    let skips = spec.skip_if_identical || spec.overwrite_if != api::OverwriteIf::Always;
    fields.check(!skips, "spec", "CONFLICT", "skip_if_identical and overwrite_if belong to uploads that begin at once");
    fields.accept((spec, id))
}

fn spec_fields(fields: &mut Fields, spec: &api::UploadSpec) -> Spec {
    let path = upload_path(fields, spec);
    let mode = write_mode(fields, "spec", spec.write_mode, &spec.expected_rev, spec.strict_conflict);
    let overwrites = mode == api::WriteMode::Overwrite;
    let total_size = spec.total_size.map(|size| fields.natural("spec.total_size", size));
    if total_size.is_some_and(|size| size > DROPBOX_FILE_BYTES_MAX) {
        let text = format!("Dropbox takes files of at most {DROPBOX_FILE_BYTES_MAX} bytes");
        fields.refuse_as(Reason::FileTooLarge, "spec.total_size", "FILE_TOO_LARGE", text);
    }
    let content_hash = fields.content_hash("spec.content_hash", &spec.content_hash);
    let skips_blindly = spec.skip_if_identical && spec.content_hash.is_empty();
    fields.check(!skips_blindly, "spec.content_hash", "REQUIRED", "skip_if_identical needs it");
    let overwrite_if = match fields.known("spec.overwrite_if", spec.overwrite_if) {
        api::OverwriteIf::Unspecified => api::OverwriteIf::Always,
        condition => condition,
    };
    if overwrite_if != api::OverwriteIf::Always {
        fields.check(overwrites, "spec.overwrite_if", "CONFLICT", "only together with OVERWRITE");
        fields.check(!spec.autorename, "spec.autorename", "CONFLICT", "not together with overwrite_if");
        match overwrite_if {
            api::OverwriteIf::Newer => {
                fields.check(spec.client_modified.is_some(), "spec.client_modified", "REQUIRED", "NEWER compares it");
            }
            _ => fields.check(total_size.is_some(), "spec.total_size", "REQUIRED", "the condition compares it"),
        }
    }
    let parallel_appends = fields.natural("spec.parallel_appends", i64::from(spec.parallel_appends));
    let parallel_appends = u32::try_from(parallel_appends).unwrap_or(u32::MAX);
    let links = spec.deferred_commit && spec.link_kind != i32::from(api::LinkKind::Unspecified);
    fields.check(!links, "spec.link_kind", "CONFLICT", "not together with deferred_commit");
    let few = parallel_appends <= PARALLEL_APPENDS_MAX;
    fields.check(few, "spec.parallel_appends", "OUT_OF_RANGE", format!("0 to {PARALLEL_APPENDS_MAX}"));
    Spec {
        path,
        mode,
        expected_rev: spec.expected_rev.clone(),
        autorename: spec.autorename,
        strict_conflict: spec.strict_conflict,
        mute: spec.mute,
        client_modified: fields.time("spec.client_modified", spec.client_modified.as_ref()),
        total_size,
        content_hash,
        skip_if_identical: spec.skip_if_identical,
        overwrite_if,
        link: fields.known("spec.link_kind", spec.link_kind),
        parallel_appends,
        deferred: spec.deferred_commit,
    }
}

/// The mode, and the fields that go with it. `at`: where they stand.
fn write_mode(fields: &mut Fields, at: &str, mode: i32, expected_rev: &str, strict_conflict: bool) -> api::WriteMode {
    let (mode_at, rev_at) = (format!("{at}.write_mode"), format!("{at}.expected_rev"));
    let mode = match fields.known(&mode_at, mode) {
        api::WriteMode::Unspecified => api::WriteMode::Add,
        mode => mode,
    };
    if mode == api::WriteMode::Update {
        fields.check(!expected_rev.is_empty(), &rev_at, "REQUIRED", "UPDATE needs the rev to replace");
    } else {
        fields.check(expected_rev.is_empty(), &rev_at, "CONFLICT", "only together with UPDATE");
    }
    if !expected_rev.is_empty() {
        rev(fields, &rev_at, expected_rev);
    }
    let strict = mode == api::WriteMode::Overwrite && strict_conflict;
    fields.check(!strict, &format!("{at}.strict_conflict"), "CONFLICT", "not together with OVERWRITE");
    mode
}

/// # Errors
/// `MALFORMED_PATH`, `DISALLOWED_NAME`, `INVALID_FIELD`.
pub fn commit_uploads(request: &api::CommitUploadsRequest) -> Result<Vec<Commit>> {
    let mut fields = Fields::new();
    fields.check(!request.items.is_empty(), "items", "REQUIRED", "name at least one upload");
    let few = request.items.len() <= COMMITS_MAX;
    fields.check(few, "items", "TOO_MANY", format!("at most {COMMITS_MAX}; send the rest in another call"));
    let mut commits = Vec::new();
    for (n, item) in request.items.iter().take(COMMITS_MAX).enumerate() {
        let at = format!("items[{n}]");
        fields.required(&format!("{at}.upload_id"), &item.upload_id);
        commits.push(Commit {
            upload_id: item.upload_id.clone(),
            content_hash: fields.content_hash(&format!("{at}.content_hash"), &item.content_hash),
            terms: item.commit.as_ref().map(|terms| commit_terms(&mut fields, &format!("{at}.commit"), terms)),
        });
    }
    fields.accept(commits)
}

fn commit_terms(fields: &mut Fields, at: &str, terms: &api::CommitTerms) -> Terms {
    let path = match terms.path.as_str() {
        "" => None,
        path => Some(fields.new_path(&format!("{at}.path"), path, Forms::UPLOAD)),
    };
    Terms {
        path,
        mode: write_mode(fields, at, terms.write_mode, &terms.expected_rev, terms.strict_conflict),
        expected_rev: terms.expected_rev.clone(),
        autorename: terms.autorename,
        strict_conflict: terms.strict_conflict,
        mute: terms.mute,
        client_modified: fields.time(&format!("{at}.client_modified"), terms.client_modified.as_ref()),
    }
}

fn upload_path(fields: &mut Fields, spec: &api::UploadSpec) -> ItemPath {
    if spec.file_name.is_empty() {
        return fields.new_path("spec.path", &spec.path, Forms::UPLOAD);
    }
    let folder = fields.path("spec.path", &spec.path, Forms::UPLOAD_FOLDER);
    folder.join(&spec.file_name).unwrap_or_else(|refused| {
        fields.refuse_as(refused.reason, "spec.file_name", refused.reason.name(), refused.text);
        ItemPath::root()
    })
}

/// One frame behind the opening of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    Chunk { offset: Option<u64>, data: bytes::Bytes, crc32c: Option<u32> },
    Finish { content_hash: Option<String>, total_size: Option<u64> },
}

/// # Errors
/// `INVALID_FIELD`, `CHUNK_TOO_LARGE`.
pub fn chunk(chunk: api::UploadChunk) -> Result<Frame> {
    if chunk.data.len() > crate::limits::CHUNK_BYTES_MAX {
        return Err(chunk_too_large());
    }
    let mut fields = Fields::new();
    let offset = chunk.write_offset.map(|offset| fields.natural("chunk.write_offset", offset));
    fields.accept(Frame::Chunk { offset, data: chunk.data, crc32c: chunk.crc32c })
}

/// # Errors
/// `INVALID_FIELD`.
pub fn finish(finish: &api::UploadFinish) -> Result<Frame> {
    let mut fields = Fields::new();
    let content_hash = fields.content_hash("finish.content_hash", &finish.content_hash);
    let total_size = finish.total_size.map(|size| fields.natural("finish.total_size", size));
    fields.accept(Frame::Finish { content_hash, total_size })
}

pub fn chunk_too_large() -> Fault {
    let most = crate::limits::CHUNK_BYTES_MAX;
    Fault::new(Reason::ChunkTooLarge, format!("a chunk holds at most {most} bytes of data"))
        .fact("maxChunkBytes", most)
        .violation("chunk.data", "TOO_LONG", format!("at most {most} bytes"))
}

/// Where a download comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Path(ItemPath),
    SharedLink { url: String, path: ItemPath, password: Option<String> },
}

/// A download, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    pub source: Source,
    pub rev: Option<String>,
    pub offset: i64,
    pub limit: u64,
    pub chunk_bytes: usize,
    pub export_format: Option<String>,
    /// 0: decided by the server.
    pub parallel_ranges: usize,
}

/// # Errors
/// `MALFORMED_PATH`, `INVALID_URL`, `INVALID_FIELD`.
pub fn download_file(request: &api::DownloadFileRequest) -> Result<Download> {
    use api::download_file_request::Source as Asked;
    let mut fields = Fields::new();
    let source = match &request.source {
        Some(Asked::Path(path)) => Source::Path(fields.path("path", path, Forms::FILE)),
        Some(Asked::SharedLink(link)) => {
            fields.check(request.rev.is_empty(), "rev", "CONFLICT", "a shared link cannot be pinned");
            let (link, path) = crate::convert::items::shared_link(&mut fields, link);
            Source::SharedLink { url: link.url, path, password: link.password }
        }
        None => {
            fields.refuse("source", "REQUIRED", "set path or shared_link");
            Source::Path(ItemPath::root())
        }
    };
    if !request.rev.is_empty() {
        rev(&mut fields, "rev", &request.rev);
    }
    let limit = fields.natural("read_limit", request.read_limit);
    let chunk_bytes = match fields.natural("chunk_size", request.chunk_size) {
        0 => DOWNLOAD_CHUNK_DEFAULT as u64,
        bytes => bytes,
    };
    let fits = (DOWNLOAD_CHUNK_MIN as u64..=DOWNLOAD_CHUNK_MAX as u64).contains(&chunk_bytes);
    fields.check(fits, "chunk_size", "OUT_OF_RANGE", format!("{DOWNLOAD_CHUNK_MIN} to {DOWNLOAD_CHUNK_MAX} bytes"));
    let parallel_ranges = fields.natural("parallel_ranges", i64::from(request.parallel_ranges));
    let few = parallel_ranges <= u64::from(PARALLEL_RANGES_MAX);
    fields.check(few, "parallel_ranges", "OUT_OF_RANGE", format!("0 to {PARALLEL_RANGES_MAX}"));
    fields.text("export_format", &request.export_format);
    let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    fields.accept(Download {
        source,
        rev: given(&request.rev),
        offset: request.read_offset,
        limit,
        chunk_bytes: usize::try_from(chunk_bytes).unwrap_or(DOWNLOAD_CHUNK_MAX),
        export_format: given(&request.export_format),
        parallel_ranges: usize::try_from(parallel_ranges).unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(change: impl FnOnce(&mut api::UploadSpec)) -> Result<Spec> {
        let mut spec = api::UploadSpec { path: "/a/b.txt".into(), ..Default::default() };
        change(&mut spec);
        upload_spec(&spec)
    }

    fn wrong(change: impl FnOnce(&mut api::UploadSpec)) -> Vec<String> {
        spec(change).unwrap_err().violations().iter().map(|v| v.field.clone()).collect()
    }

    #[test]
    fn a_folder_and_a_name_make_the_path() {
        let joined = spec(|spec| (spec.path, spec.file_name) = ("\\".into(), "x.txt".into())).unwrap();
        assert_eq!(joined.path.as_str(), "/x.txt");
        assert_eq!(wrong(|spec| spec.file_name = "a/b".into()), ["spec.file_name"]);
        assert_eq!(wrong(|spec| spec.path = "rev:0123456789".into()), ["spec.path"]);
        assert_eq!(wrong(|spec| spec.path = "/".into()), ["spec.path"]);
    }

    #[test]
    fn fields_that_contradict_each_other_are_told_together() {
        let fields = wrong(|spec| {
            spec.write_mode = api::WriteMode::Overwrite.into();
            spec.expected_rev = "0123456789".into();
            spec.strict_conflict = true;
            spec.skip_if_identical = true;
            spec.overwrite_if = api::OverwriteIf::Larger.into();
            spec.parallel_appends = 17;
            spec.deferred_commit = true;
            spec.link_kind = api::LinkKind::Preview.into();
        });
        let expected = [
            "spec.expected_rev",
            "spec.strict_conflict",
            "spec.content_hash",
            "spec.total_size",
            "spec.link_kind",
            "spec.parallel_appends",
        ];
        assert_eq!(fields, expected);
        assert_eq!(wrong(|spec| spec.write_mode = api::WriteMode::Update.into()), ["spec.expected_rev"]);
        assert_eq!(wrong(|spec| spec.write_mode = 99), ["spec.write_mode"]);
    }

    #[test]
    fn what_is_wrong_with_commits_is_told_by_item_and_all_at_once() {
        let item = |upload_id: &str, terms: api::CommitTerms| api::UploadToCommit {
            upload_id: upload_id.into(),
            commit: Some(terms),
            ..Default::default()
        };
        let update =
            api::CommitTerms { write_mode: api::WriteMode::Update.into(), path: "/a".into(), ..Default::default() };
        let strict = api::CommitTerms {
            write_mode: api::WriteMode::Overwrite.into(),
            strict_conflict: true,
            ..Default::default()
        };
        let good = item("x", api::CommitTerms { autorename: true, ..Default::default() });
        let hash = api::UploadToCommit { upload_id: "y".into(), content_hash: "1".into(), ..Default::default() };
        let request = |items| api::CommitUploadsRequest { items, ..Default::default() };
        let wrong = |items| -> Vec<String> {
            let fault = commit_uploads(&request(items)).unwrap_err();
            fault.violations().iter().map(|violation| violation.field.clone()).collect()
        };
        let items = vec![good.clone(), item("", update), item("z", strict), hash];
        let expected = [
            "items[1].upload_id",
            "items[1].commit.expected_rev",
            "items[2].commit.strict_conflict",
            "items[3].content_hash",
        ];
        assert_eq!(wrong(items), expected);
        assert_eq!(wrong(Vec::new()), ["items"]);
        assert_eq!(wrong(vec![good.clone(); 501]), ["items"]);
        let taken = commit_uploads(&request(vec![good])).unwrap();
        let terms = taken[0].terms.as_ref().unwrap();
        assert_eq!((&terms.path, terms.mode, terms.autorename), (&None, api::WriteMode::Add, true));
    }

    #[test]
    fn sizes_beyond_dropbox_s_are_too_large_and_negative_ones_invalid() {
        let fault = spec(|spec| spec.total_size = Some(2_199_019_061_249)).unwrap_err();
        assert_eq!((fault.reason(), fault.get("limitBytes")), (Reason::FileTooLarge, Some("2199019061248")));
        assert_eq!(wrong(|spec| spec.total_size = Some(-1)), ["spec.total_size"]);
        assert!(spec(|spec| spec.total_size = Some(0)).is_ok());
    }

    #[test]
    fn hashes_are_taken_in_either_case() {
        let taken = spec(|spec| spec.content_hash = "AB".repeat(32)).unwrap();
        assert_eq!(taken.content_hash, Some("ab".repeat(32)));
        assert_eq!(wrong(|spec| spec.content_hash = "xyz".into()), ["spec.content_hash"]);
    }

    #[test]
    fn a_chunk_of_four_mebibytes_is_taken_and_a_byte_more_is_not() {
        let of = |bytes: usize| chunk(api::UploadChunk { data: vec![0; bytes].into(), ..Default::default() });
        assert!(of(4 * 1024 * 1024).is_ok());
        let fault = of(4 * 1024 * 1024 + 1).unwrap_err();
        assert_eq!((fault.reason(), fault.get("maxChunkBytes")), (Reason::ChunkTooLarge, Some("4194304")));
    }

    #[test]
    fn a_download_needs_a_source_and_keeps_its_bounds() {
        let empty =
            api::DownloadFileRequest { chunk_size: 1, parallel_ranges: 9, read_limit: -1, ..Default::default() };
        let fault = download_file(&empty).unwrap_err();
        let fields: Vec<_> = fault.violations().iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["source", "read_limit", "chunk_size", "parallel_ranges"]);
        let source = api::download_file_request::Source::Path("/a".into());
        let taken = download_file(&api::DownloadFileRequest { source: Some(source), ..Default::default() }).unwrap();
        assert_eq!((taken.chunk_bytes, taken.offset), (256 * 1024, 0));
    }
}
