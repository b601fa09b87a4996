//! A watch on its way out, below the codec. The codec keeps a buffer for every stream, as large as the most it ever sent at
//! once: half of what a quiet watch cost. Here what is ready becomes one piece, which is gone when it was sent. Only the pages
//! of a snapshot are worth compressing: callers that begin with one and take compressed messages get theirs from the codec.
//! An event has 1 KiB, and to compress one takes 350 KiB of memory for a moment, which most callers would ask of us: all but
//! Go's and Rust's libraries say by themselves that they take it.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use http::HeaderMap;
use http_body::Frame;
use tonic::{Request, Response, Status};

use super::{
    call::{Call, answer},
    events::Watch,
    items::Answers,
};
use crate::{
    api::{
        Encoded,
        v1::{self as api, StartPosition, watch_events_request::Start},
    },
    fault::Fault,
};

/// Before each message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// Frames of gRPC, without compression.
pub(super) struct Pieces {
    /// None: the status was told.
    stream: Option<BoxStream<'static, Result<Bytes, Status>>>,
}

/// The way of a body past the codec, which answers with an empty one.
#[derive(Clone)]
struct Beside(Arc<Mutex<Option<Pieces>>>);

/// Runs the body of a watch, as [`answer`] does for others.
///
/// # Errors
/// The body's fault as a status.
pub(super) async fn answered<F, Fut>(
    request: Request<api::WatchEventsRequest>,
    body: F,
) -> Result<Response<Answers<Encoded>>, Status>
where
    F: FnOnce(Call, api::WatchEventsRequest) -> Fut,
    Fut: Future<Output = Result<Box<Watch>, Fault>>,
{
    let zips = |value: &str| value.split(',').any(|one| one.trim() == "gzip");
    let offered = request.metadata().get("grpc-accept-encoding").and_then(|value| value.to_str().ok());
    let begins_with_snapshot = request.get_ref().start == Some(Start::StartPosition(StartPosition::Snapshot.into()));
    let zipped = begins_with_snapshot && offered.is_some_and(zips);
    let watch = answer(request, body).await?.into_inner();
    if zipped {
        return Ok(Response::new(watch.answers()));
    }
    let mut response = Response::new(stream::empty().boxed());
    let pieces = Pieces { stream: Some(watch.pieces()) };
    response.extensions_mut().insert(Beside(Arc::new(Mutex::new(Some(pieces)))));
    Ok(response)
}

/// The body that goes out instead of the codec's.
pub(super) fn beside<B>(response: &mut http::Response<B>) -> Option<Pieces> {
    let Beside(pieces) = response.extensions_mut().remove()?;
    // The codec would have compressed.
    response.headers_mut().remove("grpc-encoding");
    pieces.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Messages as one piece.
pub(super) fn joined(messages: &[Encoded]) -> Bytes {
    let bytes = messages.iter().map(|message| PREFIX_BYTES + message.bytes().len()).sum();
    let mut piece = BytesMut::with_capacity(bytes);
    for message in messages {
        piece.put_u8(0);
        // Messages are bounded far below (`limits.rs`).
        piece.put_u32(u32::try_from(message.bytes().len()).unwrap_or(u32::MAX));
        piece.put_slice(message.bytes());
    }
    piece.freeze()
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(None) };
        let status = match ready!(stream.as_mut().poll_next(context)) {
            Some(Ok(piece)) => return Poll::Ready(Some(Ok(Frame::data(piece)))),
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        self.stream = None;
        let mut trailers = HeaderMap::new();
        status.add_header(&mut trailers)?;
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_none()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn messages_go_out_as_frames_of_grpc_and_the_end_as_trailers() {
        let messages = ["", "ab"].map(|text| Encoded::ready(Bytes::from_static(text.as_bytes())));
        assert_eq!(joined(&messages).as_ref(), b"\0\0\0\0\0\0\0\0\0\x02ab");
        let told = vec![Ok(joined(&messages)), Err(Status::unavailable("going down"))];
        for (told, status) in [(told, "14"), (Vec::new(), "0")] {
            let count = told.len();
            let mut body = Pieces { stream: Some(stream::iter(told).boxed()) };
            if count > 0 {
                let data = body.frame().await.expect("a frame").expect("no error").into_data().expect("data");
                assert_eq!(data.len(), 12);
            }
            let trailers = body.frame().await.expect("a frame").expect("no error").into_trailers().expect("trailers");
            assert_eq!(trailers["grpc-status"], status);
            assert!(http_body::Body::is_end_stream(&body) && body.frame().await.is_none());
        }
    }
}
