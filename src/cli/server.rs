//! What an operator starts: `serve`, `emulator`, `migrate`, `config`, `health`.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::Subcommand;
use serde_json::json;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::{
    app::{self, App, AppError, DEMO_PARAMETER},
    config::{self, Config, Overrides, Problem},
    emulator::{Emulator, Options, Ports, TlsFiles},
};

use super::{
    client::{TlsArgs, channel},
    exit::{Exit, Failure, Result},
    keys, out,
};

#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    #[command(flatten)]
    overrides: Overrides,
}

impl From<AppError> for Failure {
    fn from(error: AppError) -> Failure {
        let exit = match error {
            AppError::Config(_) => Exit::Config,
            _ => Exit::Failed,
        };
        Failure::new(exit, error.to_string())
    }
}

/// Settings from flags, environment and file.
///
/// # Errors
/// Exit code 64, a line for each key and each variable of the environment that is wrong.
pub fn load(overrides: &Overrides) -> Result<Config> {
    let (config, problems) = examine(overrides);
    unusable(problems)?;
    Ok(config)
}

fn examine(overrides: &Overrides) -> (Config, Vec<Problem>) {
    let (config, mut problems) = Config::examine(overrides);
    let set: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into())))
        .collect();
    let set = set.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    problems.extend(config::unknown_variables(set, &super::variables()));
    (config, problems)
}

fn unusable(problems: Vec<Problem>) -> Result<()> {
    match problems.is_empty() {
        true => Ok(()),
        false => {
            let failure = Failure::new(Exit::Config, "the configuration cannot be used").listing(problems);
            Err(failure.remedy("`dropbox-connector config print --defaults` shows every key"))
        }
    }
}

/// Runs until SIGTERM or SIGINT, then drains; a second signal stops it at once.
pub async fn serve(args: ServeArgs, logs: super::Logs) -> Result<()> {
    let config = load(&args.overrides)?;
    logs(&config).map_err(|text| Failure::new(Exit::Config, text))?;
    let mut signals = Signals::new()?;
    let has_page = config.connect_page;
    let app = tokio::select! {
        started = Box::pin(App::start(config)) => started?,
        () = signals.next() => return Err(Failure::new(Exit::Interrupted, "interrupted before it was started")),
    };
    let at = app.addresses();
    let mut line = format!("listening data={} admin={} probe={} http={}", at.data, at.admin, at.probe, at.http);
    if let Some(public) = at.public_http {
        line.push_str(&format!(" public={public}"));
    }
    if has_page {
        line.push_str(&format!(" connect=http://localhost:{}/connect", at.http.port()));
    }
    if let Some(emulator) = app.emulator() {
        let at = emulator.addresses();
        line.push_str(&format!(" emulator={} www={} parameter={DEMO_PARAMETER}", at.control, at.www));
    }
    out::line(line);
    let reread = app.reread();
    let (asked, shutdown) = tokio::sync::oneshot::channel::<()>();
    let mut running = Box::pin(app.run_until(async {
        // A sender that is gone asks for the same.
        let _ = shutdown.await;
    }));
    loop {
        tokio::select! {
            ended = &mut running => return Ok(ended?),
            hangup = signals.next_or_hangup() => match hangup {
                true => reread.notify_one(),
                false => break drop(asked),
            },
        }
    }
    tokio::select! {
        ended = &mut running => Ok(ended?),
        () = signals.next() => Err(Failure::new(Exit::Interrupted, "stopped at once by a second signal")),
    }
}

/// The signals that ask a process to end.
struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    /// Files that may change are read again anyway; this only makes it happen at once.
    #[cfg(unix)]
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Signals> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let wait = |kind| {
                signal(kind).map_err(|error| Failure::new(Exit::Failed, format!("cannot wait for signals: {error}")))
            };
            Ok(Signals { terminate: wait(SignalKind::terminate())?, hangup: wait(SignalKind::hangup())? })
        }
        #[cfg(not(unix))]
        Ok(Signals {})
    }

    /// The next SIGHUP (true), SIGINT or SIGTERM.
    async fn next_or_hangup(&mut self) -> bool {
        #[cfg(unix)]
        let (hangup, terminate) = (self.hangup.recv(), self.terminate.recv());
        #[cfg(not(unix))]
        let (hangup, terminate) = (std::future::pending::<Option<()>>(), std::future::pending::<Option<()>>());
        tokio::select! {
            _ = hangup => true,
            _ = terminate => false,
            _ = tokio::signal::ctrl_c() => false,
        }
    }

    /// The next SIGINT or SIGTERM.
    async fn next(&mut self) {
        #[cfg(unix)]
        ending(&mut self.terminate).await;
        #[cfg(not(unix))]
        let _ = tokio::signal::ctrl_c().await;
    }
}

#[cfg(unix)]
async fn ending(terminate: &mut tokio::signal::unix::Signal) {
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  dropbox-connector emulator --seed-folder ./photos --state-dir ./emulated")]
pub struct EmulatorArgs {
    /// Address it listens on.
    #[arg(long, default_value = "127.0.0.1", value_name = "IP")]
    listen: IpAddr,
    /// Address of the content host, where it is another one: two hosts may then have the same port, as Dropbox's have.
    #[arg(long, value_name = "IP")]
    content_listen: Option<IpAddr>,
    /// Certificate chain (PEM): every host but the control API speaks TLS.
    #[arg(long, value_name = "FILE", requires = "tls_key_file")]
    tls_cert_file: Option<PathBuf>,
    /// Private key (PEM) of that certificate.
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    tls_key_file: Option<PathBuf>,
    /// Port of the API host; 0 takes a free one, as for the others.
    #[arg(long, default_value_t = 0, value_name = "PORT")]
    api_port: u16,
    /// Port of the content host.
    #[arg(long, default_value_t = 0, value_name = "PORT")]
    content_port: u16,
    /// Port of the notification host.
    #[arg(long, default_value_t = 0, value_name = "PORT")]
    notify_port: u16,
    /// Port of the authorize page.
    #[arg(long, default_value_t = 0, value_name = "PORT")]
    www_port: u16,
    /// Port of the control API.
    #[arg(long, default_value_t = 0, value_name = "PORT")]
    control_port: u16,
    /// Shows the files of this folder as the account's. They are never written to.
    #[arg(long, value_name = "FOLDER")]
    seed_folder: Option<PathBuf>,
    /// Keeps its tree and contents here over restarts. Written when it ends (not if it is killed); accounts that were connected by
    /// OAuth meanwhile are forgotten.
    #[arg(long, value_name = "FOLDER")]
    state_dir: Option<PathBuf>,
    /// Keeps contents in memory instead of in temporary files.
    #[arg(long, conflicts_with = "state_dir")]
    in_memory: bool,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

pub async fn emulator(args: EmulatorArgs) -> Result<()> {
    let ports = Ports {
        api: args.api_port,
        content: args.content_port,
        notify: args.notify_port,
        www: args.www_port,
        control: args.control_port,
    };
    let options = Options {
        listen: args.listen,
        content_listen: args.content_listen,
        tls: args.tls_cert_file.zip(args.tls_key_file).map(|(certificate, key)| TlsFiles { certificate, key }),
        ports,
        seed_folder: args.seed_folder,
        contents_on_disk: !args.in_memory && args.state_dir.is_none(),
        state_dir: args.state_dir,
        ..Options::default()
    };
    let mut signals = Signals::new()?;
    let emulator = Emulator::start(options).await.map_err(|error| Failure::new(Exit::Failed, chain(&error)))?;
    introduce(&emulator, args.json);
    signals.next().await;
    tokio::select! {
        ended = emulator.stop() => ended.map_err(|error| Failure::new(Exit::Failed, chain(&error))),
        () = signals.next() => Err(Failure::new(Exit::Interrupted, "stopped at once by a second signal")),
    }
}

/// Addresses, credentials and how to use them.
fn introduce(emulator: &Emulator, as_json: bool) {
    let (at, login) = (emulator.addresses(), emulator.account());
    if as_json {
        return out::line(json!({
            "api": at.api, "content": at.content, "notify": at.notify, "www": at.www, "control": at.control,
            "appKey": login.app_key, "appSecret": login.app_secret, "accountId": login.account_id,
            "refreshToken": login.refresh_token, "accessToken": login.access_token,
        }));
    }
    out::line(format_args!(
        "\
emulator listening api={api} content={content} notify={notify} www={www} control={control}

Its account (these open nothing but this emulator):
  app key        {key}
  app secret     {secret}
  account        {account}
  refresh token  {refresh}
  access token   {access}

A connector in front of it:
  dropbox-connector keys generate dropbox-connector.keys
  dropbox-connector serve --allow-insecure-upstream \\
    --dropbox-api-url {api} --dropbox-content-url {content} \\
    --dropbox-notify-url {notify} --dropbox-oauth-url {www}
  DROPBOX_CONNECTOR_APP_SECRET={secret} dropbox-connector parameters create demo --app-key {key}
  DROPBOX_CONNECTOR_REFRESH_TOKEN={refresh} dropbox-connector parameters import demo
  dropbox-connector ls -p demo

Ctrl-C ends it.",
        api = at.api,
        content = at.content,
        notify = at.notify,
        www = at.www,
        control = at.control,
        key = login.app_key,
        secret = login.app_secret,
        account = login.account_id,
        refresh = login.refresh_token,
        access = login.access_token,
    ));
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit codes: 0 done, or nothing to do; 1 the store cannot be used as it is, and why; 64 the configuration cannot be used.

Before a new version is rolled out, with several servers on one PostgreSQL:
  dropbox-connector migrate           (servers of the version before go on meanwhile)
  dropbox-connector migrate --check   (in an init container of those that start with --store-migrate=false)")]
pub struct MigrateArgs {
    /// Change nothing: say whether the tables are up to date and, on PostgreSQL, whether LISTEN hears NOTIFY.
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    overrides: Overrides,
}

pub async fn migrate(args: MigrateArgs) -> Result<()> {
    out::note(app::migrate(&load(&args.overrides)?, args.check).await?);
    Ok(())
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Say what is wrong, by key; exit code 64 if something is.
    Check(Box<ServeArgs>),
    /// Print the settings that hold (token hashes left out), or the defaults with their manual.
    Print(Box<PrintArgs>),
}

#[derive(Debug, clap::Args)]
pub struct PrintArgs {
    /// The defaults file: every key with its meaning.
    #[arg(long)]
    defaults: bool,
    #[command(flatten)]
    overrides: Overrides,
}

pub async fn config(command: ConfigCommand) -> Result<()> {
    match command {
        ConfigCommand::Check(args) => {
            let (config, mut problems) = examine(&args.overrides);
            let keys_named = |problem: &Problem| problem.key == "emulator" || problem.key.starts_with("sealing_key_");
            if !config.emulator
                && !problems.iter().any(keys_named)
                && let Err(text) = keys::check(config.key_source()).await
            {
                problems.push(Problem { key: config.key_source().key().into(), origin: String::new(), text });
            }
            if !problems.iter().any(|problem| problem.key == "parameters_file")
                && let Err(fault) = app::check_parameters_file(&config)
            {
                let told = fault.violations().first();
                let key = told.map_or("parameters_file", |told| &told.field).to_owned();
                let text = told.map_or(fault.message(), |told| &told.description).to_owned();
                problems.push(Problem { key, origin: config.parameters_file.display().to_string(), text });
            }
            unusable(problems)?;
            out::note("the configuration can be used");
        }
        ConfigCommand::Print(args) if args.defaults => out::bytes(config::DEFAULTS.as_bytes()),
        ConfigCommand::Print(args) => out::bytes(load(&args.overrides)?.print().as_bytes()),
    }
    Ok(())
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit codes: 0 it serves, 1 it does not, 6 nobody answers.

Example (Dockerfile):
  HEALTHCHECK CMD [\"dropbox-connector\", \"health\", \"--service\", \"readiness\"]")]
pub struct HealthArgs {
    /// Address of the probe listener.
    #[arg(long, env = "DROPBOX_CONNECTOR_PROBE_LISTEN", default_value = "127.0.0.1:50053", value_name = "ADDR")]
    probe_addr: String,
    /// What is asked for: empty (all of it), liveness, readiness, or a service's full name.
    #[arg(long, default_value = "", value_name = "NAME")]
    service: String,
    /// Patience.
    #[arg(long, default_value = "2", value_name = "SECONDS")]
    timeout: u64,
}

pub async fn health(args: HealthArgs) -> Result<()> {
    let asked = async {
        let mut client = HealthClient::new(channel(&args.probe_addr, "--probe-addr", &TlsArgs::default()).await?);
        let answer = client.check(HealthCheckRequest { service: args.service.clone() }).await?;
        Ok::<_, Failure>(answer.into_inner().status())
    };
    match tokio::time::timeout(Duration::from_secs(args.timeout), asked).await {
        Ok(Ok(ServingStatus::Serving)) => {
            out::line("SERVING");
            Ok(())
        }
        Ok(Ok(status)) => {
            out::line(status.as_str_name());
            Err(Failure::new(Exit::Failed, ""))
        }
        Ok(Err(failure)) => Err(failure),
        Err(_) => Err(Failure::new(Exit::Unavailable, format!("no answer within {} s", args.timeout))),
    }
}
