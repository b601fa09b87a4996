//! What goes on beside the calls: changes followed, stores swept, gauges set, and what may change while we run (keys,
//! certificates, the keys of issuers) read again. Each task ends with the process and harms nobody when it is cut.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::Notify;

use super::life::Life;
use crate::{
    access::{
        Authenticator,
        tls::{Reload, Tls},
    },
    clock::SharedClock,
    credentials::Resolver,
    engine::{blocks::Blocks, download::Downloads, gate::Fleet},
    limits,
    ready::Ready,
    seal::KeyRing,
    store::Store,
    telemetry,
};

impl Life {
    /// What happens beside the calls: each task ends with the process and harms nobody when it is cut.
    pub(super) fn keep_house(&self, clock: SharedClock, resolver: Arc<Resolver>, blocks: Blocks, downloads: Downloads) {
        let until_end = |work: futures::future::BoxFuture<'static, ()>| {
            let ended = self.ended.clone();
            self.background.spawn(async move {
                tokio::select! {
                    () = work => {}
                    () = ended.cancelled() => {}
                }
            });
        };
        let following = resolver.clone();
        until_end(Box::pin(async move {
            following.follow_changes().await;
        }));
        until_end(Box::pin(async move {
            downloads.watch_stalled().await;
        }));
        let uploads = self.uploads.clone();
        let (store, ready) = (self.store.clone(), self.ready.clone());
        let sweeper = clock.clone();
        until_end(Box::pin(async move {
            loop {
                let followed = resolver.silence() < limits::CHANGES_UNHEARD_MAX;
                ready.set_store(store.check().await.is_ok() && followed);
                if let Some(good) = store.parameters_file_good() {
                    ready.set_parameters_file(good);
                    metrics::gauge!(telemetry::PARAMETERS_FILE_BROKEN).set(if good { 0.0 } else { 1.0 });
                }
                blocks.trim();
                let used = blocks.used_bytes() + uploads.waiting_bytes();
                metrics::gauge!(telemetry::BUFFER_BYTES).set(used as f64);
                if let Ok(lost) = store.count_reauthorizations().await {
                    metrics::gauge!(telemetry::REAUTHORIZATION_REQUIRED).set(lost as f64);
                }
                telemetry::upkeep();
                clock.sleep(limits::HOUSEKEEPING).await;
            }
        }));
        let store = self.store.clone();
        until_end(Box::pin(async move {
            loop {
                if let Err(fault) = store.sweep().await {
                    tracing::warn!(%fault, "expired rows could not be swept");
                }
                sweeper.sleep(limits::SWEEP).await;
            }
        }));
    }

    /// The leases of namespaces, where other processes may be at the same store.
    pub(super) fn keep_leases(&self, fleet: Option<Fleet>) {
        let Some(fleet) = fleet else { return };
        let ended = self.ended.clone();
        self.background.spawn(async move {
            tokio::select! {
                () = fleet.keep() => {}
                () = ended.cancelled() => {}
            }
        });
    }

    /// The sealing keys, which may come from a command that takes its time.
    pub(super) fn keep_keys(&self, clock: SharedClock, reread: Arc<Notify>) {
        let (store, ready, ended) = (self.store.clone(), self.ready.clone(), self.ended.clone());
        self.background.spawn(async move {
            let mut asked = false;
            let mut missing = Missing::default();
            loop {
                let changed = tokio::select! {
                    changed = follow_keys(store.keys(), &ready, asked) => changed,
                    () = ended.cancelled() => return,
                };
                missing.look(&store, changed, &clock).await;
                let broken = missing.keys.len() + usize::from(!ready.facts().keys);
                metrics::gauge!(telemetry::KEYS_BROKEN).set(broken as f64);
                if changed && let Err(fault) = store.check().await {
                    tracing::warn!(%fault, "which keys this process has was not told; it will be with the next heartbeat");
                }
                asked = tokio::select! {
                    () = clock.sleep(limits::HOUSEKEEPING) => false,
                    () = reread.notified() => true,
                    () = ended.cancelled() => return,
                };
            }
        });
    }

    /// Keeps what tells callers apart up to date: certificates, and the keys of their tokens' issuer.
    pub(super) fn keep_door(
        &self,
        clock: SharedClock,
        authenticator: Authenticator,
        tls: Option<Arc<Tls>>,
        reread: Arc<Notify>,
    ) {
        let (ready, ended) = (self.ready.clone(), self.ended.clone());
        self.background.spawn(async move {
            let mut warned_at = None;
            let mut now = false;
            loop {
                if let Some(tls) = &tls {
                    keep_certificate(tls, &clock, &mut warned_at);
                }
                // The answer of a slow issuer must not hold up a drain.
                tokio::select! {
                    () = authenticator.refresh_keys(now) => {}
                    () = ended.cancelled() => return,
                }
                ready.set_callers(authenticator.is_ready());
                if let Some(tally) = authenticator.tally() {
                    for (outcome, count) in [("same", tally.same), ("changed", tally.changed), ("failed", tally.failed)]
                    {
                        metrics::counter!(telemetry::AUTH_KEYS_READS, "outcome" => outcome).absolute(count);
                    }
                }
                tokio::select! {
                    () = clock.sleep(limits::HOUSEKEEPING) => now = false,
                    () = reread.notified() => now = true,
                    () = ended.cancelled() => return,
                }
            }
        });
    }
}

/// Reads the sealing keys again; true if they are others now. The log hears of a change, not of every look.
async fn follow_keys(keys: &KeyRing, ready: &Ready, asked: bool) -> bool {
    let was_good = ready.facts().keys;
    let read = keys.reload(asked).await;
    match &read {
        Ok(true) => tracing::info!(keys = keys.key_ids().join(", "), "the sealing keys changed; the first one seals"),
        Ok(false) if !was_good => tracing::info!("the sealing keys can be read again"),
        Err(fault) if was_good || asked => {
            tracing::error!(%fault, "the sealing keys cannot be read again; those in memory hold");
        }
        _ => {}
    }
    ready.set_keys(read.is_ok());
    read.unwrap_or(false)
}

/// Keys that the store needs and the ring does not have.
#[derive(Default)]
struct Missing {
    keys: BTreeMap<String, u64>,
    looked_at: Option<SystemTime>,
}

impl Missing {
    /// At start, with other keys, and now and then while some are missing: parameters may be deleted or made anew.
    async fn look(&mut self, store: &Store, changed: bool, clock: &SharedClock) {
        let now = clock.now();
        let long_ago = |at: SystemTime| now.duration_since(at).unwrap_or_default() >= limits::MISSING_KEYS_LOOK;
        if !changed && self.looked_at.is_some_and(|at| self.keys.is_empty() || !long_ago(at)) {
            return;
        }
        match store.missing_keys().await {
            Ok(keys) => {
                for (key, parameters) in keys.iter().filter(|(key, _)| !self.keys.contains_key(*key)) {
                    tracing::warn!(
                        key,
                        parameters,
                        "a sealing key is missing: what it sealed cannot be opened, and these application parameters \
                         cannot be used until it is put back"
                    );
                }
                if keys.is_empty() && !self.keys.is_empty() {
                    tracing::info!("no sealing key is missing any more");
                }
                (self.keys, self.looked_at) = (keys, Some(now));
            }
            // The next turn looks again.
            Err(fault) => tracing::debug!(%fault, "whether a sealing key is missing could not be told"),
        }
    }
}

/// Takes a changed certificate, and says when the one that holds runs out.
fn keep_certificate(tls: &Tls, clock: &SharedClock, warned_at: &mut Option<SystemTime>) {
    let told = match tls.reload() {
        Reload::Same | Reload::Refused { again: true, .. } => None,
        Reload::Changed => {
            tracing::info!("the certificate was changed; new connections see the new one");
            *warned_at = None;
            Some("changed")
        }
        Reload::Refused { why, again: false } => {
            tracing::error!(why, "the changed certificate, key or authorities cannot be used; the old ones still hold");
            Some("refused")
        }
    };
    if let Some(outcome) = told {
        metrics::counter!(telemetry::TLS_RELOADS, "outcome" => outcome).increment(1);
    }
    let expires_at = tls.expires_at().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    metrics::gauge!(telemetry::TLS_CERTIFICATE_EXPIRY).set(expires_at.as_secs_f64());
    let now = clock.now();
    let again = warned_at.is_none_or(|at| now.duration_since(at).unwrap_or_default() >= limits::CERTIFICATE_WARN_EVERY);
    match tls.runs_out().filter(|_| again) {
        None => return,
        Some(Duration::ZERO) => tracing::error!("the certificate has expired: clients refuse new connections"),
        Some(left) => tracing::warn!(hours = left.as_secs() / 3600, "the certificate expires soon"),
    }
    *warned_at = Some(now);
}
