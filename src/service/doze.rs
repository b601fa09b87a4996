//! A future that hardly ever ends, beside a stream that is asked all the time.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures::{future::BoxFuture, task::AtomicWaker};

/// Asks its future once, and again only when that has rung. Without it every message of every stream would take the locks of
/// whatever ends the stream one day: ten thousand watches share those.
pub(super) struct Doze<T> {
    future: BoxFuture<'static, T>,
    bell: Arc<Bell>,
}

struct Bell {
    rung: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl<T> Doze<T> {
    pub fn new(future: impl Future<Output = T> + Send + 'static) -> Doze<T> {
        let bell = Bell { rung: AtomicBool::new(true), task: AtomicWaker::new() };
        Doze { future: Box::pin(future), bell: Arc::new(bell) }
    }
}

impl<T> Future for Doze<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        // Registered first: what rings behind the look wakes the task.
        self.bell.task.register(context.waker());
        if !self.bell.rung.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        let waker = Waker::from(self.bell.clone());
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }
}

impl<T> fmt::Debug for Doze<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doze").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use futures::FutureExt as _;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_future_is_asked_again_only_when_it_has_rung_and_its_end_wakes_whoever_waits_last() {
        let asked = Arc::new(AtomicUsize::new(0));
        let (end, mut ended) = oneshot::channel();
        let counting = asked.clone();
        let mut doze = Doze::new(std::future::poll_fn(move |context| {
            counting.fetch_add(1, Ordering::Relaxed);
            ended.poll_unpin(context)
        }));
        for _ in 0..100 {
            assert!(futures::poll!(&mut doze).is_pending());
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        // Another task waits now than the one that was there at first.
        let waiting = tokio::spawn(doze);
        tokio::task::yield_now().await;
        end.send(7).unwrap();
        assert_eq!(waiting.await.unwrap(), Ok(7));
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn what_has_ended_before_anybody_asked_is_told_at_once() {
        assert_eq!(Doze::new(std::future::ready(1)).now_or_never(), Some(1));
    }
}
