//! Uploads that hold a session, and the pieces of them that Dropbox has acknowledged. Whoever writes an upload holds its
//! writer number; whoever takes over raises it, and a stale writer hits no row. Pieces are written without fsync: a lost
//! piece is only sent again. The commit intent is durable: it is what makes a commit happen once.

use std::time::SystemTime;

use super::{
    STORE_WRITE_ROWS_MAX, Store,
    database::{Row, query},
    millis, time,
};
use crate::fault::{Fault, Reason, Result};

/// Where an upload stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadState {
    /// Bytes may still come.
    Open,
    /// All bytes are at Dropbox; nothing is committed.
    Ready,
    /// The commit was or is being sent; its outcome may be unknown.
    Committing,
    Committed,
}

/// What a new row holds.
#[derive(Debug, Clone)]
pub struct NewUpload<'a> {
    /// `uid` of the application parameter.
    pub owner_uid: &'a str,
    pub session: Option<&'a str>,
    /// How parts travel, in the engine's words.
    pub lane: &'a str,
    /// Sealed into the row: the terms of the commit.
    pub spec: &'a [u8],
    /// Seven days from the start of the session.
    pub expires_at: SystemTime,
}

/// One upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// Random; the handle seals it.
    pub id: String,
    pub owner_uid: String,
    pub writer: i64,
    /// The highest writer that has stopped: below it nobody writes any more.
    pub released: i64,
    pub state: UploadState,
    pub session: Option<String>,
    pub lane: String,
    /// While it is committing: the terms under which.
    pub spec: Vec<u8>,
    /// Bytes; known once the upload is ready or committing.
    pub size: Option<u64>,
    /// What the commit gave, as the engine wrote it.
    pub outcome: Option<String>,
    /// Its caller's bytes were once not those that are there: only a hash of the whole tells which ones it means.
    pub disputed: bool,
    /// When the present writer began.
    pub claimed_at: SystemTime,
    pub expires_at: SystemTime,
}

/// A writer's turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// With the new writer number.
    pub upload: Upload,
    /// The former writer had stopped. If not, it finds out at its next row; wait up to 10 s for its last append.
    pub former_released: bool,
    pub former_claimed_at: SystemTime,
}

/// One acknowledged append. `digests` are the SHA-256 of its blocks of 4 MiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    pub offset: u64,
    pub length: u64,
    pub digests: Vec<[u8; 32]>,
}

/// By name: a statement prepared with `*` breaks in older processes when a migration adds a column.
macro_rules! columns {
    () => {
        "id, owner_uid, writer, released, state, session, lane, spec_sealed, size, outcome, disputed, claimed_at, expires_at"
    };
}
pub(super) use columns;

impl UploadState {
    fn name(self) -> &'static str {
        match self {
            UploadState::Open => "open",
            UploadState::Ready => "ready",
            UploadState::Committing => "committing",
            UploadState::Committed => "committed",
        }
    }
}

impl Store {
    /// A row in state open, held by writer 1, under a random id.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn create_upload(&self, new: NewUpload<'_>) -> Result<Upload> {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let now = self.now_millis();
        let row = query(concat!(
            "INSERT INTO uploads (id, owner_uid, writer, released, state, session, lane, spec_sealed, claimed_at, expires_at)
             VALUES ($1, $2, 1, 0, 'open', $3, $4, $5, $6, $7) RETURNING ",
            columns!(),
        ))
        .bind(&id)
        .bind(new.owner_uid)
        .bind(new.session)
        .bind(new.lane)
        .bind(self.sealed_spec(&id, new.spec))
        .bind(now)
        .bind(millis(new.expires_at))
        .fetch_one(&self.0.pools.durable)
        .await?;
        self.upload_of(&row)
    }

    /// `None`: never made here, or expired.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn upload(&self, id: &str) -> Result<Option<Upload>> {
        let row = query(concat!("SELECT ", columns!(), " FROM uploads WHERE id = $1 AND expires_at > $2"))
            .bind(id)
            .bind(self.now_millis())
            .fetch_optional(&self.0.pools.readers)
            .await?;
        row.map(|row| self.upload_of(&row)).transpose()
    }

    /// Makes the caller the one writer. A committed upload is given as it is.
    ///
    /// # Errors
    /// `UPLOAD_NOT_FOUND`, `STORE_UNAVAILABLE`.
    pub async fn claim_upload(&self, id: &str) -> Result<Claim> {
        self.claim_uploads(&[id]).await?.pop().flatten().ok_or_else(|| not_found(id))
    }

    /// Names the Dropbox session, when it is made after the row or in place of another.
    ///
    /// # Errors
    /// `UPLOAD_TAKEN_OVER`, `UPLOAD_CLOSED`, `UPLOAD_NOT_FOUND`, `STORE_UNAVAILABLE`.
    pub async fn set_upload_session(&self, id: &str, writer: i64, session: &str, lane: &str) -> Result<()> {
        let changed = query(
            "UPDATE uploads SET session = $3, lane = $4 WHERE id = $1 AND writer = $2 AND state IN ('open', 'ready')",
        )
        .bind(id)
        .bind(writer)
        .bind(session)
        .bind(lane)
        .execute(&self.0.pools.durable)
        .await?;
        self.require_turn(changed, id, writer).await
    }

    /// Records acknowledged appends in one transaction, without fsync. What a writer that was taken over still has in
    /// flight is recorded too, until it has stopped: the next one waits for that.
    ///
    /// # Errors
    /// `UPLOAD_TAKEN_OVER` (recorded, but send no more; or too late to be recorded), `UPLOAD_CLOSED`,
    /// `UPLOAD_NOT_FOUND`, `STORE_UNAVAILABLE`.
    pub async fn record_pieces(&self, id: &str, writer: i64, pieces: &[Piece]) -> Result<()> {
        for portion in pieces.chunks(STORE_WRITE_ROWS_MAX) {
            let mut tx = self.0.pools.quick.begin().await?;
            let mine = "UPDATE uploads SET writer = writer WHERE id = $1 AND released < $2 AND state = 'open' RETURNING writer";
            let mine = query(mine).bind(id).bind(writer).fetch_optional(&mut tx).await?;
            let Some(row) = mine else {
                tx.rollback().await?;
                return self.require_turn(0, id, writer).await;
            };
            for piece in portion {
                // After a resume a part may be cut larger than the first time; the longer piece holds the shorter.
                query(
                    "INSERT INTO upload_pieces (upload_id, piece_offset, piece_length, digests) VALUES ($1, $2, $3, $4)
                     ON CONFLICT (upload_id, piece_offset) DO UPDATE
                     SET piece_length = excluded.piece_length, digests = excluded.digests
                     WHERE excluded.piece_length > upload_pieces.piece_length",
                )
                .bind(id)
                .bind(signed(piece.offset))
                .bind(signed(piece.length))
                .bind(piece.digests.concat())
                .execute(&mut tx)
                .await?;
            }
            tx.commit().await?;
            if row.get::<i64>("writer")? != writer {
                return Err(taken_over(id));
            }
        }
        Ok(())
    }

    /// Takes pieces out of the map that turned out not to be at Dropbox: the upload is open again.
    ///
    /// # Errors
    /// `UPLOAD_TAKEN_OVER`, `UPLOAD_CLOSED`, `UPLOAD_NOT_FOUND`, `STORE_UNAVAILABLE`.
    pub async fn forget_pieces(&self, id: &str, writer: i64, offsets: &[u64]) -> Result<()> {
        let mut tx = self.0.pools.quick.begin().await?;
        let mine =
            "UPDATE uploads SET state = 'open', size = NULL WHERE id = $1 AND writer = $2 AND state <> 'committed'";
        let mine = query(mine).bind(id).bind(writer).execute(&mut tx).await?;
        if mine == 0 {
            tx.rollback().await?;
            return self.require_turn(0, id, writer).await;
        }
        for offset in offsets {
            query("DELETE FROM upload_pieces WHERE upload_id = $1 AND piece_offset = $2")
                .bind(id)
                .bind(signed(*offset))
                .execute(&mut tx)
                .await?;
        }
        tx.commit().await
    }

    /// In the order of offsets.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn pieces(&self, id: &str) -> Result<Vec<Piece>> {
        let rows = query(
            "SELECT piece_offset, piece_length, digests FROM upload_pieces WHERE upload_id = $1 ORDER BY piece_offset",
        )
        .bind(id)
        .fetch_all(&self.0.pools.readers)
        .await?;
        let piece = |row: &Row| {
            let (offset, length): (i64, i64) = (row.get("piece_offset")?, row.get("piece_length")?);
            let digests: Vec<u8> = row.get("digests")?;
            let (digests, rest) = digests.as_chunks::<32>();
            let whole = rest.is_empty().then(|| digests.to_vec());
            let digests = whole.ok_or_else(|| Fault::bug("a piece's digests are cut"))?;
            Ok(Piece { offset: offset.cast_unsigned(), length: length.cast_unsigned(), digests })
        };
        rows.iter().map(piece).collect()
    }

    /// All bytes are at Dropbox, nothing is committed. `proven`: they are those that their caller means.
    ///
    /// # Errors
    /// `UPLOAD_TAKEN_OVER`, `UPLOAD_CLOSED`, `UPLOAD_NOT_FOUND`, `STORE_UNAVAILABLE`.
    pub async fn set_upload_ready(&self, id: &str, writer: i64, size: u64, proven: bool) -> Result<()> {
        let sql = match proven {
            true => {
                "UPDATE uploads SET state = 'ready', size = $3, disputed = 0
                 WHERE id = $1 AND writer = $2 AND state IN ('open', 'ready')"
            }
            false => {
                "UPDATE uploads SET state = 'ready', size = $3
                 WHERE id = $1 AND writer = $2 AND state IN ('open', 'ready')"
            }
        };
        self.step(sql, id, writer, Some(size)).await
    }

    /// Dropbox refused the commit and nothing happened: it may be tried again under other terms.
    ///
    /// # Errors
    /// `UPLOAD_TAKEN_OVER`, `UPLOAD_CLOSED`, `UPLOAD_NOT_FOUND`, `STORE_UNAVAILABLE`.
    pub async fn commit_refused(&self, id: &str, writer: i64) -> Result<()> {
        let sql = "UPDATE uploads SET state = 'ready' WHERE id = $1 AND writer = $2 AND state = 'committing'";
        self.step(sql, id, writer, None).await
    }

    /// It is committed; what it gave is kept until the row expires. True for any writer: it happened.
    ///
    /// # Errors
    /// `UPLOAD_NOT_FOUND`, `STORE_UNAVAILABLE`.
    pub async fn upload_committed(&self, id: &str, outcome: &str) -> Result<()> {
        let mut tx = self.0.pools.durable.begin().await?;
        let changed = query("UPDATE uploads SET state = 'committed', outcome = $2, released = writer WHERE id = $1")
            .bind(id)
            .bind(outcome)
            .execute(&mut tx)
            .await?;
        if changed == 0 {
            return Err(not_found(id));
        }
        query("DELETE FROM upload_pieces WHERE upload_id = $1").bind(id).execute(&mut tx).await?;
        tx.commit().await
    }

    /// It cannot be continued: what it lacks cannot be sent any more.
    ///
    /// # Errors
    /// `UPLOAD_TAKEN_OVER`, `UPLOAD_CLOSED`, `UPLOAD_NOT_FOUND`, `STORE_UNAVAILABLE`.
    pub async fn delete_upload(&self, id: &str, writer: i64) -> Result<()> {
        let mut tx = self.0.pools.durable.begin().await?;
        let deleted = query("DELETE FROM uploads WHERE id = $1 AND writer = $2 AND state <> 'committed'")
            .bind(id)
            .bind(writer)
            .execute(&mut tx)
            .await?;
        if deleted == 0 {
            tx.rollback().await?;
            return self.require_turn(0, id, writer).await;
        }
        query("DELETE FROM upload_pieces WHERE upload_id = $1").bind(id).execute(&mut tx).await?;
        tx.commit().await
    }

    /// A caller's bytes turned out not to be those that are there, or not what it said of them. True for any writer: it happened.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn dispute_upload(&self, id: &str) -> Result<()> {
        let sql = "UPDATE uploads SET disputed = 1 WHERE id = $1 AND state <> 'committed'";
        query(sql).bind(id).execute(&self.0.pools.durable).await?;
        Ok(())
    }

    /// This writer, and whoever wrote before it, has stopped: the next may start at once, and nothing of theirs is
    /// recorded any more. `disputed`: as [`Store::dispute_upload`], which could not be written.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn release_upload(&self, id: &str, writer: i64, disputed: bool) -> Result<()> {
        let (words, pool) = match disputed {
            false => ("UPDATE uploads SET released = $2 WHERE id = $1 AND released < $2", &self.0.pools.quick),
            true => (
                "UPDATE uploads SET released = $2, disputed = 1 WHERE id = $1 AND released < $2",
                &self.0.pools.durable,
            ),
        };
        query(words).bind(id).bind(writer).execute(pool).await?;
        Ok(())
    }

    async fn step(&self, sql: &'static str, id: &str, writer: i64, size: Option<u64>) -> Result<()> {
        let query = query(sql).bind(id).bind(writer);
        let query = match size {
            Some(size) => query.bind(signed(size)),
            None => query,
        };
        let changed = query.execute(&self.0.pools.durable).await?;
        self.require_turn(changed, id, writer).await
    }

    /// Why a guarded write hit no row.
    pub(super) async fn require_turn(&self, rows: u64, id: &str, writer: i64) -> Result<()> {
        if rows > 0 {
            return Ok(());
        }
        let now = self.upload(id).await?.ok_or_else(|| not_found(id))?;
        if now.writer != writer {
            return Err(
                Fault::new(Reason::UploadTakenOver, "another stream took over this upload").resource("upload", id)
            );
        }
        Err(Fault::new(Reason::UploadClosed, format!("this upload is {} and takes no more", now.state.name()))
            .resource("upload", id)
            .fact("uploadState", now.state.name()))
    }

    pub(super) fn sealed_spec(&self, id: &str, spec: &[u8]) -> Vec<u8> {
        self.0.keys.seal("column", &[b"uploads", id.as_bytes(), b"spec_sealed"], spec)
    }

    pub(super) fn upload_of(&self, row: &Row) -> Result<Upload> {
        let text = |column: &str| row.get::<String>(column);
        let number = |column: &str| row.get::<i64>(column);
        let (id, state) = (text("id")?, text("state")?);
        let states = [UploadState::Open, UploadState::Ready, UploadState::Committing, UploadState::Committed];
        let state = states.into_iter().find(|known| known.name() == state);
        let sealed: Vec<u8> = row.get("spec_sealed")?;
        let spec =
            self.0.keys.open("column", &[b"uploads", id.as_bytes(), b"spec_sealed"], &sealed).map_err(|error| {
                Fault::new(
                    Reason::HandleKeyRetired,
                    format!("the upload does not open any more ({error:?}); start a new one"),
                )
                .resource("upload", &*id)
            })?;
        Ok(Upload {
            owner_uid: text("owner_uid")?,
            writer: number("writer")?,
            released: number("released")?,
            state: state.ok_or_else(|| Fault::bug("an upload is in no known state"))?,
            session: row.get("session")?,
            lane: text("lane")?,
            spec: spec.to_vec(),
            size: row.get::<Option<i64>>("size")?.map(i64::cast_unsigned),
            outcome: row.get("outcome")?,
            disputed: number("disputed")? != 0,
            claimed_at: time(number("claimed_at")?),
            expires_at: time(number("expires_at")?),
            id,
        })
    }
}

fn not_found(id: &str) -> Fault {
    Fault::new(Reason::UploadNotFound, "there is no such upload, or it has expired")
        .fact("cause", "expired")
        .resource("upload", id)
}

/// File sizes end far below 2^63.
pub(super) fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
fn taken_over(id: &str) -> Fault {
    Fault::new(Reason::UploadTakenOver, "another stream took over this upload").resource("upload", id)
}
