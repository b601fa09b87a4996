//! `CommitUploads`: uploads that are ready, each as whom and in which root it was made, all of them in as few requests as may be.

use dropbox_sdk::types::files;

use super::{
    call::Call,
    door::{Door, Site},
    status,
    transfer::{Transfer, account, engine_mode},
};
use crate::{
    access::Permissions,
    api::v1 as api,
    clock::dropbox_time,
    convert::{
        AskedContext, item_error,
        items::item_at,
        path::Jail,
        transfer::{self as convert, Commit as Asked, Terms as AskedTerms},
    },
    engine::upload::{Commit, Settled, Terms},
    fault::{Fault, Result},
};

/// The uploads of one call that were made in one context.
struct Lot {
    context: AskedContext,
    /// Places in the call, and the paths they were begun for.
    items: Vec<(usize, String)>,
}

impl Transfer {
    pub async fn commit_uploads(
        &self,
        call: Call,
        request: api::CommitUploadsRequest,
    ) -> Result<api::CommitUploadsResponse> {
        let asked = convert::commit_uploads(&request)?;
        let site = self.door.open(&call, &request, Permissions::default()).await?;
        let mut results: Vec<Option<api::committed_upload::Outcome>> = asked.iter().map(|_| None).collect();
        let mut lots: Vec<Lot> = Vec::new();
        for (n, item) in asked.iter().enumerate() {
            match self.kept(&site, &item.upload_id) {
                Ok((peek, kept)) => match lots.iter_mut().find(|lot| lot.context == kept.context) {
                    Some(lot) => lot.items.push((n, peek.path)),
                    None => lots.push(Lot { context: kept.context, items: vec![(n, peek.path)] }),
                },
                Err(fault) => results[n] = Some(failed(&site, fault)),
            }
        }
        let lots = lots.into_iter().map(|lot| self.lot(&call, &site, lot, &asked));
        for (n, outcome) in futures::future::join_all(lots).await.into_iter().flatten() {
            results[n] = Some(outcome);
        }
        let results = results.into_iter().enumerate().map(|(n, outcome)| {
            let missing = || failed(&site, Fault::bug("an upload of the call was not answered"));
            let index = i32::try_from(n).unwrap_or(i32::MAX);
            api::CommittedUpload { index, outcome: Some(outcome.unwrap_or_else(missing)) }
        });
        Ok(api::CommitUploadsResponse { results: results.collect() })
    }

    /// A handle grants nothing: who may act as whom, in which root and folder, is looked at anew.
    async fn lot(
        &self,
        call: &Call,
        site: &Site,
        lot: Lot,
        asked: &[Asked],
    ) -> Vec<(usize, api::committed_upload::Outcome)> {
        let site = match in_context(&self.door, call, site, lot.context).await {
            Ok(site) => site,
            Err(fault) => return lot.items.iter().map(|(n, _)| (*n, failed(site, fault.told_again()))).collect(),
        };
        let (mut outcomes, mut places, mut commits) = (Vec::new(), Vec::new(), Vec::new());
        for (n, begun_for) in lot.items {
            match commit(&site, n, &asked[n], begun_for).await {
                Ok(commit) => {
                    places.push(n);
                    commits.push(commit);
                }
                Err(fault) => outcomes.push((n, failed(&site, fault))),
            }
        }
        let settled = self.uploads.commit_all(site.caller(), &account(&site), commits).await;
        let told = places.into_iter().zip(settled);
        outcomes.extend(told.map(
            |(n, settled)| match settled.and_then(|settled| committed(&site, settled, &asked[n])) {
                Ok(item) => (n, api::committed_upload::Outcome::Item(item)),
                Err(fault) => (n, failed(&site, fault)),
            },
        ));
        outcomes
    }
}

async fn in_context(door: &Door, call: &Call, site: &Site, context: AskedContext) -> Result<Site> {
    if *site.context() == context {
        return Ok(site.clone());
    }
    let id = site.parameters().id.as_str().to_owned();
    door.open_as(call, &id, context, Permissions::default()).await
}

/// `begun_for`: where the upload was to go.
async fn commit(site: &Site, place: usize, asked: &Asked, begun_for: String) -> Result<Commit> {
    // The jail may be newer than the upload: a path by id or namespace does not say where it lies.
    if !site.jail().holds(Some(&begun_for)) {
        return Err(Jail::not_found(""));
    }
    let terms = match &asked.terms {
        Some(terms) => Some(engine_terms(site, terms, begun_for).await?),
        None => None,
    };
    let (upload_id, content_hash) = (asked.upload_id.clone(), asked.content_hash.clone());
    Ok(Commit { place, upload_id, content_hash, terms })
}

async fn engine_terms(site: &Site, terms: &AskedTerms, begun_for: String) -> Result<Terms> {
    Ok(Terms {
        path: match &terms.path {
            Some(path) => site.place_for_change(path).await?,
            None => begun_for,
        },
        mode: engine_mode(terms.mode, &terms.expected_rev),
        autorename: terms.autorename,
        strict_conflict: terms.strict_conflict,
        mute: terms.mute,
        client_modified: terms.client_modified.map(dropbox_time),
    })
}

fn committed(site: &Site, settled: Settled, asked: &Asked) -> Result<api::Item> {
    let metadata = files::Metadata::File(settled.file);
    site.learn(&metadata);
    let path = asked.terms.as_ref().and_then(|terms| terms.path.as_ref());
    item_at(metadata, site.jail(), path.map_or("", |path| path.as_str()))
}

fn failed(site: &Site, fault: Fault) -> api::committed_upload::Outcome {
    let fault = site.told(fault);
    api::committed_upload::Outcome::Failure(item_error(&fault, status::code(fault.reason()) as i32))
}
