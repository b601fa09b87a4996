//! Launches and jobs of which nothing is heard any more: what can be known is told, and nobody is told a guess.

use serde_json::json;
use tonic::Code;

use super::*;
use crate::support;

async fn five(house: &Arc<House>, what: What, folder: &str, rules: Vec<Rule>) -> Vec<Changed> {
    let control = house.control();
    furnish(house, folder, 5);
    let held = Held::by(house).await;
    control.clear_script();
    control.clear_journal();
    control.script(rules).expect("script");
    let calls = waiting(house, what, folder, 0..5).await;
    held.let_go().await;
    ends(calls).await
}

fn page() -> Action {
    Action::Answer {
        status: 200,
        content_type: "text/html".into(),
        body: "<html>welcome to this hotel</html>".into(),
        headers: Vec::new(),
        executed: true,
        unread: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_and_deletions_whose_launch_is_lost_go_again_and_all_are_done() {
    let house = Arc::new(support::start().await);
    let control = house.control();
    for what in [What::Create, What::Delete] {
        let lost = [Action::CutAfter, Action::CutBefore, Action::ServerError { status: 503 }, page()];
        for (n, action) in lost.into_iter().enumerate() {
            let folder = format!("{what:?}-{n}");
            let answers = five(&house, what, &folder, vec![Rule::once(what.launch(), action)]).await;
            are_done(&answers);
            assert_eq!(
                (control.counter(what.launch()).calls, control.counter(what.single()).calls),
                (2, 0),
                "{folder}"
            );
            for one in 0..5 {
                assert!(what.is_done(&house, &folder, one).await, "{folder} {one}");
            }
        }
        // Twice is too often: the single route knows how to tell.
        let folder = format!("{what:?}-twice");
        let answers = five(&house, what, &folder, vec![Rule::always(what.launch(), Action::CutAfter)]).await;
        are_done(&answers);
        assert_eq!((control.counter(what.launch()).calls, control.counter(what.single()).calls), (2, 5));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_cannot_be_looked_at_any_more_is_as_lost_as_its_launch() {
    let house = Arc::new(support::start().await);
    let control = house.control();
    control.switch(|switches| switches.jobs_in_progress = Some(1));
    for (what, tag, times) in [
        (What::Create, "invalid_async_job_id", 1),
        (What::Delete, "invalid_async_job_id", 1),
        (What::Move, "invalid_async_job_id", 1),
        // Dropbox's own trouble is asked about more than once.
        (What::Create, "internal_error", 6),
        (What::Copy, "internal_error", 6),
    ] {
        let folder = format!("{what:?}-{tag}");
        let gone = Action::Error { error: json!({ ".tag": tag }), user_message: None };
        are_done(&five(&house, what, &folder, vec![Rule::times(what.check(), times, gone)]).await);
        for one in 0..5 {
            assert!(what.is_done(&house, &folder, one).await, "{folder} {one}");
        }
    }
    // A look that fails is not the end of the job.
    are_done(&five(&house, What::Delete, "cut", vec![Rule::times(What::Delete.check(), 7, Action::CutBefore)]).await);
    let calls = |route| control.counter(route).calls;
    assert_eq!((calls(What::Delete.launch()), calls(What::Delete.single())), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn moves_and_copies_whose_launch_is_lost_are_looked_for_and_never_sent_again() {
    let house = Arc::new(support::start().await);
    let control = house.control();
    for what in [What::Move, What::Copy] {
        let folder = format!("{what:?}-done");
        are_done(&five(&house, what, &folder, vec![Rule::once(what.launch(), Action::CutAfter)]).await);
        assert_eq!((control.counter(what.launch()).calls, control.counter(what.single()).calls), (1, 0));
        // It is not there, and may come: nobody can say.
        let folder = format!("{what:?}-not");
        for answer in five(&house, what, &folder, vec![Rule::once(what.launch(), Action::CutBefore)]).await {
            let unknown = answer.expect_err("nobody knows");
            assert_eq!((unknown.code(), reason(&unknown).as_str()), (Code::Unknown, "OUTCOME_UNKNOWN"), "{unknown:?}");
            assert!(retry_delay(&unknown).is_none() && fact(&unknown, "underWay").is_none());
        }
        assert_eq!((control.counter(what.launch()).calls, control.counter(what.single()).calls), (1, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_dropbox_itself_does_not_know_of_is_looked_at() {
    let house = Arc::new(support::start().await);
    let control = house.control();
    let unknown = json!({ ".tag": "internal_error" });
    for what in [What::Move, What::Copy] {
        let folder = format!("{what:?}");
        let rule = Rule::once(what.launch(), Action::RefuseEntry { at: 1, failure: unknown.clone() });
        let (failed, good): (Vec<_>, Vec<_>) =
            five(&house, what, &folder, vec![rule]).await.into_iter().partition(Result::is_err);
        assert_eq!((failed.len(), good.len()), (1, 4));
        // The job is over and it did not happen.
        let failed = failed[0].as_ref().expect_err("not done");
        assert_eq!(reason(failed), "DROPBOX_UNAVAILABLE");
        assert!(retry_delay(failed).is_some());
        assert_eq!(control.counter(what.single()).calls, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_with_new_names_are_not_made_twice() {
    let house = Arc::new(support::start().await);
    let control = house.control();
    let held = Held::by(&house).await;
    control.script([Rule::once(What::Create.launch(), Action::CutAfter)]).expect("script");
    let calls: Vec<_> = (0..5)
        .map(|n| {
            let house = house.clone();
            tokio::spawn(async move {
                let path = format!("/once/{n}");
                create_as(&house, pb::CreateFolderRequest { path, autorename: true, ..Default::default() }).await
            })
        })
        .collect();
    settle(&house).await;
    control.clear_journal();
    held.let_go().await;
    for answer in ends(calls).await {
        assert_eq!(reason(&answer.expect_err("nobody knows")), "OUTCOME_UNKNOWN");
    }
    assert_eq!(writes(&house), 1);
}
