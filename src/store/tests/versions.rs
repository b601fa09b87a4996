//! Rows between versions of the program, as in a rolling update.

use super::*;

pub(super) async fn what_a_newer_version_wrote_is_passed_over_and_written_back(house: House) {
    let House { store, .. } = &house;
    store.create_parameters(&id("docs"), settings("g"), None).await.unwrap();
    let newer =
        "UPDATE application_parameters SET settings = '{\"app_key\":\"key1\",\"group\":\"g\",\"newer\":{\"a\":1},
                 \"policy\":{\"newest\":[]},\"timeouts\":{\"dns\":1},\"proxy\":{\"via\":\"x\"}}' WHERE id = 'docs'";
    assert_eq!(house.sql(newer).await, 1);
    assert_eq!(store.parameters(&id("docs")).await.unwrap().unwrap().settings.group, "g");
    let edit = |settings: &mut Settings| {
        settings.display_name = "Documents".into();
        Ok(())
    };
    let changed = store.update_parameters(&id("docs"), None, SecretChange::Keep, edit).await.unwrap();
    assert_eq!(changed.settings.display_name, "Documents");
    let row = query("SELECT settings FROM application_parameters").fetch_one(&store.0.pools.readers).await.unwrap();
    let kept: serde_json::Value = serde_json::from_str(&row.get::<String>("settings").unwrap()).unwrap();
    assert_eq!((&kept["newer"]["a"], &kept["policy"]["newest"]), (&1.into(), &serde_json::json!([])), "{kept}");
    assert_eq!((&kept["timeouts"]["dns"], &kept["proxy"]["via"]), (&1.into(), &"x".into()), "{kept}");
}

pub(super) async fn a_row_that_cannot_be_read_is_told_and_hides_no_other(house: House) {
    let House { store, .. } = &house;
    for name in ["a", "b", "c", "d"] {
        store.create_parameters(&id(name), settings("g"), None).await.unwrap();
        link(store, name, "refresh").await.unwrap();
    }
    let from = store.last_parameter_change().await.unwrap();
    let newer =
        "UPDATE application_parameters SET settings = '{\"proxy\":{\"proxy_kind\":\"CARRIER_PIGEON\"}}' WHERE id = 'b'";
    assert_eq!(house.sql(newer).await, 1);
    for fault in [
        store.parameters(&id("b")).await.unwrap_err(),
        store.update_parameters(&id("b"), None, SecretChange::Keep, |_| Ok(())).await.unwrap_err(),
        store.export_parameters(&[]).await.unwrap_err(),
    ] {
        assert_eq!(fault.reason(), Reason::StoreUnavailable);
        assert!(is_unreadable(&fault) && fault.retry_delay().is_some(), "{fault:?}");
        assert!(fault.message().contains("settings of application parameter b"), "{fault}");
    }
    let names = |page: Vec<Parameters>| page.iter().map(|one| one.id.to_string()).collect::<String>();
    assert_eq!(names(store.list_parameters("", None, 10).await.unwrap()), "acd");
    assert_eq!(names(store.list_parameters("", None, 2).await.unwrap()), "ac", "a page is full all the same");
    assert_eq!(names(store.list_parameters("g", Some(&id("a")), 1).await.unwrap()), "c");
    // A change of a name that this version would not take stops nothing either.
    house.sql("INSERT INTO parameter_changes (parameter_id, uid, changed_at) VALUES ('Newer_Form', 'u', 0)").await;
    let changes = store.parameter_changes(from).await.unwrap();
    assert_eq!(changes.iter().map(|change| change.id.as_str()).collect::<Vec<_>>(), ["Newer_Form"]);
    store.delete_parameters(&id("b"), None).await.expect("it can be deleted unread");
    assert_eq!(store.export_parameters(&[]).await.unwrap().1, 3);
}

pub(super) async fn a_restriction_that_is_not_known_here_shuts_the_parameter(house: House) {
    let House { store, .. } = &house;
    store.create_parameters(&id("docs"), settings("g"), None).await.unwrap();
    let newer = "UPDATE application_parameters SET settings = '{\"app_key\":\"key1\",
                 \"policy\":{\"allowed_principals\":[\"*\"],\"read_hours\":[\"9-17\"]}}' WHERE id = 'docs'";
    assert_eq!(house.sql(newer).await, 1);
    let fault = store.parameters(&id("docs")).await.unwrap_err();
    assert!(is_unreadable(&fault) && fault.retry_delay().is_some(), "{fault:?}");
    assert!(fault.message().contains("policy of application parameter docs"), "{fault}");
}
