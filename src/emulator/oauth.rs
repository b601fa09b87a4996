//! Who may do what: apps, grants, short-lived tokens by the emulator's clock, scopes. Only tokens made here are known, so a
//! real credential never gets in. The two OAuth endpoints are in `flow`.

mod flow;

pub(in crate::emulator) use flow::{escape, page, www};

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    sync::{Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, header::AUTHORIZATION};
use rand::{Rng, SeedableRng, distr::Alphanumeric, rngs::StdRng};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    Refusal, Who, hold,
    schema::{RouteSpec, Schema},
};
use crate::clock::SharedClock;

/// Dropbox's short-lived tokens live four hours.
const TOKEN_LIFE: Duration = Duration::from_secs(14_400);
/// A code is to be traded at once.
const CODE_LIFE: Duration = Duration::from_secs(600);
/// Tokens, codes and grants held at once; the oldest make room. Ten thousand accounts have a grant and a few tokens each.
const BOOK_MAX: usize = 50_000;

/// The app every emulator knows from the start.
const DEFAULT_APP_KEY: &str = "emulatorappkey0";
const DEFAULT_APP_SECRET: &str = "emulatorsecret0";

/// What a client needs to be an account of the emulator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    pub app_key: String,
    pub app_secret: String,
    pub account_id: String,
    pub refresh_token: String,
    /// Valid for four hours of the emulator's clock from when it was issued.
    pub access_token: String,
}

/// What the consent page does without a human.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consent {
    /// The page waits for a click.
    #[default]
    Ask,
    /// The page answers at once, as if Approve had been clicked.
    Approve,
    /// The page answers at once, as if Deny had been clicked.
    Deny,
}

/// All apps, grants and tokens.
pub struct Authority {
    clock: SharedClock,
    seed: u64,
    account_id: String,
    book: Mutex<Book>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

struct Book {
    dice: StdRng,
    apps: HashMap<String, App>,
    grants: BTreeMap<u64, Grant>,
    next_grant: u64,
    /// By refresh token.
    refresh: HashMap<String, u64>,
    /// By access token.
    access: HashMap<String, Access>,
    /// By code.
    codes: HashMap<String, Code>,
    consent: Consent,
    /// Who is signed in at the consent page; the default account if `None`.
    signed_in: Option<String>,
    /// The team for which whoever is signed in approves, as its administrator; themselves if `None`.
    for_team: Option<String>,
    default_login: Option<Login>,
}

struct App {
    secret: String,
    redirect_uris: BTreeSet<String>,
    scopes: BTreeSet<String>,
    /// Beside them, what the administrator of a team may be asked for.
    team_scopes: BTreeSet<String>,
}

impl App {
    fn offered(&self, to_a_team: bool) -> BTreeSet<String> {
        let team_scopes = self.team_scopes.iter().filter(|_| to_a_team);
        self.scopes.iter().chain(team_scopes).cloned().collect()
    }
}

/// One account's consent to one app.
struct Grant {
    app: String,
    account: String,
    scopes: BTreeSet<String>,
    /// Whether it came about by PKCE, so that refreshing takes no secret.
    pkce: bool,
    refresh_token: Option<String>,
    /// The consent of an administrator for the whole team of `account`.
    team: bool,
}

struct Access {
    grant: u64,
    scopes: BTreeSet<String>,
    /// `None`: a long-lived token of the old kind.
    expires_at: Option<SystemTime>,
}

struct Code {
    app: String,
    account: String,
    team: Option<String>,
    scopes: BTreeSet<String>,
    access_type: AccessType,
    redirect_uri: Option<String>,
    challenge: Option<Challenge>,
    expires_at: SystemTime,
    used: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AccessType {
    Online,
    Offline,
    Legacy,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Challenge {
    S256(String),
    Plain(String),
}

/// The scopes of the routes that take a team's token.
fn team_scopes() -> BTreeSet<String> {
    let routes = Schema::get().routes().filter(|route| route.takes("team"));
    routes.filter_map(|route| route.scope.clone()).filter(|scope| !scope.starts_with("private:")).collect()
}

impl Authority {
    pub(in crate::emulator) fn new(clock: SharedClock, seed: u64, account_id: String) -> Authority {
        let book = Mutex::new(Book::new(seed));
        let authority = Authority { clock, seed, account_id, book };
        authority.seed_book();
        authority
    }

    /// As if just started: the default app and login only, with the same tokens as then.
    pub(in crate::emulator) fn reset(&self) {
        *self.book() = Book::new(self.seed);
        self.seed_book();
    }

    fn seed_book(&self) {
        let login = self.issue(&self.account_id, None).expect("all scopes of the default app are its own");
        self.book().default_login = Some(login);
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        hold(&self.book)
    }

    /// The default account through the default app.
    pub fn default_login(&self) -> Login {
        self.book().default_login.clone().expect("made when the book is")
    }

    /// A new grant of the default app for `account`, with fresh tokens. `scopes`: all of the app if `None`.
    ///
    /// # Errors
    /// The first scope the app does not have.
    pub fn issue(&self, account: &str, scopes: Option<&[String]>) -> Result<Login, String> {
        let mut book = self.book();
        let all = book.apps[DEFAULT_APP_KEY].scopes.clone();
        let scopes = match scopes {
            None => all,
            Some(some) => match some.iter().find(|scope| !all.contains(*scope)) {
                Some(scope) => return Err(format!("no scope '{scope}'")),
                None => some.iter().cloned().collect(),
            },
        };
        let grant = book.grant(DEFAULT_APP_KEY, account, scopes.clone(), AccessType::Offline, false);
        let access_token = book.access_token(grant, scopes, Some(self.clock.now() + TOKEN_LIFE));
        let refresh_token = book.grants[&grant].refresh_token.clone().expect("offline grants have one");
        Ok(Login {
            app_key: DEFAULT_APP_KEY.to_owned(),
            app_secret: DEFAULT_APP_SECRET.to_owned(),
            account_id: account.to_owned(),
            refresh_token,
            access_token,
        })
    }

    /// A new grant of the default app for the whole team of `account`, with the scopes of team routes, too.
    pub(in crate::emulator) fn issue_team(&self, account: &str) -> Login {
        let mut book = self.book();
        let scopes = book.apps[DEFAULT_APP_KEY].offered(true);
        let grant = book.grant(DEFAULT_APP_KEY, account, scopes.clone(), AccessType::Offline, false);
        let granted = book.grants.get_mut(&grant).expect("made the line before");
        granted.team = true;
        let refresh_token = granted.refresh_token.clone().expect("offline grants have one");
        let access_token = book.access_token(grant, scopes, Some(self.clock.now() + TOKEN_LIFE));
        Login {
            app_key: DEFAULT_APP_KEY.to_owned(),
            app_secret: DEFAULT_APP_SECRET.to_owned(),
            account_id: account.to_owned(),
            refresh_token,
            access_token,
        }
    }

    /// Every access token there is now answers `expired_access_token` from here on.
    pub fn expire_access_tokens(&self) {
        let now = self.clock.now();
        for access in self.book().access.values_mut() {
            access.expires_at = Some(now);
        }
    }

    /// The grant behind a refresh token ends: it and its access tokens are refused. `None`: every grant.
    /// Returns how many grants ended.
    pub fn revoke(&self, refresh_token: Option<&str>) -> usize {
        let mut book = self.book();
        let grants: Vec<u64> = match refresh_token {
            Some(token) => book.refresh.get(token).copied().into_iter().collect(),
            None => book.grants.keys().copied().collect(),
        };
        grants.iter().for_each(|grant| book.end(*grant));
        grants.len()
    }

    /// `auth/token/revoke`: the access token's grant ends, siblings and refresh token with it.
    pub(in crate::emulator) fn revoke_access(&self, access_token: &str) {
        let mut book = self.book();
        if let Some(grant) = book.access.get(access_token).map(|access| access.grant) {
            book.end(grant);
        }
    }

    /// What the consent page does from now on.
    pub fn set_consent(&self, consent: Consent) {
        self.book().consent = consent;
    }

    /// Who is signed in at the consent page from now on.
    pub(in crate::emulator) fn sign_in(&self, account: &str, team: Option<String>) {
        let mut book = self.book();
        book.signed_in = Some(account.to_owned());
        book.for_team = team;
    }

    /// Gives the default app another secret, as the App Console does; grants stay.
    pub fn set_app_secret(&self, secret: &str) {
        let mut book = self.book();
        let app = book.apps.get_mut(DEFAULT_APP_KEY).expect("there from the start");
        secret.clone_into(&mut app.secret);
    }

    /// The secret of an app.
    pub(in crate::emulator) fn secret_of(&self, app: &str) -> Option<String> {
        self.book().apps.get(app).map(|app| app.secret.clone())
    }

    /// The accounts an app is linked to, and those that linked it to their team.
    pub(in crate::emulator) fn linked(&self, app: &str) -> (BTreeSet<String>, BTreeSet<String>) {
        let book = self.book();
        let accounts = |team: bool| {
            let grants = book.grants.values().filter(move |grant| grant.app == app && grant.team == team);
            grants.map(|grant| grant.account.clone()).collect()
        };
        (accounts(false), accounts(true))
    }

    /// Registers a redirect URI of the default app, as the App Console does. Loopback addresses need none.
    ///
    /// # Errors
    /// It is not an address.
    pub fn register_redirect(&self, uri: &str) -> Result<(), String> {
        url::Url::parse(uri).map_err(|error| format!("{uri}: {error}"))?;
        let mut book = self.book();
        let app = book.apps.get_mut(DEFAULT_APP_KEY).expect("there from the start");
        app.redirect_uris.insert(uri.to_owned());
        Ok(())
    }

    /// Who calls `route` with these headers.
    ///
    /// # Errors
    /// 400 for what is no credential of the right kind, 401 for a token that is unknown, expired or too narrow.
    pub(in crate::emulator) fn who(&self, route: &RouteSpec, headers: &HeaderMap) -> Result<Who, Refusal> {
        let credential = headers.get(AUTHORIZATION).map(|value| value.to_str().unwrap_or_default());
        if route.takes("noauth") {
            return match credential {
                None => Ok(Who::Nobody),
                Some(_) => {
                    refuse("This API function takes no authorization; leave out the HTTP header \"Authorization\".")
                }
            };
        }
        let Some(credential) = credential else {
            return refuse("Must provide HTTP header \"Authorization\" or URL parameter \"authorization\".");
        };
        match credential.split_once(' ') {
            Some(("Bearer", token)) => self.bearer(route, headers, token.trim()),
            Some(("Basic", pair)) if route.takes("app") => match self.app_of(pair) {
                Some(app) => Ok(Who::App { app }),
                None => refuse("Invalid app key or app secret in HTTP header \"Authorization\"."),
            },
            Some(("Basic", _)) => refuse("This API function does not take app authentication."),
            _ => refuse(
                "Invalid authorization value in HTTP header \"Authorization\": expecting \"Bearer\" or \"Basic\".",
            ),
        }
    }

    fn bearer(&self, route: &RouteSpec, headers: &HeaderMap, token: &str) -> Result<Who, Refusal> {
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte)) {
            return refuse("The given OAuth 2 access token is malformed.");
        }
        let book = self.book();
        let known = book.access.get(token).and_then(|access| Some((access, book.grants.get(&access.grant)?)));
        let of_team = known.is_some_and(|(_, grant)| grant.team);
        let fits = route.takes("user") || (of_team && route.takes("team"));
        if !fits {
            return match route.takes("app") {
                true => refuse("This API function takes app authentication only."),
                false => refuse(
                    "This API function operates on a team, but the OAuth 2 access token you provided is for an individual \
                     Dropbox account.",
                ),
            };
        }
        let Some((access, grant)) = known else { return Err(tagged("invalid_access_token")) };
        if access.expires_at.is_some_and(|at| at <= self.clock.now()) {
            return Err(tagged("expired_access_token"));
        }
        if !of_team && headers.contains_key("dropbox-api-select-user") {
            return Err(tagged("invalid_select_user"));
        }
        if !of_team && headers.contains_key("dropbox-api-select-admin") {
            return Err(tagged("invalid_select_admin"));
        }
        match &route.scope {
            Some(scope) if !access.scopes.contains(scope) => {
                Err(Refusal::Auth(json!({ ".tag": "missing_scope", "required_scope": scope })))
            }
            _ => {
                let (account, app, token) = (grant.account.clone(), grant.app.clone(), token.to_owned());
                Ok(if of_team { Who::Team { account, app, token } } else { Who::User { account, app, token } })
            }
        }
    }

    /// The app of `base64(key:secret)`, if both are right.
    fn app_of(&self, pair: &str) -> Option<String> {
        let (key, secret) = decode_pair(pair)?;
        let right = self.book().apps.get(&key).is_some_and(|app| app.secret == secret);
        right.then_some(key)
    }
}

fn decode_pair(pair: &str) -> Option<(String, String)> {
    let bytes = BASE64_STANDARD.decode(pair.trim()).ok()?;
    let (key, secret) = std::str::from_utf8(&bytes).ok()?.split_once(':')?;
    Some((key.to_owned(), secret.to_owned()))
}

fn refuse<T>(text: &str) -> Result<T, Refusal> {
    Err(Refusal::BadRequest(text.to_owned()))
}

fn tagged(tag: &str) -> Refusal {
    Refusal::Auth(json!({ ".tag": tag }))
}

impl Book {
    fn new(seed: u64) -> Book {
        let scopes = Schema::get().routes().filter(|route| route.takes("user")).filter_map(|route| route.scope.clone());
        let app = App {
            secret: DEFAULT_APP_SECRET.to_owned(),
            redirect_uris: BTreeSet::new(),
            scopes: scopes.filter(|scope| !scope.starts_with("private:")).collect(),
            team_scopes: team_scopes(),
        };
        Book {
            // Apart from the ids of the tree, which start from the same number.
            dice: StdRng::seed_from_u64(seed ^ 0x6f61_7574_6832),
            apps: HashMap::from([(DEFAULT_APP_KEY.to_owned(), app)]),
            grants: BTreeMap::new(),
            next_grant: 1,
            refresh: HashMap::new(),
            access: HashMap::new(),
            codes: HashMap::new(),
            consent: Consent::Ask,
            for_team: None,
            signed_in: None,
            default_login: None,
        }
    }

    fn text(&mut self, length: usize) -> String {
        (0..length).map(|_| char::from(self.dice.sample(Alphanumeric))).collect()
    }

    fn grant(
        &mut self,
        app: &str,
        account: &str,
        scopes: BTreeSet<String>,
        access_type: AccessType,
        pkce: bool,
    ) -> u64 {
        if self.grants.len() >= BOOK_MAX {
            let oldest = *self.grants.keys().next().expect("it is full");
            self.end(oldest);
        }
        let id = self.next_grant;
        self.next_grant += 1;
        let refresh_token = (access_type == AccessType::Offline).then(|| self.text(64));
        if let Some(token) = &refresh_token {
            self.refresh.insert(token.clone(), id);
        }
        self.grants.insert(
            id,
            Grant { app: app.to_owned(), account: account.to_owned(), scopes, pkce, refresh_token, team: false },
        );
        id
    }

    fn access_token(&mut self, grant: u64, scopes: BTreeSet<String>, expires_at: Option<SystemTime>) -> String {
        if self.access.len() >= BOOK_MAX {
            let oldest = self.access.iter().min_by_key(|(_, access)| access.expires_at).map(|(token, _)| token.clone());
            self.access.remove(&oldest.expect("it is full"));
        }
        // As long as real ones are: nobody may reckon with 255 bytes.
        let token = format!("sl.u.{}", self.text(1_300));
        self.access.insert(token.clone(), Access { grant, scopes, expires_at });
        token
    }

    fn end(&mut self, grant: u64) {
        if let Some(token) = self.grants.remove(&grant).and_then(|grant| grant.refresh_token) {
            self.refresh.remove(&token);
        }
        self.access.retain(|_, access| access.grant != grant);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::ManualClock;

    fn authority() -> (Authority, ManualClock) {
        let clock = ManualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        (Authority::new(Arc::new(clock.clone()), 1, "dbid:AAH".to_owned()), clock)
    }

    fn ask(authority: &Authority, route: &str, credential: Option<&str>) -> Result<Who, Refusal> {
        let mut headers = HeaderMap::new();
        if let Some(credential) = credential {
            headers.insert(AUTHORIZATION, credential.parse().expect("a header"));
        }
        authority.who(Schema::get().route(route).expect("a route"), &headers)
    }

    fn bearer(authority: &Authority, route: &str, token: &str) -> Result<Who, Refusal> {
        ask(authority, route, Some(&format!("Bearer {token}")))
    }

    #[tokio::test]
    async fn an_access_token_expires_by_the_clock() {
        let (authority, clock) = authority();
        let login = authority.default_login();
        assert!(bearer(&authority, "files/upload", &login.access_token).is_ok());
        clock.advance(TOKEN_LIFE).await;
        assert_eq!(bearer(&authority, "files/upload", &login.access_token), Err(tagged("expired_access_token")));
    }

    #[test]
    fn only_tokens_made_here_are_known() {
        let (authority, _) = authority();
        let strange = bearer(&authority, "files/upload", "sl.u.AFsomebodyelse");
        assert_eq!(strange, Err(tagged("invalid_access_token")));
        assert!(matches!(ask(&authority, "files/upload", None), Err(Refusal::BadRequest(_))));
        assert!(matches!(bearer(&authority, "files/upload", "a b"), Err(Refusal::BadRequest(_))));
        let (key, secret) = (DEFAULT_APP_KEY, DEFAULT_APP_SECRET);
        let basic = |pair: String| format!("Basic {}", BASE64_STANDARD.encode(pair));
        let right = ask(&authority, "check/app", Some(&basic(format!("{key}:{secret}"))));
        assert_eq!(right, Ok(Who::App { app: key.to_owned() }));
        assert!(ask(&authority, "check/app", Some(&basic(format!("{key}:wrong")))).is_err());
        assert!(ask(&authority, "files/upload", Some(&basic(format!("{key}:{secret}")))).is_err());
        assert_eq!(ask(&authority, "files/list_folder/longpoll", None), Ok(Who::Nobody));
    }

    #[test]
    fn a_narrow_token_names_the_scope_it_lacks() {
        let (authority, _) = authority();
        let scopes = ["files.metadata.read".to_owned()];
        let login = authority.issue("dbid:AAH", Some(&scopes)).expect("a scope of the app");
        assert!(bearer(&authority, "files/list_folder", &login.access_token).is_ok());
        let lacks = json!({".tag": "missing_scope", "required_scope": "files.content.write"});
        assert_eq!(Schema::get().check_common_error(401, &lacks), Ok(()));
        assert_eq!(bearer(&authority, "files/upload", &login.access_token), Err(Refusal::Auth(lacks)));
        assert!(authority.issue("dbid:AAH", Some(&["nothing".to_owned()])).is_err());
    }

    #[test]
    fn revoking_one_access_token_ends_its_siblings_and_no_other_grant() {
        let (authority, _) = authority();
        let (first, second) = (authority.default_login(), authority.issue("dbid:AAH", None).expect("all scopes"));
        authority.revoke_access(&first.access_token);
        assert_eq!(bearer(&authority, "files/upload", &first.access_token), Err(tagged("invalid_access_token")));
        assert!(bearer(&authority, "files/upload", &second.access_token).is_ok());
        assert_eq!(authority.revoke(Some(&first.refresh_token)), 0);
        authority.reset();
        assert_eq!(authority.default_login(), first);
        assert!(bearer(&authority, "files/upload", &first.access_token).is_ok());
    }
}
