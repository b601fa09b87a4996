//! `CallApi`: any RPC-style route of Dropbox, behind every guard. Nothing of the caller's becomes part of a URL, and
//! arguments are never logged.

use serde_json::{Value, value::RawValue};

use super::{call::Call, door::Door, json};
use crate::{
    access::{Permission, Permissions},
    api::v1::{self as api, call_api_request::Arg, call_api_response::Result as Told},
    convert::path::Jail,
    dropbox::{Answer, Door as Way, Effect, RawRoute, routes},
    fault::{Fault, Reason, Result},
    limits::RAW_RESULT_BYTES_MAX,
};

/// The raw RPC.
#[derive(Clone)]
pub struct RawApi {
    pub door: Door,
}

/// Routes with a body of bytes, by the end of their names: they have RPCs of their own.
const STYLED: [&str; 2] = ["upload", "download"];

impl RawApi {
    pub async fn call_api(&self, call: Call, request: api::CallApiRequest) -> Result<api::CallApiResponse> {
        let path = request.route.strip_prefix("/2/").unwrap_or(&request.route);
        let arg = argument(&request)?;
        // The table alone decides which rights a listed route takes; an unlisted one takes all of them.
        let listed = routes::raw(path);
        if listed.is_none() {
            let site = self.door.open(&call, &request, Permissions::default()).await?;
            if !site.parameters().settings.policy.raw_allow.iter().any(|route| route == path) {
                return Err(denied(path));
            }
        }
        let effect = listed.as_ref().and_then(RawRoute::effect);
        let (path, arg, listed, asked) = (path, &arg, &listed, &request);
        self.door
            .enter(&call, &request, needed(listed.is_some(), effect), |site| async move {
                let settings = &site.parameters().settings;
                if !site.jail().is_open() {
                    return Err(Jail::refusal());
                }
                let allow = &settings.policy.raw_allow;
                let named = allow.iter().any(|route| route == path);
                let route = match listed.clone() {
                    Some(route) if allow.is_empty() || named => route,
                    None if named => RawRoute::unlisted(path).ok_or_else(|| denied(path))?,
                    _ => return Err(denied(path)),
                };
                if route.effect() != Some(Effect::Read) && !asked.allow_mutation {
                    let text = "this route changes something: set allow_mutation";
                    return Err(Fault::new(Reason::RawRouteDenied, text).fact("dropboxRoute", path).violation(
                        "allow_mutation",
                        "REQUIRED",
                        "must be true for routes that change anything",
                    ));
                }
                let answer: Answer<Box<RawValue>> = match route.door() {
                    Way::Read(route) => site.caller().call(&route, arg).await?,
                    Way::Commit(route) => {
                        let places = places(arg.get());
                        let places: Vec<&str> = places.iter().map(String::as_str).collect();
                        site.write_answer(&places, &route, arg).await?
                    }
                };
                told(asked, path, answer)
            })
            .await
    }
}

/// RAW, which the class of the RPC brings, and the class of the route.
fn needed(listed: bool, effect: Option<Effect>) -> Permissions {
    match (listed, effect) {
        (true, Some(Effect::Read)) => Permission::Read.into(),
        (true, Some(Effect::Write)) => Permission::Write.into(),
        (true, Some(Effect::Delete)) => Permission::Delete.into(),
        (true, Some(Effect::Share)) => Permission::Share.into(),
        (true, Some(Effect::Team)) => Permission::Team.into(),
        _ => Permission::Read | Permission::Write | Permission::Delete | Permission::Share | Permission::Team,
    }
}

fn denied(path: &str) -> Fault {
    let last = path.rsplit('/').next().unwrap_or_default();
    if STYLED.iter().any(|style| last.starts_with(style)) {
        let text = "routes that carry a file cannot be called raw";
        return Fault::new(Reason::RawRouteStyle, text).fact("dropboxRoute", path);
    }
    Fault::new(Reason::RawRouteDenied, "this route is not in the route table, or not in the parameter's raw_allow")
        .fact("dropboxRoute", path)
}

fn argument(request: &api::CallApiRequest) -> Result<Box<RawValue>> {
    let bad = |text: String| Fault::new(Reason::RawJson, text.clone()).violation("arg", "MALFORMED", text);
    let text = match &request.arg {
        None => "null".to_owned(),
        Some(Arg::ArgJson(text)) if text.len() > RAW_RESULT_BYTES_MAX => {
            return Err(bad(format!("arg_json has at most {RAW_RESULT_BYTES_MAX} bytes")));
        }
        Some(Arg::ArgJson(text)) => text.clone(),
        Some(Arg::ArgValue(value)) => json::text(value)?,
    };
    // Position only: the argument's text is the caller's and stays out of messages.
    RawValue::from_string(text)
        .map_err(|error| bad(format!("arg_json is no JSON: line {}, column {}", error.line(), error.column())))
}

/// Where the argument of a commit says that it changes something: it waits at the gates of those namespaces. Where it
/// does not say, or by an id, at the root's.
fn places(arg: &str) -> Vec<String> {
    const PATHS: [&str; 3] = ["path", "from_path", "to_path"];
    let arg: Value = serde_json::from_str(arg).unwrap_or_default();
    let entries = arg.get("entries").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let levels = [Some(&arg), arg.get("commit")].into_iter().flatten().chain(entries);
    let levels = levels.flat_map(|level| [Some(level), level.get("commit")]).flatten();
    let mut places: Vec<String> = levels
        .flat_map(|level| {
            let paths = PATHS.iter().filter_map(|key| level.get(key)?.as_str().map(str::to_owned));
            let folder = level.get("shared_folder_id").and_then(Value::as_str).map(|id| format!("ns:{id}"));
            paths.chain(folder)
        })
        .filter(|place| place.starts_with('/') || place.starts_with("ns:"))
        .collect();
    if places.is_empty() {
        places.push(String::new());
    }
    places.sort();
    places.dedup();
    places
}

fn told(asked: &api::CallApiRequest, path: &str, answer: Answer<Box<RawValue>>) -> Result<api::CallApiResponse> {
    let text = answer.value.get();
    let result = if asked.result_as_json { None } else { Some(json::value(text)?) };
    let bytes = result.as_ref().map_or(text.len(), prost::Message::encoded_len);
    if bytes > RAW_RESULT_BYTES_MAX {
        let text = format!("the result has {bytes} bytes, more than {RAW_RESULT_BYTES_MAX}");
        let fault = Fault::new(Reason::RawResponseTooLarge, text).fact("limitBytes", RAW_RESULT_BYTES_MAX);
        return Err(fault.fact("dropboxRoute", path).fact("bytes", bytes));
    }
    let result = result.map_or_else(|| Told::ResultJson(text.to_owned()), Told::ResultValue);
    Ok(api::CallApiResponse {
        dropbox_request_id: answer.request_id.unwrap_or_default(),
        route: path.to_owned(),
        result: Some(result),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unlisted_route_takes_every_right() {
        let all = needed(false, None);
        for permission in [Permission::Read, Permission::Write, Permission::Delete, Permission::Share, Permission::Team]
        {
            assert!(all.contains(permission));
        }
        assert!(!needed(true, Some(Effect::Read)).contains(Permission::Write));
    }

    #[test]
    fn a_commit_waits_where_its_argument_says() {
        for (arg, expected) in [
            (r#"{"path":"/a/b"}"#, &["/a/b"][..]),
            (r#"{"from_path":"/a","to_path":"ns:7/b","autorename":false}"#, &["/a", "ns:7/b"]),
            (r#"{"entries":[{"path":"/b"},{"path":"/a"},{"path":"/b"}]}"#, &["/a", "/b"]),
            (r#"{"entries":[{"cursor":{},"commit":{"path":"/c"}}]}"#, &["/c"]),
            (r#"{"shared_folder_id":"84528192421"}"#, &["ns:84528192421"]),
            (r#"{"path":"id:abc"}"#, &[""]),
            (r#"{"path":7,"entries":"x"}"#, &[""]),
            ("null", &[""]),
        ] {
            assert_eq!(places(arg), expected, "{arg}");
        }
    }

    #[test]
    fn a_bad_argument_is_told_without_its_text() {
        let request = |arg| api::CallApiRequest { arg, ..Default::default() };
        assert_eq!(argument(&request(None)).unwrap().get(), "null");
        let big = Arg::ArgJson("{\"n\":9007199254740993}".into());
        assert_eq!(argument(&request(Some(big))).unwrap().get(), "{\"n\":9007199254740993}");
        let fault = argument(&request(Some(Arg::ArgJson("{\"secret\":".into())))).unwrap_err();
        assert_eq!(fault.reason(), Reason::RawJson);
        assert!(!format!("{fault:?}").contains("secret"));
    }

    #[test]
    fn routes_with_files_are_refused_by_their_style() {
        assert_eq!(denied("files/upload").reason(), Reason::RawRouteStyle);
        assert_eq!(denied("auth/token/revoke").reason(), Reason::RawRouteDenied);
    }
}
