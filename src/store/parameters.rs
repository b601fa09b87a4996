//! Application parameters: created, read, changed by compare-and-set on the etag, linked.
//! Every change also takes the next number in `parameter_changes`, which every process follows.

use std::{sync::Arc, time::SystemTime};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{
    Account, Grant, ParameterId, Parameters, ROWS_MAX, SecretChanges, Secrets, Settings, Store,
    database::{Row, Tx, query},
    millis, time, unknown,
};
use crate::{
    fault::{Fault, Reason, Result},
    seal::Unsealable,
    secret::Secret,
};

pub type AppSecret = Option<Secret<String>>;

/// What an update does with a secret.
#[derive(Debug)]
pub enum SecretChange {
    Keep,
    Set(Option<Secret<String>>),
}

/// What linking an account brings.
#[derive(Debug)]
pub struct Linked {
    pub grant: Grant,
    pub granted_scopes: Vec<String>,
    pub account: Option<Account>,
    /// The bearer that came with the proof that the grant works.
    pub bearer: Option<(Secret<String>, Option<SystemTime>)>,
}

/// One parameter changed, was created or deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub seq: i64,
    pub id: ParameterId,
    pub uid: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum GrantColumn {
    RefreshToken(String),
    AccessToken { token: String, expires_at: Option<i64> },
}

pub(super) const APP_SECRET: &str = "app_secret_sealed";
pub(super) const PROXY_PASSWORD: &str = "proxy_password_sealed";
pub(super) const GRANT: &str = "grant_sealed";
pub(super) const BEARER: &str = "bearer_sealed";

/// By name: a statement prepared with `*` breaks in older processes when a migration adds a column.
macro_rules! columns {
    () => {
        "id, uid, etag, group_name, settings, app_secret_sealed, proxy_password_sealed, grant_sealed, grant_number, \
         reauthorization_cause, granted_scopes, account, created_at, updated_at"
    };
}

const SELECT: &str = concat!("SELECT ", columns!(), " FROM application_parameters WHERE id = $1");
/// Reads a row and holds it until the transaction ends.
const SELECT_HELD: &str = concat!("UPDATE application_parameters SET etag = etag WHERE id = $1 RETURNING ", columns!());
const SELECT_PAGE: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM application_parameters WHERE id > $1 AND ($2 = '' OR group_name = $2) ORDER BY id LIMIT $3"
);

impl Store {
    /// # Errors
    /// `APPLICATION_PARAMETER_EXISTS`, `INVALID_FIELD`, `READ_ONLY_STORE`, `STORE_UNAVAILABLE`.
    pub async fn create_parameters(
        &self,
        id: &ParameterId,
        settings: Settings,
        secrets: impl Into<Secrets> + Send,
    ) -> Result<Parameters> {
        self.require_writable()?;
        settings.check()?;
        let Secrets { app_secret, proxy_password } = secrets.into();
        settings.check_proxy_password(proxy_password.as_ref())?;
        let (uid, now) = (uuid::Uuid::new_v4().simple().to_string(), self.now_millis());
        let mut tx = self.0.pools.durable.begin().await?;
        let created = query(
            "INSERT INTO application_parameters (id, uid, etag, group_name, settings, app_secret_sealed, created_at, updated_at)
             VALUES ($1, $2, 1, $3, $4, $5, $6, $6) ON CONFLICT (id) DO NOTHING",
        )
        .bind(id.as_str())
        .bind(&uid)
        .bind(&settings.group)
        .bind(json(&settings)?)
        .bind(app_secret.map(|secret| self.seal_column(&row_name(id, &uid), APP_SECRET, secret.reveal().as_bytes())))
        .bind(now)
        .execute(&mut tx)
        .await?;
        if created == 0 {
            return Err(Fault::new(
                Reason::ApplicationParameterExists,
                format!("application parameter {id} exists already"),
            )
            .parameter(id.as_str()));
        }
        if let Some(password) = proxy_password {
            self.set_proxy_password(&mut tx, id, &uid, Some(password)).await?;
        }
        self.finish_change(tx, id, &uid).await
    }

    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn parameters(&self, id: &ParameterId) -> Result<Option<Parameters>> {
        if let Some(file) = &self.0.file {
            return Ok(file.get(id));
        }
        let row = query(SELECT).bind(id.as_str()).fetch_optional(&self.0.pools.readers).await?;
        row.map(|row| self.parameters_of(&row)).transpose()
    }

    /// In the order of ids, from the one behind `after` on. An empty `group` is every group. Rows that this version cannot
    /// read are left out and logged.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn list_parameters(
        &self,
        group: &str,
        after: Option<&ParameterId>,
        limit: u32,
    ) -> Result<Vec<Parameters>> {
        let after = after.map_or("", ParameterId::as_str);
        let skip = |row: &Row, fault: Fault| {
            let id = row.get::<String>("id").unwrap_or_default();
            tracing::error!(parameter = id, %fault, "an application parameter is left out of the list");
            Ok(())
        };
        self.rows_of(group, after, limit as usize, skip).await
    }

    /// The same; what a row that cannot be read does is for `unreadable` to say.
    pub(super) async fn rows_of(
        &self,
        group: &str,
        after: &str,
        limit: usize,
        unreadable: impl Fn(&Row, Fault) -> Result<()> + Send,
    ) -> Result<Vec<Parameters>> {
        if let Some(file) = &self.0.file {
            return Ok(file.list(group, after, limit));
        }
        // No group holds it, and PostgreSQL takes no text that does.
        if group.contains('\0') {
            return Ok(Vec::new());
        }
        let (mut found, mut after) = (Vec::new(), after.to_owned());
        loop {
            let wanted = i64::try_from(limit - found.len()).unwrap_or(i64::MAX);
            let page = query(SELECT_PAGE).bind(after.as_str()).bind(group).bind(wanted);
            let rows = page.fetch_all(&self.0.pools.readers).await?;
            for row in &rows {
                match self.parameters_of(row) {
                    Ok(parameters) => found.push(parameters),
                    Err(fault) => unreadable(row, fault)?,
                }
            }
            match rows.last() {
                // A row that was left out leaves room for another.
                Some(last) if found.len() < limit && rows.len() as i64 == wanted => after = last.get("id")?,
                _ => return Ok(found),
            }
        }
    }

    /// Changes settings in one step, so that two administrators never undo each other; with an etag only if nobody changed
    /// it since. Another app key or account kind ends the link: a grant belongs to one app. A proxy's password stays with the
    /// proxy it was given for.
    ///
    /// # Errors
    /// `APPLICATION_PARAMETER_NOT_FOUND`, `ETAG_MISMATCH`, `INVALID_FIELD`, `READ_ONLY_STORE`, `STORE_UNAVAILABLE`, and
    /// whatever `edit` fails with.
    pub async fn update_parameters(
        &self,
        id: &ParameterId,
        etag: Option<i64>,
        secrets: impl Into<SecretChanges> + Send,
        edit: impl FnOnce(&mut Settings) -> Result<()> + Send,
    ) -> Result<Parameters> {
        self.require_writable()?;
        let mut tx = self.0.pools.durable.begin().await?;
        let row = self.hold(&mut tx, id, etag).await?;
        let before = self.parameters_of(&row)?;
        let mut settings = before.settings.clone();
        edit(&mut settings)?;
        settings.check()?;
        let SecretChanges { app_secret, proxy_password } = secrets.into();
        if matches!(proxy_password, SecretChange::Keep) && before.proxy_password.is_some() {
            settings.proxy.check_same_place(&before.settings.proxy)?;
        }
        settings.check_proxy_password(match &proxy_password {
            SecretChange::Keep => before.proxy_password.as_ref(),
            SecretChange::Set(password) => password.as_ref(),
        })?;
        query(
            "UPDATE application_parameters SET etag = etag + 1, group_name = $2, settings = $3, updated_at = $4 WHERE id = $1",
        )
        .bind(id.as_str())
        .bind(&settings.group)
        .bind(unknown::rewritten(&row.get::<String>("settings")?, &before.settings, &settings)?)
        .bind(self.now_millis())
        .execute(&mut tx)
        .await?;
        if let SecretChange::Set(secret) = app_secret {
            query("UPDATE application_parameters SET app_secret_sealed = $2 WHERE id = $1")
                .bind(id.as_str())
                .bind(
                    secret.map(|secret| {
                        self.seal_column(&row_name(id, &before.uid), APP_SECRET, secret.reveal().as_bytes())
                    }),
                )
                .execute(&mut tx)
                .await?;
        }
        if let SecretChange::Set(password) = proxy_password {
            self.set_proxy_password(&mut tx, id, &before.uid, password).await?;
        }
        if settings.app_key != before.settings.app_key || settings.account_kind != before.settings.account_kind {
            query(
                "UPDATE application_parameters SET grant_sealed = NULL, grant_number = grant_number + 1, account = NULL,
                 granted_scopes = '[]', reauthorization_cause = NULL, bearer_sealed = NULL, bearer_expires_at = NULL
                 WHERE id = $1",
            )
            .bind(id.as_str())
            .execute(&mut tx)
            .await?;
        }
        self.finish_change(tx, id, &before.uid).await
    }

    /// # Errors
    /// `APPLICATION_PARAMETER_NOT_FOUND`, `ETAG_MISMATCH`, `READ_ONLY_STORE`, `STORE_UNAVAILABLE`.
    pub async fn delete_parameters(&self, id: &ParameterId, etag: Option<i64>) -> Result<()> {
        self.delete_held(id, etag, |_| Ok(())).await
    }

    /// Deletes it with the grant it had when `seen` was read, and no other.
    ///
    /// # Errors
    /// As [`Store::delete_parameters`]; `ETAG_MISMATCH` if an account was connected or disconnected since.
    pub async fn delete_parameters_with_grant(&self, seen: &Parameters) -> Result<()> {
        let same = |row: &Row| match row.get::<String>("uid")? == *seen.uid {
            true if row.get::<i64>("grant_number")? == seen.grant_number => Ok(()),
            true => Err(linked_meanwhile(&seen.id)),
            false => Err(not_found(&seen.id)),
        };
        self.delete_held(&seen.id, None, same).await
    }

    async fn delete_held(
        &self,
        id: &ParameterId,
        etag: Option<i64>,
        fit: impl FnOnce(&Row) -> Result<()> + Send,
    ) -> Result<()> {
        self.require_writable()?;
        let mut tx = self.0.pools.durable.begin().await?;
        // Its settings are not looked at: what another version wrote can be deleted too.
        let row = self.hold(&mut tx, id, etag).await?;
        fit(&row)?;
        query("DELETE FROM application_parameters WHERE id = $1").bind(id.as_str()).execute(&mut tx).await?;
        self.note_change(&mut tx, id, &row.get::<String>("uid")?).await?;
        tx.commit().await
    }

    /// Links an account, or another one, in the place of what was linked when `seen` was read: what another administrator
    /// connected or disconnected meanwhile is not undone.
    ///
    /// # Errors
    /// `APPLICATION_PARAMETER_NOT_FOUND`, also for one deleted and made again meanwhile; `ETAG_MISMATCH`,
    /// `READ_ONLY_STORE`, `STORE_UNAVAILABLE`.
    pub async fn set_grant(&self, seen: &Parameters, linked: Linked) -> Result<Parameters> {
        self.require_writable()?;
        let (id, uid) = (&seen.id, &*seen.uid);
        let grant = match &linked.grant {
            Grant::Refreshable(token) => GrantColumn::RefreshToken(token.reveal().clone()),
            Grant::ShortLived { bearer, expires_at } => {
                GrantColumn::AccessToken { token: bearer.reveal().clone(), expires_at: expires_at.map(millis) }
            }
        };
        let plain = Zeroizing::new(json(&grant)?);
        // The copy inside `grant` is wiped like every other.
        let (GrantColumn::RefreshToken(copy) | GrantColumn::AccessToken { token: copy, .. }) = grant;
        drop(Zeroizing::new(copy));
        let account = linked.account.as_ref().map(json).transpose()?;
        let (bearer, bearer_ends) = linked.bearer.map_or((None, None), |(bearer, ends)| (Some(bearer), ends));
        let mut tx = self.0.pools.durable.begin().await?;
        let changed = query(
            "UPDATE application_parameters SET etag = etag + 1, grant_sealed = $3, grant_number = grant_number + 1,
             reauthorization_cause = NULL, granted_scopes = $4, account = $5, bearer_sealed = $6, bearer_expires_at = $7,
             bearer_generation = bearer_generation + 1, renewing_until = 0, updated_at = $8
             WHERE id = $1 AND uid = $2 AND grant_number = $9",
        )
        .bind(id.as_str())
        .bind(uid)
        .bind(self.seal_column(&row_name(id, uid), GRANT, plain.as_bytes()))
        .bind(json(&linked.granted_scopes)?)
        .bind(account)
        .bind(bearer.map(|bearer| self.seal_column(uid, BEARER, bearer.reveal().as_bytes())))
        .bind(bearer_ends.map(millis))
        .bind(self.now_millis())
        .bind(seen.grant_number)
        .execute(&mut tx)
        .await?;
        if changed == 0 {
            return Err(self.why_not_linked(&mut tx, seen).await);
        }
        self.finish_change(tx, id, uid).await
    }

    /// Why no row was touched that was still as `seen`.
    pub(super) async fn why_not_linked(&self, tx: &mut Tx, seen: &Parameters) -> Fault {
        let there = query("SELECT 1 AS there FROM application_parameters WHERE id = $1 AND uid = $2")
            .bind(seen.id.as_str())
            .bind(&*seen.uid)
            .fetch_optional(tx)
            .await;
        match there {
            Ok(Some(_)) => linked_meanwhile(&seen.id),
            Ok(None) => not_found(&seen.id),
            Err(fault) => fault,
        }
    }

    /// Dropbox refused this grant: every process answers `REAUTHORIZATION_REQUIRED` from now on without asking again.
    /// False if a newer grant has come meanwhile.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn require_reauthorization(
        &self,
        id: &ParameterId,
        uid: &str,
        grant_number: i64,
        cause: &str,
    ) -> Result<bool> {
        if let Some(file) = &self.0.file {
            return Ok(file.require_reauthorization(id, uid, grant_number, cause));
        }
        let mut tx = self.0.pools.durable.begin().await?;
        let marked = query(
            "UPDATE application_parameters SET reauthorization_cause = $4, etag = etag + 1, bearer_sealed = NULL,
             bearer_expires_at = NULL, updated_at = $5 WHERE id = $1 AND uid = $2 AND grant_number = $3",
        )
        .bind(id.as_str())
        .bind(uid)
        .bind(grant_number)
        .bind(cause)
        .bind(self.now_millis())
        .execute(&mut tx)
        .await?;
        if marked == 0 {
            return Ok(false);
        }
        self.note_change(&mut tx, id, uid).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// What changed after `after`, in order. A parameters file is looked at again too.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn parameter_changes(&self, after: i64) -> Result<Vec<Change>> {
        if let Some(file) = &self.0.file {
            return Ok(file.changes(after, self.0.clock.now()));
        }
        let rows = query("SELECT seq, parameter_id, uid FROM parameter_changes WHERE seq > $1 ORDER BY seq LIMIT $2")
            .bind(after)
            .bind(ROWS_MAX)
            .fetch_all(&self.0.pools.readers)
            .await?;
        let change = |row: &Row| {
            // Not checked: one that this version would not take must not stop the others.
            let id = ParameterId::of_row(&row.get::<String>("parameter_id")?);
            Ok(Change { seq: row.get("seq")?, id, uid: row.get("uid")? })
        };
        rows.iter().map(change).collect()
    }

    /// Where a process that has cached nothing begins to follow.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn last_parameter_change(&self) -> Result<i64> {
        let last = query("SELECT MAX(seq) AS last FROM parameter_changes").fetch_one(&self.0.pools.readers).await?;
        Ok(last.get::<Option<i64>>("last")?.unwrap_or(0))
    }

    /// Reads the row and holds it until the transaction ends.
    async fn hold(&self, tx: &mut Tx, id: &ParameterId, etag: Option<i64>) -> Result<Row> {
        let row = query(SELECT_HELD).bind(id.as_str()).fetch_optional(tx).await?.ok_or_else(|| not_found(id))?;
        let now: i64 = row.get("etag")?;
        if etag.is_some_and(|etag| etag != now) {
            return Err(Fault::new(Reason::EtagMismatch, format!("application parameter {id} was changed meanwhile"))
                .parameter(id.as_str())
                .fact("etag", now));
        }
        Ok(row)
    }

    async fn set_proxy_password(
        &self,
        tx: &mut Tx,
        id: &ParameterId,
        uid: &str,
        password: Option<Secret<String>>,
    ) -> Result<()> {
        let name = row_name(id, uid);
        query("UPDATE application_parameters SET proxy_password_sealed = $2 WHERE uid = $1")
            .bind(uid)
            .bind(password.map(|password| self.seal_column(&name, PROXY_PASSWORD, password.reveal().as_bytes())))
            .execute(tx)
            .await?;
        Ok(())
    }

    pub(super) async fn note_change(&self, tx: &mut Tx, id: &ParameterId, uid: &str) -> Result<()> {
        query("INSERT INTO parameter_changes (parameter_id, uid, changed_at) VALUES ($1, $2, $3)")
            .bind(id.as_str())
            .bind(uid)
            .bind(self.now_millis())
            .execute(tx)
            .await?;
        Ok(())
    }

    /// Notes the change, commits, and gives the row as it now is.
    pub(super) async fn finish_change(&self, mut tx: Tx, id: &ParameterId, uid: &str) -> Result<Parameters> {
        self.note_change(&mut tx, id, uid).await?;
        let row = query(SELECT).bind(id.as_str()).fetch_one(&mut tx).await?;
        let now = self.parameters_of(&row)?;
        tx.commit().await?;
        Ok(now)
    }

    /// Whether the parameters file was read well when it last changed; None without one.
    pub fn parameters_file_good(&self) -> Option<bool> {
        self.0.file.as_ref().map(|file| file.is_good())
    }

    /// # Errors
    /// `READ_ONLY_STORE` when parameters come from a file.
    pub fn require_writable(&self) -> Result<()> {
        match &self.0.file {
            None => Ok(()),
            Some(_) => Err(Fault::new(
                Reason::ReadOnlyStore,
                "application parameters come from a file; change the file, it is read again by itself",
            )),
        }
    }

    /// `row` is what the row is found by: [`row_name`], or the uid where it is found by that alone.
    pub(super) fn seal_column(&self, row: &str, column: &str, plain: &[u8]) -> Vec<u8> {
        self.0.keys.seal("column", &[b"application_parameters", row.as_bytes(), column.as_bytes()], plain)
    }

    pub(super) fn open_column(&self, row: &str, column: &str, blob: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unsealable> {
        self.0.keys.open("column", &[b"application_parameters", row.as_bytes(), column.as_bytes()], blob)
    }

    /// A row whose secrets do not open is still shown: it asks for a new grant, and the other rows go on.
    fn parameters_of(&self, row: &Row) -> Result<Parameters> {
        let id: String = row.get("id")?;
        let uid: String = row.get("uid")?;
        let id = ParameterId::of_row(&id);
        let name = row_name(&id, &uid);
        let mut cause: Option<String> = row.get("reauthorization_cause")?;
        let mut missing_key = None;
        let mut open = |column: &'static str| -> Result<Option<Zeroizing<Vec<u8>>>> {
            let Some(blob) = row.get::<Option<Vec<u8>>>(column)? else { return Ok(None) };
            match self.open_column(&name, column, &blob) {
                Ok(plain) => Ok(Some(plain)),
                Err(error) => {
                    tracing::error!(parameter = %id, column, ?error, "a sealed column does not open");
                    cause = Some(match error {
                        Unsealable::Malformed => "sealed_column_damaged".to_owned(),
                        Unsealable::KeyRetired { key_id } => {
                            missing_key = Some(key_id.into_boxed_str());
                            "sealing_key_retired".to_owned()
                        }
                    });
                    Ok(None)
                }
            }
        };
        let app_secret = open(APP_SECRET)?.map(|plain| secret_text(&plain)).transpose()?;
        let proxy_password = open(PROXY_PASSWORD)?.map(|plain| secret_text(&plain)).transpose()?;
        let grant = open(GRANT)?.map(|plain| grant_of(&id, &plain)).transpose()?;
        let text = |column: &str| row.get::<String>(column);
        let number = |column: &str| row.get::<i64>(column);
        let account: Option<String> = row.get("account")?;
        let mut granted_scopes: Vec<String> =
            unknown::column(&id, "granted scopes", text("granted_scopes")?.as_bytes())?;
        // It may be kept, ten thousand times.
        granted_scopes.shrink_to_fit();
        Ok(Parameters {
            settings: unknown::settings(&id, &text("settings")?)?,
            app_secret,
            proxy_password,
            grant,
            grant_number: number("grant_number")?,
            reauthorization_cause: cause,
            missing_key,
            of_file: false,
            granted_scopes,
            account: account.map(|text| unknown::column::<Account>(&id, "account", text.as_bytes())).transpose()?,
            created_at: time(number("created_at")?),
            updated_at: time(number("updated_at")?),
            etag: number("etag")?,
            id,
            uid: Arc::from(uid),
        })
    }
}

/// What secrets are bound to: no parameter opens another's, also when whole rows change places.
pub(super) fn row_name(id: &ParameterId, uid: &str) -> String {
    format!("{id}/{uid}")
}

pub(super) fn not_found(id: &ParameterId) -> Fault {
    Fault::new(Reason::ApplicationParameterNotFound, format!("there is no application parameter {id}"))
        .parameter(id.as_str())
}

fn linked_meanwhile(id: &ParameterId) -> Fault {
    let text = format!("an account was connected to application parameter {id}, or disconnected from it, meanwhile");
    Fault::new(Reason::EtagMismatch, text).parameter(id.as_str())
}

pub(super) fn secret_text(plain: &[u8]) -> Result<Secret<String>> {
    let text = std::str::from_utf8(plain).map_err(|_| Fault::bug("a sealed text is not UTF-8"))?;
    Ok(Secret::new(text.to_owned()))
}

fn grant_of(id: &ParameterId, plain: &[u8]) -> Result<Grant> {
    Ok(match unknown::column(id, "grant", plain)? {
        GrantColumn::RefreshToken(token) => Grant::Refreshable(Secret::new(token)),
        GrantColumn::AccessToken { token, expires_at } => {
            Grant::ShortLived { bearer: Secret::new(token), expires_at: expires_at.map(time) }
        }
    })
}

pub(super) fn json<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Fault::bug("a row could not be written").source(error))
}
