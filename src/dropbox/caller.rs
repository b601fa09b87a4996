//! One RPC's view of Dropbox: as whom, in which root, until when. Repeats, pauses, renewals and the reading of answers
//! happen here; a call ends with its value or with one fault. Dropping a call drops its request.

use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use serde::{Serialize, de::DeserializeOwned};
use tracing::Instrument;

use super::{
    AccountKey, ActAs, Auth, Bearer, Body, ByteRange, CommitRoute, Effect, Facts, Heard, Host, Repeat, Root, Route,
    Timeouts, TokenSource, Transport, Turn, Underway,
    attempt::{self, Outcome, Request, Success, Trouble},
    body::Progress,
    egress, header,
    pace::{Lane, Permit, Places},
    problem::{self, Refusal},
    retry::{self, Failure},
};
use crate::{
    fault::{Fault, Reason, Result},
    limits,
    secret::Secret,
    telemetry,
};

/// Calls Dropbox on one account's behalf. Clones are cheap.
#[derive(Clone)]
pub struct Caller {
    shared: Arc<Shared>,
    deadline: Option<Instant>,
    heard: Arc<Heard>,
    /// One attempt may take at least this long.
    patience: Duration,
    /// Somebody has tried before, and what came of it is not known.
    unclear: bool,
    /// Told of every attempt.
    underway: Option<Arc<Underway>>,
}

struct Shared {
    transport: Arc<Transport>,
    tokens: Arc<dyn TokenSource>,
    lane: Arc<Lane>,
    /// By whose name it stands in that queue.
    parameter: Arc<str>,
    /// What the application parameter may have in flight, beside what its account may.
    own_limit: Option<Arc<Places>>,
    account: AccountKey,
    act_as: Option<ActAs>,
    root: Option<Root>,
    path_root: Option<HeaderValue>,
    timeouts: Timeouts,
}

/// What Dropbox answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer<R> {
    pub value: R,
    pub request_id: Option<String>,
    /// An attempt before it may have been executed: what it says of a target may be the echo of that.
    pub after_unclear: bool,
}

/// As whom a caller asks. Callers that are equal in this may share a request, also where their parameter was read again meanwhile.
/// Ways out are told apart for as long as a caller that takes one is kept, no longer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    grant: (Box<str>, i64),
    transport: usize,
    act_as: Option<ActAs>,
    root: Option<Root>,
}

/// The head of a download, and its content.
#[derive(Debug)]
pub struct Download<R> {
    pub value: R,
    pub request_id: Option<String>,
    /// 200, or 206 for a part.
    pub status: u16,
    pub content_length: Option<u64>,
    pub content_type: Option<String>,
    pub content_range: Option<String>,
    pub body: Body,
}

struct Reply {
    request_id: Option<String>,
    success: Success,
    after_unclear: bool,
    permit: Permit,
}

/// What a call that is cut off by its deadline leaves behind.
#[derive(Default)]
struct Trace {
    /// An earlier attempt may have been executed.
    unclear: AtomicBool,
    current: std::sync::Mutex<Option<Arc<Progress>>>,
}

impl Caller {
    /// `account` is what Dropbox limits requests by: the user, or the member a team token acts as. Until it is said for which
    /// application parameter it calls, the account is its own.
    ///
    /// A path root that cannot be a header is left for the call to refuse.
    pub fn new(
        transport: Arc<Transport>,
        tokens: Arc<dyn TokenSource>,
        account: AccountKey,
        act_as: Option<ActAs>,
        root: Option<Root>,
        deadline: Option<Instant>,
        timeouts: Timeouts,
    ) -> Caller {
        let lane = transport.pace.lane(&account);
        let path_root = root.as_ref().map(|root| header::path_root(root).expect("escaped JSON is a header value"));
        let (parameter, own_limit) = (account.0.clone(), None);
        let shared =
            Shared { transport, tokens, lane, parameter, own_limit, account, act_as, root, path_root, timeouts };
        let (heard, patience) = (Arc::default(), Duration::ZERO);
        Caller { shared: Arc::new(shared), deadline, heard, patience, unclear: false, underway: None }
    }

    /// The same caller for this application parameter, which may have a limit of its own on requests in flight. To be said
    /// before the first call.
    #[must_use]
    pub fn of(mut self, parameter: Arc<str>, limit: Option<Arc<Places>>) -> Caller {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.parameter = parameter;
            shared.own_limit = limit;
        }
        self
    }

    /// For which application parameter it calls: queues are shared by it.
    pub fn parameter(&self) -> &str {
        &self.shared.parameter
    }

    /// As whom it asks: the grant, the way out, the member, the root.
    pub fn identity(&self) -> Identity {
        let (uid, number) = self.shared.tokens.grant();
        Identity {
            grant: (uid.into(), number),
            transport: Arc::as_ptr(&self.shared.transport) as usize,
            act_as: self.shared.act_as.clone(),
            root: self.shared.root.clone(),
        }
    }

    /// What paths of this call are relative to, where that is not the account's home.
    pub fn root(&self) -> Option<&Root> {
        self.shared.root.as_ref()
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    #[must_use]
    pub fn with_deadline(&self, deadline: Option<Instant>) -> Caller {
        Caller { deadline, ..self.clone() }
    }

    /// The same caller with time for a look at what a write did: the write's deadline may be what ended it.
    #[must_use]
    pub fn for_a_look(&self) -> Caller {
        self.with_deadline(self.deadline.map(|at| at.max(Instant::now() + limits::LOOK_TIME)))
    }

    /// The same caller for a route whose answer Dropbox holds back so long.
    #[must_use]
    pub fn patient(self, patience: Duration) -> Caller {
        Caller { patience, ..self }
    }

    /// The same caller for a change that may have been carried out already: as after an attempt of its own whose outcome is not
    /// known, an answer about the target may be the echo of that.
    #[must_use]
    pub fn after_unclear(&self) -> Caller {
        Caller { unclear: true, ..self.clone() }
    }

    /// The same caller, whose answers are noted there.
    #[must_use]
    pub fn heard_by(self, heard: Arc<Heard>) -> Caller {
        Caller { heard, ..self }
    }

    /// An answer to a request that was sent for several callers, of which this is one.
    pub fn hears(&self, request_id: Option<&str>) {
        self.heard.note(request_id);
    }

    /// The same caller, whose attempts are followed there.
    #[must_use]
    pub fn followed_by(self, underway: Arc<Underway>) -> Caller {
        Caller { underway: Some(underway), ..self }
    }

    /// Calls a route that has no content.
    ///
    /// # Errors
    /// By API-DESIGN (b); every fault has `dropboxRoute`, and `dropboxRequestId` if Dropbox answered.
    pub async fn call<A: Serialize, R: DeserializeOwned>(&self, route: &Route<A, R>, arg: &A) -> Result<Answer<R>> {
        self.answer(None, route.facts(), arg, &[]).await
    }

    /// Sends content. The pieces are neither copied nor used up.
    ///
    /// # Errors
    /// As [`Caller::call`].
    pub async fn upload<A: Serialize, R: DeserializeOwned>(
        &self,
        route: &Route<A, R>,
        arg: &A,
        body: &[Bytes],
    ) -> Result<Answer<R>> {
        self.answer(None, route.facts(), arg, body).await
    }

    /// Opens content. What goes wrong after the head is the body's to tell.
    ///
    /// # Errors
    /// As [`Caller::call`]; a range beyond the end has the tag `range/…`.
    pub async fn download<A: Serialize, R: DeserializeOwned>(
        &self,
        route: &Route<A, R>,
        arg: &A,
        range: Option<ByteRange>,
    ) -> Result<Download<R>> {
        let facts = route.facts();
        let json = argument(arg)?;
        let reply = self.exchange(&Request { range, ..self.request(facts, &json) }).await?;
        let Success::Content(response) = reply.success else {
            return Err(Fault::bug("a download needs a route of the download style").fact("dropboxRoute", &facts.path));
        };
        let status = response.status().as_u16();
        let head = response.headers();
        let value = match head.get("dropbox-api-result") {
            Some(result) => decode(facts, result.as_bytes(), reply.request_id.as_deref())?,
            None => return Err(protocol(facts, "the result header is missing", reply.request_id.as_deref())),
        };
        let text = |name| head.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let content_length = text("content-length").and_then(|length| length.parse().ok());
        let (content_type, content_range) = (text("content-type"), text("content-range"));
        let body = Body::new(
            response.into(),
            self.shared.timeouts.idle_read,
            self.deadline,
            facts.path.to_string(),
            reply.request_id.clone(),
            reply.permit,
        );
        let request_id = reply.request_id;
        Ok(Download { value, request_id, status, content_length, content_type, content_range, body })
    }

    /// Calls a route that changes a namespace. The turn is laid down while it waits to repeat, or for the end of a pause.
    ///
    /// # Errors
    /// As [`Caller::call`], and `OUTCOME_UNKNOWN` when it may have happened.
    pub async fn commit<A: Serialize, R: DeserializeOwned>(
        &self,
        turn: &Turn,
        route: &CommitRoute<A, R>,
        arg: &A,
    ) -> Result<Answer<R>> {
        self.answer(Some(turn), route.facts(), arg, &[]).await
    }

    /// Sends content to a route that changes a namespace.
    ///
    /// # Errors
    /// As [`Caller::commit`].
    pub async fn commit_upload<A: Serialize, R: DeserializeOwned>(
        &self,
        turn: &Turn,
        route: &CommitRoute<A, R>,
        arg: &A,
        body: &[Bytes],
    ) -> Result<Answer<R>> {
        self.answer(Some(turn), route.facts(), arg, body).await
    }

    async fn answer<A: Serialize, R: DeserializeOwned>(
        &self,
        turn: Option<&Turn>,
        facts: &Facts,
        arg: &A,
        content: &[Bytes],
    ) -> Result<Answer<R>> {
        let json = argument(arg)?;
        let request = Request { content, turn, ..self.request(facts, &json) };
        let reply = self.exchange(&request).await?;
        let Success::Json(text) = &reply.success else {
            return Err(Fault::bug("content came from a route of another style").fact("dropboxRoute", &facts.path));
        };
        // Dropbox answers a void result with `null`, proxies and old routes with nothing.
        let text: &[u8] = if text.is_empty() { b"null" } else { text };
        let value = decode(facts, text, reply.request_id.as_deref())?;
        Ok(Answer { value, request_id: reply.request_id, after_unclear: reply.after_unclear })
    }

    fn request<'a>(&'a self, facts: &'a Facts, json: &'a str) -> Request<'a> {
        Request {
            facts,
            json,
            content: &[],
            turn: None,
            range: None,
            act_as: self.shared.act_as.as_ref(),
            path_root: self.shared.path_root.as_ref(),
            timeouts: Timeouts { request: self.shared.timeouts.request.max(self.patience), ..self.shared.timeouts },
        }
    }

    /// The whole call under the deadline.
    async fn exchange(&self, request: &Request<'_>) -> Result<Reply> {
        let trace = Trace { unclear: AtomicBool::new(self.unclear), ..Trace::default() };
        let attempts = self.attempts(request, &trace);
        let reply = match self.deadline {
            None => attempts.await,
            Some(deadline) => match tokio::time::timeout_at(deadline.into(), attempts).await {
                Ok(reply) => reply,
                Err(_) => Err(deadline_exceeded(request.facts, &trace)),
            },
        };
        self.heard.note(reply.as_ref().ok().and_then(|reply| reply.request_id.as_deref()));
        reply
    }

    async fn attempts(&self, request: &Request<'_>, trace: &Trace) -> Result<Reply> {
        let facts = request.facts;
        let shared = &*self.shared;
        // What keeps a further attempt from being made says nothing of the one before it.
        let kept_back = |fault: Fault| trace.doubted(facts, fault.fact("dropboxRoute", &facts.path), false);
        let mut bearer = self.bearer(facts).await?;
        let mut renewed = false;
        let mut attempt = 0;
        loop {
            let permit = self.enter(request).await.map_err(kept_back)?;
            let progress = Arc::new(Progress::default());
            trace.set(&progress);
            self.underway.as_ref().inspect(|underway| underway.set(Some(&progress)));
            let outcome = self.attempt(request, &bearer, &progress, attempt).await.map_err(kept_back)?;
            let trouble = match outcome.result {
                Ok(success) => {
                    let after_unclear = trace.unclear.load(Ordering::Acquire);
                    return Ok(Reply { request_id: outcome.request_id, success, after_unclear, permit });
                }
                Err(trouble) => trouble,
            };
            trace.settled();
            self.underway.as_ref().inspect(|underway| underway.set(None));
            drop(permit);
            if problem::bearer_rejected(&trouble) && !renewed && facts.auth != Auth::None {
                renewed = true;
                bearer = shared.tokens.renew(Some(&bearer)).await.map_err(kept_back)?;
                continue;
            }
            let failure = self.failure(facts, &trouble, attempt);
            let left = self.deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let Some(wait) = retry::wait(failure, facts.repeat, attempt, left, rand::random()) else {
                let speaks_of_target = speaks_of_target(&trouble);
                return Err(trace.doubted(facts, fault(request, trouble, outcome.request_id), speaks_of_target));
            };
            if failure == Failure::Unclear && facts.effect != Effect::Read {
                trace.unclear.store(true, Ordering::Release);
            }
            if matches!(failure, Failure::Refused { .. }) {
                metrics::histogram!(telemetry::RATELIMIT_WAIT).record(wait.as_secs_f64());
            }
            attempt += 1;
            metrics::counter!(telemetry::UPSTREAM_RETRIES, "dropbox.route" => label(facts)).increment(1);
            tracing::debug!(route = %facts.path, attempt, ?failure, wait_ms = wait.as_millis(), "repeat");
            // Others of the namespace need not wait for it. It is taken up again where the attempt enters.
            request.turn.inspect(|turn| turn.lay_down());
            shared.transport.clock.sleep(wait).await;
        }
    }

    /// Waits for the end of a pause of the account, for a place among the requests of the application parameter, then among
    /// those of its account. A commit enters with its turn: it lies down while the account may not send and while there is no
    /// place, since the others of the namespace may be of other accounts and other parameters.
    async fn enter(&self, request: &Request<'_>) -> Result<Permit> {
        let shared = &*self.shared;
        if request.facts.host == Host::Notify {
            return Ok(Permit::unlimited());
        }
        loop {
            if shared.lane.is_paused() {
                request.turn.inspect(|turn| turn.lay_down());
                shared.lane.pause_over(&shared.parameter, self.deadline).await?;
            }
            if let Some(turn) = request.turn {
                turn.take_up().await;
            }
            if let Some(permit) = self.place_with_turn(request).await?
                && !shared.lane.is_paused()
            {
                return Ok(permit);
            }
        }
    }

    /// A place for who has its turn, if it takes one. None: it took too long, and the turn was given to others meanwhile.
    async fn place_with_turn(&self, request: &Request<'_>) -> Result<Option<Permit>> {
        if let Some(permit) = self.place_at_hand(request) {
            return Ok(Some(permit));
        }
        let Some(turn) = request.turn else { return self.place(request).await.map(Some) };
        if let Ok(place) = tokio::time::timeout(limits::COMMIT_HOLD, self.place(request)).await {
            return place.map(Some);
        }
        turn.lay_down();
        let permit = self.place(request).await?;
        // Whoever has the turn meanwhile may be waiting for just this place.
        let again = tokio::time::timeout(limits::COMMIT_HOLD, turn.take_up()).await;
        Ok(again.is_ok().then_some(permit))
    }

    /// A place that is free now, of the parameter and of the account.
    fn place_at_hand(&self, request: &Request<'_>) -> Option<Permit> {
        let shared = &*self.shared;
        let own = match &shared.own_limit {
            Some(places) => Some(places.try_enter(request.carries_body())?),
            None => None,
        };
        Some(shared.lane.try_enter(&shared.parameter, request.carries_body())?.within(own))
    }

    async fn place(&self, request: &Request<'_>) -> Result<Permit> {
        let shared = &*self.shared;
        let own = match &shared.own_limit {
            Some(places) => Some(places.enter(request.carries_body()).await),
            None => None,
        };
        Ok(shared.lane.enter(&shared.parameter, request.carries_body()).await?.within(own))
    }

    async fn bearer(&self, facts: &Facts) -> Result<Arc<Bearer>> {
        if facts.auth == Auth::None {
            let token = Secret::new(String::new()).into();
            return Ok(Arc::new(Bearer { token, expires_at: None, generation: 0 }));
        }
        match self.shared.tokens.current() {
            Some(bearer) => Ok(bearer),
            None => self.shared.tokens.renew(None).await,
        }
    }

    fn attempt<'a>(
        &'a self,
        request: &'a Request<'_>,
        bearer: &'a Bearer,
        progress: &'a Arc<Progress>,
        attempt: u32,
    ) -> impl Future<Output = Result<Outcome>> + Send + 'a {
        let facts = request.facts;
        let span = tracing::debug_span!(
            "dropbox",
            route = %facts.path,
            attempt,
            status = tracing::field::Empty,
            dropbox_request_id = tracing::field::Empty,
            error = tracing::field::Empty,
        );
        let inner = span.clone();
        async move {
            let started = Instant::now();
            let outcome = attempt::send(&self.shared.transport, request, bearer, progress).await?;
            let error = outcome.result.as_ref().err().map_or("", Trouble::kind);
            if let Some(status) = outcome.status {
                inner.record("status", status.as_u16());
            }
            if let Some(id) = &outcome.request_id {
                inner.record("dropbox_request_id", id.as_str());
            }
            if !error.is_empty() {
                inner.record("error", error);
            }
            metrics::histogram!(
                telemetry::UPSTREAM_DURATION,
                "dropbox.route" => label(facts),
                "http.response.status_code" => status_label(outcome.status),
                "error.type" => error,
            )
            .record(started.elapsed().as_secs_f64());
            Ok(outcome)
        }
        .instrument(span)
    }

    /// What a failed attempt means for a repeat; holds the account back if Dropbox asked for it.
    fn failure(&self, facts: &Facts, trouble: &Trouble, attempt: u32) -> Failure {
        match trouble {
            Trouble::Broken { error, .. } if egress::is_untrusted(error) => Failure::Final,
            Trouble::Broken { sent: false, .. } => Failure::NotSent,
            // It may be back in a moment; wrong credentials will not be right by then.
            Trouble::Proxy(fault) if fault.retry_delay().is_some() => Failure::NotSent,
            Trouble::Proxy(_) => Failure::Final,
            Trouble::Broken { sent: true, .. } => Failure::Unclear,
            // A connection that fell silent under an append: another one may do. More of that is the parameter's
            // timeout, as it is at once for calls, whose callers wait.
            Trouble::Timeout { .. } if facts.repeat == Repeat::Safe && attempt == 0 => Failure::Unclear,
            Trouble::Timeout { .. } | Trouble::Unreadable(_) => Failure::Final,
            Trouble::Refused { status, retry_after, body } => {
                let failure = problem::failure(facts, status.as_u16(), *retry_after, body);
                if let Failure::Refused { retry_after: Some(span) } = failure
                    && *status == StatusCode::TOO_MANY_REQUESTS
                    && !problem::is_contention(body)
                {
                    self.shared.lane.pause(span);
                }
                failure
            }
        }
    }
}

impl Trouble {
    fn kind(&self) -> &'static str {
        match self {
            Trouble::Refused { .. } => "refused",
            Trouble::Broken { sent: false, .. } => "connect",
            Trouble::Broken { sent: true, .. } => "cut",
            Trouble::Proxy(_) => "proxy",
            Trouble::Timeout { phase, .. } => phase,
            Trouble::Unreadable(_) => "protocol",
        }
    }
}

impl Trace {
    fn set(&self, progress: &Arc<Progress>) {
        *self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(progress.clone());
    }

    /// The current attempt has an outcome; it is not under way any more.
    fn settled(&self) {
        *self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
    }

    /// A fault as it stands after the attempts before it. If one of those may have been executed, only an answer about the
    /// very thing that was to be changed leaves something to tell apart; any other settles nothing.
    fn doubted(&self, facts: &Facts, fault: Fault, speaks_of_target: bool) -> Fault {
        if !self.unclear.load(Ordering::Acquire) {
            return fault;
        }
        if facts.is_resumable() || (speaks_of_target && fault.retry_delay().is_none()) {
            return fault.fact("earlierAttempt", "unknown");
        }
        outcome_unknown(&fault)
    }

    fn may_have_happened(&self) -> bool {
        let current = self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.unclear.load(Ordering::Acquire) || current.as_ref().is_some_and(|progress| progress.begun())
    }
}

/// A refusal of the route's own, by the state of what it was to change: after an attempt of unknown outcome it may be the
/// echo of a success. Refusals of the token, the account, the root or the form never are.
fn speaks_of_target(trouble: &Trouble) -> bool {
    matches!(trouble, Trouble::Refused { status: StatusCode::CONFLICT | StatusCode::NOT_FOUND, .. })
}

/// The fault of an attempt, by itself.
fn fault(request: &Request<'_>, trouble: Trouble, request_id: Option<String>) -> Fault {
    let facts = request.facts;
    let resumable = facts.is_resumable();
    let fault = match trouble {
        Trouble::Refused { status, retry_after, body } => {
            let status = status.as_u16();
            problem::fault(&Refusal { facts, status, body: &body, retry_after, arg: request.json, resumable })
        }
        Trouble::Proxy(fault) => fault,
        Trouble::Broken { error, .. } if egress::is_untrusted(&error) => egress::untrusted(error),
        Trouble::Broken { sent, error } if !sent || resumable => {
            Fault::new(Reason::DropboxUnavailable, "the connection to Dropbox failed")
                .retry_after(Duration::from_secs(1))
                .source(error)
        }
        Trouble::Broken { error, .. } => {
            Fault::new(Reason::OutcomeUnknown, "the connection to Dropbox broke after the request left").source(error)
        }
        Trouble::Timeout { sent, phase } if !sent || resumable => {
            Fault::new(Reason::UpstreamTimeout, "Dropbox did not answer in time")
                .fact("phase", phase)
                .retry_after(Duration::from_secs(1))
        }
        Trouble::Timeout { phase, .. } => {
            Fault::new(Reason::OutcomeUnknown, "Dropbox did not answer in time; it may have done it")
                .fact("phase", phase)
        }
        Trouble::Unreadable(what) => protocol(facts, what, None),
    };
    fault.fact("dropboxRoute", &facts.path).fact_if("dropboxRequestId", request_id)
}

/// `last` came after an attempt that may have been executed, and settles nothing about it.
fn outcome_unknown(last: &Fault) -> Fault {
    let text = format!("an earlier attempt may have been executed; the next one ended so: {}", last.message());
    let mut fault = Fault::new(Reason::OutcomeUnknown, text).source(last.to_string());
    for (key, value) in last.facts() {
        fault = fault.fact(key, value);
    }
    fault
}

fn deadline_exceeded(facts: &Facts, trace: &Trace) -> Fault {
    let fault = Fault::new(Reason::DeadlineExceeded, "the deadline passed before Dropbox answered")
        .fact("dropboxRoute", &facts.path);
    if facts.effect == Effect::Read {
        return fault;
    }
    let sent = trace.may_have_happened();
    let fault = fault.fact("sent", sent);
    // What was not sent may be sent again as it is.
    if sent { fault } else { fault.retry_after(Duration::ZERO) }
}

fn protocol(facts: &Facts, what: &str, request_id: Option<&str>) -> Fault {
    let fault = Fault::new(Reason::DropboxProtocol, format!("Dropbox's answer cannot be read: {what}"))
        .fact("dropboxRoute", &facts.path);
    match request_id {
        Some(id) => fault.fact("dropboxRequestId", id),
        None => fault,
    }
}

fn argument<A: Serialize>(arg: &A) -> Result<String> {
    serde_json::to_string(arg).map_err(|error| Fault::bug("an argument is not JSON").source(error))
}

pub(super) fn decode<R: DeserializeOwned>(facts: &Facts, text: &[u8], request_id: Option<&str>) -> Result<R> {
    serde_json::from_slice(text)
        .map_err(|error| protocol(facts, "the JSON is not what the route promises", request_id).source(error))
}

/// A label from a closed set: a route that is not in the committed table has none of its own.
fn label(facts: &Facts) -> &'static str {
    match &facts.path {
        std::borrow::Cow::Borrowed(path) => path,
        std::borrow::Cow::Owned(_) => "unlisted",
    }
}

fn status_label(status: Option<StatusCode>) -> String {
    status.map(|status| status.as_str().to_owned()).unwrap_or_default()
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("account", &self.shared.account)
            .field("act_as", &self.shared.act_as)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}
