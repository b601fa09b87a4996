//! The place of now, as of the call. The end of the log is that while Dropbox would say if it had more, or has just said that
//! it has not; otherwise it is asked, once for all who ask at once. Nobody is woken for it: thousands of quiet folders may be
//! opened at one time. And which cursors that were given so turned out to be places in the log.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{Feed, ResumePoint, State};
use crate::{
    apart::apart,
    fault::Result,
    limits::{EVENT_MET_KEPT, EVENT_NOW_AGE},
    store::LogHead,
};

/// What was found out for one of those who ask, for the others who asked before Dropbox was.
pub(super) struct Present {
    asked_at: Instant,
    place: ResumePoint,
}

/// Cursors of watchers that had nothing behind them when the log had nothing either, and where the log was then.
#[derive(Default)]
pub(super) struct Met(Mutex<VecDeque<(Arc<str>, LogHead)>>);

impl Met {
    pub(super) fn add(&self, cursor: &Arc<str>, head: LogHead) {
        let mut met = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The first place stays: from there on nothing is missed.
        if met.iter().any(|(there, _)| there == cursor) {
            return;
        }
        if met.len() == EVENT_MET_KEPT {
            met.pop_front();
        }
        met.push_back((cursor.clone(), head));
    }

    fn find(&self, cursor: &Arc<str>) -> Option<LogHead> {
        let met = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        met.iter().find(|(there, _)| there == cursor).map(|(_, head)| *head)
    }
}

impl Feed {
    /// The same place in the log, for one beside it that is known to be there: whoever comes back with a cursor from before the
    /// log began is then told what the log has, types and ids, instead of Dropbox's words about it.
    pub(in crate::events) fn met(&self, point: &ResumePoint) -> Option<ResumePoint> {
        let beside = point.known.is_some() && point.listed.is_none() && point.page.is_none() && !point.unsettled;
        let LogHead { epoch, newest: sequence, newest_mark: mark, .. } =
            self.met.find(&point.cursor).filter(|_| beside)?;
        Some(ResumePoint { epoch, sequence, mark, ..ResumePoint::at(point.cursor.clone()) })
    }

    /// The place behind what there was when this was called.
    ///
    /// # Errors
    /// What Dropbox says.
    pub(in crate::events) async fn now(self: &Arc<Self>) -> Result<ResumePoint> {
        let state = self.state();
        let recent = self.clock.steady().saturating_sub(EVENT_NOW_AGE);
        if let Some(end) = state.end().filter(|_| state.listening || state.looked_since(recent)) {
            return Ok(end);
        }
        let (feed, came_at, came) = (self.clone(), Instant::now(), self.clock.steady());
        apart(async move {
            // Thousands may begin to watch at once.
            let _place = feed.desk.asking.take(feed.scope.parameter.as_str(), 1).await;
            feed.ask_for_now(came_at, came).await
        })
        .await
    }

    async fn ask_for_now(&self, came_at: Instant, came: Duration) -> Result<ResumePoint> {
        let mut walks = self.walks.lock().await;
        if let Some(found) = walks.now.as_ref().filter(|found| found.asked_at >= came_at) {
            return Ok(found.place.clone());
        }
        let (asked_at, state) = (Instant::now(), self.state());
        let place = match state.end() {
            Some(end) if state.looked_since(came) => return Ok(end),
            // A place in the log is better than a cursor: what comes behind it is told as the log has it, types and ids. If
            // Dropbox has more, that was there before.
            Some(end) if self.joins(state.clone()).await?.is_some() => end,
            _ => ResumePoint::beside(self.upstream.latest(&self.scope).await?, state.head),
        };
        walks.now = Some(Box::new(Present { asked_at, place: place.clone() }));
        Ok(place)
    }

    /// A new cursor.
    ///
    /// # Errors
    /// What Dropbox says.
    pub(in crate::events) async fn latest(self: &Arc<Self>) -> Result<Arc<str>> {
        let feed = self.clone();
        apart(async move {
            let _place = feed.desk.asking.take(feed.scope.parameter.as_str(), 1).await;
            let _turn = feed.walks.lock().await;
            feed.upstream.latest(&feed.scope).await
        })
        .await
    }
}

impl State {
    /// The end of the log, where that was brought up to date and nothing is left to be told before its cursor.
    fn end(&self) -> Option<ResumePoint> {
        let cursor = self.cursor.clone().filter(|_| self.hot)?;
        let head = self.head;
        let place = ResumePoint::at(cursor);
        Some(ResumePoint { epoch: head.epoch, sequence: head.newest, mark: head.newest_mark, ..place })
    }

    fn looked_since(&self, then: Duration) -> bool {
        self.fresh_at >= Some(then)
    }
}
