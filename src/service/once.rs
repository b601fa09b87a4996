//! Writes that carry a `request_id`: the same id with the same bytes gets the first answer, whoever asks and whenever,
//! within 15 minutes. The work goes on when its caller leaves: a repeat then finds what came of it.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt as _;
use prost::Message;
use sha2::{Digest as _, Sha256};
use tonic::{Code, Status, metadata::MetadataMap};
use tracing::Instrument as _;

use super::{
    call::{Call, Refused},
    door::{Addressed, Door, Site},
};
use crate::{
    access::Permissions,
    fault::{Fault, Reason, Result},
    limits,
    store::{RequestKey, RequestTurn},
};

/// How often a repeat looks whether the first one has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// A write under an id has this long, whenever its caller leaves (API-DESIGN a.3).
const WRITE_TIME: Duration = limits::COMMIT_TIME_OWN;

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
    L: Fn(Site, Q, Option<String>) -> LFut + Send + Sync + 'static,
    LFut: Future<Output = Look<A>> + Send + 'static,
{
    let Some(request_id) = request_id else {
        // On the heap: it is the size of a whole call, and every write passes through here.
        return Ok(Box::pin(door.enter(&call, &request, extra, |site| body(site, request.clone()))).await?);
    };
    // Whoever may not use the parameter learns nothing of others' requests.
    let site = door.open(&call, &request, extra).await?;
    let digest = Sha256::digest(request.encode_to_vec()).into();
    let write = Arc::new(Write { door: door.clone(), call, site, request, extra, request_id, digest, body, look });
    loop {
        // A task of its own, which a drain waits for: the caller may leave at any await, but whoever was given the turn of a
        // request must end it, or nobody else gets one before the id expires.
        let turn = write.clone().turn().in_current_span();
        match door.tasks.spawn(Box::pin(turn)).await {
            Ok(Turn::Ended(outcome)) => return outcome,
            Ok(Turn::Others) => door.clock.sleep(LOOK_AGAIN).await,
            Err(_) => return Err(Fault::bug("a request's task ended without an answer").into()),
        }
    }
}

/// A write under an id, as one caller sent it.
struct Write<Q, F, L> {
    door: Door,
    call: Call,
    site: Site,
    request: Q,
    extra: Permissions,
    request_id: String,
    digest: [u8; 32],
    body: F,
    look: L,
}

/// What came of asking for the turn of a request.
enum Turn<A> {
    Ended(Result<A, Refused>),
    /// Somebody else has it and is at it.
    Others,
}

impl<Q, F, L> Write<Q, F, L> {
    fn key(&self) -> RequestKey<'_> {
        RequestKey {
            uid: &self.site.parameters().uid,
            principal: self.call.principal().name(),
            rpc: self.call.method(),
            request_id: &self.request_id,
        }
    }
}

impl<Q, A, F, Fut, L, LFut> Write<Q, F, L>
where
    Q: Addressed + Message + Clone + 'static,
    A: Message + Default,
    F: Fn(Site, Q) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<A>> + Send,
    L: Fn(Site, Q, Option<String>) -> LFut + Send + Sync + 'static,
    LFut: Future<Output = Look<A>> + Send,
{
    /// Asks for the turn and, if it is given, ends it.
    async fn turn(self: Arc<Self>) -> Turn<A> {
        let given = match self.door.store.begin_request(&self.key(), &self.digest).await {
            Ok(given) => given,
            Err(fault) => return Turn::Ended(Err(fault.into())),
        };
        let outcome = match given {
            RequestTurn::Running => return Turn::Others,
            RequestTurn::New => self.first().await,
            RequestTurn::Answer(kept) => self.again(&kept).await,
            RequestTurn::Reused => {
                let text = "this request_id was used for another request in the last 15 minutes";
                Err(Fault::new(Reason::RequestIdReused, text).into())
            }
            RequestTurn::Abandoned => match self.looked(None).await {
                Look::Again => self.first().await,
                Look::Done(answer) => {
                    self.end(Some(keep(&Ok(&answer), None))).await;
                    Ok(answer)
                }
                Look::Unknown => {
                    let text = "the process that ran this request is gone; what it did is not known";
                    let fault = self.site.told(Fault::new(Reason::OutcomeUnknown, text));
                    let refusal = self.call.refusal(&fault);
                    self.end(Some(keep(&Err::<&A, _>(&refusal), Some(&fault)))).await;
                    Err(fault.into())
                }
            },
        };
        Turn::Ended(outcome)
    }

    /// Runs it. Under its caller's deadline it would end with its caller, and that would be the answer for 15 minutes.
    async fn first(self: &Arc<Self>) -> Result<A, Refused> {
        let call = self.call.outlasting(WRITE_TIME);
        let body = |site| (self.body)(site, self.request.clone());
        let running = self.door.enter(&call, &self.request, self.extra, body);
        // Also a bug must not keep the turn; whether it came before or behind the write is not known.
        let outcome = AssertUnwindSafe(running).catch_unwind().await;
        let broke = |_| Err(Fault::bug("the body of a request broke down").fact("sent", true));
        match outcome.unwrap_or_else(broke) {
            Ok(answer) => {
                self.end(Some(keep(&Ok(&answer), None))).await;
                Ok(answer)
            }
            Err(fault) => {
                let refusal = self.call.refusal(&fault);
                // What may be sent again unchanged is not an answer to keep.
                let last = fault.retry_delay().is_none();
                self.end(last.then(|| keep(&Err::<&A, _>(&refusal), Some(&fault)))).await;
                Err(Refused::Repeated(Box::new(refusal)))
            }
        }
    }

    /// The answer of an earlier run, or what has become known of it since.
    async fn again(self: &Arc<Self>, kept: &[u8]) -> Result<A, Refused> {
        let kept = Kept::read(kept)?;
        if !kept.unknown {
            return kept.replay();
        }
        let look_for = (!kept.look_for.is_empty()).then(|| kept.look_for.clone());
        let Look::Done(answer) = self.looked(look_for).await else {
            return kept.replay();
        };
        self.end(Some(keep(&Ok(&answer), None))).await;
        Ok(answer)
    }

    async fn looked(&self, look_for: Option<String>) -> Look<A> {
        let look = (self.look)(self.site.for_a_look(), self.request.clone(), look_for);
        AssertUnwindSafe(look).catch_unwind().await.unwrap_or(Look::Unknown)
    }

    /// Gives the turn back, with the answer that repeats get; `None`: the next one runs it anew.
    /// A store that does not take it now is asked again, and nobody waits for that but who repeats the request.
    async fn end(self: &Arc<Self>, kept: Option<Vec<u8>>) {
        let Err(fault) = self.door.store.finish_request(&self.key(), kept.as_deref()).await else { return };
        tracing::warn!(%fault, "an answer could not be kept under its request id yet");
        let write = self.clone();
        let go_on = async move {
            let door = &write.door;
            for _ in 0..limits::REQUEST_END_REPEATS {
                door.clock.sleep(limits::REQUEST_END_RETRY).await;
                if door.store.finish_request(&write.key(), kept.as_deref()).await.is_ok() {
                    return;
                }
            }
            tracing::warn!("an answer could not be kept under its request id; whoever repeats it has to look");
            door.store.leave_request(&write.key());
        };
        self.door.tasks.spawn(go_on.in_current_span());
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

    #[test]
    fn whoever_asks_again_for_what_may_have_happened_has_a_look_first() {
        let unknown = |fault: Fault| {
            let status = status::refusal(&fault, "r");
            Kept::read(&keep(&Err::<&api::CopyItemResponse, _>(&status), Some(&fault))).unwrap().unknown
        };
        assert!(unknown(Fault::new(Reason::OutcomeUnknown, "lost")));
        assert!(unknown(Fault::new(Reason::DeadlineExceeded, "late").fact("sent", true)));
        assert!(!unknown(Fault::new(Reason::PathConflict, "taken")));
    }
}
