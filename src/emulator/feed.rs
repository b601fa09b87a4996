//! `files/list_folder/longpoll`: waits until the cursor has news, or until its time is up.

use std::time::Duration;

use rand::Rng;
use serde_json::{Value, json};

use super::{Refusal, World, hold, listing};

/// Answers when there is news, or after `timeout` and some jitter. By the emulator's clock.
pub(in crate::emulator) async fn longpoll(world: &World, arg: &Value) -> Result<Value, Refusal> {
    let cursor = listing::read(arg["cursor"].as_str().unwrap_or_default())
        .map_err(|_| Refusal::BadRequest("request body: cursor: unsupported cursor type".to_owned()))?;
    let switches = world.switches();
    let mut changed = world.tree().changed();
    let timeout = Duration::from_secs(arg["timeout"].as_u64().unwrap_or(30));
    let jitter = hold(&world.dice).random_range(0.0..=1.0);
    let mut over = world.clock.sleep(timeout + switches.longpoll_jitter.mul_f64(jitter));
    let answer = |changes: bool| match switches.longpoll_backoff {
        Some(backoff) => json!({ "changes": changes, "backoff": backoff }),
        None => json!({ "changes": changes }),
    };
    loop {
        changed.mark_unchanged();
        match cursor.has_news(world) {
            None => return Err(Refusal::nested(&["reset"])),
            Some(true) => return Ok(answer(true)),
            Some(false) => {}
        }
        tokio::select! {
            Ok(()) = changed.changed() => {}
            () = &mut over => return Ok(answer(false)),
        }
    }
}
