//! Accounts, namespaces, entries and revisions: a plain data structure under one lock, with nothing of HTTP in it.
//! Every namespace is a map from key ([`paths::key_of`]) to entry; a folder may show another namespace (a mount).
//! One sequence number counts all changes of all namespaces, so cursors are just numbers.

mod json;
#[cfg(test)]
mod tests;
mod walk;
mod write;

pub(in crate::emulator) use self::{
    json::Shown,
    walk::{Reach, Visit},
    write::{Mode, Terms, WriteProblem},
};

use std::collections::{BTreeMap, HashMap, VecDeque};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::clock::{SharedClock, dropbox_time};

use super::{
    content::Content,
    paths::{self, Written},
};

/// Changes remembered for cursors; older cursors are `reset`.
const CHANGES_MAX: usize = 2_000_000;

pub(in crate::emulator) type NamespaceId = u64;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Account {
    /// `dbid:` and 35 characters.
    pub id: String,
    pub email: String,
    pub given_name: String,
    pub surname: String,
    /// The namespace that `/` means without a Path-Root header.
    pub home: NamespaceId,
    /// The same as `home`, or the team's space that holds it.
    pub root: NamespaceId,
    /// Where the home shows in the team's space.
    pub home_path: Option<String>,
    pub team: Option<Seat>,
}

/// A member's place in a team.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Seat {
    pub team_id: String,
    pub team_name: String,
    pub member_id: String,
}

#[derive(Debug, Clone)]
pub(in crate::emulator) struct Node {
    pub id: String,
    /// Full path within its namespace, case as shown.
    pub display: String,
    pub kind: Kind,
    /// Why reads or writes are refused: a tag of LookupError or WriteError, set by the control port.
    pub restricted: Option<String>,
}

#[derive(Debug, Clone)]
pub(in crate::emulator) enum Kind {
    File(File),
    /// `mount`: the namespace whose root shows here.
    Folder {
        mount: Option<NamespaceId>,
    },
}

#[derive(Debug, Clone)]
pub(in crate::emulator) struct File {
    pub rev: String,
    pub client_modified: String,
    pub server_modified: String,
    pub content: Content,
    /// Cannot be downloaded, only exported.
    pub export: Option<Export>,
    pub property_groups: Option<serde_json::Value>,
}

/// What a file turns into: format → content. The first is `export_as`.
#[derive(Debug, Clone)]
pub(in crate::emulator) struct Export {
    pub formats: Vec<(String, Content)>,
    pub paper_revision: Option<i64>,
}

impl Node {
    pub fn name(&self) -> &str {
        paths::name(&self.display)
    }

    pub fn file(&self) -> Option<&File> {
        match &self.kind {
            Kind::File(file) => Some(file),
            Kind::Folder { .. } => None,
        }
    }

    pub fn is_folder(&self) -> bool {
        matches!(self.kind, Kind::Folder { .. })
    }

    pub fn mount(&self) -> Option<NamespaceId> {
        match self.kind {
            Kind::Folder { mount } => mount,
            Kind::File(_) => None,
        }
    }
}

#[derive(Debug, Clone, Default)]
pub(in crate::emulator) struct Namespace {
    pub name: String,
    /// Without the root, which always is.
    pub nodes: BTreeMap<String, Node>,
    pub deleted: BTreeMap<String, Deleted>,
    /// Keys of folders that show other namespaces.
    pub mounts: BTreeMap<String, NamespaceId>,
    /// Revisions by path, oldest first.
    pub history: HashMap<String, Vec<String>>,
    /// Bytes of its live files.
    pub used: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::emulator) struct Deleted {
    pub display: String,
    pub at: String,
    pub folder: bool,
}

impl Namespace {
    /// Sets an entry as it was kept.
    pub fn plant(&mut self, node: Node) {
        let key = paths::key_of(&node.display);
        self.used += node.file().map_or(0, |file| file.content.size());
        if let Some(mount) = node.mount() {
            self.mounts.insert(key.clone(), mount);
        }
        self.nodes.insert(key, node);
    }
}

/// A state a file once had.
#[derive(Debug, Clone)]
pub(in crate::emulator) struct Revision {
    pub namespace: NamespaceId,
    pub key: String,
    pub display: String,
    pub id: String,
    pub file: File,
}

#[derive(Debug, Clone)]
pub(in crate::emulator) struct Change {
    pub sequence: u64,
    pub namespace: NamespaceId,
    pub key: String,
    /// Nothing was left there.
    pub gone: bool,
    /// What went was a folder, with all it held.
    pub folder: bool,
    /// Another namespace shows there.
    pub mount: bool,
}

/// A place in a namespace, with or without an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::emulator) struct Place {
    pub namespace: NamespaceId,
    pub key: String,
    /// As the caller wrote it, within the namespace.
    pub display: String,
    /// A `rev:` path names a state, not a place.
    pub rev: Option<String>,
}

impl Place {
    pub fn is_root(&self) -> bool {
        self.key.is_empty()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::emulator) enum Lost {
    Malformed,
    NotFound,
}

impl Lost {
    pub fn tag(self) -> &'static str {
        match self {
            Lost::Malformed => "malformed_path",
            Lost::NotFound => "not_found",
        }
    }
}

#[derive(Debug)]
pub(in crate::emulator) struct Tree {
    clock: SharedClock,
    seed: u64,
    dice: StdRng,
    pub accounts: Vec<Account>,
    pub namespaces: BTreeMap<NamespaceId, Namespace>,
    /// Live entries by id.
    pub ids: HashMap<String, (NamespaceId, String)>,
    pub revisions: HashMap<String, Revision>,
    /// Revisions by file id, oldest first.
    pub revisions_of: HashMap<String, Vec<String>>,
    pub changes: VecDeque<Change>,
    /// Of the newest change.
    pub sequence: u64,
    /// Cursors older than this have lost changes.
    pub forgotten: u64,
    next_namespace: NamespaceId,
    /// Says the newest sequence number to those who wait.
    changed: watch::Sender<u64>,
}

impl Tree {
    /// One account, "Ann Example", with an empty home.
    pub fn new(clock: SharedClock, seed: u64) -> Tree {
        let mut tree = Tree {
            clock,
            seed,
            dice: StdRng::seed_from_u64(seed ^ 0x7265_6531),
            accounts: Vec::new(),
            namespaces: BTreeMap::new(),
            ids: HashMap::new(),
            revisions: HashMap::new(),
            revisions_of: HashMap::new(),
            changes: VecDeque::new(),
            sequence: 0,
            forgotten: 0,
            next_namespace: 3_235_641,
            changed: watch::Sender::new(0),
        };
        tree.add_account("ann@example.com", "Ann", "Example");
        tree
    }

    /// As new, but sequence numbers go on, so that older cursors are known to be older.
    pub fn clear(&mut self) {
        let sequence = self.sequence + 1;
        let changed = self.changed.clone();
        *self = Tree { changed, ..Tree::new(self.clock.clone(), self.seed) };
        (self.sequence, self.forgotten) = (sequence, sequence);
    }

    /// The number the next namespace gets.
    pub fn next_namespace(&self) -> NamespaceId {
        self.next_namespace
    }

    /// Becomes what an earlier run kept. Cursors of before go on, as nothing has changed since.
    pub fn take_over(
        &mut self,
        accounts: Vec<Account>,
        namespaces: BTreeMap<NamespaceId, Namespace>,
        revisions: Vec<Revision>,
        sequence: u64,
        next_namespace: NamespaceId,
    ) {
        self.ids.clear();
        self.revisions.clear();
        self.revisions_of.clear();
        self.changes.clear();
        for (id, namespace) in &namespaces {
            self.ids.extend(namespace.nodes.iter().map(|(key, node)| (node.id.clone(), (*id, key.clone()))));
        }
        for revision in revisions {
            self.revisions_of.entry(revision.id.clone()).or_default().push(revision.file.rev.clone());
            self.revisions.insert(revision.file.rev.clone(), revision);
        }
        (self.accounts, self.namespaces, self.next_namespace) = (accounts, namespaces, next_namespace);
        (self.sequence, self.forgotten) = (sequence, sequence);
        // Ids made from now on differ from those of the earlier run.
        self.dice = StdRng::seed_from_u64(self.seed ^ sequence.rotate_left(17));
    }

    pub fn default_account(&self) -> &Account {
        &self.accounts[0]
    }

    pub fn account(&self, id: &str) -> Option<&Account> {
        self.accounts.iter().find(|account| account.id == id)
    }

    /// A user with an empty home; gives the account's id.
    pub fn add_account(&mut self, email: &str, given_name: &str, surname: &str) -> String {
        let home = self.add_namespace("");
        let id = format!("dbid:{}", self.random(35));
        self.accounts.push(Account {
            id: id.clone(),
            email: email.to_owned(),
            given_name: given_name.to_owned(),
            surname: surname.to_owned(),
            home,
            root: home,
            home_path: None,
            team: None,
        });
        id
    }

    pub fn add_namespace(&mut self, name: &str) -> NamespaceId {
        let id = self.next_namespace;
        self.next_namespace += 1;
        self.namespaces.insert(id, Namespace { name: name.to_owned(), ..Namespace::default() });
        id
    }

    /// Puts the account into a team with a team space: a root namespace in which its home shows as `/Given name`.
    pub fn give_team_space(&mut self, account: &str, team_name: &str) -> Option<NamespaceId> {
        let index = self.accounts.iter().position(|known| known.id == account)?;
        let seat = self.accounts.iter().filter_map(|other| Some((other.root, other.team.clone()?)));
        let known = seat.into_iter().find(|(_, seat)| seat.team_name == team_name);
        let (root, team_id) = match known {
            Some((root, seat)) => (root, seat.team_id),
            None => (self.add_namespace(team_name), format!("dbtid:{}", self.random(35))),
        };
        let member_id = format!("dbmid:{}", self.random(35));
        let path = format!("/{}", self.accounts[index].given_name);
        let home = self.accounts[index].home;
        self.mount(root, &path, home);
        let account = &mut self.accounts[index];
        account.root = root;
        account.home_path = Some(path);
        account.team = Some(Seat { team_id, team_name: team_name.to_owned(), member_id });
        Some(root)
    }

    /// Makes a folder that shows the root of `inner`. What was there is replaced.
    pub fn mount(&mut self, outer: NamespaceId, path: &str, inner: NamespaceId) {
        let key = paths::key_of(path);
        let node = Node {
            id: self.new_id(),
            display: path.to_owned(),
            kind: Kind::Folder { mount: Some(inner) },
            restricted: None,
        };
        self.ids.insert(node.id.clone(), (outer, key.clone()));
        if let Some(namespace) = self.namespaces.get_mut(&outer) {
            namespace.mounts.insert(key.clone(), inner);
            if let Some(old) = namespace.nodes.insert(key.clone(), node) {
                self.ids.remove(&old.id);
            }
        }
        self.note(outer, key);
    }

    pub fn namespace(&self, id: NamespaceId) -> Option<&Namespace> {
        self.namespaces.get(&id)
    }

    /// The entry at a place. The root of a namespace has none.
    pub fn node(&self, namespace: NamespaceId, key: &str) -> Option<&Node> {
        self.namespaces.get(&namespace)?.nodes.get(key)
    }

    pub fn node_mut(&mut self, namespace: NamespaceId, key: &str) -> Option<&mut Node> {
        self.namespaces.get_mut(&namespace)?.nodes.get_mut(key)
    }

    /// Where a path string leads from `root`. That something is there is not said.
    ///
    /// # Errors
    /// `NotFound` for an unknown id, rev or namespace, or one that `root` does not reach.
    pub fn locate(&self, root: NamespaceId, text: &str) -> Result<Place, Lost> {
        match paths::read(text).ok_or(Lost::Malformed)? {
            Written::Path(path) => Ok(self.descend(root, &path)),
            Written::Namespace { id, rest } => {
                let id = id.parse().map_err(|_| Lost::NotFound)?;
                self.prefix(root, id).ok_or(Lost::NotFound)?;
                Ok(self.descend(id, &rest))
            }
            Written::Id { id, rest } => {
                let (namespace, key) = self.ids.get(&id).ok_or(Lost::NotFound)?;
                self.prefix(root, *namespace).ok_or(Lost::NotFound)?;
                let display = &self.node(*namespace, key).ok_or(Lost::NotFound)?.display;
                Ok(self.descend(*namespace, &format!("{display}{rest}")))
            }
            Written::Rev(rev) => {
                let revision = self.revisions.get(&rev).ok_or(Lost::NotFound)?;
                self.prefix(root, revision.namespace).ok_or(Lost::NotFound)?;
                Ok(Place {
                    namespace: revision.namespace,
                    key: revision.key.clone(),
                    display: revision.display.clone(),
                    rev: Some(rev),
                })
            }
        }
    }

    /// Follows mounts. A mount's own folder belongs to the namespace around it.
    fn descend(&self, root: NamespaceId, path: &str) -> Place {
        let (mut namespace, mut display, mut key) = (root, path.to_owned(), paths::key_of(path));
        while let Some(inner) = self.namespaces.get(&namespace) {
            let crossing = inner.mounts.iter().find(|(at, _)| key.len() > at.len() && paths::within(&key, at));
            let Some((at, &id)) = crossing else { break };
            let steps = at.matches('\0').count();
            let cut = display.match_indices('/').nth(steps).map_or(display.len(), |(index, _)| index);
            display = display[cut..].to_owned();
            key = key[at.len()..].to_owned();
            namespace = id;
        }
        Place { namespace, key, display, rev: None }
    }

    /// The path at which `namespace` shows from `root`: `` for itself, `None` if it does not.
    pub fn prefix(&self, root: NamespaceId, namespace: NamespaceId) -> Option<String> {
        if root == namespace {
            return Some(String::new());
        }
        let outer = self.namespaces.get(&root)?;
        outer.mounts.iter().find_map(|(key, &inner)| {
            let rest = self.prefix(inner, namespace)?;
            Some(format!("{}{rest}", outer.nodes.get(key)?.display))
        })
    }

    /// Notes that something at a place is new, different or gone.
    pub fn note(&mut self, namespace: NamespaceId, key: String) {
        self.sequence += 1;
        let there = self.node(namespace, &key);
        let (gone, mount) = (there.is_none(), there.and_then(Node::mount).is_some());
        let went = self.namespace(namespace).and_then(|inner| inner.deleted.get(&key));
        let folder = gone && went.is_some_and(|deleted| deleted.folder);
        self.changes.push_back(Change { sequence: self.sequence, namespace, key, gone, folder, mount });
        if self.changes.len() > CHANGES_MAX
            && let Some(oldest) = self.changes.pop_front()
        {
            self.forgotten = oldest.sequence;
        }
        self.changed.send_replace(self.sequence);
    }

    /// What is in a shared folder is at another place, as the folder is.
    pub fn note_all(&mut self, namespace: NamespaceId) {
        let keys: Vec<String> =
            self.namespace(namespace).into_iter().flat_map(|inner| inner.nodes.keys().cloned()).collect();
        keys.into_iter().for_each(|key| self.note(namespace, key));
    }

    /// Ends a wait at every change.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Changes after `sequence`, oldest first; `None` when some are forgotten.
    pub fn changes_since(&self, sequence: u64) -> Option<impl Iterator<Item = &Change>> {
        if sequence < self.forgotten || sequence > self.sequence {
            return None;
        }
        let from = self.changes.partition_point(|change| change.sequence <= sequence);
        Some(self.changes.range(from..))
    }

    /// Policy time, as Dropbox writes it.
    pub fn now(&self) -> String {
        dropbox_time(self.clock.now())
    }

    /// As Dropbox's are: a mark, which is this one in its documentation, and a number, 16 bytes in all.
    fn new_id(&mut self) -> String {
        const MARK: u64 = 0x6b86_b273_ff34_fce1;
        self.sequence += 1;
        let bytes = ((u128::from(MARK) << 64) | u128::from(self.sequence)).to_be_bytes();
        format!("id:{}", BASE64_URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Grows with every write, so a newer rev is a greater one.
    fn new_rev(&mut self, namespace: NamespaceId) -> String {
        self.sequence += 1;
        format!("016{:010x}{:08x}", self.sequence, namespace)
    }

    fn random(&mut self, length: usize) -> String {
        (0..length).map(|_| char::from(self.dice.sample(rand::distr::Alphanumeric))).collect()
    }

    /// Bytes of everything an account owns.
    pub fn used(&self, account: &str) -> u64 {
        let home = self.account(account).map(|account| account.home);
        home.and_then(|home| self.namespaces.get(&home)).map_or(0, |namespace| namespace.used)
    }
}
