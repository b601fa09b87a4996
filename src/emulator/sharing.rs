//! Shared links. A link belongs to an item, not to a path: it follows moves and ends with the item.
//! Shared folders and members are not here.

use std::{fmt, sync::Mutex};

use serde_json::{Value, json};

use super::{
    Call, Handler, Refusal, Reply, Who, World, download, hold, nested,
    tree::{Kind, NamespaceId, Node, Shown, Tree},
};
use crate::clock::{dropbox_time, from_dropbox_time};

/// Links one emulator holds.
const LINKS_MAX: usize = 100_000;

const SITE: &str = "https://www.dropbox.com";

pub(in crate::emulator) fn handler(path: &str) -> Option<Handler> {
    Some(match path {
        "sharing/create_shared_link_with_settings" => create,
        "sharing/list_shared_links" => list,
        "sharing/modify_shared_link_settings" => modify,
        "sharing/revoke_shared_link" => revoke,
        "sharing/get_shared_link_metadata" => get_metadata,
        "sharing/get_shared_link_file" => get_file,
        _ => return None,
    })
}

/// All links of all accounts, oldest first.
#[derive(Default)]
pub(in crate::emulator) struct Links(Mutex<Shelf>);

#[derive(Default)]
struct Shelf {
    links: Vec<Link>,
    next: u64,
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links").finish_non_exhaustive()
    }
}

#[derive(Debug, Clone)]
struct Link {
    number: u64,
    /// In the URL's path.
    id: String,
    /// `rlkey` of the URL.
    key: String,
    /// Without `?rlkey`; ends with the name the item had.
    base: String,
    item: String,
    account: String,
    settings: Settings,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Settings {
    audience: Audience,
    editor: bool,
    password: Option<String>,
    expires: Option<String>,
    allow_download: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Audience {
    Public,
    Team,
    NoOne,
}

impl Links {
    pub fn clear(&self) {
        hold(&self.0).links.clear();
    }

    /// The place in a linked folder that `list_folder` asks for with `files.SharedLink`; `path` is relative to the link.
    ///
    /// # Errors
    /// `path/not_found` for a link that leads nowhere or lets nobody in.
    pub fn folder(&self, world: &World, link: &Value, path: &str) -> Result<(NamespaceId, String), Refusal> {
        let tree = world.tree();
        let (url, password) = (link["url"].as_str().unwrap_or_default(), link["password"].as_str());
        let path = Some(path).filter(|path| !path.is_empty());
        match self.visit(world, &tree, &Who::Nobody, url, path, password) {
            Ok(visit) => Ok((visit.namespace, visit.key)),
            Err(_) => Err(Refusal::nested(&["path", "not_found"])),
        }
    }

    fn visit(
        &self,
        world: &World,
        tree: &Tree,
        who: &Who,
        url: &str,
        path: Option<&str>,
        password: Option<&str>,
    ) -> Result<Visit, &'static str> {
        let address = Address::read(url).ok_or("shared_link_not_found")?;
        let link = self.find(&address.id).ok_or("shared_link_not_found")?;
        let (namespace, key) = tree.ids.get(&link.item).cloned().ok_or("shared_link_not_found")?;
        if !link.owned_by(who) {
            if address.key.as_ref() != Some(&link.key) || !link.lets_in(world, tree, who, password) {
                return Err("shared_link_access_denied");
            }
        }
        let inner = path.map(str::to_owned).or(address.rest).unwrap_or_default();
        if inner.is_empty() {
            return Ok(Visit { link, namespace, key, inner });
        }
        let node = tree.node(namespace, &key).ok_or("shared_link_not_found")?;
        if !node.is_folder() {
            return Err("shared_link_not_found");
        }
        let place = match node.mount() {
            Some(mount) => tree.locate(mount, &inner),
            None => tree.locate(namespace, &format!("{}{inner}", node.display)),
        };
        let place = place.map_err(|_| "shared_link_not_found")?;
        match tree.node(place.namespace, &place.key) {
            Some(_) => Ok(Visit { link, namespace: place.namespace, key: place.key, inner }),
            None => Err("shared_link_not_found"),
        }
    }

    fn find(&self, id: &str) -> Option<Link> {
        hold(&self.0).links.iter().find(|link| link.id == id).cloned()
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Link)) {
        if let Some(link) = hold(&self.0).links.iter_mut().find(|link| link.id == id) {
            change(link);
        }
    }
}

/// A link opened, and what it was opened for.
struct Visit {
    link: Link,
    namespace: NamespaceId,
    key: String,
    /// Path under a folder's link; empty for the linked item itself.
    inner: String,
}

/// What a link's URL says.
struct Address {
    id: String,
    key: Option<String>,
    /// The path of an item in the linked folder.
    rest: Option<String>,
}

impl Address {
    /// `None`: not the URL of a shared link. Links of the older forms (`/s/`, `/sh/`) are addresses of nothing here.
    fn read(url: &str) -> Option<Address> {
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
            ["scl", "fo", id, _, rest @ ..] if !rest.is_empty() && rest != &["h"] => {
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

fn encoded(name: &str) -> String {
    url::form_urlencoded::byte_serialize(name.as_bytes()).collect::<String>().replace('+', "%20")
}

impl Link {
    fn owned_by(&self, who: &Who) -> bool {
        matches!(who, Who::User { account, .. } if *account == self.account)
    }

    fn expired(&self, world: &World) -> bool {
        let at = self.settings.expires.as_deref().and_then(from_dropbox_time);
        at.is_some_and(|at| at <= world.clock.now())
    }

    /// Somebody who is not the owner.
    fn lets_in(&self, world: &World, tree: &Tree, who: &Who, password: Option<&str>) -> bool {
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

    fn url(&self, inner: &str) -> String {
        let inner: String = inner.split('/').skip(1).map(|step| format!("/{}", encoded(step))).collect();
        format!("{}{inner}?rlkey={}&dl=0", self.base, self.key)
    }

    /// `sharing.SharedLinkMetadata`, with its tag. Only owners see where the item lies.
    fn metadata(&self, tree: &Tree, node: &Node, namespace: NamespaceId, seen: Seen<'_>) -> Value {
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
struct Seen<'a> {
    owner: bool,
    root: NamespaceId,
    inner: &'a str,
}

impl Settings {
    /// What a link has when nothing is asked.
    fn plain() -> Settings {
        Settings { audience: Audience::Public, editor: false, password: None, expires: None, allow_download: true }
    }

    /// # Errors
    /// A tag of `SharedLinkSettingsError`.
    fn changed(mut self, asked: &Value, now: &str, in_team: bool) -> Result<Settings, &'static str> {
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

fn text<'a>(call: &'a Call<'_>, field: &str) -> &'a str {
    call.arg[field].as_str().unwrap_or_default()
}

fn in_team(tree: &Tree, account: &str) -> bool {
    tree.account(account).is_some_and(|account| account.team.is_some())
}

fn create(world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    let tree = world.tree();
    let place = tree.locate(call.root, text(&call, "path")).map_err(|lost| Refusal::nested(&["path", lost.tag()]))?;
    let node = tree.node(place.namespace, &place.key).ok_or_else(|| Refusal::nested(&["path", "not_found"]))?;
    let asked = call.arg["settings"].as_object().is_some_and(|settings| !settings.is_empty());
    let now = dropbox_time(world.clock.now());
    let settings = Settings::plain().changed(&call.arg["settings"], &now, in_team(&tree, call.account()));
    let settings = settings.map_err(|tag| Refusal::nested(&["settings_error", tag]))?;
    let seen = Seen { owner: true, root: call.root, inner: "" };
    let mut shelf = hold(&world.links.0);
    let same = |link: &&Link| {
        link.item == node.id && link.account == call.account() && link.settings.editor == settings.editor
    };
    if let Some(link) = shelf.links.iter().find(same) {
        let mut error = json!({ ".tag": "shared_link_already_exists" });
        // Who asked for settings of their own is not told whether the link has them.
        if !asked {
            let metadata = link.metadata(&tree, node, place.namespace, seen);
            error["shared_link_already_exists"] = json!({ ".tag": "metadata", "metadata": metadata });
        }
        return Err(Refusal::endpoint(error));
    }
    if shelf.links.len() >= LINKS_MAX {
        return Err(Refusal::nested(&["too_many_shared_folders"]));
    }
    shelf.next += 1;
    let id = world.random_text(15).to_lowercase();
    let base = match node.is_folder() {
        true => format!("{SITE}/scl/fo/{id}/{}", world.random_text(30)),
        false => format!("{SITE}/scl/fi/{id}/{}", encoded(node.name())),
    };
    let link = Link {
        number: shelf.next,
        id,
        key: world.random_text(25).to_lowercase(),
        base,
        item: node.id.clone(),
        account: call.account().to_owned(),
        settings,
    };
    let metadata = link.metadata(&tree, node, place.namespace, seen);
    shelf.links.push(link);
    Ok(Reply::Json(metadata))
}

fn list(world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    let page = world.switches().list_page;
    let tree = world.tree();
    let shelf = hold(&world.links.0);
    let own = shelf.links.iter().filter(|link| link.account == call.account());
    let shown = |link: &Link| {
        let (namespace, key) = tree.ids.get(&link.item)?;
        tree.prefix(call.root, *namespace)?;
        let seen = Seen { owner: true, root: call.root, inner: "" };
        Some(link.metadata(&tree, tree.node(*namespace, key)?, *namespace, seen))
    };
    if let Some(path) = call.arg["path"].as_str() {
        let place = tree.locate(call.root, path).map_err(|lost| Refusal::nested(&["path", lost.tag()]))?;
        let node = tree.node(place.namespace, &place.key).ok_or_else(|| Refusal::nested(&["path", "not_found"]))?;
        let direct_only = call.arg["direct_only"].as_bool().unwrap_or(false);
        // Outermost folder first: that is the order in which Dropbox names the links that lead to an item.
        let mut items = match direct_only {
            true => Vec::new(),
            false => around(&tree, place.namespace, &place.key),
        };
        items.push(node.id.clone());
        let links: Vec<Value> = items
            .iter()
            .flat_map(|item| own.clone().filter(move |link| link.item == *item))
            .filter_map(shown)
            .collect();
        return Ok(Reply::Json(json!({ "links": links, "has_more": false })));
    }
    let from = match call.arg["cursor"].as_str() {
        None => 0,
        Some(cursor) => {
            let number = cursor.strip_prefix("AAL").and_then(|number| number.parse::<u64>().ok());
            number.filter(|number| *number <= shelf.next).ok_or_else(|| Refusal::nested(&["reset"]))?
        }
    };
    let mut rest =
        own.filter(|link| link.number > from).filter_map(|link| Some((link.number, shown(link)?))).peekable();
    let mut links = Vec::new();
    let mut last = from;
    while links.len() < page
        && let Some((number, link)) = rest.next()
    {
        last = number;
        links.push(link);
    }
    let mut result = json!({ "links": links, "has_more": rest.peek().is_some() });
    if rest.peek().is_some() {
        result["cursor"] = json!(format!("AAL{last}"));
    }
    Ok(Reply::Json(result))
}

/// Ids of the folders around a place in its namespace, outermost first.
fn around(tree: &Tree, namespace: NamespaceId, key: &str) -> Vec<String> {
    let ends = key.match_indices('\0').map(|(at, _)| at).filter(|at| *at > 0);
    ends.filter_map(|at| tree.node(namespace, &key[..at]).map(|node| node.id.clone())).collect()
}

/// The caller's own link behind a URL.
fn own_link(world: &World, call: &Call<'_>, malformed: &'static str) -> Result<Link, Refusal> {
    let address = Address::read(text(call, "url")).ok_or_else(|| Refusal::nested(&[malformed]))?;
    let link = world.links.find(&address.id).ok_or_else(|| Refusal::nested(&["shared_link_not_found"]))?;
    match link.owned_by(&call.who) {
        true => Ok(link),
        false => Err(Refusal::nested(&["shared_link_access_denied"])),
    }
}

fn modify(world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    let tree = world.tree();
    let mut link = own_link(world, &call, "shared_link_not_found")?;
    let place = tree.ids.get(&link.item).and_then(|(namespace, key)| Some((*namespace, tree.node(*namespace, key)?)));
    let (namespace, node) = place.ok_or_else(|| Refusal::nested(&["shared_link_not_found"]))?;
    let asked = &call.arg["settings"];
    let now = dropbox_time(world.clock.now());
    let invalid = |tag: &'static str| Refusal::nested(&["settings_error", tag]);
    let mut settings = link.settings.clone().changed(asked, &now, in_team(&tree, call.account())).map_err(invalid)?;
    if settings.editor != link.settings.editor {
        return Err(invalid("invalid_settings"));
    }
    if call.arg["remove_expiration"] == true {
        if asked.get("expires").is_some() {
            return Err(invalid("invalid_settings"));
        }
        settings.expires = None;
    }
    link.settings = settings.clone();
    world.links.change(&link.id, |link| link.settings = settings);
    let seen = Seen { owner: true, root: call.root, inner: "" };
    Ok(Reply::Json(link.metadata(&tree, node, namespace, seen)))
}

fn revoke(world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    let link = own_link(world, &call, "shared_link_malformed")?;
    hold(&world.links.0).links.retain(|other| other.id != link.id);
    Ok(Reply::Json(Value::Null))
}

/// The item asked for by `sharing.GetSharedLinkMetadataArg`, and its metadata.
fn visited(world: &World, tree: &Tree, call: &Call<'_>) -> Result<(Visit, Value), Refusal> {
    let (path, password) = (call.arg["path"].as_str(), call.arg["link_password"].as_str());
    let visit = world.links.visit(world, tree, &call.who, text(call, "url"), path, password);
    let visit = visit.map_err(|tag| Refusal::endpoint(nested(&[tag])))?;
    let node = tree.node(visit.namespace, &visit.key).expect("the link was opened for it");
    let seen = Seen { owner: visit.link.owned_by(&call.who), root: call.root, inner: &visit.inner };
    let metadata = visit.link.metadata(tree, node, visit.namespace, seen);
    Ok((visit, metadata))
}

fn get_metadata(world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    let tree = world.tree();
    visited(world, &tree, &call).map(|(_, metadata)| Reply::Json(metadata))
}

fn get_file(world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    let tree = world.tree();
    let (visit, result) = visited(world, &tree, &call)?;
    let node = tree.node(visit.namespace, &visit.key).expect("the link was opened for it");
    let Some(file) = node.file() else { return Err(Refusal::nested(&["shared_link_is_directory"])) };
    if file.export.is_some() {
        return Err(Refusal::nested(&["unsupported_link_type"]));
    }
    if !visit.link.settings.allow_download && !visit.link.owned_by(&call.who) {
        return Err(Refusal::nested(&["shared_link_access_denied"]));
    }
    Ok(Reply::Download { result, content: file.content.clone(), etag: Some(download::etag(file)) })
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
