//! What is kept of one application parameter in memory beside its bearer. There may be tens of thousands: what few of them need
//! is made when it is needed.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock, PoisonError, RwLock},
};

use tokio::sync::Notify;

use super::{account::Account, ending::Now, members::Members};
use crate::{
    dropbox::{ActAs, Places, Rates},
    limits::MEMBER_ROOTS_MAX,
};

/// What most parameters do without: streams, members of a team, a limit of its own.
#[derive(Default)]
pub(super) struct More {
    /// `policy.max_concurrency`; made for the first call, and one for all that runs on the parameter.
    pub(super) in_flight: OnceLock<Arc<Places>>,
    /// `policy.max_bytes_per_second`; made for the first stream, and one for all that runs on the parameter.
    pub(super) rates: OnceLock<Rates>,
    /// The parameter as it is now; set when what runs on it as it was may not go on.
    pub(super) now: OnceLock<Now>,
    pub(super) ended: Notify,
    team: OnceLock<Team>,
}

/// What is known of the members of a team.
#[derive(Default)]
struct Team {
    members: Members,
    roots: RwLock<HashMap<ActAs, Arc<str>>>,
}

impl Account {
    pub(super) fn more(&self) -> &More {
        self.more.get_or_init(Box::default)
    }

    pub(super) fn in_flight(&self) -> Option<Arc<Places>> {
        let most = self.parameters.settings.policy.max_concurrency as usize;
        (most > 0).then(|| self.more().in_flight.get_or_init(|| Arc::new(Places::new(most))).clone())
    }

    /// Those that are taken or were.
    pub(super) fn places(&self) -> Option<&Arc<Places>> {
        self.more.get()?.in_flight.get()
    }

    pub(super) fn members(&self) -> &Members {
        &self.team().members
    }

    fn team(&self) -> &Team {
        self.more().team.get_or_init(Team::default)
    }

    /// The root namespace of the linked account, or of the member it acts as.
    pub(super) fn root_of(&self, act_as: Option<&ActAs>) -> Option<Arc<str>> {
        match act_as {
            None => self.root.read().unwrap_or_else(PoisonError::into_inner).clone(),
            Some(member) => {
                let team = self.more.get()?.team.get()?;
                team.roots.read().unwrap_or_else(PoisonError::into_inner).get(member).cloned()
            }
        }
    }

    pub(super) fn keep_root(&self, act_as: Option<&ActAs>, root: Arc<str>) {
        let Some(member) = act_as else {
            *self.root.write().unwrap_or_else(PoisonError::into_inner) = Some(root);
            return;
        };
        let mut roots = self.team().roots.write().unwrap_or_else(PoisonError::into_inner);
        if roots.len() >= MEMBER_ROOTS_MAX {
            roots.clear();
        }
        roots.insert(member.clone(), root);
    }

    pub(super) fn forget_roots(&self) {
        *self.root.write().unwrap_or_else(PoisonError::into_inner) = None;
        if let Some(team) = self.more.get().and_then(|more| more.team.get()) {
            team.roots.write().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }
}
