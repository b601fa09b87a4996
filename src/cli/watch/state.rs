//! The file of `watch --state`: the place behind all that was dealt with, as one line.

use std::{
    fs::{self, File, TryLockError},
    io::ErrorKind,
    path::Path,
};

use crate::cli::{
    exit::{Exit, Failure, Result},
    local, out,
};

pub(super) const ANEW: &str =
    "without it watch begins with what happens from now on, with --snapshot with all that is there";

/// What is wrong with the place that a server refused for this reason; `None`: the place is not what is wrong.
pub(super) fn wrong(reason: &str) -> Option<&'static str> {
    match reason {
        "HANDLE_MALFORMED" => Some("holds no place of a watch, or not a whole one, or one of another server"),
        "HANDLE_KEY_RETIRED" => Some("holds a place of another server, or of a key that this one no longer has"),
        "RESUME_TOKEN_MISMATCH" => Some(
            "holds the place of a watch of another folder, application parameter or account, or of one with another --flat",
        ),
        _ => None,
    }
}

/// A file that nothing can go on from.
pub(super) fn useless(file: &Path, text: &str) -> Failure {
    Failure::usage(format!("--state {}: {text}", out::plain(&file.display().to_string())))
        .remedy(format!("name the file that belongs to this watch or a new one, put it back, or remove it: {ANEW}"))
}

/// Keeps other watches on this machine off the file as long as the result lives: each of two would leave out what the other dealt
/// with. The file itself is replaced with each place, so the lock is on an empty one beside it.
pub(super) fn hold(file: &Path) -> Result<File> {
    let mut beside = file.as_os_str().to_owned();
    beside.push(".lock");
    let beside = Path::new(&beside);
    let lock = File::create(beside).map_err(|error| Failure::local(beside, &error))?;
    match lock.try_lock() {
        Err(TryLockError::WouldBlock) => {
            let file = out::plain(&file.display().to_string());
            let refused = Failure::new(Exit::Conflict, format!("--state {file}: another watch keeps its place there"));
            Err(refused.remedy("end that one first, or name another file"))
        }
        // Not every file system has locks.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(lock),
    }
}

/// The token that a former run kept; none if there is no file yet. An empty file is no beginning: something lost the place,
/// and beginning now would leave out what happened since.
pub(super) fn read(file: &Path) -> Result<String> {
    match fs::read_to_string(file) {
        Ok(text) if text.trim().is_empty() => Err(useless(file, "the file is empty, so the place is lost")),
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        Err(error) if error.kind() == ErrorKind::InvalidData => Err(useless(file, "holds no place of a watch")),
        Err(error) => Err(Failure::local(file, &error)),
    }
}

pub(super) fn write(file: &Path, token: &str) -> Result<()> {
    local::replace(file, format!("{token}\n").as_bytes()).map_err(|error| Failure::local(file, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_file_is_one_watch_s_at_a_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("in.token");
        let held = hold(&file).expect("nobody has it");
        let refused = hold(&file).expect_err("it is held");
        assert_eq!(refused.exit, Exit::Conflict);
        assert!(refused.to_string().contains("in.token") && refused.to_string().contains("end that one"), "{refused}");
        assert!(!file.exists(), "it is not touched");
        hold(&folder.path().join("other.token")).expect("another file");
        drop(held);
        hold(&file).expect("free again");
        assert_eq!(hold(Path::new("/nowhere/in.token")).expect_err("no folder").exit, Exit::NotFound);
    }

    #[test]
    fn a_state_file_is_written_whole_and_read_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("in.token");
        assert_eq!(read(&file).expect("no state yet"), "");
        write(&file, "t1").expect("written");
        write(&file, "t2").expect("written");
        assert_eq!(read(&file).expect("read"), "t2");
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
        assert!(read(folder.path()).is_err());
        for (bytes, says) in [(&b" \n"[..], "empty"), (b"\xff\xfe\n", "no place of a watch")] {
            fs::write(&file, bytes).expect("written");
            let refused = read(&file).expect_err("the place is lost").to_string();
            assert!(
                refused.contains("in.token") && refused.contains(says) && refused.contains("remove it"),
                "{refused}"
            );
        }
    }
}
