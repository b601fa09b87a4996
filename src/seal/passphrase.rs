//! Text sealed to a passphrase, for what leaves the store: Argon2id makes the key, XChaCha20-Poly1305 seals. The envelope
//! is JSON, says its version and the cost of its key, and all of it is bound to what is sealed.

use argon2::{Algorithm, Argon2, Params, Version};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use rand::RngCore as _;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{KEY_BYTES, NONCE_BYTES, bind};
use crate::{
    fault::{Fault, Result},
    limits::{PASSPHRASE_CHARS_MIN, PASSPHRASE_COST_KIB_MAX, PASSPHRASE_PASSES_MAX},
    secret::Secret,
};

const FORMAT: &str = "dropbox-connector parameters";
const VERSION: u32 = 1;
const KDF: &str = "argon2id";
const CIPHER: &str = "xchacha20-poly1305";
/// RFC 9106's second choice, which every server has the memory for: 64 MiB, 3 passes, 4 lanes.
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;
const LANES: u32 = 4;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    format: String,
    version: u32,
    kdf: Kdf,
    cipher: String,
    nonce: String,
    sealed: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kdf {
    name: String,
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    salt: String,
}

/// Seals `plaintext`; the answer is text that may be kept anywhere.
///
/// # Errors
/// `INVALID_FIELD` naming `passphrase` when it is too short to protect anything.
pub fn seal_to(passphrase: &Secret<String>, plaintext: &[u8]) -> Result<String> {
    if passphrase.reveal().chars().count() < PASSPHRASE_CHARS_MIN {
        let text =
            format!("at least {PASSPHRASE_CHARS_MIN} characters: whoever has the file may try as many as they like");
        return Err(Fault::field("passphrase", "OUT_OF_RANGE", text));
    }
    let (mut salt, mut nonce) = ([0u8; 16], [0u8; NONCE_BYTES]);
    rand::rng().fill_bytes(&mut salt);
    rand::rng().fill_bytes(&mut nonce);
    let mut envelope = Envelope {
        format: FORMAT.into(),
        version: VERSION,
        kdf: Kdf {
            name: KDF.into(),
            memory_kib: MEMORY_KIB,
            passes: PASSES,
            lanes: LANES,
            salt: STANDARD.encode(salt),
        },
        cipher: CIPHER.into(),
        nonce: STANDARD.encode(nonce),
        sealed: String::new(),
    };
    let cipher = envelope.kdf.cipher(passphrase, &salt)?;
    let sealed = cipher
        .encrypt(&XNonce::from(nonce), Payload { msg: plaintext, aad: &envelope.bound() })
        .map_err(|_| Fault::bug("too much to be sealed at once"))?;
    envelope.sealed = STANDARD.encode(sealed);
    serde_json::to_string_pretty(&envelope).map_err(|error| Fault::bug("an envelope is not JSON").source(error))
}

/// Opens what [`seal_to`] made.
///
/// # Errors
/// `INVALID_FIELD` naming `file` or `passphrase`.
pub fn open_with(passphrase: &Secret<String>, text: &str) -> Result<Zeroizing<Vec<u8>>> {
    let malformed = || Fault::field("file", "MALFORMED", "this is not an export of application parameters");
    let newer = || Fault::field("file", "UNSUPPORTED", "the export was made by a newer version; update this one");
    let envelope: Envelope = serde_json::from_str(text).map_err(|_| malformed())?;
    if envelope.format != FORMAT {
        return Err(malformed());
    }
    let kdf = &envelope.kdf;
    if envelope.version != VERSION || kdf.name != KDF || envelope.cipher != CIPHER {
        return Err(newer());
    }
    // What the file asks for is spent before anything is proven, so it is bounded.
    if kdf.memory_kib > PASSPHRASE_COST_KIB_MAX || kdf.passes > PASSPHRASE_PASSES_MAX || kdf.lanes > LANES {
        return Err(Fault::field("file", "OUT_OF_RANGE", "the export asks for more memory or time than is reasonable"));
    }
    let bytes = |text: &str| STANDARD.decode(text).map_err(|_| malformed());
    let (salt, nonce, sealed) = (bytes(&kdf.salt)?, bytes(&envelope.nonce)?, bytes(&envelope.sealed)?);
    let nonce: [u8; NONCE_BYTES] = nonce.try_into().map_err(|_| malformed())?;
    let cipher = kdf.cipher(passphrase, &salt)?;
    let opened = cipher.decrypt(&XNonce::from(nonce), Payload { msg: &sealed, aad: &envelope.bound() });
    opened.map(Zeroizing::new).map_err(|_| {
        Fault::field("passphrase", "REJECTED", "the passphrase is another one, or the file was changed since")
    })
}

impl Kdf {
    fn cipher(&self, passphrase: &Secret<String>, salt: &[u8]) -> Result<XChaCha20Poly1305> {
        let unusable = |_| Fault::field("file", "MALFORMED", "the export's key parameters cannot be used");
        let params = Params::new(self.memory_kib, self.passes, self.lanes, Some(KEY_BYTES)).map_err(unusable)?;
        let mut key = Zeroizing::new([0u8; KEY_BYTES]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(passphrase.reveal().as_bytes(), salt, key.as_mut_slice())
            .map_err(unusable)?;
        Ok(XChaCha20Poly1305::new_from_slice(key.as_slice()).expect("32 bytes are a key"))
    }
}

impl Envelope {
    /// All that stands in clear.
    fn bound(&self) -> Vec<u8> {
        let Kdf { name, memory_kib, passes, lanes, salt } = &self.kdf;
        let cost = format!("{memory_kib} {passes} {lanes}");
        let parts = [&self.version.to_string(), name, &cost, salt, &self.cipher, &self.nonce];
        bind(FORMAT.as_bytes(), "passphrase", &parts.map(String::as_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passphrase(text: &str) -> Secret<String> {
        Secret::new(text.to_owned())
    }

    #[test]
    fn what_is_sealed_opens_with_its_passphrase_alone_and_unchanged() {
        let right = passphrase("correct horse battery é");
        let text = seal_to(&right, b"hush").expect("sealed");
        assert!(!text.contains("hush") && !text.contains(&STANDARD.encode("hush")), "{text}");
        assert_eq!(open_with(&right, &text).expect("opens").as_slice(), b"hush");
        let field = |passphrase: &Secret<String>, text: &str| {
            open_with(passphrase, text).expect_err("refused").violations()[0].field.clone()
        };
        assert_eq!(field(&passphrase("correct horse battery e"), &text), "passphrase");
        let changed = |from: &str, to: &str| {
            assert!(text.contains(from), "{from} in {text}");
            text.replacen(from, to, 1)
        };
        assert_eq!(field(&right, &changed("\"passes\": 3", "\"passes\": 2")), "passphrase");
        assert_eq!(field(&right, &changed("\"version\": 1", "\"version\": 2")), "file");
        assert_eq!(field(&right, &changed("\"memory_kib\": 65536", "\"memory_kib\": 4194304")), "file");
        assert_eq!(field(&right, &changed("\"memory_kib\": 65536", "\"memory_kib\": 1")), "file");
        assert_eq!(field(&right, &changed("dropbox-connector", "other")), "file");
        for garbage in ["", "{}", "[]", "\u{0}", "{\"format\":1}"] {
            assert_eq!(field(&right, garbage), "file");
        }
        assert_ne!(seal_to(&right, b"hush").expect("sealed"), text, "salt and nonce are new each time");
    }

    #[test]
    fn a_passphrase_that_protects_nothing_is_refused() {
        let fault = seal_to(&passphrase("short"), b"hush").expect_err("too short");
        assert_eq!(fault.violations()[0].field, "passphrase");
        assert!(!format!("{fault:?}").contains("hush"));
    }
}
