//! What only the database server has: sessions that wait for each other, notifications, TLS, and an end of its own.

use futures::FutureExt as _;

use super::{house::postgres::Server, *};

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_change_shows_only_after_all_that_were_numbered_before_it() {
    let house = House::postgres().await;
    let second = house.second(KEY_1).await;
    let from = second.last_parameter_change().await.unwrap();
    let mut slow = house.store.0.pools.durable.begin().await.unwrap();
    query("INSERT INTO parameter_changes (parameter_id, uid, changed_at) VALUES ('slow', 'u', 0)")
        .execute(&mut slow)
        .await
        .unwrap();
    let docs = id("docs");
    let mut quick = Box::pin(house.store.create_parameters(&docs, settings("g"), None));
    let waiting = async {
        let sql = "SELECT COUNT(*) AS waiting FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
        while query(sql).fetch_one(&second.0.pools.readers).await.unwrap().get::<i64>("waiting").unwrap() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = &mut quick => panic!("it has to wait for its number"),
        waited = tokio::time::timeout(PATIENCE, waiting) => waited.expect("it waits"),
    }
    assert!(second.parameter_changes(from).await.unwrap().is_empty());
    slow.commit().await.unwrap();
    quick.await.unwrap();
    let changes = second.parameter_changes(from).await.unwrap();
    assert_eq!(changes.iter().map(|change| change.id.as_str()).collect::<Vec<_>>(), ["slow", "docs"]);
}

#[tokio::test]
async fn an_import_takes_its_numbers_last_and_so_no_change_waits_for_it_in_a_circle() {
    let house = House::postgres().await;
    for name in ["a", "b"] {
        house.store.create_parameters(&id(name), settings("g"), None).await.unwrap();
    }
    let (plain, _) = house.store.export_parameters(&[]).await.unwrap();
    let second = house.second(KEY_1).await;
    // Somebody is about to change b: it holds the row and has no number yet.
    let mut change = house.store.0.pools.durable.begin().await.unwrap();
    query("UPDATE application_parameters SET etag = etag + 1 WHERE id = 'b'").execute(&mut change).await.unwrap();
    let mut import = Box::pin(second.import_parameters(&plain, OnConflict::Replace));
    let waiting = async {
        let sql = "SELECT COUNT(*) AS waiting FROM pg_locks WHERE NOT granted";
        while query(sql).fetch_one(&house.store.0.pools.readers).await.unwrap().get::<i64>("waiting").unwrap() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = &mut import => panic!("b is held"),
        waited = tokio::time::timeout(PATIENCE, waiting) => waited.expect("it waits"),
    }
    house.store.note_change(&mut change, &id("b"), "u").await.expect("the import holds no number");
    change.commit().await.unwrap();
    assert_eq!(import.await.unwrap().replaced, 2);
}

#[tokio::test]
async fn a_process_that_listens_is_woken_by_the_change_of_another_and_again_after_the_server_was_away() {
    let server = Server::start();
    let house = House::at(server.database().await, tempfile::tempdir().unwrap()).await;
    let second = house.second(KEY_1).await;
    let woken = tokio::sync::Notify::new();
    let told = || async { tokio::time::timeout(PATIENCE, woken.notified()).await.expect("woken") };
    let mut letters = house.store.letters();
    let story = async {
        // It is woken once when it begins to listen.
        told().await;
        second.create_parameters(&id("docs"), settings("g"), None).await.unwrap();
        told().await;
        server.stop();
        let fault = second.parameters(&id("docs")).await.unwrap_err();
        assert_eq!((fault.reason(), fault.retry_delay()), (Reason::StoreUnavailable, Some(Duration::from_secs(1))));
        assert_eq!(house.store.check().await.unwrap_err().reason(), Reason::StoreUnavailable);
        server.start_again();
        // A connection that was used just before may be found dead once; none is that has been idle.
        let mut refused = 0;
        while house.store.check().await.is_err() {
            refused += 1;
            assert!(refused < 8, "it recovers without a restart");
        }
        told().await;
        link(&second, "docs", "r").await.unwrap();
        told().await;
        // On the same connection: first that something may have been missed, twice by now, then what is said.
        second.send_letter("a letter").await.unwrap();
        for expected in [None, None, Some("a letter")] {
            let letter = tokio::time::timeout(PATIENCE, letters.recv()).await.expect("in time").unwrap();
            assert_eq!(letter.as_deref(), expected);
        }
    };
    tokio::select! {
        () = story => {}
        _ = house.store.listen(|| woken.notify_one()) => {}
    }
    assert!(house.store.parameters(&id("docs")).await.unwrap().is_some());
    assert!(House::sqlite().await.store.listen(|| ()).now_or_never().is_none());
}

#[tokio::test]
async fn the_server_is_reached_by_tls_and_only_if_its_certificate_is_good() {
    let server = Server::shared();
    let url = server.database().await;
    let with = |mode: &str| url.replace("sslmode=disable", mode);
    let ca = format!("sslrootcert={}", server.folder.join("server.crt").display());
    let open = async |url: String| {
        Store::open(&url, Arc::new(KeyRing::ephemeral()), Arc::new(ManualClock::new(start()))).await
    };
    let store = open(with(&format!("sslmode=verify-full&{ca}"))).await.unwrap();
    let sql = "SELECT COUNT(*) AS encrypted FROM pg_stat_ssl WHERE ssl AND pid = pg_backend_pid()";
    let encrypted = query(sql).fetch_one(&store.0.pools.readers).await.unwrap();
    assert_eq!(encrypted.get::<i64>("encrypted").unwrap(), 1);
    let unknown = open(with("sslmode=verify-full")).await.unwrap_err();
    let another_name = open(with(&format!("sslmode=verify-full&{ca}")).replace("127.0.0.1", "localhost")).await;
    for fault in [unknown, another_name.unwrap_err()] {
        let cause = format!("{fault:?}");
        assert!(fault.reason() == Reason::StoreUnavailable && cause.contains("InvalidCertificate"), "{cause}");
    }
}

#[tokio::test]
async fn a_server_that_takes_no_writes_refuses_them_with_a_delay_and_still_reads() {
    let House { store, url, .. } = &House::postgres().await;
    store.create_parameters(&id("docs"), settings("g"), None).await.unwrap();
    let name = url.rsplit('/').next().unwrap().split('?').next().unwrap();
    let standby = format!("ALTER DATABASE {name} SET default_transaction_read_only = on");
    let Pool::Postgres(pool) = &store.0.pools.durable else { panic!("PostgreSQL") };
    sqlx::query(sqlx::AssertSqlSafe(standby)).execute(pool).await.unwrap();
    let refused = Store::open_as_it_is(url, store.keys().clone(), store.clock().clone()).await.unwrap_err();
    assert_eq!((refused.reason(), refused.retry_delay()), (Reason::StoreUnavailable, Some(Duration::from_secs(1))));
    let pools = Pools::open(url, false).await.unwrap();
    let rows = query("SELECT id FROM application_parameters").fetch_all(&pools.readers).await.unwrap();
    assert_eq!(rows.len(), 1);
}

#[tokio::test]
async fn a_row_that_is_locked_too_long_answers_unavailable_and_recovers() {
    let House { store, .. } = &House::postgres().await;
    let docs = id("docs");
    store.create_parameters(&docs, settings("g"), None).await.unwrap();
    let mut other = store.0.pools.quick.begin().await.unwrap();
    query("UPDATE application_parameters SET etag = etag").execute(&mut other).await.unwrap();
    let fault = store.update_parameters(&docs, None, SecretChange::Keep, |_| Ok(())).await.unwrap_err();
    assert_eq!((fault.reason(), fault.retry_delay()), (Reason::StoreUnavailable, Some(Duration::from_secs(1))));
    other.rollback().await.unwrap();
    store.update_parameters(&docs, None, SecretChange::Keep, |_| Ok(())).await.unwrap();
}

#[tokio::test]
async fn upload_pieces_alone_are_written_without_waiting_for_the_disk() {
    let House { store, .. } = &House::postgres().await;
    let Pools { durable, quick, .. } = &store.0.pools;
    for (pool, setting) in [(durable, "on"), (quick, "off")] {
        let row = query("SHOW synchronous_commit").fetch_one(pool).await.unwrap();
        assert_eq!(row.get::<String>("synchronous_commit").unwrap(), setting);
    }
}
