//! The HTTP clients, one pool per kind of host, shared by every caller of the process.

use std::sync::Arc;

use reqwest::{Client, ClientBuilder, redirect};
use url::Url;

use super::{Endpoints, Facts, Host, pace::Pace};
use crate::{
    clock::SharedClock,
    fault::{Fault, Reason, Result},
    limits,
};

/// The connections to Dropbox and the queues of its accounts.
#[derive(Debug)]
pub struct Transport {
    pub(super) api: Client,
    /// HTTP/1.1 only: parallel appends must not share one connection's window.
    pub(super) content: Client,
    pub(super) endpoints: Endpoints,
    pub(super) clock: SharedClock,
    pub(super) pace: Pace,
}

impl Transport {
    /// # Errors
    /// `INVALID_FIELD` for an endpoint that is not http(s), or not https without `allow_insecure`; `CONNECTOR_BUG` when
    /// TLS cannot be set up.
    pub fn new(endpoints: Endpoints, allow_insecure: bool, clock: SharedClock) -> Result<Arc<Transport>> {
        let bases = [&endpoints.api, &endpoints.content, &endpoints.notify, &endpoints.oauth];
        for base in bases {
            let fit = base.scheme() == "https" || (base.scheme() == "http" && allow_insecure);
            if !fit || base.cannot_be_a_base() || base.query().is_some() {
                let text = "must be an https url without a query; http needs allow-insecure-upstream";
                return Err(Fault::field("endpoint", "MALFORMED", text));
            }
        }
        // The first installation wins; every room would install the same provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let tls = bases.iter().any(|base| base.scheme() == "https");
        Ok(Arc::new(Transport {
            api: build(Client::builder(), tls)?,
            content: build(Client::builder().http1_only(), tls)?,
            endpoints,
            pace: Pace::new(clock.clone()),
            clock,
        }))
    }

    /// Requests in flight for one account, three quarters of them with bodies. To be said before the first call.
    pub fn limit_requests(&self, max: usize) {
        self.pace.limit_requests(max);
    }

    pub(super) fn client(&self, facts: &Facts) -> &Client {
        match facts.host {
            Host::Content => &self.content,
            Host::Api | Host::Notify => &self.api,
        }
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

fn build(builder: ClientBuilder, tls: bool) -> Result<Client> {
    let builder = builder
        .tcp_nodelay(true)
        .redirect(redirect::Policy::none())
        .referer(false)
        .no_proxy()
        .retry(reqwest::retry::never())
        .pool_max_idle_per_host(limits::IDLE_CONNECTIONS_MAX)
        .user_agent(concat!("dropbox-connector/", env!("CARGO_PKG_VERSION")));
    // Without a TLS endpoint no certificate store is needed, and a bare container may have none.
    let builder = if tls { builder } else { builder.tls_certs_only([]) };
    builder.build().map_err(|error| {
        Fault::new(Reason::ConnectorBug, "the HTTP client could not be set up; are there CA certificates?")
            .source(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

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
