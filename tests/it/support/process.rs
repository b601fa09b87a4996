//! The built binary as a process of its own, and the stock programs that speak to it. `make setup` fetches those.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use dropbox_connector::emulator::Emulator;

use super::House;

pub const BINARY: &str = env!("CARGO_BIN_EXE_dropbox-connector");

/// A debug binary on a busy machine still starts, and ends, within this.
const PROCESS_MAX: Duration = Duration::from_secs(60);

/// Flags of `serve` for free ports and a short end.
pub const FREE_PORTS: [&str; 6] = [
    "--data-listen=127.0.0.1:0",
    "--admin-listen=127.0.0.1:0",
    "--probe-listen=127.0.0.1:0",
    "--http-listen=127.0.0.1:0",
    "--drain-delay=0s",
    "--drain-grace=1s",
];

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A program that `make setup` put into `.tools/bin`, started from the root of the repository.
pub fn tool(name: &str) -> Command {
    let path: PathBuf = root().join(".tools/bin").join(name);
    assert!(path.exists(), "{} is missing: run make setup", path.display());
    let mut command = Command::new(path);
    command.current_dir(root()).stdin(Stdio::null());
    command
}

pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs to the end, wants success, and answers all it printed.
#[track_caller]
pub fn succeed(command: &mut Command) -> String {
    let output = command.output().expect("the program starts");
    assert!(output.status.success(), "{command:?}: {}:\n{}", output.status, text(&output));
    text(&output)
}

/// Makes a key file in a folder; flags of `serve` that keep store and keys there.
pub fn place(folder: &Path) -> [String; 2] {
    succeed(Command::new(BINARY).args(["keys", "generate"]).arg(folder.join("sealing.keys")));
    [
        format!("--store-url=sqlite://{}", folder.join("store.db").display()),
        format!("--sealing-key-file={}", folder.join("sealing.keys").display()),
    ]
}

/// Flags of `serve` in front of an emulator of the test's own.
fn in_front_of(emulator: &Emulator) -> Vec<String> {
    let at = emulator.addresses();
    vec![
        "--allow-insecure-upstream".to_owned(),
        format!("--dropbox-api-url={}", at.api),
        format!("--dropbox-content-url={}", at.content),
        format!("--dropbox-notify-url={}", at.notify),
        format!("--dropbox-oauth-url={}", at.www),
    ]
}

/// A `serve --emulator` in a folder of its own; killed when dropped.
pub struct Served {
    child: Child,
    folder: tempfile::TempDir,
    keys: Option<tempfile::TempDir>,
}

impl Served {
    pub fn start() -> Served {
        Served::start_with(&[])
    }

    /// Later flags win, so `flags` may differ from the ones for free ports.
    pub fn start_with(flags: &[&str]) -> Served {
        Served::start_bare(&[&["--emulator"], flags].concat())
    }

    /// Without an emulator of its own.
    pub fn start_bare(flags: &[&str]) -> Served {
        Served::start_in(flags, &[])
    }

    /// The same with more in its environment.
    pub fn start_in(flags: &[&str], environment: &[(&str, &str)]) -> Served {
        let folder = tempfile::tempdir().expect("temporary folder");
        let out = fs::File::create(folder.path().join("out")).expect("a file for what it prints");
        let is_free = |default: &String| {
            let name = default.split('=').next().expect("a flag");
            !flags.iter().any(|flag| flag.split('=').next() == Some(name))
        };
        let defaults = FREE_PORTS.map(str::to_owned).into_iter().chain(place(folder.path()));
        let child = Command::new(BINARY)
            .arg("serve")
            .args(defaults.filter(is_free))
            .args(flags)
            .envs(environment.iter().copied())
            .current_dir(folder.path())
            .stdout(out.try_clone().expect("a second handle"))
            .stderr(out)
            .stdin(Stdio::null())
            .spawn()
            .expect("the binary starts");
        Served { child, folder, keys: None }
    }

    /// In front of an emulator of the test's own, with a key file that it makes.
    pub fn before(emulator: &Emulator, flags: &[&str]) -> Served {
        Served::before_in(emulator, flags, &[])
    }

    /// The same with more in its environment.
    pub fn before_in(emulator: &Emulator, flags: &[&str], environment: &[(&str, &str)]) -> Served {
        let folder = tempfile::tempdir().expect("temporary folder");
        let keys = folder.path().join("sealing.keys");
        succeed(Command::new(BINARY).args(["keys", "generate"]).arg(&keys));
        let own = [in_front_of(emulator), vec![format!("--sealing-key-file={}", keys.display())]].concat();
        let own = own.iter().map(String::as_str).chain(flags.iter().copied()).collect::<Vec<_>>();
        let mut served = Served::start_in(&own, environment);
        served.keys = Some(folder);
        served
    }

    /// One more connector at the store and the emulator of a house.
    pub fn replica(house: &House, flags: &[&str]) -> Served {
        let config = house.config();
        let store = [
            format!("--store-url={}", config.store_url),
            format!("--sealing-key-file={}", config.sealing_key_file.display()),
        ];
        let own = [in_front_of(&house.emulator), store.to_vec()].concat();
        Served::start_bare(&own.iter().map(String::as_str).chain(flags.iter().copied()).collect::<Vec<_>>())
    }

    /// The key file of [`Served::before`].
    pub fn sealing_keys_file(&self) -> PathBuf {
        self.keys.as_ref().expect("made before an emulator").path().join("sealing.keys")
    }

    /// What stands in it.
    pub fn sealing_keys(&self) -> String {
        fs::read_to_string(self.sealing_keys_file()).expect("the keys")
    }

    /// Bytes of the process in memory.
    pub fn resident(&self) -> usize {
        self.memory("VmRSS:")
    }

    /// The most that it ever had there.
    pub fn peak(&self) -> usize {
        self.memory("VmHWM:")
    }

    fn memory(&self, key: &str) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("Linux, and it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("a line");
        line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
    }

    /// Where store and keys lie.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// All it printed so far.
    pub fn text(&self) -> String {
        fs::read_to_string(self.folder.path().join("out")).expect("what it printed")
    }

    /// The lines of its audit log so far (`--log-format=json`), waited for until there are as many.
    pub fn audit_lines(&self, count: usize) -> Vec<serde_json::Value> {
        let deadline = Instant::now() + super::PATIENCE;
        loop {
            let text = self.text();
            let whole = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
            let lines = whole.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
            let lines: Vec<_> = lines.filter(|line| line["target"] == "audit").collect();
            if lines.len() >= count {
                return lines;
            }
            assert!(Instant::now() < deadline, "{} of {count} audit lines:\n{text}", lines.len());
            std::thread::yield_now();
        }
    }

    /// What it prints at start as `name=value`, waited for.
    pub fn told(&mut self, name: &str) -> String {
        let deadline = Instant::now() + PROCESS_MAX;
        loop {
            let text = self.text();
            // Only whole lines: the value may still be on its way.
            let whole = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
            if let Some(value) = whole.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('=')) {
                return value.to_owned();
            }
            let ended = self.child.try_wait().expect("its state");
            assert!(ended.is_none() && Instant::now() < deadline, "no {name}= was told ({ended:?}):\n{text}");
            std::thread::yield_now();
        }
    }

    /// SIGTERM: asks it to drain.
    pub fn terminate(&self) {
        succeed(Command::new("kill").args(["-TERM", &self.child.id().to_string()]));
    }

    /// SIGHUP: asks it to read its files again.
    pub fn hang_up(&self) {
        succeed(Command::new("kill").args(["-HUP", &self.child.id().to_string()]));
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PROCESS_MAX;
        loop {
            if let Some(status) = self.child.try_wait().expect("its state") {
                return status;
            }
            assert!(Instant::now() < deadline, "it did not end:\n{}", self.text());
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
