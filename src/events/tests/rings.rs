//! Webhook calls: how soon each is followed by a question to Dropbox, and how many questions a storm of them comes to.

use std::{sync::Arc, time::Duration};

use super::hub::{House, scope};
use crate::{
    clock::Clock as _,
    events::{
        Poll, Scope,
        feed::Feed,
        schedule::{Desk, Orders, Rest, Ring, Take},
    },
    limits::{EVENT_LEASE, EVENT_RING_GRACE, FEED_SPREAD, RING_GAP, RING_GAP_CROWD_MAX, RING_GAP_MAX, SAFETY_POLL},
};

#[tokio::test]
async fn a_thousand_calls_a_second_are_a_few_questions_and_the_last_is_followed_by_one() {
    let house = House::new(true).await;
    let _watcher = house.watch_all(&["/in".into(), "/other".into()]).await;
    let before = (house.dropbox.asked("/in").len(), house.dropbox.asked("/other").len());
    let mut last = Duration::ZERO;
    for call in 0..1000 {
        last = house.clock.steady();
        house.hub.wake(&["dbid:/in".into(), "dbid:nobody".into()]);
        house.clock.advance(Duration::from_millis(1)).await;
        if call % 10 == 0 {
            house.rest().await;
        }
    }
    house.pass(RING_GAP_MAX, Duration::from_millis(10)).await;
    let asked = house.dropbox.asked("/in");
    let questions = asked.len() - before.0;
    assert!((2..=15).contains(&questions), "{questions}");
    assert!(*asked.last().unwrap() >= last, "nothing was rung for in vain");
    assert_eq!(house.dropbox.asked("/other").len(), before.1, "nobody else is asked for");
    // One call after a while is followed at once.
    house.pass(Duration::from_secs(2), Duration::from_millis(100)).await;
    let rung = house.clock.steady();
    house.hub.wake(&["dbid:/in".into()]);
    house.rest().await;
    assert_eq!(*house.dropbox.asked("/in").last().unwrap(), rung);
    house.end().await;
}

/// How long a call waits at most for the question that follows it, of an account of which so many folders are watched and
/// about which somebody else's changes make one call in each such time.
async fn followed_within(folders: usize, every: Duration) -> Duration {
    let house = House::new(true).await;
    let mut watchers = Vec::new();
    for n in 0..folders {
        watchers.push(house.watch(Scope { account: "dbid:A".into(), ..scope(&format!("/{n}")) }).await);
    }
    house.rest().await;
    let mut calls = Vec::new();
    let end = house.clock.steady() + Duration::from_millis(1500);
    while house.clock.steady() < end {
        calls.push(house.clock.steady());
        house.hub.wake(&["dbid:A".into()]);
        house.rest().await;
        house.pass(every, Duration::from_millis(10).min(every)).await;
    }
    house.pass(Duration::from_secs(1), Duration::from_millis(10)).await;
    let asked = house.dropbox.asked("/0");
    let waited = calls.iter().map(|call| *asked.iter().find(|at| *at >= call).expect("it was followed") - *call);
    let waited = waited.max().unwrap();
    house.end().await;
    waited
}

#[tokio::test]
async fn a_neighbour_that_is_never_quiet_holds_up_no_news_for_longer_than_a_tenth_of_a_second() {
    let millis = Duration::from_millis;
    // As often as there can be something new: whoever has many folders shares the questions between them.
    for (folders, most) in [(1, RING_GAP_MAX), (3, 3 * RING_GAP_MAX), (20, RING_GAP_CROWD_MAX)] {
        let waited = followed_within(folders, millis(5)).await;
        assert!(waited > RING_GAP && waited <= most + millis(10), "{folders} folders: {waited:?}");
    }
    // Some ten times a second, however many folders there are.
    for folders in [1, 20] {
        assert_eq!(followed_within(folders, millis(90)).await, Duration::ZERO, "{folders} folders");
    }
}

#[tokio::test]
async fn a_webhook_call_that_comes_while_nobody_watches_is_followed_when_somebody_does() {
    let house = House::new(true).await;
    let watcher = house.watch_all(&["/in".into()]).await;
    drop(watcher);
    let asked = || house.dropbox.asked("/in").len();
    let before = asked();
    house.hub.wake(&["dbid:/in".into()]);
    house.rest().await;
    assert_eq!(asked(), before, "nobody wants to know");
    let _watcher = house.watch(scope("/in")).await;
    house.rest().await;
    assert_eq!(asked(), before + 1);
    house.end().await;
}

/// Takes the feed to work on it, if it is due by now; what the worker is to know.
fn taken(desk: &Desk, feed: &Feed) -> Option<Orders> {
    match desk.take() {
        Take::Work(_) => Some(desk.orders(feed)),
        Take::Over(_) | Take::Wait(_) => None,
    }
}

#[tokio::test]
async fn a_call_that_reached_a_process_that_follows_is_seen_to_until_somebody_has_asked_dropbox_behind_it() {
    let house = House::new(true).await;
    let clock = house.clock.clone();
    let desk = Desk::new(Arc::new(clock.clone()), true, true);
    let store = house.hub.0.parts.store.clone();
    let feed = Feed::of(Arc::new(scope("/in")), store, house.dropbox.clone(), desk.clone());
    feed.wish(1, Some(Poll::Longpoll));
    let parked = || desk.rest(&feed, Rest::Elsewhere(SAFETY_POLL), false);
    let heard_that_it_looked = || feed.set_hot(Some(clock.steady()));
    desk.begin(&feed, true);
    assert!(taken(&desk, &feed).is_some());
    parked();
    clock.advance(FEED_SPREAD * 2).await;
    assert!(taken(&desk, &feed).is_none(), "another process has it for ten minutes");
    // One that is heeded in time.
    desk.ring(&feed, Ring::Webhook { folders: 1 });
    clock.advance(EVENT_RING_GRACE / 2).await;
    assert!(taken(&desk, &feed).is_none(), "it is left to the other one");
    heard_that_it_looked();
    // What that one saved is read.
    desk.ring(&feed, Ring::Saved);
    assert_eq!(taken(&desk, &feed).and_then(|orders| orders.rung_at), None);
    parked();
    clock.advance(EVENT_RING_GRACE * 2).await;
    assert!(taken(&desk, &feed).is_none(), "it was heeded");
    // Of two, the first is heeded; then the other process dies.
    desk.ring(&feed, Ring::Webhook { folders: 1 });
    clock.advance(EVENT_RING_GRACE / 2).await;
    heard_that_it_looked();
    clock.advance(EVENT_RING_GRACE / 4).await;
    let second = clock.steady();
    desk.ring(&feed, Ring::Webhook { folders: 1 });
    desk.ring(&feed, Ring::Saved);
    assert_eq!(taken(&desk, &feed).and_then(|orders| orders.rung_at), None);
    parked();
    clock.advance(EVENT_RING_GRACE / 2).await;
    assert!(taken(&desk, &feed).is_none(), "the second one has its own time");
    clock.advance(EVENT_RING_GRACE / 2).await;
    let orders = taken(&desk, &feed).expect("nobody looked in time");
    assert_eq!(orders.rung_at, Some(second));
    assert!(feed.is_overdue(orders.rung_at));
    // It is at work, and dies at that: its lease is waited for, and the call is not forgotten.
    desk.rest(&feed, Rest::Elsewhere(EVENT_LEASE), false);
    clock.advance(EVENT_LEASE - Duration::from_millis(1)).await;
    assert!(taken(&desk, &feed).is_none(), "whoever is at work is not looked at all the time");
    clock.advance(Duration::from_millis(1)).await;
    assert_eq!(taken(&desk, &feed).and_then(|orders| orders.rung_at), Some(second));
    desk.rest(&feed, Rest::For { wait: SAFETY_POLL, in_turn: false }, false);
    clock.advance(EVENT_LEASE).await;
    assert!(taken(&desk, &feed).is_none());
    house.end().await;
}
