//! The process-wide budget of transfer memory, in units of 64 KiB, and its recycled blocks of 4 MiB.
//! No task waits here for a block while it holds one that is being filled; that is the whole proof that the budget cannot
//! deadlock. Charges for what lies outside blocks leave a quarter of the budget to blocks, so blocks always circulate.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::{
    clock::SharedClock,
    limits::{BLOCK_BYTES, BLOCK_UNUSED, BUDGET_BYTES_MIN, BUDGET_UNIT_BYTES},
};

const BLOCK_UNITS: usize = BLOCK_BYTES / BUDGET_UNIT_BYTES;

/// The budget; a clone is the same budget.
#[derive(Clone)]
pub struct Blocks(Arc<Pool>);

struct Pool {
    budget: usize,
    clock: SharedClock,
    state: Mutex<State>,
}

struct State {
    free: usize,
    charged: usize,
    open: usize,
    /// Memory of blocks that nobody uses, the longest unused first. Its units are free: it goes when they are needed.
    unused: VecDeque<Unused>,
    /// Who waits: parameters in turn, and within a parameter in order of arrival.
    turns: VecDeque<(Arc<str>, VecDeque<Waiter>)>,
}

struct Unused {
    since: SystemTime,
    memory: Box<[u8]>,
}

struct Waiter {
    wish: Wish,
    grant: oneshot::Sender<Grant>,
}

#[derive(Clone, Copy)]
enum Wish {
    Block,
    Units(usize),
}

impl Wish {
    fn units(self) -> usize {
        match self {
            Wish::Block => BLOCK_UNITS,
            Wish::Units(units) => units,
        }
    }
}

struct Grant {
    units: Units,
    /// Of a block: memory touched before.
    memory: Option<Box<[u8]>>,
}

impl Blocks {
    /// `bytes`: the whole budget; raised to `BUDGET_BYTES_MIN`, below which no upload could go on.
    pub fn new(bytes: usize, clock: SharedClock) -> Self {
        let budget = bytes.max(BUDGET_BYTES_MIN) / BUDGET_UNIT_BYTES;
        let state = State { free: budget, charged: 0, open: 0, unused: VecDeque::new(), turns: VecDeque::new() };
        Self(Arc::new(Pool { budget, clock, state: Mutex::new(state) }))
    }

    /// The only wait for a block, in turn by parameter. Calling it while a block is being filled is a bug.
    /// Cancel-safe: a waiter that goes loses its place and nothing else.
    pub async fn first(&self, parameter: &str) -> Block {
        Block::new(self.wait(parameter, Wish::Block).await)
    }

    /// A block for a transfer that has `held` of them already. Never waits; `None` while others wait, or when this one
    /// would have more than budget ÷ (open transfers + 1).
    pub fn more(&self, held: usize) -> Option<Block> {
        let grant = {
            let mut state = self.0.lock();
            let share = self.0.budget / BLOCK_UNITS / (state.open + 1);
            if held + 1 > share || state.free < BLOCK_UNITS || state.waiting() > 0 {
                return None;
            }
            self.0.take(&mut state, Wish::Block)
        };
        Some(Block::new(grant))
    }

    /// The memory of an upload so small that its frames are kept as they came. Waits in turn like `first`.
    pub async fn small(&self, parameter: &str, bytes: usize) -> Units {
        self.wait(parameter, Wish::Units(units_of(bytes))).await.units
    }

    /// Admits a transfer and charges what it holds outside blocks: one stream window and one largest message.
    /// Waits in turn for the memory. `None`: charges already take three quarters of the budget; the process is busy.
    pub async fn admit(&self, parameter: &str, bytes: usize) -> Option<Admission> {
        let units = units_of(bytes);
        let charge = {
            let mut state = self.0.lock();
            if state.charged + units > self.0.budget / 4 * 3 {
                return None;
            }
            state.charged += units;
            state.open += 1;
            Charge { pool: self.0.clone(), units }
        };
        let units = self.small(parameter, bytes).await;
        Some(Admission { _units: units, _charge: charge })
    }

    /// Gives memory back to the system that nobody used for 30 s. Taking and returning blocks does it too; a process that
    /// may fall silent calls it from a timer.
    pub fn trim(&self) {
        let old = self.0.trim(&mut self.0.lock());
        drop(old);
    }

    /// Bytes handed out: blocks, small uploads and admissions.
    pub fn used_bytes(&self) -> usize {
        (self.0.budget - self.0.lock().free) * BUDGET_UNIT_BYTES
    }

    pub fn budget_bytes(&self) -> usize {
        self.0.budget * BUDGET_UNIT_BYTES
    }

    /// Bytes of blocks kept for the next user; not part of `used_bytes`.
    pub fn unused_bytes(&self) -> usize {
        self.0.lock().unused.len() * BLOCK_BYTES
    }

    /// How many wait for memory now.
    pub fn waiting(&self) -> usize {
        self.0.lock().waiting()
    }

    /// How many transfers are admitted.
    pub fn open(&self) -> usize {
        self.0.lock().open
    }

    async fn wait(&self, parameter: &str, wish: Wish) -> Grant {
        let mut place = Place { pool: &self.0, left: false };
        let granted = {
            let mut state = self.0.lock();
            if state.turns.is_empty() && state.free >= wish.units() {
                place.left = true;
                return self.0.take(&mut state, wish);
            }
            let (grant, granted) = oneshot::channel();
            state.enqueue(parameter, Waiter { wish, grant });
            self.0.serve(&mut state);
            granted
        };
        let grant = granted.await.expect("a waiter is dropped from the queue only when its receiver is gone");
        place.left = true;
        grant
    }
}

fn units_of(bytes: usize) -> usize {
    bytes.div_ceil(BUDGET_UNIT_BYTES)
}

impl State {
    fn enqueue(&mut self, parameter: &str, waiter: Waiter) {
        match self.turns.iter_mut().find(|(id, _)| &**id == parameter) {
            Some((_, queue)) => queue.push_back(waiter),
            None => self.turns.push_back((parameter.into(), VecDeque::from([waiter]))),
        }
    }

    fn waiting(&self) -> usize {
        self.turns.iter().flat_map(|(_, queue)| queue).filter(|waiter| !waiter.grant.is_closed()).count()
    }

    /// Units in use and memory kept unused stay within the budget together.
    fn make_room(&mut self) {
        let surplus = self.unused.len().saturating_sub(self.free / BLOCK_UNITS);
        self.unused.drain(..surplus);
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(self: &Arc<Self>, state: &mut State, wish: Wish) -> Grant {
        let units = wish.units();
        state.free -= units;
        let memory = match wish {
            Wish::Block => state.unused.pop_back().map(|unused| unused.memory),
            Wish::Units(_) => None,
        };
        state.make_room();
        Grant { units: Units { pool: self.clone(), units }, memory }
    }

    /// Grants in turn. The head of the turn is served before anybody behind it, so a large wish is not passed by small
    /// ones for ever.
    fn serve(self: &Arc<Self>, state: &mut State) {
        while let Some((parameter, mut queue)) = state.turns.pop_front() {
            while queue.front().is_some_and(|waiter| waiter.grant.is_closed()) {
                queue.pop_front();
            }
            let Some(head) = queue.pop_front() else { continue };
            if head.wish.units() > state.free {
                queue.push_front(head);
                state.turns.push_front((parameter, queue));
                return;
            }
            if !queue.is_empty() {
                state.turns.push_back((parameter, queue));
            }
            let grant = self.take(state, head.wish);
            if let Err(mut grant) = head.grant.send(grant) {
                state.free += std::mem::take(&mut grant.units.units);
                state.unused.extend(grant.memory.map(|memory| Unused { since: self.clock.now(), memory }));
            }
        }
    }

    /// What was unused for too long; the caller drops it without the lock.
    fn trim(&self, state: &mut State) -> Vec<Unused> {
        let now = self.clock.now();
        let is_old = |unused: &Unused| now.duration_since(unused.since).is_ok_and(|span| span >= BLOCK_UNUSED);
        let count = state.unused.iter().take_while(|unused| is_old(unused)).count();
        state.unused.drain(..count).collect()
    }
}

/// A place in the queue; leaving it lets those behind move up.
struct Place<'a> {
    pool: &'a Arc<Pool>,
    left: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.left {
            let mut state = self.pool.lock();
            for (_, queue) in &mut state.turns {
                queue.retain(|waiter| !waiter.grant.is_closed());
            }
            self.pool.serve(&mut state);
        }
    }
}

/// Memory of the budget; given back when dropped.
pub struct Units {
    pool: Arc<Pool>,
    units: usize,
}

impl Units {
    pub fn bytes(&self) -> usize {
        self.units * BUDGET_UNIT_BYTES
    }

    /// Gives back what is not needed for `bytes`.
    pub fn shrink(&mut self, bytes: usize) {
        let surplus = self.units.saturating_sub(units_of(bytes));
        if surplus > 0 {
            self.units -= surplus;
            drop(Units { pool: self.pool.clone(), units: surplus });
        }
    }
}

impl Drop for Units {
    fn drop(&mut self) {
        if self.units > 0 {
            let mut state = self.pool.lock();
            state.free += self.units;
            self.pool.serve(&mut state);
        }
    }
}

struct Charge {
    pool: Arc<Pool>,
    units: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        state.charged -= self.units;
        state.open -= 1;
    }
}

/// One open transfer; its charge ends when dropped.
pub struct Admission {
    _units: Units,
    _charge: Charge,
}

/// How many blocks one transfer holds, those in requests included.
#[derive(Clone, Debug, Default)]
pub struct Tally(Arc<AtomicUsize>);

impl Tally {
    pub fn held(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// 4 MiB to be filled from the front, then frozen.
pub struct Block {
    memory: Box<[u8]>,
    len: usize,
    units: Units,
    tally: Option<Tally>,
}

impl Block {
    fn new(grant: Grant) -> Self {
        let memory = grant.memory.unwrap_or_else(|| vec![0; BLOCK_BYTES].into_boxed_slice());
        Self { memory, len: 0, units: grant.units, tally: None }
    }

    /// Counts this block in `tally` until its memory returns.
    #[must_use]
    pub fn counted(mut self, tally: &Tally) -> Self {
        tally.0.fetch_add(1, Ordering::Relaxed);
        self.tally = Some(tally.clone());
        self
    }

    /// What is not filled yet. Its content is whatever was there before: write, then `advance`.
    pub fn spare_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.len..]
    }

    /// `count` more bytes are filled.
    ///
    /// # Panics
    /// If the block has no room for them.
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.remaining(), "a block is not filled beyond its end");
        self.len += count;
    }

    /// Fills in as much of `bytes` as there is room for and says how much that was.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.remaining());
        self.memory[self.len..self.len + taken].copy_from_slice(&bytes[..taken]);
        self.len += taken;
        taken
    }

    pub fn filled(&self) -> &[u8] {
        &self.memory[..self.len]
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn is_full(&self) -> bool {
        self.remaining() == 0
    }

    pub fn remaining(&self) -> usize {
        self.memory.len() - self.len
    }

    /// What was filled. Memory and units return when the last clone is dropped.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        self.filled()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(tally) = &self.tally {
            tally.0.fetch_sub(1, Ordering::Relaxed);
        }
        let memory = std::mem::take(&mut self.memory);
        let pool = &self.units.pool;
        let mut state = pool.lock();
        let old = pool.trim(&mut state);
        state.unused.push_back(Unused { since: pool.clock.now(), memory });
        state.free += std::mem::take(&mut self.units.units);
        pool.serve(&mut state);
        state.make_room();
        drop(state);
        drop(old);
    }
}

impl fmt::Debug for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blocks({} of {} bytes)", self.used_bytes(), self.budget_bytes())
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({} of {} bytes)", self.len, self.memory.len())
    }
}

impl fmt::Debug for Units {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Units({} bytes)", self.bytes())
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Admission({} bytes)", self._units.bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::{future::Future, pin::Pin, time::Duration};

    use futures::{FutureExt, poll};

    use super::*;
    use crate::clock::{ManualClock, SystemClock};

    fn blocks(count: usize) -> Blocks {
        Blocks::new(count * BLOCK_BYTES, Arc::new(SystemClock))
    }

    fn take_all(blocks: &Blocks) -> Vec<Block> {
        std::iter::from_fn(|| blocks.more(0)).collect()
    }

    type Waits<'a> = Pin<Box<dyn Future<Output = Block> + Send + 'a>>;

    async fn queue<'a>(blocks: &'a Blocks, parameter: &'a str) -> Waits<'a> {
        let mut wait: Waits<'a> = Box::pin(blocks.first(parameter));
        assert!(poll!(&mut wait).is_pending(), "the budget is empty");
        wait
    }

    #[tokio::test]
    async fn parameters_take_turns_however_long_the_queue_of_one_is() {
        let blocks = blocks(8);
        let mut held = take_all(&blocks);
        assert_eq!(held.len(), 8);
        let mut greedy = Vec::new();
        for _ in 0..4 {
            greedy.push(queue(&blocks, "greedy").await);
        }
        let modest = queue(&blocks, "modest").await;
        assert_eq!(blocks.waiting(), 5);
        held.pop();
        let first = greedy[0].as_mut().now_or_never().expect("the first of the queue is served first");
        assert!(poll!(&mut greedy[1]).is_pending());
        held.pop();
        assert!(poll!(&mut greedy[1]).is_pending(), "the other parameter is next");
        let second = modest.now_or_never().expect("its turn has come");
        drop((first, second));
        assert!(poll!(&mut greedy[1]).is_ready());
    }

    #[tokio::test]
    async fn a_waiter_that_goes_loses_no_memory_for_the_others() {
        let blocks = blocks(8);
        let mut held = take_all(&blocks);
        let granted_and_gone = queue(&blocks, "a").await;
        let gone = queue(&blocks, "a").await;
        let stays = queue(&blocks, "a").await;
        drop(gone);
        assert_eq!(blocks.waiting(), 2);
        held.pop();
        drop(granted_and_gone);
        let block = stays.now_or_never().expect("what the first did not take");
        drop((block, held));
        assert_eq!((blocks.used_bytes(), blocks.waiting()), (0, 0));
    }

    #[tokio::test]
    async fn a_large_wish_is_not_passed_by_small_ones() {
        let blocks = blocks(8);
        let mut held = take_all(&blocks);
        let large = queue(&blocks, "large").await;
        let mut small = Box::pin(blocks.small("small", 1));
        assert!(poll!(&mut small).is_pending());
        held.pop();
        let block = large.now_or_never().expect("its turn");
        assert!(poll!(&mut small).is_pending());
        held.pop();
        assert_eq!(small.now_or_never().expect("its turn").bytes(), BUDGET_UNIT_BYTES);
        drop(block);
    }

    #[tokio::test]
    async fn more_is_refused_above_the_share_and_while_others_wait() {
        let blocks = blocks(8);
        let first = blocks.admit("a", 1).await.expect("room");
        assert!(blocks.more(3).is_some() && blocks.more(4).is_none(), "8 ÷ (1 + 1)");
        let second = blocks.admit("b", 1).await.expect("room");
        assert!(blocks.more(1).is_some() && blocks.more(2).is_none(), "8 ÷ (2 + 1)");
        drop((first, second));
        assert!(blocks.more(7).is_some());
        let mut held = take_all(&blocks);
        let waiting = queue(&blocks, "a").await;
        let also_waiting = queue(&blocks, "b").await;
        held.pop();
        assert!(blocks.more(0).is_none(), "the first who waits has it");
        drop((waiting, also_waiting));
        assert!(blocks.more(0).is_some());
    }

    #[tokio::test]
    async fn admissions_leave_a_quarter_to_blocks() {
        let blocks = blocks(8);
        let mut admitted = Vec::new();
        while let Some(admission) = blocks.admit("a", BLOCK_BYTES).await {
            admitted.push(admission);
        }
        assert_eq!((admitted.len(), blocks.open()), (6, 6));
        assert_eq!(take_all(&blocks).len(), 2);
        drop(admitted);
        assert_eq!((blocks.open(), blocks.used_bytes()), (0, 0));
        assert!(blocks.admit("a", BLOCK_BYTES).await.is_some());
    }

    #[tokio::test]
    async fn memory_and_units_return_when_the_last_clone_is_dropped() {
        let blocks = blocks(8);
        let tally = Tally::default();
        let mut block = blocks.first("a").await.counted(&tally);
        assert_eq!(block.extend_from_slice(b"hello"), 5);
        block.spare_mut()[..6].copy_from_slice(b" world");
        block.advance(6);
        let bytes = block.freeze();
        let clone = bytes.slice(6..);
        drop(bytes);
        assert_eq!((&clone[..], blocks.used_bytes(), tally.held()), (&b"world"[..], BLOCK_BYTES, 1));
        drop(clone);
        assert_eq!((blocks.used_bytes(), blocks.unused_bytes(), tally.held()), (0, BLOCK_BYTES, 0));
    }

    #[tokio::test]
    async fn memory_is_recycled_and_goes_back_to_the_system_after_its_time() {
        let clock = ManualClock::new(SystemTime::UNIX_EPOCH);
        let blocks = Blocks::new(8 * BLOCK_BYTES, Arc::new(clock.clone()));
        let mut block = blocks.first("a").await;
        block.extend_from_slice(b"mark");
        drop((block, blocks.first("a").await));
        assert_eq!(blocks.unused_bytes(), 2 * BLOCK_BYTES);
        let mut first = blocks.first("a").await;
        let mut second = blocks.first("a").await;
        let marks = [&mut first, &mut second].map(|block| &block.spare_mut()[..4] == b"mark");
        assert_eq!((marks.iter().filter(|mark| **mark).count(), blocks.unused_bytes()), (1, 0));
        drop(first);
        clock.advance(Duration::from_secs(29)).await;
        drop(second);
        blocks.trim();
        assert_eq!(blocks.unused_bytes(), 2 * BLOCK_BYTES);
        clock.advance(Duration::from_secs(1)).await;
        blocks.trim();
        assert_eq!(blocks.unused_bytes(), BLOCK_BYTES);
    }

    #[tokio::test]
    async fn unused_memory_makes_room_for_what_is_not_a_block() {
        let blocks = blocks(8);
        drop(take_all(&blocks));
        assert_eq!(blocks.unused_bytes(), 8 * BLOCK_BYTES);
        let mut units = blocks.small("a", BLOCK_BYTES + 1).await;
        assert_eq!(blocks.unused_bytes(), 6 * BLOCK_BYTES);
        units.shrink(1);
        assert_eq!(blocks.used_bytes(), BUDGET_UNIT_BYTES);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn far_more_streams_than_the_budget_has_blocks_all_come_through() {
        let blocks = blocks(8);
        let streams = (0..400).map(|stream| {
            let blocks = blocks.clone();
            tokio::spawn(async move {
                let parameter = format!("p{}", stream % 7);
                for round in 0..20 {
                    if (stream + round) % 5 == 0 {
                        // A caller that vanishes while it waits.
                        let wait = blocks.first(&parameter);
                        tokio::pin!(wait);
                        if poll!(&mut wait).is_pending() {
                            tokio::task::yield_now().await;
                        }
                        continue;
                    }
                    let units = blocks.small(&parameter, 200_000).await;
                    drop(units);
                    let first = blocks.first(&parameter).await;
                    tokio::task::yield_now().await;
                    let second = blocks.more(1);
                    let request = tokio::spawn(async move {
                        tokio::task::yield_now().await;
                        drop((first.freeze(), second.map(Block::freeze)));
                    });
                    if round % 2 == 0 {
                        request.await.expect("no panic");
                    }
                }
            })
        });
        let all = futures::future::join_all(streams.collect::<Vec<_>>());
        let ended = tokio::time::timeout(Duration::from_secs(60), all).await.expect("no deadlock");
        assert!(ended.iter().all(Result::is_ok));
        let settled = async {
            while blocks.used_bytes() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), settled).await.expect("every unit returned");
        assert_eq!(blocks.waiting(), 0);
        assert!(blocks.unused_bytes() <= blocks.budget_bytes());
    }
}
