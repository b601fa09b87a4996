//! How requests leave: straight, as the environment says, or through the proxy of one application parameter. Whoever has
//! the same settings shares the same HTTP clients; the clients least used go when there are too many. All of them trust
//! the same certificates. A proxy's password is seen here only, on its way into a header.

mod ask;

use std::{
    collections::HashMap,
    fmt,
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use http::HeaderValue;
use hyper_util::client::proxy::matcher::Matcher;
use reqwest::{Client, ClientBuilder, redirect};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use rustls_platform_verifier::Verifier;
use sha2::{Digest as _, Sha256};
use url::Url;

use super::Host;
use crate::{
    fault::{Fault, Reason, Result},
    limits,
    secret::Secret,
};

pub(super) use ask::{ask, challenged};

/// How one application parameter's requests leave.
#[derive(Debug, Clone, Default)]
pub enum Egress {
    #[default]
    Direct,
    /// As `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` say; on Windows and macOS also the system's settings.
    System,
    Proxy(Arc<Proxy>),
}

/// A proxy that an application parameter names.
pub struct Proxy {
    kind: ProxyKind,
    host: String,
    port: u16,
    login: Option<(String, Secret<String>)>,
    key: Key,
}

/// What is spoken with a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyKind {
    /// HTTP; a tunnel by CONNECT for https.
    Http,
    /// The same over TLS.
    Https,
    /// SOCKS 4a: the proxy resolves names; no user.
    Socks4,
    /// The proxy resolves names.
    Socks5,
}

type Key = [u8; 32];
/// No proxy has it: a key is a digest.
const SYSTEM: Key = [0; 32];

impl ProxyKind {
    fn scheme(self) -> &'static str {
        match self {
            ProxyKind::Http => "http",
            ProxyKind::Https => "https",
            ProxyKind::Socks4 => "socks4",
            ProxyKind::Socks5 => "socks5",
        }
    }
}

impl Proxy {
    /// `host` is a name or an address, which whoever set it has checked; no user: the proxy is asked without credentials.
    pub fn new(kind: ProxyKind, host: &str, port: u16, login: Option<(String, Secret<String>)>) -> Proxy {
        let mut hasher = Sha256::new();
        let (user, password) = login.as_ref().map_or(("", ""), |(user, password)| (user, password.reveal().as_str()));
        for part in [kind.scheme(), host, &port.to_string(), user, password] {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Proxy { kind, host: host.to_owned(), port, login, key: hasher.finalize().into() }
    }

    /// For reqwest. Names are left to the proxy to resolve: behind one there often is no other way.
    fn rule(&self) -> Result<reqwest::Proxy> {
        let (scheme, login) = match (self.kind, &self.login) {
            (ProxyKind::Socks5, Some((user, password))) => {
                let login = Secret::new(format!("{}:{}@", escaped(user), escaped(password.reveal())));
                ("socks5h", Some(login))
            }
            (ProxyKind::Socks5, None) => ("socks5h", None),
            (ProxyKind::Socks4, _) => ("socks4a", None),
            (kind, _) => (kind.scheme(), None),
        };
        let login = login.as_ref().map_or("", |login| login.reveal().as_str());
        let url = Secret::new(format!("{scheme}://{login}{}", authority(&self.host, self.port)));
        // The parser's own words could show the url, and with it the password.
        let rule = reqwest::Proxy::all(url.reveal().as_str())
            .map_err(|_| Fault::bug("the proxy of an application parameter does not make a url"))?;
        Ok(match (self.kind, &self.login) {
            // Not by reqwest's `basic_auth`: it goes by way of a url, where a `%41` of the password becomes an `A`.
            (ProxyKind::Http | ProxyKind::Https, Some((user, password))) => {
                rule.custom_http_auth(basic(user, password.reveal()))
            }
            _ => rule,
        })
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Proxy").field(&self.to_string()).finish()
    }
}

/// As it may be shown: `http://proxy.example:3128`.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.kind.scheme(), authority(&self.host, self.port))
    }
}

fn authority(host: &str, port: u16) -> String {
    // An IPv6 address stands in brackets where a port follows.
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Every byte percent-encoded: no rule about which of them would have needed it can be wrong.
fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// The next station of a request, with what it may be shown of the credentials.
pub(super) struct Hop {
    pub kind: ProxyKind,
    pub host: String,
    pub port: u16,
    /// For HTTP.
    pub basic: Option<HeaderValue>,
    /// For SOCKS5.
    pub login: Option<(String, Secret<String>)>,
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.kind.scheme(), authority(&self.host, self.port))
    }
}

impl Egress {
    fn key(&self) -> Option<Key> {
        match self {
            Egress::Direct => None,
            Egress::System => Some(SYSTEM),
            Egress::Proxy(proxy) => Some(proxy.key),
        }
    }

    /// The proxy on the way to `target`; none: straight.
    pub(super) fn hop(&self, target: &Url) -> Option<Hop> {
        let proxy = match self {
            Egress::Direct => return None,
            Egress::System => return system_hop(target),
            Egress::Proxy(proxy) => proxy,
        };
        let http = matches!(proxy.kind, ProxyKind::Http | ProxyKind::Https);
        let basic = proxy.login.as_ref().filter(|_| http).map(|(user, password)| basic(user, password.reveal()));
        let login = proxy.login.clone().filter(|_| !http);
        Some(Hop { kind: proxy.kind, host: proxy.host.clone(), port: proxy.port, basic, login })
    }
}

fn basic(user: &str, password: &str) -> HeaderValue {
    use base64::Engine as _;
    let pair = Secret::new(format!("{user}:{password}"));
    let text = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair.reveal()));
    let mut value = HeaderValue::try_from(text).expect("base64 is a header value");
    value.set_sensitive(true);
    value
}

fn system_hop(target: &Url) -> Option<Hop> {
    let intercept = Matcher::from_system().intercept(&target.as_str().parse().ok()?)?;
    let uri = intercept.uri();
    let (kind, port) = match uri.scheme_str()? {
        "http" => (ProxyKind::Http, 80),
        "https" => (ProxyKind::Https, 443),
        "socks4" | "socks4a" => (ProxyKind::Socks4, 1080),
        _ => (ProxyKind::Socks5, 1080),
    };
    Some(Hop {
        kind,
        host: uri.host()?.trim_matches(['[', ']']).to_owned(),
        port: uri.port_u16().unwrap_or(port),
        basic: intercept.basic_auth().cloned(),
        login: intercept.raw_auth().map(|(user, password)| (user.to_owned(), password.to_owned().into())),
    })
}

/// The HTTP clients of one way out. Clones share their connections.
#[derive(Clone)]
pub(super) struct Clients {
    api: Client,
    /// HTTP/1.1 only: parallel appends must not share one connection's window.
    content: Client,
}

impl Clients {
    pub(super) fn of(&self, host: Host) -> &Client {
        match host {
            Host::Content => &self.content,
            Host::Api | Host::Notify => &self.api,
        }
    }
}

/// The clients of every way out that is in use.
pub(super) struct Pool {
    tls: Tls,
    direct: Clients,
    others: Mutex<Others>,
}

#[derive(Default)]
struct Others {
    clients: HashMap<Key, (Clients, u64)>,
    /// Counts uses, so that the entry that was used longest ago is known.
    uses: u64,
}

impl Pool {
    /// `secure`: the endpoints are https, so certificates must be at hand from the start.
    pub(super) fn new(secure: bool, roots: Vec<CertificateDer<'static>>) -> Result<Pool> {
        // The first installation wins; every room would install the same provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let tls = Tls { secure, roots, config: OnceLock::new() };
        let direct = build(&Egress::Direct, &tls)?;
        Ok(Pool { tls, direct, others: Mutex::default() })
    }

    /// The clients for these settings, made when they are asked for the first time.
    pub(super) fn clients(&self, egress: &Egress) -> Result<Clients> {
        let Some(key) = egress.key() else { return Ok(self.direct.clone()) };
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        others.uses += 1;
        let now = others.uses;
        if let Some((clients, used)) = others.clients.get_mut(&key) {
            *used = now;
            return Ok(clients.clone());
        }
        // Made under the lock: it takes a millisecond, and two would be one too many.
        let clients = build(egress, &self.tls)?;
        if others.clients.len() >= limits::EGRESS_CLIENTS_MAX {
            let oldest = others.clients.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| *key);
            // Its requests under way end well: they hold their client.
            oldest.and_then(|oldest| others.clients.remove(&oldest));
        }
        others.clients.insert(key, (clients.clone(), now));
        Ok(clients)
    }

    pub(super) fn tls(&self) -> Result<ClientConfig> {
        self.tls.config().cloned()
    }

    #[cfg(test)]
    fn kept(&self) -> usize {
        self.others.lock().unwrap_or_else(PoisonError::into_inner).clients.len()
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

/// The certificates trusted by every client: the machine's, and those of `upstream_ca_file`.
struct Tls {
    secure: bool,
    roots: Vec<CertificateDer<'static>>,
    /// Made when it is needed: a bare container may have no certificates, and before an emulator it needs none.
    config: OnceLock<ClientConfig>,
}

impl Tls {
    fn config(&self) -> Result<&ClientConfig> {
        if let Some(config) = self.config.get() {
            return Ok(config);
        }
        let missing = |error: rustls::Error| {
            let text = "the machine has no usable CA certificates; install ca-certificates or set upstream_ca_file";
            Fault::new(Reason::ConnectorBug, text).source(error)
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Verifier::new_with_extra_roots(self.roots.iter().cloned(), provider.clone()).map_err(missing)?;
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(missing)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        Ok(self.config.get_or_init(|| config))
    }
}

fn build(egress: &Egress, tls: &Tls) -> Result<Clients> {
    let rule = match egress {
        Egress::Proxy(proxy) => Some(proxy.rule()?),
        Egress::Direct | Egress::System => None,
    };
    // The system's proxy may be an https one; a named one says so.
    let needs_tls = tls.secure
        || match egress {
            Egress::Direct => false,
            Egress::System => true,
            Egress::Proxy(proxy) => proxy.kind == ProxyKind::Https,
        };
    let config = if needs_tls { Some(tls.config()?) } else { None };
    let client = |protocols: &[&[u8]]| {
        let builder = match (&rule, egress) {
            (Some(rule), _) => Client::builder().no_proxy().proxy(rule.clone()),
            (None, Egress::System) => Client::builder(),
            (None, _) => Client::builder().no_proxy(),
        };
        let builder = if protocols.len() == 1 { builder.http1_only() } else { builder };
        let builder = match config {
            Some(config) => {
                let mut config = config.clone();
                config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
                builder.tls_backend_preconfigured(config)
            }
            None => builder.tls_certs_only([]),
        };
        finish(builder)
    };
    Ok(Clients { api: client(&[b"h2", b"http/1.1"])?, content: client(&[b"http/1.1"])? })
}

fn finish(builder: ClientBuilder) -> Result<Client> {
    let builder = builder
        .tcp_nodelay(true)
        .redirect(redirect::Policy::none())
        .referer(false)
        .retry(reqwest::retry::never())
        .pool_max_idle_per_host(limits::IDLE_CONNECTIONS_MAX)
        .user_agent(concat!("dropbox-connector/", env!("CARGO_PKG_VERSION")));
    builder
        .build()
        .map_err(|error| Fault::new(Reason::ConnectorBug, "the HTTP client could not be set up").source(error))
}

/// The certificates of `upstream_ca_file`.
///
/// # Errors
/// `INVALID_FIELD` naming `upstream_ca_file`.
pub fn read_roots(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let wrong = |text: String| Fault::field("upstream_ca_file", "MALFORMED", text);
    let unreadable = |error| wrong(format!("cannot read {}: {error}", path.display()));
    let roots =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(unreadable)?;
    if roots.is_empty() {
        return Err(wrong(format!("{} holds no certificate; it must be PEM", path.display())));
    }
    for root in &roots {
        let mut store = RootCertStore::empty();
        store.add(root.clone()).map_err(|error| wrong(format!("{}: {error}", path.display())))?;
    }
    Ok(roots)
}

/// Whether a connection failed because the certificate at its other end is not trusted.
pub(super) fn is_untrusted(error: &reqwest::Error) -> bool {
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        if matches!(cause.downcast_ref(), Some(rustls::Error::InvalidCertificate(_))) {
            return true;
        }
        // An io::Error hides what it wraps from `source`.
        next = match cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => cause.source(),
        };
    }
    false
}

/// The fault of such a connection. It never left, and it may be mended any time.
pub(super) fn untrusted(error: reqwest::Error) -> Fault {
    let text =
        "the certificate shown for Dropbox is not trusted; if a proxy opens TLS, put its CA into upstream_ca_file";
    Fault::new(Reason::DropboxUnavailable, text).retry_after(limits::BUSY_RETRY).source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(kind: ProxyKind, port: u16, user: &str, password: &str) -> Proxy {
        let login = (!user.is_empty()).then(|| (user.to_owned(), Secret::new(password.to_owned())));
        Proxy::new(kind, "127.0.0.1", port, login)
    }

    fn way(port: u16, password: &str) -> Egress {
        Egress::Proxy(Arc::new(proxy(ProxyKind::Http, port, "me", password)))
    }

    #[test]
    fn equal_settings_share_clients_and_the_least_used_go() {
        let pool = Pool::new(false, Vec::new()).expect("a pool");
        pool.clients(&Egress::Direct).expect("direct");
        assert_eq!(pool.kept(), 0);
        for _ in 0..3 {
            pool.clients(&way(1, "a")).expect("one");
        }
        assert_eq!(pool.kept(), 1);
        for other in [way(2, "a"), way(1, "b"), Egress::Proxy(Arc::new(proxy(ProxyKind::Socks5, 1, "me", "a")))] {
            pool.clients(&other).expect("another");
        }
        assert_eq!(pool.kept(), 4);
        for port in 0..u16::try_from(limits::EGRESS_CLIENTS_MAX).expect("small") {
            pool.clients(&way(port + 100, "a")).expect("one more");
            pool.clients(&way(1, "a")).expect("in use");
        }
        assert_eq!(pool.kept(), limits::EGRESS_CLIENTS_MAX);
        let others = pool.others.lock().expect("no panic under it");
        assert!(others.clients.contains_key(&way(1, "a").key().expect("a key")), "what is used stays");
        assert!(!others.clients.contains_key(&way(2, "a").key().expect("a key")), "what is not goes");
    }

    #[test]
    fn a_proxy_shows_its_address_and_never_its_password() {
        let proxy = Proxy::new(ProxyKind::Socks5, "::1", 1080, Some(("me".into(), Secret::new("hush".into()))));
        assert_eq!(proxy.to_string(), "socks5://[::1]:1080");
        assert!(!format!("{proxy:?}").contains("hush"));
        assert!(!format!("{:#?}", Egress::Proxy(Arc::new(proxy))).contains("hush"));
    }

    #[test]
    fn credentials_of_any_kind_make_a_rule() {
        for password in ["@:/%#?", "ünïcödé 雪", " ", "", "%41", "\"'\\", &"x".repeat(255)] {
            for kind in [ProxyKind::Http, ProxyKind::Https, ProxyKind::Socks5] {
                proxy(kind, 1080, "DOMAIN\\user@host", password).rule().expect("a rule");
            }
        }
        assert_eq!(escaped("a@é"), "%61%40%C3%A9");
    }

    #[test]
    fn a_file_without_certificates_is_refused() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        for text in ["", "garbage", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            std::fs::write(file.path(), text).expect("written");
            assert_eq!(read_roots(file.path()).expect_err(text).violations()[0].field, "upstream_ca_file");
        }
        assert!(read_roots(Path::new("/nowhere.pem")).is_err());
    }
}
