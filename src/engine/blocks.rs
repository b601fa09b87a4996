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
            if held + 1 > self.0.share(&state) || state.free < BLOCK_UNITS || state.waiting() > 0 {
                return None;
            }
            self.0.take(&mut state, Wish::Block)
        };
        Some(Block::new(grant))
    }

    /// Blocks one transfer may have beside its first, as many as are open now: budget ÷ (open transfers + 1).
    pub fn share(&self) -> usize {
        self.0.share(&self.0.lock())
    }

    /// A block for work that it only makes cheaper, and that may hold it as long as a caller pleases. Never waits; `None`
    /// while others wait, or when less than half the budget would be left to those who need theirs.
    pub fn spare(&self) -> Option<Block> {
        let grant = {
            let mut state = self.0.lock();
            if state.free < self.0.budget / 2 + BLOCK_UNITS || state.waiting() > 0 {
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

    /// The same bytes in memory of their own size, so that blocks they lie in go to others. Never waits; `None` while others wait,
    /// or when there is no room for both for a moment.
    pub fn own_size(&self, pieces: &[Bytes]) -> Option<Bytes> {
        let bytes: usize = pieces.iter().map(Bytes::len).sum();
        let wish = Wish::Units(units_of(bytes));
        let units = {
            let mut state = self.0.lock();
            if state.free < wish.units() || state.waiting() > 0 {
                return None;
            }
            self.0.take(&mut state, wish).units
        };
        let mut memory = Vec::with_capacity(bytes);
        pieces.iter().for_each(|piece| memory.extend_from_slice(piece));
        Some(Bytes::from_owner(OwnSize { memory, _units: units }))
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
            Charge { pool: self.0.clone(), units, is_given_back: false }
        };
        let units = self.small(parameter, bytes).await;
        Some(Admission { units, charge })
    }

    /// Admits a transfer if its charge is free and nobody waits for it. Never waits.
    pub fn admit_now(&self, bytes: usize) -> Option<Admission> {
        let units = units_of(bytes);
        let (charge, grant) = {
            let mut state = self.0.lock();
            let fits = state.charged + units <= self.0.budget / 4 * 3 && state.free >= units;
            if !fits || !state.turns.is_empty() {
                return None;
            }
            state.charged += units;
            state.open += 1;
            let charge = Charge { pool: self.0.clone(), units, is_given_back: false };
            (charge, self.0.take(&mut state, Wish::Units(units)))
        };
        Some(Admission { units: grant.units, charge })
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

    fn share(&self, state: &State) -> usize {
        self.budget / BLOCK_UNITS / (state.open + 1)
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

/// Bytes and their share of the budget.
struct OwnSize {
    memory: Vec<u8>,
    _units: Units,
}

impl AsRef<[u8]> for OwnSize {
    fn as_ref(&self) -> &[u8] {
        &self.memory
    }
}

struct Charge {
    pool: Arc<Pool>,
    units: usize,
    is_given_back: bool,
}

impl Charge {
    fn give_back(&mut self, state: &mut State) {
        if !std::mem::replace(&mut self.is_given_back, true) {
            state.charged -= self.units;
            state.open -= 1;
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if !self.is_given_back {
            let pool = self.pool.clone();
            self.give_back(&mut pool.lock());
        }
    }
}

/// One open transfer; its charge ends when dropped.
pub struct Admission {
    units: Units,
    charge: Charge,
}

impl Drop for Admission {
    fn drop(&mut self) {
        // In one step: whoever gets the memory finds the charge ended, too.
        let pool = self.units.pool.clone();
        let mut state = pool.lock();
        self.charge.give_back(&mut state);
        state.free += std::mem::take(&mut self.units.units);
        pool.serve(&mut state);
    }
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
        write!(f, "Admission({} bytes)", self.units.bytes())
    }
}

#[cfg(test)]
#[path = "blocks_tests.rs"]
mod tests;
