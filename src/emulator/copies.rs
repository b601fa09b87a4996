//! Copy references: what is kept in one account is saved into another.

use std::{collections::HashMap, sync::Mutex};

use serde_json::json;

use super::{
    Call, Handler, Refusal, Reply, World,
    files::{find, under_path},
    hold, nested, paths,
    tree::{Node, Shown},
};

/// References remembered; beyond this all earlier ones are forgotten.
const REFERENCES_MAX: usize = 10_000;

pub(in crate::emulator) fn handler(route: &str) -> Option<Handler> {
    Some(match route {
        "files/copy_reference/get" => get,
        "files/copy_reference/save" => save,
        _ => return None,
    })
}

/// What each reference stands for, as it was.
#[derive(Debug, Default)]
pub(in crate::emulator) struct References(Mutex<HashMap<String, Vec<Node>>>);

impl References {
    pub fn clear(&self) {
        hold(&self.0).clear();
    }
}

fn get(world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    let reference = world.random_text(24);
    let tree = world.tree();
    let (place, _) = find(&tree, call.root, call.arg["path"].as_str().unwrap_or_default()).map_err(under_path)?;
    let nodes: Vec<Node> = tree.under(place.namespace, &place.key).map(|(_, node)| node.clone()).collect();
    let metadata = tree.metadata(&Shown::tagged(call.root), place.namespace, &place.key);
    let mut references = hold(&world.copies.0);
    if references.len() >= REFERENCES_MAX {
        references.clear();
    }
    references.insert(reference.clone(), nodes);
    Ok(Reply::Json(json!({ "metadata": metadata, "copy_reference": reference, "expires": "2055-01-01T00:00:00Z" })))
}

fn save(world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    let reference = call.arg["copy_reference"].as_str().unwrap_or_default();
    let nodes = hold(&world.copies.0).get(reference).cloned();
    let nodes = nodes.ok_or_else(|| Refusal::nested(&["invalid_copy_reference"]))?;
    let mut tree = world.tree();
    let path = call.arg["path"].as_str().unwrap_or_default();
    let place = tree.locate(call.root, path).map_err(|_| under_path(nested(&["malformed_path"])))?;
    if let Some(there) = tree.node(place.namespace, &place.key) {
        let with = if there.is_folder() { "folder" } else { "file" };
        return Err(under_path(nested(&["conflict", with])));
    }
    tree.check_fit(&place).map_err(|problem| under_path(problem.error()))?;
    tree.plant(place.namespace, &place.display, nodes);
    let metadata = tree.metadata(&Shown::tagged(call.root), place.namespace, &paths::key_of(&place.display));
    Ok(Reply::Json(json!({ "metadata": metadata })))
}
