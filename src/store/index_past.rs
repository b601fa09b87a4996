//! What an index said before. An entry of the log that moves or deletes a folder stands for all the folder held at that
//! moment, however much it was, and is told of each of it to those who want that, now or when they read the log tomorrow. So
//! a row that an entry changes is kept as it was for as long as the log has older entries: `since` and `until` are numbers of
//! entries, and "then" is one of them, too.

use super::{
    INDEX_TRASH, IndexRow, ROWS_MAX, Store,
    database::{Row, Tx, query},
    index::{item, json},
};
use crate::fault::Result;

macro_rules! columns {
    () => {
        "i.n, i.parent, i.name, i.display, i.id, i.rev, i.facts, i.kind, i.stamp, i.gone, i.since"
    };
}

/// The same of rows that are not in the index any more.
macro_rules! columns_of_past {
    () => {
        "i.n, i.parent, i.name, i.display, i.id, i.rev, i.facts, i.kind, i.since AS stamp, CAST(NULL AS BIGINT) AS gone, i.since"
    };
}

impl Store {
    /// What lay in a folder when the entry of this number had been told: a portion of it, in the order of the names, behind
    /// the name `after`.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn index_children_then(
        &self,
        scope: i64,
        parent: i64,
        then: i64,
        after: &str,
        most: usize,
    ) -> Result<Vec<IndexRow>> {
        let sql = concat!(
            "SELECT * FROM (
               SELECT * FROM (SELECT ",
            columns!(),
            " FROM index_items i WHERE i.scope = $1 AND i.parent = $2 AND i.name > $4 AND i.since <= $3
                 ORDER BY i.name LIMIT $5) AS is_so
               UNION ALL
               SELECT * FROM (SELECT ",
            columns_of_past!(),
            " FROM index_past i WHERE i.scope = $1 AND i.parent = $2 AND i.name > $4 AND i.since <= $3 AND i.until > $3
                 ORDER BY i.name LIMIT $5) AS was_so
             ) AS then_so ORDER BY name LIMIT $5"
        );
        let rows = query(sql).bind(scope).bind(parent).bind(then).bind(after).bind(most as i64);
        rows.fetch_all(&self.0.pools.readers).await?.iter().map(item).collect()
    }

    /// The row of this number as it was when the entry of the number `then` had been told.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn index_row_then(&self, scope: i64, n: i64, then: i64) -> Result<Option<IndexRow>> {
        let sql = concat!(
            "SELECT ",
            columns!(),
            " FROM index_items i WHERE i.scope = $1 AND i.n = $2 AND i.since <= $3
             UNION ALL SELECT ",
            columns_of_past!(),
            " FROM index_past i WHERE i.scope = $1 AND i.n = $2 AND i.since <= $3 AND i.until > $3"
        );
        let row = query(sql).bind(scope).bind(n).bind(then).fetch_optional(&self.0.pools.readers).await?;
        row.as_ref().map(item).transpose()
    }

    pub(super) async fn write_index_past(&self, tx: &mut Tx, scope: i64, list: String) -> Result<()> {
        let sql = self.said(
            "INSERT INTO index_past (scope, n, parent, name, display, id, rev, facts, kind, since, until)
             SELECT $1, json_extract(w.value, '$.n'), json_extract(w.value, '$.p'), json_extract(w.value, '$.m'),
               json_extract(w.value, '$.d'), json_extract(w.value, '$.i'), json_extract(w.value, '$.r'),
               unhex(json_extract(w.value, '$.f')), json_extract(w.value, '$.k'), json_extract(w.value, '$.q'),
               json_extract(w.value, '$.u') FROM json_each($2) AS w WHERE TRUE
             ON CONFLICT (scope, n, until) DO NOTHING",
            "INSERT INTO index_past (scope, n, parent, name, display, id, rev, facts, kind, since, until)
             SELECT $1, w.n, w.p, w.m, w.d, w.i, w.r, decode(w.f, 'hex'), w.k, w.q, w.u
               FROM jsonb_to_recordset($2::jsonb) AS w(n BIGINT, p BIGINT, m TEXT, d TEXT, i TEXT, r TEXT, f TEXT,
                 k BIGINT, q BIGINT, u BIGINT)
             ON CONFLICT (scope, n, until) DO NOTHING",
        );
        query(sql).bind(scope).bind(list).execute(tx).await.map(drop)
    }

    /// Removes a portion of what was told to be deleted; false when nothing is left. The index has no use for these rows any
    /// more, so it needs no lease. What a deleted folder held is lifted out of it level by level, and of each row is kept
    /// where it lay: the entry that deletes the folder may still be told of all of it.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn empty_index_trash(&self, scope: i64) -> Result<bool> {
        #[cfg(test)]
        super::kill::here()?;
        let mut tx = self.0.pools.quick.begin().await?;
        let sql = "SELECT c.n FROM index_items t JOIN index_items c ON c.scope = $1 AND c.parent = t.n
                   WHERE t.scope = $1 AND t.parent = $2 LIMIT $3";
        let inside = query(sql).bind(scope).bind(INDEX_TRASH).bind(ROWS_MAX).fetch_all(&mut tx).await?;
        let inside = inside.iter().map(|row: &Row| row.get("n")).collect::<Result<Vec<i64>>>()?;
        let mut removed = 0;
        if inside.is_empty() {
            let sql = "DELETE FROM index_items WHERE scope = $1 AND n IN
                       (SELECT n FROM index_items WHERE scope = $1 AND parent = $2 LIMIT $3)";
            removed = query(sql).bind(scope).bind(INDEX_TRASH).bind(ROWS_MAX).execute(&mut tx).await?;
        } else {
            let list = json(&inside)?;
            let keep = self.said(
                "INSERT INTO index_past (scope, n, parent, name, display, id, rev, facts, kind, since, until)
                 SELECT c.scope, c.n, c.parent, c.name, c.display, c.id, c.rev, c.facts, c.kind, c.since, t.since
                   FROM json_each($2) AS w JOIN index_items c ON c.scope = $1 AND c.n = w.value
                   JOIN index_items t ON t.scope = $1 AND t.n = c.parent
                 WHERE c.since < t.since AND t.since > (SELECT swept FROM event_scopes WHERE id = $1)
                 ON CONFLICT (scope, n, until) DO NOTHING",
                "INSERT INTO index_past (scope, n, parent, name, display, id, rev, facts, kind, since, until)
                 SELECT c.scope, c.n, c.parent, c.name, c.display, c.id, c.rev, c.facts, c.kind, c.since, t.since
                   FROM jsonb_array_elements_text($2::jsonb) AS w(v)
                   JOIN index_items c ON c.scope = $1 AND c.n = w.v::BIGINT
                   JOIN index_items t ON t.scope = $1 AND t.n = c.parent
                 WHERE c.since < t.since AND t.since > (SELECT swept FROM event_scopes WHERE id = $1)
                 ON CONFLICT (scope, n, until) DO NOTHING",
            );
            query(keep).bind(scope).bind(&list).execute(&mut tx).await?;
            // Another process may be at the same rows.
            let lift = self.said(
                "UPDATE index_items SET parent = $2, gone = NULL,
                   since = (SELECT t.since FROM index_items t WHERE t.scope = $1 AND t.n = index_items.parent)
                 WHERE scope = $1 AND parent <> $2 AND n IN (SELECT value FROM json_each($3))",
                "UPDATE index_items SET parent = $2, gone = NULL,
                   since = (SELECT t.since FROM index_items t WHERE t.scope = $1 AND t.n = index_items.parent)
                 WHERE scope = $1 AND parent <> $2
                   AND n IN (SELECT v::BIGINT FROM jsonb_array_elements_text($3::jsonb) AS w(v))",
            );
            query(lift).bind(scope).bind(INDEX_TRASH).bind(&list).execute(&mut tx).await?;
        }
        #[cfg(test)]
        super::kill::here()?;
        tx.commit().await?;
        Ok(!inside.is_empty() || removed > 0)
    }

    /// Removes what was so before entries that nobody is told any more.
    pub(super) async fn sweep_index_past(&self) -> Result<u64> {
        let mut removed = 0;
        loop {
            let sql = "DELETE FROM index_past WHERE (scope, n, until) IN
                       (SELECT p.scope, p.n, p.until FROM event_scopes s JOIN index_past p
                          ON p.scope = s.id AND p.until <= s.swept LIMIT $1)";
            let portion = query(sql).bind(ROWS_MAX).execute(&self.0.pools.durable).await?;
            removed += portion;
            if portion < ROWS_MAX as u64 {
                return Ok(removed);
            }
        }
    }
}
