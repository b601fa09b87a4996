//! Bytes of files: received piece by piece and hashed on the way, kept in memory as they came or in files, served in pieces.
//! No content is ever copied into one buffer, so a file may be larger than memory when pieces lie on disk. A block that is in
//! memory already is not kept twice, as Dropbox does it: many uploads of the same bytes take no more than one.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use super::{Error, Options};

/// Dropbox hashes files in blocks of this many bytes.
pub(in crate::emulator) const BLOCK: u64 = 4 << 20;

/// How much of a piece on disk is read at once.
const READ_BYTES: usize = 256 << 10;

/// How much is gathered before it is written to disk.
const WRITE_BYTES: usize = 1 << 20;

/// A run of bytes, in memory or in a file.
#[derive(Debug, Clone)]
pub(in crate::emulator) enum Piece {
    Memory(Bytes),
    File { file: Arc<PieceFile>, offset: u64, length: u64 },
}

impl Piece {
    fn len(&self) -> u64 {
        match self {
            Piece::Memory(bytes) => bytes.len() as u64,
            Piece::File { length, .. } => *length,
        }
    }

    fn cut(&self, from: u64, length: u64) -> Piece {
        match self {
            Piece::Memory(bytes) => {
                let from = from as usize;
                Piece::Memory(bytes.slice(from..from + length as usize))
            }
            Piece::File { file, offset, .. } => Piece::File { file: file.clone(), offset: offset + from, length },
        }
    }
}

/// A file that holds pieces. Ours are removed with the last piece, unless the store is kept over restarts.
#[derive(Debug)]
pub(in crate::emulator) struct PieceFile {
    pub path: PathBuf,
    remove: bool,
}

impl Drop for PieceFile {
    fn drop(&mut self) {
        if self.remove {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The bytes of one file. Cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::emulator) struct Content(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pieces: Vec<Piece>,
    size: u64,
    hash: String,
}

impl Content {
    pub fn new(pieces: Vec<Piece>, hash: String) -> Content {
        let size = pieces.iter().map(Piece::len).sum();
        Content(Arc::new(Inner { pieces, size, hash }))
    }

    pub fn from_bytes(bytes: impl Into<Bytes>) -> Content {
        let bytes = bytes.into();
        let mut hasher = Hasher::default();
        hasher.update(&bytes);
        Content::new(vec![Piece::Memory(bytes)], hash_of(&hasher.finish()))
    }

    /// A file that is somebody else's: read when asked for, never removed.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of_file(path: &Path) -> io::Result<Content> {
        let mut source = fs::File::open(path)?;
        let mut hasher = Hasher::default();
        let mut buffer = vec![0; WRITE_BYTES];
        let mut length = 0;
        loop {
            let read = io::Read::read(&mut source, &mut buffer)?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
            length += read as u64;
        }
        let file = Arc::new(PieceFile { path: path.to_owned(), remove: false });
        Ok(Content::new(vec![Piece::File { file, offset: 0, length }], hash_of(&hasher.finish())))
    }

    pub fn size(&self) -> u64 {
        self.0.size
    }

    /// `content_hash` as Dropbox writes it.
    pub fn hash(&self) -> &str {
        &self.0.hash
    }

    pub fn pieces(&self) -> &[Piece] {
        &self.0.pieces
    }

    /// The pieces of `length` bytes from `offset`; both must lie inside.
    pub fn range(&self, mut offset: u64, mut length: u64) -> Vec<Piece> {
        let mut range = Vec::new();
        for piece in &self.0.pieces {
            if length == 0 {
                break;
            }
            let size = piece.len();
            if offset >= size {
                offset -= size;
                continue;
            }
            let take = length.min(size - offset);
            range.push(piece.cut(offset, take));
            length -= take;
            offset = 0;
        }
        range
    }

    /// All of it in one buffer: for small contents only (text to convert, images to look into).
    ///
    /// # Errors
    /// A piece on disk cannot be read.
    pub fn read(&self, limit: u64) -> io::Result<Vec<u8>> {
        let mut whole = Vec::new();
        for piece in self.range(0, self.size().min(limit)) {
            match piece {
                Piece::Memory(bytes) => whole.extend_from_slice(&bytes),
                Piece::File { file, offset, length } => {
                    let mut source = fs::File::open(&file.path)?;
                    io::Seek::seek(&mut source, io::SeekFrom::Start(offset))?;
                    io::Read::read_to_end(&mut io::Read::take(source, length), &mut whole)?;
                }
            }
        }
        Ok(whole)
    }
}

/// Gives the bytes of pieces one buffer after the other.
#[derive(Debug)]
pub(in crate::emulator) struct Pieces {
    rest: std::vec::IntoIter<Piece>,
    open: Option<(tokio::fs::File, u64)>,
}

impl Pieces {
    pub fn new(pieces: Vec<Piece>) -> Pieces {
        Pieces { rest: pieces.into_iter(), open: None }
    }

    /// # Errors
    /// A piece on disk cannot be read, or has become shorter.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some((file, left)) = &mut self.open {
                if *left == 0 {
                    self.open = None;
                    continue;
                }
                let mut buffer = BytesMut::with_capacity(READ_BYTES.min(usize::try_from(*left).unwrap_or(READ_BYTES)));
                if file.read_buf(&mut buffer).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                buffer.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= buffer.len() as u64;
                return Ok(Some(buffer.freeze()));
            }
            match self.rest.next() {
                None => return Ok(None),
                Some(Piece::Memory(bytes)) if bytes.is_empty() => {}
                Some(Piece::Memory(bytes)) => return Ok(Some(bytes)),
                Some(Piece::File { file, offset, length }) => {
                    let mut opened = tokio::fs::File::open(&file.path).await?;
                    opened.seek(io::SeekFrom::Start(offset)).await?;
                    self.open = Some((opened, length));
                }
            }
        }
    }
}

/// A request's body, hashed in blocks counted from its own start.
#[derive(Debug, Clone, Default)]
pub(in crate::emulator) struct Received {
    pub pieces: Vec<Piece>,
    pub size: u64,
    pub digests: Vec<[u8; 32]>,
}

impl Received {
    pub fn hash(&self) -> String {
        hash_of(&self.digests)
    }

    pub fn into_content(self) -> Content {
        let hash = self.hash();
        Content::new(self.pieces, hash)
    }
}

/// Takes a body in.
#[derive(Debug)]
pub(in crate::emulator) struct Receiver {
    hasher: Hasher,
    kept: Kept,
    size: u64,
}

#[derive(Debug)]
enum Kept {
    /// Whole blocks, and what has come of the next one.
    Memory {
        pieces: Vec<Piece>,
        block: Vec<Bytes>,
        known: Arc<Known>,
    },
    File {
        path: PathBuf,
        remove: bool,
        file: Option<tokio::fs::File>,
        buffer: BytesMut,
    },
}

impl Receiver {
    /// # Errors
    /// The disk refuses.
    pub async fn push(&mut self, mut bytes: Bytes) -> io::Result<()> {
        self.size += bytes.len() as u64;
        match &mut self.kept {
            Kept::Memory { pieces, block, known } => {
                while !bytes.is_empty() {
                    let room = usize::try_from(BLOCK - self.hasher.filled).unwrap_or(usize::MAX);
                    let of_block = bytes.split_to(room.min(bytes.len()));
                    self.hasher.update(&of_block);
                    block.push(of_block);
                    if let (0, Some(digest)) = (self.hasher.filled, self.hasher.digests.last()) {
                        pieces.extend(known.keep(*digest, std::mem::take(block)));
                    }
                }
            }
            Kept::File { buffer, path, file, .. } => {
                self.hasher.update(&bytes);
                buffer.extend_from_slice(&bytes);
                if buffer.len() >= WRITE_BYTES {
                    flush(path, file, buffer).await?;
                }
            }
        }
        Ok(())
    }

    /// # Errors
    /// The disk refuses.
    pub async fn finish(self) -> io::Result<Received> {
        let pieces = match self.kept {
            Kept::Memory { mut pieces, block, .. } => {
                pieces.extend(block.into_iter().map(Piece::Memory));
                pieces
            }
            Kept::File { .. } if self.size == 0 => Vec::new(),
            Kept::File { path, remove, mut file, mut buffer } => {
                flush(&path, &mut file, &mut buffer).await?;
                if let Some(mut file) = file {
                    file.flush().await?;
                }
                vec![Piece::File { file: Arc::new(PieceFile { path, remove }), offset: 0, length: self.size }]
            }
        };
        Ok(Received { pieces, size: self.size, digests: self.hasher.finish() })
    }
}

async fn flush(path: &Path, file: &mut Option<tokio::fs::File>, buffer: &mut BytesMut) -> io::Result<()> {
    if file.is_none() {
        *file = Some(tokio::fs::File::create(path).await?);
    }
    if let Some(file) = file {
        file.write_all(buffer).await?;
    }
    buffer.clear();
    Ok(())
}

/// Whole blocks in memory by their digest, for as long as a file or a session has them.
#[derive(Debug, Default)]
struct Known(Mutex<HashMap<[u8; 32], Weak<Vec<Bytes>>>>);

/// One run of bytes of a block, which stays for as long as any of its runs.
struct Run {
    block: Arc<Vec<Bytes>>,
    at: usize,
}

impl AsRef<[u8]> for Run {
    fn as_ref(&self) -> &[u8] {
        &self.block[self.at]
    }
}

impl Known {
    /// The block as it is known, or else as it came.
    fn keep(&self, digest: [u8; 32], came: Vec<Bytes>) -> impl Iterator<Item = Piece> + use<> {
        let block = {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() == known.capacity() {
                known.retain(|_, block| block.strong_count() > 0);
            }
            match known.get(&digest).and_then(Weak::upgrade) {
                Some(block) => block,
                None => {
                    let block = Arc::new(came);
                    known.insert(digest, Arc::downgrade(&block));
                    block
                }
            }
        };
        (0..block.len()).map(move |at| Piece::Memory(Bytes::from_owner(Run { block: block.clone(), at })))
    }
}

/// Where contents are kept.
#[derive(Debug)]
pub(in crate::emulator) struct Store {
    folder: Option<PathBuf>,
    known: Arc<Known>,
    /// The folder goes with the store.
    temporary: bool,
    next: AtomicU64,
}

impl Store {
    /// # Errors
    /// The folder cannot be made.
    pub fn open(options: &Options) -> Result<Store, Error> {
        let (folder, temporary) = match (&options.state_dir, options.contents_on_disk) {
            (Some(state), _) => (Some(state.join("pieces")), false),
            (None, true) => {
                let name = format!("dropbox-emulator-{}-{:016x}", std::process::id(), rand::random::<u64>());
                (Some(std::env::temp_dir().join(name)), true)
            }
            (None, false) => (None, false),
        };
        if let Some(path) = &folder {
            fs::create_dir_all(path).map_err(|source| Error::Folder { path: path.clone(), source })?;
        }
        Ok(Store { folder, known: Arc::default(), temporary, next: AtomicU64::new(0) })
    }

    pub fn receiver(&self) -> Receiver {
        let kept = match &self.folder {
            None => Kept::Memory { pieces: Vec::new(), block: Vec::new(), known: self.known.clone() },
            Some(folder) => {
                let name = format!("{:016x}-{:08x}", rand::random::<u64>(), self.next.fetch_add(1, Ordering::Relaxed));
                let path = folder.join(name);
                Kept::File { path, remove: self.temporary, file: None, buffer: BytesMut::with_capacity(WRITE_BYTES) }
            }
        };
        Receiver { hasher: Hasher::default(), kept, size: 0 }
    }

    /// The folder of pieces kept over restarts.
    pub fn kept_folder(&self) -> Option<&Path> {
        self.folder.as_deref().filter(|_| !self.temporary)
    }

    /// A piece written by an earlier run, or a file of somebody else's.
    pub fn known_file(&self, path: PathBuf) -> Arc<PieceFile> {
        Arc::new(PieceFile { path, remove: false })
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let (Some(folder), true) = (&self.folder, self.temporary) {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

/// Digests of blocks of 4 MiB, the last one shorter.
#[derive(Debug, Default, Clone)]
pub(in crate::emulator) struct Hasher {
    block: Sha256,
    filled: u64,
    digests: Vec<[u8; 32]>,
}

impl Hasher {
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let take = usize::try_from(BLOCK - self.filled).map_or(bytes.len(), |room| room.min(bytes.len()));
            self.block.update(&bytes[..take]);
            self.filled += take as u64;
            bytes = &bytes[take..];
            if self.filled == BLOCK {
                self.digests.push(self.block.finalize_reset().into());
                self.filled = 0;
            }
        }
    }

    pub fn finish(mut self) -> Vec<[u8; 32]> {
        if self.filled > 0 {
            self.digests.push(self.block.finalize().into());
        }
        self.digests
    }
}

/// `content_hash` from the digests of a file's blocks.
pub(in crate::emulator) fn hash_of(digests: &[[u8; 32]]) -> String {
    let mut whole = Sha256::new();
    for digest in digests {
        whole.update(digest);
    }
    hex::encode(whole.finalize())
}

/// `content_hash` by reading everything again: for parts that do not begin on a block.
///
/// # Errors
/// A piece on disk cannot be read.
pub(in crate::emulator) fn hash_pieces(pieces: &[Piece]) -> io::Result<String> {
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; WRITE_BYTES];
    for piece in pieces {
        match piece {
            Piece::Memory(bytes) => hasher.update(bytes),
            Piece::File { file, offset, length } => {
                let mut source = fs::File::open(&file.path)?;
                io::Seek::seek(&mut source, io::SeekFrom::Start(*offset))?;
                let mut source = io::Read::take(source, *length);
                loop {
                    let read = io::Read::read(&mut source, &mut buffer)?;
                    if read == 0 {
                        break;
                    }
                    hasher.update(&buffer[..read]);
                }
            }
        }
    }
    Ok(hash_of(&hasher.finish()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_agrees_with_the_published_examples() {
        let of = |bytes: Vec<u8>| Content::from_bytes(bytes).hash().to_owned();
        assert_eq!(of(Vec::new()), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(of(b"hello world".to_vec()), "bc62d4b80d9e36da29c16c5d4d9f11731f36052c72401a76c23c0fb5a9b74423");
        assert_eq!(of(vec![0; 4 << 20]), "c7e946d101855255d919ef0c70718633adf77d3dfb3adeeecf5d0cb4e951be58");
        assert_eq!(of(vec![0; (4 << 20) + 1]), "14a4d47f23a30177885d9820122f17d2d3a55fe63f7f5c27b95f689e0b2accd6");
        let ramp = (0..10 << 20).map(|i: u32| (i % 251) as u8).collect();
        assert_eq!(of(ramp), "9b168152f37a1b2c33d9b26ca4a679d5f99f84f8c070fd3a4491d52cbfe96af4");
    }

    #[tokio::test]
    async fn a_block_is_kept_once_however_often_and_in_whatever_pieces_it_comes_and_goes_with_the_last_file() {
        let store = Store::open(&Options::default()).expect("opens");
        let bytes: Vec<u8> = (0..(9 << 20) as u32).map(|i| (i % 239) as u8).collect();
        let mut contents = Vec::new();
        let mut places = Vec::new();
        for piece in [70_000, 1 << 20, 5 << 20] {
            let mut receiver = store.receiver();
            for chunk in bytes.chunks(piece) {
                receiver.push(Bytes::copy_from_slice(chunk)).await.expect("kept");
            }
            let content = receiver.finish().await.expect("finished").into_content();
            assert_eq!(content.hash(), Content::from_bytes(bytes.clone()).hash());
            assert!(content.read(u64::MAX).expect("read") == bytes);
            let [Piece::Memory(first), ..] = content.pieces() else { panic!("in memory") };
            places.push(first.as_ptr());
            contents.push(content);
        }
        assert!(places.iter().all(|place| *place == places[0]), "the first block lies in one place");
        let kept = || {
            let known = store.known.0.lock().expect("unpoisoned");
            known.values().filter(|block| block.strong_count() > 0).count()
        };
        assert_eq!(kept(), 2, "two whole blocks; the rest of each file is its own");
        contents.truncate(1);
        assert_eq!(kept(), 2);
        drop(contents);
        assert_eq!(kept(), 0);
    }

    #[tokio::test]
    async fn bytes_on_disk_come_back_in_any_range_and_leave_no_file() {
        let options = Options { contents_on_disk: true, ..Options::default() };
        let store = Store::open(&options).expect("opens");
        let bytes: Vec<u8> = (0..3_000_000u32).map(|i| (i % 241) as u8).collect();
        let mut receiver = store.receiver();
        for chunk in bytes.chunks(70_000) {
            receiver.push(Bytes::copy_from_slice(chunk)).await.expect("written");
        }
        let received = receiver.finish().await.expect("finished");
        assert_eq!(received.size, bytes.len() as u64);
        let content = received.into_content();
        assert_eq!(content.hash(), Content::from_bytes(bytes.clone()).hash());
        for (from, length) in [(0usize, bytes.len()), (1, 1), (999_999, 1_500_000)] {
            let mut pieces = Pieces::new(content.range(from as u64, length as u64));
            let mut got = Vec::new();
            while let Some(part) = pieces.next().await.expect("read") {
                got.extend_from_slice(&part);
            }
            assert!(got == bytes[from..from + length]);
        }
        let folder = store.folder.clone().expect("on disk");
        assert_eq!(fs::read_dir(&folder).expect("there").count(), 1);
        drop(content);
        assert_eq!(fs::read_dir(&folder).expect("there").count(), 0);
        drop(store);
        assert!(!folder.exists());
    }
}
