//! Holds the first message of an upload to its size before any of it is collected: a stream that has not said what it wants
//! is charged no more than that. Everything behind the first message's prefix passes unseen.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tonic::{Status, body::Body};

use crate::limits::FIRST_MESSAGE_BYTES_MAX;

/// A byte that says whether it is compressed, and four of length.
const PREFIX: usize = 5;

/// The body of an upload's request.
pub(super) struct Opening {
    inner: Body,
    prefix: [u8; PREFIX],
    seen: usize,
}

impl Opening {
    pub(super) fn guard(inner: Body) -> Body {
        Body::new(Opening { inner, prefix: [0; PREFIX], seen: 0 })
    }

    /// Takes what belongs to the prefix; whether the message that it announces is too large.
    fn too_large(&mut self, data: &[u8]) -> bool {
        let take = data.len().min(PREFIX - self.seen);
        self.prefix[self.seen..self.seen + take].copy_from_slice(&data[..take]);
        self.seen += take;
        let [_, length @ ..] = self.prefix;
        self.seen == PREFIX && u32::from_be_bytes(length) as usize > FIRST_MESSAGE_BYTES_MAX
    }
}

impl http_body::Body for Opening {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        if self.seen < PREFIX
            && let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && self.too_large(data)
        {
            // As tonic tells a message beyond its limit.
            return Poll::Ready(Some(Err(Status::out_of_range("the first message of an upload is too large"))));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;
    use http_body_util::{BodyExt as _, StreamBody};

    async fn through(length: u32, pieces: &[usize]) -> Result<usize, Status> {
        let mut message = vec![0];
        message.extend(length.to_be_bytes());
        message.resize(PREFIX + length as usize, 7);
        // Whatever follows is not looked at.
        message.extend([0xff; 64]);
        let mut rest = &message[..];
        let mut frames = Vec::new();
        for piece in pieces.iter().chain([&usize::MAX]) {
            let (now, later) = rest.split_at((*piece).min(rest.len()));
            frames.push(Ok::<_, Status>(Frame::data(Bytes::copy_from_slice(now))));
            rest = later;
        }
        let body = Opening::guard(Body::new(StreamBody::new(stream::iter(frames))));
        body.collect().await.map(|collected| collected.to_bytes().len())
    }

    #[tokio::test]
    async fn a_first_message_is_let_through_up_to_its_limit_however_it_is_cut() {
        let most = FIRST_MESSAGE_BYTES_MAX as u32;
        for pieces in [&[][..], &[1, 1, 1, 1, 1], &[3], &[5, 7]] {
            assert_eq!(through(most, pieces).await.expect("small"), PREFIX + FIRST_MESSAGE_BYTES_MAX + 64);
            let refused = through(most + 1, pieces).await.expect_err("large");
            assert_eq!(refused.code(), tonic::Code::OutOfRange);
        }
    }
}
