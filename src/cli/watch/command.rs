//! The command of `watch --exec`: looked for before anything is watched, run for one event after the other.

use std::{path::Path, process::Stdio};

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

use crate::{
    api::v1::{self as api, ChangeEvent},
    cli::exit::{Exit, Failure, Result},
};

/// Cut into words.
#[derive(Debug)]
pub(super) struct Command {
    program: String,
    words: Vec<String>,
}

impl Command {
    /// # Errors
    /// A line that is none, or a program that is not there: better told now than at the first event, which may be hours away.
    pub fn new(line: &str) -> Result<Command> {
        let mut words = shlex::split(line).unwrap_or_default().into_iter();
        let Some(program) = words.next() else {
            return Err(Failure::usage("--exec: is empty, or has a quote that does not end"));
        };
        if let Err(why) = look_for(&program) {
            return Err(Failure::usage(format!("--exec {program}: {why}")).remedy(
                "it is looked for here if it has a slash, else in PATH; without a shell: write sh -c '…' if you want one",
            ));
        }
        Ok(Command { program, words: words.collect() })
    }

    /// To its end. `word`: what it is told has happened.
    ///
    /// # Errors
    /// It did not end with 0.
    pub async fn run(&self, word: &str, change: &ChangeEvent, told: &Value) -> Result<()> {
        let program = &self.program;
        let failed = |error: std::io::Error| Failure::new(Exit::Failed, format!("--exec {program}: {error}"));
        let mut child = tokio::process::Command::new(program)
            .args(&self.words)
            .envs(environment(word, change))
            .stdin(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        if let Some(mut input) = child.stdin.take() {
            // A command that does not read its input has ended its side: nothing is wrong with that.
            let _ = input.write_all(format!("{told}\n").as_bytes()).await;
        }
        let ended = child.wait().await.map_err(failed)?;
        match ended.success() {
            true => Ok(()),
            false => Err(Failure::new(Exit::Failed, format!("--exec {program}: {ended}"))
                .remedy("the event comes again with the next run; --state keeps the place")),
        }
    }
}

/// Whether there is a program of this name, as the system will look for it.
fn look_for(program: &str) -> Result<(), &'static str> {
    match which::which(program) {
        Ok(_) => Ok(()),
        // Without PATH the system has places of its own.
        Err(_) if std::env::var_os("PATH").is_none() => Ok(()),
        Err(_) if Path::new(program).components().count() < 2 => Err("there is no such program in PATH"),
        Err(_) if Path::new(program).is_file() => Err("may not be run: `chmod +x` makes it a program"),
        Err(_) => Err("there is no such program"),
    }
}

fn environment(word: &str, change: &ChangeEvent) -> Vec<(&'static str, String)> {
    use api::item::Kind;
    let item = change.item.clone().unwrap_or_default();
    let (id, rev) = match item.kind {
        Some(Kind::File(file)) => (file.id, file.rev),
        Some(Kind::Folder(folder)) => (folder.id, String::new()),
        Some(Kind::Deleted(deleted)) => (deleted.last_id, deleted.last_rev),
        None => Default::default(),
    };
    let kind = match change.item_kind() {
        api::ItemKind::File => "file",
        api::ItemKind::Folder => "folder",
        _ => "",
    };
    // No environment holds NUL, and no path of Dropbox does.
    vec![
        ("EVENT_TYPE", word.to_owned()),
        ("EVENT_PATH", item.path_display),
        ("EVENT_PREVIOUS_PATH", change.previous_path.clone()),
        ("EVENT_KIND", kind.to_owned()),
        ("EVENT_ID", change.event_id.clone()),
        ("EVENT_ITEM_ID", id),
        ("EVENT_REV", rev),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_finds_in_its_environment_what_happened() {
        let folder = api::item::Kind::Folder(api::FolderItem { id: "id:a".into(), ..Default::default() });
        let item = api::Item { path_display: "/in/b".into(), kind: Some(folder), ..Default::default() };
        let moved = ChangeEvent {
            item_kind: api::ItemKind::Folder.into(),
            item: Some(item),
            previous_path: "/in/a".into(),
            ..Default::default()
        };
        let environment = environment("moved", &moved);
        for pair in [("EVENT_TYPE", "moved"), ("EVENT_KIND", "folder"), ("EVENT_ITEM_ID", "id:a")] {
            assert!(environment.contains(&(pair.0, pair.1.into())), "{pair:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_program_that_is_not_there_or_may_not_be_run_is_refused_before_anything_is_watched() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = folder.path().join("text");
        std::fs::write(&text, "no program").expect("written");
        let text = text.to_str().expect("UTF-8");
        for (line, says) in [
            ("", "empty"),
            ("sh 'x", "quote"),
            ("./nosuch -x", "--exec ./nosuch: there is no such program"),
            ("no-such-program-anywhere", "in PATH"),
            (text, "chmod +x"),
            (folder.path().to_str().expect("UTF-8"), "no such program"),
        ] {
            let refused = Command::new(line).expect_err(line).to_string();
            assert!(refused.contains(says), "{refused}");
        }
        let command = Command::new("sh -c 'exit 0'").expect("it is there");
        assert_eq!((command.program.as_str(), command.words), ("sh", vec!["-c".to_owned(), "exit 0".to_owned()]));
    }
}
