//! `UploadFileDuplex`: the upload runs in a task of its own, so that a caller who reads nothing until the end does not
//! stop it. Of progress only the latest is kept.

use std::time::Duration;

use futures::StreamExt as _;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tracing::Instrument as _;

use super::{
    call::Call,
    frames::Frames,
    items::Answers,
    transfer::{Begun, Transfer},
};
use crate::{
    api::v1::{self as api, upload_file_duplex_response::Payload},
    convert::size,
    engine::upload::Progress,
    fault::Result,
};

/// Progress is told at most so often, unless this much has come in since.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);
const PROGRESS_BYTES: u64 = 8 * 1024 * 1024;

type Answer = Result<api::UploadFileDuplexResponse, Status>;

impl Transfer {
    /// The answers begin at once; what the first message does wrong is told by the stream's end.
    pub fn upload_file_duplex(
        &self,
        call: Call,
        stream: Streaming<api::UploadFileDuplexRequest>,
    ) -> Answers<api::UploadFileDuplexResponse> {
        // Two places: one for progress, one for the result.
        let (answers, receiver) = mpsc::channel(2);
        let (transfer, tasks) = (self.clone(), self.door.tasks.clone());
        let task = async move {
            let gone = answers.clone();
            tokio::select! {
                () = gone.closed() => {}
                () = transfer.drive(call, stream, answers) => {}
            }
        };
        // A drain waits for it, as it does for every call.
        tasks.spawn(task.in_current_span());
        ReceiverStream::new(receiver).boxed()
    }

    async fn drive(&self, call: Call, stream: Streaming<api::UploadFileDuplexRequest>, answers: mpsc::Sender<Answer>) {
        let arrival = match self.uploads.arrive(call.inflates()) {
            Ok(arrival) => arrival,
            Err(fault) => {
                let _ = answers.send(Err(call.refusal(&fault))).await;
                return;
            }
        };
        let mut frames = Frames::new(stream).lifted(call.lifted());
        let (progress, watched) = watch::channel(Progress::default());
        let outcome = match self.begin(&call, &mut frames, arrival).await {
            Err(fault) => Err(fault),
            Ok(Begun::Skipped(answer)) => {
                let _ = answers.send(Ok(accepted(&Progress::default()))).await;
                Ok(*answer)
            }
            Ok(Begun::Ready(ready)) => {
                let telling = tell(watched, answers.clone());
                let run = self.run(*ready, &mut frames, progress);
                tokio::pin!(run, telling);
                tokio::select! {
                    outcome = &mut run => {
                        if outcome.is_ok() {
                            // However fast it went, `accepted` comes before the result.
                            telling.await;
                        }
                        outcome
                    }
                    // It ends before the upload only if nobody listens any more.
                    () = &mut telling => run.await,
                }
            }
        };
        let last = match outcome {
            Ok(result) => Ok(payload(Payload::Result(result))),
            Err(fault) => Err(call.refusal(&fault)),
        };
        let _ = answers.send(last).await;
        frames.leave(self.uploads.leave(call.inflates()));
    }
}

/// Tells `accepted`, then progress as it comes, never more often than it should and never the same twice. Ends when the upload
/// does.
async fn tell(mut watched: watch::Receiver<Progress>, answers: mpsc::Sender<Answer>) {
    let Ok(first) = watched.wait_for(|progress| progress.accepted).await.map(|progress| progress.clone()) else {
        return;
    };
    if answers.send(Ok(accepted(&first))).await.is_err() {
        return;
    }
    let (mut at, mut told) = (Instant::now(), first);
    loop {
        if watched.changed().await.is_err() {
            return;
        }
        let enough = watched.wait_for(|progress| progress.received >= told.received + PROGRESS_BYTES);
        if let Ok(Err(_)) = timeout_at(at + PROGRESS_EVERY, enough).await {
            return;
        }
        let now = watched.borrow_and_update().clone();
        if now == told {
            continue;
        }
        (at, told) = (Instant::now(), now.clone());
        let progress = api::UploadProgress {
            received_offset: size(now.received),
            persisted_offset: size(now.persisted),
            upload_id: now.upload_id.unwrap_or_default(),
        };
        if answers.send(Ok(payload(Payload::Progress(progress)))).await.is_err() {
            return;
        }
    }
}

fn accepted(progress: &Progress) -> api::UploadFileDuplexResponse {
    payload(Payload::Accepted(api::UploadAccepted {
        upload_id: progress.upload_id.clone().unwrap_or_default(),
        persisted_offset: size(progress.persisted),
    }))
}

fn payload(payload: Payload) -> api::UploadFileDuplexResponse {
    api::UploadFileDuplexResponse { payload: Some(payload) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn accepted_comes_first_and_progress_is_the_latest() {
        let (progress, watched) = watch::channel(Progress::default());
        let (answers, mut told) = mpsc::channel(2);
        let telling = tokio::spawn(tell(watched, answers));
        progress.send_modify(|progress| (progress.accepted, progress.persisted) = (true, 4));
        let Some(Ok(first)) = told.recv().await else { panic!("an answer") };
        assert_eq!(first.payload, accepted(&progress.borrow()).payload);
        for received in 1..=3 {
            progress.send_modify(|progress| progress.received = received * PROGRESS_BYTES);
        }
        let Some(Ok(second)) = told.recv().await else { panic!("an answer") };
        let Some(Payload::Progress(latest)) = second.payload else { panic!("progress") };
        assert_eq!(latest.received_offset, size(3 * PROGRESS_BYTES));
        // A change that changes nothing is no news.
        progress.send_modify(|_| {});
        tokio::time::timeout(2 * PROGRESS_EVERY, told.recv()).await.expect_err("nothing new");
        drop(progress);
        telling.await.unwrap();
    }
}
