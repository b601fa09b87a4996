//! Audit lines of the pages: who did or was refused what, from where, for which application parameter, and with what result.
//! Names and reasons only: nothing of a form, a query, a cookie or a token.

use std::net::SocketAddr;

use crate::{
    fault::{Fault, Reason},
    telemetry::AUDIT_TARGET,
};

/// Refusals of our own door; everything else that does not go well has failed.
const REFUSALS: [Reason; 4] = [
    Reason::AuthorizationStateExpired,
    Reason::CallerKeysUnavailable,
    Reason::CallerNotAllowed,
    Reason::CallerUnauthenticated,
];

/// What somebody did at a page.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Act<'a> {
    /// Which page, by a name of our own: a path may be anything.
    pub page: &'static str,
    pub remote: Option<SocketAddr>,
    pub principal: Option<&'a str>,
    pub parameter: Option<&'a str>,
}

impl Act<'_> {
    pub(super) fn done(self) {
        self.tell("done", None, None);
    }

    pub(super) fn failed(self, fault: &Fault) {
        let result = if REFUSALS.contains(&fault.reason()) { "refused" } else { "failed" };
        self.tell(result, Some(fault.reason().name()), fault.get("cause"));
    }

    /// The request came by a name that is none of ours.
    pub(super) fn misdirected(self) {
        self.tell("refused", Some("OTHER_HOST"), None);
    }

    fn tell(self, result: &str, reason: Option<&str>, cause: Option<&str>) {
        let Act { page, remote, principal, parameter } = self;
        let remote = remote.map(tracing::field::display);
        tracing::info!(target: AUDIT_TARGET, principal, remote, page, parameter, result, reason, cause);
    }
}
