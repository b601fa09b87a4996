//! How an index comes to stand while changes follow one another without a pause: what was told without it is told neither
//! again nor otherwise, and what is newer is. The answers of Dropbox are written down.

use std::{sync::Arc, time::Duration};

use super::{
    steps::{House, is_replaced, names, news, scope, standing, told, work},
    truth::path_of,
};
use crate::{
    events::{
        Ahead, Basis, Happening, Options, ResumePoint, Start, Watcher,
        feed::Feed,
        poller::{Poller, Step},
    },
    fault::Reason,
    limits::{INDEX_ROUNDS_MAX, SCOPE_KEPT},
    store::Save,
};

/// The beginning of a feed's log.
fn beginning(feed: &Feed) -> Start {
    Start::After(ResumePoint { epoch: feed.state().head.epoch, ..ResumePoint::at("now".into()) })
}

/// All that the log has: how it is known, what happened, where.
async fn log(house: &House, feed: &Arc<Feed>) -> Vec<String> {
    let mut watcher = house.watcher(feed, beginning(feed)).await;
    let told = told(&mut watcher).await;
    let entries = told.iter().filter_map(|one| if let Happening::Event(entry) = one { Some(entry) } else { None });
    let said = entries.map(|entry| {
        assert!(entry.logged, "{entry:?}");
        let change = entry.change().unwrap();
        let basis = match change.basis {
            Basis::Inferred => "guessed",
            Basis::Index => "known",
            Basis::Synthetic => "compared",
        };
        let kind = format!("{:?}", change.kind).to_lowercase();
        format!("{basis} {kind} {}", path_of(change).trim_start_matches("/W/"))
    });
    said.collect()
}

/// How many steps it takes until the index stands.
async fn until_it_stands(feed: &Feed, poller: &mut Poller) -> usize {
    for step in 1..200 {
        assert_eq!(poller.step().await.unwrap(), Step::Worked);
        if feed.is_built() {
            return step;
        }
    }
    panic!("it does not come to stand");
}

/// Every question about what changed finds something, whoever asks.
fn never_rests(house: &House) {
    house.script.says("list", "a 1", "list 0", false);
    for n in 0..100 {
        let log = if n == 0 { "now".to_owned() } else { format!("log {n}") };
        house.script.says(&log, &format!("l{n} 1{n}"), &format!("log {}", n + 1), false);
        house.script.says(&format!("list {n}"), &format!("i{n} 2{n}"), &format!("list {}", n + 1), false);
    }
}

#[tokio::test]
async fn an_index_stands_although_every_question_finds_something_new() {
    let house = House::new().await;
    never_rests(&house);
    let (feed, mut poller) = house.feed(scope()).await;
    until_it_stands(&feed, &mut poller).await;
    assert_eq!(house.script.asked("now") + house.script.asked("log 1"), 1, "one drain of the log was enough");
    while !poller.is_at_rest() {
        assert_eq!(poller.step().await.unwrap(), Step::Worked);
    }
    assert_eq!(log(&house, &feed).await, ["guessed created l0", "known created i0"]);
    for _ in 0..3 {
        poller.news = true;
        work(&feed, &mut poller).await;
    }
    let told = log(&house, &feed).await;
    assert_eq!(told[2..], ["known created i1", "known created i2", "known created i3"]);
    assert_eq!(names(&house, &feed).await, ["a", "i0", "i1", "i2", "i3", "l0"]);
}

#[tokio::test]
async fn an_index_that_the_log_has_passed_catches_up_first_however_often_somebody_rings() {
    let house = House::new().await;
    // Between the pages of each drain the log is asked, and has passed the index then.
    house.script.says("list", "a 1", "list 0+", true);
    for n in 0..100 {
        house.script.says(&format!("list {n}"), &format!("i{n} 2{n}"), &format!("list {n}+"), true);
        house.script.says(&format!("list {n}+"), &format!("k{n} 3{n}"), &format!("list {}", n + 1), false);
        let log = if n == 0 { "now".to_owned() } else { format!("log {n}") };
        house.script.says(&log, &format!("l{n} 1{n}"), &format!("log {}", n + 1), false);
    }
    let (feed, mut poller) = house.feed(scope()).await;
    for step in 0.. {
        assert!(step < 200, "it does not come to stand");
        feed.bell.notify_one();
        assert_eq!(poller.step().await.unwrap(), Step::Worked);
        if feed.is_built() {
            break;
        }
    }
    let guessed = log(&house, &feed).await.len();
    let rounds = usize::try_from(INDEX_ROUNDS_MAX).unwrap();
    assert!(guessed > rounds, "the log was told meanwhile: {guessed}");
    let drains = (0..100).filter(|n| house.script.asked(&format!("list {n}+")) > 0).count();
    assert_eq!(drains, rounds + 1, "then one was left alone");
    // Without anybody who rings the first drain behind the listing is enough.
    let house = House::new().await;
    house.script.says("list", "a 1", "list 0", true);
    house.script.says("list 0", "b 2", "list 1", false);
    house.script.says("now", "l 3", "log 1", false);
    let (feed, mut poller) = house.feed(scope()).await;
    while house.script.asked("list") == 0 {
        poller.step().await.unwrap();
    }
    feed.bell.notify_one();
    until_it_stands(&feed, &mut poller).await;
    let asked = ["list", "list 0", "list 1", "now", "log 1"].map(|question| house.script.asked(question));
    assert_eq!(asked, [1, 1, 1, 1, 1]);
    // A look that finds nothing passes nothing.
    let house = House::new().await;
    house.script.says("list", "a 1", "list 0", true);
    house.script.says("list 0", "b 2", "list 1", false);
    let (feed, mut poller) = house.feed(scope()).await;
    while house.script.asked("list") == 0 {
        poller.step().await.unwrap();
    }
    feed.bell.notify_one();
    until_it_stands(&feed, &mut poller).await;
    let asked = ["list", "list 0", "list 1", "now"].map(|question| house.script.asked(question));
    assert_eq!(asked, [1, 1, 0, 2]);
}

#[tokio::test]
async fn what_was_told_without_the_index_is_not_told_again_and_what_is_newer_is() {
    let table = [
        // (listed, told without the index, told by the index's own cursor, what the index says)
        ("a 1", "b 2", "b 2", ""),
        ("a 1 1 h1", "a 1 2 h2", "a 1 2 h2", ""),
        ("a 1 1 h1", "a 1 2 h2", "a 1 3 h3", "known updated a"),
        ("a 1", "-a", "-a", ""),
        ("a 1", "-a, b 1", "-a, b 1", ""),
        ("a 1", "-a, a 5", "-a, a 5", ""),
        ("a 1", "-a, a/ 5, a/x 6", "-a, a/ 5, a/x 6", ""),
        ("f/ 1, f/x 2", "-f, g/ 1, g/x 2", "-f, g/ 1, g/x 2", ""),
        ("f/ 1, f/x 2", "-f, g/ 1, g/x 2", "g/x 2, -f, g/ 1", ""),
        ("f/ 1, f/x 2", "g/ 1, -f, g/x 2", "-f, -g, k/ 1, k/x 2", "known moved k"),
        ("f/ 1, f/x 2", "-f, g/ 1, g/x 2", "-f, g/ 1, -g/x", "known deleted g/x"),
        ("s/ 1, s/x 2", "-s, s/ 1 S, s/x 2", "-s, s/ 1 S, s/x 2", ""),
        ("a 1, b 2", "a 2, b 1", "a 2, b 1", ""),
        ("a 1", "A 1", "A 1", ""),
        // Of a folder that nobody has named yet.
        ("a 1", "f/x 2", "f/ 7, f/x 2", "known created f"),
        // Told by the listing, gone before the log was asked, and not named by what the log was told.
        ("a 1, ghost 9", "b 2", "-ghost, c 3", "known created c, known deleted ghost"),
    ];
    for (listed, joined, own, said) in table {
        let house = House::new().await;
        house.script.says("list", listed, "list 0", false);
        house.script.says("now", joined, "log 1", false);
        house.script.says("list 0", own, "list 1", false);
        let (feed, mut poller) = house.feed(scope()).await;
        work(&feed, &mut poller).await;
        let told = log(&house, &feed).await;
        let guesses = told.iter().take_while(|one| one.starts_with("guessed")).count();
        assert_eq!(guesses, joined.split(", ").count(), "{joined}: {told:?}");
        assert_eq!(told[guesses..].join(", "), said, "{listed} | {joined} | {own}");
    }
}

#[tokio::test]
async fn tokens_of_the_first_drain_of_an_index_lead_on_from_where_the_log_was() {
    let house = House::new().await;
    house.script.says("list", "a 1", "list 0", false);
    house.script.says("now", "b 2", "log 1", false);
    house.script.says("list 0", "b 2, c 3", "list 1", false);
    let (feed, mut poller) = house.feed(scope()).await;
    work(&feed, &mut poller).await;
    let mut watcher = house.watcher(&feed, beginning(&feed)).await;
    let told = told(&mut watcher).await;
    let cursors = told.iter().filter_map(|one| match one {
        Happening::Event(entry) | Happening::BatchEnd(entry) => Some(entry.point.cursor.to_string()),
        _ => None,
    });
    assert_eq!(cursors.collect::<Vec<_>>(), ["now", "log 1", "log 1", "list 1"]);
}

#[tokio::test]
async fn an_index_comes_to_stand_wherever_the_process_ends() {
    let mut stood = Vec::new();
    // Before the listing nothing is there to be lost.
    for ends_behind in 2..16 {
        let house = House::new().await;
        house.script.says("list", "a 1, x/ 7, x/y 8", "list 0", false);
        house.script.says("now", "b 2", "log 1", true);
        house.script.says("log 1", "c 3", "log 2", true);
        house.script.says("log 2", "-a, d 1", "log 3", false);
        house.script.says("log 3", "e 4, -b", "log 4", false);
        house.script.says("list 0", "b 2, c 3", "list 1", true);
        house.script.says("list 1", "-a, d 1, e 4", "list 2", true);
        house.script.says("list 2", "-b", "list 3", false);
        let (mut feed, mut poller) = house.feed(scope()).await;
        let mut steps = 0;
        loop {
            if steps == ends_behind {
                stood.push(feed.is_built());
                (feed, poller) = house.feed(scope()).await;
            }
            steps += 1;
            if poller.step().await.unwrap() == Step::Idle {
                break;
            }
            assert!(steps < 100, "it does not come to rest");
        }
        assert!(feed.is_built());
        let told = log(&house, &feed).await;
        let bare: Vec<&str> = told.iter().map(|one| one.split_once(' ').unwrap().1).collect();
        let all = ["created b", "created c", "deleted a", "created d", "created e", "deleted b"];
        assert_eq!(bare, all, "behind step {ends_behind}: {told:?}");
        // Whoever comes back looks at the log first, which may take it as far.
        assert!(told[..4].iter().all(|one| one.starts_with("guessed")), "behind step {ends_behind}: {told:?}");
        assert_eq!(names(&house, &feed).await, ["c", "d", "e", "x"], "behind step {ends_behind}");
    }
    assert!(stood.contains(&false) && stood.contains(&true), "{stood:?}");
}

#[tokio::test]
async fn a_folder_that_was_swept_while_somebody_was_at_work_on_it_is_lost_and_begins_anew() {
    let mut was_built = Vec::new();
    for swept_behind in 1..16 {
        let house = House::new().await;
        house.script.says("list", "a/ 1, a/b 2, c 3", "list 1", true);
        house.script.says("list 1", "d 4", "list 2", false);
        house.script.says("list 2", "-c, d 5, e/x 6", "list 3", false);
        house.script.says("list 3", "-a, f/ 1, f/b 2", "list 4", true);
        house.script.refuses("list 4", Reason::CursorReset);
        house.script.says("now", "e 7", "log 1", false);
        let (feed, mut poller) = house.feed(scope()).await;
        for _ in 0..swept_behind {
            poller.step().await.unwrap();
            poller.news |= feed.is_built();
        }
        was_built.push(feed.is_built());
        // The time of day has jumped, or the machine has slept.
        house.clock.advance(SCOPE_KEPT + Duration::from_secs(1)).await;
        assert_eq!(house.store.sweep_events().await.unwrap().scopes, 1);
        let mut steps = 0;
        let end = loop {
            steps += 1;
            assert!(steps < 100, "it does not end");
            poller.news |= feed.is_built();
            let step = poller.step().await.unwrap();
            if step != Step::Worked {
                break step;
            }
        };
        // What is missed first is the index, or the row that a save is for.
        assert!(matches!(end, Step::Gone | Step::Lost), "behind step {swept_behind}: {end:?}");
        let (feed, mut poller) = house.feed(scope()).await;
        while poller.step().await.unwrap() != Step::Idle {}
        assert!(feed.is_built() && !names(&house, &feed).await.is_empty());
    }
    assert!(was_built.contains(&false) && was_built.contains(&true), "{was_built:?}");
}

/// The log is over, whoever reads it is told so, and the index is that of the second listing.
async fn begins_anew(house: &House) {
    let (feed, mut poller) = house.feed(scope()).await;
    let (epoch, mut watcher) = (feed.state().head.epoch, house.watcher(&feed, beginning(&feed)).await);
    work(&feed, &mut poller).await;
    assert_ne!(feed.state().head.epoch, epoch, "the log is over");
    assert!(is_replaced(&told(&mut watcher).await) && feed.is_built());
    assert_eq!(names(house, &feed).await, ["c"]);
}

#[tokio::test]
async fn a_cursor_that_is_forgotten_on_the_way_loses_nothing_in_silence() {
    // The log's, in the midst of the drain that goes into both: nobody knows what happened.
    let house = House::new().await;
    house.script.says("list", "a 1", "list 0", false);
    house.script.says("list", "c 3", "list 1", false);
    house.script.says("now", "b 2", "log 1", true);
    house.script.refuses("log 1", Reason::CursorReset);
    house.script.says("now", "", "log 2", false);
    begins_anew(&house).await;
    // The watched folder's own end, in the same place.
    let house = House::new().await;
    house.script.says("list", "/ 8, a 1", "list 0", false);
    house.script.says("list", "/ 9, c 3", "list 1", false);
    house.script.says("now", "b 2", "log 1", true);
    house.script.says("log 1", "-, / 9, c 3", "log 2", false);
    house.script.says("now", "", "log 3", false);
    begins_anew(&house).await;
    // The index's, before: it is built anew, and the log goes on.
    let house = House::new().await;
    house.script.says("list", "a 1", "list 0", true);
    house.script.refuses("list 0", Reason::CursorReset);
    house.script.says("list", "a 1, b 2", "list 1", false);
    house.script.says("now", "b 2", "log 1", false);
    let (feed, mut poller) = house.feed(scope()).await;
    let epoch = feed.state().head.epoch;
    work(&feed, &mut poller).await;
    assert_eq!((feed.state().head.epoch, feed.is_built()), (epoch, true));
    assert_eq!(log(&house, &feed).await, ["guessed created b"]);
    assert_eq!(names(&house, &feed).await, ["a", "b"]);
    // The index's, when it has come to stand: it knows all that was told, so what differs is told.
    let house = House::new().await;
    house.script.says("list", "a 1", "list 0", false);
    house.script.says("now", "b 2", "log 1", false);
    house.script.says("list 0", "c 3", "list 1", true);
    house.script.refuses("list 1", Reason::CursorReset);
    house.script.says("list", "b 2, c 3, d 4", "list 2", false);
    let (feed, mut poller) = house.feed(scope()).await;
    let epoch = feed.state().head.epoch;
    work(&feed, &mut poller).await;
    assert_eq!((feed.state().head.epoch, feed.is_built()), (epoch, true));
    let told = log(&house, &feed).await;
    let expected = ["guessed created b", "known created c", "compared created d", "compared deleted a"];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn a_scope_that_an_older_version_was_catching_up_goes_on_and_loses_nothing() {
    for (stage, asked_own) in [("Idle", 2), ("Draining", 3)] {
        let house = House::new().await;
        house.script.says("list", "a 1, b 2", "list 0", true);
        house.script.says("list 0", "", "list 1", false);
        house.script.says("list 1", "", "list 1", false);
        house.script.says("now", "b 2", "log 1", false);
        let (feed, mut poller) = house.feed(scope()).await;
        while house.script.asked("list") == 0 {
            poller.step().await.unwrap();
        }
        // What it had found just before: the index has no news, and neither has the log. The log has some since.
        let row = house.store.lease_scope(feed.row().await.unwrap().id, 0).await.unwrap().unwrap();
        let progress: serde_json::Value = serde_json::from_str(&row.progress).unwrap();
        let mut older = progress.as_object().unwrap().clone();
        for (key, value) in [("phase", "Catching"), ("other_stage", stage)] {
            older.insert(key.into(), value.into());
        }
        for key in ["probing", "quiet"] {
            older.insert(key.into(), true.into());
        }
        older.insert("rounds".into(), 9.into());
        let save = Save {
            scope: row.id,
            lease: row.lease,
            version: row.version,
            head: row.head,
            progress: serde_json::to_string(&older).unwrap(),
            drain: None,
            log: Vec::new(),
            index: Default::default(),
            forget_log: false,
            looked: None,
        };
        assert!(house.store.save_events(&save).await.unwrap());
        let (feed, mut poller) = house.feed(scope()).await;
        work(&feed, &mut poller).await;
        assert!(feed.is_built());
        assert_eq!(log(&house, &feed).await, ["guessed created b"], "{stage}");
        assert_eq!(names(&house, &feed).await, ["a", "b"]);
        let own = house.script.asked("list 0") + house.script.asked("list 1");
        assert!(own >= asked_own, "{stage}: {own}");
        let row = house.store.lease_scope(row.id, 0).await.unwrap().unwrap();
        let kept: serde_json::Value = serde_json::from_str(&row.progress).unwrap();
        assert!(kept.get("quiet").is_none() && kept.get("probing").is_none(), "an older version believes them: {kept}");
    }
}

#[tokio::test]
async fn that_there_was_nothing_leads_into_the_log_only_those_who_had_come_by_then() {
    let house = House::new().await;
    let (feed, _poller) = standing(&house).await;
    let place = ResumePoint::beside("mid".into(), feed.state().head);
    let first = told(&mut house.watcher(&feed, Start::After(place.clone())).await).await;
    assert!(matches!(first[..], [Happening::Ready(_), Happening::Joined(_)]), "{first:?}");
    // Something happens. A stream in another process has told it, without the index, and whoever heard that has died.
    house.script.says("mid", "c 3", "end", false);
    house.script.says("list 1", "c 3", "list 2", false);
    let heard = told(&mut house.watcher(&feed, Start::After(place)).await).await;
    let [Happening::Ready(_), Happening::Event(entry)] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!((entry.logged, entry.change().unwrap().basis), (false, Basis::Inferred), "the log tells it otherwise");
}

#[tokio::test]
async fn a_place_behind_which_some_was_told_is_good_in_its_own_log_alone_and_also_at_the_beginning_of_that() {
    let house = House::new().await;
    let (feed, mut poller) = standing(&house).await;
    let beginning = house.watcher(&feed, Start::Now).await.point();
    house.script.says("list 1", "d 4, -a, x/ 1, x/b 2", "c 1", false);
    news(&feed, &mut poller).await;
    let heard = told(&mut house.watcher(&feed, Start::After(beginning.clone())).await).await;
    let sequences = heard.iter().map(|one| one.point().sequence).collect::<Vec<_>>();
    assert_eq!(sequences, [0, 1, 2, 3], "ready, two changes, the end");
    let is_move = |one: &Happening| matches!(one, Happening::Event(entry) if entry.folder().is_some());
    let moved = heard.iter().find(|one| is_move(one)).expect("a move").point();
    // The folder itself was told, and the rest was not.
    let others = (1..=2).filter(|number| *number != moved.sequence).map(|number| (number, number)).collect();
    let ahead = ResumePoint { within: Some(0), ..moved.clone() }.told_but(others);
    let place = beginning.clone().with_ahead(&ahead);
    let expand = Options { expand: true, ..Options::default() };
    let mut again = Watcher::begin(feed.clone(), 1, Start::After(place.clone()), expand).await.unwrap();
    let events = told(&mut again).await;
    let paths = events.iter().filter_map(|one| match one {
        Happening::Event(entry) => {
            assert!(entry.logged);
            entry.change().map(path_of)
        }
        _ => None,
    });
    let mut paths: Vec<_> = paths.collect();
    paths.sort();
    assert_eq!(paths, ["/W/d", "/W/x/b"]);
    // The log of a store that was put back to an earlier state goes on with other entries.
    for lost in [Ahead { until: 90, ..ahead.clone() }, Ahead { mark: ahead.mark ^ 1, ..ahead.clone() }] {
        let place = beginning.clone().with_ahead(&lost);
        assert!(!feed.holds(&place).await.unwrap(), "{lost:?}");
        assert!(is_replaced(&told(&mut house.watcher(&feed, Start::After(place)).await).await), "{lost:?}");
    }
    assert!(feed.holds(&place).await.unwrap());
}
