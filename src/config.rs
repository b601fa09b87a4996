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

use crate::seal::KeySource;

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
    pub store_url: String,
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
    pub auth_mode: AuthMode,
    pub auth_tokens: Vec<StaticToken>,
    pub admin_principals: Vec<String>,
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
#[serde(rename_all = "lowercase")]
pub enum AuthMode {
    None,
    Token,
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
    /// Where parameters and upload records are kept.
    #[arg(long, env = "DROPBOX_CONNECTOR_STORE_URL", value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store_url: Option<String>,
    /// Key ring that seals secrets and handles.
    #[arg(long, env = "DROPBOX_CONNECTOR_SEALING_KEY_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sealing_key_file: Option<PathBuf>,
    /// Name of an environment variable that holds the key ring, instead of a file.
    #[arg(long, env = "DROPBOX_CONNECTOR_SEALING_KEY_ENV", value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sealing_key_env: Option<String>,
    /// Command that prints the key ring, instead of a file. No shell runs it.
    #[arg(long, env = "DROPBOX_CONNECTOR_SEALING_KEY_COMMAND", value_name = "COMMAND")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sealing_key_command: Option<String>,
    /// Time that command may take.
    #[arg(long, env = "DROPBOX_CONNECTOR_SEALING_KEY_COMMAND_TIMEOUT", value_name = "SPAN")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sealing_key_command_timeout: Option<String>,
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
    /// CA certificates (PEM) trusted beside the machine's: of a proxy that opens TLS.
    #[arg(long, env = "DROPBOX_CONNECTOR_UPSTREAM_CA_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_ca_file: Option<PathBuf>,
    /// Run an emulator of Dropbox in this process and use it.
    #[arg(long, env = "DROPBOX_CONNECTOR_EMULATOR", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL", value_parser = clap::builder::BoolishValueParser::new())]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub emulator: Option<bool>,
    /// none or token.
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
        if !self.i_know {
            let text = match self.auth_mode {
                AuthMode::None => {
                    "is not a loopback address and auth_mode is none: everybody could call; set auth_mode, or i_know"
                }
                AuthMode::Token => {
                    "is not a loopback address: tokens would travel in plaintext; set i_know where TLS ends before it"
                }
            };
            for (key, address) in [("data_listen", self.data_listen), ("admin_listen", self.admin_listen)] {
                check(key, address.ip().is_loopback(), text);
            }
        }
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
        check("store_url", self.store_url.starts_with("sqlite:"), "must begin with sqlite:");
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
        check("max_requests_per_account", (4..=1024).contains(&self.max_requests_per_account), "must be 4 to 1024");
        check("upload_idle", self.upload_idle >= Duration::from_secs(1), "must be at least 1s");
        check("connection_age", self.connection_age >= Duration::from_secs(1), "must be at least 1s");
        check("drain_delay", self.drain_delay <= Duration::from_secs(600), "must be at most 10m");
        check("drain_grace", self.drain_grace <= Duration::from_secs(3600), "must be at most 1h");
        check(
            "auth_tokens",
            self.auth_mode != AuthMode::Token || !self.auth_tokens.is_empty(),
            "auth_mode is token but there is no token",
        );
        let filter = tracing_subscriber::EnvFilter::try_new(&self.log_level);
        check("log_level", filter.is_ok(), "not a log filter, as in info or dropbox_connector=debug,warn");
        for token in &self.auth_tokens {
            let hex = token.sha256.len() == 64
                && token.sha256.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            check(
                "auth_tokens",
                hex && !token.principal.is_empty(),
                "needs a principal and 64 lower-case hex digits of SHA-256",
            );
        }
        if wrong.is_empty() { Ok(()) } else { Err(ConfigError(wrong)) }
    }

    /// What holds, as TOML. Token hashes are not secrets, yet they stay out of terminals.
    pub fn print(&self) -> String {
        let mut shown = self.clone();
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

    pub fn parameters_file(&self) -> Option<&Path> {
        (!self.parameters_file.as_os_str().is_empty()).then_some(&*self.parameters_file)
    }
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
            ("sealing_key_command = \"sh -c 'x\"", "sealing_key_command"),
            ("sealing_key_command = \"x\"\nsealing_key_env = \"X\"", "sealing_key_command"),
            ("sealing_key_command_timeout = \"2m\"", "sealing_key_command_timeout"),
        ];
        for (text, key) in cases {
            let file = tempfile::NamedTempFile::new().expect("temp file");
            std::fs::write(&file, text).expect("write");
            let error = load(|o| o.config = Some(file.path().into())).expect_err(text).to_string();
            assert!(error.contains(key), "{text}: {error}");
        }
    }

    #[test]
    fn a_command_is_split_as_a_shell_would_and_run_by_none() {
        let source =
            |command: &str| load(|o| o.sealing_key_command = Some(command.into())).expect("valid").key_source();
        let KeySource::Command { words, timeout } = source("vault kv get -field='a b' secret/x; $(id)") else {
            panic!("a command");
        };
        assert_eq!(words, ["vault", "kv", "get", "-field=a b", "secret/x;", "$(id)"]);
        assert_eq!(timeout, Duration::from_secs(10));
        assert_eq!(source(""), KeySource::File("dropbox-connector.keys".into()));
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
