//! `google.protobuf.Value` ⇄ JSON text.

use prost_types::{ListValue, Struct, Value, value::Kind};
use serde_json::Value as Json;

use crate::fault::{Fault, Reason, Result};

/// Deeper values are refused: each level costs stack.
const DEPTH_MAX: usize = 64;

/// # Errors
/// `RAW_JSON` for numbers JSON has not, and for values too deep.
pub fn text(value: &Value) -> Result<String> {
    Ok(json(value, 0)?.to_string())
}

fn json(value: &Value, depth: usize) -> Result<Json> {
    let bad = |text: &str| Err(Fault::new(Reason::RawJson, text).violation("arg_value", "MALFORMED", text));
    if depth > DEPTH_MAX {
        return bad("the argument is nested too deep");
    }
    Ok(match &value.kind {
        None | Some(Kind::NullValue(_)) => Json::Null,
        Some(Kind::BoolValue(value)) => Json::Bool(*value),
        Some(Kind::StringValue(value)) => Json::String(value.clone()),
        Some(Kind::NumberValue(value)) => match number(*value) {
            Some(number) => Json::Number(number),
            None => return bad("the argument holds a number that is not finite"),
        },
        Some(Kind::ListValue(list)) => {
            Json::Array(list.values.iter().map(|value| json(value, depth + 1)).collect::<Result<_>>()?)
        }
        Some(Kind::StructValue(fields)) => {
            let pairs = fields.fields.iter().map(|(key, value)| Ok((key.clone(), json(value, depth + 1)?)));
            Json::Object(pairs.collect::<Result<_>>()?)
        }
    })
}

/// Whole numbers go as such: Dropbox refuses `1.0` where it wants an integer.
fn number(value: f64) -> Option<serde_json::Number> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() <= EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "whole and within 2^53")]
        return Some((value as i64).into());
    }
    serde_json::Number::from_f64(value)
}

/// # Errors
/// `DROPBOX_PROTOCOL` if it is no JSON.
pub fn value(text: &str) -> Result<Value> {
    let json: Json = serde_json::from_str(text)
        .map_err(|error| Fault::new(Reason::DropboxProtocol, "the result is no JSON").source(error))?;
    Ok(proto(json))
}

fn proto(json: Json) -> Value {
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(value),
        Json::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or(f64::MAX)),
        Json::String(value) => Kind::StringValue(value),
        Json::Array(values) => Kind::ListValue(ListValue { values: values.into_iter().map(proto).collect() }),
        Json::Object(fields) => {
            Kind::StructValue(Struct { fields: fields.into_iter().map(|(key, value)| (key, proto(value))).collect() })
        }
    };
    Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_both_ways_and_whole_numbers_stay_whole() {
        let source = r#"{"a":[1,2.5,"x",null,true],"b":{}}"#;
        let back = text(&value(source).unwrap()).unwrap();
        assert_eq!(serde_json::from_str::<Json>(&back).unwrap(), serde_json::from_str::<Json>(source).unwrap());
        assert!(back.contains("[1,2.5"), "{back}");
    }

    #[test]
    fn what_json_cannot_say_is_refused() {
        let infinite = Value { kind: Some(Kind::NumberValue(f64::INFINITY)) };
        assert_eq!(text(&infinite).unwrap_err().reason(), Reason::RawJson);
        let mut deep = Value { kind: None };
        for _ in 0..100 {
            deep = Value { kind: Some(Kind::ListValue(ListValue { values: vec![deep] })) };
        }
        assert_eq!(text(&deep).unwrap_err().reason(), Reason::RawJson);
    }
}
