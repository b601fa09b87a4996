//! Certificates and signed tokens made in the test: an authority, what it certifies, an issuer of tokens, and channels that
//! speak TLS.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer as Signer, KeyPair, SanType};
use ring::{
    rand::SystemRandom,
    signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair},
};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use serde_json::{Value, json};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

/// Certificate chain and key in PEM.
#[derive(Clone)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

/// Certifies servers and clients.
pub struct Authority {
    pub pem: String,
    signer: Signer<'static, KeyPair>,
}

#[expect(clippy::disallowed_methods, reason = "certificates are valid by the machine's clock, as clients check them")]
pub fn now() -> SystemTime {
    SystemTime::now()
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { pem, signer: Signer::new(params, key) }
    }

    /// For a server that is called `localhost` and `127.0.0.1`.
    pub fn server(&self) -> Pair {
        self.server_until(now() + Duration::from_secs(3600))
    }

    pub fn server_until(&self, expires_at: SystemTime) -> Pair {
        self.server_called(&["localhost", "127.0.0.1"], expires_at)
    }

    pub fn server_called(&self, names: &[&str], expires_at: SystemTime) -> Pair {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        self.certify(CertificateParams::new(names).unwrap(), expires_at)
    }

    /// For a client: each name a SPIFFE URI or else a DNS name.
    pub fn client(&self, names: &[&str]) -> Pair {
        self.client_until(names, now() + Duration::from_secs(3600))
    }

    pub fn client_until(&self, names: &[&str], expires_at: SystemTime) -> Pair {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "boss");
        params.subject_alt_names = names
            .iter()
            .map(|name| match name.contains("://") {
                true => SanType::URI((*name).try_into().unwrap()),
                false => SanType::DnsName((*name).try_into().unwrap()),
            })
            .collect();
        self.certify(params, expires_at)
    }

    fn certify(&self, mut params: CertificateParams, expires_at: SystemTime) -> Pair {
        params.not_before = (now() - Duration::from_secs(3600)).into();
        params.not_after = expires_at.into();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.signer).unwrap().pem();
        Pair { certificate, key: key.serialize_pem() }
    }
}

/// A folder of files as Kubernetes mounts a Secret: links to links, changed by one swap.
pub struct Mounted {
    folder: tempfile::TempDir,
    version: std::cell::Cell<u32>,
}

impl Mounted {
    pub fn new(files: &[(&str, &str)]) -> Mounted {
        let mounted = Mounted { folder: tempfile::tempdir().unwrap(), version: std::cell::Cell::new(0) };
        mounted.swap(files);
        for (name, _) in files {
            std::os::unix::fs::symlink(Path::new("..data").join(name), mounted.path(name)).unwrap();
        }
        mounted
    }

    pub fn swap(&self, files: &[(&str, &str)]) {
        self.version.set(self.version.get() + 1);
        let version = format!("..version_{}", self.version.get());
        std::fs::create_dir(self.path(&version)).unwrap();
        for (name, text) in files {
            std::fs::write(self.path(&version).join(name), text).unwrap();
        }
        std::os::unix::fs::symlink(&version, self.path("..data_tmp")).unwrap();
        std::fs::rename(self.path("..data_tmp"), self.path("..data")).unwrap();
    }

    pub fn swap_pair(&self, pair: &Pair) {
        self.swap(&[("tls.crt", &pair.certificate), ("tls.key", &pair.key)]);
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn endpoint(address: SocketAddr, authority: &Authority, identity: Option<&Pair>) -> Endpoint {
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&authority.pem));
    let tls = match identity {
        Some(pair) => tls.identity(Identity::from_pem(&pair.certificate, &pair.key)),
        None => tls,
    };
    Endpoint::from_shared(format!("https://localhost:{}", address.port())).unwrap().tls_config(tls).unwrap()
}

/// A channel over TLS. A server that refuses the client's certificate is noticed by the first call.
pub fn channel(address: SocketAddr, authority: &Authority, identity: Option<&Pair>) -> Channel {
    endpoint(address, authority, identity).connect_lazy()
}

/// The certificate a new connection is shown, or why there is none.
pub async fn shown(address: SocketAddr, authority: &Authority) -> Result<CertificateDer<'static>, std::io::Error> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
    let mut config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = tokio::net::TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
    Ok(stream.get_ref().1.peer_certificates().unwrap()[0].clone())
}

pub fn der(pair: &Pair) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()
}

/// Signs tokens.
pub struct Issuer {
    pub kid: String,
    key: Signing,
}

enum Signing {
    Es256(EcdsaKeyPair),
    EdDsa(Ed25519KeyPair),
    Rs256(Box<RsaKeyPair>),
}

impl Issuer {
    pub fn es256(kid: &str) -> Issuer {
        let (kind, random) = (&signature::ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let key = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(kind, key.as_ref(), &random).unwrap();
        Issuer { kid: kid.into(), key: Signing::Es256(key) }
    }

    pub fn eddsa(kid: &str) -> Issuer {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Issuer { kid: kid.into(), key: Signing::EdDsa(Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap()) }
    }

    /// The key is made by openssl: ring makes none of this kind.
    pub fn rs256(kid: &str) -> Issuer {
        let made = Command::new("openssl")
            .args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-outform", "DER"])
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        Issuer { kid: kid.into(), key: Signing::Rs256(Box::new(RsaKeyPair::from_der(&made.stdout).unwrap())) }
    }

    pub fn algorithm(&self) -> &'static str {
        match self.key {
            Signing::Es256(_) => "ES256",
            Signing::EdDsa(_) => "EdDSA",
            Signing::Rs256(_) => "RS256",
        }
    }

    pub fn jwk(&self) -> Value {
        let mut jwk = match &self.key {
            Signing::Es256(key) => {
                let (x, y) = key.public_key().as_ref()[1..].split_at(32);
                json!({"kty": "EC", "crv": "P-256", "x": BASE64.encode(x), "y": BASE64.encode(y)})
            }
            Signing::EdDsa(key) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": BASE64.encode(key.public_key().as_ref())})
            }
            Signing::Rs256(key) => {
                let public: ring::rsa::PublicKeyComponents<Vec<u8>> = key.public().into();
                json!({"kty": "RSA", "n": BASE64.encode(public.n), "e": BASE64.encode(public.e)})
            }
        };
        jwk["kid"] = self.kid.as_str().into();
        jwk["alg"] = self.algorithm().into();
        jwk
    }

    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
        let random = SystemRandom::new();
        let signature = match &self.key {
            Signing::Es256(key) => key.sign(&random, signed.as_bytes()).unwrap().as_ref().to_vec(),
            Signing::EdDsa(key) => key.sign(signed.as_bytes()).as_ref().to_vec(),
            Signing::Rs256(key) => {
                let mut out = vec![0; key.public().modulus_len()];
                key.sign(&signature::RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut out).unwrap();
                out
            }
        };
        format!("{signed}.{}", BASE64.encode(signature))
    }

    /// A token for `principal`, good for five minutes, and changed by `edit`.
    pub fn token_with(&self, principal: &str, edit: impl FnOnce(&mut Value)) -> String {
        let now = now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let mut claims = json!({"iss": ISSUER, "aud": AUDIENCE, "sub": principal, "exp": now + 300, "iat": now});
        edit(&mut claims);
        self.sign(&json!({"alg": self.algorithm(), "kid": self.kid, "typ": "JWT"}), &claims)
    }

    pub fn token(&self, principal: &str) -> String {
        self.token_with(principal, |_| {})
    }
}

pub const ISSUER: &str = "https://issuer.example";
pub const AUDIENCE: &str = "dropbox-connector";

pub fn key_set(issuers: &[&Issuer]) -> String {
    let keys: Vec<Value> = issuers.iter().map(|issuer| issuer.jwk()).collect();
    json!({ "keys": keys }).to_string()
}
