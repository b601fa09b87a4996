//! Those who listen in the model test: one that takes a folder's event for all it held, and those that hear each item by
//! itself, of everything or of some. Each applies what it hears and ends with exactly what there is of what it wants.

use std::{collections::HashMap, sync::Arc};

use dropbox_sdk::types::files::Metadata;

use super::truth::{Mirror, Node, Nodes, below, node_of, path_of, place_of};
use crate::{
    events::{
        Basis, Change, ChangeKind, CheckpointName, Entry, Happening, ItemKind, Options, ResumePoint, Resync, Start,
        Watcher, feed::Feed, watcher::keep,
    },
    fault::{Fault, Reason},
    store::kill,
};

/// What a run has come across; a test that never meets the rare is no test.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
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
    /// Times that Dropbox was away.
    pub failures: usize,
    /// The watched folder itself was not there, for whoever polls or watches.
    pub gone: usize,
    /// Told as Dropbox tells it.
    pub raw: usize,
    /// Went on from a place that the store keeps.
    pub named: usize,
}

impl Met {
    fn each(&mut self) -> [&mut usize; 16] {
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
            &mut self.failures,
            &mut self.gone,
            &mut self.raw,
            &mut self.named,
        ]
    }

    /// Dropbox was away, and whatever it was is tried again; or the folder was, and they come back when it is there.
    pub(super) fn passes(&mut self, fault: &Fault) {
        if is_gone(fault) {
            self.gone += 1;
            return;
        }
        assert!(fault.retry_delay().is_some(), "{fault:?}");
        self.failures += 1;
    }

    pub(super) fn add(&mut self, mut more: Met) {
        for (sum, new) in self.each().into_iter().zip(more.each()) {
            *sum += *new;
        }
    }

    pub(super) fn all(mut self) -> [usize; 16] {
        self.each().map(|count| *count)
    }
}

/// The watched folder is not there, or is a file.
pub(super) fn is_gone(fault: &Fault) -> bool {
    matches!(fault.reason(), Reason::PathNotFound | Reason::NotAFolder)
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
    /// The store keeps its place under this name: the token only says that there is one.
    name: Option<CheckpointName>,
    /// It keeps its place behind every so many messages.
    keeps_every: usize,
    heard: usize,
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

    /// It hears much again that it has applied before, and not always in the same words.
    pub fn seldom_at_rest(trace: bool) -> Listener {
        Listener { keeps_every: 19, ..Listener::whole(trace) }
    }

    pub fn by_name(trace: bool) -> Listener {
        Listener { name: Some(CheckpointName::new("mirror")), keeps_every: 3, ..Listener::whole(trace) }
    }

    fn new(picture: Picture, trace: bool) -> Listener {
        let told = HashMap::new();
        Listener { picture, watcher: None, token: None, name: None, keeps_every: 1, heard: 0, told, trace }
    }

    /// Its name is given up, and it begins anew, whether the store heard of that or not.
    pub async fn forget(&mut self, feed: &Feed) {
        if let Some(name) = &self.name {
            (self.token, self.watcher) = (None, None);
            let forgotten = keep(&feed.store, &feed.scope, name, None).await;
            assert_eq!(forgotten.is_err(), kill::over().is_some(), "{forgotten:?}");
        }
    }

    pub fn fall(&mut self) {
        self.watcher = None;
    }

    pub fn take(&mut self) -> Option<Watcher> {
        self.watcher.take()
    }

    pub fn is_caught_up(&self) -> bool {
        self.watcher.as_ref().is_some_and(Watcher::is_caught_up)
    }

    async fn watch(&mut self, feed: &Arc<Feed>, met: &mut Met) -> bool {
        if self.watcher.is_some() {
            return true;
        }
        let start = match (&self.token, &self.name) {
            (None, _) => {
                // Whoever had no token begins with nothing.
                self.picture.forget();
                Start::Snapshot
            }
            (Some(_), Some(name)) => {
                met.named += 1;
                Start::Checkpoint(name.clone())
            }
            (Some(token), None) => {
                let point = ResumePoint::unseal(feed.store.keys(), &feed.scope, token).unwrap();
                met.resumed += 1;
                met.within += usize::from(point.within.is_some());
                Start::After(point)
            }
        };
        let expand = matches!(self.picture, Picture::OneByOne(_));
        match Watcher::begin(feed.clone(), 1, start, Options { expand, ..Options::default() }).await {
            Ok(watcher) => self.watcher = Some(watcher),
            Err(_) if kill::over().is_some() => {}
            Err(fault) if fault.reason() == Reason::CursorReset => {}
            Err(fault) => met.passes(&fault),
        }
        self.watcher.is_some()
    }

    /// True when there is no more for now. It dies behind the message `dies_at`, before it has kept its place.
    pub async fn hear(&mut self, feed: &Arc<Feed>, most: usize, dies_at: Option<usize>, met: &mut Met) -> bool {
        if !self.watch(feed, met).await {
            return false;
        }
        for number in 0..most {
            let happening = match self.watcher.as_mut().unwrap().try_next().await {
                Ok(Some(happening)) => happening,
                Ok(None) => return true,
                Err(_) if kill::over().is_some() => return false,
                Err(fault) => {
                    met.passes(&fault);
                    if is_gone(&fault) {
                        self.watcher = None;
                    }
                    return false;
                }
            };
            self.apply(&happening, feed.scope.raw, met);
            let token = happening.point().seal(feed.store.keys(), &feed.scope).unwrap();
            if dies_at == Some(number) {
                self.watcher = None;
                return false;
            }
            self.heard += 1;
            if self.heard.is_multiple_of(self.keeps_every) {
                if let Some(name) = &self.name {
                    let kept = keep(&feed.store, &feed.scope, name, Some(happening.point())).await;
                    assert_eq!(kept.is_err(), kill::over().is_some(), "{kept:?}");
                    if kept.is_err() {
                        return false;
                    }
                }
                self.token = Some(token);
            }
        }
        false
    }

    fn apply(&mut self, happening: &Happening, raw: bool, met: &mut Met) {
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
            Happening::Event(entry) => self.event(entry, raw, met),
            Happening::BatchEnd(_) | Happening::Ready(_) | Happening::Joined(_) => {
                if let Picture::Whole(mirror) = &mut self.picture {
                    mirror.end_batch();
                }
            }
            Happening::SnapshotEnd { .. } => {}
        }
    }

    fn event(&mut self, entry: &Entry, raw: bool, met: &mut Met) {
        let change = entry.change().unwrap();
        let is_raw = change.kind == ChangeKind::Upserted;
        assert!(is_raw == (raw && change.kind != ChangeKind::Deleted), "{change:?}");
        assert!(!raw || change.basis == Basis::Inferred, "{change:?}");
        met.raw += usize::from(raw);
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

    pub fn is_right(&self, truth: &Nodes) {
        let (nodes, wants): (_, Wants) = match &self.picture {
            Picture::Whole(mirror) => (&mirror.nodes, |_, _| true),
            Picture::OneByOne(flat) => (&flat.nodes, flat.wants),
        };
        let wanted = truth.iter().filter(|(path, node)| wants(path, node.hash.is_some()));
        let wanted: Nodes = wanted.map(|(path, node)| (path.clone(), node.clone())).collect();
        assert_eq!(*nodes, wanted);
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
    nodes: Nodes,
    wants: Wants,
}

impl Flat {
    fn new(wants: Wants) -> Flat {
        Flat { nodes: Nodes::new(), wants }
    }

    fn apply(&mut self, change: &Change, met: &mut Met) {
        let path = place_of(&change.item);
        let from = change
            .previous_path
            .as_deref()
            .map_or_else(|| path.clone(), |from| below(&dbxcase::dbx_str_lowercase(from)));
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
                // A folder may get another id by being shared.
                assert!(there.id == new.id || there.hash.is_none(), "{change:?}");
            }
            // It was only implied by what lay in it: nobody was told of it by itself.
            ChangeKind::Deleted if change.id.is_none() => _ = self.nodes.remove(&path),
            ChangeKind::Deleted if was => {
                let there = self.nodes.remove(&path).unwrap_or_else(|| panic!("it was there: {change:?}"));
                assert_eq!(change.id.as_deref(), Some(there.id.as_str()), "{change:?}");
                assert_eq!(there.hash, hash_before(change), "{change:?}");
            }
            ChangeKind::Moved => {
                met.crossed += usize::from(was != is);
                if was {
                    let there = self.nodes.remove(&from).unwrap_or_else(|| panic!("it was there: {change:?}"));
                    assert_eq!(there.id, node_of(&change.item).id, "{change:?}");
                    assert_eq!(there.hash, hash_before(change), "{change:?}");
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
        if is_gone || is_file || self.nodes.get(&path).is_some_and(|node| node.hash.is_some()) {
            let prefix = format!("{path}/");
            self.nodes.retain(|key, _| *key != path && !key.starts_with(&prefix));
        }
        if is_gone {
            return;
        }
        for (end, _) in path.match_indices('/') {
            if self.nodes.get(&path[..end]).is_some_and(|node| node.hash.is_some()) {
                self.nodes.remove(&path[..end]);
            }
        }
        if !is_wanted {
            met.replaced_unseen += held - self.nodes.len();
            return;
        }
        for (end, _) in path.match_indices('/').filter(|(end, _)| (self.wants)(&path[..*end], false)) {
            let implied = || Node { id: "?".to_owned(), hash: None };
            self.nodes.entry(path[..end].to_owned()).or_insert_with(implied);
        }
        self.nodes.insert(path, node_of(item));
    }
}

fn hash_before(change: &Change) -> Option<String> {
    change.before.as_ref()?.hash.clone()
}
