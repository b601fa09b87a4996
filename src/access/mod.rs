//! Who is calling and may they. [`Authenticator`] is the door: by static token, client certificate or signed token it names
//! a [`Principal`]; `rights` says what may be done. gRPC and the HTTP pages ask the same question.
//! It answers for our own door only; what Dropbox thinks of a grant is never a matter of this room. No gRPC type is known
//! here. Static tokens are kept as SHA-256 and compared in constant time; no answer shows anything of what was sent.

mod fetch;
mod jwt;
mod keys;
mod rights;
pub mod tls;

use std::{fmt, sync::Arc};

use sha2::{Digest as _, Sha256};

use self::jwt::Verifier;
pub use self::{
    keys::Tally,
    rights::{CLASSES, Class, Permission, Permissions, check_pattern, class},
    tls::Certificate,
};
use crate::{
    clock::SharedClock,
    config::{AuthMode, Config},
    fault::{Fault, Reason, Result},
    limits,
};

/// Who called us, once the door let them in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    name: Arc<str>,
    admin: bool,
    open_door: bool,
}

/// The door.
#[derive(Clone)]
pub struct Authenticator {
    mode: AuthMode,
    tokens: Arc<[(Arc<str>, [u8; 32])]>,
    admins: Arc<[String]>,
    /// With the modes that take signed tokens.
    verifier: Option<Arc<Verifier>>,
}

impl Authenticator {
    /// As the configuration says. The issuer's keys are read once: a file must be good, a url may still be away.
    ///
    /// # Errors
    /// As [`Authenticator::new`]; a key set file that cannot be used, by its key.
    pub async fn from_config(config: &Config, clock: SharedClock) -> Result<Self> {
        let tokens = config.auth_tokens.iter().map(|token| (&token.principal, &token.sha256));
        let door = Self::new(config.auth_mode, tokens, &config.admin_principals)?;
        if !config.auth_mode.takes_signed_tokens() {
            return Ok(door);
        }
        let verifier = Verifier::from_config(config, clock).await?;
        Ok(Self { verifier: Some(Arc::new(verifier)), ..door })
    }

    /// `tokens`: principal name and lowercase hex SHA-256 of its token; a principal that changes its token has two for a
    /// while. `admins`: patterns of the principals that may call
    /// the admin service.
    ///
    /// # Errors
    /// `INVALID_FIELD` naming the configuration key: a hash that is none, a pattern with `*` elsewhere than at its end,
    /// mode `token` without a token.
    pub fn new<'a>(
        mode: AuthMode,
        tokens: impl IntoIterator<Item = (&'a String, &'a String)>,
        admins: &[String],
    ) -> Result<Self> {
        let mut hashes = Vec::new();
        for (name, hash) in tokens {
            let mut bytes = [0u8; 32];
            if name.is_empty() || hex::decode_to_slice(hash.trim(), &mut bytes).is_err() {
                let text = "name a principal and give the SHA-256 of its token as 64 hex digits";
                return Err(Fault::field(format!("auth_tokens.{name}"), "MALFORMED", text));
            }
            hashes.push((Arc::from(name.as_str()), bytes));
        }
        if mode == AuthMode::Token && hashes.is_empty() {
            return Err(Fault::field("auth_tokens", "REQUIRED", "mode token needs at least one token"));
        }
        for pattern in admins {
            check_pattern(pattern).map_err(|text| Fault::field("admin_principals", "MALFORMED", text))?;
        }
        Ok(Self { mode, tokens: hashes.into(), admins: admins.into(), verifier: None })
    }

    /// A door that asks nobody: everyone is admin.
    pub fn open_door() -> Self {
        Self { mode: AuthMode::None, tokens: Arc::new([]), admins: Arc::new([]), verifier: None }
    }

    /// Who sends this `authorization` value over a connection with this certificate. Where both may speak, what is sent
    /// counts: a bad token is not made good by a good certificate.
    ///
    /// # Errors
    /// `CALLER_UNAUTHENTICATED`; it never says whether a static token was nearly right, and says of a signed one only
    /// which check it failed (`cause`). `CALLER_KEYS_UNAVAILABLE` while the issuer's keys cannot be read.
    pub async fn authenticate(&self, authorization: Option<&str>, certificate: &Certificate) -> Result<Principal> {
        let name = match self.mode {
            AuthMode::None => return Ok(Principal { name: "anonymous".into(), admin: true, open_door: true }),
            AuthMode::Token => self.by_token(bearer(authorization)?)?,
            AuthMode::Mtls => named(certificate)?,
            AuthMode::MtlsOrJwt if authorization.is_none() => named(certificate)?,
            AuthMode::Jwt | AuthMode::MtlsOrJwt => {
                let token = bearer(authorization)?;
                let verifier = self.verifier.as_ref().ok_or_else(|| Fault::bug("the door has no verifier"))?;
                verifier.principal(token).await?
            }
        };
        Ok(Principal { admin: rights::matches_any(&self.admins, &name), name, open_door: false })
    }

    fn by_token(&self, token: &str) -> Result<Arc<str>> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        let mut found = None;
        // Every entry is compared whole, found or not.
        for (name, hash) in &*self.tokens {
            if same(hash, &digest) {
                found = Some(name);
            }
        }
        found.cloned().ok_or_else(|| unauthenticated("token_unknown", "the token is not one this server knows"))
    }

    /// Reads the issuer's keys again if they are due, or with `now` at once. For a task beside the calls.
    pub async fn refresh_keys(&self, now: bool) {
        if let Some(verifier) = &self.verifier {
            verifier.keys().refresh(now).await;
        }
    }

    /// Whether callers can be told apart at all: false until the issuer's keys were read once.
    pub fn is_ready(&self) -> bool {
        self.verifier.as_ref().is_none_or(|verifier| verifier.keys().are_known())
    }

    /// How often the issuer's keys were read; `None` where there are none.
    pub fn tally(&self) -> Option<Tally> {
        self.verifier.as_ref().map(|verifier| verifier.keys().tally())
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator").field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl Principal {
    /// One that proved its name, for what acts inside the process and for tests.
    pub fn named(name: &str, admin: bool) -> Self {
        Self { name: name.into(), admin, open_door: false }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// May call the admin service, and may learn which ids exist.
    pub fn is_admin(&self) -> bool {
        self.admin
    }

    /// Is one of `allowed`. With mode `none` the list is not looked at.
    pub fn is_one_of(&self, allowed: &[String]) -> bool {
        self.open_door || rights::matches_any(allowed, &self.name)
    }

    /// # Errors
    /// `CALLER_NOT_ALLOWED`.
    pub fn require_admin(&self) -> Result<()> {
        if self.admin {
            return Ok(());
        }
        Err(Fault::new(Reason::CallerNotAllowed, "this principal may not call the admin service")
            .fact("permission", "ADMIN"))
    }
}

/// A name fit for patterns and log lines.
fn is_name(text: &str) -> bool {
    (1..=limits::PRINCIPAL_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| (0x20..0x7f).contains(&byte))
}

fn bearer(authorization: Option<&str>) -> Result<&str> {
    let value =
        authorization.ok_or_else(|| unauthenticated("nothing_sent", "the call carries no authorization metadata"))?;
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => Err(unauthenticated("not_bearer", "the authorization metadata is not `Bearer <token>`")),
    }
}

fn named(certificate: &Certificate) -> Result<Arc<str>> {
    match certificate {
        Certificate::Names(name) => Ok(name.clone()),
        Certificate::None => Err(unauthenticated("no_certificate", "the connection shows no client certificate")),
        Certificate::Nameless => {
            let text = "the client certificate names nobody: it has no SPIFFE URI and no DNS name";
            Err(unauthenticated("certificate_nameless", text))
        }
    }
}

/// Equality in a time that does not depend on where two hashes differ.
fn same(one: &[u8; 32], other: &[u8; 32]) -> bool {
    let difference = one.iter().zip(other).fold(0u8, |difference, (a, b)| difference | (a ^ b));
    std::hint::black_box(difference) == 0
}

fn unauthenticated(cause: &'static str, message: &str) -> Fault {
    Fault::new(Reason::CallerUnauthenticated, message).fact("cause", cause)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn door(admins: &[&str]) -> Authenticator {
        let tokens = [("billing", "billing-token"), ("billing", "its-next-token"), ("ops-1", "ops-token")]
            .map(|(name, token)| (name.to_owned(), hex::encode(Sha256::digest(token))));
        let admins: Vec<String> = admins.iter().map(|&admin| admin.to_owned()).collect();
        Authenticator::new(AuthMode::Token, tokens.iter().map(|(name, hash)| (name, hash)), &admins).unwrap()
    }

    #[tokio::test]
    async fn a_token_names_its_principal_and_nothing_else_opens_the_door() {
        let door = door(&["ops-*"]);
        let ask = async |value| door.authenticate(value, &Certificate::Names("ops-1".into())).await;
        let ops = ask(Some("bearer ops-token")).await.unwrap();
        assert_eq!((ops.name(), ops.is_admin()), ("ops-1", true));
        let billing = ask(Some("Bearer billing-token")).await.unwrap();
        assert_eq!((billing.name(), billing.is_admin()), ("billing", false));
        assert_eq!(ask(Some("Bearer its-next-token")).await.unwrap().name(), "billing");
        assert_eq!(billing.require_admin().unwrap_err().reason(), Reason::CallerNotAllowed);
        for value in
            [None, Some(""), Some("Bearer"), Some("Bearer "), Some("Basic ops-token"), Some("Bearer ops-tokem")]
        {
            let fault = ask(value).await.unwrap_err();
            assert_eq!(fault.reason(), Reason::CallerUnauthenticated);
            assert!(!format!("{fault:?}").contains("ops-tok"), "{fault:?}");
        }
        assert!(!format!("{door:?}").contains("billing"));
    }

    #[tokio::test]
    async fn a_certificate_names_its_principal_and_a_token_does_not_help() {
        let door = Authenticator::new(AuthMode::Mtls, &BTreeMap::new(), &["spiffe://a/ops".to_owned()]).unwrap();
        let ops = door.authenticate(Some("Bearer x"), &Certificate::Names("spiffe://a/ops".into())).await.unwrap();
        assert_eq!((ops.name(), ops.is_admin()), ("spiffe://a/ops", true));
        for (certificate, cause) in
            [(Certificate::None, "no_certificate"), (Certificate::Nameless, "certificate_nameless")]
        {
            let fault = door.authenticate(Some("Bearer x"), &certificate).await.unwrap_err();
            assert_eq!((fault.reason(), fault.get("cause")), (Reason::CallerUnauthenticated, Some(cause)));
        }
    }

    #[test]
    fn a_bad_door_is_refused_by_the_name_of_its_key() {
        let key = |result: Result<Authenticator>| result.unwrap_err().violations()[0].field.clone();
        assert_eq!(key(Authenticator::new(AuthMode::Token, &BTreeMap::new(), &[])), "auth_tokens");
        let short = BTreeMap::from([("a".to_owned(), "abcd".to_owned())]);
        assert_eq!(key(Authenticator::new(AuthMode::Token, &short, &[])), "auth_tokens.a");
        assert_eq!(key(Authenticator::new(AuthMode::None, &BTreeMap::new(), &["a*b".to_owned()])), "admin_principals");
    }

    #[tokio::test]
    async fn an_open_door_asks_nobody() {
        let anyone = Authenticator::open_door().authenticate(None, &Certificate::None).await.unwrap();
        assert!(anyone.is_admin() && anyone.is_one_of(&[]));
    }

    #[test]
    fn patterns_are_exact_or_end_in_one_star() {
        let allowed = |patterns: &[&str], name: &str| {
            let patterns: Vec<String> = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
            Principal::named(name, false).is_one_of(&patterns)
        };
        assert!(allowed(&["spiffe://a/*"], "spiffe://a/b"));
        assert!(allowed(&["x", "billing"], "billing"));
        assert!(allowed(&["*"], "anyone"));
        assert!(!allowed(&["billing"], "billing-2"));
        assert!(!allowed(&["billing"], "Billing"));
        assert!(!allowed(&[], "billing"));
        assert!(check_pattern("a**").is_err() && check_pattern("").is_err() && check_pattern("*a").is_err());
        assert!(check_pattern("*").is_ok() && check_pattern("a*").is_ok());
    }
}
