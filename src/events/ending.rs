//! The end of a drain, in steps of one transaction each: first the moves that waited, where the way is free; then what is
//! gone, sparing what a waiting move still needs; then that too; at last the rest. Each step begins from what the store has,
//! so a crash repeats one of them at most.

use super::index::Tree;
use crate::store::WaitingRow;

/// One step. `moves`: additions that wait and whose items are known; `gone`: rows said to be gone; `whole`: that is all of
/// them; `rest`: all that waits, parents first, to be given when nothing is gone. False: further rows that are gone are needed.
pub(super) fn step(tree: &mut Tree, moves: &[WaitingRow], gone: &[i64], whole: bool, rest: &[WaitingRow]) -> bool {
    if tree.settle_moves(moves) {
        return true;
    }
    let needed = tree.needed(moves);
    let mut settled = false;
    for n in gone.iter().filter(|n| !needed.contains(n)) {
        settled |= tree.settle_gone(*n);
    }
    if settled {
        return true;
    }
    if !gone.is_empty() && !whole {
        return false;
    }
    // A ring of moves: it is broken where it is first.
    for n in gone {
        if tree.settle_gone(*n) {
            return true;
        }
    }
    if gone.is_empty() {
        tree.settle_rest(rest);
    }
    true
}
