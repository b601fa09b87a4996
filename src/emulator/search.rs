//! `files/search_v2`: every word of the query must be in the name, or in the text of a small text file.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::{
    Call, Handler, Refusal, Reply, World,
    files::under_path,
    nested, paths,
    tree::{Node, Reach, Shown, Tree, Visit},
};

/// Matches of one search, over all pages.
const MATCHES_MAX: usize = 10_000;

/// Longer files are not looked into.
const TEXT_BYTES_MAX: u64 = 256 << 10;

pub(in crate::emulator) fn handler(route: &str) -> Option<Handler> {
    Some(match route {
        "files/search_v2" => search,
        "files/search/continue_v2" => go_on,
        _ => return None,
    })
}

fn search(world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    page(world, &call, &call.arg, 0)
}

fn go_on(world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    let cursor = call.arg["cursor"].as_str().unwrap_or_default();
    let json = BASE64_URL_SAFE_NO_PAD.decode(cursor).ok();
    let read: Option<(Value, usize, String)> = json.and_then(|json| serde_json::from_slice(&json).ok());
    match read {
        Some((arg, from, account)) if account == call.account() => page(world, &call, &arg, from),
        _ => Err(Refusal::BadRequest(format!("Invalid \"cursor\" parameter: {cursor:?}"))),
    }
}

struct Match {
    metadata: Value,
    kind: &'static str,
    name: String,
    modified: String,
}

fn page(world: &World, call: &Call<'_>, arg: &Value, from: usize) -> Result<Reply, Refusal> {
    let options = &arg["options"];
    let tree = world.tree();
    let path = options["path"].as_str().unwrap_or_default();
    let place = tree.locate(call.root, path).map_err(|lost| under_path(nested(&[lost.tag()])))?;
    if !place.is_root() {
        match tree.node(place.namespace, &place.key) {
            // Recorded: a search in a folder that is not there finds nothing and is no error.
            None => return Ok(Reply::Json(json!({ "matches": [], "has_more": false }))),
            Some(node) if !node.is_folder() => return Err(under_path(nested(&["not_folder"]))),
            Some(_) => {}
        }
    }
    let words: Vec<String> = arg["query"].as_str().unwrap_or_default().split_whitespace().map(paths::lower).collect();
    let mut matches = find(&tree, call.root, (place.namespace, &place.key), &words, options);
    if options["order_by"][".tag"] == "last_modified_time" {
        matches.sort_by(|a, b| b.modified.cmp(&a.modified));
    } else {
        // Names that begin with the query come first.
        let first = words.first().cloned().unwrap_or_default();
        matches.sort_by_key(|found| !paths::lower(&found.name).starts_with(&first));
    }
    let limit = options["max_results"].as_u64().and_then(|limit| usize::try_from(limit).ok()).unwrap_or(100);
    let total = matches.len();
    let highlights = arg["match_field_options"]["include_highlights"] == true;
    let shown: Vec<Value> = matches
        .into_iter()
        .skip(from)
        .take(limit)
        .map(|found| {
            let mut shown = json!({
                "metadata": { ".tag": "metadata", "metadata": found.metadata },
                "match_type": { ".tag": found.kind },
            });
            if highlights {
                shown["highlight_spans"] = spans(&found.name, &words);
            }
            shown
        })
        .collect();
    let next = from + shown.len();
    let mut result = json!({ "matches": shown, "has_more": next < total });
    if next < total {
        let cursor = serde_json::to_vec(&(arg, next, call.account())).expect("plain data");
        result["cursor"] = BASE64_URL_SAFE_NO_PAD.encode(cursor).into();
    }
    Ok(Reply::Json(result))
}

fn find(tree: &Tree, root: u64, place: (u64, &str), words: &[String], options: &Value) -> Vec<Match> {
    let deleted_only = options["file_status"][".tag"] == "deleted";
    let shown = Shown::tagged(root);
    let names_only = options["filename_only"] == true;
    let mut matches = Vec::new();
    let reach = Reach { recursive: true, deleted: deleted_only, mounted: true };
    tree.walk(place.0, place.1, None, reach, &mut |visit| {
        match visit {
            Visit::Live { namespace, node, .. } if !deleted_only => {
                let in_name = words.iter().all(|word| paths::lower(node.name()).contains(word.as_str()));
                let in_text = !names_only && !in_name && text_has(node, words);
                if (in_name || in_text) && wanted(node, options) {
                    let modified = node.file().map(|file| file.server_modified.clone()).unwrap_or_default();
                    let kind = if in_name { "filename" } else { "file_content" };
                    let metadata = tree.show_node(&shown, namespace, node);
                    matches.push(Match { metadata, kind, name: node.name().to_owned(), modified });
                }
            }
            Visit::Deleted { namespace, deleted, .. } => {
                let name = paths::name(&deleted.display);
                if words.iter().all(|word| paths::lower(name).contains(word.as_str())) {
                    let metadata = tree.show_deleted(&shown, namespace, deleted);
                    let (name, modified) = (name.to_owned(), deleted.at.clone());
                    matches.push(Match { metadata, kind: "filename", name, modified });
                }
            }
            Visit::Live { .. } => {}
        }
        matches.len() < MATCHES_MAX
    });
    matches
}

fn text_has(node: &Node, words: &[String]) -> bool {
    let Some(file) = node.file().filter(|file| file.content.size() <= TEXT_BYTES_MAX && !words.is_empty()) else {
        return false;
    };
    if category(node) != "document" && !["csv", "md", "json"].contains(&paths::extension(node.name()).as_str()) {
        return false;
    }
    let text = file.content.read(TEXT_BYTES_MAX).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    text.is_some_and(|text| {
        let text = paths::lower(&text);
        words.iter().all(|word| text.contains(word.as_str()))
    })
}

/// Do extension and category fit?
fn wanted(node: &Node, options: &Value) -> bool {
    let extension = paths::extension(node.name());
    let extensions = options["file_extensions"].as_array().filter(|list| !list.is_empty());
    let categories = options["file_categories"].as_array().filter(|list| !list.is_empty());
    extensions.is_none_or(|list| {
        let asked = list.iter().filter_map(Value::as_str);
        !node.is_folder()
            && asked.map(|asked| paths::lower(asked.trim_start_matches('.'))).any(|asked| asked == extension)
    }) && categories.is_none_or(|list| list.iter().any(|asked| asked[".tag"] == category(node)))
}

/// The tag of `files.FileCategory`.
fn category(node: &Node) -> &'static str {
    if node.is_folder() {
        return "folder";
    }
    match paths::extension(node.name()).as_str() {
        "jpg" | "jpeg" | "png" | "gif" | "bmp" | "tif" | "tiff" | "webp" | "heic" | "svg" => "image",
        "doc" | "docx" | "docm" | "rtf" | "txt" | "odt" | "md" | "gdoc" => "document",
        "pdf" => "pdf",
        "xls" | "xlsx" | "xlsm" | "ods" | "csv" | "gsheet" => "spreadsheet",
        "ppt" | "pptx" | "pptm" | "odp" | "gslides" => "presentation",
        "mp3" | "wav" | "m4a" | "flac" | "ogg" | "aac" => "audio",
        "mp4" | "mov" | "mkv" | "webm" | "avi" => "video",
        "paper" => "paper",
        _ => "others",
    }
}

/// The name in runs, those that match marked.
fn spans(name: &str, words: &[String]) -> Value {
    // One-to-one lowering keeps positions of characters, not of bytes.
    let characters: Vec<char> = name.chars().collect();
    let lower: Vec<char> = paths::lower(name).chars().collect();
    let mut marked = vec![false; characters.len()];
    for word in words {
        let word: Vec<char> = word.chars().collect();
        for start in 0..lower.len().saturating_sub(word.len().saturating_sub(1)) {
            if lower[start..].starts_with(&word) {
                marked[start..start + word.len()].fill(true);
            }
        }
    }
    let mut spans: Vec<(String, bool)> = Vec::new();
    for (character, marked) in characters.into_iter().zip(marked) {
        match spans.last_mut() {
            Some((text, same)) if *same == marked => text.push(character),
            _ => spans.push((character.to_string(), marked)),
        }
    }
    spans.into_iter().map(|(text, marked)| json!({ "highlight_str": text, "is_highlighted": marked })).collect()
}
