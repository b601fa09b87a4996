//! Appends of one parallel upload, compared with each other. One that comes along at less than a quarter of what its siblings do,
//! for some seconds, hangs on a bad connection: that one is closed, and then its part is sent again on another, once. What all
//! of them suffer is the line's or Dropbox's, and a second connection would not help.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use tokio::{sync::Notify, time::Instant};

use crate::{
    dropbox::{Given, Underway},
    limits,
};

/// The appends in flight, and how fast the last ones were.
#[derive(Debug, Default)]
pub(super) struct Siblings {
    /// By offset.
    afoot: BTreeMap<u64, Sibling>,
    /// When they ended, and bytes in a second. The oldest first.
    done: VecDeque<(Instant, f64)>,
    next_look: Option<Instant>,
}

#[derive(Debug)]
struct Sibling {
    watched: Arc<Watched>,
    /// The attempt that lags behind, and since when it does.
    behind: Option<(Instant, Instant)>,
    asked: bool,
}

/// What an append and who compares it share.
#[derive(Debug, Default)]
pub(super) struct Watched {
    pub underway: Arc<Underway>,
    rescue: Notify,
}

impl Watched {
    /// Ends when the request is to be dropped and its part sent again; at most once. Cancel-safe.
    pub(super) async fn is_lost(&self) {
        self.rescue.notified().await;
    }
}

fn rate(given: Given, now: Instant) -> f64 {
    given.bytes as f64 / now.saturating_duration_since(given.since).as_secs_f64().max(1e-6)
}

impl Siblings {
    pub(super) fn begin(&mut self, offset: u64) -> Arc<Watched> {
        let watched = Arc::new(Watched::default());
        self.afoot.insert(offset, Sibling { watched: watched.clone(), behind: None, asked: false });
        watched
    }

    /// The append at `offset` has come back, and Dropbox has its bytes.
    pub(super) fn ended(&mut self, offset: u64) {
        let Some(sibling) = self.afoot.remove(&offset) else { return };
        let now = Instant::now();
        if let Some(given) = sibling.watched.underway.given() {
            self.done.push_back((now, rate(given, now)));
        }
        if self.done.len() > limits::SIBLINGS_REMEMBERED {
            self.done.pop_front();
        }
    }

    /// Looks now and then for as long as it is polled; never ends. Cancel-safe.
    pub(super) async fn watch(&mut self) -> std::convert::Infallible {
        loop {
            let at = *self.next_look.get_or_insert_with(|| Instant::now() + limits::SIBLINGS_LOOK);
            tokio::time::sleep_until(at).await;
            self.next_look = None;
            let given: Vec<_> =
                self.afoot.iter().map(|(offset, one)| (*offset, one.watched.underway.given())).collect();
            for offset in self.look(&given, Instant::now()) {
                tracing::info!(
                    offset,
                    "an append lags far behind its siblings; it is sent again on another connection"
                );
                metrics::counter!(crate::telemetry::TRANSFER_RESCUED).increment(1);
                if let Some(sibling) = self.afoot.get(&offset) {
                    sibling.watched.rescue.notify_one();
                }
            }
        }
    }

    /// Those that lag behind for long enough. `given`: of each in flight, by offset.
    fn look(&mut self, given: &[(u64, Option<Given>)], now: Instant) -> Vec<u64> {
        let mut lost = Vec::new();
        for (offset, given_here) in given {
            let others = given.iter().filter(|(other, _)| other != offset).filter_map(|(_, given)| *given);
            let median = self.median(others, now);
            let Some(sibling) = self.afoot.get_mut(offset) else { continue };
            let lags = given_here.filter(|given| median.is_some_and(|median| rate(*given, now) < median / 4.0));
            sibling.behind = lags.map(|given| match sibling.behind {
                Some((attempt, since)) if attempt == given.since => (attempt, since),
                _ => (given.since, now),
            });
            let is_long =
                sibling.behind.is_some_and(|(_, since)| now.duration_since(since) >= limits::SIBLINGS_PATIENCE);
            if is_long && !sibling.asked {
                sibling.asked = true;
                lost.push(*offset);
            }
        }
        lost
    }

    /// How fast others are: those in flight for long enough to tell, and those that ended of late. Only where there are
    /// neither, those that ended before: a line that has become slow is not held against the last one on it.
    fn median(&self, in_flight: impl Iterator<Item = Given>, now: Instant) -> Option<f64> {
        let age = |since: Instant| now.saturating_duration_since(since);
        let old = in_flight.filter(|given| age(given.since) >= limits::SIBLINGS_TELLING).map(|given| rate(given, now));
        let of_late = self.done.iter().filter(|(ended, _)| age(*ended) <= limits::SIBLINGS_PATIENCE);
        let mut rates: Vec<f64> = old.chain(of_late.map(|(_, rate)| *rate)).collect();
        if rates.is_empty() {
            rates.extend(self.done.iter().map(|(_, rate)| *rate));
        }
        let middle = rates.len() / 2;
        (!rates.is_empty()).then(|| *rates.select_nth_unstable_by(middle, f64::total_cmp).1)
    }

    #[cfg(test)]
    fn done_at(&mut self, ended: Instant, rate: f64) {
        self.done.push_back((ended, rate));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MIB: u64 = limits::MIB;

    /// Appends since `begun`, each so many MiB a second, looked at every half second up to `seconds`: which are lost, and when.
    fn lost(siblings: &mut Siblings, begun: Instant, rates: &[f64], seconds: u64) -> Vec<(u64, Duration)> {
        for offset in 0..rates.len() as u64 {
            siblings.begin(offset);
        }
        let mut lost = Vec::new();
        for step in 1..=seconds * 2 {
            let span = limits::SIBLINGS_LOOK * u32::try_from(step).expect("few");
            let given: Vec<_> = (0..)
                .zip(rates)
                .map(|(offset, rate)| {
                    (offset, Some(Given { since: begun, bytes: (rate * MIB as f64 * span.as_secs_f64()) as u64 }))
                })
                .collect();
            lost.extend(siblings.look(&given, begun + span).into_iter().map(|offset| (offset, span)));
        }
        lost
    }

    #[tokio::test]
    async fn one_that_lags_behind_the_others_for_five_seconds_is_lost_once_and_no_other_is() {
        let begun = Instant::now();
        let lost = lost(&mut Siblings::default(), begun, &[1.0, 1.1, 0.2, 0.9, 0.3], 60);
        assert_eq!(lost.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [2]);
        let patience = limits::SIBLINGS_PATIENCE;
        assert!(lost[0].1 >= patience && lost[0].1 <= patience + limits::SIBLINGS_TELLING * 2, "{lost:?}");
    }

    #[tokio::test]
    async fn what_all_suffer_is_no_connections_fault() {
        let begun = Instant::now();
        assert_eq!(lost(&mut Siblings::default(), begun, &[0.0, 0.0, 0.0], 60), []);
        // The line was fast until a moment ago.
        let mut siblings = Siblings::default();
        (0..5).for_each(|_| siblings.done_at(begun, 20.0 * MIB as f64));
        assert_eq!(lost(&mut siblings, begun, &[0.1, 0.12, 0.09, 0.1], 60), []);
    }

    #[tokio::test]
    async fn the_last_one_is_compared_with_those_before_it() {
        let begun = Instant::now();
        let mut siblings = Siblings::default();
        (0..3).for_each(|_| siblings.done_at(begun, 2.0 * MIB as f64));
        assert_eq!(lost(&mut siblings, begun, &[0.4], 30).len(), 1);
        let mut siblings = Siblings::default();
        (0..3).for_each(|_| siblings.done_at(begun, 2.0 * MIB as f64));
        assert_eq!(lost(&mut siblings, begun, &[0.6], 30), []);
        assert_eq!(lost(&mut Siblings::default(), begun, &[0.0], 30), [], "there is nobody to compare it with");
    }

    #[tokio::test]
    async fn an_attempt_that_began_anew_has_its_own_five_seconds() {
        let begun = Instant::now();
        let mut siblings = Siblings::default();
        siblings.begin(0);
        (0..3).for_each(|_| siblings.done_at(begun, 2.0 * MIB as f64));
        for second in 1..20 {
            let now = begun + Duration::from_secs(second);
            let since = begun + Duration::from_secs(second / 4 * 4);
            assert!(siblings.look(&[(0, Some(Given { since, bytes: 0 }))], now).is_empty(), "{second}");
        }
        // One that queues is not slow either.
        assert!(siblings.look(&[(0, None)], begun + Duration::from_secs(60)).is_empty());
    }
}
