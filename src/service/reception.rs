//! Who comes in over TLS, from the accepted socket to the end of the handshake. A peer that says nothing holds no place: it is
//! given one when its first bytes are there. Places are few, in all and for one address; while others wait for one, whoever
//! takes too long gives it up. So neither silence nor a stalled handshake keeps anybody else out.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{Stream, StreamExt as _};
use tokio::{
    net::TcpStream,
    task::{AbortHandle, Id, JoinError, JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;
use tonic::transport::server::TcpIncoming;

use super::{
    audit,
    listener::{Connection, Peer},
};
use crate::{
    access::{Certificate, tls::Tls},
    limits::{
        CROWDED_OUT_TOLD, HANDSHAKE_PATIENCE, HANDSHAKE_TIMEOUT, HANDSHAKES_MAX, HANDSHAKES_OF_ADDRESS_MAX,
        HANDSHAKES_WAITING_MAX,
    },
    telemetry::TLS_HANDSHAKES,
};

/// How many may be where.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// Handshakes under way.
    places: usize,
    of_address: usize,
    /// Sockets that are silent, or have spoken and wait for a place.
    waiting: usize,
    patience: Duration,
}

const BOUNDS: Bounds = Bounds {
    places: HANDSHAKES_MAX,
    of_address: HANDSHAKES_OF_ADDRESS_MAX,
    waiting: HANDSHAKES_WAITING_MAX,
    patience: HANDSHAKE_PATIENCE,
};

/// Connections whose handshake is done.
pub(super) fn received(
    arrived: TcpIncoming,
    tls: Arc<Tls>,
) -> impl Stream<Item = io::Result<Connection>> + Send + 'static {
    Reception::new(arrived, tls, BOUNDS).stream()
}

struct Reception {
    arrived: TcpIncoming,
    tls: Arc<Tls>,
    bounds: Bounds,
    /// One task for each who is silent or shakes hands; all end with the listener.
    tasks: JoinSet<Step>,
    guests: HashMap<Id, Guest>,
    /// Those who have spoken and wait for a place.
    queue: VecDeque<Spoken>,
    crowded_out: CrowdedOut,
}

/// Whose task it is.
struct Guest {
    from: IpAddr,
    remote: Option<SocketAddr>,
    stage: Stage,
    since: Instant,
    task: AbortHandle,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Silent,
    Shaking,
}

struct Spoken {
    tcp: TcpStream,
    peer: Peer,
}

/// How a task ended.
enum Step {
    Spoken(Spoken),
    Open(Box<Connection>),
    Lost,
}

impl Reception {
    fn new(arrived: TcpIncoming, tls: Arc<Tls>, bounds: Bounds) -> Reception {
        Reception {
            arrived,
            tls,
            bounds,
            tasks: JoinSet::new(),
            guests: HashMap::new(),
            queue: VecDeque::new(),
            crowded_out: CrowdedOut::default(),
        }
    }

    fn stream(self) -> impl Stream<Item = io::Result<Connection>> + Send + 'static {
        let next = |mut reception: Reception| async { reception.next().await.map(|one| (one, reception)) };
        futures::stream::unfold(self, next)
    }

    async fn next(&mut self) -> Option<io::Result<Connection>> {
        loop {
            while let Some(at) = self.choose() {
                if let Some(spoken) = self.queue.remove(at) {
                    self.shake(spoken);
                }
            }
            let patience_ends = self.patience_ends();
            let to_tell = self.crowded_out.tell();
            tokio::select! {
                Some(ended) = self.tasks.join_next_with_id() => if let Some(open) = self.ended(ended) {
                    return Some(Ok(open));
                },
                arrived = self.arrived.next() => match arrived? {
                    Ok(tcp) => self.receive(tcp),
                    // The server knows which of these are to be got over.
                    Err(error) => return Some(Err(error)),
                },
                () = tokio::time::sleep_until(patience_ends.unwrap_or_else(Instant::now).into()),
                    if patience_ends.is_some() => {}
                () = tokio::time::sleep_until(to_tell.unwrap_or_else(Instant::now).into()), if to_tell.is_some() => {}
            }
        }
    }

    /// A new socket: waits for its first bytes.
    fn receive(&mut self, tcp: TcpStream) {
        let silent = self.guests.values().filter(|guest| guest.stage == Stage::Silent).count();
        if silent + self.queue.len() >= self.bounds.waiting {
            self.turn_one_away();
        }
        let peer = Peer { remote: tcp.peer_addr().ok(), certificate: Certificate::None };
        let remote = peer.remote;
        let task = self.tasks.spawn(first_bytes(tcp, peer));
        self.remember(task, remote, Stage::Silent);
    }

    fn shake(&mut self, spoken: Spoken) {
        let remote = spoken.peer.remote;
        let task = self.tasks.spawn(shake_hands(spoken, self.tls.clone()));
        self.remember(task, remote, Stage::Shaking);
    }

    fn remember(&mut self, task: AbortHandle, remote: Option<SocketAddr>, stage: Stage) {
        let guest = Guest { from: neighbourhood(remote), remote, stage, since: Instant::now(), task };
        self.guests.insert(guest.task.id(), guest);
    }

    fn ended(&mut self, ended: Result<(Id, Step), JoinError>) -> Option<Connection> {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        // Who was sent away is not known any more, however far the task had come.
        self.guests.remove(&id)?;
        match ended.ok()?.1 {
            Step::Spoken(spoken) => self.queue.push_back(spoken),
            Step::Open(open) => return Some(*open),
            Step::Lost => {}
        }
        None
    }

    /// Who of the queue gets a place now: the first of the address that holds the fewest. Where there is none left, in all or
    /// for the address, it has to come from somebody who has had one for too long.
    fn choose(&mut self) -> Option<usize> {
        if self.queue.is_empty() {
            return None;
        }
        let held = self.held(Stage::Shaking);
        let holds = |from: &IpAddr| held.get(from).copied().unwrap_or(0);
        let mut first: HashMap<IpAddr, usize> = HashMap::new();
        for (at, spoken) in self.queue.iter().enumerate() {
            first.entry(neighbourhood(spoken.peer.remote)).or_insert(at);
        }
        let mut first: Vec<(IpAddr, usize)> = first.into_iter().collect();
        first.sort_unstable_by_key(|(from, at)| (holds(from), *at));
        let full = held.values().sum::<usize>() >= self.bounds.places;
        for (from, at) in first {
            let room = if holds(&from) >= self.bounds.of_address {
                self.take_place(|guest| guest.from == from)
            } else if full {
                let most = holds(&from).max(1);
                self.take_place(|guest| holds(&guest.from) >= most)
            } else {
                true
            };
            if room {
                return Some(at);
            }
        }
        None
    }

    /// Sends away who has shaken hands for longest, if that is too long.
    fn take_place(&mut self, of: impl Fn(&Guest) -> bool) -> bool {
        let patience = self.bounds.patience;
        let shaking = self.guests.values().filter(|guest| guest.stage == Stage::Shaking && of(guest));
        let slowest = shaking.min_by_key(|guest| guest.since).filter(|guest| guest.since.elapsed() >= patience);
        let slowest = slowest.map(|guest| guest.task.id());
        let slowest = slowest.and_then(|id| self.guests.remove(&id));
        slowest.map(|guest| self.crowd_out(guest)).is_some()
    }

    /// Too many are waiting: of the address that has the most, who has been silent for longest, else who came last.
    fn turn_one_away(&mut self) {
        let mut waiting = self.held(Stage::Silent);
        for spoken in &self.queue {
            *waiting.entry(neighbourhood(spoken.peer.remote)).or_default() += 1;
        }
        let Some(most) = waiting.into_iter().max_by_key(|(_, count)| *count).map(|(from, _)| from) else { return };
        let silent = self.guests.values().filter(|guest| guest.stage == Stage::Silent && guest.from == most);
        let oldest = silent.min_by_key(|guest| guest.since).map(|guest| guest.task.id());
        let newest = self.queue.iter().rposition(|spoken| neighbourhood(spoken.peer.remote) == most);
        if let Some(guest) = oldest.and_then(|id| self.guests.remove(&id)) {
            self.crowd_out(guest);
        } else if let Some(spoken) = newest.and_then(|at| self.queue.remove(at)) {
            self.crowded_out.add(spoken.peer.remote);
        }
    }

    fn crowd_out(&mut self, guest: Guest) {
        guest.task.abort();
        self.crowded_out.add(guest.remote);
    }

    fn held(&self, stage: Stage) -> HashMap<IpAddr, usize> {
        let mut held: HashMap<IpAddr, usize> = HashMap::new();
        for guest in self.guests.values().filter(|guest| guest.stage == stage) {
            *held.entry(guest.from).or_default() += 1;
        }
        held
    }

    /// When the next one who shakes hands has taken too long, if that is of interest to anybody.
    fn patience_ends(&self) -> Option<Instant> {
        if self.queue.is_empty() {
            return None;
        }
        let (now, patience) = (Instant::now(), self.bounds.patience);
        let shaking = self.guests.values().filter(|guest| guest.stage == Stage::Shaking);
        // Those who are over it already hold places that nobody in the queue may have.
        shaking.map(|guest| guest.since + patience).filter(|end| *end > now).min()
    }
}

/// Waits until a peer has said something, or has gone.
async fn first_bytes(tcp: TcpStream, peer: Peer) -> Step {
    // Not `readable`, which may say so without a byte.
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, tcp.peek(&mut [0; 1])).await {
        Ok(Ok(_)) => Step::Spoken(Spoken { tcp, peer }),
        Ok(Err(error)) => lost(peer.remote, &error),
        Err(_) => lost(peer.remote, &io::ErrorKind::TimedOut.into()),
    }
}

async fn shake_hands(spoken: Spoken, tls: Arc<Tls>) -> Step {
    let Spoken { tcp, peer } = spoken;
    let accepting = TlsAcceptor::from(tls.server_config()).accept(tcp);
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, accepting).await {
        Ok(Ok(stream)) => {
            metrics::counter!(TLS_HANDSHAKES, "outcome" => "ok").increment(1);
            let certificate = Certificate::of(stream.get_ref().1);
            Step::Open(Box::new(Connection::over_tls(stream, Peer { certificate, ..peer })))
        }
        Ok(Err(error)) => lost(peer.remote, &error),
        Err(_) => lost(peer.remote, &io::ErrorKind::TimedOut.into()),
    }
}

fn lost(remote: Option<SocketAddr>, error: &io::Error) -> Step {
    metrics::counter!(TLS_HANDSHAKES, "outcome" => "failed").increment(1);
    audit::no_handshake(remote, error);
    Step::Lost
}

/// Who was sent away to make room. A line for each would let a flood fill the log, and whoever writes one waits for room: once
/// a second they are told together, beside the loop that lets others in.
#[derive(Default)]
struct CrowdedOut {
    count: u64,
    /// The last one.
    remote: Option<SocketAddr>,
    told_at: Option<Instant>,
    telling: Option<JoinHandle<()>>,
}

impl CrowdedOut {
    fn add(&mut self, remote: Option<SocketAddr>) {
        metrics::counter!(TLS_HANDSHAKES, "outcome" => "failed").increment(1);
        (self.count, self.remote) = (self.count + 1, remote);
    }

    /// Tells of them unless that was done a moment ago, or is still being done; when to come again if any are left.
    fn tell(&mut self) -> Option<Instant> {
        if self.count == 0 {
            return None;
        }
        let now = Instant::now();
        match self.told_at.map(|at| at + CROWDED_OUT_TOLD) {
            Some(next) if now < next => return Some(next),
            _ if self.telling.as_ref().is_some_and(|telling| !telling.is_finished()) => {
                return Some(now + CROWDED_OUT_TOLD);
            }
            _ => {}
        }
        let (count, remote) = (std::mem::take(&mut self.count), self.remote.take());
        self.told_at = Some(now);
        self.telling = Some(tokio::task::spawn_blocking(move || audit::crowded_out(count, remote)));
        None
    }
}

impl Drop for CrowdedOut {
    fn drop(&mut self) {
        if self.count > 0 {
            audit::crowded_out(self.count, self.remote);
        }
    }
}

/// Whose a connection is, as far as an address says. A host of IPv6 has a network of addresses to itself.
fn neighbourhood(remote: Option<SocketAddr>) -> IpAddr {
    match remote.map(|remote| remote.ip().to_canonical()) {
        Some(IpAddr::V6(address)) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        Some(address) => address,
        None => Ipv4Addr::UNSPECIFIED.into(),
    }
}

#[cfg(test)]
mod tests;
