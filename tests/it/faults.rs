//! What Dropbox says and what the caller is told: the rows of the error table, each asked for by a script of the emulator,
//! and the whole status compared: code, reason, details present and absent, facts, trailers, sizes.

mod raw_rows;
mod rows;
mod unclear;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use dropbox_connector::{
    api::v1::{self as pb, call_api_request::Arg},
    emulator::{
        control::Document,
        script::{Action, Rule},
    },
};
use serde_json::{Value, json};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use crate::support::{House, MIB, PARAMETER, noise, retry_delay, spec, start, upload};

/// The application parameter that may call anything raw.
pub const RAW: &str = "raw";
/// Short enough that a refusal which invites a repeat comes back instead of being repeated.
const DEADLINE: Duration = Duration::from_secs(3);
const REQUEST_ID: &str = "given-by-the-test";

/// The call that meets the refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    GetItem,
    List,
    ListMore,
    Search,
    Create,
    Copy,
    Move,
    Delete,
    Permanently,
    TemporaryLink,
    Share,
    Links,
    Revoke,
    Download,
    Export,
    LinkFile,
    Upload,
    Start,
    Append,
    Finish,
    Account,
    Raw(&'static str),
}

/// What Dropbox answers.
#[derive(Debug, Clone)]
pub enum Says {
    /// 409 with these tags from the outside in.
    Tags(&'static str),
    /// Another status with these tags.
    Status(u16, &'static str),
    /// 409 with just this error.
    Error(Value),
    /// A status, the error.
    Json(u16, Value),
    Text(u16, &'static str),
}

/// One row of the table.
#[derive(Debug, Clone)]
pub struct Row {
    via: Via,
    says: Says,
    code: Code,
    reason: &'static str,
    /// Beside ErrorInfo and RequestInfo.
    details: &'static [&'static str],
    /// Beside those every refusal of Dropbox has.
    facts: &'static [(&'static str, &'static str)],
    field: Option<&'static str>,
    retry: Option<Duration>,
}

pub fn row(via: Via, says: Says, code: Code, reason: &'static str) -> Row {
    Row { via, says, code, reason, details: &[], facts: &[], field: None, retry: None }
}

impl Row {
    pub fn details(self, details: &'static [&'static str]) -> Row {
        Row { details, ..self }
    }

    pub fn facts(self, facts: &'static [(&'static str, &'static str)]) -> Row {
        Row { facts, ..self }
    }

    /// BadRequest names this field.
    pub fn field(self, field: &'static str) -> Row {
        Row { field: Some(field), ..self }
    }

    pub fn retry(self, seconds: u64) -> Row {
        Row { retry: Some(Duration::from_secs(seconds)), ..self }
    }
}

/// `path/conflict/file` as Dropbox nests it.
pub fn nested(tags: &str) -> Value {
    match tags.split_once('/') {
        None => json!({ ".tag": tags }),
        Some((tag, rest)) => json!({ ".tag": tag, tag: nested(rest) }),
    }
}

impl Says {
    fn status(&self) -> u16 {
        match self {
            Says::Tags(_) | Says::Error(_) => 409,
            Says::Status(status, _) | Says::Json(status, _) | Says::Text(status, _) => *status,
        }
    }

    fn error(&self) -> Option<Value> {
        match self {
            Says::Tags(tags) | Says::Status(_, tags) => Some(nested(tags)),
            Says::Error(error) | Says::Json(_, error) => Some(error.clone()),
            Says::Text(..) => None,
        }
    }

    pub fn action(&self) -> Action {
        let (content_type, body) = match (self, self.error()) {
            (Says::Text(_, text), _) => ("text/plain; charset=utf-8", (*text).to_owned()),
            (_, error) => {
                let user_message = json!({ "locale": "en", "text": "SECRET user message" });
                let body = json!({ "error_summary": "SECRET/..", "error": error, "user_message": user_message });
                ("application/json", body.to_string())
            }
        };
        Action::Answer {
            status: self.status(),
            content_type: content_type.into(),
            body,
            headers: Vec::new(),
            executed: false,
            unread: false,
        }
    }
}

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request.metadata_mut().insert("x-request-id", REQUEST_ID.parse().expect("ascii"));
    request
}

macro_rules! call {
    ($house:ident . $method:ident, $request:ident { $($field:ident : $value:expr),* $(,)? }) => {{
        let request = pb::$request {
            application_parameter_id: PARAMETER.into(),
            $($field: $value,)*
            ..Default::default()
        };
        $house.patient().await.$method(timed(request)).await.map(|answer| { drop(answer); })
    }};
}

const URL: &str = "https://www.dropbox.com/scl/fi/abc/a.txt?rlkey=SECRET&dl=0";

impl Via {
    pub fn route(self) -> &'static str {
        match self {
            Via::GetItem => "files/get_metadata",
            Via::List => "files/list_folder",
            Via::ListMore => "files/list_folder/continue",
            Via::Search => "files/search_v2",
            Via::Create => "files/create_folder_v2",
            Via::Copy => "files/copy_v2",
            Via::Move => "files/move_v2",
            Via::Delete => "files/delete_v2",
            Via::Permanently => "files/permanently_delete",
            Via::TemporaryLink => "files/get_temporary_link",
            Via::Share => "sharing/create_shared_link_with_settings",
            Via::Links => "sharing/list_shared_links",
            Via::Revoke => "sharing/revoke_shared_link",
            Via::Download => "files/download",
            Via::Export => "files/export",
            Via::LinkFile => "sharing/get_shared_link_file",
            Via::Upload => "files/upload",
            Via::Start => "files/upload_session/start",
            Via::Append => "files/upload_session/append_v2",
            Via::Finish => "files/upload_session/finish",
            Via::Account => "users/get_space_usage",
            Via::Raw(route) => route,
        }
    }

    fn parameter(self) -> &'static str {
        if matches!(self, Via::Raw(_)) { RAW } else { PARAMETER }
    }

    pub async fn run(self, house: &House) -> Result<(), Status> {
        let path = || "/a.txt".to_owned();
        match self {
            Via::GetItem => call!(house.get_item, GetItemRequest { path: path() }),
            Via::List => call!(house.list_folder, ListFolderRequest { path: "/f".into() }),
            Via::ListMore => {
                let first = pb::ListFolderRequest {
                    application_parameter_id: PARAMETER.into(),
                    path: "/f".into(),
                    page_size: 1,
                    ..Default::default()
                };
                let page = house.client().list_folder(first.clone()).await?.into_inner();
                assert!(!page.next_page_token.is_empty(), "the folder has two items");
                let next = pb::ListFolderRequest { page_token: page.next_page_token, ..first };
                house.patient().await.list_folder(timed(next)).await.map(drop)
            }
            Via::Search => call!(house.search_items, SearchItemsRequest { query: "a".into() }),
            Via::Create => call!(house.create_folder, CreateFolderRequest { path: "/new".into() }),
            Via::Copy => call!(house.copy_item, CopyItemRequest { from_path: path(), to_path: "/b.txt".into() }),
            Via::Move => call!(house.move_item, MoveItemRequest { from_path: path(), to_path: "/b.txt".into() }),
            Via::Delete => call!(house.delete_item, DeleteItemRequest { path: path() }),
            Via::Permanently => call!(house.delete_item, DeleteItemRequest { path: path(), permanent: true }),
            Via::TemporaryLink => {
                let kind = pb::LinkKind::Temporary.into();
                call!(house.get_file_link, GetFileLinkRequest { path: path(), kind: kind })
            }
            Via::Share => call!(house.create_shared_link, CreateSharedLinkRequest { path: path() }),
            Via::Links => call!(house.list_shared_links, ListSharedLinksRequest { path: path() }),
            Via::Revoke => call!(house.revoke_shared_link, RevokeSharedLinkRequest { url: URL.into() }),
            Via::Download => read(house, "", crate::support::source("/a.txt")).await,
            Via::Export => read(house, "markdown", crate::support::source("/doc.paper")).await,
            Via::LinkFile => {
                let link = pb::SharedLinkSource { url: URL.into(), ..Default::default() };
                read(house, "", pb::download_file_request::Source::SharedLink(link)).await
            }
            Via::Upload => upload(house, spec("/up.txt"), b"content").await.map(drop),
            Via::Start => {
                let spec = pb::UploadSpec { total_size: Some(64 * 1024 * 1024), ..spec("/up.bin") };
                call!(house.start_upload, StartUploadRequest { spec: Some(spec) })
            }
            // Longer than one request may be, and in one lane.
            Via::Append | Via::Finish => {
                let spec = pb::UploadSpec { parallel_appends: 1, ..spec("/up.bin") };
                upload(house, spec, &noise(17 * MIB, 1)).await.map(drop)
            }
            Via::Account => call!(house.get_account, GetAccountRequest {}),
            Via::Raw(route) => {
                let request = pb::CallApiRequest {
                    application_parameter_id: RAW.into(),
                    route: route.into(),
                    arg: Some(Arg::ArgJson(r#"{"path":"/a.txt","shared_folder_id":"12"}"#.into())),
                    allow_mutation: true,
                    ..Default::default()
                };
                house.patient().await.call_api(timed(request)).await.map(drop)
            }
        }
    }
}

async fn read(house: &House, format: &str, source: pb::download_file_request::Source) -> Result<(), Status> {
    let request = pb::DownloadFileRequest {
        application_parameter_id: PARAMETER.into(),
        source: Some(source),
        export_format: format.into(),
        ..Default::default()
    };
    let mut stream = house.patient().await.download_file(timed(request)).await?.into_inner();
    while stream.message().await?.is_some() {}
    Ok(())
}

/// A house where every call of [`Via`] would succeed.
pub async fn furnished() -> House {
    let house = start().await;
    house
        .make_parameter(RAW, |parameter| {
            use pb::Permission::{Delete, Raw, Read, Share, Team, Write};
            let permissions = [Raw, Read, Write, Delete, Share, Team].map(Into::into).to_vec();
            parameter.policy = Some(pb::ParameterPolicy { permissions, ..Default::default() });
        })
        .await;
    for path in ["/a.txt", "/f/1.txt", "/f/2.txt"] {
        upload(&house, spec(path), path.as_bytes()).await.expect("upload");
    }
    let formats = [("markdown".to_owned(), "# Title".to_owned())].into();
    let document = Document { path: "/doc.paper".into(), formats, ..Document::default() };
    house.control().seed_document(&document).expect("a document");
    house
}

/// The names of the details a status carries, without their prefix.
pub fn details(status: &Status) -> BTreeSet<String> {
    use prost::Message as _;
    let whole = tonic_types::pb::Status::decode(status.details()).expect("a google.rpc.Status");
    assert_eq!((whole.code, whole.message.as_str()), (status.code() as i32, status.message()));
    let name = |any: &prost_types::Any| any.type_url.trim_start_matches("type.googleapis.com/google.rpc.").to_owned();
    let names: BTreeSet<String> = whole.details.iter().map(name).collect();
    assert_eq!(names.len(), whole.details.len(), "at most one detail of each type");
    names
}

/// What holds for every refusal, whatever it says.
pub fn check_shape(status: &Status) -> Result<(), String> {
    let mut wrong = Vec::new();
    let mut check = |holds: bool, text: &str| {
        if !holds {
            wrong.push(text.to_owned());
        }
    };
    let names = details(status);
    check(names.contains("ErrorInfo") && names.contains("RequestInfo"), "ErrorInfo and RequestInfo are always there");
    check(status.details().len() <= 4608, "the details fit a trailer");
    check(status.message().len() <= 512 && status.message().is_ascii(), "the message is short ASCII");
    let pushback = status.metadata().get("grpc-retry-pushback-ms").and_then(|value| value.to_str().ok());
    let wanted = retry_delay(status).map_or(-1, |delay| i64::try_from(delay.as_millis()).expect("short"));
    check(pushback == Some(wanted.to_string().as_str()), "the pushback trailer says what RetryInfo says");
    let found = status.get_error_details();
    let info = found.error_info().expect("looked for above");
    check(info.domain == "dropboxconnector", "the domain");
    check(info.metadata.contains_key("remedy") != names.contains("RetryInfo"), "a remedy or a time to try again");
    if let Err(text) = crate::support::manual::compare(&info.reason, &info.metadata) {
        check(false, &text);
    }
    for (key, value) in &info.metadata {
        check(key.bytes().all(|b| b.is_ascii_alphanumeric()), "keys are lowerCamelCase");
        check(value.len() <= if key == "uploadId" { 3328 } else { 256 }, "values are short");
    }
    for internal in ["earlierAttempt", "uploadSessionId", "correctOffset"] {
        check(!info.metadata.contains_key(internal), "what is ours alone is not told");
    }
    let text = format!("{status:?} {found:?}");
    check(!text.contains("SECRET"), "neither user messages nor links nor values are told");
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}

/// All that is wrong with what came of a row.
fn judge(row: &Row, status: &Status, dropbox_request_id: &str) -> Vec<String> {
    let mut wrong: Vec<String> = check_shape(status).err().into_iter().collect();
    let mut same = |what: &str, found: String, wanted: String| {
        if found != wanted {
            wrong.push(format!("{what} is {found}, not {wanted}"));
        }
    };
    let found = status.get_error_details();
    let info = found.error_info().expect("checked");
    same("the code", format!("{:?}", status.code()), format!("{:?}", row.code));
    same("the reason", info.reason.clone(), row.reason.into());
    let fixed = ["ErrorInfo", "RequestInfo"].into_iter().chain(row.retry.map(|_| "RetryInfo"));
    let wanted: BTreeSet<String> = fixed.chain(row.details.iter().copied()).map(str::to_owned).collect();
    same("the list of details", format!("{:?}", details(status)), format!("{wanted:?}"));
    same("the delay", format!("{:?}", retry_delay(status)), format!("{:?}", row.retry));
    let request = found.request_info().map(|request| request.request_id.clone()).unwrap_or_default();
    if !matches!(row.via, Via::Upload | Via::Append | Via::Finish) {
        same("the request id", request, REQUEST_ID.into());
    }
    if let Some(field) = row.field {
        let fields = found.bad_request().map(|bad| bad.field_violations.as_slice()).unwrap_or_default();
        let fields: Vec<&str> = fields.iter().map(|violation| violation.field.as_str()).collect();
        same("the field", format!("{fields:?}"), format!("{:?}", [field]));
    }
    let mut wanted: BTreeMap<&str, String> = row.facts.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
    wanted.insert("dropboxRequestId", dropbox_request_id.into());
    wanted.insert("dropboxRoute", row.via.route().into());
    if row.reason != "CONNECTOR_BUG" {
        wanted.insert("applicationParameterId", row.via.parameter().into());
        wanted.insert("httpStatus", row.says.status().to_string());
    }
    if let Some(tags) = row.says.error().map(|error| told_tags(&error)).filter(|tags| !tags.is_empty()) {
        wanted.insert("dropboxTag", tags);
    }
    let mut facts: BTreeMap<&str, String> =
        info.metadata.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    facts.remove("remedy");
    // An id is made anew each time: that it is there is what counts.
    if wanted.get("uploadId").is_some_and(|id| id == "*") && facts.contains_key("uploadId") {
        facts.insert("uploadId", "*".into());
    }
    same("the metadata", format!("{facts:?}"), format!("{wanted:?}"));
    let trailer = status.metadata().get("x-dropbox-request-id").and_then(|id| id.to_str().ok());
    same("the trailer", format!("{trailer:?}"), format!("{:?}", Some(dropbox_request_id)));
    wrong
}

/// The tags as `dropboxTag` tells them.
fn told_tags(error: &Value) -> String {
    let mut tags = Vec::new();
    let mut next = Some(error);
    while let Some(union) = next.filter(|union| union.get(".tag").is_some()) {
        let tag = union[".tag"].as_str().expect("a tag is a text");
        tags.push(tag);
        next = union.get(tag).filter(|inner| inner.get(".tag").is_some()).or_else(|| union.get("reason"));
    }
    tags.join("/")
}

/// Has the emulator say what each row says, and tells of every row that came out otherwise.
pub async fn check(house: &House, rows: &[Row]) {
    let control = house.control();
    let mut failures = Vec::new();
    for row in rows {
        control.clear_script();
        control.clear_journal();
        control.script([Rule::always(row.via.route(), row.says.action())]).expect("a sound rule");
        let told = match row.via.run(house).await {
            Ok(()) => vec!["it succeeded".to_owned()],
            Err(status) => {
                let journal = control.journal();
                let asked = journal.iter().rfind(|entry| entry.route == row.via.route());
                judge(row, &status, asked.map_or("never asked", |entry| &entry.request_id))
            }
        };
        if !told.is_empty() {
            failures.push(format!("{:?} on {:?}:\n    {}", row.says, row.via, told.join("\n    ")));
        }
    }
    control.clear_script();
    assert!(failures.is_empty(), "{} of {} rows:\n{}", failures.len(), rows.len(), failures.join("\n"));
}
