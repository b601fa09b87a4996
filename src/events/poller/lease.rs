//! Who polls a scope: the lease is taken, kept, parked while nothing is to be done, and given back.

use std::{sync::Arc, time::Duration};

use super::{Feed, Poller, read_progress};
use crate::{
    fault::Result,
    limits::{EVENT_LEASE_RENEW, FEED_RETRY},
    store::ScopeRow,
};

/// Keeps a scope beside what is done with it, however long Dropbox takes for that.
pub(in crate::events) struct Keeping {
    feed: Arc<Feed>,
    scope: i64,
    lease: i64,
    due: Duration,
}

impl Keeping {
    /// Ends when another process has the scope. To be made once and polled beside all that is waited for: whoever makes it
    /// anew each round never comes to renew.
    pub(in crate::events) async fn lost(self) {
        let Keeping { feed, scope, lease, mut due } = self;
        if !feed.store.is_shared() {
            return std::future::pending().await;
        }
        loop {
            feed.clock.sleep(due.saturating_sub(feed.clock.steady())).await;
            // While a longpoll is out Dropbox would say if it had more than the log has.
            let looked = feed.is_listening().then_some(Duration::ZERO);
            let pause = match feed.store.park_scope(scope, lease, Duration::ZERO, looked).await {
                Ok(true) => EVENT_LEASE_RENEW,
                Ok(false) => return,
                Err(fault) => {
                    tracing::debug!(%fault, "the lease of a scope was not renewed; it is tried again");
                    FEED_RETRY
                }
            };
            due = feed.clock.steady() + pause;
        }
    }
}

impl Poller {
    /// Takes the scope, or goes on holding it; false while another process polls it.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub(in crate::events) async fn lease(&mut self) -> Result<bool> {
        self.lease_for(false).await
    }

    /// The same; `urgent`: also from a process that has parked it.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub(in crate::events) async fn lease_for(&mut self, urgent: bool) -> Result<bool> {
        let (store, id, lease) = (self.store(), self.row.id, self.row.lease);
        let taken = match urgent {
            true => store.lease_parked_scope(id, lease).await?,
            false => store.lease_scope(id, lease).await?,
        };
        self.take(taken).await
    }

    /// From the last taking on.
    pub(in crate::events) fn keeping(&self) -> Keeping {
        let due = self.feed.clock.steady() + EVENT_LEASE_RENEW;
        Keeping { feed: self.feed.clone(), scope: self.row.id, lease: self.row.lease, due }
    }

    /// Another process took it in the midst of a step: what that one found out is not saved. Few of them are a paused process
    /// or a store that did not answer; many are worth a look.
    pub(in crate::events) fn lost(&mut self) {
        self.held = false;
        let (parameter, scope) = (self.scope().parameter.as_str(), self.scope().mark());
        tracing::warn!(parameter, scope, "another process took a watched folder over while this one was at work on it");
    }

    async fn take(&mut self, taken: Option<ScopeRow>) -> Result<bool> {
        self.held = taken.is_some();
        let Some(row) = taken else { return Ok(false) };
        if (row.lease, row.version) != (self.row.lease, self.row.version) {
            // Another process was at it meanwhile.
            match read_progress(&row.progress) {
                Ok(progress) => self.progress = progress,
                Err(fault) => {
                    // A newer version has to go on with it.
                    self.store().release_scope(row.id, row.lease).await?;
                    return Err(fault);
                }
            }
            (self.news, self.overtaken) = (true, true);
            self.gone_after = 0;
        }
        self.row = row;
        self.feed.publish(self.row.version, self.row.head, &self.progress, Vec::new());
        Ok(true)
    }

    /// So long ago Dropbox was asked what changed.
    pub(super) fn looked(&self) -> Option<Duration> {
        self.looked_at.map(|at| self.feed.clock.steady().saturating_sub(at))
    }

    /// This process took the scope, and nothing says that it lost it.
    pub(in crate::events) fn holds(&self) -> bool {
        self.held
    }

    /// Gives the scope back; the other processes are told.
    pub(in crate::events) async fn release(&self) {
        if !self.store().is_shared() {
            return;
        }
        if let Err(fault) = self.store().release_scope(self.row.id, self.row.lease).await {
            tracing::debug!(%fault, "the lease of a scope was not given back; it runs out");
        }
        self.feed.tell_saved();
    }

    /// Keeps the scope without being at it.
    pub(in crate::events) async fn park(&self, span: Duration) {
        if !self.store().is_shared() {
            return;
        }
        let looked = self.looked().filter(|_| self.is_at_rest());
        if let Err(fault) = self.store().park_scope(self.row.id, self.row.lease, span, looked).await {
            tracing::debug!(%fault, "the lease of a scope was not made longer; others may take it");
        }
    }
}
