//! Webhooks: addresses an app has registered, and who calls them. One call names all accounts that changed since the one
//! before; one call at a time per address; what is not answered well is tried again for some ten minutes, then dropped.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::{net::TcpStream, sync::Notify, task::JoinSet};
use url::Url;

use super::{World, hold};

/// Addresses registered at once.
const HOOKS_MAX: usize = 100;
/// Dropbox waits this long for an answer.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// First pause before a repeat; it doubles. Ten calls in all, over eight and a half minutes.
const REPEAT_PAUSE: Duration = Duration::from_secs(1);
const REPEATS_MAX: u32 = 9;
/// Of an answer's body this much is read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// A registered address and what became of its calls.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Hook {
    pub app_key: String,
    pub uri: String,
    /// Notifications sent, repeats included.
    pub calls: u64,
    /// Answered with 2xx.
    pub good: u64,
    /// Given up after the last repeat.
    pub dropped: u64,
    /// Being sent, or waiting for a repeat.
    pub running: bool,
}

#[derive(Debug, Default)]
pub(in crate::emulator) struct Webhooks {
    hooks: Mutex<Vec<Hook>>,
    registered: Notify,
}

/// Accounts that changed, by whether the app is linked to each of them or to their team.
#[derive(Debug, Default)]
struct Pending {
    users: BTreeSet<String>,
    /// Team id → member ids.
    teams: BTreeMap<String, BTreeSet<String>>,
}

impl Webhooks {
    pub fn clear(&self) {
        hold(&self.hooks).clear();
    }

    pub fn list(&self) -> Vec<Hook> {
        hold(&self.hooks).clone()
    }

    fn note(&self, app_key: &str, uri: &str, change: impl FnOnce(&mut Hook)) {
        if let Some(hook) = hold(&self.hooks).iter_mut().find(|hook| hook.app_key == app_key && hook.uri == uri) {
            change(hook);
        }
    }

    /// Registers an address once it has echoed a challenge.
    ///
    /// # Errors
    /// What is wrong with the address or its answer, in words.
    pub async fn register(&self, app_key: &str, uri: &str, challenge: &str) -> Result<(), String> {
        let url = Url::parse(uri).map_err(|error| format!("{uri}: {error}"))?;
        if url.scheme() != "http" {
            return Err(format!("{uri}: the emulator calls http addresses only"));
        }
        let mut asked = url.clone();
        asked.query_pairs_mut().append_pair("challenge", challenge);
        let answer = call(Method::GET, &asked, &[], Bytes::new()).await.map_err(|error| format!("{uri}: {error}"))?;
        if answer.status != 200 || answer.body != challenge.as_bytes() {
            return Err(format!("{uri}: did not echo the challenge with 200 but answered {}", answer.status));
        }
        if !answer.content_type.starts_with("text/plain") || answer.sniffing != "nosniff" {
            return Err(format!("{uri}: the echo needs Content-Type: text/plain and X-Content-Type-Options: nosniff"));
        }
        let mut hooks = hold(&self.hooks);
        if hooks.len() >= HOOKS_MAX {
            return Err(format!("more than {HOOKS_MAX} webhooks"));
        }
        if !hooks.iter().any(|hook| hook.app_key == app_key && hook.uri == uri) {
            hooks.push(Hook { app_key: app_key.to_owned(), uri: uri.to_owned(), ..Hook::default() });
        }
        drop(hooks);
        self.registered.notify_one();
        Ok(())
    }
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.users.is_empty() && self.teams.is_empty()
    }

    /// The bodies of one notification: an app is linked to users or to teams, and each form has its own.
    fn bodies(&self) -> Vec<Value> {
        // Numbers of the first version of the API; nobody is to use them.
        let number = |id: &String| u32::from_be_bytes(Sha256::digest(id)[..4].try_into().expect("four bytes"));
        let mut bodies = Vec::new();
        if !self.users.is_empty() {
            let numbers: Vec<u32> = self.users.iter().map(number).collect();
            bodies.push(json!({ "list_folder": { "accounts": self.users }, "delta": { "users": numbers } }));
        }
        if !self.teams.is_empty() {
            let numbers: BTreeMap<&String, Vec<u32>> =
                self.teams.iter().map(|(team, members)| (team, members.iter().map(number).collect())).collect();
            bodies.push(json!({ "list_folder": { "teams": self.teams }, "delta": { "teams": numbers } }));
        }
        bodies
    }
}

/// Calls the registered addresses at every change, until dropped.
pub(in crate::emulator) async fn notify_on_change(world: Arc<World>) {
    let mut changed = world.tree().changed();
    let mut seen = world.tree().sequence;
    let mut pending: HashMap<(String, String), Pending> = HashMap::new();
    let mut calls = JoinSet::new();
    let mut running = BTreeSet::new();
    loop {
        tokio::select! {
            changed = changed.changed() => if changed.is_err() { return },
            Some(ended) = calls.join_next() => if let Ok(hook) = ended { running.remove(&hook); },
            () = world.webhooks.registered.notified() => {}
        }
        let hooks = world.webhooks.list();
        collect(&world, &mut seen, &hooks, &mut pending);
        pending.retain(|(app, uri), _| hooks.iter().any(|hook| hook.app_key == *app && hook.uri == *uri));
        let due: Vec<_> = pending.keys().filter(|hook| !running.contains(*hook)).cloned().collect();
        for hook in due {
            let Some(bodies) = pending.remove(&hook).filter(|due| !due.is_empty()).map(|due| due.bodies()) else {
                continue;
            };
            running.insert(hook.clone());
            let world = world.clone();
            calls.spawn(async move {
                world.webhooks.note(&hook.0, &hook.1, |hook| hook.running = true);
                for body in bodies {
                    deliver(&world, &hook.0, &hook.1, body.to_string().into()).await;
                }
                world.webhooks.note(&hook.0, &hook.1, |hook| hook.running = false);
                hook
            });
        }
    }
}

/// Whose files changed since `seen`, for every app that wants to know.
fn collect(world: &World, seen: &mut u64, hooks: &[Hook], pending: &mut HashMap<(String, String), Pending>) {
    let tree = world.tree();
    let since = std::mem::replace(seen, tree.sequence);
    if hooks.is_empty() || since == tree.sequence {
        return;
    }
    let namespaces: BTreeSet<u64> =
        tree.changes_since(since).into_iter().flatten().map(|change| change.namespace).collect();
    let sees = |root| namespaces.iter().any(|namespace| tree.prefix(root, *namespace).is_some());
    let changed: Vec<_> = tree.accounts.iter().filter(|account| sees(account.root)).collect();
    for hook in hooks {
        let (users, administrators) = world.authority.linked(&hook.app_key);
        let teams: BTreeSet<_> = administrators
            .iter()
            .filter_map(|id| tree.account(id)?.team.as_ref())
            .map(|seat| seat.team_id.clone())
            .collect();
        let due = pending.entry((hook.app_key.clone(), hook.uri.clone())).or_default();
        for account in &changed {
            if users.contains(&account.id) {
                due.users.insert(account.id.clone());
            }
            if let Some(seat) = account.team.as_ref().filter(|seat| teams.contains(&seat.team_id)) {
                due.teams.entry(seat.team_id.clone()).or_default().insert(seat.member_id.clone());
            }
        }
    }
}

async fn deliver(world: &World, app_key: &str, uri: &str, body: Bytes) {
    let Ok(url) = Url::parse(uri) else { return };
    world.clock.sleep(world.switches().webhook_delay).await;
    let mut pause = REPEAT_PAUSE;
    for attempt in 0..=REPEATS_MAX {
        if attempt > 0 {
            world.clock.sleep(pause).await;
            pause *= 2;
        }
        let Some(secret) = world.authority.secret_of(app_key) else { return };
        let headers =
            [("x-dropbox-signature", signature(&secret, &body)), ("user-agent", "DropboxWebhooks/1.0".into())];
        let answer = call(Method::POST, &url, &headers, body.clone()).await;
        let good = answer.is_ok_and(|answer| (200..300).contains(&answer.status));
        world.webhooks.note(app_key, uri, |hook| {
            hook.calls += 1;
            hook.good += u64::from(good);
            hook.dropped += u64::from(!good && attempt == REPEATS_MAX);
        });
        if good {
            return;
        }
    }
}

/// Lower-case hex of HMAC-SHA256 (RFC 2104).
fn signature(secret: &str, body: &[u8]) -> String {
    let mut key = [0u8; 64];
    let long = Sha256::digest(secret);
    let short = if secret.len() > key.len() { long.as_slice() } else { secret.as_bytes() };
    key[..short.len()].copy_from_slice(short);
    let inner = Sha256::new().chain_update(key.map(|byte| byte ^ 0x36)).chain_update(body).finalize();
    hex::encode(Sha256::new().chain_update(key.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize())
}

struct Heard {
    status: u16,
    content_type: String,
    sniffing: String,
    body: Bytes,
}

/// One request on a connection of its own.
async fn call(method: Method, url: &Url, headers: &[(&str, String)], body: Bytes) -> io::Result<Heard> {
    let asking = async {
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default().unwrap_or(80);
        let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let serving = tokio::spawn(connection);
        let target = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header(header::HOST, format!("{host}:{port}"))
            .header(header::CONTENT_TYPE, "application/json");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(body)).map_err(io::Error::other)?;
        let answer = sender.send_request(request).await.map_err(io::Error::other)?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(io::Error::other)?.to_bytes();
        serving.abort();
        let text = |name| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let (content_type, sniffing) = (text(header::CONTENT_TYPE), text(header::X_CONTENT_TYPE_OPTIONS));
        Ok(Heard { status: head.status.as_u16(), content_type, sniffing, body })
    };
    // Real time: this is about a socket.
    tokio::time::timeout(ANSWER_TIME, asking).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_of_the_standard() {
        // RFC 4231, cases 2 and 6.
        assert_eq!(
            signature("Jefe", b"what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        let long = String::from_utf8(vec![0x61; 131]).expect("ASCII");
        assert_eq!(signature(&long, b"x").len(), 64);
    }

    #[test]
    fn users_and_teams_are_told_in_their_own_forms() {
        let mut pending = Pending::default();
        pending.users.insert("dbid:a".into());
        pending.teams.entry("dbtid:t".into()).or_default().insert("dbmid:m".into());
        let bodies = pending.bodies();
        assert_eq!(bodies[0]["list_folder"], json!({ "accounts": ["dbid:a"] }));
        assert_eq!(bodies[1]["list_folder"], json!({ "teams": { "dbtid:t": ["dbmid:m"] } }));
    }
}
