//! Appends of one parallel upload, compared with each other. One that comes along at less than a quarter of what its siblings do,
//! for some seconds, hangs on a bad connection: that one is closed, and then its part is sent again on another, once. What all
//! of them suffer is the line's or Dropbox's, and a second connection would not help.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
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
    /// Bytes of the append.
    size: u64,
    trail: Trail,
    /// The attempt that lags behind, and since when it does.
    behind: Option<(Instant, Instant)>,
    asked: bool,
}

/// How far an attempt was at the last looks: as many as lie in the window, and the one before.
#[derive(Debug, Default)]
struct Trail(VecDeque<(Instant, u64)>);

impl Trail {
    fn note(&mut self, given: Given, now: Instant) {
        // Bytes are only ever added: an attempt that begins anew has its own beginning.
        if self.0.front().is_none_or(|(at, _)| *at < given.since) {
            self.0.clear();
            self.0.push_back((given.since, 0));
        }
        self.0.push_back((now, given.bytes));
        while self.0.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) >= limits::SIBLINGS_WINDOW) {
            self.0.pop_front();
        }
    }
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

impl Sibling {
    /// Bytes a second, and over what span. Of what is still on its way to the socket it is the last of the window; what has left
    /// wholly has nothing more to show, so of that it is the whole time until its answer comes.
    fn rate(&self, given: Given, now: Instant) -> (f64, Duration) {
        let last = self.trail.0.front().filter(|_| !self.has_left(given));
        let (since, before) = last.copied().unwrap_or((given.since, 0));
        let span = now.saturating_duration_since(since);
        (given.bytes.saturating_sub(before) as f64 / span.as_secs_f64().max(1e-6), span)
    }

    fn has_left(&self, given: Given) -> bool {
        given.bytes >= self.size
    }
}

impl Siblings {
    pub(super) fn begin(&mut self, offset: u64, size: u64) -> Arc<Watched> {
        let watched = Arc::new(Watched::default());
        let sibling = Sibling { watched: watched.clone(), size, trail: Trail::default(), behind: None, asked: false };
        self.afoot.insert(offset, sibling);
        watched
    }

    /// The append at `offset` has come back, and Dropbox has its bytes.
    pub(super) fn ended(&mut self, offset: u64) {
        let Some(sibling) = self.afoot.remove(&offset) else { return };
        let now = Instant::now();
        if let Some(given) = sibling.watched.underway.given() {
            self.done.push_back((now, sibling.rate(given, now).0));
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
        let mut rates = Vec::with_capacity(given.len());
        for (offset, given) in given {
            let (Some(sibling), Some(given)) = (self.afoot.get_mut(offset), *given) else { continue };
            sibling.trail.note(given, now);
            rates.push((*offset, given, sibling.rate(given, now)));
        }
        // One that queues, or begins anew, is not slow.
        let is_rated = |offset: &u64| rates.iter().any(|(rated, ..)| rated == offset);
        self.afoot.iter_mut().filter(|(offset, _)| !is_rated(offset)).for_each(|(_, sibling)| sibling.behind = None);
        let mut lost = Vec::new();
        for (offset, given, (rate, span)) in &rates {
            let others =
                rates.iter().filter(|(other, ..)| other != offset).map(|(_, given, (rate, _))| (*given, *rate));
            let median = self.median(others, now);
            let Some(sibling) = self.afoot.get_mut(offset) else { continue };
            // A whole window tells by itself of so long.
            let has_left = sibling.has_left(*given);
            let is_telling = has_left || *span >= limits::SIBLINGS_WINDOW;
            // Younger ones beside it are looked at twice: what their sockets took at once looks like speed.
            let patience = if has_left { limits::SIBLINGS_PATIENCE } else { limits::SIBLINGS_LOOK };
            let lags = is_telling && median.is_some_and(|median| *rate < median / 4.0);
            sibling.behind = lags.then_some(match sibling.behind {
                Some((attempt, since)) if attempt == given.since => (attempt, since),
                _ => (given.since, now),
            });
            let is_long = sibling.behind.is_some_and(|(_, since)| now.duration_since(since) >= patience);
            if is_long && !sibling.asked {
                sibling.asked = true;
                lost.push(*offset);
            }
        }
        lost
    }

    /// How fast others are: those in flight for long enough to tell, and those that ended of late. Only where there are
    /// neither, those that ended before: a line that has become slow is not held against the last one on it.
    fn median(&self, in_flight: impl Iterator<Item = (Given, f64)>, now: Instant) -> Option<f64> {
        let age = |since: Instant| now.saturating_duration_since(since);
        let old = in_flight.filter(|(given, _)| age(given.since) >= limits::SIBLINGS_TELLING).map(|(_, rate)| rate);
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
    use super::*;

    const MIB: u64 = limits::MIB;

    /// Appends of so many MiB since `begun`, each so far after that many seconds, looked at every half second: which are lost, and
    /// when.
    fn looked_at(
        siblings: &mut Siblings,
        begun: Instant,
        (count, size): (u64, u64),
        far: impl Fn(u64, f64) -> f64,
        seconds: u64,
    ) -> Vec<(u64, Duration)> {
        (0..count).for_each(|offset| _ = siblings.begin(offset, size * MIB));
        let mut lost = Vec::new();
        for step in 1..=seconds * 2 {
            let span = limits::SIBLINGS_LOOK * u32::try_from(step).expect("few");
            let at = |offset| ((far(offset, span.as_secs_f64()) * MIB as f64) as u64).min(size * MIB);
            let given: Vec<_> = (0..count).map(|n| (n, Some(Given { since: begun, bytes: at(n) }))).collect();
            lost.extend(siblings.look(&given, begun + span).into_iter().map(|offset| (offset, span)));
        }
        lost
    }

    /// The same, each so many MiB a second.
    fn lost(siblings: &mut Siblings, begun: Instant, rates: &[f64], seconds: u64) -> Vec<(u64, Duration)> {
        looked_at(siblings, begun, (rates.len() as u64, 1000), |n, second| rates[n as usize] * second, seconds)
    }

    #[tokio::test]
    async fn one_that_came_along_well_and_then_stands_still_is_lost_within_six_seconds() {
        // It would take eighty seconds more until the average of its life says so.
        let begun = Instant::now();
        let far = |offset, second: f64| if offset == 1 { second.min(20.0) } else { second };
        let lost = looked_at(&mut Siblings::default(), begun, (4, 1000), far, 60);
        assert_eq!(lost.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [1]);
        let still = lost[0].1 - Duration::from_secs(20);
        assert!(still >= limits::SIBLINGS_PATIENCE && still <= limits::SIBLINGS_PATIENCE + limits::SIBLINGS_TELLING);
        // A pause that is shorter is nobody's fault.
        let far = |offset, second: f64| if offset == 1 && second > 20.0 { (second - 4.0).max(20.0) } else { second };
        assert_eq!(looked_at(&mut Siblings::default(), begun, (4, 1000), far, 60), []);
    }

    #[tokio::test]
    async fn what_has_left_wholly_is_judged_by_its_whole_time_and_not_by_its_silence() {
        // Half of it lay in the socket at once; its answer comes when the line has carried it.
        let begun = Instant::now();
        let far = |offset, second: f64| if offset == 0 { 8.0 } else { second * 0.5 };
        assert_eq!(looked_at(&mut Siblings::default(), begun, (4, 8), far, 15), []);
        let lost = looked_at(&mut Siblings::default(), begun, (4, 8), |offset, second| far(offset, second * 100.0), 15);
        assert_eq!(lost, [], "all have left, and all wait");
    }

    #[tokio::test]
    async fn one_that_lags_behind_the_others_for_five_seconds_is_lost_once_and_no_other_is() {
        let begun = Instant::now();
        let lost = lost(&mut Siblings::default(), begun, &[1.0, 1.1, 0.2, 0.9, 0.3], 60);
        assert_eq!(lost.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [2]);
        // What is known of it is less than a window until then, and that may have been a pause.
        let window = limits::SIBLINGS_WINDOW;
        assert!(lost[0].1 >= window && lost[0].1 <= window + limits::SIBLINGS_LOOK * 2, "{lost:?}");
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
        siblings.begin(0, 8 * MIB);
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
