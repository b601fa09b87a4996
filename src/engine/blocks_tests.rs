//! What the budget promises under need.

use std::{future::Future, pin::Pin, time::Duration};

use futures::{FutureExt, poll};

use super::*;
use crate::clock::{ManualClock, SystemClock};

fn blocks(count: usize) -> Blocks {
    Blocks::new(count * BLOCK_BYTES, Arc::new(SystemClock))
}

fn take_all(blocks: &Blocks) -> Vec<Block> {
    (0..).map_while(|n: u32| blocks.more(&n.to_string(), 0)).collect()
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
    assert!(blocks.more("a", 3).is_some() && blocks.more("a", 4).is_none(), "8 ÷ (1 + 1)");
    let second = blocks.admit("b", 1).await.expect("room");
    assert!(blocks.more("a", 1).is_some() && blocks.more("a", 2).is_none(), "8 ÷ (2 + 1)");
    drop((first, second));
    assert!(blocks.more("a", 7).is_some());
    let mut held = take_all(&blocks);
    let waiting = queue(&blocks, "a").await;
    let also_waiting = queue(&blocks, "b").await;
    held.pop();
    assert!(blocks.more("a", 0).is_none(), "the first who waits has it");
    drop((waiting, also_waiting));
    assert!(blocks.more("a", 0).is_some());
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
async fn what_waits_gives_its_block_to_others_though_nothing_is_free_and_others_stand_in_line() {
    let blocks = blocks(8);
    let mut held = take_all(&blocks);
    let (first, second) = (queue(&blocks, "a").await, queue(&blocks, "b").await);
    let mut own = Vec::new();
    for filled in [300_000, BLOCK_BYTES - 300_000] {
        let mut block = held.pop().expect("eight");
        block.extend_from_slice(&vec![7; filled]);
        own.push(blocks.own_size("own", [block.freeze()].into_iter().collect()));
        assert!(own.last().is_some_and(|own| own.len() == filled && own.iter().all(|byte| *byte == 7)));
    }
    // Of two blocks the bytes are one and a unit for each edge: what is over is not a block.
    let rest = units_of(300_000) + units_of(BLOCK_BYTES - 300_000);
    assert_eq!(blocks.used_bytes(), 6 * BLOCK_BYTES + rest * BUDGET_UNIT_BYTES);
    own.pop();
    let block = first.now_or_never().expect("what came back is a block");
    assert_eq!(blocks.used_bytes(), 7 * BLOCK_BYTES + units_of(300_000) * BUDGET_UNIT_BYTES);
    drop(own);
    assert!(second.now_or_never().is_some());
    drop((block, held));
    assert_eq!(blocks.used_bytes(), 0);
}

#[tokio::test]
async fn bytes_that_somebody_else_has_are_paid_for_twice_until_he_lets_go() {
    let blocks = blocks(8);
    let mut held = take_all(&blocks);
    let waiting = queue(&blocks, "a").await;
    let mut block = held.pop().expect("eight");
    block.extend_from_slice(b"bytes");
    let bytes = block.freeze();
    let own = blocks.own_size("own", [bytes.clone()].into_iter().collect());
    assert_eq!(blocks.used_bytes(), 8 * BLOCK_BYTES + BUDGET_UNIT_BYTES);
    drop((own, held.pop()));
    let block = waiting.now_or_never().expect("a block came back");
    drop((block, bytes, held));
    assert_eq!(blocks.used_bytes(), 0);
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
                let second = blocks.more("a", 1);
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

#[tokio::test]
async fn one_parameter_leaves_something_to_whoever_comes_next_and_waits_for_its_own() {
    let blocks = blocks(16);
    let mut greedy = Vec::new();
    while let Some(block) = blocks.first("greedy").now_or_never() {
        greedy.push(block);
    }
    assert_eq!(greedy.len(), 14, "seven eighths");
    assert!(blocks.more("greedy", 0).is_none());
    let more = queue(&blocks, "greedy").await;
    let small = blocks.small("modest", 1).now_or_never().expect("at once");
    let block = blocks.first("modest").now_or_never().expect("at once");
    greedy.pop();
    drop(more.now_or_never().expect("its own came back"));
    drop((small, block, greedy));
    assert_eq!((blocks.used_bytes(), blocks.0.lock().held.len()), (0, 0));
}

#[tokio::test]
async fn a_block_that_is_waited_for_is_passed_by_small_wishes_of_others_and_not_for_ever() {
    let blocks = blocks(8);
    let held = blocks.first("waits").await;
    let others: Vec<Block> = (0..6).map_while(|n: u32| blocks.more(&n.to_string(), 0)).collect();
    let (stays, goes) =
        (blocks.small("stays", 40 * BUDGET_UNIT_BYTES).await, blocks.small("goes", 24 * BUDGET_UNIT_BYTES).await);
    let waiting = queue(&blocks, "waits").await;
    drop(goes);
    // Free is what is too little for a block: whoever has as much already does not pass, who has less does.
    let mut as_much = Box::pin(blocks.small("0", 1));
    assert!(poll!(&mut as_much).is_pending());
    drop(as_much);
    let passed = (0..).take_while(|n: &u32| blocks.small(&format!("small-{n}"), 1).now_or_never().is_some());
    assert_eq!(passed.count(), BLOCK_UNITS, "as much as a block is");
    drop(stays);
    let block = waiting.now_or_never().expect("its turn");
    drop((block, held, others));
    assert_eq!((blocks.used_bytes(), blocks.waiting()), (0, 0));
}
