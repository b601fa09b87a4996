//! gRPC-Web as browsers speak it, byte by byte: preflight, calls, refused origins. The browser itself is in `make test-clients`.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use dropbox_connector::api::v1 as pb;
use prost::Message as _;

use crate::support::{House, PARAMETER, spec, start, start_with, upload};

const ORIGIN: &str = "https://app.example.com";
const GET_ITEM: &str = "/dropboxconnector.v1.DropboxConnector/GetItem";

async fn open_to_pages() -> House {
    let house = start_with(|config| {
        config.grpc_web = true;
        config.grpc_web_origins = vec![ORIGIN.into()];
    })
    .await;
    upload(&house, spec("/a.txt"), b"hello").await.expect("upload");
    house
}

/// Head in lower case, and body, of one HTTP/1.1 exchange.
fn exchange(house: &House, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(house.addresses.data).expect("connect");
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n",
        body.len()
    );
    headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
    stream.write_all(format!("{head}\r\n").as_bytes()).expect("sent");
    stream.write_all(body).expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a head");
    (String::from_utf8_lossy(&answer[..end]).to_lowercase(), answer[end + 4..].to_vec())
}

fn framed(message: &impl prost::Message) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    let length = u32::try_from(bytes.len()).expect("small").to_be_bytes();
    [&[0][..], &length, &bytes].concat()
}

fn ask(house: &House, method: &str, origin: Option<&str>, message: &impl prost::Message) -> (String, Vec<u8>) {
    let path = format!("/dropboxconnector.v1.DropboxConnector/{method}");
    let mut headers = vec![("content-type", "application/grpc-web+proto"), ("x-grpc-web", "1")];
    headers.extend(origin.map(|origin| ("origin", origin)));
    exchange(house, "POST", &path, &headers, &framed(message))
}

fn get_item() -> pb::GetItemRequest {
    pb::GetItemRequest { application_parameter_id: PARAMETER.into(), path: "/a.txt".into(), ..Default::default() }
}

/// The bytes of a chunked body.
fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = body.windows(2).position(|bytes| bytes == b"\r\n") {
        let size =
            usize::from_str_radix(std::str::from_utf8(&body[..end]).expect("a size").trim(), 16).expect("a size");
        if size == 0 {
            break;
        }
        whole.extend_from_slice(&body[end + 2..end + 2 + size]);
        body = &body[end + 2 + size + 2..];
    }
    whole
}

/// The messages, and the trailers as text.
fn frames(body: &[u8]) -> (Vec<Vec<u8>>, String) {
    let whole = unchunked(body);
    let (mut rest, mut messages, mut trailers) = (&whole[..], Vec::new(), String::new());
    while rest.len() >= 5 {
        let length = u32::from_be_bytes(rest[1..5].try_into().expect("four bytes")) as usize;
        let payload = rest[5..5 + length].to_vec();
        if rest[0] & 0x80 == 0 {
            messages.push(payload)
        } else {
            trailers = String::from_utf8(payload).expect("text")
        }
        rest = &rest[5 + length..];
    }
    (messages, trailers)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_an_allowed_origin_asks_first_and_then_calls() {
    let house = open_to_pages().await;
    let headers = "authorization,content-type,x-grpc-web,grpc-timeout,x-request-id,x-application-parameter-id";
    let preflight =
        [("origin", ORIGIN), ("access-control-request-method", "POST"), ("access-control-request-headers", headers)];
    let (head, _) = exchange(&house, "OPTIONS", GET_ITEM, &preflight, b"");
    assert!(
        head.starts_with("http/1.1 200") && head.contains(&format!("access-control-allow-origin: {ORIGIN}")),
        "{head}"
    );
    let allowed = head.lines().find_map(|line| line.strip_prefix("access-control-allow-headers: ")).expect("headers");
    for name in headers.split(',') {
        assert!(allowed.split(',').any(|allowed| allowed.trim() == name), "{name}: {allowed}");
    }
    assert!(!head.contains("access-control-allow-credentials") && !head.contains(": *"), "{head}");

    let (head, body) = ask(&house, "GetItem", Some(ORIGIN), &get_item());
    assert!(head.starts_with("http/1.1 200") && head.contains("content-type: application/grpc-web+proto"), "{head}");
    let exposed = head.lines().find_map(|line| line.strip_prefix("access-control-expose-headers: ")).expect("exposed");
    for name in ["grpc-status", "grpc-message", "grpc-status-details-bin", "x-request-id"] {
        assert!(exposed.split(',').any(|exposed| exposed.trim() == name), "{name}: {exposed}");
    }
    let (messages, trailers) = frames(&body);
    let answer = pb::GetItemResponse::decode(&*messages[0]).expect("an answer");
    assert_eq!(
        (answer.item.expect("an item").name.as_str(), trailers.contains("grpc-status:0")),
        ("a.txt", true),
        "{trailers}"
    );

    let source = pb::download_file_request::Source::Path("/a.txt".into());
    let download = pb::DownloadFileRequest {
        application_parameter_id: PARAMETER.into(),
        source: Some(source),
        ..Default::default()
    };
    let (_, body) = ask(&house, "DownloadFile", Some(ORIGIN), &download);
    let (messages, trailers) = frames(&body);
    let bytes: Vec<u8> = messages
        .iter()
        .filter_map(|message| match pb::DownloadFileResponse::decode(&**message).expect("a message").payload {
            Some(pb::download_file_response::Payload::Chunk(chunk)) => Some(chunk.data),
            _ => None,
        })
        .flatten()
        .collect();
    assert_eq!((&*bytes, messages.len(), trailers.contains("grpc-status:0")), (&b"hello"[..], 3, true), "{trailers}");
    let info = house.client().get_server_info(pb::GetServerInfoRequest {}).await.expect("info").into_inner();
    assert_eq!(info.features, ["grpc_web"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_watches_until_its_deadline() {
    use dropbox_connector::api::{Encoded, plain::watch_events_response::Payload};
    let house = open_to_pages().await;
    let watch = pb::WatchEventsRequest {
        application_parameter_id: PARAMETER.into(),
        start: Some(pb::watch_events_request::Start::StartPosition(pb::StartPosition::Snapshot.into())),
        ..Default::default()
    };
    let headers = [
        ("content-type", "application/grpc-web+proto"),
        ("x-grpc-web", "1"),
        ("origin", ORIGIN),
        ("grpc-timeout", "3S"),
    ];
    let path = "/dropboxconnector.v1.DropboxConnector/WatchEvents";
    let (_, body) = exchange(&house, "POST", path, &headers, &framed(&watch));
    let (messages, trailers) = frames(&body);
    let payloads: Vec<Payload> = messages
        .iter()
        .filter_map(|message| Encoded::decode(&**message).expect("a message").into_plain().payload)
        .collect();
    let Some(Payload::Snapshot(snapshot)) = payloads.first() else { panic!("{payloads:?}") };
    assert!(snapshot.items.iter().any(|item| item.name == "a.txt"), "{payloads:?}");
    assert!(payloads.iter().any(|payload| matches!(payload, Payload::Ready(_))), "{payloads:?}");
    assert!(matches!(payloads.last(), Some(Payload::Draining(_))) && trailers.contains("grpc-status:4"), "{trailers}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_any_other_origin_is_refused_before_anything_is_done() {
    let house = open_to_pages().await;
    let before = house.control().counter("files/get_metadata").calls;
    for origin in ["https://evil.example.com", "null", "https://app.example.com.evil.example", "http://app.example.com"]
    {
        let (head, body) = ask(&house, "GetItem", Some(origin), &get_item());
        assert!(head.starts_with("http/1.1 403") && !head.contains("access-control"), "{origin}: {head}");
        assert!(!String::from_utf8_lossy(&body).contains("a.txt"), "{origin}");
        let preflight = [("origin", origin), ("access-control-request-method", "POST")];
        let (head, _) = exchange(&house, "OPTIONS", GET_ITEM, &preflight, b"");
        assert!(head.starts_with("http/1.1 403") && !head.contains("access-control"), "{origin}: {head}");
    }
    assert_eq!(house.control().counter("files/get_metadata").calls, before, "Dropbox was not asked");
    // Whoever is no browser sends no origin, and ordinary gRPC goes on beside it.
    let (head, _) = ask(&house, "GetItem", None, &get_item());
    assert!(head.starts_with("http/1.1 200"), "{head}");
    house.client().get_item(get_item()).await.expect("gRPC");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_switch_no_page_is_answered() {
    let house = start().await;
    let mut stream = TcpStream::connect(house.addresses.data).expect("connect");
    let request = format!(
        "POST {GET_ITEM} HTTP/1.1\r\nhost: x\r\ncontent-type: application/grpc-web+proto\r\norigin: {ORIGIN}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = Vec::new();
    // A listener of HTTP/2 alone closes, with or without a word in its own language.
    let _ = stream.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
}

/// One request of HTTP/2 in plaintext, as nobody sends it but who means to.
async fn post(
    address: std::net::SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    message: &impl prost::Message,
) -> reqwest::Response {
    let http = reqwest::Client::builder().http2_prior_knowledge().build().expect("a client");
    let mut request = http.post(format!("http://{address}{path}")).body(framed(message));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_page_can_have_a_browser_send_changes_nothing_on_any_port() {
    let house = start().await;
    upload(&house, spec("/a.txt"), b"hello").await.expect("upload");
    let admin = "/dropboxconnector.v1.DropboxAdminConnector/DeleteApplicationParameter";
    let data = "/dropboxconnector.v1.DropboxConnector/DeleteItem";
    let delete = pb::DeleteApplicationParameterRequest { application_parameter_id: PARAMETER.into(), revoke: false };
    let item = pb::DeleteItemRequest {
        application_parameter_id: PARAMETER.into(),
        path: "/a.txt".into(),
        ..Default::default()
    };
    // Nobody is asked who they are here: a browser on this machine could be sent by any page.
    let languages =
        ["text/plain", "application/x-www-form-urlencoded", "application/json", "application/grpc-web+proto"];
    for headers in languages.map(|language| vec![("content-type", language)]).into_iter().chain([Vec::new()]) {
        let answers = [
            post(house.addresses.admin, admin, &headers, &delete).await,
            post(house.addresses.data, data, &headers, &item).await,
        ];
        for answer in answers {
            assert_eq!(answer.status(), 415, "{headers:?}");
            assert!(answer.text().await.expect("a text").contains("application/grpc"));
        }
    }
    let headers = [("content-type", "application/grpc"), ("origin", ORIGIN), ("x-request-id", "mine")];
    let answers = [
        post(house.addresses.admin, admin, &headers, &delete).await,
        post(house.addresses.data, data, &headers, &item).await,
        post(house.addresses.data, "/grpc.health.v1.Health/Check", &headers, &delete).await,
    ];
    for answer in answers {
        let told = |name: &str| answer.headers().get(name).map(|value| value.to_str().expect("ascii").to_owned());
        assert_eq!(told("grpc-status").as_deref(), Some("7"), "{answer:?}");
        assert_eq!(told("x-request-id").as_deref(), Some("mine"));
        assert!(told("grpc-message").is_some_and(|text| text.contains("grpc_web_origins")), "{answer:?}");
        let status = tonic::Status::from_header_map(answer.headers()).expect("a status");
        assert_eq!(crate::support::reason(&status), "CALLER_NOT_ALLOWED");
        assert_eq!(crate::support::fact(&status, "cause").as_deref(), Some("page"));
    }
    house.client().get_item(get_item()).await.expect("both are still there");
    // The same bytes do delete where they come as gRPC.
    let headers = [("content-type", "application/grpc+proto"), ("te", "trailers")];
    post(house.addresses.admin, admin, &headers, &delete).await.bytes().await.expect("an answer");
    let gone = house.client().get_item(get_item()).await.expect_err("deleted");
    assert_eq!(crate::support::reason(&gone), "APPLICATION_PARAMETER_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_that_may_call_the_data_port_may_not_call_the_admin_port() {
    let house = open_to_pages().await;
    let list = "/dropboxconnector.v1.DropboxAdminConnector/ListApplicationParameters";
    for language in ["application/grpc-web+proto", "application/grpc"] {
        let headers = [("content-type", language), ("origin", ORIGIN)];
        let answer =
            post(house.addresses.admin, list, &headers, &pb::ListApplicationParametersRequest::default()).await;
        let refused = answer.headers().get("grpc-status").is_some_and(|code| code == "7") || answer.status() == 415;
        assert!(refused && answer.headers().get("access-control-allow-origin").is_none(), "{language}: {answer:?}");
    }
    let headers = [("content-type", "application/grpc"), ("origin", ORIGIN)];
    let answer = post(house.addresses.data, GET_ITEM, &headers, &get_item()).await;
    assert_eq!(answer.status(), 200);
    assert!(answer.headers().get("grpc-status").is_none(), "the status comes behind the answer: {answer:?}");
    // A browser asks nobody before it sends text; that opens no door for any origin.
    let headers = [("content-type", "text/plain"), ("origin", ORIGIN)];
    assert_eq!(post(house.addresses.data, GET_ITEM, &headers, &get_item()).await.status(), 415);
}
