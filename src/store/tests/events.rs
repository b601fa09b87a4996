//! Watched folders: leases, steps, logs, indexes, checkpoints.

use super::*;
use crate::limits::{EVENT_LEASE, EVENT_LOG_AGE, EVENT_LOG_ROWS, SCOPE_KEPT, SCOPE_PAST_KEPT};

fn save(row: &ScopeRow, log: &[i64]) -> Save {
    let newest = log.last().copied().unwrap_or(row.head.newest);
    let entry = |sequence: &i64| LogRow {
        sequence: *sequence,
        drain: 1,
        observed_at: millis(start()) + sequence,
        ends: i64::from(*sequence == newest),
        body: format!("\"{sequence}\""),
    };
    let drain = DrainRow { drain: 1, mark: 77, cursor_from: "from".into(), cursor_to: Some("to".into()) };
    Save {
        scope: row.id,
        lease: row.lease,
        version: row.version,
        head: LogHead { newest, newest_mark: 77, ..row.head },
        progress: "{}".into(),
        drain: Some(drain),
        log: log.iter().map(entry).collect(),
        index: IndexWrites::default(),
        forget_log: false,
        looked: None,
    }
}

fn row(n: i64, parent: i64, name: &str, id: &str, kind: i64) -> IndexRow {
    let facts =
        Facts { size: 7, server_modified: 1_700_000_000, client_modified: 1_600_000_000, is_downloadable: true };
    let is_file = kind == 0;
    IndexRow {
        n,
        parent,
        name: name.into(),
        display: Some(name.to_uppercase()),
        id: Some(id.into()),
        rev: Some(if is_file { "5f0123456789a".to_owned() } else { "shared".to_owned() }),
        hash: is_file.then(|| "ab".repeat(32)),
        facts: is_file.then_some(facts),
        kind,
        stamp: n,
        gone: None,
        since: 0,
    }
}

pub(super) async fn a_step_is_saved_whole_by_who_holds_the_scope_and_by_nobody_else(house: House) {
    let second = house.second(KEY_1).await;
    let made = house.store.scope("key", "uid", 5, "{}").await.unwrap();
    assert_eq!(made, second.scope("key", "uid", 6, "[]").await.unwrap());
    let mine = house.store.lease_scope(made.id, made.lease).await.unwrap().expect("it is free");
    assert!(mine.lease > made.lease);
    assert!(house.store.save_events(&save(&mine, &[1, 2])).await.unwrap());
    // A step that was prepared before that one.
    let stale = Save {
        index: IndexWrites { put: vec![row(9, 1, "x", "x", 0)], ..IndexWrites::default() },
        ..save(&mine, &[3])
    };
    assert!(!house.store.save_events(&stale).await.unwrap());
    assert!(house.store.index_by_id(made.id, &["x"]).await.unwrap().is_empty());
    assert_eq!(house.store.log_after(made.id, 0, 10).await.unwrap().unwrap().len(), 2);
    if house.store.is_shared() {
        assert_eq!(second.lease_scope(made.id, mine.lease).await.unwrap(), None);
        house.pass(EVENT_LEASE).await;
    }
    let theirs = second.lease_scope(made.id, mine.lease).await.unwrap().expect("the lease ran out");
    assert_eq!((theirs.head.newest, theirs.version), (2, mine.version + 1));
    // Whoever slept through its lease writes nothing.
    let mine = ScopeRow { version: theirs.version, ..mine };
    assert!(!house.store.save_events(&save(&mine, &[3])).await.unwrap());
    assert!(second.save_events(&save(&theirs, &[3])).await.unwrap());
    second.release_scope(made.id, theirs.lease).await.unwrap();
    assert!(house.store.lease_scope(made.id, mine.lease).await.unwrap().is_some());
    assert_eq!(house.store.log_head(made.id).await.unwrap().unwrap().0.newest, 3);
}

pub(super) async fn a_scope_is_parked_and_gives_way_to_who_has_reason_but_not_while_somebody_is_at_it(house: House) {
    let second = house.second(KEY_1).await;
    let made = house.store.scope("key", "uid", 5, "{}").await.unwrap();
    let mine = house.store.lease_scope(made.id, 0).await.unwrap().unwrap();
    let held = async |store: &Store| store.followed_scope(made.id).await.unwrap().unwrap().held;
    let quiet = Duration::from_secs(600);
    if !house.store.is_shared() {
        // A SQLite file has one server: nobody waits for anybody.
        house.store.park_scope(made.id, mine.lease, quiet, None).await.unwrap();
        assert!(held(&second).await.is_zero() && second.lease_scope(made.id, 0).await.unwrap().is_some());
        return;
    }
    assert_eq!((held(&second).await, held(&house.store).await), (EVENT_LEASE, Duration::ZERO));
    assert_eq!(second.lease_parked_scope(made.id, 0).await.unwrap(), None, "it is at work");
    let looked = async |store: &Store| store.followed_scope(made.id).await.unwrap().unwrap().looked;
    assert_eq!(looked(&second).await, None, "nobody has said");
    let moment = Duration::from_secs(5);
    house.store.park_scope(made.id, mine.lease, quiet, Some(moment)).await.unwrap();
    assert_eq!((held(&second).await, looked(&second).await), (quiet + EVENT_LEASE, Some(moment)));
    house.pass(quiet / 2).await;
    assert_eq!(looked(&second).await, Some(moment + quiet / 2));
    assert_eq!(second.lease_scope(made.id, 0).await.unwrap(), None, "without reason it is left");
    let own = house.store.lease_scope(made.id, 0).await.unwrap().expect("it is this process's");
    assert!(own.lease > mine.lease, "every taking has a number of its own");
    assert!(!house.store.park_scope(made.id, mine.lease, quiet, Some(moment)).await.unwrap());
    assert_eq!(held(&second).await, EVENT_LEASE, "an old number parks nothing");
    assert_eq!(looked(&second).await, Some(moment + quiet / 2), "and says nothing");
    house.pass(EVENT_LEASE / 2).await;
    assert!(house.store.park_scope(made.id, own.lease, Duration::ZERO, Some(Duration::ZERO)).await.unwrap());
    assert_eq!((held(&second).await, looked(&second).await), (EVENT_LEASE, Some(Duration::ZERO)), "it is kept");
    house.pass(moment).await;
    house.store.park_scope(made.id, own.lease, quiet, None).await.unwrap();
    assert_eq!(looked(&second).await, Some(moment));
    let theirs = second.lease_parked_scope(made.id, 0).await.unwrap().expect("there is reason");
    assert!(!house.store.save_events(&save(&own, &[1])).await.unwrap(), "it was taken");
    assert!(second.save_events(&Save { looked: Some(moment * 2), ..save(&theirs, &[1]) }).await.unwrap());
    let followed = house.store.followed_scope(made.id).await.unwrap().unwrap();
    assert_eq!((followed.version, followed.head.newest), (theirs.version + 1, 1));
    assert_eq!(followed.looked, Some(moment * 2));
}

pub(super) async fn a_log_is_read_behind_a_place_and_swept_by_age_and_number(house: House) {
    let store = &house.store;
    let made = store.scope("key", "uid", 5, "{}").await.unwrap();
    let mine = store.lease_scope(made.id, 0).await.unwrap().unwrap();
    assert!(store.save_events(&save(&mine, &[1, 2, 3, 4])).await.unwrap());
    let read = store.log_after(made.id, 1, 2).await.unwrap().unwrap();
    let seen: Vec<_> =
        read.iter().map(|row| (row.sequence, row.cursor.as_str(), row.body.as_str(), row.mark)).collect();
    assert_eq!(seen, [(2, "from", "\"2\"", 77), (3, "from", "\"3\"", 77)]);
    // Behind the last entry of a drain one goes on after it.
    assert_eq!(store.log_after(made.id, 3, 2).await.unwrap().unwrap()[0].cursor, "to");
    assert_eq!(
        (store.log_mark(made.id, 3).await.unwrap(), store.log_mark(made.id, 5).await.unwrap()),
        (Some(77), None)
    );
    house.pass(EVENT_LOG_AGE + Duration::from_millis(2)).await;
    assert_eq!(store.sweep_events().await.unwrap().entries, 1);
    assert_eq!(store.log_after(made.id, 1, 9).await.unwrap(), None);
    assert_eq!(store.log_after(made.id, 2, 9).await.unwrap().unwrap().len(), 2);
    house.pass(EVENT_LOG_AGE).await;
    assert_eq!(store.sweep_events().await.unwrap().entries, 2);
    assert_eq!(store.log_after(made.id, 4, 9).await.unwrap(), Some(Vec::new()));
    let marks = (store.log_mark(made.id, 3).await.unwrap(), store.log_mark(made.id, 4).await.unwrap());
    assert_eq!(marks, (None, Some(77)), "whoever stands at the last one that was swept is known by it");
    // By number.
    let mine = store.lease_scope(made.id, mine.lease).await.unwrap().unwrap();
    let last = EVENT_LOG_ROWS + 6;
    let jump = Save {
        drain: Some(DrainRow { drain: 1, mark: 1, cursor_from: "a".into(), cursor_to: None }),
        ..save(&mine, &[5, 6, last])
    };
    assert!(store.save_events(&jump).await.unwrap());
    house.store.sweep_events().await.unwrap();
    assert_eq!(store.log_after(made.id, 5, 9).await.unwrap(), None);
}

pub(super) async fn an_index_is_a_tree_that_is_read_by_place_and_by_id(house: House) {
    let store = &house.store;
    let made = store.scope("key", "uid", 5, "{}").await.unwrap();
    let mut mine = store.lease_scope(made.id, 0).await.unwrap().unwrap();
    let mut write = async |index: IndexWrites| {
        assert!(store.save_events(&Save { drain: None, index, ..save(&mine, &[]) }).await.unwrap());
        mine.version += 1;
    };
    // Ids as Dropbox gives them, and others.
    let (long, other) = ("a4ayc_80_OEAAAAAAAAAXw", "a4ayc_80_OEAAAAAAAAAXg");
    let put = vec![
        row(1, 0, "", "root", 1),
        row(2, 1, "a", "A", 1),
        row(3, 2, "b'\"%", "B", 1),
        row(4, 3, "c", "C", 0),
        row(5, 1, "c", long, 0),
    ];
    write(IndexWrites { put: put.clone(), ..IndexWrites::default() }).await;
    let numbers = |rows: Vec<IndexRow>| rows.iter().map(|row| row.n).collect::<std::collections::BTreeSet<_>>();
    let found = store.index_at(made.id, &[(1, "a"), (2, "b'\"%"), (2, "c"), (3, "c")]).await.unwrap();
    assert_eq!(numbers(found), [2, 3, 4].into());
    assert_eq!(store.index_by_id(made.id, &["B", "nobody", other]).await.unwrap(), [put[2].clone()]);
    assert_eq!(store.index_by_id(made.id, &[other, long]).await.unwrap(), [put[4].clone()]);
    let both = store.index_by_id(made.id, &[long, "A", long]).await.unwrap();
    assert_eq!(numbers(both), [2, 5].into());
    assert_eq!(numbers(store.index_upwards(made.id, &[4]).await.unwrap()), [1, 2, 3, 4].into());
    assert_eq!(numbers(store.index_children(made.id, 1, 2, 9).await.unwrap()), [5].into());
    assert_eq!(store.index_size(made.id).await.unwrap(), 4, "without the folder itself");
    // A moved folder is one row; what was not seen since is marked under it, and folders to be looked into.
    let moved = IndexRow { parent: 1, name: "z".into(), stamp: 20, ..put[2].clone() };
    write(IndexWrites { put: vec![moved], sweep: vec![(3, 10), (1, 3)], ..IndexWrites::default() }).await;
    assert_eq!(numbers(store.index_upwards(made.id, &[4]).await.unwrap()), [1, 3, 4].into());
    let gone: Vec<_> = store.index_gone(made.id, 0, 9).await.unwrap().iter().map(|row| (row.n, row.gone)).collect();
    assert_eq!(gone, [(2, Some(3)), (3, Some(3)), (4, Some(10))]);
    // What waits is dropped by its path, and with what lies under it.
    let wait = |path: &str, id: &str| WaitingRow { path: path.into(), id: Some(id.into()), body: "{}".into() };
    let wait = vec![wait("a", "x"), wait("a/b", "B"), wait("a-b", other), wait("a0", "z"), wait("z", long)];
    write(IndexWrites { wait, ..IndexWrites::default() }).await;
    let paths = |rows: Vec<WaitingRow>| rows.into_iter().map(|row| row.path).collect::<Vec<_>>();
    assert_eq!(paths(store.waiting(made.id, true, 9).await.unwrap()), ["a/b", "z"]);
    write(IndexWrites { unwait_ids: vec![long.into()], ..IndexWrites::default() }).await;
    assert_eq!(paths(store.waiting(made.id, true, 9).await.unwrap()), ["a/b"]);
    assert_eq!(store.waiting_at(made.id, &["a-b", "q"]).await.unwrap(), ["a-b"]);
    write(IndexWrites { unwait: vec![("a".into(), true), ("a0".into(), false)], ..IndexWrites::default() }).await;
    assert_eq!(paths(store.waiting(made.id, false, 9).await.unwrap()), ["a-b"]);
    write(IndexWrites { unwait_all: true, ..IndexWrites::default() }).await;
    assert!(!store.any_waiting(made.id).await.unwrap());
    // What was told to be deleted goes with all beneath it.
    let trash = IndexRow { parent: INDEX_TRASH, ..put[2].clone() };
    write(IndexWrites { put: vec![trash], ..IndexWrites::default() }).await;
    while store.empty_index_trash(made.id).await.unwrap() {}
    assert_eq!(numbers(store.index_upwards(made.id, &[1, 2, 3, 4, 5]).await.unwrap()), [1, 2, 5].into());
    write(IndexWrites { forget: true, ..IndexWrites::default() }).await;
    while store.empty_index_trash(made.id).await.unwrap() {}
    assert_eq!(store.index_size(made.id).await.unwrap(), 0);
}

pub(super) async fn a_checkpoint_has_one_holder_and_keeps_its_place(house: House) {
    let store = &house.store;
    assert_eq!(store.checkpoint("uid", "mirror").await.unwrap(), None);
    assert_eq!(store.take_checkpoint("uid", "mirror", "first").await.unwrap().token, None);
    store.acknowledge("uid", "mirror", Some("place")).await.unwrap();
    let taken = store.take_checkpoint("uid", "mirror", "second").await.unwrap();
    assert_eq!((taken.token.as_deref(), taken.holder.as_str()), (Some("place"), "second"));
    assert_eq!(store.checkpoint("other", "mirror").await.unwrap(), None);
    store.acknowledge("uid", "mirror", None).await.unwrap();
    assert_eq!(store.checkpoint("uid", "mirror").await.unwrap(), None);
}

pub(super) async fn what_nobody_watches_is_forgotten(house: House) {
    let store = &house.store;
    let made = store.scope("key", "uid", 5, "{}").await.unwrap();
    let mine = store.lease_scope(made.id, 0).await.unwrap().unwrap();
    let index = IndexWrites { put: vec![row(1, 0, "", "root", 1)], ..IndexWrites::default() };
    let step = save(&mine, &[1, 2, 3]);
    let head = LogHead { delicate: 2, ..step.head };
    assert!(store.save_events(&Save { index, head, ..step }).await.unwrap());
    assert_eq!(store.log_head_of("key").await.unwrap(), Some(head));
    assert_eq!(store.log_head_of("another").await.unwrap(), None);
    house.pass(SCOPE_KEPT - Duration::from_secs(1)).await;
    assert_eq!(store.sweep_events().await.unwrap().scopes, 0);
    store.scope("other", "uid", 5, "{}").await.unwrap();
    house.pass(Duration::from_secs(2)).await;
    assert_eq!(store.sweep_events().await.unwrap().scopes, 1);
    assert_eq!(store.log_head(made.id).await.unwrap(), None);
    assert!(store.index_upwards(made.id, &[1]).await.unwrap().is_empty());
    let again = store.scope("key", "uid", 8, "{}").await.unwrap();
    assert_eq!((again.head.newest, again.head.epoch), (0, 8));
    assert!(again.id > made.id, "what belonged to the old one cannot come back");
    // Of its tokens it is known whether a drain behind them was delicate; of those of which nothing is known as well.
    let was_delicate = async |epoch, sequence| store.was_delicate("key", epoch, sequence).await.unwrap();
    assert_eq!((was_delicate(5, 1).await, was_delicate(5, 2).await, was_delicate(7, 9).await), (true, false, true));
    assert!(!store.was_delicate("other", 5, 0).await.unwrap());
    // What a process of an older version told may be anything.
    house.sql("UPDATE event_scopes SET newest = 6 WHERE scope_key = 'key'").await;
    assert_eq!(store.log_head_of("key").await.unwrap().unwrap().delicate, 6);
    house.pass(SCOPE_KEPT + Duration::from_secs(2)).await;
    assert_eq!(store.sweep_events().await.unwrap().scopes, 2);
    assert!(was_delicate(5, 2).await, "the life behind it was");
    assert!(was_delicate(8, 5).await && !was_delicate(8, 6).await);
    house.pass(SCOPE_PAST_KEPT).await;
    store.sweep_events().await.unwrap();
    assert!(!was_delicate(5, 1).await);
}

pub(super) async fn what_an_index_said_is_read_for_as_long_as_the_log_tells_of_it(house: House) {
    let store = &house.store;
    let made = store.scope("key", "uid", 5, "{}").await.unwrap();
    let mut mine = store.lease_scope(made.id, 0).await.unwrap().unwrap();
    let mut write = async |log: &[i64], index: IndexWrites| {
        let step = save(&mine, log);
        assert!(store.save_events(&Save { index, ..step.clone() }).await.unwrap());
        (mine.version, mine.head) = (mine.version + 1, step.head);
    };
    let at = |row: IndexRow, since| IndexRow { since, ..row };
    let tree = vec![
        row(1, 0, "", "root", 1),
        row(2, 1, "docs", "D", 1),
        row(3, 2, "a", "A", 0),
        row(4, 2, "deep", "E", 1),
        row(5, 4, "b", "B", 0),
    ];
    write(&[], IndexWrites { put: tree.clone(), ..IndexWrites::default() }).await;
    // Entry 1 renames a file in the folder, 2 makes another at its place, 3 deletes the folder, 4 comes later.
    let renamed = IndexRow { name: "z".into(), ..at(tree[2].clone(), 1) };
    let anew = at(row(6, 2, "a", "F", 0), 2);
    let trash = IndexRow { parent: INDEX_TRASH, ..at(tree[1].clone(), 3) };
    let past = |row: &IndexRow, until| PastRow { row: row.clone(), until };
    let index = IndexWrites { put: vec![renamed], past: vec![past(&tree[2], 1)], ..IndexWrites::default() };
    write(&[1], index).await;
    write(&[2], IndexWrites { put: vec![anew], ..IndexWrites::default() }).await;
    let index = IndexWrites { put: vec![trash], past: vec![past(&tree[1], 3)], ..IndexWrites::default() };
    write(&[3, 4], index).await;
    let all = async |then| {
        let mut found = Vec::new();
        for parent in [2, 4] {
            let mut after = String::new();
            // One at a time: a portion ends anywhere.
            while let Some(row) = store.index_children_then(made.id, parent, then, &after, 1).await.unwrap().pop() {
                let again = store.index_row_then(made.id, row.n, then).await.unwrap().expect("it was there");
                assert_eq!((again.n, &again.name, again.parent, again.facts), (row.n, &row.name, parent, row.facts));
                after.clone_from(&row.name);
                found.push((row.n, row.name));
            }
        }
        found
    };
    let expected = [
        (0, vec![(3, "a"), (4, "deep"), (5, "b")]),
        (1, vec![(4, "deep"), (3, "z"), (5, "b")]),
        (2, vec![(6, "a"), (4, "deep"), (3, "z"), (5, "b")]),
    ];
    let look = async || {
        for (then, rows) in &expected {
            let rows: Vec<_> = rows.iter().map(|(n, name)| (*n, (*name).to_owned())).collect();
            assert_eq!(all(*then).await, rows, "after entry {then}");
        }
    };
    look().await;
    // Level by level it is taken out of the index, and at no moment anything is missing or twice.
    let mut portions = 0;
    while store.empty_index_trash(made.id).await.unwrap() {
        portions += 1;
        look().await;
    }
    assert!(portions >= 3, "{portions}");
    assert_eq!(store.index_size(made.id).await.unwrap(), 0);
    let back = store.index_row_then(made.id, 5, 2).await.unwrap().unwrap();
    assert_eq!((back.rev, back.hash, back.facts), (tree[4].rev.clone(), tree[4].hash.clone(), tree[4].facts));
    // It goes with the entries that it was before.
    assert_eq!(store.sweep_events().await.unwrap().past, 0);
    house.pass(EVENT_LOG_AGE + Duration::from_millis(1)).await;
    let swept = store.sweep_events().await.unwrap();
    assert_eq!((swept.entries, swept.past), (0, 1), "the last one of them stays, for tokens at it");
    assert_eq!(all(2).await.len(), 4);
    house.pass(EVENT_LOG_AGE).await;
    let swept = store.sweep_events().await.unwrap();
    assert_eq!((swept.entries, swept.past), (3, 5));
    assert!(all(2).await.is_empty());
    // What is deleted without an entry, as an index that is forgotten, is not kept at all.
    write(&[], IndexWrites { put: tree, ..IndexWrites::default() }).await;
    write(&[], IndexWrites { forget: true, ..IndexWrites::default() }).await;
    while store.empty_index_trash(made.id).await.unwrap() {}
    house.sql("UPDATE event_scopes SET swept = 1000000").await;
    assert_eq!(store.sweep_events().await.unwrap().past, 0);
}
