//! Dropbox's write lock: with the contention switch on, a commit holds its namespaces for a while and another one is refused.

use std::{collections::HashSet, sync::Mutex};

use serde_json::{Value, json};

use crate::emulator::{Call, Refusal, World, hold, nested, tree::NamespaceId};

#[derive(Debug, Default)]
pub(in crate::emulator) struct Commits {
    locked: Mutex<HashSet<NamespaceId>>,
}

/// Lets the namespaces go when dropped.
#[derive(Debug)]
pub(in crate::emulator) struct Commit<'a> {
    commits: &'a Commits,
    namespaces: Vec<NamespaceId>,
}

impl Drop for Commit<'_> {
    fn drop(&mut self) {
        let mut locked = hold(&self.commits.locked);
        for namespace in &self.namespaces {
            locked.remove(namespace);
        }
    }
}

impl Commits {
    /// `None`: another commit holds one of them.
    fn lock(&self, namespaces: Vec<NamespaceId>) -> Option<Commit<'_>> {
        let mut locked = hold(&self.locked);
        if namespaces.iter().any(|namespace| locked.contains(namespace)) {
            return None;
        }
        locked.extend(&namespaces);
        Some(Commit { commits: self, namespaces })
    }
}

/// Takes the write locks of a call if it commits and the switch is on, and keeps them for as long as a commit takes.
pub(in crate::emulator) async fn enter<'a>(world: &'a World, call: &Call<'_>) -> Result<Option<Commit<'a>>, Refusal> {
    let Some(contention) = world.switches().contention else { return Ok(None) };
    let Some(mut error) = refused(&call.route.name) else { return Ok(None) };
    let namespaces = namespaces(world, call);
    let Some(commit) = world.commits.lock(namespaces) else {
        if let (Some(error), Some(body), true) = (&mut error, &call.body, call.route.name == "files/upload") {
            // The bytes are kept, as after any refusal of the path.
            error["upload_session_id"] = world.sessions.keep(world, call.account(), body.clone()).into();
        }
        return Err(match error {
            Some(error) if contention.as_409 => Refusal::endpoint(error),
            _ => Refusal::TooManyWrites,
        });
    };
    // Real time: this stands for work done by a server, not for policy.
    tokio::time::sleep(contention.commit_takes).await;
    Ok(Some(commit))
}

/// `None`: the route does not commit. Else what its own error says of contention, if it can say so.
fn refused(route: &str) -> Option<Option<Value>> {
    let tag = "too_many_write_operations";
    Some(match route {
        "files/upload" => Some(json!({ ".tag": "path", "reason": { ".tag": tag } })),
        "files/upload_session/finish" | "files/delete_v2" => Some(nested(&[tag])),
        "files/create_folder_v2" => Some(nested(&["path", tag])),
        "files/move_v2" | "files/copy_v2" => Some(nested(&["to", tag])),
        "files/restore" => Some(nested(&["path_write", tag])),
        "files/upload_session/finish_batch_v2"
        | "files/upload_session/finish_batch"
        | "files/create_folder_batch"
        | "files/delete_batch"
        | "files/move_batch_v2"
        | "files/copy_batch_v2"
        | "files/permanently_delete"
        | "files/copy_reference/save"
        | "files/save_url" => None,
        _ => return None,
    })
}

fn namespaces(world: &World, call: &Call<'_>) -> Vec<NamespaceId> {
    let mut paths = Vec::new();
    paths_in(&call.arg, &mut paths);
    let tree = world.tree();
    let mut namespaces: Vec<_> =
        paths.iter().filter_map(|path| Some(tree.locate(call.root, path).ok()?.namespace)).collect();
    namespaces.push(call.root);
    namespaces.sort_unstable();
    namespaces.dedup();
    // The root's lock is taken only by what lies in it.
    if namespaces.len() > 1
        && !paths.iter().any(|path| tree.locate(call.root, path).is_ok_and(|at| at.namespace == call.root))
    {
        namespaces.retain(|namespace| *namespace != call.root);
    }
    namespaces
}

fn paths_in<'a>(arg: &'a Value, paths: &mut Vec<&'a str>) {
    match arg {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(path) if ["path", "from_path", "to_path"].contains(&name.as_str()) => {
                        paths.push(path)
                    }
                    Value::Array(many) if name == "paths" => paths.extend(many.iter().filter_map(Value::as_str)),
                    _ => paths_in(value, paths),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| paths_in(value, paths)),
        _ => {}
    }
}
