//! `parameters export` and `import --from`: application parameters with their secrets, in a file sealed to a passphrase.
//! The passphrase comes from a file, the environment or a prompt, never from the command line.

use std::{
    fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::{
    exit::{Exit, Failure, Result},
    out,
    server::load,
};
use crate::{
    app::{self, Imported, OnConflict},
    config::Overrides,
    fault::{Fault, Reason},
    limits::EXPORT_BYTES_MAX,
    seal,
    secret::Secret,
};

/// Read from the environment, since an argument would stand in every list of processes.
pub const VARIABLE: &str = "DROPBOX_CONNECTOR_PASSPHRASE";

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The passphrase is asked for, unless --passphrase-file or the variable DROPBOX_CONNECTOR_PASSPHRASE gives it.

Example, from SQLite to PostgreSQL:
  dropbox-connector parameters export --to all.sealed
  dropbox-connector parameters import --from all.sealed --store-url postgres://localhost/connector")]
pub struct ExportArgs {
    /// Ids of application parameters; none: all.
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// File that is written; it must not be there.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    #[command(flatten)]
    passphrase: PassphraseArgs,
    #[command(flatten)]
    overrides: Overrides,
}

#[derive(Debug, clap::Args)]
pub struct PassphraseArgs {
    /// File with the passphrase in its first line; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

/// What `parameters import` takes besides a token.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "With --from")]
pub struct BundleArgs {
    /// File made by `parameters export`: all of it is imported, into the store itself.
    #[arg(long, value_name = "FILE", group = "credential", conflicts_with = "id")]
    pub from: Option<PathBuf>,
    /// Ids that are there already are replaced.
    #[arg(long, requires = "from", conflicts_with = "skip")]
    replace: bool,
    /// Ids that are there already are left as they are.
    #[arg(long, requires = "from")]
    skip: bool,
    #[command(flatten)]
    passphrase: PassphraseArgs,
    #[command(flatten)]
    overrides: Overrides,
}

pub async fn export(args: ExportArgs) -> Result<()> {
    let config = load(&args.overrides)?;
    if args.to.exists() {
        return Err(Failure::new(Exit::Conflict, format!("{} is there already", args.to.display())));
    }
    let (plain, count) = app::export(&config, &args.ids).await.map_err(told)?;
    let passphrase = args.passphrase.read(true)?;
    let text = seal::seal_to(&passphrase, &plain).map_err(told)?;
    drop(plain);
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(&args.to).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|error| Failure::local(&args.to, &error))?;
    out::note(format_args!("{count} application parameters with their secrets in {}", args.to.display()));
    Ok(())
}

pub async fn import(args: BundleArgs, from: &Path) -> Result<()> {
    let config = load(&args.overrides)?;
    let wrong = |error| Failure::local(from, &error);
    let mut text = String::new();
    fs::File::open(from).and_then(|file| file.take(EXPORT_BYTES_MAX).read_to_string(&mut text)).map_err(wrong)?;
    let passphrase = args.passphrase.read(false)?;
    let plain = seal::open_with(&passphrase, &text).map_err(told)?;
    let on_conflict = match (args.replace, args.skip) {
        (true, _) => OnConflict::Replace,
        (_, true) => OnConflict::Skip,
        _ => OnConflict::Refuse,
    };
    let imported = app::import(&config, &plain, on_conflict).await.map_err(|fault| {
        let there = fault.reason() == Reason::ApplicationParameterExists;
        let failure = told(fault);
        if there { failure.remedy("--skip keeps them, --replace takes those of the file") } else { failure }
    })?;
    let Imported { created, replaced, skipped } = imported;
    out::line(format_args!("{created} created, {replaced} replaced, {skipped} left as they are"));
    Ok(())
}

fn told(fault: Fault) -> Failure {
    let exit = match fault.reason() {
        Reason::ApplicationParameterExists => Exit::Conflict,
        Reason::ApplicationParameterNotFound => Exit::NotFound,
        Reason::StoreUnavailable => Exit::Unavailable,
        Reason::InvalidField => Exit::Usage,
        _ => Exit::Failed,
    };
    Failure::new(exit, fault.message())
}

impl PassphraseArgs {
    /// `new`: asked for twice where a person types it.
    fn read(&self, new: bool) -> Result<Secret<String>> {
        if let Some(file) = &self.passphrase_file {
            return first_line(file);
        }
        match std::env::var(VARIABLE) {
            Ok(text) if !text.is_empty() => return Ok(Secret::new(text)),
            _ => {}
        }
        let ask = |prompt: &str| {
            let typed = rpassword::prompt_password(prompt).map(Zeroizing::new).map_err(|error| {
                Failure::usage(format!("the passphrase cannot be asked for here: {error}"))
                    .remedy(format!("give --passphrase-file, or set {VARIABLE}"))
            })?;
            Ok::<_, Failure>(Secret::new(typed.to_string()))
        };
        let passphrase = ask("Passphrase: ")?;
        if new && ask("The same again: ")?.reveal() != passphrase.reveal() {
            return Err(Failure::usage("the two passphrases differ"));
        }
        Ok(passphrase)
    }
}

fn first_line(file: &Path) -> Result<Secret<String>> {
    let mut text = Zeroizing::new(String::new());
    let read = match file.as_os_str() == "-" {
        true => std::io::stdin().read_line(&mut text).map(drop),
        false => fs::read_to_string(file).map(|read| text = Zeroizing::new(read)),
    };
    read.map_err(|error| Failure::local(file, &error))?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(Secret::new(line.to_owned())),
        _ => Err(Failure::usage(format!("{} is empty", file.display()))),
    }
}
