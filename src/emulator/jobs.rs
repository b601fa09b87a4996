//! Jobs: the work is done when it is launched; the answer is held back for as many polls as the switch says.

use std::{collections::HashMap, sync::Mutex};

use serde_json::{Value, json};

use super::{Call, Refusal, World, hold};

/// Remembered jobs; beyond this the answer is forgotten with the oldest.
const JOBS_MAX: usize = 10_000;

#[derive(Debug, Default)]
pub(in crate::emulator) struct Jobs(Mutex<HashMap<String, Job>>);

#[derive(Debug)]
struct Job {
    /// Job ids are bound to route and account.
    kind: &'static str,
    account: String,
    status: Value,
    polls_left: u32,
    order: usize,
}

impl Jobs {
    pub fn clear(&self) {
        hold(&self.0).clear();
    }

    /// `complete` with the fields of `result`, or a job that will say so. `always`: this route never completes at once.
    pub fn launch(&self, world: &World, kind: &'static str, account: &str, result: Value, always: bool) -> Value {
        let mut status = result;
        status[".tag"] = "complete".into();
        match (world.switches().jobs_in_progress, always) {
            (None, false) => status,
            (polls, _) => self.later(world, kind, account, status, polls.unwrap_or(0)),
        }
    }

    /// A job that ends with `status` (a whole member of the job status union).
    pub fn later(&self, world: &World, kind: &'static str, account: &str, status: Value, polls_left: u32) -> Value {
        let id = format!("dbjid:{}", world.random_text(44));
        let mut jobs = hold(&self.0);
        if jobs.len() >= JOBS_MAX
            && let Some(oldest) = jobs.iter().min_by_key(|(_, job)| job.order).map(|(id, _)| id.clone())
        {
            jobs.remove(&oldest);
        }
        let order = jobs.values().map(|job| job.order).max().unwrap_or(0) + 1;
        jobs.insert(id.clone(), Job { kind, account: account.to_owned(), status, polls_left, order });
        json!({ ".tag": "async_job_id", "async_job_id": id })
    }

    /// One poll.
    pub fn check(&self, kind: &str, call: &Call<'_>) -> Result<Value, Refusal> {
        let mut jobs = hold(&self.0);
        let job = call.arg["async_job_id"].as_str().and_then(|id| jobs.get_mut(id));
        match job.filter(|job| job.kind == kind && job.account == call.account()) {
            None => Err(Refusal::nested(&["invalid_async_job_id"])),
            Some(job) if job.polls_left > 0 => {
                job.polls_left -= 1;
                Ok(json!({ ".tag": "in_progress" }))
            }
            Some(job) => Ok(job.status.clone()),
        }
    }
}
