//! What the metrics say of folders that are behind.

use dropbox_connector::emulator::script::{Action, Rule};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_cannot_be_asked_for_is_a_series_until_it_can() {
    let house = support::start().await;
    let mut watch = indexed(&house, "/in").await;
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let lag = async || {
        let url = format!("http://{}/metrics", house.addresses.http);
        let text = http.get(url).send().await.expect("an answer").text().await.expect("text");
        let line = text.lines().find(|line| line.starts_with("dropboxconnector_watch_scope_lag{"))?.to_owned();
        let (labels, value) = line.split_once("} ").expect("a sample");
        assert!(labels.contains(&format!("application_parameter=\"{PARAMETER}\",scope=\"")), "{line}");
        assert!(!line.contains("/in"), "{line}");
        Some(value.parse::<f64>().expect("a number"))
    };
    assert_eq!(lag().await, None);
    let down = Rule::always("files/list_folder*", Action::ServerError { status: 503 });
    house.control().script([down]).expect("a rule");
    put(&house, "/in/late", "x");
    support::until("the lag is told", async || lag().await.is_some_and(|lag| lag >= 5.0)).await;
    house.control().clear_script();
    assert_eq!(told(&watch.changes(1).await), ["CREATED /in/late"]);
    support::until("there is none any more", async || lag().await.is_none()).await;
}
