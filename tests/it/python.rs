//! Stock Python stubs against the built binary: nothing of ours but the proto lies between the caller and the wire.
//! The interpreter and its packages are those of `make setup`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use dropbox_connector::emulator::{Emulator, Options};

use crate::support::process::{BINARY, FREE_PORTS, Served, place, root, succeed, tool};

/// Python with the stubs, generated once per run of the tests, and the example beside them on its path.
fn python() -> Command {
    static STUBS: OnceLock<PathBuf> = OnceLock::new();
    let stubs = STUBS.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python-stubs");
        fs::create_dir_all(&folder).unwrap();
        let protos = fs::read_dir(root().join("proto/dropboxconnector/v1")).unwrap().map(|entry| entry.unwrap().path());
        let status = tool("python")
            .args(["-m", "grpc_tools.protoc"])
            .arg(format!("-I{}", root().join("proto").display()))
            .arg(format!("--python_out={}", folder.display()))
            .arg(format!("--grpc_python_out={}", folder.display()))
            .args(protos)
            .status()
            .unwrap();
        assert!(status.success(), "protoc: {status}");
        folder
    });
    let mut command = tool("python");
    command.env("PYTHONPATH", std::env::join_paths([stubs.as_path(), &root().join("clients/python")]).unwrap());
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

#[test]
fn stock_python_stubs_pass_the_conformance_checks_of_the_clients() {
    let mut served = Served::start();
    let mut command = python();
    command
        .arg(root().join("clients/python/conformance.py"))
        .env("CONNECTOR_ADDRESS", served.told("data"))
        .env("CONNECTOR_PARAMETER", served.told("parameter"));
    let text = succeed(&mut command);
    let passed = text.lines().filter(|line| line.starts_with("ok python ")).count();
    assert!(passed >= 7, "only {passed} checks ran:\n{text}");
}

/// Runs `large.py` with a server of its own in front of an emulator that outlives it.
async fn large(arguments: &[&str]) -> String {
    let options = Options { contents_on_disk: true, ..Options::default() };
    let emulator = Emulator::start(options).await.unwrap();
    let (addresses, account) = (emulator.addresses().clone(), emulator.account());
    let folder = tempfile::tempdir().unwrap();
    let mut command = python();
    command
        .arg(root().join("tests/python/large.py"))
        .arg(BINARY)
        .args(arguments)
        .arg("--")
        .args(FREE_PORTS)
        .args(place(folder.path()))
        .arg(format!("--dropbox-api-url={}", addresses.api))
        .arg(format!("--dropbox-content-url={}", addresses.content))
        .arg(format!("--dropbox-notify-url={}", addresses.notify))
        .arg(format!("--dropbox-oauth-url={}", addresses.www))
        .arg("--allow-insecure-upstream")
        .current_dir(folder.path())
        .env("APP_KEY", account.app_key)
        .env("APP_SECRET", account.app_secret)
        .env("REFRESH_TOKEN", account.refresh_token);
    // The emulator answers on this runtime meanwhile.
    let text = tokio::task::spawn_blocking(move || succeed(&mut command)).await.unwrap();
    emulator.stop().await.unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn one_gib_goes_up_and_down_through_stock_python_stubs_in_little_memory() {
    large(&["--mib", "1024", "--growth-max-mib", "64"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_gib_survives_a_server_that_is_killed_half_way() {
    let text = large(&["--mib", "1024", "--kill"]).await;
    assert!(text.contains("killed half way"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make test-long"]
async fn two_gib_go_up_and_down_and_survive_a_killed_server() {
    large(&["--mib", "2048", "--growth-max-mib", "64"]).await;
    large(&["--mib", "2048", "--kill"]).await;
}
