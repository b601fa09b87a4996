//! What one subscriber reads. It holds a number and a cursor, and shares every entry: a slow one costs what a fast one costs.
//! It reads the log behind its place, from memory or from rows; only what is older than the log it asks of Dropbox, with the
//! cursor of its own place, and changes over to the log at a moment when both are at one place.

use std::{sync::Arc, time::Duration};

use dropbox_sdk::types::files;
use tokio::sync::watch;

use super::{
    OnReset, Options, Scope, Start,
    change::{Entry, Told},
    expand::Expanding,
    feed::{Behind, Drained, Feed, State},
    few::Few,
    inferred,
    scope::{Ahead, CheckpointName, ResumePoint},
    upstream::Page,
};
use crate::{
    apart::{Apart, apart},
    fault::{Fault, Reason, Result},
    limits::EVENT_FOLLOW,
    store::{Checkpoint, LogHead, Store},
};

/// Reads the changes of one scope behind its own place.
#[derive(Debug)]
pub struct Watcher {
    feed: Arc<Feed>,
    number: u64,
    options: Options,
    state: watch::Receiver<State>,
    mode: Mode,
    asked: Asked,
    /// What was said last.
    last: ResumePoint,
    ready: Few<Happening>,
    /// Entries that were read and not told.
    entries: Arc<[Arc<Entry>]>,
    told: usize,
    /// What a folder held is told, before the next entry.
    expanding: Option<Box<Expanding>>,
    /// It came back in the midst of that: the entry's number, and the row that was told last.
    within: Option<Box<(i64, i64)>>,
    /// It came back to a place behind which some was told.
    ahead: Option<Box<Ahead>>,
    /// Boxed, as what few watchers have: thousands are kept.
    checkpoint: Option<Box<Held>>,
}

/// What a turn of a watcher came to.
#[derive(Debug)]
pub(super) enum Worked {
    /// Something is at hand, or is to be worked on next.
    More,
    /// Nothing before something happens.
    Waits,
}

#[derive(Debug, Clone)]
enum Mode {
    /// In the log of this epoch, behind this sequence.
    Log { epoch: i64, sequence: i64 },
    /// At a place that the log does not hold: it is seen to how it goes on from there. Ready was said, or not.
    Beside { said: bool },
    /// Older than the log; `page`: somewhere in what follows it.
    Cursor { cursor: Arc<str>, page: Option<Box<(u32, u64)>> },
    /// In a listing of its own; None: it begins.
    Listing { cursor: Option<Arc<str>>, count: u64 },
}

/// What a watcher has asked in its present mode: whoever gives up the wait for the answer, for a heartbeat, finds the question
/// under way.
#[derive(Debug, Default)]
struct Asked {
    entries: Option<Apart<Behind>>,
    delicate: Option<Apart<Option<bool>>>,
    drained: Option<Apart<Arc<Drained>>>,
    page: Option<Apart<Page>>,
}

/// Why a watcher begins with a snapshot.
#[derive(Debug, Clone, Copy)]
enum Anew {
    CursorReset,
    /// The log does not go back to its place, and Dropbox's cursor alone does not lead on from it.
    LogOver,
}

#[derive(Debug)]
struct Held {
    name: CheckpointName,
    holder: String,
    /// By steady time.
    looked_at: Duration,
    look: Option<Apart<Option<Checkpoint>>>,
}

/// What a watcher is told. Each carries the place behind it.
#[derive(Debug, Clone)]
pub enum Happening {
    /// It is there: from here on changes are told as they come. Once at the beginning, behind a snapshot if there is one, and
    /// after each resync.
    Ready(ResumePoint),
    /// A page of a snapshot, some 500 items.
    Snapshot {
        items: Vec<files::Metadata>,
        point: ResumePoint,
    },
    /// All items were told, so many.
    SnapshotEnd {
        count: u64,
        point: ResumePoint,
    },
    Event(Arc<Entry>),
    /// The log has all that follows: whoever goes on from here hears of it in the log's words, and again in the same.
    Joined(ResumePoint),
    /// The last event of one drained batch was told. To be passed on if anything of the batch was.
    BatchEnd(Arc<Entry>),
    /// Dropbox forgot the cursor.
    CursorReset {
        resync: Resync,
        cause: String,
        point: ResumePoint,
    },
}

/// How a reset is made good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resync {
    /// The differences follow as events of basis SYNTHETIC, then `Ready`.
    Differences,
    /// Nothing is known of what the watcher had: a whole snapshot follows, which replaces it, then `Ready`.
    Snapshot,
}

impl Happening {
    pub fn point(&self) -> &ResumePoint {
        match self {
            Happening::Ready(point)
            | Happening::Snapshot { point, .. }
            | Happening::SnapshotEnd { point, .. }
            | Happening::Joined(point)
            | Happening::CursorReset { point, .. } => point,
            Happening::Event(entry) | Happening::BatchEnd(entry) => &entry.point,
        }
    }
}

impl Watcher {
    pub(super) async fn begin(feed: Arc<Feed>, number: u64, start: Start, options: Options) -> Result<Watcher> {
        // Whoever comes back with it before a page of the snapshot was told gets the snapshot from its beginning.
        let nowhere = ResumePoint { listed: Some(0), ..ResumePoint::at("".into()) };
        let mut watcher = Watcher {
            number,
            options,
            state: feed.subscribe(),
            mode: Mode::Listing { cursor: None, count: 0 },
            asked: Asked::default(),
            last: nowhere,
            ready: Few::new(),
            entries: Arc::default(),
            told: 0,
            expanding: None,
            within: None,
            ahead: None,
            checkpoint: None,
            feed,
        };
        metrics::gauge!(crate::telemetry::WATCH_STREAMS).increment(1.0);
        watcher.feed.wish(number, Some(options.poll));
        watcher.start(start).await?;
        Ok(watcher)
    }

    async fn start(&mut self, start: Start) -> Result<()> {
        match start {
            Start::Now => {
                let point = self.feed.now().await?;
                self.go_to(point).await
            }
            Start::Snapshot => {
                // Most mistakes show in the first page: they are refusals then, not the end of a stream.
                let page = self.feed.list(None).await?;
                self.listed(page, 0);
                Ok(())
            }
            Start::After(point) => self.go_to(point).await,
            Start::Checkpoint(name) => {
                let scope = &self.feed.scope;
                // Whoever names the place of another folder is refused, and takes the name from nobody.
                let there = self.feed.store.checkpoint(&scope.uid, name.as_str()).await?;
                if let Some(token) = there.and_then(|there| there.token) {
                    ResumePoint::unseal(self.feed.store.keys(), scope, &token)?;
                }
                let holder = uuid::Uuid::new_v4().simple().to_string();
                let kept = self.feed.store.take_checkpoint(&scope.uid, name.as_str(), &holder).await?;
                let point = match &kept.token {
                    Some(token) => ResumePoint::unseal(self.feed.store.keys(), scope, token)?,
                    None => {
                        let point = self.feed.now().await?;
                        keep(&self.feed.store, scope, &name, Some(&point)).await?;
                        point
                    }
                };
                self.checkpoint =
                    Some(Box::new(Held { name, holder, looked_at: self.feed.clock.steady(), look: None }));
                self.go_to(point).await
            }
        }
    }

    async fn go_to(&mut self, mut point: ResumePoint) -> Result<()> {
        if point.listed.is_some() && point.cursor.is_empty() {
            self.turn_to(Mode::Listing { cursor: None, count: 0 });
            // Some of the snapshot may have come already, of which the one that comes now says nothing.
            return match self.options.on_reset {
                OnReset::Resync => self.reset(forgotten()).map(drop),
                OnReset::Fail => Ok(()),
            };
        }
        point.within = point.within.filter(|_| self.options.expand);
        self.last = point.clone();
        if point.listed.is_some() || !self.feed.holds(&point).await? {
            self.turn_to(Mode::Beside { said: false });
            return self.go_on_beside(false).await.map(drop);
        }
        // The entry itself is read again.
        let sequence = point.sequence - i64::from(point.within.is_some());
        self.turn_to(Mode::Log { epoch: point.epoch, sequence });
        self.within = point.within.map(|row| Box::new((point.sequence, row)));
        self.ahead.clone_from(&point.ahead);
        if let Some(Ahead { until, within: Some(row), .. }) = self.ahead.as_deref()
            && self.options.expand
        {
            self.within = Some(Box::new((*until, *row)));
        }
        self.ready.push_back(Happening::Ready(point));
        Ok(())
    }

    /// From its last place, which the log does not hold; `said`: that it is ready.
    async fn go_on_beside(&mut self, said: bool) -> Result<Worked> {
        self.state.borrow_and_update();
        let (feed, place) = (self.feed.clone(), self.last.clone());
        let ask = || apart(async move { feed.is_delicate(&place).await });
        match Apart::once(&mut self.asked.delicate, ask).await? {
            None => return Ok(Worked::Waits),
            Some(true) => return self.begin_anew(Anew::LogOver),
            Some(false) => {}
        }
        let point = self.last.clone();
        self.ahead = None;
        match point.listed {
            Some(count) if point.whole => self.listed_whole(point.cursor, count),
            Some(count) => self.turn_to(Mode::Listing { cursor: Some(point.cursor), count }),
            None => {
                self.turn_to(Mode::Cursor { cursor: point.cursor.clone(), page: point.page.clone() });
                if !said {
                    self.ready.push_back(Happening::Ready(point));
                }
            }
        }
        Ok(Worked::More)
    }

    /// The next thing to tell. Cancel-safe: what was not returned is returned by the next call.
    ///
    /// # Errors
    /// Final: `REAUTHORIZATION_REQUIRED`, `PARAMETER_DISABLED`, `APPLICATION_PARAMETER_NOT_FOUND`, `RESUME_TOKEN_EXPIRED`
    /// (`OnReset::Fail`), `CHECKPOINT_TAKEN_OVER`, `SERVER_DRAINING`, `PATH_NOT_FOUND` and what else Dropbox says that no
    /// repeat will change. What passes by itself is waited for, unless it was this watcher's own question that failed so:
    /// then the same call may be made again.
    pub async fn next(&mut self) -> Result<Happening> {
        loop {
            if let Some(happening) = self.at_hand()? {
                return Ok(happening);
            }
            let worked = match self.read_tail() {
                Some(worked) => worked,
                // Rare and large: a quiet watcher holds none of it.
                None => Box::pin(self.work()).await?,
            };
            if let Worked::Waits = worked {
                self.wait().await;
            }
        }
    }

    /// What can be told without waiting for anything to happen.
    #[cfg(test)]
    pub(super) async fn try_next(&mut self) -> Result<Option<Happening>> {
        loop {
            if let Some(happening) = self.at_hand()? {
                return Ok(Some(happening));
            }
            if let Worked::Waits = self.work().await? {
                return Ok(None);
            }
        }
    }

    /// What it holds of the log.
    #[cfg(test)]
    pub(super) fn held(&self) -> &[Arc<Entry>] {
        &self.entries
    }

    /// What was read and is not told yet.
    ///
    /// # Errors
    /// As [`Watcher::next`].
    pub fn at_hand(&mut self) -> Result<Option<Happening>> {
        // Not before what was said last is behind it: until then places from before it are asked for.
        if self.last.ahead.is_none() {
            self.ahead = None;
        }
        let happening = if let Some(happening) = self.ready.pop_front() {
            happening
        } else {
            let Some(entry) = self.next_entry() else { return Ok(None) };
            self.tell(entry)?
        };
        self.last = self.with_ahead(happening.point()).unwrap_or_else(|| happening.point().clone());
        Ok(Some(happening))
    }

    /// `None`: all that was read is told.
    fn next_entry(&mut self) -> Option<Arc<Entry>> {
        loop {
            if let Some(expanding) = &mut self.expanding {
                let next = expanding.next();
                if next.is_some() || !expanding.is_over() {
                    return next;
                }
                self.expanding = None;
            }
            let entry = self.entries.get(self.told).cloned()?;
            self.told += 1;
            // That a batch is over was said if all of it was told.
            let is_end = matches!(entry.told, Told::BatchEnd);
            if matches!(entry.told, Told::Unknown) || (self.was_told(&entry) && !is_end) {
                continue;
            }
            let within = self.within.take_if(|within| entry.logged && entry.point.sequence == within.0);
            if !self.options.expand || entry.folder().is_none() {
                return Some(entry);
            }
            self.expanding = Some(Box::new(Expanding::behind(entry, within.map(|within| within.1))));
        }
    }

    fn was_told(&self, entry: &Entry) -> bool {
        // Of its rows some were not.
        let is_within = self.within.as_ref().is_some_and(|within| within.0 == entry.point.sequence);
        let was_told = |ahead: &Ahead| ahead.was_told(entry.point.sequence);
        entry.logged && !is_within && self.ahead.as_deref().is_some_and(was_told)
    }

    /// Some of what comes was told before this watcher began.
    pub fn is_ahead(&self) -> bool {
        self.ahead.is_some()
    }

    /// A place with what was told behind it before this watcher began; `None`: nothing was.
    pub fn with_ahead(&self, point: &ResumePoint) -> Option<ResumePoint> {
        self.ahead.as_deref().map(|ahead| point.clone().with_ahead(ahead))
    }

    /// The newest entry that may have been told to somebody before this moment: epoch and number.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn told_until(&self) -> Result<(i64, i64)> {
        let feed = self.feed.clone();
        // Another process may have told more than this one has heard of.
        let look = async move { if feed.store.is_shared() { feed.look().await.map(drop) } else { Ok(()) } };
        apart(look).await?;
        let head = self.state.borrow().head;
        Ok((head.epoch, head.newest))
    }

    /// Entries of the log that are in memory; `None`: it takes more than that to go on.
    fn read_tail(&mut self) -> Option<Worked> {
        let Mode::Log { epoch, sequence } = self.mode else { return None };
        if self.checkpoint.is_some() || self.expanding.is_some() {
            return None;
        }
        let state = self.state.borrow_and_update();
        if state.ended.is_some() || state.head.epoch != epoch {
            return None;
        }
        if state.head.newest <= sequence {
            return Some(Worked::Waits);
        }
        drop(state);
        let entries = self.feed.in_memory(epoch, sequence)?;
        self.take(epoch, entries);
        Some(Worked::More)
    }

    fn take(&mut self, epoch: i64, entries: Arc<[Arc<Entry>]>) {
        if let Some(last) = entries.last() {
            self.turn_to(Mode::Log { epoch, sequence: last.point.sequence });
        }
        (self.entries, self.told) = (entries, 0);
    }

    /// What was asked in another mode is not of interest any more.
    fn turn_to(&mut self, mode: Mode) {
        (self.mode, self.asked) = (mode, Asked::default());
    }

    async fn work(&mut self) -> Result<Worked> {
        if let Some(ended) = &self.state.borrow().ended {
            return Err(ended.fault());
        }
        self.hold().await?;
        if let Some(expanding) = &mut self.expanding {
            // Later pages of the drain may say more of what the folder held: a file that was moved with it has another rev.
            if self.state.borrow_and_update().settled < expanding.sequence() {
                return Ok(Worked::Waits);
            }
            if expanding.read(&self.feed).await? {
                return Ok(Worked::More);
            }
            // With what came behind it: all that is told otherwise.
            (self.expanding, self.entries, self.told) = (None, Arc::default(), 0);
            self.turn_to(Mode::Beside { said: true });
            return Ok(Worked::More);
        }
        match self.mode.clone() {
            Mode::Log { epoch, sequence } => self.read(epoch, sequence).await,
            Mode::Beside { said } => self.go_on_beside(said).await,
            Mode::Cursor { cursor, page } => self.drain(cursor, page.as_deref()).await,
            Mode::Listing { cursor, count } => match Apart::once(&mut self.asked.page, || self.feed.list(cursor)).await
            {
                Ok(page) => {
                    self.listed(page, count);
                    Ok(Worked::More)
                }
                Err(fault) => self.reset(fault),
            },
        }
    }

    pub(super) async fn read(&mut self, epoch: i64, sequence: i64) -> Result<Worked> {
        let State { head, ended, .. } = self.state.borrow_and_update().clone();
        if head.epoch != epoch {
            return self.reset(forgotten());
        }
        if head.newest <= sequence {
            // Of an end that came with this look nothing more would be heard.
            return ended.map_or(Ok(Worked::Waits), |ended| Err(ended.fault()));
        }
        if let Some(entries) = self.feed.in_memory(epoch, sequence) {
            self.take(epoch, entries);
            return Ok(Worked::More);
        }
        match Apart::once(&mut self.asked.entries, || self.feed.behind(epoch, sequence)).await? {
            Behind::Swept => self.turn_to(Mode::Beside { said: true }),
            Behind::Entries(entries) => self.take(epoch, entries),
        }
        Ok(Worked::More)
    }

    async fn drain(&mut self, cursor: Arc<str>, within: Option<&(u32, u64)>) -> Result<Worked> {
        // While the log itself is behind, the two cannot meet.
        if !self.state.borrow_and_update().hot {
            return Ok(Worked::Waits);
        }
        let page = match Apart::once(&mut self.asked.drained, || self.feed.drain(cursor)).await {
            Ok(page) => page,
            Err(fault) => return self.reset(fault),
        };
        (self.entries, self.told) = (page.entries.clone(), page.told_to(within));
        self.turn_to(match page.joins {
            Some(head) => Mode::Log { epoch: head.epoch, sequence: head.newest },
            None => Mode::Cursor { cursor: page.next.cursor.clone(), page: None },
        });
        if let Some(LogHead { epoch, newest, newest_mark, .. }) = page.joins {
            let place = ResumePoint::at(page.next.cursor.clone());
            self.ready.push_back(Happening::Joined(ResumePoint {
                epoch,
                sequence: newest,
                mark: newest_mark,
                ..place
            }));
        } else if page.entries.is_empty() {
            self.last = page.next.clone();
        }
        if page.leads_on() || page.joins.is_some() {
            return Ok(Worked::More);
        }
        // Something is on its way into the log: it is there in a moment, then both are compared again.
        self.feed.ring();
        Ok(Worked::Waits)
    }

    fn listed(&mut self, page: Page, count: u64) {
        let items = inferred::listed(&self.feed.scope, page.entries);
        let count = count + items.len() as u64;
        if !items.is_empty() {
            let place = ResumePoint::beside(page.cursor.clone(), self.feed.state().head);
            let point = ResumePoint { listed: Some(count), whole: !page.has_more, ..place };
            self.ready.push_back(Happening::Snapshot { items, point });
        }
        if page.has_more {
            self.turn_to(Mode::Listing { cursor: Some(page.cursor), count });
            return;
        }
        self.listed_whole(page.cursor, count);
    }

    fn listed_whole(&mut self, cursor: Arc<str>, count: u64) {
        let point = ResumePoint::beside(cursor.clone(), self.feed.state().head);
        self.ready.push_back(Happening::SnapshotEnd { count, point: point.clone() });
        self.ready.push_back(Happening::Ready(point));
        self.turn_to(Mode::Cursor { cursor, page: None });
    }

    fn tell(&mut self, entry: Arc<Entry>) -> Result<Happening> {
        Ok(match &entry.told {
            Told::Change(_) => {
                let waited = self.feed.clock.now().duration_since(entry.observed).unwrap_or_default();
                self.feed.lag.record(waited.as_secs_f64());
                Happening::Event(entry)
            }
            Told::BatchEnd => Happening::BatchEnd(entry),
            Told::Resynced => Happening::Ready(entry.point.clone()),
            Told::CursorReset { .. } if self.options.on_reset == OnReset::Fail => {
                return Err(expired(Anew::CursorReset));
            }
            Told::Unknown => return Err(Fault::bug("an entry that was to be passed over is told")),
            Told::CursorReset { cause } => {
                let (cause, point) = (cause.clone(), entry.point.clone());
                Happening::CursorReset { resync: Resync::Differences, cause, point }
            }
        })
    }

    /// Whether a fault is one that a snapshot makes good.
    fn reset(&mut self, fault: Fault) -> Result<Worked> {
        if fault.reason() != Reason::CursorReset {
            return Err(fault);
        }
        self.begin_anew(Anew::CursorReset)
    }

    fn begin_anew(&mut self, why: Anew) -> Result<Worked> {
        if self.options.on_reset == OnReset::Fail {
            return Err(expired(why));
        }
        let cause = match why {
            Anew::CursorReset => "cursor_reset",
            Anew::LogOver => "log_swept",
        };
        let cause = cause.to_owned();
        // Whoever comes back with this place is told so again, and gets the snapshot from its beginning.
        let point = ResumePoint { listed: Some(0), ..ResumePoint::at("".into()) };
        self.ready.push_back(Happening::CursorReset { resync: Resync::Snapshot, cause, point });
        self.ahead = None;
        self.turn_to(Mode::Listing { cursor: None, count: 0 });
        Ok(Worked::More)
    }

    /// Until the log has moved, or it is time to look again.
    async fn wait(&mut self) {
        let beside = matches!(self.mode, Mode::Beside { .. } | Mode::Cursor { .. });
        if self.checkpoint.is_none() && !beside {
            let _ = self.state.changed().await;
            return;
        }
        let look = self.feed.clock.sleep(EVENT_FOLLOW);
        // Boxed: most watchers never look by themselves, and keep no room for it.
        futures::future::select(Box::pin(self.state.changed()), look).await;
    }

    /// A name is held by one stream.
    async fn hold(&mut self) -> Result<()> {
        let now = self.feed.clock.steady();
        let Some(held) = &mut self.checkpoint else { return Ok(()) };
        if now.saturating_sub(held.looked_at) < EVENT_FOLLOW {
            return Ok(());
        }
        let (feed, name) = (self.feed.clone(), held.name.clone());
        // With a connection of the store in hand.
        let look = || apart(async move { feed.store.checkpoint(&feed.scope.uid, name.as_str()).await });
        let found = Apart::once(&mut held.look, look).await;
        held.looked_at = now;
        match found {
            // Kept anew under a name that was forgotten meanwhile, it is held by nobody.
            Ok(Some(found)) if found.holder != held.holder && !found.holder.is_empty() => {
                let text = format!("another stream took over the checkpoint {}", held.name.as_str());
                Err(Fault::new(Reason::CheckpointTakenOver, text).fact("checkpoint", held.name.as_str()))
            }
            // Forgotten, or a store that does not answer now: nobody took it.
            _ => Ok(()),
        }
    }

    /// Sees to it that Dropbox is asked whether there is more, unless it would say so by itself.
    pub fn look(&self) {
        if !self.state.borrow().is_listening() {
            self.feed.ring();
        }
    }

    pub fn scope(&self) -> &Scope {
        &self.feed.scope
    }

    /// Whether `next` would have to wait for something to happen.
    pub fn is_caught_up(&self) -> bool {
        let at_end = match &self.mode {
            Mode::Log { epoch, sequence } => {
                let state = self.state.borrow();
                state.head.epoch == *epoch && state.head.newest <= *sequence && state.ended.is_none()
            }
            Mode::Beside { .. } | Mode::Cursor { .. } | Mode::Listing { .. } => false,
        };
        let expanded = self.expanding.as_deref().is_none_or(Expanding::is_over);
        at_end && expanded && self.ready.is_empty() && self.told >= self.entries.len()
    }

    /// The place for a heartbeat: behind all that was told, and at the newest cursor where nothing is missing.
    pub fn point(&self) -> ResumePoint {
        // It looks at the state, too: whoever looks twice at once waits for a writer that waits for the first look.
        let is_caught_up = self.is_caught_up();
        let state = self.state.borrow();
        if let (true, Mode::Log { epoch, sequence }, Some(cursor)) = (is_caught_up, &self.mode, &state.cursor)
            && (state.head.epoch, state.head.newest) == (*epoch, *sequence)
        {
            let mark = state.head.newest_mark;
            let (epoch, sequence) = (*epoch, *sequence);
            return ResumePoint { epoch, sequence, mark, ..ResumePoint::at(cursor.clone()) };
        }
        self.last.clone()
    }

    /// How long ago what this watcher has was all there was to have: zero while a longpoll is out and it has everything.
    /// Before Dropbox was reached it counts from the beginning of the feed.
    pub fn lag(&self) -> Duration {
        let (now, state) = (self.feed.clock.now(), self.state.borrow());
        match self.entries.get(self.told) {
            // An entry may be of another process, or of a life ago: it knows the time of day only.
            Some(entry) => now.duration_since(entry.observed).unwrap_or_default(),
            None if state.hot && state.is_listening() => Duration::ZERO,
            None => self.feed.clock.steady().saturating_sub(state.fresh_at.unwrap_or(self.feed.born)),
        }
    }

    /// When Dropbox was last asked for what the log has now, or another process that polls it what it has saved, by steady
    /// time; None: not since this process follows the folder.
    pub fn looked_at(&self) -> Option<Duration> {
        let state = self.state.borrow();
        if state.hot && state.is_listening() {
            return Some(self.feed.clock.steady());
        }
        state.fresh_at.max(state.followed_at)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        metrics::gauge!(crate::telemetry::WATCH_STREAMS).decrement(1.0);
        self.feed.wish(self.number, None);
    }
}

/// Keeps a place under a name; None forgets the name.
pub(super) async fn keep(store: &Store, scope: &Scope, name: &CheckpointName, at: Option<&ResumePoint>) -> Result<()> {
    let token = at.map(|point| point.seal(store.keys(), scope)).transpose()?;
    store.acknowledge(&scope.uid, name.as_str(), token.as_deref()).await
}

/// The log this watcher was in is over.
fn forgotten() -> Fault {
    Fault::new(Reason::CursorReset, "Dropbox forgot the cursor of this folder")
}

fn expired(why: Anew) -> Fault {
    let text = match why {
        Anew::CursorReset => "Dropbox forgot the cursor of this folder; what changed cannot be told",
        Anew::LogOver => "the log of this folder does not go back to this token; what changed cannot be told in full",
    };
    Fault::new(Reason::ResumeTokenExpired, text)
}
