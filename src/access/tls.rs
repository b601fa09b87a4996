//! TLS of the data and admin listeners: certificate, key and client authorities from files that are read again when they
//! change. New handshakes take what holds; connections that are up keep what they began with. A pair that cannot be used
//! changes nothing and is told. One provider: rustls with ring.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use rustls::{
    RootCertStore, ServerConfig, ServerConnection,
    crypto::{CryptoProvider, ring::default_provider},
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject as _},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
    time_provider::TimeProvider,
};
use sha2::{Digest as _, Sha256};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};

use super::is_name;
use crate::{
    clock::SharedClock,
    config::{AuthMode, Config},
    fault::{Fault, Result},
    limits::{CERTIFICATE_WARN_MAX, TLS_FILE_BYTES_MAX},
};

/// Whom the client certificate of a connection names. It was verified in the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Certificate {
    /// None was shown.
    None,
    /// One without a SPIFFE URI and without a DNS name.
    Nameless,
    Names(Arc<str>),
}

impl Certificate {
    /// Of a connection whose handshake is done: the first SPIFFE URI among the subject's alternative names, else the first
    /// DNS name. The subject itself is not looked at: its fields name no service uniquely.
    pub fn of(connection: &ServerConnection) -> Certificate {
        match connection.peer_certificates().and_then(<[_]>::first) {
            None => Certificate::None,
            Some(der) => name(der).map_or(Certificate::Nameless, |name| Certificate::Names(name.into())),
        }
    }
}

fn name(der: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let names = &certificate.subject_alternative_name().ok()??.value.general_names;
    let spiffe = names.iter().find_map(|name| match name {
        GeneralName::URI(uri) if uri.starts_with("spiffe://") => Some(*uri),
        _ => None,
    });
    let dns = || {
        names.iter().find_map(|name| match name {
            GeneralName::DNSName(dns) if !dns.contains('*') => Some(*dns),
            _ => None,
        })
    };
    spiffe.or_else(dns).filter(|name| is_name(name)).map(str::to_owned)
}

/// What the listeners speak TLS with. One per process.
pub struct Tls {
    files: Files,
    clock: SharedClock,
    current: ArcSwap<Current>,
    /// Why the files at hand are not used; told once for each reason.
    refused: Mutex<Option<String>>,
}

#[derive(Debug, Clone)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
    /// A client may come without a certificate and show a token instead.
    may_come_without: bool,
}

/// What holds.
struct Current {
    config: Arc<ServerConfig>,
    /// Of the files it was made of.
    digest: [u8; 32],
    begins_at: SystemTime,
    expires_at: SystemTime,
}

/// What a look at the files led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reload {
    Same,
    Changed,
    /// They cannot be used: what held before holds on.
    Refused {
        why: String,
        /// It was told before.
        again: bool,
    },
}

impl Tls {
    /// `None` where no certificate is configured: the listeners then speak plaintext.
    ///
    /// # Errors
    /// `INVALID_FIELD` naming the key of the file that is missing, malformed, expired or not of the pair.
    pub fn from_config(config: &Config, clock: SharedClock) -> Result<Option<Arc<Tls>>> {
        let Some((certificate, key)) = config.tls_files() else { return Ok(None) };
        let files = Files {
            certificate: certificate.into(),
            key: key.into(),
            client_ca: config.tls_client_ca_file().map(Into::into),
            may_come_without: config.auth_mode == AuthMode::MtlsOrJwt,
        };
        let read = files.read()?;
        let current = files.make(&read, &clock)?;
        Ok(Some(Arc::new(Tls { files, clock, current: ArcSwap::from_pointee(current), refused: Mutex::default() })))
    }

    /// For the next handshake.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.current.load().config.clone()
    }

    /// When the certificate that holds expires.
    pub fn expires_at(&self) -> SystemTime {
        self.current.load().expires_at
    }

    /// Time left, once so little of the certificate's life is left that somebody should be told.
    pub fn runs_out(&self) -> Option<Duration> {
        let current = self.current.load();
        let life = current.expires_at.duration_since(current.begins_at).unwrap_or_default();
        let left = current.expires_at.duration_since(self.clock.now()).unwrap_or_default();
        // Short-lived certificates are renewed late in their life: a fifth of it is late for any.
        (left < CERTIFICATE_WARN_MAX.min(life / 5)).then_some(left)
    }

    /// Reads the files again and takes them if they changed and are good. Contents are compared, not times: a Kubernetes
    /// Secret changes by a swap of symbolic links.
    pub fn reload(&self) -> Reload {
        let made = self.files.read().and_then(|read| match read.digest == self.current.load().digest {
            true => Ok(None),
            false => self.files.make(&read, &self.clock).map(Some),
        });
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        match made {
            Ok(None) => {
                *refused = None;
                Reload::Same
            }
            Ok(Some(current)) => {
                self.current.store(Arc::new(current));
                *refused = None;
                Reload::Changed
            }
            Err(fault) => {
                let why = fault.message().to_owned();
                let again = refused.replace(why.clone()).as_ref() == Some(&why);
                Reload::Refused { why, again }
            }
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

/// The files' contents, read together.
struct Read {
    certificate: Vec<u8>,
    key: zeroize::Zeroizing<Vec<u8>>,
    client_ca: Option<Vec<u8>>,
    digest: [u8; 32],
}

impl Files {
    fn read(&self) -> Result<Read> {
        let certificate = contents("tls_cert_file", &self.certificate)?;
        let key = zeroize::Zeroizing::new(contents("tls_key_file", &self.key)?);
        let client_ca = self.client_ca.as_deref().map(|path| contents("tls_client_ca_file", path)).transpose()?;
        let mut digest = Sha256::new();
        for file in [Some(&certificate), Some(&*key), client_ca.as_ref()] {
            digest.update(Sha256::digest(file.map_or(&[][..], Vec::as_slice)));
        }
        Ok(Read { certificate, key, client_ca, digest: digest.finalize().into() })
    }

    fn make(&self, read: &Read, clock: &SharedClock) -> Result<Current> {
        let provider = Arc::new(default_provider());
        let chain = certificates("tls_cert_file", &self.certificate, &read.certificate)?;
        let (begins_at, expires_at) = self.life(&chain[0], clock)?;
        let certified = self.certified(chain, &read.key, &provider)?;
        let builder = ServerConfig::builder_with_details(provider.clone(), Arc::new(PolicyTime(clock.clone())))
            .with_safe_default_protocol_versions()
            .map_err(|error| Fault::bug("the TLS provider speaks no version of TLS").source(error))?;
        let resolver = Arc::new(SingleCertAndKey::from(certified));
        let mut config = match &read.client_ca {
            None => builder.with_no_client_auth().with_cert_resolver(resolver),
            Some(pem) => {
                let path = self.client_ca.as_deref().unwrap_or(Path::new(""));
                let mut roots = RootCertStore::empty();
                for certificate in certificates("tls_client_ca_file", path, pem)? {
                    let text = |error| format!("{}: not a certificate of an authority: {error}", path.display());
                    roots.add(certificate).map_err(|error| unusable("tls_client_ca_file", text(error)))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier = if self.may_come_without { verifier.allow_unauthenticated() } else { verifier };
                let verifier = verifier.build().map_err(|error| unusable("tls_client_ca_file", error.to_string()))?;
                let mut config = builder.with_client_cert_verifier(verifier).with_cert_resolver(resolver);
                // A resumed session would outlive the client's certificate and its authority.
                config.session_storage = Arc::new(NoServerSessionStorage {});
                config.send_tls13_tickets = 0;
                config
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Current { config: Arc::new(config), digest: read.digest, begins_at, expires_at })
    }

    /// When the certificate begins and ends. One that clients would refuse now is not taken.
    fn life(&self, leaf: &CertificateDer<'_>, clock: &SharedClock) -> Result<(SystemTime, SystemTime)> {
        let bad = |text: String| unusable("tls_cert_file", format!("{}: {text}", self.certificate.display()));
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|error| bad(format!("not X.509: {error}")))?;
        let (begins, expires) = (parsed.validity().not_before, parsed.validity().not_after);
        let (begins_at, expires_at) = (moment(begins.timestamp()), moment(expires.timestamp()));
        let now = clock.now();
        if now >= expires_at {
            return Err(bad(format!("the certificate expired on {}", written(expires_at))));
        }
        if now < begins_at {
            return Err(bad(format!("the certificate is not valid before {}", written(begins_at))));
        }
        Ok((begins_at, expires_at))
    }

    fn certified(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: &[u8],
        provider: &CryptoProvider,
    ) -> Result<CertifiedKey> {
        let bad = |text: &str| unusable("tls_key_file", format!("{}: {text}", self.key.display()));
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| {
            let encrypted = key.windows(9).any(|word| word == b"ENCRYPTED");
            bad(if encrypted { "the key is encrypted; give it without a passphrase" } else { "no private key in PEM" })
        })?;
        CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => bad("the key is not that of the certificate in tls_cert_file"),
            // The words of the key's decoder speak of its form only.
            error => bad(&format!("the key cannot be used: {error}")),
        })
    }
}

fn contents(field: &str, path: &Path) -> Result<Vec<u8>> {
    let read = std::fs::read(path).and_then(|text| match text.len() > TLS_FILE_BYTES_MAX {
        true => Err(io::Error::other(format!("larger than {TLS_FILE_BYTES_MAX} bytes"))),
        false => Ok(text),
    });
    read.map_err(|error| unusable(field, format!("cannot read {}: {error}", path.display())))
}

fn certificates(field: &str, path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let found: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(unusable(field, format!("{}: no certificate in PEM", path.display()))),
        Err(error) => Err(unusable(field, format!("{}: {error}", path.display()))),
    }
}

fn unusable(field: &str, text: String) -> Fault {
    Fault::field(field, "UNUSABLE", text)
}

fn moment(seconds: i64) -> SystemTime {
    // A certificate of before 1970 is as old as one of 1970.
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

fn written(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at).map_or_else(|_| "a date beyond dates".into(), |at| at.to_string())
}

/// The clock of the process, by which client certificates expire.
#[derive(Debug)]
struct PolicyTime(SharedClock);

impl TimeProvider for PolicyTime {
    fn current_time(&self) -> Option<UnixTime> {
        self.0.now().duration_since(SystemTime::UNIX_EPOCH).ok().map(UnixTime::since_unix_epoch)
    }
}
