//! Where chunks say they belong, and where those belong that say nothing.

use super::*;

#[tokio::test]
async fn a_resumed_stream_goes_on_from_stored_digests() {
    let bytes = content(3 * BLOCK + 9);
    let digests: Vec<_> = bytes[..2 * BLOCK].chunks(BLOCK).map(BlockDigest::of).collect();
    let rules = Rules { resumed: true, declared_hash: Some(ContentHash::of(&bytes)), ..Rules::default() };
    for known in [Some(digests.as_slice()), None] {
        let all = vec![
            // Overlap: not what was sent before, but no whole block.
            chunk_at(2 * BLOCK - 100, Bytes::from_static(&[9; 100])),
            chunk_at(2 * BLOCK - 50, bytes.slice(2 * BLOCK - 50..3 * BLOCK)),
            chunk(bytes.slice(3 * BLOCK..)),
            finish(),
        ];
        let clock = Arc::new(SystemClock);
        let start = 2 * BLOCK as u64;
        let frames = stream::iter(all);
        let mut cutter =
            PartCutter::new(frames, start, known, budget(), "p", rules.clone(), clock).expect("a block edge");
        let part = cutter.next().await.expect("no fault").expect("a part");
        assert_eq!((part.offset, part.len()), (start, BLOCK as u64 + 9));
        assert_eq!(part.pieces.concat(), &bytes[2 * BLOCK..]);
        assert!(cutter.next().await.expect("no fault").is_none());
        let hash = known.map(|_| ContentHash::of(&bytes));
        let expected = rules.declared_hash;
        assert_eq!(cutter.close(), Closing::Commit { hash, size: bytes.len() as u64, expected });
    }
    assert_eq!(reason_of(vec![chunk(content(1))], rules.clone()).await, Reason::InvalidField);
    let start = PartCutter::new(stream::empty(), 5, None, budget(), "p", rules, Arc::new(SystemClock));
    assert_eq!(start.expect_err("not a block edge").reason(), Reason::ConnectorBug);
}

#[tokio::test]
async fn offsets_may_overlap_but_leave_no_gap() {
    let bytes = content(1000);
    let all = vec![
        chunk_at(0, bytes.slice(..600)),
        chunk_at(200, bytes.slice(200..500)),
        chunk(Bytes::new()),
        chunk_at(500, bytes.slice(500..1000)),
        finish(),
    ];
    let (parts, _) = cut(all, Rules::default()).await.expect("no fault");
    check(&parts, &bytes);
    let gap = cut(vec![chunk(bytes.slice(..10)), chunk_at(11, bytes.slice(11..12))], Rules::default()).await;
    let gap = gap.expect_err("a gap");
    assert_eq!((gap.reason(), gap.get("expectedOffset")), (Reason::OffsetGap, Some("10")));
}

/// Whoever goes on after a break begins again below what is held, with an offset on the first chunk only.
#[tokio::test]
async fn chunks_without_an_offset_go_on_where_the_one_before_ended_however_far_below_that_is() {
    let (bytes, start) = (content(2 * BLOCK + 9), BLOCK);
    let rules = Rules { resumed: true, ..Rules::default() };
    let froms = [0, 700, BLOCK - 1, BLOCK];
    for (from, piece) in froms.into_iter().flat_map(|from| [1000, BLOCK / 4 + 1, BLOCK + 1].map(|piece| (from, piece)))
    {
        let mut offsets = (from..bytes.len()).step_by(piece);
        let mut all: Vec<_> =
            offsets.next().map(|at| chunk_at(at, bytes.slice(at..bytes.len().min(at + piece)))).into_iter().collect();
        all.push(chunk(Bytes::new()));
        all.extend(offsets.map(|at| chunk(bytes.slice(at..bytes.len().min(at + piece)))));
        all.push(finish());
        let frames = stream::iter(all);
        let clock = Arc::new(SystemClock);
        let mut cutter =
            PartCutter::new(frames, start as u64, None, budget(), "p", rules.clone(), clock).expect("a block edge");
        let mut sent = Vec::new();
        while let Some(part) = cutter.next().await.expect("no fault") {
            assert_eq!(part.offset, (start + sent.len()) as u64);
            sent.extend(part.pieces.concat());
        }
        assert!(sent == bytes[start..], "from {from} by {piece}: {} bytes", sent.len());
    }
    // Also where the overlap is within one stream. An empty chunk does not move anything, wherever it says it lies.
    for kept_alive in [0, 250, 5000] {
        let all = vec![
            chunk_at(0, bytes.slice(..1000)),
            chunk_at(200, bytes.slice(200..300)),
            chunk_at(kept_alive, Bytes::new()),
            chunk(bytes.slice(300..1100)),
            finish(),
        ];
        check(&cut(all, Rules::default()).await.expect("no fault").0, &bytes[..1100]);
    }
    let empty_first = vec![chunk_at(0, Bytes::new()), chunk(bytes.slice(..10)), finish()];
    assert_eq!(reason_of(empty_first, rules).await, Reason::InvalidField, "no chunk has said where it lies");
}

#[tokio::test]
async fn a_file_that_became_shorter_than_what_was_sent_of_it_is_not_committed() {
    let (bytes, start) = (content(BLOCK + 9), BLOCK);
    let rules = Rules { resumed: true, ..Rules::default() };
    for (frames, kept) in [
        (vec![chunk_at(0, bytes.slice(..1000)), chunk(bytes.slice(1000..BLOCK - 1)), finish()], false),
        (vec![chunk_at(0, bytes.slice(..1000)), chunk(bytes.slice(1000..BLOCK)), finish()], true),
        (vec![chunk_at(BLOCK, bytes.slice(BLOCK..)), chunk_at(7, bytes.slice(7..8)), finish()], false),
        (vec![finish()], true),
    ] {
        let (frames, clock) = (stream::iter(frames), Arc::new(SystemClock));
        let mut cutter =
            PartCutter::new(frames, start as u64, None, budget(), "p", rules.clone(), clock).expect("a block edge");
        let ended = loop {
            match cutter.next().await {
                Ok(Some(_)) => {}
                Ok(None) => break None,
                Err(fault) => break Some(fault.reason()),
            }
        };
        assert_eq!(ended, (!kept).then_some(Reason::SizeMismatch));
    }
}

#[tokio::test]
async fn a_block_that_comes_again_as_a_whole_is_the_one_that_was_sent() {
    let bytes = content(3 * BLOCK + 9);
    let mut other = bytes.to_vec();
    other[2 * BLOCK - 1] ^= 1;
    let other = Bytes::from(other);
    let digests: Vec<_> = bytes[..2 * BLOCK].chunks(BLOCK).map(BlockDigest::of).collect();
    let rules = Rules { resumed: true, ..Rules::default() };
    for (piece, from) in [1000, BLOCK / 4 + 1, BLOCK, 2 * BLOCK + 1]
        .into_iter()
        .flat_map(|piece| [0, 7, BLOCK, BLOCK + 1, 2 * BLOCK].map(|from| (piece, from)))
    {
        for (source, known) in [(&bytes, true), (&other, true), (&other, false)] {
            let mut all: Vec<_> = (from..source.len())
                .step_by(piece)
                .map(|at| chunk(source.slice(at..source.len().min(at + piece))))
                .collect();
            all[0] = chunk_at(from, source.slice(from..source.len().min(from + piece)));
            all.push(finish());
            let known = known.then_some(digests.as_slice());
            let (start, clock) = (2 * BLOCK as u64, Arc::new(SystemClock));
            let mut cutter =
                PartCutter::new(stream::iter(all), start, known, budget(), "p", rules.clone(), clock).expect("an edge");
            let (mut sent, mut fault) = (Vec::new(), None);
            loop {
                match cutter.next().await {
                    Ok(Some(part)) => sent.extend(part.pieces.concat()),
                    Ok(None) => break,
                    Err(failed) => {
                        fault = Some((failed.reason(), failed.get("offset").map(str::to_owned)));
                        break;
                    }
                }
            }
            // The second block begins behind `from`, and differs in its last byte.
            let seen = *source == other && known.is_some() && from <= BLOCK;
            let changed = (Reason::ContentHashMismatch, Some(BLOCK.to_string()));
            assert_eq!(fault, seen.then_some(changed), "from {from} by {piece}");
            assert!(seen && sent.is_empty() || sent == source[2 * BLOCK..], "from {from} by {piece}");
        }
    }
}

#[tokio::test]
async fn an_upload_in_dispute_needs_a_hash_and_may_have_it_from_spec_or_finish() {
    let bytes = content(1000);
    let all =
        |hash: Option<ContentHash>| vec![chunk(bytes.clone()), Ok(Frame::Finish { content_hash: hash, size: None })];
    let rules = |declared_hash| Rules { needs_hash: true, declared_hash, ..Rules::default() };
    let hash = Some(ContentHash::of(&bytes));
    for (said, declared, reason) in [
        (None, None, Some(Reason::ContentHashMismatch)),
        (hash, None, None),
        (None, hash, None),
        (Some(ContentHash::of(b"other")), None, Some(Reason::ContentHashMismatch)),
    ] {
        let ended = cut(all(said), rules(declared)).await;
        assert_eq!(ended.err().map(|fault| fault.reason()), reason);
    }
}
