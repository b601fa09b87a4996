//! What the hub asks of Dropbox: a few questions about a folder. A trait, since the model test answers them from a tree that
//! it can stop between any two steps; in the connector it is [`Dropbox`], which opens a caller for each question, so that a
//! feed of hours uses the credentials of now.

use std::{fmt, sync::Arc, time::Duration};

use dropbox_sdk::types::files;
use futures::{FutureExt as _, future::BoxFuture};

use super::Scope;
use crate::{
    credentials::{Ending, Resolver},
    dropbox::{Caller, Underway, routes},
    fault::Result,
    limits::{LONGPOLL_JITTER_MAX, LONGPOLL_MARGIN},
};

/// A page of a listing, or of what changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    pub entries: Vec<files::Metadata>,
    pub cursor: Arc<str>,
    pub has_more: bool,
}

impl Page {
    pub(super) fn is_last_and_empty(&self) -> bool {
        self.entries.is_empty() && !self.has_more
    }
}

/// What a longpoll said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct News {
    pub changes: bool,
    /// Not before this should Dropbox be asked again.
    pub backoff: Option<Duration>,
}

pub trait Upstream: Send + Sync + fmt::Debug {
    /// The first page of all there is.
    fn list<'a>(&'a self, scope: &'a Scope, limit: u32) -> BoxFuture<'a, Result<Page>>;
    /// The next page: of the listing, or of what changed since it ended.
    fn go_on<'a>(&'a self, scope: &'a Scope, cursor: &'a str) -> BoxFuture<'a, Result<Page>>;
    /// A cursor for now.
    fn latest<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, Result<Arc<str>>>;
    /// Waits for news, `wait` at most and what Dropbox adds to it; `asked` says whether the question has left.
    fn longpoll<'a>(
        &'a self,
        scope: &'a Scope,
        cursor: &'a str,
        wait: Duration,
        asked: Arc<Underway>,
    ) -> BoxFuture<'a, Result<News>>;
    /// Whether the file at this path has one revision only.
    fn is_new<'a>(&'a self, scope: &'a Scope, path: &'a str) -> BoxFuture<'a, Result<bool>>;
    /// Resolves when the parameter may not be used any more, with the reason.
    fn ending<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, Result<Option<Ending>>>;
}

/// Dropbox, through the application parameter of the scope.
#[derive(Debug)]
pub struct Dropbox {
    resolver: Arc<Resolver>,
}

impl Dropbox {
    pub fn new(resolver: Arc<Resolver>) -> Arc<Dropbox> {
        Arc::new(Dropbox { resolver })
    }

    async fn opened(&self, scope: &Scope) -> Result<(Caller, Ending)> {
        self.resolver.reopen(&scope.parameter, &scope.uid, scope.act_as.clone(), scope.root.clone()).await
    }

    async fn caller(&self, scope: &Scope) -> Result<Caller> {
        Ok(self.opened(scope).await?.0)
    }
}

impl Upstream for Dropbox {
    fn list<'a>(&'a self, scope: &'a Scope, limit: u32) -> BoxFuture<'a, Result<Page>> {
        async move {
            let arg = scope.list_arg(limit);
            Ok(page(self.caller(scope).await?.call(&routes::LIST_FOLDER, &arg).await?.value))
        }
        .boxed()
    }

    fn go_on<'a>(&'a self, scope: &'a Scope, cursor: &'a str) -> BoxFuture<'a, Result<Page>> {
        async move {
            let arg = files::ListFolderContinueArg::new(cursor.to_owned());
            Ok(page(self.caller(scope).await?.call(&routes::LIST_FOLDER_CONTINUE, &arg).await?.value))
        }
        .boxed()
    }

    fn latest<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, Result<Arc<str>>> {
        async move {
            let caller = self.caller(scope).await?;
            Ok(caller.call(&routes::LIST_FOLDER_LATEST_CURSOR, &scope.arg()).await?.value.cursor.into())
        }
        .boxed()
    }

    fn longpoll<'a>(
        &'a self,
        scope: &'a Scope,
        cursor: &'a str,
        wait: Duration,
        asked: Arc<Underway>,
    ) -> BoxFuture<'a, Result<News>> {
        async move {
            let arg = files::ListFolderLongpollArg::new(cursor.to_owned()).with_timeout(wait.as_secs());
            let patience = wait + LONGPOLL_JITTER_MAX + LONGPOLL_MARGIN;
            let caller = self.caller(scope).await?.patient(patience).followed_by(asked);
            let answer = caller.call(&routes::LIST_FOLDER_LONGPOLL, &arg).await?.value;
            Ok(News { changes: answer.changes, backoff: answer.backoff.map(Duration::from_secs) })
        }
        .boxed()
    }

    fn is_new<'a>(&'a self, scope: &'a Scope, path: &'a str) -> BoxFuture<'a, Result<bool>> {
        async move {
            let arg = files::ListRevisionsArg::new(path.to_owned()).with_limit(2);
            let found = self.caller(scope).await?.call(&routes::LIST_REVISIONS, &arg).await?.value;
            Ok(found.entries.len() == 1)
        }
        .boxed()
    }

    fn ending<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, Result<Option<Ending>>> {
        async move { Ok(Some(self.opened(scope).await?.1)) }.boxed()
    }
}

impl Scope {
    fn arg(&self) -> files::ListFolderArg {
        files::ListFolderArg::new(self.path.to_string()).with_recursive(self.recursive)
    }

    /// The question whose cursor leads on to the changes of this scope, however often it is asked and by whom.
    pub fn list_arg(&self, limit: u32) -> files::ListFolderArg {
        self.arg().with_limit(limit)
    }
}

fn page(found: files::ListFolderResult) -> Page {
    Page { entries: found.entries, cursor: found.cursor.into(), has_more: found.has_more }
}
