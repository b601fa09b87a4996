//! From a webhook call to a consumer: without a longpoll, signed by the app.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_wakes_who_watches_and_nobody_longpolls() {
    let house = support::start_with(|config| {
        config.public_http_listen = "127.0.0.1:0".into();
        config.webhooks = true;
    })
    .await;
    let address = house.addresses.public_http.expect("a public port");
    let uri = format!("http://{address}/webhook/{}", house.emulator.account().app_key);
    house.control().register_webhook(None, &uri).await.expect("the challenge comes back");
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
