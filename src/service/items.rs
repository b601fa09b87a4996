//! Items to look at: one, a folder's, a whole tree's, those a search finds.

use dropbox_sdk::types::files;
use futures::stream::BoxStream;
use tonic::Status;

use super::{
    call::Call,
    door::{Door, Site},
    filter::{self, Filter},
    pages::{self, Place},
};
use crate::{
    access::Permissions,
    api::v1::{self as api, item::Kind},
    convert::{
        items::{self as convert, Folder, Listing, Search, paths},
        path::Jail,
    },
    dropbox::routes,
    fault::{Reason, Result},
};

/// A stream of answers.
pub type Answers<T> = BoxStream<'static, Result<T, Status>>;

/// The RPCs that only read.
#[derive(Clone)]
pub struct Items {
    pub door: Door,
}

impl Items {
    pub async fn get_item(&self, call: Call, request: api::GetItemRequest) -> Result<api::GetItemResponse> {
        let path = convert::get_item(&request)?;
        let (path, asked) = (&path, &request);
        let item = self.door.enter(&call, &request, Permissions::default(), |site| async move {
            if path.is_root() && site.jail().is_open() {
                return Ok(convert::root_item());
            }
            let place = site.place(path).await?;
            match site.read(&routes::GET_METADATA, &convert::get_item_arg(asked, place)).await {
                Ok(metadata) => {
                    site.learn(&metadata);
                    let lies_at = paths(&metadata).0.map(str::to_owned);
                    let mut item = convert::item_at(metadata, site.jail(), path.as_str())?;
                    if let (Some(lies_at), Some(Kind::Deleted(_))) = (lies_at, &item.kind) {
                        // Only a help: what Dropbox does not tell stays unset.
                        let asked = convert::newest_revision_arg(lies_at);
                        if let Ok(revisions) = site.read(&routes::LIST_REVISIONS, &asked).await {
                            convert::tell_restorable(&mut item, &revisions);
                        }
                    }
                    Ok(item)
                }
                // The jail's folder is made by the first write; to its callers it is the root and always there.
                Err(fault) if path.is_root() && fault.reason() == Reason::PathNotFound => Ok(convert::root_item()),
                Err(fault) => Err(fault),
            }
        });
        Ok(api::GetItemResponse { item: Some(item.await?) })
    }

    pub async fn list_folder(
        &self,
        call: Call,
        mut request: api::ListFolderRequest,
    ) -> Result<api::ListFolderResponse> {
        pages::take_context(&self.door, &call, &mut request).await?;
        let (listing, page_size) = convert::list_folder(&request)?;
        let filter = filter::compile(request.filter.as_ref())?;
        let (listing, filter, asked) = (&listing, &filter, &request);
        self.door
            .enter(&call, &request, Permissions::default(), |site| async move {
                let (folder, from) = match pages::open(&site, asked)? {
                    Some(at) => at,
                    None => (folder_of(&site, listing).await?, Place::default()),
                };
                let mut page = list(&site, listing, &folder, &from.cursor, page_size).await?;
                let mut answer = pages::Answer::new();
                let base = filter.base(&site, &folder).await?;
                let all = page.entries.len();
                page.entries.drain(..from.given.min(all));
                let taken = take(&mut answer, &mut page.entries, &site, &base, filter);
                let next = if taken == Taken::Some {
                    Some(Place { cursor: from.cursor, given: all - page.entries.len() })
                } else {
                    page.has_more.then_some(Place { cursor: page.cursor, given: 0 })
                };
                let token = next.map(|place| pages::seal(&site, asked, &folder, place)).transpose()?;
                Ok(api::ListFolderResponse { items: answer.taken, next_page_token: token.unwrap_or_default() })
            })
            .await
    }

    pub async fn search_items(
        &self,
        call: Call,
        mut request: api::SearchItemsRequest,
    ) -> Result<api::SearchItemsResponse> {
        pages::take_context(&self.door, &call, &mut request).await?;
        let search = convert::search_items(&request)?;
        let (search, asked) = (&search, &request);
        self.door
            .enter(&call, &request, Permissions::default(), |site| async move {
                let (folder, from) = match pages::open(&site, asked)? {
                    Some(at) => at,
                    None => (search_folder(&site, search).await?, Place::default()),
                };
                let found = if from.cursor.is_empty() {
                    let arg = search.arg(Some(folder.clone()).filter(|folder| !folder.is_empty()));
                    site.read(&routes::SEARCH, &arg).await?
                } else {
                    site.read(&routes::SEARCH_CONTINUE, &files::SearchV2ContinueArg::new(from.cursor.clone())).await?
                };
                let mut answer = pages::Answer::new();
                let mut given = 0;
                let mut cut = false;
                for entry in found.matches {
                    given += 1;
                    if given <= from.given {
                        continue;
                    }
                    let Some(entry) = convert::search_match(entry, search, site.jail()) else { continue };
                    cut = !answer.has_room(&entry);
                    if cut {
                        given -= 1;
                        break;
                    }
                    answer.put(entry);
                }
                let next = if cut {
                    Some(Place { cursor: from.cursor, given })
                } else {
                    found.cursor.filter(|_| found.has_more).map(|cursor| Place { cursor, given: 0 })
                };
                let token = next.map(|place| pages::seal(&site, asked, &folder, place)).transpose()?;
                Ok(api::SearchItemsResponse { matches: answer.taken, next_page_token: token.unwrap_or_default() })
            })
            .await
    }

    pub async fn get_account(&self, call: Call, request: api::GetAccountRequest) -> Result<api::GetAccountResponse> {
        self.door
            .enter(&call, &request, Permissions::default(), |site| async move {
                let (account, space) = futures::try_join!(
                    site.read(&routes::GET_CURRENT_ACCOUNT, &()),
                    site.read(&routes::GET_SPACE_USAGE, &()),
                )?;
                Ok(convert::get_account_response(account, space))
            })
            .await
    }
}

/// Where the folder of a listing lies at Dropbox.
pub(super) async fn folder_of(site: &Site, listing: &Listing) -> Result<String> {
    match &listing.folder {
        Folder::Path(path) => site.place(path).await,
        Folder::SharedLink(..) if !site.jail().is_open() => Err(Jail::refusal()),
        Folder::SharedLink(_, path) => Ok(path.as_str().to_owned()),
    }
}

async fn search_folder(site: &Site, search: &Search) -> Result<String> {
    match &search.path {
        Some(path) => site.place(path).await,
        None => Ok(site.jail().prefix().to_owned()),
    }
}

async fn list(
    site: &Site,
    listing: &Listing,
    folder: &str,
    cursor: &str,
    page_size: u32,
) -> Result<files::ListFolderResult> {
    if cursor.is_empty() {
        site.read(&routes::LIST_FOLDER, &listing.arg(Some(folder), page_size)).await
    } else {
        site.read(&routes::LIST_FOLDER_CONTINUE, &files::ListFolderContinueArg::new(cursor.to_owned())).await
    }
}

/// Whether all entries of a page found room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    All,
    Some,
}

/// Moves entries into the answer, those the filter and the jail let through, until it is full. What found no room stays.
pub(super) fn take(
    answer: &mut pages::Answer<api::Item>,
    entries: &mut Vec<files::Metadata>,
    site: &Site,
    base: &str,
    filter: &Filter,
) -> Taken {
    let mut rest = std::mem::take(entries).into_iter();
    while let Some(entry) = rest.next() {
        site.learn(&entry);
        if !filter.wants(&entry, base) {
            continue;
        }
        let Some(item) = convert::item(entry.clone(), site.jail()) else { continue };
        if !answer.has_room(&item) {
            entries.push(entry);
            entries.extend(rest);
            return Taken::Some;
        }
        answer.put(item);
    }
    Taken::All
}
