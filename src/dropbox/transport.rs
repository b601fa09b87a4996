//! The connections to Dropbox as one application parameter sees them: its way out and its patience, over what the whole
//! process shares: the HTTP clients, the base URLs, the queues of the accounts.

use std::sync::Arc;

use http::{
    HeaderMap, StatusCode,
    header::{PROXY_AUTHENTICATE, WWW_AUTHENTICATE},
};
use reqwest::Client;
use rustls::pki_types::CertificateDer;
use url::Url;

use super::{
    Egress, Endpoints, Facts, Host, Timeouts,
    egress::{self, Pool},
    pace::Pace,
};
use crate::{
    clock::SharedClock,
    fault::{Fault, Result},
};

/// The connections to Dropbox and the queues of its accounts.
#[derive(Debug)]
pub struct Transport {
    pool: Arc<Pool>,
    egress: Egress,
    /// Of calls that no `Caller` makes.
    pub(super) timeouts: Timeouts,
    pub(super) endpoints: Arc<Endpoints>,
    pub(super) clock: SharedClock,
    pub(super) pace: Arc<Pace>,
}

impl Transport {
    /// Straight to the endpoints, trusting the machine's certificates.
    ///
    /// # Errors
    /// As [`Transport::trusting`].
    pub fn new(endpoints: Endpoints, allow_insecure: bool, clock: SharedClock) -> Result<Arc<Transport>> {
        Transport::trusting(Vec::new(), endpoints, allow_insecure, clock)
    }

    /// The same, trusting `roots` beside the machine's certificates.
    ///
    /// # Errors
    /// `INVALID_FIELD` for an endpoint that is not http(s), or not https without `allow_insecure`; `CONNECTOR_BUG` when
    /// TLS cannot be set up.
    pub fn trusting(
        roots: Vec<CertificateDer<'static>>,
        endpoints: Endpoints,
        allow_insecure: bool,
        clock: SharedClock,
    ) -> Result<Arc<Transport>> {
        let bases = [&endpoints.api, &endpoints.content, &endpoints.notify, &endpoints.oauth];
        for base in bases {
            let fit = base.scheme() == "https" || (base.scheme() == "http" && allow_insecure);
            if !fit || base.cannot_be_a_base() || base.query().is_some() {
                let text = "must be an https url without a query; http needs allow-insecure-upstream";
                return Err(Fault::field("endpoint", "MALFORMED", text));
            }
        }
        let secure = bases.iter().any(|base| base.scheme() == "https");
        Ok(Arc::new(Transport {
            pool: Arc::new(Pool::new(secure, roots)?),
            egress: Egress::Direct,
            timeouts: Timeouts::default(),
            endpoints: Arc::new(endpoints),
            pace: Arc::new(Pace::new(clock.clone())),
            clock,
        }))
    }

    /// The same connections by another way out, with other patience where no `Caller` has its own.
    #[must_use]
    pub fn through(&self, egress: Egress, timeouts: Timeouts) -> Arc<Transport> {
        Arc::new(Transport {
            pool: self.pool.clone(),
            egress,
            timeouts,
            endpoints: self.endpoints.clone(),
            clock: self.clock.clone(),
            pace: self.pace.clone(),
        })
    }

    /// Requests in flight for one account, three quarters of them with bodies. To be said before the first call.
    pub fn limit_requests(&self, max: usize) {
        self.pace.limit_requests(max);
    }

    /// The proxy on the way to the API host as it may be shown; none: straight.
    pub fn proxy(&self) -> Option<String> {
        self.egress.hop(&self.endpoints.api).map(|hop| hop.to_string())
    }

    pub(super) fn client(&self, host: Host) -> Result<Client> {
        Ok(self.pool.clients(&self.egress)?.of(host).clone())
    }

    /// Why the proxy, if there is one, let no connection through to `target`. A request that broke off after it left was
    /// refused by the proxy only where plain http is forwarded, and only for want of credentials: some close before their
    /// answer can be read.
    pub(super) async fn blame(&self, target: &Url, error: &reqwest::Error) -> Option<Fault> {
        let hop = self.egress.hop(target)?;
        if !error.is_connect() && target.scheme() == "https" {
            return None;
        }
        let fault = egress::ask(&hop, target, self.pool.tls().ok()).await?;
        tracing::debug!(proxy = %hop, %fault, "no connection through the proxy");
        (error.is_connect() || fault.retry_delay().is_none()).then_some(fault)
    }

    /// What the proxy wants, if it was the proxy that answered. Without one of ours somebody else on the way asks.
    pub(super) fn challenged(&self, target: &Url, status: StatusCode, headers: &HeaderMap) -> Option<Fault> {
        let name = match status {
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => PROXY_AUTHENTICATE,
            // Tinyproxy says so to a wrong password. Dropbox never asks for basic authentication.
            StatusCode::UNAUTHORIZED if target.scheme() == "http" => WWW_AUTHENTICATE,
            _ => return None,
        };
        let offered: Vec<&str> = headers.get_all(&name).iter().filter_map(|value| value.to_str().ok()).collect();
        if name == WWW_AUTHENTICATE && !offered.iter().any(|offer| offer.starts_with("Basic")) {
            return None;
        }
        let hop = self.egress.hop(target)?;
        Some(egress::challenged(&hop, offered.into_iter()))
    }

    pub(super) fn url(&self, facts: &Facts) -> Result<Url> {
        let base = match facts.host {
            Host::Api => &self.endpoints.api,
            Host::Content => &self.endpoints.content,
            Host::Notify => &self.endpoints.notify,
        };
        join(base, &format!("2/{}", facts.path))
    }
}

/// `base` and a path below it, whether or not the base ends in a slash.
pub(super) fn join(base: &Url, path: &str) -> Result<Url> {
    Url::parse(&format!("{}/{path}", base.as_str().trim_end_matches('/')))
        .map_err(|error| Fault::bug("a route does not make a url").source(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::SystemClock, fault::Reason};

    fn endpoints(api: &str) -> Endpoints {
        Endpoints { api: Url::parse(api).expect("a url"), ..Endpoints::dropbox() }
    }

    #[test]
    fn an_insecure_endpoint_needs_leave() {
        let new = |api, allow| Transport::new(endpoints(api), allow, Arc::new(SystemClock)).map(drop);
        assert_eq!(new("http://127.0.0.1:1", false).expect_err("refused").reason(), Reason::InvalidField);
        assert_eq!(new("file:///tmp", true).expect_err("refused").reason(), Reason::InvalidField);
        new("http://127.0.0.1:1", true).expect("allowed");
    }

    #[test]
    fn urls_are_joined_with_and_without_a_slash() {
        for base in ["http://h:1", "http://h:1/"] {
            let url = join(&Url::parse(base).expect("a url"), "2/files/upload").expect("joins");
            assert_eq!(url.as_str(), "http://h:1/2/files/upload");
        }
        let url = join(&Url::parse("http://h:1/pre/").expect("a url"), "2/a/b").expect("joins");
        assert_eq!(url.as_str(), "http://h:1/pre/2/a/b");
    }
}
