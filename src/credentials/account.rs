//! One application parameter's bearer: read without a lock, renewed by one task at a time, five minutes before it ends and
//! in the background. A refusal of the grant is written to the store, so that nobody asks Dropbox again. What cannot be
//! reached of the store only costs the sharing: the bearer is then kept in memory.

use std::{
    fmt,
    sync::{
        Arc, OnceLock, RwLock, Weak,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwapOption;
use futures::future::BoxFuture;

use super::{ending::same_link, kept::More, turns::Turns};
use crate::{
    clock::SharedClock,
    dropbox::{Bearer, TokenAnswer, TokenSource, Transport},
    fault::{Fault, Reason, Result},
    limits::{BEARER_LEFT_MIN, BEARER_RENEW_AHEAD, RENEWAL_LEASE},
    secret::Secret,
    store::{AppSource, Grant, Lease, Parameters, Renewal, Store},
};

/// Between two looks at a row that another process is renewing.
const LEASE_POLL: Duration = Duration::from_millis(100);
/// A background renewal that failed is not tried again sooner.
const AHEAD_PAUSE: Duration = Duration::from_secs(30);

/// One stored parameter in memory, and the bearer it now yields.
pub(super) struct Account {
    /// Itself, for the background renewal.
    me: Weak<Account>,
    pub(super) parameters: Arc<Parameters>,
    /// By the parameter's own way out.
    pub(super) transport: Arc<Transport>,
    common: Arc<Common>,
    bearer: ArcSwapOption<Bearer>,
    /// Milliseconds since 1970 before which no background renewal starts.
    ahead_from: AtomicI64,
    /// The grant was refused: the cause.
    refused: ArcSwapOption<String>,
    /// The root namespace of the linked account.
    pub(super) root: RwLock<Option<Arc<str>>>,
    pub(super) more: OnceLock<Box<More>>,
}

/// What all parameters of a process have in common.
pub(super) struct Common {
    pub(super) store: Store,
    pub(super) clock: SharedClock,
    /// Who renews.
    pub(super) renewing: Turns,
}

impl Account {
    /// `renewal` is what the store remembers of the last one.
    pub(super) fn new(
        parameters: Arc<Parameters>,
        renewal: Option<Renewal>,
        transport: Arc<Transport>,
        common: Arc<Common>,
    ) -> Arc<Account> {
        let bearer = match (&parameters.grant, renewal) {
            (Some(Grant::ShortLived { bearer, expires_at }), _) => {
                Some(Arc::new(Bearer { token: bearer.clone().into(), expires_at: *expires_at, generation: 0 }))
            }
            (_, renewal) => renewal.map(|renewal| Arc::new(of_renewal(renewal))),
        };
        Arc::new_cyclic(|me| Account {
            me: me.clone(),
            parameters,
            bearer: ArcSwapOption::from(bearer),
            ahead_from: AtomicI64::new(i64::MIN),
            refused: ArcSwapOption::empty(),
            root: RwLock::default(),
            more: OnceLock::new(),
            transport,
            common,
        })
    }

    fn left(&self, bearer: &Bearer) -> Duration {
        bearer.expires_at.map_or(Duration::MAX, |ends| ends.duration_since(self.common.clock.now()).unwrap_or_default())
    }

    fn usable(&self) -> Option<Arc<Bearer>> {
        self.bearer.load_full().filter(|bearer| self.left(bearer) >= BEARER_LEFT_MIN)
    }

    /// Starts a renewal that nobody waits for, at most one per pause.
    fn renew_ahead(&self, ending: &Arc<Bearer>) {
        let now = self.common.clock.now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let from = self.ahead_from.load(Ordering::Relaxed);
        let next = now.saturating_add(i64::try_from(AHEAD_PAUSE.as_millis()).unwrap_or(i64::MAX));
        let mine =
            now >= from && self.ahead_from.compare_exchange(from, next, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        let (true, Some(me), Ok(runtime)) = (mine, self.me.upgrade(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        let ending = ending.clone();
        runtime.spawn(async move {
            if let Err(fault) = me.renew(Some(&ending)).await {
                tracing::warn!(parameter = %me.parameters.id, %fault, "the bearer could not be renewed ahead of its end");
            }
        });
    }

    async fn refresh(&self, old: Option<&Bearer>) -> Result<Arc<Bearer>> {
        if let Some(cause) = self.refused.load_full() {
            return Err(reauthorization(&self.parameters, &cause));
        }
        let Some(Grant::Refreshable(token)) = &self.parameters.grant else {
            // Only a missing or rejected bearer comes here, and nothing can make another.
            let cause = if old.is_some() { "access_token_rejected" } else { "access_token_expired" };
            return Err(self.refuse(cause).await);
        };
        let Parameters { uid, grant_number, .. } = &*self.parameters;
        let waiting_ends = self.common.clock.now() + RENEWAL_LEASE;
        let (mut mine, mut store_answers) = (false, true);
        loop {
            match self.common.store.renewal(uid, *grant_number).await {
                Ok(Some(row)) if self.is_news(&row, old) => {
                    if mine {
                        self.give_back().await;
                    }
                    return Ok(self.publish(of_renewal(row)));
                }
                Ok(_) if mine => break,
                Ok(_) => {}
                Err(fault) => {
                    tracing::warn!(parameter = %self.parameters.id, %fault, "renewing without the store");
                    store_answers = false;
                    break;
                }
            }
            match self.common.store.lease_renewal(uid, *grant_number).await {
                // Looks once more: another process may have finished between the look and the lease.
                Ok(Lease::Mine) => mine = true,
                Ok(Lease::Another) if self.common.clock.now() < waiting_ends => {
                    self.common.clock.sleep(LEASE_POLL).await
                }
                Ok(Lease::Superseded) => {
                    self.require_same_link().await?;
                    store_answers = false;
                    break;
                }
                // Nobody will tell whose it is: one refresh in the fleet is courtesy, not correctness.
                Ok(Lease::Another) | Err(_) => break,
            }
        }
        match refresh_token(&self.transport, &self.parameters, token).await {
            Ok(answer) => Ok(self.keep(answer, store_answers).await),
            Err(fault) if fault.reason() == Reason::ReauthorizationRequired => {
                Err(self.refuse(fault.get("cause").unwrap_or("invalid_grant")).await)
            }
            Err(fault) => {
                self.give_back().await;
                // The app's key and secret are the administrator's to mend; the grant may still be good.
                if fault.reason() == Reason::CredentialsRejected {
                    return Err(reauthorization(&self.parameters, fault.get("cause").unwrap_or("invalid_client")));
                }
                Err(fault)
            }
        }
    }

    /// Another grant took the place of this one. What runs on this one goes on, on its own token, only for the same account.
    async fn require_same_link(&self) -> Result<()> {
        match self.common.store.parameters(&self.parameters.id).await {
            Ok(now) => same_link(&self.parameters, now.as_ref()),
            Err(fault) => Err(fault),
        }
    }

    /// Another process has renewed since.
    fn is_news(&self, row: &Renewal, old: Option<&Bearer>) -> bool {
        let lasts = row
            .expires_at
            .is_none_or(|ends| ends.duration_since(self.common.clock.now()).unwrap_or_default() >= BEARER_LEFT_MIN);
        // Generations alone do not tell: a process without the store counts on by itself.
        lasts && old.is_none_or(|old| row.generation > old.generation && !old.token.is(&row.bearer))
    }

    async fn give_back(&self) {
        if let Err(fault) = self.common.store.release_renewal(&self.parameters.uid, self.parameters.grant_number).await
        {
            tracing::debug!(%fault, "the renewal lease was not given back; it ends by itself");
        }
    }

    /// Callers wait for this: a store that has just not answered is not tried again.
    async fn keep(&self, answer: TokenAnswer, store_answers: bool) -> Arc<Bearer> {
        let expires_at = answer.expires_in.map(|span| self.common.clock.now() + span);
        let Parameters { uid, grant_number, .. } = &*self.parameters;
        let shared = match store_answers {
            true => self.common.store.finish_renewal(uid, *grant_number, &answer.access_token, expires_at).await,
            false => Ok(None),
        };
        let next = self.bearer.load().as_ref().map_or(1, |old| old.generation + 1);
        let generation = match shared {
            Ok(generation) => generation.unwrap_or(next).max(next),
            Err(fault) => {
                tracing::warn!(parameter = %self.parameters.id, %fault, "the new bearer is kept in memory only");
                next
            }
        };
        self.publish(Bearer { token: answer.access_token.into(), expires_at, generation })
    }

    fn publish(&self, bearer: Bearer) -> Arc<Bearer> {
        let bearer = Arc::new(bearer);
        self.bearer.store(Some(bearer.clone()));
        bearer
    }

    /// The grant is gone: remembered here and in the store.
    async fn refuse(&self, cause: &str) -> Fault {
        self.refused.store(Some(Arc::new(cause.to_owned())));
        self.bearer.store(None);
        let Parameters { id, uid, grant_number, .. } = &*self.parameters;
        if let Err(fault) = self.common.store.require_reauthorization(id, uid, *grant_number, cause).await {
            tracing::error!(parameter = %id, %fault, "the lost grant could not be marked in the store");
        }
        reauthorization(&self.parameters, cause)
    }
}

impl TokenSource for Account {
    fn current(&self) -> Option<Arc<Bearer>> {
        let bearer = self.usable()?;
        if self.left(&bearer) < BEARER_RENEW_AHEAD && matches!(self.parameters.grant, Some(Grant::Refreshable(_))) {
            self.renew_ahead(&bearer);
        }
        Some(bearer)
    }

    fn grant(&self) -> (&str, i64) {
        (&self.parameters.uid, self.parameters.grant_number)
    }

    fn renew<'a>(&'a self, rejected: Option<&'a Bearer>) -> BoxFuture<'a, Result<Arc<Bearer>>> {
        Box::pin(async move {
            let _turn = self.common.renewing.of(&self.parameters).await;
            match self.usable() {
                // Someone renewed while this one waited.
                Some(bearer) if rejected.is_none_or(|rejected| rejected.generation != bearer.generation) => Ok(bearer),
                _ => self.refresh(rejected).await,
            }
        })
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("parameter", &self.parameters.id).finish_non_exhaustive()
    }
}

/// A bearer that nothing renews: the one an import proves.
pub(super) struct Fixed(pub(super) Arc<Bearer>);

impl TokenSource for Fixed {
    fn current(&self) -> Option<Arc<Bearer>> {
        Some(self.0.clone())
    }

    /// None yet.
    fn grant(&self) -> (&str, i64) {
        ("", 0)
    }

    fn renew<'a>(&'a self, _: Option<&'a Bearer>) -> BoxFuture<'a, Result<Arc<Bearer>>> {
        let rejected = Fault::new(Reason::CredentialsRejected, "Dropbox does not accept the access token");
        Box::pin(std::future::ready(Err(rejected)))
    }
}

/// Asks the token endpoint for a bearer. A parameter without a secret is a public client: PKCE only.
pub(super) async fn refresh_token(
    transport: &Transport,
    parameters: &Parameters,
    token: &Secret<String>,
) -> Result<TokenAnswer> {
    let mut form = vec![
        ("grant_type", "refresh_token"),
        ("refresh_token", token.reveal().as_str()),
        ("client_id", parameters.settings.app_key.as_str()),
    ];
    if let Some(secret) = &parameters.app_secret {
        form.push(("client_secret", secret.reveal().as_str()));
    }
    transport.token(&form).await
}

/// The linked account must be connected again.
pub(super) fn reauthorization(parameters: &Parameters, cause: &str) -> Fault {
    let id = parameters.id.as_str();
    let message = match (cause, &parameters.missing_key) {
        ("not_yet_authorized", _) => format!("no Dropbox account is connected to application parameter {id} yet"),
        ("disconnected", _) => format!("application parameter {id} was disconnected from its Dropbox account"),
        ("invalid_client", _) => {
            format!("Dropbox does not accept the app key and secret of application parameter {id} (invalid_client)")
        }
        ("sealing_key_retired", Some(key)) => {
            format!("application parameter {id} is sealed with key {key}, which this server does not have")
        }
        _ => format!("application parameter {id} must be authorized again ({cause})"),
    };
    let fault = Fault::new(Reason::ReauthorizationRequired, message).fact("cause", cause).parameter(id);
    match (cause, &parameters.missing_key) {
        ("sealing_key_retired", Some(key)) => {
            fault.fact("keyId", key).with_remedy(format!("put the key {key} back among the server's sealing keys"))
        }
        ("invalid_client", _) if parameters.of_file => {
            fault.with_remedy("correct app_key and app_secret in the parameters file; it is read again by itself")
        }
        ("invalid_client", _) if parameters.settings.app_source == AppSource::SharedApp => {
            fault.with_remedy("correct app_key and app_secret_file in the connector's configuration")
        }
        ("invalid_client", _) => fault.with_remedy(format!(
            "give it the app's present secret: dropbox-connector parameters secret {id} --app-secret-file FILE, or \
             UpdateApplicationParameter with app_secret"
        )),
        // What is read from a file cannot be connected: that is READ_ONLY_STORE.
        _ if parameters.of_file => {
            fault.with_remedy("put a new refresh token for it into the parameters file; it is read again by itself")
        }
        _ => fault,
    }
}

pub(super) fn of_renewal(renewal: Renewal) -> Bearer {
    Bearer { token: renewal.bearer.into(), expires_at: renewal.expires_at, generation: renewal.generation }
}

pub(super) fn expired(expires_at: Option<SystemTime>, now: SystemTime) -> bool {
    expires_at.is_some_and(|ends| ends <= now)
}
