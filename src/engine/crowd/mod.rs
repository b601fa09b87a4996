//! Small changes that wait at the same gate go as one job: whoever's turn it is takes those along that wait behind it, if they are
//! enough to be worth a job. Fewer go one by one, as if there were no jobs. Each caller hears what the single route would say.

mod job;

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use dropbox_sdk::types::files;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::{
    disjoint::Paths,
    gate::{Gates, NamespaceKey, latest},
};
use crate::{
    clock::SharedClock,
    dropbox::{Caller, Identity, Repeat, Turn, routes},
    fault::{Fault, Reason, Result},
    limits,
};

/// A change that may go with others.
#[derive(Debug, Clone)]
pub enum Change {
    /// Of a file: a folder may take long, and goes by itself.
    Delete(files::DeleteArg),
    CreateFolder(files::CreateFolderArg),
    Move(files::RelocationArg),
    Copy(files::RelocationArg),
}

/// What has to be equal in one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Delete,
    CreateFolder { autorename: bool },
    Move { autorename: bool, transfer: bool },
    Copy { autorename: bool },
}

impl Change {
    fn kind(&self) -> Kind {
        match self {
            Change::Delete(_) => Kind::Delete,
            Change::CreateFolder(arg) => Kind::CreateFolder { autorename: arg.autorename },
            Change::Move(arg) => Kind::Move { autorename: arg.autorename, transfer: arg.allow_ownership_transfer },
            Change::Copy(arg) => Kind::Copy { autorename: arg.autorename },
        }
    }

    fn paths(&self) -> Vec<String> {
        let paths = match self {
            Change::Delete(arg) => vec![&arg.path],
            Change::CreateFolder(arg) => vec![&arg.path],
            Change::Move(arg) | Change::Copy(arg) => vec![&arg.from_path, &arg.to_path],
        };
        paths.into_iter().map(|path| dbxcase::dbx_str_lowercase(path)).collect()
    }

    /// By itself.
    async fn run(&self, caller: &Caller, turn: &Turn) -> Result<files::Metadata> {
        match self {
            Change::Delete(arg) => Ok(caller.commit(turn, &routes::DELETE, arg).await?.value.metadata),
            Change::CreateFolder(arg) => {
                let repeat = if arg.autorename { Repeat::Never } else { Repeat::Verify };
                let made = caller.commit(turn, &routes::CREATE_FOLDER.repeating(repeat), arg).await?;
                Ok(files::Metadata::Folder(made.value.metadata))
            }
            Change::Move(arg) => Ok(caller.commit(turn, &routes::MOVE, arg).await?.value.metadata),
            Change::Copy(arg) => Ok(caller.commit(turn, &routes::COPY, arg).await?.value.metadata),
        }
    }
}

/// Who waits at which gates, with what.
#[derive(Clone)]
pub struct Crowds(Arc<Shared>);

struct Shared {
    gates: Arc<Gates>,
    tasks: TaskTracker,
    clock: SharedClock,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    number: u64,
    by_key: HashMap<Key, VecDeque<Waiter>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    gates: Vec<NamespaceKey>,
    identity: Identity,
    kind: Kind,
}

struct Waiter {
    number: u64,
    change: Change,
    paths: Vec<String>,
    latest: Option<Instant>,
    answer: oneshot::Sender<Told>,
}

/// What became of a change that went with others.
enum Told {
    Done(Result<files::Metadata>),
    /// Nothing happened, and it cannot go with others.
    Alone,
}

/// What whoever has its turn finds.
enum Found {
    /// Enough for a job, its own first.
    Crowd(Vec<Waiter>),
    Few,
    /// Another one has taken it along.
    Taken,
}

impl fmt::Debug for Crowds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crowds").finish_non_exhaustive()
    }
}

impl Crowds {
    pub fn new(gates: Arc<Gates>, tasks: TaskTracker, clock: SharedClock) -> Crowds {
        Crowds(Arc::new(Shared { gates, tasks, clock, waiting: Mutex::default() }))
    }

    /// Waits for the turn at these gates, or until somebody who has it takes this along. Cancel-safe while it waits; what was
    /// sent with others goes on.
    ///
    /// # Errors
    /// What the single route gives; `DEADLINE_EXCEEDED` with `sent`.
    pub async fn run(&self, caller: &Caller, gates: &[NamespaceKey], change: Change) -> Result<files::Metadata> {
        let mut place = self.stand(caller, gates, &change);
        let turn = tokio::select! {
            biased;
            told = &mut place.told => return self.told(told.ok(), caller, gates, &change).await,
            turn = self.0.gates.turn(caller.parameter(), gates, caller.deadline()) => turn,
        };
        let turn = match turn {
            Ok(turn) => turn,
            Err(fault) if place.leave() => return Err(fault),
            Err(_) => return self.hear(place, caller, gates, &change).await,
        };
        match self.0.find(&place) {
            Found::Few => change.run(caller, &turn).await,
            Found::Taken => {
                drop(turn);
                self.hear(place, caller, gates, &change).await
            }
            Found::Crowd(crowd) => {
                // It goes on when its leader leaves.
                let (own, kind, clock) =
                    (caller.clone().heard_by(Arc::default()), place.key.kind, self.0.clock.clone());
                self.0.tasks.spawn(async move { job::run(own, turn, kind, crowd, clock).await });
                self.hear(place, caller, gates, &change).await
            }
        }
    }

    /// Waits for what becomes of a change that somebody sent.
    async fn hear(
        &self,
        mut place: Place,
        caller: &Caller,
        gates: &[NamespaceKey],
        change: &Change,
    ) -> Result<files::Metadata> {
        let told = match caller.deadline() {
            None => (&mut place.told).await,
            Some(deadline) => match tokio::time::timeout_at(deadline.into(), &mut place.told).await {
                Ok(told) => told,
                Err(_) => {
                    let text = "the deadline passed before Dropbox answered";
                    return Err(Fault::new(Reason::DeadlineExceeded, text).fact("sent", true));
                }
            },
        };
        self.told(told.ok(), caller, gates, change).await
    }

    async fn told(
        &self,
        told: Option<Told>,
        caller: &Caller,
        gates: &[NamespaceKey],
        change: &Change,
    ) -> Result<files::Metadata> {
        match told {
            Some(Told::Done(outcome)) => outcome,
            Some(Told::Alone) => {
                let turn = self.0.gates.turn(caller.parameter(), gates, caller.deadline()).await?;
                change.run(caller, &turn).await
            }
            None => Err(Fault::new(Reason::OutcomeUnknown, "the change was sent and its answer was lost")),
        }
    }

    fn stand(&self, caller: &Caller, gates: &[NamespaceKey], change: &Change) -> Place {
        let mut gates = gates.to_vec();
        gates.sort();
        gates.dedup();
        let key = Key { gates, identity: caller.identity(), kind: change.kind() };
        let (answer, told) = oneshot::channel();
        let (paths, latest) = (change.paths(), latest(caller.deadline()));
        let mut waiting = self.0.lock();
        waiting.number += 1;
        let number = waiting.number;
        let waiter = Waiter { number, change: change.clone(), paths, latest, answer };
        waiting.by_key.entry(key.clone()).or_default().push_back(waiter);
        Place { shared: self.0.clone(), key, number, told, _caller: caller.clone() }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whom the one whose turn it is takes along: in the order of arrival, and none whose paths meet another's.
    fn find(&self, place: &Place) -> Found {
        let now = Instant::now();
        let mut waiting = self.lock();
        let Some(queue) = waiting.by_key.get_mut(&place.key) else { return Found::Taken };
        let Some(at) = queue.iter().position(|waiter| waiter.number == place.number) else { return Found::Taken };
        let mut paths = Paths::default();
        paths.take(&queue[at].paths);
        let chosen: Vec<bool> = {
            let mut count = 1;
            let goes = |waiter: &Waiter| {
                waiter.number == place.number || {
                    let free = paths.take(&waiter.paths);
                    let in_time = waiter.latest.is_none_or(|latest| now < latest);
                    let goes = free && in_time && count < limits::BATCH_ENTRIES_MAX;
                    count += usize::from(goes);
                    goes
                }
            };
            queue.iter().map(goes).collect()
        };
        let crowd = chosen.iter().filter(|goes| **goes).count() >= limits::JOB_ENTRIES_MIN;
        let mut taken = Vec::new();
        let mut left = VecDeque::new();
        for (waiter, goes) in queue.drain(..).zip(chosen) {
            let is_own = waiter.number == place.number;
            if is_own || (crowd && goes) { taken.push(waiter) } else { left.push_back(waiter) }
        }
        match left.is_empty() {
            true => _ = waiting.by_key.remove(&place.key),
            false => *queue = left,
        }
        if crowd { Found::Crowd(taken) } else { Found::Few }
    }
}

/// A place among those who wait. Dropping it leaves.
struct Place {
    shared: Arc<Shared>,
    key: Key,
    number: u64,
    told: oneshot::Receiver<Told>,
    /// Keeps the identity of the key one of its own.
    _caller: Caller,
}

impl Place {
    /// False: it was taken along, and is on its way.
    fn leave(&self) -> bool {
        let mut waiting = self.shared.lock();
        let Some(queue) = waiting.by_key.get_mut(&self.key) else { return false };
        let Some(at) = queue.iter().position(|waiter| waiter.number == self.number) else { return false };
        queue.remove(at);
        if queue.is_empty() {
            waiting.by_key.remove(&self.key);
        }
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}
