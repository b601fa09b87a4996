//! `errors.proto` as callers read it: what a refusal carries is named there, and what is shown there is carried.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    sync::OnceLock,
};

use super::process::root;

/// Facts that the head of the enum speaks of, for all reasons.
const ANYWHERE: [&str; 9] = [
    "dropboxTag",
    "dropboxRoute",
    "dropboxRequestId",
    "httpStatus",
    "applicationParameterId",
    "uploadId",
    "persistedOffset",
    "replacedRev",
    "remedy",
];

/// What the comment of one reason says of its facts.
#[derive(Default)]
struct Entry {
    /// In its example.
    shown: BTreeSet<String>,
    /// In its words, which say when.
    spoken: BTreeSet<String>,
}

/// All between two of these, every second piece.
fn within(text: &str, quote: char) -> impl Iterator<Item = String> {
    text.split(quote).skip(1).step_by(2).map(str::to_owned)
}

fn entries() -> &'static BTreeMap<String, Entry> {
    static ENTRIES: OnceLock<BTreeMap<String, Entry>> = OnceLock::new();
    ENTRIES.get_or_init(|| {
        let text = fs::read_to_string(root().join("proto/dropboxconnector/v1/errors.proto")).expect("errors.proto");
        let (mut entries, mut entry) = (BTreeMap::new(), Entry::default());
        for line in text.lines().map(str::trim) {
            if let Some(example) = line.strip_prefix("//     {") {
                // Keys and values take turns.
                entry.shown.extend(within(example, '"').step_by(2));
            } else if let Some(words) = line.strip_prefix("// ") {
                entry.spoken.extend(within(words, '`'));
            } else if let Some((name, _)) = line.strip_prefix("ERROR_REASON_").and_then(|rest| rest.split_once(" = ")) {
                entries.insert(name.to_owned(), std::mem::take(&mut entry));
            } else if !line.starts_with("//") {
                entry = Entry::default();
            }
        }
        assert!(entries.len() > 100, "the comments are read");
        entries
    })
}

/// What `ErrorInfo.metadata` and the comment of its reason do not agree about.
pub fn compare(reason: &str, metadata: &HashMap<String, String>) -> Result<(), String> {
    let entry = entries().get(reason).ok_or_else(|| format!("{reason} is not in errors.proto"))?;
    let is_general = |key: &String| ANYWHERE.contains(&key.as_str());
    for key in metadata.keys().filter(|key| !is_general(key)) {
        if !entry.shown.contains(key) && !entry.spoken.contains(key) {
            return Err(format!("{reason} carries {key}, of which errors.proto says nothing"));
        }
    }
    // Where the parameter is all there is to tell, it is told.
    let alone = entry.shown.len() == 1 && entry.shown.contains("applicationParameterId");
    for key in entry.shown.iter().filter(|key| alone || !is_general(key)) {
        if !entry.spoken.contains(key) && !metadata.contains_key(key) {
            return Err(format!("{reason} does not carry {key}, which errors.proto shows: {metadata:?}"));
        }
    }
    Ok(())
}
