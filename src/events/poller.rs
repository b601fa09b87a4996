//! The one who polls a scope, as steps: each asks Dropbox one question, or settles one portion, and saves what came of it in
//! one transaction together with the cursor. A crash between two steps loses nothing, within one repeats what nobody was
//! told of. When to take a step is the feed's to say.

mod lease;

use std::{sync::Arc, time::Duration};

use dropbox_sdk::types::files::Metadata;
use futures::{
    FutureExt as _,
    future::{Either, select},
};
use rand::Rng as _;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;

use super::{
    Scope, Upstream,
    change::{Basis, Change, Entry, Told},
    delicate::Midst,
    ending,
    feed::Feed,
    index::Tree,
    inferred::infer,
    loading,
    scope::{ResumePoint, new_epoch},
    seen::{Base, Seen},
    upstream::Page,
};
use crate::{
    fault::{Fault, Reason, Result},
    limits::{EVENT_SLICE, FEED_RETRY, INDEX_LOOK_EVERY, INDEX_ROUNDS_MAX, LIST_LIMIT_MAX},
    store::{DrainRow, IndexWrites, LogRow, Save, ScopeRow, Store},
};

/// How far a walk through a cursor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) enum Stage {
    #[default]
    Idle,
    /// Dropbox has more pages.
    Draining,
    /// It has not; what waited is settled in portions.
    Ending,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) enum Phase {
    #[default]
    None,
    /// It is built from a listing; the log goes on without it.
    Listing,
    /// It is brought past the log, without telling.
    Catching,
    /// One drain of the log goes into it, too.
    Joining,
    /// The log is made by it.
    Standing,
    /// After a reset it is compared with a new listing.
    Comparing,
}

/// What is kept of a scope beside index and log.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Progress {
    /// Dropbox's, behind the last page that was saved.
    pub(super) cursor: Option<Arc<str>>,
    stage: Stage,
    /// Before the drain under way, or the one that an index is to begin with.
    from: Option<Arc<str>>,
    drain: i64,
    mark: i64,
    /// This drain told something.
    told: bool,
    phase: Phase,
    /// Of the listing that builds the index.
    other: Option<Arc<str>>,
    other_stage: Stage,
    /// Drains of the index's own that the log may have passed.
    rounds: u32,
    next: i64,
    stamp: i64,
    /// What the drain under way has moved.
    midst: Midst,
    /// What a newer version of this program has added; it is written back as it was.
    #[serde(flatten)]
    newer: serde_json::Map<String, serde_json::Value>,
}

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// There is more to do.
    Worked,
    /// Nothing is to be done before Dropbox has news.
    Idle,
    /// Another process has the scope.
    Lost,
    /// What is known of the folder is not there any more: it was swept.
    Gone,
}

#[derive(Debug)]
pub(super) struct Poller {
    feed: Arc<Feed>,
    row: ScopeRow,
    progress: Progress,
    held: bool,
    /// Dropbox is to be asked what changed.
    pub(super) news: bool,
    /// When Dropbox was last asked what changed, by steady time.
    pub(super) looked_at: Option<Duration>,
    /// The log told something since the index's drain under way began: it may have passed it.
    overtaken: bool,
    /// The log was asked last: the index comes next, however often somebody rings.
    index_is_next: bool,
    /// While a drain ends: rows up to this number are still needed by moves.
    gone_after: i64,
    ahead: Option<Ahead>,
}

/// The next page of the listing that builds the index.
#[derive(Debug)]
struct Ahead {
    from: Arc<str>,
    page: Page,
    _room: OwnedSemaphorePermit,
}

/// One save under preparation.
#[derive(Default)]
struct Draft {
    told: Vec<(Told, bool)>,
    index: IndexWrites,
    cursor_to: Option<Arc<str>>,
    forget_log: bool,
}

impl Poller {
    /// With the scope's row, made if there is none.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    #[cfg(test)]
    pub(super) async fn open(feed: Arc<Feed>) -> Result<Poller> {
        feed.row().await?;
        Poller::of(feed)
    }

    /// It knows nothing before it takes the lease.
    ///
    /// # Errors
    /// `CONNECTOR_BUG` for a feed whose row was not made.
    pub(super) fn of(feed: Arc<Feed>) -> Result<Poller> {
        let head = feed.state().head;
        let row = ScopeRow { id: feed.id()?, lease: 0, version: -1, head, progress: String::new() };
        Ok(Poller {
            feed,
            row,
            progress: Progress::default(),
            held: false,
            news: true,
            looked_at: None,
            overtaken: true,
            index_is_next: false,
            gone_after: 0,
            ahead: None,
        })
    }

    /// The log is up to date, whatever the index is at.
    pub(super) fn is_at_rest(&self) -> bool {
        self.progress.cursor.is_some() && self.progress.is_settled() && !self.news
    }

    pub(super) fn cursor(&self) -> Option<Arc<str>> {
        self.progress.cursor.clone()
    }

    fn store(&self) -> &Store {
        &self.feed.store
    }

    fn scope(&self) -> &Scope {
        &self.feed.scope
    }

    fn upstream(&self) -> &dyn Upstream {
        &*self.feed.upstream
    }

    /// # Errors
    /// Without a delay: nothing will help, the watchers are to be told. With one: to be tried again.
    pub(super) async fn step(&mut self) -> Result<Step> {
        let stepped = self.turn().await;
        if stepped.is_err() {
            // Whatever Dropbox said is not saved: it is asked again.
            self.news = true;
        }
        stepped
    }

    async fn turn(&mut self) -> Result<Step> {
        let progress = &self.progress;
        if progress.cursor.is_none() && progress.phase != Phase::Comparing {
            return self.begin().await;
        }
        let joining = progress.phase == Phase::Joining;
        if progress.stage == Stage::Ending || (joining && progress.other_stage == Stage::Ending) {
            return self.end().await;
        }
        if progress.stage == Stage::Draining || self.news || joining {
            return self.page().await;
        }
        if self.scope().raw || progress.is_indexed() || self.feed.index_rests().is_some() {
            return Ok(Step::Idle);
        }
        match progress.other_stage {
            Stage::Ending => self.end().await,
            _ if progress.phase != Phase::None && self.is_look_due() => {
                self.news = true;
                Ok(Step::Worked)
            }
            _ => self.listing(progress.other.clone()).await,
        }
    }

    /// Whoever watches does not wait for the index, unless the log got ahead of it so often.
    fn is_look_due(&self) -> bool {
        let Progress { rounds, other_stage, .. } = self.progress;
        if self.index_is_next || (rounds >= INDEX_ROUNDS_MAX && other_stage == Stage::Draining) {
            return false;
        }
        let rang = self.feed.bell.notified().now_or_never().is_some();
        let now = self.feed.clock.steady();
        let looked = |at| now.saturating_sub(at) < INDEX_LOOK_EVERY;
        rang || !self.looked_at.is_some_and(looked)
    }

    async fn ask(&self, cursor: Option<&Arc<str>>) -> Result<Page> {
        let _turn = self.feed.turn().await;
        match cursor {
            Some(cursor) => self.upstream().go_on(self.scope(), cursor).await,
            None => self.upstream().list(self.scope(), LIST_LIMIT_MAX).await,
        }
    }

    /// The page behind one that is worked on, if there is room for it, and somebody who watches: else the work may end at any step.
    /// What Dropbox says instead of it is heard when it is asked again.
    async fn ask_ahead(feed: Arc<Feed>, from: Option<Arc<str>>) -> Option<Ahead> {
        let from = from.filter(|_| feed.wished().is_some())?;
        let _turn = feed.turn().await;
        let room = feed.room_ahead()?;
        let page = feed.upstream.go_on(&feed.scope, &from).await.ok()?;
        Some(Ahead { from, page, _room: room })
    }

    async fn begin(&mut self) -> Result<Step> {
        self.looked_at = Some(self.feed.clock.steady());
        let cursor = self.feed.latest().await?;
        let progress = Progress { cursor: Some(cursor), stage: Stage::Idle, from: None, ..self.progress.clone() };
        self.news = false;
        self.save(progress, Draft::default()).await
    }

    /// The next page of what the log is made of.
    async fn page(&mut self) -> Result<Step> {
        let asked_at = self.feed.clock.steady();
        self.index_is_next = true;
        let page = match self.ask(self.progress.cursor.as_ref()).await {
            Ok(page) => page,
            Err(fault) => return self.reset_by(fault).await,
        };
        self.looked_at = Some(asked_at);
        // What comes from here on is news again, also while the drain goes on.
        self.news = false;
        let mut progress = self.progress.clone();
        if progress.from.is_none() {
            progress.from = progress.cursor.clone();
            progress.begin_drain();
        }
        let was_idle = progress.stage == Stage::Idle;
        progress.cursor = Some(page.cursor.clone());
        progress.stage = if page.has_more { Stage::Draining } else { Stage::Ending };
        let indexed = progress.is_indexed();
        if page.entries.is_empty() && was_idle && !page.has_more {
            let mut progress = Progress { cursor: progress.cursor, from: None, ..self.progress.clone() };
            if progress.phase == Phase::Joining {
                self.stand(&mut progress);
            }
            return match progress == self.progress {
                true => Ok(Step::Worked),
                false => self.save(progress, Draft::default()).await,
            };
        }
        self.overtaken = true;
        let mut draft = Draft::default();
        if indexed {
            let basis = if progress.phase == Phase::Comparing { Basis::Synthetic } else { Basis::Index };
            let Some((tree, changes, index)) = self.apply(page.entries, basis, &mut progress).await? else {
                return Ok(Step::Gone);
            };
            if tree.lost {
                return self.compare("folder_deleted").await;
            }
            draft.index = index;
            draft.told = changes.into_iter().map(|change| (Told::Change(Box::new(change)), false)).collect();
            // Nothing is left to be settled: the usual case, one transaction for a change.
            if !page.has_more && was_idle && progress.phase == Phase::Standing && tree.is_settled_whole() {
                self.finish(&mut progress, &mut draft);
            }
        } else {
            // Without an index Dropbox's words are guessed at.
            let joint = (progress.phase == Phase::Joining).then(|| page.entries.clone());
            match infer(self.upstream(), self.scope(), page.entries).await {
                Ok(changes) => {
                    draft.told = changes.into_iter().map(|change| (Told::Change(Box::new(change)), false)).collect();
                }
                Err(fault) if fault.reason() == Reason::CursorReset => return self.compare("folder_deleted").await,
                Err(fault) => return Err(fault),
            }
            let joins = joint.is_some();
            if let Some(entries) = joint {
                let Some(applied) = self.apply(entries, Basis::Index, &mut progress).await? else {
                    return Ok(Step::Gone);
                };
                draft.index = applied.2;
            }
            if !page.has_more {
                self.finish(&mut progress, &mut draft);
                // What waits in the index is settled before anything else is asked.
                progress.other_stage = if joins { Stage::Ending } else { progress.other_stage };
            }
        }
        progress.told |= !draft.told.is_empty();
        self.save(progress, draft).await
    }

    /// The next page of the listing that builds the index, or of what changed since it ended: nothing is told of it.
    async fn listing(&mut self, cursor: Option<Arc<str>>) -> Result<Step> {
        self.index_is_next = false;
        if self.progress.other_stage == Stage::Idle {
            self.overtaken = false;
        }
        let asked = match self.ahead.take().filter(|ahead| cursor.as_ref() == Some(&ahead.from)) {
            Some(ahead) => Ok(ahead.page),
            None => self.ask(cursor.as_ref()).await,
        };
        let page = match asked {
            Ok(page) => page,
            Err(fault) if fault.reason() == Reason::CursorReset => return self.build_anew().await,
            Err(fault) if fault.reason() == Reason::PathNotFound => return self.reset_by(fault).await,
            // That is no fault of the log, which goes on without an index.
            Err(fault) => {
                self.feed.rest_from_index(&fault);
                return Ok(Step::Idle);
            }
        };
        self.feed.index_goes_on();
        let next = page.has_more.then(|| page.cursor.clone());
        let ahead = Box::pin(Poller::ask_ahead(self.feed.clone(), next));
        let (listed, ahead) = match select(ahead, Box::pin(self.listed(page))).await {
            Either::Left((ahead, listed)) => (listed.await, ahead),
            Either::Right((Ok(Step::Worked), ahead)) => (Ok(Step::Worked), ahead.await),
            Either::Right((ended, _)) => (ended, None),
        };
        self.ahead = ahead;
        listed
    }

    async fn listed(&mut self, page: Page) -> Result<Step> {
        let mut progress = self.progress.clone();
        if progress.phase == Phase::None {
            // What a forgotten index left behind has to be gone first: it has the same ids.
            while self.store().empty_index_trash(self.row.id).await? {}
            (progress.phase, progress.next, progress.stamp) = (Phase::Listing, 0, 0);
        }
        progress.other = Some(page.cursor.clone());
        progress.other_stage = if page.has_more { Stage::Draining } else { Stage::Ending };
        let Some((tree, _, index)) = self.apply(page.entries, Basis::Index, &mut progress).await? else {
            return Ok(Step::Gone);
        };
        if tree.lost {
            // What the former folder held is in there.
            return self.build_anew().await;
        }
        self.save(progress, Draft { index, ..Draft::default() }).await
    }

    async fn build_anew(&mut self) -> Result<Step> {
        let progress = forgotten(&self.progress);
        let index = IndexWrites { forget: true, ..IndexWrites::default() };
        self.save(progress, Draft { index, ..Draft::default() }).await
    }

    /// None: the scope is not there any more. Nobody was at it for long, by the time of day, and it was swept meanwhile.
    async fn apply(
        &self,
        entries: Vec<Metadata>,
        basis: Basis,
        progress: &mut Progress,
    ) -> Result<Option<(Tree, Vec<Change>, IndexWrites)>> {
        let base = Base::of(&self.scope().path);
        let entries: Vec<Seen> = entries.into_iter().filter_map(|item| Seen::of(item, &base)).collect();
        let mut tree = Tree::new(base, basis, progress.next, progress.stamp);
        if progress.is_indexed() {
            tree.log_behind(self.row.head.newest);
        }
        if progress.next > 0 && !loading::for_page(self.store(), self.row.id, &mut tree, &entries).await? {
            return Ok(None);
        }
        tree.page(entries);
        let (changes, index) = tree.done();
        (progress.next, progress.stamp) = (tree.next, tree.stamp);
        Ok(Some((tree, changes, index)))
    }

    /// One portion of the end of a drain.
    async fn end(&mut self) -> Result<Step> {
        let (store, id) = (self.store().clone(), self.row.id);
        if store.empty_index_trash(id).await? {
            return Ok(Step::Worked);
        }
        let mut progress = self.progress.clone();
        // A drain of the index's own, or one that went into it beside the log.
        let silent = progress.stage != Stage::Ending;
        let indexed = silent || progress.is_indexed();
        let (moves, gone) = match indexed {
            true => {
                (store.waiting(id, true, EVENT_SLICE).await?, store.index_gone(id, self.gone_after, EVENT_SLICE).await?)
            }
            false => (Vec::new(), Vec::new()),
        };
        let whole = self.gone_after == 0 && gone.len() < EVENT_SLICE;
        let rest = match gone.is_empty() && self.gone_after == 0 && indexed {
            true => store.waiting(id, false, EVENT_SLICE).await?,
            false => Vec::new(),
        };
        if gone.is_empty() && self.gone_after > 0 {
            // All that is gone is needed by moves: the first of them gives way.
            self.gone_after = 0;
            let first = store.index_gone(id, 0, EVENT_SLICE).await?;
            return self.settle(progress, &moves, &first, true, &[], silent).await;
        }
        if moves.is_empty() && gone.is_empty() && rest.is_empty() {
            let mut draft = Draft::default();
            if silent {
                self.after_index_drain(&mut progress);
            } else {
                self.finish(&mut progress, &mut draft);
            }
            return self.save(progress, draft).await;
        }
        self.settle(progress, &moves, &gone, whole, &rest, silent).await
    }

    async fn settle(
        &mut self,
        mut progress: Progress,
        moves: &[crate::store::WaitingRow],
        gone: &[crate::store::IndexRow],
        whole: bool,
        rest: &[crate::store::WaitingRow],
        silent: bool,
    ) -> Result<Step> {
        let basis = if progress.phase == Phase::Comparing { Basis::Synthetic } else { Basis::Index };
        let base = Base::of(&self.scope().path);
        let mut tree = Tree::new(base, basis, progress.next, progress.stamp);
        if !silent {
            tree.log_behind(self.row.head.newest);
        }
        if !loading::for_end(self.store(), self.row.id, &mut tree, &[moves, rest], gone).await? {
            return Ok(Step::Gone);
        }
        let numbers: Vec<i64> = gone.iter().map(|row| row.n).collect();
        if !ending::step(&mut tree, moves, &numbers, whole, rest) {
            self.gone_after = numbers.last().copied().unwrap_or(0);
            return Ok(Step::Worked);
        }
        self.gone_after = 0;
        let (changes, index) = tree.done();
        (progress.next, progress.stamp) = (tree.next, tree.stamp);
        let mut draft = Draft { index, ..Draft::default() };
        if !silent {
            draft.told = changes.into_iter().map(|change| (Told::Change(Box::new(change)), false)).collect();
            progress.told |= !draft.told.is_empty();
        }
        self.save(progress, draft).await
    }

    /// The log's drain is over.
    fn finish(&mut self, progress: &mut Progress, draft: &mut Draft) {
        if progress.phase == Phase::Comparing {
            // What changed while it was listed comes with the cursor of the listing.
            self.news = true;
            progress.phase = Phase::Standing;
            draft.told.push((Told::Resynced, true));
        } else if progress.told || !draft.told.is_empty() {
            draft.told.push((Told::BatchEnd, true));
        }
        draft.cursor_to.clone_from(&progress.cursor);
        (progress.stage, progress.told) = (Stage::Idle, false);
    }

    /// A drain that was not told is over. If the log told nothing since a drain of the index's own began, the index is past the
    /// log: the next drain of the log goes into both, and then the index stands.
    fn after_index_drain(&mut self, progress: &mut Progress) {
        progress.other_stage = Stage::Idle;
        match progress.phase {
            Phase::Joining => self.stand(progress),
            _ if self.overtaken => {
                (progress.phase, progress.rounds) = (Phase::Catching, progress.rounds.saturating_add(1))
            }
            _ => progress.phase = Phase::Joining,
        }
    }

    /// The index is what the log has told so far: from here on it makes the log, by a drain from its own cursor. What that
    /// one finds is told behind where the log is now.
    fn stand(&mut self, progress: &mut Progress) {
        (progress.from, progress.cursor) = (progress.cursor.take(), progress.other.take());
        (progress.phase, progress.rounds) = (Phase::Standing, 0);
        progress.begin_drain();
        self.news = true;
    }

    /// Dropbox forgot the cursor, or the folder is not there any more.
    async fn reset_by(&mut self, fault: Fault) -> Result<Step> {
        let cause = match fault.reason() {
            Reason::CursorReset => "cursor_reset",
            // A folder that is not there when it is listed anew is not there.
            Reason::PathNotFound if self.progress.cursor.is_some() => "folder_deleted",
            _ => return Err(fault),
        };
        self.compare(cause).await
    }

    async fn compare(&mut self, cause: &str) -> Result<Step> {
        metrics::counter!(crate::telemetry::WATCH_RESETS).increment(1);
        tracing::info!(cause, "a watched folder is compared anew");
        let mut progress = self.progress.clone();
        self.gone_after = 0;
        if !progress.is_indexed() {
            // What happened meanwhile cannot be found out: this log is over, and whoever reads it begins with a snapshot.
            progress = Progress { cursor: None, stage: Stage::Idle, from: None, ..forgotten(&progress) };
            self.row.head.epoch = new_epoch();
            let index = IndexWrites { forget: true, ..IndexWrites::default() };
            return self.save(progress, Draft { index, forget_log: true, ..Draft::default() }).await;
        }
        let base = Base::of(&self.scope().path);
        let mut tree = Tree::new(base, Basis::Synthetic, progress.next, progress.stamp);
        tree.load(self.store().index_upwards(self.row.id, &[crate::store::INDEX_ROOT]).await?);
        if !tree.knows(crate::store::INDEX_ROOT) {
            return Ok(Step::Gone);
        }
        tree.doubt_all();
        let (_, mut index) = tree.done();
        // The listing says it again.
        index.unwait_all = true;
        let from = progress.from.take().or(progress.cursor.take());
        progress = Progress {
            from,
            cursor: None,
            stage: Stage::Draining,
            phase: Phase::Comparing,
            drain: progress.drain + 1,
            mark: rand::rng().random(),
            told: true,
            next: tree.next,
            stamp: tree.stamp,
            ..progress
        };
        let told = vec![(Told::CursorReset { cause: cause.to_owned() }, false)];
        self.save(progress, Draft { told, index, ..Draft::default() }).await
    }

    /// Saves, then publishes.
    async fn save(&mut self, mut progress: Progress, draft: Draft) -> Result<Step> {
        let observed_at = Store::stamp(self.feed.clock.now());
        // As whoever reads the row finds it.
        let observed = Store::stamped(observed_at);
        let from = progress.from.clone().unwrap_or_default();
        let mut head = self.row.head;
        let (mut log, mut entries) = (Vec::new(), Vec::new());
        for (told, ends) in draft.told {
            progress.midst.tell(&told, head);
            head.newest += 1;
            head.newest_mark = progress.mark;
            let body = serde_json::to_string(&told)
                .map_err(|error| Fault::bug("an entry cannot be written as JSON").source(error))?;
            let cursor = if ends { draft.cursor_to.clone().unwrap_or_default() } else { from.clone() };
            let (epoch, sequence) = (head.epoch, head.newest);
            let point = ResumePoint { epoch, sequence, mark: progress.mark, ..ResumePoint::at(cursor) };
            let bytes = body.len();
            log.push(LogRow { sequence: head.newest, drain: progress.drain, observed_at, ends: i64::from(ends), body });
            entries.push((Arc::new(Entry::new(point, observed, told, true)), bytes));
        }
        let drain = (!log.is_empty()).then(|| DrainRow {
            drain: progress.drain,
            mark: progress.mark,
            cursor_from: from.to_string(),
            cursor_to: draft.cursor_to.as_ref().map(ToString::to_string),
        });
        if draft.cursor_to.is_some() {
            progress.from = None;
        }
        head.delicate = progress.midst.judge(head, progress.is_settled());
        if draft.forget_log {
            (head.swept, head.newest_mark) = (head.newest, 0);
        }
        let save = Save {
            scope: self.row.id,
            lease: self.row.lease,
            version: self.row.version,
            head,
            progress: serde_json::to_string(&progress)
                .map_err(|error| Fault::bug("progress cannot be written as JSON").source(error))?,
            drain,
            log,
            index: draft.index,
            forget_log: draft.forget_log,
            looked: self.looked().filter(|_| progress.cursor.is_some() && progress.is_settled() && !self.news),
        };
        if !self.store().save_events(&save).await? {
            self.held = false;
            return Ok(Step::Lost);
        }
        if !entries.is_empty() || draft.forget_log {
            self.feed.tell_saved();
        }
        (self.row.head, self.row.version) = (head, self.row.version + 1);
        self.progress = progress;
        for change in entries.iter().filter_map(|(entry, _)| entry.change()) {
            metrics::counter!(crate::telemetry::WATCH_EVENTS, "type" => change.kind.label()).increment(1);
        }
        self.feed.publish(self.row.version, head, &self.progress, entries);
        Ok(Step::Worked)
    }
}

impl Progress {
    /// The log is made by it, or by a listing that is compared with it.
    pub(super) fn is_indexed(&self) -> bool {
        matches!(self.phase, Phase::Standing | Phase::Comparing)
    }

    /// The log is where its cursor is.
    pub(super) fn is_settled(&self) -> bool {
        self.stage == Stage::Idle && self.from.is_none()
    }

    fn begin_drain(&mut self) {
        (self.drain, self.mark, self.told) = (self.drain + 1, rand::rng().random(), false);
    }
}

/// Without its index.
fn forgotten(progress: &Progress) -> Progress {
    Progress {
        phase: Phase::None,
        other: None,
        other_stage: Stage::Idle,
        rounds: 0,
        next: 0,
        stamp: 0,
        ..progress.clone()
    }
}

pub(super) fn read_progress(text: &str) -> Result<Progress> {
    let mut progress: Progress = serde_json::from_str(text).map_err(|error| {
        let text = "a watched folder was last polled by a newer version of this program, which has to go on with it";
        Fault::new(Reason::StoreUnavailable, text).retry_after(FEED_RETRY).source(error)
    })?;
    // In older versions: that the index and the log were found at one place. What is done here does not keep it true.
    for word in ["probing", "quiet"] {
        progress.newer.remove(word);
    }
    Ok(progress)
}
