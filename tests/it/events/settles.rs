//! `settle`: what a path came to is told when it has been quiet, as what it came to.

use std::time::{Duration, Instant};

use super::*;

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

fn size(change: &pb::ChangeEvent) -> i64 {
    match change.item.as_ref().and_then(|item| item.kind.as_ref()) {
        Some(pb::item::Kind::File(file)) => file.size,
        other => panic!("{other:?}"),
    }
}

/// Longer than a busy machine takes from one change to the next.
const SETTLES: i64 = 4;

#[tokio::test(flavor = "multi_thread")]
async fn whoever_wants_created_only_hears_of_a_file_when_it_is_written() {
    let house = support::start().await;
    let mut certain = indexed(&house, "/in").await;
    let mut watch = Watch::ready(&house, |asked| {
        (asked.path, asked.settle) = ("/in".into(), seconds(SETTLES));
        asked.event_types = vec![pb::EventType::Created.into()];
    })
    .await;
    let began = Instant::now();
    put(&house, "/in/slow", "1");
    // One after the other, each a drain of its own.
    assert_eq!(path(&certain.change().await), "/in/slow");
    for text in ["12", "123", "1234"] {
        tokio::time::sleep(Duration::from_millis(500)).await;
        put(&house, "/in/slow", text);
        assert_eq!(path(&certain.change().await), "/in/slow");
    }
    let change = watch.change().await;
    assert_eq!((told(std::slice::from_ref(&change)), size(&change)), (vec!["CREATED /in/slow".to_owned()], 4));
    let least = Duration::from_millis(1500) + Duration::from_secs(SETTLES.unsigned_abs());
    assert!(began.elapsed() >= least, "{:?}", began.elapsed());
    // Whoever commits there has all of it.
    assert!(matches!(watch.payload().await, Payload::BatchEnd(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_and_went_is_nobodys_deletion_and_a_filter_is_asked_of_the_sum() {
    let house = support::start().await;
    put(&house, "/in/old", "123456");
    let mut certain = indexed(&house, "/in").await;
    let mut deleted = Watch::ready(&house, |asked| {
        (asked.path, asked.settle) = ("/in".into(), seconds(SETTLES));
        asked.event_types = vec![pb::EventType::Deleted.into()];
    })
    .await;
    let mut large = Watch::ready(&house, |asked| {
        (asked.path, asked.settle) = ("/in".into(), seconds(SETTLES));
        asked.filter = Some(pb::ItemFilter { min_size: Some(5), ..Default::default() });
    })
    .await;
    put(&house, "/in/a", "123456");
    put(&house, "/in/b", "123456");
    // What happens within one drain is summed up anyhow.
    certain.changes(2).await;
    delete(&house, "/in/a", pb::ItemKind::File).await;
    put(&house, "/in/b", "1");
    certain.changes(2).await;
    delete(&house, "/in/old", pb::ItemKind::File).await;
    assert_eq!(told(&deleted.changes(1).await), ["DELETED /in/old"]);
    assert_eq!(told(&large.changes(1).await), ["DELETED /in/old"]);
    put(&house, "/in/c", "1234567");
    assert_eq!(told(&large.changes(1).await), ["CREATED /in/c"]);
}
