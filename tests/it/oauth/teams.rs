//! Teams at the consent page: connected as a team, known by the team and not by a member, members named by id; and what an
//! app or a space may see.

use super::*;

/// Ann, who administers Acme, and Bob, who is in it; their accounts and member ids.
struct Acme {
    house: House,
    team_id: String,
    ann: [String; 2],
    bob: [String; 2],
}

async fn acme(edit: impl FnOnce(&mut pb::ApplicationParameter)) -> Acme {
    let house = pending_with(|parameter| {
        parameter.account_kind = pb::AccountKind::Team.into();
        edit(parameter);
    })
    .await;
    let control = house.control();
    let member = |email: &str, name: &str| {
        let account = control.add_account(email, name, "Doe", Some("Acme"));
        let member = control.member_id(&account).expect("a member");
        [account, member]
    };
    let (ann, bob) = (member("ann@acme.example", "Ann"), member("bob@acme.example", "Bob"));
    let team_id = control.sign_in_for_team(&ann[0]).expect("a team");
    Acme { house, team_id, ann, bob }
}

fn as_user(member: &str) -> Option<pb::ActAs> {
    Some(pb::ActAs { member: Some(pb::act_as::Member::SelectUser(member.into())) })
}

async fn list_as(house: &House, member: &str) -> Result<(), Status> {
    let act_as = Some(pb::request_context::ActAs::SelectUser(member.into()));
    let context = Some(pb::RequestContext { act_as, path_root: None });
    let request = pb::ListFolderRequest { application_parameter_id: PARAMETER.into(), context, ..Default::default() };
    house.client().list_folder(request).await.map(drop)
}

async fn update(
    house: &House,
    paths: &[&str],
    edit: impl FnOnce(&mut pb::ApplicationParameter),
) -> Result<pb::ApplicationParameter, Status> {
    let mut parameter = pb::ApplicationParameter { application_parameter_id: PARAMETER.into(), ..Default::default() };
    edit(&mut parameter);
    let request = pb::UpdateApplicationParameterRequest {
        application_parameter: Some(parameter),
        update_mask: Some(prost_types::FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() }),
        ..Default::default()
    };
    let answer = house.admin().await.update_application_parameter(request).await?.into_inner();
    Ok(answer.application_parameter.expect("a parameter"))
}

#[tokio::test]
async fn a_team_is_connected_at_the_consent_page_and_acts_as_its_members() {
    let Acme { house, team_id, bob, .. } = acme(|parameter| {
        let policy = pb::ParameterPolicy { act_as: pb::ActAsPolicy::Any.into(), ..Default::default() };
        parameter.policy = Some(policy);
    })
    .await;
    let done = connect(&house).await;
    let account = done.account.expect("an account");
    assert_eq!((account.team_id.as_str(), account.account_id.as_str()), (team_id.as_str(), team_id.as_str()));
    assert!(done.granted_scopes.contains(&"members.read".to_owned()), "{:?}", done.granted_scopes);
    list_as(&house, &bob[1]).await.expect("as Bob");
    list_as(&house, "bob@acme.example").await.expect("as Bob");
    let status = list(&house).await.expect_err("as nobody");
    assert_eq!(reason(&status), "MEMBER_REQUIRED");
    house.control().expire_access_tokens();
    list_as(&house, &bob[1]).await.expect("renewed");
    // A team is unlinked in its admin console.
    let revoke = pb::RevokeAuthorizationRequest { application_parameter_id: PARAMETER.into() };
    let revoked = house.admin().await.revoke_authorization(revoke).await.expect("forgotten").into_inner();
    assert!(!revoked.revoked_at_dropbox);
    assert_eq!(house.control().counter("auth/token/revoke").calls, 0);
    assert_eq!(state(&house).await, pb::ParameterState::Pending);
    assert!(house.control().wrong_answers().is_empty(), "{:?}", house.control().wrong_answers());
}

#[tokio::test]
async fn a_person_is_not_connected_where_a_team_is_wanted_nor_a_team_where_a_person_is() {
    let Acme { house, ann, .. } = acme(|_| {}).await;
    house.control().sign_in(Some(&ann[0])).expect("an account");
    let begun = begin(&house, wish(PARAMETER, BACK)).await;
    let back = consent(&begun.authorize_url).await;
    let status = complete(&house, &begun.state, Answer::RedirectUrl(back)).await.expect_err("a person");
    assert_eq!(reason(&status), "ACCOUNT_TYPE");
    assert_eq!(house.control().counter("auth/token/revoke").calls, 1, "nobody keeps it");
    house.control().sign_in_for_team(&ann[0]).expect("a team");
    create(&house, "person", |_| {}).await;
    let begun = begin(&house, wish("person", BACK)).await;
    let back = consent(&begun.authorize_url).await;
    let status = complete(&house, &begun.state, Answer::RedirectUrl(back)).await.expect_err("a team");
    assert_eq!(reason(&status), "ACCOUNT_TYPE");
    assert_eq!(house.control().counter("auth/token/revoke").calls, 1, "a team's token cannot be revoked so");
}

#[tokio::test]
async fn of_a_team_the_team_counts_and_not_the_member_it_acts_as() {
    let Acme { house, ann, bob, .. } = acme(|parameter| parameter.default_act_as = as_user("ann@acme.example")).await;
    let first = connect(&house).await.account.expect("an account");
    assert_eq!(first.account_id, ann[0], "the account of whom it acts as");
    // Another default member: the same team may be connected again without leave.
    update(&house, &["default_act_as"], |parameter| parameter.default_act_as = as_user(&bob[1])).await.expect("set");
    house.control().sign_in_for_team(&bob[0]).expect("the same team");
    assert_eq!(connect(&house).await.account.expect("an account").account_id, bob[0]);
    // Another team needs leave.
    let eve = house.control().add_account("eve@other.example", "Eve", "Doe", Some("Other"));
    house.control().sign_in_for_team(&eve).expect("another team");
    update(&house, &["default_act_as"], |_| {}).await.expect("cleared");
    let begun = begin(&house, wish(PARAMETER, BACK)).await;
    let back = consent(&begun.authorize_url).await;
    let status = complete(&house, &begun.state, Answer::RedirectUrl(back)).await.expect_err("another team");
    assert_eq!(reason(&status), "ACCOUNT_MISMATCH", "{status:?}");
}

#[tokio::test]
async fn members_named_by_address_are_stored_by_id() {
    let listed = |members: &[&str]| {
        let act_as_members = members.iter().map(|&member| member.to_owned()).collect();
        Some(pb::ParameterPolicy { act_as: pb::ActAsPolicy::Listed.into(), act_as_members, ..Default::default() })
    };
    let Acme { house, ann, bob, .. } = acme(|parameter| {
        parameter.default_act_as = as_user("Ann@acme.example");
        parameter.policy = listed(&["bob@ACME.example", "nobody@acme.example", "BOB@acme.example"]);
    })
    .await;
    let shown = |parameter: &pb::ApplicationParameter| {
        let members = parameter.policy.clone().expect("a policy").act_as_members;
        (parameter.default_act_as.clone(), members)
    };
    assert_eq!(shown(&parameter(&house).await).0, as_user("Ann@acme.example"), "nobody can be asked yet");
    let connected = connect(&house).await.application_parameter.expect("a parameter");
    let nobody = "nobody@acme.example".to_owned();
    assert_eq!(shown(&connected), (as_user(&ann[1]), vec![bob[1].clone(), nobody]));
    assert_eq!(shown(&parameter(&house).await), shown(&connected));
    list(&house).await.expect("as Ann");
    list_as(&house, "bob@acme.example").await.expect("as Bob, under his other name");

    // From now on an address is looked up when it is set, and who is not there is told by field.
    let asked = house.control().counter("team/members/get_info_v2").calls;
    let changed = update(&house, &["default_act_as", "policy.act_as_members", "policy.act_as"], |parameter| {
        parameter.default_act_as = as_user("bob@acme.example");
        parameter.policy = listed(&["ann@acme.example", &bob[1]]);
    });
    let changed = changed.await.expect("set");
    assert_eq!(shown(&changed), (as_user(&bob[1]), vec![ann[1].clone(), bob[1].clone()]));
    assert_eq!(house.control().counter("team/members/get_info_v2").calls, asked + 1, "all in one question");
    let wrong = update(&house, &["default_act_as", "policy.act_as_members", "policy.act_as"], |parameter| {
        parameter.default_act_as = as_user("eve@acme.example");
        parameter.policy = listed(&["ann@acme.example", "no address@"]);
    });
    let status = wrong.await.expect_err("nobody");
    let details = tonic_types::StatusExt::get_error_details(&status);
    let fields = &details.bad_request().expect("fields").field_violations;
    let fields: Vec<_> = fields.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(
        fields,
        ["application_parameter.default_act_as", "application_parameter.policy.act_as_members[1]"],
        "{status:?}"
    );
    assert_eq!(shown(&parameter(&house).await), shown(&changed), "nothing was changed");
    let other = update(&house, &["display_name"], |parameter| parameter.display_name = "Acme".into()).await;
    assert_eq!(shown(&other.expect("another field")), shown(&changed));
    assert!(house.control().wrong_answers().is_empty(), "{:?}", house.control().wrong_answers());
}

/// The value of `Dropbox-API-Path-Root` of the last listing.
fn last_root(house: &House) -> Option<String> {
    let journal = house.control().journal();
    let last = journal.iter().rev().find(|entry| entry.route == "files/list_folder").expect("a listing");
    last.headers.get("dropbox-api-path-root").cloned()
}

#[tokio::test]
async fn where_paths_begin_is_found_out_or_set_and_a_changed_root_is_found_out_again() {
    let house = pending().await;
    let account = house.control().add_account("ann@acme.example", "Ann", "Doe", None);
    house.control().sign_in(Some(&account)).expect("an account");
    connect(&house).await;
    list(&house).await.expect("works");
    let own = last_root(&house).expect("AUTO names the root");
    assert!(own.contains("\"root\""), "{own}");
    // The account joins a team with a space of its own: its root is another now, and is found out by itself.
    house.control().join_team(&account, "Acme").expect("joined");
    list(&house).await.expect("the root changed under way");
    let team = last_root(&house).expect("AUTO names the root");
    assert_ne!(team, own, "the team's space");
    let set = async |root: pb::PathRoot| {
        update(&house, &["default_path_root"], |parameter| parameter.default_path_root = Some(root)).await
    };
    set(pb::PathRoot { kind: pb::PathRootKind::Home.into(), ..Default::default() }).await.expect("set");
    list(&house).await.expect("works");
    assert_eq!(last_root(&house).as_deref(), Some("{\".tag\":\"home\"}"));
    let namespace_id: String = team.chars().filter(char::is_ascii_digit).collect();
    set(pb::PathRoot { kind: pb::PathRootKind::Namespace.into(), namespace_id: namespace_id.clone() })
        .await
        .expect("set");
    list(&house).await.expect("works");
    let root = last_root(&house).expect("set");
    assert!(root.contains("namespace_id") && root.contains(&namespace_id), "{root}");
}

#[tokio::test]
async fn an_app_folder_is_its_own_root_and_nobody_is_asked_for_one() {
    let house = pending_with(|parameter| parameter.access_type = pb::AccessType::AppFolder.into()).await;
    connect(&house).await;
    let asked = house.control().counter("users/get_current_account").calls;
    list(&house).await.expect("works");
    assert_eq!(last_root(&house), None, "no header: the app folder is all there is");
    assert_eq!(house.control().counter("users/get_current_account").calls, asked);
    assert_eq!(parameter(&house).await.access_type(), pb::AccessType::AppFolder);
}
