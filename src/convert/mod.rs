//! Proto ⇄ Dropbox types and field checks, a file per topic. Pure: no await, no clock, no I/O.
//! A request is checked whole: every wrong field is told at once, then nothing behind it checks again.

pub mod events;
pub mod items;
pub mod path;
pub mod sharing;
pub mod sync;
pub mod transfer;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::{
    api::v1 as api,
    convert::path::{Forms, ItemPath},
    fault::{Fault, Reason, Result, Violation},
    limits::{DROPBOX_FILE_BYTES_MAX, STRING_BYTES_MAX},
};

/// Gathers what is wrong with a request, so that a caller hears of all of it at once.
#[derive(Debug, Default)]
#[must_use = "the violations gathered are told by `accept`"]
pub struct Fields(Vec<(Reason, Violation)>);

impl Fields {
    pub fn new() -> Self {
        Self::default()
    }

    /// A wrong field. `reason` is UPPER_SNAKE_CASE.
    pub fn refuse(&mut self, field: impl Into<String>, reason: &'static str, text: impl Into<String>) {
        self.refuse_as(Reason::InvalidField, field, reason, text);
    }

    /// A wrong field that has a reason of its own among the error reasons.
    pub fn refuse_as(
        &mut self,
        told_as: Reason,
        field: impl Into<String>,
        reason: &'static str,
        text: impl Into<String>,
    ) {
        self.0.push((told_as, Violation { field: field.into(), reason, description: text.into() }));
    }

    pub fn check(&mut self, holds: bool, field: &str, reason: &'static str, text: impl Into<String>) {
        if !holds {
            self.refuse(field, reason, text);
        }
    }

    /// A string within the general bound of 4 KiB.
    pub fn text(&mut self, field: &str, text: &str) {
        self.check(text.len() <= STRING_BYTES_MAX, field, "TOO_LONG", format!("at most {STRING_BYTES_MAX} bytes"));
    }

    pub fn required(&mut self, field: &str, text: &str) {
        self.check(!text.is_empty(), field, "REQUIRED", "must be set");
        self.text(field, text);
    }

    /// The path in a field, in one of the forms its route takes. A refused one is the root until `accept`.
    pub fn path(&mut self, field: &str, text: &str, forms: Forms) -> ItemPath {
        self.taken(field, ItemPath::parse(text, forms))
    }

    /// The path of something about to be created: also its name must be one Dropbox takes.
    pub fn new_path(&mut self, field: &str, text: &str, forms: Forms) -> ItemPath {
        self.taken(field, ItemPath::parse_new(text, forms))
    }

    fn taken(&mut self, field: &str, parsed: Result<ItemPath, path::Refused>) -> ItemPath {
        parsed.unwrap_or_else(|refused| {
            self.refuse_as(refused.reason, field, refused.reason.name(), refused.text);
            ItemPath::root()
        })
    }

    /// A count or size that must not be negative.
    pub fn natural(&mut self, field: &str, value: i64) -> u64 {
        u64::try_from(value).unwrap_or_else(|_| {
            self.refuse(field, "NEGATIVE", "must not be negative");
            0
        })
    }

    /// Entries of a page: 0 is the default, more than the most is cut to it, negative is refused.
    pub fn page_size(&mut self, value: i32, default: u32, most: u32) -> u32 {
        match self.natural("page_size", i64::from(value)) {
            0 => default,
            asked => u32::try_from(asked).unwrap_or(most).min(most),
        }
    }

    /// A point in time.
    pub fn time(&mut self, field: &str, time: Option<&prost_types::Timestamp>) -> Option<SystemTime> {
        let time = time?;
        let parsed = from_timestamp(time);
        self.check(parsed.is_some(), field, "OUT_OF_RANGE", "must lie between the years 0001 and 9999");
        parsed
    }

    /// A Dropbox content hash, or nothing if the field is empty. Taken in either case, used lower case.
    pub fn content_hash(&mut self, field: &str, text: &str) -> Option<String> {
        if text.is_empty() {
            return None;
        }
        let well_formed = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
        self.check(well_formed, field, "MALFORMED", "a content hash is 64 hexadecimal digits");
        well_formed.then(|| text.to_ascii_lowercase())
    }

    /// The known value of an enum field; unknown numbers are refused.
    pub fn known<E: TryFrom<i32> + Default>(&mut self, field: &str, value: i32) -> E {
        E::try_from(value).unwrap_or_else(|_| {
            self.refuse(field, "UNKNOWN_VALUE", format!("{value} is no value of this enum"));
            E::default()
        })
    }

    /// The value, or one fault that names every wrong field.
    ///
    /// # Errors
    /// `INVALID_FIELD`, or the reason all violations share (`MALFORMED_PATH`, `DISALLOWED_NAME`, …).
    pub fn accept<T>(self, value: T) -> Result<T> {
        let Some((first, _)) = self.0.first() else { return Ok(value) };
        let shared = self.0.iter().all(|(reason, _)| reason == first);
        let reason = if shared { *first } else { Reason::InvalidField };
        let told: Vec<_> = self.0.iter().map(|(_, v)| format!("{}: {}", v.field, v.description)).collect();
        let mut fault = Fault::new(reason, told.join("; "));
        if reason == Reason::FileTooLarge {
            fault = fault.fact("limitBytes", DROPBOX_FILE_BYTES_MAX);
        }
        Err(self.0.into_iter().fold(fault, |fault, (_, v)| fault.violation(v.field, v.reason, v.description)))
    }
}

/// Seconds of the first and last moment a Timestamp may tell.
const TIMESTAMP_SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

pub fn timestamp(time: SystemTime) -> prost_types::Timestamp {
    prost_types::Timestamp::from(time)
}

/// A time as Dropbox writes it. What cannot be read is left out rather than guessed.
pub fn dropbox_timestamp(text: &str) -> Option<prost_types::Timestamp> {
    crate::clock::from_dropbox_time(text).map(timestamp)
}

pub fn from_timestamp(time: &prost_types::Timestamp) -> Option<SystemTime> {
    let nanos = u32::try_from(time.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    if !TIMESTAMP_SECONDS.contains(&time.seconds) {
        return None;
    }
    let whole = Duration::from_secs(time.seconds.unsigned_abs());
    let base = if time.seconds >= 0 { UNIX_EPOCH.checked_add(whole) } else { UNIX_EPOCH.checked_sub(whole) };
    base?.checked_add(Duration::from_nanos(u64::from(nanos)))
}

pub fn duration(span: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        nanos: span.subsec_nanos().cast_signed(),
    }
}

/// A span of time, if it is not negative and well formed.
pub fn from_duration(span: &prost_types::Duration) -> Option<Duration> {
    let nanos = u32::try_from(span.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(u64::try_from(span.seconds).ok()?, nanos))
}

/// A size for the wire. Dropbox's sizes stay far below 2^63.
pub fn size(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Whom a call acts as, by the request's context.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AskedActAs {
    User(String),
    Admin(String),
}

/// Where the paths of a call start, by the request's context.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AskedRoot {
    Home,
    Root(String),
    Namespace(String),
}

/// What a request's context asks for; both parts empty if it has none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedContext {
    pub act_as: Option<AskedActAs>,
    pub root: Option<AskedRoot>,
}

/// # Errors
/// `INVALID_FIELD` for empty members and ids that are no numbers.
pub fn context(context: Option<&api::RequestContext>) -> Result<AskedContext> {
    use api::request_context::{ActAs, PathRoot};
    let Some(context) = context else { return Ok(AskedContext::default()) };
    let mut fields = Fields::new();
    let act_as = context.act_as.as_ref().map(|act_as| match act_as {
        ActAs::SelectUser(member) => {
            fields.required("context.select_user", member);
            AskedActAs::User(member.clone())
        }
        ActAs::SelectAdmin(member) => {
            fields.required("context.select_admin", member);
            AskedActAs::Admin(member.clone())
        }
    });
    let root = match &context.path_root {
        None | Some(PathRoot::Home(false)) => None,
        Some(PathRoot::Home(true)) => Some(AskedRoot::Home),
        Some(PathRoot::RootNamespaceId(id)) => {
            namespace_id(&mut fields, "context.root_namespace_id", id);
            Some(AskedRoot::Root(id.clone()))
        }
        Some(PathRoot::NamespaceId(id)) => {
            namespace_id(&mut fields, "context.namespace_id", id);
            Some(AskedRoot::Namespace(id.clone()))
        }
    };
    fields.accept(AskedContext { act_as, root })
}

/// Dropbox's own pattern for namespace ids.
pub fn namespace_id(fields: &mut Fields, field: &str, id: &str) {
    let well_formed = (1..=40).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_digit());
    fields.check(well_formed, field, "MALFORMED", "a namespace id is decimal digits");
}

/// The id of an application parameter: `[a-z]([a-z0-9-]{0,61}[a-z0-9])?`.
pub fn is_parameter_id(text: &str) -> bool {
    let bytes = text.as_bytes();
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    bytes.len() <= 63
        && bytes.first().is_some_and(u8::is_ascii_lowercase)
        && bytes.last() != Some(&b'-')
        && bytes.iter().all(inner)
}

/// An id that makes a write idempotent, if one was sent: a UUID of version 4.
pub fn request_id(fields: &mut Fields, text: &str) -> Option<String> {
    if text.is_empty() {
        return None;
    }
    let parsed = uuid::Uuid::try_parse(text).ok().filter(|id| id.get_version_num() == 4 && text.len() == 36);
    fields.check(parsed.is_some(), "request_id", "MALFORMED", "a request id is a UUID of version 4");
    parsed.map(|id| id.to_string())
}

/// A failed part of a call that did not fail.
pub fn item_error(fault: &Fault, code: i32) -> api::ItemError {
    let mut message: String =
        fault.message().chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect();
    message.truncate(512);
    let remedy = fault.told_remedy().map(|remedy| ("remedy", remedy));
    api::ItemError {
        code,
        reason: fault.reason().name().to_owned(),
        message,
        facts: fault.told_facts().chain(remedy).map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        retry_delay: fault.retry_delay().map(duration),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_wrong_fields_are_told_at_once_under_their_shared_reason() {
        let mut fields = Fields::new();
        fields.path("from_path", "/a/../b", Forms::WRITE);
        fields.path("to_path", "/a/./b", Forms::WRITE);
        let fault = fields.accept(()).unwrap_err();
        assert_eq!(fault.reason(), Reason::MalformedPath);
        let named: Vec<_> = fault.violations().iter().map(|v| v.field.as_str()).collect();
        assert_eq!(named, ["from_path", "to_path"]);

        let mut fields = Fields::new();
        fields.path("path", "/a/..", Forms::WRITE);
        fields.page_size(-1, 10, 20);
        assert_eq!(fields.accept(()).unwrap_err().reason(), Reason::InvalidField);
    }

    #[test]
    fn page_sizes_are_defaulted_and_coerced() {
        let mut fields = Fields::new();
        assert_eq!(fields.page_size(0, 500, 2000), 500);
        assert_eq!(fields.page_size(7, 500, 2000), 7);
        assert_eq!(fields.page_size(i32::MAX, 500, 2000), 2000);
        fields.accept(()).unwrap();
    }

    #[test]
    fn times_outside_the_calendar_are_refused() {
        for (seconds, nanos) in [(253_402_300_800, 0), (-62_135_596_801, 0), (0, -1), (0, 1_000_000_000)] {
            assert_eq!(from_timestamp(&prost_types::Timestamp { seconds, nanos }), None);
        }
        let at = prost_types::Timestamp { seconds: -1, nanos: 500_000_000 };
        assert_eq!(from_timestamp(&at), Some(UNIX_EPOCH - Duration::from_millis(500)));
    }

    #[test]
    fn parameter_ids_follow_their_pattern() {
        for good in ["a", "my-dropbox", "a1", &"a".repeat(63)] {
            assert!(is_parameter_id(good), "{good}");
        }
        for bad in ["", "A", "1a", "a-", "-a", "a_b", &"a".repeat(64), "ä"] {
            assert!(!is_parameter_id(bad), "{bad}");
        }
    }

    #[test]
    fn only_version_four_uuids_are_request_ids() {
        let mut fields = Fields::new();
        assert_eq!(request_id(&mut fields, ""), None);
        let id = "3b241101-e2bb-4255-8caf-4136c566a962";
        assert_eq!(request_id(&mut fields, &id.to_uppercase()).as_deref(), Some(id));
        fields.accept(()).unwrap();
        for bad in ["1", "3b241101e2bb42558caf4136c566a962", "3b241101-e2bb-1255-8caf-4136c566a962"] {
            let mut fields = Fields::new();
            request_id(&mut fields, bad);
            assert!(fields.accept(()).is_err(), "{bad}");
        }
    }
}
