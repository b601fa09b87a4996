//! Behaviours of the store on a real SQLite file. Each must hold on every database the store runs on.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::*;
use crate::{clock::ManualClock, limits::REQUEST_ID_LIFE, secret::Secret};

struct House {
    store: Store,
    clock: ManualClock,
    keys: Arc<KeyRing>,
    folder: tempfile::TempDir,
}

const KEY_1: &str = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const KEY_2: &str = "k2:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1eff";

fn start() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn url(folder: &tempfile::TempDir) -> String {
    format!("sqlite://{}?mode=rwc", folder.path().join("store.db").display())
}

async fn house() -> House {
    let (clock, keys) = (ManualClock::new(start()), Arc::new(KeyRing::parse(KEY_1).unwrap()));
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&url(&folder), keys.clone(), Arc::new(clock.clone())).await.unwrap();
    House { store, clock, keys, folder }
}

impl House {
    /// The same file, opened as a second process would.
    async fn second(&self, keys: &str) -> Store {
        let keys = Arc::new(KeyRing::parse(keys).unwrap());
        Store::open(&url(&self.folder), keys, Arc::new(self.clock.clone())).await.unwrap()
    }

    async fn upload(&self) -> Upload {
        let expires_at = start() + Duration::from_secs(7 * 24 * 3600);
        let new = NewUpload { owner_uid: "uid", session: Some("sid"), lane: "parallel", spec: b"spec", expires_at };
        self.store.create_upload(new).await.unwrap()
    }
}

fn id(text: &str) -> ParameterId {
    ParameterId::new(text).unwrap()
}

fn settings(group: &str) -> Settings {
    Settings { app_key: "key1".into(), group: group.into(), ..Settings::default() }
}

fn secret(text: &str) -> Secret<String> {
    Secret::new(text.to_owned())
}

fn linked(token: &str) -> Linked {
    Linked {
        grant: Grant::Refreshable(secret(token)),
        granted_scopes: vec!["files.content.read".into()],
        account: Some(Account { account_id: "dbid:A".into(), ..Account::default() }),
        bearer: Some((secret("sl.first"), Some(start() + Duration::from_secs(14_400)))),
    }
}

fn refresh_token(parameters: &Parameters) -> Option<String> {
    match parameters.grant.as_ref()? {
        Grant::Refreshable(token) => Some(token.reveal().clone()),
        Grant::ShortLived { .. } => None,
    }
}

#[tokio::test]
async fn a_parameter_is_created_once_read_changed_and_deleted() {
    let House { store, .. } = &house().await;
    let made = store.create_parameters(&id("docs"), settings("g"), Some(secret("app-secret"))).await.unwrap();
    assert_eq!((made.etag, made.state()), (1, State::Pending));
    let again = store.create_parameters(&id("docs"), settings("g"), None).await.unwrap_err();
    assert_eq!(again.reason(), Reason::ApplicationParameterExists);

    let changed = store
        .update_parameters(&id("docs"), Some(1), SecretChange::Keep, |settings| {
            settings.display_name = "Documents".into();
            Ok(())
        })
        .await
        .unwrap();
    assert_eq!((changed.etag, changed.settings.display_name.as_str()), (2, "Documents"));
    assert_eq!(changed.app_secret.as_ref().unwrap().reveal(), "app-secret");
    assert_eq!(changed.uid, made.uid);

    let stale = store.update_parameters(&id("docs"), Some(1), SecretChange::Keep, |_| Ok(())).await.unwrap_err();
    assert_eq!((stale.reason(), stale.get("etag")), (Reason::EtagMismatch, Some("2")));
    let docs = id("docs");
    let wrong = store.update_parameters(&docs, None, SecretChange::Set(None), |settings| {
        settings.app_key.clear();
        Ok(())
    });
    assert_eq!(wrong.await.unwrap_err().reason(), Reason::InvalidField);
    let kept = store.parameters(&id("docs")).await.unwrap().unwrap();
    assert_eq!(kept.app_secret.unwrap().reveal(), "app-secret", "a refused update changes nothing");

    assert_eq!(store.delete_parameters(&id("docs"), Some(1)).await.unwrap_err().reason(), Reason::EtagMismatch);
    store.delete_parameters(&id("docs"), Some(2)).await.unwrap();
    assert!(store.parameters(&id("docs")).await.unwrap().is_none());
    let gone = store.delete_parameters(&id("docs"), None).await.unwrap_err();
    assert_eq!(gone.reason(), Reason::ApplicationParameterNotFound);
    let remade = store.create_parameters(&id("docs"), settings("g"), None).await.unwrap();
    assert_ne!(remade.uid, made.uid);
}

#[tokio::test]
async fn parameters_are_listed_by_group_in_pages() {
    let House { store, .. } = &house().await;
    for (name, group) in [("c", "x"), ("a", "x"), ("d", "y"), ("b", "x")] {
        store.create_parameters(&id(name), settings(group), None).await.unwrap();
    }
    let names = |page: Vec<Parameters>| page.iter().map(|one| one.id.to_string()).collect::<Vec<_>>();
    assert_eq!(names(store.list_parameters("", None, 10).await.unwrap()), ["a", "b", "c", "d"]);
    assert_eq!(names(store.list_parameters("x", None, 2).await.unwrap()), ["a", "b"]);
    assert_eq!(names(store.list_parameters("x", Some(&id("b")), 2).await.unwrap()), ["c"]);
    assert!(store.list_parameters("z", None, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn linking_makes_it_active_and_a_verdict_on_an_old_grant_leaves_the_new_one() {
    let House { store, .. } = &house().await;
    let made = store.create_parameters(&id("docs"), settings("g"), None).await.unwrap();
    let first = store.set_grant(&id("docs"), &made.uid, linked("refresh-1")).await.unwrap();
    assert_eq!((first.state(), first.account_id()), (State::Active, "dbid:A"));
    assert_eq!(
        store.set_grant(&id("docs"), "other", linked("x")).await.unwrap_err().reason(),
        Reason::ApplicationParameterNotFound
    );

    let second = store.set_grant(&id("docs"), &made.uid, linked("refresh-2")).await.unwrap();
    assert!(!store.require_reauthorization(&id("docs"), &made.uid, first.grant_number, "invalid_grant").await.unwrap());
    assert_eq!(store.parameters(&id("docs")).await.unwrap().unwrap().state(), State::Active);
    assert!(store.require_reauthorization(&id("docs"), &made.uid, second.grant_number, "invalid_grant").await.unwrap());
    let marked = store.parameters(&id("docs")).await.unwrap().unwrap();
    assert_eq!(
        (marked.state(), marked.reauthorization_cause.as_deref()),
        (State::ReauthorizationRequired, Some("invalid_grant"))
    );
    assert!(store.renewal(&made.uid).await.unwrap().is_none());

    let third = store.set_grant(&id("docs"), &made.uid, linked("refresh-3")).await.unwrap();
    assert_eq!((third.state(), refresh_token(&third).as_deref()), (State::Active, Some("refresh-3")));
    let docs = id("docs");
    let another_app = store.update_parameters(&docs, None, SecretChange::Keep, |settings| {
        settings.app_key = "key2".into();
        Ok(())
    });
    assert_eq!(another_app.await.unwrap().state(), State::Pending);
}

#[tokio::test]
async fn no_secret_stands_in_clear_in_the_file_or_in_debug() {
    let House { store, folder, .. } = &house().await;
    let made = store.create_parameters(&id("docs"), settings("g"), Some(secret("APPSECRET-clear"))).await.unwrap();
    let linked = store.set_grant(&id("docs"), &made.uid, linked("REFRESH-clear")).await.unwrap();
    store.finish_renewal(&made.uid, linked.grant_number, &secret("BEARER-clear"), None).await.unwrap();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"-clear"));
    }
    let shown = format!("{linked:?} {:?}", store.renewal(&made.uid).await.unwrap());
    assert!(!shown.contains("-clear"), "{shown}");
}

#[tokio::test]
async fn sealed_columns_moved_to_another_row_or_column_do_not_open() {
    let House { store, .. } = &house().await;
    let mut uids = Vec::new();
    for name in ["a", "b", "c"] {
        let made = store.create_parameters(&id(name), settings("g"), Some(secret("app"))).await.unwrap();
        store.set_grant(&id(name), &made.uid, linked(&format!("refresh-{name}"))).await.unwrap();
        uids.push(made.uid);
    }
    let swap = "UPDATE application_parameters SET grant_sealed =
                (SELECT grant_sealed FROM application_parameters WHERE id = 'b') WHERE id = 'a'";
    sqlx::query(swap).execute(&store.0.durable).await.unwrap();
    sqlx::query("UPDATE application_parameters SET bearer_sealed = grant_sealed WHERE id = 'c'")
        .execute(&store.0.durable)
        .await
        .unwrap();
    let swapped = store.parameters(&id("a")).await.unwrap().unwrap();
    assert!(swapped.grant.is_none());
    assert_eq!(
        (swapped.state(), swapped.reauthorization_cause.as_deref()),
        (State::ReauthorizationRequired, Some("sealed_column_damaged"))
    );
    assert!(store.renewal(&uids[2]).await.unwrap().is_none());
    assert_eq!(store.list_parameters("", None, 10).await.unwrap().len(), 3, "a damaged row hides no other");
}

#[tokio::test]
async fn rotation_reseals_every_column_once_every_process_has_the_key() {
    let old = house().await;
    for name in ["a", "b"] {
        let made = old.store.create_parameters(&id(name), settings("g"), Some(secret("app"))).await.unwrap();
        old.store.set_grant(&id(name), &made.uid, linked(&format!("refresh-{name}"))).await.unwrap();
    }
    let new = old.second(&format!("{KEY_2}\n{KEY_1}")).await;
    let refused = new.rotate_parameters().await.unwrap_err();
    assert_eq!(refused.violations()[0].reason, "NOT_EVERYWHERE");

    old.store.close().await;
    let first = new.rotate_parameters().await.unwrap();
    assert_eq!(first, Rotation { parameters: 2, resealed: 6, ..Rotation::default() });
    let again = new.rotate_parameters().await.unwrap();
    assert_eq!(again, Rotation { parameters: 2, current: 6, ..Rotation::default() });

    let only_new = old.second(KEY_2).await;
    let read = only_new.parameters(&id("b")).await.unwrap().unwrap();
    assert_eq!(refresh_token(&read).as_deref(), Some("refresh-b"));
    let only_old = old.second(KEY_1).await;
    let lost = only_old.parameters(&id("b")).await.unwrap().unwrap();
    assert_eq!(lost.reauthorization_cause.as_deref(), Some("sealing_key_retired"));
    assert_eq!(old.keys.sealing_key_id(), "k1");
}

#[tokio::test]
async fn changes_are_followed_from_another_process() {
    let house = house().await;
    let second = house.second(KEY_1).await;
    let from = second.last_parameter_change().await.unwrap();
    let made = house.store.create_parameters(&id("docs"), settings("g"), None).await.unwrap();
    house.store.set_grant(&id("docs"), &made.uid, linked("r")).await.unwrap();
    house.store.delete_parameters(&id("docs"), None).await.unwrap();
    let changes = second.parameter_changes(from).await.unwrap();
    assert_eq!(changes.len(), 3);
    assert!(changes.iter().all(|change| change.id == id("docs") && change.uid == *made.uid));
    assert!(changes.windows(2).all(|pair| pair[0].seq < pair[1].seq));
    assert_eq!(second.last_parameter_change().await.unwrap(), changes[2].seq);
    assert!(second.parameter_changes(changes[2].seq).await.unwrap().is_empty());
}

#[tokio::test]
async fn one_process_at_a_time_renews_and_all_share_what_it_gets() {
    let house = house().await;
    let second = house.second(KEY_1).await;
    let made = house.store.create_parameters(&id("docs"), settings("g"), None).await.unwrap();
    let linked = house.store.set_grant(&id("docs"), &made.uid, linked("r")).await.unwrap();
    let before = second.renewal(&made.uid).await.unwrap().unwrap();
    assert_eq!(before.bearer.reveal(), "sl.first");

    assert!(house.store.lease_renewal(&made.uid).await.unwrap());
    assert!(house.store.lease_renewal(&made.uid).await.unwrap(), "the holder may take it again");
    assert!(!second.lease_renewal(&made.uid).await.unwrap());
    second.release_renewal(&made.uid).await.unwrap();
    assert!(!second.lease_renewal(&made.uid).await.unwrap(), "nobody gives back another's lease");
    let generation =
        house.store.finish_renewal(&made.uid, linked.grant_number, &secret("sl.2"), None).await.unwrap().unwrap();
    assert!(generation > before.generation);
    let shared = second.renewal(&made.uid).await.unwrap().unwrap();
    assert_eq!((shared.bearer.reveal().as_str(), shared.generation, shared.expires_at), ("sl.2", generation, None));

    assert!(second.lease_renewal(&made.uid).await.unwrap());
    assert!(!house.store.lease_renewal(&made.uid).await.unwrap());
    house.clock.advance(Duration::from_secs(16)).await;
    assert!(house.store.lease_renewal(&made.uid).await.unwrap(), "a dead holder's lease ends");
    let stale = house.store.finish_renewal(&made.uid, linked.grant_number - 1, &secret("sl.3"), None).await.unwrap();
    assert_eq!(stale, None, "the bearer of an old grant is not shared");
}

#[tokio::test]
async fn whoever_takes_an_upload_over_shuts_the_former_writer_out() {
    let house = house().await;
    let second = house.second(KEY_1).await;
    let upload = house.upload().await;
    assert_eq!((upload.writer, upload.state, upload.spec.as_slice()), (1, UploadState::Open, b"spec".as_slice()));
    let piece = |offset, length| Piece { offset, length, digests: vec![[7; 32]; 2] };
    house.store.record_pieces(&upload.id, 1, &[piece(8, 8), piece(0, 8)]).await.unwrap();

    let claim = second.claim_upload(&upload.id).await.unwrap();
    assert_eq!((claim.upload.writer, claim.former_released, claim.former_claimed_at), (2, false, start()));
    for stale in [
        // What it had in flight is written down all the same; it just sends no more.
        house.store.record_pieces(&upload.id, 1, &[piece(16, 8)]).await,
        house.store.forget_pieces(&upload.id, 1, &[0]).await,
        house.store.set_upload_ready(&upload.id, 1, 16).await,
        house.store.intend_commit(&upload.id, 1, 16).await,
        house.store.set_upload_session(&upload.id, 1, "s", "ordered").await,
    ] {
        assert_eq!(stale.unwrap_err().reason(), Reason::UploadTakenOver);
    }
    house.store.release_upload(&upload.id, 1).await.unwrap();
    assert_eq!(second.upload(&upload.id).await.unwrap().unwrap().released, 1);
    let late = house.store.record_pieces(&upload.id, 1, &[piece(24, 8)]).await;
    assert_eq!(late.unwrap_err().reason(), Reason::UploadTakenOver);
    second.release_upload(&upload.id, 2).await.unwrap();
    assert!(house.store.claim_upload(&upload.id).await.unwrap().former_released);
    assert_eq!(house.store.pieces(&upload.id).await.unwrap(), [piece(0, 8), piece(8, 8), piece(16, 8)]);
}

#[tokio::test]
async fn a_longer_piece_replaces_a_shorter_one_and_never_the_other_way() {
    let house = house().await;
    let upload = house.upload().await;
    for length in [4, 8, 4] {
        let piece = Piece { offset: 0, length, digests: vec![[u8::try_from(length).unwrap(); 32]] };
        house.store.record_pieces(&upload.id, 1, &[piece]).await.unwrap();
    }
    let pieces = house.store.pieces(&upload.id).await.unwrap();
    assert_eq!(pieces, [Piece { offset: 0, length: 8, digests: vec![[8; 32]] }]);
    house.store.forget_pieces(&upload.id, 1, &[0]).await.unwrap();
    assert!(house.store.pieces(&upload.id).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_commit_is_intended_once_and_its_outcome_is_kept() {
    let house = house().await;
    let upload = house.upload().await;
    house.store.record_pieces(&upload.id, 1, &[Piece { offset: 0, length: 4, digests: vec![] }]).await.unwrap();
    house.store.set_upload_ready(&upload.id, 1, 4).await.unwrap();
    house.store.intend_commit(&upload.id, 1, 4).await.unwrap();
    let twice = house.store.intend_commit(&upload.id, 1, 4).await.unwrap_err();
    assert_eq!((twice.reason(), twice.get("uploadState")), (Reason::UploadClosed, Some("committing")));
    house.store.commit_refused(&upload.id, 1).await.unwrap();
    house.store.intend_commit(&upload.id, 1, 4).await.unwrap();

    let looker = house.store.claim_upload(&upload.id).await.unwrap().upload;
    assert_eq!((looker.state, looker.writer, looker.size), (UploadState::Committing, 2, Some(4)));
    let torn = house.store.commit_refused(&upload.id, 1).await.unwrap_err();
    assert_eq!(torn.reason(), Reason::UploadTakenOver);
    house.store.commit_refused(&upload.id, 2).await.unwrap();
    house.store.intend_commit(&upload.id, 2, 4).await.expect("a commit that did not happen is sent by the next writer");
    house.store.upload_committed(&upload.id, r#"{"rev":"1"}"#).await.unwrap();
    let done = house.store.claim_upload(&upload.id).await.unwrap().upload;
    assert_eq!((done.state, done.writer, done.outcome.as_deref()), (UploadState::Committed, 2, Some(r#"{"rev":"1"}"#)));
    assert!(house.store.pieces(&upload.id).await.unwrap().is_empty());
    let late = house.store.record_pieces(&upload.id, 2, &[]).await;
    assert!(late.is_ok(), "no pieces, nothing to refuse");
    let late = house.store.record_pieces(&upload.id, 2, &[Piece { offset: 0, length: 4, digests: vec![] }]).await;
    assert_eq!(late.unwrap_err().reason(), Reason::UploadClosed);
}

#[tokio::test]
async fn two_processes_racing_for_a_commit_give_one_winner() {
    let house = house().await;
    let second = house.second(KEY_1).await;
    for _ in 0..10 {
        let upload = house.upload().await;
        let (one, two) =
            tokio::join!(house.store.intend_commit(&upload.id, 1, 1), second.intend_commit(&upload.id, 1, 1));
        assert_eq!([one, two].iter().filter(|turn| turn.is_ok()).count(), 1);
    }
}

#[tokio::test]
async fn what_has_expired_is_not_found_and_is_swept() {
    let house = house().await;
    let upload = house.upload().await;
    let pieces: Vec<Piece> = (0..4500).map(|at| Piece { offset: at * 4, length: 4, digests: vec![] }).collect();
    house.store.record_pieces(&upload.id, 1, &pieces).await.unwrap();
    let key = RequestKey { uid: "u", principal: "p", rpc: "StartUpload", request_id: "r" };
    house.store.begin_request(&key, &[1; 32]).await.unwrap();
    house.store.create_parameters(&id("docs"), settings("g"), None).await.unwrap();
    assert_eq!(house.store.sweep().await.unwrap(), Swept::default());

    house.clock.advance(Duration::from_secs(7 * 24 * 3600)).await;
    assert!(house.store.upload(&upload.id).await.unwrap().is_none());
    assert_eq!(house.store.claim_upload(&upload.id).await.unwrap_err().reason(), Reason::UploadNotFound);
    house.store.check().await.unwrap();
    let kept = house.upload_ending(start() + Duration::from_secs(8 * 24 * 3600)).await;
    let swept = house.store.sweep().await.unwrap();
    assert_eq!(swept, Swept { uploads: 1, requests: 1, changes: 1, replicas: 0 });
    assert!(house.store.pieces(&upload.id).await.unwrap().is_empty());
    assert!(house.store.upload(&kept.id).await.unwrap().is_some());
}

impl House {
    async fn upload_ending(&self, expires_at: SystemTime) -> Upload {
        let new = NewUpload { owner_uid: "uid", session: None, lane: "ordered", spec: b"", expires_at };
        self.store.create_upload(new).await.unwrap()
    }
}

#[tokio::test]
async fn a_request_id_gives_the_first_answer_again_and_no_other() {
    let house = house().await;
    let second = house.second(KEY_1).await;
    let key = RequestKey { uid: "u", principal: "p", rpc: "StartUpload", request_id: "r" };
    let other = RequestKey { principal: "q", ..key };
    assert_eq!(house.store.begin_request(&key, &[1; 32]).await.unwrap(), RequestTurn::New);
    assert_eq!(second.begin_request(&key, &[1; 32]).await.unwrap(), RequestTurn::Running);
    assert_eq!(house.store.begin_request(&key, &[2; 32]).await.unwrap(), RequestTurn::Reused);
    assert_eq!(second.begin_request(&other, &[2; 32]).await.unwrap(), RequestTurn::New);
    house.store.finish_request(&key, Some(b"answer")).await.unwrap();
    assert_eq!(second.begin_request(&key, &[1; 32]).await.unwrap(), RequestTurn::Answer(b"answer".to_vec()));
    assert_eq!(second.begin_request(&key, &[2; 32]).await.unwrap(), RequestTurn::Reused);

    second.finish_request(&other, None).await.unwrap();
    assert_eq!(second.begin_request(&other, &[3; 32]).await.unwrap(), RequestTurn::New);
    house.clock.advance(REQUEST_ID_LIFE + Duration::from_secs(1)).await;
    assert_eq!(second.begin_request(&key, &[2; 32]).await.unwrap(), RequestTurn::New);
}

#[tokio::test]
async fn a_request_whose_process_died_is_handed_on_as_unknown() {
    let house = house().await;
    let second = house.second(KEY_1).await;
    let key = RequestKey { uid: "u", principal: "p", rpc: "StartUpload", request_id: "r" };
    assert_eq!(house.store.begin_request(&key, &[1; 32]).await.unwrap(), RequestTurn::New);
    house.clock.advance(Duration::from_secs(31)).await;
    second.check().await.unwrap();
    assert_eq!(second.begin_request(&key, &[1; 32]).await.unwrap(), RequestTurn::Abandoned);
    house.store.finish_request(&key, Some(b"too late")).await.unwrap();
    assert_eq!(second.begin_request(&key, &[1; 32]).await.unwrap(), RequestTurn::Running);
}

#[tokio::test]
async fn an_existing_store_is_opened_again_with_all_it_held() {
    let house = house().await;
    let upload = house.upload().await;
    house.store.create_parameters(&id("docs"), settings("g"), None).await.unwrap();
    house.store.close().await;
    let again = house.second(KEY_1).await;
    assert!(again.upload(&upload.id).await.unwrap().is_some());
    assert!(again.parameters(&id("docs")).await.unwrap().is_some());
}

#[tokio::test]
async fn what_cannot_be_made_again_is_synced_and_readers_cannot_write() {
    let House { store, .. } = &house().await;
    for (pool, synchronous) in [(&store.0.durable, 2), (&store.0.quick, 1)] {
        let value: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(pool).await.unwrap();
        assert_eq!(value, synchronous);
        let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(pool).await.unwrap();
        assert_eq!(mode, "wal");
    }
    assert!(sqlx::query("DELETE FROM uploads").execute(&store.0.readers).await.is_err());
}

#[tokio::test]
async fn a_store_in_memory_works_whole() {
    let keys = Arc::new(KeyRing::ephemeral());
    let store = Store::open("sqlite::memory:", keys, Arc::new(ManualClock::new(start()))).await.unwrap();
    let made = store.create_parameters(&id("docs"), settings("g"), None).await.unwrap();
    store.set_grant(&id("docs"), &made.uid, linked("r")).await.unwrap();
    assert_eq!(store.list_parameters("g", None, 5).await.unwrap()[0].state(), State::Active);
}

#[tokio::test]
async fn a_url_that_is_none_and_a_place_that_is_not_there_are_told_apart() {
    let open = |url: String| async move {
        Store::open(&url, Arc::new(KeyRing::ephemeral()), Arc::new(ManualClock::new(start()))).await.unwrap_err()
    };
    assert_eq!(open("mysql://x".into()).await.violations()[0].field, "store_url");
    let missing = open("sqlite:///no/such/folder/store.db?mode=rwc".into()).await;
    assert_eq!(missing.reason(), Reason::StoreUnavailable);
}

#[tokio::test]
async fn a_full_disk_refuses_writes_with_a_delay_and_still_reads() {
    let House { store, .. } = &house().await;
    store.create_parameters(&id("docs"), settings("g"), None).await.unwrap();
    // SQLite answers as on a full disk when a database reaches its page bound.
    for pool in [&store.0.durable, &store.0.quick] {
        sqlx::query("PRAGMA max_page_count = 1").execute(pool).await.unwrap();
    }
    let big = Settings { display_name: "x".repeat(4000), ..settings("g") };
    let mut refused = None;
    for number in 0..200 {
        if let Err(fault) = store.create_parameters(&id(&format!("p{number}")), big.clone(), None).await {
            refused = Some(fault);
            break;
        }
    }
    let refused = refused.expect("the bound is reached");
    assert_eq!((refused.reason(), refused.retry_delay()), (Reason::StoreUnavailable, Some(Duration::from_secs(1))));
    assert!(store.parameters(&id("docs")).await.unwrap().is_some());
}

#[tokio::test]
async fn a_locked_store_answers_unavailable_and_recovers() {
    let House { store, .. } = &house().await;
    sqlx::query("PRAGMA busy_timeout = 50").execute(&store.0.durable).await.unwrap();
    let other = store.begin(&store.0.quick).await.unwrap();
    let fault = store.create_parameters(&id("docs"), settings("g"), None).await.unwrap_err();
    assert_eq!(fault.reason(), Reason::StoreUnavailable);
    assert_eq!(store.check().await.unwrap_err().reason(), Reason::StoreUnavailable);
    other.rollback().await.unwrap();
    store.check().await.unwrap();
    store.create_parameters(&id("docs"), settings("g"), None).await.unwrap();
}

mod file {
    use super::*;

    const GOOD: &str = r#"
        [[application_parameters]]
        id = "docs"
        app_key = "key1"
        app_secret = "APP-clear"
        refresh_token = "REFRESH-clear"
        group = "g"
        timeouts = { connect = 2.5 }
        policy.allowed_principals = ["billing"]
        policy.permissions = ["READ"]
    "#;

    async fn with_file(text: &str, name: &str) -> (House, Result<Store>) {
        let house = house().await;
        let path = house.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let store = house.store.clone().with_parameters_file(&path);
        (house, store)
    }

    #[tokio::test]
    async fn a_file_gives_parameters_and_refuses_writes() {
        let (_house, store) = with_file(GOOD, "parameters.toml").await;
        let store = store.unwrap();
        let docs = store.parameters(&id("docs")).await.unwrap().unwrap();
        assert_eq!((docs.state(), refresh_token(&docs).as_deref()), (State::Active, Some("REFRESH-clear")));
        assert_eq!(docs.settings.timeouts.connect, Some(Duration::from_millis(2500)));
        assert_eq!(docs.settings.policy.allowed_principals, ["billing"]);
        assert_eq!(store.list_parameters("g", None, 9).await.unwrap().len(), 1);
        assert!(store.list_parameters("g", Some(&id("docs")), 9).await.unwrap().is_empty());
        for refused in [
            store.create_parameters(&id("a"), settings("g"), None).await.err(),
            store.update_parameters(&id("docs"), None, SecretChange::Keep, |_| Ok(())).await.err(),
            store.delete_parameters(&id("docs"), None).await.err(),
            store.set_grant(&id("docs"), &docs.uid, linked("r")).await.err(),
            store.rotate_parameters().await.err(),
        ] {
            assert_eq!(refused.unwrap().reason(), Reason::ReadOnlyStore);
        }
        assert!(store.lease_renewal(&docs.uid).await.unwrap());
        assert_eq!(store.finish_renewal(&docs.uid, 0, &secret("sl.x"), None).await.unwrap(), None);
        assert!(store.renewal(&docs.uid).await.unwrap().is_none());
        assert!(store.require_reauthorization(&id("docs"), &docs.uid, 0, "invalid_grant").await.unwrap());
        assert_eq!(store.parameters(&id("docs")).await.unwrap().unwrap().state(), State::ReauthorizationRequired);
    }

    #[tokio::test]
    async fn a_changed_file_is_followed_and_a_broken_one_is_not() {
        let (house, store) = with_file(GOOD, "parameters.toml").await;
        let (store, path) = (store.unwrap(), house.folder.path().join("parameters.toml"));
        let before = store.parameters(&id("docs")).await.unwrap().unwrap();
        assert!(store.parameter_changes(0).await.unwrap().is_empty());
        std::fs::write(&path, "[[application_parameters]\nnot toml").unwrap();
        assert!(store.parameter_changes(0).await.unwrap().is_empty());
        assert!(store.parameters(&id("docs")).await.unwrap().is_some());
        std::fs::write(&path, GOOD.replace("REFRESH-clear", "another")).unwrap();
        let changes = store.parameter_changes(0).await.unwrap();
        assert_eq!(changes, [Change { seq: 0, id: id("docs"), uid: before.uid.to_string() }]);
        let after = store.parameters(&id("docs")).await.unwrap().unwrap();
        assert_ne!(after.uid, before.uid, "another token may be another account");
    }

    #[tokio::test]
    async fn json_works_and_secrets_may_stand_in_files_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("token");
        std::fs::write(&token, "sl.legacy\n").unwrap();
        let text = serde_json::json!({ "application_parameters": [{ "id": "a", "app_key": "k", "access_token_file": token }] });
        let (_house, store) = with_file(&text.to_string(), "parameters.json").await;
        let read = store.unwrap().parameters(&id("a")).await.unwrap().unwrap();
        let Some(Grant::ShortLived { bearer, expires_at: None }) = read.grant else { panic!("{read:?}") };
        assert_eq!(bearer.reveal(), "sl.legacy");
    }

    #[tokio::test]
    async fn a_wrong_file_is_refused_by_the_place_of_the_mistake_and_shows_no_secret() {
        for (wrong, place) in [
            (GOOD.replace("app_key", "app_kay"), "parameters_file.application_parameters[0].settings"),
            (GOOD.replace("\"key1\"", "\"\""), "parameters_file.application_parameters[0].app_key"),
            (GOOD.replace("\"docs\"", "\"Docs\""), "parameters_file.application_parameters[0].id"),
            (format!("{GOOD}{GOOD}"), "parameters_file.application_parameters[1].id"),
            (GOOD.replace("group", "access_token"), "parameters_file.application_parameters[0].access_token"),
            (GOOD.replace("\"REFRESH-clear\"", "\"REFRESH-clear"), "parameters_file"),
            (GOOD.replace("\"APP-clear\"", "[\"APP-clear\"]"), "parameters_file.application_parameters[0].app_secret"),
        ] {
            let fault = with_file(&wrong, "parameters.toml").await.1.unwrap_err();
            assert_eq!(fault.violations()[0].field, place, "{fault:?}");
            assert!(!format!("{fault:?}").contains("-clear"), "{fault:?}");
        }
    }
}
