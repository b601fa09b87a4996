//! The gate between processes on one store: who keeps the leases of namespaces. A lease that somebody wants has a task, which
//! does what [`Lease::step`] says; a lease that nobody wants costs nothing.

use std::sync::Arc;

use tokio::{sync::mpsc, task::JoinSet, time::Instant};

use super::Gates;
use crate::{
    fault::Result,
    lease::{Lease, Step},
    store::{Store, WriteLetter, WriteLetters},
    telemetry,
};

/// To be run beside the calls.
#[derive(Debug)]
pub struct Fleet {
    gates: Arc<Gates>,
    store: Store,
    letters: WriteLetters,
    without_keeper: mpsc::Receiver<Lease>,
}

impl Fleet {
    pub(super) fn new(gates: Arc<Gates>, store: Store, without_keeper: mpsc::Receiver<Lease>) -> Fleet {
        let letters = store.write_letters();
        Fleet { gates, store, letters, without_keeper }
    }

    /// Keeps the leases that this process wants, and hears what other processes say of them. Never ends of itself; drop it to
    /// stop: then everybody goes without.
    pub async fn keep(mut self) {
        let mut keepers = JoinSet::new();
        loop {
            tokio::select! {
                lease = self.without_keeper.recv() => match lease {
                    Some(lease) => _ = keepers.spawn(keep(self.store.clone(), lease)),
                    None => return,
                },
                letter = self.letters.next() => self.hear(&letter),
                Some(kept) = keepers.join_next() => {
                    if let Err(error) = kept {
                        tracing::error!(%error, "who kept a lease broke down; its writes go without");
                    }
                }
            }
        }
    }

    fn hear(&self, letter: &WriteLetter) {
        // Also of a namespace that is not known any more: the store says that its lease is here, and another one waits.
        let Some(lease) = self.gates.lease(&letter.namespace) else { return };
        match letter.given {
            true => lease.comes(Instant::now(), letter.number, letter.others),
            false => lease.is_wanted(letter.number),
        }
    }
}

/// Whoever waits for a lease is told when its keeper breaks down or is stopped.
struct Keeper {
    lease: Lease,
    is_done: bool,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if !self.is_done {
            self.lease.is_left(Instant::now());
        }
    }
}

async fn keep(store: Store, lease: Lease) {
    let mut keeper = Keeper { lease, is_done: false };
    let lease = keeper.lease.clone();
    loop {
        match lease.step(Instant::now()) {
            Step::Ask => ask(&store, &lease, "asked").await,
            Step::Renew => ask(&store, &lease, "renewed").await,
            Step::Give { again } => {
                if let Some(given) = told(&lease, "given", store.give_write_lease(lease.name(), again).await) {
                    lease.was_given(Instant::now(), given, again);
                }
            }
            // The bell keeps that it was rung.
            Step::Rest(until) => _ = tokio::time::timeout_at(until, lease.rung()).await,
            Step::End => {
                keeper.is_done = true;
                return;
            }
        }
    }
}

async fn ask(store: &Store, lease: &Lease, why: &'static str) {
    let asked_at = Instant::now();
    match told(lease, why, store.take_write_lease(lease.name()).await) {
        Some(told) if told.mine => lease.is_ours(asked_at, told.number, told.others),
        Some(told) => lease.is_theirs(Instant::now(), told.number, told.lasts),
        None => {}
    }
}

/// What the store answered.
fn told<T>(lease: &Lease, why: &'static str, answer: Result<T>) -> Option<T> {
    metrics::counter!(telemetry::GATE_LEASE_CALLS, "call" => why).increment(1);
    answer
        .inspect_err(|fault| {
            tracing::debug!(namespace = lease.name(), why, %fault, "the store does not answer; writes go without a lease");
            lease.failed(Instant::now());
        })
        .ok()
}
