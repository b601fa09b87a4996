//! Small uploads that meet at the gate of a namespace go together: their bytes ahead of their turn (`append_batch`), their
//! commits with one turn (`finish_batch_v2`). Each caller gets the outcome of its own entry, as if it had been alone. An upload
//! that finds gate and group idle goes alone, in one request.
//! A group is of one namespace and one identity; its driver is a task that lives while there is work. What a group holds of an
//! upload is its bytes, paid for by the budget; whoever leaves before its commit was sent leaves nothing behind.

mod batch;
mod calls;
mod driver;

use std::{
    collections::{HashMap, VecDeque, hash_map},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use dropbox_sdk::files::{CommitInfo, FileMetadata};
use smallvec::{SmallVec, smallvec};
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use self::driver::Driver;
use super::{Account, Shared, UploadSpec, commit::outcome_unknown};
pub(super) use crate::engine::together::Sent;
use crate::{
    dropbox::{Caller, Identity, Turn},
    engine::{
        gate::{NamespaceKey, latest},
        parts::Part,
        together::{self, Heard},
    },
    fault::Result,
    limits,
};

/// The groups that have uploads, or had until a moment ago.
#[derive(Default)]
pub(super) struct Groups(Mutex<HashMap<Key, Arc<Group>>>);

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    namespace: NamespaceKey,
    identity: Identity,
}

struct Group {
    key: Key,
    /// Keeps the identity's way out one of its own for as long as the group is known.
    caller: Caller,
    state: Mutex<State>,
    /// Something has come or left.
    bell: Notify,
}

#[derive(Default)]
struct State {
    /// Uploads whose bytes are coming in, and that may go together.
    coming: usize,
    /// Bytes not sent yet.
    queued: VecDeque<Entry>,
    queued_bytes: u64,
    last_at: Option<Instant>,
    /// Entries that ever came.
    count: u64,
    /// Entries in the queue may have been withdrawn.
    withdrawn: bool,
    /// A driver runs, and it has work.
    runs: bool,
    busy: bool,
}

/// An upload in a group.
struct Entry {
    /// In the order of arrival.
    number: u64,
    commit: CommitInfo,
    /// The path as Dropbox compares paths.
    path: String,
    /// A second commit might write a second file.
    once: bool,
    /// Its bytes are to be there, and its commit is left to its caller.
    ahead: bool,
    size: u64,
    body: SmallVec<[Bytes; 2]>,
    /// From then on it is too late to send it.
    latest: Option<Instant>,
    since: Instant,
    /// After contention: not before.
    again_at: Option<Instant>,
    contentions: u32,
    /// It met contention among others that did not: it goes again without company.
    by_itself: bool,
    sent: Arc<Sent>,
    answer: oneshot::Sender<Told>,
}

/// What became of an upload in its group.
pub(super) enum Told {
    /// As the single route would have answered. A fault about the path names the session that has the bytes.
    Done {
        outcome: Result<Box<FileMetadata>>,
        /// What Dropbox called its answer.
        request_id: Option<String>,
    },
    /// The bytes are in this session, and no commit was asked for.
    Kept(String),
    /// Nothing was committed, and it cannot go with others.
    Alone,
}

impl Entry {
    /// Its caller still waits for it.
    fn is_wanted(&self) -> bool {
        !self.sent.is_withdrawn() && !self.answer.is_closed()
    }

    /// There is time left to send it. Else its caller ends by itself, at that very moment.
    fn is_in_time(&self, now: Instant) -> bool {
        self.latest.is_none_or(|latest| now < latest)
    }

    fn tell(self, told: Told) {
        // Whoever left is told by nobody.
        let _ = self.answer.send(told);
    }

    /// Nothing was committed.
    fn goes_alone(self) {
        self.sent.set(false);
        self.tell(Told::Alone);
    }
}

impl Group {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_idle(&self) -> bool {
        self.coming == 0 && !self.runs && self.queued.is_empty()
    }
}

/// An upload whose bytes are coming in, and that may go together with others.
pub(super) struct Coming {
    shared: Arc<Shared>,
    group: Arc<Group>,
    counted: bool,
}

impl Coming {
    /// `None`: it is too large for one request, so it will have a session of its own.
    pub(super) fn expect(
        shared: &Arc<Shared>,
        caller: &Caller,
        account: &Account<'_>,
        spec: &UploadSpec,
    ) -> Option<Coming> {
        if spec.total_size.is_some_and(|size| size == 0 || size > limits::SINGLE_UPLOAD_BYTES_MAX) {
            return None;
        }
        let namespace = shared.gates.key_for(account.owner.account, caller.root(), &spec.path);
        let key = Key { namespace, identity: caller.identity() };
        let mut groups = shared.groups.0.lock().unwrap_or_else(PoisonError::into_inner);
        let group = match groups.entry(key) {
            hash_map::Entry::Occupied(known) => known.get().clone(),
            hash_map::Entry::Vacant(place) => {
                // Its requests are nobody's in particular: no deadline, no ear.
                let caller = caller.with_deadline(None).heard_by(Arc::default());
                let (key, state) = (place.key().clone(), Mutex::default());
                place.insert(Arc::new(Group { key, caller, state, bell: Notify::new() })).clone()
            }
        };
        group.lock().coming += 1;
        Some(Coming { shared: shared.clone(), group, counted: true })
    }

    /// The turn, if neither the gate nor the group has anything to do.
    pub(super) fn alone(&self) -> Option<Turn> {
        let state = self.group.lock();
        if state.busy || !state.queued.is_empty() {
            return None;
        }
        self.shared.gates.turn_now(self.group.caller.parameter(), std::slice::from_ref(&self.group.key.namespace))
    }

    /// Others are here whose bytes may go with these.
    pub(super) fn in_company(&self) -> bool {
        let state = self.group.lock();
        state.coming > 1 || state.busy || !state.queued.is_empty()
    }

    /// Goes with the others. Cancel-safe: an upload whose commit has not left is withdrawn. The bytes stay with the caller, in memory
    /// of their own size: it may have to go alone after all.
    ///
    /// # Errors
    /// `DEADLINE_EXCEEDED` with `sent=false`; `OUTCOME_UNKNOWN` where nobody can say any more.
    pub(super) async fn together(
        mut self,
        caller: &Caller,
        spec: &UploadSpec,
        part: &mut Part,
        sent: &Arc<Sent>,
    ) -> Result<Told> {
        let since = Instant::now();
        let latest = latest(caller.deadline()).map(Instant::from_std);
        let (answer, told) = oneshot::channel();
        self.shared.to_own_size(caller.parameter(), part);
        let mut leaving = Leaving { group: self.group.clone(), sent: sent.clone(), armed: true };
        self.enter(Entry {
            number: 0,
            commit: spec.commit_info(),
            path: dbxcase::dbx_str_lowercase(&spec.path),
            once: spec.may_write_twice(),
            ahead: spec.deferred,
            size: part.len(),
            body: part.pieces.clone(),
            latest,
            since,
            again_at: None,
            contentions: 0,
            by_itself: false,
            sent: sent.clone(),
            answer,
        });
        let heard = together::hear(told, sent, latest, since).await;
        leaving.armed = false;
        match heard? {
            Heard::Told(told) => Ok(told),
            Heard::Lost => Err(outcome_unknown()),
            Heard::Unsent => Ok(Told::Alone),
        }
    }

    fn enter(&mut self, mut entry: Entry) {
        let mut state = self.group.lock();
        if std::mem::take(&mut self.counted) {
            state.coming -= 1;
        }
        state.count += 1;
        entry.number = state.count;
        state.queued_bytes += entry.size;
        state.last_at = Some(entry.since);
        state.queued.push_back(entry);
        state.busy = true;
        if !std::mem::replace(&mut state.runs, true) {
            let driver = Driver::new(self.shared.clone(), self.group.clone());
            self.shared.tasks.spawn(driver.run());
        }
        drop(state);
        self.group.bell.notify_one();
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        let idle = {
            let mut state = self.group.lock();
            if self.counted {
                state.coming -= 1;
            }
            if !state.queued.is_empty() {
                self.group.bell.notify_one();
            }
            state.is_idle()
        };
        if idle {
            self.shared.groups.forget(&self.group.key);
        }
    }
}

impl Groups {
    /// A group that nothing is left of.
    fn forget(&self, key: &Key) {
        let gone = {
            let mut groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match groups.get(key).is_some_and(|group| group.lock().is_idle()) {
                true => groups.remove(key),
                false => None,
            }
        };
        drop(gone);
    }
}

/// Whoever goes before its commit was sent withdraws it.
struct Leaving {
    group: Arc<Group>,
    sent: Arc<Sent>,
    armed: bool,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        if self.armed && self.sent.withdraw() {
            self.group.lock().withdrawn = true;
            self.group.bell.notify_one();
        }
    }
}

impl Shared {
    /// An upload that waits lies in no blocks that others could use.
    fn to_own_size(&self, parameter: &str, part: &mut Part) {
        let bytes = part.pieces.iter().map(Bytes::len).sum::<usize>();
        let blocks = bytes.next_multiple_of(limits::BLOCK_BYTES);
        // Smaller ones do already, or lie there as they came.
        if bytes <= limits::SMALL_UPLOAD_BYTES || blocks - bytes < limits::BUDGET_UNIT_BYTES {
            return;
        }
        part.pieces = smallvec![self.blocks.own_size(parameter, std::mem::take(&mut part.pieces))];
    }
}
