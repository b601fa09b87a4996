//! What was said of each key, by whom, and what of it cannot be used. A value that is bad is told with its source and gives
//! way to its default, so that one reading finds everything that is wrong. No value of a secret is ever shown.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use figment::{
    Figment,
    providers::{Format as _, Serialized, Toml},
};
use serde_json::{Map, Value};

use super::{Config, DEFAULTS, Overrides, Problem};

/// Every variable of the environment that is ours begins so.
pub(super) const VARIABLES: &str = "DROPBOX_CONNECTOR_";
/// From here on two names are thought to be meant for the same.
const LIKENESS_MIN: f64 = 0.6;

/// The last word on every key, over the defaults.
#[derive(Debug)]
pub(super) struct Layers {
    said: BTreeMap<String, Said>,
    defaults: Map<String, Value>,
}

/// A value of one key and where it was said.
#[derive(Debug, Clone)]
struct Said {
    value: Value,
    source: Source,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Default,
    File(PathBuf),
    Environment(String),
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("the default"),
            Source::File(file) => write!(f, "from {}", file.display()),
            Source::Environment(name) => write!(f, "from the environment, {name}"),
            Source::Flag(flag) => write!(f, "from {flag}"),
        }
    }
}

impl Layers {
    /// The defaults alone.
    pub fn new() -> Layers {
        let defaults = table(DEFAULTS).expect("the compiled-in defaults are TOML");
        let of_default = |value: &Value| Said { value: value.clone(), source: Source::Default };
        let said = defaults.iter().map(|(key, value)| (key.clone(), of_default(value))).collect();
        Layers { said, defaults }
    }

    pub fn add_file(&mut self, file: &Path, problems: &mut Vec<Problem>) {
        let origin = |text: String| Problem { key: "config".into(), origin: String::new(), text };
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) => return problems.push(origin(format!("cannot read {}: {error}", file.display()))),
        };
        // A parser's message quotes the line, and the line may hold a secret: its first words say what is wrong.
        let table = match table(&text) {
            Ok(table) => table,
            Err(error) => {
                let place = error.to_string();
                let place = place.lines().next().unwrap_or_default();
                return problems.push(origin(format!("{} is not TOML: {place}", file.display())));
            }
        };
        for (key, value) in table {
            let source = Source::File(file.to_owned());
            match self.said.get_mut(&key) {
                Some(known) => *known = Said { value, source },
                None => {
                    let text = format!("there is no such key{}", nearest(&key, self.said.keys().map(String::as_str)));
                    problems.push(Problem { origin: source.to_string(), key, text });
                }
            }
        }
    }

    pub fn add_overrides(&mut self, overrides: &Overrides, problems: &mut Vec<Problem>) {
        let Ok(Value::Object(overrides)) = serde_json::to_value(overrides) else { return };
        for (key, value) in overrides {
            let name = variable(&key);
            let of_environment = std::env::var(&name).is_ok_and(|text| value.as_str() == Some(&*text));
            let source = match of_environment {
                true => Source::Environment(name),
                false => Source::Flag(format!("--{}", key.replace('_', "-"))),
            };
            let given = Said { value: value.clone(), source };
            let typed = match (&value, self.defaults.get(&key).unwrap_or(&Value::Null)) {
                (Value::String(text), Value::Bool(_)) => boolish(text).map(Value::from).ok_or("must be true or false"),
                (Value::String(text), Value::Number(_)) => {
                    text.parse::<u64>().map(Value::from).map_err(|_| "must be a whole number")
                }
                (Value::String(text), Value::Array(_)) => list(&key, text),
                _ => Ok(value),
            };
            match typed {
                Ok(value) => drop(self.said.insert(key, Said { value, ..given })),
                Err(text) => {
                    let origin = given.shown(&key);
                    problems.push(Problem { key, origin, text: text.to_owned() });
                }
            }
        }
    }

    /// Nothing routes to an emulated server, so nobody has to hear that it is not ready before it refuses: without a word on
    /// `drain_delay` it does not wait.
    pub fn hasten_the_emulator(&mut self) {
        let emulated = self.said.get("emulator").is_some_and(|said| said.value == Value::Bool(true));
        if let Some(delay) = self.said.get_mut("drain_delay").filter(|said| emulated && said.source == Source::Default)
        {
            delay.value = "0s".into();
        }
    }

    /// The values as a `Config`. One that cannot be read is told and gives way to its default.
    pub fn extract(&mut self, problems: &mut Vec<Problem>) -> Config {
        loop {
            let values: Map<String, Value> =
                self.said.iter().map(|(key, said)| (key.clone(), said.value.clone())).collect();
            let error = match Figment::from(Serialized::defaults(values)).extract::<Config>() {
                Ok(config) => return config,
                Err(error) => error,
            };
            let key = error.path.first().cloned().unwrap_or_default();
            let bad = self.said.get_mut(&key).filter(|said| said.source != Source::Default);
            let bad = bad.expect("the compiled-in defaults are a configuration, so what is bad was said by somebody");
            problems.push(Problem { origin: bad.shown(&key), text: meaning(&key, &error), key: key.clone() });
            *bad = Said { value: self.defaults[&key].clone(), source: Source::Default };
        }
    }

    /// Something wrong with the value that holds.
    pub fn problem(&self, key: &str, text: &str) -> Problem {
        let origin = self.said.get(key).map(|said| said.shown(key)).unwrap_or_default();
        Problem { key: key.to_owned(), origin, text: text.to_owned() }
    }
}

fn table(text: &str) -> Result<Map<String, Value>, Box<figment::Error>> {
    Figment::from(Toml::string(text)).extract().map_err(Box::new)
}

/// What is wrong, without the value: that is told beside it, or not at all.
fn meaning(key: &str, error: &figment::Error) -> String {
    use figment::error::Kind;
    match &error.kind {
        Kind::InvalidType(_, wanted) | Kind::InvalidValue(_, wanted) => match wanted.as_str() {
            "usize" | "u64" | "u32" => "must be a whole number".into(),
            wanted => format!("must be {wanted}"),
        },
        Kind::UnknownVariant(_, wanted) => format!("must be one of {}", wanted.join(", ")),
        Kind::UnknownField(field, wanted) => format!("`{field}` is none of {}", wanted.join(", ")),
        // The message quotes the text, and a password may be in it.
        Kind::Message(_) if key.ends_with("_url") => "must be a URL, as in https://api.dropboxapi.com".into(),
        kind => kind.to_string(),
    }
}

impl Said {
    fn shown(&self, key: &str) -> String {
        format!("{}, {}", shown(key, &self.value), self.source)
    }
}

/// A value as it may be shown. What opens something stays out of terminals and logs.
fn shown(key: &str, value: &Value) -> String {
    if ["secret", "token", "password"].iter().any(|word| key.contains(word)) {
        return "value redacted".into();
    }
    let text = value.to_string();
    // A database's URL may have its password among the parameters.
    let text = match text.split_once('?') {
        Some((place, _)) if key.ends_with("_url") => format!("{place}?***\""),
        _ => text,
    };
    // The user and password of a URL.
    match (text.find("://"), text.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => format!("{}://***{}", &text[..scheme], &text[at..]),
        _ => text,
    }
}

fn variable(key: &str) -> String {
    format!("{VARIABLES}{}", key.to_uppercase())
}

/// `; did you mean …?`, if something known is like it.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let like = strsim::normalized_damerau_levenshtein;
    // The right words in another order are as near as can be.
    let likeness = |known: &str| like(name, known).max(like(&by_words(name), &by_words(known)));
    let best = known.map(|known| (likeness(known), known)).max_by(|one, other| one.0.total_cmp(&other.0));
    best.filter(|best| best.0 >= LIKENESS_MIN).map(|best| format!("; did you mean {}?", best.1)).unwrap_or_default()
}

fn by_words(name: &str) -> String {
    let mut words: Vec<&str> = name.split('_').collect();
    words.sort_unstable();
    words.join("_")
}

/// Variables of the environment that look like ours and are none: most are misspelt, and would be passed over in silence.
/// Kubernetes makes some for every Service by the name of `dropbox-connector…`; those are let be.
pub fn unknown_variables<'a>(set: impl Iterator<Item = (&'a str, &'a str)>, known: &[String]) -> Vec<Problem> {
    set.filter(|(name, _)| name.starts_with(VARIABLES) && !known.iter().any(|known| known == name))
        .filter(|(name, value)| !is_service(name, value))
        .map(|(name, _)| {
            let text = format!("there is no such variable{}", nearest(name, known.iter().map(String::as_str)));
            Problem { key: name.to_owned(), origin: "set in the environment".into(), text }
        })
        .collect()
}

/// `X_SERVICE_HOST`, `X_SERVICE_PORT[_NAME]`, `X_PORT`, `X_PORT_50051_TCP[_ADDR|_PORT|_PROTO]`.
fn is_service(name: &str, value: &str) -> bool {
    let behind_port = |rest: &str| {
        let mut parts = rest.split('_');
        parts.next().is_some_and(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
            && matches!(parts.next(), Some("TCP" | "UDP" | "SCTP"))
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || (name.ends_with("_PORT") && value.contains("://"))
        || name.contains("_SERVICE_PORT_")
        || name.split_once("_PORT_").is_some_and(|(_, rest)| behind_port(rest))
}

fn boolish(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" | "y" | "t" => Some(true),
        "false" | "no" | "off" | "0" | "n" | "f" => Some(false),
        _ => None,
    }
}

/// A comma-separated list; tokens are `PRINCIPAL:SHA256`.
fn list(key: &str, text: &str) -> Result<Value, &'static str> {
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    if key != "auth_tokens" {
        return Ok(entries.map(Value::from).collect());
    }
    entries
        .map(|entry| {
            let (principal, sha256) = entry.rsplit_once(':').ok_or("must be PRINCIPAL:SHA256, comma-separated")?;
            Ok(serde_json::json!({ "principal": principal, "sha256": sha256 }))
        })
        .collect()
}
