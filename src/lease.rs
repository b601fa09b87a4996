//! Whether this process is to go at present, where several take turns at one thing (a namespace of Dropbox) and a store says
//! whose turn it is. Whoever goes asks a [`Lease`]; who keeps it (`engine/gate/fleet.rs`) asks the store, hears what others say
//! and does what [`Lease::step`] says. Nothing here talks to anybody.
//! A lease is courtesy: while the store does not answer everybody goes without. It is given to another one that waits for it as
//! soon as nobody goes by it, once one of this process has.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};

use crate::{
    clock::at,
    fair::Fair,
    limits::{
        WRITE_LEASE, WRITE_LEASE_GIVEN, WRITE_LEASE_KEPT, WRITE_LEASE_LOOK, WRITE_LEASE_ON_ITS_WAY,
        WRITE_LEASE_PATIENCE, WRITE_LEASE_RENEW, WRITE_LEASE_WITHOUT,
    },
};

/// A clone is the same one.
#[derive(Clone)]
pub struct Lease(Arc<Inside>);

struct Inside {
    name: Arc<str>,
    /// Who stands in it comes next.
    queue: Fair,
    state: Mutex<State>,
    /// Whoever waits may go, or is to look again.
    told: Notify,
    /// The keeper has something to do.
    bell: Notify,
    /// Where a keeper is to be had.
    keepers: mpsc::Sender<Lease>,
}

struct State {
    standing: Standing,
    /// The highest that was heard of.
    number: i64,
    /// The store was asked then and has not answered.
    asked_at: Option<Instant>,
    /// So many go by it, and so many wait.
    going: usize,
    waiting: usize,
    /// Somebody has gone since it is ours.
    served: bool,
    /// Others want it.
    wanted: bool,
    /// When the last one had gone.
    used_at: Option<Instant>,
    kept: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Unknown,
    Ours {
        until: Instant,
        renew_at: Instant,
    },
    /// It is about to be another's.
    Leaving {
        until: Instant,
        renew_at: Instant,
    },
    /// Ask again then, if nothing is heard.
    Theirs {
        look_at: Instant,
    },
    /// The store failed.
    Without {
        until: Instant,
    },
}

/// What its keeper does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Somebody waits for it.
    Ask,
    /// It is in use and ends soon.
    Renew,
    /// Another wants it. `again`: so does somebody here.
    Give { again: bool },
    /// Nothing until then, or until the bell.
    Rest(Instant),
    /// Nothing at all: there will be another keeper when there is.
    End,
}

/// The right to go, until it is dropped.
pub struct Pass {
    lease: Lease,
    with_lease: bool,
}

impl Lease {
    /// `queue`: where those stand who are about to want it. `keepers`: takes a lease that has none.
    pub fn new(name: Arc<str>, queue: Fair, keepers: mpsc::Sender<Lease>) -> Lease {
        let state = State {
            standing: Standing::Unknown,
            number: 0,
            asked_at: None,
            going: 0,
            waiting: 0,
            served: false,
            wanted: false,
            used_at: None,
            kept: false,
        };
        let state = Mutex::new(state);
        Lease(Arc::new(Inside { name, queue, state, told: Notify::new(), bell: Notify::new(), keepers }))
    }

    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Does anybody else have a clone?
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// Does another process wait for it?
    pub fn is_wanted_elsewhere(&self) -> bool {
        self.lock().wanted
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// If it need not be waited for.
    pub fn enter_now(&self) -> Option<Pass> {
        self.go(&mut self.lock(), Instant::now())
    }

    /// Waits until it is this process's turn, or until the store has kept silent for too long. Cancel-safe.
    pub async fn enter(&self) -> Pass {
        let waiting = Waiting::at(self);
        loop {
            let mut told = std::pin::pin!(self.0.told.notified());
            told.as_mut().enable();
            let patience = {
                let mut state = self.lock();
                let now = Instant::now();
                if let Some(pass) = self.go(&mut state, now) {
                    drop(state);
                    drop(waiting);
                    return pass;
                }
                state.lapse(now);
                if state.standing == Standing::Unknown {
                    // The question is on its way from here on, whoever brings it.
                    state.asked_at.get_or_insert(now);
                }
                self.keep(&mut state);
                state.asked_at.map(|asked_at| asked_at + WRITE_LEASE_PATIENCE)
            };
            tokio::select! {
                () = told => {}
                () = at(patience) => {}
            }
        }
    }

    fn go(&self, state: &mut State, now: Instant) -> Option<Pass> {
        let (ours, renew) = match state.standing {
            Standing::Ours { until, renew_at } if now < until => (!(state.wanted && state.served), renew_at <= now),
            _ => (false, false),
        };
        if !ours && !state.is_without(now) {
            return None;
        }
        state.going += 1;
        state.served |= ours;
        if renew {
            self.0.bell.notify_one();
        }
        Some(Pass { lease: self.clone(), with_lease: ours })
    }

    /// Sees to it that somebody looks after it.
    fn keep(&self, state: &mut State) {
        if std::mem::replace(&mut state.kept, true) {
            self.0.bell.notify_one();
        } else if self.0.keepers.try_send(self.clone()).is_err() {
            // The process ends, or has too much to do: whoever waits goes without, and who comes later tries again.
            state.kept = false;
            // Nobody is there to give it away: it is used until it ends.
            state.wanted = false;
            state.fails(Instant::now());
            self.0.told.notify_waiters();
        }
    }

    // ---- for its keeper ----

    /// What is to be done. `Ask`, `Renew` and `Give` are begun with it and ended by what their answer is told to.
    pub fn step(&self, now: Instant) -> Step {
        let mut state = self.lock();
        state.lapse(now);
        match state.standing {
            Standing::Ours { until, renew_at } | Standing::Leaving { until, renew_at } => {
                let idle = state.going == 0 && (state.waiting == 0 || state.served);
                if state.wanted && idle {
                    state.standing = Standing::Leaving { until, renew_at };
                    return self.give(&mut state, now);
                }
                if now < renew_at {
                    return Step::Rest(renew_at);
                }
                let recently = state.used_at.is_some_and(|used_at| used_at + WRITE_LEASE_KEPT > until);
                if state.going > 0 || state.waiting > 0 || recently { Step::Renew } else { Step::Rest(until) }
            }
            Standing::Unknown | Standing::Theirs { .. } if state.waiting > 0 => match state.standing {
                Standing::Theirs { look_at } if now < look_at => Step::Rest(look_at),
                _ => {
                    state.asked_at.get_or_insert(now);
                    self.0.told.notify_waiters();
                    Step::Ask
                }
            },
            // The store says that it is ours.
            Standing::Unknown if state.wanted => self.give(&mut state, now),
            Standing::Theirs { look_at: at } | Standing::Without { until: at } if now < at => Step::Rest(at),
            Standing::Unknown | Standing::Theirs { .. } | Standing::Without { .. } => {
                state.asked_at = None;
                state.kept = false;
                Step::End
            }
        }
    }

    fn give(&self, state: &mut State, now: Instant) -> Step {
        state.asked_at = Some(now);
        // Whoever asks from here on asks anew.
        state.wanted = false;
        self.0.told.notify_waiters();
        Step::Give { again: state.waiting > 0 || self.0.queue.is_waited_for() }
    }

    /// Rung whenever there may be another step.
    pub async fn rung(&self) {
        self.0.bell.notified().await;
    }

    /// The store says that it is ours. `asked_at`: before it was asked.
    pub fn is_ours(&self, asked_at: Instant, number: i64, others: bool) {
        let until = asked_at + WRITE_LEASE;
        self.lock().becomes_ours(number, others, until, until - WRITE_LEASE_RENEW);
        self.0.told.notify_waiters();
    }

    /// The store says that it is another's, for so long at the most. This process stands in line.
    pub fn is_theirs(&self, now: Instant, number: i64, lasts: Duration) {
        let mut state = self.lock();
        state.asked_at = None;
        // If it was given to this one meanwhile, that is newer.
        if number >= state.number || !matches!(state.standing, Standing::Ours { .. }) {
            state.number = number;
            state.standing = Standing::Theirs { look_at: now + lasts.min(WRITE_LEASE_LOOK) };
        }
        drop(state);
        self.0.told.notify_waiters();
    }

    /// What came of giving it: its number now, if anybody waited for it. `again`: this process stands in line.
    pub fn was_given(&self, now: Instant, number: Option<i64>, again: bool) {
        let mut state = self.lock();
        state.asked_at = None;
        match (number, state.standing) {
            (Some(number), _) if number > state.number => {
                state.number = number;
                state.standing = match again {
                    true => Standing::Theirs { look_at: now + WRITE_LEASE_LOOK },
                    false => Standing::Unknown,
                };
            }
            // It has come back already.
            (Some(_), _) => {}
            (None, Standing::Leaving { until, renew_at }) => state.standing = Standing::Ours { until, renew_at },
            (None, _) => {}
        }
        drop(state);
        self.0.told.notify_waiters();
    }

    /// The store failed. What is ours stays so until it ends.
    pub fn failed(&self, now: Instant) {
        self.lock().fails(now);
        self.0.told.notify_waiters();
    }

    /// Its keeper is gone, and it was not at its end.
    pub fn is_left(&self, now: Instant) {
        let mut state = self.lock();
        state.kept = false;
        state.fails(now);
        drop(state);
        self.0.told.notify_waiters();
    }

    // ---- what other processes say ----

    /// Another one has given it to this one. `others`: there are more who wait.
    pub fn comes(&self, now: Instant, number: i64, others: bool) {
        let mut state = self.lock();
        if number <= state.number {
            return;
        }
        let lasts = WRITE_LEASE_GIVEN - WRITE_LEASE_ON_ITS_WAY;
        state.becomes_ours(number, others, now + lasts, now + lasts / 2);
        self.keep(&mut state);
        drop(state);
        self.0.told.notify_waiters();
    }

    /// Another one waits for it.
    pub fn is_wanted(&self, number: i64) {
        let mut state = self.lock();
        if number >= state.number {
            state.wanted = true;
            self.keep(&mut state);
        }
    }
}

impl State {
    /// What has ended is not there any more.
    fn lapse(&mut self, now: Instant) {
        match self.standing {
            Standing::Ours { until, .. } | Standing::Without { until } if until <= now => {
                self.standing = Standing::Unknown;
            }
            _ => {}
        }
    }

    /// The store does not answer, or nobody asks it. What is ours stays so until it ends.
    fn fails(&mut self, now: Instant) {
        self.asked_at = None;
        match &mut self.standing {
            Standing::Ours { renew_at, .. } => *renew_at = now + WRITE_LEASE_LOOK,
            standing => *standing = Standing::Without { until: now + WRITE_LEASE_WITHOUT },
        }
    }

    /// The store does not say anything.
    fn is_without(&self, now: Instant) -> bool {
        matches!(self.standing, Standing::Without { until } if now < until)
            || self.asked_at.is_some_and(|asked_at| asked_at + WRITE_LEASE_PATIENCE <= now)
    }

    fn becomes_ours(&mut self, number: i64, others: bool, until: Instant, renew_at: Instant) {
        self.asked_at = None;
        let is_ours = matches!(self.standing, Standing::Ours { .. });
        if is_ours && number < self.number {
            return;
        }
        if !is_ours || number > self.number {
            self.served = false;
        }
        self.number = number;
        self.wanted |= others;
        self.standing = Standing::Ours { until, renew_at };
    }
}

impl Pass {
    /// False: the store was silent, and others may be going.
    pub fn is_with_lease(&self) -> bool {
        self.with_lease
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut state = self.lease.lock();
        state.going -= 1;
        state.used_at = Some(Instant::now());
        if state.wanted && state.kept {
            self.lease.0.bell.notify_one();
        }
    }
}

/// Counts whoever waits.
struct Waiting<'a>(&'a Lease);

impl Waiting<'_> {
    fn at(lease: &Lease) -> Waiting<'_> {
        lease.lock().waiting += 1;
        Waiting(lease)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.waiting -= 1;
        if state.wanted && state.kept {
            self.0.0.bell.notify_one();
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Lease").field("name", &self.0.name).field("standing", &state.standing).finish_non_exhaustive()
    }
}

impl fmt::Debug for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pass").field("lease", &self.lease).field("with_lease", &self.with_lease).finish()
    }
}

#[cfg(test)]
mod tests;
