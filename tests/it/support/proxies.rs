//! Real proxies on free ports of loopback, each a process of its own that ends with its value; and a TLS end to put in
//! front of plain HTTP. `make setup` fetches the programs.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, Command},
    sync::Arc,
    time::Instant,
};

use dropbox_connector::api::v1 as pb;
use tempfile::TempDir;
use tokio::{net, task::JoinHandle};
use url::Url;

use super::{PATIENCE, process::tool};

/// A proxy that runs.
pub struct Running {
    child: Child,
    pub port: u16,
    folder: TempDir,
}

impl Running {
    /// HTTP; with `login` by basic authentication, of letters and digits only.
    pub fn tinyproxy(login: Option<(&str, &str)>) -> Running {
        Running::start("tinyproxy", |folder, port| {
            let login = login.map(|(user, password)| format!("BasicAuth {user} {password}\n")).unwrap_or_default();
            let log = folder.join("log");
            let text = format!(
                "Port {port}\nListen 127.0.0.1\nLogFile \"{}\"\nLogLevel Connect\nMaxClients 100\n{login}",
                log.display()
            );
            fs::write(folder.join("conf"), text).expect("a configuration");
            vec!["-d".into(), "-c".into(), folder.join("conf").display().to_string()]
        })
    }

    /// SOCKS5 with user and password, of any characters.
    pub fn microsocks(user: &str, password: &str) -> Running {
        Running::start("microsocks", |_, port| {
            let words = ["-i", "127.0.0.1", "-p", &port.to_string(), "-u", user, "-P", password];
            words.map(str::to_owned).to_vec()
        })
    }

    /// SOCKS4, and no other.
    pub fn dante() -> Running {
        Running::start("danted", |folder, port| {
            let text = format!(
                "logoutput: {}\ninternal: 127.0.0.1 port = {port}\nexternal: 127.0.0.1\nclientmethod: none\nsocksmethod: \
                 none\nclient pass {{ from: 127.0.0.0/8 to: 0.0.0.0/0 }}\nsocks pass {{ from: 127.0.0.0/8 to: 0.0.0.0/0 \
                 proxyprotocol: socks_v4 }}\n",
                folder.join("log").display()
            );
            fs::write(folder.join("conf"), text).expect("a configuration");
            vec!["-f".into(), folder.join("conf").display().to_string()]
        })
    }

    /// HTTP by basic authentication, with a user and a password of any characters.
    pub fn proxy_py(user: &str, password: &str) -> Running {
        Running::start("python", |_, port| {
            let login = format!("{user}:{password}");
            let words = ["-m", "proxy", "--hostname", "127.0.0.1", "--num-workers", "1", "--num-acceptors", "1"];
            let own = ["--port".to_owned(), port.to_string(), "--basic-auth".to_owned(), login];
            words.map(str::to_owned).into_iter().chain(own).collect()
        })
    }

    fn start(program: &str, arguments: impl Fn(PathBuf, u16) -> Vec<String>) -> Running {
        // Its port was free a moment ago; should somebody else take it first, the proxy ends and another port is tried.
        for _ in 0..5 {
            let port = super::postgres::free_port();
            let folder = tempfile::tempdir().expect("temporary folder");
            let out = fs::File::create(folder.path().join("out")).expect("a file");
            let mut command: Command = tool(program);
            command.args(arguments(folder.path().to_owned(), port)).stderr(out.try_clone().expect("again")).stdout(out);
            let mut running = Running { child: command.spawn().expect("it starts"), port, folder };
            if running.listens() {
                return running;
            }
        }
        panic!("{program} does not start");
    }

    fn listens(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return true;
            }
            if self.child.try_wait().expect("its state").is_some() {
                return false;
            }
            std::thread::yield_now();
        }
        false
    }

    /// What it wrote down of the requests it saw.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    pub fn stop(&mut self) {
        // Asked first: what it has started itself ends with it then.
        let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        let deadline = Instant::now() + std::time::Duration::from_secs(5);
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::yield_now();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The settings of a proxy on loopback.
pub fn proxy(kind: pb::ProxyKind, port: u16, user: &str, password: &str) -> pb::Proxy {
    pb::Proxy {
        proxy_kind: kind.into(),
        address: "127.0.0.1".into(),
        port: port.into(),
        username: user.into(),
        password: password.into(),
        ..Default::default()
    }
}

/// TLS in front of an address that speaks plain text.
pub struct TlsFront {
    address: SocketAddr,
    task: JoinHandle<()>,
}

/// A CA of a test, as a company's proxy has one, and the certificate it gave to 127.0.0.1.
pub struct Authority {
    pub pem: String,
    config: Arc<rustls::ServerConfig>,
}

impl Authority {
    pub fn new() -> Authority {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).expect("signed");
        let issuer = rcgen::Issuer::new(params, key);
        let own = rcgen::KeyPair::generate().expect("a key");
        let named = rcgen::CertificateParams::new(vec!["127.0.0.1".into(), "localhost".into()]).expect("parameters");
        let certificate = named.signed_by(&own, &issuer).expect("signed");
        let key = rustls::pki_types::PrivateKeyDer::try_from(own.serialize_der()).expect("a key");
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("a certificate");
        Authority { pem: authority.pem(), config: Arc::new(config) }
    }

    pub async fn front(&self, target: SocketAddr) -> TlsFront {
        let listener = net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let acceptor = tokio_rustls::TlsAcceptor::from(self.config.clone());
        let task = tokio::spawn(async move {
            while let Ok((outside, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(mut outside) = acceptor.accept(outside).await else { return };
                    let Ok(mut inside) = net::TcpStream::connect(target).await else { return };
                    let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
                });
            }
        });
        TlsFront { address, task }
    }

    /// In front of a url of plain HTTP.
    pub async fn front_of(&self, url: &str) -> TlsFront {
        let url: Url = url.parse().expect("a url");
        let address = format!("{}:{}", url.host_str().expect("a host"), url.port().expect("a port"));
        self.front(address.parse().expect("an address")).await
    }
}

impl TlsFront {
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn url(&self) -> Url {
        format!("https://{}", self.address).parse().expect("a url")
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Answers every request with one text. For what no proxy of Debian's can be made to say: a demand for NTLM or Negotiate
/// alone needs a domain controller behind it.
pub struct Answerer {
    pub port: u16,
    task: JoinHandle<()>,
}

impl Answerer {
    pub async fn start(answer: &'static str) -> Answerer {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let task = tokio::spawn(async move {
            let mut silent = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                if answer.is_empty() {
                    silent.push(stream);
                    continue;
                }
                tokio::spawn(async move {
                    let mut head = [0; 4096];
                    let _ = stream.read(&mut head).await;
                    let _ = stream.write_all(answer.as_bytes()).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        Answerer { port, task }
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
