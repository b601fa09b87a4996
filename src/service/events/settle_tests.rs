//! What is told of paths that change again and again, and where whoever comes back goes on.

use std::collections::BTreeMap;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::*;
use crate::events::Ahead;

const SPAN: Duration = Duration::from_secs(5);
const BOTH: Sides = Sides { was: true, is: true };

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

fn place(sequence: i64) -> ResumePoint {
    serde_json::from_value(serde_json::json!({ "e": 7, "s": sequence, "m": 0, "c": "cursor" })).unwrap()
}

fn number(place: &ResumePoint) -> i64 {
    serde_json::to_value(place).unwrap()["s"].as_i64().unwrap()
}

fn coming(change: api::ChangeEvent, sequence: i64) -> Coming {
    let change = api::ChangeEvent { event_id: format!("7-{sequence}"), ..change };
    Coming { change, number: (7, sequence), before: place(sequence - 1), is_urgent: false, sides: BOTH }
}

fn taken(settling: &mut Settling, seconds: u64, change: api::ChangeEvent) {
    let sequence = i64::try_from(settling.arrived).unwrap() + 1;
    settling.take(coming(change, sequence), at(seconds));
}

fn told(settling: &mut Settling) -> Vec<(EventType, String)> {
    let goes = std::iter::from_fn(|| settling.next());
    goes.map(|one| (one.change.change_type(), one.change.item.unwrap().path_lower)).collect()
}

fn due(settling: &mut Settling, seconds: u64) -> Vec<(EventType, String)> {
    settling.look(at(seconds));
    told(settling)
}

fn all(settling: &mut Settling) -> Vec<(EventType, String)> {
    settling.hurry();
    told(settling)
}

/// Before which event whoever comes back goes on, and what is told of what is behind it.
fn floor(settling: &Settling, here: i64) -> Option<(i64, Option<Ahead>)> {
    settling.floor(&place(here)).map(|floor| (number(&floor) + 1, floor.ahead().cloned()))
}

#[test]
fn a_path_that_goes_on_changing_is_told_once_when_it_has_been_quiet_or_has_waited_for_long() {
    let mut settling = Settling::new(SPAN, (7, 0));
    taken(&mut settling, 0, file(EventType::Created, "/a"));
    taken(&mut settling, 1, file(EventType::Created, "/b"));
    taken(&mut settling, 4, file(EventType::Updated, "/a"));
    assert_eq!(settling.next_due(), Some(at(6)));
    assert_eq!(due(&mut settling, 6), [(EventType::Created, "/b".into())]);
    let of_a = Ahead { until: 3, mark: 0, within: None, waits: vec![(1, 1), (3, 3)] };
    assert_eq!(floor(&settling, 3), Some((1, Some(of_a))), "/b is told and /a is not");
    settling.look(at(9));
    let a = settling.next().unwrap().change;
    assert_eq!((a.change_type(), a.event_id.as_str()), (EventType::Created, "7-1~7-3"));
    assert!(settling.is_empty() && floor(&settling, 3).is_none());
    // Never quiet: no longer than ten spans.
    for second in 0..50 {
        taken(&mut settling, 100 + second, file(EventType::Updated, "/a"));
        assert_eq!(due(&mut settling, 100 + second), []);
    }
    taken(&mut settling, 150, file(EventType::Updated, "/a"));
    assert_eq!(settling.next_due(), Some(at(150)));
    settling.look(at(150));
    assert_eq!(settling.next().unwrap().change.event_id, "7-4~7-54");
}

#[test]
fn what_came_and_went_is_nothing_and_what_was_replaced_is_two_things() {
    let mut settling = Settling::new(SPAN, (7, 0));
    taken(&mut settling, 0, folder(EventType::Created, "/a"));
    taken(&mut settling, 1, file(EventType::Created, "/a/b"));
    taken(&mut settling, 1, folder(EventType::Deleted, "/a"));
    assert!(settling.is_empty());
    taken(&mut settling, 2, file(EventType::Deleted, "/b"));
    taken(&mut settling, 3, file(EventType::Created, "/b"));
    assert_eq!(due(&mut settling, 7), [(EventType::Deleted, "/b".into())]);
    assert_eq!(floor(&settling, 5), Some((5, Some(Ahead { until: 5, mark: 0, within: None, waits: vec![(5, 5)] }))));
    // What is only guessed to be new may have been there.
    let guessed = api::ChangeEvent { basis: api::EventBasis::Inferred.into(), ..folder(EventType::Created, "/c") };
    taken(&mut settling, 9, guessed);
    taken(&mut settling, 9, folder(EventType::Deleted, "/c"));
    assert_eq!(all(&mut settling), [(EventType::Created, "/b".into()), (EventType::Deleted, "/c".into())]);
    // So may what somebody may have been told of.
    let mut settling = Settling::new(SPAN, (7, 1));
    taken(&mut settling, 20, file(EventType::Created, "/d"));
    taken(&mut settling, 20, file(EventType::Deleted, "/d"));
    assert_eq!(all(&mut settling), [(EventType::Created, "/d".into()), (EventType::Deleted, "/d".into())]);
}

#[test]
fn nothing_is_overtaken_by_what_moves_it_or_takes_it_away() {
    let mut settling = Settling::new(SPAN, (7, 0));
    taken(&mut settling, 0, file(EventType::Updated, "/in/a"));
    taken(&mut settling, 1, folder(EventType::Deleted, "/in"));
    taken(&mut settling, 4, file(EventType::Updated, "/other"));
    taken(&mut settling, 5, moved("/OTHER", "/in"));
    assert_eq!(due(&mut settling, 5), [(EventType::Updated, "/in/a".into())]);
    assert_eq!(due(&mut settling, 6), [(EventType::Deleted, "/in".into())]);
    assert_eq!(due(&mut settling, 10), [(EventType::Updated, "/other".into()), (EventType::Moved, "/in".into())]);
    // What cannot wait is told behind what it builds upon, at once.
    taken(&mut settling, 20, file(EventType::Updated, "/f/a"));
    taken(&mut settling, 20, file(EventType::Updated, "/g"));
    settling.take(Coming { is_urgent: true, ..coming(folder(EventType::Deleted, "/f"), 7) }, at(20));
    assert_eq!(due(&mut settling, 20), [(EventType::Updated, "/f/a".into()), (EventType::Deleted, "/f".into())]);
}

#[test]
fn a_move_that_is_undone_or_built_upon_is_told_first() {
    let mut settling = Settling::new(SPAN, (7, 0));
    taken(&mut settling, 0, moved("/a", "/b"));
    taken(&mut settling, 1, file(EventType::Deleted, "/b"));
    assert_eq!(all(&mut settling), [(EventType::Moved, "/b".into()), (EventType::Deleted, "/b".into())]);
    taken(&mut settling, 0, moved("/a", "/b"));
    taken(&mut settling, 1, file(EventType::Created, "/a"));
    taken(&mut settling, 4, file(EventType::Updated, "/b"));
    assert_eq!(settling.next_due(), Some(at(6)));
    assert_eq!(settling.waiting[0].change.previous_path, "/a");
    assert_eq!(due(&mut settling, 6), [(EventType::Moved, "/b".into()), (EventType::Created, "/a".into())]);
    assert_eq!(due(&mut settling, 9), [(EventType::Updated, "/b".into())]);
    taken(&mut settling, 0, folder(EventType::Created, "/d"));
    taken(&mut settling, 1, file(EventType::Created, "/d/a"));
    taken(&mut settling, 2, folder(EventType::MetadataChanged, "/d"));
    assert_eq!(due(&mut settling, 6), [(EventType::Created, "/d".into()), (EventType::Created, "/d/a".into())]);
}

#[test]
fn what_was_moved_and_then_changed_is_told_as_both_at_one_time_and_whoever_stops_between_is_told_the_second() {
    let mut settling = Settling::new(SPAN, (7, 0));
    taken(&mut settling, 0, moved("/a", "/b"));
    taken(&mut settling, 1, file(EventType::MetadataChanged, "/b"));
    taken(&mut settling, 2, file(EventType::Updated, "/b"));
    taken(&mut settling, 4, file(EventType::Updated, "/b"));
    assert_eq!((settling.next_due(), due(&mut settling, 8)), (Some(at(9)), vec![]));
    settling.look(at(9));
    let first = settling.next().unwrap().change;
    assert_eq!((first.change_type(), first.event_id.as_str()), (EventType::Moved, "7-1~7-2"));
    assert_eq!(first.previous_path, "/a");
    let left = Ahead { until: 4, mark: 0, within: None, waits: vec![(3, 4)] };
    assert_eq!(floor(&settling, 4), Some((3, Some(left))));
    let second = settling.next().unwrap().change;
    assert_eq!((second.change_type(), second.event_id.as_str()), (EventType::Updated, "7-3~7-4"));
    assert!(settling.is_empty() && floor(&settling, 4).is_none());
    // Never quiet: both go when the first has waited for long enough.
    taken(&mut settling, 100, moved("/a", "/b"));
    for second in 101..150 {
        taken(&mut settling, second, file(EventType::Updated, "/b"));
        assert_eq!(due(&mut settling, second), []);
    }
    assert_eq!(due(&mut settling, 150), [(EventType::Moved, "/b".into()), (EventType::Updated, "/b".into())]);
}

#[test]
fn a_full_house_tells_its_oldest_before_its_time() {
    let mut settling = Settling::new(SPAN, (7, 0));
    for index in 0..SETTLE_PATHS_MAX {
        taken(&mut settling, 0, file(EventType::Created, &format!("/{index}")));
        assert!(settling.next().is_none(), "one run, however long it is");
    }
    taken(&mut settling, 0, file(EventType::Created, "/x"));
    assert_eq!(told(&mut settling), [(EventType::Created, "/0".into())]);
    // Or when a token cannot say any more what waits.
    let mut settling = Settling::new(SPAN, (7, 0));
    for index in 0..=SETTLE_RUNS_MAX {
        assert!(settling.next().is_none());
        let sequence = 2 * i64::try_from(index).unwrap();
        settling.take(coming(file(EventType::Created, &format!("/{index}")), sequence), at(0));
    }
    assert_eq!(told(&mut settling), [(EventType::Created, "/0".into())]);
    let token = floor(&settling, 1000).unwrap().1.unwrap();
    assert_eq!(token.waits.len(), SETTLE_RUNS_MAX);
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
                // Whoever renames upon it has the same content: other content is told behind it.
                assert_eq!(self.0.get(from), Some(&(id, is_folder, content)), "{change:?}");
                for old in self.beneath(from) {
                    let there = self.0.remove(&old).unwrap();
                    self.0.insert(format!("{path}{}", &old[from.len()..]), there);
                }
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

/// Takes what is told, and keeps the place behind each message.
struct Consumer {
    mirror: Tree,
    kept: ResumePoint,
    /// What it applied when it kept that.
    then: Tree,
    told: usize,
}

impl Consumer {
    fn hear(&mut self, settling: &mut Settling, here: i64, dies: bool) {
        while let Some(Going { change, .. }) = settling.next() {
            self.told += 1;
            self.mirror.apply(&change);
            if dies {
                return;
            }
            self.keep(settling, here);
        }
    }

    fn keep(&mut self, settling: &Settling, here: i64) {
        (self.kept, self.then) = (settling.floor(&place(here)).unwrap_or_else(|| place(here)), self.mirror.clone());
    }
}

#[test]
fn whoever_applies_what_has_settled_has_what_all_events_give_also_if_it_comes_back() {
    let seeds = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse::<u64>().ok()).unwrap_or(100);
    let (mut all, mut settled, mut waited) = (0, 0, 0);
    for seed in 0..seeds * 20 {
        let mut dice = StdRng::seed_from_u64(seed);
        let (mut truth, mut ids, mut now) = (Tree::default(), 0, 0);
        let mut log: Vec<api::ChangeEvent> = Vec::new();
        let mut settling = Settling::new(SPAN, (7, 0));
        let none = Tree::default();
        let mut consumer = Consumer { mirror: none.clone(), kept: place(0), then: none, told: 0 };
        let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..dice.random_range(1..60) {
                let Some(change) = truth.happens(&mut dice, &mut ids) else { continue };
                truth.apply(&change);
                all += 1;
                log.push(change.clone());
                let here = i64::try_from(log.len()).unwrap();
                settling.take(coming(change, here), at(now));
                consumer.hear(&mut settling, here, false);
                now += [0, 0, 1, 3][dice.random_range(0..4)];
                settling.look(at(now));
                let ends = dice.random_range(0..40);
                if ends == 0 {
                    settling.hurry();
                    consumer.hear(&mut settling, here, false);
                    assert_eq!(consumer.mirror, truth);
                }
                consumer.hear(&mut settling, here, ends == 1);
                if ends > 2 {
                    continue;
                }
                // It comes back with what it had when it kept the place, and the place is read as the log's watcher does.
                waited += usize::from(consumer.kept.ahead().is_some());
                consumer.mirror = consumer.then.clone();
                settling = Settling::new(if ends == 2 { Duration::ZERO } else { SPAN }, (7, here));
                for sequence in number(&consumer.kept) + 1..=here {
                    if consumer.kept.ahead().is_some_and(|ahead| ahead.was_told(sequence)) {
                        continue;
                    }
                    let change = log[usize::try_from(sequence).unwrap() - 1].clone();
                    settling.take(coming(change, sequence), at(now));
                }
                settling.look(at(now));
                consumer.hear(&mut settling, here, false);
                if ends == 2 {
                    assert_eq!(consumer.mirror, truth);
                    settling = Settling::new(SPAN, (7, 0));
                }
            }
            settling.look(at(now + 6));
            consumer.hear(&mut settling, i64::try_from(log.len()).unwrap(), false);
            assert!(settling.is_empty());
            assert_eq!(consumer.mirror, truth);
        }));
        assert!(played.is_ok(), "seed {seed}");
        settled += consumer.told;
    }
    assert!(settled < all && waited > 100, "something was told as a sum, and somebody came back to it: {waited}");
}

fn sided(settling: &mut Settling, change: api::ChangeEvent, was: bool, is: bool) {
    let sequence = i64::try_from(settling.arrived).unwrap() + 1;
    settling.take(Coming { sides: Sides { was, is }, ..coming(change, sequence) }, at(0));
}

/// Of the one thing that waits at last.
fn sum(settling: &mut Settling) -> (EventType, Sides) {
    settling.hurry();
    let going = settling.next().expect("it waits");
    assert!(settling.is_empty());
    (going.change.change_type(), going.sides)
}

#[test]
fn a_sum_is_wanted_for_what_was_before_all_of_it_and_for_what_is_behind_it() {
    let mut fresh = Settling::new(SPAN, (7, 0));
    sided(&mut fresh, file(EventType::Created, "/a"), false, false);
    sided(&mut fresh, file(EventType::Updated, "/a"), false, true);
    assert_eq!(sum(&mut fresh), (EventType::Created, Sides { was: false, is: true }));
    sided(&mut fresh, file(EventType::Created, "/b"), false, true);
    sided(&mut fresh, file(EventType::Updated, "/b"), true, false);
    assert_eq!(sum(&mut fresh), (EventType::Created, Sides { was: false, is: false }), "nobody had it");
}

#[test]
fn what_a_stream_before_may_have_told_is_said_to_have_left() {
    for behind in [EventType::Updated, EventType::Deleted] {
        let mut again = Settling::new(SPAN, (7, 1));
        sided(&mut again, file(EventType::Updated, "/a"), false, true);
        sided(&mut again, file(behind, "/a"), true, false);
        assert_eq!(sum(&mut again), (behind, Sides { was: true, is: false }));
    }
}

#[test]
fn an_event_that_is_not_wanted_for_itself_leaves_the_one_before_it_named() {
    let mut settling = Settling::new(SPAN, (7, 0));
    sided(&mut settling, file(EventType::Created, "/a"), false, true);
    sided(&mut settling, file(EventType::Updated, "/a"), true, false);
    sided(&mut settling, file(EventType::Updated, "/a"), false, false);
    let left = Ahead { until: 3, mark: 0, within: None, waits: vec![(1, 2)] };
    assert_eq!(floor(&settling, 3), Some((1, Some(left))), "the second takes it away from whoever had the first");
}
