//! Addresses in settings: what may be a redirect URI, an origin, this machine.

use url::Url;

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
pub(super) fn is_origin(text: &str) -> bool {
    let Ok(url) = Url::parse(text) else { return false };
    matches!(url.scheme(), "http" | "https") && url.origin().ascii_serialization() == text
}
