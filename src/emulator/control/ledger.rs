//! What was asked and how it went: counters for each route, and the last requests in order. No secret is written down.

use std::{
    any::Any,
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::emulator::hold;

/// Requests remembered.
const JOURNAL_MAX: usize = 10_000;
/// Of an argument's text.
const ARG_BYTES_MAX: usize = 4_096;
/// Routes counted; asking for more nonsense than this is counted as `?`.
const ROUTES_MAX: usize = 1_000;

/// Answers that did not fit the published types, remembered.
const WRONG_MAX: usize = 100;

/// What may be written down of a request: never a credential.
const HEADERS: [&str; 10] = [
    "content-type",
    "content-length",
    "content-encoding",
    "transfer-encoding",
    "range",
    "if-none-match",
    "user-agent",
    "dropbox-api-path-root",
    "dropbox-api-select-user",
    "dropbox-api-select-admin",
];

/// The calls of one route since the start or the last clearing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// Begun.
    pub calls: u64,
    /// Answered with a status below 400.
    pub good: u64,
    /// Of request bodies.
    pub bytes_in: u64,
    /// Of answers' bodies.
    pub bytes_out: u64,
    /// Under way at this moment.
    pub running: u64,
    pub running_max: u64,
    /// Largest request body.
    pub body_bytes_max: u64,
    /// Of the arguments of batches, in all and of the largest.
    pub entries: u64,
    pub entries_max: u64,
}

/// One request, as remembered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Counts from 1, over all routes, in the order in which they began.
    pub number: u64,
    pub route: String,
    /// Whose token it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_id: Option<String>,
    /// As sent, cut at 4 KiB of text. A body with the fields of an OAuth form is not kept.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub arg: Value,
    pub headers: BTreeMap<String, String>,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// 0 while it runs, and for ever if it was cut before there was one.
    pub status: u16,
    /// `X-Dropbox-Request-Id` of the answer.
    pub request_id: String,
    pub ended: bool,
}

/// Counters and journal. Cheap to clone: all clones are the same book.
#[derive(Clone, Default)]
pub(in crate::emulator) struct Ledger(Arc<Mutex<Books>>);

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Books {
    counters: BTreeMap<String, Counter>,
    journal: VecDeque<Entry>,
    number: u64,
    wrong: VecDeque<String>,
    /// Goes up with every clearing, so that a request from before does not count down what it never counted up.
    age: u64,
}

impl Ledger {
    /// A request of `route` begins. It runs until the ticket is dropped.
    pub fn begin(&self, route: &str, headers: &HeaderMap) -> Ticket {
        let mut books = hold(&self.0);
        let known = books.counters.contains_key(route) || books.counters.len() < ROUTES_MAX;
        let route = if known { route } else { "?" }.to_owned();
        let counter = books.counters.entry(route.clone()).or_default();
        counter.calls += 1;
        counter.running += 1;
        counter.running_max = counter.running_max.max(counter.running);
        books.number += 1;
        let named = HEADERS.iter().filter_map(|name| Some((*name, headers.get(*name)?)));
        let named =
            named.map(|(name, value)| (name.to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
        let entry = Entry { number: books.number, route: route.clone(), headers: named.collect(), ..Entry::default() };
        let (number, age) = (books.number, books.age);
        if books.journal.len() == JOURNAL_MAX {
            books.journal.pop_front();
        }
        books.journal.push_back(entry);
        Ticket { ledger: self.clone(), route, number, age, bytes_in: AtomicU64::new(0), kept: Mutex::default() }
    }

    pub fn counters(&self) -> BTreeMap<String, Counter> {
        hold(&self.0).counters.clone()
    }

    pub fn counter(&self, route: &str) -> Counter {
        hold(&self.0).counters.get(route).copied().unwrap_or_default()
    }

    /// Oldest first.
    pub fn journal(&self) -> Vec<Entry> {
        hold(&self.0).journal.iter().cloned().collect()
    }

    /// An answer or an error of ours that is not of the published type.
    pub fn wrong_answer(&self, route: &str, text: &str) {
        let wrong = &mut hold(&self.0).wrong;
        if wrong.len() == WRONG_MAX {
            wrong.pop_front();
        }
        wrong.push_back(format!("{route}: {text}"));
    }

    pub fn wrong_answers(&self) -> Vec<String> {
        hold(&self.0).wrong.iter().cloned().collect()
    }

    /// Numbers go on; what is still running is forgotten.
    pub fn clear(&self) {
        let mut books = hold(&self.0);
        let (number, age) = (books.number, books.age + 1);
        *books = Books { number, age, ..Books::default() };
    }
}

/// A request under way. Dropping it is its end.
#[derive(Debug)]
pub(in crate::emulator) struct Ticket {
    ledger: Ledger,
    route: String,
    number: u64,
    age: u64,
    /// Body bytes so far, also when the entry has left the journal.
    bytes_in: AtomicU64,
    kept: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Ticket {
    /// Lets this go when the request ends.
    pub fn keep(&self, thing: impl Any + Send) {
        *hold(&self.kept) = Some(Box::new(thing));
    }

    /// Of the request's body, as it comes.
    pub fn bytes_in(&self, bytes: u64) {
        let body = self.bytes_in.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.note(|counter, entry| {
            counter.bytes_in += bytes;
            counter.body_bytes_max = counter.body_bytes_max.max(body);
            entry.bytes_in = body;
        });
    }

    /// Of the answer's body, as it goes.
    pub fn bytes_out(&self, bytes: u64) {
        self.note(|counter, entry| {
            counter.bytes_out += bytes;
            entry.bytes_out += bytes;
        });
    }

    pub fn arg(&self, arg: &Value) {
        let entries = arg["entries"].as_array().map_or(0, |entries| entries.len() as u64);
        let text = arg.to_string();
        let arg = match text.len() > ARG_BYTES_MAX {
            true => Value::String(text[..text.floor_char_boundary(ARG_BYTES_MAX)].to_owned()),
            false => arg.clone(),
        };
        self.note(|counter, entry| {
            counter.entries += entries;
            counter.entries_max = counter.entries_max.max(entries);
            entry.arg = arg;
        });
    }

    pub fn account(&self, account_id: &str) {
        self.note(|_, entry| entry.account_id = Some(account_id.to_owned()));
    }

    /// The answer's head goes out.
    pub fn answered(&self, status: u16, request_id: &str) {
        self.note(|counter, entry| {
            counter.good += u64::from(status < 400);
            entry.status = status;
            entry.request_id = request_id.to_owned();
        });
    }

    fn note(&self, change: impl FnOnce(&mut Counter, &mut Entry)) {
        let mut books = hold(&self.ledger.0);
        if books.age != self.age {
            return;
        }
        let Books { counters, journal, .. } = &mut *books;
        let Some(counter) = counters.get_mut(&self.route) else { return };
        let index = journal.partition_point(|entry| entry.number < self.number);
        match journal.get_mut(index).filter(|entry| entry.number == self.number) {
            Some(entry) => change(counter, entry),
            None => change(counter, &mut Entry::default()),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.note(|counter, entry| {
            counter.running -= 1;
            entry.ended = true;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_visit_is_counted_and_remembered_without_its_credential() {
        let ledger = Ledger::default();
        let mut headers = HeaderMap::new();
        headers.insert("authorization", "Bearer sl.u.secret".parse().expect("a header"));
        headers.insert("range", "bytes=0-1".parse().expect("a header"));
        let first = ledger.begin("files/download", &headers);
        let second = ledger.begin("files/download", &headers);
        first.bytes_in(3);
        first.bytes_in(4);
        first.bytes_out(10);
        first.answered(206, "r1");
        drop(second);
        let counter = ledger.counter("files/download");
        let want = Counter {
            calls: 2,
            good: 1,
            bytes_in: 7,
            bytes_out: 10,
            running: 1,
            running_max: 2,
            body_bytes_max: 7,
            entries: 0,
            entries_max: 0,
        };
        assert_eq!(counter, want);
        drop(first);
        let journal = ledger.journal();
        assert!(!serde_json::to_string(&journal).expect("JSON").contains("secret"));
        assert_eq!((journal[0].status, journal[0].ended, journal[1].status), (206, true, 0));
        assert_eq!(journal[0].headers["range"], "bytes=0-1");
    }

    #[test]
    fn what_began_before_a_clearing_does_not_count_after_it() {
        let ledger = Ledger::default();
        let old = ledger.begin("files/upload", &HeaderMap::new());
        ledger.clear();
        let new = ledger.begin("files/upload", &HeaderMap::new());
        drop(old);
        assert_eq!(ledger.counter("files/upload").running, 1);
        drop(new);
        assert_eq!((ledger.counter("files/upload").running, ledger.journal()[0].number), (0, 2));
    }
}
