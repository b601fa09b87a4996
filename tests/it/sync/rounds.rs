//! Plans carried out: trees made from a seed, changed on both sides between rounds, are equal after each, and the next plan has
//! nothing to do.

use std::collections::BTreeMap;

use super::*;
use crate::support::{download_with, source, start, streams::file_of, upload};

/// Numbers from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }

    fn path(&mut self) -> String {
        let (folder, file) = (self.below(4), self.below(6));
        let name = format!("Datei {file} ü.txt");
        match folder {
            0 => name,
            1 => format!("A/{name}"),
            2 => format!("A/Tief/{name}"),
            _ => format!("B/{name}"),
        }
    }

    fn text(&mut self) -> String {
        "x".repeat(self.below(40) as usize) + &self.below(1 << 40).to_string()
    }
}

/// The caller's folder, and what it keeps of the last sync: rev and content hash.
#[derive(Default)]
struct Here {
    files: BTreeMap<String, String>,
    base: BTreeMap<String, (String, String)>,
}

impl Here {
    fn entries(&self) -> Vec<pb::LocalEntry> {
        let mut entries: Vec<_> = self.files.iter().map(|(path, text)| entry(path, text)).collect();
        for entry in &mut entries {
            if let Some((rev, hash)) = self.base.get(&entry.path) {
                (entry.base_rev, entry.base_content_hash) = (rev.clone(), hash.clone());
            }
        }
        let gone = self.base.iter().filter(|(path, _)| !self.files.contains_key(*path));
        entries.extend(
            gone.map(|(path, (rev, hash))| pb::LocalEntry { base_content_hash: hash.clone(), ..deleted(path, rev) }),
        );
        entries
    }

    fn keep(&mut self, path: &str, rev: &str) {
        let hash = content_hash(self.files[path].as_bytes());
        self.base.insert(path.to_owned(), (rev.to_owned(), hash));
    }

    /// Does what a step says, with the rev it gave.
    async fn carry_out(&mut self, house: &House, step: &pb::SyncStep) {
        let (path, remote) = (step.path.clone(), step.remote.clone().unwrap_or_default());
        let at = format!("/in/{path}");
        match step.action() {
            pb::SyncAction::Upload => {
                let mode = if remote.rev.is_empty() { pb::WriteMode::Add } else { pb::WriteMode::Update };
                let spec = pb::UploadSpec {
                    path: at,
                    write_mode: mode.into(),
                    expected_rev: remote.rev,
                    strict_conflict: true,
                    ..Default::default()
                };
                let text = self.files[&path].clone();
                let answer = upload(house, spec, text.as_bytes()).await.unwrap_or_else(|e| panic!("{step:?}: {e:?}"));
                self.keep(&path, &file_of(answer.item.as_ref()).rev);
            }
            pb::SyncAction::Download => {
                let request = pb::DownloadFileRequest {
                    source: Some(source(&at)),
                    rev: remote.rev.clone(),
                    ..Default::default()
                };
                let bytes = download_with(house, request).await.unwrap_or_else(|e| panic!("{step:?}: {e:?}")).bytes;
                self.files.insert(path.clone(), String::from_utf8(bytes).expect("text"));
                self.keep(&path, &remote.rev);
                assert_eq!(self.base[&path].1, remote.content_hash);
            }
            pb::SyncAction::DeleteRemote => {
                let request = pb::DeleteItemRequest {
                    application_parameter_id: PARAMETER.into(),
                    path: at,
                    expected_rev: remote.rev,
                    ..Default::default()
                };
                house.client().delete_item(request).await.unwrap_or_else(|e| panic!("{step:?}: {e:?}"));
                self.base.remove(&path);
            }
            pb::SyncAction::DeleteLocal => {
                self.files.remove(&path).expect("it was there");
                self.base.remove(&path);
            }
            pb::SyncAction::None if step.reason() == pb::SyncReason::Equal => self.keep(&path, &remote.rev),
            pb::SyncAction::None => {
                assert_eq!(step.reason(), pb::SyncReason::BothDeleted, "{step:?}");
                self.base.remove(&path);
            }
            other => panic!("{other:?} by rules that leave nothing open: {step:?}"),
        }
    }
}

/// All files at Dropbox.
async fn there(house: &House) -> BTreeMap<String, String> {
    let request = pb::WalkFolderRequest {
        application_parameter_id: PARAMETER.into(),
        path: "/in".into(),
        recursive: true,
        ..Default::default()
    };
    let mut walk = house.client().walk_folder(request).await.expect("a walk").into_inner();
    let mut files = BTreeMap::new();
    while let Some(message) = walk.message().await.expect("no end yet") {
        let Some(pb::walk_folder_response::Payload::Batch(batch)) = message.payload else { continue };
        for item in batch.items {
            if matches!(item.kind, Some(pb::item::Kind::File(_))) {
                let bytes = house.control().read(None, &item.path_display).expect("there");
                let path = item.path_display.strip_prefix("/in/").expect("in the folder").to_owned();
                files.insert(path, String::from_utf8(bytes).expect("text"));
            }
        }
    }
    files
}

async fn change(dice: &mut Dice, house: &House, here: &mut Here) {
    for _ in 0..dice.below(12) {
        let (path, text) = (dice.path(), dice.text());
        match dice.below(3) {
            0 => drop(here.files.remove(&path)),
            _ => drop(here.files.insert(path, text)),
        }
    }
    let known = there(house).await;
    for _ in 0..dice.below(12) {
        let (path, text) = (dice.path(), dice.text());
        let at = format!("/in/{path}");
        match dice.below(3) {
            0 if known.contains_key(&path) && house.control().read(None, &at).is_some() => delete(house, &at).await,
            0 => {}
            _ => put(house, &at, &text),
        }
    }
}

async fn rounds(seed: u64, rules: impl Fn() -> pb::SyncRules) -> BTreeMap<&'static str, usize> {
    let house = start().await;
    let seeded = Seed { folders: vec!["/in".into()], ..Seed::default() };
    house.control().seed(&seeded).expect("a sound seed");
    let (mut dice, mut here, mut seen) = (Dice(seed * 0x9E37_79B9 + 1), Here::default(), BTreeMap::new());
    for round in 0..6 {
        change(&mut dice, &house, &mut here).await;
        let told = plan(&house, rules(), &here.entries()).await.expect("a plan");
        for step in &told.steps {
            *seen.entry(step.reason().as_str_name()).or_default() += 1;
            here.carry_out(&house, step).await;
        }
        assert_eq!(here.files, there(&house).await, "seed {seed}, round {round}");
        let again = plan(&house, rules(), &here.entries()).await.expect("a plan");
        let open: Vec<_> = again.steps.iter().filter(|step| step.action() != pb::SyncAction::None).map(line).collect();
        assert!(open.is_empty(), "seed {seed}, round {round}: {open:?}");
        assert_eq!(again.summary.unchanged as usize, here.files.len());
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_that_are_carried_out_bring_both_sides_together_in_every_round() {
    use pb::{ConflictPolicy as C, MissingPolicy as M};
    let mut seen = BTreeMap::new();
    let policies = [(C::Local, M::Delete), (C::Remote, M::Delete), (C::Local, M::Restore), (C::Remote, M::Restore)];
    for (seed, (on_conflict, on_missing)) in (1..).zip(policies) {
        let by = || {
            rules(|rules| {
                rules.set_on_conflict(on_conflict);
                rules.set_on_missing(on_missing);
            })
        };
        for (reason, times) in rounds(seed, by).await {
            *seen.entry(reason).or_insert(0) += times;
        }
    }
    // The dice came to all of it.
    let wanted = [
        "EQUAL",
        "NEW_LOCAL",
        "NEW_REMOTE",
        "BOTH_NEW",
        "LOCAL_CHANGED",
        "REMOTE_CHANGED",
        "BOTH_CHANGED",
        "LOCAL_DELETED",
        "REMOTE_DELETED",
        "BOTH_DELETED",
        "LOCAL_DELETED_REMOTE_CHANGED",
        "REMOTE_DELETED_LOCAL_CHANGED",
    ];
    for reason in wanted {
        assert!(seen.contains_key(format!("SYNC_REASON_{reason}").as_str()), "{reason} never came up: {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_is_carried_out_is_its_source() {
    use pb::{ConflictPolicy as C, MissingPolicy as M, SyncDirection as D};
    for (seed, (direction, on_conflict)) in (11..).zip([(D::Up, C::Local), (D::Down, C::Remote)]) {
        let by = || {
            rules(|rules| {
                rules.set_direction(direction);
                rules.set_on_conflict(on_conflict);
                rules.set_on_missing(M::Delete);
            })
        };
        rounds(seed, by).await;
    }
}

#[tokio::test]
async fn a_step_whose_file_has_changed_meanwhile_fails_and_overwrites_nothing() {
    let house = start().await;
    for name in ["up", "down", "gone"] {
        put(&house, &format!("/in/{name}"), "one");
    }
    let old = async |name: &str| rev(&house, &format!("/in/{name}")).await;
    let entries =
        [synced("up", "two", &old("up").await, "one"), deleted("gone", &old("gone").await), entry("new", "mine")];
    let told = plan(&house, rules(|rules| rules.set_on_missing(pb::MissingPolicy::Delete)), &entries).await;
    let told = told.expect("a plan");
    assert_eq!(
        told.lines(),
        [
            "down DOWNLOAD NEW_REMOTE",
            "gone DELETE_REMOTE LOCAL_DELETED",
            "new UPLOAD NEW_LOCAL",
            "up UPLOAD LOCAL_CHANGED"
        ]
    );
    for name in ["up", "gone", "new"] {
        put(&house, &format!("/in/{name}"), "three");
    }
    for (name, text) in [("up", "two"), ("new", "mine")] {
        let rev = told.step(name).remote.as_ref().map(|remote| remote.rev.clone()).unwrap_or_default();
        let mode = if rev.is_empty() { pb::WriteMode::Add } else { pb::WriteMode::Update };
        let spec = pb::UploadSpec {
            path: format!("/in/{name}"),
            write_mode: mode.into(),
            expected_rev: rev,
            ..Default::default()
        };
        upload(&house, spec, text.as_bytes()).await.expect_err("it has changed");
    }
    let request = pb::DeleteItemRequest {
        application_parameter_id: PARAMETER.into(),
        path: "/in/gone".into(),
        expected_rev: told.remote("gone").rev.clone(),
        ..Default::default()
    };
    house.client().delete_item(request).await.expect_err("it has changed");
    for name in ["up", "gone", "new"] {
        assert_eq!(house.control().read(None, &format!("/in/{name}")).as_deref(), Some(&b"three"[..]), "{name}");
    }
}
