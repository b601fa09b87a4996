//! The two processes under measurement: the emulator and the connector, each started from the release binary on free ports,
//! read through `/proc` and killed with their handle.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use dropbox_connector::api::v1::{
    self as api, dropbox_admin_connector_client::DropboxAdminConnectorClient,
    dropbox_connector_client::DropboxConnectorClient, import_credentials_request::Credential,
};
use serde_json::Value;
use tonic::transport::{Channel, Endpoint};

use crate::{
    Outcome,
    certs::{self, Authority},
    fail,
};

/// The application parameter of every call.
pub const PARAMETER: &str = "bench";

/// Nothing here takes this long to start.
const PATIENCE: Duration = Duration::from_secs(30);

/// Clock ticks of `/proc/PID/stat`: 100 on every Linux this runs on, whatever the kernel's own rate.
const TICKS_PER_SECOND: f64 = 100.0;

pub type Client = DropboxConnectorClient<Channel>;
pub type Admin = DropboxAdminConnectorClient<Channel>;

/// A child that does not outlive its handle.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts `arguments` of the release binary; the first line of its output that begins with `sign`.
    fn start(arguments: &[String], log: &Path, sign: &str) -> Outcome<(Process, String)> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_dropbox-connector"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(log)?)
            .spawn()?;
        let stdout = child.stdout.take().expect("piped above");
        let process = Process { child };
        let (lines, told) = mpsc::channel();
        // Reads to the end, so that the process never blocks on a full pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = lines.send(line);
            }
        });
        let until = Instant::now() + PATIENCE;
        loop {
            match told.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) if line.starts_with(sign) => return Ok((process, line)),
                Ok(_) => {}
                Err(_) => {
                    let log = fs::read_to_string(log).unwrap_or_default();
                    return fail(format!("`{}` did not start:\n{log}", arguments.join(" ")));
                }
            }
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// User and system seconds so far, of all its threads.
    pub fn cpu_seconds(&self) -> Outcome<f64> {
        cpu_seconds(&self.id().to_string())
    }

    /// Resident memory now, in MiB.
    pub fn resident_mib(&self) -> Outcome<f64> {
        self.status("VmRSS:")
    }

    /// Resident memory once it has been the same for this long, in MiB.
    pub async fn still_mib(&self, long: Duration) -> Outcome<f64> {
        let (begun, mut since, mut first) = (Instant::now(), Instant::now(), self.resident_mib()?);
        while begun.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = self.resident_mib()?;
            if (now - first).abs() >= 0.3 {
                (since, first) = (Instant::now(), now);
            } else if since.elapsed() >= long {
                return Ok(now);
            }
        }
        fail("its memory does not stand still".to_owned())
    }

    /// The most resident memory it ever had, in MiB.
    pub fn peak_mib(&self) -> Outcome<f64> {
        self.status("VmHWM:")
    }

    /// From here on [`Process::peak_mib`] counts anew.
    pub fn forget_peak(&self) -> Outcome<()> {
        Ok(fs::write(format!("/proc/{}/clear_refs", self.id()), "5")?)
    }

    fn status(&self, key: &str) -> Outcome<f64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let line = text.lines().find_map(|line| line.strip_prefix(key)).ok_or("no such line in /proc/PID/status")?;
        let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib / 1024.0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection with the settings that our own helpers use (PERFORMANCE rules 5 to 7).
pub async fn connected(address: &str) -> Outcome<Client> {
    let channel = Endpoint::new(format!("http://{address}"))?
        .tcp_nodelay(true)
        .max_frame_size(256 * 1024)
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(16 * 1024 * 1024)
        .connect()
        .await?;
    Ok(DropboxConnectorClient::new(channel).max_decoding_message_size(8 * 1024 * 1024))
}

/// User and system seconds of a process; `self` for this one.
pub fn cpu_seconds(id: &str) -> Outcome<f64> {
    let text = fs::read_to_string(format!("/proc/{id}/stat"))?;
    // The name in parentheses may hold anything; behind it the state is field 3, utime 14, stime 15.
    let (_, rest) = text.rsplit_once(')').ok_or("/proc/PID/stat has no name")?;
    let ticks = rest.split_ascii_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

/// How an emulator is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    Plain,
    Tls,
    /// TLS on the ports that Dropbox has, for programs that have its names fixed: in a network namespace of our own alone.
    AsDropbox,
}

/// The names that the emulator's certificate has.
const NAMES: [&str; 7] = [
    "localhost",
    "127.0.0.1",
    "127.0.0.2",
    "api.dropboxapi.com",
    "content.dropboxapi.com",
    "notify.dropboxapi.com",
    "www.dropbox.com",
];

/// Where files of this run lie; gone at the end.
pub struct Bench {
    folder: tempfile::TempDir,
    next: u32,
    authority: Authority,
}

impl Bench {
    pub fn new() -> Outcome<Bench> {
        Ok(Bench { folder: tempfile::tempdir()?, next: 0, authority: Authority::new("benches") })
    }

    /// A path of its own for a file of this run.
    pub fn path(&mut self, end: &str) -> PathBuf {
        self.next += 1;
        self.folder.path().join(format!("{}-{end}", self.next))
    }

    /// A fresh emulator with its contents in memory.
    pub async fn emulator(&mut self) -> Outcome<Emulator> {
        self.emulator_over(Wire::Plain).await
    }

    /// The same, reached in another way.
    pub async fn emulator_over(&mut self, wire: Wire) -> Outcome<Emulator> {
        let mut arguments = ["emulator", "--json", "--in-memory"].map(str::to_owned).to_vec();
        let mut ca = None;
        if wire != Wire::Plain {
            let pair = self.authority.server_called(&NAMES, certs::now() + Duration::from_secs(86_400));
            let files = [("ca.pem", self.authority.pem.clone()), ("tls.crt", pair.certificate), ("tls.key", pair.key)];
            let paths = files.map(|(end, text)| (self.path(end), text));
            for (path, text) in &paths {
                fs::write(path, text)?;
            }
            let [authority, certificate, key] = paths.map(|(path, _)| path);
            arguments.extend(["--tls-cert-file".to_owned(), certificate.display().to_string()]);
            arguments.extend(["--tls-key-file".to_owned(), key.display().to_string()]);
            ca = Some(authority);
        }
        if wire == Wire::AsDropbox {
            let as_dropbox = ["--api-port", "443", "--content-listen", "127.0.0.2", "--content-port", "443"];
            arguments.extend(as_dropbox.map(str::to_owned));
        }
        let (process, line) = Process::start(&arguments, &self.path("emulator.log"), "{")?;
        let told: Value = serde_json::from_str(&line)?;
        let text = |key: &str| told[key].as_str().map(str::to_owned).ok_or(format!("the emulator tells no {key}"));
        Ok(Emulator {
            _process: process,
            api: text("api")?,
            content: text("content")?,
            notify: text("notify")?,
            www: text("www")?,
            control: text("control")?,
            app_key: text("appKey")?,
            app_secret: text("appSecret")?,
            refresh_token: text("refreshToken")?,
            access_token: text("accessToken")?,
            client: http_client(ca.as_deref())?,
            ca,
        })
    }

    /// A fresh store and a connector on it, with default settings, and the parameter [`PARAMETER`] made.
    pub async fn connector(&mut self, emulator: &Emulator) -> Outcome<Connector> {
        self.connector_with(emulator, &[]).await
    }

    /// The same, called by the emulator when something changes instead of asking it.
    pub async fn connector_with_webhooks(&mut self, emulator: &Emulator) -> Outcome<Connector> {
        let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let flags = ["--webhooks".to_owned(), "--public-http-listen".to_owned(), free.to_string()];
        let connector = self.connector_with(emulator, &flags).await?;
        let uri = format!("http://{free}/webhook/{}", emulator.app_key);
        emulator.control("webhooks", Some(serde_json::json!({ "uri": uri }))).await?;
        Ok(connector)
    }

    /// The same with a store of its own, a fresh database of a server.
    pub async fn connector_at(&mut self, emulator: &Emulator, store: &str) -> Outcome<Connector> {
        self.connector_in(emulator, store.to_owned(), &[]).await
    }

    /// The same with further flags of `serve`.
    pub async fn connector_with(&mut self, emulator: &Emulator, flags: &[String]) -> Outcome<Connector> {
        let store = format!("sqlite://{}?mode=rwc", self.path("store.db").display());
        self.connector_in(emulator, store, flags).await
    }

    async fn connector_in(&mut self, emulator: &Emulator, store: String, flags: &[String]) -> Outcome<Connector> {
        let house = House { store, keys: self.path("keys"), log: self.path("connector.log") };
        let made = Command::new(env!("CARGO_BIN_EXE_dropbox-connector"))
            .args(["keys", "generate"])
            .arg(&house.keys)
            .output()?;
        if !made.status.success() {
            return fail(format!("`keys generate`: {}", String::from_utf8_lossy(&made.stderr)));
        }
        let connector = Connector::start_with(house, emulator, flags)?;
        connector.make_parameter(emulator).await?;
        Ok(connector)
    }
}

/// A running emulator.
#[derive(Debug)]
pub struct Emulator {
    _process: Process,
    pub api: String,
    pub content: String,
    notify: String,
    www: String,
    control: String,
    app_key: String,
    app_secret: String,
    refresh_token: String,
    pub access_token: String,
    /// The authority of its certificate, if it speaks TLS.
    pub ca: Option<PathBuf>,
    pub client: reqwest::Client,
}

impl Emulator {
    /// Every answer takes `answer`, every connection made from now on carries so many bytes a second each way, and with
    /// `one_writer` a commit holds its namespace for as long as its answer takes, and others are refused meanwhile.
    pub async fn far_away(&self, answer: Duration, bytes_per_second: Option<u64>, one_writer: bool) -> Outcome<()> {
        let millis = answer.as_millis() as u64;
        let contention = one_writer.then(|| serde_json::json!({ "commit_takes_millis": millis }));
        let levers = serde_json::json!({
            "answer_takes_millis": millis, "connection_bytes_per_second": bytes_per_second, "contention": contention,
        });
        self.control("switches", Some(levers)).await.map(drop)
    }

    /// Every connection made from now on loses segments: so likely one comes late by the time after which Linux sends again
    /// (200 ms), so likely the connection is reset.
    pub async fn lossy(&self, stalls: f64, resets: f64) -> Outcome<()> {
        let loss = serde_json::json!({ "loss": { "stalls": stalls, "resets": resets, "seed": 1 } });
        self.control("switches", Some(loss)).await.map(drop)
    }

    /// Asks the control port; `None` is GET.
    ///
    /// # Errors
    /// It refused, with what it said.
    pub async fn control(&self, path: &str, body: Option<Value>) -> Outcome<Value> {
        let url = format!("{}/control/{path}", self.control);
        let request = match body {
            None => self.client.get(url),
            Some(body) => self.client.post(url).body(body.to_string()),
        };
        let answer = request.send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        if !status.is_success() {
            return fail(format!("control/{path}: {text}"));
        }
        Ok(serde_json::from_str(&text)?)
    }

    /// A call of Dropbox's API, straight to the emulator.
    ///
    /// # Errors
    /// It refused, with what it said.
    pub async fn call(&self, route: &str, argument: &str) -> Outcome<bytes::Bytes> {
        let request = self.client.post(format!("{}/2/{route}", self.api)).bearer_auth(&self.access_token);
        let request = request.header("Content-Type", "application/json").body(argument.to_owned());
        let answer = request.send().await?;
        let (status, body) = (answer.status(), answer.bytes().await?);
        if !status.is_success() {
            return fail(format!("{route}: {status} {}", String::from_utf8_lossy(&body)));
        }
        Ok(body)
    }

    /// Lets go of every file and session; tokens of other grants than the default one end, too.
    pub async fn reset(&self) -> Outcome<()> {
        self.control("reset", Some(Value::Object(serde_json::Map::new()))).await.map(drop)
    }
}

/// What a connector keeps.
#[derive(Debug, Clone)]
pub struct House {
    /// Its URL.
    pub store: String,
    keys: PathBuf,
    log: PathBuf,
}

/// A running connector.
#[derive(Debug)]
pub struct Connector {
    pub process: Process,
    pub house: House,
    flags: Vec<String>,
    data: String,
    admin: String,
    http: String,
}

impl Connector {
    /// # Errors
    /// It did not say that it listens; its log is in the message.
    pub fn start(house: House, emulator: &Emulator) -> Outcome<Connector> {
        Connector::start_with(house, emulator, &[])
    }

    fn start_with(house: House, emulator: &Emulator, flags: &[String]) -> Outcome<Connector> {
        let mut arguments = vec!["serve".to_owned(), "--allow-insecure-upstream".to_owned()];
        let mut option = |name: &str, value: &str| arguments.extend([format!("--{name}"), value.to_owned()]);
        for listener in ["data-listen", "admin-listen", "probe-listen", "http-listen"] {
            option(listener, "127.0.0.1:0");
        }
        option("store-url", &house.store);
        option("sealing-key-file", &house.keys.display().to_string());
        option("dropbox-api-url", &emulator.api);
        option("dropbox-content-url", &emulator.content);
        option("dropbox-notify-url", &emulator.notify);
        option("dropbox-oauth-url", &emulator.www);
        if let Some(ca) = &emulator.ca {
            option("upstream-ca-file", &ca.display().to_string());
        }
        arguments.extend_from_slice(flags);
        let (process, line) = Process::start(&arguments, &house.log, "listening ")?;
        let address = |key: &str| {
            let prefix = format!("{key}=");
            let found = line.split(' ').find_map(|word| word.strip_prefix(prefix.as_str()));
            found.map(str::to_owned).ok_or(format!("no {key} in `{line}`"))
        };
        let (data, admin, http) = (address("data")?, address("admin")?, address("http")?);
        Ok(Connector { process, house, flags: flags.to_vec(), data, admin, http })
    }

    /// A connection of its own.
    pub async fn client(&self) -> Outcome<Client> {
        connected(&self.data.to_string()).await
    }

    /// Kills the process and starts the next one on what it kept.
    pub fn again(self, emulator: &Emulator) -> Outcome<Connector> {
        let Connector { process, house, flags, .. } = self;
        drop(process);
        Connector::start_with(house, emulator, &flags)
    }

    /// The same with further flags from now on.
    pub fn again_with(mut self, emulator: &Emulator, flags: &[String]) -> Outcome<Connector> {
        self.flags.extend_from_slice(flags);
        self.again(emulator)
    }

    async fn make_parameter(&self, emulator: &Emulator) -> Outcome<()> {
        make_parameter(self.admin().await?, emulator, PARAMETER, &emulator.refresh_token).await
    }

    /// A connection to its admin service.
    pub async fn admin(&self) -> Outcome<Admin> {
        Ok(Admin::connect(format!("http://{}", self.admin)).await?)
    }

    /// Asks `/ready` until it answers 200.
    ///
    /// # Errors
    /// It did not become ready.
    pub fn wait_ready(&self) -> Outcome<()> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if self.asked("/ready")?.starts_with("HTTP/1.1 200") {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        fail("the connector did not become ready".to_owned())
    }

    /// What its HTTP port answers.
    fn asked(&self, path: &str) -> Outcome<String> {
        let mut stream = TcpStream::connect(&self.http)?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n").as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(String::from_utf8(answer)?)
    }

    /// All that it has counted of a duration.
    pub fn seconds(&self, histogram: &str) -> Outcome<f64> {
        let (metrics, sum) = (self.asked("/metrics")?, format!("{histogram}_sum"));
        let values = metrics.lines().filter(|line| line.starts_with(&sum)).filter_map(|line| line.rsplit(' ').next());
        Ok(values.map(str::parse::<f64>).sum::<Result<f64, _>>()?)
    }
}

/// A parameter of any account.
pub async fn make_parameter(mut admin: Admin, emulator: &Emulator, id: &str, refresh_token: &str) -> Outcome<()> {
    let parameter = api::ApplicationParameter {
        app_key: emulator.app_key.clone(),
        app_secret: emulator.app_secret.clone(),
        // Looked at only where callers are known.
        policy: Some(api::ParameterPolicy { allowed_principals: vec!["*".to_owned()], ..Default::default() }),
        ..Default::default()
    };
    admin
        .create_application_parameter(api::CreateApplicationParameterRequest {
            application_parameter_id: id.to_owned(),
            application_parameter: Some(parameter),
        })
        .await?;
    admin
        .import_credentials(api::ImportCredentialsRequest {
            application_parameter_id: id.to_owned(),
            credential: Some(Credential::RefreshToken(refresh_token.to_owned())),
        })
        .await?;
    Ok(())
}

/// An HTTP/1.1 client as bare as it gets; it trusts this authority alone.
pub fn http_client(ca: Option<&Path>) -> Outcome<reqwest::Client> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let trusted = ca.map(|path| Outcome::Ok(reqwest::Certificate::from_pem(&fs::read(path)?)?)).transpose()?;
    Ok(reqwest::Client::builder().http1_only().tcp_nodelay(true).no_proxy().tls_certs_only(trusted).build()?)
}
