//! Consumers: each watches at any connector that lives, applies what it is told, and comes back after every break behind what
//! it has kept, by token or by the name of a checkpoint. Now and then one dies before it has kept its place, and hears again.

use std::{
    fmt::Write as _,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use dropbox_connector::api::{
    Encoded,
    plain::watch_events_response::Payload,
    v1::{self as pb, dropbox_connector_client::DropboxConnectorClient},
};
use rand::Rng as _;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming, transport::Channel};
use tonic_types::StatusExt as _;

use super::{
    fleet::Addresses,
    mirror::{Met, Mirror},
    writers::Truth,
};
use crate::{
    events::{behind, from},
    support::PARAMETER,
};

/// A watch says something at least this often.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// How a consumer keeps its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// The token of each message, most often.
    Token,
    /// As that, but it dies a lot.
    Forgetful,
    /// By name, at the server, every now and then.
    Checkpoint,
}

pub(super) struct Consumer {
    manner: Manner,
    /// Of its checkpoint.
    name: String,
    folder: String,
    heard: AtomicUsize,
    stopped: CancellationToken,
    kept: Mutex<Kept>,
}

struct Kept {
    mirror: Mirror,
    token: Option<String>,
    /// The name is known to the server.
    named: bool,
    failure: Option<String>,
    /// What it was told, for people.
    story: Vec<String>,
}

/// Why a watch is over.
enum End {
    /// It is taken up again.
    Broken(String),
    /// It must not have been so.
    Wrong(String),
}

impl From<Status> for End {
    /// A status that comes from the server says itself whether the call may be made again; the others come from the break.
    fn from(status: Status) -> End {
        let details = status.get_error_details();
        let final_word = details.error_info().is_some() && details.retry_info().is_none();
        let text = format!("{:?} {}", status.code(), status.message());
        if final_word { End::Wrong(text) } else { End::Broken(text) }
    }
}

impl Consumer {
    pub fn new(number: usize, manner: Manner, folder: &str) -> Consumer {
        let mirror = Mirror::new(folder);
        let kept = Kept { mirror, token: None, named: false, failure: None, story: Vec::new() };
        Consumer {
            manner,
            name: format!("mirror-{number}"),
            folder: folder.to_owned(),
            heard: AtomicUsize::new(0),
            stopped: CancellationToken::new(),
            kept: Mutex::new(kept),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("no panic under it")
    }

    pub fn heard(&self) -> usize {
        self.heard.load(Ordering::SeqCst)
    }

    pub fn failure(&self) -> Option<String> {
        self.kept().failure.clone()
    }

    pub fn met(&self) -> Met {
        self.kept().mirror.met
    }

    pub fn stop(&self) {
        self.stopped.cancel();
    }

    /// How its tree differs from what is there.
    pub fn lacks(&self, truth: &Truth) -> Option<String> {
        let kept = self.kept();
        let mine = &kept.mirror.nodes;
        let missing = truth.0.iter().find(|(path, node)| mine.get(*path) != Some(*node));
        let more = mine.iter().find(|(path, _)| !truth.0.contains_key(*path));
        match (missing, more) {
            (None, None) => None,
            (Some((path, node)), _) => Some(format!("at {path} is {node:?}, it has {:?}", mine.get(path))),
            (None, Some((path, node))) => Some(format!("at {path} is nothing, it has {node:?}")),
        }
    }

    /// For people.
    pub fn story(&self) -> String {
        let kept = self.kept();
        let mut text = format!("{:?}, {:?}\n\n", self.manner, kept.failure);
        for (path, node) in &kept.mirror.nodes {
            let _ = writeln!(text, "{path} {node:?}");
        }
        let _ = writeln!(text);
        for line in &kept.story {
            let _ = writeln!(text, "{line}");
        }
        text
    }

    pub async fn run(self: Arc<Consumer>, addresses: Addresses) {
        let life = async {
            loop {
                let Some(address) = addresses.any() else {
                    addresses.changed().await;
                    continue;
                };
                match self.watch(&address).await {
                    End::Broken(why) => {
                        self.kept().story.push(format!("-- {address}: {why}"));
                        // A connector that has just been killed is told of in a moment.
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    End::Wrong(why) => {
                        self.kept().failure = Some(why);
                        return;
                    }
                }
            }
        };
        tokio::select! {
            () = life => {}
            () = self.stopped.cancelled() => {}
        }
    }

    async fn watch(&self, address: &str) -> End {
        match self.try_watch(address).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn try_watch(&self, address: &str) -> Result<std::convert::Infallible, End> {
        let endpoint = Channel::from_shared(format!("http://{address}")).expect("a uri");
        let channel = endpoint.connect().await.map_err(|error| End::Broken(format!("{error:?}")))?;
        let mut client = DropboxConnectorClient::new(channel);
        let request = self.request();
        let mut stream = client.watch_events(request).await?.into_inner();
        loop {
            self.message(&mut client, &mut stream).await?;
        }
    }

    fn request(&self) -> pb::WatchEventsRequest {
        let mut request = pb::WatchEventsRequest {
            application_parameter_id: PARAMETER.into(),
            path: self.folder.clone(),
            heartbeat_interval: Some(prost_types::Duration { seconds: 5, nanos: 0 }),
            ..Default::default()
        };
        let mut kept = self.kept();
        if kept.named {
            request.start = from(pb::StartPosition::Checkpoint);
            request.checkpoint_name = self.name.clone();
        } else if let Some(token) = &kept.token {
            request.start = behind(token);
        } else {
            kept.mirror.begin();
            request.start = from(pb::StartPosition::Snapshot);
            return request;
        }
        kept.mirror.met.resumed += 1;
        request
    }

    async fn message(
        &self,
        client: &mut DropboxConnectorClient<Channel>,
        stream: &mut Streaming<Encoded>,
    ) -> Result<(), End> {
        let message = tokio::time::timeout(SILENCE_MAX, stream.message()).await;
        let message = message.map_err(|_| End::Wrong("a watch that says nothing".into()))??;
        let message = message.ok_or_else(|| End::Wrong("a watch ended without a status".into()))?.into_plain();
        let payload = message.payload.ok_or_else(|| End::Wrong("a message without a payload".into()))?;
        let is_ready = matches!(payload, Payload::Ready(_));
        self.apply(payload)?;
        self.heard.fetch_add(1, Ordering::SeqCst);
        let dies = match self.manner {
            Manner::Forgetful => 0.1,
            Manner::Token | Manner::Checkpoint => 0.01,
        };
        if rand::rng().random_bool(dies) {
            return Err(End::Broken("died".into()));
        }
        if self.manner != Manner::Checkpoint {
            self.kept().token = Some(message.resume_token);
            return Ok(());
        }
        let first = is_ready && !self.kept().named;
        if first || (self.kept().named && rand::rng().random_bool(0.2)) {
            let request = pb::AcknowledgeEventsRequest {
                application_parameter_id: PARAMETER.into(),
                checkpoint_name: self.name.clone(),
                resume_token: message.resume_token,
                ..Default::default()
            };
            client.acknowledge_events(request).await?;
            self.kept().named = true;
        }
        Ok(())
    }

    fn apply(&self, payload: Payload) -> Result<(), End> {
        let mut kept = self.kept();
        let kept = &mut *kept;
        match payload {
            Payload::Snapshot(snapshot) => {
                kept.story.push(format!("snapshot of {}", snapshot.items.len()));
                kept.mirror.items(&snapshot.items);
            }
            Payload::Change(change) => {
                let told = format!("{:?}", brief(&change));
                kept.story.push(told.clone());
                kept.mirror.change(&change).map_err(|why| End::Wrong(format!("{why}: {told}")))?;
            }
            Payload::CursorReset(reset) => {
                kept.story.push(format!("{reset:?}"));
                if reset.resync {
                    kept.mirror.met.differences += 1;
                } else {
                    kept.mirror.met.snapshots += 1;
                    kept.mirror.begin();
                }
            }
            Payload::Heartbeat(_) => {}
            other => kept.story.push(format!("{other:?}")),
        }
        Ok(())
    }
}

/// What matters of a change.
fn brief(change: &pb::ChangeEvent) -> impl std::fmt::Debug + use<'_> {
    let item = change.item.as_ref();
    let told = match item.and_then(|item| item.kind.as_ref()) {
        Some(pb::item::Kind::File(file)) => format!("file {} {} {}", file.id, file.rev, file.content_hash),
        Some(pb::item::Kind::Folder(folder)) => format!("folder {}", folder.id),
        Some(pb::item::Kind::Deleted(gone)) => format!("{:?} {}", gone.last_kind(), gone.last_id),
        None => String::new(),
    };
    let path = item.map(|item| item.path_display.as_str()).unwrap_or_default();
    (&change.event_id, change.basis(), change.change_type(), &change.previous_path, path, told)
}
