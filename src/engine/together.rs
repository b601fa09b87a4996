//! What uploads and other changes that meet at a gate have in common: when one of them can still be withdrawn, whose paths get
//! in each other's way, how long a contended one waits, and how much goes with one turn.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};

use super::gate::too_late;
use crate::{fault::Result, limits, telemetry};

/// Whether a commit has left. Until then it can be withdrawn.
#[derive(Debug, Default)]
pub(super) struct Sent(AtomicU8);

const WAITING: u8 = 0;
const SENT: u8 = 1;
const WITHDRAWN: u8 = 2;

impl Sent {
    /// About to leave. False: it was withdrawn.
    pub(super) fn leaves(&self) -> bool {
        self.0.compare_exchange(WAITING, SENT, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// By its caller itself.
    pub(super) fn set(&self, sent: bool) {
        self.0.store(if sent { SENT } else { WAITING }, Ordering::Release);
    }

    pub(super) fn is_sent(&self) -> bool {
        self.0.load(Ordering::Acquire) == SENT
    }

    /// False: it has left.
    pub(super) fn withdraw(&self) -> bool {
        let held = self.0.compare_exchange(WAITING, WITHDRAWN, Ordering::AcqRel, Ordering::Acquire);
        matches!(held, Ok(_) | Err(WITHDRAWN))
    }

    pub(super) fn is_withdrawn(&self) -> bool {
        self.0.load(Ordering::Acquire) == WITHDRAWN
    }
}

/// What the caller of an entry hears of it.
pub(super) enum Heard<T> {
    Told(T),
    /// It was sent, and whoever was to tell of it is gone.
    Lost,
    /// It was not sent, and nobody will.
    Unsent,
}

/// Waits for what becomes of an entry that came `since`. One that was not sent by `latest` is withdrawn.
///
/// # Errors
/// `DEADLINE_EXCEEDED` with `sent=false`.
pub(super) async fn hear<T>(
    mut told: oneshot::Receiver<T>,
    sent: &Sent,
    latest: Option<Instant>,
    since: Instant,
) -> Result<Heard<T>> {
    let told = match latest {
        None => told.await,
        Some(at) => match tokio::time::timeout_at(at, &mut told).await {
            Ok(told) => told,
            Err(_) if sent.withdraw() => return Err(too_late(since.elapsed())),
            Err(_) => told.await,
        },
    };
    match told {
        Ok(told) => Ok(Heard::Told(told)),
        Err(_) if !sent.withdraw() => Ok(Heard::Lost),
        Err(_) if latest.is_some_and(|latest| latest <= Instant::now()) => Err(too_late(since.elapsed())),
        Err(_) => Ok(Heard::Unsent),
    }
}

/// Paths that are taken, with all that is above and below them.
#[derive(Default)]
pub(super) struct Paths {
    taken: HashSet<String>,
    above: HashSet<String>,
}

impl Paths {
    /// Those of one entry. False: one of them meets one that was taken before. They are taken all the same, for whoever comes
    /// behind it.
    pub(super) fn take(&mut self, paths: &[String]) -> bool {
        let meets = paths.iter().any(|path| self.meets(path));
        for path in paths {
            self.above.extend(above(path).map(str::to_owned));
            self.taken.insert(path.clone());
        }
        !meets
    }

    pub(super) fn meets(&self, path: &str) -> bool {
        self.taken.contains(path) || self.above.contains(path) || above(path).any(|folder| self.taken.contains(folder))
    }
}

fn above(path: &str) -> impl Iterator<Item = &str> {
    path.char_indices().filter(|(at, c)| *c == '/' && *at > 0).map(|(at, _)| &path[..at])
}

/// So long an entry waits that met contention so many times.
pub(super) fn back_off(contentions: u32) -> Duration {
    let step = limits::BACKOFF_STEP * (1 << contentions.saturating_sub(1).min(16));
    step.min(limits::BACKOFF_STEP_MAX).mul_f64(rand::random())
}

/// Entries of the next turn, where `most` were allowed and `entries` took so long: others wait for it at the gate.
pub(super) fn next_turn_max(most: usize, entries: usize, took: Duration, turn: Duration) -> usize {
    if took > turn {
        let share = turn.as_secs_f64() / took.as_secs_f64();
        ((entries as f64 * share) as usize).max(limits::BATCH_TURN_ENTRIES_MIN)
    } else if took < turn / 2 {
        (most * 2).min(limits::BATCH_ENTRIES_MAX)
    } else {
        most
    }
}

pub(super) fn count(route: &str, entries: usize) {
    let route = route.to_owned();
    metrics::counter!(telemetry::BATCH_CALLS, "dropbox.route" => route.clone()).increment(1);
    metrics::counter!(telemetry::BATCH_ENTRIES, "dropbox.route" => route).increment(entries as u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_left_cannot_be_withdrawn_and_what_was_withdrawn_does_not_leave() {
        let sent = Sent::default();
        assert!(sent.leaves() && !sent.withdraw() && sent.is_sent());
        sent.set(false);
        assert!(sent.withdraw() && sent.withdraw() && !sent.leaves() && !sent.is_sent());
    }

    #[test]
    fn paths_that_are_equal_or_lie_in_each_other_meet() {
        let mut paths = Paths::default();
        for (path, free) in [
            ("/a/b", true),
            ("/a/c", true),
            ("/a/b", false),
            ("/a", false),
            ("/a/b/c", false),
            ("/ab", true),
            ("/b", true),
            ("/b/c/d", false),
            ("/b/c", false),
            ("/c/x", true),
            ("ns:7/a", true),
            ("ns:7/a/b", false),
        ] {
            assert_eq!(paths.take(&[path.to_owned()]), free, "{path}");
        }
    }

    #[test]
    fn the_paths_of_one_entry_do_not_meet_each_other() {
        let mut paths = Paths::default();
        let pair = |from: &str, to: &str| [from.to_owned(), to.to_owned()];
        assert!(paths.take(&pair("/a", "/a/b")));
        assert!(!paths.take(&pair("/c", "/a/b/d")));
        assert!(!paths.take(&pair("/c", "/e")), "what is behind one that waits waits, too");
        assert!(paths.take(&pair("/f", "/g")));
    }

    #[test]
    fn a_turn_that_takes_too_long_makes_the_next_one_smaller() {
        let turn = Duration::from_secs(1);
        assert_eq!(next_turn_max(1000, 800, turn * 2, turn), 400);
        assert_eq!(next_turn_max(400, 400, turn * 100, turn), limits::BATCH_TURN_ENTRIES_MIN);
        assert_eq!(next_turn_max(400, 4, turn / 4, turn), 800);
        assert_eq!(next_turn_max(400, 4, turn, turn), 400);
    }
}
