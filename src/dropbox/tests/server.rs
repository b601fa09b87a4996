//! An HTTP/1.1 server that answers the nth request with the nth line of its script and keeps what it saw.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use url::Url;

#[derive(Debug, Clone)]
pub(super) enum Act {
    /// Status, headers and body, with the body's length.
    Reply(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// A reply whose body breaks off after so many bytes.
    Break(u16, Vec<(&'static str, String)>, Vec<u8>, usize),
    /// A reply whose body stops after so many bytes and stays open.
    Halt(u16, Vec<(&'static str, String)>, Vec<u8>, usize),
    /// Reads the request and closes the connection.
    Cut,
    /// Reads the request and says nothing until the client goes.
    Stall,
}

impl Act {
    pub(super) fn json(status: u16, body: &str) -> Act {
        Act::Reply(status, vec![("content-type", "application/json".into())], body.into())
    }

    pub(super) fn with(self, name: &'static str, value: &str) -> Act {
        match self {
            Act::Reply(status, mut headers, body) => {
                headers.push((name, value.to_owned()));
                Act::Reply(status, headers, body)
            }
            act => act,
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

#[derive(Debug, Default)]
struct State {
    script: VecDeque<Act>,
    seen: Vec<Seen>,
    /// Clients that went while they were made to wait.
    gone: usize,
}

pub(super) struct Server {
    port: u16,
    state: Arc<Mutex<State>>,
}

impl Server {
    pub(super) async fn start(script: Vec<Act>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has ports");
        let port = listener.local_addr().expect("bound").port();
        let state = Arc::new(Mutex::new(State { script: script.into(), ..State::default() }));
        let shared = state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, shared.clone()));
            }
        });
        Server { port, state }
    }

    pub(super) fn url(&self) -> Url {
        Url::parse(&format!("http://127.0.0.1:{}", self.port)).expect("a url")
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.state.lock().expect("unpoisoned").seen.clone()
    }

    /// Waits until so many requests have arrived.
    pub(super) async fn arrived(&self, count: usize) {
        self.until(|state| state.seen.len() >= count).await;
    }

    /// Waits until so many waiting clients have gone.
    pub(super) async fn gone(&self, count: usize) {
        self.until(|state| state.gone >= count).await;
    }

    async fn until(&self, holds: impl Fn(&State) -> bool) {
        let bound = Instant::now() + Duration::from_secs(10);
        while !holds(&self.state.lock().expect("unpoisoned")) {
            assert!(Instant::now() < bound, "it does not come to that");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>) {
    let mut buffer = Vec::new();
    while let Some(seen) = request(&mut stream, &mut buffer).await {
        let act = {
            let mut state = state.lock().expect("unpoisoned");
            state.seen.push(seen);
            state.script.pop_front().unwrap_or_else(|| Act::json(200, "null"))
        };
        let breaks = matches!(act, Act::Break(..));
        let (status, headers, body, end) = match act {
            Act::Reply(status, headers, body) => {
                let length = body.len();
                (status, headers, body, length)
            }
            Act::Break(status, headers, body, end) | Act::Halt(status, headers, body, end) => {
                (status, headers, body, end)
            }
            Act::Cut => return,
            Act::Stall => {
                wait_for_end(&mut stream, &state).await;
                return;
            }
        };
        let whole = end == body.len();
        let mut head = format!("HTTP/1.1 {status} Said\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        if stream.write_all(head.as_bytes()).await.is_err() || stream.write_all(&body[..end]).await.is_err() || breaks {
            return;
        }
        if !whole {
            wait_for_end(&mut stream, &state).await;
            return;
        }
    }
}

async fn wait_for_end(stream: &mut TcpStream, state: &Mutex<State>) {
    let mut rest = [0; 1024];
    while matches!(stream.read(&mut rest).await, Ok(read) if read > 0) {}
    state.lock().expect("unpoisoned").gone += 1;
}

async fn request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Seen> {
    let head_end = loop {
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        more(stream, buffer).await?;
    };
    let head = String::from_utf8(buffer.drain(..head_end).collect()).expect("heads are ASCII");
    let mut lines = head.trim_end().split("\r\n");
    let target = lines.next()?.split(' ').nth(1)?.to_owned();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let seen = Seen { target, headers, body: Vec::new() };
    assert!(seen.header("transfer-encoding").is_none(), "every body has its length");
    let length = seen.header("content-length").map_or(0, |length| length.parse().expect("a number"));
    while buffer.len() < length {
        more(stream, buffer).await?;
    }
    Some(Seen { body: buffer.drain(..length).collect(), ..seen })
}

async fn more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<()> {
    let mut piece = vec![0; 64 * 1024];
    let read = stream.read(&mut piece).await.ok().filter(|read| *read > 0)?;
    buffer.extend_from_slice(&piece[..read]);
    Some(())
}
