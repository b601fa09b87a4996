//! Jobs that take their time, entries that others got in the way of, and batches that are refused as a whole.

use std::time::Instant;

use dropbox_connector::clock::{Clock as _, ManualClock, SystemClock};
use serde_json::json;

use super::*;
use crate::support;

fn in_progress() -> Action {
    answer(&json!({ ".tag": "in_progress" }))
}

fn answer(body: &Value) -> Action {
    Action::Answer {
        status: 200,
        content_type: "application/json".into(),
        body: body.to_string(),
        headers: Vec::new(),
        executed: false,
        unread: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_holds_the_gate_until_it_is_complete() {
    let house = Arc::new(support::start().await);
    let control = house.control();
    for what in ALL {
        let folder = format!("{what:?}");
        furnish(&house, &folder, 12);
        control.switch(|switches| switches.jobs_in_progress = Some(2));
        let held = Held::by(&house).await;
        control.clear_journal();
        let mut calls = waiting(&house, what, &folder, 0..6).await;
        held.let_go().await;
        until("its job is looked at", async || control.counter(what.check()).good >= 1).await;
        calls.extend(waiting(&house, what, &folder, 6..7).await);
        are_done(&ends(calls).await);
        let order: Vec<String> = control.journal().into_iter().map(|entry| entry.route).collect();
        let last_look = order.iter().rposition(|route| route == what.check()).expect("it was looked at");
        let next = order.iter().rposition(|route| route == what.single()).expect("the next one");
        assert!(last_look < next, "{order:?}");
        assert_eq!(control.counter(what.check()).calls, 3);
        // Dropbox may answer a launch at once as well, but for deletions.
        control.switch(|switches| switches.jobs_in_progress = None);
        let held = Held::by(&house).await;
        control.clear_journal();
        let calls = waiting(&house, what, &folder, 7..12).await;
        held.let_go().await;
        are_done(&ends(calls).await);
        assert_eq!(control.counter(what.launch()).calls, 1);
        assert_eq!(control.counter(what.check()).calls, u64::from(what == What::Delete));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_more_than_a_minute_lets_others_go_on_but_those_of_its_paths() {
    let clock = ManualClock::new(SystemClock.now());
    let house = Arc::new(support::start_bare_by(Arc::new(clock.clone()), |_| {}).await);
    house.make_parameter(PARAMETER, |_| {}).await;
    let control = house.control();
    furnish(&house, "long", 12);
    let held = Held::by(&house).await;
    let what = What::Delete;
    let calls = waiting(&house, what, "long", 0..5).await;
    let same = tokio::spawn({
        let house = house.clone();
        async move { delete(&house, "/long/0").await }
    });
    settle(&house).await;
    control.script([Rule::always(what.check(), in_progress())]).expect("script");
    held.let_go().await;
    // Looks come by the clock that stands still.
    until("its job runs", async || control.counter(what.launch()).good == 1).await;
    let next = waiting(&house, what, "long", 6..7).await;
    let advance = async |until: Duration| {
        let end = Instant::now() + PATIENCE;
        let mut gone = Duration::ZERO;
        while gone < until && Instant::now() < end {
            clock.advance(Duration::from_millis(500)).await;
            gone += Duration::from_millis(500);
            // What a look has woken comes back over the wire.
            settle(&house).await;
        }
    };
    advance(Duration::from_secs(30)).await;
    assert!(!next[0].is_finished(), "the gate is held");
    assert_eq!(control.counter(what.single()).calls, 0);
    advance(Duration::from_secs(31)).await;
    // Where its time was begun late, or what waits for it began to sleep late, it is some more.
    for _ in 0..30 {
        if next[0].is_finished() {
            break;
        }
        advance(Duration::from_millis(500)).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    are_done(&ends(next).await);
    assert!(calls.iter().all(|call| !call.is_finished()) && !same.is_finished());
    // It is over: those in it are told, and who stood behind one of them finds nothing.
    control.clear_script();
    while calls.iter().any(|call| !call.is_finished()) {
        advance(Duration::from_secs(15)).await;
    }
    are_done(&ends(calls).await);
    let same = ends(vec![same]).await;
    assert_eq!(reason(same[0].as_ref().expect_err("it is gone")), "PATH_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn contention_of_an_entry_is_nobodys_failure_and_it_goes_again_alone() {
    let house = Arc::new(support::start().await);
    let control = house.control();
    let busy = json!({ ".tag": "too_many_write_operations" });
    let failures = [
        (What::Create, json!({ ".tag": "path", "path": busy.clone() })),
        (What::Delete, busy.clone()),
        (What::Delete, json!({ ".tag": "path_write", "path_write": busy.clone() })),
        (What::Move, busy.clone()),
        (What::Move, json!({ ".tag": "relocation_error", "relocation_error": { ".tag": "to", "to": busy.clone() } })),
        (What::Copy, busy.clone()),
    ];
    for (n, (what, failure)) in failures.into_iter().enumerate() {
        let folder = format!("{what:?}-{n}");
        furnish(&house, &folder, 8);
        let held = Held::by(&house).await;
        control.clear_script();
        control.clear_journal();
        control.script([Rule::once(what.launch(), Action::RefuseEntry { at: 2, failure })]).expect("script");
        let calls = waiting(&house, what, &folder, 0..6).await;
        held.let_go().await;
        are_done(&ends(calls).await);
        assert_eq!((control.counter(what.launch()).calls, control.counter(what.single()).calls), (1, 1), "{what:?}");
    }
    nobody_met_contention(&house);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_refused_as_a_whole_goes_again_and_nobody_hears_of_it() {
    let house = Arc::new(support::start().await);
    let control = house.control();
    let failed = json!({ ".tag": "failed", "failed": { ".tag": "too_many_write_operations" } });
    for what in ALL {
        for (n, rule) in [
            Rule::once(what.launch(), Action::TooManyWriteOperations { retry_after: Some(0) }),
            Rule::once(what.launch(), Action::TooManyRequests { retry_after: Some(1) }),
            Rule::times(what.launch(), 6, Action::TooManyWriteOperations { retry_after: Some(0) }),
            Rule::once(what.check(), answer(&failed)),
        ]
        .into_iter()
        .enumerate()
        {
            // Only deletions can fail so.
            if n == 3 && what != What::Delete {
                continue;
            }
            let folder = format!("{what:?}-{n}");
            furnish(&house, &folder, 5);
            let held = Held::by(&house).await;
            control.clear_script();
            control.clear_journal();
            control.script([rule]).expect("script");
            let calls = waiting(&house, what, &folder, 0..5).await;
            held.let_go().await;
            let answers = ends(calls).await;
            if n == 3 {
                // The emulator has done it all the same: what is told is what is true of the second time.
                assert_eq!(control.counter(what.launch()).calls, 2);
                continue;
            }
            are_done(&answers);
            assert!(control.counter(what.launch()).calls >= 2, "{what:?} {n}");
            assert_eq!(control.counter(what.single()).calls, 0, "{what:?} {n}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_dropbox_does_not_take_goes_one_by_one() {
    let house = Arc::new(support::start().await);
    let control = house.control();
    let bad = || Action::Answer {
        status: 400,
        content_type: "text/plain".into(),
        body: "Error in call to API function: request body: entries[1].path: 'x' did not match pattern".into(),
        headers: Vec::new(),
        executed: false,
        unread: false,
    };
    for what in ALL {
        let folder = format!("{what:?}");
        furnish(&house, &folder, 5);
        let held = Held::by(&house).await;
        control.clear_script();
        control.clear_journal();
        control.script([Rule::once(what.launch(), bad())]).expect("script");
        let calls = waiting(&house, what, &folder, 0..5).await;
        held.let_go().await;
        are_done(&ends(calls).await);
        assert_eq!((control.counter(what.launch()).calls, control.counter(what.single()).calls), (1, 5), "{what:?}");
    }
    // What only Dropbox knows to be one place.
    let same = json!({ ".tag": "relocation_error", "relocation_error": { ".tag": "duplicated_or_nested_paths" } });
    furnish(&house, "same", 5);
    let held = Held::by(&house).await;
    control.clear_script();
    control.clear_journal();
    control.script([Rule::once(What::Move.launch(), Action::RefuseEntry { at: 0, failure: same })]).expect("script");
    let calls = waiting(&house, What::Move, "same", 0..5).await;
    held.let_go().await;
    are_done(&ends(calls).await);
    assert_eq!(control.counter(What::Move.single()).calls, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_parameter_goes_behind_the_job_that_runs_and_the_next_one_is_of_a_second() {
    const OTHER: &str = "other";
    const FIRST: usize = 240;
    let house = Arc::new(support::start().await);
    house.make_parameter(OTHER, |_| {}).await;
    let (control, what) = (house.control(), What::Copy);
    furnish(&house, "f", 2 * FIRST);
    control.switch(|switches| switches.jobs_in_progress = Some(0));
    let held = Held::by(&house).await;
    let mut calls = waiting(&house, what, "f", 0..FIRST).await;
    control.script([Rule::always(what.check(), in_progress())]).expect("script");
    held.let_go().await;
    until("its job runs", async || control.counter(what.launch()).good == 1).await;
    let began = Instant::now();
    assert_eq!(control.counter(what.launch()).entries_max, FIRST as u64);
    control.clear_journal();
    calls.extend(waiting(&house, what, "f", FIRST..2 * FIRST).await);
    let application_parameter_id = OTHER.into();
    let folder = pb::CreateFolderRequest { application_parameter_id, path: "/single".into(), ..Default::default() };
    let mut client = house.client();
    let single = tokio::spawn(async move { client.create_folder(folder).await.map(drop) });
    for _ in 0..4 {
        settle(&house).await;
    }
    until("its job has run for long", async || began.elapsed() >= Duration::from_millis(2500)).await;
    control.switch(|switches| switches.jobs_in_progress = None);
    control.clear_script();
    assert!(ends(vec![single]).await[0].is_ok());
    are_done(&ends(calls).await);
    let writes = control.journal().into_iter().map(|entry| entry.route);
    let first = writes.into_iter().find(|route| [FOLDER, what.launch()].contains(&route.as_str()));
    assert_eq!(first.as_deref(), Some(FOLDER), "others stood there before it, but those had the turn last");
    let counter = control.counter(what.launch());
    // Two fifths of the first would be less than what a batch has at least.
    assert_eq!((counter.calls, counter.entries_max), (2, FIRST as u64 - 100));
}
