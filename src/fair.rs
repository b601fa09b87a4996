//! Places that application parameters share. Who has some already gets another only while much more than that is free, so
//! one that takes all it may leaves an eighth of what it found to whoever comes next. The last place goes to one that has
//! none: behind four that take all they may of 512, a fifth finds nothing. Who waits is served parameter by parameter in turn,
//! and within one in the order of arrival. Of a single place, whoever has had it goes behind all who came meanwhile.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use crate::limits::FAIR_SHARE;

/// So many places; a clone is the same ones.
#[derive(Clone)]
pub struct Fair(Arc<Inside>);

struct Inside {
    total: usize,
    state: Mutex<State>,
}

struct State {
    free: usize,
    /// By parameter; none stands here with nothing.
    held: HashMap<Arc<str>, usize>,
    /// Parameters that wait, each once. Looked through from the front, as far as those stand there who have their share.
    turns: VecDeque<Arc<str>>,
    /// Theirs; none is empty.
    queues: HashMap<Arc<str>, VecDeque<Waiter>>,
}

struct Waiter {
    places: usize,
    grant: oneshot::Sender<Held>,
}

/// Places of one parameter, given back when dropped.
pub struct Held {
    of: Arc<Inside>,
    parameter: Arc<str>,
    places: usize,
}

impl Fair {
    pub fn new(total: usize) -> Fair {
        Fair(Arc::new(Inside {
            total,
            state: Mutex::new(State {
                free: total,
                held: HashMap::new(),
                turns: VecDeque::new(),
                queues: HashMap::new(),
            }),
        }))
    }

    /// Does anybody else have a clone, hold a place or wait for one?
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// Does anybody wait for one?
    pub fn is_waited_for(&self) -> bool {
        self.0.lock().first_who(|_, _| true).is_some()
    }

    /// Does another parameter?
    pub fn is_waited_for_beside(&self, parameter: &str) -> bool {
        self.0.lock().first_who(|_, one| one != parameter).is_some()
    }

    /// Places that are free, within the share of this parameter, and that nobody waits for.
    pub fn try_take(&self, parameter: &str, places: usize) -> Option<Held> {
        let places = places.min(self.0.total);
        let mut state = self.0.lock();
        // Whoever may have some and waits lacks nothing but free ones: they are next.
        let waited_for = state.first_who(|state, one| *one == *parameter || state.may(one)).is_some();
        if waited_for || places > state.free || !state.may(parameter) {
            return None;
        }
        Some(self.0.take(&mut state, parameter.into(), places))
    }

    /// The same for a share that is small beside what is asked for at once: what is left after it has to be a share, too.
    pub fn try_take_leaving(&self, parameter: &str, places: usize) -> Option<Held> {
        let mut state = self.0.lock();
        let held = state.held.get(parameter).copied().unwrap_or(0);
        if !leaves_a_share(held, state.free, places) {
            return None;
        }
        Some(self.0.take(&mut state, parameter.into(), places))
    }

    /// Places that nobody has.
    pub fn free(&self) -> usize {
        self.0.lock().free
    }

    /// Waits for them in turn. Dropping the future leaves the queue.
    pub async fn take(&self, parameter: &str, places: usize) -> Held {
        let places = places.min(self.0.total);
        // Whoever leaves may have kept those behind it from what is free.
        let leaving = Leaving(&self.0);
        loop {
            let granted = {
                let mut state = self.0.lock();
                let (grant, granted) = oneshot::channel();
                let waiter = Waiter { places, grant };
                match state.queues.get_mut(parameter) {
                    Some(queue) => {
                        make_room(queue);
                        queue.push_back(waiter);
                    }
                    None => {
                        let parameter: Arc<str> = parameter.into();
                        state.turns.push_back(parameter.clone());
                        state.queues.insert(parameter, [waiter].into());
                    }
                }
                granted
            };
            self.0.serve();
            // The sender goes only with its grant.
            if let Ok(held) = granted.await {
                std::mem::forget(leaving);
                return held;
            }
        }
    }
}

/// Who has nothing may always have some.
pub fn may_have_more(held: usize, free: usize) -> bool {
    held == 0 || held < free.saturating_mul(FAIR_SHARE)
}

fn leaves_a_share(held: usize, free: usize, places: usize) -> bool {
    free.checked_sub(places).is_some_and(|left| held + places <= left.saturating_mul(FAIR_SHARE))
}

/// How often one parameter gets so many places at once while no other has any.
pub fn alone(total: usize, places: usize) -> usize {
    let may = |n: &usize| total - n * places >= places && may_have_more(n * places, total - n * places);
    (0..total / places.max(1)).take_while(may).count()
}

/// The same of [`Fair::try_take_leaving`].
pub fn alone_leaving(total: usize, places: usize) -> usize {
    let may = |n: &usize| leaves_a_share(n * places, total - n * places, places);
    (0..total / places.max(1)).take_while(may).count()
}

/// How often parameters that have nothing yet get so many places of [`Fair::try_take_leaving`], one after the other.
pub fn together_leaving(total: usize, places: usize) -> usize {
    (0..total / places.max(1)).take_while(|n| leaves_a_share(0, total - n * places, places)).count()
}

impl State {
    /// Is another place within the share of this parameter?
    fn may(&self, parameter: &str) -> bool {
        may_have_more(self.held.get(parameter).copied().unwrap_or(0), self.free)
    }

    fn held_less(&mut self, parameter: &str, places: usize) {
        if let Some(held) = self.held.get_mut(parameter) {
            *held -= places;
            if *held == 0 {
                self.held.remove(parameter);
            }
        }
    }

    /// Whoever has had the only place goes behind those who came meanwhile.
    fn goes_behind(&mut self, parameter: &str) {
        if let Some(at) = self.turns.iter().position(|one| **one == *parameter) {
            let last = self.turns.remove(at);
            self.turns.extend(last);
        }
    }

    /// Where the first one stands of those in turn who still waits and is like that. Who has left is forgotten on the way, as
    /// far as it comes to the front.
    fn first_who(&mut self, is_it: impl Fn(&State, &str) -> bool) -> Option<usize> {
        let mut at = 0;
        while let Some(parameter) = self.turns.get(at).cloned() {
            let queue = self.queues.entry(parameter.clone()).or_default();
            while queue.front().is_some_and(|waiter| waiter.grant.is_closed()) {
                queue.pop_front();
            }
            if queue.is_empty() {
                self.queues.remove(&parameter);
                self.turns.remove(at);
            } else if is_it(self, &parameter) {
                return Some(at);
            } else {
                at += 1;
            }
        }
        None
    }
}

/// A queue grows only when half of those in it still wait.
fn make_room(queue: &mut VecDeque<Waiter>) {
    if queue.len() < queue.capacity() {
        return;
    }
    queue.retain(|waiter| !waiter.grant.is_closed());
    if queue.len() > queue.capacity() / 2 {
        queue.reserve(queue.len());
    }
}

impl Inside {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(self: &Arc<Self>, state: &mut State, parameter: Arc<str>, places: usize) -> Held {
        state.free -= places;
        *state.held.entry(parameter.clone()).or_default() += places;
        Held { of: self.clone(), parameter, places }
    }

    /// Gives what is free to those who wait.
    fn serve(self: &Arc<Self>) {
        loop {
            let (waiter, held) = {
                let mut state = self.lock();
                // Who has its share waits for its own; the next one whose turn it is takes what is free, or waits for more of it
                // before anybody else does.
                let Some(at) = state.first_who(State::may) else { return };
                let Some(parameter) = state.turns.get(at).cloned() else { return };
                let free = state.free;
                let Some(queue) = state.queues.get_mut(&parameter) else { return };
                if queue.front().is_some_and(|waiter| waiter.places > free) {
                    return;
                }
                let Some(waiter) = queue.pop_front() else { return };
                let is_last = queue.is_empty();
                state.turns.remove(at);
                if is_last {
                    state.queues.remove(&parameter);
                } else {
                    state.turns.push_back(parameter.clone());
                }
                let held = self.take(&mut state, parameter, waiter.places);
                (waiter, held)
            };
            // Outside the lock: one who left meanwhile gives it back at once.
            drop(waiter.grant.send(held));
        }
    }
}

/// Dropped behind the place in the queue.
struct Leaving<'a>(&'a Arc<Inside>);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.serve();
    }
}

impl Held {
    /// They are another parameter's from here on, also if that has its share.
    pub fn rebook(&mut self, parameter: &str) {
        {
            let mut state = self.of.lock();
            state.held_less(&self.parameter, self.places);
            self.parameter = parameter.into();
            *state.held.entry(self.parameter.clone()).or_default() += self.places;
        }
        self.of.serve();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        {
            let mut state = self.of.lock();
            state.free += self.places;
            state.held_less(&self.parameter, self.places);
            if state.turns.is_empty() {
                return;
            }
            if self.of.total == 1 {
                state.goes_behind(&self.parameter);
            }
        }
        self.of.serve();
    }
}

impl fmt::Debug for Fair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.lock();
        f.debug_struct("Fair").field("total", &self.0.total).field("free", &state.free).finish_non_exhaustive()
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("places", &self.places).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn all(fair: &Fair, parameter: &str) -> Vec<Held> {
        std::iter::from_fn(|| fair.try_take(parameter, 1)).collect()
    }

    #[test]
    fn one_alone_leaves_some_to_whoever_comes_next_and_all_come_to_the_same() {
        let fair = Fair::new(512);
        let mut first = all(&fair, "a");
        assert_eq!(first.len(), 448, "seven eighths");
        let second = all(&fair, "b");
        assert_eq!(second.len(), 56, "of what was left");
        assert_eq!(all(&fair, "c").len(), 7);
        // What the first gives back goes to those who have less.
        first.truncate(200);
        assert!(fair.try_take("b", 1).is_some() && fair.try_take("d", 1).is_some());
        drop((first, second));
        assert_eq!(fair.free(), 512);
        assert!(fair.0.lock().held.is_empty());
    }

    #[test]
    fn few_places_are_all_there_for_one() {
        for total in 1..=7 {
            assert_eq!(all(&Fair::new(total), "a").len(), total);
        }
        for total in 1..=200 {
            assert_eq!(all(&Fair::new(total), "a").len(), alone(total, 1), "of {total}");
            let fair = Fair::new(total);
            let large = std::iter::from_fn(|| fair.try_take("a", 9).filter(|held| held.places == 9));
            assert_eq!(large.collect::<Vec<_>>().len(), alone(total, 9), "of {total}");
        }
        assert!(Fair::new(4).try_take("a", 100).is_some(), "more than there are is all of them");
    }

    #[test]
    fn what_is_asked_for_in_large_pieces_leaves_some_for_small_ones_and_for_others() {
        let fair = Fair::new(128);
        let all: Vec<_> = std::iter::from_fn(|| fair.try_take_leaving("a", 21)).collect();
        assert_eq!((all.len(), fair.free()), (5, 23));
        assert_eq!(alone_leaving(128, 21), 5);
        assert!(fair.try_take_leaving("a", 2).is_some() && fair.try_take_leaving("b", 20).is_some());
        assert!(fair.try_take_leaving("b", 24).is_none(), "more than there are");
    }

    #[tokio::test]
    async fn who_waits_is_served_by_parameter_in_turn_and_in_order_within_one() {
        let fair = Fair::new(1);
        let held = fair.try_take("a", 1).expect("free");
        let mut waiting: Vec<_> = ["a", "a", "a", "b", "c"].map(|one| Box::pin(fair.take(one, 1))).into();
        for one in &mut waiting {
            assert!(one.as_mut().now_or_never().is_none());
        }
        assert!(fair.try_take("d", 1).is_none(), "nobody passes those who wait");
        let mut now = held;
        for turn in [3, 4, 0, 1, 2] {
            drop(now);
            now = waiting[turn].as_mut().now_or_never().unwrap_or_else(|| panic!("it is the turn of {turn}"));
        }
        drop(now);
        assert_eq!(fair.free(), 1);
    }

    #[tokio::test]
    async fn a_queue_that_many_left_does_not_grow_and_who_stayed_is_served() {
        let fair = Fair::new(1);
        let held = fair.try_take("a", 1).expect("free");
        let mut first = Box::pin(fair.take("a", 1));
        assert!(first.as_mut().now_or_never().is_none());
        for _ in 0..1000 {
            assert!(fair.take("a", 1).now_or_never().is_none());
        }
        let mut last = Box::pin(fair.take("a", 1));
        assert!(last.as_mut().now_or_never().is_none());
        assert!(fair.0.lock().queues["a"].capacity() <= 16, "those who left make room");
        drop(held);
        drop(first.as_mut().now_or_never().expect("it is first"));
        drop(last.as_mut().now_or_never().expect("the others have left"));
        assert_eq!(fair.free(), 1);
    }

    #[tokio::test]
    async fn who_has_its_share_keeps_nobody_else_waiting_and_who_left_is_forgotten() {
        let fair = Fair::new(16);
        let _held = all(&fair, "a");
        let mut more = Box::pin(fair.take("a", 1));
        assert!(more.as_mut().now_or_never().is_none(), "it has its share");
        let other = fair.take("b", 1).now_or_never().expect("there are some left for another");
        let mut large = Box::pin(fair.take("c", 16));
        assert!(large.as_mut().now_or_never().is_none(), "not so many");
        assert!(fair.try_take("d", 1).is_none(), "they are kept for it");
        drop(large);
        assert!(fair.try_take("d", 1).is_some());
        drop((other, more));
        assert!(fair.try_take("b", 1).is_some());
    }

    #[tokio::test]
    async fn who_leaves_the_head_of_the_queue_lets_those_behind_it_move_up() {
        let fair = Fair::new(16);
        let _held = fair.try_take("a", 6).expect("free");
        let mut large = Box::pin(fair.take("b", 12));
        let mut small = Box::pin(fair.take("c", 1));
        assert!(large.as_mut().now_or_never().is_none(), "ten are free");
        assert!(small.as_mut().now_or_never().is_none(), "and they are kept for it");
        drop(large);
        assert!(small.now_or_never().is_some(), "nothing need be given back first");
    }
}
