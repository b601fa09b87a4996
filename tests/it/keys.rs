//! Where sealing keys come from, how they are changed beside running servers, and how parameters move between stores.

use std::{fs, path::Path, process::Command};

use dropbox_connector::{api::v1 as pb, app, config::Config, emulator::Emulator, seal::KeyRing};
use tonic::Code;

use crate::support::{
    House, PARAMETER, PATIENCE,
    process::{BINARY, Served, succeed, text},
    proxies::{Running, proxy},
    reason, start, start_bare, start_with, until,
};

const PASSPHRASE: &str = "hush correct horse battery";

async fn list(house: &House, id: &str) -> Result<(), tonic::Status> {
    let request = pb::ListFolderRequest { application_parameter_id: id.into(), ..Default::default() };
    house.client().list_folder(request).await.map(drop)
}

/// What the side port answers.
fn fetch(house: &House, path: &str) -> String {
    super::server::fetch(house.addresses.http, path)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_takes_its_keys_from_a_command_and_runs_it_again_on_sighup() {
    let emulator = Emulator::start(Default::default()).await.expect("emulator");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ring");
    let (first, second) = (KeyRing::new_line("first"), KeyRing::new_line("second"));
    fs::write(&file, &*first).expect("written");
    let command = format!("--sealing-key-command=cat '{}'", file.display());
    let mut served = tokio::task::block_in_place(|| Served::before(&emulator, &[&command]));
    let admin = tokio::task::block_in_place(|| served.told("admin"));
    let mut boss = pb::dropbox_admin_connector_client::DropboxAdminConnectorClient::connect(format!("http://{admin}"))
        .await
        .expect("connect");
    crate::support::make_parameter(&mut boss, &emulator.account(), PARAMETER, |_| {}).await;
    fs::write(&file, format!("{}\n{}\n", &*second, &*first)).expect("written");
    served.hang_up();
    until("the keys are others", || async { served.text().contains("the sealing keys changed") }).await;

    // Whoever has the keys may look and rotate, beside the server.
    let own = |words: &[&str]| {
        let mut run = Command::new(BINARY);
        run.args(words).arg(&command);
        run.arg(format!("--store-url=sqlite://{}", served.folder().join("store.db").display()));
        run
    };
    until("it has told that it can open the new key", || async {
        succeed(&mut own(&["keys", "status"])).contains("opens second, first")
    })
    .await;
    let told = succeed(&mut own(&["parameters", "rotate"]));
    assert!(told.contains("3 secrets sealed anew"), "{told}");
    let told = succeed(&mut own(&["keys", "status"]));
    assert!(told.contains("key second: 3 secrets") && !told.contains("LACKS"), "{told}");

    fs::write(&file, "hush-broken").expect("written");
    served.hang_up();
    until("it says so", || async { served.text().contains("cannot be read again") }).await;
    let get = pb::TestApplicationParameterRequest { application_parameter_id: PARAMETER.into() };
    boss.test_application_parameter(get).await.expect("the keys in memory hold");
    let log = served.text();
    for secret in ["hush-broken", first.rsplit(':').next().expect("a key"), second.rsplit(':').next().expect("a key")] {
        assert!(!log.contains(secret), "{secret} in the log");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_may_stand_in_the_environment_and_a_source_that_fails_is_named_at_start() {
    let emulator = Emulator::start(Default::default()).await.expect("emulator");
    let line = KeyRing::new_line("env");
    tokio::task::block_in_place(|| {
        let environment = [("MY_KEYS", line.as_str())];
        let mut served = Served::before_in(&emulator, &["--sealing-key-env=MY_KEYS"], &environment);
        served.told("admin");
        for (flag, told) in [
            ("--sealing-key-env=NO_SUCH_KEYS", "sealing_key_env: the variable NO_SUCH_KEYS is not set"),
            ("--sealing-key-command=/nowhere/keys", "sealing_key_command: cannot run /nowhere/keys"),
            ("--sealing-key-command=sh -c 'echo hush; exit 7'", "sealing_key_command: sh failed (exit status: 7)"),
            ("--sealing-key-command=echo hush", "sealing_key_command: line 1"),
        ] {
            let output = Command::new(BINARY).args(["config", "check", flag]).output().expect("it runs");
            let said = text(&output);
            assert_eq!(output.status.code(), Some(64), "{said}");
            assert!(said.contains(told) && !said.contains("hush"), "{said}");
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_key_is_not_the_stores_says_so_and_which_one_it_lacks() {
    let emulator = Emulator::start(Default::default()).await.expect("emulator");
    let folder = tempfile::tempdir().expect("a folder");
    let store = format!("--store-url=sqlite://{}", folder.path().join("store.db").display());
    let mut first = tokio::task::block_in_place(|| Served::before(&emulator, &[&store, "--drain-delay=0s"]));
    let admin = tokio::task::block_in_place(|| first.told("admin"));
    let mut boss = pb::dropbox_admin_connector_client::DropboxAdminConnectorClient::connect(format!("http://{admin}"))
        .await
        .expect("connect");
    crate::support::make_parameter(&mut boss, &emulator.account(), PARAMETER, |_| {}).await;
    let key = first.sealing_keys().split(':').next().expect("its id").to_owned();
    drop(boss);
    first.terminate();
    tokio::task::block_in_place(|| first.ended());

    let mut other = tokio::task::block_in_place(|| Served::before(&emulator, &[&store]));
    let (data, http) = tokio::task::block_in_place(|| (other.told("data"), other.told("http")));
    until("it says so", || async { other.text().contains("a sealing key is missing") }).await;
    let log = other.text();
    let line = log.lines().find(|line| line.contains("a sealing key is missing")).expect("the line");
    assert!(line.contains("WARN") && line.contains(&key) && line.contains("parameters=1"), "{line}");
    let http = http.parse().expect("an address");
    until("it is counted", || async { super::server::fetch(http, "/metrics").contains("keys_broken 1\n") }).await;
    let mut run = Command::new(BINARY);
    let output = run.args(["ls", "-p", PARAMETER, "--server", &format!("http://{data}")]).output().expect("it runs");
    let said = text(&output);
    assert!(said.contains(&format!("put the key {key} back")) && !said.contains("connect the"), "{said}");
    let mut run = Command::new(BINARY);
    run.args(["parameters", "rotate", &store])
        .arg(format!("--sealing-key-file={}", other.sealing_keys_file().display()));
    let output = run.output().expect("it runs");
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("3 cannot be opened because their key is gone") && said.contains(&key), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_resealed_while_a_live_server_lacks_the_key_and_it_is_named() {
    let house = start().await;
    let mine = house.config().clone();
    let other = house.folder.path().join("ahead.keys");
    let (old, new) = (fs::read_to_string(&mine.sealing_key_file).expect("keys"), KeyRing::new_line("new"));
    fs::write(&other, format!("{}\n{old}", &*new)).expect("written");
    let ahead = Config { sealing_key_file: other, ..mine.clone() };
    let fault = app::rotate(&ahead).await.expect_err("the server lacks it");
    assert_eq!(fault.violations()[0].reason, "NOT_EVERYWHERE");
    let (told, _) = app::key_use(&ahead).await.expect("told");
    assert!(told.replicas.iter().all(|(_, keys)| !keys.contains(&"new".to_owned())), "{told:?}");
    assert!(told.replicas.iter().any(|(replica, _)| fault.message().contains(replica.as_str())), "{fault}");
    // For opening first, without a restart.
    fs::write(&mine.sealing_key_file, format!("{old}\n{}\n", &*new)).expect("written");
    house.reread();
    until("the server can open the new key", || async { app::rotate(&ahead).await.is_ok() }).await;
    let (told, _) = app::key_use(&ahead).await.expect("told");
    assert_eq!(told.sealed.keys().collect::<Vec<_>>(), ["new"], "{told:?}");
    house.control().expire_access_tokens();
    list(&house, PARAMETER).await.expect("it opens what the other sealed");
}

fn bundle(verb: &str, flag: &str, file: &Path, config: &Config, more: &[&str]) -> Command {
    let mut run = Command::new(BINARY);
    run.args(["parameters", verb, flag]).arg(file).args(more).env("DROPBOX_CONNECTOR_PASSPHRASE", PASSPHRASE);
    run.arg(format!("--store-url={}", config.store_url));
    run.arg(format!("--sealing-key-file={}", config.sealing_key_file.display()));
    run.stdin(std::process::Stdio::null());
    run
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_moves_parameters_with_all_their_secrets_to_another_store_under_another_key() {
    Box::pin(an_export_moves_parameters_with_all_their_secrets(None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_moves_parameters_with_all_their_secrets_from_sqlite_to_postgresql_and_back() {
    let url = crate::support::postgres::Server::shared().database().await;
    Box::pin(an_export_moves_parameters_with_all_their_secrets(Some(url))).await;
}

/// To an SQLite store, or to this one.
async fn an_export_moves_parameters_with_all_their_secrets(into: Option<String>) {
    let server = into.is_some();
    let (from, http) = (start().await, Running::tinyproxy(Some(("me", "hushpassword"))));
    from.make_parameter("proxied", |parameter| {
        parameter.proxy = Some(proxy(pb::ProxyKind::Http, http.port, "me", "hushpassword"));
    })
    .await;
    let file = from.folder.path().join("all.sealed");
    let run = |mut command: Command| {
        let output = tokio::task::block_in_place(|| command.output()).expect("it runs");
        let said = text(&output);
        assert!(!said.contains("hush"), "{said}");
        (output.status.code(), said)
    };
    let short = run({
        let mut command = bundle("export", "--to", &file, from.config(), &[]);
        command.env("DROPBOX_CONNECTOR_PASSPHRASE", "short");
        command
    });
    assert!(short.0 == Some(2) && short.1.contains("passphrase") && !file.exists(), "{short:?}");
    let told = run(bundle("export", "--to", &file, from.config(), &[]));
    assert!(told.0 == Some(0) && told.1.contains("2 application parameters"), "{told:?}");
    let again = run(bundle("export", "--to", &file, from.config(), &[]));
    assert!(again.0 == Some(4) && again.1.contains("is there already"), "{again:?}");
    let sealed = fs::read_to_string(&file).expect("the export");
    let login = from.emulator.account();
    for secret in [login.app_secret.as_str(), &login.refresh_token, "hushpassword", PASSPHRASE, "proxied"] {
        assert!(!sealed.contains(secret), "{secret} in the export");
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
    }

    // A house of its own with its own keys, whose Dropbox is the first one's.
    let at = from.emulator.addresses().clone();
    let to = start_bare(Default::default(), |config| {
        config.dropbox_api_url = at.api.parse().expect("a url");
        config.dropbox_content_url = at.content.parse().expect("a url");
        config.store_url = into.unwrap_or_else(|| config.store_url.clone());
    })
    .await;
    let wrong = run({
        let mut command = bundle("import", "--from", &file, to.config(), &[]);
        command.env("DROPBOX_CONNECTOR_PASSPHRASE", "hush another passphrase");
        command
    });
    assert!(wrong.0 == Some(2) && wrong.1.contains("the passphrase is another one"), "{wrong:?}");
    let told = run(bundle("import", "--from", &file, to.config(), &[]));
    assert!(told.0 == Some(0) && told.1.contains("2 created"), "{told:?}");
    until("the running server sees them", || async { list(&to, "proxied").await.is_ok() }).await;
    list(&to, PARAMETER).await.expect("it works there");
    assert!(http.log().matches("/2/files/list_folder").count() >= 1, "its proxy and password came along");

    let there = run(bundle("import", "--from", &file, to.config(), &[]));
    assert!(there.0 == Some(4) && there.1.contains("--skip") && there.1.contains("proxied"), "{there:?}");
    let kept = run(bundle("import", "--from", &file, to.config(), &["--skip"]));
    assert!(kept.1.contains("0 created, 0 replaced, 2 left as they are"), "{kept:?}");
    let replaced = run(bundle("import", "--from", &file, to.config(), &["--replace"]));
    assert!(replaced.1.contains("0 created, 2 replaced"), "{replaced:?}");
    fs::write(&file, &sealed[..sealed.len() / 2]).expect("written");
    let half = run(bundle("import", "--from", &file, to.config(), &["--replace"]));
    assert!(half.0 == Some(2) && half.1.contains("not an export"), "{half:?}");
    list(&to, "proxied").await.expect("a file that was cut changed nothing");

    if server {
        let (back, mut config) = (from.folder.path().join("back.sealed"), from.config().clone());
        let told = run(bundle("export", "--to", &back, to.config(), &[]));
        assert!(told.0 == Some(0) && told.1.contains("2 application parameters"), "{told:?}");
        config.store_url = format!("sqlite://{}", from.folder.path().join("back.db").display());
        let told = run(bundle("import", "--from", &back, &config, &[]));
        assert!(told.0 == Some(0) && told.1.contains("2 created"), "{told:?}");
    }

    // By a file instead of the environment, and never by the command line.
    let secret = from.folder.path().join("passphrase");
    fs::write(&secret, format!("{PASSPHRASE}\n")).expect("written");
    let other = from.folder.path().join("one.sealed");
    let by_file = run({
        let flag = format!("--passphrase-file={}", secret.display());
        let mut command = bundle("export", "--to", &other, from.config(), &[&flag, PARAMETER]);
        command.env_remove("DROPBOX_CONNECTOR_PASSPHRASE");
        command
    });
    assert!(by_file.1.contains("1 application parameters"), "{by_file:?}");
    let nobody = run({
        let mut command = bundle("import", "--from", &other, to.config(), &["--replace"]);
        command.env_remove("DROPBOX_CONNECTOR_PASSPHRASE");
        command
    });
    assert!(nobody.0 == Some(2) && nobody.1.contains("--passphrase-file"), "nobody to ask: {nobody:?}");
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_mounted_file_is_followed_by_a_running_server_and_a_broken_one_keeps_the_old() {
    let folder = tempfile::tempdir().expect("a folder");
    let emulator = Emulator::start(Default::default()).await.expect("emulator");
    let login = emulator.account();
    let at = |name: &str| folder.path().join(name);
    // As Kubernetes does it: a folder for each version, and a link that is moved.
    let mount = |version: &str, text: &str| {
        fs::create_dir(at(version)).expect("a folder");
        fs::write(at(version).join("parameters.toml"), text).expect("written");
        std::os::unix::fs::symlink(version, at("..new")).expect("a link");
        fs::rename(at("..new"), at("..data")).expect("moved");
    };
    let entry = |id: &str| {
        format!(
            "[[application_parameters]]\nid = \"{id}\"\napp_key = \"{}\"\napp_secret = \"{}\"\nrefresh_token = \"{}\"\n",
            login.app_key, login.app_secret, login.refresh_token
        )
    };
    mount("..1", &entry("one"));
    std::os::unix::fs::symlink("..data/parameters.toml", at("parameters.toml")).expect("a link");
    let urls = emulator.addresses().clone();
    let house = start_with_file(&at("parameters.toml"), &urls).await;
    list(&house, "one").await.expect("works");
    assert_eq!(list(&house, "two").await.expect_err("not there").code(), Code::NotFound);

    let renewals = emulator.control().counter("oauth2/token").calls;
    mount("..2", &format!("{}{}", entry("one"), entry("two")));
    until("the second one is there", || async { list(&house, "two").await.is_ok() }).await;
    list(&house, "one").await.expect("and so is the first");
    assert_eq!(emulator.control().counter("oauth2/token").calls, renewals + 1, "what stayed the same keeps its token");
    mount("..3", "[[application_parameters]]\nid = \"one\"\nrefresh_token = \"hush");
    until("it is told", || async { fetch(&house, "/metrics").contains("parameters_file_broken 1\n") }).await;
    until("so does readiness", || async { fetch(&house, "/ready").contains("parameters file is broken") }).await;
    let ready = fetch(&house, "/ready");
    assert!(ready.contains("200 OK"), "{ready}");
    assert!(!ready.contains("hush"));
    list(&house, "one").await.expect("the last good one stays");
    mount("..4", &entry("two"));
    until("the first one is gone", || async { list(&house, "one").await.is_err() }).await;
    list(&house, "two").await.expect("the second one is not");
    until("it is told", || async { fetch(&house, "/metrics").contains("parameters_file_broken 0\n") }).await;
    assert_eq!(reason(&list(&house, "one").await.expect_err("gone")), "APPLICATION_PARAMETER_NOT_FOUND");
}

async fn start_with_file(file: &Path, urls: &dropbox_connector::emulator::Addresses) -> House {
    start_bare(Default::default(), |config| {
        config.parameters_file = file.to_owned();
        config.dropbox_api_url = urls.api.parse().expect("a url");
        config.dropbox_content_url = urls.content.parse().expect("a url");
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_file_that_breaks_is_told_and_the_keys_in_memory_hold() {
    let house = start_with(|_| {}).await;
    let file = house.config().sealing_key_file.clone();
    let good = fs::read_to_string(&file).expect("keys");
    fs::write(&file, "k1:hush").expect("written");
    house.reread();
    until("it is told", || async { house.app().ready().facts().notes().len() == 1 }).await;
    // The metrics are the process's, and other tests have servers in it.
    until("the metric says so", || async {
        house.reread();
        fetch(&house, "/metrics").contains("keys_broken 1\n")
    })
    .await;
    let ready = fetch(&house, "/ready");
    assert!(ready.contains("200 OK") && ready.contains("those in memory hold") && !ready.contains("hush"), "{ready}");
    house.control().expire_access_tokens();
    list(&house, PARAMETER).await.expect("secrets still open and are sealed");
    fs::write(&file, good).expect("mended");
    house.reread();
    until("it is over", || async { house.app().ready().facts().notes().is_empty() }).await;
    tokio::time::timeout(PATIENCE, list(&house, PARAMETER)).await.expect("an answer").expect("works");
}
