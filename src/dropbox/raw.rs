//! Every RPC-style route of the api host with its effect, for `CallApi`. The table is data made once from the spec;
//! the effects are chosen by hand, since scope names do not tell them. `auth/*` and routes with content are not in it.

use std::{borrow::Cow, collections::HashMap, sync::LazyLock};

use super::route::{Auth, CommitRoute, Effect, Facts, Host, Repeat, Route, Style};

static TABLE: LazyLock<HashMap<&'static str, RawRoute>> = LazyLock::new(|| {
    let line = |line: &'static str| {
        let mut fields = line.split('\t');
        let mut field = || fields.next().expect("every row of the committed table has four fields");
        let path = field();
        let effect = match field() {
            "READ" => Effect::Read,
            "WRITE" => Effect::Write,
            "DELETE" => Effect::Delete,
            "SHARE" => Effect::Share,
            _ => Effect::Team,
        };
        let auth = if field() == "team" { Auth::Team } else { Auth::User };
        let deprecated = field() == "deprecated";
        (path, RawRoute { path: Cow::Borrowed(path), effect: Some(effect), auth, deprecated })
    };
    include_str!("raw_routes.tsv").lines().map(line).collect()
});

/// A route a caller may name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawRoute {
    path: Cow<'static, str>,
    /// `None`: not in the table, so it counts as every class.
    effect: Option<Effect>,
    auth: Auth,
    deprecated: bool,
}

/// Through which of the two doors a raw route goes.
#[derive(Debug, Clone)]
pub enum Door<A, R> {
    Read(Route<A, R>),
    /// Changes something: it waits for its turn at the write gate.
    Commit(CommitRoute<A, R>),
}

/// The route of exactly this name (`users/get_current_account`), if the table has it.
pub fn raw(path: &str) -> Option<RawRoute> {
    TABLE.get(path).cloned()
}

impl RawRoute {
    /// A route the table lacks and an administrator's list names. `None` for what can never be called raw: names that
    /// are not a route's, and the routes of tokens.
    pub fn unlisted(path: &str) -> Option<RawRoute> {
        let name = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        };
        let fit = path.len() <= 128 && path.contains('/') && path.split('/').all(name);
        if !fit || path.starts_with("auth/") || path.starts_with("oauth2/") {
            return None;
        }
        Some(RawRoute { path: Cow::Owned(path.to_owned()), effect: None, auth: Auth::User, deprecated: false })
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    /// `None` for an unlisted route: it counts as every class.
    pub fn effect(&self) -> Option<Effect> {
        self.effect
    }

    pub fn is_deprecated(&self) -> bool {
        self.deprecated
    }

    /// Wants a team's token.
    pub fn is_team(&self) -> bool {
        self.auth == Auth::Team
    }

    /// The route with the types the caller reads and writes JSON with. `Box<RawValue>` keeps numbers and order.
    pub fn door<A, R>(&self) -> Door<A, R> {
        let effect = self.effect.unwrap_or(Effect::Team);
        let reads = effect == Effect::Read;
        let facts = Facts {
            path: self.path.clone(),
            host: Host::Api,
            style: Style::Rpc,
            auth: self.auth,
            repeat: if reads { Repeat::Read } else { Repeat::Never },
            effect,
            raw: true,
        };
        if reads { Door::Read(Route::new(facts)) } else { Door::Commit(CommitRoute::new(facts)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn spec() -> Vec<Value> {
        let spec: Value = serde_json::from_str(include_str!("../emulator/routes.json")).expect("the spec is JSON");
        spec["routes"].as_array().expect("a list").clone()
    }

    #[test]
    fn the_table_has_every_rpc_route_of_the_api_host_and_nothing_else() {
        let mut expected: Vec<String> = spec()
            .iter()
            .filter(|route| route["style"] == "rpc" && route["host"] == "api.dropboxapi.com")
            .filter(|route| route["auth"] != serde_json::json!(["app"]))
            .map(|route| route["url_path"].as_str().expect("text").trim_start_matches("/2/").to_owned())
            .filter(|path| !path.starts_with("auth/"))
            .collect();
        let mut have: Vec<String> = TABLE.keys().map(|path| (*path).to_owned()).collect();
        expected.sort();
        have.sort();
        assert_eq!(have, expected);
    }

    #[test]
    fn deprecation_and_auth_are_the_spec_s() {
        for route in spec() {
            let path = route["url_path"].as_str().expect("text").trim_start_matches("/2/");
            if let Some(row) = raw(path) {
                assert_eq!(row.is_deprecated(), route["deprecated"] == true, "{path}");
                assert_eq!(row.is_team(), route["auth"] == serde_json::json!(["team"]), "{path}");
            }
        }
    }

    #[test]
    fn what_changes_something_goes_through_the_write_gate() {
        for (path, effect) in [
            ("users/get_current_account", Effect::Read),
            ("files/get_temporary_link", Effect::Read),
            ("files/copy_batch/check_v2", Effect::Read),
            ("files/create_folder_v2", Effect::Write),
            ("files/permanently_delete", Effect::Delete),
            ("sharing/add_folder_member", Effect::Share),
            ("team/members/remove", Effect::Team),
        ] {
            let row = raw(path).expect("in the table");
            assert_eq!(row.effect(), Some(effect), "{path}");
            assert_eq!(matches!(row.door::<Value, Value>(), Door::Read(_)), effect == Effect::Read, "{path}");
        }
    }

    #[test]
    fn nothing_but_a_route_name_becomes_part_of_a_url() {
        for path in
            ["", "files", "files/../x", "files/x?y", "auth/token/revoke", "oauth2/token", "/2/a/b", "A/b", "a//b"]
        {
            assert!(raw(path).is_none() && RawRoute::unlisted(path).is_none(), "{path}");
        }
        let unlisted = RawRoute::unlisted("files/brand_new_v3").expect("a route's name");
        assert_eq!(unlisted.effect(), None);
        assert!(matches!(unlisted.door::<Value, Value>(), Door::Commit(_)));
    }
}
