//! The emulator held against what is published and what was recorded.

use dropbox_connector::emulator::schema::{Schema, Style};
use serde_json::Value;

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

fn recorded() -> impl Iterator<Item = Value> {
    include_str!("samples/recorded.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).expect("recorded lines are JSON"))
}

/// The value that the table describes: the error of an error, the header of a download, else the body.
fn described(style: Style, sample: &Value) -> Option<Value> {
    let body = sample["response"].as_str()?;
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
        let case = format!("{} {}", sample["case"].as_str().expect("a case"), sample["n"]);
        let name = sample["url"].as_str().expect("a url").split_once("/2/").map(|(_, name)| name);
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
