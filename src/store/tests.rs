//! Behaviours of the store, each on a real SQLite file and on a real PostgreSQL server. What only one of them has stands in
//! files of their names.

mod events;
mod file;
pub(crate) mod house;
mod plans;
mod postgres;
mod sqlite;
mod transfer;
mod uploads;
mod versions;
mod write_leases;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use events::{
    a_checkpoint_has_one_holder_and_keeps_its_place, a_log_is_read_behind_a_place_and_swept_by_age_and_number,
    a_scope_is_parked_and_gives_way_to_who_has_reason_but_not_while_somebody_is_at_it,
    a_step_is_saved_whole_by_who_holds_the_scope_and_by_nobody_else,
    an_index_is_a_tree_that_is_read_by_place_and_by_id, what_an_index_said_is_read_for_as_long_as_the_log_tells_of_it,
    what_nobody_watches_is_forgotten,
};
use house::{House, intend};
use plans::{an_index_is_read_and_written_by_whole_keys_whatever_its_size, drains_go_with_the_last_of_their_entries};
use transfer::{
    a_proxys_password_is_sealed_kept_resealed_and_removed,
    an_export_brings_everything_to_another_store_all_of_it_or_nothing,
    an_import_and_changes_of_the_same_parameters_wait_for_each_other,
    an_import_displaces_no_other_parameter_unless_it_may, an_import_may_give_names_and_parameters_to_each_other_anew,
    what_is_no_export_is_refused_whole_and_shows_nothing,
};
use uploads::{
    a_commit_is_intended_once_and_its_outcome_is_kept,
    a_dispute_is_written_by_whoever_finds_it_and_ended_by_who_proves_the_whole,
    a_longer_piece_replaces_a_shorter_one_and_never_the_other_way,
    of_two_who_take_an_upload_over_at_once_the_second_sees_the_first,
    two_processes_racing_for_a_commit_give_one_winner, whoever_takes_an_upload_over_shuts_the_former_writer_out,
};
use versions::{
    a_restriction_that_is_not_known_here_shuts_the_parameter, a_row_that_cannot_be_read_is_told_and_hides_no_other,
    what_a_newer_version_wrote_is_passed_over_and_written_back,
};

use super::*;
use crate::{
    clock::{Clock as _, ManualClock},
    fault::{Fault, Reason},
    limits::REQUEST_ID_LIFE,
    secret::Secret,
};

/// Runs each behaviour on both databases.
macro_rules! on_both {
    ($($behaviour:ident,)*) => {
        mod on_sqlite {
            $(#[tokio::test]
            async fn $behaviour() {
                super::$behaviour(super::House::sqlite().await).await;
            })*
        }
        mod on_postgres {
            $(#[tokio::test]
            async fn $behaviour() {
                super::$behaviour(super::House::postgres().await).await;
            })*
        }
    };
}

on_both! {
    a_parameter_is_created_once_read_changed_and_deleted,
    parameters_are_listed_by_group_in_pages,
    an_authorization_is_taken_once_and_not_after_its_time,
    a_forgotten_grant_leaves_nothing_behind,
    linking_makes_it_active_and_a_verdict_on_an_old_grant_leaves_the_new_one,
    no_secret_stands_in_clear_in_the_database_or_in_debug,
    sealed_columns_moved_to_another_row_or_column_do_not_open,
    parameters_whose_rows_were_swapped_open_nothing_of_each_other,
    rotation_reseals_every_column_once_every_process_has_the_key,
    changes_are_followed_from_another_process,
    one_process_at_a_time_renews_and_all_share_what_it_gets,
    whoever_takes_an_upload_over_shuts_the_former_writer_out,
    a_longer_piece_replaces_a_shorter_one_and_never_the_other_way,
    a_dispute_is_written_by_whoever_finds_it_and_ended_by_who_proves_the_whole,
    a_commit_is_intended_once_and_its_outcome_is_kept,
    two_processes_racing_for_a_commit_give_one_winner,
    what_has_expired_is_not_found_and_is_swept,
    a_request_id_gives_the_first_answer_again_and_no_other,
    a_request_whose_process_died_is_handed_on_as_unknown,
    a_request_whose_answer_could_not_be_kept_is_no_turn_for_ever,
    an_existing_store_is_opened_again_with_all_it_held,
    of_two_who_begin_the_same_request_at_once_one_runs_it,
    of_two_who_change_a_parameter_at_once_none_undoes_the_other,
    of_two_who_take_an_upload_over_at_once_the_second_sees_the_first,
    ids_are_ordered_by_their_bytes_and_a_group_holds_no_nul,
    several_processes_may_start_on_an_empty_store_at_once,
    an_older_program_refuses_a_newer_store_and_says_so,
    a_store_that_is_not_up_to_date_is_told_and_left_alone_when_asked,
    a_proxys_password_is_sealed_kept_resealed_and_removed,
    an_export_brings_everything_to_another_store_all_of_it_or_nothing,
    what_is_no_export_is_refused_whole_and_shows_nothing,
    a_scope_is_parked_and_gives_way_to_who_has_reason_but_not_while_somebody_is_at_it,
    a_step_is_saved_whole_by_who_holds_the_scope_and_by_nobody_else,
    a_log_is_read_behind_a_place_and_swept_by_age_and_number,
    an_index_is_a_tree_that_is_read_by_place_and_by_id,
    a_checkpoint_has_one_holder_and_keeps_its_place,
    what_an_index_said_is_read_for_as_long_as_the_log_tells_of_it,
    what_nobody_watches_is_forgotten,
    an_index_is_read_and_written_by_whole_keys_whatever_its_size,
    drains_go_with_the_last_of_their_entries,
    an_import_and_changes_of_the_same_parameters_wait_for_each_other,
    an_import_displaces_no_other_parameter_unless_it_may,
    an_import_may_give_names_and_parameters_to_each_other_anew,
    what_a_newer_version_wrote_is_passed_over_and_written_back,
    a_row_that_cannot_be_read_is_told_and_hides_no_other,
    a_restriction_that_is_not_known_here_shuts_the_parameter,
}

const KEY_1: &str = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const KEY_2: &str = "k2:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1eff";

fn start() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
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

/// Links the parameter as it is now.
async fn link(store: &Store, name: &str, token: &str) -> Result<Parameters> {
    let seen = store.parameters(&id(name)).await?.expect("a parameter");
    store.set_grant(&seen, linked(token)).await
}

/// The number of its grant as it is now.
async fn number(store: &Store, uid: &str) -> i64 {
    let all = store.list_parameters("", None, 100).await.unwrap();
    all.iter().find(|one| *one.uid == *uid).expect("a parameter").grant_number
}

async fn a_parameter_is_created_once_read_changed_and_deleted(house: House) {
    let House { store, .. } = &house;
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

async fn parameters_are_listed_by_group_in_pages(house: House) {
    let House { store, .. } = &house;
    for (name, group) in [("c", "x"), ("a", "x"), ("d", "y"), ("b", "x")] {
        store.create_parameters(&id(name), settings(group), None).await.unwrap();
    }
    let names = |page: Vec<Parameters>| page.iter().map(|one| one.id.to_string()).collect::<Vec<_>>();
    assert_eq!(names(store.list_parameters("", None, 10).await.unwrap()), ["a", "b", "c", "d"]);
    assert_eq!(names(store.list_parameters("x", None, 2).await.unwrap()), ["a", "b"]);
    assert_eq!(names(store.list_parameters("x", Some(&id("b")), 2).await.unwrap()), ["c"]);
    assert!(store.list_parameters("z", None, 10).await.unwrap().is_empty());
}

async fn linking_makes_it_active_and_a_verdict_on_an_old_grant_leaves_the_new_one(house: House) {
    let House { store, .. } = &house;
    let made = store.create_parameters(&id("docs"), settings("g"), None).await.unwrap();
    let first = link(store, "docs", "refresh-1").await.unwrap();
    assert_eq!((first.state(), first.account_id()), (State::Active, "dbid:A"));
    let remade = Parameters { uid: "other".into(), ..first.clone() };
    let refused = store.set_grant(&remade, linked("x")).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::ApplicationParameterNotFound);
    let stale = store.set_grant(&made, linked("x")).await.unwrap_err();
    assert_eq!(stale.reason(), Reason::EtagMismatch, "somebody linked an account since it was read");
    assert_eq!(store.clear_grant(&made).await.unwrap_err().reason(), Reason::EtagMismatch);
    assert_eq!(store.delete_parameters_with_grant(&made).await.unwrap_err().reason(), Reason::EtagMismatch);
    assert_eq!(refresh_token(&store.parameters(&id("docs")).await.unwrap().unwrap()).as_deref(), Some("refresh-1"));

    let second = link(store, "docs", "refresh-2").await.unwrap();
    assert!(!store.require_reauthorization(&id("docs"), &made.uid, first.grant_number, "invalid_grant").await.unwrap());
    assert_eq!(store.parameters(&id("docs")).await.unwrap().unwrap().state(), State::Active);
    assert!(store.require_reauthorization(&id("docs"), &made.uid, second.grant_number, "invalid_grant").await.unwrap());
    let marked = store.parameters(&id("docs")).await.unwrap().unwrap();
    assert_eq!(
        (marked.state(), marked.reauthorization_cause.as_deref()),
        (State::ReauthorizationRequired, Some("invalid_grant"))
    );
    assert!(store.renewal(&made.uid, number(store, &made.uid).await).await.unwrap().is_none());

    let third = link(store, "docs", "refresh-3").await.unwrap();
    assert_eq!((third.state(), refresh_token(&third).as_deref()), (State::Active, Some("refresh-3")));
    let docs = id("docs");
    let another_app = store.update_parameters(&docs, None, SecretChange::Keep, |settings| {
        settings.app_key = "key2".into();
        Ok(())
    });
    assert_eq!(another_app.await.unwrap().state(), State::Pending);
}

async fn no_secret_stands_in_clear_in_the_database_or_in_debug(house: House) {
    let House { store, .. } = &house;
    let made = store.create_parameters(&id("docs"), settings("g"), Some(secret("APPSECRET-clear"))).await.unwrap();
    let linked = link(store, "docs", "REFRESH-clear").await.unwrap();
    store.finish_renewal(&made.uid, linked.grant_number, &secret("BEARER-clear"), None).await.unwrap();
    let contents = house.contents().await;
    let holds = |text: &[u8]| contents.windows(text.len()).any(|window| window == text);
    assert!(holds(b"docs"), "it looks at what is there");
    assert!(!holds(b"-clear") && !holds(hex::encode("-clear").as_bytes()));
    let shown = format!("{linked:?} {:?}", store.renewal(&made.uid, number(store, &made.uid).await).await.unwrap());
    assert!(!shown.contains("-clear"), "{shown}");
}

async fn sealed_columns_moved_to_another_row_or_column_do_not_open(house: House) {
    let House { store, .. } = &house;
    let mut uids = Vec::new();
    for name in ["a", "b", "c"] {
        let made = store.create_parameters(&id(name), settings("g"), Some(secret("app"))).await.unwrap();
        link(store, name, &format!("refresh-{name}")).await.unwrap();
        uids.push(made.uid);
    }
    house
        .sql(
            "UPDATE application_parameters SET grant_sealed =
             (SELECT grant_sealed FROM application_parameters WHERE id = 'b') WHERE id = 'a'",
        )
        .await;
    house.sql("UPDATE application_parameters SET bearer_sealed = grant_sealed WHERE id = 'c'").await;
    let swapped = store.parameters(&id("a")).await.unwrap().unwrap();
    assert!(swapped.grant.is_none());
    assert_eq!(
        (swapped.state(), swapped.reauthorization_cause.as_deref()),
        (State::ReauthorizationRequired, Some("sealed_column_damaged"))
    );
    assert!(store.renewal(&uids[2], 1).await.unwrap().is_none());
    assert_eq!(store.list_parameters("", None, 10).await.unwrap().len(), 3, "a damaged row hides no other");
}

async fn parameters_whose_rows_were_swapped_open_nothing_of_each_other(house: House) {
    for name in ["a", "b"] {
        house.store.create_parameters(&id(name), settings("g"), Some(secret("app"))).await.unwrap();
        link(&house.store, name, &format!("refresh-{name}")).await.unwrap();
    }
    for sql in [
        "UPDATE application_parameters SET id = 'c' WHERE id = 'a'",
        "UPDATE application_parameters SET id = 'a' WHERE id = 'b'",
        "UPDATE application_parameters SET id = 'b' WHERE id = 'c'",
    ] {
        house.sql(sql).await;
    }
    for name in ["a", "b"] {
        let swapped = house.store.parameters(&id(name)).await.unwrap().unwrap();
        assert!(swapped.grant.is_none() && swapped.app_secret.is_none());
        assert_eq!(swapped.reauthorization_cause.as_deref(), Some("sealed_column_damaged"));
    }
}

async fn rotation_reseals_every_column_once_every_process_has_the_key(old: House) {
    for name in ["a", "b"] {
        old.store.create_parameters(&id(name), settings("g"), Some(secret("app"))).await.unwrap();
        link(&old.store, name, &format!("refresh-{name}")).await.unwrap();
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
    assert_eq!(lost.missing_key.as_deref(), Some("k2"));
    assert_eq!(only_old.missing_keys().await.unwrap(), [("k2".to_owned(), 2)].into());
    assert!(new.missing_keys().await.unwrap().is_empty());
    assert_eq!(old.keys.sealing_key_id(), "k1");
}

async fn changes_are_followed_from_another_process(house: House) {
    let second = house.second(KEY_1).await;
    let from = second.last_parameter_change().await.unwrap();
    let made = house.store.create_parameters(&id("docs"), settings("g"), None).await.unwrap();
    link(&house.store, "docs", "r").await.unwrap();
    house.store.delete_parameters(&id("docs"), None).await.unwrap();
    let changes = second.parameter_changes(from).await.unwrap();
    assert_eq!(changes.len(), 3);
    assert!(changes.iter().all(|change| change.id == id("docs") && change.uid == *made.uid));
    assert!(changes.windows(2).all(|pair| pair[0].seq < pair[1].seq));
    assert_eq!(second.last_parameter_change().await.unwrap(), changes[2].seq);
    assert!(second.parameter_changes(changes[2].seq).await.unwrap().is_empty());
}

async fn one_process_at_a_time_renews_and_all_share_what_it_gets(house: House) {
    let second = house.second(KEY_1).await;
    let made = house.store.create_parameters(&id("docs"), settings("g"), None).await.unwrap();
    let linked = link(&house.store, "docs", "r").await.unwrap();
    let before = second.renewal(&made.uid, number(&second, &made.uid).await).await.unwrap().unwrap();
    assert_eq!(before.bearer.reveal(), "sl.first");

    assert_eq!(house.store.lease_renewal(&made.uid, linked.grant_number).await.unwrap(), Lease::Mine);
    assert_eq!(
        house.store.lease_renewal(&made.uid, linked.grant_number).await.unwrap(),
        Lease::Mine,
        "the holder may take it again"
    );
    assert_eq!(second.lease_renewal(&made.uid, linked.grant_number).await.unwrap(), Lease::Another);
    second.release_renewal(&made.uid, linked.grant_number).await.unwrap();
    assert_eq!(
        second.lease_renewal(&made.uid, linked.grant_number).await.unwrap(),
        Lease::Another,
        "nobody gives back another's lease"
    );
    let generation =
        house.store.finish_renewal(&made.uid, linked.grant_number, &secret("sl.2"), None).await.unwrap().unwrap();
    assert!(generation > before.generation);
    let shared = second.renewal(&made.uid, number(&second, &made.uid).await).await.unwrap().unwrap();
    assert_eq!((shared.bearer.reveal().as_str(), shared.generation, shared.expires_at), ("sl.2", generation, None));

    assert_eq!(second.lease_renewal(&made.uid, linked.grant_number).await.unwrap(), Lease::Mine);
    assert_eq!(house.store.lease_renewal(&made.uid, linked.grant_number).await.unwrap(), Lease::Another);
    house.pass(Duration::from_secs(16)).await;
    assert_eq!(
        house.store.lease_renewal(&made.uid, linked.grant_number).await.unwrap(),
        Lease::Mine,
        "a dead holder's lease ends"
    );
    let stale = house.store.finish_renewal(&made.uid, linked.grant_number - 1, &secret("sl.3"), None).await.unwrap();
    assert_eq!(stale, None, "the bearer of an old grant is not shared");
    let next = link(&house.store, "docs", "r2").await.unwrap();
    assert!(
        second.renewal(&made.uid, linked.grant_number).await.unwrap().is_none(),
        "nor is the new one's with the old"
    );
    assert_eq!(second.lease_renewal(&made.uid, linked.grant_number).await.unwrap(), Lease::Superseded);
    second.release_renewal(&made.uid, linked.grant_number).await.unwrap();
    assert_eq!(house.store.lease_renewal(&made.uid, next.grant_number).await.unwrap(), Lease::Mine);
}

async fn what_has_expired_is_not_found_and_is_swept(house: House) {
    let upload = house.upload().await;
    let pieces: Vec<Piece> = (0..4500).map(|at| Piece { offset: at * 4, length: 4, digests: vec![] }).collect();
    house.store.record_pieces(&upload.id, 1, &pieces).await.unwrap();
    let key = RequestKey { uid: "u", principal: "p", rpc: "StartUpload", request_id: "r" };
    house.store.begin_request(&key, &[1; 32]).await.unwrap();
    house.store.create_parameters(&id("docs"), settings("g"), None).await.unwrap();
    assert_eq!(house.store.sweep().await.unwrap(), Swept::default());

    house.pass(Duration::from_secs(7 * 24 * 3600)).await;
    assert!(house.store.upload(&upload.id).await.unwrap().is_none());
    assert_eq!(house.store.claim_upload(&upload.id).await.unwrap_err().reason(), Reason::UploadNotFound);
    house.store.check().await.unwrap();
    let kept = house.upload_ending(start() + Duration::from_secs(8 * 24 * 3600)).await;
    let swept = house.store.sweep().await.unwrap();
    assert_eq!(swept, Swept { uploads: 1, requests: 1, changes: 1, ..Swept::default() });
    assert!(house.store.pieces(&upload.id).await.unwrap().is_empty());
    assert!(house.store.upload(&kept.id).await.unwrap().is_some());
}

async fn a_request_id_gives_the_first_answer_again_and_no_other(house: House) {
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
    house.pass(REQUEST_ID_LIFE + Duration::from_secs(1)).await;
    assert_eq!(second.begin_request(&key, &[2; 32]).await.unwrap(), RequestTurn::New);
}

async fn a_request_whose_process_died_is_handed_on_as_unknown(house: House) {
    let second = house.second(KEY_1).await;
    let key = RequestKey { uid: "u", principal: "p", rpc: "StartUpload", request_id: "r" };
    assert_eq!(house.store.begin_request(&key, &[1; 32]).await.unwrap(), RequestTurn::New);
    house.pass(Duration::from_secs(31)).await;
    second.check().await.unwrap();
    assert_eq!(second.begin_request(&key, &[1; 32]).await.unwrap(), RequestTurn::Abandoned);
    house.store.finish_request(&key, Some(b"too late")).await.unwrap();
    assert_eq!(second.begin_request(&key, &[1; 32]).await.unwrap(), RequestTurn::Running);
}

async fn a_request_whose_answer_could_not_be_kept_is_no_turn_for_ever(house: House) {
    let second = house.second(KEY_1).await;
    let key = RequestKey { uid: "u", principal: "p", rpc: "StartUpload", request_id: "r" };
    assert_eq!(house.store.begin_request(&key, &[1; 32]).await.unwrap(), RequestTurn::New);
    assert_eq!(house.store.begin_request(&key, &[1; 32]).await.unwrap(), RequestTurn::Running);
    assert_eq!(house.store.begin_request(&key, &[2; 32]).await.unwrap(), RequestTurn::Reused);
    house.store.leave_request(&key);
    assert_eq!(second.begin_request(&key, &[1; 32]).await.unwrap(), RequestTurn::Running, "it is alive for all others");
    assert_eq!(house.store.begin_request(&key, &[1; 32]).await.unwrap(), RequestTurn::Abandoned);
    assert_eq!(house.store.begin_request(&key, &[1; 32]).await.unwrap(), RequestTurn::Running);
    house.store.finish_request(&key, Some(b"answer")).await.unwrap();
    for store in [&house.store, &second] {
        let told = store.begin_request(&key, &[1; 32]).await.unwrap();
        assert_eq!(told, RequestTurn::Answer(b"answer".to_vec()));
    }
}

async fn an_existing_store_is_opened_again_with_all_it_held(house: House) {
    let upload = house.upload().await;
    house.store.create_parameters(&id("docs"), settings("g"), None).await.unwrap();
    house.store.close().await;
    let again = house.second(KEY_1).await;
    assert!(again.upload(&upload.id).await.unwrap().is_some());
    assert!(again.parameters(&id("docs")).await.unwrap().is_some());
}

async fn of_two_who_begin_the_same_request_at_once_one_runs_it(house: House) {
    let second = house.second(KEY_1).await;
    for number in 0..20 {
        let request_id = number.to_string();
        let key = RequestKey { uid: "u", principal: "p", rpc: "StartUpload", request_id: &request_id };
        let (one, two) = tokio::join!(house.store.begin_request(&key, &[1; 32]), second.begin_request(&key, &[1; 32]));
        let mut turns = [one.unwrap(), two.unwrap()];
        turns.sort_by_key(|turn| *turn != RequestTurn::New);
        assert_eq!(turns, [RequestTurn::New, RequestTurn::Running]);
    }
}

async fn of_two_who_change_a_parameter_at_once_none_undoes_the_other(house: House) {
    let second = house.second(KEY_1).await;
    let docs = id("docs");
    house.store.create_parameters(&docs, settings("g"), None).await.unwrap();
    for round in 1..=10 {
        let edit = |key: &'static str| {
            move |settings: &mut Settings| {
                settings.labels.insert(format!("{key}{round}"), String::new());
                Ok(())
            }
        };
        let (one, two) = tokio::join!(
            house.store.update_parameters(&docs, None, SecretChange::Keep, edit("one")),
            second.update_parameters(&docs, None, SecretChange::Keep, edit("two")),
        );
        let etags = [one.unwrap().etag, two.unwrap().etag];
        assert_eq!(etags.iter().max(), Some(&(1 + 2 * round)));
        let now = house.store.parameters(&docs).await.unwrap().unwrap();
        assert_eq!(now.settings.labels.len() as i64, 2 * round, "both stand");
        let stranger = Parameters { uid: "another".into(), ..now.clone() };
        let (one, two) = tokio::join!(
            house.store.update_parameters(&docs, Some(now.etag), SecretChange::Keep, |_| Err(Fault::bug("not now"))),
            second.set_grant(&stranger, linked("r")),
        );
        assert!(one.is_err() && two.is_err(), "a change that fails leaves nothing");
        assert_eq!(house.store.parameters(&docs).await.unwrap().unwrap().etag, now.etag);
    }
}

async fn ids_are_ordered_by_their_bytes_and_a_group_holds_no_nul(house: House) {
    let names = ["a-1", "a-b", "a0", "aa", "ab-", "b"].map(|name| name.trim_end_matches('-'));
    for name in names.iter().rev() {
        house.store.create_parameters(&id(name), settings("G"), None).await.unwrap();
    }
    let listed = house.store.list_parameters("", None, 10).await.unwrap();
    assert_eq!(listed.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), names);
    assert!(house.store.list_parameters("g", None, 10).await.unwrap().is_empty(), "case tells groups apart");
    assert!(house.store.list_parameters("G\0", None, 10).await.unwrap().is_empty());
    let refused = house.store.create_parameters(&id("nul"), settings("a\0b"), None).await.unwrap_err();
    assert_eq!(refused.violations()[0].field, "application_parameter.group");
}

/// A second place for a store of the same kind, with nothing in it.
async fn empty(house: &House) -> String {
    match &house.store.0.pools.durable {
        Pool::Sqlite(_) => format!("sqlite://{}", house.folder().join("new.db").display()),
        Pool::Postgres(_) => house::postgres::Server::shared().database().await,
    }
}

async fn several_processes_may_start_on_an_empty_store_at_once(house: House) {
    let url = empty(&house).await;
    let open = || Store::open(&url, house.keys.clone(), Arc::new(house.clock.clone()));
    let (one, two, three) = tokio::join!(open(), open(), open());
    one.unwrap().create_parameters(&id("docs"), settings("g"), None).await.unwrap();
    assert!(two.unwrap().parameters(&id("docs")).await.unwrap().is_some());
    assert!(three.unwrap().parameters(&id("docs")).await.unwrap().is_some());
    let told = migrate(&url).await.unwrap();
    assert!(told.starts_with("the tables of the store are up to date (version "), "{told}");
}

async fn an_older_program_refuses_a_newer_store_and_says_so(house: House) {
    house
        .sql(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             SELECT 9001, description, success, checksum, execution_time FROM _sqlx_migrations WHERE version = 1",
        )
        .await;
    let open = Store::open(&house.url, house.keys.clone(), Arc::new(house.clock.clone())).await;
    for refused in [open.unwrap_err(), check(&house.url).await.unwrap_err(), migrate(&house.url).await.unwrap_err()] {
        assert_eq!(refused.reason(), Reason::StoreUnavailable);
        let message = refused.message();
        assert!(message.contains("version 9001") && message.contains("run the newer program"), "{message}");
    }
    house.store.create_parameters(&id("docs"), settings("g"), None).await.expect("what runs already goes on");
}

async fn a_store_that_is_not_up_to_date_is_told_and_left_alone_when_asked(house: House) {
    let url = empty(&house).await;
    let as_it_is = || Store::open_as_it_is(&url, house.keys.clone(), Arc::new(house.clock.clone()));
    if let Pool::Sqlite(_) = &house.store.0.pools.durable {
        assert_eq!(as_it_is().await.unwrap_err().reason(), Reason::StoreUnavailable);
        assert!(!house.folder().join("new.db").exists(), "no file is made");
        std::fs::write(house.folder().join("new.db"), "").unwrap();
    }
    for refused in [as_it_is().await.unwrap_err(), check(&url).await.unwrap_err()] {
        assert!(refused.message().contains("run `dropbox-connector migrate`"), "{refused:?}");
    }
    assert!(migrate(&url).await.unwrap().contains("from version 0 to "));
    as_it_is().await.unwrap();
    assert!(check(&url).await.unwrap().contains("up to date"));
}

async fn an_authorization_is_taken_once_and_not_after_its_time(house: House) {
    let House { store, clock, .. } = &house;
    let begun = |browser: Option<&str>| Authorization {
        parameter_id: id("docs"),
        uid: "uid".into(),
        app_key: "key".into(),
        verifier: secret("hush-verifier"),
        redirect_uri: Some("https://a.example/cb".into()),
        scopes: vec!["files.content.read".into()],
        principal: "boss".into(),
        browser: browser.map(str::to_owned),
        allow_account_change: true,
    };
    let ends = clock.now() + Duration::from_secs(600);
    store.keep_authorization("one", &begun(None), ends).await.unwrap();
    store.keep_authorization("two", &begun(Some("cookie")), ends).await.unwrap();
    assert!(store.take_authorization("three").await.unwrap().is_none());
    let (first, second) = tokio::join!(store.take_authorization("one"), store.take_authorization("one"));
    let taken: Vec<_> = [first.unwrap(), second.unwrap()].into_iter().flatten().collect();
    assert_eq!(taken.len(), 1, "of two who come at once one gets it");
    assert_eq!((taken[0].verifier.reveal().as_str(), taken[0].browser.as_deref()), ("hush-verifier", None));
    assert_eq!(taken[0].scopes, ["files.content.read"]);
    assert!(!format!("{taken:?}").contains("hush"));
    clock.advance(Duration::from_secs(600)).await;
    assert!(store.take_authorization("two").await.unwrap().is_none());
}

async fn a_forgotten_grant_leaves_nothing_behind(house: House) {
    let House { store, .. } = &house;
    let made = store.create_parameters(&id("docs"), settings("g"), Some(secret("app-secret"))).await.unwrap();
    link(store, "docs", "hush-refresh").await.unwrap();
    assert_eq!(store.count_reauthorizations().await.unwrap(), 0);
    let lost = store.parameters(&id("docs")).await.unwrap().unwrap();
    store.require_reauthorization(&id("docs"), &made.uid, lost.grant_number, "invalid_grant").await.unwrap();
    assert_eq!(store.count_reauthorizations().await.unwrap(), 1);
    let cleared = store.clear_grant(&lost).await.unwrap();
    assert_eq!((cleared.state(), cleared.account.is_some(), cleared.granted_scopes.len()), (State::Pending, false, 0));
    assert!(cleared.grant.is_none() && cleared.app_secret.is_some());
    assert!(store.renewal(&made.uid, number(store, &made.uid).await).await.unwrap().is_none(), "no bearer either");
    assert_eq!(store.count_reauthorizations().await.unwrap(), 0);
    let stranger = store.clear_grant(&Parameters { uid: "another uid".into(), ..cleared }).await.unwrap_err();
    assert_eq!(stranger.reason(), Reason::ApplicationParameterNotFound);
}
