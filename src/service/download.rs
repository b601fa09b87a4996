//! `DownloadFile`: header, chunks, trailer. Dropping the stream drops the request to Dropbox.

use dropbox_sdk::types::{files, sharing};
use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, stream};

use super::{active::Active, call::Call, door::Site, items::Answers, transfer::Transfer};
use crate::{
    access::Permissions,
    api::v1::{self as api, download_file_response::Payload},
    convert::{
        dropbox_timestamp,
        items::{item_at, paths},
        path::Jail,
        size,
        transfer::{self as convert, Download as Asked},
    },
    dropbox::{Due, Rate},
    engine::download::{Download, DownloadRequest, Source, Subject},
    fault::Result,
};

impl Transfer {
    pub async fn download_file(
        &self,
        call: Call,
        request: api::DownloadFileRequest,
    ) -> Result<Answers<api::DownloadFileResponse>> {
        let asked = convert::download_file(&request)?;
        let (asked, downloads) = (&asked, &self.downloads);
        let opened = self.door.enter(&call, &request, Permissions::default(), |site| async move {
            let request = placed(&site, asked).await?;
            let download = downloads.open(site.parameters().id.as_str(), site.caller(), request).await?;
            let header = header(&site, asked, &download)?;
            Ok((site, download, header))
        });
        let (site, download, header) = opened.await?;
        let (rate, active) = (site.rates().down, Active::new("download"));
        let state = Some(Sending { site, call, download, rate, due: None, active });
        let rest = stream::unfold(state, |state| async move {
            let mut sending = state?;
            while let Some(left) = sending.held_back() {
                tokio::time::sleep(left).await;
            }
            match sending.download.next().await {
                Ok(Some(piece)) => {
                    sending.active.moved(piece.bytes.len());
                    sending.due = sending.rate.moved(piece.bytes.len());
                    sending.held_back();
                    Some((Ok(chunk(piece.offset, piece.bytes)), Some(sending)))
                }
                Ok(None) => {
                    let trailer = sending.download.trailer();
                    let trailer = api::DownloadTrailer {
                        bytes_sent: size(trailer.bytes_sent),
                        content_hash: trailer.content_hash.map(|hash| hash.to_string()).unwrap_or_default(),
                        verified: trailer.verified,
                    };
                    Some((Ok(answer(Payload::Trailer(trailer))), None))
                }
                Err(fault) => Some((Err(sending.call.refusal(&sending.site.told(fault))), None)),
            }
        });
        let first = stream::once(async move { Ok(answer(Payload::Header(header))) });
        Ok(first.chain(rest).boxed())
    }
}

struct Sending {
    site: Site,
    call: Call,
    download: Download,
    rate: Arc<Rate>,
    /// To be paid for before the next chunk, by the parameter's bytes per second.
    due: Option<Due>,
    active: Active,
}

impl Sending {
    /// How long to wait before it is looked again whether another chunk may go; the caller is not taken for silent meanwhile.
    fn held_back(&mut self) -> Option<Duration> {
        let left = self.due.as_ref().map(Due::left).filter(|left| !left.is_zero())?;
        self.download.hold_back(left);
        Some(left)
    }
}

pub(super) fn chunk(offset: u64, data: Bytes) -> api::DownloadFileResponse {
    answer(Payload::Chunk(api::DownloadChunk { offset: size(offset), crc32c: crc_fast::crc32_iscsi(&data), data }))
}

fn answer(payload: Payload) -> api::DownloadFileResponse {
    api::DownloadFileResponse { payload: Some(payload) }
}

async fn placed(site: &Site, asked: &Asked) -> Result<DownloadRequest> {
    let source = match &asked.source {
        convert::Source::Path(path) => Source::Path(site.place(path).await?),
        // What a link leads to need not lie in the jail, nor anywhere in this Dropbox.
        convert::Source::SharedLink { .. } if !site.jail().is_open() => return Err(Jail::refusal()),
        convert::Source::SharedLink { url, path, password } => Source::SharedLink {
            url: url.clone(),
            path: Some(path.as_str().to_owned()).filter(|path| !path.is_empty()),
            password: password.clone(),
        },
    };
    if let (Source::Path(_), Some(rev), false) = (&source, &asked.rev, site.jail().is_open()) {
        // The revision is read whatever `path` says, so it must lie inside itself.
        let found = site.metadata(&format!("rev:{rev}")).await?;
        if !site.jail().holds(paths(&found).0) {
            return Err(Jail::not_found(&format!("rev:{rev}")));
        }
    }
    Ok(DownloadRequest {
        source,
        rev: asked.rev.clone(),
        offset: asked.offset,
        limit: asked.limit,
        chunk_bytes: asked.chunk_bytes,
        export_format: asked.export_format.clone(),
        parallel_ranges: asked.parallel_ranges,
    })
}

fn header(site: &Site, asked: &Asked, download: &Download) -> Result<api::DownloadHeader> {
    let header = &download.header;
    let exported = header.export_name.is_some();
    let (item, export_format) = match &header.subject {
        Subject::File(file) => {
            let default = file.export_info.as_ref().and_then(|info| info.export_as.clone());
            let told = match &asked.source {
                convert::Source::Path(path) => path.as_str(),
                convert::Source::SharedLink { .. } => "",
            };
            let metadata = files::Metadata::File((**file).clone());
            (item_at(metadata, site.jail(), told)?, asked.export_format.clone().or(default))
        }
        Subject::Link(link) => (link_item(link), None),
    };
    Ok(api::DownloadHeader {
        item: Some(item),
        total_size: Some(size(header.total_size)),
        range_start: size(header.range_start),
        range_end: Some(size(header.range_end)),
        content_type: header.content_type.clone(),
        export_format: export_format.filter(|_| exported).unwrap_or_default(),
        rev: match &header.subject {
            Subject::File(file) if !exported => file.rev.clone(),
            _ => String::new(),
        },
    })
}

/// What is known of a file behind a link: neither path nor hash.
fn link_item(link: &sharing::FileLinkMetadata) -> api::Item {
    let file = api::FileItem {
        id: link.id.clone().unwrap_or_default(),
        rev: link.rev.clone(),
        size: size(link.size),
        client_modified: dropbox_timestamp(&link.client_modified),
        server_modified: dropbox_timestamp(&link.server_modified),
        is_downloadable: true,
        ..Default::default()
    };
    api::Item { name: link.name.clone(), kind: Some(api::item::Kind::File(file)), ..Default::default() }
}
