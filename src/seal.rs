//! Sealing: the `KeyRing` and what it makes, sealed columns and sealed handles (page tokens, upload ids, job ids).
//! A blob is version, key id, nonce, ciphertext (XChaCha20-Poly1305). What it is and where it belongs is associated data,
//! so rows, columns and kinds of handle cannot be swapped. A handle grants nothing; it only cannot be read or forged.

mod passphrase;
mod source;

use std::{
    fmt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use arc_swap::ArcSwap;
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use rand::RngCore as _;
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

pub use passphrase::{open_with, seal_to};
pub use source::KeySource;

use crate::{
    fault::{Fault, Reason, Result},
    limits::{HANDLE_BYTES_MAX, KEY_COMMAND_INTERVAL, UPLOAD_ID_BYTES_MAX},
};

const VERSION: u8 = 1;
const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
const OWNER_BYTES: usize = 16;
const KEY_ID_BYTES_MAX: usize = 16;

/// One key that seals, any number that open.
///
/// Its text: one `key-id:key` per line, the key 32 bytes in base64 or hex; the first line seals, all lines open. Empty lines
/// and lines that begin with `#` are skipped.
pub struct KeyRing {
    source: Option<KeySource>,
    /// When the source was last read well.
    read_at: Mutex<Instant>,
    keys: ArcSwap<Vec<Key>>,
}

struct Key {
    id: String,
    cipher: XChaCha20Poly1305,
}

/// Why a blob did not open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unsealable {
    /// Not a blob, damaged, or sealed as something else or for another place.
    Malformed,
    /// Sealed by a key that is no longer in the ring.
    KeyRetired { key_id: String },
}

/// What a handle is for. A handle of one kind never opens as another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandleKind {
    /// A page token, of the RPC of this name.
    Page(&'static str),
    Upload,
    Job,
    /// A place in the changes of a watched folder.
    Resume,
}

/// Whose handle it is: the application parameter's `uid` and the Dropbox account linked to it (its grant if none is known).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner<'a> {
    pub uid: &'a str,
    pub account: &'a str,
}

impl KeyRing {
    /// Reads a key file.
    ///
    /// # Errors
    /// `INVALID_FIELD` naming `sealing_key_file`: missing, unreadable, empty or malformed. No message shows key material.
    pub fn from_file(path: &Path) -> Result<Self> {
        let source = KeySource::File(path.to_owned());
        let keys = parse(&source::read_file(path)?, source.key())?;
        Ok(Self::of(Some(source), keys))
    }

    /// Reads the keys from wherever they are.
    ///
    /// # Errors
    /// `INVALID_FIELD` naming the setting of the source. No message shows key material.
    pub async fn from_source(source: KeySource) -> Result<Self> {
        let keys = parse(&source.read().await?, source.key())?;
        Ok(Self::of(Some(source), keys))
    }

    /// A ring from the text of a key file.
    ///
    /// # Errors
    /// `INVALID_FIELD` as [`KeyRing::from_file`].
    pub fn parse(text: &str) -> Result<Self> {
        Ok(Self::of(None, parse(text, "sealing_key_file")?))
    }

    fn of(source: Option<KeySource>, keys: Vec<Key>) -> Self {
        Self { source, read_at: Mutex::new(Instant::now()), keys: ArcSwap::from_pointee(keys) }
    }

    /// A ring with one new random key that lives as long as the process: for the emulator and tests. It has a name of its own, so
    /// that a handle of an earlier process is told from one that was damaged.
    pub fn ephemeral() -> Self {
        Self::parse(&Self::new_line(&Self::new_id())).expect("a generated line is well formed")
    }

    /// A new random key as a line of a key file, without line end.
    pub fn new_line(key_id: &str) -> Zeroizing<String> {
        let mut key = Zeroizing::new([0u8; KEY_BYTES]);
        rand::rng().fill_bytes(key.as_mut_slice());
        Zeroizing::new(format!("{key_id}:{}", Zeroizing::new(STANDARD.encode(key.as_slice())).as_str()))
    }

    /// A new id for a key.
    pub fn new_id() -> String {
        let mut stamp = [0u8; 4];
        rand::rng().fill_bytes(&mut stamp);
        format!("k{}", hex::encode(stamp))
    }

    /// Makes a key file with one new key, readable by its owner only. An existing file is left alone and read.
    ///
    /// # Errors
    /// `INVALID_FIELD` naming `sealing_key_file`.
    pub fn from_file_or_new(path: &Path) -> Result<Self> {
        use std::io::Write as _;
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        match options.open(path) {
            Ok(mut file) => {
                let line = Self::new_line(&Self::new_id());
                file.write_all(line.as_bytes())
                    .and_then(|()| file.write_all(b"\n"))
                    .and_then(|()| file.sync_all())
                    .map_err(|error| bad_file(format!("cannot write {}: {error}", path.display())))?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(bad_file(format!("cannot create {}: {error}", path.display()))),
        }
        Self::from_file(path)
    }

    /// Reads the source again; true if the keys are others now. A file is read each time; a command runs every few minutes,
    /// until it works, and when `asked`; the environment cannot have changed. On failure the old keys stay.
    ///
    /// # Errors
    /// `INVALID_FIELD` as [`KeyRing::from_source`].
    pub async fn reload(&self, asked: bool) -> Result<bool> {
        let last = *self.read_at.lock().unwrap_or_else(PoisonError::into_inner);
        let source = match &self.source {
            None | Some(KeySource::Environment(_)) => return Ok(false),
            Some(KeySource::Command { .. }) if !asked && last.elapsed() < KEY_COMMAND_INTERVAL => return Ok(false),
            Some(source) => source,
        };
        let keys = parse(&source.read().await?, source.key())?;
        *self.read_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        // Same ids in the same order are the same keys: an id is never used for two keys.
        let changed = !keys.iter().map(|key| &key.id).eq(self.keys.load().iter().map(|key| &key.id));
        if changed {
            self.keys.store(Arc::new(keys));
        }
        Ok(changed)
    }

    /// Id of the key that seals now.
    pub fn sealing_key_id(&self) -> String {
        self.keys.load()[0].id.clone()
    }

    /// Ids of all keys that open, the sealing one first.
    pub fn key_ids(&self) -> Vec<String> {
        self.keys.load().iter().map(|key| key.id.clone()).collect()
    }

    /// The id of the key a blob was sealed with.
    pub fn key_id_of(blob: &[u8]) -> Option<&str> {
        split(blob).map(|(id, ..)| id)
    }

    /// Seals `plaintext` as a `kind` that belongs to the place `associated` names.
    pub fn seal(&self, kind: &str, associated: &[&[u8]], plaintext: &[u8]) -> Vec<u8> {
        let keys = self.keys.load();
        let key = &keys[0];
        let mut nonce = [0u8; NONCE_BYTES];
        rand::rng().fill_bytes(&mut nonce);
        let mut blob = Vec::with_capacity(2 + key.id.len() + NONCE_BYTES + plaintext.len() + 16);
        blob.push(VERSION);
        blob.push(u8::try_from(key.id.len()).expect("a key id has at most 16 bytes"));
        blob.extend_from_slice(key.id.as_bytes());
        let aad = bind(&blob, kind, associated);
        blob.extend_from_slice(&nonce);
        let sealed = key
            .cipher
            .encrypt(&XNonce::from(nonce), Payload { msg: plaintext, aad: &aad })
            .expect("no plaintext here comes near the cipher's bound of 256 GiB");
        blob.extend_from_slice(&sealed);
        blob
    }

    /// Opens what [`KeyRing::seal`] made for the same kind and place.
    ///
    /// # Errors
    /// [`Unsealable`].
    pub fn open(&self, kind: &str, associated: &[&[u8]], blob: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unsealable> {
        let (id, header, nonce, sealed) = split(blob).ok_or(Unsealable::Malformed)?;
        let keys = self.keys.load();
        let key =
            keys.iter().find(|key| key.id == id).ok_or_else(|| Unsealable::KeyRetired { key_id: id.to_owned() })?;
        let aad = bind(header, kind, associated);
        key.cipher
            .decrypt(&XNonce::from(nonce), Payload { msg: sealed, aad: &aad })
            .map(Zeroizing::new)
            .map_err(|_| Unsealable::Malformed)
    }

    /// Seals a handle: base64url without padding.
    ///
    /// # Errors
    /// `INVALID_FIELD` if it would be longer than its bound (4 KiB; upload ids 3.25 KiB).
    pub fn seal_handle<T: Serialize>(&self, kind: HandleKind, owner: &Owner<'_>, value: &T) -> Result<String> {
        let json = serde_json::to_vec(value);
        let json = json.map_err(|error| Fault::bug("a handle could not be written").source(error))?;
        self.seal_handle_bytes(kind, owner, &Zeroizing::new(json))
    }

    /// The same for one that says what it says in fewer bytes.
    ///
    /// # Errors
    /// As [`KeyRing::seal_handle`].
    pub fn seal_handle_bytes(&self, kind: HandleKind, owner: &Owner<'_>, bytes: &[u8]) -> Result<String> {
        let plaintext = Zeroizing::new([&owner_tag(owner)[..], bytes].concat());
        let handle = URL_SAFE_NO_PAD.encode(self.seal("handle", &kind.associated(), &plaintext));
        if handle.len() > kind.bytes_max() {
            return Err(Fault::new(
                Reason::InvalidField,
                "the request is too long to be kept in a handle; shorten its paths and strings",
            )
            .fact("limitBytes", kind.bytes_max()));
        }
        Ok(handle)
    }

    /// Opens a handle of this kind and owner.
    ///
    /// # Errors
    /// `HANDLE_MALFORMED`, `HANDLE_NOT_YOURS`, `HANDLE_KEY_RETIRED`.
    pub fn open_handle<T: DeserializeOwned>(&self, kind: HandleKind, owner: &Owner<'_>, handle: &str) -> Result<T> {
        serde_json::from_slice(&self.open_handle_bytes(kind, owner, handle)?).map_err(|_| kind.malformed())
    }

    /// What was given to [`KeyRing::seal_handle_bytes`].
    ///
    /// # Errors
    /// As [`KeyRing::open_handle`].
    pub fn open_handle_bytes(&self, kind: HandleKind, owner: &Owner<'_>, handle: &str) -> Result<Zeroizing<Vec<u8>>> {
        if handle.len() > kind.bytes_max() {
            return Err(kind.malformed());
        }
        let blob = URL_SAFE_NO_PAD.decode(handle).map_err(|_| kind.malformed())?;
        let mut plaintext = self.open("handle", &kind.associated(), &blob).map_err(|error| match error {
            Unsealable::Malformed => kind.malformed(),
            Unsealable::KeyRetired { key_id } => Fault::new(
                Reason::HandleKeyRetired,
                format!("the {} was sealed by a key that this server no longer has", kind.name()),
            )
            .fact("handleKind", kind.field())
            .fact("keyId", key_id),
        })?;
        let tag = plaintext.get(..OWNER_BYTES).ok_or_else(|| kind.malformed())?;
        if tag != owner_tag(owner) {
            return Err(Fault::new(
                Reason::HandleNotYours,
                format!("the {} was given for another application parameter or another linked account", kind.name()),
            )
            .fact("handleKind", kind.field()));
        }
        plaintext.drain(..OWNER_BYTES);
        Ok(plaintext)
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing").field("key_ids", &self.key_ids()).finish_non_exhaustive()
    }
}

impl HandleKind {
    fn name(self) -> &'static str {
        match self {
            HandleKind::Page(_) => "page token",
            HandleKind::Upload => "upload id",
            HandleKind::Job => "job id",
            HandleKind::Resume => "resume token",
        }
    }

    /// The field it travels in, for programs.
    pub fn field(self) -> &'static str {
        match self {
            HandleKind::Page(_) => "page_token",
            HandleKind::Upload => "upload_id",
            HandleKind::Job => "job_id",
            HandleKind::Resume => "resume_token",
        }
    }

    /// Of what is none, or was damaged.
    pub fn malformed(self) -> Fault {
        Fault::new(Reason::HandleMalformed, format!("this is no {}, or it was damaged on the way", self.name()))
            .fact("handleKind", self.field())
    }

    fn associated(self) -> [&'static [u8]; 2] {
        let rpc = if let HandleKind::Page(rpc) = self { rpc } else { "" };
        [self.name().as_bytes(), rpc.as_bytes()]
    }

    fn bytes_max(self) -> usize {
        if self == HandleKind::Upload { UPLOAD_ID_BYTES_MAX } else { HANDLE_BYTES_MAX }
    }
}

/// The owner goes inside the seal rather than beside it, so that a stranger's handle is told from a broken one.
fn owner_tag(owner: &Owner<'_>) -> [u8; OWNER_BYTES] {
    let digest = Sha256::digest(bind(b"owner", owner.uid, &[owner.account.as_bytes()]));
    let mut tag = [0u8; OWNER_BYTES];
    tag.copy_from_slice(&digest[..OWNER_BYTES]);
    tag
}

/// Every part with its length before it: no two lists of parts give the same bytes.
fn bind(header: &[u8], kind: &str, associated: &[&[u8]]) -> Vec<u8> {
    let mut bound = Vec::new();
    for part in [header, kind.as_bytes()].into_iter().chain(associated.iter().copied()) {
        bound.extend_from_slice(&(part.len() as u64).to_le_bytes());
        bound.extend_from_slice(part);
    }
    bound
}

/// Key id, header (all before the nonce), nonce, ciphertext.
type Parts<'a> = (&'a str, &'a [u8], [u8; NONCE_BYTES], &'a [u8]);

fn split(blob: &[u8]) -> Option<Parts<'_>> {
    let (&[version, length], rest) = blob.split_first_chunk::<2>()?;
    if version != VERSION {
        return None;
    }
    let (id, rest) = rest.split_at_checked(usize::from(length))?;
    let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>()?;
    Some((std::str::from_utf8(id).ok()?, &blob[..2 + id.len()], *nonce, sealed))
}

/// `source` is the setting that is named in what is wrong.
fn parse(text: &str, source: &str) -> Result<Vec<Key>> {
    let bad = |text: String| Fault::field(source, "MALFORMED", text);
    let mut keys: Vec<Key> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let (line, number) = (line.trim(), index + 1);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (id, encoded) = line
            .split_once(':')
            .ok_or_else(|| bad(format!("line {number}: write key-id:key, key in base64 or hex")))?;
        let (id, encoded) = (id.trim(), encoded.trim());
        let well_formed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_' || c == '.';
        if id.is_empty() || id.len() > KEY_ID_BYTES_MAX || !id.chars().all(well_formed) {
            return Err(bad(format!("line {number}: a key id has 1 to 16 letters, digits, - _ or .")));
        }
        let bytes = if encoded.len() == 2 * KEY_BYTES { hex::decode(encoded).ok() } else { None };
        let bytes = bytes.or_else(|| STANDARD.decode(encoded).ok()).or_else(|| URL_SAFE_NO_PAD.decode(encoded).ok());
        let bytes = Zeroizing::new(bytes.unwrap_or_default());
        let Ok(cipher) = XChaCha20Poly1305::new_from_slice(&bytes) else {
            return Err(bad(format!("line {number}: a key is {KEY_BYTES} bytes in base64 or hex")));
        };
        if keys.iter().any(|key| key.id == id) {
            return Err(bad(format!("line {number}: key id {id} stands twice")));
        }
        keys.push(Key { id: id.to_owned(), cipher });
    }
    if keys.is_empty() {
        return Err(bad("it holds no key; `dropbox-connector keys generate FILE` makes one".to_owned()));
    }
    Ok(keys)
}

fn bad_file(text: String) -> Fault {
    Fault::field("sealing_key_file", "MALFORMED", text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ME: Owner<'_> = Owner { uid: "uid-1", account: "dbid:1" };

    #[test]
    fn a_blob_opens_only_in_its_own_place() {
        let ring = KeyRing::ephemeral();
        let blob = ring.seal("column", &[b"uid-1", b"app_secret"], b"hush");
        assert_eq!(ring.open("column", &[b"uid-1", b"app_secret"], &blob).unwrap().as_slice(), b"hush");
        for (kind, place) in [
            ("column", [&b"uid-2"[..], b"app_secret"]),
            ("column", [b"uid-1", b"bearer"]),
            ("handle", [b"uid-1", b"app_secret"]),
            ("column", [b"uid-1a", b"pp_secret"]),
        ] {
            assert_eq!(ring.open(kind, &place, &blob).unwrap_err(), Unsealable::Malformed);
        }
        assert_eq!(ring.open("column", &[b"uid-1app_secret"], &blob).unwrap_err(), Unsealable::Malformed);
    }

    #[test]
    fn a_handle_is_refused_to_strangers_to_other_rpcs_and_after_its_key_is_gone() {
        let old = KeyRing::parse(&KeyRing::new_line("k1")).unwrap();
        let handle = old.seal_handle(HandleKind::Page("ListFolder"), &ME, &("cursor", 7)).unwrap();
        let open = |ring: &KeyRing, kind, owner: &Owner<'_>, handle: &str| {
            ring.open_handle::<(String, u32)>(kind, owner, handle).map_err(|fault| fault.reason())
        };
        let page = HandleKind::Page("ListFolder");
        assert_eq!(open(&old, page, &ME, &handle), Ok(("cursor".into(), 7)));
        assert_eq!(open(&old, HandleKind::Page("SearchItems"), &ME, &handle), Err(Reason::HandleMalformed));
        assert_eq!(open(&old, HandleKind::Upload, &ME, &handle), Err(Reason::HandleMalformed));
        for stranger in [Owner { uid: "uid-2", ..ME }, Owner { account: "dbid:2", ..ME }] {
            assert_eq!(open(&old, page, &stranger, &handle), Err(Reason::HandleNotYours));
        }
        let new = KeyRing::parse(&KeyRing::new_line("k2")).unwrap();
        assert_eq!(open(&new, page, &ME, &handle), Err(Reason::HandleKeyRetired));
        assert_eq!(open(&old, page, &ME, &"A".repeat(5000)), Err(Reason::HandleMalformed));
        assert_eq!(open(&old, page, &ME, "not base64 !"), Err(Reason::HandleMalformed));
    }

    #[test]
    fn handles_keep_their_bounds() {
        let ring = KeyRing::ephemeral();
        let path = "x".repeat(2048);
        assert!(ring.seal_handle(HandleKind::Upload, &ME, &path).unwrap().len() <= UPLOAD_ID_BYTES_MAX);
        let long = "x".repeat(2600);
        assert_eq!(ring.seal_handle(HandleKind::Upload, &ME, &long).unwrap_err().reason(), Reason::InvalidField);
        assert!(ring.seal_handle(HandleKind::Job, &ME, &long).unwrap().len() <= HANDLE_BYTES_MAX);
    }

    #[tokio::test]
    async fn a_key_file_is_made_once_rotated_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let ring = KeyRing::from_file_or_new(&path).unwrap();
        let blob = ring.seal("column", &[], b"hush");
        assert_eq!(KeyRing::from_file_or_new(&path).unwrap().open("column", &[], &blob).unwrap().as_slice(), b"hush");
        assert!(!ring.reload(false).await.unwrap());

        let old = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("# new first\n{}\n\n{old}", KeyRing::new_line("next").as_str())).unwrap();
        assert!(ring.reload(false).await.unwrap());
        assert_eq!(ring.sealing_key_id(), "next");
        assert_eq!(ring.key_ids().len(), 2);
        assert_eq!(ring.open("column", &[], &blob).unwrap().as_slice(), b"hush");
        assert_eq!(KeyRing::key_id_of(&ring.seal("column", &[], b"")), Some("next"));

        std::fs::write(&path, "broken").unwrap();
        assert_eq!(ring.reload(false).await.unwrap_err().violations()[0].field, "sealing_key_file");
        assert_eq!(ring.sealing_key_id(), "next");
    }

    #[test]
    fn bad_key_files_are_refused_without_showing_them() {
        let hex = format!("h:{}", "ab".repeat(32));
        assert_eq!(KeyRing::parse(&hex).unwrap().key_ids(), ["h"]);
        let twice = format!("{hex}\n{hex}");
        for text in ["", "# none\n", "k1", "k1:c2hvcnQ=", ":AAAA", "a-very-long-key-identifier:AAAA", twice.as_str()] {
            let fault = KeyRing::parse(text).unwrap_err();
            assert!(!format!("{fault:?}").contains("c2hvcnQ"), "{fault:?}");
        }
        assert!(!format!("{:?}", KeyRing::parse(&hex).unwrap()).contains("abab"));
    }

    proptest! {
        #[test]
        fn whatever_is_sealed_opens_and_any_flipped_bit_does_not(
            plain in proptest::collection::vec(any::<u8>(), 0..300), at in any::<prop::sample::Index>(), bit in 0u8..8
        ) {
            let ring = KeyRing::ephemeral();
            let mut blob = ring.seal("k", &[b"a"], &plain);
            prop_assert_eq!(ring.open("k", &[b"a"], &blob).unwrap().to_vec(), plain);
            let at = at.index(blob.len());
            blob[at] ^= 1 << bit;
            prop_assert!(ring.open("k", &[b"a"], &blob).is_err());
        }

        #[test]
        fn no_text_opens_as_a_handle(text in ".{0,200}") {
            let ring = KeyRing::ephemeral();
            prop_assert!(ring.open_handle::<String>(HandleKind::Job, &ME, &text).is_err());
        }
    }
}
