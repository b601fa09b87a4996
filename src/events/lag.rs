//! Which watched folders are behind Dropbox, for whoever operates the server. Those that rest until it is time to look, or until
//! somebody calls, are not; of the others the worst are told, so that ten thousand accounts are not ten thousand series.

use std::{sync::Arc, time::Duration};

use super::{Hub, Scope, feed::Feed};
use crate::{
    limits::{WATCH_LAG_TOLD, WATCH_LAGGARDS_MAX},
    store::ParameterId,
};

/// A watched folder that is behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Laggard {
    pub parameter: ParameterId,
    /// What stands for the folder where its name may not be seen; log lines have it, too.
    pub mark: String,
    pub lag: Duration,
}

impl Hub {
    /// The folders that are furthest behind, the worst first.
    pub fn laggards(&self) -> Vec<Laggard> {
        let feeds: Vec<Arc<Feed>> = self.0.held().by_key.values().cloned().collect();
        let lags = feeds.iter().map(|feed| (self.0.desk.lag(feed), &feed.scope));
        let told = |(lag, scope): (Duration, &Arc<Scope>)| Laggard {
            parameter: scope.parameter.clone(),
            mark: scope.mark(),
            lag,
        };
        worst(lags.collect()).into_iter().map(told).collect()
    }
}

fn worst<T>(mut lags: Vec<(Duration, T)>) -> Vec<(Duration, T)> {
    lags.retain(|(lag, _)| *lag >= WATCH_LAG_TOLD);
    lags.sort_by_key(|(lag, _)| std::cmp::Reverse(*lag));
    lags.truncate(WATCH_LAGGARDS_MAX);
    lags
}

impl super::schedule::Desk {
    /// How long a feed has not heard all it should have.
    fn lag(&self, feed: &Feed) -> Duration {
        let state = feed.state();
        if state.ended.is_some() || (state.hot && state.is_listening()) {
            return Duration::ZERO;
        }
        let heard_at = state.fresh_at.max(state.followed_at).unwrap_or(feed.born);
        let unheard = self.clock.steady().saturating_sub(heard_at);
        // While a large index is built the log is looked at in between.
        if state.hot { self.overdue(feed).min(unheard) } else { unheard }
    }
}

impl Scope {
    /// What stands for it where its path may not be seen: the beginning of `scope_key` in the store.
    pub(super) fn mark(&self) -> String {
        self.key().chars().take(12).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_ten_thousand_folders_the_worst_are_told_and_none_that_is_hardly_behind() {
        let lags = |most: u64| (0..10_000u64).map(|n| (Duration::from_secs(n * 7919 % most), n)).collect::<Vec<_>>();
        let told = worst(lags(10_000));
        assert_eq!(told.len(), WATCH_LAGGARDS_MAX);
        assert_eq!((told[0].0.as_secs(), told[WATCH_LAGGARDS_MAX - 1].0.as_secs()), (9999, 9900));
        assert!(worst(lags(WATCH_LAG_TOLD.as_secs())).is_empty());
    }
}
