//! Several servers and one store: each upload is committed once, whoever dies.

use super::*;

/// Kills the server that has sent the commits and knows nothing of them, and asks the next one.
async fn killed(action: Action, executed: bool) {
    let what = format!("{action:?}");
    let house = emptied().await;
    let control = house.control();
    let bytes = noise(2000, 1);
    let mut victim = Victim::start(house.config()).await;
    let mut items = Vec::new();
    for n in 0..3 {
        let spec = sized(deferred(&format!("/first/{n}")), &bytes);
        let id = is_ready(upload_at(&victim, spec, &bytes).await, &bytes);
        items.push(elsewhere(&id, &format!("/killed/{n}")));
    }
    control.script([Rule::once(FINISH_BATCH, action), Rule::always(FINISH_BATCH, Action::Stall)]).expect("script");
    let calling = tokio::spawn(commit_at(victim.client().await, items.clone()));
    until(&what, || async {
        let journal = control.journal();
        journal.iter().any(|entry| entry.route == FINISH_BATCH && (entry.ended || !executed))
    })
    .await;
    victim.kill();
    calling.await.expect("no panic").expect_err("the server is dead");
    control.clear_script();
    let next = Victim::start(house.config()).await;
    if executed {
        // By the terms of the commit that was sent, which only its row knows.
        let status = status_at(&next, &items[0].upload_id).await.expect("status");
        assert_eq!(status.state(), pb::UploadState::Committed, "{what}");
        assert_eq!(status.item.expect("the file").path_display, "/killed/0");
    }
    let results = commit_at(next.client().await, items).await.expect("answered");
    for (n, result) in results.iter().enumerate() {
        is_file(result, &format!("/killed/{n}"), &bytes);
        holds(&house, &format!("/killed/{n}"), &bytes);
        assert_eq!(control.read(None, &format!("/first/{n}")), None, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_between_intent_and_answer_leaves_nothing_twice_and_nothing_undone() {
    tokio::join!(killed(Action::CutAfter, true), killed(Action::Stall, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_that_commit_the_same_uploads_write_each_file_once() {
    let url = support::postgres::Server::shared().database().await;
    let house = support::start_with(|config| config.store_url = url).await;
    let (replica, channel) = house.replica().await;
    let bytes = noise(2000, 1);
    let uploads = (0..20).map(async |n| {
        let spec = pb::UploadSpec { autorename: true, ..deferred(&format!("/fleet/{n}")) };
        ready(&house, spec, &bytes).await
    });
    let ids = futures::future::join_all(uploads).await;
    let items: Vec<_> = ids.iter().map(|id| item(id)).collect();
    let backwards: Vec<_> = items.iter().rev().cloned().collect();
    let (one, other) = tokio::join!(
        commit_at(house.client(), items.clone()),
        commit_at(DropboxConnectorClient::new(channel.clone()), backwards)
    );
    let (one, mut other) = (one.expect("answered"), other.expect("answered"));
    other.reverse();
    for (n, (one, other)) in one.iter().zip(&other).enumerate() {
        let path = format!("/fleet/{n}");
        match (one, other) {
            (Ok(item), Ok(same)) => assert_eq!(item, same),
            (Ok(_), Err(passed)) | (Err(passed), Ok(_)) => assert_eq!(passed.reason, "UPLOAD_TAKEN_OVER"),
            (Err(one), Err(other)) => panic!("{one:?} {other:?}"),
        }
        holds(&house, &path, &bytes);
        assert_eq!(house.control().read(None, &format!("{path} (1)")), None, "it is there once");
    }
    // Either knows what became of them.
    let before = calls(&house);
    for client in [house.client(), DropboxConnectorClient::new(channel)] {
        let results = commit_at(client, items.clone()).await.expect("answered");
        results.iter().enumerate().for_each(|(n, result)| is_file(result, &format!("/fleet/{n}"), &bytes));
    }
    assert_eq!(calls(&house), before);
    replica.stop().await.expect("stop");
}
