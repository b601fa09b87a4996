//! Where a test ends a process: before, inside and behind every transaction that writes. `database.rs` asks here, through which
//! all of them go, so that no store function names its own places and none can be forgotten; a place is named by its
//! statement. There is none of this outside tests.

use std::{cell::RefCell, fmt};

use super::database::On;
use crate::fault::{Fault, Result};

/// A place in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// Before a transaction, of one statement or of several.
    Before(&'static str),
    /// Between two statements of one: before this one.
    Inside(&'static str),
    /// All is written and nothing committed, of the transaction that begins so.
    BeforeCommit(&'static str),
    Behind(&'static str),
}

/// A statement or a commit that is under way.
pub(super) struct UnderWay(Option<&'static str>);

#[derive(Default)]
struct State {
    /// Places until the process ends.
    left: Option<u32>,
    over: Option<Place>,
    /// How the transaction under way begins; `Some(None)`: it has written nothing yet.
    transaction: Option<Option<&'static str>>,
    /// Places are written down.
    told: bool,
    passed: Vec<Place>,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

/// A process begins that nothing ends so far. What it passes from here on is written down.
pub(crate) fn begin() {
    STATE.set(State { told: true, ..State::default() });
}

/// The process ends at the place so many places ahead: whatever it asks the store from there on fails.
pub(crate) fn after(places: u32) {
    STATE.with_borrow_mut(|state| state.left = Some(places));
}

/// Where the process ended.
pub(crate) fn over() -> Option<Place> {
    STATE.with_borrow(|state| state.over)
}

/// It comes back: the places that it has passed stay known.
pub(crate) fn revive() {
    STATE.with_borrow_mut(|state| {
        let (told, passed) = (state.told, std::mem::take(&mut state.passed));
        *state = State { told, passed, ..State::default() };
    });
}

/// All places that were passed, in their order.
pub(crate) fn passed() -> Vec<Place> {
    STATE.with_borrow(|state| state.passed.clone())
}

pub(super) fn before(sql: &'static str, on: &On<'_>) -> Result<UnderWay> {
    STATE.with_borrow_mut(|state| {
        if !writes(sql) {
            return state.alive().map(|()| UnderWay(None));
        }
        match (on, state.transaction) {
            (On::Pool(_), _) => state.at(Place::Before(sql)).map(|()| UnderWay(Some(sql))),
            (On::Tx(_), Some(Some(_))) => state.at(Place::Inside(sql)).map(|()| UnderWay(None)),
            (On::Tx(_), _) => {
                state.transaction = Some(Some(sql));
                state.at(Place::Before(sql)).map(|()| UnderWay(None))
            }
        }
    })
}

pub(super) fn begins() -> Result<()> {
    STATE.with_borrow_mut(|state| {
        state.transaction = Some(None);
        state.alive()
    })
}

pub(super) fn before_commit() -> Result<UnderWay> {
    STATE.with_borrow_mut(|state| match state.transaction.take().flatten() {
        Some(first) => state.at(Place::BeforeCommit(first)).map(|()| UnderWay(Some(first))),
        None => state.alive().map(|()| UnderWay(None)),
    })
}

impl UnderWay {
    /// It is done.
    pub(super) fn behind(self) -> Result<()> {
        let Some(sql) = self.0 else { return Ok(()) };
        STATE.with_borrow_mut(|state| state.at(Place::Behind(sql)))
    }
}

impl State {
    fn alive(&self) -> Result<()> {
        if self.over.is_some() { Err(Fault::bug("killed")) } else { Ok(()) }
    }

    fn at(&mut self, place: Place) -> Result<()> {
        self.alive()?;
        if self.told {
            self.passed.push(place);
        }
        if self.left == Some(0) {
            self.over = Some(place);
        }
        self.left = self.left.and_then(|left| left.checked_sub(1));
        self.alive()
    }
}

const WRITING: [&str; 3] = ["INSERT INTO ", "UPDATE ", "DELETE FROM "];

fn writes(sql: &str) -> bool {
    WRITING.iter().any(|verb| sql.contains(verb))
}

impl Place {
    fn sql(&self) -> &'static str {
        let (Place::Before(sql) | Place::Inside(sql) | Place::BeforeCommit(sql) | Place::Behind(sql)) = self;
        sql
    }
}

/// Where, and the statement from its verb on in one line: whoever looks for one knows how it begins.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self {
            Place::Before(_) => "before",
            Place::Inside(_) => "inside, before",
            Place::BeforeCommit(_) => "inside, before the commit of",
            Place::Behind(_) => "behind",
        };
        let sql = self.sql();
        let at = WRITING.iter().filter_map(|verb| sql.find(verb)).min().unwrap_or_default();
        let words: Vec<&str> = sql[at..].split_whitespace().collect();
        write!(f, "{place} {}", words.join(" "))
    }
}
