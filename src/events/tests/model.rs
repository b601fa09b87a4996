//! The model test: one process, one thread, a clock that stands, a real SQLite file, and the emulator's tree called directly.
//! Random stories of writers, of polls in pages of any size and order, of cursors that are forgotten, of calls that fail, of
//! logs that are swept, of watchers that come back with an old token, and of a hub that is killed before, inside and after
//! transactions. Whoever applies what is told ends with exactly what is there; what is told with an index is, step by step,
//! what can have happened. A seed always gives the same story, and one that fails is cut down to what it needs.

use std::{
    cell::Cell,
    panic::AssertUnwindSafe,
    sync::{Arc, Once, atomic::Ordering},
    time::{Duration, SystemTime},
};

use futures::FutureExt as _;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::{
    acts::{self, Act, Cut, Deed},
    listener::{Listener, Met},
    oracle::Oracle,
};
use crate::{
    clock::ManualClock,
    events::{
        Scope,
        feed::Feed,
        poller::{Poller, Step},
    },
    limits::EVENT_LOG_AGE,
    seal::KeyRing,
    store::{ParameterId, Store, kill},
};

struct Story {
    oracle: Arc<Oracle>,
    store: Store,
    clock: ManualClock,
    scope: Scope,
    feed: Arc<Feed>,
    poller: Poller,
    listeners: Vec<Listener>,
    met: Met,
    /// So long was nothing done that the store may have forgotten the folder.
    aged: bool,
    trace: bool,
}

impl Story {
    /// `name` tells it from others on the same store.
    async fn begin(seed: u64, name: &str, store: &Store, clock: &ManualClock, trace: bool) -> Story {
        let oracle = Arc::new(Oracle::new(seed));
        let scope = Scope {
            parameter: ParameterId::new("docs").unwrap(),
            uid: name.into(),
            account: "dbid:A".into(),
            linked: "dbid:A".into(),
            act_as: None,
            root: None,
            path: "/W".into(),
            recursive: true,
            raw: false,
        };
        let (feed, poller) = open(&scope, store, &oracle).await;
        let some = usize::try_from(seed % 4).unwrap();
        let listeners = vec![
            Listener::whole(trace),
            Listener::of_everything_one_by_one(trace),
            Listener::of_some(some, trace),
            Listener::seldom_at_rest(trace),
        ];
        Story {
            oracle,
            store: store.clone(),
            clock: clock.clone(),
            scope,
            feed,
            poller,
            listeners,
            met: Met::default(),
            aged: false,
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
            eprintln!("step {stepped:?}, the log is at {:?}", self.feed.state().head);
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
            Ok(Step::Lost) => {
                assert!(std::mem::take(&mut self.aged), "nobody else polls");
                self.restart().await;
                false
            }
            Err(fault) if fault.message() == "killed" => {
                self.restart().await;
                false
            }
            Err(fault) => {
                self.met.passes(&fault);
                false
            }
        }
    }

    /// One of those who listen hears some of what there is; true when there is no more for now.
    async fn hear(&mut self, who: usize, most: usize, dies_at: Option<usize>) -> bool {
        let Story { listeners, feed, met, .. } = self;
        listeners[who].hear(feed, most, dies_at, met).await
    }

    async fn take(&mut self, act: &Act) {
        if self.trace {
            eprintln!("{act:?}");
        }
        match act {
            Act::Do(deed) => self.oracle.act(deed),
            Act::News => self.poller.news = true,
            Act::Step { killed } => {
                kill::after(*killed);
                self.step().await;
                kill::after(None);
            }
            Act::Hear { who, most, dies_at } => _ = self.hear(*who, *most, *dies_at).await,
            Act::Leave { who } => self.listeners[*who].fall(),
            Act::Restart => self.restart().await,
            Act::Reset => self.oracle.dropbox.control().reset_cursors(),
            Act::Sweep => {
                self.clock.advance(EVENT_LOG_AGE + Duration::from_secs(1)).await;
                self.aged = true;
                self.store.sweep_events().await.unwrap();
            }
            Act::Fail(after) => self.oracle.fails_after.store(*after, Ordering::Relaxed),
            Act::Cut(cut) => cut.make(&self.oracle.dropbox.control()),
            Act::Quiet => self.quiet().await,
        }
    }

    /// Nobody writes for a while: everything is told, and is what there is.
    async fn quiet(&mut self) {
        // What comes while a drain goes on is told by the next one: nothing is new twice in a row.
        let mut nothing_new = 0;
        for turn in 0.. {
            assert!(turn < 1000, "it does not come to rest");
            let before = self.feed.state().head;
            self.poller.news = true;
            for step in 0.. {
                assert!(step < 10_000, "the poller does not come to rest");
                if self.step().await {
                    break;
                }
            }
            let mut all = true;
            for who in 0..self.listeners.len() {
                all &= self.hear(who, 1000, None).await && self.listeners[who].is_caught_up();
            }
            nothing_new = if all && self.feed.state().head == before { nothing_new + 1 } else { 0 };
            if nothing_new == 2 {
                break;
            }
        }
        let truth = self.oracle.nodes();
        self.listeners.iter().for_each(|listener| listener.is_right(&truth));
    }
}

async fn open(scope: &Scope, store: &Store, oracle: &Arc<Oracle>) -> (Arc<Feed>, Poller) {
    let feed = Feed::alone(scope, store, oracle.clone());
    let mut poller = Poller::open(feed.clone()).await.unwrap();
    assert!(poller.lease().await.unwrap());
    (feed, poller)
}

/// What all stories share.
struct Stage {
    store: Store,
    clock: ManualClock,
    told: Cell<usize>,
    _folder: tempfile::TempDir,
}

impl Stage {
    async fn build() -> Stage {
        let folder = tempfile::tempdir().unwrap();
        let clock = ManualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        let url = format!("sqlite://{}?mode=rwc", folder.path().join("store.db").display());
        let store = Store::open(&url, Arc::new(KeyRing::ephemeral()), Arc::new(clock.clone())).await.unwrap();
        Stage { store, clock, told: Cell::new(0), _folder: folder }
    }

    /// Takes all steps, and then looks. None: it failed.
    async fn tell(&self, seed: u64, acts: &[Act], trace: bool) -> Option<Met> {
        self.told.set(self.told.get() + 1);
        let name = format!("story-{}", self.told.get());
        let mut story = Story::begin(seed, &name, &self.store, &self.clock, trace).await;
        let told = AssertUnwindSafe(async {
            for act in acts {
                story.take(act).await;
            }
            story.quiet().await;
        });
        let told = told.catch_unwind().await;
        kill::after(None);
        told.ok().map(|()| story.met)
    }

    /// Says what is the least of it that fails, and how.
    async fn explain(&self, seed: u64, acts: Vec<Act>) -> ! {
        let all = acts.len();
        quietly(true);
        let acts = acts::shrunk(acts, async |acts| self.tell(seed, acts, false).await.is_none()).await;
        quietly(false);
        eprintln!("story {seed} needs {} of its {all} steps to fail:", acts.len());
        for act in &acts {
            eprintln!("    {act:?}");
        }
        self.tell(seed, &acts, true).await;
        panic!("story {seed} fails; STORY={seed} tells that one alone");
    }
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// While a story is cut down its panics, hundreds of them, say nothing new.
fn quietly(quiet: bool) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                before(info);
            }
        }));
    });
    QUIET.set(quiet);
}

/// `STORY=17` tells that one alone and shows what is heard; `PROPTEST_CASES` is how many there are.
#[tokio::test]
async fn whoever_watches_ends_with_what_is_there_whatever_breaks() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let begun = std::time::Instant::now();
    let (stage, alone) = (Stage::build().await, number("STORY"));
    let seeds = alone.map_or(0..number("PROPTEST_CASES").unwrap_or(60), |seed| seed..seed + 1);
    let mut met = Met::default();
    for seed in seeds {
        let acts = acts::story(seed);
        let Some(new) = stage.tell(seed, &acts, alone.is_some()).await else { stage.explain(seed, acts).await };
        met.add(new);
    }
    eprintln!("{met:?} in {:?}", begun.elapsed());
    assert!(alone.is_some() || met.all().iter().all(|count| *count > 0), "{met:?}");
}

#[tokio::test]
async fn a_story_that_fails_is_cut_down_to_what_it_needs() {
    let needs = |acts: &[Act]| {
        let at = acts.iter().position(|act| matches!(act, Act::Quiet));
        at.is_some_and(|at| acts[at..].iter().filter(|act| matches!(act, Act::News)).count() > 1)
    };
    let acts = (0..).map(acts::story).find(|acts| needs(acts)).unwrap();
    assert!(acts.len() > 20);
    let least = acts::shrunk(acts, async |acts| needs(acts)).await;
    assert!(matches!(least[..], [Act::Quiet, Act::News, Act::News]), "{least:?}");
}

/// Changes follow one another without a pause, those who listen hear of them meanwhile, and the process ends now and then.
#[tokio::test]
async fn an_index_stands_soon_while_somebody_writes_before_every_step() {
    let stage = Stage::build().await;
    for seed in 0..40 {
        let mut dice = StdRng::seed_from_u64(seed);
        let name = format!("busy-{seed}");
        let mut story = Story::begin(seed, &name, &stage.store, &stage.clock, false).await;
        story.take(&Act::Cut(Cut::new(&mut dice))).await;
        // Pages that hold more than is written meanwhile: of less nobody could keep up with it.
        let page = dice.random_range(8..30);
        story.oracle.dropbox.control().switch(|switches| switches.delta_page = Some(page));
        for _ in 0..dice.random_range(0..40) {
            story.oracle.act(&Deed::new(&mut dice));
        }
        let mut steps = 0;
        while !story.feed.is_built() {
            steps += 1;
            assert!(steps < 500, "story {seed}: it does not come to stand");
            story.oracle.act(&Deed::new(&mut dice));
            if dice.random_bool(0.05) {
                story.restart().await;
            }
            if dice.random_bool(0.3) {
                story.feed.bell.notify_one();
            }
            story.step().await;
            if story.poller.is_at_rest() {
                let who = dice.random_range(0..story.listeners.len());
                story.hear(who, 5, None).await;
            }
        }
        let guessed = story.met.inferred;
        story.quiet().await;
        story.oracle.act(&Deed::Put { path: "/W/last".into(), content: 1, strict: true });
        let known = story.met.indexed;
        story.quiet().await;
        assert!(story.met.indexed > known, "story {seed}: {guessed} were guessed");
    }
}

#[tokio::test]
async fn a_cursor_of_the_log_that_is_forgotten_sends_nobody_else_back_to_a_snapshot() {
    let stage = Stage::build().await;
    let mut story = Story::begin(1, "story", &stage.store, &stage.clock, false).await;
    story.quiet().await;
    story.oracle.dropbox.control().reset_cursors();
    let who = story.listeners.len();
    story.listeners.push(Listener::whole(false));
    // Nobody polls yet: the log does not know of it.
    story.hear(who, 1000, None).await;
    assert_eq!(story.met.snapshots, 0, "its own cursor was made afterwards");
    story.quiet().await;
}

#[tokio::test]
async fn a_watcher_that_asks_for_its_place_and_a_feed_that_publishes_do_not_wait_for_each_other() {
    let stage = Stage::build().await;
    let mut story = Story::begin(1, "story", &stage.store, &stage.clock, false).await;
    story.quiet().await;
    let (watcher, feed) = (story.listeners[0].take().unwrap(), story.feed.clone());
    let (done, waits) = std::sync::mpsc::channel();
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_over = over.clone();
    // Not joined: one that waits for ever would keep the test from failing.
    std::thread::spawn(move || {
        while !is_over.load(Ordering::Relaxed) {
            feed.set_listening(true);
        }
    });
    std::thread::spawn(move || {
        for _ in 0..200_000 {
            watcher.point();
        }
        let _ = done.send(());
    });
    waits.recv_timeout(Duration::from_secs(30)).expect("neither waits for the other");
    over.store(true, Ordering::Relaxed);
}
