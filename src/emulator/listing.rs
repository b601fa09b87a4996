//! `files/list_folder` and its cursors. A cursor says all there is to know, so it outlives a restart: what is listed, how, and
//! either the key to go on after or the sequence number to tell changes since.

use std::collections::HashMap;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Call, Handler, Refusal, Reply, Who, World,
    delta::{self, DeltaOrder},
    files, nested, paths,
    tree::{NamespaceId, Node, Reach, Shown, Tree, Visit},
};

const PREFIX: &str = "AAH";

pub(in crate::emulator) fn handler(route: &str) -> Option<Handler> {
    Some(match route {
        "files/list_folder" => list,
        "files/list_folder/continue" => go_on,
        "files/list_folder/get_latest_cursor" => latest,
        _ => return None,
    })
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::emulator) struct Cursor {
    account: String,
    /// What `/` meant.
    root: NamespaceId,
    namespace: NamespaceId,
    pub key: String,
    recursive: bool,
    deleted: bool,
    mounted: bool,
    non_downloadable: bool,
    explicit_members: bool,
    restorable: bool,
    templates: Vec<String>,
    limit: Option<usize>,
    /// Listing a shared link: entries have no paths.
    link: bool,
    /// Still listing, after this key (`Some("")` at the start). `None`: telling changes.
    after: Option<String>,
    /// Changes after this one are still to be told.
    pub sequence: u64,
    /// A drain under way, and how many of its steps were told.
    #[serde(default)]
    pub drain: Option<(u64, u64, DeltaOrder)>,
    #[serde(default)]
    pub told: usize,
}

impl Cursor {
    pub fn write(&self) -> String {
        let json = serde_json::to_vec(self).expect("a cursor is plain data");
        format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(json))
    }

    /// `None`: this never was a cursor.
    pub fn read(text: &str) -> Option<Cursor> {
        let json = BASE64_URL_SAFE_NO_PAD.decode(text.strip_prefix(PREFIX)?).ok()?;
        serde_json::from_slice(&json).ok()
    }

    /// Are there entries or changes this cursor has not told yet? `None`: `reset`.
    pub fn has_news(&self, world: &World) -> Option<bool> {
        if self.sequence < world.switches().cursors_reset_before {
            return None;
        }
        let tree = world.tree();
        let changes = tree.changes_since(self.sequence)?;
        // That the folder is gone is news, too: `continue` says so.
        let gone = check_folder(&tree, self.namespace, &self.key).is_err();
        if self.after.is_some() || self.drain.is_some() || gone {
            return Some(true);
        }
        let mut view = View::new(&tree, self);
        let mut changes = changes;
        Some(changes.any(|change| {
            view.covers(change.namespace, &change.key) || (change.gone && view.lies_in(change.namespace, &change.key))
        }))
    }

    pub fn shown(&self) -> Shown {
        Shown {
            root: if self.link { 0 } else { self.root },
            tagged: true,
            templates: self.templates.clone(),
            media_info: false,
            explicit_members: self.explicit_members,
            restorable: self.restorable,
        }
    }

    pub fn shows(&self, node: &Node) -> bool {
        self.non_downloadable || node.file().is_none_or(|file| file.export.is_none())
    }
}

/// Which places a cursor sees.
pub(in crate::emulator) struct View<'a> {
    tree: &'a Tree,
    cursor: &'a Cursor,
    inside: (NamespaceId, String),
    prefixes: HashMap<NamespaceId, Option<String>>,
}

impl<'a> View<'a> {
    pub fn new(tree: &'a Tree, cursor: &'a Cursor) -> View<'a> {
        View { tree, cursor, inside: tree.inside(cursor.namespace, &cursor.key), prefixes: HashMap::new() }
    }

    /// Does the listed folder lie at or under this place?
    pub fn lies_in(&self, namespace: NamespaceId, key: &str) -> bool {
        namespace == self.cursor.namespace && !self.cursor.key.is_empty() && paths::within(&self.cursor.key, key)
    }

    pub fn covers(&mut self, namespace: NamespaceId, key: &str) -> bool {
        let (tree, base) = (self.tree, self.inside.0);
        let prefix =
            self.prefixes.entry(namespace).or_insert_with(|| Some(paths::key_of(&tree.prefix(base, namespace)?)));
        let Some(prefix) = prefix else { return false };
        if !self.cursor.mounted && !prefix.is_empty() {
            return false;
        }
        let whole = format!("{prefix}{key}");
        let Some(rest) = whole.strip_prefix(self.inside.1.as_str()) else { return false };
        match rest.strip_prefix('\0') {
            Some(rest) => self.cursor.recursive || !rest.contains('\0'),
            // The folder itself is an entry of its recursive listing; the root never is.
            None => rest.is_empty() && self.cursor.recursive && !whole.is_empty(),
        }
    }
}

fn begin(world: &World, call: &Call<'_>) -> Result<Cursor, Refusal> {
    let arg = &call.arg;
    let path = arg["path"].as_str().unwrap_or_default();
    if path == "/" {
        let text = "request body: path: Specify the root folder as an empty string rather than as \"/\".";
        return Err(Refusal::BadRequest(text.into()));
    }
    let link = arg.get("shared_link").filter(|link| !link.is_null());
    let (namespace, key) = match link {
        Some(link) => {
            if arg["recursive"] == true {
                return Err(Refusal::BadRequest("request body: recursive: unsupported for a shared link".into()));
            }
            world.links.folder(world, link, path)?
        }
        None if matches!(call.who, Who::App { .. }) => {
            return Err(Refusal::BadRequest("request body: app authentication needs a shared_link".into()));
        }
        None => {
            let tree = world.tree();
            let place = tree.locate(call.root, path).map_err(|lost| files::under_path(nested(&[lost.tag()])))?;
            (place.namespace, place.key)
        }
    };
    check_folder(&world.tree(), namespace, &key)?;
    let shown = files::shown(call.root, arg);
    Ok(Cursor {
        account: call.account().to_owned(),
        root: call.root,
        namespace,
        key,
        recursive: arg["recursive"] == true,
        deleted: arg["include_deleted"] == true,
        mounted: arg["include_mounted_folders"] != false,
        non_downloadable: arg["include_non_downloadable_files"] != false,
        explicit_members: shown.explicit_members,
        restorable: shown.restorable,
        templates: shown.templates,
        limit: arg["limit"].as_u64().and_then(|limit| usize::try_from(limit).ok()),
        link: link.is_some(),
        after: Some(String::new()),
        sequence: world.tree().sequence,
        drain: None,
        told: 0,
    })
}

fn check_folder(tree: &Tree, namespace: NamespaceId, key: &str) -> Result<(), Refusal> {
    if key.is_empty() {
        return match tree.namespace(namespace) {
            Some(_) => Ok(()),
            None => Err(files::under_path(nested(&["not_found"]))),
        };
    }
    match tree.node(namespace, key) {
        None => Err(files::under_path(nested(&["not_found"]))),
        Some(node) if !node.is_folder() => Err(files::under_path(nested(&["not_folder"]))),
        Some(_) => Ok(()),
    }
}

fn list(world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    let cursor = begin(world, &call)?;
    page(world, cursor).map(Reply::Json)
}

fn latest(world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    let cursor = Cursor { after: None, ..begin(world, &call)? };
    Ok(Reply::Json(json!({ "cursor": cursor.write() })))
}

fn go_on(world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    let text = call.arg["cursor"].as_str().unwrap_or_default();
    let cursor = read(text)?;
    if cursor.account != call.account() || cursor.sequence < world.switches().cursors_reset_before {
        return Err(Refusal::nested(&["reset"]));
    }
    check_folder(&world.tree(), cursor.namespace, &cursor.key)?;
    page(world, cursor).map(Reply::Json)
}

/// The cursor of an argument.
pub(in crate::emulator) fn read(text: &str) -> Result<Cursor, Refusal> {
    Cursor::read(text).ok_or_else(|| Refusal::BadRequest(format!("Invalid \"cursor\" parameter: {text:?}")))
}

fn page(world: &World, cursor: Cursor) -> Result<Value, Refusal> {
    let switches = world.switches();
    let limit = cursor.limit.unwrap_or(switches.list_page).max(1);
    let tree = world.tree();
    if tree.changes_since(cursor.sequence).is_none() {
        return Err(Refusal::nested(&["reset"]));
    }
    let (entries, next, has_more) = match &cursor.after {
        Some(after) => listed(&tree, &cursor, after, limit.min(switches.listing_page.unwrap_or(usize::MAX))),
        None => delta::told(world, &tree, &cursor, limit),
    };
    Ok(json!({ "entries": entries, "cursor": next.write(), "has_more": has_more }))
}

/// A page of what is there.
fn listed(tree: &Tree, cursor: &Cursor, after: &str, limit: usize) -> (Vec<Value>, Cursor, bool) {
    let shown = cursor.shown();
    let mut entries = Vec::new();
    if cursor.recursive
        && after.is_empty()
        && let Some(own) = tree.metadata(&shown, cursor.namespace, &cursor.key)
    {
        entries.push(own);
    }
    let reach = Reach { recursive: cursor.recursive, deleted: cursor.deleted, mounted: cursor.mounted };
    let mut last = None;
    let from = Some(after).filter(|after| !after.is_empty());
    let whole = tree.walk(cursor.namespace, &cursor.key, from, reach, &mut |visit| {
        if entries.len() >= limit {
            return false;
        }
        match visit {
            Visit::Live { namespace, node, at } => {
                if cursor.shows(node) {
                    entries.push(tree.show_node(&shown, namespace, node));
                }
                last = Some(at);
            }
            Visit::Deleted { namespace, deleted, at } => {
                entries.push(tree.show_deleted(&shown, namespace, deleted));
                last = Some(at);
            }
        }
        true
    });
    // A first page that held nothing but the folder itself goes on from the start, without it.
    let after = if whole { None } else { Some(last.unwrap_or_else(|| "\0".to_owned())) };
    (entries, Cursor { after, ..cursor.clone() }, !whole)
}
