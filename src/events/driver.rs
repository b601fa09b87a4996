//! What a worker does with a feed: it takes the scope's lease, works until nothing is left to do, then longpolls, or leaves
//! the feed to the desk until it is time or somebody rings. Where another process has the scope it reads what that one saved.
//! A fault that passes is waited for; one that does not ends the feed and is told to its watchers.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use rand::Rng as _;
use tokio::sync::SemaphorePermit;

use super::{
    Inside, Poll,
    feed::Feed,
    poller::{Poller, Step},
    schedule::{Orders, Rest},
};
use crate::{
    dropbox::Underway,
    fair::Held,
    fault::{Fault, Reason, Result},
    limits::{EVENT_LEASE, FEED_RETRY, FEED_RETRY_MAX, LONGPOLL_WAIT, POLL_TURN, SAFETY_POLL},
};

/// What work came to.
enum Turn {
    /// The log is up to date.
    UpToDate,
    /// Another process polls, for so long at least.
    Elsewhere(Duration),
    /// Nobody watches, and the index is not to be built on now.
    Unwatched,
    /// The store has no such scope any more.
    Gone,
}

/// How a shift ends.
enum End {
    Rest(Rest),
    /// The feed is over; None: it is to be begun anew.
    Over(Option<Fault>),
}

/// What is to be done once the log is up to date.
enum Ahead<'a> {
    Rest { wait: Duration, in_turn: bool },
    Longpoll(SemaphorePermit<'a>),
}

/// One piece of work on a feed.
pub(super) async fn shift(hub: Arc<Inside>, feed: Arc<Feed>) {
    let mut poller = None;
    let before = feed.newest();
    let working = async {
        // What it takes is made when it has its place: many may wait for one.
        let place = hub.at_work.take(feed.scope.parameter.as_str(), 1).await;
        Box::pin(drive(&hub, &feed, &mut poller, place)).await
    };
    let end = tokio::select! {
        end = working => end,
        () = feed.over.cancelled() => End::Over(None),
        () = hub.parts.ended.cancelled() => End::Over(None),
    };
    feed.set_longpoll(None);
    Box::pin(shifted(&hub, &feed, poller, end, before)).await;
}

async fn shifted(hub: &Inside, feed: &Arc<Feed>, poller: Option<Poller>, end: End, before: i64) {
    let held = poller.as_ref().filter(|poller| poller.holds());
    match end {
        End::Rest(rest) => {
            if let Some(poller) = held {
                match rest {
                    Rest::For { wait, .. } => poller.park(wait).await,
                    Rest::Unwatched => poller.release().await,
                    Rest::Elsewhere(_) | Rest::Failed(_) => {}
                }
            }
            hub.desk.rest(feed, rest, feed.newest() != before);
        }
        End::Over(fault) => {
            if let Some(poller) = held {
                poller.release().await;
            }
            match fault {
                Some(fault) => hub.end(feed, fault),
                None => hub.leave(feed),
            }
        }
    }
}

async fn drive(hub: &Inside, feed: &Arc<Feed>, poller: &mut Option<Poller>, place: Held) -> End {
    let mut place = Some(place);
    let poller = match Poller::of(feed.clone()) {
        Ok(made) => poller.insert(made),
        Err(fault) => return End::Over(Some(fault)),
    };
    loop {
        let orders = hub.desk.orders(feed);
        let wished = feed.wished();
        if wished.is_none() && feed.is_built() {
            // It is given back for those who watch elsewhere: for that it has to be in hand.
            if feed.store.is_shared() && orders.holds && !poller.holds() {
                let _ = poller.lease().await;
            }
            return End::Rest(Rest::Unwatched);
        }
        // Who could longpoll takes it from who only looks now and then.
        let could_longpoll = wished == Some(Poll::Longpoll) && hub.longpolls.available_permits() > 0;
        let orders = Orders { urgent: orders.urgent || (!hub.parts.webhooks && could_longpoll), ..orders };
        let working = match place.take() {
            Some(working) => working,
            // Behind a longpoll, with the lease in hand. Nobody renews it meanwhile: it holds for some more seconds, and whoever
            // is kept waiting for longer is better relieved by a process that is less busy. What is here when the place comes
            // counts for nothing then: `lease` sees that another had it and reads what that one saved.
            None => hub.at_work.take(feed.scope.parameter.as_str(), 1).await,
        };
        poller.news |= orders.again;
        match work(hub, feed, poller, orders).await {
            Ok(Turn::UpToDate) => {}
            Ok(Turn::Elsewhere(held)) => {
                // Its watchers may drain cursors of their own: the log goes on where it is now.
                feed.set_hot(None);
                return End::Rest(Rest::Elsewhere(held));
            }
            Ok(Turn::Unwatched) => return End::Rest(Rest::Unwatched),
            Ok(Turn::Gone) => return End::Over(None),
            Err(fault) => return failed(hub, feed, fault),
        }
        feed.set_hot(poller.looked_at);
        hub.desk.up_to_date(feed);
        let longpolled = match ahead(hub, feed) {
            Ahead::Rest { wait, in_turn } => return End::Rest(Rest::For { wait, in_turn }),
            Ahead::Longpoll(_one) => {
                drop(working);
                let heard = longpoll(feed, poller).await;
                feed.set_longpoll(None);
                heard
            }
        };
        if let Err(fault) = longpolled {
            return failed(hub, feed, fault);
        }
    }
}

fn failed(hub: &Inside, feed: &Feed, fault: Fault) -> End {
    let Some(delay) = fault.retry_delay() else { return End::Over(Some(fault)) };
    feed.set_cold();
    let failures = hub.desk.failed(feed);
    let wait = (FEED_RETRY * 2u32.saturating_pow((failures - 1).min(6))).min(FEED_RETRY_MAX);
    let wait = wait.max(delay).mul_f64(rand::rng().random_range(0.8..1.2));
    let (parameter, scope) = (feed.scope.parameter.as_str(), feed.scope.mark());
    let wait_ms = wait.as_millis();
    tracing::warn!(%fault, parameter, scope, wait_ms, "a watched folder could not be followed; it is tried again");
    End::Rest(Rest::Failed(wait))
}

async fn work(hub: &Inside, feed: &Feed, poller: &mut Poller, orders: Orders) -> Result<Turn> {
    let mut urgent = orders.urgent;
    if feed.store.is_shared() && !orders.holds && !poller.holds() {
        let Some(held) = feed.look().await? else { return Ok(Turn::Gone) };
        let rests = rests(feed);
        urgent |= rests.is_zero() || feed.is_overdue(orders.rung_at);
        // Whoever is at work is left to it, whoever only keeps the scope gives way to who has reason to look.
        let gives_way = urgent && held > EVENT_LEASE;
        if !held.is_zero() && !gives_way {
            return Ok(Turn::Elsewhere(if rests.is_zero() { held } else { held.min(rests) }));
        }
    }
    if !poller.lease_for(urgent).await? {
        return elsewhere(feed).await;
    }
    let mut unwatched = None;
    let mut lost = std::pin::pin!(poller.keeping().lost());
    loop {
        // Whoever pulls comes back: the index is built on for them, for a while.
        if feed.wished().is_none() && !feed.is_built() {
            unwatched = unwatched.or_else(|| hub.unwatched.try_acquire().ok());
            if unwatched.is_none() || hub.desk.has_lingered(feed) {
                return Ok(Turn::Unwatched);
            }
        } else {
            unwatched = None;
        }
        // One page may take Dropbox longer than a lease lasts.
        let stepped = tokio::select! {
            biased;
            stepped = poller.step() => stepped?,
            () = &mut lost => Step::Lost,
        };
        match stepped {
            // Nobody waits for an index that is being built.
            Step::Worked if poller.is_at_rest() => feed.set_hot(poller.looked_at),
            Step::Worked => {}
            Step::Idle => return Ok(Turn::UpToDate),
            Step::Lost => {
                poller.lost();
                return elsewhere(feed).await;
            }
            Step::Gone => match feed.look().await? {
                None => return Ok(Turn::Gone),
                Some(_) => return Err(Fault::bug("the store has lost the index of a watched folder")),
            },
        }
    }
}

/// For so long nobody who watches here wants Dropbox to be asked again, by whichever process.
fn rests(feed: &Feed) -> Duration {
    let Some(Poll::Interval(interval)) = feed.wished() else { return Duration::MAX };
    let looked = feed.state().fresh_at.map(|at| feed.clock.steady().saturating_sub(at));
    looked.map_or(Duration::ZERO, |looked| interval.saturating_sub(looked))
}

async fn elsewhere(feed: &Feed) -> Result<Turn> {
    Ok(feed.look().await?.map_or(Turn::Gone, Turn::Elsewhere))
}

fn ahead<'a>(hub: &'a Inside, feed: &Feed) -> Ahead<'a> {
    let wished = feed.wished();
    // An index that could not be built is tried again.
    let index = feed.index_rests().unwrap_or(Duration::MAX);
    if hub.parts.webhooks {
        let wait = match wished {
            Some(Poll::Interval(interval)) => interval.min(SAFETY_POLL),
            _ => SAFETY_POLL.mul_f64(rand::rng().random_range(0.8..1.2)),
        };
        return Ahead::Rest { wait: wait.min(index), in_turn: false };
    }
    match wished {
        None if feed.is_built() => Ahead::Rest { wait: Duration::ZERO, in_turn: false },
        None => Ahead::Rest { wait: POLL_TURN.min(index), in_turn: false },
        Some(Poll::Interval(interval)) => Ahead::Rest { wait: interval.min(index), in_turn: false },
        Some(Poll::Longpoll) => match hub.longpolls.try_acquire() {
            Ok(place) => Ahead::Longpoll(place),
            Err(_) => Ahead::Rest { wait: POLL_TURN.min(index), in_turn: true },
        },
    }
}

/// Returns when there may be something to do.
async fn longpoll(feed: &Feed, poller: &mut Poller) -> Result<()> {
    let Some(cursor) = poller.cursor() else { return Ok(()) };
    let asking = async {
        // The folder stays in hand meanwhile: another worker or process would not wait.
        feed.backed_off().await;
        let asked = Arc::<Underway>::default();
        feed.set_longpoll(Some(asked.clone()));
        feed.upstream.longpoll(&feed.scope, &cursor, LONGPOLL_WAIT, asked).await
    };
    let mut asking = std::pin::pin!(asking);
    let mut lost = std::pin::pin!(poller.keeping().lost());
    let index = feed.index_rests();
    let index_rested = async {
        match index {
            Some(span) => feed.clock.sleep(span).await,
            None => std::future::pending().await,
        }
    };
    let mut index_rested = std::pin::pin!(index_rested);
    let answer = loop {
        tokio::select! {
            answer = &mut asking => break answer,
            () = feed.bell.notified() => {
                poller.news = true;
                return Ok(());
            }
            () = feed.wishes_changed.notified() => {
                // One that joins finds the question asked.
                if feed.wished() != Some(Poll::Longpoll) {
                    return Ok(());
                }
            }
            () = &mut index_rested => return Ok(()),
            () = &mut lost => return Ok(()),
        }
    };
    match answer {
        Ok(news) => {
            // What there is may be fetched at once: it is the next longpoll that has to wait.
            feed.back_off(news.backoff.unwrap_or_default());
            // A longpoll carries no token: only another question tells that the grant is gone, or that it was wrong.
            poller.news = true;
            if !news.changes {
                feed.heard_nothing();
            }
            Ok(())
        }
        Err(fault) if fault.reason() == Reason::CursorReset => {
            poller.news = true;
            Ok(())
        }
        Err(fault) => Err(fault),
    }
}

/// Ends feeds whose application parameter may not be used any more, until the process ends. One task for all of them.
pub(super) async fn watch_over(hub: Arc<Inside>) {
    let mut endings = FuturesUnordered::new();
    loop {
        tokio::select! {
            born = hub.desk.born.next() => endings.extend(born.into_iter().map(ending)),
            Some(ended) = endings.next() => {
                if let Some((feed, fault)) = ended {
                    hub.end(&feed, fault);
                }
            }
            () = hub.parts.ended.cancelled() => return,
        }
    }
}

/// When the application parameter may not be used any more; None: the feed was over before.
async fn ending(feed: Arc<Feed>) -> Option<(Arc<Feed>, Fault)> {
    let over = feed.over.clone();
    let waiting = async {
        loop {
            match feed.upstream.ending(&feed.scope).await {
                Ok(Some(ending)) => return ending.ended().await,
                Ok(None) => return std::future::pending().await,
                Err(fault) if fault.retry_delay().is_none() => return fault,
                Err(_) => feed.clock.sleep(FEED_RETRY).await,
            }
        }
    };
    let fault = tokio::select! {
        fault = waiting => fault,
        () = over.cancelled() => return None,
    };
    Some((feed, fault))
}
