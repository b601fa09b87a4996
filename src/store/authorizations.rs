//! Authorizations under way, each under the digest of its `state`: sealed, bound to their row, and gone with the first look
//! at them, so that a state works once in the whole fleet. Also what ends a grant.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{ParameterId, Parameters, Store, database::query, millis};
use crate::{
    fault::{Fault, Reason, Result},
    limits::{AUTHORIZATIONS_MAX, BUSY_RETRY},
    secret::Secret,
};

/// What an authorization was begun with.
#[derive(Debug, Clone)]
pub struct Authorization {
    pub parameter_id: ParameterId,
    /// Of the parameter: one that was deleted and made again is another.
    pub uid: String,
    /// The app that asks; its code is of no use to another.
    pub app_key: String,
    /// Of PKCE.
    pub verifier: Secret<String>,
    /// None: Dropbox shows the code to the user.
    pub redirect_uri: Option<String>,
    /// As they were asked for; empty: all the app has.
    pub scopes: Vec<String>,
    pub principal: String,
    /// Digest of the cookie of the browser that began it; None if a program began it.
    pub browser: Option<String>,
    pub allow_account_change: bool,
}

#[derive(Serialize, Deserialize)]
struct Column {
    parameter_id: String,
    uid: String,
    app_key: String,
    verifier: String,
    redirect_uri: Option<String>,
    scopes: Vec<String>,
    principal: String,
    browser: Option<String>,
    allow_account_change: bool,
}

fn digest(state: &str) -> String {
    hex::encode(Sha256::digest(state))
}

impl Store {
    /// Keeps it until it is taken or expires.
    ///
    /// # Errors
    /// `CONNECTOR_BUSY` when too many are under way; `READ_ONLY_STORE`, `STORE_UNAVAILABLE`.
    pub async fn keep_authorization(
        &self,
        state: &str,
        authorization: &Authorization,
        expires_at: SystemTime,
    ) -> Result<()> {
        self.require_writable()?;
        let Authorization { parameter_id, uid, app_key, verifier, redirect_uri, .. } = authorization;
        let mut column = Column {
            parameter_id: parameter_id.as_str().to_owned(),
            uid: uid.clone(),
            app_key: app_key.clone(),
            verifier: verifier.reveal().clone(),
            redirect_uri: redirect_uri.clone(),
            scopes: authorization.scopes.clone(),
            principal: authorization.principal.clone(),
            browser: authorization.browser.clone(),
            allow_account_change: authorization.allow_account_change,
        };
        let plain = serde_json::to_vec(&column).map(Zeroizing::new);
        drop(Zeroizing::new(std::mem::take(&mut column.verifier)));
        let plain = plain.map_err(|error| Fault::bug("an authorization could not be written").source(error))?;
        let digest = digest(state);
        let sealed = self.0.keys.seal("authorization", &[digest.as_bytes()], &plain);
        let mut tx = self.0.pools.durable.begin().await?;
        query("DELETE FROM authorizations WHERE expires_at <= $1").bind(self.now_millis()).execute(&mut tx).await?;
        let open = query("SELECT COUNT(*) AS open FROM authorizations").fetch_one(&mut tx).await?;
        if open.get::<i64>("open")? >= AUTHORIZATIONS_MAX {
            let text = "too many authorizations are under way; complete some, or wait until they expire";
            let busy = Fault::new(Reason::ConnectorBusy, text).fact("limit", "max_open_authorizations");
            return Err(busy.retry_after(BUSY_RETRY));
        }
        query("INSERT INTO authorizations (state_digest, sealed, expires_at) VALUES ($1, $2, $3)")
            .bind(digest)
            .bind(sealed)
            .bind(millis(expires_at))
            .execute(&mut tx)
            .await?;
        tx.commit().await
    }

    /// Takes it away, for good. None: there is none of this state, or none any more.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn take_authorization(&self, state: &str) -> Result<Option<Authorization>> {
        let digest = digest(state);
        let row = query("DELETE FROM authorizations WHERE state_digest = $1 RETURNING sealed, expires_at")
            .bind(&digest)
            .fetch_optional(&self.0.pools.durable)
            .await?;
        let Some(row) = row else { return Ok(None) };
        if row.get::<i64>("expires_at")? <= self.now_millis() {
            return Ok(None);
        }
        let sealed: Vec<u8> = row.get("sealed")?;
        let Ok(plain) = self.0.keys.open("authorization", &[digest.as_bytes()], &sealed) else {
            tracing::error!("an authorization under way does not open: its row was changed, or its key is gone");
            return Ok(None);
        };
        // The decoder's own words could quote the verifier, so they are not kept.
        let column: Column =
            serde_json::from_slice(&plain).map_err(|_| Fault::bug("a sealed authorization could not be read"))?;
        Ok(Some(Authorization {
            parameter_id: ParameterId::new(&column.parameter_id)?,
            uid: column.uid,
            app_key: column.app_key,
            verifier: Secret::new(column.verifier),
            redirect_uri: column.redirect_uri,
            scopes: column.scopes,
            principal: column.principal,
            browser: column.browser,
            allow_account_change: column.allow_account_change,
        }))
    }

    /// Forgets the grant that `seen` was read with, its bearer and the account behind it.
    ///
    /// # Errors
    /// `APPLICATION_PARAMETER_NOT_FOUND`; `ETAG_MISMATCH` if an account was connected or disconnected since;
    /// `READ_ONLY_STORE`, `STORE_UNAVAILABLE`.
    pub async fn clear_grant(&self, seen: &Parameters) -> Result<Parameters> {
        self.require_writable()?;
        let mut tx = self.0.pools.durable.begin().await?;
        let changed = query(
            "UPDATE application_parameters SET etag = etag + 1, grant_sealed = NULL, grant_number = grant_number + 1,
             account = NULL, granted_scopes = '[]', reauthorization_cause = NULL, bearer_sealed = NULL,
             bearer_expires_at = NULL, updated_at = $4 WHERE id = $1 AND uid = $2 AND grant_number = $3",
        )
        .bind(seen.id.as_str())
        .bind(&*seen.uid)
        .bind(seen.grant_number)
        .bind(self.now_millis())
        .execute(&mut tx)
        .await?;
        if changed == 0 {
            return Err(self.why_not_linked(&mut tx, seen).await);
        }
        self.finish_change(tx, &seen.id, &seen.uid).await
    }

    /// How many application parameters wait for their account to be connected again.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn count_reauthorizations(&self) -> Result<u64> {
        if let Some(file) = &self.0.file {
            return Ok(file.count_reauthorizations());
        }
        let count =
            query("SELECT COUNT(*) AS lost FROM application_parameters WHERE reauthorization_cause IS NOT NULL");
        Ok(count.fetch_one(&self.0.pools.readers).await?.get::<i64>("lost")?.unsigned_abs())
    }
}
