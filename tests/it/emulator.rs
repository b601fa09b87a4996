//! The emulator held against what is published and what was recorded, over plain HTTP.

mod changes;
mod consent;
mod entries;
mod faults;
mod links;
mod lists;
mod replay;
mod strict;
mod wire;

use std::sync::Once;

use dropbox_connector::{
    clock::ManualClock,
    emulator::{Emulator, Options, control::Control, oauth::Login, schema::Schema},
};
use reqwest::{Method, RequestBuilder, Response, header::HeaderMap};
use serde_json::{Value, json};

/// An emulator of its own, and a client that adds nothing by itself.
struct Bench {
    emulator: Emulator,
    http: reqwest::Client,
    login: Login,
    clock: ManualClock,
}

/// An answer, read whole.
#[derive(Debug)]
struct Said {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Said {
    async fn read(response: Response) -> Said {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Said { status, headers, body: response.bytes().await.expect("a whole body").to_vec() }
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }

    /// The body of a success.
    fn good(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        self.json()
    }

    /// The error of a 409.
    fn error(&self) -> Value {
        assert_eq!(self.status, 409, "{}", self.text());
        self.json()["error"].clone()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.headers)).to_str().expect("text")
    }
}

impl Bench {
    async fn start() -> Bench {
        let clock = ManualClock::new(std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_800_000_000));
        let options = Options { manual_clock: Some(clock.clone()), ..Options::default() };
        let emulator = Emulator::start(options).await.expect("an emulator on free ports");
        Bench { clock, ..Bench::over(emulator) }
    }

    /// The clock is not the emulator's.
    fn over(emulator: Emulator) -> Bench {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| _ = rustls::crypto::ring::default_provider().install_default());
        let clock = ManualClock::new(std::time::SystemTime::UNIX_EPOCH);
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build();
        Bench { login: emulator.account(), http: http.expect("a plain client"), emulator, clock }
    }

    fn control(&self) -> Control {
        self.emulator.control()
    }

    fn url(&self, route: &str) -> String {
        use dropbox_connector::emulator::Host;
        let at = self.emulator.addresses();
        let host = match Schema::get().route(route).expect("a published route").host {
            Host::Content => &at.content,
            Host::Notify => &at.notify,
            _ => &at.api,
        };
        format!("{host}/2/{route}")
    }

    /// A request of `route` with the login's token, and nothing else yet.
    fn bare(&self, route: &str) -> RequestBuilder {
        self.http.request(Method::POST, self.url(route)).bearer_auth(&self.login.access_token)
    }

    async fn send(&self, request: RequestBuilder) -> Said {
        Said::read(request.send().await.expect("an answer")).await
    }

    async fn rpc(&self, route: &str, arg: Value) -> Said {
        let request = self.bare(route).header("Content-Type", "application/json").body(arg.to_string());
        self.send(request).await
    }

    async fn upload(&self, route: &str, arg: Value, body: impl Into<reqwest::Body>) -> Said {
        let request = self.bare(route).header("Content-Type", "application/octet-stream");
        self.send(request.header("Dropbox-API-Arg", arg.to_string()).body(body)).await
    }

    async fn download(&self, route: &str, arg: Value) -> Said {
        self.send(self.bare(route).header("Dropbox-API-Arg", arg.to_string())).await
    }

    /// A file at `path`; its metadata.
    async fn file(&self, path: &str, bytes: &[u8]) -> Value {
        self.upload("files/upload", json!({ "path": path, "mode": "overwrite" }), bytes.to_vec()).await.good()
    }

    /// One emulator's answers were all of the published types.
    fn end(self) {
        assert_eq!(self.control().wrong_answers(), Vec::<String>::new());
    }
}
