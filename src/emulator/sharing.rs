//! Shared links. A link belongs to an item, not to a path: it follows moves and ends with the item.
//! Shared folders are in `folders`.

mod folders;
mod link;

use std::{fmt, sync::Mutex};

use serde_json::{Value, json};

use self::link::{Address, Link, SITE, Seen, Settings, encoded};
use super::{
    Call, Handler, Refusal, Reply, Who, World,
    content::Content,
    download, hold, nested,
    tree::{NamespaceId, Tree},
};
use crate::clock::dropbox_time;

/// Links one emulator holds.
const LINKS_MAX: usize = 100_000;

pub(in crate::emulator) fn handler(path: &str) -> Option<Handler> {
    Some(match path {
        "sharing/create_shared_link_with_settings" => create,
        "sharing/list_shared_links" => list,
        "sharing/modify_shared_link_settings" => modify,
        "sharing/revoke_shared_link" => revoke,
        "sharing/get_shared_link_metadata" => get_metadata,
        "sharing/get_shared_link_file" => get_file,
        path => return folders::handler(path),
    })
}

/// All links of all accounts, oldest first.
#[derive(Default)]
pub(in crate::emulator) struct Links(Mutex<Shelf>);

#[derive(Default)]
struct Shelf {
    links: Vec<Link>,
    next: u64,
    terms: folders::Terms,
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links").finish_non_exhaustive()
    }
}

impl Links {
    pub fn clear(&self) {
        let mut shelf = hold(&self.0);
        shelf.links.clear();
        shelf.terms = folders::Terms::default();
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

    /// What stands behind the path and query of a link, for somebody without an account.
    ///
    /// # Errors
    /// `shared_link_not_found`, `shared_link_access_denied`.
    pub fn open(&self, world: &World, path_and_query: &str, password: Option<&str>) -> Result<Opened, &'static str> {
        let tree = world.tree();
        let url = format!("{SITE}{path_and_query}");
        let visit = self.visit(world, &tree, &Who::Nobody, &url, None, password)?;
        let node = tree.node(visit.namespace, &visit.key).ok_or("shared_link_not_found")?;
        let file = node.file().filter(|file| file.export.is_none() && visit.link.settings.allow_download);
        Ok(Opened {
            name: node.name().to_owned(),
            is_folder: node.is_folder(),
            content: file.map(|file| file.content.clone()),
            rev: file.map(|file| file.rev.clone()).unwrap_or_default(),
        })
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
        let invited = || address.key.as_ref() == Some(&link.key) && link.lets_in(world, tree, who, password);
        if !link.owned_by(who) && !invited() {
            return Err("shared_link_access_denied");
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

/// What a person finds behind a link.
pub(in crate::emulator) struct Opened {
    pub name: String,
    pub is_folder: bool,
    /// Of a file that may be downloaded as it is.
    pub content: Option<Content>,
    pub rev: String,
}

/// A link opened, and what it was opened for.
struct Visit {
    link: Link,
    namespace: NamespaceId,
    key: String,
    /// Path under a folder's link; empty for the linked item itself.
    inner: String,
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
