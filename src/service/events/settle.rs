//! Events that wait until their path has been quiet: of a path that changes again and again only the sum is told. What waits
//! stands in the order it came, and nothing is told before what it builds upon: whoever applies what is told has at each
//! event what was there without settling, and the same in the end. A place names what waits, so that whoever comes back is told
//! that and no other. Pure.

use std::{collections::HashSet, time::Duration};

use super::told::Sides;
use crate::{
    api::v1::{self as api, EventType},
    events::ResumePoint,
    limits::{SETTLE_PATHS_MAX, SETTLE_RUNS_MAX, SETTLE_SPANS_MAX},
};

/// An event that comes.
#[derive(Debug, Clone)]
pub(super) struct Coming {
    pub change: api::ChangeEvent,
    /// Epoch and number in the log.
    pub number: (i64, i64),
    /// The place before it.
    pub before: ResumePoint,
    /// It waits for nothing but what it builds upon; it is told of a folder that is told one by one.
    pub is_urgent: bool,
    /// What of it a filter lets through.
    pub sides: Sides,
}

/// An event that is told.
#[derive(Debug)]
pub(super) struct Going {
    pub change: api::ChangeEvent,
    pub is_urgent: bool,
    /// Of the item before all that this sums up, and behind it.
    pub sides: Sides,
}

/// An event that waits.
#[derive(Debug, Clone)]
struct Waiting {
    change: api::ChangeEvent,
    path: String,
    /// Of a move: where it was.
    from: Option<String>,
    /// The place before the first event of its path.
    before: ResumePoint,
    /// Numbers of the first event of its path, of the one that makes it what it is, and of the last.
    parts: [i64; 3],
    /// The first was there when the watch began.
    is_known: bool,
    /// Counts from the first event of its path.
    arrived: u64,
    /// By steady time: when its path is quiet, and when it has waited for long enough all the same.
    due: Duration,
    at_last: Duration,
    /// It is told next, in its turn.
    goes: bool,
    is_urgent: bool,
    sides: Sides,
}

impl Waiting {
    fn paths(&self) -> impl Iterator<Item = &str> {
        [Some(self.path.as_str()), self.from.as_deref()].into_iter().flatten()
    }

    fn concerns(&self, path: &str) -> bool {
        self.paths().any(|own| own == path || lies_under(own, path) || lies_under(path, own))
    }

    /// A stream before this one may have told it.
    fn may_be_told(&self) -> bool {
        self.is_known && self.sides.is
    }

    fn lies_under(&self, folder: &str) -> bool {
        self.paths().all(|own| lies_under(own, folder))
    }

    /// What came before it at this path is not what is there behind it.
    fn parts(&self, path: &str) -> bool {
        let takes_away = matches!(self.change.change_type(), EventType::Deleted | EventType::Moved);
        let no_folder = self.change.item_kind() != api::ItemKind::Folder && lies_under(path, &self.path);
        self.concerns(path) && (takes_away || no_folder)
    }
}

/// The events of one watch that wait, in the order they came.
#[derive(Debug)]
pub(super) struct Settling {
    span: Duration,
    /// Epoch and number of the newest entry that was there when the watch began: whoever watches may have been told of it by a
    /// stream before, and have kept no token since.
    known: (i64, i64),
    waiting: Vec<Waiting>,
    arrived: u64,
}

impl Settling {
    pub fn new(span: Duration, known: (i64, i64)) -> Settling {
        Settling { span, known, waiting: Vec::new(), arrived: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Something waits at this path, or at the one it was moved from.
    pub fn has(&self, change: &api::ChangeEvent) -> bool {
        let path = change.item.as_ref().map_or("", |item| &item.path_lower);
        let from = dbxcase::dbx_str_lowercase(&change.previous_path);
        self.waiting.iter().any(|at| at.path == path || at.path == from)
    }

    /// Adds an event, joined with what waits at its path. Where there is no room the oldest goes.
    pub fn take(&mut self, coming: Coming, now: Duration) {
        self.arrived += 1;
        let Coming { change, number: (epoch, sequence), before, is_urgent, sides } = coming;
        let is_known = epoch == self.known.0 && sequence <= self.known.1;
        let path = change.item.as_ref().map_or("", |item| &item.path_lower).to_owned();
        let from = (!change.previous_path.is_empty()).then(|| dbxcase::dbx_str_lowercase(&change.previous_path));
        let due = if is_urgent { now } else { now + self.span };
        let (parts, arrived, at_last) = ([sequence; 3], self.arrived, now + self.span * SETTLE_SPANS_MAX);
        let goes = false;
        let new =
            Waiting { change, path, from, before, parts, is_known, arrived, due, at_last, goes, is_urgent, sides };
        if let Some(new) = self.join(new) {
            self.waiting.push(new);
        }
        while self.is_full()
            && let Some(oldest) = self.waiting.iter_mut().find(|at| !at.goes)
        {
            oldest.goes = true;
        }
    }

    /// There is more than memory or a token has room for.
    fn is_full(&self) -> bool {
        let stay = self.waiting.iter().filter(|at| !at.goes);
        let count = stay.clone().count();
        // A path brings three runs at most.
        count > SETTLE_PATHS_MAX || (3 * count > SETTLE_RUNS_MAX && runs(stay).len() > SETTLE_RUNS_MAX)
    }

    /// Joins an event with the last one that waits at its path, if both are one story; gives back what is to wait itself.
    fn join(&mut self, mut new: Waiting) -> Option<Waiting> {
        let Some(at) = self.waiting.iter().rposition(|at| at.path == new.path) else { return Some(new) };
        let since = &self.waiting[at + 1..];
        let old = &self.waiting[at];
        match (old.change.change_type(), new.change.change_type()) {
            // What is moved is told with the content it had or has, and other content by an event of its own behind it, when
            // both are quiet: a copy that renames upon the move has to read it anew.
            (EventType::Moved, EventType::Updated | EventType::Upserted) if is_same_item(&old.change, &new.change) => {
                let moved = &mut self.waiting[at];
                (new.due, new.at_last) = (new.due.min(moved.at_last), moved.at_last);
                moved.due = new.due;
                Some(new)
            }
            // It is as it is now, whatever lies beneath it; it is told where the first of its events stood.
            (known, EventType::Updated | EventType::MetadataChanged | EventType::Upserted)
                if known != EventType::Deleted
                    && is_same_item(&old.change, &new.change)
                    && !since.iter().any(|later| later.parts(&new.path)) =>
            {
                let old = &mut self.waiting[at];
                let sum = joined(known, new.change.change_type());
                let [first, makes, last] = old.parts;
                // One that is not wanted for itself is not waited for: who comes back without settling hears of the one before it.
                let last = if new.sides.any() { new.parts[0] } else { last };
                old.parts = [first, if sum == known { makes } else { new.parts[0] }, last];
                old.sides.was |= old.may_be_told();
                new.change.change_type = sum.into();
                if known == EventType::Moved {
                    new.change.previous_path.clone_from(&old.change.previous_path);
                }
                new.change.previous_rev.clone_from(&old.change.previous_rev);
                new.change.event_id = sum_of(&old.change, &new.change);
                (old.change, old.due, old.sides.is) = (new.change, new.due.min(old.at_last), new.sides.is);
                self.delay_move(at);
                None
            }
            // Somebody may have been told of the first, or is told of what it held: it is told of both.
            (EventType::Created, EventType::Deleted) if old.is_known || new.is_urgent => Some(new),
            // It came and went, with all that came in it: nobody needs to know.
            (EventType::Created, EventType::Deleted)
                if old.change.basis() != api::EventBasis::Inferred
                    && since.iter().all(|later| later.lies_under(&new.path) || !later.concerns(&new.path)) =>
            {
                let came = self.waiting[at].arrived;
                self.waiting.retain(|at| at.arrived != came && (at.arrived < came || !at.lies_under(&new.path)));
                None
            }
            // Of a move both are told: the consumer has it where it was.
            (known, EventType::Deleted)
                if known != EventType::Moved && !since.iter().any(|later| later.concerns(&new.path)) =>
            {
                let old = self.waiting.remove(at);
                let [first, ..] = old.parts;
                new.sides.was = old.sides.was || old.may_be_told();
                (new.before, new.arrived, new.parts[0], new.is_known) = (old.before, old.arrived, first, old.is_known);
                (new.due, new.at_last) = (new.due.min(old.at_last), old.at_last);
                new.change.event_id = sum_of(&old.change, &new.change);
                if known != EventType::Deleted {
                    new.change.previous_rev.clone_from(&old.change.previous_rev);
                }
                Some(new)
            }
            _ => Some(new),
        }
    }

    /// The move whose content this tells is told when this is.
    fn delay_move(&mut self, at: usize) {
        let (before, behind) = self.waiting.split_at_mut(at);
        let Some(content) = behind.first() else { return };
        if let Some(last) = before.iter_mut().rfind(|earlier| earlier.path == content.path)
            && last.change.change_type() == EventType::Moved
            && is_same_item(&last.change, &content.change)
        {
            last.due = content.due.min(last.at_last);
        }
    }

    /// What has been quiet for long enough goes, and what that builds upon before it.
    pub fn look(&mut self, now: Duration) {
        if self.next_due().is_none_or(|due| due > now) {
            return;
        }
        let (mut paths, mut above) = (HashSet::new(), HashSet::new());
        for waiting in self.waiting.iter_mut().rev() {
            let is_needed = |path: &str| {
                paths.contains(path) || above.contains(path) || folders_of(path).any(|folder| paths.contains(folder))
            };
            waiting.goes |= waiting.due <= now || waiting.paths().any(is_needed);
            if waiting.goes {
                for path in waiting.paths() {
                    above.extend(folders_of(path).map(str::to_owned));
                    paths.insert(path.to_owned());
                }
            }
        }
    }

    /// Everything goes, before its time.
    pub fn hurry(&mut self) {
        self.waiting.iter_mut().for_each(|at| at.goes = true);
    }

    /// The next that goes.
    pub fn next(&mut self) -> Option<Going> {
        let at = self.waiting.iter().position(|at| at.goes)?;
        let Waiting { change, is_urgent, sides, .. } = self.waiting.remove(at);
        Some(Going { change, is_urgent, sides })
    }

    pub fn next_due(&self) -> Option<Duration> {
        self.waiting.iter().map(|at| at.due).min()
    }

    /// A place from which all that waits is told and nothing else up to `here`; `None`: nothing waits.
    pub fn floor(&self, here: &ResumePoint) -> Option<ResumePoint> {
        let oldest = self.waiting.iter().min_by_key(|at| at.arrived)?;
        let told = here.told_but(runs(self.waiting.iter()));
        Some(oldest.before.clone().with_ahead(&told))
    }
}

/// Numbers of what waits: first and last of each run.
fn runs<'a>(waiting: impl Iterator<Item = &'a Waiting>) -> Vec<(i64, i64)> {
    let mut numbers: Vec<i64> = waiting.flat_map(|at| at.parts).collect();
    numbers.sort_unstable();
    let mut runs: Vec<(i64, i64)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if number <= *last + 1 => *last = number,
            _ => runs.push((number, number)),
        }
    }
    runs
}

/// `first~last`: a sum that is made again of the same events has the same id, and no event of the log has it.
fn sum_of(old: &api::ChangeEvent, new: &api::ChangeEvent) -> String {
    let first = old.event_id.split('~').next().unwrap_or_default();
    format!("{first}~{}", new.event_id)
}

fn lies_under(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

/// Every folder above a path, the root left out.
fn folders_of(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at]).filter(|folder| !folder.is_empty())
}

fn is_same_item(old: &api::ChangeEvent, new: &api::ChangeEvent) -> bool {
    let id = |change: &api::ChangeEvent| match change.item.as_ref().and_then(|item| item.kind.as_ref()) {
        Some(api::item::Kind::File(file)) => file.id.clone(),
        Some(api::item::Kind::Folder(folder)) => folder.id.clone(),
        _ => String::new(),
    };
    old.item_kind() == new.item_kind() && id(old) == id(new)
}

/// What an event and what then touched its item are together.
fn joined(old: EventType, new: EventType) -> EventType {
    use EventType::{Created, MetadataChanged, Moved, Updated};
    match (old, new) {
        (Created | Moved, _) | (Updated, MetadataChanged) => old,
        _ => new,
    }
}

#[cfg(test)]
#[path = "settle_tests.rs"]
mod tests;
