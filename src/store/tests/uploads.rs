//! Who writes an upload, and what is kept of it.

use super::*;

pub(super) async fn whoever_takes_an_upload_over_shuts_the_former_writer_out(house: House) {
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
        house.store.set_upload_ready(&upload.id, 1, 16, true).await,
        intend(&house.store, &upload.id, 1, 16).await,
        house.store.set_upload_session(&upload.id, 1, "s", "ordered").await,
    ] {
        assert_eq!(stale.unwrap_err().reason(), Reason::UploadTakenOver);
    }
    house.store.release_upload(&upload.id, 1, false).await.unwrap();
    assert_eq!(second.upload(&upload.id).await.unwrap().unwrap().released, 1);
    let late = house.store.record_pieces(&upload.id, 1, &[piece(24, 8)]).await;
    assert_eq!(late.unwrap_err().reason(), Reason::UploadTakenOver);
    second.release_upload(&upload.id, 2, false).await.unwrap();
    assert!(house.store.claim_upload(&upload.id).await.unwrap().former_released);
    assert_eq!(house.store.pieces(&upload.id).await.unwrap(), [piece(0, 8), piece(8, 8), piece(16, 8)]);
}

pub(super) async fn a_longer_piece_replaces_a_shorter_one_and_never_the_other_way(house: House) {
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

pub(super) async fn a_commit_is_intended_once_and_its_outcome_is_kept(house: House) {
    let upload = house.upload().await;
    house.store.record_pieces(&upload.id, 1, &[Piece { offset: 0, length: 4, digests: vec![] }]).await.unwrap();
    house.store.set_upload_ready(&upload.id, 1, 4, true).await.unwrap();
    intend(&house.store, &upload.id, 1, 4).await.unwrap();
    let twice = intend(&house.store, &upload.id, 1, 4).await.unwrap_err();
    assert_eq!((twice.reason(), twice.get("uploadState")), (Reason::UploadClosed, Some("committing")));
    house.store.commit_refused(&upload.id, 1).await.unwrap();
    intend(&house.store, &upload.id, 1, 4).await.unwrap();

    let looker = house.store.claim_upload(&upload.id).await.unwrap().upload;
    assert_eq!((looker.state, looker.writer, looker.size), (UploadState::Committing, 2, Some(4)));
    let torn = house.store.commit_refused(&upload.id, 1).await.unwrap_err();
    assert_eq!(torn.reason(), Reason::UploadTakenOver);
    house.store.commit_refused(&upload.id, 2).await.unwrap();
    intend(&house.store, &upload.id, 2, 4).await.expect("a commit that did not happen is sent by the next writer");
    house.store.upload_committed(&upload.id, r#"{"rev":"1"}"#).await.unwrap();
    let done = house.store.claim_upload(&upload.id).await.unwrap().upload;
    assert_eq!((done.state, done.writer, done.outcome.as_deref()), (UploadState::Committed, 2, Some(r#"{"rev":"1"}"#)));
    assert!(house.store.pieces(&upload.id).await.unwrap().is_empty());
    let late = house.store.record_pieces(&upload.id, 2, &[]).await;
    assert!(late.is_ok(), "no pieces, nothing to refuse");
    let late = house.store.record_pieces(&upload.id, 2, &[Piece { offset: 0, length: 4, digests: vec![] }]).await;
    assert_eq!(late.unwrap_err().reason(), Reason::UploadClosed);
}

pub(super) async fn two_processes_racing_for_a_commit_give_one_winner(house: House) {
    let second = house.second(KEY_1).await;
    for _ in 0..10 {
        let upload = house.upload().await;
        let (one, two) = tokio::join!(intend(&house.store, &upload.id, 1, 1), intend(&second, &upload.id, 1, 1));
        assert_eq!([one, two].iter().filter(|turn| turn.is_ok()).count(), 1);
    }
}

pub(super) async fn of_two_who_take_an_upload_over_at_once_the_second_sees_the_first(house: House) {
    let second = house.second(KEY_1).await;
    for _ in 0..10 {
        let upload = house.upload().await;
        house.store.release_upload(&upload.id, 1, false).await.unwrap();
        let (one, two) = tokio::join!(house.store.claim_upload(&upload.id), second.claim_upload(&upload.id));
        let mut claims = [one.unwrap(), two.unwrap()].map(|claim| (claim.upload.writer, claim.former_released));
        claims.sort_unstable();
        assert_eq!(claims, [(2, true), (3, false)]);
    }
}

pub(super) async fn a_dispute_is_written_by_whoever_finds_it_and_ended_by_who_proves_the_whole(house: House) {
    let upload = house.upload().await;
    let is_disputed = async || house.store.upload(&upload.id).await.unwrap().unwrap().disputed;
    assert!(!is_disputed().await);
    // Its writer was passed and locked out meanwhile: it is true all the same.
    house.store.claim_upload(&upload.id).await.unwrap();
    house.store.release_upload(&upload.id, 2, false).await.unwrap();
    house.store.dispute_upload(&upload.id).await.unwrap();
    assert!(house.store.claim_upload(&upload.id).await.unwrap().upload.disputed);
    house.store.set_upload_ready(&upload.id, 3, 8, false).await.unwrap();
    assert!(is_disputed().await, "nobody has said which bytes are meant");
    house.store.set_upload_ready(&upload.id, 3, 8, true).await.unwrap();
    assert!(!is_disputed().await);
    // It could not be written before the writer let go.
    house.store.release_upload(&upload.id, 3, true).await.unwrap();
    assert!(is_disputed().await);
    house.store.upload_committed(&upload.id, "{}").await.unwrap();
    house.store.set_upload_ready(&upload.id, 3, 8, true).await.unwrap_err();
}
