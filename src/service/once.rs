//! Writes that carry a `request_id`: the same id with the same bytes gets the first answer, whoever asks and whenever,
//! within 15 minutes. The work goes on when its caller leaves: a repeat then finds what came of it.

use std::time::Duration;

use prost::Message;
use sha2::{Digest as _, Sha256};
use tonic::{Code, Status, metadata::MetadataMap};

use super::{
    call::{Call, Refused},
    door::{Addressed, Door, Site},
};
use crate::{
    access::Permissions,
    fault::{Fault, Reason, Result},
    store::{RequestKey, RequestTurn},
};

/// How often a repeat looks whether the first one has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// A write under an id has this long, whenever its caller leaves (API-DESIGN a.3).
const WRITE_TIME: Duration = crate::limits::COMMIT_TIME_OWN;

/// What a look says of a write whose outcome was not known when it ended.
pub enum Look<A> {
    /// It happened.
    Done(A),
    /// Whatever it did harms nobody: it may run once more.
    Again,
    Unknown,
}

/// Runs `body` at most once per request id; without an id, just runs it. Before an unknown outcome is told again, `look` has
/// a look: it gets what the first run's fault said in `lookFor`.
///
/// # Errors
/// `REQUEST_ID_REUSED`, `OUTCOME_UNKNOWN` if the process that ran it is gone and no look helps, what `body` fails with.
pub async fn run<Q, A, F, Fut, L, LFut>(
    door: &Door,
    call: Call,
    request: Q,
    extra: Permissions,
    request_id: Option<String>,
    body: F,
    look: L,
) -> Result<A, Refused>
where
    Q: Addressed + Message + Clone + 'static,
    A: Message + Default + 'static,
    F: Fn(Site, Q) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<A>> + Send + 'static,
    L: Fn(Site, Q, Option<String>) -> LFut + Send + Sync,
    LFut: Future<Output = Look<A>> + Send,
{
    let run = {
        let (door, request) = (door.clone(), request.clone());
        // Under its caller's deadline it would end with its caller, and that would be the answer for 15 minutes.
        let call = if request_id.is_some() { call.outlasting(WRITE_TIME) } else { call.clone() };
        async move { door.enter(&call, &request, extra, |site| body(site, request.clone())).await }
    };
    let Some(request_id) = request_id else { return Ok(run.await?) };
    // Whoever may not use the parameter learns nothing of others' requests.
    let site = door.open(&call, &request, extra).await?;
    let uid = site.parameters().uid.clone();
    let digest: [u8; 32] = Sha256::digest(request.encode_to_vec()).into();
    let principal = call.principal().name().to_owned();
    let rpc = call.method().to_owned();
    loop {
        let key = RequestKey { uid: &uid, principal: &principal, rpc: &rpc, request_id: &request_id };
        match door.store.begin_request(&key, &digest).await? {
            RequestTurn::Answer(kept) => {
                let kept = Kept::read(&kept)?;
                if !kept.unknown {
                    return kept.replay();
                }
                let look_for = (!kept.look_for.is_empty()).then(|| kept.look_for.clone());
                let Look::Done(answer) = look(site.clone(), request.clone(), look_for).await else {
                    return kept.replay();
                };
                door.store.finish_request(&key, Some(&keep(&Ok(&answer), None))).await?;
                return Ok(answer);
            }
            RequestTurn::Running => door.clock.sleep(LOOK_AGAIN).await,
            RequestTurn::Reused => {
                let text = "this request_id was used for another request in the last 15 minutes";
                return Err(Fault::new(Reason::RequestIdReused, text).into());
            }
            RequestTurn::Abandoned => match look(site.clone(), request.clone(), None).await {
                Look::Again => break,
                Look::Done(answer) => {
                    door.store.finish_request(&key, Some(&keep(&Ok(&answer), None))).await?;
                    return Ok(answer);
                }
                Look::Unknown => {
                    let text = "the process that ran this request is gone; what it did is not known";
                    let fault = site.told(Fault::new(Reason::OutcomeUnknown, text));
                    let refusal = call.refusal(&fault);
                    door.store.finish_request(&key, Some(&keep(&Err::<&A, _>(&refusal), Some(&fault)))).await?;
                    return Err(fault.into());
                }
            },
            RequestTurn::New => break,
        }
    }
    // A task of its own, which a drain waits for: the caller may leave, the write may not be torn.
    let (store, told) = (door.store.clone(), call.clone());
    let task = door.tasks.spawn(async move {
        let outcome = run.await;
        let key = RequestKey { uid: &uid, principal: &principal, rpc: &rpc, request_id: &request_id };
        let (kept, outcome) = match outcome {
            Ok(answer) => (Some(keep(&Ok(&answer), None)), Ok(answer)),
            Err(fault) => {
                let refusal = told.refusal(&fault);
                // What may be sent again unchanged is not an answer to keep.
                let last = fault.retry_delay().is_none();
                (last.then(|| keep(&Err::<&A, _>(&refusal), Some(&fault))), Err(refusal))
            }
        };
        if let Err(fault) = store.finish_request(&key, kept.as_deref()).await {
            tracing::warn!(%fault, "an answer could not be kept under its request id");
        }
        outcome
    });
    match task.await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(status)) => Err(Refused::Repeated(Box::new(status))),
        Err(_) => Err(Fault::bug("a request's task ended without an answer").into()),
    }
}

/// What is kept of an answer.
#[derive(Clone, PartialEq, Message)]
struct Kept {
    #[prost(bytes = "vec", tag = "1")]
    answer: Vec<u8>,
    /// 0 for an answer.
    #[prost(int32, tag = "2")]
    code: i32,
    #[prost(string, tag = "3")]
    message: String,
    #[prost(bytes = "vec", tag = "4")]
    details: Vec<u8>,
    /// It may have happened: look before telling it again.
    #[prost(bool, tag = "5")]
    unknown: bool,
    /// What to look for.
    #[prost(string, tag = "6")]
    look_for: String,
}

/// `fault`: what the refusal was made of.
fn keep<A: Message>(outcome: &Result<&A, &Status>, fault: Option<&Fault>) -> Vec<u8> {
    let kept = match outcome {
        Ok(answer) => Kept { answer: answer.encode_to_vec(), ..Default::default() },
        Err(status) => Kept {
            code: status.code() as i32,
            message: status.message().to_owned(),
            details: status.details().to_vec(),
            unknown: fault
                .is_some_and(|fault| fault.reason() == Reason::OutcomeUnknown || fault.get("sent") == Some("true")),
            look_for: fault.and_then(|fault| fault.get("lookFor")).unwrap_or_default().to_owned(),
            ..Default::default()
        },
    };
    kept.encode_to_vec()
}

fn unreadable(error: prost::DecodeError) -> Refused {
    Refused::from(Fault::bug("a kept answer could not be read").source(error))
}

impl Kept {
    fn read(bytes: &[u8]) -> Result<Kept, Refused> {
        Kept::decode(bytes).map_err(unreadable)
    }

    fn replay<A: Message + Default>(self) -> Result<A, Refused> {
        if self.code == 0 {
            return A::decode(self.answer.as_slice()).map_err(unreadable);
        }
        let mut trailers = MetadataMap::new();
        trailers.insert("grpc-retry-pushback-ms", tonic::metadata::MetadataValue::from(-1));
        let code = Code::from_i32(self.code);
        let status = Status::with_details_and_metadata(code, self.message, self.details.into(), trailers);
        Err(Refused::Repeated(Box::new(status)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::v1 as api, service::status};

    #[test]
    fn an_answer_and_a_refusal_come_back_as_they_were() {
        let item = Some(api::Item { name: "a".into(), ..Default::default() });
        let answer = api::CopyItemResponse { item, ..Default::default() };
        let told: api::CopyItemResponse = Kept::read(&keep(&Ok(&answer), None)).unwrap().replay().unwrap();
        assert_eq!(told, answer);
        let fault = Fault::new(Reason::PathConflict, "taken").fact("path", "/a");
        let first = status::refusal(&fault, "r");
        let kept = Kept::read(&keep(&Err::<&api::CopyItemResponse, _>(&first), Some(&fault))).unwrap();
        assert!(!kept.unknown);
        let Err(Refused::Repeated(again)) = kept.replay::<api::CopyItemResponse>() else { panic!("a refusal") };
        assert_eq!((again.code(), again.message(), again.details()), (first.code(), first.message(), first.details()));
        assert_eq!(again.metadata().get("grpc-retry-pushback-ms").unwrap(), "-1");
    }
}
