//! What ends a stream whose application parameter may not be used any more: disabled, disconnected, lost, deleted or
//! connected to another account while bytes move. The gate is not asked again; the change feed tells who is still running,
//! on every replica.

use std::sync::{Arc, OnceLock, PoisonError, Weak};

use tokio::sync::Notify;

use super::{Resolver, account::reauthorization, not_found, ready};
use crate::{
    dropbox::Rates,
    fault::{Fault, Reason, Result},
    store::{ParameterId, Parameters, is_unreadable, unreadable},
};

/// Waits for the end of one opened parameter. Clones wait for the same.
#[derive(Clone)]
pub struct Ending(Arc<Inside>);

pub(super) struct Inside {
    /// As it was when the stream began.
    former: Arc<Parameters>,
    /// As it is now; set when it may not go on.
    now: OnceLock<Now>,
    ended: Notify,
    /// `policy.max_bytes_per_second`; made for the first stream, and one for all that runs on the parameter.
    rates: OnceLock<Box<Rates>>,
}

#[derive(Clone)]
enum Now {
    Read(Option<Arc<Parameters>>),
    /// Another version wrote it: whether a stream may go on is not for this one to say.
    Unreadable,
}

impl Ending {
    pub(super) fn of(former: Arc<Parameters>) -> Ending {
        Ending(Arc::new(Inside { former, now: OnceLock::new(), ended: Notify::new(), rates: OnceLock::new() }))
    }

    pub(super) fn downgrade(&self) -> Weak<Inside> {
        Arc::downgrade(&self.0)
    }

    /// How fast bytes may move, also once the policy was changed.
    pub fn rates(&self) -> Rates {
        let Inside { former, rates, .. } = &*self.0;
        let made = || Box::new(Rates::new(former.settings.policy.max_bytes_per_second));
        Rates::clone(rates.get_or_init(made))
    }

    /// Ends when the parameter may not be used any more, and says why.
    pub async fn ended(self) -> Fault {
        let Inside { former, now, ended, .. } = &*self.0;
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
    match former.linked_to() {
        known if !known.is_empty() && known == now.linked_to() => Ok(()),
        _ => Err(account_changed(now)),
    }
}

/// What began with the former account must not go on with this one.
fn account_changed(now: &Parameters) -> Fault {
    let id = now.id.as_str();
    let text = format!(
        "another Dropbox account was connected to application parameter {id}; what began with the former one has ended"
    );
    Fault::new(Reason::AccountMismatch, text).resource("application_parameter", id)
}

impl std::fmt::Debug for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ending").field("parameter", &self.0.former.id).finish_non_exhaustive()
    }
}

impl Resolver {
    /// Its parameter is not kept in memory as it was: remembers whom to tell. Those that nobody waits for any more make room.
    pub(super) fn watch_over(&self, ending: &Ending) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let of_this = running.entry(ending.0.former.id.clone()).or_default();
        of_this.retain(|one| one.strong_count() > 0);
        of_this.push(ending.downgrade());
    }

    /// A parameter that was read again: what runs on it as it was goes on within the same bytes per second, as they now are.
    pub(super) fn share_rates(&self, ending: &Ending) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(of_this) = running.get(&ending.0.former.id) else { return };
        let same = |one: &Ending| one.0.former.uid == ending.0.former.uid;
        if let Some(one) = of_this.iter().filter_map(Weak::upgrade).map(Ending).find(same) {
            let rates = one.rates();
            rates.set(ending.0.former.settings.policy.max_bytes_per_second);
            // Streams that are older than the change and had none yet share these from now on.
            let _ = ending.0.rates.set(Box::new(rates));
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
            if now.forbids(&one.0.former).is_some() {
                if one.0.now.set(now.clone()).is_ok() {
                    one.0.ended.notify_waiters();
                }
            } else if let Now::Read(Some(now)) = &now {
                one.rates().set(now.settings.policy.max_bytes_per_second);
            }
        }
        Ok(())
    }
}
