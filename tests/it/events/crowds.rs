//! More folders than may be longpolled at once.

use std::time::Duration;

use super::*;

const LONGPOLL: &str = "files/list_folder/longpoll";
/// Begins are spread: it takes 30 s.
#[ignore = "1,001 folders begin within 30 s"]
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_folders_are_longpolled_and_the_server_says_that_those_beyond_take_turns() {
    let house = support::start().await;
    let info = async || {
        let info = house.client().get_server_info(pb::GetServerInfoRequest {}).await.expect("what it is like");
        info.into_inner()
    };
    let most = info().await.limits.expect("limits").max_longpolls;
    assert_eq!(most, 1000);
    let folders: Vec<String> = (0..=most).map(|number| format!("/in/{number}")).collect();
    house.control().seed(&Seed { folders: folders.clone(), ..Seed::default() }).expect("folders");
    let mut client = house.other_client().await;
    let mut watches = Vec::new();
    for (number, folder) in folders.into_iter().enumerate() {
        if number % 500 == 0 {
            client = house.other_client().await;
        }
        // Without an index, and two of each folder: they share its longpoll.
        for _ in 0..2 {
            let request = ask(|asked| {
                asked.path.clone_from(&folder);
                asked.classification = pb::Classification::Raw.into();
            });
            watches.push(Watch::by(client.clone(), request).await.expect("a watch"));
        }
    }
    let longpolled = async {
        while !info().await.watches_take_turns || house.control().counter(LONGPOLL).running < 1000 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), longpolled).await.expect("every folder has begun");
    assert_eq!(house.control().counter(LONGPOLL).running_max, 1000);
    assert_eq!(watches.len(), 2002);
}
