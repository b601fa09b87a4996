//! One shared link: its URL, its settings, what it shows and whom it lets in.

use serde_json::{Value, json};

use crate::{
    clock::from_dropbox_time,
    emulator::{
        Who, World,
        tree::{Kind, NamespaceId, Node, Shown, Tree},
    },
};

pub(super) const SITE: &str = "https://www.dropbox.com";

#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) number: u64,
    /// In the URL's path.
    pub(super) id: String,
    /// `rlkey` of the URL.
    pub(super) key: String,
    /// Without `?rlkey`; ends with the name the item had.
    pub(super) base: String,
    pub(super) item: String,
    pub(super) account: String,
    pub(super) settings: Settings,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) audience: Audience,
    pub(super) editor: bool,
    pub(super) password: Option<String>,
    pub(super) expires: Option<String>,
    pub(super) allow_download: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audience {
    Public,
    Team,
    NoOne,
}

/// What a link's URL says.
pub(super) struct Address {
    pub(super) id: String,
    pub(super) key: Option<String>,
    /// The path of an item in the linked folder.
    pub(super) rest: Option<String>,
}

impl Address {
    /// `None`: not the URL of a shared link. Links of the older forms (`/s/`, `/sh/`) are addresses of nothing here.
    pub(super) fn read(url: &str) -> Option<Address> {
        let url = url::Url::parse(url).ok()?;
        let host = url.host_str()?;
        if url.scheme() != "https" || !(host == "dropbox.com" || host.ends_with(".dropbox.com")) {
            return None;
        }
        let steps: Vec<String> = url.path_segments()?.map(decoded).collect();
        let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
        let key = url.query_pairs().find(|(name, _)| name == "rlkey").map(|(_, value)| value.into_owned());
        match steps.as_slice() {
            ["scl", "fi", id, ..] => Some(Address { id: (*id).to_owned(), key, rest: None }),
            ["scl", "fo", id, _, rest @ ..] if !rest.is_empty() && *rest != ["h"] => {
                Some(Address { id: (*id).to_owned(), key, rest: Some(format!("/{}", rest.join("/"))) })
            }
            ["scl", "fo", id, ..] => Some(Address { id: (*id).to_owned(), key, rest: None }),
            ["s" | "sh", id, ..] => Some(Address { id: format!("old:{id}"), key: None, rest: None }),
            _ => None,
        }
    }
}

fn decoded(step: &str) -> String {
    // `form_urlencoded` reads `+` as a space; a path does not.
    let pair = format!("x={}", step.replace('+', "%2B"));
    url::form_urlencoded::parse(pair.as_bytes()).next().map(|(_, value)| value.into_owned()).unwrap_or_default()
}

pub(super) fn encoded(name: &str) -> String {
    url::form_urlencoded::byte_serialize(name.as_bytes()).collect::<String>().replace('+', "%20")
}

impl Link {
    pub(super) fn owned_by(&self, who: &Who) -> bool {
        matches!(who, Who::User { account, .. } if *account == self.account)
    }

    pub(super) fn expired(&self, world: &World) -> bool {
        let at = self.settings.expires.as_deref().and_then(from_dropbox_time);
        at.is_some_and(|at| at <= world.clock.now())
    }

    /// Somebody who is not the owner.
    pub(super) fn lets_in(&self, world: &World, tree: &Tree, who: &Who, password: Option<&str>) -> bool {
        let team =
            |id: &str| tree.account(id).and_then(|account| account.team.as_ref()).map(|seat| seat.team_id.clone());
        let invited = match self.settings.audience {
            Audience::Public => true,
            Audience::Team => match who {
                Who::User { account, .. } => team(account).is_some() && team(account) == team(&self.account),
                _ => false,
            },
            Audience::NoOne => false,
        };
        invited && !self.expired(world) && self.settings.password.as_deref().is_none_or(|own| Some(own) == password)
    }

    pub(super) fn url(&self, inner: &str) -> String {
        let inner: String = inner.split('/').skip(1).map(|step| format!("/{}", encoded(step))).collect();
        format!("{}{inner}?rlkey={}&dl=0", self.base, self.key)
    }

    /// `sharing.SharedLinkMetadata`, with its tag. Only owners see where the item lies.
    pub(super) fn metadata(&self, tree: &Tree, node: &Node, namespace: NamespaceId, seen: Seen<'_>) -> Value {
        let mut shown = json!({
            ".tag": if node.is_folder() { "folder" } else { "file" },
            "url": self.url(seen.inner),
            "id": node.id,
            "name": node.name(),
            "link_permissions": self.permissions(seen.owner),
        });
        if let Some(expires) = &self.settings.expires {
            shown["expires"] = json!(expires);
        }
        let entry = tree.show_node(&Shown::plain(seen.root), namespace, node);
        if let (true, Some(path)) = (seen.owner, entry.get("path_lower")) {
            shown["path_lower"] = path.clone();
        }
        if let Kind::File(file) = &node.kind {
            shown["client_modified"] = json!(file.client_modified);
            shown["server_modified"] = json!(file.server_modified);
            shown["rev"] = json!(file.rev);
            shown["size"] = json!(file.content.size());
        }
        let owner = tree.account(&self.account);
        if let Some((account, seat)) = owner.and_then(|account| Some((account, account.team.as_ref()?))) {
            shown["team_member_info"] = json!({
                "team_info": { "id": seat.team_id, "name": seat.team_name },
                "display_name": format!("{} {}", account.given_name, account.surname),
                "member_id": seat.member_id,
            });
        }
        shown
    }

    fn permissions(&self, owner: bool) -> Value {
        let tag = |tag: &str| json!({ ".tag": tag });
        let settings = &self.settings;
        let protected = settings.password.is_some();
        let (audience, requested, resolved) = match (settings.audience, protected) {
            (Audience::Public, false) => ("public", "public", "public"),
            (Audience::Public, true) => ("public", "password", "password"),
            (Audience::Team, false) => ("team", "team_only", "team_only"),
            (Audience::Team, true) => ("team", "password", "team_and_password"),
            (Audience::NoOne, _) => ("no_one", "team_only", "no_one"),
        };
        let policy = |name: &str| json!({ "policy": tag(name), "resolved_policy": tag(name), "allowed": owner });
        let option = |name: &str| json!({ "audience": tag(name), "allowed": owner });
        json!({
            "resolved_visibility": tag(resolved),
            "requested_visibility": tag(requested),
            "effective_audience": tag(audience),
            "link_access_level": tag(if settings.editor { "editor" } else { "viewer" }),
            "can_revoke": owner,
            "visibility_policies": [policy("public"), policy("team_only"), policy("password")],
            "audience_options": [option("public"), option("team"), option("no_one")],
            "can_set_expiry": owner,
            "can_remove_expiry": owner,
            "allow_download": settings.allow_download,
            "can_allow_download": owner,
            "can_disallow_download": owner,
            "allow_comments": true,
            "team_restricts_comments": false,
            "can_set_password": owner,
            "can_remove_password": owner,
            "require_password": protected,
        })
    }
}

/// How a link's metadata is seen.
#[derive(Clone, Copy)]
pub(super) struct Seen<'a> {
    pub(super) owner: bool,
    pub(super) root: NamespaceId,
    pub(super) inner: &'a str,
}

impl Settings {
    /// What a link has when nothing is asked.
    pub(super) fn plain() -> Settings {
        Settings { audience: Audience::Public, editor: false, password: None, expires: None, allow_download: true }
    }

    /// # Errors
    /// A tag of `SharedLinkSettingsError`.
    pub(super) fn changed(mut self, asked: &Value, now: &str, in_team: bool) -> Result<Settings, &'static str> {
        let tag = |field: &str| asked[field][".tag"].as_str();
        match tag("audience") {
            None => {}
            Some("public") => self.audience = Audience::Public,
            Some("team" | "members") if in_team => self.audience = Audience::Team,
            Some("team" | "members") => return Err("not_authorized"),
            Some("no_one") => self.audience = Audience::NoOne,
            Some("password") => {}
            Some(_) => return Err("invalid_settings"),
        }
        match tag("requested_visibility") {
            Some("public") if tag("audience").is_none() => self.audience = Audience::Public,
            Some("team_only") if !in_team => return Err("not_authorized"),
            Some("team_only") => self.audience = Audience::Team,
            _ => {}
        }
        match tag("access") {
            None | Some("default") => {}
            Some("viewer") => self.editor = false,
            Some("editor" | "max") => self.editor = true,
            Some(_) => return Err("invalid_settings"),
        }
        let wanted = [tag("requested_visibility"), tag("audience")].contains(&Some("password"));
        let wanted = asked["require_password"].as_bool().or(wanted.then_some(true));
        match (wanted, asked["link_password"].as_str()) {
            (Some(true), Some(password)) if !password.is_empty() => self.password = Some(password.to_owned()),
            // A link that has a password may be asked to go on having it.
            (Some(true), None) if self.password.is_some() => {}
            (Some(false), None) => self.password = None,
            (None, None) => {}
            _ => return Err("invalid_settings"),
        }
        if let Some(expires) = asked["expires"].as_str() {
            // Both are of the one form Dropbox takes, so they compare as text.
            if expires <= now {
                return Err("invalid_settings");
            }
            self.expires = Some(expires.to_owned());
        }
        self.allow_download = asked["allow_download"].as_bool().unwrap_or(self.allow_download);
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_links_url_is_read_whatever_its_query_says_besides() {
        let address = Address::read("https://www.dropbox.com/scl/fi/abc/a%20b.txt?rlkey=k1&dl=1").expect("a link");
        assert_eq!((address.id.as_str(), address.key.as_deref(), address.rest), ("abc", Some("k1"), None));
        let inner =
            Address::read("https://www.dropbox.com/scl/fo/abc/XY/sub/a%20b+c.txt?rlkey=k1&dl=0").expect("a link");
        assert_eq!(inner.rest.as_deref(), Some("/sub/a b+c.txt"));
        for other in ["https://example.com/scl/fi/abc/a", "https://www.dropbox.com/al0w/a.docx?dl=0", "x"] {
            assert!(Address::read(other).is_none(), "{other}");
        }
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        let now = "2026-01-01T00:00:00Z";
        let change = |asked: Value| Settings::plain().changed(&asked, now, false);
        let protected = change(json!({"require_password": true, "link_password": "x"})).expect("sound settings");
        assert_eq!(protected.password.as_deref(), Some("x"));
        assert_eq!(protected.changed(&json!({"require_password": false}), now, false), Ok(Settings::plain()));
        assert_eq!(change(json!({"require_password": true})), Err("invalid_settings"));
        assert_eq!(change(json!({"link_password": "x"})), Err("invalid_settings"));
        assert_eq!(change(json!({"expires": now})), Err("invalid_settings"));
        assert_eq!(change(json!({"audience": {".tag": "team"}})), Err("not_authorized"));
    }
}
