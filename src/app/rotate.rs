//! Sealing everything anew with the present key: a work on the store, beside a running server or without one.

use std::{fmt, sync::Arc};

use crate::{
    clock::SystemClock,
    config::Config,
    seal::KeyRing,
    store::{Rotation, Store},
};

use super::{AppError, config_fault, start_fault};

/// What a rotation did.
#[derive(Debug)]
pub struct Rotated {
    key_id: String,
    rotation: Rotation,
}

impl fmt::Display for Rotated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rotation { parameters, resealed, current, changed_meanwhile, lost } = self.rotation;
        write!(
            f,
            "{parameters} application parameters: {resealed} secrets sealed anew with key {}, {current} were already, \
             {changed_meanwhile} changed meanwhile, {lost} lost (their key is gone)",
            self.key_id
        )
    }
}

/// Seals the secrets of every application parameter with the first key of the key file.
///
/// # Errors
/// A key file or store that cannot be used; a live process that cannot open the new key yet.
pub async fn rotate(config: &Config) -> Result<Rotated, AppError> {
    let keys = Arc::new(KeyRing::from_file(&config.sealing_key_file).map_err(config_fault)?);
    let store = Store::open(&config.store_url, keys.clone(), Arc::new(SystemClock)).await.map_err(start_fault)?;
    let rotation = store.rotate_parameters().await.map_err(start_fault);
    store.close().await;
    Ok(Rotated { key_id: keys.sealing_key_id(), rotation: rotation? })
}
