//! Items to change: folders made, items copied, moved, deleted. Each commit waits for its turn at the write gate, and an
//! answer that was lost is looked up before anything is said.

use std::time::Instant;

use dbxcase::dbx_str_lowercase;
use dropbox_sdk::types::files;
use rand::RngCore as _;
use tracing::Instrument as _;

use super::{
    call::{Call, Refused},
    door::{Door, Site},
    once::{self, Look},
    replace,
};
use crate::{
    access::Permissions,
    api::v1 as api,
    convert::{
        items::{self as convert, Relocation, paths},
        path::Jail,
    },
    dropbox::{Turn, routes},
    engine::{batches::Change, verify},
    fault::{Fault, Reason, Result},
    limits,
};

/// The RPCs that change items.
#[derive(Clone)]
pub struct Changes {
    pub door: Door,
}

impl Changes {
    pub async fn create_folder(
        &self,
        call: Call,
        request: api::CreateFolderRequest,
    ) -> Result<api::CreateFolderResponse> {
        let path = convert::create_folder(&request)?;
        let (path, request) = (&path, &request);
        self.door
            .enter(&call, request, Permissions::default(), |site| async move {
                let place = site.place_for_change(path).await?;
                let told = |folder, created| {
                    let item = convert::item_at(files::Metadata::Folder(folder), site.jail(), path.as_str())?;
                    Ok(api::CreateFolderResponse { item: Some(item), created })
                };
                let change = Change::Folder { path: place.clone(), autorename: request.autorename };
                let fault = match site.change(&[&place], change).await {
                    Ok(files::Metadata::Folder(made)) => return told(made, true),
                    Ok(_) => return Err(Fault::bug("a folder that was made is none").fact("sent", true)),
                    Err(fault) if request.autorename => return Err(fault),
                    Err(fault) => fault,
                };
                let taken = fault.reason() == Reason::PathConflict && fault.get("conflictKind") == Some("folder");
                if request.return_existing && taken {
                    let echo = fault.get("earlierAttempt").is_some();
                    return match site.metadata(&place).await? {
                        files::Metadata::Folder(folder) => told(folder, echo),
                        _ => Err(fault),
                    };
                }
                told(verify::folder_created(site.caller(), &place, fault).await?, true)
            })
            .await
    }

    pub async fn copy_item(&self, call: Call, request: api::CopyItemRequest) -> Result<api::CopyItemResponse, Refused> {
        let wanted = convert::copy_item(&request)?;
        let id = once_id(&wanted);
        let sought = wanted.clone();
        let body = move |site: Site, request: api::CopyItemRequest| {
            let wanted = wanted.clone();
            async move { Box::pin(copy(&site, &request, &wanted)).await }
        };
        let look = move |site: Site, request: api::CopyItemRequest, _| copied_before(site, request, sought.clone());
        once::run(&self.door, call, request, Permissions::default(), id, body, look).await
    }

    pub async fn move_item(&self, call: Call, request: api::MoveItemRequest) -> Result<api::MoveItemResponse, Refused> {
        let wanted = convert::move_item(&request)?;
        let id = once_id(&wanted);
        let sought = wanted.clone();
        let body = move |site: Site, request: api::MoveItemRequest| {
            let wanted = wanted.clone();
            async move { Box::pin(relocate(&site, &request, &wanted)).await }
        };
        let look = move |site: Site, request: api::MoveItemRequest, id| moved_before(site, request, sought.clone(), id);
        once::run(&self.door, call, request, Permissions::default(), id, body, look).await
    }

    pub async fn delete_item(&self, call: Call, request: api::DeleteItemRequest) -> Result<api::DeleteItemResponse> {
        let (path, kind) = convert::delete_item(&request)?;
        let (path, request) = (&path, &request);
        self.door
            .enter(&call, request, Permissions::default(), |site| async move {
                let gone = |fault: Fault| match fault.reason() {
                    Reason::PathNotFound if request.allow_missing => Ok(api::DeleteItemResponse { item: None }),
                    _ => Err(fault),
                };
                let place = match site.place_for_change(path).await {
                    Ok(place) => place,
                    Err(fault) => return gone(fault),
                };
                let before = match site.metadata(&place).await {
                    Ok(before) => before,
                    Err(fault) => return gone(fault),
                };
                let rev = deletable(&before, kind, &request.expected_rev, path.as_str())?;
                let mut arg = files::DeleteArg::new(place.clone());
                // With its rev a file that took its place survives, and so does a folder.
                arg.parent_rev = rev;
                let gate = gate_path(&before, &place);
                let outcome = if request.permanent {
                    site.write(&[gate], &routes::PERMANENTLY_DELETE, &arg).await
                } else {
                    site.change(&[gate], Change::Delete(arg)).await.map(drop)
                };
                if let Err(fault) = outcome
                    && let Err(fault) = verify::deleted(site.caller(), &place, &before, fault).await
                {
                    return gone(with_current(&site, &place, fault).await);
                }
                let item = convert::item_at(before, site.jail(), path.as_str())?;
                Ok(api::DeleteItemResponse { item: Some(item) })
            })
            .await
    }
}

/// The rev to delete with, if the item is of a kind that may be deleted.
fn deletable(before: &files::Metadata, kind: api::ItemKind, expected_rev: &str, asked: &str) -> Result<Option<String>> {
    match before {
        files::Metadata::File(_) if kind == api::ItemKind::Folder => {
            let text = "this is a file, and only a folder was to be deleted";
            Err(Fault::new(Reason::NotAFolder, text).resource("dropbox.item", asked))
        }
        files::Metadata::File(file) => {
            expect_rev(file, expected_rev)?;
            Ok(Some(file.rev.clone()))
        }
        files::Metadata::Folder(_) if kind == api::ItemKind::File || !expected_rev.is_empty() => {
            let text = "this is a folder, and only a file was to be deleted; set kind to delete folders";
            Err(Fault::new(Reason::NotAFile, text).resource("dropbox.item", asked))
        }
        files::Metadata::Folder(_) => Ok(None),
        files::Metadata::Deleted(_) => Err(Jail::not_found(asked)),
    }
}

fn expect_rev(file: &files::FileMetadata, expected: &str) -> Result<()> {
    if expected.is_empty() || file.rev == expected {
        return Ok(());
    }
    Err(Fault::new(Reason::RevisionConflict, "the file has another revision than expected")
        .fact("currentRev", &file.rev)
        .fact("currentSize", file.size)
        .fact("currentContentHash", file.content_hash.as_deref().unwrap_or_default()))
}

/// A conflict with what stands there now; without it if that cannot be read.
pub(super) async fn with_current(site: &Site, place: &str, fault: Fault) -> Fault {
    if fault.reason() != Reason::RevisionConflict {
        return fault;
    }
    match site.metadata(place).await {
        Ok(files::Metadata::File(file)) => fault
            .fact("currentRev", &file.rev)
            .fact("currentSize", file.size)
            .fact("currentContentHash", file.content_hash.unwrap_or_default()),
        _ => fault,
    }
}

/// The path that names the gate: an id does not tell where the item lies.
fn gate_path<'a>(found: &'a files::Metadata, place: &'a str) -> &'a str {
    paths(found).0.unwrap_or(place)
}

async fn copy(site: &Site, request: &api::CopyItemRequest, wanted: &Relocation) -> Result<api::CopyItemResponse> {
    let from = site.place_for_change(&wanted.from).await?;
    let to = site.place_for_change(&wanted.to).await?;
    // Without its content hash a lost answer could not be settled.
    let source = site.metadata(&from).await?;
    expect_source(&source, wanted, &request.from_path)?;
    let target = replace::target(site, &source, &to, wanted).await?;
    // A copy takes the lock of its target; the source is only read.
    let gates = [gate_path(&source, &from), &to];
    let settled = async |made: Result<files::Metadata>| match made {
        Err(fault) if !wanted.autorename => verify::copied(site.caller(), &source, &to, fault).await,
        made => made,
    };
    let copy = match &target {
        None => {
            let paths = files::RelocationPath::new(from.clone(), to.clone());
            let change = Change::Copy { paths, autorename: wanted.autorename };
            settled(site.change(&gates, change).await).await?
        }
        Some(target) => {
            let arg = files::RelocationArg::new(from.clone(), to.clone()).with_autorename(wanted.autorename);
            let held = site.turn(&gates).await?;
            let copied = async || {
                let made = site.caller().commit(&held, &routes::COPY, &arg).await;
                settled(made.map(|made| made.value.metadata)).await
            };
            replace::with(site, &held, target, &to, copied).await?
        }
    };
    Ok(api::CopyItemResponse {
        item: Some(convert::item_at(copy, site.jail(), &request.to_path)?),
        replaced: replace::told(site, target),
    })
}

/// The id a copy or move runs under. One that replaces gets one of its own: it must not be torn between its two steps by a
/// caller that leaves.
fn once_id(wanted: &Relocation) -> Option<String> {
    wanted.request_id.clone().or_else(|| wanted.replace_existing.then(|| uuid::Uuid::new_v4().to_string()))
}

/// Refuses a source of another revision than expected, and folders where only files will do.
fn expect_source(source: &files::Metadata, wanted: &Relocation, asked: &str) -> Result<()> {
    let field = match source {
        files::Metadata::File(file) => return expect_rev(file, &wanted.expected_rev),
        _ if !wanted.expected_rev.is_empty() => "expected_rev",
        _ if wanted.replace_existing => "replace_existing",
        _ => return Ok(()),
    };
    let text = format!("{field} is for files, and this is a folder");
    Err(Fault::new(Reason::NotAFile, text).resource("dropbox.item", asked))
}

/// Whether a copy of unknown outcome is there by now: the same content under an id of its own.
async fn copied_before(site: Site, request: api::CopyItemRequest, wanted: Relocation) -> Look<api::CopyItemResponse> {
    let found = async {
        let from = site.metadata(&site.place_for_change(&wanted.from).await?).await?;
        let to = site.place_for_change(&wanted.to).await?;
        let lost = Fault::new(Reason::OutcomeUnknown, "the answer to the copy was lost");
        let copy = verify::copied(site.caller(), &from, &to, lost).await?;
        Ok::<_, Fault>(api::CopyItemResponse {
            item: Some(convert::item_at(copy, site.jail(), &request.to_path)?),
            replaced: None,
        })
    };
    // With `autorename` the copy may have another name; of a replacement, what was replaced is not known any more.
    if wanted.autorename || wanted.replace_existing {
        return Look::Unknown;
    }
    found.await.map_or(Look::Unknown, Look::Done)
}

/// Whether the item of a move of unknown outcome is where it was to go.
async fn moved_before(
    site: Site,
    request: api::MoveItemRequest,
    wanted: Relocation,
    id: Option<String>,
) -> Look<api::MoveItemResponse> {
    let Some(id) = id.filter(|_| !wanted.replace_existing) else { return Look::Unknown };
    let found = async {
        let to = site.place_for_change(&wanted.to).await?;
        let now = site.metadata(&id).await?;
        if paths(&now).0 != Some(dbx_str_lowercase(&to).as_str()) {
            return Err(Fault::new(Reason::OutcomeUnknown, "it is elsewhere"));
        }
        Ok(api::MoveItemResponse { item: Some(convert::item_at(now, site.jail(), &request.to_path)?), replaced: None })
    };
    found.await.map_or(Look::Unknown, Look::Done)
}

async fn relocate(site: &Site, request: &api::MoveItemRequest, wanted: &Relocation) -> Result<api::MoveItemResponse> {
    let from = site.place_for_change(&wanted.from).await?;
    let to = site.place_for_change(&wanted.to).await?;
    let source = site.metadata(&from).await?;
    expect_source(&source, wanted, &request.from_path)?;
    let target = replace::target(site, &source, &to, wanted).await?;
    let step =
        Step { site, source: &source, autorename: wanted.autorename, transfer: request.allow_ownership_transfer };
    let (here, display) = paths(&source);
    let only_case = here == Some(dbx_str_lowercase(&to).as_str()) && display != Some(to.as_str());
    let moved = match &target {
        Some(target) => {
            let held = site.turn(&[gate_path(&source, &from), &to]).await?;
            replace::with(site, &held, target, &to, async || step.run_in(&held, &from, &to).await).await?
        }
        None if only_case && here.is_some() => rename_case(&step, &from, &to).await?,
        None => step.run_with_others(&from, &to).await?,
    };
    Ok(api::MoveItemResponse {
        item: Some(convert::item_at(moved, site.jail(), &request.to_path)?),
        replaced: replace::told(site, target),
    })
}

/// One move at Dropbox.
struct Step<'a> {
    site: &'a Site,
    source: &'a files::Metadata,
    autorename: bool,
    transfer: bool,
}

impl Step<'_> {
    async fn run(&self, from: &str, to: &str) -> Result<files::Metadata> {
        let held = self.site.turn(&[gate_path(self.source, from), to]).await?;
        self.run_in(&held, from, to).await
    }

    /// The same, together with others if it meets them at the gate.
    async fn run_with_others(&self, from: &str, to: &str) -> Result<files::Metadata> {
        let paths = files::RelocationPath::new(from.to_owned(), to.to_owned());
        let change = Change::Move { paths, autorename: self.autorename, transfer: self.transfer };
        match self.site.change(&[gate_path(self.source, from), to], change).await {
            Ok(moved) => Ok(moved),
            Err(fault) => verify::moved(self.site.caller(), self.source, fault).await,
        }
    }

    /// Whatever ends the caller's own time, a deadline or a pause that Dropbox asks for and no call waits for, is waited for.
    async fn run_patiently(&self, from: &str, to: &str) -> Result<files::Metadata> {
        let end = Instant::now() + limits::DEADLINE_MAX;
        let site = self.site.until(end);
        let step = Step { site: &site, ..*self };
        loop {
            let fault = match step.run(from, to).await {
                Ok(moved) => return Ok(moved),
                Err(fault) => fault,
            };
            let wait = fault.retry_delay().map(|told| told.max(limits::BUSY_RETRY));
            let Some(wait) = wait.filter(|wait| Instant::now() + *wait < end) else { return Err(fault) };
            site.door().clock.sleep(wait).await;
        }
    }

    async fn run_in(&self, held: &Turn, from: &str, to: &str) -> Result<files::Metadata> {
        let arg = files::RelocationArg::new(from.to_owned(), to.to_owned())
            .with_autorename(self.autorename)
            .with_allow_ownership_transfer(self.transfer);
        match self.site.caller().commit(held, &routes::MOVE, &arg).await {
            Ok(moved) => Ok(moved.value.metadata),
            Err(fault) => verify::moved(self.site.caller(), self.source, fault).await,
        }
    }
}

/// Dropbox has no case-only rename: the item goes over a name beside it. A task of its own takes both steps, also if the
/// caller leaves, and a drain waits for it: between them the item has a name that nobody gave it.
async fn rename_case(step: &Step<'_>, from: &str, to: &str) -> Result<files::Metadata> {
    if let files::Metadata::Folder(folder) = step.source
        && folder.sharing_info.as_ref().is_some_and(|info| info.shared_folder_id.is_some())
    {
        let text = "the case of a shared folder's own name cannot be changed by two moves";
        return Err(Fault::new(Reason::RelocationNotAllowed, text).fact("rule", "shared_folder_root"));
    }
    let mut stamp = [0u8; 4];
    rand::rng().fill_bytes(&mut stamp);
    let aside = format!("{to}.{}.tmp", hex::encode(stamp));
    let (site, source, transfer) = (step.site.clone(), step.source.clone(), step.transfer);
    let (from, to) = (from.to_owned(), to.to_owned());
    let both = async move {
        let there = Step { site: &site, source: &source, autorename: false, transfer };
        let parked = there.run(&from, &aside).await?;
        let back = Step { source: &parked, ..there };
        let fault = match back.run_patiently(&aside, &to).await {
            Ok(moved) => return Ok(moved),
            Err(fault) => fault,
        };
        let home = paths(&source).1.unwrap_or(&from);
        match back.run_patiently(&aside, home).await {
            Ok(_) => Err(fault),
            Err(_) => Err(Fault::new(Reason::OutcomeUnknown, "the item was set aside and could not be put back")
                .fact("currentPath", &aside)
                .resource("dropbox.item", &aside)
                .source(fault)),
        }
    };
    let both = step.site.door().tasks.spawn(Box::pin(both.in_current_span()));
    both.await.unwrap_or_else(|_| Err(Fault::bug("a rename's task ended without an answer")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> files::Metadata {
        let time = || "2026-01-02T03:04:05Z".to_owned();
        files::Metadata::File(files::FileMetadata::new(
            "a".into(),
            "id:abcd".into(),
            time(),
            time(),
            "0123456789".into(),
            1,
        ))
    }

    fn folder() -> files::Metadata {
        files::Metadata::Folder(files::FolderMetadata::new("a".into(), "id:abcd".into()))
    }

    #[test]
    fn only_what_was_named_is_deleted() {
        let reason = |before: &files::Metadata, kind, rev: &str| {
            deletable(before, kind, rev, "/a").map_err(|fault| fault.reason())
        };
        assert_eq!(reason(&file(), api::ItemKind::File, ""), Ok(Some("0123456789".into())));
        assert_eq!(reason(&file(), api::ItemKind::Any, "0123456789"), Ok(Some("0123456789".into())));
        assert_eq!(reason(&file(), api::ItemKind::File, "fedcba987"), Err(Reason::RevisionConflict));
        assert_eq!(reason(&file(), api::ItemKind::Folder, ""), Err(Reason::NotAFolder));
        assert_eq!(reason(&folder(), api::ItemKind::File, ""), Err(Reason::NotAFile));
        assert_eq!(reason(&folder(), api::ItemKind::Any, ""), Ok(None));
        assert_eq!(reason(&folder(), api::ItemKind::Any, "0123456789"), Err(Reason::NotAFile));
    }
}
