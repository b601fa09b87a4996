//! What is watched goes away: the folder, or the right to see it. Each watcher is told so once, and nobody else notices.

use std::collections::BTreeSet;

use super::*;

/// What a watch tells from its `ready` up to the next one.
async fn told_until_ready(watch: &mut Watch) -> BTreeSet<String> {
    let (mut begun, mut changes) = (false, Vec::new());
    loop {
        match watch.payload().await {
            Payload::Change(change) => {
                assert_eq!(change.basis(), pb::EventBasis::Synthetic);
                changes.push(change);
            }
            Payload::Ready(_) if begun => return told(&changes).into_iter().collect(),
            Payload::Ready(_) => begun = true,
            other => panic!("{other:?}"),
        }
    }
}

async fn vanishes(house: &House, vanish: impl AsyncFnOnce(), come_back: impl AsyncFnOnce()) {
    put(house, "/in/a", "1");
    put(house, "/in/b", "1");
    let mut other = indexed(house, "/other").await;
    let mut watch = indexed(house, "/in").await;
    vanish().await;
    let (last, status) = watch.end().await;
    assert!(matches!(last, Some(Payload::CursorReset(ref reset)) if reset.resync), "{last:?}");
    refused(&status, Code::NotFound, "PATH_NOT_FOUND");
    assert!(support::retry_delay(&status).is_none(), "nothing will be there by itself");
    put(house, "/other/a", "1");
    assert_eq!(told(&other.changes(1).await), ["CREATED /other/a"]);
    come_back().await;
    let mut again = Watch::open(house, |asked| {
        (asked.path, asked.start) = ("/in".into(), behind(&watch.token));
    })
    .await;
    let wanted = ["DELETED /in/a", "DELETED /in/b", "DELETED /in/probe", "CREATED /in/new"].map(String::from);
    assert_eq!(told_until_ready(&mut again).await, wanted.into());
    put(house, "/in/later", "1");
    assert_eq!(told(&again.changes(1).await), ["CREATED /in/later"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_folder_that_is_deleted_ends_its_watches_and_one_made_anew_is_told_as_differences() {
    let house = support::start().await;
    vanishes(&house, async || delete(&house, "/in", pb::ItemKind::Folder).await, async || put(&house, "/in/new", "1"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_folder_that_is_moved_away_is_gone_and_what_comes_in_its_place_is_told() {
    let house = support::start().await;
    vanishes(&house, async || rename(&house, "/in", "/away").await, async || put(&house, "/in/new", "1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_is_revoked_ends_its_own_watches_within_a_poll_and_no_others() {
    let house = support::start().await;
    let login = house.control().issue(None, None).expect("another grant");
    support::make_parameter(&mut house.admin().await, &login, "other", |_| {}).await;
    make_folder(&house, "/in");
    let mut here = indexed(&house, "/in").await;
    let mut there = Watch::ready(&house, |asked| {
        (asked.path, asked.application_parameter_id) = ("/in".into(), "other".into());
    })
    .await;
    support::until("both are longpolled", || async {
        house.control().counter("files/list_folder/longpoll").running == 2
    })
    .await;
    assert_eq!(house.control().revoke(Some(&login.refresh_token)), 1);
    put(&house, "/in/a", "1");
    // The next question that Dropbox is asked is refused, and that is the end.
    refused(&there.end().await.1, Code::FailedPrecondition, "REAUTHORIZATION_REQUIRED");
    assert_eq!(told(&here.changes(1).await), ["CREATED /in/a"]);
    put(&house, "/in/b", "1");
    assert_eq!(told(&here.changes(1).await), ["CREATED /in/b"]);
}
