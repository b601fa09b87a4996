//! Those who change the tree, at the emulator's own API, and what is there in the end.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use dropbox_connector::emulator::{Emulator, control::Control};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use tokio::{sync::Semaphore, task::JoinSet};

use super::{mirror::Node, plan::Plan};

/// Writers at work. Ends with its drop.
pub(super) struct Writers {
    turns: Arc<Semaphore>,
    given: AtomicUsize,
    done: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Writers {
    pub fn start(emulator: &Emulator, plan: &Plan) -> Writers {
        let (turns, done) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut tasks = JoinSet::new();
        for n in 0..plan.writers as u64 {
            let dice = StdRng::seed_from_u64(plan.seed * 100 + n);
            let mut writer = Writer { api: Api::of(emulator), folder: plan.folder.clone(), dice };
            let (turns, done) = (turns.clone(), done.clone());
            tasks.spawn(async move {
                while let Ok(turn) = turns.acquire().await {
                    turn.forget();
                    writer.act().await;
                    done.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        Writers { turns, given: AtomicUsize::new(0), done, _tasks: tasks }
    }

    /// Lets them do so many things more, all of them together.
    pub fn give(&self, count: usize) {
        self.given.fetch_add(count, Ordering::SeqCst);
        self.turns.add_permits(count);
    }

    pub fn is_done(&self) -> bool {
        self.done.load(Ordering::SeqCst) == self.given.load(Ordering::SeqCst)
    }
}

/// Dropbox as its own clients see it.
#[derive(Clone)]
struct Api {
    http: reqwest::Client,
    api: String,
    content: String,
    token: String,
    control: Control,
}

impl Api {
    fn of(emulator: &Emulator) -> Api {
        let http = reqwest::Client::builder().no_proxy().build().expect("a plain client");
        let at = emulator.addresses();
        let token = emulator.account().access_token;
        Api { http, api: at.api.clone(), content: at.content.clone(), token, control: emulator.control() }
    }

    /// The answer, also if it is an error: much of what writers try is refused.
    async fn rpc(&self, route: &str, arg: Value) -> (u16, Value) {
        let request = self.http.post(format!("{}/2/{route}", self.api)).bearer_auth(&self.token);
        let request = request.header("Content-Type", "application/json").body(arg.to_string());
        let answer = request.send().await.expect("the emulator answers");
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap_or_default())
    }

    async fn upload(&self, arg: Value, body: Vec<u8>) {
        let request = self.http.post(format!("{}/2/files/upload", self.content)).bearer_auth(&self.token);
        let request = request.header("Content-Type", "application/octet-stream");
        // A header is ASCII.
        let letter = |one: char| if one.is_ascii() { one.to_string() } else { format!("\\u{:04x}", u32::from(one)) };
        let arg: String = arg.to_string().chars().map(letter).collect();
        let answer = request.header("Dropbox-API-Arg", arg).body(body).send().await;
        answer.expect("the emulator answers").bytes().await.expect("a whole answer");
    }
}

struct Writer {
    api: Api,
    folder: String,
    dice: StdRng,
}

impl Writer {
    /// Few names, so that most things meet something.
    fn place(&mut self) -> String {
        let depth = self.dice.random_range(1..4);
        let mut name = || ["a", "b", "Σ", "ς"][self.dice.random_range(0..4)];
        let path: String = (0..depth).map(|_| format!("/{}", name())).collect();
        format!("{}{path}", self.folder)
    }

    fn bytes(&mut self) -> Vec<u8> {
        self.dice.random::<u64>().to_be_bytes().to_vec()
    }

    async fn put(&mut self, path: &str) {
        let bytes = self.bytes();
        self.api.upload(json!({ "path": path, "mode": "overwrite" }), bytes).await;
    }

    async fn create_folder(&self, path: &str) {
        self.api.rpc("files/create_folder_v2", json!({ "path": path })).await;
    }

    async fn delete(&self, path: &str) {
        self.api.rpc("files/delete_v2", json!({ "path": path })).await;
    }

    async fn relocate(&self, from: &str, to: &str) {
        self.api.rpc("files/move_v2", json!({ "from_path": from, "to_path": to })).await;
    }

    /// One thing somebody does.
    async fn act(&mut self) {
        let (a, b) = (self.place(), self.place());
        match self.dice.random_range(0..24) {
            0..=6 => self.put(&a).await,
            7 | 8 => {
                // The same bytes again: as it is most often, or as somebody who wants a new revision.
                if let Some(bytes) = self.api.control.read(None, &a) {
                    let strict = self.dice.random_bool(0.5);
                    let arg = json!({ "path": a, "mode": "overwrite", "strict_conflict": strict });
                    self.api.upload(arg, bytes).await;
                }
            }
            9..=11 => self.create_folder(&a).await,
            12..=15 => self.relocate(&a, &b).await,
            16 => {
                // A whole folder, most often.
                let below = self.folder.len() + 1;
                let top = below + a[below..].find('/').unwrap_or(a.len() - below);
                self.relocate(&a[..top], &b).await;
            }
            17 => {
                // There and back again.
                self.relocate(&a, &b).await;
                self.relocate(&b, &a).await;
            }
            18 | 19 => self.delete(&a).await,
            20 => {
                self.delete(&a).await;
                self.create_folder(&a).await;
                self.put(&format!("{a}/a")).await;
            }
            21 => {
                self.delete(&a).await;
                self.put(&a).await;
            }
            22 => {
                let cut = a.rfind('/').map_or(0, |slash| slash + 1);
                // The upper case of the last one is another name to Dropbox, which the emulator refuses.
                let name = if &a[cut..] == "Σ" { "σ".into() } else { a[cut..].to_uppercase() };
                let _ = self.api.control.recase(None, &format!("{}{name}", &a[..cut]));
            }
            _ => {
                self.put(&a).await;
                self.relocate(&a, &b).await;
                self.put(&b).await;
            }
        }
    }
}

/// What is there, by path in lower case.
#[derive(Debug)]
pub(super) struct Truth(pub BTreeMap<String, Node>);

impl Truth {
    pub async fn read(emulator: &Emulator, folder: &str) -> Result<Truth, String> {
        let api = Api::of(emulator);
        // Another limit than the connector's: the same listing twice at once is refused.
        let arg = json!({ "path": folder, "recursive": true, "limit": 1999 });
        let mut answer = api.rpc("files/list_folder", arg).await;
        let mut nodes = BTreeMap::new();
        loop {
            let (200, page) = &answer else { return Err(format!("the emulator does not list: {answer:?}")) };
            for entry in page["entries"].as_array().expect("a list") {
                let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
                if text("path_lower") == folder.to_lowercase() {
                    continue;
                }
                let hash = (entry[".tag"] == "file").then(|| text("content_hash"));
                nodes.insert(text("path_lower"), Node { id: text("id"), hash });
            }
            if page["has_more"] == false {
                return Ok(Truth(nodes));
            }
            answer = api.rpc("files/list_folder/continue", json!({ "cursor": page["cursor"] })).await;
        }
    }
}
