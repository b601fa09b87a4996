//! What is wrong with a configuration as a whole, told by the key that has to change. What follows from a key that could not be
//! read is not told.

use std::{net::SocketAddr, path::Path, time::Duration};

use super::{
    AuthMode, Config, Problem,
    layers::Layers,
    store_url,
    urls::{check_redirect_uri, is_loopback, is_origin},
};

/// What signed tokens may be signed with; all are asymmetric.
const JWT_ALGORITHMS: [&str; 9] = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];

/// Both cannot be listened on. Port 0 is a free one each time.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let everywhere = |at: SocketAddr| at.ip().is_unspecified();
    one.port() != 0 && one.port() == other.port() && (one.ip() == other.ip() || everywhere(one) || everywhere(other))
}

impl Config {
    pub(super) fn validate(&self, said: &Layers, problems: &mut Vec<Problem>) {
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
        check("max_watches", (1..=1_000_000).contains(&self.max_watches), "must be 1 to 1000000");
        let ages = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
        check("max_stream_age", ages.contains(&self.max_stream_age), "must be 1s to 24h");
        check("max_downloads", (1..=100_000).contains(&self.max_downloads), "must be 1 to 100000");
        check("max_requests_per_account", (4..=1024).contains(&self.max_requests_per_account), "must be 4 to 1024");
        check("upload_idle", self.upload_idle >= Duration::from_secs(1), "must be at least 1s");
        check("download_idle", self.download_idle >= Duration::from_secs(1), "must be at least 1s");
        check("plan_idle", self.plan_idle >= Duration::from_secs(1), "must be at least 1s");
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
        check("app_secret_file", self.app_secret_file().is_none() || !self.app_key.is_empty(), "needs app_key");
        let public = self.public_http_listen.parse().ok();
        let doors = [
            ("data_listen", Some(self.data_listen)),
            ("admin_listen", Some(self.admin_listen)),
            ("probe_listen", Some(self.probe_listen)),
            ("http_listen", Some(self.http_listen)),
            ("public_http_listen", public),
        ];
        for (index, (key, address)) in doors.iter().enumerate() {
            let taken =
                doors[..index].iter().find(|(_, other)| other.zip(*address).is_some_and(|(a, b)| collide(a, b)));
            if let Some((other, _)) = taken {
                check(key, !read(&[*other]), &format!("is the address of {other}, too: each needs a port of its own"));
            }
        }
        let reachable = !self.webhooks || !self.public_http_listen.is_empty();
        check("webhooks", reachable, "nobody could call: they come in on public_http_listen, so set that");
        let guarded = !self.connect_page || self.i_know || self.http_listen.ip().is_loopback();
        let text = "is not a loopback address and connect_page is on: what proves an administrator would travel in \
                    plaintext; set i_know where TLS ends before it";
        check("http_listen", guarded, text);
        let enterable = !self.connect_page || self.auth_mode != AuthMode::Mtls || !read(&["auth_mode"]);
        let text = "nobody could enter: its port asks for no certificate, and auth_mode mtls takes nothing else; use token, jwt \
                    or mtls-or-jwt, whose token the browser sends as the password";
        check("connect_page", enterable, text);
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
}
