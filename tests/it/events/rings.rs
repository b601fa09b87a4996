//! From a webhook call to a consumer: without a longpoll, signed by the app.

use dropbox_connector::config::Config;

use super::*;

fn with_webhooks(config: &mut Config) {
    config.public_http_listen = "127.0.0.1:0".into();
    config.webhooks = true;
}

async fn registered(house: &House, app_key: &str) {
    let address = house.addresses.public_http.expect("a public port");
    let uri = format!("http://{address}/webhook/{app_key}");
    house.control().register_webhook(None, &uri).await.expect("the challenge comes back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_wakes_who_watches_and_nobody_longpolls() {
    let house = support::start_with(with_webhooks).await;
    registered(&house, &house.emulator.account().app_key).await;
    let mut watch = indexed(&house, "/in").await;
    for n in 0..20 {
        put(&house, &format!("/in/{n}"), "x");
        assert_eq!(path(&watch.change().await), format!("/in/{n}"));
    }
    assert_eq!(house.control().counter("files/list_folder/longpoll").calls, 0);
    let hook = house.control().webhooks().remove(0);
    assert!(hook.good > 0 && hook.dropped == 0, "{hook:?}");
    let info = house.client().get_server_info(pb::GetServerInfoRequest {}).await.expect("info").into_inner();
    assert!(info.features.contains(&"webhooks".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_of_a_team_wakes_who_watches_a_members_folder() {
    let house = support::start_with(with_webhooks).await;
    let control = house.control();
    let account = control.add_account("ann@acme.example", "Ann", "Doe", Some("Acme"));
    control.revoke(None);
    let login = control.issue_team(&account).expect("a team's tokens");
    support::make_parameter(&mut house.admin().await, &login, "team", |parameter| {
        parameter.account_kind = pb::AccountKind::Team.into();
        parameter.default_path_root = Some(pb::PathRoot { kind: pb::PathRootKind::Home.into(), ..Default::default() });
        let member = control.member_id(&account).expect("a member");
        let member = pb::act_as::Member::SelectUser(member);
        parameter.default_act_as = Some(pb::ActAs { member: Some(member) });
    })
    .await;
    registered(&house, &login.app_key).await;
    let mut watch = Watch::ready(&house, |asked| asked.application_parameter_id = "team".into()).await;
    for n in 0..5 {
        let files = vec![SeedFile::text(&format!("/{n}"), "x")];
        let seed = Seed { account_id: Some(account.clone()), files, ..Seed::default() };
        control.seed(&seed).expect("seeded");
        assert_eq!(path(&watch.change().await), format!("/{n}"));
    }
    assert_eq!(control.counter("files/list_folder/longpoll").calls, 0);
}
