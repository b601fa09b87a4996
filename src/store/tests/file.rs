//! Parameters from a read-only file.

use super::*;
use crate::clock::{Clock as _, SystemClock};

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
    let house = House::sqlite().await;
    let path = house.folder().join(name);
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
        store.set_grant(&docs, linked("r")).await.err(),
        store.rotate_parameters().await.err(),
    ] {
        assert_eq!(refused.unwrap().reason(), Reason::ReadOnlyStore);
    }
    assert_eq!(store.lease_renewal(&docs.uid, docs.grant_number).await.unwrap(), Lease::Mine);
    assert_eq!(store.finish_renewal(&docs.uid, 0, &secret("sl.x"), None).await.unwrap(), None);
    assert!(store.renewal(&docs.uid, docs.grant_number).await.unwrap().is_none());
    assert!(store.require_reauthorization(&id("docs"), &docs.uid, docs.grant_number, "invalid_grant").await.unwrap());
    assert_eq!(store.parameters(&id("docs")).await.unwrap().unwrap().state(), State::ReauthorizationRequired);
}

#[tokio::test]
async fn a_changed_file_is_followed_and_a_broken_one_is_not() {
    let (house, store) = with_file(GOOD, "parameters.toml").await;
    let (store, path) = (store.unwrap(), house.folder().join("parameters.toml"));
    let before = store.parameters(&id("docs")).await.unwrap().unwrap();
    assert!(store.parameter_changes(0).await.unwrap().is_empty());
    std::fs::write(&path, "[[application_parameters]\nnot toml").unwrap();
    assert!(store.parameter_changes(0).await.unwrap().is_empty());
    assert!(store.parameters(&id("docs")).await.unwrap().is_some());
    // Whoever writes it anew empties it first.
    std::fs::write(&path, "").unwrap();
    assert!(store.parameter_changes(0).await.unwrap().is_empty());
    assert_eq!(store.parameters_file_good(), Some(false));
    assert!(store.parameters(&id("docs")).await.unwrap().is_some());
    std::fs::write(&path, GOOD.replace("REFRESH-clear", "another")).unwrap();
    let changes = store.parameter_changes(0).await.unwrap();
    assert_eq!(changes, [Change { seq: 0, id: id("docs"), uid: before.uid.to_string() }]);
    let after = store.parameters(&id("docs")).await.unwrap().unwrap();
    assert_ne!(after.uid, before.uid, "another token may be another account");
}

#[tokio::test]
async fn a_verdict_on_a_token_that_was_replaced_leaves_the_new_one() {
    let text = format!("{}account_id = \"dbid:A\"\n", GOOD.replace("    policy", "    # policy"));
    let (house, store) = with_file(&text, "parameters.toml").await;
    let (store, path) = (store.unwrap(), house.folder().join("parameters.toml"));
    let old = store.parameters(&id("docs")).await.unwrap().unwrap();
    std::fs::write(&path, text.replace("REFRESH-clear", "another")).unwrap();
    assert_eq!(store.parameter_changes(0).await.unwrap().len(), 1);
    let new = store.parameters(&id("docs")).await.unwrap().unwrap();
    assert_eq!(new.uid, old.uid, "the same account: handles stay good");
    let late = store.require_reauthorization(&id("docs"), &old.uid, old.grant_number, "invalid_grant").await.unwrap();
    assert!(!late, "it is about the former token");
    assert_eq!(store.parameters(&id("docs")).await.unwrap().unwrap().state(), State::Active);
    assert!(store.require_reauthorization(&id("docs"), &new.uid, new.grant_number, "invalid_grant").await.unwrap());
    // And the former token, put back, is as it was.
    std::fs::write(&path, &text).unwrap();
    assert_eq!(store.parameter_changes(0).await.unwrap().len(), 1);
    let back = store.parameters(&id("docs")).await.unwrap().unwrap();
    assert_eq!((back.state(), back.grant_number), (State::Active, old.grant_number));
}

#[cfg(unix)]
#[tokio::test]
async fn a_mounted_secret_is_followed_through_its_links_and_what_did_not_change_is_left_alone() {
    let house = House::sqlite().await;
    let at = |name: &str| house.folder().join(name);
    let when = SystemClock.now();
    // As Kubernetes lays it out: a file that is a link through a link to the folder of the present version.
    let mount = |version: &str, token: &str| {
        let text = format!(
            "{}{}",
            GOOD.replace("refresh_token", "access_token").replace("REFRESH-clear", token),
            GOOD.replace("\"docs\"", "\"same\"").replace("\"REFRESH-clear\"", "\"stays\"")
        );
        std::fs::create_dir(at(version)).unwrap();
        let file = at(version).join("parameters.toml");
        std::fs::write(&file, text).unwrap();
        std::fs::File::options().write(true).open(&file).unwrap().set_modified(when).unwrap();
        std::os::unix::fs::symlink(version, at("..new")).unwrap();
        std::fs::rename(at("..new"), at("..data")).unwrap();
    };
    mount("..v1", "token-1");
    std::os::unix::fs::symlink("..data/parameters.toml", at("parameters.toml")).unwrap();
    let store = house.store.clone().with_parameters_file(&at("parameters.toml")).unwrap();
    let same = store.parameters(&id("same")).await.unwrap().unwrap();
    assert!(store.require_reauthorization(&id("same"), &same.uid, same.grant_number, "invalid_grant").await.unwrap());
    assert!(store.parameter_changes(0).await.unwrap().is_empty());

    // The same length, the same time of change.
    mount("..v2", "token-2");
    let changes = store.parameter_changes(0).await.unwrap();
    assert_eq!(changes.iter().map(|change| change.id.as_str()).collect::<Vec<_>>(), ["docs"]);
    let docs = store.parameters(&id("docs")).await.unwrap().unwrap();
    let Some(Grant::ShortLived { bearer, .. }) = docs.grant else { panic!("{docs:?}") };
    assert_eq!(bearer.reveal(), "token-2");
    let same = store.parameters(&id("same")).await.unwrap().unwrap();
    assert_eq!(same.state(), State::ReauthorizationRequired, "what Dropbox said of it still holds");

    std::fs::remove_file(at("..data")).unwrap();
    assert!(store.parameter_changes(0).await.unwrap().is_empty());
    assert_eq!(store.parameters_file_good(), Some(false));
    assert!(store.parameters(&id("docs")).await.unwrap().is_some(), "the last good one stays");
    mount("..v3", "token-3");
    assert_eq!(store.parameter_changes(0).await.unwrap().len(), 1);
    assert_eq!(store.parameters_file_good(), Some(true));
}

#[tokio::test]
async fn a_secret_in_a_file_of_its_own_is_followed_too() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "first").unwrap();
    let text = format!("{}\naccess_token_file = {token:?}\n", GOOD.replace("refresh_token = \"REFRESH-clear\"", ""));
    let text =
        text.replace("policy.allowed_principals = [\"billing\"]", "").replace("policy.permissions = [\"READ\"]", "");
    let (_house, store) = with_file(&text, "parameters.toml").await;
    let store = store.unwrap();
    std::fs::write(&token, "the second").unwrap();
    assert_eq!(store.parameter_changes(0).await.unwrap().len(), 1);
    let docs = store.parameters(&id("docs")).await.unwrap().unwrap();
    let Some(Grant::ShortLived { bearer, .. }) = docs.grant else { panic!("{docs:?}") };
    assert_eq!(bearer.reveal(), "the second");
    std::fs::remove_file(&token).unwrap();
    assert!(store.parameter_changes(0).await.unwrap().is_empty());
    assert_eq!(store.parameters_file_good(), Some(false));
}

#[tokio::test]
async fn json_works_and_secrets_may_stand_in_files_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "sl.legacy\n").unwrap();
    let text =
        serde_json::json!({ "application_parameters": [{ "id": "a", "app_key": "k", "access_token_file": token }] });
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

#[tokio::test]
async fn what_is_wrong_with_a_file_is_told_by_line_and_cause_without_its_text() {
    for (text, told) in [
        ("", "is empty"),
        ("[[application_parameters]]\nid = \"docs\"\nrefresh_token = \"hush", "line 3"),
        ("[[application_parameters]]\nrefresh_token = hush\n", "line 2"),
        ("application_parameters = \"hush\"\n", "application_parameters: must be"),
        ("parameters = 1\n", "parameters is not taken: only [[application_parameters]]"),
    ] {
        let (_house, store) = with_file(text, "parameters.toml").await;
        let fault = store.err().unwrap();
        assert!(fault.message().contains(told), "{fault} does not tell {told}");
        assert!(!fault.message().ends_with("TOML: ") && !format!("{fault:?}").contains("hush"), "{fault:?}");
    }
    let (_house, store) = with_file("# none\n", "parameters.toml").await;
    assert!(store.unwrap().list_parameters("", None, 9).await.unwrap().is_empty());
}
