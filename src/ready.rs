//! The facts behind health: one `watch` that store, keys, loading and drain write and that gRPC health, HTTP ready and
//! metrics read. Dropbox being away is no fact here: it would unroute processes for what they cannot fix.

use std::sync::Arc;

use tokio::sync::watch;

/// What readiness depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// The store answers, reads and writes.
    pub store: bool,
    /// The sealing keys could be read when they were last looked at. Those in memory hold: not ready would only unroute every
    /// process at once, for what none of them can mend.
    pub keys: bool,
    /// The same of the parameters file.
    pub parameters_file: bool,
    /// Callers can be told apart: the keys of their tokens' issuer were read.
    pub callers: bool,
    /// Everything needed at start is loaded and the ports are bound.
    pub loaded: bool,
    /// The process is going down.
    pub draining: bool,
}

/// The shared handle. Starts as not loaded, with store and keys taken to be well.
#[derive(Debug, Clone)]
pub struct Ready(Arc<watch::Sender<Facts>>);

impl Facts {
    pub fn is_ready(&self) -> bool {
        self.why().is_empty()
    }

    /// What stands in the way, in words for an operator; empty when ready.
    pub fn why(&self) -> Vec<&'static str> {
        let mut why = Vec::new();
        if !self.loaded {
            why.push("not yet loaded");
        }
        if !self.store {
            why.push("the store does not answer");
        }
        if !self.callers {
            why.push("the keys of the tokens' issuer were not read yet");
        }
        if self.draining {
            why.push("draining");
        }
        why
    }

    /// What an operator should mend though it does not stand in the way.
    pub fn notes(&self) -> Vec<&'static str> {
        let mut notes = Vec::new();
        if !self.keys {
            notes.push("the sealing keys cannot be read again; those in memory hold");
        }
        if !self.parameters_file {
            notes.push("the parameters file is broken; the last good one holds");
        }
        notes
    }
}

impl Default for Ready {
    fn default() -> Self {
        Self::new()
    }
}

impl Ready {
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Facts {
            store: true,
            keys: true,
            parameters_file: true,
            callers: true,
            loaded: false,
            draining: false,
        })))
    }

    pub fn set_store(&self, answers: bool) {
        self.set(|facts| facts.store = answers);
    }

    pub fn set_keys(&self, readable: bool) {
        self.set(|facts| facts.keys = readable);
    }

    pub fn set_parameters_file(&self, good: bool) {
        self.set(|facts| facts.parameters_file = good);
    }

    pub fn set_callers(&self, known: bool) {
        self.set(|facts| facts.callers = known);
    }

    pub fn set_loaded(&self) {
        self.set(|facts| facts.loaded = true);
    }

    /// There is no way back: a draining process ends.
    pub fn set_draining(&self) {
        self.set(|facts| facts.draining = true);
    }

    /// Sees every later change; the present facts count as seen.
    pub fn subscribe(&self) -> watch::Receiver<Facts> {
        self.0.subscribe()
    }

    pub fn facts(&self) -> Facts {
        *self.0.borrow()
    }

    pub fn is_ready(&self) -> bool {
        self.facts().is_ready()
    }

    /// What stands in the way; empty when ready.
    pub fn why(&self) -> Vec<&'static str> {
        self.facts().why()
    }

    fn set(&self, change: impl FnOnce(&mut Facts)) {
        self.0.send_if_modified(|facts| {
            let before = *facts;
            change(facts);
            *facts != before
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_needs_every_fact_and_says_which_is_missing() {
        let ready = Ready::new();
        assert_eq!(ready.why(), ["not yet loaded"]);
        ready.set_loaded();
        assert!(ready.is_ready());
        ready.set_store(false);
        assert_eq!(ready.why(), ["the store does not answer"]);
        ready.set_store(true);
        ready.set_keys(false);
        ready.set_parameters_file(false);
        assert!(ready.is_ready(), "the old ones hold");
        assert_eq!(ready.facts().notes().len(), 2);
        ready.set_keys(true);
        ready.set_parameters_file(true);
        assert!(ready.facts().notes().is_empty());
        ready.set_draining();
        assert_eq!(ready.why(), ["draining"]);
    }

    #[test]
    fn only_a_change_wakes_subscribers() {
        let ready = Ready::new();
        let watch = ready.subscribe();
        ready.set_store(true);
        assert!(!watch.has_changed().expect("the sender lives"));
        ready.set_store(false);
        assert!(watch.has_changed().expect("the sender lives"));
    }
}
