//! `files/upload`, and the commit that it shares with upload sessions: one set of conflict rules for both.

use serde_json::{Value, json};

use super::{
    Call, Handler, Refusal, Reply, World,
    content::Content,
    nested,
    tree::{Mode, NamespaceId, Shown, Terms, WriteProblem},
};

pub(in crate::emulator) fn handler(route: &str) -> Option<Handler> {
    match route {
        "files/upload" => Some(upload),
        _ => None,
    }
}

fn upload(world: &World, mut call: Call<'_>) -> Result<Reply, Refusal> {
    let body = call.body.take().unwrap_or_default();
    if call.arg["content_hash"].as_str().is_some_and(|hash| hash != body.hash()) {
        return Err(Refusal::nested(&["content_hash_mismatch"]));
    }
    let content = body.clone().into_content();
    match commit(world, call.root, &call.arg, content) {
        Ok(metadata) => Ok(Reply::Json(metadata)),
        Err(CommitProblem::Properties(error)) => {
            Err(Refusal::endpoint(json!({ ".tag": "properties_error", "properties_error": error })))
        }
        Err(CommitProblem::Path(reason)) => {
            // The bytes are kept: a finish may commit them elsewhere.
            let session = world.sessions.keep(world, call.account(), body);
            Err(Refusal::endpoint(json!({ ".tag": "path", "reason": reason, "upload_session_id": session })))
        }
    }
}

/// Why a commit failed.
#[derive(Debug)]
pub(in crate::emulator) enum CommitProblem {
    /// `files.WriteError`
    Path(Value),
    /// `file_properties.InvalidPropertyGroupError`; the file was written, without groups.
    Properties(Value),
}

/// Writes a file as `files.CommitInfo` says; gives its metadata without `.tag`.
pub(in crate::emulator) fn commit(
    world: &World,
    root: NamespaceId,
    info: &Value,
    content: Content,
) -> Result<Value, CommitProblem> {
    let space = world.switches().space;
    let mut tree = world.tree();
    let path = info["path"].as_str().unwrap_or_default();
    let place = tree.locate(root, path).map_err(|_| CommitProblem::Path(nested(&["malformed_path"])))?;
    let terms = Terms {
        mode: match info["mode"][".tag"].as_str() {
            Some("overwrite") => Mode::Overwrite,
            Some("update") => Mode::Update(info["mode"]["update"].as_str().unwrap_or_default().to_owned()),
            _ => Mode::Add,
        },
        autorename: info["autorename"] == true,
        strict_conflict: info["strict_conflict"] == true,
        client_modified: info["client_modified"].as_str().map(str::to_owned),
        space: Some(space),
        ..Terms::default()
    };
    let (namespace, key) = tree
        .write_file(&place, content, &terms)
        .map_err(|problem: WriteProblem| CommitProblem::Path(problem.error()))?;
    // This Dropbox has no property templates.
    if let Some(group) = info["property_groups"].as_array().and_then(|groups| groups.first()) {
        let error = json!({ ".tag": "template_not_found", "template_not_found": group["template_id"] });
        return Err(CommitProblem::Properties(error));
    }
    Ok(tree.metadata(&Shown::plain(root), namespace, &key).unwrap_or_default())
}
