//! One GET of the issuer's key set. The only request this process makes to anybody but Dropbox: no proxy, no redirect,
//! no credential, a bound on time and size.

use std::{fs, path::Path};

use reqwest::{Certificate, Client, redirect};
use url::Url;

use crate::limits::{KEYS_BYTES_MAX, KEYS_TIMEOUT};

/// # Errors
/// In words that name the url and what is wrong.
pub(super) async fn get(url: &Url, ca: Option<&Path>) -> Result<Vec<u8>, String> {
    let told = |error: reqwest::Error| {
        // The outermost words say little; the innermost tell a name from a port from a certificate.
        let error = error.without_url();
        let mut cause: &dyn std::error::Error = &error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        format!("cannot read {url}: {cause}")
    };
    let client = client(url, ca)?;
    let mut answer = client.get(url.clone()).send().await.map_err(told)?;
    if !answer.status().is_success() {
        return Err(format!("{url} answers {}", answer.status()));
    }
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(told)? {
        body.extend_from_slice(&piece);
        if body.len() > KEYS_BYTES_MAX {
            return Err(format!("{url} answers with more than {KEYS_BYTES_MAX} bytes"));
        }
    }
    Ok(body)
}

/// Made for each request, which is seldom: authorities that change on disk then need no word.
fn client(url: &Url, ca: Option<&Path>) -> Result<Client, String> {
    let builder = Client::builder().timeout(KEYS_TIMEOUT).redirect(redirect::Policy::none()).no_proxy();
    let builder = match ca {
        Some(path) => {
            let told = |error: &dyn std::fmt::Display| format!("jwt_jwks_ca_file: {}: {error}", path.display());
            let pem = fs::read(path).map_err(|error| told(&error))?;
            builder.tls_certs_only(Certificate::from_pem_bundle(&pem).map_err(|error| told(&error))?)
        }
        // Without TLS no authority is needed, and a bare container may have none.
        None if url.scheme() == "http" => builder.tls_certs_only([]),
        None => builder,
    };
    builder.build().map_err(|error| format!("no request can be made to {url}: {error}; are there CA certificates?"))
}
