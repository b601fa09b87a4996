//! Folders made, items deleted, moved and copied: those that meet at the gate of a namespace go together, as one job of Dropbox's.
//! Each caller gets the outcome of its own entry, as if it had been alone. Whoever finds the gate idle goes alone, at once; a job
//! takes a launch and a look at least, so fewer than four that wait go one by one, too.
//! A group is of one application parameter, one identity, one set of namespaces and one kind; its driver is a task that lives while
//! somebody waits. What is left of a job that takes longer than a minute is followed without the gate.

mod calls;
mod driver;

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use dbxcase::dbx_str_lowercase;
use dropbox_sdk::files::{DeleteArg, Metadata, RelocationPath};
use smallvec::{SmallVec, smallvec};
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};
use tokio_util::task::TaskTracker;

use self::driver::Driver;
use super::{
    gate::{Gates, NamespaceKey, latest, too_late},
    together::{Heard, Paths, Sent, hear, next_turn_max},
};
use crate::{
    clock::SharedClock,
    dropbox::{Caller, Identity, Turn},
    fault::{Fault, Reason, Result},
    limits,
};

/// A change of one item, with paths as Dropbox takes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Folder { path: String, autorename: bool },
    Delete(DeleteArg),
    Move { paths: RelocationPath, autorename: bool, transfer: bool },
    Copy { paths: RelocationPath, autorename: bool },
}

/// What has to be equal in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Folders { autorename: bool },
    Deletions,
    Moves { autorename: bool, transfer: bool },
    Copies { autorename: bool },
}

/// Runs changes, together where they meet. A clone is the same.
#[derive(Clone)]
pub struct Batches(Arc<Shared>);

struct Shared {
    gates: Arc<Gates>,
    clock: SharedClock,
    /// A drain waits for them.
    tasks: TaskTracker,
    /// Those whose drivers run.
    groups: Mutex<HashMap<Key, Arc<Group>>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    parameter: Arc<str>,
    identity: Identity,
    namespaces: Vec<NamespaceKey>,
    kind: Kind,
}

struct Group {
    key: Key,
    /// Keeps the identity's way out one of its own for as long as the group is known.
    caller: Caller,
    state: Mutex<State>,
    /// Somebody has come or left.
    bell: Notify,
}

#[derive(Default)]
struct State {
    /// In the order of arrival.
    waiting: VecDeque<Entry>,
    /// Entries that ever came.
    count: u64,
    /// Some of them may have left.
    withdrawn: bool,
    /// Entries of one turn, as far as is known what Dropbox does in one.
    turn_max: Option<usize>,
}

/// A change in a group.
struct Entry {
    /// In the order of arrival.
    number: u64,
    change: Change,
    /// As Dropbox compares paths.
    paths: Vec<String>,
    /// From then on it is too late to send it.
    latest: Option<Instant>,
    /// After contention: not before.
    again_at: Option<Instant>,
    contentions: u32,
    /// It goes by itself.
    alone: bool,
    /// Batches it was in of which nothing was heard any more: it may have been carried out.
    losses: u32,
    sent: Arc<Sent>,
    answer: oneshot::Sender<Told>,
}

/// What an entry's caller is told.
enum Told {
    /// It is to go by itself, with this turn.
    Alone { turn: Turn, after_unclear: bool },
    /// As the single route would have answered.
    Done(Result<Box<Metadata>>),
}

impl Change {
    fn kind(&self) -> Kind {
        match *self {
            Change::Folder { autorename, .. } => Kind::Folders { autorename },
            Change::Delete(_) => Kind::Deletions,
            Change::Move { autorename, transfer, .. } => Kind::Moves { autorename, transfer },
            Change::Copy { autorename, .. } => Kind::Copies { autorename },
        }
    }

    fn paths(&self) -> SmallVec<[&str; 2]> {
        match self {
            Change::Folder { path, .. } => smallvec![path.as_str()],
            Change::Delete(arg) => smallvec![arg.path.as_str()],
            Change::Move { paths, .. } | Change::Copy { paths, .. } => {
                smallvec![paths.from_path.as_str(), paths.to_path.as_str()]
            }
        }
    }

    /// Of an id nobody knows whose path it meets; what is deleted without its rev is a folder, or whatever took its place by the
    /// time it is sent again.
    fn may_share(&self) -> bool {
        let guarded = !matches!(self, Change::Delete(arg) if arg.parent_rev.is_none());
        guarded && self.paths().iter().all(|path| !path.starts_with("id:"))
    }

    fn bytes(&self) -> usize {
        self.paths().iter().map(|path| path.len()).sum()
    }
}

impl Kind {
    /// What may have been done is simply done again, and refused if it was (API-FACTS 3.4).
    fn is_repeatable(self) -> bool {
        matches!(self, Kind::Folders { autorename: false } | Kind::Deletions)
    }
}

impl fmt::Debug for Batches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batches").finish_non_exhaustive()
    }
}

impl Batches {
    pub fn new(gates: Arc<Gates>, clock: SharedClock, tasks: TaskTracker) -> Batches {
        Batches(Arc::new(Shared { gates, clock, tasks, groups: Mutex::default() }))
    }

    /// Carries a change out when its turn at these gates comes. Cancel-safe: what was not sent is withdrawn; what went with others
    /// goes on.
    ///
    /// # Errors
    /// As of the single route. With the fact `underWay` it may still happen: what a look does not find has not failed.
    pub async fn run(&self, caller: &Caller, namespaces: &[NamespaceKey], change: Change) -> Result<Metadata> {
        if !change.may_share() {
            let turn = self.0.gates.turn(caller.parameter(), namespaces, caller.deadline()).await?;
            return calls::alone(caller, &turn, &change).await;
        }
        let (turn, after_unclear) = match self.enter(caller, namespaces, &change) {
            Entered::Alone(_) if latest(caller.deadline()).is_some_and(|at| at <= std::time::Instant::now()) => {
                return Err(too_late(Duration::ZERO));
            }
            Entered::Alone(turn) => (turn, false),
            Entered::Waits(waiting) => match waiting.told(caller).await? {
                Told::Alone { turn, after_unclear } => (turn, after_unclear),
                Told::Done(done) => return done.map(|metadata| *metadata),
            },
        };
        match after_unclear {
            true => calls::alone(&caller.after_unclear(), &turn, &change).await,
            false => calls::alone(caller, &turn, &change).await,
        }
    }

    fn enter(&self, caller: &Caller, namespaces: &[NamespaceKey], change: &Change) -> Entered {
        let mut namespaces = namespaces.to_vec();
        namespaces.sort();
        namespaces.dedup();
        let parameter = caller.parameter().into();
        let key = Key { parameter, identity: caller.identity(), namespaces, kind: change.kind() };
        let mut groups = self.0.lock();
        let known = groups.get(&key).cloned();
        if known.is_none()
            && let Some(turn) = self.0.gates.turn_now(&key.parameter, &key.namespaces)
        {
            return Entered::Alone(turn);
        }
        let group = known.unwrap_or_else(|| {
            // Its requests are nobody's in particular: no deadline, no ear.
            let caller = caller.with_deadline(None).heard_by(Arc::default());
            let group = Arc::new(Group { key: key.clone(), caller, state: Mutex::default(), bell: Notify::new() });
            groups.insert(key, group.clone());
            self.0.tasks.spawn(Driver::new(self.0.clone(), group.clone()).run());
            group
        });
        // With the map still locked: a driver ends only when nobody waits.
        Entered::Waits(Waiting::at(group, caller, change))
    }
}

enum Entered {
    Alone(Turn),
    Waits(Waiting),
}

/// A caller whose change is in a group. Whoever goes before it was sent withdraws it.
struct Waiting {
    group: Arc<Group>,
    sent: Arc<Sent>,
    latest: Option<Instant>,
    since: Instant,
    told: Option<oneshot::Receiver<Told>>,
}

impl Waiting {
    fn at(group: Arc<Group>, caller: &Caller, change: &Change) -> Waiting {
        let (answer, told) = oneshot::channel();
        let sent = Arc::<Sent>::default();
        let latest = latest(caller.deadline()).map(Instant::from_std);
        let since = Instant::now();
        {
            let mut state = group.lock();
            state.count += 1;
            let entry = Entry {
                number: state.count,
                paths: change.paths().iter().map(|path| dbx_str_lowercase(path)).collect(),
                change: change.clone(),
                latest,
                again_at: None,
                contentions: 0,
                alone: false,
                losses: 0,
                sent: sent.clone(),
                answer,
            };
            state.waiting.push_back(entry);
        }
        group.bell.notify_one();
        Waiting { group, sent, latest, since, told: Some(told) }
    }

    async fn told(mut self, caller: &Caller) -> Result<Told> {
        let Some(told) = self.told.take() else { return Err(Fault::bug("an entry is heard of once")) };
        let hearing = hear(told, &self.sent, self.latest, self.since);
        let heard = match caller.deadline() {
            None => hearing.await?,
            Some(at) => match tokio::time::timeout_at(at.into(), hearing).await {
                Ok(heard) => heard?,
                // Its batch was contended: it waits again, and does not go any more.
                Err(_) if self.sent.withdraw() => return Err(too_late(self.since.elapsed())),
                Err(_) => {
                    let text = "the deadline passed before Dropbox answered; the change goes on";
                    let fault = Fault::new(Reason::DeadlineExceeded, text).fact("sent", true).fact("underWay", true);
                    return Err(fault.fact("dropboxRoute", &self.group.key.kind.launch_route().path));
                }
            },
        };
        match heard {
            Heard::Told(told) => Ok(told),
            Heard::Lost => Err(lost()),
            Heard::Unsent => Err(Fault::bug("a group ended with somebody in it").fact("sent", false)),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.sent.withdraw() {
            self.group.lock().withdrawn = true;
            self.group.bell.notify_one();
        }
    }
}

/// Nobody knows, and it may still happen.
fn lost() -> Fault {
    let text = "the change went to Dropbox with others, and what came of it was not heard; it may have been done";
    Fault::new(Reason::OutcomeUnknown, text).fact("underWay", true)
}

impl Entry {
    /// Its caller still waits for it.
    fn is_wanted(&self) -> bool {
        !self.sent.is_withdrawn() && !self.answer.is_closed()
    }

    fn is_due(&self, now: Instant) -> bool {
        self.again_at.is_none_or(|at| at <= now)
    }

    /// There is time left to send it. Else its caller ends by itself, at that very moment.
    fn is_in_time(&self, now: Instant) -> bool {
        self.latest.is_none_or(|latest| now < latest)
    }

    /// About to leave. False: it was withdrawn.
    fn leaves(&self) -> bool {
        self.sent.is_sent() || self.sent.leaves()
    }

    fn tell(self, told: Told) {
        // Whoever left is told by nobody.
        let _ = self.answer.send(told);
    }
}

/// What goes with a turn.
enum Chosen {
    Nothing,
    One(Entry),
    Batch(Vec<Entry>),
}

impl Group {
    /// What a batch of so many took with its turn. Others stood at the gate when it left, or not.
    fn took(&self, entries: usize, took: Duration, others_wait: bool) {
        let turn = if others_wait { limits::BATCH_TURN } else { limits::BATCH_JOB_TURN };
        let mut state = self.lock();
        state.turn_max = Some(next_turn_max(state.turn_max(), entries, took, turn));
    }
}

impl State {
    fn turn_max(&self) -> usize {
        self.turn_max.unwrap_or(limits::BATCH_ENTRIES_MAX)
    }

    /// Takes out what goes now, in the order of arrival, `most` at most. Paths that are equal or lie in each other never share a batch
    /// and keep their order; `taken`: those of jobs that nobody has heard the end of. What goes by itself goes when it is first.
    fn choose(&mut self, now: Instant, mut taken: Paths) -> Chosen {
        let most = self.turn_max();
        self.waiting.retain(|entry| entry.is_wanted() && entry.is_in_time(now));
        self.waiting.make_contiguous().sort_by_key(|entry| entry.number);
        let (mut places, mut bytes) = (Vec::new(), 0);
        for (at, entry) in self.waiting.iter().enumerate() {
            // Those behind one that waits wait behind it, so it is asked first.
            let free = taken.take(&entry.paths);
            if !free || !entry.is_due(now) {
                continue;
            }
            if entry.alone && places.is_empty() {
                places.push(at);
                break;
            }
            bytes += entry.change.bytes();
            if entry.alone || places.len() >= most || bytes > limits::BATCH_ARGUMENT_BYTES_MAX {
                continue;
            }
            places.push(at);
        }
        if places.len() < limits::BATCH_JOB_ENTRIES_MIN {
            places.truncate(1);
        }
        let mut chosen = Vec::with_capacity(places.len());
        for at in places.into_iter().rev() {
            chosen.extend(self.waiting.remove(at).filter(Entry::leaves));
        }
        chosen.reverse();
        match (chosen.pop(), chosen.is_empty()) {
            (None, _) => Chosen::Nothing,
            (Some(one), true) => Chosen::One(one),
            (Some(last), false) => {
                chosen.push(last);
                Chosen::Batch(chosen)
            }
        }
    }

    /// Lets go of those who left.
    fn prune(&mut self) {
        if std::mem::take(&mut self.withdrawn) {
            self.waiting.retain(Entry::is_wanted);
        }
    }

    /// When one of them may go; `None`: nobody waits.
    fn due(&self, now: Instant) -> Option<Instant> {
        self.waiting.iter().map(|entry| entry.again_at.unwrap_or(now)).min()
    }
}

impl Group {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Arc<Group>>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The driver is gone. Whoever still waits, because it broke down, hears so.
    fn abandon(&self, group: &Arc<Group>) {
        {
            let mut groups = self.lock();
            if groups.get(&group.key).is_some_and(|known| Arc::ptr_eq(known, group)) {
                groups.remove(&group.key);
            }
        }
        drop(std::mem::take(&mut group.lock().waiting));
    }

    /// Whether nobody waits in the group; it is forgotten then.
    fn ends(&self, group: &Group) -> bool {
        let gone = {
            let mut groups = self.lock();
            if !group.lock().waiting.is_empty() {
                return false;
            }
            groups.remove(&group.key)
        };
        drop(gone);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Entries in a queue, and what keeps their callers waiting.
    #[derive(Default)]
    struct Queue {
        state: State,
        callers: Vec<oneshot::Receiver<Told>>,
    }

    impl Queue {
        fn add(&mut self, number: u64, path: &str, edit: impl FnOnce(&mut Entry)) {
            let (answer, caller) = oneshot::channel();
            self.callers.push(caller);
            let mut entry = Entry {
                number,
                change: Change::Folder { path: path.into(), autorename: false },
                paths: vec![path.into()],
                latest: None,
                again_at: None,
                contentions: 0,
                alone: false,
                losses: 0,
                sent: Arc::default(),
                answer,
            };
            edit(&mut entry);
            self.state.waiting.push_back(entry);
        }

        fn next(&mut self, most: usize) -> Vec<u64> {
            self.state.turn_max = Some(most);
            let chosen = match self.state.choose(Instant::now(), Paths::default()) {
                Chosen::Nothing => Vec::new(),
                Chosen::One(entry) => vec![entry],
                Chosen::Batch(entries) => entries,
            };
            assert!(chosen.iter().all(|entry| entry.sent.is_sent()));
            chosen.iter().map(|entry| entry.number).collect()
        }
    }

    #[tokio::test]
    async fn what_goes_is_in_order_wanted_in_time_and_four_at_least_or_one() {
        let mut queue = Queue::default();
        let later = Instant::now() + Duration::from_secs(60);
        queue.add(9, "/i", |_| {});
        queue.add(1, "/a", |_| {});
        queue.add(2, "/b", |entry| assert!(entry.sent.withdraw()));
        queue.add(3, "/c", |entry| entry.latest = Some(Instant::now()));
        queue.add(4, "/d", |entry| entry.again_at = Some(later));
        queue.add(5, "/d/below", |_| {});
        queue.add(6, "/f", |entry| entry.latest = Some(later));
        queue.add(7, "/g", |entry| entry.alone = true);
        queue.add(8, "/h", |_| {});
        assert_eq!(queue.next(100), [1, 6, 8, 9]);
        assert_eq!(queue.next(100), [7], "it is first, and goes by itself");
        assert_eq!(queue.next(100), [0; 0], "behind one above it that has to wait");
        queue.state.waiting[0].again_at = None;
        queue.add(10, "/j", |_| {});
        queue.add(11, "/k", |_| {});
        assert_eq!(queue.next(100), [4], "three are too few");
        assert_eq!(queue.next(100), [5]);
        queue.add(12, "/l", |_| {});
        queue.add(13, "/m", |entry| entry.alone = true);
        queue.add(14, "/n", |_| {});
        queue.add(15, "/o", |_| {});
        assert_eq!(queue.next(4), [10, 11, 12, 14]);
        assert_eq!(queue.next(4), [13]);
        assert_eq!((queue.next(4), queue.state.waiting.len()), (vec![15], 0));
    }

    #[tokio::test]
    async fn what_meets_a_job_that_runs_waits_and_long_paths_make_small_batches() {
        let mut queue = Queue::default();
        let long = "x".repeat(limits::BATCH_ARGUMENT_BYTES_MAX / 5);
        for number in 1..=8 {
            queue.add(number, &format!("/{number}/{long}"), |_| {});
        }
        let mut taken = Paths::default();
        taken.take(&["/2".to_owned()]);
        let Chosen::Batch(chosen) = queue.state.choose(Instant::now(), taken) else { panic!("a batch") };
        assert_eq!(chosen.iter().map(|entry| entry.number).collect::<Vec<_>>(), [1, 3, 4, 5]);
    }

    #[test]
    fn only_what_can_be_told_apart_and_done_again_shares_a_batch() {
        let paths = |from: &str, to: &str| RelocationPath::new(from.into(), to.into());
        let may = |change: Change| change.may_share();
        assert!(may(Change::Folder { path: "/a".into(), autorename: true }));
        assert!(!may(Change::Delete(DeleteArg::new("/a".into()))), "it may be a folder");
        assert!(may(Change::Delete(DeleteArg::new("/a".into()).with_parent_rev("0123456789".into()))));
        assert!(!may(Change::Delete(DeleteArg::new("id:abcd".into()).with_parent_rev("0123456789".into()))));
        assert!(!may(Change::Copy { paths: paths("id:abcd", "/b"), autorename: false }));
        assert!(may(Change::Move { paths: paths("/a", "ns:7/b"), autorename: false, transfer: false }));
    }
}
