//! Debian's PostgreSQL, which `make setup` links into `.tools/bin`: one server for a test binary, a database for each test.
//! It ends with the binary, however that ends (`postgres.sh`). And Debian's pgbouncer before it.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU16, Ordering},
    },
};

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

/// A running server.
pub struct Server {
    port: u16,
    /// Where its certificate and log lie.
    pub folder: PathBuf,
    line: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
}

impl Server {
    /// The one that tests share.
    pub fn shared() -> &'static Server {
        static SHARED: OnceLock<Server> = OnceLock::new();
        SHARED.get_or_init(Server::start)
    }

    /// One of a test's own, to be stopped.
    #[expect(clippy::zombie_processes, reason = "the shell ends when its standard input does, which is with the tests")]
    pub fn start() -> Server {
        let link = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/bin/postgres");
        let programs = link.canonicalize().ok().and_then(|path| path.parent().map(Path::to_owned));
        let programs = programs.unwrap_or_else(|| panic!("{} is missing: run make setup", link.display()));
        let (port, root) = (free_port(), is_root());
        // PostgreSQL refuses to run as root; Debian's package brings a user for it.
        let mut command = if root { Command::new("setpriv") } else { Command::new("sh") };
        if root {
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "sh"]);
        }
        command.args(["-c", include_str!("postgres.sh"), "postgres.sh"]).arg(programs).arg(port.to_string());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell");
        let line = (child.stdin.take().expect("piped"), BufReader::new(child.stdout.take().expect("piped")));
        let mut server = Server { port, folder: PathBuf::new(), line: Mutex::new(line) };
        server.folder = server.ready();
        server
    }

    /// Kills it as a power cut would.
    pub fn stop(&self) {
        self.tell("stop");
        assert_eq!(self.told(), "stopped");
    }

    /// On the same port, with all it held.
    pub fn start_again(&self) {
        self.tell("start");
        self.ready();
    }

    /// The URL of a new database.
    pub async fn database(&self) -> String {
        let name = format!("test_{}", uuid::Uuid::new_v4().simple());
        let mut connection = PgConnection::connect(&self.url("postgres")).await.expect("the server");
        connection.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.expect("a database");
        connection.close().await.expect("closed");
        self.url(&name)
    }

    /// Without TLS, which would only cost time.
    fn url(&self, database: &str) -> String {
        format!("postgres://tests@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    fn tell(&self, word: &str) {
        let mut line = self.line.lock().expect("no test panics with it");
        writeln!(line.0, "{word}").expect("the shell lives");
    }

    fn told(&self) -> String {
        let mut line = self.line.lock().expect("no test panics with it");
        let mut answer = String::new();
        line.1.read_line(&mut answer).expect("the shell lives");
        if !answer.starts_with("ready") && !answer.starts_with("stopped") {
            let mut why = String::new();
            let _ = line.1.read_to_string(&mut why);
            panic!("PostgreSQL did not start: {answer}{why}");
        }
        answer.trim_end().to_owned()
    }

    fn ready(&self) -> PathBuf {
        let answer = self.told();
        PathBuf::from(answer.strip_prefix("ready ").expect("it was told to start"))
    }
}

/// A pgbouncer before a server.
pub struct Pooler {
    port: u16,
    server: u16,
    /// Its end is the pooler's.
    _line: ChildStdin,
    _folder: tempfile::TempDir,
}

impl Pooler {
    /// `mode` is `session` or `transaction`.
    #[expect(clippy::zombie_processes, reason = "the shell ends when its standard input does, which is with the tests")]
    pub fn start(server: &Server, mode: &str) -> Pooler {
        let link = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/bin/pgbouncer");
        assert!(link.exists(), "{} is missing: run make setup", link.display());
        let (folder, port) = (tempfile::tempdir().expect("a folder"), free_port());
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={} user=tests\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = {mode}\n\
             ignore_startup_parameters = extra_float_digits\n",
            server.port
        );
        let file = folder.path().join("pgbouncer.ini");
        std::fs::write(&file, settings).expect("written");
        let mut command = Command::new("sh");
        command.args(["-c", "\"$@\" </dev/null & cat; kill $!", "pooler"]).arg(&link).arg("-q");
        if is_root() {
            command.args(["-u", "postgres"]);
        }
        let mut child = command.arg(&file).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().expect("a shell");
        let pooler = Pooler { port, server: server.port, _line: child.stdin.take().expect("piped"), _folder: folder };
        let begun = std::time::Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed().as_secs() < 30, "pgbouncer does not listen");
            std::thread::yield_now();
        }
        pooler
    }

    /// The same database, through it.
    pub fn url(&self, url: &str) -> String {
        url.replace(&format!(":{}/", self.server), &format!(":{}/", self.port))
    }
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().expect("id").stdout.trim_ascii() == b"0"
}

/// Not of those that the system gives to whoever asks for any, as all the other tests do and every client: one of them would
/// come by between this look and the start of a program, which takes seconds. Each is given once.
pub fn free_port() -> u16 {
    const FIRST: u16 = 30_000;
    const COUNT: u16 = 2_700;
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    // Test runs side by side begin to look in different places.
    let turn = std::process::id() as u16;
    let mut ports = (0..COUNT).map(|_| FIRST + turn.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)) % COUNT);
    ports.find(|&port| TcpListener::bind(("127.0.0.1", port)).is_ok()).expect("a free port")
}
