//! What ends a stream whose application parameter may not be used any more: disabled, disconnected, lost or deleted while
//! bytes move. The gate is not asked again; the change feed tells who is still running, on every replica.

use std::sync::{Arc, OnceLock, PoisonError, Weak};

use tokio_util::sync::CancellationToken;

use super::{Resolver, account::reauthorization, not_found, ready};
use crate::{
    fault::{Fault, Result},
    store::{ParameterId, Parameters, State},
};

/// Waits for the end of one opened parameter. Clones wait for the same.
#[derive(Clone)]
pub struct Ending(Arc<Inside>);

pub(super) struct Inside {
    id: ParameterId,
    /// A parameter that was deleted and made again is another.
    uid: Arc<str>,
    ended: CancellationToken,
    /// As it is now; None: it is gone.
    now: OnceLock<Option<Arc<Parameters>>>,
}

impl Ending {
    pub(super) fn of(parameters: &Parameters) -> Ending {
        Ending(Arc::new(Inside {
            id: parameters.id.clone(),
            uid: parameters.uid.clone(),
            ended: CancellationToken::new(),
            now: OnceLock::new(),
        }))
    }

    pub(super) fn downgrade(&self) -> Weak<Inside> {
        Arc::downgrade(&self.0)
    }

    /// Ends when the parameter may not be used any more, and says why.
    pub async fn ended(self) -> Fault {
        self.0.ended.cancelled().await;
        let Inside { id, now, .. } = &*self.0;
        match now.get().and_then(Option::as_ref) {
            None => not_found(id),
            // To begin again it is only connected; to this stream the account was taken away.
            Some(now) if now.state() == State::Pending => reauthorization(now, "revoked"),
            Some(now) => ready(now).err().unwrap_or_else(|| not_found(id)),
        }
    }
}

impl std::fmt::Debug for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ending").field("parameter", &self.0.id).finish_non_exhaustive()
    }
}

impl Resolver {
    /// Remembers whom to tell. Those that nobody waits for any more make room.
    pub(super) fn watch_over(&self, ending: &Ending) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let of_this = running.entry(ending.0.id.clone()).or_default();
        of_this.retain(|one| one.strong_count() > 0);
        of_this.push(ending.downgrade());
    }

    /// The parameter changed: ends what runs on it if it may not be used any more.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub(super) async fn end_what_may_not_go_on(&self, id: &ParameterId) -> Result<()> {
        let running: Vec<Ending> = {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            let alive = running.get(id).map(|of_this| of_this.iter().filter_map(Weak::upgrade).map(Ending).collect());
            let alive: Vec<Ending> = alive.unwrap_or_default();
            if alive.is_empty() {
                running.remove(id);
            }
            alive
        };
        if running.is_empty() {
            return Ok(());
        }
        let now = self.store.parameters(id).await?.map(|now| Arc::new(self.with_app(now)));
        for Ending(one) in running {
            let same = now.as_ref().filter(|now| now.uid == one.uid);
            if same.is_some_and(|now| ready(now).is_ok()) {
                continue;
            }
            if one.now.set(same.cloned()).is_ok() {
                one.ended.cancel();
            }
        }
        Ok(())
    }
}
