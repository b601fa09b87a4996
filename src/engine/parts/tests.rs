//! What the cutter does with every kind of stream.

mod offsets;

use std::{
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use futures::{FutureExt as _, channel::mpsc, poll, stream};
use proptest::prelude::*;

use super::{super::blocks::Block, *};
use crate::clock::{ManualClock, SystemClock};

const BLOCK: usize = BLOCK_BYTES;

/// Bytes that differ everywhere, made once.
fn content(len: usize) -> Bytes {
    static CONTENT: OnceLock<Bytes> = OnceLock::new();
    let all = CONTENT.get_or_init(|| {
        let mut state = 1u64;
        let next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        std::iter::repeat_with(next).take(22 << 20).collect::<Vec<u8>>().into()
    });
    all.slice(..len)
}

fn budget() -> Blocks {
    Blocks::new(0, Arc::new(SystemClock))
}

fn chunk(bytes: Bytes) -> Result<Frame> {
    Ok(Frame::Chunk { offset: None, crc32c: Some(crc_fast::crc32_iscsi(&bytes)), bytes })
}

fn chunk_at(offset: usize, bytes: Bytes) -> Result<Frame> {
    Ok(Frame::Chunk { offset: Some(offset as u64), crc32c: None, bytes })
}

fn finish() -> Result<Frame> {
    Ok(Frame::Finish { content_hash: None, size: None })
}

/// Frames of the given lengths, over and over.
fn frames(bytes: &Bytes, lengths: &[usize]) -> Vec<Result<Frame>> {
    let (mut at, mut frames) = (0, Vec::new());
    for length in lengths.iter().cycle() {
        if at == bytes.len() {
            break;
        }
        let end = (at + length).min(bytes.len());
        frames.push(chunk(bytes.slice(at..end)));
        at = end;
    }
    frames
}

fn cutter<S: Stream<Item = Result<Frame>> + Unpin + Send>(frames: S, blocks: &Blocks, rules: Rules) -> PartCutter<S> {
    PartCutter::new(frames, 0, Some(&[]), blocks.clone(), "p", rules, Arc::new(SystemClock)).expect("valid rules")
}

async fn cut(frames: Vec<Result<Frame>>, rules: Rules) -> Result<(Vec<Part>, Closing)> {
    let mut parts = Vec::new();
    let blocks = budget();
    let mut cutter = cutter(stream::iter(frames), &blocks, rules);
    while let Some(part) = cutter.next().await? {
        // Its memory goes back, as it would when the append is through.
        let copy = part.pieces.iter().map(|piece| Bytes::copy_from_slice(piece)).collect();
        parts.push(Part { pieces: copy, ..part });
    }
    Ok((parts, cutter.close()))
}

async fn reason_of(frames: Vec<Result<Frame>>, rules: Rules) -> Reason {
    cut(frames, rules).await.expect_err("a fault").reason()
}

/// Parts lie end to end, carry the right hashes, and join to `bytes`.
fn check(parts: &[Part], bytes: &[u8]) {
    let mut at = 0;
    for part in parts {
        assert_eq!(part.offset, at as u64);
        assert!(!part.is_empty());
        let joined = part.pieces.concat();
        assert_eq!(joined, &bytes[at..at + joined.len()], "part at {at}");
        let digests: Vec<_> = joined.chunks(BLOCK).map(BlockDigest::of).collect();
        assert_eq!(part.digests.as_slice(), digests);
        assert_eq!(part.body_hash(), ContentHash::of(&joined));
        assert_eq!(part.len(), joined.len() as u64);
        at += joined.len();
    }
    assert_eq!(at, bytes.len());
}

fn lengths(parts: &[Part]) -> Vec<u64> {
    parts.iter().map(Part::len).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_cut_of_any_bytes_gives_the_same_parts_and_the_same_hash(
        len in prop_oneof![
            0usize..600_000,
            (0usize..=4, -2i64..=2).prop_map(|(blocks, near)| ((blocks * BLOCK) as i64 + near).max(0) as usize),
            0usize..20_000_000,
        ],
        pieces in prop::collection::vec(prop_oneof![1usize..2000, 1usize..300_000, 1usize..=BLOCK], 1..6),
        append_bytes in prop_oneof![Just(BLOCK), Just(2 * BLOCK)],
        declared: bool,
    ) {
        let bytes = content(len);
        // Thousands of tiny frames take long and show nothing new.
        let least = len / 5000 + 1;
        let pieces: Vec<usize> = pieces.into_iter().map(|piece| piece.max(least)).collect();
        let mut all = frames(&bytes, &pieces);
        all.push(finish());
        let declared_size = declared.then_some(len as u64);
        let rules = Rules { append_bytes, declared_size, ..Rules::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let (parts, closing) = runtime.block_on(cut(all, rules)).expect("no fault");
        check(&parts, &bytes);
        let expected: Vec<u64> = bytes.chunks(append_bytes).map(|part| part.len() as u64).collect();
        prop_assert_eq!(lengths(&parts), expected);
        let hash = Some(ContentHash::of(&bytes));
        prop_assert_eq!(closing, Closing::Commit { hash, size: len as u64, expected: None });
    }
}

#[tokio::test]
async fn an_upload_under_256_kib_keeps_its_frames_and_charges_its_own_size() {
    let (blocks, bytes) = (budget(), content(100_000));
    let mut all = frames(&bytes, &[60_000]);
    let sent = bytes.as_ptr();
    all.push(finish());
    let mut cutter = cutter(stream::iter(all), &blocks, Rules::default());
    let part = cutter.next().await.expect("no fault").expect("a part");
    assert!(cutter.is_finished());
    assert_eq!((part.pieces.len(), part.pieces[0].as_ptr()), (2, sent), "not copied");
    assert_eq!(blocks.used_bytes(), 128 * 1024);
    check(&[part], &bytes);
    assert_eq!(blocks.used_bytes(), 0);
    assert!(cutter.next().await.expect("no fault").is_none());
}

#[tokio::test]
async fn many_tiny_frames_are_joined_and_charged_their_own_size() {
    let (blocks, bytes) = (budget(), content(1000));
    let mut all = frames(&bytes, &[1]);
    all.push(finish());
    let mut cutter = cutter(stream::iter(all), &blocks, Rules::default());
    let part = cutter.next().await.expect("no fault").expect("a part");
    assert_eq!((part.pieces.len(), blocks.used_bytes()), (1, 64 * 1024));
    check(&[part], &bytes);
}

#[tokio::test]
async fn a_part_is_one_block_when_no_second_is_to_be_had() {
    let (blocks, bytes) = (budget(), content(3 * BLOCK + 5));
    let mut others: Vec<Block> = (0..).map_while(|n: u32| blocks.more(&n.to_string(), 0)).collect();
    others.truncate(7);
    let mut all = frames(&bytes, &[1 << 20]);
    all.push(finish());
    let mut cutter = cutter(stream::iter(all), &blocks, Rules::default());
    let mut parts = Vec::new();
    parts.push(cutter.next().await.expect("no fault").expect("a part"));
    assert_eq!(parts[0].len(), BLOCK as u64);
    assert!(poll!(Box::pin(cutter.next())).is_pending(), "its only block is in the part");
    drop(others);
    while let Some(part) = cutter.next().await.expect("no fault") {
        parts.push(part);
    }
    assert_eq!(lengths(&parts), [BLOCK as u64, 2 * BLOCK as u64, 5]);
    check(&parts, &bytes);
}

#[tokio::test]
async fn finish_needs_no_block_when_every_declared_byte_is_there() {
    let (blocks, bytes) = (budget(), content(2 * BLOCK));
    let mut all = frames(&bytes, &[1 << 20]);
    all.push(finish());
    let rules = Rules { declared_size: Some(2 * BLOCK as u64), ..Rules::default() };
    let mut cutter = cutter(stream::iter(all), &blocks, rules);
    let part = cutter.next().await.expect("no fault").expect("a part");
    let others: Vec<Block> = (0..).map_while(|n: u32| blocks.more(&n.to_string(), 0)).collect();
    assert_eq!((part.len(), others.len()), (2 * BLOCK as u64, 6));
    assert!(cutter.next().now_or_never().expect("no wait").expect("no fault").is_none());
    assert!(cutter.is_finished());
}

#[tokio::test]
async fn an_upload_that_outgrows_small_gives_its_units_back_before_it_waits() {
    let (blocks, bytes) = (budget(), content(400_000));
    let mut others: Vec<Block> = (0..).map_while(|n: u32| blocks.more(&n.to_string(), 0)).collect();
    others.pop();
    let units = blocks.small("q", 1).await;
    let mut all = frames(&bytes, &[100_000]);
    all.push(finish());
    let mut cutter = cutter(stream::iter(all), &blocks, Rules::default());
    assert!(poll!(Box::pin(cutter.next())).is_pending());
    assert_eq!(blocks.used_bytes(), 7 * BLOCK + 64 * 1024, "it holds nothing while it waits");
    drop(units);
    let part = cutter.next().await.expect("no fault").expect("a part");
    check(&[part], &bytes);
}

#[tokio::test]
async fn next_is_cancel_safe_at_every_await() {
    let bytes = content(2 * BLOCK + 77);
    let (sender, receiver) = mpsc::unbounded();
    let mut cutter = cutter(receiver, &budget(), Rules::default());
    let mut parts = Vec::new();
    let mut all = frames(&bytes, &[300_001]);
    all.push(finish());
    for frame in all {
        sender.unbounded_send(frame).expect("the cutter reads");
        // Polled once and dropped, whatever it was waiting for.
        for _ in 0..3 {
            if let std::task::Poll::Ready(part) = poll!(Box::pin(cutter.next())) {
                parts.extend(part.expect("no fault"));
            }
        }
    }
    drop(sender);
    while let Some(part) = cutter.next().await.expect("no fault") {
        parts.push(part);
    }
    check(&parts, &bytes);
    let hash = Some(ContentHash::of(&bytes));
    assert_eq!(cutter.close(), Closing::Commit { hash, size: bytes.len() as u64, expected: None });
}

#[tokio::test]
async fn a_half_close_gives_whole_blocks_and_drops_the_rest() {
    for (len, expected, given) in [
        (0, vec![], 0),
        (1000, vec![], 0),
        (BLOCK + 1000, vec![BLOCK as u64], BLOCK),
        (2 * BLOCK + 1000, vec![2 * BLOCK as u64], 2 * BLOCK),
        (3 * BLOCK, vec![2 * BLOCK as u64, BLOCK as u64], 3 * BLOCK),
    ] {
        let bytes = content(len);
        let (parts, closing) = cut(frames(&bytes, &[700_000]), Rules::default()).await.expect("no fault");
        assert_eq!((lengths(&parts), closing), (expected, Closing::HalfClosed { given: given as u64 }), "{len}");
        check(&parts, &bytes[..given]);
    }
}

#[tokio::test]
async fn salvage_gives_the_whole_blocks_of_a_stream_that_failed() {
    let bytes = content(3 * BLOCK + 1000);
    let mut all = frames(&bytes, &[1 << 20]);
    all.push(Err(Fault::new(Reason::ServerDraining, "draining")));
    let mut cutter = cutter(stream::iter(all), &budget(), Rules::default());
    let mut parts = vec![cutter.next().await.expect("no fault").expect("a part")];
    assert_eq!(cutter.next().await.expect_err("draining").reason(), Reason::ServerDraining);
    parts.extend(cutter.salvage().await);
    assert!(cutter.salvage().await.is_none());
    check(&parts, &bytes[..3 * BLOCK]);
    assert_eq!(cutter.next().await.expect_err("failed before").reason(), Reason::ConnectorBug);
    assert_eq!(cutter.close(), Closing::HalfClosed { given: 3 * BLOCK as u64 });
}

#[tokio::test]
async fn a_damaged_chunk_is_refused_before_any_of_it_goes_on() {
    let bad = Ok(Frame::Chunk { offset: None, bytes: content(10), crc32c: Some(1) });
    assert_eq!(reason_of(vec![bad, finish()], Rules::default()).await, Reason::ChunkCrcMismatch);
    let known = Ok(Frame::Chunk { offset: None, bytes: Bytes::from_static(b"123456789"), crc32c: Some(0xe306_9283) });
    assert!(cut(vec![known, finish()], Rules::default()).await.is_ok(), "the check value of CRC-32C");
}

#[tokio::test]
async fn what_was_declared_is_held_against_what_came() {
    let bytes = content(1000);
    let sent = || vec![chunk(bytes.slice(..))];
    let end = |content_hash, size| vec![Ok(Frame::Finish { content_hash, size })];
    let (right, wrong) = (ContentHash::of(&bytes), ContentHash::of(b""));
    let sized = |size| Rules { declared_size: Some(size), ..Rules::default() };
    let hashed = |hash| Rules { declared_hash: Some(hash), ..Rules::default() };
    type Case = (&'static str, Rules, Vec<Result<Frame>>, Option<Reason>);
    let cases: Vec<Case> = vec![
        ("all right", Rules { declared_hash: Some(right), ..sized(1000) }, end(Some(right), Some(1000)), None),
        ("too much", sized(999), end(None, None), Some(Reason::SizeMismatch)),
        ("too little", sized(1001), end(None, None), Some(Reason::SizeMismatch)),
        ("finish says otherwise", Rules::default(), end(None, Some(999)), Some(Reason::SizeMismatch)),
        ("two sizes", sized(1000), end(None, Some(999)), Some(Reason::InvalidField)),
        ("two hashes", hashed(right), end(Some(wrong), None), Some(Reason::InvalidField)),
        ("wrong hash in the spec", hashed(wrong), end(None, None), Some(Reason::ContentHashMismatch)),
        ("wrong hash at the end", Rules::default(), end(Some(wrong), None), Some(Reason::ContentHashMismatch)),
        (
            "too large",
            Rules { max_file_size: Some(999), ..Rules::default() },
            end(None, None),
            Some(Reason::FileTooLarge),
        ),
        ("data behind finish", Rules::default(), [end(None, None), sent()].concat_frames(), Some(Reason::FrameOrder)),
        (
            "two finishes",
            Rules::default(),
            [end(None, None), end(None, None)].concat_frames(),
            Some(Reason::FrameOrder),
        ),
    ];
    for (name, rules, end, expected) in cases {
        for finish_ends_stream in [true, false] {
            let rules = Rules { finish_ends_stream, ..rules.clone() };
            let all = [sent(), clone_frames(&end)].concat_frames();
            let outcome = cut(all, rules).await;
            assert_eq!(outcome.err().map(|fault| fault.reason()), expected, "{name}");
        }
    }
    let declared = Rules { max_file_size: Some(10), declared_size: Some(11), ..Rules::default() };
    let fault = PartCutter::new(stream::empty(), 0, Some(&[]), budget(), "p", declared, Arc::new(SystemClock));
    assert_eq!(fault.expect_err("before anything is read").get("limitBytes"), Some("10"));
}

#[tokio::test]
async fn a_wrong_hash_of_whole_blocks_is_found_although_no_tail_is_left() {
    let mut all = frames(&content(2 * BLOCK), &[1 << 20]);
    all.push(Ok(Frame::Finish { content_hash: Some(ContentHash::of(b"")), size: None }));
    assert_eq!(reason_of(all, Rules::default()).await, Reason::ContentHashMismatch);
}

#[tokio::test]
async fn a_duplex_caller_need_not_close_behind_finish() {
    let (sender, receiver) = mpsc::unbounded();
    let rules = Rules { finish_ends_stream: false, ..Rules::default() };
    let mut cutter = cutter(receiver, &budget(), rules);
    sender.unbounded_send(chunk(content(5))).expect("open");
    sender.unbounded_send(finish()).expect("open");
    assert_eq!(cutter.next().await.expect("no fault").expect("a part").len(), 5);
    assert!(cutter.is_finished());
}

type Sender = mpsc::UnboundedSender<Result<Frame>>;
type Receiver = mpsc::UnboundedReceiver<Result<Frame>>;

fn timed(blocks: &Blocks) -> (ManualClock, Sender, PartCutter<Receiver>) {
    let clock = ManualClock::new(SystemTime::UNIX_EPOCH);
    let (sender, receiver) = mpsc::unbounded();
    let shared = Arc::new(clock.clone());
    let cutter = PartCutter::new(receiver, 0, Some(&[]), blocks.clone(), "p", Rules::default(), shared);
    (clock, sender, cutter.expect("valid rules"))
}

#[tokio::test]
async fn the_idle_clock_runs_only_while_the_cutter_reads() {
    let blocks = budget();
    let (clock, sender, mut cutter) = timed(&blocks);
    sender.unbounded_send(chunk(content(5))).expect("open");
    assert!(poll!(Box::pin(cutter.next())).is_pending());
    clock.advance(Duration::from_secs(600)).await;
    assert!(poll!(Box::pin(cutter.next())).is_pending(), "nobody was reading");
    {
        let mut next = Box::pin(cutter.next());
        assert!(poll!(&mut next).is_pending());
        clock.advance(Duration::from_secs(50)).await;
        assert!(poll!(&mut next).is_pending());
    }
    clock.advance(Duration::from_secs(600)).await;
    let mut next = Box::pin(cutter.next());
    assert!(poll!(&mut next).is_pending(), "50 s of reading so far");
    clock.advance(Duration::from_secs(9)).await;
    assert!(poll!(&mut next).is_pending());
    clock.advance(Duration::from_secs(1)).await;
    let fault = next.now_or_never().expect("60 s are over").expect_err("idle");
    assert_eq!((fault.reason(), fault.retry_delay()), (Reason::UploadIdle, Some(Duration::ZERO)));
    drop(sender);
}

#[tokio::test]
async fn a_keep_alive_starts_the_idle_clock_again() {
    let blocks = budget();
    let (clock, sender, mut cutter) = timed(&blocks);
    for _ in 0..5 {
        let mut next = Box::pin(cutter.next());
        assert!(poll!(&mut next).is_pending());
        clock.advance(Duration::from_secs(55)).await;
        sender.unbounded_send(chunk(Bytes::new())).expect("open");
        assert!(poll!(&mut next).is_pending());
    }
}

#[tokio::test]
async fn who_is_held_back_is_neither_silent_nor_slow_for_that() {
    let blocks = budget();
    let (clock, sender, mut cutter) = timed(&blocks);
    let paced = |seconds| {
        sender.unbounded_send(chunk(content(5))).expect("open");
        sender.unbounded_send(Ok(Frame::HeldBack(Duration::from_secs(seconds)))).expect("open");
    };
    paced(100);
    assert!(poll!(Box::pin(cutter.next())).is_pending());
    let held: Vec<Block> = (0..).map_while(|n: u32| blocks.more(&n.to_string(), 0)).collect();
    let mut waiting = Box::pin(blocks.first("other"));
    assert!(poll!(&mut waiting).is_pending(), "others wait for memory");
    // Also when whoever waits for a part does something else in between.
    for span in [40, 50, 9] {
        let mut next = Box::pin(cutter.next());
        assert!(poll!(&mut next).is_pending());
        clock.advance(Duration::from_secs(span)).await;
        assert!(poll!(&mut next).is_pending(), "far longer than either clock allows, and not its doing");
    }
    paced(20);
    {
        let mut next = Box::pin(cutter.next());
        assert!(poll!(&mut next).is_pending());
        clock.advance(Duration::from_secs(20 + 29)).await;
        assert!(poll!(&mut next).is_pending(), "29 s were its own");
        clock.advance(Duration::from_secs(1)).await;
        let slow = next.now_or_never().expect("too slow by itself").expect_err("and others wait");
        assert_eq!(slow.reason(), Reason::ConnectorBusy);
    }
    drop((waiting, held));
    let (clock, sender, mut cutter) = timed(&blocks);
    sender.unbounded_send(Ok(Frame::HeldBack(Duration::from_secs(100)))).expect("open");
    let mut next = Box::pin(cutter.next());
    assert!(poll!(&mut next).is_pending());
    clock.advance(Duration::from_secs(159)).await;
    assert!(poll!(&mut next).is_pending());
    clock.advance(Duration::from_secs(1)).await;
    let silent = next.now_or_never().expect("silent by itself").expect_err("idle");
    assert_eq!(silent.reason(), Reason::UploadIdle);
}

#[tokio::test]
async fn whoever_sets_the_time_of_day_ends_no_upload() {
    let blocks = budget();
    let (clock, _sender, mut cutter) = timed(&blocks);
    let mut next = Box::pin(cutter.next());
    assert!(poll!(&mut next).is_pending());
    clock.set(crate::clock::Clock::now(&clock) + Duration::from_secs(3600));
    drop(next);
    let mut next = Box::pin(cutter.next());
    assert!(poll!(&mut next).is_pending(), "nobody was silent for an hour");
    clock.advance(Duration::from_secs(59)).await;
    assert!(poll!(&mut next).is_pending());
}

#[tokio::test]
async fn who_listens_hears_of_every_chunk_that_was_taken_and_of_no_other() {
    let heard = Arc::new(std::sync::Mutex::new(Vec::new()));
    let frames = vec![
        chunk(content(5)),
        chunk(Bytes::new()),
        // Known already, wholly and in part.
        chunk_at(2, content(3)),
        chunk_at(3, content(7)),
        chunk_at(20, content(1)),
    ];
    let blocks = budget();
    let hears = heard.clone();
    let mut cutter = cutter(stream::iter(frames), &blocks, Rules::default())
        .heard_by(move |received| hears.lock().expect("no panic").push(received));
    assert_eq!(cutter.next().await.expect_err("a gap").reason(), Reason::OffsetGap);
    assert_eq!(*heard.lock().expect("no panic"), [5, 10]);
}

#[tokio::test]
async fn a_dribbler_ends_when_others_wait_for_memory_and_only_then() {
    let blocks = budget();
    for others_wait in [false, true] {
        let (clock, sender, mut cutter) = timed(&blocks);
        sender.unbounded_send(chunk(content(5))).expect("open");
        let mut next = Box::pin(cutter.next());
        assert!(poll!(&mut next).is_pending());
        let held: Vec<Block> = (0..).map_while(|n: u32| blocks.more(&n.to_string(), 0)).collect();
        let mut waiting = Box::pin(blocks.first("other"));
        if others_wait {
            assert!(poll!(&mut waiting).is_pending());
        }
        clock.advance(Duration::from_secs(20)).await;
        assert!(poll!(&mut next).is_pending());
        sender.unbounded_send(chunk(content(100_000))).expect("open");
        assert!(poll!(&mut next).is_pending());
        clock.advance(Duration::from_secs(10)).await;
        let ended = next.now_or_never();
        assert_eq!(ended.is_some(), others_wait);
        if let Some(ended) = ended {
            let fault = ended.expect_err("too slow");
            assert_eq!((fault.reason(), fault.get("limit")), (Reason::ConnectorBusy, Some("transfer_buffer_mib")));
            assert_eq!(fault.retry_delay(), Some(crate::limits::PACE_RETRY));
        }
        drop(held);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn far_more_uploads_than_blocks_all_come_through() {
    let blocks = budget();
    let uploads = (0..40).map(|n| {
        let blocks = blocks.clone();
        tokio::spawn(async move {
            let bytes = content(if n % 3 == 0 { 100_000 + n } else { BLOCK + n * 100_000 });
            let mut all = frames(&bytes, &[262_144]);
            all.push(finish());
            let name = format!("p{}", n % 5);
            let rules = Rules::default();
            let clock = Arc::new(SystemClock);
            let mut cutter =
                PartCutter::new(stream::iter(all), 0, Some(&[]), blocks, &name, rules, clock).expect("valid");
            let mut sending = Vec::new();
            while let Some(part) = cutter.next().await.expect("no fault") {
                // An append in flight holds its blocks for a while.
                sending.push(tokio::spawn(async move {
                    tokio::task::yield_now().await;
                    part.len()
                }));
            }
            let mut sent = 0;
            for append in sending {
                sent += append.await.expect("no panic");
            }
            assert_eq!(sent, bytes.len() as u64);
        })
    });
    let all = futures::future::join_all(uploads.collect::<Vec<_>>());
    let ended = tokio::time::timeout(Duration::from_secs(120), all).await.expect("no deadlock");
    assert!(ended.iter().all(|ended| ended.is_ok()));
    assert_eq!((blocks.used_bytes(), blocks.waiting()), (0, 0));
}

#[tokio::test]
async fn in_a_hurry_parts_are_single_blocks_and_less_than_one_is_in_the_part_being_filled() {
    let bytes = content(11 << 20);
    for wait in [Duration::ZERO, Duration::from_millis(200)] {
        let blocks = budget();
        let (mut sender, receiver) = mpsc::channel(16);
        let hurry_at = Some(tokio::time::Instant::now() + wait);
        let mut cutter = cutter(receiver, &blocks, Rules { hurry_at, ..Rules::default() });
        let mut parts = Vec::new();
        // The stream stalls in the middle of a second block: the first one does not wait for it.
        for frame in frames(&bytes.slice(..6 << 20), &[1 << 20]) {
            sender.try_send(frame).expect("room");
        }
        parts.push(cutter.next().await.expect("no fault").expect("the first block"));
        assert!(poll!(Box::pin(cutter.next())).is_pending(), "the second one is not whole");
        for frame in frames(&bytes.slice(6 << 20..), &[1 << 20]).into_iter().chain([finish()]) {
            sender.try_send(frame).expect("room");
        }
        drop(sender);
        while let Some(part) = cutter.next().await.expect("no fault") {
            parts.push(part);
        }
        assert_eq!(lengths(&parts), [4 << 20, 4 << 20, 3 << 20], "{wait:?}");
        check(&parts, &bytes);
        let hash = Some(ContentHash::of(&bytes));
        assert_eq!(cutter.close(), Closing::Commit { hash, size: bytes.len() as u64, expected: None });
    }
}

#[tokio::test]
async fn appends_of_a_very_large_file_are_larger_where_the_budget_has_blocks_at_hand() {
    const GIB: u64 = 1 << 30;
    let bytes = content(22 << 20);
    let mib = |parts: &[Part]| parts.iter().map(|part| part.len() >> 20).collect::<Vec<_>>();
    for (start, declared, taken, append_bytes, expected) in [
        (0, None, 0, 2 * BLOCK, vec![8, 8, 6]),
        (8 * GIB, None, 0, 2 * BLOCK, vec![16, 6]),
        (0, Some(9 * GIB), 0, 2 * BLOCK, vec![16, 6]),
        (300 * GIB, None, 0, 2 * BLOCK, vec![22]),
        // Of eight blocks three are left: nobody waits for more than the first.
        (300 * GIB, None, 5, 2 * BLOCK, vec![12, 10]),
        (300 * GIB, None, 0, BLOCK, vec![4, 4, 4, 4, 4, 2]),
    ] {
        let blocks = budget();
        let _others: Vec<Block> = (0..).map_while(|n: u32| blocks.more(&n.to_string(), 0)).take(taken).collect();
        let rules = Rules { append_bytes, declared_size: declared, ..Rules::default() };
        let all = frames(&bytes, &[1 << 20]);
        let clock = Arc::new(SystemClock);
        let ends = if declared.is_some() { vec![] } else { vec![finish()] };
        let frames = stream::iter(all.into_iter().chain(ends));
        let known = (start == 0).then_some([].as_slice());
        let mut cutter = PartCutter::new(frames, start, known, blocks.clone(), "p", rules, clock).expect("valid");
        let mut parts = Vec::new();
        let mut at = start;
        while let Some(part) = cutter.next().await.expect("no fault") {
            assert_eq!(part.offset, at);
            at += part.len();
            assert_eq!(part.body_hash(), ContentHash::of(&part.pieces.concat()));
            let copy = part.pieces.iter().map(|piece| Bytes::copy_from_slice(piece)).collect();
            parts.push(Part { pieces: copy, ..part });
        }
        // Half-closed in the midst of a declared file: what is no whole block is not given.
        let whole = if declared.is_some() { 20 << 20 } else { bytes.len() };
        let expected = if declared.is_some() { vec![16, 4] } else { expected };
        assert_eq!(mib(&parts), expected, "{start} {declared:?} {taken} {append_bytes}");
        let joined: Vec<u8> = parts.iter().flat_map(|part| part.pieces.concat()).collect();
        assert!(joined == bytes[..whole]);
    }
}

#[tokio::test]
async fn what_was_gathered_for_a_large_append_is_not_lost_with_the_stream_nor_in_a_hurry() {
    let bytes = content(14 << 20);
    let start = 300u64 << 30;
    for hurry in [false, true] {
        let blocks = budget();
        let (mut sender, receiver) = mpsc::channel(16);
        for frame in frames(&bytes, &[1 << 20]) {
            sender.try_send(frame).expect("room");
        }
        let hurry_at = hurry.then(|| tokio::time::Instant::now() + Duration::from_secs(3));
        let rules = Rules { hurry_at, ..Rules::default() };
        let clock = Arc::new(SystemClock);
        let mut cutter = PartCutter::new(receiver, start, None, blocks, "p", rules, clock).expect("valid");
        if hurry {
            let part = cutter.next().await.expect("no fault").expect("all whole blocks");
            assert_eq!((part.offset, part.len()), (start, 12 << 20));
        } else {
            assert!(poll!(Box::pin(cutter.next())).is_pending());
            sender.try_send(Err(Fault::new(Reason::ServerDraining, "draining"))).expect("room");
            assert_eq!(cutter.next().await.expect_err("draining").reason(), Reason::ServerDraining);
            let part = cutter.salvage().await.expect("all whole blocks");
            assert_eq!((part.offset, part.len()), (start, 12 << 20));
            assert_eq!(cutter.close(), Closing::HalfClosed { given: start + (12 << 20) });
        }
    }
}

fn clone_frames(frames: &[Result<Frame>]) -> Vec<Result<Frame>> {
    frames.iter().map(|frame| Ok(frame.as_ref().expect("only frames").clone())).collect()
}

trait ConcatFrames {
    fn concat_frames(self) -> Vec<Result<Frame>>;
}

impl<const N: usize> ConcatFrames for [Vec<Result<Frame>>; N] {
    fn concat_frames(self) -> Vec<Result<Frame>> {
        self.into_iter().flatten().collect()
    }
}
