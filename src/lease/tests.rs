//! What a lease does, told what a store and other processes say. The store itself is in `store/tests/write_leases.rs`, both
//! together with real processes in `tests/it/gate/fleet.rs`.

use std::pin::Pin;

use futures::{FutureExt as _, future::BoxFuture};

use super::*;

/// At a time that a test moves; nothing here takes as long as what it moves over.
struct House {
    lease: Lease,
    queue: Fair,
    keepers: mpsc::Receiver<Lease>,
    now: Instant,
}

fn house() -> House {
    let queue = Fair::new(1);
    let (sender, keepers) = mpsc::channel(8);
    House { lease: Lease::new("ns".into(), queue.clone(), sender), queue, keepers, now: Instant::now() }
}

impl House {
    fn step(&self) -> Step {
        self.lease.step(self.now)
    }

    fn enter_now(&self) -> Option<Pass> {
        self.lease.go(&mut self.lease.lock(), self.now)
    }

    /// Ends a write at this time.
    fn ends(&self, pass: Pass) {
        drop(pass);
        self.lease.lock().used_at = Some(self.now);
    }

    fn rests(&self) -> Instant {
        match self.step() {
            Step::Rest(until) => until,
            other => panic!("{other:?}"),
        }
    }

    /// Somebody who waits.
    fn entering(&self) -> Pin<Box<dyn Future<Output = Pass> + Send>> {
        let lease = self.lease.clone();
        let mut entering: BoxFuture<'static, Pass> = Box::pin(async move { lease.enter().await });
        assert!(entering.as_mut().now_or_never().is_none(), "it has to wait");
        entering
    }

    /// With one who waited, whom the store told that it is ours.
    fn ours() -> (House, Pass) {
        let mut house = house();
        let mut entering = house.entering();
        assert!(house.keepers.try_recv().is_ok() && house.keepers.try_recv().is_err(), "one keeper is called");
        assert_eq!(house.step(), Step::Ask);
        house.lease.is_ours(house.now, 1, false);
        let pass = entering.as_mut().now_or_never().expect("it is ours");
        assert!(pass.is_with_lease());
        (house, pass)
    }
}

#[tokio::test]
async fn it_is_asked_for_once_and_kept_for_two_seconds_behind_the_last_write() {
    let (mut house, pass) = House::ours();
    house.ends(pass);
    for _ in 0..9 {
        house.now += Duration::from_millis(100);
        house.ends(house.enter_now().expect("at hand"));
    }
    house.now = house.rests();
    assert_eq!(house.rests() - house.now, WRITE_LEASE_RENEW, "the last write was more than two seconds before its end");
    let pass = house.enter_now().expect("still ours");
    assert!(house.lease.rung().now_or_never().is_some());
    assert_eq!(house.step(), Step::Renew);
    let asked_at = house.now;
    assert!(house.enter_now().is_some(), "nobody waits for a renewal");
    house.lease.is_ours(asked_at, 1, false);
    house.ends(pass);
    house.now += WRITE_LEASE_KEPT;
    assert_eq!(house.step(), Step::Rest(asked_at + WRITE_LEASE), "nobody writes any more");
    assert!(house.enter_now().is_some(), "two seconds behind a write");
    house.now += WRITE_LEASE;
    assert_eq!(house.step(), Step::End);
    assert!(house.enter_now().is_none());
}

#[tokio::test]
async fn a_store_that_keeps_silent_is_waited_for_once_and_a_late_answer_counts() {
    let mut house = house();
    let first = house.lease.enter().await;
    assert!(house.now.elapsed() >= WRITE_LEASE_PATIENCE && !first.is_with_lease());
    assert_eq!(house.lease.enter_now().map(|pass| pass.is_with_lease()), Some(false), "nobody waits again");
    assert!(house.keepers.try_recv().is_ok());
    house.lease.is_ours(Instant::now(), 1, false);
    assert!(house.lease.enter_now().expect("it is ours").is_with_lease());
}

#[tokio::test]
async fn a_store_that_fails_is_left_alone_for_a_second() {
    let mut house = house();
    let mut entering = house.entering();
    assert_eq!(house.step(), Step::Ask);
    house.lease.failed(house.now);
    assert!(!entering.as_mut().now_or_never().expect("at once").is_with_lease());
    assert_eq!(house.step(), Step::Rest(house.now + WRITE_LEASE_WITHOUT));
    house.now += WRITE_LEASE_WITHOUT;
    assert_eq!(house.step(), Step::End);
    assert!(house.enter_now().is_none(), "it is asked again");
}

#[tokio::test]
async fn who_waits_goes_without_when_no_keeper_is_to_be_had() {
    let House { lease, keepers, .. } = house();
    drop(keepers);
    let pass = lease.enter().now_or_never().expect("at once");
    assert!(!pass.is_with_lease());
    let state = lease.lock();
    assert!(!state.kept && matches!(state.standing, Standing::Without { .. }), "{:?}", state.standing);
}

#[tokio::test]
async fn a_lease_that_nobody_can_give_away_any_more_is_used_until_it_ends() {
    let (House { lease, keepers, now, .. }, pass) = House::ours();
    // Another one wants it, and its keeper is gone with all others.
    lease.is_wanted(1);
    drop((pass, keepers));
    lease.is_left(now);
    let pass = lease.enter().now_or_never().expect("it does not go round and round");
    assert!(pass.is_with_lease());
}

#[tokio::test]
async fn who_waits_goes_without_when_the_keeper_breaks_down_and_a_later_one_gets_another() {
    let mut house = house();
    let mut entering = house.entering();
    assert!(house.keepers.try_recv().is_ok());
    assert_eq!(house.step(), Step::Ask);
    house.lease.is_left(house.now);
    assert!(!entering.as_mut().now_or_never().expect("at once").is_with_lease());
    house.now += WRITE_LEASE_WITHOUT;
    assert_eq!(house.step(), Step::End);
    let _later = house.entering();
    assert!(house.keepers.try_recv().is_ok(), "another keeper is called");
}

#[tokio::test]
async fn a_renewal_that_fails_is_tried_again_and_takes_nothing_away() {
    let (mut house, _pass) = House::ours();
    house.now += WRITE_LEASE - WRITE_LEASE_RENEW;
    assert_eq!(house.step(), Step::Renew, "a call is in flight");
    house.lease.failed(house.now);
    assert!(house.enter_now().expect("ours until its end").is_with_lease());
    house.now = house.rests();
    assert_eq!(house.step(), Step::Renew);
}

#[tokio::test]
async fn another_one_gets_it_behind_the_call_in_flight_and_it_comes_back_in_turn() {
    let (house, pass) = House::ours();
    let place = house.queue.try_take("p", 1).expect("free");
    let mut waits = std::pin::pin!(house.queue.take("p", 1));
    assert!(waits.as_mut().now_or_never().is_none());
    house.lease.is_wanted(1);
    house.rests();
    assert!(house.enter_now().is_none(), "it is another's turn");
    house.ends(pass);
    assert_eq!(house.step(), Step::Give { again: true }, "somebody stands in the queue");
    house.lease.was_given(house.now, Some(2), true);
    drop(place);
    let mut entering = house.entering();
    assert_eq!(house.rests(), house.now + WRITE_LEASE_LOOK, "it is told when it comes back");
    house.lease.comes(house.now, 3, true);
    house.rests();
    let pass = entering.as_mut().now_or_never().expect("one of ours goes first");
    assert!(pass.is_with_lease() && house.enter_now().is_none(), "others wait: it is one turn");
    house.ends(pass);
    assert!(matches!(house.step(), Step::Give { .. }));
}

#[tokio::test]
async fn what_nobody_here_wants_any_more_is_passed_on_at_once() {
    let mut house = house();
    house.lease.comes(house.now, 7, true);
    assert!(house.keepers.try_recv().is_ok(), "also a lease that nobody looked after");
    assert_eq!(house.step(), Step::Give { again: false });
    house.lease.was_given(house.now, Some(8), false);
    assert_eq!(house.step(), Step::End);
    // Asked for what the store says is ours.
    house.lease.is_wanted(8);
    assert_eq!(house.step(), Step::Give { again: false });
    house.lease.was_given(house.now, None, false);
    assert_eq!(house.step(), Step::End);
}

#[tokio::test]
async fn who_leaves_lets_it_go_on() {
    let house = house();
    let entering = house.entering();
    assert_eq!(house.step(), Step::Ask);
    house.lease.is_ours(house.now, 1, true);
    house.rests();
    let _ = house.lease.rung().now_or_never();
    drop(entering);
    assert!(house.lease.rung().now_or_never().is_some());
    assert_eq!(house.step(), Step::Give { again: false });
    house.lease.was_given(house.now, None, false);
    assert!(house.enter_now().is_some(), "nobody wanted it after all");
}

#[tokio::test]
async fn what_is_heard_late_is_not_believed() {
    let (house, pass) = House::ours();
    house.lease.is_wanted(1);
    house.ends(pass);
    assert!(matches!(house.step(), Step::Give { .. }));
    // It came back before the answer to the giving was read.
    house.lease.comes(house.now, 3, false);
    house.lease.was_given(house.now, Some(2), true);
    house.ends(house.enter_now().expect("ours again"));
    // An answer from before.
    house.lease.is_theirs(house.now, 2, WRITE_LEASE);
    house.ends(house.enter_now().expect("still ours"));
    house.lease.is_wanted(1);
    house.rests();
    // Another one has it, and a letter of before comes.
    house.lease.is_theirs(house.now, 5, WRITE_LEASE);
    house.lease.comes(house.now, 3, false);
    assert!(house.enter_now().is_none());
}

#[tokio::test]
async fn who_waits_looks_again_also_when_no_letter_comes() {
    let mut house = house();
    let _entering = house.entering();
    assert_eq!(house.step(), Step::Ask);
    for _ in 0..3 {
        house.lease.is_theirs(house.now, 4, Duration::from_secs(2));
        assert_eq!(house.rests(), house.now + WRITE_LEASE_LOOK);
        house.now += WRITE_LEASE_LOOK;
        assert_eq!(house.step(), Step::Ask);
    }
    let short = Duration::from_millis(30);
    house.lease.is_theirs(house.now, 4, short);
    assert_eq!(house.rests(), house.now + short, "it ends then");
}
