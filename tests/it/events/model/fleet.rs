//! Connectors as processes that are killed and started again on one store, and where they listen.

use std::{
    fs::File,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use dropbox_connector::api::v1::dropbox_admin_connector_client::DropboxAdminConnectorClient;
use rand::seq::IndexedRandom as _;
use tokio::sync::watch;

use super::{SETTLES_MAX, Stage};
use crate::support::{
    self, PARAMETER,
    process::{BINARY, FREE_PORTS},
};

/// Where those listen that live. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Addresses(Arc<watch::Sender<Vec<Option<String>>>>);

impl Addresses {
    pub fn any(&self) -> Option<String> {
        let living: Vec<String> = self.0.borrow().iter().flatten().cloned().collect();
        living.choose(&mut rand::rng()).cloned()
    }

    /// Waits until one came or went.
    pub async fn changed(&self) {
        let mut changes = self.0.subscribe();
        if self.any().is_none() {
            let _ = changes.changed().await;
        }
    }

    fn set(&self, replica: usize, address: Option<String>) {
        self.0.send_modify(|all| all[replica] = address);
    }
}

pub(super) struct Fleet {
    folder: PathBuf,
    flags: Vec<String>,
    children: Vec<Option<Child>>,
    launched: usize,
    pub addresses: Addresses,
}

impl Fleet {
    /// All of them, with an application parameter that works.
    pub async fn start(stage: &Stage) -> Result<Fleet, String> {
        let folder = stage.folder.clone();
        let keys = folder.join("keys");
        dropbox_connector::seal::KeyRing::from_file_or_new(&keys).map_err(|error| error.to_string())?;
        let at = stage.emulator.addresses();
        let flags = vec![
            "--allow-insecure-upstream".to_owned(),
            format!("--store-url={}", stage.store),
            format!("--sealing-key-file={}", keys.display()),
            format!("--dropbox-api-url={}", at.api),
            format!("--dropbox-content-url={}", at.content),
            format!("--dropbox-notify-url={}", at.notify),
            format!("--dropbox-oauth-url={}", at.www),
        ];
        let replicas = stage.plan.replicas;
        let addresses = Addresses(Arc::new(watch::Sender::new(vec![None; replicas])));
        let children = (0..replicas).map(|_| None).collect();
        let mut fleet = Fleet { folder, flags, children, launched: 0, addresses };
        let admin = fleet.serve(0).await?;
        let mut admin = DropboxAdminConnectorClient::connect(format!("http://{admin}"))
            .await
            .map_err(|error| format!("the admin port: {error}"))?;
        support::make_parameter(&mut admin, &stage.emulator.account(), PARAMETER, |_| {}).await;
        for replica in 1..replicas {
            fleet.launch(replica).await?;
        }
        Ok(fleet)
    }

    /// As a power cut would.
    pub fn kill(&mut self, replica: usize) {
        self.addresses.set(replica, None);
        if let Some(mut child) = self.children[replica].take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub async fn launch(&mut self, replica: usize) -> Result<(), String> {
        self.serve(replica).await.map(drop)
    }

    /// The address of its admin port.
    async fn serve(&mut self, replica: usize) -> Result<String, String> {
        self.launched += 1;
        let log = self.folder.join(format!("log-{}-replica-{replica}", self.launched));
        let out = File::create(&log).map_err(|error| error.to_string())?;
        let child = Command::new(BINARY)
            .arg("serve")
            .args(FREE_PORTS)
            .args(&self.flags)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(out.try_clone().map_err(|error| error.to_string())?)
            .stderr(out)
            .spawn()
            .map_err(|error| format!("the binary does not start: {error}"))?;
        self.children[replica] = Some(child);
        let told = |name: &str| {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let whole = text.rsplit_once('\n').map_or("", |(lines, _)| lines).to_owned();
            whole.split_whitespace().find_map(|word| Some(word.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
        };
        let deadline = tokio::time::Instant::now() + SETTLES_MAX;
        loop {
            if let (Some(data), Some(admin)) = (told("data"), told("admin")) {
                self.addresses.set(replica, Some(data));
                return Ok(admin);
            }
            let ended = self.children[replica].as_mut().and_then(|child| child.try_wait().ok()).flatten();
            if ended.is_some() || tokio::time::Instant::now() > deadline {
                return Err(format!("a connector does not come up ({ended:?}): {}", log.display()));
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for replica in 0..self.children.len() {
            self.kill(replica);
        }
    }
}
