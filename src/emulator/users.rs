//! Accounts and space (`users/*`), and the probes of a token or an app key (`check/*`, `auth/token/revoke`).

use serde_json::{Value, json};

use super::{
    Call, Handler, Refusal, Reply, Who, World,
    tree::{Account, Seat},
};

/// Accounts one `get_account_batch` may name.
const BATCH_MAX: usize = 300;

pub(in crate::emulator) fn handler(path: &str) -> Option<Handler> {
    Some(match path {
        "users/get_current_account" => get_current_account,
        "users/get_space_usage" => get_space_usage,
        "users/get_account" => get_account,
        "users/get_account_batch" => get_account_batch,
        "users/features/get_values" => get_features,
        "check/user" | "check/app" => echo,
        "auth/token/revoke" => revoke_token,
        _ => return None,
    })
}

fn get_current_account(world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    let tree = world.tree();
    let account = tree.account(call.account()).ok_or_else(gone)?;
    let mut result = fields(account);
    result["locale"] = json!("en");
    result["country"] = json!("US");
    result["referral_link"] = json!("https://www.dropbox.com/referrals/emulator");
    result["is_paired"] = json!(false);
    result["account_type"] = json!({ ".tag": plan(account) });
    result["root_info"] = root_info(account);
    if let Some(seat) = &account.team {
        result["team"] = team(seat);
        result["team_member_id"] = json!(seat.member_id);
    }
    Ok(Reply::Json(result))
}

/// Outside teams everybody pays, so that passwords and expiry of links can be tried.
fn plan(account: &Account) -> &'static str {
    if account.team.is_some() { "business" } else { "pro" }
}

/// What every account shows of itself.
pub(in crate::emulator) fn fields(account: &Account) -> Value {
    let (given, surname) = (&account.given_name, &account.surname);
    let initials = [given, surname].into_iter().filter_map(|name| name.chars().next());
    json!({
        "account_id": account.id,
        "name": {
            "given_name": given,
            "surname": surname,
            "familiar_name": given,
            "display_name": format!("{given} {surname}").trim(),
            "abbreviated_name": initials.collect::<String>(),
        },
        "email": account.email,
        "email_verified": true,
        "disabled": false,
    })
}

fn root_info(account: &Account) -> Value {
    let mut info = json!({
        ".tag": if account.home_path.is_some() { "team" } else { "user" },
        "root_namespace_id": account.root.to_string(),
        "home_namespace_id": account.home.to_string(),
    });
    if let Some(path) = &account.home_path {
        info["home_path"] = json!(path);
    }
    info
}

fn team(seat: &Seat) -> Value {
    let tag = |tag: &str| json!({ ".tag": tag });
    json!({
        "id": seat.team_id,
        "name": seat.team_name,
        "sharing_policies": {
            "shared_folder_member_policy": tag("anyone"),
            "shared_folder_join_policy": tag("from_anyone"),
            "shared_link_create_policy": tag("default_public"),
            "group_creation_policy": tag("admins_and_members"),
            "shared_folder_link_restriction_policy": tag("anyone"),
            "enforce_link_password_policy": tag("optional"),
            "default_link_expiration_days_policy": tag("none"),
            "shared_link_default_permissions_policy": tag("default"),
        },
        "office_addin_policy": tag("enabled"),
        "top_level_content_policy": tag("everyone"),
    })
}

fn get_space_usage(world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    let space = world.switches().space;
    let tree = world.tree();
    let account = tree.account(call.account()).ok_or_else(gone)?;
    let used = tree.used(&account.id);
    let allocation = match &account.team {
        None => json!({ ".tag": "individual", "allocated": space }),
        Some(seat) => {
            let of_team = |other: &&Account| other.team.as_ref().is_some_and(|team| team.team_id == seat.team_id);
            let members: Vec<&Account> = tree.accounts.iter().filter(of_team).collect();
            json!({
                ".tag": "team",
                "used": members.iter().map(|member| tree.used(&member.id)).sum::<u64>(),
                "allocated": space,
                // No limit of the member's own.
                "user_within_team_space_allocated": 0,
                "user_within_team_space_limit_type": { ".tag": "off" },
                "user_within_team_space_used_cached": used,
            })
        }
    };
    Ok(Reply::Json(json!({ "used": used, "allocation": allocation })))
}

/// `users.BasicAccount`, as `caller` sees `account`.
fn basic(caller: &Account, account: &Account) -> Value {
    let mut shown = fields(account);
    let same_team = match (&caller.team, &account.team) {
        (Some(own), Some(other)) => own.team_id == other.team_id,
        _ => caller.id == account.id,
    };
    shown["is_teammate"] = json!(same_team);
    if let (true, Some(seat)) = (same_team, &account.team) {
        shown["team_member_id"] = json!(seat.member_id);
    }
    shown
}

fn get_account(world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    let tree = world.tree();
    let caller = tree.account(call.account()).ok_or_else(gone)?;
    let asked = call.arg["account_id"].as_str().unwrap_or_default();
    let account = tree.account(asked).ok_or_else(|| Refusal::nested(&["no_account"]))?;
    Ok(Reply::Json(basic(caller, account)))
}

fn get_account_batch(world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    let tree = world.tree();
    let caller = tree.account(call.account()).ok_or_else(gone)?;
    let asked: Vec<&str> = call.arg["account_ids"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if asked.len() > BATCH_MAX {
        return Err(Refusal::BadRequest(format!("request body: account_ids: list has more than {BATCH_MAX} items")));
    }
    let account = |id: &str| {
        let missing = || Refusal::endpoint(json!({ ".tag": "no_account", "no_account": id }));
        tree.account(id).map(|account| basic(caller, account)).ok_or_else(missing)
    };
    let accounts = asked.into_iter().map(account).collect::<Result<Vec<Value>, Refusal>>()?;
    Ok(Reply::Json(Value::Array(accounts)))
}

fn get_features(world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    let tree = world.tree();
    let account = tree.account(call.account()).ok_or_else(gone)?;
    let asked = call.arg["features"].as_array().cloned().unwrap_or_default();
    if asked.is_empty() {
        return Err(Refusal::nested(&["empty_features_list"]));
    }
    let value = |feature: Value| {
        let tag = feature[".tag"].as_str().unwrap_or_default();
        let enabled = match tag {
            "paper_as_files" => true,
            "team_shared_dropbox" | "distinct_member_home" => account.home_path.is_some(),
            "file_locking" => account.team.is_some(),
            _ => return json!({ ".tag": "other" }),
        };
        json!({ ".tag": tag, tag: { ".tag": "enabled", "enabled": enabled } })
    };
    Ok(Reply::Json(json!({ "values": asked.into_iter().map(value).collect::<Vec<Value>>() })))
}

/// What was sent comes back.
fn echo(_world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    Ok(Reply::Json(json!({ "result": call.arg["query"] })))
}

fn revoke_token(world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    if let Who::User { token, .. } = &call.who {
        world.authority.revoke_access(token);
    }
    Ok(Reply::Json(Value::Null))
}

/// The token's account went with a reset.
fn gone() -> Refusal {
    Refusal::Auth(json!({ ".tag": "invalid_access_token" }))
}
