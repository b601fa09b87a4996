//! What only the embedded database has.

use super::*;

#[tokio::test]
async fn what_cannot_be_made_again_is_synced_and_readers_cannot_write() {
    let House { store, .. } = &House::sqlite().await;
    let Pools { durable, quick, readers, .. } = &store.0.pools;
    for (pool, synchronous) in [(durable, 2), (quick, 1)] {
        let row = query("PRAGMA synchronous").fetch_one(pool).await.unwrap();
        assert_eq!(row.get::<i64>("synchronous").unwrap(), synchronous);
        let row = query("PRAGMA journal_mode").fetch_one(pool).await.unwrap();
        assert_eq!(row.get::<String>("journal_mode").unwrap(), "wal");
    }
    assert!(query("DELETE FROM uploads").execute(readers).await.is_err());
}

#[tokio::test]
async fn a_store_in_memory_works_whole() {
    let keys = Arc::new(KeyRing::ephemeral());
    let store = Store::open("sqlite::memory:", keys, Arc::new(ManualClock::new(start()))).await.unwrap();
    store.create_parameters(&id("docs"), settings("g"), None).await.unwrap();
    link(&store, "docs", "r").await.unwrap();
    assert_eq!(store.list_parameters("g", None, 5).await.unwrap()[0].state(), State::Active);
}

#[tokio::test]
async fn a_url_that_is_none_and_a_place_that_is_not_there_are_told_apart() {
    let open = |url: String| async move {
        Store::open(&url, Arc::new(KeyRing::ephemeral()), Arc::new(ManualClock::new(start()))).await.unwrap_err()
    };
    assert_eq!(open("mysql://x".into()).await.violations()[0].field, "store_url");
    // No folder can be made in a file, whoever asks.
    let file = tempfile::NamedTempFile::new().unwrap();
    let missing = open(format!("sqlite://{}/folder/store.db?mode=rwc", file.path().display())).await;
    assert_eq!(missing.reason(), Reason::StoreUnavailable);
}

#[tokio::test]
async fn a_full_disk_refuses_writes_with_a_delay_and_still_reads() {
    let House { store, .. } = &House::sqlite().await;
    store.create_parameters(&id("docs"), settings("g"), None).await.unwrap();
    // SQLite answers as on a full disk when a database reaches its page bound.
    for pool in [&store.0.pools.durable, &store.0.pools.quick] {
        query("PRAGMA max_page_count = 1").execute(pool).await.unwrap();
    }
    let big = Settings { display_name: "x".repeat(4000), ..settings("g") };
    let mut refused = None;
    for number in 0..200 {
        if let Err(fault) = store.create_parameters(&id(&format!("p{number}")), big.clone(), None).await {
            refused = Some(fault);
            break;
        }
    }
    let refused = refused.expect("the bound is reached");
    assert_eq!((refused.reason(), refused.retry_delay()), (Reason::StoreUnavailable, Some(Duration::from_secs(1))));
    assert!(store.parameters(&id("docs")).await.unwrap().is_some());
}

#[tokio::test]
async fn a_locked_store_answers_unavailable_and_recovers() {
    let House { store, .. } = &House::sqlite().await;
    query("PRAGMA busy_timeout = 50").execute(&store.0.pools.durable).await.unwrap();
    let other = store.0.pools.quick.begin().await.unwrap();
    let fault = store.create_parameters(&id("docs"), settings("g"), None).await.unwrap_err();
    assert_eq!(fault.reason(), Reason::StoreUnavailable);
    assert_eq!(store.check().await.unwrap_err().reason(), Reason::StoreUnavailable);
    other.rollback().await.unwrap();
    store.check().await.unwrap();
    store.create_parameters(&id("docs"), settings("g"), None).await.unwrap();
}
