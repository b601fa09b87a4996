//! Links. A url is answered to who asked for it and stands in no message and no log.

use dropbox_sdk::types::{files, sharing};
use futures::future::BoxFuture;

use super::{
    call::Call,
    door::{Door, Site},
    pages::{self, Place},
};
use crate::{
    access::Permissions,
    api::v1 as api,
    convert::{path::Jail, sharing as convert, timestamp},
    dropbox::routes,
    engine::verify,
    fault::{Fault, Reason, Result},
    limits::TEMPORARY_LINK_LIFE,
};

/// The RPCs of links.
#[derive(Clone)]
pub struct Sharing {
    pub door: Door,
}

impl Sharing {
    pub async fn get_file_link(
        &self,
        call: Call,
        request: api::GetFileLinkRequest,
    ) -> Result<api::GetFileLinkResponse> {
        let (path, kind) = convert::get_file_link(&request)?;
        let path = &path;
        let link = self.door.enter(&call, &request, Permissions::default(), |site| async move {
            let place = site.place_for_change(path).await?;
            file_link(&site, &place, kind).await
        });
        Ok(api::GetFileLinkResponse { link: Some(link.await?) })
    }

    pub async fn create_shared_link(
        &self,
        call: Call,
        request: api::CreateSharedLinkRequest,
    ) -> Result<api::CreateSharedLinkResponse> {
        let (path, settings) = convert::create_shared_link(&request)?;
        let (path, settings, asked) = (&path, &settings, &request);
        self.door
            .enter(&call, &request, Permissions::default(), |site| async move {
                let place = site.place_for_change(path).await?;
                let (link, created) = match create(&site, &place, settings.clone()).await {
                    Ok(link) => (link, true),
                    // The answer to the first attempt was lost: the link that is there is the one it made.
                    Err(fault)
                        if is_taken(&fault) && (asked.return_existing || fault.get("earlierAttempt").is_some()) =>
                    {
                        let created = fault.get("earlierAttempt").is_some();
                        let mut own = own_links(&site, &place).await?;
                        if own.is_empty() {
                            return Err(fault);
                        }
                        (own.remove(0), created)
                    }
                    Err(fault) => return Err(fault),
                };
                let link = convert::shared_link(link, site.jail()).ok_or_else(|| Jail::not_found(path.as_str()))?;
                Ok(api::CreateSharedLinkResponse { shared_link: Some(link), created })
            })
            .await
    }

    pub async fn list_shared_links(
        &self,
        call: Call,
        mut request: api::ListSharedLinksRequest,
    ) -> Result<api::ListSharedLinksResponse> {
        pages::take_context(&self.door, &call, &mut request).await?;
        let (path, page_size) = convert::list_shared_links(&request)?;
        let (path, asked) = (&path, &request);
        self.door
            .enter(&call, &request, Permissions::default(), |site| async move {
                let (folder, from) = match (pages::open(&site, asked)?, path) {
                    (Some(at), _) => at,
                    (None, Some(path)) => (site.place(path).await?, Place::default()),
                    (None, None) => Default::default(),
                };
                let page = links(&site, &folder, &from.cursor, asked.direct_only).await?;
                let most = usize::try_from(page_size).unwrap_or(usize::MAX);
                let mut answer = pages::Answer::bounded(most, crate::limits::ANSWER_BYTES_MAX);
                let (mut given, mut cut) = (0, false);
                for link in page.links {
                    given += 1;
                    if given <= from.given {
                        continue;
                    }
                    let Some(link) = convert::shared_link(link, site.jail()) else { continue };
                    cut = !answer.has_room(&link);
                    if cut {
                        given -= 1;
                        break;
                    }
                    answer.put(link);
                }
                let next = if cut {
                    Some(Place { cursor: from.cursor, given })
                } else {
                    page.cursor.filter(|_| page.has_more).map(|cursor| Place { cursor, given: 0 })
                };
                let token = next.map(|place| pages::seal(&site, asked, &folder, place)).transpose()?;
                Ok(api::ListSharedLinksResponse {
                    shared_links: answer.taken,
                    next_page_token: token.unwrap_or_default(),
                })
            })
            .await
    }

    pub async fn revoke_shared_link(
        &self,
        call: Call,
        request: api::RevokeSharedLinkRequest,
    ) -> Result<api::RevokeSharedLinkResponse> {
        convert::revoke_shared_link(&request)?;
        let asked = &request;
        self.door
            .enter(&call, &request, Permissions::default(), |site| async move {
                match revoke(&site, &asked.url).await {
                    Err(fault) if fault.reason() == Reason::SharedLinkNotFound && asked.allow_missing => {}
                    outcome => outcome?,
                }
                Ok(api::RevokeSharedLinkResponse {})
            })
            .await
    }
}

async fn revoke(site: &Site, url: &str) -> Result<()> {
    if !site.jail().is_open() {
        let arg = sharing::GetSharedLinkMetadataArg::new(url.to_owned());
        let link = site.read(&routes::GET_SHARED_LINK_METADATA, &arg).await?;
        if !site.jail().holds(convert::shared_path(&link)) {
            return Err(Fault::new(Reason::SharedLinkNotFound, "there is no such link"));
        }
    }
    let arg = sharing::RevokeSharedLinkArg::new(url.to_owned());
    match site.read(&routes::REVOKE_SHARED_LINK, &arg).await {
        Ok(()) => Ok(()),
        Err(fault) => verify::revoked(site.caller(), url, fault).await,
    }
}

/// The link that `GetFileLink` hands out: an own one that anybody may view with, the oldest of several, or a new one.
/// Boxed: it is awaited at the end of uploads, too, whose future is large enough.
pub(super) fn file_link<'a>(site: &'a Site, place: &'a str, kind: api::LinkKind) -> BoxFuture<'a, Result<api::Link>> {
    Box::pin(async move {
        if kind == api::LinkKind::Temporary {
            let arg = files::GetTemporaryLinkArg::new(place.to_owned());
            let made = site.read(&routes::GET_TEMPORARY_LINK, &arg).await?;
            return Ok(api::Link {
                url: made.link,
                kind: kind.into(),
                expire_time: Some(timestamp(site.door().clock.now() + TEMPORARY_LINK_LIFE)),
                visibility: api::LinkVisibility::Public.into(),
                is_new: true,
            });
        }
        let now = site.door().clock.now();
        let preview = |links: Vec<sharing::SharedLinkMetadata>| {
            links.into_iter().find(|link| convert::serves_as_preview(link, now))
        };
        let unknown = || Fault::new(Reason::DropboxProtocol, "Dropbox answered with a link of an unknown kind");
        if let Some(link) = preview(own_links(site, place).await?) {
            return convert::preview_link(link, false).ok_or_else(unknown);
        }
        match create(site, place, None).await {
            Ok(link) => convert::preview_link(link, true).ok_or_else(unknown),
            // Somebody made one meanwhile, or the answer to the first attempt was lost.
            Err(fault) if is_taken(&fault) => {
                let is_new = fault.get("earlierAttempt").is_some();
                let link = preview(own_links(site, place).await?).ok_or(fault)?;
                convert::preview_link(link, is_new).ok_or_else(unknown)
            }
            Err(fault) => Err(fault),
        }
    })
}

fn is_taken(fault: &Fault) -> bool {
    fault.reason() == Reason::SharedLinkExists
}

async fn create(
    site: &Site,
    place: &str,
    settings: Option<sharing::SharedLinkSettings>,
) -> Result<sharing::SharedLinkMetadata> {
    let mut arg = sharing::CreateSharedLinkWithSettingsArg::new(place.to_owned());
    arg.settings = settings;
    site.read(&routes::CREATE_SHARED_LINK, &arg).await
}

/// The item's own links, not those of folders above, in the order Dropbox lists: oldest first.
async fn own_links(site: &Site, place: &str) -> Result<Vec<sharing::SharedLinkMetadata>> {
    Ok(links(site, place, "", true).await?.links)
}

async fn links(site: &Site, place: &str, cursor: &str, direct_only: bool) -> Result<sharing::ListSharedLinksResult> {
    let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let mut arg = sharing::ListSharedLinksArg::default();
    arg.path = given(place);
    arg.cursor = given(cursor);
    // Dropbox takes it only together with a path.
    arg.direct_only = (direct_only && arg.path.is_some()).then_some(true);
    site.read(&routes::LIST_SHARED_LINKS, &arg).await
}
