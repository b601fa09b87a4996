//! What the watchers of a scope share: the end of its log, the newest entries in memory, rows read for those who are behind,
//! pages drained for those who are far behind, and the bell that wakes the one who polls.

mod now;
mod tail;

use std::{
    fmt,
    hash::{DefaultHasher, Hasher as _},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use now::Present;
use smallvec::SmallVec;
use tail::{Tail, weight, written};
use tokio::sync::{Notify, OwnedSemaphorePermit, watch};
use tokio_util::sync::CancellationToken;

use super::{
    Poll, Scope, Upstream,
    building::Building,
    change::{Entry, Told},
    expand::Portions,
    inferred,
    poller::{self, Progress},
    schedule::{Desk, Ring, Seat},
    scope::{ResumePoint, new_epoch},
    shelf::Shelf,
    upstream::Page,
};
use crate::{
    apart::{Apart, apart},
    clock::SharedClock,
    dropbox::Underway,
    fault::{Fault, Reason, Result},
    limits::{EVENT_CHUNK, FEED_RETRY, SNAPSHOT_ITEMS_MAX},
    store::{Followed, LogHead, ReadRow, ScopeRow, Store},
    telemetry,
};

pub(super) struct Feed {
    pub(super) scope: Arc<Scope>,
    pub(super) store: Store,
    pub(super) upstream: Arc<dyn Upstream>,
    pub(super) clock: SharedClock,
    id: OnceLock<i64>,
    state: watch::Sender<State>,
    tail: Mutex<Tail>,
    chunks: tokio::sync::Mutex<Shelf<Arc<[Arc<Entry>]>>>,
    pub(super) portions: Portions,
    /// Held by whoever walks a cursor of this scope: Dropbox refuses equal questions at once. The one who polls waits for it,
    /// so nothing else is asked or waited for with it in hand.
    walks: tokio::sync::Mutex<Walks>,
    /// Pages that were drained for those who are far behind. Held over all that such a page takes, before `walks`.
    drained: tokio::sync::Mutex<Shelf<Arc<Drained>>>,
    /// When it began here, by steady time.
    pub(super) born: Duration,
    pub(super) building: Building,
    /// What all feeds of the process share.
    desk: Arc<Desk>,
    seat: Mutex<Seat>,
    /// There is news: for whoever longpolls.
    pub(super) bell: Notify,
    /// A watcher came or went: for the same.
    pub(super) wishes_changed: Notify,
    /// Before that Dropbox does not want to be longpolled again; by steady time, in milliseconds.
    longpoll_from: AtomicU64,
    /// By number. Most have one.
    wishes: Mutex<SmallVec<[(u64, Poll); 1]>>,
    /// It is out of the hub.
    pub(super) over: CancellationToken,
    /// Looked up once: a watcher records every event.
    pub(super) lag: metrics::Histogram,
}

/// What watchers wait for.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    version: i64,
    pub(super) head: LogHead,
    /// Dropbox's, while nothing is left to be told before it.
    pub(super) cursor: Option<Arc<str>>,
    /// The newest entry of a drain that is over.
    pub(super) settled: i64,
    /// The log has been brought up to date since this process follows it.
    pub(super) hot: bool,
    /// When Dropbox was last asked for the last thing that is told, by steady time.
    pub(super) fresh_at: Option<Duration>,
    /// When Dropbox was asked last of which this process knows that the log has its answer, also by a watcher.
    proven_at: Option<Duration>,
    /// When it was last read what another process has saved that polls the folder, by steady time.
    pub(super) followed_at: Option<Duration>,
    longpoll: Option<Arc<Underway>>,
    pub(super) ended: Option<Arc<Ended>>,
}

/// Why a feed is over, for each of its watchers.
#[derive(Debug)]
pub(super) struct Ended(Fault);

/// What those found who walked cursors of their own.
struct Walks {
    listed: Shelf<Arc<Listed>>,
    now: Option<Box<Present>>,
}

/// A page of a watcher's own listing.
struct Listed {
    /// None: the first page.
    from: Option<Arc<str>>,
    asked_at: Instant,
    page: Page,
}

/// A page from a cursor older than the log.
#[derive(Debug)]
pub(super) struct Drained {
    from: Arc<str>,
    asked_at: Instant,
    pub(super) next: ResumePoint,
    pub(super) has_more: bool,
    pub(super) entries: Arc<[Arc<Entry>]>,
    /// The last page alone: the end of the log, if that is exactly where this page ends.
    pub(super) joins: Option<LogHead>,
}

/// What is behind a place in the log.
#[derive(Debug)]
pub(super) enum Behind {
    Entries(Arc<[Arc<Entry>]>),
    /// It is not in the log any more.
    Swept,
}

impl Feed {
    pub(super) fn of(scope: Arc<Scope>, store: Store, upstream: Arc<dyn Upstream>, desk: Arc<Desk>) -> Arc<Feed> {
        let clock = store.clock().clone();
        let born = clock.steady();
        Arc::new(Feed {
            scope,
            store,
            upstream,
            clock,
            id: OnceLock::new(),
            state: watch::Sender::new(State::default()),
            tail: Mutex::new(Tail::new(desk.tails_bytes.clone())),
            chunks: tokio::sync::Mutex::new(Shelf::new(desk.tails_bytes.clone())),
            walks: tokio::sync::Mutex::new(Walks { listed: Shelf::new(desk.tails_bytes.clone()), now: None }),
            drained: tokio::sync::Mutex::new(Shelf::new(desk.tails_bytes.clone())),
            portions: Portions::default(),
            born,
            building: Building::default(),
            desk,
            seat: Mutex::default(),
            bell: Notify::new(),
            wishes_changed: Notify::new(),
            longpoll_from: AtomicU64::new(0),
            wishes: Mutex::default(),
            over: CancellationToken::new(),
            lag: metrics::histogram!(telemetry::WATCH_LAG),
        })
    }

    /// One that no hub knows: a test steps it.
    #[cfg(test)]
    pub(super) fn alone(scope: &Scope, store: &Store, upstream: Arc<dyn Upstream>) -> Arc<Feed> {
        let desk = Desk::new(store.clock().clone(), store.is_shared(), false);
        Feed::of(Arc::new(scope.clone()), store.clone(), upstream, desk)
    }

    /// Bytes that all scopes of the process keep.
    #[cfg(test)]
    pub(super) fn kept(&self) -> Arc<std::sync::atomic::AtomicUsize> {
        self.desk.tails_bytes.clone()
    }

    /// Its row in the store, made if there is none.
    pub(super) async fn row(&self) -> Result<ScopeRow> {
        // Thousands may come back at once, and who waits too long for a connection of the store's is refused.
        let _place = self.desk.coming.acquire().await;
        let progress = serde_json::to_string(&Progress::default())
            .map_err(|error| Fault::bug("progress cannot be written as JSON").source(error))?;
        let row = self.store.scope(&self.scope.key(), &self.scope.uid, new_epoch(), &progress).await?;
        let _ = self.id.set(row.id);
        self.publish(row.version, row.head, &poller::read_progress(&row.progress).unwrap_or_default(), Vec::new());
        Ok(row)
    }

    pub(super) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// For the desk alone.
    pub(super) fn seat(&self) -> MutexGuard<'_, Seat> {
        self.seat.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A watcher needs to know what is now.
    pub(super) fn ring(self: &Arc<Self>) {
        self.desk.ring(self, Ring::Watcher);
    }

    /// Others may read what was saved.
    pub(super) fn tell_saved(&self) {
        self.known_id().into_iter().for_each(|id| self.desk.outbox.saved(id));
    }

    /// Nobody is known to have asked Dropbox since then.
    pub(super) fn is_overdue(&self, since: Option<Duration>) -> bool {
        since.is_some_and(|since| self.state.borrow().fresh_at < Some(since))
    }

    pub(super) fn newest(&self) -> i64 {
        self.state.borrow().head.newest
    }

    pub(super) fn known_id(&self) -> Option<i64> {
        self.id.get().copied()
    }

    pub(super) fn id(&self) -> Result<i64> {
        self.known_id().ok_or_else(|| Fault::bug("a feed was read before its row was made"))
    }

    // ---- by the one who polls or follows ----

    /// Entries were saved; those who wait may read them. What is older than what was published is not: two may read the
    /// row at once.
    pub(super) fn publish(&self, version: i64, head: LogHead, progress: &Progress, entries: Vec<(Arc<Entry>, usize)>) {
        self.keep(entries);
        self.tidy();
        let cursor = progress.cursor.as_ref().filter(|_| progress.is_settled());
        // Whoever goes on holding a scope publishes it again and again: that wakes nobody.
        self.state.send_if_modified(|state| {
            if version < state.version {
                return false;
            }
            state.version = version;
            self.building.stands(progress.is_indexed());
            let changed = state.head != head || state.cursor.as_ref() != cursor;
            if changed {
                (state.head, state.cursor) = (head, cursor.cloned());
                state.settled = if cursor.is_some() { head.newest } else { state.settled };
            }
            changed
        });
    }

    /// The log is up to date as of then.
    pub(super) fn set_hot(&self, looked_at: Option<Duration>) {
        self.state.send_if_modified(|state| {
            let changed = !state.hot;
            state.hot = true;
            (state.fresh_at, state.proven_at) = (state.fresh_at.max(looked_at), state.proven_at.max(looked_at));
            changed
        });
    }

    /// A longpoll was answered without news. Its answer may have been long on its way, so for where now is it proves nothing.
    pub(super) fn heard_nothing(&self) {
        let now = self.clock.steady();
        self.state.send_if_modified(|state| {
            state.fresh_at = state.fresh_at.max(Some(now));
            false
        });
    }

    /// It cannot be brought up to date for now.
    pub(super) fn set_cold(&self) {
        self.state.send_if_modified(|state| std::mem::take(&mut state.hot));
    }

    pub(super) fn set_longpoll(&self, longpoll: Option<Arc<Underway>>) {
        self.state.send_if_modified(|state| {
            state.longpoll = longpoll;
            false
        });
    }

    pub(super) fn is_listening(&self) -> bool {
        self.state.borrow().is_listening()
    }

    /// Dropbox wants to be left alone for so long, by whichever worker comes next.
    pub(super) fn back_off(&self, span: Duration) {
        let until = self.clock.steady().saturating_add(span).as_millis();
        self.longpoll_from.store(u64::try_from(until).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Until that is over.
    pub(super) async fn backed_off(&self) {
        let until = Duration::from_millis(self.longpoll_from.load(Ordering::Relaxed));
        let rest = until.saturating_sub(self.clock.steady());
        if !rest.is_zero() {
            self.clock.sleep(rest).await;
        }
    }

    /// No more will come; those who watch are told why.
    pub(super) fn end(&self, fault: Fault) {
        self.state.send_modify(|state| state.ended = Some(Arc::new(Ended(fault))));
    }

    /// Nobody polls any more: whoever watches after all begins again.
    pub(super) fn close(&self) {
        let text = "the feed of this folder was over; go on with the resume token";
        let fault = Fault::new(Reason::ServerDraining, text).retry_after(Duration::ZERO);
        self.state.send_if_modified(|state| {
            let open = state.ended.is_none();
            state.ended.get_or_insert_with(|| Arc::new(Ended(fault)));
            open
        });
    }

    /// What another process has saved meanwhile, and how long that one still has the scope; None: it is not there any more.
    pub(super) async fn look(&self) -> Result<Option<Duration>> {
        let asked_at = self.clock.steady();
        let Some(Followed { version, head, progress, held, looked }) = self.store.followed_scope(self.id()?).await?
        else {
            return Ok(None);
        };
        // Of what a newer version is at the log alone is of use.
        self.publish(version, head, &poller::read_progress(&progress).unwrap_or_default(), Vec::new());
        if !held.is_zero() {
            let fresh_at = looked.map(|looked| asked_at.saturating_sub(looked));
            self.state.send_if_modified(|state| {
                (state.followed_at, state.fresh_at) = (Some(asked_at), state.fresh_at.max(fresh_at));
                false
            });
        }
        Ok(Some(held))
    }

    /// What was read for watchers long ago goes. Whoever reads just now keeps it in order.
    fn tidy(&self) {
        if let Ok(mut chunks) = self.chunks.try_lock() {
            chunks.tidy();
        }
        if let Ok(mut drained) = self.drained.try_lock() {
            drained.tidy();
        }
        if let Ok(mut walks) = self.walks.try_lock() {
            walks.listed.tidy();
            walks.now = None;
        }
    }

    fn keep(&self, entries: Vec<(Arc<Entry>, usize)>) {
        if !entries.is_empty() {
            self.tail.lock().unwrap_or_else(PoisonError::into_inner).keep(entries);
        }
    }

    // ---- by those who watch ----

    /// Entries behind a sequence that are in memory no more, one at least if there are any.
    pub(super) fn behind(self: &Arc<Self>, epoch: i64, sequence: i64) -> Apart<Behind> {
        metrics::counter!(crate::telemetry::WATCH_DETACHED).increment(1);
        let feed = self.clone();
        apart(async move { feed.chunk_behind(epoch, sequence).await })
    }

    async fn chunk_behind(&self, epoch: i64, sequence: i64) -> Result<Behind> {
        // One reads, the others find what it read.
        let mut chunks = self.chunks.lock().await;
        let fits = |entry: &Arc<Entry>| entry.point.epoch == epoch && entry.point.sequence == sequence + 1;
        if let Some(chunk) = chunks.find(|chunk| chunk.iter().any(fits)) {
            let at = chunk.iter().position(fits).unwrap_or_default();
            return Ok(Behind::Entries(chunk[at..].into()));
        }
        let Some(rows) = self.store.log_after(self.id()?, sequence, EVENT_CHUNK).await? else {
            return Ok(Behind::Swept);
        };
        let bytes = rows.iter().map(|row| weight(row.body.len())).sum();
        let chunk: Arc<[Arc<Entry>]> = rows.into_iter().map(|row| entry(epoch, row)).collect::<Result<_>>()?;
        chunks.put(chunk.clone(), bytes);
        Ok(Behind::Entries(chunk))
    }

    pub(super) fn in_memory(&self, epoch: i64, sequence: i64) -> Option<Arc<[Arc<Entry>]>> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner).behind(epoch, sequence)
    }

    /// Whether somebody who comes back to a place that the log does not hold may have been told a drain in part from which no
    /// cursor of Dropbox leads on (`delicate.rs`); None: that turns out when the drain under way is over. Whoever was told to
    /// begin anew and comes back with the same place is told so again.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub(super) async fn is_delicate(&self, place: &ResumePoint) -> Result<Option<bool>> {
        if place.unsettled {
            return Ok(Some(true));
        }
        // Entries without an index are Dropbox's own words.
        if self.scope.raw && !place.of_index {
            return Ok(Some(false));
        }
        if self.scope.raw {
            let key = self.scope.as_ref().clone().raw(false).key();
            let (epoch, sequence) = place.told_to();
            let head = self.store.log_head_of(&key).await?;
            let of_this_life = head.filter(|head| head.epoch == epoch);
            return match of_this_life {
                Some(head) => Ok(Some(head.delicate > sequence)),
                None => self.store.was_delicate(&key, epoch, sequence).await.map(Some),
            };
        }
        if self.store.is_shared() {
            self.look().await?;
        }
        let State { head, cursor, .. } = self.state();
        // The log has other entries behind the place than those that were told: its store was put back to an earlier state.
        if place.ahead().is_some() && place.epoch == head.epoch && place.sequence >= head.swept {
            return Ok(Some(true));
        }
        let (epoch, sequence) = place.told_to();
        let may_be = head.delicate > if epoch == head.epoch { sequence } else { 0 };
        if may_be || epoch == head.epoch {
            return Ok(if may_be && cursor.is_none() { None } else { Some(may_be) });
        }
        self.store.was_delicate(&self.scope.key(), epoch, sequence).await.map(Some)
    }

    /// The log as it now is.
    pub(super) fn head(&self) -> LogHead {
        self.state.borrow().head
    }

    /// Whether the log holds what is behind this place.
    pub(super) async fn holds(&self, point: &ResumePoint) -> Result<bool> {
        let known = self.has(point).await?;
        if known || !self.store.is_shared() {
            return Ok(known);
        }
        // Another process may have told it before this one has heard of it.
        Ok(self.look().await?.is_some() && self.has(point).await?)
    }

    async fn has(&self, point: &ResumePoint) -> Result<bool> {
        let head = self.state.borrow().head;
        if point.epoch != head.epoch || point.sequence < head.swept {
            return Ok(false);
        }
        // The beginning of this life of the log: there was no entry, and none was swept.
        let is_beginning = point.sequence != head.newest && (point.sequence, point.mark) == (head.swept, 0);
        let has = is_beginning || self.has_entry(head, point.sequence, point.mark).await?;
        match point.ahead() {
            Some(ahead) if has => self.has_entry(head, ahead.until, ahead.mark).await,
            _ => Ok(has),
        }
    }

    async fn has_entry(&self, head: LogHead, sequence: i64, mark: i64) -> Result<bool> {
        if sequence >= head.newest {
            return Ok((sequence, mark) == (head.newest, head.newest_mark));
        }
        Ok(self.store.log_mark(self.id()?, sequence).await? == Some(mark))
    }

    /// The next page behind a cursor of a watcher's own; those who ask the same share one answer. That there was nothing is an
    /// answer only for who came before Dropbox was asked: it leads into the log, and whoever comes later may have been told
    /// what has come since, in other words than the log's, by a stream or a process that is gone.
    pub(super) fn drain(self: &Arc<Self>, cursor: Arc<str>) -> Apart<Arc<Drained>> {
        let feed = self.clone();
        apart(async move { feed.drain_behind(&cursor).await })
    }

    async fn drain_behind(&self, cursor: &Arc<str>) -> Result<Arc<Drained>> {
        let came_at = Instant::now();
        let mut drained = self.drained.lock().await;
        // That there was nothing is good while the log is where it was met.
        let log = self.state();
        drained.retain(|page| page.leads_on() || page.joins == Some(log.head));
        let is_good = |page: &Arc<Drained>| page.leads_on() || page.asked_at >= came_at;
        if let Some(found) = drained.find(|page| page.from == *cursor && is_good(page)) {
            return Ok(found);
        }
        let turn = self.turn().await;
        let (asked_at, log) = (Instant::now(), self.state());
        let mut page = self.upstream.go_on(&self.scope, cursor).await?;
        // The last page of a drain may be older than what happened since, also if there is nothing on it: only who asks behind
        // the end of a drain and hears of nothing has everything.
        if page.is_last_and_empty() && page.cursor != *cursor {
            page = self.upstream.go_on(&self.scope, &page.cursor).await?;
        }
        let joins = if page.is_last_and_empty() { self.joins(log).await? } else { None };
        drop(turn);
        let (observed, head) = (self.clock.now(), self.state.borrow().head);
        let changes = inferred::infer(&*self.upstream, &self.scope, page.entries).await?;
        let last = changes.len();
        let bytes = changes.iter().map(|change| weight(written(change))).sum();
        // Of the whole page: somewhere in it is a place in an equal one alone. As Dropbox tells it: whether something is called new
        // is a guess that may come out otherwise. Not of the cursor behind it, which may be another one each time.
        let mut digest = DefaultHasher::new();
        changes.iter().for_each(|change| digest.write(&serde_json::to_vec(&change.item).unwrap_or_default()));
        let (mut told, digest) = (0, digest.finish());
        let entries = changes.into_iter().map(|change| {
            told += 1;
            let place = match told < last {
                true => {
                    let page = u32::try_from(told).ok().map(|told| Box::new((told, digest)));
                    ResumePoint { page, ..ResumePoint::beside(cursor.clone(), head) }
                }
                // Whoever has all of the page goes on behind it.
                false => ResumePoint::beside(page.cursor.clone(), head),
            };
            Arc::new(Entry::new(place, observed, Told::Change(Box::new(change)), false))
        });
        let found = Arc::new(Drained {
            from: cursor.clone(),
            asked_at,
            next: ResumePoint::beside(page.cursor.clone(), head),
            has_more: page.has_more,
            entries: entries.collect(),
            joins,
        });
        drained.put(found.clone(), bytes);
        Ok(found)
    }

    /// The end of the log, if Dropbox has nothing behind the log's cursor at this moment. Two cursors cannot be compared; but
    /// one that had nothing just before is then at the same place, and whoever changes over misses nothing and is told
    /// nothing twice. `log` was looked at before the other one was asked: in a fleet it may have moved on since.
    async fn joins(&self, log: State) -> Result<Option<LogHead>> {
        let State { head, cursor: Some(cursor), .. } = log else { return Ok(None) };
        let page = match self.upstream.go_on(&self.scope, &cursor).await {
            Ok(page) => page,
            // It is the log's cursor that Dropbox forgot, which is for whoever polls to make good.
            Err(fault) if fault.reason() == Reason::CursorReset => return Ok(None),
            Err(fault) => return Err(fault),
        };
        Ok(page.is_last_and_empty().then_some(head))
    }

    /// A page of a watcher's own listing; those who list at once share one walk. The first page is good for whoever asked
    /// before Dropbox was: nobody is shown what was there before they came.
    pub(super) fn list(self: &Arc<Self>, cursor: Option<Arc<str>>) -> Apart<Page> {
        let (feed, came_at) = (self.clone(), Instant::now());
        apart(async move { feed.list_behind(cursor.as_ref(), came_at).await })
    }

    async fn list_behind(&self, cursor: Option<&Arc<str>>, came_at: Instant) -> Result<Page> {
        let listed = &mut self.walks.lock().await.listed;
        let is_it = |page: &Arc<Listed>| page.from.as_ref() == cursor && (cursor.is_some() || page.asked_at >= came_at);
        if let Some(found) = listed.find(is_it) {
            return Ok(found.page.clone());
        }
        let asked_at = Instant::now();
        let page = match cursor {
            None => self.upstream.list(&self.scope, SNAPSHOT_ITEMS_MAX).await?,
            Some(cursor) => self.upstream.go_on(&self.scope, cursor).await?,
        };
        let bytes = page.entries.iter().map(|item| size_of_val(item) + written(item)).sum();
        listed.put(Arc::new(Listed { from: cursor.cloned(), asked_at, page: page.clone() }), bytes);
        Ok(page)
    }

    /// The turn of whoever polls, in a task that nobody holds up.
    pub(super) async fn turn(&self) -> impl Drop + use<'_> {
        self.walks.lock().await
    }

    /// Room for a page that nobody works on yet.
    pub(super) fn room_ahead(&self) -> Option<OwnedSemaphorePermit> {
        self.desk.ahead.clone().try_acquire_owned().ok()
    }

    // ---- wishes ----

    pub(super) fn wish(self: &Arc<Self>, watcher: u64, poll: Option<Poll>) {
        let mut wishes = self.wishes.lock().unwrap_or_else(PoisonError::into_inner);
        match poll {
            Some(poll) => wishes.push((watcher, poll)),
            None => {
                if let Some(at) = wishes.iter().position(|(number, _)| *number == watcher) {
                    wishes.swap_remove(at);
                }
            }
        }
        drop(wishes);
        self.desk.wished(self, poll);
    }

    /// How Dropbox is to be asked: longpolls if any watcher wants them, else at the shortest interval. None: nobody watches.
    pub(super) fn wished(&self) -> Option<Poll> {
        let wishes = self.wishes.lock().unwrap_or_else(PoisonError::into_inner);
        let shorter = |one: Poll, other: Poll| match (one, other) {
            (Poll::Interval(one), Poll::Interval(other)) => Poll::Interval(one.min(other)),
            _ => Poll::Longpoll,
        };
        wishes.iter().map(|(_, poll)| *poll).reduce(shorter)
    }
}

impl Drained {
    /// There is something in it, or behind it.
    pub(super) fn leads_on(&self) -> bool {
        self.has_more || !self.entries.is_empty()
    }

    /// How many of its changes somebody has who comes back from inside it. If what came before that place is not the same any
    /// more, something has changed since, and all of it is told again.
    pub(super) fn told_to(&self, place: Option<&(u32, u64)>) -> usize {
        let told = place.and_then(|(told, _)| usize::try_from(*told).ok()).unwrap_or(0);
        let last = told.checked_sub(1).and_then(|at| self.entries.get(at));
        if last.is_some_and(|last| last.point.page.as_deref() == place) { told } else { 0 }
    }
}

impl Ended {
    /// The same fault once more.
    pub(super) fn fault(&self) -> Fault {
        let Ended(fault) = self;
        let again = Fault::new(fault.reason(), fault.message());
        let again = fault.facts().iter().fold(again, |again, (key, value)| again.fact(key, value));
        let again = match fault.retry_delay() {
            Some(delay) => again.retry_after(delay),
            None => again,
        };
        match fault.about() {
            Some(resource) => again.resource(resource.kind, resource.name.clone()),
            None => again,
        }
    }
}

fn entry(epoch: i64, row: ReadRow) -> Result<Arc<Entry>> {
    let told = match serde_json::from_str(&row.body) {
        Ok(told) => told,
        // A newer version of this program tells more: who watches through this one is not told that.
        Err(error) if error.is_data() => {
            tracing::debug!(%error, "an entry of a log was written by a newer version and is passed over");
            Told::Unknown
        }
        Err(error) => {
            let fault = Fault::new(Reason::StoreUnavailable, "an entry of a log in the store is damaged");
            return Err(fault.retry_after(FEED_RETRY).source(error));
        }
    };
    let point = ResumePoint { epoch, sequence: row.sequence, mark: row.mark, ..ResumePoint::at(row.cursor.into()) };
    Ok(Arc::new(Entry::new(point, row.observed, told, true)))
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").field("scope", &self.scope).finish_non_exhaustive()
    }
}
