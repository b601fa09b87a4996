//! The process-wide budget of transfer memory, in units of 64 KiB, and its recycled blocks of 4 MiB.
//! No task waits here for a block while it holds one that is being filled; that is the whole proof that the budget cannot
//! deadlock. Charges for what lies outside blocks leave a quarter of the budget to blocks, so blocks always circulate.
//! An application parameter that has blocks gets more while it has less than seven times what is free, so one that takes all it
//! may leaves about an eighth of what was free to whoever comes next, and waits only for its own. One that has none is never over
//! its share, so who waits is served at the latest when what circulates has come back.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use crate::{
    clock::SharedClock,
    fair,
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
    /// Handed out ahead of what is about to come back: that pays for it before anybody else has it.
    lent: usize,
    charged: usize,
    open: usize,
    /// Units by parameter, without what admissions are charged: those are shared where they are let in. None stands here with
    /// nothing.
    held: HashMap<Arc<str>, usize>,
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
    /// Units that others got before it since it was its turn.
    passed: usize,
    grant: oneshot::Sender<Grant>,
}

#[derive(Clone, Copy)]
enum Wish {
    Block,
    Units(usize),
    /// Of an admission.
    Charge(usize),
}

impl Wish {
    fn units(self) -> usize {
        match self {
            Wish::Block => BLOCK_UNITS,
            Wish::Units(units) | Wish::Charge(units) => units,
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
        let state = State {
            free: budget,
            lent: 0,
            charged: 0,
            open: 0,
            held: HashMap::new(),
            unused: VecDeque::new(),
            turns: VecDeque::new(),
        };
        Self(Arc::new(Pool { budget, clock, state: Mutex::new(state) }))
    }

    /// The only wait for a block, in turn by parameter. Calling it while a block is being filled is a bug.
    /// Cancel-safe: a waiter that goes loses its place and nothing else.
    pub async fn first(&self, parameter: &str) -> Block {
        Block::new(self.wait(parameter, Wish::Block).await)
    }

    /// A block for a transfer that has `held` of them already. Never waits; `None` while others wait, when this one would have
    /// more than budget ÷ (open transfers + 1), or its parameter more than its share.
    pub fn more(&self, parameter: &str, held: usize) -> Option<Block> {
        let grant = {
            let mut state = self.0.lock();
            let may = held < self.0.share(&state) && state.may(parameter);
            if !may || state.free < BLOCK_UNITS || state.waiting() > 0 {
                return None;
            }
            self.0.take(&mut state, parameter, Wish::Block)
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
            self.0.take(&mut state, "", Wish::Block)
        };
        Some(Block::new(grant))
    }

    /// The memory of an upload so small that its frames are kept as they came. Waits in turn like `first`.
    pub async fn small(&self, parameter: &str, bytes: usize) -> Units {
        self.wait(parameter, Wish::Units(units_of(bytes))).await.units
    }

    /// The same bytes in memory of their own size, so that the blocks they lie in go to others. Never waits, however many do: what
    /// it takes is a part of what those blocks give back, at once where nobody else has the bytes.
    pub fn own_size(&self, parameter: &str, pieces: SmallVec<[Bytes; 2]>) -> Bytes {
        let bytes = pieces.iter().map(Bytes::len).sum();
        let mut memory = Vec::with_capacity(bytes);
        pieces.iter().for_each(|piece| memory.extend_from_slice(piece));
        let units = {
            let mut state = self.0.lock();
            let units = units_of(bytes);
            state.lent += units;
            Units { pool: self.0.clone(), units, of: state.holds(parameter, units) }
        };
        drop(pieces);
        Bytes::from_owner(OwnSize { memory, _units: units })
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
        let units = self.wait(parameter, Wish::Charge(units)).await.units;
        Some(Admission { units, charge })
    }

    /// Admits a transfer if its charge is free and nobody waits for it. Never waits.
    pub fn admit_now(&self, bytes: usize) -> Option<Admission> {
        let units = units_of(bytes);
        let (charge, grant) = {
            let mut state = self.0.lock();
            let fits = state.charged + units <= self.0.budget / 4 * 3 && state.free >= units;
            if !fits || state.waiting() > 0 {
                return None;
            }
            state.charged += units;
            state.open += 1;
            let charge = Charge { pool: self.0.clone(), units, is_given_back: false };
            (charge, self.0.take(&mut state, "", Wish::Charge(units)))
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
        let state = self.0.lock();
        (self.0.budget + state.lent - state.free) * BUDGET_UNIT_BYTES
    }

    pub fn budget_bytes(&self) -> usize {
        self.0.budget * BUDGET_UNIT_BYTES
    }

    /// Bytes of blocks kept for the next user; not part of `used_bytes`.
    pub fn unused_bytes(&self) -> usize {
        self.0.lock().unused.len() * BLOCK_BYTES
    }

    /// How many wait for memory that anybody gives back.
    pub fn waiting(&self) -> usize {
        self.0.lock().waiting()
    }

    /// Whether anybody waits, also for what is its own.
    pub fn is_short(&self) -> bool {
        !self.0.lock().turns.is_empty()
    }

    /// How many transfers are admitted.
    pub fn open(&self) -> usize {
        self.0.lock().open
    }

    async fn wait(&self, parameter: &str, wish: Wish) -> Grant {
        let mut place = Place { pool: &self.0, left: false };
        let granted = {
            let mut state = self.0.lock();
            if state.turns.is_empty() && state.free >= wish.units() && state.may(parameter) {
                place.left = true;
                return self.0.take(&mut state, parameter, wish);
            }
            let (grant, granted) = oneshot::channel();
            state.enqueue(parameter, Waiter { wish, passed: 0, grant });
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

    /// How many wait for what anybody gives back. Who has its share waits for its own.
    fn waiting(&self) -> usize {
        let queues = self.turns.iter().filter(|(parameter, _)| self.may(parameter)).flat_map(|(_, queue)| queue);
        queues.filter(|waiter| !waiter.grant.is_closed()).count()
    }

    fn give_back(&mut self, given: &mut Units) {
        let units = std::mem::take(&mut given.units);
        let owed = self.lent.min(units);
        self.lent -= owed;
        self.free += units - owed;
        if let Some(parameter) = &given.of
            && let Some(held) = self.held.get_mut(parameter)
        {
            *held -= units;
            if *held == 0 {
                self.held.remove(parameter);
            }
        }
    }

    fn held(&self, parameter: &str) -> usize {
        self.held.get(parameter).copied().unwrap_or(0)
    }

    fn holds(&mut self, parameter: &str, units: usize) -> Option<Arc<str>> {
        let known = self.held.get_key_value(parameter).map(|(known, _)| known.clone());
        let parameter = known.unwrap_or_else(|| parameter.into());
        *self.held.entry(parameter.clone()).or_default() += units;
        Some(parameter)
    }

    /// Is more within the share of this parameter?
    fn may(&self, parameter: &str) -> bool {
        fair::may_have_more(self.held(parameter), self.free)
    }

    /// Where in turn the next one stands that is served. Who has its share waits for its own; for the first of the others the
    /// budget fills up, so that a large wish is not passed by small ones for ever: only by those of who has less, and by as
    /// much as it wants itself.
    fn next(&mut self) -> Option<usize> {
        for (_, queue) in &mut self.turns {
            while queue.front().is_some_and(|waiter| waiter.grant.is_closed()) {
                queue.pop_front();
            }
        }
        self.turns.retain(|(_, queue)| !queue.is_empty());
        let mut first = None;
        for (at, (parameter, queue)) in self.turns.iter().enumerate() {
            let Some(head) = queue.front().filter(|_| self.may(parameter)) else { continue };
            let (held, wish, fits) = (self.held(parameter), head.wish.units(), head.wish.units() <= self.free);
            match first {
                None if fits => return Some(at),
                None => first = Some((at, held, head.wish.units() - head.passed)),
                Some((before, its_held, may_pass)) if fits && held < its_held && wish <= may_pass => {
                    let passed = self.turns.get_mut(before).and_then(|(_, queue)| queue.front_mut());
                    passed.into_iter().for_each(|waiter| waiter.passed += wish);
                    return Some(at);
                }
                Some(_) => {}
            }
        }
        None
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

    fn take(self: &Arc<Self>, state: &mut State, parameter: &str, wish: Wish) -> Grant {
        let units = wish.units();
        state.free -= units;
        let (memory, of) = match wish {
            Wish::Block => (state.unused.pop_back().map(|unused| unused.memory), state.holds(parameter, units)),
            Wish::Units(_) => (None, state.holds(parameter, units)),
            Wish::Charge(_) => (None, None),
        };
        state.make_room();
        Grant { units: Units { pool: self.clone(), units, of }, memory }
    }

    /// Grants in turn.
    fn serve(self: &Arc<Self>, state: &mut State) {
        while let Some((parameter, mut queue)) = state.next().and_then(|at| state.turns.remove(at)) {
            let Some(head) = queue.pop_front() else { continue };
            let grant = self.take(state, &parameter, head.wish);
            if !queue.is_empty() {
                state.turns.push_back((parameter, queue));
            }
            if let Err(mut grant) = head.grant.send(grant) {
                state.give_back(&mut grant.units);
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
    /// Whose share they are of.
    of: Option<Arc<str>>,
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
            drop(Units { pool: self.pool.clone(), units: surplus, of: self.of.clone() });
        }
    }
}

impl Drop for Units {
    fn drop(&mut self) {
        if self.units > 0 {
            let pool = self.pool.clone();
            let mut state = pool.lock();
            state.give_back(self);
            pool.serve(&mut state);
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
        state.give_back(&mut self.units);
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
        let pool = self.units.pool.clone();
        let mut state = pool.lock();
        let old = pool.trim(&mut state);
        state.unused.push_back(Unused { since: pool.clock.now(), memory });
        state.give_back(&mut self.units);
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
