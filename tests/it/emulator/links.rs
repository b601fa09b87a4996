//! Shared links: what they show, to whom, and how long. And folders that are shared.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Bench, Said};

/// Asks as the app, which is nobody's account.
async fn as_app(bench: &Bench, route: &str, arg: Value) -> Said {
    let request = bench.http.post(bench.url(route)).basic_auth(&bench.login.app_key, Some(&bench.login.app_secret));
    let request = match route {
        "sharing/get_shared_link_file" => request.header("Dropbox-API-Arg", arg.to_string()),
        _ => request.header("Content-Type", "application/json").body(arg.to_string()),
    };
    bench.send(request).await
}

async fn link(bench: &Bench, path: &str, settings: Value) -> Value {
    let arg = json!({"path": path, "settings": settings});
    bench.rpc("sharing/create_shared_link_with_settings", arg).await.good()
}

#[tokio::test]
async fn a_link_opens_its_file_for_anyone_who_has_it_whole() {
    let bench = Bench::start().await;
    bench.file("/Docs/a b.txt", b"0123456789").await;
    let made = bench.rpc("sharing/create_shared_link_with_settings", json!({"path": "/Docs/a b.txt"})).await.good();
    let url = made["url"].as_str().expect("text");
    assert!(url.starts_with("https://www.dropbox.com/scl/fi/") && url.ends_with("&dl=0"), "{url}");
    assert_eq!((&made[".tag"], &made["path_lower"]), (&json!("file"), &json!("/docs/a b.txt")));
    let seen = as_app(&bench, "sharing/get_shared_link_metadata", json!({ "url": url })).await.good();
    assert_eq!((&seen["name"], seen.get("path_lower")), (&json!("a b.txt"), None));
    let forced = url.replace("dl=0", "dl=1");
    let file = as_app(&bench, "sharing/get_shared_link_file", json!({ "url": forced })).await;
    assert_eq!((file.status, file.text()), (200, "0123456789"));
    let request =
        bench.bare("sharing/get_shared_link_file").header("Dropbox-API-Arg", json!({ "url": url }).to_string());
    let part = bench.send(request.header("Range", "bytes=2-4")).await;
    assert_eq!((part.status, part.text(), part.header("content-range")), (206, "234", "bytes 2-4/10"));
    let keyless = url.split('?').next().expect("an address");
    let denied = as_app(&bench, "sharing/get_shared_link_metadata", json!({ "url": keyless })).await;
    assert_eq!(denied.error(), json!({".tag": "shared_link_access_denied"}));
    bench.end();
}

#[tokio::test]
async fn the_path_of_a_link_opens_a_page_and_the_file_on_the_www_host() {
    let bench = Bench::start().await;
    bench.file("/Docs/a <b>.txt", b"0123456789").await;
    let made = bench.rpc("sharing/create_shared_link_with_settings", json!({"path": "/Docs/a <b>.txt"})).await.good();
    let path = made["url"].as_str().expect("text").strip_prefix("https://www.dropbox.com").expect("Dropbox's address");
    let open = async |path: &str| bench.send(bench.http.get(format!("{}{path}", bench.emulator.addresses().www))).await;
    let page = open(path).await;
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    assert!(page.text().contains("a &lt;b&gt;.txt") && page.text().contains("10 bytes"), "{}", page.text());
    let address = page.text().split("href=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a link");
    let file = open(&address.replace("&amp;", "&")).await;
    assert_eq!((file.status, file.text()), (200, "0123456789"));
    assert!(file.header("content-disposition").starts_with("attachment"), "{}", file.header("content-disposition"));
    let raw = open(&path.replace("dl=0", "raw=1")).await;
    assert!(raw.text() == "0123456789" && raw.header("content-disposition").starts_with("inline"));
    assert_eq!(open(path.split('?').next().expect("a path")).await.status, 403);
    assert_eq!(open("/scl/fi/nothing/x?rlkey=y").await.status, 404);
    bench.end();
}

#[tokio::test]
async fn a_password_and_an_expiry_keep_others_out_and_the_owner_in() {
    let bench = Bench::start().await;
    bench.file("/a.txt", b"a").await;
    let settings = json!({"require_password": true, "link_password": "open", "expires": "2027-01-15T09:00:00Z"});
    let made = link(&bench, "/a.txt", settings).await;
    assert_eq!(made["link_permissions"]["resolved_visibility"][".tag"], "password");
    let get = |password: Option<&str>| {
        let arg = match password {
            Some(password) => json!({"url": made["url"], "link_password": password}),
            None => json!({"url": made["url"]}),
        };
        as_app(&bench, "sharing/get_shared_link_file", arg)
    };
    assert_eq!(get(None).await.error()[".tag"], "shared_link_access_denied");
    assert_eq!(get(Some("shut")).await.error()[".tag"], "shared_link_access_denied");
    assert_eq!(get(Some("open")).await.text(), "a");
    bench.clock.advance(Duration::from_secs(3_600)).await;
    assert_eq!(get(Some("open")).await.error()[".tag"], "shared_link_access_denied", "it has expired");
    let own = bench.download("sharing/get_shared_link_file", json!({"url": made["url"]})).await;
    assert_eq!((own.status, own.text()), (200, "a"));
    let lasting = json!({"url": made["url"], "settings": {"require_password": false}, "remove_expiration": true});
    let lasting = bench.rpc("sharing/modify_shared_link_settings", lasting).await.good();
    assert_eq!(lasting.get("expires"), None);
    assert_eq!(get(None).await.text(), "a");
    bench.end();
}

#[tokio::test]
async fn a_second_link_is_refused_and_names_the_first_only_to_who_asked_for_no_settings() {
    let bench = Bench::start().await;
    bench.file("/a.txt", b"a").await;
    let create = |arg: Value| bench.rpc("sharing/create_shared_link_with_settings", arg);
    let first = create(json!({"path": "/a.txt"})).await.good();
    let plain = create(json!({"path": "/A.TXT"})).await.error();
    assert_eq!(plain["shared_link_already_exists"], json!({".tag": "metadata", "metadata": first}));
    let custom = create(json!({"path": "/a.txt", "settings": {"allow_download": false}})).await.error();
    assert_eq!(custom, json!({".tag": "shared_link_already_exists"}));
    let missing = create(json!({"path": "/nothing"})).await.error();
    assert_eq!(missing, json!({".tag": "path", "path": {".tag": "not_found"}}));
    let settings = json!({"path": "/a.txt", "settings": {"require_password": true}});
    assert_eq!(create(settings).await.error()["settings_error"][".tag"], "invalid_settings");
    let team = json!({"path": "/a.txt", "settings": {"audience": "team"}});
    assert_eq!(create(team).await.error()["settings_error"][".tag"], "not_authorized");
    bench.end();
}

#[tokio::test]
async fn a_list_names_the_links_of_the_folders_around_first_and_pages_only_without_a_path() {
    let bench = Bench::start().await;
    bench.file("/F/G/a.txt", b"a").await;
    let file = link(&bench, "/F/G/a.txt", json!({})).await["url"].clone();
    let folder = link(&bench, "/F", json!({})).await["url"].clone();
    let list = async |arg: Value| bench.rpc("sharing/list_shared_links", arg).await.good();
    let urls = |answer: &Value| {
        let links = answer["links"].as_array().expect("links");
        links.iter().map(|link| link["url"].clone()).collect::<Vec<Value>>()
    };
    let all = list(json!({"path": "/F/G/a.txt"})).await;
    assert_eq!((urls(&all), all.get("cursor")), (vec![folder.clone(), file.clone()], None));
    let direct = list(json!({"path": "/F/G/a.txt", "direct_only": true})).await;
    assert_eq!(urls(&direct), std::slice::from_ref(&file));
    bench.control().switch(|switches| switches.list_page = 1);
    let first = list(json!({})).await;
    assert_eq!((urls(&first), &first["has_more"]), (vec![file.clone()], &json!(true)));
    let second = list(json!({"cursor": first["cursor"]})).await;
    assert_eq!((urls(&second), &second["has_more"]), (vec![folder], &json!(false)));
    let reset = bench.rpc("sharing/list_shared_links", json!({"cursor": "nonsense"})).await.error();
    assert_eq!(reset, json!({".tag": "reset"}));
    bench.end();
}

#[tokio::test]
async fn a_link_follows_its_item_and_ends_with_it() {
    let bench = Bench::start().await;
    bench.file("/F/a.txt", b"a").await;
    let made = link(&bench, "/F", json!({})).await;
    bench.rpc("files/move_v2", json!({"from_path": "/F", "to_path": "/G"})).await.good();
    let inner = json!({"url": made["url"], "path": "/a.txt"});
    let seen = bench.rpc("sharing/get_shared_link_metadata", inner).await.good();
    assert_eq!((&seen["name"], &seen["path_lower"]), (&json!("a.txt"), &json!("/g/a.txt")));
    let by_its_own_url = as_app(&bench, "sharing/get_shared_link_file", json!({"url": seen["url"]})).await;
    assert_eq!(by_its_own_url.text(), "a");
    let listed = json!({"path": "", "shared_link": {"url": made["url"]}});
    let listed = bench.rpc("files/list_folder", listed).await.good();
    assert_eq!(listed["entries"][0]["name"], "a.txt");
    let folder = bench.download("sharing/get_shared_link_file", json!({"url": made["url"]})).await;
    assert_eq!(folder.error(), json!({".tag": "shared_link_is_directory"}));
    bench.rpc("files/delete_v2", json!({"path": "/G"})).await.good();
    let gone = bench.rpc("sharing/get_shared_link_metadata", json!({"url": made["url"]})).await;
    assert_eq!(gone.error(), json!({".tag": "shared_link_not_found"}));
    bench.end();
}

#[tokio::test]
async fn only_the_owner_revokes() {
    let bench = Bench::start().await;
    bench.file("/a.txt", b"a").await;
    let url = link(&bench, "/a.txt", json!({})).await["url"].clone();
    let other = bench.control().add_account("bob@example.com", "Bob", "Example", None);
    let other = bench.control().issue(Some(&other), None).expect("an account");
    let request = bench.http.post(bench.url("sharing/revoke_shared_link")).bearer_auth(&other.access_token);
    let request = request.header("Content-Type", "application/json").body(json!({ "url": url }).to_string());
    assert_eq!(bench.send(request).await.error(), json!({".tag": "shared_link_access_denied"}));
    let revoke = || bench.rpc("sharing/revoke_shared_link", json!({ "url": url }));
    assert_eq!(revoke().await.good(), Value::Null);
    assert_eq!(revoke().await.error(), json!({".tag": "shared_link_not_found"}));
    bench.end();
}

#[tokio::test]
async fn a_shared_folder_is_a_namespace_and_its_files_stay_the_same_files() {
    let bench = Bench::start().await;
    let file = bench.file("/F/Sub/a.txt", b"a").await;
    bench.file("/b.txt", b"b").await;
    let share = |arg: Value| bench.rpc("sharing/share_folder", arg);
    let shared = share(json!({"path": "/F", "member_policy": "anyone", "acl_update_policy": "editors"})).await.good();
    assert_eq!((&shared[".tag"], &shared["path_lower"]), (&json!("complete"), &json!("/f")));
    assert_eq!(shared["policy"]["acl_update_policy"][".tag"], "editors");
    let id = shared["shared_folder_id"].clone();
    let again = share(json!({"path": "/F"})).await.error();
    assert_eq!((&again["bad_path"][".tag"], &again["bad_path"]["shared_folder_id"]), (&json!("already_shared"), &id));
    assert_eq!(share(json!({"path": "/F/Sub"})).await.error()["bad_path"][".tag"], "inside_shared_folder");
    assert_eq!(share(json!({"path": "/b.txt"})).await.error()["bad_path"][".tag"], "is_file");
    let inside = async |path: String| bench.rpc("files/get_metadata", json!({ "path": path })).await.good();
    let there = inside("/F/sub/A.txt".to_owned()).await;
    assert_eq!((&there["id"], &there["sharing_info"]["parent_shared_folder_id"]), (&file["id"], &id));
    assert_eq!(inside(format!("ns:{}/Sub/a.txt", id.as_str().expect("text"))).await["id"], file["id"]);
    let second = share(json!({"path": "/New", "force_async": true})).await.good();
    let poll = json!({"async_job_id": second["async_job_id"]});
    let second = bench.rpc("sharing/check_share_job_status", poll).await.good();
    assert_eq!((&second[".tag"], &second["name"]), (&json!("complete"), &json!("New")));
    let first_page = bench.rpc("sharing/list_folders", json!({"limit": 1})).await.good();
    let next = json!({"cursor": first_page["cursor"]});
    let second_page = bench.rpc("sharing/list_folders/continue", next).await.good();
    assert_eq!((&first_page["entries"][0]["name"], &second_page["entries"][0]["name"]), (&json!("F"), &json!("New")));
    assert_eq!(second_page.get("cursor"), None, "its absence is the end");
    let by_id = json!({ "shared_folder_id": id });
    assert_eq!(bench.rpc("sharing/get_folder_metadata", by_id.clone()).await.good()["name"], "F");
    let unshared = bench.rpc("sharing/unshare_folder", by_id.clone()).await.good();
    assert_eq!(unshared, json!({".tag": "complete"}));
    assert_eq!(bench.rpc("sharing/get_folder_metadata", by_id).await.error(), json!({".tag": "invalid_id"}));
    let back = inside("/F/Sub/a.txt".to_owned()).await;
    assert_eq!((&back["id"], back.get("sharing_info")), (&file["id"], None));
    bench.end();
}
