//! The only speaker to Dropbox. A [`Route`] is a value that knows its types and facts; a [`Caller`] is one RPC's view of
//! Dropbox: as whom, in which root, until when. Headers, retries, pacing, token renewal, deadlines, request ids and the
//! error table live behind [`Caller`] and nowhere else. Nothing here knows gRPC, the store or a file system.

mod attempt;
mod bearer;
mod body;
mod caller;
mod date;
mod egress;
mod header;
mod heard;
mod pace;
mod problem;
mod rate;
mod raw;
mod retry;
mod route;
pub mod routes;
mod rows;
mod token;
mod transport;
mod underway;

#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc, time::Duration};

use url::Url;

use crate::fair::{self, Fair};

pub use bearer::{Bearer, Token, TokenSource};
pub use body::Body;
pub use caller::{Answer, Caller, Download, Identity};
pub use egress::{Egress, Proxy, ProxyKind, read_roots};
pub use heard::Heard;
pub use pace::Places;
pub use problem::{entry_fault, tag_path};
pub use rate::{Due, Rate, Rates};
pub use raw::{Door, RawRoute};
pub use route::{Auth, CommitRoute, Effect, Facts, Host, Repeat, Route, Style};
pub use token::TokenAnswer;
pub use transport::Transport;
pub use underway::{Given, Underway};

/// Base URLs of Dropbox's hosts, without `/2`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoints {
    pub api: Url,
    pub content: Url,
    pub notify: Url,
    pub oauth: Url,
}

impl Endpoints {
    /// The real Dropbox.
    pub fn dropbox() -> Endpoints {
        let url = |text| Url::parse(text).expect("a constant url parses");
        Endpoints {
            api: url("https://api.dropboxapi.com"),
            content: url("https://content.dropboxapi.com"),
            notify: url("https://notify.dropboxapi.com"),
            oauth: url("https://www.dropbox.com"),
        }
    }
}

/// On whose behalf a team token acts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ActAs {
    /// `team_member_id`, sent as `Dropbox-API-Select-User`.
    User(String),
    /// `team_member_id` of an administrator, sent as `Dropbox-API-Select-Admin`.
    Admin(String),
}

/// What paths are relative to (`Dropbox-API-Path-Root`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Root {
    Home,
    /// The user's root namespace; Dropbox refuses it when it is not that any more.
    Root(String),
    Namespace(String),
}

/// What Dropbox counts requests by: callers with equal keys share one queue and one pause.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountKey(Arc<str>);

impl AccountKey {
    pub fn new(key: impl Into<Arc<str>>) -> AccountKey {
        AccountKey(key.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for AccountKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AccountKey").field(&&*self.0).finish()
    }
}

/// How long Dropbox may take, apart from the caller's deadline. The timeouts are ours; the HTTP client has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Until the request begins to leave: name, TCP, TLS.
    pub connect: Duration,
    /// One attempt of a call with a JSON answer. Where content goes out, counted from the last piece that left; where
    /// content comes in, until the head of the answer.
    pub request: Duration,
    /// Between two pieces of an answer's body.
    pub idle_read: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            connect: crate::limits::CONNECT_TIMEOUT,
            request: crate::limits::REQUEST_TIMEOUT,
            idle_read: crate::limits::IDLE_READ_TIMEOUT,
        }
    }
}

/// A part of a file, as a `Range` header says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteRange {
    /// From `first` to the end.
    From(u64),
    /// From `first` to `last`, both included.
    Between(u64, u64),
    /// The last so many bytes.
    Last(u64),
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ByteRange::From(first) => write!(f, "bytes={first}-"),
            ByteRange::Between(first, last) => write!(f, "bytes={first}-{last}"),
            ByteRange::Last(count) => write!(f, "bytes=-{count}"),
        }
    }
}

/// The right to one commit in a namespace. Only the write gate grants it. A commit that waits to be repeated, for a place
/// among the requests in flight, or until its account may send again, lays it down meanwhile, so that others go on, and stands
/// in the queue again.
#[derive(Debug)]
pub struct Turn {
    /// Queues of one place each, shared by application parameters.
    queues: Vec<Fair>,
    parameter: Arc<str>,
    held: std::sync::Mutex<Vec<fair::Held>>,
}

impl Turn {
    /// For `engine/gate.rs` alone.
    pub(crate) fn granted() -> Turn {
        Turn { queues: Vec::new(), parameter: "".into(), held: std::sync::Mutex::default() }
    }

    /// Waits at these queues, in this order, by the name of this parameter. Cancel-safe: dropping the future leaves them.
    #[must_use]
    pub(crate) fn at(mut self, parameter: &str, queues: Vec<Fair>) -> Turn {
        self.parameter = parameter.into();
        self.queues = queues;
        self
    }

    /// Takes it up if it is free in every queue and nobody waits there.
    pub(crate) fn take_up_now(&self) -> bool {
        let held: Option<Vec<_>> = self.queues.iter().map(|queue| queue.try_take(&self.parameter, 1)).collect();
        let taken = held.is_some();
        *self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = held.unwrap_or_default();
        taken
    }

    /// Lets the next in each queue go.
    pub(crate) fn lay_down(&self) {
        self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clear();
    }

    /// Stands in every queue until it is first, unless it is already. Cancel-safe: what was reached is laid down again.
    pub(crate) async fn take_up(&self) {
        if !self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner).is_empty() {
            return;
        }
        let mut reached = Vec::with_capacity(self.queues.len());
        for queue in &self.queues {
            reached.push(queue.take(&self.parameter, 1).await);
        }
        *self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = reached;
    }
}
