//! `keys`: the key file that seals secrets and handles. A file is replaced as a whole, so a server never reads half of it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use zeroize::Zeroizing;

use crate::{
    config::Overrides,
    fault::Fault,
    seal::{KeyRing, KeySource},
};

use super::{
    exit::{Exit, Failure, Result},
    local, out,
    server::load,
};

#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a key file with one new key, or add a new key to an existing one.
    #[command(after_help = "\
To change keys beside one server:
  keys generate --add FILE       the new key seals, the old ones open; the server reads the file again by itself
  parameters rotate              seals all secrets with the new key
Beside several, give every server the new key for opening first:
  keys generate --add --last FILE, and copy FILE to each
  keys status                    until each can open it
  keys promote FILE KEY-ID, and copy FILE to each; then parameters rotate
Keep the old keys for 30 days: handles that callers hold are sealed with them.")]
    Generate {
        /// The key file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The file is there: put a new key before the others, so that it seals.
        #[arg(long)]
        add: bool,
        /// With --add: put it behind the others, so that it only opens.
        #[arg(long, requires = "add")]
        last: bool,
    },
    /// List the ids of a key file; the first one seals.
    List {
        /// The key file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Make a key of the file the one that seals.
    Promote {
        /// The key file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Id of the key.
        #[arg(value_name = "KEY-ID")]
        key: String,
    },
    /// Show which server can open which keys, and what is sealed with them. Takes the settings of `serve`.
    Status(Box<StatusArgs>),
}

#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    #[command(flatten)]
    overrides: Overrides,
}

pub async fn run(command: KeysCommand) -> Result<()> {
    match command {
        KeysCommand::Generate { file, add, last } => generate(&file, add, last),
        KeysCommand::List { file } => {
            read(&file)?.key_ids().iter().for_each(out::line);
            Ok(())
        }
        KeysCommand::Promote { file, key } => promote(&file, &key),
        KeysCommand::Status(args) => status(*args).await,
    }
}

fn generate(file: &Path, add: bool, last: bool) -> Result<()> {
    let there = file.exists();
    if there && !add {
        let failure = Failure::new(Exit::Conflict, format!("{} is there already", file.display()));
        return Err(failure.remedy("--add puts a new key before those it has"));
    }
    if !there {
        KeyRing::from_file_or_new(file).map_err(unusable)?;
    } else {
        let (old, lines) = (read(file)?, lines(file)?);
        let id = KeyRing::new_id();
        let line = KeyRing::new_line(&id);
        let (first, second) = if last { (&*lines, &*line) } else { (&*line, &*lines) };
        replace(file, &format!("{}\n{}\n", first.trim_end(), second.trim_end()))?;
        if last {
            out::note(format_args!("{} has the new key {id} for opening", file.display()));
        } else {
            out::note(format_args!("the old keys still open: {}", old.key_ids().join(", ")));
        }
    }
    out::note(format_args!("{} seals with key {}", file.display(), read(file)?.sealing_key_id()));
    Ok(())
}

fn promote(file: &Path, key: &str) -> Result<()> {
    let ids = read(file)?.key_ids();
    if !ids.iter().any(|id| id == key) {
        let failure = Failure::new(Exit::NotFound, format!("{} has no key {key}", file.display()));
        return Err(failure.remedy(format!("it has {}", ids.join(", "))));
    }
    let text = lines(file)?;
    let is_it = |line: &&str| line.split(':').next().is_some_and(|id| id.trim() == key);
    let (chosen, others): (Vec<&str>, Vec<&str>) = text.lines().partition(is_it);
    let text = chosen.into_iter().chain(others).flat_map(|line| [line, "\n"]);
    replace(file, &Zeroizing::new(text.collect::<String>()))?;
    out::note(format_args!("{} seals with key {}", file.display(), read(file)?.sealing_key_id()));
    Ok(())
}

async fn status(args: StatusArgs) -> Result<()> {
    let config = load(&args.overrides)?;
    let (told, keys) =
        crate::app::key_use(&config).await.map_err(|fault| Failure::new(Exit::Failed, fault.to_string()))?;
    let sealing = keys.first().cloned().unwrap_or_default();
    out::line(format_args!("keys here: {} (the first one seals)", keys.join(", ")));
    for (replica, ids) in &told.replicas {
        let lacks = if ids.contains(&sealing) { "" } else { "  LACKS the sealing key" };
        out::line(format_args!("server {replica}: opens {}{lacks}", ids.join(", ")));
    }
    if told.replicas.is_empty() {
        out::line("no server runs on this store");
    }
    for (key, count) in &told.sealed {
        let lost = if keys.contains(key) { "" } else { "  NOT among the keys here" };
        out::line(format_args!("key {key}: {count} secrets{lost}"));
    }
    Ok(())
}

fn read(file: &Path) -> Result<KeyRing> {
    KeyRing::from_file(file).map_err(unusable)
}

fn lines(file: &Path) -> Result<Zeroizing<String>> {
    fs::read_to_string(file).map(Zeroizing::new).map_err(|error| Failure::local(file, &error))
}

fn replace(file: &Path, text: &str) -> Result<()> {
    local::replace(file, text.as_bytes()).map_err(|error| Failure::local(file, &error))
}

fn unusable(fault: Fault) -> Failure {
    Failure::new(Exit::Config, fault.message())
}

/// Whether the keys that a configuration names can be had; what is wrong otherwise.
pub async fn check(source: KeySource) -> Result<(), String> {
    KeyRing::from_source(source).await.map(drop).map_err(|fault| {
        let text = fault.violations().first().map_or(fault.message(), |violation| &violation.description);
        format!("{text}; `dropbox-connector keys generate FILE` makes a key file")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_added_seals_or_opens_and_the_old_ones_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("x.keys");
        let ids = || read(&file).expect("a key file").key_ids();
        generate(&file, false, false).expect("made");
        let before = ids();
        assert_eq!(generate(&file, false, false).map_err(|failure| failure.exit), Err(Exit::Conflict));
        generate(&file, true, false).expect("added");
        assert_eq!(ids()[1..], before);
        let sealing = ids()[0].clone();
        generate(&file, true, true).expect("added for opening");
        assert_eq!((ids().len(), &ids()[0]), (3, &sealing));
        let newest = ids()[2].clone();
        promote(&file, &newest).expect("promoted");
        assert_eq!(ids(), [newest.clone(), sealing, before[0].clone()]);
        promote(&file, &newest).expect("again changes nothing");
        assert_eq!(promote(&file, "nobody").map_err(|failure| failure.exit), Err(Exit::NotFound));
        assert_eq!(ids()[0], newest);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
        }
    }
}
