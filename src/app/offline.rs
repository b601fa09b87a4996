//! Work on the store itself, beside a running server or without one: tables brought up to date, keys rotated, application
//! parameters moved.

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::{
    clock::{Clock as _, SystemClock},
    config::Config,
    fault::Result,
    seal::KeyRing,
    store::{self, KeyUse, ParameterId, Rotation, Store},
};

use super::{AppError, error::store_fault};

pub use crate::store::{Imported, OnConflict};

/// Brings the tables of the store up to date, or only says whether they are and whether the store can do all that the
/// connector needs. In words.
///
/// # Errors
/// What is wrong, with the remedy.
pub async fn migrate(config: &Config, check_only: bool) -> Result<String, AppError> {
    let done = if check_only { store::check(&config.store_url).await } else { store::migrate(&config.store_url).await };
    done.map_err(store_fault)
}

/// Seals with the present sealing key what older ones sealed. What was done, in words, and the keys that were missing.
///
/// # Errors
/// A key ring or a store that cannot be used; a live server that does not have the key yet.
pub async fn rotate(config: &Config) -> Result<(String, Vec<String>)> {
    // Never a new store: its nothing would be rotated with success.
    let store = open(config, true).await?;
    let rotation = store.rotate_parameters().await;
    store.close().await;
    let Rotation { parameters, resealed, current, changed_meanwhile, lost, missing } = rotation?;
    let told = format!(
        "{parameters} application parameters: {resealed} secrets sealed anew, {current} were sealed by the present key, \
         {changed_meanwhile} changed meanwhile, {lost} cannot be opened because their key is gone"
    );
    Ok((told, missing.into_iter().collect()))
}

/// Whether the parameters file of a configuration can be used.
///
/// # Errors
/// `INVALID_FIELD` naming `parameters_file`.
pub fn check_parameters_file(config: &Config) -> Result<()> {
    config.parameters_file().map_or(Ok(()), |file| store::check_parameters_file(file, SystemClock.now()))
}

/// Which process has which keys, what is sealed with them, and which key seals now.
///
/// # Errors
/// A key ring or a store that cannot be used.
pub async fn key_use(config: &Config) -> Result<(KeyUse, Vec<String>)> {
    let store = open(config, true).await?;
    let (told, own) = (store.key_use().await, store.replica().to_owned());
    let keys = store.keys().key_ids();
    store.close().await;
    let mut told = told?;
    // This process looks and is gone.
    told.replicas.retain(|(replica, _)| *replica != own);
    Ok((told, keys))
}

/// Application parameters with all their secrets, plain, and how many they are; all if none is named.
///
/// # Errors
/// A key ring or a store that cannot be used; an id that is not there, or whose secrets do not open.
pub async fn export(config: &Config, ids: &[String]) -> Result<(Zeroizing<Vec<u8>>, usize)> {
    let ids = ids.iter().map(|id| ParameterId::new(id)).collect::<Result<Vec<_>>>()?;
    let store = open(config, true).await?;
    let store = match config.parameters_file() {
        Some(file) => store.with_parameters_file(file)?,
        None => store,
    };
    let exported = store.export_parameters(&ids).await;
    store.close().await;
    exported
}

/// Takes over what [`export`] gave, into a store that may be new.
///
/// # Errors
/// A key ring or a store that cannot be used; ids that are there already, unless it is said what is done about them.
pub async fn import(config: &Config, plain: &[u8], on_conflict: OnConflict) -> Result<Imported> {
    let store = open(config, false).await?;
    let store = match config.parameters_file() {
        Some(file) => store.with_parameters_file(file)?,
        None => store,
    };
    let imported = store.import_parameters(plain, on_conflict).await;
    store.close().await;
    imported
}

async fn open(config: &Config, must_exist: bool) -> Result<Store> {
    let keys = Arc::new(KeyRing::from_source(config.key_source()).await?);
    let (url, clock) = (&config.store_url, Arc::new(SystemClock));
    // Whoever says how it is opened gets that.
    match must_exist && !url.contains("mode=") {
        true => Store::open_as_it_is(url, keys, clock).await,
        false => Store::open(url, keys, clock).await,
    }
}
