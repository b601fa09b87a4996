//! What an index said before. An entry of the log that moves or deletes a folder stands for all the folder held at that
//! moment, however much it was, and is told of each of it to those who want that, now or when they read the log tomorrow. So
//! a row that an entry changes is kept as it was for as long as the log has older entries: `since` and `until` are numbers of
//! entries, and "then" is one of them, too.

use super::{
    INDEX_TRASH, IndexRow, ROWS_MAX, Store,
    database::{Row, query},
    index::{item, json},
    index_sql as sql,
};
use crate::fault::Result;

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
        let rows =
            query(self.said(sql::CHILDREN_THEN)).bind(scope).bind(parent).bind(then).bind(after).bind(most as i64);
        rows.fetch_all(&self.0.pools.readers).await?.iter().map(item).collect()
    }

    /// The row of this number as it was when the entry of the number `then` had been told.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn index_row_then(&self, scope: i64, n: i64, then: i64) -> Result<Option<IndexRow>> {
        let row = query(sql::ROW_THEN).bind(scope).bind(n).bind(then).fetch_optional(&self.0.pools.readers).await?;
        row.as_ref().map(item).transpose()
    }

    /// Removes a portion of what was told to be deleted; false when nothing is left. The index has no use for these rows any
    /// more, so it needs no lease. What a deleted folder held is lifted out of it level by level, and of each row is kept
    /// where it lay: the entry that deletes the folder may still be told of all of it.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn empty_index_trash(&self, scope: i64) -> Result<bool> {
        let mut tx = self.0.pools.quick.begin().await?;
        let numbers = query(self.said(sql::TRASHED)).bind(scope).bind(INDEX_TRASH).bind(ROWS_MAX);
        let numbers = numbers.fetch_all(&mut tx).await?.iter().map(|row| row.get("n")).collect::<Result<Vec<i64>>>()?;
        if !numbers.is_empty() {
            let trashed = json(&numbers)?;
            let inside =
                query(self.said(sql::INSIDE)).bind(scope).bind(&trashed).bind(ROWS_MAX).fetch_all(&mut tx).await?;
            let inside = inside.iter().map(|row: &Row| row.get("n")).collect::<Result<Vec<i64>>>()?;
            if !inside.is_empty() {
                let list = json(&inside)?;
                query(self.said(sql::KEEP_LIFTED)).bind(scope).bind(&list).execute(&mut tx).await?;
                query(self.said(sql::LIFT)).bind(scope).bind(INDEX_TRASH).bind(&list).execute(&mut tx).await?;
            }
            // A row goes once nothing is left in it: each is looked at twice, whatever the shape of the tree.
            if inside.len() < ROWS_MAX as usize {
                query(self.said(sql::REMOVE)).bind(scope).bind(trashed).execute(&mut tx).await?;
            }
        }
        tx.commit().await?;
        Ok(!numbers.is_empty())
    }

    /// Removes what was so before entries that nobody is told any more.
    pub(super) async fn sweep_index_past(&self) -> Result<u64> {
        let mut removed = 0;
        loop {
            let portion = query(self.said(sql::SWEEP_PAST)).bind(ROWS_MAX).execute(&self.0.pools.durable).await?;
            removed += portion;
            if portion < ROWS_MAX as u64 {
                return Ok(removed);
            }
        }
    }
}
