//! One `Config`: compiled-in defaults < file < environment < flags, validated as a whole before a port is bound.
//! `config.default.toml` is both the defaults and the manual; a test holds the two and README together.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use figment::{
    Figment,
    providers::{Format, Serialized, Toml},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use url::Url;

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
    pub store_url: String,
    pub store_migrate: bool,
    pub sealing_key_file: PathBuf,
    pub parameters_file: PathBuf,
    pub dropbox_api_url: Url,
    pub dropbox_content_url: Url,
    pub dropbox_notify_url: Url,
    pub dropbox_oauth_url: Url,
    pub allow_insecure_upstream: bool,
    pub emulator: bool,
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
    pub max_requests_per_account: usize,
    pub append_mib: u64,
    #[serde(deserialize_with = "span", serialize_with = "print_span")]
    pub upload_idle: Duration,
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

/// Flags and environment: the same keys, none of them needed.
#[derive(Debug, Clone, Default, clap::Args, Serialize)]
pub struct Overrides {
    /// Configuration file (TOML); `config print --defaults` shows every key.
    #[arg(long, env = "DROPBOX_CONNECTOR_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Address of the data service.
    #[arg(long, env = "DROPBOX_CONNECTOR_DATA_LISTEN", value_name = "ADDR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_listen: Option<String>,
    /// Address of the admin service.
    #[arg(long, env = "DROPBOX_CONNECTOR_ADMIN_LISTEN", value_name = "ADDR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_listen: Option<String>,
    /// Address of the plaintext health service for probes.
    #[arg(long, env = "DROPBOX_CONNECTOR_PROBE_LISTEN", value_name = "ADDR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe_listen: Option<String>,
    /// Address of the HTTP side port (/metrics, /live, /ready).
    #[arg(long, env = "DROPBOX_CONNECTOR_HTTP_LISTEN", value_name = "ADDR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_listen: Option<String>,
    /// gRPC reflection: true or false, on or off.
    #[arg(long, env = "DROPBOX_CONNECTOR_REFLECTION", value_name = "BOOL", value_parser = clap::builder::BoolishValueParser::new())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reflection: Option<bool>,
    /// Where parameters and upload records are kept: sqlite://PATH or postgres://USER@HOST/DATABASE.
    #[arg(long, env = "DROPBOX_CONNECTOR_STORE_URL", value_name = "URL", hide_env_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store_url: Option<String>,
    /// Bring the store's tables up to date at start.
    #[arg(long, env = "DROPBOX_CONNECTOR_STORE_MIGRATE", value_name = "BOOL", value_parser = clap::builder::BoolishValueParser::new())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store_migrate: Option<bool>,
    /// Key ring that seals secrets and handles.
    #[arg(long, env = "DROPBOX_CONNECTOR_SEALING_KEY_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sealing_key_file: Option<PathBuf>,
    /// Read-only application parameters from a file.
    #[arg(long, env = "DROPBOX_CONNECTOR_PARAMETERS_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters_file: Option<PathBuf>,
    /// Dropbox's API host.
    #[arg(long, env = "DROPBOX_CONNECTOR_DROPBOX_API_URL", value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropbox_api_url: Option<String>,
    /// Dropbox's content host.
    #[arg(long, env = "DROPBOX_CONNECTOR_DROPBOX_CONTENT_URL", value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropbox_content_url: Option<String>,
    /// Dropbox's notification host.
    #[arg(long, env = "DROPBOX_CONNECTOR_DROPBOX_NOTIFY_URL", value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropbox_notify_url: Option<String>,
    /// Host of Dropbox's token endpoint.
    #[arg(long, env = "DROPBOX_CONNECTOR_DROPBOX_OAUTH_URL", value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropbox_oauth_url: Option<String>,
    /// Allow http:// upstream urls (tests and emulators only).
    #[arg(long, env = "DROPBOX_CONNECTOR_ALLOW_INSECURE_UPSTREAM", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL", value_parser = clap::builder::BoolishValueParser::new())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_insecure_upstream: Option<bool>,
    /// Run an emulator of Dropbox in this process and use it.
    #[arg(long, env = "DROPBOX_CONNECTOR_EMULATOR", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL", value_parser = clap::builder::BoolishValueParser::new())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub emulator: Option<bool>,
    /// none, token, mtls, jwt or mtls-or-jwt.
    #[arg(long, env = "DROPBOX_CONNECTOR_AUTH_MODE", value_name = "MODE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_mode: Option<String>,
    /// Static tokens as PRINCIPAL:SHA256, comma-separated.
    #[arg(long, env = "DROPBOX_CONNECTOR_AUTH_TOKENS", value_name = "LIST", value_delimiter = ',', hide_env_values = true, value_parser = static_token)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_tokens: Option<Vec<StaticToken>>,
    /// Principals that may call the admin service, comma-separated.
    #[arg(long, env = "DROPBOX_CONNECTOR_ADMIN_PRINCIPALS", value_name = "LIST", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_principals: Option<Vec<String>>,
    /// Certificate chain (PEM) of the data and admin listeners.
    #[arg(long, env = "DROPBOX_CONNECTOR_TLS_CERT_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_cert_file: Option<PathBuf>,
    /// Private key (PEM) of that certificate.
    #[arg(long, env = "DROPBOX_CONNECTOR_TLS_KEY_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key_file: Option<PathBuf>,
    /// Authorities (PEM) that client certificates must come from.
    #[arg(long, env = "DROPBOX_CONNECTOR_TLS_CLIENT_CA_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_client_ca_file: Option<PathBuf>,
    /// Issuer (iss) of signed tokens.
    #[arg(long, env = "DROPBOX_CONNECTOR_JWT_ISSUER", value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt_issuer: Option<String>,
    /// Audiences (aud) that signed tokens may be for, comma-separated.
    #[arg(long, env = "DROPBOX_CONNECTOR_JWT_AUDIENCES", value_name = "LIST", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt_audiences: Option<Vec<String>>,
    /// The issuer's keys (JWKS) as a file.
    #[arg(long, env = "DROPBOX_CONNECTOR_JWT_JWKS_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt_jwks_file: Option<PathBuf>,
    /// The issuer's keys (JWKS) as a url.
    #[arg(long, env = "DROPBOX_CONNECTOR_JWT_JWKS_URL", value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt_jwks_url: Option<String>,
    /// Authorities (PEM) for that url instead of the system's.
    #[arg(long, env = "DROPBOX_CONNECTOR_JWT_JWKS_CA_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt_jwks_ca_file: Option<PathBuf>,
    /// Algorithms that signed tokens may use, comma-separated.
    #[arg(long, env = "DROPBOX_CONNECTOR_JWT_ALGORITHMS", value_name = "LIST", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt_algorithms: Option<Vec<String>>,
    /// The claim that names the principal.
    #[arg(long, env = "DROPBOX_CONNECTOR_JWT_PRINCIPAL_CLAIM", value_name = "CLAIM")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt_principal_claim: Option<String>,
    /// By how much clocks may differ.
    #[arg(long, env = "DROPBOX_CONNECTOR_JWT_LEEWAY", value_name = "SPAN")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt_leeway: Option<String>,
    /// Listening beyond loopback without authentication is meant.
    #[arg(long, env = "DROPBOX_CONNECTOR_I_KNOW", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL", value_parser = clap::builder::BoolishValueParser::new())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub i_know: Option<bool>,
    /// Process-wide transfer buffer, in MiB.
    #[arg(long, env = "DROPBOX_CONNECTOR_TRANSFER_BUFFER_MIB", value_name = "MIB")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transfer_buffer_mib: Option<u64>,
    /// Uploads open at once.
    #[arg(long, env = "DROPBOX_CONNECTOR_MAX_UPLOADS", value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_uploads: Option<usize>,
    /// Downloads open at once.
    #[arg(long, env = "DROPBOX_CONNECTOR_MAX_DOWNLOADS", value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_downloads: Option<usize>,
    /// Requests to Dropbox in flight for one account.
    #[arg(long, env = "DROPBOX_CONNECTOR_MAX_REQUESTS_PER_ACCOUNT", value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_requests_per_account: Option<usize>,
    /// Bytes of one append to an upload session, in MiB.
    #[arg(long, env = "DROPBOX_CONNECTOR_APPEND_MIB", value_name = "MIB")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub append_mib: Option<u64>,
    /// Silence after which an upload stream ends, resumable.
    #[arg(long, env = "DROPBOX_CONNECTOR_UPLOAD_IDLE", value_name = "SPAN")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upload_idle: Option<String>,
    /// Time between "not ready" and refusing new calls.
    #[arg(long, env = "DROPBOX_CONNECTOR_DRAIN_DELAY", value_name = "SPAN")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_delay: Option<String>,
    /// Time streams get to end after that.
    #[arg(long, env = "DROPBOX_CONNECTOR_DRAIN_GRACE", value_name = "SPAN")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_grace: Option<String>,
    /// Age at which connections are asked to go.
    #[arg(long, env = "DROPBOX_CONNECTOR_CONNECTION_AGE", value_name = "SPAN")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_age: Option<String>,
    /// text or json.
    #[arg(long, env = "DROPBOX_CONNECTOR_LOG_FORMAT", value_name = "FORMAT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_format: Option<String>,
    /// Log filter.
    #[arg(long, env = "DROPBOX_CONNECTOR_LOG_LEVEL", value_name = "FILTER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_level: Option<String>,
}

/// Settings that cannot be used, each with its key; all of those that can be read are told at once.
#[derive(Debug)]
pub struct ConfigError(Vec<String>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Defaults < file < environment and flags.
    ///
    /// # Errors
    /// One line per key that is unknown, of the wrong type or out of range.
    pub fn load(overrides: &Overrides) -> Result<Config, ConfigError> {
        let mut figment = Figment::from(Toml::string(DEFAULTS));
        if let Some(file) = &overrides.config {
            let text = std::fs::read_to_string(file)
                .map_err(|error| ConfigError(vec![format!("config: cannot read {}: {error}", file.display())]))?;
            figment = figment.merge(Toml::string(&text));
        }
        let config: Config = figment.merge(Serialized::defaults(overrides)).extract().map_err(named)?;
        config.validate()?;
        Ok(config)
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let mut wrong = Vec::new();
        let mut check = |key: &str, good: bool, text: &str| {
            if !good {
                wrong.push(format!("{key}: {text}"));
            }
        };
        self.validate_callers(&mut check);
        for (key, url) in [
            ("dropbox_api_url", &self.dropbox_api_url),
            ("dropbox_content_url", &self.dropbox_content_url),
            ("dropbox_notify_url", &self.dropbox_notify_url),
            ("dropbox_oauth_url", &self.dropbox_oauth_url),
        ] {
            let secure = url.scheme() == "https" || (url.scheme() == "http" && self.allow_insecure_upstream);
            check(key, secure, "must be https (http needs allow_insecure_upstream)");
            check(key, url.has_host(), "must name a host");
            check(key, url.username().is_empty() && url.password().is_none(), "must not hold a user or password");
        }
        let known = ["sqlite:", "postgres://", "postgresql://"].iter().any(|scheme| self.store_url.starts_with(scheme));
        check("store_url", known, "must begin with sqlite: or postgres://");
        check("transfer_buffer_mib", (64..=65_536).contains(&self.transfer_buffer_mib), "must be 64 to 65536");
        check("append_mib", matches!(self.append_mib, 4 | 8), "must be 4 or 8");
        check("max_uploads", (1..=100_000).contains(&self.max_uploads), "must be 1 to 100000");
        check("max_downloads", (1..=100_000).contains(&self.max_downloads), "must be 1 to 100000");
        check("max_requests_per_account", (4..=1024).contains(&self.max_requests_per_account), "must be 4 to 1024");
        check("upload_idle", self.upload_idle >= Duration::from_secs(1), "must be at least 1s");
        check("connection_age", self.connection_age >= Duration::from_secs(1), "must be at least 1s");
        check("drain_delay", self.drain_delay <= Duration::from_secs(600), "must be at most 10m");
        check("drain_grace", self.drain_grace <= Duration::from_secs(3600), "must be at most 1h");
        let filter = tracing_subscriber::EnvFilter::try_new(&self.log_level);
        check("log_level", filter.is_ok(), "not a log filter, as in info or dropbox_connector=debug,warn");
        if wrong.is_empty() { Ok(()) } else { Err(ConfigError(wrong)) }
    }

    /// Who may call, and over what.
    fn validate_callers(&self, check: &mut impl FnMut(&str, bool, &str)) {
        let encrypted = self.tls_files().is_some();
        if !self.i_know && (self.auth_mode == AuthMode::None || !encrypted) {
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
        shown.store_url = without_password(&self.store_url);
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
        default.is_ok_and(|d| d.store_url == self.store_url && d.sealing_key_file == self.sealing_key_file)
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

/// An empty path names no file.
fn named_file(path: &Path) -> Option<&Path> {
    (!path.as_os_str().is_empty()).then_some(path)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// A store's URL as it may be shown.
fn without_password(url: &str) -> String {
    const HIDDEN: &str = "(redacted)";
    if url.starts_with("sqlite:") {
        return url.to_owned();
    }
    let Ok(mut shown) = Url::parse(url) else { return HIDDEN.to_owned() };
    if shown.password().is_some() && shown.set_password(Some("redacted")).is_err() {
        return HIDDEN.to_owned();
    }
    // libpq takes it as a parameter as well.
    if shown.query_pairs().any(|(key, _)| key == "password") {
        let kept: Vec<(String, String)> =
            shown.query_pairs().into_owned().filter(|(key, _)| key != "password").collect();
        shown.query_pairs_mut().clear().extend_pairs(kept).append_pair("password", "redacted");
    }
    shown.into()
}

fn named(error: figment::Error) -> ConfigError {
    ConfigError(
        error
            .into_iter()
            .map(|error| {
                let key = error.path.join(".");
                if key.is_empty() { error.kind.to_string() } else { format!("{key}: {}", error.kind) }
            })
            .collect(),
    )
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

fn static_token(text: &str) -> Result<StaticToken, String> {
    let (principal, sha256) = text.rsplit_once(':').ok_or("must be PRINCIPAL:SHA256")?;
    Ok(StaticToken { principal: principal.into(), sha256: sha256.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(edit: impl FnOnce(&mut Overrides)) -> Result<Config, ConfigError> {
        let mut overrides = Overrides::default();
        edit(&mut overrides);
        Config::load(&overrides)
    }

    #[test]
    fn the_defaults_are_valid_and_print_as_they_are_read() {
        let config = load(|_| {}).expect("defaults");
        assert_eq!(config.drain_grace, Duration::from_secs(25));
        let printed = config.print();
        let again: Config = Figment::from(Toml::string(&printed)).extract().expect("printed config reads back");
        assert_eq!(again.print(), printed);
    }

    #[test]
    fn the_password_of_the_store_is_not_printed() {
        for url in ["postgres://me:hunter2@db/x?sslmode=require", "postgres://me@db/x?password=hunter2&sslmode=require"]
        {
            let printed = load(|o| o.store_url = Some(url.into())).expect("valid").print();
            assert!(!printed.contains("hunter2") && printed.contains("sslmode=require"), "{printed}");
            assert!(printed.contains("me") && printed.contains("@db/x"), "{printed}");
        }
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_the_defaults() {
        let file = tempfile::NamedTempFile::new().expect("temp file");
        std::fs::write(&file, "append_mib = 4\nmax_uploads = 7\n").expect("write");
        let config = load(|o| {
            o.config = Some(file.path().into());
            o.max_uploads = Some(9);
        })
        .expect("valid");
        assert_eq!((config.append_mib, config.max_uploads, config.max_downloads), (4, 9, 512));
    }

    #[test]
    fn a_bad_value_is_refused_by_the_name_of_its_key() {
        let cases: &[(&str, &str)] = &[
            ("data_listen = \"nowhere\"", "data_listen"),
            ("data_listen = \"0.0.0.0:1\"", "data_listen"),
            ("dropbox_api_url = \"http://x\"", "dropbox_api_url"),
            ("append_mib = 6", "append_mib"),
            ("upload_idle = \"soon\"", "upload_idle"),
            ("auth_mode = \"token\"", "auth_tokens"),
            ("auth_mode = \"magic\"", "auth_mode"),
            ("colour = 1", "colour"),
            ("store_url = \"mysql://x\"", "store_url"),
            ("tls_cert_file = \"x\"", "tls_key_file"),
            ("tls_key_file = \"x\"", "tls_cert_file"),
            ("tls_client_ca_file = \"x\"", "tls_client_ca_file"),
            ("auth_mode = \"mtls\"", "tls_client_ca_file"),
            ("auth_mode = \"jwt\"", "jwt_issuer"),
            ("auth_mode = \"jwt\"", "jwt_audiences"),
            ("auth_mode = \"jwt\"", "jwt_jwks_file"),
            ("auth_mode = \"mtls-or-jwt\"", "tls_client_ca_file"),
            ("jwt_jwks_url = \"http://issuer/keys\"", "jwt_jwks_url"),
            ("jwt_jwks_url = \"https://me:secret@issuer/keys\"", "jwt_jwks_url"),
            ("jwt_jwks_url = \"/keys\"", "jwt_jwks_url"),
            ("jwt_jwks_url = \"https://x/y\"\njwt_jwks_file = \"x\"", "jwt_jwks_url"),
            ("jwt_algorithms = [\"HS256\"]", "jwt_algorithms: HMAC"),
            ("jwt_algorithms = [\"none\"]", "jwt_algorithms"),
            ("jwt_algorithms = []", "jwt_algorithms"),
            ("jwt_leeway = \"1h\"", "jwt_leeway"),
            ("jwt_principal_claim = \"\"", "jwt_principal_claim"),
            (
                "data_listen = \"0.0.0.0:1\"\ntls_cert_file = \"x\"\ntls_key_file = \"y\"",
                "data_listen: is not a loopback address and auth_mode is none",
            ),
        ];
        for (text, key) in cases {
            let file = tempfile::NamedTempFile::new().expect("temp file");
            std::fs::write(&file, text).expect("write");
            let error = load(|o| o.config = Some(file.path().into())).expect_err(text).to_string();
            assert!(error.contains(key), "{text}: {error}");
        }
    }

    #[test]
    fn every_key_of_the_defaults_file_can_be_given_as_a_flag() {
        use clap::Args;
        let command = Overrides::augment_args(clap::Command::new("serve"));
        let keys: toml_keys::Keys = toml_keys::of(DEFAULTS);
        for key in keys {
            let flag = key.replace('_', "-");
            let arg = command.get_arguments().find(|a| a.get_long() == Some(flag.as_str()));
            let env = format!("DROPBOX_CONNECTOR_{}", key.to_uppercase());
            assert_eq!(arg.and_then(|a| a.get_env()).and_then(|e| e.to_str()), Some(env.as_str()), "{key}");
        }
    }

    mod toml_keys {
        pub(super) type Keys = Vec<String>;
        pub(super) fn of(text: &str) -> Keys {
            text.lines()
                .filter(|line| !line.starts_with('#'))
                .filter_map(|line| line.split_once(" = ").map(|(key, _)| key.to_owned()))
                .collect()
        }
    }
}
