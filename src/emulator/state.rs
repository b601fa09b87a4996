//! What an emulator starts with and leaves behind: the seed folder, and the tree kept in `state_dir` as one JSON file.
//! Contents are kept beside it as they came; only the pieces a live or earlier state still names survive a start.
//! The tree is written every few seconds when something has changed, and at the end.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Error, Options, World,
    content::{Content, Piece},
    hold,
    tree::{Account, Deleted, Export, File, Kind, Namespace, NamespaceId, Node, Revision, Terms, Tree},
};

const TREE_FILE: &str = "tree.json";

/// How often a changed tree is written.
const SAVE_EVERY: Duration = Duration::from_secs(5);

/// A piece as it is kept: file, offset, length. A bare name lies in the folder of pieces.
type KeptPiece = (PathBuf, u64, u64);

/// Where contents that were made in memory have been written to, by hash: once is enough.
#[derive(Debug, Default)]
pub(in crate::emulator) struct Packed(Mutex<HashMap<String, Vec<KeptPiece>>>);

/// Writes the tree again and again, until dropped.
pub(in crate::emulator) async fn save_on_change(world: Arc<World>) {
    let mut changed = world.tree().changed();
    if world.state_dir.is_none() {
        return;
    }
    while changed.changed().await.is_ok() {
        // Real time: this is about a disk.
        tokio::time::sleep(SAVE_EVERY).await;
        changed.mark_unchanged();
        if let Err(error) = save(&world).await {
            tracing::error!("the emulator's tree could not be written: {error}");
        }
    }
}

/// Reads what an earlier run kept, then the seed folder.
///
/// # Errors
/// Kept state that is damaged; a seed folder that cannot be read.
pub(in crate::emulator) async fn load(world: &Arc<World>, options: &Options) -> Result<(), Error> {
    let (world, options) = (world.clone(), options.clone());
    let loaded = tokio::task::spawn_blocking(move || {
        if let Some(folder) = &options.state_dir {
            restore(&world, folder)?;
        }
        match &options.seed_folder {
            Some(folder) => seed(&world, folder),
            None => Ok(()),
        }
    });
    loaded.await.unwrap_or_else(|panic| Err(Error::State { path: PathBuf::new(), text: panic.to_string() }))
}

/// Writes the tree where one is kept.
///
/// # Errors
/// The disk refuses.
pub(in crate::emulator) async fn save(world: &Arc<World>) -> Result<(), Error> {
    let world = world.clone();
    let saved = tokio::task::spawn_blocking(move || match &world.state_dir {
        Some(folder) => keep(&world, folder),
        None => Ok(()),
    });
    saved.await.unwrap_or_else(|panic| Err(Error::State { path: PathBuf::new(), text: panic.to_string() }))
}

/// Shows the files of a folder in the default account. Links are followed; what is neither file nor folder is left out.
fn seed(world: &World, folder: &Path) -> Result<(), Error> {
    let mut open = vec![(folder.to_owned(), String::new())];
    while let Some((folder, at)) = open.pop() {
        let failed = |source: io::Error| Error::Folder { path: folder.clone(), source };
        let mut entries: Vec<_> = fs::read_dir(&folder).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let shown = format!("{at}/{}", entry.file_name().to_string_lossy());
            let failed = |source: io::Error| Error::Folder { path: path.clone(), source };
            let meta = match fs::metadata(&path) {
                Ok(meta) => meta,
                // A link to nowhere.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(error)),
            };
            let root = world.tree().default_account().home;
            if meta.is_dir() {
                let mut tree = world.tree();
                if let Ok(place) = tree.locate(root, &shown) {
                    let _ = tree.make_folder(&place, false);
                }
                drop(tree);
                open.push((path.clone(), shown));
            } else if meta.is_file() {
                let content = Content::of_file(&path).map_err(failed)?;
                let modified = meta.modified().ok().map(crate::clock::dropbox_time);
                let terms = Terms { client_modified: modified, ..Terms::default() };
                // Names Dropbox does not take are left out, as its own client does.
                let _ = super::files::plant_file(world, root, &shown, content, terms);
            }
        }
    }
    Ok(())
}

#[derive(Serialize, Deserialize)]
struct Kept {
    accounts: Vec<Account>,
    namespaces: BTreeMap<NamespaceId, KeptNamespace>,
    revisions: Vec<KeptRevision>,
    contents: Vec<KeptContent>,
    sequence: u64,
    next_namespace: NamespaceId,
}

#[derive(Serialize, Deserialize)]
struct KeptNamespace {
    name: String,
    nodes: Vec<KeptNode>,
    deleted: BTreeMap<String, Deleted>,
    history: HashMap<String, Vec<String>>,
}

#[derive(Serialize, Deserialize)]
struct KeptNode {
    id: String,
    display: String,
    file: Option<KeptFile>,
    mount: Option<NamespaceId>,
    restricted: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct KeptFile {
    rev: String,
    client_modified: String,
    server_modified: String,
    /// Index into `contents`.
    content: usize,
    export: Option<KeptExport>,
    property_groups: Option<Value>,
}

#[derive(Serialize, Deserialize)]
struct KeptExport {
    formats: Vec<(String, usize)>,
    paper_revision: Option<i64>,
}

#[derive(Serialize, Deserialize)]
struct KeptRevision {
    namespace: NamespaceId,
    key: String,
    display: String,
    id: String,
    file: KeptFile,
}

#[derive(Serialize, Deserialize)]
struct KeptContent {
    hash: String,
    pieces: Vec<KeptPiece>,
}

/// Gives each content one place in the list.
struct Contents<'a> {
    folder: &'a Path,
    kept: Vec<KeptContent>,
    known: HashMap<String, usize>,
    packed: &'a mut HashMap<String, Vec<KeptPiece>>,
    /// One file takes all that is in memory: name, writer, length.
    pack: Option<(PathBuf, io::BufWriter<fs::File>, u64)>,
}

impl Contents<'_> {
    fn index(&mut self, content: &Content) -> io::Result<usize> {
        if let Some(index) = self.known.get(content.hash()) {
            return Ok(*index);
        }
        let pieces = match self.packed.get(content.hash()) {
            Some(pieces) => pieces.clone(),
            None => content.pieces().iter().map(|piece| self.piece(piece)).collect::<io::Result<_>>()?,
        };
        if content.pieces().iter().any(|piece| matches!(piece, Piece::Memory(_))) {
            self.packed.insert(content.hash().to_owned(), pieces.clone());
        }
        self.kept.push(KeptContent { hash: content.hash().to_owned(), pieces });
        self.known.insert(content.hash().to_owned(), self.kept.len() - 1);
        Ok(self.kept.len() - 1)
    }

    fn piece(&mut self, piece: &Piece) -> io::Result<KeptPiece> {
        let bytes = match piece {
            Piece::File { file, offset, length } => {
                let path = file.path.strip_prefix(self.folder).unwrap_or(&file.path);
                return Ok((path.to_owned(), *offset, *length));
            }
            // Seeded by the control port.
            Piece::Memory(bytes) => bytes,
        };
        let (name, writer, length) = match &mut self.pack {
            Some(pack) => pack,
            none => {
                let name = PathBuf::from(format!("{:016x}-pack", rand::random::<u64>()));
                let file = fs::File::create(self.folder.join(&name))?;
                none.insert((name, io::BufWriter::new(file), 0))
            }
        };
        io::Write::write_all(writer, bytes)?;
        let offset = *length;
        *length += bytes.len() as u64;
        Ok((name.clone(), offset, bytes.len() as u64))
    }

    fn file(&mut self, file: &File) -> io::Result<KeptFile> {
        let export = match &file.export {
            None => None,
            Some(export) => {
                let formats = export.formats.iter().map(|(format, content)| Ok((format.clone(), self.index(content)?)));
                let formats = formats.collect::<io::Result<_>>()?;
                Some(KeptExport { formats, paper_revision: export.paper_revision })
            }
        };
        Ok(KeptFile {
            rev: file.rev.clone(),
            client_modified: file.client_modified.clone(),
            server_modified: file.server_modified.clone(),
            content: self.index(&file.content)?,
            export,
            property_groups: file.property_groups.clone(),
        })
    }
}

fn keep(world: &World, state_dir: &Path) -> Result<(), Error> {
    let failed = |source: io::Error| Error::Folder { path: state_dir.to_owned(), source };
    let Some(pieces) = world.contents.kept_folder() else { return Ok(()) };
    // One writer at a time.
    let mut packed = hold(&world.packed.0);
    let kept = gather(&world.tree(), pieces, &mut packed).map_err(failed)?;
    let json = serde_json::to_vec(&kept)
        .map_err(|error| Error::State { path: state_dir.to_owned(), text: error.to_string() })?;
    let new = state_dir.join("tree.json.new");
    fs::write(&new, json).and_then(|()| fs::rename(&new, state_dir.join(TREE_FILE))).map_err(failed)
}

fn gather(tree: &Tree, folder: &Path, packed: &mut HashMap<String, Vec<KeptPiece>>) -> io::Result<Kept> {
    let mut contents = Contents { folder, kept: Vec::new(), known: HashMap::new(), packed, pack: None };
    let mut namespaces = BTreeMap::new();
    for (id, namespace) in &tree.namespaces {
        let mut nodes = Vec::with_capacity(namespace.nodes.len());
        for node in namespace.nodes.values() {
            nodes.push(KeptNode {
                id: node.id.clone(),
                display: node.display.clone(),
                file: node.file().map(|file| contents.file(file)).transpose()?,
                mount: node.mount(),
                restricted: node.restricted.clone(),
            });
        }
        let kept = KeptNamespace {
            name: namespace.name.clone(),
            nodes,
            deleted: namespace.deleted.clone(),
            history: namespace.history.clone(),
        };
        namespaces.insert(*id, kept);
    }
    let mut states: Vec<&Revision> = tree.revisions.values().collect();
    states.sort_by(|a, b| a.file.rev.cmp(&b.file.rev));
    let mut revisions = Vec::with_capacity(states.len());
    for state in states {
        revisions.push(KeptRevision {
            namespace: state.namespace,
            key: state.key.clone(),
            display: state.display.clone(),
            id: state.id.clone(),
            file: contents.file(&state.file)?,
        });
    }
    if let Some((_, mut writer, _)) = contents.pack.take() {
        io::Write::flush(&mut writer)?;
    }
    Ok(Kept {
        accounts: tree.accounts.clone(),
        namespaces,
        revisions,
        contents: contents.kept,
        sequence: tree.sequence,
        next_namespace: tree.next_namespace(),
    })
}

fn restore(world: &World, state_dir: &Path) -> Result<(), Error> {
    let path = state_dir.join(TREE_FILE);
    let damaged = |text: String| Error::State { path: path.clone(), text };
    let json = match fs::read(&path) {
        Ok(json) => json,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(Error::Folder { path, source }),
    };
    let kept: Kept = serde_json::from_slice(&json).map_err(|error| damaged(error.to_string()))?;
    let Some(folder) = world.contents.kept_folder() else { return Ok(()) };
    let contents: Vec<Content> = kept
        .contents
        .into_iter()
        .map(|content| {
            let piece = |(path, offset, length): KeptPiece| {
                let file = world.contents.known_file(folder.join(path));
                Piece::File { file, offset, length }
            };
            Content::new(content.pieces.into_iter().map(piece).collect(), content.hash)
        })
        .collect();
    sweep(folder, &contents);
    let file = |kept: KeptFile| -> Option<File> {
        let export = match kept.export {
            None => None,
            Some(KeptExport { formats, paper_revision }) => {
                let formats = formats.into_iter().map(|(format, index)| Some((format, contents.get(index)?.clone())));
                Some(Export { formats: formats.collect::<Option<_>>()?, paper_revision })
            }
        };
        Some(File {
            rev: kept.rev,
            client_modified: kept.client_modified,
            server_modified: kept.server_modified,
            content: contents.get(kept.content)?.clone(),
            export,
            property_groups: kept.property_groups,
        })
    };
    let missing = || damaged("a content is named that is not there".to_owned());
    let mut namespaces = BTreeMap::new();
    for (id, kept) in kept.namespaces {
        let mut namespace =
            Namespace { name: kept.name, deleted: kept.deleted, history: kept.history, ..Namespace::default() };
        for node in kept.nodes {
            let kind = match node.file {
                Some(kept) => Kind::File(file(kept).ok_or_else(missing)?),
                None => Kind::Folder { mount: node.mount },
            };
            namespace.plant(Node { id: node.id, display: node.display, kind, restricted: node.restricted });
        }
        namespaces.insert(id, namespace);
    }
    let mut revisions = Vec::with_capacity(kept.revisions.len());
    for state in kept.revisions {
        let KeptRevision { namespace, key, display, id, file: kept } = state;
        revisions.push(Revision { namespace, key, display, id, file: file(kept).ok_or_else(missing)? });
    }
    if kept.accounts.is_empty() {
        return Err(damaged("it names no account".to_owned()));
    }
    world.tree().take_over(kept.accounts, namespaces, revisions, kept.sequence, kept.next_namespace);
    Ok(())
}

/// Removes pieces nobody names any more: unfinished sessions, forgotten files.
fn sweep(folder: &Path, contents: &[Content]) {
    let pieces = contents.iter().flat_map(Content::pieces);
    let named: HashSet<&Path> = pieces
        .filter_map(|piece| match piece {
            Piece::File { file, .. } => Some(file.path.as_path()),
            Piece::Memory(_) => None,
        })
        .collect();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if !named.contains(entry.path().as_path()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
