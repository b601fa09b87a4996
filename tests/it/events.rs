//! Events end to end: a real server and the emulator, from a change at Dropbox to what a consumer is told.

mod crowds;
mod ends;
mod far;
mod fleet;
mod folders;
mod lags;
mod model;
mod paces;
mod pulls;
mod quiet;
#[cfg(unix)]
mod recipes;
mod refusals;
mod resets;
mod rings;
mod settles;
mod slow;
mod streams;
mod terminal;
mod vanished;

use dropbox_connector::{
    api::{
        Encoded,
        plain::{WatchEventsResponse, watch_events_response::Payload},
        v1::{self as pb, dropbox_connector_client::DropboxConnectorClient, watch_events_request::Start},
    },
    emulator::control::{Seed, SeedFile},
};
use sqlx::{Connection as _, SqliteConnection};
use tonic::{Code, Status, Streaming, transport::Channel};

use crate::support::{self, House, PARAMETER, PATIENCE};

/// A watch in a test's hand.
struct Watch {
    stream: Streaming<Encoded>,
    /// Of the last message.
    token: String,
}

fn ask(edit: impl FnOnce(&mut pb::WatchEventsRequest)) -> pb::WatchEventsRequest {
    let mut request = pb::WatchEventsRequest { application_parameter_id: PARAMETER.into(), ..Default::default() };
    edit(&mut request);
    request
}

fn behind(token: &str) -> Option<Start> {
    Some(Start::ResumeToken(token.to_owned()))
}

fn from(position: pb::StartPosition) -> Option<Start> {
    Some(Start::StartPosition(position.into()))
}

impl Watch {
    async fn open(house: &House, edit: impl FnOnce(&mut pb::WatchEventsRequest)) -> Watch {
        Watch::try_open(house, ask(edit)).await.expect("a watch")
    }

    async fn try_open(
        house: &House,
        request: impl tonic::IntoRequest<pb::WatchEventsRequest>,
    ) -> Result<Watch, Status> {
        Watch::by(house.client(), request).await
    }

    async fn by(
        mut client: DropboxConnectorClient<Channel>,
        request: impl tonic::IntoRequest<pb::WatchEventsRequest>,
    ) -> Result<Watch, Status> {
        let stream = client.watch_events(request).await?.into_inner();
        Ok(Watch { stream, token: String::new() })
    }

    /// Open, and past `ready`.
    async fn ready(house: &House, edit: impl FnOnce(&mut pb::WatchEventsRequest)) -> Watch {
        let mut watch = Watch::open(house, edit).await;
        while !matches!(watch.payload().await, Payload::Ready(_)) {}
        watch
    }

    async fn next(&mut self) -> Result<WatchEventsResponse, Status> {
        tokio::time::timeout(PATIENCE, self.message()).await.expect("a message in time")
    }

    async fn message(&mut self) -> Result<WatchEventsResponse, Status> {
        let message = self.stream.message().await?.expect("a watch ends with a status").into_plain();
        assert!(!message.resume_token.is_empty(), "a token is on every message: {message:?}");
        self.token.clone_from(&message.resume_token);
        Ok(message)
    }

    async fn payload(&mut self) -> Payload {
        self.next().await.expect("no end yet").payload.expect("a payload")
    }

    /// The next change, whatever comes before it.
    async fn change(&mut self) -> pb::ChangeEvent {
        self.changes(1).await.remove(0)
    }

    async fn changes(&mut self, count: usize) -> Vec<pb::ChangeEvent> {
        let mut changes = Vec::with_capacity(count);
        while changes.len() < count {
            let next = async {
                loop {
                    if let Some(Payload::Change(change)) = self.message().await.expect("no end yet").payload {
                        return change;
                    }
                }
            };
            // Heartbeats go on for ever.
            let Ok(change) = tokio::time::timeout(PATIENCE, next).await else {
                panic!("{} of {count} changes in time, the last: {:#?}", changes.len(), changes.last());
            };
            changes.push(change);
        }
        changes
    }

    /// How it ends, and what it told last.
    async fn end(&mut self) -> (Option<Payload>, Status) {
        let mut last = None;
        loop {
            match self.next().await {
                Ok(message) => last = message.payload,
                Err(status) => return (last, status),
            }
        }
    }
}

fn path(change: &pb::ChangeEvent) -> &str {
    &change.item.as_ref().expect("an item").path_display
}

fn told(changes: &[pb::ChangeEvent]) -> Vec<String> {
    let word =
        |change: &pb::ChangeEvent| change.change_type().as_str_name().trim_start_matches("EVENT_TYPE_").to_owned();
    changes.iter().map(|change| format!("{} {}", word(change), path(change))).collect()
}

/// Somebody else writes a file.
fn put(house: &House, path: &str, text: &str) {
    let seed = Seed { files: vec![SeedFile::text(path, text)], ..Seed::default() };
    house.control().seed(&seed).expect("a file");
}

fn make_folder(house: &House, path: &str) {
    house.control().seed(&Seed { folders: vec![path.into()], ..Seed::default() }).expect("a folder");
}

async fn delete(house: &House, path: &str, kind: pb::ItemKind) {
    let request = pb::DeleteItemRequest {
        application_parameter_id: PARAMETER.into(),
        path: path.into(),
        kind: kind.into(),
        ..Default::default()
    };
    house.client().delete_item(request).await.expect("deleted");
}

async fn rename(house: &House, from_path: &str, to_path: &str) {
    let request = pb::MoveItemRequest {
        application_parameter_id: PARAMETER.into(),
        from_path: from_path.into(),
        to_path: to_path.into(),
        ..Default::default()
    };
    house.client().move_item(request).await.expect("moved");
}

/// A watch of `path` whose types are certain from here on: the index stands.
async fn indexed(house: &House, folder: &str) -> Watch {
    make_folder(house, folder);
    let mut watch = Watch::ready(house, |asked| asked.path = folder.into()).await;
    for probe in 0.. {
        put(house, &format!("{folder}/probe"), &probe.to_string());
        if watch.change().await.basis() == pb::EventBasis::Index {
            break;
        }
    }
    watch
}

/// All that a server knew of watched folders.
async fn forget_all(house: &House) {
    let mut store = SqliteConnection::connect(&house.config().store_url).await.expect("the store");
    for forget in [
        "DELETE FROM event_log",
        "DELETE FROM event_drains",
        "DELETE FROM event_waiting",
        "DELETE FROM index_items",
        "DELETE FROM event_scopes",
    ] {
        sqlx::query(forget).execute(&mut store).await.expect("forgotten");
    }
}

#[track_caller]
fn refused(status: &Status, code: Code, reason: &str) {
    assert_eq!((status.code(), support::reason(status).as_str()), (code, reason), "{status:?}");
}
