//! One `Config`: compiled-in defaults < file < environment < flags, validated as a whole before a port is bound.
//! `config.default.toml` is both the defaults and the manual; a test holds the two and README together.

mod layers;
mod overrides;
mod store_url;

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use url::Url;

use crate::seal::KeySource;
use layers::Layers;
pub use layers::unknown_variables;
pub use overrides::Overrides;

/// The defaults file, which is the manual of every key.
pub const DEFAULTS: &str = include_str!("config.default.toml");

/// What signed tokens may be signed with; all are asymmetric.
const JWT_ALGORITHMS: [&str; 9] = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];

/// Everything `serve` can be told.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub data_listen: SocketAddr,
    pub admin_listen: SocketAddr,
    pub probe_listen: SocketAddr,
    pub http_listen: SocketAddr,
    pub reflection: bool,
    pub grpc_web: bool,
    pub grpc_web_origins: Vec<String>,
    pub store_url: String,
    pub store_migrate: bool,
    pub sealing_key_file: PathBuf,
    pub sealing_key_env: String,
    pub sealing_key_command: String,
    #[serde(deserialize_with = "span", serialize_with = "print_span")]
    pub sealing_key_command_timeout: Duration,
    pub parameters_file: PathBuf,
    pub dropbox_api_url: Url,
    pub dropbox_content_url: Url,
    pub dropbox_notify_url: Url,
    pub dropbox_oauth_url: Url,
    pub allow_insecure_upstream: bool,
    pub upstream_ca_file: PathBuf,
    pub emulator: bool,
    pub app_key: String,
    pub app_secret_file: PathBuf,
    pub oauth_redirect_uris: Vec<String>,
    pub public_http_listen: String,
    pub connect_page: bool,
    pub webhooks: bool,
    pub auth_mode: AuthMode,
    pub auth_tokens: Vec<StaticToken>,
    pub admin_principals: Vec<String>,
    pub tls_cert_file: PathBuf,
    pub tls_key_file: PathBuf,
    pub tls_client_ca_file: PathBuf,
    pub jwt_issuer: String,
    pub jwt_audiences: Vec<String>,
    pub jwt_jwks_file: PathBuf,
    pub jwt_jwks_url: String,
    pub jwt_jwks_ca_file: PathBuf,
    pub jwt_algorithms: Vec<String>,
    pub jwt_principal_claim: String,
    #[serde(deserialize_with = "span", serialize_with = "print_span")]
    pub jwt_leeway: Duration,
    pub i_know: bool,
    pub transfer_buffer_mib: u64,
    pub max_uploads: usize,
    pub max_downloads: usize,
    pub max_watches: usize,
    #[serde(deserialize_with = "span", serialize_with = "print_span")]
    pub max_stream_age: Duration,
    pub max_requests_per_account: usize,
    pub append_mib: u64,
    #[serde(deserialize_with = "span", serialize_with = "print_span")]
    pub upload_idle: Duration,
    #[serde(deserialize_with = "span", serialize_with = "print_span")]
    pub download_idle: Duration,
    #[serde(deserialize_with = "span", serialize_with = "print_span")]
    pub drain_delay: Duration,
    #[serde(deserialize_with = "span", serialize_with = "print_span")]
    pub drain_grace: Duration,
    #[serde(deserialize_with = "span", serialize_with = "print_span")]
    pub connection_age: Duration,
    pub log_format: LogFormat,
    pub log_level: String,
}

/// How callers show who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuthMode {
    None,
    Token,
    /// By client certificate.
    Mtls,
    /// By signed token.
    Jwt,
    /// By signed token where one is sent, else by client certificate.
    MtlsOrJwt,
}

impl AuthMode {
    pub fn takes_signed_tokens(self) -> bool {
        matches!(self, AuthMode::Jwt | AuthMode::MtlsOrJwt)
    }

    pub fn takes_certificates(self) -> bool {
        matches!(self, AuthMode::Mtls | AuthMode::MtlsOrJwt)
    }
}

/// A static bearer token, known by its hash only.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct StaticToken {
    pub principal: String,
    /// Lower-case hex of the token's SHA-256.
    pub sha256: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub key: String,
    /// The value and where it comes from; empty where there is none to show.
    pub origin: String,
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem { key, origin, text } = self;
        write!(f, "{key}: {text}")?;
        if origin.is_empty() { Ok(()) } else { write!(f, " ({origin})") }
    }
}

/// Settings that cannot be used, all of them at once.
#[derive(Debug)]
pub struct ConfigError(pub Vec<Problem>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Defaults < file < environment and flags.
    ///
    /// # Errors
    /// A problem for each key that is unknown, of the wrong type or out of range.
    pub fn load(overrides: &Overrides) -> Result<Config, ConfigError> {
        let (config, problems) = Config::examine(overrides);
        if problems.is_empty() { Ok(config) } else { Err(ConfigError(problems)) }
    }

    /// As [`Config::load`], with the defaults in the place of what cannot be used, so that whoever checks can look further.
    pub fn examine(overrides: &Overrides) -> (Config, Vec<Problem>) {
        let mut problems = Vec::new();
        let mut said = Layers::new();
        if let Some(file) = &overrides.config {
            said.add_file(file, &mut problems);
        }
        said.add_overrides(overrides, &mut problems);
        let config = said.extract(&mut problems);
        config.validate(&said, &mut problems);
        (config, problems)
    }

    fn validate(&self, said: &Layers, problems: &mut Vec<Problem>) {
        let unread: Vec<String> = problems.iter().map(|problem| problem.key.clone()).collect();
        // What follows from another key is not told while that one cannot be read.
        let read = |keys: &[&str]| !keys.iter().any(|key| unread.iter().any(|unread| unread == key));
        let mut check = |key: &str, good: bool, text: &str| {
            if !good && read(&[key]) {
                problems.push(said.problem(key, text));
            }
        };
        self.validate_callers(&read, &mut check);
        for (key, url) in [
            ("dropbox_api_url", &self.dropbox_api_url),
            ("dropbox_content_url", &self.dropbox_content_url),
            ("dropbox_notify_url", &self.dropbox_notify_url),
            ("dropbox_oauth_url", &self.dropbox_oauth_url),
        ] {
            let insecure = self.allow_insecure_upstream || !read(&["allow_insecure_upstream"]);
            let secure = url.scheme() == "https" || (url.scheme() == "http" && insecure);
            check(key, secure, "must be https (http needs allow_insecure_upstream)");
            check(key, url.has_host(), "must name a host");
            check(key, url.username().is_empty() && url.password().is_none(), "must not hold a user or password");
        }
        check("store_url", store_url::is_known(&self.store_url), "must begin with sqlite: or postgres://");
        let command = shlex::split(&self.sealing_key_command);
        check("sealing_key_command", command.is_some(), "has a quote that does not end");
        let both = !self.sealing_key_command.is_empty() && !self.sealing_key_env.is_empty();
        check("sealing_key_command", !both, "give it or sealing_key_env, not both");
        let within = (Duration::from_millis(100)..=Duration::from_secs(60)).contains(&self.sealing_key_command_timeout);
        check("sealing_key_command_timeout", within, "must be 100ms to 1m");
        check("transfer_buffer_mib", (64..=65_536).contains(&self.transfer_buffer_mib), "must be 64 to 65536");
        check("append_mib", matches!(self.append_mib, 4 | 8), "must be 4 or 8");
        check("max_uploads", (1..=100_000).contains(&self.max_uploads), "must be 1 to 100000");
        check("max_downloads", (1..=100_000).contains(&self.max_downloads), "must be 1 to 100000");
        check("max_watches", (1..=1_000_000).contains(&self.max_watches), "must be 1 to 1000000");
        let ages = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
        check("max_stream_age", ages.contains(&self.max_stream_age), "must be 1s to 24h");
        check("max_requests_per_account", (4..=1024).contains(&self.max_requests_per_account), "must be 4 to 1024");
        check("upload_idle", self.upload_idle >= Duration::from_secs(1), "must be at least 1s");
        check("download_idle", self.download_idle >= Duration::from_secs(1), "must be at least 1s");
        check("connection_age", self.connection_age >= Duration::from_secs(1), "must be at least 1s");
        check("drain_delay", self.drain_delay <= Duration::from_secs(600), "must be at most 10m");
        check("drain_grace", self.drain_grace <= Duration::from_secs(3600), "must be at most 1h");
        let origins = &self.grpc_web_origins;
        check(
            "grpc_web_origins",
            !self.grpc_web || !origins.is_empty() || !read(&["grpc_web"]),
            "grpc_web is on but no page may call: name the origins, as in https://app.example.com",
        );
        check(
            "grpc_web_origins",
            origins.iter().all(|origin| is_origin(origin)),
            "an origin is scheme://host or scheme://host:port as browsers send it: lower case, no path, no *",
        );
        for uri in &self.oauth_redirect_uris {
            if let Err(text) = check_redirect_uri(uri) {
                check("oauth_redirect_uris", false, &format!("{uri}: {text}"));
            }
        }
        let listed = self.public_http_listen.is_empty() || self.public_http_listen.parse::<SocketAddr>().is_ok();
        check("public_http_listen", listed, "must be an address like 0.0.0.0:8080, or empty");
        let reachable = !self.webhooks || !self.public_http_listen.is_empty();
        check("webhooks", reachable, "nobody could call: they come in on public_http_listen, so set that");
        check("app_secret_file", self.app_secret_file().is_none() || !self.app_key.is_empty(), "needs app_key");
        let guarded = !self.connect_page || self.i_know || self.http_listen.ip().is_loopback();
        let text = "is not a loopback address and connect_page is on: what proves an administrator would travel in \
                    plaintext; set i_know where TLS ends before it";
        check("http_listen", guarded, text);
        let filter = tracing_subscriber::EnvFilter::try_new(&self.log_level);
        check("log_level", filter.is_ok(), "not a log filter, as in info or dropbox_connector=debug,warn");
    }

    /// Who may call, and over what.
    fn validate_callers(&self, read: &impl Fn(&[&str]) -> bool, check: &mut impl FnMut(&str, bool, &str)) {
        let encrypted = self.tls_files().is_some();
        if !self.i_know && (self.auth_mode == AuthMode::None || !encrypted) && read(&["i_know", "auth_mode"]) {
            let text = match self.auth_mode {
                AuthMode::None => {
                    "is not a loopback address and auth_mode is none: everybody could call; set auth_mode, or i_know"
                }
                _ => {
                    "is not a loopback address: tokens would travel in plaintext; set tls_cert_file and tls_key_file, or \
                     i_know where TLS ends before it"
                }
            };
            for (key, address) in [("data_listen", self.data_listen), ("admin_listen", self.admin_listen)] {
                check(key, address.ip().is_loopback(), text);
            }
        }
        let is_set = |file: &Path| !file.as_os_str().is_empty();
        let (certificate, key) = (is_set(&self.tls_cert_file), is_set(&self.tls_key_file));
        check("tls_key_file", key || !certificate, "tls_cert_file is set, so its key is needed");
        check("tls_cert_file", certificate || !key, "tls_key_file is set, so its certificate is needed");
        let client_ca = is_set(&self.tls_client_ca_file);
        check(
            "tls_client_ca_file",
            !client_ca || certificate,
            "needs tls_cert_file: without TLS there are no client certificates",
        );
        let by_certificate = self.auth_mode.takes_certificates();
        check(
            "tls_client_ca_file",
            !by_certificate || client_ca,
            "auth_mode takes client certificates: name the authorities they come from",
        );
        let some_token = self.auth_mode != AuthMode::Token || !self.auth_tokens.is_empty();
        check("auth_tokens", some_token, "auth_mode is token but there is no token");
        for token in &self.auth_tokens {
            let hex = token.sha256.len() == 64
                && token.sha256.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            check(
                "auth_tokens",
                hex && !token.principal.is_empty(),
                "needs a principal and 64 lower-case hex digits of SHA-256",
            );
        }
        self.validate_signed_tokens(check);
    }

    fn validate_signed_tokens(&self, check: &mut impl FnMut(&str, bool, &str)) {
        let file = !self.jwt_jwks_file.as_os_str().is_empty();
        match self.jwt_jwks_url() {
            Err(text) => check("jwt_jwks_url", false, text),
            Ok(url) => {
                let plain = url.as_ref().is_some_and(|url| url.scheme() == "http");
                let near = url.as_ref().is_some_and(is_loopback);
                let secure = !plain || near || self.allow_insecure_upstream;
                check("jwt_jwks_url", secure, "must be https: who can change the keys on their way can be anybody");
                check(
                    "jwt_jwks_url",
                    !(file && url.is_some()),
                    "jwt_jwks_file is set, too: keys come from one of them",
                );
                let needed = self.auth_mode.takes_signed_tokens();
                let some = file || url.is_some();
                check("jwt_jwks_file", !needed || some, "auth_mode takes signed tokens: set this or jwt_jwks_url");
                check(
                    "jwt_issuer",
                    !needed || !self.jwt_issuer.is_empty(),
                    "auth_mode takes signed tokens: name their issuer (iss)",
                );
                let audience = self.jwt_audiences.iter().all(|audience| !audience.is_empty());
                let audience = audience && (!needed || !self.jwt_audiences.is_empty());
                check(
                    "jwt_audiences",
                    audience,
                    "auth_mode takes signed tokens: name the audience (aud) that means this service",
                );
            }
        }
        check("jwt_principal_claim", !self.jwt_principal_claim.is_empty(), "name a claim, as sub");
        check("jwt_leeway", self.jwt_leeway <= Duration::from_secs(300), "must be at most 5m");
        check("jwt_algorithms", !self.jwt_algorithms.is_empty(), "name at least one");
        for name in &self.jwt_algorithms {
            let known = JWT_ALGORITHMS.contains(&name.as_str());
            let text = if name.starts_with("HS") {
                "HMAC is not taken: whoever can check such a token can make it"
            } else {
                "must be of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA"
            };
            check("jwt_algorithms", known, text);
        }
    }

    /// What holds, as TOML, without the store's password. Token hashes are not secrets, yet they stay out of terminals.
    pub fn print(&self) -> String {
        let mut shown = self.clone();
        shown.store_url = store_url::without_password(&self.store_url);
        for token in &mut shown.auth_tokens {
            token.sha256 = "(redacted)".into();
        }
        match serde_json::to_value(&shown) {
            Ok(serde_json::Value::Object(keys)) => {
                keys.iter().map(|(key, value)| format!("{key} = {value}\n")).collect()
            }
            _ => String::new(),
        }
    }

    /// Neither the store nor the key file was named.
    pub fn has_default_store(&self) -> bool {
        let default = Config::load(&Overrides::default());
        let keys = KeySource::File(self.sealing_key_file.clone());
        default.is_ok_and(|d| d.store_url == self.store_url && d.key_source() == keys && self.key_source() == keys)
    }

    /// Where the sealing keys come from.
    pub fn key_source(&self) -> KeySource {
        let words = shlex::split(&self.sealing_key_command).unwrap_or_default();
        if !words.is_empty() {
            KeySource::Command { words, timeout: self.sealing_key_command_timeout }
        } else if !self.sealing_key_env.is_empty() {
            KeySource::Environment(self.sealing_key_env.clone())
        } else {
            KeySource::File(self.sealing_key_file.clone())
        }
    }

    pub fn app_secret_file(&self) -> Option<&Path> {
        (!self.app_secret_file.as_os_str().is_empty()).then_some(&*self.app_secret_file)
    }

    pub fn public_http_listen(&self) -> Option<SocketAddr> {
        self.public_http_listen.parse().ok()
    }

    pub fn parameters_file(&self) -> Option<&Path> {
        named_file(&self.parameters_file)
    }

    /// Certificate and key of the data and admin listeners.
    pub fn tls_files(&self) -> Option<(&Path, &Path)> {
        named_file(&self.tls_cert_file).zip(named_file(&self.tls_key_file))
    }

    pub fn tls_client_ca_file(&self) -> Option<&Path> {
        named_file(&self.tls_client_ca_file)
    }

    pub fn jwt_jwks_ca_file(&self) -> Option<&Path> {
        named_file(&self.jwt_jwks_ca_file)
    }

    /// # Errors
    /// What is wrong with it, in words.
    pub fn jwt_jwks_url(&self) -> Result<Option<Url>, &'static str> {
        if self.jwt_jwks_url.is_empty() {
            return Ok(None);
        }
        let url: Url = self.jwt_jwks_url.parse().map_err(|_| "not a url")?;
        let fit = matches!(url.scheme(), "http" | "https") && url.has_host();
        let bare = url.username().is_empty() && url.password().is_none();
        match (fit, bare) {
            (true, true) => Ok(Some(url)),
            (false, _) => Err("must be an https url"),
            (_, false) => Err("must not hold a user or password"),
        }
    }
}

/// May Dropbox send a browser there? `https`, or `http` on loopback, where nobody listens in.
///
/// # Errors
/// What is wrong with it, in words.
pub fn check_redirect_uri(uri: &str) -> Result<(), &'static str> {
    if uri.len() > crate::limits::URL_BYTES_MAX {
        return Err("at most 2 KiB");
    }
    let url = Url::parse(uri).map_err(|_| "an absolute url, as registered in Dropbox's App Console")?;
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err("must hold neither user nor password nor fragment");
    }
    match url.scheme() {
        "https" if url.has_host() => Ok(()),
        "http" if is_loopback(&url) => Ok(()),
        _ => Err("must be https, or http on localhost or 127.0.0.1"),
    }
}

/// An empty path names no file.
fn named_file(path: &Path) -> Option<&Path> {
    (!path.as_os_str().is_empty()).then_some(path)
}

/// Names this machine and no other.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// An origin as browsers write it (RFC 6454).
fn is_origin(text: &str) -> bool {
    let Ok(url) = Url::parse(text) else { return false };
    matches!(url.scheme(), "http" | "https") && url.origin().ascii_serialization() == text
}

fn span<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let span: jiff::SignedDuration =
        text.parse().map_err(|_| D::Error::custom(format!("`{text}` is not a time span like 500ms, 5s, 30m, 1h")))?;
    Duration::try_from(span).map_err(|_| D::Error::custom(format!("`{text}` is negative")))
}

fn print_span<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    let shown = jiff::SignedDuration::try_from(*span).map_err(serde::ser::Error::custom)?;
    serializer.collect_str(&format_args!("{shown:#}"))
}

#[cfg(test)]
mod tests;
