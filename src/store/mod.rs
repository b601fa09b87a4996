//! Rows. Callers see values, never SQL; secrets are sealed here.

mod file;
mod parameters;
mod requests;
mod settings;
mod uploads;

use std::{fmt, path::Path, sync::Arc};

pub use parameters::{Change, Linked, Rotation, SecretChange};
pub use requests::{RequestKey, RequestTurn};
pub use settings::{
    AccessType, Account, AccountKind, ActAsMode, AppSource, Grant, Member, ParameterId, Parameters, PathRoot, Policy, Renewal,
    Settings, State, Timeouts,
};
pub use uploads::{Claim, NewUpload, Piece, Swept, Upload, UploadState};

use crate::{clock::SharedClock, fault::Result, seal::KeyRing};

#[derive(Clone)]
pub struct Store(Arc<()>);

impl Store {
    /// `sqlite://path?mode=rwc` or `sqlite::memory:`; migrated when this returns.
    pub async fn open(url: &str, keys: Arc<KeyRing>, clock: SharedClock) -> Result<Store> { todo!() }
    /// The same store with application parameters from a read-only file (TOML or JSON).
    pub fn with_parameters_file(self, path: &Path) -> Result<Store> { todo!() }
    /// Writes the heartbeat: fails `STORE_UNAVAILABLE` when the store cannot be written. Feed `Ready::set_store`.
    pub async fn check(&self) -> Result<()> { todo!() }
    pub fn keys(&self) -> &Arc<KeyRing> { todo!() }
    /// Removes expired uploads, requests and old changes.
    pub async fn sweep(&self) -> Result<Swept> { todo!() }
    pub async fn close(&self) { todo!() }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}
