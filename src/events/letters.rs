//! What processes on one store tell each other of watched folders: which scopes have new entries, and which accounts a
//! webhook named. A letter is a hint and no more; whoever misses one finds out by looking. Those of one moment go out
//! together, and none is longer than a notification may be.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, broadcast::error::RecvError};

use super::{Inside, schedule::Ring};
use crate::limits::{EVENT_LETTER_BYTES_MAX, EVENT_LETTERS_EVERY, EVENT_RUNG_MAX, EVENT_RUNG_NAME_BYTES_MAX};

#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Letter {
    /// The process that wrote it.
    from: Arc<str>,
    /// Scopes whose log or lease is another one now.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    saved: BTreeSet<i64>,
    /// Accounts that have news.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    rung: BTreeSet<String>,
    /// All of them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    all: bool,
}

/// What is to be told.
pub(super) struct Outbox {
    /// Somebody is there to hear it.
    open: bool,
    pending: Mutex<Letter>,
    filled: Notify,
}

impl Outbox {
    pub(super) fn new(open: bool) -> Outbox {
        Outbox { open, pending: Mutex::default(), filled: Notify::new() }
    }

    fn write(&self, what: impl FnOnce(&mut Letter)) {
        if !self.open {
            return;
        }
        what(&mut self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        self.filled.notify_one();
    }

    pub(super) fn saved(&self, scope: i64) {
        self.write(|letter| _ = letter.saved.insert(scope));
    }

    pub(super) fn rung(&self, accounts: &[String]) {
        self.write(|letter| {
            let named = accounts.iter().filter(|name| name.len() <= EVENT_RUNG_NAME_BYTES_MAX);
            letter.rung.extend(named.take(EVENT_RUNG_MAX + 1).cloned());
            if letter.all || letter.rung.len() > EVENT_RUNG_MAX {
                (letter.all, letter.rung) = (true, BTreeSet::new());
            }
        });
    }

    /// All that is pending, as letters that fit.
    fn take(&self, from: &str) -> Vec<String> {
        let pending = std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        pending.cut(from)
    }
}

impl Letter {
    fn cut(self, from: &str) -> Vec<String> {
        let blank = || Letter { from: from.into(), ..Letter::default() };
        // The names of the fields, and what is between them.
        let frame = from.len() + 100;
        let (mut letters, mut letter, mut bytes) = (Vec::new(), blank(), frame);
        let mut put = |size: usize, add: &mut dyn FnMut(&mut Letter)| {
            if bytes + size > EVENT_LETTER_BYTES_MAX {
                letters.push(std::mem::replace(&mut letter, blank()));
                bytes = frame;
            }
            bytes += size;
            add(&mut letter);
        };
        // 19 digits, a sign and a comma.
        self.saved.iter().for_each(|scope| put(21, &mut |letter| _ = letter.saved.insert(*scope)));
        for name in self.rung {
            // As JSON a control character has six bytes.
            put(6 * name.len() + 3, &mut |letter| _ = letter.rung.insert(name.clone()));
        }
        letter.all = self.all;
        letters.push(letter);
        letters.retain(|letter| *letter != blank());
        letters.iter().filter_map(|letter| serde_json::to_string(letter).ok()).collect()
    }
}

/// Sends and reads letters until the process ends.
pub(super) async fn run(hub: Arc<Inside>) {
    let work = async {
        tokio::join!(send(&hub), read(&hub));
    };
    tokio::select! {
        () = work => {}
        () = hub.parts.ended.cancelled() => {}
    }
}

async fn send(hub: &Inside) {
    loop {
        hub.desk.outbox.filled.notified().await;
        send_pending(hub).await;
        hub.desk.clock.sleep(EVENT_LETTERS_EVERY).await;
    }
}

pub(super) async fn send_pending(hub: &Inside) {
    let store = &hub.parts.store;
    for letter in hub.desk.outbox.take(store.replica()) {
        if let Err(fault) = store.send_letter(&letter).await {
            tracing::warn!(%fault, "the other replicas were not told what is new; they will look");
        }
    }
}

async fn read(hub: &Inside) {
    let mut letters = hub.parts.store.letters();
    loop {
        match letters.recv().await {
            Ok(Some(text)) => match serde_json::from_str::<Letter>(&text) {
                Ok(letter) => hub.hear(&letter),
                Err(error) => tracing::debug!(%error, "a letter of another version was not understood"),
            },
            // Something may have been missed: whatever others poll is looked at.
            Ok(None) | Err(RecvError::Lagged(_)) => hub.ring_all(Ring::Saved),
            Err(RecvError::Closed) => return,
        }
    }
}

impl Inside {
    fn hear(&self, letter: &Letter) {
        if *letter.from == *self.parts.store.replica() {
            return;
        }
        self.ring_scopes(&letter.saved, Ring::Saved);
        if letter.all {
            self.ring_all(Ring::Webhook { folders: EVENT_RUNG_MAX });
        }
        self.ring_accounts(letter.rung.iter().map(String::as_str));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_pending_goes_out_in_letters_that_fit_and_nothing_is_lost() {
        let outbox = Outbox::new(true);
        (0..2000).for_each(|n| outbox.saved(i64::MIN + n));
        let names: Vec<String> = (0..400).map(|n| format!("dbid:{}\u{1}{n}", "A".repeat(40))).collect();
        outbox.rung(&names);
        outbox.rung(&["x".repeat(EVENT_RUNG_NAME_BYTES_MAX + 1)]);
        let replica = uuid::Uuid::new_v4().simple().to_string();
        let letters = outbox.take(&replica);
        assert!(letters.len() > 5 && letters.iter().all(|letter| letter.len() < 8000));
        let mut told = Letter::default();
        for letter in &letters {
            let letter: Letter = serde_json::from_str(letter).unwrap();
            assert_eq!(*letter.from, *replica);
            told.saved.extend(letter.saved);
            told.rung.extend(letter.rung);
            assert!(!letter.all);
        }
        assert_eq!(told.saved.len(), 2000);
        assert_eq!(told.rung, names.into_iter().collect());
        assert!(outbox.take(&replica).is_empty(), "nothing is said twice");
    }

    #[test]
    fn more_accounts_than_can_be_named_are_all_of_them() {
        let outbox = Outbox::new(true);
        let names: Vec<String> = (0..EVENT_RUNG_MAX + 1).map(|n| n.to_string()).collect();
        outbox.rung(&names);
        outbox.rung(&["one more".into()]);
        assert_eq!(outbox.take("me"), [r#"{"from":"me","all":true}"#]);
    }

    #[test]
    fn where_nobody_else_is_nothing_is_kept() {
        let outbox = Outbox::new(false);
        outbox.saved(1);
        outbox.rung(&["dbid:A".into()]);
        assert!(outbox.take("me").is_empty());
    }
}
