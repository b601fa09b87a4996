//! The issuer's public keys: a JWKS from a file or a url, read again when it is due, when somebody shows a key that is not
//! in it, and never more often than it may be. A set that cannot be read changes nothing; a key that is gone from the set
//! opens nothing any more. Symmetric keys are never taken: whoever could check a token with one could make it, too.

use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use url::Url;

use super::fetch;
use crate::{
    clock::SharedClock,
    limits::{KEYS_AGE, KEYS_BYTES_MAX, KEYS_MAX, KEYS_REFETCH, KEYS_RETRY},
};

/// One key of a set.
pub(super) struct Key {
    id: Option<String>,
    /// What it may check: what its kind can, and of that the one algorithm the set ties it to, if it does.
    algorithms: Vec<Algorithm>,
    decoding: DecodingKey,
}

impl Key {
    /// `None` for a key that is not for checking signatures, or of a kind not known here.
    fn from_jwk(jwk: &Jwk) -> Option<Key> {
        let common = &jwk.common;
        let signs = common.public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature)
            && common.key_operations.as_ref().is_none_or(|ops| ops.contains(&KeyOperations::Verify));
        if !signs {
            return None;
        }
        let is_long = |text: &str, bytes: usize| BASE64.decode(text).is_ok_and(|found| found.len() == bytes);
        let mut algorithms = match &jwk.algorithm {
            AlgorithmParameters::RSA(key) => {
                use Algorithm::*;
                let n = BASE64.decode(&key.n).ok()?;
                // Shorter ones can be broken.
                let bits = n.iter().position(|byte| *byte != 0).map_or(0, |zeros| (n.len() - zeros) * 8);
                (bits >= 2048).then_some(vec![RS256, RS384, RS512, PS256, PS384, PS512])?
            }
            AlgorithmParameters::EllipticCurve(key) => {
                let (bytes, algorithm) = match key.curve {
                    EllipticCurve::P256 => (32, Algorithm::ES256),
                    EllipticCurve::P384 => (48, Algorithm::ES384),
                    _ => return None,
                };
                (is_long(&key.x, bytes) && is_long(&key.y, bytes)).then_some(vec![algorithm])?
            }
            AlgorithmParameters::OctetKeyPair(key) => {
                let fits = key.curve == EllipticCurve::Ed25519 && is_long(&key.x, 32);
                fits.then_some(vec![Algorithm::EdDSA])?
            }
            AlgorithmParameters::OctetKey(_) => return None,
        };
        if let Some(only) = common.key_algorithm {
            algorithms.retain(|algorithm| format!("{algorithm:?}") == only.to_string());
        }
        if algorithms.is_empty() {
            return None;
        }
        Some(Key { id: common.key_id.clone(), algorithms, decoding: DecodingKey::from_jwk(jwk).ok()? })
    }

    /// A key checks the algorithms of its own kind only, whatever a token says of itself.
    fn fits(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }

    pub(super) fn decoding(&self) -> &DecodingKey {
        &self.decoding
    }
}

/// A set of keys, as it was read.
pub(super) struct KeySet {
    keys: Vec<Key>,
    digest: [u8; 32],
}

impl KeySet {
    /// # Errors
    /// In words: not JSON, not a set, no key in it that could check a signature.
    pub(super) fn parse(text: &[u8]) -> Result<KeySet, String> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        let set: Set = serde_json::from_slice(text).map_err(|error| {
            format!(
                "it is not a JSON Web Key Set ({{\"keys\": […]}}): line {}, column {}",
                error.line(),
                error.column()
            )
        })?;
        if set.keys.len() > KEYS_MAX {
            return Err(format!("it holds {} keys; at most {KEYS_MAX} are taken", set.keys.len()));
        }
        let all = set.keys.len();
        // A set may hold keys for other uses and of kinds that come later: those are passed over (RFC 7517, 5).
        let keys = set.keys.into_iter().filter_map(|key| Key::from_jwk(&serde_json::from_value(key).ok()?));
        let keys: Vec<Key> = keys.collect();
        if keys.is_empty() {
            return Err(format!(
                "of its {all} keys none can check a signature here: RSA of at least 2048 bits, EC P-256 or P-384, Ed25519"
            ));
        }
        Ok(KeySet { keys, digest: Sha256::digest(text).into() })
    }

    /// The key a token names. Without a name there must be only one that fits.
    pub(super) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<&Key> {
        let mut fitting = self.keys.iter().filter(|key| key.fits(algorithm));
        match id {
            Some(id) => fitting.find(|key| key.id.as_deref() == Some(id)),
            None => {
                let first = fitting.next();
                first.filter(|_| fitting.next().is_none())
            }
        }
    }
}

/// Where a set comes from.
#[derive(Debug, Clone)]
pub(super) enum Source {
    File(PathBuf),
    /// `ca`: the authorities its server may be certified by, instead of the system's.
    Url {
        url: Url,
        ca: Option<PathBuf>,
    },
}

impl Source {
    async fn read(&self) -> Result<Vec<u8>, String> {
        let text = match self {
            Source::File(path) => {
                tokio::fs::read(path).await.map_err(|error| format!("cannot read {}: {error}", path.display()))?
            }
            Source::Url { url, ca } => fetch::get(url, ca.as_deref()).await?,
        };
        if text.len() > KEYS_BYTES_MAX {
            return Err(format!("the key set is larger than {KEYS_BYTES_MAX} bytes"));
        }
        Ok(text)
    }

    /// A look at a file costs nothing; a server is asked seldom.
    fn age_max(&self) -> Duration {
        match self {
            Source::File(_) => Duration::ZERO,
            Source::Url { .. } => KEYS_AGE,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::File(path) => path.display().fmt(f),
            Source::Url { url, .. } => url.fmt(f),
        }
    }
}

/// How often the set was read: the same as before, another one, in vain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub same: u64,
    pub changed: u64,
    pub failed: u64,
}

/// The set that holds, and how it is kept.
pub(super) struct Keys {
    source: Source,
    clock: SharedClock,
    set: ArcSwapOption<KeySet>,
    /// Held by whoever reads the source; knows when that was last tried, and whether it went well.
    turn: tokio::sync::Mutex<Option<Tried>>,
    tally: [AtomicU64; 3],
}

#[derive(Debug, Clone, Copy)]
struct Tried {
    at: SystemTime,
    well: bool,
}

impl Keys {
    pub(super) fn new(source: Source, clock: SharedClock) -> Keys {
        let tally = [AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0)];
        Keys { source, clock, set: ArcSwapOption::empty(), turn: tokio::sync::Mutex::default(), tally }
    }

    pub(super) fn set(&self) -> Option<Arc<KeySet>> {
        self.set.load_full()
    }

    pub(super) fn are_known(&self) -> bool {
        self.set.load().is_some()
    }

    pub(super) fn tally(&self) -> Tally {
        let [same, changed, failed] = [0, 1, 2].map(|of| self.tally[of].load(Ordering::Relaxed));
        Tally { same, changed, failed }
    }

    /// Reads the set for the first time, or again.
    ///
    /// # Errors
    /// Why it cannot be read, in words. What held before holds on.
    pub(super) async fn load(&self) -> Result<(), String> {
        let mut tried = self.turn.lock().await;
        self.read(&mut tried).await
    }

    /// For a task beside the calls: reads what is due, or with `now` at once.
    pub(super) async fn refresh(&self, now: bool) {
        let mut tried = self.turn.lock().await;
        let age_max = match *tried {
            Some(Tried { well: false, .. }) => KEYS_RETRY,
            _ => self.source.age_max(),
        };
        if now || self.age(*tried) >= age_max {
            // Told in a line by `read`; the next turn tries again.
            let _ = self.read(&mut tried).await;
        }
    }

    /// The set after a look for a key that the one at hand does not have: one read for all who miss one, and none too soon
    /// after the last, so that made-up names of keys do not become requests to the issuer.
    ///
    /// # Errors
    /// The source cannot be read, so that nothing can be said of the key.
    pub(super) async fn look_again(&self, had: Option<&Arc<KeySet>>) -> Result<Arc<KeySet>, ()> {
        let mut tried = self.turn.lock().await;
        let digest = had.map(|set| set.digest);
        if let Some(set) = self.set().filter(|set| Some(set.digest) != digest) {
            return Ok(set);
        }
        if self.age(*tried) >= KEYS_REFETCH {
            let _ = self.read(&mut tried).await;
        }
        let well = tried.is_some_and(|tried| tried.well);
        self.set().filter(|_| well).ok_or(())
    }

    /// A clock that was set back does not stop the reading.
    fn age(&self, tried: Option<Tried>) -> Duration {
        tried.map_or(Duration::MAX, |tried| self.clock.now().duration_since(tried.at).unwrap_or(Duration::MAX))
    }

    async fn read(&self, tried: &mut Option<Tried>) -> Result<(), String> {
        let outcome = match self.source.read().await {
            Ok(text) => KeySet::parse(&text).map_err(|text| format!("{}: {text}", self.source)),
            Err(text) => Err(text),
        };
        let first_failure = !tried.is_some_and(|tried| !tried.well);
        *tried = Some(Tried { at: self.clock.now(), well: outcome.is_ok() });
        let count = |of: usize| self.tally[of].fetch_add(1, Ordering::Relaxed);
        match outcome {
            Ok(set) if self.set.load().as_ref().is_some_and(|old| old.digest == set.digest) => {
                count(0);
                Ok(())
            }
            Ok(set) => {
                count(1);
                tracing::info!(source = %self.source, keys = set.keys.len(), "the issuer's keys were read");
                self.set.store(Some(Arc::new(set)));
                Ok(())
            }
            Err(text) => {
                count(2);
                if first_failure {
                    tracing::warn!(
                        error = text,
                        "the issuer's keys cannot be read; those that were read before still hold"
                    );
                }
                Err(text)
            }
        }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("source", &self.source).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_other_kinds_and_uses_are_passed_over_and_symmetric_ones_never_taken() {
        let x = BASE64.encode([7u8; 32]);
        let good = format!(r#"{{"kty":"OKP","crv":"Ed25519","kid":"a","x":"{x}","use":"sig"}}"#);
        let others = [
            r#"{"kty":"oct","kid":"a","k":"c2VjcmV0"}"#.to_owned(),
            r#"{"kty":"RSA","kid":"short","n":"AQAB","e":"AQAB"}"#.to_owned(),
            format!(r#"{{"kty":"OKP","crv":"Ed25519","kid":"b","x":"{x}","use":"enc"}}"#),
            format!(r#"{{"kty":"OKP","crv":"Ed25519","kid":"c","x":"{x}","alg":"HS256"}}"#),
            format!(r#"{{"kty":"OKP","crv":"Ed25519","kid":"d","x":"{x}","key_ops":["sign"]}}"#),
            format!(r#"{{"kty":"EC","crv":"P-256","kid":"e","x":"{x}","y":"AA"}}"#),
            r#"{"kty":"AKP","kid":"later","pub":"AA"}"#.to_owned(),
            r#"{"no":"type"}"#.to_owned(),
        ];
        let set = |keys: &[String]| KeySet::parse(format!(r#"{{"keys":[{}]}}"#, keys.join(",")).as_bytes());
        let all = [&others[..], &[good]].concat();
        let found = set(&all).expect("one is good");
        assert_eq!(found.keys.len(), 1);
        assert!(found.find(Some("a"), Algorithm::EdDSA).is_some());
        assert!(found.find(None, Algorithm::EdDSA).is_some(), "the only one needs no name");
        assert!(found.find(Some("a"), Algorithm::RS256).is_none(), "a key checks its own kind only");
        assert!(found.find(Some("b"), Algorithm::EdDSA).is_none());
        assert!(set(&others).err().expect("none").contains("of its 8 keys none"));
        for text in ["", "[]", "{}", r#"{"keys":{}}"#] {
            assert!(KeySet::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn two_keys_without_names_are_told_apart_by_kind_only() {
        let ed = format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{}"}}"#, BASE64.encode([7u8; 32]));
        let xy = BASE64.encode([9u8; 32]);
        let ec = format!(r#"{{"kty":"EC","crv":"P-256","x":"{xy}","y":"{xy}"}}"#);
        let one_each = KeySet::parse(format!(r#"{{"keys":[{ed},{ec}]}}"#).as_bytes()).expect("good");
        assert!(one_each.find(None, Algorithm::ES256).is_some());
        let two = KeySet::parse(format!(r#"{{"keys":[{ed},{ed}]}}"#).as_bytes()).expect("good");
        assert!(two.find(None, Algorithm::EdDSA).is_none());
    }
}
