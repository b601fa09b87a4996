//! A watcher that does not read: which entries are in memory because of it, counted one by one.

use std::sync::{Arc, Weak};

use super::steps::{House, news, scope, told, work};
use crate::{
    events::{Entry, Happening, Start},
    limits::{EVENT_CHUNK, EVENT_TAIL_BYTES, EVENT_TAIL_ENTRIES},
};

const ROUNDS: usize = 20;
const FILES: usize = 150;

fn entry(happening: &Happening) -> Option<&Arc<Entry>> {
    match happening {
        Happening::Event(entry) | Happening::BatchEnd(entry) => Some(entry),
        _ => None,
    }
}

fn alive(entries: &[Weak<Entry>]) -> usize {
    entries.iter().filter(|entry| entry.strong_count() > 0).count()
}

#[tokio::test]
async fn a_watcher_that_does_not_read_keeps_no_entry_in_memory_and_is_told_every_one_in_the_end() {
    let house = House::new().await;
    let (feed, mut poller) = house.feed(scope()).await;
    work(&feed, &mut poller).await;
    let mut quick = house.watcher(&feed, Start::Now).await;
    let mut slow = house.watcher(&feed, Start::Now).await;
    told(&mut quick).await;
    told(&mut slow).await;
    let (mut entries, mut ids) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let files: Vec<String> = (0..FILES).map(|file| format!("{round}-{file} {round}x{file}")).collect();
        let cursor = |round: usize| if round == 0 { "now".to_owned() } else { format!("now {round}") };
        house.script.says(&cursor(round), &files.join(", "), &cursor(round + 1), false);
        news(&feed, &mut poller).await;
        for happening in told(&mut quick).await {
            let Some(entry) = entry(&happening) else { continue };
            entries.push(Arc::downgrade(entry));
            ids.push(entry.event_id());
        }
        // The tail is everybody's; whoever has read to its end holds no more than was in it.
        assert!(alive(&entries) <= 2 * EVENT_TAIL_ENTRIES, "round {round}: {} entries", alive(&entries));
        assert!(feed.kept().load(std::sync::atomic::Ordering::Relaxed) <= EVENT_TAIL_BYTES);
    }
    assert_eq!(ids.len(), ROUNDS * (FILES + 1));
    drop(quick);
    assert!(alive(&entries) <= EVENT_TAIL_ENTRIES);
    // One that stops in the midst of what it was read holds that.
    let first = slow.try_next().await.unwrap().expect("there is much to tell");
    let mut late = vec![entry(&first).expect("an entry").event_id()];
    let chunk = slow.held().len();
    assert!((1..=EVENT_CHUNK).contains(&chunk), "{chunk}");
    late.extend(told(&mut slow).await.iter().filter_map(entry).map(|entry| entry.event_id()));
    assert_eq!(late, ids);
}
