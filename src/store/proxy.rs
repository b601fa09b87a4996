//! The proxy of an application parameter as an administrator sets it. Its password is a sealed column of its own.

use serde::{Deserialize, Serialize};

use super::{AppSecret, SecretChange, Settings};
use crate::{
    fault::{Fault, Result},
    secret::Secret,
};

/// The names are those of the proto.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProxySettings {
    pub proxy_kind: ProxyKind,
    /// A name or an address, without a scheme.
    pub address: String,
    pub port: u16,
    /// Goes before the user name, with a backslash between.
    pub domain: String,
    pub username: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ProxyKind {
    #[default]
    None,
    /// As the environment of the server says.
    System,
    Http,
    Https,
    Socks4,
    Socks5,
}

/// What an administrator brings with a new application parameter, not to be seen again.
#[derive(Debug, Default)]
pub struct Secrets {
    /// None: PKCE only.
    pub app_secret: AppSecret,
    pub proxy_password: Option<Secret<String>>,
}

impl From<AppSecret> for Secrets {
    fn from(app_secret: AppSecret) -> Secrets {
        Secrets { app_secret, proxy_password: None }
    }
}

/// What an update does with them.
#[derive(Debug)]
pub struct SecretChanges {
    pub app_secret: SecretChange,
    pub proxy_password: SecretChange,
}

impl From<SecretChange> for SecretChanges {
    fn from(app_secret: SecretChange) -> SecretChanges {
        SecretChanges { app_secret, proxy_password: SecretChange::Keep }
    }
}

const NAME_BYTES_MAX: usize = 253;
/// SOCKS5 counts them in one byte; no HTTP proxy takes more than a header's worth.
const SOCKS_LOGIN_BYTES_MAX: usize = 255;
const LOGIN_BYTES_MAX: usize = 1024;

impl ProxySettings {
    /// What the proxy is told; empty for none.
    pub fn user(&self) -> String {
        if self.domain.is_empty() { self.username.clone() } else { format!("{}\\{}", self.domain, self.username) }
    }

    /// A password that is kept was given for the place it goes to, and for no other.
    ///
    /// # Errors
    /// `INVALID_FIELD` naming the password.
    pub(super) fn check_same_place(&self, former: &ProxySettings) -> Result<()> {
        let place = |one: &ProxySettings| (one.proxy_kind, one.address.to_ascii_lowercase(), one.port);
        if place(self) == place(former) {
            return Ok(());
        }
        Err(Fault::field(
            "application_parameter.proxy.password",
            "REQUIRED",
            "the password that is kept was given for another kind, address or port: name proxy.password in the mask and \
             say it again, or leave it empty to clear it",
        ))
    }

    /// Says every violation: field below `proxy.`, reason, text.
    pub(super) fn check(&self, mut say: impl FnMut(&str, &'static str, &str)) {
        let ProxySettings { proxy_kind, address, port, domain, username } = self;
        let used = !address.is_empty() || *port != 0 || !domain.is_empty() || !username.is_empty();
        if matches!(proxy_kind, ProxyKind::None | ProxyKind::System) {
            if used {
                let text = "says which proxy, so set the others only with HTTP, HTTPS, SOCKS4 or SOCKS5";
                say("proxy.proxy_kind", "CONFLICT", text);
            }
            return;
        }
        let bare = address.trim_start_matches('[').trim_end_matches(']');
        let is_host = address.len() <= NAME_BYTES_MAX
            && (bare.parse::<std::net::IpAddr>().is_ok()
                || !address.is_empty()
                    && address.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_'))
                    && !address.split('.').any(str::is_empty));
        if address.is_empty() {
            say("proxy.address", "REQUIRED", "the name or address of the proxy");
        } else if !is_host {
            let text = "a name or an address alone, as in proxy.example.com; kind and port have fields of their own";
            say("proxy.address", "MALFORMED", text);
        }
        if *port == 0 {
            say("proxy.port", "REQUIRED", "1 to 65535");
        }
        if username.is_empty() && !domain.is_empty() {
            say("proxy.username", "REQUIRED", "a domain goes with a user name");
        }
        let most = if *proxy_kind == ProxyKind::Socks5 { SOCKS_LOGIN_BYTES_MAX } else { LOGIN_BYTES_MAX };
        if self.user().len() > most {
            say("proxy.username", "OUT_OF_RANGE", "at most 255 bytes for SOCKS5 and 1 KiB for HTTP, with the domain");
        }
        for (field, text) in [("proxy.domain", domain), ("proxy.username", username)] {
            if text.chars().any(char::is_control) {
                say(field, "MALFORMED", "without control characters");
            }
            let http = matches!(proxy_kind, ProxyKind::Http | ProxyKind::Https);
            if http && text.contains(':') {
                say(field, "MALFORMED", "basic authentication ends the user name at a colon, so it may not hold one");
            }
        }
        if *proxy_kind == ProxyKind::Socks4 && !username.is_empty() {
            say("proxy.username", "NOT_ALLOWED", "SOCKS4 knows no password; use SOCKS5, or leave the user out");
        }
    }
}

impl Settings {
    /// # Errors
    /// `INVALID_FIELD` naming the password: one without a user, or one the proxy's protocol cannot carry.
    pub(super) fn check_proxy_password(&self, password: Option<&Secret<String>>) -> Result<()> {
        let Some(password) = password else { return Ok(()) };
        let refuse = |reason, text: &str| Err(Fault::field("application_parameter.proxy.password", reason, text));
        let (length, socks) = (password.reveal().len(), self.proxy.proxy_kind == ProxyKind::Socks5);
        if self.proxy.username.is_empty() {
            return refuse(
                "CONFLICT",
                "a password goes with a user name; name proxy.password in the mask to remove it",
            );
        }
        if length > if socks { SOCKS_LOGIN_BYTES_MAX } else { LOGIN_BYTES_MAX } {
            return refuse("OUT_OF_RANGE", "at most 255 bytes for SOCKS5 and 1 KiB for HTTP");
        }
        if password.reveal().chars().any(char::is_control) {
            return refuse("MALFORMED", "without control characters");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(proxy: ProxySettings) -> Vec<String> {
        let mut fields = Vec::new();
        proxy.check(|field, _, _| fields.push(field.to_owned()));
        fields
    }

    fn http(address: &str, port: u16) -> ProxySettings {
        ProxySettings { proxy_kind: ProxyKind::Http, address: address.into(), port, ..ProxySettings::default() }
    }

    #[test]
    fn a_proxy_is_a_kind_an_address_and_a_port() {
        for good in ["proxy", "proxy.example.com", "10.0.0.1", "::1", "[2001:db8::1]", "a_b-c.d"] {
            assert!(wrong(http(good, 3128)).is_empty(), "{good}");
        }
        for bad in ["http://proxy", "proxy:3128", "user@proxy", "a b", "a..b", "a/b", &"x".repeat(254)] {
            assert_eq!(wrong(http(bad, 3128)), ["proxy.address"], "{bad}");
        }
        assert_eq!(wrong(http("", 0)), ["proxy.address", "proxy.port"]);
        assert!(wrong(ProxySettings::default()).is_empty());
        let forgotten = ProxySettings { proxy_kind: ProxyKind::None, ..http("proxy", 3128) };
        assert_eq!(wrong(forgotten), ["proxy.proxy_kind"], "an address without a kind would go straight");
    }

    #[test]
    fn a_user_is_one_the_protocol_can_carry() {
        let user = |kind, domain: &str, user: &str| {
            let (domain, username) = (domain.into(), user.into());
            wrong(ProxySettings { proxy_kind: kind, domain, username, ..http("proxy", 1) })
        };
        assert!(user(ProxyKind::Http, "CORP", "me@corp").is_empty());
        assert_eq!(user(ProxyKind::Http, "", "a:b"), ["proxy.username"]);
        assert!(user(ProxyKind::Socks5, "", "a:b").is_empty());
        assert_eq!(user(ProxyKind::Socks4, "", "me"), ["proxy.username"]);
        assert_eq!(user(ProxyKind::Socks5, "", &"x".repeat(256)), ["proxy.username"]);
        assert_eq!(user(ProxyKind::Http, "CORP", ""), ["proxy.username"]);
        assert_eq!(user(ProxyKind::Http, "", "a\r\nb"), ["proxy.username"]);
    }
}
