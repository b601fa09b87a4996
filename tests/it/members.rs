//! A team's link: which member a call is for, by id or by e-mail address, and what a page token remembers of it.

use dropbox_connector::{
    api::v1::{self as pb, request_context::ActAs},
    emulator::control::{Seed, SeedFile},
};
use tonic::{Code, Status};

use crate::support::{House, make_parameter, reason, start};

const TEAM: &str = "team";

struct Team {
    house: House,
    ann: String,
    bob: String,
}

/// Ann and Bob are a team; each has one file of their name.
async fn team(edit: impl FnOnce(&mut pb::ApplicationParameter)) -> Team {
    let house = start().await;
    let control = house.control();
    let member = |email: &str, name: &str| {
        let id = control.add_account(email, name, "Doe", Some("Acme"));
        let files = (0..3).map(|n| SeedFile::text(&format!("/{name}-{n}.txt"), name)).collect();
        control.seed(&Seed { account_id: Some(id.clone()), files, ..Default::default() }).expect("seeded");
        id
    };
    let (ann, bob) = (member("ann@acme.example", "Ann"), member("bob@acme.example", "Bob"));
    let login = control.issue_team(&ann).expect("a team's tokens");
    make_parameter(&mut house.admin().await, &login, TEAM, |parameter| {
        parameter.account_kind = pb::AccountKind::Team.into();
        parameter.default_path_root = Some(pb::PathRoot { kind: pb::PathRootKind::Home.into(), ..Default::default() });
        edit(parameter);
    })
    .await;
    let id = |account: &str| control.member_id(account).expect("a member");
    let (ann, bob) = (id(&ann), id(&bob));
    Team { house, ann, bob }
}

fn policy(act_as: pb::ActAsPolicy, members: &[&str]) -> Option<pb::ParameterPolicy> {
    let act_as_members = members.iter().map(|&member| member.to_owned()).collect();
    Some(pb::ParameterPolicy { act_as: act_as.into(), act_as_members, ..Default::default() })
}

fn as_user(member: &str) -> Option<pb::RequestContext> {
    Some(pb::RequestContext { act_as: Some(ActAs::SelectUser(member.into())), path_root: None })
}

/// The names in the root of whoever is acted as.
async fn names(house: &House, context: Option<pb::RequestContext>) -> Result<String, Status> {
    let request = pb::ListFolderRequest { application_parameter_id: TEAM.into(), context, ..Default::default() };
    let items = house.client().list_folder(request).await?.into_inner().items;
    let mut names: Vec<_> = items.into_iter().map(|item| item.name).collect();
    names.sort();
    Ok(names.join(" "))
}

const BOBS: &str = "Bob-0.txt Bob-1.txt Bob-2.txt";

#[tokio::test]
async fn a_member_is_chosen_by_id_or_by_address_and_looked_up_once() {
    let Team { house, bob, .. } = team(|parameter| parameter.policy = policy(pb::ActAsPolicy::Any, &[])).await;
    assert_eq!(names(&house, as_user(&bob)).await.expect("by id"), BOBS);
    assert_eq!(house.control().counter("team/members/get_info_v2").calls, 0, "an id is known already");
    for address in ["bob@acme.example", "Bob@ACME.example", "bob@acme.example"] {
        assert_eq!(names(&house, as_user(address)).await.expect(address), BOBS);
    }
    assert_eq!(house.control().counter("team/members/get_info_v2").calls, 1, "an address is remembered");
    assert!(house.control().wrong_answers().is_empty(), "{:?}", house.control().wrong_answers());
    let nobody = names(&house, as_user("eve@acme.example")).await.expect_err("nobody");
    assert_eq!((nobody.code(), reason(&nobody).as_str()), (Code::InvalidArgument, "ACT_AS_INVALID"));
    let malformed = names(&house, as_user("bob@")).await.expect_err("malformed");
    assert_eq!(reason(&malformed), "ACT_AS_INVALID");
    let unchosen = names(&house, None).await.expect_err("no member");
    assert_eq!((unchosen.code(), reason(&unchosen).as_str()), (Code::FailedPrecondition, "MEMBER_REQUIRED"));
}

#[tokio::test]
async fn the_policy_s_list_holds_for_a_member_under_either_name() {
    let team = team(|parameter| parameter.policy = policy(pb::ActAsPolicy::Listed, &["BOB@acme.example"])).await;
    for named in [&team.bob, "bob@acme.example"] {
        assert_eq!(names(&team.house, as_user(named)).await.expect(named), BOBS);
    }
    // Whether there is such a member is not told to who may not act as one.
    for named in [team.ann.as_str(), "ann@acme.example", "eve@acme.example", "dbmid:nobody"] {
        let refused = names(&team.house, as_user(named)).await.expect_err(named);
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            (Code::PermissionDenied, "ACT_AS_NOT_ALLOWED"),
            "{named}"
        );
    }
}

#[tokio::test]
async fn the_default_member_may_be_an_address_and_may_be_named_again() {
    let member = pb::act_as::Member::SelectUser("bob@acme.example".into());
    let team = team(|parameter| parameter.default_act_as = Some(pb::ActAs { member: Some(member) })).await;
    assert_eq!(names(&team.house, None).await.expect("by default"), BOBS);
    assert_eq!(names(&team.house, as_user(&team.bob)).await.expect("the same member"), BOBS);
    assert_eq!(reason(&names(&team.house, as_user(&team.ann)).await.expect_err("another")), "ACT_AS_NOT_ALLOWED");
}

#[tokio::test]
async fn a_personal_link_acts_as_nobody_and_says_so() {
    let house = start().await;
    house.make_parameter(TEAM, |parameter| parameter.policy = policy(pb::ActAsPolicy::Any, &[])).await;
    let refused = names(&house, as_user("bob@acme.example")).await.expect_err("a personal link");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::FailedPrecondition, "TEAM_LINK_REQUIRED"));
    assert!(refused.message().contains("linked to a user"), "{refused:?}");
}

#[tokio::test]
async fn a_later_page_goes_on_in_the_context_its_token_was_given_in() {
    let Team { house, ann, bob } = team(|parameter| parameter.policy = policy(pb::ActAsPolicy::Any, &[])).await;
    let first = pb::ListFolderRequest {
        application_parameter_id: TEAM.into(),
        context: as_user(&bob),
        page_size: 2,
        ..Default::default()
    };
    let page = house.client().list_folder(first.clone()).await.expect("a page").into_inner();
    let next = |context| pb::ListFolderRequest { context, page_token: page.next_page_token.clone(), ..first.clone() };
    for context in [None, Some(pb::RequestContext::default()), as_user(&bob)] {
        let last = house.client().list_folder(next(context.clone())).await;
        let last = last.unwrap_or_else(|status| panic!("{context:?}: {status:?}")).into_inner();
        let all: Vec<_> = page.items.iter().chain(&last.items).map(|item| item.name.as_str()).collect();
        assert_eq!(all.len(), 3, "{context:?}: {all:?}");
        assert!(all.iter().all(|name| name.starts_with("Bob")), "{context:?}: {all:?}");
    }
    let other = house.client().list_folder(next(as_user(&ann))).await.expect_err("another context");
    assert_eq!((other.code(), reason(&other).as_str()), (Code::InvalidArgument, "PAGE_TOKEN_MISMATCH"));
    // A token grants nothing: its context is looked at anew.
    let mut admin = house.admin().await;
    let update = pb::UpdateApplicationParameterRequest {
        application_parameter: Some(pb::ApplicationParameter {
            application_parameter_id: TEAM.into(),
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["policy.act_as".into()] }),
        ..Default::default()
    };
    admin.update_application_parameter(update).await.expect("narrowed");
    assert_eq!(reason(&house.client().list_folder(next(None)).await.expect_err("narrowed")), "ACT_AS_NOT_ALLOWED");
}
