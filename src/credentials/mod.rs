//! Application-parameter id → Caller. [`Resolver::open`] is the single gate: permission, state, act-as and root are settled
//! there, and nowhere after it is a permission checked again. Permission comes before existence, so that ids cannot be
//! probed. The happy path is one map look-up and one atomic load.

mod account;
mod apps;
mod authorization;
mod ending;
mod kept;
mod link;
mod members;
mod turns;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    convert::Infallible,
    fmt,
    sync::{
        Arc, Mutex, PoisonError, RwLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use account::{Account, Common, reauthorization};
pub use apps::Signed;
pub use authorization::{App, Begun, By, CALLBACK_PATH, Completed, Incomplete, OAuth, Outcome, Revoked, Wish};
pub use ending::Ending;
pub use link::{Credential, TestReport};
pub use members::put_ids;
use tokio::sync::Notify;
use turns::Turns;

use crate::{
    access::{Permission, Permissions, Principal},
    clock::SharedClock,
    dropbox::{AccountKey, ActAs, Caller, Egress, Proxy, ProxyKind, Root, Timeouts, TokenSource, Transport},
    fault::{Fault, Reason, Result},
    limits::{CHANGE_FEED_INTERVAL, CHANGE_FEED_SILENCE_MAX},
    store::{self, AccessType, AccountKind, Grant, ParameterId, Parameters, PathRoot, State, Store},
};

/// What a request says about itself beside the id.
#[derive(Debug, Clone)]
pub struct Ask {
    pub principal: Principal,
    /// All that it needs: `Permission::Read.into()`, `Permission::Write | Permission::Share`.
    pub permissions: Permissions,
    /// From the request's context.
    pub act_as: Option<ActAs>,
    /// From the request's context.
    pub root: Option<Root>,
    pub deadline: Option<Instant>,
}

/// An open gate.
#[derive(Clone)]
pub struct Opened {
    pub caller: Caller,
    pub parameters: Arc<Parameters>,
    /// As whom it acts; None for the linked account itself.
    pub act_as: Option<ActAs>,
    /// What paths are relative to; None leaves it to Dropbox.
    pub root: Option<Root>,
    /// The root was asked of Dropbox, not set: on `PATH_ROOT_CHANGED` call [`Resolver::forget_root`] and open again, once.
    pub auto_root: bool,
    /// For streams, which outlive what the gate has seen.
    pub ending: Ending,
}

/// Opens application parameters. One per process.
pub struct Resolver {
    store: Store,
    transport: Arc<Transport>,
    clock: SharedClock,
    oauth: OAuth,
    common: Arc<Common>,
    /// Who asks Dropbox for a root.
    asking: Turns,
    entries: RwLock<HashMap<ParameterId, Arc<Account>>>,
    /// What was opened, is not kept in `entries` any more and may still run, by parameter.
    running: Mutex<HashMap<ParameterId, Vec<Weak<Account>>>>,
    /// Rises with each `forget`: what was read before it must not be cached after it.
    forgotten: AtomicU64,
    apps: apps::Apps,
    begun: Instant,
    /// Milliseconds after `begun` when the change feed was last read. Real time: it measures the store, not tokens.
    followed: AtomicU64,
}

impl Resolver {
    pub fn new(store: Store, transport: Arc<Transport>, clock: SharedClock, oauth: OAuth) -> Arc<Resolver> {
        let common = Common { store: store.clone(), clock: clock.clone(), renewing: Turns::default() };
        Arc::new(Resolver {
            store,
            transport,
            clock,
            oauth,
            common: Arc::new(common),
            asking: Turns::default(),
            entries: RwLock::default(),
            running: Mutex::default(),
            forgotten: AtomicU64::new(0),
            apps: apps::Apps::default(),
            begun: Instant::now(),
            followed: AtomicU64::new(0),
        })
    }

    /// The gate.
    ///
    /// # Errors
    /// `CALLER_NOT_ALLOWED`, also for an id that does not exist; `APPLICATION_PARAMETER_NOT_FOUND` for administrators only;
    /// `RAW_API_DISABLED`, `PARAMETER_DISABLED`, `REAUTHORIZATION_REQUIRED`, `ACT_AS_NOT_ALLOWED`, `TEAM_LINK_REQUIRED`,
    /// `ACT_AS_INVALID`, `PATH_ROOT_NOT_ALLOWED`, `OUTSIDE_JAIL`, `STORE_UNAVAILABLE`, and what asking for the root gives.
    pub async fn open(&self, id: &ParameterId, ask: Ask) -> Result<Opened> {
        let Some(entry) = self.entry(id).await? else {
            return Err(if ask.principal.is_admin() { not_found(id) } else { not_allowed(id, ask.permissions) });
        };
        let parameters = &entry.parameters;
        let policy = &parameters.settings.policy;
        if !ask.principal.is_one_of(&policy.allowed_principals) {
            return Err(not_allowed(id, ask.permissions));
        }
        let missing = ask.permissions.missing_from(policy.granted());
        if missing == Permission::Raw.into() {
            return Err(Fault::new(Reason::RawApiDisabled, format!("the policy of {id} does not grant RAW"))
                .fact("permission", "RAW"));
        }
        if !missing.is_empty() {
            return Err(not_allowed(id, missing));
        }
        ready(parameters)?;
        let act_as = self.act_as(&entry, ask.act_as, ask.deadline).await?;
        let (root, auto_root) = match chosen_root(parameters, ask.root, act_as.as_ref())? {
            Chosen::Fixed(root) => (root, false),
            Chosen::Auto => (Some(self.auto_root(&entry, act_as.as_ref(), ask.deadline).await?), true),
        };
        let caller = self.caller(&entry, act_as.clone(), root.clone(), ask.deadline);
        let (parameters, ending) = (parameters.clone(), Ending::of(entry.clone()));
        Ok(Opened { caller, parameters, act_as, root, auto_root, ending })
    }

    /// Does the policy of this parameter name the principal? No for one that is not in memory. Grants nothing.
    pub fn admits(&self, id: &ParameterId, principal: &Principal) -> bool {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let policy = entries.get(id).map(|entry| &entry.parameters.settings.policy);
        policy.is_some_and(|policy| principal.is_one_of(&policy.allowed_principals))
    }

    /// The same, and reads one that is not in memory.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`, and what its row says that cannot be opened.
    pub async fn would_admit(&self, id: &ParameterId, principal: &Principal) -> Result<bool> {
        let admits = |entry: Arc<Account>| principal.is_one_of(&entry.parameters.settings.policy.allowed_principals);
        Ok(self.entry(id).await?.is_some_and(admits))
    }

    /// The gate again, for what goes on behind the calls that were let in: permissions were settled there. The parameter must
    /// still be the one of this `uid`.
    ///
    /// # Errors
    /// `APPLICATION_PARAMETER_NOT_FOUND`, `PARAMETER_DISABLED`, `REAUTHORIZATION_REQUIRED`, `STORE_UNAVAILABLE`.
    pub async fn reopen(
        &self,
        id: &ParameterId,
        uid: &str,
        act_as: Option<ActAs>,
        root: Option<Root>,
    ) -> Result<(Caller, Ending)> {
        let entry = self.entry(id).await?.filter(|entry| &*entry.parameters.uid == uid).ok_or_else(|| not_found(id))?;
        ready(&entry.parameters)?;
        Ok((self.caller(&entry, act_as, root, None), Ending::of(entry.clone())))
    }

    /// The parameter changed, was disabled or deleted: the next `open` reads it again.
    pub fn forget(&self, id: &ParameterId) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        self.forgotten.fetch_add(1, Ordering::AcqRel);
        if let Some(entry) = entries.remove(id) {
            self.watch_over(&Ending::of(entry));
        }
    }

    /// Dropbox said `PATH_ROOT_CHANGED`: the next `open` asks for the root again.
    pub fn forget_root(&self, id: &ParameterId) {
        let entry = self.entries.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        if let Some(entry) = entry {
            entry.forget_roots();
        }
    }

    /// Follows the changes that this and other processes make, and forgets what they touch. Never ends; drop it to stop.
    /// Without it `open` fails after five minutes.
    pub async fn follow_changes(&self) -> Infallible {
        let told = Notify::new();
        tokio::select! {
            never = self.look_for_changes(&told) => never,
            never = self.store.listen(|| told.notify_one()) => never,
        }
    }

    async fn look_for_changes(&self, told: &Notify) -> Infallible {
        let mut seq = None;
        loop {
            match self.follow(seq).await {
                Ok(last) => {
                    seq = Some(last);
                    let after = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                    self.followed.store(after, Ordering::Relaxed);
                }
                Err(fault) => tracing::warn!(%fault, "changes of application parameters could not be read"),
            }
            // At once where the store tells of them, soon in any case.
            let _ = tokio::time::timeout(CHANGE_FEED_INTERVAL, told.notified()).await;
        }
    }

    /// How long ago changes were last read. Beyond 30 s readiness should say so.
    pub fn silence(&self) -> Duration {
        self.begun.elapsed().saturating_sub(Duration::from_millis(self.followed.load(Ordering::Relaxed)))
    }

    async fn follow(&self, seq: Option<i64>) -> Result<i64> {
        let Some(mut seq) = seq else {
            let last = self.store.last_parameter_change().await?;
            // What was cached before the feed began may have changed since.
            let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
            self.forgotten.fetch_add(1, Ordering::AcqRel);
            entries.drain().for_each(|(_, entry)| self.watch_over(&Ending::of(entry)));
            return Ok(last);
        };
        loop {
            let changes = self.store.parameter_changes(seq).await?;
            let changed: BTreeSet<&ParameterId> = changes.iter().map(|change| &change.id).collect();
            // All of them before anything that can fail: nothing that changed is served from memory.
            changed.iter().for_each(|id| self.forget(id));
            for id in changed {
                self.end_what_may_not_go_on(id).await?;
            }
            match changes.last() {
                Some(change) if change.seq > seq => seq = change.seq,
                _ => return Ok(seq),
            }
        }
    }

    async fn entry(&self, id: &ParameterId) -> Result<Option<Arc<Account>>> {
        if self.silence() > CHANGE_FEED_SILENCE_MAX {
            return Err(Fault::new(
                Reason::StoreUnavailable,
                "application parameters could not be read for five minutes",
            )
            .retry_after(Duration::from_secs(1)));
        }
        loop {
            let before = self.forgotten.load(Ordering::Acquire);
            if let Some(entry) = self.entries.read().unwrap_or_else(PoisonError::into_inner).get(id) {
                return Ok(Some(entry.clone()));
            }
            let Some(parameters) = self.store.parameters(id).await? else { return Ok(None) };
            let entry = self.entry_of(self.with_app(parameters)).await;
            let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
            if self.forgotten.load(Ordering::Acquire) == before {
                // The first of several loaders wins, so that one parameter has one renewal.
                // The name is kept once.
                let name = entry.parameters.id.clone();
                let kept = entries.entry(name).or_insert(entry).clone();
                self.share_limits(&Ending::of(kept.clone()));
                return Ok(Some(kept));
            }
        }
    }

    /// What is kept in memory of a parameter.
    async fn entry_of(&self, parameters: Parameters) -> Arc<Account> {
        let renewal = match &parameters.grant {
            // Without the row's bearer one is made from the grant.
            Some(Grant::Refreshable(_)) => {
                self.store.renewal(&parameters.uid, parameters.grant_number).await.unwrap_or_default()
            }
            _ => None,
        };
        let transport = self.transport_of(&parameters);
        Account::new(Arc::new(parameters), renewal, transport, self.common.clone())
    }

    /// Everything for a parameter goes its way out: calls, renewals, exchanges of codes.
    fn transport_of(&self, parameters: &Parameters) -> Arc<Transport> {
        match (egress(parameters), timeouts(parameters)) {
            // The process's own, as it was made.
            (Egress::Direct, timeouts) if timeouts == Timeouts::default() => self.transport.clone(),
            (egress, timeouts) => self.transport.through(egress, timeouts),
        }
    }

    fn caller(
        &self,
        entry: &Arc<Account>,
        act_as: Option<ActAs>,
        root: Option<Root>,
        deadline: Option<Instant>,
    ) -> Caller {
        let parameters = &entry.parameters;
        let account = match (&act_as, parameters.account_id()) {
            (Some(ActAs::User(member) | ActAs::Admin(member)), _) => member.as_str(),
            (None, "") => &parameters.uid,
            (None, account) => account,
        };
        let tokens: Arc<dyn TokenSource> = entry.clone();
        let key = AccountKey::new(account);
        Caller::new(entry.transport.clone(), tokens, key, act_as, root, deadline, timeouts(parameters))
            .of(parameters.id.name(), entry.in_flight())
    }

    /// As whom, by member id: a request narrows what the policy allows.
    async fn act_as(
        &self,
        entry: &Arc<Account>,
        asked: Option<ActAs>,
        deadline: Option<Instant>,
    ) -> Result<Option<ActAs>> {
        let chosen = members::chosen(&entry.parameters, asked)?;
        if chosen == members::Chosen::Nobody {
            return Ok(None);
        }
        let caller = || self.caller(entry, None, None, deadline);
        entry.members().resolve(&entry.parameters, chosen, self.clock.now(), caller).await
    }

    async fn auto_root(&self, entry: &Arc<Account>, act_as: Option<&ActAs>, deadline: Option<Instant>) -> Result<Root> {
        if let Some(root) = entry.root_of(act_as) {
            return Ok(Root::Root(root.to_string()));
        }
        let _turn = self.asking.of(&entry.parameters).await;
        if let Some(root) = entry.root_of(act_as) {
            return Ok(Root::Root(root.to_string()));
        }
        let account = link::account(&self.caller(entry, act_as.cloned(), None, deadline)).await?;
        entry.keep_root(act_as, account.root_namespace_id.as_str().into());
        Ok(Root::Root(account.root_namespace_id))
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("parameter", &self.parameters.id).finish_non_exhaustive()
    }
}

enum Chosen {
    Fixed(Option<Root>),
    Auto,
}

/// May it be used now?
fn ready(parameters: &Parameters) -> Result<()> {
    match parameters.state() {
        // Its grant belongs to an app that is not there any more.
        State::Active if parameters.settings.app_key.is_empty() => {
            Err(reauthorization(parameters, "shared_app_missing"))
        }
        State::Active => Ok(()),
        // Every grant takes a number, and so does its end.
        State::Pending if parameters.grant_number > 0 => Err(reauthorization(parameters, "disconnected")),
        State::Pending => Err(reauthorization(parameters, "not_yet_authorized")),
        State::ReauthorizationRequired => {
            Err(reauthorization(parameters, parameters.reauthorization_cause.as_deref().unwrap_or_default()))
        }
        State::Disabled => {
            let message = format!("application parameter {} is disabled", parameters.id);
            Err(Fault::new(Reason::ParameterDisabled, message).parameter(parameters.id.as_str()))
        }
    }
}

/// Relative to what. A request may choose only where the policy lets it, and never inside a jail.
fn chosen_root(parameters: &Parameters, asked: Option<Root>, act_as: Option<&ActAs>) -> Result<Chosen> {
    let settings = &parameters.settings;
    if let Some(root) = asked {
        if !settings.path_prefix.is_empty() {
            let message = format!("{} is confined to a folder; it takes no path root", parameters.id);
            return Err(Fault::new(Reason::OutsideJail, message).fact("field", "context.path_root"));
        }
        if !settings.policy.allow_path_root {
            let message = format!("the policy of {} does not allow a path root", parameters.id);
            return Err(Fault::new(Reason::PathRootNotAllowed, message).fact("field", "context.path_root"));
        }
        return Ok(Chosen::Fixed(Some(root)));
    }
    Ok(match &settings.default_path_root {
        PathRoot::Home => Chosen::Fixed(Some(Root::Home)),
        PathRoot::Namespace { namespace_id } => Chosen::Fixed(Some(Root::Namespace(namespace_id.clone()))),
        // An app folder is its own root, and a team token alone has no home to ask for.
        PathRoot::Auto if settings.access_type == AccessType::AppFolder => Chosen::Fixed(None),
        PathRoot::Auto if settings.account_kind == AccountKind::Team && act_as.is_none() => Chosen::Fixed(None),
        PathRoot::Auto => Chosen::Auto,
    })
}

fn timeouts(parameters: &Parameters) -> Timeouts {
    let set = *parameters.settings.timeouts;
    let default = Timeouts::default();
    Timeouts {
        connect: set.connect.unwrap_or(default.connect),
        request: set.request.unwrap_or(default.request),
        idle_read: set.idle_read.unwrap_or(default.idle_read),
    }
}

fn egress(parameters: &Parameters) -> Egress {
    let settings = &parameters.settings.proxy;
    let kind = match settings.proxy_kind {
        store::ProxyKind::None => return Egress::Direct,
        store::ProxyKind::System => return Egress::System,
        store::ProxyKind::Http => ProxyKind::Http,
        store::ProxyKind::Https => ProxyKind::Https,
        store::ProxyKind::Socks4 => ProxyKind::Socks4,
        store::ProxyKind::Socks5 => ProxyKind::Socks5,
    };
    let password = || parameters.proxy_password.clone().unwrap_or_else(|| String::new().into());
    let login = (!settings.username.is_empty()).then(|| (settings.user(), password()));
    let host = settings.address.trim_matches(['[', ']']);
    Egress::Proxy(Arc::new(Proxy::new(kind, host, settings.port, login)))
}

/// The same words for "you may not", "not for this" and "there is none": whoever lacks a right learns nothing of what exists.
fn not_allowed(id: &ParameterId, needed: Permissions) -> Fault {
    let permission = needed.iter().next().map_or("READ", Permission::name);
    Fault::new(Reason::CallerNotAllowed, format!("you may not use application parameter {id} for this"))
        .fact("permission", permission)
        .with_remedy(format!(
            "have an administrator see that the policy of {id} has your principal in allowed_principals and {permission} in \
             permissions"
        ))
}

fn not_found(id: &ParameterId) -> Fault {
    Fault::new(Reason::ApplicationParameterNotFound, format!("there is no application parameter {id}"))
        .parameter(id.as_str())
}
