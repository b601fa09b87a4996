//! `demo`: connector, emulator and store in this process; a real folder goes up, is listed, linked, read back and
//! compared byte by byte, moved and deleted, all over gRPC and TCP. It says what it did; its exit code tells the truth.

mod guide;
mod story;

use std::{
    env, fs, io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    app::{App, DEMO_PARAMETER},
    config::{Config, Overrides},
    seal::KeyRing,
};

use super::{
    client::{Client, TlsArgs},
    exit::{Exit, Failure, Result},
    local::{self, Gathered, Wanted},
    out, put, server,
};

use self::story::Story;

/// Folders of work that can be made again: nobody wants to see them go up.
const PASSED_OVER: [&str; 4] = [".git", ".tools", "node_modules", "target"];
/// Skipped files that are told one by one.
const SKIPPED_TOLD_MAX: usize = 10;
/// Files in flight. Small files cost a round trip each, so more of them than of large ones pay.
const JOBS: usize = 16;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Nothing leaves this machine: the Dropbox it speaks to is emulated in the same process, and what it keeps goes to a
temporary folder (TMPDIR) that is removed at the end. It needs as much room there as the folder has bytes.
Left out: .git, .tools, node_modules, target, symbolic links, and names Dropbox does not take.

Examples:
  dropbox-connector demo
  dropbox-connector demo ~/Pictures --jobs 32")]
pub struct DemoArgs {
    /// The folder. Default: the repository around the current folder, or the current folder.
    #[arg(value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// Files sent and read at once.
    #[arg(short, long, default_value_t = JOBS, value_parser = put::jobs, value_name = "N")]
    jobs: usize,
    /// What the connector logs, to standard error.
    #[arg(long, default_value = "error", value_name = "FILTER")]
    log_level: String,
}

pub async fn run(args: DemoArgs, logs: super::Logs) -> Result<()> {
    let folder = chosen(args.folder.as_deref())?;
    let scratch = Scratch::new()?;
    let mut config = config(&scratch)?;
    config.log_level = args.log_level;
    logs(&config).map_err(|text| Failure::new(Exit::Config, text))?;
    let gathered = gather(&folder, &scratch)?;
    announce(&folder, &gathered);
    let app = tokio::select! {
        started = Box::pin(App::start(config)) => started?,
        _ = tokio::signal::ctrl_c() => return Err(interrupted()),
    };
    let at = app.addresses();
    let outcome = tokio::select! {
        outcome = Box::pin(told(&app, &gathered, args.jobs)) => outcome,
        _ = tokio::signal::ctrl_c() => Err(interrupted()),
    };
    let stopped = app.stop().await;
    drop(scratch);
    outcome?;
    stopped?;
    guide::print(&at);
    Ok(())
}

async fn told(app: &App, gathered: &Gathered, jobs: usize) -> Result<()> {
    let at = app.addresses();
    let client =
        Client::connect(&format!("http://{}", at.data), &TlsArgs::default(), Some(DEMO_PARAMETER), None).await?;
    out::line(format_args!("  connector  data {}, admin {}, probe {}, http {}", at.data, at.admin, at.probe, at.http));
    if let Some(emulator) = app.emulator() {
        out::line(format_args!("  emulator   {}", emulator.addresses().api));
    }
    out::line("");
    Story::new(client, &gathered.files, jobs).run().await
}

fn announce(folder: &Path, gathered: &Gathered) {
    out::line(format_args!(
        "Dropbox connector {}: a folder goes up, comes back, and is compared",
        env!("CARGO_PKG_VERSION")
    ));
    let (files, bytes) = (out::count(gathered.files.len(), "file"), out::size(gathered.bytes()));
    out::line(format_args!("  folder     {} ({files}, {bytes})", folder.display()));
    if gathered.skipped.is_empty() {
        return;
    }
    out::line(format_args!("  skipped    {}", gathered.skipped.len()));
    for (path, why) in gathered.skipped.iter().take(SKIPPED_TOLD_MAX) {
        let shown = path.strip_prefix(folder).unwrap_or(path).to_string_lossy();
        out::line(format_args!("             {}: {why}", out::plain(&shown)));
    }
    let untold = gathered.skipped.len().saturating_sub(SKIPPED_TOLD_MAX);
    if untold > 0 {
        out::line(format_args!("             and {untold} more"));
    }
}

fn chosen(folder: Option<&Path>) -> Result<PathBuf> {
    let here = |error: io::Error| Failure::local(Path::new("."), &error);
    let folder = match folder {
        Some(folder) => folder.canonicalize().map_err(|error| Failure::local(folder, &error))?,
        None => {
            let here = env::current_dir().and_then(|here| here.canonicalize()).map_err(here)?;
            let repository = here.ancestors().find(|folder| folder.join(".git").exists()).map(Path::to_owned);
            repository.unwrap_or(here)
        }
    };
    match folder.is_dir() {
        true => Ok(folder),
        false => Err(Failure::usage(format!("{} is not a folder", folder.display()))),
    }
}

fn gather(folder: &Path, scratch: &Scratch) -> Result<Gathered> {
    let gathered = local::gather(folder, &Wanted::everything(), &|path, name| {
        PASSED_OVER.iter().any(|passed| name == *passed) || path == scratch.0
    })?;
    match gathered.files.is_empty() {
        true => Err(Failure::usage(format!("{} holds no file that could be sent", folder.display()))),
        false => Ok(gathered),
    }
}

/// Free ports of the loopback, an emulated Dropbox, a store and a key that end with the demo; the rest by default,
/// whatever the environment says.
fn config(scratch: &Scratch) -> Result<Config> {
    let mut config = server::load(&Overrides::default())?;
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    config.data_listen = anywhere;
    config.admin_listen = anywhere;
    config.probe_listen = anywhere;
    config.http_listen = anywhere;
    config.store_url = format!("sqlite://{}?mode=rwc", scratch.0.join("demo.db").display());
    config.sealing_key_file = scratch.0.join("demo.keys");
    KeyRing::from_file_or_new(&config.sealing_key_file).map_err(|fault| Failure::new(Exit::Config, fault.message()))?;
    config.emulator = true;
    config.allow_insecure_upstream = true;
    config.drain_delay = Duration::ZERO;
    config.drain_grace = Duration::from_secs(2);
    Ok(config)
}

fn interrupted() -> Failure {
    Failure::new(Exit::Interrupted, "interrupted")
}

/// A folder that goes when it is dropped.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Scratch> {
        let parent = env::temp_dir();
        let parent = parent.canonicalize().map_err(|error| Failure::local(&parent, &error))?;
        let folder = parent.join(format!("dropbox-connector-demo-{}", uuid::Uuid::new_v4()));
        fs::create_dir(&folder).map_err(|error| Failure::local(&folder, &error))?;
        Ok(Scratch(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            out::note(format_args!("could not remove {}: {error}", self.0.display()));
        }
    }
}
