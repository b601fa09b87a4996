//! The emulator's own powers: script, counters, journal, reset, seed, tokens, switches, clock. [`Control`] has them in-process;
//! the control port gives the same ones over HTTP (`port`), for an emulator that is a process of its own.

mod kinds;
mod ledger;
mod port;

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};

pub use self::{
    kinds::{Document, Restriction},
    ledger::{Counter, Entry},
};
pub(in crate::emulator) use self::{
    ledger::{Ledger, Ticket},
    port::serve,
};
use super::{
    Hook, Switches, World,
    content::Content,
    hold,
    oauth::{Consent, Login},
    script::{InvalidRule, Rule, Standing},
    tree::Terms,
};

/// The most one seed may make, bytes in all and entries in all: seeds live in memory.
const SEED_BYTES_MAX: u64 = 8 << 30;
const SEED_FILES_MAX: u64 = 1_000_000;

/// A handle on a running emulator. Cheap to clone.
#[derive(Clone)]
pub struct Control(Arc<World>);

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}

/// What to put into an account's home. Parents come by themselves; what is there is overwritten.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Seed {
    /// The default account if absent.
    pub account_id: Option<String>,
    pub folders: Vec<String>,
    pub files: Vec<SeedFile>,
    pub generate: Option<Generate>,
    /// Made last. However much it is, unlike by a call: so somebody moves it who has Dropbox's own programs.
    pub moves: Vec<SeedMove>,
}

/// One entry that goes elsewhere with all that is in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeedMove {
    pub from: String,
    pub to: String,
}

/// One file. Exactly one of `text`, `base64` and `bytes` says what is in it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SeedFile {
    pub path: String,
    pub text: Option<String>,
    pub base64: Option<String>,
    /// So many bytes made from the path: the same path and length give the same bytes.
    pub bytes: Option<u64>,
}

impl SeedFile {
    pub fn text(path: &str, text: &str) -> SeedFile {
        SeedFile { path: path.to_owned(), text: Some(text.to_owned()), ..SeedFile::default() }
    }

    pub fn bytes(path: &str, bytes: u64) -> SeedFile {
        SeedFile { path: path.to_owned(), bytes: Some(bytes), ..SeedFile::default() }
    }
}

/// Many files of one length: `<folder>/000000.bin`, or `<folder>/000/000000.bin` with `per_folder`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generate {
    pub folder: String,
    pub files: u64,
    pub bytes: u64,
    #[serde(default)]
    pub per_folder: Option<u64>,
}

/// Why something asked of the control port was not done. Nothing of a refused seed is kept out of order: entries before
/// the wrong one stay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    #[error("{0}")]
    Invalid(String),
    #[error("the emulator's clock is the system's; it cannot be moved")]
    RealClock,
}

impl From<InvalidRule> for ControlError {
    fn from(error: InvalidRule) -> Self {
        ControlError::Invalid(error.to_string())
    }
}

fn invalid<T>(text: impl Into<String>) -> Result<T, ControlError> {
    Err(ControlError::Invalid(text.into()))
}

impl Control {
    pub(in crate::emulator) fn new(world: Arc<World>) -> Control {
        Control(world)
    }

    /// Adds rules behind those in force; all or none.
    ///
    /// # Errors
    /// `Invalid`: the first rule that makes no sense.
    pub fn script(&self, rules: impl IntoIterator<Item = Rule>) -> Result<(), ControlError> {
        Ok(self.0.script.add(rules)?)
    }

    pub fn clear_script(&self) {
        self.0.script.clear();
    }

    /// Every rule, with how often it looked and acted.
    pub fn standing(&self) -> Vec<Standing> {
        self.0.script.standing()
    }

    /// By route as in the URL: `files/upload_session/append_v2`, `oauth2/token`.
    pub fn counters(&self) -> BTreeMap<String, Counter> {
        self.0.ledger.counters()
    }

    /// Zeros for a route that was never asked.
    pub fn counter(&self, route: &str) -> Counter {
        self.0.ledger.counter(route)
    }

    /// The last requests, oldest first.
    pub fn journal(&self) -> Vec<Entry> {
        self.0.ledger.journal()
    }

    /// Answers of the emulator that were not of the published types, with their routes. A test wants it empty.
    pub fn wrong_answers(&self) -> Vec<String> {
        self.0.ledger.wrong_answers()
    }

    /// Counters and journal begin anew.
    pub fn clear_journal(&self) {
        self.0.ledger.clear();
    }

    /// As if just started. The default login keeps its tokens.
    pub fn reset(&self) {
        self.0.reset();
    }

    /// What the default account's client needs.
    pub fn login(&self) -> Login {
        self.0.authority.default_login()
    }

    /// Fresh tokens of a new grant. `account_id`: the default one if `None`; `scopes`: all if `None`.
    ///
    /// # Errors
    /// `Invalid`: no such account or scope.
    pub fn issue(&self, account_id: Option<&str>, scopes: Option<&[String]>) -> Result<Login, ControlError> {
        let account = self.account(account_id)?;
        self.0.authority.issue(&account, scopes).map_err(ControlError::Invalid)
    }

    /// Fresh tokens of an administrator's grant for the whole team of this account.
    ///
    /// # Errors
    /// `Invalid`: no such account, or it is in no team.
    pub fn issue_team(&self, account_id: &str) -> Result<Login, ControlError> {
        let account = self.account(Some(account_id))?;
        if self.0.tree().account(&account).is_none_or(|account| account.team.is_none()) {
            return Err(ControlError::Invalid(format!("{account_id} is in no team")));
        }
        Ok(self.0.authority.issue_team(&account))
    }

    /// The account's id as a member of its team.
    pub fn member_id(&self, account_id: &str) -> Option<String> {
        let tree = self.0.tree();
        Some(tree.account(account_id)?.team.as_ref()?.member_id.clone())
    }

    /// A further account with an empty home; with `team`, in that team's space. Gives its id.
    pub fn add_account(&self, email: &str, given_name: &str, surname: &str, team: Option<&str>) -> String {
        let mut tree = self.0.tree();
        let id = tree.add_account(email, given_name, surname);
        if let Some(team) = team {
            tree.give_team_space(&id, team).expect("the account was just made");
        }
        id
    }

    /// The account joins a team: its root is the team's space from now on.
    ///
    /// # Errors
    /// `Invalid`: no such account.
    pub fn join_team(&self, account_id: &str, team: &str) -> Result<(), ControlError> {
        let joined = self.0.tree().give_team_space(account_id, team);
        joined.map(drop).ok_or_else(|| ControlError::Invalid(format!("no account {account_id}")))
    }

    /// Every access token there is answers `expired_access_token` from now on; refresh tokens go on.
    pub fn expire_access_tokens(&self) {
        self.0.authority.expire_access_tokens();
    }

    /// Ends the grant of a refresh token, or all grants. Gives how many ended.
    pub fn revoke(&self, refresh_token: Option<&str>) -> usize {
        self.0.authority.revoke(refresh_token)
    }

    /// What the consent page does by itself.
    pub fn set_consent(&self, consent: Consent) {
        self.0.authority.set_consent(consent);
    }

    /// Who is signed in where the consent page is opened; at first the default account.
    ///
    /// # Errors
    /// `Invalid`: no such account.
    pub fn sign_in(&self, account_id: Option<&str>) -> Result<(), ControlError> {
        let account = self.account(account_id)?;
        self.0.authority.sign_in(&account, None);
        Ok(())
    }

    /// An administrator is signed in, who approves for the whole team. Gives the team's id.
    ///
    /// # Errors
    /// `Invalid`: no such account, or it is in no team.
    pub fn sign_in_for_team(&self, account_id: &str) -> Result<String, ControlError> {
        let account = self.account(Some(account_id))?;
        let team = self.0.tree().account(&account).and_then(|account| Some(account.team.as_ref()?.team_id.clone()));
        let team = team.ok_or_else(|| ControlError::Invalid(format!("{account_id} is in no team")))?;
        self.0.authority.sign_in(&account, Some(team.clone()));
        Ok(team)
    }

    /// Gives the default app another secret; grants stay.
    pub fn set_app_secret(&self, secret: &str) {
        self.0.authority.set_app_secret(secret);
    }

    /// Lets the default app be redirected to `uri`; loopback addresses need no leave.
    ///
    /// # Errors
    /// `Invalid`: not an address.
    pub fn register_redirect(&self, uri: &str) -> Result<(), ControlError> {
        self.0.authority.register_redirect(uri).map_err(ControlError::Invalid)
    }

    pub fn switches(&self) -> Switches {
        self.0.switches()
    }

    /// Changes switches in place: `control.switch(|s| s.list_page = 10)`.
    pub fn switch(&self, change: impl FnOnce(&mut Switches)) {
        change(&mut hold(&self.0.switches));
    }

    /// Makes every cursor there is answer `reset`.
    pub fn reset_cursors(&self) {
        let now = {
            let mut tree = self.0.tree();
            // So that those made from now on are told from those there are.
            tree.sequence += 1;
            tree.sequence
        };
        self.switch(|switches| switches.cursors_reset_before = now);
    }

    /// Registers a webhook of an app (the default one if `None`), as the App Console does: the address must echo a challenge.
    ///
    /// # Errors
    /// `Invalid`: no such app, not an http address, or it did not answer as it must.
    pub async fn register_webhook(&self, app_key: Option<&str>, uri: &str) -> Result<(), ControlError> {
        let app_key = app_key.map_or_else(|| self.login().app_key, str::to_owned);
        if self.0.authority.secret_of(&app_key).is_none() {
            return invalid(format!("no app '{app_key}'"));
        }
        let challenge = self.0.random_text(32);
        self.0.webhooks.register(&app_key, uri, &challenge).await.map_err(ControlError::Invalid)
    }

    /// The registered webhooks and what became of their calls.
    pub fn webhooks(&self) -> Vec<Hook> {
        self.0.webhooks.list()
    }

    /// Forgets every webhook.
    pub fn clear_webhooks(&self) {
        self.0.webhooks.clear();
    }

    /// Writes a name otherwise, by case alone, without a word to any cursor: what Dropbox's own clients often do.
    ///
    /// # Errors
    /// `Invalid`: nothing is there, or more than the case of the last name differs.
    pub fn recase(&self, account_id: Option<&str>, path: &str) -> Result<(), ControlError> {
        let account = self.account(account_id)?;
        let mut tree = self.0.tree();
        let home = tree.account(&account).expect("just looked up").home;
        let place = tree.locate(home, path).map_err(|_| refused(path))?;
        match tree.node_mut(place.namespace, &place.key) {
            Some(node) => {
                let kept = node.display.len() - node.name().len();
                let name = path.rsplit('/').next().unwrap_or_default();
                node.display = format!("{}{name}", &node.display[..kept]);
                Ok(())
            }
            None => invalid(format!("{path}: nothing is there")),
        }
    }

    /// The emulator's time.
    pub fn now(&self) -> SystemTime {
        self.0.clock.now()
    }

    /// Moves a manual clock on.
    ///
    /// # Errors
    /// `RealClock`: the emulator was not started with a manual clock.
    pub async fn advance(&self, span: Duration) -> Result<(), ControlError> {
        match &self.0.manual_clock {
            Some(clock) => {
                clock.advance(span).await;
                Ok(())
            }
            None => Err(ControlError::RealClock),
        }
    }

    /// Puts entries into an account's home.
    ///
    /// # Errors
    /// `Invalid`: no such account, a path that Dropbox would refuse, too much at once.
    pub fn seed(&self, seed: &Seed) -> Result<(), ControlError> {
        let account = self.account(seed.account_id.as_deref())?;
        for path in &seed.folders {
            let mut tree = self.0.tree();
            let home = tree.account(&account).expect("just looked up").home;
            let place = tree.locate(home, path).map_err(|_| refused(path))?;
            if tree.node(place.namespace, &place.key).is_none() {
                tree.make_folder(&place, false).map_err(|_| refused(path))?;
            }
        }
        let generated = seed.generate.as_ref().map(Generate::files).transpose()?;
        let sizes = seed.files.iter().filter_map(|file| file.bytes);
        if sizes.sum::<u64>() > SEED_BYTES_MAX {
            return invalid(format!("more than {SEED_BYTES_MAX} bytes in one seed"));
        }
        for file in seed.files.iter().cloned().chain(generated.into_iter().flatten()) {
            self.put(&account, &file)?;
        }
        for SeedMove { from, to } in &seed.moves {
            let mut tree = self.0.tree();
            let home = tree.account(&account).expect("just looked up").home;
            let place = |path: &str| tree.locate(home, path).map_err(|_| refused(path));
            let (there, goes) = (place(from)?, place(to)?);
            if tree.node(there.namespace, &there.key).is_none() {
                return invalid(format!("{from}: is not there"));
            }
            tree.relocate_any(&there, &goes, false).map_err(|_| refused(to))?;
        }
        Ok(())
    }

    fn put(&self, account: &str, file: &SeedFile) -> Result<(), ControlError> {
        let bytes = match (&file.text, &file.base64, file.bytes) {
            (Some(text), None, None) => text.clone().into_bytes(),
            (None, Some(base64), None) => match BASE64_STANDARD.decode(base64) {
                Ok(bytes) => bytes,
                Err(_) => return invalid(format!("{}: base64 is not base64", file.path)),
            },
            (None, None, Some(bytes)) => made_bytes(&file.path, bytes),
            _ => return invalid(format!("{}: give one of text, base64 and bytes", file.path)),
        };
        let content = Content::from_bytes(bytes);
        let mut tree = self.0.tree();
        let home = tree.account(account).expect("looked up before").home;
        let place = tree.locate(home, &file.path).map_err(|_| refused(&file.path))?;
        tree.write_file(&place, content, &Terms::overwrite()).map_err(|_| refused(&file.path))?;
        Ok(())
    }

    /// The bytes at a path of an account's home; `None` if no file is there.
    pub fn read(&self, account_id: Option<&str>, path: &str) -> Option<Vec<u8>> {
        let account = self.account(account_id).ok()?;
        let content = {
            let tree = self.0.tree();
            let place = tree.locate(tree.account(&account)?.home, path).ok()?;
            tree.node(place.namespace, &place.key)?.file()?.content.clone()
        };
        content.read(content.size()).ok()
    }

    fn account(&self, id: Option<&str>) -> Result<String, ControlError> {
        let tree = self.0.tree();
        match id {
            None => Ok(tree.default_account().id.clone()),
            Some(id) if tree.account(id).is_some() => Ok(id.to_owned()),
            Some(id) => invalid(format!("no account '{id}'")),
        }
    }
}

fn refused(path: &str) -> ControlError {
    ControlError::Invalid(format!("{path}: cannot be written there"))
}

impl Generate {
    fn files(&self) -> Result<impl Iterator<Item = SeedFile> + '_, ControlError> {
        if self.files > SEED_FILES_MAX || self.files.saturating_mul(self.bytes) > SEED_BYTES_MAX {
            return invalid(format!("generate: more than {SEED_FILES_MAX} files or {SEED_BYTES_MAX} bytes"));
        }
        if self.per_folder == Some(0) {
            return invalid("generate.per_folder: is 0");
        }
        Ok((0..self.files).map(|i| {
            let folder = self.per_folder.map(|each| format!("/{:03}", i / each)).unwrap_or_default();
            SeedFile::bytes(&format!("{}{folder}/{i:06}.bin", self.folder), self.bytes)
        }))
    }
}

/// Bytes that look random and are the same for the same path (xorshift64*).
fn made_bytes(path: &str, length: u64) -> Vec<u8> {
    let seed = path.bytes().fold(0xcbf2_9ce4_8422_2325u64, |sum, b| (sum ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(usize::try_from(length).expect("bounded by SEED_BYTES_MAX") + 8);
    while (bytes.len() as u64) < length {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(usize::try_from(length).expect("as above"));
    bytes
}
