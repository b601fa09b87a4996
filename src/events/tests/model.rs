//! The model test: one process, one thread, a clock that stands, a real SQLite file, and the emulator's tree called directly.
//! Random stories of writers, of polls in pages of any size and order, of cursors that are forgotten, of calls that fail, of
//! logs that are swept, of watchers that come back with an old token, of a watched folder that goes and comes back, and of a
//! hub that is killed before, inside and after transactions. Whoever applies what is told ends with exactly what is there; what
//! is told with an index is, step by step, what can have happened. A seed always gives the same story, and one that fails is
//! cut down to what it needs.

use std::{
    cell::Cell,
    collections::BTreeMap,
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
    fault::Fault,
    limits::{EVENT_LOG_AGE, SCOPE_KEPT},
    seal::KeyRing,
    store::{
        ParameterId, Store,
        kill::{self, Place},
    },
};

/// The one of those who listen whose place the store keeps.
const NAMED: usize = 4;

/// Stories that are told again for their places in the store, and processes that end at each place.
const ENDED: u64 = 24;
const ENDS: usize = 1;

/// Whatever the events write to a store that is one process's: how each transaction begins. A fleet parks leases and gives
/// them back, too; there real processes are killed (`tests/it/events/model.rs`).
const TRANSACTIONS: [&str; 21] = [
    "INSERT INTO event_scopes (scope_key",
    "UPDATE event_scopes SET lease =",
    "UPDATE event_scopes SET version =",
    // A portion of what was deleted: with something in it, and without.
    "INSERT INTO index_past (scope",
    "DELETE FROM index_items WHERE scope = $1 AND n IN (SELECT value",
    "INSERT INTO event_checkpoints (uid, name, holder",
    "INSERT INTO event_checkpoints (uid, name, token",
    "DELETE FROM event_checkpoints WHERE uid",
    // Sweeps.
    "UPDATE event_scopes SET swept = $2 WHERE id = $1 AND swept < $2",
    "DELETE FROM event_log WHERE scope = $1 AND sequence IN (SELECT sequence FROM event_log WHERE scope = $1 AND",
    "DELETE FROM event_drains WHERE scope = $1 AND drain <",
    "DELETE FROM index_past WHERE (scope",
    "INSERT INTO event_scopes_past (scope",
    "DELETE FROM index_items WHERE scope = $1 AND n IN (SELECT n",
    "DELETE FROM index_past WHERE scope",
    "DELETE FROM event_log WHERE scope = $1 AND sequence IN (SELECT sequence FROM event_log WHERE scope = $1 LIMIT",
    "DELETE FROM event_drains WHERE scope = $1 AND drain IN",
    "DELETE FROM event_waiting WHERE scope = $1 AND path IN (SELECT path FROM event_waiting",
    "DELETE FROM event_scopes WHERE id",
    "DELETE FROM event_checkpoints WHERE touched_at",
    "DELETE FROM event_scopes_past WHERE swept_at",
];

/// Those of several statements, and the statements behind the first.
const INSIDE: [(&str, &[&str]); 4] = [
    (
        "UPDATE event_scopes SET version =",
        &[
            "DELETE FROM event_log WHERE scope = $1",
            "DELETE FROM event_drains WHERE scope = $1",
            "UPDATE event_scopes SET swept = $2 WHERE id = $1",
            "UPDATE index_items INDEXED BY index_items_by_place SET parent",
            "DELETE FROM index_items WHERE scope = $1 AND n = $2",
            "DELETE FROM event_waiting WHERE scope = $1",
            "DELETE FROM event_waiting WHERE scope = $1 AND path IN (SELECT value",
            "DELETE FROM event_waiting WHERE scope = $1 AND path IN (SELECT x.path FROM json_each($2) AS w CROSS JOIN \
             event_waiting x WHERE",
            "DELETE FROM event_waiting WHERE scope = $1 AND path IN (SELECT x.path FROM json_each($2) AS w CROSS JOIN \
             event_waiting x INDEXED BY event_waiting_by_id",
            // What is there, what was there, what waits, what was not seen.
            "INSERT INTO index_items (scope, n, parent, name, display, id, id_a, id_b, rev, facts, kind, stamp, gone, \
             since) SELECT $1",
            "INSERT INTO index_past (scope, n, parent, name, display, id, id_a, id_b, rev, facts, kind, since, until) \
             SELECT $1",
            "INSERT INTO event_waiting",
            "INSERT INTO index_items (scope, n, parent, name, display, id, id_a, id_b, rev, facts, kind, stamp, gone, \
             since) SELECT i.scope",
            "INSERT INTO event_drains",
            "INSERT INTO event_log",
        ],
    ),
    ("DELETE FROM index_items WHERE scope = $1 AND n IN (SELECT value", &[]),
    ("INSERT INTO index_past (scope", &["UPDATE index_items SET parent", "DELETE FROM index_items WHERE scope"]),
    ("INSERT INTO event_scopes_past (scope", &["UPDATE event_scopes SET scope_key"]),
];

/// How the folder is watched.
#[derive(Debug, Clone, Copy)]
struct View {
    recursive: bool,
    raw: bool,
}

impl View {
    /// With all beneath it, and by what an index knows.
    const WHOLE: View = View { recursive: true, raw: false };

    fn of(seed: u64) -> View {
        match seed / 4 % 8 {
            0 => View { raw: true, ..View::WHOLE },
            1 => View { recursive: false, ..View::WHOLE },
            2 => View { recursive: false, raw: true },
            _ => View::WHOLE,
        }
    }
}

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
    async fn begin(seed: u64, view: View, name: &str, stage: &Stage, trace: bool) -> Story {
        let Stage { store, clock, .. } = stage;
        let oracle = Arc::new(Oracle::new(seed));
        let scope = Scope {
            parameter: ParameterId::new("docs").unwrap(),
            uid: name.into(),
            account: "dbid:A".into(),
            linked: "dbid:A".into(),
            act_as: None,
            root: None,
            path: "/W".into(),
            recursive: view.recursive,
            raw: view.raw,
        };
        let (feed, poller) = open(&scope, store, &oracle).await.expect("nothing ends it yet");
        let some = usize::try_from(seed % 4).unwrap();
        let listeners = vec![
            Listener::whole(trace),
            Listener::of_everything_one_by_one(trace),
            Listener::of_some(some, trace),
            Listener::seldom_at_rest(trace),
            Listener::by_name(trace),
        ];
        kill::begin();
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

    /// The hub is gone, and comes back; it may end while it does.
    async fn restart(&mut self) {
        loop {
            self.listeners.iter_mut().for_each(Listener::fall);
            if let Some(opened) = open(&self.scope, &self.store, &self.oracle).await {
                (self.feed, self.poller) = opened;
                return;
            }
            self.dies();
        }
    }

    fn dies(&mut self) {
        if self.trace {
            eprintln!("it ends {}", kill::over().expect("it ended"));
        }
        kill::revive();
        self.met.kills += 1;
    }

    /// What it was at may have said nothing of it; true: it had ended, and is back.
    async fn ended(&mut self) -> bool {
        let ended = kill::over().is_some();
        if ended {
            self.dies();
            self.restart().await;
        }
        ended
    }

    async fn lose(&mut self) {
        assert!(std::mem::take(&mut self.aged), "nobody else polls");
        self.restart().await;
    }

    async fn step(&mut self) -> bool {
        if self.feed.state().ended.is_some() {
            // Somebody comes back to a folder that was not there.
            match open(&self.scope, &self.store, &self.oracle).await {
                Some(opened) => (self.feed, self.poller) = opened,
                None => _ = self.ended().await,
            }
            return false;
        }
        let stepped = self.poller.step().await;
        if self.trace {
            eprintln!("step {stepped:?}, the log is at {:?}", self.feed.state().head);
        }
        if self.ended().await {
            return false;
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
            Ok(Step::Lost | Step::Gone) => {
                self.lose().await;
                false
            }
            Err(fault) => {
                self.met.passes(&fault);
                if fault.retry_delay().is_none() {
                    assert!(!self.oracle.is_there(), "{fault:?}");
                    self.feed.end(fault);
                }
                false
            }
        }
    }

    /// The driver does so before it works.
    async fn hold(&mut self) {
        if self.feed.state().ended.is_some() {
            return;
        }
        let held = self.poller.lease().await;
        if !self.ended().await && !held.unwrap() {
            self.lose().await;
        }
    }

    /// One of those who listen hears some of what there is; true when there is no more for now.
    async fn hear(&mut self, who: usize, most: usize, dies_at: Option<usize>) -> bool {
        let Story { listeners, feed, met, .. } = self;
        let all = listeners[who].hear(feed, most, dies_at, met).await;
        !self.ended().await && all
    }

    async fn take(&mut self, act: &Act) {
        if self.trace {
            eprintln!("{act:?}");
        }
        match act {
            Act::Do(deed) => self.oracle.act(deed),
            Act::News => {
                self.poller.news = true;
                self.hold().await;
            }
            Act::Step => _ = self.step().await,
            Act::Kill(places) => kill::after(*places),
            Act::Hear { who, most, dies_at } => _ = self.hear(*who, *most, *dies_at).await,
            Act::Leave { who } => self.listeners[*who].fall(),
            Act::Restart => self.restart().await,
            Act::Reset => self.oracle.dropbox.control().reset_cursors(),
            Act::Forget => {
                self.listeners[NAMED].forget(&self.feed).await;
                self.ended().await;
            }
            Act::Sweep { all } => {
                let age = if *all { SCOPE_KEPT } else { EVENT_LOG_AGE };
                self.clock.advance(age + Duration::from_secs(1)).await;
                self.aged = true;
                let swept = self.store.sweep_events().await;
                if !self.ended().await {
                    swept.unwrap();
                }
            }
            Act::Fail(after) => self.oracle.fails_after.store(*after, Ordering::Relaxed),
            Act::Cut(cut) => cut.make(&self.oracle.dropbox.control()),
            Act::Quiet => self.quiet().await,
        }
    }

    /// Nobody writes for a while: everything is told, and is what there is.
    async fn quiet(&mut self) {
        self.oracle.make_folder();
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
        let truth = self.oracle.nodes(self.scope.recursive);
        self.listeners.iter().for_each(|listener| listener.is_right(&truth));
    }
}

/// None: the process ended meanwhile.
async fn open(scope: &Scope, store: &Store, oracle: &Arc<Oracle>) -> Option<(Arc<Feed>, Poller)> {
    let feed = Feed::alone(scope, store, oracle.clone());
    let opening = async {
        let mut poller = Poller::open(feed.clone()).await?;
        assert!(poller.lease().await?);
        Ok::<_, Fault>(poller)
    };
    let opened = opening.await;
    if kill::over().is_some() {
        return None;
    }
    Some((feed, opened.unwrap()))
}

/// Where a story is told. Each has its own: what others left in a store would be swept in it, and with that the places at which
/// a process ends would be others.
struct Stage {
    store: Store,
    clock: ManualClock,
    _folder: tempfile::TempDir,
}

/// What came of a story.
#[derive(Debug, PartialEq)]
struct End {
    /// None: it failed.
    met: Option<Met>,
    /// Places in the store that it came to.
    passed: Vec<Place>,
}

impl Stage {
    async fn build() -> Stage {
        let folder = tempfile::tempdir().unwrap();
        let clock = ManualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        let url = format!("sqlite://{}?mode=rwc", folder.path().join("store.db").display());
        let store = Store::open(&url, Arc::new(KeyRing::ephemeral()), Arc::new(clock.clone())).await.unwrap();
        Stage { store, clock, _folder: folder }
    }
}

/// Takes all steps, and then looks.
async fn tell(seed: u64, acts: &[Act], trace: bool) -> End {
    let stage = Stage::build().await;
    let mut story = Story::begin(seed, View::of(seed), "story", &stage, trace).await;
    let told = AssertUnwindSafe(async {
        for act in acts {
            story.take(act).await;
        }
        story.quiet().await;
    });
    let told = told.catch_unwind().await;
    let passed = kill::passed();
    kill::begin();
    End { met: told.ok().map(|()| story.met), passed }
}

/// Says what is the least of it that fails, and how.
async fn explain(seed: u64, acts: Vec<Act>) -> ! {
    let all = acts.len();
    quietly(true);
    let acts = acts::shrunk(acts, async |acts| tell(seed, acts, false).await.met.is_none()).await;
    quietly(false);
    eprintln!("story {seed} needs {} of its {all} steps to fail:", acts.len());
    for act in &acts {
        eprintln!("    {act:?}");
    }
    tell(seed, &acts, true).await;
    panic!("story {seed} fails; STORY={seed} tells that one alone");
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

/// `STORY=17` tells that one alone and shows what is heard; `PROPTEST_CASES` is how many there are, from `FIRST_STORY` on.
#[tokio::test]
async fn whoever_watches_ends_with_what_is_there_whatever_breaks() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let begun = std::time::Instant::now();
    let alone = number("STORY");
    let first = number("FIRST_STORY").unwrap_or(0);
    let seeds = alone.map_or(first..first + number("PROPTEST_CASES").unwrap_or(60), |seed| seed..seed + 1);
    let mut met = Met::default();
    for seed in seeds {
        let acts = acts::story(seed);
        let Some(new) = tell(seed, &acts, alone.is_some()).await.met else { explain(seed, acts).await };
        met.add(new);
    }
    eprintln!("{met:?} in {:?}", begun.elapsed());
    assert!(alone.is_some() || met.all().iter().all(|count| *count > 0), "{met:?}");
}

/// Each story is told once; then, for each place in the store it came to where not enough processes have ended yet, once more
/// with one that ends there.
#[tokio::test]
async fn wherever_in_the_store_a_process_ends_whoever_watches_ends_with_what_is_there() {
    let mut ends: BTreeMap<Place, usize> = BTreeMap::new();
    for seed in 0..ENDED {
        let mut acts = acts::story(seed);
        acts.retain(|act| !matches!(act, Act::Kill(_)));
        let End { met, passed } = tell(seed, &acts, false).await;
        assert!(met.is_some(), "story {seed} fails as it is");
        for (at, place) in passed.into_iter().enumerate() {
            if ends.get(&place).is_some_and(|ends| *ends >= ENDS) {
                continue;
            }
            let at = Act::Kill(u32::try_from(at).unwrap());
            let acts: Vec<Act> = std::iter::once(at).chain(acts.iter().cloned()).collect();
            let Some(met) = tell(seed, &acts, false).await.met else { explain(seed, acts).await };
            *ends.entry(place).or_default() += met.kills;
        }
    }
    let ended: Vec<String> = ends.iter().filter(|(_, ends)| **ends > 0).map(|(place, _)| place.to_string()).collect();
    assert_eq!(ended.len(), ends.len(), "one was come to and ended nobody: {ends:?}");
    let named = |place: &str, begins: &str| {
        let place = format!("{place} {begins}");
        assert!(ended.iter().any(|ended| ended.starts_with(&place)), "nobody ended {place}: {ended:#?}");
    };
    for transaction in TRANSACTIONS {
        named("before", transaction);
        named("behind", transaction);
    }
    for (transaction, inside) in INSIDE {
        named("inside, before the commit of", transaction);
        inside.iter().for_each(|statement| named("inside, before", statement));
    }
}

#[tokio::test]
async fn a_story_is_the_same_each_time_to_the_last_statement() {
    for seed in 0..16 {
        let acts = acts::story(seed);
        let once = tell(seed, &acts, false).await;
        assert!(once.met.is_some());
        assert_eq!(once, tell(seed, &acts, false).await, "story {seed}");
    }
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
        let mut story = Story::begin(seed, View::WHOLE, &name, &stage, false).await;
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
    let mut story = Story::begin(1, View::WHOLE, "story", &stage, false).await;
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
    let mut story = Story::begin(1, View::WHOLE, "story", &stage, false).await;
    story.quiet().await;
    let (watcher, feed) = (story.listeners[0].take().unwrap(), story.feed.clone());
    let (done, waits) = std::sync::mpsc::channel();
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_over = over.clone();
    // Not joined: one that waits for ever would keep the test from failing.
    std::thread::spawn(move || {
        while !is_over.load(Ordering::Relaxed) {
            feed.set_longpoll(None);
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
