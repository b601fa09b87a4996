//! Who polls a scope: the lease is taken, kept, parked while nothing is to be done, and given back.

use std::time::Duration;

use super::{Poller, read_progress};
use crate::fault::Result;

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
        if let Err(fault) = self.store().park_scope(self.row.id, self.row.lease, span).await {
            tracing::debug!(%fault, "the lease of a scope was not made longer; others may take it");
        }
    }
}
