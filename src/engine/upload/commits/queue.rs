//! Commits of closed sessions that their own streams wait for. Each stands at the gate for itself; whoever has the turn takes along all
//! that wait there with it, as far as they may share a request, and is told with them.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Asker, Item, Turns};
use crate::{
    dropbox::{Caller, Identity, Turn},
    engine::{
        gate::NamespaceKey,
        together::Sent,
        upload::{Account, Settled, Shared, commit::Closing, record::Record},
    },
    fault::{Fault, Result},
};

/// What waits for a turn.
#[derive(Default)]
pub(in crate::engine::upload) struct Queues {
    waiting: Mutex<HashMap<Key, Vec<Item>>>,
    /// Entries that ever came.
    count: AtomicUsize,
}

/// What may share a request. An identity's way out is one of its own as long as an item has its caller.
type Key = (NamespaceKey, Identity);

impl Queues {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Vec<Item>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, key: &Key, item: Item) {
        self.lock().entry(key.clone()).or_default().push(item);
    }

    /// All that wait, as many as go with one turn, the first first.
    fn take(&self, key: &Key, most: usize) -> Vec<Item> {
        let mut waiting = self.lock();
        let Some(items) = waiting.get_mut(key) else { return Vec::new() };
        let taken = items.drain(..items.len().min(most)).collect();
        if items.is_empty() {
            waiting.remove(key);
        }
        taken
    }

    /// Does it wait for somebody's turn?
    fn has(&self, one: &Waiting<'_>) -> bool {
        let is_it = |item: &Item| Arc::ptr_eq(&item.asker.sent, &one.sent);
        self.lock().get(&one.key).is_some_and(|items| items.iter().any(is_it))
    }

    /// Those nobody waits for any more.
    fn sweep(&self, key: &Key) -> Vec<Item> {
        let mut waiting = self.lock();
        let Some(items) = waiting.get_mut(key) else { return Vec::new() };
        let gone = items.extract_if(.., |item| item.asker.sent.is_withdrawn()).collect();
        if items.is_empty() {
            waiting.remove(key);
        }
        gone
    }
}

/// A caller that waits for its commit. When it leaves, a commit that has not left does not leave any more.
struct Waiting<'a> {
    queues: &'a Queues,
    key: Key,
    sent: Arc<Sent>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.sent.withdraw() {
            // Dropped behind the lock.
            drop(self.queues.sweep(&self.key));
        }
    }
}

impl Shared {
    /// Commits a closed session, once in the fleet. Cancel-safe: what has left is settled and written down by a task of its own.
    pub(in crate::engine::upload) async fn finish(
        self: &Arc<Self>,
        caller: &Caller,
        account: &Account<'_>,
        record: &Record,
        closing: Closing,
        sent: &Arc<Sent>,
    ) -> Result<Settled> {
        // Before the turn: a commit of this upload that lays its turn down to wait takes it up again, and must not find it with
        // somebody who waits for that commit.
        let under_way = self.commits.begin(&record.handle.id).await;
        let namespace = self.gates.key_for(account.owner.account, caller.root(), &record.handle.spec.path);
        let key = (namespace.clone(), caller.identity());
        let (tell, mut told) = mpsc::channel(1);
        let waiting = Waiting { queues: &self.queues, key, sent: sent.clone() };
        let Closing { whole, doubt, hold } = closing;
        self.queues.enter(
            &waiting.key,
            Item {
                n: self.queues.count.fetch_add(1, Ordering::Relaxed),
                asker: Asker { place: 0, sent: sent.clone(), tell },
                caller: caller.clone(),
                record: record.clone(),
                whole,
                doubt,
                hold,
                path: dbxcase::dbx_str_lowercase(&record.handle.spec.path),
                single: doubt.from.is_some() || !record.stored,
                intended: false,
                contentions: 0,
                apart: false,
                unclear: false,
                again_at: None,
                _guard: Some(under_way),
                _writing: None,
            },
        );
        // Whoever has the turn takes those that came first; it may be behind them.
        while self.queues.has(&waiting) {
            tokio::select! {
                biased;
                settled = told.recv() => return answered(settled),
                turn = self.gates.turn(caller.parameter(), std::slice::from_ref(&namespace), caller.deadline()) => match turn {
                    Ok(turn) => self.take_along(&waiting.key, caller.parameter(), turn),
                    // It went with another's turn, and is known soon.
                    Err(_) if !sent.withdraw() => break,
                    Err(fault) => return Err(fault),
                },
            }
        }
        answered(told.recv().await)
    }

    /// Commits all that wait with this turn. A task of its own, and nobody's in particular: whoever waits for one of these withdraws it
    /// himself.
    fn take_along(self: &Arc<Self>, key: &Key, parameter: &str, turn: Turn) {
        let namespace = key.0.clone();
        let mut items = self.queues.take(key, self.gates.batch_max(&namespace));
        if let [alone] = &mut items[..] {
            alone.single = true;
        }
        let turns = Turns::new(self.clone(), parameter, None, CancellationToken::new());
        self.tasks.spawn(async move { turns.lane(namespace, items, Some(turn)).await });
    }
}

fn answered(settled: Option<(usize, Result<Settled>)>) -> Result<Settled> {
    settled.map_or_else(|| Err(Fault::bug("a commit broke down")), |(_, settled)| settled)
}
