//! The audit log of the connect page and the callbacks: a line for everything that was done or refused there, with who, what,
//! which parameter and the result, and nothing of what was sent.

use dropbox_connector::emulator::Emulator;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::support::process::{BINARY, Served, succeed};

const TOKEN: &str = "hush-token-of-the-boss";
const PUBLIC: &str = "https://connect.example.com/oauth/callback";

/// A connector of its own in front of `emulator`, with the parameter `p`, the page and the public port.
fn served(emulator: &Emulator) -> Served {
    let tokens = [("boss", TOKEN), ("billing", "hush-token-of-billing")]
        .map(|(name, token)| format!("{name}:{}", hex::encode(Sha256::digest(token))));
    let flags = [
        "--connect-page",
        "--auth-mode=token",
        "--admin-principals=boss",
        &format!("--auth-tokens={}", tokens.join(",")),
        "--public-http-listen=127.0.0.1:0",
        &format!("--oauth-redirect-uris={PUBLIC}"),
        "--log-format=json",
        "--log-level=error",
    ];
    let mut served = Served::before(emulator, &flags);
    let login = emulator.account();
    let secret = served.folder().join("app.secret");
    std::fs::write(&secret, &login.app_secret).unwrap();
    let mut create = std::process::Command::new(BINARY);
    create.args(["parameters", "create", PARAMETER, "--app-key", &login.app_key, "--app-secret-file"]).arg(&secret);
    create.args(["--admin-server", &format!("http://{}", served.told("admin"))]);
    succeed(create.env("DROPBOX_CONNECTOR_TOKEN", TOKEN));
    served
}

fn cells(line: &Value) -> [&str; 6] {
    ["principal", "page", "parameter", "result", "reason", "cause"].map(|key| line[key].as_str().unwrap_or("-"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_and_refused_at_the_page_is_told_to_the_audit_log() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let emulator = Emulator::start(Default::default()).await.expect("emulator");
    emulator.control().set_consent(Consent::Approve);
    emulator.control().register_redirect(PUBLIC).expect("an address");
    let mut served = tokio::task::block_in_place(|| served(&emulator));
    let (http, public, admin) =
        tokio::task::block_in_place(|| (served.told("http"), served.told("public"), served.told("admin")));
    let before = tokio::task::block_in_place(|| served.audit_lines(1)).len();
    let base = format!("http://localhost:{}", http.rsplit(':').next().expect("a port"));
    let web = browser();
    let get = |path: &str| web.get(format!("{base}{path}"));
    let boss = |request: reqwest::RequestBuilder| request.basic_auth("", Some(TOKEN)).send();

    // Who may not, and who comes by a strange name.
    get("/connect").send().await.expect("answered");
    get("/connect/p/disconnect").basic_auth("", Some("hush-token-of-billing")).send().await.expect("answered");
    get("/connect").header("host", "evil.example").send().await.expect("answered");
    // The list, and a form from elsewhere.
    let said = boss(get("/connect")).await.expect("answered");
    let cookie = said.headers()["set-cookie"].to_str().expect("ascii").split(';').next().expect("a pair").to_owned();
    let page = said.text().await.expect("a page");
    let form_token =
        page.split("name=\"token\" value=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a form");
    let form = |path: &str, token: &str| {
        let request = web.post(format!("{base}/connect/{path}")).header("cookie", &cookie).form(&[("token", token)]);
        boss(request)
    };
    form("p/connect", "hush-forged").await.expect("answered");
    // Connected, tested, disconnected; then nothing is left to test, and nobody is called so.
    let begun = form("p/connect", form_token).await.expect("answered");
    let back = consent(begun.headers()["location"].to_str().expect("ascii")).await;
    for _ in 0..2 {
        web.get(&back).header("cookie", &cookie).send().await.expect("answered");
    }
    form("p/test", form_token).await.expect("answered");
    boss(get("/connect/p/disconnect").header("cookie", &cookie)).await.expect("answered");
    form("p/disconnect", form_token).await.expect("answered");
    form("p/test", form_token).await.expect("answered");
    form("hush-Unfit/test", form_token).await.expect("answered");
    // A refusal that comes back, and the public port: what a program began, and what nobody did.
    emulator.control().set_consent(Consent::Deny);
    let begun = form("p/connect", form_token).await.expect("answered");
    let refused = consent(begun.headers()["location"].to_str().expect("ascii")).await;
    web.get(&refused).header("cookie", &cookie).send().await.expect("answered");
    emulator.control().set_consent(Consent::Approve);
    let mut program =
        pb::dropbox_admin_connector_client::DropboxAdminConnectorClient::connect(format!("http://{admin}"))
            .await
            .expect("connect");
    let mut request = tonic::Request::new(wish(PARAMETER, PUBLIC));
    request.metadata_mut().insert("authorization", format!("Bearer {TOKEN}").parse().expect("ascii"));
    let begun = program.begin_authorization(request).await.expect("begun").into_inner();
    let public_back = consent(&begun.authorize_url).await;
    let path = public_back.strip_prefix("https://connect.example.com").expect("there");
    web.get(format!("http://{public}{path}")).send().await.expect("answered");
    web.get(format!("http://{public}/oauth/callback?code=hush-code&state=hush-state")).send().await.expect("answered");
    let mut test =
        tonic::Request::new(pb::TestApplicationParameterRequest { application_parameter_id: PARAMETER.into() });
    test.metadata_mut().insert("authorization", format!("Bearer {TOKEN}").parse().expect("ascii"));
    program.test_application_parameter(test).await.expect("it works");

    let wanted = [
        ["-", "list", "-", "refused", "CALLER_UNAUTHENTICATED", "nothing_sent"],
        ["-", "disconnect", "p", "refused", "CALLER_NOT_ALLOWED", "-"],
        ["-", "list", "-", "refused", "OTHER_HOST", "-"],
        ["boss", "list", "-", "done", "-", "-"],
        ["boss", "connect", "p", "refused", "CALLER_NOT_ALLOWED", "-"],
        ["boss", "connect", "p", "done", "-", "-"],
        ["boss", "callback", "p", "done", "-", "-"],
        ["-", "callback", "-", "refused", "AUTHORIZATION_STATE_EXPIRED", "-"],
        ["boss", "test", "p", "done", "-", "-"],
        ["boss", "ask_disconnect", "p", "done", "-", "-"],
        ["boss", "disconnect", "p", "done", "-", "-"],
        ["boss", "test", "p", "failed", "REAUTHORIZATION_REQUIRED", "disconnected"],
        ["boss", "test", "-", "failed", "INVALID_FIELD", "-"],
        ["boss", "connect", "p", "done", "-", "-"],
        ["boss", "callback", "p", "failed", "AUTHORIZATION_DENIED", "access_denied"],
    ];
    let lines = tokio::task::block_in_place(|| served.audit_lines(before + wanted.len() + 4));
    let lines = &lines[before..];
    for (line, wanted) in lines.iter().zip(wanted) {
        assert_eq!(cells(line), wanted, "{line}");
        assert!(line["remote"].as_str().is_some_and(|remote| remote.contains(':')), "{line}");
    }
    let rest: Vec<_> = lines[wanted.len()..].iter().map(cells).collect();
    assert_eq!(rest[1], ["boss", "callback", "p", "done", "-", "-"]);
    assert_eq!(rest[2], ["-", "callback", "-", "refused", "AUTHORIZATION_STATE_EXPIRED", "-"]);
    for (at, rpc) in [(0, "BeginAuthorization"), (3, "TestApplicationParameter")] {
        let line = &lines[wanted.len() + at];
        assert!(line["rpc"].as_str().is_some_and(|name| name.ends_with(rpc)), "{line}");
        assert_eq!((cells(line)[0], cells(line)[2], cells(line)[3]), ("boss", "p", "done"), "{line}");
    }
    let text = served.text();
    let queries = [&back, &refused, &public_back].map(|url| query(url));
    let told = queries.iter().flat_map(HashMap::values).filter(|value| value.len() > 20).map(String::as_str);
    let cookie = cookie.split_once('=').expect("a pair").1;
    let secrets: Vec<&str> = told.chain([cookie, form_token, "hush-"]).collect();
    assert!(secrets.len() > 6, "{secrets:?}");
    for secret in secrets {
        assert!(!text.contains(secret), "{secret} in:\n{text}");
    }
}
