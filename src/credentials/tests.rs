//! The gate and the bearer against a small Dropbox of its own: a token endpoint and `users/get_current_account`.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Router,
    extract::State as Shared,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use serde_json::json;
use tokio::sync::Semaphore;
use url::Url;

use super::*;
use crate::{
    clock::{Clock as _, ManualClock},
    dropbox::{Endpoints, routes},
    seal::KeyRing,
    secret::Secret,
    store::{ActAsMode, Linked, Member, Policy, SecretChange, Settings},
};

struct Dropbox {
    refreshes: AtomicU32,
    accounts: AtomicU32,
    /// Each token request takes one.
    gate: Semaphore,
    state: Mutex<Wishes>,
}

struct Wishes {
    refresh_tokens: HashSet<String>,
    secret: String,
    bearers: HashSet<String>,
    root: String,
    /// The answer of `users/get_current_account` instead of an account.
    refusal: Option<(StatusCode, serde_json::Value)>,
}

async fn token(Shared(dropbox): Shared<Arc<Dropbox>>, body: String) -> (StatusCode, String) {
    let number = dropbox.refreshes.fetch_add(1, Ordering::SeqCst) + 1;
    dropbox.gate.acquire().await.expect("the gate stays open").forget();
    let form: std::collections::HashMap<String, String> =
        url::form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    let mut wishes = dropbox.state.lock().unwrap();
    let error = |name: &str| (StatusCode::BAD_REQUEST, json!({ "error": name, "error_description": "no" }).to_string());
    if form["client_id"] != "key1" || form.get("client_secret") != Some(&wishes.secret) {
        return error("invalid_client");
    }
    if form["grant_type"] != "refresh_token" || !wishes.refresh_tokens.contains(&form["refresh_token"]) {
        return error("invalid_grant");
    }
    let bearer = format!("sl.{number}");
    wishes.bearers.insert(bearer.clone());
    (StatusCode::OK, json!({ "access_token": bearer, "token_type": "bearer", "expires_in": 14_400 }).to_string())
}

async fn current_account(Shared(dropbox): Shared<Arc<Dropbox>>, headers: HeaderMap) -> (StatusCode, HeaderMap, String) {
    dropbox.accounts.fetch_add(1, Ordering::SeqCst);
    let wishes = dropbox.state.lock().unwrap();
    let json_type = [("content-type".parse().unwrap(), "application/json".parse().unwrap())].into_iter().collect();
    let bearer = headers["authorization"].to_str().unwrap().trim_start_matches("Bearer ").to_owned();
    if !wishes.bearers.contains(&bearer) {
        let body = json!({ "error_summary": "invalid_access_token/", "error": { ".tag": "invalid_access_token" } });
        return (StatusCode::UNAUTHORIZED, json_type, body.to_string());
    }
    if let Some((status, body)) = &wishes.refusal {
        return (*status, json_type, body.to_string());
    }
    let name = json!({ "given_name": "A", "surname": "B", "familiar_name": "A", "display_name": "Ann", "abbreviated_name": "AB" });
    let body = json!({
        "account_id": format!("dbid:{}", "A".repeat(35)), "name": name, "email": "ann@example.com", "email_verified": true,
        "disabled": false, "locale": "en", "referral_link": "https://db.tt/x", "is_paired": false,
        "account_type": { ".tag": "basic" },
        "root_info": { ".tag": "user", "root_namespace_id": wishes.root, "home_namespace_id": "5" },
    });
    (StatusCode::OK, json_type, body.to_string())
}

struct House {
    dropbox: Arc<Dropbox>,
    transport: Arc<Transport>,
    store: Store,
    resolver: Arc<Resolver>,
    clock: ManualClock,
    folder: tempfile::TempDir,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for House {
    fn drop(&mut self) {
        self.server.abort();
    }
}

const PERMITS: usize = 1000;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn id() -> ParameterId {
    ParameterId::new("docs").unwrap()
}

fn secret(text: &str) -> Secret<String> {
    Secret::new(text.to_owned())
}

async fn open_store(folder: &tempfile::TempDir, clock: &ManualClock) -> Store {
    let keys = KeyRing::from_file_or_new(&folder.path().join("keys")).unwrap();
    let url = format!("sqlite://{}?mode=rwc", folder.path().join("store.db").display());
    Store::open(&url, Arc::new(keys), Arc::new(clock.clone())).await.unwrap()
}

async fn house_of(settings: Settings) -> House {
    let dropbox = Arc::new(Dropbox {
        refreshes: AtomicU32::new(0),
        accounts: AtomicU32::new(0),
        gate: Semaphore::new(PERMITS),
        state: Mutex::new(Wishes {
            refresh_tokens: ["good".to_owned()].into(),
            secret: "app-secret".into(),
            bearers: HashSet::new(),
            root: "7".into(),
            refusal: None,
        }),
    });
    let app = Router::new()
        .route("/oauth2/token", post(token))
        .route("/2/users/get_current_account", post(current_account))
        .with_state(dropbox.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let endpoints = Endpoints { api: base.clone(), content: base.clone(), notify: base.clone(), oauth: base };
    let (clock, folder) = (ManualClock::new(now()), tempfile::tempdir().unwrap());
    let transport = Transport::new(endpoints, true, Arc::new(clock.clone())).unwrap();
    let store = open_store(&folder, &clock).await;
    store.create_parameters(&id(), settings, Some(secret("app-secret"))).await.unwrap();
    let resolver = Resolver::new(store.clone(), transport.clone(), Arc::new(clock.clone()), OAuth::default());
    House { dropbox, transport, store, resolver, clock, folder, server }
}

/// Linked by a refresh token that has given no bearer yet; HOME, so that no call asks for a root.
async fn linked_house() -> House {
    let house = house_of(settings(PathRoot::Home)).await;
    house.link("good").await;
    house
}

fn settings(default_path_root: PathRoot) -> Settings {
    let policy = Policy { allowed_principals: vec!["billing".into()], ..Policy::default() }.into();
    Settings { app_key: "key1".into(), default_path_root, policy, ..Settings::default() }
}

fn ask(principal: &str) -> Ask {
    Ask {
        principal: Principal::named(principal, principal == "admin"),
        permissions: Permission::Read.into(),
        act_as: None,
        root: None,
        deadline: None,
    }
}

impl House {
    async fn link(&self, token: &str) {
        self.link_to(token, None).await;
        self.resolver.forget(&id());
    }

    /// As another process would: nobody here is told.
    async fn link_to(&self, token: &str, account: Option<&str>) {
        let seen = self.store.parameters(&id()).await.unwrap().unwrap();
        let account = account.map(|id| store::Account { account_id: id.into(), ..Default::default() });
        let linked = Linked { grant: Grant::Refreshable(secret(token)), granted_scopes: vec![], account, bearer: None };
        self.store.set_grant(&seen, linked).await.unwrap();
    }

    async fn set(&self, edit: impl FnOnce(&mut Settings) + Send) {
        let edit = |settings: &mut Settings| {
            edit(settings);
            Ok(())
        };
        self.store.update_parameters(&id(), None, SecretChange::Keep, edit).await.unwrap();
        self.resolver.forget(&id());
    }

    async fn open(&self, ask: Ask) -> Result<Opened> {
        self.resolver.open(&id(), ask).await
    }

    async fn call(&self) -> Result<()> {
        self.open(ask("billing")).await?.caller.call(&routes::GET_CURRENT_ACCOUNT, &()).await.map(drop)
    }

    /// As a second process on the same file.
    async fn second(&self) -> (Store, Arc<Resolver>) {
        let store = open_store(&self.folder, &self.clock).await;
        let resolver =
            Resolver::new(store.clone(), self.transport.clone(), Arc::new(self.clock.clone()), OAuth::default());
        (store, resolver)
    }

    fn refreshes(&self) -> u32 {
        self.dropbox.refreshes.load(Ordering::SeqCst)
    }

    fn wish(&self, change: impl FnOnce(&mut Wishes)) {
        change(&mut self.dropbox.state.lock().unwrap());
    }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let bounded = tokio::time::timeout(Duration::from_secs(10), async {
        while !holds().await {
            tokio::task::yield_now().await;
        }
    });
    assert!(bounded.await.is_ok(), "it never came to this: {what}");
}

#[tokio::test]
async fn a_hundred_calls_share_one_refresh() {
    let house = Arc::new(linked_house().await);
    house.dropbox.gate.forget_permits(PERMITS);
    let calls: Vec<_> = (0..100)
        .map(|_| {
            let house = house.clone();
            tokio::spawn(async move { house.call().await })
        })
        .collect();
    until("a refresh has begun", async || house.refreshes() == 1).await;
    house.dropbox.gate.add_permits(PERMITS);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(house.refreshes(), 1);
    assert_eq!(house.dropbox.accounts.load(Ordering::SeqCst), 100);
}

#[tokio::test]
async fn a_bearer_is_renewed_ahead_of_its_end_while_calls_go_on() {
    let house = linked_house().await;
    house.call().await.unwrap();
    house.clock.advance(Duration::from_secs(14_400 - 299)).await;
    house.dropbox.gate.forget_permits(PERMITS);
    house.call().await.unwrap();
    house.call().await.unwrap();
    until("the renewal has begun", async || house.refreshes() == 2).await;
    house.dropbox.gate.add_permits(PERMITS);
    let Parameters { uid, grant_number, .. } = house.store.parameters(&id()).await.unwrap().unwrap();
    until("the new bearer is shared", async || {
        house.store.renewal(&uid, grant_number).await.unwrap().unwrap().bearer.reveal() == "sl.2"
    })
    .await;
    house.clock.advance(Duration::from_secs(1000)).await;
    house.call().await.unwrap();
    assert_eq!(house.refreshes(), 2);
}

#[tokio::test]
async fn a_bearer_about_to_end_is_not_used() {
    let house = linked_house().await;
    house.call().await.unwrap();
    house.clock.advance(Duration::from_secs(14_400 - 29)).await;
    house.wish(|wishes| wishes.bearers.clear());
    let calls = house.dropbox.accounts.load(Ordering::SeqCst);
    house.call().await.unwrap();
    assert_eq!((house.refreshes(), house.dropbox.accounts.load(Ordering::SeqCst)), (2, calls + 1));
}

#[tokio::test]
async fn a_rejected_bearer_is_renewed_once_and_the_call_repeated() {
    let house = linked_house().await;
    house.call().await.unwrap();
    house.wish(|wishes| wishes.bearers.clear());
    house.call().await.unwrap();
    assert_eq!(house.refreshes(), 2);
}

#[tokio::test]
async fn a_lost_grant_is_remembered_by_every_process_and_dropbox_asked_once() {
    let house = linked_house().await;
    let (_, second) = house.second().await;
    house.wish(|wishes| wishes.refresh_tokens.clear());
    for _ in 0..3 {
        let fault = house.call().await.unwrap_err();
        assert_eq!((fault.reason(), fault.get("cause")), (Reason::ReauthorizationRequired, Some("invalid_grant")));
        assert_eq!(fault.retry_delay(), None);
    }
    assert_eq!(second.open(&id(), ask("billing")).await.unwrap_err().reason(), Reason::ReauthorizationRequired);
    assert_eq!(house.refreshes(), 1);
    house.wish(|wishes| wishes.refresh_tokens.extend(["new".to_owned()]));
    house.resolver.import(&id(), Credential::RefreshToken(secret("new"))).await.unwrap();
    house.call().await.unwrap();
}

#[tokio::test]
async fn what_was_opened_for_one_account_never_gets_the_bearer_of_another() {
    let house = linked_house().await;
    house.link_to("good", Some("dbid:A")).await;
    house.resolver.forget(&id());
    let opened = house.open(ask("billing")).await.unwrap();
    opened.caller.call(&routes::GET_CURRENT_ACCOUNT, &()).await.unwrap();
    // Another process connects B, and gets a bearer for it. Nobody here was told.
    let (other, second) = house.second().await;
    house.wish(|wishes| wishes.refresh_tokens.extend(["other".to_owned()]));
    house.link_to("other", Some("dbid:B")).await;
    second.open(&id(), ask("billing")).await.unwrap().caller.call(&routes::GET_CURRENT_ACCOUNT, &()).await.unwrap();
    let now = other.parameters(&id()).await.unwrap().unwrap();
    let of_b = other.renewal(&now.uid, now.grant_number).await.unwrap().expect("a bearer").bearer;
    // A's bearer ends: what was opened for A is told, and asks for nothing in the name of either.
    house.wish(|wishes| wishes.bearers.retain(|bearer| bearer == of_b.reveal()));
    let (refreshes, accounts) = (house.refreshes(), house.dropbox.accounts.load(Ordering::SeqCst));
    let fault = opened.caller.call(&routes::GET_CURRENT_ACCOUNT, &()).await.unwrap_err();
    assert_eq!(fault.reason(), Reason::AccountMismatch, "{fault:?}");
    assert_eq!(house.refreshes(), refreshes, "no renewal");
    assert_eq!(house.dropbox.accounts.load(Ordering::SeqCst), accounts + 1, "the refused call was not repeated");
    // Of the same account it goes on by its own token, and leaves the fleet's bearer alone.
    house.link_to("good", Some("dbid:A")).await;
    let shared = other.parameters(&id()).await.unwrap().unwrap();
    opened.caller.call(&routes::GET_CURRENT_ACCOUNT, &()).await.unwrap();
    assert!(other.renewal(&shared.uid, shared.grant_number).await.unwrap().is_none());
}

#[tokio::test]
async fn a_parameter_that_another_version_wrote_is_unavailable_and_the_changes_of_others_go_on() {
    let house = linked_house().await;
    let other_id = ParameterId::new("other").unwrap();
    house.store.create_parameters(&other_id, settings(PathRoot::Home), Some(secret("app-secret"))).await.unwrap();
    let running = house.open(ask("billing")).await.unwrap().ending;
    let resolver = house.resolver.clone();
    let feed = tokio::spawn(async move { resolver.follow_changes().await });
    until("the feed has begun", async || house.resolver.forgotten.load(Ordering::SeqCst) > 1).await;
    house.open(ask("billing")).await.unwrap();
    // By a newer process, in one batch with a change of the other one.
    let url = format!("sqlite://{}", house.folder.path().join("store.db").display());
    let mut newer = <sqlx::SqliteConnection as sqlx::Connection>::connect(&url).await.unwrap();
    let sql = "BEGIN IMMEDIATE;
        UPDATE application_parameters SET settings = '{\"account_kind\":\"HOUSEHOLD\"}' WHERE id = 'docs';
        INSERT INTO parameter_changes (parameter_id, uid, changed_at) SELECT id, uid, 0 FROM application_parameters;
        COMMIT";
    sqlx::Executor::execute(&mut newer, sql).await.unwrap();
    until("it holds here", async || {
        house.open(ask("billing")).await.is_err_and(|fault| fault.reason() == Reason::StoreUnavailable)
    })
    .await;
    let fault = house.open(ask("billing")).await.unwrap_err();
    assert!(fault.message().contains("another version") && fault.retry_delay().is_some(), "{fault:?}");
    let told = tokio::time::timeout(Duration::from_secs(10), running.ended()).await.expect("what ran has ended");
    assert!(store::is_unreadable(&told), "{told:?}");
    let rename = |settings: &mut Settings| {
        settings.policy.allowed_principals = vec!["somebody".into()];
        Ok(())
    };
    house.resolver.open(&other_id, ask("billing")).await.unwrap_err();
    house.store.update_parameters(&other_id, None, SecretChange::Keep, rename).await.unwrap();
    until("the other's changes are seen", async || {
        let entry = house.resolver.entry(&other_id).await.unwrap().unwrap();
        entry.parameters.settings.policy.allowed_principals == ["somebody"]
    })
    .await;
    feed.abort();
}

#[tokio::test]
async fn what_is_under_way_keeps_its_places_when_its_parameter_is_read_again() {
    let house = linked_house().await;
    house.set(|settings| settings.policy.max_concurrency = 1).await;
    let places = async || house.resolver.entry(&id()).await.unwrap().unwrap().in_flight().expect("a limit");
    let mut under_way = vec![house.open(ask("billing")).await.unwrap()];
    let before = places().await;
    for name in ["one", "other"] {
        house.set(|settings| settings.display_name = name.into()).await;
        under_way.push(house.open(ask("billing")).await.unwrap());
        assert!(Arc::ptr_eq(&before, &places().await), "{name}: twice as many would be in flight");
    }
    house.set(|settings| settings.policy.max_concurrency = 2).await;
    assert!(!Arc::ptr_eq(&before, &places().await), "another limit is another");
}

#[tokio::test]
async fn a_wrong_app_secret_does_not_condemn_the_grant() {
    let house = linked_house().await;
    house.wish(|wishes| wishes.secret = "rotated".into());
    let fault = house.call().await.unwrap_err();
    assert_eq!((fault.reason(), fault.get("cause")), (Reason::ReauthorizationRequired, Some("invalid_client")));
    assert_eq!(house.store.parameters(&id()).await.unwrap().unwrap().state(), State::Active);
    house.wish(|wishes| wishes.secret = "app-secret".into());
    house.call().await.unwrap();
}

#[tokio::test]
async fn another_process_takes_the_bearer_from_the_store() {
    let house = linked_house().await;
    let (_, second) = house.second().await;
    let other = second.open(&id(), ask("billing")).await.unwrap();
    house.call().await.unwrap();
    other.caller.call(&routes::GET_CURRENT_ACCOUNT, &()).await.unwrap();
    assert_eq!(house.refreshes(), 1);
    house.clock.advance(Duration::from_secs(14_400)).await;
    house.call().await.unwrap();
    other.caller.call(&routes::GET_CURRENT_ACCOUNT, &()).await.unwrap();
    assert_eq!(house.refreshes(), 2);
}

#[tokio::test]
async fn without_the_store_a_bearer_is_renewed_and_kept_in_memory() {
    let house = linked_house().await;
    let opened = house.open(ask("billing")).await.unwrap();
    house.store.close().await;
    for _ in 0..2 {
        opened.caller.call(&routes::GET_CURRENT_ACCOUNT, &()).await.unwrap();
    }
    assert_eq!(house.refreshes(), 1);
    house.resolver.forget(&id());
    assert_eq!(house.open(ask("billing")).await.unwrap_err().reason(), Reason::StoreUnavailable);
}

#[tokio::test]
async fn an_id_that_is_not_there_looks_like_one_that_is_forbidden() {
    let house = linked_house().await;
    let missing = ParameterId::new("nope").unwrap();
    let shown = |fault: Fault| {
        (fault.reason(), fault.message().replace("nope", "docs"), fault.facts().clone(), fault.about().cloned())
    };
    for permissions in [Permission::Read.into(), Permission::Write | Permission::Raw, Permission::Raw.into()] {
        let ask = Ask { permissions, ..ask("stranger") };
        let forbidden = shown(house.open(ask.clone()).await.unwrap_err());
        assert_eq!(forbidden.0, Reason::CallerNotAllowed);
        assert_eq!(shown(house.resolver.open(&missing, ask).await.unwrap_err()), forbidden);
    }
    let told = house.resolver.open(&missing, ask("admin")).await.unwrap_err();
    assert_eq!(told.reason(), Reason::ApplicationParameterNotFound);
    assert_eq!(house.open(ask("admin")).await.unwrap_err().reason(), Reason::CallerNotAllowed);
}

#[tokio::test]
async fn the_policy_decides_what_a_principal_may_do() {
    let house = linked_house().await;
    let needs = |permissions| Ask { permissions, ..ask("billing") };
    assert!(house.open(needs(Permission::Write | Permission::Share)).await.is_ok());
    assert_eq!(house.open(needs(Permission::Raw.into())).await.unwrap_err().reason(), Reason::RawApiDisabled);
    house.set(|settings| settings.policy.permissions = vec![Permission::Read, Permission::Raw]).await;
    assert!(house.open(needs(Permission::Read | Permission::Raw)).await.is_ok());
    let fault = house.open(needs(Permission::Read | Permission::Delete)).await.unwrap_err();
    assert_eq!((fault.reason(), fault.get("permission")), (Reason::CallerNotAllowed, Some("DELETE")));
    assert!(fault.remedy().contains("DELETE in permissions"), "{}", fault.remedy());
    let stranger = house.open(Ask { permissions: Permission::Delete.into(), ..ask("stranger") }).await.unwrap_err();
    assert_eq!(stranger.remedy(), fault.remedy(), "it is not told what is there");
}

#[tokio::test]
async fn only_an_active_parameter_opens() {
    let house = house_of(settings(PathRoot::Home)).await;
    let pending = house.open(ask("billing")).await.unwrap_err();
    assert_eq!((pending.reason(), pending.get("cause")), (Reason::ReauthorizationRequired, Some("not_yet_authorized")));
    house.link("good").await;
    assert!(house.open(ask("billing")).await.is_ok());
    house.set(|settings| settings.disabled = true).await;
    assert_eq!(house.open(ask("billing")).await.unwrap_err().reason(), Reason::ParameterDisabled);
    assert_eq!(house.open(ask("stranger")).await.unwrap_err().reason(), Reason::CallerNotAllowed);
}

#[tokio::test]
async fn act_as_and_path_root_narrow_and_never_widen() {
    let house = linked_house().await;
    let user = |member: &str| Some(ActAs::User(member.into()));
    let as_member = |member: &str| Ask { act_as: user(member), ..ask("billing") };
    let rooted = || Ask { root: Some(Root::Namespace("9".into())), ..ask("billing") };
    let reason = |result: Result<Opened>| result.unwrap_err().reason();
    assert_eq!(reason(house.open(as_member("dbmid:1")).await), Reason::ActAsNotAllowed);
    assert_eq!(reason(house.open(rooted()).await), Reason::PathRootNotAllowed);

    house
        .set(|settings| {
            settings.policy.act_as = ActAsMode::Listed;
            settings.policy.act_as_members = vec!["dbmid:1".into()];
            settings.policy.allow_path_root = true;
        })
        .await;
    assert_eq!(reason(house.open(as_member("dbmid:2")).await), Reason::ActAsNotAllowed);
    assert_eq!(reason(house.open(as_member("dbmid:1")).await), Reason::TeamLinkRequired);
    assert_eq!(house.open(rooted()).await.unwrap().root, Some(Root::Namespace("9".into())));
    assert_eq!(house.open(ask("billing")).await.unwrap().root, Some(Root::Home));

    house
        .set(|settings| {
            settings.account_kind = AccountKind::Team;
            settings.default_act_as = Some(Member::SelectAdmin("dbmid:9".into()));
            settings.path_prefix = "/jail".into();
        })
        .await;
    house.link("good").await;
    assert_eq!(house.open(as_member("dbmid:1")).await.unwrap().act_as, user("dbmid:1"));
    let default = Some(ActAs::Admin("dbmid:9".into()));
    assert_eq!(house.open(ask("billing")).await.unwrap().act_as, default);
    assert_eq!(house.open(Ask { act_as: default.clone(), ..ask("billing") }).await.unwrap().act_as, default);
    assert_eq!(reason(house.open(rooted()).await), Reason::OutsideJail);
    house.set(|settings| settings.policy.act_as = ActAsMode::Any).await;
    assert_eq!(reason(house.open(as_member("ann@example")).await), Reason::ActAsInvalid);
}

#[tokio::test]
async fn the_root_is_asked_once_and_again_when_it_changed() {
    let house = house_of(settings(PathRoot::Auto)).await;
    house.link("good").await;
    let root = async || {
        let opened = house.open(ask("billing")).await.unwrap();
        assert!(opened.auto_root);
        opened.root.unwrap()
    };
    let all = futures::future::join_all((0..20).map(|_| root())).await;
    assert!(all.iter().all(|one| *one == Root::Root("7".into())));
    assert_eq!(house.dropbox.accounts.load(Ordering::SeqCst), 1);
    house.wish(|wishes| wishes.root = "8".into());
    assert_eq!(root().await, Root::Root("7".into()));
    house.resolver.forget_root(&id());
    assert_eq!(root().await, Root::Root("8".into()));
    assert_eq!(house.dropbox.accounts.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn an_import_is_stored_only_when_dropbox_accepts_it() {
    let house = house_of(settings(PathRoot::Home)).await;
    let import = async |credential| house.resolver.import(&id(), credential).await;
    let access = |token: &str, expires_at| Credential::AccessToken { token: secret(token), expires_at };
    let field = |fault: Fault| (fault.reason(), fault.violations()[0].field.clone());
    let rejected = |name: &str| (Reason::CredentialsRejected, name.to_owned());
    assert_eq!(
        field(import(Credential::RefreshToken(secret("BAD-clear"))).await.unwrap_err()),
        rejected("refresh_token")
    );
    let fault = import(access("sl.BAD-clear", None)).await.unwrap_err();
    assert!(!format!("{fault:?}").contains("BAD-clear"), "{fault:?}");
    assert_eq!(field(fault), rejected("access_token"));
    assert_eq!(field(import(access("x", Some(now()))).await.unwrap_err()), rejected("access_token"));
    assert_eq!(house.store.parameters(&id()).await.unwrap().unwrap().state(), State::Pending);

    let stored = import(Credential::RefreshToken(secret("good"))).await.unwrap();
    assert_eq!((stored.state(), stored.account.unwrap().email.as_str()), (State::Active, "ann@example.com"));
    let refreshes = house.refreshes();
    house.call().await.unwrap();
    assert_eq!(house.refreshes(), refreshes, "the bearer of the proof is used");

    house.wish(|wishes| wishes.bearers.extend(["sl.legacy".to_owned()]));
    import(access("sl.legacy", None)).await.unwrap();
    house.clock.advance(Duration::from_secs(365 * 24 * 3600)).await;
    house.call().await.unwrap();
    let missing = ParameterId::new("nope").unwrap();
    let fault = house.resolver.import(&missing, access("sl.legacy", None)).await.unwrap_err();
    assert_eq!(fault.reason(), Reason::ApplicationParameterNotFound);
}

#[tokio::test]
async fn an_access_token_ends_when_it_says_and_nothing_renews_it() {
    let house = house_of(settings(PathRoot::Home)).await;
    house.wish(|wishes| wishes.bearers.extend(["sl.short".to_owned()]));
    let expires_at = Some(house.clock.now() + Duration::from_secs(600));
    house.resolver.import(&id(), Credential::AccessToken { token: secret("sl.short"), expires_at }).await.unwrap();
    house.clock.advance(Duration::from_secs(500)).await;
    house.call().await.unwrap();
    house.clock.advance(Duration::from_secs(80)).await;
    let fault = house.call().await.unwrap_err();
    assert_eq!((fault.reason(), fault.get("cause")), (Reason::ReauthorizationRequired, Some("access_token_expired")));
    assert_eq!(house.store.parameters(&id()).await.unwrap().unwrap().state(), State::ReauthorizationRequired);
    assert_eq!(house.refreshes(), 0);
}

#[tokio::test]
async fn a_token_that_may_not_read_the_account_is_good_all_the_same() {
    let house = house_of(settings(PathRoot::Home)).await;
    let error = json!({ ".tag": "missing_scope", "required_scope": "account_info.read" });
    let body = json!({ "error_summary": "missing_scope/", "error": error });
    house.wish(|wishes| wishes.refusal = Some((StatusCode::UNAUTHORIZED, body)));
    let stored = house.resolver.import(&id(), Credential::RefreshToken(secret("good"))).await.unwrap();
    assert_eq!((stored.state(), stored.account), (State::Active, None));
}

#[tokio::test]
async fn a_test_tells_account_time_and_clock() {
    let house = linked_house().await;
    let report = house.resolver.test(&id(), None).await.unwrap();
    assert_eq!(report.account.unwrap().display_name, "Ann");
    let real = crate::clock::SystemClock.now().duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed();
    let skew = report.clock_skew_seconds.unwrap();
    assert!((skew - (1_800_000_000 - real)).abs() <= 60, "{skew}");
    let missing = house.resolver.test(&ParameterId::new("nope").unwrap(), None).await.unwrap_err();
    assert_eq!(missing.reason(), Reason::ApplicationParameterNotFound);
}

#[tokio::test]
async fn a_change_by_another_process_holds_here_soon() {
    let house = linked_house().await;
    let (other, _) = house.second().await;
    let resolver = house.resolver.clone();
    let feed = tokio::spawn(async move { resolver.follow_changes().await });
    until("the feed has begun", async || house.resolver.forgotten.load(Ordering::SeqCst) > 1).await;
    assert!(house.open(ask("billing")).await.is_ok());
    let disable = |settings: &mut Settings| {
        settings.disabled = true;
        Ok(())
    };
    other.update_parameters(&id(), None, SecretChange::Keep, disable).await.unwrap();
    until("it is disabled here too", async || {
        house.open(ask("billing")).await.is_err_and(|fault| fault.reason() == Reason::ParameterDisabled)
    })
    .await;
    other.delete_parameters(&id(), None).await.unwrap();
    until("it is gone here too", async || {
        house.open(ask("admin")).await.is_err_and(|fault| fault.reason() == Reason::ApplicationParameterNotFound)
    })
    .await;
    assert!(house.resolver.silence() < Duration::from_secs(5));
    feed.abort();
}

#[tokio::test]
async fn an_open_parameter_is_opened_again_without_waiting_for_anything() {
    use futures::FutureExt as _;
    let house = linked_house().await;
    house.open(ask("billing")).await.unwrap();
    house.store.close().await;
    let again = house.open(ask("billing")).now_or_never().expect("no query, no lock, no request");
    assert!(again.is_ok());
    let other = house.resolver.open(&ParameterId::new("other").unwrap(), ask("billing")).await;
    assert_eq!(other.unwrap_err().reason(), Reason::StoreUnavailable, "the store is gone indeed");
}

#[tokio::test]
async fn after_five_minutes_without_word_of_changes_calls_fail_until_there_is_word_again() {
    let house = linked_house().await;
    let mut resolver =
        Resolver::new(house.store.clone(), house.transport.clone(), Arc::new(house.clock.clone()), OAuth::default());
    let ask_now = |resolver: Arc<Resolver>| async move { resolver.open(&id(), ask("billing")).await };
    ask_now(resolver.clone()).await.expect("it has just begun");
    let begun = &mut Arc::get_mut(&mut resolver).expect("one holder").begun;
    *begun = begun.checked_sub(CHANGE_FEED_SILENCE_MAX + Duration::from_secs(1)).expect("the machine is up for longer");
    let fault = ask_now(resolver.clone()).await.unwrap_err();
    assert_eq!((fault.reason(), fault.retry_delay()), (Reason::StoreUnavailable, Some(Duration::from_secs(1))));
    let following = resolver.clone();
    let feed = tokio::spawn(async move { following.follow_changes().await });
    until("there is word again", async || ask_now(resolver.clone()).await.is_ok()).await;
    feed.abort();
}

#[tokio::test]
async fn nothing_here_prints_a_secret() {
    let house = linked_house().await;
    let opened = house.open(ask("billing")).await.unwrap();
    let entry = house.resolver.entry(&id()).await.unwrap().unwrap();
    let shown = format!("{:?} {opened:?} {:?} {:?}", house.resolver, entry, opened.parameters);
    let credential = format!("{:?}", Credential::RefreshToken(secret("good-token")));
    assert!(!shown.contains("app-secret") && !credential.contains("good-token"), "{shown}");
}
