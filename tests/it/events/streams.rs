//! What a watch tells: kinds, order, snapshots, filters, heartbeats; to one and to many; and after a break.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use dropbox_connector::{
    clock::{Clock as _, ManualClock},
    emulator::control::Generate,
};

use tonic::codec::CompressionEncoding;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn create_edit_rename_and_delete_are_told_as_what_they_are() {
    let house = support::start().await;
    let mut watch = indexed(&house, "/in").await;
    put(&house, "/in/a.txt", "one");
    let created = watch.change().await;
    assert_eq!(told(std::slice::from_ref(&created)), ["CREATED /in/a.txt"]);
    let Some(pb::item::Kind::File(file)) = created.item.clone().and_then(|item| item.kind) else { panic!("a file") };
    put(&house, "/in/a.txt", "two");
    let updated = watch.change().await;
    assert_eq!(told(std::slice::from_ref(&updated)), ["UPDATED /in/a.txt"]);
    assert_eq!(updated.previous_rev, file.rev);
    rename(&house, "/in/a.txt", "/in/b.txt").await;
    let moved = watch.change().await;
    assert_eq!(
        (told(std::slice::from_ref(&moved)), moved.previous_path.as_str()),
        (vec!["MOVED /in/b.txt".into()], "/in/a.txt")
    );
    delete(&house, "/in/b.txt", pb::ItemKind::File).await;
    let deleted = watch.change().await;
    assert_eq!(told(std::slice::from_ref(&deleted)), ["DELETED /in/b.txt"]);
    let Some(pb::item::Kind::Deleted(gone)) = deleted.item.and_then(|item| item.kind) else { panic!("deleted") };
    assert_eq!((gone.last_kind(), gone.last_id), (pb::ItemKind::File, file.id));
    let ids: BTreeSet<_> = [&created.event_id, &updated.event_id, &moved.event_id, &deleted.event_id].into();
    assert_eq!(ids.len(), 4);
    assert!(matches!(watch.payload().await, Payload::BatchEnd(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_an_item_was_is_told_as_dropbox_writes_the_folder_whoever_watched_it_first() {
    let house = support::start().await;
    for (folder, asked_for, recursive) in [("/Papers", "/PAPERS", true), ("/Letters", "/letters", false)] {
        let (probe, moved) = (format!("{folder}/Probe"), format!("{folder}/Moved"));
        make_folder(&house, folder);
        let mut watch = Watch::ready(&house, |asked| {
            (asked.path, asked.recursive) = (asked_for.into(), Some(recursive));
        })
        .await;
        for text in 0.. {
            put(&house, &probe, &text.to_string());
            if watch.change().await.basis() == pb::EventBasis::Index {
                break;
            }
        }
        rename(&house, &probe, &moved).await;
        let change = watch.change().await;
        assert_eq!((change.previous_path.as_str(), path(&change)), (probe.as_str(), moved.as_str()));
        delete(&house, &moved, pb::ItemKind::File).await;
        assert_eq!(told(&watch.changes(1).await), [format!("DELETED {moved}")]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_the_first_heartbeat_is_told_again_under_the_same_ids() {
    let house = support::start().await;
    put(&house, "/in/a.txt", "one");
    let mut watch = Watch::ready(&house, |asked| asked.path = "/in".into()).await;
    // At once, and not at the interval of 30 s: the folder's log stands now.
    while !matches!(watch.payload().await, Payload::Heartbeat(_)) {}
    let token = watch.token.clone();
    drop(watch);
    rename(&house, "/in/a.txt", "/in/b.txt").await;
    let mut told = Vec::new();
    for _ in 0..3 {
        let again = |asked: &mut pb::WatchEventsRequest| (asked.path, asked.start) = ("/in".into(), behind(&token));
        let change = Watch::open(&house, again).await.change().await;
        assert!(!change.event_id.starts_with("i-"), "{change:?}");
        told.push((change.event_id, change.change_type, change.basis));
    }
    assert!(told.iter().all(|one| *one == told[0]), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_while_nobody_watched_is_told_in_order_also_by_another_server() {
    let mut house = support::start().await;
    let watch = indexed(&house, "/in").await;
    let token = watch.token.clone();
    drop(watch);
    for n in 0..10 {
        put(&house, &format!("/in/{n}"), "x");
    }
    let expected: Vec<String> = (0..10).map(|n| format!("CREATED /in/{n}")).collect();
    let again = |asked: &mut pb::WatchEventsRequest| (asked.path, asked.start) = ("/in".into(), behind(&token));
    let mut first = Watch::open(&house, again).await;
    let changes = first.changes(10).await;
    assert_eq!(told(&changes), expected);
    house.restart().await;
    let mut second = Watch::open(&house, again).await;
    let repeated = second.changes(10).await;
    assert_eq!(told(&repeated), expected);
    let ids = |changes: &[pb::ChangeEvent]| changes.iter().map(|change| change.event_id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&changes), ids(&repeated), "an event has one id in every replay");
    put(&house, "/in/more", "x");
    assert_eq!(told(&second.changes(1).await), ["CREATED /in/more"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_and_what_follows_are_everything_while_others_write() {
    let house = support::start().await;
    let generate = Generate { folder: "/in".into(), files: 700, bytes: 1, per_folder: Some(100) };
    house.control().seed(&Seed { generate: Some(generate), ..Seed::default() }).expect("seeded");
    let control = house.control();
    let writer = tokio::spawn(async move {
        for n in 0..200 {
            let seed = Seed { files: vec![SeedFile::text(&format!("/in/new/{n}"), "x")], ..Seed::default() };
            control.seed(&seed).expect("a file");
            tokio::task::yield_now().await;
        }
    });
    let mut watch = Watch::open(&house, |asked| {
        (asked.path, asked.start) = ("/in".into(), from(pb::StartPosition::Snapshot));
    })
    .await;
    let mut known = BTreeMap::new();
    let (mut counted, mut ended) = (0, false);
    // Seven folders, 700 files; the folder of the new ones and 200 of them.
    while !ended || known.len() < 7 + 700 + 1 + 200 {
        match watch.payload().await {
            Payload::Snapshot(snapshot) => {
                assert!(!ended && snapshot.items.len() <= 500);
                counted += snapshot.items.len();
                known.extend(snapshot.items.into_iter().map(|item| (item.path_lower.clone(), item.name)));
            }
            Payload::SnapshotEnd(end) => {
                assert_eq!(end.count, i64::try_from(counted).unwrap());
                ended = true;
            }
            Payload::Change(change) => {
                let item = change.item.expect("an item");
                assert_ne!(change.change_type, pb::EventType::Deleted as i32);
                known.insert(item.path_lower.clone(), item.name);
            }
            _ => {}
        }
    }
    writer.await.expect("written");
    assert!(ended && known.contains_key("/in/new/199"));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_those_who_read_compressed_messages_only_who_begins_with_a_snapshot_gets_them() {
    let house = support::start().await;
    put(&house, "/in/first", "x");
    for (start, encoding) in [(pb::StartPosition::Snapshot, Some("gzip")), (pb::StartPosition::Now, None)] {
        let mut client = house.client().accept_compressed(CompressionEncoding::Gzip);
        let request = ask(|asked| (asked.path, asked.start) = ("/in".into(), from(start)));
        let answer = client.watch_events(request).await.expect("a watch");
        let told = answer.metadata().get("grpc-encoding").map(|value| value.to_str().expect("ascii").to_owned());
        assert_eq!(told.as_deref(), encoding, "{start:?}");
        let mut watch = Watch { stream: answer.into_inner(), token: String::new() };
        while !matches!(watch.payload().await, Payload::Ready(_)) {}
        put(&house, &format!("/in/behind {start:?}"), "x");
        // A folder whose index is being built may tell again what was told before.
        while path(&watch.change().await) != format!("/in/behind {start:?}") {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_lets_through_what_it_names_and_types_what_was_asked_for() {
    let house = support::start().await;
    let certain = indexed(&house, "/in").await;
    let filter = pb::ItemFilter { include_globs: vec!["**/*.pdf".into()], ..Default::default() };
    let mut pdfs = Watch::ready(&house, |asked| (asked.path, asked.filter) = ("/in".into(), Some(filter))).await;
    let types = vec![pb::EventType::Deleted.into()];
    let mut gone = Watch::ready(&house, |asked| (asked.path, asked.event_types) = ("/in".into(), types)).await;
    for name in ["a.txt", "b.PDF", "d.pdfx", "deep/c.pdf"] {
        put(&house, &format!("/in/{name}"), "x");
    }
    // What happens within one drain is told as its sum, so one thing after the other.
    let told_paths =
        |changes: Vec<pb::ChangeEvent>| changes.iter().map(|one| path(one).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(told_paths(pdfs.changes(2).await), ["/in/b.PDF", "/in/deep/c.pdf"].map(String::from).into());
    rename(&house, "/in/a.txt", "/in/a.pdf").await;
    assert_eq!(path(&pdfs.change().await), "/in/a.pdf");
    delete(&house, "/in/b.PDF", pb::ItemKind::File).await;
    assert_eq!(told(&pdfs.changes(1).await), ["DELETED /in/b.PDF"]);
    let first = gone.change().await;
    assert_eq!(told(&[first]), ["DELETED /in/b.PDF"]);
    drop(certain);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_watch_tells_what_is_there_and_what_is_gone_and_no_more() {
    let house = support::start().await;
    put(&house, "/in/a", "x");
    let mut raw = Watch::ready(&house, |asked| {
        (asked.path, asked.classification) = ("/in".into(), pb::Classification::Raw.into());
    })
    .await;
    put(&house, "/in/b", "x");
    assert_eq!(told(&raw.changes(1).await), ["UPSERTED /in/b"]);
    delete(&house, "/in/b", pb::ItemKind::File).await;
    assert_eq!(told(&raw.changes(1).await), ["DELETED /in/b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_watchers_of_one_folder_are_one_longpoll() {
    let house = support::start().await;
    let longpolls = || house.control().counter("files/list_folder/longpoll");
    make_folder(&house, "/in");
    let mut watches = Vec::new();
    for _ in 0..50 {
        watches.push(Watch::ready(&house, |asked| asked.path = "/in".into()).await);
    }
    support::until("the folder is longpolled", || async { longpolls().running == 1 }).await;
    put(&house, "/in/a", "x");
    let mut ids = BTreeSet::new();
    for watch in &mut watches {
        let change = watch.change().await;
        assert_eq!(path(&change), "/in/a");
        ids.insert(change.event_id);
    }
    assert_eq!((ids.len(), longpolls().running_max), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_does_not_read_delays_nobody_and_loses_nothing() {
    let house = support::start().await;
    let mut quick = indexed(&house, "/in").await;
    let mut slow = Watch::ready(&house, |asked| asked.path = "/in".into()).await;
    let many = 5000;
    let generate = Generate { folder: "/in/many".into(), files: many, bytes: 1, per_folder: None };
    house.control().seed(&Seed { generate: Some(generate), ..Seed::default() }).expect("seeded");
    let all = |changes: Vec<pb::ChangeEvent>| changes.iter().map(|one| path(one).to_owned()).collect::<BTreeSet<_>>();
    let count = usize::try_from(many).unwrap() + 1;
    let quickly = all(quick.changes(count).await);
    assert_eq!(quickly.len(), count);
    assert_eq!(all(slow.changes(count).await), quickly);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_watch_beats_at_its_interval_and_every_beat_has_a_good_token() {
    let clock = ManualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
    let house = support::start_bare_by(Arc::new(clock.clone()), |_| {}).await;
    house.make_parameter(PARAMETER, |_| {}).await;
    make_folder(&house, "/in");
    let interval = Duration::from_secs(10);
    let asked = |asked: &mut pb::WatchEventsRequest| {
        asked.path = "/in".into();
        asked.heartbeat_interval = prost_types::Duration::try_from(interval).ok();
    };
    let mut watch = Watch::ready(&house, asked).await;
    // It has met the log.
    let first = watch.stream.message().await.expect("no end").expect("a message").into_plain();
    assert!(matches!(first.payload, Some(Payload::Heartbeat(_))), "{first:?}");
    let (begun, hour) = (clock.steady(), Duration::from_secs(3600));
    for (beats, set) in (1..).zip(["", "forward", "back", ""]) {
        // A time server corrects the machine's clock meanwhile.
        match set {
            "forward" => clock.set(clock.now() + hour),
            "back" => clock.set(clock.now() - hour),
            _ => {}
        }
        let before = clock.steady();
        let beat = loop {
            // When its time is over it comes without any more of it.
            let is_due = clock.steady() - before >= interval.mul_f64(1.2);
            let step = if is_due { PATIENCE } else { Duration::from_millis(50) };
            match tokio::time::timeout(step, watch.stream.message()).await {
                Ok(message) => break message.expect("no end").expect("a message").into_plain(),
                Err(_) if is_due => panic!("{set}: no beat in time"),
                Err(_) => clock.advance(Duration::from_secs(1)).await,
            }
        };
        let Some(Payload::Heartbeat(told)) = beat.payload else { panic!("{beat:?}") };
        // Of all together: one that is read late makes the next one come early.
        let waited = clock.steady() - begun;
        assert!(waited >= interval.mul_f64(0.8 * f64::from(beats)), "{beats} {set}: {waited:?}");
        assert!(told.lag.expect("a lag").seconds < 60, "{set}: {told:?}");
        let mut again =
            Watch::ready(&house, |asked| (asked.path, asked.start) = ("/in".into(), behind(&beat.resume_token))).await;
        drop(again.stream.trailers());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_goes_on_changing_is_told_once_it_has_settled() {
    let house = support::start().await;
    let certain = indexed(&house, "/in").await;
    // Longer than a busy machine takes from the first of them to the last.
    let span = prost_types::Duration { seconds: 4, nanos: 0 };
    let mut watch = Watch::ready(&house, |asked| (asked.path, asked.settle) = ("/in".into(), Some(span))).await;
    for text in ["1", "2", "3", "4"] {
        put(&house, "/in/a", text);
        put(&house, "/in/gone", text);
    }
    delete(&house, "/in/gone", pb::ItemKind::File).await;
    let change = watch.change().await;
    assert_eq!(told(std::slice::from_ref(&change)), ["CREATED /in/a"]);
    let Some(pb::item::Kind::File(file)) = change.item.and_then(|item| item.kind) else { panic!("a file") };
    assert_eq!(file.size, 1);
    put(&house, "/in/b", "x");
    assert_eq!(told(&watch.changes(1).await), ["CREATED /in/b"], "what came and went is not told");
    drop(certain);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_moved_and_then_changed_within_the_span_is_told_as_moved_and_behind_it_as_updated() {
    let house = support::start().await;
    put(&house, "/in/q", "1");
    let mut certain = indexed(&house, "/in").await;
    let gathers = Some(prost_types::Duration { seconds: 2, nanos: 0 });
    let mut watch = Watch::ready(&house, |asked| (asked.path, asked.settle) = ("/in".into(), gathers)).await;
    rename(&house, "/in/q", "/in/q2").await;
    assert_eq!(told(&certain.changes(1).await), ["MOVED /in/q2"]);
    put(&house, "/in/q2", "other");
    assert_eq!(told(&certain.changes(1).await), ["UPDATED /in/q2"]);
    let size = |change: &pb::ChangeEvent| match change.item.as_ref().and_then(|item| item.kind.as_ref()) {
        Some(pb::item::Kind::File(file)) => file.size,
        other => panic!("{other:?}"),
    };
    let moved = watch.change().await;
    assert_eq!((told(std::slice::from_ref(&moved)).remove(0).as_str(), size(&moved)), ("MOVED /in/q2", 1));
    // Whoever stops here is told the other by the next stream, gathering or not.
    let token = watch.token.clone();
    for settle in [None, gathers] {
        let mut again = Watch::open(&house, |asked| {
            (asked.path, asked.start, asked.settle) = ("/in".into(), behind(&token), settle);
        })
        .await;
        let updated = again.change().await;
        assert_eq!((told(std::slice::from_ref(&updated)).remove(0).as_str(), size(&updated)), ("UPDATED /in/q2", 5));
    }
    let updated = watch.change().await;
    assert_eq!((told(std::slice::from_ref(&updated)).remove(0).as_str(), size(&updated)), ("UPDATED /in/q2", 5));
    assert_ne!(moved.event_id, updated.event_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_before_a_folder_that_does_not_wait_has_a_place_before_that_folder() {
    let house = support::start().await;
    put(&house, "/in/old/x", "x");
    let mut certain = indexed(&house, "/in").await;
    let minute = prost_types::Duration { seconds: 60, nanos: 0 };
    let mut watch = Watch::ready(&house, |asked| {
        (asked.path, asked.settle, asked.expand_folders) = ("/in".into(), Some(minute), true);
    })
    .await;
    put(&house, "/in/busy", "1");
    put(&house, "/in/old/x", "xx");
    certain.changes(2).await;
    rename(&house, "/in/old", "/in/new").await;
    let mut left = vec!["UPDATED /in/old/x", "MOVED /in/new", "MOVED /in/new/x"];
    while !left.is_empty() {
        assert_eq!(told(&watch.changes(1).await), [left.remove(0)]);
        let token = watch.token.clone();
        let mut again = Watch::open(&house, |asked| {
            (asked.path, asked.start, asked.expand_folders) = ("/in".into(), behind(&token), true);
        })
        .await;
        let mut expected = [&left[..], &["CREATED /in/busy"]].concat();
        expected.sort_unstable();
        let mut all = told(&again.changes(expected.len()).await);
        all.sort();
        assert_eq!(all, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_back_while_something_waits_is_told_that_and_nothing_twice() {
    let house = support::start().await;
    put(&house, "/in/old/x", "x");
    let certain = indexed(&house, "/in").await;
    let minute = prost_types::Duration { seconds: 60, nanos: 0 };
    let gathers = |asked: &mut pb::WatchEventsRequest| {
        (asked.path, asked.settle, asked.expand_folders) = ("/in".into(), Some(minute), true);
    };
    let mut watch = Watch::ready(&house, gathers).await;
    // A folder and its rows do not wait; what lies elsewhere does.
    put(&house, "/in/busy", "1");
    put(&house, "/in/a", "1");
    rename(&house, "/in/old", "/in/new").await;
    assert_eq!(told(&watch.changes(2).await), ["MOVED /in/new", "MOVED /in/new/x"]);
    let token = watch.token.clone();
    drop(watch);
    delete(&house, "/in/a", pb::ItemKind::File).await;
    let again = |asked: &mut pb::WatchEventsRequest| {
        (asked.path, asked.start, asked.expand_folders) = ("/in".into(), behind(&token), true);
    };
    let expected = ["CREATED /in/a", "CREATED /in/busy", "DELETED /in/a"];
    let mut at_once = Watch::open(&house, again).await;
    let mut all = told(&at_once.changes(3).await);
    all.sort();
    assert_eq!(all, expected);
    // Each token on the way leads on from there.
    let mut step = Watch::open(&house, again).await;
    let mut one_by_one = told(&step.changes(1).await);
    for _ in 0..2 {
        let token = step.token.clone();
        step = Watch::open(&house, |asked| (asked.path, asked.start) = ("/in".into(), behind(&token))).await;
        one_by_one.extend(told(&step.changes(1).await));
    }
    one_by_one.sort();
    assert_eq!(one_by_one, expected);
    // So does one that gathers anew: the file may have been told of, so it is told of both.
    let mut gathered = Watch::open(&house, |asked| {
        again(asked);
        asked.settle = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    })
    .await;
    let mut all = told(&gathered.changes(3).await);
    all.sort();
    assert_eq!(all, expected);
    // And a pull of one after the other.
    let (mut all, mut token) = (Vec::new(), token);
    while all.len() < 3 {
        let request = pb::PullEventsRequest {
            application_parameter_id: PARAMETER.into(),
            resume_token: token,
            max_events: 1,
            ..Default::default()
        };
        let pulled = house.client().pull_events(request).await.expect("a pull").into_inner();
        all.extend(told(&pulled.changes));
        token = pulled.resume_token;
    }
    all.sort();
    assert_eq!(all, expected);
    drop(certain);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_in_a_jail_sees_its_own_paths_alone() {
    let house = support::start().await;
    make_folder(&house, "/jail/in");
    house.make_parameter("jailed", |parameter| parameter.path_prefix = "/jail".into()).await;
    let open = indexed(&house, "/jail/in").await;
    let mut watch = Watch::ready(&house, |asked| {
        (asked.application_parameter_id, asked.path) = ("jailed".into(), "/in".into());
    })
    .await;
    put(&house, "/jail/in/a", "x");
    let change = watch.change().await;
    assert_eq!(path(&change), "/in/a");
    assert!(!format!("{change:?}").contains("jail"), "{change:?}");
    drop(open);
}
