//! The official SDKs as clients of the emulator: what they accept and understand, it says as Dropbox does.
//! `make setup` (by `tests/sdk/setup.sh`) puts them under `.tools/`; without it these tests fail and say so.

use std::{path::Path, process::Stdio, time::Duration};

use dropbox_connector::emulator::{Emulator, Options};
use tokio::process::Command;

/// Long enough for a slow machine; a script takes a few seconds.
const PATIENCE: Duration = Duration::from_secs(240);

/// Runs a script against an emulator of its own and wants it to end well.
async fn drive(program: &str, script: &str, environment: &[(&str, &str)]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = if program.contains('/') { root.join(program) } else { program.into() };
    let emulator = Emulator::start(Options::default()).await.expect("an emulator on free ports");
    let at = emulator.addresses();
    let mut command = Command::new(program);
    command.arg(root.join(script)).args([&at.api, &at.content, &at.notify, &at.www, &at.control]);
    command.envs(environment.iter().map(|(name, value)| (*name, root.join(value))));
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await;
    let output = output.expect("the script ends in time").expect("the script's program starts");
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let journal = emulator.control().journal();
    let last: Vec<_> = journal.iter().rev().take(3).collect();
    assert!(output.status.success(), "{script}: {}\n{said}\n{complained}\nlast requests: {last:#?}", output.status);
    emulator.stop().await.expect("nothing is kept");
}

fn want(path: &str) {
    let there = Path::new(env!("CARGO_MANIFEST_DIR")).join(path).exists();
    assert!(there, "{path} is missing: run make setup");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_python_sdk_understands_the_emulator() {
    want(".tools/sdk-python/bin/python");
    drive(".tools/sdk-python/bin/python", "tests/sdk/python/sdk.py", &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_javascript_sdk_understands_the_emulator() {
    want(".tools/bin/node");
    want(".tools/sdk-javascript/node_modules/dropbox");
    let modules = [("NODE_PATH", ".tools/sdk-javascript/node_modules")];
    drive(".tools/bin/node", "tests/sdk/javascript/sdk.cjs", &modules).await;
}
