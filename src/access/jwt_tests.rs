//! Every way a signed token can be wrong, each by its own check; the memory of good ones.

use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::json;

use super::*;
use crate::clock::ManualClock;

const NOW: u64 = 1_800_000_000;

struct Issuer {
    pair: Ed25519KeyPair,
    kid: &'static str,
}

impl Issuer {
    fn new(kid: &'static str, seed: u8) -> Issuer {
        Issuer { pair: Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("a seed of 32 bytes"), kid }
    }

    fn jwk(&self) -> Value {
        let x = BASE64.encode(self.pair.public_key().as_ref());
        json!({"kty": "OKP", "crv": "Ed25519", "kid": self.kid, "x": x, "use": "sig"})
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
        let signature = self.pair.sign(signed.as_bytes());
        format!("{signed}.{}", BASE64.encode(signature.as_ref()))
    }

    fn token(&self, edit: impl FnOnce(&mut Value)) -> String {
        let mut claims = json!({"iss": "https://issuer", "aud": "dropbox", "sub": "billing", "exp": NOW + 300});
        edit(&mut claims);
        self.sign(&json!({"alg": "EdDSA", "kid": self.kid}), &claims)
    }
}

struct Bench {
    verifier: Verifier,
    clock: ManualClock,
    file: tempfile::NamedTempFile,
}

impl Bench {
    async fn new(issuers: &[&Issuer]) -> Bench {
        let clock = ManualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(NOW));
        let file = tempfile::NamedTempFile::new().expect("a file");
        let rules = Rules {
            issuer: "https://issuer".into(),
            audiences: vec!["dropbox".into(), "files".into()],
            algorithms: vec![Algorithm::EdDSA, Algorithm::RS256],
            principal_claim: "sub".into(),
            leeway: Duration::from_secs(30),
        };
        let shared: SharedClock = Arc::new(clock.clone());
        let keys = Keys::new(Source::File(file.path().into()), shared.clone());
        let bench = Bench { verifier: Verifier::new(rules, keys, shared), clock, file };
        bench.publish(issuers);
        bench.verifier.keys.load().await.expect("a good set");
        bench
    }

    fn publish(&self, issuers: &[&Issuer]) {
        let keys: Vec<Value> = issuers.iter().map(|issuer| issuer.jwk()).collect();
        std::fs::write(self.file.path(), json!({ "keys": keys }).to_string()).expect("written");
    }

    async fn refused(&self, token: &str) -> String {
        let fault = self.verifier.principal(token).await.expect_err("refused");
        assert_eq!(fault.reason(), Reason::CallerUnauthenticated);
        for piece in token.split('.').filter(|piece| piece.len() > 8) {
            assert!(!format!("{fault:?}").contains(piece), "{fault:?} shows a piece of the token");
        }
        fault.get("cause").expect("a cause").to_owned()
    }
}

#[tokio::test]
async fn a_good_token_names_its_principal() {
    let issuer = Issuer::new("one", 1);
    let bench = Bench::new(&[&issuer]).await;
    for token in [
        issuer.token(|_| {}),
        issuer.token(|claims| claims["aud"] = json!(["other", "files"])),
        issuer.token(|claims| claims["exp"] = json!(NOW as f64 + 0.5)),
        issuer.token(|claims| claims["nbf"] = json!(NOW + 29)),
        issuer.token(|claims| claims["exp"] = json!(NOW - 29)),
    ] {
        for _ in 0..2 {
            assert_eq!(&*bench.verifier.principal(&token).await.expect("good"), "billing");
        }
    }
}

#[tokio::test]
async fn each_wrong_token_is_refused_by_the_check_it_fails() {
    let (issuer, stranger) = (Issuer::new("one", 1), Issuer::new("one", 2));
    let bench = Bench::new(&[&issuer]).await;
    let claims = json!({"iss": "https://issuer", "aud": "dropbox", "sub": "billing", "exp": NOW + 300});
    let headed = |header: Value| issuer.sign(&header, &claims);
    let none = format!("{}.{}.", BASE64.encode(r#"{"alg":"none"}"#), BASE64.encode(claims.to_string()));
    // The published key taken as the secret of an HMAC: the classic confusion of kinds.
    let signed = format!("{}.{}", BASE64.encode(r#"{"alg":"HS256","kid":"one"}"#), BASE64.encode(claims.to_string()));
    let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, issuer.pair.public_key().as_ref());
    let confused = format!("{signed}.{}", BASE64.encode(ring::hmac::sign(&secret, signed.as_bytes())));
    let good = issuer.token(|_| {});
    let (_, signature) = good.rsplit_once('.').expect("three pieces");
    let forged = claims.to_string().replace("billing", "boss");
    let forged = format!("{}.{}.{signature}", BASE64.encode(r#"{"alg":"EdDSA","kid":"one"}"#), BASE64.encode(forged));
    let cases = [
        ("algorithm_not_allowed", none),
        ("algorithm_not_allowed", confused),
        ("algorithm_not_allowed", headed(json!({"alg": "None", "kid": "one"}))),
        ("algorithm_not_allowed", headed(json!({"alg": "ES256", "kid": "one"}))),
        ("key_unknown", headed(json!({"alg": "RS256", "kid": "one"}))),
        ("key_unknown", headed(json!({"alg": "EdDSA", "kid": "two"}))),
        ("extension_unknown", headed(json!({"alg": "EdDSA", "kid": "one", "crit": ["b64"], "b64": false}))),
        ("malformed", headed(json!({"kid": "one"}))),
        ("signature_wrong", stranger.token(|_| {})),
        ("signature_wrong", forged),
        ("signature_wrong", good.replace(signature, "")),
        ("expired", issuer.token(|claims| claims["exp"] = json!(NOW - 30))),
        ("never_expires", issuer.token(|claims| drop(claims.as_object_mut().expect("an object").remove("exp")))),
        ("never_expires", issuer.token(|claims| claims["exp"] = json!("tomorrow"))),
        ("malformed", issuer.token(|claims| claims["nbf"] = json!(-1))),
        ("not_yet_valid", issuer.token(|claims| claims["nbf"] = json!(NOW + 31))),
        ("issuer_wrong", issuer.token(|claims| claims["iss"] = json!("https://issuer/"))),
        ("issuer_wrong", issuer.token(|claims| claims["iss"] = json!(["https://elsewhere"]))),
        ("issuer_wrong", issuer.token(|claims| drop(claims.as_object_mut().expect("an object").remove("iss")))),
        ("audience_wrong", issuer.token(|claims| claims["aud"] = json!("dropbox2"))),
        ("audience_wrong", issuer.token(|claims| claims["aud"] = json!([]))),
        ("audience_wrong", issuer.token(|claims| drop(claims.as_object_mut().expect("an object").remove("aud")))),
        ("nameless", issuer.token(|claims| claims["sub"] = json!(""))),
        ("nameless", issuer.token(|claims| claims["sub"] = json!("two\nlines"))),
        ("nameless", issuer.token(|claims| claims["sub"] = json!(7))),
        ("malformed", "a-static-token".to_owned()),
        ("malformed", format!("{good}.{signature}")),
        ("malformed", "a.b.c".to_owned()),
        ("malformed", "x".repeat(SIGNED_TOKEN_BYTES_MAX + 1)),
    ];
    // Twice: what was refused is not remembered as good.
    for (cause, token) in cases.iter().chain(&cases) {
        assert_eq!(&bench.refused(token).await, cause, "{token}");
    }
}

#[tokio::test]
async fn a_token_is_remembered_until_it_expires_and_not_longer() {
    let issuer = Issuer::new("one", 1);
    let bench = Bench::new(&[&issuer]).await;
    let token = issuer.token(|claims| claims["exp"] = json!(NOW + 10));
    bench.verifier.principal(&token).await.expect("good");
    bench.clock.advance(Duration::from_secs(39)).await;
    bench.verifier.principal(&token).await.expect("within the leeway");
    bench.clock.advance(Duration::from_secs(1)).await;
    assert_eq!(bench.refused(&token).await, "expired");
}

#[tokio::test]
async fn a_new_key_is_found_when_it_is_first_shown_and_an_old_one_opens_nothing_once_it_is_gone() {
    let (old, new) = (Issuer::new("old", 1), Issuer::new("new", 2));
    let bench = Bench::new(&[&old]).await;
    bench.verifier.principal(&old.token(|_| {})).await.expect("good");
    bench.publish(&[&new]);
    // Just read: whoever makes names of keys up must not make us read without end.
    assert_eq!(bench.refused(&new.token(|_| {})).await, "key_unknown");
    bench.clock.advance(crate::limits::KEYS_REFETCH).await;
    bench.verifier.principal(&new.token(|_| {})).await.expect("read again for the sake of this key");
    assert_eq!(bench.refused(&old.token(|_| {})).await, "key_unknown", "remembered, but its key is gone");
}

#[tokio::test]
async fn keys_that_cannot_be_read_change_nothing_for_those_known_and_are_not_the_callers_fault() {
    let (known, unknown) = (Issuer::new("known", 1), Issuer::new("unknown", 2));
    let bench = Bench::new(&[&known]).await;
    std::fs::write(bench.file.path(), "<html>").expect("written");
    bench.clock.advance(crate::limits::KEYS_REFETCH).await;
    let fault = bench.verifier.principal(&unknown.token(|_| {})).await.expect_err("cannot be known");
    assert_eq!((fault.reason(), fault.retry_delay()), (Reason::CallerKeysUnavailable, Some(KEYS_RETRY)));
    bench.verifier.principal(&known.token(|_| {})).await.expect("its key is still known");
    let tally = bench.verifier.keys.tally();
    assert_eq!((tally.changed, tally.failed), (1, 1));
}

#[test]
fn no_more_tokens_are_remembered_than_the_bound_says() {
    let set =
        Arc::new(KeySet::parse(json!({"keys": [Issuer::new("a", 1).jwk()]}).to_string().as_bytes()).expect("good"));
    let mut known = Known::default();
    let expires_at = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
    let digest = |n: usize| -> [u8; 32] { Sha256::digest(n.to_string()).into() };
    for n in 0..SIGNED_TOKENS_KNOWN_MAX * 2 {
        known.remember(set.clone(), digest(n), Remembered { name: "a".into(), expires_at });
        // One that is used again and again stays.
        assert!(known.find(&set, &digest(0), SystemTime::UNIX_EPOCH).is_some());
        assert!(known.young.len() + known.old.len() <= SIGNED_TOKENS_KNOWN_MAX);
    }
    assert!(known.find(&set, &digest(1), SystemTime::UNIX_EPOCH).is_none());
}
