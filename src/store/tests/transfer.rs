//! Secrets beside the grant: a proxy's password, and everything on its way to another store.

use super::*;

fn by_proxy(group: &str) -> Settings {
    let proxy = ProxySettings {
        proxy_kind: ProxyKind::Http,
        address: "proxy".into(),
        port: 3128,
        username: "me".into(),
        ..ProxySettings::default()
    };
    Settings { proxy: proxy.into(), ..settings(group) }
}

fn both() -> Secrets {
    Secrets { app_secret: Some(secret("app-clear")), proxy_password: Some(secret("proxy-clear")) }
}

fn password(parameters: &Parameters) -> Option<&str> {
    parameters.proxy_password.as_ref().map(|password| password.reveal().as_str())
}

pub(super) async fn a_proxys_password_is_sealed_kept_resealed_and_removed(house: House) {
    let made = house.store.create_parameters(&id("a"), by_proxy("g"), both()).await.unwrap();
    assert_eq!(password(&made), Some("proxy-clear"));
    let contents = house.contents().await;
    assert!(!contents.windows(11).any(|window| window == b"proxy-clear"), "it lies in clear in the database");
    assert!(!format!("{made:?}").contains("proxy-clear"));

    let a = id("a");
    let keep = |edit: fn(&mut Settings)| {
        house.store.update_parameters(&a, None, SecretChange::Keep, move |settings| {
            edit(settings);
            Ok(())
        })
    };
    let kept = keep(|settings| settings.proxy.address = "PROXY".into()).await.unwrap();
    assert_eq!((password(&kept), kept.settings.proxy.address.as_str()), (Some("proxy-clear"), "PROXY"));
    let elsewhere: [fn(&mut Settings); 3] = [
        |settings| settings.proxy.port = 3129,
        |settings| settings.proxy.address = "proxy.example".into(),
        |settings| settings.proxy.proxy_kind = ProxyKind::Https,
    ];
    for edit in elsewhere {
        let fault = keep(edit).await.unwrap_err();
        assert_eq!(fault.violations()[0].field, "application_parameter.proxy.password", "{fault:?}");
        assert_eq!(house.store.parameters(&a).await.unwrap().unwrap().etag, kept.etag);
    }
    let no_user = house.store.update_parameters(&a, None, SecretChange::Keep, |settings| {
        settings.proxy.username.clear();
        Ok(())
    });
    let fault = no_user.await.unwrap_err();
    assert_eq!(fault.violations()[0].field, "application_parameter.proxy.password", "it would belong to nobody");

    house.store.close().await;
    let new = house.second(&format!("{KEY_2}\n{KEY_1}")).await;
    assert_eq!(new.key_use().await.unwrap().sealed, [("k1".to_owned(), 2)].into());
    assert_eq!(new.rotate_parameters().await.unwrap().resealed, 2);
    assert_eq!(new.key_use().await.unwrap().sealed, [("k2".to_owned(), 2)].into());
    let only_new = house.second(KEY_2).await;
    assert_eq!(password(&only_new.parameters(&id("a")).await.unwrap().unwrap()), Some("proxy-clear"));
    let removed = SecretChanges { app_secret: SecretChange::Keep, proxy_password: SecretChange::Set(None) };
    let without = only_new.update_parameters(&id("a"), None, removed, |_| Ok(())).await.unwrap();
    assert_eq!((password(&without), without.app_secret.is_some()), (None, true));
}

pub(super) async fn an_export_brings_everything_to_another_store_all_of_it_or_nothing(house: House) {
    for name in ["a", "b", "c"] {
        house.store.create_parameters(&id(name), by_proxy("g"), both()).await.unwrap();
        link(&house.store, name, &format!("refresh-{name}")).await.unwrap();
    }
    let (plain, count) = house.store.export_parameters(&[]).await.unwrap();
    assert_eq!(count, 3);
    let (one, count) = house.store.export_parameters(&[id("b")]).await.unwrap();
    assert_eq!(count, 1);
    let missing = house.store.export_parameters(&[id("nobody")]).await.unwrap_err();
    assert_eq!(missing.reason(), Reason::ApplicationParameterNotFound);

    // To the other kind of database, under another key.
    let folder = tempfile::tempdir().unwrap();
    let keys = Arc::new(KeyRing::parse(KEY_2).unwrap());
    let url = format!("sqlite://{}", folder.path().join("other.db").display());
    let other = Store::open(&url, keys, Arc::new(house.clock.clone())).await.unwrap();
    other.create_parameters(&id("b"), settings("own"), None).await.unwrap();
    let refused = other.import_parameters(&plain, OnConflict::Refuse).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::ApplicationParameterExists);
    assert!(refused.message().contains(": b;"), "{refused}");
    assert!(other.parameters(&id("a")).await.unwrap().is_none(), "nothing at all was imported");
    let skipped = other.import_parameters(&plain, OnConflict::Skip).await.unwrap();
    assert_eq!(skipped, Imported { created: 2, replaced: 0, skipped: 1 });
    assert_eq!(other.parameters(&id("b")).await.unwrap().unwrap().settings.group, "own");
    let seq = other.last_parameter_change().await.unwrap();
    let replaced = other.import_parameters(&one, OnConflict::Replace).await.unwrap();
    assert_eq!(replaced, Imported { created: 0, replaced: 1, skipped: 0 });
    assert_eq!(other.parameter_changes(seq).await.unwrap().len(), 1, "a running server hears of it");
    for name in ["a", "b", "c"] {
        let from = house.store.parameters(&id(name)).await.unwrap().unwrap();
        let to = other.parameters(&id(name)).await.unwrap().unwrap();
        assert_eq!((to.state(), refresh_token(&to)), (State::Active, Some(format!("refresh-{name}"))));
        assert_eq!(
            (password(&to), to.app_secret.as_ref().unwrap().reveal().as_str()),
            (Some("proxy-clear"), "app-clear")
        );
        assert_eq!((&to.settings, &to.account, &to.uid), (&from.settings, &from.account, &from.uid));
        assert_eq!((to.granted_scopes, to.created_at), (from.granted_scopes, from.created_at));
        assert!(other.renewal(&to.uid, number(&other, &to.uid).await).await.unwrap().is_none(), "bearers stay behind");
    }
    // And back, over what is there.
    let before = house.store.parameters(&id("a")).await.unwrap().unwrap();
    let former = house.store.renewal(&before.uid, before.grant_number).await.unwrap().unwrap();
    let (back, _) = other.export_parameters(&[]).await.unwrap();
    let returned = house.store.import_parameters(&back, OnConflict::Replace).await.unwrap();
    assert_eq!(returned, Imported { created: 0, replaced: 3, skipped: 0 });
    let a = house.store.parameters(&id("a")).await.unwrap().unwrap();
    assert_eq!((refresh_token(&a).as_deref(), a.etag), (Some("refresh-a"), 3));
    // What another process is about to say of the former grant is not said of this one, and its bearer is not news.
    assert_eq!((&a.uid, a.grant_number), (&before.uid, before.grant_number + 1));
    assert!(!house.store.require_reauthorization(&a.id, &a.uid, before.grant_number, "invalid_grant").await.unwrap());
    assert_eq!(house.store.finish_renewal(&a.uid, before.grant_number, &secret("sl.old"), None).await.unwrap(), None);
    let next = house.store.finish_renewal(&a.uid, a.grant_number, &secret("sl.new"), None).await.unwrap().unwrap();
    assert!(next > former.generation, "{next} after {}", former.generation);
}

pub(super) async fn what_is_no_export_is_refused_whole_and_shows_nothing(house: House) {
    house.store.create_parameters(&id("a"), by_proxy("g"), both()).await.unwrap();
    link(&house.store, "a", "refresh-clear").await.unwrap();
    let (plain, _) = house.store.export_parameters(&[]).await.unwrap();
    let good = String::from_utf8(plain.to_vec()).unwrap();
    for wrong in [
        String::new(),
        "{}".to_owned(),
        good.replacen("\"version\":1", "\"version\":2", 1),
        good.replacen("\"id\":\"a\"", "\"id\":\"A\"", 1),
        good.replacen("refresh_token", "refresh_taken", 1),
        good.replacen("\"port\":3128", "\"port\":0", 1),
        good.replacen("\"username\":\"me\"", "\"username\":\"\"", 1),
        good.replacen("app_secret", "app_sacret", 1),
    ] {
        assert_ne!(wrong, good);
        let fault = house.store.import_parameters(wrong.as_bytes(), OnConflict::Replace).await.unwrap_err();
        assert_eq!(fault.reason(), Reason::InvalidField, "{fault:?}");
        assert!(!format!("{fault:?}").contains("clear"), "{fault:?}");
    }
    // A row whose key is gone has nothing to export.
    let other_key = house.second(KEY_2).await;
    let fault = other_key.export_parameters(&[]).await.unwrap_err();
    assert!(fault.message().contains("a do not open"), "{fault}");
}

pub(super) async fn an_import_and_changes_of_the_same_parameters_wait_for_each_other(house: House) {
    const COUNT: usize = 12;
    let names: Vec<String> = (0..COUNT).map(|n| format!("p{n:02}")).collect();
    for name in &names {
        house.store.create_parameters(&id(name), settings("g"), None).await.unwrap();
    }
    let (plain, _) = house.store.export_parameters(&[]).await.unwrap();
    let second = house.second(KEY_1).await;
    for _ in 0..3 {
        let changes = async {
            for name in names.iter().rev() {
                house.store.update_parameters(&id(name), None, SecretChange::Keep, |_| Ok(())).await.unwrap();
            }
        };
        let imports = futures::future::join(
            second.import_parameters(&plain, OnConflict::Replace),
            house.store.import_parameters(&plain, OnConflict::Replace),
        );
        let ((), (one, two)) = tokio::join!(changes, imports);
        for imported in [one, two] {
            assert_eq!(imported.expect("nobody waits in a circle").replaced, COUNT as u64);
        }
    }
}

pub(super) async fn an_import_displaces_no_other_parameter_unless_it_may(house: House) {
    let made = house.store.create_parameters(&id("old-name"), settings("g"), None).await.unwrap();
    let (plain, _) = house.store.export_parameters(&[]).await.unwrap();
    // The same parameter under another name: of one uid there is one.
    let renamed = String::from_utf8(plain.to_vec()).unwrap().replace("old-name", "new-name");
    let refused = house.store.import_parameters(renamed.as_bytes(), OnConflict::Refuse).await.unwrap_err();
    assert!(refused.message().contains("old-name"), "{refused}");
    let skipped = house.store.import_parameters(renamed.as_bytes(), OnConflict::Skip).await.unwrap();
    assert_eq!((skipped.skipped, skipped.created), (1, 0));
    let seq = house.store.last_parameter_change().await.unwrap();
    house.store.import_parameters(renamed.as_bytes(), OnConflict::Replace).await.unwrap();
    assert!(house.store.parameters(&id("old-name")).await.unwrap().is_none());
    assert_eq!(house.store.parameters(&id("new-name")).await.unwrap().unwrap().uid, made.uid);
    let told = house.store.parameter_changes(seq).await.unwrap();
    assert_eq!(told.iter().map(|change| change.id.as_str()).collect::<Vec<_>>(), ["new-name", "old-name"]);
}

pub(super) async fn an_import_may_give_names_and_parameters_to_each_other_anew(house: House) {
    let mut uids = Vec::new();
    for name in ["one", "two"] {
        uids.push(house.store.create_parameters(&id(name), by_proxy(name), both()).await.unwrap().uid);
        link(&house.store, name, &format!("refresh-{name}")).await.unwrap();
    }
    let (plain, _) = house.store.export_parameters(&[]).await.unwrap();
    let plain = String::from_utf8(plain.to_vec()).unwrap();
    let swapped = plain.replace(r#""id":"one""#, r#""id":"x""#).replace(r#""id":"two""#, r#""id":"one""#);
    let swapped = swapped.replace(r#""id":"x""#, r#""id":"two""#);
    // The second time only the first of the two is there, under its new name, and changes back.
    for (file, lost, in_order) in [(&swapped, None, [1, 0]), (&plain, Some("two"), [0, 1])] {
        if let Some(lost) = lost {
            house.store.delete_parameters(&id(lost), None).await.unwrap();
        }
        let before = house.store.parameters(&id("one")).await.unwrap().unwrap();
        let seq = house.store.last_parameter_change().await.unwrap();
        let imported = house.store.import_parameters(file.as_bytes(), OnConflict::Replace).await.unwrap();
        assert_eq!((imported.created + imported.replaced, imported.skipped), (2, 0));
        let told = house.store.parameter_changes(seq).await.unwrap();
        for (name, at) in ["one", "two"].into_iter().zip(in_order) {
            let found = house.store.parameters(&id(name)).await.unwrap().expect("both are there");
            assert_eq!((&found.uid, found.settings.group.as_str()), (&uids[at], ["one", "two"][at]));
            assert_eq!(refresh_token(&found), Some(format!("refresh-{}", ["one", "two"][at])));
            assert_eq!(password(&found), Some("proxy-clear"));
            let last = told.iter().rfind(|change| change.id == found.id).expect("it is told");
            assert_eq!(last.uid, *found.uid);
            if found.uid == before.uid {
                assert!(found.grant_number > before.grant_number, "a verdict of before does not hit it");
            }
        }
    }
}
