//! A Dropbox to try out and to test against: real HTTP on ports of its own, one listener for each class of host, strict as Dropbox is.
//! It names no other room and none of the SDK's types (only the clock), so agreement with it proves something.
//!
//! A request goes `serve` → `schema` (argument) → `oauth` (who) → `script` (failures on demand) → a `Handler` of a topic
//! → `schema` (answer) → `serve`. Handlers are synchronous and see checked JSON.

mod content;
pub mod control;
mod copies;
mod delta;
#[cfg(test)]
pub(crate) mod direct;
mod download;
mod feed;
mod files;
mod jobs;
mod listing;
pub mod oauth;
mod paths;
mod relocate;
mod revisions;
pub mod schema;
pub mod script;
mod search;
mod serve;
mod sessions;
mod sharing;
mod state;
mod team;
mod tree;
mod upload;
mod users;
mod webhooks;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use crate::clock::{ManualClock, SharedClock, SystemClock};

use self::{content::Content, schema::RouteSpec, tree::Tree};
pub use self::{delta::DeltaOrder, serve::loss::Loss, webhooks::Hook};

/// How an emulator is started. `Options::default()` listens on free ports of 127.0.0.1, empty, in memory, by the system's clock.
#[derive(Debug, Clone)]
pub struct Options {
    pub listen: IpAddr,
    /// Where the content host listens, if elsewhere: two hosts may then have the same port, as Dropbox's have.
    pub content_listen: Option<IpAddr>,
    /// What every host but the control port speaks TLS with.
    pub tls: Option<TlsFiles>,
    pub ports: Ports,
    /// Its files are shown as the default account's, served from where they lie and never written to.
    pub seed_folder: Option<PathBuf>,
    /// Contents and tree are kept here over restarts. `None`: all is lost at the end.
    pub state_dir: Option<PathBuf>,
    /// Without `state_dir`: contents go to files of a temporary folder instead of memory.
    pub contents_on_disk: bool,
    /// Policy time: token expiry, session life, times in metadata.
    pub clock: SharedClock,
    /// A clock that `control` may move; it goes before `clock`.
    pub manual_clock: Option<ManualClock>,
    /// Fixes ids, dots and tokens of a run.
    pub rng_seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
            content_listen: None,
            tls: None,
            ports: Ports::default(),
            seed_folder: None,
            state_dir: None,
            contents_on_disk: false,
            clock: Arc::new(SystemClock),
            manual_clock: None,
            rng_seed: 1,
        }
    }
}

/// Certificate chain and key, both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// One port for each class of host; 0 takes a free one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ports {
    pub api: u16,
    pub content: u16,
    pub notify: u16,
    pub www: u16,
    pub control: u16,
}

/// Base URLs (`http://127.0.0.1:4100`, no trailing slash) of a running emulator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    pub api: String,
    pub content: String,
    pub notify: String,
    /// `oauth2/authorize`. The token endpoint is on `api`, as at Dropbox.
    pub www: String,
    pub control: String,
}

/// The classes of host Dropbox has. A route asked of the wrong one is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Host {
    Api,
    Content,
    Notify,
    Www,
    Control,
}

/// Why an emulator could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("cannot speak TLS with {path}: {text}", path = path.display())]
    Tls { path: PathBuf, text: String },
    #[error("cannot use {path}", path = path.display())]
    Folder { path: PathBuf, source: std::io::Error },
    #[error("the kept state in {path} is not readable: {text}", path = path.display())]
    State { path: PathBuf, text: String },
}

/// A running emulator. Dropping it stops it at once; [`Emulator::stop`] also writes the tree where one is kept.
pub struct Emulator {
    world: Arc<World>,
    listeners: Option<serve::Listeners>,
}

impl fmt::Debug for Emulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Emulator").field("addresses", self.addresses()).finish_non_exhaustive()
    }
}

impl Emulator {
    /// Opens the ports and answers from then on.
    ///
    /// # Errors
    /// A port in use, a folder that cannot be read, kept state that is damaged.
    pub async fn start(options: Options) -> Result<Emulator, Error> {
        let bound = serve::Bound::open(&options).await?;
        let world = Arc::new(World::new(&options)?);
        state::load(&world, &options).await?;
        world.addresses.set(bound.addresses()).expect("set once, here");
        let mut listeners = bound.serve(world.clone());
        listeners.spawn(state::save_on_change(world.clone()));
        listeners.spawn(webhooks::notify_on_change(world.clone()));
        Ok(Emulator { world, listeners: Some(listeners) })
    }

    pub fn addresses(&self) -> &Addresses {
        self.world.addresses()
    }

    /// What a client needs to be the default account: app key and secret, refresh token, a valid access token.
    pub fn account(&self) -> oauth::Login {
        self.world.authority.default_login()
    }

    /// The same powers the control port has, without HTTP.
    pub fn control(&self) -> control::Control {
        control::Control::new(self.world.clone())
    }

    /// Closes the ports, cuts what is still running, and writes the tree where one is kept.
    ///
    /// # Errors
    /// The tree could not be written.
    pub async fn stop(mut self) -> Result<(), Error> {
        if let Some(listeners) = self.listeners.take() {
            listeners.stop().await;
        }
        state::save(&self.world).await
    }
}

/// Everything an emulator knows. Locks are short and never held over an await.
pub(in crate::emulator) struct World {
    pub clock: SharedClock,
    pub manual_clock: Option<ManualClock>,
    pub schema: &'static schema::Schema,
    pub tree: Mutex<Tree>,
    pub sessions: sessions::Sessions,
    pub jobs: jobs::Jobs,
    /// Apps, grants, tokens, scopes.
    pub authority: oauth::Authority,
    pub links: sharing::Links,
    /// Failures on demand.
    pub script: script::Script,
    /// Counters and journal.
    pub ledger: control::Ledger,
    pub switches: Mutex<Switches>,
    pub contents: content::Store,
    pub commits: serve::commits::Commits,
    pub temporary: download::TemporaryLinks,
    pub copies: copies::References,
    pub packed: state::Packed,
    pub drains: delta::Drains,
    pub listings: serve::listings::Listings,
    pub webhooks: webhooks::Webhooks,
    pub dice: Mutex<StdRng>,
    addresses: OnceLock<Addresses>,
    state_dir: Option<PathBuf>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").finish_non_exhaustive()
    }
}

impl World {
    fn new(options: &Options) -> Result<World, Error> {
        let clock: SharedClock = match &options.manual_clock {
            Some(clock) => Arc::new(clock.clone()),
            None => options.clock.clone(),
        };
        let tree = Tree::new(clock.clone(), options.rng_seed);
        Ok(World {
            manual_clock: options.manual_clock.clone(),
            schema: schema::Schema::get(),
            sessions: sessions::Sessions::default(),
            jobs: jobs::Jobs::default(),
            authority: oauth::Authority::new(clock.clone(), options.rng_seed, tree.default_account().id.clone()),
            links: sharing::Links::default(),
            script: script::Script::default(),
            ledger: control::Ledger::default(),
            switches: Mutex::default(),
            contents: content::Store::open(options)?,
            commits: serve::commits::Commits::default(),
            temporary: download::TemporaryLinks::default(),
            copies: copies::References::default(),
            packed: state::Packed::default(),
            drains: delta::Drains::default(),
            listings: serve::listings::Listings::default(),
            webhooks: webhooks::Webhooks::default(),
            dice: Mutex::new(StdRng::seed_from_u64(options.rng_seed)),
            addresses: OnceLock::new(),
            state_dir: options.state_dir.clone(),
            tree: Mutex::new(tree),
            clock,
        })
    }

    pub fn tree(&self) -> MutexGuard<'_, Tree> {
        hold(&self.tree)
    }

    pub fn switches(&self) -> Switches {
        hold(&self.switches).clone()
    }

    pub fn addresses(&self) -> &Addresses {
        self.addresses.get().expect("set before the first request is taken")
    }

    /// `length` characters of `A-Za-z0-9` that no one else gets.
    pub fn random_text(&self, length: usize) -> String {
        let mut dice = hold(&self.dice);
        (0..length).map(|_| char::from(dice.sample(rand::distr::Alphanumeric))).collect()
    }

    /// The run of 0 to 3 dots after every error summary.
    pub fn dots(&self) -> &'static str {
        ["", ".", "..", "..."][hold(&self.dice).random_range(0..4)]
    }

    /// As if just started: tree, sessions, links, jobs, grants, script and switches are new; contents are let go.
    pub fn reset(&self) {
        self.tree().clear();
        self.sessions.clear();
        self.jobs.clear();
        self.links.clear();
        self.temporary.clear();
        self.copies.clear();
        self.authority.reset();
        self.script.clear();
        self.webhooks.clear();
        self.ledger.clear();
        *hold(&self.switches) = Switches::default();
    }
}

/// A lock that outlives a panic of another test's handler.
pub(in crate::emulator) fn hold<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request that has passed every check before its handler.
pub(in crate::emulator) struct Call<'a> {
    pub route: &'static RouteSpec,
    /// Checked against the published type; defaults filled in.
    pub arg: Value,
    pub who: Who,
    /// The namespace that `/` means (Path-Root header, or the account's home).
    pub root: tree::NamespaceId,
    pub headers: &'a http::HeaderMap,
    /// Upload style only.
    pub body: Option<content::Received>,
    /// What the script wants done to entries of a batch.
    pub entries: &'a [(u64, EntryPlan)],
}

impl Call<'_> {
    /// The failure that the script wants of an entry of a batch.
    pub fn refused_entry(&self, index: usize) -> Option<Value> {
        let failure = |(at, plan): &(u64, EntryPlan)| match plan {
            EntryPlan::Refuse(failure) if *at == index as u64 => Some(failure.clone()),
            _ => None,
        };
        self.entries.iter().find_map(failure)
    }

    /// An entry of a batch as the script wants it told.
    pub fn told_entry(&self, index: usize, mut entry: Value) -> Value {
        for (at, plan) in self.entries {
            if let (EntryPlan::Alter(Value::Object(fields)), true, true) =
                (plan, *at == index as u64, entry[".tag"] == "success")
            {
                fields.iter().for_each(|(name, value)| entry[name] = value.clone());
            }
        }
        entry
    }

    /// The account of a route that only users may call.
    pub fn account(&self) -> &str {
        match &self.who {
            Who::User { account, .. } => account,
            _ => "",
        }
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// `token` is the access token itself (for `auth/token/revoke`).
    User {
        account: String,
        app: String,
        token: String,
    },
    /// A team's token that no member was chosen with; `account` is the member who linked the team.
    Team {
        account: String,
        app: String,
        token: String,
    },
    App {
        app: String,
    },
    Nobody,
}

/// What carries out a route. `Err` is any answer but success.
pub(in crate::emulator) type Handler = fn(&World, Call<'_>) -> Result<Reply, Refusal>;

/// The handler of a route (`files/upload_session/append_v2`), if this emulator has it.
fn handler(path: &str) -> Option<Handler> {
    let topics: [fn(&str) -> Option<Handler>; 12] = [
        upload::handler,
        sessions::handler,
        files::handler,
        relocate::handler,
        copies::handler,
        listing::handler,
        download::handler,
        search::handler,
        revisions::handler,
        sharing::handler,
        users::handler,
        team::handler,
    ];
    topics.iter().find_map(|topic| topic(path))
}

#[derive(Debug)]
pub(in crate::emulator) enum Reply {
    Json(Value),
    /// `content` cut by the request's Range; `etag` is the rev.
    Download {
        result: Value,
        content: Content,
        etag: Option<String>,
    },
}

/// Any answer but success.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::emulator) enum Refusal {
    /// 409; `error_summary` is made from the tags.
    Endpoint { error: Value, user_message: Option<String> },
    /// 400 text: what comes after `Error in call to API function "files/upload": `.
    BadRequest(String),
    /// 401
    Auth(Value),
    /// 404 text
    NoSuchRoute(String),
    /// 405 text
    WrongMethod,
    /// 410 text
    Gone(String),
    /// 422
    PathRoot(Value),
    /// 429 `too_many_requests`: the same listing is being made for the same user.
    TooManyRequests,
    /// 429 `too_many_write_operations`, with `Retry-After: 1` and no `retry_after` in the body, as recorded.
    TooManyWrites,
    /// Anything, byte for byte.
    Canned(Canned),
}

impl Refusal {
    pub fn endpoint(error: Value) -> Self {
        Refusal::Endpoint { error, user_message: None }
    }

    /// The path of tags of a union nested at every step: `nested(&["path", "conflict", "file"])`.
    pub fn nested(tags: &[&str]) -> Self {
        Refusal::endpoint(nested(tags))
    }
}

/// `["a", "b"]` → `{".tag":"a","a":{".tag":"b"}}`.
pub(in crate::emulator) fn nested(tags: &[&str]) -> Value {
    match tags {
        [] => Value::Null,
        [last] => json!({ ".tag": last }),
        [first, rest @ ..] => json!({ ".tag": first, *first: nested(rest) }),
    }
}

/// An answer given as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canned {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// What the script wants done to one call. The default is nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// Before anything else.
    pub delay: Option<Duration>,
    /// Answer this; the call is not executed. The request's body is read first.
    pub instead: Option<Canned>,
    /// As `instead`, but the request's body is left unread and the connection closed.
    pub instead_unread: Option<Canned>,
    /// Execute, then answer this.
    pub after: Option<Canned>,
    pub cut: Option<Cut>,
    /// Wait this long between executing and answering.
    pub delay_answer: Option<Duration>,
    /// Of the answer's body: close the connection after so many bytes.
    pub cut_body_at: Option<u64>,
    /// Of the answer's body: flip this byte.
    pub corrupt_at: Option<u64>,
    /// Of the answer's body: send no more after so many bytes, connection open.
    pub stall_body_at: Option<u64>,
    /// Of both bodies.
    pub bytes_per_second: Option<u64>,
    /// Of a batch: what becomes of single entries.
    pub entries: Vec<(u64, EntryPlan)>,
}

/// What the script wants done to one entry of a batch.
#[derive(Debug, Clone, PartialEq)]
pub enum EntryPlan {
    /// It is not executed and fails with this.
    Refuse(serde_json::Value),
    /// Its success is told with these fields.
    Alter(serde_json::Value),
}

/// Where a connection is closed without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// After so many bytes of the request's body; nothing is executed.
    Request { after_bytes: u64 },
    /// The request is read, nothing is executed.
    BeforeApplying,
    /// Executed, but nobody hears of it.
    AfterApplying,
    /// The request is read and never answered; nothing is executed.
    NeverAnswer,
}

/// Choices where Dropbox varies or nobody knows.
#[derive(Debug, Clone, PartialEq)]
pub struct Switches {
    /// A commit takes this long, and another on the same namespace meanwhile is refused. `None`: never refused.
    pub contention: Option<Contention>,
    /// A block sent again into a concurrent session (API-FACTS 21).
    pub resent_block: ResentBlock,
    /// `finish` on a session that is committed already (API-FACTS 21).
    pub second_finish: SecondFinish,
    /// May `close=true` be appended before the other pieces of a concurrent session have come (API-FACTS 21).
    pub early_close_allowed: bool,
    /// Batches and the like answer `async_job_id`, and `in_progress` this often. `None`: `complete` at once where Dropbox may.
    pub jobs_in_progress: Option<u32>,
    /// Entries on a page of `list_folder` without `limit`.
    pub list_page: usize,
    /// Entries on a page of any listing, whatever was asked for. `None`: as asked.
    pub listing_page: Option<usize>,
    /// Entries on a page of changes, whatever was asked for. `None`: as asked.
    pub delta_page: Option<usize>,
    pub delta_order: DeltaOrder,
    /// Longest random wait added to a longpoll; Dropbox has 90 s.
    pub longpoll_jitter: Duration,
    /// `backoff` in longpoll answers, seconds.
    pub longpoll_backoff: Option<u64>,
    /// Between a change and the webhook call that tells it; Dropbox gathers for some seconds.
    pub webhook_delay: Duration,
    /// Space of each account in bytes; more is `insufficient_space`.
    pub space: u64,
    /// Every cursor made before now is `reset`.
    pub cursors_reset_before: u64,
    /// From the end of a request to its answer, at least; what a commit takes and a script delays is within it.
    pub answer_takes: Duration,
    /// Of every connection that is made from now on, each way.
    pub connection_bytes_per_second: Option<u64>,
    /// Of every connection that is made from now on.
    pub loss: Option<Loss>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contention {
    pub commit_takes: Duration,
    /// 409 `too_many_write_operations` inside the route's error where it has one, else 429.
    pub as_409: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ResentBlock {
    #[default]
    Accepted,
    IncorrectOffset,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SecondFinish {
    #[default]
    NotFound,
    Closed,
    /// The metadata of the first commit again.
    SameAnswer,
}

impl Default for Switches {
    fn default() -> Self {
        Self {
            contention: None,
            resent_block: ResentBlock::default(),
            second_finish: SecondFinish::default(),
            early_close_allowed: true,
            jobs_in_progress: None,
            list_page: 500,
            listing_page: None,
            delta_page: None,
            delta_order: DeltaOrder::AsHappened,
            longpoll_jitter: Duration::ZERO,
            longpoll_backoff: None,
            webhook_delay: Duration::ZERO,
            space: 2 << 40,
            cursors_reset_before: 0,
            answer_takes: Duration::ZERO,
            connection_bytes_per_second: None,
            loss: None,
        }
    }
}
