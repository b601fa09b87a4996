//! Leases of namespaces on a database server: who has one, who is next, and what is said of it.

use super::*;
use crate::limits::{WRITE_LEASE, WRITE_LEASE_GIVEN};

const PATIENCE: Duration = Duration::from_secs(30);

async fn takes(store: &Store) -> bool {
    store.take_write_lease("ns").await.unwrap().mine
}

#[tokio::test]
async fn one_process_has_it_until_it_lapses_and_others_stand_in_line_once() {
    let house = House::postgres().await;
    let (first, second) = (&house.store, house.second(KEY_1).await);
    let taken = first.take_write_lease("ns").await.unwrap();
    assert_eq!((taken.mine, taken.lasts, taken.others), (true, WRITE_LEASE, false));
    for _ in 0..2 {
        house.pass(Duration::from_secs(1)).await;
        let theirs = second.take_write_lease("ns").await.unwrap();
        assert_eq!((theirs.mine, theirs.number, theirs.others), (false, taken.number, true));
    }
    assert!(second.take_write_lease("another").await.unwrap().mine, "every namespace has its own");
    let renewed = first.take_write_lease("ns").await.unwrap();
    assert_eq!((renewed.mine, renewed.number, renewed.others), (true, taken.number, true));
    house.pass(WRITE_LEASE).await;
    let lapsed = second.take_write_lease("ns").await.unwrap();
    assert!(lapsed.mine && lapsed.number > taken.number && !lapsed.others, "{lapsed:?}");
    assert!(!takes(first).await, "it is told that it lost it");
}

#[tokio::test]
async fn it_is_given_in_the_order_of_asking_and_comes_back_to_who_wants_it_again() {
    let house = House::postgres().await;
    let first = &house.store;
    let (second, third) = (house.second(KEY_1).await, house.second(KEY_1).await);
    assert!(takes(first).await && !takes(&third).await && !takes(&second).await);
    assert_eq!(second.give_write_lease("ns", false).await.unwrap(), None, "it has none to give");
    let mut last = 0;
    for (giver, next) in [(first, &third), (&third, &second), (&second, first)] {
        let number = giver.give_write_lease("ns", std::ptr::eq(giver, first)).await.unwrap().expect("somebody waits");
        assert!(number > last);
        last = number;
        let held = next.take_write_lease("ns").await.unwrap();
        assert_eq!((held.mine, held.number), (true, number), "it is that one's now");
    }
    assert_eq!(first.give_write_lease("ns", true).await.unwrap(), None, "nobody waits");
    assert!(takes(first).await, "so it keeps it");
    // What is given to one that has died ends sooner.
    assert!(!takes(&second).await);
    first.give_write_lease("ns", true).await.unwrap().expect("it waits");
    house.pass(WRITE_LEASE_GIVEN).await;
    assert!(takes(first).await);
}

#[tokio::test]
async fn its_holder_hears_who_waits_and_who_waits_hears_when_it_comes() {
    let house = House::postgres().await;
    let (first, second) = (&house.store, house.second(KEY_1).await);
    let (mut here, mut there) = (first.write_letters(), second.write_letters());
    // Woken when it listens.
    let listens = [tokio::sync::Notify::new(), tokio::sync::Notify::new()];
    let story = async {
        for one in &listens {
            tokio::time::timeout(PATIENCE, one.notified()).await.expect("it listens");
        }
        let number = first.take_write_lease("ns").await.unwrap().number;
        assert!(!takes(&second).await);
        let asked = tokio::time::timeout(PATIENCE, here.next()).await.expect("it is told");
        assert_eq!((&*asked.namespace, asked.given, asked.number, asked.others), ("ns", false, number, true));
        for (again, others) in [(false, false), (true, true)] {
            let number = first.give_write_lease("ns", again).await.unwrap().expect("it waits");
            let given = tokio::time::timeout(PATIENCE, there.next()).await.expect("it is told");
            assert_eq!((&*given.namespace, given.given, given.number, given.others), ("ns", true, number, others));
            assert!(!takes(first).await);
            let asked = tokio::time::timeout(PATIENCE, there.next()).await.expect("it is told");
            assert_eq!((asked.given, asked.number), (false, number), "whoever asks again says so again");
            second.give_write_lease("ns", true).await.unwrap().expect("it waits");
        }
    };
    tokio::select! {
        () = story => {}
        _ = first.listen(|| listens[0].notify_one()) => {}
        _ = second.listen(|| listens[1].notify_one()) => {}
    }
}

#[tokio::test]
async fn a_process_that_ends_leaves_neither_a_lease_nor_a_place_in_line() {
    let house = House::postgres().await;
    let (first, second) = (&house.store, house.second(KEY_1).await);
    assert!(takes(first).await && !takes(&second).await);
    assert!(second.take_write_lease("its own").await.unwrap().mine);
    second.close().await;
    assert_eq!(first.give_write_lease("ns", false).await.unwrap(), None);
    assert!(first.take_write_lease("its own").await.unwrap().mine);
    assert_eq!(first.sweep().await.unwrap().write_leases, 0);
    house.pass(WRITE_LEASE * 2 + Duration::from_millis(1)).await;
    assert_eq!(first.sweep().await.unwrap().write_leases, 2);
    assert!(takes(first).await);
}

#[tokio::test]
async fn a_table_that_is_locked_answers_soon_that_it_does_not() {
    let house = House::postgres().await;
    let mut other = house.store.0.pools.durable.begin().await.unwrap();
    query("LOCK TABLE write_leases IN ACCESS EXCLUSIVE MODE").execute(&mut other).await.unwrap();
    for _ in 0..3 {
        let begun = std::time::Instant::now();
        let fault = house.store.take_write_lease("ns").await.unwrap_err();
        assert_eq!(fault.reason(), Reason::StoreUnavailable);
        assert!(begun.elapsed() < Duration::from_secs(5), "no longer than it is of use: {:?}", begun.elapsed());
    }
    other.rollback().await.unwrap();
    let taken = async { while house.store.take_write_lease("ns").await.is_err() {} };
    tokio::time::timeout(PATIENCE, taken).await.expect("it recovers");
}
