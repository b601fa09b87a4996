//! Links: settings in, links out. A url is a secret: it is answered to who asked and stands in no message.

use dropbox_sdk::types::sharing;

use crate::{
    api::v1 as api,
    clock::dropbox_time,
    convert::{
        Fields, dropbox_timestamp,
        path::{Forms, ItemPath, Jail},
        size,
    },
    fault::{Reason, Result},
    limits::{LINKS_PAGE_DEFAULT, LINKS_PAGE_MAX, URL_BYTES_MAX},
};

/// A shared link must be Dropbox's own: https, no user info, at most 2 KiB.
pub fn link_url(fields: &mut Fields, field: &str, text: &str) {
    let parsed = (text.len() <= URL_BYTES_MAX).then(|| url::Url::parse(text).ok()).flatten();
    let fits = parsed.is_some_and(|url| {
        url.scheme() == "https"
            && matches!(url.host_str(), Some("dropbox.com" | "www.dropbox.com"))
            && url.username().is_empty()
            && url.password().is_none()
            && url.port().is_none()
    });
    if !fits {
        let text = "a shared link is https on dropbox.com or www.dropbox.com, without user info, at most 2 KiB";
        fields.refuse_as(Reason::InvalidUrl, field, "INVALID_URL", text);
    }
}

/// # Errors
/// `MALFORMED_PATH`, `INVALID_FIELD`.
pub fn get_file_link(request: &api::GetFileLinkRequest) -> Result<(ItemPath, api::LinkKind)> {
    let mut fields = Fields::new();
    let kind = match fields.known("kind", request.kind) {
        api::LinkKind::Unspecified => api::LinkKind::Preview,
        kind => kind,
    };
    let path = fields.path("path", &request.path, Forms::WRITE_OR_ID);
    fields.accept((path, kind))
}

/// # Errors
/// `MALFORMED_PATH`, `INVALID_FIELD`.
pub fn create_shared_link(
    request: &api::CreateSharedLinkRequest,
) -> Result<(ItemPath, Option<sharing::SharedLinkSettings>)> {
    let mut fields = Fields::new();
    let path = fields.path("path", &request.path, Forms::WRITE_OR_ID);
    let settings = request.settings.as_ref().map(|asked| settings(&mut fields, asked));
    fields.accept((path, settings))
}

fn settings(fields: &mut Fields, asked: &api::SharedLinkSettings) -> sharing::SharedLinkSettings {
    fields.text("settings.password", &asked.password);
    let needs_password = asked.require_password == Some(true);
    let consistent = needs_password != asked.password.is_empty();
    fields.check(consistent, "settings.password", "CONFLICT", "set it together with require_password, and only then");
    let mut settings = sharing::SharedLinkSettings::default();
    settings.require_password = asked.require_password;
    settings.link_password = Some(asked.password.clone()).filter(|password| !password.is_empty());
    settings.expires = fields.time("settings.expire_time", asked.expire_time.as_ref()).map(dropbox_time);
    settings.audience = match fields.known("settings.audience", asked.audience) {
        api::LinkAudience::Unspecified => None,
        api::LinkAudience::Public => Some(sharing::LinkAudience::Public),
        api::LinkAudience::Team => Some(sharing::LinkAudience::Team),
        api::LinkAudience::NoOne => Some(sharing::LinkAudience::NoOne),
    };
    settings.access = match fields.known("settings.access", asked.access) {
        api::LinkAccess::Unspecified => None,
        api::LinkAccess::Viewer => Some(sharing::RequestedLinkAccessLevel::Viewer),
        api::LinkAccess::Editor => Some(sharing::RequestedLinkAccessLevel::Editor),
        api::LinkAccess::Max => Some(sharing::RequestedLinkAccessLevel::Max),
        api::LinkAccess::Default => Some(sharing::RequestedLinkAccessLevel::Default),
    };
    settings.allow_download = asked.allow_download;
    settings
}

/// The folder or item asked about and the links of a page.
///
/// # Errors
/// `MALFORMED_PATH`, `INVALID_FIELD`.
pub fn list_shared_links(request: &api::ListSharedLinksRequest) -> Result<(Option<ItemPath>, u32)> {
    let mut fields = Fields::new();
    let path = (!request.path.is_empty()).then(|| fields.path("path", &request.path, Forms::WRITE_OR_ID));
    fields.check(!request.direct_only || path.is_some(), "direct_only", "CONFLICT", "only together with path");
    let page_size = fields.page_size(request.page_size, LINKS_PAGE_DEFAULT, LINKS_PAGE_MAX);
    fields.accept((path, page_size))
}

/// # Errors
/// `INVALID_URL`.
pub fn revoke_shared_link(request: &api::RevokeSharedLinkRequest) -> Result<()> {
    let mut fields = Fields::new();
    link_url(&mut fields, "url", &request.url);
    fields.accept(())
}

/// What files and folders behind a link have in common.
struct Parts {
    url: String,
    name: String,
    permissions: sharing::LinkPermissions,
    expires: Option<String>,
    path_lower: Option<String>,
    id: Option<String>,
    kind: api::ItemKind,
    rev: String,
    size: u64,
}

fn parts(link: sharing::SharedLinkMetadata) -> Option<Parts> {
    match link {
        sharing::SharedLinkMetadata::File(file) => Some(Parts {
            url: file.url,
            name: file.name,
            permissions: file.link_permissions,
            expires: file.expires,
            path_lower: file.path_lower,
            id: file.id,
            kind: api::ItemKind::File,
            rev: file.rev,
            size: file.size,
        }),
        sharing::SharedLinkMetadata::Folder(folder) => Some(Parts {
            url: folder.url,
            name: folder.name,
            permissions: folder.link_permissions,
            expires: folder.expires,
            path_lower: folder.path_lower,
            id: folder.id,
            kind: api::ItemKind::Folder,
            rev: String::new(),
            size: 0,
        }),
        _ => None,
    }
}

/// Lower-cased path of what a link shares; `None` where it is not in the account's Dropbox.
pub fn shared_path(link: &sharing::SharedLinkMetadata) -> Option<&str> {
    match link {
        sharing::SharedLinkMetadata::File(file) => file.path_lower.as_deref(),
        sharing::SharedLinkMetadata::Folder(folder) => folder.path_lower.as_deref(),
        _ => None,
    }
}

/// A link as a caller of this jail may see it; `None` outside, and for kinds this version does not know.
pub fn shared_link(link: sharing::SharedLinkMetadata, jail: &Jail) -> Option<api::SharedLink> {
    if !jail.holds(shared_path(&link)) {
        return None;
    }
    let parts = parts(link)?;
    let path_lower = parts.path_lower.as_deref().and_then(|path| jail.relative(path)).unwrap_or_default().to_owned();
    let visibility = visibility(&parts.permissions);
    let audience = match parts.permissions.effective_audience {
        Some(sharing::LinkAudience::Public) => api::LinkAudience::Public,
        Some(sharing::LinkAudience::Team) => api::LinkAudience::Team,
        Some(sharing::LinkAudience::NoOne) => api::LinkAudience::NoOne,
        _ => api::LinkAudience::Unspecified,
    };
    let access = match parts.permissions.link_access_level {
        Some(sharing::LinkAccessLevel::Viewer) => api::LinkAccess::Viewer,
        Some(sharing::LinkAccessLevel::Editor) => api::LinkAccess::Editor,
        _ => api::LinkAccess::Unspecified,
    };
    let settings = api::SharedLinkSettings {
        audience: audience.into(),
        access: access.into(),
        require_password: parts.permissions.require_password,
        password: String::new(),
        expire_time: parts.expires.as_deref().and_then(dropbox_timestamp),
        allow_download: Some(parts.permissions.allow_download),
    };
    Some(api::SharedLink {
        url: parts.url,
        name: parts.name,
        path_lower,
        item_id: parts.id.unwrap_or_default(),
        item_kind: parts.kind.into(),
        rev: parts.rev,
        size: size(parts.size),
        visibility: visibility.into(),
        settings: Some(settings),
        can_revoke: parts.permissions.can_revoke,
    })
}

/// A link to show an item with.
pub fn preview_link(link: sharing::SharedLinkMetadata, is_new: bool) -> Option<api::Link> {
    let parts = parts(link)?;
    Some(api::Link {
        expire_time: parts.expires.as_deref().and_then(dropbox_timestamp),
        visibility: visibility(&parts.permissions).into(),
        url: parts.url,
        kind: api::LinkKind::Preview.into(),
        is_new,
    })
}

/// A link that `GetFileLink` may hand out: anybody it is meant for can view with it, now and without a password.
pub fn serves_as_preview(link: &sharing::SharedLinkMetadata, now: std::time::SystemTime) -> bool {
    let (permissions, expires) = match link {
        sharing::SharedLinkMetadata::File(file) => (&file.link_permissions, &file.expires),
        sharing::SharedLinkMetadata::Folder(folder) => (&folder.link_permissions, &folder.expires),
        _ => return false,
    };
    let needs_password = permissions.require_password == Some(true)
        || matches!(
            permissions.resolved_visibility,
            Some(sharing::ResolvedVisibility::Password | sharing::ResolvedVisibility::TeamAndPassword)
        );
    let edits = matches!(permissions.link_access_level, Some(sharing::LinkAccessLevel::Editor));
    let expired = expires.as_deref().and_then(crate::clock::from_dropbox_time).is_some_and(|at| at <= now);
    !needs_password && !edits && !expired
}

fn visibility(permissions: &sharing::LinkPermissions) -> api::LinkVisibility {
    match permissions.resolved_visibility {
        Some(sharing::ResolvedVisibility::Public) => api::LinkVisibility::Public,
        Some(sharing::ResolvedVisibility::TeamOnly) => api::LinkVisibility::TeamOnly,
        Some(sharing::ResolvedVisibility::Password) => api::LinkVisibility::Password,
        Some(sharing::ResolvedVisibility::TeamAndPassword) => api::LinkVisibility::TeamAndPassword,
        Some(sharing::ResolvedVisibility::SharedFolderOnly) => api::LinkVisibility::SharedFolderOnly,
        Some(sharing::ResolvedVisibility::NoOne) => api::LinkVisibility::NoOne,
        Some(sharing::ResolvedVisibility::OnlyYou) => api::LinkVisibility::OnlyYou,
        _ => api::LinkVisibility::Unspecified,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn link(expires: Option<&str>, password: bool) -> sharing::SharedLinkMetadata {
        let mut permissions = sharing::LinkPermissions::new(true, Vec::new(), true, true, true, true, true, true, true);
        permissions.require_password = Some(password);
        permissions.resolved_visibility = Some(sharing::ResolvedVisibility::Public);
        let mut folder = sharing::FolderLinkMetadata::new("https://www.dropbox.com/x".into(), "In".into(), permissions);
        folder.expires = expires.map(str::to_owned);
        folder.path_lower = Some("/apps/in".into());
        sharing::SharedLinkMetadata::Folder(folder)
    }

    #[test]
    fn only_dropbox_s_own_https_links_are_taken() {
        let refused = |url: &str| {
            let mut fields = Fields::new();
            link_url(&mut fields, "url", url);
            fields.accept(()).err().map(|fault| fault.reason())
        };
        assert_eq!(refused("https://www.dropbox.com/scl/fi/x/a.txt?rlkey=abc&dl=0"), None);
        assert_eq!(refused("https://dropbox.com/s/x"), None);
        for bad in [
            "",
            "http://www.dropbox.com/x",
            "https://evil.com/www.dropbox.com",
            "https://www.dropbox.com.evil.com/x",
            "https://user@www.dropbox.com/x",
            "https://www.dropbox.com:444/x",
            &format!("https://www.dropbox.com/{}", "x".repeat(2048)),
        ] {
            assert_eq!(refused(bad), Some(Reason::InvalidUrl), "{bad}");
        }
    }

    #[test]
    fn a_password_comes_with_require_password_or_not_at_all() {
        let request = |require: Option<bool>, password: &str| api::CreateSharedLinkRequest {
            path: "/a".into(),
            settings: Some(api::SharedLinkSettings {
                require_password: require,
                password: password.into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        assert!(create_shared_link(&request(None, "")).is_ok());
        assert!(create_shared_link(&request(Some(true), "hush")).is_ok());
        for (require, password) in [(Some(true), ""), (None, "hush"), (Some(false), "hush")] {
            let fault = create_shared_link(&request(require, password)).unwrap_err();
            assert_eq!(fault.violations()[0].field, "settings.password");
            assert!(!format!("{fault:?}").contains("hush"));
        }
    }

    #[test]
    fn links_with_passwords_or_past_their_end_do_not_serve_as_previews() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_323_045);
        assert!(serves_as_preview(&link(None, false), now));
        assert!(serves_as_preview(&link(Some("2026-01-02T03:04:06Z"), false), now));
        assert!(!serves_as_preview(&link(Some("2026-01-02T03:04:05Z"), false), now));
        assert!(!serves_as_preview(&link(None, true), now));
        assert!(!serves_as_preview(&sharing::SharedLinkMetadata::Other, now));
    }

    #[test]
    fn a_link_outside_the_jail_is_not_told() {
        assert!(shared_link(link(None, false), &Jail::new("/other").unwrap()).is_none());
        let told = shared_link(link(None, false), &Jail::new("/Apps").unwrap()).unwrap();
        assert_eq!(told.path_lower, "/in");
    }
}
