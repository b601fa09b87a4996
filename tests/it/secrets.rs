//! The built binary made to handle every kind of secret, well and badly; then its whole output, answers, metrics and files
//! are searched for them.

use std::{fs, process::Command};

use dropbox_connector::{
    api::v1::{
        self as pb, dropbox_admin_connector_client::DropboxAdminConnectorClient,
        dropbox_connector_client::DropboxConnectorClient, import_credentials_request::Credential,
    },
    emulator::{
        Emulator,
        oauth::Consent,
        script::{Action, Rule},
    },
};
use tonic::Request;

use crate::support::{
    self,
    process::{BINARY, Served, succeed, text},
    proxies::{Running, proxy},
    spec,
};

/// All that was told, in any form.
#[derive(Default)]
struct Told(String);

impl Told {
    fn hear(&mut self, what: impl std::fmt::Debug) {
        self.0.push_str(&format!("{what:?}\n"));
    }

    fn refused(&mut self, status: &tonic::Status) {
        self.hear(status);
        self.hear(tonic_types::StatusExt::get_error_details(status));
        self.0.push_str(&String::from_utf8_lossy(status.details()));
    }
}

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(std::time::Duration::from_secs(20));
    request
}

/// Gives the codes and states that went through.
async fn connected(
    boss: &mut DropboxAdminConnectorClient<tonic::transport::Channel>,
    http: &str,
    told: &mut Told,
) -> (Vec<String>, Vec<String>) {
    use pb::complete_authorization_request::Answer;
    let browser = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().expect("a client");
    let (mut codes, mut states) = (vec!["hush-pasted-code".to_owned()], Vec::new());
    let mut learn = |url: &url::Url| {
        for (name, value) in url.query_pairs() {
            match &*name {
                "code" => codes.push(value.into_owned()),
                "state" => states.push(value.into_owned()),
                _ => {}
            }
        }
    };
    let location = |said: &reqwest::Response| {
        let url = said.headers()["location"].to_str().expect("ascii");
        url::Url::parse(url).expect("an address")
    };
    let wish = |redirect_uri: &str| pb::BeginAuthorizationRequest {
        application_parameter_id: "p".into(),
        redirect_uri: redirect_uri.into(),
        ..Default::default()
    };
    let begun = boss.begin_authorization(wish("http://localhost:9/back")).await.expect("begun").into_inner();
    let back = location(&browser.get(&begun.authorize_url).send().await.expect("the page"));
    learn(&back);
    let request =
        pb::CompleteAuthorizationRequest { state: begun.state.clone(), answer: Some(Answer::RedirectUrl(back.into())) };
    told.hear(boss.complete_authorization(request.clone()).await.expect("connected"));
    told.refused(&boss.complete_authorization(request).await.expect_err("twice"));
    let begun = boss.begin_authorization(wish("")).await.expect("begun").into_inner();
    let request =
        pb::CompleteAuthorizationRequest { state: begun.state, answer: Some(Answer::Code("hush-pasted-code".into())) };
    told.refused(&boss.complete_authorization(request).await.expect_err("no code of Dropbox's"));

    let base = format!("http://localhost:{}", http.rsplit(':').next().expect("a port"));
    let said = browser.get(format!("{base}/connect")).send().await.expect("the list");
    let cookie = said.headers()["set-cookie"].to_str().expect("ascii").split(';').next().expect("a pair").to_owned();
    let page = said.text().await.expect("a page");
    let token = page.split("name=\"token\" value=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a form");
    let form = |path: &str| {
        browser.post(format!("{base}/connect/p/{path}")).header("cookie", &cookie).form(&[("token", token)]).send()
    };
    let begun = location(&form("connect").await.expect("answered"));
    let back = location(&browser.get(begun).send().await.expect("the consent page"));
    learn(&back);
    for _ in 0..2 {
        let said = browser.get(back.clone()).header("cookie", &cookie).send().await.expect("answered");
        told.0.push_str(&said.text().await.expect("a page"));
    }
    told.0.push_str(&form("test").await.expect("answered").text().await.expect("a page"));
    told.0.push_str(&form("disconnect").await.expect("answered").text().await.expect("a page"));
    told.0.push_str(&page);
    assert!(told.0.contains("Account connected") && told.0.contains("Account disconnected"), "{}", told.0);
    assert_eq!((codes.len(), states.len()), (3, 2));
    (codes, states)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_leaves_the_process_and_none_lies_in_clear_in_its_files() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let emulator = Emulator::start(Default::default()).await.expect("emulator");
    emulator.control().set_consent(Consent::Approve);
    let flags =
        ["--connect-page", "--log-level=trace,h2=info,hyper=info,hyper_util=info,tower=info", "--log-format=json"];
    let mut served = tokio::task::block_in_place(|| Served::before(&emulator, &flags));
    let (data, admin, http) =
        tokio::task::block_in_place(|| (served.told("data"), served.told("admin"), served.told("http")));
    let mut client = DropboxConnectorClient::connect(format!("http://{data}")).await.expect("connect");
    let mut boss = DropboxAdminConnectorClient::connect(format!("http://{admin}")).await.expect("connect");
    let login = emulator.account();
    let mut told = Told::default();

    // Good credentials and bad ones.
    let parameter = pb::ApplicationParameter {
        app_key: login.app_key.clone(),
        app_secret: login.app_secret.clone(),
        ..Default::default()
    };
    let create = pb::CreateApplicationParameterRequest {
        application_parameter_id: "p".into(),
        application_parameter: Some(parameter.clone()),
    };
    told.hear(boss.create_application_parameter(create.clone()).await.expect("created"));
    told.refused(&boss.create_application_parameter(create).await.expect_err("twice"));
    let import = |credential| pb::ImportCredentialsRequest {
        application_parameter_id: "p".into(),
        credential: Some(credential),
    };
    let bad = [
        Credential::RefreshToken("hush-refresh-token".into()),
        Credential::AccessToken(pb::AccessToken { token: "hush-access-token".into(), expire_time: None }),
    ];
    for credential in bad {
        told.refused(&boss.import_credentials(import(credential)).await.expect_err("unknown"));
    }
    told.hear(
        boss.import_credentials(import(Credential::RefreshToken(login.refresh_token.clone()))).await.expect("good"),
    );
    let mut update = pb::UpdateApplicationParameterRequest {
        application_parameter: Some(pb::ApplicationParameter {
            application_parameter_id: "p".into(),
            ..parameter.clone()
        }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["app_secret".into()] }),
        ..Default::default()
    };
    told.hear(boss.update_application_parameter(update.clone()).await.expect("updated"));
    update.etag = "stale".into();
    told.refused(&boss.update_application_parameter(update).await.expect_err("stale"));
    let get = pb::GetApplicationParameterRequest { application_parameter_id: "p".into() };
    told.hear(boss.get_application_parameter(get).await.expect("told"));
    told.hear(boss.list_application_parameters(pb::ListApplicationParametersRequest::default()).await.expect("told"));
    let test = pb::TestApplicationParameterRequest { application_parameter_id: "p".into() };
    told.hear(boss.test_application_parameter(test).await.expect("works"));

    // Connected by OAuth: by a program, by the page, and with answers that are worth nothing.
    let (codes, states) = connected(&mut boss, &http, &mut told).await;
    told.hear(
        boss.import_credentials(import(Credential::RefreshToken(login.refresh_token.clone()))).await.expect("good"),
    );
    // A proxy that takes no connection, one that takes no such password, and none again.
    let mut tinyproxy = tokio::task::block_in_place(|| Running::tinyproxy(Some(("me", "right"))));
    let closed = crate::support::postgres::free_port();
    for port in [closed, tinyproxy.port] {
        let update = |proxy| pb::UpdateApplicationParameterRequest {
            application_parameter: Some(pb::ApplicationParameter {
                application_parameter_id: "p".into(),
                proxy,
                ..Default::default()
            }),
            update_mask: Some(prost_types::FieldMask { paths: vec!["proxy".into()] }),
            ..Default::default()
        };
        let through = proxy(pb::ProxyKind::Http, port, "me", "hush-proxy-password");
        told.hear(boss.update_application_parameter(update(Some(through))).await.expect("updated"));
        let mut test = timed(pb::TestApplicationParameterRequest { application_parameter_id: "p".into() });
        test.set_timeout(std::time::Duration::from_secs(3));
        told.refused(&boss.test_application_parameter(test).await.expect_err("no way through"));
        told.hear(boss.update_application_parameter(update(None)).await.expect("straight again"));
        let beyond = pb::Proxy { password: "hush-proxy-password".into(), ..Default::default() };
        told.refused(&boss.update_application_parameter(update(Some(beyond))).await.expect_err("makes no sense"));
    }
    tinyproxy.stop();
    told.0.push_str(&tinyproxy.log());
    // All secrets leave sealed to a passphrase; wrong ones and the right one are shown nowhere.
    let export = |file: &str, passphrase: &str| {
        let mut run = Command::new(BINARY);
        run.args(["parameters", "export", "--to"]).arg(served.folder().join(file));
        run.arg(format!("--store-url=sqlite://{}", served.folder().join("store.db").display()));
        run.arg(format!("--sealing-key-file={}", served.sealing_keys_file().display()));
        run.env("DROPBOX_CONNECTOR_PASSPHRASE", passphrase);
        text(&tokio::task::block_in_place(|| run.output()).expect("it runs"))
    };
    told.0.push_str(&export("a.sealed", "hush-short"));
    let exported = export("b.sealed", "hush-passphrase-of-an-export");
    assert!(exported.contains("1 application parameters"), "{exported}");
    told.0.push_str(&exported);

    // Calls that go well, need a renewal, and fail in every way.
    let mut frames = support::requests(support::frames(spec("/a.txt"), b"hush-content"));
    frames[0].application_parameter_id = "p".into();
    told.hear(client.upload_file(tokio_stream::iter(frames)).await.expect("upload").into_inner());
    emulator.control().expire_access_tokens();
    let item =
        || pb::GetItemRequest { application_parameter_id: "p".into(), path: "/a.txt".into(), ..Default::default() };
    told.hear(client.get_item(timed(item())).await.expect("renewed"));
    let mut bearing = timed(item());
    bearing.metadata_mut().insert("authorization", "Bearer hush-caller-token".parse().expect("ascii"));
    told.hear(client.get_item(bearing).await.expect("nobody asked for it"));
    let settings =
        pb::SharedLinkSettings { require_password: Some(true), password: "hush-password".into(), ..Default::default() };
    let link = pb::CreateSharedLinkRequest {
        application_parameter_id: "p".into(),
        path: "/a.txt".into(),
        settings: Some(settings),
        ..Default::default()
    };
    match client.create_shared_link(timed(link)).await {
        Ok(answer) => told.hear(answer.into_inner().created),
        Err(status) => told.refused(&status),
    }
    let text_answer = |status: u16, body: String| Action::Answer {
        status,
        content_type: "text/plain".into(),
        body,
        headers: Vec::new(),
        executed: false,
        unread: false,
    };
    let echo = format!("Error in call: your token {} and secret {}", login.refresh_token, login.app_secret);
    for action in [
        text_answer(400, echo.clone()),
        text_answer(500, echo.clone()),
        text_answer(418, echo.clone()),
        Action::InvalidToken,
        Action::CutBefore,
        Action::CutAfter,
    ] {
        emulator.control().clear_script();
        emulator.control().script([Rule::always("files/get_metadata", action)]).expect("a rule");
        let mut request = timed(item());
        request.set_timeout(std::time::Duration::from_secs(2));
        told.refused(&client.get_item(request).await.expect_err("it fails"));
    }
    // The token endpoint echoes what it was sent.
    emulator.control().clear_script();
    emulator.control().expire_access_tokens();
    for status in [400, 500] {
        emulator.control().clear_script();
        emulator.control().script([Rule::always("oauth2/token", text_answer(status, echo.clone()))]).expect("a rule");
        let mut request = timed(item());
        request.set_timeout(std::time::Duration::from_secs(2));
        told.refused(&client.get_item(request).await.expect_err("no token"));
    }
    emulator.control().clear_script();
    emulator.control().revoke(None);
    told.refused(&client.get_item(timed(item())).await.expect_err("revoked"));
    told.0.push_str(&super::server::fetch(http.parse().expect("an address"), "/metrics"));
    told.0.push_str(&super::server::fetch(http.parse().expect("an address"), "/ready"));
    let parameters = tokio::task::block_in_place(|| {
        Command::new(BINARY)
            .args(["config", "print"])
            .args(["--auth-mode=token", &format!("--auth-tokens=me:{}", "ab".repeat(32))])
            .output()
    });
    let printed = text(&parameters.expect("it runs"));
    assert!(!printed.contains(&"ab".repeat(32)), "{printed}");

    drop((client, boss));
    served.terminate();
    let ended = tokio::task::block_in_place(|| served.ended());
    assert!(ended.success(), "{ended}: {}", served.text());
    let log = served.text();
    assert!(log.contains("\"rpc\""), "the log was captured:\n{log}");
    let sealing = served.sealing_keys();
    let sealing = sealing.trim().rsplit(':').next().expect("a key").to_owned();
    let secrets = [
        login.app_secret.as_str(),
        &login.refresh_token,
        &login.access_token,
        "sl.u.",
        "hush-refresh",
        "hush-access",
        "hush-caller",
        "hush-password",
        "hush-content",
        "hush-proxy",
        "hush-short",
        "hush-passphrase",
        &sealing,
    ];
    // A state is told to who begins, and stands nowhere else.
    for state in &states {
        assert!(!log.contains(state), "a state in the log");
        for entry in fs::read_dir(served.folder()).expect("the folder") {
            let bytes = fs::read(entry.expect("an entry").path()).expect("a file");
            assert!(!bytes.windows(state.len()).any(|window| window == state.as_bytes()), "a state in a file");
        }
    }
    for secret in secrets.into_iter().chain(codes.iter().map(String::as_str)) {
        assert!(!secret.is_empty());
        for (place, text) in [("answers and metrics", &told.0), ("the log", &log)] {
            if let Some(at) = text.find(secret) {
                let from = text.floor_char_boundary(at.saturating_sub(300));
                panic!("{secret} in {place}: …{}…", &text[from..text.floor_char_boundary(at + 100)]);
            }
        }
        for entry in fs::read_dir(served.folder()).expect("the folder") {
            let path = entry.expect("an entry").path();
            let bytes = fs::read(&path).expect("a file");
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{secret} in {}", path.display());
        }
    }
}

#[test]
fn keys_are_rotated_beside_nobody_and_the_old_one_may_go() {
    let folder = tempfile::tempdir().expect("a folder");
    let (keys, store) =
        (folder.path().join("k.keys"), format!("--store-url=sqlite://{}", folder.path().join("s.db").display()));
    succeed(Command::new(BINARY).args(["keys", "generate"]).arg(&keys));
    let flag = format!("--sealing-key-file={}", keys.display());
    let missing = Command::new(BINARY).args(["parameters", "rotate", &flag, &store]).output().expect("it runs");
    assert!(!missing.status.success(), "a store that is not there has nothing to rotate");
    succeed(Command::new(BINARY).args(["migrate", &store]));
    let rotate = || {
        let mut command = Command::new(BINARY);
        command.args(["parameters", "rotate", &flag, &store]);
        command
    };
    let told = succeed(&mut rotate());
    assert!(told.contains("0 application parameters"), "{told}");
    fs::write(&keys, "garbage").expect("written");
    let output = rotate().output().expect("it runs");
    assert!(!output.status.success() && text(&output).contains("sealing_key_file"), "{}", text(&output));
}
