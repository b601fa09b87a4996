//! Remembered request ids: the first request under an id runs, its repetitions get its answer for 15 minutes.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use sha2::{Digest as _, Sha256};

use super::{Store, database::query, millis_of};
use crate::{
    fault::{Fault, Result},
    limits::{REPLICA_SILENCE_MAX, REQUEST_ID_LIFE},
};

/// Whose id it is: the same id of another parameter, principal or RPC is another request.
#[derive(Debug, Clone, Copy)]
pub struct RequestKey<'a> {
    /// Of the application parameter.
    pub uid: &'a str,
    pub principal: &'a str,
    pub rpc: &'a str,
    pub request_id: &'a str,
}

/// What to do with a request that carries an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestTurn {
    /// The first: run it, then [`Store::finish_request`], whatever comes of it, or [`Store::leave_request`] if that fails.
    New,
    /// The first still runs: ask again.
    Running,
    /// The process that ran it is gone, or could not keep its answer, and what it did is unknown. It is the caller's now; look
    /// before doing it again.
    Abandoned,
    /// It was done; these bytes were its answer.
    Answer(Vec<u8>),
    /// The id was used for other bytes.
    Reused,
}

/// What this process is at, with the digests of the requests: from before it asks for a turn until its answer is kept. A row
/// of its own that is not among these belongs to nobody.
#[derive(Debug, Default)]
pub(super) struct AtRequests(Mutex<HashMap<String, [u8; 32]>>);

/// Asks for the turn of a request; unless it gets it, it is not at that any more when dropped.
struct Asking<'a> {
    at: &'a AtRequests,
    key: &'a str,
    has_turn: bool,
}

impl AtRequests {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, [u8; 32]>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Errors
    /// What to tell whoever asks while somebody of this process is at it.
    fn ask<'a>(&'a self, key: &'a str, digest: &[u8; 32]) -> Result<Asking<'a>, RequestTurn> {
        let mut at = self.lock();
        match at.get(key) {
            Some(known) if known != digest => Err(RequestTurn::Reused),
            Some(_) => Err(RequestTurn::Running),
            None => {
                at.insert(key.to_owned(), *digest);
                Ok(Asking { at: self, key, has_turn: false })
            }
        }
    }

    fn leave(&self, key: &str) {
        self.lock().remove(key);
    }
}

impl Asking<'_> {
    fn given(mut self, turn: RequestTurn) -> RequestTurn {
        self.has_turn = true;
        turn
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if !self.has_turn {
            self.at.leave(self.key);
        }
    }
}

impl RequestKey<'_> {
    fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        for part in [self.uid, self.principal, self.rpc, self.request_id] {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hex::encode(hasher.finalize())
    }
}

impl Store {
    /// Takes or joins the turn of a request. `digest` is the SHA-256 of the request's bytes.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn begin_request(&self, key: &RequestKey<'_>, digest: &[u8; 32]) -> Result<RequestTurn> {
        let (key, now) = (key.digest(), self.now_millis());
        let expires_at = now + millis_of(REQUEST_ID_LIFE);
        let asking = match self.0.at_requests.ask(&key, digest) {
            Ok(asking) => asking,
            Err(turn) => return Ok(turn),
        };
        let mut tx = self.0.pools.durable.begin().await?;
        // Who puts the row there, or finds an expired one, has the turn; whoever comes at the same time waits here and
        // then finds it.
        let put = query(
            "INSERT INTO remembered_requests (request_key, request_digest, replica, expires_at) VALUES ($1, $2, $3, $4)
             ON CONFLICT (request_key) DO UPDATE SET request_digest = excluded.request_digest, replica = excluded.replica,
             answer_sealed = NULL, expires_at = excluded.expires_at WHERE remembered_requests.expires_at <= $5",
        )
        .bind(&key)
        .bind(digest.as_slice())
        .bind(&*self.0.replica)
        .bind(expires_at)
        .bind(now)
        .execute(&mut tx)
        .await?;
        if put == 1 {
            tx.commit().await?;
            return Ok(asking.given(RequestTurn::New));
        }
        let row = query(
            "SELECT r.request_digest, r.replica, r.answer_sealed, p.heartbeat_at FROM remembered_requests r
             LEFT JOIN replicas p ON p.id = r.replica WHERE r.request_key = $1",
        )
        .bind(&key)
        .fetch_one(&mut tx)
        .await?;
        if row.get::<Vec<u8>>("request_digest")? != digest {
            return Ok(RequestTurn::Reused);
        }
        if let Some(sealed) = row.get::<Option<Vec<u8>>>("answer_sealed")? {
            let plain = self.0.keys.open("request", &[key.as_bytes()], &sealed);
            let plain = plain.map_err(|_| Fault::bug("a remembered answer does not open"))?;
            return Ok(RequestTurn::Answer(plain.to_vec()));
        }
        let silent_at = self.fleet_now(&mut tx).await? - millis_of(REPLICA_SILENCE_MAX);
        let alive = row.get::<Option<i64>>("heartbeat_at")?.is_some_and(|at| at > silent_at);
        // One of this process that nobody here is at was left behind: its answer could not be kept, or the word that it was
        // put there got lost.
        if alive && row.get::<String>("replica")? != *self.0.replica {
            return Ok(RequestTurn::Running);
        }
        query("UPDATE remembered_requests SET replica = $2, expires_at = $3 WHERE request_key = $1")
            .bind(&key)
            .bind(&*self.0.replica)
            .bind(expires_at)
            .execute(&mut tx)
            .await?;
        tx.commit().await?;
        Ok(asking.given(RequestTurn::Abandoned))
    }

    /// Keeps the answer for 15 minutes from now, or forgets the request (`None`): answers that may be tried again.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn finish_request(&self, key: &RequestKey<'_>, answer: Option<&[u8]>) -> Result<()> {
        let key = key.digest();
        let done = match answer {
            Some(answer) => {
                query("UPDATE remembered_requests SET answer_sealed = $3, expires_at = $4 WHERE request_key = $1 AND replica = $2")
                    .bind(&key)
                    .bind(&*self.0.replica)
                    .bind(self.0.keys.seal("request", &[key.as_bytes()], answer))
                    .bind(self.now_millis() + millis_of(REQUEST_ID_LIFE))
                    .execute(&self.0.pools.durable)
                    .await
            }
            None => {
                query("DELETE FROM remembered_requests WHERE request_key = $1 AND replica = $2")
                    .bind(&key)
                    .bind(&*self.0.replica)
                    .execute(&self.0.pools.durable)
                    .await
            }
        };
        done?;
        self.0.at_requests.leave(&key);
        Ok(())
    }

    /// The answer of a request cannot be kept: the next one who asks is told that what it did is unknown.
    pub fn leave_request(&self, key: &RequestKey<'_>) {
        self.0.at_requests.leave(&key.digest());
    }
}
