//! The request stream of an upload: its first message, then frames for the engine. Order is checked here, and what tonic
//! says of an oversize message is told as what it is.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt as _, Stream, StreamExt as _, future::BoxFuture};
use tokio::time::Sleep;
use tonic::{Status, Streaming};

use super::{active::Active, door::Addressed, lift::Lifted, unread::Unread};
use crate::{
    api::v1 as api,
    convert::transfer::{self as convert, Frame as Checked},
    credentials::Ending,
    dropbox::{Due, Rate},
    engine::{parts::Frame, upload::Leaving},
    fault::{Fault, Reason, Result},
};

/// After an early answer this much of the request is read and dropped, so that proxies pass the answer on.
const LEFTOVER_BYTES_MAX: usize = 4 * 1024 * 1024;
const LEFTOVER_TIME_MAX: Duration = Duration::from_secs(1);

const FIRST: &str = "the first message must hold spec or resume_upload_id";
const FIRST_TOO_LARGE: &str =
    "the first message must hold spec or resume_upload_id, and neither takes more than 64 KiB, decompressed";

/// A message of an upload stream; the two RPCs have messages of their own with the same fields.
pub trait Message: Addressed + Send + Unpin + 'static {
    /// The caller half-closes behind `finish`; a duplex caller may wait for the answer first.
    const HALF_CLOSES: bool;
    fn frame(&mut self) -> Option<Part>;
}

/// The frame of a message.
#[derive(Debug)]
pub enum Part {
    Spec(api::UploadSpec),
    Resume(String),
    Chunk(api::UploadChunk),
    Finish(api::UploadFinish),
}

macro_rules! message {
    ($request:ident, $module:ident, $half_closes:literal) => {
        impl Message for api::$request {
            const HALF_CLOSES: bool = $half_closes;

            fn frame(&mut self) -> Option<Part> {
                use api::$module::Frame;
                Some(match self.frame.take()? {
                    Frame::Spec(spec) => Part::Spec(spec),
                    Frame::ResumeUploadId(id) => Part::Resume(id),
                    Frame::Chunk(chunk) => Part::Chunk(chunk),
                    Frame::Finish(finish) => Part::Finish(finish),
                })
            }
        }
    };
}

message!(UploadFileRequest, upload_file_request, true);
message!(UploadFileDuplexRequest, upload_file_duplex_request, false);

/// How an upload begins.
#[derive(Debug)]
pub enum First {
    Spec(api::UploadSpec),
    Resume(String),
}

/// The frames behind the first message.
pub struct Frames<M> {
    stream: Streaming<M>,
    /// The bytes of chunks, where they went around the codec.
    lifted: Option<Lifted>,
    /// Of a message whose bytes came in several pieces: the other ones.
    pieces: VecDeque<Frame>,
    finished: bool,
    /// The stream gave its last item, or failed.
    ended: bool,
    /// The application parameter may not be used any more.
    taken_away: Option<BoxFuture<'static, Fault>>,
    /// How fast it may be read, and what was read too fast.
    rate: Option<Arc<Rate>>,
    pause: Option<Pause>,
    active: Active,
}

/// What is read next.
enum Read<M> {
    /// Of a message that was read before.
    Piece(Frame),
    Message(Option<std::result::Result<M, Status>>),
}

/// Until the next frame may be read.
struct Pause {
    due: Due,
    look: Option<Pin<Box<Sleep>>>,
}

impl Pause {
    /// For how long nothing is read now; ready again when that is over. None once what was read is paid for.
    fn poll_left(&mut self, context: &mut Context<'_>) -> Poll<Option<Duration>> {
        if let Some(look) = &mut self.look {
            ready!(look.as_mut().poll(context));
        }
        let left = self.due.left();
        self.look = (!left.is_zero()).then(|| Box::pin(tokio::time::sleep(left)));
        Poll::Ready(self.look.is_some().then_some(left))
    }
}

impl<M: Message> Frames<M> {
    pub fn new(stream: Streaming<M>) -> Self {
        Self {
            stream,
            lifted: None,
            pieces: VecDeque::new(),
            finished: false,
            ended: false,
            taken_away: None,
            rate: None,
            pause: None,
            active: Active::new("upload"),
        }
    }

    /// The bytes of its chunks are to be found there.
    #[must_use]
    pub fn lifted(self, lifted: Option<Lifted>) -> Self {
        Self { lifted, ..self }
    }

    /// From here on the stream ends when the application parameter may not be used any more; what was sent is settled.
    pub fn heed(&mut self, ending: Ending) {
        self.taken_away = Some(Box::pin(ending.ended()));
    }

    /// From here on it is read no faster than this.
    pub fn slow_down(&mut self, rate: Arc<Rate>) {
        self.rate = Some(rate);
    }

    /// What the metrics say of this upload.
    pub fn active(&self) -> &Active {
        &self.active
    }

    /// The first message and how the upload begins.
    ///
    /// # Errors
    /// `FRAME_ORDER`, `CHUNK_TOO_LARGE`.
    pub async fn first(&mut self) -> Result<(M, First)> {
        let mut message = match self.stream.next().await {
            None => {
                self.ended = true;
                return Err(order("the stream is empty: send spec or resume_upload_id first"));
            }
            Some(message) => message.map_err(|status| match self.broken(&status) {
                fault if fault.reason() == Reason::ChunkTooLarge => order(FIRST_TOO_LARGE),
                fault => fault,
            })?,
        };
        self.contents();
        match message.frame() {
            Some(Part::Spec(spec)) => Ok((message, First::Spec(spec))),
            Some(Part::Resume(id)) if !id.is_empty() => Ok((message, First::Resume(id))),
            _ => Err(order(FIRST)),
        }
    }

    /// The answer is there: what the caller still sends is read for a moment and dropped. Without the memory for that the
    /// stream is reset at once.
    pub fn leave(self, memory: Option<Leaving>) {
        let (false, Some(memory)) = (self.ended, memory) else { return };
        let (mut stream, lifted) = (self.stream, self.lifted);
        tokio::spawn(async move {
            let _memory = memory;
            let drop_rest = async {
                let mut bytes = 0;
                while let Some(Ok(mut message)) = stream.next().await {
                    if let Some(Part::Chunk(chunk)) = message.frame() {
                        bytes += chunk.data.len();
                    }
                    let contents = lifted.as_ref().and_then(Lifted::next).unwrap_or_default();
                    bytes += contents.iter().map(Bytes::len).sum::<usize>();
                    if bytes >= LEFTOVER_BYTES_MAX {
                        break;
                    }
                }
            };
            let _ = tokio::time::timeout(LEFTOVER_TIME_MAX, drop_rest).await;
        });
    }

    fn broken(&mut self, status: &Status) -> Fault {
        self.ended = true;
        match Unread::of(status) {
            Some(Unread::TooLarge) => convert::chunk_too_large(),
            Some(Unread::TooMany | Unread::Malformed) => {
                Fault::new(Reason::FrameOrder, "a message of the stream is not an upload frame")
            }
            None => Fault::new(Reason::Cancelled, "the caller's stream broke off"),
        }
    }

    /// What was taken out of the message that was decoded last.
    fn contents(&self) -> Option<Vec<Bytes>> {
        self.lifted.as_ref()?.next()
    }

    /// The first frame of a chunk whose bytes went around the codec; the others follow. Where they are not what its CRC says, it
    /// is one frame, of which that is told.
    fn joined(&mut self, frame: Frame, contents: Vec<Bytes>) -> Frame {
        let Frame::Chunk { mut offset, crc32c, .. } = frame else { return frame };
        if let Some(sent) = crc32c {
            let mut arrived = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
            contents.iter().for_each(|piece| arrived.update(piece));
            if arrived.finalize() != u64::from(sent) {
                return Frame::Chunk { offset, bytes: contents.concat().into(), crc32c };
            }
        }
        for bytes in contents {
            let next = offset.map(|offset| offset.saturating_add(bytes.len() as u64));
            self.pieces.push_back(Frame::Chunk { offset, bytes, crc32c: None });
            offset = next;
        }
        self.pieces.pop_front().unwrap_or(Frame::Chunk { offset, bytes: Bytes::new(), crc32c: None })
    }

    fn checked(message: &mut M) -> Result<Frame> {
        let checked = match message.frame() {
            Some(Part::Chunk(chunk)) => convert::chunk(chunk)?,
            Some(Part::Finish(finish)) => convert::finish(&finish)?,
            Some(Part::Spec(_) | Part::Resume(_)) => {
                return Err(order("spec and resume_upload_id come once, and first"));
            }
            None => return Err(order("a message holds no frame")),
        };
        Ok(match checked {
            Checked::Chunk { offset, data, crc32c } => Frame::Chunk { offset, bytes: data, crc32c },
            Checked::Finish { content_hash, total_size } => {
                Frame::Finish { content_hash: content_hash.and_then(|hash| hash.parse().ok()), size: total_size }
            }
        })
    }
}

impl<M: Message> Stream for Frames<M> {
    type Item = Result<Frame>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame>>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        if let Some(taken_away) = &mut this.taken_away
            && let Poll::Ready(fault) = taken_away.as_mut().poll(context)
        {
            this.ended = true;
            return Poll::Ready(Some(Err(fault)));
        }
        if let Some(pause) = &mut this.pause {
            // The caller is not silent: it waits for us.
            if let Some(left) = ready!(pause.poll_left(context)) {
                return Poll::Ready(Some(Ok(Frame::HeldBack(left))));
            }
            this.pause = None;
        }
        if this.finished && !M::HALF_CLOSES {
            // Only what has already arrived is looked at: the caller may be waiting for its answer.
            let more = this.stream.next().now_or_never();
            this.ended = matches!(more, Some(None));
            return match more {
                Some(Some(Ok(_))) => {
                    this.ended = true;
                    Poll::Ready(Some(Err(order("nothing comes after finish"))))
                }
                _ => Poll::Ready(None),
            };
        }
        let next = match this.pieces.pop_front() {
            Some(piece) => Read::Piece(piece),
            None => Read::Message(ready!(this.stream.poll_next_unpin(context))),
        };
        let item = match next {
            Read::Piece(piece) => Ok(piece),
            Read::Message(None) => {
                this.ended = true;
                return Poll::Ready(None);
            }
            Read::Message(Some(Ok(_))) if this.finished => Err(order("nothing comes after finish")),
            Read::Message(Some(Ok(mut message))) => {
                let contents = this.contents();
                let frame = Self::checked(&mut message);
                match contents {
                    Some(contents) => frame.map(|frame| this.joined(frame, contents)),
                    None => frame,
                }
            }
            Read::Message(Some(Err(status))) => Err(this.broken(&status)),
        };
        match &item {
            Ok(Frame::Finish { .. }) => this.finished = true,
            Ok(Frame::Chunk { bytes, .. }) => {
                this.active.moved(bytes.len());
                let due = this.rate.as_ref().and_then(|rate| rate.moved(bytes.len()));
                this.pause = due.map(|due| Pause { due, look: None });
            }
            Ok(Frame::HeldBack(_)) | Err(_) => {}
        }
        Poll::Ready(Some(item))
    }
}

fn order(text: &str) -> Fault {
    Fault::new(Reason::FrameOrder, text)
}
