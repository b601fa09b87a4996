//! The index of a watched folder: what was told of it, as a tree whose moved folders are one row each. A page of changes is
//! read and written in a handful of statements, whatever its size: lists go in as JSON, which each of the two databases
//! unpacks in its own words (`index_sql.rs`). Which rows to write is decided elsewhere (`events/index.rs`).

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::{
    Store,
    database::{On, Pool, Row, Tx, query},
    facts::{self, Facts},
    index_sql::{self as sql, Words},
    item_id,
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

impl IndexRow {
    /// A folder that is there because of what lies in it: nobody has named it yet.
    pub fn implied(n: i64, parent: i64, name: &str, stamp: i64, since: i64) -> IndexRow {
        IndexRow {
            n,
            parent,
            name: name.to_owned(),
            display: None,
            id: None,
            rev: None,
            hash: None,
            facts: None,
            kind: 1,
            stamp,
            gone: None,
            since,
        }
    }
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
    #[serde(skip_serializing_if = "Option::is_none")]
    d: Option<&'a str>,
    /// Of a form that is not packed.
    #[serde(skip_serializing_if = "Option::is_none")]
    i: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    a: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    b: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
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
        let halves = row.id.as_deref().and_then(item_id::halves);
        let packed = row.facts.as_ref().map(|facts| hex::encode(facts::pack(rev, row.hash.as_deref(), facts)));
        Written {
            n: row.n,
            p: row.parent,
            m: &row.name,
            d: row.display.as_deref(),
            i: row.id.as_deref().filter(|_| halves.is_none()),
            a: halves.map(|(a, _)| a),
            b: halves.map(|(_, b)| b),
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

/// The same as the statement that writes it takes it.
#[derive(Serialize)]
struct Waits<'a> {
    #[serde(flatten)]
    row: &'a WaitingRow,
    x: Option<i64>,
    y: Option<i64>,
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

impl Store {
    /// The rows with these parents and names.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn index_at(&self, scope: i64, places: &[(i64, &str)]) -> Result<Vec<IndexRow>> {
        let places: Vec<_> = places.iter().map(|&(p, m)| Place { p, m }).collect();
        self.index_rows(sql::AT, scope, json(&places)?).await
    }

    /// The rows with these ids, what waits to be removed among them.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn index_by_id(&self, scope: i64, ids: &[&str]) -> Result<Vec<IndexRow>> {
        let mut keys: Vec<i64> = ids.iter().filter_map(|id| item_id::halves(id)).map(|(_, key)| key).collect();
        let others: Vec<&str> = ids.iter().copied().filter(|id| item_id::halves(id).is_none()).collect();
        let mut found = Vec::new();
        if !keys.is_empty() {
            keys.sort_unstable();
            keys.dedup();
            let asked: HashSet<&str> = ids.iter().copied().collect();
            found = self.index_rows(sql::BY_KEY, scope, json(&keys)?).await?;
            found.retain(|row| row.id.as_deref().is_some_and(|id| asked.contains(id)));
        }
        if !others.is_empty() {
            found.extend(self.index_rows(sql::BY_ID, scope, json(&others)?).await?);
        }
        Ok(found)
    }

    /// The rows of these numbers and all above them.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn index_upwards(&self, scope: i64, numbers: &[i64]) -> Result<Vec<IndexRow>> {
        self.index_rows(sql::UPWARDS, scope, json(&numbers)?).await
    }

    /// The children of these rows, as many as a transaction takes.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    #[cfg(test)]
    pub async fn index_children(&self, scope: i64, parent: i64, after: i64, most: usize) -> Result<Vec<IndexRow>> {
        let rows = query(sql::CHILDREN).bind(scope).bind(parent).bind(after).bind(most as i64);
        rows.fetch_all(&self.0.pools.readers).await?.iter().map(item).collect()
    }

    /// Rows that were said to be gone and are not settled, oldest number first, behind `after`.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn index_gone(&self, scope: i64, after: i64, most: usize) -> Result<Vec<IndexRow>> {
        let rows = query(self.said(sql::GONE)).bind(scope).bind(after).bind(most as i64);
        let rows = rows.fetch_all(&self.0.pools.readers).await?;
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

    /// What all indexes take on the disk.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    #[cfg(test)]
    pub async fn index_bytes(&self) -> Result<i64> {
        let sql = self.said((
            "SELECT SUM(pgsize) AS bytes FROM dbstat WHERE name LIKE 'index_items%'",
            "SELECT pg_total_relation_size('index_items')::BIGINT AS bytes",
        ));
        query(sql).fetch_one(&self.0.pools.readers).await?.get("bytes")
    }

    /// Which of these paths have an addition that waits.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn waiting_at(&self, scope: i64, paths: &[&str]) -> Result<Vec<String>> {
        let sql = self.said(sql::WAITING_AT);
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
            true => self.said(sql::WAITING_KNOWN),
            false => "SELECT path, id, body FROM event_waiting WHERE scope = $1 ORDER BY path LIMIT $2",
        };
        let rows = query(sql).bind(scope).bind(most as i64).fetch_all(&self.0.pools.readers).await?;
        let waiting = |row: &Row| Ok(WaitingRow { path: row.get("path")?, id: row.get("id")?, body: row.get("body")? });
        rows.iter().map(waiting).collect()
    }

    pub(super) async fn write_index(&self, tx: &mut Tx, scope: i64, writes: &IndexWrites) -> Result<()> {
        if writes.forget {
            let rows = query(self.said(sql::FORGET)).bind(scope).bind(INDEX_TRASH).bind(INDEX_ROOT);
            rows.execute(&mut *tx).await?;
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
        let all: Vec<_> = writes.unwait.iter().map(|(path, _)| path).collect();
        let under: Vec<_> = writes.unwait.iter().filter(|(_, under)| *under).map(|(path, _)| path).collect();
        let ids: Vec<_> = writes.unwait_ids.iter().collect();
        for (list, words) in [(all, sql::UNWAIT), (under, sql::UNWAIT_UNDER), (ids, sql::UNWAIT_IDS)] {
            if !list.is_empty() {
                query(self.said(words)).bind(scope).bind(json(&list)?).execute(&mut *tx).await?;
            }
        }
        if !writes.put.is_empty() {
            let sql = self.said(sql::PUT);
            let put: Vec<_> = writes.put.iter().map(|row| Written::of(row, 0)).collect();
            query(sql).bind(scope).bind(json(&put)?).execute(&mut *tx).await?;
        }
        if !writes.past.is_empty() {
            let past: Vec<_> = writes.past.iter().map(|past| Written::of(&past.row, past.until)).collect();
            query(self.said(sql::KEEP)).bind(scope).bind(json(&past)?).execute(&mut *tx).await?;
        }
        if !writes.wait.is_empty() {
            let sql = self.said(sql::WAIT);
            let waits = writes.wait.iter().map(|row| {
                let halves = row.id.as_deref().and_then(item_id::halves);
                Waits { row, x: halves.map(|(a, _)| a), y: halves.map(|(_, b)| b) }
            });
            query(sql).bind(scope).bind(json(&waits.collect::<Vec<_>>())?).execute(&mut *tx).await?;
        }
        if !writes.sweep.is_empty() {
            let sweeps: Vec<_> = writes.sweep.iter().map(|&(n, s)| Sweep { n, s }).collect();
            let sql = self.said(sql::SWEEP);
            query(sql).bind(scope).bind(json(&sweeps)?).execute(&mut *tx).await?;
        }
        Ok(())
    }

    async fn index_rows(&self, words: Words, scope: i64, list: String) -> Result<Vec<IndexRow>> {
        let rows = query(self.said(words)).bind(scope).bind(list).fetch_all(On::from(&self.0.pools.readers)).await?;
        rows.iter().map(item).collect()
    }

    /// The few statements whose words differ stand side by side.
    pub(super) fn said(&self, (sqlite, postgres): Words) -> &'static str {
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
    let id = match (row.get("id_a")?, row.get("id_b")?) {
        (Some(a), Some(b)) => Some(item_id::whole(a, b)),
        _ => row.get("id")?,
    };
    Ok(IndexRow {
        n: row.get("n")?,
        parent: row.get("parent")?,
        name: row.get("name")?,
        display: row.get("display")?,
        id,
        rev,
        hash,
        facts,
        kind: row.get("kind")?,
        stamp: row.get("stamp")?,
        gone: row.get("gone")?,
        since: row.get("since")?,
    })
}
