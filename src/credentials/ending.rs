//! What ends a stream whose application parameter may not be used any more: disabled, disconnected, lost, deleted or
//! connected to another account while bytes move. The gate is not asked again; the change feed tells who is still running,
//! on every replica.

use std::sync::{Arc, PoisonError, Weak};

use super::{
    Resolver,
    account::{Account, reauthorization},
    kept::More,
    not_found, ready,
};
use crate::{
    dropbox::Rates,
    fault::{Fault, Reason, Result},
    store::{ParameterId, Parameters, is_unreadable, unreadable},
};

/// Waits for the end of one opened parameter, as it was when it was opened. Clones wait for the same.
#[derive(Clone)]
pub struct Ending(Arc<Account>);

/// A parameter as it is now.
#[derive(Clone)]
pub(super) enum Now {
    Read(Option<Arc<Parameters>>),
    /// Another version wrote it: whether a stream may go on is not for this one to say.
    Unreadable,
}

impl Ending {
    pub(super) fn of(account: Arc<Account>) -> Ending {
        Ending(account)
    }

    fn former(&self) -> &Parameters {
        &self.0.parameters
    }

    /// How fast bytes may move, also once the policy was changed.
    pub fn rates(&self) -> Rates {
        let made = || Rates::new(self.former().settings.policy.max_bytes_per_second);
        self.0.more().rates.get_or_init(made).clone()
    }

    /// Ends when the parameter may not be used any more, and says why.
    pub async fn ended(self) -> Fault {
        let (former, More { now, ended, .. }) = (self.former(), self.0.more());
        // It hears of what is told from here on, and what was told before stands in `now`.
        let told = ended.notified();
        if now.get().is_none() {
            told.await;
        }
        now.get().and_then(|now| now.forbids(former)).unwrap_or_else(|| not_found(&former.id))
    }
}

impl Now {
    /// Why what began with `former` may not go on.
    fn forbids(&self, former: &Parameters) -> Option<Fault> {
        match self {
            Now::Read(now) => {
                let usable = |()| now.as_deref().map_or(Ok(()), ready);
                same_link(former, now.as_deref()).and_then(usable).err()
            }
            Now::Unreadable => Some(unreadable(&former.id, "row")),
        }
    }
}

/// May what began with `former` go on with the parameter as it now is?
///
/// # Errors
/// `APPLICATION_PARAMETER_NOT_FOUND`: it is gone, or another one of the same id. `REAUTHORIZATION_REQUIRED`: the account was
/// disconnected. `ACCOUNT_MISMATCH`: another account was connected.
pub(super) fn same_link(former: &Parameters, now: Option<&Parameters>) -> Result<()> {
    let Some(now) = now.filter(|now| now.uid == former.uid) else { return Err(not_found(&former.id)) };
    if now.grant_number == former.grant_number {
        return Ok(());
    }
    // To begin again it is only connected; to this stream the account was taken away.
    if now.grant.is_none() {
        return Err(reauthorization(now, "revoked"));
    }
    // The same account connected again is as good as before; of one that nobody knows this cannot be told.
    match (former.linked_to(), now.linked_to()) {
        ("", _) | (_, "") => Err(account_changed(
            now,
            "was connected again, and whether to the same Dropbox account cannot be told: let its grant have account_info.read",
        )),
        (before, after) if before == after => Ok(()),
        _ => Err(account_changed(now, "was connected to another Dropbox account")),
    }
}

/// What began with the former account must not go on with this one.
fn account_changed(now: &Parameters, how: &str) -> Fault {
    let id = now.id.as_str();
    let text = format!("application parameter {id} {how}; what began before has ended");
    Fault::new(Reason::AccountMismatch, text).parameter(id)
}

impl std::fmt::Debug for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ending").field("parameter", &self.former().id).finish_non_exhaustive()
    }
}

impl Resolver {
    /// Its parameter is not kept in memory as it was: remembers whom to tell. Those that nobody waits for any more make room.
    pub(super) fn watch_over(&self, ending: &Ending) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let of_this = running.entry(ending.former().id.clone()).or_default();
        of_this.retain(|one| one.strong_count() > 0);
        of_this.push(Arc::downgrade(&ending.0));
    }

    /// A parameter that was read again: what runs on it as it was goes on within the same bytes per second, as they now are,
    /// and has its places among those in flight, if there are as many as before.
    pub(super) fn share_limits(&self, ending: &Ending) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(of_this) = running.get(&ending.former().id) else { return };
        let policy = &ending.former().settings.policy;
        let mut shared = false;
        for one in of_this.iter().filter_map(Weak::upgrade).map(Ending) {
            if one.former().uid != ending.former().uid {
                continue;
            }
            if !std::mem::replace(&mut shared, true) {
                let rates = one.rates();
                rates.set(policy.max_bytes_per_second);
                // Streams that are older than the change and had none yet share these from now on.
                let _ = ending.0.more().rates.set(rates);
            }
            if one.former().settings.policy.max_concurrency == policy.max_concurrency
                && let Some(places) = one.0.places()
            {
                let _ = ending.0.more().in_flight.set(places.clone());
            }
        }
    }

    /// The parameter changed: ends what runs on it if it may not be used any more, and sets its bytes per second.
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
        let now = match self.store.parameters(id).await {
            Ok(now) => Now::Read(now.map(|now| Arc::new(self.with_app(now)))),
            Err(fault) if is_unreadable(&fault) => Now::Unreadable,
            Err(fault) => return Err(fault),
        };
        for one in running {
            if now.forbids(one.former()).is_some() {
                let more = one.0.more();
                if more.now.set(now.clone()).is_ok() {
                    more.ended.notify_waiters();
                }
            } else if let Now::Read(Some(now)) = &now {
                one.rates().set(now.settings.policy.max_bytes_per_second);
            }
        }
        Ok(())
    }
}
