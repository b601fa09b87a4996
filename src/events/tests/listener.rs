//! Those who listen in the model test: one that takes a folder's event for all it held, and those that hear each item by
//! itself, of everything or of some. Each applies what it hears and ends with exactly what there is of what it wants.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use dropbox_sdk::types::files::Metadata;
use rand::{Rng as _, rngs::StdRng};

use super::truth::{Mirror, Node, Truth, node_of, path_of, place_of};
use crate::{
    events::{Basis, Change, ChangeKind, Entry, Happening, ItemKind, Options, Resync, Start, Watcher, feed::Feed},
    fault::Reason,
};

/// What a run has come across; a test that never meets the rare is no test.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Met {
    pub indexed: usize,
    pub inferred: usize,
    pub synthetic: usize,
    pub kills: usize,
    pub differences: usize,
    pub snapshots: usize,
    pub resumed: usize,
    /// Items told because their folder went or moved.
    pub expanded: usize,
    /// Went on in the midst of such.
    pub within: usize,
    /// Told again under the same id, behind a token.
    pub repeated: usize,
    /// Items that left what somebody wants by a move, or came into it.
    pub crossed: usize,
    /// What a filter hid, without an index, took the place of something wanted.
    pub replaced_unseen: usize,
}

impl Met {
    fn each(&mut self) -> [&mut usize; 12] {
        [
            &mut self.indexed,
            &mut self.inferred,
            &mut self.synthetic,
            &mut self.kills,
            &mut self.differences,
            &mut self.snapshots,
            &mut self.resumed,
            &mut self.expanded,
            &mut self.within,
            &mut self.repeated,
            &mut self.crossed,
            &mut self.replaced_unseen,
        ]
    }

    pub(super) fn add(&mut self, mut more: Met) {
        for (sum, new) in self.each().into_iter().zip(more.each()) {
            *sum += *new;
        }
    }

    pub(super) fn all(mut self) -> [usize; 12] {
        self.each().map(|count| *count)
    }
}

/// Which items somebody wants, by path and by whether it is a file.
type Wants = fn(&str, bool) -> bool;

const SOME: [Wants; 4] = [
    |_, is_file| is_file,
    |path, is_file| is_file && (path.ends_with('a') || path.ends_with('c')),
    |path, is_file| is_file && path.matches('/').count() == 1,
    |path, _| path.contains('b'),
];

enum Picture {
    Whole(Mirror),
    OneByOne(Flat),
}

pub(super) struct Listener {
    picture: Picture,
    watcher: Option<Watcher>,
    token: Option<Arc<str>>,
    /// What is told twice is known by its id, and is the same.
    told: HashMap<String, String>,
    trace: bool,
}

impl Listener {
    pub fn whole(trace: bool) -> Listener {
        Listener::new(Picture::Whole(Mirror::default()), trace)
    }

    pub fn of_everything_one_by_one(trace: bool) -> Listener {
        Listener::new(Picture::OneByOne(Flat::new(|_, _| true)), trace)
    }

    pub fn of_some(which: usize, trace: bool) -> Listener {
        Listener::new(Picture::OneByOne(Flat::new(SOME[which])), trace)
    }

    fn new(picture: Picture, trace: bool) -> Listener {
        Listener { picture, watcher: None, token: None, told: HashMap::new(), trace }
    }

    pub fn fall(&mut self) {
        self.watcher = None;
    }

    pub fn is_caught_up(&self) -> bool {
        self.watcher.as_ref().is_some_and(Watcher::is_caught_up)
    }

    async fn watch(&mut self, feed: &Arc<Feed>, met: &mut Met) -> bool {
        if self.watcher.is_some() {
            return true;
        }
        let start = match &self.token {
            None => {
                // Whoever had no token begins with nothing.
                self.picture.forget();
                Start::Snapshot
            }
            Some(token) => {
                let point = super::super::ResumePoint::unseal(feed.store.keys(), &feed.scope, token).unwrap();
                met.resumed += 1;
                met.within += usize::from(point.within.is_some());
                Start::After(point)
            }
        };
        let expand = matches!(self.picture, Picture::OneByOne(_));
        match Watcher::begin(feed.clone(), 1, start, Options { expand, ..Options::default() }).await {
            Ok(watcher) => self.watcher = Some(watcher),
            Err(fault) => assert_eq!(fault.reason(), Reason::CursorReset, "{fault}"),
        }
        self.watcher.is_some()
    }

    /// True when there is no more for now.
    pub async fn hear(&mut self, feed: &Arc<Feed>, most: usize, dice: &mut StdRng, met: &mut Met) -> bool {
        if !self.watch(feed, met).await {
            return false;
        }
        for _ in 0..most {
            let happening = match self.watcher.as_mut().unwrap().try_next().await {
                Ok(Some(happening)) => happening,
                Ok(None) => return true,
                Err(fault) => panic!("{fault:?}"),
            };
            self.apply(&happening, met);
            let token = happening.point().seal(feed.store.keys(), &feed.scope).unwrap();
            // The listener dies before it has kept the token: it hears this again.
            if dice.random_bool(0.03) && matches!(happening, Happening::Event(_)) {
                self.watcher = None;
                return false;
            }
            self.token = Some(token);
        }
        false
    }

    fn apply(&mut self, happening: &Happening, met: &mut Met) {
        if self.trace {
            eprintln!("heard {happening:?}");
        }
        match happening {
            Happening::Snapshot { items, .. } => items.iter().for_each(|item| self.picture.put(item, met)),
            Happening::CursorReset { resync: Resync::Snapshot, .. } => {
                met.snapshots += 1;
                self.picture.forget();
            }
            Happening::CursorReset { resync: Resync::Differences, .. } => met.differences += 1,
            Happening::Event(entry) => self.event(entry, met),
            Happening::Ready(_) | Happening::SnapshotEnd { .. } | Happening::BatchEnd(_) => {}
        }
    }

    fn event(&mut self, entry: &Entry, met: &mut Met) {
        let change = entry.change().unwrap();
        if entry.logged {
            let said = said(change);
            let known = self.told.insert(entry.event_id(), said.clone());
            if let Some(known) = known {
                assert_eq!(known, said, "{}", entry.event_id());
                met.repeated += 1;
                return;
            }
        }
        match change.basis {
            Basis::Inferred => met.inferred += 1,
            Basis::Index => met.indexed += 1,
            Basis::Synthetic => met.synthetic += 1,
        }
        met.expanded += usize::from(entry.point.within.is_some_and(|row| row > 0));
        match (&mut self.picture, change.basis) {
            (picture, Basis::Inferred) => picture.put(&change.item, met),
            (Picture::Whole(mirror), _) => mirror.apply(change),
            (Picture::OneByOne(flat), _) => flat.apply(change, met),
        }
    }

    pub fn is_right(&self, truth: &Truth, seed: u64) {
        let (nodes, wants): (_, Wants) = match &self.picture {
            Picture::Whole(mirror) => (&mirror.nodes, |_, _| true),
            Picture::OneByOne(flat) => (&flat.nodes, flat.wants),
        };
        let free_of_revs = |nodes: &BTreeMap<String, Node>| {
            let wanted = nodes.iter().filter(|(path, node)| wants(path, node.content.is_some()));
            let one = |(path, node): (&String, &Node)| {
                (path.clone(), node.id.clone(), node.content.map(|(_, content)| content))
            };
            wanted.map(one).collect::<Vec<_>>()
        };
        assert_eq!(free_of_revs(nodes), free_of_revs(&truth.nodes), "seed {seed}");
        assert_eq!(free_of_revs(nodes).len(), nodes.len(), "seed {seed}: it has what it does not want");
    }
}

/// A change without its revisions: what a share or a move does to those is not told of what lies beneath.
fn said(change: &Change) -> String {
    let content = match &change.item {
        Metadata::File(file) => file.content_hash.clone(),
        Metadata::Folder(_) | Metadata::Deleted(_) => change.before.as_ref().and_then(|before| before.hash.clone()),
    };
    let Change { kind, item_kind, id, previous_path, .. } = change;
    format!("{kind:?} {item_kind:?} {} {id:?} {previous_path:?} {content:?}", path_of(change))
}

impl Picture {
    fn forget(&mut self) {
        match self {
            Picture::Whole(mirror) => *mirror = Mirror::default(),
            Picture::OneByOne(flat) => flat.nodes.clear(),
        }
    }

    fn put(&mut self, item: &Metadata, met: &mut Met) {
        match self {
            Picture::Whole(mirror) => mirror.put(item),
            Picture::OneByOne(flat) => flat.put(item, met),
        }
    }
}

/// Somebody who takes each event for the one item it names, and keeps the items it wants.
struct Flat {
    nodes: BTreeMap<String, Node>,
    wants: Wants,
}

impl Flat {
    fn new(wants: Wants) -> Flat {
        Flat { nodes: BTreeMap::new(), wants }
    }

    fn apply(&mut self, change: &Change, met: &mut Met) {
        let below = |path: &str| path.trim_start_matches("/W/").to_owned();
        let path = below(&path_of(change));
        let from = change.previous_path.as_deref().map_or_else(|| path.clone(), below);
        let is_file = change.item_kind == ItemKind::File;
        let (was, is) = ((self.wants)(&from, is_file), (self.wants)(&path, is_file));
        match change.kind {
            ChangeKind::Created if is => {
                assert!(!self.nodes.values().any(|there| there.id == node_of(&change.item).id), "known: {change:?}");
                assert!(self.nodes.insert(path, node_of(&change.item)).is_none(), "something stood there: {change:?}");
            }
            ChangeKind::Updated | ChangeKind::MetadataChanged if is => {
                let new = node_of(&change.item);
                let there = self.nodes.insert(path, new.clone()).unwrap_or_else(|| panic!("it was there: {change:?}"));
                assert_eq!(there.id, new.id, "{change:?}");
            }
            ChangeKind::Deleted if was => {
                let there = self.nodes.remove(&path).unwrap_or_else(|| panic!("it was there: {change:?}"));
                assert_eq!(change.id.as_deref(), Some(format!("id:{}", there.id).as_str()));
                assert_eq!(there.content.map(|(_, content)| content), content_before(change), "{change:?}");
            }
            ChangeKind::Moved => {
                met.crossed += usize::from(was != is);
                if was {
                    let there = self.nodes.remove(&from).unwrap_or_else(|| panic!("it was there: {change:?}"));
                    assert_eq!(there.id, node_of(&change.item).id, "{change:?}");
                    assert_eq!(there.content.map(|(_, content)| content), content_before(change), "{change:?}");
                }
                if is {
                    let there = self.nodes.insert(path, node_of(&change.item));
                    assert!(there.is_none(), "something stood there: {change:?}");
                }
            }
            ChangeKind::Upserted => panic!("not without RAW"),
            _ => {}
        }
    }

    /// Without an index: what is hidden may take the place of what is wanted, which nobody tells then. A consumer that hears
    /// all of it would know; this one is told here, and it is counted.
    fn put(&mut self, item: &Metadata, met: &mut Met) {
        let path = place_of(item);
        let (is_file, is_gone) = (matches!(item, Metadata::File(_)), matches!(item, Metadata::Deleted(_)));
        let is_wanted = !is_gone && (self.wants)(&path, is_file);
        let held = self.nodes.len();
        if is_gone || is_file || self.nodes.get(&path).is_some_and(|node| node.content.is_some()) {
            let prefix = format!("{path}/");
            self.nodes.retain(|key, _| *key != path && !key.starts_with(&prefix));
        }
        if is_gone {
            return;
        }
        for (end, _) in path.match_indices('/') {
            if self.nodes.get(&path[..end]).is_some_and(|node| node.content.is_some()) {
                self.nodes.remove(&path[..end]);
            }
        }
        if !is_wanted {
            met.replaced_unseen += held - self.nodes.len();
            return;
        }
        for (end, _) in path.match_indices('/').filter(|(end, _)| (self.wants)(&path[..*end], false)) {
            let implied = || Node { id: "?".to_owned(), content: None };
            self.nodes.entry(path[..end].to_owned()).or_insert_with(implied);
        }
        self.nodes.insert(path, node_of(item));
    }
}

/// The hash repeats the four digits it was made of.
fn content_before(change: &Change) -> Option<u32> {
    let bytes = hex::decode(change.before.as_ref()?.hash.as_ref()?).unwrap();
    Some(String::from_utf8(bytes[..4].to_vec()).unwrap().parse().unwrap())
}
