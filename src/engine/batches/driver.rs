//! The task of a group: it stands at the gate, and whoever waits in the group when its turn comes goes with it.

use std::{collections::HashMap, sync::Arc};

use tokio::{
    task::{Id, JoinError, JoinSet},
    time::Instant,
};

use super::{
    Chosen, Group, Shared, Told,
    calls::{self, Ended},
};
use crate::{
    clock::at,
    dropbox::Turn,
    engine::together::{Paths, back_off},
    fault::Result,
    limits,
};

pub(super) struct Driver {
    shared: Arc<Shared>,
    group: Arc<Group>,
    /// What is under way.
    calls: JoinSet<Done>,
    /// The paths of jobs that are, so that nothing that meets them passes them.
    jobs: HashMap<Id, Vec<Vec<String>>>,
    /// It stands at the gate.
    queues: Option<Id>,
    /// Whoever waits stands behind a job, or one of its path that waits for its time.
    blocked: bool,
}

enum Done {
    Turn(Result<Turn>),
    Ended(Ended),
}

impl Driver {
    pub(super) fn new(shared: Arc<Shared>, group: Arc<Group>) -> Driver {
        Driver { shared, group, calls: JoinSet::new(), jobs: HashMap::new(), queues: None, blocked: false }
    }

    /// Until nobody waits and nothing is under way.
    pub(super) async fn run(mut self) {
        loop {
            let wake = self.step();
            if self.calls.is_empty() && self.shared.ends(&self.group) {
                return;
            }
            tokio::select! {
                () = self.group.bell.notified() => self.blocked = false,
                Some(done) = self.calls.join_next_with_id() => match done {
                    Ok((id, done)) => self.take(id, done),
                    Err(error) => self.broke_down(&error),
                },
                () = at(wake) => self.blocked = false,
            }
        }
    }

    /// Goes to the gate if somebody may go; when to look again, if nothing happens before.
    fn step(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let due = {
            let mut state = self.group.lock();
            state.prune();
            state.due(now)?
        };
        if self.queues.is_some() {
            return None;
        }
        if due > now {
            return Some(due);
        }
        if self.blocked {
            return Some(now + limits::BATCH_BLOCKED_LOOK);
        }
        let (shared, group) = (self.shared.clone(), self.group.clone());
        let queued = self.calls.spawn(async move {
            Done::Turn(shared.gates.turn(&group.key.parameter, &group.key.namespaces, None).await)
        });
        self.queues = Some(queued.id());
        None
    }

    fn take(&mut self, id: Id, done: Done) {
        match done {
            Done::Turn(turn) => {
                self.queues = None;
                if let Ok(turn) = turn {
                    self.go(turn);
                }
            }
            Done::Ended(ended) => {
                self.jobs.remove(&id);
                self.blocked = false;
                self.ended(ended);
            }
        }
    }

    fn go(&mut self, turn: Turn) {
        let mut taken = Paths::default();
        self.jobs.values().flatten().for_each(|paths| _ = taken.take(paths));
        let chosen = self.group.lock().choose(Instant::now(), taken);
        match chosen {
            Chosen::Nothing => self.blocked = true,
            Chosen::One(entry) => {
                let after_unclear = entry.losses > 0;
                entry.tell(Told::Alone { turn, after_unclear });
            }
            Chosen::Batch(entries) => {
                let paths = entries.iter().map(|entry| entry.paths.clone()).collect();
                let (shared, group) = (self.shared.clone(), self.group.clone());
                let job =
                    self.calls.spawn(async move { Done::Ended(calls::run(&shared, &group, turn, entries).await) });
                self.jobs.insert(job.id(), paths);
            }
        }
    }

    fn ended(&mut self, ended: Ended) {
        let Ended { again, told_to_wait } = ended;
        let now = Instant::now();
        // Those that were refused together go together again.
        let most = again.iter().map(|entry| entry.contentions).max().unwrap_or(0);
        let together = now + back_off(most).max(told_to_wait);
        let mut state = self.group.lock();
        for mut entry in again {
            if entry.contentions > 0 {
                entry.again_at = Some(if entry.alone { now + back_off(entry.contentions) } else { together });
            }
            state.waiting.push_back(entry);
        }
    }

    /// A task broke down: the entries it had hear of it by their channels.
    fn broke_down(&mut self, error: &JoinError) {
        tracing::error!(%error, "a request for several changes broke down");
        self.jobs.remove(&error.id());
        self.queues.take_if(|id| *id == error.id());
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.abandon(&self.group);
    }
}
