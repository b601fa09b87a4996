//! Uploads: a stream of frames, or the unary calls around it. Both streaming RPCs drive the same engine.

use dropbox_sdk::types::files;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tonic::Streaming;

use super::{
    call::{Call, Refused},
    door::{Door, Site},
    frames::{First, Frames, Message},
    once, sharing, status,
};
use crate::{
    access::{Permission, Permissions},
    api::v1 as api,
    clock::{dropbox_time, from_dropbox_time},
    convert::{
        AskedContext, item_error,
        items::item_at,
        path::Jail,
        size, timestamp,
        transfer::{self as convert, Spec},
    },
    engine::{
        download::Downloads,
        upload::{Account, Arrival, Mode, Opening, Outcome, Progress, State, UploadSpec, Uploads},
    },
    fault::{Fault, Reason, Result},
};

/// The RPCs that move bytes.
#[derive(Clone)]
pub struct Transfer {
    pub door: Door,
    pub uploads: Uploads,
    pub downloads: Downloads,
}

/// What is sealed into an `upload_id` for the service: not asked again on a resume.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Kept {
    context: AskedContext,
    /// `LinkKind`; 0 is none.
    #[serde(default)]
    link: i32,
}

/// An upload that may begin.
pub(super) struct Ready {
    pub site: Site,
    opening: Opening,
    arrival: Arrival,
    link: api::LinkKind,
    /// The path as the caller wrote it, for messages; empty on a resume.
    asked: String,
}

/// How the first message was taken.
pub(super) enum Begun {
    Ready(Box<Ready>),
    /// Nothing needs to be sent.
    Skipped(Box<api::UploadFileResponse>),
}

impl Transfer {
    pub async fn upload_file(
        &self,
        call: Call,
        stream: Streaming<api::UploadFileRequest>,
    ) -> Result<api::UploadFileResponse> {
        let arrival = self.uploads.arrive(call.inflates())?;
        let mut frames = Frames::new(stream).lifted(call.lifted());
        let outcome = self.upload(&call, &mut frames, arrival, watch::Sender::default()).await;
        frames.leave(self.uploads.leave(call.inflates()));
        outcome
    }

    async fn upload<M: Message>(
        &self,
        call: &Call,
        frames: &mut Frames<M>,
        arrival: Arrival,
        progress: watch::Sender<Progress>,
    ) -> Result<api::UploadFileResponse> {
        match self.begin(call, frames, arrival).await? {
            Begun::Skipped(answer) => Ok(*answer),
            Begun::Ready(ready) => self.run(*ready, frames, progress).await,
        }
    }

    /// Takes the first message: opens the parameter, checks what the caller may do, looks whether there is work at all.
    pub(super) async fn begin<M: Message>(
        &self,
        call: &Call,
        frames: &mut Frames<M>,
        arrival: Arrival,
    ) -> Result<Begun> {
        let (envelope, first) = tokio::select! {
            biased;
            first = frames.first() => first?,
            fault = self.uploads.unheard(call.deadline()) => return Err(fault),
        };
        let tenant = self.door.tenant(call, envelope.parameter_id());
        let spec = match first {
            First::Spec(spec) => spec,
            First::Resume(upload_id) => {
                let mut arrival = self.uploads.announce(&tenant, arrival, None)?;
                let (site, kept) = self.resumed(call, &envelope, &upload_id).await?;
                self.booked(&tenant, &mut arrival, &site);
                let link = api::LinkKind::try_from(kept.link).unwrap_or_default();
                let opening = Opening::Resume(upload_id);
                let ready = Ready { site, opening, arrival, link, asked: String::new() };
                return Ok(Begun::Ready(Box::new(ready)));
            }
        };
        let spec = convert::upload_spec(&spec)?;
        let mut arrival = self.uploads.announce(&tenant, arrival, spec.total_size)?;
        let site = self.door.open(call, &envelope, permissions(spec.link)).await?;
        self.booked(&tenant, &mut arrival, &site);
        let begun = self.prepared(&site, spec, arrival).await;
        begun.map_err(|fault| site.told(fault))
    }

    /// What was booked for nobody in particular is the parameter's, now that it is opened.
    fn booked(&self, tenant: &str, arrival: &mut Arrival, site: &Site) {
        let id = site.parameters().id.as_str();
        if tenant != id {
            self.uploads.rebook(arrival, id);
        }
    }

    async fn prepared(&self, site: &Site, spec: Spec, arrival: Arrival) -> Result<Begun> {
        let place = site.place_for_change(&spec.path).await?;
        let mut engine_spec = engine_spec(&spec, place.clone());
        if spec.skip_if_identical || spec.overwrite_if != api::OverwriteIf::Always {
            let there = match site.metadata(&place).await {
                Ok(files::Metadata::File(file)) => Some(file),
                Ok(_) => None,
                Err(fault) if fault.reason() == Reason::PathNotFound => None,
                Err(fault) => return Err(fault),
            };
            if let Some(skipped) = skipped(&spec, there.as_ref()) {
                let file = there.expect("nothing is skipped unless something is there");
                let content_hash = file.content_hash.clone().unwrap_or_default();
                let item = item_at(files::Metadata::File(file), site.jail(), spec.path.as_str())?;
                return Ok(Begun::Skipped(Box::new(api::UploadFileResponse {
                    state: api::UploadState::Committed.into(),
                    item: Some(item),
                    verified: spec.content_hash.as_ref() == Some(&content_hash),
                    content_hash,
                    skipped: skipped.into(),
                    ..Default::default()
                })));
            }
            if spec.overwrite_if != api::OverwriteIf::Always {
                // What was looked at is what is replaced; a change in between is a conflict.
                engine_spec.mode = there.map_or(Mode::Add, |file| Mode::Update(file.rev));
            }
        }
        let kept = Kept { context: site.context().clone(), link: spec.link.into() };
        let opening = Opening::New { spec: engine_spec, context: kept.bytes()? };
        let asked = spec.path.as_str().to_owned();
        Ok(Begun::Ready(Box::new(Ready { site: site.clone(), opening, arrival, link: spec.link, asked })))
    }

    pub(super) async fn run<M: Message>(
        &self,
        ready: Ready,
        frames: &mut Frames<M>,
        progress: watch::Sender<Progress>,
    ) -> Result<api::UploadFileResponse> {
        let Ready { site, opening, arrival, link, asked } = ready;
        if matches!(opening, Opening::Resume(_)) {
            frames.active().resumed();
        }
        let upload_id = if let Opening::Resume(upload_id) = &opening { upload_id.clone() } else { String::new() };
        let account = account(&site);
        frames.heed(site.ending());
        frames.slow_down(site.rates().up);
        let outcome =
            self.uploads.run(site.caller(), &account, opening, arrival, frames, progress, M::HALF_CLOSES).await;
        let answer = match outcome.map_err(|fault| site.told(fault))? {
            Outcome::Open { upload_id, persisted, closed } => api::UploadFileResponse {
                state: if closed { api::UploadState::Ready } else { api::UploadState::Open }.into(),
                upload_id,
                persisted_offset: size(persisted),
                ..Default::default()
            },
            Outcome::Committed { settled, upload_id: committed } => {
                let persisted_offset = size(settled.file.size);
                let link = if link == api::LinkKind::Unspecified {
                    None
                } else {
                    let place = settled.file.path_lower.clone().unwrap_or_else(|| settled.file.id.clone());
                    Some(sharing::file_link(&site, &place, link).await)
                };
                let (link, link_failure) = match link {
                    None => (None, None),
                    Some(Ok(link)) => (Some(link), None),
                    // The file is there: a link that fails does not make the upload fail.
                    Some(Err(fault)) => {
                        let fault = site.told(fault);
                        (None, Some(item_error(&fault, status::code(fault.reason()) as i32)))
                    }
                };
                let metadata = files::Metadata::File(settled.file);
                site.learn(&metadata);
                let item = item_at(metadata, site.jail(), &asked).map_err(|fault| site.told(fault))?;
                api::UploadFileResponse {
                    state: api::UploadState::Committed.into(),
                    upload_id: committed.unwrap_or(upload_id),
                    persisted_offset,
                    item: Some(item),
                    link,
                    link_failure,
                    content_hash: settled.content_hash.unwrap_or_default(),
                    verified: settled.verified,
                    ..Default::default()
                }
            }
        };
        Ok(answer)
    }

    pub async fn start_upload(
        &self,
        call: Call,
        request: api::StartUploadRequest,
    ) -> Result<api::StartUploadResponse, Refused> {
        let (spec, id) = convert::start_upload(&request)?;
        let (uploads, extra) = (self.uploads.clone(), permissions(spec.link));
        let body = move |site: Site, _| {
            let (uploads, spec) = (uploads.clone(), spec.clone());
            async move {
                let place = site.place_for_change(&spec.path).await?;
                let kept = Kept { context: site.context().clone(), link: spec.link.into() };
                let (spec, context) = (engine_spec(&spec, place), kept.bytes()?);
                let started = uploads.start(site.caller(), &account(&site), spec, context).await?;
                Ok(api::StartUploadResponse {
                    upload_id: started.upload_id,
                    expire_time: Some(timestamp(started.expires_at)),
                })
            }
        };
        // A session nobody knows of expires by itself.
        once::run(&self.door, call, request, extra, id, body, |_, _, _| async { once::Look::Again }).await
    }

    pub async fn get_upload_status(
        &self,
        call: Call,
        request: api::GetUploadStatusRequest,
    ) -> Result<api::GetUploadStatusResponse> {
        if request.upload_id.is_empty() {
            return Err(Fault::field("upload_id", "REQUIRED", "must be set"));
        }
        let (site, _) = self.resumed(&call, &request, &request.upload_id).await?;
        let status = self.uploads.status(site.caller(), &account(&site), &request.upload_id).await;
        let status = status.map_err(|fault| site.told(fault))?;
        let item = status.file.map(|file| item_at(files::Metadata::File(file), site.jail(), "")).transpose();
        let state = match status.state {
            State::Open => api::UploadState::Open,
            State::Ready => api::UploadState::Ready,
            State::Committed => api::UploadState::Committed,
        };
        let is_committed = state == api::UploadState::Committed;
        Ok(api::GetUploadStatusResponse {
            state: state.into(),
            persisted_offset: size(status.persisted),
            expire_time: (!is_committed).then(|| timestamp(status.expires_at)),
            item: item.map_err(|fault| site.told(fault))?,
        })
    }

    /// Opens the parameter for an upload that exists. The handle grants nothing: rights, context and jail are looked at anew.
    async fn resumed<Q: super::door::Addressed>(
        &self,
        call: &Call,
        request: &Q,
        upload_id: &str,
    ) -> Result<(Site, Kept)> {
        let site = self.door.open(call, request, Permissions::default()).await?;
        let peek = self.uploads.peek(&site.owner(), upload_id)?;
        let kept: Kept = serde_json::from_slice(&peek.context)
            .map_err(|error| Fault::bug("an upload id seals no context").source(error))?;
        let asked = site.context();
        if *asked != AskedContext::default() && *asked != kept.context {
            return Err(Fault::field("context", "MISMATCH", "must be empty, or what the upload was begun with"));
        }
        let extra = permissions(api::LinkKind::try_from(kept.link).unwrap_or_default());
        let id = site.parameters().id.as_str().to_owned();
        let site = self.door.open_as(call, &id, kept.context.clone(), extra).await?;
        // The jail may be newer than the upload: a path by id or namespace does not say where it lies.
        if !site.jail().holds(Some(&peek.path)) {
            return Err(Jail::not_found(""));
        }
        Ok((site, kept))
    }
}

impl Kept {
    fn bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|error| Fault::bug("a context could not be encoded").source(error))
    }
}

fn permissions(link: api::LinkKind) -> Permissions {
    if link == api::LinkKind::Unspecified { Permissions::default() } else { Permission::Share.into() }
}

fn account(site: &Site) -> Account<'_> {
    let most = site.parameters().settings.policy.max_file_size;
    Account { owner: site.owner(), parameter: site.parameters().id.as_str(), max_file_size: (most > 0).then_some(most) }
}

fn engine_spec(spec: &Spec, path: String) -> UploadSpec {
    UploadSpec {
        path,
        mode: match spec.mode {
            api::WriteMode::Overwrite => Mode::Overwrite,
            api::WriteMode::Update => Mode::Update(spec.expected_rev.clone()),
            api::WriteMode::Add | api::WriteMode::Unspecified => Mode::Add,
        },
        autorename: spec.autorename,
        strict_conflict: spec.strict_conflict,
        mute: spec.mute,
        client_modified: spec.client_modified.map(dropbox_time),
        total_size: spec.total_size,
        content_hash: spec.content_hash.clone(),
        parallel_appends: spec.parallel_appends,
    }
}

/// Why nothing needs to be written, by what is there.
fn skipped(spec: &Spec, there: Option<&files::FileMetadata>) -> Option<api::Skipped> {
    let there = there?;
    if spec.skip_if_identical && spec.content_hash.is_some() && there.content_hash == spec.content_hash {
        return Some(api::Skipped::Identical);
    }
    let total = spec.total_size.unwrap_or_default();
    let met = match spec.overwrite_if {
        api::OverwriteIf::Always | api::OverwriteIf::Unspecified => true,
        api::OverwriteIf::Newer => {
            // Dropbox keeps whole seconds.
            let whole = spec.client_modified.map(dropbox_time).as_deref().and_then(from_dropbox_time);
            whole > from_dropbox_time(&there.client_modified)
        }
        api::OverwriteIf::SizeDiffers => total != there.size,
        api::OverwriteIf::Larger => total > there.size,
        api::OverwriteIf::Smaller => total < there.size,
    };
    (!met).then_some(api::Skipped::Condition)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(change: impl FnOnce(&mut api::UploadSpec)) -> Spec {
        let mut spec = api::UploadSpec { path: "/a".into(), ..Default::default() };
        change(&mut spec);
        convert::upload_spec(&spec).unwrap()
    }

    fn there() -> files::FileMetadata {
        let time = || "2026-01-02T03:04:05Z".to_owned();
        let mut file = files::FileMetadata::new("a".into(), "id:abcd".into(), time(), time(), "0123456789".into(), 100);
        file.content_hash = Some("ab".repeat(32));
        file
    }

    #[test]
    fn what_is_there_decides_what_is_skipped() {
        let identical = spec(|spec| {
            spec.skip_if_identical = true;
            spec.content_hash = "AB".repeat(32);
        });
        assert_eq!(skipped(&identical, Some(&there())), Some(api::Skipped::Identical));
        assert_eq!(skipped(&identical, None), None);
        let overwrite = |condition: api::OverwriteIf, total: i64, seconds: i64| {
            let spec = spec(|spec| {
                spec.write_mode = api::WriteMode::Overwrite.into();
                spec.overwrite_if = condition.into();
                spec.total_size = Some(total);
                spec.client_modified = Some(prost_types::Timestamp { seconds, nanos: 900_000_000 });
            });
            skipped(&spec, Some(&there())).is_none()
        };
        let at = 1_767_323_045;
        assert!(overwrite(api::OverwriteIf::Newer, 0, at + 1));
        assert!(!overwrite(api::OverwriteIf::Newer, 0, at));
        assert!(overwrite(api::OverwriteIf::Larger, 101, 0) && !overwrite(api::OverwriteIf::Larger, 100, 0));
        assert!(overwrite(api::OverwriteIf::Smaller, 99, 0) && !overwrite(api::OverwriteIf::Smaller, 100, 0));
        assert!(overwrite(api::OverwriteIf::SizeDiffers, 99, 0) && !overwrite(api::OverwriteIf::SizeDiffers, 100, 0));
    }
}
