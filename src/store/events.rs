//! Watched folders: who polls one (a lease), how far it is, and the log of what was told. Whatever belongs together is
//! saved in one transaction, guarded by lease and version: a process that slept through its lease writes nothing, and a
//! crash repeats a step that nobody was told of.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{
    IndexWrites, ROWS_MAX, Store,
    database::{Pool, Row, query},
    index_sql::Words,
    millis, millis_of, time,
};
use crate::{
    fault::{Fault, Result},
    limits::{CHECKPOINT_KEPT, EVENT_LEASE, EVENT_LOG_AGE, EVENT_LOG_ROWS, SCOPE_KEPT, SCOPE_PAST_KEPT},
};

/// A watched folder as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopeRow {
    pub id: i64,
    /// Who may save; 0: nobody ever did.
    pub lease: i64,
    pub version: i64,
    pub head: LogHead,
    /// What the poller is at: its own words.
    pub progress: String,
}

/// The end of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogHead {
    pub epoch: i64,
    pub newest: i64,
    pub newest_mark: i64,
    /// The highest sequence that was swept.
    pub swept: i64,
    /// The newest entry of the newest drain that must not be left in its midst but for this log; 0: there was none.
    pub delicate: i64,
}

/// A scope that another process may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followed {
    pub version: i64,
    pub head: LogHead,
    pub progress: String,
    /// For so long; zero: it is free, or this process's.
    pub held: Duration,
    /// So long ago Dropbox had nothing that the log has not; None: nobody has said.
    pub looked: Option<Duration>,
}

/// One entry of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRow {
    #[serde(rename = "q")]
    pub sequence: i64,
    #[serde(rename = "d")]
    pub drain: i64,
    #[serde(rename = "o")]
    pub observed_at: i64,
    /// 1: its drain is over with it.
    #[serde(rename = "e")]
    pub ends: i64,
    #[serde(rename = "b")]
    pub body: String,
}

/// An entry as it is read: with the mark of its drain and the cursor a reader behind it goes on from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadRow {
    pub sequence: i64,
    pub observed: SystemTime,
    pub mark: i64,
    pub cursor: String,
    pub body: String,
}

/// The batch that entries came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainRow {
    pub drain: i64,
    pub mark: i64,
    pub cursor_from: String,
    pub cursor_to: Option<String>,
}

/// One step of a poller.
#[derive(Debug, Clone)]
pub struct Save {
    pub scope: i64,
    pub lease: i64,
    /// As it was read; it rises by one.
    pub version: i64,
    pub head: LogHead,
    pub progress: String,
    pub drain: Option<DrainRow>,
    pub log: Vec<LogRow>,
    pub index: IndexWrites,
    /// The log begins anew: what is in it is forgotten.
    pub forget_log: bool,
    /// The log has all that Dropbox had so long ago; None: there is more to come.
    pub looked: Option<Duration>,
}

/// A place kept under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// None: it was never acknowledged.
    pub token: Option<String>,
    /// The stream that holds the name.
    pub holder: String,
}

/// What a sweep of the events removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EventsSwept {
    pub entries: u64,
    /// Rows that said what was so before entries that were swept.
    pub past: u64,
    pub scopes: u64,
    pub checkpoints: u64,
}

/// Entries of a log, in both databases' words.
const APPEND: Words = (
    "INSERT INTO event_log (scope, sequence, drain, observed_at, ends, body)
     SELECT $1, json_extract(w.value, '$.q'), json_extract(w.value, '$.d'), json_extract(w.value, '$.o'),
       json_extract(w.value, '$.e'), json_extract(w.value, '$.b') FROM json_each($2) AS w",
    "INSERT INTO event_log (scope, sequence, drain, observed_at, ends, body)
     SELECT $1, w.q, w.d, w.o, w.e, w.b FROM jsonb_to_recordset($2::jsonb)
       AS w(q BIGINT, d BIGINT, o BIGINT, e BIGINT, b TEXT)",
);

/// Drains that no entry is left of. Entries are swept in their order, so those are the drains before the oldest entry's;
/// of an empty log none, for the newest drain may still be going on.
pub(super) const SWEEP_DRAINS: &str = "DELETE FROM event_drains WHERE scope = $1
     AND drain < (SELECT drain FROM event_log WHERE scope = $1 ORDER BY sequence LIMIT 1)";

impl Store {
    /// The row of a scope, made if it is not there, and touched.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn scope(&self, key: &str, uid: &str, epoch: i64, progress: &str) -> Result<ScopeRow> {
        let row = query(
            "INSERT INTO event_scopes (scope_key, uid, touched_at, epoch, progress) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (scope_key) DO UPDATE SET touched_at = excluded.touched_at
             RETURNING id, lease, version, epoch, newest, newest_mark, swept, delicate, judged, progress",
        );
        let row = row.bind(key).bind(uid).bind(self.now_millis()).bind(epoch).bind(progress);
        scope_row(&row.fetch_one(&self.0.pools.durable).await?)
    }

    /// Whether other processes may be at the same store; a SQLite file has one server.
    pub fn is_shared(&self) -> bool {
        matches!(self.0.pools.durable, Pool::Postgres(_))
    }

    /// Takes the scope, or goes on holding it; None while another process does. Every taking has a number of its own.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn lease_scope(&self, id: i64, held: i64) -> Result<Option<ScopeRow>> {
        self.take_scope(id, held, false).await
    }

    /// The same, also from a process that has parked it: whoever is at work is not disturbed.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn lease_parked_scope(&self, id: i64, held: i64) -> Result<Option<ScopeRow>> {
        self.take_scope(id, held, true).await
    }

    async fn take_scope(&self, id: i64, held: i64, parked: bool) -> Result<Option<ScopeRow>> {
        let now = self.fleet_now(&self.0.pools.durable).await?;
        let until = now + millis_of(EVENT_LEASE);
        // A lease that lasts longer than one that is renewed is parked.
        let row = query(
            "UPDATE event_scopes SET lease = CASE WHEN lease = $5 AND lease_holder = $2 THEN lease ELSE lease + 1 END, lease_holder = $2,
             lease_until = $3, touched_at = $6
             WHERE id = $1 AND (lease_until <= $4 OR lease_holder = $2 OR $7 = 0 OR ($8 = 1 AND lease_until > $3))
             RETURNING id, lease, version, epoch, newest, newest_mark, swept, delicate, judged, progress",
        );
        let row = row.bind(id).bind(&*self.0.replica).bind(until).bind(now).bind(held);
        let row = row.bind(self.now_millis()).bind(i64::from(self.is_shared())).bind(i64::from(parked));
        row.fetch_optional(&self.0.pools.durable).await?.as_ref().map(scope_row).transpose()
    }

    /// Goes on holding a scope without being at it: nobody need poll it before `span` is over and a lease more. So long ago
    /// Dropbox had nothing that the log has not. False: it is not held under this number any more.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn park_scope(&self, id: i64, lease: i64, span: Duration, looked: Option<Duration>) -> Result<bool> {
        let now = self.fleet_now(&self.0.pools.durable).await?;
        let until = now + millis_of(span) + millis_of(EVENT_LEASE);
        let sql = "UPDATE event_scopes SET lease_until = $4,
                   looked_at = CASE WHEN $6 < 0 THEN looked_at ELSE $5 - $6 END
                   WHERE id = $1 AND lease = $2 AND lease_holder = $3";
        let row = query(sql).bind(id).bind(lease).bind(&*self.0.replica).bind(until).bind(now).bind(ago(looked));
        Ok(row.execute(&self.0.pools.durable).await? > 0)
    }

    /// Gives the scope back, so that another process need not wait.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn release_scope(&self, id: i64, lease: i64) -> Result<()> {
        let sql = "UPDATE event_scopes SET lease_until = 0 WHERE id = $1 AND lease = $2 AND lease_holder = $3";
        query(sql).bind(id).bind(lease).bind(&*self.0.replica).execute(&self.0.pools.durable).await.map(drop)
    }

    /// One step, whole or not at all; false: another process has the scope, or had it meanwhile.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn save_events(&self, save: &Save) -> Result<bool> {
        let mut tx = self.0.pools.durable.begin().await?;
        let mine = query(self.said((
            "UPDATE event_scopes SET version = version + 1, epoch = $4, newest = $5, newest_mark = $6, progress = $7,
             delicate = $8, judged = $5 WHERE id = $1 AND lease = $2 AND version = $3 AND $9 = $9",
            "UPDATE event_scopes SET version = version + 1, epoch = $4, newest = $5, newest_mark = $6, progress = $7,
             delicate = $8, judged = $5, looked_at = CASE WHEN $9 < 0 THEN looked_at ELSE store_now() - $9 END
             WHERE id = $1 AND lease = $2 AND version = $3",
        )));
        let mine = mine.bind(save.scope).bind(save.lease).bind(save.version).bind(save.head.epoch);
        let mine = mine.bind(save.head.newest).bind(save.head.newest_mark).bind(&save.progress);
        let mine = mine.bind(save.head.delicate).bind(ago(save.looked));
        if mine.execute(&mut tx).await? == 0 {
            tx.rollback().await?;
            return Ok(false);
        }
        if save.forget_log {
            for sql in ["DELETE FROM event_log WHERE scope = $1", "DELETE FROM event_drains WHERE scope = $1"] {
                query(sql).bind(save.scope).execute(&mut tx).await?;
            }
            let sql = "UPDATE event_scopes SET swept = $2 WHERE id = $1";
            query(sql).bind(save.scope).bind(save.head.newest - save.log.len() as i64).execute(&mut tx).await?;
        }
        self.write_index(&mut tx, save.scope, &save.index).await?;
        if let Some(drain) = &save.drain {
            let sql =
                "INSERT INTO event_drains (scope, drain, mark, cursor_from, cursor_to) VALUES ($1, $2, $3, $4, $5)
                       ON CONFLICT (scope, drain) DO UPDATE SET cursor_to = excluded.cursor_to";
            let row = query(sql).bind(save.scope).bind(drain.drain).bind(drain.mark).bind(&drain.cursor_from);
            row.bind(drain.cursor_to.clone()).execute(&mut tx).await?;
        }
        if !save.log.is_empty() {
            let list = serde_json::to_string(&save.log)
                .map_err(|error| Fault::bug("entries cannot be written as JSON").source(error))?;
            let sql = self.said(APPEND);
            query(sql).bind(save.scope).bind(list).execute(&mut tx).await?;
        }
        tx.commit().await?;
        Ok(true)
    }

    /// The end of a scope's log; None: the scope is not there any more.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn log_head(&self, scope: i64) -> Result<Option<(LogHead, String)>> {
        let sql =
            "SELECT epoch, newest, newest_mark, swept, delicate, judged, progress FROM event_scopes WHERE id = $1";
        let row = query(sql).bind(scope).fetch_optional(&self.0.pools.readers).await?;
        row.as_ref().map(|row| Ok((log_head(row)?, row.get("progress")?))).transpose()
    }

    /// The same for whoever follows another process, with how long that one still holds the scope.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn followed_scope(&self, scope: i64) -> Result<Option<Followed>> {
        let sql = self.said((
            "SELECT version, epoch, newest, newest_mark, swept, delicate, judged, progress, 0 AS held, -1 AS looked
             FROM event_scopes WHERE id = $1 AND $2 = $2",
            "SELECT version, epoch, newest, newest_mark, swept, delicate, judged, progress,
             CASE WHEN looked_at = 0 THEN -1 ELSE GREATEST(store_now() - looked_at, 0) END AS looked,
             CASE WHEN lease_holder = $2 THEN 0 ELSE GREATEST(lease_until - store_now(), 0) END AS held
             FROM event_scopes WHERE id = $1",
        ));
        let row = query(sql).bind(scope).bind(&*self.0.replica).fetch_optional(&self.0.pools.readers).await?;
        let read = |row: &Row| {
            let held: i64 = row.get("held")?;
            let held = Duration::from_millis(held.try_into().unwrap_or(0));
            let looked = row.get::<i64>("looked")?.try_into().ok().map(Duration::from_millis);
            let (version, progress) = (row.get("version")?, row.get("progress")?);
            Ok(Followed { version, head: log_head(row)?, progress, held, looked })
        };
        row.as_ref().map(read).transpose()
    }

    /// The end of the log of the scope with this key, if there is one.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn log_head_of(&self, key: &str) -> Result<Option<LogHead>> {
        let sql = "SELECT epoch, newest, newest_mark, swept, delicate, judged FROM event_scopes WHERE scope_key = $1";
        let row = query(sql).bind(key).fetch_optional(&self.0.pools.readers).await?;
        row.as_ref().map(log_head).transpose()
    }

    /// Whether, behind this place in an earlier life of a scope, a drain was told that must not be left in its midst. Of a
    /// place in a life that is not known every life counts.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn was_delicate(&self, key: &str, epoch: i64, sequence: i64) -> Result<bool> {
        let sql = "SELECT scope FROM event_scopes_past
                   WHERE scope_key = $1 AND delicate > CASE WHEN epoch = $2 THEN $3 ELSE 0 END AND scope >=
                   COALESCE((SELECT MAX(scope) FROM event_scopes_past WHERE scope_key = $1 AND epoch = $2), 0) LIMIT 1";
        let row = query(sql).bind(key).bind(epoch).bind(sequence).fetch_optional(&self.0.pools.readers).await?;
        Ok(row.is_some())
    }

    /// Entries behind a sequence, oldest first; None when some of them were swept.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn log_after(&self, scope: i64, sequence: i64, most: usize) -> Result<Option<Vec<ReadRow>>> {
        let sql = "SELECT l.sequence, l.observed_at, l.body, d.mark,
                   CASE WHEN l.ends = 1 THEN d.cursor_to ELSE d.cursor_from END AS place
                   FROM event_log l JOIN event_drains d ON d.scope = l.scope AND d.drain = l.drain
                   WHERE l.scope = $1 AND l.sequence > $2 ORDER BY l.sequence LIMIT $3";
        let rows = query(sql).bind(scope).bind(sequence).bind(most as i64).fetch_all(&self.0.pools.readers).await?;
        let read = |row: &Row| {
            Ok(ReadRow {
                sequence: row.get("sequence")?,
                observed: time(row.get("observed_at")?),
                mark: row.get("mark")?,
                cursor: row.get::<Option<String>>("place")?.unwrap_or_default(),
                body: row.get("body")?,
            })
        };
        let rows: Vec<_> = rows.iter().map(read).collect::<Result<_>>()?;
        // Looked at after the rows: what is swept is marked as such before it goes.
        let swept = self.log_head(scope).await?.is_none_or(|(head, _)| head.swept > sequence);
        Ok((!swept).then_some(rows))
    }

    /// The mark of the entry with this number, if it is there.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn log_mark(&self, scope: i64, sequence: i64) -> Result<Option<i64>> {
        let sql = "SELECT d.mark FROM event_log l JOIN event_drains d ON d.scope = l.scope AND d.drain = l.drain
                   WHERE l.scope = $1 AND l.sequence = $2";
        let row = query(sql).bind(scope).bind(sequence).fetch_optional(&self.0.pools.readers).await?;
        row.map(|row| row.get("mark")).transpose()
    }

    /// Takes a name for this stream; whoever held it finds out at its next look.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn take_checkpoint(&self, uid: &str, name: &str, holder: &str) -> Result<Checkpoint> {
        let row = query(
            "INSERT INTO event_checkpoints (uid, name, holder, touched_at) VALUES ($1, $2, $3, $4)
             ON CONFLICT (uid, name) DO UPDATE SET holder = excluded.holder, touched_at = excluded.touched_at
             RETURNING token, holder",
        );
        let row =
            row.bind(uid).bind(name).bind(holder).bind(self.now_millis()).fetch_one(&self.0.pools.durable).await?;
        Ok(Checkpoint { token: row.get("token")?, holder: row.get("holder")? })
    }

    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn checkpoint(&self, uid: &str, name: &str) -> Result<Option<Checkpoint>> {
        let sql = "SELECT token, holder FROM event_checkpoints WHERE uid = $1 AND name = $2";
        let row = query(sql).bind(uid).bind(name).fetch_optional(&self.0.pools.readers).await?;
        row.map(|row| Ok(Checkpoint { token: row.get("token")?, holder: row.get("holder")? })).transpose()
    }

    /// Keeps a place under a name, whoever holds it; None forgets the name.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn acknowledge(&self, uid: &str, name: &str, token: Option<&str>) -> Result<()> {
        let Some(token) = token else {
            let sql = "DELETE FROM event_checkpoints WHERE uid = $1 AND name = $2";
            return query(sql).bind(uid).bind(name).execute(&self.0.pools.durable).await.map(drop);
        };
        let row = query(
            "INSERT INTO event_checkpoints (uid, name, token, holder, touched_at) VALUES ($1, $2, $3, '', $4)
             ON CONFLICT (uid, name) DO UPDATE SET token = excluded.token, touched_at = excluded.touched_at",
        );
        row.bind(uid).bind(name).bind(token).bind(self.now_millis()).execute(&self.0.pools.durable).await.map(drop)
    }

    /// Removes entries that are too many or too old, scopes nobody watched for long, names nobody used for long.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn sweep_events(&self) -> Result<EventsSwept> {
        let now = self.now_millis();
        let mut swept = EventsSwept::default();
        let mut after = 0;
        loop {
            let sql = "SELECT id, newest, swept FROM event_scopes WHERE id > $1 ORDER BY id LIMIT $2";
            let rows = query(sql).bind(after).bind(ROWS_MAX).fetch_all(&self.0.pools.readers).await?;
            for row in &rows {
                after = row.get("id")?;
                swept.entries += self.sweep_log(after, row.get("newest")?, row.get("swept")?, now).await?;
            }
            if rows.len() < ROWS_MAX as usize {
                break;
            }
        }
        swept.past = self.sweep_index_past().await?;
        swept.scopes = self.sweep_scopes(now - millis_of(SCOPE_KEPT)).await?;
        let sql = "DELETE FROM event_checkpoints WHERE touched_at <= $1";
        swept.checkpoints = query(sql).bind(now - millis_of(CHECKPOINT_KEPT)).execute(&self.0.pools.durable).await?;
        let sql = "DELETE FROM event_scopes_past WHERE swept_at <= $1";
        query(sql).bind(now - millis_of(SCOPE_PAST_KEPT)).execute(&self.0.pools.durable).await?;
        Ok(swept)
    }

    async fn sweep_log(&self, scope: i64, newest: i64, swept: i64, now: i64) -> Result<u64> {
        let sql =
            "SELECT MAX(sequence) AS last FROM event_log WHERE scope = $1 AND sequence <= $2 AND observed_at <= $3";
        let by_age = query(sql).bind(scope).bind(newest).bind(now - millis_of(EVENT_LOG_AGE));
        let by_age = by_age.fetch_one(&self.0.pools.readers).await?.get::<Option<i64>>("last")?.unwrap_or(0);
        let upto = by_age.max(newest - EVENT_LOG_ROWS);
        if upto <= swept {
            return Ok(0);
        }
        let sql = "UPDATE event_scopes SET swept = $2 WHERE id = $1 AND swept < $2";
        query(sql).bind(scope).bind(upto).execute(&self.0.pools.durable).await?;
        // The row of the highest one stays: a token at it is known by its mark, and everything behind it is here.
        let mut removed = 0;
        loop {
            let sql = "DELETE FROM event_log WHERE scope = $1 AND sequence IN
                       (SELECT sequence FROM event_log WHERE scope = $1 AND sequence < $2 ORDER BY sequence LIMIT $3)";
            let portion = query(sql).bind(scope).bind(upto).bind(ROWS_MAX).execute(&self.0.pools.durable).await?;
            removed += portion;
            if portion < ROWS_MAX as u64 {
                break;
            }
        }
        query(SWEEP_DRAINS).bind(scope).execute(&self.0.pools.durable).await?;
        Ok(removed)
    }

    /// The row is first put out of everybody's reach; then what belongs to it goes in portions, and it goes last, so that a
    /// sweep that was cut is taken up again.
    async fn sweep_scopes(&self, before: i64) -> Result<u64> {
        let now = self.fleet_now(&self.0.pools.durable).await?;
        // Tokens live on: whether one of them may be led on by its cursor has to be known for as long.
        let mut tx = self.0.pools.durable.begin().await?;
        let sql = "INSERT INTO event_scopes_past (scope, scope_key, epoch, delicate, swept_at)
                   SELECT id, scope_key, epoch, CASE WHEN judged = newest THEN delicate ELSE newest END, $4
                   FROM event_scopes WHERE touched_at <= $1 AND lease_until <= $2 AND scope_key NOT LIKE 'swept-%'
                   ORDER BY id LIMIT $3
                   ON CONFLICT (scope) DO UPDATE SET delicate = excluded.delicate, swept_at = excluded.swept_at";
        let past = query(sql).bind(before).bind(now).bind(ROWS_MAX).bind(self.now_millis());
        past.execute(&mut tx).await?;
        let sql = "UPDATE event_scopes SET scope_key = 'swept-' || id, lease = lease + 1, lease_holder = ''
                   WHERE id IN (SELECT scope FROM event_scopes_past) AND touched_at <= $1 AND lease_until <= $2
                   RETURNING id";
        let rows = query(sql).bind(before).bind(now).fetch_all(&mut tx).await?;
        tx.commit().await?;
        for row in &rows {
            let id: i64 = row.get("id")?;
            for sql in [
                "DELETE FROM index_items WHERE scope = $1 AND n IN (SELECT n FROM index_items WHERE scope = $1 LIMIT $2)",
                "DELETE FROM index_past WHERE scope = $1 AND (n, until) IN
                 (SELECT n, until FROM index_past WHERE scope = $1 LIMIT $2)",
                "DELETE FROM event_log WHERE scope = $1 AND sequence IN
                 (SELECT sequence FROM event_log WHERE scope = $1 LIMIT $2)",
                "DELETE FROM event_drains WHERE scope = $1 AND drain IN
                 (SELECT drain FROM event_drains WHERE scope = $1 LIMIT $2)",
                "DELETE FROM event_waiting WHERE scope = $1 AND path IN
                 (SELECT path FROM event_waiting WHERE scope = $1 LIMIT $2)",
            ] {
                while query(sql).bind(id).bind(ROWS_MAX).execute(&self.0.pools.durable).await? == ROWS_MAX as u64 {}
            }
            query("DELETE FROM event_scopes WHERE id = $1").bind(id).execute(&self.0.pools.durable).await?;
        }
        Ok(rows.len() as u64)
    }

    /// When something happened, as rows say it.
    pub fn stamp(at: SystemTime) -> i64 {
        millis(at)
    }

    pub fn stamped(stamp: i64) -> SystemTime {
        time(stamp)
    }
}

fn log_head(row: &Row) -> Result<LogHead> {
    let newest = row.get("newest")?;
    // What a process of an older version told is not known: any of it may be delicate.
    let is_judged = row.get::<i64>("judged")? == newest;
    Ok(LogHead {
        epoch: row.get("epoch")?,
        newest,
        newest_mark: row.get("newest_mark")?,
        swept: row.get("swept")?,
        delicate: if is_judged { row.get("delicate")? } else { newest },
    })
}

/// As statements take it: milliseconds, or -1.
fn ago(looked: Option<Duration>) -> i64 {
    looked.map_or(-1, millis_of)
}

fn scope_row(row: &Row) -> Result<ScopeRow> {
    Ok(ScopeRow {
        id: row.get("id")?,
        lease: row.get("lease")?,
        version: row.get("version")?,
        head: log_head(row)?,
        progress: row.get("progress")?,
    })
}
