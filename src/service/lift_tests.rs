//! The codec that copies is the oracle: whatever is sent, cut anywhere, gives the same frames.

use std::fmt::Write as _;

use futures::stream;
use http_body_util::{BodyExt as _, StreamBody};
use proptest::prelude::*;
use prost::{Message as _, encoding::encode_varint};
use tonic::{Streaming, codec::Codec as _};

use super::*;
use crate::{
    api::v1::{self as api, upload_file_request::Frame as Sent},
    engine::parts::Frame as Read,
    limits::MESSAGE_BYTES_MAX,
    service::frames::Frames,
};

fn message(frame: Sent) -> api::UploadFileRequest {
    api::UploadFileRequest { frame: Some(frame), ..Default::default() }
}

fn prefixed(message: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(message.len()).expect("small").to_be_bytes());
    bytes.extend(message);
    bytes
}

fn chunk(offset: Option<i64>, data: Vec<u8>, crc32c: Option<u32>) -> Vec<u8> {
    let chunk = api::UploadChunk { write_offset: offset, data: data.into(), crc32c };
    prefixed(&message(Sent::Chunk(chunk)).encode_to_vec())
}

/// A body of these bytes in frames of these sizes, over and over.
fn body(bytes: &[u8], cuts: &[usize]) -> Body {
    let bytes = Bytes::copy_from_slice(bytes);
    let (mut at, mut frames) = (0, Vec::new());
    for cut in cuts.iter().cycle() {
        if at == bytes.len() {
            break;
        }
        let end = (at + cut).min(bytes.len());
        frames.push(Ok::<_, Status>(Frame::data(bytes.slice(at..end))));
        at = end;
    }
    Body::new(StreamBody::new(stream::iter(frames)))
}

/// Bytes that lie end to end, by the offset that the first of them names.
type Runs = Vec<(Option<u64>, Vec<u8>)>;

/// What the engine is given, and everything else in words.
async fn read(body: Body, lifted: Option<Lifted>) -> (Runs, String) {
    let decoder = tonic_prost::ProstCodec::<api::UploadFileResponse, api::UploadFileRequest>::default().decoder();
    let stream = Streaming::new_request(decoder, body, None, Some(MESSAGE_BYTES_MAX));
    let mut frames = Frames::<api::UploadFileRequest>::new(stream).lifted(lifted);
    let (mut runs, mut words) = (Runs::new(), String::new());
    if let Err(fault) = frames.first().await {
        write!(words, "first {fault}").expect("a string");
        return (runs, words);
    }
    while let Some(frame) = futures::StreamExt::next(&mut frames).await {
        match frame {
            Ok(Read::Chunk { offset, bytes, crc32c }) => {
                if let Some(crc32c) = crc32c
                    && crc_fast::crc32_iscsi(&bytes) != crc32c
                {
                    write!(words, "damaged {} {offset:?};", bytes.len()).expect("a string");
                    break;
                }
                let goes_on = match (runs.last(), offset) {
                    (Some((Some(start), run)), Some(offset)) => start + run.len() as u64 == offset,
                    (Some((None, _)), None) => true,
                    _ => false,
                };
                match runs.last_mut().filter(|_| goes_on) {
                    Some((_, run)) => run.extend_from_slice(&bytes),
                    None => runs.push((offset, bytes.to_vec())),
                }
            }
            Ok(other) => write!(words, "{other:?};").expect("a string"),
            Err(fault) => {
                write!(words, "{fault} {:?};", fault.facts()).expect("a string");
                break;
            }
        }
    }
    (runs, words)
}

async fn same(sent: &[u8], cuts: &[usize]) {
    let plain = read(body(sent, cuts), None).await;
    let (lifting, lifted) = Lifting::before(body(sent, cuts));
    let got = read(lifting, Some(lifted.clone())).await;
    assert!(got.0 == plain.0, "other bytes, {} runs for {}", got.0.len(), plain.0.len());
    assert_eq!(got.1, plain.1);
}

fn spec() -> Vec<u8> {
    prefixed(&message(Sent::Spec(api::UploadSpec { path: "/a".into(), ..Default::default() })).encode_to_vec())
}

fn any_message() -> impl Strategy<Value = Vec<u8>> {
    let len = prop_oneof![0usize..100, 30_000usize..40_000, 60_000usize..200_000, Just(1 << 20)];
    let data = (len, any::<u8>()).prop_map(|(len, seed)| (0..len).map(|i| (i % 251) as u8 ^ seed).collect::<Vec<u8>>());
    let offset = prop::option::of(prop_oneof![0i64..10, Just(1 << 40), Just(-1)]);
    prop_oneof![
        6 => (offset, data, 0u8..4).prop_map(|(offset, data, crc)| {
            let sum = crc_fast::crc32_iscsi(&data);
            let crc = match crc {
                0 => Some(sum),
                // Damaged on the way.
                1 if data.len() % 7 == 0 => Some(sum ^ 1),
                _ => None,
            };
            chunk(offset, data, crc)
        }),
        1 => Just(prefixed(&[])),
        // Fields in another order, a field that nobody knows behind the data, data twice.
        1 => (0u8..3).prop_map(|odd| {
            let data = vec![7u8; 50_000];
            let mut inside = Vec::new();
            let put = |inside: &mut Vec<u8>, tag: u8, bytes: &[u8]| {
                inside.push(tag);
                encode_varint(bytes.len() as u64, inside);
                inside.extend_from_slice(bytes);
            };
            match odd {
                0 => inside.extend([CRC32C, 1, 2, 3, 4]),
                1 => inside.extend([WRITE_OFFSET, 5, WRITE_OFFSET, 6]),
                _ => {}
            }
            put(&mut inside, DATA, &data);
            if odd == 2 {
                put(&mut inside, DATA, &[1, 2, 3]);
            }
            let mut whole = Vec::new();
            put(&mut whole, CHUNK, &inside);
            prefixed(&whole)
        }),
        // Of five bytes behind the data that are no CRC.
        1 => Just({
            let data = vec![9u8; 50_000];
            let mut inside = vec![DATA];
            encode_varint(data.len() as u64, &mut inside);
            inside.extend(&data);
            inside.extend([DATA, 3, 1, 2, 3]);
            let mut whole = vec![CHUNK];
            encode_varint(inside.len() as u64, &mut whole);
            whole.extend(inside);
            prefixed(&whole)
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_is_sent_and_however_it_is_cut_gives_what_the_codec_gives(
        messages in prop::collection::vec(any_message(), 0..6),
        cuts in prop::collection::vec(prop_oneof![1usize..40, 16_000usize..17_000, 1usize..300_000], 1..5),
        finish: bool,
        lost in prop::option::of(0usize..100_000),
    ) {
        let mut sent = spec();
        messages.iter().for_each(|message| sent.extend(message));
        if finish {
            sent.extend(prefixed(&message(Sent::Finish(api::UploadFinish::default())).encode_to_vec()));
        }
        // It breaks off in the midst of a message, or anywhere.
        let end = lost.map_or(sent.len(), |lost| sent.len().saturating_sub(lost).max(1));
        // Thousands of tiny frames take long and show nothing new.
        let cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.max(end / 2000)).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(same(&sent[..end], &cuts));
    }
}

#[tokio::test]
async fn a_chunk_at_its_limit_is_lifted_and_one_beyond_is_the_codecs_to_refuse() {
    for len in [CHUNK_BYTES_MAX, CHUNK_BYTES_MAX + 1, MESSAGE_BYTES_MAX] {
        let sent = [spec(), chunk(Some(0), vec![1; len], None)].concat();
        same(&sent, &[262_144]).await;
    }
}

#[tokio::test]
async fn large_pieces_are_not_copied_and_small_ones_are_joined() {
    let data: Vec<u8> = (0..1 << 20).map(|i: u32| (i % 249) as u8).collect();
    for (cut, pieces_max) in [(262_144, 5), (16_384, 17)] {
        let sent = Bytes::from(chunk(None, data.clone(), Some(3)));
        let frames: Vec<_> = (0..sent.len())
            .step_by(cut)
            .map(|at| Ok::<_, Status>(Frame::data(sent.slice(at..sent.len().min(at + cut)))))
            .collect();
        let (lifting, lifted) = Lifting::before(Body::new(StreamBody::new(stream::iter(frames))));
        let decoded = lifting.collect().await.expect("an end").to_bytes();
        let chunk = api::UploadFileRequest::decode(&decoded[PREFIX..]).expect("a message").frame;
        let crc32c = Some(3);
        assert_eq!(chunk, Some(Sent::Chunk(api::UploadChunk { write_offset: None, data: Bytes::new(), crc32c })));
        let pieces = lifted.next().expect("taken out");
        assert!(pieces.concat() == data);
        assert!(pieces.len() <= pieces_max, "{}", pieces.len());
        let own = sent.as_ptr_range();
        let copied: usize = pieces.iter().filter(|piece| !own.contains(&piece.as_ptr())).map(Bytes::len).sum();
        assert!(if cut > LIFT_JOIN_BELOW { copied < LIFT_JOIN_BELOW } else { copied == data.len() }, "{copied}");
        assert!(lifted.next().is_none());
    }
}
