//! A team's link: which member a call is for, and the look-up of members. A team token calls user routes only in a member's name.

use http::HeaderMap;
use serde_json::{Value, json};

use super::{
    Call, Handler, Refusal, Reply, Who, World,
    schema::RouteSpec,
    tree::{Account, Tree},
    users,
};

const SELECT_USER: &str = "dropbox-api-select-user";
const SELECT_ADMIN: &str = "dropbox-api-select-admin";

pub(in crate::emulator) fn handler(path: &str) -> Option<Handler> {
    Some(match path {
        "team/members/get_info_v2" => get_info,
        _ => return None,
    })
}

/// Whom a call with a token is for, once the headers that choose a member are looked at.
///
/// # Errors
/// 400 for a team's token without a member on a user route, 401 for a header that names none of the team.
pub(in crate::emulator) fn seated(
    world: &World,
    route: &RouteSpec,
    headers: &HeaderMap,
    who: Who,
) -> Result<Who, Refusal> {
    let Who::Team { account: linked, app, token } = who else { return Ok(who) };
    let tree = world.tree();
    let chosen = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    if route.takes("team") {
        return Ok(Who::Team { account: linked, app, token });
    }
    let (member, bad) = match (chosen(SELECT_USER), chosen(SELECT_ADMIN)) {
        (Some(member), None) => (member, "invalid_select_user"),
        (None, Some(admin)) => (admin, "invalid_select_admin"),
        (Some(_), Some(_)) => {
            let text = "Cannot use both HTTP headers \"Dropbox-API-Select-User\" and \"Dropbox-API-Select-Admin\".";
            return Err(Refusal::BadRequest(text.to_owned()));
        }
        (None, None) => {
            let text = "This API function operates on a single Dropbox account, but the OAuth 2 access token you provided \
                        is for an entire Dropbox Business team.";
            return Err(Refusal::BadRequest(text.to_owned()));
        }
    };
    let refused = || Refusal::Auth(json!({ ".tag": bad }));
    if bad == "invalid_select_admin" && route.select_admin_mode.is_none() {
        return Err(refused());
    }
    let found =
        members(&tree, &linked).find(|account| account.team.as_ref().is_some_and(|seat| seat.member_id == member));
    let account = found.ok_or_else(refused)?.id.clone();
    Ok(Who::User { account, app, token })
}

/// Everybody in the team of this account.
fn members<'a>(tree: &'a Tree, linked: &str) -> impl Iterator<Item = &'a Account> {
    let team = tree.account(linked).and_then(|account| account.team.as_ref()).map(|seat| seat.team_id.clone());
    tree.accounts.iter().filter(move |account| {
        let theirs = account.team.as_ref().map(|seat| &seat.team_id);
        theirs.is_some() && theirs == team.as_ref()
    })
}

fn get_info(world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    let Who::Team { account: linked, .. } = &call.who else { return Err(Refusal::WrongMethod) };
    let tree = world.tree();
    let asked = call.arg["members"].as_array().cloned().unwrap_or_default();
    let answers: Vec<Value> = asked
        .iter()
        .map(|selector| {
            let tag = selector[".tag"].as_str().unwrap_or_default();
            let wanted = selector[tag].as_str().unwrap_or_default();
            let found = members(&tree, linked).find(|account| match tag {
                "email" => account.email.eq_ignore_ascii_case(wanted),
                "team_member_id" => account.team.as_ref().is_some_and(|seat| seat.member_id == wanted),
                _ => false,
            });
            match found {
                Some(account) => member_info(account),
                None => json!({ ".tag": "id_not_found", "id_not_found": wanted }),
            }
        })
        .collect();
    Ok(Reply::Json(json!({ "members_info": answers })))
}

fn member_info(account: &Account) -> Value {
    let member_id = account.team.as_ref().map(|seat| seat.member_id.as_str());
    json!({
        ".tag": "member_info",
        "profile": {
            "team_member_id": member_id,
            "account_id": account.id,
            "email": account.email,
            "email_verified": true,
            "secondary_emails": [],
            "status": { ".tag": "active" },
            "name": users::fields(account)["name"],
            "membership_type": { ".tag": "full" },
            "groups": [],
            "member_folder_id": account.home.to_string(),
            "root_folder_id": account.root.to_string(),
        },
        "roles": [],
    })
}
