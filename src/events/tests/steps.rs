//! One step at a time: what poller, feed and watchers make of answers that Dropbox gives rarely. The answers are written
//! down; the store is a real SQLite file, the clock moves by hand.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, SystemTime},
};

use futures::{FutureExt as _, future::BoxFuture};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::truth::{entry, page};
use crate::{
    clock::ManualClock,
    credentials::Ending,
    dropbox::Underway,
    events::{
        ChangeKind, Happening, Hub, News, OnReset, Options, Page, Parts, ResumePoint, Resync, Scope, Start, Upstream,
        Watcher,
        feed::Feed,
        poller::{Poller, Step},
    },
    fault::{Fault, Reason, Result},
    limits::{EVENT_LOG_AGE, FEED_RETRY_MAX, INDEX_LOOK_EVERY, SCOPE_KEPT},
    seal::KeyRing,
    store::{DrainRow, LogRow, ParameterId, Save, Store},
};

/// Answers by question: `list`, or the cursor. The last one of a question stays; without one there is nothing new.
#[derive(Debug, Default)]
pub(super) struct Script {
    answers: Mutex<HashMap<String, VecDeque<Result<Page, Reason>>>>,
    asked: Mutex<Vec<String>>,
}

impl Script {
    pub fn says(&self, question: &str, entries: &str, cursor: &str, has_more: bool) {
        let page = Page { entries: page(entries), cursor: cursor.into(), has_more };
        self.answers.lock().unwrap().entry(question.to_owned()).or_default().push_back(Ok(page));
    }

    pub fn refuses(&self, question: &str, reason: Reason) {
        self.answers.lock().unwrap().entry(question.to_owned()).or_default().push_back(Err(reason));
    }

    pub fn asked(&self, question: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| *asked == question).count()
    }

    fn answer(&self, question: &str) -> Result<Page> {
        self.asked.lock().unwrap().push(question.to_owned());
        let mut answers = self.answers.lock().unwrap();
        let cursor = if question == "list" { "now" } else { question };
        let nothing = || Ok(Page { entries: Vec::new(), cursor: cursor.into(), has_more: false });
        let Some(queue) = answers.get_mut(question) else { return nothing() };
        let answer = if queue.len() > 1 { queue.pop_front() } else { queue.front().cloned() };
        answer.unwrap_or_else(|| nothing().map_err(|_: Fault| Reason::CursorReset)).map_err(|reason| match reason {
            Reason::DropboxUnavailable => Fault::new(reason, "scripted").retry_after(Duration::from_secs(1)),
            _ => Fault::new(reason, "scripted"),
        })
    }
}

impl Upstream for Script {
    fn list<'a>(&'a self, _: &'a Scope, _: u32) -> BoxFuture<'a, Result<Page>> {
        async move {
            // Those who ask meanwhile are seen to.
            for _ in 0..8 {
                tokio::task::yield_now().await;
            }
            self.answer("list")
        }
        .boxed()
    }

    fn go_on<'a>(&'a self, _: &'a Scope, cursor: &'a str) -> BoxFuture<'a, Result<Page>> {
        async move { self.answer(cursor) }.boxed()
    }

    fn latest<'a>(&'a self, _: &'a Scope) -> BoxFuture<'a, Result<Arc<str>>> {
        async move { Ok("now".into()) }.boxed()
    }

    fn longpoll<'a>(&'a self, _: &'a Scope, _: &'a str, _: Duration, _: Arc<Underway>) -> BoxFuture<'a, Result<News>> {
        std::future::pending().boxed()
    }

    fn is_new<'a>(&'a self, _: &'a Scope, _: &'a str) -> BoxFuture<'a, Result<bool>> {
        async move { Ok(true) }.boxed()
    }

    fn ending<'a>(&'a self, _: &'a Scope) -> BoxFuture<'a, Result<Option<Ending>>> {
        async move { Ok(None) }.boxed()
    }
}

pub(super) struct House {
    pub store: Store,
    pub clock: ManualClock,
    pub script: Arc<Script>,
    _folder: tempfile::TempDir,
}

pub(super) fn scope() -> Scope {
    Scope {
        parameter: ParameterId::new("docs").unwrap(),
        uid: "uid".into(),
        account: "dbid:A".into(),
        linked: "dbid:A".into(),
        act_as: None,
        root: None,
        path: "/W".into(),
        recursive: true,
        raw: false,
    }
}

impl House {
    pub async fn new() -> House {
        let folder = tempfile::tempdir().unwrap();
        let clock = ManualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        let url = format!("sqlite://{}?mode=rwc", folder.path().join("store.db").display());
        let store = Store::open(&url, Arc::new(KeyRing::ephemeral()), Arc::new(clock.clone())).await.unwrap();
        House { store, clock, script: Arc::default(), _folder: folder }
    }

    pub async fn feed(&self, scope: Scope) -> (Arc<Feed>, Poller) {
        let feed = Feed::alone(&scope, &self.store, self.script.clone());
        let mut poller = Poller::open(feed.clone()).await.unwrap();
        assert!(poller.lease().await.unwrap());
        (feed, poller)
    }

    pub async fn watcher(&self, feed: &Arc<Feed>, start: Start) -> Watcher {
        Watcher::begin(feed.clone(), 1, start, Options::default()).await.unwrap()
    }
}

/// Until there is nothing to do.
pub(super) async fn work(feed: &Feed, poller: &mut Poller) {
    for _ in 0..100 {
        if poller.step().await.unwrap() == Step::Idle {
            feed.set_hot(poller.looked_at);
            return;
        }
    }
    panic!("it does not come to rest");
}

pub(super) async fn news(feed: &Feed, poller: &mut Poller) {
    poller.news = true;
    work(feed, poller).await;
}

/// What a watcher tells before it would wait.
pub(super) async fn told(watcher: &mut Watcher) -> Vec<Happening> {
    let mut all = Vec::new();
    while let Some(happening) = watcher.try_next().await.unwrap() {
        all.push(happening);
    }
    all
}

pub(super) fn is_replaced(happenings: &[Happening]) -> bool {
    happenings.iter().any(|one| matches!(one, Happening::CursorReset { resync: Resync::Snapshot, .. }))
}

pub(super) async fn names(house: &House, feed: &Feed) -> Vec<String> {
    let id = feed.row().await.unwrap().id;
    let rows = house.store.index_children(id, crate::store::INDEX_ROOT, 0, 100).await.unwrap();
    let names: std::collections::BTreeSet<String> = rows.into_iter().map(|row| row.name).collect();
    names.into_iter().collect()
}

#[tokio::test]
async fn a_listing_that_fails_leaves_the_log_alone_and_is_tried_again() {
    let house = House::new().await;
    let (feed, mut poller) = house.feed(scope()).await;
    for reason in [Reason::DropboxUnavailable, Reason::DropboxError] {
        house.script.refuses("list", reason);
    }
    house.script.says("list", "a 1", "list 1", false);
    work(&feed, &mut poller).await;
    assert_eq!(house.script.asked("list"), 1);
    let mut watcher = house.watcher(&feed, Start::Now).await;
    house.script.says("now", "b 2", "now 1", false);
    news(&feed, &mut poller).await;
    assert!(told(&mut watcher).await.iter().any(|one| matches!(one, Happening::Event(_))), "the log goes on");
    assert_eq!(house.script.asked("list"), 1, "it is left alone for a while");
    house.clock.advance(FEED_RETRY_MAX).await;
    work(&feed, &mut poller).await;
    assert_eq!(house.script.asked("list"), 2, "a fault that does not pass is no end either");
    house.clock.advance(FEED_RETRY_MAX).await;
    work(&feed, &mut poller).await;
    assert_eq!(names(&house, &feed).await, ["a"]);
}

#[tokio::test]
async fn while_an_index_is_built_the_log_is_looked_at_by_time_and_by_the_bell() {
    let house = House::new().await;
    let (feed, mut poller) = house.feed(scope()).await;
    house.script.says("list", "a 1", "list 1", true);
    for page in 1..20 {
        house.script.says(&format!("list {page}"), &format!("a{page} 1{page}"), &format!("list {}", page + 1), true);
    }
    let pages = || (1..20).map(|page| house.script.asked(&format!("list {page}"))).sum::<usize>();
    while pages() < 3 {
        assert_eq!(poller.step().await.unwrap(), Step::Worked);
    }
    let looks = house.script.asked("now");
    poller.step().await.unwrap();
    assert_eq!((house.script.asked("now"), pages()), (looks, 4), "not with every page");
    feed.bell.notify_one();
    for _ in 0..3 {
        poller.step().await.unwrap();
    }
    assert_eq!((house.script.asked("now"), pages()), (looks + 1, 5));
    house.clock.advance(INDEX_LOOK_EVERY).await;
    for _ in 0..3 {
        poller.step().await.unwrap();
    }
    assert_eq!((house.script.asked("now"), pages()), (looks + 2, 6));
}

#[tokio::test]
async fn a_watched_folder_that_was_deleted_and_made_again_begins_anew_where_nothing_was_known_of_it() {
    for raw in [false, true] {
        let house = House::new().await;
        if !raw {
            house.script.refuses("list", Reason::DropboxError);
        }
        house.script.says("list", "c 3", "list 1", false);
        let (feed, mut poller) = house.feed(scope().raw(raw)).await;
        work(&feed, &mut poller).await;
        let mut watcher = house.watcher(&feed, Start::Now).await;
        let epoch = feed.state().head.epoch;
        house.script.says("now", "-, / 9, c 3", "now 1", false);
        poller.news = true;
        assert_eq!(poller.step().await.unwrap(), Step::Worked);
        assert_ne!(feed.state().head.epoch, epoch, "the log is over");
        assert!(is_replaced(&told(&mut watcher).await));
    }
    // In a drain of a watcher's own.
    let house = House::new().await;
    let (feed, mut poller) = house.feed(scope()).await;
    work(&feed, &mut poller).await;
    house.script.says("old", "-, / 9, c 3", "old 1", false);
    let mut watcher = house.watcher(&feed, Start::After(ResumePoint::at("old".into()))).await;
    assert!(is_replaced(&told(&mut watcher).await));
    // In the listing of which the index is built.
    let house = House::new().await;
    house.script.says("list", "/ 8, a 1, b 2", "list 1", true);
    house.script.says("list 1", "-, / 9, c 3", "list 2", false);
    house.script.says("list", "/ 9, c 3", "list 3", false);
    let (feed, mut poller) = house.feed(scope()).await;
    work(&feed, &mut poller).await;
    assert_eq!(names(&house, &feed).await, ["c"]);
}

#[tokio::test]
async fn what_was_told_of_one_account_is_nothing_to_another_that_the_parameter_is_linked_to() {
    let house = House::new().await;
    let (feed, mut poller) = house.feed(scope()).await;
    work(&feed, &mut poller).await;
    house.script.says("now", "secret 1", "now 1", false);
    news(&feed, &mut poller).await;
    let theirs = Scope { account: "dbid:B".into(), linked: "dbid:B".into(), ..scope() };
    let (feed_b, mut poller_b) = house.feed(theirs).await;
    assert_ne!(feed.row().await.unwrap().id, feed_b.row().await.unwrap().id);
    assert_eq!(feed_b.state().head.newest, 0);
    house.script.says("now", "", "now b", false);
    work(&feed_b, &mut poller_b).await;
    let mut watcher = house.watcher(&feed_b, Start::Now).await;
    assert!(matches!(told(&mut watcher).await.as_slice(), [Happening::Ready(_), ..]));
}

#[tokio::test]
async fn two_spellings_of_a_path_are_one_feed() {
    let house = House::new().await;
    let ended = CancellationToken::new();
    let parts = Parts {
        store: house.store.clone(),
        upstream: house.script.clone(),
        tasks: TaskTracker::new(),
        ended: ended.clone(),
        webhooks: false,
    };
    let hub = Hub::new(parts.clone());
    let one = hub.watch(scope(), Start::Now, Options::default()).await.unwrap();
    let other = hub.watch(Scope { path: "/w".into(), ..scope() }, Start::Now, Options::default()).await.unwrap();
    assert_eq!(hub.0.held().by_key.len(), 1);
    drop((one, other));
    ended.cancel();
    parts.tasks.close();
    parts.tasks.wait().await;
    assert_eq!(hub.0.held().by_key.len(), 0);
}

#[tokio::test]
async fn a_quiet_day_between_two_connects_loses_no_place_in_the_log() {
    let house = House::new().await;
    let (feed, mut poller) = house.feed(scope()).await;
    work(&feed, &mut poller).await;
    let at_start = house.watcher(&feed, Start::Now).await.point();
    house.script.says("now", "b 2", "now 1", false);
    news(&feed, &mut poller).await;
    assert!(feed.holds(&at_start).await.unwrap(), "nothing was swept since the log began");
    let point = house.watcher(&feed, Start::Now).await.point();
    house.clock.advance(EVENT_LOG_AGE + Duration::from_secs(1)).await;
    assert!(house.store.sweep_events().await.unwrap().entries > 0);
    house.script.says("now 1", "c 3", "now 2", false);
    news(&feed, &mut poller).await;
    assert!(feed.look().await.unwrap().is_some());
    assert!(feed.holds(&point).await.unwrap() && !feed.holds(&at_start).await.unwrap());
    let mut watcher = house.watcher(&feed, Start::After(point)).await;
    let told = told(&mut watcher).await;
    assert!(told.iter().any(|one| matches!(one, Happening::Event(entry) if entry.logged)), "{told:?}");
}

#[tokio::test]
async fn those_who_list_at_once_share_one_walk_and_who_comes_later_sees_what_is_there_then() {
    let house = House::new().await;
    let (feed, _poller) = house.feed(scope()).await;
    house.script.says("list", "a 1", "list 1", true);
    house.script.says("list 1", "b 2", "list 2", false);
    let lists = || feed.list(None);
    let first = tokio::join!(lists(), lists(), lists(), lists());
    assert!([&first.0, &first.1, &first.2, &first.3].iter().all(|page| page.is_ok()));
    assert_eq!(house.script.asked("list"), 1, "all came before Dropbox was asked");
    let cursor: Arc<str> = "list 1".into();
    let goes_on = || feed.list(Some(cursor.clone()));
    let _ = tokio::join!(goes_on(), goes_on(), goes_on());
    assert_eq!(house.script.asked("list 1"), 1);
    lists().await.unwrap();
    assert_eq!(house.script.asked("list"), 2);
    let kept = feed.kept();
    assert!(kept.load(Ordering::Relaxed) > 0, "what is kept is counted");
    drop((feed, _poller));
    assert_eq!(kept.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_place_inside_a_page_of_dropbox_leads_on_unless_what_came_before_it_has_changed() {
    let house = House::new().await;
    let (feed, mut poller) = house.feed(scope()).await;
    work(&feed, &mut poller).await;
    house.script.says("old", "a 1, b 2, -c, d 4", "old 1", false);
    let paths = |told: Vec<Happening>| -> Vec<String> {
        let changes = told.into_iter().filter_map(|one| match one {
            Happening::Event(entry) => entry.change().map(super::truth::path_of),
            _ => None,
        });
        changes.collect()
    };
    let mut first = house.watcher(&feed, Start::After(ResumePoint::at("old".into()))).await;
    let mut places = Vec::new();
    while let Some(happening) = first.try_next().await.unwrap() {
        if let Happening::Event(entry) = happening {
            // As a token carries it.
            let token = entry.point.seal(house.store.keys(), &scope()).unwrap();
            places.push(ResumePoint::unseal(house.store.keys(), &scope(), &token).unwrap());
        }
    }
    assert_eq!(places.len(), 4);
    let all = paths(told(&mut house.watcher(&feed, Start::After(ResumePoint::at("old".into()))).await).await);
    for (at, place) in places.iter().enumerate() {
        let mut again = house.watcher(&feed, Start::After(place.clone())).await;
        assert_eq!(paths(told(&mut again).await), all[at + 1..], "behind {at}");
    }
    // Elsewhere, and later: what was told first is another file now; or it is the same, and what is behind it is not, so that it
    // may have been there in between. Where nothing has changed the place is good, whatever Dropbox calls the one behind it.
    for (at, page, left) in [(1, "b 2, -c, d 4, a 9", 4), (2, "a 1, b 2, -c, d 5", 4), (2, "a 1, b 2, -c, d 4", 1)] {
        let other = House::new().await;
        let (feed, mut poller) = other.feed(scope()).await;
        work(&feed, &mut poller).await;
        other.script.says("old", page, "old 2", false);
        let mut again = other.watcher(&feed, Start::After(places[at].clone())).await;
        assert_eq!(paths(told(&mut again).await).len(), left, "{page}");
    }
}

#[tokio::test]
async fn a_stream_that_nobody_reads_any_more_keeps_nothing_from_others() {
    let house = House::new().await;
    let (feed, mut poller) = house.feed(scope()).await;
    let mut stalled = Box::pin(feed.list(None));
    assert!(futures::poll!(stalled.as_mut()).is_pending());
    tokio::task::yield_now().await;
    // It has asked Dropbox, and will not be polled again.
    let others = async {
        house.watcher(&feed, Start::Snapshot).await;
        house.watcher(&feed, Start::Now).await;
        work(&feed, &mut poller).await;
    };
    tokio::time::timeout(Duration::from_secs(30), others).await.expect("nobody waits for it");
    drop(stalled);
}

#[tokio::test]
async fn every_token_of_a_snapshot_leads_to_its_end() {
    let house = House::new().await;
    let (feed, mut poller) = house.feed(scope()).await;
    work(&feed, &mut poller).await;
    house.script.says("list", "a 1", "list 1", true);
    house.script.says("list 1", "b 2", "now", false);
    let mut watcher = house.watcher(&feed, Start::Snapshot).await;
    let mut points = vec![watcher.point()];
    for happening in told(&mut watcher).await {
        if let Happening::Snapshot { point, .. } = happening {
            points.push(point);
        }
    }
    for (point, left) in points.into_iter().zip([2, 1, 0]) {
        let token = point.seal(house.store.keys(), &scope()).unwrap();
        let point = ResumePoint::unseal(house.store.keys(), &scope(), &token).unwrap();
        let mut again = house.watcher(&feed, Start::After(point)).await;
        let told = told(&mut again).await;
        let items = told.iter().map(|one| if let Happening::Snapshot { items, .. } = one { items.len() } else { 0 });
        assert_eq!(items.sum::<usize>(), left);
        let ends = told.iter().position(|one| matches!(one, Happening::SnapshotEnd { count: 2, .. }));
        let ready = told.iter().position(|one| matches!(one, Happening::Ready(_)));
        assert!(ends.is_some() && ready > ends, "{told:?}");
    }
}

#[tokio::test]
async fn before_dropbox_was_reached_nobody_is_said_to_be_up_to_date() {
    let house = House::new().await;
    let (feed, mut poller) = house.feed(scope()).await;
    let watcher = house.watcher(&feed, Start::After(ResumePoint::at("old".into()))).await;
    house.clock.advance(Duration::from_secs(60)).await;
    assert_eq!((watcher.lag(), watcher.looked_at()), (Duration::from_secs(60), None));
    work(&feed, &mut poller).await;
    assert_eq!(watcher.lag(), Duration::ZERO);
    house.clock.advance(Duration::from_secs(5)).await;
    assert_eq!(watcher.lag(), Duration::from_secs(5));
}

#[tokio::test]
async fn an_end_that_comes_with_a_look_at_the_log_is_heard() {
    let house = House::new().await;
    let (feed, mut poller) = house.feed(scope()).await;
    work(&feed, &mut poller).await;
    let mut watcher = house.watcher(&feed, Start::Now).await;
    let head = feed.state().head;
    feed.close();
    let fault = watcher.read(head.epoch, head.newest).await.unwrap_err();
    assert_eq!(fault.reason(), Reason::ServerDraining);
}

#[tokio::test]
async fn what_a_newer_version_wrote_is_passed_over_kept_or_left_to_it() {
    let house = House::new().await;
    let (feed, mut poller) = house.feed(scope()).await;
    work(&feed, &mut poller).await;
    let mut watcher = house.watcher(&feed, Start::Now).await;
    told(&mut watcher).await;
    // An entry of a kind that is not known here, between two that are.
    let row = house.store.lease_scope(feed.row().await.unwrap().id, 0).await.unwrap().unwrap();
    let change = |path: &str| {
        let change = crate::events::Change {
            kind: crate::events::ChangeKind::Created,
            basis: crate::events::Basis::Index,
            item_kind: crate::events::ItemKind::File,
            item: entry(path),
            id: None,
            previous_path: None,
            previous_rev: None,
            before: None,
            folder: None,
        };
        serde_json::to_string(&crate::events::Told::Change(Box::new(change))).unwrap()
    };
    let bodies = [change("a 1"), "{\"Locked\":{\"by\":\"x\"}}".into(), "\"Paused\"".into(), change("b 2")];
    let entry = |(at, body): (usize, String)| LogRow {
        sequence: row.head.newest + 1 + at as i64,
        drain: 1,
        observed_at: 0,
        ends: 0,
        body,
    };
    let progress: serde_json::Value = serde_json::from_str(&row.progress).unwrap();
    let mut newer = progress.as_object().unwrap().clone();
    newer.insert("hints".into(), serde_json::json!([1, { "a": 2 }]));
    newer.remove("rounds");
    let mut head = row.head;
    (head.newest, head.newest_mark) = (head.newest + 4, 5);
    let save = Save {
        scope: row.id,
        lease: row.lease,
        version: row.version,
        head,
        progress: serde_json::to_string(&newer).unwrap(),
        drain: Some(DrainRow { drain: 1, mark: 5, cursor_from: "x".into(), cursor_to: None }),
        log: bodies.into_iter().enumerate().map(entry).collect(),
        index: Default::default(),
        forget_log: false,
        looked: None,
    };
    assert!(house.store.save_events(&save).await.unwrap());
    assert!(feed.look().await.unwrap().is_some());
    let heard = told(&mut watcher).await;
    assert!(matches!(heard.as_slice(), [Happening::Event(_), Happening::Event(_)]), "{heard:?}");
    // Whoever takes the scope over keeps what it does not know.
    let (feed, mut poller) = house.feed(scope()).await;
    house.script.says("now", "d 4", "now 1", false);
    news(&feed, &mut poller).await;
    let row = house.store.lease_scope(row.id, 0).await.unwrap().unwrap();
    let kept: serde_json::Value = serde_json::from_str(&row.progress).unwrap();
    assert_eq!(kept["hints"], serde_json::json!([1, { "a": 2 }]));
    assert_eq!(kept["rounds"], 0);
    // A stage that is not known here is for the newer one to go on with.
    newer.insert("phase".into(), "Folding".into());
    let unknown = Save {
        lease: row.lease,
        version: row.version,
        head: row.head,
        progress: serde_json::to_string(&newer).unwrap(),
        drain: None,
        log: Vec::new(),
        ..save
    };
    assert!(house.store.save_events(&unknown).await.unwrap());
    assert!(feed.look().await.unwrap().is_some(), "the log is followed");
    assert_eq!(feed.state().head.newest, row.head.newest);
    let fault = poller.lease().await.unwrap_err();
    assert!(fault.reason() == Reason::StoreUnavailable && fault.retry_delay().is_some(), "{fault:?}");
}

/// A folder `a` with `b` in it, of which an index stands.
pub(super) async fn standing(house: &House) -> (Arc<Feed>, Poller) {
    house.script.says("list", "a/ 1, a/b 2", "list 1", false);
    let (feed, mut poller) = house.feed(scope()).await;
    work(&feed, &mut poller).await;
    assert_eq!(names(house, &feed).await, ["a"]);
    (feed, poller)
}

async fn begins_anew(house: &House, feed: &Arc<Feed>, place: &ResumePoint) -> bool {
    let mut watcher = house.watcher(feed, Start::After(place.clone())).await;
    is_replaced(&told(&mut watcher).await)
}

#[tokio::test]
async fn whoever_may_have_been_told_a_move_without_the_deletions_behind_it_goes_on_in_the_log_or_begins_anew() {
    let house = House::new().await;
    let (feed, mut poller) = standing(&house).await;
    let at_start = house.watcher(&feed, Start::Now).await.point();
    let mut first = house.watcher(&feed, Start::Snapshot).await;
    let mut beside: Vec<_> = told(&mut first).await.iter().map(|one| one.point().clone()).collect();
    assert_eq!(beside.len(), 4, "items, the end of them, ready, where it met the log");
    let met = beside.pop().expect("the last");
    assert_eq!((met.sequence, met.mark), (at_start.sequence, at_start.mark));
    // `b` is deleted, then `a` is moved to `x`: the index has `b` in it until the drain is over.
    house.script.says("list 1", "-a, -a/b, x/ 1", "c 1", true);
    house.script.says("c 1", "d 4", "c 2", false);
    poller.news = true;
    assert_eq!(poller.step().await.unwrap(), Step::Worked);
    let mut waits = Vec::new();
    for place in &beside {
        let mut watcher = house.watcher(&feed, Start::After(place.clone())).await;
        assert!(told(&mut watcher).await.is_empty(), "it turns out when the drain is over: {place:?}");
        assert_eq!(watcher.point(), *place);
        waits.push(watcher);
    }
    work(&feed, &mut poller).await;
    for mut watcher in waits {
        assert!(is_replaced(&told(&mut watcher).await));
    }
    let heard = told(&mut first).await;
    let kind = |one: &Happening| match one {
        Happening::Event(entry) => entry.change().map(|change| change.kind),
        _ => None,
    };
    let kinds: Vec<_> = heard.iter().filter_map(kind).collect();
    assert_eq!(kinds, [ChangeKind::Moved, ChangeKind::Created, ChangeKind::Deleted], "{heard:?}");
    let (moved, end) = (heard[0].point().clone(), heard[3].point().clone());
    for place in &beside {
        assert!(begins_anew(&house, &feed, place).await, "{place:?}");
    }
    // The log goes on from every place of its own.
    for (place, left) in [(&at_start, 4), (&met, 4), (&moved, 3), (&end, 0)] {
        let mut watcher = house.watcher(&feed, Start::After(place.clone())).await;
        assert_eq!(told(&mut watcher).await.len(), left + 1, "{place:?}");
    }
    // Where Dropbox's own words are wanted as well.
    let raw = scope().raw(true);
    let (of_raw, _raw_poller) = house.feed(raw.clone()).await;
    for (place, anew) in [(&beside[2], true), (&at_start, true), (&end, false)] {
        let token = place.seal(house.store.keys(), &scope()).unwrap();
        let place = ResumePoint::unseal(house.store.keys(), &raw, &token).unwrap();
        assert_eq!(of_raw.is_delicate(&place).await.unwrap(), Some(anew), "{place:?}");
    }
    // A place that was given behind it, and one of which nobody knows when it was.
    let behind = ResumePoint::beside("c 2".into(), feed.state().head);
    assert!(!begins_anew(&house, &feed, &behind).await);
    assert!(begins_anew(&house, &feed, &ResumePoint::at("c 2".into())).await);
    // The next drain moves the folder as it is; then the log grows old.
    house.script.says("c 2", "-x, y/ 1", "c 3", true);
    poller.news = true;
    assert_eq!(poller.step().await.unwrap(), Step::Worked);
    let mut waits = house.watcher(&feed, Start::After(behind.clone())).await;
    assert!(told(&mut waits).await.is_empty());
    work(&feed, &mut poller).await;
    let heard = told(&mut waits).await;
    assert!(matches!(heard[0], Happening::Ready(_)) && !is_replaced(&heard), "{heard:?}");
    assert!(!begins_anew(&house, &feed, &behind).await);
    house.clock.advance(EVENT_LOG_AGE + Duration::from_secs(1)).await;
    house.store.sweep_events().await.unwrap();
    drop((feed, poller));
    let (feed, mut poller) = house.feed(scope()).await;
    work(&feed, &mut poller).await;
    assert!(!feed.holds(&end).await.unwrap());
    assert!(!begins_anew(&house, &feed, &end).await && !begins_anew(&house, &feed, &behind).await);
    for place in beside.iter().chain([&at_start, &moved]) {
        assert!(begins_anew(&house, &feed, place).await, "{place:?}");
    }
    let fail = Options { on_reset: OnReset::Fail, ..Options::default() };
    let refused = Watcher::begin(feed.clone(), 1, Start::After(at_start.clone()), fail).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::ResumeTokenExpired);
    assert!(refused.message().contains("log"), "{refused}");
    // Nobody watches for long: what is known of its tokens outlives the scope.
    house.clock.advance(SCOPE_KEPT + Duration::from_secs(1)).await;
    assert_eq!(house.store.sweep_events().await.unwrap().scopes, 2);
    drop((feed, poller));
    let (feed, _poller) = house.feed(scope()).await;
    assert!(begins_anew(&house, &feed, &at_start).await && begins_anew(&house, &feed, &beside[2]).await);
    assert!(!begins_anew(&house, &feed, &end).await && !begins_anew(&house, &feed, &behind).await);
}

#[tokio::test]
async fn nothing_on_the_last_page_of_an_older_drain_is_not_taken_for_no_news() {
    let house = House::new().await;
    let (feed, _poller) = standing(&house).await;
    house.script.says("mid", "", "end", false);
    house.script.says("end", "c 3", "end 2", false);
    let place = ResumePoint::beside("mid".into(), feed.state().head);
    let heard = told(&mut house.watcher(&feed, Start::After(place)).await).await;
    let is_c = |one: &Happening| matches!(one, Happening::Event(entry) if entry.change().is_some_and(|change| change.id.as_deref() == Some("id:3")));
    assert!(heard.iter().any(is_c), "{heard:?}");
}

#[tokio::test]
async fn a_watcher_in_the_midst_of_a_folder_that_the_log_has_swept_begins_anew() {
    let house = House::new().await;
    let (feed, mut poller) = standing(&house).await;
    let expand = Options { expand: true, ..Options::default() };
    let mut watcher = Watcher::begin(feed.clone(), 1, Start::Now, expand).await.unwrap();
    house.script.says("list 1", "-a, x/ 1, x/b 2", "c 1", false);
    news(&feed, &mut poller).await;
    assert!(matches!(watcher.try_next().await.unwrap(), Some(Happening::Ready(_))));
    let folder = watcher.try_next().await.unwrap().unwrap();
    assert_eq!(folder.point().within, Some(0));
    house.clock.advance(EVENT_LOG_AGE + Duration::from_secs(1)).await;
    house.script.says("c 1", "d 4", "c 2", false);
    news(&feed, &mut poller).await;
    house.store.sweep_events().await.unwrap();
    drop((feed, poller));
    let (feed, mut poller) = house.feed(scope()).await;
    work(&feed, &mut poller).await;
    let again = Start::After(folder.point().clone());
    let mut again = Watcher::begin(feed.clone(), 1, again, expand).await.unwrap();
    assert!(is_replaced(&told(&mut again).await));
}

#[tokio::test]
async fn what_a_folder_takes_along_into_a_new_one_gives_way_to_what_now_stands_there() {
    let house = House::new().await;
    let (feed, mut poller) = standing(&house).await;
    let mut watcher = house.watcher(&feed, Start::Now).await;
    told(&mut watcher).await;
    // In one page, and nothing was where it goes: `a` moves into the new `c`, and a folder stands where its file `b` was.
    house.script.says("list 1", "-a, c/ 7, c/x/ 1, c/x/b/ 8", "c 1", false);
    news(&feed, &mut poller).await;
    let heard = told(&mut watcher).await;
    let kinds: Vec<_> = heard
        .iter()
        .filter_map(|one| match one {
            Happening::Event(entry) => entry.change().map(|change| (change.kind, super::truth::path_of(change))),
            _ => None,
        })
        .collect();
    let of = |kind, path: &str| (kind, path.to_owned());
    let expected = [
        of(ChangeKind::Created, "/W/c"),
        of(ChangeKind::Moved, "/W/c/x"),
        of(ChangeKind::Deleted, "/W/c/x/b"),
        of(ChangeKind::Created, "/W/c/x/b"),
    ];
    assert_eq!(kinds, expected, "{heard:?}");
}
