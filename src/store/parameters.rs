use super::*;
use crate::secret::Secret;
use crate::fault::Fault;

/// What an update does with `app_secret`.
#[derive(Debug)]
pub enum SecretChange { Keep, Set(Option<Secret<String>>) }
/// What linking an account brings.
#[derive(Debug)]
pub struct Linked { pub grant: Grant, pub granted_scopes: Vec<String>, pub account: Option<Account>, pub renewal: Option<(Secret<String>, Option<std::time::SystemTime>)> }
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rotation { pub parameters: u64, pub resealed: u64, pub current: u64, pub changed_meanwhile: u64 }
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change { pub seq: i64, pub id: ParameterId, pub uid: String }

impl Store {
    pub async fn create_parameters(&self, id: &ParameterId, settings: Settings, app_secret: Option<Secret<String>>) -> Result<Parameters> { todo!() }
    pub async fn parameters(&self, id: &ParameterId) -> Result<Option<Parameters>> { todo!() }
    /// In order of id; `group` empty = all.
    pub async fn list_parameters(&self, group: &str, after: Option<&ParameterId>, limit: u32) -> Result<Vec<Parameters>> { todo!() }
    pub async fn update_parameters(&self, id: &ParameterId, etag: Option<i64>, app_secret: SecretChange, edit: impl FnOnce(&mut Settings) -> Result<(), Fault> + Send) -> Result<Parameters> { todo!() }
    pub async fn delete_parameters(&self, id: &ParameterId, etag: Option<i64>) -> Result<()> { todo!() }
    pub async fn set_grant(&self, id: &ParameterId, uid: &str, linked: Linked) -> Result<Parameters> { todo!() }
    pub async fn require_reauthorization(&self, id: &ParameterId, uid: &str, grant_number: i64, cause: &str) -> Result<bool> { todo!() }
    pub async fn rotate_parameters(&self) -> Result<Rotation> { todo!() }
    pub async fn parameter_changes(&self, after: i64) -> Result<Vec<Change>> { todo!() }
    pub async fn last_parameter_change(&self) -> Result<i64> { todo!() }
}
