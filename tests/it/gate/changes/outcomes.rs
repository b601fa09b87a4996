//! Each of those that go together is told what it would have been told alone.

use std::collections::BTreeMap;

use dropbox_connector::emulator::control::Restriction;
use serde_json::json;
use tonic_types::StatusExt;

use super::*;

/// What a caller can tell one answer from another by.
fn told(answer: &Changed) -> String {
    match answer {
        Ok(item) => format!("{} {} {:?}", item.name, item.path_display, item.kind.as_ref().map(std::mem::discriminant)),
        Err(status) => {
            let details = status.get_error_details();
            let mut facts = details.error_info().expect("an ErrorInfo").metadata.clone();
            for own in ["dropboxRoute", "dropboxRequestId", "currentRev"] {
                facts.remove(own);
            }
            let facts: BTreeMap<_, _> = facts.into_iter().collect();
            let (resource, violations, retry) = (details.resource_info(), details.bad_request(), details.retry_info());
            format!("{:?} {} {facts:?} {resource:?} {violations:?} {retry:?}", status.code(), status.message())
        }
    }
    .replace("/b/", "/a/")
}

type Case = Box<dyn Fn(Arc<House>, String) -> JoinHandle<Changed>>;

fn case<F: Future<Output = Changed> + Send + 'static>(run: impl Fn(Arc<House>, String) -> F + 'static) -> Case {
    Box::new(move |house, folder| tokio::spawn(run(house, folder)))
}

/// Runs the cases in folder `a` one after the other, and those in folder `b` together.
async fn both(house: &Arc<House>, what: What, cases: Vec<Case>) {
    let control = house.control();
    let mut alone = Vec::new();
    for case in &cases {
        let answer = case(house.clone(), "a".into()).await.expect("no panic");
        alone.push(told(&answer));
    }
    let held = Held::by(house).await;
    control.clear_journal();
    let mut together = Vec::new();
    for case in &cases {
        together.push(case(house.clone(), "b".into()));
        settle(house).await;
    }
    held.let_go().await;
    for (together, alone) in ends(together).await.iter().zip(&alone) {
        assert_eq!(&told(together), alone, "{what:?}");
    }
    assert!(control.counter(what.launch()).calls >= 1, "{what:?}: they went together");
    nobody_met_contention(house);
}

async fn house() -> Arc<House> {
    let house = Arc::new(support::start().await);
    for folder in ["a", "b"] {
        furnish(&house, folder, 20);
        create(&house, &format!("/{folder}/folder")).await.expect("made");
        for (n, tag) in [(15, "no_write_permission"), (16, "locked"), (17, "restricted_content")] {
            let refused: Restriction =
                serde_json::from_value(json!({ "path": format!("/{folder}/{n}"), "tag": tag })).expect("sound");
            house.control().restrict(&refused).expect("there");
        }
    }
    house
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_come_to_the_same_together_as_alone() {
    let house = house().await;
    let at = |name: &'static str, autorename: bool| {
        case(move |house, folder| async move {
            let path = format!("/{folder}/{name}");
            create_as(&house, pb::CreateFolderRequest { path, autorename, ..Default::default() }).await
        })
    };
    let existing = |name: &'static str| {
        case(move |house, folder| async move {
            let path = format!("/{folder}/{name}");
            let application_parameter_id = PARAMETER.into();
            let request =
                pb::CreateFolderRequest { application_parameter_id, path, return_existing: true, ..Default::default() };
            let answer = house.client().create_folder(request).await?.into_inner();
            let item = answer.item.expect("an item");
            Ok(pb::Item { name: format!("{} {}", item.name, answer.created), ..item })
        })
    };
    both(
        &house,
        What::Create,
        vec![
            at("new", false),
            at("deep/er/new", false),
            at("1", false),
            at("2/below", false),
            existing("folder"),
            existing("other"),
            existing("3"),
            at("New Name", false),
            at("folder", false),
        ],
    )
    .await;
    both(&house, What::Create, (5..10).map(|n| at(["5", "6", "7", "8", "9"][n - 5], true)).collect()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deletions_come_to_the_same_together_as_alone() {
    let house = house().await;
    let at = |name: &'static str, edit: fn(&mut pb::DeleteItemRequest)| {
        case(move |house, folder| async move {
            let mut request = pb::DeleteItemRequest { path: format!("/{folder}/{name}"), ..Default::default() };
            edit(&mut request);
            delete_as(&house, request).await
        })
    };
    both(
        &house,
        What::Delete,
        vec![
            at("0", |_| {}),
            at("1", |_| {}),
            at("2", |_| {}),
            at("3", |request| request.kind = pb::ItemKind::Any.into()),
            at("15", |_| {}),
            at("16", |_| {}),
            at("17", |_| {}),
            at("folder", |_| {}),
            at("missing", |_| {}),
            at("missing", |request| request.allow_missing = true),
            at("4", |request| request.expected_rev = "0123456789abc".into()),
            at("5", |request| request.kind = pb::ItemKind::Folder.into()),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changed_or_went_while_its_deletion_waited_is_told_so() {
    let house = house().await;
    let control = house.control();
    let rewrite = |path: &str| {
        let path = path.to_owned();
        let house = house.clone();
        async move {
            let seed = json!({ "files": [{ "path": path, "text": "changed meanwhile" }] });
            house.control().seed(&serde_json::from_value(seed).expect("a seed")).expect("seeded");
        }
    };
    let mut answers = Vec::new();
    for folder in ["a", "b"] {
        let held = Held::by(&house).await;
        control.clear_journal();
        let many = if folder == "a" { 2 } else { 6 };
        let calls = waiting(&house, What::Delete, folder, 0..many).await;
        rewrite(&format!("/{folder}/1")).await;
        held.let_go().await;
        let ended = ends(calls).await;
        let launches = control.counter(What::Delete.launch()).calls;
        assert_eq!(launches, u64::from(folder == "b"));
        assert_eq!(reason(ended[1].as_ref().expect_err("it changed")), "REVISION_CONFLICT");
        assert_eq!(fact(ended[1].as_ref().expect_err("it changed"), "currentSize").as_deref(), Some("17"));
        answers.push(told(&ended[1]));
        let others: Vec<Changed> = ended.into_iter().enumerate().filter(|(n, _)| *n != 1).map(|(_, one)| one).collect();
        are_done(&others);
    }
    assert_eq!(answers[0], answers[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn moves_come_to_the_same_together_as_alone() {
    let house = house().await;
    let from_to = |from: &'static str, to: &'static str| {
        case(move |house, folder| async move {
            relocate(&house, movement(&format!("/{folder}/{from}"), &format!("/{folder}/{to}"))).await
        })
    };
    both(
        &house,
        What::Move,
        vec![
            from_to("0", "new"),
            from_to("1", "deep/er/new"),
            from_to("2", "12"),
            from_to("3", "13/below"),
            from_to("folder", "Folder/into/itself"),
            from_to("15", "x15"),
            from_to("16", "x16"),
            from_to("17", "x17"),
            from_to("missing", "x"),
            from_to("5", "x5"),
        ],
    )
    .await;
    let renamed = |from: &'static str, to: &'static str| {
        case(move |house, folder| async move {
            let request = movement(&format!("/{folder}/{from}"), &format!("/{folder}/{to}"));
            relocate(&house, pb::MoveItemRequest { autorename: true, ..request }).await
        })
    };
    both(&house, What::Move, vec![renamed("6", "y6"), renamed("7", "14"), renamed("8", "y8"), renamed("9", "y9")])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_come_to_the_same_together_as_alone() {
    let house = house().await;
    let from_to = |from: &'static str, to: &'static str, autorename: bool| {
        case(move |house, folder| async move {
            let request = copy(&format!("/{folder}/{from}"), &format!("/{folder}/{to}"));
            duplicate(&house, pb::CopyItemRequest { autorename, ..request }).await
        })
    };
    let all = |autorename: bool, to: [&'static str; 4]| {
        vec![
            from_to("0", to[0], autorename),
            from_to("1", to[1], autorename),
            from_to("2", "12", autorename),
            from_to("3", to[2], autorename),
            from_to("folder", to[3], autorename),
            from_to("17", "x17", autorename),
            from_to("missing", "x", autorename),
        ]
    };
    both(&house, What::Copy, all(false, ["new", "deep/er/new", "13/below", "other"])).await;
    both(&house, What::Copy, all(true, ["new2", "13", "n", "o"])).await;
}
