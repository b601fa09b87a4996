//! The write gate: one commit in flight per namespace, the rest wait in a queue that serves application parameters in turn. What
//! finds it busy goes together with others, with one turn for all of them: small uploads (`upload/group`), commits of uploads
//! (`upload/commits`), new folders, deletions, moves and copies (`batches`).
//! Dropbox takes a write lock on the namespace for every commit, and overlapping commits earn `too_many_write_operations`.
//! A [`Turn`] is made nowhere else, so a commit that skips the gate does not compile. Who waits to repeat a commit lays the turn
//! down and queues again behind those who came meanwhile. Processes on one server have queues of their own, and whoever is
//! first there needs the fleet's lease (`gate/fleet.rs`).
//! All of it is courtesy: what goes past it is refused by Dropbox and tried again.

mod fleet;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::together::next_turn_max;
use crate::{
    dropbox::{Root, Stop, Turn},
    fair::Fair,
    fault::{Fault, Reason, Result},
    lease::Lease,
    limits,
    store::Store,
    telemetry,
};

pub use self::fleet::Fleet;

/// A namespace whose write lock a commit takes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamespaceKey(Arc<str>);

/// The gates of every namespace that is being written to, and what is known of mounted shared folders.
#[derive(Debug, Default)]
pub struct Gates {
    open: Mutex<HashMap<NamespaceKey, Gate>>,
    mounts: Mutex<Mounts>,
    /// Of a store that other processes may share: where leases are kept.
    keepers: Option<mpsc::Sender<Lease>>,
}

#[derive(Debug)]
struct Gate {
    stop: Stop,
    /// Commits of one batch: as many as Dropbox does in a turn, as far as is known.
    batch_max: usize,
}

#[derive(Debug, Default)]
struct Mounts {
    /// What paths count from → folder (path_lower) → namespace id.
    by_base: HashMap<Arc<str>, BTreeMap<String, String>>,
    count: usize,
}

impl Gates {
    pub fn new() -> Self {
        Self::default()
    }

    /// The gates of a process on this store, and what is to be run where it shares the store with others.
    pub fn on(store: &Store) -> (Arc<Gates>, Option<Fleet>) {
        if !store.is_shared() {
            return (Arc::default(), None);
        }
        let (keepers, without_keeper) = mpsc::channel(limits::WRITE_LEASES_STARTING_MAX);
        let gates = Arc::new(Gates { keepers: Some(keepers), ..Gates::default() });
        let fleet = Fleet::new(gates.clone(), store.clone(), without_keeper);
        (gates, Some(fleet))
    }

    /// Waits for the turn at every named gate, lower id first so that two calls over the same pair cannot lock each other out.
    /// Cancel-safe: dropping the future leaves the queue.
    ///
    /// # Errors
    /// `DEADLINE_EXCEEDED` with `sent=false` when the caller's deadline comes first, or is too near to send anything.
    pub async fn turn(&self, parameter: &str, keys: &[NamespaceKey], deadline: Option<Instant>) -> Result<Turn> {
        let turn = self.at(parameter, keys);
        let since = Instant::now();
        let latest = latest(deadline);
        let taken = match latest {
            None => {
                turn.take_up().await;
                true
            }
            Some(latest) => tokio::time::timeout_at(latest.into(), turn.take_up()).await.is_ok(),
        };
        let waited = since.elapsed();
        metrics::histogram!(telemetry::GATE_WAIT).record(waited.as_secs_f64());
        if !taken || latest.is_some_and(|latest| latest <= Instant::now()) {
            return Err(too_late(waited));
        }
        Ok(turn)
    }

    /// The turn, if nobody has it or waits for it.
    pub(super) fn turn_now(&self, parameter: &str, keys: &[NamespaceKey]) -> Option<Turn> {
        let turn = self.at(parameter, keys);
        turn.take_up_now().then_some(turn)
    }

    fn at(&self, parameter: &str, keys: &[NamespaceKey]) -> Turn {
        let mut keys = keys.to_vec();
        keys.sort();
        keys.dedup();
        Turn::granted().at(parameter, keys.into_iter().map(|key| self.stop(key)).collect())
    }

    fn stop(&self, key: NamespaceKey) -> Stop {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= limits::GATES_SWEEP_AT {
            open.retain(|_, gate| gate.stop.is_shared());
        }
        if let Some(gate) = open.get(&key) {
            return gate.stop.clone();
        }
        let queue = Fair::new(1);
        let keepers = self.keepers.as_ref().filter(|_| key.0.len() <= limits::WRITE_LEASE_NAME_BYTES_MAX);
        let lease = keepers.map(|keepers| Lease::new(key.0.clone(), queue.clone(), keepers.clone()));
        let stop = Stop { queue, lease };
        open.insert(key, Gate { stop: stop.clone(), batch_max: limits::BATCH_ENTRIES_MAX });
        stop
    }

    /// How many commits go with one turn, so that others wait no longer than that.
    pub(super) fn batch_max(&self, key: &NamespaceKey) -> usize {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.get(key).map_or(limits::BATCH_ENTRIES_MAX, |gate| gate.batch_max)
    }

    /// A batch of so many took so long.
    pub(super) fn batch_took(&self, key: &NamespaceKey, entries: usize, took: Duration) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gate) = open.get_mut(key) {
            gate.batch_max = next_turn_max(gate.batch_max, entries, took, limits::BATCH_TURN);
        }
    }

    /// The fleet's lease of a namespace.
    fn lease(&self, namespace: &Arc<str>) -> Option<Lease> {
        self.stop(NamespaceKey(namespace.clone())).lease
    }

    /// The namespace a path lies in: the longest known mount above it, else the root in force, else the account's own root.
    pub fn key_for(&self, account: &str, root: Option<&Root>, path: &str) -> NamespaceKey {
        if let Some(relative) = path.strip_prefix("ns:") {
            return NamespaceKey(relative.split('/').next().unwrap_or(relative).into());
        }
        let lower = dbxcase::dbx_str_lowercase(path);
        let base = base(account, root);
        let mounts = self.mounts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = mounts.by_base.get(&base) {
            let mut above = lower.as_str();
            while let Some(cut) = above.rfind('/') {
                if let Some(namespace) = known.get(above) {
                    return NamespaceKey(namespace.as_str().into());
                }
                above = &above[..cut];
            }
        }
        NamespaceKey(base)
    }

    /// Remembers that what lies in `folder_lower` is in namespace `namespace_id`.
    pub fn learn(&self, account: &str, root: Option<&Root>, folder_lower: &str, namespace_id: &str) {
        let mut mounts = self.mounts.lock().unwrap_or_else(PoisonError::into_inner);
        if mounts.count >= limits::MOUNTS_KNOWN_MAX {
            // Knowledge of mounts is courtesy: without it two gates serve one namespace, and retries settle the rest.
            *mounts = Mounts::default();
        }
        let known = mounts.by_base.entry(base(account, root)).or_default();
        if known.insert(folder_lower.to_owned(), namespace_id.to_owned()).is_none() {
            mounts.count += 1;
        }
    }
}

/// What paths count from: the root in force, else the account's own. A path is another place in another root.
fn base(account: &str, root: Option<&Root>) -> Arc<str> {
    match root {
        Some(Root::Root(id) | Root::Namespace(id)) => id.as_str().into(),
        Some(Root::Home) | None => format!("home of {account}").into(),
    }
}

/// When a write is to leave at the latest, for its caller's deadline.
pub(super) fn latest(deadline: Option<Instant>) -> Option<Instant> {
    deadline.map(|deadline| deadline - limits::COMMIT_TIME_MIN)
}

/// `waited`: in the queue.
pub(super) fn too_late(waited: Duration) -> Fault {
    Fault::new(Reason::DeadlineExceeded, "the deadline came before the write's turn; nothing was sent")
        .fact("sent", false)
        .fact("queueWait", format_args!("{:.3}s", waited.as_secs_f64()))
        .retry_after(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_commit_at_a_time_in_a_namespace_and_others_do_not_wait() {
        let gates = Gates::new();
        let (a, b) = (gates.key_for("dbid:a", None, "/x"), gates.key_for("dbid:b", None, "/x"));
        let held = gates.turn("p", std::slice::from_ref(&a), None).await.expect("free");
        gates.turn("p", std::slice::from_ref(&b), None).await.expect("another namespace");
        let soon = Some(Instant::now() + limits::COMMIT_TIME_MIN + Duration::from_millis(20));
        let fault = gates.turn("p", std::slice::from_ref(&a), soon).await.expect_err("taken");
        assert_eq!((fault.reason(), fault.get("sent")), (Reason::DeadlineExceeded, Some("false")));
        drop(held);
        gates.turn("p", &[a, b], None).await.expect("both free");
    }

    #[tokio::test]
    async fn a_turn_that_is_laid_down_lets_the_next_one_go_and_queues_behind_it() {
        let gates = Gates::new();
        let key = [gates.key_for("dbid:a", None, "/x")];
        let first = gates.turn("p", &key, None).await.expect("free");
        let mut second = std::pin::pin!(gates.turn("p", &key, None));
        assert!(futures::poll!(second.as_mut()).is_pending());
        first.lay_down();
        let second = second.await.expect("free meanwhile");
        let mut again = std::pin::pin!(first.take_up());
        assert!(futures::poll!(again.as_mut()).is_pending(), "behind the one that came meanwhile");
        drop(second);
        again.await;
    }

    #[tokio::test]
    async fn parameters_take_turns_and_within_one_the_first_is_first() {
        let gates = Gates::new();
        let key = [gates.key_for("dbid:a", None, "/x")];
        let held = gates.turn("p", &key, None).await.expect("free");
        let mut waiting: Vec<_> =
            ["p", "p", "p", "q"].map(|parameter| Box::pin(gates.turn(parameter, &key, None))).into();
        for one in &mut waiting {
            assert!(futures::poll!(one.as_mut()).is_pending());
        }
        let mut now = held;
        for turn in [3, 0, 1, 2] {
            drop(now);
            let std::task::Poll::Ready(next) = futures::poll!(waiting[turn].as_mut()) else {
                panic!("it is the turn of {turn}")
            };
            now = next.expect("free");
        }
    }

    #[tokio::test]
    async fn what_a_batch_took_is_remembered_of_its_namespace_and_of_no_other() {
        let gates = Gates::new();
        let (a, b) = (gates.key_for("dbid:a", None, "/x"), gates.key_for("dbid:b", None, "/x"));
        for key in [&a, &b] {
            gates.turn("p", std::slice::from_ref(key), None).await.expect("free");
        }
        gates.batch_took(&a, 1000, limits::BATCH_TURN * 4);
        assert_eq!((gates.batch_max(&a), gates.batch_max(&b)), (250, limits::BATCH_ENTRIES_MAX));
        gates.batch_took(&a, 10, limits::BATCH_TURN / 4);
        assert_eq!(gates.batch_max(&a), 500, "it grows again");
    }

    #[test]
    fn the_key_is_the_longest_known_mount_then_the_root() {
        let gates = Gates::new();
        gates.learn("dbid:a", None, "/team", "77");
        gates.learn("dbid:a", None, "/team/deep", "78");
        let key = |path: &str, root: Option<Root>| gates.key_for("dbid:a", root.as_ref(), path).0.to_string();
        assert_eq!(key("/Team/x.txt", None), "77");
        assert_eq!(key("/team/deep/er/x", None), "78");
        assert_eq!(key("/teammate", Some(Root::Root("5".into()))), "5");
        assert_eq!(key("/team/x.txt", Some(Root::Root("5".into()))), "5", "another place in another root");
        assert_eq!(key("ns:9/x", None), "9");
        assert_eq!(key("/other", None), "home of dbid:a");
    }
}
