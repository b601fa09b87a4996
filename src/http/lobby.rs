//! Who is on the public port, where anybody may come. Places are few. Who has sent the whole of a request keeps the place until
//! it is answered; where none is left, of those who have not one gives way: of the address that has the most of them, who came
//! first. So whoever is slow, in any number, keeps nobody else out.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use axum::{Extension, body::HttpBody as _, extract::Request, middleware::Next, response::Response};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::limits::CROWDED_OUT_TOLD;

#[derive(Clone)]
pub(super) struct Lobby(Arc<Inside>);

struct Inside {
    places: usize,
    guests: Mutex<Guests>,
    /// Somebody with a place has gone.
    left: Notify,
}

#[derive(Default)]
struct Guests {
    /// In the order they came.
    there: BTreeMap<u64, Guest>,
    count: u64,
    sent_away: u64,
    told_at: Option<Instant>,
}

struct Guest {
    from: IpAddr,
    /// The whole request is here.
    heard_out: bool,
    go: CancellationToken,
}

/// A place, for as long as it is held.
pub(super) struct Place {
    lobby: Lobby,
    number: u64,
    go: CancellationToken,
}

/// Whose request it is, for whoever reads it.
#[derive(Clone)]
pub(super) struct Ticket {
    lobby: Lobby,
    number: u64,
}

impl Lobby {
    pub(super) fn new(places: usize) -> Lobby {
        Lobby(Arc::new(Inside { places, guests: Mutex::default(), left: Notify::new() }))
    }

    /// A place, which may be one that somebody else has to leave. Waits while all requests are whole.
    pub(super) async fn enter(&self, from: IpAddr) -> Place {
        loop {
            if let Some(place) = self.enter_now(from) {
                return place;
            }
            self.0.left.notified().await;
        }
    }

    fn enter_now(&self, from: IpAddr) -> Option<Place> {
        let mut guests = self.lock();
        if guests.there.len() >= self.0.places {
            guests.send_one_away()?;
        }
        guests.count += 1;
        let (number, go) = (guests.count, CancellationToken::new());
        guests.there.insert(number, Guest { from: neighbourhood(from), heard_out: false, go: go.clone() });
        Some(Place { lobby: self.clone(), number, go })
    }

    fn lock(&self) -> MutexGuard<'_, Guests> {
        self.0.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guests {
    fn send_one_away(&mut self) -> Option<()> {
        let mut slow: HashMap<IpAddr, (usize, u64)> = HashMap::new();
        // The last one seen of an address is the first who came.
        for (number, guest) in self.there.iter().rev().filter(|(_, guest)| !guest.heard_out) {
            let (count, first) = slow.entry(guest.from).or_default();
            (*count, *first) = (*count + 1, *number);
        }
        let (_, first) = slow.into_values().max_by_key(|(count, first)| (*count, u64::MAX - *first))?;
        let guest = self.there.remove(&first)?;
        guest.go.cancel();
        self.sent_away += 1;
        if self.told_at.is_none_or(|at| at.elapsed() >= CROWDED_OUT_TOLD) {
            let count = std::mem::take(&mut self.sent_away);
            self.told_at = Some(Instant::now());
            tracing::warn!(count, "connections of the public port that sent nothing whole gave way to others");
        }
        Some(())
    }
}

impl Place {
    pub(super) fn ticket(&self) -> Ticket {
        Ticket { lobby: self.lobby.clone(), number: self.number }
    }

    /// Until somebody else needs the place.
    pub(super) async fn needed(&self) {
        self.go.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Who was sent away has none any more.
        if self.lobby.lock().there.remove(&self.number).is_some() {
            self.lobby.0.left.notify_one();
        }
    }
}

impl Ticket {
    /// The whole request is here.
    pub(super) fn heard_out(&self) {
        if let Some(guest) = self.lobby.lock().there.get_mut(&self.number) {
            guest.heard_out = true;
        }
    }
}

/// A request without a body is whole with its head.
pub(super) async fn note_whole(Extension(ticket): Extension<Ticket>, request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        ticket.heard_out();
    }
    next.run(request).await
}

/// Whose a connection is, as far as an address says. A host of IPv6 has a network of addresses to itself.
fn neighbourhood(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn from(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn is_needed(place: &Place) -> bool {
        place.needed().now_or_never().is_some()
    }

    #[tokio::test]
    async fn of_the_slow_ones_the_first_of_the_address_that_has_the_most_gives_way() {
        let lobby = Lobby::new(5);
        let mut places = Vec::new();
        // Two addresses of one network of IPv6 are one.
        for address in ["10.0.0.1", "2001:db8::1", "2001:db8::2", "10.0.0.2", "2001:db8::3"] {
            places.push(lobby.enter(from(address)).await);
        }
        places[1].ticket().heard_out();
        places.push(lobby.enter(from("10.0.0.3")).await);
        assert_eq!(places.iter().map(is_needed).collect::<Vec<_>>(), [false, false, true, false, false, false]);
        // Now each address has one: who came first.
        places.push(lobby.enter(from("10.0.0.3")).await);
        assert!(is_needed(&places[0]));
        // And whoever was sent away takes nobody's place with them.
        places.remove(0);
        assert_eq!(lobby.lock().there.len(), 5);
    }

    #[tokio::test]
    async fn whole_requests_keep_their_places_until_they_are_answered() {
        let lobby = Lobby::new(2);
        let mut places = [lobby.enter(from("10.0.0.1")).await, lobby.enter(from("10.0.0.1")).await].map(Some);
        places.iter().flatten().for_each(|place| place.ticket().heard_out());
        let mut third = Box::pin(lobby.enter(from("10.0.0.2")));
        assert!((&mut third).now_or_never().is_none());
        places[1] = None;
        let third = third.await;
        assert!(!is_needed(&third) && !places.iter().flatten().any(is_needed));
    }
}
