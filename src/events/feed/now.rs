//! The place of now, as of the call. The end of the log is that while Dropbox would say if it had more, or has just said that
//! it has not; otherwise it is asked, once for all who ask at once. Nobody is woken for it: thousands of quiet folders may be
//! opened at one time.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Feed, ResumePoint, State};
use crate::{apart::apart, fault::Result, limits::EVENT_NOW_AGE};

/// What was found out for one of those who ask, for the others who asked before Dropbox was.
pub(super) struct Present {
    asked_at: Instant,
    place: ResumePoint,
}

impl Feed {
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
