//! The right to one commit. It stands in a queue of this process for each namespace and, where several processes share a
//! store, waits for the fleet's lease when it is first there; so of each process one at a time asks for it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crate::{
    fair::{self, Fair},
    lease::{Lease, Pass},
    telemetry,
};

/// Where a commit stops until it is its turn.
#[derive(Debug, Clone)]
pub struct Stop {
    /// Of one place, shared by application parameters.
    pub queue: Fair,
    /// What the first in the queue needs beside; None: there is no other process.
    pub lease: Option<Lease>,
}

/// The right to one commit in a namespace. Only the write gate grants it. A commit that waits to be repeated, for a place
/// among the requests in flight, or until its account may send again, lays it down meanwhile, so that others go on, and stands
/// in the queue again.
#[derive(Debug)]
pub struct Turn {
    stops: Vec<Stop>,
    parameter: Arc<str>,
    held: Mutex<Held>,
}

/// Passes go before places, so that whoever comes next in this process finds the lease free.
#[derive(Debug, Default)]
struct Held {
    passes: Vec<Pass>,
    places: Vec<fair::Held>,
}

impl Stop {
    /// Does anybody else have a clone, or stand there?
    pub fn is_shared(&self) -> bool {
        match &self.lease {
            // It has a clone of the queue, and so has whoever has one of it.
            Some(lease) => lease.is_shared(),
            None => self.queue.is_shared(),
        }
    }
}

impl Turn {
    /// For `engine/gate.rs` alone.
    pub(crate) fn granted() -> Turn {
        Turn { stops: Vec::new(), parameter: "".into(), held: Mutex::default() }
    }

    /// Waits at these stops, in this order, by the name of this parameter. Cancel-safe: dropping the future leaves them.
    #[must_use]
    pub(crate) fn at(mut self, parameter: &str, stops: Vec<Stop>) -> Turn {
        self.parameter = parameter.into();
        self.stops = stops;
        self
    }

    /// Takes it up if it is free in every queue and nobody waits there. Leases that are not at hand are waited for by
    /// [`Turn::take_up`].
    pub(crate) fn take_up_now(&self) -> bool {
        let places: Option<Vec<_>> = self.stops.iter().map(|stop| stop.queue.try_take(&self.parameter, 1)).collect();
        let Some(places) = places else { return false };
        let passes: Option<Vec<_>> = self.leases().map(Lease::enter_now).collect();
        *self.lock() = Held { passes: passes.unwrap_or_default(), places };
        true
    }

    /// Lets the next in each queue go.
    pub(crate) fn lay_down(&self) {
        drop(std::mem::take(&mut *self.lock()));
    }

    /// Do others wait for it: other application parameters here, or other processes?
    pub(crate) fn is_wanted_by_others(&self) -> bool {
        let here = self.stops.iter().any(|stop| stop.queue.is_waited_for_beside(&self.parameter));
        here || self.leases().any(Lease::is_wanted_elsewhere)
    }

    /// Stands in every queue until it is first, and then waits for the leases, unless it has them already. Cancel-safe: what was
    /// reached is laid down again.
    pub(crate) async fn take_up(&self) {
        let (has_places, has_passes) = {
            let held = self.lock();
            (held.places.len() == self.stops.len(), held.passes.len() == self.leases().count())
        };
        if has_places && has_passes {
            return;
        }
        // In this order, so that they are laid down in the other one.
        let mut places = Vec::new();
        let mut passes = Vec::new();
        if !has_places {
            places.reserve_exact(self.stops.len());
            for stop in &self.stops {
                places.push(stop.queue.take(&self.parameter, 1).await);
            }
        }
        for lease in self.leases() {
            passes.push(enter(lease).await);
        }
        let mut held = self.lock();
        held.passes = passes;
        if !has_places {
            held.places = places;
        }
    }

    fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.stops.iter().filter_map(|stop| stop.lease.as_ref())
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn enter(lease: &Lease) -> Pass {
    let pass = match lease.enter_now() {
        Some(pass) => pass,
        None => {
            let since = Instant::now();
            let pass = lease.enter().await;
            metrics::histogram!(telemetry::GATE_LEASE_WAIT).record(since.elapsed().as_secs_f64());
            pass
        }
    };
    if !pass.is_with_lease() {
        metrics::counter!(telemetry::GATE_LEASE_WITHOUT).increment(1);
    }
    pass
}
