//! What the hub asks of Dropbox: five questions about a folder. A trait, since the model test answers them from a tree that
//! it can stop between any two steps; in the connector it is [`Dropbox`], which opens a caller for each question.

use std::{fmt, sync::Arc};

use dropbox_sdk::types::files;
use futures::future::BoxFuture;

use super::Scope;
use crate::{credentials::Resolver, fault::Result};

/// A page of a listing, or of what changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    pub entries: Vec<files::Metadata>,
    pub cursor: Arc<str>,
    pub has_more: bool,
}

pub trait Upstream: Send + Sync + fmt::Debug {
    /// The first page of all there is.
    fn list<'a>(&'a self, scope: &'a Scope, limit: u32) -> BoxFuture<'a, Result<Page>>;
    /// The next page: of the listing, or of what changed since it ended.
    fn go_on<'a>(&'a self, scope: &'a Scope, cursor: &'a str) -> BoxFuture<'a, Result<Page>>;
    /// A cursor for now.
    fn latest<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, Result<Arc<str>>>;
}

/// Dropbox, through the application parameter of the scope.
#[derive(Debug)]
pub struct Dropbox {
    #[expect(dead_code, reason = "the face comes first")]
    resolver: Arc<Resolver>,
}

impl Dropbox {
    pub fn new(resolver: Arc<Resolver>) -> Arc<Dropbox> {
        Arc::new(Dropbox { resolver })
    }
}

impl Upstream for Dropbox {
    fn list<'a>(&'a self, _: &'a Scope, _: u32) -> BoxFuture<'a, Result<Page>> {
        unreachable!()
    }
    fn go_on<'a>(&'a self, _: &'a Scope, _: &'a str) -> BoxFuture<'a, Result<Page>> {
        unreachable!()
    }
    fn latest<'a>(&'a self, _: &'a Scope) -> BoxFuture<'a, Result<Arc<str>>> {
        unreachable!()
    }
}
