//! Upload sessions, sequential and concurrent, one by one and in batches, with every way Dropbox refuses them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

use super::{
    Call, Handler, Refusal, Reply, ResentBlock, SecondFinish, World,
    content::{self, BLOCK, Content, Hasher, Piece, Received},
    hold, nested,
    upload::{CommitProblem, commit},
};

/// Largest file of a session: 2^41 - 2^22.
const FILE_BYTES_MAX: u64 = (1 << 41) - (1 << 22);

/// A session ends this long after its start.
const LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Open sessions; the oldest go first.
const SESSIONS_MAX: usize = 100_000;

pub(in crate::emulator) fn handler(route: &str) -> Option<Handler> {
    Some(match route {
        "files/upload_session/start" => start,
        "files/upload_session/start_batch" => start_batch,
        "files/upload_session/append_v2" => append,
        "files/upload_session/append" => append_v1,
        "files/upload_session/append_batch" => append_batch,
        "files/upload_session/finish" => finish,
        "files/upload_session/finish_batch_v2" => finish_batch,
        "files/upload_session/finish_batch" => finish_batch_job,
        "files/upload_session/finish_batch/check" => finish_batch_check,
        _ => return None,
    })
}

#[derive(Debug, Default)]
pub(in crate::emulator) struct Sessions(Mutex<HashMap<String, Arc<Mutex<Session>>>>);

#[derive(Debug)]
struct Session {
    account: String,
    started: SystemTime,
    concurrent: bool,
    closed: bool,
    /// By offset.
    parts: BTreeMap<u64, Received>,
    /// Sequential: bytes so far. Concurrent: known at close.
    size: u64,
    committed: Option<Value>,
}

impl Sessions {
    pub fn clear(&self) {
        hold(&self.0).clear();
    }

    /// Sessions that still hold bytes or may take some.
    pub fn open_count(&self) -> usize {
        let sessions: Vec<_> = hold(&self.0).values().cloned().collect();
        sessions.iter().filter(|session| hold(session).committed.is_none()).count()
    }

    /// A closed session that holds the bytes of an upload that could not be committed.
    pub fn keep(&self, world: &World, account: &str, body: Received) -> String {
        let mut session = Session::new(world, account, false);
        session.size = body.size;
        session.parts.insert(0, body);
        session.closed = true;
        self.add(world, session)
    }

    fn add(&self, world: &World, session: Session) -> String {
        let id = format!("pid_upload_session:{}", world.random_text(60));
        let mut sessions = hold(&self.0);
        if sessions.len() >= SESSIONS_MAX {
            let oldest = sessions.iter().min_by_key(|(_, session)| hold(session).started).map(|(id, _)| id.clone());
            if let Some(oldest) = oldest {
                sessions.remove(&oldest);
            }
        }
        sessions.insert(id.clone(), Arc::new(Mutex::new(session)));
        id
    }

    fn find(&self, world: &World, account: &str, id: &Value) -> Option<Arc<Mutex<Session>>> {
        let session = hold(&self.0).get(id.as_str()?)?.clone();
        let alive = {
            let session = hold(&session);
            let age = world.clock.now().duration_since(session.started).unwrap_or_default();
            session.account == account && age < LIFE
        };
        alive.then_some(session)
    }
}

impl Session {
    fn new(world: &World, account: &str, concurrent: bool) -> Session {
        Session {
            account: account.to_owned(),
            started: world.clock.now(),
            concurrent,
            closed: false,
            parts: BTreeMap::new(),
            size: 0,
            committed: None,
        }
    }

    /// Takes a block in; the error is that of `append_v2`.
    fn append(&mut self, world: &World, offset: u64, body: Received, close: bool) -> Result<(), Value> {
        if self.committed.is_some() {
            return Err(nested(&["closed"]));
        }
        let end = offset.saturating_add(body.size);
        if end > FILE_BYTES_MAX {
            return Err(nested(&["too_large"]));
        }
        if self.concurrent {
            return self.append_concurrent(world, offset, body, close);
        }
        if self.closed {
            return Err(nested(&["closed"]));
        }
        if offset != self.size {
            return Err(incorrect_offset(self.size));
        }
        self.size = end;
        self.closed = close;
        if body.size > 0 {
            self.parts.insert(offset, body);
        }
        Ok(())
    }

    fn append_concurrent(&mut self, world: &World, offset: u64, body: Received, close: bool) -> Result<(), Value> {
        let switches = world.switches();
        let bare_close = close && body.size == 0;
        if !offset.is_multiple_of(BLOCK) && !bare_close {
            return Err(nested(&["concurrent_session_invalid_offset"]));
        }
        if !body.size.is_multiple_of(BLOCK) && !close {
            return Err(nested(&["concurrent_session_invalid_data_size"]));
        }
        let end = offset + body.size;
        if let Some(known) = self.parts.get(&offset).filter(|_| body.size > 0) {
            let same = known.size == body.size && known.digests == body.digests;
            let as_before = !close || (self.closed && end == self.size);
            return match (same, switches.resent_block) {
                (true, ResentBlock::Accepted) if as_before => Ok(()),
                (true, ResentBlock::Accepted) if !self.closed => self.close(end),
                _ => Err(incorrect_offset(self.contiguous())),
            };
        }
        if self.closed && (close || !switches.early_close_allowed || end > self.size) {
            return Err(nested(&["closed"]));
        }
        let before = self.parts.range(..end).next_back();
        if body.size > 0 && before.is_some_and(|(at, part)| at + part.size > offset) {
            return Err(incorrect_offset(self.contiguous()));
        }
        if close {
            self.close(end)?;
        }
        if body.size > 0 {
            self.parts.insert(offset, body);
        }
        Ok(())
    }

    /// Closes a concurrent session at its size.
    fn close(&mut self, size: u64) -> Result<(), Value> {
        if self.parts.last_key_value().is_some_and(|(at, part)| at + part.size > size) {
            return Err(nested(&["concurrent_session_invalid_offset"]));
        }
        self.size = size;
        self.closed = true;
        Ok(())
    }

    /// Bytes from the start without a hole.
    fn contiguous(&self) -> u64 {
        let mut end = 0;
        for (at, part) in &self.parts {
            if *at != end {
                break;
            }
            end += part.size;
        }
        end
    }

    /// The checks of a finish with a body of `body` bytes; the error is that of `finish`.
    fn ready(&self, offset: u64, body: u64, batch: bool) -> Result<(), Value> {
        let lookup = |error: Value| json!({ ".tag": "lookup_failed", "lookup_failed": error });
        if self.concurrent {
            if body > 0 {
                return Err(nested(&["concurrent_session_data_not_allowed"]));
            }
            if !self.closed {
                return Err(nested(&["concurrent_session_not_closed"]));
            }
            if self.contiguous() != self.size {
                return Err(nested(&["concurrent_session_missing_data"]));
            }
        } else if batch && !self.closed {
            return Err(lookup(nested(&["not_closed"])));
        } else if self.closed && body > 0 {
            return Err(lookup(nested(&["closed"])));
        }
        if offset != self.size {
            return Err(lookup(incorrect_offset(self.size)));
        }
        if self.size + body > FILE_BYTES_MAX {
            return Err(lookup(nested(&["too_large"])));
        }
        Ok(())
    }

    /// The whole file. Parts that begin on blocks need not be read again for its hash.
    fn content(&self) -> std::io::Result<Content> {
        let pieces: Vec<Piece> = self.parts.values().flat_map(|part| part.pieces.iter().cloned()).collect();
        let hash = if self.parts.keys().all(|offset| offset.is_multiple_of(BLOCK)) {
            let digests: Vec<[u8; 32]> = self.parts.values().flat_map(|part| part.digests.iter().copied()).collect();
            content::hash_of(&digests)
        } else {
            content::hash_pieces(&pieces)?
        };
        Ok(Content::new(pieces, hash))
    }
}

fn incorrect_offset(correct: u64) -> Value {
    json!({ ".tag": "incorrect_offset", "correct_offset": correct })
}

fn check_hash(arg: &Value, body: &Received) -> Result<(), Refusal> {
    match arg["content_hash"].as_str() {
        Some(hash) if hash != body.hash() => Err(Refusal::nested(&["content_hash_mismatch"])),
        _ => Ok(()),
    }
}

fn start(world: &World, mut call: Call<'_>) -> Result<Reply, Refusal> {
    let body = call.body.take().unwrap_or_default();
    let concurrent = call.arg["session_type"][".tag"] == "concurrent";
    let close = call.arg["close"] == true;
    if concurrent && body.size > 0 {
        return Err(Refusal::nested(&["concurrent_session_data_not_allowed"]));
    }
    if concurrent && close {
        return Err(Refusal::nested(&["concurrent_session_close_not_allowed"]));
    }
    check_hash(&call.arg, &body)?;
    let mut session = Session::new(world, call.account(), concurrent);
    if !concurrent {
        session.append(world, 0, body, close).map_err(Refusal::endpoint)?;
    }
    Ok(Reply::Json(json!({ "session_id": world.sessions.add(world, session) })))
}

fn start_batch(world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    let concurrent = call.arg["session_type"][".tag"] == "concurrent";
    let count = call.arg["num_sessions"].as_u64().unwrap_or(0);
    let sessions = (0..count).map(|_| Session::new(world, call.account(), concurrent));
    let ids: Vec<String> = sessions.map(|session| world.sessions.add(world, session)).collect();
    Ok(Reply::Json(json!({ "session_ids": ids })))
}

fn append(world: &World, mut call: Call<'_>) -> Result<Reply, Refusal> {
    let body = call.body.take().unwrap_or_default();
    let cursor = &call.arg["cursor"];
    let session = world.sessions.find(world, call.account(), &cursor["session_id"]);
    let session = session.ok_or_else(|| Refusal::nested(&["not_found"]))?;
    check_hash(&call.arg, &body)?;
    let (offset, close) = (cursor["offset"].as_u64().unwrap_or(0), call.arg["close"] == true);
    hold(&session).append(world, offset, body, close).map_err(Refusal::endpoint)?;
    Ok(Reply::Json(Value::Null))
}

fn append_v1(world: &World, mut call: Call<'_>) -> Result<Reply, Refusal> {
    call.arg = json!({ "cursor": call.arg, "close": false });
    append(world, call)
}

fn append_batch(world: &World, mut call: Call<'_>) -> Result<Reply, Refusal> {
    let body = call.body.take().unwrap_or_default();
    check_hash(&call.arg, &body)?;
    let entries = call.arg["entries"].as_array().cloned().unwrap_or_default();
    let lengths = entries.iter().map(|entry| entry["length"].as_u64().unwrap_or(0));
    if lengths.clone().try_fold(0u64, u64::checked_add) != Some(body.size) {
        return Err(Refusal::nested(&["length_mismatch"]));
    }
    let whole = Content::new(body.pieces, String::new());
    let mut from = 0;
    let mut results = Vec::new();
    for (index, (entry, length)) in entries.iter().zip(lengths).enumerate() {
        let part = cut(&whole, from, length).map_err(|error| broken(&error))?;
        from += length;
        let cursor = &entry["cursor"];
        let (offset, close) = (cursor["offset"].as_u64().unwrap_or(0), entry["close"] == true);
        let session = world.sessions.find(world, call.account(), &cursor["session_id"]);
        let done = match (call.refused_entry(index), session) {
            (Some(failure), _) => Err(failure),
            (None, None) => Err(nested(&["not_found"])),
            (None, Some(session)) => hold(&session).append(world, offset, part, close),
        };
        results.push(match done {
            Ok(()) => json!({ ".tag": "success" }),
            Err(error) => json!({ ".tag": "failure", "failure": error }),
        });
    }
    Ok(Reply::Json(json!({ "entries": results })))
}

/// A run of a body, hashed anew from its own start.
fn cut(whole: &Content, from: u64, length: u64) -> std::io::Result<Received> {
    let pieces = whole.range(from, length);
    let mut hasher = Hasher::default();
    let part = Content::new(pieces.clone(), String::new());
    hasher.update(&part.read(length)?);
    Ok(Received { pieces, size: length, digests: hasher.finish() })
}

fn broken(error: &std::io::Error) -> Refusal {
    tracing::error!("the emulator cannot read a kept part: {error}");
    Refusal::Canned(super::Canned { status: 500, headers: Vec::new(), body: b"a kept part cannot be read".to_vec() })
}

fn finish(world: &World, mut call: Call<'_>) -> Result<Reply, Refusal> {
    let body = call.body.take().unwrap_or_default();
    finish_one(world, &call, &call.arg, body, false).map(Reply::Json)
}

fn finish_one(world: &World, call: &Call<'_>, arg: &Value, body: Received, batch: bool) -> Result<Value, Refusal> {
    let cursor = &arg["cursor"];
    let session = world.sessions.find(world, call.account(), &cursor["session_id"]);
    let session = session.ok_or_else(|| Refusal::nested(&["lookup_failed", "not_found"]))?;
    let mut session = hold(&session);
    if let Some(metadata) = &session.committed {
        return match world.switches().second_finish {
            SecondFinish::NotFound => Err(Refusal::nested(&["lookup_failed", "not_found"])),
            SecondFinish::Closed => Err(Refusal::nested(&["lookup_failed", "closed"])),
            SecondFinish::SameAnswer => Ok(metadata.clone()),
        };
    }
    check_hash(arg, &body)?;
    let offset = cursor["offset"].as_u64().unwrap_or(0);
    session.ready(offset, body.size, batch).map_err(Refusal::endpoint)?;
    if body.size > 0 {
        // The bytes stay even if the commit fails.
        session.size += body.size;
        session.parts.insert(offset, body);
    }
    let content = session.content().map_err(|error| broken(&error))?;
    match commit(world, call.root, &arg["commit"], content) {
        Ok(metadata) => {
            session.parts.clear();
            session.committed = Some(metadata.clone());
            Ok(metadata)
        }
        Err(CommitProblem::Path(error)) => Err(Refusal::endpoint(json!({ ".tag": "path", "path": error }))),
        Err(CommitProblem::Properties(error)) => {
            Err(Refusal::endpoint(json!({ ".tag": "properties_error", "properties_error": error })))
        }
    }
}

fn finish_entries(world: &World, call: &Call<'_>) -> Result<Value, Refusal> {
    let mut results = Vec::new();
    for (index, entry) in call.arg["entries"].as_array().into_iter().flatten().enumerate() {
        if let Some(failure) = call.refused_entry(index) {
            results.push(json!({ ".tag": "failure", "failure": failure }));
            continue;
        }
        results.push(match finish_one(world, call, entry, Received::default(), true) {
            Ok(mut metadata) => {
                metadata[".tag"] = "success".into();
                call.told_entry(index, metadata)
            }
            Err(Refusal::Endpoint { error, .. }) => json!({ ".tag": "failure", "failure": error }),
            Err(other) => return Err(other),
        });
    }
    Ok(json!({ "entries": results }))
}

fn finish_batch(world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    finish_entries(world, &call).map(Reply::Json)
}

fn finish_batch_job(world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    let result = finish_entries(world, &call)?;
    Ok(Reply::Json(world.jobs.launch(world, "finish_batch", call.account(), result, true)))
}

fn finish_batch_check(world: &World, call: Call<'_>) -> Result<Reply, Refusal> {
    world.jobs.check("finish_batch", &call).map(Reply::Json)
}
