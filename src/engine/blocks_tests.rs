//! What the budget promises under need.

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
