//! Recorded requests asked of the emulator again: same status, same errors, and every field that was recorded.

use std::collections::HashMap;

use dropbox_connector::emulator::{
    control::{Seed, SeedFile},
    schema::{Schema, Style},
};
use serde_json::Value;

use super::Bench;

/// Where a recorded answer is not of the published type: the case, and what differs. `preview_type` is newer than the
/// published types, the rest is older, or was taken out with the people it named.
const OTHER_SHAPES: &[(&str, &str)] = &[
    ("get_account/success 0", "name: missing required field 'abbreviated_name'"),
    ("get_shared_link_metadata/success_file 0", "links[0]: unknown field 'preview_type'"),
    ("get_shared_link_metadata/success_file 1", "unknown field 'preview_type'"),
    ("list_file_members/success 0", "users[0].user: missing required field 'email'"),
    ("list_file_members/success_with_actions 0", "users[0].user: missing required field 'email'"),
    ("list_folder/success_shared_folder 0", "links[0].link_permissions: missing required field 'visibility_policies'"),
    ("list_folder_members/success 0", "users[0].user: missing required field 'email'"),
    ("list_folder_members/success_with_actions 0", "users[0].user: missing required field 'email'"),
];

/// Cases asked again, with what has to be there before: `+` makes a folder, all else a file.
const REPLAYED: &[(&str, &[&str])] = &[
    ("chunked_uploader/success", &[]),
    ("chunked_uploader/success_with_empty_string", &[]),
    ("copy/malformed_path", &[]),
    ("copy/not_found", &[]),
    ("copy/success", &["/a.jpg"]),
    ("copy_batch_check/invalid_async_job_id", &[]),
    ("copy_reference_get/not_found", &[]),
    ("copy_reference_get/success_file", &["/file.txt"]),
    ("copy_reference_get/success_folder", &["+/folder"]),
    ("copy_reference_save/invalid_reference", &[]),
    ("create_folder/conflict", &["/b.jpg"]),
    ("create_folder/malformed_path", &[]),
    ("create_folder/success", &[]),
    ("create_folder_batch/autorename_true", &["+/Create Batch 1"]),
    ("create_folder_batch/conflict_error", &["+/folder_for_sharing"]),
    ("create_folder_batch/force_async_true", &[]),
    ("create_folder_batch/synchronous_result_success", &[]),
    ("delete/invalid_parent_rev", &["/dropbox_api_fixtures/delete/wont_be_deleted.txt"]),
    ("delete/not_found", &[]),
    ("delete/success_file", &["/dropbox_api_fixtures/delete/will_be_deleted.txt"]),
    ("delete/success_folder", &["+/dropbox_api_fixtures/delete/folder"]),
    ("delete_batch_check/invalid_async_job_id", &[]),
    ("download/not_found", &[]),
    ("download/success", &["/file.txt"]),
    ("get_account/no_account", &[]),
    ("get_account_batch/no_account", &[]),
    ("get_current_account/success", &[]),
    ("get_shared_link_metadata/error_not_found", &[]),
    ("list_folder/invalid_namespace_id", &["+/dropbox_api_fixtures"]),
    ("list_folder/not_found", &[]),
    ("list_folder_get_latest_cursor/list_folder", &["+/folder"]),
    ("list_folder_get_latest_cursor/success", &["+/folder"]),
    ("list_folder_longpoll/reset", &[]),
    ("restore/invalid_revision", &["/file.txt"]),
    ("revoke_shared_link/malformed_shared_link", &[]),
    ("revoke_shared_link/not_found", &[]),
    ("search/not_found", &[]),
    ("search/success", &["/dropbox_api_fixtures/search/findable_file.txt"]),
    ("upload/success", &[]),
    ("upload/success_add", &["/dropbox_api_fixtures/upload/file.txt"]),
    ("upload/success_client_modified", &[]),
    ("upload/success_io", &[]),
    ("upload/success_overwrite", &["/dropbox_api_fixtures/upload/file.txt"]),
    ("upload_session_append_v2/not_found", &[]),
    ("upload_session_append_v2/offset_error", &[]),
    ("upload_session_append_v2/success", &[]),
    ("upload_session_start/success", &[]),
    ("token_revoke/success", &[]),
];

/// Fields whose value is the item's own and has to come back as recorded.
const SAME_VALUE: [&str; 8] =
    [".tag", "name", "path_lower", "path_display", "error", "correct_offset", "has_more", "no_account"];
/// Recorded by other accounts of other times.
const OTHER_VALUE: [&str; 2] = ["account_type", "name"];
/// What stands in an answer and is asked for later.
const CARRIED: [&str; 3] = ["session_id", "async_job_id", "copy_reference"];
/// Older routes of the recordings, and the present ones with the same errors; their results are under `metadata`.
const SUCCESSORS: [(&str, &str); 3] = [
    ("files/copy", "files/copy_v2"),
    ("files/create_folder", "files/create_folder_v2"),
    ("files/delete", "files/delete_v2"),
];

fn recorded() -> Vec<Value> {
    let lines = include_str!("../samples/recorded.jsonl").lines();
    lines.map(|line| serde_json::from_str(line).expect("recorded lines are JSON")).collect()
}

fn text<'a>(sample: &'a Value, field: &str) -> &'a str {
    sample[field].as_str().unwrap_or_default()
}

/// The value that the table describes: the error of an error, the header of a download, else the body.
fn described(style: Style, sample: &Value) -> Option<Value> {
    let body = text(sample, "response");
    if sample["status"] != 200 {
        return serde_json::from_str::<Value>(body).ok().map(|body| body["error"].clone());
    }
    match style {
        Style::Download => serde_json::from_str(sample["response_headers"]["dropbox-api-result"].as_str()?).ok(),
        _ => serde_json::from_str(body).ok(),
    }
}

#[test]
fn recorded_answers_fit_the_published_types() {
    let schema = Schema::get();
    let (mut checked, mut wrong) = (0, Vec::new());
    for sample in recorded() {
        let case = format!("{} {}", text(&sample, "case"), sample["n"]);
        let name = text(&sample, "url").split_once("/2/").map(|(_, name)| name);
        let Some(route) = name.and_then(|name| schema.route(name)) else { continue };
        let Some(value) = described(route.style, &sample) else { continue };
        let verdict = match sample["status"].as_u64() {
            Some(200) => schema.check_result(route, &value),
            Some(409) => schema.check_error(route, &value),
            Some(status @ (401 | 403 | 422 | 429)) => schema.check_common_error(status as u16, &value),
            _ => continue,
        };
        checked += 1;
        if let Err(text) = verdict
            && !OTHER_SHAPES.contains(&(case.as_str(), text.as_str()))
        {
            wrong.push(format!("({case:?}, {text:?}), // {value}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {checked} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(checked >= 100, "only {checked} answers were looked at");
}

/// What of `then` is missing or different in `now`.
fn compare(place: &str, then: &Value, now: &Value, found: &mut Vec<String>) {
    match (then, now) {
        (Value::Object(then), Value::Object(now)) => {
            for (name, value) in then {
                let place = format!("{place}.{name}");
                match now.get(name) {
                    _ if OTHER_VALUE.contains(&name.as_str()) && value.is_object() => {}
                    None => found.push(format!("{place} is missing")),
                    Some(other) if SAME_VALUE.contains(&name.as_str()) && value != other => {
                        found.push(format!("{place} is {other}, was {value}"));
                    }
                    Some(other) => compare(&place, value, other, found),
                }
            }
        }
        (Value::Array(then), Value::Array(now)) if then.len() == now.len() => {
            for (i, (then, now)) in then.iter().zip(now).enumerate() {
                compare(&format!("{place}[{i}]"), then, now, found);
            }
        }
        (then, now) if std::mem::discriminant(then) == std::mem::discriminant(now) && !then.is_array() => {}
        (then, now) => found.push(format!("{place} is {now}, was {then}")),
    }
}

/// Sends a recorded request; gives what differs.
async fn again(bench: &Bench, sample: &Value, carried: &mut HashMap<String, String>) -> Vec<String> {
    let old = text(sample, "url").split_once("/2/").map(|(_, name)| name).expect("an API route");
    let successor = SUCCESSORS.iter().find(|(name, _)| *name == old).map(|(_, now)| *now);
    let route = Schema::get().route(successor.unwrap_or(old)).expect("a published route");
    let carry = |text: &str| carried.iter().fold(text.to_owned(), |text, (then, now)| text.replace(then, now));
    let mut request = bench.bare(&route.name);
    if route.takes("noauth") {
        request = bench.http.post(bench.url(&route.name));
    }
    for (name, value) in sample["request_headers"].as_object().expect("headers") {
        let value = carry(value.as_str().expect("text"));
        if !value.is_empty() {
            request = request.header(name, value);
        }
    }
    let body = text(sample, "request");
    let body = if route.style == Style::Rpc { carry(body) } else { body.to_owned() };
    let said = bench.send(request.body(body)).await;
    let mut found = Vec::new();
    if sample["status"] != said.status {
        found.push(format!("status is {}, was {}: {}", said.status, sample["status"], said.text()));
        return found;
    }
    let kind = |value: &str| value.split(';').next().unwrap_or_default().to_owned();
    let (then, now) = (text(&sample["response_headers"], "content-type"), said.header("content-type"));
    if kind(then) != kind(now) {
        found.push(format!("content-type is {now}, was {then}"));
    }
    if said.status == 400 {
        if text(sample, "response") != said.text() {
            found.push(format!("text is {:?}, was {:?}", said.text(), text(sample, "response")));
        }
        return found;
    }
    let then = described(route.style, sample).expect("JSON was recorded");
    let mut now = match route.style {
        Style::Download if said.status == 200 => serde_json::from_str(said.header("dropbox-api-result")).expect("JSON"),
        _ => said.json(),
    };
    if said.status != 200 {
        now = now["error"].clone();
        if then != now {
            found.push(format!("error is {now}, was {then}"));
        }
        return found;
    }
    if successor.is_some() {
        now = now["metadata"].clone();
    }
    for name in CARRIED {
        if let (Some(then), Some(now)) = (then[name].as_str(), now[name].as_str()) {
            carried.insert(then.to_owned(), now.to_owned());
        }
    }
    compare("", &then, &now, &mut found);
    found
}

#[tokio::test]
async fn recorded_requests_are_answered_as_they_were() {
    let bench = Bench::start().await;
    let recorded = recorded();
    let (mut wrong, mut asked) = (Vec::new(), 0);
    for (case, there) in REPLAYED {
        bench.control().reset();
        let mut seed = Seed::default();
        for path in *there {
            match path.strip_prefix('+') {
                Some(folder) => seed.folders.push(folder.to_owned()),
                None => seed.files.push(SeedFile::text(path, "there before")),
            }
        }
        bench.control().seed(&seed).expect("a sound seed");
        let mut carried = HashMap::new();
        let samples: Vec<&Value> = recorded.iter().filter(|sample| text(sample, "case") == *case).collect();
        assert!(!samples.is_empty(), "{case} was not recorded");
        for sample in samples {
            asked += 1;
            let found = again(&bench, sample, &mut carried).await;
            wrong.extend(found.into_iter().map(|text| format!("{case} {}: {text}", sample["n"])));
        }
    }
    assert!(wrong.is_empty(), "of {asked} answers:\n{}", wrong.join("\n"));
    bench.end();
}
