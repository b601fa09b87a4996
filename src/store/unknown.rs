//! Settings as JSON, between versions. During a rolling update an older process reads rows that a newer one wrote: what it
//! does not know it passes over, and writes back as it found it. What it cannot read at all, or what restricts its use in a way
//! not known here, makes that one application parameter unavailable and no other. What a person wrote, a parameters file or an export, is taken to the letter instead.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{ParameterId, Settings};
use crate::{
    fault::{Fault, Reason, Result},
    limits::STORE_UNREADABLE_RETRY,
};

/// The cause told of a row that this version cannot read.
const UNREADABLE: &str = "row_unreadable";

/// A column of a row.
///
/// # Errors
/// `STORE_UNAVAILABLE`, of which [`is_unreadable`] holds.
pub(super) fn column<T: DeserializeOwned>(id: &ParameterId, name: &str, text: &[u8]) -> Result<T> {
    // The parser's own words may quote what it read, and with it a secret.
    serde_json::from_slice(text).map_err(|_| unreadable(id, name))
}

/// The settings of a row. What a policy says beyond what is known here restricts somebody, unless it is empty, and is not passed
/// over.
///
/// # Errors
/// As [`column()`].
pub(super) fn settings(id: &ParameterId, text: &str) -> Result<Settings> {
    let settings: Settings = column(id, "settings", text.as_bytes())?;
    let row: Value = column(id, "settings", text.as_bytes())?;
    let known = serde_json::to_value(&settings.policy).map_err(|_| unreadable(id, "policy"))?;
    if beyond(&row["policy"], &known).values().any(says_something) {
        return Err(unreadable(id, "policy"));
    }
    Ok(settings)
}

fn says_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(is_set) => *is_set,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(inside) => inside.values().any(says_something),
    }
}

/// What is told of one application parameter that another version wrote.
pub fn unreadable(id: &ParameterId, column: &str) -> Fault {
    let text = format!(
        "this server cannot read the {column} of application parameter {id}: another version of the program wrote it; \
         bring every server to that version"
    );
    Fault::new(Reason::StoreUnavailable, text)
        .fact("cause", UNREADABLE)
        .parameter(id.as_str())
        .retry_after(STORE_UNREADABLE_RETRY)
}

/// Is it the row of one application parameter that cannot be read, and not the store?
pub fn is_unreadable(fault: &Fault) -> bool {
    fault.reason() == Reason::StoreUnavailable && fault.get("cause") == Some(UNREADABLE)
}

/// What a person wrote.
///
/// # Errors
/// What is wrong, in the parser's words; a field that there is not, by its name.
pub(super) fn to_the_letter(given: Value) -> Result<Settings, String> {
    let settings: Settings = serde_json::from_value(given.clone()).map_err(|error| error.to_string())?;
    let known = serde_json::to_value(&settings).map_err(|error| error.to_string())?;
    match first_name(&beyond(&given, &known)) {
        None => Ok(settings),
        Some(name) => Err(format!("unknown field `{name}`")),
    }
}

/// The row's text for `after`, with all that stood in the row and is not known here.
///
/// # Errors
/// `CONNECTOR_BUG`.
pub(super) fn rewritten(row: &str, before: &Settings, after: &Settings) -> Result<String> {
    let bug = |error| Fault::bug("settings could not be written").source(error);
    let mut text = serde_json::to_value(after).map_err(bug)?;
    let known = serde_json::to_value(before).map_err(bug)?;
    // It was read already.
    if let Ok(row) = serde_json::from_str(row) {
        add(&mut text, beyond(&row, &known));
    }
    Ok(text.to_string())
}

/// What is in `given` and not in `known`, at its place.
fn beyond(given: &Value, known: &Value) -> Map<String, Value> {
    let (Value::Object(given), Value::Object(known)) = (given, known) else { return Map::new() };
    let mut more = Map::new();
    for (name, value) in given {
        match known.get(name) {
            None => {
                more.insert(name.clone(), value.clone());
            }
            Some(known) => {
                let inside = beyond(value, known);
                if !inside.is_empty() {
                    more.insert(name.clone(), Value::Object(inside));
                }
            }
        }
    }
    more
}

fn add(to: &mut Value, more: Map<String, Value>) {
    let Value::Object(to) = to else { return };
    for (name, value) in more {
        match (to.get_mut(&name), value) {
            (Some(inside), Value::Object(more)) => add(inside, more),
            (Some(_), _) => {}
            (None, value) => {
                to.insert(name, value);
            }
        }
    }
}

fn first_name(more: &Map<String, Value>) -> Option<String> {
    let (name, value) = more.iter().next()?;
    match value {
        Value::Object(inside) => Some(first_name(inside).map_or(name.clone(), |rest| format!("{name}.{rest}"))),
        _ => Some(name.clone()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::PathRoot;

    #[test]
    fn what_a_person_wrote_is_taken_to_the_letter() {
        let good = json!({ "app_key": "k", "labels": { "any": "label" }, "timeouts": { "connect": 2.5 } });
        assert_eq!(to_the_letter(good).unwrap().labels["any"], "label");
        for (wrong, told) in [
            (json!({ "app_kay": "k" }), "app_kay"),
            (json!({ "policy": { "raw_alow": [] } }), "policy.raw_alow"),
            (json!({ "proxy": { "pasword": { "x": 1 } } }), "proxy.pasword"),
            (json!({ "timeouts": { "conect": 1 } }), "timeouts.conect"),
            (json!({ "default_path_root": { "kind": "AUTO", "namespace_id": "1" } }), "default_path_root.namespace_id"),
        ] {
            let text = to_the_letter(wrong).unwrap_err();
            assert!(text.contains(told), "{text}");
        }
    }

    #[test]
    fn what_is_not_known_is_written_back_and_what_was_taken_away_stays_away() {
        let row = r#"{"app_key":"k","newer":{"a":1},"policy":{"newest":[2]},"labels":{"old":"x"},
                      "default_path_root":{"kind":"NAMESPACE","namespace_id":"7"}}"#;
        let before: Settings = serde_json::from_str(row).unwrap();
        let after = Settings { app_key: "l".into(), default_path_root: PathRoot::Auto, ..Settings::default() };
        let text: Value = serde_json::from_str(&rewritten(row, &before, &after).unwrap()).unwrap();
        assert_eq!((&text["newer"], &text["policy"]["newest"]), (&json!({ "a": 1 }), &json!([2])));
        assert_eq!((&text["app_key"], &text["labels"]), (&json!("l"), &json!({})));
        assert_eq!(text["default_path_root"], json!({ "kind": "AUTO" }));
        assert_eq!(serde_json::from_value::<Settings>(text).unwrap(), after);
    }
}
