//! The commits of one namespace, turn by turn: as many with each as may share a request.

use std::{sync::Arc, time::Duration};

use dropbox_sdk::files::{UploadSessionCursor, UploadSessionFinishArg};
use futures::{StreamExt as _, future::join_all, stream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Item;
use crate::{
    dropbox::Turn,
    engine::{
        gate::NamespaceKey,
        together::{Paths, back_off},
        upload::{
            Settled, Shared,
            commit::{may_have_happened, outcome_unknown},
            finish::{Batch, End, doubted, finish_batch},
            overdue,
        },
    },
    fault::{Fault, Reason, Result},
    limits,
    store::{Intent, Outcome},
};

/// What goes with the next turn.
enum Next {
    Together(Vec<Item>),
    One(Box<Item>),
    /// Nothing before then.
    At(Instant),
}

/// Who takes the turns.
pub(super) struct Turns {
    pub shared: Arc<Shared>,
    parameter: String,
    deadline: Option<std::time::Instant>,
    /// Nobody waits any more.
    pub left: CancellationToken,
}

impl Turns {
    pub fn new(
        shared: Arc<Shared>,
        parameter: &str,
        deadline: Option<std::time::Instant>,
        left: CancellationToken,
    ) -> Turns {
        Turns { shared, parameter: parameter.to_owned(), deadline, left }
    }

    /// Until there is an end to all that wait. `turn`: the first one, if it has been taken already.
    pub async fn lane(&self, key: NamespaceKey, mut waiting: Vec<Item>, mut turn: Option<Turn>) {
        while !waiting.is_empty() {
            waiting.sort_by_key(|item| item.n);
            let most = self.shared.gates.batch_max(&key);
            let next = match next(&mut waiting, Instant::now(), most) {
                Next::At(at) => {
                    turn = None;
                    tokio::select! {
                        biased;
                        () = self.left.cancelled() => return self.withdrawn(waiting, &overdue(false)).await,
                        () = tokio::time::sleep_until(at) => continue,
                    }
                }
                next => next,
            };
            let keys = std::slice::from_ref(&key);
            let turn = match turn.take() {
                Some(turn) => Ok(turn),
                None => tokio::select! {
                    biased;
                    () = self.left.cancelled() => Err(overdue(false)),
                    turn = self.shared.gates.turn(&self.parameter, keys, self.deadline) => turn,
                },
            };
            match (turn, next) {
                (Ok(turn), Next::Together(items)) => waiting.extend(self.together(items, turn, &key).await),
                (Ok(turn), Next::One(item)) => self.one(*item, turn).await,
                (Ok(_), Next::At(_)) => {}
                (Err(fault), next) => {
                    match next {
                        Next::Together(items) => waiting.extend(items),
                        Next::One(item) => waiting.push(*item),
                        Next::At(_) => {}
                    }
                    return self.withdrawn(waiting, &fault).await;
                }
            }
        }
    }

    /// Nothing of them was sent, or nothing happened, as far as anybody knows.
    async fn withdrawn(&self, items: Vec<Item>, fault: &Fault) {
        let of = |item: &Item| if item.unclear { outcome_unknown() } else { fault.told_again() };
        let told = items.into_iter().map(|item| (of(&item), item)).map(|(fault, item)| (item, Err(fault))).collect();
        self.settled(told).await;
    }

    /// Commits with one request; those that go again.
    async fn together(&self, mut items: Vec<Item>, turn: Turn, key: &NamespaceKey) -> Vec<Item> {
        let (mut going, passed, late) = match self.intended(&items).await {
            Ok(intended) => {
                let (mut going, mut passed, mut late) = (Vec::new(), Vec::new(), Vec::new());
                for (mut item, intent) in items.into_iter().zip(intended) {
                    match intent {
                        Ok(()) => {
                            item.intended = true;
                            // Writing them down took its time: whoever was told meanwhile that nothing was sent is told the truth.
                            let leaves = item.unclear || item.asker.sent.leaves();
                            if leaves { going.push(item) } else { late.push(item) }
                        }
                        Err(fault) => passed.push((item, fault)),
                    }
                }
                (going, passed, late)
            }
            Err(fault) => {
                drop(turn);
                // It may have been written all the same.
                items.iter_mut().for_each(|item| item.intended = true);
                self.withdrawn(items, &fault).await;
                return Vec::new();
            }
        };
        let mut again = Vec::new();
        if !going.is_empty() {
            let once = going[0].once();
            let doubts: Vec<bool> = going.iter().map(|item| item.unclear).collect();
            let first = going[0].caller.clone();
            let Batch { ends, unclear, request_id, took } =
                finish_batch(&first, turn, once, going.iter().map(commit).collect(), &doubts).await;
            self.shared.gates.batch_took(key, going.len(), took);
            for item in &mut going {
                item.unclear |= unclear;
                // The request was the first one's; its answer is everyone's.
                item.caller.hears(request_id.as_deref());
            }
            again = self.ended(going, ends).await;
        } else {
            // Whoever has passed these may need it.
            drop(turn);
        }
        self.withdrawn(late, &overdue(false)).await;
        join_all(passed.into_iter().map(|(item, fault)| self.passed(item, fault))).await;
        again
    }

    async fn intended(&self, items: &[Item]) -> Result<Vec<Result<()>>> {
        let terms: Vec<Vec<u8>> = items.iter().map(|item| item.record.handle.spec.encoded()).collect::<Result<_>>()?;
        let intents: Vec<Intent<'_>> = items
            .iter()
            .zip(&terms)
            .map(|(item, spec)| Intent {
                id: &item.record.handle.id,
                writer: item.record.writer,
                size: item.whole.size,
                spec,
                again: item.intended || item.record.intended,
            })
            .collect();
        self.shared.store.intend_commits(&intents).await
    }

    /// Tells what came of a batch; those that go again.
    async fn ended(&self, items: Vec<Item>, ends: Vec<End>) -> Vec<Item> {
        let (mut told, mut refused, mut again) = (Vec::new(), Vec::new(), Vec::new());
        let most = items.iter().map(|item| item.contentions + 1).max().unwrap_or(1);
        let now = Instant::now();
        let together = now + back_off(most);
        for (mut item, end) in items.into_iter().zip(ends) {
            match end {
                End::Done(file) => {
                    let settled = Settled::of(*file, item.whole);
                    told.push((item, Ok(settled)));
                }
                End::Unsent(_) | End::Contended(_) if item.contentions < limits::BATCH_CONTENTIONS_MAX => {
                    item.contentions += 1;
                    // For good: it does not go back among others.
                    item.apart |= matches!(end, End::Contended(_));
                    item.again_at = Some(if item.apart { now + back_off(item.contentions) } else { together });
                    item.asker.sent.set(item.unclear);
                    again.push(item);
                }
                End::Unsent(fault) | End::Contended(fault) if item.unclear => refused.push((item, doubted(fault))),
                End::Unsent(fault) | End::Contended(fault) | End::Refused(fault) => refused.push((item, fault)),
                End::Alone(fault) => {
                    tracing::info!(%fault, "an upload is committed by itself");
                    if !item.record.intended
                        && let Err(fault) =
                            self.shared.store.commit_refused(&item.record.handle.id, item.record.writer).await
                    {
                        told.push((item, Err(fault)));
                        continue;
                    }
                    (item.single, item.intended) = (true, false);
                    item.asker.sent.set(false);
                    again.push(item);
                }
            }
        }
        // What is known is told before others are looked for.
        self.settled(told).await;
        let looks = stream::iter(refused).map(|(item, fault)| self.looked(item, fault));
        self.settled(looks.buffer_unordered(limits::COMMIT_LOOKS).collect::<Vec<_>>().await).await;
        again
    }

    /// Whether a commit that failed was refused, or happened all the same.
    async fn looked(&self, item: Item, fault: Fault) -> (Item, Result<Settled>) {
        let doubtful = item.record.is_doubtful() && fault.get("earlierAttempt").is_none();
        let fault = if doubtful { fault.fact("earlierAttempt", "unknown") } else { fault };
        let (spec, since) = (&item.record.handle.spec, item.record.handle.begun_at());
        // The call may be over by now; what became of its commits is to be known all the same.
        let caller = item.caller.for_a_look();
        let settled = self.shared.settle_fault(&caller, spec, item.whole, since, fault).await;
        (item, settled)
    }

    /// Writes down what became of them and lets them go, then tells it.
    async fn settled(&self, told: Vec<(Item, Result<Settled>)>) {
        let mut written: Vec<(&Item, Option<String>)> = Vec::new();
        for (item, settled) in &told {
            match settled {
                Ok(settled) => match serde_json::to_string(settled) {
                    Ok(outcome) => written.push((item, Some(outcome))),
                    Err(error) => tracing::error!(%error, "an outcome could not be encoded"),
                },
                // A later look must find it, so the intent stays.
                Err(fault) if may_have_happened(fault) => {}
                // Nor does this one say what an earlier one did.
                Err(_) if item.intended && !item.record.intended => written.push((item, None)),
                Err(_) => {}
            }
        }
        let outcomes: Vec<Outcome<'_>> = written
            .iter()
            .map(|(item, committed)| Outcome {
                id: &item.record.handle.id,
                writer: item.record.writer,
                committed: committed.as_deref(),
            })
            .collect();
        if !outcomes.is_empty() {
            match self.shared.store.settle_commits(&outcomes).await {
                Ok(()) => written.iter().for_each(|(item, _)| item.hold.has_ended()),
                Err(fault) => {
                    tracing::warn!(%fault, "the outcomes of commits could not be written down; they will be looked up");
                }
            }
        }
        for (item, settled) in told {
            let settled = settled.and_then(Settled::proven).map_err(|fault| item.located(fault));
            item.hold.end().await;
            item.asker.tell(settled).await;
        }
    }

    /// Another call has taken it over before this one could send its commit; what that one does is known soon.
    async fn passed(&self, item: Item, fault: Fault) {
        let Item { asker, record, hold, whole, .. } = item;
        // It waits for this one.
        hold.end().await;
        let settled = match fault.reason() {
            Reason::UploadTakenOver => {
                self.shared.stopped(&record.handle.id, record.writer + 1).await;
                match self.shared.committed_meanwhile(&record, whole).await {
                    Ok(settled) => settled.ok_or(fault),
                    Err(fault) => Err(fault),
                }
            }
            _ => Err(fault),
        };
        asker.tell(settled).await;
    }

    async fn one(&self, item: Item, turn: Turn) {
        if !item.asker.sent.leaves() {
            drop(turn);
            return self.withdrawn(vec![item], &overdue(false)).await;
        }
        let settled = self.shared.commit_once(&item.caller, &item.record, item.whole, item.doubt, turn).await;
        let settled = settled.map_err(|fault| item.located(fault));
        item.hold.end().await;
        item.asker.tell(settled).await;
    }
}

fn commit(item: &Item) -> UploadSessionFinishArg {
    let handle = &item.record.handle;
    let cursor = UploadSessionCursor::new(handle.session.clone(), item.whole.size);
    UploadSessionFinishArg::new(cursor, handle.spec.commit_info())
}

/// Takes out what goes with one turn, in the order of the call, `most` at most. Paths that are equal or lie in each other keep their order, what
/// may be sent once only does not go with what is repeated, and what goes by itself goes by itself, as does what met contention.
fn next(waiting: &mut Vec<Item>, now: Instant, most: usize) -> Next {
    let mut paths = Paths::default();
    let mut kind = None;
    let (mut chosen, mut left) = (Vec::new(), Vec::new());
    for item in waiting.drain(..) {
        let is_free = paths.take(std::slice::from_ref(&item.path));
        let is_due = item.again_at.is_none_or(|at| at <= now);
        let alone = item.single || item.apart;
        let fits = kind.is_none_or(|kind| kind == (false, item.once()) && !alone);
        if is_free && is_due && fits && chosen.len() < most {
            kind = Some((alone, item.once()));
            chosen.push(item);
        } else {
            left.push(item);
        }
    }
    *waiting = left;
    match kind {
        Some(_) if chosen[0].single => Next::One(Box::new(chosen.swap_remove(0))),
        Some(_) => Next::Together(chosen),
        None => {
            let soonest = waiting.iter().filter_map(|item| item.again_at).filter(|at| now < *at).min();
            Next::At(soonest.unwrap_or(now + Duration::from_millis(1)))
        }
    }
}
