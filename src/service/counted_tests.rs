//! What bytes cost on their way through this room and the cutter behind it, beside their hash (which `tests/counts/run.sh` leaves
//! out: without the instructions of real CPUs it would be nearly all).

use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use futures::{StreamExt as _, stream};
use http_body::Frame as Carried;
use http_body_util::{BodyExt as _, StreamBody};
use prost::Message as _;
use tonic::{
    Status, Streaming,
    body::Body,
    codec::{Codec as _, EncodeBody, SingleMessageCompressionOverride},
};

use super::{download, frames::Frames, lift::Lifting};
use crate::{
    api::{
        Codec,
        v1::{self as api, download_file_response::Payload, upload_file_request::Frame},
    },
    clock::SystemClock,
    counted_tests::counted,
    engine::{
        blocks::Blocks,
        content_hash::ContentHash,
        parts::{Closing, Part, PartCutter, Rules},
    },
    limits::{FRAME_BYTES_MAX, MESSAGE_BYTES_MAX},
};

const MIB: usize = 1 << 20;
/// A message of the caller, and how many there are: one part of two blocks.
const MESSAGES: usize = 8;
/// What stock clients put into one frame of HTTP/2, and what our helpers do.
const STOCK_FRAME: usize = 16 * 1024;
const LARGE_FRAME: usize = FRAME_BYTES_MAX as usize;
const CHUNK: usize = 256 * 1024;
const CHUNKS: usize = 16;

fn content(bytes: usize) -> Bytes {
    (0..bytes).map(|i| (i % 251) as u8).collect()
}

fn prefixed(frame: Frame) -> Vec<u8> {
    let message = api::UploadFileRequest { frame: Some(frame), ..Default::default() }.encode_to_vec();
    let length = u32::try_from(message.len()).expect("small").to_be_bytes();
    [&[0], &length[..], &message].concat()
}

#[test]
fn the_crc_of_1_mib_is_counted() {
    let bytes = content(MIB);
    let whole = counted(|| crc_fast::crc32_iscsi(&bytes));
    let mut bitwise = u32::MAX;
    for byte in &bytes {
        bitwise ^= u32::from(*byte);
        for _ in 0..8 {
            bitwise = (bitwise >> 1) ^ (0x82f6_3b78 & 0u32.wrapping_sub(bitwise & 1));
        }
    }
    assert_eq!(whole, !bitwise);
}

#[test]
fn the_way_of_8_messages_of_1_mib_in_stock_frames_into_an_append_is_counted() {
    into_an_append(STOCK_FRAME);
}

#[test]
fn the_way_of_8_messages_of_1_mib_in_large_frames_into_an_append_is_counted() {
    into_an_append(LARGE_FRAME);
}

fn into_an_append(frame: usize) {
    let bytes = content(MESSAGES * MIB);
    let mut sent = prefixed(Frame::Spec(api::UploadSpec { path: "/a".to_owned(), ..Default::default() }));
    for data in bytes.chunks(MIB).map(Bytes::copy_from_slice) {
        sent.extend(prefixed(Frame::Chunk(api::UploadChunk { data, ..Default::default() })));
    }
    sent.extend(prefixed(Frame::Finish(api::UploadFinish::default())));
    let sent = Bytes::from(sent);
    let frames: Vec<_> = (0..sent.len())
        .step_by(frame)
        .map(|at| Ok::<_, Status>(Carried::data(sent.slice(at..sent.len().min(at + frame)))))
        .collect();
    let blocks = Blocks::new(64 * MIB, Arc::new(SystemClock));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    // The first decoder of a process reads the descriptors.
    let _ = Codec::<api::UploadFileResponse, api::UploadFileRequest>::default().decoder();
    let work = async {
        let (body, lifted) = Lifting::before(Body::new(StreamBody::new(stream::iter(frames))));
        let decoder = Codec::<api::UploadFileResponse, api::UploadFileRequest>::default().decoder();
        let stream = Streaming::new_request(decoder, body, None, Some(MESSAGE_BYTES_MAX));
        let mut frames = Frames::<api::UploadFileRequest>::new(stream).lifted(Some(lifted));
        frames.first().await.expect("a spec");
        let mut cutter =
            PartCutter::new(frames, 0, Some(&[]), blocks, "p", Rules::default(), Arc::new(SystemClock)).expect("rules");
        let mut parts = Vec::new();
        while let Some(part) = cutter.next().await.expect("good frames") {
            parts.push(part);
        }
        (parts, cutter.close())
    };
    let (parts, closing): (Vec<Part>, Closing) = counted(|| runtime.block_on(work));
    assert!(parts.iter().flat_map(|part| &part.pieces).flatten().eq(&bytes));
    let (hash, size) = (Some(ContentHash::of(&bytes)), bytes.len() as u64);
    assert_eq!(closing, Closing::Commit { hash, size, expected: None });
}

#[test]
fn the_way_of_16_chunks_of_256_kib_into_the_frames_of_a_download_is_counted() {
    let bytes = content(CHUNKS * CHUNK);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let sent = counted(|| {
        let chunks = (0..CHUNKS).map(|n| n * CHUNK).map(|at| (at as u64, bytes.slice(at..at + CHUNK)));
        let messages = stream::iter(chunks).map(|(offset, data)| Ok(download::chunk(offset, data)));
        let encoder = Codec::<api::DownloadFileResponse, api::DownloadFileRequest>::default().encoder();
        let body = EncodeBody::new_server(encoder, messages, None, SingleMessageCompressionOverride::default(), None);
        runtime.block_on(async move {
            let (mut body, mut frames) = (std::pin::pin!(body), Vec::new());
            while let Some(Ok(frame)) = body.frame().await {
                frames.extend(frame.into_data());
            }
            frames
        })
    });
    let mut rest = Bytes::from(sent.concat());
    for (at, data) in (0..).step_by(CHUNK).zip(bytes.chunks(CHUNK)) {
        assert_eq!(rest.get_u8(), 0, "not compressed");
        let length = rest.get_u32() as usize;
        let message = api::DownloadFileResponse::decode(rest.split_to(length)).expect("a message");
        let Some(Payload::Chunk(chunk)) = message.payload else { panic!("no chunk at {at}") };
        assert!(chunk.offset == at && chunk.crc32c == crc_fast::crc32_iscsi(data) && chunk.data == data);
    }
    assert!(rest.is_empty());
}
