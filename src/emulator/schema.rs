//! Dropbox's published types, read once from `routes.json`, and the checks of what goes in and what comes out.
//! A handler behind [`Schema::check_arg`] sees complete JSON (defaults filled, unions in their object form) and says only
//! what happens. Answers are held to the same table, so that the emulator cannot drift from the service it plays.
//! Nothing of our own conversions or of an SDK is used: they would only prove that we agree with ourselves.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, LazyLock},
};

use regex::Regex;
use serde_json::{Map, Value};

use super::Host;

mod load;

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| Schema::parse(include_str!("routes.json")));

/// All routes and all types.
#[derive(Debug)]
pub struct Schema {
    routes: HashMap<String, RouteSpec>,
    types: Vec<Type>,
    names: HashMap<String, TypeId>,
}

/// What the published table says of one route.
#[derive(Debug)]
pub struct RouteSpec {
    /// The name in the URL behind `/2/`, with the `_vN` suffix: `files/upload_session/append_v2`.
    pub name: String,
    /// The name in Dropbox's error texts: `files/upload_session/append:2`.
    pub label: String,
    pub host: Host,
    pub style: Style,
    /// Any of `user`, `team`, `app`, `noauth`.
    pub auth: Vec<String>,
    /// The scope a token must have; some routes need none.
    pub scope: Option<String>,
    pub deprecated: bool,
    /// Whether an app that sees only its own folder may call it.
    pub allow_app_folder_app: bool,
    /// `team_admin` or `whole_team`; absent when Select-Admin is refused.
    pub select_admin_mode: Option<String>,
    /// The type names as published, `Void` when there is none.
    pub arg: String,
    pub result: String,
    pub error: String,
    /// The argument is `null`, and may be left out.
    pub arg_is_void: bool,
    arg_type: Kind,
    result_type: Kind,
    error_type: Kind,
}

impl RouteSpec {
    pub fn takes(&self, kind: &str) -> bool {
        self.auth.iter().any(|auth| auth == kind)
    }
}

/// Where argument, bytes and result travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Rpc,
    Upload,
    Download,
}

type TypeId = usize;

#[derive(Debug)]
enum Type {
    Struct { fields: Vec<Field>, subtypes: BTreeMap<String, TypeId> },
    Union { variants: Vec<Variant> },
}

#[derive(Debug)]
struct Field {
    name: String,
    kind: Kind,
    optional: bool,
    nullable: bool,
    default: Option<Value>,
}

#[derive(Debug)]
struct Variant {
    tag: String,
    /// `None` for a void member.
    kind: Option<Kind>,
    flat: bool,
    nullable: bool,
}

/// A type with its constraints, aliases resolved.
#[derive(Debug, Clone)]
enum Kind {
    Void,
    Boolean,
    Integer {
        min: i128,
        max: i128,
    },
    Float {
        min: f64,
        max: f64,
    },
    Text {
        min: usize,
        max: usize,
        pattern: Option<Pattern>,
    },
    Time {
        format: &'static str,
    },
    List {
        item: Box<Kind>,
        min: usize,
        max: usize,
    },
    /// An item of a list that may be `null`.
    Nullable(Box<Kind>),
    Named(TypeId),
}

#[derive(Debug, Clone)]
struct Pattern {
    text: Arc<str>,
    regex: Arc<Regex>,
}

/// Which way the value goes: what we are sent may use the short forms, what we say may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

/// A mismatch, with the place built while the check unwinds.
struct Problem {
    place: String,
    text: String,
}

impl Problem {
    fn new(text: impl Into<String>) -> Self {
        Self { place: String::new(), text: text.into() }
    }

    fn under(mut self, name: &str) -> Self {
        let dot = if self.place.is_empty() || self.place.starts_with('[') { "" } else { "." };
        self.place = format!("{name}{dot}{}", self.place);
        self
    }

    fn message(self) -> String {
        if self.place.is_empty() { self.text } else { format!("{}: {}", self.place, self.text) }
    }
}

impl Schema {
    /// The table of this build.
    pub fn get() -> &'static Schema {
        &SCHEMA
    }

    /// The route behind `/2/`, e.g. `files/upload_session/append_v2`.
    pub fn route(&self, name: &str) -> Option<&RouteSpec> {
        self.routes.get(name)
    }

    pub fn routes(&self) -> impl Iterator<Item = &RouteSpec> {
        self.routes.values()
    }

    /// Checks a request's argument and completes it: defaults are filled in, `null` of a nullable field is dropped, a bare
    /// string for a void union member becomes `{".tag": …}`.
    ///
    /// # Errors
    /// The text Dropbox puts behind `request body:` or `HTTP header "Dropbox-API-Arg":`.
    pub fn check_arg(&self, route: &RouteSpec, arg: &mut Value) -> Result<(), String> {
        self.check(&route.arg_type, arg, Way::In).map_err(Problem::message)?;
        self.complete(&route.arg_type, arg);
        Ok(())
    }

    /// Checks the result we are about to send.
    ///
    /// # Errors
    /// Where it differs from the published type; unknown fields and unknown tags count.
    pub fn check_result(&self, route: &RouteSpec, result: &Value) -> Result<(), String> {
        self.check(&route.result_type, result, Way::Out).map_err(Problem::message)
    }

    /// Checks the `error` value of a 409 of this route (the inner object, not the envelope).
    ///
    /// # Errors
    /// Where it differs from the published type.
    pub fn check_error(&self, route: &RouteSpec, error: &Value) -> Result<(), String> {
        self.check(&route.error_type, error, Way::Out).map_err(Problem::message)
    }

    /// Checks the `error` value of an answer that any route may give: 401, 403, 422 and 429.
    ///
    /// # Errors
    /// Where it differs from the published type; a status without a published type always does.
    pub fn check_common_error(&self, status: u16, error: &Value) -> Result<(), String> {
        let name = match status {
            401 => "auth.AuthError",
            403 => "auth.AccessError",
            422 => "common.PathRootError",
            429 => "auth.RateLimitError",
            _ => return Err(format!("status {status} has no published error type")),
        };
        self.check_type(name, error)
    }

    /// Checks a value that leaves us against any published type by name, e.g. `files.FileMetadata`.
    ///
    /// # Errors
    /// Where it differs, or that there is no such type.
    pub fn check_type(&self, name: &str, value: &Value) -> Result<(), String> {
        let id = *self.names.get(name).ok_or_else(|| format!("no type '{name}'"))?;
        self.check(&Kind::Named(id), value, Way::Out).map_err(Problem::message)
    }

    /// Checks and completes a value that came in against a published type by name, e.g. `common.PathRoot`.
    ///
    /// # Errors
    /// As [`Schema::check_arg`].
    pub fn check_type_in(&self, name: &str, value: &mut Value) -> Result<(), String> {
        let kind = Kind::Named(*self.names.get(name).ok_or_else(|| format!("no type '{name}'"))?);
        self.check(&kind, value, Way::In).map_err(Problem::message)?;
        self.complete(&kind, value);
        Ok(())
    }

    fn check(&self, kind: &Kind, value: &Value, way: Way) -> Result<(), Problem> {
        match kind {
            Kind::Void if value.is_null() => Ok(()),
            Kind::Boolean if value.is_boolean() => Ok(()),
            Kind::Nullable(_) if value.is_null() => Ok(()),
            Kind::Nullable(kind) => self.check(kind, value, way),
            Kind::Integer { min, max } => check_integer(value, *min, *max),
            Kind::Float { min, max } => check_float(value, *min, *max),
            Kind::Text { min, max, pattern } => check_text(value, *min, *max, pattern.as_ref()),
            Kind::Time { format } => check_time(value, format),
            Kind::List { item, min, max } => {
                let items = value.as_array().ok_or_else(|| expected("list", value))?;
                if items.len() < *min {
                    return Err(Problem::new(format!("list has fewer than {min} items")));
                }
                if items.len() > *max {
                    return Err(Problem::new(format!("list has more than {max} items")));
                }
                for (i, value) in items.iter().enumerate() {
                    self.check(item, value, way).map_err(|problem| problem.under(&format!("[{i}]")))?;
                }
                Ok(())
            }
            Kind::Named(id) => match &self.types[*id] {
                Type::Union { variants } => self.check_union(variants, value, way),
                Type::Struct { fields, subtypes } if subtypes.is_empty() => {
                    let object = value.as_object().ok_or_else(|| expected("object", value))?;
                    self.check_fields(fields, object, way, &[])
                }
                Type::Struct { subtypes, .. } => {
                    let object = value.as_object().ok_or_else(|| expected("object", value))?;
                    let tag = tag_of(object)?;
                    let id = subtypes.get(tag).ok_or_else(|| Problem::new(format!("unknown subtype '{tag}'")))?;
                    self.check_fields(self.fields(*id), object, way, &[".tag"])
                }
            },
            Kind::Void => Err(expected("null", value)),
            Kind::Boolean => Err(expected("boolean", value)),
        }
    }

    fn fields(&self, id: TypeId) -> &[Field] {
        match &self.types[id] {
            Type::Struct { fields, .. } => fields,
            Type::Union { .. } => &[],
        }
    }

    /// `besides` are the keys that belong to the object around the fields.
    fn check_fields(
        &self,
        fields: &[Field],
        object: &Map<String, Value>,
        way: Way,
        besides: &[&str],
    ) -> Result<(), Problem> {
        for key in object.keys() {
            if !besides.contains(&key.as_str()) && !fields.iter().any(|field| field.name == *key) {
                return Err(Problem::new(format!("unknown field '{key}'")));
            }
        }
        for field in fields {
            match object.get(&field.name) {
                None if field.optional => {}
                None => return Err(Problem::new(format!("missing required field '{}'", field.name))),
                Some(Value::Null) if field.nullable && way == Way::In => {}
                Some(Value::Null) if field.nullable => {
                    return Err(Problem::new(format!("null field '{}' is to be left out", field.name)));
                }
                Some(value) => self.check(&field.kind, value, way).map_err(|problem| problem.under(&field.name))?,
            }
        }
        Ok(())
    }

    fn check_union(&self, variants: &[Variant], value: &Value, way: Way) -> Result<(), Problem> {
        let find = |tag: &str| {
            let variant = variants.iter().find(|variant| variant.tag == tag);
            variant.ok_or_else(|| Problem::new(format!("unknown tag '{tag}'")))
        };
        if let (Value::String(tag), Way::In) = (value, way) {
            let variant = find(tag)?;
            return match variant.kind {
                Some(_) if !variant.nullable => Err(Problem::new(format!("expected object for '{tag}', got symbol"))),
                _ => Ok(()),
            };
        }
        let object = value.as_object().ok_or_else(|| expected("string or object", value))?;
        let tag = tag_of(object)?;
        let variant = find(tag)?;
        match &variant.kind {
            None if way == Way::In && object.get(tag).is_some_and(Value::is_null) => {
                self.check_fields(&[], object, way, &[".tag", tag])
            }
            None => self.check_fields(&[], object, way, &[".tag"]),
            Some(_) if variant.nullable && object.len() == 1 => Ok(()),
            Some(Kind::Named(id)) if variant.flat => self.check_fields(self.fields(*id), object, way, &[".tag"]),
            Some(kind) => {
                self.check_fields(&[], object, way, &[".tag", tag])?;
                match object.get(tag) {
                    None => Err(Problem::new(format!("missing '{tag}' key"))),
                    Some(Value::Null) if variant.nullable && way == Way::In => Ok(()),
                    Some(inner) => self.check(kind, inner, way).map_err(|problem| problem.under(tag)),
                }
            }
        }
    }

    /// Brings a checked value into its long form.
    fn complete(&self, kind: &Kind, value: &mut Value) {
        match (kind, value) {
            (Kind::List { item, .. }, Value::Array(items)) => {
                for value in items {
                    self.complete(item, value);
                }
            }
            (Kind::Named(id), value) => match &self.types[*id] {
                Type::Union { variants } => self.complete_union(variants, value),
                Type::Struct { fields, subtypes } => {
                    let Some(object) = value.as_object_mut() else { return };
                    let tag = object.get(".tag").and_then(Value::as_str);
                    let subtype = tag.and_then(|tag| subtypes.get(tag));
                    self.complete_fields(subtype.map_or(fields, |id| self.fields(*id)), object);
                }
            },
            _ => {}
        }
    }

    fn complete_fields(&self, fields: &[Field], object: &mut Map<String, Value>) {
        for field in fields {
            match object.get_mut(&field.name) {
                Some(Value::Null) => {
                    object.remove(&field.name);
                }
                Some(value) => self.complete(&field.kind, value),
                None => {
                    if let Some(default) = &field.default {
                        object.insert(field.name.clone(), default.clone());
                    }
                }
            }
        }
    }

    fn complete_union(&self, variants: &[Variant], value: &mut Value) {
        if let Value::String(tag) = value {
            *value = serde_json::json!({ ".tag": tag });
        }
        let Some(object) = value.as_object_mut() else { return };
        let Some(tag) = object.get(".tag").and_then(Value::as_str).map(str::to_owned) else { return };
        if object.get(&tag).is_some_and(Value::is_null) {
            object.remove(&tag);
        }
        let Some(variant) = variants.iter().find(|variant| variant.tag == tag) else { return };
        match &variant.kind {
            Some(Kind::Named(id)) if variant.flat && object.len() > 1 => self.complete_fields(self.fields(*id), object),
            Some(kind) if !variant.flat => {
                if let Some(inner) = object.get_mut(&tag) {
                    self.complete(kind, inner);
                }
            }
            _ => {}
        }
    }
}

fn tag_of(object: &Map<String, Value>) -> Result<&str, Problem> {
    let tag = object.get(".tag").ok_or_else(|| Problem::new("missing '.tag' key"))?;
    tag.as_str().ok_or_else(|| expected("string", tag).under(".tag"))
}

fn expected(what: &str, got: &Value) -> Problem {
    let got = match got {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "float",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    };
    Problem::new(format!("expected {what}, got {got}"))
}

fn check_integer(value: &Value, min: i128, max: i128) -> Result<(), Problem> {
    let number = value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from));
    let number = number.ok_or_else(|| expected("integer", value))?;
    if number < min || number > max {
        return Err(Problem::new(format!("{number} is not within range [{min}, {max}]")));
    }
    Ok(())
}

fn check_float(value: &Value, min: f64, max: f64) -> Result<(), Problem> {
    let number = value.as_f64().ok_or_else(|| expected("float", value))?;
    if number < min || number > max {
        return Err(Problem::new(format!("{number} is not within range [{min}, {max}]")));
    }
    Ok(())
}

fn check_text(value: &Value, min: usize, max: usize, pattern: Option<&Pattern>) -> Result<(), Problem> {
    let text = value.as_str().ok_or_else(|| expected("string", value))?;
    let count = text.chars().count();
    if count < min {
        return Err(Problem::new(format!("'{text}' must be at least {min} characters, got {count}")));
    }
    if count > max {
        return Err(Problem::new(format!("'{text}' must be at most {max} characters, got {count}")));
    }
    match pattern {
        Some(pattern) if !pattern.regex.is_match(text) => {
            Err(Problem::new(format!("'{text}' did not match pattern '{}'", pattern.text)))
        }
        _ => Ok(()),
    }
}

/// Exactly the published form, and a time that exists: no fractions, no offsets, no 30th of February.
fn check_time(value: &Value, format: &str) -> Result<(), Problem> {
    let text = value.as_str().ok_or_else(|| expected("string", value))?;
    let (shape, exists) = if format == "%Y-%m-%d" {
        ("0000-00-00", text.parse::<jiff::civil::Date>().is_ok())
    } else {
        ("0000-00-00T00:00:00Z", text.parse::<jiff::Timestamp>().is_ok())
    };
    let alike = |(got, want): (u8, u8)| if want == b'0' { got.is_ascii_digit() } else { got == want };
    if text.len() != shape.len() || !text.bytes().zip(shape.bytes()).all(alike) || !exists {
        return Err(Problem::new(format!("time data '{text}' does not match format '{format}'")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn arg(route: &str, mut value: Value) -> Result<Value, String> {
        let route = Schema::get().route(route).expect("a published route");
        Schema::get().check_arg(route, &mut value).map(|()| value)
    }

    fn refusal(route: &str, value: Value) -> String {
        arg(route, value).expect_err("to be refused")
    }

    #[test]
    fn an_argument_is_completed_with_defaults_and_object_unions() {
        let got =
            arg("files/upload", json!({"path": "/a.txt", "mode": "overwrite", "client_modified": null})).expect("fits");
        let want = json!({"path": "/a.txt", "mode": {".tag": "overwrite"}, "autorename": false, "mute": false,
            "strict_conflict": false});
        assert_eq!(got, want);
        let nested = json!({"cursor": {"session_id": "s", "offset": 0}, "commit": {"path": "/a"}});
        let got = arg("files/upload_session/finish", nested).expect("fits");
        assert_eq!(got["commit"]["mode"], json!({".tag": "add"}));
        assert_eq!(arg("users/get_current_account", Value::Null), Ok(Value::Null));
    }

    #[test]
    fn a_wrong_argument_is_refused_in_the_words_of_the_service() {
        let cursor = json!({"cursor": {"offset": 1}});
        assert_eq!(refusal("files/upload_session/append_v2", cursor), "cursor: missing required field 'session_id'");
        assert_eq!(refusal("files/get_metadata", json!({"path": "/a", "foo": 1})), "unknown field 'foo'");
        let text = refusal("files/get_metadata", json!({"path": "a"}));
        assert!(text.starts_with("path: 'a' did not match pattern '(/(.|["), "{text}");
        assert_eq!(
            refusal("files/list_folder", json!({"path": "", "limit": 0})),
            "limit: 0 is not within range [1, 2000]"
        );
        assert_eq!(
            refusal("files/list_folder", json!({"path": "", "recursive": null})),
            "recursive: expected boolean, got null"
        );
        assert_eq!(refusal("files/list_folder", json!({"path": 1})), "path: expected string, got integer");
        assert_eq!(refusal("files/upload", json!({"path": "/a", "mode": "no"})), "mode: unknown tag 'no'");
        let symbol = "mode: expected object for 'update', got symbol";
        assert_eq!(refusal("files/upload", json!({"path": "/a", "mode": "update"})), symbol);
        let short = refusal("files/upload", json!({"path": "/a", "mode": {".tag": "update", "update": "1"}}));
        assert_eq!(short, "mode.update: '1' must be at least 9 characters, got 1");
        assert_eq!(refusal("users/get_current_account", json!({})), "expected null, got object");
        let entries = json!({"entries": [{"path": "/a"}, {"path": "/"}, {}]});
        assert_eq!(refusal("files/delete_batch", entries), "entries[2]: missing required field 'path'");
    }

    #[test]
    fn a_time_has_exactly_one_form() {
        let time = |text: &str| arg("files/upload", json!({"path": "/a", "client_modified": text}));
        assert!(time("2026-02-28T03:04:05Z").is_ok());
        for wrong in [
            "2026-02-30T03:04:05Z",
            "2026-02-28T03:04:05.0Z",
            "2026-02-28T03:04:05+00:00",
            "2026-02-28",
            "2026-2-28T03:04:05Z",
        ] {
            let text = time(wrong).expect_err(wrong);
            assert!(text.starts_with("client_modified: time data '"), "{text}");
        }
    }

    #[test]
    fn answers_are_held_to_the_published_shape() {
        let schema = Schema::get();
        let folder = json!({".tag": "folder", "name": "a", "id": "id:abcd"});
        let typed_with_the_subtype = schema.route("files/create_folder_v2").expect("published");
        assert_eq!(
            schema.check_result(typed_with_the_subtype, &json!({"metadata": folder})),
            Err("metadata: unknown field '.tag'".into())
        );
        let typed_with_the_base = schema.route("files/delete_v2").expect("published");
        assert_eq!(schema.check_result(typed_with_the_base, &json!({"metadata": folder})), Ok(()));
        let untagged = schema.check_result(typed_with_the_base, &json!({"metadata": {"name": "a", "id": "id:abcd"}}));
        assert_eq!(untagged, Err("metadata: missing '.tag' key".into()));
        let conflict = json!({".tag": "conflict", "conflict": {".tag": "file"}});
        let upload = schema.route("files/upload").expect("published");
        let flat = json!({".tag": "path", "reason": conflict, "upload_session_id": "s"});
        let nested = json!({".tag": "path", "path": conflict});
        assert_eq!(schema.check_error(upload, &flat), Ok(()));
        assert!(schema.check_error(upload, &nested).is_err());
        let finish = schema.route("files/upload_session/finish").expect("published");
        assert_eq!(schema.check_error(finish, &nested), Ok(()));
        assert!(schema.check_error(finish, &flat).is_err());
        let expired = json!({".tag": "expired_access_token"});
        assert_eq!(schema.check_common_error(401, &expired), Ok(()));
        let limit = json!({"reason": {".tag": "too_many_requests"}, "retry_after": 15});
        assert_eq!(schema.check_common_error(429, &limit), Ok(()));
        assert!(schema.check_common_error(429, &expired).is_err());
    }

    #[test]
    fn every_route_and_every_pattern_is_read() {
        let schema = Schema::get();
        assert_eq!(schema.routes().count(), 274);
        let append = schema.route("files/upload_session/append_v2").expect("published");
        assert_eq!(
            (append.label.as_str(), append.host, append.style),
            ("files/upload_session/append:2", Host::Content, Style::Upload)
        );
        assert_eq!(append.scope.as_deref(), Some("files.content.write"));
        assert!(schema.route("files/nothing").is_none());
    }
}
