//! Earlier states of files: list them, bring one back.

use serde_json::{Value, json};

use super::{
    Call, Handler, Refusal, Reply, World,
    files::under_path,
    nested,
    tree::{Mode, Place, Shown, Terms, Tree},
};

pub(in crate::emulator) fn handler(route: &str) -> Option<Handler> {
    Some(match route {
        "files/list_revisions" => list,
        "files/restore" => restore,
        _ => return None,
    })
}

/// Revs of the files that have been at a place, oldest first.
fn at_path(tree: &Tree, place: &Place) -> Vec<String> {
    let history = tree.namespace(place.namespace).and_then(|namespace| namespace.history.get(&place.key));
    history.cloned().unwrap_or_default()
}

fn list(world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    let tree = world.tree();
    let arg = &call.arg;
    let path = arg["path"].as_str().unwrap_or_default();
    let place = tree.locate(call.root, path).map_err(|lost| under_path(nested(&[lost.tag()])))?;
    let node = tree.node(place.namespace, &place.key);
    if node.is_some_and(|node| node.is_folder()) || place.is_root() {
        return Err(under_path(nested(&["not_file"])));
    }
    let by_id = arg["mode"][".tag"] == "id";
    let mut revs = match (by_id, node) {
        (true, Some(node)) => tree.revisions_of.get(&node.id).cloned().unwrap_or_default(),
        _ => at_path(&tree, &place),
    };
    if revs.is_empty() {
        return Err(under_path(nested(&["not_found"])));
    }
    if let Some(before) = arg["before_rev"].as_str() {
        if by_id {
            return Err(Refusal::nested(&["before_rev_not_supported"]));
        }
        let Some(at) = revs.iter().position(|rev| rev == before) else {
            return Err(Refusal::nested(&["invalid_before_rev"]));
        };
        revs.truncate(at);
    }
    let limit = arg["limit"].as_u64().and_then(|limit| usize::try_from(limit).ok()).unwrap_or(10);
    let shown = Shown { restorable: arg["include_restorable_info"] == true, ..Shown::plain(call.root) };
    let states = revs.iter().rev().filter_map(|rev| tree.revisions.get(rev));
    let entries: Vec<Value> = states.take(limit).map(|state| tree.show_revision(&shown, state)).collect();
    let mut result = json!({ "is_deleted": node.is_none(), "entries": entries, "has_more": revs.len() > limit });
    let deleted = tree.namespace(place.namespace).and_then(|namespace| namespace.deleted.get(&place.key));
    if let (None, Some(deleted)) = (node, deleted) {
        result["server_deleted"] = deleted.at.clone().into();
    }
    Ok(Reply::Json(result))
}

fn restore(world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    let mut tree = world.tree();
    let lookup = |tag: &str| Refusal::nested(&["path_lookup", tag]);
    let path = call.arg["path"].as_str().unwrap_or_default();
    let place = tree.locate(call.root, path).map_err(|lost| lookup(lost.tag()))?;
    let known = at_path(&tree, &place);
    let node = tree.node(place.namespace, &place.key);
    if node.is_some_and(|node| node.is_folder()) {
        return Err(lookup("not_file"));
    }
    if known.is_empty() {
        return Err(lookup("not_found"));
    }
    let rev = call.arg["rev"].as_str().unwrap_or_default();
    let state = tree
        .revisions
        .get(rev)
        .filter(|state| known.iter().any(|known| known == rev) || node.is_some_and(|node| node.id == state.id));
    let Some(state) = state else { return Err(Refusal::nested(&["invalid_revision"])) };
    let content = state.file.content.clone();
    let terms = Terms {
        mode: Mode::Overwrite,
        // Always a new rev, even of the same bytes.
        strict_conflict: true,
        client_modified: Some(state.file.client_modified.clone()),
        export: state.file.export.clone(),
        ..Terms::default()
    };
    let written = tree.write_file(&place, content, &terms);
    let (namespace, key) =
        written.map_err(|problem| Refusal::endpoint(json!({ ".tag": "path_write", "path_write": problem.error() })))?;
    Ok(Reply::Json(tree.metadata(&Shown::plain(call.root), namespace, &key).unwrap_or_default()))
}
