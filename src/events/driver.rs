//! When a feed takes its steps: it holds the scope's lease, works until nothing is left to do, then waits for news: by a
//! longpoll, at an interval, or for a webhook with a look every ten minutes. Where another process holds the lease it follows
//! what that one saves. A fault that passes is waited for; one that does not ends the feed and is told to its watchers.

use std::{sync::Arc, time::Duration};

use rand::Rng as _;

use super::{
    Inside, Poll,
    feed::Feed,
    poller::{Poller, Step},
};
use crate::{
    fault::{Fault, Reason, Result},
    limits::{
        BUSY_RETRY, EVENT_FOLLOW, EVENT_LEASE_RENEW, FEED_LINGER, FEED_RETRY, FEED_RETRY_MAX, FEED_SPREAD,
        FEEDS_AT_ONCE, LONGPOLL_WAIT, POLL_TURN, SAFETY_POLL,
    },
};

/// What work came to.
enum Turn {
    /// The log is up to date.
    UpToDate,
    /// Another process polls.
    Elsewhere,
}

/// The life of a feed, until nobody watches it, the process ends or nothing will help.
pub(super) async fn run(hub: Arc<Inside>, feed: Arc<Feed>) {
    let life = async {
        spread(&hub, &feed).await;
        let Some(mut poller) = open(&feed).await else { return };
        let fault = tokio::select! {
            fault = Box::pin(drive(&hub, &feed, &mut poller)) => fault,
            fault = ending(&feed) => Some(fault),
        };
        poller.release().await;
        if let Some(fault) = fault {
            tracing::info!(%fault, "a watched folder is not followed any more");
            feed.end(fault);
        }
    };
    tokio::select! {
        () = life => {}
        () = hub.parts.ended.cancelled() => {
            let text = "the server is going down; another replica, or this one later, goes on with the resume token";
            feed.end(Fault::new(Reason::ServerDraining, text).retry_after(BUSY_RETRY));
        }
    }
    hub.leave(&feed);
}

/// A process with thousands of scopes does not ask for all of them in its first second.
async fn spread(hub: &Inside, feed: &Feed) {
    let there = hub.feeds();
    if there <= FEEDS_AT_ONCE {
        return;
    }
    let most = FEED_SPREAD * u32::try_from(there).unwrap_or(u32::MAX);
    let wait = most.mul_f64(rand::rng().random());
    tokio::select! {
        () = feed.clock.sleep(wait) => {}
        () = feed.bell.notified() => {}
    }
}

async fn open(feed: &Arc<Feed>) -> Option<Poller> {
    let mut failures = 0;
    loop {
        match Poller::open(feed.clone()).await {
            Ok(poller) => return Some(poller),
            Err(fault) if fault.retry_delay().is_some() => back_off(feed, &fault, &mut failures).await,
            Err(fault) => {
                feed.end(fault);
                return None;
            }
        }
    }
}

/// When the application parameter may not be used any more.
async fn ending(feed: &Feed) -> Fault {
    loop {
        match feed.upstream.ending(&feed.scope).await {
            Ok(Some(ending)) => return ending.ended().await,
            Ok(None) => return std::future::pending().await,
            Err(fault) if fault.retry_delay().is_none() => return fault,
            Err(_) => feed.clock.sleep(FEED_RETRY).await,
        }
    }
}

/// None: nobody watches.
async fn drive(hub: &Inside, feed: &Feed, poller: &mut Poller) -> Option<Fault> {
    let mut failures = 0;
    loop {
        if feed.wished().is_none() && !is_wanted_again(feed).await {
            return None;
        }
        let waited = match work(hub, feed, poller).await {
            Ok(Turn::UpToDate) => {
                failures = 0;
                feed.set_hot(poller.looked_at);
                wait_for_news(hub, feed, poller).await
            }
            Ok(Turn::Elsewhere) => {
                failures = 0;
                follow(feed).await
            }
            Err(fault) => Err(fault),
        };
        match waited {
            Ok(()) => {}
            Err(fault) if fault.retry_delay().is_some() => {
                feed.set_cold();
                back_off(feed, &fault, &mut failures).await;
            }
            Err(fault) => return Some(fault),
        }
    }
}

async fn is_wanted_again(feed: &Feed) -> bool {
    let linger = feed.clock.sleep(FEED_LINGER);
    let mut linger = std::pin::pin!(linger);
    loop {
        tokio::select! {
            () = &mut linger => return feed.wished().is_some(),
            () = feed.wishes_changed.notified() => {
                if feed.wished().is_some() {
                    return true;
                }
            }
        }
    }
}

async fn work(hub: &Inside, feed: &Feed, poller: &mut Poller) -> Result<Turn> {
    let _place = hub.at_work.acquire().await;
    let mut renewed_at = feed.clock.now();
    if !poller.lease().await? {
        return Ok(Turn::Elsewhere);
    }
    loop {
        match poller.step().await? {
            // Nobody waits for an index that is being built.
            Step::Worked if poller.is_at_rest() => feed.set_hot(poller.looked_at),
            Step::Worked => {}
            Step::Idle => return Ok(Turn::UpToDate),
            Step::Lost => return Ok(Turn::Elsewhere),
        }
        let now = feed.clock.now();
        if now.duration_since(renewed_at).unwrap_or_default() >= EVENT_LEASE_RENEW {
            if !poller.lease().await? {
                return Ok(Turn::Elsewhere);
            }
            renewed_at = now;
        }
    }
}

async fn follow(feed: &Feed) -> Result<()> {
    if !feed.look().await? {
        return Err(Fault::new(Reason::StoreUnavailable, "a watched folder was swept while it was watched")
            .retry_after(FEED_RETRY));
    }
    // Its watchers may drain cursors of their own: the log goes on where it is now.
    feed.set_hot(Some(feed.clock.now()));
    tokio::select! {
        () = feed.clock.sleep(EVENT_FOLLOW) => {}
        () = feed.bell.notified() => {}
    }
    Ok(())
}

/// Returns when there may be something to do.
async fn wait_for_news(hub: &Inside, feed: &Feed, poller: &mut Poller) -> Result<()> {
    if hub.parts.webhooks {
        // Whoever is woken takes the lease again.
        poller.release().await;
        let wait = match feed.wished() {
            Some(Poll::Interval(interval)) => interval.min(SAFETY_POLL),
            _ => SAFETY_POLL.mul_f64(rand::rng().random_range(0.8..1.2)),
        };
        return pause(feed, poller, wait, false).await;
    }
    match feed.wished() {
        None => Ok(()),
        Some(Poll::Interval(interval)) => pause(feed, poller, interval, true).await,
        Some(Poll::Longpoll) => match hub.longpolls.try_acquire() {
            Err(_) => pause(feed, poller, POLL_TURN, true).await,
            Ok(_place) => {
                feed.set_listening(true);
                let heard = longpoll(feed, poller).await;
                feed.set_listening(false);
                heard
            }
        },
    }
}

/// Until it is time, the bell rings, a watcher comes or goes, or another process has taken the scope.
async fn pause(feed: &Feed, poller: &mut Poller, wait: Duration, keep_lease: bool) -> Result<()> {
    let time = feed.clock.sleep(wait);
    let mut time = std::pin::pin!(time);
    loop {
        tokio::select! {
            () = &mut time => break,
            () = feed.bell.notified() => break,
            // Whoever joins wants to know what is now.
            () = feed.wishes_changed.notified() => break,
            () = feed.clock.sleep(EVENT_LEASE_RENEW), if keep_lease && feed.store.is_shared() => {
                if !poller.lease().await? {
                    return Ok(());
                }
            }
        }
    }
    poller.news = true;
    Ok(())
}

async fn longpoll(feed: &Feed, poller: &mut Poller) -> Result<()> {
    let Some(cursor) = poller.cursor() else { return Ok(()) };
    let asking = feed.upstream.longpoll(&feed.scope, &cursor, LONGPOLL_WAIT);
    let mut asking = std::pin::pin!(asking);
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
            () = feed.clock.sleep(EVENT_LEASE_RENEW), if feed.store.is_shared() => {
                if !poller.lease().await? {
                    return Ok(());
                }
            }
        }
    };
    let news = match answer {
        Ok(news) => news,
        Err(fault) if fault.reason() == Reason::CursorReset => {
            poller.news = true;
            return Ok(());
        }
        Err(fault) => return Err(fault),
    };
    poller.news = news.changes;
    match news.backoff {
        // Others add some seconds to it, too.
        Some(backoff) if !news.changes => pause(feed, poller, backoff, true).await,
        _ => Ok(()),
    }
}

async fn back_off(feed: &Feed, fault: &Fault, failures: &mut u32) {
    let wait = (FEED_RETRY * 2u32.saturating_pow(*failures)).min(FEED_RETRY_MAX);
    let wait = wait.max(fault.retry_delay().unwrap_or_default()).mul_f64(rand::rng().random_range(0.8..1.2));
    *failures = (*failures + 1).min(6);
    tracing::warn!(%fault, wait_ms = wait.as_millis(), "a watched folder could not be followed; it is tried again");
    feed.clock.sleep(wait).await;
}
