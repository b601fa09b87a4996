//! Holds the first message of an upload to its size before any of it is collected: a stream that has not said what it wants
//! is charged no more than that. A compressed one is collected and inflated here, so that its size is known before anybody
//! decodes it. Everything behind the first message passes unseen.

use std::{
    io::{self, Read},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use tonic::{Status, body::Body};

use crate::limits::{FIRST_MESSAGE_BYTES_MAX, ZSTD_WINDOW_LOG_MAX};

/// A byte that says whether it is compressed, and four of length.
const PREFIX: usize = 5;

/// How the messages of a stream may be compressed. Others than these are refused before a body is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Gzip,
    Zstd,
}

impl Coding {
    pub(super) fn of(headers: &HeaderMap) -> Option<Coding> {
        match headers.get("grpc-encoding")?.as_bytes() {
            b"gzip" => Some(Coding::Gzip),
            b"zstd" => Some(Coding::Zstd),
            _ => None,
        }
    }

    /// At most one byte more than a first message may have.
    fn inflate(self, compressed: &[u8]) -> io::Result<Vec<u8>> {
        let reader: Box<dyn Read + '_> = match self {
            Coding::Gzip => Box::new(flate2::read::GzDecoder::new(compressed)),
            Coding::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(compressed)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Box::new(decoder)
            }
        };
        let mut inflated = Vec::new();
        reader.take(FIRST_MESSAGE_BYTES_MAX as u64 + 1).read_to_end(&mut inflated)?;
        Ok(inflated)
    }
}

/// The body of an upload's request.
pub(super) struct Opening {
    inner: Body,
    coding: Option<Coding>,
    stage: Stage,
}

enum Stage {
    /// Nothing has come yet.
    Untouched,
    /// A message as it is: so much of its prefix was seen.
    Plain([u8; PREFIX], usize),
    /// A compressed message, with its prefix, as far as it has come.
    Compressed(BytesMut),
    /// The first message is through. What came along with a compressed one goes next.
    Through(Bytes),
}

impl Opening {
    pub(super) fn guard(inner: Body, coding: Option<Coding>) -> Body {
        Body::new(Opening { inner, coding, stage: Stage::Untouched })
    }

    /// What to hand on of `data`; `None`: more has to come first.
    fn check(&mut self, mut data: Bytes) -> Result<Option<Bytes>, Status> {
        if matches!(self.stage, Stage::Untouched) && !data.is_empty() {
            let compressed = self.coding.is_some() && data[0] == 1;
            self.stage = if compressed { Stage::Compressed(BytesMut::new()) } else { Stage::Plain([0; PREFIX], 0) };
        }
        match &mut self.stage {
            Stage::Untouched | Stage::Through(_) => Ok(Some(data)),
            Stage::Plain(prefix, seen) => {
                let take = data.len().min(PREFIX - *seen);
                prefix[*seen..*seen + take].copy_from_slice(&data[..take]);
                *seen += take;
                if *seen == PREFIX {
                    announced(prefix)?;
                    self.stage = Stage::Through(Bytes::new());
                }
                Ok(Some(data))
            }
            Stage::Compressed(collected) => {
                let missing = PREFIX.saturating_sub(collected.len()).min(data.len());
                collected.extend_from_slice(&data.split_to(missing));
                if collected.len() < PREFIX {
                    return Ok(None);
                }
                let whole = PREFIX + announced(&collected[..PREFIX])?;
                let missing = (whole - collected.len()).min(data.len());
                collected.extend_from_slice(&data.split_to(missing));
                if collected.len() < whole {
                    return Ok(None);
                }
                let coding = self.coding.ok_or_else(|| Status::internal("no grpc-encoding"))?;
                let inflated = coding
                    .inflate(&collected[PREFIX..])
                    .map_err(|error| Status::internal(format!("Error decompressing: {error}")))?;
                if inflated.len() > FIRST_MESSAGE_BYTES_MAX {
                    return Err(too_large());
                }
                let mut message = BytesMut::with_capacity(PREFIX + inflated.len());
                message.put_u8(0);
                message.put_u32(u32::try_from(inflated.len()).unwrap_or(u32::MAX));
                message.extend_from_slice(&inflated);
                self.stage = Stage::Through(data);
                Ok(Some(message.freeze()))
            }
        }
    }
}

/// The length that a prefix announces.
fn announced(prefix: &[u8]) -> Result<usize, Status> {
    let length = (&prefix[1..]).get_u32() as usize;
    if length > FIRST_MESSAGE_BYTES_MAX { Err(too_large()) } else { Ok(length) }
}

/// As tonic tells a message beyond its limit.
fn too_large() -> Status {
    Status::out_of_range("the first message of an upload is too large")
}

impl http_body::Body for Opening {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if let Stage::Through(behind) = &mut this.stage
            && !behind.is_empty()
        {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(behind)))));
        }
        loop {
            let frame = ready!(Pin::new(&mut this.inner).poll_frame(context));
            if let Stage::Through(_) = this.stage {
                return Poll::Ready(frame);
            }
            let data = match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => data,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                None => {
                    let stage = std::mem::replace(&mut this.stage, Stage::Through(Bytes::new()));
                    let Stage::Compressed(collected) = stage else { return Poll::Ready(None) };
                    // Who decodes it tells that the message broke off.
                    return Poll::Ready(Some(Ok(Frame::data(collected.freeze()))));
                }
                failed => return Poll::Ready(failed),
            };
            match this.check(data) {
                Ok(Some(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(None) => {}
                Err(status) => return Poll::Ready(Some(Err(status))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.stage {
            Stage::Compressed(_) => false,
            Stage::Through(behind) if !behind.is_empty() => false,
            _ => self.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        // What is inflated has another size than what comes in.
        if self.coding.is_some() { SizeHint::default() } else { self.inner.size_hint() }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use futures::stream;
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    const MOST: usize = FIRST_MESSAGE_BYTES_MAX;
    /// Whatever follows is not looked at.
    const BEHIND: [u8; 64] = [0xff; 64];
    const CUTS: [&[usize]; 4] = [&[], &[1, 1, 1, 1, 1], &[3], &[5, 7]];

    fn message(flag: u8, bytes: &[u8]) -> Vec<u8> {
        let mut message = vec![flag];
        message.extend(u32::try_from(bytes.len()).expect("small").to_be_bytes());
        message.extend(bytes);
        message
    }

    fn compressed(coding: Coding, bytes: &[u8]) -> Vec<u8> {
        let squeezed = match coding {
            Coding::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
                encoder.write_all(bytes).expect("in memory");
                encoder.finish().expect("in memory")
            }
            Coding::Zstd => zstd::encode_all(bytes, 3).expect("in memory"),
        };
        message(1, &squeezed)
    }

    /// What comes out of a body that comes in pieces.
    async fn through(coding: Option<Coding>, mut sent: Vec<u8>, pieces: &[usize]) -> Result<Vec<u8>, Status> {
        sent.extend(BEHIND);
        let mut rest = &sent[..];
        let mut frames = Vec::new();
        for piece in pieces.iter().chain([&usize::MAX]) {
            let (now, later) = rest.split_at((*piece).min(rest.len()));
            frames.push(Ok::<_, Status>(Frame::data(Bytes::copy_from_slice(now))));
            rest = later;
        }
        let body = Opening::guard(Body::new(StreamBody::new(stream::iter(frames))), coding);
        body.collect().await.map(|collected| collected.to_bytes().to_vec())
    }

    #[tokio::test]
    async fn a_first_message_is_let_through_up_to_its_limit_however_it_is_cut() {
        for pieces in CUTS {
            let sent = message(0, &vec![7; MOST]);
            let got = through(None, sent.clone(), pieces).await.expect("small");
            assert!(got == [&sent[..], &BEHIND[..]].concat());
            let refused = through(Some(Coding::Gzip), message(0, &vec![7; MOST + 1]), pieces).await.expect_err("large");
            assert_eq!(refused.code(), tonic::Code::OutOfRange);
        }
    }

    #[tokio::test]
    async fn a_compressed_first_message_is_as_large_as_what_is_in_it() {
        for coding in [Coding::Gzip, Coding::Zstd] {
            for pieces in CUTS {
                let inside = vec![7; MOST];
                let got = through(Some(coding), compressed(coding, &inside), pieces).await.expect("small");
                assert!(got == [message(0, &inside), BEHIND.to_vec()].concat(), "{coding:?} {pieces:?}");
                // Some hundred bytes on the way.
                let bomb = compressed(coding, &vec![7; MOST + 1]);
                assert!(bomb.len() < 1024);
                let refused = through(Some(coding), bomb, pieces).await.expect_err("large inside");
                assert_eq!(refused.code(), tonic::Code::OutOfRange);
            }
            let refused = through(Some(coding), message(1, b"neither of them"), &[]).await.expect_err("broken");
            assert_eq!(refused.code(), tonic::Code::Internal);
            assert!(refused.message().contains("decompress"));
        }
    }

    #[tokio::test]
    async fn a_compressed_first_message_that_breaks_off_is_handed_on_as_it_came() {
        let mut sent = compressed(Coding::Gzip, b"a spec");
        sent.truncate(9);
        let frames = [Ok::<_, Status>(Frame::data(Bytes::from(sent.clone())))];
        let body = Opening::guard(Body::new(StreamBody::new(stream::iter(frames))), Some(Coding::Gzip));
        assert_eq!(body.collect().await.expect("an end").to_bytes(), sent);
    }
}
