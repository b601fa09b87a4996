//! Changes to the tree, each whole or not at all: write, make a folder, delete, move, copy, restore.

use serde_json::Value;

use super::{Deleted, Export, File, Kind, NamespaceId, Node, Place, Revision, Tree};
use crate::emulator::{content::Content, nested, paths};

/// Files and folders one move or copy may take along.
const RELOCATED_MAX: usize = 10_000;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::emulator) enum Mode {
    #[default]
    Add,
    Overwrite,
    Update(String),
}

/// How a file is written.
#[derive(Debug, Clone, Default)]
pub(in crate::emulator) struct Terms {
    pub mode: Mode,
    pub autorename: bool,
    pub strict_conflict: bool,
    pub client_modified: Option<String>,
    pub property_groups: Option<Value>,
    pub export: Option<Export>,
    /// Bytes the namespace may hold; `None` for no limit.
    pub space: Option<u64>,
}

impl Terms {
    pub fn overwrite() -> Terms {
        Terms { mode: Mode::Overwrite, ..Terms::default() }
    }
}

/// The tags of `files.WriteError`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::emulator) enum WriteProblem {
    Malformed,
    Conflict(&'static str),
    InsufficientSpace,
    DisallowedName,
    /// A tag set by the control port.
    Restricted(String),
    // Only in moves and copies.
    TooManyFiles,
    IntoItself,
    CopyShared,
    NestShared,
}

impl WriteProblem {
    /// As `files.WriteError`.
    pub fn error(&self) -> Value {
        match self {
            WriteProblem::Malformed => nested(&["malformed_path"]),
            WriteProblem::Conflict(with) => nested(&["conflict", with]),
            WriteProblem::InsufficientSpace => nested(&["insufficient_space"]),
            WriteProblem::DisallowedName => nested(&["disallowed_name"]),
            WriteProblem::Restricted(tag) => nested(&[tag]),
            _ => nested(&["other"]),
        }
    }
}

/// A place that is fit to be written to.
type Fit = Result<(NamespaceId, String), WriteProblem>;

impl Tree {
    /// Writes a file by Dropbox's rules of conflict; gives its place. Identical content writes nothing, unless `strict_conflict`.
    pub fn write_file(&mut self, place: &Place, content: Content, terms: &Terms) -> Fit {
        self.check_fit(place)?;
        let namespace = place.namespace;
        let there = self.node(namespace, &place.key);
        let conflict = match there.map(|node| (&node.kind, node)) {
            None => match &terms.mode {
                // Strict update: the file must still be there.
                Mode::Update(_) if terms.strict_conflict => Some("file"),
                _ => None,
            },
            Some((Kind::Folder { .. }, _)) => Some("folder"),
            Some((Kind::File(file), node)) => {
                if let Some(tag) = &node.restricted {
                    return Err(WriteProblem::Restricted(write_tag(tag)));
                }
                let identical =
                    file.content.hash() == content.hash() && file.export.is_none() == terms.export.is_none();
                if identical && !terms.strict_conflict {
                    return Ok((namespace, place.key.clone()));
                }
                match &terms.mode {
                    Mode::Add => Some("file"),
                    Mode::Overwrite => None,
                    Mode::Update(rev) if *rev == file.rev => None,
                    Mode::Update(_) => Some("file"),
                }
            }
        };
        let replaced = there.and_then(Node::file).map_or(0, |file| file.content.size());
        let used = self.namespace(namespace).map_or(0, |namespace| namespace.used);
        if terms.space.is_some_and(|space| used - replaced.min(used) + content.size() > space) {
            return Err(WriteProblem::InsufficientSpace);
        }
        let display = match conflict {
            None => place.display.clone(),
            Some(_) if terms.autorename => {
                let copy = matches!(terms.mode, Mode::Update(_));
                self.free_name(namespace, &place.display, copy)
            }
            Some(with) => return Err(WriteProblem::Conflict(with)),
        };
        Ok(self.put_file(namespace, &display, content, terms))
    }

    fn put_file(
        &mut self,
        namespace: NamespaceId,
        display: &str,
        content: Content,
        terms: &Terms,
    ) -> (NamespaceId, String) {
        let now = self.now();
        let file = File {
            rev: self.new_rev(namespace),
            client_modified: terms.client_modified.clone().unwrap_or_else(|| now.clone()),
            server_modified: now,
            content,
            export: terms.export.clone(),
            property_groups: terms.property_groups.clone(),
        };
        let key = paths::key_of(display);
        let known = self.node(namespace, &key).map(|node| (node.id.clone(), node.display.clone()));
        let (id, display) = match known {
            Some(known) => known,
            None => (self.new_id(), self.make_parents(namespace, display)),
        };
        self.put(namespace, Node { id, display, kind: Kind::File(file), restricted: None });
        (namespace, key)
    }

    /// Makes a folder, and those around it.
    pub fn make_folder(&mut self, place: &Place, autorename: bool) -> Fit {
        self.check_fit(place)?;
        let with = match self.node(place.namespace, &place.key) {
            None => None,
            Some(node) if node.is_folder() => Some("folder"),
            Some(_) => Some("file"),
        };
        let display = match with {
            None => place.display.clone(),
            Some(_) if autorename => self.free_name(place.namespace, &place.display, false),
            Some(with) => return Err(WriteProblem::Conflict(with)),
        };
        Ok((place.namespace, self.put_folder(place.namespace, &display)))
    }

    fn put_folder(&mut self, namespace: NamespaceId, display: &str) -> String {
        let display = self.make_parents(namespace, display);
        let key = paths::key_of(&display);
        let node = Node { id: self.new_id(), display, kind: Kind::Folder { mount: None }, restricted: None };
        self.put(namespace, node);
        key
    }

    /// Removes an entry and everything under it. Its revisions stay. `false`: nothing was there.
    pub fn delete(&mut self, namespace: NamespaceId, key: &str) -> bool {
        let now = self.now();
        let nodes = self.take(namespace, key);
        let Some(inner) = self.namespaces.get_mut(&namespace) else { return false };
        for (key, node) in &nodes {
            let deleted = Deleted { display: node.display.clone(), at: now.clone(), folder: node.is_folder() };
            inner.deleted.insert(key.clone(), deleted);
        }
        if nodes.is_empty() {
            return false;
        }
        self.note(namespace, key.to_owned());
        true
    }

    /// Removes an entry, everything under it, and all its revisions.
    pub fn forget(&mut self, namespace: NamespaceId, key: &str) -> bool {
        let there = self.delete(namespace, key);
        let Some(inner) = self.namespaces.get_mut(&namespace) else { return there };
        inner.deleted.retain(|at, _| !paths::within(at, key));
        let gone: Vec<String> = inner.history.keys().filter(|at| paths::within(at, key)).cloned().collect();
        let revs: Vec<String> = gone.iter().filter_map(|at| inner.history.remove(at)).flatten().collect();
        for rev in &revs {
            if let Some(revision) = self.revisions.remove(rev)
                && let Some(of_file) = self.revisions_of.get_mut(&revision.id)
            {
                of_file.retain(|other| other != rev);
            }
        }
        there
    }

    /// Moves an entry with all that is under it; ids stay.
    pub fn relocate(&mut self, from: &Place, to: &Place, autorename: bool) -> Fit {
        if self.is_many(from) {
            return Err(WriteProblem::TooManyFiles);
        }
        self.relocate_any(from, to, autorename)
    }

    /// The same however much it is: what calls may not do, people with Dropbox's own programs may.
    pub fn relocate_any(&mut self, from: &Place, to: &Place, autorename: bool) -> Fit {
        let display = self.target(from, to, autorename)?;
        if from.namespace != to.namespace && self.has_mounts(from) {
            return Err(WriteProblem::NestShared);
        }
        let display = self.make_parents(to.namespace, &display);
        let now = self.now();
        let nodes = self.take(from.namespace, &from.key);
        if let Some(inner) = self.namespaces.get_mut(&from.namespace) {
            for (key, node) in &nodes {
                let deleted = Deleted { display: node.display.clone(), at: now.clone(), folder: node.is_folder() };
                inner.deleted.insert(key.clone(), deleted);
            }
        }
        self.note(from.namespace, from.key.clone());
        let cut = nodes.first().map_or(0, |(_, top)| top.display.len());
        let mounted: Vec<NamespaceId> = nodes.iter().filter_map(|(_, node)| node.mount()).collect();
        for (_, mut node) in nodes {
            node.display = format!("{display}{}", &node.display[cut..]);
            if let Kind::File(file) = &mut node.kind {
                file.rev = self.new_rev(to.namespace);
            }
            self.put(to.namespace, node);
        }
        mounted.into_iter().for_each(|inner| self.note_all(inner));
        Ok((to.namespace, paths::key_of(&display)))
    }

    /// Copies an entry with all that is under it; the copies have ids of their own.
    pub fn copy(&mut self, from: &Place, to: &Place, autorename: bool, space: u64) -> Fit {
        if self.has_mounts(from) {
            return Err(WriteProblem::CopyShared);
        }
        if self.is_many(from) {
            return Err(WriteProblem::TooManyFiles);
        }
        let display = self.target(from, to, autorename)?;
        let nodes: Vec<Node> = self.under(from.namespace, &from.key).map(|(_, node)| node.clone()).collect();
        let more: u64 = nodes.iter().filter_map(Node::file).map(|file| file.content.size()).sum();
        if self.namespace(to.namespace).map_or(0, |namespace| namespace.used) + more > space {
            return Err(WriteProblem::InsufficientSpace);
        }
        self.plant(to.namespace, &display, nodes);
        Ok((to.namespace, paths::key_of(&display)))
    }

    /// Puts copies of `nodes` (a top and what is under it) at `display`.
    pub fn plant(&mut self, namespace: NamespaceId, display: &str, nodes: Vec<Node>) {
        let display = self.make_parents(namespace, display);
        let now = self.now();
        let cut = nodes.first().map_or(0, |top| top.display.len());
        for mut node in nodes {
            node.display = format!("{display}{}", &node.display[cut..]);
            node.id = self.new_id();
            if let Kind::File(file) = &mut node.kind {
                file.rev = self.new_rev(namespace);
                file.server_modified.clone_from(&now);
            }
            self.put(namespace, node);
        }
    }

    /// More than a call may move or copy.
    fn is_many(&self, from: &Place) -> bool {
        self.under(from.namespace, &from.key).count() > RELOCATED_MAX
    }

    /// The checks before a move or copy; where it will go.
    fn target(&self, from: &Place, to: &Place, autorename: bool) -> Result<String, WriteProblem> {
        if from.namespace == to.namespace && from.key != to.key && paths::within(&to.key, &from.key) {
            return Err(WriteProblem::IntoItself);
        }
        self.check_fit(to)?;
        match self.node(to.namespace, &to.key) {
            None => Ok(to.display.clone()),
            Some(_) if autorename => Ok(self.free_name(to.namespace, &to.display, false)),
            Some(node) if node.is_folder() => Err(WriteProblem::Conflict("folder")),
            Some(_) => Err(WriteProblem::Conflict("file")),
        }
    }

    fn has_mounts(&self, place: &Place) -> bool {
        self.under(place.namespace, &place.key).any(|(_, node)| node.mount().is_some())
    }

    /// The entry at `key` and all that is under it.
    pub fn under<'a>(&'a self, namespace: NamespaceId, key: &str) -> impl Iterator<Item = (&'a String, &'a Node)> {
        let nodes = self.namespaces.get(&namespace).map(|namespace| &namespace.nodes);
        let top = nodes.and_then(|nodes| nodes.get_key_value(key));
        let (from, to) = (format!("{key}\0"), format!("{key}\u{1}"));
        let rest = nodes.into_iter().flat_map(move |nodes| nodes.range(from.clone()..to.clone()));
        top.into_iter().chain(rest)
    }

    /// Can anything be written at a place at all?
    pub fn check_fit(&self, place: &Place) -> Result<(), WriteProblem> {
        if place.is_root() {
            return Err(WriteProblem::Conflict("folder"));
        }
        let mut around = paths::parent(&place.key);
        while let Some(key) = around.filter(|key| !key.is_empty()) {
            if let Some(node) = self.node(place.namespace, key) {
                if !node.is_folder() {
                    return Err(WriteProblem::Conflict("file_ancestor"));
                }
                if let Some(tag) = &node.restricted {
                    return Err(WriteProblem::Restricted(write_tag(tag)));
                }
            }
            around = paths::parent(key);
        }
        if self.node(place.namespace, &place.key).is_none() && !place.display.split('/').all(paths::allowed_name) {
            return Err(WriteProblem::DisallowedName);
        }
        Ok(())
    }

    /// `name (1).ext`, or `name (conflicted copy).ext`: the first that is free.
    fn free_name(&self, namespace: NamespaceId, display: &str, conflicted_copy: bool) -> String {
        let folder = &display[..display.len() - paths::name(display).len()];
        let (stem, extension) = paths::split_extension(paths::name(display));
        let mut names = (u32::from(!conflicted_copy)..).map(|n| match (conflicted_copy, n) {
            (true, 0) => format!("{folder}{stem} (conflicted copy){extension}"),
            (true, n) => format!("{folder}{stem} (conflicted copy {n}){extension}"),
            (false, n) => format!("{folder}{stem} ({n}){extension}"),
        });
        let free = |name: &String| self.node(namespace, &paths::key_of(name)).is_none();
        names.find(free).expect("there are more numbers than entries")
    }

    /// Makes the folders around a path that are missing. Gives the path with their case.
    fn make_parents(&mut self, namespace: NamespaceId, display: &str) -> String {
        let name = paths::name(display);
        let folder = display[..display.len() - name.len()].trim_end_matches('/').to_owned();
        if folder.is_empty() {
            return display.to_owned();
        }
        let key = paths::key_of(&folder);
        if self.node(namespace, &key).is_none() {
            self.put_folder(namespace, &folder);
        }
        let folder = self.node(namespace, &key).map_or(folder, |node| node.display.clone());
        format!("{folder}/{name}")
    }

    /// Sets the entry at its path and keeps every index.
    fn put(&mut self, namespace: NamespaceId, node: Node) {
        let key = paths::key_of(&node.display);
        let Some(inner) = self.namespaces.get_mut(&namespace) else { return };
        inner.deleted.remove(&key);
        if let Some(mount) = node.mount() {
            inner.mounts.insert(key.clone(), mount);
        }
        if let Some(file) = node.file() {
            inner.used += file.content.size();
            inner.history.entry(key.clone()).or_default().push(file.rev.clone());
            self.revisions_of.entry(node.id.clone()).or_default().push(file.rev.clone());
            let revision = Revision {
                namespace,
                key: key.clone(),
                display: node.display.clone(),
                id: node.id.clone(),
                file: file.clone(),
            };
            self.revisions.insert(file.rev.clone(), revision);
        }
        self.ids.insert(node.id.clone(), (namespace, key.clone()));
        if let Some(old) = inner.nodes.insert(key.clone(), node).as_ref().and_then(Node::file) {
            inner.used -= old.content.size().min(inner.used);
        }
        self.note(namespace, key);
    }

    /// Takes an entry and all under it out of every index but the revisions.
    fn take(&mut self, namespace: NamespaceId, key: &str) -> Vec<(String, Node)> {
        let keys: Vec<String> = self.under(namespace, key).map(|(key, _)| key.clone()).collect();
        let Some(inner) = self.namespaces.get_mut(&namespace) else { return Vec::new() };
        let mut nodes = Vec::with_capacity(keys.len());
        for key in keys {
            if let Some(node) = inner.nodes.remove(&key) {
                inner.used -= node.file().map_or(0, |file| file.content.size()).min(inner.used);
                inner.mounts.remove(&key);
                self.ids.remove(&node.id);
                nodes.push((key, node));
            }
        }
        nodes
    }
}

/// A restriction of reads refuses writes too, under a tag that writes have.
fn write_tag(tag: &str) -> String {
    match tag {
        "no_write_permission" | "operation_suppressed" | "team_folder" | "too_many_write_operations" => tag.to_owned(),
        _ => "access_restricted".to_owned(),
    }
}
