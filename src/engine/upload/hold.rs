//! A writer's hold on its upload: until it ends, whoever takes the upload over waits. A lane holds it while it sends, a commit
//! until its outcome is written down; it ends with the last of them.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::Shared;

pub(super) struct Hold {
    shared: Arc<Shared>,
    id: String,
    writer: i64,
    /// Without a row there is nothing to let go.
    ended: AtomicBool,
    disputed: AtomicBool,
}

impl Hold {
    pub(super) fn new(shared: &Arc<Shared>, id: &str, writer: i64, stored: bool) -> Arc<Hold> {
        let (ended, disputed) = (AtomicBool::new(!stored), AtomicBool::new(false));
        Arc::new(Hold { shared: shared.clone(), id: id.to_owned(), writer, ended, disputed })
    }

    /// The row says already that this writer has stopped.
    pub(super) fn has_ended(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// The caller's bytes are not those that are there, or not what it said of them: written down before it hears of that, or else
    /// with the end of the hold.
    pub(super) async fn dispute(&self) {
        if self.ended.load(Ordering::Relaxed) {
            return;
        }
        // Whoever waits for this may leave in its midst.
        self.disputed.store(true, Ordering::Relaxed);
        match self.shared.store.dispute_upload(&self.id).await {
            Ok(()) => self.disputed.store(false, Ordering::Relaxed),
            Err(fault) => tracing::warn!(%fault, "that an upload met two sources could not be written down yet"),
        }
    }

    fn letting_go(&self) -> impl Future<Output = ()> + Send + 'static {
        let disputed = self.disputed.load(Ordering::Relaxed);
        let (shared, id, writer) = (self.shared.clone(), self.id.clone(), self.writer);
        async move {
            if let Err(fault) = shared.store.release_upload(&id, writer, disputed).await {
                tracing::warn!(%fault, disputed, "an upload could not be released; a resume waits for it");
            }
        }
    }

    /// Lets go here and now, if nobody else holds it.
    pub(super) async fn end(self: Arc<Self>) {
        if let Some(last) = Arc::into_inner(self)
            && !last.ended.swap(true, Ordering::Relaxed)
        {
            last.letting_go().await;
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.ended.swap(true, Ordering::Relaxed) {
            self.shared.tasks.spawn(self.letting_go());
        }
    }
}

/// Commits that this process has under way, by upload: what becomes of them is known soon, so others wait for that.
#[derive(Default)]
pub(super) struct UnderWay(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl UnderWay {
    /// From the intent until the outcome is written down.
    pub(super) async fn begin(&self, id: &str) -> tokio::sync::OwnedMutexGuard<()> {
        self.of(id).lock_owned().await
    }

    /// The same, if no other commit is at it.
    pub(super) fn begin_at_once(&self, id: &str) -> Option<tokio::sync::OwnedMutexGuard<()>> {
        self.of(id).try_lock_owned().ok()
    }

    fn of(&self, id: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut commits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those nobody holds or waits for have ended.
        commits.retain(|_, commit| Arc::strong_count(commit) > 1);
        commits.entry(id.to_owned()).or_default().clone()
    }

    /// Waits for the outcome of a commit, if there is one under way.
    pub(super) async fn ended(&self, id: &str) {
        let commit = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        if let Some(commit) = commit {
            drop(commit.lock().await);
        }
    }
}
