//! The audit log: who was refused what, and what administrators did. One line each, never dropped and never filtered away,
//! with names and results and nothing of what was sent.

use std::{io, net::SocketAddr};

use tonic::Code;

use super::call::Facts;
use crate::{
    access::Class,
    fault::{Fault, Reason},
    telemetry::AUDIT_TARGET,
};

/// Refusals of our own door. What Dropbox refuses is no matter of who may call.
const REFUSALS: [Reason; 9] = [
    Reason::ActAsNotAllowed,
    Reason::CallerKeysUnavailable,
    Reason::CallerNotAllowed,
    Reason::CallerUnauthenticated,
    Reason::HandleNotYours,
    Reason::OutsideJail,
    Reason::PathRootNotAllowed,
    Reason::RawApiDisabled,
    Reason::RawRouteDenied,
];

/// A caller can make up a method of any length.
const RPC_BYTES_MAX: usize = 128;

/// A call that was refused before it had a body. `principal` is known if it was let in.
pub(super) fn refused(
    rpc: &str,
    request_id: &str,
    principal: Option<&str>,
    parameter: Option<&str>,
    remote: Option<SocketAddr>,
    fault: &Fault,
) {
    if REFUSALS.contains(&fault.reason()) {
        let remote = remote.map(tracing::field::display);
        let rpc = &rpc[..rpc.floor_char_boundary(RPC_BYTES_MAX)];
        let (reason, cause) = (fault.reason().name(), fault.get("cause"));
        tracing::info!(target: AUDIT_TARGET, principal, remote, rpc, parameter, result = "refused", reason, cause, request_id);
    }
}

/// A call that ended: told if our door refused it after all, or if an administrator made it.
pub(super) fn ended(facts: &Facts, code: Code, code_name: &'static str) {
    let reason = facts.reason.get().copied();
    let was_refused = reason.is_some_and(|reason| REFUSALS.contains(&reason));
    if !was_refused && facts.class != Class::Admin {
        return;
    }
    let result = match code {
        Code::Ok => "done",
        _ if was_refused => "refused",
        _ => "failed",
    };
    tracing::info!(
        target: AUDIT_TARGET,
        principal = facts.principal.name(),
        remote = facts.remote.map(tracing::field::display),
        rpc = facts.rpc,
        parameter = facts.parameter.get().map(String::as_str),
        result,
        code = code_name,
        reason = reason.map(Reason::name),
        request_id = facts.request_id,
    );
}

/// Connections that were closed to make room for others; `remote` was the last of them.
pub(super) fn crowded_out(count: u64, remote: Option<SocketAddr>) {
    let remote = remote.map(tracing::field::display);
    let cause = "too many connections wait for a handshake, and these were slow";
    tracing::info!(target: AUDIT_TARGET, remote, result = "refused", reason = "TLS_HANDSHAKE", cause, count);
}

/// A connection that did not come up: no certificate, one of a stranger, or no TLS at all.
pub(super) fn no_handshake(remote: Option<SocketAddr>, error: &io::Error) {
    let remote = remote.map(tracing::field::display);
    tracing::info!(target: AUDIT_TARGET, remote, result = "refused", reason = "TLS_HANDSHAKE", cause = %error);
}
