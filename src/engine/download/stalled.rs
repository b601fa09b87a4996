//! Downloads whose callers stopped reading. A body that nobody reads keeps one of its account's few places and a connection
//! to Dropbox, for ever if its caller never comes back: after a while it is let go, and taken up again when it does.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use super::flow::{Flow, lock};
use crate::{clock::SharedClock, limits};

/// Looks per span of patience: a caller has that span and at most a quarter more.
const LOOKS: u32 = 4;

/// All downloads that are open, to be looked after.
#[derive(Debug)]
pub(super) struct Stalled {
    idle: Duration,
    clock: SharedClock,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    flows: HashMap<u64, Weak<Mutex<Flow>>>,
}

/// A place on the list, left when dropped.
#[derive(Debug)]
pub(super) struct Listed {
    stalled: Arc<Stalled>,
    number: u64,
}

impl Stalled {
    pub(super) fn new(idle: Duration, clock: SharedClock) -> Stalled {
        Stalled { idle, clock, open: Mutex::default() }
    }

    pub(super) fn idle(&self) -> Duration {
        self.idle
    }

    pub(super) fn clock(&self) -> SharedClock {
        self.clock.clone()
    }

    pub(super) fn list(self: &Arc<Self>, flow: &Arc<Mutex<Flow>>) -> Listed {
        let mut open = self.open();
        let number = open.next;
        open.next += 1;
        open.flows.insert(number, Arc::downgrade(flow));
        Listed { stalled: self.clone(), number }
    }

    pub(super) async fn watch(&self) -> Infallible {
        loop {
            self.clock.sleep((self.idle / LOOKS).min(limits::DRAIN_PATIENCE)).await;
            let flows: Vec<_> = self.open().flows.values().cloned().collect();
            for flow in flows {
                while let Some(flow) = flow.upgrade()
                    && !lock(&flow).let_go(self.clock.steady(), self.idle)
                {
                    drop(flow);
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.stalled.open().flows.remove(&self.number);
    }
}
