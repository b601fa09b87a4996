//! Work that goes on although nobody asks for it. A stream whose caller does not read is not polled: the future in it stands
//! still where it is, and keeps the lock or the place it has from everybody else until its caller reads on.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use crate::fault::{Fault, Result};

/// Work that is done in a task of its own. It ends early with whoever has this.
#[derive(Debug)]
pub struct Apart<T>(AbortOnDropHandle<Result<T>>);

/// Does in a task of its own what may hold something that others wait for.
pub fn apart<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Apart<T> {
    Apart(AbortOnDropHandle::new(tokio::spawn(work.in_current_span())))
}

impl<T> Apart<T> {
    /// What comes of work that is begun once, however often the wait for it is given up and taken up again: it is kept until then.
    ///
    /// # Errors
    /// Those of the work.
    pub async fn once(kept: &mut Option<Apart<T>>, begin: impl FnOnce() -> Apart<T>) -> Result<T> {
        let done = kept.get_or_insert_with(begin).await;
        *kept = None;
        done
    }
}

impl<T> Future for Apart<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        let done = ready!(Pin::new(&mut self.0).poll(context));
        Poll::Ready(done.unwrap_or_else(|error| Err(Fault::bug("a task broke off").source(error))))
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use tokio::sync::{Mutex, Notify, oneshot};

    use super::*;

    #[tokio::test]
    async fn work_lets_go_of_what_it_holds_though_nobody_polls_who_waits_for_it() {
        let (lock, answer) = (Arc::new(Mutex::new(())), Arc::new(Notify::new()));
        let (held, answered) = (lock.clone(), answer.clone());
        let mut waits = Box::pin(apart(async move {
            let _held = held.lock().await;
            answered.notified().await;
            Ok(7)
        }));
        assert!(futures::poll!(waits.as_mut()).is_pending());
        tokio::task::yield_now().await;
        assert!(lock.try_lock().is_err(), "it is at work");
        answer.notify_one();
        drop(tokio::time::timeout(Duration::from_secs(10), lock.lock()).await.expect("it goes on by itself"));
        assert_eq!(waits.await.unwrap(), 7);
    }

    #[tokio::test]
    async fn work_that_nobody_waits_for_any_more_is_over_and_work_that_breaks_off_is_a_fault() {
        let (kept, mut gone) = oneshot::channel::<()>();
        let waits = apart(async move {
            let _kept = kept;
            std::future::pending::<Result<()>>().await
        });
        let mut waits = Box::pin(waits);
        assert!(futures::poll!(waits.as_mut()).is_pending());
        drop(waits);
        tokio::time::timeout(Duration::from_secs(10), &mut gone).await.expect("it ends").unwrap_err();
        let broken = apart(async { Err::<(), _>(Fault::bug("as it said")) }).await.unwrap_err();
        assert_eq!(broken.message(), "as it said");
    }

    #[tokio::test]
    async fn work_that_is_kept_is_done_once_though_its_wait_is_given_up() {
        let answer = Arc::new(Notify::new());
        let mut begun = 0;
        let mut kept = None;
        for _ in 0..3 {
            let mut waits = Box::pin(Apart::once(&mut kept, || {
                begun += 1;
                let answered = answer.clone();
                apart(async move {
                    answered.notified().await;
                    Ok(7)
                })
            }));
            assert!(futures::poll!(waits.as_mut()).is_pending());
        }
        answer.notify_one();
        assert_eq!(Apart::once(&mut kept, || unreachable!("it is under way")).await.unwrap(), 7);
        assert!(kept.is_none() && begun == 1);
    }
}
