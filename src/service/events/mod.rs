//! Events: what changed, as a stream, by asking, and from a place kept by name. The hub knows what happened; here are the
//! caller's wishes: filters and types, heartbeats, ends, wire bytes.

mod settle;
mod told;
mod watch;

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::{Duration, Instant},
};

use metrics::{Counter, counter};
use rand::Rng as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use self::told::Taste;
pub use self::watch::Watch;
use super::{
    call::Call,
    door::{Door, Site},
    filter, pages,
};
use crate::{
    access::Permissions,
    api::v1 as api,
    convert::{
        events::{self as convert, AskedStart, Terms, WatchPlan},
        path::ItemPath,
    },
    events::{CheckpointName, Happening, Hub, OnReset, Options, Poll, Resync, Scope, Start},
    fair::{Fair, Held},
    fault::{Fault, Reason, Result},
    limits::{
        ANSWER_BYTES_MAX, DRAINING_RETRY, EVENT_FOLLOW, PULL_LOOK_EVERY, PULL_LOOK_MAX, WATCH_END_AHEAD,
        WATCH_PATH_MAX, WATCHES_OPENING_MAX,
    },
    telemetry::WATCH_DELIVERED,
};

/// The four RPCs of events.
pub struct Events {
    pub door: Door,
    pub hub: Hub,
    /// Places for watches.
    places: Arc<Semaphore>,
    /// And for those that are being opened.
    openings: Fair,
    stream_age: Duration,
    draining: CancellationToken,
    delivered: Arc<[Counter; TYPES.len()]>,
}

/// Types that are told, with their labels.
const TYPES: [(api::EventType, &str); 6] = [
    (api::EventType::Created, "created"),
    (api::EventType::Updated, "updated"),
    (api::EventType::MetadataChanged, "metadata_changed"),
    (api::EventType::Deleted, "deleted"),
    (api::EventType::Moved, "moved"),
    (api::EventType::Upserted, "upserted"),
];

impl Events {
    pub fn new(door: Door, hub: Hub, watches_max: usize, stream_age: Duration, draining: CancellationToken) -> Events {
        let delivered = Arc::new(TYPES.map(|(_, label)| counter!(WATCH_DELIVERED, "type" => label)));
        let (places, openings) = (Arc::new(Semaphore::new(watches_max)), Fair::new(WATCHES_OPENING_MAX));
        Events { door, hub, places, openings, stream_age, draining, delivered }
    }

    pub async fn watch_events(self: &Arc<Self>, call: Call, request: api::WatchEventsRequest) -> Result<Box<Watch>> {
        let plan = convert::watch_events(&request)?;
        let place = self.places.clone().try_acquire_owned().map_err(|_| {
            Fault::new(Reason::ConnectorBusy, "this server holds as many watches as it may")
                .fact("limit", "max_watches")
                .retry_after(DRAINING_RETRY)
        })?;
        let _turn = tokio::select! {
            biased;
            () = self.draining.cancelled() => {
                let fault = Fault::new(Reason::ServerDraining, "this server is going down; call again elsewhere");
                return Err(fault.retry_after(DRAINING_RETRY));
            }
            turn = self.turn(&call, &request.application_parameter_id) => turn?,
        };
        // Made when its turn has come: ten thousand that wait hold their requests, and not what it takes to open a watch.
        Box::pin(self.open_watch(call, request, plan, place)).await
    }

    /// A turn to open a watch, of those of its parameter. Of one that nobody has used yet it is not known whether it is the
    /// caller's: it is read with a turn of all such, among whom nobody waits for Dropbox.
    async fn turn(&self, call: &Call, parameter: &str) -> Result<Held> {
        let known = self.door.tenant(call, parameter);
        let turn = self.openings.take(&known, 1).await;
        if !known.is_empty() {
            return Ok(turn);
        }
        let read = Box::pin(self.door.tenant_read(call, parameter)).await?;
        if read.is_empty() {
            // It is about to be refused.
            return Ok(turn);
        }
        drop(turn);
        Ok(self.openings.take(&read, 1).await)
    }

    /// In blocks of less than 7 KiB, of which the next watch is opened again: HTTP/2 begins each connection with a block of 8 KiB
    /// to read into, of which a quiet one touches the first half. If a watch was opened in one of that size before, all of it is
    /// memory that is kept with the connection.
    async fn open_watch(
        self: &Arc<Self>,
        call: Call,
        request: api::WatchEventsRequest,
        plan: WatchPlan,
        place: OwnedSemaphorePermit,
    ) -> Result<Box<Watch>> {
        let filter = filter::compile(request.filter.as_ref())?;
        let wants = &Taste { filter, types: plan.terms.types, base: "".into() };
        let asked = &plan;
        let begun = self.door.enter(&call, &request, Permissions::default(), |site| async move {
            let scope = scope_at(&site, &asked.path, asked.recursive).await?.raw(asked.terms.raw);
            let poll = asked.poll_interval.map_or(Poll::Longpoll, Poll::Interval);
            let options = Options { on_reset: on_reset(asked.terms), poll, expand: wants.expands(asked.terms) };
            let start = self.start(&scope, asked)?;
            Ok((site, Box::pin(self.hub.watch(scope, start, options)).await?))
        });
        let (site, watcher) = Box::pin(begun).await?;
        let taste = Taste { base: watcher.scope().path.clone(), ..wants.clone() };
        let mut watch = Box::new(Watch::new(self, call, site.audience(), watcher, taste, &plan, place));
        watch.settle(plan.settle).await?;
        Ok(watch)
    }

    pub async fn pull_events(&self, call: Call, request: api::PullEventsRequest) -> Result<api::PullEventsResponse> {
        let plan = convert::pull_events(&request)?;
        let filter = filter::compile(request.filter.as_ref())?;
        let wants = Taste { filter, types: plan.terms.types, base: "".into() };
        let expand = wants.expands(plan.terms);
        let options = Options { on_reset: on_reset(plan.terms), poll: Poll::Longpoll, expand };
        let (plan, wants, asked, call_here) = (&plan, &wants, &request, &call);
        self.door
            .enter(&call, &request, Permissions::default(), |site| async move {
                let scope = self.folder_scope(&site, &asked.resume_token)?.raw(plan.terms.raw);
                let start = Start::After(self.hub.unseal(&scope, &asked.resume_token)?);
                let taste = Taste { base: scope.path.clone(), ..wants.clone() };
                let begun_at = self.door.clock.steady();
                let mut watcher = self.hub.watch(scope.clone(), start, options).await?;
                watcher.look();
                let clock = &self.door.clock;
                let waited = clock.sleep(plan.wait.max(PULL_LOOK_MAX));
                let patience = clock.sleep(plan.wait);
                let leave = call_here.deadline().map(|deadline| deadline - end_ahead(deadline));
                let overdue = async {
                    match leave {
                        Some(leave) => tokio::time::sleep_until(leave.into()).await,
                        None => std::future::pending().await,
                    }
                };
                let (mut waited, mut patience) = (waited, patience);
                let mut overdue = std::pin::pin!(overdue);
                let (mut patient, mut late) = (true, false);
                let mut answer = pages::Answer::bounded(plan.events_max, ANSWER_BYTES_MAX);
                let mut token: Arc<str> = asked.resume_token.as_str().into();
                let mut more = true;
                loop {
                    // Nothing is left to fetch once what is there was looked at after the call had begun.
                    let looked = watcher.looked_at().is_some_and(|at| at >= begun_at);
                    if watcher.is_caught_up() && looked && (!patient || !answer.taken.is_empty() || plan.wait.is_zero())
                    {
                        more = false;
                        // Behind what the log has by now, whatever the way to it was.
                        token = self.hub.seal(&scope, &watcher.point())?;
                        break;
                    }
                    if late {
                        break;
                    }
                    // A watcher that has caught up says nothing of it; one that has not asks by itself.
                    let look = if watcher.is_caught_up() { PULL_LOOK_EVERY } else { EVENT_FOLLOW };
                    let happening = tokio::select! {
                        biased;
                        () = self.draining.cancelled() => break,
                        () = &mut overdue, if !late => {
                            (late, patient) = (true, false);
                            continue;
                        }
                        happening = watcher.next() => happening?,
                        () = &mut patience, if patient => {
                            patient = false;
                            continue;
                        }
                        () = &mut waited => break,
                        () = tokio::time::sleep(look) => continue,
                    };
                    if let Happening::CursorReset { resync: Resync::Snapshot, .. } | Happening::Snapshot { .. } =
                        happening
                    {
                        // What was told before it is answered first; the next pull is refused.
                        if !answer.taken.is_empty() {
                            break;
                        }
                        return Err(no_differences());
                    }
                    if let Happening::Event(entry) = &happening
                        && let Some(change) = entry.change()
                        && taste.wants(change)
                        && let Some(change) = told::change_event(entry, change, site.jail())
                    {
                        if !answer.has_room(&change) {
                            break;
                        }
                        self.count(change.change_type());
                        answer.put(change);
                    }
                    token = match watcher.with_ahead(happening.point()) {
                        Some(point) => self.hub.seal(&scope, &point)?,
                        None => self.token(&scope, &happening)?,
                    };
                }
                Ok(api::PullEventsResponse { changes: answer.taken, resume_token: token.to_string(), more })
            })
            .await
    }

    pub async fn get_event_token(
        &self,
        call: Call,
        request: api::GetEventTokenRequest,
    ) -> Result<api::GetEventTokenResponse> {
        let (path, recursive) = convert::get_event_token(&request)?;
        let path = &path;
        self.door
            .enter(&call, &request, Permissions::default(), |site| async move {
                let scope = scope_at(&site, path, recursive).await?;
                let now = self.hub.latest(&scope).await?;
                Ok(api::GetEventTokenResponse { resume_token: self.hub.seal(&scope, &now)?.to_string() })
            })
            .await
    }

    pub async fn acknowledge_events(
        &self,
        call: Call,
        request: api::AcknowledgeEventsRequest,
    ) -> Result<api::AcknowledgeEventsResponse> {
        let (name, token) = convert::acknowledge_events(&request)?;
        let name = &CheckpointName::new(name);
        self.door
            .enter(&call, &request, Permissions::default(), |site| async move {
                match token {
                    Some(token) => {
                        let scope = self.folder_scope(&site, token)?;
                        let point = self.hub.unseal(&scope, token)?;
                        self.hub.acknowledge(&scope, name, Some(&point)).await?;
                    }
                    None => {
                        let scope = Scope::of(site.parameters(), site.act_as(), site.root(), site.jail().prefix());
                        self.hub.acknowledge(&scope, name, None).await?;
                    }
                }
                Ok(api::AcknowledgeEventsResponse {})
            })
            .await
    }

    fn start(&self, scope: &Scope, plan: &WatchPlan) -> Result<Start> {
        Ok(match &plan.start {
            AskedStart::Now => Start::Now,
            AskedStart::Snapshot => Start::Snapshot,
            AskedStart::Checkpoint(name) => Start::Checkpoint(CheckpointName::new(name)),
            AskedStart::Token(token) => Start::After(self.hub.unseal(scope, token)?),
        })
    }

    fn token(&self, scope: &Scope, happening: &Happening) -> Result<Arc<str>> {
        match happening {
            Happening::Event(entry) | Happening::BatchEnd(entry) => entry.token(&self.door.keys, scope),
            other => self.hub.seal(scope, other.point()),
        }
    }

    /// The scope that a token names by itself. The jail may be newer than the token.
    fn folder_scope(&self, site: &Site, token: &str) -> Result<Scope> {
        let (path, recursive) = crate::events::ResumePoint::folder_of(&self.door.keys, &site.owner(), token)?;
        if !site.jail().holds(Some(&path)) {
            return Err(crate::convert::path::Jail::not_found(""));
        }
        Ok(Scope::of(site.parameters(), site.act_as(), site.root(), &path).recursive(recursive))
    }

    fn count(&self, change_type: api::EventType) {
        if let Some(at) = TYPES.iter().position(|(known, _)| *known == change_type) {
            self.delivered[at].increment(1);
        }
    }
}

pub(super) async fn scope_at(site: &Site, path: &ItemPath, recursive: bool) -> Result<Scope> {
    let folder = site.place(path).await?;
    if folder.len() > WATCH_PATH_MAX {
        let text = format!(
            "a watched folder's path has at most {WATCH_PATH_MAX} bytes, for it is in every token, and this one has {}; watch a \
             folder above it, with a filter",
            folder.len()
        );
        return Err(Fault::field("path", "TOO_LONG", text));
    }
    Ok(Scope::of(site.parameters(), site.act_as(), site.root(), &folder).recursive(recursive))
}

fn on_reset(terms: Terms) -> OnReset {
    if terms.fails_on_reset { OnReset::Fail } else { OnReset::Resync }
}

/// A pull tells changes only: it has no way to say that a snapshot replaces what its caller has.
fn no_differences() -> Fault {
    Fault::new(
        Reason::ResumeTokenExpired,
        "Dropbox dropped the cursor of this token, or the token lies inside a snapshot: what changed since cannot be told; \
         read the folder anew by WatchEvents from START_POSITION_SNAPSHOT and go on with its tokens",
    )
}

/// How long before its deadline a call stops waiting.
fn end_ahead(deadline: Instant) -> Duration {
    WATCH_END_AHEAD.min(deadline.saturating_duration_since(Instant::now()) / 2)
}

/// `span`, a little more or less, so that what began together does not end together.
fn spread(span: Duration, by: f64) -> Duration {
    span.mul_f64(rand::rng().random_range(1.0 - by..=1.0 + by))
}

/// Tells one jail's bytes from another's.
fn jail_mark(prefix: &str) -> [u8; 8] {
    let mut hasher = DefaultHasher::new();
    prefix.hash(&mut hasher);
    hasher.finish().to_le_bytes()
}
