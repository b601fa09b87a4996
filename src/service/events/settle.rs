//! Events that wait until their path has been quiet: of a path that changes again and again only the sum is told. What waits
//! stands in the order it came, and nothing is told before what it builds upon: whoever applies what is told has at each
//! event what was there without settling, and the same in the end. Pure.

use std::{collections::HashSet, sync::Arc, time::Duration};

use crate::{
    api::v1::{self as api, EventType},
    limits::SETTLE_PATHS_MAX,
};

/// An event that waits.
#[derive(Debug, Clone)]
struct Waiting {
    change: api::ChangeEvent,
    path: String,
    /// Of a move: where it was.
    from: Option<String>,
    /// The token before the first event of its path.
    before: Arc<str>,
    /// Counts from the first event of its path.
    arrived: u64,
    /// By steady time.
    due: Duration,
}

impl Waiting {
    fn paths(&self) -> impl Iterator<Item = &str> {
        [Some(self.path.as_str()), self.from.as_deref()].into_iter().flatten()
    }

    fn concerns(&self, path: &str) -> bool {
        self.paths().any(|own| own == path || lies_under(own, path) || lies_under(path, own))
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

    /// Adds an event, joined with what waits at its path. Gives what must be told at once: the oldest where there is no room.
    pub fn take(&mut self, change: api::ChangeEvent, before: Arc<str>, now: Duration) -> Vec<api::ChangeEvent> {
        self.arrived += 1;
        let path = change.item.as_ref().map_or("", |item| &item.path_lower).to_owned();
        let from = (!change.previous_path.is_empty()).then(|| change.previous_path.to_lowercase());
        let new = Waiting { change, path, from, before, arrived: self.arrived, due: now + self.span };
        let Some(new) = self.join(new) else { return Vec::new() };
        self.waiting.push(new);
        if self.waiting.len() > SETTLE_PATHS_MAX {
            return vec![self.waiting.remove(0).change];
        }
        Vec::new()
    }

    /// Joins an event with the last one that waits at its path, if both are one story; gives back what is to wait itself.
    fn join(&mut self, mut new: Waiting) -> Option<Waiting> {
        let Some(at) = self.waiting.iter().rposition(|at| at.path == new.path) else { return Some(new) };
        let since = &self.waiting[at + 1..];
        let old = &self.waiting[at];
        match (old.change.change_type(), new.change.change_type()) {
            // It is as it is now, whatever lies beneath it; it is told where the first of its events stood.
            (known, EventType::Updated | EventType::MetadataChanged | EventType::Upserted)
                if known != EventType::Deleted
                    && is_same_item(&old.change, &new.change)
                    && !since.iter().any(|later| later.parts(&new.path)) =>
            {
                let old = &mut self.waiting[at];
                new.change.change_type = joined(known, new.change.change_type()).into();
                if known == EventType::Moved {
                    new.change.previous_path.clone_from(&old.change.previous_path);
                }
                new.change.previous_rev.clone_from(&old.change.previous_rev);
                (old.change, old.due) = (new.change, new.due);
                None
            }
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
                (new.before, new.arrived) = (old.before, old.arrived);
                if known != EventType::Deleted {
                    new.change.previous_rev.clone_from(&old.change.previous_rev);
                }
                Some(new)
            }
            _ => Some(new),
        }
    }

    /// What has been quiet for long enough, behind what that builds upon.
    pub fn due(&mut self, now: Duration) -> Vec<api::ChangeEvent> {
        if self.next_due().is_none_or(|due| due > now) {
            return Vec::new();
        }
        let (mut paths, mut above) = (HashSet::new(), HashSet::new());
        let mut goes = vec![false; self.waiting.len()];
        for (at, waiting) in self.waiting.iter().enumerate().rev() {
            let is_needed = |path: &str| {
                paths.contains(path) || above.contains(path) || folders_of(path).any(|folder| paths.contains(folder))
            };
            if waiting.due <= now || waiting.paths().any(is_needed) {
                goes[at] = true;
                for path in waiting.paths() {
                    above.extend(folders_of(path).map(str::to_owned));
                    paths.insert(path.to_owned());
                }
            }
        }
        let mut goes = goes.into_iter();
        let (go, stay): (Vec<_>, Vec<_>) = self.waiting.drain(..).partition(|_| goes.next().unwrap_or_default());
        self.waiting = stay;
        go.into_iter().map(|at| at.change).collect()
    }

    /// Everything, before its time.
    pub fn all(&mut self) -> Vec<api::ChangeEvent> {
        self.waiting.drain(..).map(|at| at.change).collect()
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
mod tests {
    use std::collections::BTreeMap;

    use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

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
            basis: api::EventBasis::Index.into(),
            ..Default::default()
        }
    }

    fn file(change_type: EventType, path: &str) -> api::ChangeEvent {
        event(change_type, api::ItemKind::File, path)
    }

    fn folder(change_type: EventType, path: &str) -> api::ChangeEvent {
        event(change_type, api::ItemKind::Folder, path)
    }

    fn moved(from: &str, path: &str) -> api::ChangeEvent {
        api::ChangeEvent { previous_path: from.into(), ..file(EventType::Moved, path) }
    }

    fn told(changes: Vec<api::ChangeEvent>) -> Vec<(EventType, String)> {
        changes.into_iter().map(|one| (one.change_type(), one.item.unwrap().path_lower)).collect()
    }

    fn taken(settling: &mut Settling, seconds: u64, change: api::ChangeEvent) {
        assert!(settling.take(change, format!("t{seconds}").into(), at(seconds)).is_empty());
    }

    #[test]
    fn a_path_that_goes_on_changing_is_told_once_when_it_has_been_quiet() {
        let mut settling = Settling::new(SPAN);
        taken(&mut settling, 0, file(EventType::Created, "/a"));
        taken(&mut settling, 1, file(EventType::Created, "/b"));
        taken(&mut settling, 4, file(EventType::Updated, "/a"));
        assert_eq!(settling.next_due(), Some(at(6)));
        assert_eq!(told(settling.due(at(6))), [(EventType::Created, "/b".into())]);
        assert_eq!(settling.floor().as_deref(), Some("t0"), "the first event of /a is not told yet");
        assert_eq!(told(settling.due(at(9))), [(EventType::Created, "/a".into())]);
        assert!(settling.is_empty() && settling.floor().is_none());
    }

    #[test]
    fn what_came_and_went_is_nothing_and_what_was_replaced_is_two_things() {
        let mut settling = Settling::new(SPAN);
        taken(&mut settling, 0, folder(EventType::Created, "/a"));
        taken(&mut settling, 1, file(EventType::Created, "/a/b"));
        taken(&mut settling, 1, folder(EventType::Deleted, "/a"));
        assert!(settling.is_empty());
        taken(&mut settling, 2, file(EventType::Deleted, "/b"));
        taken(&mut settling, 3, file(EventType::Created, "/b"));
        assert_eq!(told(settling.due(at(7))), [(EventType::Deleted, "/b".into())]);
        assert_eq!(settling.floor().as_deref(), Some("t3"));
        // What is only guessed to be new may have been there.
        let guessed = api::ChangeEvent { basis: api::EventBasis::Inferred.into(), ..folder(EventType::Created, "/c") };
        taken(&mut settling, 9, guessed);
        taken(&mut settling, 9, folder(EventType::Deleted, "/c"));
        assert_eq!(told(settling.all()), [(EventType::Created, "/b".into()), (EventType::Deleted, "/c".into())]);
    }

    #[test]
    fn nothing_is_overtaken_by_what_moves_it_or_takes_it_away() {
        let mut settling = Settling::new(SPAN);
        taken(&mut settling, 0, file(EventType::Updated, "/in/a"));
        taken(&mut settling, 1, folder(EventType::Deleted, "/in"));
        taken(&mut settling, 4, file(EventType::Updated, "/other"));
        taken(&mut settling, 5, moved("/OTHER", "/in"));
        assert_eq!(told(settling.due(at(5))), [(EventType::Updated, "/in/a".into())]);
        assert_eq!(told(settling.due(at(6))), [(EventType::Deleted, "/in".into())]);
        assert_eq!(
            told(settling.due(at(10))),
            [(EventType::Updated, "/other".into()), (EventType::Moved, "/in".into())]
        );
    }

    #[test]
    fn a_move_that_is_undone_or_built_upon_is_told_first() {
        let mut settling = Settling::new(SPAN);
        taken(&mut settling, 0, moved("/a", "/b"));
        taken(&mut settling, 1, file(EventType::Deleted, "/b"));
        assert_eq!(told(settling.all()), [(EventType::Moved, "/b".into()), (EventType::Deleted, "/b".into())]);
        taken(&mut settling, 0, moved("/a", "/b"));
        taken(&mut settling, 1, file(EventType::Created, "/a"));
        taken(&mut settling, 4, file(EventType::Updated, "/b"));
        assert_eq!(settling.next_due(), Some(at(6)));
        let due = settling.due(at(6));
        assert_eq!(due[0].previous_path, "/a");
        assert_eq!(told(due), [(EventType::Moved, "/b".into()), (EventType::Created, "/a".into())]);
        taken(&mut settling, 0, folder(EventType::Created, "/d"));
        taken(&mut settling, 1, file(EventType::Created, "/d/a"));
        taken(&mut settling, 2, folder(EventType::MetadataChanged, "/d"));
        assert_eq!(told(settling.due(at(6))), [(EventType::Created, "/d".into()), (EventType::Created, "/d/a".into())]);
    }

    #[test]
    fn a_full_house_tells_its_oldest_before_its_time() {
        let mut settling = Settling::new(SPAN);
        for index in 0..SETTLE_PATHS_MAX {
            assert!(settling.take(file(EventType::Created, &format!("/{index}")), "t".into(), at(0)).is_empty());
        }
        assert_eq!(told(settling.take(file(EventType::Created, "/x"), "t".into(), at(0)))[0].1, "/0");
    }

    /// What is there: id, kind and content by path.
    #[derive(Debug, Default, Clone, PartialEq, Eq)]
    struct Tree(BTreeMap<String, (u32, bool, u32)>);

    impl Tree {
        fn beneath(&self, top: &str) -> Vec<String> {
            self.0.keys().filter(|path| *path == top || lies_under(path, top)).cloned().collect()
        }

        fn has_room_at(&self, path: &str) -> bool {
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            !self.0.contains_key(path)
                && (folder.is_empty() || self.0.get(folder).is_some_and(|(_, is_folder, _)| *is_folder))
        }

        /// Believes nothing that cannot be.
        fn apply(&mut self, change: &api::ChangeEvent) {
            let item = change.item.as_ref().expect("an item");
            let path = item.path_lower.clone();
            let is_folder = change.item_kind() == api::ItemKind::Folder;
            let (id, content) = match &item.kind {
                Some(api::item::Kind::File(file)) => (file.id.parse().unwrap(), file.size.try_into().unwrap()),
                Some(api::item::Kind::Folder(folder)) => (folder.id.parse().unwrap(), 0),
                _ => (0, 0),
            };
            match change.change_type() {
                EventType::Created => {
                    assert!(self.has_room_at(&path), "{change:?} in {self:?}");
                    self.0.insert(path, (id, is_folder, content));
                }
                EventType::Updated | EventType::MetadataChanged => {
                    let there = self.0.get_mut(&path).unwrap_or_else(|| panic!("not there: {change:?}"));
                    assert_eq!((there.0, there.1), (id, is_folder), "{change:?}");
                    there.2 = content;
                }
                EventType::Deleted => {
                    assert!(self.0.contains_key(&path), "not there: {change:?}");
                    self.0.retain(|there, _| *there != path && !lies_under(there, &path));
                }
                EventType::Moved => {
                    assert!(self.has_room_at(&path), "{change:?} in {self:?}");
                    let from = &change.previous_path;
                    assert_eq!(self.0.get(from).map(|there| there.0), Some(id), "{change:?}");
                    for old in self.beneath(from) {
                        let there = self.0.remove(&old).unwrap();
                        self.0.insert(format!("{path}{}", &old[from.len()..]), there);
                    }
                    self.0.get_mut(&path).unwrap().2 = content;
                }
                other => panic!("{other:?}"),
            }
        }

        /// Something that can happen to it.
        fn happens(&self, dice: &mut StdRng, ids: &mut u32) -> Option<api::ChangeEvent> {
            let some = |dice: &mut StdRng| {
                let paths: Vec<&String> = self.0.keys().collect();
                (!paths.is_empty()).then(|| paths[dice.random_range(0..paths.len())].clone())
            };
            let mut place = match some(dice).filter(|_| dice.random_bool(0.6)) {
                Some(folder) if folder.matches('/').count() < 3 => folder,
                _ => String::new(),
            };
            place += ["/a", "/b", "/c"][dice.random_range(0..3)];
            *ids += 1;
            let shown = |path: &str, (id, is_folder, content): (u32, bool, u32)| {
                let kind = if is_folder {
                    api::item::Kind::Folder(api::FolderItem { id: id.to_string(), ..Default::default() })
                } else {
                    let size = content.into();
                    api::item::Kind::File(api::FileItem { id: id.to_string(), size, ..Default::default() })
                };
                api::Item { path_lower: path.to_owned(), kind: Some(kind), ..Default::default() }
            };
            let of = |change_type: EventType, path: &str, there: (u32, bool, u32)| api::ChangeEvent {
                change_type: change_type.into(),
                item_kind: if there.1 { api::ItemKind::Folder } else { api::ItemKind::File }.into(),
                item: Some(shown(path, there)),
                basis: api::EventBasis::Index.into(),
                ..Default::default()
            };
            let known = some(dice);
            let there = known.as_ref().map(|path| self.0[path]);
            match dice.random_range(0..10) {
                0..=3 if self.has_room_at(&place) => {
                    let is_folder = dice.random_bool(0.5);
                    Some(of(EventType::Created, &place, (*ids, is_folder, if is_folder { 0 } else { *ids })))
                }
                4..=5 => match there? {
                    (id, true, _) => Some(of(EventType::MetadataChanged, &known?, (id, true, 0))),
                    (id, false, _) => Some(of(EventType::Updated, &known?, (id, false, *ids))),
                },
                6 => Some(of(EventType::Deleted, &known?, there?)),
                7..=9 => {
                    let from = known.filter(|from| *from != place && !lies_under(&place, from))?;
                    let moved = of(EventType::Moved, &place, there?);
                    self.has_room_at(&place).then_some(api::ChangeEvent { previous_path: from, ..moved })
                }
                _ => None,
            }
        }
    }

    #[test]
    fn whoever_applies_what_has_settled_has_what_all_events_give() {
        let seeds = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse::<u64>().ok()).unwrap_or(100);
        let (mut all, mut settled) = (0, 0);
        for seed in 0..seeds * 20 {
            let mut dice = StdRng::seed_from_u64(seed);
            let (mut truth, mut mirror, mut ids, mut now) = (Tree::default(), Tree::default(), 0, 0);
            let mut settling = Settling::new(SPAN);
            let mut apply = |mirror: &mut Tree, due: Vec<api::ChangeEvent>| {
                settled += due.len();
                let applied = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    due.iter().for_each(|change| mirror.apply(change));
                }));
                assert!(applied.is_ok(), "seed {seed}");
            };
            for _ in 0..dice.random_range(1..60) {
                let Some(change) = truth.happens(&mut dice, &mut ids) else { continue };
                truth.apply(&change);
                all += 1;
                apply(&mut mirror, settling.take(change, "t".into(), at(now)));
                now += [0, 0, 1, 3][dice.random_range(0..4)];
                apply(&mut mirror, settling.due(at(now)));
                if dice.random_bool(0.02) {
                    apply(&mut mirror, settling.all());
                    assert_eq!(mirror, truth, "seed {seed}");
                }
            }
            apply(&mut mirror, settling.due(at(now + 6)));
            assert!(settling.is_empty());
            assert_eq!(mirror, truth, "seed {seed}");
        }
        assert!(settled < all, "something was told as a sum");
    }
}
