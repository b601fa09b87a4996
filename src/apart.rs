//! Work that goes on although nobody asks for it. A stream whose caller does not read is not polled: the future in it stands
//! still where it is, and keeps the lock or the place it has from everybody else until its caller reads on.

use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use crate::fault::{Fault, Result};

/// Does in a task of its own what may hold something that others wait for. It ends early with whoever waits for it.
///
/// # Errors
/// Those of the work.
pub async fn apart<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    let task = AbortOnDropHandle::new(tokio::spawn(work.in_current_span()));
    task.await.unwrap_or_else(|error| Err(Fault::bug("a task broke off").source(error)))
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
}
