//! Signed tokens (JWT): a signature by one of the issuer's keys, checked by `jsonwebtoken`, and five claims that must fit.
//! The signature is checked before a claim is believed; what is refused is told by the name of the check and by nothing of
//! the token. A token that was found good is remembered by its SHA-256 until it expires or the keys change, because the
//! check of a signature costs more than the rest of a small call.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use jsonwebtoken::{Algorithm, Validation, errors::ErrorKind};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::{
    is_name,
    keys::{Key, KeySet, Keys, Source},
    unauthenticated,
};
use crate::{
    clock::SharedClock,
    config::Config,
    fault::{Fault, Reason, Result},
    limits::{KEYS_RETRY, SIGNED_TOKEN_BYTES_MAX, SIGNED_TOKENS_KNOWN_MAX},
};

/// What a token must say.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub issuer: String,
    pub audiences: Vec<String>,
    pub algorithms: Vec<Algorithm>,
    pub principal_claim: String,
    /// By how much clocks may differ.
    pub leeway: Duration,
}

/// Checks signed tokens.
pub(super) struct Verifier {
    rules: Rules,
    keys: Keys,
    clock: SharedClock,
    known: Mutex<Known>,
}

impl Verifier {
    /// # Errors
    /// A setting that cannot be used, or a key set file, by its key. A url that does not answer is tried again later.
    pub(super) async fn from_config(config: &Config, clock: SharedClock) -> Result<Verifier> {
        let algorithms = config.jwt_algorithms.iter().map(|name| {
            name.parse().map_err(|_| Fault::field("jwt_algorithms", "UNKNOWN", format!("{name} is not taken")))
        });
        let rules = Rules {
            issuer: config.jwt_issuer.clone(),
            audiences: config.jwt_audiences.clone(),
            algorithms: algorithms.collect::<Result<_>>()?,
            principal_claim: config.jwt_principal_claim.clone(),
            leeway: config.jwt_leeway,
        };
        let source = match config.jwt_jwks_url().map_err(|text| Fault::field("jwt_jwks_url", "MALFORMED", text))? {
            Some(url) => Source::Url { url, ca: config.jwt_jwks_ca_file().map(Into::into) },
            None => Source::File(config.jwt_jwks_file.clone()),
        };
        let from_file = matches!(source, Source::File(_));
        let verifier = Verifier::new(rules, Keys::new(source, clock.clone()), clock);
        match verifier.keys.load().await {
            Err(text) if from_file => Err(Fault::field("jwt_jwks_file", "UNUSABLE", text)),
            _ => Ok(verifier),
        }
    }

    fn new(rules: Rules, keys: Keys, clock: SharedClock) -> Verifier {
        Verifier { rules, keys, clock, known: Mutex::default() }
    }

    pub(super) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Whom a token names.
    ///
    /// # Errors
    /// `CALLER_UNAUTHENTICATED` with the check it failed as `cause`; `CALLER_KEYS_UNAVAILABLE`.
    pub(super) async fn principal(&self, token: &str) -> Result<Arc<str>> {
        if token.len() > SIGNED_TOKEN_BYTES_MAX {
            return Err(malformed());
        }
        let digest: [u8; 32] = Sha256::digest(token).into();
        let mut set = self.keys.set();
        if let Some(set) = &set
            && let Some(name) = self.known().find(set, &digest, self.clock.now())
        {
            return Ok(name);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| unreadable(token))?;
        if header.crit.is_some() {
            // Extensions the receiver must know (RFC 7515, 4.1.11).
            return Err(extension_unknown());
        }
        let algorithm = header.alg;
        if !self.rules.algorithms.contains(&algorithm) {
            return Err(algorithm_not_allowed());
        }
        let has = |set: &Arc<KeySet>| set.find(header.kid.as_deref(), algorithm).is_some();
        if !set.as_ref().is_some_and(has) {
            let again = self.keys.look_again(set.as_ref()).await.map_err(|()| unavailable())?;
            set = Some(again);
        }
        let set = set.ok_or_else(unavailable)?;
        let key = set.find(header.kid.as_deref(), algorithm).ok_or_else(|| {
            unauthenticated("key_unknown", "the token is signed with a key that the issuer does not publish (any more)")
        })?;
        let (name, expires_at) = self.rules.judge(token, key, algorithm, self.clock.now())?;
        self.known().remember(set, digest, Remembered { name: name.clone(), expires_at });
        Ok(name)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("rules", &self.rules).field("keys", &self.keys).finish_non_exhaustive()
    }
}

impl Rules {
    /// Whom a token names, and until when.
    fn judge(&self, token: &str, key: &Key, algorithm: Algorithm, now: SystemTime) -> Result<(Arc<str>, SystemTime)> {
        // One algorithm, that of the key; time goes by our own clock, below.
        let mut validation = Validation::new(algorithm);
        validation.validate_exp = false;
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&self.audiences);
        let claims: Map<String, Value> =
            jsonwebtoken::decode(token, key.decoding(), &validation).map_err(|error| refusal(error.kind()))?.claims;
        let refused = |cause, text| Err(unauthenticated(cause, text));
        let Some(expires_at) = time(&claims, "exp")? else { return Err(refusal(&no_expiry())) };
        if now >= expires_at + self.leeway {
            return refused("expired", "the token has expired");
        }
        if time(&claims, "nbf")?.is_some_and(|begins_at| now + self.leeway < begins_at) {
            return refused("not_yet_valid", "the token is not valid yet");
        }
        match claims.get(&self.principal_claim).and_then(Value::as_str).filter(|name| is_name(name)) {
            Some(name) => Ok((name.into(), expires_at)),
            None => {
                refused("nameless", "the token names nobody: the claim of jwt_principal_claim is missing or not fit")
            }
        }
    }
}

fn no_expiry() -> ErrorKind {
    ErrorKind::MissingRequiredClaim("exp".into())
}

/// What the check of the library found, in words of our own: its words could quote the token.
fn refusal(error: &ErrorKind) -> Fault {
    let (cause, text) = match error {
        ErrorKind::InvalidSignature
        | ErrorKind::InvalidEcdsaKey
        | ErrorKind::InvalidEddsaKey
        | ErrorKind::InvalidRsaKey(_) => ("signature_wrong", "the token's signature is not by the key it names"),
        ErrorKind::MissingRequiredClaim(claim) if claim == "exp" => {
            ("never_expires", "the token has no exp that can be read; one that never ends is not taken")
        }
        ErrorKind::InvalidIssuer => ISSUER_WRONG,
        ErrorKind::MissingRequiredClaim(claim) if claim == "iss" => ISSUER_WRONG,
        ErrorKind::InvalidAudience | ErrorKind::MissingRequiredClaim(_) => {
            ("audience_wrong", "the token is for nobody that jwt_audiences names")
        }
        ErrorKind::InvalidAlgorithm => return algorithm_not_allowed(),
        _ => return malformed(),
    };
    unauthenticated(cause, text)
}

const ISSUER_WRONG: (&str, &str) = ("issuer_wrong", "the token is not of the issuer that jwt_issuer names");

/// A claim of seconds since 1970. A number that is none of these counts as malformed, not as missing.
fn time(claims: &Map<String, Value>, claim: &str) -> Result<Option<SystemTime>> {
    let Some(value) = claims.get(claim) else { return Ok(None) };
    // Far beyond any date, and well below what the addition of a leeway could overflow.
    let seconds = value.as_f64().filter(|seconds| (0.0..1e12).contains(seconds)).ok_or_else(malformed)?;
    Ok(Some(SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds)))
}

/// A token whose header the library does not take: an algorithm it has no name for, as `none`, extensions, or no token at
/// all. Whatever this finds, the token is refused.
fn unreadable(token: &str) -> Fault {
    let header = token.split('.').next().and_then(|header| BASE64.decode(header).ok()).unwrap_or_default();
    let header: Value = serde_json::from_slice(&header).unwrap_or_default();
    match header["alg"].as_str() {
        _ if token.split('.').count() != 3 => malformed(),
        Some(name) if name.parse::<Algorithm>().is_err() => algorithm_not_allowed(),
        Some(_) if !header["crit"].is_null() => extension_unknown(),
        _ => malformed(),
    }
}

fn extension_unknown() -> Fault {
    unauthenticated("extension_unknown", "the token has critical extensions; none is known here")
}

fn algorithm_not_allowed() -> Fault {
    unauthenticated("algorithm_not_allowed", "the token's signature is of a kind that jwt_algorithms does not name")
}

fn malformed() -> Fault {
    unauthenticated("malformed", "the bearer token is not a signed token (JWT)")
}

fn unavailable() -> Fault {
    Fault::new(Reason::CallerKeysUnavailable, "the issuer's keys cannot be read, so nobody can be told by a token")
        .retry_after(KEYS_RETRY)
}

/// Tokens found good under one set of keys: two halves, so that the oldest go without anybody searching for them.
#[derive(Default)]
struct Known {
    set: Option<Arc<KeySet>>,
    young: HashMap<[u8; 32], Remembered>,
    old: HashMap<[u8; 32], Remembered>,
}

#[derive(Clone)]
struct Remembered {
    name: Arc<str>,
    expires_at: SystemTime,
}

impl Known {
    fn find(&mut self, set: &Arc<KeySet>, digest: &[u8; 32], now: SystemTime) -> Option<Arc<str>> {
        if !self.set.as_ref().is_some_and(|own| Arc::ptr_eq(own, set)) {
            return None;
        }
        let found = match self.young.get(digest) {
            Some(found) => found.clone(),
            None => {
                let found = self.old.remove(digest)?;
                self.keep(*digest, found.clone());
                found
            }
        };
        // What expired goes with its half; the leeway is for the check of the token itself.
        (now < found.expires_at).then_some(found.name)
    }

    fn remember(&mut self, set: Arc<KeySet>, digest: [u8; 32], token: Remembered) {
        if !self.set.as_ref().is_some_and(|own| Arc::ptr_eq(own, &set)) {
            *self = Known { set: Some(set), ..Known::default() };
        }
        self.keep(digest, token);
    }

    fn keep(&mut self, digest: [u8; 32], token: Remembered) {
        if self.young.len() >= SIGNED_TOKENS_KNOWN_MAX / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(digest, token);
    }
}

#[cfg(test)]
#[path = "jwt_tests.rs"]
mod tests;
