//! Watches: what a request for events asks.

use std::time::Duration;

use prost_types::Duration as Span;

use super::{
    Fields, from_duration,
    path::{Forms, ItemPath},
};
use crate::{
    api::v1 as api,
    fault::Result,
    limits::{
        CHECKPOINT_NAME_BYTES_MAX, HEARTBEAT_DEFAULT, HEARTBEAT_MAX, HEARTBEAT_MIN, POLL_INTERVAL_DEFAULT,
        POLL_INTERVAL_MAX, POLL_INTERVAL_MIN, PULL_EVENTS_DEFAULT, PULL_EVENTS_MAX, PULL_WAIT_MAX, SETTLE_MAX,
    },
};

/// Types a consumer may want.
const TYPES_MAX: usize = 8;

/// What a watch was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct WatchPlan {
    pub path: ItemPath,
    pub recursive: bool,
    pub start: AskedStart,
    pub terms: Terms,
    pub heartbeat: Duration,
    /// A path's event waits until the path has been quiet for so long; zero: it does not.
    pub settle: Duration,
    /// `None`: by longpoll.
    pub poll_interval: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AskedStart {
    Now,
    Snapshot,
    Checkpoint(String),
    /// Behind this resume token, sealed yet.
    Token(String),
}

/// What watches and pulls have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    pub types: Types,
    pub raw: bool,
    /// What a folder held that was moved or deleted is told one by one.
    pub expand_folders: bool,
    /// A cursor that Dropbox dropped ends it.
    pub fails_on_reset: bool,
}

/// What a pull was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct PullPlan {
    pub terms: Terms,
    pub events_max: usize,
    pub wait: Duration,
}

/// The types of changes that are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Types(u8);

impl Types {
    const ALL: Types = Types(u8::MAX);

    pub fn holds(self, event_type: api::EventType) -> bool {
        self.0 & bit(event_type) != 0
    }
}

fn bit(event_type: api::EventType) -> u8 {
    1 << (event_type as i32)
}

/// # Errors
/// `INVALID_FIELD`, `MALFORMED_PATH`.
pub fn watch_events(request: &api::WatchEventsRequest) -> Result<WatchPlan> {
    use api::watch_events_request::Start;
    let mut fields = Fields::new();
    let path = fields.path("path", &request.path, Forms::PLAIN);
    let terms =
        terms(&mut fields, &request.event_types, request.classification, request.expand_folders, request.on_reset);
    let position = match &request.start {
        Some(Start::StartPosition(position)) => fields.known("start_position", *position),
        _ => api::StartPosition::Now,
    };
    let named = !request.checkpoint_name.is_empty();
    let start = match (&request.start, position) {
        (Some(Start::ResumeToken(token)), _) => {
            fields.required("resume_token", token);
            AskedStart::Token(token.clone())
        }
        (_, api::StartPosition::Checkpoint) => {
            checkpoint_name(&mut fields, &request.checkpoint_name);
            AskedStart::Checkpoint(request.checkpoint_name.clone())
        }
        (_, api::StartPosition::Snapshot) => AskedStart::Snapshot,
        (_, api::StartPosition::Now | api::StartPosition::Unspecified) => AskedStart::Now,
    };
    if named && position != api::StartPosition::Checkpoint {
        fields.refuse("checkpoint_name", "NOT_POSSIBLE", "belongs to start_position START_POSITION_CHECKPOINT");
    }
    let heartbeat = span(
        &mut fields,
        "heartbeat_interval",
        request.heartbeat_interval.as_ref(),
        HEARTBEAT_DEFAULT,
        (HEARTBEAT_MIN, HEARTBEAT_MAX),
    );
    let settle = span(&mut fields, "settle", request.settle.as_ref(), Duration::ZERO, (Duration::ZERO, SETTLE_MAX));
    let interval = span(
        &mut fields,
        "poll_interval",
        request.poll_interval.as_ref(),
        POLL_INTERVAL_DEFAULT,
        (POLL_INTERVAL_MIN, POLL_INTERVAL_MAX),
    );
    let poll_interval = match fields.known("poll_mode", request.poll_mode) {
        api::PollMode::Interval => Some(interval),
        api::PollMode::Longpoll | api::PollMode::Unspecified => {
            let text = "belongs to poll_mode POLL_MODE_INTERVAL";
            fields.check(request.poll_interval.is_none(), "poll_interval", "NOT_POSSIBLE", text);
            None
        }
    };
    let recursive = request.recursive.unwrap_or(true);
    fields.accept(WatchPlan { path, recursive, start, terms, heartbeat, settle, poll_interval })
}

/// # Errors
/// `INVALID_FIELD`
pub fn pull_events(request: &api::PullEventsRequest) -> Result<PullPlan> {
    let mut fields = Fields::new();
    fields.required("resume_token", &request.resume_token);
    let terms =
        terms(&mut fields, &request.event_types, request.classification, request.expand_folders, request.on_reset);
    let events_max = match fields.natural("max_events", i64::from(request.max_events)) {
        0 => PULL_EVENTS_DEFAULT,
        asked => usize::try_from(asked).unwrap_or(PULL_EVENTS_MAX).min(PULL_EVENTS_MAX),
    };
    let wait = span(&mut fields, "wait", request.wait.as_ref(), Duration::ZERO, (Duration::ZERO, PULL_WAIT_MAX));
    fields.accept(PullPlan { terms, events_max, wait })
}

/// # Errors
/// `MALFORMED_PATH`
pub fn get_event_token(request: &api::GetEventTokenRequest) -> Result<(ItemPath, bool)> {
    let mut fields = Fields::new();
    let path = fields.path("path", &request.path, Forms::PLAIN);
    fields.accept((path, request.recursive.unwrap_or(true)))
}

/// The name, and the token to keep under it; `None` forgets it.
///
/// # Errors
/// `INVALID_FIELD`
pub fn acknowledge_events(request: &api::AcknowledgeEventsRequest) -> Result<(&str, Option<&str>)> {
    let mut fields = Fields::new();
    checkpoint_name(&mut fields, &request.checkpoint_name);
    fields.text("resume_token", &request.resume_token);
    let token = Some(request.resume_token.as_str()).filter(|token| !token.is_empty());
    fields.accept((request.checkpoint_name.as_str(), token))
}

fn checkpoint_name(fields: &mut Fields, name: &str) {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    let good = (1..=CHECKPOINT_NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(fits);
    let text = "1 to 64 of the characters a to z, 0 to 9, point, underscore and hyphen";
    fields.check(good, "checkpoint_name", "MALFORMED", text);
}

fn terms(fields: &mut Fields, types: &[i32], classification: i32, expand_folders: bool, on_reset: i32) -> Terms {
    fields.check(types.len() <= TYPES_MAX, "event_types", "OUT_OF_RANGE", format!("at most {TYPES_MAX}"));
    let mut wanted = if types.is_empty() { Types::ALL } else { Types(0) };
    let raw = fields.known::<api::Classification>("classification", classification) == api::Classification::Raw;
    for (index, value) in types.iter().take(TYPES_MAX).enumerate() {
        let field = format!("event_types[{index}]");
        match fields.known(&field, *value) {
            api::EventType::Unspecified => fields.refuse(field, "REQUIRED", "name a type"),
            known if known != api::EventType::Deleted && raw != (known == api::EventType::Upserted) => {
                fields.refuse(field, "NOT_POSSIBLE", never_told(known));
            }
            known => wanted.0 |= bit(known),
        }
    }
    let fails_on_reset = fields.known::<api::ResetPolicy>("on_reset", on_reset) == api::ResetPolicy::Fail;
    Terms { types: wanted, raw, expand_folders, fails_on_reset }
}

/// Whoever waits for a type that its classification does not have would wait for ever.
fn never_told(asked: api::EventType) -> String {
    let (with, instead) = match asked {
        api::EventType::Upserted => (
            "CLASSIFICATION_RAW",
            "EVENT_TYPE_CREATED, EVENT_TYPE_UPDATED, EVENT_TYPE_METADATA_CHANGED, EVENT_TYPE_DELETED or EVENT_TYPE_MOVED",
        ),
        _ => ("CLASSIFICATION_FULL", "EVENT_TYPE_UPSERTED or EVENT_TYPE_DELETED"),
    };
    format!("{} is told with {with} alone: ask for that classification, or name {instead}", asked.as_str_name())
}

fn span(
    fields: &mut Fields,
    field: &str,
    asked: Option<&Span>,
    default: Duration,
    (least, most): (Duration, Duration),
) -> Duration {
    let Some(asked) = asked else { return default };
    match from_duration(asked) {
        Some(span) if span >= least && span <= most => span,
        _ => {
            let text = format!("must be {} s to {} s", least.as_secs(), most.as_secs());
            fields.refuse(field, "OUT_OF_RANGE", text);
            default
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{Fault, Reason};

    fn refused(change: fn(&mut api::WatchEventsRequest)) -> Fault {
        let mut request = api::WatchEventsRequest::default();
        change(&mut request);
        watch_events(&request).expect_err("refused")
    }

    #[test]
    fn nothing_asked_is_a_watch_of_everything_from_now_on() {
        let plan = watch_events(&api::WatchEventsRequest::default()).unwrap();
        assert!(plan.path.is_root() && plan.recursive && plan.start == AskedStart::Now && !plan.terms.raw);
        assert_eq!((plan.heartbeat, plan.settle, plan.poll_interval), (HEARTBEAT_DEFAULT, Duration::ZERO, None));
        for kind in [api::EventType::Created, api::EventType::Moved, api::EventType::Upserted] {
            assert!(plan.terms.types.holds(kind));
        }
    }

    #[test]
    fn each_wrong_field_is_named_and_all_are_told_at_once() {
        use api::watch_events_request::Start;
        type Case = (fn(&mut api::WatchEventsRequest), &'static str);
        let cases: [Case; 9] = [
            (|asked| asked.path = "id:abc".into(), "path"),
            (|asked| asked.event_types = vec![0], "event_types[0]"),
            (|asked| asked.event_types = vec![99], "event_types[0]"),
            (|asked| asked.heartbeat_interval = Some(Span { seconds: 1, nanos: 0 }), "heartbeat_interval"),
            (|asked| asked.settle = Some(Span { seconds: 61, nanos: 0 }), "settle"),
            (|asked| asked.poll_interval = Some(Span { seconds: 9, nanos: 0 }), "poll_interval"),
            (|asked| asked.checkpoint_name = "a".into(), "checkpoint_name"),
            (|asked| asked.start = Some(Start::StartPosition(3)), "checkpoint_name"),
            (|asked| asked.start = Some(Start::ResumeToken(String::new())), "resume_token"),
        ];
        for (change, field) in cases {
            assert_eq!(refused(change).violations()[0].field, field);
        }
        let both = refused(|asked| {
            asked.classification = 7;
            asked.on_reset = 7;
        });
        assert_eq!(both.violations().len(), 2);
    }

    #[test]
    fn a_type_that_is_never_told_as_asked_is_refused_with_what_would_be() {
        use api::{Classification, EventType};
        let ask = |classification: Classification, types: &[EventType]| {
            let event_types: Vec<i32> = types.iter().map(|one| i32::from(*one)).collect();
            let classification = classification.into();
            let pull = api::PullEventsRequest {
                resume_token: "t".into(),
                event_types: event_types.clone(),
                classification,
                ..Default::default()
            };
            let watch = api::WatchEventsRequest { event_types, classification, ..Default::default() };
            let (watched, pulled) = (watch_events(&watch).err(), pull_events(&pull).err());
            assert_eq!(watched.is_some(), pulled.is_some());
            watched
        };
        for (classification, wrong, helps) in [
            (Classification::Full, EventType::Upserted, "CLASSIFICATION_RAW"),
            (Classification::Unspecified, EventType::Upserted, "EVENT_TYPE_MOVED"),
            (Classification::Raw, EventType::Created, "EVENT_TYPE_UPSERTED"),
            (Classification::Raw, EventType::Moved, "CLASSIFICATION_FULL"),
        ] {
            let fault = ask(classification, &[EventType::Deleted, wrong]).expect("refused");
            let [violation] = fault.violations() else { panic!("{fault:?}") };
            assert_eq!((fault.reason(), violation.field.as_str()), (Reason::InvalidField, "event_types[1]"));
            assert!(violation.description.starts_with(wrong.as_str_name()), "{}", violation.description);
            assert!(violation.description.contains(helps), "{}", violation.description);
        }
        assert!(ask(Classification::Raw, &[EventType::Deleted, EventType::Upserted]).is_none());
        let all = [1, 2, 3, 4, 5].map(|one| EventType::try_from(one).expect("a type"));
        assert!(ask(Classification::Full, &all).is_none());
    }

    #[test]
    fn a_pull_is_bounded_and_a_name_is_checked() {
        let pull = |max_events| api::PullEventsRequest { resume_token: "t".into(), max_events, ..Default::default() };
        assert_eq!(pull_events(&pull(0)).unwrap().events_max, PULL_EVENTS_DEFAULT);
        assert_eq!(pull_events(&pull(i32::MAX)).unwrap().events_max, PULL_EVENTS_MAX);
        assert!(pull_events(&pull(-1)).is_err() && pull_events(&api::PullEventsRequest::default()).is_err());
        let name = |name: &str| api::AcknowledgeEventsRequest { checkpoint_name: name.into(), ..Default::default() };
        assert_eq!(acknowledge_events(&name("mirror-1.eu_west")).unwrap(), ("mirror-1.eu_west", None));
        for wrong in ["", "Mirror", "a b", "ä", &"a".repeat(65)] {
            assert_eq!(
                acknowledge_events(&name(wrong)).unwrap_err().violations()[0].field,
                "checkpoint_name",
                "{wrong}"
            );
        }
    }
}
