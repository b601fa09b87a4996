//! `connect` and `parameters` as people type them.

use std::{
    fs,
    io::Write as _,
    process::{Command, Output, Stdio},
};

use dropbox_connector::emulator::script::{Action, Rule};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::support::{process::BINARY, until};

fn program(house: &House, words: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command
        .args(words)
        .env("DROPBOX_CONNECTOR_ADMIN_SERVER", format!("http://{}", house.addresses.admin))
        .env_remove("DISPLAY")
        .env_remove("WAYLAND_DISPLAY")
        .env_remove("BROWSER")
        .current_dir(house.folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn told(output: &Output) -> (String, String) {
    (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[track_caller]
fn ends(house: &House, code: i32, words: &[&str]) -> (String, String) {
    let output = program(house, words).stdin(Stdio::null()).output().expect("it starts");
    let (out, err) = told(&output);
    assert_eq!(output.status.code(), Some(code), "{words:?}:\n{out}{err}");
    (out, err)
}

/// A program called `xdg-open` that does what a browser would: opens the address and follows it.
fn fake_browser(house: &House) -> String {
    let folder = house.folder.path().join("bin");
    fs::create_dir_all(&folder).expect("made");
    let script = folder.join("xdg-open");
    let text = "#!/bin/sh\nexec \"$FOLLOW\" -c 'import sys, urllib.request, urllib.error\n\
                try: print(urllib.request.urlopen(sys.argv[1]).read().decode())\n\
                except urllib.error.HTTPError as error: print(error.read().decode())' \"$1\" >\"$SEEN\"\n";
    fs::write(&script, text).expect("written");
    #[cfg(unix)]
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("allowed");
    format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default())
}

fn with_browser(house: &House, words: &[&str]) -> Command {
    let mut command = program(house, words);
    command
        .env("PATH", fake_browser(house))
        .env("BROWSER", "fake")
        .env("FOLLOW", "python3")
        .env("SEEN", house.folder.path().join("seen"));
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_connected_by_the_browser_and_its_loopback_redirect() {
    let house = pending().await;
    let output = with_browser(&house, &["connect", PARAMETER]).output().expect("it starts");
    let (out, err) = told(&output);
    assert!(output.status.success(), "{out}{err}");
    assert!(out.starts_with("p is connected to ") && out.contains("files.content.write"), "{out}");
    assert!(err.contains("register exactly this one") && err.contains("http://localhost:"), "{err}");
    let seen = fs::read_to_string(house.folder.path().join("seen")).expect("the page");
    assert!(seen.contains("Account connected"), "{seen}");
    list(&house).await.expect("works");
    // A code is worth nothing any more, but it is nobody's business either.
    assert!(!out.contains("code=") && !err.contains("code="), "{out}{err}");

    // Denied: said in the browser and by the program.
    house.control().set_consent(Consent::Deny);
    let output = with_browser(&house, &["connect", PARAMETER]).output().expect("it starts");
    let (out, err) = told(&output);
    assert!(!output.status.success() && err.contains("[AUTHORIZATION_DENIED]") && err.contains("→"), "{out}{err}");
    let seen = fs::read_to_string(house.folder.path().join("seen")).expect("the page");
    assert!(seen.contains("The account was not connected"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registered_loopback_address_is_used_where_there_is_one() {
    let house = pending().await;
    let port = crate::support::postgres::free_port();
    let uri = format!("http://localhost:{port}");
    let output =
        with_browser(&house, &["connect", PARAMETER, "--redirect-uri", &uri, "--json"]).output().expect("starts");
    let (out, err) = told(&output);
    assert!(output.status.success(), "{out}{err}");
    let shown: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(shown["accountId"], house.emulator.account().account_id);
    assert_eq!(shown["missingScopes"], serde_json::json!([]));
    assert!(err.contains(&format!("{uri}\n")), "byte for byte as registered: {err}");
    let (_, err) = ends(&house, 2, &["connect", PARAMETER, "--redirect-uri", "https://example.com/x"]);
    assert!(err.contains("localhost"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_browser_the_code_is_pasted() {
    let house = pending().await;
    for flag in [&["connect", PARAMETER, "--no-browser"][..], &["connect", PARAMETER, "--force-reapprove"]] {
        let mut child = program(&house, flag).spawn().expect("it starts");
        let mut stderr = std::io::BufReader::new(child.stderr.take().expect("piped"));
        let url = tokio::task::block_in_place(|| {
            use std::io::BufRead as _;
            let mut line = String::new();
            while !line.trim().starts_with("http") {
                line.clear();
                assert!(stderr.read_line(&mut line).expect("text") > 0, "no address was printed");
            }
            line.trim().to_owned()
        });
        assert!(!url.contains("redirect_uri"), "{url}");
        let code = shown_code(&url).await;
        writeln!(child.stdin.take().expect("piped"), "{code}").expect("pasted");
        let output = tokio::task::block_in_place(|| child.wait_with_output()).expect("its end");
        assert!(output.status.success(), "{}", told(&output).0);
        list(&house).await.expect("works");
    }
    let (_, err) = ends(&house, 2, &["connect", PARAMETER, "--no-browser"]);
    assert!(err.contains("no code"), "{err}");
    let (_, err) = ends(&house, 3, &["connect", "nobody", "--no-browser"]);
    assert!(err.contains("parameters create nobody"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_are_made_shown_given_a_new_secret_and_disconnected_by_commands() {
    let house = start_bare(Default::default(), |_| {}).await;
    house.control().set_consent(Consent::Approve);
    fs::write(house.folder.path().join("secret"), "emulatorsecret0\n").expect("written");
    let create = ["parameters", "create", PARAMETER, "--app-key", "emulatorappkey0", "--app-secret-file", "secret"];
    let (out, _) =
        ends(&house, 0, &[&create[..], &["--redirect-uri", BACK, "--scope", "files.metadata.read"]].concat());
    assert!(out.contains("PENDING") && !out.contains("emulatorsecret0"), "{out}");
    assert!(ends(&house, 0, &["parameters", "list"]).0.contains("pending"));
    let mut scoped = wish(PARAMETER, BACK);
    scoped.force_reapprove = true;
    let begun = begin(&house, scoped).await;
    assert_eq!(query(&begun.authorize_url)["scope"], "files.metadata.read", "as the parameter says");
    connect(&house).await;
    assert!(ends(&house, 0, &["parameters", "list"]).0.contains("active"));
    ends(&house, 0, &["parameters", "test", PARAMETER]);
    house.control().set_app_secret("another");
    house.control().expire_access_tokens();
    let (_, err) = ends(&house, 1, &["parameters", "test", PARAMETER]);
    assert!(
        err.contains("invalid_client") && err.contains("parameters secret") && !err.contains("connect again"),
        "{err}"
    );
    fs::write(house.folder.path().join("secret"), "another").expect("written");
    ends(&house, 0, &["parameters", "secret", PARAMETER, "--app-secret-file", "secret"]);
    ends(&house, 0, &["parameters", "test", PARAMETER]);
    ends(&house, 0, &["parameters", "disconnect", PARAMETER]);
    let (_, err) = ends(&house, 1, &["parameters", "test", PARAMETER]);
    assert!(err.contains("was disconnected from its Dropbox account") && !err.contains(" yet"), "{err}");
    assert!(ends(&house, 0, &["parameters", "list"]).0.contains("pending"));
    let (_, err) = ends(&house, 0, &["parameters", "revoke", PARAMETER]);
    assert!(err.contains("no account was connected") && !err.contains("unlink"), "{err}");
    assert!(ends(&house, 1, &["parameters", "test", PARAMETER]).1.contains("was disconnected"));
    connect(&house).await;
    let no = Action::Answer {
        status: 400,
        content_type: "text/plain".into(),
        body: "no".into(),
        headers: Vec::new(),
        executed: false,
        unread: false,
    };
    house.control().script([Rule::always("auth/token/revoke", no)]).expect("a rule");
    let (_, err) = ends(&house, 0, &["parameters", "disconnect", PARAMETER]);
    assert!(err.contains("unlink"), "{err}");
    let (_, err) = ends(&house, 2, &["parameters", "create", "shared", "--shared-app"]);
    assert!(err.contains("app_key"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parameter_is_deleted_with_its_grant_only_if_told_to() {
    let house = pending().await;
    connect(&house).await;
    ends(&house, 0, &["parameters", "delete", PARAMETER]);
    assert_eq!(house.control().counter("auth/token/revoke").calls, 0);
    create(&house, PARAMETER, |_| {}).await;
    connect(&house).await;
    let (_, err) = ends(&house, 0, &["parameters", "delete", PARAMETER, "--revoke"]);
    assert!(!err.contains("did not confirm"), "{err}");
    assert_eq!(house.control().counter("auth/token/revoke").calls, 1);
    create(&house, PARAMETER, |_| {}).await;
    let (_, err) = ends(&house, 0, &["parameters", "delete", PARAMETER, "--revoke"]);
    assert!(err.contains("Dropbox did not confirm that the grant is gone"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_says_at_once_what_is_wrong_and_does_not_wait_for_better_times() {
    let house = crate::support::start().await;
    let closed = format!("127.0.0.1:{}", crate::support::postgres::free_port());
    ends(&house, 0, &["parameters", "network", PARAMETER, "--proxy", &format!("http://{closed}")]);
    let begun = std::time::Instant::now();
    let (_, err) = ends(&house, 6, &["parameters", "test", PARAMETER]);
    assert!(err.contains("PROXY_UNAVAILABLE") && err.contains("cannot be reached"), "{err}");
    // Repeated as other commands are it took more than a minute.
    assert!(begun.elapsed() < crate::support::PATIENCE, "{:?}", begun.elapsed());
}

/// Passes everything on to the admin port, but of what comes back nothing once Dropbox was asked to revoke a grant; until then
/// it breaks the connection, as often as that happens.
async fn without_the_answer(house: &House) -> String {
    let (target, control) = (house.addresses.admin, house.control());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let mut lost = 0;
        while let Ok((client, _)) = listener.accept().await {
            let server = tokio::net::TcpStream::connect(target).await.expect("the admin port");
            let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                (client.into_split(), server.into_split());
            let up = async move { tokio::io::copy(&mut from_client, &mut to_server).await.map(drop) };
            let down = async {
                let mut buffer = vec![0; 16 * 1024];
                while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
                    if control.counter("auth/token/revoke").calls > lost {
                        lost += 1;
                        return;
                    }
                    to_client.write_all(&buffer[..read]).await.expect("a client");
                }
            };
            tokio::select! { _ = up => {}, () = down => {} }
        }
    });
    format!("http://{address}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_whose_answer_is_lost_is_not_told_as_one_that_dropbox_did_not_confirm() {
    let house = pending().await;
    connect(&house).await;
    let mut command = program(&house, &["parameters", "disconnect", PARAMETER]);
    command.env("DROPBOX_CONNECTOR_ADMIN_SERVER", without_the_answer(&house).await);
    let output = tokio::task::spawn_blocking(move || command.output().expect("it starts")).await.expect("no panic");
    let (out, err) = told(&output);
    assert_eq!(output.status.code(), Some(6), "{out}{err}");
    assert!(!err.contains("did not confirm"), "{err}");
    assert_eq!(house.control().counter("auth/token/revoke").calls, 1);
    until("the grant is gone", async || ends(&house, 0, &["parameters", "list"]).0.contains("pending")).await;
}
