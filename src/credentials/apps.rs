//! Whether a webhook call comes from Dropbox: it is signed with the secret of the app that its address names, the server's own
//! or that of an application parameter. The secrets are gathered when the first call comes, and again when something changed.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use ring::hmac;
use tokio::sync::Mutex;

use super::Resolver;
use crate::{
    fault::{Fault, Reason, Result},
    limits::{PARAMETERS_PAGE_MAX, WEBHOOK_SECRETS_KEPT},
    secret::Secret,
    store::AppSource,
};

/// What the signature of a webhook call says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signed {
    /// No app of this key, or none whose secret is known.
    UnknownApp,
    Wrong,
    Right,
}

/// By app key. An app may have had its secret changed in one parameter and not yet in another: any of them will do.
type Secrets = HashMap<String, Vec<Secret<String>>>;

/// Secrets as of some state of the application parameters.
#[derive(Default)]
pub(super) struct Apps(Mutex<Gathered>);

#[derive(Default)]
struct Gathered {
    known: Option<Known>,
    /// When they could not be read, since they last could.
    failed_at: Option<Instant>,
}

struct Known {
    /// [`Resolver::forgotten`] when they were read.
    forgotten: u64,
    at: Instant,
    secrets: Arc<Secrets>,
}

impl Resolver {
    /// Whether `signature` (lower-case hex of HMAC-SHA256) is that of an app of this key over these bytes. Compares in constant
    /// time.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn check_app_signature(&self, app_key: &str, body: &[u8], signature: &str) -> Result<Signed> {
        let known = self.app_secrets().await?;
        let Some(secrets) = known.get(app_key) else { return Ok(Signed::UnknownApp) };
        let signature = hex::decode(signature).unwrap_or_default();
        let right = secrets.iter().any(|secret| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, secret.reveal().as_bytes());
            hmac::verify(&key, body, &signature).is_ok()
        });
        Ok(if right { Signed::Right } else { Signed::Wrong })
    }

    /// Whether the secret of an app of this key is known.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn knows_app_secret(&self, app_key: &str) -> Result<bool> {
        Ok(self.app_secrets().await?.contains_key(app_key))
    }

    /// One reads them, the others wait for that.
    async fn app_secrets(&self) -> Result<Arc<Secrets>> {
        let mut gathered = self.apps.0.lock().await;
        let forgotten = self.forgotten.load(Ordering::Acquire);
        if let Some(known) = &gathered.known
            // Anybody can ask for any key: what is not known is not looked for each time.
            && (known.forgotten == forgotten || known.at.elapsed() < WEBHOOK_SECRETS_KEPT)
        {
            return Ok(known.secrets.clone());
        }
        if gathered.failed_at.is_some_and(|at| at.elapsed() < WEBHOOK_SECRETS_KEPT) {
            let text = "the apps' secrets could not be read a moment ago";
            return Err(Fault::new(Reason::StoreUnavailable, text).retry_after(WEBHOOK_SECRETS_KEPT));
        }
        match self.read_app_secrets().await {
            Ok(secrets) => {
                let secrets = Arc::new(secrets);
                let known = Known { forgotten, at: Instant::now(), secrets: secrets.clone() };
                *gathered = Gathered { known: Some(known), failed_at: None };
                Ok(secrets)
            }
            Err(fault) => {
                gathered.failed_at = Some(Instant::now());
                Err(fault)
            }
        }
    }

    async fn read_app_secrets(&self) -> Result<Secrets> {
        let mut secrets = Secrets::new();
        if let Some(app) = &self.oauth.shared_app
            && let Some(secret) = &app.secret
        {
            secrets.entry(app.key.clone()).or_default().push(secret.clone());
        }
        let mut after = None;
        loop {
            let page = self.store.list_parameters("", after.as_ref(), PARAMETERS_PAGE_MAX).await?;
            let Some(last) = page.last() else { return Ok(secrets) };
            after = Some(last.id.clone());
            for parameters in page {
                let own = parameters.settings.app_source == AppSource::OwnApp;
                if let Some(secret) = parameters.app_secret.filter(|_| own) {
                    let known = secrets.entry(parameters.settings.app_key).or_default();
                    if !known.iter().any(|known| known.reveal() == secret.reveal()) {
                        known.push(secret);
                    }
                }
            }
        }
    }
}
