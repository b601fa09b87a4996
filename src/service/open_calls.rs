//! The calls under way, so that those which have to be cut at the end can be named.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::call::Call;
use crate::limits::CUT_CALLS_TOLD_MAX;

/// All of one process. Clones are the same list.
#[derive(Debug, Clone, Default)]
pub struct OpenCalls(Arc<Mutex<List>>);

#[derive(Debug, Default)]
struct List {
    next: u64,
    calls: BTreeMap<u64, Call>,
}

/// A place on the list, left when dropped.
#[derive(Debug)]
pub(super) struct Entered {
    calls: OpenCalls,
    number: u64,
}

impl OpenCalls {
    pub(super) fn enter(&self, call: &Call) -> Entered {
        let mut list = self.list();
        let number = list.next;
        list.next += 1;
        list.calls.insert(number, call.clone());
        Entered { calls: self.clone(), number }
    }

    /// Names in the log what is still under way and will be cut.
    pub fn tell(&self) {
        let list = self.list();
        for call in list.calls.values().take(CUT_CALLS_TOLD_MAX) {
            let facts = call.facts();
            tracing::warn!(
                rpc = facts.rpc,
                request_id = facts.request_id,
                principal = facts.principal.name(),
                parameter = facts.parameter.get().map(String::as_str),
                seconds = facts.begun.elapsed().as_secs(),
                "cut: still under way when drain_grace ended"
            );
        }
        tracing::warn!(calls = list.calls.len(), "drain_grace ended; every connection is closed");
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.calls.list().calls.remove(&self.number);
    }
}
