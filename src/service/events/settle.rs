//! Events that wait until their path has been quiet: of a path that changes again and again only the sum is told. Pure.

use std::{sync::Arc, time::Duration};

use crate::{
    api::v1::{self as api, EventType},
    limits::SETTLE_PATHS_MAX,
};

/// An event that waits.
#[derive(Debug, Clone)]
struct Waiting {
    change: api::ChangeEvent,
    /// The token before the first event of its path.
    before: Arc<str>,
    /// Counts from the first event of its path.
    arrived: u64,
    /// By steady time.
    due: Duration,
}

impl Waiting {
    fn path(&self) -> &str {
        self.change.item.as_ref().map_or("", |item| &item.path_lower)
    }

    /// It moves what lies beneath it, or takes it away.
    fn reaches_down(&self) -> bool {
        let lasting = matches!(self.change.change_type(), EventType::Moved | EventType::Deleted);
        lasting && self.change.item_kind() != api::ItemKind::File
    }
}

/// The events of one watch that wait, oldest first.
#[derive(Debug)]
pub(super) struct Settling {
    span: Duration,
    waiting: Vec<Waiting>,
    arrived: u64,
}

impl Settling {
    pub fn new(span: Duration) -> Settling {
        Settling { span, waiting: Vec::new(), arrived: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Adds an event, joined with what waits at its path. Gives what must be told at once: what a move or a deletion would
    /// overtake, and the oldest where there is no room.
    pub fn take(&mut self, change: api::ChangeEvent, before: Arc<str>, now: Duration) -> Vec<api::ChangeEvent> {
        self.arrived += 1;
        let mut new = Waiting { change, before, arrived: self.arrived, due: now + self.span };
        let mut due = Vec::new();
        let path = new.path().to_owned();
        let moved_from = new.change.previous_path.to_lowercase();
        let reaches = new.reaches_down();
        let overtaken = |at: &Waiting| {
            let other = at.path();
            let from = !moved_from.is_empty() && (other == moved_from || lies_under(other, &moved_from));
            // Another item takes the place of one that the consumer has: both are told.
            let replaced = other == path
                && at.change.change_type() == EventType::Deleted
                && matches!(new.change.change_type(), EventType::Created | EventType::Moved);
            from || replaced || (reaches && lies_under(other, &path)) || (at.reaches_down() && lies_under(&path, other))
        };
        let (go, stay): (Vec<_>, Vec<_>) = self.waiting.drain(..).partition(overtaken);
        self.waiting = stay;
        due.extend(go.into_iter().map(|at| at.change));
        if let Some(at) = self.waiting.iter().position(|at| at.path() == path) {
            let old = self.waiting.remove(at);
            (new.before, new.arrived) = (old.before, old.arrived);
            match joined(&old.change, new.change.change_type()) {
                Some(change_type) => {
                    new.change.change_type = change_type.into();
                    if change_type == EventType::Moved && new.change.previous_path.is_empty() {
                        new.change.previous_path.clone_from(&old.change.previous_path);
                    }
                    new.change.previous_rev.clone_from(&old.change.previous_rev);
                    self.waiting.push(new);
                }
                // It came and went: nobody needs to know.
                None => return due,
            }
        } else {
            self.waiting.push(new);
        }
        if self.waiting.len() > SETTLE_PATHS_MAX {
            due.push(self.waiting.remove(0).change);
        }
        due
    }

    /// What has been quiet for long enough.
    pub fn due(&mut self, now: Duration) -> Vec<api::ChangeEvent> {
        let (go, stay): (Vec<_>, Vec<_>) = self.waiting.drain(..).partition(|at| at.due <= now);
        self.waiting = stay;
        go.into_iter().map(|at| at.change).collect()
    }

    pub fn next_due(&self) -> Option<Duration> {
        self.waiting.iter().map(|at| at.due).min()
    }

    /// The token behind which everything that waits comes again: before the one that has been here longest.
    pub fn floor(&self) -> Option<Arc<str>> {
        self.waiting.iter().min_by_key(|at| at.arrived).map(|at| at.before.clone())
    }
}

fn lies_under(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

/// What two events of one path are together; `None`: nothing.
fn joined(old: &api::ChangeEvent, new: EventType) -> Option<EventType> {
    use EventType::{Created, Deleted, MetadataChanged, Moved, Updated};
    match (old.change_type(), new) {
        (Created, Deleted) => None,
        (Created | Moved | Updated, MetadataChanged) | (Created | Moved, Updated) => Some(old.change_type()),
        (_, new) => Some(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Duration = Duration::from_secs(5);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn event(change_type: EventType, kind: api::ItemKind, path: &str) -> api::ChangeEvent {
        let item = api::Item { path_lower: path.into(), ..Default::default() };
        api::ChangeEvent {
            change_type: change_type.into(),
            item_kind: kind.into(),
            item: Some(item),
            ..Default::default()
        }
    }

    fn file(change_type: EventType, path: &str) -> api::ChangeEvent {
        event(change_type, api::ItemKind::File, path)
    }

    fn told(changes: Vec<api::ChangeEvent>) -> Vec<(EventType, String)> {
        changes.into_iter().map(|one| (one.change_type(), one.item.unwrap().path_lower)).collect()
    }

    #[test]
    fn a_path_that_goes_on_changing_is_told_once_when_it_has_been_quiet() {
        let mut settling = Settling::new(SPAN);
        assert!(settling.take(file(EventType::Created, "/a"), "t0".into(), at(0)).is_empty());
        assert!(settling.take(file(EventType::Created, "/b"), "t1".into(), at(1)).is_empty());
        assert!(settling.take(file(EventType::Updated, "/a"), "t2".into(), at(4)).is_empty());
        assert_eq!(settling.next_due(), Some(at(6)));
        assert_eq!(told(settling.due(at(6))), [(EventType::Created, "/b".into())]);
        assert_eq!(settling.floor().as_deref(), Some("t0"), "the first event of /a is not told yet");
        assert_eq!(told(settling.due(at(9))), [(EventType::Created, "/a".into())]);
        assert!(settling.is_empty() && settling.floor().is_none());
    }

    #[test]
    fn what_came_and_went_is_nothing_and_what_was_replaced_is_two_things() {
        let mut settling = Settling::new(SPAN);
        settling.take(file(EventType::Created, "/a"), "t0".into(), at(0));
        assert!(settling.take(file(EventType::Deleted, "/a"), "t1".into(), at(1)).is_empty() && settling.is_empty());
        settling.take(file(EventType::Deleted, "/b"), "t2".into(), at(2));
        let at_once = settling.take(file(EventType::Created, "/b"), "t3".into(), at(3));
        assert_eq!(told(at_once), [(EventType::Deleted, "/b".into())]);
        assert_eq!(settling.floor().as_deref(), Some("t3"));
    }

    #[test]
    fn nothing_is_overtaken_by_a_folder_that_goes() {
        let mut settling = Settling::new(SPAN);
        settling.take(file(EventType::Updated, "/in/a"), "t0".into(), at(0));
        settling.take(file(EventType::Updated, "/inner"), "t1".into(), at(0));
        let gone = event(EventType::Deleted, api::ItemKind::Folder, "/in");
        assert_eq!(told(settling.take(gone, "t2".into(), at(1))), [(EventType::Updated, "/in/a".into())]);
        let anew = event(EventType::Created, api::ItemKind::Folder, "/in");
        assert_eq!(told(settling.take(anew, "t3".into(), at(1))), [(EventType::Deleted, "/in".into())]);
        let mut moved = file(EventType::Moved, "/there");
        moved.previous_path = "/INNER".into();
        assert_eq!(told(settling.take(moved, "t4".into(), at(2))), [(EventType::Updated, "/inner".into())]);
    }

    #[test]
    fn a_full_house_tells_its_oldest_before_its_time() {
        let mut settling = Settling::new(SPAN);
        for index in 0..SETTLE_PATHS_MAX {
            assert!(settling.take(file(EventType::Created, &format!("/{index}")), "t".into(), at(0)).is_empty());
        }
        assert_eq!(told(settling.take(file(EventType::Created, "/x"), "t".into(), at(0)))[0].1, "/0");
    }
}
