//! The index of a watched folder: what was told of it, as a tree whose moved folders are one row each. A page of changes is
//! read and written in a handful of statements, whatever its size: lists go in as JSON, which each of the two databases
//! unpacks in its own words. Which rows to write is decided elsewhere (`events/index.rs`).

use serde::{Deserialize, Serialize};

use super::{
    Store,
    database::{On, Pool, Row, Tx, query},
    facts::{self, Facts},
};
use crate::fault::{Fault, Result};

/// The watched folder itself: number and parent.
pub const INDEX_ROOT: i64 = 1;
/// The parent of what was told to be deleted and is still to be removed.
pub const INDEX_TRASH: i64 = -1;

/// One item of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexRow {
    pub n: i64,
    pub parent: i64,
    /// In lower case, as Dropbox lowers it.
    pub name: String,
    /// In its own case, where that differs.
    pub display: Option<String>,
    /// Without `id:`.
    pub id: Option<String>,
    /// Of a file its revision; of a folder how it is shared.
    pub rev: Option<String>,
    /// Of a file, if Dropbox gave one.
    pub hash: Option<String>,
    /// Of a file.
    pub facts: Option<Facts>,
    /// 0: a file; 1: a folder.
    pub kind: i64,
    /// Grows with each entry: when it was last seen.
    pub stamp: i64,
    /// The stamp at which it, and what lies beneath, was said to be gone; negative: from there its sharing changed.
    pub gone: Option<i64>,
    /// The number of the log's entry from which on it is as it is here; 0: since the log knows of it.
    pub since: i64,
}

/// An item as it was before an entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastRow {
    pub row: IndexRow,
    /// The number of that entry.
    pub until: i64,
}

/// A row as the statements that write it take it.
#[derive(Serialize)]
struct Written<'a> {
    n: i64,
    p: i64,
    m: &'a str,
    d: Option<&'a str>,
    i: Option<&'a str>,
    r: Option<&'a str>,
    /// In hexadecimal.
    f: Option<String>,
    k: i64,
    s: i64,
    g: Option<i64>,
    q: i64,
    u: i64,
}

impl<'a> Written<'a> {
    fn of(row: &'a IndexRow, until: i64) -> Written<'a> {
        let rev = row.rev.as_deref();
        let packed = row.facts.as_ref().map(|facts| hex::encode(facts::pack(rev, row.hash.as_deref(), facts)));
        Written {
            n: row.n,
            p: row.parent,
            m: &row.name,
            d: row.display.as_deref(),
            i: row.id.as_deref(),
            r: rev.filter(|_| packed.is_none()),
            f: packed,
            k: row.kind,
            s: row.stamp,
            g: row.gone,
            q: row.since,
            u: until,
        }
    }
}

/// An addition that is told later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingRow {
    #[serde(rename = "p")]
    pub path: String,
    #[serde(rename = "i")]
    pub id: Option<String>,
    #[serde(rename = "b")]
    pub body: String,
}

/// What one transaction changes in an index, in the order of the fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IndexWrites {
    /// Everything goes, in portions of the next transactions.
    pub forget: bool,
    /// No addition waits any more.
    pub unwait_all: bool,
    /// Additions that wait at these paths, or also under them, are dropped.
    pub unwait: Vec<(String, bool)>,
    /// Additions of these items that wait are dropped, wherever they are to go.
    pub unwait_ids: Vec<String>,
    pub put: Vec<IndexRow>,
    /// What was so before this step told otherwise.
    pub past: Vec<PastRow>,
    pub wait: Vec<WaitingRow>,
    /// Under the row of this number what was not seen since this stamp is gone, and folders are to be looked into.
    pub sweep: Vec<(i64, i64)>,
}

#[derive(Serialize)]
struct Place<'a> {
    p: i64,
    m: &'a str,
}

#[derive(Serialize)]
struct Sweep {
    n: i64,
    s: i64,
}

macro_rules! columns {
    () => {
        "i.n, i.parent, i.name, i.display, i.id, i.rev, i.facts, i.kind, i.stamp, i.gone, i.since"
    };
}

impl Store {
    /// The rows with these parents and names.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn index_at(&self, scope: i64, places: &[(i64, &str)]) -> Result<Vec<IndexRow>> {
        let places: Vec<_> = places.iter().map(|&(p, m)| Place { p, m }).collect();
        let sql = self.said(
            concat!(
                "SELECT ",
                columns!(),
                " FROM json_each($2) AS w JOIN index_items i ON i.scope = $1
                   AND i.parent = json_extract(w.value, '$.p') AND i.name = json_extract(w.value, '$.m')"
            ),
            concat!(
                "SELECT ",
                columns!(),
                " FROM jsonb_to_recordset($2::jsonb) AS w(p BIGINT, m TEXT)
                 JOIN index_items i ON i.scope = $1 AND i.parent = w.p AND i.name = w.m COLLATE \"C\""
            ),
        );
        self.index_rows(sql, scope, json(&places)?).await
    }

    /// The rows with these ids, what waits to be removed among them.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn index_by_id(&self, scope: i64, ids: &[&str]) -> Result<Vec<IndexRow>> {
        let sql = self.said(
            concat!(
                "SELECT ",
                columns!(),
                " FROM json_each($2) AS w JOIN index_items i ON i.scope = $1 AND i.id = w.value"
            ),
            concat!(
                "SELECT ",
                columns!(),
                " FROM jsonb_array_elements_text($2::jsonb) AS w(v)
                 JOIN index_items i ON i.scope = $1 AND i.id = w.v COLLATE \"C\""
            ),
        );
        self.index_rows(sql, scope, json(&ids)?).await
    }

    /// The rows of these numbers and all above them.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn index_upwards(&self, scope: i64, numbers: &[i64]) -> Result<Vec<IndexRow>> {
        let sql = self.said(
            concat!(
                "WITH RECURSIVE up(n) AS (SELECT value FROM json_each($2)
                   UNION SELECT i.parent FROM up JOIN index_items i ON i.scope = $1 AND i.n = up.n)
                 SELECT ",
                columns!(),
                " FROM up JOIN index_items i ON i.scope = $1 AND i.n = up.n"
            ),
            concat!(
                "WITH RECURSIVE up(n) AS (SELECT v::BIGINT FROM jsonb_array_elements_text($2::jsonb) AS w(v)
                   UNION SELECT i.parent FROM up JOIN index_items i ON i.scope = $1 AND i.n = up.n)
                 SELECT ",
                columns!(),
                " FROM up JOIN index_items i ON i.scope = $1 AND i.n = up.n"
            ),
        );
        self.index_rows(sql, scope, json(&numbers)?).await
    }

    /// The children of these rows, as many as a transaction takes.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    #[cfg(test)]
    pub async fn index_children(&self, scope: i64, parent: i64, after: i64, most: usize) -> Result<Vec<IndexRow>> {
        let sql = concat!(
            "SELECT ",
            columns!(),
            " FROM index_items i WHERE i.scope = $1 AND i.parent = $2 AND i.n > $3 ORDER BY i.n LIMIT $4"
        );
        let rows = query(sql).bind(scope).bind(parent).bind(after).bind(most as i64);
        rows.fetch_all(&self.0.pools.readers).await?.iter().map(item).collect()
    }

    /// Rows that were said to be gone and are not settled, oldest number first, behind `after`.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn index_gone(&self, scope: i64, after: i64, most: usize) -> Result<Vec<IndexRow>> {
        let sql = concat!(
            "SELECT ",
            columns!(),
            " FROM index_items i WHERE i.scope = $1 AND i.n > $2 AND i.gone IS NOT NULL ORDER BY i.n LIMIT $3"
        );
        let rows = query(sql).bind(scope).bind(after).bind(most as i64).fetch_all(&self.0.pools.readers).await?;
        rows.iter().map(item).collect()
    }

    /// How many items an index holds.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    #[cfg(test)]
    pub async fn index_size(&self, scope: i64) -> Result<i64> {
        let sql = "SELECT COUNT(*) AS found FROM index_items WHERE scope = $1 AND parent > 0";
        query(sql).bind(scope).fetch_one(&self.0.pools.readers).await?.get("found")
    }

    /// Which of these paths have an addition that waits.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn waiting_at(&self, scope: i64, paths: &[&str]) -> Result<Vec<String>> {
        let sql = self.said(
            "SELECT x.path FROM json_each($2) AS w JOIN event_waiting x ON x.scope = $1 AND x.path = w.value",
            "SELECT x.path FROM jsonb_array_elements_text($2::jsonb) AS w(v)
             JOIN event_waiting x ON x.scope = $1 AND x.path = w.v COLLATE \"C\"",
        );
        let rows = query(sql).bind(scope).bind(json(&paths)?).fetch_all(&self.0.pools.readers).await?;
        rows.iter().map(|row| row.get("path")).collect()
    }

    /// Whether any addition waits.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn any_waiting(&self, scope: i64) -> Result<bool> {
        let sql = "SELECT path FROM event_waiting WHERE scope = $1 LIMIT 1";
        Ok(query(sql).bind(scope).fetch_optional(&self.0.pools.readers).await?.is_some())
    }

    /// Additions that wait, in the order of their paths: parents before children. `known`: only those whose id the index has.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn waiting(&self, scope: i64, known: bool, most: usize) -> Result<Vec<WaitingRow>> {
        let sql = match known {
            true => {
                "SELECT w.path, w.id, w.body FROM event_waiting w WHERE w.scope = $1 AND EXISTS
                 (SELECT 1 FROM index_items i WHERE i.scope = $1 AND i.id = w.id) ORDER BY w.path LIMIT $2"
            }
            false => "SELECT path, id, body FROM event_waiting WHERE scope = $1 ORDER BY path LIMIT $2",
        };
        let rows = query(sql).bind(scope).bind(most as i64).fetch_all(&self.0.pools.readers).await?;
        let waiting = |row: &Row| Ok(WaitingRow { path: row.get("path")?, id: row.get("id")?, body: row.get("body")? });
        rows.iter().map(waiting).collect()
    }

    pub(super) async fn write_index(&self, tx: &mut Tx, scope: i64, writes: &IndexWrites) -> Result<()> {
        if writes.forget {
            let sql = "UPDATE index_items SET parent = $2, gone = NULL, since = 0 WHERE scope = $1 AND (n = $3 OR parent = $3)";
            query(sql).bind(scope).bind(INDEX_TRASH).bind(INDEX_ROOT).execute(&mut *tx).await?;
            // The next root takes the number again.
            query("DELETE FROM index_items WHERE scope = $1 AND n = $2")
                .bind(scope)
                .bind(INDEX_ROOT)
                .execute(&mut *tx)
                .await?;
            query("DELETE FROM event_waiting WHERE scope = $1").bind(scope).execute(&mut *tx).await?;
        }
        if writes.unwait_all {
            query("DELETE FROM event_waiting WHERE scope = $1").bind(scope).execute(&mut *tx).await?;
        }
        let paths: Vec<_> = writes.unwait.iter().map(|(path, _)| path).collect();
        if !paths.is_empty() {
            let sql = self.said(
                "DELETE FROM event_waiting WHERE scope = $1 AND path IN (SELECT value FROM json_each($2))",
                "DELETE FROM event_waiting WHERE scope = $1
                   AND path IN (SELECT v FROM jsonb_array_elements_text($2::jsonb) AS w(v))",
            );
            query(sql).bind(scope).bind(json(&paths)?).execute(&mut *tx).await?;
        }
        if !writes.unwait_ids.is_empty() {
            let sql = self.said(
                "DELETE FROM event_waiting WHERE scope = $1 AND id IN (SELECT value FROM json_each($2))",
                "DELETE FROM event_waiting WHERE scope = $1
                   AND id IN (SELECT v FROM jsonb_array_elements_text($2::jsonb) AS w(v))",
            );
            query(sql).bind(scope).bind(json(&writes.unwait_ids)?).execute(&mut *tx).await?;
        }
        for (path, _) in writes.unwait.iter().filter(|(_, with_all_under)| *with_all_under) {
            // `0` is the byte after `/`.
            let sql = "DELETE FROM event_waiting WHERE scope = $1 AND path > $2 AND path < $3";
            let under = query(sql).bind(scope).bind(format!("{path}/")).bind(format!("{path}0"));
            under.execute(&mut *tx).await?;
        }
        if !writes.put.is_empty() {
            let sql = self.said(
                "INSERT INTO index_items (scope, n, parent, name, display, id, rev, facts, kind, stamp, gone, since)
                 SELECT $1, json_extract(w.value, '$.n'), json_extract(w.value, '$.p'), json_extract(w.value, '$.m'),
                   json_extract(w.value, '$.d'), json_extract(w.value, '$.i'), json_extract(w.value, '$.r'),
                   unhex(json_extract(w.value, '$.f')), json_extract(w.value, '$.k'), json_extract(w.value, '$.s'),
                   json_extract(w.value, '$.g'), json_extract(w.value, '$.q') FROM json_each($2) AS w WHERE TRUE
                 ON CONFLICT (scope, n) DO UPDATE SET parent = excluded.parent, name = excluded.name,
                   display = excluded.display, id = excluded.id, rev = excluded.rev, facts = excluded.facts,
                   kind = excluded.kind, stamp = excluded.stamp, gone = excluded.gone, since = excluded.since",
                "INSERT INTO index_items (scope, n, parent, name, display, id, rev, facts, kind, stamp, gone, since)
                 SELECT $1, w.n, w.p, w.m, w.d, w.i, w.r, decode(w.f, 'hex'), w.k, w.s, w.g, w.q
                   FROM jsonb_to_recordset($2::jsonb) AS w(n BIGINT, p BIGINT, m TEXT, d TEXT, i TEXT, r TEXT, f TEXT,
                     k BIGINT, s BIGINT, g BIGINT, q BIGINT)
                 ON CONFLICT (scope, n) DO UPDATE SET parent = excluded.parent, name = excluded.name,
                   display = excluded.display, id = excluded.id, rev = excluded.rev, facts = excluded.facts,
                   kind = excluded.kind, stamp = excluded.stamp, gone = excluded.gone, since = excluded.since",
            );
            let put: Vec<_> = writes.put.iter().map(|row| Written::of(row, 0)).collect();
            query(sql).bind(scope).bind(json(&put)?).execute(&mut *tx).await?;
        }
        if !writes.past.is_empty() {
            let past: Vec<_> = writes.past.iter().map(|past| Written::of(&past.row, past.until)).collect();
            self.write_index_past(tx, scope, json(&past)?).await?;
        }
        if !writes.wait.is_empty() {
            let sql = self.said(
                "INSERT INTO event_waiting (scope, path, id, body) SELECT $1, json_extract(w.value, '$.p'),
                   json_extract(w.value, '$.i'), json_extract(w.value, '$.b') FROM json_each($2) AS w WHERE TRUE
                 ON CONFLICT (scope, path) DO UPDATE SET id = excluded.id, body = excluded.body",
                "INSERT INTO event_waiting (scope, path, id, body) SELECT $1, w.p, w.i, w.b
                   FROM jsonb_to_recordset($2::jsonb) AS w(p TEXT, i TEXT, b TEXT)
                 ON CONFLICT (scope, path) DO UPDATE SET id = excluded.id, body = excluded.body",
            );
            query(sql).bind(scope).bind(json(&writes.wait)?).execute(&mut *tx).await?;
        }
        if !writes.sweep.is_empty() {
            let sweeps: Vec<_> = writes.sweep.iter().map(|&(n, s)| Sweep { n, s }).collect();
            let sql = self.said(
                "UPDATE index_items SET gone = MAX(COALESCE(gone, 0), json_extract(w.value, '$.s')) FROM json_each($2) AS w
                 WHERE index_items.scope = $1 AND index_items.parent = json_extract(w.value, '$.n')
                   AND (index_items.stamp < json_extract(w.value, '$.s') OR index_items.kind = 1)",
                "UPDATE index_items SET gone = GREATEST(COALESCE(gone, 0), w.s)
                 FROM jsonb_to_recordset($2::jsonb) AS w(n BIGINT, s BIGINT)
                 WHERE index_items.scope = $1 AND index_items.parent = w.n
                   AND (index_items.stamp < w.s OR index_items.kind = 1)",
            );
            query(sql).bind(scope).bind(json(&sweeps)?).execute(&mut *tx).await?;
        }
        Ok(())
    }

    async fn index_rows(&self, sql: &'static str, scope: i64, list: String) -> Result<Vec<IndexRow>> {
        let rows = query(sql).bind(scope).bind(list).fetch_all(On::from(&self.0.pools.readers)).await?;
        rows.iter().map(item).collect()
    }

    /// The few statements whose words differ stand side by side.
    pub(super) fn said(&self, sqlite: &'static str, postgres: &'static str) -> &'static str {
        match &self.0.pools.durable {
            Pool::Sqlite(_) => sqlite,
            Pool::Postgres(_) => postgres,
        }
    }
}

pub(super) fn json<T: Serialize>(list: &T) -> Result<String> {
    serde_json::to_string(list).map_err(|error| Fault::bug("rows cannot be written as JSON").source(error))
}

pub(super) fn item(row: &Row) -> Result<IndexRow> {
    let packed: Option<Vec<u8>> = row.get("facts")?;
    let (rev, hash, facts) = match packed.as_deref().and_then(facts::unpack) {
        Some(unpacked) => (unpacked.rev, unpacked.hash, Some(unpacked.facts)),
        None => (row.get("rev")?, None, None),
    };
    Ok(IndexRow {
        n: row.get("n")?,
        parent: row.get("parent")?,
        name: row.get("name")?,
        display: row.get("display")?,
        id: row.get("id")?,
        rev,
        hash,
        facts,
        kind: row.get("kind")?,
        stamp: row.get("stamp")?,
        gone: row.get("gone")?,
        since: row.get("since")?,
    })
}
