//! What a download does between header and trailer: read, hash, hand on. One step at a time under a lock and never across
//! an await, so that whatever it holds can be let go while nobody comes for its bytes.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;

use super::{place::Place, reader::Reader};
use crate::{
    engine::{content_hash::ContentHash, stream_hash::StreamHasher},
    fault::Result,
    limits,
};

/// One download's bytes on their way.
#[derive(Debug)]
pub(super) struct Flow {
    reader: Reader,
    place: Place,
    /// Of a whole file.
    hasher: Option<StreamHasher>,
    /// Read and not handed on, since only `hashed` bytes of it are hashed.
    chunk: Bytes,
    hashed: usize,
    /// So often nothing comes behind the first chunk: the codec lets go of what it has when nothing more comes at once, and so
    /// does the connection behind it.
    pauses: u8,
}

impl Flow {
    pub(super) fn new(reader: Reader, hasher: Option<StreamHasher>, place: Place) -> Flow {
        Flow { reader, place, hasher, chunk: Bytes::new(), hashed: 0, pauses: 2 }
    }

    /// The next chunk, hashed; `None` when all were given. Gives the thread up after every 256 KiB of a lane.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        if self.pauses > 0 && self.reader.given() > 0 && self.chunk.is_empty() && !self.reader.is_at_end() {
            self.pauses -= 1;
            return come_again(context);
        }
        if self.chunk.is_empty() {
            // Whoever has been given everything needs no place for its proof.
            if !self.reader.is_at_end() {
                self.place.take_up()?;
            }
            match ready!(self.reader.poll_chunk(context))? {
                Some(chunk) => self.chunk = chunk,
                None if self.hasher.as_mut().is_none_or(StreamHasher::fold) => return Poll::Ready(Ok(None)),
                None => return come_again(context),
            }
        }
        if let Some(hasher) = &mut self.hasher {
            self.hashed += hasher.take(&self.chunk[self.hashed..], self.reader.touched());
            if self.hashed < self.chunk.len() {
                return come_again(context);
            }
        }
        self.hashed = 0;
        Poll::Ready(Ok(Some(std::mem::take(&mut self.chunk))))
    }

    /// Its caller may not come again before this span is over, by no choice of its own.
    pub(super) fn hold_back(&mut self, span: Duration) {
        self.reader.hold_back(span);
    }

    /// The hash of all that was given, once; `None` where not the whole file was read.
    pub(super) fn finish(&mut self) -> Option<ContentHash> {
        self.hasher.take().map(StreamHasher::finish)
    }

    /// Gives back what it holds at Dropbox, of the budget and of the process if its caller has not come for bytes for so long; of
    /// the budget what makes a download faster also if it comes for few. Some of that takes work: `false` asks to be called again.
    pub(super) fn let_go(&mut self, now: Duration, idle: Duration) -> bool {
        let is_late = self.reader.let_go_ahead(now);
        if self.reader.let_go(now, idle) {
            self.place.lay_down(limits::SEND_AHEAD_BYTES + self.reader.given());
        } else if !is_late {
            return true;
        }
        self.hasher.as_mut().is_none_or(StreamHasher::fold)
    }
}

fn come_again<T>(context: &mut Context<'_>) -> Poll<T> {
    context.waker().wake_by_ref();
    Poll::Pending
}

pub(super) fn lock(flow: &Mutex<Flow>) -> MutexGuard<'_, Flow> {
    flow.lock().unwrap_or_else(PoisonError::into_inner)
}
