//! `parameters network`, and the same flags of `create`: the proxy of an application parameter and its patience.

use std::path::{Path, PathBuf};

use url::Url;

use super::exit::{Failure, Result};
use crate::api::v1::{Proxy, ProxyKind, Timeouts};

#[derive(Debug, Clone, Default, clap::Args)]
pub struct NetworkArgs {
    /// Proxy: http://HOST:PORT, https://…, socks4://…, socks5://…, `system` (as the server's environment says) or `none`.
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
    /// User of the proxy.
    #[arg(long, default_value = "", value_name = "NAME", requires = "proxy")]
    proxy_user: String,
    /// Windows domain of that user.
    #[arg(long, default_value = "", value_name = "DOMAIN", requires = "proxy_user")]
    proxy_domain: String,
    /// File with the proxy's password; `-` is standard input. Or the variable DROPBOX_CONNECTOR_PROXY_PASSWORD.
    #[arg(long, value_name = "FILE", requires = "proxy_user")]
    proxy_password_file: Option<PathBuf>,
    /// Time to connect, as in 5s. Default 10s.
    #[arg(long, value_name = "SPAN", value_parser = span)]
    connect_timeout: Option<prost_types::Duration>,
    /// Time from the end of a request to the head of its answer. Default 60s.
    #[arg(long, value_name = "SPAN", value_parser = span)]
    request_timeout: Option<prost_types::Duration>,
    /// Time between two pieces of an answer. Default 60s.
    #[arg(long, value_name = "SPAN", value_parser = span)]
    idle_read_timeout: Option<prost_types::Duration>,
}

/// Read from the environment, since an argument would stand in every list of processes.
pub const PASSWORD: &str = "DROPBOX_CONNECTOR_PROXY_PASSWORD";

impl NetworkArgs {
    /// The proxy, and the fields of a mask that a change needs.
    pub fn read(&self, secret: impl Fn(&Path) -> Result<String>) -> Result<(Option<Proxy>, Timeouts, Vec<String>)> {
        let mut mask = Vec::new();
        let proxy = match self.proxy.as_deref() {
            None => None,
            Some(text) => {
                mask.push("proxy".to_owned());
                let mut proxy = parse(text)?;
                proxy.domain.clone_from(&self.proxy_domain);
                proxy.username.clone_from(&self.proxy_user);
                if !self.proxy_user.is_empty() {
                    proxy.password = match &self.proxy_password_file {
                        Some(file) => secret(file)?,
                        None => std::env::var(PASSWORD).unwrap_or_default(),
                    };
                }
                Some(proxy)
            }
        };
        let timeouts = Timeouts {
            connect: self.connect_timeout,
            request: self.request_timeout,
            idle_read: self.idle_read_timeout,
        };
        for (name, set) in [
            ("connect", timeouts.connect.is_some()),
            ("request", timeouts.request.is_some()),
            ("idle_read", timeouts.idle_read.is_some()),
        ] {
            if set {
                mask.push(format!("timeouts.{name}"));
            }
        }
        Ok((proxy, timeouts, mask))
    }
}

fn parse(text: &str) -> Result<Proxy> {
    let kind = |kind: ProxyKind| Proxy { proxy_kind: kind.into(), ..Default::default() };
    match text {
        "none" => return Ok(kind(ProxyKind::None)),
        "system" => return Ok(kind(ProxyKind::System)),
        _ => {}
    }
    let wrong = || Failure::usage(format!("{text}: write the proxy as in http://proxy.example:3128"));
    let url: Url = text.parse().map_err(|_| wrong())?;
    let (proxy, default) = match url.scheme() {
        "http" => (kind(ProxyKind::Http), 80),
        "https" => (kind(ProxyKind::Https), 443),
        "socks4" | "socks4a" => (kind(ProxyKind::Socks4), 1080),
        "socks5" | "socks5h" => (kind(ProxyKind::Socks5), 1080),
        _ => return Err(wrong()),
    };
    if !url.username().is_empty() || url.password().is_some() {
        let text = "the user goes into --proxy-user and the password into --proxy-password-file, not into the url";
        return Err(Failure::usage(text));
    }
    let address = url.host_str().ok_or_else(wrong)?.trim_matches(['[', ']']).to_owned();
    Ok(Proxy { address, port: url.port().unwrap_or(default).into(), ..proxy })
}

fn span(text: &str) -> Result<prost_types::Duration, String> {
    let span: jiff::SignedDuration = text.parse().map_err(|_| "write a time span as 500ms, 5s or 1m".to_owned())?;
    Ok(prost_types::Duration { seconds: span.as_secs(), nanos: span.subsec_nanos() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_written_as_a_url_without_its_credentials() {
        for (text, kind, address, port) in [
            ("http://proxy.example:3128", ProxyKind::Http, "proxy.example", 3128),
            ("https://proxy.example", ProxyKind::Https, "proxy.example", 443),
            ("socks5://[::1]:1081", ProxyKind::Socks5, "::1", 1081),
            ("socks4://10.0.0.1", ProxyKind::Socks4, "10.0.0.1", 1080),
        ] {
            let proxy = parse(text).expect(text);
            assert_eq!((proxy.proxy_kind(), proxy.address.as_str(), proxy.port), (kind, address, port));
        }
        assert_eq!(parse("system").expect("a word").proxy_kind(), ProxyKind::System);
        for wrong in ["", "proxy:3128", "ftp://proxy", "http://", "http://me:hush@proxy:1"] {
            let failure = parse(wrong).expect_err(wrong);
            assert!(!failure.to_string().contains("hush"), "{failure}");
        }
        assert_eq!(span("1m").expect("a span").seconds, 60);
        assert!(span("soon").is_err());
    }
}
