//! Whether a failed attempt is repeated, and when. Pure: no clock, no network, no randomness of its own.

use std::time::Duration;

use super::Repeat;
use crate::limits;

/// What a failed attempt leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// It never left, or a connection was refused: any route may go again.
    NotSent,
    /// Dropbox refused to run it now (429, lock contention), and may have said until when.
    Refused { retry_after: Option<Duration> },
    /// It may have arrived; what it did is unknown (5xx, a cut).
    Unclear,
    /// An answer that stands, or a timeout of ours.
    Final,
}

/// The wait before the next attempt, or `None` when this failure is the call's.
///
/// `attempt` counts from 0, `left` is the time to the deadline, `chance` is uniform in 0..1.
pub(super) fn wait(
    failure: Failure,
    repeat: Repeat,
    attempt: u32,
    left: Option<Duration>,
    chance: f64,
) -> Option<Duration> {
    if attempt >= limits::REPEATS_MAX {
        return None;
    }
    let back_off = limits::BACKOFF_STEP.saturating_mul(1 << attempt).min(limits::BACKOFF_STEP_MAX).mul_f64(chance);
    let span = match failure {
        Failure::Final => return None,
        Failure::Unclear if repeat == Repeat::Never => return None,
        Failure::Unclear | Failure::NotSent => back_off,
        // Nobody comes earlier than told, and not all at the same moment.
        Failure::Refused { retry_after: Some(told) } => told + limits::BACKOFF_STEP.mul_f64(chance),
        Failure::Refused { retry_after: None } => back_off,
    };
    let bound = left.unwrap_or(Duration::MAX).min(limits::REPEAT_WAIT_MAX);
    (span < bound).then_some(span)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Repeat; 4] = [Repeat::Read, Repeat::Safe, Repeat::Verify, Repeat::Never];

    #[test]
    fn what_was_not_executed_is_repeated_on_every_route() {
        for repeat in ALL {
            assert!(wait(Failure::NotSent, repeat, 0, None, 0.5).is_some());
            assert!(wait(Failure::Refused { retry_after: None }, repeat, 0, None, 0.5).is_some());
        }
    }

    #[test]
    fn an_unknown_outcome_is_repeated_only_where_that_is_safe() {
        for repeat in ALL {
            assert_eq!(wait(Failure::Unclear, repeat, 0, None, 0.5).is_some(), repeat != Repeat::Never);
        }
    }

    #[test]
    fn an_answer_is_never_repeated() {
        assert_eq!(wait(Failure::Final, Repeat::Read, 0, None, 0.0), None);
    }

    #[test]
    fn at_most_five_repeats_are_made() {
        assert!(wait(Failure::NotSent, Repeat::Read, 4, None, 0.5).is_some());
        assert_eq!(wait(Failure::NotSent, Repeat::Read, 5, None, 0.5), None);
    }

    #[test]
    fn the_wait_is_never_shorter_than_dropbox_said_and_never_past_the_deadline() {
        let told = Duration::from_secs(7);
        let failure = Failure::Refused { retry_after: Some(told) };
        assert_eq!(wait(failure, Repeat::Never, 0, None, 0.0), Some(told));
        assert!(wait(failure, Repeat::Never, 3, None, 0.9) > Some(told));
        assert_eq!(wait(failure, Repeat::Never, 0, Some(Duration::from_secs(7)), 0.0), None);
        let hours = Failure::Refused { retry_after: Some(Duration::from_secs(7200)) };
        assert_eq!(wait(hours, Repeat::Never, 0, None, 0.0), None);
    }

    #[test]
    fn the_back_off_doubles_and_is_fully_random() {
        let top = |attempt| wait(Failure::NotSent, Repeat::Read, attempt, None, 1.0).expect("repeated");
        assert_eq!(top(1), limits::BACKOFF_STEP * 2);
        assert_eq!(top(4), limits::BACKOFF_STEP * 16);
        assert_eq!(wait(Failure::NotSent, Repeat::Read, 4, None, 0.0), Some(Duration::ZERO));
    }
}
