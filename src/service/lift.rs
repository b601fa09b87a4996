//! Takes the bytes of upload chunks around the codec, which would copy all of them once more: what the generated code decodes
//! are the same messages with empty `data`, and the bytes themselves wait beside it as they came from the connection. Small
//! pieces are joined, as the codec would. A message that is not a chunk of some size in its plainest form, field by field in
//! order, goes through untouched, and with it whatever is wrong with it.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http_body::Frame;
use prost::encoding::decode_varint;
use tonic::{Status, body::Body};

use crate::limits::{CHUNK_BYTES_MAX, LIFT_BYTES_MIN, LIFT_JOIN_BELOW, LIFT_JOIN_BYTES};

/// A byte that says whether it is compressed, and four of length.
const PREFIX: usize = 5;
/// Tag and length of `chunk`, tag and value of `write_offset`, tag and length of `data`: no longer than this where `data` is
/// within its limit.
const HEAD_MAX: usize = 1 + 5 + 1 + 10 + 1 + 5;
/// Tag and value of `crc32c`.
const CRC: usize = 5;
const CHUNK: u8 = (5 << 3) | 2;
const WRITE_OFFSET: u8 = 1 << 3;
const DATA: u8 = (2 << 3) | 2;
const CRC32C: u8 = (3 << 3) | 5;

/// What was taken out of the messages, one entry for each, in order. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Lifted(Arc<Mutex<VecDeque<Option<Vec<Bytes>>>>>);

impl Lifted {
    /// Of the message that was decoded next; `None` where it holds everything itself.
    pub fn next(&self) -> Option<Vec<Bytes>> {
        self.entries().pop_front().flatten()
    }

    fn entries(&self) -> MutexGuard<'_, VecDeque<Option<Vec<Bytes>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The body of an upload's request.
pub(super) struct Lifting {
    inner: Body,
    lifted: Lifted,
    /// Came, and is not looked at yet.
    rest: Bytes,
    stage: Stage,
}

enum Stage {
    /// The beginning of a message, as far as it has come.
    Head(BytesMut),
    /// So much of a message goes on as it is.
    Through(usize),
    Chunk(Box<Chunk>),
    Ended,
}

/// A message whose `data` is being taken out.
struct Chunk {
    /// As it came, with its prefix, up to `data`.
    head: Bytes,
    /// Where `write_offset` lies in it.
    fields: std::ops::Range<usize>,
    data_left: usize,
    pieces: Vec<Bytes>,
    joined: BytesMut,
    /// What is behind `data`, and how long that is.
    tail: BytesMut,
    tail_bytes: usize,
}

/// Where things lie in a message, without its prefix.
struct Shape {
    fields: std::ops::Range<usize>,
    data: std::ops::Range<usize>,
}

impl Lifting {
    /// The body to decode, and what was taken out of it.
    pub(super) fn before(inner: Body) -> (Body, Lifted) {
        let lifted = Lifted::default();
        let stage = Stage::Head(BytesMut::new());
        let body = Lifting { inner, lifted: lifted.clone(), rest: Bytes::new(), stage };
        (Body::new(body), lifted)
    }

    /// Uses up some of `rest`, which is not empty; what is to be decoded of it.
    fn step(&mut self) -> Option<Bytes> {
        match &mut self.stage {
            Stage::Head(head) => {
                let whole = self.rest.clone();
                let was_empty = head.is_empty();
                let mut wanted = PREFIX;
                if collect(head, &mut self.rest, wanted) {
                    wanted += length(head).min(HEAD_MAX);
                }
                if !collect(head, &mut self.rest, wanted) {
                    return None;
                }
                let mut head = std::mem::take(head).freeze();
                let message = length(&head);
                let Some(shape) = shape(&head[PREFIX..], message).filter(|_| head[0] == 0) else {
                    self.lifted.entries().push_back(None);
                    self.stage = Stage::Through(message + PREFIX - head.len());
                    self.turn();
                    return Some(head);
                };
                let mut chunk = Chunk {
                    fields: shape.fields.start + PREFIX..shape.fields.end + PREFIX,
                    data_left: shape.data.len(),
                    pieces: Vec::new(),
                    joined: BytesMut::new(),
                    tail: BytesMut::new(),
                    tail_bytes: message - shape.data.end,
                    head: head.split_to(PREFIX + shape.data.start),
                };
                if was_empty {
                    // All of it lies in what came last: nothing of `data` is to be copied.
                    self.rest = whole.slice(chunk.head.len()..);
                } else {
                    chunk.take(&mut head);
                }
                self.stage = Stage::Chunk(Box::new(chunk));
                None
            }
            Stage::Through(left) => {
                let through = self.rest.split_to(self.rest.len().min(*left));
                *left -= through.len();
                self.turn();
                Some(through)
            }
            Stage::Chunk(chunk) => {
                chunk.take(&mut self.rest);
                if chunk.data_left > 0 || !collect(&mut chunk.tail, &mut self.rest, chunk.tail_bytes) {
                    return None;
                }
                let (message, pieces) = chunk.end();
                self.lifted.entries().push_back(pieces);
                self.stage = Stage::Head(BytesMut::new());
                Some(message)
            }
            Stage::Ended => {
                self.rest = Bytes::new();
                None
            }
        }
    }

    /// Goes on to the next message where one is through.
    fn turn(&mut self) {
        if matches!(self.stage, Stage::Through(0)) {
            self.stage = Stage::Head(BytesMut::new());
        }
    }

    /// The body has ended: what there is of a message that broke off, so that whoever decodes it finds it broken.
    fn broken_off(&mut self) -> Option<Bytes> {
        match std::mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Head(head) if !head.is_empty() => Some(head.freeze()),
            Stage::Chunk(chunk) => Some(chunk.head),
            _ => None,
        }
    }
}

impl Chunk {
    fn take(&mut self, from: &mut Bytes) {
        let piece = from.split_to(from.len().min(self.data_left));
        // Room for what is joined here, this piece included: it does not grow, which would copy it once more.
        let room = self.data_left.min(LIFT_JOIN_BYTES + LIFT_JOIN_BELOW);
        self.data_left -= piece.len();
        if piece.len() >= LIFT_JOIN_BELOW {
            self.cut();
            self.pieces.push(piece);
        } else {
            if self.joined.is_empty() {
                self.joined.reserve(room);
            }
            self.joined.extend_from_slice(&piece);
        }
        if self.joined.len() >= LIFT_JOIN_BYTES || self.data_left == 0 {
            self.cut();
        }
    }

    fn cut(&mut self) {
        if !self.joined.is_empty() {
            self.pieces.push(self.joined.split().freeze());
        }
    }

    /// The message to decode, and what was taken out of it; nothing if it turns out not to be what it looked like.
    fn end(&mut self) -> (Bytes, Option<Vec<Bytes>>) {
        let (pieces, tail) = (std::mem::take(&mut self.pieces), &self.tail[..]);
        let mut message = BytesMut::new();
        if !tail.is_empty() && tail[0] != CRC32C {
            message.extend_from_slice(&self.head);
            pieces.iter().for_each(|piece| message.extend_from_slice(piece));
            message.extend_from_slice(tail);
            return (message.freeze(), None);
        }
        let chunk = self.fields.len() + tail.len();
        message.put_u8(0);
        message.put_u32((2 + chunk) as u32);
        message.put_u8(CHUNK);
        // Far less than 128.
        message.put_u8(chunk as u8);
        message.extend_from_slice(&self.head[self.fields.clone()]);
        message.extend_from_slice(tail);
        (message.freeze(), Some(pieces))
    }
}

/// Moves bytes until there are so many; true once there are.
fn collect(into: &mut BytesMut, from: &mut Bytes, wanted: usize) -> bool {
    let missing = wanted.saturating_sub(into.len()).min(from.len());
    into.extend_from_slice(&from.split_to(missing));
    into.len() >= wanted
}

/// What the prefix announces.
fn length(head: &[u8]) -> usize {
    (&head[1..PREFIX]).get_u32() as usize
}

/// Where the bytes lie in a message of this length that begins so, if it is a chunk worth it.
fn shape(start: &[u8], length: usize) -> Option<Shape> {
    let mut rest = start;
    let tag = |rest: &mut &[u8], tag: u8| (rest.first() == Some(&tag)).then(|| rest.advance(1));
    let varint = |rest: &mut &[u8]| usize::try_from(decode_varint(rest).ok()?).ok();
    tag(&mut rest, CHUNK)?;
    let chunk = varint(&mut rest)?;
    let fields = start.len() - rest.len();
    if fields.checked_add(chunk) != Some(length) {
        return None;
    }
    if tag(&mut rest, WRITE_OFFSET).is_some() {
        decode_varint(&mut rest).ok()?;
    }
    let before_data = start.len() - rest.len();
    tag(&mut rest, DATA)?;
    let data = varint(&mut rest)?;
    let at = start.len() - rest.len();
    let end = at.checked_add(data)?;
    let fits = (LIFT_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&data) && (end == length || end + CRC == length);
    fits.then_some(Shape { fields: fields..before_data, data: at..end })
}

impl http_body::Body for Lifting {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        loop {
            while !this.rest.is_empty() {
                if let Some(data) = this.step() {
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
            }
            if matches!(this.stage, Stage::Ended) {
                return Poll::Ready(None);
            }
            match ready!(Pin::new(&mut this.inner).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(this.broken_off().map_or(trailers, Frame::data)))),
                },
                None => return Poll::Ready(this.broken_off().map(|data| Ok(Frame::data(data)))),
                failed => return Poll::Ready(failed),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.stage {
            Stage::Head(head) => head.is_empty() && self.rest.is_empty() && self.inner.is_end_stream(),
            Stage::Ended => true,
            Stage::Through(_) | Stage::Chunk(_) => false,
        }
    }
}

#[cfg(test)]
#[path = "lift_tests.rs"]
mod tests;
