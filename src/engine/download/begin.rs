//! How a download begins: which request says first what is read, by the kind of its source, and the header made of it.

use dropbox_sdk::{
    files::{DownloadArg, ExportArg, FileMetadata, GetMetadataArg, Metadata},
    sharing::{FileLinkMetadata, GetSharedLinkMetadataArg, SharedLinkMetadata},
};

use super::{
    DownloadRequest, Header, Source, Subject,
    range::{Pin, Ranged, is_range_refusal, revision_gone},
};
use crate::{
    dropbox::{ByteRange, Caller, routes},
    engine::content_hash::ContentHash,
    fault::{Fault, Reason, Result},
    limits,
};

/// The header, and how its bytes are come by.
pub(super) struct Begun {
    pub header: Header,
    /// `None` where there is nothing to read.
    pub body: Option<Ranged>,
    /// Where `body` ends; further ranges follow.
    pub body_end: u64,
    pub pin: Pin,
    pub expected: Option<ContentHash>,
}

/// Asks for what the request names.
pub(super) async fn begin(caller: &Caller, request: &DownloadRequest) -> Result<Begun> {
    match &request.source {
        Source::Path(path) => match begin_file(caller, path, request).await {
            Err(fault) if fault.reason() == Reason::NotDownloadable => match &request.export_format {
                Some(_) => begin_export(caller, path, request).await,
                None => Err(with_formats(caller, path, fault).await),
            },
            begun => begun,
        },
        Source::SharedLink { url, path, password } => {
            begin_link(caller, link_arg(url, path.as_deref(), password.as_deref()), request).await
        }
    }
}

async fn begin_file(caller: &Caller, path: &str, request: &DownloadRequest) -> Result<Begun> {
    let mut pinned = request.rev.as_ref().map_or_else(|| path.to_owned(), |rev| format!("rev:{rev}"));
    let gone = |fault| if request.rev.is_some() { revision_gone(fault) } else { fault };
    // A negative offset is resolved by us: what Dropbox makes of one beyond the start is not documented.
    let start = match u64::try_from(request.offset) {
        Ok(start) => start,
        Err(_) => {
            let file = file_at(caller, &pinned).await.map_err(gone)?;
            pinned = format!("rev:{}", file.rev);
            file.size.saturating_sub(request.offset.unsigned_abs())
        }
    };
    let head_bytes = if request.parallel_ranges > 1 {
        match request.limit {
            0 => limits::BLOCK_BYTES as u64,
            limit => limit.min(limits::BLOCK_BYTES as u64),
        }
    } else {
        request.limit
    };
    let range = match (start, head_bytes) {
        (0, 0) => None,
        (start, 0) => Some(ByteRange::From(start)),
        (start, bytes) => Some(ByteRange::Between(start, start.saturating_add(bytes - 1))),
    };
    let answer = match caller.download(&routes::DOWNLOAD, &DownloadArg::new(pinned.clone()), range).await {
        Ok(answer) => answer,
        Err(fault) if range.is_some() && is_range_refusal(&fault) => {
            // Nothing to send from there: an empty file, or an offset at or beyond the end.
            let file = file_at(caller, &pinned).await.map_err(gone)?;
            let header = file_header(file, start, request.limit, None)?;
            let expected = hash_of(&header.subject);
            return Ok(Begun { body: None, body_end: header.range_start, pin: Pin::Nothing, expected, header });
        }
        Err(fault) => return Err(gone(fault)),
    };
    let header = file_header(answer.value, start, request.limit, answer.content_type)?;
    let partial = answer.status == 206;
    let body = Ranged::new(answer.body, if partial { 0 } else { header.range_start });
    let body_end = match range {
        Some(ByteRange::Between(_, last)) if partial => header.range_end.min(last.saturating_add(1)),
        _ => header.range_end,
    };
    let pin = Pin::Rev(header.subject.rev().to_owned());
    let expected = hash_of(&header.subject);
    Ok(Begun { header, body: Some(body), body_end, pin, expected })
}

/// What could be asked for instead, if Dropbox says so.
async fn with_formats(caller: &Caller, path: &str, fault: Fault) -> Fault {
    let Ok(FileMetadata { export_info: Some(export), .. }) = file_at(caller, path).await else { return fault };
    let mut formats = export.export_options.unwrap_or_default();
    formats.extend(export.export_as.filter(|default| !formats.contains(default)));
    if formats.is_empty() { fault } else { fault.fact("exportFormats", formats.join(",")) }
}

async fn begin_export(caller: &Caller, path: &str, request: &DownloadRequest) -> Result<Begun> {
    let wrong = [
        ("read_offset", request.offset != 0),
        ("read_limit", request.limit != 0),
        ("rev", request.rev.is_some()),
        ("parallel_ranges", request.parallel_ranges > 1),
    ];
    let violations: Vec<_> = wrong.iter().filter(|(_, set)| *set).collect();
    if !violations.is_empty() {
        let fault = Fault::new(Reason::InvalidField, "an export has no ranges and no revisions");
        return Err(violations.iter().fold(fault, |fault, (field, _)| {
            fault.violation(*field, "NOT_FOR_EXPORTS", "must not be set where export_format is used")
        }));
    }
    let mut arg = ExportArg::new(path.to_owned());
    arg.export_format = request.export_format.clone().filter(|format| !format.is_empty());
    let answer = caller.download(&routes::EXPORT, &arg, None).await?;
    let export = answer.value.export_metadata;
    let expected = export.export_hash.as_deref().and_then(|hash| hash.parse().ok());
    let header = Header {
        subject: Subject::File(Box::new(answer.value.file_metadata)),
        total_size: export.size,
        range_start: 0,
        range_end: export.size,
        content_type: content_type(answer.content_type, &export.name),
        export_name: Some(export.name),
    };
    let pin = Pin::Export { arg, hash: export.export_hash, size: export.size };
    Ok(Begun { body: Some(Ranged::new(answer.body, 0)), body_end: header.range_end, pin, expected, header })
}

async fn begin_link(caller: &Caller, arg: GetSharedLinkMetadataArg, request: &DownloadRequest) -> Result<Begun> {
    let start = match u64::try_from(request.offset) {
        Ok(start) => start,
        Err(_) => {
            let link = caller.call(&routes::GET_SHARED_LINK_METADATA, &arg).await?.value;
            file_link(link)?.size.saturating_sub(request.offset.unsigned_abs())
        }
    };
    let range = match (start, request.limit) {
        (0, 0) => None,
        (start, 0) => Some(ByteRange::From(start)),
        (start, limit) => Some(ByteRange::Between(start, start.saturating_add(limit - 1))),
    };
    let answer = match caller.download(&routes::GET_SHARED_LINK_FILE, &arg, range).await {
        Ok(answer) => answer,
        Err(fault) if range.is_some() && is_range_refusal(&fault) => {
            let link = file_link(caller.call(&routes::GET_SHARED_LINK_METADATA, &arg).await?.value)?;
            let header = link_header(link, start, request.limit, None)?;
            return Ok(Begun { body: None, body_end: header.range_start, pin: Pin::Nothing, expected: None, header });
        }
        Err(fault) => return Err(fault),
    };
    let header = link_header(file_link(answer.value)?, start, request.limit, answer.content_type)?;
    let body = Ranged::new(answer.body, if answer.status == 206 { 0 } else { header.range_start });
    let pin = Pin::Link { arg, rev: header.subject.rev().to_owned(), size: header.subject.size() };
    Ok(Begun { body: Some(body), body_end: header.range_end, pin, expected: None, header })
}

async fn file_at(caller: &Caller, path: &str) -> Result<FileMetadata> {
    match caller.call(&routes::GET_METADATA, &GetMetadataArg::new(path.to_owned())).await?.value {
        Metadata::File(file) => Ok(file),
        _ => Err(Fault::new(Reason::NotAFile, "the path names a folder").resource("dropbox.item", path)),
    }
}

fn file_header(file: FileMetadata, start: u64, limit: u64, upstream: Option<String>) -> Result<Header> {
    let content_type = content_type(upstream, &file.name);
    let (range_start, range_end) = bounds(file.size, start, limit)?;
    let total_size = file.size;
    Ok(Header {
        subject: Subject::File(Box::new(file)),
        total_size,
        range_start,
        range_end,
        content_type,
        export_name: None,
    })
}

fn link_header(link: FileLinkMetadata, start: u64, limit: u64, upstream: Option<String>) -> Result<Header> {
    let content_type = content_type(upstream, &link.name);
    let (range_start, range_end) = bounds(link.size, start, limit)?;
    let total_size = link.size;
    Ok(Header {
        subject: Subject::Link(Box::new(link)),
        total_size,
        range_start,
        range_end,
        content_type,
        export_name: None,
    })
}

fn bounds(size: u64, start: u64, limit: u64) -> Result<(u64, u64)> {
    if start > size {
        return Err(Fault::new(
            Reason::ReadOffsetBeyondEnd,
            format!("read_offset {start} is beyond the file's end at {size}"),
        )
        .fact("size", size)
        .violation("read_offset", "OUT_OF_RANGE", format!("must be at most {size}")));
    }
    let end = if limit == 0 { size } else { size.min(start.saturating_add(limit)) };
    Ok((start, end))
}

fn hash_of(subject: &Subject) -> Option<ContentHash> {
    match subject {
        Subject::File(file) => file.content_hash.as_deref().and_then(|hash| hash.parse().ok()),
        Subject::Link(_) => None,
    }
}

fn file_link(link: SharedLinkMetadata) -> Result<FileLinkMetadata> {
    match link {
        SharedLinkMetadata::File(link) => Ok(link),
        _ => Err(Fault::new(Reason::NotAFile, "the shared link leads to a folder: set path to a file in it")),
    }
}

fn link_arg(url: &str, path: Option<&str>, password: Option<&str>) -> GetSharedLinkMetadataArg {
    let mut arg = GetSharedLinkMetadataArg::new(url.to_owned());
    arg.path = path.map(str::to_owned);
    arg.link_password = password.map(str::to_owned);
    arg
}

/// What Dropbox says, or what the name says where Dropbox only says "bytes".
fn content_type(upstream: Option<String>, name: &str) -> String {
    match upstream {
        Some(named) if !named.starts_with("application/octet-stream") && !named.is_empty() => named,
        _ => mime_guess::from_path(name).first_or_octet_stream().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_at_the_end_and_refused_beyond_it() {
        assert_eq!(bounds(10, 0, 0).expect("whole"), (0, 10));
        assert_eq!(bounds(10, 4, 100).expect("cut"), (4, 10));
        assert_eq!(bounds(10, 10, 0).expect("empty"), (10, 10));
        assert_eq!(bounds(0, 0, 0).expect("empty file"), (0, 0));
        assert_eq!(bounds(10, 11, 0).expect_err("beyond").reason(), Reason::ReadOffsetBeyondEnd);
    }

    #[test]
    fn the_content_type_is_guessed_only_where_dropbox_does_not_say() {
        assert_eq!(content_type(Some("text/markdown; charset=utf-8".into()), "a.pdf"), "text/markdown; charset=utf-8");
        assert_eq!(content_type(Some("application/octet-stream".into()), "a.pdf"), "application/pdf");
        assert_eq!(content_type(None, "no-extension"), "application/octet-stream");
    }
}
