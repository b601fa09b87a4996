//! Bytes out: `download`, `export`, and links that need no token.

use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

use super::{
    Call, Handler, Refusal, Reply, World,
    content::{Content, Received},
    files::under_path,
    hold, nested, paths,
    tree::{Export, File, NamespaceId, Revision, Shown, Tree},
    upload::commit,
};

/// Life of a link of `get_temporary_link`.
const LINK_LIFE: Duration = Duration::from_secs(4 * 3600);

/// Links remembered; the ones that end first go first.
const LINKS_MAX: usize = 100_000;

pub(in crate::emulator) fn handler(route: &str) -> Option<Handler> {
    Some(match route {
        "files/download" => download,
        "files/export" => export,
        "files/get_temporary_link" => temporary_link,
        "files/get_temporary_upload_link" => temporary_upload_link,
        _ => return None,
    })
}

/// The state of a file that a path names: the live one, or the one of a `rev:`. The error is a `files.LookupError`.
pub(in crate::emulator) fn state(tree: &Tree, root: NamespaceId, path: &str) -> Result<Revision, Value> {
    let place = tree.locate(root, path).map_err(|lost| nested(&[lost.tag()]))?;
    let node = tree.node(place.namespace, &place.key);
    if let Some(tag) = node.and_then(|node| node.restricted.as_deref())
        && matches!(tag, "restricted_content" | "locked" | "unsupported_content_type")
    {
        return Err(nested(&[tag]));
    }
    if let Some(rev) = &place.rev {
        return tree.revisions.get(rev).cloned().ok_or_else(|| nested(&["not_found"]));
    }
    if place.is_root() {
        return Err(nested(&["not_file"]));
    }
    let node = node.ok_or_else(|| nested(&["not_found"]))?;
    let file = node.file().ok_or_else(|| nested(&["not_file"]))?;
    Ok(Revision {
        namespace: place.namespace,
        key: place.key,
        display: node.display.clone(),
        id: node.id.clone(),
        file: file.clone(),
    })
}

pub(in crate::emulator) fn etag(file: &File) -> String {
    format!("W/\"{}\"", file.rev)
}

fn download(world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    let tree = world.tree();
    let path = call.arg["path"].as_str().unwrap_or_default();
    let asked = call.arg["rev"].as_str().map(|rev| format!("rev:{rev}"));
    let state = state(&tree, call.root, asked.as_deref().unwrap_or(path)).map_err(under_path)?;
    if state.file.export.is_some() {
        return Err(Refusal::nested(&["unsupported_file"]));
    }
    let result = tree.show_revision(&Shown::plain(call.root), &state);
    Ok(Reply::Download { result, etag: Some(etag(&state.file)), content: state.file.content })
}

fn export(world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    let tree = world.tree();
    let state = state(&tree, call.root, call.arg["path"].as_str().unwrap_or_default()).map_err(under_path)?;
    let Some(Export { formats, paper_revision }) = &state.file.export else {
        return Err(Refusal::nested(&["non_exportable"]));
    };
    let found = match call.arg["export_format"].as_str() {
        None => formats.first(),
        Some(asked) => formats.iter().find(|(format, _)| format == asked),
    };
    let Some((format, content)) = found else { return Err(Refusal::nested(&["invalid_export_format"])) };
    let stem = paths::split_extension(paths::name(&state.display)).0;
    let extension = match format.as_str() {
        "markdown" => "md",
        "plain_text" => "txt",
        other => other,
    };
    let mut exported = json!({
        "name": format!("{stem}.{extension}"), "size": content.size(), "export_hash": content.hash(),
    });
    if let Some(revision) = paper_revision {
        exported["paper_revision"] = (*revision).into();
    }
    let result = json!({
        "export_metadata": exported,
        "file_metadata": tree.show_revision(&Shown::plain(call.root), &state),
    });
    Ok(Reply::Download { result, content: content.clone(), etag: None })
}

/// Links that serve or take bytes without a token, until they end.
#[derive(Debug, Default)]
pub(in crate::emulator) struct TemporaryLinks(Mutex<HashMap<String, Link>>);

#[derive(Debug)]
struct Link {
    ends: SystemTime,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Serve { content: Content, rev: String },
    Take { root: NamespaceId, commit_info: Value },
}

impl TemporaryLinks {
    pub fn clear(&self) {
        hold(&self.0).clear();
    }

    fn add(&self, world: &World, life: Duration, kind: Kind) -> String {
        let key = world.random_text(48);
        let mut links = hold(&self.0);
        if links.len() >= LINKS_MAX
            && let Some(first) = links.iter().min_by_key(|(_, link)| link.ends).map(|(key, _)| key.clone())
        {
            links.remove(&first);
        }
        links.insert(key.clone(), Link { ends: world.clock.now() + life, kind });
        key
    }

    /// What a link serves; `None` when it has ended.
    pub fn content(&self, world: &World, key: &str) -> Option<(Content, String)> {
        let links = hold(&self.0);
        let link = links.get(key).filter(|link| world.clock.now() < link.ends)?;
        match &link.kind {
            Kind::Serve { content, rev } => Some((content.clone(), rev.clone())),
            Kind::Take { .. } => None,
        }
    }

    /// Writes what came to an upload link, which serves once. `None` when it has ended.
    pub fn commit(&self, world: &World, key: &str, received: Received) -> Option<Result<(), ()>> {
        let link = hold(&self.0).remove(key).filter(|link| world.clock.now() < link.ends)?;
        let Kind::Take { root, commit_info } = link.kind else { return None };
        Some(commit(world, root, &commit_info, received.into_content()).map(drop).map_err(drop))
    }
}

fn temporary_link(world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    let tree = world.tree();
    let state = state(&tree, call.root, call.arg["path"].as_str().unwrap_or_default()).map_err(under_path)?;
    if state.file.export.is_some() {
        return Err(Refusal::nested(&["unsupported_file"]));
    }
    let metadata = tree.show_revision(&Shown::plain(call.root), &state);
    let kind = Kind::Serve { content: state.file.content.clone(), rev: state.file.rev.clone() };
    let key = world.temporary.add(world, LINK_LIFE, kind);
    let link = format!("{}/apitl/1/{key}", world.addresses().content);
    Ok(Reply::Json(json!({ "metadata": metadata, "link": link })))
}

fn temporary_upload_link(world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    let life = Duration::from_secs_f64(call.arg["duration"].as_f64().unwrap_or(14_400.0));
    let kind = Kind::Take { root: call.root, commit_info: call.arg["commit_info"].clone() };
    let key = world.temporary.add(world, life, kind);
    Ok(Reply::Json(json!({ "link": format!("{}/apitul/1/{key}", world.addresses().content) })))
}
