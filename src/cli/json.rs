//! Answers as JSON for `--json`: one object a line, field names as in the proto's JSON.

use prost_types::{Duration, Timestamp};
use serde_json::{Map, Value, json};

use crate::api::v1::{
    AccountSummary, ApplicationParameter, GetAccountResponse, Item, Link, Proxy, ProxyKind, SharedLink, item::Kind,
};

/// An item, with `kind` said in one word.
pub fn item(item: &Item) -> Value {
    let mut fields = match &item.kind {
        Some(Kind::File(file)) => json!({
            "kind": "file",
            "id": file.id,
            "rev": file.rev,
            "size": file.size,
            "contentHash": file.content_hash,
            "clientModified": file.client_modified.as_ref().map(time),
            "serverModified": file.server_modified.as_ref().map(time),
            "isDownloadable": file.is_downloadable,
            "exportFormats": file.export_formats,
        }),
        Some(Kind::Folder(folder)) => {
            json!({ "kind": "folder", "id": folder.id, "sharedFolderId": folder.shared_folder_id })
        }
        Some(Kind::Deleted(deleted)) => json!({
            "kind": "deleted",
            "lastKind": deleted.last_kind().as_str_name(),
            "lastId": deleted.last_id,
            "lastRev": deleted.last_rev,
            "lastSize": deleted.last_size,
            "lastContentHash": deleted.last_content_hash,
        }),
        None => json!({ "kind": "unknown" }),
    };
    fields["name"] = json!(item.name);
    fields["path"] = json!(item.path_display);
    fields["pathLower"] = json!(item.path_lower);
    bare(fields)
}

pub fn link(link: &Link) -> Value {
    bare(json!({
        "url": link.url,
        "kind": link.kind().as_str_name(),
        "expireTime": link.expire_time.as_ref().map(time),
        "visibility": link.visibility().as_str_name(),
    }))
}

pub fn shared_link(link: &SharedLink) -> Value {
    bare(json!({
        "url": link.url,
        "name": link.name,
        "pathLower": link.path_lower,
        "visibility": link.visibility().as_str_name(),
        "expireTime": link.settings.as_ref().and_then(|settings| settings.expire_time.as_ref()).map(time),
        "canRevoke": link.can_revoke,
    }))
}

pub fn account(account: &GetAccountResponse) -> Value {
    bare(json!({
        "accountId": account.account_id,
        "displayName": account.display_name,
        "email": account.email,
        "accountType": account.account_type().as_str_name(),
        "teamId": account.team_id,
        "rootNamespaceId": account.root_namespace_id,
        "homeNamespaceId": account.home_namespace_id,
        "homePath": account.home_path,
        "spaceUsed": account.space_used,
        "spaceAllocated": account.space_allocated,
    }))
}

pub fn account_summary(account: &AccountSummary) -> Value {
    bare(json!({
        "accountId": account.account_id,
        "displayName": account.display_name,
        "email": account.email,
        "accountType": account.account_type().as_str_name(),
        "teamId": account.team_id,
    }))
}

pub fn parameter(parameter: &ApplicationParameter) -> Value {
    bare(json!({
        "applicationParameterId": parameter.application_parameter_id,
        "displayName": parameter.display_name,
        "group": parameter.group,
        "labels": parameter.labels.iter().collect::<std::collections::BTreeMap<_, _>>(),
        "state": parameter.state().as_str_name(),
        "appKey": parameter.app_key,
        "accountKind": parameter.account_kind().as_str_name(),
        "accessType": parameter.access_type().as_str_name(),
        "scopes": parameter.scopes,
        "grantedScopes": parameter.granted_scopes,
        "pathPrefix": parameter.path_prefix,
        "proxy": parameter.proxy.as_ref().map(proxy).unwrap_or_default(),
        "account": parameter.account.as_ref().map(account_summary),
        "allowedPrincipals": parameter.policy.as_ref().map(|policy| &policy.allowed_principals),
        "permissions": parameter.policy.as_ref().map(|policy| {
            policy.permissions().map(|one| one.as_str_name().trim_start_matches("PERMISSION_")).collect::<Vec<_>>()
        }),
        "createTime": parameter.create_time.as_ref().map(time),
        "updateTime": parameter.update_time.as_ref().map(time),
        "refreshTime": parameter.refresh_time.as_ref().map(time),
        "etag": parameter.etag,
    }))
}

/// `http://me@proxy.example:3128`; empty for none.
fn proxy(proxy: &Proxy) -> String {
    let scheme = match proxy.proxy_kind() {
        ProxyKind::Unspecified | ProxyKind::None => return String::new(),
        ProxyKind::System => return "system".to_owned(),
        ProxyKind::Http => "http",
        ProxyKind::Https => "https",
        ProxyKind::Socks4 => "socks4",
        ProxyKind::Socks5 => "socks5",
    };
    let domain = if proxy.domain.is_empty() { String::new() } else { format!("{}\\", proxy.domain) };
    let user = if proxy.username.is_empty() { String::new() } else { format!("{domain}{}@", proxy.username) };
    format!("{scheme}://{user}{}:{}", proxy.address, proxy.port)
}

/// RFC 3339, to the second.
pub fn time(at: &Timestamp) -> String {
    jiff::Timestamp::from_second(at.seconds).map(|at| at.to_string()).unwrap_or_default()
}

/// `0.123s`
pub fn span(span: &Duration) -> String {
    format!("{:.3}s", span.seconds as f64 + f64::from(span.nanos) / 1e9)
}

/// Without what is not known, as proto JSON leaves it out.
fn bare(value: Value) -> Value {
    let Value::Object(fields) = value else { return value };
    let known = |value: &Value| match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty() && !text.ends_with("_UNSPECIFIED"),
        Value::Array(list) => !list.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    };
    Value::Object(fields.into_iter().filter(|(_, value)| known(value)).collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use crate::api::v1::FileItem;

    use super::*;

    #[test]
    fn an_item_is_told_with_what_is_known_of_it() {
        let file = FileItem {
            rev: "01".into(),
            server_modified: Some(Timestamp { seconds: 0, nanos: 5 }),
            ..Default::default()
        };
        let shown = item(&Item { kind: Some(Kind::File(file)), name: "a".into(), ..Default::default() });
        let expected = json!({
            "kind": "file", "rev": "01", "size": 0, "isDownloadable": false,
            "serverModified": "1970-01-01T00:00:00Z", "name": "a"
        });
        assert_eq!(shown, expected);
    }
}
