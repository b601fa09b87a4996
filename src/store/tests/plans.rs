//! How both databases find the rows of an index: by the whole key of one index each, in tables that have just grown and were
//! never counted, where they guess most. A plan that reads all of a scope works, and costs a large folder seconds a change.

use super::*;
use crate::store::{
    events::SWEEP_DRAINS,
    index_sql::{self as sql, Words},
};

/// What is bound: `n` a number, `l` a list, `t` a text.
const STATEMENTS: &[(&str, Words, &str)] = &[
    ("AT", sql::AT, "nl"),
    ("BY_ID", sql::BY_ID, "nl"),
    ("BY_KEY", sql::BY_KEY, "nl"),
    ("UPWARDS", sql::UPWARDS, "nl"),
    ("GONE", sql::GONE, "nnn"),
    ("WAITING_AT", sql::WAITING_AT, "nl"),
    ("WAITING_KNOWN", sql::WAITING_KNOWN, "nn"),
    ("TRASHED", sql::TRASHED, "nnn"),
    ("INSIDE", sql::INSIDE, "nln"),
    ("KEEP_LIFTED", sql::KEEP_LIFTED, "nl"),
    ("LIFT", sql::LIFT, "nnl"),
    ("REMOVE", sql::REMOVE, "nl"),
    ("FORGET", sql::FORGET, "nnn"),
    ("UNWAIT", sql::UNWAIT, "nl"),
    ("UNWAIT_UNDER", sql::UNWAIT_UNDER, "nl"),
    ("UNWAIT_IDS", sql::UNWAIT_IDS, "nl"),
    ("SWEEP", sql::SWEEP, "nl"),
    ("SWEEP_PAST", sql::SWEEP_PAST, "n"),
    ("CHILDREN_THEN", sql::CHILDREN_THEN, "nnntn"),
    ("ROW_THEN", (sql::ROW_THEN, sql::ROW_THEN), "nnn"),
    ("SWEEP_DRAINS", (SWEEP_DRAINS, SWEEP_DRAINS), "n"),
];

/// Tables that may be large, as the statements call them. SQLite calls lists and results of queries so, too.
const TABLES: &[&str] =
    &["i", "c", "t", "x", "p", "index_items", "index_past", "event_waiting", "event_log", "event_drains"];

async fn plan(store: &Store, words: Words, bound: &str) -> Vec<String> {
    let (explain, column) = match store.0.pools.durable {
        Pool::Sqlite(_) => ("EXPLAIN QUERY PLAN", "detail"),
        Pool::Postgres(_) => ("EXPLAIN", "QUERY PLAN"),
    };
    let text: &'static str = Box::leak(format!("{explain} {}", store.said(words)).into_boxed_str());
    let asked = bound.chars().fold(query(text), |query, kind| match kind {
        'n' => query.bind(1),
        't' => query.bind("name"),
        _ => query.bind("[]"),
    });
    let rows = asked.fetch_all(&store.0.pools.durable).await.unwrap();
    rows.iter().map(|row| row.get::<String>(column).unwrap()).collect()
}

/// Rows that no statistics know of; so many that reading a scope whole is not the cheapest by any guess.
const GROWN: &[&str] = &[
    "INSERT INTO index_items (scope, n, parent, name, id, id_a, id_b, kind, stamp)
     SELECT 1, n, n / 20, 'n' || n, 'i' || n, n, n, 0, n FROM g",
    "INSERT INTO index_past (scope, n, parent, name, kind, since, until) SELECT 1, n, n / 20, 'n' || n, 0, 0, n FROM g",
    "INSERT INTO event_waiting (scope, path, id, body) SELECT 1, 'n' || n, 'i' || n, '{}' FROM g",
    "INSERT INTO event_drains (scope, drain, mark, cursor_from) SELECT 1, n, 0, '' FROM g",
    "INSERT INTO event_log (scope, sequence, drain, observed_at, ends, body) SELECT 1, n, n, 0, 0, '{}' FROM g",
];

pub(super) async fn an_index_is_read_and_written_by_whole_keys_whatever_its_size(house: House) {
    for insert in GROWN {
        let numbers = "WITH RECURSIVE g(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM g WHERE n < 100000)";
        house.sql(Box::leak(format!("{numbers} {insert}").into_boxed_str())).await;
    }
    if let Pool::Postgres(_) = &house.store.0.pools.durable {
        // No plan outlives the table that it was made for.
        let row = query("SHOW plan_cache_mode").fetch_one(&house.store.0.pools.durable).await.unwrap();
        assert_eq!(row.get::<String>("plan_cache_mode").unwrap(), "force_custom_plan");
    }
    for (name, words, bound) in STATEMENTS {
        let plan = plan(&house.store, *words, bound).await;
        let shown = format!("{name}:\n{}", plan.join("\n"));
        let mut keys = 0;
        for line in &plan {
            let scanned = line.split_once("SCAN ").and_then(|(_, rest)| rest.split(' ').next());
            assert!(!scanned.is_some_and(|table| TABLES.contains(&table)), "{shown}");
            let joined = line.contains("Join") && (line.contains("Hash") || line.contains("Merge"));
            // Scopes are few, and swept one after the other.
            let scans = line.contains("Seq Scan") && !line.contains("on event_scopes");
            assert!(!joined && !scans && !line.contains("AUTOMATIC") && !line.contains("JIT"), "{shown}");
            let Some((_, condition)) = line.split_once("Index Cond: ").or_else(|| line.split_once("(scope=?")) else {
                continue;
            };
            if condition.starts_with("(id = ") {
                // The row of the scope itself.
                continue;
            }
            // What waits is read in the order of its paths, and the oldest entry of a log is the first one.
            let whole_of_scope = (*name == "WAITING_KNOWN" && keys == 0) || (*name == "SWEEP_DRAINS");
            keys += 1;
            assert!(condition.contains(" AND ") || whole_of_scope, "{shown}");
        }
        assert!(keys > 0, "{shown}");
    }
}

pub(super) async fn drains_go_with_the_last_of_their_entries(house: House) {
    let store = &house.store;
    let made = store.scope("key", "uid", 5, "{}").await.unwrap();
    let fill = |sql: &'static str| query(sql).bind(made.id).execute(&store.0.pools.durable);
    for drain in 1..=4_i64 {
        let sql = "INSERT INTO event_drains (scope, drain, mark, cursor_from) VALUES ($1, $2, 0, '')";
        query(sql).bind(made.id).bind(drain).execute(&store.0.pools.durable).await.unwrap();
    }
    assert_eq!(fill(SWEEP_DRAINS).await.unwrap(), 0, "of an empty log the newest may be going on");
    for sequence in 7..=9_i64 {
        let sql =
            "INSERT INTO event_log (scope, sequence, drain, observed_at, ends, body) VALUES ($1, $2, $3, 0, 0, '')";
        let drain = if sequence < 9 { 2 } else { 4 };
        query(sql).bind(made.id).bind(sequence).bind(drain).execute(&store.0.pools.durable).await.unwrap();
    }
    assert_eq!(fill(SWEEP_DRAINS).await.unwrap(), 1);
    let left = query("SELECT drain FROM event_drains ORDER BY drain").fetch_all(&store.0.pools.readers).await.unwrap();
    let left: Vec<i64> = left.iter().map(|row| row.get("drain").unwrap()).collect();
    assert_eq!(left, [2, 3, 4]);
}
