//! Commits of uploads whose bytes are at Dropbox, as many in a transaction as are sent together. Rows are taken in the order of
//! their ids, so that two processes that commit the same ones do not wait for each other in a circle.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{
    Store,
    database::{Tx, query},
    index_sql::Words,
    millis,
    uploads::{Claim, NewUpload, Upload, UploadState, columns, signed},
};
use crate::fault::{Fault, Result};

/// A commit that is about to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Intent<'a> {
    pub id: &'a str,
    pub writer: i64,
    pub size: u64,
    /// The terms, sealed into the row: whoever finds the intent must know where to look.
    pub spec: &'a [u8],
    /// It was intended before, by this writer or one whose place it took, and did not happen as far as is known.
    pub again: bool,
}

/// What came of a commit.
#[derive(Debug, Clone, Copy)]
pub struct Outcome<'a> {
    pub id: &'a str,
    pub writer: i64,
    /// What it gave, as the engine wrote it; `None`: Dropbox refused it and nothing happened.
    pub committed: Option<&'a str>,
}

/// One statement, for it is waited for with the turn in hand.
const INTEND: Words = (
    "WITH w(v) AS MATERIALIZED (SELECT value FROM json_each($1))
     UPDATE uploads SET state = 'committing', size = v ->> 'n', spec_sealed = unhex(v ->> 's') FROM w
     WHERE id = v ->> 'i' AND writer = v ->> 'w' AND (state IN ('open', 'ready') OR (state = 'committing' AND v ->> 'a' = 1))
     RETURNING id",
    "UPDATE uploads u SET state = 'committing', size = h.n, spec_sealed = decode(h.s, 'hex') FROM
       (SELECT w.* FROM jsonb_to_recordset($1::jsonb) AS w(i TEXT, w BIGINT, n BIGINT, s TEXT, a BIGINT)
          JOIN uploads held ON held.id = w.i ORDER BY held.id FOR UPDATE OF held) AS h
     WHERE u.id = h.i AND u.writer = h.w AND (u.state IN ('open', 'ready') OR (u.state = 'committing' AND h.a = 1))
     RETURNING u.id",
);

impl Store {
    /// The row of an upload whose bytes came with one request: ready, and held by nobody.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn create_ready_upload(&self, new: NewUpload<'_>, size: u64, digests: &[[u8; 32]]) -> Result<Upload> {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let mut tx = self.0.pools.durable.begin().await?;
        let row = query(concat!(
            "INSERT INTO uploads (id, owner_uid, writer, released, state, session, lane, spec_sealed, size, claimed_at, expires_at)
             VALUES ($1, $2, 1, 1, 'ready', $3, $4, $5, $6, $7, $8) RETURNING ",
            columns!(),
        ))
        .bind(&id)
        .bind(new.owner_uid)
        .bind(new.session)
        .bind(new.lane)
        .bind(self.sealed_spec(&id, new.spec))
        .bind(signed(size))
        .bind(self.now_millis())
        .bind(millis(new.expires_at))
        .fetch_one(&mut tx)
        .await?;
        if size > 0 {
            query("INSERT INTO upload_pieces (upload_id, piece_offset, piece_length, digests) VALUES ($1, 0, $2, $3)")
                .bind(&id)
                .bind(signed(size))
                .bind(digests.concat())
                .execute(&mut tx)
                .await?;
        }
        let upload = self.upload_of(&row)?;
        tx.commit().await?;
        Ok(upload)
    }

    /// Makes the caller the one writer of each; `None` for one that is not there. Committed ones are given as they are.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn claim_uploads(&self, ids: &[&str]) -> Result<Vec<Option<Claim>>> {
        let now = self.now_millis();
        let mut claims: Vec<Option<Claim>> = Vec::new();
        claims.resize_with(ids.len(), || None);
        let mut tx = self.0.pools.durable.begin().await?;
        for n in in_order(ids.iter().copied()) {
            claims[n] = self.claim_in(&mut tx, ids[n], now).await?;
        }
        tx.commit().await?;
        Ok(claims)
    }

    async fn claim_in(&self, tx: &mut Tx, id: &str, now: i64) -> Result<Option<Claim>> {
        // Reads the row and holds it, so that of two who take over at once the second sees the first.
        let held =
            concat!("UPDATE uploads SET writer = writer WHERE id = $1 AND expires_at > $2 RETURNING ", columns!());
        let Some(row) = query(held).bind(id).bind(now).fetch_optional(&mut *tx).await? else { return Ok(None) };
        let former = self.upload_of(&row)?;
        let (former_released, former_claimed_at) = (former.released >= former.writer, former.claimed_at);
        if former.state == UploadState::Committed {
            return Ok(Some(Claim { upload: former, former_released, former_claimed_at }));
        }
        let next =
            concat!("UPDATE uploads SET writer = writer + 1, claimed_at = $2 WHERE id = $1 RETURNING ", columns!());
        let row = query(next).bind(id).bind(now).fetch_one(&mut *tx).await?;
        let upload = self.upload_of(&row)?;
        Ok(Some(Claim { upload, former_released, former_claimed_at }))
    }

    /// Commits are about to be sent. Durable, and true of each for one writer only; the terms are written down with it.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`: none is intended. Of single ones `UPLOAD_TAKEN_OVER`, `UPLOAD_CLOSED` when it is committed, or
    /// committing and not `again`, `UPLOAD_NOT_FOUND`.
    pub async fn intend_commits(&self, intents: &[Intent<'_>]) -> Result<Vec<Result<()>>> {
        let rows: Vec<Value> = intents
            .iter()
            .map(|Intent { id, writer, size, spec, again }| {
                let spec = hex::encode(self.sealed_spec(id, spec));
                json!({ "i": id, "w": writer, "n": signed(*size), "s": spec, "a": i64::from(*again) })
            })
            .collect();
        let intended = query(self.said(INTEND)).bind(Value::Array(rows).to_string());
        let intended = intended.fetch_all(&self.0.pools.durable).await?;
        let mut intended: HashSet<String> = intended.iter().map(|row| row.get("id")).collect::<Result<_>>()?;
        let mut results = Vec::with_capacity(intents.len());
        for Intent { id, writer, .. } in intents {
            results.push(self.require_turn(intended.remove(*id).into(), id, *writer).await);
        }
        Ok(results)
    }

    /// What came of commits; their writers have stopped. A refusal that another writer has passed is not written any more.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn settle_commits(&self, outcomes: &[Outcome<'_>]) -> Result<()> {
        let mut tx = self.0.pools.durable.begin().await?;
        for n in in_order(outcomes.iter().map(|outcome| outcome.id)) {
            let Outcome { id, writer, committed } = outcomes[n];
            let Some(committed) = committed else {
                query("UPDATE uploads SET state = 'ready' WHERE id = $1 AND writer = $2 AND state = 'committing'")
                    .bind(id)
                    .bind(writer)
                    .execute(&mut tx)
                    .await?;
                query("UPDATE uploads SET released = $2 WHERE id = $1 AND released < $2")
                    .bind(id)
                    .bind(writer)
                    .execute(&mut tx)
                    .await?;
                continue;
            };
            let sql = "UPDATE uploads SET state = 'committed', outcome = $2, released = writer WHERE id = $1";
            query(sql).bind(id).bind(committed).execute(&mut tx).await?;
            query("DELETE FROM upload_pieces WHERE upload_id = $1").bind(id).execute(&mut tx).await?;
        }
        tx.commit().await
    }

    /// A single intent.
    ///
    /// # Errors
    /// As [`Store::intend_commits`].
    pub async fn intend_commit(&self, intent: Intent<'_>) -> Result<()> {
        let results = self.intend_commits(&[intent]).await?;
        results.into_iter().next().unwrap_or_else(|| Err(Fault::bug("an intent has no result")))
    }
}

/// Places of the ids, by id.
fn in_order<'a>(ids: impl Iterator<Item = &'a str>) -> Vec<usize> {
    let mut places: Vec<(&str, usize)> = ids.zip(0..).collect();
    places.sort_unstable();
    places.into_iter().map(|(_, n)| n).collect()
}
