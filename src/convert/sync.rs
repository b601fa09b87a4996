//! What a caller asks of a plan, and what it says it has, checked. Steps are made of the engine's where both are known.

use crate::{
    api::v1 as api,
    convert::{
        Fields,
        items::rev,
        path::{Below, Forms, ItemPath},
    },
    fault::Result,
    limits::{PATH_BYTES_MAX, PLAN_ENTRIES_MAX},
};

/// `SyncRules`, checked; no value is unspecified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    pub path: ItemPath,
    pub recursive: bool,
    pub direction: api::SyncDirection,
    pub on_conflict: api::ConflictPolicy,
    pub on_missing: api::MissingPolicy,
    pub compare: api::SyncCompare,
    pub actions_only: bool,
}

/// A `LocalEntry`, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub below: Below,
    pub size: u64,
    pub hash: Option<[u8; 32]>,
    /// Unix seconds.
    pub modified: Option<i64>,
    /// Empty: it never was in sync.
    pub base_rev: String,
    pub base_hash: Option<[u8; 32]>,
    pub deleted: bool,
}

/// # Errors
/// `MALFORMED_PATH`, `INVALID_FIELD`.
pub fn rules(asked: &api::SyncRules) -> Result<Rules> {
    let mut fields = Fields::new();
    let path = fields.path("rules.path", &asked.path, Forms::PLAIN);
    let direction = match fields.known("rules.direction", asked.direction) {
        api::SyncDirection::Unspecified => api::SyncDirection::TwoWay,
        known => known,
    };
    let on_conflict = match fields.known("rules.on_conflict", asked.on_conflict) {
        api::ConflictPolicy::Unspecified => api::ConflictPolicy::Report,
        known => known,
    };
    let on_missing = match fields.known("rules.on_missing", asked.on_missing) {
        api::MissingPolicy::Unspecified => api::MissingPolicy::Report,
        known => known,
    };
    let compare = match fields.known("rules.compare", asked.compare) {
        api::SyncCompare::Unspecified => api::SyncCompare::Hash,
        known => known,
    };
    if let Some(filter) = &asked.filter {
        let timed = filter.modified_after.is_some() || filter.modified_before.is_some();
        let of_client = filter.time_field == api::TimeField::ClientModified as i32;
        let text = "files here have no time but client_modified: set TIME_FIELD_CLIENT_MODIFIED";
        fields.check(!timed || of_client, "filter.time_field", "REQUIRED", text);
    }
    let (recursive, actions_only) = (asked.recursive.unwrap_or(true), asked.actions_only);
    fields.accept(Rules { path, recursive, direction, on_conflict, on_missing, compare, actions_only })
}

/// # Errors
/// `MALFORMED_PATH`, `INVALID_FIELD`.
pub fn entries(sent: &api::LocalEntries, rules: &Rules) -> Result<Vec<Entry>> {
    let mut fields = Fields::new();
    let count = sent.entries.len();
    let text = format!("at most {PLAN_ENTRIES_MAX} in one message, and these are {count}");
    fields.check(count <= PLAN_ENTRIES_MAX, "entries.entries", "OUT_OF_RANGE", text);
    let sent = sent.entries.iter().take(PLAN_ENTRIES_MAX).enumerate();
    let entries = sent.map(|(at, sent)| entry(&mut fields, at, sent, rules)).collect();
    fields.accept(entries)
}

fn entry(fields: &mut Fields, at: usize, sent: &api::LocalEntry, rules: &Rules) -> Entry {
    // Made for what is wrong alone: most entries are right.
    let named = |name: &str| format!("entries.entries[{at}].{name}");
    // A separator between the folder and what is in it.
    let room = PATH_BYTES_MAX.saturating_sub(rules.path.as_str().len() + 1);
    let below = Below::parse(&sent.path, room).unwrap_or_else(|refused| {
        fields.refuse_as(refused.reason, named("path"), refused.reason.name(), refused.text);
        Below { path: "-".to_owned(), bad_names: Vec::new() }
    });
    if !rules.recursive && below.path.contains('/') {
        fields.refuse(named("path"), "OUT_OF_RANGE", "lies deeper than the folder's own files, and recursive is false");
    }
    let size = match u64::try_from(sent.size) {
        Ok(size) => size,
        Err(_) => fields.natural(&named("size"), sent.size),
    };
    let hash = hash(fields, || named("content_hash"), &sent.content_hash);
    let base_hash = self::hash(fields, || named("base_content_hash"), &sent.base_content_hash);
    let modified = sent.client_modified.as_ref();
    if modified.is_some_and(|time| super::from_timestamp(time).is_none()) {
        fields.time(&named("client_modified"), modified);
    }
    if !sent.base_rev.is_empty() && !is_rev(&sent.base_rev) {
        rev(fields, &named("base_rev"), &sent.base_rev);
    }
    let mut required = |holds: bool, name: &str, text: &str| {
        if !holds {
            fields.refuse(named(name), "REQUIRED", text);
        }
    };
    let based = !sent.base_rev.is_empty();
    match (sent.deleted, rules.compare) {
        (true, _) => required(based, "base_rev", "what is gone was there as some rev"),
        (false, api::SyncCompare::SizeAndTime) => {
            required(modified.is_some(), "client_modified", "with SYNC_COMPARE_SIZE_AND_TIME");
        }
        (false, _) => required(!sent.content_hash.is_empty(), "content_hash", "with SYNC_COMPARE_HASH"),
    }
    required(based || sent.base_content_hash.is_empty(), "base_rev", "together with base_content_hash");
    if sent.deleted && !(sent.content_hash.is_empty() && sent.size == 0) {
        fields.refuse(named("deleted"), "CONFLICT", "not together with size or content_hash");
    }
    let modified = modified.map(|time| time.seconds);
    Entry { below, size, hash, modified, base_rev: sent.base_rev.clone(), base_hash, deleted: sent.deleted }
}

fn hash(fields: &mut Fields, field: impl FnOnce() -> String, text: &str) -> Option<[u8; 32]> {
    if text.is_empty() {
        return None;
    }
    let mut bytes = [0; 32];
    match hex::decode_to_slice(text, &mut bytes) {
        Ok(()) => Some(bytes),
        Err(_) => {
            fields.content_hash(&field(), text);
            None
        }
    }
}

fn is_rev(text: &str) -> bool {
    let mut fields = Fields::new();
    rev(&mut fields, "", text);
    fields.accept(()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{Fault, Reason};

    const HASH: &str = "E3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn good() -> api::LocalEntry {
        api::LocalEntry { path: "/a\\b.txt".into(), size: 3, content_hash: HASH.into(), ..Default::default() }
    }

    fn checked(edit: impl Fn(&mut api::LocalEntry), asked: api::SyncRules) -> Result<Vec<Entry>> {
        let mut entry = good();
        edit(&mut entry);
        entries(&api::LocalEntries { entries: vec![entry] }, &rules(&asked).unwrap())
    }

    fn told(fault: &Fault) -> Vec<(&str, &str)> {
        fault.violations().iter().map(|it| (it.field.as_str(), it.reason)).collect()
    }

    #[test]
    fn rules_have_defaults_and_are_refused_together() {
        let plan = rules(&api::SyncRules { path: "In/".into(), ..Default::default() }).unwrap();
        assert_eq!((plan.path.as_str(), plan.recursive, plan.actions_only), ("/In", true, false));
        assert_eq!((plan.direction, plan.compare), (api::SyncDirection::TwoWay, api::SyncCompare::Hash));
        assert_eq!((plan.on_conflict, plan.on_missing), (api::ConflictPolicy::Report, api::MissingPolicy::Report));
        let filter = api::ItemFilter { modified_after: Some(Default::default()), ..Default::default() };
        let wrong = api::SyncRules {
            path: "id:abcd".into(),
            direction: 9,
            on_conflict: 9,
            on_missing: 9,
            compare: 9,
            filter: Some(filter),
            ..Default::default()
        };
        let fault = rules(&wrong).unwrap_err();
        assert_eq!(fault.reason(), Reason::InvalidField);
        let wanted = [
            ("rules.path", "MALFORMED_PATH"),
            ("rules.direction", "UNKNOWN_VALUE"),
            ("rules.on_conflict", "UNKNOWN_VALUE"),
            ("rules.on_missing", "UNKNOWN_VALUE"),
            ("rules.compare", "UNKNOWN_VALUE"),
            ("filter.time_field", "REQUIRED"),
        ];
        assert_eq!(told(&fault), wanted);
    }

    #[test]
    fn an_entry_is_taken_as_it_is_and_wrong_ones_are_told_by_their_field() {
        let entry = &checked(|_| {}, api::SyncRules::default()).unwrap()[0];
        assert_eq!((entry.below.path.as_str(), entry.size, entry.hash.is_some()), ("a/b.txt", 3, true));
        let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 999 });
        type Case = (&'static str, fn(&mut api::LocalEntry), &'static [(&'static str, &'static str)]);
        let cases: [Case; 10] = [
            ("above", |it| it.path = "a/../../b".into(), &[("path", "MALFORMED_PATH")]),
            ("size", |it| it.size = -1, &[("size", "NEGATIVE")]),
            ("hash", |it| it.content_hash.truncate(63), &[("content_hash", "MALFORMED")]),
            ("letters", |it| it.content_hash = "x".repeat(64), &[("content_hash", "MALFORMED")]),
            ("no hash", |it| it.content_hash.clear(), &[("content_hash", "REQUIRED")]),
            ("rev", |it| it.base_rev = "XYZ".into(), &[("base_rev", "MALFORMED")]),
            (
                "base hash",
                |it| it.base_content_hash = "1".into(),
                &[("base_content_hash", "MALFORMED"), ("base_rev", "REQUIRED")],
            ),
            ("base hash alone", |it| it.base_content_hash = HASH.into(), &[("base_rev", "REQUIRED")]),
            ("deleted", |it| it.deleted = true, &[("base_rev", "REQUIRED"), ("deleted", "CONFLICT")]),
            (
                "time",
                |it| it.client_modified = Some(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 }),
                &[("client_modified", "OUT_OF_RANGE")],
            ),
        ];
        for (what, edit, wanted) in cases {
            let fault = checked(edit, api::SyncRules::default()).unwrap_err();
            let wanted: Vec<_> = wanted.iter().map(|(f, r)| (format!("entries.entries[0].{f}"), *r)).collect();
            let wanted: Vec<_> = wanted.iter().map(|(field, reason)| (field.as_str(), *reason)).collect();
            assert_eq!(told(&fault), wanted, "{what}");
        }
        let by_time = || api::SyncRules { compare: api::SyncCompare::SizeAndTime.into(), ..Default::default() };
        assert!(checked(|it| it.content_hash.clear(), by_time()).is_err());
        let bare = |it: &mut api::LocalEntry| (it.content_hash, it.client_modified) = (String::new(), time(7));
        assert_eq!(checked(bare, by_time()).unwrap()[0].modified, Some(7));
        let flat = api::SyncRules { recursive: Some(false), ..Default::default() };
        assert_eq!(told(&checked(|_| {}, flat).unwrap_err()), [("entries.entries[0].path", "OUT_OF_RANGE")]);
        let many = api::LocalEntries { entries: vec![good(); 1001] };
        let fault = entries(&many, &rules(&api::SyncRules::default()).unwrap()).unwrap_err();
        assert_eq!(told(&fault), [("entries.entries", "OUT_OF_RANGE")]);
    }
}
