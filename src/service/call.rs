//! One RPC under way: who calls, until when, under which ids. Made by the guard, read by the bodies, told at the end.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use tonic::{Request, Response, Status};

use crate::{
    access::{Class, Permissions, Principal},
    credentials::Ending,
    dropbox::Heard,
    fault::{Fault, Reason},
    service::{lift::Lifted, opening::Coding, status},
};

/// Clones are cheap and speak of the same call.
#[derive(Clone)]
pub struct Call(Arc<Facts>);

/// What the guard knows before the body runs.
#[derive(Clone)]
pub struct Facts {
    /// `package.Service/Method`.
    pub rpc: String,
    pub class: Class,
    pub principal: Principal,
    pub request_id: String,
    pub remote: Option<SocketAddr>,
    pub begun: Instant,
    /// When the call must have ended. Unary calls always have one.
    pub deadline: Option<Instant>,
    /// `x-application-parameter-id`, if it was sent.
    pub parameter_metadata: Option<String>,
    /// Messages of the request may be compressed so.
    pub(super) coding: Option<Coding>,
    /// What was taken out of them on the way to the codec.
    pub(super) lifted: OnceLock<Lifted>,
    /// What Dropbox answered this call with.
    pub heard: Arc<Heard>,
    /// Told in the log line of the call.
    pub parameter: OnceLock<String>,
    /// When the parameter that was opened may not be used any more.
    pub ending: OnceLock<Ending>,
    pub reason: OnceLock<Reason>,
}

impl Call {
    pub fn new(facts: Facts) -> Self {
        Self(Arc::new(facts))
    }

    /// The method's name alone.
    pub fn method(&self) -> &str {
        self.0.rpc.rsplit('/').next().unwrap_or_default()
    }

    pub fn principal(&self) -> &Principal {
        &self.0.principal
    }

    pub fn request_id(&self) -> &str {
        &self.0.request_id
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.0.deadline
    }

    /// The same call for work that goes on when its caller has left: until `least` from now, if that is later.
    #[must_use]
    pub fn outlasting(&self, least: Duration) -> Call {
        let mut facts = (*self.0).clone();
        facts.deadline = facts.deadline.map(|deadline| deadline.max(Instant::now() + least));
        Call::new(facts)
    }

    pub fn heard(&self) -> &Arc<Heard> {
        &self.0.heard
    }

    /// Whether a message may be larger inside than on the way.
    pub fn inflates(&self) -> bool {
        self.0.coding.is_some()
    }

    /// What was taken out of the messages of an upload.
    pub fn lifted(&self) -> Option<Lifted> {
        self.0.lifted.get().cloned()
    }

    pub fn parameter_metadata(&self) -> Option<&str> {
        self.0.parameter_metadata.as_deref()
    }

    /// What its class asks of the parameter's policy.
    pub fn permissions(&self) -> Permissions {
        match self.0.class {
            Class::Needs(permission) => permission.into(),
            Class::Admin | Class::Anyone => Permissions::default(),
        }
    }

    pub fn name_parameter(&self, id: &str) {
        let _ = self.0.parameter.set(id.to_owned());
    }

    pub fn facts(&self) -> &Facts {
        &self.0
    }

    /// The status of a call that fails.
    pub fn refusal(&self, fault: &Fault) -> Status {
        let _ = self.0.reason.set(fault.reason());
        status::refusal(fault, self.request_id())
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("rpc", &self.0.rpc).field("request_id", &self.0.request_id).finish_non_exhaustive()
    }
}

/// Why a body did not answer: a fault of its own, or the answer an earlier call with this request id got.
#[derive(Debug)]
pub enum Refused {
    Fault(Fault),
    Repeated(Box<Status>),
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        Refused::Fault(fault)
    }
}

impl Refused {
    pub fn into_status(self, call: &Call) -> Status {
        match self {
            Refused::Fault(fault) => call.refusal(&fault),
            Refused::Repeated(status) => *status,
        }
    }
}

/// Runs the body of an RPC: request in, answer or status out.
///
/// # Errors
/// The body's fault as a status.
pub async fn answer<Q, A, E, F, Fut>(request: Request<Q>, body: F) -> Result<Response<A>, Status>
where
    E: Into<Refused>,
    F: FnOnce(Call, Q) -> Fut,
    Fut: Future<Output = Result<A, E>>,
{
    let call = of(&request)?;
    match body(call.clone(), request.into_inner()).await {
        Ok(answer) => Ok(Response::new(answer)),
        Err(refused) => Err(refused.into().into_status(&call)),
    }
}

fn of<Q>(request: &Request<Q>) -> Result<Call, Status> {
    let call = request.extensions().get::<Call>().cloned();
    call.ok_or_else(|| status::refusal(&Fault::bug("a call came past the guard"), ""))
}
