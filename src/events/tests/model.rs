//! The model test: one process, one thread, a clock that stands, a real SQLite file, and a Dropbox of our own. Random stories
//! of writers, of polls in pages of any size and order, of cursors that are forgotten, of logs that are swept, of watchers
//! that come back with an old token, and of a hub that is killed before, inside and after transactions. Whoever applies what
//! is told ends with exactly what is there; what is told with an index is, step by step, what can have happened. A seed
//! always gives the same story.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use futures::{FutureExt as _, future::BoxFuture};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::{
    listener::{Listener, Met},
    truth::{Truth, entry},
};
use crate::{
    clock::ManualClock,
    credentials::Ending,
    events::{
        News, Page, Scope, Upstream,
        feed::Feed,
        poller::{Poller, Step},
    },
    fault::{Fault, Reason, Result},
    limits::EVENT_LOG_AGE,
    seal::KeyRing,
    store::{ParameterId, Store, kill},
};

struct Oracle(Mutex<World>);

struct World {
    truth: Truth,
    dice: StdRng,
    /// Cursors from before this are forgotten.
    reset_before: u64,
}

impl fmt::Debug for Oracle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Oracle")
    }
}

impl World {
    /// `l <sequence> <path>`: in a listing, behind that path. `d <sequence>`: what changed since.
    fn page(&mut self, cursor: &str) -> Result<Page> {
        let mut words = cursor.splitn(3, ' ');
        let (kind, sequence) = (words.next().unwrap(), words.next().unwrap().parse::<u64>().unwrap());
        if sequence < self.reset_before {
            return Err(Fault::new(Reason::CursorReset, "the cursor is forgotten"));
        }
        let limit = self.dice.random_range(1..8);
        if kind == "d" {
            let (entries, next, has_more) = self.truth.delta(sequence, limit, &mut self.dice);
            return Ok(Page { entries, cursor: format!("d {next}").into(), has_more });
        }
        let after = words.next().unwrap_or_default().to_owned();
        let mut entries = Vec::new();
        if after.is_empty() {
            entries.push(entry("/ root"));
        }
        let behind: Vec<String> = self.truth.nodes.keys().filter(|path| **path > after).cloned().collect();
        entries.extend(behind.iter().take(limit).map(|path| self.truth.show(path)));
        let has_more = behind.len() > limit;
        let cursor = if has_more { format!("l {sequence} {}", behind[limit - 1]) } else { format!("d {sequence}") };
        Ok(Page { entries, cursor: cursor.into(), has_more })
    }
}

impl Oracle {
    fn world(&self) -> std::sync::MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }
}

impl Upstream for Oracle {
    fn list<'a>(&'a self, _: &'a Scope, _: u32) -> BoxFuture<'a, Result<Page>> {
        let mut world = self.world();
        let cursor = format!("l {} ", world.truth.sequence);
        let page = world.page(&cursor);
        async move { page }.boxed()
    }

    fn go_on<'a>(&'a self, _: &'a Scope, cursor: &'a str) -> BoxFuture<'a, Result<Page>> {
        let page = self.world().page(cursor);
        async move { page }.boxed()
    }

    fn latest<'a>(&'a self, _: &'a Scope) -> BoxFuture<'a, Result<Arc<str>>> {
        let cursor = format!("d {}", self.world().truth.sequence);
        async move { Ok(cursor.into()) }.boxed()
    }

    fn longpoll<'a>(&'a self, _: &'a Scope, _: &'a str, _: Duration) -> BoxFuture<'a, Result<News>> {
        unreachable!("the test says when there is news")
    }

    fn is_new<'a>(&'a self, _: &'a Scope, _: &'a str) -> BoxFuture<'a, Result<bool>> {
        let new = self.world().dice.random();
        async move { Ok(new) }.boxed()
    }

    fn ending<'a>(&'a self, _: &'a Scope) -> BoxFuture<'a, Result<Option<Ending>>> {
        async move { Ok(None) }.boxed()
    }
}

struct Story {
    seed: u64,
    dice: StdRng,
    oracle: Arc<Oracle>,
    store: Store,
    clock: ManualClock,
    scope: Scope,
    feed: Arc<Feed>,
    poller: Poller,
    listeners: Vec<Listener>,
    met: Met,
    trace: bool,
}

impl Story {
    async fn begin(seed: u64, store: &Store, clock: &ManualClock) -> Story {
        let mut dice = StdRng::seed_from_u64(seed);
        let mut truth = Truth::default();
        for _ in 0..dice.random_range(0..20) {
            truth.act(&mut dice);
        }
        let world = World { truth, dice: StdRng::seed_from_u64(seed + 1), reset_before: 0 };
        let oracle = Arc::new(Oracle(Mutex::new(world)));
        let scope = Scope {
            parameter: ParameterId::new("docs").unwrap(),
            uid: format!("uid-{seed}").into(),
            account: "dbid:A".into(),
            linked: "dbid:A".into(),
            act_as: None,
            root: None,
            path: "/W".into(),
            recursive: true,
            raw: false,
        };
        let (feed, poller) = open(&scope, store, &oracle).await;
        let trace = std::env::var("STORY").is_ok_and(|wanted| wanted == seed.to_string());
        let listeners = vec![
            Listener::whole(trace),
            Listener::of_everything_one_by_one(trace),
            Listener::of_some(dice.random_range(0..4), trace),
        ];
        Story {
            seed,
            dice,
            oracle,
            store: store.clone(),
            clock: clock.clone(),
            scope,
            feed,
            poller,
            listeners,
            met: Met::default(),
            trace,
        }
    }

    /// The hub is gone, and comes back.
    async fn restart(&mut self) {
        kill::after(None);
        self.met.kills += 1;
        self.listeners.iter_mut().for_each(Listener::fall);
        (self.feed, self.poller) = open(&self.scope, &self.store, &self.oracle).await;
    }

    async fn step(&mut self) -> bool {
        let stepped = self.poller.step().await;
        if self.trace {
            eprintln!("step {stepped:?} to {:?}, Dropbox is at {}", self.poller, self.oracle.world().truth.sequence);
        }
        match stepped {
            Ok(Step::Idle) => {
                self.feed.set_hot(self.poller.looked_at);
                true
            }
            Ok(Step::Worked) => {
                if self.poller.is_at_rest() {
                    self.feed.set_hot(self.poller.looked_at);
                }
                false
            }
            Ok(Step::Lost) => panic!("nobody else polls"),
            Err(fault) if fault.message() == "killed" => {
                self.restart().await;
                false
            }
            Err(fault) => panic!("{fault:?}"),
        }
    }

    /// One of those who listen hears some of what there is; true when there is no more for now.
    async fn hear(&mut self, who: usize, most: usize) -> bool {
        let Story { listeners, feed, met, dice, .. } = self;
        listeners[who].hear(feed, most, dice, met).await
    }

    async fn go_on(&mut self) {
        match self.dice.random_range(0..100) {
            0..=29 => self.oracle.world().truth.act(&mut self.dice),
            30..=39 => self.poller.news = true,
            40..=69 => {
                if self.dice.random_bool(0.2) {
                    kill::after(Some(self.dice.random_range(0..6)));
                }
                self.step().await;
                kill::after(None);
            }
            70..=91 => {
                let (who, most) = (self.dice.random_range(0..self.listeners.len()), self.dice.random_range(1..20));
                self.hear(who, most).await;
            }
            92..=94 => {
                let who = self.dice.random_range(0..self.listeners.len());
                self.listeners[who].fall();
            }
            95 => self.restart().await,
            96 => {
                let mut world = self.oracle.world();
                world.truth.sequence += 1;
                world.reset_before = world.truth.sequence;
            }
            97 => {
                self.clock.advance(EVENT_LOG_AGE + Duration::from_secs(1)).await;
                self.store.sweep_events().await.unwrap();
            }
            _ => self.quiet().await,
        }
    }

    /// Nobody writes for a while: everything is told, and is what there is.
    async fn quiet(&mut self) {
        for turn in 0.. {
            assert!(turn < 1000, "seed {}: it does not come to rest", self.seed);
            self.poller.news = true;
            for step in 0.. {
                assert!(step < 10_000, "seed {}: the poller does not come to rest", self.seed);
                if self.step().await {
                    break;
                }
            }
            let mut all = true;
            for who in 0..self.listeners.len() {
                all &= self.hear(who, 1000).await && self.listeners[who].is_caught_up();
            }
            if all {
                break;
            }
        }
        let world = self.oracle.world();
        for listener in &self.listeners {
            listener.is_right(&world.truth, self.seed);
        }
    }
}

async fn open(scope: &Scope, store: &Store, oracle: &Arc<Oracle>) -> (Arc<Feed>, Poller) {
    let feed = Feed::alone(scope, store, oracle.clone());
    let mut poller = Poller::open(feed.clone()).await.unwrap();
    assert!(poller.lease().await.unwrap());
    (feed, poller)
}

async fn run(seeds: std::ops::Range<u64>) -> Met {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
    let url = format!("sqlite://{}?mode=rwc", folder.path().join("store.db").display());
    let store = Store::open(&url, Arc::new(KeyRing::ephemeral()), Arc::new(clock.clone())).await.unwrap();
    let mut met = Met::default();
    for seed in seeds {
        let mut story = Story::begin(seed, &store, &clock).await;
        let told = std::panic::AssertUnwindSafe(async {
            for _ in 0..story.dice.random_range(20..120) {
                story.go_on().await;
            }
            story.quiet().await;
        });
        if let Err(why) = told.catch_unwind().await {
            eprintln!("seed {seed} fails: run it alone with STORY={seed}");
            std::panic::resume_unwind(why);
        }
        met.add(story.met);
    }
    met
}

/// `STORY=17` runs that one alone and shows what is heard; `PROPTEST_CASES` is how many there are.
#[tokio::test]
async fn whoever_watches_ends_with_what_is_there_whatever_breaks() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let begun = std::time::Instant::now();
    let met = match number("STORY") {
        Some(seed) => run(seed..seed + 1).await,
        None => run(0..number("PROPTEST_CASES").unwrap_or(60)).await,
    };
    eprintln!("{met:?} in {:?}", begun.elapsed());
    if number("STORY").is_none() {
        let rare = met.all();
        assert!(rare.iter().all(|count| *count > 0), "{met:?}");
    }
}
