//! Shared folders as namespaces of their own: share, list, look up, unshare. Members are not here: only the owner is in.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::{
    clock::dropbox_time,
    emulator::{
        Call, Handler, Refusal, Reply, World, hold, nested, paths,
        tree::{Kind, NamespaceId, Place, Shown, Tree},
    },
};

/// Entries that sharing or unsharing moves; the tree moves no more at once.
const SHIFTED_MAX: usize = 9_999;

pub(super) fn handler(path: &str) -> Option<Handler> {
    Some(match path {
        "sharing/share_folder" => share,
        "sharing/check_share_job_status" => |world, call| world.jobs.check("share_folder", &call).map(Reply::Json),
        "sharing/list_folders" => list,
        "sharing/list_folders/continue" => go_on,
        "sharing/get_folder_metadata" => get_metadata,
        "sharing/unshare_folder" => unshare,
        "sharing/check_job_status" => |world, call| world.jobs.check("unshare_folder", &call).map(Reply::Json),
        _ => return None,
    })
}

/// What was said when a folder was shared, by namespace.
#[derive(Debug, Default)]
pub(super) struct Terms(pub(super) HashMap<NamespaceId, Term>);

#[derive(Debug, Clone)]
pub(super) struct Term {
    policy: Value,
    inheritance: Value,
    at: String,
}

fn bad_path(tag: &str) -> Refusal {
    Refusal::nested(&["bad_path", tag])
}

fn share(world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    let path = call.arg["path"].as_str().unwrap_or_default();
    let mut tree = world.tree();
    let place = tree.locate(call.root, path).map_err(|_| bad_path("invalid_path"))?;
    if place.is_root() {
        return Err(bad_path("invalid_path"));
    }
    if is_shared(&tree, place.namespace) {
        return Err(bad_path("inside_shared_folder"));
    }
    if tree.node(place.namespace, &place.key).is_none() {
        tree.make_folder(&place, false).map_err(|_| bad_path("invalid_path"))?;
    }
    let node = tree.node(place.namespace, &place.key).expect("made if it was not there");
    let display = node.display.clone();
    match node.kind {
        Kind::File(_) => return Err(bad_path("is_file")),
        Kind::Folder { mount: Some(id) } => {
            let mut shown = metadata(world, &tree, call.root, id).ok_or_else(|| bad_path("invalid_path"))?;
            shown[".tag"] = json!("already_shared");
            return Err(Refusal::endpoint(json!({ ".tag": "bad_path", "bad_path": shown })));
        }
        Kind::Folder { mount: None } => {}
    }
    if tree.under(place.namespace, &place.key).any(|(_, node)| node.mount().is_some()) {
        return Err(bad_path("contains_shared_folder"));
    }
    if tree.under(place.namespace, &place.key).count() > SHIFTED_MAX {
        return Err(Refusal::nested(&["other"]));
    }
    let name = node.name().to_owned();
    let inner = tree.add_namespace(&name);
    shift(&mut tree, (place.namespace, &place.key, &display), (inner, ""));
    tree.mount(place.namespace, &display, inner);
    let term = Term {
        policy: policy(&call.arg),
        inheritance: call.arg["access_inheritance"].clone(),
        at: dropbox_time(world.clock.now()),
    };
    hold(&world.links.0).terms.0.insert(inner, term);
    let shown = metadata(world, &tree, call.root, inner).expect("it was mounted where the caller sees it");
    let force = call.arg["force_async"] == true;
    Ok(Reply::Json(world.jobs.launch(world, "share_folder", call.account(), shown, force)))
}

fn policy(arg: &Value) -> Value {
    let or = |field: &str, tag: &str| match arg.get(field) {
        Some(given) => given.clone(),
        None => json!({ ".tag": tag }),
    };
    json!({
        "acl_update_policy": or("acl_update_policy", "owner"),
        "shared_link_policy": or("shared_link_policy", "anyone"),
        "member_policy": or("member_policy", "anyone"),
        "resolved_member_policy": or("member_policy", "anyone"),
        "viewer_info_policy": or("viewer_info_policy", "enabled"),
    })
}

/// Moves what lies in a folder, not the folder itself; ids stay.
fn shift(tree: &mut Tree, from: (NamespaceId, &str, &str), to: (NamespaceId, &str)) {
    let (namespace, key, display) = from;
    let steps = key.matches('\0').count() + 1;
    let inner = tree.namespace(namespace).into_iter().flat_map(|space| space.nodes.iter());
    let inside = |at: &str| at.strip_prefix(key).is_some_and(|rest| rest.starts_with('\0'));
    let children = inner.filter(|(at, _)| inside(at) && at.matches('\0').count() == steps);
    let children: Vec<(String, String)> = children.map(|(at, node)| (at.clone(), node.display.clone())).collect();
    let place = |namespace, key: String, display| Place { namespace, key, display, rev: None };
    for (at, shown) in children {
        let target = format!("{}{}", to.1, &shown[display.len()..]);
        let target = place(to.0, paths::key_of(&target), target);
        tree.relocate(&place(namespace, at, shown), &target, false)
            .expect("the new place is empty, and no more are moved than fit");
    }
}

/// Homes and team spaces are namespaces too, but nobody shared them.
fn is_shared(tree: &Tree, id: NamespaceId) -> bool {
    tree.namespace(id).is_some() && !tree.accounts.iter().any(|account| account.home == id || account.root == id)
}

/// Where a namespace is shown below `root`: the namespace around it and the key there.
fn mounted(tree: &Tree, root: NamespaceId, id: NamespaceId) -> Option<(NamespaceId, String)> {
    let space = tree.namespace(root)?;
    let own = space.mounts.iter().find(|(_, inner)| **inner == id).map(|(key, _)| (root, key.clone()));
    own.or_else(|| space.mounts.values().find_map(|inner| mounted(tree, *inner, id)))
}

/// `sharing.SharedFolderMetadata`; `None`: not below `root`.
fn metadata(world: &World, tree: &Tree, root: NamespaceId, id: NamespaceId) -> Option<Value> {
    if !is_shared(tree, id) {
        return None;
    }
    let (around, key) = mounted(tree, root, id)?;
    let node = tree.node(around, &key)?;
    let entry = tree.show_node(&Shown::plain(root), around, node);
    let term = hold(&world.links.0).terms.0.get(&id).cloned();
    let term = term.unwrap_or_else(|| Term {
        policy: policy(&Value::Null),
        inheritance: json!({ ".tag": "inherit" }),
        at: dropbox_time(std::time::SystemTime::UNIX_EPOCH),
    });
    let owner = tree.accounts.iter().find(|account| account.home == around || account.root == around);
    let owner = owner.map(|account| format!("{} {}", account.given_name, account.surname));
    Some(json!({
        "access_type": { ".tag": "owner" },
        "is_inside_team_folder": false,
        "is_team_folder": false,
        "name": node.name(),
        "path_lower": entry["path_lower"],
        "path_display": entry["path_display"],
        "policy": term.policy,
        "preview_url": format!("{}/scl/fo/{}", super::link::SITE, node.id.trim_start_matches("id:")),
        "shared_folder_id": id.to_string(),
        "folder_id": node.id,
        "time_invited": term.at,
        "access_inheritance": term.inheritance,
        "owner_display_names": owner.into_iter().collect::<Vec<String>>(),
    }))
}

fn list(world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    let limit = call.arg["limit"].as_u64().unwrap_or(1000);
    page(world, &call, 0, limit)
}

fn go_on(world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    let cursor = call.arg["cursor"].as_str().unwrap_or_default();
    let read = cursor.strip_prefix("AAF").and_then(|rest| rest.split_once('-'));
    let read = read.and_then(|(from, limit)| Some((from.parse().ok()?, limit.parse().ok()?)));
    let (from, limit) = read.ok_or_else(|| Refusal::nested(&["invalid_cursor"]))?;
    page(world, &call, from, limit)
}

/// Shared folders with ids above `from`. No cursor is the end.
fn page(world: &World, call: &Call<'_>, from: NamespaceId, limit: u64) -> Result<Reply, Refusal> {
    let tree = world.tree();
    let above = tree.namespaces.range(from + 1..).map(|(id, _)| *id);
    let mut rest = above.filter_map(|id| Some((id, metadata(world, &tree, call.root, id)?))).peekable();
    let mut entries = Vec::new();
    let mut last = from;
    while (entries.len() as u64) < limit
        && let Some((id, entry)) = rest.next()
    {
        last = id;
        entries.push(entry);
    }
    let mut result = json!({ "entries": entries });
    if rest.peek().is_some() {
        result["cursor"] = json!(format!("AAF{last}-{limit}"));
    }
    Ok(Reply::Json(result))
}

/// The id of `shared_folder_id`.
fn asked(call: &Call<'_>) -> Option<NamespaceId> {
    call.arg["shared_folder_id"].as_str().and_then(|id| id.parse().ok())
}

fn get_metadata(world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    let tree = world.tree();
    let id = asked(&call).filter(|id| is_shared(&tree, *id)).ok_or_else(|| Refusal::nested(&["invalid_id"]))?;
    let shown = metadata(world, &tree, call.root, id).ok_or_else(|| Refusal::nested(&["not_a_member"]))?;
    Ok(Reply::Json(shown))
}

fn unshare(world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    let mut tree = world.tree();
    let refused = |tag: &str| Refusal::endpoint(json!({ ".tag": "access_error", "access_error": nested(&[tag]) }));
    let id = asked(&call).filter(|id| is_shared(&tree, *id)).ok_or_else(|| refused("invalid_id"))?;
    let (around, key) = mounted(&tree, call.root, id).ok_or_else(|| refused("not_a_member"))?;
    let display = tree.node(around, &key).expect("it is mounted there").display.clone();
    let place = Place { namespace: around, key, display: display.clone(), rev: None };
    tree.check_fit(&place).map_err(|_| Refusal::nested(&["no_permission"]))?;
    if tree.namespace(id).map_or(0, |space| space.nodes.len()) > SHIFTED_MAX {
        return Err(Refusal::nested(&["too_many_files"]));
    }
    tree.delete(around, &place.key);
    tree.make_folder(&place, false).expect("the place was just cleared");
    shift(&mut tree, (id, "", ""), (around, &display));
    tree.namespaces.remove(&id);
    hold(&world.links.0).terms.0.remove(&id);
    Ok(Reply::Json(world.jobs.launch(world, "unshare_folder", call.account(), json!({}), false)))
}
