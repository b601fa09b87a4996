//! Writes whose answer was lost: was it done? One look settles it where Dropbox's rules allow (API-FACTS 3.4).
//! What stays unclear is `OUTCOME_UNKNOWN`; what certainly did not happen may be sent again.

use std::time::Duration;

use dropbox_sdk::types::{files, sharing};

use crate::{
    dropbox::{Caller, routes},
    fault::{Fault, Reason, Result},
    limits::{BUSY_RETRY, LOST_JOB_LOOKS},
};

/// What a write's failure says about the write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    /// It may have happened.
    Unknown,
    /// This answer may speak of the success of an attempt whose answer was lost.
    Echo,
    /// It did not happen.
    None,
}

fn doubt(fault: &Fault) -> Doubt {
    // An answer that cannot be read is no less unknown: with a status of success it was most likely done.
    let sent = fault.get("sent") == Some("true");
    if sent || matches!(fault.reason(), Reason::OutcomeUnknown | Reason::DropboxProtocol) {
        Doubt::Unknown
    } else if fault.get("earlierAttempt") == Some("unknown") {
        Doubt::Echo
    } else {
        Doubt::None
    }
}

/// It certainly did not happen: the same request may be sent again. Of a job that nobody has heard the end of that is not certain.
fn not_done(fault: Fault) -> Fault {
    if fault.get("underWay").is_some() {
        return fault;
    }
    Fault::new(Reason::DropboxUnavailable, "Dropbox did not answer, and the change did not happen")
        .retry_after(BUSY_RETRY)
        .source(fault)
}

/// What a job may still do of which nobody hears any more is looked at again after these pauses.
fn pauses(fault: &Fault) -> &'static [Duration] {
    let lost = fault.get("underWay").is_some() && fault.reason() == Reason::OutcomeUnknown;
    if lost { &LOST_JOB_LOOKS } else { &[] }
}

async fn look(caller: &Caller, path: &str) -> Result<Option<files::Metadata>> {
    match caller.for_a_look().call(&routes::GET_METADATA, &files::GetMetadataArg::new(path.to_owned())).await {
        Ok(answer) => Ok(Some(answer.value)),
        Err(fault) if fault.reason() == Reason::PathNotFound => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// A deletion of `before` at `path`. Done if nothing, or something else, is there now.
///
/// # Errors
/// The fault, where it is no echo of a success and a look does not settle it.
pub async fn deleted(caller: &Caller, path: &str, before: &files::Metadata, fault: Fault) -> Result<()> {
    match doubt(&fault) {
        Doubt::Echo if fault.reason() == Reason::PathNotFound => Ok(()),
        // Another item took its place, so the deletion by rev could not find its own again.
        Doubt::Echo | Doubt::Unknown => match look(caller, path).await {
            Ok(None) => Ok(()),
            Ok(Some(now)) if id(&now) != id(before) => Ok(()),
            Ok(Some(_)) if doubt(&fault) == Doubt::Unknown => Err(not_done(fault)),
            _ => Err(fault),
        },
        Doubt::None => Err(fault),
    }
}

/// A folder made at `path` without autorename. Done if a folder is there.
///
/// # Errors
/// As [`deleted`].
pub async fn folder_created(caller: &Caller, path: &str, fault: Fault) -> Result<files::FolderMetadata> {
    let echo = doubt(&fault) == Doubt::Echo && fault.reason() == Reason::PathConflict;
    if !echo && doubt(&fault) != Doubt::Unknown {
        return Err(fault);
    }
    match look(caller, path).await {
        Ok(Some(files::Metadata::Folder(folder))) => Ok(folder),
        Ok(None) => Err(not_done(fault)),
        _ => Err(fault),
    }
}

/// A move of `before`. Ids survive moves: done if the item is no longer where it was.
///
/// # Errors
/// As [`deleted`].
pub async fn moved(caller: &Caller, before: &files::Metadata, fault: Fault) -> Result<files::Metadata> {
    let pauses = pauses(&fault);
    let mut outcome = moved_now(caller, before, fault).await;
    for pause in pauses {
        let Err(fault) = outcome else { break };
        tokio::time::sleep(*pause).await;
        outcome = moved_now(caller, before, fault).await;
    }
    outcome
}

async fn moved_now(caller: &Caller, before: &files::Metadata, fault: Fault) -> Result<files::Metadata> {
    let (Some(id), Doubt::Unknown) = (id(before), doubt(&fault)) else { return Err(fault) };
    match look(caller, id).await {
        Ok(Some(now)) if path_lower(&now) != path_lower(before) || name(&now) != name(before) => Ok(now),
        // Whoever looks later looks for it.
        Ok(Some(_)) => Err(not_done(fault.fact("lookFor", id))),
        _ => Err(fault.fact("lookFor", id)),
    }
}

/// A copy of the file `source` to `to` without autorename. Done if the same content is there; a copied folder cannot be
/// told from another of the same name.
///
/// # Errors
/// As [`deleted`].
pub async fn copied(caller: &Caller, source: &files::Metadata, to: &str, fault: Fault) -> Result<files::Metadata> {
    let pauses = pauses(&fault);
    let mut outcome = copied_now(caller, source, to, fault).await;
    for pause in pauses {
        let Err(fault) = outcome else { break };
        tokio::time::sleep(*pause).await;
        outcome = copied_now(caller, source, to, fault).await;
    }
    outcome
}

async fn copied_now(caller: &Caller, source: &files::Metadata, to: &str, fault: Fault) -> Result<files::Metadata> {
    if doubt(&fault) != Doubt::Unknown {
        return Err(fault);
    }
    match (look(caller, to).await, source) {
        (Ok(None), _) => Err(not_done(fault)),
        (Ok(Some(files::Metadata::File(now))), files::Metadata::File(source))
            if now.content_hash.is_some() && now.content_hash == source.content_hash && now.id != source.id =>
        {
            Ok(files::Metadata::File(now))
        }
        _ => Err(fault),
    }
}

/// A revoked link. Done if Dropbox does not know it any more.
///
/// # Errors
/// As [`deleted`].
pub async fn revoked(caller: &Caller, url: &str, fault: Fault) -> Result<()> {
    match doubt(&fault) {
        Doubt::Echo if fault.reason() == Reason::SharedLinkNotFound => Ok(()),
        Doubt::Unknown => {
            let arg = sharing::GetSharedLinkMetadataArg::new(url.to_owned());
            match caller.call(&routes::GET_SHARED_LINK_METADATA, &arg).await {
                Err(gone) if gone.reason() == Reason::SharedLinkNotFound => Ok(()),
                Ok(_) => Err(not_done(fault)),
                Err(_) => Err(fault),
            }
        }
        Doubt::Echo | Doubt::None => Err(fault),
    }
}

fn id(metadata: &files::Metadata) -> Option<&str> {
    match metadata {
        files::Metadata::File(file) => Some(&file.id),
        files::Metadata::Folder(folder) => Some(&folder.id),
        files::Metadata::Deleted(_) => None,
    }
}

fn name(metadata: &files::Metadata) -> &str {
    match metadata {
        files::Metadata::File(file) => &file.name,
        files::Metadata::Folder(folder) => &folder.name,
        files::Metadata::Deleted(deleted) => &deleted.name,
    }
}

fn path_lower(metadata: &files::Metadata) -> Option<&str> {
    match metadata {
        files::Metadata::File(file) => file.path_lower.as_deref(),
        files::Metadata::Folder(folder) => folder.path_lower.as_deref(),
        files::Metadata::Deleted(deleted) => deleted.path_lower.as_deref(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unknown_outcomes_and_echoes_leave_a_doubt() {
        let fault = |reason| Fault::new(reason, "x");
        assert_eq!(doubt(&fault(Reason::OutcomeUnknown)), Doubt::Unknown);
        assert_eq!(doubt(&fault(Reason::PathNotFound).fact("earlierAttempt", "unknown")), Doubt::Echo);
        assert_eq!(doubt(&fault(Reason::DropboxProtocol)), Doubt::Unknown);
        assert_eq!(doubt(&fault(Reason::PathNotFound)), Doubt::None);
        // A deadline of ours leaves the same doubt as a lost answer, if the write was on its way.
        assert_eq!(doubt(&fault(Reason::DeadlineExceeded).fact("sent", true)), Doubt::Unknown);
        assert_eq!(doubt(&fault(Reason::DeadlineExceeded).fact("sent", false)), Doubt::None);
        let again = not_done(fault(Reason::OutcomeUnknown));
        assert_eq!((again.reason(), again.retry_delay()), (Reason::DropboxUnavailable, Some(BUSY_RETRY)));
    }
}
