//! Failures on demand: which calls go wrong, and how. `Script::plan` is asked once for each request, before its body is
//! read; what it answers is carried out by `serve`. Rules are counted by call, so a run with the same calls fails the same way.

use std::{fmt, sync::Mutex, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Canned, Cut, EntryPlan, Plan, hold};

/// The most rules held at once; one more is refused.
const RULES_MAX: usize = 1000;

/// One rule. As JSON: `{"route": "files/upload*", "nth": 2, "action": {"do": "cut_after"}}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The route as in the URL (`files/upload_session/append_v2`, `oauth2/token`); `*` stands for any run of characters.
    pub route: String,
    /// Only the call of this number, the first is 1. Counted from when the rule was added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nth: Option<u64>,
    /// Each call whose number is a multiple of this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<u64>,
    /// So many times at most, then the rule is spent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    pub action: Action,
}

impl Rule {
    /// Every call of `route`.
    pub fn always(route: &str, action: Action) -> Rule {
        Rule { route: route.to_owned(), nth: None, every: None, times: None, action }
    }

    /// The next call of `route`, once.
    pub fn once(route: &str, action: Action) -> Rule {
        Rule { times: Some(1), ..Rule::always(route, action) }
    }

    /// The next `times` calls of `route`.
    pub fn times(route: &str, times: u64, action: Action) -> Rule {
        Rule { times: Some(times), ..Rule::always(route, action) }
    }

    /// The call number `nth` of `route` from now.
    pub fn nth(route: &str, nth: u64, action: Action) -> Rule {
        Rule { nth: Some(nth), ..Rule::always(route, action) }
    }

    /// Each `every`th call of `route` from now.
    pub fn every(route: &str, every: u64, action: Action) -> Rule {
        Rule { every: Some(every), ..Rule::always(route, action) }
    }

    /// # Errors
    /// What makes the rule one that can never fire, or an answer that cannot be sent.
    fn check(&self) -> Result<(), InvalidRule> {
        let wrong = |text: &str| Err(InvalidRule(text.to_owned()));
        if self.route.is_empty() {
            return wrong("route: is empty, '*' matches every call");
        }
        if self.nth.is_some() && self.every.is_some() {
            return wrong("nth, every: only one of them may be given");
        }
        if [self.nth, self.every, self.times].contains(&Some(0)) {
            return wrong("nth, every, times: count from 1");
        }
        match &self.action {
            Action::Answer { status, headers, .. } => {
                let named = |name: &str, value: &str| {
                    http::HeaderName::try_from(name).is_ok() && http::HeaderValue::try_from(value).is_ok()
                };
                if !(200..600).contains(status) {
                    return wrong("status: is not in 200..599");
                }
                if !headers.iter().all(|(name, value)| named(name, value)) {
                    return wrong("headers: cannot be sent");
                }
            }
            Action::ServerError { status } | Action::Html { status } if !(400..600).contains(status) => {
                return wrong("status: is not in 400..599");
            }
            Action::Error { error, .. } if !error.is_object() => return wrong("error: is not an object"),
            Action::RefuseEntry { failure: thing, .. } | Action::AlterEntry { fields: thing, .. }
                if !thing.is_object() =>
            {
                return wrong("failure, fields: is not an object");
            }
            Action::Bandwidth { bytes_per_second: 0 } => return wrong("bytes_per_second: is 0, use stall"),
            _ => {}
        }
        Ok(())
    }
}

/// What goes wrong. The JSON form has `"do"` beside the fields: `{"do": "delay", "millis": 50}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// 429 as JSON, not executed. The wait goes into header and body alike, as Dropbox does; `null` leaves both out.
    TooManyRequests { retry_after: Option<u64> },
    /// 429 as text, which also means too many requests.
    TooManyRequestsText { retry_after: Option<u64> },
    /// 429 as JSON for lock contention: `Retry-After` as given and never a wait in the body.
    TooManyWriteOperations { retry_after: Option<u64> },
    /// 409 with this `error`; the summary is made from its tags.
    Error {
        error: Value,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user_message: Option<String>,
    },
    /// Any answer. `executed`: the call is carried out first and its real answer thrown away. `unread`: the request's body
    /// is not read, and the connection is closed behind the answer.
    Answer {
        status: u16,
        content_type: String,
        body: String,
        #[serde(default)]
        headers: Vec<(String, String)>,
        #[serde(default)]
        executed: bool,
        #[serde(default)]
        unread: bool,
    },
    /// One entry of a batch, counted from 0, is refused with this `failure`: nothing is done for it, all for the others.
    RefuseEntry { at: u64, failure: Value },
    /// One entry of a batch, counted from 0, that is a success is told with these fields changed.
    AlterEntry { at: u64, fields: Value },
    /// A 5xx with Dropbox's text body, not executed.
    ServerError { status: u16 },
    /// The page of a proxy on the way, not executed.
    Html { status: u16 },
    /// 401 `expired_access_token`, whatever the token's age.
    ExpiredToken,
    /// 401 `invalid_access_token`.
    InvalidToken,
    /// The request is read, not executed, and the connection closed.
    CutBefore,
    /// Executed, then the connection is closed without a byte of answer.
    CutAfter,
    /// The connection is closed after so many bytes of the request's body; not executed.
    CutRequest { after_bytes: u64 },
    /// The connection is closed after so many bytes of the answer's body.
    CutBody { after_bytes: u64 },
    /// One byte of the answer's body is another, length and headers as they were.
    CorruptBody { at: u64 },
    /// After so many bytes of the answer's body nothing more comes; the connection stays open.
    StallBody { after_bytes: u64 },
    /// The request is read and never answered; the connection stays open.
    Stall,
    /// Wait before anything else.
    Delay { millis: u64 },
    /// Wait between executing and answering.
    DelayAnswer { millis: u64 },
    /// Both bodies go no faster than this.
    Bandwidth { bytes_per_second: u64 },
}

/// Why a rule was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidRule(String);

/// The rules in force.
#[derive(Default)]
pub struct Script(Mutex<Vec<Armed>>);

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script").finish_non_exhaustive()
    }
}

#[derive(Debug, Clone)]
struct Armed {
    rule: Rule,
    seen: u64,
    fired: u64,
}

/// A rule and what has become of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Standing {
    #[serde(flatten)]
    pub rule: Rule,
    /// Calls the rule looked at.
    pub seen: u64,
    /// Calls it acted on.
    pub fired: u64,
}

impl Script {
    /// Adds rules behind those in force; all of them or none.
    ///
    /// # Errors
    /// The first rule that makes no sense, or that there are too many.
    pub fn add(&self, rules: impl IntoIterator<Item = Rule>) -> Result<(), InvalidRule> {
        let rules: Vec<Rule> = rules.into_iter().collect();
        for rule in &rules {
            rule.check()?;
        }
        let mut armed = hold(&self.0);
        if armed.len() + rules.len() > RULES_MAX {
            return Err(InvalidRule(format!("more than {RULES_MAX} rules, clear the script first")));
        }
        armed.extend(rules.into_iter().map(|rule| Armed { rule, seen: 0, fired: 0 }));
        Ok(())
    }

    pub fn clear(&self) {
        hold(&self.0).clear();
    }

    pub fn standing(&self) -> Vec<Standing> {
        let standing = |armed: &Armed| Standing { rule: armed.rule.clone(), seen: armed.seen, fired: armed.fired };
        hold(&self.0).iter().map(standing).collect()
    }

    /// What is to be done to the call of `route` that has just begun. Every matching rule counts it. Where two want the same
    /// thing done, the older rule has its way and the other one still counts as fired.
    pub(in crate::emulator) fn plan(&self, route: &str) -> Plan {
        let mut plan = Plan::default();
        for armed in hold(&self.0).iter_mut().filter(|armed| matches(&armed.rule.route, route)) {
            armed.seen += 1;
            let due = match (armed.rule.nth, armed.rule.every) {
                (Some(nth), _) => armed.seen == nth,
                (_, Some(every)) => armed.seen % every == 0,
                (None, None) => true,
            };
            if due && armed.rule.times.is_none_or(|times| armed.fired < times) {
                armed.fired += 1;
                apply(&armed.rule.action, &mut plan);
            }
        }
        plan
    }
}

fn apply(action: &Action, plan: &mut Plan) {
    match action {
        Action::Answer { status, content_type, body, headers, executed, unread } => {
            let mut answer = canned(*status, content_type, body.as_bytes().to_vec());
            answer.headers.extend(headers.iter().cloned());
            let place = match (executed, unread) {
                (true, _) => &mut plan.after,
                (_, true) => &mut plan.instead_unread,
                _ => &mut plan.instead,
            };
            place.get_or_insert(answer);
        }
        Action::CutBefore => _ = plan.cut.get_or_insert(Cut::BeforeApplying),
        Action::CutAfter => _ = plan.cut.get_or_insert(Cut::AfterApplying),
        Action::CutRequest { after_bytes } => _ = plan.cut.get_or_insert(Cut::Request { after_bytes: *after_bytes }),
        Action::Stall => _ = plan.cut.get_or_insert(Cut::NeverAnswer),
        Action::CutBody { after_bytes } => _ = plan.cut_body_at.get_or_insert(*after_bytes),
        Action::CorruptBody { at } => _ = plan.corrupt_at.get_or_insert(*at),
        Action::StallBody { after_bytes } => _ = plan.stall_body_at.get_or_insert(*after_bytes),
        Action::Delay { millis } => _ = plan.delay.get_or_insert(Duration::from_millis(*millis)),
        Action::DelayAnswer { millis } => _ = plan.delay_answer.get_or_insert(Duration::from_millis(*millis)),
        Action::Bandwidth { bytes_per_second } => _ = plan.bytes_per_second.get_or_insert(*bytes_per_second),
        Action::RefuseEntry { at, failure } => plan.entries.push((*at, EntryPlan::Refuse(failure.clone()))),
        Action::AlterEntry { at, fields } => plan.entries.push((*at, EntryPlan::Alter(fields.clone()))),
        refusal => _ = plan.instead.get_or_insert_with(|| instead(refusal)),
    }
}

/// The answers that stand for the call.
fn instead(action: &Action) -> Canned {
    let waiting = |mut answer: Canned, retry_after: &Option<u64>| {
        answer.headers.extend(retry_after.map(|seconds| ("Retry-After".to_owned(), seconds.to_string())));
        answer
    };
    match action {
        Action::TooManyRequests { retry_after } => {
            let mut error = json!({ "reason": { ".tag": "too_many_requests" } });
            if let Some(seconds) = retry_after {
                error["retry_after"] = json!(seconds);
            }
            waiting(refused(429, "too_many_requests/..", error, None), retry_after)
        }
        Action::TooManyRequestsText { retry_after } => {
            waiting(canned(429, "text/plain; charset=utf-8", b"too_many_requests".to_vec()), retry_after)
        }
        Action::TooManyWriteOperations { retry_after } => {
            let error = json!({ "reason": { ".tag": "too_many_write_operations" } });
            waiting(refused(429, "too_many_write_operations/..", error, None), retry_after)
        }
        Action::Error { error, user_message } => {
            refused(409, &format!("{}/..", summary(error)), error.clone(), user_message.as_deref())
        }
        Action::ExpiredToken => {
            refused(401, "expired_access_token/..", json!({ ".tag": "expired_access_token" }), None)
        }
        Action::InvalidToken => {
            refused(401, "invalid_access_token/..", json!({ ".tag": "invalid_access_token" }), None)
        }
        Action::Html { status } => {
            let page = "<html><head><title>Error</title></head><body><h1>Something went wrong</h1></body></html>\n";
            canned(*status, "text/html; charset=utf-8", page.as_bytes().to_vec())
        }
        Action::ServerError { status } => {
            canned(*status, "text/plain; charset=utf-8", format!("Error {status}: try again later").into_bytes())
        }
        other => unreachable!("{other:?} is no answer"),
    }
}

fn canned(status: u16, content_type: &str, body: Vec<u8>) -> Canned {
    Canned { status, headers: vec![("Content-Type".to_owned(), content_type.to_owned())], body }
}

fn refused(status: u16, summary: &str, error: Value, user_message: Option<&str>) -> Canned {
    let mut body = json!({ "error_summary": summary, "error": error });
    if let Some(text) = user_message {
        body["user_message"] = json!({ "locale": "en", "text": text });
    }
    canned(status, "application/json", body.to_string().into_bytes())
}

/// The tags of an error from the outside in, joined with `/`, as `error_summary` begins: `path/conflict/file`.
pub(in crate::emulator) fn summary(error: &Value) -> String {
    let mut tags = Vec::new();
    // `RateLimitError` is a struct: its tag is that of the reason.
    let mut next = if error.get(".tag").is_some() { Some(error) } else { error.get("reason") };
    while let Some(tag) = next.and_then(|error| error[".tag"].as_str()) {
        tags.push(tag);
        // `files/upload` keeps its inner error under `reason`, beside the tag.
        next = next.and_then(|error| error.get(tag).or_else(|| error.get("reason")));
    }
    tags.join("/")
}

/// `*` stands for any run of characters, the empty one too.
fn matches(pattern: &str, route: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == route,
        Some((head, rest)) => route.strip_prefix(head).is_some_and(|tail| {
            let starts = tail.char_indices().map(|(i, _)| i).chain([tail.len()]);
            starts.into_iter().any(|start| matches(rest, &tail[start..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(rules: Value) -> Script {
        let script = Script::default();
        script.add(serde_json::from_value::<Vec<Rule>>(rules).expect("rules")).expect("sound rules");
        script
    }

    #[test]
    fn a_rule_fires_on_the_calls_it_names() {
        let script = script(json!([
            {"route": "files/upload*", "nth": 2, "action": {"do": "cut_after"}},
            {"route": "*", "every": 3, "times": 1, "action": {"do": "delay", "millis": 5}},
        ]));
        let plans: Vec<Plan> = (0..6).map(|_| script.plan("files/upload_session/start")).collect();
        let cut = Plan { cut: Some(Cut::AfterApplying), ..Plan::default() };
        let late = Plan { delay: Some(Duration::from_millis(5)), ..Plan::default() };
        let none = Plan::default;
        assert_eq!(plans, [none(), cut, late, none(), none(), none()]);
        assert_eq!(script.plan("users/get_account"), none());
        let standing = script.standing();
        assert_eq!((standing[0].seen, standing[0].fired, standing[1].seen, standing[1].fired), (6, 1, 7, 1));
    }

    #[test]
    fn stars_stand_for_any_run() {
        for (pattern, route, expected) in [
            ("files/*_v2", "files/upload_session/append_v2", true),
            ("files/*_v2", "files/upload", false),
            ("*", "", true),
            ("*upload*finish*", "files/upload_session/finish_batch_v2", true),
            ("files/upload", "files/upload_session/start", false),
        ] {
            assert_eq!(matches(pattern, route), expected, "{pattern} {route}");
        }
    }

    #[test]
    fn refusals_have_dropboxes_bodies() {
        let error = json!({".tag": "path", "reason": {".tag": "conflict", "conflict": {".tag": "file"}}, "upload_session_id": "s"});
        let script = script(json!([
            {"route": "a", "action": {"do": "error", "error": error}},
            {"route": "b", "action": {"do": "too_many_requests", "retry_after": 7}},
            {"route": "c", "action": {"do": "too_many_requests", "retry_after": null}},
        ]));
        let answer = |route: &str| script.plan(route).instead.expect("an answer");
        let body = |route: &str| serde_json::from_slice::<Value>(&answer(route).body).expect("JSON");
        assert_eq!(body("a"), json!({"error_summary": "path/conflict/file/..", "error": error}));
        assert_eq!(body("b")["error"], json!({"reason": {".tag": "too_many_requests"}, "retry_after": 7}));
        assert!(answer("b").headers.contains(&("Retry-After".into(), "7".into())));
        assert!(!answer("c").headers.iter().any(|(name, _)| name == "Retry-After"));
    }

    #[test]
    fn a_rule_that_makes_no_sense_is_refused_and_none_of_its_batch_is_kept() {
        let script = Script::default();
        let rules = [Rule::once("*", Action::CutAfter), Rule::nth("*", 0, Action::CutAfter)];
        assert_eq!(script.add(rules).expect_err("refused").to_string(), "nth, every, times: count from 1");
        assert!(script.standing().is_empty());
        let unknown = json!({"route": "*", "action": {"do": "delay", "seconds": 5}});
        assert!(serde_json::from_value::<Rule>(unknown).is_err());
    }
}
