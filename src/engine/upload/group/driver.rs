//! The task of a group: what goes when. Bytes go as soon as nothing is gained by waiting for more of them, over a few
//! connections; commits wait for their turn, and whatever is ready when it comes goes with it.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::{task::JoinSet, time::Instant};

use super::{
    Entry, Group, Told,
    batch::{Closed, choose},
    calls::{self, Appended, Finished},
};
use crate::{
    clock::at,
    dropbox::Turn,
    engine::{together::back_off, upload::Shared},
    fault::{Fault, Result},
    limits,
};

pub(super) struct Driver {
    shared: Arc<Shared>,
    group: Arc<Group>,
    /// What is under way.
    calls: JoinSet<Done>,
    /// The oldest first; none of them has anything in it.
    sessions: VecDeque<String>,
    making: bool,
    /// Entries of a request lately.
    peak: usize,
    appends: usize,
    appending: usize,
    ready: Vec<Closed>,
    gate: Gate,
    /// Nothing of what is ready may go before: it waits for what has to go first.
    not_before: Option<Instant>,
    answers: Answers,
    /// Entries of one request of bytes.
    append_max: usize,
    returning: Option<Returning>,
}

enum Done {
    Sessions(Result<Vec<String>>),
    Appended { entries: usize, appended: Appended },
    Turn(Result<Turn>),
    Finished(Finished),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Gate {
    Idle,
    Waiting,
    Finishing,
}

/// When something is to be done.
enum Due {
    Now,
    At(Instant),
    /// Something else has to happen first.
    Unknown,
}

/// Callers that were answered together and may come again so.
struct Returning {
    /// With this entry all of them have come.
    last: u64,
    until: Instant,
}

/// How long answers take at present.
#[derive(Default)]
struct Answers(Option<Duration>);

impl Answers {
    fn note(&mut self, took: Duration) {
        self.0 = Some(self.0.map_or(took, |known| (known * 3 + took) / 4));
    }

    fn usual(&self) -> Duration {
        self.0.unwrap_or(limits::BATCH_ANSWER_DEFAULT)
    }

    /// So long the first of an append waits for others.
    fn gather(&self) -> Duration {
        let span = self.usual() * limits::BATCH_GATHER_ANSWERS;
        span.clamp(limits::BATCH_GATHER_MIN, limits::BATCH_GATHER_MAX)
    }
}

impl Driver {
    pub(super) fn new(shared: Arc<Shared>, group: Arc<Group>) -> Driver {
        Driver {
            shared,
            group,
            calls: JoinSet::new(),
            sessions: VecDeque::new(),
            making: false,
            peak: 0,
            appends: 0,
            appending: 0,
            ready: Vec::new(),
            gate: Gate::Idle,
            not_before: None,
            answers: Answers::default(),
            append_max: limits::BATCH_ENTRIES_MAX,
            returning: None,
        }
    }

    /// Until nothing was to be done for a while, or the process goes down.
    pub(super) async fn run(mut self) {
        let mut idle_until = None;
        loop {
            let mut wake = self.step();
            let idle = self.has_nothing() && self.group.rests();
            if idle {
                let until = *idle_until.get_or_insert_with(|| Instant::now() + limits::BATCH_LINGER);
                let is_over = until <= Instant::now() || self.shared.draining.is_cancelled();
                if is_over && self.group.ends() {
                    break;
                }
                wake = Some(until);
            } else {
                idle_until = None;
            }
            tokio::select! {
                () = self.group.bell.notified() => {}
                Some(done) = self.calls.join_next() => match done {
                    Ok(done) => self.take(done),
                    Err(error) => self.broke_down(&error),
                },
                () = self.shared.draining.cancelled(), if idle => {}
                () = at(wake) => {}
            }
        }
        self.shared.groups.forget(&self.group.key);
    }

    fn has_nothing(&self) -> bool {
        self.ready.is_empty() && self.appends == 0 && self.gate == Gate::Idle
    }

    /// Does what is due; when to look again, if nothing happens before.
    fn step(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let mut wake: Option<Instant> = None;
        let mut note = |at: Instant| wake = Some(wake.map_or(at, |known| known.min(at)));
        self.group.prune();
        self.make_sessions();
        while self.appends < limits::BATCH_CONNECTIONS {
            match self.append_due(now) {
                Due::Now => self.append(now),
                Due::At(at) => {
                    note(at);
                    break;
                }
                Due::Unknown => break,
            }
        }
        self.ready.retain(|closed| closed.entry.is_wanted());
        match self.finish_due(now) {
            Due::Now => self.ask_for_turn(),
            Due::At(at) => note(at),
            Due::Unknown => {}
        }
        wake
    }

    /// Makes sessions ahead of the entries that will need them.
    fn make_sessions(&mut self) {
        let (queued, coming) = {
            let state = self.group.lock();
            (state.queued.len(), state.coming)
        };
        let wanted = (queued + coming).max(limits::BATCH_SESSIONS_AHEAD * self.peak);
        let wanted = wanted.clamp(limits::BATCH_SESSIONS_MIN, limits::BATCH_ENTRIES_MAX);
        let busy = queued > 0 || self.appends > 0;
        let short = self.sessions.len() < queued || (busy && self.sessions.len() < self.peak);
        if self.making || !short {
            return;
        }
        self.making = true;
        let (group, count) = (self.group.clone(), wanted.saturating_sub(self.sessions.len()).max(1));
        self.calls.spawn(async move { Done::Sessions(calls::sessions(&group.caller, count).await) });
    }

    /// Bytes go when a request is full, when nobody else comes, or when those who came first have waited long enough.
    fn append_due(&self, now: Instant) -> Due {
        let state = self.group.lock();
        let (Some(first), Some(last_at)) = (state.queued.front(), state.last_at) else { return Due::Unknown };
        if self.sessions.is_empty() {
            return Due::Unknown;
        }
        let queued = state.queued.len();
        let gathered = first.since + self.answers.gather();
        let full = queued >= self.append_max || state.queued_bytes >= limits::BATCH_BYTES_MAX;
        if full || gathered <= now || self.shared.blocks.is_short() {
            return Due::Now;
        }
        let (missing, until) = self.missing(now, state.count);
        if state.coming + missing > queued {
            return Due::At(if missing > 0 { until.min(gathered) } else { gathered });
        }
        let between = (last_at - first.since) / u32::try_from(queued - 1).unwrap_or(u32::MAX).max(1);
        let silent = last_at + (between * limits::BATCH_SILENCE).max(limits::BATCH_SILENCE_MIN);
        if silent <= now { Due::Now } else { Due::At(silent.min(gathered)) }
    }

    fn append(&mut self, now: Instant) {
        let mut entries = Vec::new();
        {
            let mut state = self.group.lock();
            let mut bytes = 0;
            while let Some(first) = state.queued.front()
                && entries.len() < self.append_max
                && !self.sessions.is_empty()
                && (entries.is_empty() || bytes + first.size <= limits::BATCH_BYTES_MAX)
            {
                let Some(entry) = state.queued.pop_front() else { break };
                state.queued_bytes -= entry.size;
                if !entry.is_wanted() || !entry.is_in_time(now) {
                    continue;
                }
                let Some(session) = self.sessions.pop_front() else { break };
                bytes += entry.size;
                entries.push((entry, session));
            }
        }
        if entries.is_empty() {
            return;
        }
        let count = entries.len();
        self.peak = count.max(self.peak * 7 / 8);
        self.appends += 1;
        self.appending += count;
        let group = self.group.clone();
        self.calls.spawn(async move {
            Done::Appended { entries: count, appended: calls::append(&group.caller, entries).await }
        });
    }

    /// How many callers that were answered together have not come again yet, and until when they are expected. `count`: the
    /// entries that ever came.
    fn missing(&self, now: Instant, count: u64) -> (usize, Instant) {
        match &self.returning {
            Some(returning) if now < returning.until => {
                (usize::try_from(returning.last.saturating_sub(count)).unwrap_or(usize::MAX), returning.until)
            }
            _ => (0, now),
        }
    }

    /// Commits wait for uploads that are on their way if those are more, for as long as two answers take: their bytes' and, where
    /// the callers have to come again first, the one before. So those who were parted once go together again, and two turns are
    /// one.
    fn finish_due(&self, now: Instant) -> Due {
        if self.gate != Gate::Idle || self.ready.is_empty() {
            return Due::Unknown;
        }
        if let Some(at) = self.not_before.filter(|at| now < *at) {
            return Due::At(at);
        }
        let due = || self.ready.iter().filter(|closed| closed.is_due(now));
        let count = due().count();
        let Some(oldest) = due().map(|closed| closed.since).min() else {
            let next = self.ready.iter().filter_map(|closed| closed.entry.again_at).min();
            return next.map_or(Due::Unknown, Due::At);
        };
        let (queued, ever) = {
            let state = self.group.lock();
            (state.queued.len(), state.count)
        };
        let (missing, until) = self.missing(now, ever);
        let waited = oldest + (self.answers.usual() * 2).min(limits::BATCH_GATHER_MAX);
        if count >= self.appending + queued + missing || count >= self.turn_max() || waited <= now {
            return Due::Now;
        }
        Due::At(if missing > 0 { until.min(waited) } else { waited })
    }

    /// Entries of one turn.
    fn turn_max(&self) -> usize {
        self.shared.gates.batch_max(&self.group.key.namespace)
    }

    fn ask_for_turn(&mut self) {
        self.gate = Gate::Waiting;
        let (shared, group) = (self.shared.clone(), self.group.clone());
        self.calls.spawn(async move {
            let keys = [group.key.namespace.clone()];
            Done::Turn(shared.gates.turn(group.caller.parameter(), &keys, None).await)
        });
    }

    fn take(&mut self, done: Done) {
        match done {
            Done::Sessions(made) => {
                self.making = false;
                match made {
                    Ok(made) => self.sessions.extend(made),
                    Err(fault) => self.without_sessions(&fault),
                }
            }
            Done::Appended { entries, appended } => {
                self.appends -= 1;
                self.appending -= entries;
                self.answers.note(appended.took);
                if appended.malformed {
                    // Perhaps it is too long; its entries get what they ask for anyhow.
                    self.append_max = (entries / 2).max(1);
                }
                for closed in appended.there {
                    if closed.entry.ahead {
                        closed.entry.tell(Told::Kept(closed.session));
                    } else {
                        self.ready.push(closed);
                    }
                }
                appended.lost.into_iter().for_each(Entry::goes_alone);
            }
            Done::Turn(turn) => {
                self.gate = Gate::Idle;
                if let Ok(turn) = turn {
                    self.finish(turn);
                }
            }
            Done::Finished(finished) => self.finished(finished),
        }
    }

    fn finish(&mut self, turn: Turn) {
        let now = Instant::now();
        let most = self.turn_max();
        let batch = choose(&mut self.ready, now, most);
        self.not_before = None;
        if batch.is_empty() {
            // What is left stands behind one of its path that was contended, and waits for it.
            let next = self.ready.iter().filter_map(|closed| closed.entry.again_at).filter(|at| now < *at).min();
            self.not_before = Some(next.unwrap_or(now + limits::BATCH_SILENCE_MIN));
            return;
        }
        self.gate = Gate::Finishing;
        let group = self.group.clone();
        self.calls.spawn(async move { Done::Finished(calls::finish(&group.caller, turn, batch).await) });
    }

    fn finished(&mut self, finished: Finished) {
        let Finished { told, contended, entries, took } = finished;
        self.gate = Gate::Idle;
        self.answers.note(took);
        self.shared.gates.batch_took(&self.group.key.namespace, entries, took);
        let now = Instant::now();
        // Those that were refused together go together again.
        let most = contended.iter().map(|closed| closed.entry.contentions).max().unwrap_or(0);
        let together = now + back_off(most);
        for mut closed in contended {
            let entry = &mut closed.entry;
            entry.again_at = Some(if entry.by_itself { now + back_off(entry.contentions) } else { together });
            self.ready.push(closed);
        }
        let within = self.answers.usual().min(limits::BATCH_RETURN_MAX);
        self.returning = Some(Returning { last: self.group.lock().count + told.len() as u64, until: now + within });
        for (entry, told) in told {
            entry.tell(told);
        }
    }

    /// Nothing was sent of what waits: the single route says what is wrong, if it still is.
    fn without_sessions(&mut self, fault: &Fault) {
        tracing::info!(%fault, "no sessions were made; uploads go one by one");
        let queued = {
            let mut state = self.group.lock();
            state.queued_bytes = 0;
            std::mem::take(&mut state.queued)
        };
        queued.into_iter().for_each(Entry::goes_alone);
    }

    /// A request's task broke down: its entries hear of it by their channels. The driver begins anew.
    fn broke_down(&mut self, error: &tokio::task::JoinError) {
        tracing::error!(%error, "a request for several uploads broke down");
        let rest = std::mem::take(&mut self.ready);
        *self = Driver::new(self.shared.clone(), self.group.clone());
        // The others are not known to be uncommitted: who hears nothing is told so.
        for closed in rest.into_iter().filter(|closed| !closed.unclear) {
            closed.entry.tell(Told::Alone);
        }
    }
}

impl Group {
    /// Nothing is queued, so it may go by itself who comes now.
    fn rests(&self) -> bool {
        let mut state = self.lock();
        state.busy = !state.queued.is_empty();
        !state.busy
    }

    /// The driver is not needed any more.
    fn ends(&self) -> bool {
        let mut state = self.lock();
        state.runs = !state.queued.is_empty();
        !state.runs
    }

    /// Lets the bytes go of those who left.
    fn prune(&self) {
        let gone: VecDeque<Entry> = {
            let mut state = self.lock();
            if !std::mem::take(&mut state.withdrawn) {
                return;
            }
            let (kept, gone) = std::mem::take(&mut state.queued).into_iter().partition(Entry::is_wanted);
            state.queued = kept;
            state.queued_bytes = state.queued.iter().map(|entry| entry.size).sum();
            gone
        };
        drop(gone);
    }
}
