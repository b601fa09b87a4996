//! The place of now, as of the call. The end of the log is that where Dropbox has just said that it has no more; otherwise it is
//! asked, once for all who ask at once, also while a longpoll is out: its line may be dead, which shows only later. Nobody is
//! woken for it: thousands of quiet folders may be opened at one time.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::MutexGuard;

use super::{Feed, ResumePoint, State, Walks};
use crate::{apart::apart, fair::Held, fault::Result, limits::EVENT_NOW_AGE, store::LogHead};

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
        if let Some(end) = state.end().filter(|_| state.looked_since(recent)) {
            return Ok(end);
        }
        let (feed, came_at, came) = (self.clone(), Instant::now(), self.clock.steady());
        apart(async move { feed.ask_for_now(came_at, came).await }).await
    }

    async fn ask_for_now(&self, came_at: Instant, came: Duration) -> Result<ResumePoint> {
        let found = |walks: &Walks| {
            walks.now.as_ref().filter(|found| found.asked_at >= came_at).map(|found| found.place.clone())
        };
        let (mut walks, _place) = match self.turn_to_ask(found).await {
            Ok(turn) => turn,
            Err(place) => return Ok(place),
        };
        let (asked_at, asked, state) = (Instant::now(), self.clock.steady(), self.state());
        let place = match state.end() {
            Some(end) if state.looked_since(came) => return Ok(end),
            // A place in the log is better than a cursor: what comes behind it is told as the log has it, types and ids. If
            // Dropbox has more, that was there before.
            Some(end) if self.joins(state.clone()).await?.is_some() => {
                self.was_whole(state.head, asked);
                end
            }
            _ => ResumePoint::beside(self.upstream.latest(&self.scope).await?, state.head),
        };
        walks.now = Some(Box::new(Present { asked_at, place: place.clone() }));
        Ok(place)
    }

    /// The turn to walk this folder with a place among those who ask, for thousands may begin to watch at once: whoever has a place
    /// asks, and whoever waits for one keeps nobody from the folder. `found`: what makes asking needless.
    async fn turn_to_ask<T>(
        &self,
        found: impl Fn(&Walks) -> Option<T>,
    ) -> std::result::Result<(MutexGuard<'_, Walks>, Held), T> {
        let (asking, parameter) = (&self.desk.asking, self.scope.parameter.as_str());
        let mut place = None;
        loop {
            let walks = match place.is_some() {
                true => self.walks.try_lock().ok(),
                false => Some(self.walks.lock().await),
            };
            let Some(walks) = walks else {
                place = None;
                continue;
            };
            if let Some(found) = found(&walks) {
                return Err(found);
            }
            if let Some(place) = place.or_else(|| asking.try_take(parameter, 1)) {
                return Ok((walks, place));
            }
            drop(walks);
            place = Some(asking.take(parameter, 1).await);
        }
    }

    /// The log that ends there had all that there was then.
    fn was_whole(&self, head: LogHead, then: Duration) {
        self.state.send_if_modified(|state| {
            if state.head == head {
                state.proven_at = state.proven_at.max(Some(then));
            }
            false
        });
    }

    /// A new cursor.
    ///
    /// # Errors
    /// What Dropbox says.
    pub(in crate::events) async fn latest(self: &Arc<Self>) -> Result<Arc<str>> {
        let feed = self.clone();
        apart(async move {
            let Ok(_turn) = feed.turn_to_ask(|_| None::<Infallible>).await;
            feed.upstream.latest(&feed.scope).await
        })
        .await
    }
}

impl State {
    /// A longpoll has left, by a connection that is told when its line is dead (within some 45 s: the HTTP client probes
    /// quiet ones, and of a proxy's only its own hop): Dropbox would say if there were anything.
    pub(in crate::events) fn is_listening(&self) -> bool {
        self.longpoll.as_ref().is_some_and(|longpoll| longpoll.has_left())
    }

    /// The end of the log, where that was brought up to date and nothing is left to be told before its cursor.
    fn end(&self) -> Option<ResumePoint> {
        let cursor = self.cursor.clone().filter(|_| self.hot)?;
        let head = self.head;
        let place = ResumePoint::at(cursor);
        Some(ResumePoint { epoch: head.epoch, sequence: head.newest, mark: head.newest_mark, ..place })
    }

    fn looked_since(&self, then: Duration) -> bool {
        self.proven_at >= Some(then)
    }
}
