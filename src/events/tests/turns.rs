//! Who waits for whom where many ask about one folder. A real store, and a Dropbox that answers when it is told to.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use tokio::sync::Semaphore;

use super::{
    steps::{House, names, scope, work},
    truth::page,
};
use crate::{
    credentials::Ending,
    dropbox::Underway,
    events::{
        News, Page, Poll, Scope, Upstream,
        feed::Feed,
        poller::{Poller, Step},
    },
    fault::{Reason, Result},
    limits::{EVENT_NOW_AGE, FEED_RETRY_MAX, INDEX_PAGES_AHEAD},
};

const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Slow {
    /// Behind the cursor `old` there is one file.
    pages: Semaphore,
    revisions: Semaphore,
    asked: AtomicUsize,
    looked_up: AtomicUsize,
}

impl Upstream for Slow {
    fn list<'a>(&'a self, _: &'a Scope, _: u32) -> BoxFuture<'a, Result<Page>> {
        async move { Ok(Page { entries: Vec::new(), cursor: "now".into(), has_more: false }) }.boxed()
    }

    fn go_on<'a>(&'a self, _: &'a Scope, cursor: &'a str) -> BoxFuture<'a, Result<Page>> {
        async move {
            self.asked.fetch_add(1, Ordering::Relaxed);
            drop(self.pages.acquire().await);
            let entries = if cursor == "old" { page("a 1") } else { Vec::new() };
            Ok(Page { entries, cursor: "now".into(), has_more: false })
        }
        .boxed()
    }

    fn latest<'a>(&'a self, _: &'a Scope) -> BoxFuture<'a, Result<Arc<str>>> {
        async move { Ok("now".into()) }.boxed()
    }

    fn longpoll<'a>(&'a self, _: &'a Scope, _: &'a str, _: Duration, _: Arc<Underway>) -> BoxFuture<'a, Result<News>> {
        std::future::pending().boxed()
    }

    fn is_new<'a>(&'a self, _: &'a Scope, _: &'a str) -> BoxFuture<'a, Result<bool>> {
        async move {
            self.looked_up.fetch_add(1, Ordering::Relaxed);
            drop(self.revisions.acquire().await);
            Ok(true)
        }
        .boxed()
    }

    fn ending<'a>(&'a self, _: &'a Scope) -> BoxFuture<'a, Result<Option<Ending>>> {
        async move { Ok(None) }.boxed()
    }
}

/// A folder whose log is up to date.
async fn followed() -> (Arc<Slow>, Arc<Feed>, House) {
    let house = House::new().await;
    let slow = Slow {
        pages: Semaphore::new(1),
        revisions: Semaphore::new(0),
        asked: AtomicUsize::new(0),
        looked_up: AtomicUsize::new(0),
    };
    let slow = Arc::new(slow);
    let feed = Feed::alone(&scope(), &house.store, slow.clone());
    let mut poller = Poller::open(feed.clone()).await.unwrap();
    assert!(poller.lease().await.unwrap());
    while poller.step().await.unwrap() != Step::Idle {}
    feed.set_hot(poller.looked_at);
    (slow, feed, house)
}

async fn until(count: &AtomicUsize, least: usize) {
    let reached = async {
        while count.load(Ordering::Relaxed) < least {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, reached).await.expect("it is asked");
}

#[tokio::test]
async fn whoever_polls_does_not_wait_while_a_watchers_page_is_looked_up_file_by_file() {
    let (slow, feed, _house) = followed().await;
    let behind = feed.clone();
    let drained = tokio::spawn(async move { behind.drain("old".into()).await });
    until(&slow.looked_up, 1).await;
    let turn = tokio::time::timeout(PATIENCE, feed.turn()).await;
    drop(turn.expect("the one who polls may ask"));
    // And who wants the same page waits for the one that is made.
    let (behind, asked) = (feed.clone(), slow.asked.load(Ordering::Relaxed));
    let same = tokio::spawn(async move { behind.drain("old".into()).await });
    tokio::task::yield_now().await;
    slow.revisions.add_permits(1);
    let (one, other) = (drained.await.unwrap().unwrap(), same.await.unwrap().unwrap());
    assert!(Arc::ptr_eq(&one, &other) && one.entries.len() == 1);
    assert_eq!(slow.asked.load(Ordering::Relaxed), asked);
}

#[tokio::test]
async fn those_who_ask_for_now_at_once_are_answered_by_one_question_and_a_later_one_by_another() {
    let (slow, feed, house) = followed().await;
    let begun = slow.asked.load(Ordering::Relaxed);
    assert_eq!(feed.now().await.unwrap(), feed.now().await.unwrap());
    assert_eq!(slow.asked.load(Ordering::Relaxed), begun, "it was asked just now");
    // Also while a longpoll is out: it may never be answered.
    let longpoll = Arc::<Underway>::default();
    longpoll.leave();
    feed.set_longpoll(Some(longpoll));
    house.clock.advance(EVENT_NOW_AGE * 2).await;
    let page = slow.pages.acquire().await.unwrap();
    let ask = || {
        let feed = feed.clone();
        tokio::spawn(async move { feed.now().await.unwrap() })
    };
    // The first one is at it; the others came later, and share the next question.
    let first = ask();
    until(&slow.asked, begun + 1).await;
    house.clock.advance(Duration::from_millis(1)).await;
    let others: Vec<_> = (0..50).map(|_| ask()).collect();
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    drop(page);
    let end = first.await.unwrap();
    for other in others {
        assert_eq!(other.await.unwrap(), end);
    }
    assert_eq!(slow.asked.load(Ordering::Relaxed), begun + 2);
    assert!(feed.holds(&end).await.unwrap(), "a place in the log");
    assert_eq!(feed.now().await.unwrap(), end);
    assert_eq!(slow.asked.load(Ordering::Relaxed), begun + 2, "and it was asked just now again");
}

/// While a page of the listing goes into the index Dropbox makes the next one.
#[tokio::test]
async fn the_next_page_of_a_listing_is_asked_for_while_one_is_written_if_there_is_room() {
    for has_room in [true, false] {
        let house = House::new().await;
        let (feed, mut poller) = house.feed(scope()).await;
        feed.wish(1, Some(Poll::Longpoll));
        let script = &house.script;
        script.says("list", "a 1", "list 1", true);
        script.says("list 1", "b 2", "list 2", true);
        // What Dropbox says instead of a page is heard when it is asked again.
        script.refuses("list 2", Reason::DropboxUnavailable);
        script.says("list 2", "c 3", "list 3", false);
        let taken: Vec<_> = std::iter::from_fn(|| feed.room_ahead()).take(if has_room { 0 } else { 99 }).collect();
        assert_eq!(taken.len(), if has_room { 0 } else { INDEX_PAGES_AHEAD });
        while script.asked("list") == 0 {
            assert_eq!(poller.step().await.unwrap(), Step::Worked);
        }
        assert_eq!((names(&house, &feed).await, script.asked("list 1")), (vec!["a".to_owned()], has_room.into()));
        assert_eq!(poller.step().await.unwrap(), Step::Worked);
        assert_eq!((script.asked("list 1"), script.asked("list 2")), (1, has_room.into()));
        work(&feed, &mut poller).await;
        house.clock.advance(FEED_RETRY_MAX).await;
        work(&feed, &mut poller).await;
        assert_eq!((names(&house, &feed).await.concat(), script.asked("list 2")), ("abc".to_owned(), 2));
    }
}
