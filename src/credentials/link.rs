//! Linking an account by a token that an administrator brings, and trying out a link. A credential is stored only after
//! Dropbox has accepted it.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use dropbox_sdk::types::{common::RootInfo, users::FullAccount};

use super::{
    Resolver,
    account::{Fixed, expired, refresh_token},
    members::{self, Members},
    not_found, ready, timeouts,
};
use crate::{
    dropbox::{AccountKey, ActAs, Bearer, Caller, TokenSource as _, routes},
    fault::{Fault, Reason, Result},
    limits::IMPORT_DEADLINE,
    secret::Secret,
    store::{Account, AccountKind, Grant, Linked, ParameterId, Parameters, SecretChange, Settings},
};

/// What an administrator brings.
#[derive(Debug)]
pub enum Credential {
    RefreshToken(Secret<String>),
    /// `expires_at` unset: a token of the old kind, which does not end.
    AccessToken {
        token: Secret<String>,
        expires_at: Option<SystemTime>,
    },
}

/// What a try of a link found.
#[derive(Debug, Clone, PartialEq)]
pub struct TestReport {
    /// None for a team link that acts as no member.
    pub account: Option<Account>,
    /// What the grant was given for; empty when Dropbox never said.
    pub scopes: Vec<String>,
    /// Of one call to Dropbox, renewal of the bearer not included.
    pub latency: Duration,
    /// Seconds that this machine's clock is ahead of Dropbox's; negative when it is behind. None if Dropbox did not say.
    pub clock_skew_seconds: Option<i64>,
    /// Through which it went, as it may be shown; None: straight.
    pub proxy: Option<String>,
}

impl Resolver {
    /// Links the account that this credential is for, once Dropbox has accepted it.
    ///
    /// # Errors
    /// `APPLICATION_PARAMETER_NOT_FOUND`, `ETAG_MISMATCH` if an account was connected or disconnected meanwhile,
    /// `READ_ONLY_STORE`, `CREDENTIALS_REJECTED`, and what stood between us and Dropbox or the store.
    pub async fn import(&self, id: &ParameterId, credential: Credential) -> Result<Parameters> {
        self.store.require_writable()?;
        let parameters = self.store.parameters(id).await?.ok_or_else(|| not_found(id))?;
        self.check_app(parameters.settings.app_source)?;
        let parameters = self.with_app(parameters);
        let (field, linked) = match credential {
            Credential::RefreshToken(token) => ("refresh_token", self.by_refresh_token(&parameters, token).await),
            Credential::AccessToken { token, expires_at } => {
                ("access_token", self.by_access_token(&parameters, token, expires_at).await)
            }
        };
        let linked = linked.map_err(|fault| rejected(fault, field))?;
        let stored = self.store.set_grant(&parameters, linked).await?;
        self.forget(id);
        Ok(self.name_members_by_id(stored).await)
    }

    /// Ids for the e-mail addresses that `wanted` names members by, in lower case; none while no team is linked that could
    /// tell: then they are looked up when one is.
    ///
    /// # Errors
    /// `INVALID_FIELD` for an address that is nobody's in the team, and what asking Dropbox gives (`SCOPE_MISSING` without
    /// `members.read`).
    pub async fn member_ids(
        &self,
        id: &ParameterId,
        wanted: &Settings,
        deadline: Option<Instant>,
    ) -> Result<BTreeMap<String, String>> {
        let addresses = members::addresses(wanted);
        if addresses.is_empty() {
            return Ok(BTreeMap::new());
        }
        let Some(entry) = self.entry(id).await? else { return Ok(BTreeMap::new()) };
        let settings = &entry.parameters.settings;
        if settings.account_kind != AccountKind::Team || ready(&entry.parameters).is_err() {
            return Ok(BTreeMap::new());
        }
        let ids = members::ids_of(&addresses, &self.caller(&entry, None, None, deadline)).await?;
        members::require_all(&addresses, &ids)?;
        Ok(ids)
    }

    /// A team was linked: whom its settings name by address they name by id from now on. An address that nobody has, or that
    /// may not be looked up, stays what it is, and calls say so.
    pub(super) async fn name_members_by_id(&self, stored: Parameters) -> Parameters {
        let addresses = members::addresses(&stored.settings);
        if addresses.is_empty() || stored.settings.account_kind != AccountKind::Team {
            return stored;
        }
        let id = stored.id.clone();
        let entry = self.entry_of(self.with_app(stored.clone())).await;
        let caller = self.caller(&entry, None, None, Some(Instant::now() + IMPORT_DEADLINE));
        let named = async {
            let ids = members::ids_of(&addresses, &caller).await?;
            if ids.is_empty() {
                return Ok(stored.clone());
            }
            let edit = |settings: &mut Settings| {
                members::put_ids(settings, &ids);
                Ok(())
            };
            let named = self.store.update_parameters(&id, None, SecretChange::Keep, edit).await?;
            self.forget(&id);
            Ok::<_, Fault>(named)
        };
        named.await.unwrap_or_else(|fault| {
            tracing::warn!(parameter = %id, %fault, "members stay named by their addresses");
            stored
        })
    }

    /// Makes one call with the link and tells how it went. Policy is not looked at: this is for administrators.
    ///
    /// # Errors
    /// `APPLICATION_PARAMETER_NOT_FOUND`, `PARAMETER_DISABLED`, `REAUTHORIZATION_REQUIRED`, and what stood between us and
    /// Dropbox.
    pub async fn test(&self, id: &ParameterId, deadline: Option<Instant>) -> Result<TestReport> {
        let entry = self.entry(id).await?.ok_or_else(|| not_found(id))?;
        let parameters = &entry.parameters;
        ready(parameters)?;
        let act_as = self.act_as(&entry, None, deadline).await?;
        let teamwide = parameters.settings.account_kind == AccountKind::Team && act_as.is_none();
        let old = entry.current();
        if old.is_none() {
            entry.renew(None).await?;
        }
        let begun = Instant::now();
        let account = if teamwide {
            // No route of a single account works here; a renewal proves the grant.
            entry.renew(old.as_deref()).await?;
            parameters.account.clone()
        } else {
            Some(account(&self.caller(&entry, act_as, None, deadline)).await?)
        };
        let latency = begun.elapsed();
        let skew = match entry.transport.server_time().await {
            Ok(theirs) => Some(seconds_ahead(self.clock.now(), theirs)),
            Err(fault) => {
                tracing::debug!(%fault, "Dropbox's clock could not be read");
                None
            }
        };
        let (scopes, proxy) = (parameters.granted_scopes.clone(), entry.transport.proxy());
        Ok(TestReport { account, scopes, latency, clock_skew_seconds: skew, proxy })
    }

    async fn by_refresh_token(&self, parameters: &Parameters, token: Secret<String>) -> Result<Linked> {
        let answer = refresh_token(&self.transport_of(parameters), parameters, &token).await?;
        let ends = answer.expires_in.map(|span| self.clock.now() + span);
        let found = self.prove(parameters, answer.access_token.clone(), ends).await?;
        let told = answer.account_id.or(answer.team_id.clone());
        let named = || {
            let team_id = answer.team_id.clone().unwrap_or_default();
            told.map(|account_id| Account { account_id, team_id, ..Account::default() })
        };
        Ok(Linked {
            account: found.or_else(named),
            grant: Grant::Refreshable(token),
            granted_scopes: answer.scopes,
            bearer: Some((answer.access_token, ends)),
        })
    }

    async fn by_access_token(
        &self,
        parameters: &Parameters,
        token: Secret<String>,
        expires_at: Option<SystemTime>,
    ) -> Result<Linked> {
        if expired(expires_at, self.clock.now()) {
            return Err(Fault::new(Reason::CredentialsRejected, "the access token has expired"));
        }
        let account = self.prove(parameters, token.clone(), expires_at).await?;
        Ok(Linked {
            grant: Grant::ShortLived { bearer: token, expires_at },
            granted_scopes: Vec::new(),
            account,
            bearer: None,
        })
    }

    /// One call with the bearer. None: it is good, but has no single account or may not read it.
    pub(super) async fn prove(
        &self,
        parameters: &Parameters,
        token: Secret<String>,
        expires_at: Option<SystemTime>,
    ) -> Result<Option<Account>> {
        let bearer = Arc::new(Bearer { token: token.into(), expires_at, generation: 0 });
        let asking = self.prover(parameters, bearer.clone(), None);
        let chosen = members::chosen(parameters, None)?;
        let act_as = Members::default().resolve(parameters, chosen, self.clock.now(), move || asking).await?;
        match account(&self.prover(parameters, bearer, act_as)).await {
            Ok(account) => Ok(Some(account)),
            Err(fault) if matches!(fault.reason(), Reason::ScopeMissing | Reason::MemberRequired) => Ok(None),
            Err(fault) => Err(fault),
        }
    }
}

impl Resolver {
    /// Calls with a bearer that is not stored yet.
    fn prover(&self, parameters: &Parameters, bearer: Arc<Bearer>, act_as: Option<ActAs>) -> Caller {
        Caller::new(
            self.transport_of(parameters),
            Arc::new(Fixed(bearer)),
            AccountKey::new(&*parameters.uid),
            act_as,
            None,
            Some(Instant::now() + IMPORT_DEADLINE),
            timeouts(parameters),
        )
    }
}

/// Who the caller is at Dropbox.
pub(super) async fn account(caller: &Caller) -> Result<Account> {
    let FullAccount { account_id, name, email, root_info, team, .. } =
        caller.call(&routes::GET_CURRENT_ACCOUNT, &()).await?.value;
    let (root_namespace_id, home_namespace_id) = match root_info {
        RootInfo::Team(info) => (info.root_namespace_id, info.home_namespace_id),
        RootInfo::User(info) => (info.root_namespace_id, info.home_namespace_id),
        _ => return Err(Fault::new(Reason::DropboxProtocol, "Dropbox names no root namespace for the account")),
    };
    let team_id = team.map(|team| team.id).unwrap_or_default();
    Ok(Account { account_id, display_name: name.display_name, email, team_id, root_namespace_id, home_namespace_id })
}

/// A refusal by Dropbox is the credential's fault; anything in between is not.
fn rejected(fault: Fault, field: &'static str) -> Fault {
    let refused = matches!(
        fault.reason(),
        Reason::ReauthorizationRequired
            | Reason::CredentialsRejected
            | Reason::DropboxBadRequest
            | Reason::RejectedByDropbox
    );
    if !refused {
        return fault;
    }
    let text = "Dropbox does not accept this credential for the app key and secret of the application parameter";
    fault.with_reason(Reason::CredentialsRejected).with_message(text).not_retryable().violation(field, "REJECTED", text)
}

fn seconds_ahead(ours: SystemTime, theirs: SystemTime) -> i64 {
    let whole = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
    match ours.duration_since(theirs) {
        Ok(ahead) => whole(ahead),
        Err(behind) => -whole(behind.duration()),
    }
}
