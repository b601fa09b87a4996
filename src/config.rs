//! One `Config`: compiled-in defaults < file < environment < flags, validated as a whole before a port is bound.
//! `config.default.toml` is both the defaults and the manual; a test holds the two and README together.

mod layers;
mod overrides;
mod span;
mod store_url;
mod urls;
mod validate;

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use url::Url;

use crate::seal::KeySource;
use layers::Layers;
pub use layers::unknown_variables;
pub use overrides::Overrides;
pub use urls::{check_redirect_uri, is_loopback};

/// The defaults file, which is the manual of every key.
pub const DEFAULTS: &str = include_str!("config.default.toml");

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
    #[serde(with = "span")]
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
    #[serde(with = "span")]
    pub jwt_leeway: Duration,
    pub i_know: bool,
    pub transfer_buffer_mib: u64,
    pub max_uploads: usize,
    pub max_downloads: usize,
    pub max_watches: usize,
    #[serde(with = "span")]
    pub max_stream_age: Duration,
    pub max_requests_per_account: usize,
    pub append_mib: u64,
    #[serde(with = "span")]
    pub upload_idle: Duration,
    #[serde(with = "span")]
    pub download_idle: Duration,
    #[serde(with = "span")]
    pub plan_idle: Duration,
    #[serde(with = "span")]
    pub drain_delay: Duration,
    #[serde(with = "span")]
    pub drain_grace: Duration,
    #[serde(with = "span")]
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
        said.hasten_the_emulator();
        let config = said.extract(&mut problems);
        config.validate(&said, &mut problems);
        (config, problems)
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

/// An empty path names no file.
fn named_file(path: &Path) -> Option<&Path> {
    (!path.as_os_str().is_empty()).then_some(path)
}

#[cfg(test)]
mod tests;
