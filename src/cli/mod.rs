//! The command line: what a person or a container starts. It talks to the server as any client does, over gRPC, and
//! starts `app` for `serve` and `demo`.

mod bundle;
mod client;
mod connect;
mod content_hash;
#[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
mod copies;
mod demo;
mod download;
mod exit;
mod get;
mod items;
mod json;
mod kept;
mod keys;
mod local;
mod network;
mod out;
mod parameters;
mod paths;
mod plan;
mod progress;
mod put;
mod server;
mod tally;
mod upload;
mod watch;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::config::Config;

use self::exit::{CODES, Exit, Failure, Result};

/// A gRPC microservice that gives any backend, in any language, everything Dropbox can do.
#[derive(Debug, Parser)]
#[command(name = "dropbox-connector", version, max_term_width = 100, after_long_help = examples())]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the connector. Prints its addresses once it listens; SIGTERM drains it, a second one stops it at once.
    #[command(after_help = "\
Examples:
  dropbox-connector serve --emulator                 try it without an account
  dropbox-connector keys generate dropbox-connector.keys && dropbox-connector serve
  DROPBOX_CONNECTOR_DATA_LISTEN=0.0.0.0:50051 dropbox-connector serve --auth-mode token --auth-tokens …")]
    Serve(Box<server::ServeArgs>),
    /// Start an emulator of Dropbox in a process of its own.
    Emulator(server::EmulatorArgs),
    /// Show, in one go, what the connector does: on a folder of yours, against an emulated Dropbox.
    Demo(demo::DemoArgs),
    /// Bring the tables of the store up to date, or say whether they are.
    Migrate(Box<server::MigrateArgs>),
    /// Check or print the configuration.
    #[command(subcommand)]
    Config(server::ConfigCommand),
    /// Make the keys that seal secrets and handles.
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Connect a Dropbox account: opens the browser, or takes a code where there is none.
    Connect(connect::ConnectArgs),
    /// Manage application parameters: which Dropbox accounts there are.
    #[command(subcommand)]
    Parameters(parameters::ParametersCommand),
    /// Ask a server how it is: 0 if it serves. For container probes.
    Health(server::HealthArgs),
    /// Upload files and folders.
    Put(put::PutArgs),
    /// Download files and folders.
    Get(get::GetArgs),
    /// List a folder.
    Ls(items::LsArgs),
    /// Delete files and folders.
    Rm(items::RmArgs),
    /// Make folders.
    Mkdir(items::MkdirArgs),
    /// Move or rename a file or folder.
    Mv(items::RelocateArgs),
    /// Copy a file or folder within Dropbox.
    Cp(items::RelocateArgs),
    /// Make, list and revoke links.
    Link(items::LinkArgs),
    /// Show one file or folder.
    Stat(items::StatArgs),
    /// Search names and contents.
    Search(items::SearchArgs),
    /// Say what it would take to bring a folder here and one in Dropbox together.
    Plan(plan::PlanArgs),
    /// Print what changes in a folder, as it happens, and run a command for each event.
    Watch(Box<watch::WatchArgs>),
    /// Show the account behind an application parameter.
    Account(items::AccountArgs),
    /// Print a completion script: `dropbox-connector completions bash > /etc/bash_completion.d/dropbox-connector`.
    Completions { shell: clap_complete::Shell },
    /// Print the version.
    Version,
}

/// The variables of the environment that some command reads.
fn variables() -> Vec<String> {
    fn collect(command: &clap::Command, names: &mut Vec<String>) {
        let read = command.get_arguments().filter_map(|argument| argument.get_env()?.to_str().map(str::to_owned));
        names.extend(read);
        command.get_subcommands().for_each(|command| collect(command, names));
    }
    // Secrets that no flag takes.
    let mut names = vec![bundle::VARIABLE.to_owned(), network::PASSWORD.to_owned()];
    collect(&Cli::command(), &mut names);
    names.sort();
    names.dedup();
    names
}

fn examples() -> String {
    format!(
        "\
Examples:
  dropbox-connector demo                             see everything work, without an account
  dropbox-connector serve --emulator &               then, from another terminal:
  export DROPBOX_CONNECTOR_PARAMETER=demo
  dropbox-connector put -r ./photos /                upload a folder
  dropbox-connector ls -l -r /photos
  dropbox-connector get '/photos/**/*.jpg' ./copies
  dropbox-connector link /photos/cat.jpg

{CODES}"
    )
}

/// Sets up what is logged, as the configuration says. It is the program's, not a library's: `main` gives it.
pub type Logs = fn(&Config) -> Result<(), String>;

/// Parses, runs, and tells how it ended.
pub fn run(logs: Logs) -> ExitCode {
    let cli = Cli::parse();
    #[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
    if matches!(cli.command, Command::Serve(_) | Command::Emulator(_) | Command::Demo(_)) {
        copies::settle();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            out::note(format_args!("error: cannot start: {error}"));
            return ExitCode::from(Exit::Failed as u8);
        }
    };
    let outcome = runtime.block_on(dispatch(cli.command, logs));
    // A read of standard input that nobody waits for must not hold the program.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                out::note(format_args!("error: {failure}"));
            }
            ExitCode::from(failure.exit as u8)
        }
    }
}

async fn dispatch(command: Command, logs: Logs) -> Result<()> {
    match command {
        Command::Serve(args) => Box::pin(server::serve(*args, logs)).await,
        Command::Emulator(args) => Box::pin(server::emulator(args)).await,
        Command::Demo(args) => Box::pin(demo::run(args, logs)).await,
        Command::Migrate(args) => server::migrate(*args).await,
        Command::Config(command) => server::config(command).await,
        Command::Keys(command) => keys::run(command).await,
        Command::Health(args) => server::health(args).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "dropbox-connector", &mut script);
            out::bytes(&script);
            Ok(())
        }
        Command::Version => {
            out::line(format_args!("dropbox-connector {}", env!("CARGO_PKG_VERSION")));
            Ok(())
        }
        client => {
            let stopped = match &client {
                Command::Watch(args) if !args.keeps_its_place() => watch::interrupted(),
                _ => interrupted(),
            };
            tokio::select! {
                outcome = Box::pin(call(client)) => outcome,
                _ = tokio::signal::ctrl_c() => Err(stopped),
            }
        }
    }
}

/// The commands that are clients. What they have begun goes on when they are run again.
async fn call(command: Command) -> Result<()> {
    match command {
        Command::Connect(args) => connect::run(args).await,
        Command::Parameters(command) => parameters::run(command).await,
        Command::Put(args) => put::run(args).await,
        Command::Get(args) => get::run(args).await,
        Command::Ls(args) => items::ls(args).await,
        Command::Rm(args) => items::rm(args).await,
        Command::Mkdir(args) => items::mkdir(args).await,
        Command::Mv(args) => items::relocate(args, items::Relocation::Move).await,
        Command::Cp(args) => items::relocate(args, items::Relocation::Copy).await,
        Command::Link(args) => items::link(args).await,
        Command::Stat(args) => items::stat(args).await,
        Command::Search(args) => items::search(args).await,
        Command::Account(args) => items::account(args).await,
        Command::Plan(args) => Box::pin(plan::run(args)).await,
        Command::Watch(args) => Box::pin(watch::run(*args)).await,
        _ => unreachable!("dispatch takes the others"),
    }
}

fn interrupted() -> Failure {
    Failure::new(Exit::Interrupted, "interrupted").remedy("run the same command again to go on where it stopped")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_variables_of_every_command_are_known() {
        let known = variables();
        for name in ["DATA_LISTEN", "CONFIG", "SERVER", "ADMIN_SERVER", "APP_SECRET", "REFRESH_TOKEN", "CA_FILE"] {
            assert!(known.contains(&format!("DROPBOX_CONNECTOR_{name}")), "{name}");
        }
    }

    #[test]
    fn completions_are_made_for_every_shell() {
        for shell in <clap_complete::Shell as clap::ValueEnum>::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "dropbox-connector", &mut script);
            assert!(String::from_utf8(script).expect("text").contains("dropbox-connector"), "{shell}");
        }
    }

    #[test]
    fn commands_are_taken_as_their_help_shows_them() {
        for line in [
            "put -r ./photos /",
            "put a b c /x/ --jobs 4 --parameter crm --json",
            "get /photos/**/*.jpg ./copies -p demo",
            "get /a",
            "ls -l -r /photos",
            "rm -rf /a /b",
            "link /photos/cat.jpg",
            "health --probe-addr 127.0.0.1:1 --service liveness",
            "parameters create crm --app-key k",
            "parameters create crm --app-key k --proxy http://proxy:3128 --proxy-user me --proxy-password-file f",
            "parameters network crm --proxy none --connect-timeout 5s",
            "parameters rotate",
            "parameters export --to x.sealed --passphrase-file p --store-url sqlite://x.db",
            "parameters export a b --to x.sealed",
            "parameters import --from x.sealed --skip",
            "parameters import crm --refresh-token-file t",
            "keys generate --add --last x.keys",
            "keys promote x.keys k1",
            "keys status",
            "migrate --check --store-url postgres://me@db/x",
            "parameters create crm --shared-app --redirect-uri https://a.example/cb --scope files.content.read --team",
            "parameters disconnect crm",
            "parameters secret crm --app-secret-file s",
            "connect crm",
            "connect crm --no-browser --scope files.content.read --locale de",
            "connect crm --redirect-uri http://localhost:9999 --allow-account-change",
            "config print --defaults",
            "keys generate x.keys",
            "serve --emulator",
            "plan ./photos /photos --direction up --on-conflict local --on-missing delete --json",
            "watch",
            "watch /in --types created,moved --glob *.pdf --state in.token --exec ./work --settle 5s",
            "watch / --from-start --json --count 3",
            "watch /in --checkpoint indexer",
            "demo",
        ] {
            let words = std::iter::once("dropbox-connector").chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_ok(), "{line}");
        }
        for line in [
            "put /",
            "plan ./photos",
            "plan ./photos /photos --direction sideways",
            "ls a b",
            "rm",
            "health --service",
            "parameters import crm",
            "parameters import",
            "parameters import --from x --skip --replace",
            "parameters import crm --from x",
            "parameters export --to x --passphrase hush",
            "keys generate --last x",
            "parameters create crm",
            "watch /in --types renamed",
            "watch /in --snapshot --checkpoint a",
            "connect",
        ] {
            let words = std::iter::once("dropbox-connector").chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_err(), "{line}");
        }
    }
}
