//! Application parameters as the proto tells them and as the store keeps them. Secrets go in and never come out.

use std::time::Duration;

use crate::{
    access::Permission,
    api::v1 as api,
    convert::{Fields, duration, from_duration, path::Forms, timestamp},
    credentials::{Outcome, Wish},
    fault::{Fault, Reason, Result},
    limits::{TIMEOUT_MAX, TIMEOUT_MIN},
    secret::Secret,
    store::{
        AccessType, AccountKind, ActAsMode, AppSource, Member, ParameterId, Parameters, PathRoot, Policy, ProxyKind,
        ProxySettings, SecretChange, SecretChanges, Secrets, Settings, State, Timeouts,
    },
};

const SCOPES_MAX: usize = 64;

/// What a resource asks for, checked for form; the store checks what its rows need.
///
/// # Errors
/// `INVALID_FIELD` with every violation; field names begin with `application_parameter.`.
pub fn settings(asked: &api::ApplicationParameter) -> Result<Settings> {
    let mut fields = Fields::new();
    let at = |field: &str| format!("application_parameter.{field}");
    let policy = asked.policy.clone().unwrap_or_default();
    let settings = Settings {
        display_name: asked.display_name.clone(),
        group: asked.group.clone(),
        labels: asked.labels.clone().into_iter().collect(),
        app_source: match fields.known(&at("app_source"), asked.app_source) {
            api::AppSource::SharedApp => AppSource::SharedApp,
            api::AppSource::OwnApp | api::AppSource::Unspecified => AppSource::OwnApp,
        },
        app_key: asked.app_key.clone(),
        account_kind: match fields.known(&at("account_kind"), asked.account_kind) {
            api::AccountKind::Team => AccountKind::Team,
            api::AccountKind::User | api::AccountKind::Unspecified => AccountKind::User,
        },
        access_type: match fields.known(&at("access_type"), asked.access_type) {
            api::AccessType::AppFolder => AccessType::AppFolder,
            api::AccessType::Full | api::AccessType::Unspecified => AccessType::Full,
        },
        scopes: asked.scopes.clone(),
        redirect_uris: asked.redirect_uris.clone(),
        path_prefix: fields.path(&at("path_prefix"), &asked.path_prefix, Forms::PLAIN).as_str().to_owned(),
        default_path_root: path_root(&mut fields, asked.default_path_root.as_ref()),
        default_act_as: member(&mut fields, asked.default_act_as.as_ref()),
        timeouts: timeouts(&mut fields, asked.timeouts.unwrap_or_default()).into(),
        proxy: proxy(&mut fields, asked.proxy.as_ref()).into(),
        policy: parameter_policy(&mut fields, policy).into(),
        disabled: fields.known::<api::ParameterState>(&at("state"), asked.state) == api::ParameterState::Disabled,
    };
    fields.accept(settings)
}

fn path_root(fields: &mut Fields, asked: Option<&api::PathRoot>) -> PathRoot {
    let Some(asked) = asked else { return PathRoot::Auto };
    let field = "application_parameter.default_path_root.namespace_id";
    let kind = fields.known("application_parameter.default_path_root.kind", asked.kind);
    if kind != api::PathRootKind::Namespace {
        fields.check(asked.namespace_id.is_empty(), field, "CONFLICT", "only together with kind NAMESPACE");
    }
    match kind {
        api::PathRootKind::Auto | api::PathRootKind::Unspecified => PathRoot::Auto,
        api::PathRootKind::Home => PathRoot::Home,
        api::PathRootKind::Namespace => {
            crate::convert::namespace_id(fields, field, &asked.namespace_id);
            PathRoot::Namespace { namespace_id: asked.namespace_id.clone() }
        }
    }
}

fn member(fields: &mut Fields, asked: Option<&api::ActAs>) -> Option<Member> {
    use api::act_as::Member as Asked;
    match asked?.member.as_ref() {
        Some(Asked::SelectUser(member)) => Some(Member::SelectUser(member.clone())),
        Some(Asked::SelectAdmin(member)) => Some(Member::SelectAdmin(member.clone())),
        None => {
            fields.refuse("application_parameter.default_act_as", "REQUIRED", "name a member");
            None
        }
    }
}

fn timeouts(fields: &mut Fields, asked: api::Timeouts) -> Timeouts {
    let mut span = |name: &str, asked: Option<prost_types::Duration>| -> Option<Duration> {
        let taken = from_duration(&asked?).filter(|span| (TIMEOUT_MIN..=TIMEOUT_MAX).contains(span));
        let field = format!("application_parameter.timeouts.{name}");
        fields.check(taken.is_some(), &field, "OUT_OF_RANGE", "100 ms to 15 minutes");
        taken
    };
    Timeouts {
        connect: span("connect", asked.connect),
        request: span("request", asked.request),
        idle_read: span("idle_read", asked.idle_read),
    }
}

fn proxy(fields: &mut Fields, asked: Option<&api::Proxy>) -> ProxySettings {
    let Some(asked) = asked else { return ProxySettings::default() };
    let port = u16::try_from(asked.port);
    fields.check(port.is_ok(), "application_parameter.proxy.port", "OUT_OF_RANGE", "1 to 65535");
    ProxySettings {
        proxy_kind: match fields.known("application_parameter.proxy.proxy_kind", asked.proxy_kind) {
            api::ProxyKind::None | api::ProxyKind::Unspecified => ProxyKind::None,
            api::ProxyKind::System => ProxyKind::System,
            api::ProxyKind::Http => ProxyKind::Http,
            api::ProxyKind::Https => ProxyKind::Https,
            api::ProxyKind::Socks4 => ProxyKind::Socks4,
            api::ProxyKind::Socks5 => ProxyKind::Socks5,
        },
        address: asked.address.clone(),
        port: port.unwrap_or_default(),
        domain: asked.domain.clone(),
        username: asked.username.clone(),
    }
}

fn proxy_of(proxy: &ProxySettings) -> api::Proxy {
    api::Proxy {
        proxy_kind: match proxy.proxy_kind {
            ProxyKind::None => api::ProxyKind::None,
            ProxyKind::System => api::ProxyKind::System,
            ProxyKind::Http => api::ProxyKind::Http,
            ProxyKind::Https => api::ProxyKind::Https,
            ProxyKind::Socks4 => api::ProxyKind::Socks4,
            ProxyKind::Socks5 => api::ProxyKind::Socks5,
        }
        .into(),
        address: proxy.address.clone(),
        port: proxy.port.into(),
        domain: proxy.domain.clone(),
        username: proxy.username.clone(),
        password: String::new(),
    }
}

fn parameter_policy(fields: &mut Fields, asked: api::ParameterPolicy) -> Policy {
    let at = |field: &str| format!("application_parameter.policy.{field}");
    let permissions = asked.permissions.iter().enumerate().filter_map(|(index, permission)| {
        let field = at(&format!("permissions[{index}]"));
        let known = permission_of(fields.known(&field, *permission));
        fields.check(known.is_some(), &field, "REQUIRED", "name a permission");
        known
    });
    let permissions = permissions.collect();
    let act_as = match fields.known(&at("act_as"), asked.act_as) {
        api::ActAsPolicy::None | api::ActAsPolicy::Unspecified => ActAsMode::None,
        api::ActAsPolicy::Listed => ActAsMode::Listed,
        api::ActAsPolicy::Any => ActAsMode::Any,
    };
    let listed = act_as == ActAsMode::Listed;
    let members = at("act_as_members");
    fields.check(listed != asked.act_as_members.is_empty(), &members, "CONFLICT", "set it with LISTED, and only then");
    Policy {
        allowed_principals: asked.allowed_principals,
        permissions,
        act_as,
        act_as_members: asked.act_as_members,
        allow_path_root: asked.allow_path_root,
        raw_allow: asked.raw_allow,
        max_file_size: fields.natural(&at("max_file_size"), asked.max_file_size),
        max_concurrency: u32::try_from(fields.natural(&at("max_concurrency"), asked.max_concurrency.into()))
            .unwrap_or(0),
        max_bytes_per_second: fields.natural(&at("max_bytes_per_second"), asked.max_bytes_per_second),
    }
}

fn permission_of(permission: api::Permission) -> Option<Permission> {
    Some(match permission {
        api::Permission::Unspecified => return None,
        api::Permission::Read => Permission::Read,
        api::Permission::Write => Permission::Write,
        api::Permission::Delete => Permission::Delete,
        api::Permission::Share => Permission::Share,
        api::Permission::Team => Permission::Team,
        api::Permission::Raw => Permission::Raw,
        api::Permission::Events => Permission::Events,
    })
}

/// The secrets of a resource: empty is none.
pub fn secrets(asked: &api::ApplicationParameter) -> Secrets {
    let secret = |text: &str| (!text.is_empty()).then(|| Secret::from(text.to_owned()));
    Secrets {
        app_secret: secret(&asked.app_secret),
        proxy_password: asked.proxy.as_ref().and_then(|proxy| secret(&proxy.password)),
    }
}

/// How an authorization is to go.
///
/// # Errors
/// `INVALID_FIELD`.
pub fn wish(asked: api::BeginAuthorizationRequest) -> Result<Wish> {
    let mut fields = Fields::new();
    fields.text("redirect_uri", &asked.redirect_uri);
    fields.check(asked.scopes.len() <= SCOPES_MAX, "scopes", "OUT_OF_RANGE", "at most 64");
    for (index, scope) in asked.scopes.iter().enumerate() {
        // What OAuth lets a scope be made of, spaces excluded: they part scopes.
        let good = !scope.is_empty() && scope.len() <= 256 && scope.bytes().all(|c| c.is_ascii_graphic());
        fields.check(good, &format!("scopes[{index}]"), "MALFORMED", "a scope as in files.content.read");
    }
    let locale = &asked.locale;
    let good = locale.len() <= 35 && locale.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_');
    fields.check(good, "locale", "MALFORMED", "a language tag as in de or pt_BR");
    let account_kind = match fields.known("account_kind", asked.account_kind) {
        api::AccountKind::Unspecified => None,
        api::AccountKind::User => Some(AccountKind::User),
        api::AccountKind::Team => Some(AccountKind::Team),
    };
    fields.accept(Wish {
        redirect_uri: (!asked.redirect_uri.is_empty()).then_some(asked.redirect_uri),
        scopes: asked.scopes,
        account_kind,
        force_reapprove: asked.force_reapprove,
        locale: asked.locale,
        allow_account_change: asked.allow_account_change,
    })
}

/// What came of an authorization, and its state.
///
/// # Errors
/// `INVALID_FIELD`; no message repeats a code or state.
pub fn outcome(asked: api::CompleteAuthorizationRequest) -> Result<(String, Outcome)> {
    use api::complete_authorization_request::Answer;
    let mut fields = Fields::new();
    fields.required("state", &asked.state);
    match asked.answer {
        Some(Answer::Code(code)) => {
            fields.required("code", &code);
            fields.accept((asked.state, Outcome::Code(code.into())))
        }
        Some(Answer::RedirectUrl(url)) => {
            fields.required("redirect_url", &url);
            fields.accept(())?;
            let query = url.split('#').next().and_then(|url| url.split_once('?')).map_or("", |(_, query)| query);
            let (state, outcome) = Outcome::of_query(query, "redirect_url")?;
            if state != asked.state {
                let text = "its state is not the one in the field: it belongs to another authorization";
                return Err(Fault::field("redirect_url", "CONFLICT", text));
            }
            Ok((state, outcome))
        }
        None => {
            fields.refuse("answer", "REQUIRED", "set code or redirect_url");
            fields.accept((asked.state, Outcome::Refused(String::new())))
        }
    }
}

/// The fields an Update names.
#[derive(Debug)]
pub struct Mask(Vec<String>);

impl Mask {
    /// # Errors
    /// `INVALID_FIELD` for an empty mask, for unknown fields and those the server alone sets.
    pub fn new(mask: Option<&prost_types::FieldMask>) -> Result<Self> {
        let mut fields = Fields::new();
        let paths = mask.map(|mask| mask.paths.clone()).unwrap_or_default();
        fields.check(!paths.is_empty(), "update_mask", "REQUIRED", "name the fields to change");
        for path in &paths {
            match path.as_str() {
                "app_secret" | "proxy.password" | "state" => {}
                "application_parameter_id"
                | "granted_scopes"
                | "account"
                | "create_time"
                | "update_time"
                | "refresh_time"
                | "etag" => {
                    fields.refuse("update_mask", "OUTPUT_ONLY", format!("{path} is set by the server alone"));
                }
                path => {
                    let known = copy(path, &mut Settings::default(), &Settings::default());
                    fields.check(
                        known,
                        "update_mask",
                        "UNKNOWN_FIELD",
                        format!("{path} is no field of an application parameter"),
                    );
                }
            }
        }
        fields.accept(Mask(paths))
    }

    fn names(&self, field: &str) -> bool {
        self.0.iter().any(|path| path == field)
    }

    /// What the update does with the secrets.
    pub fn secrets(&self, asked: &api::ApplicationParameter) -> SecretChanges {
        let Secrets { app_secret, proxy_password } = secrets(asked);
        let change = |named, secret| if named { SecretChange::Set(secret) } else { SecretChange::Keep };
        SecretChanges {
            app_secret: change(self.names("app_secret"), app_secret),
            proxy_password: change(self.names("proxy") || self.names("proxy.password"), proxy_password),
        }
    }

    /// Puts what is named into `settings`.
    ///
    /// # Errors
    /// `INVALID_FIELD` for a state that is not the administrator's to set.
    pub fn apply(&self, asked: &api::ApplicationParameter, new: &Settings, settings: &mut Settings) -> Result<()> {
        for path in &self.0 {
            copy(path, settings, new);
        }
        if self.names("state") {
            settings.disabled = match api::ParameterState::try_from(asked.state) {
                Ok(api::ParameterState::Disabled) => true,
                Ok(api::ParameterState::Active) => false,
                _ => {
                    let text = "may be set to DISABLED, and back to ACTIVE";
                    return Err(Fault::field("application_parameter.state", "NOT_ALLOWED", text));
                }
            };
        }
        Ok(())
    }
}

/// Copies the field a mask's path names; false if there is none of this name.
fn copy(path: &str, to: &mut Settings, from: &Settings) -> bool {
    macro_rules! fields {
        ($($name:literal => $($field:ident).+;)*) => {
            match path {
                $($name => to.$($field).+ = from.$($field).+.clone(),)*
                _ => return false,
            }
        };
    }
    fields! {
        "display_name" => display_name;
        "group" => group;
        "labels" => labels;
        "app_source" => app_source;
        "app_key" => app_key;
        "account_kind" => account_kind;
        "access_type" => access_type;
        "scopes" => scopes;
        "redirect_uris" => redirect_uris;
        "path_prefix" => path_prefix;
        "default_path_root" => default_path_root;
        "default_act_as" => default_act_as;
        "timeouts" => timeouts;
        "timeouts.connect" => timeouts.connect;
        "timeouts.request" => timeouts.request;
        "timeouts.idle_read" => timeouts.idle_read;
        "proxy" => proxy;
        "proxy.proxy_kind" => proxy.proxy_kind;
        "proxy.address" => proxy.address;
        "proxy.port" => proxy.port;
        "proxy.domain" => proxy.domain;
        "proxy.username" => proxy.username;
        "policy" => policy;
        "policy.allowed_principals" => policy.allowed_principals;
        "policy.permissions" => policy.permissions;
        "policy.act_as" => policy.act_as;
        "policy.act_as_members" => policy.act_as_members;
        "policy.allow_path_root" => policy.allow_path_root;
        "policy.raw_allow" => policy.raw_allow;
        "policy.max_file_size" => policy.max_file_size;
        "policy.max_concurrency" => policy.max_concurrency;
        "policy.max_bytes_per_second" => policy.max_bytes_per_second;
    }
    true
}

/// # Errors
/// `ETAG_MISMATCH` for what was never an etag of ours.
pub fn etag(id: &ParameterId, text: &str) -> Result<Option<i64>> {
    if text.is_empty() {
        return Ok(None);
    }
    let parsed = text.parse().map(Some);
    parsed.map_err(|_| {
        let text = "the application parameter has another etag";
        Fault::new(Reason::EtagMismatch, text).parameter(id.as_str())
    })
}

/// As administrators see it.
pub fn resource(parameters: &Parameters) -> api::ApplicationParameter {
    let settings = parameters.settings.clone();
    api::ApplicationParameter {
        application_parameter_id: parameters.id.as_str().to_owned(),
        display_name: settings.display_name,
        group: settings.group,
        labels: settings.labels.into_iter().collect(),
        app_source: match settings.app_source {
            AppSource::SharedApp => api::AppSource::SharedApp,
            AppSource::OwnApp => api::AppSource::OwnApp,
        }
        .into(),
        app_key: settings.app_key,
        app_secret: String::new(),
        account_kind: match settings.account_kind {
            AccountKind::User => api::AccountKind::User,
            AccountKind::Team => api::AccountKind::Team,
        }
        .into(),
        access_type: match settings.access_type {
            AccessType::Full => api::AccessType::Full,
            AccessType::AppFolder => api::AccessType::AppFolder,
        }
        .into(),
        scopes: settings.scopes,
        redirect_uris: settings.redirect_uris,
        path_prefix: settings.path_prefix,
        default_path_root: Some(match settings.default_path_root {
            PathRoot::Auto => api::PathRoot { kind: api::PathRootKind::Auto.into(), ..Default::default() },
            PathRoot::Home => api::PathRoot { kind: api::PathRootKind::Home.into(), ..Default::default() },
            PathRoot::Namespace { namespace_id } => {
                api::PathRoot { kind: api::PathRootKind::Namespace.into(), namespace_id }
            }
        }),
        default_act_as: settings.default_act_as.map(|member| api::ActAs {
            member: Some(match member {
                Member::SelectUser(member) => api::act_as::Member::SelectUser(member),
                Member::SelectAdmin(member) => api::act_as::Member::SelectAdmin(member),
            }),
        }),
        timeouts: Some(api::Timeouts {
            connect: settings.timeouts.connect.map(duration),
            request: settings.timeouts.request.map(duration),
            idle_read: settings.timeouts.idle_read.map(duration),
        }),
        proxy: Some(proxy_of(&settings.proxy)),
        policy: Some(policy_of(&settings.policy)),
        state: match parameters.state() {
            State::Pending => api::ParameterState::Pending,
            State::Active => api::ParameterState::Active,
            State::ReauthorizationRequired => api::ParameterState::ReauthorizationRequired,
            State::Disabled => api::ParameterState::Disabled,
        }
        .into(),
        granted_scopes: parameters.granted_scopes.clone(),
        account: parameters.account.as_ref().map(summary),
        create_time: Some(timestamp(parameters.created_at)),
        update_time: Some(timestamp(parameters.updated_at)),
        refresh_time: None,
        etag: parameters.etag.to_string(),
    }
}

fn policy_of(policy: &Policy) -> api::ParameterPolicy {
    let permission = |permission: &Permission| match permission {
        Permission::Read => api::Permission::Read,
        Permission::Write => api::Permission::Write,
        Permission::Delete => api::Permission::Delete,
        Permission::Share => api::Permission::Share,
        Permission::Events => api::Permission::Events,
        Permission::Team => api::Permission::Team,
        Permission::Raw => api::Permission::Raw,
    };
    api::ParameterPolicy {
        allowed_principals: policy.allowed_principals.clone(),
        permissions: policy.permissions.iter().map(permission).map(Into::into).collect(),
        act_as: match policy.act_as {
            ActAsMode::None => api::ActAsPolicy::None,
            ActAsMode::Listed => api::ActAsPolicy::Listed,
            ActAsMode::Any => api::ActAsPolicy::Any,
        }
        .into(),
        act_as_members: policy.act_as_members.clone(),
        allow_path_root: policy.allow_path_root,
        raw_allow: policy.raw_allow.clone(),
        max_file_size: crate::convert::size(policy.max_file_size),
        max_concurrency: i32::try_from(policy.max_concurrency).unwrap_or(i32::MAX),
        max_bytes_per_second: crate::convert::size(policy.max_bytes_per_second),
    }
}

pub fn summary(account: &crate::store::Account) -> api::AccountSummary {
    api::AccountSummary {
        account_id: account.account_id.clone(),
        display_name: account.display_name.clone(),
        email: account.email.clone(),
        team_id: account.team_id.clone(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(paths: &[&str]) -> Result<Mask> {
        Mask::new(Some(&prost_types::FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() }))
    }

    #[test]
    fn only_what_the_mask_names_changes() {
        let asked = api::ApplicationParameter {
            display_name: "new".into(),
            group: "new".into(),
            state: api::ParameterState::Disabled.into(),
            ..Default::default()
        };
        let new = settings(&asked).unwrap();
        let old = || Settings { display_name: "old".into(), group: "old".into(), ..Settings::default() };
        let mut changed = old();
        mask(&["display_name", "policy.permissions"]).unwrap().apply(&asked, &new, &mut changed).unwrap();
        assert_eq!((changed.display_name.as_str(), changed.group.as_str(), changed.disabled), ("new", "old", false));
        mask(&["state"]).unwrap().apply(&asked, &new, &mut changed).unwrap();
        assert!(changed.disabled);
        let kept = mask(&["group", "proxy.address"]).unwrap().secrets(&asked);
        assert!(matches!((kept.app_secret, kept.proxy_password), (SecretChange::Keep, SecretChange::Keep)));
        let removed = mask(&["app_secret", "proxy.password"]).unwrap().secrets(&asked);
        assert!(matches!(
            (removed.app_secret, removed.proxy_password),
            (SecretChange::Set(None), SecretChange::Set(None))
        ));
        let replaced = mask(&["proxy"]).unwrap().secrets(&asked);
        assert!(matches!(
            (replaced.app_secret, replaced.proxy_password),
            (SecretChange::Keep, SecretChange::Set(None))
        ));
    }

    #[test]
    fn a_mask_names_fields_that_are_there_and_may_be_set() {
        for bad in [&[][..], &["etag"], &["nonsense"], &["policy.nonsense"], &["account"]] {
            assert_eq!(mask(bad).unwrap_err().violations()[0].field, "update_mask", "{bad:?}");
        }
    }

    #[test]
    fn mistakes_are_told_together_with_their_place() {
        let asked = api::ApplicationParameter {
            path_prefix: "/a/../b".into(),
            timeouts: Some(api::Timeouts {
                connect: Some(prost_types::Duration { seconds: 901, nanos: 0 }),
                ..Default::default()
            }),
            policy: Some(api::ParameterPolicy { permissions: vec![0], max_file_size: -1, ..Default::default() }),
            default_path_root: Some(api::PathRoot { kind: 3, namespace_id: "x".into() }),
            ..Default::default()
        };
        let fault = settings(&asked).unwrap_err();
        assert_eq!(fault.reason(), Reason::InvalidField);
        assert_eq!(fault.violations().len(), 5, "{fault:?}");
        assert!(fault.violations().iter().all(|v| v.field.starts_with("application_parameter.")));
    }
}
