//! The whole call against a server that does what a script says, byte by byte.

mod calls;
mod server;
mod transfers;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use futures::future::BoxFuture;

use super::*;
use crate::{
    clock::{Clock, ManualClock},
    fault::{Fault, Reason, Result},
};
use server::{Act, Server};

/// Tokens `token-0`, `token-1`, … of growing generation.
#[derive(Debug, Default)]
struct Tokens {
    generation: AtomicU64,
    rejected: Mutex<Vec<u64>>,
    gone: bool,
}

impl Tokens {
    fn bearer(&self) -> Arc<Bearer> {
        let generation = self.generation.load(Ordering::Acquire);
        Arc::new(Bearer {
            token: crate::secret::Secret::new(format!("token-{generation}")).into(),
            expires_at: None,
            generation,
        })
    }
}

impl TokenSource for Tokens {
    fn current(&self) -> Option<Arc<Bearer>> {
        Some(self.bearer())
    }

    fn grant(&self) -> (&str, i64) {
        ("tests", 1)
    }

    fn renew<'a>(&'a self, rejected: Option<&'a Bearer>) -> BoxFuture<'a, Result<Arc<Bearer>>> {
        Box::pin(async move {
            let rejected = rejected.expect("a call that has a bearer names it");
            self.rejected.lock().expect("unpoisoned").push(rejected.generation);
            if self.gone {
                return Err(Fault::new(Reason::ReauthorizationRequired, "gone"));
            }
            self.generation.fetch_add(1, Ordering::AcqRel);
            Ok(self.bearer())
        })
    }
}

/// A caller at a scripted server under a clock moved by hand.
struct Bench {
    server: Server,
    clock: ManualClock,
    tokens: Arc<Tokens>,
    transport: Arc<Transport>,
    caller: Caller,
}

impl Bench {
    async fn new(script: Vec<Act>) -> Bench {
        Bench::with(script, Tokens::default(), Timeouts::default()).await
    }

    async fn with(script: Vec<Act>, tokens: Tokens, timeouts: Timeouts) -> Bench {
        let server = Server::start(script).await;
        let url = server.url();
        let endpoints = Endpoints { api: url.clone(), content: url.clone(), notify: url.clone(), oauth: url };
        let clock = ManualClock::new(SystemTime::UNIX_EPOCH);
        let transport = Transport::new(endpoints, true, Arc::new(clock.clone())).expect("loopback is fit");
        let tokens = Arc::new(tokens);
        let account = AccountKey::new("dbid:1");
        let caller = Caller::new(transport.clone(), tokens.clone(), account, None, None, None, timeouts);
        Bench { server, clock, tokens, transport, caller }
    }

    fn acting(&self, act_as: ActAs, root: Root) -> Caller {
        let account = AccountKey::new("dbid:1");
        let (transport, tokens) = (self.transport.clone(), self.tokens.clone());
        Caller::new(transport, tokens, account, Some(act_as), Some(root), None, Timeouts::default())
    }

    fn within(&self, span: Duration) -> Caller {
        self.caller.with_deadline(Some(Instant::now() + span))
    }

    /// Runs a call to its end and lets time fly whenever it waits.
    async fn run<T>(&self, call: impl Future<Output = T>) -> T {
        let mut call = std::pin::pin!(call);
        let bound = Instant::now() + Duration::from_secs(20);
        loop {
            match tokio::time::timeout(Duration::from_millis(5), &mut call).await {
                Ok(end) => return end,
                Err(_) => self.clock.advance(Duration::from_secs(1)).await,
            }
            assert!(Instant::now() < bound, "the call does not end");
        }
    }
}
