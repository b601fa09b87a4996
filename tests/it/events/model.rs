//! The model test in earnest: real processes over sockets, killed with SIGKILL at random. Each play has an emulator, one
//! connector or two on one PostgreSQL, writers that change the tree at the emulator's own API, and consumers that apply what
//! they are told. A seed gives the plan: who writes how much, when a connector is killed, when cursors are forgotten, how
//! deltas are cut and shuffled. How these meet is up to the machine, so a play does not rerun exactly: one that fails leaves
//! the plan, the emulator's journal and tree, what every consumer was told, the database and the logs in a folder.
//!
//! `PLAY=17` plays that one alone (those of the fleet begin at 100).

mod consumer;
mod fleet;
mod mirror;
mod plan;
mod writers;

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use dropbox_connector::emulator::{
    Emulator, Options,
    control::{Generate, Seed, SeedFile},
};
use futures::StreamExt as _;

use self::{
    consumer::Consumer,
    fleet::Fleet,
    mirror::Met,
    plan::{Plan, Step},
    writers::{Truth, Writers},
};
use crate::support::{self, postgres};

/// How long anything may take that has to happen: a lease of ten seconds has to run out, on a busy machine.
const SETTLES_MAX: Duration = Duration::from_secs(120);
/// How long is waited for what may happen or not.
const MOMENT: Duration = Duration::from_millis(300);
/// Seeds from here on are played by two connectors.
const FLEET: u64 = 100;

/// What a play works with, and what is kept of it if it fails.
struct Stage {
    plan: Plan,
    emulator: Emulator,
    folder: PathBuf,
    store: String,
    consumers: Vec<Arc<Consumer>>,
}

impl Stage {
    async fn build(plan: Plan, folder: &Path) -> Stage {
        let options = Options { rng_seed: plan.seed, ..Options::default() };
        let emulator = Emulator::start(options).await.expect("an emulator");
        let store = match plan.replicas {
            1 => format!("sqlite://{}", folder.join("store.db").display()),
            _ => postgres::Server::shared().database().await,
        };
        let consumer = |(n, manner): (usize, &_)| Arc::new(Consumer::new(n, *manner, &plan.folder));
        let consumers = plan.consumers.iter().enumerate().map(consumer).collect();
        Stage { plan, emulator, folder: folder.to_owned(), store, consumers }
    }

    /// Everything from the first file to the last.
    async fn play(&self) -> Result<(), String> {
        let control = self.emulator.control();
        let plan = &self.plan;
        let generate =
            Generate { folder: format!("{}/bulk", plan.folder), files: plan.bulk, bytes: 1, per_folder: Some(20) };
        let folders = if plan.folder.is_empty() { Vec::new() } else { vec![plan.folder.clone()] };
        let seed = Seed { folders, generate: (plan.bulk > 0).then_some(generate), ..Seed::default() };
        control.seed(&seed).map_err(|error| error.to_string())?;
        plan.cuts(&control, 0);
        let mut fleet = Fleet::start(self).await?;
        let writers = Writers::start(&self.emulator, plan);
        let tasks: Vec<_> =
            self.consumers.iter().map(|one| tokio::spawn(one.clone().run(fleet.addresses.clone()))).collect();
        for (number, step) in plan.steps.iter().enumerate() {
            match step {
                Step::Write(count) => writers.give(*count),
                Step::Written => self.until("all is written", || async { writers.is_done() }).await?,
                Step::Heard => {
                    let before = self.heard();
                    self.a_moment(|| self.heard() > before).await?;
                }
                Step::Kill { replica, after } => {
                    let asked = || control.counter("files/list_folder/continue").calls;
                    let before = asked();
                    self.a_moment(|| asked() >= before + after).await?;
                    fleet.kill(*replica);
                }
                Step::Start { replica } => fleet.launch(*replica).await?,
                Step::Reset => control.reset_cursors(),
                Step::Cut => plan.cuts(&control, number as u64),
                Step::Settle => self.settle(&writers).await?,
                Step::Index => self.index(&writers).await?,
            }
        }
        // What comes last comes behind all the rest, so whatever is wrong by then stays wrong.
        for last in ["last", "very last"] {
            self.probe(last)?;
            self.settle(&writers).await?;
        }
        for (consumer, task) in self.consumers.iter().zip(tasks) {
            consumer.stop();
            task.await.map_err(|error| format!("a consumer: {error}"))?;
        }
        let wrong = control.wrong_answers();
        if wrong.is_empty() { Ok(()) } else { Err(format!("the emulator answered wrongly: {wrong:?}")) }
    }

    fn probe(&self, text: &str) -> Result<(), String> {
        let file = SeedFile::text(&format!("{}/probe", self.plan.folder), text);
        let seed = Seed { files: vec![file], ..Seed::default() };
        self.emulator.control().seed(&seed).map_err(|error| error.to_string())
    }

    /// From here on types are certain.
    async fn index(&self, writers: &Writers) -> Result<(), String> {
        let known = || self.consumers.iter().map(|one| one.met().indexed).sum::<usize>();
        let before = known();
        let deadline = tokio::time::Instant::now() + SETTLES_MAX;
        for number in 0u64.. {
            self.probe(&number.to_string())?;
            self.settle(writers).await?;
            if known() > before {
                return Ok(());
            }
            if tokio::time::Instant::now() > deadline {
                break;
            }
            self.rest().await?;
        }
        Err("no index comes to stand".into())
    }

    /// Dropbox is not asked anything for a moment.
    async fn rest(&self) -> Result<(), String> {
        let asked = || self.emulator.control().counter("files/list_folder/continue").calls;
        for _ in 0..50 {
            let before = asked();
            self.a_moment(|| asked() > before).await?;
            if asked() == before {
                break;
            }
        }
        Ok(())
    }

    fn heard(&self) -> usize {
        self.consumers.iter().map(|one| one.heard()).sum()
    }

    /// Everything is written, and every consumer has it.
    async fn settle(&self, writers: &Writers) -> Result<(), String> {
        self.until("all is written", || async { writers.is_done() }).await?;
        let truth = Truth::read(&self.emulator, &self.plan.folder).await?;
        let all_have_it = || async { self.consumers.iter().all(|one| one.lacks(&truth).is_none()) };
        self.until("every consumer has the tree", all_have_it).await.map_err(|why| {
            let lacks = self.consumers.iter().enumerate().filter_map(|(n, one)| Some((n, one.lacks(&truth)?)));
            lacks.fold(why, |text, (n, lacks)| format!("{text}; consumer {n}: {lacks}"))
        })
    }

    /// Waits for what has to come, unless a consumer fails first.
    async fn until<F: Future<Output = bool>>(&self, what: &str, condition: impl FnMut() -> F) -> Result<(), String> {
        match self.within(SETTLES_MAX, condition).await? {
            true => Ok(()),
            false => Err(format!("waited in vain: {what}")),
        }
    }

    /// Waits a little for what may come.
    async fn a_moment(&self, condition: impl Fn() -> bool) -> Result<(), String> {
        self.within(MOMENT, || async { condition() }).await.map(drop)
    }

    async fn within<F: Future<Output = bool>>(
        &self,
        most: Duration,
        mut condition: impl FnMut() -> F,
    ) -> Result<bool, String> {
        let deadline = tokio::time::Instant::now() + most;
        loop {
            for (n, consumer) in self.consumers.iter().enumerate() {
                if let Some(why) = consumer.failure() {
                    return Err(format!("consumer {n}: {why}"));
                }
            }
            if condition().await {
                return Ok(true);
            }
            if tokio::time::Instant::now() > deadline {
                return Ok(false);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Writes down what is known.
    async fn keep(&self, why: &str) {
        let put = |name: &str, text: String| std::fs::write(self.folder.join(name), text).expect("written");
        put("plan.txt", format!("{why}\n\n{:#?}\n", self.plan));
        let journal = self.emulator.control().journal();
        put("journal.json", serde_json::to_string_pretty(&journal).expect("JSON"));
        let tree = Truth::read(&self.emulator, &self.plan.folder).await;
        put("tree.txt", format!("{tree:#?}"));
        for (n, consumer) in self.consumers.iter().enumerate() {
            put(&format!("consumer-{n}.txt"), consumer.story());
        }
        if self.plan.replicas > 1 {
            dump(&self.store, &self.folder.join("database.sql"));
        }
    }
}

/// The database as text: its server ends with the tests.
fn dump(url: &str, file: &Path) {
    let server = support::process::root().join(".tools/bin/postgres").canonicalize().expect("it was just used");
    let output = std::process::Command::new(server.with_file_name("pg_dump")).arg(url).output();
    let text = match output {
        Ok(output) if output.status.success() => output.stdout,
        failed => format!("{failed:?}").into_bytes(),
    };
    std::fs::write(file, text).expect("written");
}

#[expect(clippy::print_stderr, reason = "a play is told with what it met")]
async fn one(plan: Plan) -> Result<Met, String> {
    let seed = plan.seed;
    let folder = tempfile::Builder::new().prefix(&format!("play-{seed}-")).tempdir().expect("a folder");
    let stage = Arc::new(Stage::build(plan, folder.path()).await);
    let begun = std::time::Instant::now();
    let playing = tokio::spawn({
        let stage = stage.clone();
        async move { stage.play().await }
    });
    let played = match playing.await {
        Ok(played) => played,
        Err(panic) => Err(panic.to_string()),
    };
    for consumer in &stage.consumers {
        consumer.stop();
    }
    let met: Met = stage.consumers.iter().map(|consumer| consumer.met()).sum();
    eprintln!("play {seed}: {met:?} in {:?}", begun.elapsed());
    let Err(why) = played else { return Ok(met) };
    stage.keep(&why).await;
    Err(format!("play {seed}: {why}; all there is to know lies in {}", folder.keep().display()))
}

/// What they have come across, if nothing failed.
#[expect(clippy::print_stderr, reason = "what was met is there to be read")]
async fn run(seeds: Vec<u64>, at_once: usize) -> Met {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let begun = std::time::Instant::now();
    let plans = alone().map_or(seeds, |seed| vec![seed]).into_iter().map(plan);
    let plays = futures::stream::iter(plans).map(|plan| tokio::spawn(one(plan)));
    let played: Vec<_> = plays.buffer_unordered(at_once).collect().await;
    let (mut met, mut failed) = (Met::default(), String::new());
    for play in played {
        match play.expect("it catches its panics") {
            Ok(new) if new.indexed == 0 => _ = writeln!(failed, "no type was judged in a play: {new:?}"),
            Ok(new) => met = [met, new].into_iter().sum(),
            Err(why) => _ = writeln!(failed, "{why}"),
        }
    }
    eprintln!("{met:?} in {:?}", begun.elapsed());
    assert!(failed.is_empty(), "{failed}");
    met
}

fn plan(seed: u64) -> Plan {
    Plan::new(seed, if seed < FLEET { 1 } else { 2 })
}

fn alone() -> Option<u64> {
    std::env::var("PLAY").ok().map(|text| text.parse().expect("PLAY is a number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_watches_has_the_tree_in_the_end_though_connectors_are_killed() {
    let met = run((FLEET..FLEET + 2).chain(0..6).collect(), 4).await;
    assert!(alone().is_some() || (met.indexed > 0 && met.resumed > 0), "{met:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_play_that_fails_plan_journal_database_and_logs_are_kept() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    for seed in [0, FLEET] {
        let plan = plan(seed);
        let nobody = Step::Kill { replica: plan.replicas, after: 0 };
        let plan = Plan { bulk: 5, steps: vec![Step::Write(5), Step::Settle, nobody], ..plan };
        let why = one(plan).await.expect_err("there is nobody to be killed");
        let folder = PathBuf::from(why.rsplit_once(" lies in ").expect("where it lies").1);
        let read = |name: &str| std::fs::read(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let text = |name: &str| String::from_utf8(read(name)).expect("text");
        assert!(text("plan.txt").contains(&format!("seed: {seed},")), "{}", text("plan.txt"));
        let journal: Vec<serde_json::Value> = serde_json::from_slice(&read("journal.json")).expect("JSON");
        assert!(journal.iter().any(|entry| entry["route"] == "files/list_folder"), "{journal:?}");
        assert!(text("tree.txt").contains("bulk") && text("consumer-2.txt").contains("bulk"));
        assert!(text("log-1-replica-0").contains("data="));
        match seed {
            FLEET => assert!(text("database.sql").contains("COPY public.event_log ")),
            _ => assert!(read("store.db").starts_with(b"SQLite format 3\0")),
        }
        std::fs::remove_dir_all(folder).expect("removed");
    }
}

/// A minute or two: too long for every day.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make test-long"]
async fn whoever_watches_has_the_tree_in_the_end_in_thirty_plays() {
    let met = run((FLEET..FLEET + 10).chain(0..20).collect(), 6).await;
    assert!(alone().is_some() || met.is_rich(), "a test that never meets the rare is no test: {met:?}");
}
