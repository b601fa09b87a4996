//! Move and copy, one at a time and in batches.

use serde_json::{Value, json};

use super::{
    Call, Handler, Refusal, Reply, World, files, nested, paths,
    tree::{NamespaceId, Shown, WriteProblem},
};

pub(in crate::emulator) fn handler(route: &str) -> Option<Handler> {
    Some(match route {
        "files/move_v2" => |world, call| one(world, call, false),
        "files/copy_v2" => |world, call| one(world, call, true),
        "files/move_batch_v2" => |world, call| batch(world, call, false),
        "files/copy_batch_v2" => |world, call| batch(world, call, true),
        "files/move_batch/check_v2" => |world, call| world.jobs.check("move_batch", &call).map(Reply::Json),
        "files/copy_batch/check_v2" => |world, call| world.jobs.check("copy_batch", &call).map(Reply::Json),
        _ => return None,
    })
}

/// The error is a `files.RelocationError`.
fn relocate(world: &World, root: NamespaceId, arg: &Value, autorename: bool, copy: bool) -> Result<Value, Value> {
    let space = world.switches().space;
    let mut tree = world.tree();
    let from_lookup = |error: Value| json!({ ".tag": "from_lookup", "from_lookup": error });
    let (from, node) = files::find(&tree, root, arg["from_path"].as_str().unwrap_or_default()).map_err(from_lookup)?;
    if let Some(tag) = node.restricted.as_deref() {
        return Err(match (tag, copy) {
            ("locked" | "restricted_content" | "unsupported_content_type", _) => from_lookup(nested(&[tag])),
            (_, true) => from_lookup(nested(&["restricted_content"])),
            (tag, false) => nested(&["from_write", tag]),
        });
    }
    let to = tree.locate(root, arg["to_path"].as_str().unwrap_or_default());
    let to = to.map_err(|_| nested(&["to", "malformed_path"]))?;
    if copy && node.mount().is_some() {
        return Err(nested(&["cant_copy_shared_folder"]));
    }
    let done = match copy {
        true => tree.copy(&from, &to, autorename, space),
        false => tree.relocate(&from, &to, autorename),
    };
    let (namespace, key) = done.map_err(|problem| match problem {
        WriteProblem::TooManyFiles => nested(&["too_many_files"]),
        WriteProblem::IntoItself => nested(&["cant_move_folder_into_itself"]),
        WriteProblem::CopyShared => nested(&["cant_copy_shared_folder"]),
        WriteProblem::NestShared => nested(&["cant_nest_shared_folder"]),
        problem => json!({ ".tag": "to", "to": problem.error() }),
    })?;
    Ok(tree.metadata(&Shown::tagged(root), namespace, &key).unwrap_or_default())
}

fn one(world: &World, call: Call<'_>, copy: bool) -> Result<Reply, Refusal> {
    let autorename = call.arg["autorename"] == true;
    let metadata = relocate(world, call.root, &call.arg, autorename, copy).map_err(Refusal::endpoint)?;
    Ok(Reply::Json(json!({ "metadata": metadata })))
}

fn batch(world: &World, call: Call<'_>, copy: bool) -> Result<Reply, Refusal> {
    let entries = call.arg["entries"].as_array().cloned().unwrap_or_default();
    let autorename = call.arg["autorename"] == true;
    let clash = clashes(&entries);
    let results: Vec<Value> = entries
        .iter()
        .zip(clash)
        .enumerate()
        .map(|(index, (entry, clash))| {
            let failed = |error| json!({ ".tag": "relocation_error", "relocation_error": error });
            let done = match (call.refused_entry(index), clash) {
                // Not only errors of relocations: a script may want `internal_error`.
                (Some(failure), _) => Err(failure),
                (None, true) => Err(failed(nested(&["duplicated_or_nested_paths"]))),
                (None, false) => relocate(world, call.root, entry, autorename, copy).map_err(failed),
            };
            match done {
                Ok(metadata) => call.told_entry(index, json!({ ".tag": "success", "success": metadata })),
                Err(failure) => json!({ ".tag": "failure", "failure": failure }),
            }
        })
        .collect();
    let kind = if copy { "copy_batch" } else { "move_batch" };
    let result = json!({ "entries": results });
    Ok(Reply::Json(world.jobs.launch(world, kind, call.account(), result, false)))
}

/// Which entries name a path, of source or target, that another entry names, or one that lies above or below it.
fn clashes(entries: &[Value]) -> Vec<bool> {
    let paths =
        |entry: &Value| ["from_path", "to_path"].map(|key| paths::key_of(entry[key].as_str().unwrap_or_default()));
    let all: Vec<_> = entries.iter().map(paths).collect();
    let meet = |one: &str, other: &str| paths::within(one, other) || paths::within(other, one);
    let meets = |index: usize| {
        let others = all.iter().enumerate().filter(|(other, _)| *other != index).flat_map(|(_, paths)| paths);
        others.into_iter().any(|other| all[index].iter().any(|mine| meet(mine, other)))
    };
    (0..all.len()).map(meets).collect()
}
