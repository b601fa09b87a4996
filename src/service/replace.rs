//! Copying and moving onto a file that is there. Dropbox has no such call: the target is deleted with its rev, which leaves it
//! among Dropbox's deleted files, and then the item takes its place. Both are of one turn of the gate, which is laid down while
//! either waits to be repeated: somebody else may then take the name in between. When the second step certainly failed and
//! the name is still free the target is restored; else its rev is told. Nothing here deletes a folder.

use std::time::Instant;

use dropbox_sdk::types::files;

use super::{changes::with_current, door::Site};
use crate::{
    api::v1 as api,
    convert::items::{self as convert, Relocation},
    dropbox::{Turn, routes},
    engine::verify,
    fault::{Fault, Reason, Result},
    limits,
};

/// The file that has to go first; `None` if none is to be replaced, the name is free, or it is the source's own.
///
/// # Errors
/// `PATH_CONFLICT` if a folder is there, and what looking fails with.
pub async fn target(
    site: &Site,
    source: &files::Metadata,
    to: &str,
    wanted: &Relocation,
) -> Result<Option<files::FileMetadata>> {
    if !wanted.replace_existing {
        return Ok(None);
    }
    match (site.metadata(to).await, source) {
        // A case-only rename, or an item onto itself: deleting the target would delete the source.
        (Ok(files::Metadata::File(there)), files::Metadata::File(source)) if there.id == source.id => Ok(None),
        (Ok(files::Metadata::File(there)), _) => Ok(Some(there)),
        (Ok(_), _) => {
            let text = "a folder is there, and replace_existing replaces files only";
            Err(Fault::new(Reason::PathConflict, text)
                .fact("conflictKind", "folder")
                .resource("dropbox.item", wanted.to.as_str()))
        }
        (Err(fault), _) if fault.reason() == Reason::PathNotFound => Ok(None),
        (Err(fault), _) => Err(fault),
    }
}

/// Deletes the target, runs the step that takes its place, and puts the target back if that certainly failed.
///
/// # Errors
/// `REVISION_CONFLICT` if the target changed since it was looked at, before anything is done; what the step fails with,
/// with `replacedRev` where the target could not be put back.
pub async fn with(
    site: &Site,
    held: &Turn,
    target: &files::FileMetadata,
    to: &str,
    step: impl AsyncFnOnce() -> Result<files::Metadata>,
) -> Result<files::Metadata> {
    let arg = files::DeleteArg::new(to.to_owned()).with_parent_rev(target.rev.clone());
    if let Err(fault) = site.caller().commit(held, &routes::DELETE, &arg).await {
        let before = files::Metadata::File(target.clone());
        match verify::deleted(site.caller(), to, &before, fault).await {
            Ok(()) => {}
            // Somebody else has deleted it meanwhile.
            Err(fault) if fault.reason() == Reason::PathNotFound => {}
            Err(fault) => return Err(with_current(site, to, fault).await),
        }
    }
    match step().await {
        Ok(done) => Ok(done),
        Err(fault) => Err(put_back(site, held, target, to, fault).await),
    }
}

async fn put_back(site: &Site, held: &Turn, target: &files::FileMetadata, to: &str, fault: Fault) -> Fault {
    // A step whose outcome is unclear may still land on the name, and a restored file would then be in its way.
    let unclear =
        matches!(fault.reason(), Reason::OutcomeUnknown | Reason::DropboxProtocol) || fault.get("sent") == Some("true");
    if unclear {
        return fault.fact("replacedRev", &target.rev);
    }
    // Whatever ended the step, a deadline or a pause that Dropbox asks for, must not keep the target from coming back. No call
    // waits for a long pause by itself.
    let end = Instant::now() + limits::DEADLINE_MAX;
    loop {
        let lost = match restored(site, held, target, to, end).await {
            Ok(()) => return fault,
            Err(lost) => lost,
        };
        let wait = lost.retry_delay().map(|told| told.max(limits::BUSY_RETRY));
        let Some(wait) = wait.filter(|wait| Instant::now() + *wait < end) else {
            tracing::warn!(fault = %lost, "a replaced file could not be restored");
            return fault.fact("replacedRev", &target.rev);
        };
        // Others of the namespace need not wait for it.
        held.lay_down();
        site.door().clock.sleep(wait).await;
    }
}

/// Looks whether the name is free still, and puts the target there.
async fn restored(site: &Site, held: &Turn, target: &files::FileMetadata, to: &str, end: Instant) -> Result<()> {
    let caller = site.caller().with_deadline(Some(end));
    let look = files::GetMetadataArg::new(to.to_owned());
    match caller.call(&routes::GET_METADATA, &look).await {
        Ok(_) => return Err(Fault::new(Reason::PathConflict, "something else has the name by now")),
        Err(fault) if fault.reason() == Reason::PathNotFound => {}
        Err(fault) => return Err(fault),
    }
    let arg = files::RestoreArg::new(to.to_owned(), target.rev.clone());
    caller.commit(held, &routes::RESTORE, &arg).await.map(drop)
}

/// The replaced file, as this caller may see it.
pub fn told(site: &Site, target: Option<files::FileMetadata>) -> Option<api::Item> {
    convert::item(files::Metadata::File(target?), site.jail())
}
