//! When feeds work: how many begin at once and in which order, how many longpoll, how often a quiet one is asked, and what a
//! clock that is set does. A real store, a clock that a test moves, and a Dropbox that has no news and keeps a record of who was
//! asked when.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use futures::{FutureExt as _, future::BoxFuture};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    clock::{Clock as _, ManualClock},
    credentials::Ending,
    dropbox::Underway,
    events::{
        CheckpointName, Happening, Hub, News, Options, Page, Parts, Poll, ResumePoint, Scope, Start, Upstream, Watcher,
        feed::Feed,
    },
    fair,
    fault::{Fault, Reason, Result},
    limits::{
        FEED_LINGER, FEED_RETRY, FEED_RETRY_MAX, FEED_SPREAD, FEEDS_AT_ONCE, FEEDS_AT_WORK_MAX, INDEX_UNWATCHED,
        INDEXES_UNWATCHED_MAX, LONGPOLLS_MAX, POLL_TURN, SAFETY_POLL,
    },
    seal::KeyRing,
    store::{ParameterId, Store},
};

/// An account in which nothing happens.
#[derive(Debug)]
pub(super) struct Quiet {
    clock: ManualClock,
    /// Answers that may go out.
    answers: Semaphore,
    /// While there are any longpolls leave.
    lines: Semaphore,
    /// Longpolls that may be answered: there is nothing new.
    silences: Semaphore,
    /// Pages of listings that may go out, each once.
    pages: Semaphore,
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    /// When each folder was asked for changes.
    asked: BTreeMap<String, Vec<Duration>>,
    listed: BTreeSet<String>,
    /// Pages of listings, by their numbers, and how many more than one a listing has.
    listed_pages: Vec<usize>,
    more_pages: usize,
    /// Listings are refused, so often so far.
    refuses: bool,
    refused: usize,
    running: usize,
    running_most: usize,
    longpolls: usize,
}

impl Quiet {
    fn books(&self) -> std::sync::MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }

    async fn page(&self) -> Result<Page> {
        {
            let mut books = self.books();
            books.running += 1;
            books.running_most = books.running_most.max(books.running);
        }
        drop(self.answers.acquire().await);
        self.books().running -= 1;
        Ok(Page { entries: Vec::new(), cursor: "c".into(), has_more: false })
    }

    async fn listing(&self, number: usize) -> Result<Page> {
        if self.books().refuses {
            self.books().refused += 1;
            return Err(Fault::new(Reason::DropboxUnavailable, "not now").retry_after(FEED_RETRY));
        }
        if let Ok(page) = self.pages.acquire().await {
            page.forget();
        }
        let page = self.page().await?;
        let mut books = self.books();
        books.listed_pages.push(number);
        if number == books.more_pages {
            return Ok(page);
        }
        Ok(Page { cursor: format!("page {}", number + 1).into(), has_more: true, ..page })
    }

    /// When each folder was asked, in the order of their first times.
    fn first_asked(&self) -> Vec<(Duration, String)> {
        let books = self.books();
        let mut first: Vec<_> = books.asked.iter().map(|(folder, asked)| (asked[0], folder.clone())).collect();
        first.sort();
        first
    }

    pub(super) fn asked(&self, folder: &str) -> Vec<Duration> {
        self.books().asked.get(folder).cloned().unwrap_or_default()
    }
}

impl Upstream for Quiet {
    fn list<'a>(&'a self, scope: &'a Scope, _: u32) -> BoxFuture<'a, Result<Page>> {
        self.books().listed.insert(scope.path.to_string());
        self.listing(0).boxed()
    }

    fn go_on<'a>(&'a self, scope: &'a Scope, cursor: &'a str) -> BoxFuture<'a, Result<Page>> {
        if let Some(number) = cursor.strip_prefix("page ") {
            return self.listing(number.parse().unwrap()).boxed();
        }
        self.books().asked.entry(scope.path.to_string()).or_default().push(self.clock.steady());
        self.page().boxed()
    }

    fn latest<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, Result<Arc<str>>> {
        self.books().asked.entry(scope.path.to_string()).or_default().push(self.clock.steady());
        async move { Ok(self.page().await?.cursor) }.boxed()
    }

    fn longpoll<'a>(
        &'a self,
        _: &'a Scope,
        _: &'a str,
        _: Duration,
        asked: Arc<Underway>,
    ) -> BoxFuture<'a, Result<News>> {
        struct Place<'a>(&'a Quiet);
        impl Drop for Place<'_> {
            fn drop(&mut self) {
                self.0.books().longpolls -= 1;
            }
        }
        self.books().longpolls += 1;
        let place = Place(self);
        async move {
            let _place = place;
            drop(self.lines.acquire().await);
            asked.leave();
            self.silences.acquire().await.expect("open").forget();
            Ok(News { changes: false, backoff: None })
        }
        .boxed()
    }

    fn is_new<'a>(&'a self, _: &'a Scope, _: &'a str) -> BoxFuture<'a, Result<bool>> {
        async move { Ok(false) }.boxed()
    }

    fn ending<'a>(&'a self, _: &'a Scope) -> BoxFuture<'a, Result<Option<Ending>>> {
        async move { Ok(None) }.boxed()
    }
}

pub(super) struct House {
    pub(super) hub: Hub,
    pub(super) dropbox: Arc<Quiet>,
    pub(super) clock: ManualClock,
    ended: CancellationToken,
    tasks: TaskTracker,
}

pub(super) fn scope(folder: &str) -> Scope {
    Scope {
        parameter: ParameterId::new("docs").unwrap(),
        uid: "uid".into(),
        account: format!("dbid:{folder}").into(),
        linked: "dbid:A".into(),
        act_as: None,
        root: None,
        path: folder.into(),
        recursive: true,
        raw: false,
    }
}

async fn store(clock: &ManualClock) -> Store {
    Store::open("sqlite::memory:", Arc::new(KeyRing::ephemeral()), Arc::new(clock.clone())).await.unwrap()
}

impl House {
    pub(super) async fn new(webhooks: bool) -> House {
        let clock = ManualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        let store = store(&clock).await;
        House::on(store, clock, webhooks)
    }

    fn on(store: Store, clock: ManualClock, webhooks: bool) -> House {
        let all = || Semaphore::new(Semaphore::MAX_PERMITS);
        let (silences, books) = (Semaphore::new(0), Mutex::default());
        let (answers, lines, pages) = (all(), all(), all());
        let dropbox = Arc::new(Quiet { clock: clock.clone(), answers, lines, silences, pages, books });
        let (tasks, ended) = (TaskTracker::new(), CancellationToken::new());
        let parts = Parts { store, upstream: dropbox.clone(), tasks: tasks.clone(), ended: ended.clone(), webhooks };
        House { hub: Hub::new(parts), dropbox, clock, ended, tasks }
    }

    /// From a place that Dropbox alone knows: nothing is asked by the watcher itself.
    pub(super) async fn watch(&self, scope: Scope) -> Watcher {
        let start = Start::After(ResumePoint::at("c".into()));
        self.hub.watch(scope, start, Options::default()).await.unwrap()
    }

    pub(super) async fn watch_all(&self, folders: &[String]) -> Vec<Watcher> {
        let mut watchers = Vec::new();
        for folder in folders {
            watchers.push(self.watch(scope(folder)).await);
        }
        self.rest().await;
        watchers
    }

    fn at_work(&self) -> usize {
        FEEDS_AT_WORK_MAX - self.hub.0.at_work.free()
    }

    fn feeds(&self) -> Vec<Arc<Feed>> {
        self.hub.0.held().by_key.values().cloned().collect()
    }

    /// While somebody works.
    async fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let begun = std::time::Instant::now();
        while !is_so() {
            assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Whoever works has nothing to do any more.
    pub(super) async fn rest(&self) {
        let mut idle = 0;
        let begun = std::time::Instant::now();
        while idle < 3 {
            assert!(begun.elapsed() < Duration::from_secs(60), "it does not come to rest");
            // Threads of the database answer in real time.
            tokio::time::sleep(Duration::from_millis(1)).await;
            idle = if self.at_work() == 0 { idle + 1 } else { 0 };
        }
    }

    pub(super) async fn pass(&self, span: Duration, step: Duration) {
        let end = self.clock.steady() + span;
        while self.clock.steady() < end {
            self.clock.advance(step).await;
            self.rest().await;
        }
    }

    pub(super) async fn end(self) {
        self.ended.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn folders(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("/{name}{n:04}")).collect()
}

#[tokio::test]
async fn begins_are_spread_with_saved_cursors_first_and_no_index_is_built_anew() {
    let old = folders("old", 90);
    let house = House::new(true).await;
    let (store, clock) = (house.hub.0.parts.store.clone(), house.clock.clone());
    let watchers = house.watch_all(&old).await;
    house.pass(Duration::from_secs(5), Duration::from_millis(100)).await;
    assert_eq!(house.dropbox.books().listed.len(), old.len(), "every index is built once");
    drop(watchers);
    house.end().await;

    // The next process: others come first, yet those with a cursor begin before them.
    let house = House::on(store, clock, true);
    let new = folders("a-new", 90);
    let begun = house.clock.steady();
    let mut watchers = house.watch_all(&new[..70]).await;
    watchers.extend(house.watch_all(&old).await);
    watchers.extend(house.watch_all(&new[70..]).await);
    house.pass(Duration::from_secs(6), Duration::from_millis(10)).await;
    let first = house.dropbox.first_asked();
    assert_eq!(first.len(), 180);
    assert_eq!(first.iter().filter(|(at, _)| *at == begun).count(), FEEDS_AT_ONCE, "some begin at once");
    let last = first.last().unwrap().0 - begun;
    let least = FEED_SPREAD * u32::try_from(180 - FEEDS_AT_ONCE).unwrap();
    assert!(last >= least && last < least + Duration::from_millis(500), "{last:?}");
    let spread: Vec<&str> = first.iter().skip(FEEDS_AT_ONCE).map(|(_, folder)| folder.as_str()).collect();
    assert!(spread[..90].iter().all(|folder| folder.starts_with("/old")), "{spread:?}");
    let listed = house.dropbox.books().listed.clone();
    assert!(listed.len() == 90 && listed.iter().all(|folder| folder.starts_with("/a-new")), "{listed:?}");
    // What is left of five minutes with ten thousand.
    let ten_thousand = FEED_SPREAD * u32::try_from(10_000 - FEEDS_AT_ONCE).unwrap();
    assert!((290..=300).contains(&ten_thousand.as_secs()), "{ten_thousand:?}");
    house.end().await;
}

#[tokio::test]
async fn no_more_than_so_many_begin_at_once_however_slow_dropbox_is() {
    let house = House::new(true).await;
    house.dropbox.answers.forget_permits(Semaphore::MAX_PERMITS);
    let mut watchers = Vec::new();
    for folder in folders("in", 150) {
        watchers.push(house.watch(scope(&folder)).await);
    }
    // An eighth is left to other parameters.
    let most = fair::alone(FEEDS_AT_ONCE, 1);
    for _ in 0..2 {
        for _ in 0..100 {
            house.clock.advance(Duration::from_millis(100)).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Threads of the database answer in real time.
        house.until("as many as may have begun", || house.dropbox.books().running >= most).await;
    }
    assert_eq!(house.dropbox.books().running, most);
    house.dropbox.answers.add_permits(Semaphore::MAX_PERMITS);
    house.pass(Duration::from_secs(10), Duration::from_millis(500)).await;
    assert_eq!(house.dropbox.books().listed.len(), 150, "all have an index");
    house.end().await;
}

fn of_another(folder: &str) -> Scope {
    Scope { parameter: ParameterId::new("other").unwrap(), ..scope(folder) }
}

#[tokio::test]
async fn folders_whose_dropbox_lets_them_wait_keep_no_other_parameters_from_beginning() {
    let house = House::new(true).await;
    house.dropbox.answers.forget_permits(Semaphore::MAX_PERMITS);
    let mut watchers = Vec::new();
    for folder in folders("in", FEEDS_AT_ONCE * 2) {
        watchers.push(house.watch(scope(&folder)).await);
    }
    let begun = || house.dropbox.books().asked.len();
    house.until("its share of them begins", || begun() == fair::alone(FEEDS_AT_ONCE, 1)).await;
    watchers.push(house.watch(of_another("/else")).await);
    house.until("the other one begins", || !house.dropbox.asked("/else").is_empty()).await;
    house.dropbox.answers.add_permits(Semaphore::MAX_PERMITS);
    house.end().await;
}

#[tokio::test]
async fn folders_whose_dropbox_lets_them_wait_keep_no_other_parameters_from_being_asked_for() {
    let house = House::new(true).await;
    let all = folders("in", FEEDS_AT_WORK_MAX + 10);
    let mut watchers = house.watch_all(&all).await;
    watchers.push(house.watch(of_another("/else")).await);
    house.pass(FEED_SPREAD * 300, FEED_SPREAD * 10).await;
    assert_eq!(house.dropbox.books().listed.len(), all.len() + 1, "all are up to date");
    house.dropbox.answers.forget_permits(Semaphore::MAX_PERMITS);
    let wake = |folder: &str| house.hub.wake(&[format!("dbid:{folder}")]);
    all.iter().for_each(|folder| wake(folder));
    house.until("they take their share", || house.at_work() == fair::alone(FEEDS_AT_WORK_MAX, 1)).await;
    let before = house.dropbox.asked("/else").len();
    wake("/else");
    house.until("the other one is asked for", || house.dropbox.asked("/else").len() > before).await;
    house.dropbox.answers.add_permits(Semaphore::MAX_PERMITS);
    house.end().await;
}

#[tokio::test]
async fn a_thousand_folders_are_longpolled_and_those_beyond_take_turns() {
    let house = House::new(false).await;
    let all = folders("in", LONGPOLLS_MAX + 3);
    let mut watchers = Vec::new();
    for folder in &all {
        watchers.push(house.watch(scope(folder).raw(true)).await);
    }
    let begun = house.clock.steady();
    // A longpoll is under way for ever: whoever has one is not at work.
    while house.dropbox.first_asked().len() < all.len() {
        assert!(house.clock.steady() - begun < Duration::from_secs(60));
        house.clock.advance(FEED_SPREAD).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        // Threads of the database answer in real time.
        house.until("it has begun", || house.at_work() == 0).await;
    }
    house.rest().await;
    assert_eq!(house.dropbox.books().longpolls, LONGPOLLS_MAX);
    assert!(house.hub.takes_turns());
    house.pass(POLL_TURN * 10, Duration::from_secs(1)).await;
    let asked = |folder: &String| house.dropbox.asked(folder).len();
    let often: Vec<&String> = all.iter().filter(|folder| asked(folder) > 3).collect();
    assert_eq!(often.len(), 3, "the others are longpolled");
    for folder in often {
        let times = house.dropbox.asked(folder);
        let turns: Vec<_> = times.windows(2).map(|two| two[1] - two[0]).filter(|gap| *gap >= POLL_TURN).collect();
        assert!(turns.len() >= 9 && turns.iter().all(|gap| *gap <= POLL_TURN + Duration::from_secs(1)), "{turns:?}");
    }
    // A place that becomes free is taken.
    watchers.truncate(LONGPOLLS_MAX);
    house.pass(FEED_LINGER + POLL_TURN * 2, Duration::from_secs(1)).await;
    assert!(!house.hub.takes_turns());
    house.end().await;
}

#[tokio::test]
async fn a_folder_is_up_to_date_while_its_longpoll_has_left_and_else_as_of_what_dropbox_said_last() {
    let house = House::new(false).await;
    let quiet = Duration::from_secs(100);
    let watcher = house.watch(scope("/in")).await;
    house.rest().await;
    assert_eq!(house.dropbox.books().longpolls, 1);
    house.clock.advance(quiet).await;
    assert_eq!(watcher.lag(), Duration::ZERO);
    // Dropbox says that there is nothing; the line is dead for the next question.
    house.dropbox.lines.forget_permits(Semaphore::MAX_PERMITS);
    house.dropbox.silences.add_permits(1);
    house.until("it is heard", || watcher.lag().is_zero() && !house.feeds()[0].is_listening()).await;
    house.until("it is asked again", || house.dropbox.books().longpolls == 1).await;
    house.clock.advance(quiet).await;
    assert_eq!((watcher.lag(), house.hub.laggards()[0].lag), (quiet, quiet));
    // And now it leaves.
    house.dropbox.lines.add_permits(1);
    house.until("it is out", || watcher.lag().is_zero() && house.hub.laggards().is_empty()).await;
    house.end().await;
}

#[tokio::test]
async fn with_webhooks_a_quiet_folder_is_asked_every_ten_minutes_give_or_take_a_fifth_also_when_clocks_are_set() {
    let house = House::new(true).await;
    let all = folders("in", 20);
    let watchers = house.watch_all(&all).await;
    let begun = house.clock.steady();
    let hour = Duration::from_secs(3600);
    for set in [None, Some(false), Some(true)] {
        match set {
            Some(true) => house.clock.set(house.clock.now() + hour),
            Some(false) => house.clock.set(house.clock.now() - hour),
            None => {}
        }
        house.pass(hour, Duration::from_secs(5)).await;
        assert!(watchers.iter().all(|watcher| watcher.lag() <= SAFETY_POLL.mul_f64(1.25)));
    }
    let least = SAFETY_POLL.mul_f64(0.8);
    let most = SAFETY_POLL.mul_f64(1.2) + Duration::from_secs(5);
    for folder in &all {
        let times: Vec<_> = house.dropbox.asked(folder).into_iter().filter(|at| *at > begun).collect();
        let gaps: Vec<_> = times.windows(2).map(|two| two[1] - two[0]).collect();
        assert!(gaps.len() >= 13 && gaps.iter().all(|gap| (least..=most).contains(gap)), "{folder}: {gaps:?}");
    }
    assert_eq!(house.dropbox.books().longpolls, 0);
    house.end().await;
}

#[tokio::test]
async fn a_checkpoint_that_is_taken_over_is_noticed_also_when_the_clock_was_set_back() {
    let house = House::new(true).await;
    let name = || Start::Checkpoint(CheckpointName::new("mine"));
    let mut first = house.hub.watch(scope("/in"), name(), Options::default()).await.unwrap();
    assert!(matches!(first.next().await, Ok(Happening::Ready(_))));
    // Whoever means another folder by it is refused, which is nothing to the one who has it.
    let wrong = house.hub.watch(scope("/other"), name(), Options::default()).await.unwrap_err();
    assert_eq!(wrong.reason(), Reason::ResumeTokenMismatch);
    house.clock.advance(Duration::from_secs(2)).await;
    while let Some(happening) = first.try_next().await.expect("it goes on") {
        assert!(matches!(happening, Happening::Joined(_)), "{happening:?}");
    }
    house.clock.set(house.clock.now() - Duration::from_secs(3600));
    let second = house.hub.watch(scope("/in"), name(), Options::default()).await.unwrap();
    house.clock.advance(Duration::from_secs(2)).await;
    let told = tokio::time::timeout(Duration::from_secs(30), first.next()).await.expect("in time");
    assert_eq!(told.unwrap_err().reason(), Reason::CheckpointTakenOver);
    drop(second);
    house.end().await;
}

#[tokio::test]
async fn a_quiet_folder_is_an_entry_in_a_map_and_no_task() {
    let house = House::new(true).await;
    let _watchers = house.watch_all(&folders("in", 60)).await;
    house.pass(Duration::from_secs(10), Duration::from_secs(1)).await;
    assert_eq!(house.hub.0.held().by_key.len(), 60);
    assert_eq!((house.hub.0.shifts.len(), house.tasks.len()), (0, 2), "one hands out work, one watches over all");
    let bytes = size_of::<Feed>() + size_of::<Scope>();
    assert!(bytes <= 1024, "{bytes}");
    house.end().await;
}

#[tokio::test]
async fn whoever_comes_back_soon_costs_no_question_and_who_wants_to_know_what_is_now_costs_one() {
    let house = House::new(true).await;
    let watcher = house.watch_all(&["/in".into()]).await;
    let asked = || house.dropbox.asked("/in").len();
    let before = asked();
    drop(watcher);
    house.pass(FEED_LINGER / 2, Duration::from_secs(1)).await;
    let watcher = house.watch(scope("/in")).await;
    house.rest().await;
    assert_eq!(asked(), before, "it was kept up to date all the time");
    watcher.look();
    house.rest().await;
    assert_eq!(asked(), before + 1);
    let often = Options { poll: Poll::Interval(Duration::from_secs(5)), ..Options::default() };
    let start = Start::After(ResumePoint::at("c".into()));
    let eager = house.hub.watch(scope("/in"), start, often).await.unwrap();
    drop(watcher);
    house.pass(Duration::from_secs(20), Duration::from_secs(1)).await;
    assert!((before + 4..=before + 6).contains(&asked()), "{}", asked() - before);
    drop(eager);
    house.pass(FEED_LINGER * 2, Duration::from_secs(1)).await;
    assert!(house.hub.0.held().by_key.is_empty() && house.hub.0.held().by_id.is_empty(), "nobody watches");
    house.end().await;
}

#[tokio::test]
async fn an_index_that_could_not_be_built_is_tried_again_when_its_pause_is_over() {
    for (webhooks, watched) in [(true, true), (false, true), (true, false), (false, false)] {
        let house = House::new(webhooks).await;
        house.dropbox.books().refuses = true;
        let watcher = house.watch_all(&["/in".into()]).await;
        assert_eq!(house.dropbox.books().refused, 1);
        let watcher = Some(watcher).filter(|_| watched);
        house.pass(FEED_RETRY_MAX, Duration::from_millis(500)).await;
        let refused = house.dropbox.books().refused;
        assert!((5..=7).contains(&refused), "each pause is twice the one before: {refused}");
        let feed = house.feeds().remove(0);
        assert!(!feed.is_built());
        house.dropbox.books().refuses = false;
        house.pass(FEED_RETRY_MAX, Duration::from_millis(500)).await;
        assert!(feed.is_built(), "webhooks: {webhooks}, watched: {watched}");
        drop(watcher);
        house.pass(FEED_LINGER * 2, Duration::from_secs(1)).await;
        assert!(house.feeds().is_empty(), "an index that was built is no reason to stay");
        house.end().await;
    }
}

#[tokio::test]
async fn an_index_is_built_on_for_whoever_pulls_and_goes_on_where_it_was_when_they_come_back_late() {
    let house = House::new(false).await;
    house.dropbox.books().more_pages = 199;
    house.dropbox.pages.forget_permits(Semaphore::MAX_PERMITS);
    let listed = || house.dropbox.books().listed_pages.len();
    let watcher = house.watch(scope("/in")).await;
    house.until("it lists", || !house.dropbox.books().listed.is_empty()).await;
    drop(watcher);
    house.clock.advance(FEED_LINGER * 2).await;
    house.dropbox.pages.add_permits(50);
    house.until("it goes on without anybody", || listed() == 50).await;
    house.clock.advance(INDEX_UNWATCHED).await;
    house.dropbox.pages.add_permits(Semaphore::MAX_PERMITS / 2);
    house.until("it is over", || house.feeds().is_empty()).await;
    let so_far = listed();
    assert!((50..=52).contains(&so_far), "{so_far}");
    let _watcher = house.watch_all(&["/in".into()]).await;
    assert!(house.feeds()[0].is_built());
    let pages = house.dropbox.books().listed_pages.clone();
    assert_eq!(pages, (0..200).collect::<Vec<_>>(), "none was asked for twice");
    house.end().await;
}

#[tokio::test]
async fn indexes_that_nobody_waits_for_leave_room_to_those_that_somebody_does() {
    let house = House::new(false).await;
    house.dropbox.books().more_pages = 19;
    house.dropbox.pages.forget_permits(Semaphore::MAX_PERMITS);
    let listed = || house.dropbox.books().listed_pages.len();
    let all = folders("in", INDEXES_UNWATCHED_MAX + 3);
    let mut watchers = Vec::new();
    for folder in &all {
        watchers.push(house.watch(scope(folder)).await);
    }
    house.until("all list", || house.dropbox.books().listed.len() == all.len()).await;
    let feeds = house.feeds();
    // Pages go round: whoever had one waits behind the others.
    house.dropbox.pages.add_permits(all.len());
    house.until("all have a page", || listed() == all.len()).await;
    drop(watchers);
    house.dropbox.pages.add_permits(all.len());
    house.until("some have left", || listed() == 2 * all.len() && house.at_work() == INDEXES_UNWATCHED_MAX).await;
    house.dropbox.pages.add_permits(Semaphore::MAX_PERMITS / 2);
    house.rest().await;
    assert_eq!(feeds.iter().filter(|feed| !feed.is_built()).count(), 3);
    house.pass(POLL_TURN * 2, Duration::from_secs(1)).await;
    assert!(feeds.iter().all(|feed| feed.is_built()), "they come when there is room");
    house.end().await;
}
