//! Entries one at a time and in batches: look, make folders, delete.

use serde_json::{Value, json};

use super::{
    Call, Handler, Refusal, Reply, World, nested, paths,
    tree::{Mode, NamespaceId, Node, Place, Shown, Terms, Tree, WriteProblem},
};

/// Entries one delete may take along.
const DELETED_MAX: usize = 10_000;

pub(in crate::emulator) fn handler(route: &str) -> Option<Handler> {
    Some(match route {
        "files/get_metadata" => get_metadata,
        "files/create_folder_v2" => create_folder,
        "files/create_folder_batch" => create_folder_batch,
        "files/create_folder_batch/check" => {
            |world, call| world.jobs.check("create_folder_batch", &call).map(Reply::Json)
        }
        "files/delete_v2" => delete,
        "files/delete_batch" => delete_batch,
        "files/delete_batch/check" => |world, call| world.jobs.check("delete_batch", &call).map(Reply::Json),
        "files/permanently_delete" => permanently_delete,
        _ => return None,
    })
}

/// The live entry a path leads to; the error is a `files.LookupError`.
pub(in crate::emulator) fn find<'a>(tree: &'a Tree, root: NamespaceId, path: &str) -> Result<(Place, &'a Node), Value> {
    let place = tree.locate(root, path).map_err(|lost| nested(&[lost.tag()]))?;
    match tree.node(place.namespace, &place.key) {
        Some(node) => Ok((place, node)),
        None => Err(nested(&["not_found"])),
    }
}

/// `{".tag":"path","path":…}`
pub(in crate::emulator) fn under_path(error: Value) -> Refusal {
    Refusal::endpoint(json!({ ".tag": "path", "path": error }))
}

/// What the argument asks to be shown beside the ordinary fields.
pub(in crate::emulator) fn shown(call_root: NamespaceId, arg: &Value) -> Shown {
    let templates = arg["include_property_groups"]["filter_some"].as_array();
    Shown {
        root: call_root,
        tagged: true,
        templates: templates.into_iter().flatten().filter_map(|id| Some(id.as_str()?.to_owned())).collect(),
        media_info: false,
        explicit_members: arg["include_has_explicit_shared_members"] == true,
        restorable: arg["include_restorable_info"] == true,
    }
}

fn get_metadata(world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    let tree = world.tree();
    let path = call.arg["path"].as_str().unwrap_or_default();
    let mut shown = shown(call.root, &call.arg);
    shown.media_info = call.arg["include_media_info"] == true;
    let place = tree.locate(call.root, path).map_err(|lost| under_path(nested(&[lost.tag()])))?;
    if let Some(rev) = &place.rev {
        let revision = tree.revisions.get(rev).ok_or_else(|| under_path(nested(&["not_found"])))?;
        return Ok(Reply::Json(tree.show_revision(&shown, revision)));
    }
    if place.is_root() {
        return Err(Refusal::BadRequest("request body: path: The root folder is unsupported.".into()));
    }
    if let Some(metadata) = tree.metadata(&shown, place.namespace, &place.key) {
        return Ok(Reply::Json(metadata));
    }
    let deleted = tree.namespace(place.namespace).and_then(|namespace| namespace.deleted.get(&place.key));
    match deleted.filter(|_| call.arg["include_deleted"] == true) {
        Some(deleted) => Ok(Reply::Json(tree.show_deleted(&shown, place.namespace, deleted))),
        None => Err(under_path(nested(&["not_found"]))),
    }
}

fn make(tree: &mut Tree, root: NamespaceId, path: &str, autorename: bool) -> Result<Value, Value> {
    let place = tree.locate(root, path).map_err(|_| nested(&["malformed_path"]))?;
    let (namespace, key) = tree.make_folder(&place, autorename).map_err(|problem| problem.error())?;
    Ok(tree.metadata(&Shown::plain(root), namespace, &key).unwrap_or_default())
}

fn create_folder(world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    let path = call.arg["path"].as_str().unwrap_or_default();
    let metadata = make(&mut world.tree(), call.root, path, call.arg["autorename"] == true).map_err(under_path)?;
    Ok(Reply::Json(json!({ "metadata": metadata })))
}

fn create_folder_batch(world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    let autorename = call.arg["autorename"] == true;
    let mut entries: Vec<Value> = Vec::new();
    let mut made: Vec<(String, Value)> = Vec::new();
    let paths = call.arg["paths"].as_array().into_iter().flatten().filter_map(Value::as_str);
    for (index, path) in paths.enumerate() {
        if let Some(failure) = call.refused_entry(index) {
            entries.push(json!({ ".tag": "failure", "failure": failure }));
            continue;
        }
        // Duplicates collapse into the first.
        let key = paths::key_of(path);
        if let Some((_, entry)) = made.iter().find(|(known, _)| *known == key) {
            entries.push(entry.clone());
            continue;
        }
        let entry = match make(&mut world.tree(), call.root, path, autorename) {
            Ok(metadata) => json!({ ".tag": "success", "metadata": metadata }),
            Err(error) => json!({ ".tag": "failure", "failure": { ".tag": "path", "path": error } }),
        };
        made.push((key, entry.clone()));
        entries.push(call.told_entry(index, entry));
    }
    let always = call.arg["force_async"] == true;
    let result = json!({ "entries": entries });
    Ok(Reply::Json(world.jobs.launch(world, "create_folder_batch", call.account(), result, always)))
}

/// Removes what `path` names; gives what it was. The error is a `files.DeleteError`.
fn remove(tree: &mut Tree, root: NamespaceId, arg: &Value, for_ever: bool) -> Result<Value, Value> {
    let lookup = |error: Value| json!({ ".tag": "path_lookup", "path_lookup": error });
    let write = |tag: &str| nested(&["path_write", tag]);
    let (place, node) = find(tree, root, arg["path"].as_str().unwrap_or_default()).map_err(lookup)?;
    if place.is_root() {
        return Err(lookup(nested(&["malformed_path"])));
    }
    if let Some(tag) = &node.restricted {
        return Err(match tag.as_str() {
            "locked" | "restricted_content" | "unsupported_content_type" => lookup(nested(&[tag])),
            tag => write(tag),
        });
    }
    if let Some(rev) = arg["parent_rev"].as_str() {
        match node.file() {
            None => return Err(lookup(nested(&["not_file"]))),
            Some(file) if file.rev != rev => return Err(nested(&["path_write", "conflict", "file"])),
            Some(_) => {}
        }
    }
    if tree.under(place.namespace, &place.key).take(DELETED_MAX + 1).count() > DELETED_MAX {
        return Err(nested(&["too_many_files"]));
    }
    let metadata = tree.metadata(&Shown::tagged(root), place.namespace, &place.key).unwrap_or_default();
    match for_ever {
        true => tree.forget(place.namespace, &place.key),
        false => tree.delete(place.namespace, &place.key),
    };
    Ok(metadata)
}

fn delete(world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    let metadata = remove(&mut world.tree(), call.root, &call.arg, false).map_err(Refusal::endpoint)?;
    Ok(Reply::Json(json!({ "metadata": metadata })))
}

fn permanently_delete(world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    remove(&mut world.tree(), call.root, &call.arg, true).map_err(Refusal::endpoint)?;
    Ok(Reply::Json(Value::Null))
}

fn delete_batch(world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    let mut entries = Vec::new();
    for (index, entry) in call.arg["entries"].as_array().into_iter().flatten().enumerate() {
        let done = match call.refused_entry(index) {
            Some(failure) => Err(failure),
            None => remove(&mut world.tree(), call.root, entry, false),
        };
        entries.push(match done {
            Ok(metadata) => call.told_entry(index, json!({ ".tag": "success", "metadata": metadata })),
            Err(error) => json!({ ".tag": "failure", "failure": error }),
        });
    }
    let result = json!({ "entries": entries });
    Ok(Reply::Json(world.jobs.launch(world, "delete_batch", call.account(), result, true)))
}

/// Writes a file into an account's home past all rules of conflict: for seeds.
pub(in crate::emulator) fn plant_file(
    world: &World,
    root: NamespaceId,
    path: &str,
    content: super::content::Content,
    terms: Terms,
) -> Result<(NamespaceId, String), WriteProblem> {
    let mut tree = world.tree();
    let place = tree.locate(root, path).map_err(|_| WriteProblem::Malformed)?;
    tree.write_file(&place, content, &Terms { mode: Mode::Overwrite, ..terms })
}
