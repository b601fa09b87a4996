//! A route as a value: where it is, how it is called, what may be done when its outcome is unknown, and its types.
//! Routes that take a namespace lock are another type, so that a write without a turn does not compile.

use std::{borrow::Cow, fmt, marker::PhantomData};

/// Which base URL a route is under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    Api,
    Content,
    Notify,
}

/// How argument and result travel (API-FACTS 1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// JSON both ways.
    Rpc,
    /// Argument in a header, bytes out, JSON back.
    Upload,
    /// Argument in a header, result in a header, bytes back.
    Download,
}

/// Whose token a route wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    User,
    Team,
    None,
}

/// What a route does to the account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Effect {
    Read,
    Write,
    Delete,
    Share,
    Team,
}

/// What may be done when a request may have arrived and its answer did not (API-FACTS 3.4). A 429 and a request that
/// never left are repeated whatever this says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// Changes nothing: repeated, and `UNAVAILABLE` when that does not help.
    Read,
    /// Repeating it leaves the same state (uploads and appends of the same bytes at the same place): repeated,
    /// and `UNAVAILABLE` when that does not help.
    Safe,
    /// Repeated, but the second answer may speak of the first one's success, and when repeats run out the outcome is
    /// unknown. A fault after an attempt of unknown outcome carries the fact `earlierAttempt` = `unknown`.
    Verify,
    /// Never repeated: `OUTCOME_UNKNOWN`.
    Never,
}

/// What a route is, without its types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Without `/2/`: `files/upload_session/append_v2`.
    pub path: Cow<'static, str>,
    pub host: Host,
    pub style: Style,
    pub auth: Auth,
    pub repeat: Repeat,
    pub effect: Effect,
    /// The argument came from a caller as JSON: what Dropbox rejects in it is the caller's mistake.
    pub raw: bool,
}

impl Facts {
    pub(super) const fn new(path: &'static str, host: Host, style: Style, repeat: Repeat, effect: Effect) -> Facts {
        // The notify host holds a request for minutes and wants no token.
        let auth = if matches!(host, Host::Notify) { Auth::None } else { Auth::User };
        Facts { path: Cow::Borrowed(path), host, style, auth, repeat, effect, raw: false }
    }

    /// Whether an unknown outcome is no loss: nothing changes, or the same state comes of a repeat.
    pub(super) fn is_resumable(&self) -> bool {
        self.effect == Effect::Read || matches!(self.repeat, Repeat::Read | Repeat::Safe)
    }
}

/// A route that takes no namespace lock.
pub struct Route<A, R> {
    facts: Facts,
    types: PhantomData<fn(&A) -> R>,
}

/// A route that changes a namespace: only [`super::Caller::commit`] with a [`super::Turn`] runs it.
pub struct CommitRoute<A, R> {
    facts: Facts,
    types: PhantomData<fn(&A) -> R>,
}

macro_rules! behaviour {
    ($name:ident) => {
        impl<A, R> $name<A, R> {
            pub(super) const fn new(facts: Facts) -> Self {
                Self { facts, types: PhantomData }
            }

            pub fn facts(&self) -> &Facts {
                &self.facts
            }

            /// The same route where the argument decides what an unknown outcome allows (`autorename`, for one).
            #[must_use]
            pub fn repeating(&self, repeat: Repeat) -> Self {
                Self::new(Facts { repeat, ..self.facts.clone() })
            }
        }

        impl<A, R> Clone for $name<A, R> {
            fn clone(&self) -> Self {
                Self::new(self.facts.clone())
            }
        }

        impl<A, R> fmt::Debug for $name<A, R> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple(stringify!($name)).field(&self.facts).finish()
            }
        }
    };
}

behaviour!(Route);
behaviour!(CommitRoute);
