//! Connecting an account by OAuth: begin, complete, revoke. One flow for programs, the command line and the connect page.
//! PKCE always. A `state` works once, in the whole fleet, and for whoever began it: the principal, or the browser that holds
//! the cookie. Nothing is stored unless everything is well; a grant for the wrong account is revoked again.

use std::{
    fmt,
    sync::Arc,
    time::{Instant, SystemTime},
};

use oauth2::{
    AuthUrl, AuthorizationCode, ClientId, CsrfToken, PkceCodeChallenge, RedirectUrl, Scope, basic::BasicClient,
};
use url::Url;

use super::{Resolver, account::Fixed, not_found, timeouts};
use crate::{
    access::{Permission, Permissions},
    config::{check_redirect_uri, is_loopback},
    dropbox::{AccountKey, Bearer, Caller, TokenAnswer, routes},
    fault::{Fault, Reason, Result},
    limits::{AUTHORIZATION_LIFE, IMPORT_DEADLINE},
    secret::Secret,
    store::{Account, AccountKind, AppSource, Authorization, Grant, Linked, ParameterId, Parameters},
};

/// Where the HTTP ports take what Dropbox sends back.
pub const CALLBACK_PATH: &str = "/oauth/callback";
/// `state` is this much randomness in base64url.
const STATE_BYTES: u32 = 32;

/// What the configuration says about connecting accounts.
#[derive(Debug, Clone, Default)]
pub struct OAuth {
    /// The app of parameters that have none of their own.
    pub shared_app: Option<App>,
    /// Redirect URIs that every parameter may use.
    pub redirect_uris: Vec<String>,
}

/// A Dropbox app. Without a secret it is a public client.
#[derive(Debug, Clone)]
pub struct App {
    pub key: String,
    pub secret: Option<Secret<String>>,
}

/// Who begins, or presents an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    /// A caller of the admin service.
    Principal(String),
    /// A browser on one of our HTTP ports, by the digest of its cookie, on behalf of this principal.
    Browser { cookie: String, principal: String },
    /// A browser that Dropbox sent to our callback; the digest of its cookie, if it has one.
    Callback(Option<String>),
}

/// How an authorization is to go.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    pub redirect_uri: Option<String>,
    /// Empty: those of the parameter.
    pub scopes: Vec<String>,
    pub account_kind: Option<AccountKind>,
    pub force_reapprove: bool,
    pub locale: String,
    pub allow_account_change: bool,
}

/// An authorization under way.
#[derive(Debug, Clone)]
pub struct Begun {
    pub authorize_url: Url,
    pub state: String,
    pub expires_at: SystemTime,
}

/// What came of the consent page.
pub enum Outcome {
    Code(Secret<String>),
    /// OAuth's `error`.
    Refused(String),
}

/// An account is connected.
#[derive(Debug)]
pub struct Completed {
    pub parameters: Parameters,
    /// Asked for, or needed by the policy, and not granted.
    pub missing_scopes: Vec<String>,
    /// The principal who began.
    pub begun_by: String,
}

/// No account was connected.
#[derive(Debug)]
pub struct Incomplete {
    pub fault: Fault,
    /// The principal who began, where the state was theirs to complete; told to the audit log, not to who brought it.
    pub begun_by: Option<String>,
}

impl From<Fault> for Incomplete {
    fn from(fault: Fault) -> Incomplete {
        Incomplete { fault, begun_by: None }
    }
}

impl From<Incomplete> for Fault {
    fn from(incomplete: Incomplete) -> Fault {
        incomplete.fault
    }
}

/// A grant is forgotten.
#[derive(Debug)]
pub struct Revoked {
    pub parameters: Parameters,
    /// There was a grant.
    pub was_connected: bool,
    /// Dropbox said so.
    pub at_dropbox: bool,
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::Code(_) => "Code",
            Outcome::Refused(_) => "Refused",
        })
    }
}

impl Outcome {
    /// Reads the query that Dropbox added to a redirect URI, and its `state`. Each field counts only if it is there once.
    ///
    /// # Errors
    /// `INVALID_FIELD` naming `field` when there is neither a code nor an error.
    pub fn of_query(query: &str, field: &str) -> Result<(String, Outcome)> {
        let once = |wanted: &str| {
            let mut found = url::form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == wanted);
            let value = found.next().map(|(_, value)| value.into_owned()).filter(|value| !value.is_empty());
            value.filter(|_| found.next().is_none())
        };
        let state = once("state").ok_or_else(|| Fault::field(field, "MALFORMED", "it holds no state, or several"))?;
        match (once("code"), once("error")) {
            (_, Some(error)) => Ok((state, Outcome::Refused(error))),
            (Some(code), None) => Ok((state, Outcome::Code(Secret::new(code)))),
            (None, None) => Err(Fault::field(field, "MALFORMED", "it holds neither a code nor an error")),
        }
    }
}

impl Resolver {
    /// The parameter with the app it uses: its own, or the server's.
    pub(super) fn with_app(&self, mut parameters: Parameters) -> Parameters {
        if let (AppSource::SharedApp, Some(app)) = (parameters.settings.app_source, &self.oauth.shared_app) {
            parameters.settings.app_key.clone_from(&app.key);
            parameters.app_secret.clone_from(&app.secret);
        }
        parameters
    }

    /// # Errors
    /// `INVALID_FIELD` for a parameter that would use the server's app where there is none.
    pub fn check_app(&self, source: AppSource) -> Result<()> {
        if source == AppSource::OwnApp || self.oauth.shared_app.is_some() {
            return Ok(());
        }
        let text = "this server has no app to share: set app_key in its configuration, or give the parameter its own";
        Err(Fault::field("application_parameter.app_source", "NOT_CONFIGURED", text))
    }

    /// Redirect URIs of the server whose browsers come to our own callback.
    pub fn callbacks(&self) -> impl Iterator<Item = Url> {
        let urls = self.oauth.redirect_uris.iter().filter_map(|uri| Url::parse(uri).ok());
        urls.filter(|url| url.path() == CALLBACK_PATH)
    }

    /// Where browsers are sent to: for pages that must say where their forms may lead.
    ///
    /// # Errors
    /// `CONNECTOR_BUG`.
    pub fn authorize_endpoint(&self) -> Result<Url> {
        self.transport.authorize_endpoint()
    }

    /// Begins to connect an account.
    ///
    /// # Errors
    /// `APPLICATION_PARAMETER_NOT_FOUND`, `INVALID_FIELD`, `REDIRECT_URI_NOT_ALLOWED`, `READ_ONLY_STORE`, `CONNECTOR_BUSY`,
    /// `STORE_UNAVAILABLE`.
    pub async fn begin_authorization(&self, id: &ParameterId, wish: Wish, by: By) -> Result<Begun> {
        self.store.require_writable()?;
        let parameters = self.with_app(self.store.parameters(id).await?.ok_or_else(|| not_found(id))?);
        let settings = &parameters.settings;
        self.check_app(settings.app_source)?;
        if wish.account_kind.is_some_and(|kind| kind != settings.account_kind) {
            let text = format!("{id} is for {}; change the parameter first", kind_of(settings.account_kind));
            return Err(Fault::field("account_kind", "CONFLICT", text));
        }
        if let Some(uri) = &wish.redirect_uri {
            self.check_redirect(&parameters, uri)?;
        }
        let scopes = if wish.scopes.is_empty() { settings.scopes.clone() } else { wish.scopes };
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let expires_at = self.clock.now() + AUTHORIZATION_LIFE;
        let client = BasicClient::new(ClientId::new(settings.app_key.clone()))
            .set_auth_uri(AuthUrl::from_url(self.transport.authorize_endpoint()?));
        let mut request = client
            .authorize_url(|| CsrfToken::new_random_len(STATE_BYTES))
            .add_scopes(scopes.iter().cloned().map(Scope::new))
            .set_pkce_challenge(challenge)
            .add_extra_param("token_access_type", "offline");
        if let Some(uri) = &wish.redirect_uri {
            // Kept as it was written: `http://localhost` and `http://localhost/` are two at Dropbox.
            let uri =
                RedirectUrl::new(uri.clone()).map_err(|error| Fault::bug("a checked url is none").source(error))?;
            request = request.set_redirect_uri(std::borrow::Cow::Owned(uri));
        }
        if wish.force_reapprove {
            request = request.add_extra_param("force_reapprove", "true");
        }
        if !wish.locale.is_empty() {
            request = request.add_extra_param("locale", wish.locale);
        }
        let (authorize_url, state) = request.url();
        let (principal, browser) = match by {
            By::Principal(principal) => (principal, None),
            By::Browser { cookie, principal } => (principal, Some(cookie)),
            By::Callback(_) => return Err(Fault::bug("a callback begins nothing")),
        };
        let authorization = Authorization {
            parameter_id: id.clone(),
            uid: parameters.uid.to_string(),
            app_key: settings.app_key.clone(),
            verifier: Secret::new(verifier.into_secret()),
            redirect_uri: wish.redirect_uri,
            scopes,
            principal,
            browser,
            allow_account_change: wish.allow_account_change,
        };
        let state = state.into_secret();
        self.store.keep_authorization(&state, &authorization, expires_at).await?;
        Ok(Begun { authorize_url, state, expires_at })
    }

    fn check_redirect(&self, parameters: &Parameters, uri: &str) -> Result<()> {
        let listed = self.oauth.redirect_uris.iter().chain(&parameters.settings.redirect_uris).any(|one| one == uri);
        let text = match check_redirect_uri(uri) {
            Err(text) => text.to_owned(),
            // A program of the user's own takes any free port (RFC 8252, 7.3).
            Ok(()) if listed || Url::parse(uri).is_ok_and(|url| url.scheme() == "http" && is_loopback(&url)) => {
                return Ok(());
            }
            Ok(()) => {
                "put exactly this value into oauth_redirect_uris of the server or redirect_uris of the parameter, \
                       and register it for the app in Dropbox's App Console"
                    .to_owned()
            }
        };
        Err(Fault::new(Reason::RedirectUriNotAllowed, format!("redirect_uri {uri}: {text}"))
            .fact("redirectUri", uri)
            .violation("redirect_uri", "NOT_ALLOWED", text))
    }

    /// Takes the authorization of this `state`, whoever presents it, and connects the account if all is well. Goes on when
    /// its caller leaves: the code works once.
    ///
    /// # Errors
    /// `AUTHORIZATION_STATE_EXPIRED`, `AUTHORIZATION_DENIED`, `AUTHORIZATION_CODE_REJECTED`, `CREDENTIALS_REJECTED`,
    /// `ACCOUNT_MISMATCH`, `ACCOUNT_TYPE`, `APPLICATION_PARAMETER_NOT_FOUND`, `READ_ONLY_STORE`, and what stood between us
    /// and Dropbox or the store.
    pub async fn complete_authorization(
        self: &Arc<Self>,
        state: String,
        outcome: Outcome,
        by: By,
    ) -> Result<Completed, Incomplete> {
        let me = self.clone();
        let work = tokio::spawn(async move { me.complete(&state, outcome, by).await });
        work.await.map_err(|error| Fault::bug("an authorization broke down").source(error))?
    }

    async fn complete(&self, state: &str, outcome: Outcome, by: By) -> Result<Completed, Incomplete> {
        self.store.require_writable()?;
        let begun =
            self.store.take_authorization(state).await?.filter(|begun| belongs(begun, &by, &self.oauth.redirect_uris));
        let begun = begun.ok_or_else(|| state_expired("unknown, used, expired, or begun by somebody else"))?;
        let id = &begun.parameter_id;
        self.complete_begun(&begun, outcome).await.map_err(|fault| Incomplete {
            fault: fault.fact("applicationParameterId", id),
            begun_by: Some(begun.principal.clone()),
        })
    }

    async fn complete_begun(&self, begun: &Authorization, outcome: Outcome) -> Result<Completed> {
        let id = &begun.parameter_id;
        let found = self.store.parameters(id).await?.filter(|found| *found.uid == *begun.uid);
        let parameters = self.with_app(found.ok_or_else(|| not_found(id))?);
        if parameters.settings.app_key != begun.app_key {
            return Err(state_expired("begun with another app than the parameter has now"));
        }
        let code = match outcome {
            Outcome::Code(code) => code,
            Outcome::Refused(error) => return Err(refused(id, &error)),
        };
        let answer = self.trade(&parameters, begun, &code).await?;
        let linked = match self.checked(&parameters, begun, &answer).await {
            Ok(linked) => linked,
            Err(fault) => {
                self.give_up(&parameters, answer).await;
                return Err(fault);
            }
        };
        let missing_scopes = missing_scopes(&parameters, &begun.scopes, &linked.granted_scopes);
        let stored = match self.store.set_grant(&parameters, linked).await {
            Ok(stored) => stored,
            Err(fault) => {
                self.give_up(&parameters, answer).await;
                return Err(fault);
            }
        };
        self.forget(id);
        let stored = self.name_members_by_id(stored).await;
        Ok(Completed { parameters: stored, missing_scopes, begun_by: begun.principal.clone() })
    }

    /// Nobody is to keep a grant that we refuse, or could not store.
    async fn give_up(&self, parameters: &Parameters, answer: TokenAnswer) {
        // A team is unlinked in its admin console only.
        if answer.team_id.is_some() {
            return;
        }
        let bearer = Bearer { token: answer.access_token.into(), expires_at: None, generation: 0 };
        if let Err(lost) = self.revoke_bearer(parameters, bearer).await {
            let id = &parameters.id;
            tracing::warn!(parameter = %id, fault = %lost, "a grant that was not stored could not be revoked at Dropbox");
        }
    }

    async fn trade(
        &self,
        parameters: &Parameters,
        begun: &Authorization,
        code: &Secret<String>,
    ) -> Result<TokenAnswer> {
        // The crate's type, so that what is traded here is what was asked for above.
        let code = AuthorizationCode::new(code.reveal().trim().to_owned());
        let mut form = vec![
            ("grant_type", "authorization_code"),
            ("code", code.secret().as_str()),
            ("code_verifier", begun.verifier.reveal().as_str()),
            ("client_id", parameters.settings.app_key.as_str()),
        ];
        if let Some(secret) = &parameters.app_secret {
            form.push(("client_secret", secret.reveal().as_str()));
        }
        if let Some(uri) = &begun.redirect_uri {
            form.push(("redirect_uri", uri.as_str()));
        }
        self.transport_of(parameters).token(&form).await.map_err(|fault| match fault.reason() {
            Reason::ReauthorizationRequired | Reason::DropboxBadRequest => {
                let text = match &begun.redirect_uri {
                    None => "Dropbox does not take this code: it is mistyped, used, expired or of another app".to_owned(),
                    Some(uri) => format!(
                        "Dropbox does not take this code: it is used, expired, of another app, or {uri} is not registered \
                         in exactly this form"
                    ),
                };
                fault
                    .with_reason(Reason::AuthorizationCodeRejected)
                    .with_message(&text)
                    .violation("answer", "REJECTED", text)
            }
            Reason::CredentialsRejected => {
                let text = "Dropbox does not accept the app's key and secret: correct app_key and app_secret";
                fault.with_message(text).violation("application_parameter.app_secret", "REJECTED", text)
            }
            _ => fault,
        })
    }

    /// Is this what was wanted, and whose is it?
    async fn checked(&self, parameters: &Parameters, begun: &Authorization, answer: &TokenAnswer) -> Result<Linked> {
        let refresh_token = answer.refresh_token.clone().ok_or_else(|| {
            Fault::new(Reason::DropboxProtocol, "Dropbox gave no refresh token although offline access was asked for")
        })?;
        let wanted = parameters.settings.account_kind;
        let found = if answer.team_id.is_some() { AccountKind::Team } else { AccountKind::User };
        if found != wanted {
            let (wanted, found) = (kind_of(wanted), kind_of(found));
            let text = format!("{} is for {wanted}, and {found} was authorized; nothing was stored", parameters.id);
            return Err(Fault::new(Reason::AccountType, text).fact("expected", wanted).fact("found", found));
        }
        let ends = answer.expires_in.map(|span| self.clock.now() + span);
        let proved = self.prove(parameters, answer.access_token.clone(), ends).await?;
        let named = answer.account_id.clone().or(answer.team_id.clone());
        let account = proved.or_else(|| {
            let team_id = answer.team_id.clone().unwrap_or_default();
            named.map(|account_id| Account { account_id, team_id, ..Account::default() })
        });
        // Of a team the team counts, not the member whose account a call happened to be answered with.
        let linked = parameters.linked_to();
        let new = account.as_ref().map_or("", |account| account.linked_to(wanted));
        if !linked.is_empty() && linked != new && !begun.allow_account_change {
            let text = format!(
                "another Dropbox account was authorized than the one {} is linked to; nothing was stored, and what was \
                 granted is revoked",
                parameters.id
            );
            return Err(Fault::new(Reason::AccountMismatch, text));
        }
        Ok(Linked {
            grant: Grant::Refreshable(refresh_token),
            granted_scopes: answer.scopes.clone(),
            account,
            bearer: Some((answer.access_token.clone(), ends)),
        })
    }

    /// Ends the grant, at Dropbox as far as possible and here in any case.
    ///
    /// # Errors
    /// `APPLICATION_PARAMETER_NOT_FOUND`; `ETAG_MISMATCH` if an account was connected or disconnected meanwhile;
    /// `READ_ONLY_STORE`, `STORE_UNAVAILABLE`.
    pub async fn revoke_authorization(&self, id: &ParameterId, deadline: Option<Instant>) -> Result<Revoked> {
        self.store.require_writable()?;
        let entry = self.as_it_is_now(id).await?;
        let at_dropbox = self.end_at_dropbox(&entry, deadline).await;
        let cleared = self.store.clear_grant(&entry.parameters).await?;
        self.forget(id);
        Ok(Revoked { parameters: cleared, was_connected: entry.parameters.grant.is_some(), at_dropbox })
    }

    /// Deletes an application parameter and, if so wished, ends its grant at Dropbox before; true if it was ended there.
    ///
    /// # Errors
    /// As [`Resolver::revoke_authorization`].
    pub async fn delete(&self, id: &ParameterId, revoke: bool, deadline: Option<Instant>) -> Result<bool> {
        self.store.require_writable()?;
        let at_dropbox = if revoke {
            let entry = self.as_it_is_now(id).await?;
            let at_dropbox = self.end_at_dropbox(&entry, deadline).await;
            self.store.delete_parameters_with_grant(&entry.parameters).await?;
            at_dropbox
        } else {
            self.store.delete_parameters(id, None).await?;
            false
        };
        self.forget(id);
        Ok(at_dropbox)
    }

    /// Read now, not as it was when it was used last: another process may have connected another account since.
    async fn as_it_is_now(&self, id: &ParameterId) -> Result<Arc<super::account::Account>> {
        let parameters = self.store.parameters(id).await?.ok_or_else(|| not_found(id))?;
        Ok(self.entry_of(self.with_app(parameters)).await)
    }

    async fn end_at_dropbox(&self, entry: &Arc<super::account::Account>, deadline: Option<Instant>) -> bool {
        let parameters = &entry.parameters;
        // A team is unlinked in its admin console only.
        if parameters.grant.is_none() || parameters.settings.account_kind == AccountKind::Team {
            return false;
        }
        let within = deadline.map_or(IMPORT_DEADLINE, |end| end.saturating_duration_since(Instant::now()) / 2);
        match tokio::time::timeout(within.min(IMPORT_DEADLINE), self.revoke_at_dropbox(entry)).await {
            Ok(Ok(())) => true,
            Ok(Err(fault)) => {
                tracing::warn!(parameter = %parameters.id, %fault, "the grant could not be revoked at Dropbox");
                false
            }
            Err(_) => false,
        }
    }

    async fn revoke_at_dropbox(&self, entry: &Arc<super::account::Account>) -> Result<()> {
        let caller = self.caller(entry, None, None, Some(Instant::now() + IMPORT_DEADLINE));
        match caller.call(&routes::REVOKE_TOKEN, &()).await {
            Ok(_) => Ok(()),
            // Dropbox does not know the grant any more, which is what was wanted.
            Err(fault) if fault.get("cause") == Some("invalid_grant") => Ok(()),
            Err(fault) => Err(fault),
        }
    }

    async fn revoke_bearer(&self, parameters: &Parameters, bearer: Bearer) -> Result<()> {
        let caller = Caller::new(
            self.transport_of(parameters),
            Arc::new(Fixed(Arc::new(bearer))),
            AccountKey::new(&*parameters.uid),
            None,
            None,
            Some(Instant::now() + IMPORT_DEADLINE),
            timeouts(parameters),
        );
        caller.call(&routes::REVOKE_TOKEN, &()).await.map(drop)
    }
}

/// May who presents the state complete what was begun?
/// `own`: the redirect URIs of this server.
fn belongs(begun: &Authorization, by: &By, own: &[String]) -> bool {
    match by {
        By::Principal(principal) => begun.browser.is_none() && begun.principal == *principal,
        By::Browser { cookie, .. } => begun.browser.as_ref() == Some(cookie),
        By::Callback(cookie) => {
            let uri = begun.redirect_uri.as_deref().unwrap_or_default();
            let ours = Url::parse(uri).is_ok_and(|uri| uri.path() == CALLBACK_PATH);
            match &begun.browser {
                Some(_) => ours && begun.browser == *cookie,
                // What a program began, any browser may complete here if Dropbox was to send it here. An answer meant for the
                // program's own address is the program's: it knows whose browser may bring it.
                None => ours && own.iter().any(|one| one == uri),
            }
        }
    }
}

fn state_expired(what: &str) -> Fault {
    let text = format!("the state of this authorization is {what}; begin again");
    Fault::new(Reason::AuthorizationStateExpired, text)
}

fn refused(id: &ParameterId, error: &str) -> Fault {
    let known = !error.is_empty() && error.len() <= 64 && error.bytes().all(|c| c.is_ascii_lowercase() || c == b'_');
    let text = match error {
        "access_denied" => format!("access to a Dropbox account was not granted to application parameter {id}"),
        _ => format!("Dropbox ended the authorization of application parameter {id} with an error"),
    };
    Fault::new(Reason::AuthorizationDenied, text).fact("cause", if known { error } else { "unreadable" })
}

fn kind_of(kind: AccountKind) -> &'static str {
    match kind {
        AccountKind::User => "a single account",
        AccountKind::Team => "a team",
    }
}

/// What was asked for, or what the policy's permissions need, and was not granted.
fn missing_scopes(parameters: &Parameters, asked: &[String], granted: &[String]) -> Vec<String> {
    let needed = needed_scopes(parameters.settings.policy.granted());
    let mut missing: Vec<String> = asked.iter().cloned().chain(needed.map(str::to_owned)).collect();
    missing.sort_unstable();
    missing.dedup();
    missing.retain(|scope| !granted.contains(scope));
    missing
}

/// The scopes behind the RPCs of each permission (API-FACTS 2.6).
fn needed_scopes(permissions: Permissions) -> impl Iterator<Item = &'static str> {
    permissions
        .iter()
        .flat_map(|permission| match permission {
            Permission::Read => &["account_info.read", "files.metadata.read", "files.content.read"][..],
            Permission::Write | Permission::Delete => &["files.content.write"],
            Permission::Share => &["sharing.read", "sharing.write"],
            Permission::Events => &["files.metadata.read"],
            Permission::Team => &["team_info.read"],
            Permission::Raw => &[],
        })
        .copied()
}
