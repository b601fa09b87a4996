//! Stock Python stubs against the built binary: nothing of ours but the proto lies between the caller and the wire.
//! The interpreter and its packages are those of `make setup`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use dropbox_connector::emulator::{Emulator, Options};

const BINARY: &str = env!("CARGO_BIN_EXE_dropbox-connector");
/// A debug binary on a busy machine still starts within this.
const START_MAX: Duration = Duration::from_secs(60);
const NO_PORTS: [&str; 8] = [
    "--data-listen=127.0.0.1:0",
    "--admin-listen=127.0.0.1:0",
    "--probe-listen=127.0.0.1:0",
    "--http-listen=127.0.0.1:0",
    "--drain-delay=0s",
    "--drain-grace=1s",
    "--log-level=warn",
    "--log-format=text",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A program that `make setup` put into `.tools/bin`.
fn tool(name: &str) -> PathBuf {
    let path = root().join(".tools/bin").join(name);
    assert!(path.exists(), "{} is missing: run make setup", path.display());
    path
}

/// Python with the stubs, generated once per run of the tests, and the example beside them on its path.
fn python() -> Command {
    static STUBS: OnceLock<PathBuf> = OnceLock::new();
    let stubs = STUBS.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python-stubs");
        fs::create_dir_all(&folder).unwrap();
        let protos = fs::read_dir(root().join("proto/dropboxconnector/v1")).unwrap().map(|entry| entry.unwrap().path());
        let status = Command::new(tool("python"))
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
    let mut command = Command::new(tool("python"));
    command.env("PYTHONPATH", std::env::join_paths([stubs.as_path(), &root().join("clients/python")]).unwrap());
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// A `serve --emulator` of its own process; killed when dropped.
struct Served {
    child: Child,
    folder: tempfile::TempDir,
}

impl Served {
    fn start() -> Served {
        let folder = tempfile::tempdir().unwrap();
        let out = fs::File::create(folder.path().join("out")).unwrap();
        let child = Command::new(BINARY)
            .args(["serve", "--emulator"])
            .args(NO_PORTS)
            .args(place(folder.path()))
            .current_dir(folder.path())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Served { child, folder }
    }

    fn text(&self) -> String {
        fs::read_to_string(self.folder.path().join("out")).unwrap()
    }

    /// What it prints at start as `name=value`.
    fn told(&mut self, name: &str) -> String {
        let deadline = Instant::now() + START_MAX;
        loop {
            let text = self.text();
            // Only whole lines: the value may still be on its way.
            let whole = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
            if let Some(value) = whole.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('=')) {
                return value.to_owned();
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "no {name}= was told ({ended:?}):\n{text}");
            std::thread::yield_now();
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Store and key file of a process.
fn place(folder: &Path) -> [String; 2] {
    [
        format!("--store-url=sqlite://{}", folder.join("store.db").display()),
        format!("--sealing-key-file={}", folder.join("sealing.keys").display()),
    ]
}

fn succeed(mut command: Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}:\n{text}", output.status);
    text
}

#[test]
fn stock_python_stubs_pass_the_conformance_checks_of_the_clients() {
    let mut served = Served::start();
    let mut command = python();
    command
        .arg(root().join("clients/python/conformance.py"))
        .env("CONNECTOR_ADDRESS", served.told("data"))
        .env("CONNECTOR_PARAMETER", served.told("parameter"));
    let text = succeed(command);
    let passed = text.lines().filter(|line| line.starts_with("ok python ")).count();
    assert!(passed >= 7, "only {passed} checks ran:\n{text}");
}

/// Runs `large.py` with a server of its own in front of an emulator that outlives it.
async fn large(arguments: &[&str]) -> String {
    let options = Options { contents_on_disk: true, ..Options::default() };
    let emulator = Emulator::start(options).await.unwrap();
    let (addresses, account) = (emulator.addresses().clone(), emulator.account());
    let folder = tempfile::tempdir().unwrap();
    let mut keys = Command::new(BINARY);
    keys.args(["keys", "generate"]).arg(folder.path().join("sealing.keys"));
    succeed(keys);
    let mut command = python();
    command
        .arg(root().join("tests/python/large.py"))
        .arg(BINARY)
        .args(arguments)
        .arg("--")
        .args(NO_PORTS)
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
    let text = tokio::task::spawn_blocking(move || succeed(command)).await.unwrap();
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
