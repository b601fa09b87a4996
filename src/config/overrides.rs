//! What `serve` can be told by flags and by the environment: every key of the configuration, none of them needed.

use std::path::PathBuf;

use serde::Serialize;

/// Flags and environment: the same keys, none of them needed. All are text, so that every bad one can be told and not the
/// first alone.
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
    #[arg(long, env = "DROPBOX_CONNECTOR_REFLECTION", value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reflection: Option<String>,
    /// gRPC-Web on the data port, for browsers.
    #[arg(long, env = "DROPBOX_CONNECTOR_GRPC_WEB", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_web: Option<String>,
    /// Origins of pages that may call by gRPC-Web, comma-separated.
    #[arg(long, env = "DROPBOX_CONNECTOR_GRPC_WEB_ORIGINS", value_name = "LIST")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_web_origins: Option<String>,
    /// Where parameters and upload records are kept: sqlite://PATH or postgres://USER@HOST/DATABASE.
    #[arg(long, env = "DROPBOX_CONNECTOR_STORE_URL", value_name = "URL", hide_env_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store_url: Option<String>,
    /// Bring the store's tables up to date at start.
    #[arg(long, env = "DROPBOX_CONNECTOR_STORE_MIGRATE", value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store_migrate: Option<String>,
    /// Key ring that seals secrets and handles.
    #[arg(long, env = "DROPBOX_CONNECTOR_SEALING_KEY_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sealing_key_file: Option<String>,
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
    pub parameters_file: Option<String>,
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
    #[arg(long, env = "DROPBOX_CONNECTOR_ALLOW_INSECURE_UPSTREAM", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_insecure_upstream: Option<String>,
    /// CA certificates (PEM) trusted beside the machine's: of a proxy that opens TLS.
    #[arg(long, env = "DROPBOX_CONNECTOR_UPSTREAM_CA_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_ca_file: Option<String>,
    /// Run an emulator of Dropbox in this process and use it.
    #[arg(long, env = "DROPBOX_CONNECTOR_EMULATOR", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub emulator: Option<String>,
    /// Key of the Dropbox app of parameters that have none of their own.
    #[arg(long, env = "DROPBOX_CONNECTOR_APP_KEY", value_name = "KEY")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_key: Option<String>,
    /// File with the secret of that app.
    #[arg(long, env = "DROPBOX_CONNECTOR_APP_SECRET_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_secret_file: Option<PathBuf>,
    /// Redirect URIs that authorizations may use, comma-separated.
    #[arg(long, env = "DROPBOX_CONNECTOR_OAUTH_REDIRECT_URIS", value_name = "LIST", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oauth_redirect_uris: Option<Vec<String>>,
    /// Address where browsers from elsewhere reach /oauth/callback and, with webhooks, Dropbox its webhook; nothing else.
    #[arg(long, env = "DROPBOX_CONNECTOR_PUBLIC_HTTP_LISTEN", value_name = "ADDR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_http_listen: Option<String>,
    /// The page /connect on the HTTP side port.
    #[arg(long, env = "DROPBOX_CONNECTOR_CONNECT_PAGE", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_page: Option<String>,
    /// Take Dropbox's webhook calls on the public port.
    #[arg(long, env = "DROPBOX_CONNECTOR_WEBHOOKS", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhooks: Option<String>,
    /// none, token, mtls, jwt or mtls-or-jwt.
    #[arg(long, env = "DROPBOX_CONNECTOR_AUTH_MODE", value_name = "MODE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_mode: Option<String>,
    /// Static tokens as PRINCIPAL:SHA256, comma-separated.
    #[arg(long, env = "DROPBOX_CONNECTOR_AUTH_TOKENS", value_name = "LIST", hide_env_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_tokens: Option<String>,
    /// Principals that may call the admin service, comma-separated.
    #[arg(long, env = "DROPBOX_CONNECTOR_ADMIN_PRINCIPALS", value_name = "LIST")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_principals: Option<String>,
    /// Certificate chain (PEM) of the data and admin listeners.
    #[arg(long, env = "DROPBOX_CONNECTOR_TLS_CERT_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_cert_file: Option<String>,
    /// Private key (PEM) of that certificate.
    #[arg(long, env = "DROPBOX_CONNECTOR_TLS_KEY_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key_file: Option<String>,
    /// Authorities (PEM) that client certificates must come from.
    #[arg(long, env = "DROPBOX_CONNECTOR_TLS_CLIENT_CA_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_client_ca_file: Option<String>,
    /// Issuer (iss) of signed tokens.
    #[arg(long, env = "DROPBOX_CONNECTOR_JWT_ISSUER", value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt_issuer: Option<String>,
    /// Audiences (aud) that signed tokens may be for, comma-separated.
    #[arg(long, env = "DROPBOX_CONNECTOR_JWT_AUDIENCES", value_name = "LIST")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt_audiences: Option<String>,
    /// The issuer's keys (JWKS) as a file.
    #[arg(long, env = "DROPBOX_CONNECTOR_JWT_JWKS_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt_jwks_file: Option<String>,
    /// The issuer's keys (JWKS) as a url.
    #[arg(long, env = "DROPBOX_CONNECTOR_JWT_JWKS_URL", value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt_jwks_url: Option<String>,
    /// Authorities (PEM) for that url instead of the system's.
    #[arg(long, env = "DROPBOX_CONNECTOR_JWT_JWKS_CA_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt_jwks_ca_file: Option<String>,
    /// Algorithms that signed tokens may use, comma-separated.
    #[arg(long, env = "DROPBOX_CONNECTOR_JWT_ALGORITHMS", value_name = "LIST")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt_algorithms: Option<String>,
    /// The claim that names the principal.
    #[arg(long, env = "DROPBOX_CONNECTOR_JWT_PRINCIPAL_CLAIM", value_name = "CLAIM")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt_principal_claim: Option<String>,
    /// By how much clocks may differ.
    #[arg(long, env = "DROPBOX_CONNECTOR_JWT_LEEWAY", value_name = "SPAN")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt_leeway: Option<String>,
    /// Listening beyond loopback without authentication is meant.
    #[arg(long, env = "DROPBOX_CONNECTOR_I_KNOW", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub i_know: Option<String>,
    /// Process-wide transfer buffer, in MiB.
    #[arg(long, env = "DROPBOX_CONNECTOR_TRANSFER_BUFFER_MIB", value_name = "MIB")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transfer_buffer_mib: Option<String>,
    /// Uploads open at once.
    #[arg(long, env = "DROPBOX_CONNECTOR_MAX_UPLOADS", value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_uploads: Option<String>,
    /// Downloads open at once.
    #[arg(long, env = "DROPBOX_CONNECTOR_MAX_DOWNLOADS", value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_downloads: Option<String>,
    /// Watches open at once.
    #[arg(long, env = "DROPBOX_CONNECTOR_MAX_WATCHES", value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_watches: Option<String>,
    /// Age at which a watch ends, to be taken up again.
    #[arg(long, env = "DROPBOX_CONNECTOR_MAX_STREAM_AGE", value_name = "SPAN")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_stream_age: Option<String>,
    /// Requests to Dropbox in flight for one account.
    #[arg(long, env = "DROPBOX_CONNECTOR_MAX_REQUESTS_PER_ACCOUNT", value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_requests_per_account: Option<String>,
    /// Bytes of one append to an upload session, in MiB.
    #[arg(long, env = "DROPBOX_CONNECTOR_APPEND_MIB", value_name = "MIB")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub append_mib: Option<String>,
    /// Silence after which an upload stream ends, resumable.
    #[arg(long, env = "DROPBOX_CONNECTOR_UPLOAD_IDLE", value_name = "SPAN")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upload_idle: Option<String>,
    /// Time without reading after which a download's connection to Dropbox goes to others.
    #[arg(long, env = "DROPBOX_CONNECTOR_DOWNLOAD_IDLE", value_name = "SPAN")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub download_idle: Option<String>,
    /// Time without sending or reading after which a PlanSync ends.
    #[arg(long, env = "DROPBOX_CONNECTOR_PLAN_IDLE", value_name = "SPAN")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan_idle: Option<String>,
    /// Time between "not ready" and refusing new calls, in which load balancers hear of it; with --emulator none.
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
